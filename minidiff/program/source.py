"""Operations as NumPy source: what is not needed left out, results written over temporaries that die.

NumPy takes twice as long for an operation with a Python number as with a 0-d array of the other operand's
dtype, and a new array for every result costs as well. So a recorded formula becomes a function that takes
such arrays for its numbers, made anew only when they change, and that reuses its temporaries. `Momentum`,
for one, whose formula is ``v = ρ * v - η * Δ; return -v, v``, becomes

    def run(arrays, numbers, targets=(None, None)):
        k0, k1 = …                       # ρ and η
        x, g, s0 = arrays
        o0, o1 = targets
        v1 = multiply(s0, k0)
        v2 = multiply(g, k1)
        v3 = subtract(v1, v2, v1 if o1 is None else o1)
        v4 = negative(v3)
        v5 = subtract(x, v4, v4 if o0 is None else o0)
        return v5, v3

with ``o0`` and ``o1`` the arrays to write the new x and v over, or None for new ones.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any

import numpy as np

from minidiff.program.lines import Memory, needed
from minidiff.program.listing import NUMBERS, Call, Listing, RefusedError, StandIn, example, written
from minidiff.program.signature import equal
from minidiff.typing import Array

__all__ = ["Program", "quiet"]

# NumPy keeps in a context variable what to do about infinities and NaN. A call in a context where that is set
# costs less than `np.errstate`. ``quiet().run(f, *args)`` calls a function of NumPy's without warnings. The
# function sees no other context variables. A context serves one thread, so `quiet` makes a new one.
_QUIET = Context()
_QUIET.run(np.seterr, all="ignore")
quiet = _QUIET.copy


class Program:
    """An elementwise function, rewritten. Its results have the same bits as those of the function itself.

    Parameters
    ----------
    function : callable
        ``function(*arrays, *numbers)`` returns a tuple of arrays.
    arrays : mapping of str to ndarray
        Examples of its arrays, each with memory of its own, by the names to give them.
    homes : list of str
        For each result the name of an array of its dtype. If it is one of the function's, the result may be
        written over it, once it is not needed any more; if not, an array like the first one is to be given.
    count : int
        How many Python numbers follow the arrays.

    Attributes
    ----------
    run : callable
        ``run(arrays, numbers, targets)`` computes the results. One for which there is a target that is not
        None may be written there; else it is a new array. It raises `TypeError` for a number that is not
        Python's: NumPy goes by its dtype.
    constants : callable
        ``constants(numbers)`` gives the arrays that stand for the numbers.
    arrays, homes : list of str
        As given.
    results : list of str
        The names of the results.
    operations : list of Call
        What is done with arrays, in order. Their operands are the names of arrays and constants.
    names : dict
        For each number that meets an array, as its text and the dtype it takes on there, the constant's name.

    Raises
    ------
    RefusedError
        If the function does what cannot be written down, or what is not elementwise.
    """

    def __init__(
        self, function: Callable[..., Any], arrays: Mapping[str, Array], homes: list[str], count: int
    ) -> None:
        listing, numbers = Listing("step"), tuple([0.37 + 0.11 * i for i in range(count)])
        given = {**arrays, **{f"c{i}": number for i, number in enumerate(numbers)}}
        results = quiet().run(function, *[StandIn(listing, name, x) for name, x in given.items()])
        listing.check()
        for result, home in zip(results, homes, strict=True):
            dtype = arrays[home if home in arrays else next(iter(arrays))].dtype
            if type(result) is not StandIn or _is_number(result) or result.dtype != dtype:
                raise RefusedError(f"it returns what is no array of {dtype}")
        self.arrays, self.homes, self.results = list(arrays), homes, [x._name for x in results]
        self.names: dict[tuple[str, np.dtype[Any]], str] = {}
        self.operations: list[Call] = []
        for call in needed(listing.calls, results):
            _check_elementwise(call)
            operands = tuple([self._named(x, call) for x in call.operands])
            self.operations.append(call._replace(operands=operands))
        namespace: dict[str, Any] = {**vars(np), "array": _array, "abs": abs, "pow": pow}
        namespace["latest"] = [([None] * count, (None,) * len(self.names))]
        exec(self._source(count, arrays, results), namespace)
        self.run = namespace["run"]
        self.constants = partial(self.run, None, targets=None)
        if not equal(quiet().run(self.run, arrays.values(), numbers), map(example, results)):
            raise RefusedError("NumPy computes it in a way of its own")

    def _named(self, x: Any, call: Call) -> str:
        """Name an operand: an array, or the constant for what a number is beside arrays."""
        if type(x) is not StandIn and not _is_number(x):
            raise RefusedError(f"it takes {x!r:.40} (of type {type(x).__name__}) into its arithmetic")
        if not _is_number(x):
            return str(x._name)
        if call.function is operator.pow:  # it goes by the number itself
            return repr(x)
        is_where = call.function is np.where
        beside = np.result_type(*map(example, call.operands[is_where:]))
        dtype = np.dtype(bool) if is_where and x is call.operands[0] else beside
        return self.names.setdefault((written(x), dtype), f"k{len(self.names)}")

    def _source(self, count: int, arrays: Mapping[str, Array], results: Sequence[StandIn]) -> str:
        """Write the function that computes the results, or without targets the constants alone."""
        memory = Memory(self.operations, results, arrays.values(), {})
        outs = [f"o{i}" for i in range(len(results))]
        homes = dict(zip(self.results, zip(self.homes, outs, strict=True), strict=True))
        lines = [f"def run(arrays, numbers, targets={(None,) * len(outs)}):", *self._constants(count)]
        lines += [f"{_tuple(self.arrays)} = arrays", f"{_tuple(outs)} = targets"]
        for i, o in enumerate(self.operations):
            (result,) = o.results
            operands = list(o.operands)
            if o.function in (np.add, np.multiply) and operands[0] in self.names.values():
                operands.reverse()  # NumPy is quicker with the array first
            if isinstance(o.function, np.ufunc):
                target = next((x._name for x in o.uses if memory.dies(i, x, result)), "")
                home, out = homes.get(result._name, ("", ""))
                if home and memory.last.get(memory.of(arrays.get(home)), -1) <= i:
                    target = f"{target} if {out} is None else {out}" if target else out
                if target:  # to pass it by position costs less, but is deprecated for these two
                    operands.append(f"out={target}" if o.function in (np.maximum, np.minimum) else target)
            lines.append(f"{result._name} = {o.function.__name__}({', '.join(operands)})")
        returned = [x._name if memory.gives(x) else f"{x._name}.copy()" for x in results]
        return "\n    ".join([*lines, f"return {_tuple(returned)}"])

    def _constants(self, count: int) -> list[str]:
        """Write how constants come from numbers: each is made anew only where one of its numbers has changed.

        That -0.0 equals 0.0, and 1 equals 1.0, does not make them the same.
        """
        numbers, constants = [f"c{i}" for i in range(count)], _tuple(self.names.values())
        same = "{0} is was_{0} or {0} == was_{0} != 0 and type({0}) is type(was_{0}) is float"
        made = []
        for (text, dtype), name in self.names.items():
            changed = [f"not ({same.format(c)})" for c in sorted(set(re.findall(r"c\d+", text)))]
            condition = " or ".join(changed) or f"{name} is None"
            made.append(f"    if {condition}: {name} = array({text}, {dtype.name})")
        return [
            f"was, {constants} = latest[0]",
            "if was is not numbers:",
            f"    {_tuple(numbers)} = numbers",
            f"    {_tuple([f'was_{c}' for c in numbers])} = was",
            *made,
            f"    latest[0] = numbers, {constants}",
            f"if targets is None: return {constants}",
        ]


def _is_number(x: Any) -> bool:
    return type(example(x)) in NUMBERS


def _check_elementwise(call: Call) -> None:
    f, name = call.function, call.form.format(*"xyz")
    is_ufunc = isinstance(f, np.ufunc) and f.signature is None and f.nout == 1 and f is not np.power
    is_numpys = is_ufunc and getattr(np, f.__name__, None) is f
    is_power = f is operator.pow and type(call.operands[1]) in NUMBERS
    if call.options or not (is_numpys or is_power or f in (np.where, np.clip, np.real, np.imag)):
        raise RefusedError(f"it uses {name}, which is not elementwise, or in a way that only NumPy knows")
    if all(map(_is_number, call.operands)):
        raise RefusedError(f"it uses {name} of a number, which NumPy makes a float64")


def _array(number: Any, dtype: np.dtype[Any]) -> Array:
    if type(number) not in NUMBERS:
        raise TypeError(f"{number!r} is no number of Python's")
    return np.array(number, dtype)


def _tuple(names: Any) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"
