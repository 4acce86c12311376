"""Arrays that change in place under differentiation.

A change is one recorded call, `assigned`: the array after it, as a function of the array before and of what
was put. The names of the array and of its views go on with the new one (`record.replace`, `record.Stale`).
All other ways to write into an array come down to that.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from minidiff.checks import warn
from minidiff.tracing import methods as methods  # some of which become others here
from minidiff.tracing.calls import WRITING
from minidiff.tracing.derivatives import axes_in_memory
from minidiff.tracing.exact import laid
from minidiff.tracing.record import (
    FLAT,
    GETITEM,
    NO_KEYWORDS,
    PLAIN,
    Stale,
    Traced,
    as_array,
    blank,
    constant,
    innermost,
    is_box,
    is_guarded,
    lift,
    memory_of,
    own_copy,
    record,
    replace,
    retake,
    seen_from,
    set_class,
    settle,
    source_of,
    standing,
    standing_now,
    story_of,
)
from minidiff.tracing.refusals import FILLED, is_called_here, name_of, refuse
from minidiff.tracing.table import COMPOSITES, cast, define, listed, primitive_of, shown, unbroadcast

# --- The array after a change ---------------------------------------------------------------------------

# A place is the order of an array's axes in memory, the way to a view of it (steps of `retake`), and an
# index: NumPy itself writes there, through the view.


def _copied(x: Any) -> Any:
    """Copy an array as it lies in memory, with its gaps: these decide what is a view of it."""
    copy = np.array(x, order="K")
    if x.flags.forc or copy.strides == x.strides or 0 in x.strides:
        return copy
    low, high = np.lib.array_utils.byte_bounds(x)
    memory = np.empty(high - low, np.uint8)
    copy = np.ndarray(x.shape, x.dtype, memory, x.__array_interface__["data"][0] - low, x.strides)
    copy[...] = x
    return copy


def _copied_for(x: Any, place: Any) -> Any:
    """Copy `x` to memory in which the way of the place leads to a view: laid out as `x`, if that will do."""
    order, way, _ = place
    if not way:
        return _copied(x)
    if not x.flags.forc and axes_in_memory(x) == order:
        copy = _copied(x)
        if np.may_share_memory(copy, seen_from(copy, way)):
            return copy
    return np.array(x.transpose(order), order="C").transpose(np.argsort(order))


@listed
def assigned(x: Any, place: Any, w: Any) -> Any:
    """Put `w` at a place of a copy of `x`."""
    out = _copied_for(x, place)
    seen_from(out, place[1])[place[2]] = w
    return out


@listed
def summed(x: Any, place: Any, w: Any) -> Any:
    """Add `w` at a place of a copy of `x`, as many times as its index names an element."""
    out = _copied_for(x, place)
    np.add.at(seen_from(out, place[1]), place[2], w)
    return out


def _seen(g: Any, place: Any) -> Any:
    """Give the part of a gradient that belongs to a place; for an imaginary part that is -Im g."""
    order, way, index = place
    if any(x in ("A", "K") for step in way for x in (*step[2], *step[3].values()) if type(x) is str):
        # Such a step goes by the order of the array in memory.
        g = record(COPIED, (g.transpose(order), "C"), NO_KEYWORDS).transpose(np.argsort(order))
    for step in way:
        g = -retake(step, g) if step[0] is _IMAG else retake(step, g)
    return g[index]


_IMAG = primitive_of(np.imag)


def _fitted(g: Any, w: Any) -> Any:
    return unbroadcast(g.reshape((1,) * (w.ndim - g.ndim) + g.shape), w)


def _of_what_is_put(g: Any, ans: Any, x: Any, place: Any, w: Any) -> Any:
    h, index = _seen(g, place), place[2]
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, np.ndarray) and part.dtype != bool for part in map(shown, parts)):
        h = anp.where(_last(index, seen_from(blank(ans), place[1]).shape), h, np.zeros((), h.dtype))
    return _fitted(h, w)


@listed
def _last(index: Any, shape: tuple[int, ...]) -> Any:
    """Tell which of the values put at `index` stay: where an element is named twice the last one does."""
    who = np.zeros(shape, int)
    number = np.arange(who[index].size).reshape(who[index].shape)
    who[index] = number
    return who[index] == number


def _of_assigned(argnums: Any, g: Any, ans: Any, x: Any, place: Any, w: Any) -> list[Any]:
    """Give both gradients; that of `w` is read first, so that a program can write over `g`."""
    put = own_copy(_of_what_is_put(g, ans, x, place, w)) if 2 in argnums else None
    return [record(ASSIGNED, (g, place, 0.0), NO_KEYWORDS) if i == 0 else put for i in argnums]


ASSIGNED: Any = define(assigned, _of_assigned)
ADDED = define(
    summed, (lambda g, ans, x, place, w: g, None, lambda g, ans, x, place, w: _fitted(_seen(g, place), w))
)
COPIED = define(lambda x, order: x.copy(order), (lambda g, ans, x, order: g,))
MADE = primitive_of(np.positive)  # made of nothing: it has no parents

# --- The change of a name -------------------------------------------------------------------------------


def _settled(x: Traced) -> tuple[Traced, tuple[Any, ...]]:
    """Give the array that `x` is a view of, and the way to it, once all views are known."""
    trace = x.owner
    if trace.views is not None:
        pending, trace.views = trace.views, None
        for view in [view for reference in pending if (view := reference()) is not None]:
            settle(view)
    return source_of(x)


def _changeable(x: Traced) -> tuple[Traced, tuple[Any, ...]]:
    """Give the array that a change of `x` changes, and the way from it to `x`; refuse what is no result."""
    root, way = _settled(x)
    if root.function is None:
        refuse(
            "Changing in place what is differentiated by (a parameter, an argument, or a view of it)",
            "Take a copy first, b = x.copy(), and change that; or make a new array (b = b + …, np.sort).",
            is_sure=True,
        )
    if any(getattr(step, "fun", None) is np.real_if_close for step, *_ in way):  # which goes by the values
        refuse("A change through np.real_if_close", "Take a copy of what it gives.", is_sure=True)
    _refuse_read_only(root, ())  # for a view NumPy says so when it writes
    return root, way


def _refuse_read_only(root: Traced, way: tuple[Any, ...]) -> None:
    """Refuse to write into what NumPy has read-only; an array that a guard holds is not."""
    memory = memory_of(root)
    if not isinstance(memory, np.ndarray) or not memory.size:
        return
    if is_guarded(memory):
        memory = memory.copy(order="K")
    if not seen_from(memory, way).flags.writeable:
        raise ValueError("the array to be changed is read-only: take a copy first, b = x.copy().")


def _references(x: Any) -> int:
    value = x._value
    return sys.getrefcount(value)


_ALONE = _references(SimpleNamespace(_value=np.zeros(1)))
_WRITTEN = {ASSIGNED, ADDED, COPIED, MADE}  # their results are ours alone, and no rule reads them


def _change(x: Traced, index: Any, w: Any, function: Any = ASSIGNED) -> None:
    """Do ``x[index] = w`` for all names and views of `x`."""
    if not isinstance(getval(x), np.ndarray):
        raise TypeError(f"'{type(getval(x)).__name__}' object does not support item assignment")
    if x.function is FLAT:
        _set_flat(x.parents[0], index, w)
        return
    root, way = _changeable(x)
    index = _kept(constant(index))
    if function is ASSIGNED:
        _refuse_overtaken(root, way, index, lift(w))
    w = as_array(lift(w))
    if w.dtype.kind == "c" != x.dtype.kind:
        raise TypeError(f"a complex value cannot be put into an array of {x.dtype}: take np.real of it.")
    if type(w) is Traced:
        if function is ASSIGNED and any(step[0] is _windows for step in way):
            _refuse_overlapping(root, way, index)
        if w._trace > x._trace:
            refuse(
                "Assignment of what an inner gradient computes into an array of an outer one",
                "Make the array in the inner loss, or return the value from it and assign outside.",
                is_sure=True,
            )
        if function is ASSIGNED and _is_there_already(root, way, index, w):
            return
        index, w = _without_mask(x, index, w, function)
    _put_value(root, way, index, w, function)


def _is_there_already(root: Traced, way: Any, index: Any, w: Traced) -> bool:
    """Tell whether it is the second half of ``x[index] += …``, which has changed x."""
    of, taken = source_of(w)
    if of is root and type(index) is int and is_called_here("shuffle"):
        # It swaps the rows of anything but an ndarray as if they were no views.
        refuse("shuffle() of an array under differentiation", "")
    is_part = of is root and w.function is GETITEM and type(index) in (int, slice, tuple, type(...))
    return bool(is_part and repr((taken[:-1], w.arguments[1])) == repr((way, index)))


def _without_mask(x: Traced, index: Any, w: Any, function: Any) -> tuple[Any, Any]:
    """Give index and value of an assignment of one number by a mask as those of a whole array.

    So a program need not know to how many elements it is assigned.
    """
    if type(index) is tuple and len(index) == 1 and hasattr(index[0], "ndim"):
        (index,) = index
    n = getattr(index, "ndim", 0)
    is_mask = n and index.dtype.kind == "b" and index.shape == x.shape[:n]
    if is_mask and n == x.ndim and w.ndim:
        _apart_from(x, w, "Assignment by a mask")
    if is_mask and w.ndim == 0 and function is ASSIGNED:
        return ..., np.where(index.reshape(index.shape + (1,) * (x.ndim - n)), w, x)
    return index, w


def _put_value(root: Traced, way: Any, index: Any, w: Any, function: Any) -> None:
    """Put a value into an array, or add it, and let all names go on with what comes of it."""
    is_free = root.function in _WRITTEN and _references(root) == _ALONE
    value: Any = root._value
    place = axes_in_memory(memory_of(value)), way, index
    put = w._value if type(w) is Traced and w.owner is root.owner else w
    nothing = blank(value) if type(value) is np.ndarray else value
    if type(value) is np.ndarray and type(put) in PLAIN:
        is_free = is_free and value.base is None and value.flags.writeable
        out = value if is_free else _copied(value)
        if function is ASSIGNED:
            seen_from(out, way)[index] = put
        else:
            np.add.at(seen_from(out, way), index, put)
        argnums, parents = ((0,), (root,)) if put is w else ((0, 2), (root, w))
        new: Any = Traced(out, function, (nothing, place, put), NO_KEYWORDS, argnums, parents)
    else:
        new = record(function, (root, place, w), NO_KEYWORDS)
    _go_on(root, new, nothing if root.function in _WRITTEN else value)


def _refuse_overlapping(root: Traced, way: Any, index: Any) -> None:
    """Refuse an assignment through windows that puts more than one value into an element."""
    elements = np.ravel(seen_from(np.arange(root.size).reshape(root.shape), way)[index])
    if len(np.unique(elements)) < len(elements):
        raise NotImplementedError(
            "Assignment through windows that overlap has no gradient: assign to the array itself."
        )


def _refuse_overtaken(root: Traced, way: Any, index: Any, w: Any) -> None:
    """Refuse views of the array itself that NumPy, as it goes along, reads where it has written already.

    So it does along one axis, and of a list item by item; else it takes a copy first.
    """
    memory: Any = getval(root)
    ways = [taken for of, taken in map(source_of, _parts_of(w)) if of is root]
    if type(memory) is not np.ndarray or not ways:
        return
    target, is_list = seen_from(memory, way)[index], isinstance(w, (list, tuple))
    if not is_list and (np.ndim(target) != 1 or target.strides == constant(w).strides[-1:]):
        return
    place = target if np.may_share_memory(target, memory) else seen_from(memory, way)  # for a list of places
    if not any(np.shares_memory(place, seen_from(memory, taken)) for taken in ways):
        return
    before = np.empty_like(memory, complex if memory.dtype.kind == "c" else float)
    before.flat[:] = np.arange(memory.size)
    at_once, along = before.copy(order="K"), before.copy(order="K")

    def read(x: Any, now: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [read(item, now) for item in x]
        of, taken = source_of(x)
        return seen_from(now, taken) if of is root else np.zeros(np.shape(constant(x)))

    for after, now in ((at_once, before), (along, along)):
        seen_from(after, way)[index] = read(w, now)
    if not np.array_equal(at_once, along):
        raise NotImplementedError(
            "Assignment from an array into its own memory: take a copy first, b[:, 2] = b[1].copy(). Here "
            "NumPy reads what it has just written."
        )


def _parts_of(w: Any) -> list[Any]:
    return [part for item in w for part in _parts_of(item)] if isinstance(w, (list, tuple)) else [w]


def _go_on(root: Traced, new: Traced, value: Any) -> None:
    """Let a name and those of its views go on with the array after a change."""
    replace(root, new, value)
    story = story_of(root)
    views, story.views = story.views, []
    for reference in views:
        if (view := reference()) is not None:
            set_class(view, Stale)


def _kept(index: Any) -> Any:
    """Copy an index, which may be refilled before the way back."""
    if isinstance(index, tuple):
        return tuple(map(_kept, index))
    if isinstance(index, list):
        return as_array(index) if index else np.zeros(0, int)
    return np.array(index) if type(index) is np.ndarray else index


def _become(x: Traced, new: Any, do: Callable[[Any, Any], Any], function: Any = None) -> None:
    """Let `x` hold `new`, as an augmented assignment or ``out=`` does; `do` does it as in `_exactly`.

    `function` has computed `new`; None if elements were only moved.
    """
    root, way = _changeable(x)
    old: Any = shown(root._value)
    value: Any = shown(new._value) if type(new) is Traced and new.owner is x.owner else None
    is_like = not way and type(old) is type(value) is np.ndarray and value.base is None
    if is_like and (old.shape, old.dtype, old.strides) == (value.shape, value.dtype, value.strides):
        _go_on(x, new, root._value)  # nobody else holds the result of an operator
    else:
        _exactly(x, do, lambda: _change(x, ..., new), function, new)


# For real numbers these have one right result, whatever the layout in memory. For complex numbers they have
# not: even the order of the factors matters.
EXACT = {
    np.add, np.subtract, np.multiply, np.divide, np.negative, np.absolute, np.maximum, np.minimum, np.sqrt,
    np.square,
}  # fmt: skip


def _rounds_alike(function: Any, x: Any, new: Any = None) -> bool:
    """Tell whether NumPy rounds a result alike in the memory of `x`, and in that of `new` if there is one."""
    x, new = shown(constant(x)), shown(constant(new))
    if function is None or x.size < 2 or (function in EXACT and x.dtype.kind != "c"):
        return True
    if new is None or np.shape(new) != x.shape:
        return False
    return all(n == 1 or s == t for n, s, t in zip(x.shape, x.strides, new.strides, strict=True))


def _exactly(
    x: Traced, do: Callable[[Any, Any], Any], change: Callable[[], None], function: Any, new: Any = None
) -> None:
    """Make a change with the errors that NumPy has, and rounded as it rounds in memory of this layout.

    ``do(exact, plain)`` makes it in a plain array; `plain` gives the plain values of operands. Those that are
    views of the same array lie beside `exact`, as NumPy goes by that as well.
    """
    root, way = source_of(x)
    memory: Any = getval(root)
    exact = None
    if type(memory) is np.ndarray:
        copy = _copied(memory)

        def plain(operand: Any) -> Any:
            of, taken = source_of(operand := lift(operand))
            return seen_from(copy, constant(taken)) if of is root else constant(operand)

        do(exact := seen_from(copy, way), plain)
    elif standing_now() and not _rounds_alike(function, x, new):
        memory.refuse(
            f"the last bit of a change in place by {name_of(function)} may depend on how the array lies in "
            "memory. Compute the new values first, and assign them: v = np.exp(x[::2]); x[::2] = v"
        )
    change()
    if exact is not None and type(root._value) is np.ndarray:
        seen_from(root._value, way)[...] = exact


# --- Ways to write into an array ------------------------------------------------------------------------


def _check_recorded(x: Any, what: str) -> None:
    """Refuse to write recorded values into a plain array."""
    if type(x) is not Traced:
        refuse(
            f"{what} with recorded values into a plain array (out= and the like)",
            f"{FILLED} Or write b = b + …, which is new.",
            is_sure=True,
        )


def _method(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
        if self.owner.open:
            return change(self, *args, **kwargs)
        return getattr(_left(self, name), name)(*args, **kwargs)

    return method


def _left(x: Traced, name: str) -> Any:
    """Give what is left of an array when its gradient has ended, if it can be changed."""
    if is_box(living := lift(x)):
        what = f"A change ({name}) of an array of a gradient that has ended"
        refuse(what, "Take a copy first, b = x.copy().", is_sure=True)
    return living


def _augmented(
    operate: Callable[[Any, Any], Any], in_place: Callable[[Any, Any], Any], ufunc: Any
) -> Callable[..., Any]:
    def method(self: Traced, other: Any) -> Any:
        is_array = isinstance(getval(self), np.ndarray)
        # autograd's own derivatives write x += y for x = x + y, and NumPy has it so of x.flat.
        of = str(sys._getframe(1).f_globals.get("__name__"))
        if not is_array or self.function is FLAT or of.startswith("autograd."):
            return NotImplemented
        if not self.owner.open:
            in_place(_left(self, f"__{in_place.__name__}__"), other)
            return self
        if getattr(type(other), "__array_ufunc__", self) is None:
            in_place(np.zeros(0), other)  # NumPy refuses this: it leaves only `x + other` to the other
        new = operate(self, other)
        if not hasattr(new, "dtype"):
            return new
        _become(self, new, lambda exact, plain: in_place(exact, plain(other)), ufunc)
        return self

    return method


@listed
def numbered(name: str, shape: tuple[int, ...], of: tuple[int, ...], where: Any, *options: Any) -> Any:
    """Tell for each element of an array the number of the value that NumPy puts there, or -1.

    `name` is the function that puts, `of` the shape of the values.
    """
    numbers = np.full(shape, -1)
    values = np.arange(np.prod(of, dtype=int)).reshape(of)
    if name == "flat":
        numbers.flat[where] = values
    elif name == "copyto":
        np.copyto(numbers, values, where=where)
    elif name == "fill_diagonal":
        np.fill_diagonal(numbers, values, where)
    else:
        getattr(np, name)(numbers, where, values, *options)
    return numbers


def _put_by(name: str, x: Traced, w: Any, where: Any, *options: Any) -> None:
    """Put values where NumPy puts their numbers."""
    _refuse_read_only(*_settled(x))
    w = as_array(lift(w))
    where = constant(where)
    numbers = numbered(name, x.shape, w.shape, where, *options)
    is_put = numbers >= 0
    if isinstance(where, (np.ndarray, np.generic)):  # a program need not know how many; the bits agree
        if w.size:
            _change(x, ..., np.where(is_put, standing(np.ravel(w))[np.maximum(numbers, 0)], x))
    elif is_put.any():
        _change(x, is_put, np.ravel(w)[numbers[is_put]])


def _apart_from(x: Traced, w: Any, what: str) -> None:
    """Refuse values that NumPy would read while it writes over them."""
    root, way = _changeable(x)
    memory = memory_of(root)
    for part in w if isinstance(w, (list, tuple)) else (w,):
        of, taken = source_of(part)
        if of is root and np.may_share_memory(*(seen_from(memory, constant(how)) for how in (way, taken))):
            raise NotImplementedError(f"{what} from an array into its own memory: take a copy first.")


def _set_flat(x: Traced, index: Any, w: Any) -> None:
    _apart_from(x, lift(w), "Assignment to .flat")
    _put_by("flat", x, w, index)


def _fill(x: Traced, value: Any) -> None:
    if np.ndim(value):
        raise ValueError(f"fill: the value must be one number, got the shape {np.shape(value)}.")
    _change(x, ..., np.reshape(value, ()))


def _copyto(x: Traced, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    src = as_array(lift(src))
    _refuse_overtaken(*_settled(x), ..., src)
    if not np.can_cast(src.dtype, x.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"np.copyto: {src.dtype} cannot be cast to {x.dtype} by the rule {casting!r}.")
    _put_by("copyto", x, src, where)


def _put(x: Traced, ind: Any, v: Any, mode: Any = "raise") -> None:
    _put_by("put", x, v, ind, mode)


def _place(x: Traced, mask: Any, vals: Any) -> None:
    _apart_from(x, lift(vals), "np.place")
    _put_by("place", x, vals, mask)


def _putmask(x: Traced, mask: Any, values: Any) -> None:
    _put_by("putmask", x, values, mask)


def _put_along_axis(x: Traced, indices: Any, values: Any, axis: Any) -> None:
    _put_by("put_along_axis", x, values, indices, axis)


def _fill_diagonal(x: Traced, val: Any, wrap: bool = False) -> None:
    _apart_from(x, lift(val), "np.fill_diagonal")
    _put_by("fill_diagonal", x, val, wrap)


def _at(ufunc: Any, x: Any, index: Any, *w: Any) -> None:
    """Do ``ufunc.at``: sums at once, all else in rounds that meet each element once."""
    _check_recorded(x, f"np.{ufunc.__name__}.at")
    if ufunc in (np.add, np.subtract):
        _change(x, index, as_array(lift(w[0])) if ufunc is np.add else -as_array(lift(w[0])), ADDED)
        return
    places = np.ravel(np.arange(x.size).reshape(x.shape)[constant(index)])
    shape = np.empty(x.shape)[constant(index)].shape
    values = [np.broadcast_to(as_array(lift(v)), shape).flatten() for v in w]  # as they are before all rounds
    order = np.argsort(places, kind="stable")
    found, first, count = np.unique(places[order], return_index=True, return_counts=True)
    if ufunc in _BEST:  # at each place only the best value counts
        places, values, turn = found, [ufunc.reduceat(values[0][order], first)], np.zeros(found.size, int)
    else:
        turn = np.empty(places.size, int)
        turn[order] = np.arange(places.size) - np.repeat(first, count)

    def change() -> None:
        for i in range(int(turn.max(initial=-1)) + 1):
            now = np.unravel_index(places[turn == i], x.shape)
            _change(x, now, ufunc(x[now], *[v[turn == i] for v in values]))

    _exactly(x, lambda exact, plain: ufunc.at(exact, constant(index), *map(plain, w)), change, ufunc)


_BEST = {np.maximum, np.minimum, np.fmax, np.fmin}
_BOUNDS = {"min", "max", "a_min", "a_max"}  # of np.clip
# These write piece after piece, also over what they have not read yet.
_PIECEWISE = {np.concatenate, np.stack, np.vstack, np.hstack, np.dstack, np.column_stack, np.ptp, np.vecdot}


def _out(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do a call with ``out=`` and something recorded."""
    (out,) = outs if isinstance(outs := kwargs["out"], tuple) and len(outs) == 1 else (outs,)
    if isinstance(out, tuple):
        raise NotImplementedError(
            f"{name_of(function)} has no gradient with several arrays in out=. Assign the results instead."
        )
    _check_recorded(out, name_of(function))
    rest = {key: x for key, x in kwargs.items() if key != "out"}
    if function in _PIECEWISE:
        for arg in (*args, *rest.values()):
            _apart_from(out, arg, f"{name_of(function)} with out=")

    def do(exact: Any, plain: Any) -> None:
        function(*map(plain, args), **{key: plain(x) for key, x in rest.items()}, out=exact)

    is_elementwise = function is np.clip or (isinstance(function, np.ufunc) and function.signature is None)
    if is_elementwise and "where" in rest:
        where = np.broadcast_to(constant(rest["where"]), out.shape)

        def some(x: Any) -> Any:
            return np.broadcast_to(x, out.shape)[where] if np.ndim(x) else x

        parts = [*map(some, args)]
        others = {key: some(x) if key in _BOUNDS else x for key, x in rest.items() if key != "where"}
        _exactly(out, do, lambda: _change(out, where, function(*parts, **others)), function)
    elif isinstance(function, np.ufunc):
        _become(out, as_array(function(*args, **rest)), do, function)
    else:  # the result may be an array that somebody holds
        result = as_array(function(*args, **rest))
        if result.ndim > out.ndim:  # NumPy's running sums end the process if out has no axis
            raise ValueError(f"{name_of(function)}: the result has {result.ndim} axes, out= {out.ndim}.")
        if result.shape != out.shape and "cum" in function.__name__:  # running sums of one number fill a part
            raise ValueError(f"{name_of(function)}: the result has shape {result.shape}, out= {out.shape}.")
        _exactly(out, do, lambda: _change(out, ..., result), function, result)
    return out


def _first(function: Any, change: Callable[..., Any]) -> Callable[..., Any]:
    """Make the composite of a NumPy function that changes its first argument."""

    def composite(x: Any, *args: Any, **options: Any) -> None:
        _check_recorded(x, name_of(function))
        change(x, *args, **options)

    return composite


def _as_array_of_its_own(x: Any) -> Any:
    x = as_array(x)
    return x if x.ndim or isinstance(x, np.ndarray) else x[...]  # a number becomes an array without axes


_WRITERS: dict[Any, Callable[..., Any]] = {
    np.copyto: _copyto, np.put: _put, np.place: _place, np.putmask: _putmask,
    np.put_along_axis: _put_along_axis, np.fill_diagonal: _fill_diagonal,
}  # fmt: skip
WRITING.update(_WRITERS)
COMPOSITES |= {function: _first(function, change) for function, change in _WRITERS.items()}
COMPOSITES |= {
    "out": _out, (np.ufunc, "at"): _at,
    np.copy: lambda x, order="K", subok=False: record(COPIED, (_as_array_of_its_own(x), order), NO_KEYWORDS),
}  # fmt: skip


def _ordered(name: str) -> Callable[..., None]:
    return lambda x, *args, **options: _become(
        x, getattr(np, name)(x, *args, **options), lambda exact, _: getattr(exact, name)(*args, **options)
    )


_METHODS: dict[str, Callable[..., Any]] = {
    "__setitem__": _change, "fill": _fill, "put": _put, **{i: _ordered(i) for i in ("sort", "partition")},
}  # fmt: skip
for _name, _do in _METHODS.items():
    setattr(Traced, _name, _method(_name, _do))

_UFUNCS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
for _name, _ufunc in _UFUNCS.items():
    _operate, _in_place = (getattr(operator, f"__{i}{_name}__") for i in ("", "i"))
    setattr(Traced, f"__i{_name}__", _augmented(_operate, _in_place, _ufunc))


def _set_imaginary(x: Traced, w: Any) -> None:
    if x.dtype.kind != "c":
        raise TypeError("an array of real numbers has no imaginary part to set.")
    _change(x.imag, ..., as_array(lift(w)))


def _fixed(name: str, instead: str) -> Callable[[Any, Any], NoReturn]:
    return lambda x, w: refuse(f"Assignment to .{name} of a value under differentiation", instead)


_ATTRIBUTES: dict[str, Callable[[Any, Any], None]] = {
    "flat": lambda x, w: _set_flat(x, ..., w), "real": lambda x, w: _change(x.real, ..., as_array(lift(w))),
    "imag": _set_imaginary,
    # They say how the memory is read.
    "shape": _fixed("shape", "Write b = b.reshape(shape)."),
    "dtype": _fixed("dtype", "Write b = b.astype(dtype)."),
    "strides": _fixed("strides", "Write b = b.reshape(shape) or b = b.transpose(axes)."),
}  # fmt: skip


def _setter(name: str, change: Callable[[Any, Any], None]) -> Callable[[Traced, Any], None]:
    def assign(self: Traced, w: Any) -> None:
        if self.owner.open:
            change(self, w)
        else:
            setattr(lift(self), name, w)

    return assign


for _name, _do in _ATTRIBUTES.items():
    setattr(Traced, _name, getattr(Traced, _name).setter(_setter(_name, _do)))

# --- Copies, and arrays that are made to be filled ------------------------------------------------------


def _copy(self: Traced, order: str = "C") -> Any:
    return record(COPIED, (self, order), NO_KEYWORDS)


Traced.copy = _copy
Traced.__copy__ = lambda self: _copy(self, "K")
Traced.__deepcopy__ = lambda self, _: _copy(self, "K")
Traced.flatten = lambda self, order="C": _copy(self.ravel(order))


def _astype(self: Traced, dtype: Any, *args: Any, **options: Any) -> Any:
    kind = np.dtype(dtype).kind
    if kind in "OV" and self.owner.open:
        refuse(f"astype({np.dtype(dtype)})", "Neither objects nor records have a gradient.")
    if args or options or kind not in "fc":
        plain = getval(self).astype(dtype, *args, **options)  # where NumPy refuses options, it says so
        if plain.dtype.kind not in "fc":
            return plain
        if plain is getval(self):  # with copy=False, where nothing is to be converted
            return self
    elif self.dtype.kind == "c" != kind:
        warn("astype drops the imaginary part: write x.real", np.exceptions.ComplexWarning)
    result, order = cast(self, np.dtype(dtype)), args[0] if args else options.get("order", "K")
    return result if order == "K" else laid(result, order, self)


Traced.astype = _astype


def _made(function: Callable[..., Any], x: Any, *args: Any, **options: Any) -> Any:
    """Make an array of the innermost running gradient, to which recorded values may be assigned."""
    array, trace = function(constant(x), *args, **options), innermost.get() or getattr(x, "owner", None)
    if trace is None or not trace.open or shown(array).dtype.kind not in "fc":
        return array
    return Traced(array, MADE, (), NO_KEYWORDS, (), (), trace)


def made_zeros(shape: Any, dtype: Any) -> Any:
    """Make zeros, which a running gradient may fill."""
    trace = innermost.get()
    if trace is None:
        return np.zeros(shape, dtype)
    variable = next(iter(trace._leaves.values()), None)
    if variable is None:
        if standing_now():
            raise TypeError(
                "functions.zeros in a function that is compiled by its arguments: write "
                "np.zeros_like(x, shape=n), of an argument x."
            )
        return _made(lambda _: np.zeros(shape, dtype), None)
    return _made(np.zeros_like, variable, shape=shape, dtype=dtype)


def _full_like(x: Any, fill_value: Any, dtype: Any = None, order: Any = "K", **options: Any) -> Any:
    filled = as_array(fill_value)
    if not is_box(filled):
        return _made(np.full_like, x, filled, dtype, order, **options)
    shape = options.get("shape")
    filled = np.broadcast_to(filled, x.shape if shape is None else shape)
    model = np.empty_like(shown(constant(x)), int, order, shape=shape)
    return laid(filled.astype(x.dtype if dtype is None else dtype), "K", model)


COMPOSITES |= {
    np.zeros_like: partial(_made, np.zeros_like), np.ones_like: partial(_made, np.ones_like),
    np.empty_like: partial(_made, np.zeros_like), np.full_like: _full_like,
}  # fmt: skip

# --- Views that are composites of ours ------------------------------------------------------------------


_windows: Any = np.lib.stride_tricks.sliding_window_view
_windows_copied = COMPOSITES[_windows]


def _windows_as_view(x: Any, *args: Any, **options: Any) -> Any:
    """Note that what the composite gives is a view, as it is in NumPy."""
    result = _windows_copied(x, *args, **options)
    if type(x) is Traced and type(result) is Traced:
        root, way = _settled(x)
        if root.function is not None:
            story_of(result).source = root, (*way, (_windows, 0, (None, *args), options))
            story_of(root).views.append(weakref.ref(result))
    return result


COMPOSITES[_windows] = _windows_as_view
