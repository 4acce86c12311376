"""How arguments are checked, and how error messages name what came."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np

from minidiff.tracing import Traced

__all__ = ["bit_generator", "described", "function", "generator", "integer"]


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


def generator(name: str, rng: Any) -> np.random.Generator:
    """Give argument `rng` as a generator: itself, or one made from a seed."""
    # NumPy goes into whatever has a length, and ends the process at a list that holds itself.
    several = rng.ravel().tolist() if isinstance(rng, np.ndarray) else rng if hasattr(rng, "__len__") else ()
    if not all(isinstance(n, Integral) for n in several):
        raise TypeError(f"{name} must be a seed (an integer or several) or a generator, got {described(rng)}")
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be a seed or a generator, got {described(rng)}: {error}") from None


def bit_generator(name: str, state: Any) -> np.random.BitGenerator:
    """Give a new bit generator in the state `state`, if it is one."""
    try:
        kind = getattr(np.random, state["bit_generator"])
        bits: np.random.BitGenerator = kind(0)
        bits.state = state
        # The place among the words drawn ahead; NumPy would read on behind them.
        place, drawn = 0, 0
        if isinstance(bits, np.random.MT19937):
            place, drawn = state["state"]["pos"], 624
        elif isinstance(bits, np.random.Philox):
            place, drawn = state["buffer_pos"], 4
        if not isinstance(bits, np.random.BitGenerator) or not 0 <= place <= drawn:
            raise ValueError(f"{kind.__name__} at place {place}")
    except Exception as error:
        raise ValueError(f"{name} is no state of a generator of NumPy's: {error!r}") from error
    return bits
