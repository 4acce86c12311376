"""How NumPy runs formulas: on whole arrays when they are small, block by block when they are large.

A step of one parameter goes in two halves. First everything that can fail: each rule's numbers for this
step, and (on small arrays) all the arithmetic. Then what changes things: the parameter, the arrays that
the rules keep, their clocks. Large arrays are read and written a block at a time, so that the temporaries of
a formula stay in the processor's cache and none is as large as the parameter; meanwhile an interrupt (Ctrl-C)
has to wait, so that it leaves no step half done.
"""

from __future__ import annotations

import functools
import itertools
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import numpy as np

from minidiff.typing import Array

__all__ = [
    "BLOCK",
    "Turn",
    "blocks_of",
    "commit",
    "in_blocks",
    "norm_of",
    "put",
    "representable",
    "same_place",
    "whatever_comes",
    "whole",
]


# Bytes of a block, and of the largest array that is computed whole. A formula's dozen temporaries of this
# size fit into a second-level cache; from 128 KiB on, the C library gets each of them from the system anew.
BLOCK = 96 * 1024


class Turn:
    """One rule's part in one step of one parameter: what it kept before, and what it will keep."""

    __slots__ = ("arrays", "clock", "clock_before", "is_first", "kept", "rule")

    arrays: list[Array]
    clock: tuple[Any, ...]
    clock_before: tuple[Any, ...]
    kept: dict[str, Any]
    is_first: bool

    def __init__(self, rule: Any, p: Any, x: Array, before: Turn | None = None) -> None:
        self.rule = rule
        if before is not None:
            self.kept, self.arrays, self.is_first = before.kept, before.arrays, before.is_first
            self.clock_before = before.clock
            return
        try:
            kept = rule.state[p]
            self.is_first = False
        except KeyError:
            kept = rule.begin(x)
            self.is_first = True
        self.kept = kept
        self.clock_before = kept["clock"]
        self.arrays = [kept[name] for name in rule.keeps]

    def coefficients(self, dtype: np.dtype[Any], norm: Callable[[], float]) -> Any:
        """Return the numbers of this step; `norm` is called if they depend on the incoming gradient's.

        To be called when all rules before have been asked for theirs: one of them may be a schedule, and
        set what this one goes by.
        """
        rule = self.rule
        self.clock = clock = rule.tick(*self.clock_before)
        numbers = rule.coefficients(*clock, norm()) if rule.needs_norm else rule.coefficients(*clock)
        return numbers if dtype.char != "e" else tuple([representable(number, dtype) for number in numbers])


def commit(turns: Iterable[Turn], p: Any) -> None:
    """Let the rules know that the step has been taken."""
    for turn in turns:
        rule, kept = turn.rule, turn.kept
        kept["clock"] = turn.clock
        for name, array in zip(rule.keeps, turn.arrays):  # noqa: B905 - as many, and this is the hot path
            kept[name] = array
        if turn.is_first:
            rule.state[p] = kept
        rule.stepped(*turn.clock)


def representable(number: float, dtype: np.dtype[Any]) -> float:
    """Return the number, or the smallest above zero that the dtype has where it would round to zero.

    Half precision has nothing between 0 and 6e-8, and an ε of 1e-8 is there to keep divisors above zero.
    """
    return float(np.finfo(dtype).smallest_subnormal) if number > 0 and not dtype.type(number) else number


def whole(turns: list[Turn], x: Array, Δ: Array) -> Array:
    """Compute the step from whole arrays, and leave in the turns what their rules will keep."""
    if turns and Δ.dtype is not x.dtype:
        Δ = Δ.astype(x.dtype)
    for turn in turns:
        numbers = turn.coefficients(x.dtype, functools.partial(norm_of, (Δ,)))
        Δ, turn.arrays = _results(turn.rule, x, Δ, turn.arrays, numbers)
    return Δ


def _results(rule: Any, x: Array, Δ: Array, kept: list[Array], numbers: Any) -> tuple[Array, list[Array]]:
    """Call a rule's formula; return the step and, as arrays of their own, what it keeps."""
    result = rule.formula(x, Δ, *kept, *numbers)
    if not kept:
        return result, kept
    if not isinstance(result, tuple) or len(result) != 1 + len(kept):
        came = f"{len(result)}" if isinstance(result, tuple) else "one array"
        raise TypeError(
            f"{type(rule).__name__}.formula must return the step and {', '.join(rule.keeps)}: "
            f"{1 + len(kept)} arrays, not {came}"
        )
    step, *new = result
    for i, (a, old) in enumerate(zip(new, kept, strict=True)):
        # What it returns may be its own argument, a view or a scalar; what is kept must be none of these.
        if type(a) is not np.ndarray or a.base is not None or a is Δ or a is x or a.dtype is not old.dtype:
            new[i] = np.empty_like(old)
            np.copyto(new[i], a)
        elif a.shape != old.shape:
            raise ValueError(f"{type(rule).__name__}.formula returned {rule.keeps[i]} of shape {a.shape}")
    return step, new


def put(x: Array, step: Array, out: Array | None) -> None:
    """Subtract the step from `x`, or copy it into `out` if there is one."""
    if out is not None:
        np.copyto(out, step)
    elif step.dtype is x.dtype:
        np.subtract(x, step, x)
    else:
        np.subtract(x, step, x, dtype=x.dtype.type)


def in_blocks(turns: list[Turn], p: Any, x: Array, Δ: Array, out: Array | None) -> None:
    """Compute the step block by block, writing into the parameter and the kept arrays as it goes."""
    written = [x if out is None else out, *(a for turn in turns for a in turn.arrays)]
    if any(np.may_share_memory(Δ, a) and not same_place(Δ, a) for a in written):
        Δ = Δ.copy()
    places, (flat_x, flat_Δ, flat_out, *flat) = blocks_of(x, Δ, *written)
    arrays = iter(flat)
    kept = [[next(arrays) for _ in turn.arrays] for turn in turns]
    numbers: list[Any] = []

    def compute(i: Any) -> tuple[Array, list[list[Array]]]:
        """Compute a block's step, and what the rules known so far will keep there."""
        xi, step, new = flat_x[i], flat_Δ[i], []
        if step.dtype is not x.dtype:
            step = step.astype(x.dtype)
        for turn, mine, c in zip(turns, kept, numbers, strict=False):
            step, will_keep = _results(turn.rule, xi, step, [a[i] for a in mine], c)
            new.append(will_keep)
        return step, new

    def norm() -> float:
        return norm_of(compute(i)[0] for i in places)

    def move() -> None:
        for i in places:
            step, new = compute(i)
            for mine, will_keep in zip(kept, new, strict=True):
                for a, b in zip(mine, will_keep, strict=True):
                    a[i] = b
            put(flat_out[i], step, None if out is None else flat_out[i])
        commit(turns, p)

    for turn in turns:
        numbers += [turn.coefficients(x.dtype, norm)]
    # A formula that cannot work says so here, before anything has moved.
    first = (*places[0][:-1], slice(0, 1))
    put(flat_x[first].copy(), compute(first)[0], None)
    whatever_comes(move)


def norm_of(pieces: Iterable[Array]) -> float:
    """Return the Euclidean norm of all elements, also where their squares leave the range of the dtype."""
    norms = [_norm(piece) for piece in pieces]
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
