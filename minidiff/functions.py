"""Activation functions, elementwise or along the last axis, safe for arguments of any size.

Outside a gradient they take and give arrays, inside one they are recorded: the commonest as one call with a
derivative of its own, the others as the NumPy they are made of. Each is written so that nothing overflows in
the branch that is not taken, because in a gradient 0·∞ is NaN.
"""

from __future__ import annotations

import math
from typing import Any

import autograd.numpy as anp
import numpy as np

from minidiff.checks import described, is_number
from minidiff.names import tell
from minidiff.tracing import as_array, derivative, listed, made_array, made_zeros, part_of, single
from minidiff.tracing.table import shown

__all__ = ["array", "elu", "gelu", "leakyrelu", "logsoftmax", "logsumexp", "relu", "sigmoid", "softmax",
    "softplus", "zeros"]  # fmt: skip

tell(__name__)


def floating(name: str, x: Any) -> Any:
    """Give what `name` takes as an array of floating point numbers, recorded if it is."""
    given, x = x, as_array(x)
    if x.dtype.kind in "fc":
        return x
    if x.dtype.kind in "iub":
        return x * 1.0
    if is_number(given):  # a fraction, or an integer of any size
        return np.float64(given)
    advice = ": of objects that are numbers take x.astype(float)" if x.ndim and x.dtype == object else ""
    if hasattr(given, "toarray"):
        advice = ": take x.toarray()"
    raise TypeError(f"{name} takes numbers, got {described(given)}{advice}")


def real_numbers(name: str, x: Any) -> Any:
    """Give what a function of real numbers takes as `floating` does."""
    x = floating(name, x)
    if x.dtype.kind == "c":
        raise TypeError(f"{name} takes real numbers, got complex ones. Take np.real(x) or abs(x) first.")
    return x


def in_single(f: Any, x: Any, *others: Any) -> Any:
    """Give f(x, …); of half precision it is computed in single, as a sum may be too large for half."""
    result = f(single(x), *others)
    return result.astype(np.float16) if x.dtype.char == "e" else result


def _weak(setting: Any) -> Any:
    """Give a number of NumPy's as one of Python's, which leaves the dtype of what it multiplies as it is."""
    is_numpys = type(shown(setting)) in (np.float16, np.float32, np.float64)
    return _of_pythons(setting) if is_numpys else setting


@listed
def _of_pythons(x: Any) -> float:
    return float(x)


def relu(x: Any) -> Any:
    r"""Rectified linear unit, :math:`\max(x, 0)`.

    Its derivative at 0 is taken to be 0.

    Parameters
    ----------
    x : array_like, any shape
        Real numbers.

    Returns
    -------
    array
        Of the shape and floating dtype of `x` (integers give float64).

    Examples
    --------
    >>> relu(np.array([-2.0, 0.0, 3.0]))
    array([0., 0., 3.])
    """
    return _relu(real_numbers("relu", x))


@derivative(lambda g, ans, x: g * (ans > 0))
def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def leakyrelu(x: Any, a: float = 0.01) -> Any:
    """Rectified linear unit with a slope `a` for negative arguments: x where x > 0, else a·x.

    Its derivative at 0 is taken to be `a`.

    Parameters
    ----------
    x : array_like, any shape
        Real numbers.
    a : float
        The slope below 0.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`.

    Examples
    --------
    >>> leakyrelu(np.array([-2.0, 0.0, 3.0]))
    array([-0.02,  0.  ,  3.  ])
    """
    x = real_numbers("leakyrelu", x)
    return np.where(x > 0, x, _weak(a) * x)


def elu(x: Any, alpha: float = 1.0) -> Any:
    r"""Exponential linear unit: x where x > 0, else α(eˣ − 1).

    Parameters
    ----------
    x : array_like, any shape
        Real numbers.
    alpha : float
        α, minus the limit as x → −∞.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`.

    References
    ----------
    Fast and Accurate Deep Network Learning by Exponential Linear Units (ELUs).
    Djork-Arné Clevert, Thomas Unterthiner, Sepp Hochreiter, 2015. arXiv:1511.07289.

    Examples
    --------
    >>> elu(np.array([-1000.0, 0.0, 3.0]))
    array([-1.,  0.,  3.])
    """
    x = real_numbers("elu", x)
    positive = x > 0
    return anp.where(positive, x, _weak(alpha) * anp.expm1(anp.where(positive, 0.0, x)))


def gelu(x: Any) -> Any:
    r"""Gaussian error linear unit, in the paper's approximation by a hyperbolic tangent.

    .. math:: x\,σ(2u) = \tfrac{x}{2}(1 + \tanh u), \qquad u = \sqrt{2/π}\,(x + 0.044715\,x^3)

    Parameters
    ----------
    x : array_like, any shape
        Real numbers.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`.

    References
    ----------
    Gaussian Error Linear Units (GELUs). Dan Hendrycks, Kevin Gimpel, 2016. arXiv:1606.08415.

    Examples
    --------
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1588,  0.    ,  0.8412])
    """
    return _gelu(real_numbers("gelu", x))


def _bend(x: Any) -> tuple[Any, Any]:
    """Give the x and the 2u of `gelu`. At ±55 σ(2u) is 0 or 1; beyond, x³ might overflow a small dtype."""
    x = anp.clip(x, -55.0, 55.0)
    return x, 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


@derivative(lambda g, ans, x: g * _gelu_slope(x))
def _gelu(x: Any) -> Any:
    return np.maximum(x, -55.0) * _sigmoid(_bend(x)[1])


def _gelu_slope(x: Any) -> Any:
    x, v = _bend(x)
    return _sigmoid(v) + x * _sigmoid_slope(v) * (2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))


def sigmoid(x: Any) -> Any:
    r"""Logistic function, :math:`σ(x) = 1/(1 + e^{-x})`, relatively exact for large negative x too.

    Parameters
    ----------
    x : array_like, any shape
        Real numbers.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`, between 0 and 1.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return _sigmoid(real_numbers("sigmoid", x))


# σ(x) = e^min(x, 0) / (1 + e⁻|x|) and σ'(x) = σ(x) σ(-x) = e⁻|x| / (1 + e⁻|x|)²: nothing overflows, and small
# numbers have all their digits.
@derivative(lambda g, ans, x: g * _sigmoid_slope(x))
def _sigmoid(x: Any) -> Any:
    return np.exp(np.minimum(x, 0.0)) / (1.0 + np.exp(-abs(x)))


@derivative(lambda g, ans, x: g * (-ans * np.tanh(x / 2)))
def _sigmoid_slope(x: Any) -> Any:
    e = np.exp(-abs(x))
    return e / (1.0 + e) ** 2


def softplus(x: Any) -> Any:
    r"""Smooth rectifier, :math:`\log(1 + e^x)`; ``-softplus(-x)`` is the logarithm of `sigmoid`.

    Parameters
    ----------
    x : array_like, any shape
        Real numbers.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`.

    Examples
    --------
    >>> softplus(np.array([-1000.0, 0.0, 10.0])).round(4)
    array([ 0.    ,  0.6931, 10.    ])
    """
    return _softplus(real_numbers("softplus", x))


@derivative(lambda g, ans, x: g * _sigmoid(x))
def _softplus(x: Any) -> Any:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-abs(x)))


def softmax(x: Any, axis: int | tuple[int, ...] = -1) -> Any:
    r"""Probabilities from scores, :math:`e^{x_i} / \sum_j e^{x_j}`.

    Parameters
    ----------
    x : array_like, at least 1-D
        Scores. The last axis holds the classes: samples are rows.
    axis : int or tuple of int
        The axis (or axes) along which the result adds up to 1, of at least one class.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0], [1000.0, -1000.0]]))
    array([[0.5, 0.5], [1. , 0. ]])
    """
    return in_single(_softmax, real_numbers("softmax", x), axis)


@derivative(lambda g, ans, x, axis: ans * (g - (g * ans).sum(axis=axis, keepdims=True)))
def _softmax(x: Any, axis: int | tuple[int, ...]) -> Any:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def logsoftmax(x: Any, axis: int | tuple[int, ...] = -1) -> Any:
    r"""Logarithm of `softmax`, :math:`x_i - \log \sum_j e^{x_j}`, exact where the probability underflows.

    Parameters
    ----------
    x : array_like, at least 1-D
        Scores. The last axis holds the classes: samples are rows.
    axis : int or tuple of int
        The axis (or axes) along which the probabilities add up to 1.

    Returns
    -------
    array
        Of the shape and floating dtype of `x`.

    Examples
    --------
    >>> logsoftmax(np.array([1000.0, -1000.0]))
    array([    0., -2000.])
    """
    return in_single(_logsoftmax, real_numbers("logsoftmax", x), axis)


@derivative(lambda g, ans, x, axis: g - np.exp(ans) * g.sum(axis=axis, keepdims=True))
def _logsoftmax(x: Any, axis: int | tuple[int, ...]) -> Any:
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def logsumexp(x: Any, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    r"""Logarithm of a sum of exponentials, :math:`\log \sum_j e^{x_j}`, which never overflows.

    Parameters
    ----------
    x : array_like, any shape, not empty along the axes
        Real numbers; a sum may have a share of 0, whose logarithm is -∞.
    axis : int, tuple of int or None, default None
        The axis (or axes) of the sum; None is all of them.
    keepdims : bool, default False
        Whether the axes stay, with length 1.

    Returns
    -------
    array or number
        Of the floating dtype of `x`.

    Notes
    -----
    `scipy.special.logsumexp` does the same outside a loss. With weights b it is
    ``logsumexp(x + np.log(b))``.

    Examples
    --------
    >>> logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]), axis=1).round(4)
    array([1000.6931,    0.    ])
    """
    total = in_single(_logsumexp, real_numbers("logsumexp", x), axis)
    return total if keepdims else total.sum(axis=axis)


def _shares(g: Any, ans: Any, x: Any, axis: Any) -> Any:
    share = part_of(x, ans)
    return g * (share / share.sum(axis=axis, keepdims=True))


@derivative(_shares)
def _logsumexp(x: Any, axis: int | tuple[int, ...] | None) -> Any:
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):  # the logarithm of nothing
        return top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True))


def array(x: Any, dtype: Any = None) -> Any:
    """Make a new array of numbers, or of nested lists of them, that are under differentiation or not.

    `numpy.array` asks each element of a list for a plain number, whose gradient would be lost, so that it is
    refused in a loss. This gives the same array, in a gradient and outside of one.

    Parameters
    ----------
    x : array_like
        Numbers and arrays, recorded or not, in lists and tuples to any depth.
    dtype : dtype, optional
        The dtype. Without one it is that which holds all of `x`.

    Returns
    -------
    ndarray
        The array; in a gradient one that is recorded, if anything in `x` is.

    Raises
    ------
    ValueError
        If the lists are not of one length, or the arrays not of one shape.
    TypeError
        For what is no number.

    Examples
    --------
    >>> from minidiff import gradient
    >>> def turned(angle):
    ...     c, s = np.cos(angle), np.sin(angle)
    ...     return (array([[c, -s], [s, c]]) @ array([1.0, 0.0]))[1]
    >>> turned(0.0), gradient(turned, 0.0)
    (np.float64(0.0), (np.float64(1.0),))
    """
    return made_array(x, dtype)


def zeros(shape: Any, dtype: Any = float) -> Any:
    """Zeros to be filled: as `numpy.zeros`, and what is under differentiation may be assigned to it.

    A plain array cannot hold recorded values. In a gradient this makes one that can. (In a function that is
    `compiled` by its arguments write ``np.zeros_like(x, shape=n)`` of one of them.)

    Parameters
    ----------
    shape : int or tuple of int
        The shape.
    dtype : dtype, default: float
        The dtype. One of whole numbers or booleans gives a plain array.

    Returns
    -------
    ndarray
        The array; in a gradient one that is recorded.

    Examples
    --------
    >>> from minidiff import gradient
    >>> def fall(v):
    ...     height = zeros(4)
    ...     for t in range(3):
    ...         height[t + 1] = height[t] + v - t
    ...     return height[-1] ** 2
    >>> fall(2.0), gradient(fall, 2.0)
    (np.float64(9.0), (np.float64(18.0),))
    """
    return made_zeros(shape, dtype)
