"""An interrupt (Ctrl-C, or a signal such as SIGTERM) waits for the end of what must not be left half done."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from traceback import walk_tb
from typing import Any, TypeVar

__all__ = ["each", "failures", "finish", "is_signals", "trying", "whole"]

T = TypeVar("T")

# The functions of the `signal` module turn numbers into enumerations, which takes longer than all the rest.
_plain: Any = getattr(signal, "_signal", signal)
_handler: Callable[[int], Any] = _plain.getsignal
_set_handler: Callable[[int, Any], Any] = _plain.signal
# Signals that ask for an end, say that a time is over, or are free for users: their handlers may raise.
_NAMES = "SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK"
_SIGNALS = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]


def whole(work: Callable[..., T], *args: Any) -> T:
    """Call ``work(*args)``. An interrupt that comes meanwhile takes effect at the end, also if it raises.

    Parameters
    ----------
    work : callable
        What must not be left half done.
    *args
        Its arguments.

    Returns
    -------
    object
        What `work` returns.

    Notes
    -----
    Python runs signal handlers in the main thread only, so that elsewhere there is nothing to wait for.
    A handler that `work` installs itself stays. What has come is heard in its order, each signal as often as
    it came, also if a handler raises an error.

    Examples
    --------
    >>> import signal
    >>> def work():
    ...     signal.raise_signal(signal.SIGINT)
    ...     print("whole")
    >>> try:
    ...     whole(work)
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    whole
    interrupted
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work(*args)
    held: dict[int, Any] = {}
    for number in _SIGNALS:
        handler = _handler(number)
        if callable(handler) and not hasattr(handler, "waits"):  # others end the process, or wait already
            held[number] = handler
    if not held:
        return work(*args)
    came: list[tuple[Any, ...]] = []

    def hear(number: int, frame: Any) -> None:
        handler = held.get(number) or next(iter(held.values()))  # `work` may have set it for another signal
        if hasattr(wait, "waits"):
            came.append((handler, number, frame))
        else:  # `work` has left a handler that still calls this one
            handler(number, frame)

    wait: Any = hear
    wait.waits = True
    try:
        try:
            for number in held:
                _set_handler(number, wait)
            return work(*args)
        finally:
            finish(_put_back, held, wait)
    finally:
        del wait.waits
        each(lambda handler, *signal: handler(*signal), came)


def _put_back(held: dict[int, Any], wait: Any) -> None:
    for number, handler in held.items():
        if _handler(number) is wait:
            _set_handler(number, handler)


def finish(work: Callable[..., object], *args: Any) -> None:
    """Call ``work(*args)``, which only assigns. If an interrupt cuts it short, call it again, and `whole`.

    It is for a single small step, where a microsecond for the handler would show.

    Parameters
    ----------
    work : callable
        A function whose second call changes nothing more.
    *args
        Its arguments.

    Examples
    --------
    >>> done = {}
    >>> finish(done.update, {"step": 1})
    >>> done
    {'step': 1}
    """
    try:
        work(*args)
    except BaseException:
        whole(work, *args)
        raise


def each(work: Callable[..., object], items: Iterable[tuple[Any, ...]]) -> None:
    """Call ``work(*item)`` for each of the items, also if it raises an error for some.

    Parameters
    ----------
    work : callable
        What is to be done.
    items : iterable of tuple
        Its arguments, one after another.

    Raises
    ------
    BaseException
        At the end, what `work` raised last, with the earlier ones as its context.

    Examples
    --------
    >>> def halve(n):
    ...     print(1 / n)
    >>> try:
    ...     each(halve, [(0,), (2,)])
    ... except ZeroDivisionError:
    ...     print("and an error")
    0.5
    and an error
    """
    rest = iter(items)
    try:
        for item in rest:
            work(*item)
    except BaseException:
        each(work, rest)
        raise


def is_signals(error: BaseException) -> bool:
    """Tell whether the handler of a signal has raised an error, as that of a time limit does.

    Such an error says nothing of what was being done, and is nobody's to catch here.

    Parameters
    ----------
    error : BaseException
        An error that has been caught.
    """
    codes = set[Any]()
    for handler in map(_handler, _SIGNALS):
        f = getattr(handler, "func", handler)  # of a partial one
        codes.add(getattr(f, "__code__", None) or getattr(type(f).__call__, "__code__", None))
    return codes != {None} and any(frame.f_code in codes for frame, _ in walk_tb(error.__traceback__))


def failures() -> type[Exception] | tuple[()]:
    """Give what an ``except`` clause is to catch: every exception, unless it is of a signal's handler."""
    error = sys.exc_info()[1]
    return () if error is not None and is_signals(error) else Exception


class trying(AbstractContextManager[None]):  # noqa: N801 - it is called as a function is
    """End a block in silence if it raises an exception, unless that is of a signal's handler."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, Exception) and not is_signals(error)
