"""NumPy's polynomials: values are NumPy's, derivatives those of differences."""

import numpy as np
import pytest
from beside_numpy import check

from minidiff import check_gradient, compiled, gradient, jacobian, param, params, withgradient

rng = np.random.default_rng(3)
P, Q, X = rng.normal(size=5), rng.normal(size=3), rng.normal(size=(2, 3))
Z = P + 1j * rng.normal(size=5)
T, Y = np.array([0.5, 1.0, 2.5, 4.0, 4.5]), rng.normal(size=5)
R = np.array([0.4, -1.2, 2.3])
SAMPLES = {
    "polyval": [(np.polyval, P, X), (np.polyval, Z, 0.3), (lambda x: np.polyval([1, 2, 3], x), X)],
    "vander": [
        (np.vander, P),
        (lambda x: np.vander(x, 3, increasing=True), Z),
        (lambda x: np.vander(x, 0), P),
    ],
    "polyadd": [(np.polyadd, P, Q), (np.polysub, Q, P), (np.polysub, P, np.array([1, 2], np.uint8))],
    "polymul": [(np.polymul, P, Q), (lambda p: np.polymul(p, [0.0, 0.0, 2.0]), P), (np.polymul, 2.0, Q)],
    "polydiv": [(np.polydiv, P, Q), (np.polydiv, Q, P), (np.polydiv, Z, Q)],
    "polyder": [(np.polyder, P), (lambda p: np.polyder(p, 3), P), (lambda p: np.polyder(p, 0), Z)],
    "polyint": [
        (np.polyint, P),
        (lambda p, k: np.polyint(p, 2, k), P, Q),
        (lambda p: np.polyint(p, m=2, k=1.5), Z),
    ],
    "poly": [
        (np.poly, R),
        (np.poly, rng.normal(size=(3, 3))),
        (np.poly, Z),
        (lambda x: np.poly(np.stack([x, np.conj(x)])), 0.3 + 1j),
    ],
    "roots": [(lambda r: np.roots(np.poly(r)), R), (np.roots, Z), (lambda p: abs(np.roots(p)), P)],
    "polyfit": [
        (lambda x, y: np.polyfit(x, y, 2), T, Y),
        (lambda x, y: np.polyfit(x, y, 2, full=True)[:2], T, Y),
        (lambda x, y, w: np.polyfit(x, y, 1, w=w), T, Y, abs(Y) + 0.5),
        (lambda x, y: np.polyfit(x, y, 1, cov=True), T, Y),
        (lambda y: np.polyfit(T, y, 1, cov="unscaled", w=T), np.stack([Y, T], -1)),
        (lambda y: np.polyfit(T, y, 1, cov=True)[1], np.stack([Y, T**2], -1)),
        (lambda x: np.polyfit(x, Y, 1, cov="unscaled"), T),
    ],
    "poly1d": [
        (lambda p, x: np.poly1d(p)(x), P, X),
        (lambda p: (np.poly1d(p) * np.poly1d([1, 2])).deriv().coeffs, P),
        (lambda x: np.poly1d([1, 2, 3])(x), X),
    ],
    "numpy.polynomial": [
        (lambda x: np.polynomial.polynomial.polyval(x, [1.0, 2.0, 3.0]), X),
        (lambda x: np.polynomial.chebyshev.chebval(x, [1.0, 2.0, 3.0]), X),
        (lambda x: np.polynomial.legendre.legval(x, [1.0, 2.0, 3.0]), Z),
        (lambda x: np.polynomial.hermite.hermval(x, [1.0, 2.0, 3.0]), 0.3),
        (lambda x: np.polynomial.hermite_e.hermeval(x, [1.0, 2.0, 3.0]), X),
        (lambda x: np.polynomial.laguerre.lagval(x, [1.0, 2.0, 3.0]), X),
        (lambda c: np.polynomial.legendre.legvander(T, 4) @ c, P),
    ],
}


EVALUATIONS = [
    np.polynomial.polynomial.polyval, np.polynomial.chebyshev.chebval, np.polynomial.legendre.legval,
    np.polynomial.hermite.hermval, np.polynomial.hermite_e.hermeval, np.polynomial.laguerre.lagval,
]  # fmt: skip


@pytest.mark.parametrize("evaluate", EVALUATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (3, 3)])
def test_an_evaluation_is_numpys_for_coefficients_of_any_dimension(evaluate, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    for dimensions in ((4,), (1, 3), (3, 3), (2, 3, 3)):
        c = rng.normal(size=dimensions)
        check(lambda x, c=c: evaluate(x, c), x)
        if shape == dimensions[1:]:
            check(lambda x, c=c: evaluate(x, c, tensor=False), x)
        W = param(x)
        np.testing.assert_array_equal(evaluate(W, c), evaluate(x, c))
        check_gradient(lambda W=W, c=c: np.sum(evaluate(W, c) ** 2), params(W))


@pytest.mark.filterwarnings("ignore:The covariance:RuntimeWarning")
@pytest.mark.parametrize("name", SAMPLES)
def test_it_has_numpys_values_and_both_derivatives(name):
    for f, *arrays in SAMPLES[name]:
        check(f, *arrays)


@pytest.mark.parametrize(
    "f",
    [
        lambda p: np.polyder(p, -1),
        lambda p: np.polyint(p, -1),
        lambda p: np.polyint(p, 3, [1.0, 2.0]),
        lambda p: np.polyint(p, 1, []),
    ],
)
def test_what_numpy_refuses_to_derive_or_to_integrate_is_refused(f):
    with pytest.raises(ValueError):  # noqa: PT011 (the words are NumPy's)
        f(P)
    with pytest.raises(ValueError, match=r"^np\.poly(der|int): "):
        gradient(lambda p: np.sum(f(p)), P)


def test_the_jacobian_of_the_roots_is_the_inverse_of_that_of_the_coefficients():
    (to_roots,) = jacobian(np.roots, np.poly(R))
    (to_coefficients,) = jacobian(np.poly, np.roots(np.poly(R)))
    np.testing.assert_allclose(to_roots @ to_coefficients, np.eye(3), atol=1e-12)


def test_a_root_at_zero_moves_with_the_last_coefficient():
    (J,) = jacobian(np.roots, np.array([1.0, -1.0, 0.0]))
    np.testing.assert_allclose(J, [[-1, -1, -1], [0, 0, 1]])


def test_a_double_root_has_no_derivative():
    with pytest.raises(NotImplementedError, match="twice"):
        gradient(lambda p: np.sum(np.roots(p)), np.array([1.0, 0.0, 0.0]))


def test_zeros_that_would_lose_their_gradient_are_not_cut_off():
    for f in (np.trim_zeros, lambda p: np.polymul(p, [1.0, 2.0]), lambda p: np.poly1d(p)(2.0)):
        with pytest.raises(NotImplementedError, match=r"np.trim_zeros has no .*call it; np.polyval"):
            gradient(lambda p: np.sum(f(p)), np.array([0.0, 1.0, 2.0]))
    with pytest.raises(NotImplementedError, match="polydiv"):
        gradient(lambda p: np.sum(np.polydiv(p, [1.0, 2.0, 3.0])[1]), np.zeros(3))


def test_a_polynomial_of_a_polynomial_is_refused_by_name():
    for f in (np.polyval, np.polyadd, np.polymul, np.polydiv):
        with pytest.raises(NotImplementedError, match=f.__name__):
            gradient(lambda p: f(p, np.poly1d([1.0, 2.0])), P)


def test_recorded_coefficients_of_numpy_polynomial_are_refused_with_what_to_write():
    c = param(P)
    for f in (
        np.polynomial.Polynomial,
        np.polynomial.Polynomial([1.0, 2.0]),
        lambda c: np.polynomial.chebyshev.chebval(T, c),
    ):
        with pytest.raises(TypeError, match=r"legvander\(x, n\) @ c"):
            gradient(lambda: np.sum(f(c)), params(c))


def test_a_line_through_two_points_passes_through_them():
    f = lambda y: np.polyval(np.polyfit([1.0, 3.0], y, 1), 3.0)
    np.testing.assert_allclose(gradient(f, np.array([2.0, 5.0]))[0], [0, 1], atol=1e-14)
    check_gradient(f, np.array([2.0, 5.0]))


@pytest.mark.parametrize(
    "f", [lambda x: np.polyval([1.0, 2.0], x), lambda x: np.real(np.fft.fftn(x, axes=()))]
)
def test_the_gradient_by_a_number_is_a_number(f):
    assert type(gradient(f, 2.0)[0]) is np.float64
    assert type(gradient(lambda x: gradient(f, x)[0] * x, 2.0)[0]) is np.float64


@pytest.mark.parametrize(
    ("f", "x", "kind"),
    [
        (lambda y: np.polyfit([0.0, 0.0, 1.0, 1.0], y, 2), [1.0, 2.0, 4.0, 3.0], np.exceptions.RankWarning),
        (lambda z: z.astype(float), [1 + 1j, 2.0], np.exceptions.ComplexWarning),
        (lambda z: z.astype("f4", "K"), [1 + 1j, 2.0], np.exceptions.ComplexWarning),
    ],
)
def test_what_numpy_warns_of_is_warned_of_within_a_loss(f, x, kind):
    with pytest.warns(kind):
        expected = f(np.array(x))
    with pytest.warns(kind):
        value, _ = withgradient(lambda x: np.sum(f(x)), np.array(x))
    np.testing.assert_allclose(value, np.sum(expected))


@pytest.mark.parametrize("options", [{}, {"full": True}, {"w": [1.0, 2.0, 0.5, 1.0, 3.0]}, {"cov": True}])
def test_a_fit_is_compiled(options):
    def loss(x, y):
        fit = np.polyfit(x, y, 1, **options)
        return sum(np.sum(part) for part in (fit if isinstance(fit, tuple) else [fit]))

    f = compiled(loss)
    for i in (1, 2):
        x, y = np.linspace(-1, 1, 5) * i, np.cos(np.arange(5.0) * i)
        assert f(x, y).val == loss(x, y)
        for g, eager in zip(f(x, y).grad, gradient(loss, x, y), strict=True):
            np.testing.assert_array_equal(g, eager)
