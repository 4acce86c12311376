"""Clips, which keep gradients within bounds, and projections, which keep parameters there."""

# ruff: noqa: D102 - the methods of a rule are described in Rule

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from minidiff.checks import described, function, number
from minidiff.optimise.rule import Rule, widened
from minidiff.optimise.step import BLOCK
from minidiff.program.source import quiet
from minidiff.typing import Array

__all__ = ["ClipNorm", "ClipValue", "Project", "non_negative", "simplex", "within_norm"]


class ClipValue(Rule):
    r"""Clip each element whose absolute value exceeds a threshold.

    .. math:: Δ_i \leftarrow \min(\max(Δ_i, -\text{thresh}), \text{thresh})

    A complex element keeps its direction: its modulus is clipped.

    Parameters
    ----------
    thresh : float
        The largest absolute value that passes, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, ClipValue, Optimiser, apply
    >>> apply(ClipValue(0.5), np.zeros(3), [0.1, -2.0, 30.0])
    array([ 0.1, -0.5,  0.5])
    >>> opt = Optimiser(ClipValue(1e-3), ADAM(1e-3))

    References
    ----------
    T. Mikolov, "Statistical Language Models Based on Neural Networks", 2012, section 3.2.2.
    """

    thresh: float

    def coefficients(self, t: int) -> tuple[float, ...]:
        return (self.thresh,)

    @staticmethod
    def formula(x: Any, Δ: Any, thresh: Any) -> Any:
        return np.where(np.abs(Δ) > thresh, thresh * np.sign(Δ), Δ)


class ClipNorm(Rule):
    r"""Scale a parameter's gradient down to a given Euclidean norm where it exceeds that.

    .. math:: Δ \leftarrow Δ · \min(1, \text{thresh} / ‖Δ‖_2)

    The norm is that of this one parameter's gradient, as in Flux; PyTorch's ``clip_grad_norm_`` takes one
    norm over all parameters together. It is NaN if an element is, and then the whole step is.

    Parameters
    ----------
    thresh : float
        The largest norm that passes, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ClipNorm, apply
    >>> apply(ClipNorm(1.0), np.zeros(2), [3.0, 4.0])
    array([0.6, 0.8])
    >>> apply(ClipNorm(1.0), np.zeros(2), [0.3, 0.4])
    array([0.3, 0.4])

    References
    ----------
    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", 2013,
    arXiv:1211.5063, algorithm 1.
    """

    thresh: float
    __hint__ = ": it is a member, Optimiser(ClipNorm(1.0), ADAM()); the transform is clip_norm(1.0)"
    changes_more = False

    def apply(self, x: Any, Δ: Array) -> Array:
        call, Δ = quiet().run, widened(Δ)
        norm = norm_of(Δ)
        if norm <= self.thresh:
            return Δ
        if norm == math.inf:  # finite elements can overflow, too
            Δ = call(np.multiply, Δ, 2.0**-64)
            norm = norm_of(Δ)
        clipped: Array = call(np.multiply, Δ, self.thresh / norm)  # all NaN if the norm is NaN
        return clipped


class Project(Rule):
    r"""Projected descent: goes where the step leads, and from there to the nearest point of a set.

    .. math:: x \leftarrow P(x - Δ)

    The last member of an `Optimiser`. Other parameters that have no such bounds get another optimiser by
    `Grouped`.

    Parameters
    ----------
    onto : function of an array
        P, the projection: `non_negative`, `simplex`, `within_norm`, or another that returns an array of the
        same shape, such as ``lambda x: np.clip(x, -1, 1)``. ``functools.partial(within_norm, thresh=2.0)``
        has settings, and can be pickled.

    Notes
    -----
    A parameter is left where it begins until its first step. Of half precision the point is rounded after
    the projection. An average of steps, such as that of `ScheduleFreeADAMW`, is not projected.

    Examples
    --------
    Mixture weights, which sum to 1:

    >>> import numpy as np
    >>> from minidiff.optimise import Descent, Optimiser, Project, simplex, update
    >>> opt, x = Optimiser(Descent(0.1), Project(simplex)), np.array([0.5, 0.25, 0.25])
    >>> update(opt, x, [-3.0, 0.0, 3.0])
    >>> x
    array([0.775, 0.225, 0.   ])

    References
    ----------
    optax: ``projections``.
    """

    onto: Annotated[Callable[[Array], Any], function]
    elementwise = False
    gives_point = True

    def coefficients(self, t: int) -> tuple[Any, ...]:
        return (self.onto,)

    @staticmethod
    def formula(x: Any, Δ: Any, onto: Any) -> Any:
        point = onto(x - Δ)
        nearest = np.asarray(point)
        if not np.can_cast(nearest.dtype, x.dtype, "same_kind"):
            raise TypeError(f"Project: onto must return numbers of dtype {x.dtype}, got {described(point)}")
        if nearest.shape != x.shape:
            raise ValueError(f"onto must return an array of shape {x.shape}, not {nearest.shape}")
        return nearest


def non_negative(x: Array) -> Array:
    """Return the nearest point without negative elements.

    Parameters
    ----------
    x : ndarray
        Any shape, real.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    TypeError
        For a complex array, or what is no array of numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, Optimiser, Project, non_negative
    >>> non_negative(np.array([-1.0, 2.0]))
    array([0., 2.])
    >>> opt = Optimiser(ADAM(), Project(non_negative))
    """
    return np.maximum(_numbers("non_negative", x), 0)


def simplex(x: Array, total: float = 1.0) -> Array:
    """Return the nearest point whose rows have no negative elements and sum to `total`.

    Parameters
    ----------
    x : ndarray
        Any shape, real. Rows are along the last axis.
    total : float, default 1
        The sum of each row, above 0.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    TypeError
        For a complex array, or what is no array of numbers.
    ValueError
        For a `total` that is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import simplex
    >>> simplex(np.array([[0.5, 0.75, -1.0], [2.0, 0.0, 0.0]]))
    array([[0.375, 0.625, 0.   ],
           [1.   , 0.   , 0.   ]])

    References
    ----------
    J. Duchi, S. Shalev-Shwartz, Y. Singer and T. Chandra, "Efficient Projections onto the l1-Ball for
    Learning in High Dimensions", 2008.
    """
    x, total = _numbers("simplex", x), number("total", total, within="(0, inf)")
    rows = np.atleast_1d(x).astype(np.result_type(x, np.float64))
    # To subtract the largest element from all does not change the result, and `total` keeps its digits beside
    # what is left.
    rows -= np.max(rows, axis=-1, keepdims=True, initial=-np.inf)
    falling = -np.sort(-rows, axis=-1)
    counts = np.arange(1, rows.shape[-1] + 1)
    # The k largest elements share what they have above `total`: the right k is that which lowers a row most.
    down = np.max((np.cumsum(falling, axis=-1) - total) / counts, axis=-1, keepdims=True, initial=-np.inf)
    nearest: Array = np.maximum(rows - down, 0).reshape(x.shape)
    return nearest.astype(x.dtype if x.dtype.kind == "f" else np.float64)


def within_norm(x: Array, thresh: float = 1.0) -> Array:
    """Return the nearest point whose Euclidean norm is no larger than a threshold.

    Parameters
    ----------
    x : ndarray
        Any shape, real or complex. The norm is over all elements.
    thresh : float, default 1
        The largest norm, at least 0.

    Returns
    -------
    ndarray
        Of the same shape and floating dtype: `x` itself, if it is within.

    Raises
    ------
    TypeError
        For what is no array of numbers.
    ValueError
        For a negative threshold.

    Examples
    --------
    >>> from functools import partial
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, Optimiser, Project, within_norm
    >>> within_norm(np.array([3.0, 4.0]))
    array([0.6, 0.8])
    >>> opt = Optimiser(ADAM(), Project(partial(within_norm, thresh=2.0)))
    """
    x = _numbers("within_norm", x, "fiubc", "numbers")
    x = x if x.dtype.kind in "fc" else x.astype(np.float64)
    wide = widened(x)
    nearest = ClipNorm(thresh).apply(wide, wide)
    return x if nearest is wide else nearest.astype(x.dtype, copy=False)


def _numbers(name: str, x: Any, kinds: str = "fiub", what: str = "real numbers") -> Array:
    if np.asarray(x).dtype.kind not in kinds:
        raise TypeError(f"{name} is for {what}, got {described(x)}")
    return np.asarray(x)


def norm_of(z: Array) -> float:
    """Return the Euclidean norm of all elements, also where their squares leave the range of the dtype.

    Parameters
    ----------
    z : ndarray
        Any shape, real or complex.

    Returns
    -------
    float
        √Σ|z|², 0 of an empty array.

    Examples
    --------
    >>> round(norm_of(np.array([3.0, 4.0])), 6)
    5.0
    """
    flat = z.reshape(-1)
    size = BLOCK // z.itemsize  # each block is read twice, and the second time from the cache
    norms = [quiet().run(_norm, flat[i : i + size]) for i in range(0, max(flat.size, 1), size)]
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def _norm(z: Array) -> float:
    square = float(np.vdot(z, z).real)
    least, most = _safe_squares(z.dtype)
    if least < square < most or not z.size:
        return math.sqrt(square)
    largest = float(np.abs(z).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(float(np.vdot(z / largest, z / largest).real))


@functools.cache
def _safe_squares(dtype: np.dtype[Any]) -> tuple[float, float]:
    info = np.finfo(dtype)
    return float(info.tiny / info.eps), float(info.max)
