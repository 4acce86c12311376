"""What a function can reach by names, and what its arrays and parameters are called there."""

from __future__ import annotations

import gc
import inspect
import random
import re
import sys
import types
import weakref
from collections import UserDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from copy import deepcopy
from functools import cache, partial
from operator import is_not
from typing import Any, TypeAlias

import numpy as np

from minidiff.checks import is_ndarray
from minidiff.params import Param, attributes_of, in_slots
from minidiff.program.lines import RESERVED, free_name
from minidiff.program.listing import StandIn
from minidiff.program.signature import held_by, held_next_by, objects_in, parts_of
from minidiff.tracing import constant, is_box

__all__ = ["Names", "Reach", "closure", "codes"]


# With these names in its code a function may read any attribute.
_ANY = {"__dict__", "__getattribute__", "asdict", "astuple", "attrgetter", "eval", "exec", "getattr", "vars"}
# Without any of these it makes no Python number of an array.
_TO_NUMBER = {"complex", "eval", "exec", "float", "getattr", "int", "item", "math", "round", "tolist"}
_OURS = "numpy", "autograd", "minidiff", "builtins", "abc", "collections", "types", "typing"
# Bytes of found arrays that a program may compare at every call with what they were.
LOOKED_AT = 2**20
_PLAIN = str, bytes, int, float, complex, type(None)
# Of Python's own, what is looked into in a way of its own, holds nothing, or what nobody changes.
_NO_HOLDERS = (
    type, types.ModuleType, types.CodeType, types.FrameType, types.BuiltinFunctionType, random.Random,
    type(cache(int)),
)  # fmt: skip


class Reach:
    """What a function can reach by names: closures, globals, what lists and dicts hold, attributes.

    Of an object it can reach the attributes whose names are in its code, or in that of functions it reaches.

    Parameters
    ----------
    f : callable
        The function.
    args : sequence
        Its arguments, by whose objects it can reach more.

    Attributes
    ----------
    found : list of (str, object)
        What it reaches, with names.
    makes_numbers : bool
        Whether it may make Python numbers of arrays.
    """

    def __init__(self, f: Any, args: Sequence[Any] = ()) -> None:
        self.f = f
        self.found: list[tuple[str, Any]] = []
        self._names: set[str] = set()
        self._seen: dict[Any, Any] = {}  # holds what it has seen, so that no id is given twice
        self._holders: dict[int, list[Any]] = {}  # of a thing that it reaches, by its id, what holds it
        waiting: list[tuple[str, Any]] = [("", x) for x in (*objects_in(args), f)]
        attributes: list[tuple[str, str, Any]] = []
        while waiting and len(self._seen) < 20_000:
            name, x = waiting.pop()
            key = (id(x), isinstance(x, type) and bool(name))  # a class by its name may be called
            if key not in self._seen and not isinstance(x, _PLAIN):
                self._seen[key] = x
                module = str(getattr(x, "__module__", "") or "").partition(".")[0]
                if x is f or module not in _OURS or not callable(x) or isinstance(x, partial):
                    self.found.append((name, x))
                    held, named = [*self._held(name, x)], [*_attributes(name, x)]
                    waiting += held
                    attributes += named
                    for item in (*held, *named):
                        self._holders.setdefault(id(item[-1]), []).append(x)
            if not waiting:
                every = bool(self._names & _ANY)
                waiting = [(name, x) for n, name, x in attributes if every or self._is_named(n)]
                attributes = [] if every else [some for some in attributes if not self._is_named(some[0])]
        if waiting:
            self.found.append(("…", np.zeros(0, object)))  # more than we can look at
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
            if isinstance(x, UserDict):
                yield name, x.data
        elif isinstance(x, (list, tuple, set, frozenset)):
            yield from ((f"{name}_{i}" if name else "", item) for i, item in enumerate(x))
        elif isinstance(x, (weakref.ref, ContextVar)):
            with suppress(LookupError):
                yield name, x() if isinstance(x, weakref.ref) else x.get()
        elif _is_of_python(type(x)):  # a deque, an iterator, what keeps results
            yield from ((name, item) for item in gc.get_referents(x) if not isinstance(item, type))

    def _globals(self, code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        self._names.update(code.co_names)
        for name in code.co_names:
            if name in names:
                x = names[name]
                yield name, x
                if isinstance(x, types.ModuleType):
                    yield from _of_module(name, x, code)
            elif isinstance(x := sys.modules.get(name), types.ModuleType):  # imported in the function
                yield from _of_module(name, x, code)

    def snapshot(self) -> list[tuple[Any, Any, bytes]] | None:
        """Give the arrays that it finds, with shape and contents; None where that is too much to look at."""
        arrays = [x for _, x in self.found if is_ndarray(x)]
        if sum(x.nbytes for x in arrays) > LOOKED_AT or any(x.dtype.hasobject for x in arrays):
            return None
        return [(x, x.shape, x.tobytes()) for x in arrays]

    def array(self, line: str) -> str:
        """Describe an array that a line may use, if there is any: the one that it names."""
        arrays = [(name, x) for name, x in self.found if is_ndarray(x)]
        for name, x in arrays:
            if re.search(rf"\b{re.escape(name or '…')}\b", line):
                return f"{name}, of shape {x.shape}"
        return "an array that it finds by name" if arrays else ""

    def with_stand_ins(self, stand_in: Callable[[Any, int], Any]) -> Callable[[Any], Any]:
        """Copy what leads to arrays, with ``stand_in(array, its id)`` in their place.

        These are functions, and what holds arrays. All else is shared, parameters among it, and so are the
        methods of classes and the names in other modules.

        Returns
        -------
        callable
            Gives the copy of the function, or of an object that it reaches; of anything else that itself.
        """
        leading: dict[int, Any] = {}
        waiting = [x for _, x in self.found if _is_of_numbers(x)]
        while waiting:
            x = waiting.pop()
            if id(x) not in leading:
                leading[id(x)] = x
                waiting += self._holders.get(id(x), ())
        memo: dict[int, Any] = {id(x): x for _, x in self.found}  # as `deepcopy` has it
        functions, names, cells = list[Any](), dict[int, Any](), dict[int, Any]()
        for i, x in leading.items():
            if type(x) is types.FunctionType:
                functions.append(x)
                known = names.setdefault(id(x.__globals__), {**x.__globals__})
                mine = [cells.setdefault(id(cell), _another(cell, leading)) for cell in x.__closure__ or ()]
                memo[i] = types.FunctionType(x.__code__, known, x.__name__, None, tuple(mine) or None)
                memo[i].__dict__ = vars(x)
            elif _is_of_numbers(x):
                memo[i] = stand_in(x, i)
            elif not isinstance(x, types.ModuleType):
                del memo[i]
                memo.update({id(held): held for held in held_next_by(x) if id(held) not in leading})

        def copied(x: Any) -> Any:
            return deepcopy(x, memo) if id(x) in leading else x

        for x in functions:
            known = names[id(x.__globals__)]
            used = {name for code in codes(x.__code__) for name in code.co_names}
            known.update({name: copied(x.__globals__[name]) for name in used & known.keys()})
            memo[id(x)].__defaults__ = x.__defaults__ and tuple(map(copied, x.__defaults__))
            memo[id(x)].__kwdefaults__ = {n: copied(d) for n, d in (x.__kwdefaults__ or {}).items()}
            for _, cell, value in _cells(x):
                if cells[id(cell)] is not cell:
                    cells[id(cell)].cell_contents = copied(value)
        return copied

    def remembered(self, args: tuple[Any, ...]) -> Callable[[], list[str]]:
        """Note what the things that it reaches hold, and so for arguments.

        Returns
        -------
        callable
            Puts it back in the place of stand-ins, and gives the names of what held these.
        """
        of_args = [(f"argument {i}", held) for i, x in enumerate(args) for held in held_by(x)]
        found = [*self.found, *of_args]
        lists = [(name, x, [*x]) for name, x in found if isinstance(x, (list, deque))]
        functions = [x for _, x in found if isinstance(x, types.FunctionType)]
        cells = [cell for f in functions for cell in _cells(f)]
        holders = [(*holder, dict(holder[1]())) for name, x in found for holder in _holders(name, x)]

        def put_back() -> list[str]:
            left = []
            for name, items, were in lists:
                if (len(items) != len(were) or any(map(is_not, items, were))) and _stands_in(items):
                    left.append(name)
                    items.clear()
                    items.extend(were)
            for name, cell, then in cells:
                if cell.cell_contents is not then and _stands_in(cell.cell_contents):
                    left.append(name)
                    cell.cell_contents = then
            for name, held, put, drop, before in holders:
                now = held()
                for key in {*before, *now}:
                    if now.get(key) is not before.get(key) and _stands_in(now.get(key)):
                        left.append(f"{name}.{key}".lstrip("."))
                        if key in before:
                            put(key, before[key])
                        else:
                            drop(key)
            return left

        return put_back

    def random_state(self) -> list[Any]:
        """Give the state of the generators of random numbers."""
        return [_state(g) for g in self._generators]


def _another(cell: types.CellType, leading: dict[int, Any]) -> types.CellType:
    """Give a new variable for one of an outer function that leads to arrays; any other stays shared."""
    with suppress(ValueError):  # it has no value yet
        if id(cell.cell_contents) in leading:
            return types.CellType()
    return cell


def _is_of_numbers(x: Any) -> bool:
    return type(x) is np.ndarray and x.dtype.kind in "biufc"


def _stands_in(x: Any) -> bool:
    """Tell whether something is or holds a stand-in."""
    return any(type(constant(held) if is_box(held) else held) is StandIn for held in held_by(x))


# What holds other things by keys: its name, what gives them all, and what puts one there or takes it away.
_Holder: TypeAlias = tuple[str, Callable[[], Mapping[Any, Any]], Callable[..., None], Callable[..., None]]


def _holders(name: str, x: Any) -> Iterator[_Holder]:
    """Give what of a thing may come to hold something else."""
    if isinstance(x, types.FunctionType):
        names, every = {n for code in codes(x.__code__) for n in code.co_names}, x.__globals__
        used = lambda: {n: every[n] for n in names if n in every}  # noqa: E731
        yield "", used, every.__setitem__, every.__delitem__
        name, x = x.__name__, vars(x)
    if isinstance(x, type):
        yield x.__name__, lambda: {**vars(x)}, partial(type.__setattr__, x), partial(type.__delattr__, x)
    elif not isinstance(x, Param):
        for held in (x, getattr(x, "__dict__", None)):
            if isinstance(held, dict):
                yield name, partial(dict, held), held.__setitem__, held.__delitem__
        yield name, partial(in_slots, x), partial(object.__setattr__, x), partial(object.__delattr__, x)


def _is_of_python(kind: type[Any]) -> bool:
    top = str(kind.__module__).partition(".")[0]
    return top in sys.stdlib_module_names and not issubclass(kind, _NO_HOLDERS)


def _of_module(name: str, module: types.ModuleType, code: types.CodeType) -> Iterator[tuple[str, Any]]:
    """Give what code may use of a module; Python's own and ours have nothing that changes."""
    top = module.__name__.partition(".")[0]
    if top not in sys.stdlib_module_names and top not in ("numpy", "minidiff"):
        yield from ((f"{name}.{n}", vars(module)[n]) for n in code.co_names if n in vars(module))


def closure(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Give the variables of an outer function that a function uses, where they have a value yet."""
    yield from ((name, x) for name, _, x in _cells(f))


def _cells(f: types.FunctionType) -> Iterator[tuple[str, types.CellType, Any]]:
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        with suppress(ValueError):
            yield name, cell, cell.cell_contents


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
        # Of an object that is there already what has made it is not read again.
        made = () if name else ("__init__", "__new__", "__post_init__", "__dataclass_fields__")
        yield from ((n, f"{x.__name__}.{n}", v) for n, v in vars(x).items() if n not in made)
    elif not isinstance(x, known):
        for kind in type(x).__mro__:
            if kind.__module__ != "builtins":
                yield "__class__", "", kind
        yield from ((n, f"{name}.{n}".lstrip("."), v) for n, v in attributes_of(x).items())


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
