"""Formulas compiled: with Numba, one loop over the elements for all the rules of a composition.

The operations that formulas are made of (`minidiff.optimise.symbolic`) give the source of a function, which
Numba compiles and caches for later processes (in ``minidiff`` under ``$XDG_CACHE_HOME``, else under
``~/.cache``; ``NUMBA_CACHE_DIR`` and Numba's other settings work as ever). Large arrays are shared out among
threads.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from minidiff.optimise.blocks import Turn, blocks_of, commit, norm_of, same_place, whatever_comes
from minidiff.optimise.symbolic import NUMBERS, OPERATORS, Notes, Operation, Symbol, changes
from minidiff.typing import Array

__all__ = ["advance", "is_compiled", "is_installed"]

Kernel = Callable[..., None]

# Bytes of a parameter that a thread takes at a time; below four of these, one thread does it all. With
# smaller shares, handing over costs more than the second thread gains.
SHARE = 2**20


# Operations to source

# What Numba is told in place of np.f(…).
_FORMS = OPERATORS | {
    "positive": "{}",
    "square": "{0} * {0}",
    "reciprocal": "1 / {}",
    "logical_and": "{} and {}",
    "logical_or": "{} or {}",
    "logical_not": "not {}",
    "bitwise_and": "{} and {}",
    "bitwise_or": "{} or {}",
    "invert": "not {}",
    "where": "{1} if {0} else {2}",
    "real": "{}.real",
    "imag": "{}.imag",
}
# What has one right result, which NumPy gives as well, also of signed zeros.
_EXACT = {
    "add", "subtract", "multiply", "divide", "square", "sqrt", "absolute", "negative", "positive",
    "reciprocal", "where", "cast", "greater",
    "greater_equal", "less", "less_equal", "equal", "not_equal", "logical_and", "logical_or", "logical_not",
}  # fmt: skip
# The dtypes that are compiled for, by their character codes.
_SCALARS = {"f": "np.float32", "d": "np.float64", "F": "np.complex64", "D": "np.complex128"}


def _line(operation: Operation, notes: Notes) -> str:
    """Write an operation on one element as Numba takes it."""
    name, kind, function, operands, _ = operation
    form = _FORMS.get(function) or f"np.{function}({', '.join('{}' for _ in operands)})"
    if function == "cast":
        form = f"{_SCALARS[notes.dtypes[kind].char]}({{}})"
    if function == "power" and kind != "number":
        form = "np.power({}, {})"
    if kind == "complex" and function in ("divide", "reciprocal"):
        return f"{name} = np.{function}({', '.join(operands)})"  # where / raises an error for a zero
    if kind == "complex" and function == "sign":
        form = "({0} / abs({0}) if abs({0}) > 0 else {0})"
    if kind != "complex" and function == "conjugate":
        form = "{}"
    return f"{name} = {form.format(*operands)}"


def _source(
    rules: Sequence[Any], counts: Sequence[int], dtype: np.dtype[Any], mode: str
) -> tuple[str, Notes]:
    """Return the source of a function that runs the rules' formulas, and what these have left behind.

    The counts say how many numbers each formula takes.

    The mode says what becomes of the step: "take" subtracts it from the parameter, "give" puts it into
    `out`; "look" does that too, and leaves what the rules keep as it was.
    """
    notes = Notes(dtype)
    x, step = Symbol(notes, "x_", notes.whole), Symbol(notes, "g_", notes.whole)
    loads = ["x_ = x[i]", "g_ = g[i]"]
    stores: list[str] = []
    stored: list[str] = []
    kept_arrays: list[str] = []
    used = 0
    for rule, count in zip(rules, counts, strict=True):
        names = [f"s{len(kept_arrays) + i}" for i in range(len(rule.keeps))]
        loads += [f"{name}_ = {name}[i]" for name in names]
        numbers = [f"c{used + i}" for i in range(count)]
        step, new = notes.run(rule, x, step, [f"{name}_" for name in names], numbers)
        stored += [value.name for value in new]
        stores += [f"{name}[i] = {value.name}" for name, value in zip(names, new, strict=True)]
        kept_arrays += names
        used += count
    stores = [] if mode == "look" else stores
    stores.append(f"x[i] = x_ - {step.name}" if mode == "take" else f"out[i] = {step.name}")
    arguments = [
        "x",
        "g",
        *(["out"] if mode != "take" else []),
        *kept_arrays,
        *(f"c{i}" for i in range(used)),
    ]
    once, each = notes.split([step.name, *stored])
    lines = [
        "import numpy as np",
        "",
        f"def kernel({', '.join(arguments)}):",
        *(f"    {_line(operation, notes)}" for operation in once),
        "    for i in range(x.shape[0]):",
        *(f"        {line}" for line in loads),
        *(f"        {_line(operation, notes)}" for operation in each),
        *(f"        {line}" for line in stores),
    ]
    return "\n".join(lines) + "\n", notes


# Source to machine code


def _compiled(source: str, rules: Sequence[Any], count: int, dtype: np.dtype[Any], mode: str) -> Kernel:
    """Compile the source for contiguous arrays, to be found again in the cache by any process."""
    import numba

    def array(scalar: np.dtype[Any], *, written: bool) -> Any:
        return numba.types.Array(numba.from_dtype(scalar), 1, "C", readonly=not written)

    real = np.zeros((), dtype).real.dtype
    kept = [
        array(real if name in rule.real else dtype, written=mode != "look")
        for rule in rules
        for name in rule.keeps
    ]
    given = [] if mode == "take" else [array(dtype, written=True)]
    signature = numba.void(
        array(dtype, written=mode == "take"),
        array(dtype, written=False),
        *given,
        *kept,
        *[numba.float64] * count,
    )
    path = _kept_source(source)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, path or "<minidiff formula>", "exec"), namespace)
    compiler = numba.njit([signature], nogil=True, error_model="numpy", cache=path is not None)
    return compiler(namespace["kernel"])


def _kept_source(source: str) -> str | None:
    """Put the source into a file of its own, which Numba's cache goes by, and return its path."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minidiff"
    path = folder / f"formula_{hashlib.sha256(source.encode()).hexdigest()[:24]}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
                file.write(source)
            os.replace(file.name, path)
        (folder / "__pycache__").mkdir(exist_ok=True)
    except OSError:
        return None
    return str(path) if os.access(folder / "__pycache__", os.W_OK) else None


class _CannotCompileError(Exception):
    """Formulas have to run with NumPy."""


_WARNED: set[str] = set()


def _kernel(turns: Sequence[Turn], counts: Sequence[int], dtype: np.dtype[Any], mode: str) -> Kernel:
    """Return the compiled formulas. Warn, but once, of those that cannot be compiled.

    The first rule's class holds them, or None for what has to run with NumPy, with what the formulas have
    read, which must be the same still; and under the formulas alone whether NumPy gives the same bits.
    """
    rules = [turn.rule for turn in turns]
    if not all(isinstance(rule.formula, FunctionType) for rule in rules):
        raise _CannotCompileError  # a method, which would keep its optimiser alive here
    formulas = _formulas(rules, dtype)
    key = (mode, *counts, *formulas)
    made: dict[Any, Any] = rules[0].made
    changed = changes(made[key][1]) if key in made else ""
    if changed == "number":
        made[key], made[formulas] = (None, []), False
    if changed == "function" or key not in made:
        try:
            source, notes = _source(rules, counts, dtype, mode)
            made[key] = _compiled(source, rules, sum(counts), dtype, mode), notes.reads
            if mode != "look":
                made[formulas] = dtype.kind == "f" and _EXACT.issuperset(o.function for o in notes.operations)
        except Exception as error:
            made[key] = None, []
            _warn(", ".join(type(rule).__name__ for rule in rules), error)
    kernel: Kernel | None = made[key][0]
    if kernel is None:
        raise _CannotCompileError
    return kernel


def _formulas(rules: Iterable[Any], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    return (dtype.char, *[(type(rule), rule.formula) for rule in rules])


def _warn(names: str, error: Exception) -> None:
    if names not in _WARNED:
        _WARNED.add(names)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        message = f"{names}: runs with NumPy, because its formula cannot be compiled: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


# Running it


@functools.cache
def is_installed() -> bool:
    """Tell whether there is a Numba that compiles, without importing it."""
    disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return not disabled and importlib.util.find_spec("numba") is not None


def is_compiled(rules: Sequence[Any], x: Array) -> bool:
    """Tell whether what a step of these rules needs has been compiled in this process, to the very same bits.

    Others would depend on what was compiled before: a run that is resumed would not be the one that was not.
    """
    if rules[0].made.get(_formulas(rules, x.dtype)) is not True:
        return False
    return x.flags.c_contiguous or not any(rule.needs_norm for rule in rules)  # a norm adds up in this order


def advance(turns: Sequence[Turn], p: Any, x: Array, Δ: Array, out: Array | None) -> bool:
    """Take one step with compiled formulas. Where that cannot be, return False and change nothing."""
    dtype = x.dtype
    kept = [a for turn in turns for a in turn.arrays.values()]
    flat = _flat([x, Δ, *kept] if out is None else [x, Δ, out, *kept])
    if flat is None or dtype is not Δ.dtype or dtype.char not in _SCALARS or not dtype.isnative:
        return False
    if not (Δ is x or (Δ.flags.owndata and x.flags.owndata)) and any(
        np.may_share_memory(Δ, a) and not same_place(Δ, a) for a in (x if out is None else out, *kept)
    ):
        return False
    numbers: list[float] = []
    counts: list[int] = []

    def norm() -> float:
        before = turns[: len(counts)]
        size = sum(len(turn.arrays) for turn in before)
        flat_kept = flat[len(flat) - len(kept) :][:size]
        look = _kernel(before, counts, dtype, "look") if before else None
        return norm_of(_steps(look, flat[0], flat[1], flat_kept, numbers))

    try:
        for turn in turns:
            turn.tick(norm)
            if not all(type(number) in NUMBERS for number in turn.numbers):
                return False
            numbers += turn.numbers
            counts.append(len(turn.numbers))
        kernel = _kernel(turns, counts, dtype, "take" if out is None else "give")
    except _CannotCompileError:
        return False
    if x.nbytes < 4 * SHARE or _processors() == 1:
        kernel(*flat, *numbers)
        commit(p, [turn.taken for turn in turns])
    else:
        then = lambda: commit(p, [turn.taken for turn in turns])  # noqa: E731
        whatever_comes(lambda: _share_out(kernel, flat, numbers, then))
    return True


def _steps(
    look: Kernel | None, x: Array, Δ: Array, kept: list[Array], numbers: list[float]
) -> Iterator[Array]:
    """Yield, block by block, what formulas make of the gradient, or the gradient if there are none."""
    for place in blocks_of(x)[0]:
        step = Δ[place]
        if look is not None:
            step = np.empty_like(step)
            look(x[place], Δ[place], step, *[a[place] for a in kept], *numbers)
        yield step


def _flat(arrays: Sequence[Array]) -> list[Array] | None:
    """Return arrays of one shape as contiguous vectors, or None if they are laid out in another way."""
    together = 0x100 | 0x3  # aligned, and contiguous as in C, as in Fortran
    for a in arrays:
        together &= a.flags.num
    if not together & 0x100 or not together & 0x3:
        return None
    if arrays[0].ndim == 1:
        return list(arrays)
    return [a.reshape(-1) if together & 0x1 else a.T.reshape(-1) for a in arrays]


def _share_out(kernel: Kernel, arrays: list[Array], numbers: list[float], then: Callable[[], None]) -> None:
    """Run the kernel on one share of the arrays after another, in this thread and in all that come to help.

    Whoever is free takes the next share, so that none waits for a thread that the system lets wait.
    """
    size = SHARE // arrays[0].itemsize
    shares = deque(range(0, arrays[0].size, size))

    def work() -> None:
        with suppress(IndexError):
            while True:
                low = shares.popleft()
                kernel(*[a[low : low + size] for a in arrays], *numbers)

    helpers = [_pool().submit(work) for _ in range(_processors() - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    then()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_processors(), thread_name_prefix="minidiff")


@functools.cache
def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if hasattr(os, "register_at_fork"):  # a child process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
