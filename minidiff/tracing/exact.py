"""NumPy functions with NumPy's own values, and the derivatives of compositions of others.

So what NumPy refuses is refused in its words, and a result has its bits, its dtype and its type, whatever the
options: a composition needs to be right only in what it gives for a derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from autograd.tracer import getval

from minidiff.checks import is_complex, takes
from minidiff.tracing.record import constant, derivative, is_box
from minidiff.tracing.refusals import name_of
from minidiff.tracing.table import COMPOSITES, RULES, enter, listed, shown

Composition = Callable[..., Any]


@derivative(lambda g, ans, written, value: g, again=lambda written, value: written)
def _valued(written: Any, value: Any) -> Any:
    return value


def pinned(written: Any, value: Any) -> Any:
    """Give NumPy's own `value` the derivative of `written`, which equals it but for dtype and kept axes."""
    if isinstance(value, (tuple, list)):
        items = [pinned(w, v) for w, v in zip(written, value, strict=True)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if not is_box(written) or getattr(value, "dtype", np.dtype(int)).kind not in "fc":
        return value
    if written.shape != value.shape:
        if written.size == value.size:
            written = written.reshape(value.shape)
        else:  # where nothing has a derivative, a 0 stands for all
            written = written + np.zeros(value.shape)
    return _valued(written, value)


def _as_outside(rule: Any) -> Any:
    """Let a rule that looks at values give the same values within another gradient, where it cannot look."""

    def nested(g: Any, ans: Any, *arguments: Any, **options: Any) -> Any:
        gradient = rule(g, ans, *arguments, **options)
        if getval(ans) is ans:
            return gradient
        return pinned(gradient, rule(*constant((g, ans, *arguments)), **constant(options)))

    return nested


for _function in (np.prod, np.cumprod):
    enter(_function, *map(_as_outside, RULES[_function]))


def verified(written: Any, value: Any, tolerance: Any, words: str) -> Any:
    """Pin `written` to `value`, and refuse with `words` where they differ: in a program at each call."""
    return pinned(written, _verified(constant(written), value, tolerance, words))


@listed
def _verified(found: Any, value: Any, tolerance: Any, words: str) -> Any:
    if not np.allclose(found, value, tolerance, tolerance, equal_nan=True):
        raise NotImplementedError(words)
    return value


def laid(x: Any, order: Any, like: Any = None) -> Any:
    """Give a result in the order of memory that NumPy's own has: what is a view of it depends on that.

    Parameters
    ----------
    x : array
        The result, recorded or not.
    order : {"C", "F", "K", "A"}
        The order; "K" and "A" look at `like`.
    like : array, optional
        An array of the same shape.
    """
    value = shown(constant(x))
    if np.ndim(value) < 2:
        return x if np.ndim(value) == 0 or value.flags.contiguous else np.copy(x)
    like = value if like is None else shown(constant(like))
    if value.flags.c_contiguous and (order == "C" or (order != "F" and like.flags.c_contiguous)):
        return x
    model = np.empty_like(like, value.dtype, order)
    if all(n < 2 or a == b for n, a, b in zip(value.shape, value.strides, model.strides, strict=True)):
        return x
    axes = sorted(range(value.ndim), key=lambda i: -model.strides[i])
    return np.transpose(np.copy(np.transpose(x, axes), order="C"), np.argsort(axes))


def exactly(*functions: Any) -> Callable[[Composition], Composition]:
    """Let the derivative of NumPy functions be that of a composition, which need not know `out` and `dtype`.

    With `overwrite_input` NumPy would change the caller's array, so it is left out.
    """

    def decorate(composition: Composition) -> Composition:
        for function in functions:
            COMPOSITES[function] = Exact(function, composition)
        return composition

    return decorate


def _holds_complex(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_holds_complex, x))
    return is_complex(x)


class Exact:
    """A function that gives the value of `function`, with the derivative of `composition`."""

    def __init__(self, function: Any, composition: Composition) -> None:
        self._function, self._composition = function, composition

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call `function` with plain values and `composition` with recorded ones."""
        if options:
            options = self._checked(args, options)
        value = self._function(*constant(args), **constant(options))
        options = {key: x for key, x in options.items() if key not in ("dtype", "out")}  # the value has them
        try:
            with np.errstate(all="ignore"):
                return pinned(self._composition(*args, **options), value)
        except TypeError:
            if takes(self._composition, *args, **options):
                raise
            words = ", ".join(f"{key}={x!r:.40}" for key, x in options.items())
            name = name_of(self._function)
            raise NotImplementedError(f"{name} has no gradient with {words}. Write it otherwise.") from None

    def _checked(self, args: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Give the options with which NumPy changes no array of the caller's and keeps complex numbers."""
        options = {key: x for key, x in options.items() if key != "overwrite_input" and x is not np._NoValue}
        if np.dtype(options.get("dtype") or complex).kind == "f" and _holds_complex(args):
            raise NotImplementedError(
                f"{name_of(self._function)} of complex numbers has no gradient with a real dtype=. "
                "Take np.real(x) first."
            )
        return options
