"""Products with a sparse matrix of SciPy, which is a constant beside a dense array."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.checks import is_ndarray
from minidiff.tracing.record import derivative
from minidiff.tracing.table import COMPOSITES, listed


# The matrix is transposed within the call: of some kinds that makes a copy, which a program would keep.
@listed
def product(A: Any, x: Any, is_transposed: bool) -> Any:
    """Multiply an array by a sparse matrix from the left, or by the transpose of one."""
    return (A.T if is_transposed else A) @ x


_recorded: Any = derivative(
    None, lambda g, ans, A, x, is_transposed: _recorded(A, g, not is_transposed), None
)(product)


def are_same(A: Any, B: Any) -> bool:
    """Tell whether two sparse matrices are so by the same arrays, in the same memory."""
    arrays = _arrays(A)
    return type(A) is type(B) and A.shape == B.shape and bool(arrays) and arrays == _arrays(B)


def _arrays(A: Any) -> list[Any]:
    parts = [x for held in vars(A).values() for x in (held if isinstance(held, tuple) else [held])]
    return [x.__array_interface__ for x in parts if is_ndarray(x)]


COMPOSITES[np.matmul, "sparse"] = lambda x, y: (
    _recorded(x, y, False) if hasattr(x, "tocsr") else _recorded(y, x.T, True).T  # as SciPy has it
)
