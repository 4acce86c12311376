"""NumPy's functions of neighbours: convolutions, interpolation, slopes, running sums, angles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minidiff.tracing.exact import Exact, exactly
from minidiff.tracing.record import as_array, constant, derivative
from minidiff.tracing.table import COMPOSITES, listed

# --- Convolutions ---------------------------------------------------------------------------------------

# Linear in both arrays: the gradient of one is that of the result, with the other slid along it.


@derivative(lambda g, ans, x, y: _slid(g, y), lambda g, ans, x, y: _slid(g, x))
def _convolved(x: Any, y: Any) -> Any:
    return np.convolve(x, y)


@derivative(lambda g, ans, x, y: _convolved(g, y), lambda g, ans, x, y: _slid(x, g))
def _slid(x: Any, y: Any) -> Any:
    """Sum ``x[i + j] * y[j]``: at each place where all of the shorter array y is on x."""
    return np.convolve(x, y[::-1], "valid")


_MODES: dict[Any, str] = {0: "v", 1: "s", 2: "f"}


@exactly(np.convolve)
def _convolve(x: Any, y: Any, mode: Any = "full") -> Any:
    x, y = np.atleast_1d(as_array(x)), np.atleast_1d(as_array(y))
    longer, shorter = max(x.shape[0], y.shape[0]), min(x.shape[0], y.shape[0])
    whole, mode = _convolved(x, y), _MODES.get(mode, mode)[0].lower()  # NumPy reads one letter
    start = {"f": 0, "s": (shorter - 1) // 2, "v": shorter - 1}[mode]
    return whole[start : {"f": None, "s": start + longer, "v": longer}[mode]]


@exactly(np.correlate)
def _correlate(x: Any, y: Any, mode: Any = "valid") -> Any:
    x, y = as_array(x), as_array(y)
    if x.shape[0] >= y.shape[0]:
        return _convolve(x, np.conj(y[::-1]), mode)
    # NumPy turns the longer one round, and then the result.
    return _convolve(np.conj(y), x[::-1], mode)[::-1]


# --- Interpolation --------------------------------------------------------------------------------------


@listed
def _increasing(xp: Any) -> Any:
    """Give the places as they are, also in a program with other ones, where they increase."""
    if np.any(np.diff(xp) < 0):
        raise ValueError("np.interp: xp must increase, got one that decreases. Sort xp and fp first.")
    return xp


@listed
def _part(array: Any, places: Any) -> Any:
    return array[places]


def _at(x: Any, places: Any) -> Any:
    """Read elements: of a plain array so that a program may know the places alone."""
    return _part(x, places) if type(x) is np.ndarray else x[places]


@exactly(np.interp)
def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    x, xp = (np.real(as_array(a)).astype(float) for a in (x, xp))
    fp = as_array(fp)
    fp = fp.astype(np.result_type(fp.dtype, float))
    if period is not None:
        period, left, right = abs(period), None, None
        x, xp = x % period, xp % period
        order = np.argsort(xp)
        xp, fp = xp[order], fp[order]
        xp = np.concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = np.concatenate([fp[-1:], fp, fp[:1]])
    last = xp.shape[0] - 1
    i = np.maximum(np.searchsorted(_increasing(constant(xp)), constant(x), "right") - 1, 0)
    j = np.minimum(i + 1, last)
    start, low = _at(xp, i), _at(fp, i)
    width = _at(xp, j) - start
    # Where a point comes twice, and x is there, the other remains when one is moved.
    is_twice = (start == x) & (_at(xp, np.maximum(i - 1, 0)) == x) & (i > 0)
    start = np.where(is_twice, constant(start), start)
    inside = low + (x - start) / np.where(width == 0, 1, width) * (_at(fp, j) - low)
    inside = np.where(x < xp[0], fp[0] if left is None else left, inside)
    return np.where(x > xp[-1], fp[-1] if right is None else right, inside)


# --- Slopes ---------------------------------------------------------------------------------------------


@exactly(np.ediff1d)
def _ediff1d(x: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    parts = to_begin, np.diff(np.ravel(as_array(x))), to_end
    return np.concatenate([np.ravel(as_array(part)) for part in parts if part is not None])


def _end(f: Any, a: Any, b: Any, edge_order: int) -> Any:
    """Give the slope at the first place, of what is at it and after it, `a` and `b` the distances."""
    if edge_order == 1:
        return (f[1:2] - f[:1]) / a
    return ((a + b) ** 2 * (f[1:2] - f[:1]) - a**2 * (f[2:3] - f[:1])) / (a * b * (a + b))


def _slopes(f: Any, spacing: Any, axis: int, edge_order: int) -> Any:
    f = np.moveaxis(f, axis, 0)
    h = np.diff(as_array(spacing) * 1.0) if np.ndim(spacing) else spacing * np.ones(f.shape[0] - 1)
    h = np.reshape(h, (-1, *(1,) * (f.ndim - 1)))
    before, after = h[:-1], h[1:]
    steps = f[1:] - f[:-1]
    inner = (before**2 * steps[1:] + after**2 * steps[:-1]) / (before * after * (before + after))
    first = _end(f, h[:1], h[1:2], edge_order)
    last = -_end(f[::-1], h[-1:], h[-2:-1], edge_order)
    return np.moveaxis(np.concatenate([first, inner, last]), 0, axis)


def _gradient(f: Any, *spacings: Any, axis: Any = None, edge_order: int = 1) -> Any:
    f = as_array(f) * 1.0
    axes = range(f.ndim) if axis is None else normalize_axis_tuple(axis, f.ndim)
    if len(spacings) < len(axes):
        spacings = (spacings or (1.0,)) * len(axes)
    found = [_slopes(f, h, i, edge_order) for h, i in zip(spacings, axes, strict=True)]
    return found[0] if len(found) == 1 else tuple(found)


_exact_gradient = Exact(np.gradient, _gradient)


def _from_steps(g: Any, ans: Any, f: Any, axis: int) -> Any:
    g = np.moveaxis(g, axis, 0)
    inner = np.ones((g.shape[0] - 2, *(1,) * (g.ndim - 1)), g.real.dtype) / 2
    one = np.ones((1, *inner.shape[1:]), inner.dtype)
    g = g * np.concatenate([one, inner, one])
    g = np.concatenate([-g[:1], g, -g[-1:]])
    return np.moveaxis(g[:-2] - g[2:], 0, axis)


@derivative(_from_steps)
def _of_steps(f: Any, axis: int) -> Any:
    return np.gradient(f, axis=axis)


def _gradient_quickly(f: Any, *spacings: Any, axis: Any = None, edge_order: int = 1) -> Any:
    if spacings or edge_order != 1:
        return _exact_gradient(f, *spacings, axis=axis, edge_order=edge_order)
    f = as_array(f)
    axes = range(f.ndim) if axis is None else normalize_axis_tuple(axis, f.ndim)
    found = tuple([_of_steps(f, i) for i in axes])
    return found[0] if len(found) == 1 else found


COMPOSITES[np.gradient] = _gradient_quickly

# --- Running sums, and angles ---------------------------------------------------------------------------


def _running(function: Any, initial: float) -> Any:
    def composition(x: Any, axis: Any = None, include_initial: Any = False) -> Any:
        x = np.atleast_1d(as_array(x))
        axis = 0 if axis is None else axis
        found = function(x, axis)
        if not include_initial:
            return found
        first = np.full([1 if i == axis % x.ndim else n for i, n in enumerate(x.shape)], initial, x.dtype)
        return np.concatenate([first, found], axis)

    return composition


if hasattr(np, "cumulative_sum"):
    exactly(np.cumulative_sum)(_running(np.cumsum, 0))
    exactly(np.cumulative_prod)(_running(np.cumprod, 1))


@exactly(np.unwrap)
def _unwrap(p: Any, discont: Any = None, axis: int = -1, period: Any = 2 * np.pi) -> Any:
    p = as_array(p)
    at, wide, one = constant(p), constant(discont), constant(period)
    return p + np.rint((np.unwrap(at, wide, axis, period=one) - at) / one) * period
