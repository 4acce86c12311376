"""All that knows autograd's inside: how NumPy calls are recorded, and how a gradient comes back.

autograd keeps a table of derivatives, one entry for each NumPy function. This module leads plain
``np.*`` calls to that table. Three ideas carry it:

* A `Traced` is the result of a recorded call *and* its own node in the graph: it knows the function,
  the arguments and the parents it came from. To autograd it is a box like any other.
* A `Leaf` (the base of `Param`) looks itself up among the roots of the running traces. Where it has a
  root it acts as that root; elsewhere it is the plain array it holds.
* `backward` walks from a result to its roots, latest node first. A node's derivative is looked up on the
  way: the direct rules of `minidiff.derivatives` first, autograd's own table for all the rest.

Traces nest: the value inside a `Traced` may be a box of an outer trace, and every rule is made of
operations that an outer trace records in turn. That is all there is to second derivatives.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from functools import wraps
from heapq import heappop, heappush, heappushpop
from itertools import count
from typing import Any, NoReturn

import autograd.numpy as anp
import numpy as np
from autograd.builtins import SequenceBox
from autograd.core import SparseBox, SparseObject, VJPNode, add_outgrads, defvjp_argnums, primitive_vjps
from autograd.core import primitive as autograd_primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import Box, getval, notrace_primitives, trace_primitives_map, trace_stack

from minidiff.composites import COMPOSITES, UFUNC_METHODS, as_array, cast
from minidiff.derivatives import OVERLOOKED, RULES, add_at, scatter

__all__ = [
    "Leaf",
    "Trace",
    "Traced",
    "backward",
    "constant",
    "derivative",
    "is_recorded",
    "lift",
    "map_container",
    "no_attribute",
]

# ---------------------------------------------------------------------------------------------------
# The running traces
# ---------------------------------------------------------------------------------------------------

# Both belong to the current thread (or asyncio task): the number of the innermost trace, counted as
# autograd does, and by a leaf's id the root that stands for it in the innermost trace that has one.
_top: ContextVar[int] = ContextVar("top", default=-1)
_roots: ContextVar[dict[int, Traced]] = ContextVar("roots", default={})  # noqa: B039  (never written into)


class _TraceStack(type(trace_stack)):  # type: ignore[misc]
    """autograd's counter of open traces, kept per thread.

    autograd tells inner from outer traces by this number but shares it among threads, so that an inner
    trace can get the number of its outer one. Within a thread it counts here exactly as before.
    """

    @property
    def top(self) -> int:
        return _top.get()

    @top.setter
    def top(self, top: int) -> None:
        _top.set(top)


trace_stack.__class__ = _TraceStack


class Trace:
    """One call under differentiation: ``with trace: ...`` records what is done to its roots."""

    __slots__ = ("_leaves", "_tokens", "number", "open")

    def __init__(self) -> None:
        self.number = _top.get() + 1
        self.open = True  # what outlives its trace is a plain value again
        self._leaves: dict[int, Traced] = {}
        self._tokens: tuple[Token[int], Token[dict[int, Traced]]]

    def root(self, value: Any) -> Traced:
        """Make a variable of this trace with the given value."""
        return Traced(value, None, (), NO_KEYWORDS, (), (), self)

    def roots_of(self, leaves: Iterable[Leaf]) -> list[Traced]:
        """Make the variables that stand for `leaves` while this trace runs."""
        outer = _roots.get()
        for leaf in leaves:
            value = outer.get(id(leaf), leaf.value)
            self._leaves[id(leaf)] = Traced(value, None, (), NO_KEYWORDS, (), (), self)
        return list(self._leaves.values())

    def __enter__(self) -> Trace:
        outer = _roots.get()
        self._tokens = _top.set(self.number), _roots.set({**outer, **self._leaves} if outer else self._leaves)
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False
        self._leaves = {}  # the roots know their trace: no cycle is left for the garbage collector
        top, roots = self._tokens
        _top.reset(top)
        _roots.reset(roots)

    def split(self, result: Any) -> tuple[Any, Traced | None]:
        """Give the value of what the call returned, and its node if this trace recorded it."""
        if isinstance(result, Leaf):
            result = result.lift()
        if type(result) is Traced and result.owner is self:
            return result._value, result
        return result, None


# ---------------------------------------------------------------------------------------------------
# Recorded values
# ---------------------------------------------------------------------------------------------------

NO_KEYWORDS: dict[str, Any] = {}
_latest_first = count(0, -1)

_SCALARS = (
    bool,
    int,
    float,
    complex,
    np.bool_,
    np.float16,
    np.float32,
    np.float64,
    np.complex64,
    np.complex128,
)
# What an argument may be without a look inside: it holds no recorded value.
_PLAIN = frozenset(
    {np.ndarray, *_SCALARS, np.int8, np.int16, np.int32, np.int64, np.uint8, type(None), str, slice}
)


# What people look for who come from PyTorch.
_ELSEWHERE = {
    **dict.fromkeys(
        ("backward", "grad", "zero_grad"),
        "The gradients are what gradient(lambda: loss(x, y), params(W)) returns.",
    ),
    **dict.fromkeys(("detach", "numpy", "cpu"), "dropgrad(x) gives the plain value."),
    **dict.fromkeys(("requires_grad", "requires_grad_"), "What is to be differentiated is made by param(x)."),
}


def no_attribute(what: str, name: str) -> str:
    """Say that there is no such attribute, and what there is instead."""
    return f"{what} has no attribute {name!r}. {_ELSEWHERE.get(name, '')}".rstrip()


def _refuse(what: str, instead: str) -> NoReturn:
    raise TypeError(
        f"{what} cannot be recorded, and its gradient would be lost. {instead} "
        "If a constant is meant, dropgrad(x) gives the plain value."
    )


def _binary(function: Callable[[Any, Any], Any], operate: Callable[[Any, Any], Any]) -> Any:
    """Make the operator method that calls and records `function`, and its reflection."""
    primitive = trace_primitives_map[function]

    def forward(self: Traced, other: Any) -> Any:
        x, owner = self._value, self.owner
        if not owner.open:
            return operate(x, other)
        if type(other) in _PLAIN:
            return Traced(operate(x, other), primitive, (x, other), NO_KEYWORDS, (0,), (self,), owner)
        if isinstance(other, Leaf):
            return forward(self, other.lift())
        if type(other) is Traced and other.owner is owner:
            y = other._value
            return Traced(operate(x, y), primitive, (x, y), NO_KEYWORDS, (0, 1), (self, other), owner)
        if getattr(type(other), "__array_ufunc__", True) is None:
            return NotImplemented  # a Grads, which knows what to do
        return record(primitive, (self, other), NO_KEYWORDS)

    def reflected(self: Traced, other: Any) -> Any:
        y, owner = self._value, self.owner
        if not owner.open:
            return operate(other, y)
        if type(other) in _PLAIN:
            return Traced(operate(other, y), primitive, (other, y), NO_KEYWORDS, (1,), (self,), owner)
        return record(primitive, (other, self), NO_KEYWORDS)

    return forward, reflected


def _recorded(function: Any) -> Any:
    """Make the method that does what the NumPy function of the same name does."""
    return lambda self, *args, **kwargs: call(function, (self, *args), kwargs)


def _plain(function: Callable[..., Any]) -> Any:
    """Make the method that has no gradient to record and works on plain values: a comparison, `argmax`."""
    return lambda self, *args, **kwargs: function(getval(self), *map(constant, args), **kwargs)


class _Refused:
    """A method that would lose the gradient. Once the trace has ended it does what the plain value does."""

    def __init__(self, what: str, instead: str) -> None:
        self.what, self.instead = what, instead

    def __set_name__(self, owner: type, name: str) -> None:
        what, instead = self.what, self.instead

        def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
            if self.owner.open:
                _refuse(what, instead)
            return getattr(getval(self), name)(*args, **kwargs)

        setattr(owner, name, method)


class _AsksUs:
    """What NumPy finds when one of its functions meets a recorded value or a leaf."""

    __slots__ = ()

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return call(function, args, kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "__call__":
            return call(ufunc, args, kwargs)
        return call_ufunc_method(ufunc, method, args, kwargs)


class Traced(_AsksUs, ArrayBox):  # type: ignore[misc]
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

    __slots__ = ("argnums", "arguments", "function", "keywords", "order", "owner", "parents")

    # The signature up to `parents` is the one by which autograd makes its nodes.
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

    __description__ = "a value under differentiation"  # in error messages
    _node = property(lambda self: self)

    def forget(self) -> None:
        """Let go of what it was computed from: a loss that someone keeps need not keep the whole graph."""
        self.arguments = self.parents = ()

    __add__, __radd__ = _binary(np.add, operator.add)
    __sub__, __rsub__ = _binary(np.subtract, operator.sub)
    __mul__, __rmul__ = _binary(np.multiply, operator.mul)
    __truediv__, __rtruediv__ = _binary(np.divide, operator.truediv)
    __pow__, __rpow__ = _binary(np.power, operator.pow)
    __matmul__, __rmatmul__ = _binary(np.matmul, operator.matmul)
    __mod__, __rmod__ = _binary(np.mod, operator.mod)
    __neg__ = _recorded(np.negative)
    __abs__ = _recorded(np.abs)

    def __pos__(self) -> Traced:
        return self

    __divmod__, __rdivmod__ = (lambda x, y: (x // y, x % y)), (lambda x, y: (y // x, y % x))
    __floordiv__ = _plain(operator.floordiv)
    __rfloordiv__ = _plain(lambda x, y: y // x)
    __eq__ = _plain(operator.eq)
    __ne__ = _plain(operator.ne)
    __lt__ = _plain(operator.lt)
    __le__ = _plain(operator.le)
    __gt__ = _plain(operator.gt)
    __ge__ = _plain(operator.ge)
    __hash__ = object.__hash__

    def __getitem__(self, index: Any) -> Any:
        return record(ArrayBox.__getitem__, (self, constant(index)), NO_KEYWORDS)

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
    T = property(_recorded(np.transpose))
    mT = property(lambda self: self.swapaxes(-1, -2))  # noqa: N815
    real = property(_recorded(np.real))
    imag = property(_recorded(np.imag))

    flat = property(lambda self: self.ravel())

    def reshape(self, *shape: Any, **options: Any) -> Any:
        return record(_RESHAPE, (self, shape[0] if len(shape) == 1 else shape), options)

    def transpose(self, *axes: Any) -> Any:
        return record(_TRANSPOSE, (self, axes[0] if len(axes) == 1 else axes or None), NO_KEYWORDS)

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        if np.dtype(dtype).kind not in "fc":
            return getval(self).astype(dtype, *args, **kwargs)
        return cast(self, np.dtype(dtype))

    # It never changes, so that it is its own copy.
    def copy(self, *args: Any, **kwargs: Any) -> Traced:
        return self

    __copy__ = __deepcopy__ = copy

    def clip(self, min: Any = None, max: Any = None, **options: Any) -> Any:
        return call(np.clip, (self, min, max), options)

    conj = conjugate = _recorded(np.conj)
    cumprod = _recorded(np.cumprod)
    cumsum = _recorded(np.cumsum)
    diagonal = _recorded(np.diagonal)
    dot = _recorded(np.dot)
    flatten = ravel = _recorded(np.ravel)
    max = _recorded(np.max)
    mean = _recorded(np.mean)
    min = _recorded(np.min)
    prod = _recorded(np.prod)
    repeat = _recorded(np.repeat)
    squeeze = _recorded(np.squeeze)
    std = _recorded(np.std)
    sum = _recorded(np.sum)
    swapaxes = _recorded(np.swapaxes)
    trace = _recorded(np.trace)
    var = _recorded(np.var)

    take = _recorded(np.take)

    all = _plain(np.all)
    any = _plain(np.any)
    argmax = _plain(np.argmax)
    argmin = _plain(np.argmin)
    argpartition = _plain(np.argpartition)
    argsort = _plain(np.argsort)
    nonzero = _plain(np.nonzero)
    round = _plain(np.round)
    searchsorted = _plain(np.searchsorted)

    __float__ = _Refused(
        "float() of a value under differentiation (a `math` function or x[i] = … may call it)",
        "Use np.* functions; np.stack makes an array of numbers.",
    )
    __int__ = _Refused("int() of a value under differentiation", "Use np.* functions.")
    __index__ = _Refused("A value under differentiation as an index", "An index has no gradient.")
    __complex__ = _Refused("complex() of a value under differentiation", "Use np.* functions.")
    __array__ = _Refused(
        "np.asarray() (or a function that calls it) on a value under differentiation",
        "NumPy functions take it as it is; np.stack and np.concatenate join several.",
    )
    __reduce_ex__: Any = _Refused(
        "Pickling of a value under differentiation", "It belongs to the running loss."
    )
    item = _Refused(".item() of a value under differentiation", "Index with x[i] instead.")
    __round__ = _Refused("round() of a value under differentiation", "Use np.round(x).")
    tolist = _Refused(".tolist() of a value under differentiation", "Iterate over it instead.")
    tobytes = _Refused(".tobytes() of a value under differentiation", "Work with the array itself.")
    __setitem__ = _Refused(
        "Assignment into an array under differentiation",
        "Build the new array with np.where, np.concatenate or np.stack.",
    )
    sort = _Refused(".sort() in place of a value under differentiation", "Use np.sort(x).")
    partition = _Refused(".partition() in place of a value under differentiation", "Use np.partition(x, k).")
    fill = put = resize = itemset = setfield = byteswap = _Refused(
        "Changing an array under differentiation in place", "Build a new array instead."
    )
    view = getfield = _Refused("A view of other type on a value under differentiation", "Use astype.")


def _elsewhere(name: str) -> Any:
    """Make an attribute that says where else to look. With a `__getattr__` every attribute would be slow."""

    def refuse(_: Traced) -> NoReturn:
        raise AttributeError(no_attribute("a value under differentiation", name))

    return property(refuse)


for _attribute in _ELSEWHERE:
    setattr(Traced, _attribute, _elsewhere(_attribute))

_RESHAPE, _TRANSPOSE = (trace_primitives_map[f] for f in (np.reshape, np.transpose))


class Leaf(_AsksUs):
    """What can be differentiated by being reached: an array outside a trace, its root inside.

    autograd sees a box: inside a trace that has a root for it, the root; elsewhere one of a trace below all
    others, which its dispatcher passes on to NumPy, and NumPy hands it back to `__array_function__`.
    """

    __slots__ = ("__weakref__", "value")

    value: np.ndarray[Any, Any]

    def __init_subclass__(cls) -> None:
        Box.types.add(cls)
        Box.type_mappings[cls] = lambda leaf, trace, node: _box(leaf.lift(), trace, node)

    def lift(self) -> Any:
        """Give the innermost root that stands for this leaf now, or the plain array."""
        return _roots.get().get(id(self), self.value)

    def in_place(self, operation: str) -> np.ndarray[Any, Any]:
        """Give the array to be changed by `operation`, or refuse while it is under differentiation."""
        if id(self) in _roots.get():
            raise TypeError(
                f"{operation} on a parameter under differentiation cannot be recorded. Change parameters "
                "after the gradient is taken; inside the loss, compute a new array (W_new = W + 1)."
            )
        return self.value

    _value = property(lambda self: getattr(self.lift(), "_value", self.value))
    _trace = property(lambda self: getattr(self.lift(), "_trace", -2))
    _node = property(lambda self: getattr(self.lift(), "_node", None))


# Results of autograd's own wrapper come here: a node of ours is its own box, all else stays autograd's.
def _box(value: Any, trace: int, node: Any) -> Any:
    if type(node) is Traced:
        node._value = _typed(value)
        return node
    return ArrayBox(value, trace, node)


Box.types.add(Traced)
Box.type_mappings.update({t: _box for t, box in Box.type_mappings.items() if box is ArrayBox})
Box.type_mappings[Traced] = _box
notrace_primitives[Traced] = notrace_primitives[VJPNode]


def lift(x: Any) -> Any:
    """Put in the place of every leaf what stands for it now, also inside lists, tuples and dicts."""
    if type(x) in _PLAIN:
        return x
    if isinstance(x, Leaf):
        return x.lift()
    return _living(x) if type(x) is Traced else map_container(lift, x)


def _living(x: Any) -> Any:
    """Give the value that `x` has for the traces still running: its own, once its trace has ended."""
    while type(x) is Traced and not x.owner.open:
        x = x._value
    return x


def constant(x: Any) -> Any:
    """Give the plain value of anything recorded, also inside lists, tuples and dicts."""
    if type(x) in _PLAIN:
        return x
    if type(x) in Box.types:
        return getval(x)
    return map_container(constant, x)


def is_recorded(x: Any) -> bool:
    """Tell whether `x` is a result of some trace, running or not."""
    return type(x) in Box.types and not isinstance(x, Leaf)


def map_container(f: Callable[[Any], Any], x: Any) -> Any:
    """Apply `f` to what a list, tuple or dict holds; anything else comes back as it is."""
    if isinstance(x, (list, tuple)):
        items = [f(item) for item in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if isinstance(x, dict):
        return {key: f(item) for key, item in x.items()}
    return x


def _any_box(x: Any) -> bool:
    """Tell whether a lifted argument is or holds a box."""
    if type(x) in _PLAIN:
        return False
    if type(x) in (tuple, list):
        return any(map(_any_box, x))
    return type(x) in Box.types


# ---------------------------------------------------------------------------------------------------
# Recording a call
# ---------------------------------------------------------------------------------------------------


def record(primitive: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Call one of autograd's primitives, and record the call if an argument is recorded."""
    if not keywords:
        x = arguments[0] if len(arguments) == 1 else None
        if type(x) is Traced and x.owner.open and type(x._value) in _PLAIN:  # as below, without its loop
            result = _SHORTCUTS.get(primitive, primitive.fun)(x._value)
            if type(result) in (np.ndarray, np.float64) and result.dtype.kind != "O":
                return Traced(result, primitive, (x._value,), NO_KEYWORDS, (0,), arguments, x.owner)
            return _node(result, primitive, (x._value,), NO_KEYWORDS, (0,), arguments)
        if (recorded := _of_one_trace(arguments)) is not None:
            values, argnums, parents = recorded
            result = _SHORTCUTS.get(primitive, primitive.fun)(*values)
            return _node(result, primitive, values, NO_KEYWORDS, argnums, parents)
    trace = -1
    for x in arguments:
        if type(x) is Traced:
            if not x.owner.open:
                return record(primitive, tuple(map(_living, arguments)), keywords)
            trace = max(trace, x._trace)
        elif type(x) not in _PLAIN:
            arguments = lift(arguments)
            if isinstance(primitive.fun, np.ufunc):
                # no options, but operands
                arguments = tuple(as_array(x) if isinstance(x, (list, tuple)) else x for x in arguments)
            if any(type(x) in Box.types and type(x) is not Traced for x in arguments):
                return primitive(*arguments, **keywords)  # boxes of autograd's: it knows which is innermost
            trace = max((x._trace for x in arguments if type(x) is Traced), default=-1)
            break
    if keywords and any(map(_any_box, keywords.values())):
        raise TypeError(f"{_name(primitive)}: pass arrays under differentiation by position, not by keyword.")
    function = _SHORTCUTS.get(primitive, primitive.fun)
    if trace < 0:
        return function(*arguments, **keywords)
    if keywords and (options := _overlooked(primitive.fun, keywords)):
        raise NotImplementedError(f"{_name(primitive)} has no gradient with {options}. Write it otherwise.")
    values = list(arguments)
    argnums = []
    for i, x in enumerate(arguments):
        if type(x) is Traced:
            if x._trace == trace:
                argnums.append(i)
                values[i] = x = x._value
            if type(x) in Box.types:
                function = primitive  # so that the outer trace sees the call too
    result = function(*values, **keywords)
    parents = tuple([arguments[i] for i in argnums])
    return _node(result, primitive, tuple(values), keywords, tuple(argnums), parents)


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
        if type(x) not in _PLAIN:
            if isinstance(x, Leaf):
                x = x.lift()
            if type(x) is Traced:
                if owner is None:
                    owner = x.owner
                if x.owner is not owner or not owner.open or type(x._value) not in _PLAIN:
                    return None
                argnums.append(i)
                parents.append(x)
                x = x._value
            elif type(x) is not np.ndarray:
                return None
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
    if type(result) is np.ndarray and result.dtype.kind == "O":
        _refuse(
            f"{_name(primitive)} of {_described(values, keywords)}", "Objects in arrays have no gradient."
        )
    node = Traced(_typed(result), primitive, values, keywords, argnums, parents)
    return node if type(result) in _PLAIN else _unpacked(result, node._trace, node)


def _overlooked(function: Any, keywords: dict[str, Any]) -> str:
    """Name the options given that the derivative of `function` does not know of."""
    known = OVERLOOKED.get(function, {})
    given = {key: x for key, x in keywords.items() if key in known and known[key](x)}
    return ", ".join(f"{key}={x!r:.40}" for key, x in given.items())


def _typed(x: Any) -> Any:
    """Give a Python number, which some functions return, as NumPy's, which has a shape and a dtype."""
    return np.asarray(x)[()] if type(x) in (float, complex, int) else x


def derivative(*rules: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function that is recorded as one call, whatever it calls itself.

    Parameters
    ----------
    *rules : callable
        One for each positional argument, of the form described in `minidiff.derivatives`.

    Returns
    -------
    callable
        A decorator.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        primitive = autograd_primitive(function)
        _rules[primitive] = rules
        # for boxes of autograd's own traces
        defvjp_argnums(
            primitive,
            lambda argnums, ans, args, kwargs: lambda g: [rules[i](g, ans, *args, **kwargs) for i in argnums],
        )
        return wraps(function)(lambda *args, **kwargs: record(primitive, args, kwargs))

    return decorate


def _unpacked(result: Any, trace: int, node: Traced) -> Any:
    """Give several results (of `np.linalg.eigh`, `np.split`) as the tuple or list that NumPy gives."""
    if type(result) not in Box.type_mappings:
        raise TypeError(
            f"{_name(node.function)} gave a {type(result).__name__}, which cannot be differentiated. "
            "Give it plain arrays or numbers."
        )
    box = Box.type_mappings[type(result)](result, trace, node)
    if not isinstance(box, SequenceBox):
        return box
    kind = type(getval(result))
    items = [box[i] for i in range(len(result))]
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _name(function: Any) -> str:
    function = getattr(function, "fun", function)
    if function is _GETITEM.fun:
        return "x[…]"
    name = getattr(function, "__name__", str(function))
    if isinstance(function, np.ufunc) and getattr(np, name, None) is not function:
        return name  # another library's
    module = getattr(function, "__module__", None) or "numpy"
    return f"{module.replace('numpy._core', 'numpy').split('._')[0].replace('numpy', 'np', 1)}.{name}"


def _no_gradient(function: Any) -> NoReturn:
    raise NotImplementedError(
        f"{_name(function)} has no gradient here. Write it with functions that have one, give it one "
        "(autograd.extend.primitive and defvjp), or take dropgrad(x) of its arguments if a constant is meant."
    )


# ---------------------------------------------------------------------------------------------------
# From NumPy's protocols to autograd's primitives
# ---------------------------------------------------------------------------------------------------


def call_ufunc_method(ufunc: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what NumPy asks of a leaf or a recorded value that meets a method of its ufuncs, like `reduce`."""
    args, kwargs = lift(args), _lift_values(kwargs)
    if not _any_box(args):
        return _returning(kwargs, getattr(ufunc, method)(*args, **kwargs))
    if kwargs.get("out") is not None:
        _refuse(f"np.{ufunc.__name__}.{method} with out=", "Leave out= away: the result is a new array.")
    if method == "outer":
        x, y = args
        return ufunc(np.reshape(x, np.shape(x) + (1,) * np.ndim(y)), y, **kwargs)
    if (function := UFUNC_METHODS.get((ufunc, method))) is None:
        raise NotImplementedError(f"np.{ufunc.__name__}.{method} has no gradient here. Write it otherwise.")
    return function(*args, **kwargs)


def call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what NumPy asks of a leaf or a recorded value that meets one of its functions."""
    primitive = _DIRECT.get(function)
    if primitive is not None and (not kwargs or _all_plain(kwargs)):
        return record(primitive, args, kwargs)
    args = lift(args)
    if kwargs:
        original, kwargs = kwargs, _lift_values(kwargs)
        if not _any_box(args) and not any(map(_any_box, kwargs.values())):
            return _returning(original, function(*args, **kwargs))
        if kwargs.get("out") is not None:
            _refuse(
                f"{_name(function)} with out= (as in b += …)", "Leave it away, b = b + …: the result is new."
            )
    elif not _any_box(args):
        return function(*args)
    if function in _NO_GRADIENT:
        return function(*constant(args), **constant(kwargs))
    if kwargs and any(map(_any_box, kwargs.values())):
        args, kwargs = _by_position(function, args, kwargs)
    composite = COMPOSITES.get(function)
    if composite is not None and (result := _composed(composite, args, kwargs)) is not NotImplemented:
        return result
    primitive = _primitive_of(function)
    if primitive is None:
        _no_gradient(function)
    return record(primitive, args, kwargs)


def _composed(composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a composite. What it does not take it has no way to do."""
    try:
        return composite(*args, **kwargs)
    except TypeError:
        try:
            inspect.signature(composite).bind(*args, **kwargs)
        except TypeError:
            return NotImplemented
        raise


def _all_plain(kwargs: dict[str, Any]) -> bool:
    return "out" not in kwargs and all(type(x) in _PLAIN for x in kwargs.values())


def _primitive_of(function: Any) -> Any:
    """Give autograd's primitive for a NumPy function, or None where no gradient is known."""
    primitive = trace_primitives_map.get(function)
    return primitive if primitive in _rules or primitive in primitive_vjps else None


def _lift_values(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: lift(x) for key, x in kwargs.items()}


def _returning(kwargs: dict[str, Any], result: Any) -> Any:
    """Give back the very object that the caller passed as ``out=``, as NumPy does."""
    out = kwargs.get("out")
    out = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    return out if isinstance(out, Leaf) else result


def _by_position(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move recorded arguments that came by keyword to their positions, where autograd looks for them."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except ValueError:
        return args, kwargs
    bound.apply_defaults()
    names = list(bound.arguments)
    last = max(i for i, name in enumerate(names) if _any_box(bound.arguments[name]))
    positional = names[: max(last + 1, len(args))]
    return (
        tuple(bound.arguments[name] for name in positional),
        {key: x for key, x in kwargs.items() if key not in positional},
    )


_rules = {trace_primitives_map[function]: rules for function, rules in RULES.items()}

# The functions that lead to one primitive however they are called.
_DIRECT = {
    function: primitive
    for function, primitive in trace_primitives_map.items()
    if function not in COMPOSITES and (primitive in _rules or primitive in primitive_vjps)
}


def _mean(x: Any, *args: Any, **options: Any) -> Any:
    if type(x) is np.ndarray and x.dtype.char in "fd" and x.size and not args and not options:
        return np.add.reduce(x, None) / x.size
    return np.mean(x, *args, **options)


# What they end in: on small arrays NumPy's own wrappers take longer than the addition.
_SHORTCUTS = {
    trace_primitives_map[np.sum]: lambda x, axis=None, *args, **options: np.add.reduce(
        x, axis, *args, **options
    ),
    trace_primitives_map[np.mean]: _mean,
}

# Functions of which nothing differentiable comes out: they are called on plain values. autograd lists
# most; the others tell of shapes, types and bits, or show an array.
_plain_twins = notrace_primitives[VJPNode] | {anp.ndim, anp.shape, anp.iscomplexobj, anp.result_type}
_NO_GRADIENT = {f for name, f in vars(np).items() if callable(f) and vars(anp).get(name) in _plain_twins}
_NO_GRADIENT |= {
    np.array2string, np.array_repr, np.array_str, np.can_cast, np.common_type, np.digitize, np.isin,
    np.isrealobj, np.lexsort, np.linalg.matrix_rank, np.may_share_memory, np.min_scalar_type,
    np.shares_memory, np.signbit,
}  # fmt: skip
_NO_GRADIENT -= COMPOSITES.keys()

# ---------------------------------------------------------------------------------------------------
# The way back
# ---------------------------------------------------------------------------------------------------


def backward(end: Traced, seed: Any, roots: list[Traced]) -> list[Any]:
    """Pull `seed`, the gradient of `end`, back to the roots of its trace.

    Parameters
    ----------
    end : Traced
        The result.
    seed : array
        A gradient of the shape and dtype of the result.
    roots : list of Traced
        The variables asked for.

    Returns
    -------
    list
        For each root its gradient, of its shape and dtype, or None where `end` does not depend on it.
        It may share memory with the seed or with another gradient.
    """
    gradients: dict[Traced, Any] = {end: seed}
    packed: dict[Traced, Any] = {}  # those of tuples and lists, and sparse ones, in autograd's keeping
    private: set[Traced] = set()  # nodes whose entry in `gradients` is an array of this loop's own
    waiting: list[tuple[int, Traced]] = []  # a heap of the nodes that have a gradient
    node = end if end.function is not None else None
    while node is not None:
        g = gradients.pop(node, None)
        if packed:
            g = _with_packed(g, packed.pop(node, None))
        function, value, arguments, keywords = node.function, node._value, node.arguments, node.keywords
        rules: Any = _rules.get(function)
        reached: Traced | None = None  # the latest parent that had no gradient before
        try:
            if function is _GETITEM and type(g) not in Box.types:
                rules = (_SCATTER,)
            from_autograd = rules is None
            if from_autograd:
                pulled = primitive_vjps[function](node.argnums, value, arguments, keywords)(g)
                rules = {i: _constantly(_typed(h)) for i, h in zip(node.argnums, pulled, strict=True)}
            for i, parent in zip(node.argnums, node.parents):  # noqa: B905  (of one length by construction)
                earlier: Any = gradients.get(parent)
                if earlier is None and parent.function is not None and parent not in packed:
                    if reached is not None:
                        heappush(waiting, (reached.order, reached))
                    reached = parent
                if (rule := rules[i]) is _SCATTER:
                    if type(earlier) in Box.types:
                        gradients[parent] = earlier + scatter(g, parent, arguments[1])
                        continue
                    # Only the elements that were read get a gradient: the time is theirs, not the array's.
                    if parent not in private:
                        earlier = _writeable(earlier, parent._value)
                        private.add(parent)
                    add_at(earlier, arguments[1], g)
                    gradients[parent] = earlier
                    continue
                h = rule(g, value, *arguments, **keywords) if keywords else rule(g, value, *arguments)
                if type(h) not in _PLAIN and isinstance(h, _PACKED):
                    packed[parent] = add_outgrads(packed.get(parent), h)
                    continue
                dtype = getattr(parent._value, "dtype", None)  # None: a tuple, or autograd's sparse array
                if from_autograd and dtype is not None:
                    h = _fitted(h, parent)
                if h.dtype is not dtype and dtype is not None:
                    h = cast(h, dtype)
                if earlier is None:
                    gradients[parent] = h
                elif parent in private and type(h) is np.ndarray:
                    gradients[parent] += h
                else:
                    gradients[parent] = total = earlier + h
                    (private.add if type(total) is np.ndarray else private.discard)(parent)
        except np.linalg.LinAlgError:
            raise  # a singular matrix, which has no inverse
        except (KeyError, IndexError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            words = "" if isinstance(error, KeyError) else str(error).rstrip(".")
            reason = f": {words}" if words else ""
            raise NotImplementedError(
                f"{_name(function)} has no gradient when called with "
                f"{_described(arguments, keywords)}{reason}. Write it otherwise."
            ) from error
        if reached is not None:
            node = heappushpop(waiting, (reached.order, reached))[1]
        else:
            node = heappop(waiting)[1] if waiting else None
    return [_with_packed(gradients.get(root), packed.get(root)) for root in roots]


def _fitted(h: Any, parent: Traced) -> Any:
    """Give a derivative of autograd's in the shape of `parent`, and not an array that somebody keeps."""
    if h.shape != parent.shape:
        if parent.size:
            raise ValueError(f"the derivative has shape {h.shape}")
        return np.zeros(parent.shape, parent.dtype)  # an empty array has no other
    return h.copy() if parent.function is None and type(h) is np.ndarray else h


def _with_packed(g: Any, packed: Any) -> Any:
    return g if packed is None else packed[0] if g is None else g + packed[0]


def _writeable(g: Any, x: Any) -> Any:
    """Give the gradient of `x` so far as an array that may be written into."""
    return np.zeros(x.shape, x.dtype) if g is None else np.array(g)


def _constantly(h: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: h


_SCATTER = scatter  # where there are many of them they are added up in place
_GETITEM = ArrayBox.__getitem__
_PACKED = (tuple, list, dict, SequenceBox, SparseObject, SparseBox)


def _described(arguments: Iterable[Any], keywords: dict[str, Any]) -> str:
    shown = [f"array{x.shape}" if getattr(x, "shape", ()) else f"{constant(x)!r:.40}" for x in arguments]
    return ", ".join(shown + [f"{key}={x!r:.40}" for key, x in keywords.items()])
