"""The training loop, and how the loss and callbacks end it or go on early."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, nullcontext, suppress
from typing import Any, NoReturn

import numpy as np

from minidiff.checks import described, extra, flag, function, hint, instance, integer, is_number, takes, warn
from minidiff.data import Counted, DataLoader
from minidiff.gradient import withgradient
from minidiff.grads import Grads
from minidiff.interrupts import finish, whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.callbacks import Progress, has_fired, is_trigger
from minidiff.optimise.memory import Memory
from minidiff.optimise.together import Steps
from minidiff.optimise.transforms import Joint, accumulate, what_is_not_finite
from minidiff.params import Param, Params
from minidiff.typing import NDArray

__all__ = ["skip", "stop", "train"]

Callback = Callable[[], object] | Callable[[Progress], object]
Transform = Callable[[Grads], Grads | None]

# Steps after which it pays to make a program of them: that takes as long as it saves in some two hundred.
PATIENCE = 100
# What there is in place of other libraries' options.
_OPTIONS = {
    "epoch": "epochs=",
    "batch_size": "batches as data, DataLoader((x, y), batchsize)",
    **dict.fromkeys(("callback", "callbacks"), "cb= after each step and each_epoch="),
    **dict.fromkeys(("on_epoch_end", "metrics"), "each_epoch=, a function of the progress"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "an optimiser, which may be Scheduler(schedule, opt)"),
    **dict.fromkeys(("lr", "learning_rate"), "an optimiser, which has the rate: ADAM(0.01)"),
    "verbose": "progress=True",
    **dict.fromkeys(
        ("validation_data", "early_stopping"), "each_epoch=early_stopping(validation_loss, 5), or KeepBest"
    ),
    "clip": "transform=clip_norm(1.0)",
    "jit": "compiled=True",
}
_Callbacks = list[tuple[Callable[[Progress], object], bool]]  # and whether it is a trigger


def train(
    loss: Callable[..., Any],
    ps: Params | Iterable[Param],
    data: Iterable[Any],
    opt: AbstractOptimiser,
    *more: NoReturn,
    cb: Callback | Iterable[Callback] | None = None,
    each_epoch: Callback | Iterable[Callback] | None = None,
    transform: Transform | Iterable[Transform] | None = None,
    epochs: int = 1,
    progress: bool = False,
    compiled: bool = False,
    **others: NoReturn,
) -> NDArray[np.float64]:
    """Take one step of the optimiser for each element of the data.

    For each `d` in the data this computes the loss and its gradient, sends the gradient through `transform`,
    updates the parameters and then runs the callbacks. The loss and the callbacks may call `stop`, which ends
    the training at once, and `skip`, which goes on to the next element. Called from the loss, they leave the
    step out; called from a callback, they leave out the callbacks that follow.

    Ctrl-C, or another signal, during the update of the parameters takes effect when all of them are updated.
    The parameters and the optimiser's state always belong together.

    Parameters
    ----------
    loss : callable
        ``loss(*d)`` if `d` is a tuple, else ``loss(d)``. It returns one real number.
    ps : Params
        The parameters to train. A callback, a transform or the loss may discard some, to freeze them, and add
        others: from the next element on.
    data : iterable
        Batches: a `DataLoader`, a list, a generator.
    opt : AbstractOptimiser
        Its state goes on from where it is; training again with the same optimiser goes on from there.
    cb : callable or iterable of callables, optional
        Called after each step, in order: without arguments or, what takes one, with the `Progress`. See
        `throttle` for one that takes long. `early_stopping` and its kin stop the training.
    each_epoch : callable or iterable of callables, optional
        The same after each epoch. The loss in the `Progress` is the mean over the epoch's steps.
    transform : callable or iterable of callables, optional
        What is done to the gradient before the step: from `Grads` to `Grads`, or to None, which leaves the
        step out, as `clip_norm`, `skip_nonfinite` and `accumulate` do; several in order. On several
        processes `minidiff.parallel.average`.
    epochs : int
        How many times to go through the data.
    progress : bool
        Whether to show a bar with the running loss and the rate. Needs tqdm, of the `plot` extra.
    compiled : bool
        Whether to record the loss and its gradient, and the step, and run them as NumPy: see
        `minidiff.compiled`. Each call of `train` records anew: in a loop of your own over epochs call
        ``step = compiled(loss, ps, opt)`` for each batch.
    **others
        Not used, as `more`: an option by another library's name is answered with ours.

    Returns
    -------
    ndarray, shape (steps,), float64
        The loss before each step that was taken; a step that was left out has none. After an exception, an
        interrupt too, they are its attribute ``losses``.

    Warns
    -----
    UserWarning
        If there is no batch in the data, or the loss did not depend on one of the parameters throughout the
        first epoch; or if a trigger among the callbacks has ended a training before.

    Raises
    ------
    FloatingPointError
        If the loss or a gradient is infinite or NaN. The message says at which step, counted from 1, and of
        which parameter. Nothing has changed. Steps that `transform` leaves out are not looked at.
    ValueError
        If there are several epochs, and data that can be gone through only once.
    TypeError
        If an argument is not what it should be.
    ImportError
        If there is no tqdm for the progress bar.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Descent, clip_norm
    >>> a = param(0.0)
    >>> data = [(1.0, 2.0), (1.0, 2.0)]
    >>> loss = lambda x, y: (a * x - y) ** 2
    >>> train(loss, params(a), data, Descent(0.1), epochs=2).round(3)
    array([4.   , 2.56 , 1.638, 1.049])
    >>> print(f"{a:.2f}")
    1.18

    With a line for each epoch, and steps of which none is longer than 0.1:

    >>> def show(progress):
    ...     print(progress.epoch, round(progress.loss, 3))
    >>> losses = train(
    ...     loss, params(a), data, Descent(0.1), epochs=2,
    ...     transform=clip_norm(1.0), each_epoch=show,
    ... )
    1 0.594
    2 0.326
    """
    if more:
        raise TypeError(
            f"{_ORDER}, with all else by its name, epochs=10 for one; several arrays are one thing, "
            "DataLoader((x, y), batchsize=32)"
        )
    for name in others:
        raise TypeError(
            f"train has no option {name!r}: it has "
            + _OPTIONS.get(name, "cb, each_epoch, transform, epochs, progress and compiled")
        )
    _check(loss, data, opt, epochs)
    ps, transforms = params_of(ps), _functions("transform", transform)
    after_step, after_epoch = callbacks_of("cb", cb), callbacks_of("each_epoch", each_epoch)
    run = _Run(loss, ps, data, opt, transforms, after_step, flag("compiled", compiled))
    bar: Any = nullcontext()
    if flag("progress", progress):
        bar = progress_bar(epochs * len(data) if isinstance(data, Sized) else None)
    try:
        # `counted` twice: an interrupt may cut one end short.
        with bar as run.bar, Counted(data) as run.counted, run.counted, ExitStack() as together:
            for f in run.joint:
                together.enter_context(f)
            for epoch in range(1, epochs + 1):
                run.epoch = epoch
                first, before, carried = len(run.losses), run.batches, run.counted.carried()
                if run.bar is not None:
                    run.bar.set_description_str(f"epoch {epoch}/{epochs}", refresh=False)
                for d in run.counted:
                    run.take(d)
                if run.batches == before > 0:
                    raise _exhausted(epochs)
                if epoch == 1:
                    _warn(run)
                    run.unreached = {}
                if after_epoch:
                    mean = _mean(run.losses[first:], *carried)
                    call_all(after_epoch, len(run.losses), epoch, mean)
    except Stop:
        _warn(run)
    except BaseException as error:
        error.losses = np.array(run.losses, dtype=np.float64)  # type: ignore[attr-defined]
        raise
    finally:
        run.forget_what_does_not_count()
    return np.array(run.losses, dtype=np.float64)


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
    raise Stop("stop() was called outside of train(...): only the loss and the callbacks can end a training")


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
    raise Skip("skip() was called outside of train(...): only the loss and the callbacks can skip")


class Stop(Exception):  # noqa: N818  (no error)
    """Raised by `stop`."""


class Skip(Exception):  # noqa: N818  (no error)
    """Raised by `skip`."""


class _Run:
    """A training: what it has counted so far, and how it takes a batch.

    Attributes
    ----------
    losses : list of float
        One for each step.
    batches, epoch : int
        How many batches it has taken, and the number of the epoch.
    unreached : dict
        By their names, the parameters that the loss has not reached yet, in the first epoch.
    joint : list of Joint
        The transforms that several processes do together.
    counted : Counted
        The data.
    bar
        The bar that shows the progress; None without one.
    """

    counted: Any = None
    bar: Any = None

    def __init__(
        self,
        loss: Any,
        ps: Params,
        data: Any,
        opt: AbstractOptimiser,
        transforms: list[Any],
        after_step: _Callbacks,
        is_compiled: bool,
    ) -> None:
        self.losses: list[float] = []
        self.batches = self.epoch = 0
        self.data, self.ps, self.unreached = data, ps, dict(zip(ps.names, ps, strict=True))
        self.joint = [f for f in transforms if isinstance(f, Joint)]
        several = next((i for i, f in enumerate(transforms) if isinstance(f, Joint) and f.size > 1), 0)
        self._unweighed = [f for f in transforms[:several] if isinstance(f, accumulate)]
        self._weight: float | None = None  # of this process's part of the latest batch
        self._loss, self._opt, self._transforms, self._after_step = loss, opt, transforms, after_step
        self._is_compiled = is_compiled
        self._memories = [vars(f) for f in transforms if isinstance(f, Memory)]
        self._remembered: list[dict[str, Any]] = []  # before a batch that does not count yet
        self._trained: list[int] | None = None
        self._running = math.nan  # mean of the losses

    def take(self, d: Any) -> None:
        """Take a step with a batch."""
        self.batches += 1
        self._remembered += [memory.copy() for memory in self._memories]
        if self._trained != (now := [*map(id, self.ps)]):  # a callback may freeze some, or add some
            self._slope = slope_of(self._loss, self.ps, self._is_compiled)
            self._steps = Steps(self._opt, self.ps, self.ps.names, 0 if self._is_compiled else PATIENCE)
            self._trained = now
        try:
            value, grads = self._slope(d)
            if self.unreached:
                self.unreached = {
                    name: p for name, p in self.unreached.items() if p in grads and grads[p] is None
                }
            if self._unweighed:
                self._check_weight()
            value, grads = _transformed(self._transforms, value, grads, self.data, self.batches)
            if what := what_is_not_finite(value, grads, self._steps.ps):
                raise _not_finite(what, value, len(self.losses) + 1)
            self._step(grads, value)
            if self.bar is not None:
                self._running = value if len(self.losses) == 1 else 0.95 * self._running + 0.05 * value
                self.bar.set_postfix_str(f"loss {self._running:.4g}", refresh=False)
            if self._after_step:
                call_all(self._after_step, len(self.losses), self.epoch, value)
        except Skip:
            for f in self.joint:
                f.leave_out(self.batches)
            finish(self._note)
        if self.bar is not None:
            self.bar.update()

    def _check_weight(self) -> None:
        """Refuse to add gradients of parts of several sizes: `average` would weigh all as the last."""
        before, self._weight = self._weight, getattr(self.data, "weight", 1.0)
        if any(f.count for f in self._unweighed) and before not in (None, self._weight):
            raise ValueError(
                f"accumulate comes before average, and this process has parts of {before} and {self._weight} "
                "samples: write transform=[average(comm), accumulate(n)], or leave smaller batches out, "
                "DataLoader(…, partial=False)"
            )

    def _step(self, grads: Grads, value: float) -> None:
        """Change the parameters and count the step; both, if an interrupt comes."""
        so_far = len(self.losses)
        try:
            whole(self._change, grads, value)
        except BaseException:
            if len(self.losses) > so_far:  # it is an interrupt that has waited
                with suppress(Stop):
                    call_all(self._after_step, len(self.losses), self.epoch, value)
            raise

    def _change(self, grads: Grads, value: float) -> None:
        self._steps.take([grads[p] for p in self._steps.ps])
        self._note(value)
        self.losses.append(value)

    def _note(self, *value: float) -> None:
        """Note that a batch counts."""
        self.counted.note(*value)
        self._remembered.clear()

    def forget_what_does_not_count(self) -> None:
        """Let transforms be what they were before a batch that has not come to its end."""
        for memory, earlier in zip(self._memories, self._remembered, strict=False):
            memory.update(earlier)


# The parts of the loop -----------------------------------------------------------------------------


_ORDER = "the order is train(loss, ps, data, opt)"


def _check(loss: Any, data: Any, opt: Any, epochs: int) -> None:
    advice = f": it is called with each batch, as lambda x, y: mse(model.forward(x), y) is, and {_ORDER}"
    if is_number(loss) or isinstance(loss, np.ndarray):
        advice = ": give the function itself, not its value"
    function("loss", loss, advice=advice)
    own = f": {_ORDER}, and an optimiser derives from AbstractOptimiser"
    instance("opt", opt, AbstractOptimiser, "an optimiser", hint(opt) or own)
    if not (isinstance(data, Iterable) or hasattr(data, "__getitem__")) or isinstance(
        data, (Mapping, Params)
    ):
        rest = "call it, once for each training" if inspect.isgeneratorfunction(data) else _ORDER
        raise TypeError(
            f"data must be an iterable of batches, got {described(data)}: one batch alone is [batch], and "
            f"{rest}"
        )
    if isinstance(data, tuple) and any(isinstance(item, np.ndarray) for item in data):
        raise TypeError(
            "data must be an iterable of batches, got a tuple of arrays: one batch alone is [(x, y)], "
            "minibatches come from DataLoader((x, y), batchsize=…)"
        )
    if integer("epochs", epochs, 0) > 1 and isinstance(data, Iterator):
        raise _exhausted(epochs)


def slope_of(loss: Callable[..., Any], ps: Params, is_compiled: bool) -> Callable[[Any], tuple[float, Grads]]:
    """Return the function of a batch that gives the loss, as a number, and its gradient."""
    if is_compiled:
        from minidiff.compiled import compiled  # which imports the optimisers

        program = compiled(loss, ps)

    def slope(d: Any) -> tuple[float, Grads]:
        arguments = d if isinstance(d, tuple) else (d,)
        try:
            value, grads = program(*arguments) if is_compiled else withgradient(lambda: loss(*arguments), ps)
        except TypeError as error:
            if takes(loss, *arguments):
                raise
            raise TypeError(
                f"the loss takes {inspect.signature(loss)}, but a batch is of type {type(d).__name__}: a "
                "tuple, (x, y), gives two arguments, anything else one. One batch alone is [(x, y)]; of a "
                "list make it a tuple; a loss without arguments is lambda *_: loss()"
            ) from error
        return float(value if isinstance(value, float) else np.asarray(value).item()), grads

    return slope


def params_of(ps: Any) -> Params:
    """Give what a call took for its parameters as `Params`."""
    if isinstance(ps, Iterable) and not isinstance(ps, (Params, Param, np.ndarray, str, Mapping)):
        return Params(ps)
    advice = ": params(W, b) of W = param(array), or params(model)"
    return instance("ps", ps, Params, "Params", advice)  # type: ignore[no-any-return]


def _functions(name: str, given: Any, what: str = "a function, or several of them") -> list[Any]:
    several = isinstance(given, Iterable) and not callable(given) and not hint(given)
    functions: list[Any] = []
    for f in [] if given is None else given if several else [given]:  # which may be without end
        if isinstance(f, type) and issubclass(f, Memory):
            raise TypeError(f"{name} got the class {f.__name__}: make one, {f.__name__}(…)")
        if isinstance(f, Memory) and any(f is other for other in functions):
            raise ValueError(f"{name} has the same {f!r} twice, which remembers one thing: make another")
        functions.append(function(name, f, what))
    return functions


def callbacks_of(name: str, given: Any) -> _Callbacks:
    """Give the callbacks of an argument as functions of the progress."""
    what = "a function of nothing or of the progress, or several of them"
    callbacks = _functions(name, given, what)
    for callback in filter(has_fired, callbacks):
        warn(
            f"{name} has {callback!r}, which has fired already, and ends this training at its first call, "
            "unless what it waits for is over by then: call its reset(), or make a new one"
        )
    return [(_of_progress(name, callback), is_trigger(callback)) for callback in callbacks]


def _of_progress(name: str, callback: Callable[..., Any]) -> Callable[[Progress], object]:
    """Give a callback as a function of the progress."""
    if hint(callback):
        raise TypeError(f"{name} got {described(callback)}{hint(callback)}")
    if takes(callback) and not _takes_any(callback):
        return lambda _: callback()
    if not takes(callback, Progress(1, 1, 0.0)):
        raise TypeError(
            f"{name} is called without arguments, or with one, the progress; but {callback!r} takes "
            f"{inspect.signature(callback)}"
        )
    return callback


def _takes_any(f: Callable[..., Any]) -> bool:
    """Tell whether a function takes whatever it gets, as `print` does."""
    try:
        return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(f).parameters.values())
    except ValueError:  # a function in C that does not tell
        return False


def call_all(callbacks: _Callbacks, *progress: Any) -> None:
    """Call all callbacks, then stop if one was a trigger and said that it is time."""
    is_time = False
    with suppress(Skip):
        for callback, is_trigger in callbacks:
            result = callback(Progress(*progress))
            is_time = is_time or (is_trigger and bool(result))
    if is_time:
        stop()


def _transformed(fs: list[Any], loss: float, grads: Any, data: Any, batch: int) -> tuple[float, Grads]:
    """Send a gradient through transforms, and the loss through those that several processes do together."""
    for f in fs:
        if isinstance(f, Joint):
            loss, grads = f.join(loss, grads, data, batch)
            continue
        grads = f(grads)
        if grads is None:
            raise Skip
        instance("what transform returns", grads, Grads, "Grads, or None for no step")
    return loss, grads


def _mean(losses: list[float], steps_before: int, their_sum: list[float]) -> float:
    """Give the mean loss of an epoch, earlier steps of which were taken before this training began."""
    count = steps_before + len(losses)
    return math.fsum([*their_sum, *losses]) / count if count else math.nan


def _not_finite(what: str, value: float, step: int) -> FloatingPointError:
    advice = (
        ": at the first step look for NaN in the data, later take a smaller rate or transform=clip_norm(1.0)"
    )
    if math.isfinite(value):
        advice = f" (the loss is {value:.4g}): transform=skip_nonfinite() leaves such steps out"
    return FloatingPointError(
        f"{what} at step {step}, not taken{advice}; `with watch():` around the training names the line"
    )


def _warn(run: _Run) -> None:
    """Warn of what most likely is a mistake, once the first epoch is over."""
    data, is_loader = run.data, isinstance(run.data, DataLoader)
    if not run.batches and not (is_loader and len(data)):  # one that goes on with an epoch may be at its end
        few = f": {data!r} has too few samples for one" if is_loader else ""
        warn(f"no step was taken, as there is no batch in the data{few}")
    elif 0 < len(run.unreached) < len(run.ps):
        warn(
            f"the loss did not depend on these parameters in the first epoch: {', '.join(run.unreached)}. "
            "After W = W - …, which makes a plain array, it does not; what is not to be trained is left out "
            "by θ - params(W)",
        )


def _exhausted(epochs: int) -> ValueError:
    return ValueError(
        f"data can be gone through only once, but epochs is {epochs}: give a list, a DataLoader, or another "
        "object that iterates afresh each time"
    )


def progress_bar(total: float | None) -> Any:
    """Give a bar that counts steps, up to a number of them if that is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets the bar is plain
        tqdm = extra("tqdm.auto", "progress=True needs tqdm: pip install 'minidiff[plot]'").tqdm
    return tqdm(total=total, unit="step")
