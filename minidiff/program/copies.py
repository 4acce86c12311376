"""Copies of functions and of what leads to arrays, with something else in the place of the arrays.

Nothing that the user has is touched, so no other thread sees what stands for an array while a loss is
recorded.
"""

from __future__ import annotations

import builtins
import types
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cache, partial, singledispatch
from typing import Any

import numpy as np

from minidiff.program.listing import RefusedError
from minidiff.program.reach import Reach, global_names, is_known, rebound
from minidiff.program.signature import ARRAYS, held_next_by

__all__ = ["with_stand_ins"]

# Of Python's own, what is copied by what it holds.
_COPIED = {
    list, tuple, dict, set, frozenset, deque, defaultdict, OrderedDict, UserDict, UserList, partial,
    types.SimpleNamespace,
}  # fmt: skip
_CACHE = type(cache(int))
_DISPATCHING = singledispatch(int).__code__  # type: ignore[attr-defined]
_OF_CLASSES = type, classmethod, staticmethod, property
# Of a class, what it gets when it is made.
_OF_TYPE = types.GetSetDescriptorType, types.MemberDescriptorType
# With one of these a class has a say in how its objects are copied.
_OWN_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__", "__new__")
_OF_CONTAINERS = ("__iter__", "__setitem__", "append", "extend", "items")
_OTHER_WAYS = ("__deepcopy__", "__setstate__", "__getnewargs__", "__getnewargs_ex__", "__del__")


def with_stand_ins(reach: Reach, stand_in: Callable[[Any, int], Any]) -> Callable[[Any], Any]:
    """Copy what leads to arrays, with ``stand_in(array, its id)`` in their place.

    These are functions, classes, modules, and what holds arrays. All else is shared, parameters among it, and
    so are the objects of libraries.

    Parameters
    ----------
    reach : Reach
        What finds the arrays.
    stand_in : callable
        Gives what takes the place of an array.

    Returns
    -------
    callable
        Gives the copy of what leads to an array, and anything else as it is.

    Raises
    ------
    RefusedError
        If a function with a derivative of its own reads an array otherwise than as an argument.
    TypeError
        If a function binds a variable of others, who would not see it, or something has its own way to be
        copied.
    """
    if reach.goes_by_ids:
        raise TypeError("it asks by another name for the id of an object, of which a copy has another")
    leading = reach.leading()
    memo = _Memo({id(x): x for _, x in reach.found})
    builtins_of_copies = {
        **vars(builtins),
        "__import__": lambda *args, **options: known(__import__(*args, **options)),
        "id": lambda x: next((i for i, made in memo.items() if made is x), id(x)),
    }
    functions, classes, globals_of, cells = list[Any](), list[Any](), dict[int, Any](), dict[int, Any]()
    for i, x in leading.items():
        kind = type(x)
        if kind is types.FunctionType:
            if x.__code__ is _DISPATCHING:
                raise TypeError(f"{x.__name__} decides by classes")
            if any(rebound(x)):
                raise TypeError(f"{x.__name__} binds a variable of others")
            if str(x.__globals__.get("__name__")).startswith(("minidiff.", "autograd.")):
                raise RefusedError(
                    f"compiled: {x.__name__} has a derivative of its own, and reads an array that is not its "
                    "argument. Pass the array to it as an argument."
                )
            functions.append(x)
            if id(x.__globals__) not in globals_of:
                globals_of[id(x.__globals__)] = {**x.__globals__, "__builtins__": builtins_of_copies}
            mine = [cells.setdefault(id(cell), types.CellType()) for cell in x.__closure__ or ()]
            memo[i] = types.FunctionType(
                x.__code__, globals_of[id(x.__globals__)], x.__name__, None, tuple(mine) or None
            )
        elif kind in ARRAYS and x.dtype != object:
            memo[i] = stand_in(np.asarray(x), i)
        elif kind is types.ModuleType:
            memo[i] = types.ModuleType(x.__name__)
        elif kind is types.MethodType:
            memo.methods[i] = x
            del memo[i]
        elif _may_be_made_again(x):
            classes.append(x)
        elif kind in _COPIED or not (isinstance(x, _OF_CLASSES) or is_known(kind)):
            if not _is_plain(kind):
                raise TypeError(f"{kind.__name__} may be copied in a way of its own")
            del memo[i]
            memo.update({id(held): held for held in held_next_by(x) if id(held) not in leading})
        elif isinstance(x, Mapping) and any(id(key) in leading for key in x):
            raise TypeError(f"{kind.__name__} has keys of which there are copies")

    def copied(x: Any) -> Any:
        return deepcopy(x, memo) if id(x) in leading else x

    def known(x: Any) -> Any:
        return memo.get(id(x), x)

    for i, x in leading.items():
        if type(x) in (classmethod, staticmethod):
            memo[i] = type(x)(known(x.__func__))
        elif type(x) is property:
            memo[i] = property(known(x.fget), known(x.fset), known(x.fdel), x.__doc__)
    for x in sorted(classes, key=lambda x: len(x.__mro__)):  # those that others are made of come first
        names = {name: known(held) for name, held in vars(x).items() if not isinstance(held, _OF_TYPE)}
        memo[id(x)] = type(x.__name__, tuple(map(known, x.__bases__)), names)
    for x in leading.values():
        if type(x) is types.ModuleType:
            vars(memo[id(x)]).update({name: copied(held) for name, held in vars(x).items()})
    for x in classes:
        for name, held in vars(x).items():
            if id(held) in leading:
                type.__setattr__(memo[id(x)], name, copied(held))
    for x in functions:
        every, new = globals_of[id(x.__globals__)], memo[id(x)]
        every.update({name: copied(x.__globals__[name]) for name in global_names(x.__code__, x.__globals__)})
        new.__module__ = x.__module__
        new.__defaults__ = x.__defaults__ and tuple(map(copied, x.__defaults__))
        new.__kwdefaults__ = {name: copied(d) for name, d in (x.__kwdefaults__ or {}).items()}
        vars(new).update({name: copied(held) for name, held in vars(x).items()})
        for cell in x.__closure__ or ():
            with suppress(ValueError):  # it has no value yet
                cells[id(cell)].cell_contents = copied(cell.cell_contents)
    return copied


class _Memo(dict[int, Any]):
    """Copies by the ids of what they are of, as `deepcopy` has them. Methods get the copies of functions."""

    def __init__(self, shared: dict[int, Any]) -> None:
        super().__init__(shared)
        self.methods: dict[int, types.MethodType] = {}

    def get(self, i: int, default: Any = None) -> Any:
        if i in self.methods and i not in self:
            f, x = self.methods[i].__func__, self.methods[i].__self__
            self[i] = types.MethodType(self.get(id(f), f), deepcopy(x, self))
        return super().get(i, default)


def _may_be_made_again(x: Any) -> bool:
    """Tell whether something is a class, and nothing but its own methods has a say in how it is made."""
    if type(x) is not type or is_known(x) or _keeps_results(x):  # an ABC knows classes that are registered
        return False
    hooks = (vars(kind).get("__init_subclass__") for kind in x.__mro__[:-1])
    told = (type(held) for held in vars(x).values() if hasattr(type(held), "__set_name__"))
    return not any(hooks) and all(map(is_known, told))


def _keeps_results(kind: type[Any]) -> bool:
    """Tell whether methods keep results by their objects, which copies must not come among."""
    return any(isinstance(held, _CACHE) for each in kind.__mro__ for held in vars(each).values())


def _is_plain(kind: type[Any]) -> bool:
    """Tell whether a copy of such an object is made of its attributes and items alone, and does nothing."""
    if kind in _COPIED or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return True
    base = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    ways = _OWN_WAYS if base is object else _OWN_WAYS + _OF_CONTAINERS
    own = [getattr(kind, name) for name in ways if getattr(kind, name, None) is not getattr(base, name, None)]
    own += [getattr(kind, name) for name in _OTHER_WAYS if hasattr(kind, name)]
    return all(map(is_known, own)) and not _keeps_results(kind)
