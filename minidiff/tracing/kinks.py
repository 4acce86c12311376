"""Lengths: functions with a kink at 0, whose squares have none.

At the kink the derivative is taken to be 0. That may be differentiated again where what comes after undoes
the kink, as the square in ``norm(x)**2`` does: there the derivative with respect to the length is 0 as well,
and what counts is how fast it gets there.
"""

from __future__ import annotations

import math
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval
from numpy.lib.array_utils import normalize_axis_tuple

from minidiff.tracing.backward import backward, history, is_same
from minidiff.tracing.derivatives import deviations, moments_options
from minidiff.tracing.exact import pinned
from minidiff.tracing.record import PLAIN, Traced, constant, derivative
from minidiff.tracing.spectra import singular_values
from minidiff.tracing.table import COMPOSITES, enter, is_nowhere, spread, unbroadcast


def _limit(g: Any, length: Any) -> Any:
    """Give g / length where both come to 0, and 0 elsewhere; None if that is nowhere known.

    It is the slope of g along the length, which an outer trace knows that has recorded both.
    """
    if type(g) is not Traced or type(length) is not Traced or g.owner is not length.owner:
        return None
    is_zero = (getval(g) == 0) & (getval(length) == 0)
    if is_nowhere(is_zero):
        return None
    lengths = [*dict.fromkeys([length, *[call for call in history(g) if is_same(call, length)]])]
    calls = history(g, until=lengths)
    slopes = [s for s in backward(g, is_zero.astype(g.dtype), lengths, calls) if s is not None]
    return sum(slopes[1:], slopes[0]) * is_zero if slopes else None


def _ratio(g: Any, length: Any) -> Any:
    """Divide `g` by a length; where that is 0, the result is the limit or else 0."""
    if type(length) in PLAIN and length.all():
        return g / length
    is_zero = length == 0
    ratio = anp.where(is_zero, 0, g / anp.where(is_zero, 1, length))
    limit = _limit(g, length)
    return ratio if limit is None else ratio + limit


def _abs(g: Any, ans: Any, x: Any) -> Any:
    if x.dtype.kind == "c":
        return _ratio(g, ans) * anp.conj(x)
    h = g * np.sign(x)
    limit = _limit(g, ans)
    return h if limit is None else h + limit * anp.where(ans == 0, x, anp.zeros_like(x))


enter(np.abs, _abs)
enter(np.fabs, _abs)
enter(
    np.hypot,
    lambda g, ans, x, y: unbroadcast(_ratio(g, ans) * x, x),
    lambda g, ans, x, y: unbroadcast(_ratio(g, ans) * y, y),
)


def _std(g: Any, ans: Any, x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    keepdims, where, ddof = moments_options(*args, **options)
    if ans.dtype.kind == "c":
        g, ans = anp.real(g), anp.real(ans)
    per_length = _ratio(g, ans)
    return spread(per_length, x, axis, keepdims) * deviations(x, axis, where, ddof)


enter(np.std, _std)


def spread_around_zero(x: Any, axis: Any, degrees: Any, is_root: bool) -> Any:
    """Give the sum of |x|² by `degrees`, or its root, which has a kink at 0; the axes stay."""
    if not is_root:
        return np.sum(np.real(x * np.conj(x)), axis=axis, keepdims=True) / degrees
    axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    # Of numbers and their negatives the mean is 0, and the deviation the root of the mean square.
    root = np.std(np.stack([x, -x]), axis=(0, *[i + 1 for i in axes]), keepdims=True)[0]
    return root * np.sqrt(math.prod(x.shape[i] for i in axes) / degrees)


# --- Norms ----------------------------------------------------------------------------------------------


def _reduced_shape(x: Any, axis: Any) -> list[int]:
    """Give the shape of a reduction of `x` that keeps its dimensions."""
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    return [1 if i in axes else n for i, n in enumerate(x.shape)]


def _from_length(g: Any, ans: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    return anp.reshape(_ratio(g, ans), _reduced_shape(x, axis)) * anp.conj(x)


@derivative(_from_length)
def _length(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.linalg.norm(x, None, axis, keepdims)


def _from_p_norm(g: Any, ans: Any, x: Any, p: Any, axis: Any) -> Any:
    # Shares of the norm, whose powers neither overflow nor divide 0 by 0.
    shape = _reduced_shape(x, axis)
    is_zero = ans == 0
    norm = anp.reshape(anp.where(is_zero, anp.ones_like(ans), ans), shape)
    share = np.abs(x) / norm
    if p < 1:
        is_kink = (share == 0) | np.reshape(is_zero, shape)
        share = anp.where(is_kink, anp.ones_like(share), share)
        g = anp.where(is_kink, anp.zeros_like(share), anp.reshape(g, shape))
    return anp.reshape(g, shape if p >= 1 else x.shape) * (anp.conj(np.sign(x)) * share ** (p - 1))


@derivative(_from_p_norm)
def _p_norm(x: Any, p: Any, axis: Any) -> Any:
    return np.linalg.norm(x, p, axis)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:  # noqa: A002
    if not x.size:  # what NumPy makes of no elements, or refuses, depends on its version
        return pinned(np.sum(np.abs(x)), np.linalg.norm(constant(x), ord, axis, keepdims))
    given = axis  # of all axes NumPy adds in another order than of the same by name
    if axis is None and ord is not None and x.ndim != 1:
        axis = tuple(range(x.ndim))
    axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
    is_vector = np.ndim(axis) == 0 and (axis is not None or x.ndim == 1)
    if ord is None or (ord == 2 and is_vector) or (ord in ("fro", "f") and np.shape(axis) == (2,)):
        return _length(x, given, keepdims)
    is_known = is_vector or (isinstance(axis, tuple) and len(axis) == 2)
    if not is_known or (isinstance(ord, str) and (is_vector or ord != "nuc")):
        return np.linalg.norm(constant(x), ord, axis, keepdims)  # which says what is wrong
    if keepdims:
        return np.reshape(np.linalg.norm(x, ord, axis), _reduced_shape(x, axis))
    if not is_vector:
        return _matrix_norm(np.moveaxis(x, axis, (-2, -1)), ord)
    if ord == 0:
        return np.linalg.norm(constant(x), 0, axis)  # how many are not 0 has no slope
    if ord == 1:
        return np.sum(np.abs(x), axis=axis)
    if ord in (np.inf, -np.inf):
        return (np.max if ord > 0 else np.min)(np.abs(x), axis=axis)
    return _p_norm(x, ord, axis)


def _matrix_norm(x: Any, order: Any) -> Any:
    if order in ("nuc", 2, -2):
        values = singular_values(x)
        if order == "nuc":
            return np.sum(values, axis=-1)
        # The least of several that are 0 stays 0 whichever element changes.
        none = np.sum(values == 0, axis=-1) > 1
        return values.max(-1) if order == 2 else anp.where(none, 0.0, values.min(-1))[()]
    if order in (1, -1):
        sums = np.sum(np.abs(x), axis=-2)
    elif order in (np.inf, -np.inf):
        sums = np.sum(np.abs(x), axis=-1)
    else:
        return np.linalg.norm(constant(x), order, (-2, -1))  # which says what is wrong
    return sums.max(-1) if order > 0 else sums.min(-1)


COMPOSITES[np.linalg.norm] = _norm
