"""Averages of parameters over their steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from minidiff.checks import integer, number
from minidiff.optimise.callbacks import assign
from minidiff.optimise.memory import Memory, arrays_or_none
from minidiff.optimise.rule import widened
from minidiff.params import Param, Params
from minidiff.typing import Array

__all__ = ["Average"]


class Average(Memory):
    r"""Follows parameters, and keeps an average of where they have been, which often is the better model.

    .. math:: \bar x \leftarrow \text{decay} \cdot \bar x + (1 - \text{decay}) \cdot x, \quad
              \text{or the mean of all } x \text{ without a decay}

    It starts with the parameters as they are at the first call. Half precision is averaged in single.

    Parameters
    ----------
    ps : Params
        The parameters.
    decay : float or None, default 0.999
        In [0, 1); None for the plain mean.

    Attributes
    ----------
    values : list of ndarray, or None
        The averages, in the order of the parameters; None before the first call.
    count : int
        How many calls there have been.

    Examples
    --------
    >>> from minidiff import param, params, train
    >>> from minidiff.optimise import Average, Descent
    >>> a = param(0.0)
    >>> average = Average(params(a), decay=0.5)
    >>> losses = train(lambda x: (a - x) ** 2, params(a), [3.0, -1.0] * 2, Descent(0.5), cb=average)
    >>> with average.swapped():
    ...     print(a)
    0.5
    >>> print(a)
    -1.0

    The mean over the last epochs only:

    >>> average = Average(params(a), decay=None)
    >>> def late(progress):
    ...     if progress.epoch > 75:
    ...         average()

    References
    ----------
    B. T. Polyak and A. B. Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. PyTorch:
    ``swa_utils.AveragedModel``; optax: ``ema``.
    """

    _memory = {"count": partial(integer, least=0), "values": arrays_or_none}  # noqa: RUF012

    def __init__(self, ps: Params | Iterable[Param], decay: float | None = 0.999) -> None:
        self.ps = Params(ps)
        self.decay = None if decay is None else number("decay", decay, within="[0, 1)")
        self.reset()

    def reset(self) -> None:
        """Start over with the next call."""
        self.count = 0
        self.values: list[Array] | None = None

    def __call__(self) -> None:
        """Take the parameters as they are into the average."""
        arrays = [widened(p.value) for p in self.ps]
        if self.values is None:
            new = [np.array(x) for x in arrays]
        else:
            weight = 1 / (self.count + 1) if self.decay is None else 1 - self.decay
            pairs = zip(self.values, arrays, strict=True)
            new = [np.asarray(mean + weight * (x - mean)) for mean, x in pairs]
        vars(self).update(count=self.count + 1, values=new)  # both at once, also if an interrupt comes

    @contextmanager
    def swapped(self) -> Iterator[Params]:
        """Give the parameters their averages within a ``with`` block, and their own values back after it."""
        if self.values is None:
            raise ValueError("there is no average yet: call it after each step, train(…, cb=average)")
        own = [p.value.copy() for p in self.ps]
        try:
            assign(self.ps, self.values)
            yield self.ps
        finally:
            assign(self.ps, own)
