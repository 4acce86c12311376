"""The rules beyond Flux's page are their equations, written a second time for one number in Python."""

import copy
import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

import minidiff.optimise as mo
from minidiff import Params, compiled, load, param, params, save
from minidiff.optimise import apply, update

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


def signdecay(wd):
    return lambda x, Δ: Δ + wd * sign(x)


RULES = {
    "Lion": (lion, {"eta": 0.1, "beta": (0.8, 0.95)}),
    "Rprop": (rprop, {"eta": 0.2, "factors": (0.4, 1.5), "limits": (0.1, 0.6)}),
    "Yogi": (yogi, {"eta": 0.2, "beta": (0.7, 0.9), "epsilon": 1e-3}),
    "SignDecay": (signdecay, {"wd": 0.3}),
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


@pytest.mark.parametrize("shape", PEERS["starts"])
@pytest.mark.parametrize(
    "call",
    [
        "RMSProp(0.1, 0.8, 1e-6, centred=True)",
        "Rprop(0.1, (0.4, 1.5), (0.01, 0.5))",
        "Lion(0.1, (0.8, 0.95))",
        "Yogi(0.1, (0.8, 0.95), 1e-3)",
    ],
)
def test_steps_are_those_of_pytorch_or_optax(call, shape):
    opt, x = eval(call, vars(mo)), np.array(PEERS["starts"][shape])
    for g, expected in zip(PEERS["gradients"][shape], PEERS["paths"][call][shape], strict=True):
        update(opt, x, g)
        np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-12)


# Whatever else an optimiser is to go with, over parameters of every number of dimensions.
ALL = {
    name: lambda name=name, chosen=chosen: getattr(mo, name)(**chosen) for name, (_, chosen) in RULES.items()
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


@pytest.mark.parametrize("name", ["Lion", "Rprop", "Yogi"])
def test_a_rule_finds_the_minimum_of_a_parabola(name):
    opt, x = getattr(mo, name)(0.01), np.array([1.0, -2.0])
    for _ in range(1500):
        update(opt, x, 2 * (x - [0.5, 0.25]))
    np.testing.assert_allclose(x, [0.5, 0.25], atol=0.05)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beta"):
        mo.Lion(0.1, (0.9, 1.0))
    with pytest.raises(ValueError, match="factors"):
        mo.Rprop(0.1, (-0.5, 1.2))
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
