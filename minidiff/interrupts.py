"""An interrupt (Ctrl-C) waits for the end of what must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["finish", "whole"]

T = TypeVar("T")

# The functions of the `signal` module turn numbers into enumerations, which takes longer than all the rest.
_plain: Any = getattr(signal, "_signal", signal)
_handler: Callable[[int], Any] = _plain.getsignal
_set_handler: Callable[[int, Any], Any] = _plain.signal


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
    A handler that `work` installs itself stays.

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
    handler = _handler(signal.SIGINT)
    if not callable(handler) or hasattr(handler, "waits"):  # interrupts end the process, or wait already
        return work(*args)
    if threading.current_thread() is not threading.main_thread():
        return work(*args)
    came: list[tuple[Any, ...]] = []

    def hear(*signal_and_frame: Any) -> None:
        if hasattr(wait, "waits"):
            came.append(signal_and_frame)
        else:  # `work` has left a handler that still calls this one
            handler(*signal_and_frame)

    wait: Any = hear
    wait.waits = True
    try:
        _set_handler(signal.SIGINT, wait)
        return work(*args)
    finally:
        if _handler(signal.SIGINT) is wait:
            _set_handler(signal.SIGINT, handler)
        del wait.waits
        if came:
            handler(*came[-1])


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
