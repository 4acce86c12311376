"""What a rule is: a formula, the numbers that set it, and the arrays it keeps from step to step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any, ClassVar

import numpy as np

from minidiff.checks import is_ndarray, number, takes
from minidiff.iddict import IdDict
from minidiff.optimise.base import AbstractOptimiser
from minidiff.program.source import quiet
from minidiff.settings import Settings, dataclass_transform, no_setting
from minidiff.typing import Array

__all__ = ["Rule", "abs2", "chained", "in_dtype_of", "tuple_of", "widened"]


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


def widened(a: Array) -> Array:
    """Return an array of half precision in single precision, any other as it is.

    Half precision cannot hold the mean square of ordinary gradients (1e-8 of 1e-4). So a step of such a
    parameter is computed in single precision, and rounded once.

    Parameters
    ----------
    a : ndarray
        Any shape and dtype.

    Returns
    -------
    ndarray
        Of the same shape and values.

    Examples
    --------
    >>> widened(np.ones(2, np.float16)).dtype, widened(np.ones(2)).dtype
    (dtype('float32'), dtype('float64'))
    """
    return a.astype(np.float32) if a.dtype.char == "e" else a


def in_dtype_of(Δ: Array, x: Array) -> Array:
    """Return a gradient or a step in the dtype of its parameter, without a warning of what is lost.

    Parameters
    ----------
    Δ, x : ndarray
        Any shapes and dtypes; `Δ` is not complex where `x` is real.

    Returns
    -------
    ndarray
        Of the shape of `Δ`: `Δ` itself, if it has the dtype.

    Examples
    --------
    >>> in_dtype_of(np.ones(2), np.ones(2, np.float32)).dtype
    dtype('float32')
    """
    return Δ if Δ.dtype is x.dtype else quiet().run(Δ.astype, x.dtype)


class _NotPickled(dict[Any, Any]):
    """Stays behind where a class is pickled by value, as cloudpickle does with a notebook's."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _NotPickled, ()


@dataclass_transform(eq_default=False)
class Rule(Settings, AbstractOptimiser):
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
    - ``elementwise = False``, where the formula needs the parameter as it is: its norm, its shape.

    A float16 parameter is a float32 array to the formula, and so is what the formula keeps. The parameter
    is rounded once a step.

    In return it runs on whole arrays when they are small and block by block when they are large, alone or
    fused with the other members of an `Optimiser`, compiled where Numba is installed, on every dtype. A
    formula of arithmetic alone is only called when it is new to a dtype or a composition: its operations are
    written down and run without it. One that branches, that is not elementwise, or that reads anything but
    numbers that stay the same is called at every step, on whole arrays, and is not compiled.

    Settings are plain attributes, which may be changed between any two steps. Their annotations say how they
    are checked: ``float`` is a finite number of at least 0, ``tuple[float, float]`` are two of them.
    `minidiff.settings` has names for others, such as `Fraction`, a number in [0, 1).

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
    elementwise: ClassVar[bool] = True
    # True where `formula` gives the point to go to in place of the step: to subtract a step would round
    # twice. Such a rule is not elementwise.
    gives_point: ClassVar[bool] = False
    # What a parameter's clock shows before its first step; `tick` moves it on.
    clock: ClassVar[tuple[Any, ...]] = (0,)
    # True where `stepped` does something; and where it is not ours, and might not bear to be called twice.
    notes_steps: ClassVar[bool] = False
    hears_once: ClassVar[bool] = False

    # The formulas of the class, and of compositions that begin with it, as programs.
    formulas: ClassVar[dict[Any, Any]] = {}

    _greek = ("η eta", "ρ rho", "β beta", "ε epsilon", "λ wd", "λ decay", "γ gamma")
    _elsewhere = {  # noqa: RUF012
        **dict.fromkeys(("lr", "learning_rate"), "; eta is the rate"),
        "betas": "; beta is the pair",
        "eps": "; epsilon is ε",
        "weight_decay": "; write Optimiser(WeightDecay(0.1), …), or ADAMW(decay=0.1) for AdamW's",
        "momentum": "; Momentum(eta, rho) and Nesterov(eta, rho) have a momentum, rho",
        "nesterov": "; Nesterov(eta, rho) is a rule of its own",
        "centered": "; RMSProp(centred=True) is spelt so",
        "amsgrad": "; AMSGrad is a rule of its own",
    }
    _floats = partial(number, within="[0, inf)")

    state: IdDict[Any, dict[str, Any]]
    __signature__: ClassVar[inspect.Signature]  # for help(): `__new__` takes anything

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check(cls)
        cls.__signature__ = inspect.Signature([*inspect.signature(cls.__init__).parameters.values()][1:])
        cls.has_formula = cls.apply is Rule.apply
        cls.notes_steps = cls.stepped is not Rule.stepped
        cls.hears_once = cls.notes_steps and not cls.stepped.__module__.startswith("minidiff.")
        if "changes_more" not in vars(cls):
            cls.changes_more = cls.notes_steps or not cls.__module__.startswith("minidiff.")
        cls.formulas = _NotPickled()

    def __new__(cls, *_: Any, **__: Any) -> Rule:  # noqa: D102
        rule = super().__new__(cls)
        rule.__dict__["state"] = IdDict()
        return rule

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in self._checks or hasattr(type(self), name) or name.startswith("_")):
            raise AttributeError(no_setting(type(self), name))
        super().__setattr__(name, value)

    def _one_more(self, t: int) -> tuple[Any, ...]:
        """Return what a parameter's clock shows after one more step: its count of steps."""
        return (t + 1,)

    # It is declared as an attribute: a rule's own method may take more arguments than this one.
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
        x, kept = widened(x), dict[str, Any](clock=self.clock)
        for name in self.keeps:
            dtype = x.real.dtype if name in self.real else x.dtype
            kept[name] = np.full_like(x, self.initial(name), dtype=dtype)
        return kept

    def evaluate(self, x: Array, Δ: Array, olds: list[Array], numbers: Any) -> tuple[Array, list[Array]]:
        """Call the formula as it is; return the step, and new arrays to keep."""
        arguments = (x, Δ, *olds, *numbers)
        if not str(self.formula.__module__).startswith("minidiff."):  # it might write into what it is given
            arguments = (*[a.copy() for a in (x, Δ, *olds)], *numbers)
        try:
            with np.errstate(all="ignore"):
                result = self.formula(*arguments)
        except TypeError as error:
            if takes(self.formula, *arguments):
                raise
            raise TypeError(
                f"{type(self).__name__}.formula takes {inspect.signature(self.formula)}, but gets "
                f"{len(arguments)}: x, Δ, what is named in keeps, and the numbers that a method "
                "coefficients(self, t) returns, such as (self.eta,)"
            ) from error
        step, *values = result if isinstance(result, tuple) else (result,)
        if len(values) != len(olds):
            came = f"{len(result)}" if isinstance(result, tuple) else "one array"
            raise TypeError(
                f"{type(self).__name__}.formula must return {' and '.join(('the step', *self.keeps))}: "
                f"{1 + len(olds)} arrays, not {came}. What it keeps is named in keeps."
            )
        news = [np.empty_like(old) for old in olds]
        for name, new, value in zip(self.keeps, news, values, strict=True):
            if np.shape(value) != new.shape:
                raise ValueError(f"{type(self).__name__}.formula returned {name} of shape {np.shape(value)}")
            np.copyto(new, value)  # the value may be an argument, a view or a scalar
        return np.asarray(step).astype(x.dtype, casting="same_kind", copy=False), news

    def stepped(self, *clock: Any) -> None:
        """Take note that a parameter has made the step its clock shows. An error does not undo the step."""

    def apply(self, x: Any, Δ: Array) -> Array:
        """Advance the state of `x` by the gradient Δ and return the step to subtract from it."""
        value, Δ = widened(x if is_ndarray(x) else x.value), widened(Δ)
        kept = self.state.get(x) or self.begin(value)
        clock = self.tick(*kept["clock"])
        olds = [widened(kept[name]) for name in self.keeps]
        step, news = self.evaluate(value, Δ, olds, tuple_of(self, self.coefficients(*clock)))
        step = value - step if self.gives_point else step
        kept.update(zip(self.keeps, news, strict=True), clock=clock)
        self.state[x] = kept
        self.stepped(*clock)
        return step

    def arguments(self) -> dict[str, Any]:
        """Return the settings the repr shows: ``epsilon`` and ``start`` only if they are not the defaults."""
        return {
            name: value
            for name, value in super().arguments().items()
            if name not in ("epsilon", "start") or value != getattr(type(self), name, None)
        }


def tuple_of(rule: Rule, numbers: Any) -> tuple[Any, ...]:
    """Return what a rule's `coefficients` gave as a tuple.

    Parameters
    ----------
    rule : Rule
        The rule.
    numbers : iterable
        What it gave.

    Returns
    -------
    tuple
        The numbers.

    Raises
    ------
    TypeError
        For what is not several numbers.
    """
    try:
        return tuple(numbers)
    except TypeError:
        raise TypeError(
            f"{type(rule).__name__}.coefficients must return a tuple of numbers, such as (self.eta,), "
            f"not {numbers!r:.60}"
        ) from None


def chained(
    rules: Iterable[Rule], x: Any, step: Any, kept: Iterable[Any], numbers: Iterable[Any]
) -> tuple[Any, list[Any]]:
    """Send a gradient through the formulas of rules, one after another.

    Parameters
    ----------
    rules : iterable of Rule
        The rules.
    x, step : array
        The parameter and its gradient.
    kept : iterable of array
        What the rules keep, of one after the other.
    numbers : iterable of tuple
        For each rule its formula's numbers.

    Returns
    -------
    array
        The step.
    list
        All that the rules will keep.

    Examples
    --------
    >>> from minidiff.optimise import Descent, WeightDecay
    >>> rules, ones = [WeightDecay(), Descent()], np.ones(2)
    >>> chained(rules, ones, ones, [], [(0.5,), (0.1,)])
    (array([0.15, 0.15]), [])
    """
    olds, news = iter(kept), list[Any]()
    for rule, mine in zip(rules, numbers, strict=True):
        result = rule.formula(x, step, *[next(olds) for _ in rule.keeps], *mine)
        step, *new = result if rule.keeps else (result,)
        news += new
    return step, news


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
