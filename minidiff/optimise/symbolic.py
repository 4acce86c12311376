"""Formulas written down: the operations that one is made of, in order.

A formula is called once, with symbols in place of arrays and numbers. They write down each operation they go
through, with NumPy's meaning. The engines make faster code of that than the formula is itself: what involves
only the step's numbers is computed once in Python's numbers, and rounded to the parameter's dtype where it
meets an array.

What a formula means must therefore depend on its arguments alone, but for numbers and functions that it finds
by their names: the engines look at every step whether these are still the same. One that reads anything else,
that branches on a value, or that is not elementwise is refused with a `TypeError`.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["LOGIC", "NUMBERS", "OPERATORS", "Notes", "Operation", "Read", "Symbol", "changes"]

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
LOGIC = {"logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "invert"}
# What NumPy makes of an array to the power of such a Python number.
_POWERS = {2: np.square, 1: np.positive, 0.5: np.sqrt, -1: np.reciprocal}


# The types of Python's numbers. One of NumPy's has a dtype, which NumPy goes by.
NUMBERS = (float, int, bool)


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
        self.reads: list[Read] = []  # what the formulas read besides their arguments
        self.whole = "complex" if dtype.kind == "c" else "real"
        self.dtypes = {"number": np.dtype(float), "condition": np.dtype(bool), "real": dtype}
        if dtype.kind == "c":
            self.dtypes |= {"real": np.zeros((), dtype).real.dtype, "complex": dtype}

    def run(
        self, rule: Any, x: Symbol, Δ: Symbol, names: Sequence[str], numbers: Sequence[str]
    ) -> tuple[Symbol, list[Symbol]]:
        """Write down a rule's formula; return the step, and what the rule keeps.

        The names are those of the variables that stand for what it kept, and for the step's numbers.
        """
        kinds = ["real" if name in rule.real else self.whole for name in rule.keeps]
        kept = [Symbol(self, name, kind) for name, kind in zip(names, kinds, strict=True)]
        formula = rule.formula
        self.reads += _reads(formula, lambda: formula)
        result = formula(x, Δ, *kept, *[Symbol(self, name, "number") for name in numbers])
        step, *new = result if kept else (result,)
        if len(new) != len(kept):
            raise TypeError(f"it returns {len(new)} arrays to keep, not {len(kept)}")
        results = [self.cast(self.symbol(a), b.kind) for a, b in zip((step, *new), (Δ, *kept), strict=True)]
        return results[0], results[1:]

    def split(self, results: Iterable[str]) -> tuple[list[Operation], list[Operation]]:
        """Return, of the operations that results depend on, those to do once and those for each element."""
        needed = set(results)
        operations: list[Operation] = []
        for o in reversed(self.operations):
            if o.name in needed:
                needed.update(o.operands)
                operations.insert(0, o)
        return [o for o in operations if o.once], [o for o in operations if not o.once]

    def symbol(self, value: Any) -> Symbol:
        """Return a value that takes part in an operation as a symbol."""
        if isinstance(value, Symbol):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, np.generic):
            code = repr(value) if math.isfinite(value) else f"float('{value}')"
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

    def operate(self, ufunc: np.ufunc, *values: Any) -> Symbol:
        """Write down an elementwise function of NumPy's."""
        symbols = [self.symbol(value) for value in values]
        kinds = {symbol.kind for symbol in symbols}
        name = ufunc.__name__
        if kinds == {"number"}:
            return self.add("number", name, *symbols)
        if name not in LOGIC:
            symbols = [self.cast(symbol, "complex" if "complex" in kinds else "real") for symbol in symbols]
        elif kinds != {"condition"}:
            raise TypeError(f"it uses np.{name} of what is no condition")
        dtype = ufunc.resolve_dtypes((*[symbol.dtype for symbol in symbols], None))[-1]
        for kind in ("condition", "real", "complex"):
            if self.dtypes.get(kind) == dtype:
                return self.add(kind, name, *symbols)
        raise TypeError(f"it uses np.{name}, which gives {dtype}")

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
        known = getattr(np, name, None) is ufunc and ufunc.nout == 1 and ufunc.signature is None
        if method != "__call__" or options or not known:
            raise TypeError(f"it uses {name} in a way that only NumPy knows")
        return self.notes.operate(ufunc, *values)

    def __pow__(self, p: Any) -> Any:
        exact = self.kind == "real" or (self.kind == "complex" and type(p) is int and p == 2)
        if exact and isinstance(p, (int, float)) and p in _POWERS:
            return self.notes.operate(_POWERS[p], self)
        return super().__pow__(p)

    def __array_function__(self, function: Any, types: Any, values: Any, options: Any) -> Symbol:
        if function is np.where and len(values) == 3 and not options:
            return self.notes.where(*values)
        if function in (np.real, np.imag) and not options:
            return self.real if function is np.real else self.imag
        if function is np.clip and len(values) == 3 and not options:
            z, low, high = values
            return self.notes.operate(np.minimum, self.notes.operate(np.maximum, z, low), high)
        raise TypeError(f"it uses np.{function.__name__}, which is not elementwise")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("it makes an array of a value")

    def __bool__(self) -> bool:
        raise TypeError("it branches on a value: np.where does that elementwise")


# What a formula reads
# --------------------


class Read(NamedTuple):
    """What a formula reads besides its arguments: ``get()`` gives what there is now.

    Of a function, `code` is what it does.
    """

    get: Callable[[], Any]
    value: Any
    code: CodeType | None

    def is_unchanged(self) -> bool:
        """Tell whether its name still means what it meant, and it does what it did, if it is a function."""
        now = self.get()
        if type(now) in NUMBERS:
            return type(now) is type(self.value) and now == self.value
        return now is self.value and (self.code is None or now.__code__ is self.code)


def changes(reads: Iterable[Read]) -> Literal["", "function", "number"]:
    """Tell what has changed of what a formula read.

    A number that has changed may do so at every step: the formula has to run as it is. For another function
    it is to be written down anew.
    """
    changed = [read for read in reads if not read.is_unchanged()]
    if any(type(read.value) in NUMBERS for read in changed):
        return "number"
    return "function" if changed else ""


# The bytecode of what no formula does that depends on nothing else.
_REFUSED = (
    "IMPORT_", "LOAD_NAME", "STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "DELETE_GLOBAL",
    "DELETE_DEREF", "DELETE_ATTR", "DELETE_SUBSCR", "SETUP_", "BEFORE_", "LOAD_SPECIAL", "PUSH_EXC_INFO",
    "YIELD_", "GEN_", "RETURN_GENERATOR", "RAISE_",
)  # fmt: skip


def _reads(function: Any, get: Callable[[], Any], within: tuple[Any, ...] = ()) -> Iterator[Read]:
    """Give what a formula reads besides its arguments: numbers, and functions that do no more than it may."""
    if not isinstance(function, FunctionType):
        raise TypeError("it is no plain function")
    name, code = function.__name__, function.__code__
    is_ours = str(function.__globals__.get("__name__")).startswith("minidiff.")
    if not (is_ours and not within):
        yield Read(get, function, code)
    if is_ours:
        return
    if any(map(inspect.iscode, code.co_consts)) or function.__dict__ or function.__kwdefaults__:
        raise TypeError(f"{name} is more than a plain function")
    if not all(type(default) in NUMBERS for default in function.__defaults__ or ()):
        raise TypeError(f"{name} has a default argument that is no number")
    yield Read(partial(getattr, function, "__defaults__"), function.__defaults__, None)
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    names = {variable: partial(getattr, cell, "cell_contents", None) for variable, cell in cells}
    for instruction in dis.get_instructions(function):
        operation, variable = instruction.opname, instruction.argval
        if operation.startswith(_REFUSED) or variable == "random":
            raise TypeError(f"{name} does more than arithmetic ({operation} {variable})")
        if operation == "LOAD_GLOBAL":
            names[variable] = partial(function.__globals__.get, variable, getattr(builtins, variable, None))
    for variable, meaning in names.items():
        value = meaning()
        is_numpys = callable(value) and getattr(np, getattr(value, "__name__", ""), None) is value
        if is_numpys or value is np or value is abs or type(value) in NUMBERS:
            yield Read(meaning, value, None)
        elif not isinstance(value, FunctionType):
            raise TypeError(f"{name} reads {variable}, which is neither a number nor a function of NumPy's")
        elif not any(value is caller for caller in (*within, function)):
            yield from _reads(value, meaning, (*within, function))
