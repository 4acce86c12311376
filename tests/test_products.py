"""Products with Jacobians and Hessians are those of the matrices; derivatives are those of differences."""

import numpy as np
import pytest

from minidiff import (
    check_gradient,
    derivative,
    dropgrad,
    gradient,
    hessian,
    hvp,
    jacobian,
    jvp,
    param,
    params,
)

rng = np.random.default_rng(0)
A = rng.normal(size=(4, 3))

FUNCTIONS = {
    "wide": lambda x: np.sum(np.sin(x) * x),
    "square": lambda x: np.exp(x) / (1 + x**2),
    "tall": lambda x: np.tanh(np.multiply.outer(np.cos(x), np.arange(1.0, 10.0))),
    "read in part": lambda x: x[..., 0] ** 3 * np.ones((9, 1)) if x.ndim else x**3 * np.ones(9),
    "constant": lambda x: np.ones((2, 9)),
    "steps": lambda x: np.zeros_like(x) + np.floor(x),
    "solved": lambda x: np.linalg.solve(np.eye(2) + np.sum(x**2) * np.ones((2, 2)), np.ones(2)),
}


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_jvp_is_the_jacobian_times_the_tangent_and_its_differences(name, shape):
    f, x, v = FUNCTIONS[name], rng.normal(size=shape), rng.normal(size=shape)
    value, tangent = jvp(f, (x,), (v,))
    np.testing.assert_allclose(value, f(x))
    assert np.shape(tangent) == np.shape(value)
    (J,) = jacobian(f, x)
    assert J.shape == np.shape(value) + shape
    np.testing.assert_allclose(tangent, np.tensordot(J, v, len(shape)), atol=1e-12)
    np.testing.assert_allclose(tangent, (f(x + 1e-6 * v) - f(x - 1e-6 * v)) / 2e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_jacobian_by_columns_is_that_by_rows(dtype):
    x, y = rng.normal(size=3).astype(dtype), rng.normal(size=2).astype("f8")
    few = lambda x, y: np.sin(np.multiply.outer(x, y))
    many = lambda x, y: np.stack([few(x, y)] * 5)  # more than four times as many results as arguments
    for by_rows, by_columns in zip(jacobian(few, x, y), jacobian(many, x, y), strict=True):
        assert by_columns.dtype == by_rows.dtype
        np.testing.assert_allclose(by_columns, np.stack([by_rows] * 5), rtol=1e-5 if dtype == "f4" else 1e-12)


def test_a_jacobian_by_columns_can_be_differentiated():
    loss = lambda x: np.sum(jacobian(lambda x: np.multiply.outer(x**3, np.ones(9)), x)[0])
    np.testing.assert_allclose(gradient(loss, np.array([1.0, 2.0]))[0], 9 * 6 * np.array([1.0, 2.0]))


def test_jvp_of_complex_functions_is_real_linear():
    z, v = rng.normal(size=(2, 3, 2)) @ [1, 1j]
    f = lambda z: np.abs(z) * np.exp(1j * z) + np.conj(z)
    _, tangent = jvp(f, (z,), (v,))
    np.testing.assert_allclose(tangent, (f(z + 1e-6 * v) - f(z - 1e-6 * v)) / 2e-6, atol=1e-8)
    np.testing.assert_allclose(jvp(np.abs, (z,), (v,))[1], np.real(np.conj(z) * v) / np.abs(z))


def test_jvp_takes_parameters_and_nested_arguments_and_can_be_differentiated():
    W, b = param(A), param(np.ones(4))
    f = lambda: np.tanh(W @ np.arange(3.0) + b**2)
    _, tangent = jvp(f, params(W, b), {W: A})
    np.testing.assert_allclose(tangent, (1 - f() ** 2) * (A @ np.arange(3.0)))
    _, nested = jvp(lambda d: d["a"] * d["b"][0], ({"a": 2.0, "b": [3.0]},), ({"a": 1.0, "b": [10.0]},))
    assert nested == 3 + 20
    speed = lambda x: np.sum(jvp(lambda x: x**3, (x,), (x,))[1])  # 3x³
    np.testing.assert_allclose(gradient(speed, np.array([1.0, 2.0]))[0], [9.0, 36.0])
    by_tangent = gradient(lambda v: np.sum(jvp(np.sin, (1.0,), (v,))[1]), 2.0)[0]
    np.testing.assert_allclose(by_tangent, np.cos(1.0))


@pytest.mark.parametrize("loss", [lambda x: 1.0, lambda x: 2, lambda x: np.float64(3), np.sum])
def test_the_second_derivatives_of_what_has_none_are_zero(loss):
    np.testing.assert_array_equal(hvp(loss, A[0], A[1]), np.zeros(3))
    np.testing.assert_array_equal(hessian(loss, A[0]), np.zeros((3, 3)))


def test_the_hessian_by_parameters_is_that_of_their_vector_and_hvp_its_product():
    W, b, unused = param(A[:2]), param([0.5, -1.0]), param(np.ones(2))
    θ = params(W, unused, b)
    loss_of = lambda W, b: np.sum(np.exp(W @ np.ones(3) * b)) + np.prod(b)
    loss = lambda: loss_of(W, b)
    H = hessian(loss, θ)
    by_vector = hessian(lambda v: loss_of(v[:6].reshape(2, 3), v[8:]), θ.to_vector())
    np.testing.assert_allclose(H, by_vector)
    np.testing.assert_allclose(H, H.T)
    u, v = rng.normal(size=(2, 10))
    as_grads = lambda v: {W: v[:6].reshape(2, 3), unused: v[6:8], b: v[8:]}
    product = hvp(loss, θ, as_grads(v))
    np.testing.assert_allclose(product.to_vector(), H @ v, atol=1e-12)
    np.testing.assert_allclose(u @ product.to_vector(), v @ hvp(loss, θ, as_grads(u)).to_vector())
    assert not hvp(loss, θ, {}).to_vector().any()
    np.testing.assert_allclose(hvp(lambda x: np.sum(x**3), np.ones((2, 2)), np.eye(2)), 6 * np.eye(2))


def test_hvp_of_a_linear_loss_is_zero_and_of_a_complex_argument_that_of_its_parts():
    assert hvp(lambda x: np.sum(x), np.ones(2), np.ones(2)).tolist() == [0, 0]
    z, v = 1.0 + 2.0j, 3.0 - 1.0j
    by_parts = hessian(lambda x: np.abs(x[0] + 1j * x[1]) ** 4, np.array([1.0, 2.0])) @ [3.0, -1.0]
    np.testing.assert_allclose(hvp(lambda z: np.abs(z) ** 4, z, v), by_parts @ [1, 1j])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_right_gradients_pass_the_check(dtype, seed):
    real, imaginary = np.random.default_rng(seed).normal(size=(2, 2, 3))
    z = real + 1j * imaginary if np.dtype(dtype).kind == "c" else real
    z = (z + 0.5 * z / np.abs(z)).astype(dtype)  # away from the kink of abs, where differences say nothing
    check_gradient(lambda z: np.exp(z) * np.abs(z), z)
    W, b = param(z), param(np.ones(3, "f4"))
    before = W.value.copy()
    check_gradient(lambda: np.sum(np.abs(W) ** 2 * b**3), params(W, b))
    assert (W.value == before).all()
    check_gradient(lambda d, k: d["a"] * np.sin(d["b"][0]), {"a": z, "b": [2.0, "text"]}, 3)
    check_gradient(lambda x: 1.0, 2.0)
    check_gradient(lambda x: x * np.zeros(0), np.zeros(0))


def test_a_vector_of_all_parameters_is_a_direction():
    W, b = param(rng.normal(size=(2, 3))), param(1.5)
    θ, v = params(W, b), rng.normal(size=7)
    f = lambda: b * np.sin(W) @ W.T
    J = jacobian(f, θ)
    assert J.shape == (2, 2, 7)
    np.testing.assert_allclose(jvp(f, θ, v)[1], J @ v)
    loss = lambda: np.sum(f() ** 2)
    np.testing.assert_allclose(hvp(loss, θ, v).to_vector(), hessian(loss, θ) @ v)
    np.testing.assert_allclose(jacobian(loss, θ), gradient(loss, θ).to_vector())


def test_near_a_stationary_point_rounding_is_no_fault():
    for scale in (1e-9, 1e-6, 1e-3):
        for seed in range(20):
            check_gradient(lambda a: np.log(np.cosh(a[0]) + a[1] ** 2), scale * np.ones(2), seed=seed)


def test_wrong_gradients_are_named_with_both_numbers():
    W, b = param([1.0, 2.0]), param([3.0])
    with pytest.raises(AssertionError, match=r"gradient by parameter 1 is 0, but differences give -?\d"):
        check_gradient(lambda: np.sum(W**2) + dropgrad(b)[0], params(W, b))
    assert b.value.tolist() == [3.0]
    with pytest.raises(AssertionError, match="gradient by argument 1 is"):
        check_gradient(lambda x, y: x * dropgrad(y) ** 2, 2.0, 3.0)
    bent = lambda x: x * dropgrad(x) + x**2
    with pytest.raises(AssertionError, match="argument 0"):
        check_gradient(bent, 1.5)
    right_slope = lambda x: x * dropgrad(2 * x) - dropgrad(x * x)  # x² whose second derivative is lost
    check_gradient(right_slope, 1.5, order=1)
    with pytest.raises(AssertionError, match="second derivative by argument 0 is 0"):
        check_gradient(right_slope, 1.5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda W: jvp(np.sin, np.ones(2), (1.0,)), TypeError, "tuple or a Params"),
        (lambda W: jvp(np.sin, (np.ones(2),), ()), ValueError, "nested"),
        (lambda W: jvp(np.sin, (np.ones(2),), (np.ones(3),)), ValueError, "tangents 0 must have the shape"),
        (lambda W: jvp(np.sin, (np.ones(2),), (1j * np.ones(2),)), TypeError, "complex128"),
        (lambda W: jvp(lambda: W, params(W), np.ones(3)), TypeError, "mapping.*or a vector"),
        (lambda W: jvp(lambda x: "text", (1.0,), (1.0,)), TypeError, "must return a number"),
        (lambda W: hvp(lambda: np.sum(W), params(W), {param(1.0): 1.0}), ValueError, "not among"),
        (lambda W: hvp(lambda x: x, np.ones(2), np.ones(2)), TypeError, "one real number"),
        (lambda W: check_gradient(lambda x: x, 1.0, order=3), ValueError, "order"),
        (lambda W: check_gradient(lambda x: x, 1.0, order=0), ValueError, "order"),
        (lambda W: check_gradient(lambda x: x, 1.0, order=-1), ValueError, "order"),
        (lambda W: check_gradient(lambda x: x, 1.0, order=1.5), TypeError, "order"),
        (lambda W: check_gradient(lambda x: x, "text"), ValueError, "nothing to differentiate"),
        (
            lambda W: check_gradient(lambda x: x, 1.0, seed=np.ones(2)),
            TypeError,
            "^seed must be a seed",
        ),
        (lambda W: check_gradient(lambda x: x, 1.0, seed="a"), TypeError, "^seed must be a seed"),
        (lambda W: check_gradient(lambda x: x, 1.0, seed=-1), ValueError, "^seed must be a seed"),
        (lambda W: hessian(lambda: np.sum(np.abs(W)), params(param(1j))), TypeError, "hvp"),
    ],
)
@pytest.mark.filterwarnings("ignore:The loss reaches none")
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(param(np.ones(2)))


def test_one_vector_serves_parameters_of_which_some_are_complex():
    a, z = param([1.0, 2.0]), param([1 + 1j])
    ps, f = params(a, z), lambda: np.sum(a**3) * np.abs(z[0]) ** 2
    by_name, v = {a: np.array([0.5, -1.0]), z: np.array([2 - 1j])}, np.array([0.5, -1.0, 2 - 1j])
    np.testing.assert_array_equal(hvp(f, ps, v).to_vector(), hvp(f, ps, by_name).to_vector())
    assert jvp(f, ps, v) == jvp(f, ps, by_name)
    with pytest.raises(TypeError, match="must be numbers of dtype float64"):
        hvp(f, ps, v + 1j)


@pytest.mark.parametrize("result", [None, (1.0, 2.0), "text", {"a": 1.0}])
def test_what_is_no_result_is_told_by_check_gradient(result):
    with pytest.raises(TypeError, match=r"check_gradient\(f, …\): f must return a number or an array, got"):
        check_gradient(lambda x: result, 1.0)


@pytest.mark.parametrize("slope", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_does_not_pass(slope):
    bad = derivative(lambda g, ans, x: g * slope)(lambda x: 2 * x)
    with pytest.raises(AssertionError, match="but differences give"), np.errstate(invalid="ignore"):
        check_gradient(bad, np.ones(2), order=1)


@pytest.mark.filterwarnings("ignore:The loss reaches none")
def test_of_no_parameters_the_matrices_are_empty():
    W = param([1.0, 2.0])
    assert jacobian(lambda: W * 2, params()).shape == (2, 0)
    assert hessian(lambda: np.sum(W**2), params()).shape == (0, 0)
