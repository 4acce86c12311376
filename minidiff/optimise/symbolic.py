"""Formulas written down: the operations that one is made of, in order.

A formula is called once, with symbols in place of arrays and numbers. They write down each operation they go
through, with NumPy's meaning. The engines make faster code of that than the formula is itself: what involves
only the step's numbers is computed once in Python's floats, and rounded to the parameter's dtype where it
meets an array.

What a formula means must therefore depend on its arguments alone. One that reads anything else, that branches
on a value, or that is not elementwise is refused with a `TypeError`, and runs as it is.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import math
from collections.abc import Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["LOGIC", "OPERATORS", "Notes", "Operation", "Symbol"]

# Python's operators, by the names of the ufuncs that they are for arrays.
OPERATORS = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "power": "{} ** {}",
    "negative": "-{}",
    "positive": "+{}",
    "absolute": "abs({})",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "equal": "{} == {}",
    "not_equal": "{} != {}",
}
_CONDITIONS = {*list(OPERATORS)[-6:], "isnan", "isinf", "isfinite"}
LOGIC = {"logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "invert"}
# What NumPy makes of a power with such a Python number.
_POWERS = {2: "square", 1: "positive", 0.5: "sqrt", -1: "reciprocal"}


class Operation(NamedTuple):
    """One operation: ``name = function(*operands)``.

    Its kind is "number" (the same for all elements), or what each element is: "real", "complex" or
    "condition". An operand is the name of a variable or of an earlier operation, or a number's literal.
    Besides ufuncs there are ``where``, ``real``, ``imag``, and ``cast`` to the operation's kind. What makes
    numbers, and what casts them, is to be done once.
    """

    name: str
    kind: str
    function: str
    operands: tuple[str, ...]
    once: bool


class Notes:
    """The operations that formulas leave behind.

    Parameters
    ----------
    dtype : dtype
        That of the parameter, float or complex.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.operations: list[Operation] = []
        self.whole = "complex" if dtype.kind == "c" else "real"
        self.dtypes = {"number": np.dtype(float), "condition": np.dtype(bool), "real": dtype}
        if dtype.kind == "c":
            self.dtypes |= {"real": np.zeros((), dtype).real.dtype, "complex": dtype}

    def run(
        self, rule: Any, x: Symbol, Δ: Symbol, kept: Sequence[Symbol], numbers: Sequence[Symbol]
    ) -> tuple[Symbol, list[Symbol]]:
        """Write down a rule's formula; return the step, and what the rule keeps."""
        if impurity := _impurity(rule.formula):
            raise TypeError(f"it {impurity}")
        result = rule.formula(x, Δ, *kept, *numbers)
        step, *new = result if kept else (result,)
        if len(new) != len(kept):
            raise TypeError(f"it returns {len(new)} arrays to keep, not {len(kept)}")
        results = [self.cast(self.symbol(a), b.kind) for a, b in zip((step, *new), (Δ, *kept), strict=True)]
        return results[0], results[1:]

    def split(self) -> tuple[list[Operation], list[Operation]]:
        """Return the operations to do once, and those to do for each element."""
        return [o for o in self.operations if o.once], [o for o in self.operations if not o.once]

    def symbol(self, value: Any) -> Symbol:
        """Return a value that takes part in an operation as a symbol."""
        if isinstance(value, Symbol):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, np.generic):
            code = repr(float(value)) if math.isfinite(value) else f"float('{float(value)}')"
            return Symbol(self, f"({code})", "number")
        raise TypeError(f"it takes {value!r:.40} (of type {type(value).__name__}) into its arithmetic")

    def add(self, kind: str, function: str, *operands: Symbol) -> Symbol:
        """Write down an operation of that kind, unless it is there already."""
        names = tuple([symbol.name for symbol in operands])
        for o in self.operations:
            if (o.kind, o.function, o.operands) == (kind, function, names):
                return Symbol(self, o.name, kind)
        name = f"a{len(self.operations)}"
        once = kind == "number" or (function == "cast" and operands[0].kind == "number")
        self.operations.append(Operation(name, kind, function, names, once))
        return Symbol(self, name, kind)

    def cast(self, symbol: Symbol, kind: str) -> Symbol:
        """Make a symbol one of the given kind."""
        if symbol.kind == kind:
            return symbol
        if symbol.kind == "complex":
            raise TypeError("it makes a real array complex")
        return self.add(kind, "cast", symbol)

    def operate(self, name: str, *values: Any) -> Symbol:
        """Write down an elementwise function of NumPy's."""
        symbols = [self.symbol(value) for value in values]
        kinds = {symbol.kind for symbol in symbols}
        if name in LOGIC and kinds == {"condition"}:
            return self.add("condition", name, *symbols)
        widest = next(kind for kind in ("complex", "real", "number", "condition") if kind in kinds)
        if kinds == {"number"}:
            return self.add("number", name, *symbols)
        if widest != "complex":
            widest = "real"
        symbols = [self.cast(symbol, widest) for symbol in symbols]
        if name in _CONDITIONS:
            return self.add("condition", name, *symbols)
        return self.add("real" if name == "absolute" else widest, name, *symbols)

    def where(self, condition: Any, a: Any, b: Any) -> Symbol:
        """Write down a choice between two values."""
        chosen, *values = [self.symbol(value) for value in (condition, a, b)]
        kind = "complex" if "complex" in {value.kind for value in values} else "real"
        return self.add(kind, "where", chosen, *[self.cast(value, kind) for value in values])


class Symbol(NDArrayOperatorsMixin):
    """What a formula meets in place of an array or a number: writes down what is done with it."""

    def __init__(self, notes: Notes, name: str, kind: str) -> None:
        self.notes, self.name, self.kind = notes, name, kind

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of such values."""
        return self.notes.dtypes[self.kind]

    @property
    def real(self) -> Symbol:
        """The real part."""
        return self.notes.add("real", "real", self) if self.kind == "complex" else self

    @property
    def imag(self) -> Symbol:
        """The imaginary part."""
        if self.kind == "complex":
            return self.notes.add("real", "imag", self)
        return self.notes.cast(self.notes.symbol(0), "real")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *values: Any, **options: Any) -> Symbol:
        name = ufunc.__name__
        if method != "__call__" or options or ufunc.nout != 1 or getattr(np, name, None) is not ufunc:
            raise TypeError(f"it uses {name} in a way that only NumPy knows")
        x, *others = values
        if name == "power" and isinstance(x, Symbol) and x.kind != "number":
            (y,) = others
            if isinstance(y, (int, float)) and y in _POWERS:
                return self.notes.operate(_POWERS[y], x)
        return self.notes.operate(name, *values)

    def __array_function__(self, function: Any, types: Any, values: Any, options: Any) -> Symbol:
        if function is np.where and len(values) == 3 and not options:
            return self.notes.where(*values)
        if function is np.clip and len(values) == 3 and not options:
            z, low, high = values
            return self.notes.operate("minimum", self.notes.operate("maximum", z, low), high)
        raise TypeError(f"it uses np.{function.__name__}, which is not elementwise")

    def __bool__(self) -> bool:
        raise TypeError("it branches on a value: np.where does that elementwise")


def _impurity(formula: Any, within: tuple[Any, ...] = ()) -> str:
    """Say what a formula reads besides its arguments, if it does; constants of a module may change too."""
    if not isinstance(formula, FunctionType) or any(map(inspect.iscode, formula.__code__.co_consts)):
        return "is more than a plain function"
    cells = zip(formula.__code__.co_freevars, formula.__closure__ or (), strict=True)
    read = {name: cell.cell_contents for name, cell in cells}
    for instruction in dis.get_instructions(formula):
        if instruction.opname == "LOAD_GLOBAL":
            read[instruction.argval] = formula.__globals__.get(instruction.argval, builtins)
        elif instruction.argval == "random":
            return "draws random numbers"
    for name, value in read.items():
        if value is np or (name == "abs" and value is builtins) or any(value is f for f in within):
            continue
        if callable(value) and getattr(np, getattr(value, "__name__", ""), None) is value:
            continue
        if not isinstance(value, FunctionType):
            return f"reads {name}, which is none of its arguments"
        if impurity := _impurity(value, (*within, formula)):
            return impurity
    return ""
