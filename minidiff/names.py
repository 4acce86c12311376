"""Errors for names that a module has not: where such a name is, or what there is for another library's."""

from __future__ import annotations

import dis
import sys
from difflib import get_close_matches
from importlib import import_module

import numpy as np

__all__ = ["missing", "tell"]

HOMES = "optimise", "schedules", "losses", "functions", "data", "plot", "parallel"
_CLIP = "clip_norm of minidiff.optimise, train(…, transform=clip_norm(1.0))"
_MODEL = "a model is a function of parameters: x @ W + b, with W = param(…); params(model) collects them"
_SCHEDULE = "of minidiff.schedules, a function of the step; the cheat sheet has it under Your schedule here"
_CLASSES = "logitcrossentropy of minidiff.losses takes scores, crossentropy probabilities"
# In small letters, without underscores: the names of JAX, optax, PyTorch, Keras and Flux. What is said of one
# in a module goes before what is said of it anywhere.
_INSTEAD = {
    "grad": "gradient(f, x)[0] is its gradient, gradient(lambda: loss(x, y), θ) that by parameters",
    "valueandgrad": "withgradient(f, x) gives both",
    "vjp": "pullback(f, x) gives the value and the way back",
    **dict.fromkeys(("customvjp", "customjvp", "primitive"), "derivative(rule)(f) gives f a rule of its own"),
    **dict.fromkeys(("jacfwd", "jacrev"), "jacobian(f, x) takes the cheaper way"),
    "jit": "compiled(loss, θ) is its gradient as straight lines of NumPy",
    "vmap": "NumPy's functions broadcast over leading axes",
    "treemap": "grads.map(f) goes over gradients, θ.to_vector() makes one vector of parameters",
    **dict.fromkeys(("stopgradient", "detach", "nograd"), "dropgrad(x) is the plain value"),
    **dict.fromkeys(("parameter", "tensor", "variable"), "param(x) makes a parameter of an array"),
    **dict.fromkeys(("numpy", "np"), "import numpy as np: losses are written in it"),
    **dict.fromkeys(("module", "linear", "dense", "chain", "sequential", "layer", "nn"), _MODEL),
    "optimise.chain": "Optimiser(…) composes several",
    **dict.fromkeys(("schedules.linear", "linearlr", "linearschedule"), f"Triangle {_SCHEDULE}"),
    **dict.fromkeys(("optim", "optimize", "optimizers"), "ADAM and others are in minidiff.optimise"),
    "optimizer": "Optimiser(…) composes several, AbstractOptimiser is the class of all, of minidiff.optimise",
    "sgd": "Descent of minidiff.optimise, or Momentum with rho",
    "sam": "sharp_gradient of minidiff.optimise",
    **dict.fromkeys(("lbfgs", "minimise"), "minimize of minidiff.optimise"),
    "fit": "train(loss, θ, data, opt)",
    "applyupdates": "update(opt, θ, grads) of minidiff.optimise takes the step",
    **dict.fromkeys(("clipgradnorm", "clipbyglobalnorm"), _CLIP),
    "steplr": f"Step {_SCHEDULE}",
    **dict.fromkeys(("exponentiallr", "exponentialdecay"), f"Exp {_SCHEDULE}"),
    **dict.fromkeys(("cosineannealing", "cosineannealinglr", "cosinedecay"), f"Cos {_SCHEDULE}"),
    **dict.fromkeys(("cosinedecayschedule", "warmupcosinedecayschedule"), f"WarmupCos {_SCHEDULE}"),
    **dict.fromkeys(("mseloss", "meansquarederror"), "mse of minidiff.losses"),
    **dict.fromkeys(("l1loss", "meanabsoluteerror"), "mae of minidiff.losses"),
    **dict.fromkeys(("bce", "bceloss"), "binarycrossentropy of minidiff.losses"),
    "bcewithlogitsloss": "logitbinarycrossentropy of minidiff.losses",
    "onehot": "np.eye(classes)[labels]; the losses take the numbers of the classes themselves",
    "dropout": "x * (rng.random(x.shape) > p) / (1 - p)",
    "accuracy": "np.mean(np.argmax(scores, axis=-1) == labels)",
    **dict.fromkeys(("crossentropy", "crossentropyloss", "nllloss"), _CLASSES),
    **dict.fromkeys(("sparsecategoricalcrossentropy", "categoricalcrossentropy"), _CLASSES),
    **dict.fromkeys(("swish", "silu"), "x * sigmoid(x), with the sigmoid of minidiff.functions"),
}


def _key(name: str) -> str:
    return name.lower().replace("_", "")


def missing(module: str, name: str) -> AttributeError | ImportError:
    """Give the error for a name that a module has not; its ``__getattr__`` calls this.

    Of ``from … import``, which would keep the words of an `AttributeError` to itself, it is an `ImportError`.
    """
    instead = ""
    if not name.startswith("_"):
        homes = [*(f"minidiff.{home}" for home in HOMES), "minidiff"]
        ours = {known: home for home in homes for known in import_module(home).__all__}
        alike = {_key(known): known for known in ours}
        cure = _INSTEAD.get(f"{module.removeprefix('minidiff.')}.{_key(name)}") or _INSTEAD.get(_key(name))
        if name in ours or (_key(name) in alike and not cure):
            known = name if name in ours else alike[_key(name)]
            instead = f": write from {ours[known]} import {known}"
        elif cure:
            instead = f": {cure}"
        elif name in np.__all__:
            instead = f": np.{name} is NumPy's"
        elif near := get_close_matches(_key(name), alike, 1, 0.8):
            instead = f": did you mean {alike[near[0]]}, of {ours[alike[near[0]]]}?"
    frame = sys._getframe(2)
    if dis.opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM":
        return ImportError(f"cannot import name {name!r} from {module!r}{instead}", name=name)
    return AttributeError(f"module {module!r} has no attribute {name!r}{instead}")


def tell(module: str) -> None:
    """Make a module say of what it has not where it is. Type checkers do not see that, and report it."""

    def __getattr__(name: str) -> None:  # noqa: N807
        raise missing(module, name)

    sys.modules[module].__getattr__ = __getattr__  # type: ignore[method-assign]
