"""NumPy functions that only move elements about, as an index.

NumPy itself does to the numbers of the elements what is to be done to these: that is the index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff.tracing.derivatives import COMPOSITES
from minidiff.tracing.record import as_array


def _numbers(x: Any, first: int = 0) -> Any:
    return np.arange(first, first + x.size).reshape(x.shape)


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    def composite(x: Any, *args: Any, **options: Any) -> Any:
        x = as_array(x)
        return np.ravel(x)[function(_numbers(x), *args, **options)]

    return composite


def _insert(x: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    x, values = as_array(x), as_array(values)
    place = np.insert(_numbers(x), obj, _numbers(values, x.size), axis)
    return np.concatenate([np.ravel(x), np.ravel(values).astype(x.dtype)])[place]


def _diagflat(x: Any, k: int = 0) -> Any:
    x = as_array(x)
    return np.concatenate([np.zeros(1, x.dtype), np.ravel(x)])[np.diagflat(_numbers(x, 1), k)]


COMPOSITES |= {
    np.delete: _moved(np.delete),
    np.resize: _moved(np.resize),
    np.extract: lambda condition, x: np.ravel(as_array(x))[np.flatnonzero(condition)],
    np.insert: _insert,
    np.diagflat: _diagflat,
    np.lib.stride_tricks.sliding_window_view: _moved(np.lib.stride_tricks.sliding_window_view),
}
if hasattr(np, "unstack"):
    COMPOSITES[np.unstack] = lambda x, /, *, axis=0: tuple(np.moveaxis(x, axis, 0))
