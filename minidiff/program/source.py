"""Operations as NumPy source: what is not needed left out, results written over temporaries that die.

NumPy takes twice as long for an operation with a Python number as with a 0-d array of the other operand's
dtype, and a new array for every result costs as well. So a recorded formula becomes a function that takes
such arrays for its numbers, made anew only when they change, and that reuses its temporaries. `Momentum`,
for one, whose formula is ``v = ρ * v - η * Δ; return -v, v``, becomes

    def run(arrays, numbers, targets=(None, None)):
        x, g, s0 = arrays
        o0, o1 = targets
        k0, k1 = …                       # ρ and η
        a0 = multiply(s0, k0)
        a1 = multiply(g, k1)
        a2 = subtract(a0, a1, a0 if o1 is None else o1)
        a3 = negative(a2)
        a4 = subtract(x, a3, a3 if o0 is None else o0)
        return a4, a2

with ``o0`` and ``o1`` the arrays to write the new x and v over, or None for new ones.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Any

import numpy as np

from minidiff.program.recorder import Operation, Recorded, RefusedError, Tape, example, is_number, text
from minidiff.typing import Array

__all__ = ["Program", "quiet"]

# NumPy keeps in a context variable what to do about infinities and NaN. A call in a context where that is set
# costs less than `np.errstate`. ``quiet().run(f, *args)`` calls a function of NumPy's without warnings. The
# function sees no other context variables. A context serves one thread, so `quiet` makes a new one.
_QUIET = Context()
_QUIET.run(np.seterr, all="ignore")
quiet = _QUIET.copy

_VIEWS = np.real, np.imag


class Program:
    """An elementwise function, rewritten. Its results have the same bits as those of the function itself.

    Parameters
    ----------
    function : callable
        ``function(*arrays, *numbers)`` returns a tuple of arrays.
    arrays : mapping of str to ndarray
        Examples of its arrays, by the names to give them.
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
    operations : list of Operation
        What is done with arrays, in order, with constants in place of numbers.
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
        tape, numbers = Tape(), tuple([0.37 + 0.11 * i for i in range(count)])
        given = [Recorded(tape, f"c{i}", number) for i, number in enumerate(numbers)]
        with np.errstate(all="ignore"):
            results = function(*[Recorded(tape, name, a) for name, a in arrays.items()], *given)
        if tape.refusal:
            raise tape.refusal
        for result, home in zip(results, homes, strict=True):
            dtype = arrays[home if home in arrays else next(iter(arrays))].dtype
            if not isinstance(result, Recorded) or is_number(result) or result.dtype != dtype:
                raise RefusedError(f"it returns what is no array of {dtype}")
        self.arrays, self.homes, self.results = list(arrays), homes, [x.name for x in results]
        self.names: dict[tuple[str, np.dtype[Any]], str] = {}
        self.operations = [self._with_constants(o) for o in tape.needed(self.results)]
        dtypes = [dtype for _, dtype in self.names]
        namespace = {**vars(np), "array": _array, "abs": abs, "pow": pow, "dtypes": dtypes}
        namespace["latest"] = [([None] * count, (None,) * len(self.names))]
        exec(self._source(count), namespace)
        self.run, self.constants = namespace["run"], namespace["constants"]
        with np.errstate(all="ignore"):
            values = self.run(arrays.values(), numbers)
        for value, result in zip(values, results, strict=True):
            if value.dtype != result.dtype or not np.array_equal(value, result.value, equal_nan=True):
                raise RefusedError("NumPy computes it in a way of its own")

    def _with_constants(self, o: Operation) -> Operation:
        """Return an operation, if it is elementwise, with constants in place of its numbers."""
        _check_elementwise(o)
        operands = list(o.operands)
        for i, x in enumerate(operands):
            if is_number(x) and o.function is not operator.pow:  # that goes by the number itself
                name = self.names.setdefault((text(x), _dtype_beside(x, o)), f"k{len(self.names)}")
                operands[i] = Recorded(o.result.tape, name, example(x))
        return o._replace(operands=tuple(operands))

    def _source(self, count: int) -> str:
        """Write the functions that make the constants, and that compute the results."""
        views = {o.result.name: o.operands[0].name for o in self.operations if o.function in _VIEWS}
        own = {o.result.name for o in self.operations} - {*views, *views.values()}  # may be written over
        uses = [(x.name, i) for i, o in enumerate(self.operations) for x in o.operands]
        uses += [(name, len(self.operations)) for name in self.results]
        last = dict(uses)
        for view, array in reversed(views.items()):  # while one is used, so is the other's memory
            last[array] = max(last[array], last[view])
        outs = [f"o{i}" for i in range(len(self.results))]
        homes = dict(zip(self.results, zip(self.homes, outs, strict=True), strict=True))
        lines = []
        for i, o in enumerate(self.operations):
            operands = [x.name for x in o.operands]
            if o.function in (np.add, np.multiply) and is_number(o.operands[0]):
                operands.reverse()  # NumPy is quicker with the array first
            if isinstance(o.function, np.ufunc):
                alike = [x.name for x in o.operands if x.name in own and x.dtype == o.result.dtype]
                target = next((name for name in alike if last[name] == i), "")  # it is not used after this
                home, out = homes.get(o.result.name, ("", ""))
                if home and last.get(home, -1) <= i:
                    target = f"{target} if {out} is None else {out}" if target else out
                if target:  # to pass it by position costs less, but is deprecated for these two
                    operands.append(f"out={target}" if o.function in (np.maximum, np.minimum) else target)
            lines.append(f"{o.result.name} = {o.function.__name__}({', '.join(operands)})")
        results = [
            name if name in own and name not in self.results[:i] else f"{name}.copy()"
            for i, name in enumerate(self.results)
        ]
        constants = _constants(count, self.names)
        given = [f"{_tuple(self.arrays)} = arrays", f"{_tuple(outs)} = targets", *constants]
        arguments = f"arrays, numbers, targets={(None,) * len(outs)}"
        run = _function("run", arguments, [*given, *lines, f"return {_tuple(results)}"])
        return run + _function("constants", "numbers", [*constants, "return latest[0][1]"])


def _check_elementwise(o: Operation) -> None:
    f, name = o.function, o.function.__name__
    is_ufunc = isinstance(f, np.ufunc) and f.signature is None and f.nout == 1 and f is not np.power
    is_numpys = is_ufunc and getattr(np, name, None) is f
    if o.options or not (is_numpys or f in (np.where, np.clip, operator.pow, *_VIEWS)):
        raise RefusedError(f"it uses np.{name}, which is not elementwise, or in a way that only NumPy knows")
    for x in o.operands:
        if not isinstance(x, Recorded) and not is_number(x):
            raise RefusedError(f"it takes {x!r:.40} (of type {type(x).__name__}) into its arithmetic")


def _dtype_beside(x: Any, o: Operation) -> np.dtype[Any]:
    """Return the dtype that a number takes on beside the other operands of an operation."""
    if o.function is np.where and x is o.operands[0]:
        return np.dtype(bool)
    return np.result_type(*map(example, o.operands[o.function is np.where :]))


def _array(number: Any, dtype: np.dtype[Any]) -> Array:
    if type(number) is not float and not is_number(number):
        raise TypeError(f"{number!r} is no number of Python's")
    return np.array(number, dtype)


def _constants(count: int, names: Mapping[tuple[str, Any], str]) -> list[str]:
    """Write how constants come from numbers: made anew only where a number has changed.

    That -0.0 equals 0.0, and 1 equals 1.0, does not make them the same.
    """
    numbers, constants = [f"c{i}" for i in range(count)], _tuple(names.values())
    same = "{0} is was_{0} or {0} == was_{0} != 0 and type({0}) is type(was_{0}) is float"
    lines = [f"{_tuple(numbers)} = numbers", f"{_tuple([f'was_{c}' for c in numbers])} = was"]
    for i, ((number, _), name) in enumerate(names.items()):
        changed = [f"not ({same.format(c)})" for c in sorted(set(re.findall(r"c\d+", number)))]
        lines.append(f"if {' or '.join(changed) or f'{name} is None'}: {name} = array({number}, dtypes[{i}])")
    lines.append(f"latest[0] = numbers, {constants}")
    return [f"was, {constants} = latest[0]", "if was is not numbers:", *[f"    {line}" for line in lines]]


def _function(name: str, arguments: str, lines: Sequence[str]) -> str:
    return "\n".join([f"def {name}({arguments}):", *(f"    {line}" for line in lines), ""])


def _tuple(names: Any) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"
