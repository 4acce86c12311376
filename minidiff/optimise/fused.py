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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from minidiff.optimise.blocks import Turn, blocks_of, commit, norm_of, same_place, whatever_comes

__all__ = ["advance", "is_compiled", "is_installed"]

Array = NDArray[Any]
Kernel = Callable[..., None]

SHARE = 2**18  # bytes of a parameter for which one more thread pays


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
_SCALARS = {"f4": "np.float32", "f8": "np.float64", "c8": "np.complex64", "c16": "np.complex128"}


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
            return self.add("number", f"float({str(float(value))!r})" if not math.isfinite(value) else repr(float(value)))
        raise TypeError(f"it takes {value!r:.40} (of type {type(value).__name__}) into its arithmetic")

    def cast(self, symbol: _Symbol, kind: str) -> _Symbol:
        if symbol.kind == kind:
            return symbol
        if symbol.kind == "complex":
            raise TypeError("it makes a real array complex")
        scalar = _SCALARS[self.dtypes[kind].str[1:]]
        return self.add(kind, f"{scalar}({symbol.name})", once=symbol.kind == "number")

    def operate(self, name: str, *values: Any) -> _Symbol:
        """Write down an elementwise function of NumPy's."""
        symbols = [self.symbol(value) for value in values]
        kinds = {symbol.kind for symbol in symbols}
        widest = next(kind for kind in ("complex", "real", "number", "condition") if kind in kinds)
        if "condition" in kinds and widest != "complex":
            widest = "real"
        if widest != "number":
            symbols = [self.cast(symbol, widest) for symbol in symbols]
        form = _OPERATORS.get(name) or _CONDITIONS.get(name) or f"np.{name}({', '.join('{}' for _ in symbols)})"
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
        code = f"{self.name}.imag" if self.kind == "complex" else f"0 * {self.name}"
        return self.notes.add("real", code)

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
    stores, kept_arrays, used = [], [], 0
    for rule, count in zip(rules, counts, strict=True):
        names = [f"s{len(kept_arrays) + i}" for i in range(len(rule.keeps))]
        kinds = ["real" if name in rule.real else whole for name in rule.keeps]
        kept = [notes.add(kind, f"{name}[i]") for name, kind in zip(names, kinds, strict=True)]
        numbers = [notes.add("number", f"c[{used + i}]") for i in range(count)]
        result = rule.formula(x, step, *kept, *numbers)
        step, *new = (result,) if not kept else result
        step = notes.cast(notes.symbol(step), whole)
        for name, kind, value in zip(names, kinds, new, strict=True):
            stores.append(f"{name}[i] = {notes.cast(notes.symbol(value), kind).name}")
        kept_arrays += names
        used += count
    stores = [] if mode == "look" else stores
    stores.append(f"x[i] = {x.name} - {step.name}" if mode == "take" else f"out[i] = {step.name}")
    arguments = ["x", "g", *(["out"] if mode != "take" else []), *kept_arrays, "c"]
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


def _compiled(source: str, rules: Sequence[Any], dtype: np.dtype[Any], mode: str) -> Kernel:
    """Compile the source for contiguous arrays, to be found again in the cache by any process."""
    import numba

    def array(scalar: np.dtype[Any], *, written: bool) -> Any:
        return numba.types.Array(numba.from_dtype(scalar), 1, "C", readonly=not written)

    real = np.zeros((), dtype).real.dtype
    kept = [array(real if name in rule.real else dtype, written=mode != "look") for rule in rules for name in rule.keeps]
    given = [] if mode == "take" else [array(dtype, written=True)]
    signature = numba.void(
        array(dtype, written=mode == "take"),
        array(dtype, written=False),
        *given,
        *kept,
        array(np.dtype(float), written=False),
    )
    path = _kept_source(source)
    namespace: dict[str, Any] = {}
    exec(compile(source, path or "<minidiff formula>", "exec"), namespace)
    options = {"nogil": True, "error_model": "numpy", "cache": path is not None}
    return numba.njit([signature], **options)(namespace["kernel"])  # type: ignore[no-any-return]


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


_KERNELS: dict[Any, Kernel | None] = {}
_WARNED: set[str] = set()


def _key(turns: Sequence[Turn], dtype: np.dtype[Any], mode: str, counts: Sequence[int]) -> Any:
    return (*(turn.rule.formula for turn in turns), dtype, mode, *counts)


def _kernel(turns: Sequence[Turn], counts: Sequence[int], dtype: np.dtype[Any], mode: str) -> Kernel | None:
    """Return the compiled formulas; None, after a warning, for those that cannot be compiled."""
    key = (tuple(turn.rule.formula for turn in turns), tuple(counts), dtype, mode)
    if key not in _KERNELS:
        rules = [turn.rule for turn in turns]
        try:
            _KERNELS[key] = _compiled(_source(rules, counts, dtype, mode), rules, dtype, mode)
        except Exception as error:
            _KERNELS[key] = None
            names = ", ".join(type(rule).__name__ for rule in rules)
            if names not in _WARNED:
                _WARNED.add(names)
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                warnings.warn(
                    f"{names} runs with NumPy: Numba cannot compile the formula, because {reason}",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return _KERNELS[key]
