"""Derivatives of a user's own functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from copy import copy
from functools import partial, wraps
from numbers import Number
from types import FunctionType
from typing import Any

import numpy as np

from minidiff import tracing
from minidiff.checks import add_note, share_memory, takes
from minidiff.tracing import Kept

__all__ = ["derivative"]


def derivative(*rules: Any, jointly: Callable[..., Any] | None = None) -> Any:
    r"""Give a function a derivative of its own: it is recorded as one call, whatever it calls itself.

    Parameters
    ----------
    *rules : callable or None
        One for each positional argument, ``rule(g, ans, *arguments, **keywords)``: the gradient with respect
        to that argument, of its shape, for a gradient ``g`` of the result ``ans``, in its form if that is of
        several arrays. None where there is none. Or one class, for what is to be kept for the way back:
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
    A function may give several results in a tuple, list or dict, and beside them what is no array of numbers:
    there ``g`` has None. Neither it nor a rule can write into an argument under differentiation (C code that
    asks for writable memory needs a copy), and results that share memory cannot be changed in place.

    Where the argument was broadcast, a rule sums over what was repeated. Complex gradients are conjugated as
    autograd does: ``g`` times the derivative, for a holomorphic function.

    A derivative has a derivative if its rules are made of functions that have one. So for second derivatives
    `forward` runs once more, on values under differentiation, and what it keeps then counts as computed.

    `check_gradient` compares a derivative, and that of the derivative, with differences. `compiled` writes
    down what the function and its rules call. Where it cannot (a branch on values, SciPy's functions written
    in Python), the program calls the function itself, and its rules, with arrays that it cannot write into. A
    class it has to see inside.

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

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            raise TypeError(f"derivative decorates a function, got {function!r:.60}.")
        most = _places(function)
        if len(rules) > most:
            name = getattr(function, "__name__", "the function")
            raise TypeError(f"derivative: {name} takes {most} arguments by position, got {len(rules)} rules.")

        def by_rules(argnums: Any, _: None, *call: Any, **keywords: Any) -> list[Any]:
            if jointly is not None:
                return list(tracing.called(function, (argnums, *call), keywords, jointly, 1))
            chosen = [rules[i] if i < len(rules) else None for i in argnums]
            return [rule and tracing.called(function, call, keywords, rule) for rule in chosen]

        call = wraps(function)(lambda _, *args, **kwargs: tracing.called(function, args, kwargs))
        made = _recorded(call, by_rules, inspect.signature(function))
        vars(made)["__rules__"] = *rules, jointly  # for `compiled`, which asks what a loss reaches
        return made

    return decorate


def _keeping(kind: Any) -> Callable[..., Any]:
    """Make a function of a class that keeps something between `forward` and `backward`."""
    for name in ("forward", "backward"):
        if not callable(getattr(kind, name, None)):
            raise TypeError(f"derivative: {kind.__name__} needs a method {name}.")
        if isinstance(inspect.getattr_static(kind, name), (staticmethod, classmethod)):
            raise TypeError(
                f"derivative: {kind.__name__}.{name} is a method of an instance, which keeps what PyTorch's "
                "ctx does: forward(self, x) and backward(self, g, ans, x), without @staticmethod."
            )
    if not takes(kind):
        raise TypeError(
            f"derivative: {kind.__name__}() is made anew for each call, without arguments. Settings are "
            "arguments of the call: forward(self, x, k) and backward(self, g, ans, x, k)."
        )

    def forward(kept: Any, *arguments: Any, **keywords: Any) -> Any:
        return kept.forward(*arguments, **keywords)

    def backward(argnums: Any, kept: Any, g: Any, ans: Any, *arguments: Any, **keywords: Any) -> list[Any]:
        if any(map(tracing.is_box, arguments)):
            kept = kind()
            kept.forward(*arguments, **keywords)
        gradients = kept.backward(g, ans, *arguments, **keywords)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return [gradients[i] if i < len(gradients) else None for i in argnums]

    _, *parameters = inspect.signature(kind.forward).parameters.values()
    return _recorded(wraps(kind, updated=())(forward), backward, inspect.Signature(parameters), kind)


def _recorded(
    function: Callable[..., Any],
    jointly: Callable[..., Any],
    signature: inspect.Signature,
    make: Callable[[], Any] = lambda: None,
) -> Callable[..., Any]:
    """Make the function that is recorded. What `make` gives goes to `function` and `jointly`, too."""
    recorded = tracing.derivative(jointly=_way_back(jointly))(_way_there(function))

    @wraps(function)
    def by_position(*args: Any, **kwargs: Any) -> Any:
        if any(map(tracing.is_box, kwargs.values())):
            bound = signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        trace = max([x._trace for x in (*args, *kwargs.values()) if tracing.is_box(x)], default=-1)
        _check_containers(function, (*args, *kwargs.values()), trace)
        if trace < 0:
            by_name = {name: tracing.lift(x) if tracing.is_box(x) else x for name, x in kwargs.items()}
            return function(make(), *tracing.lift(args), **by_name)
        call = Kept()  # what `make` gave, the form of the result, and which arguments are recorded
        call.values = make(), None, {i for i, x in enumerate(args) if tracing.is_box(x)}
        token = _within.set(trace)
        try:
            result = recorded(call, *args, **kwargs)
        finally:
            _within.reset(token)
        return _formed(call.values[1], result, others=True)

    return by_position


def _way_there(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function of a call and its plain arguments that gives the parts of the result."""

    @wraps(function)
    def run(call: Kept, *args: Any, **kwargs: Any) -> Any:
        kept, _, live = call.values
        given = _given(args, live)
        try:
            result = function(kept, *given, **kwargs)
        except (ValueError, TypeError) as error:
            if any(words in str(error) for words in ("read-only", "readonly", "not writ", "WRITEABLE")):
                add_note(
                    error,
                    f"{tracing.name_of(function)} may not write into an argument under differentiation, a "
                    "value of the loss: take a copy first",
                )
            raise
        form, parts = _split(function, result)
        call.values = kept, form, live
        return _writeable(parts[0], args) if type(form) is _Place else tuple(_apart(parts, given)) or 0.0

    return run


def _way_back(jointly: Callable[..., Any]) -> Callable[..., Any]:
    """Make the rule that gives the gradients by the arguments, from one of the result's parts."""

    def rule(argnums: Any, g: Any, ans: Any, call: Kept, *arguments: Any, **keywords: Any) -> list[Any]:
        kept, form, live = call.values
        given, places = _given(arguments, live), [i - 1 for i in argnums]

        def of(g: Any) -> list[Any]:
            try:
                g = _formed(form, tracing.copied(g), others=False)  # a rule may write into it
                answer = _formed(form, tracing.read_only(ans), others=True)
                gradients = list(jointly(places, kept, g, answer, *given, **keywords))
            except np.linalg.LinAlgError:
                raise
            except (LookupError, TypeError, ValueError, AssertionError) as error:
                message = f"{type(error).__name__}: {error}"
                if any(map(tracing.is_box, (g, ans, *arguments))):
                    message = message.rstrip(".") + (
                        ". For a second derivative the rule itself is differentiated, so what it calls needs "
                        "a minidiff.derivative, too; check_gradient(…, order=1) checks the first alone"
                    )
                raise NotImplementedError(
                    f"its rule, called as rule(g, ans, *arguments, **keywords), raised {message}"
                ) from error
            if len(gradients) != len(places):
                raise ValueError(f"{len(places)} gradients are needed, there came {len(gradients)}")
            return [_checked(h, i, arguments) for h, i in zip(gradients, places, strict=True)]

        return tracing.by_row(of, g)

    return rule


def _given(arguments: tuple[Any, ...], live: set[int]) -> list[Any]:
    """Give the arguments for what is the user's, the recorded ones as what cannot be written into."""
    return [tracing.read_only(x) if i in live else x for i, x in enumerate(arguments)]


# The trace that records the call in progress.
_within: ContextVar[int] = ContextVar("within", default=0)


_CONTAINERS = list, tuple, dict  # compared with the type: isinstance takes longer of what is recorded


class _Place(int):
    """Stands for an array in the form of a result: its place among those that have a gradient."""


def _mapped(f: Callable[[Any], Any], x: Any) -> Any:
    """Apply `f` to what is in lists, tuples and dicts, at any depth, or to what is none of them."""
    if not issubclass(type(x), _CONTAINERS):
        return f(x)
    parts = tracing.map_container(partial(_mapped, f), x)
    if type(parts) is dict is not type(x):
        (anew := copy(x)).update(parts)
        return anew
    return parts


def _split(function: Callable[..., Any], result: Any) -> tuple[Any, list[Any]]:
    """Give the form of what a function gave, with places in it, and the parts that belong there."""
    parts: list[Any] = []

    def place(x: Any) -> Any:
        x = tracing.lift(x)
        if tracing.is_recorded(x) and x._trace >= _within.get():
            raise TypeError(
                f"{tracing.name_of(function)} gives what depends on a value under differentiation that "
                "is none of its arguments (a parameter that it knows by name): that gradient would be "
                "lost. Pass it as an argument, with a rule of its own."
            )
        if not _has_gradient(x):
            return x
        parts.append(x)
        return _Place(len(parts) - 1)

    is_whole_number = isinstance(result, np.generic) and result.dtype.kind in "iub"
    form = _mapped(place, np.asarray(result) if is_whole_number else result)  # as an array of one
    if not parts:
        _mapped(partial(_check_plain, tracing.name_of(function)), form)
    return form, parts


def _formed(form: Any, parts: Any, *, others: bool) -> Any:
    """Give parts in the form of a result, with what else is in that, or None in its place."""
    if type(form) is _Place:
        return parts
    return _mapped(lambda x: parts[int(x)] if type(x) is _Place else x if others else None, form)


def _has_gradient(x: Any) -> bool:
    """Tell whether a gradient can be of this result; of whole numbers it can where they are an array."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "fciub"
    return isinstance(x, (float, complex)) or getattr(getattr(x, "dtype", None), "kind", "-") in "fc"


def _check_plain(name: str, x: Any) -> None:
    """Refuse what may hold a result, where there is no other."""
    if not (x is None or isinstance(x, (str, bytes, Number, np.generic))):
        raise TypeError(
            f"{name} gave a {type(x).__name__}, which cannot be differentiated. Give it plain arrays or "
            "numbers."
        )


def _check_containers(function: Callable[..., Any], arguments: tuple[Any, ...], trace: int) -> None:
    """Refuse containers that hold a value of this trace, or of one within it."""
    for x in arguments:
        if issubclass(type(x), _CONTAINERS) and _holds_recorded(x, trace):
            raise TypeError(
                f"{tracing.name_of(function)} got a value under differentiation in a list, tuple or dict, "
                "where no rule of it is for that: pass it as an argument of its own."
            )


def _holds_recorded(x: Any, trace: int) -> bool:
    """Tell whether a container holds a value of this trace, or of one within it."""
    if issubclass(type(x), _CONTAINERS):
        return any(_holds_recorded(item, trace) for item in (x.values() if isinstance(x, dict) else x))
    return tracing.is_box(x) and tracing.is_recorded(x := tracing.lift(x)) and x._trace >= trace


def _writeable(x: Any, args: Iterable[Any]) -> Any:
    """Give a result that shares memory with an argument as it would be had that not been read-only."""
    if type(x) is not np.ndarray or x.flags.writeable or 0 in x.strides:
        return x
    if any(a.flags.writeable and np.may_share_memory(x, a) for a in args if type(a) is np.ndarray):
        with suppress(ValueError):  # the user has made it read-only, or its memory is no array's
            x = x.view()
            x.flags.writeable = True
    return x


def _apart(parts: list[Any], given: list[Any]) -> list[Any]:
    """Make those of several results read-only that share memory: no change of one would reach the others."""
    arrays = [(i, a) for i, a in enumerate([*parts, *given]) if type(a) is np.ndarray]
    if not share_memory([a for _, a in arrays]):
        return parts
    shared = {i for i, a in arrays if any(np.may_share_memory(a, b) for j, b in arrays if j != i)}
    return [tracing.read_only(x) if i in shared else x for i, x in enumerate(parts)]


def _checked(h: Any, i: int, arguments: tuple[Any, ...]) -> Any:
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
