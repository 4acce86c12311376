"""Clips, which keep single large gradients from throwing a parameter off its way."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.optimise.rule import Rule

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
    norm over all parameters together.

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
    needs_norm = True

    def coefficients(self, t: int, norm: float) -> tuple[float, ...]:
        return (self.thresh / norm if norm > self.thresh else 1.0,)

    @staticmethod
    def formula(x: Any, Δ: Any, scale: float) -> Any:
        return Δ * scale
