"""An interrupt (Ctrl-C) waits for the end of what must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Deferred", "finish", "whole"]

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
    if threading.current_thread() is not threading.main_thread():
        return work(*args)
    handler = _handler(signal.SIGINT)
    if not callable(handler):  # interrupts are ignored, or end the process
        return work(*args)
    came: list[tuple[Any, ...]] = []
    over = False

    def wait(*signal_and_frame: Any) -> None:
        if over:  # a handler that `work` left behind passes on to this one
            handler(*signal_and_frame)
        else:
            came.append(signal_and_frame)

    try:
        _set_handler(signal.SIGINT, wait)
        return work(*args)
    finally:
        if _handler(signal.SIGINT) is wait:
            _set_handler(signal.SIGINT, handler)
        over = True
        if came:
            handler(*came[-1])


class Deferred:
    """Makes interrupts wait as `whole` does, for many pieces of work, at a tenth of the cost for each.

    The handler is installed once, for the time of a ``with`` block, and waits while there is work. At other
    times it goes, and passes the interrupt on to the handler that was there before.

    Examples
    --------
    >>> import signal
    >>> def work(i):
    ...     if i == 1:
    ...         signal.raise_signal(signal.SIGINT)
    ...     print("whole", i)
    >>> try:
    ...     with Deferred() as deferred:
    ...         for i in range(3):
    ...             deferred.whole(work, i)
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    whole 0
    whole 1
    interrupted
    """

    def __enter__(self) -> Deferred:
        self._works = False
        self._came: list[tuple[Any, ...]] = []
        self._before, self._mine = _handler(signal.SIGINT), self._hear
        is_main = threading.current_thread() is threading.main_thread()
        self._installed: Any = self._mine if is_main and callable(self._before) else None
        if self._installed:
            _set_handler(signal.SIGINT, self._mine)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def whole(self, work: Callable[..., object], *args: Any) -> None:
        """Call ``work(*args)``. An interrupt that comes meanwhile takes effect at the end."""
        if _handler(signal.SIGINT) is not self._installed:
            whole(work, *args)
            return
        self._works = True
        try:
            work(*args)
        finally:
            self._works = False
            if self._came:
                self._pass_on(self._came.pop())

    def _hear(self, *signal_and_frame: Any) -> None:
        if self._works:
            self._came[:] = [signal_and_frame]
        else:
            self._pass_on(signal_and_frame)

    def _pass_on(self, signal_and_frame: tuple[Any, ...]) -> None:
        self._leave()  # first, as an interrupt mostly ends the block, at whatever instruction
        self._before(*signal_and_frame)

    def _leave(self) -> None:
        if _handler(signal.SIGINT) is self._installed:
            _set_handler(signal.SIGINT, self._before)


def finish(work: Callable[..., object], *args: Any) -> None:
    """Call ``work(*args)``, which only assigns, and call it again if an interrupt cuts it short.

    `whole` waits for the end of any work, but costs a microsecond more.

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
        work(*args)
        raise
