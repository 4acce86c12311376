"""Derivatives that take precedence over those of autograd's table, a line or a few each.

Every derivative is written in one form, a user's own too: one rule for each positional argument, called as

    rule(g, ans, *arguments, **keywords) -> the gradient with respect to that argument

with ``g`` the gradient of the result ``ans``: the same shape, complex numbers conjugated as autograd does.
`RULES` has them for the commonest NumPy functions, because autograd's cost more on small arrays, or cover
less of the function (`clip` by keyword, `prod` of zeros, `sum` with ``where=``). Four things keep them short:

* What a rule returns is cast to the argument's dtype, so none needs to care.
* `g`, `ans` and the arguments may be recorded by an outer trace, and `g` may stand for many gradients that
  go back at once (`Rows`). So a rule is made of operators, ufuncs, array methods and `autograd.numpy`
  functions (never plain ``np.where``), and writes into nothing.
* A rule may return ``g`` itself or a view of it, but never an argument.
* Where the argument was only read in part, the rule may return that `Part` of its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import getval, trace_primitives_map

from minidiff.checks import scipy
from minidiff.tracing.table import (
    OURS,
    RULES,
    Part,
    Rule,
    along,
    cast,
    define,
    enter,
    listed,
    scatter,
    shown,
    spread,
    unbroadcast,
    unwrapped,
)

# --- Arithmetic -----------------------------------------------------------------------------------------

RULES[np.add] = (
    lambda g, ans, x, y: unbroadcast(g, x),
    lambda g, ans, x, y: unbroadcast(g, y),
)
RULES[np.subtract] = (
    lambda g, ans, x, y: unbroadcast(g, x),
    lambda g, ans, x, y: unbroadcast(-g, y),
)
RULES[np.multiply] = (
    lambda g, ans, x, y: unbroadcast(g * y, x),
    lambda g, ans, x, y: unbroadcast(g * x, y),
)
RULES[np.divide] = (
    lambda g, ans, x, y: unbroadcast(g / y, x),
    lambda g, ans, x, y: unbroadcast(-g * ans / y, y),
)


def _power_base(g: Any, ans: Any, x: Any, y: Any) -> Any:
    if type(y) in (int, float) and y == 2:  # 2x without a Python number, which costs NumPy more than the sum
        return unbroadcast(g * (x + x), x)
    if type(shown(y)) in (int, float):
        return unbroadcast(g * (y * x ** (y - 1 + 2 * (y == 0))), x)  # at y = 0 the slope is 0 · x
    if getattr(y, "dtype", ans.dtype).kind in "biu":
        y = y.astype(ans.dtype)  # as NumPy does: y - 1 may be beyond the whole numbers of its dtype
    is_0_to_the_0 = (x == 0) & (y == 0)  # whose slope, 0 · 0⁻¹, is 0
    return unbroadcast(g * (y * x ** anp.where(is_0_to_the_0, anp.ones_like(y), y - 1)), x)


def _power_exponent(g: Any, ans: Any, x: Any, y: Any) -> Any:
    # d xʸ/dy = xʸ·log x, which goes to 0 as x → 0. For a negative real x it is complex where the power is.
    if type(x) in (int, float) and x:
        return unbroadcast(g * (ans * (np.emath.log(x) if ans.dtype.kind == "c" else np.log(x))), y)
    g = anp.where(x, g, np.zeros((), g.dtype))  # which may be infinite
    one = np.ones((), ans.dtype) if ans.dtype.kind == "c" else 1.0
    x = anp.where(x, x, anp.ones_like(x)) * one  # whole numbers may be small ones, whose logarithm is float16
    return unbroadcast(g * (ans * np.log(x)), y)


RULES[np.power] = (_power_base, _power_exponent)
RULES[np.negative] = (lambda g, ans, x: -g,)
RULES[np.square] = (lambda g, ans, x: g * (x + x),)
RULES[np.reciprocal] = (lambda g, ans, x: -g * (ans * ans),)

# --- Products of arrays ---------------------------------------------------------------------------------


def _matmul_left(g: Any, ans: Any, A: Any, B: Any) -> Any:
    if B.ndim == 1:
        return unbroadcast(g[..., None] * B, A) if A.ndim > 1 else g * B
    if A.ndim == 1:
        if B.ndim == 2:
            return B @ g
        return unbroadcast((B @ g[..., None])[..., 0], A)
    if B.ndim == 2 and A.ndim > 2:  # one product in place of one for each matrix
        return (_as_matrix(g) @ B.swapaxes(-1, -2)).reshape(A.shape)
    return unbroadcast(g @ B.swapaxes(-1, -2), A)


def _matmul_right(g: Any, ans: Any, A: Any, B: Any) -> Any:
    if A.ndim == 1:
        return unbroadcast(A[:, None] * g[..., None, :], B) if B.ndim > 1 else g * A
    if B.ndim == 1:
        if A.ndim == 2:
            return g @ A
        return unbroadcast((g[..., None, :] @ A)[..., 0, :], B)
    if B.ndim == 2 and A.ndim > 2:
        return _as_matrix(A).swapaxes(-1, -2) @ _as_matrix(g)
    return unbroadcast(A.swapaxes(-1, -2) @ g, B)


def _as_matrix(x: Any) -> Any:
    """Give the rows of all matrices as one matrix."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


RULES[np.matmul] = (_matmul_left, _matmul_right)


def _axes(x: Any, y: Any, axes: Any) -> tuple[list[int], ...]:
    """List the axes of x and of y that a tensordot sums over, in pairs, and the others."""
    given = (range(x.ndim - axes, x.ndim), range(axes)) if np.ndim(axes) == 0 else axes
    a, b = ([int(i) % z.ndim for i in np.atleast_1d(list_)] for z, list_ in zip((x, y), given, strict=True))
    return a, b, [i for i in range(x.ndim) if i not in a], [i for i in range(y.ndim) if i not in b]


def _folded(x: Any, rows: Sequence[int], columns: Sequence[int] | None = None) -> Any:
    """Make a matrix of an array: some of its axes, in this order, become its rows, the others its columns."""
    columns = [i for i in range(x.ndim) if i not in rows] if columns is None else columns
    shape = [math.prod([x.shape[i] for i in axes]) for axes in (rows, columns)]
    return x.transpose([*rows, *columns]).reshape(shape)


def _unfolded(matrix: Any, x: Any, order: list[int]) -> Any:
    """Do the reverse, to an array of the shape of x."""
    return matrix.reshape([x.shape[i] for i in order]).transpose([int(i) for i in np.argsort(order)])


def _tensordot_left(g: Any, ans: Any, x: Any, y: Any, axes: Any = 2) -> Any:
    if not (np.ndim(x) and np.ndim(y)):
        return unbroadcast(g * y, x)
    a, b, free_x, free_y = _axes(x, y, axes)
    return _unfolded(_folded(g, range(len(free_x))) @ _folded(y, free_y, b), x, free_x + a)


def _tensordot_right(g: Any, ans: Any, x: Any, y: Any, axes: Any = 2) -> Any:
    if not (np.ndim(x) and np.ndim(y)):
        return unbroadcast(g * x, y)
    a, b, free_x, free_y = _axes(x, y, axes)
    return _unfolded(_folded(x, a, free_x) @ _folded(g, range(len(free_x))), y, b + free_y)


def _dot(matrices: Rule, tensors: Rule) -> Rule:
    def rule(g: Any, ans: Any, x: Any, y: Any) -> Any:
        if 0 < np.ndim(x) < 3 and 0 < np.ndim(y) < 3:
            return matrices(g, ans, x, y)
        return tensors(g, ans, x, y, ((-1,), (-2 if np.ndim(y) > 1 else -1,)))

    return rule


RULES[np.tensordot] = (_tensordot_left, _tensordot_right)
RULES[np.dot] = (_dot(_matmul_left, _tensordot_left), _dot(_matmul_right, _tensordot_right))


def _flat(x: Any) -> Any:
    return x.reshape((-1,)) if hasattr(x, "reshape") else np.ravel(x)


RULES[np.outer] = (
    lambda g, ans, x, y: (g @ _flat(y)).reshape(x.shape),
    lambda g, ans, x, y: (_flat(x) @ g).reshape(y.shape),
)


@lru_cache(1024)
def _letters(subscripts: str, *ndims: int) -> tuple[list[str], str]:
    """Write the subscripts of an einsum out: a letter for each axis of each operand, and of the result."""
    operands = [np.empty((1,) * ndim) for ndim in ndims]
    inputs, output, _ = anp.parse_einsum_input(subscripts, *operands)
    return inputs.split(","), output


def _einsum(argnums: Any, g: Any, ans: Any, subscripts: str, *operands: Any, **options: Any) -> list[Any]:
    """Give an einsum of the gradient and the other operands, for each operand asked for."""
    terms, output = _letters(subscripts, *map(np.ndim, operands))
    gradients = []
    for i in argnums:
        x, term = operands[i - 1], terms[i - 1]
        others = [output, *terms[: i - 1], *terms[i:]]
        axes = "".join(dict.fromkeys(term))  # each once, where x is read along a diagonal
        shape = [x.shape[term.index(c)] for c in axes]
        known = "".join(c for c in axes if any(c in other for other in others))
        h = anp.einsum(f"{','.join(others)}->{known}", g, *operands[: i - 1], *operands[i:], **options)
        if known != axes:
            sizes = dict(zip(known, h.shape, strict=True))
            h = h.reshape([sizes.get(c, 1) for c in axes])
        if list(h.shape) != shape:  # broadcast one way or the other
            zeros = np.zeros(shape, h.dtype)
            h = unbroadcast(h + zeros, zeros)
        if axes != term:
            places = np.ix_(*map(np.arange, shape))
            h = scatter(x.shape, [tuple(places[axes.index(c)] for c in term)], h)
        gradients.append(h)
    return gradients


OURS[trace_primitives_map[np.einsum]] = _einsum

# --- Elementwise functions ------------------------------------------------------------------------------

RULES[np.exp] = (lambda g, ans, x: g * ans,)
RULES[np.expm1] = (lambda g, ans, x: g * np.exp(x),)  # ans + 1 loses its digits where it is small
RULES[np.log] = (lambda g, ans, x: g / x,)
RULES[np.log1p] = (lambda g, ans, x: g / (x + 1),)
RULES[np.sqrt] = (lambda g, ans, x: g * (0.5 / ans),)
RULES[np.sin] = (lambda g, ans, x: g * np.cos(x),)
RULES[np.cos] = (lambda g, ans, x: -g * np.sin(x),)
RULES[np.tanh] = (lambda g, ans, x: g * (1 - ans * ans),)
RULES[np.cbrt] = (lambda g, ans, x: g / (3 * (ans * ans)),)


def _sinc(g: Any, ans: Any, x: Any) -> Any:
    # (cos πx - sinc x) / x loses its digits near 0, where the series of sin πx / πx has them.
    a = np.pi * x
    b = a * a
    series = -np.pi * a / 3 * (1 - b / 10 * (1 - b / 28 * (1 - b / 54)))
    is_small = abs(x) < 0.03
    return g * anp.where(is_small, series, (np.cos(a) - ans) / anp.where(is_small, anp.ones_like(x), x))


def _i0(g: Any, ans: Any, x: Any) -> Any:
    # SciPy has no i1 of extended precision, and NumPy's i0 has no more digits there than in double precision.
    x = cast(x, np.dtype(float)) if x.dtype.char == "g" else x
    return g * scipy("np.i0", "special").i1(x)


RULES[np.sinc], RULES[np.i0] = (_sinc,), (_i0,)


def _over_square(x: Any, y: Any) -> Any:
    """Divide x by x² + y², which is 0 where one of them is infinite."""
    x, y = unwrapped(x), unwrapped(y)
    square = x * x + y * y
    is_infinite = np.isinf(square)
    return anp.where(is_infinite, 0.0, x / anp.where(is_infinite, 1.0, square))


RULES[np.arctan2] = (
    lambda g, ans, y, x: unbroadcast(g * _over_square(x, y), y),
    lambda g, ans, y, x: unbroadcast(-g * _over_square(y, x), x),
)
RULES[np.positive] = (lambda g, ans, x: g,)
RULES[np.real] = (lambda g, ans, x: g,)
RULES[np.real_if_close] = (lambda g, ans, x, tol=100: cast(g, x.dtype),)
RULES[np.imag] = (lambda g, ans, x: g * -1j,)
RULES[np.conj] = (lambda g, ans, x: np.conj(g),)


def _angle(g: Any, ans: Any, x: Any, deg: bool = False) -> Any:
    if x.dtype.kind != "c":
        return np.zeros_like(x)  # of real numbers it is a step
    return (g * (180 / np.pi) if deg else g) * np.conj(x * 1j) / np.abs(x) ** 2


RULES[np.angle] = (_angle,)


def _share(x: Any, ans: Any, y: Any) -> Any:
    """1 where `x` is the chosen one, ½ where both are, else 0."""
    return (x == ans) / (1.0 + (x == y))


RULES[np.maximum] = RULES[np.minimum] = (
    lambda g, ans, x, y: unbroadcast(g * _share(x, ans, y).astype(g.dtype), x),
    lambda g, ans, x, y: unbroadcast(g * _share(y, ans, x).astype(g.dtype), y),
)


def part_of(x: Any, ans: Any, power: Any = np.exp) -> Any:
    """Give exp(x - ans), a summand's part of a sum by their logarithms; 1 where both are infinite."""
    is_all = x == ans
    return power(anp.where(is_all, anp.zeros_like(x), x - anp.where(is_all, anp.zeros_like(ans), ans)))


def share_of(x: Any, ans: Any, y: Any, power: Any = np.exp) -> Any:
    """Give exp(x) / (exp(x) + exp(y)), its limit where one is infinite, and ½ where both are."""
    return part_of(x, ans, power) / (1.0 + ((x == ans) & (y == ans)))


def _of_log_sum(power: Any) -> tuple[Rule, ...]:
    return (
        lambda g, ans, x, y: unbroadcast(g * share_of(x, ans, y, power), x),
        lambda g, ans, x, y: unbroadcast(g * share_of(y, ans, x, power), y),
    )


RULES[np.logaddexp], RULES[np.logaddexp2] = _of_log_sum(np.exp), _of_log_sum(np.exp2)
RULES[np.where] = (
    lambda g, ans, c, x, y: np.zeros(c.shape, c.dtype),
    lambda g, ans, c, x, y: unbroadcast(anp.where(c, g, np.zeros((), g.dtype)), x),
    lambda g, ans, c, x, y: unbroadcast(anp.where(c, np.zeros((), g.dtype), g), y),
)
# NumPy makes a matrix of a vector, with the vector in each row.
RULES[np.tril] = (lambda g, ans, x, k=0: unbroadcast(anp.tril(g, k), x),)
RULES[np.triu] = (lambda g, ans, x, k=0: unbroadcast(anp.triu(g, k), x),)


def _bound(bound: Any, ans: Any) -> Any:
    bound = np.asarray(bound) if isinstance(bound, (list, tuple)) else bound
    return bound.astype(ans.dtype) if hasattr(bound, "dtype") else bound


def _clip(g: Any, ans: Any, x: Any, low: Any = None, high: Any = None, **bounds: Any) -> Any:
    low, high = bounds.get("a_min", bounds.get("min", low)), bounds.get("a_max", bounds.get("max", high))
    inside = np.ones(x.shape, bool)
    for bound in (low, high):
        if bound is not None:
            inside = inside & (ans != _bound(bound, ans))
    return unbroadcast(g * inside, x)


def _clip_low(g: Any, ans: Any, x: Any, low: Any, a_max: Any = None, **options: Any) -> Any:
    at_low = ans == _bound(low, ans)
    return unbroadcast(g * (at_low if a_max is None else at_low & (ans != _bound(a_max, ans))), low)


def _clip_high(g: Any, ans: Any, x: Any, low: Any, high: Any) -> Any:
    return unbroadcast(g * (ans == _bound(high, ans)), high)


RULES[np.clip] = (_clip, _clip_low, _clip_high)

# --- Reductions -----------------------------------------------------------------------------------------


def _sum(g: Any, ans: Any, x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    if not args and not options:
        return spread(g, x, axis, False)
    keepdims, where = _options(*args, **options)
    g = spread(g, x, axis, keepdims)
    return g if where is True else g * where


def _mean(g: Any, ans: Any, x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    keepdims, where = _options(*args, **options)
    if where is True:
        # Not / n: a large n is infinite in half precision.
        return spread(g * (1 / max(x.size // max(ans.size, 1), 1)), x, axis, keepdims)
    n = np.broadcast_to(where, x.shape).sum(axis=axis, keepdims=keepdims)
    return spread(g / n, x, axis, keepdims) * where


def _is_plain_mean(x: Any, dtype: Any, out: Any, keepdims: Any, options: Any) -> bool:
    """Tell whether a mean is a sum and a division by the count.

    In single precision NumPy divides in double and rounds, which is the same if it has the count exactly.
    """
    is_plain = type(shown(x)) is np.ndarray and x.dtype.char in "fd" and 0 < x.size < 2**24 and x.ndim > 0
    return is_plain and dtype is None and out is None and type(keepdims) is bool and not options


def _sum_along(x: Any, axis: Any, keepdims: bool) -> Any:
    # A program shows the options that are given.
    return np.add.reduce(x, axis=axis, keepdims=True) if keepdims else np.add.reduce(x, axis=axis)


def mean(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **options: Any
) -> Any:
    """Compute `np.mean`, without its lines of Python, which cost more on small arrays than the addition."""
    if not _is_plain_mean(x, dtype, out, keepdims, options):
        return np.mean(x, axis, dtype, out, keepdims=keepdims, **options)
    total = _sum_along(x, axis, keepdims)
    return total / (x.size // total.size)


def var(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False,
    **options: Any,
) -> Any:  # fmt: skip
    """Compute `np.var` without its lines of Python."""
    if _is_plain_mean(x, dtype, out, keepdims, options) and type(ddof) is int:
        total = np.add.reduce(x, axis=axis, keepdims=True)
        n = x.size // total.size
        if n > ddof:
            return _sum_along(np.square(x - total / n), axis, keepdims) / (n - ddof)
    return np.var(x, axis, dtype, out, ddof, keepdims=keepdims, **options)


def deviations(x: Any, axis: Any, where: Any, ddof: Any) -> Any:
    """Give the conjugate of ``x - mean(x)`` by the count less `ddof`, and 0 where `where` leaves x out."""
    mean_of: Any = partial(mean, axis=axis, keepdims=True, **({} if where is True else {"where": where}))
    with np.errstate(divide="ignore", invalid="ignore") if where is not True else nullcontext():
        mean_of_x = mean_of(x)
        from_mean = x - mean_of_x
        # The mean of equal numbers may be rounded, but not the mean of what is left.
        from_mean = from_mean - mean_of(from_mean)
        from_mean = anp.conj(from_mean) if x.dtype.kind == "c" else from_mean
        if where is True:
            free = x.size // max(mean_of_x.size, 1) - ddof
            return from_mean * (1 / free if free > 0 else math.inf)
        free = np.broadcast_to(where, x.shape).sum(axis=axis, keepdims=True) - ddof
        share = np.where(where, 1 / np.maximum(free, 0), 0).astype(mean_of_x.real.dtype)
        return anp.where(where, from_mean, anp.zeros_like(from_mean)) * share


def moments_options(
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = False,
    *,
    where: Any = True,
    correction: Any = np._NoValue,
) -> tuple[Any, Any, Any]:
    """Give, of what may follow `axis` in a variance, what its derivative depends on."""
    keepdims = keepdims is not np._NoValue and keepdims
    where = True if where is np._NoValue else mask_of(where)
    ddof = ddof if correction is np._NoValue else correction
    if np.ndim(ddof):
        raise NotImplementedError("np.var and np.std have no gradient with several ddof=. Take one number.")
    return keepdims, where, ddof


def _var(g: Any, ans: Any, x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    keepdims, where, ddof = moments_options(*args, **options)
    return spread(anp.real(g), x, axis, keepdims) * (2 * deviations(x, axis, where, ddof))


RULES[np.var] = (_var,)


def _options(
    dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = 0, where: Any = True
) -> tuple[Any, Any]:
    """Give, of what may follow `axis` in a reduction, what its derivative depends on."""
    return keepdims, mask_of(where)


def mask_of(where: Any) -> Any:
    """Give a mask as an array; True, which leaves nothing out, stays."""
    return where if where is True or hasattr(where, "dtype") else np.asarray(where, bool)


def _extremum(g: Any, ans: Any, x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    # Equal extremes share the gradient.
    chosen = x == spread(ans, x, axis, keepdims)
    shares = chosen / chosen.sum(axis=axis, keepdims=True)
    return spread(g, x, axis, keepdims) * shares.astype(g.dtype)


RULES[np.sum] = (_sum,)
RULES[np.mean] = (_mean,)
RULES[np.max] = RULES[np.min] = RULES[np.amax] = RULES[np.amin] = (_extremum,)


def _cumsum(g: Any, ans: Any, x: Any, axis: Any = None, dtype: Any = None) -> Any:
    if axis is None or x.ndim == 0:
        return g.reshape(-1)[::-1].cumsum()[::-1].reshape(x.shape)
    backwards = along(x, axis, slice(None, None, -1))
    return g[backwards].cumsum(axis)[backwards]


RULES[np.cumsum] = (_cumsum,)


def _can_divide(ans: Any) -> bool:
    """Tell whether products may be divided by a factor: they are known, and neither 0 nor infinite."""
    if getval(ans) is not ans:  # a derivative of this one cannot look at values
        return False
    size = np.abs(ans)
    return bool(np.all((size > np.finfo(size.dtype).tiny) & np.isfinite(size)))


@listed
def _prod(g: Any, ans: Any, x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    keepdims, _ = _options(*args, **options)
    if (type(axis) is tuple and not axis) or not x.ndim:
        return g
    if _can_divide(ans):
        return spread(g * ans, x, axis, keepdims) / x
    # The product of all the others without a division: those before times those after.
    axes = sorted(a % x.ndim for a in (range(x.ndim) if axis is None else np.atleast_1d(axis).tolist()))
    order = [i for i in range(x.ndim) if i not in axes] + axes
    others, n = [x.shape[i] for i in order[: -len(axes)]], int(np.prod([x.shape[i] for i in axes]))
    rows, one = x.transpose(order).reshape((*others, n)), np.ones((*others, 1), x.dtype)
    before = np.cumprod(anp.concatenate([one, rows[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(anp.concatenate([one, rows[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    rest = (before * after)[..., :n].reshape([x.shape[i] for i in order])
    return spread(g, x, axis, keepdims) * rest.transpose(np.argsort(order).tolist())


RULES[np.prod] = (_prod,)


@listed
def gone_back(g: Any, shares: Any) -> Any:
    """Add to each row of a gradient a share of the next row, from the last row to the first."""
    rows = [*g]
    for i in range(len(rows) - 1, 0, -1):
        rows[i - 1] = rows[i - 1] + shares[i - 1] * rows[i]
    return np.stack(rows)


def _gone_forth(h: Any, shares: Any) -> Any:
    return with_later(h[::-1], shares[::-1])[::-1]


with_later = define(
    gone_back,
    (
        lambda h, ans, g, shares: _gone_forth(h, shares),
        lambda h, ans, g, shares: _gone_forth(h, shares)[:-1] * ans[1:],
    ),
)


@listed
def _cumprod(g: Any, ans: Any, x: Any, axis: Any = None, dtype: Any = None) -> Any:
    if axis is None or not x.ndim:
        return _cumprod(g.reshape(-1), ans.reshape(-1), x.reshape(-1), 0).reshape(x.shape)
    if not x.size:
        return g
    if _can_divide(ans):
        backwards = along(x, axis, slice(None, None, -1))
        with np.errstate(over="ignore", invalid="ignore"):
            found = (g * ans)[backwards].cumsum(axis)[backwards] / x
        if np.all(np.isfinite(found)):
            return found
    # Without a division: the product of those before times what those after make of the gradient.
    rows = np.moveaxis(x, axis, 0)
    before = np.cumprod(anp.concatenate([np.ones_like(rows[:1]), rows[:-1]]), axis=0)
    return np.moveaxis(before * with_later(np.moveaxis(g, axis, 0), rows[1:]), 0, axis)


RULES[np.cumprod] = (_cumprod,)


# --- Shapes ---------------------------------------------------------------------------------------------


def _like(g: Any, ans: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """For what only regroups the elements in C order."""
    return g.reshape(x.shape)


def _transpose(g: Any, ans: Any, x: Any, axes: Any = None) -> Any:
    return g.transpose() if axes is None else g.transpose([int(i) for i in np.argsort(np.mod(axes, x.ndim))])


def _reshape(g: Any, ans: Any, x: Any, *shape: Any, order: str = "C", **options: Any) -> Any:
    order = ((shape[1] if len(shape) > 1 else order) or "C").upper()
    if order == "A":
        order = "F" if shown(x).flags.fnc else "C"
    return g.reshape(x.shape) if order == "C" else anp.reshape(g, x.shape, order=order)


def axes_in_memory(x: Any) -> tuple[int, ...]:
    """Give the axes of an array in the order in which it lies in memory, the slowest first."""
    return tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))


def _ravel(g: Any, ans: Any, x: Any, order: str = "C") -> Any:
    if order in ("K", "k"):  # as the elements lie in memory
        strides = shown(x).strides
        if x.size and any(step == 0 and n > 1 for step, n in zip(strides, x.shape, strict=True)):
            raise NotImplementedError("the array is broadcast, and its elements share memory: take order='C'")
        axes = axes_in_memory(shown(x))
        return g.reshape([x.shape[i] for i in axes]).transpose([int(i) for i in np.argsort(axes)])
    return _reshape(g, ans, x, order=order)


RULES[np.reshape], RULES[np.ravel] = (_reshape,), (_ravel,)
RULES[np.expand_dims] = RULES[np.squeeze] = (_like,)
RULES[np.atleast_1d] = RULES[np.atleast_2d] = RULES[np.atleast_3d] = (_like,)
RULES[np.transpose] = (_transpose,)
RULES[np.swapaxes] = (lambda g, ans, x, axis1, axis2: g.swapaxes(axis1, axis2),)


def _diagonal(g: Any, ans: Any, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    axis1, axis2 = axis1 % x.ndim, axis2 % x.ndim
    others = [i for i in range(x.ndim) if i not in (axis1, axis2)]
    *places, along = np.ix_(*map(np.arange, ans.shape))
    index = {
        **dict(zip(others, places, strict=True)),
        axis1: along + max(0, -offset),
        axis2: along + max(0, offset),
    }
    return scatter(x.shape, [tuple(index[i] for i in range(x.ndim))], g)


RULES[np.diagonal] = (_diagonal,)


def _roll(g: Any, ans: Any, x: Any, shift: Any, axis: Any = None) -> Any:
    if np.asarray(shift).dtype.kind in "bu":  # which have no negatives, and roll otherwise in NumPy 2.0
        places = np.roll(np.arange(x.size).reshape(x.shape), shift, axis)
        return np.ravel(g)[np.argsort(places, axis=None)].reshape(x.shape)
    return np.roll(g, np.negative(shift).tolist(), axis)


RULES[np.roll] = (_roll,)


def _tile(g: Any, ans: Any, x: Any, reps: Any) -> Any:
    times = (*reps,) if np.ndim(reps) else (reps,)
    times, shape = (1,) * (ans.ndim - len(times)) + times, (1,) * (ans.ndim - x.ndim) + x.shape
    apart = g.reshape([n for pair in zip(times, shape, strict=True) for n in pair])
    return apart.sum(axis=tuple(range(0, apart.ndim, 2))).reshape(x.shape)


RULES[np.tile] = (_tile,)
RULES[np.broadcast_to] = (lambda g, ans, x, shape, *subok, **options: unbroadcast(g, x),)

# --- Determinants ---------------------------------------------------------------------------------------


@listed
def _cofactors(A: Any) -> Any:
    det = np.linalg.det(A)
    if (inverse := _inverse(A, det)) is not None:
        return det[..., None, None] * inverse.swapaxes(-1, -2)
    U, s, Vh = np.linalg.svd(A)
    others = [np.delete(s, i, axis=-1).prod(axis=-1) for i in range(s.shape[-1])]
    phase = np.linalg.det(U) * np.linalg.det(Vh)
    return (U.conj() * (phase[..., None] * np.stack(others, axis=-1))[..., None, :]) @ Vh.conj()


def _inverse(A: Any, det: Any) -> Any:
    """Give the inverse of matrices that are far from singular ones, else None."""
    values: Any = getval(A)
    try:
        inverse: Any = np.linalg.inv(values)
    except np.linalg.LinAlgError:
        return None
    condition = float(np.abs(values).max(initial=0)) * float(np.abs(inverse).max(initial=0))
    # Each further derivative loses as many digits as the condition has. Large matrices may have a larger one,
    # as they cost too much without the inverse.
    most = np.finfo(values.dtype).eps ** (-0.25 if values.shape[-1] <= 16 else -0.5)
    if not (condition < most and np.all(getval(det))):
        return None
    return inverse if A is values else np.linalg.inv(A)


@listed
def _from_cofactors(g: Any, ans: Any, A: Any) -> Any:
    det = np.linalg.det(A)
    if (inverse := _inverse(A, det)) is not None:
        turned = inverse.swapaxes(-1, -2)
        total = (g * turned).sum(axis=(-2, -1), keepdims=True)
        return det[..., None, None] * (total * turned - turned @ g.swapaxes(-1, -2) @ turned)
    n = A.shape[-1]
    if n == 1:
        return g * 0
    if n > 64:
        raise NotImplementedError("matrices near a singular one have a second derivative up to 64 rows")
    # Each cofactor is the determinant of what is left without a row and a column.
    left = np.array([[k for k in range(n) if k != i] for i in range(n)])
    places = (..., left[:, None, :, None], left[None, :, None, :])
    signs = ((-1.0) ** np.add.outer(np.arange(n), np.arange(n))).astype(g.dtype)
    return scatter(A.shape, [places], (g * signs)[..., None, None] * cofactors(A[places]))


# cofactors(A): for each element (-1)ⁱ⁺ʲ times the determinant of A without row i and column j.
cofactors = define(_cofactors, (_from_cofactors,))
RULES[np.linalg.det] = (lambda g, ans, A: g[..., None, None] * cofactors(A),)

# What was read of x is a part of its gradient.
OURS[ArrayBox.__getitem__] = (lambda g, ans, x, index: Part((g, index)),)

for _function, _rules in RULES.items():
    enter(_function, *_rules)
