"""NumPy's statistics, its functions of neighbours and those that move elements: values, derivatives, options.

Each call has the value that NumPy gives, bit for bit, and in its type; its first and second derivatives are
those of differences, of parameters as of arguments; compiled, it gives the same bits or is refused.
"""

import copy
import functools
import math
import tracemalloc

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from minidiff import compiled, gradient, hessian, jacobian, param, params, withgradient
from minidiff.program.listing import RefusedError
from minidiff.tracing import constant

rng = np.random.default_rng(17)
SHAPES = [(), (5,), (3, 4), (2, 3, 2), (2, 1, 3, 2)]
REAL = [np.array(rng.normal(size=shape)) for shape in SHAPES]
COMPLEX = [np.array(rng.normal(size=shape) + 1j * rng.normal(size=shape)) for shape in SHAPES]
EITHER = REAL + COMPLEX
M, C, T = REAL[2], COMPLEX[2], REAL[3]
V, U, W = rng.normal(size=7), rng.normal(size=4), rng.normal(size=4) + 1j * rng.normal(size=4)
X, F = np.array([0.5, 1.0, 2.5, 4.0]), rng.normal(size=4)
G = rng.uniform(0.1, 0.9, size=3)
STEPS = np.array([0.0, 0.4, 1.0, 1.3])
PLACES = rng.uniform(0, 5, size=(2, 3))


def holed(x):
    x = x.copy()
    x.reshape(-1)[1::3] = np.nan
    return x


HOLED = [holed(x) for x in REAL[1:]]
HOLED_EITHER = HOLED + [holed(x) for x in COMPLEX[1:]]
SOME = np.array([[True, False, True, True], [False, True, True, False], [True, True, True, True]])
ODD = np.array([[0.13, 0.71], [0.53, 0.87]])
METHODS = (
    "linear", "lower", "higher", "midpoint", "nearest", "hazen", "weibull", "median_unbiased",
    "normal_unbiased", "inverted_cdf", "averaged_inverted_cdf", "closest_observation",
    "interpolated_inverted_cdf",
)  # fmt: skip
try:
    np.pad(np.ones(1), {0: 1})
    PADS_BY_AXIS = True
except (TypeError, ValueError):  # before NumPy 2.2
    PADS_BY_AXIS = False
PADS = (
    "constant", "edge", "linear_ramp", "maximum", "mean", "median", "minimum", "reflect", "symmetric", "wrap",
)  # fmt: skip
MODES = ("full", "same", "valid")
AXES = [
    {},
    {"axis": 0},
    {"axis": -1, "keepdims": True},
    {"axis": ()},
    {"axis": np.int64(0)},
    {"keepdims": True},
]
TWO_AXES = [{"axis": (0, 2)}, {"axis": (-1, 0), "keepdims": True}, {"axis": [1, 0]}]
WITHOUT_LISTS = TWO_AXES[:2]


def each(f, arrays, *, of_more=(), **fixed):
    """List a call of f with each array, and with each set of options where it has an axis for them."""
    calls = [(f, (x,), fixed) for x in arrays]
    for options in AXES:
        calls += [(f, (x,), {**fixed, **options}) for x in arrays if x.ndim == 2 and x.dtype == float]
    calls += [
        (f, (x,), {**fixed, **options})
        for options in of_more
        for x in arrays
        if x.ndim == 3 and x.dtype == float
    ]
    return calls


def call(f, *args, **options):
    return f, args, options


def quantiles(f, arrays, scale):
    return [
        *[call(f, x, 0.3 * scale, **options) for x in arrays for options in (AXES if x.ndim == 2 else [{}])],
        *[call(f, x, [0.1 * scale, 0.6 * scale], **o) for x in arrays if x.ndim == 3 for o in TWO_AXES],
        *[call(f, arrays[1], ODD * scale, axis=-1, keepdims=k) for k in (False, True)],
        *[call(f, arrays[1], 0.35 * scale, axis=0, method=m) for m in METHODS],
        *[call(f, arrays[1], G[:2] * scale, None, method=m) for m in METHODS],
        call(f, arrays[0], 0.0),
        call(f, arrays[1], 1.0 * scale, axis=0, overwrite_input=True),
    ]


# What is an array of floating numbers or complex ones is under differentiation; to lists and masks it is not.
CALLS = [
    *quantiles(np.quantile, REAL[1:], 1),
    *quantiles(np.nanquantile, HOLED, 1),
    *quantiles(np.percentile, REAL[1:], 100)[::4],
    *quantiles(np.nanpercentile, HOLED, 100)[1::4],
    call(np.quantile, REAL[0], 0.4),
    *[call(f, x, np.array([0.21, 0.67]) * s, axis=a, method="inverted_cdf", weights=w)
        for f, x, s in [(np.quantile, M, 1), (np.nanpercentile, HOLED[1], 100)]
        for a, w in [(0, np.abs(M)), (1, M**2), (None, M**2)]],
    call(np.quantile, M, 0.3, axis=0, method="inverted_cdf", weights=G),
    *each(np.median, EITHER, of_more=TWO_AXES),
    *each(np.nanmedian, HOLED_EITHER, of_more=TWO_AXES),
    *each(np.nanmax, HOLED_EITHER, of_more=WITHOUT_LISTS),
    *each(np.nanmin, HOLED_EITHER, of_more=WITHOUT_LISTS),
    *[call(f, HOLED[1], 0, initial=0.2, where=SOME) for f in (np.nanmax, np.nanmin)],
    *each(np.nansum, HOLED_EITHER, of_more=WITHOUT_LISTS),
    *each(np.nanmean, HOLED_EITHER, of_more=WITHOUT_LISTS),
    *each(np.nanprod, HOLED_EITHER, of_more=WITHOUT_LISTS),
    *[call(f, HOLED[1], -1, None, initial=1.5, where=SOME) for f in (np.nanprod, np.nansum)],
    call(np.nanprod, HOLED[1], dtype=complex),
    call(np.nanmean, HOLED[1], 1, where=SOME),
    *[(f, a, o) for f in (np.nanvar, np.nanstd) for _, a, o in each(f, HOLED_EITHER, of_more=WITHOUT_LISTS)],
    *[call(f, HOLED[1], None, ddof=d) for f in (np.nanvar, np.nanstd) for d in (1, 0.5)],
    *[call(f, HOLED[1], None, correction=1.0, where=SOME) for f in (np.nanvar, np.nanstd)],
    *[call(f, HOLED[1], mean=np.array([[0.3]])) for f in (np.nanvar, np.nanstd)],
    *[call(f, x, a) for f in (np.nancumsum, np.nancumprod) for x in HOLED_EITHER[:5] for a in (None, -1)],
    *[call(np.cov, x) for x in (V, M, C)],
    *[call(np.cov, M, rowvar=r, bias=b, ddof=d) for r in (True, False) for b in (True, False)
        for d in (None, 0)],
    call(np.cov, M[:1], rowvar=False, bias=True),
    call(np.cov, V, V**2),
    call(np.cov, M, T[0].T[:1] @ M[:3]),
    *[call(np.cov, M, M**2, rowvar=r) for r in (True, False)],
    call(np.cov, C, rowvar=False, aweights=G),
    call(np.cov, M, fweights=[1, 2, 1, 3], aweights=X),
    call(np.cov, M, fweights=[1, 2, 1, 3], ddof=0),
    *[call(np.corrcoef, x) for x in (V, M, C)],
    call(np.corrcoef, V, V**3),
    call(np.corrcoef, M, rowvar=False),
    *[call(f, x, y, m) for f in (np.convolve, np.correlate) for m in MODES
        for x, y in [(V, U), (U, V), (W, V)]],
    call(np.convolve, U, np.array(1.5)),
    *[call(np.interp, x, X, F) for x in (PLACES, np.array(1.7), np.array(1.7)[()])],
    call(np.interp, PLACES, X, W, left=1j),
    call(np.interp, PLACES, X, F, np.array(0.3), np.array(-0.7)),
    call(np.interp, PLACES, X[[2, 0, 3, 1]], F, period=3.7),
    call(np.interp, PLACES, X, W, period=np.array(2.9)),
    *[call(np.bincount, [1, 0, 1, 3], x, n) for x, n in [(U, 0), (F, 6)]],
    *[call(np.histogram, [[0.1, 0.7], [0.2, 0.95]], b, r, d, x.reshape(2, 2))
        for x in (U, W)
        for b, r, d in [(2, None, None), (3, (0, 1), True), ([0, 0.5, 0.6, 1.0], None, True)]],
    call(np.histogram, V, 3, None, True),
    call(np.histogram, V, 4, density=True, weights=np.abs(V)),
    *[call(np.histogram_bin_edges, V, b) for b in (4, "sturges")],
    *[call(np.ediff1d, x) for x in EITHER],
    call(np.ediff1d, M, X, np.array(0.4)),
    *[call(np.gradient, x) for x in (V, M, C, T.repeat(2, 2))],
    *[call(np.gradient, M, h, axis=1, edge_order=e)
        for e in (1, 2) for h in (np.array(0.3), STEPS, [0.0, 1, 3, 4])],
    call(np.gradient, M, np.array(0.3), STEPS),
    call(np.gradient, M, np.array(0.3)),
    call(np.gradient, M, 2, [0.0, 1, 3, 4], edge_order=2),
    call(np.gradient, T, axis=(2, 0)),
    *[call(np.unwrap, 4 * x, axis=a) for x, a in [(V, -1), (M, 0), (T, 1)]],
    call(np.unwrap, 4 * V, 1.0, period=np.array(3.1)),
    *[call(np.pad, x, 2, mode=m) for x in (V, M, C, T) for m in PADS],
    *[call(np.pad, x, w, m, reflect_type="odd") for m in ("reflect", "symmetric")
        for x, w in [(V, (3, 1)), (M, ((0, 2), (1, 1))), (U[:2], 5), (M[:1], 1), (C, 1)]],
    *[call(np.pad, M, [(1, 2), (0, 3)], m, stat_length=n) for m in PADS[3:6] for n in (2, (1, 3))],
    call(np.pad, M, 2, "linear_ramp", end_values=np.array(0.4)),
    call(np.pad, M, 2, "linear_ramp", end_values=X.reshape(2, 2)),
    call(np.pad, M, (1, 2), constant_values=X.reshape(2, 2)),
    call(np.pad, REAL[0], 2),
    *[call(np.pad, M, w, m) for w in ({0: (1, 2)}, {-1: 1}) for m in ("edge", "wrap") if PADS_BY_AXIS],
    *[call(np.delete, x, i, a) for x in (M, C, T) for i, a in [(1, None), ([0, -1], 0), (slice(0, 1), 1)]],
    *[call(np.insert, x, i, v, a) for x in (M, C) for i, v, a in
        [(1, F[0], None), (2, F[:3], 1), ([0, 2], M[:2] + 1, 0), (slice(0, 2), F[:2, None], 0)]],
    *[call(np.resize, x, s) for x in (M, C, T) for s in (4, (3, 5), (2, 0))],
    *[call(np.extract, SOME, x) for x in (M, C)],
    *[call(np.compress, [True, False, True], x, a) for x in (M, C) for a in (None, 0, 1)],
    *[call(np.choose, [[0, 1, 5, -1]], [M, C, F], mode=m) for m in ("wrap", "clip")],
    call(np.choose, [2, 0, 1, 0], (M, F, F[0])),
    *[call(np.diagflat, x, k) for x in EITHER[:3] for k in (0, 2, -1)],
    call(np.ix_, X, F),
    *[call(sliding_window_view, x, w, a) for x in (M, C) for w, a in [(2, 0), ((2, 3), None)]],
    *[call(np.apply_along_axis, f, a, x) for x in (M, T, C) for a in (0, -1)
        for f in (np.cumsum, np.mean, lambda v: v[:, None] * v[:2])],
    *[call(np.piecewise, x, [x < 0, x > 0.5], [np.exp, 0.3, lambda v: v**2]) for x in REAL[1:]],
    call(np.piecewise, V, V < 0, [np.exp, np.sin]),
    *[call(np.piecewise, T, [np.arange(2) > k], [np.exp, lambda v: v[:, ::-1] ** 2]) for k in (0, 3)],
    call(np.piecewise, np.array(0.7), [np.array(True)], [np.exp]),
    call(np.ptp, T, (0, 2), keepdims=True),
    call(np.apply_along_axis, lambda v, p: v * p[0] ** 2, 0, M, p=X),
    call(np.piecewise, V, [V > 0], [lambda v, p: v * p[0] ** 2], p=X),
]  # fmt: skip
if hasattr(np, "cumulative_sum"):
    CALLS += [
        call(f, x, axis=a, include_initial=i)
        for f in (np.cumulative_sum, np.cumulative_prod)
        for x, a in [(V, None), (M, 0), (C, -1)]
        for i in (False, True)
    ]
if hasattr(np, "unstack"):
    CALLS += [call(np.unstack, x, axis=a) for x in (M, C) for a in (0, 1)]

IDS = [f"{f.__name__} {i}" for i, (f, _, _) in enumerate(CALLS)]


def parts(x):
    return [part for item in x for part in parts(item)] if isinstance(x, (tuple, list)) else [x]


def weighed(out):
    """Make a number of what came out, in which each element counts differently, and NaN does not."""
    total = 0.0
    for i, part in enumerate(parts(out)):
        total = total + np.sum(np.real(np.where(np.isnan(part), 0, part) * weights(i, np.shape(part))))
    return total


@functools.cache
def weights(i, shape):
    return np.cos(1.0 + i + np.arange(math.prod(shape))).reshape(shape) * np.array(1 - 0.5j)


def taken_apart(args, options):
    """Give the arrays of a call, and a function of others that gives arguments with these in their places."""

    def differs(x):
        return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "fc"

    arrays = [x for x in [*parts(args), *options.values()] if differs(x)]

    def together(*new):
        given = iter(new)
        put = lambda x: (
            type(x)(map(put, x)) if isinstance(x, (tuple, list)) else next(given) if differs(x) else x
        )
        return put(args), {key: put(x) for key, x in options.items()}

    return arrays, together


def slope(f, arrays, directions, h):
    """Differentiate along directions: central differences of fourth order."""
    at = lambda t: f(*[a + t * d for a, d in zip(arrays, directions, strict=True)])
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def directions_of(arrays, n):
    rng = np.random.default_rng(n)
    return [rng.uniform(0.5, 1, a.shape) * (1 + 0.7j if a.dtype.kind == "c" else 1) for a in arrays]


def along(gs, directions):
    pairs = zip(gs, directions, strict=True)
    return sum(np.sum(np.real(np.conj(d) * g)) for g, d in pairs if g is not None)


@pytest.mark.filterwarnings("ignore:All-NaN", "ignore:Degrees of freedom", "ignore:Mean of empty")
@pytest.mark.parametrize(("f", "args", "options"), CALLS, ids=IDS)
def test_it_has_numpys_value_and_both_derivatives(f, args, options):
    arrays, together = taken_apart(args, options)
    seen = []

    def loss(*new):
        given, named = together(*new)
        if not seen:
            seen.append(f(*given, **named))
            return weighed(seen[0])
        return weighed(f(*given, **named))

    expected = f(*copy.deepcopy(args), **options)  # NumPy may overwrite its input
    first = gradient(loss, *arrays)
    assert type(constant(seen[0])) is type(expected)
    for ours, numpys in zip(parts(constant(seen[0])), parts(expected), strict=True):
        assert type(ours) is type(numpys)
        assert ours.dtype == numpys.dtype
        np.testing.assert_array_equal(ours, numpys)
    u, v = directions_of(arrays, 1), directions_of(arrays, 2)
    np.testing.assert_allclose(along(first, u), slope(loss, arrays, u, 1e-4), rtol=1e-7, atol=1e-8)
    nothing = lambda x: 0 * np.sum(np.real(np.where(np.isnan(x), 0, x)))
    by_u = lambda *new: along(gradient(loss, *new), u) + sum(map(nothing, new))
    second = gradient(by_u, *arrays)
    np.testing.assert_allclose(along(second, v), slope(by_u, arrays, v, 1e-4), rtol=1e-6, atol=1e-7)

    ps = [param(a) for a in arrays]
    implicit = gradient(lambda: loss(*ps), params(*ps))
    for p, g in zip(ps, first, strict=True):
        assert (implicit[p] is None) == (g is None)
        if g is not None:
            np.testing.assert_array_equal(implicit[p], g)
            assert implicit[p].dtype == p.dtype


# Their results have other shapes for other values, or they look at values.
NOT_COMPILED = {"histogram", "histogram_bin_edges", "ix_"}


@pytest.mark.filterwarnings("ignore:All-NaN", "ignore:Degrees of freedom", "ignore:Mean of empty")
@pytest.mark.parametrize(("f", "args", "options"), CALLS[::5], ids=IDS[::5])
def test_compiled_it_has_the_same_bits_or_is_refused(f, args, options):
    arrays, together = taken_apart(args, options)
    ps = params([param(a) for a in arrays])

    def loss():
        given, named = together(*ps)
        return weighed(f(*given, **named))

    program = compiled(loss, ps)
    if f.__name__ in NOT_COMPILED and arrays[0].ndim:
        with pytest.raises(RefusedError, match=r"cannot be compiled|looks at values"):
            program()
        return
    for _ in range(2):
        for p, g in program().grad.items():
            np.testing.assert_array_equal(g, gradient(loss, ps)[p], strict=True)
        for p in ps:
            p[...] = p.value * 0.9 + 0.01


@pytest.mark.parametrize("dtype", ["f2", "f4", "c8"])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.quantile(np.real(x), [0.1, 0.6]),
        lambda x: np.median(x, axis=0),
        lambda x: np.nanvar(x, axis=1),
        lambda x: np.nanmean(x),
        lambda x: np.cov(x),
        lambda x: np.interp([0.3, 1.2], [0, 1, 2], x[:, 0]),
        lambda x: np.ediff1d(x, 1, 2),
        lambda x: np.gradient(x, [0.0, 1, 3], axis=0),
        lambda x: np.pad(x, 1, "linear_ramp"),
        lambda x: np.insert(x, 1, 2.5, 0),
    ],
)
def test_other_precisions_have_numpys_value_and_their_gradient(f, dtype):
    x = (C[:3] if dtype == "c8" else M[:3]).astype(dtype)
    seen = []
    g = gradient(lambda x: weighed(seen.append(f(x)) or seen[-1]), x)[0]
    np.testing.assert_array_equal(constant(seen[0]), f(x), strict=True)
    assert g.dtype == x.dtype
    wide = gradient(lambda x: weighed(f(x)), x.astype("c16" if dtype == "c8" else "f8"))[0]
    np.testing.assert_allclose(
        g, wide, rtol=2e-2 if dtype == "f2" else 1e-5, atol=1e-2 if dtype == "f2" else 1e-5
    )


def test_of_equal_numbers_a_quantile_takes_the_mean_of_both_sides():
    ties = np.array([1.0, 3.0, 3.0, 3.0, 2.0])
    for q in (0.25, 0.5, 0.6, 0.75, 0.9, 1.0):
        (g,) = gradient(lambda x, q=q: np.quantile(x, q), ties)
        h = 1e-6 * np.eye(5)
        central = [(np.quantile(ties + d, q) - np.quantile(ties - d, q)) / 2e-6 for d in h]
        np.testing.assert_allclose(g, central, atol=1e-8)
    weighted = lambda x: np.quantile(x, 0.5, method="inverted_cdf", weights=[1, 0.2, 5, 0.3, 1])
    assert gradient(weighted, ties)[0].tolist() == [0, 0, 1, 0, 0]
    assert gradient(np.median, np.ones(2))[0].tolist() == [0.5, 0.5]
    assert gradient(np.median, np.ones(3))[0].tolist() == [0, 0, 0]  # to move one of them moves nothing


@pytest.mark.parametrize("method", ["hazen", "weibull", "median_unbiased", "normal_unbiased"])
def test_a_quantile_stays_at_the_extremes_where_its_method_has_nothing_beyond(method):
    for q, x in ((0.01, U.min()), (0.99, U.max())):
        assert withgradient(lambda q: np.quantile(U, q, method=method), q) == (x, (0,))


@pytest.mark.parametrize(("f", "scale"), [(np.nanquantile, 1), (np.nanpercentile, 100)])
@pytest.mark.parametrize("q", [0.2, 0.5, 0.7, 0.75, 0.9, 1.0])
def test_a_weighted_quantile_of_what_is_not_nan_is_that_of_the_rest(f, scale, q):
    x, w = np.array([1.0, np.nan, 3, 3, np.nan, 3, 2]), np.array([1.0, 4, 0.2, 0.5, 3, 0.3, 1])
    known = ~np.isnan(x)
    (g,) = gradient(lambda x: f(x, q * scale, method="inverted_cdf", weights=w), x)
    rest = lambda x: np.quantile(x, q, method="inverted_cdf", weights=w[known])
    assert g[known].tolist() == gradient(rest, x[known])[0].tolist()
    assert not g[~known].any()


def test_what_is_nan_has_the_gradient_0():
    x = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan], [2.0, 5.0, 4.0]])
    known = lambda r: np.sum(np.where(np.isnan(r), 0, r))
    for f in (np.median, lambda x, axis: np.quantile(x, 0.5, axis)):
        (g,) = gradient(lambda x, f=f: known(f(x, axis=1)), x)
        assert g.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]] or g[2].tolist() == [0, 0, 1]
    with pytest.warns(RuntimeWarning, match="All-NaN") as warned:
        (g,) = gradient(lambda x: known(np.nanmedian(x, axis=1)), x)
    assert g.tolist() == [[0.5, 0, 0.5], [0, 0, 0], [0, 0, 1]]
    assert len(warned) == 1
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        (g,) = gradient(lambda x: known(np.nanmax(x, axis=1)), x)
    assert g.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.filterwarnings("ignore:Mean of empty", "ignore:Degrees of freedom", "ignore:invalid value")
def test_of_nothing_there_is_a_gradient_of_nothing():
    x = np.zeros((0, 3))
    for f in (np.median, np.nanmedian, lambda x: np.nanquantile(x, 0.3), np.nanvar, np.nanmean, np.nansum,
              np.cov, lambda x: np.median(x, axis=0), lambda x: np.resize(x, 4), np.ediff1d):  # fmt: skip
        seen = []
        (g,) = gradient(lambda x, f=f: weighed(seen.append(f(x)) or seen[-1]), x)
        assert g is None or g.shape == (0, 3)
        np.testing.assert_array_equal(constant(seen[0]), f(x))
    with pytest.raises(IndexError):
        gradient(lambda x: np.quantile(x, 0.3), x)


@pytest.mark.parametrize("period", [None, 5.0])
@pytest.mark.parametrize("place", range(3))
def test_at_a_point_an_interpolation_has_the_slopes_to_its_right(place, period):
    slopes = lambda x: gradient(lambda x, xp, fp: np.interp(x, xp, fp, period=period), x, X, F)
    for at, beside in zip(slopes(X[place]), slopes(X[place] + 1e-9), strict=True):
        np.testing.assert_allclose(at, beside, atol=1e-7)
    assert slopes(X[place])[1].any()


def test_where_a_point_comes_twice_an_interpolation_there_stays_when_one_of_both_moves():
    twice, values = np.array([0.0, 1.0, 1.0, 3.0]), np.array([1.0, 2.0, 5.0, 3.0])
    by_x, by_points, by_values = gradient(np.interp, 1.0, twice, values)
    assert by_x == (3.0 - 5.0) / (3.0 - 1.0)
    assert by_points.tolist() == [0, 0, 0, 0]
    assert by_values.tolist() == [0, 0, 1, 0]


def test_counts_of_numbers_are_constants():
    counts, _ = np.histogram(V, 3)

    def loss(x):
        ours, theirs = np.histogram(x, 3)
        assert isinstance(ours, np.ndarray)
        assert ours.tolist() == counts.tolist()
        return np.sum(theirs * [1, 2, 3, 4])

    (g,) = gradient(loss, V)
    # The edges are spread between the least and the greatest.
    assert g[np.argmin(V)] == pytest.approx(1 + 2 * 2 / 3 + 3 / 3)
    assert g[np.argmax(V)] == pytest.approx(2 / 3 + 3 * 2 / 3 + 4)
    assert np.count_nonzero(g) == 2


@pytest.mark.parametrize("f", [np.mean, np.median, np.var, np.std, np.nanmean])
def test_no_rows_have_no_statistics_and_no_slopes(f):
    nothing = np.ones((0, 3))
    (J,) = jacobian(lambda x: f(x, axis=1), nothing)
    assert J.shape == (0, 0, 3)
    assert gradient(lambda x: np.sum(f(x, axis=1)), nothing)[0].shape == (0, 3)


def test_an_odd_reflection_of_a_long_array_takes_memory_by_its_length():
    x = np.cos(np.arange(20_000.0))
    tracemalloc.start()
    try:
        (g,) = gradient(lambda x: np.sum(np.pad(x, 2, "reflect", reflect_type="odd")), x)
        assert tracemalloc.get_traced_memory()[1] < 100 * x.nbytes
    finally:
        tracemalloc.stop()
    assert g[[0, 1, 2, 3]].tolist() == [5, 0, 0, 1]  # at each end 2 x₀ - x₁ and 2 x₀ - x₂


def test_jacobians_and_hessians_go_through_pinned_values():
    J = jacobian(lambda x: np.quantile(x, [0.25, 0.5]), U)[0]
    assert J.shape == (2, 4)
    np.testing.assert_allclose(J.sum(axis=1), 1)
    H = hessian(np.nanvar, U)
    np.testing.assert_allclose(H, 2 * (np.eye(4) - 0.25) / 4, atol=1e-15)


def test_lists_of_parameters_are_arrays():
    a, b, c = param(0.3), param(-1.2), param(2.5)
    grads = gradient(lambda: np.median(np.stack([a, b, c])) + np.choose(1, [a, b * 2]), params(a, b, c))
    assert [grads[p] for p in (a, b, c)] == [1, 2, 0]


REFUSALS = {
    "quantile": (lambda x: np.quantile(x, 0.5, out=np.zeros(())), TypeError, "out="),
    "percentile": (
        lambda x: np.percentile(
            x.reshape(1, 3, 1), 5, (2, 1), method="inverted_cdf", weights=[[1, 2, 3]]
        ), NotImplementedError, "several axes"
    ),
    "pad": (lambda x: np.pad(x, 1, lambda *a: None), NotImplementedError, "function as mode"),
    "interp": (lambda x: np.interp(1.5, [2, 1, 3], x), ValueError, "xp must increase"),
    "cov": (lambda x: np.cov(x * 1j, dtype=float), NotImplementedError, "np.real"),
    "histogram": (lambda x: np.histogram(x * 1j, 3)[1], NotImplementedError, "complex"),
    "piecewise": (lambda x: np.piecewise(x, [x > 0], [1, 2, 3]), ValueError, "1 conditions"),
    "apply_over_axes": (
        lambda x: np.apply_over_axes(lambda v, _: v.sum(), np.stack([x, x]), [0]), ValueError, "keep the axis"
    ),
    "apply_along_axis": (
        lambda x: np.apply_along_axis(np.sum, 0, x[:0].reshape(3, 0)), ValueError, "dimensions are 0"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize(("name", "f", "error", "words"), [(n, *r) for n, r in REFUSALS.items()])
def test_what_has_no_gradient_is_refused_by_its_name(name, f, error, words):
    with pytest.raises(error, match=words) as caught:
        gradient(lambda x: weighed(f(x)), np.array([0.5, 1.5, -2.0]))
    assert name in str(caught.value)


def test_numpys_own_refusals_stay():
    for f in (
        lambda x: np.cov(x, fweights=[1, 2]),
        lambda x: np.quantile(x, 1.5),
        lambda x: np.interp(x, [], []),
        lambda x: np.piecewise(x, [np.ones(99) > 0], [1]),
    ):
        with pytest.raises(Exception) as plain:  # noqa: PT011 - which it is, NumPy says
            f(U)
        with pytest.raises(type(plain.value)) as caught:
            gradient(lambda x, f=f: np.sum(f(x)), U)
        assert str(caught.value) == str(plain.value)


def test_a_parameter_is_never_overwritten():
    for f in (np.median, np.nanmedian, lambda x, **o: np.quantile(x, 0.3, **o)):
        p = param(V)
        gradient(lambda p=p, f=f: f(p, overwrite_input=True), params(p))
        assert p.value.tolist() == V.tolist()


@pytest.mark.parametrize("function", [np.var, np.std])
@pytest.mark.parametrize("of", ["e", "f", "d", "F"])
@pytest.mark.parametrize("dtype", [None, "f", "d", "g"])
def test_a_spread_around_a_given_mean_has_numpys_bits(function, of, dtype):
    x = np.array([[1.7, -0.3, 0.9], [2.1, 0.4, -1.6]], of)
    dtype = np.result_type(dtype, np.complex64) if dtype and of == "F" else dtype
    for mean in (0.3, x[:1, :1] / 3):
        f = lambda x, mean=mean: function(x, axis=1, dtype=dtype, mean=mean)
        seen = []
        gradient(lambda x, f=f: seen.append(f(x)) or np.sum(np.abs(seen[0])), x)
        assert seen[0].dtype == f(x).dtype
        np.testing.assert_array_equal(seen[0]._value, f(x))


def test_a_histogram_has_ten_bins_if_none_are_asked_for():
    x = np.array([0.3, 0.7, 0.1])
    for edges in (lambda x: np.histogram(x)[1], np.histogram_bin_edges):
        (g,) = gradient(lambda x, edges=edges: edges(x) @ np.arange(11.0), x)
        np.testing.assert_allclose(g, [0, 38.5, 16.5])


@pytest.mark.parametrize("method", ["linear", "hazen", "weibull"])
@pytest.mark.parametrize("q", [0.1234567, 0.7654321])
def test_a_quantile_in_single_precision_has_the_shares_of_its_value(q, method):
    x = np.arange(1_000_001, dtype=np.float32)  # between two of which NumPy rounds the place
    f = lambda x: np.quantile(x, q, method=method)
    assert abs(gradient(f, x)[0].astype(float) @ x.astype(float) - float(f(x))) < 1e-3
