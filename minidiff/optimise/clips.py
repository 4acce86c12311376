"""Clips, which keep single large gradients from throwing a parameter off its way."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidiff.optimise.rule import Rule, widened
from minidiff.program.source import quiet
from minidiff.typing import Array

__all__ = ["ClipNorm", "ClipValue"]


class ClipValue(Rule):
    r"""Clip each element whose absolute value exceeds a threshold.

    .. math:: Δ_i \leftarrow \min(\max(Δ_i, -\text{thresh}), \text{thresh})

    A complex element keeps its direction: its modulus is clipped.

    Parameters
    ----------
    thresh : float
        The largest absolute value that passes, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, ClipValue, Optimiser, apply
    >>> apply(ClipValue(0.5), np.zeros(3), [0.1, -2.0, 30.0])
    array([ 0.1, -0.5,  0.5])
    >>> opt = Optimiser(ClipValue(1e-3), ADAM(1e-3))

    References
    ----------
    T. Mikolov, "Statistical Language Models Based on Neural Networks", 2012, section 3.2.2.
    """

    thresh: float

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.thresh,)

    @staticmethod
    def formula(x: Any, Δ: Any, thresh: float) -> Any:
        return np.where(np.abs(Δ) > thresh, thresh * np.sign(Δ), Δ)


class ClipNorm(Rule):
    r"""Scale a parameter's gradient down to a given Euclidean norm where it exceeds that.

    .. math:: Δ \leftarrow Δ · \min(1, \text{thresh} / ‖Δ‖_2)

    The norm is that of this one parameter's gradient, as in Flux; PyTorch's ``clip_grad_norm_`` takes one
    norm over all parameters together. It is NaN if an element is, and then the whole step is.

    Parameters
    ----------
    thresh : float
        The largest norm that passes, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ClipNorm, apply
    >>> apply(ClipNorm(1.0), np.zeros(2), [3.0, 4.0])
    array([0.6, 0.8])
    >>> apply(ClipNorm(1.0), np.zeros(2), [0.3, 0.4])
    array([0.3, 0.4])

    References
    ----------
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", 2013,
    arXiv:1211.5063, algorithm 1.
    """

    thresh: float

    def apply(self, x: Any, Δ: Array) -> Array:
        call, Δ = quiet().run, widened(Δ)
        norm = norm_of(Δ)
        if norm <= self.thresh:
            return Δ
        if norm == math.inf:  # finite elements can overflow, too
            Δ = call(np.multiply, Δ, 2.0**-64)
            norm = norm_of(Δ)
        clipped: Array = call(np.multiply, Δ, self.thresh / norm)  # all NaN if the norm is NaN
        return clipped


def norm_of(z: Array) -> float:
    """Return the Euclidean norm of all elements, also where their squares leave the range of the dtype.

    Parameters
    ----------
    z : ndarray
        Any shape, real or complex.

    Returns
    -------
    float
        √Σ|z|², 0 of an empty array.

    Examples
    --------
    >>> round(norm_of(np.array([3.0, 4.0])), 6)
    5.0
    """
    flat = z.reshape(-1)
    size = 96 * 1024 // z.itemsize  # each block is read twice, and the second time from the cache
    norms = [quiet().run(_norm, flat[i : i + size]) for i in range(0, max(flat.size, 1), size)]
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def _norm(z: Array) -> float:
    square = float(np.vdot(z, z).real)
    least, most = _safe_squares(z.dtype)
    if least < square < most or not z.size:
        return math.sqrt(square)
    largest = float(np.abs(z).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(float(np.vdot(z / largest, z / largest).real))


@functools.cache
def _safe_squares(dtype: np.dtype[Any]) -> tuple[float, float]:
    info = np.finfo(dtype)
    return float(info.tiny / info.eps), float(info.max)
