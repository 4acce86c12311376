"""Every rule is its equation."""

import copy
import inspect
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidiff.optimise as mo
from minidiff import param
from minidiff.optimise import Descent, Optimiser, apply, update

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rules.json").read_text())["cases"]

# The equations a second time: for one number, in Python's own arithmetic, with powers in place of running
# products. Each takes its settings and returns a function of (x, Δ, t) that gives the step.


def descent(eta):
    return lambda x, Δ, t: eta * Δ


def momentum(eta, rho):
    v = 0.0

    def step(x, Δ, t):
        nonlocal v
        v = rho * v - eta * Δ
        return -v

    return step


def nesterov(eta, rho):
    v = 0.0

    def step(x, Δ, t):
        nonlocal v
        old, v = v, rho * v - eta * Δ
        return (1 + rho) * eta * Δ - rho * rho * old

    return step


def rmsprop(eta, rho, epsilon):
    a = 0.0

    def step(x, Δ, t):
        nonlocal a
        a = rho * a + (1 - rho) * abs(Δ) ** 2
        return eta * Δ / (math.sqrt(a) + epsilon)

    return step


def adagrad(eta, epsilon):
    a = epsilon

    def step(x, Δ, t):
        nonlocal a
        a += abs(Δ) ** 2
        return eta * Δ / (math.sqrt(a) + epsilon)

    return step


def adadelta(rho, epsilon):
    a = d = 0.0

    def step(x, Δ, t):
        nonlocal a, d
        a = rho * a + (1 - rho) * abs(Δ) ** 2
        s = Δ * math.sqrt(d + epsilon) / math.sqrt(a + epsilon)
        d = rho * d + (1 - rho) * abs(s) ** 2
        return s

    return step


def averages(beta):
    """Return a function that gives m̂, v̂, m and v after one more gradient."""
    m = v = 0.0
    β1, β2 = beta

    def average(Δ, t):
        nonlocal m, v
        m = β1 * m + (1 - β1) * Δ
        v = β2 * v + (1 - β2) * abs(Δ) ** 2
        return m / (1 - β1**t), v / (1 - β2**t), m, v

    return average


def adam(eta, beta, epsilon):
    average = averages(beta)

    def step(x, Δ, t):
        m, v, *_ = average(Δ, t)
        return eta * m / (math.sqrt(v) + epsilon)

    return step


def radam(eta, beta, epsilon):
    average, β2 = averages(beta), beta[1]
    most = 2 / (1 - β2) - 1

    def step(x, Δ, t):
        m, v, *_ = average(Δ, t)
        ρ = most - 2 * t * β2**t / (1 - β2**t)
        if ρ <= 4:
            return eta * m
        r = math.sqrt((ρ - 4) * (ρ - 2) * most / ((most - 4) * (most - 2) * ρ))
        return r * eta * m / (math.sqrt(v) + epsilon)

    return step


def adamax(eta, beta, epsilon):
    average, u = averages(beta), 0.0

    def step(x, Δ, t):
        nonlocal u
        _, _, m, _ = average(Δ, t)
        u = max(beta[1] * u, abs(Δ))
        return eta / (1 - beta[0] ** t) * m / (u + epsilon)

    return step


def amsgrad(eta, beta, epsilon):
    m = v = w = epsilon
    β1, β2 = beta

    def step(x, Δ, t):
        nonlocal m, v, w
        m = β1 * m + (1 - β1) * Δ
        v = β2 * v + (1 - β2) * abs(Δ) ** 2
        w = max(w, v)
        return eta * m / (math.sqrt(w) + epsilon)

    return step


def nadam(eta, beta, epsilon):
    average, (β1, β2) = averages(beta), beta

    def step(x, Δ, t):
        _, v, m, _ = average(Δ, t)
        ahead = β1 * m / (1 - β1 ** (t + 1)) + (1 - β1) * Δ / (1 - β1**t)
        return eta * ahead / (math.sqrt(β2 * v) + epsilon)

    return step


def adamw(eta, beta, decay, epsilon):
    average = averages(beta)

    def step(x, Δ, t):
        m, v, *_ = average(Δ, t)
        return eta * (m / (math.sqrt(v) + epsilon) + decay * x)

    return step


def oadam(eta, beta, epsilon):
    inner, old = adam(eta, beta, epsilon), 0.0

    def step(x, Δ, t):
        nonlocal old
        before, old = old, inner(x, Δ, t)
        return 2 * old - before

    return step


def adabelief(eta, beta, epsilon):
    m = s = 0.0
    β1, β2 = beta

    def step(x, Δ, t):
        nonlocal m, s
        m = β1 * m + (1 - β1) * Δ
        s = β2 * s + (1 - β2) * abs(Δ - m) ** 2 + epsilon
        return eta * m / (1 - β1**t) / (math.sqrt(s / (1 - β2**t)) + epsilon)

    return step


def expdecay(eta, decay, decay_step, clip, start):
    def step(x, Δ, t):
        rate = eta
        for past in range(1, t + 1):
            if past > start and past % decay_step == 0:
                rate = max(rate * decay, clip)
        return rate * Δ

    return step


def invdecay(gamma):
    return lambda x, Δ, t: Δ / (1 + gamma * t)


def weightdecay(wd):
    return lambda x, Δ, t: Δ + wd * x


def clipvalue(thresh):
    return lambda x, Δ, t: Δ if abs(Δ) <= thresh else thresh * Δ / abs(Δ)


rates = st.floats(0, 10)
fractions = st.floats(0, 0.999)
betas = st.tuples(fractions, fractions)
epsilons = st.floats(1e-10, 1e-1)
counts = st.integers(1, 4)

EQUATIONS = {
    "Descent": (descent, {"eta": rates}),
    "Momentum": (momentum, {"eta": rates, "rho": fractions}),
    "Nesterov": (nesterov, {"eta": rates, "rho": fractions}),
    "RMSProp": (rmsprop, {"eta": rates, "rho": fractions, "epsilon": epsilons}),
    "ADAGrad": (adagrad, {"eta": rates, "epsilon": epsilons}),
    "ADADelta": (adadelta, {"rho": fractions, "epsilon": epsilons}),
    "ADAM": (adam, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "RADAM": (radam, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "AdaMax": (adamax, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "AMSGrad": (amsgrad, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "NADAM": (nadam, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "ADAMW": (adamw, {"eta": rates, "beta": betas, "decay": rates, "epsilon": epsilons}),
    "OADAM": (oadam, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "AdaBelief": (adabelief, {"eta": rates, "beta": betas, "epsilon": epsilons}),
    "ExpDecay": (
        expdecay,
        {"eta": rates, "decay": rates, "decay_step": counts, "clip": rates, "start": st.integers(0, 4)},
    ),
    "InvDecay": (invdecay, {"gamma": rates}),
    "WeightDecay": (weightdecay, {"wd": rates}),
    "ClipValue": (clipvalue, {"thresh": rates}),
}
LATER_NAMES = {
    "Adam": "ADAM",
    "RAdam": "RADAM",
    "AdaGrad": "ADAGrad",
    "AdaDelta": "ADADelta",
    "NAdam": "NADAM",
    "AdamW": "ADAMW",
    "OAdam": "OADAM",
}
RULES = [name for name in EQUATIONS if name not in ("ExpDecay", "InvDecay", "WeightDecay", "ClipValue")]


def stages_of(case):
    return "-".join(f"{stage['rule']}{stage['args'] or ''}" for stage in case["stages"])


@pytest.mark.parametrize("case", GOLDEN, ids=stages_of)
def test_trajectories_are_the_golden_ones(case):
    opt = Optimiser(*(getattr(mo, stage["rule"])(*stage["args"]) for stage in case["stages"]))
    x = np.array(case["x0"])
    for g, expected in zip(case["grads"], case["x"], strict=True):
        update(opt, x, g)
        np.testing.assert_allclose(x, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize(("dtype", "rtol"), [("f8", 1e-10), ("c16", 1e-10), ("f4", 1e-3), ("c8", 1e-3)])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_rule_equals_its_equation(name, dtype, rtol, data):
    equation, ranges = EQUATIONS[name]
    chosen = {setting: data.draw(values, label=setting) for setting, values in ranges.items()}
    steps, size = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    number = st.integers(-40, 40).map(lambda n: n / 8)  # exact in every dtype
    if np.dtype(dtype).kind == "c":
        number = st.builds(complex, number, number)
    numbers = st.lists(number, min_size=size, max_size=size)
    x0, gs = data.draw(numbers), data.draw(st.lists(numbers, min_size=steps, max_size=steps))

    opt, x = getattr(mo, name)(**chosen), np.array(x0, dtype)
    by_hand = [equation(**chosen) for _ in x0]
    for t, g in enumerate(gs, 1):
        expected = [rule(complex(x[i]) if x.dtype.kind == "c" else float(x[i]), g[i], t)
                    for i, rule in enumerate(by_hand)]  # fmt: skip
        step = apply(opt, x, np.array(g, dtype))
        assert step.dtype == dtype
        np.testing.assert_allclose(step, expected, rtol=rtol, atol=rtol * (1 + np.abs(expected).max()))
        x -= step


@pytest.mark.parametrize(("later", "name"), LATER_NAMES.items())
def test_the_later_name_is_the_same_class(later, name):
    assert getattr(mo, later) is getattr(mo, name)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("name", EQUATIONS)
def test_everything_stays_in_the_dtype_of_the_parameter(name, dtype):
    opt = getattr(mo, name)(**({"thresh": 0.5} if name == "ClipValue" else {}))
    working = np.dtype("f4" if dtype == "f2" else dtype)  # half precision: in single, rounded once
    real = np.zeros(1, working).real.dtype
    for x in (np.ones(3, dtype), np.ones((), dtype)):
        seen = []

        class Watched(type(opt)):
            @staticmethod
            def formula(x, Δ, *rest, original=opt.formula, seen=seen):
                result = original(x, Δ, *rest)
                seen.extend(result if isinstance(result, tuple) else (result,))
                return result

        watched = Watched(**opt.arguments())
        for _ in range(7):  # RADAM changes its ways at step 5
            step = apply(watched, x, np.full(x.shape, 0.5))
            assert step.dtype == dtype
        assert {a.dtype for a in seen} <= {working, real}
        for array in watched.state[x].values():
            assert isinstance(array, tuple) or (array.shape == x.shape and array.dtype in (working, real))
        for kept in watched.real:
            assert watched.state[x][kept].dtype == real


@pytest.mark.parametrize(
    "name", ["ADAM", "RADAM", "AdaMax", "NADAM", "OADAM", "AdaBelief", "RMSProp", "ADAGrad"]
)
def test_adaptive_steps_do_not_depend_on_the_scale_of_the_gradient(name):
    rng = np.random.default_rng(0)
    gs = rng.normal(size=(8, 5))
    plain, scaled = (getattr(mo, name)(epsilon=1e-300) for _ in range(2))
    x = np.zeros(5)
    for t, g in enumerate(gs, 1):
        a, b = apply(plain, x, g), apply(scaled, x, 1024 * g)
        if name == "RADAM" and t <= 4:  # not divided yet
            a = 1024 * a
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["Descent", "Momentum", "Nesterov"])
def test_plain_rules_are_linear_in_the_gradients(name):
    rng = np.random.default_rng(1)
    first, second, both = (getattr(mo, name)() for _ in range(3))
    x = np.zeros(4)
    for f, g in rng.normal(size=(6, 2, 4)):
        together = apply(both, x, 2 * f - 3 * g)
        np.testing.assert_allclose(2 * apply(first, x, f) - 3 * apply(second, x, g), together, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_steps_of_a_rotated_complex_gradient_are_the_rotated_steps(name):
    rng = np.random.default_rng(2)
    turn = np.exp(0.7j)
    straight, rotated = getattr(mo, name)(), getattr(mo, name)()
    if name == "AMSGrad":  # its m starts at ε, which has a direction of its own
        straight.epsilon = rotated.epsilon = 0.0
    if name == "ADADelta":
        straight.rho = rotated.rho = 0.5
    x = np.zeros(3, complex)
    for g in rng.normal(size=(5, 3, 2)) @ [1, 1j]:
        np.testing.assert_allclose(apply(rotated, x, turn * g), turn * apply(straight, x, g), rtol=1e-11)


@pytest.mark.parametrize("name", RULES)
def test_a_complex_parameter_with_real_gradients_moves_as_a_real_one(name):
    rng = np.random.default_rng(3)
    opt_r, opt_c = getattr(mo, name)(), getattr(mo, name)()
    xr, xc = np.ones(3), np.ones(3, complex)
    for g in rng.normal(size=(5, 3)):
        update(opt_r, xr, g)
        update(opt_c, xc, g)
    np.testing.assert_allclose(xc, xr, rtol=1e-12)


@pytest.mark.parametrize("name", ["ADAM", "RADAM", "AdaMax", "NADAM", "ADAMW", "OADAM"])
def test_a_constant_gradient_is_its_own_corrected_average_also_when_beta_changes(name):
    """With bias corrections that are right, m̂ = Δ and v̂ = Δ² at every step, so Adam steps by η."""
    opt, x = getattr(mo, name)(eta=1.0, epsilon=0.0), np.zeros(2)
    g, expected = np.array([3.0, -0.25]), {"NADAM": None, "RADAM": None, "OADAM": None}.get(name, 1.0)
    for t in range(1, 9):
        opt.beta = (0.5, 0.9) if t % 2 else (0.8, 0.99)
        if name == "AdaMax":
            opt.beta = (opt.beta[0], 0.999)
        step = apply(opt, x, g)
        clock = opt.state[x]["clock"]
        m = opt.state[x]["m"] / (1 - clock[1])
        np.testing.assert_allclose(m, g, rtol=1e-12)
        if "v" in opt.keeps:
            np.testing.assert_allclose(opt.state[x]["v"] / (1 - clock[2]), g**2, rtol=1e-12)
        if expected:
            np.testing.assert_allclose(step, np.sign(g), rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_a_rate_may_be_changed_between_any_two_steps(name):
    opt, x, g = getattr(mo, name)(), np.ones(2), np.array([1.0, -2.0])
    update(opt, x, g)
    if hasattr(opt, "eta"):
        opt.eta = 0.0
        if name not in ("Momentum", "Nesterov", "OADAM"):  # these still move by what they have gathered
            assert not apply(opt, x, g).any()
        opt.eta = 0.125
        assert opt.eta == 0.125
        assert apply(opt, x, g).any()


@pytest.mark.parametrize("name", RULES)
def test_a_zero_gradient_gives_no_nan_also_in_half_precision(name):
    for dtype in ("f2", "f4", "c8"):
        step = apply(getattr(mo, name)(), np.ones(3, dtype), np.zeros(3, dtype))
        assert np.isfinite(step).all()


def by_its_own_apply(rule):
    class Through(type(rule)):
        def apply(self, x, Δ):
            return super().apply(x, Δ)

    return Through(**rule.arguments())


COMPOSED = {
    "ClipNorm": lambda: mo.ClipNorm(0.5),
    "composed": lambda: Optimiser(mo.ClipValue(1.0), mo.ADAM(), mo.ClipNorm(1e-3), mo.WeightDecay(0.1)),
    "a rule's own apply": lambda: Optimiser(mo.ClipValue(1.0), by_its_own_apply(mo.ADAM())),
    "a composition's own apply": lambda: by_its_own_apply(Optimiser(mo.ADAM())),
}


@pytest.mark.parametrize("size", [(), 7, 60_000])
@pytest.mark.parametrize("name", [*EQUATIONS, *COMPOSED])
def test_half_precision_is_single_precision_rounded_once_a_step(name, size):
    make = COMPOSED.get(name) or (lambda: getattr(mo, name)(*[0.5] * (name == "ClipValue")))
    rng = np.random.default_rng(0)
    opt, wide, x = make(), make(), np.asarray(rng.normal(size=size)).astype("f2")
    y = x.astype("f4")
    for _ in range(7):
        g = rng.normal(size=size) * 10 ** rng.uniform(-6, 0, size)  # of which half precision loses a part
        update(opt, x, g)
        update(wide, y, g)
        y[...] = y.astype("f2")
        np.testing.assert_array_equal(x, y)
    for a, b in zip(opt.stages(), wide.stages(), strict=True):
        for kept in getattr(a, "keeps", ()):
            np.testing.assert_array_equal(a.state[x][kept], b.state[y][kept])
            assert a.state[x][kept].dtype == "f4"


@pytest.mark.parametrize("size", [7, 60_000])
@pytest.mark.parametrize("make", [mo.ADAM, lambda: by_its_own_apply(mo.ADAM())])
def test_half_precision_goes_on_with_what_was_kept_in_half_precision(make, size):
    opt, wide, x, y = make(), make(), np.ones(size, "f2"), np.ones(size, "f4")
    g = np.linspace(0.5, 1, size).astype("f2")
    update(opt, x, g)
    update(wide, y, g)
    for name in ("m", "v"):
        opt.state[x][name] = opt.state[x][name].astype("f2")
        wide.state[y][name][...] = opt.state[x][name]
    for _ in range(3):
        y[...] = x
        update(opt, x, g)
        update(wide, y, g)
        np.testing.assert_array_equal(x, y.astype("f2"))
        for name in ("m", "v"):
            np.testing.assert_array_equal(opt.state[x][name], wide.state[y][name])
            assert opt.state[x][name].dtype == "f4"


@pytest.mark.parametrize("name", ["ADAM", "RADAM", "NADAM", "ADAMW", "AdaBelief", "AdaMax", "RMSProp"])
def test_adaptive_steps_of_small_gradients_have_the_size_of_the_rate_in_half_precision(name):
    opt, x = getattr(mo, name)(), np.zeros(3, "f2")
    for _ in range(10):
        step = apply(opt, x, np.array([1e-4, -1e-5, 1e-6]))
        assert np.all(np.abs(step) < 0.01)
    assert np.all(step * [1, -1, 1] > 0)  # RADAM's first ones are as small as the gradient


def test_a_step_beyond_half_precision_is_infinite_without_a_warning():
    x = np.zeros(2, "f2")
    update(Descent(1.0), x, np.array([1e6, 1.0]))
    np.testing.assert_array_equal(x, [-np.inf, -1])


def test_clipvalue_keeps_infinity_within_bounds_and_nan_as_it_is():
    step = apply(mo.ClipValue(0.5), np.zeros(4), [np.inf, -np.inf, np.nan, -0.25])
    np.testing.assert_array_equal(step, [0.5, -0.5, np.nan, -0.25])


@pytest.mark.parametrize("dtype", ["c8", "c16"])
@pytest.mark.parametrize("size", [6, 1000, 100_000])
def test_clipvalue_clips_a_complex_infinity_alike_at_every_size(size, dtype):
    g = np.resize(np.array([complex(np.inf, 1), complex(0, -np.inf), 3 + 4j, 0.1j], dtype), size)
    expected = np.resize(np.array([0.5, -0.5j, 0.3 + 0.4j, 0.1j], dtype), size)
    for rule in (mo.ClipValue(0.5), Optimiser(mo.ClipValue(0.5), Descent(1.0))):
        np.testing.assert_allclose(apply(rule, np.zeros(size, dtype), g), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16"])
@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("last", [1.0, np.inf])
def test_clipnorm_of_a_gradient_with_a_nan_is_nan_altogether(last, size, dtype):
    g = np.ones(size, dtype)
    g[1], g[-1] = np.nan, last
    for opt in (mo.ClipNorm(1.0), Optimiser(Descent(1.0), mo.ClipNorm(1e300), Descent(1.0))):
        assert np.all(np.isnan(apply(opt, np.zeros(size, dtype), g)))


def test_clipnorm_scales_finite_elements_whose_norm_is_beyond_the_largest_number():
    step = apply(mo.ClipNorm(1.0), np.zeros(4), np.full(4, -1.7e308))
    np.testing.assert_allclose(step, -0.5, rtol=1e-12)
    step = apply(mo.ClipNorm(1.0), np.zeros(2), np.array([np.inf, 1.0]))
    np.testing.assert_array_equal(step, [np.nan, 0.0])


@pytest.mark.parametrize("size", [1, 10, 100_000])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("f8", 1.0),
        ("f8", 1e200),
        ("f8", 1e-200),
        ("f4", 1e30),
        ("f4", 1e-30),
        ("f2", 6e4),
        ("f2", 1e-5),
        ("c8", 1e30),
    ],
)
def test_clipnorm_scales_to_the_threshold_over_the_whole_range_of_the_dtype(dtype, scale, size):
    if dtype == "f2" and size > 10:
        scale = 1.0
    g = np.full(size, scale, dtype)
    thresh = 0.25 * float(scale) * math.sqrt(size)
    with np.errstate(under="ignore"):
        step = apply(mo.ClipNorm(thresh), np.zeros(size, dtype), g)
        relative = step.astype(complex if dtype[0] == "c" else float) / scale
    assert step.dtype == dtype
    rtol = {"f8": 1e-12, "f4": 1e-5, "c8": 1e-5, "f2": 0.03}[dtype]
    np.testing.assert_allclose(relative, 0.25, rtol=rtol)
    within = apply(mo.ClipNorm(8 * thresh), np.zeros(size, dtype), g)
    np.testing.assert_array_equal(within, g)


def test_clipnorm_takes_each_parameter_by_itself():
    a, b = param(np.zeros(2)), param(np.zeros(2))
    update(mo.ClipNorm(1.0), [a, b], {a: np.array([3.0, 4.0]), b: np.array([0.3, 0.4])})
    np.testing.assert_allclose(a.value, [-0.6, -0.8])
    np.testing.assert_allclose(b.value, [-0.3, -0.4])


def rates_of(opt, counts_of):
    """Return the rate that each parameter sees, updating in the order given."""
    return [float(apply(opt, p, np.ones(1))[0]) for p in counts_of]


def test_expdecay_drops_once_for_all_parameters():
    opt, a, b = mo.ExpDecay(1.0, 0.5, 2, 0.1), np.zeros(1), np.zeros(1)
    assert rates_of(opt, [a, b] * 6) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125]
    assert rates_of(opt, [a, b] * 4) == [0.125, 0.125, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_expdecay_goes_on_when_a_frozen_parameter_stands_on_a_multiple():
    opt, frozen, a = mo.ExpDecay(1.0, 0.5, 2, 0.0), np.zeros(1), np.zeros(1)
    rates_of(opt, [frozen, a, frozen, a])
    assert rates_of(opt, [a] * 4) == [0.5, 0.25, 0.25, 0.125]


def test_expdecay_of_a_parameter_that_comes_late_drops_no_second_time():
    opt, a, late = mo.ExpDecay(1.0, 0.5, 2, 0.0), np.zeros(1), np.zeros(1)
    assert rates_of(opt, [a] * 4 + [late] * 6) == [1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.125]


def test_expdecay_waits_for_its_start_and_can_be_set_at_any_time():
    opt, a = mo.ExpDecay(1.0, 0.5, 2, 0.0, start=3), np.zeros(1)
    assert rates_of(opt, [a] * 4) == [1, 1, 1, 0.5]
    opt.eta = 8.0
    assert rates_of(opt, [a] * 2) == [8, 4]
    mo.reset(opt)
    assert opt.eta == 8.0
    assert rates_of(opt, [a] * 4) == [8, 8, 8, 4]


@pytest.mark.parametrize("size", [1, 3, 50_000])
@pytest.mark.parametrize(
    "settings",
    [
        {"decay_step": 3},
        {"decay_step": 2},
        {"decay_step": 1},
        {"decay_step": 4, "clip": 0.3},
        {"decay_step": 3, "start": 4},
    ],
    ids=repr,
)
@pytest.mark.parametrize("between", [[], [mo.Momentum(0.5)], [mo.ClipNorm(9e9)]], ids=repr)
def test_expdecay_twice_in_a_composition_is_two_turns_one_after_another(size, settings, between):
    once, twice = (mo.ExpDecay(1.0, 0.5, **{"clip": 0.0} | settings) for _ in range(2))
    others, opt = copy.deepcopy(between), Optimiser(twice, *copy.deepcopy(between), twice)
    xs, ys = ([param(np.zeros(size)), param(np.ones(size))] for _ in range(2))
    for _ in range(7):
        update(opt, xs, mo.IdDict((x, np.ones(size)) for x in xs))
        for y in ys:
            step = np.ones(size)
            for rule in (once, *others, once):
                step = apply(rule, y, step)
            update(y, step)
        assert twice.eta == once.eta
        for x, y in zip(xs, ys, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_composing_with_descent_of_rate_one_changes_nothing(name):
    rng = np.random.default_rng(4)
    alone, composed = getattr(mo, name)(), Optimiser(Descent(1), getattr(mo, name)(), Optimiser(Descent(1)))
    x, y = np.ones(3), np.ones(3)
    for g in rng.normal(size=(4, 3)):
        update(alone, x, g)
        update(composed, y, g)
    np.testing.assert_array_equal(x, y)


def test_invdecay_gives_the_rate_of_the_definition():
    x, opt = np.zeros(1), Optimiser(Descent(0.1), mo.InvDecay(0.5))
    steps = [float(apply(opt, x, [1.0])[0]) for _ in range(4)]
    np.testing.assert_allclose(steps, [0.1 / (1 + 0.5 * n) for n in range(1, 5)])
    assert all(a > b for a, b in pairwise(steps))


MADE_ANEW = inspect.signature(mo.Muon).parameters["rest"].default
GIVEN = {"rho": 0.5, "centred": True, "rest": Descent(), "onto": np.abs}
DEFAULTS = {
    "Descent": {"eta": 0.1},
    "Momentum": {"eta": 0.01, "rho": 0.9},
    "Nesterov": {"eta": 0.001, "rho": 0.9},
    "RMSProp": {"eta": 0.001, "rho": 0.9, "epsilon": 1e-8, "centred": False},
    "ADAM": {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-8},
    "RADAM": {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-8},
    "AdaMax": {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-8},
    "ADAGrad": {"eta": 0.1, "epsilon": 1e-8},
    "ADADelta": {"rho": 0.9, "epsilon": 1e-8},
    "AMSGrad": {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-8},
    "NADAM": {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-8},
    "ADAMW": {"eta": 0.001, "beta": (0.9, 0.999), "decay": 0.0, "epsilon": 1e-8},
    "OADAM": {"eta": 0.0001, "beta": (0.5, 0.9), "epsilon": 1e-8},
    "AdaBelief": {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-16},
    "Lion": {"eta": 0.001, "beta": (0.9, 0.999)},
    "Rprop": {"eta": 0.001, "factors": (0.5, 1.2), "limits": (1e-6, 50.0)},
    "Yogi": {"eta": 0.01, "beta": (0.9, 0.999), "epsilon": 0.001},
    "SignDecay": {"wd": 0.001},
    "Adan": {"eta": 0.001, "beta": (0.98, 0.92, 0.99), "decay": 0.0, "epsilon": 1e-8},
    "ScheduleFreeADAMW": {"eta": 0.0025, "beta": (0.9, 0.999), "decay": 0.0, "epsilon": 1e-8},
    "LAMB": {"eta": 0.001, "beta": (0.9, 0.999), "decay": 0.0, "epsilon": 1e-6},
    "Adafactor": {"eta": 0.01, "power": 0.8, "thresh": 1.0, "epsilon": (1e-30, 0.001)},
    "Muon": {"eta": 0.02, "rho": 0.95, "decay": 0.01, "rest": MADE_ANEW},
    "Centralise": {"axis": 0},
    "Project": {"onto": inspect.Parameter.empty},
    "ExpDecay": {"eta": 0.001, "decay": 0.1, "decay_step": 1000, "clip": 1e-4, "start": 0},
    "InvDecay": {"gamma": 0.001},
    "WeightDecay": {"wd": 0.0},
    "ClipValue": {"thresh": inspect.Parameter.empty},
    "ClipNorm": {"thresh": inspect.Parameter.empty},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_and_their_defaults_in_the_order_of_the_signature(name):
    cls, defaults = getattr(mo, name), DEFAULTS[name]
    shown = inspect.signature(cls).parameters
    assert {setting: p.default for setting, p in shown.items()} == defaults
    if inspect.Parameter.empty not in defaults.values():
        for setting in shown:
            assert getattr(cls(), setting) == defaults[setting] or defaults[setting] is MADE_ANEW
    tuples = {n: tuple(0.25 * (i + 1) for i in range(n)) for n in (2, 3)}
    given = [
        tuples[len(defaults[name])] if isinstance(defaults[name], tuple) else GIVEN.get(name, i + 7)
        for i, name in enumerate(shown)
    ]
    opt = cls(*given)
    assert [getattr(opt, setting) for setting in shown] == given


def test_no_rule_is_missing_from_the_table_of_defaults():
    rules = {cls.__name__ for cls in vars(mo).values() if isinstance(cls, type) and issubclass(cls, mo.Rule)}
    assert rules - {"Rule"} == set(DEFAULTS)


@pytest.mark.parametrize("decay_step", [1, 2])
def test_expdecay_drops_at_the_same_steps_again_after_a_reset(decay_step):
    opt, a = mo.ExpDecay(1.0, 0.5, decay_step, 0.0), np.zeros(1)
    for _ in range(3):
        assert rates_of(opt, [a] * 4) == [0.5 ** (t // decay_step) for t in range(1, 5)]
        mo.reset(opt)


def test_parameters_of_one_update_see_a_rate_that_decays_as_one_after_another():
    def steps(is_one_update):
        opt, early, late = mo.ExpDecay(1.0, 0.5, 2, 0.0), param(np.zeros(1)), param(np.zeros(1))
        update(opt, early, np.ones(1))
        for _ in range(5):
            for ps in [[early, late]] if is_one_update else [[early], [late]]:
                update(opt, ps, {p: np.ones(1) for p in ps})
        return [float(p.value[0]) for p in (early, late)]

    assert steps(is_one_update=True) == steps(is_one_update=False)
