"""An optimiser whose learning rate, or what else it has, follows a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

from minidiff.checks import function
from minidiff.optimise import AbstractOptimiser, ExpDecay, Grouped, Lookahead, Rule
from minidiff.optimise.base import inside, member_with
from minidiff.optimise.compose import Holder
from minidiff.program.signature import held_by
from minidiff.schedules.base import as_schedule, held

__all__ = ["Scheduler"]


class Count(Rule):
    """A rule that lets the gradient pass, and before each step of a parameter tells which one it is.

    The engine keeps its count with the state of the rules after it: it advances when they all do.
    """

    announce: Callable[[int], None]
    changes_more = True

    def coefficients(self, t: int) -> tuple[()]:
        """Announce step t; the formula needs no numbers."""
        self.announce(t)
        return ()

    def sets(self) -> list[AbstractOptimiser]:
        """Return the optimiser that the schedule is of."""
        return [self.announce.__self__.opt]  # type: ignore[attr-defined]

    @staticmethod
    def formula(x: Any, Δ: Any) -> Any:
        """Return the gradient as it came."""
        return Δ


class Scheduler(Holder):
    r"""An optimiser that sets its own learning rate before each step.

    .. math:: opt.eta \leftarrow schedule(t), \quad t = \text{this parameter's own step, from 1 on}

    Every parameter has a count of its own: those that are stepped one after another see the same value,
    one that joins later starts at the beginning of the schedule. The counts are state, like a momentum:
    saved, reset and freed with it. It goes wherever an optimiser goes, also into an `Optimiser`.

    A step that fails counts for nothing: the next is that same step again. A schedule that has ended keeps
    its last value. Threads may take steps of different parameters at the same time.

    Parameters
    ----------
    schedule : schedule or function of t
        The values.
    opt : AbstractOptimiser
        The optimiser that takes the steps.
    update : function of (opt, value), optional
        How to set the value, if it is not for ``opt.eta``: for another setting, or for a member of an
        `Optimiser`. (One that is to be pickled is a ``def`` of a module, not a lambda.)
    **settings : schedules or functions of t, optional
        Settings by name, one or several: ``Scheduler(opt, eta=…, rho=…)``.

    Attributes
    ----------
    schedule, opt, update
        As given; they may be exchanged at any time.
    eta : float
        The wrapped optimiser's ``eta``: the rate of the step taken last.

    Raises
    ------
    TypeError
        If `opt` is no optimiser, or has no ``eta`` and there is no `update`; if that is the ``eta`` of an
        `ExpDecay`, which lowers it itself. At a step: if what the schedule gives is no number.
    ValueError
        At a step: if the value is not finite or the optimiser refuses it.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ClipValue, Descent, Momentum, Optimiser, update
    >>> from minidiff.schedules import Exp
    >>> opt = Scheduler(Exp(start=1.0, decay=0.5), Descent())
    >>> x, y = np.zeros(1), np.zeros(1)
    >>> for _ in range(2):
    ...     update(opt, x, [-1.0])
    ...     update(opt, y, [-1.0])
    ...     print(opt.eta, x, y)
    1.0 [1.] [1.]
    0.5 [1.5] [1.5]

    Other settings, and a composition:

    >>> opt = Scheduler(Momentum(), eta=Exp(0.1, 0.5), rho=lambda t: 1 - 1 / (t + 1))
    >>> update(opt, x, [-1.0])
    >>> opt.opt
    Momentum(eta=0.1, rho=0.5)
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

    _attributes = "schedule", "opt", "update", "count", "others"

    def __init__(
        self,
        schedule: Any = None,
        opt: Any = None,
        update: Callable[[Any, float], object] | None = None,
        **settings: Any,
    ) -> None:
        given = schedule, opt
        if settings and opt is None and update is None:
            schedule, opt = settings.pop("eta", None), schedule
        elif schedule is None:
            opt = None
        if not isinstance(opt, AbstractOptimiser) or isinstance(schedule, AbstractOptimiser):
            raise TypeError(
                "it is Scheduler(schedule, opt), with an optimiser such as Momentum() in second place, or "
                f"Scheduler(opt, eta=schedule, …); got {given[0]!r} and {given[1]!r}"
            )
        names = [*settings, *(["eta"] if schedule is not None and update is None else [])]
        for name in names:
            for x in held_by(opt, _with_the_same_eta if name == "eta" else lambda _: ()):
                if isinstance(x, Scheduler) and name in x.settings():
                    raise TypeError(f"{x!r} has a schedule for {name} already: give the optimiser itself")
            if not hasattr(opt, name):
                advice = getattr(opt, "_elsewhere", {}).get(name) or (
                    ": put the Scheduler around the member that has, "
                    "Optimiser(ClipNorm(1.0), Scheduler(schedule, ADAM())), or give a function of the "
                    "optimiser and the value, update=lambda opt, value: "
                    f"setattr({member_with(opt, name)}, {name!r}, value)"
                )
                raise TypeError(f"{opt!r} has no {name} to schedule{advice}")
        if "eta" in names and any(isinstance(x, ExpDecay) for x in held_by(opt, _with_the_same_eta)):
            raise TypeError(
                f"an ExpDecay lowers its eta itself, in {opt!r}: schedule another optimiser's, "
                "Optimiser(Scheduler(schedule, ADAM()), ExpDecay(1.0)), or multiply two schedules, "
                "lambda t: first(t) * second(t)"
            )
        if update is not None:
            function("update", update, "a function of the optimiser and the value")
        self.schedule: Any = None if schedule is None else as_schedule("schedule", schedule)
        self.opt: Any = opt
        self.update: Callable[[Any, float], object] | None = update
        self.count = Count(self._set)
        if settings:
            self.others = {name: as_schedule(name, value) for name, value in settings.items()}

    others: dict[str, Any] = {}  # noqa: RUF012 - the schedules of other settings than eta, by name

    def settings(self) -> dict[str, Any]:
        """Return the schedules of what is set by name."""
        by_name = self.schedule is not None and self.update is None
        return {"eta": self.schedule, **self.others} if by_name else self.others

    @property
    def eta(self) -> float:
        """The wrapped optimiser's learning rate. It can be set only if no schedule sets it."""
        return self.opt.eta  # type: ignore[no-any-return]

    @eta.setter
    def eta(self, value: float) -> None:
        if "eta" in self.settings():
            raise AttributeError(
                f"{self.schedule!r} sets eta before every step: set another schedule, opt.schedule = …"
            )
        self.opt.eta = value

    def _set(self, t: int) -> None:
        """Set what step t asks for, if these are numbers that the optimiser takes; else nothing."""
        values = [(self._value(schedule, t), schedule, name) for name, schedule in self.settings().items()]
        if self.update is not None:
            values.append((self._value(self.schedule, t), self.schedule, ""))
        before = [(name, getattr(self.opt, name)) for _, _, name in values[:-1]]
        try:
            for value, schedule, name in values:  # noqa: B007 - the message names it
                if name:
                    setattr(self.opt, name, value)
                else:
                    self.update(self.opt, value)  # type: ignore[misc]
        except Exception as refusal:
            for earlier, was in before:
                setattr(self.opt, earlier, was)
            if not isinstance(refusal, (ValueError, TypeError)):
                raise
            kind = TypeError if isinstance(refusal, TypeError) else ValueError
            raise kind(f"{schedule!r} at step {t}: {refusal}") from refusal

    def _value(self, schedule: Any, t: int) -> float:
        value = held(schedule, t)
        if not math.isfinite(value):
            raise ValueError(f"{schedule!r} gave {value} at step {t}, which is no setting")
        return value

    def __copy__(self) -> Scheduler:
        other = object.__new__(type(self))
        vars(other).update(vars(self), count=copy(self.count))
        other.count.announce = other._set
        return other

    def _members_stages(self, x: Any) -> list[AbstractOptimiser]:
        """Return what the gradient goes through: a count that sets the value, then the wrapped optimiser."""
        return [self.count, *self.opt.stages(x)]

    def check_restored(self, attributes: dict[str, Any]) -> None:
        """Raise an error if these, from a checkpoint, cannot be the attributes of one."""
        if attributes.get("update") is not None:
            function("update", attributes["update"], "a function of the optimiser and the value")

    def arguments(self) -> dict[str, Any]:
        """Return what the repr shows."""
        shown = {"schedule": self.schedule, "opt": self.opt, "update": self.update, **self.others}
        return {name: value for name, value in shown.items() if value is not None}


def _with_the_same_eta(x: Any) -> Iterable[Any]:
    """Return what an optimiser passes an eta on to."""
    return inside(x) if isinstance(x, (list, Scheduler, Lookahead, Grouped)) else ()
