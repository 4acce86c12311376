"""A stand-in for an array or a number that writes down every NumPy call made with it.

A function is called once, with stand-ins for its arguments. Each holds an example value: a call is made with
the examples, and written down with its result. So whatever reaches NumPy is on the tape, in order. What would
look at a value instead (a branch, ``float``) is refused: with other values it might go another way.

Arithmetic of numbers alone is Python's, as it would be without stand-ins: NumPy goes by a Python number's
value, but by the dtype of a number of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["NUMBERS", "Operation", "Recorded", "RefusedError", "Tape", "example", "is_number", "text"]

NUMBERS: Final = (float, int, bool)

# How to write calls of these with Python's operators.
_FORMS: dict[Any, str] = {
    np.add: "{} + {}", np.subtract: "{} - {}", np.multiply: "{} * {}", np.divide: "{} / {}",
    np.power: "{} ** {}", np.negative: "-{}", np.positive: "+{}", np.absolute: "abs({})",
    np.greater: "{} > {}", np.greater_equal: "{} >= {}", np.less: "{} < {}", np.less_equal: "{} <= {}",
    np.equal: "{} == {}", np.not_equal: "{} != {}",
}  # fmt: skip


class RefusedError(TypeError):
    """What was done with a stand-in cannot be written down."""


class Operation(NamedTuple):
    """One call: ``result = function(*operands, **options)``."""

    result: Recorded
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    options: dict[str, Any]


class Tape:
    """The calls made with the stand-ins of one recording, in order.

    Attributes
    ----------
    operations : list of Operation
        The calls.
    refusal : RefusedError or None
        The first thing that was refused: the recorded function may have caught the error.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.refusal: RefusedError | None = None

    def refuse(self, why: str) -> NoReturn:
        """Refuse what the recorded function does."""
        self.refusal = self.refusal or RefusedError(why)
        raise self.refusal

    def call(self, function: Any, operands: Sequence[Any], options: dict[str, Any]) -> Recorded:
        """Make a call with the examples and write it down.

        The result of numbers alone is a number, named by the expression that it is.
        """
        if all(map(is_number, operands)):
            if function not in _FORMS or options:
                self.refuse(f"it uses np.{function.__name__} of a number, which NumPy makes a float64")
            name = f"({_FORMS[function].format(*map(text, operands))})"
            return Recorded(self, name, function(*map(example, operands)).item())
        value = function(*map(example, operands), **{name: example(x) for name, x in options.items()})
        result = Recorded(self, f"a{len(self.operations)}", value)
        self.operations.append(Operation(result, function, tuple(operands), options))
        return result

    def needed(self, names: Iterable[str]) -> list[Operation]:
        """Return the operations that results of these names depend on, in order."""
        wanted, operations = set(names), []
        for operation in reversed(self.operations):
            if operation.result.name in wanted:
                wanted.update(x.name for x in operation.operands if isinstance(x, Recorded))
                operations.append(operation)
        return operations[::-1]


class Recorded(NDArrayOperatorsMixin):
    """A stand-in: its name on the tape, and an example of its value."""

    __slots__ = ("name", "tape", "value")

    def __init__(self, tape: Tape, name: str, value: Any) -> None:
        self.tape, self.name, self.value = tape, name, value

    dtype = property(lambda self: np.asarray(self.value).dtype)
    real = property(np.real)
    imag = property(np.imag)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
        if options.get("out") is not None:
            self.tape.refuse(f"it writes into an array with np.{ufunc.__name__}")
        return self.tape.call(ufunc if method == "__call__" else getattr(ufunc, method), operands, options)

    def __array_function__(self, function: Any, types: Any, operands: Any, options: Any) -> Any:
        return self.tape.call(function, operands, options)

    def __pow__(self, p: Any) -> Any:
        # NumPy computes some powers in other ways than `np.power`.
        if type(p) in NUMBERS and not is_number(self):
            return self.tape.call(operator.pow, (self, Recorded(self.tape, repr(p), p)), {})
        return super().__pow__(p)

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.tape.refuse("it makes an array of a value")

    def __bool__(self) -> bool:  # noqa: PLE0304
        self.tape.refuse("it branches on a value: np.where does that elementwise")

    def __float__(self) -> float:
        self.tape.refuse("it makes a Python number of a value")

    __int__ = __index__ = __complex__ = __float__


def is_number(x: Any) -> bool:
    """Tell whether `x` is a Python number or stands for one."""
    return type(example(x)) in NUMBERS


def text(x: Any) -> str:
    """Return a number as source."""
    if isinstance(x, Recorded):
        return x.name
    return f"({x!r})" if np.isfinite(x) else f"float('{x}')"


def example(x: Any) -> Any:
    """Return the value that a stand-in has in the recording; anything else as it is."""
    return x.value if isinstance(x, Recorded) else x
