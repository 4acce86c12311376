"""Stand-ins for arrays that write down whatever is done with them.

A function is called with stand-ins. Each holds an example of its value, answers what asks for shape, dtype or
kind, and notes every call that NumPy or an operator makes with it: as it was made, so that the same calls
with other values have the bits that the function itself would have. What looks at a value instead is refused.
Losses and their way back are recorded so, and the formulas of optimisers.
"""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import math
import operator
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, NoReturn

import autograd
import numpy as np

from minidiff.interrupts import trying
from minidiff.program.known import (
    ABOUT,
    CHANGING,
    CHECKED,
    FAILING,
    FIXED,
    INSTEAD,
    LOOKING,
    METHODS,
    NAMES,
    OPERATORS,
    PARTS,
    PYTHONS,
    REDUCTIONS,
    SETTINGS,
    UFUNCS,
    VALUES,
)
from minidiff.tracing import (
    LacksError,
    backward,
    called_here,
    copied,
    in_a_sparse_product,
    is_box,
    is_of_sparse,
    map_container,
    read_only,
    stands_beneath,
)
from minidiff.tracing.sparse import are_same, product

__all__ = ["NUMBERS", "Call", "FillsError", "Listing", "RefusedError", "StandIn", "Whole", "WritesError",
    "example", "flat", "is_array", "is_check", "shown_line", "stand_ins", "varying", "written"]  # fmt: skip

NUMBERS: Final = (float, int, bool)
# Bytes of a value that a function may look at when it is recorded.
LOOKED_AT = 2**20


class RefusedError(TypeError):
    """What was done with a stand-in cannot be written down."""


class WritesError(RefusedError):
    """The function writes into an array."""


class FillsError(WritesError):
    """It has NumPy do so, which in some versions does not ask whether the array is read-only."""


class Call(NamedTuple):
    """One call: ``results = function(*operands, **options)``."""

    results: list[StandIn]
    function: Callable[..., Any]  # for an operator its ufunc
    form: str  # how the source writes it: a format for the operands, or a name to call
    operands: tuple[Any, ...]
    options: dict[str, Any]
    line: tuple[str, int] | None  # file and number of the user's line
    phase: str
    comes_as_tuple: bool  # or as a list
    is_guarded: bool
    uses: tuple[StandIn, ...]  # the stand-ins among operands and options


_LENGTH = (
    "a value serves as an axis, a shape or a length, of which a program has one. Pass a Python integer, "
    "int(k), or a tuple of them: for each a program is made"
)
_COUNTS = (
    "how many elements it has depends on their values. Write np.where(mask, x, 0), which has always as many"
)


# --- Recording ------------------------------------------------------------------------------------------


class Listing:
    """What is done with the stand-ins of one recording, in order.

    Parameters
    ----------
    phase : {"forward", "step"}
        What runs first.
    is_second : bool
        Whether it is only compared with another one, which knows the lines of the way back.

    Attributes
    ----------
    calls : list of Call
        The calls.
    assumed : list of StandIn
        What the function has looked at: values that follow from constants alone. The recording holds as long
        as they are the same.
    forward : list of str
        The names of the constants of the loss itself.
    given : list of tuple
        Lines of the user's, each with the arrays and numbers that are given to a function there.
    refusal : RefusedError or None
        The first thing that was refused.
    phase : str
        What runs: "forward", "backward" or "step"; "over" when nothing does. In a step nothing may depend on
        an array's shape: it runs on blocks of arrays, and on several arrays in one.
    """

    def __init__(self, phase: str = "forward", is_second: bool = False) -> None:
        self.phase, self._is_second = phase, is_second
        self.calls: list[Call] = []
        self.assumed: list[StandIn] = []
        self.refusal: RefusedError | None = None
        self._failure: RefusedError | None = None  # raised if the function has caught an error
        self.made_by: dict[str, Call] = {}
        self._following: set[str] = set()  # the names of constants, and of what follows from them alone
        self._held: list[Any] = []  # so that no id is given twice
        self._called_as_one: list[Any] = []  # functions
        self.constants: dict[str, Any] = {}
        self.forward: list[str] = []
        self.given: list[tuple[Any, list[Any]]] = []

    def constant(self, array: Any) -> StandIn:
        """Give a stand-in for an array that is kept by reference."""
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        self._following.add(name)
        if self.phase == "forward":
            self.forward.append(name)
        return StandIn(self, name, array)

    def forget(self) -> None:
        """Let go of all arrays: they and the listing hold one another."""
        for held in (self.calls, self.assumed, self.made_by, self._held, self.constants, self.given):
            held.clear()

    def take_found(self, things: list[Any]) -> None:
        """Put a sparse matrix among things, which may change, in the place of its transpose made of it."""
        for i, call in enumerate(self.calls):
            if call.function is product and not any(call.operands[0] is x for x in things):
                A, x, is_transposed = call.operands
                matrices = (M for M in things if hasattr(type(M), "tocsr"))
                M = next((M for M in matrices if are_same(M.T, A)), None)
                if M is not None:
                    self.calls[i] = call._replace(operands=(M, x, not is_transposed))

    def follows(self, *values: Any) -> bool:
        """Tell whether values follow from constants alone: found arrays, and what is made of them."""
        return not _any_box(values) and all(x._name in self._following for x in stand_ins(values))

    def look(self, what: str, *values: Any) -> Any:
        """Give the examples of values for the function to look at, if they follow from constants alone.

        A value of parameters or arguments is refused, for what it does with it, and so is a large one, which
        would have to be compared at every call.
        """
        seen = stand_ins(values)
        if not self.follows(values) or sum(np.asarray(x._example).nbytes for x in seen) > LOOKED_AT:
            counts = [x for x in seen if isinstance(x._example, (np.integer, np.bool_)) and self._is_given(x)]
            kind = "bool" if counts and isinstance(counts[0]._example, np.bool_) else "int"
            self.refuse(f"{what}. Of an argument n that is one pass {kind}(n)" if counts else what)
        self.assumed += seen
        return example(values)

    def _is_given(self, x: StandIn) -> bool:
        """Tell whether something is an argument of the function."""
        return x._name not in self.made_by and x._name not in self.constants

    def refuse(self, what: str, kind: type[RefusedError] = RefusedError) -> NoReturn:
        """Refuse what the function does, with its line."""
        self.refusal = self.refusal or self._worded(what, kind)
        raise self.refusal

    def check(self) -> None:
        """Raise what was refused: the function may have caught the error. So it may have one of NumPy's."""
        if self.refusal or self._failure:
            raise self.refusal or self._failure  # type: ignore[misc]

    def _worded(self, what: str, kind: type[RefusedError] = RefusedError) -> RefusedError:
        return kind(f"{'' if self.phase == 'step' else 'compiled: '}{shown_line(self._line())}{what}.")

    def call(self, function: Any, form: str, operands: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Make a call with the examples and note it.

        In a step, what comes of numbers alone is Python's arithmetic: it is not noted, but named by the
        expression that it is.
        """
        uses = stand_ins((operands, options))
        for x in uses:
            if x._listing is not self:
                self.refuse("it uses an array of another recording: compiled functions do not nest")
        data = operands[0] if operands else None
        if form.startswith((".", "np.")) and any(x is not data and _counts_things(x._example) for x in uses):
            operands, options = self._settled(function, form, operands, options)
            uses = stand_ins((operands, options))
        value = self._computed(function, form, operands, options)
        if self.phase == "step" and type(value) in NUMBERS and "{}" in form:
            return StandIn(self, f"({form.format(*map(written, operands))})", value)
        several = isinstance(value, (tuple, list))
        results: list[StandIn] = []

        def standing(x: Any) -> StandIn:
            if not isinstance(x, (np.ndarray, np.generic, float, int, complex)):
                self.refuse(f"{form.replace('{}', '…')} gives a {type(x).__name__}, which is no array")
            if getattr(x, "dtype", np.dtype(float)).hasobject:
                self.refuse(f"{form.replace('{}', '…')} gives an array of objects")
            results.append(StandIn(self, f"v{len(self.made_by) + len(results) + 1}", x))
            return results[-1]

        stands = map_container(standing, value) if several else standing(value)
        is_guarded = function in CHECKED or type(function) is Whole or _counts(function, operands)
        is_guarded = is_guarded or _may_be_complex(function, operands)
        line = None if self._is_second and self.phase == "backward" else self._line()
        made = Call(
            results, UFUNCS.get(function, function), form, operands, options, line, self.phase,
            several, is_guarded, tuple(uses),
        )  # fmt: skip
        self.calls.append(made)
        self.made_by.update((x._name, made) for x in results)
        if all(x._name in self._following for x in uses):
            self._following.update(x._name for x in results)
        return stands

    def _computed(self, function: Any, form: str, operands: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Make a call with the examples, unless a program would go on where it raises an error."""
        try:
            value = function(*[example(x) for x in operands], **{k: example(x) for k, x in options.items()})
        except Exception as error:
            self._failure = self._failure or self._worded(_CAUGHT.format(type(error).__name__))
            raise
        is_loss = self.phase in ("forward", "backward")
        if is_loss and not _GOES_ON.issuperset(np.geterr().values()):
            self.refuse("np.errstate makes errors of infinities and NaN here: a program goes on with them")
        if is_loss and any(action == "error" for action, *_ in warnings.filters[:1]):
            self.refuse(
                "warnings are made errors here (`warnings.simplefilter`): a program goes on with them"
            )
        if (
            form.startswith((".", "np."))
            and type(value) is np.ndarray
            and any(value is example(x) for x in operands[1:])  # the first may come back as it is (np.real)
        ):
            what = f"it writes into an array with {form}. Do not pass out, which is given by position"
            self.refuse(what, FillsError)
        return value

    def attempt(
        self, function: Any, rule: Any, g: int, operands: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Note what a user's function does, or a rule of it.

        Where that cannot be written down, note a call as one, and so of its rules: they may use what the
        function itself has kept.
        """
        before, failure = self.refusal, self._failure
        growing: list[list[Any]] = [self.calls, self.assumed, self.given]
        lengths = [*map(len, growing)]
        if not any(x is function for x in self._called_as_one):
            with trying():
                result = (rule or function)(*operands, **options)
                if self.refusal is before and self._failure is failure:
                    return result
            self._called_as_one.append(function)
        self.refusal, self._failure = before, failure
        for some, length in zip(growing, lengths, strict=True):
            del some[length:]
        whole = Whole(rule or function, g if rule else None)
        return self.call(whole, whole.__name__, operands, options)

    def _settled(
        self, function: Any, form: str, operands: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put in the place of axes, shapes and lengths what they are: a program is made for them."""

        def looked_at(x: Any) -> Any:
            return self.look(_LENGTH, x)[0] if stand_ins(x) else x

        settings = _settings_of(function, form, len(operands))
        return (
            tuple([looked_at(x) if is_set else x for x, is_set in zip(operands, settings, strict=True)]),
            {name: looked_at(x) if name in SETTINGS else x for name, x in options.items()},
        )

    def key(self, x: Any) -> Any:
        """Give what tells operands apart: of numbers type and digits, so that -0.0 is not 0.0."""
        if type(x) is StandIn:
            return x._name
        if type(x) is not np.ndarray:
            if type(x) in _WRITTEN:
                return type(x), repr(x)
            if isinstance(x, (tuple, list)):
                return type(x), *map(self.key, x)
            if isinstance(x, dict):
                return tuple((name, self.key(item)) for name, item in sorted(x.items()))
            if isinstance(x, slice):
                return slice, *map(self.key, (x.start, x.stop, x.step))
        self._held.append(x)
        return id(x)

    def _line(self) -> tuple[str, int] | None:
        """Find the user's line that runs, or on the way back the one whose derivative is computed.

        In a step it is the formula's.
        """
        frame: Any = sys._getframe(2)
        entry: Any = None
        given: Any = None if self.phase == "forward" else []
        while frame is not None:
            code = frame.f_code
            if code is _BACKWARD and self.phase == "backward":
                value = getattr(frame.f_locals.get("call"), "_value", None)
                for x in stand_ins(value):
                    if x._name in self.made_by:
                        return self.made_by[x._name].line
            kind = _kind(code.co_filename)
            if kind != "library":
                if given is None:
                    held = [] if entry is None else flat(list(entry.f_locals.values()))
                    given = [x for x in held if is_array(x) or type(x) is float]
                if kind == "user" or self.phase == "step":
                    if kind == "user" and self.phase == "step":
                        return None
                    line = code.co_filename, frame.f_lineno
                    if given:
                        self.given.append((line, given))
                    return None if self.phase == "backward" else line
            entry, frame = frame, frame.f_back
        return None


class Whole:
    """A function called as one: it cannot change what it gets, and nobody else has what it gives.

    What it gets it may keep; a rule's gradient, at place `g`, is its own.
    """

    def __init__(self, function: Callable[..., Any], g: int | None) -> None:
        self._g = g
        self.__name__ = type(function).__name__
        functools.update_wrapper(self, function)

    def __call__(self, *operands: Any, **options: Any) -> Any:
        """Call it."""
        given = [copied(x) if i == self._g else read_only(x) for i, x in enumerate(operands)]
        return copied(self.__wrapped__(*given, **read_only(options)), "K")  # type: ignore[attr-defined]


_PLAIN = {np.ndarray, bool, int, float, str, type(None)}
_WRITTEN = {bool, int, float, complex, str, type(None), type(...)}
_BACKWARD = backward.__code__
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LIBRARIES = (
    _OURS, *(os.path.dirname(path) + os.sep for path in (autograd.__file__, np.__file__)),
    os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "scipy", ""),
    "<__array_function__", "<frozen", copy.__file__, functools.__file__, inspect.__file__,
)  # fmt: skip
# Modules that show values: debuggers and logs.
_SHOWING = {"bdb", "cmd", "logging", "pdb", "reprlib", "traceback"}
# Files of ours with functions written as a user's are: what they make of arrays is not noted unless stand-ins
# take part.
_WRITTEN_OUT = tuple(
    _OURS + name.replace("/", os.sep)
    for name in ("functions.py", "losses.py", "optimise/rules.py", "optimise/decays.py", "optimise/clips.py")
)


@functools.cache
def _kind(file: str) -> str:
    """Tell whose a file is: the user's, a library's, or one of ours that is written as a user's is."""
    return "ours" if file in _WRITTEN_OUT else "library" if file.startswith(_LIBRARIES) else "user"


def shown_line(line: tuple[str, int] | None) -> str:
    """Write the user's line for a message, if it is known."""
    if line is None:
        return ""
    text = linecache.getline(*line).strip()
    return f"{os.path.basename(line[0])}, line {line[1]}" + (f" ({text}): " if text else ": ")


def is_check(call: Call) -> bool:
    """Tell whether a call is more than its results: their shape is checked, or it fails for some values."""
    fails = call.function in FAILING or (call.function is operator.getitem and len(call.uses) > 1)
    return call.is_guarded or (fails and call.phase == "forward")


def _counts_things(x: Any) -> bool:
    return x.dtype.kind in "iub" if is_array(x) else type(x) is int


def _settings_of(function: Any, form: str, count: int) -> list[bool]:
    """Tell which of the operands of a call say about which axis it is, or of which shape."""
    if form.startswith(".") or form.endswith((".reduce", ".accumulate")):
        values = 1 + VALUES.get(form, 0)
        return [i >= values for i in range(count)]
    try:
        every = inspect.signature(function).parameters.values()
    except ValueError:  # some functions in C have none
        return [i > 0 and function in (np.concatenate, np.lexsort) for i in range(count)]
    names = [x.name for x in every for _ in range(count if x.kind is x.VAR_POSITIONAL else 1)]
    more = {"start"} if function is np.rollaxis else set[str]()
    return [name in SETTINGS | more for name in names[:count]]


def _counts(function: Any, operands: tuple[Any, ...]) -> bool:
    """Tell whether an array is read with a mask, which may have another number of elements another time."""
    if function in (np.repeat, _method("repeat")):
        return len(operands) < 2 or type(operands[1]) is not int
    if function is not operator.getitem:
        return False
    index = operands[1] if type(operands[1]) is tuple else (operands[1],)
    return any(isinstance(i, (np.ndarray, list)) and np.asarray(example(i)).dtype == bool for i in index)


def _may_be_complex(function: Any, operands: tuple[Any, ...]) -> bool:
    """Tell whether a power of Python's numbers is real for some bases and complex for others."""
    if function is not operator.pow:
        return False
    x, y = example(operands)
    return {type(x), type(y)} <= {int, float} and (type(operands[1]) is StandIn or not float(y).is_integer())


def _fixed(name: str, ask: Callable[[Any], Any]) -> Any:
    """Answer from the example; not in a step, which runs on blocks of arrays as well."""

    def answer(self: StandIn) -> Any:
        if self._listing.phase == "step":
            self._listing.refuse(f"it reads {name}, which a block of an array has otherwise")
        return ask(self._example)

    return answer


def _if_there(name: str, method: Callable[..., Any]) -> Any:
    """Have a method where what is stood in for has it: `hasattr` tells arrays from numbers."""

    def bound(self: StandIn) -> Callable[..., Any]:
        if not hasattr(self._example, name):
            raise LacksError(f"{type(self._example).__name__!r} object has no attribute {name!r}")
        return functools.partial(method, self)

    return property(bound)


class StandIn:
    """A stand-in for an array or a number: its name in the listing, and an example of its value."""

    __slots__ = ("_example", "_listing", "_name")

    def __init__(self, listing: Listing, name: str, example: Any) -> None:
        self._listing, self._name, self._example = listing, name, example

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance` it is what it stands for; not for sparse matrices, which look into arrays."""
        return StandIn if is_of_sparse(sys._getframe(1)) else type(self._example)

    dtype = property(lambda self: self._example.dtype)
    _value = property(lambda self: self)  # for what asks a leaf for its value

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
        if _any_box(operands, options):
            return NotImplemented
        if options.get("out") is not None or method == "at":
            self._listing.refuse(
                f"it writes into an array with np.{ufunc.__name__}. Make a new one: b = b + …, np.where; or "
                "make the one to be filled by minidiff.functions.zeros(n)",
                FillsError,
            )
        if method == "__call__" and "where" in options:
            options["out"] = None  # NumPy warns without it, and has not passed it on
        for name in ("array", "indices")[: len(operands)]:
            options.pop(name, None)  # NumPy gives it by place and by name
        known = getattr(np, ufunc.__name__, None) is ufunc
        name = f"np.{ufunc.__name__}" if known else f"{ufunc.__name__}"
        if method == "__call__":
            return self._listing.call(ufunc, name, operands, options)
        return self._listing.call(getattr(ufunc, method), f"{name}.{method}", operands, options)

    def __array_function__(self, function: Any, types: Any, operands: Any, options: Any) -> Any:
        if _any_box(operands, options):
            return NotImplemented
        if function in ABOUT and self._listing.phase != "step":
            return function(*example(operands), **example(options))
        name = f"{getattr(function, '__module__', 'numpy')}.{function.__name__}".replace("numpy", "np", 1)
        if options.get("out") is not None:
            self._listing.refuse(f"{name} writes into an array. Leave out= away", FillsError)
        if function is np.nan_to_num and (operands[1:2] == (False,) or not options.get("copy", True)):
            self._listing.refuse(f"{name} writes into an array. Leave copy=False away", FillsError)
        is_known = function in NAMES
        if function is np.bincount:  # how long its result is depends on the places alone
            is_known = self._listing.follows(operands[0]) and not self._listing.follows(operands, options)
        refusal = "" if is_known else (
            f"{name} cannot be compiled: its result may have another shape for other values, or it does "
            f"more than give one. {INSTEAD.get(function, 'Write it with other functions')}, or call it "
            "before and pass what it gives as an argument"
        )  # fmt: skip
        if function in CHANGING:
            refusal = (
                f"{name} changes an array that is not under differentiation, an argument for one, and a "
                "compiled loss must leave these as they are. Make a new one (np.where, np.concatenate), or "
                "change it before"
            )
        if function is np.where and len(operands) + len(options) == 1:
            refusal = f"np.where(mask) gives indices, and {_COUNTS}"
        if refusal:
            if function not in LOOKING:
                self._listing.refuse(refusal, WritesError if function in CHANGING else RefusedError)
            operands, options = self._listing.look(refusal, operands, options)
            return function(*operands, **options)
        return self._listing.call(function, NAMES[function], operands, options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if in_a_sparse_product():  # SciPy leaves the product to what is no array
            return np.array(None, object)
        called, cures = called_here()
        who = "np.asarray() (or a function that calls it, np.array([a, b]) for one)"
        if called.startswith(("np.", "numpy.")):
            who = re.sub(r"^numpy(\.lib)?\.", "np.", called)
            cures = INSTEAD.get(getattr(np, who[3:], None), cures)
        elif re.match(r"scipy(?!\.sparse)", called):
            who = "a function of SciPy's in Python cannot be compiled: it"
            if re.search(r"odeint|minidiff\.implicit", cures):  # which look at values, too
                cures = (
                    "Take the gradient of such a loss by gradient itself, or call the function before and "
                    "pass what it gives as an argument"
                )
        cures = cures or "NumPy functions take the array as it is; np.stack and np.concatenate join several"
        (value,) = self._listing.look(f"{who} looks at values. {cures.removesuffix('.')}", self)
        array = np.array(value, dtype)
        array.flags.writeable = bool(copy)  # nobody is to write into it and lose that
        return array

    def __as_array__(self) -> Any:
        """Note that what it stands for, a number, becomes an array."""
        return self._listing.call(np.array, "np.array", (self,), {})

    def refuse(self, what: str) -> NoReturn:
        """Refuse, for a derivative, what the function does."""
        self._listing.refuse(what)

    @staticmethod
    def __listed__(function: Any, *operands: Any, **options: Any) -> Any:
        """Note a call of a function of minidiff's own as one, unless a trace has to see inside."""
        if _any_box(operands, options):
            return function.__wrapped__(*operands, **options)
        listing = stand_ins(operands)[0]._listing
        return listing.call(function, function.__name__, operands, options)

    @staticmethod
    def __called__(function: Any, rule: Any, g: int, *operands: Any, **options: Any) -> Any:
        """Note what a user's function or a rule of it does, or a call, unless a trace has to see inside."""
        if _any_box(operands, options):
            return (rule or function)(*operands, **options)
        listing = stand_ins((operands, options))[0]._listing
        return listing.attempt(function, rule, g, operands, options)

    def __getattr__(self, name: str) -> Any:
        x, listing = self._example, self._listing
        if not hasattr(x, name) or name.startswith("__"):
            raise AttributeError(f"{type(x).__name__!r} object has no attribute {name!r}")
        if name in PARTS:
            return listing.call(getattr(np, name, operator.attrgetter(name)), "{}." + name, (self,), {})
        if name == "view":
            return lambda kind=np.ndarray: (
                self if kind is np.ndarray else listing.refuse(f"x.view({kind!r}) looks at bits")
            )
        if name == "conjugate" or (name in METHODS and isinstance(x, (np.ndarray, np.generic))):

            def call(*operands: Any, **options: Any) -> Any:
                if options.get("out") is not None:
                    listing.refuse(f".{name}(out=…) writes into an array. Leave out= away", FillsError)
                if _any_box(operands, options):
                    return getattr(np, name)(self, *operands, **options)
                if name in REDUCTIONS and len(operands) < 2 and options.keys() <= {"axis", "keepdims"}:
                    return REDUCTIONS[name](self, **{"axis": operands[0] if operands else None, **options})
                return listing.call(_method(name), f".{name}", (self, *operands), options)

            return call
        what = (
            f".{name} of a value that the next call may have otherwise. Use np.* functions of the array "
            "itself, or pass what depends on the value as an argument"
        )
        if name not in ("item", "nonzero", "tobytes", "tolist"):
            listing.refuse(what)
        return getattr(listing.look(what, self)[0], name)

    def _item(self, index: Any) -> Any:
        parts = []
        for i in index if type(index) is tuple else (index,):
            is_mask = type(i) is StandIn and np.asarray(i._example).dtype == bool
            if is_mask and not (np.ndim(i._example) and self._listing.follows(i)):
                (i,) = self._listing.look(f"a mask (x[mask], where=) picks elements, and {_COUNTS}", i)
            if isinstance(i, slice) and any(type(end) is StandIn for end in (i.start, i.stop, i.step)):
                (i,) = self._listing.look(f"x[i:j] with i or j computed, and {_COUNTS}", i)
            if is_box(i):
                self._listing.refuse("a value under differentiation is no index")
            parts.append(i)
        index = tuple(parts) if type(index) is tuple else parts[0]
        return self._listing.call(operator.getitem, "{}[{}]", (self, index), {})

    _length = _fixed("its length", len)

    def _items(self) -> Iterator[Any]:
        return (self._item(i) for i in range(self._length()))

    __getitem__, __len__ = _if_there("__getitem__", _item), _if_there("__len__", _length)
    __iter__ = _if_there("__getitem__", _items)  # without it, `iter` would go by `__getitem__`

    def __copy__(self) -> Any:
        return self.copy() if hasattr(self, "copy") else self

    def __deepcopy__(self, memo: Any) -> Any:
        return self.__copy__()

    def __repr__(self) -> str:
        x = self._example
        if self._listing.phase != "over" and _makes_text(sys._getframe(1)):
            return repr(self._listing.look(_TEXT, self)[0])
        return f"<compiled {type(x).__name__}{getattr(x, 'shape', '')}>"


def _makes_text(frame: Any) -> bool:
    """Tell whether it is the user's code that asks for a text, perhaps of what a recorded value shows."""
    while frame.f_code.co_name == "__repr__" and _kind(frame.f_code.co_filename) == "library":
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__")).partition(".")[0]
    return _kind(frame.f_code.co_filename) == "user" and module not in _SHOWING


@functools.cache
def _method(name: str) -> Any:
    return lambda x, *operands, **options: getattr(x, name)(*operands, **options)


def _operator(function: Any, form: str) -> tuple[Any, Any]:
    def forward(self: StandIn, *other: Any) -> Any:
        if other and (
            is_box(other[0]) or (hasattr(other[0], "__array_ufunc__") and other[0].__array_ufunc__ is None)
        ):
            return NotImplemented
        return self._listing.call(function, form, (self, *other), {})

    def reflected(self: StandIn, other: Any) -> Any:
        return self._listing.call(function, form, (other, self), {})

    return forward, reflected


for _name, (_, _form) in OPERATORS.items():
    _forward, _reflected = _operator(PYTHONS[_name], _form)
    setattr(StandIn, f"__{_name}__", _forward)
    if _name not in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
        setattr(StandIn, f"__r{_name}__", _reflected)

_CAUGHT = (
    "it catches an error, {}, and goes on: its program would do so always. Write what cannot fail, "
    "such as np.where(c, a, b), or do without compiled"
)
_GOES_ON = {"ignore", "warn", "print", "log"}
_BRANCH = (
    "it branches on a value, and would go the same way for every other. np.where(condition, a, b) decides by "
    "element, np.maximum(a, b) is what max is; a check of the data stands outside of the loss"
)
_NUMBER = (
    "makes a Python number of a value, which would be the same for every other. Use np.* functions; where a "
    "number is needed, pass it as an argument"
)
_TEXT = (
    "it makes text of a value, which would be that of the recording. Print what the function gives, outside"
)
_LOOKS: dict[str, tuple[Callable[..., Any], str]] = {
    "__bool__": (bool, _BRANCH),
    "__contains__": (operator.contains, "`in` looks at values. Write np.any(x == a)"),
    "__float__": (float, f"float() (or a `math` function, or a[i] = x where a = np.zeros(n)) {_NUMBER}. "
        "In place of np.zeros(n), fill minidiff.functions.zeros(n)"),
    "__int__": (int, f"int() {_NUMBER}"),
    "__complex__": (complex, f"complex() {_NUMBER}"), "__round__": (round, f"round() {_NUMBER}"),
    "__trunc__": (math.trunc, f"trunc() {_NUMBER}"),
    "__floor__": (math.floor, f"floor() {_NUMBER}"), "__ceil__": (math.ceil, f"ceil() {_NUMBER}"),
    "__index__": (operator.index, "a value serves as an index, a size or a count. Make the array that is "
        "indexed before, outside of the loss; one-hot rows are y[:, None] == np.arange(n), too. A size or a "
        f"count {_NUMBER}"),
    "__str__": (str, _TEXT), "__format__": (format, _TEXT),
    "__hash__": (hash, "it uses a value as a key"),
}  # fmt: skip
_CHANGES = {
    "__setitem__": "it assigns into an array that is not under differentiation. Build the new one with "
        "np.where, np.concatenate or np.stack, or fill np.zeros_like(W, shape=n) of a value that is, or "
        "minidiff.functions.zeros(n), of floats: of whole numbers make it when it is full, by .astype(int)",
    "__delitem__": "it deletes from an array",
    "__reduce_ex__": "it pickles a value",
}  # fmt: skip


def _look(ask: Callable[..., Any], what: str) -> Callable[..., Any]:
    return lambda self, *args: ask(*self._listing.look(what, self, *args))


def _refusal(what: str, kind: type[RefusedError]) -> Callable[..., Any]:
    return lambda self, *args: self._listing.refuse(what, kind)


for _name, (_ask, _what) in _LOOKS.items():
    setattr(StandIn, _name, _look(_ask, _what))
for _name, _what in _CHANGES.items():
    setattr(StandIn, _name, _refusal(_what, RefusedError if _name == "__reduce_ex__" else WritesError))
for _name in FIXED:
    _what = f"it sets .{_name} of an array. Write b = b.reshape(shape): the result is new"
    _fixed_part = _fixed(f".{_name}", operator.attrgetter(_name))
    setattr(StandIn, _name, property(_fixed_part, _refusal(_what, WritesError)))
for _name in ("flat", "imag", "real"):
    _part = operator.methodcaller("__getattr__", _name)
    setattr(StandIn, _name, property(_part, _refusal(_CHANGES["__setitem__"], WritesError)))


def _in_place(function: Any, symbol: str) -> Any:
    """Refuse to change an array in place; a number is another one afterwards anyway."""

    def change(self: StandIn, other: Any) -> Any:
        if isinstance(self._example, np.ndarray):
            self._listing.refuse(
                f"it changes an array in place ({symbol}=). Write b = b {symbol} …: the result is new",
                WritesError,
            )
        return function(self, other)

    return change


for _name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul",
    "and", "or", "xor", "lshift", "rshift",
):  # fmt: skip
    setattr(StandIn, f"__i{_name}__", _in_place(PYTHONS[_name], OPERATORS[_name][1][3:-3]))

stands_beneath(StandIn, lambda x: x._example)
StandIn.__name__ = "value in a compiled function"  # for Python's own messages


def example(x: Any) -> Any:
    """Put in the place of every stand-in its example, also inside lists, tuples and dicts."""
    if type(x) is StandIn:
        return x._example
    return map_container(example, x) if type(x) not in _PLAIN else x


def written(number: Any) -> str:
    """Write a number, or what stands for one, as an operand."""
    text = number._name if type(number) is StandIn else repr(number)
    text = text if type(number) is not float or np.isfinite(number) else f"float({text!r})"
    return f"({text})" if text.startswith("-") else text


def varying(x: StandIn) -> Any:
    """Give what a gradient may be taken by: a number of NumPy's, or an array; None for other things."""
    e, call = x._example, x._listing.call
    kind = np.asarray(e).dtype.kind
    if isinstance(e, (np.ndarray, np.generic)):
        if kind in "iu":
            x = call(_method("astype"), ".astype", (x, np.float64), {})
        return x if kind in "iufc" else None
    number = np.complex128 if kind == "c" else np.float64
    return call(number, f"np.{number.__name__}", (x,), {}) if kind in "iufc" else None


def flat(x: Any) -> list[Any]:
    """Give what lists, tuples, dicts and slices hold, one after the other."""
    found: list[Any] = []
    _flatten((x,), found)
    return found


def stand_ins(x: Any) -> list[StandIn]:
    """Give the stand-ins among what lists, tuples, dicts and slices hold."""
    return [item for item in flat(x) if type(item) is StandIn]


def _flatten(items: Any, found: list[Any]) -> None:
    for x in items:
        kind = type(x)
        if kind is StandIn or kind in _PLAIN:
            found.append(x)
        elif kind is slice:
            found += x.start, x.stop, x.step
        elif issubclass(kind, (list, tuple, dict)):
            _flatten(x.values() if issubclass(kind, dict) else x, found)
        else:
            found.append(x)


def is_array(x: Any) -> bool:
    """Tell whether `x` is an array, or a number of NumPy's, itself."""
    return issubclass(type(x), (np.ndarray, np.generic))


def _any_box(*things: Any) -> bool:
    return any(map(is_box, flat(things)))
