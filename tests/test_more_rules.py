"""The rules beyond Flux's page are their equations, written a second time for one number in Python."""

import copy
import io
import json
import math
import pickle
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import minidiff.optimise as mo
from minidiff import Params, compiled, gradient, load, param, params, save, train
from minidiff.optimise import apply, reset, update
from minidiff.optimise.compose import SlowWeights
from minidiff.schedules import Scheduler

PEERS = json.loads((Path(__file__).parent / "golden" / "peers.json").read_text())


def sign(z):
    return z / abs(z) if z else 0.0


def lion(eta, beta):
    (β1, β2), past = beta, []

    def step(x, Δ):
        mean = sum((1 - β2) * β2**k * g for k, g in enumerate(reversed(past)))
        past.append(Δ)
        return eta * sign(mean * β1 + Δ - β1 * Δ)

    return step


def centred_rmsprop(eta, rho, epsilon, centred):
    past = []

    def step(x, Δ):
        past.append(Δ)
        weights = [(1 - rho) * rho**k for k in range(len(past))][::-1]
        mean = sum(w * g for w, g in zip(weights, past, strict=True))
        variance = sum(w * abs(g) ** 2 for w, g in zip(weights, past, strict=True)) - abs(mean) ** 2
        return eta * Δ / (math.sqrt(variance) + epsilon)

    return step


def rprop(eta, factors, limits):
    last, length = 0.0, eta

    def step(x, Δ):
        nonlocal last, length
        turn = (last.conjugate() * Δ).real
        if turn < 0:
            last, length = 0.0, max(limits[0], length * factors[0])
            return 0.0
        if turn > 0:
            length = min(limits[1], length * factors[1])
        last = Δ
        return length * sign(Δ)

    return step


def yogi(eta, beta, epsilon):
    (β1, β2), past, v = beta, [], 0.0

    def step(x, Δ):
        nonlocal v
        past.append(Δ)
        t, square = len(past), abs(Δ) ** 2
        m = sum((1 - β1) * β1**k * g for k, g in enumerate(reversed(past)))
        v += (1 - β2) * square if v < square else -(1 - β2) * square if v > square else 0.0
        return eta * m / (1 - β1**t) / (math.sqrt(v / (1 - β2**t)) + epsilon)

    return step


def adan(eta, beta, decay, epsilon):
    β1, β2, β3 = beta
    past = []

    def mean(values, β):
        weights = [(1 - β) * β**k for k in range(len(values))][::-1]
        return sum(w * value for w, value in zip(weights, values, strict=True)) / (1 - β ** len(values))

    def step(x, Δ):
        past.append(Δ)
        changes = [0.0, *(b - a for a, b in pairwise(past))]
        squares = [abs(g + β2 * d) ** 2 for g, d in zip(past, changes, strict=True)]
        ahead = mean(past, β1) + β2 * mean(changes, β2)
        return x - (x - eta * ahead / (math.sqrt(mean(squares, β3)) + epsilon)) / (1 + decay * eta)

    return step


def schedule_free(eta, beta, decay, epsilon):
    (β1, β2), squares, zs = beta, [], []

    def step(x, Δ):
        zs[:] = zs or [x]
        squares.append(abs(Δ) ** 2)
        weights = [(1 - β2) * β2**k for k in range(len(squares))][::-1]
        v = sum(w * s for w, s in zip(weights, squares, strict=True)) / (1 - β2 ** len(squares))
        zs.append(zs[-1] - eta * (Δ / (math.sqrt(v) + epsilon) + decay * x))
        return x - ((1 - β1) * zs[-1] + β1 * sum(zs[1:]) / len(zs[1:]))

    return step


def signdecay(wd):
    return lambda x, Δ: Δ + wd * sign(x)


RULES = {
    "Lion": (lion, {"eta": 0.1, "beta": (0.8, 0.95)}),
    "Rprop": (rprop, {"eta": 0.2, "factors": (0.4, 1.5), "limits": (0.1, 0.6)}),
    "Yogi": (yogi, {"eta": 0.2, "beta": (0.7, 0.9), "epsilon": 1e-3}),
    "SignDecay": (signdecay, {"wd": 0.3}),
    "Adan": (adan, {"eta": 0.2, "beta": (0.7, 0.6, 0.9), "decay": 0.1, "epsilon": 1e-3}),
    "ScheduleFreeADAMW": (
        schedule_free,
        {"eta": 0.2, "beta": (0.7, 0.9), "decay": 0.1, "epsilon": 1e-3},
    ),
    "RMSProp": (centred_rmsprop, {"eta": 0.1, "rho": 0.8, "epsilon": 1e-3, "centred": True}),
}


@pytest.mark.parametrize(("dtype", "tol"), [("f4", 1e-4), ("f8", 1e-12), ("c8", 1e-4), ("c16", 1e-12)])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_equals_its_equation_over_twenty_steps(name, dtype, tol):
    equation, chosen = RULES[name]
    draw = np.random.default_rng(0).normal
    gs = draw(size=(20, 5)) + (1j * draw(size=(20, 5)) if np.dtype(dtype).kind == "c" else 0)
    gs[:, 4] = 0
    gs = gs.astype(dtype)
    opt, x = getattr(mo, name)(**chosen), np.array([1, -2, 3, 0, 0], dtype)
    by_hand = [equation(**chosen) for _ in x]
    for g in gs:
        expected = [rule(y, h) for rule, y, h in zip(by_hand, x.tolist(), g.tolist(), strict=True)]
        step = apply(opt, x, g)
        assert step.dtype == dtype
        np.testing.assert_allclose(step, expected, rtol=tol, atol=tol)
        x -= step


@pytest.mark.parametrize(
    ("call", "shape"), [(call, shape) for call, paths in PEERS["paths"].items() for shape in paths]
)
def test_steps_are_those_of_pytorch_or_optax(call, shape):
    opt, x = eval(call, dict(vars(mo))), np.array(PEERS["starts"][shape])
    for g, expected in zip(PEERS["gradients"][shape], PEERS["paths"][call][shape], strict=True):
        update(opt, x, g)
        np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", PEERS["starts"])
def test_averages_are_those_of_optax(shape):
    opt, x = mo.ScheduleFreeADAMW(0.1, (0.8, 0.95), 0.1), param(PEERS["starts"][shape])
    for g, expected in zip(PEERS["gradients"][shape], PEERS["averages"][shape], strict=True):
        update(opt, x, g)
        own = x.value.copy()
        with opt.swapped() as ps:
            assert [*ps] == [x]
            np.testing.assert_allclose(x.value, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(x.value, own)


# Whatever else an optimiser is to go with, over parameters of every number of dimensions.
ALL = {
    name: lambda name=name, chosen=chosen: getattr(mo, name)(**chosen) for name, (_, chosen) in RULES.items()
} | {
    "LAMB": lambda: mo.LAMB(0.1, decay=0.1),
    "Adafactor": lambda: mo.Adafactor(0.5),
    "Muon": lambda: mo.Muon(0.1, rest=mo.ADAM(0.1)),
    "Centralise": lambda: mo.Optimiser(mo.Centralise(-1), mo.Descent(0.1)),
    "Lookahead": lambda: mo.Lookahead(mo.ADAM(0.1), 3, 0.4),
    "Lookahead in itself": lambda: mo.Lookahead(mo.Lookahead(mo.LAMB(0.1), 2), 3),
    "Project": lambda: mo.Optimiser(mo.ADAM(0.3), mo.Project(partial(mo.within_norm, thresh=0.5))),
}


def model(dtype="f8"):
    draw = np.random.default_rng(1).normal
    return params([param(draw(size=shape), dtype) for shape in ((3, 4), (4,), (), (2, 3, 4), (0, 2))])


def loss(θ, t):
    """Give a sum of parabolas whose places depend on the step."""
    return sum(np.sum(abs(p - np.sin(t + i)) ** 2) for i, p in enumerate(θ))


def gradients(θ, t):
    return {p: 2 * (p.value - np.sin(t + i)) for i, p in enumerate(θ)}


def steps(opt, θ, ts):
    for t in ts:
        update(opt, θ, gradients(θ, t))
    return θ.to_vector()


@pytest.mark.parametrize("name", ALL)
def test_a_copy_a_pickle_and_a_checkpoint_go_on_as_the_original(name):
    make, θ, saved = ALL[name], model(), io.BytesIO()
    opt = make()
    steps(opt, θ, range(4))
    θ2, opt2 = copy.deepcopy((θ, opt))
    θ3, opt3 = pickle.loads(pickle.dumps((θ, opt)))
    save(saved, θ, opt)
    θ4, opt4 = model(), make()
    load(saved, θ4, opt4)
    expected = steps(opt, θ, range(4, 8))
    for ps, other in ((θ2, opt2), (θ3, opt3), (θ4, opt4)):
        np.testing.assert_array_equal(steps(other, ps, range(4, 8)), expected)
        assert repr(other) == repr(opt)


@pytest.mark.parametrize("name", ALL)
def test_after_a_reset_the_steps_are_those_of_a_new_one(name):
    opt = ALL[name]()
    steps(opt, model(), range(3))
    θ = model()
    steps(opt, θ, range(3))
    mo.reset(opt)
    again = model()
    θ.from_vector(again.to_vector())
    np.testing.assert_array_equal(steps(opt, θ, range(3)), steps(ALL[name](), again, range(3)))


@pytest.mark.parametrize("name", ALL)
def test_compositions_and_groups_take_the_same_steps(name):
    expected = steps(ALL[name](), model(), range(6))
    one = mo.Descent(1.0)
    for opt in (
        mo.Optimiser(one, ALL[name]()),
        mo.Optimiser(mo.Optimiser(ALL[name]()), mo.ClipNorm(1e9)),
        mo.Grouped(rest=ALL[name]()),
    ):
        np.testing.assert_allclose(steps(opt, model(), range(6)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_compiled_step_is_the_same_step(name):
    θ, opt = model(), ALL[name]()
    step = compiled(lambda t: loss(θ, t), θ, opt)
    for t in range(6):
        step(float(t))
    np.testing.assert_allclose(θ.to_vector(), steps(ALL[name](), model(), range(6)), rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["f2", "f4", "c8", "c16"])
def test_every_dtype_stays_what_it_is_and_comes_near_the_steps_in_double(name, dtype):
    θ = model(dtype)
    exact = Params([param(p.value.astype("c16" if dtype[0] == "c" else "f8")) for p in θ])
    steps(ALL[name](), θ, range(6))
    steps(ALL[name](), exact, range(6))
    for p, q in zip(θ, exact, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.value, q.value, rtol=0, atol=0.03 if dtype == "f2" else 1e-4)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", ["f2", "f4", "c16"])
def test_large_and_small_arrays_step_alike_and_empty_ones_do_not_fail(name, dtype):
    rule = lambda: getattr(mo, name)(**RULES[name][1])
    large_opt, small_opt = rule(), rule()
    small = (np.arange(-2, 3) * (1 + 1j if dtype == "c16" else 1)).astype(dtype)
    large = np.tile(small, 20_000)
    for seed in range(8):
        g = np.random.default_rng(seed).normal(size=5).astype(dtype)
        update(small_opt, small, g)
        update(large_opt, large, np.tile(g, 20_000))
    np.testing.assert_allclose(large.reshape(-1, 5), np.broadcast_to(small, (20_000, 5)), rtol=1e-6)
    update(rule(), np.zeros((0, 3), dtype), np.zeros((0, 3), dtype))


@pytest.mark.parametrize("name", ["Lion", "Rprop", "Yogi", "Adan", "ScheduleFreeADAMW"])
def test_a_rule_finds_the_minimum_of_a_parabola(name):
    opt, x = getattr(mo, name)(0.01), np.array([1.0, -2.0])
    for _ in range(1500):
        update(opt, x, 2 * (x - [0.5, 0.25]))
    np.testing.assert_allclose(x, [0.5, 0.25], atol=0.05)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beta"):
        mo.Lion(0.1, (0.9, 1.0))
    for bad in ((-0.5, 1.2), (1.2, 0.5)):
        with pytest.raises(ValueError, match="factors"):
            mo.Rprop(0.1, bad)
    for bad in ((50.0, 1e-6), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="limits"):
            mo.Rprop(0.1, limits=bad)
    assert mo.Rprop(0.1, limits=(0.0, 0.0)).limits == (0, 0)
    with pytest.raises(ValueError, match="wd"):
        mo.SignDecay(-1.0)


def test_centred_or_not_is_chosen_once():
    opt = mo.RMSProp(0.5, centred=True)
    assert repr(opt) == "RMSProp(eta=0.5, rho=0.9, centred=True)"
    assert "centred" not in repr(mo.RMSProp(0.5))
    with pytest.raises(AttributeError, match=r"RMSProp\(centred=True\)"):
        mo.RMSProp().centred = True
    with pytest.raises(TypeError, match="centred must be True or False"):
        mo.RMSProp(centred=1)


def test_a_checkpoint_of_a_rule_that_is_centred_does_not_fit_one_that_is_not():
    θ, opt, saved = model(), mo.RMSProp(), mo.RMSProp(centred=True)
    for one, other in ((opt, saved), (saved, opt)):
        file = io.BytesIO()
        steps(one, θ, range(2))
        save(file, θ, one)
        with pytest.raises(ValueError, match="does not fit"):
            load(file, θ, other)


def test_centred_steps_stay_finite_where_rounding_takes_the_variance_below_zero():
    opt, x = mo.RMSProp(centred=True), np.zeros(1000)
    g = np.linspace(0.1, 1e3, 1000)
    for _ in range(500):
        assert np.isfinite(apply(opt, x, g)).all()


# Rules that need the whole parameter ----------------------------------------------------------------


def gs(shape, dtype="f8", n=6):
    draw = np.random.default_rng(3).normal
    for _ in range(n):
        g = draw(size=shape) + (1j * draw(size=shape) if np.dtype(dtype).kind == "c" else 0)
        yield g.astype(dtype)


SHAPES = [(), (5,), (3, 4), (4, 3), (2, 3, 4), (0, 2), (3, 0)]


@pytest.mark.parametrize("dtype", ["f8", "c16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_lamb_goes_along_the_step_of_adamw_as_far_as_a_part_of_the_norm(shape, dtype):
    inner = mo.ADAMW(1.0, (0.8, 0.9), 0.1)

    def by_hand(x, g):
        u = apply(inner, x, g)
        return 0.3 * u * np.sqrt(np.sum(abs(x) ** 2) / np.sum(abs(u) ** 2)) if x.size else u

    x = np.asarray(next(gs(shape, dtype)))
    opt = mo.LAMB(0.3, (0.8, 0.9), 0.1, 1e-8)
    for g in gs(shape, dtype):
        step, expected = apply(opt, x, g), by_hand(x, g)
        np.testing.assert_allclose(step, expected, rtol=1e-10, atol=1e-12)
        x -= step


def test_lamb_steps_by_the_rate_where_a_norm_is_zero():
    assert apply(mo.LAMB(0.5, epsilon=0.0), np.zeros(2), [3.0, -4.0]).tolist() == [0.5, -0.5]
    assert apply(mo.LAMB(0.5), np.ones(2), np.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", ["f8", "c16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_adafactor_divides_by_an_outer_product_of_mean_squares(shape, dtype):
    past = []

    def mean(values):
        """Give the average in which the t-th value comes in with weight t to the power of -0.7."""
        average = values[0]
        for t, value in enumerate(values[1:], 2):
            average = average + t**-0.7 * (value - average)
        return average

    def rms(z):
        return math.sqrt(np.mean(abs(z) ** 2))

    def by_hand(x, g):
        past.append(abs(g) ** 2 + 1e-30)
        if not g.size:
            return g
        v = mean(past)
        if g.ndim > 1:
            rows, columns = v.mean(-1), v.mean(-2)
            v = np.einsum("...i,...j->...ij", rows, columns) / rows.mean(-1)[..., None, None]
        u = g / v**0.5
        return min(0.6, len(past) ** -0.5) * max(0.01, rms(x)) * u / max(1, rms(u) / 0.9)

    opt, x = mo.Adafactor(0.6, 0.7, 0.9, (1e-30, 0.01)), np.asarray(next(gs(shape, dtype)))
    for g in gs(shape, dtype):
        step, expected = apply(opt, x, g), by_hand(x, g)
        np.testing.assert_allclose(step, expected, rtol=1e-10, atol=1e-12)
        x -= step
    if x.ndim > 1:
        assert opt.state[x]["r"].shape == shape[:-1]
        assert opt.state[x]["c"].shape == (*shape[:-2], shape[-1])


def test_adafactor_does_not_step_without_a_gradient():
    for x in (np.ones((2, 3)), np.ones(3), np.ones((2, 3), "f4"), np.ones((2, 3), "f2")):
        assert not apply(mo.Adafactor(), x, np.zeros(x.shape)).any()


@pytest.mark.parametrize("dtype", ["f8", "c16"])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3, 3), (1, 4), (4, 2, 3), (2, 4, 3)])
def test_muon_brings_the_singular_values_of_its_momentum_near_one(shape, dtype):
    momentum = 0.0

    def by_hand(x, g):
        nonlocal momentum
        momentum = 0.9 * momentum + g
        z = (0.9 * momentum + g).reshape(shape[0], -1)
        left, s, right = np.linalg.svd(z, full_matrices=False)
        s = s / np.linalg.norm(s)
        for _ in range(5):
            s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
        assert np.all((s > 0.5) & (s < 1.3))
        turned = (left * s) @ right * max(1, z.shape[0] / z.shape[1]) ** 0.5
        return 0.1 * (turned.reshape(shape) + 0.2 * x)

    opt, x = mo.Muon(0.1, 0.9, 0.2), next(gs(shape, dtype))
    for g in gs(shape, dtype):
        step, expected = apply(opt, x, g), by_hand(x, g)
        np.testing.assert_allclose(step, expected, rtol=1e-10, atol=1e-12)
        x -= step


def test_muon_takes_the_steps_of_another_rule_where_there_is_no_matrix():
    θ, other = model(), model()
    opt = mo.Muon(rest=mo.Momentum(0.1))
    steps(opt, θ, range(4))
    steps(mo.Momentum(0.1), other, range(4))
    for p, q in zip(θ, other, strict=True):
        assert (p in opt.rest.state) == (p.ndim < 2)
        assert p.ndim > 1 or np.array_equal(p.value, q.value)
    assert repr(mo.Muon().rest) == repr(mo.ADAMW(0.0003, (0.9, 0.95), 0.01))
    assert mo.Muon().rest is not mo.Muon().rest
    with pytest.raises(TypeError, match="rest must be an optimiser"):
        mo.Muon(rest=0.1)


@pytest.mark.parametrize("make", [lambda: mo.Muon(0.1), lambda: mo.LAMB(0.1, epsilon=0.0)])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_steps_of_muon_and_lamb_do_not_depend_on_the_gradients_scale(make, scale):
    x, one, other = np.ones((3, 4)), make(), make()
    for g in gs((3, 4)):
        np.testing.assert_allclose(apply(one, x, g), apply(other, x, scale * g), rtol=1e-9)


def test_centralise_takes_the_mean_of_each_output():
    g = next(gs((4, 3, 2)))
    for axis in (0, 1, 2, -1):
        step = apply(mo.Centralise(axis), np.zeros(g.shape), g)
        others = tuple(i for i in range(3) if i != axis % 3)
        np.testing.assert_allclose(step.mean(others), 0, atol=1e-15)
        np.testing.assert_allclose(g - step, np.broadcast_to(g.mean(others, keepdims=True), g.shape))
    for shape in ((5,), (), (0, 3)):
        g = np.asarray(next(gs(shape)))
        np.testing.assert_array_equal(apply(mo.Centralise(), np.zeros(shape), g), g)
    x = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"Centralise: axis 2 is out of bounds .*\(2, 2\)"):
        update(mo.Centralise(2), x, np.ones((2, 2)))
    assert not x.any()


# Made of the others: what an optimiser is inside, and what is around it ------------------------------


WHOLE = {
    "LAMB": lambda: mo.LAMB(0.1, decay=0.1),
    "Adafactor": lambda: mo.Adafactor(0.5),
    "Centralise": mo.Centralise,
    "Project": lambda: mo.Project(partial(mo.within_norm, thresh=3.0)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_rule_that_is_not_elementwise_sees_whole_arrays_also_between_others_that_run_in_blocks(name):
    shape = (150, 200)  # several blocks
    x, y = np.linspace(-1, 1, 30_000).reshape(shape), np.linspace(-1, 1, 30_000).reshape(shape)
    opt = mo.Optimiser(mo.ClipValue(2.0), mo.Momentum(0.5), WHOLE[name](), mo.WeightDecay(0.01))
    rule, momentum = WHOLE[name](), mo.Momentum(0.5)
    for g in gs(shape, n=3):
        update(opt, x, g)
        step = apply(rule, y, apply(momentum, y, np.clip(g, -2, 2)))
        y -= step + 0.01 * y
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(find_spec("numba") is None, reason="Numba is not installed")
@pytest.mark.parametrize("name", ["RMSProp", "Adan", "ScheduleFreeADAMW", "Lookahead"])
def test_compiled_loops_take_the_same_steps(name):
    ends = []
    for how in ("numpy", "fused"):
        opt, x = ALL[name](), np.linspace(-1, 1, 30_000, dtype="f4")
        with mo.engine(how):
            for g in gs(30_000, n=4):
                update(opt, x, g)
        ends.append(x)
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*WHOLE, "Muon"])
def test_the_layout_of_a_parameter_makes_no_difference(name):
    make = ALL.get(name)
    g = next(gs((6, 8)))
    plain = np.ones((6, 8))
    update(make(), plain, g)
    for x in (np.ones((6, 8), order="F"), np.ones((8, 6)).T, np.ones((12, 16))[::2, ::2]):
        update(make(), x, g)
        np.testing.assert_allclose(x, plain, rtol=1e-12)


@pytest.mark.parametrize("name", [*WHOLE, "Muon"])
def test_a_compiled_step_that_cannot_be_saved_says_which_rule_it_is(name, tmp_path):
    θ = model()
    step = compiled(lambda t: loss(θ, t), θ, ALL[name]())
    step(1.0)
    with pytest.raises(TypeError, match=f"{name} (is not elementwise|has an apply of its own)"):
        step.save(tmp_path / "step.py")


def test_a_step_that_fails_changes_nothing_of_a_rule_before_it():
    def refuse(x):
        raise ValueError("no")

    opt, x = mo.Optimiser(mo.LAMB(), mo.Project(refuse)), np.ones(3)
    with pytest.raises(ValueError, match="no"):
        update(opt, x, np.ones(3))
    assert x.tolist() == [1, 1, 1]
    assert not opt[0].state


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("SignDecay", "Rprop", "RMSProp")])
def test_a_schedule_of_the_rate_is_the_rate_set_by_hand(name):
    def rated(opt):
        return opt if hasattr(opt, "eta") else opt[0] if hasattr(opt[0], "eta") else opt[1]

    def rate(t):
        return 0.3 / t

    inner = ALL[name]()
    if hasattr(inner, "eta"):
        opt = Scheduler(inner, eta=rate)
    else:
        opt = Scheduler(rate, inner, update=lambda opt, value: setattr(rated(opt), "eta", value))
    by_hand, θ, other = ALL[name](), model(), model()
    for t in range(5):
        rated(by_hand).eta = rate(t + 1)
        np.testing.assert_array_equal(steps(opt, θ, [t]), steps(by_hand, other, [t]))


@pytest.mark.parametrize("name", ALL)
def test_train_takes_the_same_steps(name):
    θ, opt = model(), ALL[name]()
    train(lambda t: loss(θ, t), θ, [float(t) for t in range(5)], opt)
    np.testing.assert_allclose(θ.to_vector(), steps(ALL[name](), model(), range(5)), rtol=1e-12)


# Averages -------------------------------------------------------------------------------------------


def test_schedule_free_weighs_by_the_square_of_the_rate():
    opt, x = mo.ScheduleFreeADAMW(beta=(0.5, 0.0), epsilon=0.0), param(0.0)
    zs, rates = [], [0.0, 0.1, 0.2, 0.4]
    for rate in rates:  # with this β2 every step of z has the length of the rate
        opt.eta = rate
        update(opt, x, -1.0)
        zs.append((zs[-1] if zs else 0.0) + rate)
        total = sum(r**2 for r in rates[: len(zs)])
        mean = sum(r**2 * z for r, z in zip(rates, zs, strict=False)) / total if total else 0.0
        np.testing.assert_allclose(x.value, (zs[-1] + mean) / 2, rtol=1e-14)
        with opt.swapped():
            np.testing.assert_allclose(x.value, mean, rtol=1e-14)


def test_swapped_says_what_to_do_after_steps_of_a_plain_array():
    opt, x = mo.ScheduleFreeADAMW(0.1), np.ones(2)
    update(opt, x, np.ones(2))
    with pytest.raises(TypeError, match=r"must be a parameter, got an ndarray.*opt\.state\[x\]\['a'\]"):
        opt.swapped()
    assert opt.state[x]["a"].shape == (2,)


def test_schedule_free_computes_the_parameter_from_its_averages_at_every_step():
    (opt, θ), (other, ψ) = [(mo.ScheduleFreeADAMW(0.1), model()) for _ in range(2)]
    gradients = [[np.full(p.shape, float(t)) for p in θ] for t in range(1, 4)]
    for gs in gradients:
        for p, q, g in zip(θ, ψ, gs, strict=True):
            update(opt, p, g)
            update(other, q, g)
            q += 5.0
    np.testing.assert_allclose(ψ.to_vector(), θ.to_vector() + 5.0, rtol=1e-12)
    reset(other)
    for q in ψ:
        before = q.value.copy()
        update(other, q, np.zeros(q.shape))
        np.testing.assert_allclose(q.value, before, rtol=1e-15)


def test_swapped_gives_back_what_was_there_also_by_an_exception():
    θ, opt = model(), mo.ScheduleFreeADAMW(0.1)
    with opt.swapped() as ps:  # the averages begin where the parameters do
        assert len(ps) == 0
    steps(opt, θ, range(3))
    own = θ.to_vector()

    def failing():
        with opt.swapped() as ps:
            assert ps == θ
            assert not np.array_equal(θ.to_vector(), own)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    np.testing.assert_array_equal(θ.to_vector(), own)


def test_swapped_gives_back_what_was_there_though_the_set_is_another_at_the_end():
    θ = model()
    average, every, own = mo.Average(θ), Params(θ), θ.to_vector() + 1
    average()
    θ.from_vector(own)
    with average.swapped() as ps:
        ps.discard(every[0])
    np.testing.assert_array_equal(every.to_vector(), own)


@pytest.mark.parametrize("dtype", ["f2", "f8", "c16"])
def test_lookahead_is_its_optimiser_with_a_part_of_the_way_back(dtype):
    θ, other, inner = model(dtype), model(dtype), mo.Momentum(0.1)
    opt, slow = mo.Lookahead(mo.Momentum(0.1), 3, 0.25), [p.value.copy() for p in other]
    for t in range(1, 8):
        steps(opt, θ, [t])
        steps(inner, other, [t])
        if t % 3 == 0:
            for i, p in enumerate(other):
                slow[i] = slow[i] + 0.25 * (p.value - slow[i])
                p[...] = slow[i]
        atol = 0.01 if dtype == "f2" else 1e-13
        np.testing.assert_allclose(θ.to_vector(), other.to_vector(), rtol=0, atol=atol)


def test_lookahead_shows_and_sets_what_it_is_made_of():
    opt = mo.Lookahead(mo.ADAM(0.1), k=4, alpha=1.0)
    opt.eta = 0.2
    assert (opt.eta, opt[0].eta, opt[1].k, opt[1].alpha) == (0.2, 0.2, 4, 1.0)
    for bad in ({"k": 0}, {"alpha": 1.5}, {"alpha": -0.1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            mo.Lookahead(mo.ADAM(), **bad)
    with pytest.raises(TypeError, match="must be an optimiser"):
        mo.Lookahead(5)
    with pytest.raises(AttributeError, match="has no 'rho' of its own"):
        opt.rho = 0.5


def test_slow_weights_alone_are_those_of_lookahead():
    alone, within = SlowWeights(), mo.Lookahead(mo.Descent())[1]
    assert (alone.k, alone.alpha) == (within.k, within.alpha)


# Projections ----------------------------------------------------------------------------------------


def test_projections_are_those_of_optax():
    points = np.array(PEERS["projections"]["points"])
    np.testing.assert_allclose(mo.simplex(points), PEERS["projections"]["simplex"], atol=1e-14)
    balls = [mo.within_norm(p, 1.5) for p in points]
    np.testing.assert_allclose(balls, PEERS["projections"]["ball"], atol=1e-14)
    for onto in (mo.simplex, mo.within_norm):
        np.testing.assert_array_equal(onto(np.array([3, 4])), onto(np.array([3.0, 4.0])))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_the_nearest_point_within_a_norm_has_the_dtype_and_is_the_point_itself_within(dtype):
    x = np.full((300, 2), 200, dtype)  # whose square half precision cannot hold
    nearest = mo.within_norm(x, 100.0)
    assert nearest.dtype == x.dtype
    np.testing.assert_allclose(nearest, 100 / math.sqrt(x.size), rtol=2 * np.finfo(dtype).eps)
    assert mo.within_norm(x, 1e5) is x


ONTO = {
    "non_negative": (mo.non_negative, lambda x: abs(x)),
    "simplex": (mo.simplex, lambda x: abs(x) / abs(x).sum(-1, keepdims=True)),
    "within_norm": (partial(mo.within_norm, thresh=0.7), lambda x: 0.7 * x / np.linalg.norm(x) * 0.9),
}


@pytest.mark.parametrize("name", ONTO)
def test_a_projection_is_the_nearest_point_of_a_convex_set(name):
    """A point of the set stays, and the way to it makes no acute angle with one to any other point."""
    onto, inside = ONTO[name]
    draw = np.random.default_rng(4).normal
    for shape in ((4,), (3, 4)):
        x = 2 * draw(size=shape)
        nearest = onto(x)
        np.testing.assert_allclose(onto(nearest), nearest, atol=1e-14)
        for _ in range(50):
            assert np.sum((x - nearest) * (inside(draw(size=shape)) - nearest)) <= 1e-12


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (0, 2), (300, 100)])
def test_parameters_are_within_bounds_after_each_step(shape, dtype):
    tol = 10 * float(np.finfo(dtype).eps)
    for onto, error in (
        (mo.non_negative, lambda x: max(0.0, -x.min())),
        (mo.simplex, lambda x: max(0.0, -x.min(), abs(x.sum(-1) - 1).max() / 10)),
        (mo.within_norm, lambda x: np.linalg.norm(x) - 1),
    ):
        opt, x = mo.Optimiser(mo.ADAM(0.5), mo.Project(onto)), np.ones(shape, dtype)
        for g in gs(shape, n=4):
            update(opt, x, g)
            assert x.dtype == dtype
            if x.size:
                assert error(x.astype("f8")) <= (0 if onto is mo.non_negative else tol * 100)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "onto", [mo.non_negative, mo.simplex, mo.within_norm, lambda x: np.clip(x, x.dtype.type(1e-9), 0.999)]
)
def test_a_step_ends_at_the_very_point_that_is_nearest(onto, dtype):
    """From wherever it begins: x - (x - P) is not P where x has lost its digits."""
    draw = np.random.default_rng(3)
    for size in 10.0 ** np.arange(-9, 10):
        x, g = (draw.normal(size=(5, 3)).astype(dtype) * np.dtype(dtype).type(size) for _ in range(2))
        nearest, stepped = onto(x - g), x.copy()
        update(mo.Optimiser(mo.Descent(1.0), mo.Project(onto)), stepped, g)
        np.testing.assert_array_equal(stepped, nearest)
        alone, opt = x.copy(), mo.Project(onto)
        np.testing.assert_array_equal(apply(mo.Optimiser(mo.Descent(1.0), opt), alone, g), x - nearest)
        np.testing.assert_array_equal(opt.apply(alone, g), x - nearest)
        np.testing.assert_array_equal(alone, x)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("n", [3, 3000])
def test_on_the_simplex_all_elements_may_be_larger_by_as_much(dtype, n):
    x = np.random.default_rng(0).integers(0, 4, n).astype(dtype)
    nearest = mo.simplex(x)
    for far in (2**8, 2 ** np.finfo(dtype).nmant, -(2**8)):
        np.testing.assert_array_equal(mo.simplex(x + x.dtype.type(far)), nearest)
    np.testing.assert_allclose(nearest.sum(dtype=float), 1, rtol=n * np.finfo(dtype).eps)
    assert mo.simplex(np.array([np.finfo(dtype).max / 4, 0, 0], dtype)).tolist() == [1, 0, 0]
    assert mo.simplex(np.array([1, 2], "i1"), 1e5).tolist() == [49999.5, 50000.5]


def test_projected_descent_ends_where_no_way_within_the_bounds_leads_down():
    """The conditions of Karush, Kuhn and Tucker for non-negative least squares, and on the simplex."""
    draw = np.random.default_rng(5).normal
    A, b = draw(size=(20, 6)), draw(size=20)
    for onto in (mo.non_negative, mo.simplex):
        opt, x = mo.Optimiser(mo.Descent(0.01), mo.Project(onto)), np.full(6, 1 / 6)
        for _ in range(3000):
            update(opt, x, A.T @ (A @ x - b))
        slope = A.T @ (A @ x - b)
        slope -= slope @ x if onto is mo.simplex else 0  # the price of a higher sum
        np.testing.assert_allclose(slope[x > 0], 0, atol=1e-8)
        assert np.all(slope[x == 0] > 0)
        assert np.any(x == 0)


def test_what_cannot_be_projected_is_refused():
    for onto in (mo.non_negative, mo.simplex):
        with pytest.raises(TypeError, match="is for real numbers"):
            update(mo.Project(onto), np.ones(2, complex), np.ones(2))
    for onto in (mo.non_negative, mo.simplex, mo.within_norm):
        for x in (None, "a", [None]):
            with pytest.raises(TypeError, match=f"{onto.__name__} is for .*numbers, got"):
                onto(x)
    with pytest.raises(ValueError, match=r"^total must be in"):
        mo.simplex(np.ones(2), 0.0)
    with pytest.raises(ValueError, match="thresh"):
        mo.within_norm(np.ones(2), -1.0)
    with pytest.raises(TypeError, match="onto must be a function"):
        mo.Project(1.0)
    x = np.ones(3)
    with pytest.raises(ValueError, match=r"onto must return an array of shape \(3,\), not \(\)"):
        update(mo.Project(np.sum), x, np.ones(3))
    for onto, came in (
        (lambda x: x + 1j, "complex"),
        (lambda x: None, "None"),
        (str, "str"),
    ):
        with pytest.raises(TypeError, match=f"^Project: onto must return .*float64, got .*{came}"):
            update(mo.Project(onto), x, np.ones(3))
    assert x.tolist() == [1, 1, 1]


def test_a_checkpoint_does_not_hold_the_projection():
    θ, saved = model(), io.BytesIO()
    opt = mo.Optimiser(mo.Momentum(), mo.Project(lambda x: np.clip(x, 0, 1)))
    steps(opt, θ, range(2))
    save(saved, θ, opt)
    other = mo.Optimiser(mo.Momentum(), mo.Project(mo.non_negative))
    load(saved, θ, other)
    assert other[1].onto is mo.non_negative
    assert len(other[0].state) == len(θ)


# Sharpness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16"])
def test_the_sharp_gradient_is_that_at_the_worst_point_nearby(dtype):
    θ = model(dtype)
    before = θ.to_vector()
    plain = gradient(lambda: loss(θ, 0.5), θ)
    sharp = mo.sharp_gradient(lambda: loss(θ, 0.5), θ, 0.25)
    np.testing.assert_array_equal(θ.to_vector(), before)
    for p in θ:  # of a sum of |p - c|² the gradient is 2(p - c)
        expected = plain[p] + 2 * 0.25 * plain[p] / plain.norm()
        np.testing.assert_allclose(sharp[p], expected, rtol=0.02 if dtype == "f2" else 1e-5)
        assert sharp[p].dtype == dtype


def test_the_sharp_gradient_leaves_parameters_as_they_were():
    a, b, unused = param(2.0), param([1.0, 0.1]), param(1.0)
    θ, calls = params(a, b, unused), []

    def failing():
        calls.append(a.value.copy())
        if len(calls) == 2:
            raise KeyError
        return a**2 + np.sum(b**2)

    before = θ.to_vector()
    with pytest.raises(KeyError):
        mo.sharp_gradient(failing, θ)
    np.testing.assert_array_equal(θ.to_vector(), before)
    assert calls[0] != calls[1]
    assert mo.sharp_gradient(lambda: a**2, θ)[unused] is None


@pytest.mark.filterwarnings("ignore:none of the parameters")
def test_the_sharp_gradient_of_what_is_flat_or_not_finite_is_the_gradient():
    a = param(2.0)
    calls = []
    for f, expected in ((lambda: 0 * a, 0.0), (lambda: np.inf * a, np.inf)):

        def counted(f=f):
            calls.append(f)
            return f()

        assert mo.sharp_gradient(counted, params(a))[a] == expected
    assert len(calls) == 2
    with pytest.raises(ValueError, match="rho"):
        mo.sharp_gradient(lambda: a**2, params(a), -1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adafactor_leaves_what_has_no_gradient_beside_what_has_a_large_one(dtype):
    x = np.ones((2, 2), dtype)
    for _ in range(3):
        update(mo.Adafactor(0.1), x, np.array([[0, 0], [4e7, 4e7]], dtype))
    assert (x[0] == 1).all()
    assert (x[1] < 1).all()


@pytest.mark.parametrize(
    ("dtype", "huge"), [("f4", 1e25), ("f4", 2e38), ("f8", 1e200), ("f8", 1e308), ("c16", 1e300)]
)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_adafactor_goes_by_the_direction_of_gradients_however_large(shape, dtype, huge):
    directions = list(gs(shape, dtype, 3))
    ends = []
    for scale in (1.0, huge):
        opt, x = mo.Adafactor(0.1), np.ones(shape, dtype)
        for g in directions:
            update(opt, x, (g / abs(g).max() * scale).astype(dtype))
        ends.append(x)
        assert all(np.isfinite(opt.state[x][name]).all() for name in ("r", "c"))
    np.testing.assert_allclose(*ends, rtol=1e-4 if dtype == "f4" else 1e-10)
    for g in directions:  # what is ordinary again leaves it whole
        update(opt, x, g.astype(dtype))
    assert np.isfinite(x).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-23, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_rprop_goes_by_signs_however_small_the_gradients(scale, dtype):
    ends = []
    for size in (scale, 1.0):
        opt, x = mo.Rprop(0.1), np.zeros(1, dtype)
        for sign in (1, 1, -1, -1, 1, 1):
            update(opt, x, np.array([sign * size], dtype))
        ends.append(x[0])
    assert ends[0] == ends[1]
