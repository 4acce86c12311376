"""How optimisers are driven: what moves, what is checked before, whose state it is."""

import copy
import gc
import inspect
import io
import pickle
import re
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
from ctrl_c import pressed_at
from hypothesis import given, settings
from hypothesis import strategies as st

import minidiff.optimise as mo
from minidiff import (
    Grads,
    IdDict,
    Param,
    Params,
    compiled,
    gradient,
    param,
    params,
    save,
    train,
    withgradient,
)
from minidiff.optimise import (
    ADAM,
    ADAMW,
    AbstractOptimiser,
    ClipNorm,
    ClipValue,
    Descent,
    ExpDecay,
    Grouped,
    InvDecay,
    Lookahead,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    Rule,
    WeightDecay,
    apply,
    clip_norm,
    engine,
    reset,
    update,
)
from minidiff.optimise.base import inside
from minidiff.optimise.together import Steps
from minidiff.program.signature import held_by
from minidiff.schedules import Constant, Cos, Exp, Scheduler


class PageMomentum(AbstractOptimiser):
    """The page's own example of a custom optimiser."""

    def __init__(self, eta, rho):
        self.eta, self.rho, self.velocity = eta, rho, IdDict()

    def apply(self, x, Δ):
        v = self.velocity.setdefault(x, np.zeros_like(x))
        v[...] = self.rho * v - self.eta * Δ
        Δ[...] = -v
        return Δ


class SignDescent(Rule):
    eta: float = 0.01
    keeps = ("last",)

    def coefficients(self, t):
        return (self.eta,)

    @staticmethod
    def formula(x, Δ, last, η):
        return η * np.sign(Δ), Δ  # what it keeps is its own argument


# The three forms of update


@pytest.mark.parametrize("make", [param, np.array], ids=["Param", "ndarray"])
def test_update_subtracts_in_place(make):
    x = make([1.0, 2.0])
    values = x.value if make is param else x
    update(x, [0.5, -0.5])
    np.testing.assert_array_equal(values, [0.5, 2.5])


@pytest.mark.parametrize("make", [param, np.array], ids=["Param", "ndarray"])
def test_update_with_an_optimiser_steps_one_or_all(make):
    x, y, z = make([1.0]), make([2.0]), make([3.0])
    opt = Descent(0.5)
    update(opt, x, np.array([1.0]))
    gradients = IdDict([(x, [1.0]), (y, [2.0]), (z, None)])
    update(opt, (p for p in (x, y, z)), gradients)
    assert [float(np.asarray(p)[0]) for p in (x, y, z)] == [0.0, 1.0, 3.0]
    assert opt.state[x]["clock"] == (2,)
    assert z not in opt.state


def test_a_dict_of_params_is_a_mapping_of_gradients():
    W, b = param(np.ones((2, 2))), param(0.5)
    update(Descent(1.0), params(W, b), {W: np.eye(2), b: 0.25})
    np.testing.assert_array_equal(W.value, 1 - np.eye(2))
    assert b.value == 0.25


@pytest.mark.parametrize("opt", [None, ADAM(), PageMomentum(0.1, 0.9)], ids=["none", "Rule", "apply only"])
def test_a_gradient_of_none_leaves_everything_as_it_was(opt):
    x = param([1.0])
    update(*((x,) if opt is None else (opt, x)), None)
    assert x.value == 1.0
    assert opt is None or not len(getattr(opt, "state", getattr(opt, "velocity", ())))


def test_apply_returns_a_fresh_step_and_takes_none():
    for opt in (
        ADAM(),
        PageMomentum(0.1, 0.9),
        SignDescent(),
        Optimiser(),
        Optimiser(PageMomentum(1, 0), ADAM()),
    ):
        x, g = param([1.0, 2.0]), np.array([3.0, -4.0])
        step = apply(opt, x, g)
        step[:] = 99.0
        np.testing.assert_array_equal(x.value, [1.0, 2.0])
        np.testing.assert_array_equal(g, [3.0, -4.0])
        again = apply(opt, x, g)
        assert not np.any(again == 99.0)


def test_update_is_the_parameter_minus_apply():
    for make in (ADAM, lambda: PageMomentum(0.1, 0.9), lambda: Optimiser(WeightDecay(0.1), ADAM())):
        x, y = param([1.0, 2.0]), param([1.0, 2.0])
        a, b = make(), make()
        for g in ([1.0, 2.0], [-3.0, 0.5]):
            update(a, x, g)
            y -= apply(b, y, g)
        np.testing.assert_array_equal(x.value, y.value)


@pytest.mark.parametrize("opt", [Momentum(0.1), PageMomentum(0.1, 0.9), SignDescent(), ClipNorm(1e3),
                                 Optimiser(PageMomentum(0.1, 0.9), Descent())], ids=repr)  # fmt: skip
def test_the_gradients_of_the_caller_are_never_modified(opt):
    x, g = np.ones(3), np.array([1.0, 2.0, 3.0])
    g.flags.writeable = False
    for _ in range(3):
        update(opt, x, g)
    np.testing.assert_array_equal(g, [1.0, 2.0, 3.0])
    if isinstance(opt, SignDescent):
        assert not np.shares_memory(opt.state[x]["last"], g)


@pytest.mark.parametrize("opt", [None, Descent(0.5), ADAM(), PageMomentum(0.5, 0.0)], ids=repr)
def test_an_array_may_be_its_own_gradient(opt):
    for make in (param, np.array):
        x, y = make([2.0, -3.0]), np.array([2.0, -3.0])
        update(*((x,) if opt is None else (opt, x)), x if make is np.array else x.value)
        update(*((y,) if opt is None else (opt, y)), y.copy())
        np.testing.assert_array_equal(np.asarray(x), y)
    with pytest.raises(TypeError, match="is a parameter itself"):
        update(*((param(1.0),) if opt is None else (opt, param(1.0))), param(1.0))


@pytest.mark.parametrize(
    "opt", [ADAM(0.1), PageMomentum(0.1, 0.5), Optimiser(ClipNorm(1), Momentum())], ids=repr
)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_shape_layout_and_dtype_moves_alike(opt, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    dtype = data.draw(st.sampled_from(["f4", "f8", ">f8", "c8", "c16"]))
    layout = data.draw(st.sampled_from(["C", "F", "strided", "reversed"]))
    values = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    g = np.cos(3 * values)

    if layout in "CF":
        x = np.array(values, dtype, order=layout)
    else:
        x = np.zeros(tuple(2 * n + 1 for n in shape), dtype)
        x = x[tuple(slice(1, None, 2) if layout == "strided" else slice(-1, 0, -2) for _ in shape)]
        x = np.zeros((), dtype) if x.ndim == 0 else x
        x[...] = values
    plain = np.array(values, np.dtype(dtype).newbyteorder("="))
    gradient = data.draw(
        st.sampled_from([g, g.tolist() if g.size else g, np.array(g, order="F"), g.astype("f4")])
    )
    mine, theirs = copy.deepcopy(opt), copy.deepcopy(opt)
    for _ in range(2):
        update(mine, x, gradient)
        update(theirs, plain, np.asarray(gradient))
    np.testing.assert_array_equal(x, plain)


def test_a_float64_gradient_is_cast_to_the_float32_parameter():
    for opt in (None, ADAM(), PageMomentum(0.1, 0.5)):
        x = param(np.ones(3, "f4"))
        update(*((x,) if opt is None else (opt, x)), np.full(3, 0.1))
        assert x.value.dtype == "f4"
        if isinstance(opt, PageMomentum):
            assert opt.velocity[x].dtype == "f4"


# What is refused, before anything has moved

x3 = np.ones(3)
REFUSED = {
    "gradient of another shape": (lambda: (ADAM(), np.ones(3), np.ones(2)), ValueError, r"\(2,\).*\(3,\)"),
    "gradient that would broadcast": (lambda: (ADAM(), np.ones(3), np.ones(1)), ValueError, r"\(1,\)"),
    "number for an array": (lambda: (ADAM(), np.ones(3), 1.0), ValueError, r"\(\)"),
    "gradient in the plain form": (lambda: (np.ones(3), np.ones((3, 1))), ValueError, r"\(3, 1\)"),
    "ragged gradient": (lambda: (ADAM(), np.ones(2), [[1.0], 2.0]), ValueError, "gradient"),
    "complex gradient": (lambda: (ADAM(), np.ones(3), 1j * np.ones(3)), TypeError, "complex"),
    "gradient of words": (lambda: (ADAM(), np.ones(2), ["a", "b"]), TypeError, "numbers"),
    "gradient of objects": (lambda: (ADAM(), np.ones(1), np.array([{}])), TypeError, "numbers"),
    "list as parameter": (lambda: (ADAM(), [1.0, 2.0], [1.0, 2.0]), TypeError, r"param\(...\)"),
    "number as parameter": (lambda: (ADAM(), 1.0, 1.0), TypeError, r"param\(...\)"),
    "list in the plain form": (lambda: ([1.0], [1.0]), TypeError, r"param\(...\)"),
    "integer parameter": (lambda: (ADAM(), np.arange(3), np.ones(3)), TypeError, "int64"),
    "object parameter": (lambda: (ADAM(), np.array([1.0], object), np.ones(1)), TypeError, "object"),
    "read-only parameter": (lambda: (ADAM(), np.broadcast_to(1.0, 3), np.ones(3)), ValueError, "read-only"),
    "no optimiser": (lambda: (0.1, np.ones(3), np.ones(3)), TypeError, "optimiser"),
    "class for an optimiser": (lambda: (ADAM, np.ones(3), np.ones(3)), TypeError, r"ADAM\(...\)"),
    "gradients in a list": (lambda: (ADAM(), [x3], [x3]), TypeError, "mapping"),
    "parameters in a dict": (lambda: (ADAM(), {"W": x3}, {}), TypeError, "Params"),
    "a model": (lambda: (ADAM(), object(), {}), TypeError, r"params\(model\)"),
    "models": (lambda: (ADAM(), [object()], {}), TypeError, r"params\(model\)"),
    "words among parameters": (lambda: (ADAM(), ["W"], {}), TypeError, "parameter 0"),
    "a parameter twice": (lambda: (ADAM(), [x3, x3], IdDict([(x3, x3)])), ValueError, "twice"),
    "a gradient missing": (lambda: (ADAM(), [x3], IdDict()), KeyError, r"parameter 0.*\(3,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_plain_words(name):
    arguments, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        update(*arguments())
    np.testing.assert_array_equal(x3, 1.0)


@pytest.mark.parametrize("bad", [np.ones(2), 1j * np.ones(3), "abc", KeyError], ids=str)
def test_one_bad_gradient_among_many_moves_nothing_at_all(bad):
    opt = Optimiser(ExpDecay(1.0, 0.5, 1), ADAM(), PageMomentum(0.1, 0.9))
    ps = [param(np.ones(3)) for _ in range(3)]
    grads = {p: np.ones(3) for p in ps}
    update(opt, ps, grads)
    before = copy.deepcopy([p.value for p in ps]), opt[0].eta, opt[1].state[ps[0]]["clock"]
    m = [opt[1].state[p]["m"].copy() for p in ps]
    v = [opt[2].velocity[p].copy() for p in ps]
    if bad is KeyError:
        del grads[ps[2]]
    else:
        grads[ps[2]] = bad
    with pytest.raises((ValueError, TypeError, KeyError)):
        update(opt, ps, grads)
    np.testing.assert_array_equal([p.value for p in ps], before[0])
    assert (opt[0].eta, opt[1].state[ps[0]]["clock"]) == before[1:]
    np.testing.assert_array_equal([opt[1].state[p]["m"] for p in ps], m)
    np.testing.assert_array_equal([opt[2].velocity[p] for p in ps], v)


class Fragile(AbstractOptimiser):
    """Raises at a parameter of two elements, once it has changed what it keeps."""

    def __init__(self, eta=1.0):
        self.eta, self.seen, self.velocity, self.inner = eta, 0, IdDict(), Momentum(1.0)

    def apply(self, x, Δ):
        self.seen += 1
        self.latest = x.shape
        self.velocity.setdefault(x, np.zeros_like(x))[...] += Δ
        step = self.inner.apply(x, Δ)
        if x.shape == (2,):
            raise ZeroDivisionError("as it happens")
        return self.eta * step


class FragileHolder(AbstractOptimiser):
    """Has another optimiser in a list, a tuple or a dict."""

    def __init__(self, hold):
        self.eta, self.held = 1.0, hold(Momentum(1.0))

    def apply(self, x, Δ):
        (inner,) = self.held.values() if isinstance(self.held, dict) else self.held
        step = inner.apply(x, Δ)
        if x.shape == (2,):
            raise ZeroDivisionError("as it happens")
        return step


class FragileStore(AbstractOptimiser):
    """Has what it keeps and another optimiser somewhere in a container."""

    def __init__(self, hold):
        self.held = hold(IdDict(), Momentum(1.0))

    def apply(self, x, Δ):
        held = [*held_by(self.held, lambda y: () if isinstance(y, AbstractOptimiser) else inside(y))]
        (velocity,) = (y for y in held if isinstance(y, IdDict))
        (inner,) = (y for y in held if isinstance(y, AbstractOptimiser))
        velocity.setdefault(x, np.zeros_like(x))[...] += Δ
        step = inner.apply(x, Δ + velocity[x])
        if x.shape == (2,):
            raise ZeroDivisionError("as it happens")
        return step


class FragileRule(Rule):
    eta: float = 1.0
    keeps = ("m",)

    def coefficients(self, t):
        return (self.eta,)

    @staticmethod
    def formula(x, Δ, m, η):
        if x.shape == (2,):
            raise ZeroDivisionError("as it happens")
        return η * Δ, m + Δ


class FragileHalving(FragileRule):
    """Has other settings after each step."""

    def coefficients(self, t):
        self.eta *= 0.5
        return (self.eta,)


def everything(opt, ps):
    """Return what an optimiser is and keeps, and where the parameters are, to the bit."""
    file = io.BytesIO()
    save(file, Params(ps), opt)
    return file.getvalue()


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("size", [3, 50_000])
@pytest.mark.parametrize(
    "make",
    [
        Fragile,
        FragileRule,
        FragileHalving,
        lambda: FragileHolder(lambda opt: [opt]),
        lambda: FragileHolder(lambda opt: (opt,)),
        lambda: FragileHolder(lambda opt: {"inner": opt}),
        lambda: FragileStore(lambda kept, opt: {"rate": 0.1, "m": kept, "inner": opt}),
        lambda: FragileStore(lambda kept, opt: ["a name", opt, None, kept]),
        lambda: FragileStore(lambda kept, opt: [*range(50), kept, *range(100), opt]),
        lambda: FragileStore(lambda kept, opt: {"rate": {"η": 0.1}, "more": [0.1, {"m": kept}, (1, opt)]}),
        lambda: Optimiser(Momentum(1.0), Fragile()),
        lambda: Optimiser(Fragile(), ADAM(1.0)),
        lambda: Optimiser(ADAM(1.0), ExpDecay(1.0, 0.5, 1, 1e-6), Fragile()),
        lambda: Scheduler(Exp(1.0, 0.5), Fragile()),
        lambda: Scheduler(Exp(1.0, 0.5), FragileRule()),
        lambda: Lookahead(Scheduler(Exp(1.0, 0.5), Optimiser(Fragile(), ADAM()), update=set_last), 2),
    ],
)
def test_an_optimiser_that_raises_says_at_which_parameter_and_nothing_has_changed(make, size, before):
    ps, opt = [param(np.ones(n)) for n in (1, size, 2, 3)], make()
    gs = {p: np.full(p.shape, 0.5) for p in ps}
    for _ in range(before):
        update(opt, ps, gs | {ps[2]: None})
    was = everything(opt, ps)
    with pytest.raises(ZeroDivisionError) as caught:
        update(opt, ps, gs)
    assert everything(opt, ps) == was
    told = "".join(caught.value.__notes__)
    assert re.search(r"parameter 2 of shape \(2,\).* nothing has moved", told)
    for step in (update, apply):
        with pytest.raises(ZeroDivisionError):
            step(opt, ps[2], gs[ps[2]])
        assert everything(opt, ps) == was
    twin, others = make(), [param(np.ones(p.shape)) for p in ps]
    for _ in range(before + 2):
        update(twin, others, dict(zip(others, (gs | {ps[2]: None}).values(), strict=True)))
    for _ in range(2):
        update(opt, ps, gs | {ps[2]: None})
    assert all(np.array_equal(p, q) for p, q in zip(ps, others, strict=True))


@pytest.mark.parametrize(
    ("begin", "change"),
    [
        (lambda: np.zeros(3), lambda kept: np.add(kept, 1.0, out=kept)),
        (lambda: [0.0], lambda kept: kept.append(1.0)),
        (lambda: {"m": [0.0]}, lambda kept: kept["m"].append(1.0)),
        (lambda: np.array([[0.0], None], object), lambda kept: kept[0].append(1.0)),
    ],
    ids=["numbers", "a list", "a list in a dict", "a list in an array"],
)
def test_whatever_an_optimiser_keeps_for_a_parameter_is_put_back_after_an_error(begin, change):
    class Keeping(AbstractOptimiser):
        def __init__(self):
            self.kept = IdDict()

        def apply(self, x, Δ):
            change(self.kept.setdefault(x, begin()))
            return Δ * (1 / (3 - x.size))

    ps, opt = [np.ones(1), np.ones(3)], Keeping()
    update(opt, ps[0], np.ones(1))
    was = repr(opt.kept[ps[0]])
    with pytest.raises(ZeroDivisionError):
        update(opt, ps, IdDict((p, np.ones(p.shape)) for p in ps))
    assert [repr(opt.kept.get(p)) for p in ps] == [was, "None"]


@pytest.mark.parametrize("make", [ADAM, lambda: Optimiser(ADAM(), ExpDecay(1.0, 0.5, 1))])
def test_an_error_that_comes_when_all_steps_are_computed_comes_as_it_is(make, monkeypatch):
    def no_memory(_):
        raise MemoryError("as it happens")

    opt, x, y = make(), np.ones(50_000), np.ones(50_000)
    was = everything(opt, [param(x), param(y)])
    monkeypatch.setattr("minidiff.optimise.step.share_memory", no_memory)
    with pytest.raises(MemoryError, match="as it happens") as caught:
        update(opt, [x, y], IdDict([(x, y), (y, x)]))
    assert caught.value.__notes__ == ["in update(opt, ps, gs); nothing has moved"]
    assert everything(opt, [param(x), param(y)]) == was


def test_parameters_that_lie_in_one_array_apart_move_all_or_none():
    flat = np.ones(5)
    ps = [flat[:3], flat[3:]]
    with pytest.raises(ZeroDivisionError):
        update(Fragile(), ps, IdDict([(p, np.ones(p.shape)) for p in ps]))
    np.testing.assert_array_equal(flat, 1.0)


def set_last(opt, value):
    opt[-1].eta = value


def test_a_parameter_in_no_group_keeps_all_others_where_they_are():
    a, b = param(1.0), param([1.0, 2.0])
    opt = Grouped((params(a), Momentum(1.0)))
    with pytest.raises(ValueError, match=r"shape \(2,\) is in no group"):
        update(opt, params(a, b), {a: 1.0, b: [1.0, 1.0]})
    assert a == 1.0
    assert a not in opt[0].state


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("make", [lambda: ADAM(0.1), lambda: Momentum(0.1)])
@pytest.mark.parametrize("at", [0, 1])
def test_small_and_large_parameters_move_together_or_not_at_all(make, at, is_compiled, monkeypatch):
    monkeypatch.setattr("minidiff.optimise.training.PATIENCE", 0)
    ps, opt = params(param(np.ones(3)), param(np.ones(50_000)), param(1.0)), make()
    loss, done = lambda x: sum(np.sum(p**2) * x for p in ps), []

    def spoilt(grads):
        done.append(True)
        bad = [1j * g if i == at and len(done) > 1 else g for i, g in enumerate(grads.values())]
        return Grads(list(grads.keys()), bad)

    with pytest.raises(TypeError, match=f"gradient of parameter {at} is complex"):
        train(loss, ps, [1.0] * 3, opt, transform=spoilt, compiled=is_compiled)
    assert [opt.state[p]["clock"][0] for p in ps] == [1, 1, 1]
    alone = [param(np.ones(p.shape)) for p in ps]
    update(twin := make(), alone, {p: 2 * np.ones(p.shape) for p in alone})
    assert all(np.array_equal(p, q) for p, q in zip(ps, alone, strict=True)), twin


@pytest.mark.parametrize("size", [3, 50_000])
def test_views_of_one_another_move_one_after_another(size):
    home = np.zeros(size + 1)
    ps, opt = params(Param(home[:-1]), Param(home[1:]), param(0.0)), Descent(1.0)
    update(opt, ps, {p: np.ones(p.shape) for p in ps})
    np.testing.assert_array_equal(home, [-1.0, *[-2.0] * (size - 1), -1.0])
    step = compiled(lambda x: sum(np.sum(p) * x for p in ps), ps, opt)
    step(1.0)
    np.testing.assert_array_equal(home, [-2.0, *[-4.0] * (size - 1), -2.0])
    assert "shares memory" in repr(step)


@pytest.mark.parametrize(
    "step", [update, lambda *given: Steps(given[0], given[1], "ab").take([*given[2].values()])]
)
@pytest.mark.parametrize("sizes", [(3, 3), (50_000, 50_000), (50_000, 1), (1, 50_000)], ids=str)
def test_gradients_that_are_other_parameters_are_read_before_these_change(step, sizes):
    a, b = ps = [param(np.full(n, value)) for n, value in zip(sizes, (1.0, 2.0), strict=True)]
    grads = {a: np.broadcast_to(b.value[:1], a.shape), b: np.broadcast_to(a.value[:1], b.shape)}
    step(Descent(1.0), params(ps), grads)
    np.testing.assert_array_equal(a, -1.0)
    np.testing.assert_array_equal(b, 1.0)


@pytest.mark.parametrize("opt", [Descent(1.0), ADAM(1.0)])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 3), (2, 3)])
def test_gradients_of_other_shapes_are_refused_by_a_step_of_all_parameters_as_by_update(opt, shape):
    ps = params(param(np.ones(3)), param(np.ones(3)))
    for gs in ([np.ones(shape), np.ones(3)], [np.ones(3), np.ones(shape)]):
        with pytest.raises(ValueError, match="they must be equal"):
            Steps(opt, ps, "ab").take(gs)
        np.testing.assert_array_equal(ps.to_vector(), np.ones(6))


@pytest.mark.parametrize("shape", [(), (2, 2)])
@pytest.mark.parametrize(
    ("g", "words"),
    [
        ("abc", "str 'abc', which does not consist of numbers$"),
        ({1}, r"set \{1\}, which does not consist of numbers$"),
        (np.array(None), "dtype object, which does not consist of numbers$"),
        ("sparse", "take its .toarray"),
    ],
)
def test_a_gradient_that_is_no_numbers_is_named_whatever_the_shape(g, words, shape):
    if g == "sparse":
        g = pytest.importorskip("scipy.sparse").csr_matrix(np.eye(2))
    x = np.ones(shape)
    for step in (lambda: update(x, g), lambda: update(ADAM(), x, g), lambda: apply(ADAM(), x, g)):
        with pytest.raises(TypeError, match=f"the gradient is .*{words}"):
            step()
    np.testing.assert_array_equal(x, 1.0)


@pytest.mark.parametrize("size", [3, 50_000])
def test_two_parameters_of_one_array_move_one_after_another(size):
    home = np.zeros(size)
    ps = params(Param(home), Param(home))
    update(Descent(1.0), ps, {p: np.ones(size) for p in ps})
    np.testing.assert_array_equal(home, -2.0)


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (None, TypeError, "return the step"),
        (np.ones(2), ValueError, r"\(2,\)"),
        (1.0, ValueError, r"\(\)"),
        (1j * np.ones(3), TypeError, "complex"),
        ("abc", ValueError, r"\(\)"),
    ],
    ids=str,
)
def test_a_step_that_is_none_is_refused_by_name(returned, error, words):
    class Odd(AbstractOptimiser):
        def apply(self, x, Δ):
            return returned

    x, first = np.ones(3), Momentum()
    for opt in (Odd(), Optimiser(first, Odd())):
        with pytest.raises(error, match=rf"Odd\.apply.*{words}"):
            update(opt, x, x)
    np.testing.assert_array_equal(x, 1.0)
    assert x not in first.state


@pytest.mark.parametrize("made", [np.array, param])
@pytest.mark.parametrize(
    "change", ["x -= Δ", "x[...] = 0", "x *= np.nan", "x[0] = 7; raise TypeError('mine')"]
)
def test_an_apply_that_changes_the_parameter_itself_is_refused_and_nothing_has_moved(change, made):
    class Taking(AbstractOptimiser):
        def apply(self, x, Δ):
            if x.size == 3:
                exec(change)
            return Δ

    start = [1.0, np.inf, -2.0]
    words = "mine" if "raise" in change else r"Taking\.apply changed the parameter: it must leave x as it is"
    ps, first = [made(np.ones(2)), made(start)], Momentum()
    for opt in (Taking(), Optimiser(first, Taking())):
        with pytest.raises(TypeError, match=words):
            update(opt, ps, IdDict((p, np.ones(p.shape)) for p in ps))
        with pytest.raises(TypeError, match=words):
            update(opt, ps[1], np.ones(3))
    np.testing.assert_array_equal(ps[0], 1.0)
    np.testing.assert_array_equal(ps[1], start)
    assert len(first.state) == 0


@pytest.mark.parametrize("made", [np.array, param])
def test_an_apply_that_leaves_a_parameter_of_nan_and_infinity_as_it_is_is_taken(made):
    class Leaving(AbstractOptimiser):
        def apply(self, x, Δ):
            return 2 * Δ

    for opt in (Leaving(), Optimiser(Descent(1.0), Leaving())):
        x = made([1.0, np.nan, -np.inf])
        update(opt, x, np.ones(3))
        np.testing.assert_array_equal(x, [-1.0, np.nan, -np.inf])


@pytest.mark.parametrize("size", [3, 50_000])
@pytest.mark.parametrize(
    "formula",
    [
        lambda x, Δ, m: (Δ, m, m),
        lambda x, Δ, m: (Δ[:2], m),
        lambda x, Δ, m: (Δ, m[:2]),
        lambda x, Δ, m: (1j * Δ, m),
        lambda x, Δ, m: (Δ, 1j * m),
        lambda x, Δ, m: 1 / 0,
    ],
    ids=["too many", "step too short", "kept too short", "complex step", "complex kept", "raises"],
)
def test_a_formula_that_does_not_work_moves_nothing(formula, size):
    class Broken(Rule):
        keeps = ("m",)

    Broken.formula = staticmethod(formula)
    x, first, opt = np.ones(size), Momentum(), Broken()
    with engine("numpy"), pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        update(Optimiser(first, opt), x, x)
    np.testing.assert_array_equal(x, 1.0)
    assert x not in first.state
    assert x not in opt.state


@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind(),
        lambda kind: Optimiser(kind(), Descent(1.0)),
        lambda kind: Scheduler(Constant(0.1), kind(), lambda opt, value: None),
        lambda kind: Grouped((params(), Descent()), rest=kind()),
    ],
    ids=["alone", "composed", "scheduled", "grouped"],
)
@pytest.mark.parametrize(
    "base", [mo.Muon, Optimiser, Grouped, Scheduler, ADAM], ids=lambda base: base.__name__
)
def test_an_apply_of_a_subclass_takes_every_step(base, make):
    class Mine(base):
        def apply(self, x, Δ):
            return np.full(Δ.shape, 3.0)

    given = {Scheduler: (Constant(0.1), ADAM()), Grouped: ((params(), ADAM()),), Optimiser: (ADAM(),)}
    for shape in [(), (2,), (2, 2)]:
        x = np.zeros(shape)
        update(make(lambda: Mine(*given.get(base, ()))), x, np.ones(shape))
        np.testing.assert_array_equal(x, -3.0)


# Settings


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ADAM(-0.1), ValueError, "eta"),
        (lambda: ADAM(np.nan), ValueError, "eta"),
        (lambda: Descent(np.inf), ValueError, "eta"),
        (lambda: Descent("0.1"), TypeError, "eta"),
        (lambda: Descent(True), TypeError, "eta"),
        (lambda: Descent(None), TypeError, "eta"),
        (lambda: Momentum(0.1, 1.0), ValueError, "rho"),
        (lambda: Momentum(0.1, -0.1), ValueError, "rho"),
        (lambda: ADAM(0.1, 0.9), TypeError, "beta"),
        (lambda: ADAM(0.1, "ab"), TypeError, "beta"),
        (lambda: ADAM(0.1, range(2)), TypeError, "beta"),
        (lambda: ADAM(0.1, iter((0.5, 0.5))), TypeError, "beta"),
        (lambda: ADAM(0.1, {0.5, 0.25}), TypeError, "beta"),
        (lambda: ADAM(0.1, np.full((2, 2), 0.5)), TypeError, "beta"),
        (lambda: ADAM(0.1, (0.9,)), ValueError, "beta"),
        (lambda: ADAM(0.1, (0.9, 1.0)), ValueError, r"beta\[1\]"),
        (lambda: ADAM(0.1, (0.9, "x")), TypeError, r"beta\[1\]"),
        (lambda: ADAM(epsilon=-1), ValueError, "epsilon"),
        (lambda: WeightDecay(-1), ValueError, "wd"),
        (lambda: InvDecay(-1), ValueError, "gamma"),
        (lambda: ClipNorm(-1), ValueError, "thresh"),
        (lambda: ClipValue([1.0]), TypeError, "thresh"),
        (lambda: ExpDecay(decay_step=0), ValueError, "decay_step"),
        (lambda: ExpDecay(decay_step=2.5), TypeError, "decay_step"),
        (lambda: ExpDecay(clip=-1.0), ValueError, "clip"),
        (lambda: ExpDecay(start=-1), ValueError, "start"),
        (lambda: ADAM(lr=0.1), TypeError, "lr"),
        (lambda: ADAM(eta=0.1, η=0.1), TypeError, "eta is given twice"),
        (lambda: ADAM(0.1, (0.9, 0.9), 1e-8, 7), TypeError, "arguments"),
        (ClipNorm, TypeError, "thresh"),
        (lambda: Optimiser(ADAM(), 0.1), TypeError, "0.1"),
        (lambda: Optimiser(ADAM), TypeError, "ADAM"),
        (lambda: reset(3), TypeError, "3"),
        (lambda: apply(3, np.ones(1), np.ones(1)), TypeError, "3"),
    ],
)
def test_nonsense_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_settings_are_checked_on_assignment_too_and_stay_as_they_were():
    opt = ADAM(0.1)
    for name, value in [("eta", -1), ("beta", (2, 0)), ("epsilon", "x")]:
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(opt, name, value)
    assert (opt.eta, opt.beta, opt.epsilon) == (0.1, (0.9, 0.999), 1e-8)
    opt.eta, opt.beta = np.float32(0.5), [np.float64(0.5), 0]
    assert (type(opt.eta), opt.eta) == (float, 0.5)
    assert opt.beta == (0.5, 0.0)


@pytest.mark.parametrize(
    ("greek", "plain"),
    [
        (lambda: Descent(η=0.3), Descent(eta=0.3)),
        (lambda: Momentum(η=0.3, ρ=0.5), Momentum(0.3, 0.5)),
        (lambda: ADAM(β=(0.1, 0.2), ε=1e-3), ADAM(beta=(0.1, 0.2), epsilon=1e-3)),
        (lambda: WeightDecay(λ=0.5), WeightDecay(wd=0.5)),
        (lambda: mo.ADAMW(λ=0.5), mo.ADAMW(decay=0.5)),
        (lambda: InvDecay(γ=0.5), InvDecay(gamma=0.5)),
    ],
)
def test_the_greek_names_of_the_page_work_as_keywords(greek, plain):
    assert repr(greek()) == repr(plain)


@pytest.mark.parametrize(
    "opt",
    [
        "Descent(eta=0.1)",
        "ADAM(eta=0.001, beta=(0.9, 0.999))",
        "ADAM(eta=0.001, beta=(0.9, 0.999), epsilon=0.5)",
        "ADAMW(eta=0.001, beta=(0.9, 0.999), decay=0.0)",
        "ADADelta(rho=0.9)",
        "ExpDecay(eta=0.001, decay=0.1, decay_step=1000, clip=0.0001)",
        "ExpDecay(eta=0.001, decay=0.1, decay_step=1000, clip=0.0001, start=5)",
        "ClipNorm(thresh=1.0)",
        "Optimiser()",
        "Optimiser(\n    ClipValue(thresh=1.0),\n    Optimiser(\n        WeightDecay(wd=0.0),\n    ),\n)",
    ],
)
def test_the_repr_is_the_call_that_made_it(opt):
    assert repr(eval(opt, vars(mo))) == opt


def test_the_repr_of_an_optimiser_of_ones_own_shows_its_settings_and_not_its_state():
    assert repr(PageMomentum(0.1, 0.9)) == "PageMomentum(eta=0.1, rho=0.9)"
    for setting in (True, 3, 0.5, "name", (0.9, 0.99), Descent(0.1)):
        assert repr(PageMomentum(setting, 0.9)) == f"PageMomentum(eta={setting!r}, rho=0.9)"


# Composition


def test_a_composition_is_a_list_of_its_members():
    a, b, c = Descent(), ADAM(), ClipValue(1.0)
    opt = Optimiser(a, b)
    opt.append(c)
    assert (len(opt), opt[0], opt[-1], list(opt), b in opt) == (3, a, c, [a, b, c], True)
    assert isinstance(opt[1:], Optimiser)
    assert list(opt[1:]) == [b, c]
    del opt[1]
    opt.insert(0, b)
    opt[2] = Momentum()
    opt[:1] = [c, b]
    assert [type(o).__name__ for o in opt] == ["ClipValue", "ADAM", "Descent", "Momentum"]
    assert Optimiser()  # no member, but an optimiser
    for bad in (lambda: opt.append(0.1), lambda: opt.insert(0, ADAM), lambda: opt.__setitem__(0, None)):
        with pytest.raises(TypeError, match="an optimiser"):
            bad()
    assert len(opt) == 4


def test_a_composition_cannot_contain_itself():
    inner = Optimiser(Descent())
    outer = Optimiser(inner)
    for into, what in [(inner, inner), (inner, outer)]:
        with pytest.raises(ValueError, match="itself"):
            into.append(what)
    assert len(inner) == 1


def test_nested_compositions_are_the_flat_one():
    def members():
        return ClipValue(0.5), WeightDecay(0.1), ADAM(0.1), PageMomentum(1.0, 0.5), InvDecay(0.1)

    a, b, c, d, e = members()
    nested, flat = (
        Optimiser(Optimiser(a, Optimiser(b, c)), Optimiser(), Optimiser(d, e)),
        Optimiser(*members()),
    )
    x, y = np.ones(3), np.ones(3)
    for g in np.random.default_rng(0).normal(size=(4, 3)):
        update(nested, x, g)
        update(flat, y, g)
    np.testing.assert_array_equal(x, y)


def test_an_empty_composition_takes_the_gradient_as_the_step():
    x = np.ones(2)
    update(Optimiser(), x, [0.25, 0.5])
    np.testing.assert_array_equal(x, [0.75, 0.5])


@pytest.mark.parametrize("size", [3, 50_000])
def test_the_same_rule_twice_in_a_composition_takes_two_turns(size):
    m, x, y, g = Momentum(0.5, 0.5), np.ones(size), np.ones(size), np.linspace(-1, 1, size)
    by_hand = Momentum(0.5, 0.5)
    for _ in range(3):
        update(Optimiser(m, Descent(1), m), x, g)
        update(y, apply(by_hand, y, apply(by_hand, y, g)))
    np.testing.assert_allclose(x, y, rtol=1e-14)
    assert m.state[x]["clock"] == (6,)


@pytest.mark.parametrize(
    ("base", "arguments"), [(Optimiser, (Descent(1.0),)), (Scheduler, (Constant(1.0), Descent(1.0)))]
)
def test_an_overridden_apply_of_what_wraps_others_is_used(base, arguments):
    class Twice(base):
        def apply(self, x, Δ):
            return 2 * super().apply(x, Δ)

    x = np.zeros(2)
    update(Optimiser(Twice(*arguments), Descent(0.5)), x, np.ones(2))
    np.testing.assert_array_equal(x, -1)


def test_an_optimiser_of_ones_own_is_as_silent_as_the_others():
    class Plain(AbstractOptimiser):
        def apply(self, x, Δ):
            return Δ

    x = np.zeros(1, np.float32)
    update(Plain(), x, np.array([1e300]))
    assert x == -np.inf


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"keeps": "m"}, 'keeps must be a tuple .*"m"'),
        ({"keeps": (1,)}, "keeps must be a tuple"),
        ({"real": "m"}, "real must be a tuple"),
        ({"formula": lambda x, Δ: Δ}, "@staticmethod"),
    ],
)
def test_a_rule_that_could_never_work_is_refused_where_it_is_written(attributes, words):
    with pytest.raises(TypeError, match=words):
        type("Odd", (Rule,), attributes)


@pytest.mark.parametrize("size", [3, 50_000])
@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"coefficients": lambda self, t: 0.1}, "coefficients must return a tuple .* not 0.1"),
        ({"coefficients": lambda self, t: None}, "coefficients must return a tuple .* not None"),
        ({"formula": staticmethod(lambda x, Δ: (Δ, Δ))}, "must return the step: 1 arrays, not 2"),
        (
            {"formula": staticmethod(lambda x, Δ, η: η * Δ)},
            r"\(x, Δ, η\), but gets 2: .* coefficients\(self, t\)",
        ),
        ({"keeps": ("m",), "formula": staticmethod(lambda x, Δ, m: Δ)}, "the step and m: 2 arrays, not one"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*runs with NumPy:RuntimeWarning")
def test_a_formula_that_gives_something_else_is_told_what_is_missing(attributes, words, size):
    opt, x = type("Odd", (Rule,), attributes)(), np.ones(size)
    with pytest.raises(TypeError, match=words):
        update(opt, x, x.copy())
    assert x not in opt.state
    assert np.all(x == 1)


def test_what_is_advised_for_pytorchs_settings_and_transforms_works():
    W = param(np.ones(3))
    grads = gradient(lambda: np.sum(W**2), params(W))
    assert clip_norm(1.0)(grads).norm() == pytest.approx(1)
    for opt in (
        Optimiser(WeightDecay(0.1), ADAM()),
        ADAMW(decay=0.1),
        Momentum(0.1, 0.9),
        Nesterov(0.1, 0.9),
        Scheduler(Cos(0.1, 0.2, 5), ADAM()),
        Optimiser(ClipNorm(1.0), Scheduler(Cos(0.1, 0.2, 5), ADAM())),
    ):
        update(opt, params(W), grads)
    train(lambda x: np.sum(W**2) * x, params(W), [1.0], ADAM(), transform=clip_norm(1.0))
    with pytest.raises(TypeError, match=r"it is a member, .*; the transform is clip_norm\(1\.0\)"):
        train(lambda x: np.sum(W**2) * x, params(W), [1.0], ADAM(), transform=ClipNorm(1.0))


def test_a_setting_that_no_annotation_declares_is_told_where_to_write_it():
    class Plain(Rule):
        eta = 0.01

    for make in (lambda: Plain(0.1), lambda: Plain(eta=0.1)):
        with pytest.raises(TypeError, match=r"in the class, one is written eta: float = 0\.1"):
            make()

    class Bare(Rule):
        def __init__(self):
            self.eta = 0.1

    with pytest.raises(AttributeError, match="eta: float"):
        Bare()


@pytest.mark.parametrize("size", [3, 50_000])
def test_an_overridden_apply_is_used_also_within_a_composition(size):
    class Halved(ADAM):
        def apply(self, x, Δ):
            return 0.5 * super().apply(x, Δ)

    plain, x = ADAM(), np.ones(size)
    g = np.linspace(-1, 1, size)
    expected = 0.5 * apply(plain, x, g)
    np.testing.assert_array_equal(apply(Halved(), x, g), expected)
    np.testing.assert_array_equal(apply(Optimiser(Descent(1.0), Halved()), x, g), expected)


# Optimisers of one's own


def test_the_page_momentum_is_the_built_in_one():
    mine, built_in, x, y = PageMomentum(0.1, 0.9), Momentum(0.1, 0.9), param(np.ones((2, 3))), np.ones((2, 3))
    for g in np.random.default_rng(0).normal(size=(5, 2, 3)):
        update(mine, x, g)
        update(built_in, y, g)
    np.testing.assert_allclose(x.value, y, rtol=1e-15)
    assert type(mine.velocity[x]) is np.ndarray


def test_a_zero_dimensional_parameter_works_with_every_kind_of_optimiser():
    for opt in (PageMomentum(0.5, 0.0), Descent(0.5), Optimiser(PageMomentum(0.5, 0.0), Descent(1.0))):
        x = param(1.0)
        update(opt, x, 2)
        assert x.value == 0.0
        assert x.shape == ()


def test_a_rule_of_ones_own_composes_checks_its_settings_and_resets():
    opt = Optimiser(SignDescent(0.5), Descent(1.0))
    x = param([1.0, 1.0])
    update(opt, x, [3.0, -2.0])
    np.testing.assert_array_equal(x.value, [0.5, 1.5])
    np.testing.assert_array_equal(opt[0].state[x]["last"], [3.0, -2.0])
    with pytest.raises(ValueError, match="eta"):
        SignDescent(-1.0)
    reset(opt)
    assert not len(opt[0].state)


def test_a_rule_without_a_formula_and_an_optimiser_without_apply_say_what_is_missing():
    for base, missing in [(Rule, "formula"), (AbstractOptimiser, "apply")]:
        with pytest.raises(NotImplementedError, match=missing):
            update(type("Bare", (base,), {})(), np.ones(1), np.ones(1))


# State


def test_state_is_freed_with_its_parameter():
    opt = Optimiser(ADAM(), PageMomentum(0.1, 0.9))
    x, y = param(np.ones(3)), param(np.ones(3))
    update(opt, [x, y], {x: np.ones(3), y: np.ones(3)})
    m = weakref.ref(opt[0].state[x]["m"])
    del x
    gc.collect()
    assert (len(opt[0].state), len(opt[1].velocity)) == (1, 1)
    assert m() is None


def test_steps_are_counted_for_each_parameter_by_itself():
    opt, x, y = ADAM(0.1), np.zeros(1), np.zeros(1)
    for _ in range(5):
        update(opt, x, [1.0])
    update(opt, y, [1.0])
    fresh = ADAM(0.1)
    np.testing.assert_array_equal(y, -apply(fresh, x, [1.0]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ADAM(0.1),
        lambda: PageMomentum(0.1, 0.9),
        lambda: Optimiser(ExpDecay(1.0, 0.5, 2), Optimiser(mo.OADAM(0.1))),
    ],
)
def test_reset_makes_an_optimiser_as_good_as_new(make):
    opt, new, x = make(), make(), np.ones(3)
    gs = np.random.default_rng(0).normal(size=(5, 3))
    for g in gs:
        apply(opt, x, g)
    reset(opt)
    for g in gs:
        np.testing.assert_array_equal(apply(opt, x, g), apply(new, x, g))


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_and_pickles_keep_the_tie_between_parameters_and_their_state(twin):
    model = {"W": param(np.ones((2, 2))), "b": param(np.ones(2))}
    opt = Optimiser(ExpDecay(1.0, 0.5, 3), mo.RADAM(0.1), PageMomentum(0.1, 0.9))
    gs = np.random.default_rng(0).normal(size=(9, 2, 2))

    def train(model, opt, gs):
        for g in gs:
            update(opt, params(model), {model["W"]: g, model["b"]: g[0]})

    train(model, opt, gs[:4])
    other_model, other_opt = twin((model, opt))
    train(model, opt, gs[4:])
    assert not np.array_equal(other_model["W"].value, model["W"].value)
    train(other_model, other_opt, gs[4:])
    np.testing.assert_array_equal(other_model["W"].value, model["W"].value)
    np.testing.assert_array_equal(other_model["b"].value, model["b"].value)
    assert repr(other_opt) == repr(opt)


def test_every_state_consists_of_what_a_checkpoint_can_hold():
    x, g = param(np.ones(2)), np.ones(2)
    for name in mo.__all__:
        cls = getattr(mo, name)
        if isinstance(cls, type) and issubclass(cls, Rule) and cls is not Rule:
            arguments = {"ClipNorm": [1.0], "ClipValue": [1.0], "Project": [abs]}
            opt = cls(*arguments.get(name, ()))
            update(opt, x, g)
            save(io.BytesIO(), params(x), opt)
            for setting, value in vars(opt).items():  # a projection is the program's
                assert isinstance(value, (int, float, tuple, IdDict, AbstractOptimiser)) or setting == "onto"
            for value in opt.state.get(x, {}).values():  # ClipNorm keeps nothing
                assert type(value) in (tuple, np.ndarray)


@pytest.mark.parametrize(
    "make", [ADAM, lambda: ExpDecay(0.1, 0.9, 1), lambda: Optimiser(ClipNorm(1.0), ADAM())]
)
def test_the_same_calls_give_the_same_bits(make):
    runs = []
    for _ in range(2):
        opt, x = make(), np.ones(50_000)
        for g in np.random.default_rng(0).normal(size=(3, 50_000)):
            update(opt, x, g)
        runs.append(x)
    np.testing.assert_array_equal(*runs)


# Every optimiser optimises


FITTING = "Descent Momentum Nesterov RMSProp ADAM RADAM AdaMax ADAGrad AMSGrad NADAM ADAMW OADAM AdaBelief"


@pytest.mark.parametrize("name", FITTING.split())
def test_every_rule_fits_a_linear_map(name):
    """The short form of examples/every_optimiser.py: larger rates, the gradient by hand."""
    rng = np.random.default_rng(0)
    target, w = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    opt = getattr(mo, name)(0.5 if name == "ADAGrad" else 0.02)
    for _ in range(2500):
        x = rng.uniform(size=4)
        update(opt, w, np.outer(2 / 4 * (w - target) @ x, x))
    xs = rng.uniform(size=(4, 1000))
    assert np.mean((w @ xs - target @ xs) ** 2) < 0.01


class WithoutBase:
    def apply(self, x, Δ):
        return Δ


class Own(Optimiser):
    pass


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        (lambda: ADAM(lr=0.1), TypeError, "no setting 'lr': it has eta, beta, epsilon"),
        (lambda: setattr(ADAM(), "etta", 0.1), AttributeError, "'etta': it has eta, beta, epsilon$"),
        (lambda: setattr(Optimiser(ClipNorm(1), ADAM()), "eta", 0.1), AttributeError, r"opt\[1\].eta = 0.1"),
        (lambda: update(params(param(1.0)), {}), TypeError, "lacks the optimiser"),
        (lambda: update(ADAM(), params(param(1.0))), TypeError, "lacks the gradients"),
        (lambda: update(ADAM(), {}), TypeError, "lacks the parameters"),
        (lambda: update(ADAM(), {"W": param(1.0)}, {}), TypeError, "params\\("),
        (lambda: update(ADAM(), [param(1.0)], ([0.0],)), TypeError, "zip"),
        (lambda: update(ADAM(), [param(1.0)], withgradient(np.sum, 1.0)), TypeError, r"\.grad"),
        (lambda: update(ADAM(), param(1.0), {}), TypeError, r"grads\[p\]"),
        (lambda: setattr(Optimiser(ADAM(), ClipNorm(1)), "eta", 0.1), AttributeError, r"opt\[0\].eta = 0.1"),
        (lambda: Optimiser([ADAM()]), TypeError, r"Optimiser\(\*members\)"),
        (lambda: setattr(Own(ClipNorm(1), ADAM()), "eta", 0.1), AttributeError, r"opt\[1\].eta = 0.1"),
        (lambda: setattr(Grouped(rest=ADAM()), "lr", 0.1), AttributeError, r"opt\[0\].lr = 0.1"),
        (
            lambda: setattr(Scheduler(Exp(1.0, 0.5), ADAM()), "rho", 0.1),
            AttributeError,
            r"opt\.opt\.rho = 0.1",
        ),
        (lambda: ADAM().step(), AttributeError, r"update\(opt, θ, gradient\("),
        (lambda: Optimiser(ADAM()).zero_grad(), AttributeError, r"update\(opt, θ, gradient\("),
        (lambda: ADAM().state_dict(), AttributeError, r"save\(path, θ, opt\)"),
        (lambda: ADAM().param_groups, AttributeError, r"opt\.eta .* Grouped"),
        (lambda: ADAM().nothing, AttributeError, "'ADAM' object has no attribute 'nothing'"),
        (lambda: ADAM(params(param(1.0))), TypeError, r"eta must be a number.*update\(opt, ps, grads\)"),
        (lambda: ADAM(param(1.0)), TypeError, r"eta must be a number.*update\(opt, ps, grads\)"),
        (
            lambda: ADAM(weight_decay=0.1),
            TypeError,
            r"eta, beta, epsilon; .*WeightDecay\(0.1\).*ADAMW\(decay",
        ),
        (lambda: Descent(0.1, momentum=0.9), TypeError, r"it has eta; Momentum\(eta, rho\)"),
        (lambda: update(clip_norm(1.0), np.ones(2), np.ones(2)), TypeError, "it is a transform"),
        (
            lambda: update(Exp(0.1, 0.5), np.ones(2), np.ones(2)),
            TypeError,
            r"Scheduler\(schedule, ADAM\(\)\)",
        ),
        (lambda: train(abs, params(), [1.0], Exp(0.1, 0.5)), TypeError, r"Scheduler\(schedule, ADAM\(\)\)"),
        (lambda: Optimiser(clip_norm(1.0), ADAM()), TypeError, r"transform=clip_norm.* member is ClipNorm\("),
        (lambda: clip_norm({}), TypeError, "thresh must be a number"),
        (lambda: clip_norm(Grads([], []), 1.0), TypeError, r"clip_norm\(1\.0\)\(grads\)"),
        (lambda: clip_norm(Grads([], [])), TypeError, r"transform=clip_norm\(1\.0\)"),
        (lambda: RMSProp(centered=True), TypeError, r"epsilon, centred; RMSProp\(centred=True\)"),
        (lambda: Descent(params(param(1.0)), 0.1), TypeError, r"has eta: .*update\(opt, ps, grads\)"),
        (lambda: Momentum(param(1.0), 0.1, 0.9), TypeError, r"has eta, rho: .*update\(opt, ps, grads\)"),
        (lambda: Descent(0.1, 0.1), TypeError, "has eta$"),
        (lambda: ADAM().update({}, None), AttributeError, r"update\(opt, θ, gradient\("),
        (lambda: ADAM().apply_gradients([]), AttributeError, r"update\(opt, θ, gradient\("),
        (lambda: ADAM().init({}), AttributeError, "begins with the first step"),
        (lambda: apply(ADAM(), params(param(1.0)), {}), TypeError, r"update\(opt, ps, grads\) steps several"),
        (lambda: update(ADAM(), [np.ones(2)], {"W": np.ones(2)}), KeyError, "gs goes by names"),
        (lambda: Optimiser(ADAM(), Cos(0.1, 0.2, 5)), TypeError, r"Scheduler\(schedule, ADAM\(\)\)"),
        (lambda: ADAM(Cos(0.1, 0.2, 5)), TypeError, r"eta must be a number.*Scheduler\(schedule, ADAM\(\)\)"),
        (lambda: Optimiser(WithoutBase(), ADAM()), TypeError, "must be an optimiser"),
        (lambda: train(abs, params(), [], WithoutBase()), TypeError, "derives from AbstractOptimiser"),
    ],
)
def test_a_setting_that_is_none_is_refused_and_not_kept_quietly(mistake, error, words):
    with pytest.raises(error, match=words):
        mistake()


def test_a_composition_of_ones_own_may_have_attributes():
    opt = Own(Descent(0.1))
    opt.note = "first"
    assert opt.note == "first"


def test_a_parameter_under_differentiation_is_not_updated():
    W = param(np.ones(3))

    def loss():
        update(W, np.ones(3))
        return np.sum(W**2)

    with pytest.raises(TypeError, match="under differentiation"):
        gradient(loss, params(W))
    assert W.value.tolist() == [1, 1, 1]


def test_a_formula_that_forgets_what_it_keeps_is_refused_at_any_shape():
    class Forgetful(Rule):
        eta: float = 0.1
        keeps = ("m",)

        def coefficients(self, t):
            return (self.eta,)

        @staticmethod
        def formula(x, Δ, m, η):
            return η * Δ

    x = np.zeros(2)
    with pytest.raises(TypeError, match="must return the step and m"):
        update(Forgetful(), x, np.array([1.0, 2.0]))
    assert x.tolist() == [0, 0]


def test_reset_reaches_state_in_containers():
    class Nested(AbstractOptimiser):
        def __init__(self):
            self.state = {"m": IdDict(), "more": [IdDict(), (Momentum(),)]}

        def apply(self, x, Δ):
            self.state["m"][x] = self.state["more"][0][x] = 1
            return apply(self.state["more"][1][0], x, Δ)

    opt, x = Nested(), np.zeros(1)
    update(opt, x, [1.0])
    reset(opt)
    assert [len(opt.state["m"]), len(opt.state["more"][0]), len(opt.state["more"][1][0].state)] == [0, 0, 0]


def test_an_interrupt_of_a_reset_leaves_all_members_as_before_or_after():
    for moment in range(1, 10**4):
        opt, x = Optimiser(Momentum(), Grouped(rest=Optimiser(ADAM(), Nesterov()))), np.zeros(1)
        update(opt, x, [1.0])
        members = [opt[0], *opt[1][0]]
        try:
            with pressed_at(
                moment, "optimise/base.py", "update.py", "grouped.py", "iddict.py", "interrupts.py"
            ):
                reset(opt)
        except KeyboardInterrupt:
            assert len({len(member.state) for member in members}) == 1
        else:
            break
    assert moment > 20
    assert [len(member.state) for member in members] == [0, 0, 0]


def test_an_interrupt_of_setting_a_rate_that_decays_leaves_it_and_what_a_reset_returns_to_alike():
    for moment in range(1, 10**3):
        opt = ExpDecay(1.0)
        try:
            with pressed_at(moment, "decays.py", "rule.py", "settings.py", "checks.py"):
                opt.eta = 0.5
        except KeyboardInterrupt:
            rate = opt.eta
            reset(opt)
            assert opt.eta == rate
        else:
            break
    assert moment > 10


def test_parameters_without_end_are_refused_at_the_first_that_is_none():
    with pytest.raises(TypeError, match=r"parameter 0 is float 0\.1"):
        update(Descent(), Exp(0.1, 0.5), {})


def test_a_composition_cannot_contain_itself_through_what_wraps_it():
    opt = Optimiser(Descent())
    with pytest.raises(ValueError, match="itself"):
        opt.append(Scheduler(Constant(1.0), opt, update=lambda opt, value: None))
    with pytest.raises(ValueError, match="itself"):
        opt[0] = Grouped(([], Descent()), rest=opt)


def test_the_rate_that_a_schedule_sets_is_not_set_by_hand():
    opt = Scheduler(Constant(1.0), Momentum())
    with pytest.raises(AttributeError, match=r"opt\.schedule"):
        opt.eta = 0.1
    other = Scheduler(Constant(0.5), Momentum(), update=lambda opt, rho: setattr(opt, "rho", rho))
    other.eta = 0.1
    assert other.opt.eta == other.eta == 0.1


def test_optimisers_that_refer_to_each_other_can_be_composed():
    class Linked(AbstractOptimiser):
        other = None

        def apply(self, x, Δ):
            return Δ

    a, b = Linked(), Linked()
    a.other, b.other = b, a
    a.state = IdDict()
    a.loop = [a.state]
    a.loop.append(a.loop)
    x = np.zeros(1)
    update(Optimiser(a, b), x, [1.0])
    assert x == -1
    a.state[x] = 1
    reset(Optimiser(b, a))
    assert len(a.state) == 0


def test_one_schedule_of_a_rate_is_enough():
    with pytest.raises(TypeError, match="already"):
        Scheduler(Constant(1.0), Scheduler(Constant(1.0), Descent()))


@pytest.mark.parametrize(
    "around",
    [
        lambda opt: opt,
        Lookahead,
        lambda opt: Grouped(([param(1.0)], Descent()), rest=opt),
        lambda opt: Lookahead(Grouped(([param(1.0)], opt), rest=Descent())),
        lambda opt: Scheduler(opt, decay=Constant(0.5)),
    ],
)
def test_a_rate_that_a_decay_lowers_is_scheduled_neither_directly_nor_through_what_is_around_it(around):
    for make in (lambda opt: Scheduler(Constant(1.0), opt), lambda opt: Scheduler(opt, eta=Constant(1.0))):
        with pytest.raises(TypeError, match="an ExpDecay lowers its eta itself"):
            make(around(ExpDecay()))
    Scheduler(ExpDecay(), decay=Constant(0.5))
    Scheduler(Constant(1.0), Grouped(([param(1.0)], Lookahead(Descent())), rest=Descent()))


def test_what_was_made_of_a_rule_is_not_pickled_with_its_class():
    opt, x = Momentum(), np.ones(3)
    update(opt, x, x.copy())
    assert len(Momentum.formulas) > 0
    assert pickle.loads(pickle.dumps(Momentum.formulas)) == {}
    assert Nesterov.formulas is not Momentum.formulas


@pytest.mark.parametrize("size", [3, 50_000])
def test_a_composition_of_a_rule_with_itself_alone_takes_two_turns(size):
    m, x, y, g = Momentum(0.5, 0.5), np.ones(size), np.ones(size), np.linspace(-1, 1, size)
    by_hand = Momentum(0.5, 0.5)
    for _ in range(3):
        update(Optimiser(m, m), x, g)
        update(y, apply(by_hand, y, apply(by_hand, y, g)))
    np.testing.assert_allclose(x, y, rtol=1e-14)
    assert m.state[x]["clock"] == (6,)


@pytest.mark.parametrize("size", [3, 50_000])
@pytest.mark.parametrize(
    "make", [Momentum, lambda: Optimiser(ClipNorm(1.0), ADAM()), lambda: PageMomentum(1, 0)]
)
def test_apply_takes_a_read_only_parameter_which_update_does_not(make, size):
    x, g = np.ones(size), np.linspace(-1, 1, size)
    expected = apply(make(), x, g)
    x.flags.writeable = g.flags.writeable = False
    np.testing.assert_array_equal(apply(make(), x, g), expected)
    with pytest.raises(ValueError, match="read-only"):
        update(make(), x, g)
    np.testing.assert_array_equal(x, 1)


def test_the_signature_of_a_rule_shows_its_settings_only():
    class Own(Rule):
        rate: float = 0.5
        power: int = 2

    assert str(inspect.signature(Own)).startswith("(rate")
    assert list(inspect.signature(Own).parameters) == ["rate", "power"]
    assert list(inspect.signature(ADAM).parameters) == ["eta", "beta", "epsilon"]
    assert not inspect.signature(type("Bare", (Rule,), {})).parameters


def test_what_a_rule_keeps_may_be_told_by_a_property():
    class Orders(Rule):
        order: int = 1

        @property
        def keeps(self):
            return ("a", "b")[: self.order]

        @staticmethod
        def formula(x, Δ, *kept):
            return (Δ + sum(kept), *[Δ + a for a in kept])

    for order in (1, 2):
        opt, x = Orders(order), np.zeros(3)
        for _ in range(3):
            update(opt, x, np.ones(3))
        np.testing.assert_array_equal(x, -3 - 3 * order)
        assert set(opt.state[x]) == {"clock", *"ab"[:order]}


def test_gradients_by_names_are_told_to_go_by_parameters():
    model = {"W": param([1.0, 2.0])}
    f = lambda p: np.sum(p["W"] ** 2)
    with pytest.raises(KeyError, match=r"write gradient\(lambda: f\(p\), params\(p\)\)"):
        update(ADAM(), params(model), gradient(f, model)[0])
    update(ADAM(), params(model), gradient(lambda: f(model), params(model)))


@pytest.mark.parametrize("written", ["x", "Δ", "m"])
@pytest.mark.parametrize("shape", [(), (3,), (40_000,)])
def test_a_formula_that_writes_into_what_it_is_given_changes_nothing_of_others(written, shape):
    class Mine(Rule):
        keeps = ("m",)

        @staticmethod
        def formula(x, Δ, m):
            given = {"x": x, "Δ": Δ, "m": m}[written]
            given *= 0
            if np.any(step_of_m != 0):
                raise ArithmeticError
            return 0 * Δ, m + 1

    step_of_m = np.zeros(1)
    ps, opt = params(*[param(np.ones(shape)) for _ in range(2)]), Mine()
    gs = {p: np.full(shape, 2.0) for p in ps}
    for fails in (0, 1):
        step_of_m[:] = fails
        with pytest.raises(ArithmeticError) if fails else nullcontext():
            update(opt, ps, gs)
        assert all(np.all(p.value == 1) and np.all(gs[p] == 2) for p in ps)
        assert all(np.all(opt.state[p]["m"] == 1) for p in ps)


ON_ONE = {
    "formula": lambda x, Δ, v, η, ρ: (η * Δ[::-1], v),
    "coefficients": lambda t: (0.1 / (1 + t), 0.5),
    "tick": lambda t: (2 * t + 1,),
    "begin": lambda x: {"clock": (3,), "v": np.ones_like(x)},
}


@pytest.mark.parametrize("name", ON_ONE)
def test_what_is_set_on_one_optimiser_holds_however_its_steps_are_taken(name):
    def run(way):
        class Slower(Momentum):
            coefficients = lambda self, t: (self.eta / (1 + t), self.rho)

        ps, opt = params(param([1.0, 2.0]), param([3.0, 5.0])), (Momentum if name != "tick" else Slower)(0.01)
        loss = lambda: sum(np.sum(p**2 * np.array([1.0, 3.0])) for p in ps)
        if way != "as its class has it":
            setattr(opt, name, ON_ONE[name])
        if way == "train":
            train(lambda _: loss(), ps, range(110), opt)
            return ps.to_vector().tolist()
        step = compiled(loss, ps, opt) if way == "compiled" else None
        for _ in range(110):
            step() if step else update(opt, ps, gradient(loss, ps))
        return ps.to_vector().tolist()

    assert run("update") == run("compiled") == run("train") != run("as its class has it")


def test_a_group_or_the_rest_gives_its_step_as_apply_does():
    W, x, Δ = param([1.0, 2.0]), np.ones(2), np.array([3.0, 5.0])
    opt = Grouped((params(W), Descent(0.5)), rest=Descent(0.25))
    for p, η in ((W, 0.5), (x, 0.25), (param(x), 0.25)):
        np.testing.assert_array_equal(opt.apply(p, Δ), η * Δ)
