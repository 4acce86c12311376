"""What a function can reach by names, and what its arrays and parameters are called there."""

from __future__ import annotations

import dis
import gc
import inspect
import logging
import random
import re
import sys
import types
import weakref
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from itertools import accumulate, islice
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minidiff.checks import is_ndarray
from minidiff.interrupts import trying
from minidiff.params import Param, attributes_of, in_dict, in_slots
from minidiff.program.lines import free_name
from minidiff.program.listing import StandIn
from minidiff.program.signature import (
    ARRAYS,
    OF_PYTHON,
    SEQUENCES,
    cells_of,
    held_by,
    held_next_by,
    is_known,
    iterated,
    objects_in,
    parts_of,
)

__all__ = ["Names", "Reach", "Seen", "closure", "codes", "global_names", "rebound"]

# With these names in its code a function may read any attribute.
_ANY = {"__dict__", "__getattribute__", "asdict", "astuple", "attrgetter", "eval", "exec", "getattr", "vars"}
# In these methods such names do not count: they set, show or copy an object, which no loss goes by.
_ASIDE = {"__setattr__", "__delattr__", "__repr__", "__str__", "__dir__", "__getstate__", "__setstate__"}
# A function without any of these names makes no Python number of an array.
_TO_NUMBER = {"complex", "eval", "exec", "float", "getattr", "int", "item", "math", "round", "tolist"}
# Bytes of found arrays that a program may compare at every call with what they were.
COMPARED = 2**20
# The number of things that it looks at, and what stands for all others.
THINGS = 20_000
MORE = "…", np.zeros(0, object)
_OF_ENUMS = {"_member_map_", "_value_"}
# Attributes in which objects of ours, and of NumPy's, have arrays or functions of the user's.
_OF_OURS = {"_loss", "coeffs", "data", "pyfunc"}
# Python's own arrays, of which NumPy can make arrays.
_BUFFERS = bytearray, array
_PLAIN = str, bytes, int, float, complex, type(None)
# Where random numbers come from.
_RANDOM = (
    np.random.Generator, np.random.BitGenerator, np.random.SeedSequence, np.random.RandomState, random.Random,
)  # fmt: skip
# Classes of Python's own objects that need no search: it is done elsewhere, they hold nothing, or nobody
# changes them.
_NO_HOLDERS = (
    type, types.ModuleType, types.CodeType, types.FrameType, types.BuiltinFunctionType, random.Random,
    type(cache(int)), logging.Logger,
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
    imported : callable
        What stands for a module that it imports.

    Attributes
    ----------
    found : list of (str, object)
        What it reaches, with names.
    arrays : list of (str, object)
        The arrays among that, and buffers of Python's own.
    makes_numbers : bool
        Whether it may make Python numbers of arrays.
    goes_by_ids : bool
        Whether it may ask by another name for the id of an object, of which a copy has another.
    reads_any : bool
        Whether it may read attributes of any name.
    """

    def __init__(
        self, f: Any, args: Sequence[Any] = (), imported: Callable[[Any], Any] = lambda module: module
    ) -> None:
        self.f, self._imported = f, imported
        self.found: list[tuple[str, Any]] = []
        self.goes_by_ids = self.reads_any = False
        self._names: set[str] = set()  # all that are in its code
        self._read: set[str] = set()  # those that it may read of something else than a module
        self._matched: set[str] = set()  # those that it may read where it matches patterns of classes
        self._seen: dict[Any, Any] = {}  # holds what it has seen, so that no id is given twice
        self._holders: dict[int, list[Any]] = {}  # by the id of a thing that it reaches: what holds it
        waiting: list[tuple[str, Any]] = [("", x) for x in (*objects_in(args), f)]
        attributes: list[tuple[str, str, Any]] = []
        of_modules: list[tuple[str, str, Any]] = []
        while waiting and len(self._seen) < THINGS:
            name, x = waiting.pop()
            if self._is_new(name, x) and (x is f or not is_known(x)):
                self.found.append((name, x))
                # Parameters and arrays of numbers hold nothing.
                if not isinstance(x, Param) and (type(x) not in ARRAYS or x.dtype == object):
                    held, named = self._listed(self._held(name, x)), self._listed(_attributes(name, x))
                    waiting += held
                    (of_modules if isinstance(x, types.ModuleType) else attributes).extend(named)
                    for item in (*held, *named):
                        self._holders.setdefault(id(item[-1]), []).append(x)
            if not waiting:
                self.reads_any = bool(self._names & _ANY)
                self._read |= self._matched if "__match_args__" in self._read else set()
                waiting = [(name, x) for n, name, x in attributes if self.is_named(n)]
                attributes = [some for some in attributes if not self.is_named(some[0])]
                waiting += [(name, x) for n, name, x in of_modules if n in self._names]
                of_modules = [some for some in of_modules if some[0] not in self._names]
        if waiting:
            self.found.append(MORE)
        self.arrays = [
            (name, x)
            for name, x in self.found
            if is_ndarray(x) or isinstance(x, _BUFFERS) or _is_of_pandas(x)
        ]
        self.makes_numbers = bool(self._names & _TO_NUMBER)
        self._generators: list[Any] = [np.random.mtrand._rand, random._inst]
        self._generators += [x for _, x in self.found if isinstance(x, _RANDOM)]

    def _is_new(self, name: str, x: Any) -> bool:
        """Tell whether something is to be looked into, and has not been; take note of what it is."""
        if type(x) is StandIn or _cannot_be_asked(x) or isinstance(x, _PLAIN):
            return False
        key = (id(x), isinstance(x, type) and bool(name))  # a class by its name may be called
        if key in self._seen:
            return False
        self._seen[key] = x
        if isinstance(x, type):
            self._matched.update(vars(x).get("__match_args__", ()))
        self.goes_by_ids |= x is id
        if x is float or x is int or x is complex or _is_of_math(x):  # the name may be another
            self._names.add("float")
        return True

    def _listed(self, items: Iterator[Any]) -> list[Any]:
        """List what an iterator gives, up to where it fails: what is asked may be of any kind."""
        found: list[Any] = []
        with trying():
            found.extend(islice((item for item in items if type(item[-1]) not in _PLAIN), THINGS))
        if len(found) == THINGS:
            self.found.append(MORE)
        return found

    def is_named(self, name: str) -> bool:
        """Tell whether it may read an attribute of this name."""
        return self.reads_any or name in self._read or name.startswith("__") or name in _OF_ENUMS

    @property
    def names_read(self) -> frozenset[str]:
        """The names of the attributes that it may read, unless it may read any."""
        return frozenset(self._read)

    def is_named_of_module(self, name: str) -> bool:
        """Tell whether it may read this name of a module."""
        return self.reads_any or name in self._names or name.startswith("__")

    def _held(self, name: str, x: Any) -> Iterator[tuple[str, Any]]:
        """Give what something holds otherwise than as attributes."""
        if isinstance(x, types.FunctionType):
            yield from closure(x)
            yield from self._globals(x.__code__, x.__globals__)
            yield from (("", d) for d in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()))
            yield from vars(x).items()
        elif isinstance(x, types.MethodType):
            yield from (("", x.__func__), ("", x.__self__))
        elif isinstance(x, types.BuiltinFunctionType):
            yield "", x.__self__
        elif isinstance(x, partial):
            yield from (("", x.func), ("", x.args), ("", x.keywords))
        elif isinstance(x, property):
            yield "", x.fget
        elif isinstance(x, (classmethod, staticmethod)):
            yield "", x.__func__
        elif type(x) in weakref.ProxyTypes:
            yield name, x.__repr__.__self__
        elif isinstance(x, dict) or (isinstance(x, Mapping) and is_known(type(x))):
            items = [*(dict.items(x) if isinstance(x, dict) else x.items())]
            yield from (("", key) for key, _ in items if _may_be_copied(key))
            yield from ((key if type(key) is str else "", item) for key, item in items)
            yield from ((name, item) for item in attributes_of(x).values())
        elif isinstance(x, SEQUENCES):
            yield from ((f"{name}[{i}]" if name else "", item) for i, item in enumerate(iterated(x)))
        elif is_ndarray(x) and x.dtype == object:
            yield from ((name, item) for item in x.flat)
        elif isinstance(x, (weakref.ref, ContextVar)):
            with suppress(LookupError):
                yield name, x() if isinstance(x, weakref.ref) else x.get()
        elif isinstance(x, (attrgetter, methodcaller)):
            self._names.add("getattr")
        elif _is_of_python(type(x)):  # an iterator, what keeps results
            yield from ((name, item) for item in gc.get_referents(x) if not isinstance(item, type))

    def _globals(self, code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        every = [*codes(code)]
        used = {name for c in every for name in c.co_names} - (_ANY if code.co_name in _ASIDE else set())
        consts = [text for c in every for x in c.co_consts for text in (x if type(x) is tuple else (x,))]
        texts = {text for text in consts if type(text) is str}
        written = {name for text in texts if "{" in text for name in re.findall(r"\.(\w+)", text)}
        self._names |= used | texts | written
        self._read |= texts | written
        self._read.update(chain[-1] for c in every for chain in _chains(c) if not _is_of_module(chain, names))
        yield from ((name, names[name]) for name in global_names(code, names))
        for some, given in (
            (used, self._imported),
            (texts, lambda module: module),
        ):  # import m, sys.modules["m"]
            for name in sorted(some - names.keys()):
                for module in (name, f"{names.get('__package__')}.{name}"):
                    if module in sys.modules:  # "import a.b" goes by a, of which there may be no copy
                        found = sys.modules[module]
                        yield name, found if "." in name else given(found)

    def snapshot(self, of_large: bool = False) -> list[Seen]:
        """Note what the smaller arrays that it finds hold; or a sum of it, of the others that can change."""
        arrays = [(name, x) for name, x in self.arrays if x is not MORE[1]]
        arrays.sort(key=lambda item: _bytes_of(item[1]))
        few = sum(n <= COMPARED for n in accumulate(_bytes_of(x) for _, x in arrays))
        if of_large:
            return [Seen(name, x, np.shape(x), _sum_of(x)) for name, x in arrays[few:] if _has_a_sum(x)]
        return [Seen(name, x, np.shape(x), _bytes_in(x), _objects_in(x)) for name, x in arrays[:few]]

    def finds(self, array: Any) -> bool:
        """Tell whether it finds this array."""
        return any(x is array for _, x in self.arrays)

    def array(self, line: str) -> str:
        """Describe the arrays that a line may use, if there are any: those that it names."""
        named = [
            f"{name}, of shape {np.shape(x)}"
            for name, x in self.arrays
            if re.search(rf"(?<!\w){re.escape(name or '…')}(?!\w)", line)
        ]
        return " or ".join(named) or ("an array that it finds by name" if self.arrays else "")

    def leading(self) -> dict[int, Any]:
        """Give the arrays of numbers that it finds, and all that leads to them, by their ids."""
        leading: dict[int, Any] = {}
        waiting = [x for _, x in self.found if type(x) in ARRAYS and x.dtype.kind in "biufc"]
        while waiting:
            x = waiting.pop()
            if id(x) not in leading:
                leading[id(x)] = x
                waiting += self._holders.get(id(x), ())
        return leading

    def remembered(self, args: tuple[Any, ...]) -> Callable[[], list[str]]:
        """Note what the things that it reaches hold, and so for arguments.

        Returns
        -------
        callable
            Puts it back in the place of stand-ins, and gives the names of what held these.
        """
        of_args = [(f"argument {i}", held) for i, x in enumerate(args) for held in held_by(x)]
        found = [*self.found, *of_args]
        lists = [(name, x, [*iterated(x)]) for name, x in found if isinstance(x, (list, deque))]
        objects = [(name, x, x.copy()) for name, x in found if is_ndarray(x) and x.dtype == object]
        functions = [x for _, x in found if isinstance(x, types.FunctionType)]
        cells = [cell for f in functions for cell in cells_of(f)]
        holders = [(*holder, dict(holder[1]())) for name, x in found for holder in _holders(name, x)]

        def put_back() -> list[str]:
            left = []
            for name, items, were in lists:
                old = set(map(id, were))
                if _stands_in([item for item in iterated(items) if id(item) not in old]):
                    left.append(name)
                    items.clear()
                    items.extend(were)
            for name, x, was in objects:
                if _stands_in([a for a, b in zip(x.flat, was.flat, strict=True) if a is not b]):
                    left.append(name)
                    x[...] = was
            for name, cell, then in cells:
                if cell.cell_contents is not then and _stands_in(cell.cell_contents):
                    left.append(name)
                    cell.cell_contents = then
            for name, held, put, drop, before in holders:
                now = held()
                for key in {**before, **now}:
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


class Seen(NamedTuple):
    """An array, or a buffer of Python's own, and what it held."""

    name: str
    array: Any
    shape: tuple[int, ...]
    held: bytes | int | None  # or a sum of it; None of what pandas compares
    # A copy of an array of objects, whose bytes are the objects' addresses: it keeps the objects alive. Also
    # a copy of what holds more than numbers: a mask, the columns of pandas.
    objects: Any = None

    def has_changed(self) -> bool:
        """Tell whether it holds something else now."""
        if self.held is None:
            return not self.array.equals(self.objects)
        held_now = _sum_of if isinstance(self.held, int) else _bytes_in
        return np.shape(self.array) != self.shape or held_now(self.array) != self.held

    def put_back(self) -> None:
        """Let it hold what it held, if it has changed, and if that is known and can be written to it."""
        if isinstance(self.held, int) or not self.has_changed():
            return
        with suppress(ValueError, TypeError):
            if self.held is None:
                self.array.iloc[:] = self.objects
            elif self.objects is not None:
                self.array[...] = self.objects
            elif is_ndarray(self.array):
                self.array[...] = np.frombuffer(self.held, self.array.dtype).reshape(self.shape)
            else:
                memoryview(self.array).cast("B")[:] = self.held


def _is_of_pandas(x: Any) -> bool:
    """Tell whether something is a frame or a series of pandas, whose arrays only pandas reaches."""
    return str(type(x).__module__).partition(".")[0] == "pandas" and hasattr(type(x), "iloc")


def _bytes_in(x: Any) -> bytes | None:
    if isinstance(x, np.ma.MaskedArray):
        return bytes(x.data.tobytes() + np.ma.getmaskarray(x).tobytes())
    if is_ndarray(x):
        return x.tobytes()
    return None if _is_of_pandas(x) else bytes(x)


def _objects_in(x: Any) -> Any:
    holds_more = isinstance(x, np.ma.MaskedArray) or _is_of_pandas(x) or (is_ndarray(x) and x.dtype.hasobject)
    return x.copy() if holds_more else None


def _has_a_sum(x: Any) -> bool:
    return x.flags.writeable and not x.dtype.hasobject if is_ndarray(x) else isinstance(x, _BUFFERS)


def _sum_of(x: Any) -> int:
    return zlib.crc32(np.asarray(x).ravel("K").view(np.uint8).data)


def _bytes_of(x: Any) -> int:
    if _is_of_pandas(x):
        return int(np.sum(x.memory_usage()))
    return x.nbytes if is_ndarray(x) else memoryview(x).nbytes


def _stands_in(x: Any) -> bool:
    """Tell whether something is or holds a stand-in, a function in its variables as well."""
    return any(type(held) is StandIn for held in held_by(x, _held_next_by))


def _held_next_by(x: Any) -> list[Any]:
    if isinstance(x, types.FunctionType):
        return [*(value for *_, value in cells_of(x)), x.__defaults__, x.__kwdefaults__]
    if isinstance(x, types.MethodType):
        return [x.__self__]
    of_partial = [x.args, x.keywords] if isinstance(x, partial) else []
    return [*of_partial, *held_next_by(x)]


# Something that holds things by keys: its name, and functions that give all, put one there, take one away.
_Holder: TypeAlias = tuple[str, Callable[[], Mapping[Any, Any]], Callable[..., None], Callable[..., None]]


def _holders(name: str, x: Any) -> Iterator[_Holder]:
    """Give what of a thing may come to hold something else."""
    if isinstance(x, types.FunctionType):
        code, every = x.__code__, x.__globals__
        yield (
            "",
            lambda: {n: every[n] for n in global_names(code, every)},
            every.__setitem__,
            every.__delitem__,
        )
        name, x = x.__name__, vars(x)
    if isinstance(x, type):
        yield x.__name__, lambda: {**vars(x)}, partial(type.__setattr__, x), partial(type.__delattr__, x)
    elif not isinstance(x, Param):
        for held in (x, in_dict(x)):
            if isinstance(held, dict):
                yield name, partial(dict, held), held.__setitem__, held.__delitem__
        if type(x).__flags__ & OF_PYTHON:
            yield name, partial(in_slots, x), partial(object.__setattr__, x), partial(object.__delattr__, x)


def _may_be_copied(key: Any) -> bool:
    """Tell whether a key of a dict may be or hold what is copied: then there has to be a copy of the dict."""
    if type(key) is tuple:
        return any(map(_may_be_copied, key))
    return isinstance(key, (type, types.FunctionType, types.MethodType)) or not is_known(type(key))


def _is_of_python(kind: type[Any]) -> bool:
    top = str(kind.__module__).partition(".")[0]
    return top in sys.stdlib_module_names and not issubclass(kind, _NO_HOLDERS)


def _cannot_be_asked(x: Any) -> bool:
    """Tell whether even `isinstance` fails, as for a weak proxy of what is gone."""
    with trying():
        isinstance(x, type)
        return False
    return True


def _is_of_math(x: Any) -> bool:
    return isinstance(x, types.BuiltinFunctionType) and x.__module__ == "math"


def closure(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Give the variables of an outer function that a function uses, where they have a value yet."""
    yield from ((name, x) for name, _, x in cells_of(f))


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give a function's code, and that of the functions within it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from codes(inner)


def global_names(code: types.CodeType, names: dict[str, Any]) -> list[str]:
    """List those global names that code may read or bind, that of the functions within it as well."""
    every = {name for inner in codes(code) for name in _of_globals(inner)}
    return [*names] if every & {"globals", "eval", "exec"} else sorted(every & names.keys())


def rebound(f: types.FunctionType) -> Iterator[str]:
    """Give the variables of an outer function, and the global ones, to which a function assigns."""
    outer = f.__code__.co_freevars
    for code in codes(f.__code__):
        for step in dis.get_instructions(code):
            to_outer = step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in outer
            if to_outer or step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                yield step.argval


@lru_cache(4096)
def _of_globals(code: types.CodeType) -> frozenset[str]:
    every = (i.argval for i in dis.get_instructions(code) if i.opname.endswith(("_GLOBAL", "_NAME")))
    return frozenset(name for name in every if name.isidentifier())  # pytest's assertions have others


@lru_cache(4096)
def _chains(code: types.CodeType) -> frozenset[tuple[str, ...]]:
    """Give the attributes that code reads, after the global name and the attributes that lead to each.

    Of ``np.linalg.norm`` these are ``("np", "linalg")`` and ``("np", "linalg", "norm")``; where no global
    name leads to it, ``("", "norm")``.
    """
    chain: tuple[str, ...] = ("",)
    chains = set()
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            chain = (step.argval,)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = (*(("",) if step.is_jump_target else chain), step.argval)
            chains.add(chain)
        else:
            chain = ("",)
            if step.opname == "MATCH_CLASS":
                chains.add(("", "__match_args__"))
            elif step.argval in code.co_names and not step.opname.endswith("_GLOBAL"):
                chains.add(("", step.argval))
    return frozenset(chains)


def _is_of_module(chain: tuple[str, ...], names: dict[str, Any]) -> bool:
    """Tell whether what is before the last of these names is a module."""
    x = names.get(chain[0])
    for name in chain[1:-1]:
        x = vars(x).get(name) if issubclass(type(x), types.ModuleType) else None
    return issubclass(type(x), types.ModuleType)


def _is_of_dataclass(kind: type, x: Any) -> bool:
    """Tell whether it is what `dataclass` writes, which names all fields."""
    code = getattr(inspect.unwrap(x), "__code__", None) if isinstance(x, types.FunctionType) else None
    return "__dataclass_fields__" in vars(kind) and code is not None and code.co_filename == "<string>"


def _state(g: Any) -> Any:
    if isinstance(g, random.SystemRandom):  # it has no state: each draw is new
        return object()
    if isinstance(g, random.Random):
        return g.getstate()
    g = g.bit_generator if isinstance(g, np.random.Generator) else g
    state = g.get_state(legacy=False) if isinstance(g, np.random.RandomState) else g.state
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in parts_of(state)]


def _attributes(name: str, x: Any) -> Iterator[tuple[str, str, Any]]:
    """Give the attributes of an object and of its classes: name, how it is shown, value."""
    known = (
        types.FunctionType, types.MethodType, types.BuiltinFunctionType, partial, Mapping, list, tuple, set,
        frozenset, np.ndarray, np.generic, property, classmethod, staticmethod,
    )  # fmt: skip
    if isinstance(x, types.ModuleType):
        yield from ((n, f"{name}.{n}", v) for n, v in vars(x).items())
    elif isinstance(x, type):
        yield from (
            ("__class__", "", kind) for kind in (type(x), *x.__bases__) if kind.__module__ != "builtins"
        )
        # What has made an object is not read again where the object is there already.
        made = () if name else ("__init__", "__new__", "__post_init__", "__dataclass_fields__")
        yield from (
            (n, f"{x.__name__}.{n}", v)
            for n, v in vars(x).items()
            if n not in made and not _is_of_dataclass(x, v)
        )
    elif not (isinstance(x, known) and is_known(type(x))):
        for kind in type(x).__mro__:
            if kind.__module__ != "builtins":
                yield "__class__", "", kind
        of_library = any(is_known(kind) for kind in type(x).__mro__ if kind.__module__ != "builtins")
        is_others = str(type(x).__module__).startswith(("numpy.", "scipy."))
        for n, v in attributes_of(x).items():
            always = of_library and (is_others or n in _OF_OURS)  # their classes are not looked into
            yield "__class__" if always else n, f"{name}.{n}".lstrip("."), v


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
        self.taken = taken = {"value", "step"}
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
