"""Formulas compiled: with Numba, one loop over the elements for all the rules of a composition.

A formula is called once, with symbols in place of arrays and numbers. They write down each operation they go
through, with NumPy's meaning: what involves only the step's numbers is computed before the loop, in double
precision, and rounded to the parameter's dtype where it meets an array. That gives the source of a function,
which Numba compiles and caches for later processes (in ``minidiff`` under ``$XDG_CACHE_HOME``, else under
``~/.cache``; ``NUMBA_CACHE_DIR`` and Numba's other settings work as ever). Large arrays are shared out among
threads.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minidiff.optimise.blocks import Turn, blocks_of, commit, norm_of, same_place, whatever_comes
from minidiff.typing import Array

__all__ = ["advance", "is_compiled", "is_installed"]

Kernel = Callable[..., None]

# Bytes of a parameter that a thread takes at a time; below four of these, one thread does it all. With
# smaller shares, handing over costs more than the second thread gains.
SHARE = 2**20


# Formulas to source

_OPERATORS = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "negative": "-{}",
    "absolute": "abs({})",
    "square": "{0} * {0}",
}
_CONDITIONS = {
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "equal": "{} == {}",
    "not_equal": "{} != {}",
    "isnan": "np.isnan({})",
    "isinf": "np.isinf({})",
    "isfinite": "np.isfinite({})",
}
_LOGIC = {
    "logical_and": "{} and {}",
    "logical_or": "{} or {}",
    "logical_not": "not {}",
    "bitwise_and": "{} and {}",
    "bitwise_or": "{} or {}",
    "invert": "not {}",
}
# The dtypes that are compiled for, by their character codes.
_SCALARS = {"f": "np.float32", "d": "np.float64", "F": "np.complex64", "D": "np.complex128"}


class _Notes:
    """The source that formulas leave behind: lines for once before the loop, and lines for each element."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.once: list[str] = []
        self.each: list[str] = []
        self.dtypes = {"number": np.dtype(float), "condition": np.dtype(bool), "real": dtype}
        if dtype.kind == "c":
            self.dtypes |= {"real": np.zeros((), dtype).real.dtype, "complex": dtype}

    def add(self, kind: str, code: str, *, once: bool = False) -> _Symbol:
        name = f"a{len(self.once) + len(self.each)}"
        (self.once if once or kind == "number" else self.each).append(f"{name} = {code}")
        return _Symbol(self, name, kind)

    def symbol(self, value: Any) -> _Symbol:
        """Return a value that takes part in an operation as a symbol."""
        if isinstance(value, _Symbol):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, np.generic):
            code = (
                repr(float(value)) if math.isfinite(value) else f"np.{float(value)}".replace("np.-", "-np.")
            )
            return _Symbol(self, f"({code})", "number")
        raise TypeError(f"it takes {value!r:.40} (of type {type(value).__name__}) into its arithmetic")

    def cast(self, symbol: _Symbol, kind: str) -> _Symbol:
        if symbol.kind == kind:
            return symbol
        if symbol.kind == "complex":
            raise TypeError("it makes a real array complex")
        scalar = _SCALARS[self.dtypes[kind].char]
        return self.add(kind, f"{scalar}({symbol.name})", once=symbol.kind == "number")

    def operate(self, name: str, *values: Any) -> _Symbol:
        """Write down an elementwise function of NumPy's."""
        symbols = [self.symbol(value) for value in values]
        kinds = {symbol.kind for symbol in symbols}
        if name in _LOGIC and kinds == {"condition"}:
            return self.add("condition", _LOGIC[name].format(*(symbol.name for symbol in symbols)))
        widest = next(kind for kind in ("complex", "real", "number", "condition") if kind in kinds)
        if "condition" in kinds and widest != "complex":
            widest = "real"
        if widest != "number":
            symbols = [self.cast(symbol, widest) for symbol in symbols]
        form = (
            _OPERATORS.get(name) or _CONDITIONS.get(name) or f"np.{name}({', '.join('{}' for _ in symbols)})"
        )
        if name == "sign" and widest == "complex":
            form = "({0} / abs({0}) if abs({0}) > 0 else {0})"
        if name in ("conjugate", "positive") and widest != "complex":
            form = "{}"
        code = form.format(*(symbol.name for symbol in symbols))
        if widest == "number":
            return self.add("number", code)
        if name in _CONDITIONS:
            return self.add("condition", code)
        return self.add("real" if name == "absolute" else widest, code)

    def where(self, condition: Any, a: Any, b: Any) -> _Symbol:
        symbols = [self.symbol(value) for value in (condition, a, b)]
        kinds = {symbol.kind for symbol in symbols[1:]}
        kind = "complex" if "complex" in kinds else "real"
        c, a, b = symbols[0], *(self.cast(symbol, kind) for symbol in symbols[1:])
        return self.add(kind, f"{a.name} if {c.name} else {b.name}")


class _Symbol(NDArrayOperatorsMixin):
    """What a formula meets in place of an array or a number: writes down what is done with it."""

    def __init__(self, notes: _Notes, name: str, kind: str) -> None:
        self.notes, self.name, self.kind = notes, name, kind

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.notes.dtypes[self.kind]

    @property
    def real(self) -> _Symbol:
        return self.notes.add("real", f"{self.name}.real") if self.kind == "complex" else self

    @property
    def imag(self) -> _Symbol:
        if self.kind == "complex":
            return self.notes.add("real", f"{self.name}.imag")
        return self.notes.cast(self.notes.symbol(0), "real")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *values: Any, **options: Any) -> _Symbol:
        name = ufunc.__name__
        if method != "__call__" or options or ufunc.nout != 1 or getattr(np, name, None) is not ufunc:
            raise TypeError(f"it uses {name} in a way that only NumPy knows")
        if name == "power" and isinstance(values[1], (int, float)) and values[1] in (0.5, 2):
            # NumPy's own shortcuts
            return self.notes.operate("square" if values[1] == 2 else "sqrt", values[0])
        return self.notes.operate(name, *values)

    def __array_function__(self, function: Any, types: Any, values: Any, options: Any) -> _Symbol:
        if function is np.where and len(values) == 3 and not options:
            return self.notes.where(*values)
        if function is np.clip and len(values) == 3 and not options:
            z, low, high = values
            return self.notes.operate("minimum", self.notes.operate("maximum", z, low), high)
        raise TypeError(f"it uses np.{function.__name__}, which is not elementwise")

    def __bool__(self) -> bool:
        raise TypeError("it branches on a value: np.where does that elementwise")


def _source(rules: Sequence[Any], counts: Sequence[int], dtype: np.dtype[Any], mode: str) -> str:
    """Return the source of a function that runs the rules' formulas, given how many numbers each takes.

    The mode says what becomes of the step: "take" subtracts it from the parameter, "give" puts it into
    `out`; "look" does that too, and leaves what the rules keep as it was.
    """
    notes = _Notes(dtype)
    whole = "complex" if dtype.kind == "c" else "real"
    x, step = notes.add(whole, "x[i]"), notes.add(whole, "g[i]")
    stores: list[str] = []
    kept_arrays: list[str] = []
    used = 0
    for rule, count in zip(rules, counts, strict=True):
        names = [f"s{len(kept_arrays) + i}" for i in range(len(rule.keeps))]
        kinds = ["real" if name in rule.real else whole for name in rule.keeps]
        kept = [notes.add(kind, f"{name}[i]") for name, kind in zip(names, kinds, strict=True)]
        numbers = [_Symbol(notes, f"c{used + i}", "number") for i in range(count)]
        result = rule.formula(x, step, *kept, *numbers)
        step, *new = (result,) if not kept else result
        step = notes.cast(notes.symbol(step), whole)
        for name, kind, value in zip(names, kinds, new, strict=True):
            stores.append(f"{name}[i] = {notes.cast(notes.symbol(value), kind).name}")
        kept_arrays += names
        used += count
    stores = [] if mode == "look" else stores
    stores.append(f"x[i] = {x.name} - {step.name}" if mode == "take" else f"out[i] = {step.name}")
    arguments = [
        "x",
        "g",
        *(["out"] if mode != "take" else []),
        *kept_arrays,
        *(f"c{i}" for i in range(used)),
    ]
    lines = [
        "import numpy as np",
        "",
        f"def kernel({', '.join(arguments)}):",
        *(f"    {line}" for line in notes.once),
        "    for i in range(x.shape[0]):",
        *(f"        {line}" for line in notes.each + stores),
    ]
    return "\n".join(lines) + "\n"


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


# By what they depend on: dtype, what becomes of the step, how many numbers each formula takes, the formulas.
_KERNELS: dict[tuple[Any, ...], Kernel | None] = {}
# The dtypes and formulas for which there is one.
_COMPILED: set[tuple[Any, ...]] = set()
_WARNED: set[str] = set()


def _kernel(turns: Sequence[Turn], counts: Sequence[int], dtype: np.dtype[Any], mode: str) -> Kernel:
    """Return the compiled formulas. Warn, but once, of those that cannot be compiled."""
    key = (dtype.char, mode, *counts, *[turn.rule.formula for turn in turns])
    if key not in _KERNELS:
        rules = [turn.rule for turn in turns]
        try:
            source = _source(rules, counts, dtype, mode)
            _KERNELS[key] = _compiled(source, rules, sum(counts), dtype, mode)
            _COMPILED.add((dtype.char, *[turn.rule.formula for turn in turns]))
        except Exception as error:
            _KERNELS[key] = None
            _warn(", ".join(type(rule).__name__ for rule in rules), error)
    kernel = _KERNELS[key]
    if kernel is None:
        raise _CannotCompileError
    return kernel


def _warn(names: str, error: Exception) -> None:
    if names not in _WARNED:
        _WARNED.add(names)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        message = f"{names}: runs with NumPy, for Numba cannot compile the formula: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


# Running it


@functools.cache
def is_installed() -> bool:
    """Tell whether there is a Numba that compiles, without importing it."""
    disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return not disabled and importlib.util.find_spec("numba") is not None


def is_compiled(turns: Sequence[Turn], x: Array) -> bool:
    """Tell whether what a step of these rules needs has been compiled in this process."""
    return len(_COMPILED) > 0 and (x.dtype.char, *[turn.rule.formula for turn in turns]) in _COMPILED


def advance(turns: Sequence[Turn], p: Any, x: Array, Δ: Array, out: Array | None) -> bool:
    """Take one step with compiled formulas. Where that cannot be, return False and change nothing."""
    dtype = x.dtype
    kept = [a for turn in turns for a in turn.arrays]
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
        with np.errstate(all="ignore"):
            return norm_of(_steps(look, flat[0], flat[1], flat_kept, numbers))

    try:
        for turn in turns:
            known = turn.coefficients(dtype, norm)
            numbers += known
            counts.append(len(known))
        kernel = _kernel(turns, counts, dtype, "take" if out is None else "give")
    except _CannotCompileError:
        return False
    if x.nbytes < 4 * SHARE or _processors() == 1:
        kernel(*flat, *numbers)
        commit(turns, p)
    else:
        whatever_comes(lambda: _share_out(kernel, flat, numbers, lambda: commit(turns, p)))
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
