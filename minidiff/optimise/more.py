"""Rules beyond those of Flux's page, written as they are there: a formula each."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.optimise.rule import Rule, abs2
from minidiff.optimise.rules import _BiasCorrected
from minidiff.settings import Fraction

__all__ = ["Lion", "Rprop", "SignDecay", "Yogi"]


def _sign(z: Any) -> Any:
    """Return the sign, of a complex number ``z/|z|``: Numba has another one for these than NumPy 2."""
    if z.dtype.kind != "c":
        return np.sign(z)
    size = np.abs(z)
    return z / np.where(size > 0, size, 1)


class Lion(Rule):
    r"""Steps of one length, along the sign of an average of the gradients.

    .. math::
        x \leftarrow x - η \operatorname{sign}(β_1 m + (1 - β_1) Δ), \qquad
        m \leftarrow β_2 m + (1 - β_2) Δ

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0: the length of every step.
    beta : pair of float, default (0.9, 0.999)
        Weights β1 of the average in the step and β2 of it in itself, in [0, 1).

    Notes
    -----
    The defaults are those of Optimisers.jl. The paper and optax have 0.0001 and (0.9, 0.99). The
    paper's weight decay is another member of an `Optimiser`. The sign of a complex number is ``z/|z|``.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Lion, update
    >>> x = np.array([1.0, 2.0])
    >>> update(Lion(0.1), x, np.array([3.0, -0.2]))
    >>> x
    array([0.9, 2.1])

    References
    ----------
    X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv:2302.06675.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    keeps = ("m",)

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.eta, *self.beta

    @staticmethod
    def formula(x: Any, Δ: Any, m: Any, η: float, β1: float, β2: float) -> Any:
        return η * _sign(β1 * m + (1 - β1) * Δ), β2 * m + (1 - β2) * Δ


class Rprop(Rule):
    r"""A step length for each element, longer while its gradient keeps its sign and shorter when it changes.

    .. math::
        h &\leftarrow \begin{cases} \min(a h, l) & g Δ > 0 \\ \max(b h, s) & g Δ < 0 \\ h & g Δ = 0
        \end{cases}, \qquad
        g \leftarrow \begin{cases} 0 & g Δ < 0 \\ Δ & \text{otherwise} \end{cases} \\
        x &\leftarrow x - h \operatorname{sign}(g)

    Parameters
    ----------
    eta : float, default 0.001
        The first step length, at least 0.
    factors : pair of float, default (0.5, 1.2)
        By what a step length is multiplied: b after a change of sign, a without one.
    limits : pair of float, default (1e-6, 50.0)
        The shortest step length s and the longest l.

    Notes
    -----
    It needs the gradient of the whole data, not of a batch. After a change of sign the element rests for a
    step, as in PyTorch and Optimisers.jl. For complex numbers the sign of gΔ is that of Re(conj(g)Δ), and
    the sign of g is ``g/|g|``.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Rprop, update
    >>> opt, x = Rprop(0.1), np.zeros(1)
    >>> update(opt, x, [3.0])
    >>> update(opt, x, [100.0])
    >>> x.round(2)
    array([-0.22])

    References
    ----------
    M. Riedmiller and H. Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP
    Algorithm", 1993.
    """

    eta: float = 0.001
    factors: tuple[float, float] = (0.5, 1.2)
    limits: tuple[float, float] = (1e-6, 50.0)
    keeps = ("g", "h")
    real = ("h",)

    def initial(self, name: str) -> float:
        return self.eta if name == "h" else 0.0

    def coefficients(self, t: int) -> tuple[float, ...]:
        return *self.factors, *self.limits

    @staticmethod
    def formula(x: Any, Δ: Any, g: Any, h: Any, b: float, a: float, s: float, l: float) -> Any:  # noqa: E741
        same = g * Δ if g.dtype.kind != "c" else g.real * Δ.real + g.imag * Δ.imag
        h = np.where(same > 0, np.minimum(a * h, l), np.where(same < 0, np.maximum(b * h, s), h))
        g = np.where(same < 0, 0 * Δ, Δ)
        return h * _sign(g), g, h


class Yogi(_BiasCorrected, Rule):
    r"""Adam with a mean square that moves by a part of Δ², however far it is from it.

    .. math::
        m &\leftarrow β_1 m + (1 - β_1) Δ, \qquad
        v \leftarrow v - (1 - β_2) \operatorname{sign}(v - Δ^2) Δ^2 \\
        x &\leftarrow x - η \frac{\hat m}{\sqrt{\hat v} + ε}, \qquad
        \hat m = \frac{m}{1 - β_1^t}, \quad \hat v = \frac{v}{1 - β_2^t}

    Parameters
    ----------
    eta : float, default 0.01
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    epsilon : float, default 0.001
        ε, at least 0.

    Notes
    -----
    The paper's algorithm has no bias corrections. They are as in optax, which begins m and v at 1e-6
    where they begin at 0 here.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Yogi, update
    >>> x = np.array([1.0, 2.0])
    >>> update(Yogi(0.1), x, [10.0, -1e3])
    >>> x.round(4)
    array([0.9, 2.1])

    References
    ----------
    M. Zaheer et al., "Adaptive Methods for Nonconvex Optimization", 2018.
    """

    eta: float = 0.01
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 0.001
    keeps = ("m", "v")
    real = ("v",)

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, η: float, β1: float, β2: float, b1: float, b2: float, ε: float
    ) -> Any:
        square = abs2(Δ)
        m, v = β1 * m + (1 - β1) * Δ, v - (1 - β2) * np.sign(v - square) * square
        return (η / b1) * m / (np.sqrt(v / b2) + ε), m, v


class SignDecay(Rule):
    r"""The gradient of an L1 penalty, added to the gradient.

    .. math:: Δ \leftarrow Δ + λ \operatorname{sign}(x)

    Parameters
    ----------
    wd : float, default 0.001
        Weight λ of the penalty ``λ Σ|x|``, at least 0.

    Notes
    -----
    A member of an `Optimiser`, before the rule that makes steps, as in Optimisers.jl. The sign of a complex
    number is ``z/|z|``.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Descent, Optimiser, SignDecay, update
    >>> x = np.array([1.0, -2.0, 0.0])
    >>> update(Optimiser(SignDecay(0.5), Descent(1.0)), x, np.zeros(3))
    >>> x
    array([ 0.5, -1.5,  0. ])

    References
    ----------
    R. Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996.
    """

    wd: float = 0.001

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.wd,)

    @staticmethod
    def formula(x: Any, Δ: Any, λ: float) -> Any:
        return Δ + λ * _sign(x)
