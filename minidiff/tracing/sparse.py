"""Products with a sparse matrix of SciPy, which is a constant beside a dense array."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.tracing.derivatives import COMPOSITES, listed
from minidiff.tracing.record import derivative


@derivative(None, lambda g, ans, A, x: _product(A.T, g))
@listed
def _product(A: Any, x: Any) -> Any:
    return A @ x


COMPOSITES[np.matmul, "sparse"] = lambda x, y: (
    _product(x, y) if hasattr(x, "tocsr") else _product(y.T, x.T).T  # as SciPy has it
)
