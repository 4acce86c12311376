"""Parameters elsewhere for a while: at averages of their steps, or at the worst point nearby."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from minidiff.checks import a_count, described, instance, number, warn
from minidiff.gradient import gradient
from minidiff.grads import Grads
from minidiff.optimise.memory import Memory, arrays_or_none
from minidiff.optimise.rule import Rule, abs2, widened
from minidiff.params import Param, Params, assign
from minidiff.settings import Fraction
from minidiff.typing import Array

__all__ = ["Average", "ScheduleFreeADAMW", "sharp_gradient"]


@contextmanager
def exchanged(ps: Params, values: Iterable[Array]) -> Iterator[Params]:
    """Give parameters other values within a ``with`` block, and their own back after it.

    Parameters
    ----------
    ps : Params
        The parameters.
    values : iterable of ndarray
        One for each, of its shape.

    Warns
    -----
    UserWarning
        If the block has changed them, which is lost.
    """
    these, own = Params(ps), [p.value.copy() for p in ps]  # the block may change the set
    try:
        try:
            assign(these, values)
            others = [p.value.copy() for p in these]
            yield ps
            if any(p.value.tobytes() != x.tobytes() for p, x in zip(these, others, strict=True)):
                warn(
                    "parameters have changed while they had other values: their own come back, and the "
                    "change is lost. Train outside of the with block."
                )
        finally:
            assign(these, own)
    finally:  # once more: an interrupt may cut the first one short
        assign(these, own)


class Average(Memory):
    r"""Follows parameters, and keeps an average of where they have been, which often is the better model.

    .. math:: \bar x \leftarrow \text{decay} \cdot \bar x + (1 - \text{decay}) \cdot x, \quad
              \text{or the mean of all } x \text{ without a decay}

    It starts with the parameters as they are at the first call. Half precision is averaged in single.

    Parameters
    ----------
    ps : Params
        The parameters.
    decay : float or None, default 0.999
        In [0, 1); None for the plain mean.

    Attributes
    ----------
    values : list of ndarray, or None
        The averages, in the order of the parameters; None before the first call.
    count : int
        How many calls there have been.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Average, Descent
    >>> a = param(0.0)
    >>> average = Average(params(a), decay=0.5)
    >>> loss = lambda x: (a - x) ** 2
    >>> losses = train(loss, params(a), [3.0, -1.0] * 2, Descent(0.5), cb=average)
    >>> with average.swapped():
    ...     print(a)
    0.5
    >>> print(a)
    -1.0

    The mean over the last epochs only:

    >>> average = Average(params(a), decay=None)
    >>> def late(progress):
    ...     if progress.epoch > 75:
    ...         average()

    References
    ----------
    B. T. Polyak and A. B. Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. PyTorch:
    ``swa_utils.AveragedModel``; optax: ``incremental_update``.
    """

    _memory = {"count": a_count, "values": arrays_or_none}  # noqa: RUF012

    def __init__(self, ps: Params | Iterable[Param], decay: float | None = 0.999) -> None:
        self.ps: Params = Params(ps)
        self.decay = None if decay is None else number("decay", decay, within="[0, 1)")
        self.reset()

    def reset(self) -> None:
        """Start over with the next call."""
        self.count = 0
        self.values: list[Array] | None = None

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise an error if there are averages of no calls, or none of some."""
        if (state["values"] is None) != (state["count"] == 0):
            raise ValueError(f"state has no values, or no count of them: {described(state)}")

    def __call__(self) -> None:
        """Take the parameters as they are into the average."""
        arrays = [widened(p.value) for p in self.ps]
        if self.values is None:
            new = [np.array(x) for x in arrays]
        else:
            weight = 1 / (self.count + 1) if self.decay is None else 1 - self.decay
            pairs = zip(self.values, arrays, strict=True)
            new = [np.asarray(mean + weight * (x - mean)) for mean, x in pairs]
        vars(self).update(count=self.count + 1, values=new)  # both at once, also if an interrupt comes

    def swapped(self) -> AbstractContextManager[Params]:
        """Give the parameters their averages within a ``with`` block, and their own values back after it."""
        if self.values is None:
            raise ValueError("there is no average yet: call it after each step, train(…, cb=average)")
        return exchanged(self.ps, self.values)


class ScheduleFreeADAMW(Rule):
    r"""Adam without a schedule: gradients are taken near an average of the steps, which is the result.

    .. math::
        v &\leftarrow β_2 v + (1 - β_2) Δ^2, \qquad
        z \leftarrow z - η \left( \frac{Δ}{\sqrt{\hat v} + ε} + λ x \right) \\
        a &\leftarrow (1 - c) a + c z, \quad c = η^2 / \textstyle\sum η^2, \qquad
        x \leftarrow (1 - β_1) z + β_1 a

    with v̂ as in `ADAM`; z and a begin where the parameter x does. Train with x, and evaluate at a, within a
    block of `swapped`. The rate stays, after a warm-up: ``Scheduler(opt, eta=…)``.

    Parameters
    ----------
    eta : float, default 0.0025
        Learning rate η, at least 0.
    beta : pair of float, default (0.9, 0.999)
        The place β1 of x between z and the average a, and the decay β2 of the mean square, in [0, 1).
    decay : float, default 0
        Weight decay λ, at least 0. It is multiplied by η.
    epsilon : float, default 1e-8
        ε, at least 0.

    Notes
    -----
    The names a, x and z are the paper's x, y and z. The authors' code and optax have the largest η so far in
    c, which is the same while no rate falls. They do not keep a, and compute it from x and z.

    Every step computes x from z and a. What else changes the parameter between steps has no lasting effect:
    parameters that are loaded without the optimiser, a projection, `Lookahead` around it, a later member of a
    composition. ``reset(opt)`` begins anew from where the parameters are.

    Examples
    --------
    >>> from minidiff import gradient, param, params
    >>> from minidiff.optimise import ScheduleFreeADAMW, update
    >>> p = param(1.0)
    >>> opt, loss = ScheduleFreeADAMW(0.5), lambda: (p - 3) ** 2
    >>> for _ in range(50):
    ...     update(opt, params(p), gradient(loss, params(p)))
    >>> with opt.swapped():
    ...     print(f"{p:.2f}")
    3.00

    References
    ----------
    A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled and A. Cutkosky, "The Road Less Scheduled", 2024,
    arXiv:2405.15682, algorithm 1.
    """

    eta: float = 0.0025
    beta: tuple[Fraction, Fraction] = (0.9, 0.999)
    decay: float = 0.0
    epsilon: float = 1e-8
    keeps = ("v", "z", "a")
    real = ("v",)
    clock = (0, 1.0, 0.0)

    def tick(self, t: int, β2t: float, total: float) -> tuple[Any, ...]:
        return t + 1, self.beta[1] * β2t, total + self.eta**2

    def can_show(self, t: int, β2t: float, total: float) -> bool:
        return 0 <= β2t < 1 and total >= 0

    def coefficients(self, t: int, β2t: float, total: float) -> tuple[float, ...]:
        return self.eta, *self.beta, 1 - β2t, self.epsilon, self.decay, self.eta**2 / (total or 1.0)

    def begin(self, x: Array) -> dict[str, Any]:
        return super().begin(x) | {name: np.array(widened(x)) for name in ("z", "a")}

    @staticmethod
    def formula(
        x: Any, Δ: Any, v: Any, z: Any, a: Any, η: Any, β1: Any, β2: Any, b2: Any, ε: Any, λ: Any, c: Any
    ) -> Any:
        v = β2 * v + (1 - β2) * abs2(Δ)
        z = z - η * (Δ / (np.sqrt(v / b2) + ε) + λ * x)
        a = (1 - c) * a + c * z
        return x - ((1 - β1) * z + β1 * a), v, z, a

    def swapped(self) -> AbstractContextManager[Params]:
        """Give all parameters their averages within a ``with`` block, and their own values back after it."""
        for p in self.state:
            advice = ": train W = param(x) in its place, or take its average, opt.state[x]['a']"
            instance("what swapped() sets", p, Param, "a parameter", advice)
        return exchanged(Params(list(self.state)), [kept["a"] for kept in self.state.values()])


def sharp_gradient(loss: Callable[[], Any], ps: Params | Iterable[Param], rho: float = 0.05) -> Grads:
    r"""Give the gradient at the worst point nearby, for sharpness-aware minimisation (SAM).

    .. math:: ∇ L \left( x + ρ \frac{∇L(x)}{‖∇L(x)‖} \right)

    with the norm over all parameters together. They are as before when it returns, also by an exception.

    Parameters
    ----------
    loss : function
        The loss, without arguments. It is called twice, and should compute the same both times.
    ps : Params
        The parameters.
    rho : float, default 0.05
        How far away the worst point is, at least 0.

    Returns
    -------
    Grads
        The gradients there; those at the parameters themselves, if these are all 0 or not finite.

    Examples
    --------
    >>> from minidiff import param, params
    >>> from minidiff.optimise import Descent, sharp_gradient, update
    >>> a = param(3.0)
    >>> sharp_gradient(lambda: a**2, params(a), rho=0.5)[a]
    array(7.)
    >>> a
    param(3.)
    >>> update(Descent(0.1), params(a), sharp_gradient(lambda: a**2, params(a)))

    References
    ----------
    P. Foret, A. Kleiner, H. Mobahi and B. Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", 2020, arXiv:2010.01412. optax: ``contrib.sam``.
    """
    ps, rho = Params(ps), number("rho", rho, within="[0, inf)")
    grads: Grads = gradient(loss, ps)
    if 0 < (norm := grads.norm()) < math.inf:
        away = [p.value if g is None else p.value + rho * (widened(g) / norm) for p, g in grads.items()]
        with exchanged(ps, away):
            grads = gradient(loss, ps)
    return grads
