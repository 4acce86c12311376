"""Schedules: hyperparameters, the learning rate above all, as functions of the step.

A schedule gives a value for every step ``t = 1, 2, 3, …``. It keeps no count and never changes:

>>> schedule = Cos(λ0=1e-4, λ1=1e-2, period=10)
>>> schedule(1)
0.01
>>> schedule([1, 6, 10]).round(5)
array([0.01   , 0.00505, 0.00034])
>>> for eta, epoch in zip(schedule, range(1, 4)):
...     print(f"epoch {epoch}: eta = {eta:.5f}")
epoch 1: eta = 0.01000
epoch 2: eta = 0.00976
epoch 3: eta = 0.00905

In a training loop, ``opt.eta = eta`` takes the place of the print. Where nothing else counts the epochs,
`Stateful` does; `Scheduler` makes an optimiser that sets its own rate before every step.

>>> schedule = Stateful(schedule)
>>> next(schedule)
0.01

Which schedule
--------------
Falling
    `Step` drops by a factor now and then, `Exp` at every step; `Inv` falls like 1/t;
    `Poly` falls to nothing in a given number of steps.
Cyclic
    `Triangle` and `Sin` swing between two values; ``…Decay2`` halves the swing after each period,
    ``…Exp`` shrinks it at each step. `CosAnneal`, or `Cos`, falls along a cosine and restarts.
    `OneCycle` warms up, anneals and ends; `WarmupCos` warms up, anneals and stays.
Made of others
    `Sequence` plays them one after another, the last of them for ever. `Loop` repeats, `Shifted` starts
    later, `Shortened` ends earlier, `Interpolator` stretches, `reverse` and `symmetric` turn round, and
    `ComposedSchedule` schedules the settings of another. `Constant` stays where it is.

They combine freely, with each other and with plain functions of ``t``. Ten steps of warm-up, then annealing:

>>> warmup = Triangle(l0=0.0, l1=1e-2, period=20)
>>> schedule = Sequence((warmup, 10), (Cos(λ0=1e-4, λ1=1e-2, period=90), 90))
>>> schedule([1, 6, 11, 56]).round(5)
array([0.     , 0.005  , 0.01   , 0.00505])
>>> Loop(lambda t: 0.1 / t, period=2)([1, 2, 3])
array([0.1 , 0.05, 0.1 ])

Most schedules have no end; those that have, have a length. Called beyond their end they raise an
IndexError; `Scheduler` and ``next`` of a `Stateful` hold the last value. A ``for`` loop ends with them, and
so does ``zip(schedule, epochs)``, however many epochs there are:

>>> len(Shortened(schedule, nsteps=100))
100
>>> [epoch for eta, epoch in zip(Poly(1.0, 1, 3), range(100))]
[0, 1, 2]

The keywords ``λ``, ``λ0``, ``λ1``, ``γ`` and ``p`` are other names for ``start``, ``l0``, ``l1``, ``decay``
and ``degree``. For a schedule of your own, any function of ``t`` will do; a subclass of `Schedule` can also
be iterated, compared and printed.

The names and formulas are those of the Julia package ParameterSchedulers.jl.
"""

from minidiff.names import tell
from minidiff.schedules.base import Constant, Schedule
from minidiff.schedules.combinators import (
    ComposedSchedule,
    Interpolator,
    Loop,
    Sequence,
    Shifted,
    Shortened,
    reverse,
    symmetric,
)
from minidiff.schedules.decays import Exp, Inv, Poly, Step
from minidiff.schedules.scheduler import Scheduler
from minidiff.schedules.stateful import Stateful
from minidiff.schedules.waves import (
    Cos,
    CosAnneal,
    OneCycle,
    Sin,
    SinDecay2,
    SinExp,
    Triangle,
    TriangleDecay2,
    TriangleExp,
    WarmupCos,
)

__all__ = [
    "ComposedSchedule",
    "Constant",
    "Cos",
    "CosAnneal",
    "Exp",
    "Interpolator",
    "Inv",
    "Loop",
    "OneCycle",
    "Poly",
    "Schedule",
    "Scheduler",
    "Sequence",
    "Shifted",
    "Shortened",
    "Sin",
    "SinDecay2",
    "SinExp",
    "Stateful",
    "Step",
    "Triangle",
    "TriangleDecay2",
    "TriangleExp",
    "WarmupCos",
    "reverse",
    "symmetric",
]

tell(__name__)
