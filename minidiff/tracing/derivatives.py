"""Derivatives of the commonest NumPy operations, one entry each.

autograd knows some two hundred derivatives, and all of them serve. Those here are called instead of
autograd's because they cost less on small arrays, or because autograd's covers less of the function
(`clip` by keyword, `sort` along an axis, `sum` with ``where=``). `RULES` maps a NumPy function to one rule
per positional argument; a rule is called as

    rule(g, ans, *arguments, **keywords) -> the gradient with respect to that argument

with ``g`` the gradient of the result ``ans``: the same shape, complex numbers conjugated as autograd does.
Three things keep the rules short:

* The tracing module casts what a rule returns to the argument's dtype, so none needs to care.
* `g`, `ans` and the arguments may be recorded by an outer trace, so a rule is made of operators, ufuncs,
  array methods and `autograd.numpy` functions (never plain ``np.where``), and writes into nothing.
* A rule may return ``g`` itself or a view of it, but never an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import autograd.numpy as anp
import numpy as np

__all__ = ["OVERLOOKED", "RULES", "add_at", "scatter", "unbroadcast"]

Rule: TypeAlias = Callable[..., Any]
RULES: dict[Any, tuple[Rule, ...]] = {}


def unbroadcast(g: Any, x: Any) -> Any:
    """Sum `g` over the axes along which `x` was broadcast to get it."""
    shape = x.shape
    if g.shape == shape:
        return g
    lead = len(g.shape) - len(shape)
    stretched = [lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] != 1]
    total = g.sum(axis=(*range(lead), *stretched))
    return total.reshape(shape) if stretched else total


def spread(g: Any, x: Any, axis: Any, keepdims: Any) -> Any:
    """Repeat `g`, what a reduction of `x` along `axis` gave, to the shape of `x` as a fresh array."""
    shape = x.shape
    if axis is not None and not keepdims and shape:
        axes = {int(a) % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
        g = g.reshape([1 if i in axes else n for i, n in enumerate(shape)])
    if isinstance(g, (np.ndarray, np.generic)):
        out = np.empty(shape, g.dtype)
        out[...] = g
        return out
    return g + np.zeros(shape, g.dtype)


def scatter(g: Any, x: Any, index: Any) -> Any:
    """Zeros in the shape of `x`, with `g` added where `index` reads: the adjoint of ``x[index]``."""
    out = np.zeros(x.shape, g.dtype)
    add_at(out, index, g)
    return out


def add_at(out: np.ndarray[Any, Any], index: Any, g: Any) -> None:
    """Add `g` to ``out[index]`` in place, as many times as `index` names an element."""
    if _is_basic(index):
        out[index] += g
    else:
        np.add.at(out, index, g)


def _is_basic(index: Any) -> bool:
    """Tell whether `index` reads no element twice: integers, slices, newaxis, ellipsis or a mask."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, (slice, int, np.integer))
        or (isinstance(part, np.ndarray) and part.dtype == bool and len(parts) == 1)
        for part in parts
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
    if type(y) in (int, float):
        # x + x is 2x without a Python number, which costs NumPy more than the sum.
        return unbroadcast(g * (x + x if y == 2 else y * x ** (y - 1 if y else 1)), x)
    return unbroadcast(g * (y * x ** anp.where(y, y - 1, anp.ones_like(y))), x)


def _power_exponent(g: Any, ans: Any, x: Any, y: Any) -> Any:
    # d xʸ/dy = xʸ·log x, whose limit as x → 0 is 0.
    return unbroadcast(g * (ans * np.log(anp.where(x, x, anp.ones_like(x)))), y)


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
    return unbroadcast(g @ B.swapaxes(-1, -2), A)


def _matmul_right(g: Any, ans: Any, A: Any, B: Any) -> Any:
    if A.ndim == 1:
        return unbroadcast(A[:, None] * g[..., None, :], B) if B.ndim > 1 else g * A
    if B.ndim == 1:
        if A.ndim == 2:
            return g @ A
        return unbroadcast((g[..., None, :] @ A)[..., 0, :], B)
    return unbroadcast(A.swapaxes(-1, -2) @ g, B)


RULES[np.matmul] = (_matmul_left, _matmul_right)

# --- Elementwise functions ------------------------------------------------------------------------------

RULES[np.exp] = (lambda g, ans, x: g * ans,)
RULES[np.expm1] = (lambda g, ans, x: g * (ans + 1),)
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


RULES[np.sinc] = (_sinc,)
RULES[np.positive] = (lambda g, ans, x: g,)
RULES[np.real] = (lambda g, ans, x: g,)
RULES[np.imag] = (lambda g, ans, x: g * -1j,)
RULES[np.conj] = (lambda g, ans, x: np.conj(g),)


def _share(x: Any, ans: Any, y: Any) -> Any:
    """1 where `x` is the chosen one, ½ where both are, else 0."""
    return (x == ans) / (1.0 + (x == y))


RULES[np.maximum] = RULES[np.minimum] = (
    lambda g, ans, x, y: unbroadcast(g * _share(x, ans, y).astype(g.dtype), x),
    lambda g, ans, x, y: unbroadcast(g * _share(y, ans, x).astype(g.dtype), y),
)
RULES[np.logaddexp] = (
    lambda g, ans, x, y: unbroadcast(g * np.exp(x - ans), x),
    lambda g, ans, x, y: unbroadcast(g * np.exp(y - ans), y),
)
RULES[np.where] = (
    lambda g, ans, c, x, y: np.zeros(c.shape, c.dtype),
    lambda g, ans, c, x, y: unbroadcast(anp.where(c, g, np.zeros((), g.dtype)), x),
    lambda g, ans, c, x, y: unbroadcast(anp.where(c, np.zeros((), g.dtype), g), y),
)


def _clip(g: Any, ans: Any, x: Any, low: Any = None, high: Any = None, **bounds: Any) -> Any:
    low, high = bounds.get("a_min", bounds.get("min", low)), bounds.get("a_max", bounds.get("max", high))
    inside = np.ones(x.shape, bool)
    if low is not None:
        inside = inside & (ans != low)
    if high is not None:
        inside = inside & (ans != high)
    return unbroadcast(g * inside, x)


RULES[np.clip] = (_clip,)

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


def _options(
    dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = 0, where: Any = True
) -> tuple[Any, Any]:
    """Give, of what may follow `axis` in a reduction, what its derivative depends on."""
    return keepdims, where


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
    backwards = (slice(None),) * (axis % x.ndim) + (slice(None, None, -1),)
    return g[backwards].cumsum(axis)[backwards]


RULES[np.cumsum] = (_cumsum,)


def _prod(g: Any, ans: Any, x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    keepdims, _ = _options(*args, **options)
    if axis == () or not x.ndim:
        return g
    if np.all(x != 0):
        return spread(g * ans, x, axis, keepdims) / x
    # The product of all the others without a division: those before times those after.
    axes = sorted(a % x.ndim for a in (range(x.ndim) if axis is None else np.atleast_1d(axis).tolist()))
    order = [i for i in range(x.ndim) if i not in axes] + axes
    rows = x.transpose(order).reshape((*(x.shape[i] for i in order[: -len(axes)]), -1))
    before = [np.ones(rows.shape[:-1], x.dtype)]
    after = [before[0]]
    for i in range(rows.shape[-1] - 1):
        before.append(before[-1] * rows[..., i])
        after.append(after[-1] * rows[..., -1 - i])
    others = anp.stack([b * a for b, a in zip(before, reversed(after), strict=True)], axis=-1)
    others = others.reshape([x.shape[i] for i in order]).transpose(np.argsort(order).tolist())
    return spread(g, x, axis, keepdims) * others


RULES[np.prod] = (_prod,)

# --- Shapes ---------------------------------------------------------------------------------------------


def _like(g: Any, ans: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """For what only regroups the elements in C order."""
    return g.reshape(x.shape)


def _transpose(g: Any, ans: Any, x: Any, axes: Any = None) -> Any:
    return g.transpose() if axes is None else g.transpose([int(i) for i in np.argsort(np.mod(axes, x.ndim))])


RULES[np.expand_dims] = RULES[np.squeeze] = (_like,)
RULES[np.atleast_1d] = RULES[np.atleast_2d] = RULES[np.atleast_3d] = (_like,)
RULES[np.transpose] = (_transpose,)
RULES[np.swapaxes] = (lambda g, ans, x, axis1, axis2: g.swapaxes(axis1, axis2),)
RULES[np.broadcast_to] = (lambda g, ans, x, shape, **kwargs: unbroadcast(g, x),)

# --- Options without a derivative -----------------------------------------------------------------------

# Neither these rules nor autograd's know of them, and would give another function's derivative.
_ever: Callable[[Any], bool] = lambda option: True  # noqa: E731
_kept_order: Callable[[Any], bool] = lambda order: order in ("A", "K")  # noqa: E731
OVERLOOKED: dict[Any, dict[str, Callable[[Any], bool]]] = {
    np.prod: {"where": _ever, "initial": _ever},
    np.var: {"where": _ever, "mean": _ever, "correction": _ever},
    np.std: {"where": _ever, "mean": _ever, "correction": _ever},
    np.ravel: {"order": _kept_order},
    np.reshape: {"order": _kept_order},
}
