"""What runs around the steps of a training.

`throttle`, triggers that tell when it is time to stop, and what keeps the best parameters or lowers a rate.
All are callbacks, after each step or each epoch of `train`, and may be called by hand as well.
"""

from __future__ import annotations

import math
import operator
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NamedTuple, NoReturn

import numpy as np

from minidiff.checks import (
    a_count,
    anything,
    described,
    flag,
    function,
    instance,
    integer,
    is_number,
    no_option,
    number,
    warn,
)
from minidiff.interrupts import whole
from minidiff.optimise.base import AbstractOptimiser, member_with
from minidiff.optimise.memory import Memory, arrays_or_none
from minidiff.params import Param, Params, assign

__all__ = ["KeepBest", "Progress", "ReducePlateau", "early_stopping", "patience", "plateau", "throttle"]

# What there is in place of Keras's options.
_CURES = {
    "min_delta": "min_dist=",
    "ReducePlateau.min_delta": "threshold=, a part of the best score",
    "mode": "distance=lambda best, score: score - best, where higher is better",
    "ReducePlateau.mode": "a metric that is lower where it is better: lambda: -accuracy()",
    "min_lr": "least=",
    "baseline": "init_score=",
    "wait": "patience=",
    "plateau.wait": "width=",
    **dict.fromkeys(("monitor", "metrics"), "its score from a function, such as lambda: loss(x_val, y_val)"),
    **dict.fromkeys(
        ("restore_best_weights", "save_best_only"),
        "KeepBest(ps, f) for that, a callback of its own: with KeepBest(ps, f) as best: train(…)",
    ),
    "verbose": "nothing to print: that is another callback, each_epoch=lambda progress: print(progress)",
}


class Progress(NamedTuple):
    """How far a training is: what `train` tells its callbacks.

    Attributes
    ----------
    step : int
        The number of steps taken.
    epoch : int
        The number of the epoch, from 1 on.
    loss : float
        The loss before the latest step; after an epoch the mean of those of its steps, also of those that it
        had before a loader went on with it, NaN if it had none.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Descent
    >>> a = param(1.0)
    >>> def show(progress):
    ...     print(progress)
    >>> loss = lambda x: (a - x) ** 2
    >>> losses = train(loss, params(a), [0.0], Descent(0.25), epochs=2, cb=show)
    Progress(step=1, epoch=1, loss=1.0)
    Progress(step=2, epoch=2, loss=0.25)
    """

    step: int
    epoch: int
    loss: float


def throttle(
    f: Callable[..., Any],
    seconds: float,
    *,
    leading: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., Any]:
    """Make a function that calls `f` at most once in so many seconds, the first time at once.

    Parameters
    ----------
    f : callable
        Takes any arguments.
    seconds : float
        How long calls are left out after `f` has returned, at least 0.
    leading : bool
        Whether the first call goes through. If not, it only begins the time in which calls are left out.
    clock : callable
        Tells the time in seconds.

    Returns
    -------
    callable
        Takes the arguments of `f`, and returns what `f` returned last, None before that.

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
    function("f", f), function("clock", clock)
    seconds = number("seconds", seconds, within="[0, inf]")
    returned = -math.inf if flag("leading", leading) else None
    result: Any = None

    @wraps(f)
    def throttled(*args: Any, **kwargs: Any) -> Any:
        nonlocal returned, result
        if returned is None:
            returned = clock()
        elif clock() - returned >= seconds:
            result = f(*args, **kwargs)
            returned = clock()
        return result

    throttled.is_trigger = is_trigger(f)  # type: ignore[attr-defined]
    return throttled


def _refuse(callback: type, options: Iterable[str]) -> None:
    for name in options:
        raise no_option(callback, name, _CURES, "it has", ", ".join)


def is_trigger(callback: Any) -> bool:
    """Tell whether a callback ends the training by what it returns: a trigger, or a throttled one."""
    return isinstance(callback, Trigger) or getattr(callback, "is_trigger", False) is True


def has_fired(callback: Any) -> bool:
    """Tell whether a callback is a trigger that has said that it is time, as in an earlier training."""
    trigger = callback if isinstance(callback, Trigger) else getattr(callback, "__wrapped__", None)
    return isinstance(trigger, Trigger) and trigger.count >= trigger.wait


class Trigger(Memory):
    """The base of what is true once something has held so many times in a row.

    As a callback of `train` it ends the training: ``each_epoch=early_stopping(f, 5)`` counts epochs, as
    ``cb=`` it counts steps. Called by hand, it returns whether it is time.
    """

    _memory = {"count": a_count}  # noqa: RUF012

    def __init__(self, f: Callable[..., Any], wait: int) -> None:
        self.__wrapped__ = f  # here `inspect.signature` finds what a call takes
        self.wait = wait
        self.reset()

    def reset(self) -> None:
        """Start over, as for another training."""
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        """Tell whether it is time."""
        holds, noted = self.look(self.__wrapped__(*args, **kwargs))
        count = self.count + 1 if holds else 0
        vars(self).update(noted, count=count)  # all at once, also if an interrupt comes
        return count >= self.wait

    @abstractmethod
    def look(self, value: Any) -> tuple[bool, dict[str, Any]]:
        """Tell whether what is waited for holds, by the latest value of the function, and what to note."""


class patience(Trigger):  # noqa: N801 - it is called as a function is
    """A trigger that is true once `predicate` has been true `wait` times in a row.

    It pickles where `predicate` does, and is copied with its count.

    Parameters
    ----------
    predicate : callable
        Takes any arguments, gives true or false.
    wait : int
        How many times, at least 1.

    Examples
    --------
    >>> trigger = patience(lambda loss: loss < 1, wait=2)
    >>> [trigger(loss) for loss in (0.5, 1.5, 0.5, 0.4, 0.3)]
    [False, False, False, True, True]
    """

    def __init__(self, predicate: Callable[..., Any], wait: int) -> None:
        super().__init__(function("predicate", predicate), integer("wait", wait, 1))

    def look(self, value: Any) -> tuple[bool, dict[str, Any]]:
        """Tell whether the predicate held."""
        if isinstance(value, (float, np.floating)):
            raise TypeError(
                f"predicate must give true or false, got {described(value)}: a score is for early_stopping "
                "or plateau"
            )
        return bool(value), {}


def _training_loss(progress: Progress) -> float:
    return progress.loss


class _OfScores(Memory):
    """The base of what compares scores: a distance tells by how much one is better than another."""

    _noted = "best"  # the attribute that a score is kept in
    distance: Callable[[Any, Any], Any] = operator.sub
    __wrapped__: Callable[..., Any]  # what gives them

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise an error if what is noted is no score."""
        if (noted := state[self._noted]) is not None:
            self._score(f"state[{self._noted!r}]", noted, "must be")

    def _score(self, name: str, score: Any, must: str = "must give") -> Any:
        """Check that a score is a number, or what a distance of the user's own may know of.

        It gives a copy of an array, which may be a parameter, or change before it is compared again.
        """
        is_number_of_one = is_number(score) or (
            isinstance(score, (np.ndarray, np.generic)) and score.size == 1 and score.dtype.kind in "fiub"
        )
        if score is None or (self.distance is operator.sub and not is_number_of_one):
            advice = ": does it lack a return?" if score is None else ""
            raise TypeError(f"{name} {must} a number, the score, got {described(score)}{advice}")
        return np.array(score) if isinstance(score, np.ndarray) else score

    def _metric(self, args: Any, kwargs: Any) -> Any:
        """Ask the metric for a score, and check it."""
        if self.__wrapped__ is _training_loss and not args:
            raise TypeError("metric is the loss in the Progress, which train gives: by hand, give a metric")
        return self._score("metric", self.__wrapped__(*args, **kwargs))

    def _is_better(self, score: Any, best: Any, min_dist: float) -> bool:
        is_first = best is None or best != best  # NaN is no score to beat, nor better than any
        return bool(score == score and (is_first or self.distance(best, score) > min_dist))


class early_stopping(_OfScores, Trigger):  # noqa: N801 - it is called as a function is
    """A trigger that is true once the best score is `patience` calls old.

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
    **others
        Not used: an option by another library's name is answered with ours.

    Attributes
    ----------
    best : number
        The best score so far.

    Examples
    --------
    >>> losses = iter([3.0, 2.0, 2.5, 1.0, 1.2, 1.1, 1.0])
    >>> trigger = early_stopping(lambda: next(losses), 3)
    >>> [trigger() for _ in range(7)]
    [False, False, False, False, False, False, True]

    As a callback it stops, ``train(…, each_epoch=trigger)``. Of the training's own loss:

    >>> trigger = early_stopping(lambda progress: progress.loss, 3)
    """

    _memory = {**Trigger._memory, "best": anything}  # noqa: RUF012

    def __init__(
        self,
        f: Callable[..., Any],
        patience: int,
        *,
        distance: Callable[[Any, Any], Any] = operator.sub,
        init_score: Any = None,
        min_dist: float = 0,
        **others: NoReturn,
    ) -> None:
        _refuse(early_stopping, others)
        self.distance, self.min_dist = function("distance", distance), number("min_dist", min_dist)
        self.init_score = init_score
        super().__init__(function("f", f), integer("patience", patience, 1))

    def reset(self) -> None:
        """Start over, as for another training."""
        super().reset()
        self.best = self.init_score

    def look(self, value: Any) -> tuple[bool, dict[str, Any]]:
        """Tell whether the score is no better than the best, and note it if it is better."""
        score = self._score("f", value)
        is_better = self._is_better(score, self.best, self.min_dist)
        return not is_better, {"best": score} if is_better else {}


class plateau(_OfScores, Trigger):  # noqa: N801 - it is called as a function is
    """A trigger that is true once the score has hardly changed `width` times in a row.

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
    **others
        Not used: an option by another library's name is answered with ours.

    Attributes
    ----------
    last : number
        The latest score.

    Examples
    --------
    >>> losses = iter([3.0, 1.0, 1.01, 1.0, 0.2])
    >>> trigger = plateau(lambda: next(losses), 2, min_dist=0.1)
    >>> [trigger() for _ in range(5)]
    [False, False, False, True, False]
    """

    _memory = {**Trigger._memory, "last": anything}  # noqa: RUF012
    _noted = "last"

    def __init__(
        self,
        f: Callable[..., Any],
        width: int,
        *,
        distance: Callable[[Any, Any], Any] = operator.sub,
        init_score: Any = None,
        min_dist: float = 1e-6,
        **others: NoReturn,
    ) -> None:
        _refuse(plateau, others)
        self.distance, self.min_dist = function("distance", distance), number("min_dist", min_dist)
        self.init_score = init_score
        super().__init__(function("f", f), integer("width", width, 1))

    def reset(self) -> None:
        """Start over, as for another training."""
        super().reset()
        self.last = self.init_score

    def look(self, value: Any) -> tuple[bool, dict[str, Any]]:
        """Tell whether the score is close to the one before, and note it."""
        score, last = self._score("f", value), self.last
        is_close = last is not None and bool(abs(self.distance(last, score)) < self.min_dist)
        return is_close, {"last": score}


class KeepBest(_OfScores):
    """Keeps a copy of the parameters whenever the metric is better than ever before.

    As a context manager it puts the best ones back at the end, after an exception and an interrupt too;
    without ``with`` it warns, as only `restore` does then. The optimiser's state is not part of it.

    Parameters
    ----------
    ps : Params
        The parameters.
    metric : callable, optional
        Gives the score of the parameters as they are, the lower the better: the loss on samples that are not
        trained with. The loss in the `Progress`, unless given, which was computed before the step.
    distance : callable
        Tells by how much its second argument is better than its first. For scores to be maximised,
        ``lambda best, score: score - best``.
    min_dist : float
        The least improvement that counts.
    **others
        Not used: an option by another library's name is answered with ours.

    Attributes
    ----------
    best : number or None
        The best score so far.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Descent, KeepBest
    >>> a = param(0.0)
    >>> loss = lambda _: (a - 3) ** 2
    >>> with KeepBest(params(a), lambda: (a - 1) ** 2) as keep:
    ...     losses = train(loss, params(a), range(9), Descent(0.1), cb=keep)
    ...     print(f"{a:.2f}")
    2.60
    >>> print(f"{a:.2f} with {keep.best:.4f}")
    1.08 with 0.0064

    References
    ----------
    Keras: ``EarlyStopping(restore_best_weights=True)``, ``ModelCheckpoint(save_best_only=True)``.
    """

    _memory = {"best": anything, "values": arrays_or_none}  # noqa: RUF012
    _is_entered = False

    def __init__(
        self,
        ps: Params | Iterable[Param],
        metric: Callable[..., Any] = _training_loss,
        *,
        distance: Callable[[Any, Any], Any] = operator.sub,
        min_dist: float = 0,
        **others: NoReturn,
    ) -> None:
        _refuse(KeepBest, others)
        self.ps: Params = Params(ps)
        self.__wrapped__ = function("metric", metric)
        self.distance, self.min_dist = function("distance", distance), number("min_dist", min_dist)
        self.reset()

    def reset(self) -> None:
        """Start over, as for another training."""
        self.best: Any = None
        self.values: list[Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Ask for the metric, and keep the parameters if it is better."""
        score = self._metric(args, kwargs)
        if not self._is_entered and self.values is None:
            warn(
                "the best parameters are kept, but put back at the end of a block only: write "
                "with KeepBest(ps, …) as best: above the training, or best.restore() after it",
            )
        if self._is_better(score, self.best, self.min_dist):
            values = [p.value.copy() for p in self.ps]
            vars(self).update(best=score, values=values)  # both at once, also if an interrupt comes

    def restore(self) -> None:
        """Put the best parameters back."""
        if self.values is None:
            raise ValueError("nothing is kept yet to be restored: the metric has not given a number so far")
        assign(self.ps, self.values)

    def __enter__(self) -> KeepBest:
        self._is_entered = True
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        finally:  # once more: an interrupt may cut the first one short
            self._leave()

    def _leave(self) -> None:
        self._is_entered = False
        if self.values is not None:
            self.restore()


class ReducePlateau(_OfScores):
    """Lowers the learning rate when the metric has not become better for a while.

    Parameters
    ----------
    opt : AbstractOptimiser
        An optimiser with an ``eta``; of a composition the member that has it, ``opt[1]``.
    metric : callable, optional
        Gives the score, the lower the better. The loss in the `Progress`, unless given.
    factor : float
        What ``eta`` is multiplied by, in [0, 1).
    patience : int
        How many calls in a row without a better score are put up with; the next lowers the rate.
    cooldown : int
        How many calls after that do not count.
    least : float
        The rate below which it does not go.
    threshold : float
        The part of the best score by which a score must be lower to be better.
    **others
        Not used: an option by another library's name is answered with ours.

    Attributes
    ----------
    best : float or None
        The best score so far.

    Examples
    --------
    >>> from minidiff.optimise import Descent, ReducePlateau
    >>> losses, opt = iter([3.0, 2.0, 2.0, 2.0, 2.0, 1.0]), Descent(1.0)
    >>> reduce = ReducePlateau(opt, lambda: next(losses), factor=0.5, patience=1)
    >>> for _ in range(6):
    ...     reduce()
    ...     print(opt.eta, end=" ")
    1.0 1.0 1.0 0.5 0.5 0.5

    In a training, ``train(…, each_epoch=ReducePlateau(opt, validation_loss))``.

    References
    ----------
    PyTorch: ``ReduceLROnPlateau``, which this equals for finite scores above zero, or for their negatives in
    its mode "max"; a change of less than 1e-8 is not made there either.
    """

    _memory = {"best": anything, "worse": a_count, "cooling": a_count}  # noqa: RUF012

    def __init__(
        self,
        opt: AbstractOptimiser,
        metric: Callable[..., Any] = _training_loss,
        factor: float = 0.1,
        patience: int = 10,
        cooldown: int = 0,
        least: float = 0.0,
        threshold: float = 1e-4,
        **others: NoReturn,
    ) -> None:
        _refuse(ReducePlateau, others)
        self.opt: Any = instance("opt", opt, AbstractOptimiser, "an optimiser")
        if not is_number(getattr(opt, "eta", None)):
            raise TypeError(
                f"opt is {type(opt).__name__}(…), which has no eta to lower: give the optimiser in it that "
                f"has, such as {member_with(opt, 'eta')}"
            )
        self.opt.eta = self.opt.eta  # if a schedule refuses that, it does so now
        self.__wrapped__ = function("metric", metric)
        self.factor = number("factor", factor, within="[0, 1)")
        self.patience = a_count("patience", patience)
        self.cooldown = a_count("cooldown", cooldown)
        self.least = number("least", least, within="[0, inf)")
        self.threshold = number("threshold", threshold, within="[0, 1]")
        self.reset()

    def reset(self) -> None:
        """Start over, as for another training; the rate stays."""
        self.best: Any = None
        self.worse = self.cooling = 0

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Ask for the metric, and lower the rate if it is time."""
        score, best = self._metric(args, kwargs), self.best
        least = self.threshold * abs(best or 0)
        is_better = self._is_better(score, best, least if least < np.inf else 0)
        worse, cooling = 0 if is_better else self.worse + 1, self.cooling
        if cooling:
            worse, cooling = 0, cooling - 1
        is_time = worse > self.patience
        if is_time:
            worse, cooling = 0, self.cooldown

        def change() -> None:
            if is_time and self.opt.eta - (eta := max(self.opt.eta * self.factor, self.least)) > 1e-8:
                self.opt.eta = eta
            self.best, self.worse, self.cooling = score if is_better else best, worse, cooling

        whole(change)
