"""Each derivative of autograd's for SciPy is that of differences, or is refused by the function's name."""

import inspect

import numpy as np
import pytest
import scipy.special
from autograd.core import primitive_vjps
from autograd.scipy import integrate, linalg, signal, special
from autograd.scipy.stats import beta, chi2, dirichlet, gamma, multivariate_normal, norm, poisson, t

from minidiff import gradient, param, params
from minidiff.tracing import table

RNG = np.random.default_rng(0)
P = np.array([[0.7, 1.3, 2.1], [0.4, 3.2, 1.7]])  # positive
U = np.array([[0.2, 0.55, 0.8], [0.35, 0.1, 0.9]])  # within (0, 1)
M = np.array([[0.3, -1.2, 0.7], [-0.9, 0.4, 1.5]])  # of either sign
V, W = P[0], U[0]
A = RNG.normal(size=(3, 3)) + 3 * np.eye(3)
B = RNG.normal(size=(3, 2))
SPD = A @ A.T
BANDS = np.array([[0.0, 0.5, -0.3, 0.2], [3.0, 4.0, 3.5, 5.0], [0.4, -0.2, 0.6, 0.0]])


def call(*args, **options):
    return args, options


UNARY = {
    **dict.fromkeys(("gammaln", "gamma", "rgamma", "psi", "digamma", "y0", "y1"), P),
    **dict.fromkeys(("j0", "j1", "i0", "i1", "erf", "erfc", "expit"), M),
    **dict.fromkeys(("erfinv", "logit"), U),
    "erfcinv": U + 0.3,
    "gammasgn": M,
}
# By function: calls. Every array of floats, and every float, in them is differentiated by.
CALLS = {
    **{getattr(special, name): [call(x), call(x[0, 0]), call(x[:, :0])] for name, x in UNARY.items()},
    **{
        getattr(special, name): [call(x), call(x[0, 0]), call(M / 2 + 1j * P)]
        for name, x in {"erf": M, "erfc": M, "expit": M, "psi": P, "gamma": P, "rgamma": P}.items()
    },
    special.beta: [call(P, P[1] + 0.5), call(V, 1.5), call(0.5, V), call(P, P[:1])],
    special.betaln: [call(P, P[1] + 0.5), call(V, 1.5), call(0.5, V)],
    special.betainc: [call(P, P[1], U), call(1.5, 2.5, W), call(V, 2.5, 0.3), call(1.5, V, 0.3)],
    special.polygamma: [call(1, P), call(np.array([0, 1, 2]), P), call(1.0, V), call(V, 1.2)],
    special.gammainc: [call(P, P[1]), call(V, 1.5), call(1.5, V)],
    special.gammaincc: [call(P, P[1]), call(V, 1.5), call(1.5, V)],
    special.multigammaln: [call(P + 2, 3), call(3.5, 2), call(V + 4, 1)],
    special.jn: [call(2, P), call(np.array([0, 1, 2]), M), call(1.5, P), call(V, 1.2), call(2, M + 1j * P)],
    special.yn: [call(2, P), call(np.array([0, 1, 2]), P)],
    special.iv: [call(2, M), call(np.array([0, 1, 2]), M), call(1.5, P), call(V, 1.2), call(2, M + 1j * P)],
    special.ive: [call(2, M), call(np.array([0, 1, 2]), M), call(1.5, P), call(V, 1.2), call(2, M + 1j * P)],
    special.logsumexp: [
        call(M),
        call(M, 0),
        call(M, axis=1, keepdims=True),
        call(M, (0, 1)),
        call(M, axis=-1, b=P),
        call(M, 0, P),
        call(M, axis=0, b=P[0]),
        call(M, 1, None, True),
        call(M, b=2.0),
        call(np.array([-np.inf, 0.5, 1.0])),
        call(M + 1j * P, axis=1),
        call(0.5),
    ],
    linalg.sqrtm: [call(SPD), call(SPD + 1j * (A - A.T)), call(A @ A), call(SPD, True), call(SPD, disp=True)],
    linalg.solve_triangular: [
        call(a, b, **options)
        for a in (A, A + 1j * A.T)
        for b in (B[:, 0], B)
        for options in (
            {},
            {"trans": 1},
            {"trans": "T", "lower": True},
            {"trans": 2},
            {"trans": "C", "lower": True},
            {"trans": "N", "lower": True},
            {"unit_diagonal": True},
            {"unit_diagonal": True, "lower": True, "trans": 1},
            {"overwrite_b": False, "check_finite": False},
        )
    ]
    + [call(A, B, 1), call(A, B, 0, True), call(A, B, 0, True, True)],
    linalg.solve_banded: [
        call((1, 1), BANDS, RNG.normal(size=4)),
        call((1, 1), BANDS, RNG.normal(size=(4, 1))),
        call((1, 1), BANDS, RNG.normal(size=(4, 2))),
        call((0, 1), BANDS[:2], RNG.normal(size=4)),
        call((1, 0), BANDS[1:], RNG.normal(size=4)),
        call((1, 1), BANDS, RNG.normal(size=4), False, False),
        call((1, 1), BANDS + 1j * BANDS[::-1], RNG.normal(size=4)),
        call(
            (2, 1),
            np.array([[0, 1, 1, 1, 1], [9, 9, 8, 9, 9], [1, 2, 1, 1, 0], [1, 1, 1.5, 0, 0]]),
            np.arange(5.0),
        ),
        call(
            (1, 2),
            np.array([[0, 0, 1, 2, 1], [0, 1, 1, 1, 1], [9, 9, 8, 9, 9], [1, 2, 1, 1, 0.0]]),
            np.arange(5.0),
        ),
    ],
    linalg.solve_sylvester: [
        call(A, SPD[:2, :2], 1j * B),
        call(A, SPD, RNG.normal(size=(3, 3))),
        call(A, SPD[:2, :2], B),
        call(A * 1j, SPD[:2, :2], B),
    ],
    signal.convolve: [
        call(V, W[:2]),
        call(W[:2], V),
        *[call(P, U[:, :2], mode=mode) for mode in ("full", "valid", "same")],
        *[call(U[:1, :2], P, mode=mode) for mode in ("full", "valid", "same")],
        *[call(U[:2, :2], P[:1], mode=mode) for mode in ("full", "same")],
        *[call(P, U, axes=([1], [1]), mode=mode) for mode in ("full", "valid", "same")],
        *[call(P, U, axes=([1], [1]), dot_axes=([0], [0]), mode=mode) for mode in ("full", "valid", "same")],
        call(P, U, axes=([0], [1])),
        call(P + 1j * U, U[:, :2]),
        call(P[:, :2] * 1j, U + 1j * P, mode="valid"),
    ],
    integrate.odeint: [
        call(lambda y, t, k: k * y, V, np.array([0.0, 0.3, 0.7]), (0.5,), rtol=1e-11, atol=1e-11),
        call(
            lambda y, t, k: k * y + t,
            V,
            np.array([0.0, 0.3, 0.7]),
            (np.array([0.5, -0.2, 0.1]),),
            rtol=1e-11,
            atol=1e-11,
        ),
        call(
            lambda t, y, k: k * y + t,
            V,
            np.array([0.0, 0.3, 0.7]),
            (0.5,),
            tfirst=True,
            rtol=1e-11,
            atol=1e-11,
        ),
    ],
    **{
        f: [
            call(M, P, P[1]),
            call(M),
            call(M, 0.5),
            call(M, 0.5, 2.0),
            call(0.3, V, 1.5),
            call(M, 0.3, V),
            call(M, scale=2.0),
            call(M, loc=V),
        ]
        for f in (norm.pdf, norm.cdf, norm.sf, norm.logpdf, norm.logcdf, norm.logsf)
    },
    **{
        f: [
            call(M, P + 1),
            call(M, 3.5),
            call(M, 3, 0.5),
            call(M, V, 0.5, P),
            call(0.3, V, M),
            call(M, df=3.0, scale=2.0),
        ]
        for f in (t.pdf, t.cdf, t.logpdf, t.logcdf)
    },
    **{
        f: [call(U, P, P[1]), call(U, 2.0, 3.0), call(0.4, V, 1.5), call(U, 2.0, 3.0, 0.1, 2.0)]
        for f in (beta.pdf, beta.cdf, beta.logpdf)
    },
    **{
        f: [call(P, P[1]), call(P, 2.0), call(1.5, V), call(P, 2.0, 0.1, 2.0), call(P, 2.0, scale=2.0)]
        for f in (gamma.pdf, gamma.cdf, gamma.logpdf)
    },
    **{
        f: [call(P, 3), call(P, 3.0), call(P, 2.5), call(P, V + 2), call(1.5, 4), call(P, 3, scale=2.0)]
        for f in (chi2.pdf, chi2.cdf, chi2.logpdf)
    },
    **{
        f: [
            call(np.array([0, 1, 3]), P),
            call(2, 1.5),
            call(np.array([[0], [4]]), V),
            call(np.array([1.0, 2.0, 5.0]), 2.5),
            call(3, 1.5, 1),
        ]
        for f in (poisson.pmf, poisson.logpmf, poisson.cdf)
    },
    **{
        f: [
            call([0.2, 0.5, 0.3], V),
            call([[0.2, 0.6], [0.5, 0.1], [0.3, 0.3]], V),
            call(np.array([0.2, 0.5]), V),
        ]
        for f in (dirichlet.pdf, dirichlet.logpdf)
    },
    **{
        f: [
            call(M[0], V, SPD),
            call(M, V, SPD),
            call(0.5, 0.3, 2.0),
            call(M[0], 0.0, 2.0),
            call(M[0], V, SPD, True),
            call(M[0], V, 2.0),
            call(M[0], V, P[1]),
            call(RNG.normal(size=(2, 4, 3)), V, SPD),
        ]
        for f in (multivariate_normal.pdf, multivariate_normal.logpdf)
    },
    multivariate_normal.entropy: [call(V, SPD), call(0.0, 2.0), call(V, P[1])],
}


def listed(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


def weighed(result):
    total = 0.0
    for i, a in enumerate(listed(result)):
        n = np.arange(1.0, np.size(a) + 1).reshape(np.shape(a))
        total = total + np.sum(np.real(a) * np.cos(n + i)) + np.sum(np.imag(a) * np.sin(n + i))
    return total


def is_differentiable(x):
    return isinstance(x, float) or (isinstance(x, np.ndarray) and x.dtype.kind in "fc")


def slopes(f, x, h=1e-5):
    x = np.asarray(x)
    g = np.zeros(x.shape, x.dtype)
    for place in np.ndindex(x.shape):
        for unit in [1.0, 1j] if x.dtype.kind == "c" else [1.0]:
            step = np.zeros_like(x)
            step[place] = h * unit
            g[place] += unit * (f(x + step) - f(x - step)) / (2 * h)
    return g


def cases():
    for f, calls in CALLS.items():
        name = f"{getattr(f.fun, '__module__', '') or 'special'}.{f.fun.__name__}"
        for i, (args, options) in enumerate(calls):
            places = [(k, None) for k, x in enumerate(args) if is_differentiable(x)]
            places += [(None, k) for k, x in options.items() if is_differentiable(x) and "tol" not in k]
            places += [
                (k, j)
                for k, x in enumerate(args)
                if isinstance(x, tuple)
                for j, y in enumerate(x)
                if is_differentiable(y)
            ]
            for place in places:
                yield pytest.param(
                    f, args, options, place, id=f"{name} {i} {place[0] if place[0] is not None else place[1]}"
                )


def put(args, options, place, x):
    k, key = place
    if k is None:
        return args, {**options, key: x}
    y = x if key is None else (*args[k][:key], x, *args[k][key + 1 :])
    return (*args[:k], y, *args[k + 1 :]), options


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("f", "args", "options", "place"), list(cases()))
def test_a_derivative_is_that_of_differences_or_refused(f, args, options, place):
    k, key = place
    x = options[key] if k is None else args[k] if key is None else args[k][key]

    def loss(x):
        new_args, new_options = put(args, options, place, x)
        return weighed(f(*new_args, **new_options))

    try:
        (g,) = gradient(loss, x)
        W = param(x)
        h = gradient(lambda: loss(W), params(W))[W]
    except (NotImplementedError, TypeError) as error:
        refusal = str(error)
    else:
        refusal = None
    assert refusal is None or f.fun.__name__ in refusal
    if refusal is not None:
        return
    right = slopes(loss, x)
    np.testing.assert_allclose(0 if g is None else g, right, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(0 if g is None else g, 0 if h is None else h)
    if g is None or f is integrate.odeint:
        return
    u, v = (np.cos(np.arange(np.size(x)) + k).reshape(np.shape(x)) for k in (0, 1))
    along = lambda x: np.sum(np.real(np.conj(gradient(loss, x)[0]) * u))
    try:
        (second,) = gradient(along, x)
    except NotImplementedError:
        return
    difference = (along(x + 1e-5 * v) - along(x - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(
        0 if second is None else np.sum(np.real(second) * v), difference, rtol=1e-4, atol=1e-6
    )


def test_every_entry_of_autograds_for_scipy_is_here():
    missing = []
    for primitive in primitive_vjps:
        function = getattr(primitive, "fun", None)
        home = inspect.getmodule(function)
        if primitive in table.OURS:
            continue
        if (
            str(getattr(home, "__name__", "")).startswith(("scipy.", "autograd.scipy"))
            and primitive not in CALLS
        ):
            missing.append(function)
        if isinstance(function, np.ufunc) and getattr(scipy.special, function.__name__, None) is function:
            missing += [] if primitive in CALLS else [function]
    assert missing == []
