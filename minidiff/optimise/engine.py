"""How the formulas of rules run: with NumPy, or compiled."""

from __future__ import annotations

from contextvars import ContextVar, Token
from importlib.util import find_spec
from typing import Literal

__all__ = ["ENGINE", "engine"]

ENGINE: ContextVar[str] = ContextVar("engine", default="auto")


class engine:  # noqa: N801 - it is called as a function is
    """Choose how formulas run, from here on or within a ``with`` block.

    Parameters
    ----------
    name : {"auto", "numpy", "fused"}
        "numpy" runs them with NumPy, always. "fused" compiles them with Numba, for arrays of any size.
        "auto", the default, begins with NumPy. Once large arrays have cost as much time as the import of
        Numba and compiling would, it goes on compiled, if Numba is installed and gives the same bits.
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
        self._made: Token[str] | None = ENGINE.set(name)
        self._entered: list[Token[str]] = []

    def __enter__(self) -> None:
        self._entered.append(ENGINE.set(self._name))

    def __exit__(self, *_: object) -> None:
        ENGINE.reset(self._entered.pop())
        if self._made is not None and not self._entered:  # the outermost block ends the choice altogether
            ENGINE.reset(self._made)
            self._made = None
