"""What watches over a loss: arrays that are not to change, and numbers that are to be finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minidiff.tracing.record import Trace, guards, watching

__all__ = ["guard", "watch"]


@contextmanager
def guard() -> Iterator[None]:
    """Make the arrays that a loss has used read-only until its gradient is taken.

    An array that is refilled in place after the loss has used it gives another gradient, without a word.
    Under the guard to refill it is an error. Parameters are held as well.

    Notes
    -----
    It costs some time for each array, so it is off unless asked for. What a `pullback` uses is held until the
    ``with`` block ends.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import gradient, guard
    >>> buffer = np.ones(2)
    >>> def loss(x):
    ...     y = np.sum(x * buffer)
    ...     buffer[...] = 2
    ...     return y + np.sum(x * buffer)
    >>> with guard():
    ...     gradient(loss, np.ones(2))
    Traceback (most recent call last):
        ...
    ValueError: assignment destination is read-only: guard() holds what the loss has used
    >>> buffer.flags.writeable
    True
    """
    around, traces = guards.get(), list[Trace]()
    try:
        guards.set(traces)
        yield
    finally:
        try:
            _end_guard(traces, around)
        finally:  # once more: an interrupt may cut the first one short
            _end_guard(traces, around)


def _end_guard(traces: list[Trace], around: list[Trace] | None) -> None:
    guards.set(around)
    for trace in traces:
        trace.release()


@contextmanager
def watch() -> Iterator[None]:
    """Stop at the first call whose value or gradient is not finite, and name it, in the ``with`` block.

    Raises
    ------
    FloatingPointError
        By a gradient that is taken in the block. It names the function and the line of the loss.

    Notes
    -----
    Every result and every gradient is looked at, which takes several times as long. Infinity counts as well
    as NaN, also where the loss would leave it out later, by `np.where` or `min`.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import gradient, watch
    >>> def loss(x):
    ...     root = np.sqrt(x)
    ...     return np.sum(root)
    >>> with watch():  # doctest: +ELLIPSIS
    ...     gradient(loss, np.array([0.0, 4.0]))
    Traceback (most recent call last):
        ...
    FloatingPointError: np.sqrt, in line ...: the gradient by argument 0 is not finite
    """
    before = watching.get()
    try:
        watching.set(True)
        with np.errstate(all="ignore"):  # NumPy would warn of the same
            yield
    finally:
        try:
            watching.set(before)
        finally:
            watching.set(before)
