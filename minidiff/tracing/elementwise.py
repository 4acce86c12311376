"""Elementwise NumPy functions written with others.

Where a function jumps, its derivative is that of the smooth pieces beside the jump.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from autograd.tracer import getval

from minidiff.tracing.derivatives import COMPOSITES, enter, unbroadcast
from minidiff.tracing.record import as_array


def _float_power(x: Any, y: Any) -> Any:
    x, y = as_array(x), as_array(y)
    kind = np.result_type(x.dtype, y.dtype, np.float64)
    return np.power(x.astype(kind), y.astype(kind))


def _logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, *, axis: int = 0
) -> Any:
    if axis or np.ndim(base):
        return NotImplemented
    return base ** np.linspace(start, stop, num, endpoint)


COMPOSITES |= {
    np.divmod: lambda x, y: (x // y, x % y),
    np.float_power: _float_power,
    np.logspace: _logspace,
    np.modf: lambda x: (x - np.trunc(x), np.trunc(x)),
}

# The sign of the result is that of y, the zero's included, and jumps with it.
enter(
    np.copysign,
    lambda g, ans, x, y: unbroadcast(g * np.sign(getval(x)) * np.copysign(1.0, getval(ans)), x),
    lambda g, ans, x, y: unbroadcast(0 * g, y),
)
# fmod(x, y) is x - n y, where n is how often y goes into x.
enter(
    np.fmod,
    lambda g, ans, x, y: unbroadcast(g, x),
    lambda g, ans, x, y: unbroadcast(-g * np.rint((getval(x) - getval(ans)) / getval(y)), y),
)
enter(np.ldexp, lambda g, ans, x, n: unbroadcast(np.ldexp(g, n), x), lambda g, ans, x, n: 0 * g)
