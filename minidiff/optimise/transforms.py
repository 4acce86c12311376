"""What is done to a gradient before the step: functions from `Grads` to `Grads`, or to None for no step.

`train` takes them as ``transform=``, one or several; in a loop by hand ``grads = clip_norm(1.0)(grads)`` does
the same. Any function of that kind is one, such as ``lambda grads: grads.map(np.sign)``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from cmath import isfinite
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import numpy as np

from minidiff.checks import a_count, described, fits, instance, integer, number
from minidiff.grads import Grads
from minidiff.optimise.memory import Memory, arrays_or_none
from minidiff.optimise.rule import widened
from minidiff.params import Param, Params
from minidiff.tracing import constant

__all__ = ["Joint", "accumulate", "clip_norm", "skip_nonfinite"]


class Joint(AbstractContextManager[Any]):
    """A transform that several processes do together, each with a part of the batch.

    It is a context manager, which `train` enters for the time of the training: an exception that ends the
    training of one process ends that of the others.

    Attributes
    ----------
    size : int
        How many processes there are.
    """

    size: int

    @abstractmethod
    def join(self, loss: float, grads: Grads, data: Any, batch: int) -> tuple[float, Grads]:
        """Give the loss and the gradients of the whole batch.

        Parameters
        ----------
        loss : float
            The loss of this process.
        grads : Grads
            Its gradients.
        data : iterable
            What the batch came from. Its attribute ``weight``, if it has one, is the part's size.
        batch : int
            The number of the batch, counted from 1.
        """

    @abstractmethod
    def leave_out(self, batch: int) -> None:
        """Have all processes leave out this batch, unless they have joined for it."""


class clip_norm:  # noqa: N801 - it is called as a function is
    r"""Scale the gradients of all parameters down to a given norm, where all of them together exceed that.

    .. math:: g \leftarrow g · \min(1, \text{thresh} / ‖g‖_2), \quad g \text{ all gradients as one vector}

    The direction of the step stays. (`ClipNorm`, a member of an `Optimiser`, clips each parameter alone.)

    Parameters
    ----------
    thresh : float
        The largest norm that passes, at least 0.

    Examples
    --------
    >>> from minidiff import gradient, param, params
    >>> from minidiff.optimise import clip_norm
    >>> a, b = param(3.0), param(4.0)
    >>> grads = gradient(lambda: (a**2 + b**2) / 2, params(a, b))
    >>> grads = clip_norm(1.0)(grads)
    >>> print(f"{grads[a]:.2f} {grads[b]:.2f}")
    0.60 0.80

    References
    ----------
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", 2013,
    arXiv:1211.5063, algorithm 1. PyTorch: ``clip_grad_norm_``; optax: ``clip_by_global_norm``.
    """

    __hint__ = ": it is a transform, train(…, transform=clip_norm(1.0)); the member is ClipNorm(1.0)"

    def __init__(self, thresh: float, *others: NoReturn) -> None:
        if others or isinstance(thresh, Grads):
            raise TypeError(
                "clip_norm(1.0) makes a function of the gradients: write clip_norm(1.0)(grads), or "
                "train(…, transform=clip_norm(1.0))"
            )
        self.thresh = number("thresh", thresh, within="[0, inf)")

    def __call__(self, grads: Grads) -> Grads:
        """Give the gradients, clipped."""
        norm = _grads(grads).norm()
        if not norm > self.thresh:
            return grads
        if norm == math.inf:  # finite elements can overflow, too
            grads = grads * 2.0**-64
            norm = grads.norm()
        factor = self.thresh / norm
        return grads.map(lambda g: (widened(g) * factor).astype(g.dtype, copy=False))

    def __repr__(self) -> str:
        return f"clip_norm({self.thresh})"


def _grads(grads: Any) -> Grads:
    return instance("grads", grads, Grads, "Grads, as gradient(loss, θ) gives them")  # type: ignore[no-any-return]


class skip_nonfinite(Memory):  # noqa: N801 - it is called as a function is
    """Leave out the whole step, of all parameters, where the gradient of one holds infinity or NaN.

    Parameters
    ----------
    at_most : int, optional
        How many steps in a row may be left out; the next raises a FloatingPointError. Any number, unless
        given.

    Attributes
    ----------
    skipped : int
        How many steps have been left out.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Descent, skip_nonfinite
    >>> a, guard = param(1.0), skip_nonfinite()
    >>> loss, data = lambda x: (a - x) ** 2, [3.0, np.nan, 3.0]
    >>> train(loss, params(a), data, Descent(0.5), transform=guard)
    array([4., 0.])
    >>> guard.skipped
    1

    References
    ----------
    optax: ``apply_if_finite``, which lets through what is not finite after so many in a row.
    """

    _memory = {"skipped": a_count, "in_a_row": a_count}  # noqa: RUF012

    def __init__(self, at_most: int | None = None) -> None:
        self.at_most = None if at_most is None else a_count("at_most", at_most)
        self.reset()

    def reset(self) -> None:
        """Forget what has been left out."""
        self.skipped = self.in_a_row = 0

    def __call__(self, grads: Grads) -> Grads | None:
        """Give the gradients, or None if they are not finite."""
        if first_nonfinite(_grads(grads)) is None:
            self.in_a_row = 0
            return grads
        if self.in_a_row == self.at_most:
            raise FloatingPointError(
                f"the gradient is not finite, after {self.in_a_row} steps in a row that were left out"
            )
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        return None


class accumulate(Memory):  # noqa: N801 - it is called as a function is
    """Take one step for several batches, with the mean of their gradients: as one batch of them all.

    Each counts alike, also a last one that is smaller. What has an optimiser's step count, such as a
    schedule, advances once for all of them. Batches that are too few for a step at the end of the data are
    kept for the next time. What waits for a parameter that is trained no more, as a callback of `train` has
    discarded it, is dropped. Where processes have parts of several sizes it comes after what weighs them,
    ``transform=[average(comm), accumulate(n)]``; `train` refuses the other order then.

    Parameters
    ----------
    n : int
        How many batches make a step, at least 1.

    Raises
    ------
    FloatingPointError
        For a gradient with infinity or NaN, which would spoil the others;
        ``[skip_nonfinite(), accumulate(4)]`` leaves that batch out.
    ValueError
        If gradients wait for a step that are of none of the parameters: it was copied without its model, or
        has the `state` of one with other parameters.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Descent, accumulate
    >>> a = param(0.0)
    >>> loss, data = lambda x: a * x, [1.0, 2.0, 3.0]
    >>> losses = train(loss, params(a), data, Descent(1.0), transform=accumulate(3))
    >>> len(losses), float(a)
    (1, -2.0)

    References
    ----------
    optax: ``MultiSteps``.
    """

    _memory = {"count": a_count, "total": arrays_or_none}  # noqa: RUF012

    def __init__(self, n: int) -> None:
        self.n = integer("n", n, 1)
        self.reset()

    def reset(self) -> None:
        """Forget the gradients that are waiting for a step."""
        self.count = 0
        self.total: list[Any] | None = None
        # The total that was made here, and its parameters. A total that `state` has set is another list.
        self._known: tuple[Any, list[Param]] = None, []

    def __call__(self, grads: Grads) -> Grads | None:
        """Give the mean of the latest n gradients, or None if there are not that many yet."""
        if first_nonfinite(_grads(grads)) is not None:
            raise FloatingPointError("a gradient to be accumulated is not finite: see skip_nonfinite()")
        ps = list(grads.keys())
        # A sum may be too large for half precision.
        total = Grads(ps, self._waiting(ps)) + grads.map(widened)
        if self.count + 1 < self.n:
            waiting = list(total.values())
            vars(self).update(count=self.count + 1, total=waiting, _known=(waiting, ps))
            return None
        means = [None if g is None else (g / self.n).astype(p.value.dtype) for p, g in total.items()]
        self.reset()  # when nothing can fail any more
        return Grads(ps, means)

    def _waiting(self, ps: list[Param]) -> list[Any]:
        """Give what waits for each parameter, None where nothing does."""
        if self.total is None:
            return [None] * len(ps)
        total, of = self._known
        known = dict(zip(of, self.total, strict=True)) if total is self.total else {}
        if any(p in known for p in ps):
            return [known.get(p) for p in ps]
        if len(self.total) != len(ps):
            raise ValueError(
                f"gradients of {len(self.total)} parameters wait in accumulate, and these are {len(ps)} "
                "parameters: go on with the same ones, or forget what waits by reset()"
            )
        for p, waiting in zip(ps, self.total, strict=True):
            if not (waiting is None or fits(waiting, p.value)):
                raise ValueError(
                    f"a gradient that waits for its step is {described(waiting)}, its parameter "
                    f"{described(p.value)}: it is of another model"
                )
        if known:
            raise ValueError(
                "the gradients that wait in accumulate are of none of these parameters: copy it and its "
                "model at once, deepcopy((model, accumulate)), or forget what waits by reset()"
            )
        return self.total


def what_is_not_finite(loss: float, grads: Grads, ps: Params | None) -> str:
    """Say what holds infinity or NaN, the loss or the first such gradient; nothing if all is finite."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    place = first_nonfinite(grads)
    if place is None:
        return ""
    return f"the gradient of parameter {ps.names[place] if ps else place} is not finite"


def first_nonfinite(grads: Grads) -> int | None:
    """Return the place of the first gradient that holds infinity or NaN, None if there is none."""
    for i, g in enumerate(grads.values()):
        if g is not None:
            if type(g) is not np.ndarray:
                g = np.asarray(constant(g))
                if g.dtype.kind not in "fc":
                    continue  # if these are no numbers, the update says so
            # For a few numbers NumPy takes longer than Python; `all` twice as long as a look at the bytes.
            if g.size <= 10:
                if not all(map(isfinite, g.flat)):
                    return i
            elif b"\0" in np.isfinite(g).tobytes():
                return i
    return None
