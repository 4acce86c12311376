"""A loss that runs while stand-ins are in the place of its parameters."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

import numpy as np
from autograd.tracer import trace_primitives_map

from minidiff.interrupts import whole
from minidiff.tracing.record import ARRAY, Leaf, Trace, reader
from minidiff.tracing.table import called

T = TypeVar("T")


def standing_for_leaves(stand_in: Callable[[Any, int], Any], f: Callable[[], T]) -> T:
    """Call ``f()`` while ``stand_in(array, id of the leaf)`` stands for each leaf, and for its `value`.

    What minidiff itself reads stays the array, and so does what other threads read. It runs in a context of
    its own, so that however it ends, an interrupt at any place included, no stand-in is left.
    """
    return copy_context().run(_standing_for_leaves, stand_in, f)


def _standing_for_leaves(stand_in: Callable[[Any, int], Any], f: Callable[[], T]) -> T:
    reader.set(stand_in)
    me = _Reading()
    try:
        whole(_begin_reading, me)
        return f()
    finally:
        whole(_end_reading, me)


class _Reading:
    """A recording that runs. It is gone by itself if an interrupt keeps `_end_reading` from being called."""


def _begin_reading(me: _Reading) -> None:
    with _reading:
        if not _asked.issuperset(trace_primitives_map.values()):
            for function, primitive in [*trace_primitives_map.items()]:
                if primitive not in _asked:
                    _let_be_noted(function, primitive)
                    _asked.add(primitive)
        _reading_now.add(me)
        setattr(Leaf, "_array", property(_lifted, ARRAY.__set__))  # noqa: B010 - mypy
        setattr(Leaf, "value", property(_read))  # noqa: B010 - mypy


def _end_reading(me: _Reading) -> None:
    with _reading:
        _reading_now.discard(me)
        if not _reading_now:
            setattr(Leaf, "_array", ARRAY)  # noqa: B010 - mypy
            setattr(Leaf, "value", _VALUE)  # noqa: B010 - mypy


def _let_be_noted(function: Any, primitive: Any) -> None:
    """Let stand-ins note a call that autograd makes of a function that is neither NumPy's nor minidiff's."""
    if isinstance(function, np.ufunc) or str(function.__module__).startswith(_NOT_NOTED):
        return
    cell = primitive.__closure__[primitive.__code__.co_freevars.index("f_raw")]
    cell.cell_contents = lambda *arguments, **keywords: called(function, arguments, keywords)


# The derivative of an integral makes functions that are integrated.
_NOT_NOTED = "numpy", "minidiff.", "autograd.core", "autograd.builtins", "autograd.numpy", "scipy.integrate"
_VALUE: Any = vars(Leaf)["value"]
_reading, _reading_now = threading.Lock(), weakref.WeakSet[_Reading]()
_asked = set[Any]()  # the primitives that `_let_be_noted` has seen


def _lifted(leaf: Leaf) -> Any:
    array, stand_in = ARRAY.__get__(leaf), reader.get()
    if stand_in is None or sys._getframe(1).f_code not in _FOR_THE_LOSS:
        return array
    return stand_in(array, id(leaf))


_FOR_THE_LOSS = {f.__code__ for f in (Leaf.lift, Leaf.in_place, Leaf.to_copy, Trace.roots_of)}


def _read(leaf: Leaf) -> Any:
    stand_in = reader.get()
    if stand_in is None or str(sys._getframe(1).f_globals.get("__name__")).startswith("minidiff."):
        return _VALUE.fget(leaf)
    return stand_in(ARRAY.__get__(leaf), id(leaf))
