"""Gradients beside differences: whether a derivative is the right one."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.checks import described, generator, integer, number, takes
from minidiff.gradient import (
    _check_call,
    _check_result,
    _named_leaves,
    _replaced,
    _variable,
    _with,
    gradient,
    hvp,
)
from minidiff.params import Param, Params

__all__ = ["check_gradient"]

_OF_OTHERS = {"eps", "epsilon", "step", "atol", "rtol"}


def check_gradient(
    f: Any, /, *args: Any, order: int = 2, tol: float | None = None, seed: int = 0, **constants: Any
) -> None:
    """Compare the derivatives of a function with central differences, along random directions.

    Parameters
    ----------
    f : callable
        Returns an array of any shape, or a number, real or complex. A sum of its elements with random
        weights is what is differentiated.
    *args : Params, or any arguments
        As for `gradient`: one `Params`, or the arguments of `f`, which are not changed.
    order : {2, 1}
        Up to which order: the gradient alone, or second derivatives too.
    tol : float, optional
        The relative difference that passes. Unless given it is 10·√ε of the arguments' coarsest dtype: 1.5e-7
        in float64, 0.0035 in float32.
    seed : int, default 0
        Of the directions and weights.
    **constants
        Passed on to `f`, and not differentiated by.

    Raises
    ------
    AssertionError
        If the two differ, or one is not finite. It names the argument or the parameter, and shows both.
    TypeError, ValueError
        As `gradient` does, and for another order or seed.

    Notes
    -----
    The function must be smooth about the arguments, and give the same value for the same arguments. About
    is some 1e-5, or 0.01 in float32, times the largest number of an argument, if that is above 1: near 0,
    where a function such as the logarithm ends, scale numbers up that are as small as this.
    What rounding makes of numbers about 1 passes as well: scale a function up whose results are far smaller.
    Parameters move while it runs, and are back where they were when it returns or raises.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import check_gradient, dropgrad, param, params
    >>> W = param([[1.0, 2.0]])
    >>> check_gradient(lambda: np.tanh(W @ np.ones(2)), params(W))
    >>> check_gradient(lambda x: x * dropgrad(x), 3.0, order=1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: the gradient by argument 0 is -1.029164, but differences give ...
    """
    points = [x for x in args if not isinstance(x, Params)]
    if (others := constants.keys() & _OF_OTHERS) and callable(f) and not takes(f, *points, **constants):
        raise TypeError(
            f"check_gradient has no option {min(others)!r}: it chooses its steps itself, and tol= is the "
            "relative difference that passes"
        )
    order, f = integer("order", order, 1), _with(constants, f)
    if order > 2:
        raise ValueError(f"order must be 1 or 2, got {order}")
    rng = generator("seed", seed)
    _check_call(f, args, "check_gradient")
    named = [(name, x) for name, x in _named_leaves(args) if _variable(x) is not None]
    values = [np.array(x.value if isinstance(x, Param) else _variable(x)) for _, x in named]
    if not values:
        raise ValueError(
            f"check_gradient: nothing to differentiate by in {described(args)}: give numbers and arrays, or "
            "the parameters that f reaches, params(model)"
        )
    # Where derivatives are taken: the parameters themselves, or copies of the numbers and arrays.
    ps = args[0] if isinstance(args[0], Params) else None
    at: Any = [x.copy() for x in values] if ps is None else ps
    weights: list[Any] = []

    def total(xs: Any = ()) -> Any:
        remaining = iter(xs)
        result = f() if ps is not None else f(*_replaced(args, lambda _: next(remaining)))
        if not weights:
            _check_result("check_gradient", result)
            weights.append(_normal(rng, np.shape(result), True))
        return np.sum(np.real(np.conj(weights[0]) * result))

    def gradients() -> list[Any]:
        g = gradient(total, at)
        g = g[0] if ps is None else g.values()
        return [0 * x if h is None else h for x, h in zip(values, g, strict=True)]

    def products(i: int, v: Any) -> Any:
        if ps is not None:
            return hvp(total, ps, {ps[i]: v}).values()
        return hvp(total, at, [v if j == i else None for j in range(len(at))])

    onto = [_normal(rng, x.shape, x.dtype.kind == "c") for x in values]
    eps = max(float(np.finfo(x.dtype).eps) for x in values)
    tol = 10 * eps**0.5 if tol is None else number("tol", tol, "[0, inf)")
    for i, ((name, _), x) in enumerate(zip(named, values, strict=True)):
        v = _normal(rng, x.shape, x.dtype.kind == "c").astype(x.dtype)
        h = eps ** (1 / 3) * max(1.0, float(np.abs(x).max(initial=0.0)))
        slope, bend = _dot([gradients()[i]], [v]), _dot(products(i, v), onto) if order == 2 else 0.0
        sides = []
        try:
            for step in (h, -h, h / 2, -h / 2):
                at[i][...] = x + step * v
                sides.append((float(total(at)), _dot(gradients(), onto) if order == 2 else 0.0))
        finally:
            at[i][...] = x
        for what, found, *ends in zip(("gradient", "second derivative"), (slope, bend), *sides, strict=True):
            differences, allowed = _differences(found, ends, h, eps, tol)
            if not abs(found - differences) <= allowed < np.inf:
                raise AssertionError(
                    f"the {what} by {name} is {found:.7g}, but differences give {differences:.7g} "
                    "(both along a random direction)"
                )


def _differences(found: float, ends: list[float], h: float, eps: float, tol: float) -> tuple[float, float]:
    """Give the slope of values at h, -h, h/2 and -h/2, and how far the one found may be from it."""
    coarse, fine = (ends[0] - ends[1]) / (2 * h), (ends[2] - ends[3]) / h
    differences = fine + (fine - coarse) / 3  # the error that goes with h² cancels
    allowed = abs(fine - coarse)  # how far the two differences disagree
    allowed += tol * max(abs(found), abs(differences))
    # What rounding may add, also of numbers on the way to the result, which may be about 1.
    allowed += 10 * eps / h * max(1.0, *map(abs, ends))
    return differences, allowed


def _normal(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> Any:
    real, imaginary = rng.normal(size=shape), rng.normal(size=shape)
    return real + 1j * imaginary if is_complex else np.asarray(real)


def _dot(gs: list[Any], vs: list[Any]) -> float:
    return float(sum(np.sum(np.real(np.conj(g) * v), dtype=float) for g, v in zip(gs, vs, strict=True)))
