"""NumPy's statistics, written with functions that have derivatives: quantiles, moments, covariances, counts.

Where numbers are equal, a quantile has two derivatives by one of them: moved down, it is the first of them in
the sorted row, and moved up, the last. The gradient is the mean of the two. Where NaN makes it NaN, or no
number is left, it is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minidiff.tracing.derivatives import mask_of
from minidiff.tracing.exact import exactly, laid
from minidiff.tracing.kinks import spread_around_zero
from minidiff.tracing.record import as_array, constant, derivative, is_box
from minidiff.tracing.table import COMPOSITES, listed, single

# --- Order ----------------------------------------------------------------------------------------------


@listed
def _shares(rows: Any, found: Any, k: Any) -> Any:
    """Give the derivative of the k-th smallest number of a row by each of its numbers."""
    row, found = rows[..., None, :], found[..., None]
    with np.errstate(invalid="ignore"):  # of complex NaN
        is_equal, is_below = row == found, row < found
    first = is_below.sum(axis=-1)
    last = first + is_equal.sum(axis=-1) - 1
    return (((k == first) * 1.0 + (k == last)) / 2)[..., None] * is_equal


def _from_kth(g: Any, ans: Any, rows: Any, k: Any) -> Any:
    some = max((1 << 22) // max(rows.size, 1), 1)  # at a time: each has a share for each number
    parts = [(..., slice(i, i + some)) for i in range(0, max(k.shape[-1], 1), some)]
    shares = [(g[part][..., None] * _shares(rows, ans[part], k[part])).sum(axis=-2) for part in parts]
    return sum(shares[1:], shares[0])


@derivative(_from_kth)
def kth(rows: Any, k: Any) -> Any:
    """Give of each row the k-th smallest numbers, counted from 0."""
    return np.take_along_axis(np.sort(rows, axis=-1), k, -1)


# By how much more than the number of elements the place in the sorted row grows, from q = 0 to 1. The other
# methods jump.
_SLOPES = {
    "linear": -1, "hazen": 0, "weibull": 1, "interpolated_inverted_cdf": 0, "median_unbiased": 1 / 3,
    "normal_unbiased": 1 / 4,
}  # fmt: skip


def rows_of(x: Any, axis: Any) -> Any:
    """Move some axes to the end and make one of them."""
    axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    others = [i for i in range(x.ndim) if i not in axes]
    length = math.prod([x.shape[i] for i in axes])
    return np.transpose(x, (*others, *axes)).reshape((*[x.shape[i] for i in others], length))


@listed
def _weighted_shares(rows: Any, weights: Any, found: Any, q: Any) -> Any:
    """Give the derivative of a quantile, which is one of a row's numbers, by each of its numbers."""
    row, weight, found = rows[..., None, :], weights[..., None, :], found[..., None]
    weight = np.where(np.isnan(row), 0, weight)
    is_equal = row == found
    below = (weight * (row < found)).sum(axis=-1, keepdims=True)
    equal = (weight * is_equal).sum(axis=-1, keepdims=True)
    wanted = q[:, None] * weight.sum(axis=-1, keepdims=True)
    share = ((wanted <= below + weight) * 1.0 + (wanted > below + equal - weight)) / 2
    return np.where(is_equal.sum(axis=-1, keepdims=True) == 1, 1, share) * is_equal


@derivative(
    lambda g, ans, x, weights, q, quantile: (g[..., None] * _weighted_shares(x, weights, ans, q)).sum(axis=-2)
)
def _weighted(x: Any, weights: Any, q: Any, quantile: Any) -> Any:
    return np.moveaxis(quantile(x, q, axis=-1, method="inverted_cdf", weights=weights), 0, -1)


def _weighted_quantile(quantile: Callable[..., Any], x: Any, q: Any, axis: Any, weights: Any) -> Any:
    weights = as_array(constant(weights))
    if np.size(axis) > 1:  # NumPy 2.0 mixes them up
        name = quantile.__name__
        raise NotImplementedError(f"np.{name} with weights has no gradient along several axes.")
    if weights.shape != x.shape:
        axes = normalize_axis_tuple(axis, x.ndim)
        weights = np.reshape(weights, [-1 if i in axes else 1 for i in range(x.ndim)])
    weights = rows_of(np.broadcast_to(weights, x.shape), axis)
    q = np.ravel(constant(q)) / (100 if quantile in _PERCENT else 1)
    quantile = np.nanquantile if quantile in (np.nanquantile, np.nanpercentile) else np.quantile
    return np.moveaxis(_weighted(rows_of(x, axis), weights, q, quantile), -1, 0)


def _quantile(
    quantile: Callable[..., Any],
    x: Any,
    q: Any,
    axis: Any = None,
    method: str = "linear",
    keepdims: Any = False,
    weights: Any = None,
) -> Any:
    """Write a quantile with sorted numbers; between which it lies is found as the quantile of the ranks."""
    x = as_array(x)
    if not x.size:
        return np.sum(x) * 0
    if weights is not None:
        return _weighted_quantile(quantile, x, q, axis, weights)
    rows = rows_of(x, axis)
    n = rows.shape[-1]
    # In the numbers' own dtype, in which NumPy rounds the place.
    kind = np.dtype(rows.dtype.type(0).real)
    dtype = kind if kind.kind == "f" and n < 1 / np.finfo(kind).eps else np.dtype(float)
    missing = np.sort(np.isnan(constant(rows)), axis=-1) & (np.arange(n) > 0)
    ranks = np.where(missing, np.nan, np.arange(n)).astype(dtype)
    place = quantile(ranks, constant(q), axis=-1, method=method)
    place = np.moveaxis(place.reshape((-1, *rows.shape[:-1])), 0, -1)
    place = np.where(np.isnan(place), 0, place)
    lower = np.floor(place).astype(int)
    part = place - lower
    if is_box(q := as_array(q)):
        last = n - 1 - missing.sum(axis=-1, keepdims=True)
        slope = last + 1 + _SLOPES[method] if method in _SLOPES else 0
        slope = np.where((place > 0) & (place < last), slope, 0) / (100 if quantile in _PERCENT else 1)
        part = part + slope * np.reshape(q - constant(q), (-1,))
    low, high = kth(rows, lower), kth(rows, np.minimum(lower + 1, n - 1))
    return np.moveaxis(low * (1 - part) + high * part, -1, 0)


_PERCENT: Any = {np.percentile, np.nanpercentile}
for _function in {np.quantile, np.nanquantile} | _PERCENT:
    exactly(_function)(partial(_quantile, _function))


def _median(quantile: Callable[..., Any], x: Any, axis: Any = None, keepdims: Any = False) -> Any:
    return _quantile(quantile, x, 0.5, axis)


exactly(np.median)(partial(_median, np.quantile))
exactly(np.nanmedian)(partial(_median, np.nanquantile))


# --- What leaves NaN out --------------------------------------------------------------------------------


def _without(x: Any, where: Any, instead: Any) -> Any:
    x = as_array(x)
    return np.where(_known(x, where), x, instead)


def _known(x: Any, where: Any) -> Any:
    known = ~np.isnan(x)
    return known if where is True else known & mask_of(where)


def _extremum(function: Any, both: Any, least: float) -> Any:
    def composition(
        x: Any, axis: Any = None, keepdims: Any = False, initial: Any = None, where: Any = True
    ) -> Any:
        if not np.size(x):
            return np.sum(x) * 0
        found = function(_without(x, where, least), axis=axis, keepdims=keepdims)
        return found if initial is None else both(found, initial)

    return composition


exactly(np.nanmax)(_extremum(np.max, np.maximum, -np.inf))
exactly(np.nanmin)(_extremum(np.min, np.minimum, np.inf))


def _nansum(x: Any, *args: Any, **options: Any) -> Any:
    known = laid(np.where(np.isnan(x), 0, x), "K", x)  # as NumPy's copy lies, whose order is that of the sum
    return np.sum(known, *args, **options)


COMPOSITES[np.nansum] = _nansum  # a sum takes all options itself


@exactly(np.nanprod)
def _nanprod(x: Any, axis: Any = None, keepdims: Any = False, initial: Any = 1, where: Any = True) -> Any:
    return np.prod(_without(x, where, 1), axis=axis, keepdims=keepdims) * initial


exactly(np.nancumsum)(lambda x, axis=None: np.cumsum(_without(x, True, 0), axis=axis))
exactly(np.nancumprod)(lambda x, axis=None: np.cumprod(_without(x, True, 1), axis=axis))


@exactly(np.nanmean)
def _nanmean(x: Any, axis: Any = None, keepdims: Any = False, where: Any = True) -> Any:
    x = single(as_array(x))
    is_known = _known(x, where)
    count = np.maximum(np.sum(is_known, axis=axis, keepdims=keepdims), 1)
    return np.sum(np.where(is_known, x, 0), axis=axis, keepdims=keepdims) * (1 / count).astype(x.dtype)


def _spread_of_known(
    is_root: bool,
    x: Any,
    axis: Any = None,
    ddof: Any = 0,
    keepdims: Any = False,
    where: Any = True,
    mean: Any = None,
    correction: Any = None,
) -> Any:
    """Give the variance of what is known, or its root."""
    x = single(as_array(x))
    is_known = _known(x, where)
    mean = _nanmean(x, axis, True, where) if mean is None else mean
    away = np.where(is_known, x - mean, 0)
    degrees = np.sum(is_known, axis=axis, keepdims=True) - (ddof if correction is None else correction)
    degrees = np.where(degrees > 0, degrees, np.nan).astype(away.real.dtype)
    return spread_around_zero(away, axis, degrees, is_root)


exactly(np.nanvar)(partial(_spread_of_known, False))
exactly(np.nanstd)(partial(_spread_of_known, True))


# --- Covariances ----------------------------------------------------------------------------------------

# NumPy 2.0 takes a matrix of one row for one variable, whatever `rowvar` says.
_TURNS_A_ROW = np.cov(np.zeros((1, 2)), rowvar=False, bias=True).ndim == 2


@exactly(np.cov)
def _cov(
    m: Any,
    y: Any = None,
    rowvar: Any = True,
    bias: Any = False,
    ddof: Any = None,
    fweights: Any = None,
    aweights: Any = None,
) -> Any:
    m = single(as_array(m))
    x = np.atleast_2d(m)
    x = x.T if not rowvar and m.ndim != 1 and (_TURNS_A_ROW or x.shape[0] != 1) else x
    if not x.shape[0]:
        return np.sum(x) * 0
    if y is not None:
        y = np.atleast_2d(single(as_array(y)))
        x = np.concatenate([x, y.T if not rowvar and y.shape[0] != 1 else y])
    ddof = int(bias == 0) if ddof is None else ddof
    weights = np.ones(x.shape[1])
    for given in (fweights, aweights):
        weights = weights if given is None else weights * as_array(given)
    total = np.sum(weights)
    degrees = total - ddof
    if aweights is not None:
        degrees = total - ddof * np.sum(weights * as_array(aweights)) / total
    away = x - np.sum(x * weights, axis=1, keepdims=True) / total
    return (away * weights) @ np.conj(away.T) / np.where(degrees > 0, degrees, 0)


@exactly(np.corrcoef)
def _corrcoef(x: Any, y: Any = None, rowvar: Any = True, bias: Any = None, ddof: Any = None) -> Any:
    c = _cov(x, y, rowvar)
    if c.size < 2:
        return np.sum(c) * 0  # a variable's correlation with itself is 1
    deviations = np.sqrt(np.real(np.diagonal(c)))
    return c / deviations[:, None] / deviations


# --- Counts ---------------------------------------------------------------------------------------------


@derivative(None, lambda g, ans, places, weights, length: g[places])
def _counted(places: Any, weights: Any, length: int) -> Any:
    if weights.dtype.kind == "c":
        return _counted(places, weights.real, length) + 1j * _counted(places, weights.imag, length)
    return np.bincount(places, weights.astype(float), length)


@exactly(np.bincount)
def _bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    return _counted(x, as_array(weights), minlength)


@exactly(np.histogram_bin_edges)
def _edges(x: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Any:  # noqa: A002
    if as_array(x).dtype.kind == "c":
        raise NotImplementedError("np.histogram of complex numbers has no gradient.")
    n = np.histogram_bin_edges(*constant((x, bins, range))).size
    if np.ndim(bins):
        return as_array(bins)
    first, last = (np.min(x), np.max(x)) if range is None else range
    return np.linspace(first, last, n) if first != last else first + np.linspace(-0.5, 0.5, n)


@exactly(np.histogram)
def _histogram(x: Any, bins: Any = 10, range: Any = None, *options: Any, **more: Any) -> Any:  # noqa: A002
    counts, (edges,) = _counts([np.ravel(as_array(x))], [bins], [range], *options, **more)
    return counts, edges


@exactly(np.histogramdd)
def _of_points(x: Any, bins: Any = 10, range: Any = None, *options: Any, **more: Any) -> Any:  # noqa: A002
    xs = [*(x.T if getattr(x, "ndim", 0) == 2 else np.atleast_2d(as_array(x)))]
    bins = bins if _are_several(bins) else [bins] * len(xs)
    return _counts(xs, bins, [None] * len(xs) if range is None else range, *options, **more)


@exactly(np.histogram2d)
def _of_pairs(x: Any, y: Any, bins: Any = 10, *options: Any, **more: Any) -> Any:
    if _are_several(bins) and len(bins) > 2:
        bins = [bins, bins]  # edges of both
    counts, edges = _of_points([x, y], bins, *options, **more)
    return counts, *edges


def _are_several(bins: Any) -> bool:
    return isinstance(bins, (list, tuple)) or np.ndim(bins) > 0


def _counts(
    xs: Any, bins: Any, ranges: Any, density: Any = None, weights: Any = None
) -> tuple[Any, list[Any]]:
    """Add up weights in the cells that points lie in, given by a vector for each coordinate."""
    edges = [_edges(x, b, r) for x, b, r in zip(xs, bins, ranges, strict=True)]
    shape = tuple([e.size - 1 for e in edges])
    places = []
    for x, e, n in zip(constant(xs), constant(edges), shape, strict=True):
        places.append(np.where(x == e[-1], n - 1, np.searchsorted(e, x, "right") - 1))
    inside = np.flatnonzero(np.all([(p >= 0) & (p < n) for p, n in zip(places, shape, strict=True)], axis=0))
    weights = np.ones(xs[0].shape) if weights is None else np.ravel(as_array(weights))
    cells = np.ravel_multi_index([p[inside] for p in places], shape)
    counts = np.reshape(_counted(cells, weights[inside], math.prod(shape)), shape)
    if density:
        volumes = reduce(np.multiply.outer, map(np.diff, edges))
        counts = counts / volumes / np.sum(counts)
    return counts, edges
