"""NumPy functions written with others, where autograd has no derivative for them, or a wrong or narrow one.

A composite is called with arrays of which some are under differentiation, and is made of NumPy calls that
are recorded one by one. It may return `NotImplemented` to leave the call to the function's derivative after
all. At the end of the file they are entered in the table by the functions that they stand for.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import autograd.numpy as anp
import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from minidiff.tracing.derivatives import COMPOSITES
from minidiff.tracing.kinks import reduced_shape
from minidiff.tracing.record import as_array, derivative

# --- Joining --------------------------------------------------------------------------------------------


def _along(x: Any, axis: int, place: Any) -> tuple[Any, ...]:
    """Index `x` at a place along an axis."""
    return (*(slice(None),) * (axis % x.ndim), place)


def _unjoin(argnums: Any, g: Any, ans: Any, axis: int, *arrays: Any) -> list[Any]:
    ends = [0, *accumulate(array.shape[axis] for array in arrays)]
    return [g[_along(ans, axis, slice(ends[i - 1], ends[i]))] for i in argnums]


@derivative(jointly=_unjoin)
def _join(axis: int, *arrays: Any) -> Any:
    return np.concatenate(arrays, axis)


def _unpile(argnums: Any, g: Any, ans: Any, axis: int, *arrays: Any) -> list[Any]:
    return [g[_along(ans, axis, i - 1)] for i in argnums]


@derivative(jointly=_unpile)
def _pile(axis: int, *arrays: Any) -> Any:
    return np.stack(arrays, axis)


def _concatenate(arrays: Any, axis: int | None = 0, *, dtype: Any = None, casting: Any = "same_kind") -> Any:
    arrays = [as_array(a) for a in arrays]
    if axis is None:
        arrays, axis = [a.reshape(-1) for a in arrays], 0
    return _with_dtype(_join(axis, *arrays), dtype, casting)


def _with_dtype(joined: Any, dtype: Any, casting: Any) -> Any:
    if dtype is None:
        return joined
    if not np.can_cast(joined.dtype, dtype, casting):
        raise TypeError(f"{joined.dtype} cannot be cast to {np.dtype(dtype)} ({casting=})")
    return joined.astype(dtype)


def _stack(arrays: Any, axis: int = 0, *, dtype: Any = None, casting: Any = "same_kind") -> Any:
    arrays = [as_array(a) for a in arrays]
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise ValueError(f"np.stack: all arrays must have the same shape, got {sorted(shapes)}.")
    return _with_dtype(_pile(axis, *arrays), dtype, casting)


def _column(x: Any) -> Any:
    x = as_array(x)
    return x[:, None] if x.ndim == 1 else np.atleast_2d(x)


def _block(arrays: Any) -> Any:
    def depth(x: Any) -> int:
        return 1 + max(map(depth, x)) if isinstance(x, list) else 0

    def rank(x: Any) -> int:
        return max(map(rank, x)) if isinstance(x, list) else np.ndim(x)

    def join(x: Any, level: int) -> Any:
        if level:
            return _concatenate([join(item, level - 1) for item in x], axis=-level)
        return np.reshape(x, (1,) * (ndim - np.ndim(x)) + np.shape(x))

    levels = depth(arrays)
    ndim = max(levels, rank(arrays))
    return join(arrays, levels)


def _select(conditions: Any, choices: Any, default: Any = 0) -> Any:
    if len(conditions) != len(choices):
        raise ValueError(f"np.select: {len(conditions)} conditions, but {len(choices)} choices")
    chosen = default
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        chosen = np.where(condition, choice, chosen)
    dtype = np.result_type(*[getattr(choice, "dtype", choice) for choice in choices], default)
    return chosen.astype(dtype) if dtype.kind in "fc" else chosen


# --- Shapes and places ----------------------------------------------------------------------------------


def _broadcast_arrays(*arrays: Any) -> tuple[Any, ...]:
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    return tuple(np.broadcast_to(a, shape) for a in arrays)


def _meshgrid(*arrays: Any, indexing: str = "xy", **options: Any) -> Any:
    if options.get("sparse") or indexing not in ("xy", "ij"):
        return NotImplemented
    n = len(arrays)
    apart = [np.reshape(a, [-1 if i == j else 1 for j in range(n)]) for i, a in enumerate(arrays)]
    grids = _broadcast_arrays(*apart)
    return tuple(np.swapaxes(a, 0, 1) for a in grids) if indexing == "xy" and n > 1 else grids


def _full_like(
    x: Any,
    fill_value: Any,
    dtype: Any = None,
    order: Any = "K",
    subok: Any = True,
    shape: Any = None,
    **_: Any,
) -> Any:
    filled = np.broadcast_to(as_array(fill_value), x.shape if shape is None else shape)
    return filled.astype(x.dtype if dtype is None else dtype)


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: NotImplemented if len(arrays) == 1 else tuple(map(function, arrays))


def _flip(x: Any, axis: Any = None) -> Any:
    flipped = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    return x[tuple(slice(None, None, -1) if i in flipped else slice(None) for i in range(x.ndim))]


def _repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    x = np.atleast_1d(x)  # as NumPy has it
    n = x.size if axis is None else x.shape[axis]
    return _take(x, np.repeat(np.arange(n), repeats), axis)


def _tile(x: Any, reps: Any) -> Any:
    reps = (*reps,) if np.ndim(reps) else (int(reps),)
    ndim = max(len(reps), x.ndim)
    shape = (1,) * (ndim - x.ndim) + x.shape
    reps = (1,) * (ndim - len(reps)) + reps
    apart = x.reshape([n for size in shape for n in (1, size)])
    repeated = np.broadcast_to(apart, tuple(n for pair in zip(reps, shape, strict=True) for n in pair))
    return repeated.reshape([r * n for r, n in zip(reps, shape, strict=True)])


def _take(x: Any, indices: Any, axis: int | None = None, mode: str | None = "raise") -> Any:
    if mode not in (None, "raise", "wrap", "clip"):
        return NotImplemented
    if axis is None:
        x, axis = x.reshape(-1), 0
    x = np.atleast_1d(x)  # as NumPy has it
    n = x.shape[axis]
    indices = (indices if hasattr(indices, "dtype") else np.asarray(indices)).astype(np.intp)
    if mode == "wrap":
        indices = indices % max(n, 1)
    elif mode == "clip":
        indices = indices.clip(0, max(n - 1, 0))
    return x[_along(x, axis, indices)]


def _take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Any:
    if axis is None:
        return np.ravel(x)[indices]
    axis = normalize_axis_index(axis, x.ndim)
    if indices.ndim != x.ndim:
        raise ValueError(f"np.take_along_axis: {indices.ndim} dimensions of indices, but {x.ndim} of x")
    places = list(np.indices(x.shape, sparse=True))
    places[axis] = indices
    return x[tuple(places)]


def _sort(x: Any, axis: int | None = -1, kind: Any = None, order: None = None, *, stable: Any = None) -> Any:
    if axis is None:
        x, axis = x.reshape(-1), 0
    return _take_along_axis(x, np.argsort(x, axis, kind="stable"), axis)


def _diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    x = np.moveaxis(x, (axis1, axis2), (-2, -1))
    rows, columns = x.shape[-2:]
    i = np.arange(max(0, -offset), max(0, -offset, min(rows, columns - offset)))
    return x[..., i, i + offset]


def _diag(x: Any, k: int = 0) -> Any:
    return _diagonal(x, k) if x.ndim == 2 else NotImplemented


# --- Sums, products and signs ---------------------------------------------------------------------------


def _average(
    x: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False
) -> Any:
    x = as_array(x)
    if weights is None and not returned:
        return np.mean(x, axis=axis, keepdims=keepdims)
    weights = np.ones(x.shape, x.dtype) if weights is None else as_array(weights)
    if weights.shape != x.shape:
        if np.ndim(axis) or axis is None or weights.shape != (x.shape[axis],):
            return NotImplemented
        weights = np.moveaxis(np.broadcast_to(weights, np.moveaxis(x, axis, -1).shape), -1, axis)
    dtype = np.result_type(x.dtype, weights.dtype, *(["f8"] if x.dtype.kind in "biu" else []))
    x, weights = x.astype(dtype), weights.astype(dtype)
    total = np.sum(weights, axis=axis, keepdims=keepdims)
    average = np.sum(x * weights, axis=axis, keepdims=keepdims) / total
    return (average, np.broadcast_to(total, average.shape)) if returned else average


def _trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    y = np.moveaxis(as_array(y), axis, -1)
    if x is not None:
        x = as_array(x)
        dx = np.diff(x if x.ndim == 1 else np.moveaxis(x, axis, -1))
    return np.sum(dx * (y[..., 1:] + y[..., :-1]) / 2, axis=-1)


def _cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Any:
    if axis is None:
        x, axis = np.ravel(x), 0
    products = list(x.swapaxes(0, axis))
    for i in range(1, len(products)):
        products[i] = products[i - 1] * products[i]
    product = np.stack(products).swapaxes(0, axis) if products else x
    return product if dtype is None else product.astype(dtype)


def _sign(z: Any, *args: Any, **options: Any) -> Any:
    z = as_array(z)
    if z.dtype.kind != "c":
        return anp.sign(z, *args, **options)
    return NotImplemented if args or options else z / np.where(z == 0, 1, np.abs(z))


# --- Linear algebra -------------------------------------------------------------------------------------


def _einsum(subscripts: Any, *operands: Any, **options: Any) -> Any:
    if not isinstance(subscripts, str):  # operands and lists of axis numbers, in turn
        inputs, output, _ = anp.parse_einsum_input(subscripts, *operands)
        subscripts, operands = f"{inputs}->{output}", (subscripts, *operands[1::2])[: inputs.count(",") + 1]
    elif not any(isinstance(x, (list, tuple)) for x in operands):
        return NotImplemented
    return np.einsum(subscripts, *map(as_array, operands), **options)


def _kron(x: Any, y: Any) -> Any:
    x, y = as_array(x), as_array(y)
    ndim = max(x.ndim, y.ndim)
    x, y = (a.reshape((1,) * (ndim - a.ndim) + a.shape) for a in (x, y))
    products = x.reshape([n for size in x.shape for n in (size, 1)]) * y.reshape(
        [n for size in y.shape for n in (1, size)]
    )
    return products.reshape([m * n for m, n in zip(x.shape, y.shape, strict=True)])


def _matrix_power(x: Any, n: int) -> Any:
    n = operator.index(n)
    if n < 0:
        return _matrix_power(np.linalg.inv(x), -n)
    if n == 0:
        return np.zeros(x.shape, x.dtype) + np.eye(x.shape[-1], dtype=x.dtype)
    if n == 1:
        return x
    half = _matrix_power(x, n // 2)
    return half @ half @ x if n % 2 else half @ half


def _vector_norm(x: Any, axis: int | None = None, ord: Any = 2, keepdims: bool = False) -> Any:  # noqa: A002
    if axis is None:
        norm = np.linalg.norm(np.ravel(x), ord)
        return np.reshape(norm, reduced_shape(x, None)) if keepdims else norm
    return np.linalg.norm(x, ord, axis, keepdims) if np.ndim(axis) == 0 else NotImplemented


def _from_phase(g: Any, phase: Any, x: Any) -> Any:
    # d phase = i phase dθ with dθ = Im tr(x⁻¹ dx)
    inverse = anp.swapaxes(anp.linalg.inv(x), -1, -2)
    return anp.real(1j * g * phase)[..., None, None] * (-1j * inverse)


@derivative(_from_phase)
def _phase_of_det(x: Any) -> Any:
    return np.linalg.slogdet(x)[0]


_SlogdetResult: Any = type(np.linalg.slogdet(np.eye(1)))


def _slogdet(x: Any) -> Any:
    # autograd takes the sign for constant, which it is of real matrices only.
    if x.dtype.kind != "c":
        return NotImplemented
    return _SlogdetResult(_phase_of_det(x), anp.linalg.slogdet(x)[1])


def _real_only(function: Callable[..., Any]) -> Callable[..., Any]:
    def composite(x: Any, *args: Any, **options: Any) -> Any:
        if x.dtype.kind == "c":
            raise NotImplementedError(
                f"np.linalg.{function.__name__} has no gradient of complex matrices here"
            )
        return NotImplemented

    return composite


# --- Fourier transforms ---------------------------------------------------------------------------------


def _fourier(function: Callable[..., Any], otherwise: Callable[..., Any] | None = None) -> Callable[..., Any]:
    # autograd's derivative knows the default norm by the name None only, and not norm="forward".
    def composite(*args: Any, **options: Any) -> Any:
        given = inspect.signature(function).bind(*args, **options).arguments
        if given.get("norm") == "backward":
            del given["norm"]
            return function(given.pop("a"), **given)
        if given.get("norm") == "forward":
            raise NotImplementedError(
                f"np.fft.{function.__name__} has no gradient with norm='forward'. Divide the result instead."
            )
        return otherwise(*args, **options) if otherwise else NotImplemented

    return composite


def _rfft(x: Any, n: int | None = None, axis: int = -1, norm: Any = None) -> Any:
    # autograd's derivative is for as many points as there are.
    if n is not None and n < x.shape[axis]:
        x = np.take(x, np.arange(n), axis)
    elif n is not None and n > x.shape[axis]:
        x = np.pad(x, [(0, n - m if i == axis % x.ndim else 0) for i, m in enumerate(x.shape)])
    return np.fft.rfft(x, axis=axis, norm=norm) if n is not None else NotImplemented


# --- What stands for what -------------------------------------------------------------------------------


def _solve(A: Any, b: Any) -> Any:
    # autograd's derivative takes a vector for a matrix where A is a stack of matrices.
    b = as_array(b)
    return np.linalg.solve(A, b[..., None])[..., 0] if b.ndim == 1 and np.ndim(A) > 2 else NotImplemented


def _eigh(A: Any, UPLO: Any = "L") -> Any:
    return np.linalg.eigh(A, UPLO.upper()) if UPLO.upper() != UPLO else NotImplemented


def _each_axis_once(function: Callable[..., Any]) -> Callable[..., Any]:
    default = inspect.signature(function).parameters["axes"].default

    def composite(x: Any, s: Any = None, axes: Any = default, norm: Any = None) -> Any:
        if axes is not None and len({a % x.ndim for a in axes}) < len(axes):
            raise NotImplementedError(
                f"np.fft.{function.__name__} has no gradient where an axis comes twice."
            )
        return NotImplemented

    return composite


def _cholesky(x: Any, /, *, upper: bool = False) -> Any:
    if x.dtype.kind == "c" or upper:
        return _real_only(np.linalg.cholesky)(x) if x.dtype.kind == "c" else NotImplemented
    # NumPy reads the lower triangle alone, and takes the rest for its mirror image.
    lower = np.tril(x)
    return anp.linalg.cholesky(lower + np.swapaxes(np.tril(x, -1), -1, -2))


COMPOSITES |= {
    np.append: lambda x, values, axis=None: _concatenate([x, values], axis),
    np.astype: lambda x, dtype, **options: x.astype(dtype),
    np.atleast_1d: _each(np.atleast_1d),
    np.atleast_2d: _each(np.atleast_2d),
    np.atleast_3d: _each(np.atleast_3d),
    np.average: _average,
    np.block: _block,
    np.broadcast_arrays: _broadcast_arrays,
    np.column_stack: lambda arrays: _concatenate([_column(a) for a in arrays], 1),
    np.concatenate: _concatenate,
    np.compress: lambda condition, x, axis=None: np.take(x, np.flatnonzero(condition), axis),
    np.copy: lambda x, order="K", subok=False: x,
    np.dstack: lambda arrays: _concatenate([np.atleast_3d(as_array(a)) for a in arrays], 2),
    np.flip: _flip,
    np.hstack: lambda arrays, **options: _concatenate(
        [np.atleast_1d(as_array(a)) for a in arrays], 0 if np.ndim(arrays[0]) < 2 else 1, **options
    ),
    np.cumprod: _cumprod,
    np.diag: _diag,
    np.diagonal: _diagonal,
    np.einsum: _einsum,
    np.fft.fft2: _each_axis_once(np.fft.fft2),
    np.fft.ifft2: _each_axis_once(np.fft.ifft2),
    np.fft.fftn: _each_axis_once(np.fft.fftn),
    np.fft.ifftn: _each_axis_once(np.fft.ifftn),
    np.fft.irfft: _fourier(np.fft.irfft),
    np.fft.irfft2: _fourier(np.fft.irfft2),
    np.fft.irfftn: _fourier(np.fft.irfftn),
    np.fft.rfft: _fourier(np.fft.rfft, _rfft),
    np.fft.rfft2: _fourier(np.fft.rfft2),
    np.fft.rfftn: _fourier(np.fft.rfftn),
    np.full_like: _full_like,
    np.kron: _kron,
    np.linalg.cholesky: _cholesky,
    np.linalg.eigh: _eigh,
    np.linalg.solve: _solve,
    np.linalg.matrix_power: _matrix_power,
    np.linalg.multi_dot: lambda arrays: functools.reduce(np.matmul, map(as_array, arrays)),
    np.linalg.pinv: _real_only(np.linalg.pinv),
    np.linalg.slogdet: _slogdet,
    np.linalg.trace: lambda x, offset=0: _diagonal(x, offset, -2, -1).sum(-1),
    np.linalg.vector_norm: _vector_norm,
    np.meshgrid: _meshgrid,
    np.ptp: lambda x, axis=None, *, keepdims=False: (
        np.max(x, axis=axis, keepdims=keepdims) - np.min(x, axis=axis, keepdims=keepdims)
    ),
    np.repeat: _repeat,
    np.rot90: lambda m, k=1, **options: anp.rot90(m, operator.index(k), **options),
    np.select: _select,
    np.sign: _sign,
    np.sort: _sort,
    np.stack: _stack,
    np.take: _take,
    np.take_along_axis: _take_along_axis,
    np.tile: _tile,
    np.trace: lambda x, offset=0, axis1=0, axis2=1: _diagonal(x, offset, axis1, axis2).sum(-1),
    np.trapezoid: _trapezoid,
    np.vdot: lambda x, y: np.sum(np.conj(np.ravel(x)) * np.ravel(y)),
    np.vecdot: lambda x, y, axis=-1: np.sum(
        np.conj(np.moveaxis(x, axis, -1)) * np.moveaxis(y, axis, -1), axis=-1
    ),
    np.vstack: lambda arrays, **options: _concatenate(
        [np.atleast_2d(as_array(a)) for a in arrays], **options
    ),
    np.where: lambda condition, *choices: NotImplemented if choices else np.nonzero(condition),
    (np.add, "accumulate"): lambda x, axis=0, dtype=None: np.cumsum(x, axis, dtype),
    (np.add, "reduce"): lambda x, axis=0, **options: np.sum(x, axis, **options),
    (np.multiply, "reduce"): lambda x, axis=0, **options: np.prod(x, axis, **options),
    (np.maximum, "reduce"): lambda x, axis=0, **options: np.max(x, axis, **options),
    (np.minimum, "reduce"): lambda x, axis=0, **options: np.min(x, axis, **options),
}
