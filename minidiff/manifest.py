"""How the values of a checkpoint are written down: as JSON, with the arrays by name.

A value becomes a node. A node is None, a bool, a number, a string or a list of nodes, which JSON can say, or
``{tag: content}`` for everything else. There are two kinds of values. *Data* are rebuilt from their nodes:
numbers, strings, arrays, containers, dates, generators. What belongs to the *program* is not: objects such as
optimisers, of which only the attributes are written, and code (functions, classes, schedules), of which only
the type is. The program that loads has to bring those again; `Decoder.restore` checks that, except for code,
which is always that of the program.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copyreg import __newobj__ as new_object  # type: ignore[attr-defined]
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from functools import cached_property, partial
from inspect import getattr_static
from numbers import Number, Real
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np

from minidiff.checks import bit_generator, described
from minidiff.iddict import IdDict
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.rule import Rule
from minidiff.params import Param, Params
from minidiff.program.reach import closure, rebound
from minidiff.tracing import constant, is_recorded
from minidiff.typing import Array

__all__ = ["Decoder", "Encoder", "MisfitError"]

Node = Any

CONTAINERS = (list, tuple, dict)
DEEPEST = 100  # levels of containers in each other
FACTORIES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set)}


class MisfitError(ValueError):
    """Raised where what is stored cannot be taken; the message goes on from the file's name."""


def _factory_name(factory: Any) -> str | None:
    if factory is not None and FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        raise TypeError(f"its factory is {factory!r}, not one of {', '.join(FACTORIES)}")
    return factory and factory.__name__


SET_STATE: dict[Any, Callable[[Any, Any], object]] = {
    np.random.Generator: lambda rng, state: setattr(rng.bit_generator, "state", state),
    np.random.RandomState: np.random.RandomState.set_state,
    random.Random: random.Random.setstate,
}


def _in_state(rng: Any, state: Any) -> Any:
    SET_STATE[type(rng)](rng, state)
    return rng


# Data that are made of other data: how to get these from them, and how to make them again.
MADE: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: (bytes.hex, bytes.fromhex),
    complex: (lambda x: [x.real, x.imag], lambda made: complex(*made)),
    Params: (list, Params),
    set: (lambda x: sorted(x, key=repr), set),
    frozenset: (lambda x: sorted(x, key=repr), frozenset),
    deque: (lambda x: (list(x), x.maxlen), lambda made: deque(*made)),
    OrderedDict: (lambda x: list(x.items()), OrderedDict),
    Counter: (dict, Counter),
    defaultdict: (
        lambda x: (_factory_name(x.default_factory), dict(x)),
        lambda made: defaultdict(made[0] and FACTORIES[made[0]], made[1]),
    ),
    date: (lambda x: (x.year, x.month, x.day), lambda made: date(*made)),
    time: (
        lambda x: (x.hour, x.minute, x.second, x.microsecond, x.tzinfo, x.fold),
        lambda made: time(*made[:-1], fold=made[-1]),
    ),
    datetime: (lambda x: (x.date(), x.timetz()), lambda made: datetime.combine(*made)),
    timedelta: (lambda x: (x.days, x.seconds, x.microseconds), lambda made: timedelta(*made)),
    timezone: (lambda x: x.__getinitargs__(), lambda made: timezone(*made)),
    np.random.Generator: (
        lambda x: x.bit_generator.state,
        lambda made: np.random.Generator(bit_generator("the state", made)),
    ),
    np.random.RandomState: (
        lambda x: x.get_state(legacy=False),
        lambda made: _in_state(np.random.RandomState(bit_generator("the state", made)), made),
    ),
    random.Random: (random.Random.getstate, lambda made: _in_state(random.Random(), made)),
}
TAG_OF = {kind: kind.__name__ for kind in MADE} | {np.random.Generator: "generator", Params: "params"}
TAGS = {tag: kind for kind, tag in TAG_OF.items()}
PLAIN: Any = (type(None), Number, str, bytes, Enum, np.generic, np.ndarray, Param, Params)
DATA: Any = (*PLAIN, *CONTAINERS, *MADE)
CONSTANT: Any = (*PLAIN, date, time, timedelta, timezone, range, slice, np.dtype, type, ModuleType)
METHODS = (MethodType, BuiltinFunctionType, MethodWrapperType)
PROGRAM = ("object", "iddict", "code", "method", "enum", "seen")


def _is_code(value: object) -> bool:
    """Tell whether a value is a function, a class, a schedule, a module: what the program brings again."""
    from minidiff.schedules.base import Schedule  # here, as not every program has schedules

    if isinstance(value, (type, ModuleType, Schedule)):
        return True
    return callable(value) and not isinstance(type(value).__call__, FunctionType)


def _is_object(value: object) -> bool:
    """Tell whether a value is written as its attributes: an optimiser, or what else keeps state in them."""
    return not isinstance(value, (*DATA, IdDict)) and not _is_code(value) and hasattr(value, "__dict__")


def _is_kept(owner: object) -> bool:
    """Tell whether the owner of a method is one whose state is stored and set where it is."""
    return isinstance(owner, (IdDict, *SET_STATE)) or _is_object(owner)


def _has_more_than_attributes(value: object) -> bool:
    """Tell whether an object keeps something elsewhere than in its ``__dict__``, as pickle finds out."""
    if type(value) is SimpleNamespace:
        return False
    try:
        reduced: Any = object.__reduce_ex__(value, 2)
        how, _, state, items, pairs = reduced
    except Exception:
        return True
    return how is not new_object or isinstance(state, tuple) or (items, pairs) != (None, None)


def _type_name(value: object) -> str:
    return type(value).__qualname__


class Encoder:
    """Turns values into nodes, and collects their arrays under names of its own.

    Parameters
    ----------
    prefix : str
        What the names of the arrays begin with.
    ps : Params
        The parameters that may occur; they are written as their positions.

    Attributes
    ----------
    arrays : dict of ndarray
        The arrays of all values encoded so far, themselves and no copies.
    """

    def __init__(self, prefix: str, ps: Params | None = None) -> None:
        self.arrays: dict[str, Array] = {}
        self._prefix = prefix
        ps = Params() if ps is None else ps
        self._positions = {id(p): i for i, p in enumerate(ps)}
        self._ids = {i: name for p, name in zip(ps, ps.names, strict=True) for i in (id(p), id(p.value))}
        self._parameter_names = ps.names
        self._names: dict[int, tuple[str, Array]] = {}  # by id; it holds the array, whose id no other gets
        self._seen: dict[int, int] = {}
        self._code: list[tuple[Any, str]] = []
        self._depth = 0

    def optimiser(self, opt: AbstractOptimiser) -> Node:
        """Encode an optimiser with all that it holds."""
        node = self.program(opt, "opt")
        for code, where in self._code:
            what = _remembers(code, lambda x: id(x) in self._seen or id(x) in self._positions)
            if what:
                raise _refusal(
                    where,
                    f"it is a {_type_name(code)} that {what}, and that would be lost. Attributes are stored: "
                    "of the optimiser, or of an object with __call__. What never changes may be in a tuple",
                )
        return node

    def program(self, value: Any, where: str) -> Node:
        """Encode an optimiser, or anything that one may hold; `where` is what messages call it."""
        if isinstance(value, IdDict) or _is_object(value):
            if id(value) in self._seen:
                return {"seen": self._seen[id(value)]}
            self._seen[id(value)] = len(self._seen)
            return self._iddict(value, where) if isinstance(value, IdDict) else self._object(value, where)
        if isinstance(value, METHODS) and _is_kept(value.__self__):
            return {"method": self.program(value.__self__, f"{where}.__self__")}
        if _is_code(value):
            self._code.append((value, where))
            return {"code": _type_name(value)}
        if isinstance(value, Enum) and type(value).__members__.get(value.name) is value:
            return {"enum": [_type_name(value), value.name]}
        return self.data(value, where, self.program)

    def _object(self, value: Any, where: str) -> Node:
        if _has_more_than_attributes(value):
            raise _refusal(where, f"it is a {_type_name(value)}, which keeps more than its attributes")
        for kind in type(value).__mro__:
            for name, part in vars(kind).items():
                if isinstance(part, (IdDict, AbstractOptimiser, *SET_STATE)) and name not in vars(value):
                    raise _refusal(
                        f"{where}.{name}", f"{kind.__name__} keeps it for all. Make it in __init__"
                    )
        attributes = {name: self.program(part, f"{where}.{name}") for name, part in list(vars(value).items())}
        return {"object": [_type_name(value), attributes]}

    def _iddict(self, value: IdDict[Any, Any], where: str) -> Node:
        found = ((self._positions.get(id(p)), part) for p, part in list(value.items()))
        entries = [(i, x) for i, x in found if i is not None]
        names = self._parameter_names
        return {"iddict": [[i, self.data(x, f"{where}[parameter {names[i]}]")] for i, x in entries]}

    def data(self, value: Any, where: str, part: Callable[[Any, str], Node] | None = None) -> Node:
        """Encode data; `part` is how to encode what its containers hold, as data unless given."""
        part = part or self.data
        kind = type(value)
        if kind is int and value in self._ids:
            raise _refusal(
                where,
                f"it is the id() of parameter {self._ids[value]}, which is another one in the next process. "
                "Keep state by the parameter itself: IdDict does",
            )
        if kind is int and value.bit_length() > 14_284:  # 4300 digits, which Python reads and writes
            raise _refusal(where, "it is an integer of more than 4300 digits; store hex(n)")
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind in CONTAINERS:
            return self._container(value, where, part)
        if kind in MADE:
            return self._made(value, where)
        if is_recorded(value):  # a loss has kept it
            return self.data(constant(value), where, part)
        if isinstance(value, np.generic):
            if value.dtype.kind in "biufc":
                return {"number": [value.dtype.str, value.tobytes().hex()]}
            return {"scalar": self._array(np.asarray(value), where)}
        if kind in (np.ndarray, np.memmap):
            return {"array": self._array(value, where)}
        if id(value) in self._positions:
            return {"parameter": self._positions[id(value)]}
        raise _refusal(where, _hint(value))

    def _made(self, value: Any, where: str) -> Node:
        try:
            parts = MADE[type(value)][0](value)
        except TypeError as error:
            raise _refusal(where, str(error)) from None
        return {TAG_OF[type(value)]: self.data(parts, where)}

    def _container(self, value: Any, where: str, part: Callable[[Any, str], Node]) -> Any:
        # Well before Python's own limit, at which a C function on the way may crash.
        if self._depth == DEEPEST:
            raise ValueError(f"{where:.40}… is nested too deeply, or holds itself: it cannot be stored")
        self._depth += 1
        try:
            if type(value) is dict:
                items = list(value.items())
                keys = [self.data(key, f"a key of {where}") for key, _ in items]
                parts = [part(x, f"{where}[{key!r}]") for key, x in items]
                return {"dict": [[key, x] for key, x in zip(keys, parts, strict=True)]}
            parts = [part(x, f"{where}[{i}]") for i, x in enumerate(value)]
            return parts if type(value) is list else {"tuple": parts}
        finally:
            self._depth -= 1

    def _array(self, value: Array, where: str) -> str:
        if not _is_storable(value.dtype):
            raise _refusal(where, f"it is an array of {value.dtype!r:.200}")
        # An array that is in two places is written once, and is in both places again when read.
        if id(value) not in self._names:
            name = f"{self._prefix}/{len(self.arrays)}"
            self._names[id(value)] = name, value
            self.arrays[name] = value
        return self._names[id(value)][0]


def _refusal(where: str, why: str) -> TypeError:
    return TypeError(f"{where} cannot be stored in a checkpoint: {why}")


def _hint(value: object) -> str:
    if isinstance(value, Param):
        return "it is a parameter that is not in ps; add it there, or store its value (p.value)"
    if isinstance(value, AbstractOptimiser):
        return (
            f"it is an optimiser ({_type_name(value)}); give it as opt: save(path, ps, opt); several "
            "are one as Grouped((ps1, opt1), (ps2, opt2))"
        )
    if isinstance(value, Enum):
        return f"it is a {_type_name(value)}; store its name"
    has = next((name for name in ("state", "step") if hasattr(value, name)), "")
    if has and type(value).__module__.startswith("minidiff."):
        return f"it is of the type {_type_name(value)}; store its {has}, and set that after load"
    return (
        f"it is a {_type_name(value)}; what can be are numbers, strings, lists, tuples, dicts, arrays, sets, "
        "dates and NumPy's generators"
    )


def _is_storable(dtype: np.dtype[Any]) -> bool:
    """Tell whether the .npy format gives the very same dtype back without a pickle."""
    if dtype.hasobject:
        return False
    descr = np.lib.format.dtype_to_descr(dtype)
    return bool(np.lib.format.descr_to_dtype(descr) == dtype) and len(repr(descr)) < 2**15


# Code that remembers ------------------------------------------------------------------------------


def _remembers(code: Any, is_stored: Callable[[Any], bool]) -> str:
    """Say what code may remember from call to call that is not stored, if anything."""
    waiting: list[tuple[Any, Any]] = [("itself", code)]
    met: dict[int, Any] = {}
    while waiting:
        name, value = waiting.pop()
        if id(value) in met or isinstance(value, CONSTANT) or is_stored(value):
            continue
        met[id(value)] = value
        if isinstance(value, FunctionType):
            changed = [*rebound(value), *vars(value)]
            if changed not in ([], ["__wrapped__"]):
                return f"changes {changed[0]!r}"
            defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            waiting += [*closure(value), *vars(value).items(), *(("a default", x) for x in defaults)]
        elif isinstance(value, partial):
            waiting += [("it", value.func), ("an argument", value.args), *value.keywords.items()]
        elif isinstance(value, (tuple, frozenset)):
            waiting += [(name, part) for part in value]
        elif isinstance(value, METHODS):
            waiting.append((name, value.__self__))
        elif _is_code(value):
            parts = getattr(value, "__dict__", {}).items()
            waiting += [(x, part) for x, part in parts if callable(part) or isinstance(part, tuple)]
        else:
            return f"uses {name}, a {_type_name(value)}"
    return ""


class Decoder:
    """Turns nodes back into values. Nothing changes until all are read; then `commit` makes the changes.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        The arrays that the nodes may name.
    ps : mapping of str to (Param or None)
        The parameters that the positions stand for, by name; None for one that the state is not wanted of.
    settings : {"file", "code"}
        Whose settings a rule has afterwards.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        ps: Mapping[str, Param | None],
        settings: str = "file",
    ) -> None:
        self._arrays = arrays
        self._ps, self._parameter_names = [*ps.values()], [*ps]
        self._settings = settings
        self._seen: list[Any] = []
        self._kept: dict[int, Array] = {}
        self._changes: list[Callable[[], object]] = []

    def commit(self) -> None:
        """Make the changes in what `restore` was given."""
        for change in self._changes:
            change()

    def restore(self, node: Node, live: Any, where: str) -> Any:
        """Give what is to stand in place of `live`, which must be of the structure that was written."""
        tag, content = _tagged(node)
        if tag == "method" and isinstance(live, METHODS) and _is_kept(live.__self__):
            self.restore(content, live.__self__, f"{where}.__self__")
            return live
        if self._is_programs(tag, content, live):  # whatever is stored
            self._seen += [None] * _objects_in(node)
            return live
        self._check(tag not in ("code", "method"), f"{content if tag == 'code' else tag}", live, where)
        if tag == "object":
            return self._object(content, live, where)
        if tag == "iddict":
            return self._iddict(node, live, where)
        if tag == "seen":
            seen = self._at(self._seen, content)
            self._check(seen is live is not None, "an object that is also elsewhere", live, where)
            return live
        if tag == "enum":
            kind, name = content
            self._check(isinstance(live, Enum) and _type_name(live) == kind, kind, live, where)
            return type(live)[name]
        if not _is_data(node):
            return self._container(tag, content, live, where)
        value = self.data(node)
        alike = (value is None and type(live) not in SET_STATE) or _sort(value) is _sort(live)
        self._check(live is None or (_is_plain(live) and alike), _brief(value), live, where)
        return self._in_place(value, live)

    def _is_programs(self, tag: str, content: Node, live: Any) -> bool:
        """Tell whether a place holds code, or held it: that is the program's, whatever was there."""
        if tag == "code" and (isinstance(live, (type, ModuleType)) or content == "module"):
            return bool(_type_name(live) == content)  # one of these does not stand for another
        if tag in ("code", "method"):
            return live is None or callable(live)
        if tag == "object" and callable(live):
            return _is_code(live) or _type_name(live) != content[0]
        if tag == "seen" and callable(live):
            return self._at(self._seen, content) is None
        return content is None and _is_code(live)

    def _object(self, content: Node, live: Any, where: str) -> Any:
        kind, attributes = content
        self._check(_is_object(live) and _type_name(live) == kind, kind, live, where)
        self._meet(live, kind, where)
        mine = vars(live)
        for name in sorted(mine.keys() - attributes.keys()):
            raise MisfitError(f"does not fit: it has nothing for {where}.{name}")
        new = {}
        for name, part in attributes.items():
            # An optimiser may add plain values to itself in its first step: those need not be there yet.
            if name not in mine and not _may_be_added(live, name):
                raise MisfitError(f"does not fit: {where} can have no {name!r:.60}")
            if name in getattr(type(live), "_structure", ()):
                self._check_same(part, mine[name], f"{where}.{name}")
            elif name in getattr(type(live), "_of_settings", ()) and self._settings == "code":
                continue
            elif name == "state" and isinstance(live, Rule):
                new[name] = self._iddict(part, live.state, f"{where}.state", live)
            elif name in mine or _is_data(part):
                new[name] = self.restore(part, mine.get(name), f"{where}.{name}")
            elif (tag := _tagged(part)[0]) == "iddict":  # the first step makes it
                new[name] = self._iddict(part, IdDict(), f"{where}.{name}")
            elif tag not in ("code", "method"):
                raise MisfitError(f"does not fit: {where}.{name} is made in a step. Make it in __init__")
        if isinstance(live, Rule):
            new = self._settled(live, new, where)
        else:
            self._check_others(live, new, where)
        self._changes.append(partial(mine.update, new))
        return live

    def _check_same(self, node: Node, live: IdDict[Any, Any], where: str) -> None:
        """Check that what is stored of the parameters that are restored is what is there."""
        self._meet(live, "IdDict", where)
        stored = dict(_tagged(node)[1])
        for i, p in enumerate(self._ps):
            if p is not None:
                was, name = stored.get(i), self._parameter_names[i]
                self._check(was == live.get(p), f"{was}", live.get(p), f"{where}[parameter {name}]")

    def _settled(self, rule: Rule, new: dict[str, Any], where: str) -> dict[str, Any]:
        """Give the attributes that a rule is to have, once its settings have gone through its checks."""
        names = [field.name for field in dataclasses.fields(rule)]  # type: ignore[arg-type]
        others = {name: x for name, x in new.items() if name not in names}
        self._check_others(rule, others, where)
        from_file = self._settings == "file"
        trial = object.__new__(type(rule))
        vars(trial).update(vars(rule) | others)
        with _refusing(where):
            for name in names:
                setattr(trial, name, new[name] if from_file else vars(rule)[name])
        if from_file:  # what a rule notes of a setting that is given anew was stored as well
            vars(trial).update(others)
        return vars(trial)

    def _check_others(self, live: Any, new: dict[str, Any], where: str) -> None:
        """Check attributes without a setter: a finite number stays one, and what the object itself asks."""
        for name, x in new.items():
            was = vars(live).get(name)
            became_another = not isinstance(live, Rule) and not isinstance(x, Real)  # an array, for example
            fits = not _is_finite(was) or _is_finite(x) or became_another
            self._check(fits, f"{x!r:.20}", was, f"{where}.{name}")
        with _refusing(where):
            getattr(live, "check_restored", lambda new: None)(new)

    def _iddict(self, node: Node, live: Any, where: str, rule: Rule | None = None) -> Any:
        tag, content = _tagged(node)
        self._check(tag == "iddict" and isinstance(live, IdDict), "IdDict", live, where)
        entries = dict(content)
        if type(content) is not list or len(entries) < len(content):
            raise MisfitError(f"is no checkpoint: its manifest does not say what {where} was")
        self._meet(live, "IdDict", where)
        new = []
        for i, part in entries.items():
            p, value = self._at(self._ps, i), self.data(part)
            if p is not None:
                if rule is not None:
                    self._check_kept(rule, p, value, f"{where}[parameter {self._parameter_names[i]}]")
                new.append((p, value))

        def change() -> None:
            for p in filter(live.__contains__, self._ps):
                del live[p]
            for p, value in new:
                live[p] = value

        self._changes.append(change)
        return live

    def _meet(self, live: Any, kind: str, where: str) -> None:
        """Take note of an object that is restored, which one object alone may be."""
        if any(live is other for other in self._seen):
            raise MisfitError(
                f"does not fit: {where} was a {kind} by itself when saved, but is one that is also elsewhere"
            )
        self._seen.append(live)

    def _check_kept(self, rule: Rule, p: Param, value: Any, where: str) -> None:
        """Check what a rule keeps for a parameter: what it keeps at first, of the same shapes and dtypes."""
        first = rule.begin(p.value)
        found = value if isinstance(value, dict) else {}
        names = sorted(found.keys() - {"clock"}, key=str)
        self._check(found.keys() == first.keys(), f"a rule that keeps {names}", rule, where)
        for name, x in first.items():
            kept = found[name]
            if name == "clock":
                fits = isinstance(kept, tuple) and list(map(_sort, kept)) == list(map(_sort, x))
                fits = fits and all(_is_finite(part) for part in kept if _sort(part) is Number)
                fits = fits and type(kept[0]) is int and kept[0] > 0 and rule.can_show(*kept)
            elif isinstance(x, np.ndarray):
                fits = isinstance(kept, np.ndarray) and (kept.shape, kept.dtype) == (x.shape, x.dtype)
                fits = fits and id(kept) not in self._kept
                self._kept[id(kept)] = kept
            else:
                fits = type(kept) is type(x)
            self._check(fits, _brief(kept), x, f"{where}[{name!r}]")

    def _container(self, tag: str, content: Node, live: Any, where: str) -> Any:
        """Restore the objects in a list, tuple or dict in place; there must be as many as there were."""
        kind = {"": list, "tuple": tuple, "dict": dict}[tag]
        what = f"{kind.__name__} of {len(content)}"
        self._check(type(live) is kind and len(live) == len(content), what, live, where)
        if kind is dict:
            items = {self.data(key): part for key, part in content}
            self._check(live.keys() == items.keys(), f"dict of {[*items]}", live, where)
        else:
            items = dict(enumerate(content))
        new = {key: self.restore(part, live[key], f"{where}[{key!r}]") for key, part in items.items()}
        if kind is tuple:
            return tuple(new.values())
        for key, value in new.items():
            self._changes.append(partial(live.__setitem__, key, value))
        return live

    def _in_place(self, value: Any, live: Any) -> Any:
        """Set a generator that is there to the state that was stored: others may draw from it too."""
        kind = type(value)
        if kind is not type(live) or kind not in SET_STATE:
            return value
        state, mine = MADE[kind][0](value), MADE[kind][0](live)
        if kind is not random.Random and state["bit_generator"] != mine["bit_generator"]:
            return value
        self._changes.append(partial(SET_STATE[kind], live, state))
        return live

    def _check(self, fits: bool, stored: str, live: Any, where: str) -> None:
        if not fits:
            raise MisfitError(f"does not fit: {where} was {stored} when saved, but is {described(live)}")

    def _at(self, several: Sequence[Any], i: Any) -> Any:
        if type(i) is not int or not 0 <= i < len(several):
            raise MisfitError(f"is no checkpoint: its manifest speaks of number {i!r:.60} of {len(several)}")
        return several[i]

    def data(self, node: Node) -> Any:
        """Decode data."""
        tag, content = _tagged(node)
        match tag:
            case "":
                return [self.data(part) for part in content] if isinstance(content, list) else content
            case "float":
                return float(content)
            case "tuple":
                return tuple(map(self.data, content))
            case "dict":
                return {self.data(key): self.data(part) for key, part in content}
            case "number":
                return np.frombuffer(bytes.fromhex(content[1]), content[0])[0]
            case "scalar":
                return self._arrays[content][()]
            case "array":
                return self._arrays[content]
            case "parameter" if self._at(self._ps, content) is not None:
                return self._ps[content]
        if tag in TAGS:
            return MADE[TAGS[tag]][1](self.data(content))
        raise MisfitError(f"is no checkpoint, or does not fit: its manifest says {tag!r:.60}")


def _tagged(node: Node) -> tuple[str, Any]:
    if not isinstance(node, dict):
        return "", node
    ((tag, content),) = node.items()
    return tag, content


def _is_data(node: Node) -> bool:
    tag, content = _tagged(node)
    return tag not in PROGRAM and (not isinstance(content, list) or all(map(_is_data, content)))


def _objects_in(node: Node) -> int:
    """Count what a node adds to the objects that have been seen."""
    if isinstance(node, list):
        return sum(map(_objects_in, node))
    if not isinstance(node, dict):
        return 0
    return sum(map(_objects_in, node.values())) + (node.keys() <= {"object", "iddict"})


def _may_be_added(live: Any, name: str) -> bool:
    """Tell whether an object may get an attribute that it does not have yet."""
    known = getattr_static(type(live), name, None)
    if isinstance(live, Rule) and known is None:
        return name[:1] == "_" != name[1:2]
    taken = name.startswith("__") or hasattr(Rule if isinstance(live, Rule) else AbstractOptimiser, name)
    return not taken and isinstance(known, (cached_property, *DATA))


def _is_plain(live: Any) -> bool:
    """Tell whether a value is data through and through."""
    parts = live.values() if isinstance(live, dict) else live if isinstance(live, CONTAINERS) else ()
    return isinstance(live, DATA) and all(map(_is_plain, parts))


def _sort(x: Any) -> type:
    """Give a value's type, the same for all numbers and arrays: what is one may come to be another."""
    return Number if isinstance(x, (Number, np.generic, np.ndarray)) else type(x)


def _is_finite(x: Any) -> bool:
    try:
        return isinstance(x, Real) and math.isfinite(x)
    except OverflowError:  # an integer beyond all floats
        return False


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Make of any error of a check the refusal of what is stored."""
    try:
        yield
    except Exception as error:
        raise MisfitError(f"does not fit: {where} cannot be set: {error}") from error


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return _type_name(value)
