"""How NumPy runs formulas: on whole arrays when they are small, block by block when they are large.

A step of one parameter goes in two halves. First everything that can fail: each rule's numbers for this
step, and (on small arrays) all the arithmetic. Then what changes things: the parameter (at the end of the
last formula's arithmetic, where that is rewritten), the arrays that the rules keep, their clocks. Large
arrays are read and written a block at a time, so that the temporaries of a formula stay in the processor's
cache and none is as large as the parameter; meanwhile an interrupt (Ctrl-C) has to wait, so that it leaves no
step half done. A formula that has to run as it is written may not be elementwise, and gets whole arrays.
"""

from __future__ import annotations

import functools
import itertools
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeAlias

import numpy as np

from minidiff.optimise.programs import prepared, quiet, representable
from minidiff.typing import Array

__all__ = [
    "BLOCK",
    "Turn",
    "blocks_of",
    "cast",
    "commit",
    "in_blocks",
    "norm_of",
    "put",
    "same_place",
    "whatever_comes",
    "whole",
]


# Bytes of a block, and of the largest array that is computed whole. A formula's dozen temporaries of this
# size fit into a second-level cache; from 128 KiB on, the C library gets each of them from the system anew.
BLOCK = 96 * 1024


class Turn:
    """One rule's part in one step of one parameter: what it kept before, and what it will keep."""

    __slots__ = ("arrays", "clock", "constants", "first", "kept", "numbers", "program", "rule")

    def __init__(self, rule: Any, p: Any, x: Array) -> None:
        self.rule = rule
        kept = rule.state.get(p)
        self.first: bool = kept is None
        self.kept: dict[str, Any] = rule.begin(x) if kept is None else kept
        self.clock: tuple[Any, ...] = self.kept["clock"]
        self.arrays: dict[str, Array] = {name: self.kept[name] for name in rule.keeps}
        self.numbers: Any = None  # a tuple, once `tick` has asked for them
        self.program: Any = None

    @property
    def taken(self) -> Taken:
        """What `commit` takes."""
        return self.rule, self.kept, self.first, self.clock, self.arrays

    def tick(self, norm: Callable[[], float]) -> None:
        """Move the clock on and get the numbers of this step; `norm` gives the incoming gradient's.

        To be called when all rules before have been asked for theirs: one of them may be a schedule, and
        set what this one goes by.
        """
        rule = self.rule
        clock = rule.tick(*self.clock)
        given = (*clock, norm()) if rule.needs_norm else clock
        self.numbers = _tuple_of(rule, rule.coefficients(*given))
        self.clock = clock

    def prepare(self, x: Array) -> None:
        """Find out how NumPy runs the formula with these numbers."""
        self.program, self.constants = prepared(self.rule, x, self.numbers)

    def whole(self, x: Array, Δ: Array) -> Array:
        """Return what the rule makes of the gradient on whole arrays; what it will keep stays in `arrays`."""
        Δ = cast(Δ, x)
        self.tick(functools.partial(norm_of, (Δ,)))
        self.prepare(x)
        step, self.arrays = self.compute(x, Δ, self.arrays)
        return step

    def compute(self, x: Array, Δ: Array, kept: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the step, and new arrays for the rule to keep."""
        if self.program is not None:
            return quiet()(self.program.compute, x, Δ, kept, self.constants)  # type: ignore[no-any-return]
        return _results(self.rule, x, Δ, kept, self.numbers)

    def replace(self, x: Array, Δ: Array, kept: dict[str, Array]) -> Array:
        """Return the step, with the new values of what the rule keeps written over the old ones."""
        return quiet()(self.program.replace, x, Δ, kept, self.constants)  # type: ignore[no-any-return]


Taken: TypeAlias = tuple[Any, dict[str, Any], bool, tuple[Any, ...], dict[str, Array]]


def commit(p: Any, taken: Iterable[Taken]) -> None:
    """Let the rules know that a step has been taken.

    Parameters
    ----------
    p : Param or ndarray
        The parameter.
    taken : iterable of tuple
        For each rule: itself, the dict of what it kept, whether this was its first step, its clock after it,
        and the arrays to keep.
    """
    for rule, kept, first, clock, arrays in taken:
        kept["clock"] = clock
        if arrays:
            kept.update(arrays)
        if first:
            rule.state[p] = kept
        if rule.notes_steps:
            rule.stepped(*clock)


def whole(rules: Sequence[Any], p: Any, x: Array, Δ: Array, out: Array | None) -> None:
    """Take a step on whole arrays: what turns do, in one piece, which saves a third of the time."""
    call, dtype = quiet(), x.dtype
    taken: list[Taken] = []
    step: Any = Δ if Δ.dtype is dtype else call(Δ.astype, dtype)
    taker = rules[-1] if out is None else None  # whose program may take the step, too
    for rule in rules:
        before = rule.state.get(p)
        kept = rule.begin(x) if before is None else before
        clock = rule.tick(*kept["clock"])
        if rule.needs_norm:
            numbers = rule.coefficients(*clock, norm_of((step,)))
        else:
            numbers = rule.coefficients(*clock)
        if type(numbers) is not tuple:
            numbers = _tuple_of(rule, numbers)
        program, constants = prepared(rule, x, numbers)
        if program is None:
            step, arrays = _results(rule, x, step, kept, numbers)
        elif rule is taker:
            step, arrays = None, call(program.take, x, step, kept, constants)
        else:
            step, arrays = call(program.compute, x, step, kept, constants)
        taken.append((rule, kept, before is None, clock, arrays))
    if step is not None:
        put(x, step, out, call)
    commit(p, taken)


def _tuple_of(rule: Any, numbers: Any) -> tuple[Any, ...]:
    try:
        return tuple(numbers)
    except TypeError:
        raise TypeError(
            f"{type(rule).__name__}.coefficients must return a tuple of numbers, such as (self.eta,), "
            f"not {numbers!r:.60}"
        ) from None


def _results(
    rule: Any, x: Array, Δ: Array, kept: dict[str, Array], numbers: tuple[Any, ...]
) -> tuple[Array, dict[str, Array]]:
    """Call a rule's formula; return the step and, as arrays of their own, what it keeps."""
    olds = [kept[name] for name in rule.keeps]
    with np.errstate(all="ignore"):
        result = rule.formula(x, Δ, *olds, *representable(numbers, x.dtype))
    results = result if isinstance(result, tuple) else (result,)
    if len(results) != 1 + len(olds):
        came = f"{len(result)}" if isinstance(result, tuple) else "one array"
        raise TypeError(
            f"{type(rule).__name__}.formula must return {' and '.join(('the step', *rule.keeps))}: "
            f"{1 + len(olds)} arrays, not {came}. What it keeps is named in keeps."
        )
    step, *new = results
    for i, (a, old) in enumerate(zip(new, olds, strict=True)):
        # What it returns may be its own argument, a view or a scalar; what is kept must be none of these.
        if type(a) is not np.ndarray or a.base is not None or a is Δ or a is x or a.dtype is not old.dtype:
            new[i] = np.empty_like(old)
            np.copyto(new[i], a)
        elif a.shape != old.shape:
            raise ValueError(f"{type(rule).__name__}.formula returned {rule.keeps[i]} of shape {a.shape}")
    return np.asarray(step), dict(zip(rule.keeps, new, strict=True))


def cast(Δ: Array, x: Array) -> Array:
    """Return the gradient in the dtype of its parameter."""
    return Δ if Δ.dtype is x.dtype else quiet()(Δ.astype, x.dtype)


def put(x: Array, step: Array, out: Array | None, call: Callable[..., Any]) -> None:
    """Subtract the step from `x`, or copy it into `out` if there is one."""
    if out is not None:
        call(np.copyto, out, step)
    elif step.dtype is x.dtype:
        call(np.subtract, x, step, x)
    else:
        call(functools.partial(np.subtract, dtype=x.dtype.type), x, step, x)


def in_blocks(turns: Sequence[Turn], p: Any, x: Array, Δ: Array, out: Array | None) -> None:
    """Take a step block by block, writing into the parameter and the kept arrays on the way."""
    kept_arrays = [a for turn in turns for a in turn.arrays.values()]
    moved = x if out is None else out
    if any(np.may_share_memory(Δ, a) for a in kept_arrays) or (
        np.may_share_memory(Δ, moved) and not same_place(Δ, moved)
    ):
        Δ = Δ.copy()
    places, (flat_x, flat_Δ, flat_moved, *flat) = blocks_of(x, Δ, moved, *kept_arrays)
    arrays = iter(flat)
    kept = [{name: next(arrays) for name in turn.arrays} for turn in turns]
    ready: list[Turn] = []

    def compute(i: Any) -> Array:
        """Compute what the rules that are ready make of a block of the gradient."""
        step = cast(flat_Δ[i], x)
        for turn, mine in zip(ready, kept, strict=False):
            step = turn.compute(flat_x[i], step, {name: a[i] for name, a in mine.items()})[0]
        return step

    def norm() -> float:
        if all(turn.program for turn in ready):
            return norm_of(compute(i) for i in places)
        return norm_of((_in_one_piece(ready, x, Δ)[0],))

    def replace(i: Any, xi: Array, arrays: list[dict[str, Array]]) -> Array:
        """Return the step of a block, with what the rules keep there written over the arrays given."""
        step = cast(flat_Δ[i], x)
        for turn, mine in zip(turns, arrays, strict=True):
            step = turn.replace(xi, step, mine)
        return step

    def take_whole(step: Array, new: list[dict[str, Array]]) -> None:
        put(x, step, out, quiet())
        for turn, arrays in zip(turns, new, strict=True):
            turn.arrays = arrays
        commit(p, [turn.taken for turn in turns])

    def move() -> None:
        call = quiet()
        for i in places:
            step = replace(i, flat_x[i], [{name: a[i] for name, a in mine.items()} for mine in kept])
            put(flat_moved[i], step, None if out is None else flat_moved[i], call)
        commit(p, [turn.taken for turn in turns])

    for turn in turns:
        if turn.numbers is None:  # or the other engine has asked already
            turn.tick(norm)
        turn.prepare(x)
        ready.append(turn)
    if not all(turn.program for turn in turns):
        step, new = _in_one_piece(turns, x, Δ)
        whatever_comes(functools.partial(take_whole, step, new))
        return
    # What cannot work says so here, before anything has moved: the first element makes its step in copies.
    for turn in turns:
        for name, a in turn.arrays.items():
            if not a.flags.writeable:
                raise ValueError(f"{type(turn.rule).__name__} keeps {name} in a read-only array")
    first = (*places[0][:-1], slice(0, 1))
    x_first = flat_x[first].copy()
    copies = [{name: a[first].copy() for name, a in mine.items()} for mine in kept]
    put(x_first, replace(first, x_first, copies), None, quiet())
    whatever_comes(move)


def _in_one_piece(turns: Sequence[Turn], x: Array, Δ: Array) -> tuple[Array, list[dict[str, Array]]]:
    """Return what rules make of the whole gradient, and the new arrays for each to keep."""
    step, kept = cast(Δ, x), []
    for turn in turns:
        step, new = turn.compute(x, step, turn.arrays)
        kept.append(new)
    return step, kept


def norm_of(pieces: Iterable[Array]) -> float:
    """Return the Euclidean norm of all elements, also where their squares leave the range of the dtype."""
    norms = [quiet()(_norm, piece) for piece in pieces]
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def _norm(z: Array) -> float:
    if z.dtype.char == "e":
        z = z.astype(np.float32)
    square = float(np.vdot(z, z).real)
    least, most = _safe_squares(z.dtype)
    if least < square < most or not z.size:
        return math.sqrt(square)
    largest = float(np.abs(z).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(float(np.vdot(z / largest, z / largest).real))


@functools.cache
def _safe_squares(dtype: np.dtype[Any]) -> tuple[float, float]:
    info = np.finfo(dtype)
    return float(info.tiny / info.eps), float(info.max)


def same_place(a: Array, b: Array) -> bool:
    """Tell whether each element of `a` lies where the same element of `b` does."""
    where = a.__array_interface__["data"] == b.__array_interface__["data"]
    return where and a.strides == b.strides and a.dtype == b.dtype


def blocks_of(*arrays: Array) -> tuple[list[Any], list[Array]]:
    """Return indices that cut arrays of one shape into blocks, and the views that they index."""
    if all(a.flags.f_contiguous for a in arrays):
        arrays = tuple(a.T for a in arrays)
    if all(a.flags.c_contiguous for a in arrays):
        arrays = tuple(a.reshape(-1) for a in arrays)
    return list(_cuts(arrays[0].shape, BLOCK // arrays[0].itemsize)), list(arrays)


def _cuts(shape: tuple[int, ...], size: int) -> Iterator[tuple[Any, ...]]:
    axis = 0
    while math.prod(shape[axis + 1 :]) > size:
        axis += 1
    length = size // math.prod(shape[axis + 1 :])
    for outer in itertools.product(*(range(n) for n in shape[:axis])):
        for low in range(0, shape[axis], length):
            yield *outer, slice(low, low + length)


def whatever_comes(work: Callable[[], None]) -> None:
    """Do work that must not be left half done: an interrupt (Ctrl-C) waits until it is finished."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return work()
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        work()
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[-1])
    return None
