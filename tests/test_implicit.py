"""Derivatives of solutions are those of the implicit function theorem; recomputing changes memory alone."""

import threading
import tracemalloc
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest

from minidiff import (
    check_gradient,
    compiled,
    dropgrad,
    fixed_point,
    gradient,
    hessian,
    hvp,
    implicit,
    implicit_root,
    jacobian,
    jvp,
    param,
    params,
    recompute,
    withgradient,
)

rng = np.random.default_rng(0)


def newton(f, x, *args):
    """Solve f(x, …) = 0 with plain numbers."""
    x, args = np.asarray(x, float), dropgrad(args)
    for _ in range(50):
        J = jacobian(lambda x: f(x, *args), x)[0].reshape(x.size, x.size)
        x = x - np.linalg.solve(J, np.ravel(f(x, *args))).reshape(x.shape)
    return x


@pytest.fixture(params=["dense", "GMRES"])
def solver(request, monkeypatch):
    if request.param == "GMRES":
        pytest.importorskip("scipy")
        monkeypatch.setattr(implicit, "_DENSE", 0)


@pytest.mark.usefixtures("solver")
def test_a_root_has_the_derivatives_of_its_closed_form():
    root = lambda a, b: implicit_root(lambda x, a, b: x**2 + b * x - a, newton(EQUATION, 1.0, a, b), a, b)
    exact = lambda a, b: (-b + np.sqrt(b**2 + 4 * a)) / 2
    np.testing.assert_allclose(root(2.0, 3.0), exact(2.0, 3.0))
    np.testing.assert_allclose(gradient(root, 2.0, 3.0), gradient(exact, 2.0, 3.0))
    of_vector = lambda f: lambda v: f(v[0], v[1])
    v = np.array([2.0, 3.0])
    np.testing.assert_allclose(hessian(of_vector(root), v), hessian(of_vector(exact), v))
    third = lambda f: hessian(lambda a: gradient(f, a, 3.0)[0], 2.0)
    np.testing.assert_allclose(third(root), third(exact))


EQUATION = lambda x, a, b: x**2 + b * x - a


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_derivatives_of_systems_are_those_of_differences(shape):
    n = int(np.prod(shape))
    A = rng.normal(size=(n, n)) / n

    def f(x, a, nested):
        linear = np.reshape(A @ np.ravel(x), np.shape(x))
        return x**3 + 2 * x + linear * nested["scale"][0] - np.sin(a) - nested["shift"]

    def solution(a, scale, shift):
        nested = {"scale": [scale], "shift": shift, "name": "nothing to differentiate"}
        x = newton(f, np.ones(shape), a, nested)
        return implicit_root(f, x, a, nested)

    check_gradient(solution, rng.normal(size=shape), 0.7, rng.normal(size=shape))


@pytest.mark.usefixtures("solver")
def test_parameters_that_the_equation_reaches_count_and_others_do_not():
    W, b, idle = param(rng.normal(size=(3, 3)) / 4), param(rng.normal(size=3)), param(np.ones(2))
    f = lambda z, x: np.tanh(W @ z + b + x) - z
    loss = lambda x: np.sum(implicit_root(f, newton(f, np.zeros(3), x), x) ** 2) + idle[0] ** 2

    def unrolled(x):
        z = np.zeros(3)
        for _ in range(200):
            z = np.tanh(W @ z + b + x)
        return np.sum(z**2) + idle[0] ** 2

    x, θ = rng.normal(size=3), params(W, b, idle)
    for p, g in gradient(lambda: unrolled(x), θ).items():
        np.testing.assert_allclose(gradient(lambda: loss(x), θ)[p], g, atol=1e-10)
    np.testing.assert_allclose(gradient(loss, x), gradient(unrolled, x), atol=1e-10)
    v = gradient(lambda: unrolled(x), θ)
    np.testing.assert_allclose(
        hvp(lambda: loss(x), θ, v).to_vector(), hvp(lambda: unrolled(x), θ, v).to_vector(), atol=1e-8
    )
    np.testing.assert_allclose(hessian(lambda: loss(x), θ), hessian(lambda: unrolled(x), θ), atol=1e-8)


def test_the_matrix_and_gmres_agree_on_many_unknowns():
    pytest.importorskip("scipy")
    n = 300
    D = np.diag(np.full(n, 2.5)) - np.eye(n, k=1) - np.eye(n, k=-1)
    a, x = rng.normal(size=n), np.zeros(n)
    for _ in range(20):
        x = x - np.linalg.solve(D + np.diag(3 * x**2), D @ x + x**3 - a)
    loss = lambda a: np.sum(implicit_root(lambda x, a: D @ x + x**3 - a, x, a) ** 2)
    exact = np.linalg.solve((D + np.diag(3 * x**2)).T, 2 * x)
    np.testing.assert_allclose(gradient(loss, a)[0], exact, atol=1e-9)
    v = rng.normal(size=n)
    e = 1e-5
    plus, minus = (
        gradient(lambda a: np.sum(implicit_root(lambda x, a: D @ x + x**3 - a, y, a) ** 2), a + s * e * v)[0]
        for s, y in ((1, moved(D, x, a + e * v)), (-1, moved(D, x, a - e * v)))
    )
    np.testing.assert_allclose(hvp(loss, a, v), (plus - minus) / (2 * e), rtol=1e-5, atol=1e-7)


def moved(D, x, a):
    for _ in range(5):
        x = x - np.linalg.solve(D + np.diag(3 * x**2), D @ x + x**3 - a)
    return x


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "longdouble"])
def test_roots_keep_their_dtype(dtype):
    a = np.array([2.0, 3.0], dtype)
    value, (g,) = withgradient(
        lambda a: np.sum(implicit_root(lambda x, a: x * x - a, np.sqrt(dropgrad(a)), a)), a
    )
    assert g.dtype == value.dtype == dtype
    np.testing.assert_allclose(
        g, 0.5 / np.sqrt(a), rtol=1e-12 if g.dtype.itemsize > 4 else 10 * np.finfo(dtype).eps
    )


def test_roots_of_nothing_have_a_gradient_of_nothing():
    root = lambda a: np.sum(implicit_root(lambda x, a: x * x - a, np.zeros((0, 2)), a))
    assert gradient(root, np.ones((0, 2)))[0].shape == (0, 2)


def test_outside_of_a_gradient_a_root_is_what_was_given():
    assert implicit_root(lambda x, a: x - a, 2, 2.0) == 2
    x = np.ones(3)
    assert type(implicit_root(lambda x: x - 1, x)) is np.ndarray
    assert implicit_root(lambda x: x, np.zeros((0, 2))).shape == (0, 2)


def test_a_loss_that_has_a_gradient_has_a_value_outside_of_one():
    def step(x, a, b):
        r = b.copy()
        r += a * np.tanh(x)  # recorded where b is
        return r

    a, b = 0.3, np.arange(3.0)
    for f in (
        lambda a, b: fixed_point(step, np.zeros(3), a, b),
        lambda a, b: implicit_root(
            lambda x, a, b: step(x, a, b) - x, fixed_point(step, b, dropgrad(a), dropgrad(b)), a, b
        ),
        lambda a, b: recompute(step)(a, a, b),
    ):
        loss = lambda a, b, f=f: np.sum(f(a, b) ** 2)
        assert loss(a, b) == withgradient(loss, a, b).val
        check_gradient(loss, a, b)
    loss = lambda a: np.sum(implicit_root(lambda x: step(x, 1.0, np.zeros(3)), np.zeros(3))) + a
    assert gradient(loss, 2.0) == (1.0,)  # of an equation that has nothing to do with it


def test_an_equation_does_not_change_its_solution():
    def moved(x):
        x -= 1
        return x

    for solve in (lambda: implicit_root(moved, np.ones(2)), lambda: fixed_point(moved, np.ones(2))):
        with pytest.raises(ValueError, match="read-only"):
            solve()


def test_a_fixed_point_has_the_derivatives_of_the_iteration_gone_through():
    def through(a):
        x = np.ones(4)
        for _ in range(100):
            x = np.cos(x * a) / 2
        return np.sum(x)

    at_once = lambda a: np.sum(fixed_point(lambda x, a: np.cos(x * a) / 2, np.ones(4), a))
    a = rng.uniform(0.5, 1, 4)
    np.testing.assert_allclose(at_once(a), through(a))
    np.testing.assert_allclose(gradient(at_once, a), gradient(through, a), atol=1e-12)
    np.testing.assert_allclose(hessian(at_once, a), hessian(through, a), atol=1e-11)


def test_what_has_not_converged_is_an_error():
    with pytest.raises(RuntimeError, match=r"solver has not converged.* up to 0.25, above 8"):
        implicit_root(lambda x: x**2 - 2, 1.5)
    assert implicit_root(lambda x: x**2 - 2, 1.5, tol=0.2) == 1.5
    with pytest.raises(RuntimeError, match="solver has not converged"):
        implicit_root(lambda x: x * np.nan, np.ones(2))
    with pytest.raises(
        RuntimeError, match="fixed_point has not converged: the last of 30 iterations moved x by 1"
    ):
        fixed_point(lambda x: x + 1, 0.0, most=30)
    with pytest.raises(np.linalg.LinAlgError):
        gradient(lambda a: implicit_root(lambda x, a: x**2 * a, 0.0, a), 1.0)


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("tol", [None, 1e-2])
@pytest.mark.parametrize("largest", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("solve", [implicit_root, fixed_point])
def test_a_tolerance_is_that_of_the_largest_element_or_of_1(solve, largest, tol, dtype):
    x, unit = np.array([largest / 8, -largest], dtype), max(1.0, largest)
    power = 0.4 if solve is implicit_root else 0.76
    most = unit * (np.finfo(dtype).eps ** power if tol is None else tol)
    for left, is_enough in ((0.99 * most, True), (1.01 * most, False)):
        step = (left * (x > 0)).astype(dtype)
        f = (lambda x: step) if solve is implicit_root else (lambda x: x + step)
        with nullcontext() if is_enough else pytest.raises(RuntimeError, match="has not converged"):
            solve(f, x, tol=tol, **({"most": 3} if solve is fixed_point else {}))


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, None])
def test_a_fixed_point_may_be_as_rough_as_its_tol(tol):
    x = fixed_point(lambda x, a: np.cos(x) * a, 0.5, 1.0, tol=tol)
    assert abs(x - 0.7390851332151607) < (1e-9 if tol is None else 2 * tol)
    (slope,) = gradient(lambda a: fixed_point(lambda x, a: np.cos(x) * a, 0.5, a, tol=tol), 1.0)
    np.testing.assert_allclose(slope, np.cos(x) / (1 + np.sin(x)))


def test_what_no_root_can_be_taken_of_is_refused():
    with pytest.raises(ValueError, match=r"of the shape \(2,\) of x, got an ndarray of shape \(\)"):
        implicit_root(lambda x: np.sum(x), np.zeros(2))
    with pytest.raises(TypeError, match=r"x must be real numbers, got an ndarray .* complex128"):
        implicit_root(lambda x: x, np.zeros(2, complex))
    with pytest.raises(ValueError, match="must be real"):
        implicit_root(lambda x: x * 1j, np.zeros(2))
    with pytest.raises(TypeError, match="f must be a function"):
        implicit_root(1.0, np.zeros(2))
    with pytest.raises(TypeError, match="f must be a function"):
        fixed_point(1.0, np.zeros(2))
    with pytest.raises(ValueError, match=r"tol must be in \[0, inf\), got float -1.0"):
        fixed_point(np.cos, 1.0, tol=-1.0)
    with pytest.raises(TypeError, match="come as arguments"):
        gradient(lambda a: implicit_root(lambda x: x - a, dropgrad(a)), 2.0)


# Recomputing --------------------------------------------------------------------------------------------


def layers(n, width=4):
    return [(param(rng.normal(size=(width, width)) / 2), param(rng.normal(size=width))) for _ in range(n)]


def run(layers, h):
    for W, b in layers:
        h = np.tanh(W @ h + b)
    return h


def test_recomputing_changes_no_derivative():
    model, x = layers(6), rng.normal(size=4)
    θ = params(model)
    blocks = [recompute(partial(run, model[i : i + 2])) for i in (0, 2, 4)]

    def loss(x, blocks=blocks):
        for block in blocks:
            x = block(x)
        return np.sum(x**3)

    plain = lambda x: np.sum(run(model, x) ** 3)
    np.testing.assert_array_equal(loss(x), plain(x))
    value, grads = withgradient(lambda: loss(x), θ)
    assert value == plain(x)
    np.testing.assert_allclose(grads.to_vector(), gradient(lambda: plain(x), θ).to_vector(), rtol=1e-12)
    np.testing.assert_allclose(gradient(loss, x), gradient(plain, x), rtol=1e-12)
    np.testing.assert_allclose(
        hvp(lambda: loss(x), θ, grads).to_vector(), hvp(lambda: plain(x), θ, grads).to_vector()
    )
    np.testing.assert_allclose(hessian(loss, x), hessian(plain, x), atol=1e-12)
    within = recompute(lambda x: loss(x))
    np.testing.assert_allclose(hessian(within, x), hessian(plain, x), atol=1e-12)


@pytest.mark.parametrize("how", ["recomputed", "fixed point"])
def test_products_and_jacobians_go_through(how):
    W, x, v = param(rng.normal(size=3) / 4), rng.normal(size=3), rng.normal(size=3)
    if how == "recomputed":
        f = recompute(lambda x: np.tanh(W * np.sin(x)))
    else:
        f = lambda x: fixed_point(lambda z, x: np.tanh(W * z + x), np.zeros(3), x)
    e = 1e-6
    differences = (f(x + e * v) - f(x - e * v)) / (2 * e)
    np.testing.assert_allclose(jvp(f, (x,), (v,))[1], differences, atol=1e-8)
    np.testing.assert_allclose(jacobian(f, x)[0] @ v, differences, atol=1e-8)
    W_start, sides = W.copy(), []
    for s in (e, -e):
        W[...] = W_start + s * v
        sides.append(f(x))
    W[...] = W_start
    differences = (sides[0] - sides[1]) / (2 * e)
    np.testing.assert_allclose(jvp(lambda: f(x), params(W), {W: v})[1], differences, atol=1e-8)


@pytest.mark.parametrize("how", ["of a result", "used outside as well", "beneath a gradient", "nested"])
def test_a_compiled_loss_recomputes_with_the_same_bits_but_computes_nothing_twice(how):
    W = param(rng.normal(size=3) / 4)
    reaching = recompute(lambda h: np.sinh(W * h) * h)
    given = recompute(lambda h, w: np.tanh(w * h))
    losses = {
        "of a result": lambda x: np.sum(reaching(x * W)),
        "used outside as well": lambda x: (lambda h: np.sum(reaching(h)) * -0.4 + np.sum(h * h))(x * W),
        "beneath a gradient": lambda x: np.sum(gradient(lambda x: np.sum(given(x, W)), x)[0] ** 2),
        "nested": lambda x: np.sum(recompute(lambda x: reaching(given(x, W)) * x)(x)),
    }
    loss = losses[how]
    f = compiled(loss, params(W))
    for _ in range(50):
        x = rng.normal(size=3)
        np.testing.assert_array_equal(f(x).grad[W], gradient(lambda: loss(x), params(W))[W])
        W *= 1.01
    code = "".join(line for line in f.source.splitlines() if "#" not in line)
    assert code.count("np.sinh") + code.count("np.tanh") == 1 + (how == "nested")


def test_a_compiled_loss_does_not_solve_equations():
    W, x = param(rng.normal(size=3) / 4), rng.normal(size=3)
    solving = compiled(lambda x: np.sum(fixed_point(lambda z: np.tanh(W * z) + x, np.zeros(3))), params(W))
    with pytest.raises(TypeError, match=r"compiled: .*looks at values"):
        solving(x)


def test_a_recomputed_function_is_differentiated_by_keywords_too():
    block = recompute(lambda x, s=1.0, *, k: np.sin(x * s) ** 2 * k["a"])
    x, s, k = np.array([1.0, 2.0]), 3.0, 0.5
    check_gradient(lambda x, s, k: block(x, s=s, k={"a": k}), x, s, k)
    np.testing.assert_array_equal(block(x, s=s, k={"a": k}), np.sin(x * s) ** 2 * k)


def test_recomputed_functions_take_any_arguments():
    @recompute
    def f(parts, n, *, power=2):
        """Do something."""
        return np.reshape(parts["a"], n) ** power * parts["b"][0]

    assert f.__doc__ == "Do something."
    check_gradient(
        lambda a, b: f({"a": a, "b": [b]}, (3, 2), power=3), rng.normal(size=6), rng.normal(size=2)
    )
    z, w = rng.normal(size=(2, 3)) + 1j * rng.normal(size=(2, 3))
    check_gradient(recompute(lambda z, w: np.exp(1j * z) * np.conj(w)), z, w)
    W = param(2.0)
    assert gradient(lambda: recompute(lambda: W)() ** 2, params(W))[W] == 4
    assert gradient(lambda: recompute(lambda x: x)(W) ** 2, params(W))[W] == 4
    h = np.ones(3, "f4")
    assert gradient(lambda h: np.sum(recompute(np.sin)(h)), h)[0].dtype == "f4"


def test_what_recomputes_to_something_else_is_refused():
    with pytest.raises(RuntimeError, match="Pass them to it"):
        gradient(recompute(lambda x: x * np.random.random()), 1.0)
    with pytest.raises(TypeError, match=r"must return an array or a number.*returned tuple of 2"):
        gradient(lambda x: recompute(lambda x: (x, x))(x)[0], 1.0)
    with pytest.raises(TypeError, match="come as arguments"):
        gradient(lambda x: recompute(lambda: x * 2)(), 1.0)
    with pytest.raises(TypeError, match="f must be a function"):
        recompute(3)


def test_the_memory_of_a_chain_in_blocks_grows_with_the_root_of_its_length():
    h = np.ones(1000)

    def peak(n, size):
        Ws = [param(np.full(1000, 0.9)) for _ in range(n)]

        def some(h, first):
            for W in Ws[first : first + size]:
                h = np.tanh(h * W)
            return h

        def loss():
            x = h
            for first in range(0, n, size):
                x = recompute(some)(x, first) if size < n else some(x, first)
            return np.sum(x)

        θ = params(Ws)
        gradient(loss, θ)
        tracemalloc.start()
        grads = gradient(loss, θ)
        found = tracemalloc.get_traced_memory()[1] - sum(g.nbytes for g in grads.values())
        tracemalloc.stop()
        return found

    whole, blocks, fewer = peak(1024, 1024), peak(1024, 32), peak(256, 16)
    assert blocks < whole / 8
    assert blocks < 2.6 * fewer  # four times as many layers, twice as much
    assert whole > 3.5 * peak(256, 256)


def test_threads_recompute_and_solve_at_the_same_time():
    W, found = param(np.full(3, 0.5)), []
    loss = lambda x: np.sum(
        fixed_point(lambda z: np.tanh(W * z + x), np.zeros(3)) * recompute(lambda x: np.sin(x * W))(x)
    )
    xs = rng.normal(size=(8, 3))
    expected = [gradient(lambda x=x: loss(x), params(W))[W] for x in xs]

    def work(i):
        found.append((i, [gradient(lambda: loss(xs[i]), params(W))[W] for _ in range(5)]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(found) == 8
    for i, grads in found:
        for g in grads:
            np.testing.assert_array_equal(g, expected[i])


def test_a_fixed_point_of_another_shape_or_kind_is_refused():
    with pytest.raises(ValueError, match=r"must have the shape \(3,\) of x"):
        fixed_point(lambda x: x[:1] * 0.5, np.ones(3))
    for f in (lambda x: x * 1j, str, lambda x: None):
        with pytest.raises(TypeError, match="must give numbers as x is, float64, got an ndarray"):
            fixed_point(f, 1.0)
    for find in (fixed_point, implicit_root):
        for x in (None, "a", 10**400, 1j):
            with pytest.raises(TypeError, match="x must be real numbers, got"):
                find(lambda x: x / 2, x)


def test_a_recomputed_view_is_refused():
    view = recompute(lambda h: h["a"][1:])
    with pytest.raises(TypeError, match="a view of it: return a copy"):
        gradient(lambda x: np.sum(view({"a": x * 2})), np.ones(3))


def solved(f):
    return lambda h: fixed_point(lambda z, h: f(z) / 9 + h, np.zeros(2), h)


@pytest.mark.parametrize("again", [recompute, solved])
def test_a_loop_variable_has_its_last_value_on_the_way_back_and_is_refused(again):
    ws, x = [param(np.zeros((2, 2))) for _ in range(2)], np.array([1.0, 2.0])

    def loss(keep):
        h = x
        for w in ws:
            h = h + again((lambda h, w=w: np.tanh(h) @ w) if keep else (lambda h: np.tanh(h) @ w))(h)
        return np.sum(h**2)

    with pytest.raises(RuntimeError, match=r"reaches other parameters the second time.*lambda h, w=w"):
        gradient(lambda: loss(False), params(*ws))
    check_gradient(lambda: loss(True), params(*ws), order=1)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_another_result_the_second_time_is_told_however_small(scale):
    factors = iter([1.0, 1.001])
    with pytest.raises(RuntimeError, match="another result the second time"):
        gradient(recompute(lambda x: scale * next(factors) * x), 1.0)


@pytest.mark.parametrize(
    "error", [KeyError, TypeError, ValueError, np.linalg.LinAlgError, FloatingPointError]
)
@pytest.mark.parametrize("call", [recompute, lambda f: lambda x: fixed_point(f, np.zeros(2), x)])
def test_an_error_of_the_second_time_is_told_as_what_it_is(call, error):
    fails = False

    def f(*given):
        if fails:
            raise error("mine")
        return np.cos(given[-1]) + 0.1 * given[0]

    def loss(x):
        nonlocal fails
        y = np.sum(call(f)(x))
        fails = True
        return y

    with pytest.raises(RuntimeError, match=rf"raised {error.__name__}: '?mine'?, the second time") as caught:
        gradient(loss, np.ones(2))
    assert type(caught.value.__cause__) is error


def test_in_a_program_solutions_are_refused_by_name():
    half = lambda x, a: x / 2 + a
    for solve in (lambda a: implicit_root(half, -2 * dropgrad(a), a), lambda a: fixed_point(half, 0.0, a)):
        with pytest.raises(
            TypeError, match=r"compiled: .*, line \d+ .*: (implicit_root|fixed_point) looks at values"
        ):
            compiled(solve)(0.5)


KEEPING = {
    "a list": lambda h, kept, x: h.append(x),
    "a dict": lambda h, kept, x: kept.update(x=x),
    "an attribute": lambda h, kept, x: setattr(h_of, "x", x),
}


def h_of():
    pass


@pytest.mark.parametrize("wrap", ["recompute", "implicit_root"])
@pytest.mark.parametrize("keep", KEEPING.values(), ids=KEEPING)
def test_what_leaves_a_function_otherwise_than_by_its_result_is_told_of(keep, wrap):
    W = param([1.0, 2.0])

    def loss(constant=lambda x: x):
        listed, named = [], {}
        h_of.x = None

        def f(x):
            keep(listed, named, constant(x * W))
            return np.tanh(x * W)

        if wrap == "recompute":
            y = recompute(f)(np.ones(2))
        else:
            y = implicit_root(lambda y, W: y - np.ones(2) * f(np.ones(2)), np.tanh(W.value), W)
        left = [*listed, *named.values(), h_of.x]
        return np.sum(y) + np.sum(next(x for x in left if x is not None))

    with pytest.raises(TypeError, match=r"has left f otherwise than by the result.*dropgrad\(value\)"):
        gradient(loss, params(W))
    x = gradient(lambda: loss(dropgrad), params(W))[W]
    np.testing.assert_allclose(x, 1 / np.cosh(W) ** 2)
    assert np.isfinite(loss())


def test_a_list_that_is_an_argument_is_the_callers_own():
    W, log = param([1.0, 2.0]), []

    @recompute
    def block(h, log):
        log.append(dropgrad(np.sum(h * W)))
        return np.tanh(h * W)

    value, grads = withgradient(lambda: np.sum(block(np.ones(2), log)), params(W))
    assert value == np.sum(np.tanh(W.value))
    assert log == [3.0, 3.0]
    np.testing.assert_allclose(grads[W], 1 / np.cosh(W) ** 2)


def test_a_fixed_point_may_come_in_an_array_that_f_fills_anew():
    buffer = np.zeros(1)

    def f(x):
        np.multiply(x, 0.5, out=buffer)
        buffer[...] += 1
        return buffer

    np.testing.assert_allclose(fixed_point(f, np.zeros(1)), 2.0)
