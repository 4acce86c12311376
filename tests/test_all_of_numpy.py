"""NumPy functions written with others: their values are NumPy's, their derivatives those of differences."""

from functools import partial

import numpy as np
import pytest

from minidiff import compiled, gradient, hvp
from minidiff.tracing import name_of, sequences
from minidiff.tracing.table import COMPOSITES

rng = np.random.default_rng(17)
V, U, W = rng.normal(size=7), rng.normal(size=7), rng.normal(size=4)
A, B = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
T = rng.normal(size=(2, 3, 4))
S = rng.normal(size=(4, 4)) + 4 * np.eye(4)
H = S + S.T
P = rng.uniform(0.5, 2.5, size=(3, 4))
N = A.copy()
N[1, 2] = N[0, 0] = N[3] = np.nan
N[3, 1] = 0.3
ROWS = 5 * np.eye(4).reshape(4, 2, 2) + rng.normal(size=(4, 2, 2))
X, Y = np.array([0.5, 1.0, 2.5, 4.0]), rng.normal(size=4)
QUANTILES = [0.1, 0.5, 0.93]
HERE = {
    "median": [
        (np.median, T),
        (lambda x: np.median(x, axis=(0, 2), keepdims=True), T),
        (np.median, T[0, 0, 0]),
        (lambda x: np.median(x, 1), A),
    ],
    "quantile": [
        (lambda x: np.quantile(x, QUANTILES, axis=1, keepdims=True), T),
        (lambda x: np.quantile(x, 0.3), A),
        (lambda x: np.quantile(x, [[0.2], [0.7]], axis=-1), T),
        *[
            (lambda x, m=m: np.quantile(x, QUANTILES, axis=0, method=m), A)
            for m in ("lower", "nearest", "hazen", "weibull", "median_unbiased", "midpoint", "inverted_cdf")
        ],
    ],
    "percentile": [
        (lambda x: np.percentile(x, [5, 50, 99], axis=-1), T),
        (lambda x: np.percentile(x, 30), V),
    ],
    "nanquantile": [
        (lambda x: np.nanquantile(x, QUANTILES, axis=1), N),
        (lambda x: np.nanquantile(x, 0.2), N),
    ],
    "nanpercentile": [(lambda x: np.nanpercentile(x, 40, axis=0), N)],
    "nanmedian": [(np.nanmedian, N), (lambda x: np.nanmedian(x, axis=0, keepdims=True), N)],
    "nanmax": [(np.nanmax, N), (lambda x: np.nanmax(x, 1, keepdims=True), N)],
    "nanmin": [(np.nanmin, N), (lambda x: np.nanmin(x, axis=0), N)],
    "nanvar": [(np.nanvar, N), (lambda x: np.nanvar(x[:3], axis=1, ddof=1), N)],
    "nanstd": [(np.nanstd, N), (lambda x: np.nanstd(x[:3], axis=0, keepdims=True), N)],
    "nanprod": [(np.nanprod, N), (lambda x: np.nanprod(x, axis=1), N)],
    "nancumsum": [(np.nancumsum, N), (lambda x: np.nancumsum(x, axis=1), N)],
    "nancumprod": [(lambda x: np.nancumprod(x, axis=1), N)],
    "cov": [
        (np.cov, A),
        (np.cov, V),
        (np.cov, V, U),
        (lambda x: np.cov(x, rowvar=False, bias=True), A),
        (lambda x: np.cov(x, aweights=[1, 2, 1, 3, 1], fweights=[2, 1, 1, 1, 3]), A),
        (np.cov, A, A[0]),
    ],
    "corrcoef": [(np.corrcoef, A), (np.corrcoef, V, U), (lambda x: np.corrcoef(x, rowvar=False), A)],
    "convolve": [
        (lambda x, y, m=m: np.convolve(x, y, m), x, y)
        for m in ("full", "same", "valid")
        for x, y in [(V, W), (W, V), (V, U), (V, W[:3]), (V, W[:1])]
    ],
    "correlate": [
        (lambda x, y, m=m: np.correlate(x, y, m), x, y)
        for m in ("full", "same", "valid")
        for x, y in [(V, W), (W, V), (V, U), (W[:3], V), (V, W[:1])]
    ],
    "interp": [
        (lambda x, y: np.interp(x, X, y), rng.uniform(0, 5, (2, 3)), Y),
        (lambda x: np.interp([0.7, 3, 1.1, 2.6], x, Y), X),
        (lambda x: np.interp(x, X, Y), np.array(1.7)),
        (lambda x: np.interp(x, X, Y, left=1.0, right=-2.0), np.array([0.0, 5, 2])),
    ],
    "bincount": [(lambda w: np.bincount([1, 0, 1, 3], weights=w, minlength=6), W)],
    "delete": [
        (lambda x: np.delete(x, [0, -1]), V),
        (lambda x: np.delete(x, 1, axis=1), T),
        (lambda x: np.delete(x, slice(None, None, 2), 0), A),
    ],
    "insert": [
        (lambda x, y: np.insert(x, [0, 3, 3], y), V, W[:3]),
        (lambda x, y: np.insert(x, 1, y, axis=1), A, W),
        (lambda x, y: np.insert(x, 2, y), A, np.array(0.3)),
        (lambda x, y: np.insert(x, [1, 3], y, 0), A, B[:2]),
    ],
    "resize": [(lambda x: np.resize(x, (3, 5)), V), (lambda x: np.resize(x, 3), A)],
    "extract": [(lambda x: np.extract(A > 0, x), A)],
    "diagflat": [(np.diagflat, W), (lambda x: np.diagflat(x, -2), A[:2, :2])],
    "sliding_window_view": [
        (lambda x: np.lib.stride_tricks.sliding_window_view(x, 3), V),
        (lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(0, 1)), A),
    ],
    "polyval": [(np.polyval, W, A), (np.polyval, W, np.array(0.4))],
    "vander": [(np.vander, W), (lambda x: np.vander(x, 3, increasing=True), W)],
    "polyfit": [
        (lambda x, y: np.polyfit(x, y, 2), X, Y),
        (lambda y: np.polyfit(X, y, 1, w=[1, 2, 1, 3.0]), A),
    ],
    "polyadd": [(np.polyadd, V, W), (np.polysub, W, V), (np.polymul, V, W), (np.polyder, V)],
    "cond": [(lambda x, p=p: np.linalg.cond(x, p), S) for p in (None, 2, -2, "fro")],
    "eigvals": [
        (np.linalg.eigvalsh, H),
        (lambda x: np.linalg.eigvalsh(x, "U"), H),
        (lambda x: np.sum(np.abs(np.linalg.eigvals(x)) ** 2), S),
    ],
    "aliases": [
        (np.linalg.matmul, S, A),
        (np.linalg.outer, V, W),
        (np.linalg.svdvals, S),
        (lambda x: np.linalg.diagonal(x, offset=1), T),
        (np.linalg.matrix_transpose, T),
        (np.matrix_transpose, A),
        (lambda x, y: np.linalg.tensordot(x, y, axes=1), T, A),
        (np.linalg.vecdot, A, B),
        (lambda x: np.linalg.matrix_norm(x, keepdims=True), T),
    ],
    "tensor": [(lambda x: np.linalg.tensorinv(x, ind=1), ROWS), (np.linalg.tensorsolve, ROWS, W)],
    "elementwise": [
        (np.float_power, P, A[:3, :4]),
        (np.fmod, P * 3, np.array([1.1, -0.7, 2.0, 0.9])),
        (np.copysign, A, B),
        (np.divmod, P * 3, np.array([1.1, 0.7, 2.0, 0.9])),
        (lambda x: np.ldexp(x, [1, 2, -1, 0]), W),
        (np.modf, 3 * A),
        (np.fmod, -P[0, 0] * 3, P[1, 1]),
    ],
    "logspace": [
        (lambda a, b: np.logspace(a, b, 5), W[0], W[1]),
        (lambda a: np.logspace(a, 1, 4, False, 2.0), W),
    ],
    "ediff1d": [(np.ediff1d, A), (lambda x, y: np.ediff1d(x, to_begin=y, to_end=[1.0, 2]), V, W)],
}
if hasattr(np, "matvec"):
    HERE["matvec"] = [(np.matvec, T, W), (np.vecmat, W, np.swapaxes(T, 1, 2))]
    HERE["matvec"] += [
        (lambda A: np.matvec(A, [1, 2, 3, 4]), T),
        (lambda x: np.vecmat(x, [[1], [2], [3], [4]]), W),
    ]
if hasattr(np, "cumulative_sum"):
    HERE["cumulative"] = [(lambda x: np.cumulative_sum(x, axis=1), A), (np.cumulative_prod, V)]
if hasattr(np, "unstack"):
    HERE["unstack"] = [(lambda x: np.unstack(x, axis=1), T)]
HERE["linspace"] = [
    (lambda x, y: np.linspace(x, y, 5, axis=-1), A[0], A[1, 0]),
    (lambda x, y: np.linspace(x, y, 4, False, True), V[0], V[1]),
    (lambda x: np.linspace(x, 2.0, 1, retstep=True)[0], V),
    (lambda x: np.linspace(x[0], x[1], 3, dtype="f8", retstep=True), V),
    (lambda x: np.linspace(1, x, 0), V),
]
HERE["nan_to_num"] = [
    (lambda x: np.nan_to_num(x, nan=2.0), N),
    (lambda x: np.nan_to_num(x + np.array([0, np.nan, np.inf, -np.inf, 0]), True, 1.0, 3.0, -2.0), A),
]
W3 = rng.uniform(1, 2, 7)
HERE["histograms"] = [
    (lambda w: np.histogram2d(V, U, 3, weights=w)[0], W3),
    (
        lambda w: np.histogram2d(V, U, [2, [-2.0, 0.0, 0.5]], weights=w, density=True)[0],
        W3,
    ),
    (lambda w: np.histogram2d(V, U, [-2.0, 0.0, 1.0, 3.0], weights=w)[0], W3),
    (lambda w: np.histogramdd(np.stack([V, U, V * U], 1), (2, 3, 1), weights=w, density=True)[0], W3),
    (lambda w: np.histogramdd(V, 4, weights=w)[0], W3),
    (lambda x: np.histogramdd([x, U], 2, density=True)[0], V),
]
HERE["views"] = [(lambda x: x.view() * x, V), (lambda x: x.view(np.ndarray) ** 2, A)]
SAMPLES = [(name, *sample) for name, samples in HERE.items() for sample in samples]


def parts(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def weighed(f):
    """Make a number of what f gives, in which each element counts differently; NaN does not count."""

    def number(*arrays):
        total = 0.0
        for r in parts(f(*arrays)):
            weights = np.cos(1.0 + np.arange(np.size(r))).reshape(np.shape(r))
            total = total + np.sum(np.where(np.isnan(r), 0, r) * weights)
        return total

    return number


def slope(f, arrays, directions, h):
    """Differentiate along directions: central differences of fourth order."""
    at = lambda t: f(*[a + t * d for a, d in zip(arrays, directions, strict=True)])
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


@pytest.mark.filterwarnings("ignore:All-NaN", "ignore:Degrees of freedom")
@pytest.mark.parametrize(("name", "f", "arrays"), [(n, f, a) for n, f, *a in SAMPLES])
def test_it_has_numpys_values_and_both_derivatives(name, f, arrays):
    arrays = [np.asarray(a) for a in arrays]
    seen = []

    def watched(*xs):
        seen.append([getattr(r, "_value", r) for r in parts(f(*xs))])
        return weighed(f)(*xs)

    directions = [np.sin(2.0 + np.arange(a.size)).reshape(a.shape) for a in arrays]
    inner = lambda *gs: sum(np.sum(g * d) for g, d in zip(gs, directions, strict=True) if g is not None)
    first = gradient(watched, *arrays)
    for ours, numpys in zip(seen[0], parts(f(*arrays)), strict=True):
        np.testing.assert_array_equal(ours, numpys)  # to the last bit
        assert np.asarray(ours).dtype == np.asarray(numpys).dtype
        assert np.shape(ours) == np.shape(numpys)
    np.testing.assert_allclose(
        inner(*first), slope(weighed(f), arrays, directions, 1e-4), rtol=1e-7, atol=1e-8
    )
    along = lambda *xs: inner(*gradient(weighed(f), *xs))
    second = gradient(lambda *xs: along(*xs) + sum(np.sum(x) * 0 for x in xs), *arrays)
    np.testing.assert_allclose(inner(*second), slope(along, arrays, directions, 1e-4), rtol=1e-6, atol=1e-7)


WRITTEN_WITH_OTHERS = sorted(filter(callable, COMPOSITES), key=name_of)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", WRITTEN_WITH_OTHERS, ids=name_of)
@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_with_a_matrix_it_has_numpys_shape_or_is_refused(function, shape):
    matrix, x = np.matrix(S[:3, :3]), A.flatten()[: np.prod(shape)].reshape(shape)
    calls = [lambda x: function(matrix, x), lambda x: function(x, matrix), lambda x: function([x, matrix])]
    for f in calls:
        try:
            expected = [np.asarray(r).shape for r in parts(f(x))]
        except Exception:
            continue  # NumPy has no such call
        seen = []
        try:
            gradient(lambda x, f=f: seen.extend(parts(f(x))) or np.sum(x), x)
        except (TypeError, NotImplementedError, ValueError):
            continue
        assert [np.shape(r) for r in seen] == expected


@pytest.mark.parametrize("filtered", [np.convolve, np.correlate])
def test_the_derivatives_of_a_filter_cost_what_filtering_does(filtered, monkeypatch):
    signal, taps, products = rng.normal(size=10_000), rng.normal(size=3), []

    class Counted:
        __getattr__ = staticmethod(partial(getattr, np))

        @staticmethod
        def convolve(x, y, *mode):
            result = np.convolve(x, y, *mode)
            products.append(len(result) * min(len(x), len(y)))
            return result

    monkeypatch.setattr(sequences, "np", Counted())
    loss = lambda x, h: np.sum(filtered(x, h, "same") ** 2)
    gradient(loss, signal, taps)
    hvp(lambda both: loss(*both), [signal, taps], [signal, taps])
    assert len(products) > 3
    assert max(products) < 2 * len(signal) * len(taps)  # not the square of the signal's length


ONE_CALL = {
    "sums of groups": lambda x: np.add.reduceat(x, range(1, len(x), 2)),
    "the largest of groups": lambda x: np.maximum.reduceat(x, range(1, len(x), 2)),
    "the smallest of groups": lambda x: np.minimum.reduceat(x, range(1, len(x), 2)),
    "running products": lambda x: np.cumprod(1 + x),
    "running log-sums": np.logaddexp.accumulate,
}


@pytest.mark.parametrize("f", ONE_CALL.values(), ids=ONE_CALL)
def test_the_derivatives_of_many_groups_or_steps_take_as_many_calls_as_those_of_few(f):
    def lines(n):
        slope = lambda x: np.sum(gradient(lambda x: np.sum(f(x) ** 2), x)[0] * x)
        made = compiled(slope)
        made(rng.normal(size=n))
        return made.source.count("\n    ")

    assert lines(7) == lines(40)
