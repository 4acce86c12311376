"""What every schedule is: a pure function of the step, counted from 1, that can be called and iterated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import field
from functools import partial
from itertools import count
from operator import index
from typing import Annotated, Any, SupportsIndex, overload

import numpy as np

from minidiff.checks import described, function, integer, is_ndarray, is_number, number
from minidiff.settings import Number, Settings, dataclass_transform
from minidiff.typing import ArrayLike, NDArray

__all__ = ["Constant", "Schedule"]

# A schedule of periods gives numbers of steps as floats.
step_count = partial(integer, least=1, of_any_type=True)
TOO_FAR = 2**63  # nobody gets there, and a few more digits are too many for a float
Steps = Annotated[int, step_count]


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Schedule(Settings, ABC):
    """The value of a hyperparameter at every step t = 1, 2, 3 and so on.

    A schedule of your own is a subclass with a method ``at(t)``. It is then called, iterated, compared,
    hashed, printed and pickled like the others, and like them cannot be changed once made. Its settings are
    written as those of a dataclass, or it has an ``__init__``. If it ends, its ``__init__`` or
    ``__post_init__`` sets `nsteps`.

    Attributes
    ----------
    nsteps : int or None
        How many steps there are; None for a schedule without end.

    Examples
    --------
    >>> class Harmonic(Schedule):
    ...     start: float
    ...
    ...     def at(self, t):
    ...         return self.start / t
    >>> schedule = Harmonic(0.6)
    >>> schedule
    Harmonic(start=0.6)
    >>> schedule(3)
    0.19999999999999998
    >>> schedule([1, 2, 4])
    array([0.6 , 0.3 , 0.15])
    >>> for eta, epoch in zip(schedule, range(1, 3)):
    ...     print(epoch, eta)
    1 0.6
    2 0.3
    """

    nsteps: int | None = None
    __hint__ = ": Scheduler(schedule, ADAM()) is an optimiser whose eta follows a schedule"

    _greek = ("λ start", "λ0 l0", "λ1 l1", "γ decay", "p degree")

    @abstractmethod
    def at(self, t: int) -> float:
        """Give the value at step t, an int from 1 on, and no further than `nsteps`."""

    @overload
    def __call__(self, t: SupportsIndex) -> float: ...
    @overload
    def __call__(self, t: ArrayLike) -> NDArray[np.float64]: ...
    def __call__(self, t: Any) -> float | NDArray[np.float64]:
        """Give the value at step t as a float; for an array of steps, the array of their values.

        Parameters
        ----------
        t : int or array of int, any shape
            Steps, counted from 1. A float is no step, not even 2.0.

        Raises
        ------
        TypeError
            If t is not made of integers, or what the schedule gives is no number.
        ValueError
            If a step is below 1, or 2**63 or more.
        IndexError
            If a step is beyond the end of a finite schedule.
        """
        try:
            step = index(t)
        except TypeError:
            return self._table(t)
        if isinstance(t, bool):
            raise _no_step(t)
        if step < 1:
            raise ValueError(f"steps are counted from 1, got t = {step} for {self!r}")
        if step >= TOO_FAR:
            raise ValueError(f"t must be below 2**63, got {described(step)}")
        end = self._last_step(step)
        if end is not None and step > end:
            raise IndexError(f"step {step} is beyond the last, {end}, of {self!r}")
        return real(self.at(step), self, step)

    def _table(self, t: Any) -> NDArray[np.float64]:
        steps = np.asarray(t)
        if steps.ndim == 0 or (steps.size and steps.dtype.kind not in "iu"):
            raise _no_step(t)
        return np.fromiter(map(self, steps.ravel().tolist()), float, steps.size).reshape(steps.shape)

    def __iter__(self) -> Iterator[float]:
        for t in count(1):
            end = self._last_step(t)
            if end is not None and t > end:
                return
            yield self(t)

    def _last_step(self, t: int) -> int | None:
        """Return `nsteps`, or what is known of it at step t."""
        return self.nsteps

    def __len__(self) -> int:
        if self.nsteps is None:
            raise TypeError(
                f"{self!r} goes on without end, so it has no length: "
                "take the steps you need, as in zip(schedule, range(1, 101)), or wrap it in Shortened"
            )
        return self.nsteps

    def __bool__(self) -> bool:
        return True  # otherwise Python would ask for the length

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def _finish(self) -> None:
        vars(self)["_frozen"] = True

    def __setattr__(self, name: str, value: object) -> None:
        if "_frozen" in vars(self):
            raise AttributeError(f"cannot set {name}: schedules are immutable, make another instead")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name}: schedules are immutable")


class Constant(Schedule):
    r"""The same value at every step: :math:`s(t) = value`.

    Parameters
    ----------
    value : float
        The value.

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1

    References
    ----------
    ParameterSchedulers.jl: ``Constant``.
    """

    value: Number

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.value


def as_schedule(name: str, x: Any, nsteps: int = 0) -> Callable[[int], float]:
    """Check that an argument is a schedule of at least `nsteps` steps.

    Any function of the step is one. A number becomes a constant schedule.
    """
    schedule = Constant(number(name, x)) if is_number(x) else x
    function(name, schedule, "a schedule, a function of the step or a number")
    end = last_step(schedule)
    if end is not None and end < nsteps:
        raise ValueError(f"{name} ends after {end} steps, but {nsteps} are asked of it: {schedule!r}")
    return schedule


def last_step(schedule: Callable[[int], float], t: int = 1) -> int | None:
    """Return the number of steps of a schedule that at step t is known to be finite, None for any other."""
    return schedule._last_step(t) if isinstance(schedule, Schedule) else None


def held(schedule: Callable[[int], float], t: int) -> float:
    """Return the value at step t, or the last one of a schedule that has ended."""
    end = last_step(schedule, t)
    if end == 0:
        raise ValueError(f"{schedule!r} has no steps, and so no value")
    return real(schedule(t if end is None else min(t, end)), schedule, t)


def real(value: Any, schedule: object, t: int) -> float:
    """Check that what a schedule gave at step t is a number, and return it as a float."""
    if is_ndarray(value) and value.ndim == 0:
        value = value[()]
    if not is_number(value):
        advice = ""
        if isinstance(value, (tuple, list, np.ndarray)):
            advice = (
                ". For a setting of several schedule one of them: "
                "Scheduler(schedule, opt, update=lambda opt, value: setattr(opt, 'beta', (value, 0.999)))"
            )
        raise TypeError(
            f"a schedule gives one real number per step, but at step {t} {schedule!r} gave {value!r}{advice}"
        )
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"at step {t} {schedule!r} gave an integer that no float can hold") from None


def power(base: float, exponent: float) -> float:
    """Return base ** exponent, infinite where a float cannot hold it."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf if base > 0 or exponent % 2 == 0 else -math.inf


def times(x: float, y: float) -> float:
    """Return x · y, where y may be infinite: 0 if x is."""
    return x and x * y


def _no_step(t: object) -> TypeError:
    return TypeError(f"t must be a step (an integer from 1 on) or an array of steps, got {t!r}")
