"""Optimisers: rules, decays, clips and their compositions, and the loop that trains."""

from minidiff.iddict import IdDict
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
    "ClipNorm",
    "ClipValue",
    "Descent",
    "ExpDecay",
    "IdDict",
    "InvDecay",
    "KeepBest",
    "Momentum",
    "NAdam",
    "Nesterov",
    "OAdam",
    "Optimiser",
    "Progress",
    "RAdam",
    "RMSProp",
    "ReducePlateau",
    "Rule",
    "WeightDecay",
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
