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
from minidiff.program.reach import Reach, global_names, rebound
from minidiff.program.signature import ARRAYS, held_next_by, is_known

__all__ = ["with_stand_ins"]

# Python's own classes whose objects are copied by what they hold.
_COPIED = {
    list, tuple, dict, set, frozenset, deque, defaultdict, OrderedDict, UserDict, UserList, partial,
    types.SimpleNamespace,
}  # fmt: skip
_CACHE = type(cache(int))
_DISPATCHING = singledispatch(int).__code__  # type: ignore[attr-defined]
_OF_CLASSES = type, classmethod, staticmethod, property
# What a class gets when it is made, and its copy gets anew.
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
    copies = _Copies(reach, stand_in)
    copies.fill()
    return copies.of


class _Copies:
    """Copies of what leads to arrays. All are made before any is filled, as they may lead to one another."""

    def __init__(self, reach: Reach, stand_in: Callable[[Any, int], Any]) -> None:
        self._leading = reach.leading()
        self._memo = memo = _Memo({id(x): x for _, x in reach.found})
        self._functions, self._classes, self._modules = list[Any](), list[Any](), list[Any]()
        self._globals, self._cells = dict[int, Any](), dict[int, Any]()  # by the ids of the originals
        self._builtins = {
            **vars(builtins),
            "__import__": lambda *args, **options: memo.known(__import__(*args, **options)),
            "id": memo.id_of,
        }
        for i, x in self._leading.items():
            kind = type(x)
            if kind is types.FunctionType:
                memo[i] = self._function(x)
            elif kind in ARRAYS and x.dtype != object:
                memo[i] = stand_in(np.asarray(x), i)
            elif kind is types.ModuleType:
                self._modules.append(x)
                memo[i] = types.ModuleType(x.__name__)
            elif kind is types.MethodType:
                memo.methods[i] = x
                del memo[i]
            elif _may_be_made_again(x):
                self._classes.append(x)
            elif kind in _COPIED or not (isinstance(x, _OF_CLASSES) or is_known(kind)):
                self._leave_to_deepcopy(x)
            elif isinstance(x, Mapping) and any(id(key) in self._leading for key in x):
                raise TypeError(f"{kind.__name__} has keys of which there are copies")

    def of(self, x: Any) -> Any:
        """Give the copy of what leads to an array, and anything else as it is."""
        return deepcopy(x, self._memo) if id(x) in self._leading else x

    def _function(self, f: types.FunctionType) -> types.FunctionType:
        """Give a function of the same code, with variables of its own that have no values yet."""
        if f.__code__ is _DISPATCHING:
            raise TypeError(f"{f.__name__} decides by classes")
        if any(rebound(f)):
            raise TypeError(f"{f.__name__} binds a variable of others")
        every = f.__globals__
        if str(every.get("__name__")).startswith(("minidiff.", "autograd.")):
            raise RefusedError(
                f"compiled: {f.__name__} has a derivative of its own, and reads an array that is not its "
                "argument. Pass the array to it as an argument."
            )
        self._functions.append(f)
        if id(every) not in self._globals:
            self._globals[id(every)] = {**every, "__builtins__": self._builtins}
        cells = [self._cells.setdefault(id(cell), types.CellType()) for cell in f.__closure__ or ()]
        return types.FunctionType(
            f.__code__, self._globals[id(every)], f.__name__, None, tuple(cells) or None
        )

    def _leave_to_deepcopy(self, x: Any) -> None:
        """Let `deepcopy` copy an object, but not what it holds that leads to no array."""
        if not _is_plain(type(x)):
            raise TypeError(f"{type(x).__name__} may be copied in a way of its own")
        del self._memo[id(x)]
        self._memo.update({id(held): held for held in held_next_by(x) if id(held) not in self._leading})

    def fill(self) -> None:
        """Let the copies hold copies of what their originals hold."""
        memo, of, known = self._memo, self.of, self._memo.known
        for i, x in self._leading.items():
            if type(x) in (classmethod, staticmethod):
                memo[i] = type(x)(known(x.__func__))
            elif type(x) is property:
                memo[i] = property(known(x.fget), known(x.fset), known(x.fdel), x.__doc__)
        for x in sorted(self._classes, key=lambda x: len(x.__mro__)):  # bases first
            names = {name: known(held) for name, held in vars(x).items() if not isinstance(held, _OF_TYPE)}
            memo[id(x)] = type(x.__name__, tuple(map(known, x.__bases__)), names)
        for x in self._modules:
            vars(memo[id(x)]).update({name: of(held) for name, held in vars(x).items()})
        for x in self._classes:
            for name, held in vars(x).items():
                if id(held) in self._leading:
                    type.__setattr__(memo[id(x)], name, of(held))
        for x in self._functions:
            self._fill_function(x, memo[id(x)])

    def _fill_function(self, f: types.FunctionType, new: types.FunctionType) -> None:
        of, every = self.of, f.__globals__
        names = global_names(f.__code__, every)
        self._globals[id(every)].update({name: of(every[name]) for name in names})
        new.__module__ = f.__module__
        new.__defaults__ = f.__defaults__ and tuple(map(of, f.__defaults__))
        new.__kwdefaults__ = {name: of(d) for name, d in (f.__kwdefaults__ or {}).items()}
        vars(new).update({name: of(held) for name, held in vars(f).items()})
        for cell in f.__closure__ or ():
            with suppress(ValueError):  # it has no value yet
                self._cells[id(cell)].cell_contents = of(cell.cell_contents)


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

    def known(self, x: Any) -> Any:
        """Give the copy of something, if there is one by now."""
        return self.get(id(x), x)

    def id_of(self, x: Any) -> int:
        """Give the id of what something is a copy of, or its own."""
        return next((i for i, made in self.items() if made is x), id(x))


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
