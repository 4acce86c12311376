"""Rules beyond those of Flux's page, written as they are there: a formula each."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

import math
from dataclasses import field
from functools import partial
from typing import Annotated, Any

import numpy as np

from minidiff.checks import described, number, several
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.clips import norm_of
from minidiff.optimise.grouped import _optimiser
from minidiff.optimise.rule import Rule, abs2
from minidiff.optimise.rules import ADAMW, _BiasCorrected
from minidiff.optimise.step import step_of
from minidiff.settings import Fraction
from minidiff.typing import Array

__all__ = ["LAMB", "Adafactor", "Adan", "Centralise", "Lion", "Muon", "Rprop", "SignDecay", "Yogi"]


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
    def formula(x: Any, Δ: Any, m: Any, η: Any, β1: Any, β2: Any) -> Any:
        return η * _sign(β1 * m + (1 - β1) * Δ), β2 * m + (1 - β2) * Δ


def _rising(name: str, x: Any) -> tuple[float, float]:
    """Check that an argument is two numbers of at least 0, the lesser one first."""
    at_least_0 = partial(number, within="[0, inf)")
    least, greatest = several(name, x, (at_least_0, at_least_0))
    if least > greatest:
        raise ValueError(f"{name} must be the lesser number, then the greater, got {described(x)}")
    return least, greatest


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
        By what a step length is multiplied: b after a change of sign, a, at least as much, without one.
    limits : pair of float, default (1e-6, 50.0)
        The shortest step length s, at least 0, and the longest l, at least s.

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
    factors: Annotated[tuple[float, float], _rising] = (0.5, 1.2)
    limits: Annotated[tuple[float, float], _rising] = (1e-6, 50.0)
    keeps = ("g", "h")
    real = ("h",)

    def initial(self, name: str) -> float:
        return self.eta if name == "h" else 0.0

    def coefficients(self, t: int) -> tuple[float, ...]:
        return *self.factors, *self.limits

    @staticmethod
    def formula(x: Any, Δ: Any, g: Any, h: Any, b: Any, a: Any, s: Any, l: Any) -> Any:  # noqa: E741
        one, other = _sign(g), _sign(Δ)
        same = one * other if g.dtype.kind != "c" else one.real * other.real + one.imag * other.imag
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
    def formula(x: Any, Δ: Any, m: Any, v: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any) -> Any:
        square = abs2(Δ)
        m, v = β1 * m + (1 - β1) * Δ, v - (1 - β2) * np.sign(v - square) * square
        return (η / b1) * m / (np.sqrt(v / b2) + ε), m, v


class Adan(Rule):
    r"""Adam that looks ahead, by the change from one gradient to the next.

    .. math::
        d &\leftarrow Δ - Δ_{old}, \qquad m \leftarrow β_1 m + (1 - β_1) Δ, \qquad
        v \leftarrow β_2 v + (1 - β_2) d \\
        n &\leftarrow β_3 n + (1 - β_3) (Δ + β_2 d)^2 \\
        x &\leftarrow \left( x - η \frac{\hat m + β_2 \hat v}{\sqrt{\hat n} + ε} \right) / (1 + λ η)

    with the bias corrections of `ADAM`: a hat divides by :math:`1 - β^t`. At the first step d is 0.

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0.
    beta : three floats, default (0.98, 0.92, 0.99)
        Decays of the mean β1, of the mean change β2 and of the mean square β3, in [0, 1).
    decay : float, default 0
        Weight decay λ, at least 0.
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    As in the authors' code; the paper's β are 1 minus these. In optax 0.2 :math:`1 - β_2` stands in the place
    of :math:`β_2` before d and v̂, and the decay is that of `ADAMW`.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Adan, update
    >>> x = np.array([1.0, 2.0])
    >>> update(Adan(0.1), x, [1e-3, -1e3])
    >>> x.round(4)
    array([0.9, 2.1])

    References
    ----------
    X. Xie, P. Zhou, H. Li, Z. Lin and S. Yan, "Adan: Adaptive Nesterov Momentum Algorithm for Faster
    Optimizing Deep Models", 2022, arXiv:2208.06677.
    """

    eta: float = 0.001
    beta: tuple[Fraction, Fraction, Fraction] = (0.98, 0.92, 0.99)
    decay: float = 0.0
    epsilon: float = 1e-8
    keeps = ("m", "v", "n", "g")
    real = ("n",)
    clock = (0, 1.0, 1.0, 1.0)
    can_show = _BiasCorrected.can_show

    def tick(self, t: int, *βts: float) -> tuple[Any, ...]:
        return t + 1, *(β * βt for β, βt in zip(self.beta, βts, strict=True))

    def coefficients(self, t: int, *βts: float) -> tuple[float, ...]:
        return self.eta, *self.beta, *(1 - βt for βt in βts), self.epsilon, self.decay, float(t > 1)

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, n: Any, g: Any, η: Any, β1: Any, β2: Any, β3: Any, b1: Any, b2: Any,
        b3: Any, ε: Any, λ: Any, is_later: Any,
    ) -> Any:  # fmt: skip
        d = is_later * (Δ - g)
        m, v = β1 * m + (1 - β1) * Δ, β2 * v + (1 - β2) * d
        n = β3 * n + (1 - β3) * abs2(Δ + β2 * d)
        u = (m / b1 + (β2 / b2) * v) / (np.sqrt(n / b3) + ε)
        return (η / (1 + λ * η)) * (u + λ * x), m, v, n, 1 * Δ


class LAMB(ADAMW):
    r"""Adam with steps in proportion to the parameter's norm, for large batches.

    With m̂ and v̂ as in `ADAM`, and norms over the whole parameter:

    .. math::
        u = \frac{\hat m}{\sqrt{\hat v} + ε} + λ x, \qquad x \leftarrow x - η \frac{‖x‖}{‖u‖} u

    Where one of the norms is 0 the step is η u.

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0: the relative length of a step.
    beta : pair of float, default (0.9, 0.999)
        Decays β1 of the mean and β2 of the mean square, in [0, 1).
    decay : float, default 0
        Weight decay λ, at least 0.
    epsilon : float, default 1e-6
        ε, at least 0.

    Notes
    -----
    As in optax, and in the paper with φ the identity.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import LAMB, update
    >>> x = np.array([3.0, 4.0])
    >>> update(LAMB(0.1, epsilon=0.0), x, [1e-3, -1e3])
    >>> x.round(4)
    array([2.6464, 4.3536])

    References
    ----------
    Y. You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2019,
    arXiv:1904.00962.
    """

    epsilon: float = 1e-6
    elementwise = False

    @staticmethod
    def formula(
        x: Any, Δ: Any, m: Any, v: Any, η: Any, β1: Any, β2: Any, b1: Any, b2: Any, ε: Any, λ: Any
    ) -> Any:
        u, m, v = ADAMW.formula(x, Δ, m, v, 1.0, β1, β2, b1, b2, ε, λ)
        of_x, of_u = norm_of(x), norm_of(u)
        return η * (of_x / of_u if of_x and of_u else 1.0) * u, m, v


class Adafactor(Rule):
    r"""Adaptive steps with little memory: of a matrix only mean squares by row and by column are kept.

    .. math::
        r &\leftarrow β r + (1 - β) \textstyle\sum_{columns} (Δ^2 + ε_1), \qquad
        c \leftarrow β c + (1 - β) \textstyle\sum_{rows} (Δ^2 + ε_1), \qquad β = 1 - t^{-\text{power}} \\
        v &= r c^T / \textstyle\sum r, \qquad u = Δ / \sqrt{v} \\
        x &\leftarrow x - \min(η, 1 / \sqrt t) \max(ε_2, \text{rms}(x)) \,
        \frac{u}{\max(1, \text{rms}(u) / \text{thresh})}

    Of a parameter with more axes the last two are taken for rows and columns. One with fewer is a single
    column, for which v is r itself.

    Parameters
    ----------
    eta : float, default 0.01
        The highest learning rate η, at least 0, in proportion to the parameter's root mean square.
    power : float, default 0.8
        How fast β rises to 1, at least 0.
    thresh : float, default 1
        The largest root mean square of u that passes, above 0.
    epsilon : pair of float, default (1e-30, 0.001)
        ε1, and the least root mean square ε2 that a parameter counts as, at least 0.

    Notes
    -----
    As in the paper. PyTorch has no ε1 in the averages but a least v. optax keeps v itself where an axis is
    shorter than 128. There is no momentum; weight decay is another member of an `Optimiser`, after this one.
    A gradient whose squares would overflow counts as a shorter one of the same direction.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Adafactor, update
    >>> x = np.array([[1.0, 1.0], [1.0, -1.0]])
    >>> update(Adafactor(0.1), x, [[1.0, -2.0], [10.0, 20.0]])
    >>> x
    array([[ 0.9,  1.1],
           [ 0.9, -1.1]])

    References
    ----------
    N. Shazeer and M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018,
    arXiv:1804.04235, algorithms 4 and 5.
    """

    eta: float = 0.01
    power: float = 0.8
    thresh: Annotated[float, partial(number, within="(0, inf)")] = 1.0
    epsilon: tuple[float, float] = (1e-30, 1e-3)
    keeps = ("r", "c")
    real = ("r", "c")
    elementwise = False

    def begin(self, x: Array) -> dict[str, Any]:
        kept = super().begin(_matrix(x))
        return kept | {"r": kept["r"].sum(-1), "c": kept["c"].sum(-2)}

    def coefficients(self, t: int) -> tuple[float, ...]:
        return min(self.eta, t**-0.5), 1 - t**-self.power, self.thresh, *self.epsilon

    @staticmethod
    def formula(x: Any, Δ: Any, r: Any, c: Any, η: Any, β: Any, thresh: Any, ε1: Any, ε2: Any) -> Any:
        most = math.sqrt(np.finfo(Δ.dtype).max) / 2
        if norm_of(Δ) > most:  # its squares would overflow: it counts as a shorter one of the same direction
            Δ = Δ / np.abs(Δ).max() * (most / math.sqrt(Δ.size))
        square = abs2(_matrix(Δ)) + ε1
        r, c = β * r + (1 - β) * square.sum(-1), β * c + (1 - β) * square.sum(-2)
        # √v = √(r c / Σ r), of roots one by one: a quotient of the smallest and the largest would be 0.
        root_v = (np.sqrt(r) / np.sqrt(r.sum(-1, keepdims=True)))[..., None] * np.sqrt(c)[..., None, :]
        u = Δ / root_v.reshape(Δ.shape)
        root = math.sqrt(max(x.size, 1))  # a norm divided by it is a root mean square
        return η * max(ε2, norm_of(x) / root) / max(1.0, norm_of(u) / root / thresh) * u, r, c


def _matrix(z: Any) -> Any:
    return z if z.ndim > 1 else z.reshape(-1, 1)


class Muon(Rule):
    r"""Momentum whose steps turn and stretch alike in all directions, for matrices.

    .. math::
        v \leftarrow ρ v + Δ, \qquad
        x \leftarrow x - η \left( \sqrt{\max(1, m / n)} \operatorname{orth}(ρ v + Δ) + λ x \right)

    for a matrix of m rows and n columns. The function orth brings all singular values near to 1, by five
    steps of a Newton-Schulz iteration. Of a parameter with more axes the first is taken for the rows, and all
    others together for the columns. One with fewer takes the steps of `rest`.

    Parameters
    ----------
    eta : float, default 0.02
        Learning rate η of matrices, at least 0.
    rho : float, default 0.95
        Momentum ρ, in [0, 1).
    decay : float, default 0.01
        Weight decay λ, at least 0. It is multiplied by η.
    rest : AbstractOptimiser, default ADAMW(0.0003, (0.9, 0.95), 0.01)
        Takes the steps of all other parameters.

    Notes
    -----
    The defaults are those of Optimisers.jl; PyTorch has 0.001 and 0.1 for η and λ. Rows are outputs, as in
    ``W @ x``. A schedule of ``eta`` leaves ``rest.eta`` as it is. With
    ``Grouped((hidden, Muon()), rest=ADAMW(3e-4))`` it moves both rates, and the first and the last layer can
    have another rule, as the authors advise.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Muon, update
    >>> x = np.zeros((2, 2))
    >>> update(Muon(0.1), x, [[0.0, 2.0], [-30.0, 0.0]])
    >>> x.round(1)
    array([[ 0. , -0.1],
           [ 0.1,  0. ]])

    References
    ----------
    K. Jordan, Y. Jin, V. Boza, J. You, F. Cesista, L. Newhouse and J. Bernstein, "Muon: An optimizer for
    hidden layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon/.
    """

    eta: float = 0.02
    rho: Fraction = 0.95
    decay: float = 0.01
    rest: Annotated[Any, _optimiser] = field(default_factory=lambda: ADAMW(0.0003, (0.9, 0.95), 0.01))
    keeps = ("v",)
    elementwise = False
    by_parameter = True

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.eta, self.rho, self.decay

    def stages(self, x: Any = None) -> list[AbstractOptimiser]:
        is_own = x is None or x.ndim > 1 or type(self).apply is not Muon.apply
        return [self] if is_own else self.rest.stages(x)

    def apply(self, x: Any, Δ: Array) -> Array:
        return super().apply(x, Δ) if x.ndim > 1 else step_of(self.rest.stages(x), x, Δ)

    @staticmethod
    def formula(x: Any, Δ: Any, v: Any, η: Any, ρ: Any, λ: Any) -> Any:
        v = ρ * v + Δ
        scale = math.sqrt(max(1.0, len(x) ** 2 / max(x.size, 1)))
        return η * (scale * _orthogonalised(ρ * v + Δ) + λ * x), v


Muon.has_formula = True  # its `apply` does no more than `stages` says


def _orthogonalised(z: Array) -> Array:
    """Bring the singular values of a matrix near to 1, by a polynomial that is steep at 0."""
    x = z.reshape(len(z), math.prod(z.shape[1:]))
    is_tall = x.shape[0] > x.shape[1]
    x = (x.conj().T if is_tall else x) / (norm_of(x) or 1.0)
    for _ in range(5):
        square = x @ x.conj().T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.conj().T if is_tall else x).reshape(z.shape)


class Centralise(Rule):
    r"""Gradient centralisation: takes from each output's gradient its mean.

    .. math:: Δ_i \leftarrow Δ_i - \operatorname{mean}(Δ_i), \quad i \text{ along the axis of the outputs}

    A gradient with fewer than two axes passes as it is.

    Parameters
    ----------
    axis : int, default 0
        The axis of the outputs: 0 for ``W @ x``, -1 for ``x @ W``.

    Notes
    -----
    A member of an `Optimiser`, before the rule that makes steps. optax: ``centralize``, for the first axis.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, Centralise, Optimiser, apply
    >>> apply(Centralise(), np.zeros((2, 2)), [[1.0, 3.0], [5.0, 5.0]])
    array([[-1.,  1.],
           [ 0.,  0.]])
    >>> opt = Optimiser(Centralise(), ADAM())

    References
    ----------
    H. Yong, J. Huang, X. Hua and L. Zhang, "Gradient Centralization: A New Optimization Technique for Deep
    Neural Networks", 2020, arXiv:2004.01461.
    """

    axis: int = 0
    elementwise = False

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.axis,)

    @staticmethod
    def formula(x: Any, Δ: Any, axis: Any) -> Any:
        if Δ.ndim < 2 or not Δ.size:
            return Δ
        if not -Δ.ndim <= axis < Δ.ndim:
            raise ValueError(f"Centralise: axis {axis} is out of bounds for a gradient of shape {Δ.shape}")
        others = tuple(i for i in range(Δ.ndim) if i != axis % Δ.ndim)
        return Δ - Δ.mean(others, keepdims=True)


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
    def formula(x: Any, Δ: Any, λ: Any) -> Any:
        return Δ + λ * _sign(x)
