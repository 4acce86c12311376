"""Calls with a derivative of their own: solutions of equations, and what is computed anew on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from minidiff.checks import described, function, integer, is_ndarray, number, scipy
from minidiff.gradient import _leaves, dropgrad
from minidiff.tracing import (
    Leaf,
    Trace,
    backward,
    constant,
    derivative,
    history,
    is_box,
    is_recorded,
    map_container,
)
from minidiff.tracing.record import leaves_now, lift, standing, standing_now
from minidiff.tracing.table import shown

__all__ = ["fixed_point", "implicit_root", "recompute"]

_DENSE = 200  # up to this many unknowns the equation is solved by its matrix
_RESULTS = (np.ndarray, np.number, int, float, complex)


def implicit_root(f: Callable[..., Any], x: Any, *args: Any, tol: float | None = None) -> Any:
    """Give a solution of f(x, …) = 0, found by any solver, its derivative by the implicit function theorem.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` is the equation, as many real numbers as `x` has, in its shape.
    x : float or ndarray
        The solution, real. How it was found does not matter and is not differentiated.
    *args : any
        What the equation depends on, nested as for `gradient`. Parameters may be reached otherwise, too.
    tol : float, optional
        Where an element of f(x, …) is larger, `x` is no solution; relative to the largest element of `x` if
        that is above 1. Unless given, 5e-7 in double and 2e-3 in single precision.

    Returns
    -------
    ndarray
        `x`. Its derivative is -(∂f/∂x)⁻¹ ∂f/∂args, and has derivatives itself.

    Raises
    ------
    RuntimeError
        If the solver has not converged, f(x, …) is not zero; or, on the way back, GMRES.
    TypeError, ValueError
        If f(x, …) has another shape than `x`, or one is not real; or `f` uses a value under differentiation
        that is neither a parameter nor among `args`.
    LinAlgError
        On the way back, if ∂f/∂x is singular.
    ImportError
        On the way back, for more than 200 unknowns, if there is no SciPy.

    Notes
    -----
    The linear equation is solved by its matrix, or, for more than 200 unknowns, by GMRES with products. A
    minimiser x of a function g is a root of its gradient, ``f = lambda x, a: gradient(g, x, a)[0]``.

    `compiled` refuses a loss that calls this: whether the equation is solved is seen by its values.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import dropgrad, gradient, hessian, implicit_root
    >>> root = lambda a: implicit_root(lambda x, a: x**2 - a, np.sqrt(dropgrad(a)), a)
    >>> gradient(root, 4.0), hessian(root, 4.0)
    ((np.float64(0.25),), array(-0.03125))

    With SciPy's `root` and `minimize` in a loss:

    >>> from scipy import optimize
    >>> equation = lambda x, a: x**3 + x - a
    >>> found = lambda a: optimize.root(equation, [1.0], dropgrad(a)).x
    >>> loss = lambda a: np.sum(implicit_root(equation, found(a), a) ** 2)
    >>> gradient(loss, 10.0)[0].round(6)  # 2 x / (3 x² + 1), x = 2
    np.float64(0.307692)
    >>> cost = lambda x, a: np.sum((x - a) ** 2) + np.sum(x) ** 2
    >>> slope = lambda x, a: gradient(cost, x, a)[0]
    >>> found = lambda a: optimize.minimize(cost, [0.0, 0.0], dropgrad(a)).x
    >>> first = lambda a: implicit_root(slope, found(a), a, tol=1e-5)[0]
    >>> gradient(first, np.array([1.0, 2.0]))[0].round(4)
    array([ 0.6667, -0.3333])

    References
    ----------
    M. Blondel and others, "Efficient and Modular Implicit Differentiation", 2022.
    """
    x = _floats("implicit_root", x)[()]
    call = _Call(function("f", f), args, (x,))
    left, size = np.asarray(call.result), max(1.0, float(np.max(np.abs(x), initial=0.0)))
    if left.shape != x.shape or left.dtype.kind not in "fiu":
        raise ValueError(f"f(x, …) must be real and of the shape {x.shape} of x, got {described(left)}")
    most = size * float(np.finfo(x.dtype).eps ** 0.4 if tol is None else number("tol", tol, "[0, inf)"))
    if not np.max(np.abs(left), initial=0.0) <= most:
        largest = f"{np.max(np.abs(left)):.3g}, above {most:.3g}"
        raise RuntimeError(
            f"the solver has not converged, or x is no solution: f(x, …) is up to {largest}. Give the solver "
            "a smaller tolerance, or raise tol"
        )
    return solution(call, *call.variables())


def fixed_point(f: Callable[..., Any], x: Any, *args: Any, tol: float | None = None, most: int = 1000) -> Any:
    """Find x with x = f(x, …) by iteration; the derivative is that of the solution, not of the iterations.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` gives real numbers in the shape of `x`. It must be a contraction.
    x : float or ndarray
        Where the iteration begins.
    *args : any
        As for `implicit_root`.
    tol : float, optional
        The iteration ends when no element moves by more; relative to the largest element of `x` if that is
        above 1. Unless given, 1e-12 in double and 5e-6 in single precision.
    most : int, default 1000
        The number of iterations after which it is an error.

    Returns
    -------
    ndarray
        The fixed point, with first and higher derivatives.

    Raises
    ------
    RuntimeError
        If the iteration has not converged.
    TypeError, ValueError
        As `implicit_root`.

    Notes
    -----
    The memory needed does not grow with the number of iterations. Where a better solver is at hand,
    ``implicit_root(lambda x, *args: f(x, *args) - x, solution, *args)`` takes what it found. `compiled`
    refuses a loss that calls either.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import fixed_point, gradient
    >>> heron = lambda x, a: (x + a / x) / 2
    >>> gradient(lambda a: fixed_point(heron, 1.0, a), 4.0)
    (np.float64(0.25),)
    """
    function("f", f)
    x, plain = _floats("fixed_point", x), dropgrad(args)
    eps = np.finfo(x.dtype).eps
    tol, enough = eps**0.76 if tol is None else number("tol", tol, "[0, inf)"), eps**0.4
    for _ in range(integer("most", most, 1)):
        before, x = x, np.array(dropgrad(f(x[()], *plain)))  # a copy: f may fill an array of its own
        if x.shape != before.shape:
            raise ValueError(f"f(x, …) must have the shape {before.shape} of x, got {described(x)}")
        if x.dtype.kind not in "fiub":
            raise TypeError(f"f(x, …) must give numbers as x is, {before.dtype}, got {described(x)}")
        moved = np.max(np.abs(x - before), initial=0.0)
        if moved <= tol * max(1.0, np.max(np.abs(x), initial=0.0)):
            return implicit_root(lambda x, *args: f(x, *args) - x, x, *args, tol=max(tol, enough))
    raise RuntimeError(f"fixed_point has not converged: the last of {most} iterations moved x by {moved:.3g}")


def recompute(f: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that keeps nothing of what it computes for the way back, and computes it again there.

    It saves memory for time: a chain of n layers in √n blocks, each under `recompute`, keeps √n results and
    the inside of one block, for one more run of the function.

    Parameters
    ----------
    f : callable
        Takes any arguments, nested as for `gradient`, and returns one array or number. It gives the same for
        the same arguments. Parameters may be reached otherwise.

    Returns
    -------
    callable
        The same function to all else, gradients of any order included.

    Raises
    ------
    TypeError
        By the function that is returned, if `f` returns something else, or uses a value under differentiation
        that is neither a parameter nor among its arguments. Also where a value that `f` has computed is used
        that has left it otherwise than by the result, in a list for one: its gradient would be lost.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import gradient, param, params, recompute
    >>> W = param([2.0, 3.0])
    >>> block = recompute(lambda h: np.tanh(W * np.tanh(W * h)))
    >>> np.round(gradient(lambda: np.sum(block(block(np.ones(2)))), params(W))[W], 4)
    array([0.0953, 0.0104])
    """
    function("f", f)

    @wraps(f)
    def again(*args: Any, **keywords: Any) -> Any:
        call = _Call(lambda args, keywords: f(*args, **keywords), (args, keywords))
        if not standing_now():
            result = np.asarray(call.result)
            # A keyword argument without recorded values is no variable: f may return it, as a buffer.
            variables = [*args, *(x for x in keywords.values() if any(map(is_box, _leaves(x))))]
            # Parameters are left out: they do not change meanwhile.
            given = [constant(x) for x in _leaves(variables) if not isinstance(x, Leaf)]
            if any(is_ndarray(x) and np.may_share_memory(result, x) for x in given):
                raise TypeError("recompute: f returns what it was given, or a view of it: return a copy")
        return recomputed(call, *call.variables())

    return again


def _floats(name: str, x: Any) -> Any:
    """Give x, whose values a program does not have, as an array of floating point numbers."""
    if standing_now():
        standing(np.zeros(0)).refuse(
            f"{name} looks at values, to see whether the equation is solved. Take the gradient of such a "
            "loss by gradient itself"
        )
    array = np.asarray(x := dropgrad(x))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}(f, x, …): x must be real numbers, got {described(x)}")
    return array + 0.0


class _Call:
    """A call as a function of its variables: parameters that it reaches, `first`, what is recorded in `args`.

    Attributes
    ----------
    result : ndarray or number
        What ``f(*first, *args)`` gives, of which nothing is recorded.
    """

    def __init__(self, f: Callable[..., Any], args: Any, first: tuple[Any, ...] = ()) -> None:
        self.f, self.args, self.first, self.ps = f, args, first, leaves_now()
        if len(values := self.variables()) > len(first):
            self.result, node, roots = self.run(constant(lift(values)), is_first=True)
        else:  # nothing to differentiate by: f may do what cannot be recorded, but not change x
            held = [np.broadcast_to(x, np.shape(x))[()] for x in first]
            self.result, node, roots = lift(f(*held, *args)), None, []
        if is_recorded(self.result) or not isinstance(shown(self.result), _RESULTS):
            raise TypeError(
                "the function must return an array or a number, and what it uses under differentiation must "
                f"be parameters or come as arguments; it returned {described(self.result)}"
            )
        used = _used(node, history(node) if node is not None else [])
        self.ps = [p for p, root in zip(self.ps, roots, strict=False) if id(root) in used]

    def variables(self) -> list[Any]:
        """List what it depends on, as it is under differentiation now."""
        return [*self.ps, *self.first, *filter(is_recorded, _leaves(self.args))]

    def run(self, values: Any, is_first: bool = False) -> tuple[Any, Any, list[Any]]:
        """Call it with values of the variables: give the result, its node, and the variables."""
        trace, n, k = Trace(keeps=is_first), len(self.ps), len(self.ps) + len(self.first)
        roots = [*map(trace.root, values[:n], self.ps), *map(trace.root, values[n:])]
        args = (*roots[n:k], *_replaced(self.args, iter(roots[k:])))
        return *trace.run(self.f, args), roots

    def way_back(self, values: Any, result: Any) -> Callable[[Any], list[Any]]:
        """Give the function from a gradient of the result to those of the variables."""
        try:
            value, node, roots = self.run(values)
        except Exception as error:
            raise RuntimeError(_SECOND_TIME.format(f"raised {type(error).__name__}: {error},")) from error
        calls = history(node) if node is not None else []
        is_other = not _used(node, calls).issuperset(map(id, roots[: len(self.ps)]))
        if is_other or not (standing_now() or _is_same(constant(result), constant(value))):
            what = "reaches other parameters" if is_other else "gave another result"
            raise RuntimeError(_SECOND_TIME.format(what))

        def back(g: Any) -> list[Any]:
            if node is None:
                return [np.zeros(np.shape(v)) for v in values]
            found = backward(node, g.astype(node.dtype), roots, calls)
            return [np.zeros(np.shape(v)) if h is None else h for h, v in zip(found, values, strict=True)]

        return back


_SECOND_TIME = (
    "the function {} the second time, on the way back. Does it use a variable of a loop? Keep its value: "
    "lambda h, w=w: h @ w. Does it draw random numbers? Pass them to it. Does it keep something from call "
    "to call? It must not."
)


def _used(node: Any, calls: Any) -> set[int]:
    """Give the ids of what calls use, their result included."""
    return {id(node), *(id(parent) for call in calls for parent in call.parents)}


def _is_same(before: Any, now: Any) -> bool:
    size = np.abs(np.asarray(before)[np.isfinite(before)]).max(initial=0)
    return np.shape(now) == np.shape(before) and bool(np.allclose(now, before, 1e-5, 1e-8 * size, True))


def _replaced(x: Any, new: Iterator[Any]) -> Any:
    """Put new things, one after another, in the place of what is recorded, also in lists, tuples and dicts.

    What holds nothing recorded stays what it is: a named tuple, a list to write into.
    """
    if is_recorded(x):
        return next(new)
    return map_container(lambda item: _replaced(item, new), x) if any(map(is_recorded, _leaves(x))) else x


def _of_recomputed(argnums: Any, g: Any, ans: Any, call: _Call, *values: Any) -> list[Any]:
    gradients = call.way_back(values, ans)(g)
    return [gradients[i - 1] for i in argnums]


def _of_root(argnums: Any, g: Any, ans: Any, call: _Call, *values: Any) -> list[Any]:
    k, n, shape = len(call.ps), np.size(ans), np.shape(ans)
    values = (*values[:k], ans, *values[k + 1 :])
    back, right = call.way_back(constant(values), call.result), np.ravel(constant(g))

    def product(v: Any) -> Any:
        return np.ravel(back(v.reshape(shape))[k])

    if n <= _DENSE:
        rows = np.array([product(row) for row in np.eye(n)]).reshape((n, n))
        exact = right.dtype if right.dtype.char in "fd" else np.float64  # LAPACK knows no others
        u = np.linalg.solve(rows.T.astype(exact), right.astype(exact)).astype(right.dtype)
    else:
        linalg = scipy("implicit_root of more than 200 unknowns", "sparse.linalg")
        matrix = linalg.LinearOperator((n, n), product, dtype=right.dtype)
        u, failed = linalg.gmres(matrix, right, rtol=np.finfo(right.dtype).eps ** 0.75, restart=50)
        if failed:
            raise RuntimeError("implicit_root: GMRES has not solved the linear equation of the derivative")
    u = u.reshape(shape)[()]
    if any(map(is_recorded, (g, *values))):  # then so is u: the root of the transposed product less g
        transposed = lambda u, g, *values: call.way_back(values, call.result)(u)[k] - g  # noqa: E731
        equation = _Call(transposed, (g, *values), (u,))
        u = solution(equation, *equation.variables())
    gradients = call.way_back(values, call.result)(-u)
    return [gradients[i - 1] for i in argnums]


def _again(call: _Call, *values: Any) -> Any:
    return call.run(values)[0]


def _not_again(*_: Any) -> Any:
    raise NotImplementedError("a root that depends on values that are equal has no gradient")


@derivative(jointly=_of_recomputed, again=_again)
def recomputed(call: _Call, *values: Any) -> Any:
    """Give what a call has given."""
    return call.result


@derivative(jointly=_of_root, again=_not_again)
def solution(call: _Call, *values: Any) -> Any:
    """Give the root of an equation."""
    return values[len(call.ps)]
