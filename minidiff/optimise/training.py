"""The training loop, and what is used in and around its callbacks."""

from __future__ import annotations

import inspect
import math
import operator
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext, suppress
from numbers import Real
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from minidiff.checks import function, integer
from minidiff.data import Taken
from minidiff.gradient import Grads, withgradient
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.update import update
from minidiff.params import Param, Params
from minidiff.typing import NDArray

__all__ = ["early_stopping", "patience", "plateau", "skip", "stop", "throttle", "train"]

Callback = Callable[[], object]


def train(
    loss: Callable[..., Any],
    ps: Params | Iterable[Param],
    data: Iterable[Any],
    opt: AbstractOptimiser,
    *,
    cb: Callback | Iterable[Callback] | None = None,
    epochs: int = 1,
    progress: bool = False,
) -> NDArray[np.float64]:
    """Take one step of the optimiser for each element of the data.

    For each `d` in the data this computes the loss and its gradient, updates the parameters and then runs the
    callbacks. `stop` ends the training and `skip` goes on to the next element, at once: called from the
    loss, without a step; from a callback, after the step and without the callbacks that follow.

    Ctrl-C during the update of a step takes effect when the step is whole, so that the parameters and the
    optimiser's state always belong together.

    Parameters
    ----------
    loss : callable
        ``loss(*d)`` if `d` is a tuple, else ``loss(d)``. It returns one real number.
    ps : Params
        The parameters to train.
    data : iterable
        Batches: a `DataLoader`, a list, a generator.
    opt : AbstractOptimiser
        Its state goes on from where it is; training again with the same optimiser goes on from there.
    cb : callable or iterable of callables, optional
        Called without arguments after each step, in order. See `throttle` for one that takes long.
    epochs : int
        How many times to go through the data.
    progress : bool
        Whether to show a bar with the running loss and the rate. Needs tqdm, of the `plot` extra.

    Returns
    -------
    ndarray, shape (steps,), float64
        The loss before each step that was taken; a step that was skipped from the loss has none.

    Raises
    ------
    FloatingPointError
        If the loss is infinite or NaN. The message says at which step, counted from 1; it is not taken.
    ValueError
        If there are several epochs, and data that can be gone through only once.
    TypeError
        If an argument is not what it should be.
    ImportError
        If there is no tqdm for the progress bar.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Descent
    >>> a = param(0.0)
    >>> data = [(1.0, 2.0), (2.0, 4.0)]
    >>> train(lambda x, y: (a * x - y) ** 2, params(a), data, Descent(0.1), epochs=2).round(3)
    array([ 4.   , 10.24 ,  0.102,  0.262])
    >>> print(f"{a:.2f}")
    1.95
    """
    _check(loss, data, opt, epochs)
    ps, callbacks = _params(ps), _callbacks(cb)
    elements: Any = _elements(data, epochs)
    losses: list[float] = []
    running = math.nan
    bar = _bar(elements, data, epochs) if progress else nullcontext(elements)
    with bar as batches, Taken(data) as taken, _WholeSteps() as whole:

        def take_step(grads: Grads) -> None:
            update(opt, ps, grads)
            taken.note()

        for d in batches:
            arguments = d if isinstance(d, tuple) else (d,)
            try:
                value, grads = withgradient(lambda: loss(*arguments), ps)  # noqa: B023  (called at once)
                value = np.asarray(value).item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss is {value} at step {len(losses) + 1}, which has not been taken"
                    )
                whole.take(take_step, grads)
                losses.append(value)
                if progress:
                    running = value if len(losses) == 1 else 0.95 * running + 0.05 * value
                    batches.set_postfix_str(f"loss {running:.4g}", refresh=False)
                for callback in callbacks:
                    callback()
            except TypeError as error:
                if isinstance(d, list) and not _takes(loss, d):
                    raise TypeError(
                        "the loss got a batch that is a list as one argument: make it a tuple, (x, y), and "
                        "the loss gets two"
                    ) from error
                raise
            except _Skip:
                taken.note()
            except _Stop:
                break
    return np.array(losses, dtype=np.float64)


def stop() -> NoReturn:
    """End the training: called from the loss or a callback, makes `train` return at once.

    Examples
    --------
    >>> from minidiff import param, params, stop, train
    >>> from minidiff.optimise import Descent
    >>> a = param(1.0)
    >>> def enough():
    ...     if a < 0.1:
    ...         stop()
    >>> losses = train(lambda _: a**2, params(a), range(1000), Descent(0.1), cb=enough)
    >>> len(losses)
    11
    """
    raise _Stop(
        "stop() was called outside of train(...): only the loss and the callbacks of a training can end it"
    )


def skip() -> NoReturn:
    """Go on to the next element of the data: called from the loss, no step is taken for this one.

    Called from a callback, the callbacks that follow are left out.

    Examples
    --------
    >>> from minidiff import param, params, skip, train
    >>> from minidiff.optimise import Descent
    >>> a = param(1.0)
    >>> def loss(x):
    ...     if np.isnan(x):
    ...         skip()
    ...     return (a - x) ** 2
    >>> train(loss, params(a), [3.0, np.nan, 3.0], Descent(0.5))
    array([4., 0.])
    """
    raise _Skip(
        "skip() was called outside of train(...): only the loss and the callbacks of a training can skip"
    )


class _Stop(Exception):  # noqa: N818  (no error)
    """Raised by `stop`."""


class _Skip(Exception):  # noqa: N818  (no error)
    """Raised by `skip`."""


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
    if not isinstance(seconds, Real):
        raise TypeError(f"seconds must be a number, got {seconds!r}: it is throttle(f, seconds)")
    if not seconds >= 0:
        raise ValueError(f"seconds must be a number from 0 on, got {seconds!r}")
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

    A score is better where ``distance(best, score) > min_dist``, with the default: where it is lower by more
    than `min_dist`. A NaN is never better.

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


# The parts of the loop -----------------------------------------------------------------------------


def _params(ps: Any) -> Params:
    """Give parameters as `Params`, or say what should have been given."""
    if isinstance(ps, Params):
        return ps
    if isinstance(ps, Iterable) and not isinstance(ps, (Param, np.ndarray, str, Mapping)):
        return Params(ps)
    raise TypeError(f"ps must be Params, got a {type(ps).__name__}: wrap it in params(...)")


def _callbacks(cb: Callback | Iterable[Callback] | None) -> list[Callback]:
    callbacks: Any = [] if cb is None else list(cb) if isinstance(cb, Iterable) else [cb]
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"cb must be a function without arguments, or several of them, got {callback!r}")
        if not _takes(callback):
            raise TypeError(
                f"cb is called without arguments, but {callback!r} takes {inspect.signature(callback)}"
            )
    return callbacks  # type: ignore[no-any-return]


def _takes(f: Callable[..., Any], *arguments: Any) -> bool:
    """Tell whether `f` can be called with these arguments, as far as its signature is known."""
    try:
        inspect.signature(f).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # it has none
        pass
    return True


def _check(loss: Any, data: Any, opt: Any, epochs: int) -> None:
    if not callable(loss):
        raise TypeError(f"loss must be a function, got {loss!r}: the order is train(loss, ps, data, opt)")
    if not isinstance(opt, AbstractOptimiser):
        raise TypeError(f"opt must be an optimiser, got {opt!r}: the order is train(loss, ps, data, opt)")
    if not (isinstance(data, Iterable) or hasattr(data, "__getitem__")) or isinstance(data, Mapping):
        raise TypeError(
            f"data must be an iterable of batches, got {type(data).__name__}; one batch alone is [batch]"
        )
    if isinstance(data, tuple) and any(isinstance(item, np.ndarray) for item in data):
        raise TypeError(
            "data must be an iterable of batches, got a tuple of arrays: one batch alone is [(x, y)], "
            "minibatches come from DataLoader((x, y), batchsize=…)"
        )
    if integer("epochs", epochs, 0) > 1 and isinstance(data, Iterator):
        raise ValueError(_GONE.format(epochs))


_GONE = (
    "data can be gone through only once, but epochs is {}: give a list, a DataLoader, or another object that "
    "iterates afresh each time"
)


def _elements(data: Iterable[Any], epochs: int) -> Iterator[Any]:
    gave = 0
    for _ in range(epochs):
        before = gave
        for d in data:
            gave += 1
            yield d
        if gave == before > 0:
            raise ValueError(_GONE.format(epochs))


def _bar(elements: Iterator[Any], data: Iterable[Any], epochs: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install 'minidiff[plot]'") from None
    return tqdm(elements, total=epochs * len(data) if isinstance(data, Sized) else None, unit="step")


class _WholeSteps:
    """Keeps Ctrl-C from cutting a step in two: one that comes during a step is obeyed right after it."""

    def __init__(self) -> None:
        self._handler: Any = None
        self._stepping = False
        self._pending: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> _WholeSteps:
        self._handler = signal.getsignal(signal.SIGINT)
        if callable(self._handler):
            # Signals reach the main thread only; setting a handler elsewhere is a ValueError.
            with suppress(ValueError):
                signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        # Elsewhere, or where a callback has set a handler of its own, the present one is not ours to change.
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, self._handler)

    def take(self, step: Callable[..., object], *args: Any) -> None:
        """Call ``step(*args)``; if Ctrl-C came meanwhile, obey it then."""
        self._stepping = True
        try:
            step(*args)
        finally:
            self._stepping = False
            if self._pending is not None:
                interrupt, self._pending = self._pending, None
                self._handler(*interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stepping:
            self._pending = number, frame
        else:
            self._handler(number, frame)
