"""Many gradients of one result pulled back at once: the rows of a Jacobian.

The rules get an object that stands for all rows, and that answers as one gradient does. A call of NumPy's
with it takes all rows at once where it can, and else one after another. A user's own rule sees one at a time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from inspect import unwrap
from string import ascii_letters
from typing import Any

import autograd.numpy as anp
import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.lib.mixins import NDArrayOperatorsMixin

from minidiff.interrupts import failures
from minidiff.tracing.backward import backward, history
from minidiff.tracing.record import Traced, is_box, map_container, standing_now
from minidiff.tracing.table import COMPOSITES, added, added_at, filled

__all__ = ["by_row", "pull_all"]

FEW = 8  # fewer gradients take less time one after another
MOST = 1 << 20  # elements of one stack of gradients


def pull_all(end: Traced, seeds: Any, roots: list[Traced]) -> list[Any]:
    """Pull many gradients of a result back to the roots of its trace, as `backward` does with one.

    Parameters
    ----------
    end, roots
        As for `backward`.
    seeds : ndarray, shape (n, …)
        The gradients of the result, one behind another, n at least 1.

    Returns
    -------
    list of array
        For each root its n gradients, one behind another.
    """
    calls = history(end)
    at_once = _at_once(end, roots, calls) if len(seeds) >= FEW else 1
    if at_once < FEW:
        return _one_by_one(end, seeds, roots, calls)
    parts = []
    for start in range(0, len(seeds), at_once):
        some = seeds[start : start + at_once]
        try:
            gradients = backward(end, Rows(some.copy()), roots, calls)
            parts.append([_stacked(g, len(some), x) for g, x in zip(gradients, roots, strict=True)])
        except failures():  # a rule cannot take many; if it cannot take one either, this says why
            return _one_by_one(end, seeds, roots, calls)
    return [np.concatenate(stacks) for stacks in zip(*parts, strict=True)]


def _at_once(end: Traced, roots: list[Traced], calls: list[Traced]) -> int:
    """Give how many gradients fit into one stack, or 1 where something else has to see each of them."""
    if end.owner.lines is not None or standing_now() or any(is_box(x._value) for x in (*calls, *roots)):
        return 1
    sizes = [int(x._value.size) for x in calls if hasattr(x._value, "size")]
    return MOST // max([1, *sizes])


def _one_by_one(end: Traced, seeds: Any, roots: list[Traced], calls: list[Traced]) -> list[Any]:
    rows = [backward(end, seed, roots, calls) for seed in seeds]
    stacks = []
    for root, column in zip(roots, zip(*rows, strict=True), strict=True):
        gradients = [np.zeros(root.shape, root.dtype)[()] if g is None else g for g in column]
        if Traced in map(type, gradients) or standing_now():
            stacks.append(np.stack(gradients))
        else:  # only autograd's own functions take its boxes
            stacks.append((anp.stack if any(map(is_box, gradients)) else np.array)(gradients))
    return stacks


def _stacked(g: Any, n: int, root: Traced) -> Any:
    if type(g) is not Rows:
        return np.broadcast_to(0 if g is None else g, (n, *root.shape)).astype(root.dtype)
    if g.shape != root.shape:
        raise ValueError(f"the gradients have the shape {g.shape}")
    return g.stack


class Rows(NDArrayOperatorsMixin):
    """Arrays of one shape and dtype, one behind another, that answer as one of them.

    Parameters
    ----------
    stack : ndarray, shape (n, …)
        The arrays.
    """

    __slots__ = ("stack",)

    def __init__(self, stack: Any) -> None:
        self.stack = stack

    shape = property(lambda self: self.stack.shape[1:])
    ndim = property(lambda self: self.stack.ndim - 1)
    size = property(lambda self: self._example.size)
    dtype = property(lambda self: self.stack.dtype)
    T = property(lambda self: self.transpose())
    real = property(lambda self: Rows(self.stack.real))
    imag = property(lambda self: Rows(self.stack.imag))
    _example = property(lambda self: self.stack[0])  # what `shown` gives

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Any:
        if method == "__call__" and ufunc is np.matmul and not options:
            return _matmul(*operands)
        if method == "__call__" and ufunc.signature is None:
            return _elementwise(ufunc, *operands, **options)
        return _each(ufunc if method == "__call__" else getattr(ufunc, method), operands, options)

    def __array_function__(self, function: Any, types: Any, operands: Any, options: Any) -> Any:
        return _AT_ONCE.get(function, _each_of(function))(*operands, **options)

    @staticmethod
    def __listed__(function: Any, *operands: Any, **options: Any) -> Any:
        at_once = _AT_ONCE.get(function, _each_of(unwrap(function)))
        return at_once(*operands, **options)

    @staticmethod
    def __called__(function: Any, rule: Any, _: int, *operands: Any, **options: Any) -> Any:
        return _each(rule or function, operands, options)

    def __getitem__(self, index: Any) -> Any:
        if _is_plain(index):
            return Rows(self.stack[_deeper(index)])
        return _each(operator.getitem, (self, index), {})

    def __bool__(self) -> bool:
        (answer,) = {*map(bool, self.stack)}  # an error if they disagree
        return answer

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("many gradients at once are no one array")

    def astype(self, dtype: Any, *options: Any, **more: Any) -> Any:
        return Rows(self.stack.astype(dtype, *options, **more))

    def view(self, kind: Any) -> Any:
        return self if kind is np.ndarray else _each(np.ndarray.view, (self, kind), {})

    def copy(self) -> Any:
        return Rows(self.stack.copy())

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        shape = shape if len(shape) != 1 or np.ndim(shape[0]) == 0 else tuple(shape[0])
        if order != "C" or not self.size:
            return _each(np.reshape, (self, shape), {"order": order})
        return Rows(self.stack.reshape((len(self.stack), *shape)))

    def transpose(self, *axes: Any) -> Any:
        axes = axes if len(axes) != 1 or axes[0] is None or np.ndim(axes[0]) == 0 else tuple(axes[0])
        if not axes or axes == (None,):
            axes = tuple(range(self.ndim))[::-1]
        return Rows(self.stack.transpose((0, *self._behind(axes))))

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        return Rows(self.stack.swapaxes(*self._behind((axis1, axis2))))

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return Rows(self.stack.sum(axis=tuple(self._behind(axes)), keepdims=keepdims))

    def cumsum(self, axis: Any = None) -> Any:
        if axis is None:
            return self.reshape(-1).cumsum(0)
        return Rows(self.stack.cumsum(*self._behind((axis,))))

    def _behind(self, axes: Iterable[int]) -> list[int]:
        """Give the places of axes behind that of the rows."""
        return [normalize_axis_index(i, self.ndim) + 1 for i in axes]


def _elementwise(function: Any, *operands: Any, **options: Any) -> Any:
    if options.get("out") is not None:
        raise NotImplementedError(_WRITES)
    ndim = max(map(np.ndim, operands))
    return Rows(function(*[_aligned(x, ndim) for x in operands], **options))


def _aligned(x: Any, ndim: int) -> Any:
    if type(x) is not Rows:
        return x
    return x.stack if x.ndim == ndim else x.stack.reshape((len(x.stack), *(1,) * (ndim - x.ndim), *x.shape))


def _matmul(x: Any, y: Any) -> Any:
    """Multiply vectors or matrices, of which one or both are many."""
    ndims, several = (x.ndim, y.ndim), (type(x) is Rows, type(y) is Rows)
    if min(ndims) > 1:
        if ndims == (2, 2) and several == (True, False):  # one product, not many
            return Rows((x.stack.reshape(-1, x.shape[1]) @ y).reshape(len(x.stack), *x.shape[:1], -1))
        return Rows(_aligned(x, max(ndims)) @ _aligned(y, max(ndims)))
    if max(ndims) > 2 or all(several):
        return _each(np.matmul, (x, y), {})
    if ndims[1] == 1 and several[1]:
        return Rows(y.stack @ x.T)
    return Rows(x.stack @ y if several[0] else x @ y.stack)


def _einsum(subscripts: str, *operands: Any, **options: Any) -> Any:
    terms, output = subscripts.split("->")
    row = next(c for c in ascii_letters if c not in subscripts)
    terms = ",".join([row * (type(x) is Rows) + t for x, t in zip(operands, terms.split(","), strict=True)])
    stacks = [x.stack if type(x) is Rows else x for x in operands]
    return Rows(np.einsum(f"{terms}->{row}{output}", *stacks, **options))


def _added_at(earlier: Any, shape: tuple[int, ...], dtype: Any, index: Any, g: Any) -> Any:
    if not _is_plain(index) or type(g) is not Rows:
        return _each(unwrap(added_at), (earlier, shape, dtype, index, g), {})
    out = np.zeros((len(g.stack), *shape), dtype)
    if earlier is not None:
        out[...] = _aligned(earlier, len(shape))
    out[_deeper(index)] += g.stack
    return Rows(out)


def _is_plain(index: Any) -> bool:
    """Tell whether an index means the same behind that of the row: a bool or an array may not."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is ... or type(i) in (int, slice) for i in parts)


def _deeper(index: Any) -> Any:
    return (slice(None), *(index if isinstance(index, tuple) else (index,)))


def _each(function: Any, operands: Any, options: Any) -> Any:
    """Call a function with one array after another, and give what it gives of all."""
    n = next(_counts((*operands, *options.values())))
    results = [function(*_of(operands, i), **_of(options, i)) for i in range(n)]
    first, last = results[0], results[-1]
    if first is None or (isinstance(first, np.ndarray) and first is last and n > 1):
        raise NotImplementedError(_WRITES)
    if isinstance(first, (np.ndarray, np.generic)):
        return Rows(np.stack(results))
    if any(result != first for result in results):
        raise NotImplementedError("it depends on the gradient what this is")
    return first


_WRITES = "many gradients at once cannot be written into one array"


def by_row(rule: Callable[[Any], list[Any]], g: Any) -> list[Any]:
    """Call a rule of the user's, which gives a list of gradients, with one gradient after another."""
    n = next(_counts((g,)), 0)
    if not n:
        return rule(g)
    return [Rows(np.stack(column)) for column in zip(*[rule(_of(g, i)) for i in range(n)], strict=True)]


COMPOSITES["by row"] = by_row


def _each_of(function: Any) -> Callable[..., Any]:
    return lambda *operands, **options: _each(function, operands, options)


def _counts(x: Any) -> Iterator[int]:
    for item in x:
        if type(item) is Rows:
            yield len(item.stack)
        elif type(item) in (tuple, list):
            yield from _counts(item)


def _of(x: Any, i: int) -> Any:
    return x.stack[i] if type(x) is Rows else map_container(lambda item: _of(item, i), x)


_AT_ONCE: dict[Any, Callable[..., Any]] = {
    np.einsum: _einsum,
    np.where: lambda *operands: _elementwise(np.where, *operands),
    np.real: lambda x: x.real,
    np.imag: lambda x: x.imag,
    np.ndim: lambda x: x.ndim,
    np.shape: lambda x: x.shape,
    np.iscomplexobj: lambda x: x.dtype.kind == "c",
    np.ravel: lambda x: x.reshape(-1),
    np.reshape: lambda x, *shape, **options: x.reshape(*shape, **options),
    np.transpose: lambda x, axes=None: x.transpose(axes),
    np.sum: lambda x, axis=None, keepdims=False: x.sum(axis, keepdims),
    filled: lambda shape, g: Rows(filled((len(g.stack), *shape), _aligned(g, len(shape)))),
    added: lambda x, y: _elementwise(np.add, x, y),
    added_at: _added_at,
}
