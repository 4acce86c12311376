"""The ufuncs of `scipy.special`: autograd's derivatives, and ours where it has none.

It is imported when a value under differentiation meets one of them, so that SciPy is there.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import autograd.numpy as anp
import numpy as np

from minidiff.tracing.derivatives import Rule, define, primitive_of, unbroadcast

sp: Any = import_module("autograd.scipy.special") and import_module("scipy.special")


def _function(name: str, *rules: Rule | None) -> None:
    """Give a ufunc of SciPy's rules, unless autograd has some."""
    function = getattr(sp, name, None)
    if function is not None and primitive_of(function) is None:
        define(function, tuple(rule and _broadcast(rule, i) for i, rule in enumerate(rules)))


def _broadcast(rule: Rule, i: int) -> Rule:
    return lambda g, ans, *arguments: unbroadcast(g * rule(ans, *arguments), arguments[i])


_ROOT = math.sqrt(2 * math.pi)


def _normal(ans: Any, x: Any) -> Any:
    return np.exp(-x * x / 2) / _ROOT


def _smooth(x: Any, y: Any) -> Any:
    """Divide x by y, which is 0 where x is."""
    return anp.where(x == 0, 0.0, x / anp.where(x == 0, 1.0, y))


_function("xlogy", lambda ans, x, y: np.log(y), lambda ans, x, y: _smooth(x, y))
_function("xlog1py", lambda ans, x, y: np.log1p(y), lambda ans, x, y: _smooth(x, 1 + y))
_function("entr", lambda ans, x: -np.log(x) - 1)
_function("rel_entr", lambda ans, x, y: np.log(x / y) + 1, lambda ans, x, y: -x / y)
_function("kl_div", lambda ans, x, y: np.log(x / y), lambda ans, x, y: 1 - x / y)
_function("ndtr", _normal)
_function("ndtri", lambda ans, x: _ROOT * np.exp(ans * ans / 2))
_function("log_ndtr", lambda ans, x: np.exp(-x * x / 2 - ans) / _ROOT)
_function("log_expit", lambda ans, x: -np.expm1(ans))
_function("erfcx", lambda ans, x: 2 * x * ans - 2 / math.sqrt(math.pi))
_function("dawsn", lambda ans, x: 1 - 2 * x * ans)
_function("exp2", lambda ans, x: ans * math.log(2))
_function("exp10", lambda ans, x: ans * math.log(10))
