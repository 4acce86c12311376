"""How formulas run is no matter: whole or in blocks, with NumPy or compiled, the steps are the same."""

import copy
import functools
import gc
import importlib.util
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import weakref
from contextlib import nullcontext, suppress
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import minidiff.optimise as mo
from minidiff import compiled, param, params
from minidiff.files import cached
from minidiff.optimise import (
    ADAM,
    ADAGrad,
    AdaMax,
    ClipNorm,
    ClipValue,
    Descent,
    ExpDecay,
    Momentum,
    Optimiser,
    RMSProp,
    Rule,
    WeightDecay,
    apply,
    engine,
    update,
)
from minidiff.optimise import step as step_module
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.engine import ENGINE
from minidiff.optimise.rule import abs2
from minidiff.program import kernel
from minidiff.program.source import Program
from minidiff.schedules import Exp, Scheduler

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="Numba is not installed")
ENGINES = ["numpy", pytest.param("fused", marks=needs_numba)]

RULES = """
    Descent Momentum Nesterov RMSProp ADAM RADAM AdaMax ADAGrad ADADelta AMSGrad NADAM ADAMW OADAM AdaBelief
    ExpDecay InvDecay WeightDecay
"""
OPTIMISERS = {name: getattr(mo, name) for name in RULES.split()} | {
    "ClipValue": lambda: ClipValue(0.5),
    "ClipNorm": lambda: ClipNorm(2.0),
    "composed": lambda: Optimiser(ClipValue(1.5), WeightDecay(0.1), ClipNorm(3.0), ADAM(0.1), ClipNorm(0.5)),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Make blocks of a few elements, and share out small arrays too, so that small tests show large ones."""
    monkeypatch.setattr(step_module, "BLOCK", 256)
    monkeypatch.setattr("minidiff.program.kernel.SHARE", 512)


def trajectory(make, x0, gs, how):
    x, opt = x0.copy(order="K"), make()
    with engine(how):
        for g in gs:
            update(opt, x, g)
    return x


def by_the_definition(make, x0, gs, monkeypatch):
    """Compute whole, as a small array is."""
    with monkeypatch.context() as patch:
        patch.setattr(step_module, "BLOCK", 2**60)
        return trajectory(make, x0, gs, "numpy")


def numbers(rng, shape, dtype):
    z = rng.normal(size=shape) * 10 ** rng.uniform(-2, 2, size=shape)
    if np.dtype(dtype).kind == "c":
        z = z * np.exp(1j * rng.uniform(0, 7, size=shape))
    return z.astype(dtype)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize(("dtype", "rtol"), [("f8", 1e-12), ("f4", 2e-5), ("c16", 1e-12)])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_engines_agree(name, dtype, rtol, how, small_blocks, monkeypatch):
    rng, make = np.random.default_rng(0), OPTIMISERS[name]
    x0, gs = numbers(rng, (17, 9), dtype), numbers(rng, (7, 17, 9), dtype)
    expected = by_the_definition(make, x0, gs, monkeypatch)
    got = trajectory(make, x0, gs, how)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("shape", [(5, 2), (17, 9)])
@pytest.mark.parametrize(("dtype", "other"), [("f4", "f8"), ("f8", "f4"), ("c8", "f8"), ("c16", "c8")])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_gradient_of_another_dtype_counts_as_it_is_in_that_of_the_parameter(
    name, dtype, other, shape, how, small_blocks
):
    rng, make = np.random.default_rng(0), OPTIMISERS[name]
    x0, gs = rng.normal(size=shape).astype(dtype), rng.normal(size=(3, *shape)).astype(other)
    got, expected = (trajectory(make, x0, each, how) for each in (gs, gs.astype(dtype)))
    np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_engines_agree_on_infinity_nan_and_the_ends_of_the_range(name, dtype, how, small_blocks, monkeypatch):
    info = np.finfo(dtype)
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, info.smallest_subnormal, 1.0]
    x0 = np.array([a for a in odd for _ in odd] + [1.0] * 60, dtype)
    g = np.array([b for _ in odd for b in odd] + [1e-3] * 60, dtype)
    if name in ("ClipNorm", "composed"):  # one infinity is enough for a norm
        g[~np.isfinite(g)] = 3.0
        g[7] = np.inf
    gs = [g, -0.5 * g, np.full_like(g, 0.25)]
    expected = by_the_definition(OPTIMISERS[name], x0, gs, monkeypatch)
    got = trajectory(OPTIMISERS[name], x0, gs, how)
    np.testing.assert_allclose(got, expected, rtol={"f8": 1e-12, "f4": 1e-5}[dtype], atol=0)


@pytest.mark.parametrize("how", ENGINES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_engines_agree_for_every_shape_and_layout(how, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 7), max_size=4)))
    layouts = st.sampled_from(["C", "F", "strided", "reversed", "moved"])
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))

    def laid_out(layout):
        if layout in "CF":
            return np.zeros(shape, order=layout)
        if layout == "moved":
            return (
                np.zeros(shape[::-1]).T
                if len(shape) < 3
                else np.moveaxis(np.zeros((shape[1], shape[0], *shape[2:])), 0, 1)
            )
        large = np.zeros((*(2 * n + 1 for n in shape), 1))
        return large[(*(slice(1, None, 2) if layout == "strided" else slice(-1, 0, -2) for _ in shape), 0)]

    x, g = laid_out(data.draw(layouts)), laid_out(data.draw(layouts))
    x = x if isinstance(x, np.ndarray) else np.zeros(())
    g = g if isinstance(g, np.ndarray) else np.zeros(())
    x[...], g[...] = rng.normal(size=shape), rng.normal(size=shape)
    make = OPTIMISERS["composed"]
    with pytest.MonkeyPatch.context() as patch:
        expected = by_the_definition(make, np.array(x), [np.array(g)] * 3, patch)
        patch.setattr(step_module, "BLOCK", data.draw(st.sampled_from([8, 64, 256])))
        opt = make()
        with engine(how):
            for _ in range(3):
                update(opt, x, g)
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("gradient", [lambda x: x, lambda x: x[::-1], lambda x: x.T, lambda x: x[:, ::-1]])
def test_a_gradient_may_lie_in_the_memory_of_its_parameter(gradient, how, small_blocks):
    for opt in (Descent(0.5), ADAM(0.1), Optimiser(ClipNorm(3.0), Momentum())):
        x = np.arange(400.0).reshape(20, 20)
        y, g = x.copy(), gradient(x).copy()
        with engine(how):
            update(opt, x, gradient(x))
            update(opt, y, g)
        state = opt[1].state if isinstance(opt, Optimiser) else opt.state
        assert state[x]["clock"][0] == 1
        mo.reset(opt)
        z = np.arange(400.0).reshape(20, 20)
        update(opt, z, g)
        np.testing.assert_allclose(x, z, rtol=1e-12)


@pytest.mark.parametrize("how", ENGINES)
def test_a_gradient_that_is_the_rules_own_memory_is_read_before_it_is_written(how, small_blocks):
    opt, x = Momentum(0.1), np.ones((20, 20))
    with engine(how):
        update(opt, x, np.arange(400.0).reshape(20, 20))
        v, before = opt.state[x]["v"], x.copy()
        g = v[::-1].copy()
        expected = 0.9 * v - 0.1 * g
        update(opt, x, v[::-1])
    np.testing.assert_allclose(opt.state[x]["v"], expected, rtol=1e-12)
    np.testing.assert_allclose(x, before + expected, rtol=1e-12)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_no_temporary_is_as_large_as_a_large_parameter(how, dtype):
    x, g = np.ones(2_000_000, dtype), np.full(2_000_000, 0.1, dtype)
    opt = Optimiser(ClipValue(1.0), WeightDecay(0.1), ADAM(), WeightDecay(0.1), Descent())
    wider = g.astype("f8")  # to be cast
    with engine(how):
        update(opt, x, g)
        for gradient in (g, wider) if how == "numpy" else (g,):
            tracemalloc.start()
            update(opt, x, gradient)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < x.nbytes / 4


@pytest.mark.parametrize("how", ENGINES)
def test_the_same_steps_give_the_same_bits(how):
    rng = np.random.default_rng(0)
    x0, gs = rng.normal(size=300_000), rng.normal(size=(3, 300_000))
    runs = [trajectory(OPTIMISERS["composed"], x0, gs, how) for _ in range(2)]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("how", ENGINES)
def test_threads_may_update_different_parameters_with_one_optimiser(how, small_blocks):
    opt = Optimiser(ClipNorm(100.0), ADAM(0.1), mo.ExpDecay(1.0, 0.5, 5, 0.0))
    ps = [param(np.linspace(1, 2, 500)) for _ in range(6)]

    def work(p):
        with engine(how):
            for t in range(4):
                update(opt, p, np.full(500, 1.0 + t))

    threads = [threading.Thread(target=work, args=(p,)) for p in ps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Optimiser(ClipNorm(100.0), ADAM(0.1), mo.ExpDecay(1.0, 0.5, 5, 0.0))
    p = param(np.linspace(1, 2, 500))
    for t in range(4):
        update(alone, p, np.full(500, 1.0 + t))
    for q in ps:
        np.testing.assert_allclose(q.value, p.value, rtol=1e-12)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("size", [3, 400])
def test_a_rule_may_set_what_the_rules_after_it_go_by(size, how, small_blocks):
    """As a schedule does. With right bias corrections Adam steps by η while the gradient is constant."""
    adam = ADAM(1.0, epsilon=0.0)

    class Schedule(Rule):
        def coefficients(self, t):
            adam.beta = (0.5, 0.9) if t % 2 else (0.8, 0.99)
            return ()

        @staticmethod
        def formula(x, Δ):
            return Δ

    opt, x = Optimiser(Schedule(), adam), np.zeros(size)
    with engine(how):
        for t in range(1, 6):
            update(opt, x, np.full(size, 3.0))
            np.testing.assert_allclose(x, -t, rtol=1e-12)
    assert adam.state[x]["clock"][1:] == pytest.approx((0.5**3 * 0.8**2, 0.9**3 * 0.99**2))


@pytest.mark.parametrize("how", ENGINES)
def test_an_interrupt_waits_for_the_end_of_a_large_step(how, monkeypatch):
    """The signal comes between two blocks, or as the compiled loop begins."""
    clock, calls = time.perf_counter, []

    def interrupted():
        calls.append(signal.raise_signal(signal.SIGINT))
        return clock()

    opt, x = Momentum(1.0), np.zeros(200_000)
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(step_module, "time", SimpleNamespace(perf_counter=interrupted))
    with engine(how), pytest.raises(KeyboardInterrupt):
        update(opt, x, np.ones(200_000))
    assert calls
    assert signal.getsignal(signal.SIGINT) is before
    np.testing.assert_array_equal(x, -1.0)
    assert opt.state[x]["clock"] == (1,)


def test_an_interrupt_in_the_arithmetic_of_a_small_step_leaves_it_untaken():
    class Interrupting(Rule):
        @staticmethod
        def formula(x, Δ):
            signal.raise_signal(signal.SIGINT)
            return Δ

    opt, x = Optimiser(Momentum(1.0), Interrupting()), np.zeros(3)
    with engine("numpy"), pytest.raises(KeyboardInterrupt):
        update(opt, x, np.ones(3))
    np.testing.assert_array_equal(x, 0.0)
    assert x not in opt[0].state


# Choosing an engine


def test_an_engine_is_chosen_for_a_while_or_from_here_on():
    assert ENGINE.get() == "auto"
    with engine("numpy"):
        assert ENGINE.get() == "numpy"
        engine("auto")
        assert ENGINE.get() == "auto"
    assert ENGINE.get() == "auto"
    chosen = engine("numpy")
    for _ in range(2):
        with chosen:
            assert ENGINE.get() == "numpy"
        assert ENGINE.get() == "auto"
    with pytest.raises(ValueError, match="'torch'"):
        engine("torch")


def test_each_block_of_an_engine_ends_by_itself():
    chosen = engine("numpy")
    for _ in range(2):  # the end of the first round ends what the object has chosen from its making on
        with chosen:
            with engine("auto"):
                with suppress(ZeroDivisionError), chosen, chosen:
                    assert ENGINE.get() == "numpy"
                    raise ZeroDivisionError
                assert ENGINE.get() == "auto"
            with chosen:
                pass
            assert ENGINE.get() == "numpy"
        assert ENGINE.get() == "auto"


def test_without_numba_the_fused_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys.modules[engine.__module__], "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"minidiff\[fast\]"):
        engine("fused")


SCRIPT = """
import sys
import numpy as np
from minidiff.optimise import ADAM, engine, step, update
step.PATIENCE = {patience}
x, opt = np.ones({size}), ADAM()
for _ in range(3):
    update(opt, x, np.ones({size}))
assert ("numba" in sys.modules) is {imported}
"""


@needs_numba
@pytest.mark.parametrize(
    ("size", "patience", "imported"), [(1000, 0, False), (200_000, 60, False), (200_000, 0, True)]
)
def test_numba_is_imported_once_large_steps_have_taken_as_long_as_that_takes(
    size, patience, imported, tmp_path
):
    script = SCRIPT.format(size=size, patience=patience, imported=imported)
    subprocess.run(
        [sys.executable, "-c", script], check=True, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    )
    kept = list((tmp_path / "minidiff").glob("*.py")) if imported else []
    assert len(kept) == imported


@needs_numba
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_run_that_is_compiled_on_the_way_has_the_same_bits(name, dtype, small_blocks, monkeypatch):
    rng, make = np.random.default_rng(0), OPTIMISERS[name]
    x0, gs = numbers(rng, (17, 9), dtype), numbers(rng, (7, 17, 9), dtype)
    expected = trajectory(make, x0, gs, "numpy")
    monkeypatch.setattr(step_module, "PATIENCE", 0.0)
    np.testing.assert_array_equal(trajectory(make, x0, gs, "auto"), expected)


@needs_numba
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "minidiff").write_text("a file, where the folder should be")
    script = SCRIPT.format(size=200_000, patience=0, imported=True)
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True,
                   env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})  # fmt: skip


def test_large_arrays_train_without_numba_too():
    hidden = "import sys; sys.modules['numba'] = None; import importlib.util as u; find = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *a: None if name == 'numba' else find(name, *a)"
    lines = "\n".join(
        line
        for line in SCRIPT.format(size=200_000, patience=0, imported=None).splitlines()
        if "assert" not in line
    )
    subprocess.run([sys.executable, "-W", "error", "-c", f"{hidden}\n{lines}"], check=True)


class Lion(Rule):
    eta: float = 1e-2
    beta: tuple[float, float] = (0.9, 0.99)
    keeps = ("m",)

    def coefficients(self, t):
        return self.eta, *self.beta

    @staticmethod
    def formula(x, Δ, m, η, β1, β2):
        return η * np.sign(β1 * m + (1 - β1) * Δ), β2 * m + (1 - β2) * Δ


class Assorted(Rule):
    """What a formula may consist of."""

    @staticmethod
    def formula(x, Δ):
        a = np.where((Δ > 0) & (x <= 2) | ~(Δ < 1), np.exp(-np.abs(x)), Δ**2 - Δ**3 + Δ**0.5)
        b = np.clip(Δ, -1, 1) + np.where(Δ > 0.5, 2, 0 * Δ) + np.minimum(x, 1) + np.maximum(-np.inf, +Δ)
        return (
            np.where(np.isfinite(a), a, 0.0)
            + b.real
            + b.imag
            + np.conj(b) * np.hypot(x, Δ)
            + 1 / (3 + np.tanh(Δ))
        )


@needs_numba
@pytest.mark.parametrize("rule", [Lion, Assorted])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_rule_of_ones_own_is_compiled_as_well(rule, dtype, small_blocks, monkeypatch):
    rng = np.random.default_rng(0)
    x0, gs = rng.normal(size=(40, 10)).astype(dtype), rng.normal(size=(4, 40, 10)).astype(dtype)
    expected = by_the_definition(rule, x0, gs, monkeypatch)
    got = trajectory(rule, x0, gs, "fused")
    np.testing.assert_allclose(got, expected, rtol={"f8": 1e-12, "f4": 1e-4}[dtype])


FORMULAS = {
    "branches on a value": (lambda x, Δ: Δ if np.all(Δ > 0) or Δ[0] > 0 else -Δ, "elementwise|branch"),
    "is not elementwise": (lambda x, Δ: Δ / (1 + np.sum(np.abs(Δ))), "sum"),
    "takes an array along": (lambda x, Δ: Δ * np.float64(0.5), "float64"),
    "writes into places": (lambda x, Δ: np.multiply(Δ, 2, out=np.empty_like(Δ)), "empty_like|multiply"),
}


@needs_numba
@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_that_cannot_be_compiled_runs_with_numpy_and_one_warning_says_why(name):
    formula, words = FORMULAS[name]
    cls = type(f"Odd{list(FORMULAS).index(name)}", (Rule,), {"formula": staticmethod(formula)})
    x, g = np.ones(100), np.linspace(0.5, 1, 100)
    with engine("fused"):
        with pytest.warns(RuntimeWarning, match=rf"Odd\d.*({words})"):
            update(cls(), x, g)
        update(cls(), np.ones(50_000), np.ones(50_000))  # no further warning, which would be an error here
    np.testing.assert_allclose(x, 1 - formula(None, g))


@needs_numba
def test_what_numba_cannot_compile_runs_with_numpy_and_one_warning_says_why(monkeypatch):
    def compiled(*_):
        raise RuntimeError("no such loop\nand a long story")

    class Unknown(Rule):
        formula = staticmethod(lambda x, Δ: Δ + Δ)

    monkeypatch.setattr("minidiff.program.kernel.compiled", compiled)
    x = np.ones(50_000)
    with engine("fused"):
        with pytest.warns(RuntimeWarning, match="Unknown: runs with NumPy.*no such loop$"):
            update(Unknown(), x, np.ones(50_000))
        update(Unknown(), x, np.ones(50_000))
    np.testing.assert_array_equal(x, -3.0)


@needs_numba
@pytest.mark.parametrize("size", [3, 50_000])
def test_the_warning_of_what_cannot_be_compiled_may_be_an_error_and_moves_nothing(monkeypatch, size):
    def compiled(program, dtype):
        if dtype == np.float32:
            raise RuntimeError("no such loop")
        return before(program, dtype)

    class Unknown(Rule):
        formula = staticmethod(lambda x, Δ: Δ + Δ)

    before = kernel.compiled
    monkeypatch.setattr(kernel, "compiled", compiled)
    x, y, opt = param(np.ones(size)), param(np.ones(size, np.float32)), Unknown()
    with engine("fused"), pytest.raises(RuntimeWarning, match="no such loop"):
        update(opt, [x, y], {p: np.ones(size) for p in (x, y)})
    np.testing.assert_array_equal(x, 1.0)
    np.testing.assert_array_equal(y, 1.0)
    assert x not in opt.state


class Normed(Rule):
    """Not elementwise: it goes by all elements, and by the rows."""

    keeps = ("n",)

    @staticmethod
    def formula(x, Δ, n):
        Δ = Δ - Δ.mean(axis=0)
        return Δ / np.sqrt(np.sum(Δ * Δ)), n + np.max(Δ)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("shape", [(4, 3), (300, 100), (1000, 300)])
@pytest.mark.filterwarnings("ignore:Normed|Momentum:RuntimeWarning")
def test_a_formula_that_is_not_elementwise_sees_whole_arrays(how, shape):
    g = np.random.default_rng(0).normal(size=shape)
    x, y = np.zeros(shape), np.zeros(shape)
    rule, composed = Normed(), Optimiser(Momentum(2.0), Normed(), ClipNorm(0.5))
    centred = g - g.mean(axis=0)
    with engine(how):
        update(rule, x, g)
        update(composed, y, g)
    np.testing.assert_allclose(x, -centred / np.linalg.norm(centred), rtol=1e-12)
    np.testing.assert_allclose(y, 0.5 * x, rtol=1e-12)
    np.testing.assert_allclose(rule.state[x]["n"], centred.max(), rtol=1e-12)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("size", [3, 5000, 50_000])
@pytest.mark.filterwarnings("ignore:.*runs with NumPy:RuntimeWarning")
def test_a_rule_is_asked_for_its_numbers_once_a_step(how, size):
    asked = []

    class Asked(Normed):
        def coefficients(self, t):
            asked.append(t)
            return ()

    opt, x = Optimiser(ClipNorm(1.0), Asked(), ClipNorm(1.0)), np.ones(size)
    with engine(how):
        for _ in range(3):
            update(opt, x, np.arange(1.0, size + 1))
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("size", [3, 50_000])
def test_a_formula_goes_by_what_a_changing_number_is_now(how, size):
    class Shifting(Rule):
        @staticmethod
        def formula(x, Δ):
            return ratio * Δ

    opt, x = Shifting(), np.zeros(size)
    with engine(how):
        for ratio in (1.0, 2.0, 2.0, 0.5):  # noqa: B007 - the formula reads it
            update(opt, x, np.ones(size))
    np.testing.assert_array_equal(x, -5.5)


def test_a_formula_that_reads_a_changing_number_is_written_down_but_once(monkeypatch):
    made = []
    program = step_module.Program
    monkeypatch.setattr(step_module, "Program", lambda *args: made.append(args) or program(*args))

    class Shifting(Rule):
        @staticmethod
        def formula(x, Δ):
            return ratio * Δ

    opt, x = Shifting(), np.zeros(3)
    for ratio in np.linspace(0, 1, 20).tolist():  # noqa: B007 - the formula reads it
        update(opt, x, np.ones(3))
    assert len(made) <= 2  # one that takes the step, one that gives it


@needs_numba
@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
def test_a_complex_zero_over_zero_is_nan_on_either_engine(epsilon):
    g = np.ones(100, complex)
    g[50] = 0
    for rule in (ADAM(epsilon=epsilon), RMSProp(epsilon=epsilon)):
        steps = []
        for how in ("numpy", "fused"):
            with engine(how):
                steps.append(apply(copy.deepcopy(rule), np.ones(100, complex), g))
        np.testing.assert_allclose(*steps, rtol=1e-12)
        assert np.isnan(steps[0][50]) == (epsilon == 0)


@needs_numba
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "formula",
    [
        lambda x, Δ: Δ / x,
        lambda x, Δ: 1 / x + np.reciprocal(-x),
        lambda x, Δ: np.divide(x, x),
        lambda x, Δ: Δ + np.log(x),
        lambda x, Δ: np.sqrt(Δ) / np.sqrt(x),
    ],
)
def test_a_division_by_zero_is_numpys_on_either_engine(formula, dtype):
    numbers = np.array([0.0, -0.0, 1.0, -1.0, np.inf, np.nan], dtype)
    x, Δ = (a.reshape(-1) for a in np.meshgrid(numbers, numbers))
    with np.errstate(all="ignore"):
        expected = formula(x, Δ)
    assert not np.isfinite(expected).all()
    for how in ("numpy", "fused"):
        with engine(how):
            np.testing.assert_array_equal(apply(rule_with(formula), x, Δ), expected)


@needs_numba
def test_arrays_from_a_size_on_are_shared_out_among_threads_each_element_once(monkeypatch):
    from minidiff.program import kernel

    shares = []
    monkeypatch.setattr(kernel, "SHARE", 80)  # ten numbers in double precision
    monkeypatch.setattr(
        kernel, "_pool", lambda: SimpleNamespace(map=lambda f, xs: map(f, shares.append(xs) or xs))
    )
    rule = rule_with(lambda x, Δ: 2 * Δ)
    for size, parts in ((1, []), (39, []), (40, [10] * 4), (45, [10] * 4 + [5])):
        Δ = np.arange(float(size))
        with engine("fused"):
            np.testing.assert_array_equal(apply(rule, np.zeros(size), Δ), 2 * Δ)
        assert [len(share[0]) for xs in shares for share in xs] == parts
        shares.clear()


@needs_numba
def test_what_was_compiled_before_changes_no_bit():
    class Bent(Rule):
        @staticmethod
        def formula(x, Δ):
            return 0.1 * np.tanh(Δ)

    rng = np.random.default_rng(0)

    class Rooted(Rule):
        def coefficients(self, t):
            return (np.sqrt(1 - 0.9**t),)

        @staticmethod
        def formula(x, Δ, c):
            return c * Δ

    for rule, dtype in (
        (Bent(), float),
        (Rooted(), np.float32),
        (AdaMax(), float),
        (ClipValue(0.5), float),
        (ADAGrad(), complex),
        (ADAM(), float),
        (ADAM(), np.float32),
    ):
        g = rng.normal(size=2000).astype(dtype)
        g[::7] = 0
        before = apply(copy.deepcopy(rule), np.ones(2000, dtype), g)
        update(copy.deepcopy(rule), np.ones(100_000, dtype), np.ones(100_000, dtype))
        np.testing.assert_array_equal(apply(copy.deepcopy(rule), np.ones(2000, dtype), g), before)
    g = rng.normal(size=(40, 50)).astype(np.float32).T
    before = apply(ClipNorm(1.0), np.ones_like(g), g)
    update(ClipNorm(1.0), np.ones(100_000, np.float32), np.ones(100_000, np.float32))
    np.testing.assert_array_equal(apply(ClipNorm(1.0), np.ones_like(g), g), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda rule, own: rule,
        lambda rule, own: Optimiser(Descent(0.1), rule),
        lambda rule, own: Scheduler(Exp(0.1, 0.5), rule),
        lambda rule, own: own,
        lambda rule, own: Optimiser(own, Descent(0.1)),
    ],
)
def test_rules_run_in_several_threads_at_once(make):
    class MeetingApply(AbstractOptimiser):
        def apply(self, x, Δ):
            together.wait()
            return Δ

    class Meeting(Rule):
        eta: float = 0.1
        elementwise = False

        @staticmethod
        def formula(x, Δ):
            together.wait()
            return Δ

    def work():
        ps = param(np.ones(2)), param(np.ones(2))
        update(make(Meeting(), MeetingApply()), ps, {p: np.ones(2) for p in ps})
        done.append(1)

    together, done = threading.Barrier(2, timeout=5), []
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2


@needs_numba
def test_a_fork_has_threads_of_its_own():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    script = """
import os, numpy as np
from minidiff.optimise import ADAM, engine, update
engine("fused")
x, opt = np.ones(1_000_000), ADAM()
update(opt, x, x.copy())
child = os.fork()
update(opt, x, x.copy())
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("how", ENGINES)
def test_half_precision_runs_on_either_engine(how):
    x = np.ones(100, "f2")
    with engine(how):
        update(ADAM(0.1), x, np.ones(100))
    np.testing.assert_allclose(x, 0.9, rtol=1e-3)


# --- Formulas rewritten ---------------------------------------------------------------------------------

UNARY = [operator.neg, abs, np.sqrt, np.square, np.exp, np.tanh, np.sign, lambda a: a**2, lambda a: a**-1]
BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    np.maximum,
    np.minimum,
    np.hypot,
    lambda a, b: np.where(a > b, a, b * 2),
    lambda a, b: np.where((a <= b) & ~np.isnan(a), 1.0, b),
    lambda a, b: np.clip(a, -1, 2) + (b > 0.5) * a,
]


@st.composite
def programs(draw):
    """Draw a formula: what each operation does, and to which of the values before it."""
    keeps = draw(st.integers(0, 3))
    values = 2 + keeps + 2  # x, Δ, what is kept, two numbers
    operations = []
    for _ in range(draw(st.integers(1, 12))):
        function = draw(st.sampled_from([*UNARY, *BINARY]))
        count = 1 if function in UNARY else 2
        operations.append(
            (function, draw(st.lists(st.integers(0, values - 1), min_size=count, max_size=count)))
        )
        values += 1
    results = draw(st.lists(st.integers(0, values - 1), min_size=1 + keeps, max_size=1 + keeps))
    return keeps, operations, results


def formula_of(keeps, operations, results):
    """Make the rule whose formula that is; numbers among the results become arrays."""

    def formula(x, Δ, *rest):
        values = [x, Δ, *rest]
        for function, operands in operations:
            values.append(function(*(values[i] for i in operands)))
        out = tuple(values[i] + 0 * Δ if isinstance(values[i], float) else values[i] for i in results)
        return out if keeps else out[0]

    return type(
        "Drawn",
        (Rule,),
        {
            "keeps": tuple("abc"[:keeps]),
            "formula": staticmethod(formula),
            "coefficients": lambda self, t: (0.5 / t, -1.25),
        },
    )


def assert_same_bits(a, b):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a) & ~np.isnan(a), np.signbit(b) & ~np.isnan(b))


def program_of(rule, dtype, numbers, *, taking):
    """Write a rule's formula down for parameters of a dtype."""
    kept = rule.begin(np.zeros(3, dtype))
    turns = [(rule, kept, True, (1,), numbers)]
    return step_module._Formulas(turns, (np.dtype(dtype), taking, False)).program


@given(programs(), st.sampled_from(["f4", "f8"]), st.integers(0, 2**32 - 1))
def test_a_formula_rewritten_gives_the_very_bits_of_the_formula(program, dtype, seed):
    rule = formula_of(*program)()
    rng = np.random.default_rng(seed)
    x, Δ, *kept = (rng.normal(size=(2 + program[0], 3, 4)) * 3).astype(dtype)
    Δ[0, 0] = rng.choice([0.0, -0.0, np.inf, np.nan])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "readings", lambda *_: [])  # it reads `operations`
        rewritten = [program_of(rule, dtype, (0.5, -1.25), taking=taking) for taking in (False, True)]
    if not all(rewritten):
        reject()  # it has to run as it is
    for t in (1, 2, 2):
        numbers = rule.coefficients(t)
        arrays = [x, Δ, *kept]
        before = [a.copy() for a in arrays]
        with np.errstate(all="ignore"):
            try:
                expected = rule.formula(x, Δ, *kept, *numbers)
            except ZeroDivisionError:
                reject()
            step, *new = map(np.copy, expected if kept else (expected,))
            for taking, first in ((True, x - step), (False, step)):
                results = rewritten[taking].run(arrays, numbers)
                for result, value in zip(results, [first, *new], strict=True):
                    assert_same_bits(result, value)
                    assert not any(np.shares_memory(result, a) for a in arrays)
                for a, b in zip(arrays, before, strict=True):
                    np.testing.assert_array_equal(a, b)
                over = [a.copy() for a in arrays]
                places = [over[0] if taking else np.empty_like(x), *over[2:]]
                for result, value in zip(
                    rewritten[taking].run(over, numbers, places), [first, *new], strict=True
                ):
                    assert_same_bits(result, value)
                np.testing.assert_array_equal(over[1], Δ)
        for a, value in zip(kept, new, strict=True):
            a[...] = value


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("name", RULES.split())
def test_every_built_in_formula_is_rewritten(name, dtype):
    rule = OPTIMISERS[name]()
    turn = rule, rule.begin(np.zeros(3, dtype)), True, (1,), rule.coefficients(*rule.tick(*rule.clock))
    for taking in (True, False):
        formulas = step_module._Formulas([turn], (np.dtype(dtype), taking, False))
        assert formulas.program
        assert not formulas._readings  # they stay what they are


ODD = {
    "a condition and a number": lambda x, Δ, t: np.where((Δ > 0) & (t > 1), Δ, 0.5 * Δ),
    "a condition times a number": lambda x, Δ, t: (Δ > 0) * 0.1 * Δ,
    "an imaginary part, unused": lambda x, Δ, t: (Δ.real, Δ.imag)[0] * t,
    "a logical function of numbers": lambda x, Δ, t: np.logical_not(Δ) * 0.5 + Δ,
    "signs as conditions": lambda x, Δ, t: np.where(~np.signbit(Δ * 2), Δ, 2 * Δ),
    "a function of whole numbers": lambda x, Δ, t: np.ldexp(Δ, -1),
    "a function in double precision": lambda x, Δ, t: np.float_power(Δ, 2),
    "a power by a coefficient": lambda x, Δ, t: np.abs(Δ) ** (t / 2),
    "powers": lambda x, Δ, t: Δ**3 + np.power(np.abs(Δ), 0.5) + Δ**-2 + 2**Δ,
    "a remainder": lambda x, Δ, t: Δ % 0.7 + Δ // 0.3,
    "a function of a coefficient": lambda x, Δ, t: np.sqrt(t) * Δ,
    "a large whole number": lambda x, Δ, t: (1 - 1 / 2 ** int(1024 * t)) * Δ,
    "two results": lambda x, Δ, t: np.modf(Δ)[0],
    "no array": lambda x, Δ, t: t,
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", [20, 200])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_formula_runs_as_it_is_written(name, size, dtype, small_blocks):
    class Odd(Rule):
        formula = staticmethod(ODD[name])

        def coefficients(self, t):
            return (t,)

    rule, x, rng = Odd(), np.zeros(size, dtype), np.random.default_rng(0)
    with engine("numpy"):
        for t in (1, 2, 3):
            Δ = rng.normal(size=size).astype(dtype)
            expected = np.broadcast_to(ODD[name](x, Δ, t), x.shape).astype(dtype)
            np.testing.assert_array_equal(mo.apply(rule, x, Δ), expected)


def test_numpys_operations_that_are_not_elementwise_are_not_taken_for_such():
    class Sum(Rule):
        @staticmethod
        def formula(x, Δ):
            return Δ * (Δ @ Δ)

    np.testing.assert_array_equal(mo.apply(Sum(), np.zeros(3), np.array([1.0, 2.0, 3.0])), [14, 28, 42])


def step_of(rule):
    return mo.apply(rule, np.full(3, 1.0), np.ones(3))[0]


def rule_with(formula):
    return type("Outside", (Rule,), {"formula": staticmethod(formula)})()


SCALE = [2.0]
SMALL = 0.5
NUMBER = 2.0


def helper(z):
    return 2.0 * z


def other_helper(z):
    return 3.0 * z


def reads_a_global():
    return rule_with(lambda x, Δ: SCALE[0] * Δ), lambda: SCALE.__setitem__(0, 3.0)


def reads_a_closure():
    scale = 2.0

    def change():
        nonlocal scale
        scale = 3.0

    return rule_with(lambda x, Δ: scale * Δ), change


def reads_a_default():
    scale = [2.0]

    def formula(x, Δ, scale=scale):
        return scale[0] * Δ

    return rule_with(formula), lambda: scale.__setitem__(0, 3.0)


def reads_an_attribute_of_a_function():
    def twice(z):
        return z + z

    twice.scale = 1.0
    return rule_with(lambda x, Δ: twice.scale * twice(Δ)), lambda: setattr(twice, "scale", 1.5)


def calls_a_function_that_is_defined_anew():
    def times(z):
        return 2.0 * z

    def change():
        nonlocal times
        times = other_helper

    return rule_with(lambda x, Δ: times(Δ)), change


def calls_a_function_whose_code_is_replaced():
    def times(z):
        return helper(z)

    rule = rule_with(lambda x, Δ: times(Δ))
    return rule, lambda: setattr(times, "__code__", other_helper.__code__)


def reads_a_global_number():
    return rule_with(lambda x, Δ: NUMBER * Δ), lambda: globals().update(NUMBER=3.0)


@pytest.mark.parametrize("product", [lambda x, Δ: x * Δ, lambda x, Δ: Δ * x])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_factors_keep_their_order_which_shows_in_the_last_bit(product, dtype):
    rng = np.random.default_rng(0)
    x, g = ((rng.normal(size=1000) + 1j * rng.normal(size=1000)).astype(dtype) for _ in range(2))
    assert apply(rule_with(product), x, g).tobytes() == product(x, g).tobytes()


def reads_a_global_number_in_a_function_inside():
    def formula(x, Δ):
        def scaled(z):
            return NUMBER * z

        return scaled(Δ)

    return rule_with(formula), lambda: globals().update(NUMBER=3.0)


def reads_a_number_by_default():
    def formula(x, Δ, scale=2.0):
        return scale * Δ

    return rule_with(formula), lambda: setattr(formula, "__defaults__", (3.0,))


def wraps_a_formula_of_minidiffs():
    @functools.wraps(Descent.formula)
    def formula(x, Δ):
        return SCALE[0] * Descent.formula(x, Δ, 1.0)

    return rule_with(formula), lambda: SCALE.__setitem__(0, 3.0)


def calls_a_function_of_minidiffs_by_a_name_that_changes():
    square = abs2

    def change():
        nonlocal square
        square = other_helper

    return rule_with(lambda x, Δ: square(Δ) + np.where(square(Δ) < 2, 1.0, 0.0) * Δ), change


def catches_whatever_comes():
    def formula(x, Δ):
        try:
            return SCALE[0] * Δ.astype("f8")
        except:  # noqa: E722
            return Δ

    return rule_with(formula), lambda: SCALE.__setitem__(0, 3.0)


def imports_what_it_reads():
    def formula(x, Δ):
        from math import tau

        return tau * Δ

    import math

    return rule_with(formula), lambda: setattr(math, "tau", 1.5 * math.tau)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize(
    "make",
    [
        reads_a_global,
        reads_a_closure,
        reads_a_default,
        reads_a_global_number,
        reads_a_global_number_in_a_function_inside,
        reads_a_number_by_default,
        wraps_a_formula_of_minidiffs,
        calls_a_function_of_minidiffs_by_a_name_that_changes,
        catches_whatever_comes,
        reads_an_attribute_of_a_function,
        calls_a_function_that_is_defined_anew,
        calls_a_function_whose_code_is_replaced,
        imports_what_it_reads,
    ],
)
def test_a_formula_that_reads_more_than_its_arguments_follows_what_it_reads(make, how, monkeypatch):
    import math

    monkeypatch.setattr(math, "tau", 2.0)
    monkeypatch.setitem(globals(), "NUMBER", 2.0)
    SCALE[0] = 2.0
    rule, change = make()
    with engine(how), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it runs with NumPy
        assert step_of(rule) == step_of(rule) == 2.0
        change()
        assert step_of(rule) == step_of(rule) == 3.0


def test_a_formula_may_draw_random_numbers_and_print(capsys):
    random = rule_with(lambda x, Δ: np.random.rand() * Δ)
    assert step_of(random) != step_of(random)
    shown = rule_with(lambda x, Δ: (print(Δ), Δ)[1])
    for _ in range(2):
        step_of(shown)
        assert capsys.readouterr().out == "[1. 1. 1.]\n"


@pytest.mark.parametrize("how", ENGINES)
def test_an_optimiser_of_ones_own_is_freed_with_its_state(how):
    scale = 2.0
    rule = rule_with(lambda x, Δ: scale * Δ)
    with engine(how):
        update(rule, np.ones(3), np.ones(3))
    gone = weakref.ref(rule)
    del rule
    gc.collect()
    assert gone() is None


@needs_numba
def test_a_formula_with_a_constant_and_a_function_is_compiled_without_a_warning():
    rule = rule_with(lambda x, Δ, scale=0.5: scale * SMALL * helper(Δ))
    with engine("fused"):
        assert step_of(rule) == 0.5


def test_a_formula_that_makes_an_array_of_the_gradient_is_called_itself():
    assert step_of(rule_with(lambda x, Δ: Δ / np.asarray(Δ).sum())) == 1 / 3


@pytest.mark.parametrize("how", ENGINES)
def test_a_subclass_may_name_what_is_kept_otherwise(how):
    class Renamed(Momentum):
        keeps = ("velocity",)

    with engine(how):
        renamed, x = Renamed(0.1), np.zeros(2)
        assert step_of(Momentum(0.1)) == step_of(renamed)
        update(renamed, x, np.ones(2))
        np.testing.assert_allclose(renamed.state[x]["velocity"], -0.1)


@pytest.mark.parametrize("size", [3, 5000])
def test_the_step_may_be_the_array_that_was_kept(size, small_blocks):
    rule = type(
        "Late", (Rule,), {"keeps": ("m",), "formula": staticmethod(lambda x, Δ, m: (m, SCALE[0] * Δ))}
    )()
    x = np.zeros(size)
    SCALE[0] = 1.0
    for _ in range(3):
        update(rule, x, np.ones(size))
    np.testing.assert_array_equal(x, -2.0)


@pytest.mark.parametrize("spoil", [lambda v: v.astype(int), lambda v: v.setflags(write=False) or v])
def test_a_large_step_that_cannot_be_taken_moves_nothing(spoil, small_blocks):
    first, second = Momentum(0.1), Momentum(0.1)
    opt, x, g = Optimiser(first, second), np.ones(500), np.ones(500)
    update(opt, x, g)
    second.state[x]["v"] = spoil(second.state[x]["v"])
    before = x.copy(), first.state[x]["v"].copy(), first.state[x]["clock"]
    with engine("numpy"), pytest.raises((TypeError, ValueError)):
        update(opt, x, g)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(first.state[x]["v"], before[1])
    assert first.state[x]["clock"] == before[2]


def test_coefficients_may_come_in_any_sequence_even_the_same_again():
    held = [1.0]
    rule = type(
        "Listed",
        (Rule,),
        {"coefficients": lambda self, t: held, "formula": staticmethod(lambda x, Δ, η: η * Δ)},
    )()
    assert step_of(rule) == 1.0
    held[0] = 3.0
    assert step_of(rule) == 3.0


def test_numbers_of_numpys_keep_their_meaning():
    class PerElement(Rule):
        def coefficients(self, t):
            return (np.arange(3) * t,)

        @staticmethod
        def formula(x, Δ, η):
            return η * Δ

    rule, x = PerElement(), np.zeros(3)
    for _ in range(2):
        update(rule, x, np.ones(3))
    np.testing.assert_array_equal(x, [0, -3, -6])


def test_a_name_of_a_function_or_of_numpy_itself_does_not_keep_a_formula_from_being_rewritten():
    def doubled(z):
        return 2 * np.sqrt(z)

    class Helped(Rule):
        @staticmethod
        def formula(x, Δ):
            return doubled(abs(Δ))

    assert program_of(Helped(), float, (), taking=True)
    assert step_of(Helped()) == 2.0


def test_a_formula_may_ask_for_the_kind_of_its_numbers():
    def squared(z):
        return z.real * z.real + z.imag * z.imag if z.dtype.kind == "c" else z * z

    class Asks(Rule):
        @staticmethod
        def formula(x, Δ):
            return squared(Δ) + x

    for dtype in (np.float64, np.complex128):
        assert program_of(Asks(), dtype, (), taking=False)
        np.testing.assert_array_equal(mo.apply(Asks(), np.zeros(2, dtype), np.full(2, 3, dtype)), [9, 9])


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, Δ: Δ * Δ.size,
        lambda x, Δ: Δ * Δ.shape[0],
        lambda x, Δ: Δ * len(Δ),
        lambda x, Δ: Δ * np.size(Δ),
        lambda x, Δ: Δ * sum(1 for _ in Δ),
        lambda x, Δ: Δ * Δ[0],
        lambda x, Δ: Δ * Δ.max(),
        lambda x, Δ: Δ - x.T,
    ],
)
def test_what_goes_by_more_than_an_element_is_never_rewritten(formula, monkeypatch):
    """Also where it is a function of minidiff's that does so, whose names are not looked at."""
    monkeypatch.setattr(step_module, "readings", lambda *_: [])
    x, Δ = np.arange(4.0), np.arange(1.0, 5.0)
    assert program_of(rule_with(formula), float, (), taking=False) is None
    np.testing.assert_array_equal(apply(rule_with(formula), x, Δ), formula(x, Δ))


def test_what_a_formula_reads_may_become_an_array_or_another_zero():
    scale = 0.0

    class Reads(Rule):
        @staticmethod
        def formula(x, Δ):
            return np.copysign(Δ, scale)

    assert step_of(Reads()) == 1.0
    scale = -0.0
    assert step_of(Reads()) == -1.0
    scale = np.array([2.0, -3.0])
    np.testing.assert_array_equal(mo.apply(Reads(), np.zeros(2), np.ones(2)), [1.0, -1.0])


@pytest.mark.parametrize("spoil", [lambda v: v[:-1], lambda v: v.astype("f4")])
def test_a_large_step_checks_what_it_writes_over_before_it_begins(spoil, small_blocks):
    opt, x = Momentum(0.1), np.ones(500)
    update(opt, x, np.ones(500))
    opt.state[x]["v"] = spoil(opt.state[x]["v"])
    before = x.copy()
    with pytest.raises(TypeError, match="Momentum: what is kept for the parameter cannot be written over"):
        update(opt, x, np.ones(500))
    np.testing.assert_array_equal(x, before)


class Real(Rule):
    def coefficients(self, t):
        return (0.5,)

    @staticmethod
    def formula(x, Δ, η):
        z = Δ * η
        r = z.real
        w = z * z
        return w + r


class Imaginary(Real):
    @staticmethod
    def formula(x, Δ, η):
        z = Δ * η
        r = z.imag
        w = z * z
        return w + r


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("size", [5, 40_000])
@pytest.mark.parametrize(("rule", "part"), [(Real, np.real), (Imaginary, np.imag)])
def test_a_part_of_a_complex_value_is_read_before_the_value_is_overwritten(rule, part, size, how):
    rng = np.random.default_rng(0)
    x0, Δ = numbers(rng, size, "c16"), numbers(rng, size, "c16")
    x = x0.copy()
    with engine(how):
        update(rule(), x, Δ)
    np.testing.assert_allclose(x, x0 - ((0.5 * Δ) ** 2 + part(0.5 * Δ)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_what_is_kept_stays_while_a_part_of_a_part_of_it_is_used(dtype):
    def formula(x, Δ, m):
        part = m.real.real
        new = 2.0 * Δ
        return new + part, new

    rule = type("Parted", (Rule,), {"keeps": ("m",), "formula": staticmethod(formula)})()
    Δ = numbers(np.random.default_rng(0), 40_000, dtype)
    x, m = np.zeros((2, 40_000), dtype)
    y = x.copy()
    for _ in range(2):
        update(rule, x, Δ)
        step, m = formula(y, Δ, m)
        y = y - step
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("shift", [1, -1, 70_000])
@pytest.mark.parametrize("make", [lambda: Descent(0.1), lambda: ADAM(0.1)])
def test_a_gradient_may_lie_across_its_parameter(make, shift, how):
    a = np.cos(np.arange(200_001.0))
    ahead, behind = a[abs(shift) :], a[: -abs(shift)]
    x, Δ = (ahead, behind) if shift > 0 else (behind, ahead)
    y, g, opt = x.copy(), Δ.copy(), make()
    with engine(how):
        update(opt, y, g)
        update(opt, x, Δ)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("how", ENGINES)
def test_a_step_is_told_when_all_elements_have_made_it(how):
    """Threads may share the elements; none may still be at work."""
    behind = []

    class Told(Descent):
        def stepped(self, t):
            behind.append(np.any(x[999::1000] != -t))

    x, g, opt = np.zeros(1_000_000), np.ones(1_000_000), Told(1.0)
    with engine(how):
        for _ in range(20):
            update(opt, x, g)
    assert behind == [False] * 20


class Refuses(Momentum):
    """Raises an error once its step is made."""

    def stepped(self, t):
        self._heard = getattr(self, "_heard", 0) + 1
        raise RuntimeError("heard of it")


@pytest.mark.parametrize("how", ["one by one", "together", "compiled"])
@pytest.mark.parametrize(
    "make",
    [
        lambda rule: rule(0.1),
        lambda rule: Optimiser(rule(0.1), ExpDecay(0.1, 0.5, 1), Momentum(0.1)),
        lambda rule: Optimiser(Momentum(0.1), ClipNorm(1.0), rule(0.1), ADAM(0.1)),
        lambda rule: Scheduler(Exp(0.1, 0.5), rule()),
    ],
)
def test_an_error_of_a_rule_that_hears_of_its_step_leaves_the_step_whole(make, how):
    def run(rule):
        small, large = np.array([1.0, 2.0]), np.linspace(-1, 1, 50_000)
        ps, opt = params(*map(param, (small, large, large.astype("f2"), small * 1j, 3.0))), make(rule)
        step = compiled(lambda: sum(np.sum(abs(p) ** 2) / 2 for p in ps), ps, opt)
        raises = partial(pytest.raises, RuntimeError, match="heard of it") if rule is Refuses else nullcontext
        for _ in range(3):
            if how == "one by one":
                for p in ps:
                    with raises():
                        update(opt, p, p.value)
            else:
                with raises():
                    step() if how == "compiled" else update(opt, ps, {p: p.value for p in ps})
        for refusing in (stage for stage in opt.stages() if type(stage) is Refuses):
            assert refusing._heard == 3 * len(ps)  # of each step once
        kept = [stage.state[p] for stage in opt.stages() for p in ps if p in stage.state]
        return [p.value for p in ps], [[*map(np.asarray, of_one.values())] for of_one in kept]

    np.testing.assert_equal(run(Refuses), run(Momentum))


@pytest.mark.parametrize("size", [100, 50_000])
@pytest.mark.parametrize("opt", [None, "apply", "formula"])
def test_a_step_in_double_precision_is_rounded_before_it_is_subtracted(opt, size):
    class Wide(mo.AbstractOptimiser):
        def apply(self, x, Δ):
            return step

    class WideRule(Rule):
        @staticmethod
        def formula(x, Δ):
            return np.float64(0.1) * Δ.astype("f8")

    rng = np.random.default_rng(0)
    x0, step, Δ = rng.normal(size=size).astype("f4"), rng.normal(size=size), rng.normal(size=size)
    x = x0.copy()
    if opt is None:
        update(x, step)
    elif opt == "apply":
        update(Wide(), x, Δ)
    else:
        step = np.float64(0.1) * Δ.astype("f4").astype("f8")
        update(WideRule(), x, Δ)
    assert np.any(x0 - step.astype("f4") != (x0 - step).astype("f4"))
    np.testing.assert_array_equal(x, x0 - step.astype("f4"))


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("thresh", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (50_000,)])
def test_a_gradient_of_zero_has_the_norm_zero(shape, dtype, thresh, how):
    for opt in (ClipNorm(thresh), Optimiser(Descent(1.0), ClipNorm(thresh), Momentum(1.0))):
        x = np.ones(shape, dtype)
        with engine(how):
            update(opt, x, np.zeros(shape, dtype))
        np.testing.assert_array_equal(x, np.ones(shape))


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("size", [2, 300, 200_000])
def test_a_gradient_that_is_zero_in_long_stretches_is_clipped(size, dtype, how):
    x, g = np.zeros(size, dtype), np.zeros(size, dtype)
    g[-2:] = 3, 4
    with engine(how):
        update(ClipNorm(0.5), x, g)
    np.testing.assert_allclose(x, -g / 10, rtol=1e-3)


@needs_numba
@pytest.mark.parametrize("given", ["XDG_CACHE_HOME", "HOME"])
@pytest.mark.skipif(os.name != "posix", reason="it is about modes of folders")
def test_kernels_are_kept_in_a_folder_of_ones_own_that_is_made_when_needed(given, tmp_path, monkeypatch):
    class Kept(Rule):
        formula = staticmethod((lambda x, Δ: Δ * 3.75) if given == "HOME" else (lambda x, Δ: Δ * 2.75))

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(given, str(tmp_path))
    with engine("fused"):
        update(Kept(), np.ones(3), np.ones(3))
    folder = (tmp_path / ".cache" if given == "HOME" else tmp_path) / "minidiff"
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert [*folder.rglob("*.py")]
    assert [*folder.rglob("*.nbc")]  # Numba's code


@pytest.mark.parametrize("given", [None, "", "relative"])
def test_without_a_home_nothing_is_kept(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows of a home
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cached("x = 1") is None
    assert not [*tmp_path.iterdir()]


@needs_numba
@pytest.mark.parametrize("library", ["numba", "llvmlite"])
def test_each_version_of_the_compiler_keeps_its_kernels_in_files_of_its_own(library, tmp_path, monkeypatch):
    def kept() -> set[str]:
        class Kept(Rule):  # a class anew, because one compiles its formula once
            formula = staticmethod(lambda x, Δ: Δ * 4.75)

        with engine("fused"):
            update(Kept(), np.ones(3), np.ones(3))
        return {path.name for path in tmp_path.rglob("*.py")}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = kept()
    assert kept() == here
    monkeypatch.setattr(f"{library}.__version__", "0.1")
    assert len(kept() - here) == 1


@needs_numba
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702, None])
@pytest.mark.parametrize("which", ["", "__pycache__"])
@pytest.mark.skipif(os.name != "posix", reason="it is about modes of folders")
def test_nothing_is_kept_where_others_can_write(which, mode, tmp_path, monkeypatch):
    class Kept(Rule):
        formula = staticmethod(lambda x, Δ: Δ * 1.375)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "minidiff" / which
    if mode is None:  # a link
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir(parents=True)
        folder.parent.chmod(0o700)
        folder.chmod(mode)
    x = np.ones(3)
    with engine("fused"):
        update(Kept(), x, np.ones(3))
    np.testing.assert_array_equal(x, -0.375)
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


ones = np.ones(1)
NUMBERS_ALONE = {
    "sums": lambda x, Δ, a, b: (a + b) * Δ - (a - b) * x,
    "products": lambda x, Δ, a, b: (a * b) * Δ - (a / b) * x,
    "powers": lambda x, Δ, a, b: (a**b) * Δ + (2**a) * x + a**2 * x,
    "signs": lambda x, Δ, a, b: (-a) * Δ + (+b) * x + abs(-b) * x,
    "comparisons": lambda x, Δ, a, b: (a > b) * Δ + (a < b) * x + (a == b) * x,
    "other comparisons": lambda x, Δ, a, b: (a >= b) * Δ + (a <= b) * x + (a != b) * x,
    "a number as it is": lambda x, Δ, a, b: np.where(Δ > 0, a, b * Δ),
    "infinity and minus zero": lambda x, Δ, a, b: (
        np.where(np.isfinite(Δ), Δ * -0.0, -np.inf) + np.where(Δ > 9, np.inf, x) + a * 0.0
    ),
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", NUMBERS_ALONE)
def test_arithmetic_of_numbers_alone_is_pythons_and_done_when_they_change(name, dtype):
    class Numbers(Rule):
        formula = staticmethod(NUMBERS_ALONE[name])

    rng = np.random.default_rng(0)
    x, Δ = rng.normal(size=(2, 5)).astype(dtype)
    program = program_of(Numbers(), dtype, (0.5, 0.25), taking=False)
    for a, b in [(0.3, 0.7), (0.3, 0.6), (0.6, 0.3), (0.5, 0.5), (2, 3), (2.0, 3.0), (-0.0, 1.0), (0.0, 1.0)]:
        (step,) = program.run([x, Δ], (a, b))
        expected = NUMBERS_ALONE[name](x, Δ, a, b)
        assert step.dtype == dtype
        assert_same_bits(step, expected)


def test_half_precision_overflows_without_a_warning_at_every_size():
    for size in (2, 100_000):
        x = np.zeros(size, "f2")
        for opt in (Descent(1.0), Optimiser(Descent(1.0), ClipNorm(1e30))):
            update(opt, x, np.full(size, 1e6))
            np.testing.assert_array_equal(x, -np.inf)
            x[...] = 0


@needs_numba
@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        (lambda x, Δ: 1.0, "returns what is no array of float64"),
        (lambda x, Δ: Δ > 0, "returns what is no array of float64"),
        (lambda x, Δ: [Δ], "returns what is no array of float64"),
        (lambda x, Δ: ones, "ones, which may be more"),
        (lambda x, Δ: np.add(Δ, Δ, Δ), "writes into an array with np.add"),
        (lambda x, Δ: np.cumsum(Δ), "cumsum"),
        (lambda x, Δ: np.add.accumulate(Δ), "accumulate"),
        (lambda x, Δ: np.matmul(Δ, Δ) * Δ, "np.matmul, which is not elementwise"),
        (lambda x, Δ: np.power(Δ, 2), "np.power, which is not elementwise, or in a way"),
        (lambda x, Δ: -Δ if Δ > 0 else Δ, "branches on a value"),
        (lambda x, Δ: np.add(Δ, 1, casting="safe"), "np.add, which is not elementwise, or in a way"),
        (lambda x, Δ: Δ * [SCALE[0]], "SCALE, which may be more"),
        (lambda x, Δ: Δ * [2.0], r"takes \[2.0\] \(of type list\) into"),
    ],
)
def test_a_warning_says_what_keeps_a_formula_from_being_compiled(formula, reason):
    with engine("fused"), pytest.warns(RuntimeWarning, match=f"Outside: runs with NumPy.*{reason}"):
        apply(rule_with(formula), np.ones(1), np.ones(1))


@needs_numba
def test_a_warning_names_a_function_of_numbers_or_an_error_without_words(monkeypatch):
    class Rooted(Rule):
        coefficients = Real.coefficients
        formula = staticmethod(lambda x, Δ, η: np.sqrt(η) * Δ)

    def compiled(*_):
        raise RuntimeError

    with engine("fused"):
        with pytest.warns(RuntimeWarning, match="uses np.sqrt of a number, which NumPy makes a float64"):
            apply(Rooted(), ones, ones)
        Rooted.formula = staticmethod(lambda x, Δ, η: np.clip(η, 0, 1) * Δ)
        with pytest.warns(RuntimeWarning, match="uses np.clip of a number, which NumPy makes a float64"):
            apply(Rooted(), ones, ones)
        monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
        with pytest.warns(RuntimeWarning, match="Numba is switched off"):
            apply(rule_with(lambda x, Δ: 3 * Δ), ones, ones)
        monkeypatch.setattr("minidiff.program.kernel.compiled", compiled)
        with pytest.warns(RuntimeWarning, match="compiled: RuntimeError$"):
            apply(rule_with(lambda x, Δ: 4 * Δ), ones, ones)


@pytest.mark.parametrize(("formula", "times"), [(lambda x, Δ: 5 * Δ, 3), (lambda x, Δ: np.tanh(Δ), 0)])
def test_a_loop_is_compiled_once_patience_has_run_out_if_it_is_exact(formula, times, monkeypatch):
    """Each large step takes a second by this clock, and patience ends within the third."""
    calls, seconds = [], iter(range(1000))
    monkeypatch.setattr(step_module, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    monkeypatch.setattr(step_module, "PATIENCE", 2.5)
    monkeypatch.setattr("minidiff.program.kernel.compiled", lambda *_: lambda *vectors: calls.append(1))
    rule, x = rule_with(formula), np.zeros(50_000)
    for t in range(1, 7):
        update(rule, x, np.ones(50_000))
        assert len(calls) == (max(t - 3, 0) if times else 0)
    assert len(calls) == times


@needs_numba
@pytest.mark.parametrize(("dtype", "compiled"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("c8", None)])
def test_what_is_compiled_in_which_dtype(dtype, compiled, monkeypatch):
    dtypes = []
    monkeypatch.setattr(
        "minidiff.program.kernel.compiled",
        lambda program, dtype: dtypes.append(dtype) or (lambda *vectors: None),
    )
    with engine("fused"):
        update(rule_with(lambda x, Δ: 6 * Δ), np.ones(3, dtype), np.ones(3, dtype))
    assert dtypes == ([compiled] if compiled else [])


@needs_numba
@pytest.mark.parametrize("name", ["Momentum", "ADAM", "OADAM"])
@pytest.mark.parametrize("taking", [True, False])
def test_a_compiled_loop_gives_the_bits_of_the_program_in_the_homes_of_its_results(name, taking):
    from minidiff.program import kernel

    rule, rng = OPTIMISERS[name](), np.random.default_rng(0)
    numbers = rule.coefficients(*rule.tick(*rule.clock))
    program = program_of(rule, "f8", numbers, taking=taking)
    x, g, *kept = (abs(rng.normal(size=5)) for _ in range(2 + len(rule.keeps)))
    expected = program.run([x, g, *kept], numbers)
    arrays = [x, g, *kept] if taking else [x, g, *kept, np.empty(5)]
    kernel.compiled(program, np.dtype("f8"))(arrays, program.constants(numbers))
    for home, value in zip([x if taking else arrays[-1], *kept], expected, strict=True):
        assert_same_bits(home, value)


SPECIAL = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-40, -1e-40, 0.3, -2.5]


@needs_numba
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_what_counts_as_exact_has_numpys_bits_compiled(dtype):
    from minidiff.program import kernel

    x, g = (a.ravel().astype(dtype) for a in np.meshgrid(SPECIAL, SPECIAL))
    arrays = {"x": np.array([0.3, -1.7, 2.9], dtype), "g": np.array([2.9, -1.7, 0.3], dtype)}
    for f in sorted(kernel._EXACT - {np.where}, key=lambda f: f.__name__):
        is_truth = f(*[arrays["x"]] * f.nin).dtype == bool

        def formula(x, g, f=f, is_truth=is_truth):
            result = f(x) if f.nin == 1 else f(x, g)
            return (np.where(result, x, g) if is_truth else result,)

        program = Program(formula, arrays, ["x"], 0)
        (expected,) = program.run([x.copy(), g], ())
        vectors = [x.copy(), g]
        kernel.compiled(program, np.dtype(dtype))(vectors, program.constants(()))
        assert_same_bits(vectors[0], np.asarray(expected))


@needs_numba
def test_a_compiled_loop_makes_no_array_for_an_element(monkeypatch):
    from minidiff.program import kernel

    monkeypatch.setattr(kernel, "cached", lambda source: None)  # of cached code Numba shows nothing
    formulas = [
        lambda x, g: (x - np.where(np.abs(g) > 1.0, np.sign(g), g),),
        lambda x, g: (x - np.clip(np.maximum(x, g), -1.0, 1.0),),
    ]
    rules = [mo.RADAM(), mo.AdaMax(), mo.ClipValue(0.5), mo.SignDecay()]
    arrays = {"x": np.array([0.3, -1.7, 2.9]), "g": np.array([2.9, -1.7, 0.3])}
    programs = [Program(f, arrays, ["x"], 0) for f in formulas]
    programs += [program_of(r, "f8", r.coefficients(*r.tick(*r.clock)), taking=True) for r in rules]
    for program in programs:
        (text,) = kernel.compiled(program, np.dtype("f8")).args[0].inspect_llvm().values()
        assert "NRT_MemInfo_alloc" not in text


@pytest.mark.parametrize("name", ["Descent", "Momentum", "ADAM", "AdaMax", "ADAGrad"])
def test_a_program_writes_over_what_is_to_be_replaced_and_over_its_temporaries(name):
    rule, n = OPTIMISERS[name](), 100_000
    numbers = rule.coefficients(*rule.tick(*rule.clock))
    program = program_of(rule, "f8", numbers, taking=True)
    x, g, *kept = (np.ones(n) for _ in range(2 + len(rule.keeps)))
    program.run([x, g, *kept], numbers)
    tracemalloc.start()
    results = program.run([x, g, *kept], numbers, [x, *kept])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(result is home for result, home in zip(results, [x, *kept], strict=True))
    assert peak < 0.65 * len(program.operations) * x.nbytes


def test_a_number_of_numpys_is_not_taken_for_a_python_number():
    class Double(Rule):
        def coefficients(self, t):
            return (0.1 if t == 1 else np.float64(0.1),)

        @staticmethod
        def formula(x, Δ, η):
            return η * Δ

    for size in (50, 50_000):
        rule, x, Δ = Double(), np.zeros(size, "f4"), np.linspace(0, 1, size, dtype="f4")
        single, double = np.float32(0.1) * Δ, (np.float64(0.1) * Δ).astype("f4")
        assert np.any(single != double)
        for expected in (single, double):
            np.testing.assert_array_equal(apply(rule, x, Δ), expected)


@needs_numba
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="it is about owners of folders")
def test_nothing_is_kept_in_a_folder_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "minidiff").mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with engine("fused"):
        apply(rule_with(lambda x, Δ: 7 * Δ), ones, ones)
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


def test_a_rule_that_has_two_turns_in_a_step_takes_note_of_both():
    """With a drop at every other step of its own, one of the two turns is always at a drop."""
    decay, x = mo.ExpDecay(1.0, 0.5, 2, 0.0), np.zeros(2)
    opt = Optimiser(decay, ClipNorm(1e9), decay)
    for _ in range(3):
        update(opt, x, np.ones(2))
    assert decay.state[x]["clock"] == (6,)
    assert decay.eta == 0.125


class Apart(Rule):
    keeps = ("m",)

    @staticmethod
    def formula(x, Δ, m):
        return Δ + m, Δ


def test_nothing_has_changed_where_the_second_of_two_large_steps_fails():
    a, b = param(np.ones(300_000)), param(np.ones(300_000))
    opt, grads = Apart(), {a: np.ones(300_000), b: np.ones(300_000)}
    update(opt, [a, b], grads)
    opt.state[b]["m"] = np.zeros(299_999)
    with pytest.raises((TypeError, ValueError)):
        update(opt, [a, b], grads)
    assert (a.value == 0).all()
    assert (b.value == 0).all()


def test_a_formula_that_catches_its_refusal_runs_as_it_is_written():
    def formula(x, Δ):
        with suppress(TypeError):
            Δ[...] = 1
        return Δ * 1

    x = np.zeros(3)
    update(rule_with(formula), x, np.full(3, 5.0))
    np.testing.assert_array_equal(x, -1.0)


@pytest.mark.parametrize("n", [1, 3])
def test_a_formula_that_catches_whatever_is_raised_runs_as_it_is_written(n):
    def formula(x, Δ):
        try:
            if Δ > 0:
                return Δ * 1
        except:  # noqa: E722 - a name of an error would keep it from being written down
            return Δ * 2
        return Δ * 3

    x, Δ = np.zeros(n), np.full(n, 5.0)
    update(rule_with(formula), x, Δ)
    np.testing.assert_array_equal(x, -formula(None, Δ))


def attributed(z):
    return z


attributed.exp = np.square


def test_an_attribute_of_a_function_counts_as_it_is_now(monkeypatch):
    rule, x, Δ = rule_with(lambda x, Δ: attributed.exp(Δ)), np.ones(3), np.full(3, 4.0)
    update(rule, x, Δ)
    monkeypatch.setattr(attributed, "exp", np.sqrt)
    update(rule, x, Δ)
    np.testing.assert_array_equal(x, 1.0 - 16.0 - 2.0)


def test_in_a_composition_too_a_formula_gets_the_array_of_a_parameter():
    def formula(x, Δ):
        assert type(x) is np.ndarray
        return Δ + x

    step = Optimiser(rule_with(formula), Descent(1.0)).apply(param(np.ones(2)), np.ones(2))
    np.testing.assert_array_equal(step, 2.0)
