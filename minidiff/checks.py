"""How arguments are checked, and how error messages name what came."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np

from minidiff.tracing import Traced

__all__ = ["described", "function", "integer"]


def described(x: object) -> str:
    """Say for an error message what something is."""
    if isinstance(x, np.ndarray):
        return f"an ndarray of shape {x.shape} and dtype {x.dtype}"
    if isinstance(x, Traced):
        return "a value under differentiation"
    name, text = type(x).__name__, repr(x)
    line = text.partition("\n")[0][:60]
    line += " …" if line != text else ""
    return line if x is None or line.startswith(name) else f"{name} {line}"


def function(name: str, f: Any) -> Callable[..., Any]:
    """Give argument `f` back, if it can be called."""
    if not callable(f):
        raise TypeError(f"{name} must be a function, got {described(f)}")
    return f  # type: ignore[no-any-return]


def integer(name: str, n: Any, least: int) -> int:
    """Give argument `n` as an int, if it is an integer and no less than `least`."""
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, Integral):
        raise TypeError(f"{name} must be an integer, got {described(n)}")
    if int(n) < least:
        raise ValueError(f"{name} must be at least {least}, got {n!r}")
    return int(n)
