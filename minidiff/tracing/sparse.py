"""Products with a sparse matrix of SciPy, which is a constant beside a dense array."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.tracing.derivatives import COMPOSITES, listed
from minidiff.tracing.record import derivative


# The matrix is transposed within the call: of some kinds that makes a copy, which a program would keep.
@derivative(None, lambda g, ans, A, x, is_transposed: _product(A, g, not is_transposed), None)
@listed
def _product(A: Any, x: Any, is_transposed: bool) -> Any:
    return (A.T if is_transposed else A) @ x


COMPOSITES[np.matmul, "sparse"] = lambda x, y: (
    _product(x, y, False) if hasattr(x, "tocsr") else _product(y, x.T, True).T  # as SciPy has it
)
