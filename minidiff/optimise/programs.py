"""Formulas for NumPy, rewritten: the same operations in cheaper calls.

NumPy takes twice as long for an operation with a Python number as with a 0-d array of the other operand's
dtype, and a new array for every result costs as well. So the operations that a formula is made of
(`minidiff.optimise.symbolic`) become a function that takes such arrays for its numbers, made anew only when
they change, and that writes a result over a temporary that nothing needs any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import numpy as np

from minidiff.optimise.symbolic import LOGIC, OPERATORS, Notes, Operation, Symbol
from minidiff.typing import Array

__all__ = ["Program", "prepared", "quiet"]

# NumPy keeps what to do about infinities and NaN in a context variable, and to call a function in a context
# where it is set costs less than `np.errstate`.
_QUIET = Context()
_QUIET.run(np.seterr, all="ignore")


def quiet() -> Callable[..., Any]:
    """Return a function ``call(f, *args)`` with which functions of NumPy's give no warnings.

    It is for one thread. What it calls sees no other context variables than NumPy's.
    """
    return _QUIET.copy().run


_NUMBERS = frozenset({float, int, bool})


class Program:
    """A rule's formula for arrays of one dtype, of at least one dimension.

    Parameters
    ----------
    rule : Rule
        The rule.
    dtype : dtype
        The parameter's.
    count : int
        How many numbers the formula takes.

    Raises
    ------
    TypeError
        If the formula has to run as it is.
    """

    __slots__ = ("_constants", "compute", "latest", "replace")

    # Both take x, Δ, what the rule keeps, and the constants. The one returns the step and new arrays to keep,
    # the other the step, having written over the arrays that it got.
    compute: Callable[[Array, Array, Sequence[Array], Sequence[Array]], tuple[Array, list[Array]]]
    replace: Callable[[Array, Array, Sequence[Array], Sequence[Array]], Array]
    latest: tuple[tuple[Any, ...], tuple[Any, ...]]  # the numbers of the latest step, and the constants

    def __init__(self, rule: Any, dtype: np.dtype[Any], count: int) -> None:
        notes = Notes(dtype)
        x, Δ = Symbol(notes, "x", notes.whole), Symbol(notes, "g", notes.whole)
        kept = [
            Symbol(notes, f"s{i}", "real" if name in rule.real else notes.whole)
            for i, name in enumerate(rule.keeps)
        ]
        numbers = [Symbol(notes, f"c{i}", "number") for i in range(count)]
        step, new = notes.run(rule, x, Δ, kept, numbers)
        results = [symbol.name for symbol in (step, *new)]
        constants, once = _constants(notes, numbers)
        unpacked = [f"{_tuple([s.name for s in kept])} = kept", f"{_tuple(constants)} = constants"]
        source = [once] + [
            _function(name, ["x", "g", "kept", "constants"], unpacked + _lines(notes, constants, results, replacing))
            for name, replacing in (("compute", False), ("replace", True))
        ]
        namespace: dict[str, Any] = {**vars(np), "dtypes": notes.dtypes}
        exec("\n".join(source), namespace)
        self._constants: Callable[..., tuple[Array, ...]] = namespace["constants"]
        self.compute, self.replace = namespace["compute"], namespace["replace"]
        self.latest = (None,) * count, (None,) * len(constants)

    def renew(self, numbers: tuple[Any, ...]) -> tuple[Array, ...]:
        """Return the constants for other numbers than the latest.

        Raises `TypeError` where they are not Python's numbers, as an array or a NumPy scalar is not.
        """
        if not _NUMBERS.issuperset(map(type, numbers)):
            raise TypeError("the numbers are not all Python's")
        constants: tuple[Array, ...] = self._constants(*numbers, *itertools.chain(*self.latest))
        self.latest = numbers, constants
        return constants


_PROGRAMS: dict[tuple[Any, ...], Program | None] = {}


def prepared(rule: Any, x: Array, numbers: tuple[Any, ...]) -> tuple[Program | None, tuple[Array, ...]]:
    """Return the program for a rule's formula and its constants, or None if the formula has to run as it is."""
    key = rule.formula, x.dtype, len(numbers)
    if key not in _PROGRAMS:
        try:
            _PROGRAMS[key] = Program(rule, x.dtype, len(numbers)) if x.dtype.isnative else None
        except Exception:  # whatever is wrong with the formula will show when it runs as it is
            _PROGRAMS[key] = None
    program = _PROGRAMS[key]
    if program is None or not x.ndim:
        return None, ()
    try:
        latest, constants = program.latest
        return program, constants if latest == numbers else program.renew(numbers)
    except (TypeError, ValueError):
        return None, ()


def _constants(notes: Notes, numbers: Sequence[Symbol]) -> tuple[list[str], str]:
    """Return the names of the constants, and the function that makes them of the step's numbers.

    It also takes the numbers and constants of the step before, and keeps what has not changed.
    """
    once, each = notes.split()
    sources = {symbol.name: {symbol.name} for symbol in numbers}  # what each value is made of
    lines = []
    for o in once:
        sources[o.name] = set().union(*(sources.get(name, ()) for name in o.operands))
        if o.function == "cast":
            changed = " or ".join(f"{name} != was_{name}" for name in sorted(sources[o.name])) or f"{o.name} is None"
            lines += [f"if {changed}:", f"    {o.name} = array({o.operands[0]}, dtypes[{o.kind!r}])"]
        elif o.function in OPERATORS:
            lines.append(f"{o.name} = {OPERATORS[o.function].format(*o.operands)}")
        else:
            raise TypeError(f"it uses np.{o.function} of a number, which NumPy makes a float64")
    constants = [name for name in dict.fromkeys(name for o in each for name in o.operands) if name in sources]
    names = [symbol.name for symbol in numbers]
    before = [f"was_{name}" for name in names] + [f"_{name}" if name in names else name for name in constants]
    lines.append(f"return {_tuple(constants)}")
    return constants, _function("constants", [*names, *before], lines)


def _lines(notes: Notes, constants: Sequence[str], results: Sequence[str], replacing: bool) -> list[str]:
    """Return the lines that compute the step and what is kept, in new arrays or in place of the old ones."""
    each = notes.split()[1]
    uncast = {o.name: o.operands[0] for o in each if o.function == "cast"}  # NumPy does that by itself
    each = [
        o._replace(operands=tuple([uncast.get(name, name) for name in o.operands]))
        for o in each
        if o.function != "cast"
    ]
    inputs = ["x", "g", *[f"s{i}" for i in range(len(results) - 1)]]
    views = {o.name: o.operands[0] for o in each if o.function in ("real", "imag")}
    kinds = {o.name: o.kind for o in each if o.name not in views}
    arrays = {*inputs, *views, *[name for name, kind in kinds.items() if kind != "condition"]}
    last = {name: i for i, o in enumerate(each) for name in o.operands} | dict.fromkeys(results, len(each))
    replaced = {
        result: home
        for result, home in zip(results[1:], inputs[2:], strict=True)
        if replacing and results.count(result) == 1
    }

    def place(i: int, o: Operation) -> str:
        """Return which array the i-th operation may write its result over, if any."""
        if o.name in replaced and last.get(replaced[o.name], -1) <= i:
            return replaced[o.name]
        dying = [name for name in o.operands if kinds.get(name) == o.kind and last[name] == i]
        return next((name for name in dying if name not in views.values()), "")

    lines = []
    in_place = set()
    for i, o in enumerate(each):
        operands = ", ".join(o.operands)
        if o.function not in LOGIC and arrays.isdisjoint(o.operands[o.function == "where" :]):
            raise TypeError(f"it uses np.{o.function} of conditions, which NumPy makes a float64")
        if o.name in views:
            lines.append(f"{o.name} = {operands}.{o.function}")
        elif o.function != "where" and (target := place(i, o)):
            lines.append(f"{o.name} = {o.function}({operands}, out={target})")
            in_place.add((o.name, target))
        else:
            lines.append(f"{o.name} = {o.function}({operands})")
    returned: list[str] = []
    for name in results:
        if name not in arrays:
            raise TypeError("it returns what is no array")
        if name in inputs or name in views or name in returned[1:]:
            lines.append(f"r{len(returned)} = {name}.copy()")
            name = f"r{len(returned)}"
        returned.append(name)
    if not replacing:
        return [*lines, f"return {returned[0]}, [{', '.join(returned[1:])}]"]
    copies = [pair for pair in zip(returned[1:], inputs[2:], strict=True) if pair not in in_place]
    return [*lines, *[f"copyto({home}, {name})" for name, home in copies], f"return {returned[0]}"]


def _function(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join([f"def {name}({', '.join(arguments)}):", *(f"    {line}" for line in lines), ""])


def _tuple(names: Sequence[str]) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"
