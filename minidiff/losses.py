"""Flux's losses. Samples are rows: where there are classes, they are on the last axis.

Every loss takes the prediction ŷ, then the target y, and hands its values to `agg`: ``np.mean`` (the
default), ``np.sum``, or any function of an array; ``agg=lambda losses: losses`` keeps them all.

ŷ and y must have the same shape, or one of them is a scalar: NumPy would broadcast (n, 1) against (n,)
to (n, n), which is another loss. Targets in another coding than the loss's are refused. Targets of integers
or booleans get the dtype of the prediction, so that a float32 model stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from minidiff.checks import described, ends, function, integer, is_ndarray, no_option, number
from minidiff.functions import floating, in_single, logsoftmax, real_numbers, softmax, softplus
from minidiff.names import tell
from minidiff.tracing import Kept, as_array, constant, derivative, is_box, listed, single
from minidiff.tracing.exact import pinned
from minidiff.tracing.table import shown

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

tell(__name__)

Agg = Callable[[Any], Any]

# What there is in place of other libraries' options.
_CURES = {
    **dict.fromkeys(
        ("reduction", "reduce", "size_average"),
        "agg=np.mean, agg=np.sum, or agg=lambda losses: losses, which keeps all",
    ),
    **dict.fromkeys(
        ("axis", "dim", "dims"), "agg=lambda losses: np.mean(losses, axis=…); classes are on the last axis"
    ),
    **dict.fromkeys(
        ("weight", "sample_weight", "class_weight"), "weights=, where it is of classes weights=w[None]"
    ),
    "pos_weight": "weights=np.where(y == 1, pos_weight, 1), with which the mean is weighted",
    "label_smoothing": "smoothing=",
    **dict.fromkeys(("ignore_index", "ignore_class"), "ignore="),
    **dict.fromkeys(("eps", "ε"), "epsilon="),
    "δ": "delta=",
    "beta": "delta=beta, and divide the loss by beta",
    **dict.fromkeys(
        ("crossentropy.from_logits", "binarycrossentropy.from_logits"),
        "logitcrossentropy or logitbinarycrossentropy of scores",
    ),
    "poisson_loss.log_input": "np.exp(ŷ) for ŷ",
    "kldivergence.log_target": "np.exp(y) for y",
}
_ONE = 1.01  # with room for rounding, of half precision too
_NUMBERED = "Labels that are strings are numbered by np.unique(labels, return_inverse=True)[1]"


def mse(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, weights: Any = None, **others: NoReturn) -> Any:
    """Mean squared error, ``agg(|ŷ − y|²)``.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Prediction and target, real or complex.
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, or weights do not fit.

    Examples
    --------
    >>> mse(np.array([1.0, 2.0, 3.0]), [1, 2, 5]).round(4)
    np.float64(1.3333)
    >>> mse(np.array([1.0, 2.0, 3.0]), [1, 2, 5], agg=np.sum)
    np.float64(4.0)
    >>> mse(np.array([1.0, 2.0, 3.0]), [1, 2, 5], weights=[1, 2, 1])
    np.float64(1.0)
    """
    _refuse(mse, others)
    ŷ, y = _alike(ŷ, y)
    e = ŷ - y
    return _agg(np.real(e * np.conj(e)) if e.dtype.kind == "c" else e * e, agg, weights)


def mae(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, weights: Any = None, **others: NoReturn) -> Any:
    """Mean absolute error, ``agg(|ŷ − y|)``. Its derivative at ŷ = y is 0.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Prediction and target, real or complex.
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, or weights do not fit.

    Examples
    --------
    >>> mae(np.array([1.0, 2.0, 3.0]), [1, 2, 6])
    np.float64(1.0)
    """
    _refuse(mae, others)
    ŷ, y = _alike(ŷ, y)
    return _agg(np.abs(ŷ - y), agg, weights)


def huber_loss(
    ŷ: Any, y: Any, /, *, agg: Agg = np.mean, weights: Any = None, delta: float = 1.0, **others: NoReturn
) -> Any:
    r"""Huber's loss: quadratic for errors up to δ, linear beyond, with one derivative where they meet.

    .. math:: \tfrac12 e^2 \ \text{where}\ |e| ≤ δ,\ \text{else}\ δ(|e| - \tfrac12 δ), \qquad e = ŷ - y

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Prediction and target.
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    delta : float
        δ > 0, in units of ŷ.
    **others
        Not used: an option by another library's name is answered with ours.

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
    _refuse(huber_loss, others)
    delta = _option("delta", delta, "(0, inf]", "positive")
    ŷ, y = _real("huber_loss", ŷ, y)
    e = ŷ - y
    c = np.clip(e, -delta, delta)
    return _agg(c * (e - 0.5 * c), agg, weights)


def crossentropy(
    ŷ: Any,
    y: Any,
    /,
    *,
    agg: Agg = np.mean,
    weights: Any = None,
    ignore: int | None = None,
    smoothing: float = 0.0,
    epsilon: float | None = None,
    **others: NoReturn,
) -> Any:
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
    weights : array_like, optional
        At least 0: one for each class, shape (classes,), or for each sample, shape (...), or for both, what
        NumPy broadcasts to (..., classes): class weights are ``w[None]``, however many samples there are.
        With ``agg=np.mean`` the mean is weighted by those of the targets, Σ w·loss / Σ w; any other `agg`
        gets w·loss.
    ignore : int, optional
        The class number of samples that do not count, such as −100: not in the mean either.
    smoothing : float
        In [0, 1): the part of each target that is spread evenly over all classes.
    epsilon : float, optional
        Keeps the logarithm finite at ŷ = 0; the machine epsilon of ŷ's dtype unless given.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes do not fit, there is one class only, a class number is not one of ŷ's, targets of
        another kind sum to more than 1, or ŷ is not in [0, 1].

    Examples
    --------
    >>> ŷ = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    >>> crossentropy(ŷ, [[1, 0, 0], [0, 1, 0]]).round(4)
    np.float64(0.6931)
    >>> crossentropy(ŷ, [0, 1]).round(4)
    np.float64(0.6931)
    """
    _refuse(crossentropy, others)
    ŷ = real_numbers("crossentropy", ŷ)
    ϵ = _epsilon(epsilon, ŷ)

    def losses(ŷ: Any, y: Any) -> Any:
        y = _beside(ŷ, _shares(y, ŷ), ϵ, _ONE, "in [0, 1]: of scores take logitcrossentropy")
        return -np.sum(_xlogy(y, ŷ + ϵ), axis=-1)

    return _of_classes(losses, ŷ, y, agg, weights, ignore, smoothing)


def logitcrossentropy(
    ŷ: Any,
    y: Any,
    /,
    *,
    agg: Agg = np.mean,
    weights: Any = None,
    ignore: int | None = None,
    smoothing: float = 0.0,
    **others: NoReturn,
) -> Any:
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
    weights : array_like, optional
        At least 0: one for each class, shape (classes,), or for each sample, shape (...), or for both, what
        NumPy broadcasts to (..., classes): class weights are ``w[None]``, however many samples there are.
        With ``agg=np.mean`` the mean is weighted by those of the targets, Σ w·loss / Σ w; any other `agg`
        gets w·loss.
    ignore : int, optional
        The class number of samples that do not count, such as −100: not in the mean either.
    smoothing : float
        In [0, 1): the part of each target that is spread evenly over all classes.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes do not fit, there is one class only, a class number is not one of ŷ's, or targets of
        another kind sum to more than 1.

    Examples
    --------
    >>> scores = np.array([[1000.0, -1000.0], [0.0, 0.0]])
    >>> logitcrossentropy(scores, [1, 0]).round(4)
    np.float64(1000.3466)
    >>> logitcrossentropy(scores, [-100, 0], ignore=-100, smoothing=0.1).round(4)
    np.float64(0.6931)

    The focal loss of Lin et al. (2017, arXiv:1708.02002) weighs each sample by (1 − p)², with p the predicted
    probability of its class:

    >>> def focal(losses):
    ...     return np.mean((1 - np.exp(-losses)) ** 2 * losses)
    >>> logitcrossentropy(scores, [0, 0], agg=focal).round(4)
    np.float64(0.0866)
    """
    _refuse(logitcrossentropy, others)
    ŷ = real_numbers("logitcrossentropy", ŷ)
    return _of_classes(_logit_losses, ŷ, y, agg, weights, ignore, smoothing)


def _logit_losses(ŷ: Any, y: Any) -> Any:
    return in_single(_against_numbers, ŷ, y, Kept()) if y.ndim < ŷ.ndim else _against(logsoftmax(ŷ), y)


@derivative(
    lambda g, ans, logp, y: -g[..., np.newaxis] * y,
    lambda g, ans, logp, y: -g[..., np.newaxis] * logp,
)
def _against(logp: Any, y: Any) -> Any:
    """−Σ y·log p over the last axis, where 0·log 0 is 0."""
    return -np.vecdot(y, np.where(y == 0, 0, logp))  # vecdot conjugates its first argument


def _from_numbers(g: Any, ans: Any, ŷ: Any, y: Any, kept: Kept) -> Any:
    if not type(g) is type(ŷ) is np.ndarray:  # a number, or recorded
        return g[..., np.newaxis] * (softmax(ŷ) - _is_class(y, ŷ))
    e, total = kept.values
    p = e / total
    p[(_counted(y.size), y) if y.ndim == 1 else (*np.indices(y.shape, sparse=True), y)] -= 1
    p *= g[..., np.newaxis]
    return p


@derivative(_from_numbers)
def _against_numbers(ŷ: Any, y: Any, kept: Kept) -> Any:
    """−logsoftmax(ŷ) of the class numbers y."""
    z = ŷ - ŷ.max(axis=-1, keepdims=True)
    chosen = z.reshape(y.size, ŷ.shape[-1])[_counted(y.size), y.reshape(-1)].reshape(y.shape)
    e = np.exp(z)
    total = e.sum(axis=-1, keepdims=True)
    kept.values = e, total
    return np.log(total)[..., 0] - chosen


def binarycrossentropy(
    ŷ: Any,
    y: Any,
    /,
    *,
    agg: Agg = np.mean,
    weights: Any = None,
    smoothing: float = 0.0,
    epsilon: float | None = None,
    **others: NoReturn,
) -> Any:
    """Binary cross-entropy of predicted probabilities, agg(−y·log(ŷ + ε) − (1 − y)·log(1 − ŷ + ε)).

    Where ŷ comes from a sigmoid, `logitbinarycrossentropy` of its argument is more exact.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Predicted probabilities and targets, in [0, 1].
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    smoothing : float
        In [0, 1): how far targets are moved from 0 and 1 towards ½.
    epsilon : float, optional
        Keeps the logarithms finite at 0 and 1; the machine epsilon of ŷ's dtype unless given.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, weights do not fit, or targets are in another coding.

    Examples
    --------
    >>> ŷ, y = np.array([0.5, 0.75]), [True, False]
    >>> binarycrossentropy(ŷ, y, agg=lambda losses: losses).round(4)
    array([0.6931, 1.3863])
    """
    _refuse(binarycrossentropy, others)
    ŷ, y = _yes_or_no("binarycrossentropy", ŷ, y, smoothing)
    ϵ = _epsilon(epsilon, ŷ)
    y = _beside(ŷ, y, ϵ, 1 + ϵ, "in [0, 1]: of scores take logitbinarycrossentropy")
    return _agg(-_xlogy(y, ŷ + ϵ) - _xlogy(1 - y, 1 - ŷ + ϵ), agg, weights)


def logitbinarycrossentropy(
    ŷ: Any, y: Any, /, *, agg: Agg = np.mean, weights: Any = None, smoothing: float = 0.0, **others: NoReturn
) -> Any:
    """Binary cross-entropy of scores, agg(log(1 + exp(ŷ)) − y·ŷ).

    Equals ``binarycrossentropy(sigmoid(ŷ), y)``, and is exact for finite scores of any size.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Scores (log-odds), and targets in [0, 1].
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    smoothing : float
        In [0, 1): how far targets are moved from 0 and 1 towards ½.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, weights do not fit, or targets are in another coding.

    Examples
    --------
    >>> scores = np.array([1000.0, -1000.0, 0.0])
    >>> logitbinarycrossentropy(scores, [0, 0, 1], agg=np.sum).round(4)
    np.float64(1000.6931)
    """
    _refuse(logitbinarycrossentropy, others)
    ŷ, y = _yes_or_no("logitbinarycrossentropy", ŷ, y, smoothing)
    # softplus(ŷ) = ŷ + softplus(−ŷ), of which the first would cancel where y is 1 and ŷ is large.
    is_large = ŷ > 0
    return _agg(softplus((1 - 2 * is_large).astype(ŷ.dtype) * ŷ) + (is_large - y) * ŷ, agg, weights)


def kldivergence(
    ŷ: Any,
    y: Any,
    /,
    *,
    agg: Agg = np.mean,
    weights: Any = None,
    epsilon: float | None = None,
    **others: NoReturn,
) -> Any:
    """Kullback-Leibler divergence of ŷ from y, agg(Σ y·log(y / (ŷ + ε))), the sum over the last axis.

    Parameters
    ----------
    ŷ : array_like, shape (..., classes)
        Predicted probabilities, in [0, 1].
    y : array_like, shape (..., classes), or of int, shape (...)
        The probabilities that ŷ should be; or class numbers, counted from 0.
    agg : callable
        Makes one number of the divergences of the samples, shape (...).
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    epsilon : float, optional
        Keeps the logarithm finite at ŷ = 0; the machine epsilon of ŷ's dtype unless given.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes do not fit, there is one class only, a class number is not one of ŷ's, targets of
        another kind sum to more than 1, or ŷ is not in [0, 1].

    Examples
    --------
    >>> kldivergence(np.array([[0.5, 0.5], [0.5, 0.5]]), [[1, 0], [0, 1]]).round(4)
    np.float64(0.6931)
    """
    _refuse(kldivergence, others)
    ŷ, y, _ = _targets(real_numbers("kldivergence", ŷ), y)
    y, ϵ = _shares(y, ŷ), _epsilon(epsilon, ŷ)
    y = _beside(ŷ, y, ϵ, _ONE, "in [0, 1]: of scores take softmax")
    return _agg(np.sum(_xlogy(y, y) - _xlogy(y, ŷ + ϵ), axis=-1), agg, weights)


def poisson_loss(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, weights: Any = None, **others: NoReturn) -> Any:
    """Negative log-likelihood of Poisson counts, agg(ŷ − y·log ŷ), without the term log y!, a constant.

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Predicted rates (> 0; 0 where the count is 0) and observed counts.
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, weights do not fit, or targets are in another coding.

    Examples
    --------
    >>> rates, counts = np.array([1.0, 0.0, 2.0]), [3, 0, 2]
    >>> poisson_loss(rates, counts, agg=lambda losses: losses).round(4)
    array([1.    , 0.    , 0.6137])
    """
    _refuse(poisson_loss, others)
    ŷ, y = _real("poisson_loss", ŷ, y)
    return _agg(ŷ - _xlogy(_checked(_in, y, 0, np.inf, "counts, at least 0"), ŷ), agg, weights)


def hinge_loss(ŷ: Any, y: Any, /, *, agg: Agg = np.mean, weights: Any = None, **others: NoReturn) -> Any:
    """Hinge loss of a margin classifier, agg(max(0, 1 − ŷ·y)).

    Parameters
    ----------
    ŷ, y : array_like of the same shape, or one a scalar
        Scores, and targets −1 or 1, not 0 or booleans.
    agg : callable
        Makes one number of the elementwise losses.
    weights : array_like, optional
        At least 0: of the shape of the losses, or of a leading part of it, one for each sample. With
        ``agg=np.mean`` the mean is weighted, Σ w·loss / Σ w; any other `agg` gets w·loss.
    **others
        Not used: an option by another library's name is answered with ours.

    Returns
    -------
    float or array
        What `agg` gives.

    Raises
    ------
    ValueError
        If the shapes differ, weights do not fit, or targets are in another coding.

    Examples
    --------
    >>> hinge_loss(np.array([2.0, 0.5, -1.0]), [1, 1, 1], agg=lambda losses: losses)
    array([0. , 0.5, 2. ])
    """
    _refuse(hinge_loss, others)
    coding = "targets must be −1 or 1, got {}: of 0 and 1, or False and True, write 2 * y - 1"
    if as_array(y).dtype.kind == "b":
        raise ValueError(coding.format("booleans"))
    ŷ, y = _real("hinge_loss", ŷ, y)
    return _agg(np.maximum(1 - ŷ * _checked(_signs, y, coding), 0.0), agg, weights)


def _refuse(loss: Callable[..., Any], options: Iterable[str]) -> None:
    for name in options:
        raise no_option(loss, name, _CURES, "write", lambda has: " or ".join(f"{option}=" for option in has))


def _alike(ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return both as floating point arrays of one shape (or a scalar and an array)."""
    ŷ, y = _numbers(ŷ, y)
    if ŷ.shape != y.shape and ŷ.shape and y.shape:
        raise ValueError(
            f"prediction and target must have the same shape, got {ŷ.shape} and {y.shape}: {_reshaped(ŷ, y)}"
        )
    return ŷ, y


def _real(name: str, ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return them as `_alike` does, of a loss of real numbers."""
    ŷ, y = _alike(ŷ, y)
    return real_numbers(name, ŷ), real_numbers(name, y)


def _reshaped(ŷ: Any, y: Any) -> str:
    for name, column, other in ("ŷ", ŷ, y), ("y", y, ŷ):
        if column.shape == (*other.shape, 1):
            return f"take {name}[..., 0]"
    return "reshape one, or, for one target of several predictions, take np.broadcast_to(y, ŷ.shape)"


def _yes_or_no(name: str, ŷ: Any, y: Any, smoothing: float) -> tuple[Any, Any]:
    """Return predictions, and targets in [0, 1], smoothed."""
    ŷ, y = _real(name, ŷ, y)
    y = _checked(_in, y, 0, 1, "in [0, 1]: of −1 and 1, write (y + 1) / 2")
    return ŷ, _smoothed(y, 2, _spread(smoothing))


def _targets(ŷ: Any, y: Any, ignore: int | None = None) -> tuple[Any, Any, Any]:
    """Return predictions, targets that are of the same shape or class numbers, and which of these count."""
    numbers = as_array(_without_mask(y))
    are_numbers = bool(ŷ.shape) and numbers.dtype.kind in "iu" and numbers.shape == ŷ.shape[:-1]
    if not are_numbers and not (ŷ.shape and ŷ.shape == numbers.shape):
        cure = "Is the prediction the first argument?"
        if hasattr(y, "toarray"):
            cure = "Of a sparse matrix take y.toarray()"
        elif numbers.dtype.kind not in "fciub":
            cure = _NUMBERED
        elif numbers.shape == ŷ.shape[:-1]:
            cure = "Floats and booleans are numbered by labels.astype(int)"
        elif numbers.shape == (*ŷ.shape[:-1], 1):
            cure = "Of a column take labels[..., 0]"
        raise ValueError(
            "prediction and target must have the same shape (..., classes), or the target be class numbers "
            f"(integers) of shape (...): got {ŷ.shape}, and {numbers.shape} of {numbers.dtype}. {cure}"
        )
    if ŷ.shape[-1] == 1:
        raise ValueError(
            f"predictions of shape {ŷ.shape} have one class on the last axis, of which the loss is always 0: "
            "for yes or no take logitbinarycrossentropy, of probabilities binarycrossentropy"
        )
    if are_numbers:
        counts = None
        if ignore is not None:
            counts = numbers != integer("ignore", ignore)
            numbers = np.where(counts, numbers, 0)
        return ŷ, _places(numbers, ŷ.shape[-1]), counts
    if ignore is not None:
        raise ValueError(f"ignore is a class number, but the target is of shape {numbers.shape}, no numbers")
    ŷ, y = _numbers(ŷ, y)
    y = _checked(
        _in, real_numbers("a loss of classes", y), 0, 1, "probabilities, in [0, 1], or class numbers"
    )
    # Among several samples a row of zeros counts for nothing; alone it would be a no for each class.
    return ŷ, _checked(_sums_to_one, y, numbers.dtype.kind in "iub" and numbers.ndim == 1), None


def _of_classes(
    losses: Callable[[Any, Any], Any],
    ŷ: Any,
    y: Any,
    agg: Agg,
    weights: Any,
    ignore: int | None,
    smoothing: float,
) -> Any:
    """Aggregate the losses of samples with classes; ``losses(ŷ, y)`` computes them."""
    function("agg", agg, "a function, such as np.sum")
    ŷ, y, counts = _targets(ŷ, y, ignore)
    smoothing = _spread(smoothing)
    if weights is None and counts is None and _is_zero(smoothing):
        return agg(losses(ŷ, y))
    dtype, is_ratio = ŷ.dtype, agg is np.mean and not (weights is None and counts is None)
    ŷ = single(ŷ) if is_ratio else ŷ
    y = _shares(y, ŷ)
    w = ŷ.dtype.type(1) if weights is None else _weights_of_classes(weights, ŷ)
    if counts is not None:
        w = w * counts[..., np.newaxis]
        ŷ = np.where(counts[..., np.newaxis], ŷ, 1)  # any other value will do: 0·∞ would be NaN
    each = losses(ŷ, _smoothed(y, ŷ.shape[-1], smoothing) * w)
    return _ratio(each, y * w, dtype) if is_ratio else agg(each)


def _weights_of_classes(weights: Any, ŷ: Any) -> Any:
    """Return weights that broadcast to predictions, shape (..., classes)."""
    w, samples, classes = _weights(weights, ŷ.dtype), ŷ.shape[:-1], ŷ.shape[-1]
    if w.shape == (classes,):
        if w.shape == samples[:1]:
            raise ValueError(
                f"weights of shape {w.shape} may be of {classes} samples or of {classes} classes: write "
                "weights[:, None] for samples, weights[None] for classes"
            )
        return w
    return _broadcast(w, ŷ.shape, samples, "sample or class")


def _agg(losses: Any, agg: Agg, weights: Any) -> Any:
    """Aggregate elementwise losses."""
    function("agg", agg, "a function, such as np.sum")
    if weights is None:
        return agg(losses)
    dtype = losses.dtype
    losses = single(losses) if agg is np.mean else losses
    w = _broadcast(_weights(weights, losses.dtype), losses.shape, losses.shape, "sample")
    each = losses * w
    return _ratio(each, np.broadcast_to(w, losses.shape), dtype) if agg is np.mean else agg(each)


def _ratio(losses: Any, weights: Any, dtype: Any) -> Any:
    """Return Σ losses / Σ weights."""
    ratio = np.sum(losses) / np.sum(weights)
    return ratio.astype(dtype) if ratio.dtype != dtype else ratio


def _without_mask(x: Any) -> Any:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            "targets and weights must be plain arrays, got a masked one, whose mask would be lost: a weight "
            "of 0 leaves a sample out, weights=np.where(mask, 0.0, 1.0), or ignore=−100 such class numbers"
        )
    return x


def _weights(weights: Any, dtype: Any) -> Any:
    w = floating("weights=", _without_mask(weights))
    w = w.astype(dtype, copy=False) if is_ndarray(shown(w)) else w
    return w if is_box(w) else _not_negative(w)


def _checked(check: Callable[..., Any], y: Any, *options: Any) -> Any:
    """Return targets that have gone through a check; of recorded ones their values have."""
    if not is_box(y):
        return check(y, *options)
    try:
        check(constant(y), *options)
    except ValueError as error:
        raise ValueError(f"{error}. Is the prediction the first argument, ŷ, and y the second?") from None
    return y


# Checks of plain values. A compiled loss makes them at every call, too.


@listed
def _places(numbers: Any, classes: int) -> Any:
    """Return class numbers as they index, if they are from 0 to that of the last class."""
    places = numbers.astype(np.intp, copy=False)
    if places.size and places.view(np.uintp).max() >= classes:  # where negative numbers are large
        low, high = numbers.min(), numbers.max()
        advice = ": labels that begin with 1 are y - 1" * bool(low == 1 and high == classes)
        raise ValueError(
            f"class numbers must be from 0 to {classes - 1}, got {low if low < 0 else high}{advice}"
        )
    return places


@listed
def _not_negative(w: Any) -> Any:
    least = np.asarray(w).min(initial=0)
    if least < 0:
        raise ValueError(f"weights must be at least 0, got {least}")
    return w


@listed
def _signs(y: Any, coding: str) -> Any:
    """Return targets if each is in [−1, 1] and not 0: a fraction weighs its sample. NaN passes."""
    each = np.atleast_1d(y)
    wrong = each[(each == 0) | (abs(each) > _ONE)]
    if wrong.size:
        raise ValueError(coding.format(f"{wrong[0]:g}"))
    return y


@listed
def _in(y: Any, least: float, most: float, coding: str, ŷ: Any = None) -> Any:
    """Return targets if they are within a range, or the predictions, if these are given. NaN passes."""
    what, every = ("targets", np.asarray(y)) if ŷ is None else ("predictions", ŷ)
    if every.size:
        low, high = every.min(), every.max()
        if low < least or high > most:
            raise ValueError(f"{what} must be {coding}; got {low if low < least else high}")
    return y


@listed
def _sums_to_one(y: Any, exactly: bool) -> Any:
    """Return targets if their sums over the classes are 1, exactly or at most."""
    if type(y) is np.ndarray and y.size:
        sums = y.sum(axis=-1)
        low, high = sums.min(), sums.max()
        if high > _ONE or (exactly and low < 1):
            raise ValueError(
                "targets must be class numbers, or sum to 1 over the last axis, the classes; got a sum of "
                f"{high if high > _ONE else low}: where each is a yes or no of its own, take "
                "logitbinarycrossentropy, of probabilities binarycrossentropy"
            )
    return y


def _beside(ŷ: Any, y: Any, ϵ: Any, most: Any, coding: str) -> Any:
    """Return targets, recorded or not, if the values of the predictions are from -ϵ to `most`."""
    return pinned(y, _in(constant(y), -constant(ϵ), constant(most), coding, constant(ŷ)))


def _broadcast(w: Any, shape: tuple[int, ...], samples: tuple[int, ...], each: str) -> Any:
    """Return weights, of samples or with an axis for each of the shape, as NumPy broadcasts them to it."""
    if w.ndim and w.shape == samples[: w.ndim]:
        return w.reshape(w.shape + (1,) * (len(shape) - w.ndim))
    if w.ndim and (w.ndim != len(shape) or any(n not in (1, m) for n, m in zip(w.shape, shape, strict=True))):
        raise ValueError(
            f"weights must be one for each {each}, or have {len(shape)} axes and broadcast to the shape "
            f"{shape}, got shape {w.shape}"
        )
    return w


def _spread(smoothing: Any) -> Any:
    """Check how much of the targets is spread. None is computed otherwise than some, which a program does."""
    plain = constant(smoothing)
    is_argument = plain is smoothing and shown(plain) is not plain
    if is_argument and shown(plain) == 0:
        plain.refuse(
            "smoothing=0 is computed otherwise than smoothing > 0. Let the first call have one above 0, or "
            "write smoothing=0 in the loss"
        )
    return _option("smoothing", smoothing, "(0, 1)" if is_argument else "[0, 1)")


def _is_zero(smoothing: Any) -> bool:
    return type(smoothing) is float and smoothing == 0


def _smoothed(y: Any, classes: int, smoothing: Any) -> Any:
    """Move targets towards an even distribution over the classes."""
    return y if _is_zero(smoothing) else (1 - smoothing) * y + smoothing / classes


@lru_cache(64)
def _counted(n: int) -> Any:
    """Give the numbers from 0 to n - 1, the same array every time: it is known to depend on nothing else."""
    numbers = np.arange(n)
    numbers.flags.writeable = False
    return numbers


def _shares(y: Any, ŷ: Any) -> Any:
    """Give class numbers as the shares of the classes, 1 and 0; shares stay."""
    return _is_class(y, ŷ).astype(ŷ.dtype) if y.ndim < ŷ.ndim else y


def _is_class(numbers: Any, ŷ: Any) -> Any:
    return numbers[..., np.newaxis] == _counted(ŷ.shape[-1])


def _numbers(ŷ: Any, y: Any) -> tuple[Any, Any]:
    """Return both as floating point arrays. Integers and Python's own numbers get the dtype of ŷ."""
    ŷ, kept = floating("a loss", ŷ), "fc" if hasattr(y, "dtype") else "c"
    y = as_array(_without_mask(y))
    if y.dtype.kind not in "fciub":
        raise TypeError(
            f"the target must be numbers, got {described(y if y.ndim else y[()])}. {_NUMBERED}, objects that "
            "are numbers by labels.astype(float)"
        )
    return ŷ, y if y.dtype.kind in kept else y.astype(ŷ.dtype)


def _epsilon(epsilon: float | None, ŷ: Any) -> float:
    return float(np.finfo(ŷ.dtype).eps) if epsilon is None else _option("epsilon", epsilon, "[0, inf)")


def _option(name: str, x: Any, within: str, what: str = "") -> Any:
    """Check a number that sets a loss. One under differentiation stays so; any other becomes a float."""
    least, most = ends(within)
    if type(x) is float and least <= x <= most:
        return x
    plain = constant(x)
    value = shown(plain)
    number(name, value[()] if is_ndarray(value) and not value.ndim else value, "[-inf, inf]")
    checked = _within(plain, name, least, most, what or f"in {within}", plain is x)
    return pinned(x, checked)


@listed
def _within(x: Any, name: str, least: float, most: float, what: str, as_float: bool) -> Any:
    if not least <= x <= most:
        raise ValueError(f"{name} must be {what}, got {x!r}")
    return float(x) if as_float else x


def _xlogy(x: Any, y: Any) -> Any:
    """x·log y, which is 0 for x = y = 0, the limit as x → 0."""
    both = (x == 0) & (y == 0)
    return x * np.log(np.where(both, 1.0, y))
