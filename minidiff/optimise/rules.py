"""The rules: each is its published formula, beside its settings and the arrays it keeps.

In the formulas x is the parameter and Δ its gradient; everything is elementwise; where a parameter is
complex, squares are ``|Δ|²``. A formula returns the step, which is subtracted, and the new values of
what it keeps. The numbers it takes come from ``coefficients``, once per step: among them b1 and b2, the
bias corrections 1 - β1ᵗ and 1 - β2ᵗ.
"""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

import math
from dataclasses import InitVar
from typing import Any

import numpy as np

from minidiff.checks import flag
from minidiff.optimise.rule import Rule, abs2
from minidiff.settings import Fraction

__all__ = [
    "ADAM",
    "ADAMW",
    "NADAM",
    "OADAM",
    "RADAM",
    "ADADelta",
    "ADAGrad",
    "AMSGrad",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adam",
    "AdamW",
    "Descent",
    "Momentum",
    "NAdam",
    "Nesterov",
    "OAdam",
    "RAdam",
    "RMSProp",
]


class Descent(Rule):
    r"""Gradient descent.

    .. math:: x \leftarrow x - η Δ

    Parameters
    ----------
    eta : float, default 0.1
        Learning rate η, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Descent, update
    >>> x = np.array([1.0, 2.0])
    >>> update(Descent(0.5), x, np.array([1.0, -1.0]))
    >>> x
    array([0.5, 2.5])

    References
    ----------
    A. Cauchy, "Méthode générale pour la résolution des systèmes d'équations simultanées", 1847.
    """

    eta: float = 0.1

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.eta,)

    @staticmethod
    def formula(x: Any, Δ: Any, η: Any) -> Any:
        return η * Δ


class Momentum(Rule):
    r"""Gradient descent with momentum: each step keeps a part of the one before.

    .. math:: v \leftarrow ρ v - η Δ, \qquad x \leftarrow x + v

    Parameters
    ----------
    eta : float, default 0.01
        Learning rate η, at least 0.
    rho : float, default 0.9
        Momentum ρ, in [0, 1).

    Notes
    -----
    PyTorch's SGD sums gradients and multiplies the sum by η: the same while η is constant. Here a change
    of η leaves the velocity that was gathered before as it is, as in Flux.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Momentum, update
    >>> opt, x = Momentum(0.1, 0.5), np.zeros(1)
    >>> update(opt, x, [1.0])
    >>> update(opt, x, [1.0])
    >>> x
    array([-0.25])

    References
    ----------
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """

    eta: float = 0.01
    rho: Fraction = 0.9
    keeps = ("v",)

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.eta, self.rho

    @staticmethod
    def formula(x: Any, Δ: Any, v: Any, η: Any, ρ: Any) -> Any:
        v = ρ * v - η * Δ
        return -v, v


class Nesterov(Rule):
    r"""Gradient descent with Nesterov's momentum, which looks a step ahead.

    .. math:: x \leftarrow x - (1 + ρ) η Δ + ρ^2 v, \qquad v \leftarrow ρ v - η Δ

    with the velocity from before this step in the first equation.

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    rho : float, default 0.9
        Nesterov momentum ρ, in [0, 1).

    Notes
    -----
    In Nesterov's own terms x here is the point ahead, where the gradient is taken. PyTorch's
    ``SGD(nesterov=True)`` takes the same steps while η is constant.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Nesterov, update
    >>> opt, x = Nesterov(0.1, 0.5), np.zeros(1)
    >>> update(opt, x, [1.0])
    >>> update(opt, x, [1.0])
    >>> x
    array([-0.325])

    References
    ----------
    Y. Nesterov, "A method for solving the convex programming problem with convergence rate O(1/k²)", 1983.
    Y. Bengio, N. Boulanger-Lewandowski and R. Pascanu, "Advances in Optimizing Recurrent Networks", 2012,
    arXiv:1212.0901, equation 7.
    """

    eta: float = 0.001
    rho: Fraction = 0.9
    keeps = ("v",)

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.eta, self.rho

    @staticmethod
    def formula(x: Any, Δ: Any, v: Any, η: Any, ρ: Any) -> Any:
        return (1 + ρ) * η * Δ - ρ**2 * v, ρ * v - η * Δ


class RMSProp(Rule):
    r"""Gradient descent divided by a running root mean square of the gradient.

    .. math:: a \leftarrow ρ a + (1 - ρ) Δ^2, \qquad x \leftarrow x - η \frac{Δ}{\sqrt{a} + ε}

    Centred, it divides by the standard deviation of the gradient:

    .. math:: m \leftarrow ρ m + (1 - ρ) Δ, \qquad x \leftarrow x - η \frac{Δ}{\sqrt{a - m^2} + ε}

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    rho : float, default 0.9
        Decay ρ of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0.
    centred : bool, default False
        Whether to divide by the standard deviation. It cannot be changed later, as both keep other arrays.

    Notes
    -----
    PyTorch calls ρ ``alpha`` and has 0.01 and 0.99 for the defaults. Of a gradient that stays the same the
    standard deviation goes to 0, and the centred steps grow until ε stops them.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import RMSProp, update
    >>> x = np.zeros(2)
    >>> update(RMSProp(0.1, 0.75), x, [0.001, -1000.0])
    >>> x.round(4)
    array([-0.2,  0.2])
    >>> opt, x = RMSProp(0.1, 0.5, centred=True), np.zeros(1)
    >>> update(opt, x, [4.0])
    >>> x.round(4)
    array([-0.2])

    References
    ----------
    T. Tieleman and G. Hinton, "Lecture 6.5: RMSProp", COURSERA: Neural Networks for Machine Learning, 2012.
    A. Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850, equations 38 to
    41, for the centred rule.
    """

    eta: float = 0.001
    rho: Fraction = 0.9
    epsilon: float = 1e-8
    centred: InitVar[bool] = False
    keeps = ("a",)
    real = ("a",)

    def __post_init__(self, centred: bool) -> None:
        # Only what is centred has attributes for it: checkpoints without them remain those of the others.
        if flag("centred", centred):
            vars(self).update(centred=True, keeps=("a", "m"), formula=_centred)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "centred":
            raise AttributeError(
                "a rule is centred, or not, from the first: make it so, RMSProp(centred=True)"
            )
        super().__setattr__(name, value)

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.eta, self.rho, self.epsilon

    @staticmethod
    def formula(x: Any, Δ: Any, a: Any, η: Any, ρ: Any, ε: Any) -> Any:
        a = ρ * a + (1 - ρ) * abs2(Δ)
        return η * Δ / (np.sqrt(a) + ε), a


def _centred(x: Any, Δ: Any, a: Any, m: Any, η: Any, ρ: Any, ε: Any) -> Any:
    a, m = ρ * a + (1 - ρ) * abs2(Δ), ρ * m + (1 - ρ) * Δ
    # Rounding may take the difference below 0.
    return η * Δ / (np.sqrt(np.maximum(a - abs2(m), 0)) + ε), a, m


class ADAGrad(Rule):
    r"""A rate for each element, which falls with all that its gradients have been.

    .. math:: a \leftarrow a + Δ^2, \qquad x \leftarrow x - η \frac{Δ}{\sqrt{a} + ε}

    Parameters
    ----------
    eta : float, default 0.1
        Learning rate η, at least 0.
    epsilon : float, default 1e-8
        ε, at least 0; also what the sum a begins with.

    Notes
    -----
    As in Flux the sum begins at ε. In the paper and in PyTorch it begins at 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAGrad, update
    >>> opt, x = ADAGrad(1.0), np.zeros(1)
    >>> update(opt, x, [2.0])
    >>> update(opt, x, [2.0])
    >>> x.round(4)
    array([-1.7071])

    References
    ----------
    J. Duchi, E. Hazan and Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", 2011.
    """

    eta: float = 0.1
    epsilon: float = 1e-8
    keeps = ("a",)
    real = ("a",)

    def initial(self, name: str) -> float:
        return self.epsilon

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.eta, self.epsilon

    @staticmethod
    def formula(x: Any, Δ: Any, a: Any, η: Any, ε: Any) -> Any:
        a = a + abs2(Δ)
        return η * Δ / (np.sqrt(a) + ε), a


class ADADelta(Rule):
    r"""Steps in proportion to the steps before them, so that there is no rate to choose.

    .. math::
        a &\leftarrow ρ a + (1 - ρ) Δ^2 \\
        s &= Δ \sqrt{d + ε} / \sqrt{a + ε}, \qquad x \leftarrow x - s \\
        d &\leftarrow ρ d + (1 - ρ) s^2

    Parameters
    ----------
    rho : float, default 0.9
        Decay ρ of both mean squares, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0. The first steps are of the size of its root.

    Notes
    -----
    PyTorch multiplies the step by a further learning rate, 1 by default, and has ε = 1e-6, as the paper has.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADADelta, update
    >>> x = np.zeros(2)
    >>> update(ADADelta(0.75, epsilon=0.01), x, [200.0, -2.0])
    >>> x.round(4)
    array([-0.2   ,  0.199])

    References
    ----------
    M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701.
    """

    rho: Fraction = 0.9
    epsilon: float = 1e-8
    keeps = ("a", "d")
    real = ("a", "d")

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.rho, self.epsilon

    @staticmethod
    def formula(x: Any, Δ: Any, a: Any, d: Any, ρ: Any, ε: Any) -> Any:
        a = ρ * a + (1 - ρ) * abs2(Δ)
        step = Δ * np.sqrt(d + ε) / np.sqrt(a + ε)
        return step, a, ρ * d + (1 - ρ) * abs2(step)


class _BiasCorrected:
    """What the rules with β1 and β2 share: the running products β1ᵗ and β2ᵗ, which the clock shows too.

    Kept as products rather than powers, they weigh an average right also when β has changed on the way.
    """

    eta: float
    beta: tuple[float, float]
    epsilon: float
    clock = (0, 1.0, 1.0)

    def tick(self, t: int, β1t: float, β2t: float) -> tuple[Any, ...]:
        β1, β2 = self.beta
        return t + 1, β1 * β1t, β2 * β2t

    def can_show(self, *clock: Any) -> bool:
        return all(0 <= βt < 1 for βt in clock[1:])

    def coefficients(self, t: int, β1t: float, β2t: float) -> tuple[float, ...]:
        β1, β2 = self.beta
        return self.eta, β1, β2, 1 - β1t, 1 - β2t, self.epsilon


def _moments(Δ: Any, m: Any, v: Any, β1: Any, β2: Any) -> tuple[Any, Any]:
    """Return the running averages of the gradient and of its square, with this gradient in them."""
    return β1 * m + (1 - β1) * Δ, β2 * v + (1 - β2) * abs2(Δ)


class ADAM(_BiasCorrected, Rule):
    r"""Adaptive moments: the running mean of the gradient over the running root mean square of it.

    .. math::
        m &\leftarrow β_1 m + (1 - β_1) Δ, \qquad v \leftarrow β_2 v + (1 - β_2) Δ^2 \\
        x &\leftarrow x - η \frac{\hat m}{\sqrt{\hat v} + ε}, \qquad
        \hat m = \frac{m}{1 - β_1^t}, \quad \hat v = \frac{v}{1 - β_2^t}

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    The paper, Flux and PyTorch agree.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, update
    >>> x = np.array([1.0, 2.0])
    >>> update(ADAM(0.1), x, [1e-3, -1e3])
    >>> x.round(4)
    array([0.9, 2.1])

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 1e-8
    keeps = ("m", "v")
    real = ("v",)

    @staticmethod
    def formula(x: Any, Δ: Any, m: Any, v: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any) -> Any:
        m, v = _moments(Δ, m, v, β1, β2)
        return (η / b1) * m / (np.sqrt(v / b2) + ε), m, v


class RADAM(_BiasCorrected, Rule):
    r"""Rectified Adam: without the root mean square as long as too few steps make it unreliable.

    With m, v, m̂ and v̂ as in `ADAM` and

    .. math::
        ρ_∞ = \frac{2}{1 - β_2} - 1, \quad ρ = ρ_∞ - \frac{2 t β_2^t}{1 - β_2^t}, \quad
        r = \sqrt{\frac{(ρ - 4)(ρ - 2) ρ_∞}{(ρ_∞ - 4)(ρ_∞ - 2) ρ}}

    .. math:: x \leftarrow x - η \hat m · \begin{cases}
        r / (\sqrt{\hat v} + ε) & ρ > 4 \\ 1 & \text{otherwise} \end{cases}

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    The threshold for ρ is 4 in the paper and in Flux, 5 in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import RADAM, update
    >>> x = np.zeros(2)
    >>> update(RADAM(0.1), x, [0.5, -2.0])
    >>> x
    array([-0.05,  0.2 ])

    References
    ----------
    L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao and J. Han, "On the Variance of the Adaptive Learning
    Rate and Beyond", 2019, arXiv:1908.03265.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 1e-8
    keeps = ("m", "v")
    real = ("v",)

    def coefficients(self, t: int, β1t: float, β2t: float) -> tuple[float, ...]:
        ρ_inf = 2 / (1 - self.beta[1]) - 1
        ρ = ρ_inf - 2 * t * β2t / (1 - β2t)
        rectified = ρ > 4
        r = math.sqrt((ρ - 4) * (ρ - 2) * ρ_inf / ((ρ_inf - 4) * (ρ_inf - 2) * ρ)) if rectified else 1.0
        return *super().coefficients(t, β1t, β2t), rectified, r

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any, rectified: Any,
        r: Any,
    ) -> Any:  # fmt: skip
        m, v = _moments(Δ, m, v, β1, β2)
        return (η / b1) * m * np.where(rectified, r / (np.sqrt(v / b2) + ε), 1.0), m, v


class AdaMax(_BiasCorrected, Rule):
    r"""Adam with the largest of the past gradients, decayed, in place of their root mean square.

    .. math::
        m &\leftarrow β_1 m + (1 - β_1) Δ, \qquad u \leftarrow \max(β_2 u, |Δ|) \\
        x &\leftarrow x - \frac{η}{1 - β_1^t} \frac{m}{u + ε}

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the maximum, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    The paper has no ε. PyTorch takes the maximum of β2·u and ``|Δ| + ε``.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import AdaMax, update
    >>> opt, x = AdaMax(0.1, (0.5, 0.5)), np.zeros(1)
    >>> update(opt, x, [4.0])
    >>> update(opt, x, [0.0])
    >>> x.round(4)
    array([-0.1667])

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980, section 7.1.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 1e-8
    keeps = ("m", "u")
    real = ("u",)

    @staticmethod
    def formula(x: Any, Δ: Any, m: Any, u: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any) -> Any:
        m = β1 * m + (1 - β1) * Δ
        u = np.maximum(β2 * u, np.abs(Δ))
        return (η / b1) * m / (u + ε), m, u


class AMSGrad(_BiasCorrected, Rule):
    r"""Adam with the largest mean square so far, so that no element's rate rises again.

    .. math::
        m &\leftarrow β_1 m + (1 - β_1) Δ, \qquad v \leftarrow β_2 v + (1 - β_2) Δ^2 \\
        w &\leftarrow \max(w, v), \qquad x \leftarrow x - η \frac{m}{\sqrt{w} + ε}

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0; also what m, v and w begin with.

    Notes
    -----
    As in the paper and in Flux the averages are not corrected for their bias; they begin at ε, as in Flux.
    PyTorch's ``Adam(amsgrad=True)`` corrects them.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import AMSGrad, update
    >>> x = np.zeros(2)
    >>> update(AMSGrad(0.1, (0.5, 0.75)), x, [1.0, -100.0])
    >>> x.round(4)
    array([-0.1,  0.1])

    References
    ----------
    S. J. Reddi, S. Kale and S. Kumar, "On the Convergence of Adam and Beyond", 2018, arXiv:1904.09237.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 1e-8
    keeps = ("m", "v", "w")
    real = ("v", "w")

    def initial(self, name: str) -> float:
        return self.epsilon

    def coefficients(self, t: int, β1t: float, β2t: float) -> tuple[float, ...]:
        return self.eta, *self.beta, self.epsilon

    @staticmethod
    def formula(x: Any, Δ: Any, m: Any, v: Any, w: Any, η: Any, β1: Any, β2: Any, ε: Any) -> Any:
        m, v = _moments(Δ, m, v, β1, β2)
        w = np.maximum(w, v)
        return η * m / (np.sqrt(w) + ε), m, v, w


class NADAM(_BiasCorrected, Rule):
    r"""Adam with Nesterov's momentum.

    With m, v and v̂ as in `ADAM`:

    .. math:: x \leftarrow x - \frac{η}{\sqrt{β_2 \hat v} + ε}
        \left( \frac{β_1 m}{1 - β_1^{t+1}} + \frac{(1 - β_1) Δ}{1 - β_1^t} \right)

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    β1 is constant here, as in Flux; the paper and PyTorch let it rise from step to step. The factor β2
    within the root is Flux's.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import NADAM, update
    >>> x = np.zeros(2)
    >>> update(NADAM(0.3, (0.5, 0.25)), x, [1e-3, -1e3])
    >>> x.round(4)
    array([-0.8,  0.8])

    References
    ----------
    T. Dozat, "Incorporating Nesterov Momentum into Adam", 2016, ICLR workshop.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 1e-8
    keeps = ("m", "v")
    real = ("v",)

    def coefficients(self, t: int, β1t: float, β2t: float) -> tuple[float, ...]:
        return *super().coefficients(t, β1t, β2t), 1 - β1t * self.beta[0]

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any, b1_next: Any
    ) -> Any:
        m, v = _moments(Δ, m, v, β1, β2)
        m̂ = (β1 / b1_next) * m + ((1 - β1) / b1) * Δ
        return η * m̂ / (np.sqrt((β2 / b2) * v) + ε), m, v


class ADAMW(_BiasCorrected, Rule):
    r"""Adam with weight decay that does not pass through its averages.

    With m̂ and v̂ as in `ADAM`:

    .. math:: x \leftarrow x - η \left( \frac{\hat m}{\sqrt{\hat v} + ε} + λ x \right)

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    decay : float, default 0
        Weight decay λ, at least 0. It is multiplied by η.
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    λ times η as in Flux and in PyTorch (whose default is λ = 0.01); in the paper the two are independent,
    and a schedule multiplies both.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAMW, update
    >>> x = np.array([1.0, 2.0])
    >>> update(ADAMW(0.1, decay=0.5), x, [1.0, 0.0])
    >>> x.round(4)
    array([0.85, 1.9 ])

    References
    ----------
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    decay: float = 0.0
    epsilon: float = 1e-8
    keeps = ("m", "v")
    real = ("v",)

    def coefficients(self, t: int, β1t: float, β2t: float) -> tuple[float, ...]:
        return *super().coefficients(t, β1t, β2t), self.decay

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any, λ: Any
    ) -> Any:
        m, v = _moments(Δ, m, v, β1, β2)
        return (η / b1) * m / (np.sqrt(v / b2) + ε) + η * λ * x, m, v


class OADAM(_BiasCorrected, Rule):
    r"""Optimistic Adam, for adversarial training: takes the change of Adam's step once more in advance.

    With m̂ and v̂ as in `ADAM`:

    .. math:: s \leftarrow η \frac{\hat m}{\sqrt{\hat v} + ε}, \qquad x \leftarrow x - (2 s - s_{old})

    Parameters
    ----------
    eta : float, default 0.0001
        Learning rate η, at least 0.
    beta : pair of float, default (0.5, 0.9)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    η is 0.0001 on the page and 0.001 in Flux's code.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import OADAM, update
    >>> opt, x = OADAM(0.1), np.zeros(1)
    >>> update(opt, x, [1.0])
    >>> update(opt, x, [1.0])
    >>> x.round(4)
    array([-0.3])

    References
    ----------
    C. Daskalakis, A. Ilyas, V. Syrgkanis and H. Zeng, "Training GANs with Optimism", 2017, arXiv:1711.00141.
    """

    eta: float = 0.0001
    beta: tuple[Fraction, Fraction] = (0.5, 0.9)
    epsilon: float = 1e-8
    keeps = ("m", "v", "s")
    real = ("v",)

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, s_old: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any
    ) -> Any:
        m, v = _moments(Δ, m, v, β1, β2)
        s = (η / b1) * m / (np.sqrt(v / b2) + ε)
        return 2 * s - s_old, m, v, s


class AdaBelief(_BiasCorrected, Rule):
    r"""Adam with the gradient's variance about its running mean in place of its mean square.

    .. math::
        m &\leftarrow β_1 m + (1 - β_1) Δ, \qquad s \leftarrow β_2 s + (1 - β_2) (Δ - m)^2 + ε \\
        x &\leftarrow x - η \frac{\hat m}{\sqrt{\hat s} + ε}, \qquad
        \hat m = \frac{m}{1 - β_1^t}, \quad \hat s = \frac{s}{1 - β_2^t}

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the variance, in [0, 1).
    epsilon : float, default 1e-16
        ε, at least 0, inside and outside the root.

    Notes
    -----
    The paper's, as in optax and in Flux since 0.12.10; before, Flux left out the bias correction.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import AdaBelief, update
    >>> x = np.zeros(2)
    >>> update(AdaBelief(0.1, (0.5, 0.75)), x, [1.0, -100.0])
    >>> x.round(4)
    array([-0.2,  0.2])

    References
    ----------
    J. Zhuang, T. Tang, Y. Ding, S. Tatikonda, N. Dvornek, X. Papademetris and J. S. Duncan, "AdaBelief
    Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", 2020, arXiv:2010.07468.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: float = 1e-16
    keeps = ("m", "s")
    real = ("s",)

    @staticmethod
    def formula(x: Any, Δ: Any, m: Any, s: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any) -> Any:
        m = β1 * m + (1 - β1) * Δ
        s = β2 * s + (1 - β2) * abs2(Δ - m) + ε
        return (η / b1) * m / (np.sqrt(s / b2) + ε), m, s


# Their later names.
Adam = ADAM
RAdam = RADAM
AdaGrad = ADAGrad
AdaDelta = ADADelta
NAdam = NADAM
AdamW = ADAMW
OAdam = OADAM
