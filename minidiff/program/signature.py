"""What a program depends on of its arguments, and results in bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minidiff.checks import is_ndarray

__all__ = ["described", "equal", "key_of", "parts_of", "stood"]

_STATIC = (bool, int, str, bytes, type(None))


class _Same:
    """A key that is equal to none but that of the same object."""

    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Same and other.x is self.x


def key_of(x: Any, leaves: list[Any]) -> Any:
    """Give what a program depends on of an argument, and collect the arrays and numbers that may vary."""
    kind = type(x)
    if kind is np.ndarray:
        leaves.append(x)
        return x.shape, x.strides, x.dtype
    if kind is float or kind is complex or (issubclass(kind, np.generic) and x.dtype.kind in "biufc"):
        leaves.append(x)
        return kind
    if kind in _STATIC:
        return kind, x
    if isinstance(x, dict):
        return kind, tuple(x), *[key_of(item, leaves) for item in x.values()]
    if isinstance(x, (list, tuple)):
        return kind, *[key_of(item, leaves) for item in x]
    if is_ndarray(x):
        raise TypeError(f"compiled functions take plain arrays, not {kind.__name__}: pass np.asarray(x).")
    return _Same(x)


def stood(x: Any, name: str, standing: Callable[[Any, str], Any]) -> Any:
    """Put a stand-in in the place of every array and number that `key_of` collects, in the same order."""
    kind = type(x)
    is_number = issubclass(kind, np.generic) and x.dtype.kind in "biufc"
    if is_number or kind in (np.ndarray, float, complex):
        return standing(x, name)
    if isinstance(x, dict):
        return {key: stood(item, f"{name}_{key}", standing) for key, item in x.items()}
    if isinstance(x, (list, tuple)):
        items = [stood(item, f"{name}_{i}", standing) for i, item in enumerate(x)]
        return kind(*items) if hasattr(x, "_fields") else kind(items)
    return x


def described(x: Any) -> str:
    """Tell dtypes and shapes of an argument."""
    if isinstance(x, (np.ndarray, np.generic)):
        return f"{x.dtype} {x.shape}"
    if isinstance(x, (list, tuple)):
        return f"[{', '.join(map(described, x))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in x.items()) + "}"
    return type(x).__name__ if isinstance(x, (float, complex)) else f"{x!r:.40}"


def parts_of(x: Any) -> Iterator[Any]:
    """Give the arrays and numbers of a result."""
    if isinstance(x, (list, tuple, Mapping)):
        for item in x.values() if isinstance(x, Mapping) else x:
            yield from parts_of(item)
    else:
        yield x


def equal(a: Iterator[Any], b: Iterator[Any]) -> bool:
    """Tell whether two results have the same bits. One NaN is as good as another."""
    for x, y in zip(a, b, strict=True):
        if type(x) is not type(y):
            return False
        if x is None:
            continue
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype != y.dtype or x.shape != y.shape:
            return False
        if x.tobytes() != y.tobytes():
            if x.dtype.kind == "c":
                x, y = (np.stack((z.real, z.imag)) for z in (x, y))
            number = x == x
            if not np.array_equal(x, y, equal_nan=True):
                return False
            if not np.array_equal(np.signbit(x[number]), np.signbit(y[number])):
                return False
    return True
