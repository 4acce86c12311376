"""Gradients and optimisers for plain NumPy code.

Mark arrays as parameters, write a loss in NumPy, take its gradient, hand it to an optimiser:

>>> import numpy as np
>>> from minidiff import gradient, param, params
>>> from minidiff.optimise import Descent, update
>>> W, b = param([[1.0, 2.0]]), param([0.0])
>>> x, y = np.array([1.0, 1.0]), np.array([1.0])
>>> loss = lambda x, y: np.sum((W @ x + b - y) ** 2)
>>> θ = params(W, b)
>>> update(Descent(0.1), θ, gradient(lambda: loss(x, y), θ))
>>> round(float(loss(x, y)), 6)
0.64

The rest is in `minidiff.optimise` (rules, decays, clips, composition, training), `minidiff.schedules`,
`minidiff.losses`, `minidiff.functions`, `minidiff.data`, `minidiff.parallel` and `minidiff.plot`, which are
there after ``import minidiff`` as well, and read when they are first asked for.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from minidiff.checkpoint import load, save
from minidiff.compiled import compiled
from minidiff.data import DataLoader
from minidiff.gradient import dropgrad, gradient, hessian, hvp, jacobian, jvp, pullback, withgradient
from minidiff.grads import Grads
from minidiff.iddict import IdDict
from minidiff.implicit import fixed_point, implicit_root, recompute
from minidiff.names import missing
from minidiff.numerical import check_gradient
from minidiff.optimise import skip, stop, throttle, train
from minidiff.own import derivative
from minidiff.params import Param, Params, param, params
from minidiff.tracing import guard, watch

__version__ = "0.1.0"

__all__ = [
    "DataLoader",
    "Grads",
    "IdDict",
    "Param",
    "Params",
    "check_gradient",
    "compiled",
    "derivative",
    "dropgrad",
    "fixed_point",
    "gradient",
    "guard",
    "hessian",
    "hvp",
    "implicit_root",
    "jacobian",
    "jvp",
    "load",
    "param",
    "params",
    "pullback",
    "recompute",
    "save",
    "skip",
    "stop",
    "throttle",
    "train",
    "watch",
    "withgradient",
]


def __getattr__(name: str) -> Any:
    """Import a module of the package when it is first asked for, and say where else to look."""
    if name.startswith("_") or find_spec(f"minidiff.{name}") is None:
        raise missing(__name__, name)
    return import_module(f"minidiff.{name}")


def __dir__() -> list[str]:
    return [*globals(), "functions", "losses", "parallel", "plot", "schedules"]
