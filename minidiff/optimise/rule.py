"""What a rule is: a formula, the numbers that set it, and the arrays it keeps from step to step."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidiff.checks import integer
from minidiff.iddict import IdDict
from minidiff.optimise import engines
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.programs import representable
from minidiff.typing import Array

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Stand in for what only type checkers need."""
        return lambda cls: cls


__all__ = ["Rule", "abs2"]


def abs2(z: Any) -> Any:
    """Return ``|z|²`` of each element, real also where `z` is complex.

    Parameters
    ----------
    z : ndarray
        Any shape, real or complex.

    Returns
    -------
    ndarray
        Of the same shape, and of the real dtype of the same precision.

    Examples
    --------
    >>> abs2(np.array([3 + 4j, -2j]))
    array([25.,  4.])
    """
    if z.dtype.kind == "c":
        return z.real * z.real + z.imag * z.imag
    return z * z


class _Made(dict[Any, Any]):
    """Stays behind where a class is pickled by value, as cloudpickle does with a notebook's."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Made, ()


@dataclass_transform(eq_default=False)
class Rule(AbstractOptimiser):
    """An optimiser that is a formula, elementwise: the base of all the built-in ones.

    A rule is written as a dataclass is: annotated names with defaults are its settings and, in that order,
    the arguments that make one. To these it adds

    - ``formula``, a static method ``formula(x, Δ, *kept, *coefficients)`` of arithmetic and NumPy's
      elementwise functions (sums, means and norms cost the advantages below), which returns
      ``(step, *kept)``: the step to subtract and the new values of the arrays it keeps (the step alone, if
      it keeps none). It must not write into what it is given.
    - ``coefficients(self, t)``, which gives the formula its numbers at step ``t`` = 1, 2, 3… of the
      parameter: a tuple of Python floats.
    - ``keeps``, the names of the arrays that the formula keeps for each parameter, of its shape and dtype,
      zero at first; ``real``, those among them that are real even where the parameter is complex.

    In return it runs on whole arrays when they are small and block by block when they are large, alone or
    fused with the other members of an `Optimiser`, compiled where Numba is installed, on every dtype. A
    formula of arithmetic alone is only called once for each dtype: its operations are written down and run
    without it. One that branches, that is not elementwise, or that reads anything but numbers that stay the
    same is called at every step, on whole arrays, and is not compiled.

    Settings are plain attributes, which may be changed between any two steps. Those with the names that
    the built-in rules use (``eta``, ``beta``, ``rho``…) are checked in the same way.

    Attributes
    ----------
    state : IdDict
        For each parameter a dict: ``clock``, a tuple that begins with the number of its steps so far, and
        the arrays the rule keeps, by name.

    Examples
    --------
    The Lion rule of Chen et al. (2023, arXiv:2302.06675):

    >>> import numpy as np
    >>> from minidiff.optimise import Rule, update
    >>> class Lion(Rule):
    ...     eta: float = 1e-4
    ...     beta: tuple[float, float] = (0.9, 0.99)
    ...     keeps = ("m",)
    ...
    ...     def coefficients(self, t):
    ...         return self.eta, *self.beta
    ...
    ...     @staticmethod
    ...     def formula(x, Δ, m, η, β1, β2):
    ...         return η * np.sign(β1 * m + (1 - β1) * Δ), β2 * m + (1 - β2) * Δ
    >>> opt, x = Lion(η=0.1), np.array([1.0, 2.0])
    >>> opt
    Lion(eta=0.1, beta=(0.9, 0.99))
    >>> update(opt, x, np.array([3.0, -0.2]))
    >>> x
    array([0.9, 2.1])
    >>> opt.state[x]["m"]
    array([ 0.03 , -0.002])
    """

    keeps: ClassVar[tuple[str, ...]] = ()
    real: ClassVar[tuple[str, ...]] = ()
    # True where `coefficients` takes one more argument, the norm of all of Δ.
    needs_norm: ClassVar[bool] = False
    # What a parameter's clock shows before its first step; `tick` moves it on.
    clock: ClassVar[tuple[Any, ...]] = (0,)
    # True where `stepped` does something.
    notes_steps: ClassVar[bool] = False

    # What the engines have made of the class's formulas, and of compositions that begin with it.
    made: ClassVar[dict[Any, Any]] = {}

    state: IdDict[Any, dict[str, Any]]
    __signature__: ClassVar[inspect.Signature]  # for help(): `__new__` takes anything

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check(cls)
        dataclasses.dataclass(eq=False, repr=False)(cls)
        cls.__init__ = _with_greek_names(cls.__init__)  # type: ignore[method-assign]
        cls.__signature__ = _without_self(inspect.signature(cls.__init__))
        cls.has_formula = cls.apply is Rule.apply
        cls.notes_steps = cls.stepped is not Rule.stepped
        cls.made = _Made()

    def __new__(cls, *_: Any, **__: Any) -> Rule:  # noqa: D102
        rule = super().__new__(cls)
        rule.__dict__["state"] = IdDict()
        return rule

    def __setattr__(self, name: str, value: Any) -> None:
        check = _SETTINGS.get(name)
        if not (hasattr(type(self), name) or name in _settings_of(type(self)) or name.startswith("_")):
            raise AttributeError(_no_setting(type(self), name))
        super().__setattr__(name, value if check is None else check(name, value))

    def _one_more(self, t: int) -> tuple[Any, ...]:
        """Return what a parameter's clock shows after one more step: its count of steps."""
        return (t + 1,)

    # A rule's own may take more than one argument, which a method here would have to take as well.
    tick: ClassVar[Callable[..., tuple[Any, ...]]] = _one_more

    def can_show(self, *clock: Any) -> bool:
        """Tell whether a clock with these parts is possible, which is asked of one from a file."""
        return True

    def coefficients(self, *clock: Any, **_: Any) -> tuple[float, ...]:
        """Return the formula's numbers for the step that the clock shows."""
        return ()

    @staticmethod
    def formula(*args: Any, **_: Any) -> Any:
        """Return ``(step, *kept)`` for ``(x, Δ, *kept, *coefficients)``."""
        raise NotImplementedError("a Rule needs a static method formula(x, Δ, *kept, *coefficients)")

    def initial(self, name: str) -> float:
        """Return the value that every element of a kept array has before the first step."""
        return 0.0

    def begin(self, x: Array) -> dict[str, Any]:
        """Return what is kept for a parameter that has made no step yet."""
        kept: dict[str, Any] = {"clock": self.clock}
        for name in self.keeps:
            dtype = x.real.dtype if name in self.real else x.dtype
            kept[name] = np.zeros_like(x, dtype=dtype)
            start = self.initial(name)
            if start:
                (kept[name][...],) = representable((start,), dtype)
        return kept

    def stepped(self, *clock: Any) -> None:
        """Take note that a parameter has made the step its clock shows."""

    def apply(self, x: Any, Δ: Array) -> Array:
        """Advance the state of `x` by the gradient Δ and return the step to subtract from it."""
        return engines.step_of([self], x, Δ, formulas=True)

    def arguments(self) -> dict[str, Any]:
        """Return the settings the repr shows: ``epsilon`` and ``start`` only if they are not the defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.name not in ("epsilon", "start") or getattr(self, field.name) != field.default
        }


def _settings_of(rule: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(rule)]


def _no_setting(rule: type[Any], name: str) -> str:
    names = ", ".join(_settings_of(rule))
    none = f"it has none. In the class, one is written {name}: float = 0.1"
    return f"{rule.__name__} has no setting {name!r}: " + (f"it has {names}" if names else none)


def _check(rule: type[Any]) -> None:
    """Refuse a class that could never take a step."""
    for name in ("keeps", "real"):
        names = getattr(rule, name)
        if isinstance(names, str) or (
            isinstance(names, (tuple, list)) and not all(isinstance(item, str) for item in names)
        ):
            raise TypeError(f'{rule.__name__}.{name} must be a tuple of names, such as ("m",), not {names!r}')
    formula = vars(rule).get("formula")
    if isinstance(formula, FunctionType) and next(iter(inspect.signature(formula).parameters), "") != "self":
        raise TypeError(f"{rule.__name__}.formula must be a static method: write @staticmethod above it")


# The page's Greek names for keyword arguments, and the settings that they may mean.
_GREEK = {
    "η": ("eta",),
    "ρ": ("rho",),
    "β": ("beta",),
    "ε": ("epsilon",),
    "λ": ("wd", "decay"),
    "γ": ("gamma",),
}


def _without_self(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _with_greek_names(init: Callable[..., None]) -> Callable[..., None]:
    known = inspect.signature(init).parameters
    plain = {
        greek: name
        for greek, names in _GREEK.items()
        for name in names
        if name in known and greek not in known
    }

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs.keys() - known.keys() - plain.keys():
            raise TypeError(_no_setting(type(self), name))
        for greek in plain.keys() & kwargs.keys():
            if plain[greek] in kwargs:
                raise TypeError(f"{plain[greek]} is given twice, also as {greek}")
            kwargs[plain[greek]] = kwargs.pop(greek)
        init(self, *args, **kwargs)

    return wrapped


def _number(name: str, value: Any, meaning: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {meaning}, not {value!r} (of type {type(value).__name__})")
    return float(value)


def _non_negative(name: str, value: Any) -> float:
    number = _number(name, value, "a number of at least 0")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, not {value!r}")
    return number


def _fraction(name: str, value: Any) -> float:
    number = _number(name, value, "a number in [0, 1)")
    if not 0 <= number < 1:
        raise ValueError(f"{name} must lie in [0, 1), not be {value!r}")
    return number


def _fractions(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list, np.ndarray)) or np.ndim(value) != 1:
        raise TypeError(f"{name} must be a pair of numbers in [0, 1), not {value!r}")
    if len(value) != 2:
        raise ValueError(f"{name} must be a pair of numbers in [0, 1), not {len(value)} of them: {value!r}")
    return _fraction(f"{name}[0]", value[0]), _fraction(f"{name}[1]", value[1])


# What each setting's name means, wherever it occurs: a function that returns the value to store, or raises.
_SETTINGS: dict[str, Callable[[str, Any], Any]] = {
    "eta": _non_negative,
    "rho": _fraction,
    "beta": _fractions,
    "epsilon": _non_negative,
    "decay": _non_negative,
    "gamma": _non_negative,
    "wd": _non_negative,
    "thresh": _non_negative,
    "clip": _non_negative,
    "decay_step": functools.partial(integer, least=1),
    "start": functools.partial(integer, least=0),
}
