"""Optimisers: rules, decays, clips and their compositions, and the loop that trains."""

from minidiff.iddict import IdDict
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.callbacks import early_stopping, patience, plateau, throttle
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
    "Momentum",
    "NAdam",
    "Nesterov",
    "OAdam",
    "Optimiser",
    "RAdam",
    "RMSProp",
    "Rule",
    "WeightDecay",
    "abs2",
    "apply",
    "early_stopping",
    "engine",
    "patience",
    "plateau",
    "reset",
    "skip",
    "stop",
    "throttle",
    "train",
    "update",
]
