"""What the names are bound to that a function uses, to be compared at every call of its program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import attrgetter, is_
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from minidiff.params import Param, in_dict, in_slots
from minidiff.program.reach import Reach, global_names
from minidiff.program.signature import cells_of, held_as_arguments, held_by, in_class, is_known, objects_in

__all__ = ["Bindings"]

# So many are compared at most.
MOST = 1000
_PLAIN = bool, int, float, complex, str, bytes, np.generic
_UNBOUND = AttributeError, LookupError, ValueError  # what reading a name raises then


class Bindings:
    """What the names are bound to that a function uses: variables, attributes, items of lists and dicts.

    Parameters
    ----------
    reach : Reach
        What it reaches.
    args : tuple
        Its arguments. What they hold is not compared: it is part of a program's signature.
    """

    def __init__(self, reach: Reach, args: tuple[Any, ...]) -> None:
        of_arguments = {id(held) for x in objects_in(args) for held in held_by(x, held_as_arguments)}
        self._bound: list[tuple[Callable[[Any], Any], list[Any], list[Any]]] = []
        count = 0
        for x in [x for _, x in reach.found if id(x) not in of_arguments]:
            for read, names in _readings(x, reach):
                pairs = [(name, x) for name in names if not issubclass(type(x := read(name)), ModuleType)]
                count += len(pairs)
                if pairs and count <= MOST:
                    self._bound.append((read, [name for name, _ in pairs], [x for _, x in pairs]))

    def settle(self) -> None:
        """Leave out what the function itself has bound anew since: it counts its calls."""
        for read, names, were in self._bound:
            for i in reversed(range(len(names))):
                if not _is_bound(read, names[i], were[i]):
                    del names[i], were[i]

    def have_changed(self) -> bool:
        """Tell whether a name is bound to something else by now: a number or a text, to another one."""
        try:
            for read, names, were in self._bound:
                if not all(map(is_, map(read, names), were)):
                    now = [*map(read, names)]
                    if not all(map(_is_same, now, were)):
                        return True
                    were[:] = now
        except _UNBOUND:
            return True
        return False


def _readings(x: Any, reach: Reach) -> Iterator[tuple[Callable[[Any], Any], Iterable[Any]]]:
    """Give what reads the things that something holds by names, and those names that the function uses."""
    if isinstance(x, FunctionType):
        yield attrgetter("cell_contents"), [cell for _, cell, _ in cells_of(x)]
        yield x.__globals__.get, global_names(x.__code__, x.__globals__)
    elif isinstance(x, (type, ModuleType)):
        named = [(name, held) for name, held in vars(x).items() if reach.is_named(name)]
        yield vars(x).get, [name for name, held in named if _is_users(name, held)]
    elif isinstance(x, dict):
        yield partial(dict.get, x), [*dict.keys(x)]
        yield len, [x]
    elif isinstance(x, list):
        yield partial(list.__getitem__, x), range(len(x))
        yield len, [x]
    elif not isinstance(x, Param) and not (reach.reads_any and is_known(type(x))):
        if (own := in_dict(x)) is not None:
            of_class = [name for name, held in in_class(type(x)) if not callable(held)]
            yield own.get, filter(reach.is_named, {**own, **dict.fromkeys(of_class)})
        yield partial(object.__getattribute__, x), filter(reach.is_named, in_slots(x))


def _is_users(name: str, x: Any) -> bool:
    """Tell whether it is not what Python itself puts into each class and module."""
    return isinstance(x, FunctionType) or not name.startswith("__")


def _is_bound(read: Callable[[Any], Any], name: Any, x: Any) -> bool:
    try:
        return _is_same(read(name), x)
    except _UNBOUND:
        return False


def _is_same(x: Any, y: Any) -> bool:
    return x is y or (type(x) is type(y) and issubclass(type(x), _PLAIN) and repr(x) == repr(y))
