"""What a function can reach by names, and what its arrays and parameters are called there."""

from __future__ import annotations

import inspect
import random
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from minidiff.checks import is_ndarray
from minidiff.params import Param
from minidiff.program.lines import RESERVED, free_name
from minidiff.program.signature import parts_of

__all__ = ["Names", "Reach", "closure", "codes"]


# With these names in its code a function may read any attribute.
_ANY = {"__dict__", "__getattribute__", "asdict", "astuple", "attrgetter", "eval", "exec", "getattr", "vars"}
# Without any of these it makes no Python number of an array.
_TO_NUMBER = {"complex", "eval", "exec", "float", "getattr", "int", "item", "math", "round", "tolist"}
_OURS = "numpy", "autograd", "minidiff", "builtins", "abc", "collections", "types", "typing"
_PLAIN = str, bytes, int, float, complex, type(None)


class Reach:
    """What a function can reach by names: closures, globals, what lists and dicts hold, attributes.

    Of an object it can reach the attributes whose names are in its code, or in that of functions it reaches.

    Parameters
    ----------
    f : callable
        The function.

    Attributes
    ----------
    found : list of (str, object)
        What it reaches, with names.
    makes_numbers : bool
        Whether it may make Python numbers of arrays.
    """

    def __init__(self, f: Any) -> None:
        self.f = f
        self.found: list[tuple[str, Any]] = []
        self._names: set[str] = set()
        self._seen: dict[Any, Any] = {}  # holds what it has seen, so that no id is given twice
        waiting: list[tuple[str, Any]] = [("", f)]
        attributes: list[tuple[str, str, Any]] = []
        while waiting and len(self._seen) < 20_000:
            name, x = waiting.pop()
            key = (id(x), isinstance(x, type) and bool(name))  # a class by its name may be called
            if key not in self._seen and not isinstance(x, _PLAIN):
                self._seen[key] = x
                module = str(getattr(x, "__module__", "") or "").partition(".")[0]
                if x is f or module not in _OURS or not callable(x) or isinstance(x, partial):
                    self.found.append((name, x))
                    waiting += self._held(name, x)
                    attributes += _attributes(name, x)
            if not waiting:
                every = bool(self._names & _ANY)
                waiting = [(name, x) for n, name, x in attributes if every or self._is_named(n)]
                attributes = [] if every else [some for some in attributes if not self._is_named(some[0])]
        if waiting:
            self.found.append(("…", np.zeros(0)))  # more than we can look at
        self.makes_numbers = bool(self._names & _TO_NUMBER) or any(
            getattr(x, "__module__", "") == "math" for _, x in self.found
        )
        kinds = np.random.Generator, np.random.RandomState, random.Random
        self._generators: list[Any] = [np.random.mtrand._rand, random._inst]
        self._generators += [x for _, x in self.found if isinstance(x, kinds)]

    def _is_named(self, name: str) -> bool:
        return name in self._names or name.startswith("__")

    def _held(self, name: str, x: Any) -> Iterator[tuple[str, Any]]:
        """Give what something holds otherwise than as attributes."""
        if isinstance(x, types.FunctionType):
            yield from closure(x)
            for code in codes(x.__code__):
                yield from self._globals(code, x.__globals__)
            yield from (("", d) for d in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()))
            yield from vars(x).items()
        elif isinstance(x, types.MethodType):
            yield from (("", x.__func__), ("", x.__self__))
        elif isinstance(x, partial):
            yield from (("", x.func), ("", x.args), ("", x.keywords))
        elif isinstance(x, property):
            yield "", x.fget
        elif isinstance(x, (classmethod, staticmethod)):
            yield "", x.__func__
        elif isinstance(x, Mapping):
            yield from ((str(key), item) for key, item in x.items())
        elif isinstance(x, (list, tuple, set, frozenset)):
            yield from ((f"{name}_{i}" if name else "", item) for i, item in enumerate(x))

    def _globals(self, code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        self._names.update(code.co_names)
        for name in code.co_names:
            if name in names:
                x = names[name]
                yield name, x
                if isinstance(x, types.ModuleType) and not x.__name__.startswith(("numpy", "minidiff")):
                    yield from ((f"{name}.{n}", vars(x)[n]) for n in code.co_names if n in vars(x))

    def array(self, line: str) -> str:
        """Describe an array that a line may use, if there is any: the one that it names."""
        arrays = [(name, x) for name, x in self.found if is_ndarray(x)]
        for name, x in arrays:
            if re.search(rf"\b{re.escape(name or '…')}\b", line):
                return f"{name}, of shape {x.shape}"
        return "an array that it finds by name" if arrays else ""

    def random_state(self) -> list[Any]:
        """Give the state of the generators of random numbers."""
        return [_state(g) for g in self._generators]


def closure(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Give the variables of an outer function that a function uses, where they have a value yet."""
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        with suppress(ValueError):
            yield name, cell.cell_contents


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give a function's code, and that of the functions within it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from codes(inner)


def _state(g: Any) -> Any:
    if isinstance(g, random.Random):
        return g.getstate()
    state = g.bit_generator.state if isinstance(g, np.random.Generator) else g.get_state(legacy=False)
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in parts_of(state)]


def _attributes(name: str, x: Any) -> Iterator[tuple[str, str, Any]]:
    """Give the attributes of an object and of its classes: name, how it is shown, value."""
    known = (
        types.FunctionType, types.MethodType, types.BuiltinFunctionType, partial, Mapping, list, tuple, set,
        frozenset, np.ndarray, np.generic, Param, types.ModuleType, property, classmethod, staticmethod,
    )  # fmt: skip
    if isinstance(x, type):
        made = () if name else ("__init__", "__new__", "__post_init__")  # of an object that is there already
        yield from ((n, f"{x.__name__}.{n}", v) for n, v in vars(x).items() if n not in made)
    elif not isinstance(x, known):
        for kind in type(x).__mro__:
            if kind.__module__ != "builtins":
                yield "__class__", "", kind
                slots = vars(kind).get("__slots__", ())
                for slot in (slots,) if isinstance(slots, str) else slots:
                    yield slot, f"{name}.{slot}", getattr(x, slot, None)
        yield from ((n, f"{name}.{n}", v) for n, v in getattr(x, "__dict__", {}).items())


class Names:
    """Names for parameters, arguments and constants: those by which a function knows them.

    Parameters
    ----------
    reach : Reach
        What the function reaches.
    args : tuple
        Its arguments.
    ps : list of Param
        The parameters.

    Attributes
    ----------
    of_arguments, of_parameters : list of str
        In order.
    of_constants : dict of int to str
        By the arrays' ids.
    taken : set of str
        All of them, and those that no variable may have.
    """

    def __init__(self, reach: Reach, args: tuple[Any, ...], ps: list[Param]) -> None:
        known: dict[int, str] = {}
        arrays: dict[int, str] = {}
        for name, x in reach.found:
            if isinstance(x, Param):
                known.setdefault(id(x), name)
            if isinstance(x, (Param, np.ndarray)):
                arrays.setdefault(id(x.value if isinstance(x, Param) else x), name)
        trained = {id(p.value) for p in ps}
        self.taken = taken = {"value", "loss_and_gradient", "step", *RESERVED}
        self.of_arguments = [free_name(name, taken) for name in _arguments(reach.f, len(args))]
        self.of_parameters = [free_name(known.get(id(p), f"p{i}"), taken) for i, p in enumerate(ps)]
        self.of_constants = {
            i: free_name(name, taken) for i, name in arrays.items() if name and i not in trained
        }


def _arguments(f: Any, n: int) -> list[str]:
    try:
        bound = inspect.signature(f).bind(*range(n)).arguments
    except (TypeError, ValueError):
        return [f"x{i + 1}" for i in range(n)]
    names = []
    for name, value in bound.items():
        names += [f"{name}{i + 1}" for i in range(len(value))] if isinstance(value, tuple) else [name]
    return names
