"""What of its arguments a program is made for, and whether two results have the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from types import FunctionType, ModuleType, SimpleNamespace
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
    if (fields := _fields(x)) is not None:
        return kind, tuple(fields), *[key_of(item, leaves) for item in fields.values()]
    return _identity(x, set())


def _fields(x: Any) -> dict[str, Any] | None:
    """Give what a record consists of: an instance of a dataclass, or a namespace."""
    if is_dataclass(x) and not isinstance(x, type):
        return {field.name: getattr(x, field.name) for field in fields_of(x)}
    return vars(x) if type(x) is SimpleNamespace else None


def _identity(x: Any, met: set[int]) -> Any:
    """Give what is another key where an object, or anything that it holds, is another object."""
    if id(x) in met:
        return None
    met.add(id(x))
    if isinstance(x, (list, tuple, dict)):
        parts: Iterable[Any] = x.values() if isinstance(x, dict) else x
    elif isinstance(x, (*_STATIC, float, complex, np.generic)):
        return type(x), repr(x)
    else:
        parts = () if isinstance(x, (type, FunctionType, ModuleType)) else getattr(x, "__dict__", {}).values()
    return _Same(x), *[_identity(part, met) for part in parts]


def stood(x: Any, name: str, standing: Callable[[Any, str], Any]) -> Any:
    """Put a stand-in in the place of every array and number that `key_of` collects, in the same order.

    A part of an argument has a name with a point in it.
    """
    kind = type(x)
    is_number = issubclass(kind, np.generic) and x.dtype.kind in "biufc"
    if is_number or kind in (np.ndarray, float, complex):
        return standing(x, name)
    if isinstance(x, dict):
        return {key: stood(item, f"{name}.{key}", standing) for key, item in x.items()}
    if isinstance(x, (list, tuple)):
        items = [stood(item, f"{name}.{i}", standing) for i, item in enumerate(x)]
        return kind(*items) if hasattr(x, "_fields") else kind(items)
    if (fields := _fields(x)) is not None:
        record = copy(x)
        for key, item in fields.items():
            object.__setattr__(record, key, stood(item, f"{name}.{key}", standing))
        return record
    return x


def described(x: Any) -> str:
    """Tell dtypes and shapes of an argument."""
    if isinstance(x, (np.ndarray, np.generic)):
        return f"{x.dtype} {x.shape}"
    if isinstance(x, (list, tuple)):
        return f"[{', '.join(map(described, x))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in x.items()) + "}"
    if (parts := _fields(x)) is not None:
        return f"{type(x).__name__}({', '.join(f'{key}={described(item)}' for key, item in parts.items())})"
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
