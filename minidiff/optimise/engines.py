"""Which engine runs a step: NumPy, or formulas compiled with Numba.

Both are silent: infinity and NaN take their way without warnings, as compiled code has none to give.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from contextvars import ContextVar, Token
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from minidiff.optimise.blocks import BLOCK, Turn, cast, commit, in_blocks, put, whole
from minidiff.optimise.programs import quiet
from minidiff.typing import Array

if TYPE_CHECKING:
    from minidiff.optimise.base import AbstractOptimiser

__all__ = ["engine", "run", "step_of"]


# Bytes of a parameter from which compiled formulas pay. Importing Numba and compiling take about a second,
# half of that from its cache; at this size a step of ADAM then takes a seventh of NumPy's time.
LARGE = 2**17
# Bytes from which they pay where they are compiled already. A step takes them about 6 µs at any such size;
# NumPy's takes less for few operations (Descent up to 2**15 bytes and more), and longer for many (ADAM from
# 2**11 on, compositions at any size).
SMALL = 2**12

_ENGINE: ContextVar[str] = ContextVar("engine", default="auto")


class engine:  # noqa: N801 - it is called as a function is
    """Choose how formulas run, from here on or within a ``with`` block.

    Parameters
    ----------
    name : {"auto", "numpy", "fused"}
        "numpy" runs them with NumPy, always. "fused" compiles them with Numba, for arrays of any size.
        "auto", the default, does so for large arrays if Numba is installed, and for all but the smallest
        once what they need has been compiled, if it gives the same bits. Formulas that Numba cannot
        compile, half precision, and arrays that are not contiguous run with NumPy in any case.

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
        if name == "fused" and not _fused().is_installed():
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


def run(
    stages: Sequence[Any], p: Any, x: Array, Δ: Array, out: Array | None = None, *, formulas: bool = False
) -> None:
    """Send a gradient through optimisers one after another, and subtract what comes out from the parameter.

    Parameters
    ----------
    stages : sequence of AbstractOptimiser
        From `AbstractOptimiser.stages`.
    p : Param or ndarray
        The parameter, under which the optimisers keep their state.
    x, Δ : ndarray
        Its values, and its gradient of the same shape.
    out : ndarray, optional
        Where to put the step, if it is not to be subtracted from `x`.
    formulas : bool
        True where a rule's own `apply` calls `Rule.apply`: to run its formula although it has an `apply`.
    """
    if not stages:
        return put(x, Δ, out, quiet())
    if not formulas:
        for stage in stages:
            if not stage.has_formula:
                return _one_by_one(stages, p, x, Δ, out)
    if len(stages) > 1 and len(set(map(id, stages))) < len(stages):
        return _one_by_one(stages, p, x, Δ, out)
    how, size = _ENGINE.get(), x.nbytes
    if (size >= SMALL or how == "fused") and how != "numpy" and _fuses(how, stages, x):
        turns = [Turn(rule, p, x) for rule in stages]
        if _fused().advance(turns, p, x, Δ, out):
            return None
        if turns[0].numbers is not None:  # which rules are asked for but once a step
            return in_blocks(turns, p, x, Δ, out)
    if size <= BLOCK:
        return whole(stages, p, x, Δ, out)
    return in_blocks([Turn(rule, p, x) for rule in stages], p, x, Δ, out)


def step_of(stages: Sequence[Any], p: Any, Δ: Array, *, formulas: bool = False) -> Array:
    """Return what comes out, without subtracting it: what the `apply` of optimisers gives."""
    x = p if isinstance(p, np.ndarray) else p.value
    step = np.empty_like(x)
    run(stages, p, x, Δ, step, formulas=formulas)
    return step


def _fuses(how: str, rules: Sequence[Any], x: Array) -> bool:
    if how == "fused" or x.nbytes >= LARGE:
        return bool(_fused().is_installed())
    return _FUSED in sys.modules and bool(_fused().is_compiled(rules, x))


_FUSED = "minidiff.optimise.fused"


@functools.cache
def _fused() -> ModuleType:
    """Import what only compiled formulas need, when they are first asked for."""
    return import_module(_FUSED)


def _one_by_one(stages: Sequence[AbstractOptimiser], p: Any, x: Array, Δ: Array, out: Array | None) -> None:
    """Take whole arrays through stages of which some only have `apply`, or come twice."""
    turns: dict[int, Turn] = {}
    for stage in stages:
        if stage.has_formula:
            turn = turns[id(stage)] = turns.get(id(stage)) or Turn(stage, p, x)
            Δ = turn.whole(x, Δ)
        else:
            Δ = _applied(stage, p, x, Δ)
    put(x, Δ, out, quiet())
    commit(p, [turn.taken for turn in turns.values()])


def _applied(stage: AbstractOptimiser, p: Any, x: Array, Δ: Array) -> Array:
    name = f"{type(stage).__name__}.apply"
    returned = stage.apply(p, cast(Δ, x).copy())
    if returned is None:
        raise TypeError(f"{name} returned None: it must return the step")
    step = np.asarray(returned)
    if step.shape != x.shape:
        raise ValueError(f"{name} returned a step of shape {step.shape} for a parameter of shape {x.shape}")
    if step.dtype.kind not in "fciub" or (step.dtype.kind == "c" and x.dtype.kind != "c"):
        raise TypeError(f"{name} returned a step of dtype {step.dtype} for a parameter of dtype {x.dtype}")
    return step
