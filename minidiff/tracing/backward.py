"""The way back: from a result to the roots of its trace, latest call first.

A call's derivative is looked up on the way: ours, in `minidiff.tracing.derivatives`, where there is one, else
that of autograd's table. Every rule is made of operations that an outer trace records in turn. That is all
there is to second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heappushpop
from typing import Any

import numpy as np
from autograd.builtins import SequenceBox
from autograd.core import SparseBox, SparseObject, add_outgrads, primitive_vjps
from autograd.tracer import Box

from minidiff.tracing.composites import cast
from minidiff.tracing.derivatives import add_at, scatter
from minidiff.tracing.record import GETITEM, PLAIN, RULES_OF, Traced, described, name_of, typed

__all__ = ["backward"]


def backward(end: Traced, seed: Any, roots: list[Traced]) -> list[Any]:
    """Pull `seed`, the gradient of `end`, back to the roots of its trace.

    Parameters
    ----------
    end : Traced
        The result.
    seed : array
        A gradient of the shape and dtype of the result.
    roots : list of Traced
        The variables asked for.

    Returns
    -------
    list
        For each root its gradient, of its shape and dtype, or None where `end` does not depend on it.
        It may share memory with the seed or with another gradient.
    """
    gradients: dict[Traced, Any] = {end: seed}
    packed: dict[Traced, Any] = {}  # those of tuples and lists, and sparse ones, in autograd's keeping
    private: set[Traced] = set()  # nodes whose entry in `gradients` is an array of this loop's own
    waiting: list[tuple[int, Traced]] = []  # a heap of the nodes that have a gradient
    node = end if end.function is not None else None
    while node is not None:
        g = gradients.pop(node, None)
        if packed:
            g = _with_packed(g, packed.pop(node, None))
        function, value, arguments, keywords = node.function, node._value, node.arguments, node.keywords
        rules: Any = RULES_OF.get(function)
        reached: Traced | None = None  # the latest parent that had no gradient before
        try:
            if function is GETITEM and type(g) not in Box.types:
                rules = (_SCATTER,)
            from_autograd = rules is None
            if from_autograd:
                pulled = primitive_vjps[function](node.argnums, value, arguments, keywords)(g)
                rules = {i: _constantly(typed(h)) for i, h in zip(node.argnums, pulled, strict=True)}
            for i, parent in zip(node.argnums, node.parents):  # noqa: B905  (of one length by construction)
                earlier: Any = gradients.get(parent)
                if earlier is None and parent.function is not None and parent not in packed:
                    if reached is not None:
                        heappush(waiting, (reached.order, reached))
                    reached = parent
                if (rule := rules[i]) is _SCATTER:
                    if type(earlier) in Box.types:
                        gradients[parent] = earlier + scatter(g, parent, arguments[1])
                        continue
                    # Only the elements that were read get a gradient: the time is theirs, not the array's.
                    if parent not in private:
                        earlier = _writeable(earlier, parent._value)
                        private.add(parent)
                    add_at(earlier, arguments[1], g)
                    gradients[parent] = earlier
                    continue
                h = rule(g, value, *arguments, **keywords) if keywords else rule(g, value, *arguments)
                if type(h) not in PLAIN and isinstance(h, _PACKED):
                    packed[parent] = add_outgrads(packed.get(parent), h)
                    continue
                dtype = getattr(parent._value, "dtype", None)  # None: a tuple, or autograd's sparse array
                if from_autograd and dtype is not None:
                    h = _fitted(h, parent)
                if h.dtype is not dtype and dtype is not None:
                    h = cast(h, dtype)
                if earlier is None:
                    gradients[parent] = h
                elif parent in private and type(h) is np.ndarray:
                    gradients[parent] += h
                else:
                    gradients[parent] = total = earlier + h
                    (private.add if type(total) is np.ndarray else private.discard)(parent)
        except np.linalg.LinAlgError:
            raise  # a singular matrix, which has no inverse
        except (KeyError, IndexError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            words = "" if isinstance(error, KeyError) else str(error).rstrip(".")
            reason = f": {words}" if words else ""
            raise NotImplementedError(
                f"{name_of(function)} has no gradient when called with "
                f"{described(arguments, keywords)}{reason}. Write it otherwise."
            ) from error
        if reached is not None:
            node = heappushpop(waiting, (reached.order, reached))[1]
        else:
            node = heappop(waiting)[1] if waiting else None
    return [_with_packed(gradients.get(root), packed.get(root)) for root in roots]


def _fitted(h: Any, parent: Traced) -> Any:
    """Give a derivative of autograd's in the shape of `parent`, and not an array that somebody keeps."""
    if h.shape != parent.shape:
        if parent.size:
            raise ValueError(f"the derivative has shape {h.shape}")
        return np.zeros(parent.shape, parent.dtype)  # an empty array has no other
    return h.copy() if parent.function is None and type(h) is np.ndarray else h


def _with_packed(g: Any, packed: Any) -> Any:
    return g if packed is None else packed[0] if g is None else g + packed[0]


def _writeable(g: Any, x: Any) -> Any:
    """Give the gradient of `x` so far as an array that may be written into."""
    return np.zeros(x.shape, x.dtype) if g is None else np.array(g)


def _constantly(h: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: h


_SCATTER = scatter  # where there are many of them they are added up in place
_PACKED = (tuple, list, dict, SequenceBox, SparseObject, SparseBox)
