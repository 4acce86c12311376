"""What the derivative of a recorded call is: ours where there is one, else that of autograd's table.

Here is how derivatives are entered and asked for, and what their rules are made of. How a rule is written is
told in `derivatives.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache, partial, wraps
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import autograd.numpy as anp
import numpy as np
from autograd.core import VJPNode, defvjp_argnums, primitive_vjps
from autograd.core import primitive as autograd_primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import getval, notrace_primitives, trace_primitives_map

from minidiff.tracing import flaws

Rule: TypeAlias = Callable[..., Any]
RULES: dict[Any, tuple[Rule, ...]] = {}

# NumPy functions that are written with others, by the function. Under (function, "options") is what is called
# with the function first if options come by keyword; under (np.ufunc, method) are the methods of all ufuncs.
# Each file enters its own. One that returns `NotImplemented` leaves the call to the function's derivative.
COMPOSITES: dict[Any, Callable[..., Any]] = {}

# --- What is asked of this module -----------------------------------------------------------------------

# By autograd's primitive: a rule for each argument, or one function for any number of them, called as
# rule(argnums, g, ans, *arguments, **keywords) -> the gradients with respect to the arguments at `argnums`.
OURS: dict[Any, tuple[Rule | None, ...] | Rule] = {}


def rules_of(call: Any, g: Any) -> Any:
    """Give the derivative of a recorded call: ours, or that of autograd's table.

    Parameters
    ----------
    call : Traced
        The call.
    g : array, or tuple of arrays where the call gave several
        The gradient of its result, with which the rules will be called.

    Returns
    -------
    tuple or dict
        By the position of a recorded argument the rule for it.
    """
    rules: Any = OURS.get(call.function)
    if type(rules) is tuple:
        return rules
    if rules is None:
        gradients = _autograds(call, g)
    else:
        gradients = rules(call.argnums, g, call._value, *call.arguments, **call.keywords)
    return {i: _constantly(h) for i, h in zip(call.argnums, gradients, strict=True)}


def _constantly(h: Any) -> Rule:
    return lambda *args, **kwargs: h


# autograd's rules may open traces of its own for a user's function, as that of its `odeint` does.
in_a_rule_of_autograds: ContextVar[bool] = ContextVar("in_a_rule_of_autograds", default=False)


def _autograds(call: Any, g: Any) -> list[Any]:
    """List the gradients of the recorded arguments by autograd's table.

    What the table prepares without knowing `g` stays with the call, for the next `g`.
    """
    vjp, name = getattr(call, "vjp", None), flaws.name_of(call.function.fun)
    if vjp is None:
        arguments = call.arguments
        if why := flaws.objection(name, call.argnums, arguments, call.keywords):
            raise NotImplementedError(f"there is none {why}")
        if isinstance(call.function.fun, np.ufunc):
            arguments = tuple(map(unwrapped, arguments))
        arguments = flaws.read(name, arguments)
        vjp = primitive_vjps[call.function](call.argnums, call._value, arguments, call.keywords)
        call.vjp = vjp
    token = in_a_rule_of_autograds.set(True)
    try:
        gradients = COMPOSITES["by row"](vjp, g) if _is_of_a_user(primitive_vjps[call.function]) else vjp(g)
        places = zip(gradients, call.argnums, call.parents, strict=True)
    finally:
        in_a_rule_of_autograds.reset(token)
    return [_fitted(flaws.mended(name, i, typed(h)), parent) for h, i, parent in places]


def _fitted(h: Any, parent: Any) -> Any:
    """Give a derivative of autograd's in the shape of `parent`, as an array that nobody else keeps."""
    shape = getattr(parent._value, "shape", None)
    if shape is None or not hasattr(h, "dtype"):
        return h  # of several results
    if h.shape != shape:
        if 0 not in shape:
            raise ValueError(f"the derivative has shape {h.shape}")
        return np.zeros(shape, parent.dtype)  # an empty array has no other
    return h.copy() if parent.function is None and type(shown(h)) is np.ndarray else h


def primitive_of(function: Any) -> Any:
    """Give autograd's primitive for a NumPy function, or None where there is no derivative of it."""
    primitive = trace_primitives_map.get(function)
    return primitive if primitive in OURS or primitive in primitive_vjps else None


@cache
def _is_of_a_user(vjp: Any) -> bool:
    """Tell whether a user has added an entry to autograd's table: that may ask anything of its gradient."""
    held = [cell.cell_contents for cell in vjp.__closure__ or ()]
    rules = [vjp, *[rule for h in held for rule in (h.values() if isinstance(h, dict) else [h])]]
    modules = {str(getattr(getattr(rule, "func", rule), "__module__", "numpy")) for rule in rules}
    return not {module.partition(".")[0] for module in modules} <= {"numpy", "scipy", "autograd", "minidiff"}


# By the primitive: what gives the value of a call that is done again with other arguments, where its own
# function would give the first value once more.
AGAIN: dict[Any, Callable[..., Any]] = {}


def define(function: Callable[..., Any], rules: tuple[Rule | None, ...] | Rule) -> Any:
    """Make an autograd primitive of a function with rules, for our traces and for autograd's own."""
    primitive = autograd_primitive(function)
    OURS[primitive] = rules

    def vjp(argnums: Any, ans: Any, arguments: Any, keywords: Any) -> Callable[[Any], Any]:
        if callable(rules):
            return lambda g: rules(argnums, g, ans, *arguments, **keywords)
        return lambda g: [rules[i](g, ans, *arguments, **keywords) for i in argnums]

    defvjp_argnums(primitive, vjp)
    return primitive


def defined(x: Any) -> Any:
    """Give the function of which `define` has made a primitive; anything else as it is."""
    return x.fun if isinstance(x, FunctionType) and x in OURS else x  # type: ignore[attr-defined]


def enter(function: Any, *rules: Rule) -> None:
    """Enter the rules of a NumPy function into the table."""
    RULES[function] = OURS[trace_primitives_map[function]] = rules


# --- What rules are made of -----------------------------------------------------------------------------


class Part(tuple[Any, Any]):
    """A pair (g, index): the gradient of what ``x[index]`` reads; that of the rest of x is zero."""

    __slots__ = ()


class Nearby(NamedTuple):
    """The weighted mean of the gradients that the same call would have with other results, by this rule.

    If `is_plain` tells so of the gradient of one of these results, the rule will do for the call itself. The
    loss must be the same with the result `other`, or else it has no derivative, as `words` say.
    """

    rule: Rule
    results: list[tuple[float, Any]]
    is_plain: Callable[[Any], bool]
    other: Any
    words: str


def unwrapped(x: Any) -> Any:
    """Give an array of small whole numbers, whose squares would wrap around, as floats."""
    return x * 1.0 if getattr(x, "dtype", _REAL).kind in "biu" else x


_REAL = np.dtype(float)


def single(x: Any) -> Any:
    """Give numbers of half precision in single precision, in which sums and counts are finite."""
    return x.astype(np.float32) if x.dtype.char == "e" else x


def unbroadcast(g: Any, x: Any) -> Any:
    """Sum `g` over the axes along which `x` was broadcast to get it."""
    shape = x.shape
    if g.shape == shape:
        return g
    lead = len(g.shape) - len(shape)
    stretched = [lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] != 1]
    axes = (*range(lead), *stretched)
    total = g.sum(axis=axes[0] if len(axes) == 1 else axes)
    return total.reshape(shape) if stretched else total


def along(x: Any, axis: int, place: Any) -> tuple[Any, ...]:
    """Give the index of a place along an axis of `x`."""
    return (*(slice(None),) * (axis % x.ndim), place)


def spread(g: Any, x: Any, axis: Any, keepdims: Any) -> Any:
    """Repeat `g`, what a reduction of `x` along `axis` gave, to the shape of `x` as a fresh array."""
    shape = x.shape
    if axis is not None and not keepdims and shape:
        axes = {int(a) % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
        g = g.reshape([1 if i in axes else n for i, n in enumerate(shape)])
    if isinstance(g, ArrayBox):
        return g + np.zeros(shape, g.dtype)
    if hasattr(type(g), "__listed__"):
        return filled(shape, g)
    out = np.empty(shape, g.dtype)
    out[...] = g
    return out


# What derivatives use of autograd, as a saved program writes it, where no value is recorded.
WITHOUT_AUTOGRAD: dict[Any, str] = {anp: "np", getval: "lambda x: x", ArrayBox: "()"}


def listed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let what stands for an array note a call of this function as one: it writes into arrays of its own."""

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        hook = next(hooks(arguments), None)
        return function(*arguments, **keywords) if hook is None else hook(call, *arguments, **keywords)

    return call


def called(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    rule: Callable[..., Any] | None = None,
    g: int = 0,
) -> Any:
    """Call a function of others, or a rule of it, whose argument `g` is the gradient.

    What stands for an array may note what that does, or the call as one.
    """
    hook = next(hooks((*arguments, *keywords.values()), "__called__"), None)
    call = (rule or function) if hook is None else partial(hook, function, rule, g)
    return call(*arguments, **keywords)


def hooks(x: Any, name: str = "__listed__") -> Iterator[Any]:
    """Give the methods that note calls, of all the stand-ins in a tuple."""
    for item in x:
        if type(item) in (tuple, list):
            yield from hooks(item, name)
        elif (hook := getattr(type(item), name, None)) is not None:
            yield hook


def is_nowhere(mask: Any) -> bool:
    """Tell whether a mask is known to be False everywhere: in a program it may be another at each call."""
    return next(hooks((mask,)), None) is None and not np.any(mask)


@listed
def filled(shape: tuple[int, ...], g: Any) -> Any:
    """Make an array of this shape and fill it with `g`."""
    out = np.empty(shape, g.dtype)
    out[...] = g
    return out


@listed
def scattered(shape: tuple[int, ...], indices: Sequence[Any], *gradients: Any) -> Any:
    """Make zeros of this shape, and add each gradient where its index reads."""
    out = np.zeros(shape, np.result_type(*[g.dtype for g in gradients]))
    for index, g in zip(indices, gradients, strict=True):
        add_at(out, index, g)
    return out


# scatter(shape, indices, *gradients): zeros of that shape, with each gradient added where its index reads.
scatter = define(
    scattered, lambda argnums, h, ans, shape, indices, *gradients: [h[indices[i - 2]] for i in argnums]
)


def shown(x: Any) -> Any:
    """Give what a stand-in stands for in the recording; anything else as it is."""
    return x._example if hasattr(type(x), "__listed__") else x


def typed(x: Any) -> Any:
    """Make a NumPy number, which has a shape and a dtype, of a Python number, which some functions return."""
    return _of_numpys(x) if type(shown(x)) in (float, complex, int) else x


@listed
def _of_numpys(x: Any) -> Any:
    return np.asarray(x)[()]


@listed
def added(earlier: Any, h: Any) -> Any:
    """Add `h` to a copy of `earlier`, which keeps its layout: the sum of two has one that depends on both."""
    out = np.array(earlier)
    out += h
    return out


@listed
def added_at(earlier: Any, shape: tuple[int, ...], dtype: Any, index: Any, g: Any) -> Any:
    """Add `g` to a copy of `earlier`, or to zeros, where `index` reads."""
    out = np.zeros(shape, dtype) if earlier is None else np.array(earlier)
    add_at(out, index, g)
    return out


def add_at(out: np.ndarray[Any, Any], index: Any, g: Any) -> None:
    """Add `g` to ``out[index]`` in place, as many times as `index` names an element."""
    parts = index if isinstance(index, tuple) else (index,)
    n = len(parts)
    if is_basic(index):
        out[index] += g
    elif g.size < 2048 or n == out.ndim or not out.flags.c_contiguous or not all(map(_are_places, parts)):
        np.add.at(out, index, g)
    else:  # element by element: for large arrays this takes NumPy a third of the time
        size = int(np.prod(out.shape[n:]))
        rows: Any = np.ravel_multi_index(parts, out.shape[:n], mode="wrap")
        places = rows[..., None] * size + np.arange(size)
        np.add.at(out.reshape(-1), places.reshape(-1), np.reshape(g, -1))


def _are_places(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.ndim > 0 and part.dtype.kind in "iu"


def is_basic(index: Any) -> bool:
    """Tell whether `index` reads no element twice: integers, slices, newaxis, ellipsis or a mask."""
    parts = index if isinstance(index, tuple) else (index,)
    if {int, slice}.issuperset(map(type, parts)):
        return True
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, (slice, int, np.integer))
        or (isinstance(part, np.ndarray) and part.dtype == bool and len(parts) == 1)
        for part in parts
    )


# Not np.astype, which takes no scalars in NumPy 2.0.
_astype = define(lambda x, dtype: x.astype(dtype), (lambda g, ans, x, dtype: cast(g, x.dtype),))


def cast(x: Any, dtype: np.dtype[Any]) -> Any:
    """Give `x` in another dtype: of complex numbers the real part, where that is real."""
    if x.dtype.kind == "O":
        raise TypeError("arrays of dtype object have no gradient")
    if x.dtype.kind == "c" and dtype.kind != "c":
        x = anp.real(x)
    return _astype(x, dtype) if dtype.kind in "fc" else x


# --- Functions that need no derivative ------------------------------------------------------------------


@cache
def parameters_of(function: Any) -> dict[str, Any]:
    """Give the parameters that a function takes by position, in their order, with their defaults."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return {}
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: p.default for name, p in parameters.items() if p.kind in by_position}


# Functions whose results have no derivative: they are called with plain values. autograd lists most; the
# others tell of shapes, types and bits, or show an array.
_twins = notrace_primitives[VJPNode] | {anp.ndim, anp.shape, anp.iscomplexobj, anp.result_type}
CONSTANT = {f for name, f in vars(np).items() if callable(f) and vars(anp).get(name) in _twins}
CONSTANT |= {
    np.array2string, np.array_repr, np.array_str, np.can_cast, np.common_type, np.diag_indices_from,
    np.digitize, np.isin, np.isrealobj, np.lexsort, np.linalg.matrix_rank, np.may_share_memory,
    np.min_scalar_type, np.nanargmax, np.nanargmin, np.shares_memory, np.signbit, np.spacing,
    np.tril_indices_from, np.triu_indices_from,
}  # fmt: skip
CONSTANT |= {f for name, f in vars(np).items() if name == "in1d"}  # until NumPy 2.3
