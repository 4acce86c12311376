"""NumPy's polynomials, by Horner's rule and least squares; the highest power comes first."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.tracing.derivatives import COMPOSITES
from minidiff.tracing.record import as_array


def _polyval(p: Any, x: Any) -> Any:
    x = as_array(x)
    y = np.zeros_like(x)
    for coefficient in as_array(p):
        y = y * x + coefficient
    return y


def _vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    x = as_array(x)
    powers = np.arange(x.shape[0] if N is None else N)
    return x[:, None] ** (powers if increasing else powers[::-1])


def _polyfit(x: Any, y: Any, deg: int, rcond: None = None, full: bool = False, w: Any = None) -> Any:
    if full or np.ndim(deg):
        return NotImplemented
    y = as_array(y)
    powers = _vander(as_array(x) * 1.0, deg + 1)
    if w is not None:
        w = as_array(w)
        powers, y = powers * w[:, None], (y.T * w).T
    scale = np.sqrt(np.sum(powers * powers, axis=0))
    return ((np.linalg.pinv(powers / scale) @ y).T / scale).T


def _polyadd(p: Any, q: Any) -> Any:
    p, q = np.atleast_1d(as_array(p)), np.atleast_1d(as_array(q))
    n = max(p.shape[0], q.shape[0])
    p, q = (np.concatenate([np.zeros(n - a.shape[0], a.dtype), a]) for a in (p, q))
    return p + q


def _polyder(p: Any, m: int = 1) -> Any:
    p = as_array(p)
    for _ in range(m):
        p = p[:-1] * np.arange(p.shape[0] - 1, 0, -1)
    return p


COMPOSITES |= {
    np.polyval: _polyval,
    np.vander: _vander,
    np.polyfit: _polyfit,
    np.polyadd: _polyadd,
    np.polysub: lambda p, q: _polyadd(p, -as_array(q)),
    np.polymul: lambda p, q: np.convolve(as_array(p), as_array(q)),
    np.polyder: _polyder,
}
