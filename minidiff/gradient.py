"""Gradients of losses: with respect to parameters that a function reaches, or to its arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minidiff.checks import add_note, described, is_ndarray, is_number, warn
from minidiff.grads import Grads
from minidiff.params import Param, Params, pieces_of
from minidiff.program.listing import StandIn, example, varying
from minidiff.tracing import (
    Trace,
    Traced,
    apart,
    backward,
    constant,
    filled,
    history,
    is_recorded,
    map_container,
    pull_all,
    standing,
    standing_now,
)

__all__ = [
    "WithGradient",
    "dropgrad",
    "gradient",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "pullback",
    "withgradient",
]

# glibc gives the memory of a freed array back to the system, and asks for it again at the next gradient. Once
# an array of 8 MB has been freed, it keeps up to twice as much. This one is made only to be freed.
np.empty(2**23, np.uint8)


class WithGradient(NamedTuple):
    """What `withgradient` returns: the value of the function and its gradient."""

    val: Any
    grad: Any


# --- The ways to ask ------------------------------------------------------------------------------------


def gradient(f: Any, /, *args: Any, **constants: Any) -> Any:
    """Differentiate a loss.

    Three forms::

        grads = gradient(lambda: loss(x, y), θ)   # implicit: θ is a Params, grads a Grads
        dx, dy = gradient(f, x, y)                # explicit: one gradient for each argument

        @gradient(θ)                              # as a decorator: `grads` is the Grads
        def grads():
            ...
            return loss

    Parameters
    ----------
    f : callable
        Returns one real number: a Python or NumPy scalar, or an array of one element.
    *args : Params, or any arguments
        Either one `Params`, and `f` is called without arguments; or the arguments of `f`: numbers, arrays,
        parameters, or lists, tuples and dicts of these to any depth.
    **constants
        Passed on to `f`, and not differentiated by.

    Returns
    -------
    Grads or tuple
        For a `Params` a `Grads`. For arguments a tuple: a gradient of the argument's shape and dtype (of
        integers float64) for each, nested as the argument is, `None` where `f` does not depend on it, and of
        booleans. No gradient shares memory with anything else.

    Raises
    ------
    TypeError
        If `f` is no function or returns something else than one real number, or an operation in it cannot
        be recorded.
    NotImplementedError
        If it calls a NumPy function that has no gradient.

    Warns
    -----
    UserWarning
        If the loss reaches none of the parameters.

    Notes
    -----
    For a complex variable z the gradient is ∂L/∂Re z + i·∂L/∂Im z, so that ``z -= η * g`` descends (Zygote's
    convention; autograd's is the conjugate). Complex eigenvectors and singular vectors are given but for a
    factor of modulus 1, and those of equal values but for the basis: a loss that depends on which NumPy has
    chosen is refused. (The sign of real ones is NumPy's.) At kinks, as of `abs`, norms and `std` at 0, the
    gradient is 0; of two that are equal, as in ``np.maximum(x, 0)`` at 0, each has half of it; and second
    derivatives are those of what is smooth, as ``norm(x)**2``. A branch of `np.where` that is not taken but
    infinite makes its gradient NaN, as in other systems; an inner ``np.where`` that keeps the argument in the
    branch's domain cures that. Gradients nest: a `gradient` within a loss is itself differentiated. Threads
    may take gradients at the same time, over the same parameters. A plain array of floats that the loss has
    used is not copied, so it must not be changed in place while the loss runs: `guard` sees to that. A mask
    or an index may be, and what the loss has computed of what is differentiated by.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import gradient, param, params
    >>> W, b = param([[1.0, 2.0]]), param([3.0])
    >>> x, y = np.array([1.0, 1.0]), np.array([4.0])
    >>> loss = lambda x, y: np.sum((W @ x + b - y) ** 2)
    >>> θ = params(W, b)
    >>> grads = gradient(lambda: loss(x, y), θ)
    >>> grads[W]
    array([[4., 4.]])
    >>> gradient(loss, x, y)
    (array([4., 8.]), array([-4.]))
    >>> gradient(lambda x, k: np.sum(x**k), x, k=3)
    (array([3., 3.]),)
    >>> @gradient(θ)
    ... def grads():
    ...     return loss(x, 0 * y)
    >>> grads[b]
    array([12.])
    """
    if not args and isinstance(f, Params):
        return lambda body: gradient(body, f, **constants)
    return _value_and_gradient(_with(constants, f), args)[1]


def withgradient(f: Any, /, *args: Any, **constants: Any) -> Any:
    """Give the value of a loss together with its gradient.

    Parameters
    ----------
    f, *args, **constants
        As for `gradient`, in all its forms.

    Returns
    -------
    WithGradient
        A named tuple ``(val, grad)``: what `f` returned, and what `gradient` would give.

    Examples
    --------
    >>> from minidiff import withgradient
    >>> withgradient(lambda x: x**2, 3.0)
    WithGradient(val=np.float64(9.0), grad=(np.float64(6.0),))
    """
    if not args and isinstance(f, Params):
        return lambda body: withgradient(body, f, **constants)
    return WithGradient(*_value_and_gradient(_with(constants, f), args, "withgradient"))


def pullback(f: Any, /, *args: Any, **constants: Any) -> Any:
    """Run a function and keep the way back: for results that are arrays, or for several seeds.

    Parameters
    ----------
    f, *args, **constants
        As for `gradient`, in all its forms, but `f` may return an array of any shape.

    Returns
    -------
    value
        What `f` returned.
    back : callable
        ``back(seed)`` gives the gradient of Σ seed·value, in the form of `gradient`. The seed has the
        shape of the value (or is a number, for all elements alike). It may be called again and again.

    Raises
    ------
    TypeError
        If `f` does not return a number or an array.
    ValueError
        By `back`, if the seed has another shape than the value.
    RuntimeError
        By `back`, if what it differentiates by, a parameter or an argument, has changed since. Of other
        arrays `guard` tells.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param, params, pullback
    >>> W = param([[1.0, 2.0], [3.0, 4.0]])
    >>> value, back = pullback(lambda: W @ np.ones(2), params(W))
    >>> value
    array([3., 7.])
    >>> back(np.array([1.0, 0.0]))[W]
    array([[1., 1.],
           [0., 0.]])
    """
    if not args and isinstance(f, Params):
        return lambda body: pullback(body, f, **constants)
    value, node, roots, regrouped = _record(_with(constants, f), args, "pullback")
    _check_result("pullback", value)
    arrays = [(name, x.value if isinstance(x, Param) else x) for name, x in _named_leaves(args)]
    before = [(name, x, x.copy()) for name, x in arrays if is_ndarray(x) and not standing_now()]

    def back(seed: Any) -> Any:
        for name, x, copy in before:
            if x.tobytes() != copy.tobytes():
                raise RuntimeError(
                    f"back(seed): {name}, of shape {x.shape}, has changed since pullback ran f. Call back "
                    "before changing it, or run pullback again."
                )
        shape = np.shape(value)
        seed = _numbers(seed)
        if seed.dtype.kind not in "fciub":
            raise TypeError(f"back(seed): the seed must be numbers, got {described(constant(seed))}.")
        if seed.shape not in ((), shape):
            raise ValueError(f"back(seed): the seed must have the value's shape {shape}, got {seed.shape}.")
        # autograd's convention for complex numbers is the conjugate of ours
        dtype = np.asarray(example(constant(value))).dtype
        seed = np.conj(seed) + np.zeros(shape, dtype)
        seed = (seed if dtype.kind == "c" else np.real(seed)).astype(dtype)
        return regrouped(_pull(value, node, roots, seed))

    return value, back


def jacobian(f: Callable[..., Any], /, *args: Any, **constants: Any) -> Any:
    """Give the Jacobian of a function for each of its arguments, or by parameters.

    Parameters
    ----------
    f : callable
        Returns a real array of any shape, or a number. It takes `args`, or nothing if that is a `Params`.
    *args : float, ndarray or Param; or one Params
        Its arguments, real; or the parameters that it reaches, real as well.
    **constants
        Passed on to `f`, and not differentiated by.

    Returns
    -------
    tuple of ndarray, or ndarray
        For each argument the array of ∂f(…)ᵢ/∂argumentⱼ: the shape of the result followed by the shape
        of the argument. Zeros where `f` does not depend on it. For a `Params` of n elements one array, the
        shape of the result followed by n, in the order of `Params.to_vector`.

    Raises
    ------
    TypeError
        If an argument or the result is complex: take real and imaginary parts apart.

    Notes
    -----
    It goes by rows, a gradient for each element of the result; or by columns, one for each element of the
    arguments, where there are more than four times as many results. Many go the way back at once, a function
    of NumPy's taking all of them in one call where it can, and in parts where memory would not do. A rule of
    one's own gets one gradient after another.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import jacobian, param, params
    >>> jacobian(lambda x: x**2, np.array([1.0, 2.0]))
    (array([[2., 0.],
           [0., 4.]]),)
    >>> W, b = param([1.0, 2.0]), param(3.0)
    >>> jacobian(lambda: b * W**2, params(W, b))
    array([[ 6.,  0.,  1.],
           [ 0., 12.,  4.]])
    """
    f = _with(constants, f)
    if len(args) == 1 and isinstance(args[0], Params):
        return by_parameters("jacobian", f, args[0])
    value, node, roots, _ = _record(f, args, "jacobian")
    _check_numbers("jacobian", value)
    leaves = [_variable(arg) for arg in args]
    if any(leaf is None or np.iscomplexobj(constant(leaf)) for leaf in leaves):
        got = ", ".join(described(constant(arg)) for arg in args)
        raise TypeError(f"jacobian(f, …): the arguments must be real numbers or arrays of them, got {got}.")
    shape = np.shape(constant(value))
    blocks = _blocks(value, node, roots)
    _end(node)
    return tuple(block.reshape((*shape, *leaf.shape)) for block, leaf in zip(blocks, leaves, strict=True))


def hessian(f: Callable[..., Any], x: Any, **constants: Any) -> Any:
    """Give the matrix of second derivatives of a function of one argument, or of a loss by parameters.

    Parameters
    ----------
    f : callable
        Returns one real number. It takes `x`, or nothing if that is a `Params`.
    x : float, ndarray, Param or Params
        Its argument, real, of any shape; or the parameters that it reaches, real as well.
    **constants
        Passed on to `f`, and not differentiated by.

    Returns
    -------
    ndarray
        ∂²f/∂xᵢ∂xⱼ, the shape of `x` twice. For a `Params` of n elements one matrix (n, n), in the order of
        `Params.to_vector`.

    Raises
    ------
    TypeError
        If `x` is complex, or nothing to differentiate by.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import hessian, param, params
    >>> hessian(lambda x: x[0] ** 2 * x[1], np.array([1.0, 3.0]))
    array([[6., 2.],
           [2., 0.]])
    >>> a, b = param(1.0), param([3.0])
    >>> hessian(lambda: a**2 * b[0], params(a, b))
    array([[6., 2.],
           [2., 0.]])
    """
    f = _with(constants, f)
    if isinstance(x, Params):

        def slopes() -> Any:
            return _value_and_gradient(f, (x,), "hessian")[1].to_vector()

        return by_parameters("hessian", slopes, x)
    if _variable(x) is None or np.iscomplexobj(constant(x)):
        raise TypeError(
            "hessian(f, x): x must be a real number, an array or a parameter of them, got "
            f"{described(constant(x))}. hvp(f, x, v) takes complex ones, and lists, tuples and dicts."
        )

    def slope(x: Any) -> Any:
        (g,) = _value_and_gradient(f, (x,), "hessian")[1]
        return 0 * x if g is None else g

    return jacobian(slope, x)[0]


def jvp(f: Callable[..., Any], args: Any, tangents: Any, **constants: Any) -> tuple[Any, Any]:
    """Give the value of a function, and how it changes as its arguments move along `tangents`.

    Parameters
    ----------
    f : callable
        Returns an array of any shape, or a number.
    args : tuple or Params
        Its arguments, nested as for `gradient`; or the parameters that it reaches without arguments.
    tangents : tuple or mapping
        For each argument how fast it moves: an array of its shape, nested as `args` is. For a `Params` a
        mapping from parameter to array, such as `Grads`; None, and what is left out, stands still. Or one
        vector, in the order of `Params.to_vector`.
    **constants
        Passed on to `f`, and not differentiated by.

    Returns
    -------
    tuple
        The value, and its tangent J·v: of the value's shape.

    Raises
    ------
    TypeError, ValueError
        If the tangents are not as many as the arguments, or one has another shape or is complex where its
        argument is real.

    Notes
    -----
    The way back is linear in its seed, and the way back through that is the way forward. So everything that
    has second derivatives has this product, and it can itself be differentiated.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import jvp
    >>> x, v = np.array([1.0, 2.0]), np.array([1.0, 10.0])
    >>> value, tangent = jvp(lambda x: x**2, (x,), (v,))
    >>> value, tangent
    (array([1., 4.]), array([ 2., 40.]))

    References
    ----------
    J. Townsend, "A new trick for calculating Jacobian vector products", 2017.
    """
    if not isinstance(args, (tuple, Params)):
        raise TypeError(f"jvp(f, args, tangents): args must be a tuple or a Params, got {described(args)}.")
    arguments = (args,) if isinstance(args, Params) else args
    value, node, roots, _ = _record(_with(constants, f), arguments, "jvp")
    _check_result("jvp", value)
    directions = _directions("jvp(f, args, tangents)", "tangents", args, tangents, roots)
    linear, seeds = (None, []) if node is None else _way_back(value, node, roots)
    if linear is None:
        return value, np.zeros_like(constant(value))[()]
    v = np.concatenate([v.ravel() for v in directions]).astype(linear.dtype)
    (tangent,) = _own(backward(linear, v, seeds), seeds)
    _end(node)
    return value, tangent


def hvp(f: Callable[..., Any], x: Any, v: Any, **constants: Any) -> Any:
    """Give the product of a function's second derivatives with a vector, without the matrix.

    Parameters
    ----------
    f : callable
        Returns one real number. It takes `x`, or nothing if that is a `Params`.
    x : float, ndarray, Param, list, tuple, dict or Params
        Its argument, nested as for `gradient`; or the parameters that it reaches.
    v : as x, or a mapping
        The vector: an array of the shape of `x`, nested as `x` is. For a `Params` a mapping from parameter
        to array, such as `Grads`; None, and what is left out, counts as zero. Or one vector, in the order of
        `Params.to_vector`.
    **constants
        Passed on to `f`, and not differentiated by.

    Returns
    -------
    ndarray or Grads
        H·v, in the form of `x`: a `Grads` for a `Params`. Zeros where it vanishes.

    Raises
    ------
    TypeError, ValueError
        If `f` does not return one real number, or `v` is not like `x`.

    Notes
    -----
    It costs about two gradients, whatever the number of elements. For complex `x` the derivatives are those
    by real and imaginary parts, in the convention of `gradient`.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import gradient, hvp, param, params
    >>> hvp(lambda x: x[0] ** 2 * x[1], np.array([1.0, 3.0]), np.array([1.0, 0.0]))
    array([6., 2.])
    >>> W = param([1.0, 3.0])
    >>> loss = lambda: W[0] ** 2 * W[1]
    >>> hvp(loss, params(W), {W: [1.0, 0.0]})[W]
    array([6., 2.])

    References
    ----------
    B. A. Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994.
    """
    directions: list[Any] = []
    f = _with(constants, f)
    variables, along = (x, v) if isinstance(x, Params) else ((x,), (v,))

    def slope(*args: Any) -> Any:
        value, node, roots, _ = _record(f, args or (x,), "hvp")
        _check_loss(value)
        directions[:] = _directions("hvp(f, x, v)", "v", variables, along, roots)
        gradients = _pull(value, node, roots)
        pairs = zip(gradients, directions, strict=True)
        return sum((np.sum(np.real(np.conj(g) * v)) for g, v in pairs if g is not None), np.float64(0))

    value, node, roots, regrouped = _record(slope, (x,), "hvp")
    products = list(map(_or_zeros, _pull(value, node, roots), roots))
    _end(node)
    return Grads(x, products) if isinstance(x, Params) else regrouped(products)[0]


def dropgrad(x: Any) -> Any:
    """Give the plain value of anything recorded, as a constant that no gradient flows through.

    Parameters
    ----------
    x : any
        A parameter, a result under differentiation, or lists, tuples and dicts of these. Anything else
        comes back as it is.

    Returns
    -------
    ndarray or NumPy scalar
        A copy of the value, free of every enclosing gradient.

    Examples
    --------
    >>> from minidiff import dropgrad, gradient
    >>> gradient(lambda x: x * dropgrad(x), 3.0)
    (np.float64(3.0),)
    """
    if isinstance(x, Grads):
        return x.map(dropgrad)
    if isinstance(x, Param) or is_recorded(x):
        value = np.copy(constant(x))
        return value[()] if value.ndim == 0 else value
    return map_container(dropgrad, x)


# --- One engine for them all ----------------------------------------------------------------------------


def _with(constants: dict[str, Any], f: Any) -> Any:
    return partial(f, **constants) if constants and callable(f) else f


def _record(
    f: Any, args: tuple[Any, ...], name: str
) -> tuple[Any, Traced | None, list[Traced], Callable[[list[Any]], Any]]:
    """Run `f` in a trace.

    Returns
    -------
    tuple
        The value; its node, if it depends on the variables; these; and a function that brings gradients by
        them into the form that the caller asked for.
    """
    _check_call(f, args, name)
    trace = Trace()
    ps = list(args[0]) if isinstance(args[0], Params) else None
    if ps is not None:
        variables, roots = (), trace.roots_of(ps)
    else:
        args = tuple(map(_unboxed, args))
        variables, roots = _variables(args, trace)
        if not roots and not all(isinstance(x, _DATA) for x in _leaves(args)):
            held = ", ".join(type(arg).__name__ for arg in args)
            raise TypeError(
                f"{name}(f, *args): nothing to differentiate by in {held}: numbers, arrays and parameters "
                f"are. For the parameters of a model write {name}(lambda: f(model), params(model))."
            )
    try:
        value, node = trace.run(f, variables)
    except (IndexError, TypeError, ValueError) as error:
        _explain(error, args, name)
        # NumPy hides our message behind its own where an element of an array is set.
        if isinstance(error.__cause__, TypeError) and "under differentiation" in str(error.__cause__):
            raise error.__cause__ from error
        advice = _advice(error, f, variables, args, name) if isinstance(error, TypeError) else None
        if advice is None:
            raise
        raise TypeError(advice) from error
    if is_ndarray(value) or (getattr(value, "ndim", None) and hasattr(value, "copy")):  # no box of autograd's
        value = value.copy()  # the graph or a parameter may hold this very array

    def regrouped(gradients: list[Any]) -> Any:
        if ps is None:
            return _renest(args, iter(gradients))
        if not gradients or (gradients[0] is None and all(g is None for g in gradients)):
            _warn_unreached()
        return Grads(ps, gradients, args[0])

    return value, node, roots, regrouped


def _check_call(f: Any, args: tuple[Any, ...], name: str) -> None:
    if not callable(f) or isinstance(f, Param):
        above = isinstance(f, Param) and name in ("gradient", "withgradient", "pullback")
        raise TypeError(
            f"{name}(f, …): f must be a function, got {described(f)}. "
            f"Write {name}(lambda: loss(x, y), θ), with the lambda and θ = params(W, b)"
            + above * f"; above a function, @{name}(params(W, b))"
            + "."
        )
    if not args:
        raise TypeError(f"{name}(f) needs the parameters, {name}(f, params(W, b)), or the arguments of f.")
    if len(args) > 1 and any(isinstance(arg, Params) for arg in args):
        raise TypeError(
            f"{name}(f, …) takes either one Params or the arguments of f, got {len(args)} things, with a "
            f"Params among them. Write {name}(lambda: f(x, y), ps); join several Params with ps | qs."
        )


def _explain(error: Exception, args: tuple[Any, ...], name: str) -> None:
    """Add to an error of `f` what may have led to it."""
    if len(args) > 1 and any(is_ndarray(x) and x.dtype.kind in "iu" for x in _leaves(args)):
        add_note(error, f"An array of integers is an argument of {name}, which makes floats of it: take "
                 f"y.astype(int) in f, or let f reach it, {name}(lambda p: f(p, x, y), p).")  # fmt: skip
    elif re.search("intege|indices", str(error)) and any(type(x) is int for x in _leaves(args)):
        add_note(error, f"An integer is an argument of {name}, which makes a float of it: give a constant by "
                 f"its name, {name}(f, x, n=3).")  # fmt: skip
    for i, arg in enumerate(args if isinstance(error, TypeError) else ()):
        if isinstance(arg, (list, tuple)) and all(map(is_number, _leaves(arg))):
            kind = type(arg).__name__
            add_note(error, f"Argument {i} of {name} is a {kind} of numbers, and stays one in f: for an "
                     f"array write {name}(f, np.array([1.0, 2.0])).")  # fmt: skip
    if re.search("unbox array|bad argument type for built-in|has incorrect type", str(error)):
        add_note(error, "Compiled code, such as Numba's, takes plain arrays: give it a derivative of its "
                 "own, minidiff.derivative(lambda g, ans, x: …)(f), or dropgrad(x), a constant.")  # fmt: skip
    if re.search(r"keyword argument:? '(dim|keepdim)'", str(error)):
        add_note(error, "NumPy's words for dim and keepdim are axis and keepdims.")
    if "truth value of an array" in str(error):
        add_note(error, "A branch by an array: np.where(condition, a, b) decides by element.")


def _value_and_gradient(f: Any, args: tuple[Any, ...], name: str = "gradient") -> tuple[Any, Any]:
    value, node, roots, regrouped = _record(f, args, name)
    _check_loss(value)
    calls = [] if node is None else history(node)
    gradients = _pull(value, node, roots, calls=calls)
    for call in calls:
        call.forget()
    _end(node)
    return value, regrouped(gradients)


def _end(node: Traced | None) -> None:
    """Let go of what a guard holds: the way back is over."""
    if node is not None and node.owner.held is not None:
        node.owner.release()


def _pull(
    value: Any, node: Traced | None, roots: list[Traced], seed: Any = None, calls: list[Traced] | None = None
) -> list[Any]:
    """Give the gradients of a value by the roots: of a loss, unless there is a seed."""
    if node is None:
        return [None] * len(roots)
    return _own(backward(node, _ones(value) if seed is None else seed, roots, calls), roots)


def _own(gradients: list[Any], roots: list[Traced]) -> list[Any]:
    """Make each gradient an array of its own, in our convention for complex numbers."""
    given = set()
    for i, g in enumerate(gradients):
        if g is None:
            continue
        if g.dtype.kind == "c":
            gradients[i] = g = np.conj(g)
        array = g if type(g) is np.ndarray else example(constant(g))
        if type(array) is np.ndarray:  # in memory it lies the same within another gradient
            is_shared = array.base is not None or id(array) in given
            given.add(id(array))
            gradients[i] = g = g.copy() if is_shared and hasattr(g, "copy") else apart(g)
            if array.ndim == 0 and type(example(constant(roots[i]._value))) is not np.ndarray:
                gradients[i] = g[()]
        elif type(example(constant(roots[i]._value))) is np.ndarray:
            gradients[i] = g[...] if is_recorded(g) else np.array(g) if g is array else g.__as_array__()
        if g.dtype != (dtype := roots[i]._value.dtype):  # NumPy computes with the machine's order of bytes
            gradients[i] = gradients[i].astype(dtype)
    return gradients


def _way_back(value: Any, node: Traced, roots: list[Traced]) -> tuple[Traced | None, list[Traced]]:
    """Record the way back as a function of its seed: give what comes of it, as one vector, and the seed.

    It is linear, and its own way back is its transpose: the way forward. The seed is an arbitrary one, so
    that a result without a derivative in every direction is refused.
    """
    calls = history(node)
    plain = constant(value)
    shape, dtype = np.shape(plain), getattr(plain, "dtype", np.dtype(float))

    def pulled(seed: Any) -> Any:
        gradients = backward(node, np.conj(seed) if dtype.kind == "c" else seed, roots, calls)
        return np.concatenate([*map(np.ravel, map(_or_zeros, gradients, roots))])

    seed = (2 + np.cos(np.arange(np.size(plain)))).reshape(shape).astype(dtype)[()]
    slopes, linear, seeds, _ = _record(pulled, (seed,), "jvp")
    if linear is None and np.any(constant(slopes)):
        raise NotImplementedError(
            "jvp: a derivative of one's own gives the same whatever gradient comes: a rule(g, ans, x) must "
            "be linear in g, and dropgrad(g) or np.sign(g) is not"
        )
    return linear, seeds


def by_parameters(name: str, f: Callable[..., Any], ps: Params) -> Any:
    """Give the Jacobian of a function, whose last axis is that of all the parameters' elements."""
    value, node, roots, _ = _record(f, (ps,), name)
    _check_numbers(name, value, "fiubc")
    if node is None and name != "hessian":  # that of a linear loss is zero
        _warn_unreached()
    if np.iscomplexobj(constant(value)) or any(np.iscomplexobj(p.value) for p in ps):
        raise TypeError(f"{name}(f, ps): the parameters and results must be real. For complex ones use hvp.")
    blocks = _blocks(value, node, roots) or [np.zeros((np.size(constant(value)), 0))]
    _end(node)
    J = np.concatenate(blocks, axis=1)
    return J.reshape((*np.shape(constant(value)), J.shape[1]))


def _check_numbers(name: str, value: Any, allowed: str = "fiub") -> None:
    plain = constant(value)
    kinds = (np.ndarray, np.number, int, float)
    if not isinstance(plain, kinds) or getattr(plain, "dtype", np.dtype(float)).kind not in allowed:
        advice = " np.stack makes one array of several." if isinstance(plain, (list, tuple)) else ""
        raise TypeError(f"{name}(f, …): f must return real numbers, got {described(plain)}.{advice}")


def _blocks(value: Any, node: Traced | None, roots: list[Traced]) -> list[Any]:
    """Give the Jacobian of a value by each root: a matrix, by rows or by columns, whichever are fewer."""
    plain = constant(value)
    shape, size, dtype = np.shape(plain), np.size(plain), getattr(plain, "dtype", np.dtype(float))
    sizes = [np.size(constant(root)) for root in roots]
    total = sum(sizes)
    if node is None or not size or not total:
        return [np.zeros((size, n), root.dtype) for n, root in zip(sizes, roots, strict=True)]
    if 4 * total < size:
        try:
            linear, seed = _way_back(value, node, roots)
            directions = np.eye(total, dtype=getattr(linear, "dtype", dtype))
            columns = np.zeros((total, size)) if linear is None else pull_all(linear, directions, seed)[0]
        except NotImplementedError:
            pass  # a function without a second derivative goes by rows
        else:
            blocks = np.split(columns.reshape((total, size)).T, np.cumsum(sizes)[:-1].tolist(), axis=1)
            return [block.astype(root.dtype) for block, root in zip(blocks, roots, strict=True)]
    seeds = np.eye(size, dtype=dtype).reshape((size, *shape))
    stacks = pull_all(node, seeds, roots)
    return [stack.reshape((size, n)) for stack, n in zip(stacks, sizes, strict=True)]


def _directions(call: str, name: str, x: Any, v: Any, roots: list[Traced]) -> list[Any]:
    """Give an array for each root, from what is nested as `x` is, or from a mapping for a `Params`."""
    if isinstance(x, Params):
        size = sum(p.value.size for p in x)
        if getattr(v, "shape", None) == (size,) and not isinstance(v, Param):  # as of to_vector()
            v = dict(zip(x, pieces_of(x, v), strict=True))
        if not isinstance(v, Mapping):
            raise TypeError(
                f"{call}: {name} must be a mapping from parameter to array, or a vector as of to_vector(), "
                f"got {described(v)}."
            )
        strangers = Params(v.keys()) - x
        if strangers:
            raise ValueError(
                f"{call}: {name} has a parameter of shape {strangers[0].shape}, "
                "which is not among the parameters."
            )
        given, names = [v.get(p) for p in x], x.names
    else:
        pairs = _pairs(call, name, x, v)
        given, names = [b for a, b in pairs if _variable(a) is not None], tuple(map(str, range(len(roots))))
    directions = []
    for root, g, place in zip(roots, given, names, strict=True):
        shape, dtype = np.shape(root), root.dtype
        g = _numbers(_or_zeros(g, root))
        if g.dtype.kind not in ("fciub" if dtype.kind == "c" else "fiub"):
            raise TypeError(f"{call}: {name} {place} must be numbers of dtype {dtype}, got {g.dtype}.")
        if g.shape != shape:
            raise ValueError(f"{call}: {name} {place} must have the shape {shape}, got {g.shape}.")
        directions.append(g.astype(dtype))
    return directions


def _numbers(x: Any) -> Any:
    """Give numbers as an array: in a program a plain one is noted as what the loss has found."""
    x = standing(x.lift() if isinstance(x, Param) else x)
    if type(x) is StandIn:
        return x if isinstance(x, (np.ndarray, np.generic)) else varying(x)
    return x if is_recorded(x) else np.asarray(x)


def _pairs(call: str, name: str, x: Any, v: Any) -> Iterator[tuple[Any, Any]]:
    """Go through two things nested alike."""
    if not isinstance(x, (list, tuple, dict)):
        yield x, v
        return
    alike = isinstance(v, dict) == isinstance(x, dict) and isinstance(v, (list, tuple, dict))
    if not alike or len(x) != len(v) or (isinstance(x, dict) and x.keys() != v.keys()):
        raise ValueError(f"{call}: {name} must be nested as {described(x)}, got {described(v)}.")
    for key in x if isinstance(x, dict) else range(len(x)):
        yield from _pairs(call, name, x[key], v[key])


def _ones(value: Any) -> Any:
    """Give the gradient of a loss with respect to itself, in the loss's own dtype."""
    one = value.dtype.type(1)
    if standing_now() and type(plain := constant(value)) is StandIn:  # so that what comes of it is noted
        one = plain._listing.constant(one)
    return one if value.shape == () else filled(value.shape, one)


# --- Nested arguments, and gradients nested alike --------------------------------------------------------


_LARGEST = int(np.finfo(float).max)
_DATA = (np.ndarray, np.generic, int, str, bytes, type(None))
_OF_OPERATORS = vars(np.lib.mixins.NDArrayOperatorsMixin).items()
_OPERATORS = ["__array_ufunc__", *(name for name, method in _OF_OPERATORS if callable(method))]


def _variable(x: Any) -> Any:
    """Give the array that a leaf of the arguments varies over, or None if it is no number."""
    if isinstance(x, Param):
        return x.lift()
    if is_recorded(x):
        return x
    if type(x) is StandIn:
        return varying(x)
    if isinstance(x, (int, float, complex, np.number, np.ndarray)):
        if isinstance(x, int) and abs(x) > _LARGEST:
            raise ValueError(f"an argument is an integer of {x.bit_length()} bits, which no float can hold.")
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError("an argument is a masked array, and the mask would be lost: pass x.filled(…)")
        if is_ndarray(x) and type(x) is not np.ndarray and x.dtype.kind in "fciu" and _has_operators(x):
            raise TypeError(
                f"an argument is a {type(x).__name__}, whose operators are not those of arrays: pass "
                "np.asarray(x)"
            )
        if isinstance(x, np.ndarray) and _hides_numbers(x):
            raise TypeError(
                f"an argument is an array of {x.dtype}, by whose numbers there is no gradient: pass them as "
                "x.astype(float), or as x['name'] of a structured array"
            )
        x = np.asarray(x) if isinstance(x, np.ndarray) else np.asarray(x)[()]
        if x.dtype.kind in "iu":
            x = x.astype(np.float64)
        return x if x.dtype.kind in "fc" else None  # no boolean
    return None


def _has_operators(x: Any) -> bool:
    """Tell whether operators mean something else to the class of an array."""
    return any(getattr(type(x), name) is not getattr(np.ndarray, name) for name in _OPERATORS)


def _hides_numbers(x: Any) -> bool:
    """Tell whether an array has numbers as objects, or in fields."""
    is_of_objects = x.dtype.kind == "O"
    return bool(x.dtype.names) or (is_of_objects and any(_variable(item) is not None for item in x.flat))


def _unboxed(x: Any) -> Any:
    """Give a list, tuple or dict that autograd has recorded as one of recorded items."""
    held = constant(x) if is_recorded(x) else None
    if isinstance(held, dict):
        return {key: _unboxed(x[key]) for key in held}
    if isinstance(held, (list, tuple)):
        return type(held)([_unboxed(x[i]) for i in range(len(held))])
    return x if held is not None else map_container(_unboxed, x)


def _replaced(x: Any, f: Callable[[Any], Any]) -> Any:
    """Put f(y) in the place of each number or array y in nested arguments."""
    value = _variable(x)
    return map_container(lambda item: _replaced(item, f), x) if value is None else f(value)


def _variables(args: tuple[Any, ...], trace: Trace) -> tuple[tuple[Any, ...], list[Traced]]:
    """Give the arguments with variables of a trace in the place of numbers and arrays, and these."""
    roots: list[Traced] = []

    def variable(value: Any) -> Traced:
        roots.append(trace.root(value))
        return roots[-1]

    return tuple([_replaced(arg, variable) for arg in args]), roots


def _check_result(call: str, value: Any) -> None:
    value = constant(value)
    if not isinstance(value, (np.ndarray, np.number, int, float, complex)):
        raise TypeError(f"{call}(f, …): f must return a number or an array, got {described(value)}.")


def _or_zeros(g: Any, root: Any) -> Any:
    return np.zeros(np.shape(root), root.dtype)[()] if g is None else g


def _renest(x: Any, gradients: Iterator[Any]) -> Any:
    if isinstance(x, (list, tuple, dict)):
        return map_container(lambda item: _renest(item, gradients), x)
    return None if _variable(x) is None else next(gradients)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, (list, tuple, dict, Params)):
        for item in x.values() if isinstance(x, dict) else x:
            yield from _leaves(item)
    else:
        yield x


def _named_leaves(args: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Name each parameter of a `Params`, or each leaf of the arguments after the argument it is in."""
    if isinstance(args[0], Params):
        return [(f"parameter {name}", p) for name, p in zip(args[0].names, args[0], strict=True)]
    return [(f"argument {i}", x) for i, arg in enumerate(args) for x in _leaves(arg)]


# --- Errors that teach ----------------------------------------------------------------------------------


def _advice(
    error: TypeError, f: Callable[..., Any], variables: tuple[Any, ...], args: tuple[Any, ...], name: str
) -> str | None:
    """Say what to write instead, where `f` does not take the arguments it got."""
    traceback = error.__traceback__
    for _ in ("_record", "Trace.run"):  # which call f, through Trace._run
        traceback = traceback and traceback.tb_next
    if traceback is None or traceback.tb_next is not None or hasattr(f, "py_func"):
        return None  # raised by something within f, such as Numba's
    try:
        if isinstance(f, partial) and "keyword argument" in str(error):
            given = ", ".join(f"{key}=" for key in f.keywords)
            return f"{name}(f, …): {given} go to f as constants, but f takes {inspect.signature(f.func)}."
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return None
    if not variables:
        return f"{name}(f, ps) calls f without arguments, but f takes {signature}: {name}(lambda: f(…), ps)."
    if any(is_ndarray(leaf) for leaf in _leaves(args)) and not signature.parameters:
        return (
            f"{name}(f, …): f takes no arguments, but got plain arrays to differentiate by. Make them "
            f"parameters, W = param(W), and write {name}(f, params(W))."
        )
    takes = signature if signature.parameters else "no arguments"
    message = f"{name}(f, *args): f takes {takes}, but args has {len(variables)}."
    if next(iter(signature.parameters), "") == "self":
        message += " It is a method without its object: write model.loss, or compiled(self.loss) in __init__."
    elif not signature.parameters or any(isinstance(leaf, Param) for leaf in _leaves(args)):
        message += f" For parameters that f reaches by itself, write {name}(f, params(W, b))."
    return message


def _check_loss(value: Any) -> None:
    if type(value) in (np.float64, np.float32, float):
        return
    plain = example(constant(value))
    number = isinstance(plain, (int, float, np.number, np.ndarray)) and not isinstance(plain, bool)
    if not number or np.size(plain) != 1 or np.asarray(plain).dtype.kind not in "fiu":
        raise TypeError(
            f"a loss must return one real number, got {described(constant(value))}. {_cure(plain)}"
        )


def _warn_unreached() -> None:
    warn(
        "The loss reaches none of the parameters: all gradients are None. Does it compute with the "
        "parameters themselves, not with copies or with W.value? np.sign, np.round and comparisons end a "
        "gradient, too: it is zero."
    )


def _cure(value: Any) -> str:
    if value is None:
        return "Does it lack a return?"
    if isinstance(value, WithGradient):
        return "It is compiled, or has had its gradient taken: give the function that computes the loss."
    if isinstance(value, (complex, np.ndarray, np.number)) and np.iscomplexobj(value):
        return "Take np.abs(z)**2 or np.real(z) of it."
    if is_ndarray(value):
        return "Reduce it, with np.sum or np.mean, or use pullback or jacobian."
    return "Return the loss itself."
