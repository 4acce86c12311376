"""Schedules that fall from a starting value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Set
from itertools import accumulate
from typing import Annotated, Any

from minidiff.checks import described, is_ndarray
from minidiff.schedules.base import Schedule, Steps, power, step_count, times
from minidiff.settings import NonNegative, Number

__all__ = ["Exp", "Inv", "Poly", "Step"]


def _step_sizes(name: str, sizes: Any) -> int | tuple[int, ...]:
    """Check that these are numbers of steps, or one."""
    sizes = sizes.tolist() if is_ndarray(sizes) else sizes
    if isinstance(sizes, (Mapping, Set)):
        raise TypeError(f"{name} must be a number of steps, or a list of such, got {described(sizes)}")
    if isinstance(sizes, Iterable):
        return tuple(step_count(f"{name}[{i}]", n) for i, n in enumerate(sizes))
    return step_count(name, sizes)


class Step(Schedule):
    r"""Drop by a factor after each range of steps.

    .. math:: s(t) = start \cdot decay^i, \quad i = \text{how many ranges were over before step } t

    Parameters
    ----------
    start : float
        The value of the first range. Also ``λ``.
    decay : float
        The factor. Also ``γ``.
    step_sizes : int or list of int, each at least 1
        The length of every range; or the lengths one by one, the last drop coming after the last of them.

    Examples
    --------
    >>> schedule = Step(start=1.0, decay=0.5, step_sizes=[2, 3])
    >>> schedule([1, 2, 3, 4, 5, 6, 7])
    array([1.  , 1.  , 0.5 , 0.5 , 0.5 , 0.25, 0.25])
    >>> Step(λ=1.0, γ=0.5, step_sizes=100)(201)
    0.25

    References
    ----------
    ParameterSchedulers.jl: ``Step``.
    """

    start: Number
    decay: Number
    step_sizes: Annotated[int | Iterable[int], _step_sizes]

    def __post_init__(self) -> None:
        if isinstance(self.step_sizes, Iterable):
            self.ends = tuple(accumulate(self.step_sizes))

    def at(self, t: int) -> float:
        """Give the value at step t."""
        size = self.step_sizes
        finished = (t - 1) // size if isinstance(size, int) else bisect_left(self.ends, t)
        return times(self.start, power(self.decay, finished))


class Exp(Schedule):
    r"""Decay exponentially.

    .. math:: s(t) = start \cdot decay^{t-1}

    Parameters
    ----------
    start : float
        The value at step 1. Also ``λ``.
    decay : float
        The factor from one step to the next. Also ``γ``.

    Examples
    --------
    >>> Exp(start=1.0, decay=0.5)([1, 2, 3, 4])
    array([1.   , 0.5  , 0.25 , 0.125])
    >>> Exp(λ=1.0, γ=0.5)(10**9)
    0.0

    References
    ----------
    ParameterSchedulers.jl: ``Exp``.
    """

    start: Number
    decay: Number

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return times(self.start, power(self.decay, t - 1))


class Poly(Schedule):
    r"""Fall like a polynomial and end before reaching zero.

    .. math:: s(t) = start \cdot \left(1 - \frac{t-1}{max\_iter}\right)^{degree},
              \quad t = 1, \dots, max\_iter

    Parameters
    ----------
    start : float
        The value at step 1. Also ``λ``.
    degree : float
        The exponent: 1 falls in a straight line. Also ``p``.
    max_iter : int, at least 1
        The number of steps.

    Examples
    --------
    >>> schedule = Poly(start=1.0, degree=2, max_iter=4)
    >>> list(schedule)
    [1.0, 0.5625, 0.25, 0.0625]
    >>> len(schedule)
    4
    >>> schedule(5)
    Traceback (most recent call last):
        ...
    IndexError: step 5 is beyond the last, 4, of Poly(start=1.0, degree=2.0, max_iter=4)

    References
    ----------
    ParameterSchedulers.jl: ``Poly``.
    """

    start: Number
    degree: Number
    max_iter: Steps

    def __post_init__(self) -> None:
        self.nsteps = self.max_iter

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return self.start * power(1 - (t - 1) / self.max_iter, self.degree)


class Inv(Schedule):
    r"""Decay inversely with the step.

    .. math:: s(t) = start \cdot (1 + (t-1) \cdot decay)^{-degree}

    Parameters
    ----------
    start : float
        The value at step 1. Also ``λ``.
    decay : float, at least 0
        How fast it falls. Also ``γ``.
    degree : float
        The exponent: 1 is the classic 1/t decay. Also ``p``.

    Examples
    --------
    >>> Inv(start=1.0, decay=0.5, degree=2)([1, 2, 3, 7])
    array([1.        , 0.44444444, 0.25      , 0.0625    ])

    References
    ----------
    ParameterSchedulers.jl: ``Inv``.
    """

    start: Number
    decay: NonNegative
    degree: Number

    def at(self, t: int) -> float:
        """Give the value at step t."""
        return times(self.start, power(1 + (t - 1) * self.decay, -self.degree))
