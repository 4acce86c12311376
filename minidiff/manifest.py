"""How the values of a checkpoint are written down: as JSON, with the arrays by name.

A value becomes a node. A node is None, a bool, a number, a string or a list of nodes, which JSON can say, or
``{tag: content}`` for everything else. There are two kinds of values. *Data* are rebuilt from their nodes:
numbers, strings, arrays, lists, tuples, dicts, NumPy generators. What belongs to the *program* is not:
objects such as optimisers, of which only the attributes are written, and code (functions, schedules), of
which only the type is. The program that loads has to bring those again; `Decoder.restore` checks that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from minidiff.checks import described
from minidiff.iddict import IdDict
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.rule import Rule
from minidiff.params import Param, Params
from minidiff.typing import Array

__all__ = ["Array", "Decoder", "Encoder", "Node", "contiguous"]

Node = Any

CONTAINERS = (list, tuple, dict)
DEEPEST = 100  # levels of containers in each other
ARRAYS = (np.ndarray, np.generic, np.random.Generator, Param, Params)
DATA = (type(None), bool, int, float, complex, str, bytes, *CONTAINERS, *ARRAYS)
PROGRAM = ("object", "iddict", "code", "seen")


def _is_object(value: object) -> bool:
    """Tell whether a value is written as its attributes: an optimiser, or what else keeps state in them."""
    if isinstance(value, AbstractOptimiser):
        return True
    known = isinstance(value, (*DATA, IdDict)) or _is_code(value)
    return not known and hasattr(value, "__dict__")


def _is_code(value: object) -> bool:
    """Tell whether a value is a function, a class, a schedule, a module: nothing that changes in a run."""
    return callable(value) or isinstance(value, ModuleType)


def _type_name(value: object) -> str:
    return type(value).__qualname__


def contiguous(a: Array) -> Array:
    """Give an array without gaps. C or Fortran order stays, since sums may depend on it in their last bit."""
    return np.asarray(a) if a.flags.forc else np.ascontiguousarray(a)


class Encoder:
    """Turns values into nodes, and collects their arrays under names of its own.

    Parameters
    ----------
    prefix : str
        What the names of the arrays begin with.
    ps : iterable of Param
        The parameters that may occur; they are written as their positions.

    Attributes
    ----------
    arrays : dict of ndarray
        The arrays of all values encoded so far.
    """

    def __init__(self, prefix: str, ps: Iterable[Param] = ()) -> None:
        self.arrays: dict[str, Array] = {}
        self._prefix = prefix
        self._positions = {id(p): i for i, p in enumerate(ps)}
        self._names: dict[int, tuple[str, Array]] = {}  # by id, with the array, whose id it stays that way
        self._seen: dict[int, int] = {}
        self._depth = 0

    def program(self, value: Any, where: str) -> Node:
        """Encode an optimiser, or anything that one may hold; `where` is what messages call it."""
        if isinstance(value, IdDict) or _is_object(value):
            if id(value) in self._seen:
                return {"seen": self._seen[id(value)]}
            self._seen[id(value)] = len(self._seen)
            return self._iddict(value, where) if isinstance(value, IdDict) else self._object(value, where)
        if _is_code(value):
            return {"code": _type_name(value)}
        return self.data(value, where, self.program)

    def _object(self, value: Any, where: str) -> Node:
        attributes = {name: self.program(part, f"{where}.{name}") for name, part in vars(value).items()}
        return {"object": [_type_name(value), attributes]}

    def _iddict(self, value: IdDict[Any, Any], where: str) -> Node:
        found = ((self._positions.get(id(p)), part) for p, part in value.items())
        return {"iddict": [[i, self.data(x, f"{where}[parameter {i}]")] for i, x in found if i is not None]}

    def data(self, value: Any, where: str, part: Callable[[Any, str], Node] | None = None) -> Node:
        """Encode data; `part` is how to encode what its containers hold, as data unless given."""
        part = part or self.data
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is complex:
            return {"complex": [self.data(value.real, where), self.data(value.imag, where)]}
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind in CONTAINERS:
            return self._container(value, where, part)
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), where)}
        if kind in (np.ndarray, np.memmap):
            return {"array": self._array(value, where)}
        if kind is np.random.Generator:
            return {"generator": self.data(value.bit_generator.state, where)}
        if id(value) in self._positions:
            return {"parameter": self._positions[id(value)]}
        if kind is Params:
            return {"params": [self.data(p, f"{where}[{i}]") for i, p in enumerate(value)]}
        raise TypeError(f"{where} cannot be stored in a checkpoint: {_hint(value)}")

    def _container(self, value: Any, where: str, part: Callable[[Any, str], Node]) -> Node:
        # Well before Python's own limit, at which a C function on the way may crash.
        if self._depth == DEEPEST:
            raise ValueError(f"{where:.40}… is nested too deeply, or holds itself: it cannot be stored")
        self._depth += 1
        try:
            if type(value) is dict:
                keys = [self.data(key, f"a key of {where}") for key in value]
                parts = [part(x, f"{where}[{key!r}]") for key, x in value.items()]
                return {"dict": [[key, x] for key, x in zip(keys, parts, strict=True)]}
            parts = [part(x, f"{where}[{i}]") for i, x in enumerate(value)]
            return parts if type(value) is list else {"tuple": parts}
        finally:
            self._depth -= 1

    def _array(self, value: Array, where: str) -> str:
        if not _is_storable(value.dtype):
            raise TypeError(f"{where} cannot be stored in a checkpoint: it is an array of {value.dtype!r}")
        # An array that is in two places is written once, and is in both places again when read.
        if id(value) not in self._names:
            name = f"{self._prefix}/{len(self.arrays)}"
            self._names[id(value)] = name, value
            self.arrays[name] = contiguous(value)
        return self._names[id(value)][0]


def _hint(value: object) -> str:
    if isinstance(value, Param):
        return "it is a parameter that is not in ps; add it there, or store its value (p.value)"
    if isinstance(value, AbstractOptimiser):
        return f"it is an optimiser ({_type_name(value)}); give it as opt: save(path, ps, opt)"
    return (
        f"it is a {_type_name(value)}; "
        "what can be are numbers, strings, lists, tuples, dicts, arrays and NumPy's generators"
    )


def _is_storable(dtype: np.dtype[Any]) -> bool:
    """Tell whether the .npy format gives the very same dtype back without a pickle."""
    if dtype.hasobject:
        return False
    descr = np.lib.format.dtype_to_descr(dtype)
    return bool(np.lib.format.descr_to_dtype(descr) == dtype)


class Decoder:
    """Turns nodes back into values. Nothing changes until all are read; then `commit` makes the changes.

    Parameters
    ----------
    file : str
        What messages call the file.
    arrays : dict of ndarray
        Its arrays.
    ps : Params
        The parameters that the positions stand for.
    """

    def __init__(self, file: str, arrays: dict[str, Array], ps: Params) -> None:
        self._file = file
        self._arrays = arrays
        self._ps = ps
        self._seen: list[Any] = []
        self._changes: list[Callable[[], object]] = []

    def commit(self) -> None:
        """Make the changes in what `restore` was given."""
        for change in self._changes:
            change()

    def restore(self, node: Node, live: Any, where: str) -> Any:
        """Give what is to stand in place of `live`, which must be of the structure that was written."""
        tag, content = _tagged(node)
        if tag == "object":
            return self._object(content, live, where)
        if tag == "iddict":
            return self._iddict(content, live, where)
        if tag == "code":
            self._check(_is_code(live) and _type_name(live) == content, content, live, where)
            return live
        if tag == "seen":
            self._check(self._seen[content] is live, "an object that is also elsewhere", live, where)
            return live
        if not _is_data(node):
            return self._container(tag, content, live, where)
        self._check(isinstance(live, DATA), "a plain value", live, where)
        return self._generator(self.data(node), live)

    def _object(self, content: Node, live: Any, where: str) -> Any:
        kind, attributes = content
        self._check(_is_object(live) and _type_name(live) == kind, kind, live, where)
        self._seen.append(live)
        mine = vars(live)
        lacking = sorted(mine.keys() - attributes.keys())
        if lacking:
            raise ValueError(f"{self._file} does not fit: it has nothing for {where}.{lacking[0]}")
        if isinstance(live, Rule):
            tag, state = _tagged(attributes["state"])
            for _, part in state if tag == "iddict" else ():
                kept = sorted({self.data(key) for key, _ in _tagged(part)[1]} - {"clock"})
                self._check(kept == sorted(live.keeps), f"a rule that keeps {kept}", live, where)
        # An optimiser may add plain values to itself in its first step: those need not be there yet.
        new = {
            name: self.restore(part, mine.get(name), f"{where}.{name}") for name, part in attributes.items()
        }
        self._changes.append(lambda: mine.update(new))
        return live

    def _iddict(self, content: Node, live: Any, where: str) -> Any:
        self._check(isinstance(live, IdDict), "IdDict", live, where)
        self._seen.append(live)
        new = [(self._ps[i], self.data(part)) for i, part in content]

        def change() -> None:
            for p in self._ps:
                live.pop(p, None)
            for p, value in new:
                live[p] = value

        self._changes.append(change)
        return live

    def _container(self, tag: str, content: Node, live: Any, where: str) -> Any:
        """Restore the objects in a list, tuple or dict in place; there must be as many as there were."""
        kind = {"": list, "tuple": tuple, "dict": dict}[tag]
        self._check(
            type(live) is kind and len(live) == len(content),
            f"{kind.__name__} of {len(content)}",
            live,
            where,
        )
        keys = [self.data(key) for key, _ in content] if tag == "dict" else list(range(len(content)))
        parts = [part for _, part in content] if tag == "dict" else content
        if tag == "dict":
            self._check(live.keys() == set(keys), f"dict of {keys}", live, where)
        new = [
            self.restore(part, live[key], f"{where}[{key!r}]") for key, part in zip(keys, parts, strict=True)
        ]
        if tag == "tuple":
            return tuple(new)
        for key, value in zip(keys, new, strict=True):
            self._changes.append(partial(live.__setitem__, key, value))
        return live

    def _generator(self, value: Any, live: Any) -> Any:
        """Set a generator that is there to the state that was stored: others may draw from it too."""
        if type(value) is not np.random.Generator or type(live) is not np.random.Generator:
            return value
        mine, stored = live.bit_generator, value.bit_generator
        if type(mine) is not type(stored):
            return value
        self._changes.append(lambda: setattr(mine, "state", stored.state))
        return live

    def _check(self, fits: bool, stored: str, live: Any, where: str) -> None:
        if not fits:
            raise ValueError(
                f"{self._file} does not fit: {where} was {stored} when saved, but is {described(live)}"
            )

    def data(self, node: Node) -> Any:
        """Decode data."""
        tag, content = _tagged(node)
        match tag:
            case "":
                return [self.data(part) for part in content] if isinstance(content, list) else content
            case "float":
                return float(content)
            case "complex":
                return complex(*map(self.data, content))
            case "bytes":
                return bytes.fromhex(content)
            case "tuple":
                return tuple(map(self.data, content))
            case "dict":
                return {self.data(key): self.data(part) for key, part in content}
            case "scalar":
                return self._arrays[content][()]
            case "array":
                return self._arrays[content]
            case "generator":
                return _new_generator(self.data(content))
            case "parameter":
                return self._ps[content]
            case "params":
                return Params(map(self.data, content))
        raise ValueError(f"{self._file} is no checkpoint: its manifest says {tag!r}")


def _tagged(node: Node) -> tuple[str, Any]:
    return next(iter(node.items())) if isinstance(node, dict) else ("", node)


def _is_data(node: Node) -> bool:
    tag, content = _tagged(node)
    return tag not in PROGRAM and (not isinstance(content, list) or all(map(_is_data, content)))


def _new_generator(state: dict[str, Any]) -> np.random.Generator:
    kind = getattr(np.random, state["bit_generator"])
    if not issubclass(kind, np.random.BitGenerator):
        raise ValueError(f"NumPy has no generator {state['bit_generator']!r}")
    bits = kind()
    bits.state = state
    return np.random.Generator(bits)
