"""NumPy's polynomials, which are vectors of coefficients; the highest power comes first.

Leading zeros that NumPy cuts off would lose their gradient: there is none then.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import numpy as np
from autograd.tracer import getval

from minidiff.tracing.exact import exactly
from minidiff.tracing.record import as_array, constant, derivative
from minidiff.tracing.table import COMPOSITES


def _of_vectors(function: Callable[..., Any], vectors: int) -> Callable[..., Any]:
    """Give the first arguments as vectors; leave anything else to the error that names the function."""

    def composite(*args: Any, **options: Any) -> Any:
        if any(isinstance(p, np.poly1d) for p in args):
            return NotImplemented
        ps = [np.atleast_1d(as_array(p)) if vectors == 2 else as_array(p) for p in args[:vectors]]
        if any(p.ndim != 1 for p in ps):
            return NotImplemented
        return function(*ps, *args[vectors:], **options)

    return composite


# --- Values ---------------------------------------------------------------------------------------------


def _polyval(p: Any, x: Any) -> Any:
    if isinstance(x, np.poly1d):
        return NotImplemented
    x = as_array(x)
    x = x if isinstance(x, np.ndarray) else x[...]  # as in NumPy; two numbers it multiplies with other bits
    y = np.zeros_like(x)
    for coefficient in as_array(p):
        y = y * x + coefficient
    return y


@exactly(np.vander)
def _vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    x = as_array(x)
    powers = np.arange(x.shape[0] if N is None else N)
    return x[:, None] ** (powers if increasing else powers[::-1])


# --- Arithmetic -----------------------------------------------------------------------------------------


def _trim_zeros(x: Any, trim: Any = "fb", axis: Any = None) -> Any:
    if np.ndim(x) != 1 or axis not in (None, 0, -1, (0,)):
        return NotImplemented
    values = constant(x)
    if len(np.trim_zeros(values, trim)) < len(values):
        raise NotImplementedError(
            "np.trim_zeros has no gradient where it cuts zeros off: theirs would be lost. Cut a slice. "
            "np.poly1d and np.polymul call it; np.polyval and np.convolve do not."
        )
    return x


def _polymul(p: Any, q: Any) -> Any:
    p, q = (np.trim_zeros(a, "f") if np.any(constant(a)) else a[:1] for a in (p, q))
    return np.convolve(p, q)


def _polydiv(u: Any, v: Any) -> Any:
    r, v = u + 0.0, v + 0.0
    r = r.astype((r[0] + v[0]).dtype)
    n, scale, quotient = len(v), 1.0 / v[0], list[Any]()
    for k in range(len(r) - n + 1):
        quotient.append(scale * r[k])
        r = np.concatenate([r[:k], r[k : k + n] - quotient[-1] * v, r[k + n :]])
    # NumPy cuts off what is nearly 0: as many coefficients as were divided are so for certain.
    kept = np.flatnonzero(~np.isclose(constant(r), 0, rtol=1e-14))
    first = min(kept[0] if kept.size else len(r), len(r) - 1)
    if first > len(quotient):
        raise NotImplementedError("np.polydiv has no gradient where the remainder begins with a 0")
    return np.stack(quotient) if quotient else np.zeros(1, r.dtype), r[first:]


def _polyder(p: Any, m: int = 1) -> Any:
    if m < 0:
        raise ValueError(f"np.polyder: m must not be negative, got {m}")
    for _ in range(int(m)):
        p = p[:-1] * np.arange(len(p) - 1, 0, -1)
    return p


def _polyint(p: Any, m: int = 1, k: Any = None) -> Any:
    k = np.zeros(m) if k is None else np.atleast_1d(as_array(k))
    if m < 0 or (len(k) < m and len(k) != 1):
        raise ValueError(f"np.polyint: m must not be negative, nor more than there are constants, got {m}")
    for i in range(int(m)):
        constants = k[:1] * np.ones(1) if len(k) == 1 else k[i : i + 1]
        p = np.concatenate([p / np.arange(len(p), 0, -1), constants])
    return p


# --- Roots ----------------------------------------------------------------------------------------------


def _from_roots(g: Any, ans: Any, p: Any) -> Any:
    # 0 = p(r) = Σ pₖ rⁿ⁻ᵏ, and so dr = -Σ rⁿ⁻ᵏ dpₖ / p'(r)
    slope = np.polyval(np.polyder(p), ans)
    if type(getval(slope)) is np.ndarray and not np.all(getval(slope)):
        raise NotImplementedError("np.roots has none where a root comes twice")
    return -(g / slope) @ np.vander(ans, len(p))


@derivative(_from_roots)
def _roots(p: Any) -> Any:
    return np.roots(p)


@exactly(np.poly)
def _poly(roots: Any) -> Any:
    roots = np.atleast_1d(as_array(roots))
    if roots.ndim == 2:
        roots = np.linalg.eigvals(roots)
    roots = roots.astype(np.mintypecode(roots.dtype.char))
    p = np.ones(1, roots.dtype)
    nothing = np.zeros(1, roots.dtype)
    for root in roots:
        p = np.concatenate([p, nothing]) - root * np.concatenate([nothing, p])
    return p


# --- Least squares --------------------------------------------------------------------------------------


@exactly(np.polyfit)
def _polyfit(
    x: Any, y: Any, deg: int, rcond: Any = None, full: bool = False, w: Any = None, cov: Any = False
) -> Any:
    x, y = as_array(x) + 0.0, as_array(y) + 0.0
    n = int(deg) + 1
    rcond = len(x) * np.finfo(x.dtype).eps if rcond is None else rcond
    powers = np.vander(x, n)
    if w is not None:
        w = as_array(w) + 0.0
        powers, y = (powers.T * w).T.astype(powers.dtype), (y.T * w).T.astype(y.dtype)  # as in place
    scale = np.sqrt(np.sum(powers * powers, axis=0))
    powers = powers / scale
    c, squares, rank, s = np.linalg.lstsq(powers, y, rcond)
    c = (c.T / scale).T
    if full:
        return c, squares, rank, s, rcond
    if not cov:
        return c
    variance = np.linalg.inv(powers.T @ powers) / np.outer(scale, scale)
    factor = 1 if cov == "unscaled" else squares / (len(x) - n)
    return c, (variance if y.ndim == 1 else variance[:, :, None]) * factor


COMPOSITES |= {
    np.polyadd: _of_vectors(unwrap(np.polyadd), 2),
    np.polyder: _of_vectors(_polyder, 1),
    np.polydiv: _of_vectors(_polydiv, 2),
    np.polyint: _of_vectors(_polyint, 1),
    np.polymul: _of_vectors(_polymul, 2),
    np.polysub: _of_vectors(unwrap(np.polysub), 2),
    np.polyval: _polyval,
    np.roots: lambda p: _roots(np.atleast_1d(p)),
    np.trim_zeros: _trim_zeros,
}
