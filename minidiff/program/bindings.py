"""What the names are bound to that a function uses, to be compared at every call of its program."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from operator import is_
from types import FunctionType, MappingProxyType, ModuleType
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

    Attributes
    ----------
    changed : str
        The name that was last seen bound to something else; empty for a place in a list.
    """

    def __init__(self, reach: Reach, args: tuple[Any, ...]) -> None:
        of_arguments = {id(held) for x in objects_in(args) for held in held_by(x, held_as_arguments)}
        # By what reads them: what holds the things, by which names, and the things. A list each: so they are
        # compared in one go.
        self._bound: dict[Callable[[Any, Any], Any], tuple[list[Any], list[Any], list[Any]]] = {}
        self._count, self.changed = 0, ""
        for x in [x for _, x in reach.found if id(x) not in of_arguments]:
            with suppress(Exception):  # what is asked may be of any kind
                for reading in _readings(x, reach):
                    self._add(*reading)

    def _add(self, read: Callable[[Any, Any], Any], holder: Any, names: Iterable[Any]) -> None:
        pairs = [(name, x) for name in names if not issubclass(type(x := read(holder, name)), ModuleType)]
        if self._count + len(pairs) > MOST:
            return
        self._count += len(pairs)
        holders, its_names, things = self._bound.setdefault(read, ([], [], []))
        holders += [holder] * len(pairs)
        its_names += [name for name, _ in pairs]
        things += [x for _, x in pairs]

    def settle(self) -> None:
        """Leave out what the function itself has bound anew since: it counts its calls."""
        for read, columns in self._bound.items():
            rows = [row for row in zip(*columns, strict=True) if _is_bound(read, *row)]
            for i, column in enumerate(columns):
                column[:] = [row[i] for row in rows]

    def have_changed(self) -> bool:
        """Tell whether a name is bound to something else by now: a number or a text, to another one."""
        try:
            for read, (holders, names, were) in self._bound.items():
                if not all(map(is_, map(read, holders, names), were)):
                    now = [*map(read, holders, names)]
                    if not all(map(_is_same, now, were)):
                        rows = zip(names, now, were, strict=True)
                        name = next(name for name, a, b in rows if not _is_same(a, b))
                        self.changed = name if type(name) is str else ""
                        return True
                    were[:] = now
        except _UNBOUND:
            return True
        return False


def _readings(x: Any, reach: Reach) -> Iterator[tuple[Callable[[Any, Any], Any], Any, Iterable[Any]]]:
    """Give what reads the things that something holds by names, what holds them, and the names in use."""
    if isinstance(x, FunctionType):
        for name, cell, _ in cells_of(x):
            yield _variable, cell, [name]
        yield dict.get, x.__globals__, global_names(x.__code__, x.__globals__)
        yield getattr, x, ["__code__", "__defaults__"]
    elif isinstance(x, (type, ModuleType)):
        is_named = reach.is_named_of_module if isinstance(x, ModuleType) else reach.is_named
        named = [name for name, held in vars(x).items() if is_named(name) and _is_users(name, held)]
        yield (MappingProxyType.get if isinstance(x, type) else dict.get), vars(x), named
    elif isinstance(x, dict):
        yield dict.get, x, [*dict.keys(x)]
        yield _length, x, [dict]
    elif isinstance(x, (list, deque)):
        kind: Any = list if isinstance(x, list) else deque
        yield kind.__getitem__, x, range(kind.__len__(x))
        yield _length, x, [kind]
    elif not isinstance(x, Param) and not (reach.reads_any and is_known(type(x))):
        if (own := in_dict(x)) is not None:
            yield dict.get, own, filter(reach.is_named, {**own, **dict(in_class(type(x)))})
        yield object.__getattribute__, x, filter(reach.is_named, in_slots(x))


def _variable(cell: Any, _: str) -> Any:
    return cell.cell_contents


def _length(x: Any, kind: Any) -> int:
    """Give how many items there are, past a ``__len__`` of the user's."""
    return kind.__len__(x)  # type: ignore[no-any-return]


def _is_users(name: str, x: Any) -> bool:
    """Tell whether it is not what Python itself puts into each class and module."""
    return isinstance(x, FunctionType) or not name.startswith("__")


def _is_bound(read: Callable[[Any, Any], Any], holder: Any, name: Any, x: Any) -> bool:
    try:
        return _is_same(read(holder, name), x)
    except _UNBOUND:
        return False


def _is_same(x: Any, y: Any) -> bool:
    if x is y or type(x) is not type(y):
        return x is y
    if type(x) is tuple:
        return len(x) == len(y) and all(map(_is_same, x, y))
    return issubclass(type(x), _PLAIN) and repr(x) == repr(y)
