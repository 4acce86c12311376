"""NumPy's Fourier transforms, each a sequence of those along one axis, as NumPy has it.

A transform is linear, and its matrix symmetric: the derivative is a transform of the gradient. A real
transform holds half of the frequencies; the others count with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np

from minidiff.tracing.record import as_array
from minidiff.tracing.table import COMPOSITES, along, enter

# The norm of the transform back that has the scale of the one forth.
_BACK: Any = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}


def _cut_or_padded(g: Any, x: Any, axis: int) -> Any:
    """Give the gradient of x, of which a transform has read as much as `g` has, or added zeros to."""
    n = x.shape[axis]
    if g.shape[axis] > n:
        return g[along(x, axis, slice(n))]
    if g.shape[axis] == n:
        return g
    left = [n - size if i == axis % x.ndim else size for i, size in enumerate(g.shape)]
    return anp.concatenate([g, np.zeros(left, g.dtype)], axis)


def _complex(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(g: Any, ans: Any, x: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
        return _cut_or_padded(function(g, None, axis, norm), x, axis)

    return rule


def _shares(half: Any, n: int, axis: int, alone: float, paired: float) -> Any:
    """Give a number for each frequency of a real transform: of most there is a second, its mirror image."""
    size = half.shape[axis]
    shares = np.full(size, paired, half.real.dtype)
    shares[0] = alone
    if n % 2 == 0:
        shares[n // 2 :] = alone
    return shares.reshape([size if i == axis % half.ndim else 1 for i in range(half.ndim)])


def _real(g: Any, ans: Any, x: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    n = x.shape[axis] if n is None else n
    shares = _shares(g, n, axis, 1.0, 0.5)
    return _cut_or_padded(anp.fft.irfft(anp.conj(g) * shares, n, axis, _BACK[norm]), x, axis)


def _from_half(g: Any, ans: Any, x: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    half = anp.fft.rfft(g, None, axis, _BACK[norm])
    return _cut_or_padded(anp.conj(half) * _shares(half, g.shape[axis], axis, 1.0, 2.0), x, axis)


enter(np.fft.fft, _complex(anp.fft.fft))
enter(np.fft.ifft, _complex(anp.fft.ifft))
enter(np.fft.rfft, _real)
enter(np.fft.irfft, _from_half)


def _sequence(
    each: Callable[..., Any], default: Any, first: Any = None, last: Any = None
) -> Callable[..., Any]:
    """Make a transform along several axes of those along one; along the last axis it may be another one."""

    def composite(x: Any, s: Any = None, axes: Any = default, norm: Any = None) -> Any:
        x = as_array(x)
        if axes is None:
            axes = range(x.ndim) if s is None else range(-len(s), 0)
        if s is None:
            s = [x.shape[axis] for axis in axes]
            if last and s:
                s[-1] = 2 * (s[-1] - 1)
        steps = [(each, x.shape[axis] if n == -1 else n, axis) for n, axis in zip(s, axes, strict=True)]
        if first or last:
            steps[-1] = (first or last, *steps[-1][1:])
        # A transform of real numbers begins with its own axis, one to real numbers ends there.
        for transform, n, axis in steps if last else reversed(steps):
            x = transform(x, n, axis, norm)
        return x if isinstance(x, np.ndarray) else x[...]  # of a number NumPy makes an array without axes

    return composite


COMPOSITES |= {
    np.fft.fft2: _sequence(np.fft.fft, (-2, -1)),
    np.fft.fftn: _sequence(np.fft.fft, None),
    np.fft.ifft2: _sequence(np.fft.ifft, (-2, -1)),
    np.fft.ifftn: _sequence(np.fft.ifft, None),
    np.fft.rfft2: _sequence(np.fft.fft, (-2, -1), first=np.fft.rfft),
    np.fft.rfftn: _sequence(np.fft.fft, None, first=np.fft.rfft),
    np.fft.irfft2: _sequence(np.fft.ifft, (-2, -1), last=np.fft.irfft),
    np.fft.irfftn: _sequence(np.fft.ifft, None, last=np.fft.irfft),
    np.fft.hfft: lambda x, n=None, axis=-1, norm=None: np.fft.irfft(
        np.conj(as_array(x)), n, axis, _BACK[norm]
    ),
    np.fft.ihfft: lambda x, n=None, axis=-1, norm=None: np.conj(
        np.fft.rfft(as_array(x), n, axis, _BACK[norm])
    ),
}
