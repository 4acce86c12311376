"""Two recordings of the same function: whether they are alike, and what it makes anew whenever it runs."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from minidiff.checks import described, is_ndarray
from minidiff.program.listing import Call, Listing, RefusedError, StandIn, flat, shown_line
from minidiff.program.signature import equal
from minidiff.tracing import Kept

__all__ = ["alike", "doubt"]


def alike(first: Listing, second: Listing) -> set[int]:
    """Compare two recordings of one function.

    Returns
    -------
    set of int
        The ids of those constants of the first that are the same memory in the second: arrays that the
        function finds, and does not make.

    Raises
    ------
    RefusedError
        If they differ in a call or in a constant.
    """
    found: set[int] = set()
    for name, x in first.constants.items():
        if not _same(x, second.constants.get(name), found):
            raise RefusedError(f"compiled: {_DIFFERS[0].upper()}{_DIFFERS[1:]}")
    for a, b in zip(first.calls, second.calls, strict=False):
        same = a.form == b.form and a.phase == b.phase
        if not (same and _same(a.operands, b.operands, found) and _same(a.options, b.options, found)):
            raise RefusedError(f"compiled: {shown_line(a.line)}{_made_anew(a) or _DIFFERS}")
    if len(first.calls) != len(second.calls):
        longer = max(first, second, key=lambda listing: len(listing.calls))
        line = longer.calls[min(len(first.calls), len(second.calls))].line
        raise RefusedError(f"compiled: {shown_line(line)}{_DIFFERS}")
    return found


def doubt(first: Listing, second: Listing, of_numbers: bool) -> str | None:
    """Tell of a line that uses an array, or a number, that the function makes anew whenever it runs."""
    for (line, a), (_, b) in zip(first.given, second.given, strict=False):
        for x, y in zip(a, b, strict=False):
            if x is y or (type(x) is float and not of_numbers):
                continue
            if not _is_there(x, y):
                return f"{shown_line(line)}it uses {described(x)}"
    for name in first.forward:
        if not _is_there(x := first.constants[name], second.constants[name]):
            line = next((call.line for call in first.calls if any(s._name == name for s in call.uses)), None)
            return f"{shown_line(line)}it uses {described(x)}"
    return None


_DIFFERS = (
    "a second recording differs here from the first. Random numbers, counters and the clock would be those "
    "of the recording for ever: pass them as arguments."
)


def _made_anew(call: Call) -> str:
    """Say what a call gets that the loss makes at every call, if that is no array."""
    given = flat(call.operands)
    is_sparse, is_function = any(hasattr(x, "tocsr") for x in given), any(map(inspect.isfunction, given))
    made = "a sparse matrix" if is_sparse else "a function" if is_function else ""
    return made and f"the loss makes {made} anew. Make it before, outside of the loss."


def _same(a: Any, b: Any, found: set[int]) -> bool:
    if type(a) is not type(b):
        return False
    if type(a) is Kept:  # each call has its own
        return True
    if type(a) is StandIn:
        return bool(a._name == b._name)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(_same(x, y, found) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(x, b[name], found) for name, x in a.items())
    if isinstance(a, slice):
        return _same((a.start, a.stop, a.step), (b.start, b.stop, b.step), found)
    if is_ndarray(a):
        if _place(a) == _place(b):
            found.add(id(a))
            return True
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
    if is_ndarray(a) or isinstance(a, np.generic):
        if a.dtype.char in "gG":  # some bytes of extended precision hold nothing, and may differ
            return equal([a], [b])
        return bool(a.tobytes() == b.tobytes())
    if isinstance(a, (bool, int, float, complex, str, range)):
        return repr(a) == repr(b)
    return a is b or (isinstance(a, np.dtype) and bool(a == b))


def _is_there(x: Any, y: Any) -> bool:
    """Tell whether two arrays are in the same memory."""
    return is_ndarray(x) and type(x) is type(y) and bool(_place(x) == _place(y))


def _place(a: Any) -> Any:
    return a.__array_interface__["data"][0], a.shape, a.strides, a.dtype
