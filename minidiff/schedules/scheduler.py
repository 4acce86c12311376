"""An optimiser whose learning rate, or what else it has, follows a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minidiff.checks import function
from minidiff.optimise import AbstractOptimiser, Optimiser, Rule
from minidiff.schedules.base import as_schedule, real

__all__ = ["Scheduler"]


class Count(Rule):
    """A rule that lets the gradient pass, and before each step of a parameter tells which one it is.

    The engine keeps its count with the state of the rules after it: it advances when they all do.
    """

    announce: Callable[[int], None]

    def coefficients(self, t: int) -> tuple[()]:
        """Announce step t; the formula needs no numbers."""
        self.announce(t)
        return ()

    @staticmethod
    def formula(x: Any, Δ: Any) -> Any:
        """Return the gradient as it came."""
        return Δ


def _set_eta(opt: Any, value: float) -> None:
    opt.eta = value


class Scheduler(AbstractOptimiser):
    r"""An optimiser that sets its own learning rate before each step.

    .. math:: opt.eta \leftarrow schedule(t), \quad t = \text{this parameter's own step, from 1 on}

    Every parameter has a count of its own: those that are stepped one after another see the same value,
    one that joins later starts at the beginning of the schedule. The counts are state, like a momentum:
    saved, reset and freed with it. It goes wherever an optimiser goes, also into an `Optimiser`.

    A step that fails counts for nothing: the next is that same step again.

    Parameters
    ----------
    schedule : schedule or function of t
        The values.
    opt : AbstractOptimiser
        The optimiser that takes the steps.
    update : function of (opt, value), optional
        How to set the value, if it is not for ``opt.eta``: for another setting, or for a member of an
        `Optimiser`. (One that is to be pickled is a ``def`` of a module, not a lambda.)

    Attributes
    ----------
    schedule, opt, update
        As given; they may be exchanged at any time.
    eta : float
        The wrapped optimiser's ``eta``: the rate of the step taken last.

    Raises
    ------
    TypeError
        If `opt` is no optimiser, or has no ``eta`` and there is no `update`. At a step: if what the schedule
        gives is no number.
    ValueError
        At a step: if the value is not finite or the optimiser refuses it.
    IndexError
        At a step: if the schedule has ended.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ClipValue, Descent, Momentum, Optimiser, update
    >>> from minidiff.schedules import Exp
    >>> opt, x, y = Scheduler(Exp(start=1.0, decay=0.5), Descent()), np.zeros(1), np.zeros(1)
    >>> for _ in range(2):
    ...     update(opt, x, [-1.0])
    ...     update(opt, y, [-1.0])
    ...     print(opt.eta, x, y)
    1.0 [1.] [1.]
    0.5 [1.5] [1.5]

    Another setting, and a composition:

    >>> opt = Scheduler(Exp(0.9, 0.5), Momentum(), update=lambda opt, rho: setattr(opt, "rho", rho))
    >>> opt = Optimiser(ClipValue(1.0), Scheduler(Exp(0.1, 0.5), Momentum()))
    >>> opt = Scheduler(
    ...     Exp(0.1, 0.5),
    ...     Optimiser(ClipValue(1.0), Momentum()),
    ...     update=lambda opt, eta: setattr(opt[1], "eta", eta),
    ... )

    References
    ----------
    ParameterSchedulers.jl: ``Scheduler``.
    """

    def __init__(
        self,
        schedule: Callable[[int], float],
        opt: AbstractOptimiser,
        update: Callable[[Any, float], object] | None = None,
    ) -> None:
        if not isinstance(opt, AbstractOptimiser) or isinstance(schedule, AbstractOptimiser):
            raise TypeError(
                "it is Scheduler(schedule, opt), with an optimiser such as Momentum() in second place; "
                f"got {schedule!r} and {opt!r}"
            )
        if update is None and isinstance(opt, Scheduler) and opt.update is None:
            raise TypeError(f"{opt!r} has a schedule for eta already: give the optimiser itself")
        if update is None and not hasattr(opt, "eta"):
            raise TypeError(
                f"{opt!r} has no eta to schedule: give update=, a function of the optimiser and the value; "
                "for a member of an Optimiser: lambda opt, value: setattr(opt[0], 'eta', value)"
            )
        if update is not None:
            function("update", update, "a function of the optimiser and the value")
        self.schedule = as_schedule("schedule", schedule)
        self.opt = opt
        self.update: Callable[[Any, float], object] | None = update
        self.count = Count(self._set)

    @property
    def eta(self) -> float:
        """The wrapped optimiser's learning rate. It can be set only if the schedule sets something else."""
        return self.opt.eta  # type: ignore[attr-defined, no-any-return]

    @eta.setter
    def eta(self, value: float) -> None:
        if self.update is None:
            raise AttributeError(
                f"{self.schedule!r} sets eta before every step: set another schedule, opt.schedule = …"
            )
        self.opt.eta = value  # type: ignore[attr-defined]

    def _set(self, t: int) -> None:
        """Set what step t asks for, if it is a number that the optimiser takes."""
        value = real(self.schedule(t), self.schedule, t)
        if not math.isfinite(value):
            raise ValueError(f"{self.schedule!r} gave {value} at step {t}, which is no setting")
        try:
            (self.update or _set_eta)(self.opt, value)
        except ValueError as refusal:
            raise ValueError(f"{self.schedule!r} at step {t}: {refusal}") from refusal

    def stages(self) -> list[AbstractOptimiser]:
        """Return what the gradient goes through: a count that sets the value, then the wrapped optimiser.

        All formulas, these can run as one. An optimiser with an `apply` of its own may fail half-way, and is
        run from `apply` here, which then puts ``eta`` back.
        """
        stages = [self.count, *self.opt.stages()]
        own = type(self).apply is not Scheduler.apply
        return stages if not own and all(stage.has_formula for stage in stages) else [self]

    def apply(self, x: Any, Δ: Any) -> Any:
        """Set the value of this step of `x`, and return the wrapped optimiser's step."""
        before = getattr(self, "eta", None)
        try:
            return Optimiser(self.count, self.opt).apply(x, Δ)
        except BaseException:
            if before is not None:
                self.opt.eta = before  # type: ignore[attr-defined]
            raise

    def arguments(self) -> dict[str, Any]:
        """Return what the repr shows."""
        shown = {"schedule": self.schedule, "opt": self.opt, "update": self.update}
        return {name: value for name, value in shown.items() if value is not None}
