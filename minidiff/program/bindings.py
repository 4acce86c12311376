"""What the names are bound to that a function uses, to be compared at every call of its program."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from operator import attrgetter, is_
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from minidiff.interrupts import trying
from minidiff.params import Param, Params, in_dict, in_slots
from minidiff.program.reach import Reach, global_names
from minidiff.program.signature import (
    cells_of,
    held_as_arguments,
    held_by,
    in_class,
    is_known,
    iterated,
    objects_in,
)

__all__ = ["Bindings"]

# At most this many names are compared.
MOST = 1000
_PLAIN = bool, int, float, complex, str, bytes, np.generic
_UNBOUND = AttributeError, LookupError, ValueError  # what reading a name raises then
_NONE = None, None, None  # a row that is not there
_IN_CELL = attrgetter("cell_contents")
_CODE, _DEFAULTS = attrgetter("__code__"), attrgetter("__defaults__")


class Bindings:
    """What the names are bound to that a function uses: variables, attributes, items of lists and dicts.

    Parameters
    ----------
    reach : Reach
        What it reaches.
    args : tuple
        Its arguments. What they hold is not compared: it is part of a program's signature.

    Attributes
    ----------
    changed : str
        The name that was last seen bound to something else; empty for a place in a list.
    """

    def __init__(self, reach: Reach, args: tuple[Any, ...]) -> None:
        self._of_arguments = {id(held) for x in objects_in(args) for held in held_by(x, held_as_arguments)}
        self.changed = ""
        self._reach: Reach | None = reach  # holds what was found, so that no id is given twice
        # What reads each thing, from where, the thing, and its name; by what holds it, and where.
        self._rows = self._read(reach)
        self._bound = list(self._rows.values())

    def _read(self, reach: Reach) -> dict[Any, list[Any]]:
        rows: dict[Any, list[Any]] = {}
        for x in [x for _, x in reach.found if id(x) not in self._of_arguments]:
            with trying():  # what is asked may be of any kind
                some = {}
                for read, key, name in _readings(x, reach):
                    if not issubclass(type(thing := read(key)), ModuleType):
                        some[id(x), _place(read, key)] = [read, key, thing, name]
                if len(rows) + len(some) <= MOST:
                    rows |= some
        return rows

    def add_made(self, reach: Reach) -> None:
        """Compare too what the function has made since of what was not there, or None: it keeps that.

        Not an integer, by which it may count its calls.
        """
        made = [row for at, row in self._read(reach).items() if self._rows.get(at, _NONE)[2] is None]
        if len(self._bound) + len(made) <= MOST:
            self._bound += [row for row in made if type(row[2]) not in (int, type(None))]

    def settle(self) -> None:
        """Leave out what the function itself has bound anew since: it counts its calls."""
        self._reach, self._rows = None, {}
        self._bound = [row for row in self._bound if _is_bound(*row)]

    def have_changed(self) -> bool:
        """Tell whether a name is bound to something else by now: a number or a text, to another one."""
        for row in self._bound:
            read, key, thing, name = row
            try:
                now = read(key)
            except _UNBOUND:
                self.changed = name
                return True
            if now is not thing:
                if not _is_same(now, thing):
                    self.changed = name
                    return True
                row[2] = now
        return False


def _readings(x: Any, reach: Reach) -> Iterator[tuple[Callable[[Any], Any], Any, str]]:
    """Give what reads the things that something holds by names, by what, and the names in use."""
    if isinstance(x, Param):
        return
    if isinstance(x, Mapping) and not isinstance(x, dict) and is_known(type(x)):  # it shows those of another
        yield _items_of, x, ""
    if isinstance(x, FunctionType):
        yield from ((_IN_CELL, cell, name) for name, cell, _ in cells_of(x))
        yield from ((x.__globals__.get, name, name) for name in global_names(x.__code__, x.__globals__))
        yield _CODE, x, x.__name__
        if x.__defaults__:
            yield _DEFAULTS, x, x.__name__
        for held in (x.__kwdefaults__ or {}, vars(x)):
            yield from ((held.get, name, name) for name in held)
    elif isinstance(x, ContextVar):
        yield ContextVar.get, x, x.name
    elif isinstance(x, (type, ModuleType)):
        is_named = reach.is_named_of_module if isinstance(x, ModuleType) else reach.is_named
        named = [name for name, held in vars(x).items() if is_named(name) and _is_users(name, held)]
        yield from ((vars(x).get, name, name) for name in named)
        if isinstance(x, type) and not reach.reads_any:  # a new name may hide that of a base
            yield partial(_has_none, reach.names_read - vars(x).keys()), x, ""
    elif isinstance(x, dict):
        yield from ((partial(dict.get, x), key, key if type(key) is str else "") for key in dict.keys(x))
        yield _in_order, x, ""
    elif isinstance(x, (set, Params)):
        if len(_in_order(x)) <= MOST:
            yield _in_order, x, ""
    elif isinstance(x, (list, deque)):
        kind: Any = list if isinstance(x, list) else deque
        yield from ((partial(kind.__getitem__, x), i, "") for i in range(kind.__len__(x)))
        yield kind.__len__, x, ""
    elif not (reach.reads_any and is_known(type(x))):
        yield type, x, ""  # its class may be set
        if (own := in_dict(x)) is not None:
            named = [name for name in {**own, **dict(in_class(type(x)))} if reach.is_named(name)]
            yield from ((own.get, name, name) for name in named)
            # The names that the loss looks for and that it has not yet.
            absent = None if reach.reads_any else reach.names_read - {*named}
            yield (dict.__len__ if absent is None else absent.isdisjoint), own, ""
        read = partial(object.__getattribute__, x)
        yield from ((read, name, name) for name in in_slots(x) if reach.is_named(name))


def _place(read: Callable[[Any], Any], key: Any) -> Any:
    """Give what tells apart the places in which one thing holds others."""
    held = getattr(read, "__self__", None)
    is_made_anew = held is not None or isinstance(read, partial)  # for each reading
    of = id(held) if isinstance(held, dict) else 0 if is_made_anew else read
    return of, key if type(key) in (str, int) else id(key)


def _has_none(names: frozenset[str], kind: type) -> bool:
    return names.isdisjoint(vars(kind))


def _in_order(x: Any) -> tuple[Any, ...]:
    """Give the keys of a dict, or what is in a set, past an ``__iter__`` of the user's."""
    if isinstance(x, dict):
        return tuple((OrderedDict if isinstance(x, OrderedDict) else dict).keys(x))
    return tuple(x if isinstance(x, Params) else iterated(x))


def _items_of(x: Any) -> tuple[Any, ...]:
    return tuple(x.items())


def _is_users(name: str, x: Any) -> bool:
    """Tell whether it is not what Python itself puts into each class and module."""
    return isinstance(x, FunctionType) or not name.startswith("__")


def _is_bound(read: Callable[[Any], Any], key: Any, x: Any, _: str) -> bool:
    try:
        return _is_same(read(key), x)
    except _UNBOUND:
        return False


def _is_same(x: Any, y: Any) -> bool:
    if x is y or type(x) is not type(y):
        return x is y
    if type(x) is tuple:
        return len(x) == len(y) and (all(map(is_, x, y)) or all(map(_is_same, x, y)))
    return issubclass(type(x), _PLAIN) and repr(x) == repr(y)
