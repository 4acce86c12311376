"""SciPy's functions in Python cannot be recorded: the error names what can, and that does."""

import autograd
import numpy as np
import pytest

from minidiff import (
    check_gradient,
    compiled,
    derivative,
    dropgrad,
    gradient,
    implicit_root,
    param,
    params,
    withgradient,
)
from minidiff.functions import logsoftmax, logsumexp, softmax

scipy = pytest.importorskip("scipy")
import autograd.scipy.integrate  # noqa: E402
import autograd.scipy.linalg  # noqa: E402
import autograd.scipy.signal  # noqa: E402
import autograd.scipy.special  # noqa: E402
import autograd.scipy.stats  # noqa: E402
import scipy.integrate  # noqa: E402, F811
import scipy.interpolate  # noqa: E402
import scipy.linalg  # noqa: E402
import scipy.ndimage  # noqa: E402
import scipy.optimize  # noqa: E402
import scipy.signal  # noqa: E402
import scipy.spatial.distance  # noqa: E402
import scipy.special as special  # noqa: E402
import scipy.stats as stats  # noqa: E402

asp = autograd.scipy
X = np.array([0.3, 1.4, 0.8])
S = np.array([[3.0, 0.2, 0.5], [0.2, 2.0, 0.1], [0.5, 0.1, 4.0]])
T = np.linspace(0, 1, 4)
T_OF_3 = stats.t(3)
FINE = {"rtol": 1e-11, "atol": 1e-11}


def leggauss(f, a, b):
    h = (b - a) / 2
    x, w = np.polynomial.legendre.leggauss(20)
    return h * (w @ f(a + h * (x + 1)))


expm = derivative(lambda g, ans, A: expm(np.block([[A.T, g], [0 * A, A.T]]))[: len(A), len(A) :])(
    scipy.linalg.expm
)


def layer(y, t, k):
    h = np.concatenate([np.tanh(np.dot(S, y) * k), np.sum(y * k, keepdims=True)])
    return np.where(k > 0, -h[:3], 0) + np.cross(k, y) * np.linalg.norm(np.stack([y, k])) - np.mean(y) * 0.1


# What was written; the words of the error; what is written instead.
TWINS = {
    "logsumexp": (special.logsumexp, "minidiff.functions.logsumexp", logsumexp),
    "softmax": (special.softmax, "minidiff.functions.softmax", softmax),
    "log_softmax": (special.log_softmax, "minidiff.functions.logsoftmax", logsoftmax),
    "polygamma": (
        lambda x: special.polygamma(1, x),
        "autograd.scipy.special.polygamma",
        lambda x: asp.special.polygamma(1, x),
    ),
    "multigammaln": (
        lambda x: special.multigammaln(x[1], 2),
        "autograd.scipy.special.multigammaln",
        lambda x: asp.special.multigammaln(x[1], 2),
    ),
    "spherical_jn": (
        lambda x: special.spherical_jn(2, x),
        None,
        lambda x: np.sqrt(np.pi / (2 * x)) * special.jv(2.5, x),
    ),
    "comb": (lambda x: special.comb(4 * x, x), None, lambda x: special.binom(4 * x, x)),
    "solve_triangular": (
        lambda x: scipy.linalg.solve_triangular(S, x),
        "autograd.scipy.linalg.solve_triangular",
        lambda x: asp.linalg.solve_triangular(S, x),
    ),
    "solve_triangular of a matrix": (
        lambda x: scipy.linalg.solve_triangular(S + np.diag(x), X, lower=True),
        "autograd.scipy.linalg.solve_triangular",
        lambda x: asp.linalg.solve_triangular(S + np.diag(x), X, lower=True),
    ),
    "cho_solve": (
        lambda x: scipy.linalg.cho_solve((np.linalg.cholesky(S), True), x),
        "np.linalg.solve",
        lambda x: np.linalg.solve(S, x),
    ),
    "cho_factor": (
        lambda x: np.tril(scipy.linalg.cho_factor(S + np.diag(x), lower=True)[0]),
        "np.linalg.cholesky",
        lambda x: np.linalg.cholesky(S + np.diag(x)),
    ),
    "sqrtm": (
        lambda x: scipy.linalg.sqrtm(S + np.diag(x)),
        "autograd.scipy.linalg.sqrtm",
        lambda x: asp.linalg.sqrtm(S + np.diag(x)),
    ),
    "signal.convolve": (
        lambda x: scipy.signal.convolve(x, [1.0, 2.0]),
        "autograd.scipy.signal.convolve",
        lambda x: asp.signal.convolve(x, np.array([1.0, 2.0])),
    ),
    "odeint": (
        lambda k: scipy.integrate.odeint(lambda y, t, k: -k * y, X, T, (k,), **FINE),
        "autograd.scipy.integrate.odeint",
        lambda k: asp.integrate.odeint(lambda y, t, k: -k * y, X, T, autograd.builtins.tuple((k,)), **FINE),
    ),
    "odeint of plain NumPy": (
        lambda k: scipy.integrate.odeint(layer, X, T, (k,), **FINE),
        "autograd.scipy.integrate.odeint",
        lambda k: asp.integrate.odeint(layer, X, T, autograd.builtins.tuple((k,)), **FINE),
    ),
    "odeint from a start": (
        lambda y: scipy.integrate.odeint(lambda y, t: -y * y, y, T, **FINE),
        "autograd.scipy.integrate.odeint",
        lambda y: asp.integrate.odeint(lambda y, t, k: -k * y * y, y, T, (1.0,), **FINE),
    ),
    "solve_ivp": (
        lambda k: scipy.integrate.solve_ivp(lambda t, y: -k * y, (0, 1), X, t_eval=T, **FINE).y.T,
        "autograd.scipy.integrate.odeint",
        lambda k: asp.integrate.odeint(lambda y, t, k: -k * y, X, T, autograd.builtins.tuple((k,)), **FINE),
    ),
    "quad": (
        lambda x: scipy.integrate.quad(lambda s: np.exp(-s * x[0]), 0, 3)[0],
        "h * (w @ f(a + h * (x + 1))), h = (b - a) / 2 and x, w = np.polynomial.legendre.leggauss(n)",
        lambda x: leggauss(lambda s: np.exp(-s * x[0]), 0, 3),
    ),
    "expm": (
        lambda x: scipy.linalg.expm(S * x),
        "expm = minidiff.derivative(lambda g, ans, A: expm(np.block([[A.T, g], [0 * A, A.T]]))[:len(A), "
        "len(A):])(scipy.linalg.expm)",
        lambda x: expm(S * x / 3) @ expm(S * x / 3) @ expm(S * x / 3),
    ),
    "gaussian_filter": (
        lambda x: scipy.ndimage.gaussian_filter1d(x, 0.5, radius=1, mode="constant"),
        "Write it with NumPy's functions",
        lambda x: np.convolve(x, scipy.ndimage.gaussian_filter1d(np.eye(3)[1], 0.5, radius=1), "same"),
    ),
    "interp1d": (
        lambda x: scipy.interpolate.interp1d(T, T**2)(x / 2),
        "np.interp",
        lambda x: np.interp(x / 2, T, T**2),
    ),
    "cdist": (
        lambda x: scipy.spatial.distance.cdist(S * x, S + 1),
        "np.linalg.norm",
        lambda x: np.linalg.norm((S * x)[:, None] - (S + 1), axis=-1),
    ),
    "trapezoid": (
        lambda x: scipy.integrate.trapezoid(x**2, T[:3]),
        "np.trapezoid(y, x)",
        lambda x: np.trapezoid(x**2, T[:3]),
    ),
    "cumulative_trapezoid": (
        lambda x: scipy.integrate.cumulative_trapezoid(x**2, T[:3]),
        "np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x))",
        lambda x: np.cumsum((x[1:] ** 2 + x[:-1] ** 2) / 2 * np.diff(T[:3])),
    ),
    "svdvals": (
        lambda x: scipy.linalg.svdvals(S * x),
        "np.linalg.svd(A, compute_uv=False)",
        lambda x: np.linalg.svd(S * x, compute_uv=False),
    ),
    "pinvh": (
        lambda x: scipy.linalg.pinvh(S * np.sum(x)),
        "np.linalg.pinv(A, hermitian=True)",
        lambda x: np.linalg.pinv(S * np.sum(x), hermitian=True),
    ),
    "euclidean": (
        lambda x: scipy.spatial.distance.euclidean(x, 2 * x + 1),
        "np.linalg.norm(x - y)",
        lambda x: np.linalg.norm(x - (2 * x + 1)),
    ),
    "eigvals": (
        lambda x: scipy.linalg.eigvals(S * np.sum(x)).real.sum(),
        "np.linalg.eigvals",
        lambda x: np.linalg.eigvals(S * np.sum(x)).real.sum(),
    ),
    "fftconvolve": (
        lambda x: scipy.signal.fftconvolve(x, X),
        "autograd.scipy.signal.convolve",
        lambda x: asp.signal.convolve(x, X),
    ),
    "convolve2d": (
        lambda x: scipy.signal.convolve2d(S * x, S),
        "autograd.scipy.signal.convolve",
        lambda x: asp.signal.convolve(S * x, S),
    ),
    "norm.logpdf": (
        lambda x: stats.norm.logpdf(0.3, x, 2.0),
        "norm.logpdf(x, loc, scale)",
        lambda x: asp.stats.norm.logpdf(0.3, x, 2.0),
    ),
    "norm.cdf by keyword": (
        lambda x: stats.norm.cdf(x, scale=x),
        "norm.cdf(x, loc, scale), by position",
        lambda x: asp.stats.norm.cdf(x, 0.0, x),
    ),
    "norm.cdf": (lambda x: stats.norm.cdf(x), "ndtr, log_ndtr and ndtri of scipy.special", special.ndtr),
    "norm.ppf": (lambda x: stats.norm.ppf(x / 2), "ndtr, log_ndtr and ndtri", lambda x: special.ndtri(x / 2)),
    "a frozen t": (
        lambda x: T_OF_3.cdf(x),
        "autograd.scipy.stats.t.cdf(x, df, loc, scale)",
        lambda x: asp.stats.t.cdf(x, 3.0),
    ),
    "expon.cdf": (lambda x: stats.expon.cdf(x), "Write it with np.mean", lambda x: 1 - np.exp(-x)),
    "zscore": (
        lambda x: stats.zscore(x),
        "Write it with np.mean, np.std",
        lambda x: (x - np.mean(x)) / np.std(x),
    ),
    "pearsonr": (
        lambda x: stats.pearsonr(x, T[:3] ** 2)[0],
        "Write it with np.mean, np.std",
        lambda x: np.corrcoef(x, T[:3] ** 2)[0, 1],
    ),
    "t.logpdf": (
        lambda x: stats.t.logpdf(x, 3.0, loc=x * x),
        "t.logpdf(x, df, loc, scale)",
        lambda x: asp.stats.t.logpdf(x, 3.0, x * x, 1.0),
    ),
    "gamma.logpdf": (
        lambda x: stats.gamma.logpdf(x, 2 * x),
        "gamma.logpdf(x, a)",
        lambda x: asp.stats.gamma.logpdf(x, 2 * x),
    ),
    "beta.logpdf": (
        lambda x: stats.beta.logpdf(x / 2, 2.0, x),
        "beta.logpdf(x, a, b)",
        lambda x: asp.stats.beta.logpdf(x / 2, 2.0, x),
    ),
    "poisson.logpmf": (
        lambda x: stats.poisson.logpmf(3, x),
        "poisson.logpmf(k, mu)",
        lambda x: asp.stats.poisson.logpmf(3, x),
    ),
    "chi2.logpdf": (
        lambda x: stats.chi2.logpdf(x, 3),
        "chi2.logpdf(x, df)",
        lambda x: asp.stats.chi2.logpdf(x, 3),
    ),
    "dirichlet.logpdf": (
        lambda x: stats.dirichlet.logpdf([0.2, 0.3, 0.5], x),
        "dirichlet.logpdf(x, alpha)",
        lambda x: asp.stats.dirichlet.logpdf(np.array([0.2, 0.3, 0.5]), x),
    ),
    "multivariate_normal.logpdf": (
        lambda x: stats.multivariate_normal.logpdf(X, x * x, S),
        "multivariate_normal.logpdf(x, mean, cov)",
        lambda x: asp.stats.multivariate_normal.logpdf(X, x * x, S),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_error_names_a_twin_that_does_the_same_and_has_a_gradient(name):
    plain, words, twin = TWINS[name]
    np.testing.assert_allclose(twin(X), plain(X), rtol=1e-8)
    if words is not None:  # else there are versions that record it
        with pytest.raises(TypeError) as caught:
            gradient(lambda x: np.sum(plain(x)), X)
        assert words in str(caught.value)
        W = param(X)
        with pytest.raises(TypeError) as caught:
            gradient(lambda: np.sum(plain(W * 1.0)), params(W))
        assert words in str(caught.value)
    check_gradient(twin, X, order=1 if "ode" in name or "ivp" in name else 2)


@pytest.mark.parametrize("options", [{"loc": 0.3}, {"scale": 2.0}, {"loc": X, "scale": 2.0}])
def test_constants_by_keyword_are_heeded_by_the_twins_of_distributions(options):
    for name in ("logpdf", "pdf", "cdf", "logcdf", "sf", "logsf"):
        twin = lambda x: getattr(asp.stats.norm, name)(x, **options)
        np.testing.assert_allclose(twin(X), getattr(stats.norm, name)(X, **options))
        check_gradient(twin, X)


@pytest.mark.parametrize("name", ["expon", "cauchy", "laplace"])
def test_a_distribution_without_a_twin_is_written_out(name):
    with pytest.raises(TypeError, match=r"Write the logarithm of the density"):
        gradient(lambda x: np.sum(getattr(stats, name).logpdf(x)), X)


def test_a_solver_within_a_loss_is_refused_with_what_to_do():
    solution = lambda a: scipy.optimize.minimize(lambda z: np.sum((z - a**2) ** 2), [0.0]).x[0]
    with pytest.raises(TypeError, match=r"Take minidiff\.implicit_root"):
        gradient(solution, 2.0)
    twin = lambda a: implicit_root(lambda z, a: 2 * (z - a**2), solution(dropgrad(a)), a, tol=1e-5)
    np.testing.assert_allclose(gradient(twin, 2.0)[0], 4.0)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_in_a_program_is_called_as_it_is(name):
    twin = TWINS[name][2]
    loss = lambda x: np.sum(np.sin(twin(x)))
    f = compiled(loss)
    if "odeint" in (TWINS[name][1] or "") or "implicit_root" in (TWINS[name][1] or ""):
        with pytest.raises(TypeError, match=r"compiled: .* looks at values.*gradient itself"):
            f(X)
    else:
        for x in (X, 0.9 * X, X[::-1].copy()):
            (val, (g,)), (expected, (h,)) = f(x), withgradient(loss, x)
            assert val == expected
            np.testing.assert_array_equal(g, h)
        assert f.source.count("def ") == 1


@pytest.mark.parametrize(
    "f",
    [
        lambda x: asp.linalg.solve_triangular(S + np.diag(x), x, lower=True),
        lambda x: asp.linalg.sqrtm(S + np.diag(x)),
        lambda x: asp.stats.norm.logcdf(x, 0.1 * x, scale=2.0),
        lambda x: asp.stats.t.logpdf(x, 3.0, x * x, 1.0),
        lambda x: expm(np.diag(x)),
    ],
)
def test_so_are_its_derivatives(f):
    slope = lambda x: np.sum(gradient(lambda x: np.sum(np.sin(f(x))), x)[0] ** 2)
    program = compiled(slope)
    for x in (X, 0.9 * X):
        (val, (g,)), (expected, (h,)) = program(x), withgradient(slope, x)
        assert val == expected
        np.testing.assert_array_equal(g, h)


def test_a_program_that_calls_scipys_functions_cannot_be_saved(tmp_path):
    f = compiled(lambda x: np.sum(asp.stats.norm.logpdf(x, 0.0, 1.0)))
    f(X)
    with pytest.raises(TypeError, match=r"test_scipy_functions.py, line .* it calls logpdf, which"):
        f.save(tmp_path / "step.py")


def test_so_is_one_of_an_argument_beside_parameters_with_a_twin_where_that_can_be_compiled():
    W = param(X)
    with pytest.raises(TypeError, match=r"cannot be compiled: .* Take np.linalg.inv\."):
        compiled(lambda A: np.sum(scipy.linalg.inv(A) @ W), params(W))(S)


def test_an_equation_without_its_arguments_says_what_is_missing():
    with pytest.raises(
        NotImplementedError, match=r"odeint has no gradient .*: there is none without arguments"
    ):
        gradient(lambda y: np.sum(asp.integrate.odeint(lambda y, t: -y, y, T)), X)


def test_the_sum_of_exponentials():
    A = np.array([[0.3, -1000.0, 2.0], [1000.0, 1000.0, 0.0]])
    for axis in (None, 0, 1, (0, 1), -1):
        for keepdims in (False, True):
            ours, scipys = (f(A, axis=axis, keepdims=keepdims) for f in (logsumexp, special.logsumexp))
            np.testing.assert_allclose(ours, scipys)
            assert np.shape(ours) == np.shape(scipys)
    check_gradient(lambda x: logsumexp(x, axis=1), np.stack([X, 2 - X]))
    check_gradient(logsumexp, X)
    np.testing.assert_allclose(gradient(logsumexp, X)[0], softmax(X))
    weights = np.array([0.0, -np.inf, np.log(2.0)])
    np.testing.assert_allclose(gradient(lambda x: logsumexp(x + weights), X)[0][1], 0)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_the_sum_of_exponentials_at_infinity():
    assert logsumexp([-np.inf, -np.inf]) == -np.inf
    assert gradient(logsumexp, np.array([-np.inf, 1.0]))[0].tolist() == [0, 1]
    assert gradient(logsumexp, np.array([np.inf, 1.0]))[0].tolist() == [1, 0]
    assert gradient(logsumexp, np.array([-np.inf, -np.inf]))[0].tolist() == [0.5, 0.5]


def test_an_error_of_pythons_own_does_not_hide_what_was_refused():
    def in_c(x):  # goes on with an error, of which Python knows nothing more
        try:
            float(x)
        except TypeError:
            raise SystemError("<class 'type'> returned a result with an exception set") from None

    with pytest.raises(TypeError, match=r"float\(\) of a value under differentiation"):
        gradient(in_c, 1.0)


@pytest.mark.parametrize("name", ["brentq", "brenth", "bisect", "ridder", "root_scalar"])
def test_what_a_solver_in_c_has_overlooked_is_told(name):
    def solve(a):
        bracket = {"bracket": (-5, 5)} if name == "root_scalar" else {"a": -5, "b": 5}
        return getattr(scipy.optimize, name)(lambda t: t**3 - a, **bracket)

    with pytest.raises(TypeError, match=r"cannot be recorded.*minidiff\.implicit_root") as caught:
        gradient(solve, 1.0)
    assert any(entry.name == "solve" for entry in caught.traceback)
    with pytest.raises(ValueError, match="must have different signs"):
        gradient(lambda a: a * solve(1000.0), 1.0)


@pytest.mark.parametrize(
    "f",
    [
        lambda S, x: asp.stats.multivariate_normal.logpdf(x, 0.1 * x, S),
        lambda S, x: asp.stats.multivariate_normal.pdf(x, np.zeros(3), S),
        lambda S, x: asp.stats.multivariate_normal.entropy(np.zeros(3), S) * np.sum(x),
    ],
)
def test_a_covariance_is_its_lower_triangle(f):
    check_gradient(f, S + np.triu(np.full((3, 3), 0.2), 1), X)
