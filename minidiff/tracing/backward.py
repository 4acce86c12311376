"""The way back: from a result to the roots of its trace, latest call first.

Every derivative is made of operations that an outer trace records in turn. That is all there is to second
derivatives.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import numpy as np
from autograd.core import add_outgrads, vspace
from autograd.tracer import getval

from minidiff.tracing.record import (
    PLAIN,
    Kept,
    Trace,
    Traced,
    at_its_time,
    call_of,
    is_blank,
    map_container,
    record,
    standing,
    standing_now,
)
from minidiff.tracing.refusals import name_of
from minidiff.tracing.table import (
    AGAIN,
    Nearby,
    Part,
    add_at,
    added,
    added_at,
    cast,
    hooks,
    parameters_of,
    rules_of,
    scatter,
    shown,
    typed,
)


def backward(end: Traced, seed: Any, roots: list[Traced], calls: list[Traced] | None = None) -> list[Any]:
    """Pull `seed`, the gradient of `end`, back to the roots of its trace, by the chain rule.

    Parameters
    ----------
    end : Traced
        The result.
    seed : array
        A gradient of the shape and dtype of the result.
    roots : list of Traced
        The variables asked for.
    calls : list of Traced, optional
        What ``history(end)`` gives, where it is known.

    Returns
    -------
    list
        For each root its gradient, of its shape and dtype, or None where `end` does not depend on it.
        It may share memory with the seed or with another gradient.
    """
    gradients = {end: seed}  # of each call reached so far, the sum of what has come back to it
    stands, watched = standing_now(), end.owner.lines is not None
    own: set[Traced] = set()  # those whose sum nobody else holds: it is added to in place
    calls = history(end) if calls is None else calls
    for call in calls:
        g = gradients.pop(call, None)
        if g is None:  # it went to another call that is the same
            continue
        if type(g) is _Pieces:
            if call.function in ONCE:
                first = [other for other in calls if is_same(other, call)][-1]
                if first is not call:
                    gradients[first] = _Pieces([*(gradients.get(first) or []), *g])
                    continue
            g = g.put_together(call._value)
        value, arguments, keywords = call._value, call.arguments, call.keywords
        if stands:
            value, arguments, keywords = standing(value), standing(arguments), standing(keywords)
        try:
            rules = rules_of(call, g)
            for i, parent in zip(call.argnums, call.parents):  # noqa: B905  (of one length by construction)
                h = rules[i](g, value, *arguments, **keywords) if keywords else rules[i](g, value, *arguments)
                if watched:
                    place = i - (type(call.arguments[0]) is Kept)
                    end.owner.check(call, h, f"gradient by argument {place}")
                dtype = getattr(parent._value, "dtype", None)  # None: a tuple of several results
                if type(h) in _ARRAYS and h.dtype is dtype and parent not in gradients:
                    gradients[parent] = h
                else:
                    if type(h) is Nearby:
                        h = _of_nearby(h, call, g, end, seed)
                    _add(h, parent, gradients, own)
        except np.linalg.LinAlgError:
            raise  # a singular matrix, which has no inverse
        except (LookupError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            raise _without_gradient(call, error) from error
    found = [gradients.get(root) for root in roots]
    return [g.put_together(x._value) if type(g) is _Pieces else g for g, x in zip(found, roots, strict=True)]


def history(end: Traced, until: Iterable[Traced] = ()) -> list[Traced]:
    """List the calls that `end` came from, itself included, latest first, without those at `until`."""
    found = set(until)
    calls = [end] if end.function is not None and end not in found else []
    found |= {end}
    has_changed = end.owner.views is None
    for call in calls:  # which grows meanwhile
        if has_changed:
            call.parents = tuple([at_its_time(parent, call) for parent in call.parents])
        for parent in call.parents:
            if parent.function is not None and parent not in found:
                found.add(parent)
                calls.append(parent)
    calls.sort(key=_order)
    return calls


_order = attrgetter("order")


# Primitives whose results belong together: two of the same calls count as one.
ONCE: set[Any] = set()


def is_same(call: Traced, other: Traced) -> bool:
    """Tell whether two calls do the same, all calls included that led to them."""
    pairs, seen = [(call, other)], set()
    while pairs:
        a, b = pairs.pop()
        if a is b or (id(a), id(b)) in seen:
            continue
        if a.function is None or a.function is not b.function or a.argnums != b.argnums:
            return False
        if not _is_equal(_constants(a), _constants(b)):
            return False
        seen.add((id(a), id(b)))
        pairs += zip(a.parents, b.parents, strict=True)
    return True


def _constants(call: Traced) -> dict[Any, Any]:
    """Give the constants of a call: by place, or for primitives of `ONCE` by name, also where not given."""
    known = parameters_of(call.function.fun) if call.function in ONCE else {}
    names = [*known, *range(len(known), len(call.arguments))]
    given = [None if i in call.argnums else x for i, x in enumerate(call.arguments)]
    return {**known, **dict(zip(names, given, strict=False)), **call.keywords}


def _is_equal(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(_is_equal, x, y))
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_is_equal(x[key], y[key]) for key in x)
    if x is y or type(x) not in PLAIN:
        return x is y
    return np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind in "fc")


def _of_nearby(nearby: Nearby, call: Traced, g: Any, end: Traced, seed: Any) -> Any:
    """Give the weighted mean of the gradients that a call would have had with other results."""
    total: Any = 0
    for weight, result in nearby.results:
        again, root = _again(end, call, result)
        (near,) = backward(again, seed, [root])
        if nearby.is_plain(near):
            return nearby.rule(g, call._value, *call.arguments, **call.keywords)
        total = total + weight * nearby.rule(near, result, *call.arguments, **call.keywords)
    seed, was, is_now = (getval(x) for x in (seed, end._value, _again(end, call, nearby.other)[0]._value))
    pairs = [*zip(g, call._value, strict=True), *zip(near, result, strict=True)]
    amount = sum(np.linalg.norm(np.ravel(getval(h))) * np.linalg.norm(np.ravel(getval(x))) for h, x in pairs)
    tolerance = np.finfo(was.dtype).eps ** 0.4 * (amount + np.abs(np.sum(seed * was)))
    if np.abs(np.sum(seed * (is_now - was))) > tolerance:
        raise NotImplementedError(nearby.words)
    return total


def _again(end: Traced, call: Traced, result: Any) -> tuple[Traced, Traced]:
    """Do the calls from `call` to `end` once more with another result of `call`."""
    root = Trace().root(result)
    done = {other: root for other in history(end) if is_same(other, call)}
    for later in reversed(history(end, until=done)):
        parents = {i: done[p] for i, p in zip(later.argnums, later.parents, strict=True) if p in done}
        if parents:
            values = tuple([parents[i]._value if i in parents else x for i, x in enumerate(later.arguments)])
            if any(map(is_blank, values)):
                raise NotImplementedError(
                    "arrays that change afterwards have no gradient where values are equal"
                )
            function = AGAIN.get(later.function)
            value = function(*values) if function else record(later.function, values, later.keywords)
            done[later] = Traced(
                value, later.function, values, later.keywords, tuple(parents), tuple(parents.values())
            )
    return done[end], root


_ARRAYS = frozenset({np.ndarray, np.float64, np.float32, Traced})


def _add(h: Any, value: Traced, gradients: dict[Traced, Any], own: set[Traced]) -> None:
    """Add `h` to the gradient of `value`."""
    earlier: Any = gradients.get(value)
    dtype = getattr(value._value, "dtype", None)
    if dtype is None or not hasattr(h, "dtype") or type(earlier) is _Pieces:
        _add_piece(typed(h), value, gradients, own)
        return
    if h.dtype is not dtype:
        h = cast(h, dtype)
    if earlier is None:
        gradients[value] = h
    elif value in own and type(h) is np.ndarray and type(earlier) is np.ndarray:
        earlier += h
    elif value in own and type(shown(h)) is np.ndarray:
        gradients[value] = added(earlier, h)  # the same, noted as one call
    else:
        gradients[value] = total = earlier + h
        (own.add if type(shown(total)) is np.ndarray else own.discard)(value)


def _add_piece(h: Any, value: Traced, gradients: dict[Traced, Any], own: set[Traced]) -> None:
    """Add what is not simply an array to the gradient of `value`: a part of one, or a piece for later."""
    x: Any = value._value
    earlier: Any = gradients.get(value)
    if type(h) is Part and type(h[0]) in PLAIN and type(x) in PLAIN and type(earlier) in PLAIN:
        # Only the elements that were read get a gradient: the time goes by their number, not by the array's.
        if value not in own:
            gradients[value] = earlier = np.zeros(x.shape, x.dtype) if earlier is None else np.array(earlier)
            own.add(value)
        add_at(earlier, h[1], h[0])
        return
    apart = Traced in (type(x), type(earlier), type(h) is Part and type(h[0])) or type(earlier) is _Pieces
    if type(h) is Part and not apart and hasattr(x, "dtype") and next(hooks((x, earlier, *h)), None):
        gradients[value] = added_at(earlier, x.shape, x.dtype, h[1], h[0])  # the same, noted as one call
        own.add(value)
        return
    if type(earlier) is not _Pieces:
        gradients[value] = earlier = _Pieces([] if earlier is None else [earlier])
    earlier.append(h)


class _Pieces(list[Any]):
    """What adds up to a gradient: arrays and parts of them; one of several results, or all of them."""

    def put_together(self, x: Any) -> Any:
        """Add them up to the gradient of `x`, an array or several results."""
        g = None
        parts = [h for h in self if type(h) is Part]
        if parts and hasattr(x, "dtype"):
            g = scatter(x.shape, [index for _, index in parts], *[h for h, _ in parts])
        elif parts:
            items: dict[Any, Any] = {}
            for h, i in parts:
                items[i] = add_outgrads((items[i], False) if i in items else None, h)[0]
            zeros = map_container(_nothing, vspace(getval(x)).zeros())
            several = [items.get(i, zero) for i, zero in enumerate(zeros)]
            g = several if isinstance(zeros, list) else tuple(several)
        for h in self:
            if type(h) is not Part:
                g = add_outgrads(None if g is None else (g, False), h)[0]
        return cast(g, x.dtype) if hasattr(x, "dtype") else g


def _nothing(zeros: Any) -> Any:
    """Give the gradient of an unused result: zeros without strides, by which a rule knows that."""
    return np.broadcast_to(np.zeros((), zeros.dtype), zeros.shape) if type(zeros) is np.ndarray else zeros


def _without_gradient(call: Traced, error: Exception) -> NotImplementedError:
    words = str(error).rstrip(".")
    if isinstance(error, LookupError) or (
        isinstance(error, TypeError) and ("argument" in words or "operand" in words)
    ):
        words = ""  # they speak of the inside of the rule, which does not know an option
    reason = f": {words}" if words else ""
    return NotImplementedError(
        f"{name_of(call.function)} has no gradient when called with "
        f"{call_of(call.arguments, call.keywords)}{reason}. Write it otherwise."
    )
