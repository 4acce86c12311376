"""What is wrong in autograd's table of derivatives for SciPy, with what is right or the words of a refusal.

Nothing here imports SciPy: a function is known by its name. `autograd` takes a missing derivative for zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import autograd.numpy as anp
import numpy as np

from minidiff.checks import is_complex

# What has no derivative: it is asked (argnums, arguments, keywords), and gives the reason or "".
_Objection: TypeAlias = Callable[[tuple[int, ...], tuple[Any, ...], dict[str, Any]], str]


def name_of(function: Any) -> str:
    """Name a function of SciPy's, a method of a distribution by both; any other function is ""."""
    module = str(getattr(function, "__module__", ""))
    if not (module.startswith("scipy.") or isinstance(function, np.ufunc)):
        return ""
    owner = type(getattr(function, "__self__", None)).__name__
    own = str(getattr(function, "__name__", ""))
    return f"{owner.removesuffix('_gen')}.{own}" if owner.endswith("_gen") else own


def objection(name: str, argnums: tuple[int, ...], arguments: Any, keywords: dict[str, Any]) -> str:
    """Say why a call has no derivative though autograd's table has one, or give ""."""
    ask = _OBJECTIONS.get(name)
    return ask(argnums, arguments, keywords) if ask else ""


def read(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give arguments as SciPy reads them: of a covariance the lower triangle alone, and its mirror image."""
    place = _OF_COVARIANCES.get(name)
    if place is None:
        return arguments
    lower = anp.tril(arguments[place])
    return (*arguments[:place], lower + anp.tril(lower, -1).T, *arguments[place + 1 :])


def mended(name: str, argnum: int, h: Any) -> Any:
    """Give the derivative with respect to an argument, where autograd's, `h`, is of something else."""
    if argnum == _OF_COVARIANCES.get(name):
        return anp.tril(h + anp.swapaxes(h, -1, -2)) - h * np.eye(h.shape[-1])
    return h


def _by(place: int, words: str) -> _Objection:
    return lambda argnums, arguments, keywords: words if place in argnums else ""


def _of_complex(place: int) -> _Objection:
    return lambda argnums, arguments, keywords: "of complex numbers" if is_complex(arguments[place]) else ""


def _of_triangle(argnums: Any, arguments: Any, keywords: Any) -> str:
    options = dict(zip(("trans", "lower", "unit_diagonal"), arguments[2:], strict=False)) | keywords
    if options.get("unit_diagonal"):
        return "with unit_diagonal"
    if any(map(is_complex, arguments[:2])) and options.get("trans") in (2, "C"):
        return "with trans='C' of complex matrices"
    return ""


def _of_chi2(argnums: Any, arguments: Any, keywords: Any) -> str:
    return "" if np.all(np.asarray(arguments[1]) % 1 == 0) else "unless df is a whole number"


def _of_normal(argnums: Any, arguments: Any, keywords: Any) -> str:
    is_known = np.ndim(arguments[0]) in (1, 2) and np.ndim(arguments[1]) == 1 and np.ndim(arguments[2]) == 2
    return "" if is_known else "unless x has one or two dimensions, the mean one and the covariance two"


def _of_covariance(argnums: Any, arguments: Any, keywords: Any) -> str:
    return "" if np.ndim(arguments[1]) == 2 else "unless the covariance has two dimensions"


def _of_equation(argnums: Any, arguments: Any, keywords: Any) -> str:
    return "" if len(arguments) > 3 else "without arguments of f in a tuple"


_OBJECTIONS: dict[str, _Objection] = {
    "odeint": _of_equation,
    **dict.fromkeys(("jv", "yn", "iv", "polygamma"), _by(0, "by the order")),
    "ive": lambda *call: _by(0, "by the order")(*call) or _of_complex(1)(*call),
    "sqrtm": _of_complex(0),
    "multigammaln": _by(1, "by the dimension"),
    "solve_triangular": _of_triangle,
    **dict.fromkeys(("chi2.pdf", "chi2.logpdf"), _of_chi2),
    **dict.fromkeys(("multivariate_normal.pdf", "multivariate_normal.logpdf"), _of_normal),
    "multivariate_normal.entropy": _of_covariance,
}
_OF_COVARIANCES = {
    "multivariate_normal.pdf": 2,
    "multivariate_normal.logpdf": 2,
    "multivariate_normal.entropy": 1,
}
