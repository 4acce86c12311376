"""What callbacks are made of: `throttle`, and triggers that tell when it is time to stop."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from typing import Any

from minidiff.checks import function, integer, number

__all__ = ["early_stopping", "patience", "plateau", "throttle"]


def throttle(
    f: Callable[..., Any], seconds: float, *, clock: Callable[[], float] = time.monotonic
) -> Callable[..., Any]:
    """Make a function that calls `f` at most once in so many seconds, the first time at once.

    Parameters
    ----------
    f : callable
        Takes any arguments.
    seconds : float
        How long calls are left out after `f` has returned, at least 0.
    clock : callable
        Tells the time in seconds.

    Returns
    -------
    callable
        Takes the arguments of `f`, and returns what `f` returned last.

    Examples
    --------
    >>> now = 0.0
    >>> report = throttle(lambda: print("at", now), 10, clock=lambda: now)
    >>> for now in (0, 4, 9, 11, 13, 30):
    ...     report()
    at 0
    at 11
    at 30
    """
    function("f", f)
    seconds = number("seconds", seconds, within="[0, inf]")
    returned = -math.inf
    result: Any = None

    def throttled(*args: Any, **kwargs: Any) -> Any:
        nonlocal returned, result
        if clock() - returned >= seconds:
            result = f(*args, **kwargs)
            returned = clock()
        return result

    return throttled


def patience(predicate: Callable[..., Any], wait: int) -> Callable[..., bool]:
    """Make a trigger that is true once `predicate` has been true `wait` times in a row.

    Parameters
    ----------
    predicate : callable
        Takes any arguments, gives true or false.
    wait : int
        How many times, at least 1.

    Returns
    -------
    callable
        Takes the arguments of `predicate`.

    Examples
    --------
    >>> trigger = patience(lambda loss: loss < 1, wait=2)
    >>> [trigger(loss) for loss in (0.5, 1.5, 0.5, 0.4, 0.3)]
    [False, False, False, True, True]
    """
    function("predicate", predicate)
    wait = integer("wait", wait, 1)
    count = 0

    def trigger(*args: Any, **kwargs: Any) -> bool:
        nonlocal count
        count = count + 1 if predicate(*args, **kwargs) else 0
        return count >= wait

    return trigger


_in_a_row = patience  # `early_stopping` has an argument of that name


def early_stopping(
    f: Callable[..., Any],
    patience: int,
    *,
    distance: Callable[[Any, Any], Any] = operator.sub,
    init_score: Any = None,
    min_dist: float = 0,
) -> Callable[..., bool]:
    """Make a trigger that is true once the best score is `patience` calls old.

    A score is better if ``distance(best, score) > min_dist``. By default that is a score lower than the best
    by more than `min_dist`. A NaN is never better.

    Parameters
    ----------
    f : callable
        Gives the score, the lower the better; takes any arguments.
    patience : int
        How many calls in a row without a better score, at least 1.
    distance : callable
        Tells by how much its second argument is better than its first. For scores to be maximised,
        ``lambda best, score: score - best``.
    init_score : number, optional
        The score to be better than at first. The first score itself, unless given. (Flux starts with 0, from
        which no positive loss is an improvement.)
    min_dist : float
        The least improvement that counts.

    Returns
    -------
    callable
        Takes the arguments of `f`.

    Examples
    --------
    >>> losses = iter([3.0, 2.0, 2.5, 1.0, 1.2, 1.1, 1.0])
    >>> trigger = early_stopping(lambda: next(losses), 3)
    >>> [trigger() for _ in range(7)]
    [False, False, False, False, False, False, True]

    As a callback: ``cb=lambda: trigger() and stop()``.
    """
    function("f", f)
    integer("patience", patience, 1)
    best = init_score

    def no_better(*args: Any, **kwargs: Any) -> bool:
        nonlocal best
        score = f(*args, **kwargs)
        if best is None or best != best or distance(best, score) > min_dist:  # NaN is no score to beat
            best = score
            return False
        return True

    return _in_a_row(no_better, patience)


def plateau(
    f: Callable[..., Any],
    width: int,
    *,
    distance: Callable[[Any, Any], Any] = operator.sub,
    init_score: Any = None,
    min_dist: float = 1e-6,
) -> Callable[..., bool]:
    """Make a trigger that is true once the score has hardly changed `width` times in a row.

    Parameters
    ----------
    f : callable
        Gives the score; takes any arguments.
    width : int
        How many changes in a row must be small, at least 1.
    distance : callable
        Tells how far its second argument is from its first; the sign does not matter.
    init_score : number, optional
        What the first score is compared to; with nothing, unless given.
    min_dist : float
        The least distance that counts as a change.

    Returns
    -------
    callable
        Takes the arguments of `f`.

    Examples
    --------
    >>> losses = iter([3.0, 1.0, 1.01, 1.0, 0.2])
    >>> trigger = plateau(lambda: next(losses), 2, min_dist=0.1)
    >>> [trigger() for _ in range(5)]
    [False, False, False, True, False]
    """
    function("f", f)
    integer("width", width, 1)
    last = init_score

    def hardly_changed(*args: Any, **kwargs: Any) -> bool:
        nonlocal last
        before, last = last, f(*args, **kwargs)
        return before is not None and bool(abs(distance(before, last)) < min_dist)

    return _in_a_row(hardly_changed, width)
