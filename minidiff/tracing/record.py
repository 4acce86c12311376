"""What is under differentiation, and how one call is recorded.

autograd keeps a table of derivatives, one entry for each NumPy function. Plain ``np.*`` calls are led to an
entry of it (by `calls.py`), and recorded here. Two ideas carry it:

* A `Traced` is the result of a recorded call *and* its own node in the graph: it knows the function,
  the arguments and the parents it came from. To autograd it is a box like any other.
* A `Leaf` (the base of `Param`) looks itself up among the roots of the running traces. Where it has a
  root it acts as that root; elsewhere it is the plain array it holds.

Traces nest: the value inside a `Traced` may be a box of an outer trace.
"""

from __future__ import annotations

import operator
import sys
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from fractions import Fraction
from functools import wraps
from itertools import count
from numbers import Number
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from autograd.builtins import SequenceBox
from autograd.core import VJPNode, VSpace, vspace
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import Box, getval, notrace_primitives, trace_primitives_map, trace_stack

from minidiff.checks import add_note, described, is_ndarray, owners_of
from minidiff.tracing.derivatives import mean, var
from minidiff.tracing.refusals import cures, name_of, refuse, where
from minidiff.tracing.table import AGAIN, COMPOSITES, RULES, define, in_a_rule_of_autograds, shown, typed

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------------
# The running traces
# ---------------------------------------------------------------------------------------------------

# Each thread (or asyncio task) has its own: the innermost trace; the number of autograd's innermost trace;
# for each leaf its root in the innermost trace that has one. The key is the leaf itself, not its id: a copied
# context may keep a root for long, and Python would give the id to another object.
innermost: ContextVar[Trace | None] = ContextVar("innermost", default=None)
_top: ContextVar[int] = ContextVar("top", default=-1)
_roots: ContextVar[dict[Leaf, Traced]] = ContextVar("roots", default={})  # noqa: B039  (never written into)


# The traces that the running `guard` watches over.
guards: ContextVar[list[Trace] | None] = ContextVar("guards", default=None)


def _can_be_let_go(base: Any) -> bool:
    """Tell whether NumPy lets a read-only array with this base become writeable again."""
    if base is None:
        return True
    if is_ndarray(base):
        return base.flags.writeable or is_guarded(base)
    try:
        return not memoryview(base).readonly
    except TypeError:  # the base of NumPy's windows, for one
        return False


def is_guarded(array: Any) -> bool:
    """Tell whether an array is read-only because a guard holds it."""
    return any(array is held for trace in guards.get() or () for held in trace.held or ())


watching: ContextVar[bool] = ContextVar("watching", default=False)


class _TraceStack(type(trace_stack)):  # type: ignore[misc]
    """autograd's counter of open traces, kept per thread.

    autograd tells inner from outer traces by this number but shares it among threads, so that an inner
    trace can get the number of its outer one. Within a thread it counts here exactly as before.
    """

    @property
    def top(self) -> int:
        trace = innermost.get()
        return _top.get() if trace is None else max(trace.number, _top.get())

    @top.setter
    def top(self, top: int) -> None:
        _top.set(top)


trace_stack.__class__ = _TraceStack


class Trace:
    """One call under differentiation: `run` records what is done to its roots."""

    __slots__ = ("_leaves", "around", "heeds", "held", "lines", "number", "open", "refusal", "views")

    def __init__(self, *, keeps: bool = False) -> None:
        # The trace around a recomputed call, whose values may leave only as its result.
        self.around = innermost.get() if keeps else None
        self.refusal: TypeError | None = None  # the latest
        # Arrays made read-only until the way back is done, if there is a guard.
        self.held: list[np.ndarray[Any, Any]] | None = None
        if (traces := guards.get()) is not None:
            self.held = []
            traces.append(self)
        # What each call was, and where, by its order; None unless calls are watched.
        self.lines: dict[int, str] | None = {} if watching.get() and not standing_now() else None
        self.heeds = self.held is not None or self.lines is not None
        self.number: int = trace_stack.top + 1
        self.open = True  # what outlives its trace is a plain value again
        self._leaves: dict[Leaf, Traced] = {}
        # What may be a view of another array; None once an array has changed.
        self.views: list[weakref.ref[Traced]] | None = []

    def root(self, value: Any, leaf: Leaf | None = None) -> Traced:
        """Make a variable of this trace with a value; it may stand for a leaf while the trace runs."""
        root = Traced(apart(value), None, (), NO_KEYWORDS, (), (), self)
        if leaf is not None:
            self._leaves[leaf] = root
        return root

    def roots_of(self, leaves: Iterable[Leaf]) -> list[Traced]:
        """Make the variables that stand for `leaves` while this trace runs."""
        outer = _roots.get()
        for leaf in leaves:
            value = outer.get(leaf, leaf._array)
            self._leaves[leaf] = Traced(value, None, (), NO_KEYWORDS, (), (), self)
        return list(self._leaves.values())

    def left(self, value: Any) -> Any:
        """Give the value of a call of this trace, now that the trace has ended."""
        if self.around is not None and self.around.open:
            raise TypeError(
                "a value that recompute(f), implicit_root(f, …) or fixed_point(f, …) has computed has left f "
                "otherwise than by the result, and its gradient would be lost. Return it, or keep "
                "dropgrad(value), which is a constant."
            )
        return value

    def heed(self, call: Traced) -> None:
        """Let the guard and the watch look at a new call."""
        if self.held is not None:
            self.hold((*call.arguments, *call.keywords.values()))
        if self.lines is not None and call.function is not None:
            self.lines[call.order] = name_of(call.function) + where()[0]
            self.check(call, call._value, "value")

    def check(self, call: Traced, x: Any, what: str) -> None:
        """Raise an error if not all numbers in `x`, the value of a call or a gradient, are finite."""
        for each in x if isinstance(x, (tuple, list)) else [constant(x)]:
            if getattr(each, "dtype", np.dtype(object)).kind in "fc" and not np.all(np.isfinite(each)):
                raise FloatingPointError(f"{self.lines[call.order]}: the {what} is not finite")  # type: ignore[index]

    def hold(self, arguments: tuple[Any, ...]) -> None:
        """Make the arrays among arguments read-only, and those whose memory they show."""
        for a in arguments:
            for owner in owners_of(a):
                if owner.flags.writeable and _can_be_let_go(owner.base):
                    self.held.append(owner)  # type: ignore[union-attr]
                    owner.flags.writeable = False

    def release(self) -> None:
        """Let its arrays, and those of traces begun since, be written to again."""
        traces = guards.get() or []
        i = traces.index(self) if self in traces else len(traces)
        over = [self, *traces[i + 1 :]]
        # Owners of memory come before their views. What the trace around still holds is left to it.
        for a in sorted([a for trace in over for a in trace.held or ()], key=lambda a: len(owners_of(a))):
            if all(owner.flags.writeable for owner in owners_of(a)[1:]):
                a.flags.writeable = True
            elif i:
                traces[i - 1].held.append(a)  # type: ignore[union-attr]
        del traces[i:]  # last: if an interrupt comes earlier, the guard still knows them
        for trace in over:
            trace.held = None if trace.held is None else []

    def run(self, f: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Traced | None]:
        """Call ``f(*arguments)``; give its value, and the node that recorded it if there is one.

        It runs in a context of its own, so that however it ends, an interrupt at any place included, nothing
        is left to be taken back.
        """
        try:
            value, node = copy_context().run(self._run, f, arguments)
            if node is None:  # there will be no way back
                self.release()
            return value, node
        except BaseException as error:
            if self.held and type(error) is ValueError and str(error).endswith("read-only"):
                error.args = (f"{error}: guard() holds what the loss has used",)
            self.release()
            refusal = self.refusal
            if refusal is not None and refusal is not error and _hides_another(error):
                raise refusal.with_traceback(error.__traceback__) from None
            raise
        finally:
            self.open, self.refusal = False, None
            self._leaves = {}  # the roots know their trace: no cycle is left for the garbage collector

    def _run(self, f: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Traced | None]:
        outer = _roots.get()
        innermost.set(self)
        _roots.set({**outer, **self._leaves} if outer else self._leaves)
        try:
            return self._split(f(*arguments))
        finally:
            self.open = False  # here as well as in `run`: an interrupt can keep one of them from it

    def _split(self, result: Any) -> tuple[Any, Traced | None]:
        if type(result) is Stale or (type(result) is not Traced and isinstance(result, Leaf)):
            result = result.lift()
        if type(result) is Traced and result.owner is self:
            value = result._value
            return value if type(value) in PLAIN else apart(value), result
        x = _living(result)
        while type(x) is Traced:
            if x.owner is self:  # within a trace that is none of those around this one
                raise TypeError(_OF_ANOTHER_THREAD.format("The result"))
            x = _living(x._value)
        return result, None


def _hides_another(error: BaseException) -> bool:
    """Tell whether an error may hide another, as NumPy's of a.flat[i] = x and those of SciPy's solvers do."""
    place: Any = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    is_by_scipy = str(place.tb_frame.f_globals.get("__name__")).startswith("scipy.")
    # CPython raises SystemError where a solver in C has gone on in spite of an error.
    return is_by_scipy or type(error) is SystemError or str(error).startswith("Error setting single item")


_OF_ANOTHER_THREAD = (
    "{} meets values of two gradients that run at the same time, in two threads. Each thread takes its own: "
    "dropgrad(x) gives the plain value of the other's."
)


# ---------------------------------------------------------------------------------------------------
# Recorded values
# ---------------------------------------------------------------------------------------------------

NO_KEYWORDS: dict[str, Any] = {}
_latest_first = count(0, -1)


class Kept:
    """An argument for what a function keeps for its derivative: arrays that are no arguments and no result.

    They are of the plain values that the function was called with. A rule whose arguments are recorded, for a
    derivative of higher order, computes them once more.
    """

    __slots__ = ("values",)

    values: tuple[Any, ...]


# The types of arguments that hold no recorded value, so that nobody needs to look inside.
PLAIN = frozenset({
    Kept, type(None), type(...), bool, int, float, complex, str, slice,
    np.ndarray, np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8,
    np.float16, np.float32, np.float64, np.complex64, np.complex128,
})  # fmt: skip


def _binary(function: Callable[[Any, Any], Any], operate: Callable[[Any, Any], Any]) -> Any:
    """Make the operator method that calls and records `function`, and its reflection."""
    primitive = trace_primitives_map[function]
    name = f"__r{operate.__name__.strip('_')}__"

    def forward(self: Traced, other: Any) -> Any:
        x, owner = self._value, self.owner
        if not owner.open:
            return operate(owner.left(x), other)
        if type(other) in PLAIN:
            if type(other) is np.ndarray and other.dtype.num < _FLOATS:
                other = as_it_is_now(other)
            return Traced(operate(x, other), primitive, (x, other), NO_KEYWORDS, (0,), (self,), owner)
        if type(other) is Traced:
            if other.owner is owner:
                y = other._value
                return Traced(operate(x, y), primitive, (x, y), NO_KEYWORDS, (0, 1), (self, other), owner)
            if other.owner.open and other.owner.number < owner.number:  # a constant to this trace
                y = apart(other)
                return Traced(operate(x, y), primitive, (x, y), NO_KEYWORDS, (0,), (self,), owner)
        elif isinstance(other, Leaf):
            return forward(self, other.lift())
        if hasattr(type(other), "__listed__"):
            return Traced(operate(x, other), primitive, (x, other), NO_KEYWORDS, (0,), (self,), owner)
        if _operates_itself(other, name, x):
            return NotImplemented
        return record(primitive, (self, other), NO_KEYWORDS)

    def reflected(self: Traced, other: Any) -> Any:
        y, owner = self._value, self.owner
        if not owner.open:
            return operate(other, owner.left(y))
        if type(other) in PLAIN or type(shown(other)) in (int, float, complex):
            # NumPy's number beside Python's complex one gives a Python number.
            result = typed(operate(other, y))
            return Traced(result, primitive, (as_it_is_now(other), y), NO_KEYWORDS, (1,), (self,), owner)
        return record(primitive, (other, self), NO_KEYWORDS)

    return forward, reflected


def _operates_itself(other: Any, name: str, x: Any) -> bool:
    """Tell whether NumPy would leave ``x + other`` to a method of the other's class, by the name given.

    A class says so by ``__array_ufunc__ = None`` (as `Grads`), or by a priority above that of arrays. A NumPy
    number leaves it to every object that is no number and cannot become an array.
    """
    kind = type(other)
    if hasattr(kind, "__array_ufunc__"):
        return kind.__array_ufunc__ is None
    if not hasattr(kind, name) or isinstance(other, (Box, Number, Sequence)):
        return False
    goes_first = getattr(other, "__array_priority__", 0) > 0
    return (goes_first or not (getattr(x, "ndim", 0) or hasattr(kind, "__array__"))) and not _is_sparse(other)


def _tell_shapes(error: ValueError, operands: Iterable[Any]) -> None:
    # NumPy's message speaks of core dimensions and signatures, not of shapes.
    if "core dimension" in str(error) and not hasattr(error, "__notes__"):
        shapes = " and ".join(str(x.shape) for x in operands if hasattr(x, "shape"))
        add_note(error, f"The operands have the shapes {shapes}.")


def _matmul(x: Any, y: Any) -> Any:
    try:
        return x @ y
    except ValueError as error:
        _tell_shapes(error, (x, y))
        raise


class AsksUs:
    """What NumPy finds when one of its functions meets a recorded value or a leaf: `calls.py` answers it."""

    __slots__ = ()

    __array_function__: Any
    __array_ufunc__: Any

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return np


class LacksError(AttributeError, TypeError):
    """An `AttributeError`, as `hasattr` needs it, that shows as the `TypeError` of Python's own functions."""

    __qualname__, __module__ = "TypeError", "builtins"

    def __reduce__(self) -> tuple[Any, ...]:  # the name is that of another class
        return TypeError, self.args


class Traced(AsksUs, ArrayBox):  # type: ignore[misc]
    """An array computed under differentiation, which remembers the call that made it.

    It works like the ndarray of its value: operators, NumPy functions, indexing, attributes and methods
    are recorded. What cannot be recorded raises `TypeError`.

    Parameters
    ----------
    value : ndarray, NumPy scalar, or box of an outer trace
        The result of the call.
    function : autograd primitive, or None for a root
        What was called.
    arguments, keywords : tuple, dict
        With what, in plain values or boxes of outer traces.
    argnums : tuple of int
        The positions of the arguments that this trace recorded.
    parents : tuple of Traced
        Those arguments.
    owner : Trace, optional
        The trace; that of the parents unless given.
    """

    __slots__ = ("__weakref__", "argnums", "arguments", "function", "keywords", "order", "owner", "parents",
        "story", "vjp")  # fmt: skip

    # autograd makes its nodes with the arguments up to `parents`.
    def __init__(
        self,
        value: Any,
        function: Any,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        argnums: tuple[int, ...],
        parents: tuple[Any, ...],
        owner: Trace | None = None,
    ) -> None:
        self.owner: Trace = parents[0].owner if owner is None else owner
        self._value = value  # type: ignore[misc]
        self._trace = self.owner.number  # type: ignore[misc]
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        self.argnums = argnums
        self.parents = parents
        self.order = next(_latest_first)
        if self.owner.heeds:
            self.owner.heed(self)

    __description__ = "a value under differentiation"  # in error messages
    _node = property(lambda self: self)

    def forget(self) -> None:
        """Let go of what it was computed from, as the way back is over: someone may keep it, in a log."""
        self.arguments = self.parents = ()
        self.vjp = None

    __add__, __radd__ = _binary(np.add, operator.add)
    __sub__, __rsub__ = _binary(np.subtract, operator.sub)
    __mul__, __rmul__ = _binary(np.multiply, operator.mul)
    __truediv__, __rtruediv__ = _binary(np.divide, operator.truediv)
    __pow__, __rpow__ = _binary(np.power, operator.pow)
    __matmul__, __rmatmul__ = _binary(np.matmul, _matmul)
    __mod__, __rmod__ = _binary(np.mod, operator.mod)

    def __abs__(self) -> Any:  # Python's, whose last bits are others than those of np.abs
        if not self.owner.open:
            return abs(self.owner.left(self._value))
        return _called(abs, trace_primitives_map[np.abs], NO_KEYWORDS, ((self._value,), (0,), (self,)))

    __divmod__, __rdivmod__ = (lambda x, y: (x // y, x % y)), (lambda x, y: (y // x, y % x))
    __hash__ = object.__hash__

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance` it is the array or the number that it is outside; not for sparse matrices."""
        kind = type(memory_of(self))
        passes = issubclass(kind, (np.ndarray, np.generic)) and not is_of_sparse(sys._getframe(1))
        return kind if passes else Traced

    def __getitem__(self, index: Any) -> Any:
        x = self._value
        is_plain = type(index) in PLAIN or (type(index) is tuple and PLAIN.issuperset(map(type, index)))
        if is_plain and self.owner.open and type(x) in PLAIN:  # as `record` does it, without a look inside
            index = as_it_is_now(index) if type(index) in (np.ndarray, tuple) else index
            part = _node(x[index], GETITEM, (x, index), NO_KEYWORDS, (0,), (self,))
        else:
            part = record(GETITEM, (self, constant(index)), NO_KEYWORDS)
        if self.owner.views is None:
            _let_go(part)
        return part

    @property
    def __len__(self) -> Any:
        """Have a length where the array has one: so `hasattr` tells arrays from numbers."""
        value = memory_of(self)
        if not hasattr(value, "__len__"):
            raise LacksError(f"object of type 'numpy.{type(value).__name__}' has no len()")
        return value.__len__

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, item: Any) -> bool:
        return constant(item) in getval(self)

    def __repr__(self) -> str:
        return f"<recorded {getval(self)!r}>"

    def __str__(self) -> str:
        return str(getval(self))

    def __format__(self, spec: str) -> str:
        return format(getval(self), spec)

    shape = property(lambda self: self._value.shape)
    ndim = property(lambda self: self._value.ndim)
    size = property(lambda self: self._value.size)
    dtype = property(lambda self: self._value.dtype)
    itemsize = property(lambda self: self.dtype.itemsize)
    nbytes = property(lambda self: self.size * self.dtype.itemsize)
    strides = property(lambda self: getval(self).strides)
    flags = property(lambda self: getval(self).flags)
    device = "cpu"
    mT = property(lambda self: self.swapaxes(-1, -2))  # noqa: N815

    @property
    def flat(self) -> Any:
        flat = record(FLAT, (self,), NO_KEYWORDS)
        if type(flat) is Traced and flat.owner is self.owner:
            _perhaps_view(flat)
        return flat

    def reshape(self, *shape: Any, **options: Any) -> Any:
        return record(_RESHAPE, (self, shape[0] if len(shape) == 1 else shape), options)

    def transpose(self, *axes: Any) -> Any:
        return record(_TRANSPOSE, (self, axes[0] if len(axes) == 1 else axes or None), NO_KEYWORDS)

    def to_device(self, device: str, **options: Any) -> Traced:
        if device != "cpu":
            raise ValueError(f"to_device: arrays are on the device 'cpu', got {device!r}.")
        return self


def is_of_sparse(frame: Any) -> bool:
    """Tell whether SciPy's sparse matrices run in a frame."""
    return str(frame.f_globals.get("__name__")).startswith("scipy.sparse.")


_RESHAPE, _TRANSPOSE, _POSITIVE = (trace_primitives_map[f] for f in (np.reshape, np.transpose, np.positive))
GETITEM: Any = ArrayBox.__getitem__
FLAT = define(lambda x: x.flatten(), (lambda g, ans, x: g.reshape(x.shape),))


# ---------------------------------------------------------------------------------------------------
# Names of arrays that change
# ---------------------------------------------------------------------------------------------------

# The loss holds recorded values, and each is its own node. When an array changes, the same object becomes the
# node of the changed array, and its earlier node goes into its past. A call knows when it was recorded, and
# takes for its parent the node of that time. A view knows its source: the array, and how it was taken.


class _Story:
    """What there is to know of a value where arrays change."""

    __slots__ = ("past", "source", "views")

    def __init__(self) -> None:
        self.past: list[tuple[int, Traced]] = []  # earlier nodes, each with the time until which it held
        self.source: tuple[Traced, tuple[Any, ...]] | None = None  # of a view: the array, and the way from it
        self.views: list[weakref.ref[Traced]] = []  # of an array: its views that are up to date


def story_of(x: Traced) -> _Story:
    """Give the story of `x`, which begins where something changes."""
    if not hasattr(x, "story"):
        x.story = _Story()
    return x.story  # type: ignore[no-any-return]


class Stale(Traced):
    """A view of an array that has changed since: it is taken anew when it is read."""

    __slots__ = ()

    @property
    def _value(self) -> Any:
        self.lift()
        return _VALUE_OF.__get__(self)

    def lift(self) -> Any:
        set_class(self, Traced)
        root, way = self.story.source
        anew = root
        for step in way:
            anew = retake(step, anew)
        if type(anew) is Traced and anew.owner is self.owner:
            replace(self, anew, _VALUE_OF.__get__(self))
            _let_go(self)
            story_of(root).views.append(weakref.ref(self))
        else:  # its trace has ended
            _keep(self, _VALUE_OF.__get__(self), next(_latest_first))
            _VALUE_OF.__set__(self, anew)
        return _living(self)


_VALUE_OF: Any = vars(Box)["_value"]
set_class: Any = vars(object)["__class__"].__set__  # past the property, which is for `isinstance`


def retake(step: tuple[Any, ...], x: Any) -> Any:
    """Take one view of `x`: do the call once more that made it."""
    function, i, arguments, keywords = step
    return function(*arguments[:i], x, *arguments[i + 1 :], **keywords)


def replace(x: Traced, new: Traced, value: Any) -> None:
    """Let `x` be `new` from now on; what was computed before has a node with `value` in its place."""
    old = _keep(x, value, new.order)
    x.function, x.arguments, x.keywords, x.argnums = new.function, new.arguments, new.keywords, new.argnums
    x.parents, x.order = tuple([old if parent is x else parent for parent in new.parents]), new.order
    _VALUE_OF.__set__(x, new._value)


def _keep(x: Traced, value: Any, order: int) -> Traced:
    """Keep the node that `x` has been until the call of this order."""
    old = Traced(value, x.function, x.arguments, x.keywords, x.argnums, x.parents, x.owner)
    old.order = x.order
    story_of(x).past.append((-order, old))
    return old


def at_its_time(x: Traced, call: Traced) -> Traced:
    """Give the node that `x` was when `call` was recorded."""
    past: list[tuple[int, Traced]] = x.story.past if hasattr(x, "story") else []
    i = bisect_left(past, -call.order, key=lambda version: version[0])
    if i < len(past):
        return past[i][1]
    return _keep(x, _VALUE_OF.__get__(x), next(_latest_first)) if type(x) is Stale else x


def apart(x: Any) -> Any:
    """Give `x` under another name: what is assigned to the one is not seen by the other."""
    if type(x) not in (Traced, Stale) or x.function is None or not x.owner.open:
        return x
    value = x._value
    return (
        Traced(value, _POSITIVE, (value,), NO_KEYWORDS, (0,), (x,)) if type(memory_of(x)) is np.ndarray else x
    )


def as_it_is_now(x: Any) -> Any:
    """Copy an array of truth values or whole numbers, also in an index: a loop may refill such a mask.

    Arrays of other numbers, the large ones of a loss, are kept by reference: `guard` is for these.
    """
    if type(x) is dict or (type(x) in (tuple, list) and not _HOLDS_NO_ARRAY.issuperset(map(type, x))):
        return map_container(as_it_is_now, x)
    if type(x) is np.ndarray and x.dtype.num < _FLOATS and reader.get() is None:
        return x.copy(order="K")
    return x


_HOLDS_NO_ARRAY = PLAIN - {np.ndarray}
_FLOATS = np.dtype(np.float32).num  # dtypes of truth values and whole numbers have lower numbers


def memory_of(x: Any) -> Any:
    """Give the plain array or number within all traces; of a stand-in, its example."""
    while type(x) in (Traced, Stale):
        x = x._value
    return x if type(x) in PLAIN else shown(getval(x))


def source_of(x: Any) -> tuple[Any, tuple[Any, ...]]:
    """Give the recorded array whose memory `x` shows, and the steps from it to `x`: of anything else, `x`."""
    source = x.story.source if hasattr(x, "story") else None
    return (x, ()) if source is None else source


def _perhaps_view(x: Traced) -> None:
    """Note a result that shares memory with something. Where arrays change, `settle` asks if it is a view."""
    if x.owner.views is None:
        settle(x)
    else:
        x.owner.views.append(weakref.ref(x))


def settle(x: Traced) -> None:
    """Find out whether `x` is a view, with the array's own memory, and note of what."""
    i, parent = x.argnums[0], x.parents[0]
    root, way = source_of(parent)
    memory = memory_of(root)
    way = (*way, (x.function, i, (*x.arguments[:i], None, *x.arguments[i + 1 :]), x.keywords))
    # x.flat follows the array as a view does, but what is read from it is a copy.
    if x.function is not FLAT:
        if not _share(memory_of(x), memory_of(x.arguments[i])):
            return
        if not _share(seen_from(memory, constant(way)), memory):
            return
    story_of(x).source = root, way
    story_of(root).views.append(weakref.ref(x))


def seen_from(memory: Any, way: tuple[Any, ...]) -> Any:
    """Give the view of a plain array to which a way leads."""
    for function, *how in way:
        memory = retake((getattr(function, "fun", function), *how), memory)
    return memory


def _share(x: Any, y: Any) -> bool:
    return is_ndarray(x) and is_ndarray(y) and np.may_share_memory(x, y)


def _let_go(part: Any) -> None:
    """Let what was read of an array hold a copy, so that the array can be filled in place."""
    if type(part) is not Traced or part.function is not GETITEM:
        return
    if type(part.arguments[0]) is not np.ndarray:
        part._value = own_copy(part._value)
        return
    part.arguments = blank(part.arguments[0]), part.arguments[1]
    value = part._value
    if type(value) is np.ndarray and value.base is not None and value.flags.writeable:
        turned: Any = (..., *[slice(None, None, -1 if step < 0 else 1) for step in value.strides])
        copy = value[turned].copy(order="K")[turned]
        if copy.strides == value.strides:  # NumPy may round otherwise in another layout
            part._value = copy


def own_copy(x: Any) -> Any:
    """Give a copy in place of a stand-in for a view, so that a program writes over what is seen there."""
    example = shown(x)
    is_view = example is not x and type(example) is np.ndarray and example.base is not None
    # The strides may differ even for a single element, and rounding goes by them.
    is_like_a_copy = is_view and np.empty(example.shape, example.dtype).strides == example.strides
    return x.copy() if is_like_a_copy and example.flags.writeable else x


_NOTHING = bytes(32)


def blank(x: Any) -> Any:
    """Give an array of the shape and dtype of `x` for rules that ask for no more, without memory."""
    return np.ndarray(x.shape, x.dtype, _NOTHING, strides=(0,) * x.ndim)


def is_blank(x: Any) -> bool:
    """Tell whether `x` is the stand-in for an array whose values are gone."""
    return getattr(x, "base", None) is _NOTHING


class Leaf(AsksUs):
    """What a loss need only reach to be differentiated by: an array outside a trace, its root inside.

    autograd sees a box: inside a trace that has a root for it, the root; elsewhere one of a trace below all
    others, which its dispatcher passes on to NumPy, and NumPy hands it back to `__array_function__`.
    """

    __slots__ = ("__weakref__", "_array")

    _array: np.ndarray[Any, Any]

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance` it is an array as well as what it is."""
        return type(self) if is_of_sparse(sys._getframe(1)) else type(ARRAY.__get__(self))

    def __dir__(self) -> Iterable[str]:
        return dir(type(self))  # `object.__dir__` asks for `__class__`

    def __init_subclass__(cls) -> None:
        Box.types.add(cls)
        Box.type_mappings[cls] = lambda leaf, trace, node: _box(leaf.lift(), trace, node)

    def lift(self) -> Any:
        """Give the innermost root that stands for this leaf now, or the plain array."""
        return _roots.get().get(self, self._array)

    @property
    def value(self) -> np.ndarray[Any, Any]:
        """The array itself; while it is under differentiation, a view of it that is read-only."""
        array = self._array
        return read_only(array) if self in _roots.get() else array

    def in_place(self, operation: str) -> np.ndarray[Any, Any]:
        """Give the array to be changed by `operation`, or refuse while it is under differentiation."""
        if self in _roots.get():
            raise TypeError(
                f"{operation} on a parameter under differentiation cannot be recorded. Change parameters "
                "after the gradient is taken; inside the loss, compute a new array (W_new = W + 1)."
            )
        return self._array

    def to_copy(self) -> np.ndarray[Any, Any]:
        """Give the array that another leaf is to hold a copy of, or refuse it to a program."""
        array: Any = self._array
        if standing_now():
            array.refuse(
                "it makes a parameter of another one, which would keep the values of the recording. Compute "
                "with the array, W.copy(), or make the parameter before"
            )
        return array  # type: ignore[no-any-return]

    _value = property(lambda self: getattr(self.lift(), "_value", self._array))
    _trace = property(lambda self: getattr(self.lift(), "_trace", -2))
    _node = property(lambda self: getattr(self.lift(), "_node", None))


# autograd's own wrapper sends results here: a node of ours is its own box, all else stays autograd's.
def _box(value: Any, trace: int, node: Any) -> Any:
    if type(node) is Traced:
        node._value = typed(value)
        plain = memory_of(value)
        if type(plain) is np.ndarray and (
            plain.base is not None or plain is memory_of(node.arguments[node.argnums[0]])
        ):
            _perhaps_view(node)
        return node
    return (_Asking if in_a_rule_of_autograds.get() else ArrayBox)(value, trace, node)


class _Asking(AsksUs, ArrayBox):  # type: ignore[misc]
    """A box of autograd's that all of NumPy knows, not its ufuncs alone."""

    __slots__ = ()


Box.types |= {Traced, Stale, _Asking}
Box.type_mappings.update({t: _box for t, box in Box.type_mappings.items() if box is ArrayBox})
Box.type_mappings[Traced] = Box.type_mappings[_Asking] = _box
notrace_primitives[Traced] = notrace_primitives[VJPNode]


def stands_beneath(kind: type, example: Callable[[Any], Any]) -> None:
    """Let instances of a class stand beneath all traces for the arrays that `example` gives of them.

    Functions that `listed` marks call the method ``kind.__listed__``. Its method ``refuse(words)`` raises an
    error that the loss cannot hide.
    """
    Box.type_mappings[kind] = _box
    VSpace.mappings[kind] = lambda x: vspace(example(x))


ARRAY: Any = vars(Leaf)["_array"]
# What gives the stand-ins for leaves, where they are used.
reader: ContextVar[Callable[[Any, int], Any] | None] = ContextVar("reader", default=None)


def standing(x: Any) -> Any:
    """Replace plain arrays by stand-ins, where these are used, also inside lists, tuples and dicts.

    So what a derivative makes of such an array is noted too.
    """
    stand_in = reader.get()
    if stand_in is None:
        return x
    return stand_in(x, id(x)) if type(x) is np.ndarray else map_container(standing, x)


def standing_now() -> bool:
    """Tell whether stand-ins are used in this thread."""
    return reader.get() is not None


def leaves_now() -> list[Leaf]:
    """List the leaves that are under differentiation in this thread."""
    return list(_roots.get())


def is_tracing() -> bool:
    """Tell whether something is under differentiation in this thread."""
    return innermost.get() is not None or reader.get() is not None


def is_box(x: Any) -> bool:
    """Tell whether `x` is recorded, or a leaf."""
    return type(x) in Box.types


def lift(x: Any) -> Any:
    """Replace every leaf by what stands for it now, also inside lists, tuples and dicts.

    A list or tuple of another class, such as a named tuple, becomes a plain one, as it is to NumPy.
    """
    if type(x) in PLAIN:
        return x
    if type(x) is Traced:
        return _living(x)
    if type(x) is Stale or isinstance(x, Leaf):
        return x.lift()
    if isinstance(x, (list, tuple)):
        x = tuple(x) if isinstance(x, tuple) else list(x)
    return map_container(lift, x)


def _living(x: Any) -> Any:
    """Give the value that `x` has for the traces still running: its own, once its trace has ended."""
    while type(x) is Traced and not x.owner.open:
        x = x.owner.left(x._value)
    return x


def constant(x: Any) -> Any:
    """Give the plain value of anything recorded, also inside lists, tuples and dicts."""
    if type(x) in PLAIN:
        return x
    if type(x) in Box.types:
        return getval(x)
    return map_container(constant, x)


def is_recorded(x: Any) -> bool:
    """Tell whether `x` is a result of some trace, running or not."""
    return type(x) in Box.types and not isinstance(x, Leaf)


def map_container(f: Callable[[Any], Any], x: Any) -> Any:
    """Apply `f` to what a list, tuple or dict holds; anything else comes back as it is."""
    kind = type(x)
    try:
        if issubclass(kind, (list, tuple)):
            items = [f(item) for item in x]
            return kind(*items) if hasattr(x, "_fields") else kind(items)
        if issubclass(kind, dict) and not _is_sparse(x):
            return {key: f(item) for key, item in x.items()}
    except RecursionError:
        raise ValueError(f"a {kind.__name__} holds itself, or others to a depth without end.") from None
    return x


def read_only(x: Any) -> Any:
    """Give views of arrays, also inside lists, tuples and dicts, that nobody can write into."""
    if type(x) is not np.ndarray:
        return map_container(read_only, x)
    x = x.view()
    x.flags.writeable = False
    return x


def copied(x: Any, order: Any = "C") -> Any:
    """Give copies of arrays, also inside lists, tuples and dicts, laid out in this order."""
    return x.copy(order) if type(x) is np.ndarray else map_container(lambda item: copied(item, order), x)


def any_box(x: Any) -> bool:
    """Tell whether a lifted argument is or holds a box."""
    if type(x) in PLAIN:
        return False
    if type(x) in (tuple, list, dict):
        return any(map(any_box, x.values() if type(x) is dict else x))
    return type(x) in Box.types


# ---------------------------------------------------------------------------------------------------
# Recording a call
# ---------------------------------------------------------------------------------------------------


def record(primitive: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Call one of autograd's primitives, and record the call if an argument is recorded."""
    function = _SHORTCUTS.get(primitive, primitive.fun)
    if len(arguments) == 1 and not keywords:
        (x,) = arguments
        if type(x) is Traced and x.owner.open and type(x._value) in PLAIN:  # as below, without its loop
            return _node(function(x._value), primitive, (x._value,), NO_KEYWORDS, (0,), arguments)
    if keywords and any_box(keywords):
        raise TypeError(
            f"{name_of(primitive)}: pass arrays under differentiation by position, not by keyword."
        )
    if keywords and np.ndarray in map(type, keywords.values()):
        keywords = as_it_is_now(keywords)
    recorded = _of_one_trace(arguments)
    if recorded is None:
        return _record_any(function, primitive, arguments, keywords)
    return _called(function, primitive, keywords, recorded)


_COMMON = PLAIN | {Traced}


def _record_any(function: Any, primitive: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Do the same with arguments of any kind: lists, sparse matrices, values of several traces."""
    arguments = tuple(map(lift, arguments))
    kinds = set(map(type, arguments))
    if any(map(_becomes_array, kinds)):
        _check_no_labels(primitive, filter(_becomes_array, kinds))
        # All arguments of a ufunc are arrays; of another function, those that have a rule.
        n = len(arguments) if isinstance(primitive.fun, np.ufunc) else len(RULES.get(primitive.fun, ()))
        arrays = [as_array(x) if _becomes_array(type(x)) else x for x in arguments[:n]]
        arguments = (*arrays, *arguments[n:])
    arguments = standing(arguments)
    boxes = [x for x in arguments if type(x) in Box.types]
    if not boxes:
        return function(*arguments, **keywords)
    if not kinds <= _COMMON:
        check_no_iterator(primitive, arguments)
        if Fraction in kinds and not any(map(np.ndim, arguments)):
            # Beside a number Python makes a float of it; beside an array NumPy makes objects.
            arguments = tuple([float(x) if type(x) is Fraction else x for x in arguments])
        if isinstance(primitive.fun, np.ufunc) and any(map(_is_sparse, arguments)):
            if primitive.fun is np.matmul:
                return COMPOSITES[np.matmul, "sparse"](*arguments)
            raise TypeError(
                f"{name_of(primitive)} of a sparse matrix and a value under differentiation cannot be "
                "recorded: A @ W and W @ A can. A.toarray() is a dense array."
            )
        if any(type(x) is not Traced for x in boxes):
            return primitive(*arguments, **keywords)  # boxes of autograd's: it knows which is innermost
    owner = max(boxes, key=attrgetter("_trace")).owner
    values, argnums, parents = [], [], []
    for i, x in enumerate(arguments):
        if type(x) is Traced and x._trace == owner.number:
            if x.owner is not owner:
                raise TypeError(_OF_ANOTHER_THREAD.format(name_of(primitive)))
            argnums.append(i)
            parents.append(x)
            values.append(x._value)
        else:
            values.append(as_it_is_now(apart(x)))
    if any(type(x) in Box.types for x in values):  # the outer trace sees the call too
        function = lambda *values, **keywords: record(primitive, values, keywords)  # noqa: E731
    return _called(function, primitive, keywords, (tuple(values), tuple(argnums), tuple(parents)))


def _becomes_array(kind: type) -> bool:
    is_array = kind in _COMMON or issubclass(kind, (np.ndarray, np.generic)) or hasattr(kind, "__listed__")
    return kind in (list, tuple) or (not is_array and hasattr(kind, "__array__"))


def _check_no_labels(primitive: Any, kinds: Iterable[type]) -> None:
    """Refuse what has its own arithmetic, such as a pandas series, which matches rows by their labels."""
    other = next((kind for kind in kinds if callable(getattr(kind, "__array_ufunc__", None))), None)
    if isinstance(primitive.fun, np.ufunc) and other is not None:
        raise TypeError(
            f"{name_of(primitive)} of a {other.__name__} and a value under differentiation cannot be "
            "recorded: its own arithmetic may match elements by labels. Take its array before the loss, as "
            ".to_numpy() gives it of pandas."
        )


def check_no_iterator(function: Any, arguments: Iterable[Any]) -> None:
    """Refuse an iterator: the derivative would find nothing in it."""
    for x in arguments:
        is_iterator = type(x) not in _COMMON and hasattr(type(x), "__next__")
        if is_iterator and not hasattr(x, "__array__") and not hasattr(x, "read"):  # it is no file
            name = name_of(function)
            if name.startswith("np."):  # a user's function may not need it again
                raise TypeError(f"{name}: the derivative needs an iterator again: pass a tuple of it.")


def _called(function: Any, primitive: Any, keywords: dict[str, Any], recorded: tuple[Any, ...]) -> Any:
    """Call a function with the values of what is recorded, and record that as a call of the primitive."""
    values, argnums, parents = recorded
    try:
        result = function(*values, **keywords)
    except ValueError as error:
        _tell_shapes(error, values)
        raise
    return _node(result, primitive, values, keywords, argnums, parents)


def _is_sparse(x: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")  # only where somebody has imported it
    return sparse is not None and sparse.issparse(x)


def _of_one_trace(arguments: Iterable[Any]) -> tuple[Any, ...] | None:
    """Sort out the arguments of the commonest calls: plain values, and recorded ones of one open trace.

    Returns
    -------
    tuple or None
        The values, the positions of the recorded ones, and these. None for any other arguments.
    """
    values, argnums, parents = [], [], []
    owner = None
    for i, x in enumerate(arguments):
        if type(x) not in PLAIN:
            if type(x) is not Traced and isinstance(x, Leaf):
                x = x.lift()
            if type(x) is Traced:
                if owner is None:
                    owner = x.owner
                if x.owner is not owner or not owner.open or type(x._value) not in PLAIN:
                    return None
                argnums.append(i)
                parents.append(x)
                x = x._value
            elif type(x) is not np.ndarray:
                return None
        elif type(x) is np.ndarray and x.dtype.num < _FLOATS:
            x = as_it_is_now(x)
        values.append(x)
    return None if owner is None else (tuple(values), tuple(argnums), tuple(parents))


def _node(
    result: Any,
    primitive: Any,
    values: tuple[Any, ...],
    keywords: dict[str, Any],
    argnums: tuple[int, ...],
    parents: tuple[Traced, ...],
) -> Any:
    """Record the result of a call, which may be of any type."""
    kind = type(result)
    if kind is np.float64 or (kind is np.ndarray and result.dtype.kind != "O"):
        node = Traced(result, primitive, values, keywords, argnums, parents)
        if kind is np.ndarray and (result.base is not None or result is values[argnums[0]]):
            _perhaps_view(node)
        return node
    if kind is Traced:  # as an outer trace has recorded it
        if result._trace >= parents[0]._trace:
            raise TypeError(
                f"{name_of(primitive)} calls what uses a value under differentiation that is none of its "
                f"arguments: that gradient would be lost. {_OPERATORS}"
            )
        return _box(result, result._trace, Traced(result, primitive, values, keywords, argnums, parents))
    if kind is np.ndarray:
        advice = f"Objects in arrays have no gradient: numbers among them are x.astype(float). {_OPERATORS}"
        refuse(f"{name_of(primitive)} of {call_of(values, keywords)}", advice)
    node = Traced(typed(result), primitive, values, keywords, argnums, parents)
    if isinstance(result, (tuple, list, SequenceBox)):  # several results, as of np.linalg.eigh or np.split
        places = count()
        return map_container(
            lambda _: record(ArrayBox.__getitem__, (node, next(places)), NO_KEYWORDS), getval(result)
        )
    if kind in PLAIN:
        return node
    if kind not in Box.type_mappings:
        raise no_array(primitive, kind)
    return Box.type_mappings[kind](result, node._trace, node)


_OPERATORS = "A class whose own operators are meant says __array_ufunc__ = None."


def no_array(function: Any, kind: type) -> TypeError:
    """Make the error for a result that is neither an array nor made of arrays."""
    advice = cures(f" {kind.__module__}.{kind.__name__}", "")
    advice = advice or f"Give it plain arrays or numbers. {_OPERATORS}"
    return TypeError(f"{name_of(function)} gave a {kind.__name__}, which cannot be differentiated. {advice}")


def as_array(x: Any) -> Any:
    """Make an array of numbers, or lists of them, recorded or not; arrays stay, a matrix becomes one."""
    if isinstance(x, (np.ndarray, np.generic, Box)):
        return x if type(x) is not np.matrix else np.asarray(x)
    if isinstance(x, (list, tuple)) and not _is_plain(x):
        return np.stack([as_array(item) for item in x])
    return getattr(type(x), "__as_array__", np.array)(x)


def made_array(x: Any, dtype: Any) -> Any:
    """Make a new array as `np.array` does, recorded if one of the values is."""
    if _is_plain((x,)):
        return _of_numbers(np.array(x, dtype), x)
    made = _joined(x)
    made = made if isinstance(x, (list, tuple)) else np.copy(made)
    return made if dtype is None or made.dtype == dtype else made.astype(dtype)


def _joined(x: Any) -> Any:
    if isinstance(x, (list, tuple, deque)) and not _is_plain(x):
        return np.stack([_joined(item) for item in x])
    return _of_numbers(as_array(x), x)


def _of_numbers(made: Any, x: Any) -> Any:
    if made.dtype.kind not in "biufc":
        advice = ": make a list of it" if hasattr(x, "__next__") else ""
        raise TypeError(f"array takes numbers, and arrays and lists of them, got {described(x)}{advice}")
    return made


def _is_plain(x: Any) -> bool:
    kinds = set(map(type, x)) - PLAIN
    return not kinds or (kinds <= {list, tuple} and all(_is_plain(i) for i in x if type(i) in kinds))


def derivative(
    *rules: Callable[..., Any] | None,
    jointly: Callable[..., Any] | None = None,
    again: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function a derivative: it is recorded as one call, whatever it calls itself.

    Parameters
    ----------
    *rules : callable or None
        One for each positional argument, ``rule(g, ans, *arguments, **keywords)``: the gradient with respect
        to that argument, for a gradient ``g`` of the result ``ans``. None where there is none. Made of
        operators and functions that have gradients themselves, it has a derivative too.
    jointly : callable, optional
        In place of rules, for a function of any number of arguments: ``jointly(argnums, g, ans, *arguments,
        **keywords)`` lists the gradients with respect to the arguments at the positions `argnums`.
    again : callable, optional
        Gives the value of a call that is done again with other arguments, as where eigenvalues are equal, if
        the function itself would give that of the first.

    Returns
    -------
    callable
        A decorator.

    Notes
    -----
    `minidiff.derivative` is this one with checks of what the rules give.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        primitive = define(function, jointly or rules)
        if again is not None:
            AGAIN[primitive] = again
        return wraps(function)(lambda *args, **kwargs: record(primitive, args, kwargs))

    return decorate


def _sum(x: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
    return np.add.reduce(x, axis, *args, **options)


def _extreme(function: Any, reduced: Any) -> Any:
    return lambda x, axis=None, *args, **options: (
        function(x, axis, *args, **options) if args else reduced.reduce(x, axis=axis, **options)
    )


# Called in place of NumPy's functions, whose lines of Python cost more than the addition of small arrays.
_SHORTCUTS = {
    trace_primitives_map[np.sum]: _sum,
    trace_primitives_map[np.max]: _extreme(np.max, np.maximum),
    trace_primitives_map[np.min]: _extreme(np.min, np.minimum),
    trace_primitives_map[np.mean]: mean,
    trace_primitives_map[np.var]: var,
    trace_primitives_map[np.std]: lambda *args, **options: np.sqrt(var(*args, **options)),
}


def call_of(arguments: Iterable[Any], keywords: dict[str, Any]) -> str:
    """Write for an error message what a function was called with."""

    def show(x: Any) -> str:
        return f"array{x.shape}" if getattr(x, "shape", ()) else f"{constant(x)!r:.40}"

    by_place = [show(x) for x in arguments if type(x) is not Kept]
    return ", ".join([*by_place, *(f"{key}={show(x)}" for key, x in keywords.items())])
