"""The one way to take a step: a gradient goes through optimisers, and what comes out is subtracted.

The formulas of a composition become one program of NumPy calls. A step is then: each rule's numbers for
this step, the arrays that the rules keep, the program, and the changes. All that can fail comes before the
changes.

On small arrays the program gives new arrays, which then replace the old ones. On large ones it writes over
them, a block at a time, so that its temporaries stay in the processor's cache; the changes come with the
arithmetic, and an interrupt (Ctrl-C) waits until all are made. Where Numba is installed, and once that
pays, a compiled loop does the same.

A stage with an `apply` of its own stands between two programs. A formula that cannot be written down,
because it branches or is not elementwise, is called as it is, on whole arrays.

Infinity and NaN take their way without warnings.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from functools import partial
from importlib.util import find_spec
from types import FunctionType
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from minidiff.interrupts import whole
from minidiff.optimise.base import SETTINGS, applied
from minidiff.program.purity import Reading, readings
from minidiff.program.source import Program, quiet
from minidiff.typing import Array

__all__ = ["engine", "step_of", "take"]

# Bytes of a block, and of the largest array that is computed whole. A formula's dozen temporaries of this
# size fit into a second-level cache; from 128 KiB on, the C library gets each of them from the system anew.
BLOCK = 96 * 1024
# Seconds that steps on large arrays must have taken before one is made: as many as it takes to import Numba
# and to compile.
PATIENCE = 2.0

_ENGINE: ContextVar[str] = ContextVar("engine", default="auto")


class engine:  # noqa: N801 - it is called as a function is
    """Choose how formulas run, from here on or within a ``with`` block.

    Parameters
    ----------
    name : {"auto", "numpy", "fused"}
        "numpy" runs them with NumPy, always. "fused" compiles them with Numba, for arrays of any size.
        "auto", the default, runs them with NumPy too, until large arrays have taken as long as it takes to
        import Numba and to compile; from then on compiled, if Numba is installed and gives the same bits.
        Formulas that Numba cannot compile, half precision, and arrays that are not contiguous run with NumPy
        in any case.

    Raises
    ------
    ValueError
        For another name.
    ImportError
        For "fused" without Numba.

    Notes
    -----
    The choice is a context variable: each thread and each asynchronous task has its own.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, engine, update
    >>> x = np.zeros(1_000_000)
    >>> with engine("numpy"):
    ...     update(ADAM(), x, np.ones(1_000_000))
    """

    def __init__(self, name: Literal["auto", "numpy", "fused"]) -> None:
        if name not in ("auto", "numpy", "fused"):
            raise ValueError(f"engine must be 'auto', 'numpy' or 'fused', not {name!r}")
        if name == "fused" and find_spec("numba") is None:
            raise ImportError("the fused engine needs Numba: pip install 'minidiff[fast]'")
        self._name = name
        self._before: Token[str] | None = _ENGINE.set(name)

    def __enter__(self) -> None:
        if self._before is None:
            self._before = _ENGINE.set(self._name)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _ENGINE.reset(self._before)
            self._before = None


def take(stages: list[Any], p: Any, x: Array, Δ: Array, out: Array | None = None) -> None:
    """Send a gradient through optimisers one after another, and subtract what comes out from the parameter.

    Parameters
    ----------
    stages : list of AbstractOptimiser
        From `AbstractOptimiser.stages`.
    p : Param or ndarray
        The parameter, under which the optimisers keep their state.
    x, Δ : ndarray
        Its values, and its gradient of the same shape.
    out : ndarray, optional
        Where to put the step, if it is not to be subtracted from `x`.
    """
    if len(stages) != 1 or not stages[0].has_formula:
        parts = _parts(stages)
        if len(parts) != 1 or type(parts[0]) is not list:
            return whole(_take_apart, parts, p, x, Δ, out)
    if x.nbytes > BLOCK or _ENGINE.get() == "fused":
        return whole(_take_over, stages, p, x, Δ, out)
    turns, values = _results(stages, p, x, Δ, out is None)
    try:
        return _change(turns, p, values, x if out is None else out)
    except BaseException:  # an interrupt: to make the changes again is to finish them
        _change(turns, p, values, x if out is None else out)
        raise


def step_of(stages: list[Any], p: Any, Δ: Array) -> Array:
    """Return what comes out, without subtracting it: what the `apply` of a composition gives.

    Parameters
    ----------
    stages, p, Δ
        As for `take`.

    Returns
    -------
    ndarray
        The step, a new array.
    """
    x = p if isinstance(p, np.ndarray) else p.value
    step = np.empty_like(x)
    take(stages, p, x, Δ, step)
    return step


def _parts(stages: list[Any]) -> list[Any]:
    """Split stages into lists of rules that run as one, each rule once, and stages with their own `apply`."""
    parts: list[Any] = []
    for stage in stages:
        if not stage.has_formula:
            parts.append(stage)
        elif parts and type(parts[-1]) is list and not any(stage is rule for rule in parts[-1]):
            parts[-1].append(stage)
        else:
            parts.append([stage])
    return parts


def _take_over(rules: list[Any], p: Any, x: Array, Δ: Array, out: Array | None) -> None:
    """Take a step that writes over the parameter, or `out`, and over what the rules keep."""
    target = x if out is None else out
    turns, values = _results(rules, p, x, Δ, out is None, target)
    _change(turns, p, values, target)


def _take_apart(parts: list[Any], p: Any, x: Array, Δ: Array, out: Array | None) -> None:
    """Take a step part after part in new arrays, and make all changes at the end."""
    new: dict[int, _Turn] = {}  # of each rule, with what it will keep
    for part in parts:
        if type(part) is not list:
            Δ = applied(part, p, _cast(Δ, x))
            continue
        turns, (Δ, *arrays) = _results(part, p, x, Δ, False, new=new)
        for rule, kept, _, clock, _ in turns:
            mine = {name: arrays.pop(0) for name in rule.keeps}
            new[id(rule)] = rule, {**kept, **mine, "clock": clock}, True, clock, ()
    result = quiet()(np.subtract, x, _cast(Δ, x)) if out is None else Δ
    arrays = [kept[name] for rule, kept, *_ in new.values() for name in rule.keeps]
    _change(list(new.values()), p, [result, *arrays], x if out is None else out)


# A rule's part in a step: the rule, what it has kept for the parameter, whether this is its first step, where
# its clock will stand, and its numbers.
_Turn: TypeAlias = tuple[Any, dict[str, Any], bool, tuple[Any, ...], tuple[Any, ...]]


def _results(
    rules: list[Any],
    p: Any,
    x: Array,
    Δ: Array,
    taking: bool,
    target: Array | None = None,
    new: Mapping[int, _Turn] | None = None,
) -> tuple[list[_Turn], Sequence[Array]]:
    """Compute a step.

    Parameters
    ----------
    rules, p, x, Δ
        As for `take`; the rules have formulas.
    taking : bool
        Whether to subtract the step from the parameter, or to give the step.
    target : ndarray, optional
        Where to put that. What the rules keep is then written over, else nothing is.
    new : mapping, optional
        The turns, by their rules' ids, that come before these in the same step.

    Returns
    -------
    list of tuple
        The turns.
    sequence of ndarray
        What becomes of the parameter, or the step; then all that the rules will keep.
    """
    turns: list[_Turn] = []
    arrays: list[Array] = [x, Δ if Δ.dtype is x.dtype or target is not None else _cast(Δ, x)]
    numbers: tuple[Any, ...] = ()
    with SETTINGS:  # in order: a rule may set what those after it go by
        for rule in rules:
            kept = new[id(rule)][1] if new and id(rule) in new else rule.state.get(p)
            begins = kept is None
            if begins:
                kept = rule.begin(x)
            clock = rule.tick(*kept["clock"])
            mine = rule.coefficients(*clock)
            if type(mine) is not tuple:
                mine = _tuple_of(rule, mine)
            numbers = numbers + mine if numbers else mine
            for name in rule.keeps:
                arrays.append(kept[name])  # noqa: PERF401 - a comprehension takes longer for so few
            turns.append((rule, kept, begins, clock, mine))
    formulas = _formulas(turns, x.dtype)
    program = formulas.programs[taking] if formulas.are_pure else formulas.program(taking)
    if program and x.ndim:
        try:
            if target is None and x.nbytes <= BLOCK:
                return turns, quiet()(program.run, arrays, formulas.none, numbers)
            quiet()(program.constants, numbers)
        except (TypeError, ValueError, ArithmeticError):
            pass  # numbers with which NumPy has to deal itself
        else:
            values = [target, *arrays[2:]] if target is not None else [a.copy() for a in (x, *arrays[2:])]
            arrays = [values[0] if taking else x, Δ, *values[1:]]
            formulas.sweep(program, arrays, values[0], numbers)
            return turns, values
    return turns, _as_written(turns, arrays, taking)


def _change(turns: list[_Turn], p: Any, values: Sequence[Array], x: Any) -> None:
    """Make the changes of a step. To make them twice is to make them once."""
    if values[0] is not x:
        x[...] = values[0]
    i = 0
    for rule, kept, begins, clock, _ in turns:
        kept["clock"] = clock
        for name in rule.keeps:
            i += 1
            kept[name] = values[i]
        if begins:
            rule.state[p] = kept
        if rule.notes_steps:
            rule.stepped(*clock)


def _tuple_of(rule: Any, numbers: Any) -> tuple[Any, ...]:
    try:
        return tuple(numbers)
    except TypeError:
        raise TypeError(
            f"{type(rule).__name__}.coefficients must return a tuple of numbers, such as (self.eta,), "
            f"not {numbers!r:.60}"
        ) from None


def _cast(Δ: Array, x: Array) -> Array:
    """Return a gradient or a step in the dtype of its parameter."""
    return Δ if Δ.dtype is x.dtype else quiet()(Δ.astype, x.dtype)


class _Formulas:
    """The formulas of a composition, for parameters of one dtype: as programs, and as compiled loops.

    A program either subtracts the step from the parameter, if it is `taking` it, or gives the step.
    """

    def __init__(self, turns: list[_Turn], dtype: np.dtype[Any]) -> None:
        rules, counts = [turn[0] for turn in turns], [len(turn[4]) for turn in turns]
        self.programs: dict[bool, Program] = {}  # empty if the formulas have to run as they are
        self._loops: dict[bool, Any] = {}
        self._readings: list[Reading] = []
        self._names, self._reason = ", ".join(type(rule).__name__ for rule in rules), ""
        self._spent = 0.0  # seconds of large steps
        example = np.array([0.3, -1.7, 2.9]).astype(dtype)
        kept = [abs(example) if name in rule.real else 1 * example for rule in rules for name in rule.keeps]
        self._dtypes, self.none = [a.dtype for a in kept], [None] * (1 + len(kept))

        def composed(taking: bool, x: Any, step: Any, *rest: Any) -> tuple[Any, ...]:
            olds, numbers = iter(rest), iter(rest[len(kept) :])
            news: list[Any] = []
            for rule, count in zip(rules, counts, strict=True):
                mine = [next(olds) for _ in rule.keeps]
                result = rule.formula(x, step, *mine, *[next(numbers) for _ in range(count)])
                step, *new = result if mine else (result,)
                news += new
            return x - step if taking else step, *news

        try:
            for rule in rules:
                self._readings += readings(rule.formula)
            if dtype.char != "e" and dtype.isnative:
                names = [f"s{i}" for i in range(len(kept))]
                arrays = dict(zip(["x", "g", *names], [example, example[::-1].copy(), *kept], strict=True))
                for taking, home in ((True, "x"), (False, "out")):
                    function = partial(composed, taking)
                    self.programs[taking] = Program(function, arrays, [home, *names], sum(counts))
        except Exception as error:  # whatever is wrong with a formula will show when it runs as it is
            self.programs, self._reason = {}, str(error) or type(error).__name__
        self.are_pure = bool(self.programs) and not self._readings  # as they will be for ever

    def program(self, taking: bool) -> Program | None:
        """Return the program, or None if the formulas have to run as they are."""
        if self._readings and any(reading.has_changed() for reading in self._readings):
            self.programs = {}  # what has changed once may do so again
        if not self.programs:
            self._explain()
            return None
        return self.programs[taking]

    def sweep(self, program: Any, arrays: list[Array], result: Array, numbers: tuple[Any, ...]) -> None:
        """Run a program over large arrays, writing over what is kept."""
        x, taking, started = arrays[0], result is arrays[0], time.perf_counter()
        if (loop := self._loop(x, taking)) and (vectors := _vectors(arrays if taking else [*arrays, result])):
            return loop(vectors, program.constants(numbers))  # type: ignore[no-any-return]
        call, iterate = quiet(), cast("Any", np.nditer)
        access = ["readonly", "readonly", *["readwrite"] * (len(arrays) - 1)]
        with iterate(
            [*arrays, result],
            ["external_loop", "buffered", "copy_if_overlap", "zerosize_ok"],
            [[how, "overlap_assume_elementwise"] for how in access],
            [x.dtype, x.dtype, *self._dtypes, x.dtype],
            casting="same_kind",
            buffersize=BLOCK // x.itemsize,
        ) as blocks:
            for *arrays_, result_ in blocks:
                call(program.run, arrays_, [result_, *arrays_[2:]], numbers)
        self._spent += time.perf_counter() - started
        return None

    def _loop(self, x: Array, taking: bool) -> Any:
        """Return the compiled loop if there is to be one. Without being asked for, it must be exact."""
        how, program = _ENGINE.get(), self.programs[taking]
        if how == "numpy" or (how == "auto" and self._spent < PATIENCE) or x.dtype.char not in "fd":
            return None
        from minidiff.program import kernel

        if how == "auto" and not kernel.is_exact(program):
            return None
        if taking not in self._loops:
            try:
                self._loops[taking] = kernel.compiled(program, x.dtype)
            except Exception as error:
                self._loops[taking], self._reason = None, str(error) or type(error).__name__
                self._explain()
        return self._loops[taking]

    def _explain(self) -> None:
        """Say, once, why these formulas are not compiled, to those who asked for it."""
        if self._reason and _ENGINE.get() == "fused":
            reason, self._reason = self._reason.strip().partition("\n")[0], ""
            message = f"{self._names}: runs with NumPy, because its formula cannot be compiled: {reason}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def _vectors(arrays: list[Array]) -> list[Array] | None:
    """Return arrays of one shape as contiguous vectors, or None where a compiled loop cannot take them."""
    together = 0x100 | 0x3  # aligned, and contiguous as in C, as in Fortran
    for a in arrays:
        together &= a.flags.num
    x, Δ, *rest = arrays
    apart = Δ is x or not any(np.may_share_memory(Δ, a) for a in (x, *rest))
    if apart and together & 0x100 and together & 0x3 and x.dtype is Δ.dtype:
        return [a.reshape(-1) if together & 0x1 else a.T.reshape(-1) for a in arrays]
    return None


def _formulas(turns: list[_Turn], dtype: np.dtype[Any]) -> _Formulas:
    """Find the formulas of these rules, which the first one's class keeps: they are freed with it."""
    first, *_, numbers = turns[0]
    key: tuple[Any, ...] = dtype, first.formula, len(numbers)
    if len(turns) > 1:
        key = dtype, *[(type(rule), rule.formula, len(numbers)) for rule, *_, numbers in turns]
    formulas: _Formulas | None = first.made.get(key)
    if formulas is None:
        formulas = _Formulas(turns, dtype)
        if all(isinstance(turn[0].formula, FunctionType) for turn in turns):
            first.made[key] = formulas  # a method would keep its optimiser alive here
    return formulas


def _as_written(turns: list[_Turn], arrays: list[Array], taking: bool) -> list[Array]:
    """Call the formulas themselves, on whole arrays."""
    x, step, *kept = arrays[0], _cast(arrays[1], arrays[0]), *arrays[2:]
    new: list[Array] = []
    for rule, _, _, _, numbers in turns:
        step, more = rule.evaluate(x, step, [kept.pop(0) for _ in rule.keeps], numbers)
        new += more
    return [quiet()(np.subtract, x, step) if taking else step, *new]
