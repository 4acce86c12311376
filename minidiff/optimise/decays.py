"""Decays of the learning rate and of the weights, to be composed with rules."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

import threading
from typing import Any

from minidiff.optimise.rule import Rule
from minidiff.settings import NonNegativeInt, PositiveInt

__all__ = ["ExpDecay", "InvDecay", "WeightDecay"]

# Two threads that update two parameters may reach a drop at the same time.
_DROPPING = threading.Lock()


class ExpDecay(Rule):
    r"""A learning rate that drops by a factor every so many steps, shared by all parameters.

    .. math:: η \leftarrow \max(η · \text{decay}, \text{clip}), \qquad x \leftarrow x - η Δ

    The drop comes before the step whose number is a multiple of `decay_step` that no parameter has reached
    before; parameters that reach it later in the same pass find it done.

    Parameters
    ----------
    eta : float, default 0.001
        Learning rate η, at least 0: the current value. It may be read and set at any time.
    decay : float, default 0.1
        Factor of each drop, at least 0.
    decay_step : int, default 1000
        Number of steps from one drop to the next, at least 1.
    clip : float, default 1e-4
        The value below which a drop does not go, at least 0.
    start : int, default 0
        No drop up to this step.

    Notes
    -----
    In Flux a parameter that is no longer trained can stop the decay for all the others: there the drop
    depends on how many step counts stand at a multiple. Here it does not.

    `reset` also returns `eta` to the value last given.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ExpDecay, update
    >>> opt, x = ExpDecay(1.0, 0.5, decay_step=2, clip=0.3), np.zeros(1)
    >>> for _ in range(6):
    ...     update(opt, x, [1.0])
    ...     print(opt.eta, x)
    1.0 [-1.]
    0.5 [-1.5]
    0.5 [-2.]
    0.3 [-2.3]
    0.3 [-2.6]
    0.3 [-2.9]

    As the last stage it multiplies the step of what comes before:

    >>> from minidiff.optimise import ADAM, Optimiser
    >>> opt = Optimiser(ADAM(), ExpDecay())

    References
    ----------
    Flux.jl 0.12, ``ExpDecay``.
    """

    eta: float = 0.001
    decay: float = 0.1
    decay_step: PositiveInt = 1000
    clip: float = 1e-4
    start: NonNegativeInt = 0

    def _finish(self) -> None:
        self.__dict__["reached"] = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "eta":
            value = self._checks[name](name, value)
            self.__dict__.update(eta=value, eta_given=value)  # both at once, also if an interrupt comes
        else:
            super().__setattr__(name, value)

    def current(self, t: int) -> float:
        """Return η for a parameter's step `t`: lowered, if that is where it drops."""
        drops = t > self.start and t % self.decay_step == 0 and t > self.__dict__["reached"]
        return max(self.eta * self.decay, self.clip) if drops else self.eta

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.current(t),)

    def stepped(self, t: int) -> None:
        if t % self.decay_step == 0:
            with _DROPPING:
                self.__dict__.update(eta=self.current(t), reached=max(t, self.__dict__["reached"]))

    def reset(self) -> None:
        super().reset()
        self.__dict__.update(eta=self.__dict__["eta_given"], reached=0)

    @staticmethod
    def formula(x: Any, Δ: Any, η: Any) -> Any:
        return η * Δ


class InvDecay(Rule):
    r"""Inverse time decay: at step `t` what comes in is divided by ``1 + γt``.

    .. math:: x \leftarrow x - Δ / (1 + γ t)

    Parameters
    ----------
    gamma : float, default 0.001
        Decay per step γ, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, InvDecay, Optimiser, update
    >>> opt, x = InvDecay(0.5), np.zeros(1)
    >>> update(opt, x, [3.0])
    >>> x
    array([-2.])

    As the last stage it lowers the rate of what comes before, from 0.001:

    >>> opt = Optimiser(ADAM(0.001), InvDecay(0.01))

    References
    ----------
    H. Robbins and S. Monro, "A Stochastic Approximation Method", 1951, on rates that fall as 1/t.
    """

    gamma: float = 0.001

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.gamma, t

    @staticmethod
    def formula(x: Any, Δ: Any, γ: Any, t: Any) -> Any:
        return Δ / (1 + γ * t)


class WeightDecay(Rule):
    r"""Weight decay: adds a multiple of the weights to the gradient.

    .. math:: x \leftarrow x - (Δ + λ x)

    As the first stage it is L2 regularisation, λ/2·‖x‖² added to the loss. Before an adaptive rule that
    is not the same as what `ADAMW` does: there the decay is not divided by the gradient's magnitude.

    Parameters
    ----------
    wd : float, default 0
        Decay λ, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, Descent, Optimiser, WeightDecay, update
    >>> x = np.array([1.0, -2.0])
    >>> update(Optimiser(WeightDecay(0.1), Descent(1.0)), x, np.zeros(2))
    >>> x
    array([ 0.9, -1.8])
    >>> opt = Optimiser(WeightDecay(1e-4), ADAM())

    References
    ----------
    A. Krogh and J. A. Hertz, "A Simple Weight Decay Can Improve Generalization", 1991.
    """

    wd: float = 0.0

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.wd,)

    @staticmethod
    def formula(x: Any, Δ: Any, λ: Any) -> Any:
        return Δ + λ * x
