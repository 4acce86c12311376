"""NumPy's statistics, written with functions that have derivatives: quantiles, covariances, counts.

The quantile of a sample is taken as NumPy's own quantile of the ranks: its whole part says between which two
sorted values it lies, the rest how far. So every method of NumPy's is met, and NaN is where NumPy has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minidiff.tracing.derivatives import COMPOSITES
from minidiff.tracing.record import as_array, derivative

# --- Order ----------------------------------------------------------------------------------------------


def _last(x: Any, axis: Any) -> tuple[Any, list[int]]:
    """Move some axes to the end and make one of them; give the shape of a reduction that keeps them, too."""
    axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    others = [i for i in range(x.ndim) if i not in axes]
    rows = np.transpose(x, (*others, *axes))
    length = math.prod([x.shape[i] for i in axes])
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    return rows.reshape((*[x.shape[i] for i in others], length)), kept


def _ranked(quantile: Callable[..., Any], percent: bool) -> Callable[..., Any]:
    def composite(
        x: Any,
        q: Any,
        axis: Any = None,
        overwrite_input: bool = False,
        method: str = "linear",
        keepdims: Any = False,
    ) -> Any:
        x = as_array(x)
        # NumPy says what dtype comes out, and refuses what it does not take.
        if percent:
            q = (q if isinstance(q, (int, float)) else np.asarray(q)) / 100
        dtype = quantile(np.zeros(1, x.dtype), q, method=method).dtype
        q, x = np.asarray(q), x.astype(dtype, copy=False)
        rows, kept = _last(x, axis)
        order = np.argsort(rows, -1, kind="stable")
        rows = np.take_along_axis(rows, order, -1)
        n = rows.shape[-1]
        ranks = np.where(np.isnan(rows), np.nan, np.arange(n, dtype=float))
        place = quantile(ranks, q, axis=-1, method=method)
        place = np.moveaxis(place.reshape((q.size, *rows.shape[:-1])), 0, -1)
        known = np.where(np.isnan(place), 0.0, place)
        lower = np.floor(known).astype(int)
        part = np.where(np.isnan(place), np.nan, known - lower).astype(rows.dtype)
        low = np.take_along_axis(rows, lower, -1)
        high = np.take_along_axis(rows, np.minimum(lower + 1, n - 1), -1)
        # A part of nothing leaves the upper value out, which may be infinite or NaN.
        found = np.where(part == 0, low, low + part * (np.where(part == 0, low, high) - low))
        found = np.moveaxis(found, -1, 0)
        return found.reshape((*q.shape, *(kept if keepdims else rows.shape[:-1])))[()]

    return composite


_quantile, _nanquantile = _ranked(np.quantile, False), _ranked(np.nanquantile, False)


def _middle(quantile: Callable[..., Any]) -> Callable[..., Any]:
    def composite(
        x: Any, axis: Any = None, out: None = None, overwrite_input: bool = False, keepdims: Any = False
    ) -> Any:
        keepdims = keepdims is not np._NoValue and bool(keepdims)
        x = as_array(x)
        if x.dtype.kind not in "biuf" or not x.size:  # NaN with NumPy's warning, or NumPy's refusal
            return np.mean(x, axis, keepdims=keepdims) if not x.size else NotImplemented
        return quantile(x, 0.5, axis, keepdims=keepdims)

    return composite


def _nan_extremum(function: Callable[..., Any], least: float) -> Callable[..., Any]:
    def composite(x: Any, axis: Any = None, out: None = None, keepdims: Any = False) -> Any:
        missing = np.isnan(x)
        found = function(np.where(missing, least, x), axis=axis, keepdims=keepdims)
        return np.where(np.all(missing, axis=axis, keepdims=keepdims), np.nan, found)[()]

    return composite


# --- Moments --------------------------------------------------------------------------------------------


def _nanvar(
    x: Any, axis: Any = None, dtype: None = None, out: None = None, ddof: Any = 0, keepdims: Any = False
) -> Any:
    if dtype is not None:
        raise NotImplementedError("np.nanvar and np.nanstd have no gradient with dtype=: use x.astype(dtype)")
    known = ~np.isnan(x)
    x = np.where(known, x, 0)
    count = np.sum(known, axis=axis, keepdims=True)
    away = np.where(known, x - np.sum(x, axis=axis, keepdims=True) / count.astype(x.dtype), 0)
    squares = np.sum(np.real(away * np.conj(away)), axis=axis, keepdims=keepdims)
    degrees = np.sum(known, axis=axis, keepdims=keepdims) - ddof
    return squares / np.where(degrees > 0, degrees, np.nan).astype(squares.dtype)


def _nanstd(x: Any, *args: Any, **options: Any) -> Any:
    variance = _nanvar(x, *args, **options)
    some = np.where(variance == 0, 1, variance)  # at the kink of the root the gradient is 0, as of std
    return np.where(variance == 0, variance, np.sqrt(some))[()]


def _cov(
    m: Any,
    y: Any = None,
    rowvar: Any = True,
    bias: Any = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: None = None,
) -> Any:
    if dtype is not None:
        raise NotImplementedError("np.cov has no gradient with dtype=: use x.astype(dtype)")

    def variables(x: Any) -> Any:
        x = np.atleast_2d(as_array(x))
        return x if rowvar or x.shape[0] == 1 else x.T

    x = variables(m) if y is None else np.concatenate([variables(m), variables(y)])
    ddof = int(bias == 0) if ddof is None else ddof  # None is no 0, as NumPy has it
    weights = np.ones(x.shape[1])
    for given in (fweights, aweights):
        weights = weights if given is None else weights * as_array(given)
    total = np.sum(weights)
    degrees = total - ddof
    if aweights is not None:
        degrees = total - ddof * np.sum(weights * as_array(aweights)) / total
    away = x - np.sum(x * weights, axis=1, keepdims=True) / total
    return np.squeeze((away * weights) @ np.conj(away.T) / degrees)


def _corrcoef(x: Any, y: Any = None, rowvar: Any = True, bias: Any = None, ddof: Any = None) -> Any:
    c = _cov(x, y, rowvar)
    if not c.ndim:
        return c / c
    deviations = np.sqrt(np.real(np.diagonal(c)))
    return c / deviations[:, None] / deviations


# --- Signals --------------------------------------------------------------------------------------------

# Linear in both arrays: the gradient of one is that of the result, convolved with the other reversed.


def _unconvolve(g: Any, of: Any, other: Any) -> Any:
    start = other.shape[0] - 1
    return np.convolve(g, other[::-1])[start : start + of.shape[0]]


@derivative(lambda g, ans, x, y: _unconvolve(g, x, y), lambda g, ans, x, y: _unconvolve(g, y, x))
def _convolved(x: Any, y: Any) -> Any:
    return np.convolve(x, y)


_MODES = {0: "valid", 1: "same", 2: "full", "v": "valid", "s": "same", "f": "full"}


def _convolve(x: Any, y: Any, mode: Any = "full") -> Any:
    x, y = np.atleast_1d(as_array(x)), np.atleast_1d(as_array(y))
    longer, shorter = max(x.shape[0], y.shape[0]), min(x.shape[0], y.shape[0])
    whole, mode = _convolved(x, y), _MODES.get(mode, mode)
    if mode == "full":
        return whole
    if mode not in ("same", "valid"):
        return NotImplemented
    start = (shorter - 1) // 2 if mode == "same" else shorter - 1
    return whole[start : start + longer] if mode == "same" else whole[start:longer]


def _correlate(x: Any, y: Any, mode: Any = "valid") -> Any:
    x, y = np.atleast_1d(as_array(x)), np.atleast_1d(as_array(y))
    if x.shape[0] >= y.shape[0]:
        return _convolve(x, np.conj(y[::-1]), mode)
    # NumPy turns the longer one round, and then the result.
    return _convolve(np.conj(y), x[::-1], mode)[::-1]


def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    if period is not None:
        return NotImplemented
    x, xp, fp = as_array(x), as_array(xp), as_array(fp)
    last = xp.shape[0] - 1
    i = np.clip(np.searchsorted(xp, x, "right") - 1, 0, max(last - 1, 0))
    j = np.minimum(i + 1, last)
    width = xp[j] - xp[i]
    inside = fp[i] + (x - xp[i]) / np.where(width == 0, 1, width) * (fp[j] - fp[i])
    inside = np.where(x < xp[0], fp[0] if left is None else left, inside)
    return np.where(x > xp[-1], fp[-1] if right is None else right, inside)


# --- Counts ---------------------------------------------------------------------------------------------


@derivative(None, lambda g, ans, places, weights, length: g[places])
def _counted(places: Any, weights: Any, length: int) -> Any:
    return np.bincount(places, weights, length)


COMPOSITES |= {
    np.quantile: _quantile,
    np.nanquantile: _nanquantile,
    np.percentile: _ranked(np.quantile, True),
    np.nanpercentile: _ranked(np.nanquantile, True),
    np.median: _middle(_quantile),
    np.nanmedian: _middle(_nanquantile),
    np.nanmax: _nan_extremum(np.max, -np.inf),
    np.nanmin: _nan_extremum(np.min, np.inf),
    np.nanvar: _nanvar,
    np.nanstd: _nanstd,
    np.nanprod: lambda x, *args, **options: np.prod(np.where(np.isnan(x), 1, x), *args, **options),
    np.nancumsum: lambda x, *args, **options: np.cumsum(np.where(np.isnan(x), 0, x), *args, **options),
    np.nancumprod: lambda x, *args, **options: np.cumprod(np.where(np.isnan(x), 1, x), *args, **options),
    np.cov: _cov,
    np.corrcoef: _corrcoef,
    np.convolve: _convolve,
    np.correlate: _correlate,
    np.interp: _interp,
    np.bincount: lambda x, weights=None, minlength=0: _counted(x, weights, minlength),
}
