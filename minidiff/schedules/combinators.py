"""Schedules made of schedules.

Wherever one of these takes a schedule, any function of the step will do, and a plain number is a constant.
"""

from __future__ import annotations

import math
import sys
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from minidiff.checks import function, instance, integer, number
from minidiff.schedules.base import Schedule, as_schedule, last_step, step_count

__all__ = [
    "ComposedSchedule",
    "Interpolator",
    "Loop",
    "Sequence",
    "Shifted",
    "Shortened",
    "reverse",
    "symmetric",
]


class Sequence(Schedule):
    r"""One schedule after another, each counted from its own step 1; the last goes on.

    .. math:: s(t) = s_i(t - n_1 - \dots - n_{i-1}),
              \quad i = \text{the first with } t \le n_1 + \dots + n_i, \text{ or else the last}

    Parameters
    ----------
    *stages : (schedule, int) tuples
        Each schedule with the number of steps for which it runs. Or two lists: the schedules, and
        their numbers of steps. The last number is for the reader; the last schedule goes on beyond it
        (`Shortened` ends it). Or one generator of such tuples, which may be without end: its stages are made
        when they are reached. (With one the schedule does not pickle, and `nsteps` is None: where it ends is
        known when it gets there.)

    Examples
    --------
    >>> from minidiff.schedules import Cos, Triangle
    >>> schedule = Sequence((0.1, 2), (Cos(0.0, 1.0, period=2), 4))
    >>> schedule([1, 2, 3, 4, 5, 6, 7])
    array([0.1, 0.1, 1. , 0.5, 1. , 0.5, 1. ])
    >>> schedule == Sequence([0.1, Cos(0.0, 1.0, period=2)], [2, 4])
    True

    A straight warm-up is the rising half of a triangle:

    >>> warmup = Triangle(0.0, 1.0, period=8)
    >>> Sequence((warmup, 4), (Cos(0.0, 1.0, period=100), 100))([1, 2, 3, 4, 5]).round(2)
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])

    Restarts further and further apart:

    >>> longer = Sequence((Cos(0.0, 1.0, period=n), n) for n in (2, 4, 8))
    >>> longer([1, 2, 3, 4, 5, 6, 7]).round(2)
    array([1.  , 0.5 , 1.  , 0.85, 0.5 , 0.15, 1.  ])

    References
    ----------
    ParameterSchedulers.jl: ``Sequence``.
    """

    def __init__(self, *stages: Any) -> None:
        if len(stages) == 1 and isinstance(stages[0], Iterator):
            self.drawn = _Drawn(stages[0])
            return
        checked = [_stage(i, *pair) for i, pair in enumerate(_pairs(stages), 1)]
        self.schedules, self.step_sizes = zip(*checked, strict=True)
        self.finished = tuple(accumulate(self.step_sizes[:-1], initial=0))  # steps done when a stage begins
        end = last_step(self.schedules[-1])
        self.nsteps = None if end is None else self.finished[-1] + end

    def at(self, t: int) -> float:
        """Give the value at step t."""
        drawn: _Drawn | None = vars(self).get("drawn")
        schedules, finished = drawn.until(t) if drawn else (self.schedules, self.finished)
        i = bisect_left(finished, t, hi=len(schedules)) - 1
        return schedules[i](t - finished[i])

    def _last_step(self, t: int) -> int | None:
        drawn: _Drawn | None = vars(self).get("drawn")
        if drawn is None:
            return self.nsteps
        drawn.until(t)
        return drawn.nsteps

    def __repr__(self) -> str:
        if "drawn" in vars(self):
            return f"Sequence({self.drawn.source!r})"
        return f"Sequence({', '.join(map(repr, zip(self.schedules, self.step_sizes, strict=True)))})"


class _Drawn:
    """The stages that a generator has given so far. It is the same to all copies of its schedule."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.source = source
        self.schedules: list[Callable[[int], float]] = []
        self.finished = [0]  # steps done when a stage begins, and when the last one ends
        self.nsteps: int | None = None  # of all stages, once it is known which is the last
        self.error: Exception | None = None  # what the generator ended with
        self.until(1)

    def until(self, t: int) -> tuple[list[Callable[[int], float]], list[int]]:
        """Return the stages up to that of step t, and the steps done when they begin."""
        with _DRAWING:
            while self.finished[-1] < t:
                if self.error is not None:  # after which it would give no more, as if it were at its end
                    raise self.error
                try:
                    stage = next(self.source, None)
                    if stage is None and self.schedules:
                        end = last_step(self.schedules[-1])
                        self.nsteps = None if end is None else self.finished[-2] + end
                        break
                    (pair,) = _pairs(() if stage is None else (stage,))
                    schedule, n = _stage(len(self.finished), *pair)
                except Exception as error:
                    self.error = error
                    raise
                self.schedules.append(schedule)
                self.finished.append(self.finished[-1] + n)
        return self.schedules, self.finished

    def __deepcopy__(self, _: Any) -> _Drawn:
        return self


_DRAWING = threading.RLock()  # a generator runs in one thread at a time


def _pairs(stages: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    if len(stages) == 2 and isinstance(stages[0], list) and isinstance(stages[1], Iterable):
        schedules, sizes = stages[0], list(stages[1])
        if len(schedules) != len(sizes):
            raise ValueError(f"Sequence got {len(schedules)} schedules, but {len(sizes)} numbers of steps")
        stages = tuple(zip(schedules, sizes, strict=True))
    for stage in stages:
        if not (isinstance(stage, tuple) and len(stage) == 2):
            raise TypeError(
                "Sequence takes (schedule, number of steps) tuples, or two lists: "
                f"the schedules and their numbers of steps; got {stage!r}"
            )
    if not stages:
        raise ValueError("Sequence needs at least one schedule with its number of steps")
    return list(stages)


def _stage(i: int, schedule: Any, n: Any) -> tuple[Callable[[int], float], int]:
    """Check a stage, the i-th."""
    n = step_count(f"the number of steps of stage {i}", n)
    return as_schedule(f"the schedule of stage {i}", schedule, n), n


class Loop(Schedule):
    r"""The first steps of a schedule, or of any function of the step, over and over.

    .. math:: s(t) = f((t-1) \bmod period + 1)

    Parameters
    ----------
    f : schedule or function of t
        What to repeat.
    period : int, at least 1
        How many of its steps to repeat.

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> Loop(Exp(1.0, 0.5), period=3)([1, 2, 3, 4, 5, 6, 7])
    array([1.  , 0.5 , 0.25, 1.  , 0.5 , 0.25, 1.  ])

    References
    ----------
    ParameterSchedulers.jl: ``Loop``.
    """

    def __init__(self, f: Callable[[int], float], period: int) -> None:
        self.period = step_count("period", period)
        self.f = as_schedule("f", f, self.period)

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.f((t - 1) % self.period + 1)


class Interpolator(Schedule):
    r"""A schedule in larger units, such as a schedule of epochs asked once per minibatch.

    .. math:: s(t) = schedule(\lceil t / rate \rceil)

    Parameters
    ----------
    schedule : schedule or function of t
        The schedule in the larger unit.
    rate : float, above 0
        How many steps make one of the schedule's.
    ceil : callable
        How to round t / rate to a step, if not up: a function to int that never falls.

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> Interpolator(Exp(1.0, 0.5), rate=2)([1, 2, 3, 4, 5])
    array([1.  , 1.  , 0.5 , 0.5 , 0.25])
    >>> Interpolator(Exp(1.0, 0.5), 2, lambda x: int(x) + 1)([1, 2, 3, 4, 5])
    array([1.  , 0.5 , 0.5 , 0.25, 0.25])

    References
    ----------
    ParameterSchedulers.jl: ``Interpolator``.
    """

    def __init__(
        self, schedule: Callable[[int], float], rate: float, ceil: Callable[[float], int] = math.ceil
    ) -> None:
        self.schedule = as_schedule("schedule", schedule)
        self.rate = number("rate", rate, within="(0, inf)")
        self.ceil = function("ceil", ceil, "a function that rounds")
        end = last_step(self.schedule)
        if end is not None:
            self.nsteps = self._last(end)

    def arguments(self) -> dict[str, Any]:
        """Return what the repr shows: ``ceil`` only if it is not the default."""
        shown = super().arguments()
        return {name: x for name, x in shown.items() if x is not math.ceil}

    def _inner(self, t: int) -> int:
        return integer("what ceil gives", self.ceil(t / self.rate), of_any_type=True)

    def _last(self, end: int) -> int:
        """Find the last step whose t / rate, rounding and all, does not pass the schedule's end."""
        beyond = min(int(min((end + 2) * self.rate, sys.maxsize)) + 2, sys.maxsize)
        return bisect_right(range(1, beyond), end, key=self._inner)

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.schedule(self._inner(t))


class Shifted(Schedule):
    r"""A schedule that starts at a later step.

    .. math:: s(t) = schedule(t - 1 + offset)

    Parameters
    ----------
    schedule : schedule or function of t
        The schedule.
    offset : int, at least 1
        Its step at which to start. (For a plain function of t, any integer.)

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> Shifted(Exp(1.0, 0.5), offset=3)([1, 2])
    array([0.25 , 0.125])

    References
    ----------
    ParameterSchedulers.jl: ``Shifted``.
    """

    def __init__(self, schedule: Callable[[int], float], offset: int) -> None:
        self.offset = step_count("offset", offset, least=1 if isinstance(schedule, Schedule) else -math.inf)
        self.schedule = as_schedule("schedule", schedule, self.offset)
        end = last_step(self.schedule)
        self.nsteps = None if end is None else end - self.offset + 1

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.schedule(t - 1 + self.offset)


class Shortened(Schedule):
    r"""A schedule that ends.

    .. math:: s(t) = schedule(t), \quad t = 1, \dots, nsteps

    Parameters
    ----------
    schedule : schedule or function of t
        The schedule.
    nsteps : int, at least 1
        The number of steps.

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> list(Shortened(Exp(1.0, 0.5), nsteps=3))
    [1.0, 0.5, 0.25]

    References
    ----------
    ParameterSchedulers.jl: ``Shortened``.
    """

    def __init__(self, schedule: Callable[[int], float], nsteps: int) -> None:
        self.nsteps: int = step_count("nsteps", nsteps)
        self.schedule = as_schedule("schedule", schedule, self.nsteps)

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.schedule(t)


class ComposedSchedule(Schedule):
    r"""A schedule whose own settings are scheduled.

    .. math:: s(t) = make(p_1(t), p_2(t), \dots)(t)

    It ends with the first of its parameters that does, or with the schedule made at step 1.

    Parameters
    ----------
    make : callable
        What makes a schedule of the parameters' values, such as the class of one.
    parameters : tuple of schedules, functions of t and numbers
        The settings, in the order in which `make` takes them.

    Examples
    --------
    >>> from minidiff.schedules import Sin, Step
    >>> wave = lambda top: Sin(0.0, top, period=2)
    >>> ComposedSchedule(wave, (Step(1.0, 0.1, 4),))([2, 4, 6, 8])
    array([1. , 1. , 0.1, 0.1])

    References
    ----------
    ParameterSchedulers.jl: ``ComposedSchedule``.
    """

    def __init__(self, make: Callable[..., Callable[[int], float]], parameters: Iterable[Any]) -> None:
        self.make = function("make", make, "a function that makes a schedule")
        instance("parameters", parameters, (tuple, list), "a tuple of schedules and numbers")
        self.parameters = tuple(as_schedule(f"parameters[{i}]", p) for i, p in enumerate(parameters))
        ends = map(last_step, (*self.parameters, self._made(1)))
        self.nsteps = min((end for end in ends if end is not None), default=None)

    def _made(self, t: int) -> Callable[[int], float]:
        return as_schedule("what make makes", self.make(*(p(t) for p in self.parameters)))

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self._made(t)(t)


class reverse(Schedule):  # noqa: N801 - called like the function it stands for
    r"""A schedule, or any function of the step, run backwards.

    .. math:: s(t) = f(period - t)

    Of a schedule, whose steps begin at 1, it has steps 1 to period − 1. To repeat all of its first n steps
    backwards, take ``Loop(reverse(f, n + 1), n)``.

    Parameters
    ----------
    f : schedule or function of t
        What to run backwards.
    period : int, at least 1
        The step, counted from which f runs backwards.

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> list(reverse(Exp(1.0, 0.5), period=4))
    [0.25, 0.5, 1.0]
    >>> reverse(lambda t: 10.0 * t, period=4)(4)
    0.0

    References
    ----------
    ParameterSchedulers.jl: ``reverse``.
    """

    def __init__(self, f: Callable[[int], float], period: int) -> None:
        self.period = step_count("period", period)
        self.f = as_schedule("f", f, self.period - 1)
        self.nsteps = self.period - 1 if isinstance(self.f, Schedule) else None

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.f(self.period - t)


class symmetric(Schedule):  # noqa: N801 - called like the function it stands for
    r"""The first half of a schedule, or of any function of the step, there and back.

    .. math:: s(t) = \begin{cases} f(t) & t < period / 2 \\ f(period - t) & \text{else} \end{cases}

    Of a schedule, whose steps begin at 1, it has steps 1 to period − 1.

    Parameters
    ----------
    f : schedule or function of t
        What to run there and back.
    period : int, at least 1
        The number of steps of both ways.

    Examples
    --------
    >>> from minidiff.schedules import Exp
    >>> list(symmetric(Exp(1.0, 0.5), period=6))
    [1.0, 0.5, 0.25, 0.5, 1.0]

    References
    ----------
    ParameterSchedulers.jl: ``symmetric``.
    """

    def __init__(self, f: Callable[[int], float], period: int) -> None:
        self.period = step_count("period", period)
        self.f = as_schedule("f", f, self.period // 2)
        self.nsteps = self.period - 1 if isinstance(self.f, Schedule) else None

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.f(t) if t < self.period / 2 else self.f(self.period - t)
