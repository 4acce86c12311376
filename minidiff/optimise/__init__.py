"""Optimisers: rules, decays, clips and their compositions, and the loop that trains."""

from typing import Any

from minidiff.iddict import IdDict
from minidiff.names import missing
from minidiff.optimise.average import Average, ScheduleFreeADAMW, sharp_gradient
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
from minidiff.optimise.clips import ClipNorm, ClipValue, Project, non_negative, simplex, within_norm
from minidiff.optimise.compose import Lookahead, Optimiser
from minidiff.optimise.decays import ExpDecay, InvDecay, WeightDecay
from minidiff.optimise.engine import engine
from minidiff.optimise.grouped import Grouped
from minidiff.optimise.minimisers import least_squares, minimize
from minidiff.optimise.more import LAMB, Adafactor, Adan, Centralise, Lion, Muon, Rprop, SignDecay, Yogi
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
from minidiff.optimise.training import skip, stop, train
from minidiff.optimise.transforms import accumulate, clip_norm, skip_nonfinite
from minidiff.optimise.update import apply, reset, update

__all__ = [
    "ADAM",
    "ADAMW",
    "LAMB",
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
    "Adafactor",
    "Adam",
    "AdamW",
    "Adan",
    "Average",
    "Centralise",
    "ClipNorm",
    "ClipValue",
    "Descent",
    "ExpDecay",
    "Grouped",
    "IdDict",
    "InvDecay",
    "KeepBest",
    "Lion",
    "Lookahead",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "OAdam",
    "Optimiser",
    "Progress",
    "Project",
    "RAdam",
    "RMSProp",
    "ReducePlateau",
    "Rprop",
    "Rule",
    "ScheduleFreeADAMW",
    "SignDecay",
    "WeightDecay",
    "Yogi",
    "abs2",
    "accumulate",
    "apply",
    "clip_norm",
    "early_stopping",
    "engine",
    "least_squares",
    "minimize",
    "non_negative",
    "patience",
    "plateau",
    "reset",
    "sharp_gradient",
    "simplex",
    "skip",
    "skip_nonfinite",
    "stop",
    "throttle",
    "train",
    "update",
    "within_norm",
]


def __getattr__(name: str) -> Any:
    """Give `Scheduler`, an optimiser that is at home among the schedules, and say where others are."""
    if name == "Scheduler":
        from minidiff.schedules import Scheduler

        return Scheduler
    raise missing(__name__, name)
