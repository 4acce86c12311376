"""The rules beyond Flux's page are their equations, written a second time for one number in Python."""

import math

import numpy as np
import pytest

import minidiff.optimise as mo
from minidiff.optimise import apply, update


def sign(z):
    return z / abs(z) if z else 0.0


def lion(eta, beta):
    (β1, β2), past = beta, []

    def step(x, Δ):
        mean = sum((1 - β2) * β2**k * g for k, g in enumerate(reversed(past)))
        past.append(Δ)
        return eta * sign(mean * β1 + Δ - β1 * Δ)

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
