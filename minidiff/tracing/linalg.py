"""NumPy's linear algebra by its other names, and what follows from decompositions and inverses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidiff.tracing.derivatives import COMPOSITES
from minidiff.tracing.record import as_array


def _cond(x: Any, p: Any = None) -> Any:
    if p in (None, 2, -2):
        s = np.linalg.svd(x, compute_uv=False)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    axes = (-2, -1)
    return np.linalg.norm(x, p, axes) * np.linalg.norm(np.linalg.inv(x), p, axes)


def _matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:  # noqa: A002
    return np.linalg.norm(x, ord, (-2, -1), keepdims)


def _tensorinv(a: Any, ind: int = 2) -> Any:
    front, back = a.shape[:ind], a.shape[ind:]
    return np.linalg.inv(a.reshape((math.prod(front), -1))).reshape((*back, *front))


def _tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    a, b = as_array(a), as_array(b)
    if axes is not None:
        a = np.transpose(a, (*[i for i in range(a.ndim) if i not in axes], *axes))
    shape = a.shape[b.ndim - a.ndim :] if a.ndim > b.ndim else ()
    return np.linalg.solve(a.reshape((-1, math.prod(shape))), np.ravel(b)).reshape(shape)


COMPOSITES |= {
    np.linalg.cond: _cond,
    np.linalg.diagonal: lambda x, /, *, offset=0: np.diagonal(x, offset, -2, -1),
    np.linalg.eigvals: lambda x: np.linalg.eig(x)[0],
    np.linalg.eigvalsh: lambda x, UPLO="L": np.linalg.eigh(x, UPLO)[0],
    np.linalg.matmul: lambda x, y, /: np.matmul(x, y),
    np.linalg.matrix_norm: _matrix_norm,
    np.linalg.matrix_transpose: lambda x, /: np.swapaxes(x, -1, -2),
    np.matrix_transpose: lambda x, /: np.swapaxes(x, -1, -2),
    np.linalg.outer: lambda x, y, /: np.outer(x, y),
    np.linalg.svdvals: lambda x, /: np.linalg.svd(x, compute_uv=False),
    np.linalg.tensordot: lambda x, y, /, *, axes=2: np.tensordot(x, y, axes),
    np.linalg.tensorinv: _tensorinv,
    np.linalg.tensorsolve: _tensorsolve,
    np.linalg.vecdot: lambda x, y, /, *, axis=-1: COMPOSITES[np.vecdot](x, y, axis),
}
if hasattr(np, "matvec"):
    COMPOSITES |= {
        np.matvec: lambda A, x: (A @ x[..., None])[..., 0],
        np.vecmat: lambda x, A: (np.conj(x)[..., None, :] @ A)[..., 0, :],
    }
