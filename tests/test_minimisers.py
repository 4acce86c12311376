"""SciPy's minimisers reach known minima, in place, and leave the best point whatever happens."""

import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

from minidiff import Param, Params, dropgrad, hvp, param, params, stop
from minidiff.optimise import early_stopping, least_squares, minimize
from minidiff.optimise.minimisers import _METHODS

optimize = pytest.importorskip("scipy.optimize")
BOUNDED = [method for method, takes in _METHODS.items() if "bounds" in takes]


def rosenbrock(dtype="f8"):
    """Give a loss with its minimum 0 at (1, 1), and its parameters, of different shapes."""
    a, b = param(-1.2, dtype), param([[1.0]], dtype)
    return (lambda: (1 - a) ** 2 + 100 * np.sum((b - a**2) ** 2)), params(a, b)


def bowl(n=5, seed=0):
    """Give a positive definite quadratic, its parameters, and its minimiser."""
    rng = np.random.default_rng(seed)
    A, c = rng.normal(size=(n, n)), rng.normal(size=n)
    A, (v, w) = A @ A.T + np.eye(n), (param(np.zeros(2)), param(np.zeros(n - 2)))

    def loss():
        x = np.concatenate([v, w])
        return x @ A @ x / 2 - c @ x

    return loss, params(v, w), np.linalg.solve(A, c)


@pytest.mark.parametrize("method", _METHODS)
def test_every_method_reaches_the_minimum(method):
    loss, θ = rosenbrock()
    result = minimize(loss, θ, method, tol=1e-6 if method == "trust-krylov" else 1e-9)
    assert result.success
    np.testing.assert_allclose(θ.to_vector(), [1, 1], rtol=1e-3)
    np.testing.assert_array_equal(θ.to_vector(), result.x)
    assert loss() == pytest.approx(result.fun, abs=1e-15)
    loss, θ, minimiser = bowl()
    minimize(loss, θ, method, tol=1e-6 if method == "trust-krylov" else 1e-10)
    np.testing.assert_allclose(θ.to_vector(), minimiser, atol=1e-4)


def test_second_derivatives_are_used():
    loss, θ, _ = bowl()
    result = minimize(loss, θ, "trust-exact")
    assert result.nhev > 0
    result = minimize(*bowl()[:2], "Newton-CG")
    assert result.nhev > 0
    a = param(1.0)
    result = minimize(lambda: np.cos(a) - a, params(a), "dogleg")  # the Hessian there is negative
    assert not result.success
    assert "non-psd Hessian" in result.message
    assert a == 1


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("mixed", [False, True])
def test_single_precision_is_minimised_to_its_own_digits(method, mixed):
    loss, θ = rosenbrock("f4")
    if mixed:
        θ |= params(param(np.zeros(2)))
    first = loss
    total = (lambda: first() + np.sum((θ[2] - 3) ** 2)) if mixed else first
    result = minimize(total, θ, method, **({"maxfun": 2000} if method == "TNC" else {}))
    assert result.success, result.message
    assert θ[0].dtype == "f4"
    assert total() < 1e-4
    np.testing.assert_allclose(θ.to_vector()[:2], [1, 1], atol=1e-2)


@pytest.mark.parametrize("method", ["L-BFGS-B", "Newton-CG", "trust-krylov"])
def test_complex_parameters_are_minimised_by_both_parts(method):
    z, w = param([1 + 1j, 0]), param(2.0)
    target = np.array([2 - 3j, 1j])
    loss = lambda: np.sum(np.abs(z - target) ** 4) + np.abs(w * z[0] - 1) ** 2
    result = minimize(loss, params(z, w), method, tol=1e-6 if method == "trust-krylov" else 1e-10)
    assert result.x.shape == (6,)
    np.testing.assert_array_equal(result.x[:4].view(complex), z.value)
    np.testing.assert_allclose(result.jac, 0, atol=1e-4)
    H = np.array([np.ravel(hvp(loss, params(z, w), {z: v})[z].view(float)) for v in np.eye(4).view(complex)])
    assert np.linalg.eigvalsh(H).min() > -1e-3  # no saddle
    with pytest.raises(TypeError, match="must be real"):
        minimize(loss, params(z, w), "trust-exact")
    with pytest.raises(TypeError, match="must be real, got complex parameters"):
        least_squares(lambda: np.abs(z), params(z))


@pytest.mark.parametrize("method", BOUNDED)
def test_bounds_hold_at_every_evaluation_and_the_minimum_is_the_constrained_one(method):
    a, b, met = param([3.0, -4.0]), param(5.0), []

    def loss():
        met.append(dropgrad(a))
        return np.sum((a - [1, 2]) ** 2) + (b + 1) ** 2

    minimize(
        loss, params(a, b), method, bounds={a: (np.array([-np.inf, -5]), [0.5, 1]), b: (None, 7)}, tol=1e-9
    )
    np.testing.assert_allclose(a, [0.5, 1], atol=1e-4)
    np.testing.assert_allclose(b, -1, atol=1e-4)
    assert all(x[0] <= 0.5 and -5 <= x[1] <= 1 for x in met)
    minimize(loss, params(a, b), method, bounds=(2, None), tol=1e-9)
    np.testing.assert_allclose([*a, b], 2, atol=1e-3)


@pytest.mark.parametrize("method", ["L-BFGS-B", "trust-constr"])
@pytest.mark.parametrize("start", [0.0, 2.0, -1.0, 5.0])
@pytest.mark.parametrize(
    ("bounds", "end"), [((0, 2), 1.0), ((0, None), 1.0), ((None, 2), 1.0), ((0, 0.5), 0.5)]
)
def test_a_search_that_starts_on_its_bounds_or_beyond_reaches_the_minimum(method, start, bounds, end):
    a, b = param(np.full(2, start)), param(start)
    result = minimize(lambda: np.sum((a - 1) ** 2) + (b - 1) ** 2, params(a, b), method, bounds={a: bounds})
    assert result.success
    np.testing.assert_allclose(a, end, atol=1e-3)
    np.testing.assert_allclose(b, 1, atol=1e-3)


@pytest.mark.parametrize("start", [0.0, 1e-6, 0.3, 1.0, 1000.0, 5000.0])
@pytest.mark.parametrize("high", [1.0, 1e-3, 5000.0])
def test_the_interior_point_method_begins_hardly_off_its_bounds(start, high):
    x, met = param([start]), []
    minimize(
        lambda: met.append(float(x.value[0])) or np.sum(x**2),
        params(x),
        "trust-constr",
        bounds=(0.0, high),
        maxiter=1,
    )
    inside = min(start, high)
    room = min(1e-4 * max(1.0, inside), high / 4)
    np.testing.assert_allclose(met[0], np.clip(inside, room, high - room), rtol=1e-12)


@pytest.mark.parametrize("ends", ["interrupt", "signal", "stop", "error"])
@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "trust-krylov", "lm", "trf"])
def test_the_best_point_is_kept_when_the_search_ends_early(method, ends):
    loss, θ = rosenbrock()
    met = []

    def noted():
        value = loss()
        met.append(float(dropgrad(value)))
        if len(met) == 12:
            if ends == "signal":
                signal.raise_signal(signal.SIGINT)
            raise (
                {"interrupt": KeyboardInterrupt, "error": ZeroDivisionError}[ends]
                if ends != "stop"
                else stop()
            )
        return value

    def residuals():
        noted_value = noted()
        return np.stack([1 - θ[0], 10 * (θ[1] - θ[0] ** 2)[0, 0]]) + 0 * noted_value

    def search():
        if method in ("lm", "trf"):
            return least_squares(residuals, θ, method=method)
        return minimize(noted, θ, method)

    if ends == "error":
        with pytest.raises(ZeroDivisionError):
            search()
    else:
        result = search()
        assert not result.success
        assert "The parameters are at the best point met" in result.message
        assert ("Ctrl-C" in result.message) == (ends != "stop")
        np.testing.assert_array_equal(result.x, θ.to_vector())
        assert 0 < result.nfev < len(met)
        assert result.status == 99  # SciPy's own number of a search that its callback has ended
    assert loss() == min(met[:-1])


def test_a_search_that_runs_out_of_iterations_leaves_the_best_point_and_says_so():
    loss, θ = rosenbrock()
    result = minimize(loss, θ, maxiter=3)
    assert not result.success
    assert "best point" in result.message
    assert loss() == result.fun < 4.2
    result = least_squares(lambda: np.stack([loss()]) ** 0.25 * np.exp(θ[0]), θ, max_nfev=2)
    assert not result.success
    np.testing.assert_array_equal(result.x, θ.to_vector())


def test_the_callback_is_called_as_that_of_train_with_the_parameters_in_place():
    for method in _METHODS:
        loss, θ = rosenbrock()
        losses, steps = [], []
        minimize(loss, θ, method, callback=[lambda: losses.append(float(loss())), lambda p: steps.append(p)])
        assert [p.step for p in steps] == list(range(1, len(steps) + 1)), method
        np.testing.assert_allclose([p.loss for p in steps], losses, rtol=1e-12)
    loss, θ = rosenbrock()
    result = minimize(loss, θ, callback=early_stopping(lambda progress: progress.loss, 1, init_score=2.0))
    assert "stop() was called" in result.message
    assert loss() == result.fun
    loss, θ = rosenbrock()
    minimize(loss, θ, callback=lambda p: p.step == 2 and stop())
    assert loss() > 1


def test_a_search_has_the_parameters_that_were_in_the_set_when_it_began():
    loss, θ = rosenbrock()
    expected = minimize(loss, θ, maxiter=5).x
    loss, θ = rosenbrock()
    searched = Params(θ)
    minimize(loss, θ, maxiter=5, callback=lambda: θ.discard(searched[0]))
    np.testing.assert_array_equal(searched.to_vector(), expected)
    residuals = lambda: np.stack([θ.discard(p) or p * 1.0 - 3.0 for p in numbers])
    θ = Params(numbers := [param(1.0), param(2.0)])
    assert least_squares(residuals, θ).success
    assert numbers == [3.0, 3.0]


@pytest.mark.parametrize("maxiter", [None, np.inf, 10**6])
def test_progress_shows_a_bar(maxiter, capsys):
    loss, θ = rosenbrock()
    result = minimize(loss, θ, progress=True, maxiter=maxiter)
    shown = capsys.readouterr().err
    assert f"{result.nit}step" in shown.replace(" ", "").replace("steps", "step") or "step" in shown
    assert "loss" in shown


def test_l_bfgs_remembers_more_steps_where_they_are_small():
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    A = Q * np.geomspace(1, 1000, 20) @ Q.T

    def evaluations(**options):
        w = param(np.zeros(20))
        return minimize(lambda: w @ A @ w / 2 - np.sum(w), params(w), ftol=0, gtol=1e-8, **options).nfev

    assert evaluations() == evaluations(maxcor=50) < 0.7 * evaluations(maxcor=10)
    w = param(np.zeros(2**20))  # of which 50 steps would take 800 MB
    assert minimize(lambda: np.sum((w - 1) ** 2), params(w)).hess_inv.n_corrs <= 10


def test_a_compiled_loss_takes_the_same_way():
    eager, compiled = [], []
    for found, how in ((eager, False), (compiled, True)):
        loss, θ, _ = bowl()
        found.append(minimize(loss, θ, compiled=how).x)
    np.testing.assert_array_equal(eager, compiled)


@pytest.mark.parametrize("options", [{}, {"method": "lm"}, {"loss": "soft_l1"}, {"bounds": (0, 10)}])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_least_squares_finds_the_curve(options, dtype):
    x = np.linspace(0, 4, 30, dtype=dtype).reshape(5, 6)
    height, rate = param([1.0], dtype), param(1.0, dtype)
    residuals = lambda: height * np.exp(-rate * x) - 3 * np.exp(-x / 2)
    result = least_squares(residuals, params(height, rate), **options)
    assert result.success
    np.testing.assert_allclose([height[0], rate], [3, 0.5], rtol=1e-3 if dtype == "f4" else 1e-6)
    e = np.exp(-rate * x)
    by_hand = np.stack([np.ravel(e), np.ravel(-height * x * e)], axis=1)
    if "loss" not in options:
        np.testing.assert_allclose(result.jac, by_hand, rtol=1e-3, atol=1e-5)
    assert result.cost < 1e-6


@pytest.mark.parametrize("search", [minimize, least_squares])
def test_within_bounds_each_element_comes_as_near_as_it_may(search):
    goal, x = np.array([[3.0, -2.0], [0.25, 0.75]]), param(np.full((2, 2), 0.5))
    f = (lambda: x - goal) if search is least_squares else lambda: np.sum((x - goal) ** 2)
    search(f, params(x), bounds={x: (0.0, 1.0)})
    np.testing.assert_allclose(x, np.clip(goal, 0, 1), atol=1e-6)


def soft(z):
    return np.stack([2 * ((1 + z) ** 0.5 - 1), (1 + z) ** -0.5, -0.5 * (1 + z) ** -1.5])


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("robust", ["linear", "soft_l1", "huber", "cauchy", "arctan", soft])
def test_an_interrupt_of_least_squares_leaves_the_least_cost_that_was_met(robust, scale):
    x = np.arange(10.0)
    y = 2 * x + np.where(x == 9, 101.0, 1.0)
    nearest, met = np.linalg.lstsq(np.stack([x, np.ones(10)], 1), y)[0], []
    w = param(np.zeros(2) if robust == "linear" else nearest)

    def residuals():
        r = w[0] * x + w[1] - y
        if len(met) == (3 if robust == "linear" else 12):
            raise KeyboardInterrupt
        met.append(np.array(dropgrad(r)))
        return r

    def cost(r):
        options = {"loss": robust, "f_scale": scale, "max_nfev": 1}
        return optimize.least_squares(lambda v: r, [0.0], lambda v: np.zeros((10, 1)), **options).cost

    result = least_squares(residuals, params(w), loss=robust, f_scale=scale, xtol=None, ftol=None, gtol=1e-15)
    least = min(map(cost, met))
    np.testing.assert_allclose([result.cost, cost(w.value[0] * x + w.value[1] - y)], least)
    assert least < cost(met[0])


def test_least_squares_stops_where_scipy_does():
    x, start = np.linspace(0, 4, 30), np.ones(2)
    height, rate = (param(value) for value in start)
    result = least_squares(lambda: height * np.exp(-rate * x) - np.cos(x), params(height, rate))
    jacobian = lambda v: np.stack([np.exp(-v[1] * x), -v[0] * x * np.exp(-v[1] * x)], axis=1)
    by_hand = optimize.least_squares(lambda v: v[0] * np.exp(-v[1] * x) - np.cos(x), start, jacobian)
    assert result.nfev == by_hand.nfev
    np.testing.assert_allclose(result.x, by_hand.x, rtol=1e-10)


def test_least_squares_of_a_linear_model_is_the_normal_equations():
    rng = np.random.default_rng(0)
    A, y, W = rng.normal(size=(20, 3)), rng.normal(size=20), param(np.zeros(3))
    result = least_squares(lambda: A @ W - y, params(W))
    np.testing.assert_allclose(W, np.linalg.lstsq(A, y, rcond=None)[0], atol=1e-8)
    assert result.njev <= 3


def test_bad_input_is_refused_by_name_and_nothing_changes():
    a, h, z = param([1.0, 2.0]), param([1.0], "f2"), param(1j)
    loss = lambda: np.sum(a**2)
    for message, error, call in (
        ("method must be one that uses gradients, of L-BFGS-B, .*'Powell'", ValueError,
            lambda: minimize(loss, params(a), "Powell")),
        ("loss must be a function", TypeError, lambda: minimize(loss(), params(a))),
        (r"loss must be .* got Params(.|\n)*order is minimize\(loss, ps\), as in minimize\(lambda", TypeError,
            lambda: minimize(params(a), loss)),
        (r"residuals must be .* got Params(.|\n)*order is least_squares\(residuals, ps\)", TypeError,
            lambda: least_squares(params(a), lambda: a - 1)),
        ("maxiter must be an integer, got str 'a'", TypeError,
            lambda: minimize(loss, params(a), maxiter="a", progress=True)),
        (r"takes no maxiter=: it counts evaluations, maxfun=", TypeError,
            lambda: minimize(loss, params(a), "TNC", maxiter=2)),
        ("ps must be Params", TypeError, lambda: minimize(loss, a)),
        ("ps must have elements", ValueError, lambda: minimize(loss, params())),
        ("ps must have elements", ValueError, lambda: minimize(loss, params(param(np.zeros((0, 3)))))),
        (r"none in half precision, got Params(.|\n)*1  \(1,\)  float16", ValueError,
            lambda: minimize(loss, params(a, h))),
        ("method must be one that takes bounds, of L-BFGS-B, TNC, SLSQP, trust-constr; got 'CG'", ValueError,
            lambda: minimize(loss, params(a), "CG", bounds=(0, 1))),
        ("bounds are for real parameters, all of them in ps", ValueError,
            lambda: minimize(loss, params(a), bounds={z: (0, 1)})),
        ("bounds are for real parameters", ValueError, lambda: minimize(loss, params(a, z), bounds=(0, 1))),
        ("parameter 0 must be a pair of numbers or .*, got int 3", ValueError,
            lambda: minimize(loss, params(a), bounds={a: 3})),
        ("the lower before the upper", ValueError,
            lambda: minimize(loss, params(a), bounds=(1, [0, 2]))),
        ("the lower before", ValueError, lambda: minimize(loss, params(a), bounds=(np.nan, 1))),
        (r"of one pair for each element tuple\(zip\(\*pairs\)\) makes it", ValueError,
            lambda: minimize(loss, params(a), bounds=[(0, 1), (0, 2)])),
        (r"of one pair for each element", ValueError,
            lambda: minimize(loss, params(a), bounds=[(0, None), (0, 2)])),
        (r"arrays \(2,\), .* got tuple of 2", ValueError,
            lambda: minimize(loss, params(a), bounds=(0, np.ones(3)))),
        ("callback must be a function", TypeError, lambda: minimize(loss, params(a), callback=[3])),
        ("gradient of parameter 0 is not finite where the search begins", FloatingPointError,
            lambda: minimize(lambda: np.sum(np.sqrt(a - 1)), params(a))),
        ("residuals and parameters must be real", TypeError,
            lambda: least_squares(lambda: np.abs(a), params(a, z))),
        ("residuals and parameters must be real, got an ndarray", TypeError,
            lambda: least_squares(lambda: a * 1j, params(a))),
        ("residuals must be a function", TypeError, lambda: least_squares(3, params(a))),
        ("must be real, got list of 2.*np.stack makes one", TypeError,
            lambda: least_squares(lambda: [a[0], a[1]], params(a))),
        ("must be real, got None", TypeError, lambda: least_squares(lambda: None, params(a))),
        ("tol must be a number, got str 'a'", TypeError, lambda: minimize(loss, params(a), tol="a")),
        ("tol must be in", ValueError, lambda: minimize(loss, params(a), tol=-1)),
        ("one real number", TypeError, lambda: minimize(lambda: a * 2, params(a))),
    ):  # fmt: skip
        with np.errstate(all="ignore"), pytest.raises(error, match=message):
            call()
        np.testing.assert_array_equal(a, [1, 2])
    fixed = param([1.0])
    fixed.value.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        minimize(lambda: np.sum(a**2) + fixed[0] ** 2, params(a, fixed))
    np.testing.assert_array_equal(a, [1, 2])


OPTIONS = {
    "L-BFGS-B": ("ftol gtol", "maxcor maxls maxfun maxiter"),
    "TNC": ("accuracy ftol gtol minfev rescale stepmx xtol", "maxCGit maxfun"),
    "SLSQP": ("ftol", "maxiter"),
    "trust-constr": ("gtol xtol barrier_tol initial_constr_penalty initial_tr_radius", "maxiter"),
    "CG": ("gtol norm c1 c2", "maxiter"),
    "BFGS": ("gtol norm xrtol c1 c2", "maxiter"),
    "Newton-CG": ("xtol c1 c2", "maxiter"),
    "trust-exact": ("gtol initial_trust_radius max_trust_radius", "maxiter"),
    "least_squares": ("ftol gtol xtol f_scale", "max_nfev"),
}


@pytest.mark.parametrize("method", OPTIONS)
def test_an_option_that_is_to_be_a_number_is_checked_before_anything_moves(method):
    W = param([3.0, -2.0])

    def search(**options):
        if method == "least_squares":
            return least_squares(lambda: (W - 1) ** 2, params(W), **options)
        return minimize(lambda: np.sum((W - 1) ** 4), params(W), method, **options)

    numbers, counts = map(str.split, OPTIONS[method])
    for name in (*numbers, *counts):
        what = "an integer" if name in counts else "a number"
        for wrong in ("100", [1.0], 1j, np.ones(2), True):
            with pytest.raises(TypeError, match=f"^{name} must be {what}, got"):
                search(**{name: wrong})
        if name in counts:
            with pytest.raises(ValueError, match=f"^{name} must be a whole number, got 2.5"):
                search(**{name: 2.5})
        np.testing.assert_array_equal(W, [3.0, -2.0])
    for number in (3, np.int8(3), np.array(3)):
        W[...] = 3.0, -2.0
        assert not search(**{counts[-1]: number}).success


@pytest.mark.parametrize("search", [minimize, least_squares])
def test_parameters_that_share_memory_are_refused_and_others_of_one_array_are_not(search):
    def residuals():
        return np.concatenate([p - [1, 2], q - [5, 3]])

    f = residuals if search is least_squares else lambda: np.sum(residuals() ** 2)
    memory = np.arange(4.0)
    for q in (Param(memory[1:3]), Param(memory[:2]), Param(memory[::-1][2:]), Param(memory[::3])):
        p, alone = Param(memory[:2]), param([1.0])
        with pytest.raises(
            ValueError, match=r"parameters 0\['first'\] and 1\['last'\] share memory.* array of its own"
        ):
            search(f, params({"first": p}, {"alone": alone, "last": q}))
        assert memory.tolist() == [0, 1, 2, 3]
    for p, q in ((memory[:2], memory[2:]), (memory[::2], memory[1::2])):
        p, q = Param(p), Param(q)
        assert search(f, params(p, q)).success
        np.testing.assert_allclose(np.concatenate([p, q]), [1, 2, 5, 3], atol=1e-4)


def test_what_is_called_otherwise_than_scipys_is_told_how():
    x, y, w = np.arange(4.0), np.ones(4), param(np.ones(3))
    loss = lambda x, y: np.sum((w[0] * x + w[1] - y) ** 2)
    for call, what in [
        (
            lambda: minimize(lambda w: np.sum(w**2), np.ones(3)),
            r"\(w\): minimize\(lambda: loss\(…\), ps\).*param\(",
        ),
        (lambda: minimize(loss, params(w)), r"\(x, y\): minimize\(lambda: loss\(…\), ps\)"),
        (lambda: minimize(loss, params(w), [(x, y)]), r"minimize\(lambda: loss\(…\), ps\)"),
        (lambda: minimize(lambda: loss(x, y), params(w), [(x, y)]), "method must be"),
        (lambda: minimize(lambda: loss(x, y), w.value), r"param\(array\), or params\(model\)"),
        (lambda: least_squares(loss, params(w)), r"least_squares\(lambda: residuals\(…\), ps\)"),
        (lambda: least_squares(lambda: loss(x, y), params(w)), r"not their mean .* minimize\(loss, ps\)"),
    ]:
        with pytest.raises((TypeError, ValueError), match=what) as caught:
            call()
        assert len(str(caught.value)) < 260
    assert w.value.tolist() == [1, 1, 1]
    minimize(lambda: loss(x, y), params(w))
    assert loss(x, y) < 1e-8
    least_squares(lambda: w[0] * x + w[1] - 2 * y, params(w))
    assert loss(x, 2 * y) < 1e-8


def test_strided_parameters_and_such_without_influence_are_allowed():
    memory = np.arange(6.0)
    W, idle, empty = Param(memory[::2]), param([5.0]), param(np.zeros((0, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimize(lambda: np.sum((W - 1) ** 2), params(W, idle, empty), tol=1e-12)
    np.testing.assert_allclose(memory, [1, 1, 1, 3, 1, 5], atol=1e-6)
    assert idle == 5


def test_scipy_is_imported_when_it_is_used_and_its_error_names_the_extra():
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from minidiff import param, params; from minidiff.optimise import minimize\n"
        "a = param(1.0); minimize(lambda: a**2, params(a))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "minimize needs SciPy: pip install 'minidiff[scipy]'" in ran.stderr


@pytest.mark.parametrize(
    "name", ["x0", "fun", "options", "args", "jac", "hess", "hessp", "constraints", "max_iter", "lr"]
)
def test_what_scipy_takes_otherwise_is_told(name):
    w = param(np.ones(2))
    with pytest.raises(TypeError, match=f"minimize takes no {name}=: "):
        minimize(lambda: np.sum(w**2), params(w), **{name: {}})
    with pytest.raises(TypeError, match=f"least_squares takes no {name}=: "):
        least_squares(lambda: w, params(w), **{name: {}})
    assert w.value.tolist() == [1, 1]


def test_a_search_that_is_stopped_tells_of_its_iterations():
    w, seen = param(np.array([-1.2, 1.0])), []
    rosenbrock = lambda: 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2
    result = minimize(rosenbrock, params(w), callback=lambda p: seen.append(p) or len(seen) < 4 or stop())
    assert (result.nit, result.success) == (4, False)


def test_residuals_that_do_not_reach_the_parameters_are_warned_of():
    w = param(np.ones(2))
    with pytest.warns(UserWarning, match="reaches none of the parameters"):
        least_squares(lambda: w.value - 3, params(w))


@pytest.mark.filterwarnings("ignore:divide", "ignore:invalid")
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "CG", "Newton-CG", "SLSQP", "TNC"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda W: np.log(np.sum((W - 1) ** 2) - 3) + np.sum((W - 1) ** 2),  # NaN about its own minimum
        lambda W: np.sum(np.log(np.maximum(W + 3, 0.0))),
    ],
)
def test_what_is_no_number_is_no_minimum(method, loss):
    """SciPy reports success at NaN, where no comparison fails."""
    W = param([3.0, -2.0])
    result = minimize(lambda: loss(W), params(W), method)
    np.testing.assert_array_equal(W.value, result.x)
    assert result.fun == loss(W.value) <= loss(np.array([3.0, -2.0]))
    assert np.isfinite(result.fun) or not result.success


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_after_a_loss_that_is_not_finite_the_result_is_that_of_the_best_point():
    w, calls = param([3.0]), iter(range(1000))
    result = minimize(lambda: np.sum(np.cosh(w)) * (np.nan if next(calls) > 2 else 1), params(w))
    assert not result.success
    np.testing.assert_array_equal(w.value, result.x)
    np.testing.assert_allclose(result.fun, np.cosh(result.x[0]))


@pytest.mark.parametrize("dtype", ["f4", "f8", "longdouble", "clongdouble"])
def test_what_does_not_move_keeps_all_its_digits(dtype):
    w, rest = param([1.0]), param(np.array([1, 2], dtype) / 3)
    before = rest.value.copy()
    with pytest.raises(ZeroDivisionError):
        minimize(lambda: 1 / 0, params(w, rest))
    np.testing.assert_array_equal(rest.value, before)
    assert minimize(lambda: np.sum((w - 3) ** 2), params(w, rest)).success
    np.testing.assert_array_equal(rest.value, before)
    np.testing.assert_allclose(w.value, 3, rtol=1e-5)
