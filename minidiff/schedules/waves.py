r"""Schedules that go up and down: triangle waves, sines, cosine annealing, one cycle.

All of them but OneCycle and WarmupCos are made of two ends, whichever is given first, and of a wave g from
0 to 1, which some let shrink or grow from period to period:

.. math:: s(t) = r \cdot g(t) + o, \quad r = |l_0 - l_1|, \quad o = \min(l_0, l_1)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import field
from functools import partial
from typing import Annotated, cast

from minidiff.checks import flag, number
from minidiff.schedules.base import Schedule, Steps, power, times
from minidiff.settings import NonNegativeInt, Number

__all__ = [
    "Cos",
    "CosAnneal",
    "OneCycle",
    "Sin",
    "SinDecay2",
    "SinExp",
    "Triangle",
    "TriangleDecay2",
    "TriangleExp",
    "WarmupCos",
]


def phase(u: int, period: int) -> float:
    """Return πu/period, minus full turns where u is more than 512 of them: it stays exact for any u.

    Within the first 512 turns it is the definition, with the same rounding.
    """
    return math.pi * (u % (1024 * period)) / period


def half_cosine(u: int, period: int) -> float:
    """Fall from 1 at u = 0 to 0 at u = period along a cosine."""
    return (1 + math.cos(phase(u, period))) / 2


class Wave(Schedule):
    """r·g(t) + o with a periodic g between 0 and 1, times its height at t."""

    l0: Number
    l1: Number
    period: Steps

    def at(self, t: int) -> float:
        """Give the value at step t."""
        r, o = abs(self.l0 - self.l1), min(self.l0, self.l1)
        return times(r * self.wave(t), self.height(t)) + o

    @abstractmethod
    def wave(self, t: int) -> float:
        """Give the wave at step t, between 0 and 1."""

    def height(self, t: int) -> float:
        """Give the wave's height at step t."""
        return 1.0


class Halving(Wave):
    """A wave whose height is halved after every period."""

    def height(self, t: int) -> float:
        """Give the wave's height at step t."""
        return power(0.5, (t - 1) // self.period)


class Decaying(Wave):
    """A wave whose height decays exponentially."""

    decay: Number

    def height(self, t: int) -> float:
        """Give the wave's height at step t."""
        return power(self.decay, t - 1)


class Triangle(Wave):
    r"""Go straight up and straight down between two values, over and over.

    .. math:: s(t) = r \cdot \tfrac{2}{\pi} \left| \arcsin \sin \frac{\pi (t-1)}{period} \right| + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the lower one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one rise and fall.

    Examples
    --------
    >>> Triangle(l0=0.0, l1=1.0, period=4)([1, 2, 3, 4, 5]).round(4)
    array([0. , 0.5, 1. , 0.5, 0. ])

    References
    ----------
    ParameterSchedulers.jl: ``Triangle``. Cyclical Learning Rates for Training Neural Networks,
    L. N. Smith, 2017, arXiv:1506.01186.
    """

    def wave(self, t: int) -> float:
        """Give the wave at step t, between 0 and 1."""
        return 2 / math.pi * abs(math.asin(math.sin(phase(t - 1, self.period))))


class TriangleDecay2(Halving, Triangle):
    r"""A triangle wave whose height is halved after every period.

    .. math:: s(t) = r \cdot 2^{-\lfloor (t-1)/period \rfloor}
              \cdot \tfrac{2}{\pi} \left| \arcsin \sin \frac{\pi (t-1)}{period} \right| + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the lower one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one rise and fall.

    Examples
    --------
    >>> TriangleDecay2(l0=0.0, l1=1.0, period=2)([1, 2, 3, 4, 5, 6]).round(4)
    array([0.  , 1.  , 0.  , 0.5 , 0.  , 0.25])

    References
    ----------
    ParameterSchedulers.jl: ``TriangleDecay2``. Cyclical Learning Rates for Training Neural Networks
    ("triangular2"), L. N. Smith, 2017, arXiv:1506.01186.
    """


class TriangleExp(Decaying, Triangle):
    r"""A triangle wave whose height decays exponentially.

    .. math:: s(t) = r \cdot decay^{t-1}
              \cdot \tfrac{2}{\pi} \left| \arcsin \sin \frac{\pi (t-1)}{period} \right| + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the lower one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one rise and fall.
    decay : float
        The factor from one step to the next. Also ``γ``.

    Examples
    --------
    >>> TriangleExp(l0=0.0, l1=1.0, period=2, decay=0.5)([1, 2, 3, 4]).round(4)
    array([0.   , 0.5  , 0.   , 0.125])

    References
    ----------
    ParameterSchedulers.jl: ``TriangleExp``. Cyclical Learning Rates for Training Neural Networks
    ("exp_range"), L. N. Smith, 2017, arXiv:1506.01186.
    """


class Sin(Wave):
    r"""Go up and down along the arches of a sine, over and over.

    .. math:: s(t) = r \cdot \left| \sin \frac{\pi (t-1)}{period} \right| + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the lower one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one arch.

    Examples
    --------
    >>> Sin(l0=0.0, l1=1.0, period=4)([1, 2, 3, 4, 5]).round(4)
    array([0.    , 0.7071, 1.    , 0.7071, 0.    ])

    References
    ----------
    ParameterSchedulers.jl: ``Sin``.
    """

    def wave(self, t: int) -> float:
        """Give the wave at step t, between 0 and 1."""
        return abs(math.sin(phase(t - 1, self.period)))


class SinDecay2(Halving, Sin):
    r"""A sine wave whose height is halved after every period.

    .. math:: s(t) = r \cdot 2^{-\lfloor (t-1)/period \rfloor}
              \cdot \left| \sin \frac{\pi (t-1)}{period} \right| + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the lower one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one arch.

    Examples
    --------
    >>> SinDecay2(l0=0.0, l1=1.0, period=2)([1, 2, 3, 4, 5, 6]).round(4)
    array([0.  , 1.  , 0.  , 0.5 , 0.  , 0.25])

    References
    ----------
    ParameterSchedulers.jl: ``SinDecay2``.
    """


class SinExp(Decaying, Sin):
    r"""A sine wave whose height decays exponentially.

    .. math:: s(t) = r \cdot decay^{t-1} \cdot \left| \sin \frac{\pi (t-1)}{period} \right| + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the lower one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one arch.
    decay : float
        The factor from one step to the next. Also ``γ``.

    Examples
    --------
    >>> SinExp(l0=0.0, l1=1.0, period=2, decay=0.5)([1, 2, 3, 4]).round(4)
    array([0.   , 0.5  , 0.   , 0.125])

    References
    ----------
    ParameterSchedulers.jl: ``SinExp``.
    """


class CosAnneal(Wave):
    r"""Fall along half a cosine; then jump back up and fall again, or turn round.

    .. math:: s(t) = r \cdot \tfrac{1}{2} \left( 1 + \cos \frac{\pi u}{period} \right) + o,
              \quad r = |l_0 - l_1|, \; o = \min(l_0, l_1)

    with :math:`u = (t-1) \bmod period`, or :math:`u = t - 1` without restarts.

    Parameters
    ----------
    l0, l1 : float
        The ends of the range, in either order; it starts at the higher one. Also ``λ0``, ``λ1``.
    period : int, at least 1
        The number of steps of one fall.
    restart : bool, default True
        Whether to start each period at the top. If not, the next period climbs the way the last fell.

    Examples
    --------
    >>> schedule = Cos(λ0=1e-4, λ1=1e-2, period=10)
    >>> schedule
    CosAnneal(l0=0.0001, l1=0.01, period=10, restart=True)
    >>> schedule(1), schedule(6), schedule(11)
    (0.01, 0.005050000000000001, 0.01)
    >>> CosAnneal(l0=0.0, l1=1.0, period=2, restart=False)([1, 2, 3, 4, 5])
    array([1. , 0.5, 0. , 0.5, 1. ])

    References
    ----------
    ParameterSchedulers.jl: ``CosAnneal``, earlier ``Cos``. SGDR: Stochastic Gradient Descent with Warm
    Restarts, I. Loshchilov and F. Hutter, 2017, arXiv:1608.03983.
    """

    restart: Annotated[bool, flag] = True

    def wave(self, t: int) -> float:
        """Give the wave at step t, between 0 and 1."""
        return half_cosine((t - 1) % self.period if self.restart else t - 1, self.period)


Cos = CosAnneal  # the page's name


class OneCycle(Schedule):
    r"""Warm up to a large value along a cosine, then anneal to almost nothing along another, and end.

    With :math:`h(x) = \tfrac{1}{2}(1 + \cos \pi x)`, which falls from 1 to 0, and
    :math:`n = \lceil percent\_start \cdot nsteps \rceil`,

    .. math:: s(t) = \begin{cases}
              maxval + (startval - maxval) \cdot h\left(\frac{t-1}{n}\right) & t \le n \\
              endval + (maxval - endval) \cdot h\left(\frac{t-1-n}{nsteps-n}\right) & n < t \le nsteps
              \end{cases}

    Parameters
    ----------
    nsteps : int, at least 1
        The number of steps.
    maxval : float
        The value at the top, which is reached right after the warm-up.
    startval : float, default maxval / 25
        The value at step 1.
    endval : float, default maxval / 1e5
        The value it falls towards; the step after the last would have it.
    percent_start : float in [0, 1], default 0.25
        The part of the steps that warms up. (A fraction, despite its name.)

    Examples
    --------
    >>> schedule = OneCycle(nsteps=8, maxval=1.0)
    >>> schedule(range(1, 9)).round(3)
    array([0.04 , 0.52 , 1.   , 0.933, 0.75 , 0.5  , 0.25 , 0.067])
    >>> len(schedule)
    8

    References
    ----------
    ParameterSchedulers.jl: ``OneCycle``. Super-Convergence: Very Fast Training of Neural Networks Using
    Large Learning Rates, L. N. Smith and N. Topin, 2018, arXiv:1708.07120.
    """

    nsteps: Steps = field()  # required, unlike that of other schedules
    maxval: Number
    startval: float | None = None
    endval: float | None = None
    percent_start: Annotated[float, partial(number, within="[0, 1]")] = 0.25

    def __post_init__(self) -> None:
        self.startval = self.maxval / 25 if self.startval is None else number("startval", self.startval)
        self.endval = self.maxval / 1e5 if self.endval is None else number("endval", self.endval)

    def at(self, t: int) -> float:
        """Give the value at step t."""
        start, end = cast("tuple[float, float]", (self.startval, self.endval))
        u, warmup = t - 1, math.ceil(self.percent_start * self.nsteps)
        if u < warmup:
            return self.maxval + (start - self.maxval) * half_cosine(u, warmup)
        return end + (self.maxval - end) * half_cosine(u - warmup, self.nsteps - warmup)


class WarmupCos(Schedule):
    r"""Warm up in a straight line, fall along half a cosine, and stay there.

    With :math:`u = t - 1`, up to which the steps are done,

    .. math:: s(t) = \begin{cases}
              startval + (maxval - startval) \cdot \frac{u}{warmup} & u < warmup \\
              endval + (maxval - endval) \cdot
              \tfrac{1}{2} \left( 1 + \cos \frac{\pi (u - warmup)}{steps - warmup} \right)
              & warmup \le u < steps \\
              endval & u \ge steps
              \end{cases}

    Parameters
    ----------
    steps : int, at least 1
        The number of steps of rise and fall together.
    maxval : float
        The value at the top.
    warmup : int, at least 0, default 0
        The number of steps of the rise, less than `steps`.
    startval : float, default 0
        The value at step 1, if there is a rise.
    endval : float, default 0
        The value that it falls to, and keeps.

    Examples
    --------
    >>> WarmupCos(steps=6, maxval=1.0, warmup=2)(range(1, 10)).round(3)
    array([0.   , 0.5  , 1.   , 0.854, 0.5  , 0.146, 0.   , 0.   , 0.   ])

    References
    ----------
    optax: ``warmup_cosine_decay_schedule``.
    """

    steps: Steps
    maxval: Number
    warmup: NonNegativeInt = 0
    startval: Number = 0.0
    endval: Number = 0.0

    def __post_init__(self) -> None:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup must be less than steps, {self.steps}, got {self.warmup}")

    def at(self, t: int) -> float:
        """Give the value at step t."""
        u = min(t - 1, self.steps)
        if u < self.warmup:
            return self.startval + (self.maxval - self.startval) * u / self.warmup
        height = half_cosine(u - self.warmup, self.steps - self.warmup)
        return self.endval + (self.maxval - self.endval) * height
