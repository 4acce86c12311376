"""Schedules that keep count themselves: an iterator with a step of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minidiff.checks import function, integer
from minidiff.schedules.base import as_schedule, held, last_step

__all__ = ["Stateful"]


class Stateful:
    """A schedule that remembers its step, for loops where nothing else counts.

    ``next(stateful)`` gives the value of the current step and moves on; once a finite schedule has ended,
    its last value. A ``for`` loop goes on from where it stands, and stops where a finite schedule ends.

    Parameters
    ----------
    schedule : schedule or function of t
        The schedule.
    advance : function of the step, optional
        Asked after each value with the step it belongs to: whether to move on to the next.

    Attributes
    ----------
    step : int
        The step of the value that comes next.

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> schedule = Stateful(Exp(start=1.0, decay=0.5))
    >>> next(schedule), next(schedule), next(schedule)
    (1.0, 0.5, 0.25)
    >>> schedule
    <Stateful Exp(start=1.0, decay=0.5) at step 4>
    >>> schedule.reset()
    >>> next(schedule)
    1.0

    A rate that falls only when the loss no longer does:

    >>> losses = iter([3.0, 2.0, 2.0, 1.0])
    >>> best = float("inf")
    >>> schedule = Stateful(Exp(start=1.0, decay=0.5), advance=lambda step: loss >= best)
    >>> for loss in losses:
    ...     print(next(schedule), end=" ")
    ...     best = min(best, loss)
    1.0 1.0 1.0 0.5

    References
    ----------
    ParameterSchedulers.jl: ``Stateful``, ``next!``, ``reset!``.
    """

    __hint__ = ", which counts by itself: give its .schedule, as in Scheduler(stateful.schedule, ADAM())"

    def __init__(
        self, schedule: Callable[[int], float], advance: Callable[[int], bool] | None = None
    ) -> None:
        self.schedule = as_schedule("schedule", schedule)
        self.advance = None if advance is None else function("advance", advance, "a function of the step")
        self.step = 1

    def __iter__(self) -> Iterator[float]:
        while (end := last_step(self.schedule, self.step)) is None or self.step <= end:
            yield next(self)

    def __next__(self) -> float:
        value = held(self.schedule, self.step)
        if self.advance is None or self.advance(self.step):
            self.step += 1
        return value

    def reset(self) -> None:
        """Start over at step 1."""
        self.step = 1

    def check_restored(self, attributes: dict[str, Any]) -> None:
        """Raise an error if these, from a checkpoint, cannot be the attributes of one."""
        integer("step", attributes.get("step", 1), 1)
        if attributes.get("advance") is not None:
            function("advance", attributes["advance"], "a function of the step")

    def __repr__(self) -> str:
        return f"<Stateful {self.schedule!r} at step {self.step}>"
