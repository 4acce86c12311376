"""What of its arguments a program is made for, and whether two results have the same bits."""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from minidiff.checks import is_ndarray
from minidiff.params import Param, attributes_of, in_dict, in_slots

__all__ = ["ARRAYS", "OF_PYTHON", "SEQUENCES", "cells_of", "contents", "equal", "held_by", "held_next_by",
    "is_known", "iterated", "key_of", "objects_in", "outlined", "parts_of", "stood"]  # fmt: skip

_STATIC = (bool, int, str, bytes, type(None))
_NUMBERS = frozenset({*_STATIC, float, complex})
_NAMES = frozenset({str, int})
# Classes of the arrays that a stand-in can stand for. Other subclasses may have operators of their own.
ARRAYS = np.ndarray, np.memmap
_VARYING = frozenset({*ARRAYS, float, complex})
SEQUENCES = (list, tuple, set, frozenset, deque)
_CONTAINERS = (dict, *SEQUENCES)
_SHARED = {*_NUMBERS, *_CONTAINERS}

# Modules whose functions and classes are not looked into: they hold nothing of the user's.
_LIBRARIES = {"numpy", "autograd", "minidiff", "scipy", "matplotlib", "pandas"} | sys.stdlib_module_names - {
    "__main__"
}
_CODE = type, FunctionType, BuiltinFunctionType, np.ufunc, type(np.sum)

# The flag of classes that are written in Python.
OF_PYTHON = 1 << 9


def is_known(x: Any) -> bool:
    """Tell whether something is a module, a function or a class of a library that need not be looked into."""
    names: set[Any]
    kind = type(x)  # not `isinstance`: a stand-in, for one, answers for what it stands for
    if issubclass(kind, ModuleType):
        names = {x.__name__}
    elif issubclass(kind, _CODE):
        of_globals = x.__globals__.get("__name__") if kind is FunctionType else None
        names = {getattr(x, "__module__", None), of_globals} - {None}
    else:
        return False
    return bool(names) and all(str(name).partition(".")[0] in _LIBRARIES for name in names)


class _Same:
    """A key that is equal to none but that of the same object."""

    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Same and other.x is self.x


def key_of(x: Any, leaves: list[Any]) -> Any:
    """Give what a program depends on of an argument, and collect the arrays and numbers that may vary."""
    kind = type(x)
    if kind is np.ndarray:
        leaves.append(x)
        return x.shape, x.strides, x.dtype
    if kind is np.memmap:
        return key_of(np.asarray(x), leaves)
    if _may_vary(x):
        leaves.append(x)
        return kind
    if kind in _STATIC:
        return kind, x
    if isinstance(x, dict):
        keys = tuple(x) if _NAMES.issuperset(map(type, x)) else tuple(map(_exactly, x))
        if kind is dict:
            return kind, keys, *[key_of(item, leaves) for item in x.values()]
        items = [key_of(item, leaves) for _, item in _pairs(x)]
        return kind, keys, *items, *_named(x), *_aliases(x), *_of_class(kind, set())
    if kind in (list, tuple):
        return kind, *[key_of(item, leaves) for item in x]
    if isinstance(x, (list, tuple)):
        return kind, *[key_of(item, leaves) for item in iterated(x)], *_named(x), *_of_class(kind, set())
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"compiled functions take plain arrays, not {kind.__name__}, whose mask would be lost: pass "
            "x.filled(…)."
        )
    if is_ndarray(x):
        raise TypeError(f"compiled functions take plain arrays, not {kind.__name__}: pass np.asarray(x).")
    return tuple(_identity(x))


def _attributes(x: Any) -> dict[str, Any]:
    """Give the attributes of a container of a class of its own, but for aliases of its items."""
    if type(x) in (list, tuple, dict) or (isinstance(x, tuple) and not type(x).__dictoffset__):
        return {}
    named, aliases = in_dict(x), _aliases(x)
    factory = {"default_factory": x.default_factory} if isinstance(x, defaultdict) else {}
    own = {} if named is x else named or {}
    return factory | in_slots(x) | {name: held for name, held in own.items() if name not in aliases}


def _named(x: Any) -> list[Any]:
    """Give what tells these attributes apart."""
    return [(name, *_identity(held)) for name, held in _attributes(x).items()]


def _aliases(x: Any) -> list[str]:
    """List the attributes of a dict of a class of its own that are its items of the same names."""
    named = in_dict(x) if isinstance(x, dict) and type(x) is not dict else None
    return [name for name, held in (named or {}).items() if named is not x and dict.get(x, name, x) is held]


def _pairs(x: Any) -> Iterable[tuple[Any, Any]]:
    """Give the keys, or places, and items of a dict, list or tuple, in order, past methods of the user's."""
    if isinstance(x, dict):
        return (OrderedDict if isinstance(x, OrderedDict) else dict).items(x)
    return enumerate(iterated(x))


def _exactly(x: Any) -> Any:
    """Give what tells a key of a dict apart: True is 1, and -0.0 is 0.0."""
    if isinstance(x, tuple):
        return type(x), *map(_exactly, x)
    return type(x), repr(x) if isinstance(x, (float, complex, np.generic)) else x


def _identity(x: Any, classes: set[Any] | None = None) -> Iterator[Any]:
    """Give what is another key where an object, or anything that it holds in any place, is another.

    What the objects of a class share comes once, but for `classes` that have been met.
    """
    classes = set() if classes is None else classes
    for held in held_by(x, held_as_arguments, again=True):
        kind = type(held)
        if kind in (float, complex):
            yield kind, repr(held)  # -0.0 is not 0.0
        elif kind in _STATIC:
            yield kind, held
        else:
            yield _Same(held)
            if issubclass(kind, _CONTAINERS):
                yield len(held)
                if kinds := _kinds_if_long(held):
                    yield _told_apart(tuple(iterated(held)), kinds)
            yield from _of_class(kind, classes)


def _of_class(kind: type, classes: set[Any]) -> Iterator[Any]:
    """Give what tells apart the numbers, texts and containers that all objects of a class share."""
    if kind is Param or kind in classes or not kind.__flags__ & OF_PYTHON:
        return
    classes.add(kind)  # a class may hold its own objects
    for name, held in in_class(kind):
        if type(held) in _SHARED:
            yield name
            yield from _identity(held, classes)


def in_class(kind: type) -> Iterator[tuple[str, Any]]:
    """Give the names and values in a class of the user's and in those that it derives from."""
    for each in kind.__mro__:
        if each.__flags__ & OF_PYTHON and not is_known(each):
            every = [*vars(each).items()]  # a copy, as another thread may change it
            yield from ((name, held) for name, held in every if not name.startswith("__"))


def held_as_arguments(x: Any) -> list[Any]:
    """Give what an object holds itself; of functions, classes and modules what they compute with."""
    kind = type(x)
    if kind is Param or is_known(x):
        return []
    if kind is MethodType:
        return [x.__self__, x.__func__]
    if issubclass(kind, partial):
        return [x.func, x.args, x.keywords, *held_next_by(vars(x))]
    if kind is FunctionType:
        variables = [value for *_, value in cells_of(x)]
        return [*variables, *(x.__defaults__ or ()), *held_next_by({**(x.__kwdefaults__ or {}), **vars(x)})]
    if issubclass(kind, ModuleType):
        return held_next_by({name: held for name, held in vars(x).items() if type(held) in _NUMBERS})
    if issubclass(kind, type):
        return [item for pair in in_class(x) for item in pair]
    return held_next_by(x)


def cells_of(f: FunctionType) -> Iterator[tuple[str, CellType, Any]]:
    """Give the variables of outer functions that a function uses, where they have a value yet."""
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        with suppress(ValueError):
            yield name, cell, cell.cell_contents


def held_next_by(x: Any) -> list[Any]:
    """Give what an object holds itself; not the numbers of long lists."""
    kind = type(x)
    if issubclass(kind, dict):
        return [*dict.keys(x), *dict.values(x), *_attributes(x).values()]
    if issubclass(kind, SEQUENCES):
        return [*([] if _kinds_if_long(x) else iterated(x)), *_attributes(x).values()]
    if issubclass(kind, (type, FunctionType, ModuleType, Param, np.ndarray)):
        return []
    attributes = attributes_of(x)
    return [*attributes, *attributes.values()]


def held_by(
    x: Any, next_by: Callable[[Any], Iterable[Any]] = held_next_by, again: bool = False
) -> Iterator[Any]:
    """Give an object and all that it holds, each once; not the numbers of long lists.

    ``next_by(x)`` tells what a thing holds itself. With `again` it comes in every place where it is held.
    """
    met: dict[int, Any] = {}
    waiting = [x]
    while waiting:
        x = waiting.pop()
        if type(x) in _NUMBERS:
            yield x
        elif id(x) not in met:
            met[id(x)] = x
            yield x
            waiting += next_by(x)
        elif again:
            yield x


def iterated(x: Any) -> Iterator[Any]:
    """Give what a sequence or a set holds, past an ``__iter__`` of the user's."""
    kind: Any = next(kind for kind in SEQUENCES if issubclass(type(x), kind))
    items: Iterator[Any] = kind.__iter__(x)
    return items


def _kinds_if_long(x: Any) -> set[Any]:
    """Give the types of what a long list of numbers holds; none of another thing."""
    is_long = issubclass(type(x), (list, tuple)) and len(x) > 32
    kinds: set[Any] = {*map(type, iterated(x))} if is_long else set()
    return kinds if kinds <= _NUMBERS else set()


def _told_apart(numbers: tuple[Any, ...], kinds: set[Any]) -> Any:
    """Give what is equal for the same numbers only: True is 1, and -0.0 is 0.0. Their text takes longer."""
    if complex in kinds:
        return repr(numbers)
    zeros = repr([x for x in numbers if x == 0]) if 0.0 in numbers else ""
    return numbers, zeros, *(kinds if len(kinds) == 1 else map(type, numbers))


def stood(x: Any, name: str, standing: Callable[[Any, str], Any], other: Callable[[Any], Any]) -> Any:
    """Put a stand-in in the place of every array and number that `key_of` collects, in the same order.

    A part of an argument has a name with a point in it. In the place of all else comes ``other(x)``.
    """
    kind = type(x)
    if _may_vary(x):
        return standing(np.asarray(x) if kind in ARRAYS else x, name)
    if not isinstance(x, (dict, list, tuple)):
        return other(x)
    # The class is not called: its constructor may take anything.
    base: Any = next(base for base in kind.__mro__ if not base.__flags__ & OF_PYTHON)
    items = {key: stood(item, f"{name}.{key}", standing, other) for key, item in _pairs(x)}
    kind = kind if kind is base else other(kind)
    anew = base.__new__(kind, items.values()) if isinstance(x, tuple) else base.__new__(kind)
    if isinstance(x, list):
        base.extend(anew, items.values())
    for key, item in items.items() if isinstance(x, dict) else ():
        base.__setitem__(anew, key if type(key) in _NAMES else other(key), item)
    if in_dict(x) is x:
        object.__setattr__(anew, "__dict__", anew)
    for attribute in _aliases(x):
        object.__setattr__(anew, attribute, items[attribute])
    for attribute, held in _attributes(x).items():
        object.__setattr__(anew, attribute, other(held))
    return anew


def contents(x: Any) -> Iterator[Any]:
    """Give the keys, items and attributes of a list, a tuple or a dict, at any depth."""
    yield from _attributes(x).values()
    for key, item in _pairs(x):
        yield from (key, item) if isinstance(x, dict) else (item,)
        if isinstance(item, (dict, list, tuple)):
            yield from contents(item)


def objects_in(args: Any) -> Iterator[Any]:
    """Give the objects in arguments: all but arrays, floats, and the lists, tuples and dicts around them.

    Keys of a dict are among them; of a container of a user's class, so are the class and the attributes.
    """
    yield from _attributes(args).values()
    if isinstance(args, dict):
        yield from (key for key in dict.keys(args) if type(key) not in _NAMES)
    if type(args).__flags__ & OF_PYTHON:
        yield type(args)
    for _, x in _pairs(args):
        if isinstance(x, (dict, list, tuple)):
            yield from objects_in(x)
        elif not _may_vary(x):
            yield x


def _may_vary(x: Any) -> bool:
    kind = type(x)
    is_number = issubclass(kind, np.generic) and x.dtype.kind in "biufc"
    return is_number or kind in _VARYING


def outlined(x: Any) -> str:
    """Tell dtypes and shapes of an argument."""
    if isinstance(x, (np.ndarray, np.generic)):
        return f"{x.dtype} {x.shape}"
    if isinstance(x, (list, tuple)):
        return f"[{', '.join(map(outlined, x))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {outlined(item)}" for key, item in x.items()) + "}"
    return f"{x!r:.40}" if isinstance(x, _STATIC) else type(x).__name__


def parts_of(x: Any) -> Iterator[Any]:
    """Give the arrays and numbers of a result."""
    if isinstance(x, (list, tuple, Mapping)):
        for item in x.values() if isinstance(x, Mapping) else x:
            yield from parts_of(item)
    else:
        yield x


def equal(a: Iterable[Any], b: Iterable[Any]) -> bool:
    """Tell whether two results have the same bits. One NaN is as good as another."""
    for x, y in zip(a, b, strict=True):
        if type(x) is not type(y):
            return False
        if x is None:
            continue
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype != y.dtype or x.shape != y.shape:
            return False
        if x.tobytes() != y.tobytes():
            if x.dtype.kind == "c":
                x, y = (np.stack((z.real, z.imag)) for z in (x, y))
            number = x == x
            if not np.array_equal(x, y, equal_nan=True):
                return False
            if not np.array_equal(np.signbit(x[number]), np.signbit(y[number])):
                return False
    return True
