"""The class that all optimisers derive from."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidiff.checks import is_ndarray
from minidiff.iddict import IdDict
from minidiff.program.signature import held_by
from minidiff.settings import as_call
from minidiff.typing import Array

__all__ = ["SETTINGS", "AbstractOptimiser", "applied", "inside", "member_with"]

# Held while rules give their numbers: a schedule sets the rate that another rule then reads.
SETTINGS = threading.RLock()

# What people look for who come from PyTorch.
_ELSEWHERE = {
    **dict.fromkeys(
        ("step", "zero_grad", "update", "apply_gradients"),
        "a step is update(opt, θ, gradient(lambda: loss(x, y), θ))",
    ),
    **dict.fromkeys(
        ("state_dict", "load_state_dict"), "save(path, θ, opt) and load(path, θ, opt) have its state"
    ),
    **dict.fromkeys(("lr", "learning_rate"), "its rate is opt.eta"),
    **dict.fromkeys(("fit", "minimize"), "train(loss, θ, data, opt) trains"),
    "init": "its state begins with the first step, update(opt, θ, grads)",
    "param_groups": "opt.eta is its rate; Grouped((ps, ADAM(1e-4)), rest=ADAM()) has groups",
}

_BASES = "minidiff.optimise.base", "minidiff.optimise.rule", "minidiff.settings"


class AbstractOptimiser:
    """The base of every optimiser.

    A subclass needs one method, ``apply(self, x, Δ)``: it takes a parameter and its gradient and returns
    the step, which `update` then subtracts from the parameter. It gets a copy of the gradient of its own,
    so it may write into Δ. What it has to remember from step to step it keeps in an `IdDict`, under the
    parameter; `reset`, copies, pickles and checkpoints then know what to do with it.

    Examples
    --------
    Momentum, written by hand:

    >>> import numpy as np
    >>> from minidiff.optimise import AbstractOptimiser, IdDict, update
    >>> class Momentum(AbstractOptimiser):
    ...     def __init__(self, eta, rho):
    ...         self.eta, self.rho, self.velocity = eta, rho, IdDict()
    ...
    ...     def apply(self, x, Δ):
    ...         v = self.velocity.setdefault(x, np.zeros_like(x))
    ...         v[...] = self.rho * v - self.eta * Δ
    ...         Δ[...] = -v
    ...         return Δ
    >>> opt, x = Momentum(eta=0.5, rho=0.5), np.array([1.0, 2.0])
    >>> update(opt, x, np.array([1.0, 0.0]))
    >>> update(opt, x, np.array([1.0, 0.0]))
    >>> x
    array([-0.25,  2.  ])

    A rule that is a formula, elementwise, is shorter and faster as a `Rule`.
    """

    # True where a step may use `formula` in place of `apply`, as `Rule` describes.
    has_formula: ClassVar[bool] = False
    # True where `stages` goes by the parameter.
    by_parameter: ClassVar[bool] = False
    # By name an `IdDict` that a checkpoint must agree with, and what settings="code" leaves as it is.
    _structure: ClassVar[tuple[str, ...]] = ()
    _of_settings: ClassVar[tuple[str, ...]] = ()
    # True where a step may change more than what a formula keeps for its parameter, as far as one can know.
    changes_more: ClassVar[bool] = True

    def apply(self, x: Any, Δ: Array) -> Any:
        """Advance the state of `x` and return the step to subtract from it.

        Parameters
        ----------
        x : Param or ndarray
            The parameter, the very object that was given to `update`.
        Δ : ndarray
            A copy of its gradient, of the parameter's shape and dtype; float32 where that is float16.

        Returns
        -------
        array_like
            The step, of the parameter's shape. It may be Δ itself.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a method apply(self, x, Δ) that returns the step"
        )

    def stages(self, x: Any = None) -> list[AbstractOptimiser]:
        """Return the optimisers that a gradient goes through, one after another: this one alone.

        Where that goes by the parameter, it is for `x`.
        """
        return [self]

    def sets(self) -> Iterable[AbstractOptimiser]:
        """Return the optimisers whose settings a formula's step sets, if it has one."""
        return ()

    def reset(self) -> None:
        """Forget all state: empty every `IdDict` among the attributes, and reset every member."""

        def resets(x: Any) -> bool:
            is_other = isinstance(x, AbstractOptimiser) and x is not self
            return is_other and type(x).reset is not AbstractOptimiser.reset

        for x in held_by(self, lambda x: () if resets(x) else inside(x)):
            if isinstance(x, IdDict):
                x.clear()
            elif resets(x):
                x.reset()

    def arguments(self) -> dict[str, Any]:
        """Return what the repr shows: the attributes that are settings and not state."""
        shown = (bool, int, float, str, tuple, AbstractOptimiser)
        return {k: v for k, v in vars(self).items() if isinstance(v, shown)}

    def __repr__(self) -> str:
        return as_call(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Say what there is in place of another library's method."""
            if name in _ELSEWHERE:
                raise AttributeError(f"{type(self).__name__} has no {name!r}: {_ELSEWHERE[name]}")
            return object.__getattribute__(self, name)  # which raises the error that came before

    def __dir__(self) -> list[str]:
        """List what users need, without what only the engine asks for."""
        bases = [kind for kind in type(self).__mro__ if kind.__module__ in _BASES]
        engine = {name for kind in bases for name in vars(kind)} - {"apply", "reset"}
        names = super().__dir__()
        return [name for name in names if name.startswith("__") or (name[0] != "_" and name not in engine)]


def member_with(opt: AbstractOptimiser, name: str) -> str:
    """Write which member of a composition has a setting, such as opt[1]; the first, if none has."""
    if "opt" in vars(opt):
        return "opt.opt"
    members = getattr(opt, "members", [])
    return f"opt[{next((i for i, member in enumerate(members) if hasattr(member, name)), 0)}]"


def inside(x: Any) -> Iterable[Any]:
    """Return what an optimiser, a list, a tuple or a dict holds; nothing for other things.

    Parameters
    ----------
    x : object
        What may hold optimisers and what they keep.
    """
    x = x.__dict__ if isinstance(x, AbstractOptimiser) else x
    return x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()


def applied(stage: AbstractOptimiser, p: Any, Δ: Array) -> Array:
    """Ask a stage for its step, and return it if it is one.

    Parameters
    ----------
    stage : AbstractOptimiser
        The stage.
    p : Param or ndarray
        The parameter.
    Δ : ndarray
        Its gradient, of the parameter's dtype. The stage gets a copy.

    Returns
    -------
    ndarray
        Of the shape of Δ, and of a dtype that can be subtracted from the parameter.

    Raises
    ------
    TypeError, ValueError
        If what the stage returns is no step for this parameter, or it has changed that itself.
    """
    name, x = f"{type(stage).__name__}.apply", p if is_ndarray(p) else p.value
    before = x if type(stage).__module__.startswith("minidiff.") else x.copy()
    try:
        returned = stage.apply(p, Δ.copy())
    finally:
        has_changed = before is not x and not np.array_equal(x, before, equal_nan=True)
        if has_changed:
            x[...] = before
    if has_changed:
        raise TypeError(f"{name} changed the parameter: it must leave x as it is, and return the step")
    if returned is None:
        raise TypeError(f"{name} returned None: it must return the step")
    step = np.asarray(returned)
    if step.shape != Δ.shape:
        raise ValueError(f"{name} returned a step of shape {step.shape} for a parameter of shape {Δ.shape}")
    if step.dtype.kind not in "fciub" or (step.dtype.kind == "c" and Δ.dtype.kind != "c"):
        raise TypeError(f"{name} returned a step of dtype {step.dtype} for a parameter of dtype {Δ.dtype}")
    return step
