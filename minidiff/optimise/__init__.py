"""Optimisers: rules, decays, clips and their compositions, and the loop that trains."""

from typing import Any

from minidiff.iddict import IdDict
from minidiff.optimise.average import Average
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.callbacks import (
    KeepBest,
    Progress,
    ReducePlateau,
    early_stopping,
    patience,
    plateau,
    throttle,
)
from minidiff.optimise.clips import ClipNorm, ClipValue
from minidiff.optimise.compose import Optimiser
from minidiff.optimise.decays import ExpDecay, InvDecay, WeightDecay
from minidiff.optimise.grouped import Grouped
from minidiff.optimise.more import Lion, Rprop, SignDecay, Yogi
from minidiff.optimise.rule import Rule, abs2
from minidiff.optimise.rules import (
    ADAM,
    ADAMW,
    NADAM,
    OADAM,
    RADAM,
    AdaBelief,
    ADADelta,
    AdaDelta,
    ADAGrad,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    AMSGrad,
    Descent,
    Momentum,
    NAdam,
    Nesterov,
    OAdam,
    RAdam,
    RMSProp,
)
from minidiff.optimise.step import engine
from minidiff.optimise.training import skip, stop, train
from minidiff.optimise.transforms import accumulate, clip_norm, skip_nonfinite
from minidiff.optimise.update import apply, reset, update

__all__ = [
    "ADAM",
    "ADAMW",
    "NADAM",
    "OADAM",
    "RADAM",
    "ADADelta",
    "ADAGrad",
    "AMSGrad",
    "AbstractOptimiser",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adam",
    "AdamW",
    "Average",
    "ClipNorm",
    "ClipValue",
    "Descent",
    "ExpDecay",
    "Grouped",
    "IdDict",
    "InvDecay",
    "KeepBest",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "OAdam",
    "Optimiser",
    "Progress",
    "RAdam",
    "RMSProp",
    "ReducePlateau",
    "Rprop",
    "Rule",
    "SignDecay",
    "WeightDecay",
    "Yogi",
    "abs2",
    "accumulate",
    "apply",
    "clip_norm",
    "early_stopping",
    "engine",
    "patience",
    "plateau",
    "reset",
    "skip",
    "skip_nonfinite",
    "stop",
    "throttle",
    "train",
    "update",
]


def __getattr__(name: str) -> Any:
    """Give `Scheduler`, an optimiser that is at home among the schedules, and say where others are."""
    from minidiff import schedules

    if name == "Scheduler":
        return schedules.Scheduler
    where = ": it is in minidiff.schedules" if name in schedules.__all__ else ""
    raise AttributeError(f"module 'minidiff.optimise' has no attribute {name!r}{where}")
