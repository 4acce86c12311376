"""The one way to take a step: a gradient goes through optimisers, and what comes out is subtracted.

The formulas of a composition become one program of NumPy calls. A step is then: each rule's numbers for
this step, the arrays that the rules keep, the program, and the changes. All that can fail comes before the
changes.

On small arrays the program gives new arrays, which then replace the old ones. On large ones it writes over
them, a block at a time, so that its temporaries stay in the processor's cache; the changes come with the
arithmetic, and an interrupt (Ctrl-C) waits until all are made. Where Numba is installed, and once that
pays, a compiled loop does the same.

A stage with an `apply` of its own stands between two programs. A formula that cannot be written down,
because it branches or is not elementwise, is called as it is, on whole arrays. A parameter in half
precision makes its step in single precision, and is rounded once.

Infinity and NaN take their way without warnings.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from importlib.util import find_spec
from itertools import islice
from types import FunctionType
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from minidiff.interrupts import whole
from minidiff.optimise.base import SETTINGS, applied
from minidiff.optimise.rule import tuple_of, widened
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
        Formulas that Numba cannot compile, and parameters that are complex or not contiguous, run with
        NumPy in any case.

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
    parts = [stages] if len(stages) == 1 else _parts(stages)
    is_large = x.nbytes > BLOCK or _ENGINE.get() == "fused"
    if is_large or len(parts) != 1 or not stages[0].has_formula or x.dtype.char == "e":
        return whole(_take_parts, parts, p, x, Δ, out, is_large)
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
        The step, a new array; of a float16 parameter in single precision.
    """
    x = p if isinstance(p, np.ndarray) else p.value
    step = np.empty_like(widened(x))
    take(stages, p, x, Δ, step)
    return step


def _parts(stages: list[Any]) -> list[list[Any]]:
    """Split stages into lists of rules that run as one, each rule once. One with its own `apply` is alone."""
    parts: list[list[Any]] = []
    for stage in stages:
        if parts and stage.has_formula and parts[-1][0].has_formula and stage not in parts[-1]:
            parts[-1].append(stage)
        else:
            parts.append([stage])
    return parts


def _take_parts(
    parts: list[list[Any]], p: Any, x: Array, Δ: Array, out: Array | None, is_large: bool
) -> None:
    """Take a step part after part. Where there is but one, a large step writes over what it has read."""
    target, x = x if out is None else out, widened(x)
    home = target if len(parts) == 1 and target.dtype is x.dtype else None
    turns: list[_Turn] = []
    values: list[Array] = []
    after: dict[int, dict[str, Any]] = {}  # by the rule's id, what it will have kept
    is_taken = False
    for part in parts:
        if not part[0].has_formula:
            Δ = applied(part[0], p, _cast(Δ, x))
            continue
        is_taken = out is None and part is parts[-1]
        mine, (Δ, *new) = _results(part, p, x, Δ, is_taken, is_large, home, after)
        turns, values = turns + mine, values + new
        for rule, kept, _, clock, _ in mine:
            after[id(rule)] = {**kept, **{name: new.pop(0) for name in rule.keeps}, "clock": clock}
    if out is None and not is_taken:
        Δ = quiet().run(np.subtract, x, _cast(Δ, x))
    _change(turns, p, [_cast(Δ, target), *values], target)


# A rule's part in a step: the rule, what it has kept for the parameter, whether that is new to it, where its
# clock will stand, and its numbers.
_Turn: TypeAlias = tuple[Any, dict[str, Any], bool, tuple[Any, ...], tuple[Any, ...]]


def _results(
    rules: list[Any],
    p: Any,
    x: Array,
    Δ: Array,
    taking: bool,
    is_large: bool = False,
    home: Array | None = None,
    after: Mapping[int, dict[str, Any]] | None = None,
) -> tuple[list[_Turn], Sequence[Array]]:
    """Compute a step.

    Parameters
    ----------
    rules, p, x, Δ
        As for `take`; the rules have formulas.
    taking : bool
        Whether to subtract the step from the parameter, or to give the step.
    is_large : bool
        Whether to go block by block, or through a compiled loop.
    home : ndarray, optional
        Where to put the first result. What the rules keep is then written over, else nothing is.
    after : mapping, optional
        By their ids, what rules that have had a turn in this step will have kept.

    Returns
    -------
    list of tuple
        The turns.
    sequence of ndarray
        What becomes of the parameter, or the step; then all that the rules will keep.
    """
    turns: list[_Turn] = []
    arrays = [x, Δ if Δ.dtype is x.dtype or is_large else _cast(Δ, x)]
    numbers: tuple[Any, ...] = ()
    key: tuple[Any, ...] = (x.dtype, taking)
    with SETTINGS:  # in order: a rule may set what those after it go by
        for rule in rules:
            before = rule.state.get(p)
            kept = after.get(id(rule), before) if after else before
            if kept is None:
                kept = rule.begin(x)
            clock = rule.tick(*kept["clock"])
            mine = rule.coefficients(*clock)
            if type(mine) is not tuple:
                mine = tuple_of(rule, mine)
            for name in rule.keeps:
                arrays.append(kept[name])  # noqa: PERF401 - a comprehension takes longer for so few
            turns.append((rule, kept, kept is not before, clock, mine))
            numbers += mine
            key += (type(rule), rule.formula, len(mine))
    if after is not None:
        arrays[2:] = map(widened, arrays[2:])  # half precision is what an older version kept
    formulas = rules[0].made.get(key) or _Formulas(turns, key)
    program = formulas.program if not formulas.readings else formulas.program_if_unchanged()
    if program and x.ndim:
        try:
            if not is_large:
                return turns, quiet().run(program.run, arrays, numbers)
            quiet().run(program.constants, numbers)
        except (TypeError, ValueError, ArithmeticError):
            pass  # numbers with which NumPy has to deal itself
        else:
            values = [a.copy() for a in (x, *arrays[2:])] if home is None else [home, *arrays[2:]]
            formulas.sweep([values[0] if taking else x, Δ, *values[1:]], values[0], numbers)
            return turns, values
    formulas.explain()
    return turns, _as_written(turns, arrays, taking)


def _as_written(turns: list[_Turn], arrays: list[Array], taking: bool) -> list[Array]:
    """Call the formulas themselves, on whole arrays."""
    x, step, *kept = arrays[0], _cast(arrays[1], arrays[0]), *arrays[2:]
    new: list[Array] = []
    for rule, *_, numbers in turns:
        step, more = rule.evaluate(x, step, [kept.pop(0) for _ in rule.keeps], numbers)
        new += more
    return [quiet().run(np.subtract, x, step) if taking else step, *new]


def _change(turns: list[_Turn], p: Any, values: Sequence[Array], x: Array) -> None:
    """Make the changes of a step. To make them twice is to make them once."""
    if values[0] is not x:
        x[...] = values[0]
    i = 0
    for rule, kept, is_new, clock, _ in turns:
        kept["clock"] = clock
        for name in rule.keeps:
            i += 1
            kept[name] = values[i]
        if is_new:
            rule.state[p] = kept
        if rule.notes_steps:
            rule.stepped(*clock)


def _cast(Δ: Array, x: Array) -> Array:
    """Return a gradient or a step in the dtype of its parameter."""
    return Δ if Δ.dtype is x.dtype else quiet().run(Δ.astype, x.dtype)


class _Formulas:
    """The formulas of rules that run as one: as a program, and as a compiled loop.

    The first rule's class keeps them under their key (dtype, whether the step is taken, what tells the rules
    apart), so that they are freed with it.

    Attributes
    ----------
    program : Program or None
        None if the formulas have to run as they are.
    readings : list of Reading
        What they read besides their arguments.
    """

    def __init__(self, turns: list[_Turn], key: tuple[Any, ...]) -> None:
        dtype, taking, *_ = key
        rules, counts = [turn[0] for turn in turns], [len(turn[4]) for turn in turns]
        self.program: Program | None = None
        self.readings: list[Reading] = []
        self._names, self._reason = ", ".join(type(rule).__name__ for rule in rules), ""
        self._compiled: Any = None  # False if it cannot be
        self._spent = 0.0  # seconds
        example = np.array([0.3, -1.7, 2.9]).astype(dtype)
        kept = [abs(example) if name in rule.real else 1 * example for rule in rules for name in rule.keeps]
        self._dtypes = [a.dtype for a in (example, example, *kept, example)]

        def composed(x: Any, step: Any, *rest: Any) -> tuple[Any, ...]:
            olds, numbers = iter(rest), iter(rest[len(kept) :])
            news: list[Any] = []
            for rule, count in zip(rules, counts, strict=True):
                mine = list(islice(olds, len(rule.keeps)))
                result = rule.formula(x, step, *mine, *islice(numbers, count))
                step, *new = result if mine else (result,)
                news += new
            return x - step if taking else step, *news

        try:
            for rule in rules:
                self.readings += readings(rule.formula)
            if dtype.isnative:
                names = [f"s{i}" for i in range(len(kept))]
                arrays = dict(zip(["x", "g", *names], [example, example[::-1].copy(), *kept], strict=True))
                self.program = Program(composed, arrays, ["x" if taking else "out", *names], sum(counts))
        except Exception as error:  # whatever is wrong with a formula will show when it runs as it is
            self._reason, self.readings = str(error) or type(error).__name__, []
        if all(isinstance(rule.formula, FunctionType) for rule in rules):
            rules[0].made[key] = self  # a method would keep its optimiser alive here

    def program_if_unchanged(self) -> Program | None:
        """Return the program, or None for ever once what the formulas read has changed."""
        if any(reading.has_changed() for reading in self.readings):
            self.program, self.readings = None, []  # it may do so again
        return self.program

    def sweep(self, arrays: list[Array], home: Array, numbers: tuple[Any, ...]) -> None:
        """Run the program over large arrays: its first result goes to `home`, the rest over what was kept."""
        started, program, kept = time.perf_counter(), cast("Program", self.program), arrays[2:]
        all_arrays = arrays if home is arrays[0] else [*arrays, home]
        if (loop := self._loop(home.dtype)) and (vectors := _vectors(all_arrays)):
            return loop(vectors, program.constants(numbers))  # type: ignore[no-any-return]
        access = ["readonly", "readonly", *["readwrite"] * (len(kept) + 1)]
        with cast("Any", np.nditer)(
            [*arrays, home],
            ["external_loop", "buffered", "copy_if_overlap", "zerosize_ok"],
            [[how, "overlap_assume_elementwise"] for how in access],
            self._dtypes,
            casting="same_kind",
            buffersize=BLOCK // home.itemsize,
        ) as blocks:
            call = quiet().run
            for *block, home_ in blocks:
                places = [home_, *block[2:]]
                for place, result in zip(places, call(program.run, block, numbers, places), strict=True):
                    if result is not place:
                        place[...] = result
        self._spent += time.perf_counter() - started
        return None

    def _loop(self, dtype: np.dtype[Any]) -> Any:
        """Return the compiled loop if there is to be one. Without being asked for, it must be exact."""
        how = _ENGINE.get()
        if how == "numpy" or (how == "auto" and self._spent < PATIENCE) or dtype.char not in "fd":
            return None
        from minidiff.program import kernel

        program: Any = self.program
        if how == "auto" and not kernel.is_exact(program):
            return None
        if self._compiled is None:
            try:
                self._compiled = kernel.compiled(program, dtype)
            except Exception as error:
                self._compiled, self._reason = False, str(error) or type(error).__name__
                self.explain()
        return self._compiled

    def explain(self) -> None:
        """Say, once, why these formulas are not compiled, to those who asked for it."""
        if self._reason and _ENGINE.get() == "fused":
            reason, self._reason = self._reason.strip().partition("\n")[0], ""
            message = f"{self._names}: runs with NumPy, because its formula cannot be compiled: {reason}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def _vectors(arrays: list[Array]) -> list[Array] | None:
    """Return arrays of one shape as contiguous vectors, or None where a compiled loop cannot take them."""
    x, Δ, *rest = arrays
    if Δ.dtype is x.dtype and (Δ is x or not any(np.may_share_memory(Δ, a) for a in (x, *rest))):
        for order in ("C", "F"):
            if all(a.flags[order] and a.flags.aligned for a in arrays):
                return [a.ravel(order) for a in arrays]
    return None
