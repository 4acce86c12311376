"""Formulas for NumPy, rewritten: the same operations in cheaper calls.

NumPy takes twice as long for an operation with a Python number as with a 0-d array of the other operand's
dtype, and a new array for every result costs as well. So the operations that a formula is made of
(`minidiff.optimise.symbolic`) become a function that takes such arrays for its numbers, made anew only when
they change, and that writes a result over a temporary that nothing needs any more. `Momentum`, for one, whose
formula is ``v = ρ * v - η * Δ; return -v, v``, takes its step by

    def take(x, g, kept, constants):
        s0 = kept['v']
        (a0, a2) = constants             # ρ and η
        a1 = multiply(s0, a0)
        a3 = multiply(g, a2)
        a4 = subtract(a1, a3, a1)
        a5 = negative(a4)
        subtract(x, a5, x)
        return {'v': a4}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from types import FunctionType
from typing import Any, Literal

import numpy as np

from minidiff.optimise.symbolic import LOGIC, NUMBERS, OPERATORS, Notes, Operation, Read, Symbol, changes
from minidiff.typing import Array

__all__ = ["Program", "prepared", "quiet", "representable"]

# NumPy keeps what to do about infinities and NaN in a context variable, and to call a function in a context
# where it is set costs less than `np.errstate`.
_QUIET = Context()
_QUIET.run(np.seterr, all="ignore")


def quiet() -> Callable[..., Any]:
    """Return a function ``call(f, *args)`` with which functions of NumPy's give no warnings.

    It is for one thread. What it calls sees no other context variables than NumPy's.
    """
    return _QUIET.copy().run


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

    __slots__ = ("compute", "constants", "latest", "reads", "replace", "take")

    # These take x, Δ, the arrays that the rule keeps, by name, and the constants. The first returns the step
    # and new arrays to keep; the second subtracts the step from x, at the very end, and returns the arrays;
    # the third returns the step, having written over the arrays that it got.
    compute: Callable[[Array, Array, Mapping[str, Array], Sequence[Array]], tuple[Array, dict[str, Array]]]
    take: Callable[[Array, Array, Mapping[str, Array], Sequence[Array]], dict[str, Array]]
    replace: Callable[[Array, Array, Mapping[str, Array], Sequence[Array]], Array]
    # It takes the step's numbers, and the latest numbers and constants. It raises `TypeError` where a number
    # is one of NumPy's, which has a dtype that NumPy would go by, or `ValueError` where it is an array.
    constants: Callable[[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]], tuple[Array, ...]]
    latest: tuple[tuple[Any, ...], tuple[Any, ...]]
    reads: list[Read]  # what the formula read, which must be the same still

    def __init__(self, rule: Any, dtype: np.dtype[Any], count: int) -> None:
        notes = Notes(dtype)
        x, Δ = Symbol(notes, "x", notes.whole), Symbol(notes, "g", notes.whole)
        kept, numbers = [f"s{i}" for i in range(len(rule.keeps))], [f"c{i}" for i in range(count)]
        step, new = notes.run(rule, x, Δ, kept, numbers)
        results = [step.name, *[symbol.name for symbol in new]]
        operations = notes.split(results)
        constants, once = _constants(*operations, numbers)
        arguments = ["x", "g", "kept", "constants"]
        unpacked = [f"{s} = kept[{name!r}]" for s, name in zip(kept, rule.keeps, strict=True)]
        unpacked.append(f"{_tuple(constants)} = constants")
        lines, (s, *arrays) = _lines(operations[1], results, replacing=False)
        computed = ", ".join(f"{name!r}: {a}" for name, a in zip(rule.keeps, arrays, strict=True))
        source = once + _function("compute", arguments, [*unpacked, *lines, f"return {s}, {{{computed}}}"])
        lines.append(f"subtract(x, {s}, x)")
        source += _function("take", arguments, [*unpacked, *lines, f"return {{{computed}}}"])
        lines, (s, *_) = _lines(operations[1], results, replacing=True)
        source += _function("replace", arguments, [*unpacked, *lines, f"return {s}"])
        dtypes = {f"dtype_of_{kind}": dtype for kind, dtype in notes.dtypes.items()}
        namespace: dict[str, Any] = {**vars(np), **dtypes, "abs": abs, "checked": _check}
        exec(source, namespace)
        self.reads = notes.reads
        self.constants = namespace["constants"]
        self.compute, self.take = namespace["compute"], namespace["take"]
        self.replace = namespace["replace"]
        self.latest = (None,) * count, (None,) * len(constants)
        if not count:  # there will never be other numbers
            self.latest = (), self.constants((), *self.latest)


def prepared(rule: Any, x: Array, numbers: tuple[Any, ...]) -> tuple[Program | None, tuple[Array, ...]]:
    """Return the program for a formula and its constants, or None if the formula has to run as it is."""
    key = rule.formula, x.dtype, len(numbers)
    program: Program | Literal[False] | None = rule.made.get(key)  # False if the formula has to run as it is
    if program and program.reads and (changed := changes(program.reads)):
        program = rule.made[key] = False if changed == "number" else None
    if program is None:
        if not isinstance(rule.formula, FunctionType):
            return None, ()  # a method, which would keep its optimiser alive here
        try:
            program = x.dtype.isnative and Program(rule, x.dtype, len(numbers))
        except Exception:  # whatever is wrong with the formula will show when it runs as it is
            program = False
        rule.made[key] = program
    if not program or not x.ndim:
        return None, ()
    latest, constants = program.latest
    try:
        if latest != numbers:
            given = numbers if x.dtype.itemsize > 2 else representable(numbers, x.dtype)
            constants = quiet()(program.constants, given, latest, constants)
            program.latest = numbers, constants
    except (TypeError, ValueError, ArithmeticError):  # numbers with which NumPy has to deal itself
        return None, ()
    return program, constants


def representable(numbers: Iterable[Any], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return numbers, with the smallest above zero that half precision has in place of those it would lose.

    It has nothing between 0 and 6e-8, and an ε of 1e-8 is there to keep divisors above zero.
    """
    if dtype.itemsize > 2:
        return tuple(numbers)
    smallest = float(np.finfo(dtype).smallest_subnormal)
    with np.errstate(all="ignore"):
        return tuple(
            [smallest if isinstance(z, (float, int)) and z > 0 and not dtype.type(z) else z for z in numbers]
        )


def _check(number: Any) -> float:
    """Return a number of Python's as it is."""
    if type(number) not in NUMBERS:
        raise TypeError(f"{number!r} is no number of Python's")
    return number  # type: ignore[no-any-return]


def _constants(
    once: Sequence[Operation], each: Sequence[Operation], names: Sequence[str]
) -> tuple[list[str], str]:
    """Return the names of the constants, and the function that makes them of the step's numbers.

    It also takes the numbers and constants of the step before, and keeps what has not changed.
    """
    sources = {name: {name} for name in names}  # what each value is made of
    lines = []
    for o in once:
        sources[o.name] = set().union(*(sources.get(name, ()) for name in o.operands))
        if o.function == "cast":
            changes = [f"{name} != was_{name}" for name in sorted(sources[o.name])]
            changed = " or ".join(changes) or f"{o.name} is None"
            value = f"{o.operands[0]} if type({o.operands[0]}) is float else checked({o.operands[0]})"
            lines += [f"if {changed}:", f"    {o.name} = array({value}, dtype_of_{o.kind})"]
        elif o.function in OPERATORS:
            lines.append(f"{o.name} = {OPERATORS[o.function].format(*o.operands)}")
        else:
            raise TypeError(f"it uses np.{o.function} of a number, which NumPy makes a float64")
    constants = [name for name in dict.fromkeys(name for o in each for name in o.operands) if name in sources]
    unpacked = [
        f"{_tuple(names)} = numbers",
        f"{_tuple([f'was_{name}' for name in names])} = before",
        f"{_tuple([f'_{name}' if name in names else name for name in constants])} = constants",
    ]
    arguments = ["numbers", "before", "constants"]
    return constants, _function("constants", arguments, [*unpacked, *lines, f"return {_tuple(constants)}"])


def _lines(
    each: Sequence[Operation], results: Sequence[str], *, replacing: bool
) -> tuple[list[str], list[str]]:
    """Return the lines that compute the results, the step and what is kept, and the results' names there.

    When replacing, what is kept is written over what was kept before.
    """
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
        dying = [name for name in o.operands if kinds.get(name) == o.kind and last[name] == i]
        if o.name in replaced and last.get(replaced[o.name], -1) <= i:
            dying.insert(0, replaced[o.name])
        return next((name for name in dying if name not in views.values()), "")

    lines = []
    in_place = set()
    for i, o in enumerate(each):
        operands = ", ".join(o.operands)
        if o.function in ("add", "multiply") and o.operands[0] not in arrays:
            operands = ", ".join(reversed(o.operands))  # NumPy is quicker with the array first
        if o.function not in LOGIC and arrays.isdisjoint(o.operands[o.function == "where" :]):
            raise TypeError(f"it uses np.{o.function} of conditions, which NumPy makes a float64")
        if o.function == "power":
            raise TypeError("it uses a power for which NumPy may know something better")
        if o.name in views:
            lines.append(f"{o.name} = {operands}.{o.function}")
        elif o.function != "where" and (target := place(i, o)):
            by_name = "out=" if o.function in ("maximum", "minimum") else ""  # by position costs less
            lines.append(f"{o.name} = {o.function}({operands}, {by_name}{target})")
            in_place.add((o.name, target))
        else:
            lines.append(f"{o.name} = {o.function}({operands})")
    returned: list[str] = []
    for name in results:
        if name not in arrays:
            raise TypeError("it returns a number, a condition, or a real array for a complex one")
        if name in inputs or name in views or name in returned[1:]:
            lines.append(f"r{len(returned)} = {name}.copy()")
            name = f"r{len(returned)}"
        returned.append(name)
    if replacing:
        pairs = zip(inputs[2:], returned[1:], strict=True)
        lines += [f"copyto({home}, {name})" for home, name in pairs if (name, home) not in in_place]
    return lines, returned


def _function(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join([f"def {name}({', '.join(arguments)}):", *(f"    {line}" for line in lines), ""])


def _tuple(names: Sequence[str]) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"
