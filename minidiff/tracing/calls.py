"""From NumPy's protocols to autograd's primitives.

NumPy asks here when one of its functions meets a recorded value or a leaf. `call` looks at how the function
is called, and leads to what is recorded: a primitive, or a composite of others.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from autograd.tracer import Box

from minidiff.checks import is_ndarray, takes
from minidiff.tracing.exact import pinned
from minidiff.tracing.record import (
    PLAIN,
    AsksUs,
    Leaf,
    any_box,
    as_array,
    check_no_iterator,
    constant,
    lift,
    map_container,
    no_array,
    record,
    standing,
)
from minidiff.tracing.refusals import cures, name_of
from minidiff.tracing.table import COMPOSITES, CONSTANT, cast, parameters_of, primitive_of, shown

# Functions that `call` has met, and that always lead to one primitive: this, and the number of `_places`.
_direct: dict[Any, tuple[Any, int]] = {}


def call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what NumPy asks of a leaf or a recorded value that meets one of its functions."""
    primitive, places = _direct.get(function, (None, 0))
    if primitive is not None and len(args) <= places and (not kwargs or _all_plain(function, kwargs)):
        if kwargs:
            args, kwargs = _operands_first(function, args, kwargs)
        return record(primitive, args, kwargs)
    given, args, kwargs = kwargs, standing(lift(args)), standing(lift(kwargs))
    if not any_box(args) and not any_box(kwargs):
        return _returning(given, _unrecorded(function, args, kwargs))
    check_no_iterator(function, (*args, *kwargs.values()))
    places = _places(function)
    if kwargs or len(args) > places:
        args, kwargs = _operands_first(function, *_by_name(function, args, kwargs, places))
    if kwargs.get("out") is not None:
        return COMPOSITES["out"](function, args, kwargs)
    if "dtype" in kwargs and (result := _with_dtype(function, args, kwargs)) is not NotImplemented:
        return result
    foreign = isinstance(function, np.ufunc) and getattr(np, function.__name__, None) is not function
    if foreign and "scipy.special" in sys.modules:
        import_module("minidiff.tracing.special")  # only where SciPy is
    composite = COMPOSITES.get(function)
    if composite is None and function in CONSTANT:
        return function(*constant(args), **constant(kwargs))
    try:
        result = _by_composites(function, composite, args, kwargs)
        if result is not NotImplemented:
            return result
        if composite is not None and primitive_of(function) is None:
            raise _no_gradient(function)
    except Exception as error:
        if (refusal := _refusal(function, args, kwargs, error)) is None:
            raise
        raise refusal from None
    primitive = primitive_of(function)
    if primitive is None:
        raise _no_gradient(function)
    if composite is None:
        _direct[function] = primitive, places
    if any_box(kwargs):
        args, kwargs = _by_position(function, args, kwargs)
    return record(primitive, args, kwargs)


def call_ufunc_method(ufunc: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what NumPy asks of a leaf or a recorded value that meets a method of its ufuncs, like `reduce`."""
    given, args, kwargs = kwargs, standing(lift(args)), standing(lift(kwargs))
    for name in ("array", "indices")[: len(args)]:
        kwargs.pop(name, None)  # NumPy gives it in its place and by name
    if not any_box(args) and not any_box(kwargs):
        return _returning(given, getattr(ufunc, method)(*args, **kwargs))
    if kwargs.get("out") is not None:
        return COMPOSITES["out"](getattr(ufunc, method), args, kwargs)
    return COMPOSITES[np.ufunc, method](ufunc, *args, **kwargs)


def _is_other_sequence(x: Any) -> bool:
    """Tell whether a sequence other than lists, such as a deque, holds something recorded."""
    if is_ndarray(x):
        may_hold = x.ndim and x.dtype == object
    else:
        known = (list, tuple, dict, str, bytes, Mapping, np.dtype)
        is_sequence = hasattr(x, "__len__") and hasattr(x, "__getitem__")
        may_hold = is_sequence and not isinstance(x, known) and not hasattr(x, "__array__")
    return bool(may_hold) and any(type(item) in Box.types for item in x)


# NumPy looks for arrays in these, but its functions do not take them.
_UNORDERED: Any = set, frozenset, type({}.values())


def _unrecorded(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function with plain values; if a deque or the like holds recorded ones, with lists of them."""
    if any(map(_is_other_sequence, (*args, *kwargs.values()))):
        listed = [list(x) if _is_other_sequence(x) else x for x in args]
        named = {key: list(x) if _is_other_sequence(x) else x for key, x in kwargs.items()}
        return call(function, tuple(listed), named)
    if any(isinstance(x, _UNORDERED) and any(type(item) in Box.types for item in x) for x in args):
        raise TypeError(f"{name_of(function)} takes a sequence: pass a list of it.")
    return function(*args, **kwargs)


def _no_gradient(function: Any) -> NotImplementedError:
    name = name_of(function)
    cure = cures(name, name) or "Write it with functions that have one, or give it one (minidiff.derivative)."
    return NotImplementedError(
        f"{name} has no gradient here. {cure} If a constant is meant, dropgrad(x) gives the plain value."
    )


# They call the user's functions, which must not be called once more.
_CALLING = {np.apply_along_axis, np.apply_over_axes, np.pad, np.piecewise}
# They write into an argument; `assign.py` enters them.
WRITING: set[Any] = set()


def _refusal(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> Exception | None:
    """Give NumPy's own error for a call, unless `error` has its words or the function's name already."""

    def copied(x: Any) -> Any:  # the function may write into it
        return x.copy() if is_ndarray(x := shown(x)) else map_container(copied, x)

    if function in _CALLING or isinstance(error, MemoryError):
        return None
    name, plain = name_of(function), constant((args, kwargs))
    args, kwargs = copied(plain) if function in WRITING else plain
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*args, **{key: x for key, x in kwargs.items() if key != "overwrite_input"})
    except Exception as said:
        kind, words = type(said), str(said)
        is_told = name in str(error) or words == str(error) or type(error) is not kind
        if (is_told and isinstance(error, kind)) or isinstance(said, MemoryError):
            return None
        is_simple = kind.__module__ == "builtins" or kind in (np.exceptions.AxisError, np.linalg.LinAlgError)
        return kind(f"{name}: {words}") if is_simple and function.__name__ not in words else said
    return None


# Functions that cast their first argument to dtype=; and others, whose derivatives know that option.
_CASTING = {np.sum, np.prod, np.mean, np.cumsum, np.cumprod, np.nansum}
_KNOWING = {np.var, np.std, np.clip, np.einsum}


def _with_dtype(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Cast the first argument to ``dtype=``; a result of whole numbers is a constant."""
    if function not in _CASTING and function not in _KNOWING:
        return NotImplemented
    dtype = np.dtype(kwargs["dtype"])
    if dtype.kind not in "fc":
        return function(*constant(args), **constant(kwargs))
    if function in (np.clip, np.einsum):
        return NotImplemented
    x, *others = args
    x = as_array(x)
    if function in _KNOWING:
        if dtype.kind != x.dtype.kind:
            raise NotImplementedError(f"{name_of(function)} of {x.dtype} has no gradient with dtype={dtype}.")
        return NotImplemented
    rest = {key: x for key, x in kwargs.items() if key != "dtype"}
    if x.dtype == dtype and function is not np.mean:  # a mean of halves is single, unless it is told not to
        return function(x, *others, **rest)
    # NumPy casts piece by piece, and adds up these.
    value = function(*constant(args), **constant(kwargs))
    return pinned(function(cast(x, dtype), *others, **rest), value)


def _by_composites(function: Any, composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the composite for a function's options, or that for itself; or give `NotImplemented`."""
    kind = np.ufunc if isinstance(function, np.ufunc) else function  # all ufuncs share one composite
    if kwargs and (with_options := COMPOSITES.get((kind, "options"))) is not None:
        result = with_options(function, *args, **kwargs)
        if result is not NotImplemented:
            return result
    return NotImplemented if composite is None else _composed(function, composite, args, kwargs)


def _composed(function: Any, composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a composite, or give `NotImplemented` where it has no such parameters."""
    if _of_a_subclass((*args, *kwargs.values())) and _of_a_subclass(
        result := function(*constant(args), **constant(kwargs))
    ):
        raise no_array(function, np.matrix if type(result) in (list, tuple) else type(result))
    try:
        return composite(*args, **kwargs)
    except TypeError:
        if takes(composite, *args, **kwargs):
            raise
        return NotImplemented


def _of_a_subclass(x: Any) -> bool:
    """Tell whether there is something like an `np.matrix`, whose operators mean something else."""
    if type(x) in (list, tuple):
        return any(map(_of_a_subclass, x))
    return type(x) not in PLAIN and is_ndarray(x)


# Options that need a look before the call is recorded; those of a ufunc all do.
_LOOKED_AT = frozenset({"out", "dtype", "where", "initial", "mean"})


def _all_plain(function: Any, kwargs: dict[str, Any]) -> bool:
    if type(function) is np.ufunc or not _LOOKED_AT.isdisjoint(kwargs):
        return False
    return all(type(x) in PLAIN for x in kwargs.values())


def _returning(kwargs: dict[str, Any], result: Any) -> Any:
    """Give back the very object that the caller passed as ``out=``, as NumPy does."""
    out = kwargs.get("out")
    out = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    return out if isinstance(out, Leaf) else result


@cache
def _places(function: Any) -> int:
    """Count the places before `out` and `dtype`, which need a look."""
    names = list(parameters_of(function))
    return min([i for i, name in enumerate(names) if name in ("out", "dtype")], default=sys.maxsize)


@cache
def _operands(function: Any) -> dict[str, int]:
    """Give the parameters that have no default, and may come by keyword, with their places."""
    try:
        parameters = inspect.signature(function).parameters.items()
    except ValueError:
        return {}
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return {name: i for i, (name, p) in enumerate(parameters) if p.kind is kind and p.default is empty}


def _operands_first(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move operands that came by keyword to their positions."""
    operands = _operands(function)
    if operands.keys().isdisjoint(kwargs):
        return args, kwargs
    named = [name for name, i in operands.items() if i >= len(args) and name in kwargs]
    return (*args, *[kwargs[name] for name in named]), {k: x for k, x in kwargs.items() if k not in named}


def _by_name(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], places: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make keywords of the options behind the first `places` arguments; leave out what is the default."""
    defaults = parameters_of(function)
    names = list(defaults)[places : len(args)]
    if len(args) > places + len(names) or any(name in kwargs for name in names):
        return args, kwargs  # too many, as NumPy will say
    given = {**dict(zip(names, args[places:], strict=True)), **kwargs}
    return args[:places], {k: x for k, x in given.items() if k not in defaults or x is not defaults[k]}


def _by_position(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move recorded arguments that came by keyword to their positions, where autograd looks for them."""
    defaults = parameters_of(function)
    names = list(defaults)
    last = max([i for i, name in enumerate(names) if any_box(kwargs.get(name))], default=-1)
    moved = names[len(args) : last + 1]
    return (
        (*args, *[kwargs.get(name, defaults[name]) for name in moved]),
        {key: x for key, x in kwargs.items() if key not in moved},
    )


def _array_function(self: AsksUs, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    return call(function, args, kwargs)


def _array_ufunc(self: AsksUs, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    if method == "__call__":
        return call(ufunc, args, kwargs)
    return call_ufunc_method(ufunc, method, args, kwargs)


AsksUs.__array_function__, AsksUs.__array_ufunc__ = _array_function, _array_ufunc
