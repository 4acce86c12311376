"""NumPy functions that move elements about, as an index, and those that call another for parts of an array.

The index is found by calling NumPy's function on the numbers of the elements, 0, 1, 2 and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from minidiff.tracing.derivatives import axes_in_memory
from minidiff.tracing.exact import Exact, exactly, laid
from minidiff.tracing.record import as_array, as_it_is_now, constant, is_box
from minidiff.tracing.statistics import kth
from minidiff.tracing.table import COMPOSITES, shown


def _numbers(x: Any, first: int = 0) -> Any:
    """Give the numbers of the elements, in an array that lies in memory as `x` does."""
    like = shown(constant(x))
    numbers = np.empty_like(like, int)
    if not like.flags.forc:  # with gaps or backwards: functions ask whether it is C or Fortran contiguous
        axes = axes_in_memory(like)
        wide = np.empty([2 * like.shape[i] for i in axes], int)
        numbers = wide[(np.s_[::2],) * like.ndim].transpose(np.argsort(axes))
    numbers[...] = np.arange(first, first + x.size).reshape(x.shape)
    return numbers


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    def composite(x: Any, *args: Any, **options: Any) -> Any:
        x = as_array(x)
        if not x.size:
            return function(np.zeros(x.shape, x.dtype), *args, **options)
        places = function(_numbers(x), *args, **options)
        return laid(np.ravel(x)[places, ...], "K", places)

    return composite


def _insert(x: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    x, values = as_array(x), as_array(values)
    place = np.insert(_numbers(x), obj, _numbers(values, x.size), axis)
    return laid(np.concatenate([np.ravel(x), np.ravel(values).astype(x.dtype)])[place], "K", place)


def _diagflat(x: Any, k: int = 0) -> Any:
    x = as_array(x)
    return np.concatenate([np.zeros(1, x.dtype), np.ravel(x)])[np.diagflat(_numbers(x, 1), k)]


@exactly(np.choose)
def _choose(a: Any, choices: Any, mode: str = "raise") -> Any:
    a, choices = as_array(constant(a)), [as_array(choice) for choice in choices]
    shape = np.broadcast_shapes(a.shape, *[choice.shape for choice in choices])
    n = len(choices)
    a = np.broadcast_to(a % n if mode == "wrap" else np.clip(a, 0, n - 1), shape)
    return np.take_along_axis(np.stack([np.broadcast_to(c, shape) for c in choices]), a[None], 0)


def _ix(*arrays: Any) -> Any:
    plain = np.ix_(*constant(arrays))
    return tuple(a.reshape(p.shape) if is_box(a) else p for a, p in zip(arrays, plain, strict=True))


# --- Padding --------------------------------------------------------------------------------------------

_pad_plain: Any = np.pad  # of a mode that is only known when it runs
# Not np.max, whose m equal numbers have 1/m of the gradient each: rows and columns have another m.
_STATISTICS: dict[str, Any] = {
    "maximum": lambda x: _of_order(x, -1),
    "minimum": lambda x: _of_order(x, 0),
    "mean": lambda x: np.mean(x, axis=0),
    "median": lambda x: np.median(x, axis=0),
}


def _of_order(x: Any, k: int) -> Any:
    rows = np.moveaxis(x, 0, -1)
    return kth(rows, np.full((*rows.shape[:-1], 1), k % rows.shape[-1]))[..., 0]


def _pairs(x: Any, ndim: int) -> Any:
    """Give what np.pad takes for one, a pair, or a pair for each axis, as pairs."""
    if isinstance(x, dict):  # by axis
        x = [x.get(i, x.get(i - ndim, 0)) for i in range(ndim)]
        x = [(both, both) if np.ndim(both) == 0 else both for both in x]
    return np.broadcast_to(as_array(x), (ndim, 2))


def _reflected_oddly(x: Any, before: int, after: int, mode: str) -> Any:
    n = x.shape[0]
    if max(before, after) > n - 1:  # many times, which NumPy's own weights of the elements say
        weights = _pad_plain(np.eye(n), ((before, after), (0, 0)), mode, reflect_type="odd")
        return np.tensordot(weights, x, 1)
    turned = x[_pad_plain(np.arange(n), (before, after), mode)]
    return np.concatenate([2 * x[:1] - turned[:before], x, 2 * x[-1:] - turned[before + n :]])


def _block(x: Any, mode: str, width: int, value: Any) -> Any:
    """Give what goes before `x`; what goes after it goes before it reversed."""
    shape = (width, *x.shape[1:])
    if mode in _STATISTICS:
        part = x if value is None else x[: max(value, 0)]
        return np.broadcast_to(_STATISTICS[mode](part), shape)
    if mode == "linear_ramp":
        steps = np.reshape(np.arange(width) / max(width, 1), (-1, *(1,) * (x.ndim - 1)))
        return value + steps * (x[:1] - value)
    return np.broadcast_to(value, shape)


def _padded(x: Any, mode: str, before: int, after: int, values: Any, reflect_type: str) -> Any:
    """Pad an array along its first axis."""
    if reflect_type == "odd" and x.shape[0] > 1:
        return _reflected_oddly(x, before, after, mode)
    if mode in ("edge", "reflect", "symmetric", "wrap"):
        return x[_pad_plain(np.arange(x.shape[0]), (before, after), mode)]
    first, last = values
    end = _block(x[::-1], mode, after, last)[::-1]
    return np.concatenate([_block(x, mode, before, first), x, end])


def _pad(
    x: Any,
    pad_width: Any,
    mode: str = "constant",
    *,
    constant_values: Any = 0,
    end_values: Any = 0,
    stat_length: Any = None,
    reflect_type: str = "even",
) -> Any:
    x = as_array(x)
    if mode in _STATISTICS:
        values = [(None, None)] * x.ndim if stat_length is None else _pairs(stat_length, x.ndim)
    else:
        values = _pairs(end_values if mode == "linear_ramp" else constant_values, x.ndim)
    for axis, (before, after) in enumerate(_pairs(pad_width, x.ndim).tolist()):
        if before or after:
            along = np.moveaxis(x, axis, 0)
            x = np.moveaxis(_padded(along, mode, before, after, values[axis], reflect_type), 0, axis)
    return x


_exact_pad = Exact(np.pad, _pad)


def _pad_or_call(x: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> Any:
    if callable(mode):
        raise NotImplementedError("np.pad has no gradient with a function as mode. Use np.concatenate.")
    if mode == "constant" and not any(map(is_box, options.values())) and not isinstance(pad_width, dict):
        return anp.pad(x, as_it_is_now(pad_width), mode, **options)
    return _exact_pad(x, pad_width, mode, **options)


# --- Functions for parts of an array --------------------------------------------------------------------


def _piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **options: Any) -> Any:
    x, conditions = as_array(x), constant(condlist)
    if np.isscalar(conditions) or (np.ndim(x) and not isinstance(conditions[0], (list, np.ndarray))):
        conditions = [conditions]
    conditions = [*np.asarray(conditions, bool)]
    if len(conditions) == len(funclist) - 1:
        conditions.append(~np.any(conditions, axis=0))
    if len(conditions) != len(funclist):
        raise ValueError(f"np.piecewise: {len(conditions)} conditions, but {len(funclist)} functions")
    # All values in one row, the 0 of where no condition holds first; and for each element its place in it.
    values, length, place = [np.zeros(1, x.dtype)], 1, np.zeros(x.shape, int)
    for condition, value in zip(conditions, funclist, strict=True):
        part = x[condition]
        if n := part.size:
            value = as_array(value(part, *args, **options) if callable(value) else value)
            values.append(np.broadcast_to(value, part.shape).reshape(n).astype(x.dtype))
            place[condition] = np.arange(length, length + n).reshape(part.shape)
            length += n
    return laid(np.concatenate(values)[place.reshape(-1)].reshape(x.shape), "K", x)


def _apply_along_axis(function: Any, axis: int, x: Any, *args: Any, **options: Any) -> Any:
    x = as_array(x)
    axis = normalize_axis_index(axis, x.ndim)
    rows = np.moveaxis(x, axis, -1)
    others = rows.shape[:-1]
    if 0 in others:
        raise ValueError("Cannot apply_along_axis when any iteration dimensions are 0")
    parts = [as_array(function(rows[i], *args, **options)) for i in np.ndindex(others)]
    whole = np.stack(parts).reshape((*others, *parts[0].shape)).astype(parts[0].dtype)
    n = len(others)
    order = [*range(axis), *range(n, whole.ndim), *range(axis, n)]
    return np.transpose(whole, order)


def _apply_over_axes(func: Any, a: Any, axes: Any) -> Any:
    x = as_array(a)
    for axis in np.ravel(axes).tolist():
        result = func(x, axis)
        result = result if result.ndim == x.ndim else np.expand_dims(result, axis)
        if result.ndim != x.ndim:
            raise ValueError("np.apply_over_axes: the function must keep the axis or leave it out")
        x = result
    return x


COMPOSITES |= {
    np.apply_along_axis: _apply_along_axis,
    np.apply_over_axes: _apply_over_axes,
    np.delete: _moved(np.delete),
    np.diagflat: _diagflat,
    np.extract: lambda condition, x: np.ravel(as_array(x))[np.flatnonzero(condition)],
    np.insert: _insert,
    np.ix_: _ix,
    np.lib.stride_tricks.sliding_window_view: _moved(np.lib.stride_tricks.sliding_window_view),
    np.pad: _pad_or_call,
    np.piecewise: _piecewise,
    np.resize: _moved(np.resize),
}
if hasattr(np, "unstack"):
    COMPOSITES[np.unstack] = lambda x, /, *, axis=0: tuple(np.moveaxis(x, axis, 0))
