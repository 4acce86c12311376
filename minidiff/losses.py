"""Flux's losses. Samples are rows: where there are classes, they are on the last axis.

Every loss takes the prediction ŷ, then the target y, and hands its values to `agg`: ``np.mean`` (the
default), ``np.sum``, or any function of an array; ``agg=lambda losses: losses`` keeps them all.

ŷ and y must have the same shape, or one of them is a scalar: NumPy would broadcast (n, 1) against (n,)
to (n, n), which is another loss. Targets of integers or booleans get the dtype of the prediction, so that a
float32 model stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff.checks import described
from minidiff.functions import floating, logsoftmax, softplus
from minidiff.tracing import derivative

__all__ = [
    "binarycrossentropy",
    "crossentropy",
    "hinge_loss",
    "huber_loss",
    "kldivergence",
    "logitbinarycrossentropy",
    "logitcrossentropy",
    "mae",
    "mse",
    "poisson_loss",
]

Agg = Callable[[Any], Any]


def mse(ŷ: Any, y: Any, /, *, agg: Agg = np.mean) -> Any:
    """Mean squared error, ``agg(|ŷ − y|²)``.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Prediction and target, real or complex.
    agg : callable
        Makes one number of the elementwise losses.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> mse(np.array([1.0, 2.0, 3.0]), [1, 2, 5]).round(4)
    np.float64(1.3333)
    >>> mse(np.array([1.0, 2.0, 3.0]), [1, 2, 5], agg=np.sum)
    np.float64(4.0)
    """
    ŷ, y = _alike(ŷ, y)
    e = ŷ - y
    return agg(np.real(e * np.conj(e)) if e.dtype.kind == "c" else e * e)


def mae(ŷ: Any, y: Any, /, *, agg: Agg = np.mean) -> Any:
    """Mean absolute error, ``agg(|ŷ − y|)``. Its derivative at ŷ = y is 0.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Prediction and target, real or complex.
    agg : callable
        Makes one number of the elementwise losses.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> mae(np.array([1.0, 2.0, 3.0]), [1, 2, 6])
    np.float64(1.0)
    """
    ŷ, y = _alike(ŷ, y)
    return agg(np.abs(ŷ - y))


def huber_loss(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, delta: float = 1.0) -> Any:
    r"""Huber's loss: quadratic for errors up to δ, linear beyond, with one derivative where they meet.

    .. math:: \tfrac12 e^2 \ \text{where}\ |e| ≤ δ,\ \text{else}\ δ(|e| - \tfrac12 δ), \qquad e = ŷ - y

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Prediction and target.
    agg : callable
        Makes one number of the elementwise losses.
    delta : float
        δ > 0, in units of ŷ.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, or δ is not positive.

    References
    ----------
    Robust Estimation of a Location Parameter. Peter J. Huber, 1964. Annals of Mathematical Statistics 35.

    Examples
    --------
    >>> huber_loss(np.array([0.5, 3.0]), 0.0, agg=lambda losses: losses)
    array([0.125, 2.5  ])
    """
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta!r}")
    ŷ, y = _alike(ŷ, y)
    e = ŷ - y
    c = np.clip(e, -delta, delta)
    return agg(c * (e - 0.5 * c))


def crossentropy(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, epsilon: float | None = None) -> Any:
    """Cross-entropy of predicted probabilities, agg(−Σ y·log(ŷ + ε)), the sum over the last axis.

    Where ŷ comes from a softmax, `logitcrossentropy` of its argument is more exact.

    Parameters
    ----------
    ŷ : array_like, shape (..., classes)
        Predicted probabilities, in [0, 1].
    y : array_like, shape (..., classes), or of int, shape (...)
        One-hot targets or probabilities; or class numbers, counted from 0.
    agg : callable
        Makes one number of the losses of the samples, shape (...).
    epsilon : float, optional
        Keeps the logarithm finite at ŷ = 0; the machine epsilon of ŷ's dtype unless given.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a class number is not one of ŷ's.

    Examples
    --------
    >>> ŷ = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    >>> crossentropy(ŷ, [[1, 0, 0], [0, 1, 0]]).round(4)
    np.float64(0.6931)
    >>> crossentropy(ŷ, [0, 1]).round(4)
    np.float64(0.6931)
    """
    ŷ, y = _classes(ŷ, y)
    return agg(-np.sum(_xlogy(y, ŷ + _epsilon(epsilon, ŷ)), axis=-1))


def logitcrossentropy(ŷ: Any, y: Any, /, *, agg: Agg = np.mean) -> Any:
    """Cross-entropy of scores, agg(−Σ y·logsoftmax(ŷ)), the sum over the last axis.

    Equals ``crossentropy(softmax(ŷ), y)``, and is exact for scores of any size.

    Parameters
    ----------
    ŷ : array_like, shape (..., classes)
        Scores (unnormalised log-probabilities).
    y : array_like, shape (..., classes), or of int, shape (...)
        One-hot targets or probabilities; or class numbers, counted from 0.
    agg : callable
        Makes one number of the losses of the samples, shape (...).

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a class number is not one of ŷ's.

    Examples
    --------
    >>> logitcrossentropy(np.array([[1000.0, -1000.0], [0.0, 0.0]]), [1, 0]).round(4)
    np.float64(1000.3466)
    """
    ŷ, y = _targets(ŷ, y)
    return agg(_against(logsoftmax(ŷ), y))


def _back_to_scores(g: Any, ans: Any, logp: Any, y: Any) -> Any:
    if y.ndim == logp.ndim:
        return -g[..., np.newaxis] * y
    if type(g) is not np.ndarray:  # a number, or recorded
        return -g[..., np.newaxis] * _one_hot(y, logp)
    out = np.zeros(logp.shape, g.dtype)
    out.reshape(y.size, logp.shape[-1])[np.arange(y.size), y.reshape(-1)] = -g.reshape(-1)
    return out


@derivative(_back_to_scores, lambda g, ans, logp, y: -g[..., np.newaxis] * logp)
def _against(logp: Any, y: Any) -> Any:
    """−Σ y·log p over the last axis, where 0·log 0 is 0; or −log p of the class numbers y."""
    if y.ndim == logp.ndim:
        return -np.vecdot(y, np.where(y == 0, 0, logp))  # which would conjugate the first of them
    rows = logp.reshape(y.size, logp.shape[-1])
    return -rows[np.arange(y.size), y.reshape(-1)].reshape(y.shape)


def binarycrossentropy(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, epsilon: float | None = None) -> Any:
    """Binary cross-entropy of predicted probabilities, agg(−y·log(ŷ + ε) − (1 − y)·log(1 − ŷ + ε)).

    Where ŷ comes from a sigmoid, `logitbinarycrossentropy` of its argument is more exact.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Predicted probabilities and targets, in [0, 1].
    agg : callable
        Makes one number of the elementwise losses.
    epsilon : float, optional
        Keeps the logarithms finite at 0 and 1; the machine epsilon of ŷ's dtype unless given.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> binarycrossentropy(np.array([0.5, 0.75]), [True, False], agg=lambda losses: losses).round(4)
    array([0.6931, 1.3863])
    """
    ŷ, y = _alike(ŷ, y)
    ϵ = _epsilon(epsilon, ŷ)
    return agg(-_xlogy(y, ŷ + ϵ) - _xlogy(1 - y, 1 - ŷ + ϵ))


def logitbinarycrossentropy(ŷ: Any, y: Any, /, *, agg: Agg = np.mean) -> Any:
    """Binary cross-entropy of scores, agg(log(1 + exp(ŷ)) − y·ŷ).

    Equals ``binarycrossentropy(sigmoid(ŷ), y)``, and is exact for scores of any size.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Scores (log-odds), and targets in [0, 1].
    agg : callable
        Makes one number of the elementwise losses.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> logitbinarycrossentropy(np.array([1000.0, -1000.0, 0.0]), [0, 0, 1], agg=np.sum).round(4)
    np.float64(1000.6931)
    """
    ŷ, y = _alike(ŷ, y)
    return agg(softplus(ŷ) - y * ŷ)


def kldivergence(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, epsilon: float | None = None) -> Any:
    """Kullback-Leibler divergence of ŷ from y, agg(Σ y·log(y / (ŷ + ε))), the sum over the last axis.

    Parameters
    ----------
    ŷ : array_like, shape (..., classes)
        Predicted probabilities, in [0, 1].
    y : array_like, shape (..., classes), or of int, shape (...)
        The probabilities that ŷ should be; or class numbers, counted from 0.
    agg : callable
        Makes one number of the divergences of the samples, shape (...).
    epsilon : float, optional
        Keeps the logarithm finite at ŷ = 0; the machine epsilon of ŷ's dtype unless given.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a class number is not one of ŷ's.

    Examples
    --------
    >>> kldivergence(np.array([[0.5, 0.5], [0.5, 0.5]]), [[1, 0], [0, 1]]).round(4)
    np.float64(0.6931)
    """
    ŷ, y = _classes(ŷ, y)
    return agg(np.sum(_xlogy(y, y) - _xlogy(y, ŷ + _epsilon(epsilon, ŷ)), axis=-1))


def poisson_loss(ŷ: Any, y: Any, /, *, agg: Agg = np.mean) -> Any:
    """Negative log-likelihood of Poisson counts, agg(ŷ − y·log ŷ), without the term log y!, a constant.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Predicted rates (> 0; 0 where the count is 0) and observed counts.
    agg : callable
        Makes one number of the elementwise losses.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> poisson_loss(np.array([1.0, 0.0, 2.0]), [3, 0, 2], agg=lambda losses: losses).round(4)
    array([1.    , 0.    , 0.6137])
    """
    ŷ, y = _alike(ŷ, y)
    return agg(ŷ - _xlogy(y, ŷ))


def hinge_loss(ŷ: Any, y: Any, /, *, agg: Agg = np.mean) -> Any:
    """Hinge loss of a margin classifier, agg(max(0, 1 − ŷ·y)).

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Scores, and targets −1 or 1.
    agg : callable
        Makes one number of the elementwise losses.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> hinge_loss(np.array([2.0, 0.5, -1.0]), [1, 1, 1], agg=lambda losses: losses)
    array([0. , 0.5, 2. ])
    """
    ŷ, y = _alike(ŷ, y)
    return agg(np.maximum(1 - ŷ * y, 0.0))


def _alike(ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return both as floating point arrays of one shape (or a scalar and an array)."""
    ŷ, y = _numbers(ŷ, y)
    if ŷ.shape != y.shape and ŷ.shape and y.shape:
        raise ValueError(
            f"prediction and target must have the same shape, got {ŷ.shape} and {y.shape}: reshape one"
        )
    return ŷ, y


def _classes(ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return predictions, and targets of the same shape. Class numbers become one-hot rows."""
    ŷ, y = _targets(ŷ, y)
    return ŷ, _one_hot(y, ŷ) if y.ndim < ŷ.ndim else y


def _targets(ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return predictions, and targets that are of the same shape or class numbers."""
    ŷ = floating(ŷ)
    numbers = y if hasattr(y, "dtype") else np.asarray(y)
    if ŷ.shape and numbers.dtype.kind in "iu" and numbers.shape == ŷ.shape[:-1]:
        places, classes = numbers.astype(np.intp, copy=False), ŷ.shape[-1]
        if places.size and places.view(np.uintp).max() >= classes:  # where negative numbers are large
            low, high = numbers.min(), numbers.max()
            raise ValueError(f"class numbers must be from 0 to {classes - 1}, got {low if low < 0 else high}")
        return ŷ, places
    if not ŷ.shape or ŷ.shape != numbers.shape:
        raise ValueError(
            "prediction and target must have the same shape (..., classes), or the target be class numbers "
            f"(integers) of shape (...): got {ŷ.shape}, and {numbers.shape} of {numbers.dtype}"
        )
    return _numbers(ŷ, y)


def _one_hot(numbers: Any, ŷ: Any) -> Any:
    return (numbers[..., np.newaxis] == np.arange(ŷ.shape[-1])).astype(ŷ.dtype)


def _numbers(ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return both as floating point arrays. Integers and Python's own numbers get the dtype of ŷ."""
    ŷ = floating(ŷ)
    if hasattr(y, "dtype"):
        return ŷ, y if y.dtype.kind in "fc" else y.astype(ŷ.dtype)
    y = np.asarray(y)
    if y.dtype.kind not in "fciub":
        raise TypeError(f"the target must be numbers, got {described(y if y.ndim else y[()])}")
    return ŷ, y if y.dtype.kind == "c" else y.astype(ŷ.dtype)


def _epsilon(epsilon: float | None, ŷ: Any) -> float:
    return float(np.finfo(ŷ.dtype).eps) if epsilon is None else epsilon


def _xlogy(x: Any, y: Any) -> Any:
    """x·log y, which is 0 for x = y = 0, the limit as x → 0."""
    both = (x == 0) & (y == 0)
    return x * np.log(np.where(both, 1.0, y) if np.any(both) else y)
