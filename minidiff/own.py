"""Derivatives of a user's own functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from numbers import Number
from types import FunctionType
from typing import Any

import numpy as np

from minidiff import tracing

__all__ = ["derivative"]


def derivative(*rules: Any, jointly: Callable[..., Any] | None = None) -> Any:
    r"""Give a function a derivative of its own: it is recorded as one call, whatever it calls itself.

    Parameters
    ----------
    *rules : callable or None
        One for each positional argument, ``rule(g, ans, *arguments, **keywords)``: the gradient with respect
        to that argument, of its shape, for a gradient ``g`` of the result ``ans`` (tuples, where the function
        gives several). None where there is none. Or one class, for what is to be kept for the way back:
        ``forward(self, *arguments, **keywords)`` gives the result and keeps what it likes in `self`, and
        ``backward(self, g, ans, *arguments, **keywords)`` gives a gradient, or a tuple of them, one for each
        positional argument. Each call has an instance of its own.
    jointly : callable, optional
        In place of rules, for a function of any number of arguments: ``jointly(argnums, g, ans, *arguments,
        **keywords)`` lists the gradients with respect to the arguments at the positions `argnums`.

    Returns
    -------
    callable
        A decorator; of a class, the function.

    Raises
    ------
    TypeError
        If a rule cannot be called, there are more rules than arguments, or a class lacks a method.
    NotImplementedError
        From the gradient, with the function's name: where there is no rule for an argument under
        differentiation, or where a rule gives another shape than that of its argument.

    Notes
    -----
    Where the argument was broadcast, a rule sums over what was repeated. Complex gradients are conjugated as
    autograd does: ``g`` times the derivative, for a holomorphic function.

    A derivative has a derivative if its rules are made of functions that have one. So for second derivatives
    `forward` runs once more, on values under differentiation, and what it keeps then counts as computed.

    `check_gradient` compares a derivative, and that of the derivative, with differences. `compiled` writes
    down what the function itself calls: one that branches on values, or calls SciPy's functions written in
    Python, it refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import check_gradient, derivative, gradient, hessian
    >>> @derivative(lambda g, ans, x: g / (1 + np.abs(x)) ** 2)
    ... def softsign(x):
    ...     return x / (1 + np.abs(x))
    >>> gradient(softsign, 1.0), hessian(softsign, 1.0)
    ((np.float64(0.25),), array(-0.25))

    A root is found by steps that need no derivative: it has one by the theorem of implicit functions.

    >>> @derivative(lambda g, ans, a: g / (1 + 1 / ans))
    ... def root(a):  # of x + log x = a
    ...     x = np.ones_like(a)
    ...     for _ in range(50):
    ...         x = x * (1 + a - np.log(x)) / (1 + x)
    ...     return x
    >>> check_gradient(root, np.array([0.5, 2.0]))

    The inverse is kept for the way back.

    >>> @derivative
    ... class solve:
    ...     def forward(self, A, b):
    ...         self.inverse = np.linalg.inv(A)
    ...         return self.inverse @ b
    ...
    ...     def backward(self, g, ans, A, b):
    ...         h = self.inverse.T @ g
    ...         return -np.outer(h, ans), h
    >>> check_gradient(solve, np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([1.0, -1.0]))
    """
    if len(rules) == 1 and isinstance(rules[0], type):
        return _keeping(rules[0])
    if bool(rules) == (jointly is not None):
        raise TypeError("derivative takes a rule for each argument, or a class, or jointly=.")
    f = rules[0] if len(rules) == 1 else None
    if isinstance(f, FunctionType) and f.__name__ != "<lambda>" and _places(f) < 3:  # the function itself
        raise TypeError(
            "derivative decorates a function, and lacks its rules: write @derivative(lambda g, ans, x: …) "
            "above it."
        )
    for i, rule in enumerate((*rules, jointly)):
        if not (callable(rule) or rule is None):
            raise TypeError(f"derivative: rule {i} must be callable or None, got {rule!r:.60}.")

    def separately(argnums: Any, *call: Any, **keywords: Any) -> list[Any]:
        chosen = [rules[i] if i < len(rules) else None for i in argnums]
        return [rule and rule(*call, **keywords) for rule in chosen]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            raise TypeError(f"derivative decorates a function, got {function!r:.60}.")
        most = _places(function)
        if len(rules) > most:
            name = getattr(function, "__name__", "the function")
            raise TypeError(f"derivative: {name} takes {most} arguments by position, got {len(rules)} rules.")
        made = _recorded(function, jointly or separately, inspect.signature(function))
        vars(made)["__rules__"] = *rules, jointly  # for `compiled`, which asks what a loss reaches
        return made

    return decorate


def _keeping(kind: Any) -> Callable[..., Any]:
    """Make a function of a class that keeps something between `forward` and `backward`."""
    for name in ("forward", "backward"):
        if not callable(getattr(kind, name, None)):
            raise TypeError(f"derivative: {kind.__name__} needs a method {name}.")

    def forward(kept: Any, *arguments: Any, **keywords: Any) -> Any:
        return kept.forward(*arguments, **keywords)

    forward.__name__, forward.__module__ = kind.__name__, kind.__module__

    def backward(argnums: Any, g: Any, ans: Any, kept: Any, *arguments: Any, **keywords: Any) -> list[Any]:
        if any(map(tracing.is_box, arguments)):
            kept = kind()
            kept.forward(*arguments, **keywords)
        gradients = kept.backward(g, ans, *arguments, **keywords)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return [gradients[i - 1] if i <= len(gradients) else None for i in argnums]

    call = _recorded(forward, backward, inspect.signature(kind.forward))
    return wraps(kind, updated=())(lambda *args, **kwargs: call(kind(), *args, **kwargs))


def _recorded(
    function: Callable[..., Any], jointly: Callable[..., Any], signature: inspect.Signature
) -> Callable[..., Any]:
    def checked(argnums: Any, g: Any, ans: Any, *arguments: Any, **keywords: Any) -> list[Any]:
        def of(g: Any) -> list[Any]:
            g = _copied(tracing.map_container(_copied, g))
            try:
                gradients = list(jointly(argnums, g, ans, *arguments, **keywords))
            except np.linalg.LinAlgError:
                raise
            except (LookupError, TypeError, ValueError, AssertionError) as error:
                raise NotImplementedError(
                    "its rule, called as rule(g, ans, *arguments, **keywords), raised "
                    f"{type(error).__name__}: {error}"
                ) from error
            if len(gradients) != len(argnums):
                raise ValueError(f"{len(argnums)} gradients are needed, there came {len(gradients)}")
            return [_checked(h, i, ans, arguments) for h, i in zip(gradients, argnums, strict=True)]

        return tracing.by_row(of, g)

    @wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        results = result if isinstance(result, (list, tuple)) else (result,)
        if any(tracing.is_recorded(x) and x._trace >= _within.get() for x in results):
            raise TypeError(
                f"{tracing.name_of(function)} gives what depends on a value under differentiation that is "
                "none of its arguments (a parameter that it knows by name): that gradient would be lost. "
                "Pass it as an argument, with a rule of its own."
            )
        return result

    recorded, plain = (tracing.derivative(jointly=checked)(f) for f in (alone, function))

    @wraps(function)
    def by_position(*args: Any, **kwargs: Any) -> Any:
        if any(map(tracing.is_box, kwargs.values())):
            bound = signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        trace = max([x._trace for x in args if tracing.is_box(x)], default=-1)
        if trace < 0:
            return plain(*args, **kwargs)
        token = _within.set(trace)
        try:
            return recorded(*args, **kwargs)
        finally:
            _within.reset(token)

    return by_position


# The trace that records the call in progress.
_within: ContextVar[int] = ContextVar("within", default=0)


def _copied(g: Any) -> Any:
    """Give a gradient for the user's rule, which may write into it: others may have this array, too."""
    return g.copy() if type(g) is np.ndarray else g


def _checked(h: Any, i: int, ans: Any, arguments: tuple[Any, ...]) -> Any:
    """Check the gradient with respect to an argument, and give one that shares no memory with the call."""
    if h is None:
        raise NotImplementedError(f"there is no rule for argument {i}, or it gives None")
    if not (hasattr(h, "dtype") or isinstance(h, Number)):
        several = ": give a rule for each argument" if isinstance(h, (tuple, list)) else ""
        raise ValueError(f"the rule for argument {i} gives a {type(h).__name__}, and not an array{several}")
    if np.shape(h) != np.shape(arguments[i]):
        raise ValueError(
            f"the rule for argument {i} gives the shape {np.shape(h)} where that has "
            f"{np.shape(arguments[i])}: sum over the axes along which it was broadcast"
        )
    return h.copy() if type(h) is np.ndarray else h  # the rule may keep its own


def _places(function: Callable[..., Any]) -> float:
    """Count the arguments that a function takes by position."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return float("inf")
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
