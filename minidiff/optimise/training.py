"""The training loop, and how the loss and callbacks end it or go on early."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from typing import Any, NoReturn

import numpy as np

from minidiff.checks import described, function, instance, integer
from minidiff.gradient import withgradient
from minidiff.interrupts import whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.update import update
from minidiff.params import Param, Params
from minidiff.typing import NDArray

__all__ = ["skip", "stop", "train"]

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
    compiled: bool = False,
) -> NDArray[np.float64]:
    """Take one step of the optimiser for each element of the data.

    For each `d` in the data this computes the loss and its gradient, updates the parameters and then runs the
    callbacks. The loss and the callbacks may call `stop`, which ends the training at once, and `skip`, which
    goes on to the next element. Called from the loss, they leave the step out; called from a callback, they
    leave out the callbacks that follow.

    Ctrl-C during the update of the parameters takes effect when all of them are updated. The parameters and
    the optimiser's state always belong together.

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
    compiled : bool
        Whether to record the loss and its gradient and run them as NumPy: see `minidiff.compiled`.

    Returns
    -------
    ndarray, shape (steps,), float64
        The loss before each step that was taken; a step that was skipped from the loss has none.

    Raises
    ------
    FloatingPointError
        If the loss is infinite or NaN. The message says at which step, counted from 1. Nothing has changed.
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
    slope = _slope(loss, ps, compiled)
    batches: Any = _batches(data, epochs)
    losses: list[float] = []
    running = math.nan
    with _bar(batches, data, epochs) if progress else nullcontext(batches) as bar:
        for d in bar:
            arguments = d if isinstance(d, tuple) else (d,)
            try:
                value, grads = slope(*arguments)
                value = np.asarray(value).item()
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss is {value} at step {len(losses) + 1}, not taken")
                whole(update, opt, ps, grads)
                losses.append(value)
                if progress:
                    running = value if len(losses) == 1 else 0.95 * running + 0.05 * value
                    bar.set_postfix_str(f"loss {running:.4g}", refresh=False)
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
                continue
            except _Stop:
                break
    return np.array(losses, dtype=np.float64)


def stop() -> NoReturn:
    """End the training: the loss or a callback calls it, and `train` returns at once.

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
    raise _Stop("stop() was called outside of train(...): only the loss and the callbacks can end a training")


def skip() -> NoReturn:
    """Go on to the next element of the data. Called from the loss, this one has no step.

    Called from a callback, it leaves out the callbacks that follow.

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
    raise _Skip("skip() was called outside of train(...): only the loss and the callbacks can skip")


class _Stop(Exception):  # noqa: N818  (no error)
    """Raised by `stop`."""


class _Skip(Exception):  # noqa: N818  (no error)
    """Raised by `skip`."""


# The parts of the loop -----------------------------------------------------------------------------


def _check(loss: Any, data: Any, opt: Any, epochs: int) -> None:
    order = ": the order is train(loss, ps, data, opt)"
    function("loss", loss, advice=order)
    instance("opt", opt, AbstractOptimiser, "an optimiser", order)
    if not (isinstance(data, Iterable) or hasattr(data, "__getitem__")) or isinstance(data, Mapping):
        raise TypeError(
            f"data must be an iterable of batches, got {described(data)}: one batch alone is [batch]"
        )
    if isinstance(data, tuple) and any(isinstance(item, np.ndarray) for item in data):
        raise TypeError(
            "data must be an iterable of batches, got a tuple of arrays: one batch alone is [(x, y)], "
            "minibatches come from DataLoader((x, y), batchsize=…)"
        )
    if integer("epochs", epochs, 0) > 1 and isinstance(data, Iterator):
        raise _exhausted(epochs)


def _slope(loss: Callable[..., Any], ps: Params, is_compiled: bool) -> Callable[..., Any]:
    """Return the function of a batch that gives the loss and its gradient."""
    if is_compiled:
        from minidiff.compiled import compiled  # which imports the optimisers

        return compiled(loss, ps)
    return lambda *d: withgradient(lambda: loss(*d), ps)


def _params(ps: Any) -> Params:
    if isinstance(ps, Iterable) and not isinstance(ps, (Params, Param, np.ndarray, str, Mapping)):
        return Params(ps)
    return instance("ps", ps, Params, "Params", ": wrap it in params(...)")  # type: ignore[no-any-return]


def _callbacks(cb: Callback | Iterable[Callback] | None) -> list[Callback]:
    callbacks: Any = [] if cb is None else list(cb) if isinstance(cb, Iterable) else [cb]
    for callback in callbacks:
        function("cb", callback, "a function without arguments, or several of them")
        if not _takes(callback):
            raise TypeError(
                f"cb is called without arguments, but {callback!r} takes {inspect.signature(callback)}"
            )
    return callbacks  # type: ignore[no-any-return]


def _takes(f: Callable[..., Any], *arguments: Any) -> bool:
    """Tell whether `f` can be called with these arguments. It may, if it has no signature."""
    try:
        inspect.signature(f).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def _batches(data: Iterable[Any], epochs: int) -> Iterator[Any]:
    count = 0
    for _ in range(epochs):
        before = count
        for batch in data:
            count += 1
            yield batch
        if count == before > 0:
            raise _exhausted(epochs)


def _exhausted(epochs: int) -> ValueError:
    return ValueError(
        f"data can be gone through only once, but epochs is {epochs}: give a list, a DataLoader, or another "
        "object that iterates afresh each time"
    )


def _bar(batches: Iterator[Any], data: Iterable[Any], epochs: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install 'minidiff[plot]'") from None
    return tqdm(batches, total=epochs * len(data) if isinstance(data, Sized) else None, unit="step")
