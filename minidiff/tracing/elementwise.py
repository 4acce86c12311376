"""Elementwise NumPy functions written with others, and sequences of numbers between two ends.

Where a function jumps, its derivative is that of the smooth pieces beside the jump.
"""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from minidiff.tracing.exact import exactly
from minidiff.tracing.record import as_array, constant, derivative, is_recorded
from minidiff.tracing.table import COMPOSITES, Rule, cast, enter, unbroadcast


@exactly(np.float_power)
def _float_power(x: Any, y: Any) -> Any:
    x, y = as_array(x), as_array(y)
    kind = np.result_type(x.dtype, y.dtype, np.float64)
    return np.power(x.astype(kind), y.astype(kind))


@derivative(lambda g, ans, x: g)
def _fraction(x: Any) -> Any:
    return np.modf(x)[0]


def _frexp(x: Any) -> Any:
    exponents = np.frexp(constant(x))[1]
    return np.ldexp(x, -exponents), exponents


# Where the result turns complex, with a slope that has no end: there the gradient is 0.
_TURNS = {np.arccos: 1, np.arcsin: 1, np.sqrt: 0}


def _of_all_numbers(function: Any, narrow: Any) -> Any:
    """Make the composite of one of np.emath, complex where a number is outside the domain of `narrow`."""

    def wide(*args: Any) -> Any:
        value = function(*constant(args))
        arrays = [as_array(a) for a in args]
        turns = np.abs(constant(arrays[0])) == _TURNS.get(narrow, np.nan)
        if np.any(turns):
            arrays[0] = np.where(turns, 0.5, arrays[0])[()]
        if value.dtype.kind == "c":
            arrays = [cast(a, value.dtype) for a in arrays]
        result = narrow(*arrays)
        return np.where(turns, value, result)[()] if np.any(turns) else result

    return wide


# --- Sequences ------------------------------------------------------------------------------------------


@exactly(np.linspace)
def _linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, axis: int = 0
) -> Any:
    start, stop = as_array(start), as_array(stop)
    share = _share(num, endpoint, 1 + max(start.ndim, stop.ndim))
    line = np.moveaxis(start * (1 - share) + stop * share, 0, axis)
    return (line, (stop - start) / max(num - bool(endpoint), 1)) if retstep else line


def _logspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    base: Any = 10.0,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    # What has no axes stays as it is: a Python number takes the dtype of what it meets.
    start, stop, base = (as_array(a) if np.ndim(a) else a for a in (start, stop, base))
    if np.ndim(base):
        # Each element of the base goes with those of the ends.
        ndim = max(map(np.ndim, (start, stop, base)))
        shapes = [(1,) * (ndim - np.ndim(a)) + np.shape(a) for a in (start, stop, base)]
        start, stop, base = map(np.reshape, (start, stop, base), shapes)
    return _along(np.power(base, np.linspace(start, stop, num, endpoint)), dtype, axis)


def _share(num: int, endpoint: bool, ndim: int) -> Any:
    return np.linspace(0.0, 1.0, num, endpoint).reshape([-1] + [1] * (ndim - 1))


@derivative(
    lambda g, ans, x, y, num, endpoint: unbroadcast(
        (g * ans * (1 - _share(num, endpoint, ans.ndim)) / x).sum(axis=0), x
    ),
    lambda g, ans, x, y, num, endpoint: unbroadcast(
        (g * ans * _share(num, endpoint, ans.ndim) / y).sum(axis=0), y
    ),
)
def _geometric(start: Any, stop: Any, num: int, endpoint: bool) -> Any:
    return np.geomspace(start, stop, num, endpoint)


def _geomspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Any:
    start, stop = as_array(start), as_array(stop)
    # A complex dtype is that of the ends: those of opposite signs have a sequence between them.
    kind = np.result_type(start, stop, 1.0, *([] if dtype is None else [np.zeros((), dtype)]))
    return _along(_geometric(start.astype(kind), stop.astype(kind), num, endpoint), dtype, axis)


def _along(sequence: Any, dtype: Any, axis: int) -> Any:
    sequence = np.moveaxis(sequence, 0, axis) if axis else sequence
    return sequence if dtype is None else sequence.astype(dtype)


COMPOSITES |= {
    getattr(np.emath, name): _of_all_numbers(getattr(np.emath, name), getattr(np, name))
    for name in ("arccos", "arcsin", "arctanh", "log", "log10", "log2", "power", "sqrt")
}
COMPOSITES |= {
    np.divmod: lambda x, y: (x // y, x % y),
    np.frexp: _frexp,
    np.geomspace: _geomspace,
    np.logspace: _logspace,
    np.emath.logn: lambda n, x: np.emath.log(x) / np.emath.log(n),
    np.modf: lambda x: (_fraction(x), np.trunc(x)),
}

# --- Rules ----------------------------------------------------------------------------------------------

_nothing: Rule = lambda g, ans, x, y: anp.zeros_like(x)  # noqa: E731
_of_second: Rule = lambda g, ans, x, y: anp.zeros_like(y)  # noqa: E731


def _cosine(x: Any) -> Any:
    """Give the cosine of arcsin x, on the branch cuts on that side of them on which NumPy's arcsin is."""
    return np.sqrt(1 + x) * np.sqrt(-(x - 1)) if x.dtype.kind == "c" else np.sqrt(1 - x**2)


enter(np.arcsin, lambda g, ans, x: g / _cosine(x))
enter(np.arccos, lambda g, ans, x: -g / _cosine(x))
enter(np.arccosh, lambda g, ans, x: g / (np.sqrt(x - 1) * np.sqrt(x + 1)))  # of x² - 1 it had another sign
# The sign of the result is that of y, the zero's included, and jumps with it.
enter(
    np.copysign,
    lambda g, ans, x, y: unbroadcast(g * np.sign(getval(x)) * np.copysign(1.0, getval(ans)), x),
    _of_second,
)
# fmod(x, y) is x - n y, where n is how often y goes into x.
enter(
    np.fmod,
    lambda g, ans, x, y: unbroadcast(g, x),
    lambda g, ans, x, y: unbroadcast(-g * np.rint((getval(x) - getval(ans)) / getval(y)), y),
)
enter(np.ldexp, lambda g, ans, x, n: unbroadcast(np.ldexp(g, n), x), _of_second)


def _of_finite(g: Any, ans: Any, x: Any, *args: Any, **options: Any) -> Any:
    if x.dtype.kind != "c":
        return anp.where(np.isfinite(x), g, np.zeros((), g.dtype))
    return _of_finite(anp.real(g), ans, x.real) + 1j * _of_finite(anp.imag(g), ans, x.imag)


def _nan_to_num(x: Any, copy: Any = True, *args: Any, **options: Any) -> Any:
    if copy is not True and copy is not np._NoValue:  # it would change x
        raise NotImplementedError(
            f"np.nan_to_num has no gradient with copy={copy!r:.40}. Write it otherwise."
        )
    if any(map(is_recorded, (*args, *options.values()))):
        raise NotImplementedError("np.nan_to_num has no gradient by nan=: write np.where(np.isnan(x), y, x).")
    return NotImplemented


enter(np.nan_to_num, _of_finite)
COMPOSITES[np.nan_to_num] = _nan_to_num
# A step: at 0 it is y.
enter(np.heaviside, _nothing, lambda g, ans, x, y: unbroadcast(g * (x == 0), y))
# The number beside x is as far from any other as x, give or take nothing.
enter(np.nextafter, lambda g, ans, x, y: unbroadcast(g, x), _of_second)
