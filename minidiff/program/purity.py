"""Whether what a function returns follows from its arguments alone, told by the names that it uses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

from minidiff.program.listing import NUMBERS, RefusedError

__all__ = ["readings"]

# What a formula may ask of an array besides calling NumPy. The shape is left out, as a block has another
# shape than its array.
_ATTRIBUTES = {"dtype", "kind"}
_KNOWN = np, np.where, np.real, np.imag, np.clip, abs


def readings(function: Any, within: tuple[Any, ...] = ()) -> Iterator[Callable[[], bool]]:
    """Watch what a function reads besides its arguments: numbers, NumPy, and functions like itself.

    Parameters
    ----------
    function : callable
        The function. One of minidiff's own is taken for pure.
    within : tuple of callable
        The functions that call it.

    Yields
    ------
    callable
        For this function and each that it calls: it tells whether a name means something else by now.

    Raises
    ------
    RefusedError
        If it uses another name: it might read what changes, or change what others read.
    """
    if not isinstance(function, FunctionType):
        raise RefusedError("it is no plain function")
    if str(function.__globals__.get("__name__")).startswith("minidiff."):
        return
    if function.__dict__ or function.__kwdefaults__ or any(map(inspect.iscode, function.__code__.co_consts)):
        raise RefusedError(f"{function.__name__} is more than a plain function")
    found, within = inspect.getclosurevars(function), (*within, function)
    names = {**found.builtins, **found.globals}
    used = [*names.items(), *found.nonlocals.items()]
    used += [(attribute, getattr(np, attribute, None)) for attribute in found.unbound - _ATTRIBUTES]
    used += [("a default argument", x) for x in function.__defaults__ or ()]
    for what, x in used:
        if isinstance(x, FunctionType):
            yield from readings(x, within) if x not in within else ()
        elif not (isinstance(x, np.ufunc) or type(x) in NUMBERS or any(x is known for known in _KNOWN)):
            raise RefusedError(f"{function.__name__} uses {what}, which may be more than elementwise")

    def decisive() -> list[Any]:
        """Return what decides over the result besides the arguments."""
        outer = [cell.cell_contents for cell in function.__closure__ or ()]
        return [function.__code__, function.__defaults__, *outer, *map(function.__globals__.get, names)]

    before = decisive()
    yield lambda: any(a is not b and _differ(a, b) for a, b in zip(before, decisive(), strict=True))


def _differ(a: Any, b: Any) -> bool:
    # an equal number may be another: 0.0 is not -0.0, nor 1 what 1.0 is
    return type(a) not in NUMBERS or type(a) is not type(b) or repr(a) != repr(b)
