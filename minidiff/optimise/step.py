"""The one way to take a step: a gradient goes through optimisers, and what comes out is subtracted.

The rules of a composition are one program of NumPy calls. A step has four stages. Each rule gives its numbers
for this step. The arrays that the rules keep are looked up. The program computes new values. Then everything
changes: the parameter, the arrays, the rules' clocks. All that can fail comes before the changes; of several
parameters, before the changes of the first. What an optimiser with an `apply` of its own has changed by then
is put back (`undo.py`).

On small arrays the program gives new arrays, and these replace the old ones. On large arrays it works on one
block at a time and writes over what it has read, so that its temporaries stay in the processor's cache: that
cannot fail, and is one of the changes. An interrupt (Ctrl-C) waits until the last block is done. Where Numba
is installed, a compiled loop takes over once that pays.

An optimiser with an `apply` of its own stands between two programs. A formula that branches, or that is not
elementwise, cannot be a program: it is called as it is written, with complete arrays. A parameter in half
precision makes its step in single precision, and is rounded once.

Infinity and NaN give no warnings here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from operator import attrgetter
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np

from minidiff.checks import is_ndarray, share_memory, warn
from minidiff.interrupts import each, failures, finish, whole
from minidiff.optimise.base import SETTINGS, applied
from minidiff.optimise.engine import ENGINE
from minidiff.optimise.rule import chained, in_dtype_of, tuple_of, widened
from minidiff.optimise.undo import any_changes_more, remembered
from minidiff.program.purity import readings
from minidiff.program.source import Program, quiet
from minidiff.typing import Array

__all__ = ["compute", "make", "step_of", "take"]

# Bytes of a block, and of the largest array that is computed in one piece. A formula's dozen temporaries of
# this size fit into a second-level cache. From 128 KiB on, the C library asks the system for each of them.
BLOCK = 96 * 1024
# A program that has spent this many seconds on large arrays becomes a compiled loop. To import Numba and to
# compile takes as long.
PATIENCE = 2.0

_HEARS_ONCE = attrgetter("hears_once")


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
    if not _is_simple(stages, x):
        return whole(_take_whole, stages, p, x, Δ, out)
    more = stages[0].changes_more or (len(stages) > 1 and any_changes_more(stages))
    back = remembered([p], stages) if more else list
    try:
        formulas, turns, arrays, numbers = _begin(stages, p, x, Δ, out is None)
        values = formulas.values(turns, arrays, numbers)
    except BaseException:
        back()
        raise
    settle = whole if more and any(map(_HEARS_ONCE, stages)) else finish
    return settle(_change, p, x if out is None else out, values, turns)


def _take_whole(*step: Any) -> None:
    changes: list[Change] = []
    compute([step], changes, step[0])
    make(changes)


# What remains of a step when nothing can fail any more: a function and its arguments.
Change: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]


def compute(steps: Sequence[Any], changes: list[Change], stages: list[Any]) -> Callable[[], object]:
    """Compute steps, of several parameters, and change nothing. If one fails, all is as before.

    Parameters
    ----------
    steps : sequence of tuple
        Arguments of `take`.
    changes : list
        To which the steps' changes are added, one after another: for `make`.
    stages : list of AbstractOptimiser
        Those of all steps.

    Returns
    -------
    callable
        Makes all as before, if the changes are not to be made.
    """
    more = any_changes_more(stages)
    sets = more and any(stage.sets() for stage in stages) and len(_parts(stages)) > 1
    with SETTINGS if sets else nullcontext():  # the parts after it read what a schedule sets
        back = remembered([p for _, p, *_ in steps], stages) if more else list
        try:
            for step in steps:
                changes.append(_change_of(*step))  # noqa: PERF401 - which one fails is told by their number
            _save_gradients(changes)
        except BaseException:
            back()
            raise
    return back


def _save_gradients(changes: list[Change]) -> None:
    """Copy the gradients of large steps, which are read last, where an earlier change would show."""
    late = [given[1] for change, (_, _, given, _) in changes if change is _sweep]
    xs = [x for _, (_, x, *_) in changes] if late else []
    if len(xs) > 1 and share_memory([*xs, *[Δ for _, Δ, *_ in late]]):
        for arrays in late:
            if any(np.may_share_memory(arrays[1], x) for x in xs if x is not arrays[0]):
                arrays[1] = arrays[1].copy()


def make(changes: list[Change]) -> None:
    """Make the changes of steps: all of them, also if a rule that takes note of its step raises an error.

    Parameters
    ----------
    changes : list
        From `compute`.
    """
    each(lambda change, given: change(*given), changes)


def _is_simple(stages: list[Any], x: Array) -> bool:
    """Tell whether a step is one program on a small array."""
    if x.nbytes > BLOCK or x.dtype.char == "e" or ENGINE.get() == "fused" or not stages:
        return False
    return stages[0].has_formula and (len(stages) == 1 or len(_parts(stages)) == 1)


def _change_of(stages: list[Any], p: Any, x: Array, Δ: Array, out: Array | None = None) -> Change:
    """Compute a step part after part, and give its change. A large one of one part is computed by that."""
    if _is_simple(stages, x):
        formulas, mine, arrays, numbers = _begin(stages, p, x, Δ, out is None, tells=True)
        return _change, (p, x if out is None else out, formulas.values(mine, arrays, numbers), mine)
    parts, is_large = _parts(stages), x.nbytes > BLOCK or ENGINE.get() == "fused"
    target, x = x if out is None else out, widened(x)
    turns, values, after = list[_Turn](), list[Array](), dict[int, Any]()
    for part in parts:
        if not part[0].has_formula:
            Δ = applied(part[0], p, in_dtype_of(Δ, x))
            continue
        subtracts = out is None and part is parts[-1]
        formulas, mine, arrays, numbers = _begin(part, p, x, Δ, subtracts, after, tells=True)
        arrays[2:] = map(widened, arrays[2:])  # an older version kept half precision
        is_sure = is_large and formulas.are_sure(arrays, numbers)
        if is_sure and len(parts) == 1 and target.dtype is x.dtype:
            return _sweep, (p, target, (formulas, arrays, numbers), mine)
        Δ, *new = (is_sure and formulas.swept(arrays, numbers)) or formulas.values(mine, arrays, numbers)
        turns, values = turns + mine, values + new
        for rule, _, _, clock, _ in mine:
            after[id(rule)] = {**{name: new.pop(0) for name in rule.keeps}, "clock": clock}
    if out is None and not (parts and parts[-1][0].has_formula):
        Δ = quiet().run(np.subtract, x, in_dtype_of(Δ, x))
    return _change, (p, target, [in_dtype_of(Δ, target), *values], turns)


def step_of(stages: list[Any], p: Any, Δ: Array) -> Array:
    """Return what comes out, without subtracting it: what the `apply` of a composition gives.

    Parameters
    ----------
    stages, p, Δ
        As for `take`.

    Returns
    -------
    ndarray
        The step, a new array; of a float16 parameter in single precision.
    """
    x = p if is_ndarray(p) else p.value
    step = np.empty_like(widened(x))
    take(stages, p, x, Δ, step)
    return step


def _parts(stages: list[Any]) -> list[list[Any]]:
    """Split stages into lists of rules that run as one, each rule once.

    One with its own `apply` is alone. So is one that is not elementwise, but for the counts of its schedules:
    their numbers are taken at once.
    """
    parts: list[list[Any]] = []
    for stage in stages:
        last = parts[-1] if parts and stage.has_formula and parts[-1][-1].has_formula else None
        joins = last and last[-1].elementwise and (stage.elementwise or all(rule.sets() for rule in last))
        if last and joins and stage not in last:
            last.append(stage)
        else:
            parts.append([stage])
    return parts


def _sweep(p: Any, x: Array, given: tuple[_Formulas, list[Array], Any], turns: list[_Turn]) -> None:
    """Compute a large step over what it reads, and make the changes."""
    formulas, arrays, numbers = given
    _change(p, x, formulas.swept(arrays, numbers, x) or formulas.values(turns, arrays, numbers), turns)


# What one rule contributes to a step: the rule; what it keeps; whether that is new; its next clock; its
# numbers.
_Turn: TypeAlias = tuple[Any, dict[str, Any], bool, tuple[Any, ...], tuple[Any, ...]]


def _begin(
    rules: list[Any], p: Any, x: Array, Δ: Array, subtracts: bool, after: Any = None, *, tells: bool = False
) -> tuple[_Formulas, list[_Turn], list[Array], tuple[Any, ...]]:
    """Ask rules for their parts in a step.

    Parameters
    ----------
    rules, p, x, Δ
        As for `take`; the rules have formulas.
    subtracts : bool
        Whether the formulas subtract the step from the parameter, too.
    after : mapping, optional
        By their ids, what rules that have had a turn in this step will have kept.
    tells : bool
        Whether rules are told of their step at once, for those after them. If the step fails, `remembered`
        puts back what that changes.

    Returns
    -------
    tuple
        The formulas, the turns, all the arrays that the formulas take, and all the numbers.
    """
    turns: list[_Turn] = []
    arrays = [x, Δ]
    numbers: tuple[Any, ...] = ()
    key: tuple[Any, ...] = (x.dtype, subtracts, x.size == 1)
    with SETTINGS:  # in order: a rule may set the rate of those after it
        for rule in rules:
            before = rule.state.get(p)
            kept = (after and after.get(id(rule))) or before or rule.begin(x)
            clock = rule.tick(*kept["clock"])
            mine = rule.coefficients(*clock)
            if type(mine) is not tuple:
                mine = tuple_of(rule, mine)
            for name in rule.keeps:
                arrays.append(kept[name])  # noqa: PERF401 - a comprehension takes longer for so few
            if tells and rule.notes_steps and not rule.hears_once:
                rule.stepped(*clock)  # it bears to be told twice
            turns.append((rule, kept, kept is not before, clock, mine))
            numbers += mine
            key += (type(rule), rule.formula, len(mine))
    return rules[0].formulas.get(key) or _Formulas(turns, key), turns, arrays, numbers


def _change(p: Any, x: Array, values: Sequence[Array], turns: list[_Turn]) -> None:
    """Make the changes of a step. To make them twice is to make them once."""
    news, notes = iter(values), False
    x[...] = next(news)  # NumPy does nothing if that is x itself
    for rule, kept, is_new, clock, _ in turns:
        kept["clock"] = clock
        for name in rule.keeps:
            kept[name] = next(news)
        if is_new:
            rule.state[p] = kept
        notes = notes or rule.notes_steps
    if notes:
        each(lambda rule, _kept, _is_new, clock, _mine: rule.stepped(*clock), turns)


class _Formulas:
    """The formulas of rules that run as one: as a program, and as a compiled loop.

    The first rule's class holds them, so that they are freed with it. Their key there is the dtype, whether
    they subtract the step, whether the arrays have a single element, and what tells the rules apart.

    Attributes
    ----------
    program : Program or None
        None if the formulas have to run as they are.
    """

    def __init__(self, turns: list[_Turn], key: tuple[Any, ...]) -> None:
        dtype, self._subtracts, is_single, *_ = key
        rules = [turn[0] for turn in turns]
        self.program: Any = None
        self._readings: list[Callable[[], bool]] = []  # each tells whether what a formula reads has changed
        self._names, self._reason = ", ".join(type(rule).__name__ for rule in rules), ""
        self._compiled: Any = None  # the loop; False if there can be none
        self._spent = 0.0  # seconds on large arrays
        example = np.array([0.3, -1.7, 2.9]).astype(dtype)[: 1 if is_single else None]
        kept = [abs(example) if name in rule.real else +example for rule in rules for name in rule.keeps]
        self._dtypes = [a.dtype for a in kept]

        def composed(x: Any, step: Any, *rest: Any) -> tuple[Any, ...]:
            numbers = iter(rest[len(kept) :])
            mine = [[next(numbers) for _ in turn[4]] for turn in turns]
            step, news = chained(rules, x, step, rest[: len(kept)], mine)
            return x - step if self._subtracts else step, *news

        try:
            if not (rules[-1].elementwise and dtype.isnative):
                raise TypeError("it is not elementwise" if dtype.isnative else "bytes are swapped")
            self._readings = [reading for rule in rules for reading in readings(rule.formula)]
            arrays = {"x": example, "g": example[::-1].copy(), **{f"s{i}": a for i, a in enumerate(kept)}}
            homes = ["x" if self._subtracts else "out", *[*arrays][2:]]
            self.program = Program(composed, arrays, homes, sum(len(turn[4]) for turn in turns))
        except failures() as error:  # a formula that is wrong will show it when it runs as it is written
            self._reason, self._readings = str(error) or type(error).__name__, []
        if all(isinstance(rule.formula, FunctionType) for rule in rules):
            rules[0].formulas[key] = self  # a method would keep its optimiser alive here

    def values(self, turns: list[_Turn], arrays: list[Array], numbers: Any) -> Sequence[Array]:
        """Compute what becomes of the parameter, or the step; then all that the rules will keep.

        Parameters
        ----------
        turns, arrays, numbers
            From `_begin`.
        """
        if self._readings and any(has_changed() for has_changed in self._readings):
            self.program, self._readings = None, []  # what has changed once may change again
        if self.program and arrays[0].ndim:
            try:
                if arrays[1].dtype is not arrays[0].dtype:
                    arrays[1] = in_dtype_of(arrays[1], arrays[0])
                return quiet().run(self.program.run, arrays, numbers)
            except (TypeError, ValueError, ArithmeticError):
                pass  # only NumPy itself knows what to do with such numbers
        self._explain()
        x, step, *kept = arrays
        step, news = in_dtype_of(step, x), list[Any]()
        for rule, *_, mine in turns:
            step, more = rule.evaluate(x, step, [kept.pop(0) for _ in rule.keeps], mine)
            news += more
        return [step if rule.gives_point == self._subtracts else quiet().run(np.subtract, x, step), *news]

    def are_sure(self, arrays: list[Array], numbers: Any) -> bool:
        """Tell whether nothing can fail any more when large arrays are written over."""
        if not self.program or any(has_changed() for has_changed in self._readings):
            return False
        found = [(a.shape, a.dtype, a.flags.writeable) for a in arrays[2:]]
        if found != [(arrays[0].shape, dtype, True) for dtype in self._dtypes]:
            raise TypeError(f"{self._names}: what is kept for the parameter cannot be written over")
        try:
            quiet().run(self.program.constants, numbers)
        except (TypeError, ValueError, ArithmeticError):
            return False
        if arrays[0].ndim and arrays[0].flags.forc:
            self._loop(arrays[0].dtype)  # it warns where there can be none, and the warning may be an error
        return arrays[0].ndim > 0

    def swept(self, arrays: list[Array], numbers: Any, home: Any = None) -> list[Array] | None:
        """Compute the same block by block, or through a compiled loop, where nothing can fail.

        Parameters
        ----------
        arrays, numbers
            From `_begin`.
        home : ndarray, optional
            Where to put the first result; then it writes over what the rules keep as well.

        Returns
        -------
        list or None
            None where the arrays do not lie one element after another.
        """
        started, call = time.perf_counter(), quiet().run
        x, Δ, *kept = arrays
        if home is None:
            home, *kept = [a.copy() for a in (x, *kept)]
        if not (vectors := _vectors([home, Δ, *kept] if self._subtracts else [x, Δ, *kept, home])):
            return None
        if loop := self._loop(home.dtype):
            vectors[1] = in_dtype_of(vectors[1], home)
            loop(vectors, call(self.program.constants, numbers))
            return [home, *kept]
        for i in range(0, x.size, size := BLOCK // x.itemsize):
            x_, Δ_, *kept_ = [vector[i : i + size] for vector in vectors]
            places = [x_ if self._subtracts else kept_.pop(), *kept_]
            results = call(self.program.run, [x_, in_dtype_of(Δ_, x_), *kept_], numbers, places)
            for place, result in zip(places, results, strict=True):
                place[...] = result
        self._spent += time.perf_counter() - started
        return [home, *kept]

    def _loop(self, dtype: np.dtype[Any]) -> Any:
        """Return the compiled loop if there is to be one. Without being asked for, it must be exact."""
        how = ENGINE.get()
        if how == "numpy" or (how == "auto" and self._spent < PATIENCE) or dtype.char not in "fd":
            return None
        from minidiff.program import kernel

        if how == "auto" and not kernel.is_exact(self.program):
            return None
        if self._compiled is None:
            try:
                self._compiled = kernel.compiled(self.program, dtype)
            except failures() as error:
                self._compiled, self._reason = False, str(error) or type(error).__name__
                self._explain()
        return self._compiled

    def _explain(self) -> None:
        """Say, once, why these formulas are not compiled, to those who asked for it."""
        if self._reason and ENGINE.get() == "fused":
            reason, self._reason = self._reason.strip().partition("\n")[0], ""
            message = f"{self._names}: runs with NumPy, because its formula cannot be compiled: {reason}"
            warn(message, RuntimeWarning)


def _vectors(arrays: list[Array]) -> list[Array] | None:
    """Return arrays of one shape as vectors, or None where those that are written are not contiguous.

    The gradient, which comes second, may lie anywhere, also in the memory of the others: then it is copied.
    """
    x, Δ, *rest = arrays
    for order in ("C", "F"):
        if all(a.flags[order] and a.flags.aligned for a in (x, *rest)):
            overlaps = Δ is not x and any(np.may_share_memory(Δ, a) for a in (x, *rest))
            Δ = Δ.copy(order) if overlaps or not (Δ.flags[order] and Δ.flags.aligned) else Δ
            return [a.reshape(-1, order=order) for a in (x, Δ, *rest)]
    return None
