"""The options and methods of NumPy's ufuncs, written with calls that have none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from minidiff.checks import is_complex
from minidiff.tracing.derivatives import part_of, share_of, with_later
from minidiff.tracing.exact import laid, pinned, verified
from minidiff.tracing.record import as_array, constant, derivative, is_box, map_container, record
from minidiff.tracing.table import COMPOSITES, cast, listed, scatter, shown

# --- Options --------------------------------------------------------------------------------------------

_NUMBERS = (int, float, complex)
_BRANCHED = {np.arccos, np.arccosh, np.arcsin, np.arctanh}  # infinitely steep where the complex plane is cut


def _with_options(
    ufunc: Any,
    *args: Any,
    where: Any = True,
    dtype: Any = None,
    signature: Any = None,
    casting: Any = "same_kind",
    order: Any = "K",
    subok: Any = True,
    **axes: Any,
) -> Any:
    arrays = [x if type(x) in _NUMBERS else as_array(x) for x in args]
    if dtype is not None:
        signature = (None,) * ufunc.nin + (np.dtype(dtype),) * ufunc.nout
    options = {"casting": casting} if signature is None else {"casting": casting, "signature": signature}
    kinds = [type(x) if type(x) in _NUMBERS else x.dtype for x in arrays]
    kinds = ufunc.resolve_dtypes((*kinds, *[None] * ufunc.nout), **options)
    if all(kind.kind not in "fc" for kind in kinds[ufunc.nin :]):
        return ufunc(*constant(args), where=constant(where), **options, **axes)
    if ufunc in _BRANCHED and kinds[-1].kind == "c" and all(x.dtype.kind != "c" for x in arrays):
        raise NotImplementedError(
            f"np.{ufunc.__name__} has no gradient with a complex dtype= of real numbers."
        )
    pairs = zip(arrays, kinds, strict=False)
    if any(is_complex(x) and kind.kind != "c" for x, kind in pairs):
        raise NotImplementedError(f"np.{ufunc.__name__} would drop imaginary parts: take np.real first.")
    if order != "K":
        np.positive(0.0, order=order)  # which refuses others
        order = (order or "K").upper()
    if order == "A":
        order = "F" if all(np.asarray(shown(constant(x))).flags.f_contiguous for x in arrays) else "C"
    like = None
    if order == "K" and ufunc.signature is None:  # computed nowhere, a result tells how it lies in memory
        nowhere = np.zeros_like(shown(constant(where)), bool)
        out = (None,) * ufunc.nout  # without it NumPy warns
        like = ufunc(*[shown(constant(x)) for x in arrays], where=nowhere, out=out, **options)
        like = like[0] if ufunc.nout > 1 else like
    arrays = [
        cast(np.asarray(x) if type(x) in _NUMBERS else x, kind)
        for x, kind in zip(arrays, kinds, strict=False)
    ]
    if axes and axes != {"keepdims": False}:
        ufunc(*constant(arrays), **axes)  # which refuses others
        result = _along(ufunc, arrays, **axes)
    else:
        result = ufunc(*arrays) if where is True else _for_some(ufunc, arrays, constant(where))
    if order == "K" and like is None:
        return result
    lie = partial(laid, order=order, like=like)
    return map_container(lie, result) if ufunc.nout > 1 else lie(result)


def _for_some(ufunc: Any, arrays: Sequence[Any], where: Any) -> Any:
    """Call a ufunc for chosen elements. The others of the result are 0; NumPy leaves them open."""
    where = where if hasattr(where, "dtype") else np.asarray(where, bool)
    if where.dtype != bool:
        raise TypeError(f"np.{ufunc.__name__}: where= takes booleans, got {where.dtype}.")
    shape = np.broadcast_shapes(where.shape, *[x.shape for x in arrays])
    where = np.broadcast_to(where, shape)
    some = ufunc(*[np.broadcast_to(x, shape)[where] for x in arrays])

    def placed(y: Any) -> Any:
        return record(scatter, (shape, [where], y), {})[()]

    return map_container(placed, some) if ufunc.nout > 1 else placed(some)


def _along(
    ufunc: Any, arrays: Sequence[Any], axes: Any = None, axis: Any = None, keepdims: bool = False
) -> Any:
    """Call a ufunc of vectors or matrices along other axes than the last ones."""
    cores = [len(core.split(",")) if core else 0 for core in re.findall(r"\((.*?)\)", ufunc.signature)]
    if axes is None:
        axes = [axis if axis is not None else tuple(range(-n, 0)) for n in cores[: ufunc.nin]]
    axes = [(place,) if np.ndim(place) == 0 else tuple(place) for place in axes]
    out = axes[ufunc.nin] if len(axes) > ufunc.nin else axes[0] if keepdims else tuple(range(-cores[-1], 0))
    moved = [np.moveaxis(x, at, tuple(range(-len(at), 0))) for x, at in zip(arrays, axes, strict=False)]
    result = ufunc(*moved)
    if keepdims:
        result = np.expand_dims(result, tuple(range(-len(out), 0)))
    return np.moveaxis(result, range(-len(out), 0), out)


# --- Reductions -----------------------------------------------------------------------------------------


def _by_rule(ufunc: Any, rule: Callable[..., Any]) -> Any:
    # Not of the method itself: `primitive_of` would take it for a NumPy function with a derivative.
    @derivative(rule)
    def reduce(rows: Any) -> Any:
        return ufunc.reduce(rows)

    return reduce


def _from_extremum(g: Any, ans: Any, rows: Any) -> Any:
    chosen = rows == ans  # none where all are NaN
    return g * (chosen / np.maximum(chosen.sum(axis=0), 1)).astype(g.dtype)


def _from_logarithm(power: Any, g: Any, ans: Any, rows: Any) -> Any:
    # Several that are infinite share.
    return g * part_of(rows, ans, power) / np.maximum((rows == ans).sum(axis=0), 1)


# Reductions that NumPy has under another name.
_NAMED: dict[Any, Any] = {np.add: np.sum, np.multiply: np.prod, np.maximum: np.max, np.minimum: np.min}
# Reductions along the first axis. Other ufuncs go from one element to the next.
_REDUCTIONS: dict[Any, Callable[..., Any]] = {
    **{ufunc: partial(function, axis=0) for ufunc, function in _NAMED.items()},
    np.hypot: lambda rows: np.linalg.norm(rows, axis=0),
    **{ufunc: _by_rule(ufunc, _from_extremum) for ufunc in (np.fmax, np.fmin)},
    np.logaddexp: _by_rule(np.logaddexp, partial(_from_logarithm, np.exp)),
    np.logaddexp2: _by_rule(np.logaddexp2, partial(_from_logarithm, np.exp2)),
}


_IN_NO_ORDER = {np.arctan2, np.power}


def _reduce(
    ufunc: Any,
    x: Any,
    axis: Any = 0,
    dtype: Any = None,
    keepdims: Any = False,
    initial: Any = np._NoValue,
    where: Any = True,
) -> Any:
    if ufunc in _IN_NO_ORDER:
        raise NotImplementedError(
            f"np.{ufunc.__name__}.reduce goes through an array in an order that depends on its dtype. Write "
            "a loop."
        )
    x, where = as_array(x), constant(where)
    if ufunc in _NAMED and where is True and initial is np._NoValue and dtype is None:
        return _NAMED[ufunc](x, axis, keepdims=keepdims)
    options = {} if initial is np._NoValue else {"initial": constant(initial)}
    plain = ufunc.reduce(constant(x), axis, dtype, None, keepdims, where=where, **options)
    if plain.dtype.kind not in "fc":
        return plain
    x = x if x.ndim else np.reshape(x, 1)  # NumPy takes an axis of a number, too
    axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    others = [i for i in range(x.ndim) if i not in axes]
    shape = (math.prod([x.shape[i] for i in axes]), *[x.shape[i] for i in others])
    rows = np.transpose(cast(x, plain.dtype), (*axes, *others)).reshape(shape)
    start: list[Any] = []
    if initial is not np._NoValue and initial is not None:
        start = [cast(as_array(initial), plain.dtype)]
    elif not shape[0] or where is not True:
        start = [plain.dtype.type(ufunc.identity)]
    if not shape[0]:
        start = [np.broadcast_to(start[0], shape[1:])]
    mask = np.transpose(np.broadcast_to(as_array(where), x.shape), (*axes, *others)).reshape(shape)
    # If where= leaves everything out, hypot gives the initial value with its sign.
    if ufunc in _REDUCTIONS and shape[0] and (where is True or ufunc is not np.hypot):
        if where is not True:
            nothing = start[0] if ufunc.identity is None else plain.dtype.type(ufunc.identity)
            rows = np.where(mask, rows, nothing)
        result = reduce(ufunc, [*start, _REDUCTIONS[ufunc](rows)])
    elif where is True:
        result = reduce(ufunc, [*start, *rows])
    else:
        result = np.broadcast_to(start[0], shape[1:])
        for row, some in zip(rows, mask, strict=True):
            result = np.where(some, ufunc(result, row, where=some), result)
    return _as_numpy_has_it(ufunc, np.reshape(result, plain.shape)[()], plain)


def _as_numpy_has_it(ufunc: Any, result: Any, plain: Any) -> Any:
    """Refuse where NumPy does not go from one element to the next: in vectors some ufuncs do not."""
    words = (
        f"np.{ufunc.__name__}: NumPy does not take one element of this array after the other, and there is "
        "no gradient of what it gives. Write a loop."
    )
    return verified(result, plain, 8 * np.finfo(plain.dtype).eps ** 0.75, words)


@listed
def _from_running_log_sum(g: Any, ans: Any, x: Any) -> Any:
    if not len(x):
        return g
    new = np.concatenate([np.ones_like(x[:1]), share_of(x[1:], ans[1:], ans[:-1])])
    return new * with_later(g, share_of(ans[:-1], ans[1:], x[1:]))


@derivative(_from_running_log_sum)
def _running_log_sum(x: Any) -> Any:
    return np.logaddexp.accumulate(x)


def _accumulate(ufunc: Any, x: Any, axis: Any = 0, dtype: Any = None) -> Any:
    x = as_array(x)
    plain = ufunc.accumulate(constant(x), axis, dtype)
    if plain.dtype.kind not in "fc":
        return plain
    axis = normalize_axis_index(axis or 0, x.ndim)
    x = x if x.dtype == plain.dtype else cast(x, plain.dtype)
    if ufunc in (np.add, np.multiply):
        return (np.cumsum if ufunc is np.add else np.cumprod)(x, axis)
    if ufunc in (np.maximum, np.minimum, np.fmax, np.fmin):
        values = constant(x)
        chosen = (values == plain) | (np.isnan(values) & np.isnan(plain))
        places = np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        return np.take_along_axis(x, np.maximum.accumulate(np.where(chosen, places, 0), axis), axis)
    if ufunc is np.logaddexp:
        return np.moveaxis(_running_log_sum(np.moveaxis(x, axis, 0)), 0, axis)
    rows = [*accumulate(np.moveaxis(x, axis, 0), ufunc)]
    return _as_numpy_has_it(ufunc, np.stack(rows, axis), plain) if rows else x


@derivative(lambda g, ans, x, starts: _handed_out(g, starts, len(x)))
def _group_sums(x: Any, starts: Any) -> Any:
    return np.add.reduceat(x, starts)


@derivative(lambda g, ans, y, starts, n: _group_sums(g, starts))
def _handed_out(y: Any, starts: Any, n: int) -> Any:
    """Give each of n rows what its group has."""
    return np.repeat(y, np.diff(starts, append=n), axis=0)


def _group_extremum(ufunc: Any, least: int) -> Any:
    def shared(g: Any, ans: Any, x: Any, starts: Any) -> Any:
        chosen = x == _handed_out(ans, starts, len(x))
        counts = np.maximum(_group_sums(chosen * 1.0, starts), least)
        return _handed_out(g, starts, len(x)) * (chosen / _handed_out(counts, starts, len(x))).astype(g.dtype)

    @derivative(shared)
    def extremum(x: Any, starts: Any) -> Any:
        return ufunc.reduceat(x, starts)

    return extremum


# Reductions of rows in groups, one behind another; the first group begins with the first row.
_GROUPED: dict[Any, Any] = {
    np.add: _group_sums,
    **{ufunc: _group_extremum(ufunc, 0) for ufunc in (np.maximum, np.minimum)},
    **{ufunc: _group_extremum(ufunc, 1) for ufunc in (np.fmax, np.fmin)},  # none is chosen of NaN alone
}


def _reduceat(ufunc: Any, x: Any, indices: Any, axis: Any = 0, dtype: Any = None) -> Any:
    x, indices = as_array(x), constant(indices)
    plain = ufunc.reduceat(constant(x), indices, axis, dtype)
    if plain.dtype.kind not in "fc":
        return plain
    axis = normalize_axis_index(axis or 0, x.ndim)
    rows = np.moveaxis(cast(x, plain.dtype), axis, 0)
    starts = np.asarray(indices).tolist()
    if ufunc in _GROUPED and starts and all(i < j for i, j in pairwise(starts)):
        groups = _GROUPED[ufunc](rows[starts[0] :], np.asarray(starts) - starts[0])
        return pinned(np.moveaxis(groups, 0, axis), plain)
    ends = [*starts, x.shape[axis]][1:]
    parts = [_reduce(ufunc, rows[i:j]) if i + 1 < j else rows[i] for i, j in zip(starts, ends, strict=True)]
    return pinned(np.stack(parts, axis) if parts else np.take(x, [], axis), plain)


def _outer(ufunc: Any, x: Any, y: Any, **options: Any) -> Any:
    x, y = as_array(x), as_array(y)
    return ufunc(np.reshape(x, x.shape + (1,) * y.ndim), y, **options)


def _reduction(
    ufunc: Any,
    function: Any,
    x: Any,
    axis: Any = None,
    *,
    keepdims: Any = False,
    initial: Any = np._NoValue,
    where: Any = np._NoValue,
) -> Any:
    """Do a reduction by a ufunc, such as `np.max`, with `initial` or `where`."""
    if where is np._NoValue and initial is np._NoValue:
        return NotImplemented
    where, keepdims = where is np._NoValue or where, keepdims is not np._NoValue and keepdims
    return _reduce(ufunc, x, axis, None, keepdims, initial, where)


def _sum(function: Any, *args: Any, initial: Any = np._NoValue, **options: Any) -> Any:
    if initial is np._NoValue or not is_box(initial):
        return NotImplemented
    return _reduction(np.add, function, *args, initial=initial, **options)


COMPOSITES |= {
    (np.ufunc, "options"): _with_options,
    (np.ufunc, "reduce"): _reduce,
    (np.ufunc, "accumulate"): _accumulate,
    (np.ufunc, "reduceat"): _reduceat,
    (np.ufunc, "outer"): _outer,
    (np.max, "options"): partial(_reduction, np.maximum),
    (np.amax, "options"): partial(_reduction, np.maximum),
    (np.min, "options"): partial(_reduction, np.minimum),
    (np.amin, "options"): partial(_reduction, np.minimum),
    (np.prod, "options"): partial(_reduction, np.multiply),
    (np.sum, "options"): _sum,
}
