"""SciPy's minimisers over parameters: for losses that are the same at every evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from itertools import combinations
from typing import Any

import numpy as np

from minidiff.checks import described, flag, function, integer, is_number, number, scipy, share_memory, takes
from minidiff.gradient import by_parameters, hessian, hvp
from minidiff.interrupts import whole
from minidiff.optimise.training import (
    Callback,
    Stop,
    call_all,
    callbacks_of,
    params_of,
    progress_bar,
    slope_of,
)
from minidiff.optimise.transforms import what_is_not_finite
from minidiff.params import Param, Params

__all__ = ["least_squares", "minimize"]

# What each method takes besides the gradient: bounds, products with the Hessian (hessp), the Hessian (hess).
_METHODS = {
    "L-BFGS-B": "bounds", "TNC": "bounds", "SLSQP": "bounds", "trust-constr": "bounds hessp", "CG": "",
    "BFGS": "", "Newton-CG": "hessp", "trust-ncg": "hessp", "trust-krylov": "hessp", "trust-exact": "hess",
    "dogleg": "hess",
}  # fmt: skip

# Arguments of SciPy and of other libraries that are not taken here, and what to write instead.
_NOT_OPTIONS = {
    "x0": "it starts where the parameters are",
    "fun": "the function comes first, {call}(lambda: f(x, y), ps)",
    "options": "give each by itself, as in minimize(loss, ps, maxiter=100)",
    **dict.fromkeys(("args", "kwargs"), "write {call}(lambda: f(x, y), ps)"),
    **dict.fromkeys(("jac", "hess", "hessp"), "derivatives are taken of the function"),
    "constraints": "it has bounds=; a penalty in the loss, or W = f(V), keeps to others",
    **dict.fromkeys(("lr", "eta"), "the method finds the length of its steps"),
    **dict.fromkeys(
        ("max_iter", "epochs", "steps"), "the limit is maxiter=, of TNC maxfun=, of least_squares max_nfev="
    ),
    "history_size": "that of L-BFGS-B is maxcor=",
}

# The options, of any method, that are whole numbers; and those that are numbers of any kind.
_COUNTS = {"max_nfev", "maxCGit", "maxcor", "maxfun", "maxiter", "maxls", "subproblem_maxiter"}
_NUMBERS = {
    "accuracy", "barrier_tol", "c1", "c2", "f_scale", "ftol", "gtol", "initial_barrier_parameter",
    "initial_barrier_tolerance", "initial_constr_penalty", "initial_tr_radius", "initial_trust_radius",
    "max_trust_radius", "minfev", "norm", "rescale", "stepmx", "xrtol", "xtol",
}  # fmt: skip


def minimize(
    loss: Callable[[], Any],
    ps: Params | Iterable[Param],
    method: str = "L-BFGS-B",
    *,
    bounds: Any = None,
    callback: Callback | Iterable[Callback] | None = None,
    progress: bool = False,
    compiled: bool = False,
    tol: float | None = None,
    **options: Any,
) -> Any:
    """Minimise a loss over its parameters, in place, by one of SciPy's methods.

    They learn the curvature on the way, and choose the step by a line search or a trust region. Where the
    loss is the same at every evaluation (no minibatches, no random numbers) they need far fewer gradients
    than a rule with a rate.

    Parameters
    ----------
    loss : callable
        Takes nothing, returns one real number.
    ps : Params
        The parameters, where the search begins and where it leaves what it found.
    method : str, default "L-BFGS-B"
        Any of `scipy.optimize.minimize` that uses gradients: L-BFGS-B, BFGS, CG, TNC, SLSQP. With products of
        the Hessian, as `hvp` gives them, Newton-CG, trust-ncg, trust-krylov and trust-constr; with the matrix
        trust-exact and dogleg.
    bounds : pair, or mapping from parameter to pair, optional
        The least and the greatest value, for all parameters or for some: numbers or arrays of the parameter's
        shape, None for no bound. For L-BFGS-B, TNC, SLSQP and trust-constr. The search begins within them.
    callback : callable or iterable of callables, optional
        Called after each iteration as `train` calls its ``cb``, the parameters being where it led: without
        arguments or, what takes one, with the `Progress`. `stop` ends the search.
    progress : bool
        Whether to show a bar with the loss. Needs tqdm, of the `plot` extra.
    compiled : bool
        Whether to record the loss and its gradient once, and run them as NumPy: see `minidiff.compiled`.
    tol : float, optional
        SciPy's tolerance for all its criteria together.
    **options
        Of the method, such as ``maxiter=1000`` or ``gtol=1e-9``.

    Returns
    -------
    scipy.optimize.OptimizeResult
        SciPy's result; ``x`` is the vector of all parameters, or of all their real and imaginary parts if
        one is complex. Where ``success`` is False, after `stop` and Ctrl-C too, the parameters are at the
        best point that was met, and ``message`` says so.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be. Parameters in half precision are refused: a line search
        cannot tell their losses apart. So are parameters that share memory: none moves alone.
    FloatingPointError
        If the loss or its gradient is not finite where the search begins. Nothing has changed.
    ImportError
        If there is no SciPy.

    Notes
    -----
    An error raised by the loss leaves the parameters at the best point as well. SciPy works in double
    precision; in single precision the loss is rougher, and unless a tolerance is given the search ends where
    its digits do. Complex parameters are minimised over by real and imaginary parts, but for "dogleg" and
    "trust-exact", which take the Hessian of real ones. L-BFGS-B remembers 50
    steps, fewer for more than 20,000 numbers and ten for very many; ``maxcor`` sets it. PyTorch's remembers
    100, SciPy's and optax's ten, with which it may need twice the evaluations.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param, params
    >>> from minidiff.optimise import minimize
    >>> a, b = param(-1.2), param([1.0])
    >>> rosenbrock = lambda: (1 - a) ** 2 + 100 * np.sum((b - a**2) ** 2)
    >>> result = minimize(rosenbrock, params(a, b), gtol=1e-9)
    >>> result.success, np.round(a, 4), np.round(b, 4)
    (True, np.float64(1.0), array([1.]))
    >>> result = minimize(rosenbrock, params(a, b), bounds={a: (None, 0.5)})
    >>> np.round(a, 4), np.round(b, 4)
    (np.float64(0.5), array([0.25]))
    """
    search = _Search("minimize", "loss", loss, ps, bounds)
    options = _checked("minimize", options)
    able = [name for name, needs in _METHODS.items() if bounds is None or "bounds" in needs]
    if method not in able:
        what = "uses gradients" if bounds is None else "takes bounds"
        raise ValueError(f"method must be one that {what}, of {', '.join(able)}; got {method!r:.60}")
    if method == "TNC" and "maxiter" in options:
        raise TypeError('minimize(…, "TNC") takes no maxiter=: it counts evaluations, maxfun=')
    slope = slope_of(loss, search.ps, flag("compiled", compiled))
    callbacks = callbacks_of("callback", callback)
    options = {name: x for name, x in options.items() if x is not None}  # None: SciPy's default
    tol = None if tol is None else number("tol", tol, within="[0, inf)")
    if tol is None and search.is_rough and not any(key.endswith("tol") for key in options):
        # In BFGS and CG it bounds the gradient's norm, which falls less far where the loss is rough.
        tol = search.eps**0.5 if method in ("BFGS", "CG") else 10 * search.eps

    if method == "L-BFGS-B":  # at most 16 MB of earlier steps and gradients, but SciPy's ten
        options.setdefault("maxcor", min(50, max(10, 2**20 // max(1, search.start.size))))

    def evaluate(v: Any) -> tuple[float, Any]:
        search.put(v)
        value, grads = slope(())
        if not search.met and (what := what_is_not_finite(value, grads, search.ps)):
            raise FloatingPointError(f"{what} where the search begins")
        slopes = search.vector(grads)
        search.note(v, value, fun=value, jac=slopes)
        return value, slopes

    def heard(v: Any, *_: Any) -> None:
        search.iterations += 1
        if not (callbacks or progress):
            return
        search.put(v)
        value = search.least if np.array_equal(v, search.best) else float(loss())
        if bar is not None:
            bar.set_postfix_str(f"loss {value:.4g}", refresh=False)
            bar.update()
        call_all(callbacks, search.iterations, 1, value)

    second: dict[str, Any] = {
        "hess": lambda v: hessian(loss, search.put(v)).astype(float),
        "hessp": lambda v, along: search.vector(hvp(loss, search.put(v), search.numbers(along))),
    }
    with progress_bar(options.get("maxiter")) if flag("progress", progress) else nullcontext() as bar:
        result = search.run(
            evaluate, search.inside() if method == "trust-constr" else search.start,
            jac=True, method=method, tol=tol, options=options or None, callback=heard,
            bounds=None if bounds is None else search.optimize.Bounds(*search.bounds, keep_feasible=True),
            **{each: f for each, f in second.items() if each in _METHODS[method].split()},
        )  # fmt: skip
    result.setdefault("nit", search.iterations)
    return result


def least_squares(
    residuals: Callable[[], Any], ps: Params | Iterable[Param], *, bounds: Any = None, **options: Any
) -> Any:
    """Minimise half the sum of squared residuals over the parameters, in place, with their Jacobian.

    Parameters
    ----------
    residuals : callable
        Takes nothing, returns a real array of any shape: not their squares, nor the sum.
    ps : Params
        The parameters, real, where the search begins and where it leaves what it found.
    bounds : pair, or mapping from parameter to pair, optional
        As for `minimize`; not for ``method="lm"``.
    **options
        Of `scipy.optimize.least_squares`, such as ``method="lm"``, ``loss="soft_l1"`` or ``xtol=1e-12``.

    Returns
    -------
    scipy.optimize.OptimizeResult
        SciPy's result, with ``cost`` and the Jacobian ``jac``. If ``success`` is False, after Ctrl-C too, the
        parameters are at the best point that was met, and ``message`` says so.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be, a parameter or a residual is complex, or parameters share
        memory.
    ImportError
        If there is no SciPy.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param, params
    >>> from minidiff.optimise import least_squares
    >>> x = np.arange(5.0)
    >>> height, rate = param(1.0), param(1.0)
    >>> residuals = lambda: height * np.exp(-rate * x) - 3 * 0.5**x
    >>> result = least_squares(residuals, params(height, rate))
    >>> result.success, np.round(height, 6), np.exp(-rate).round(6)
    (True, np.float64(3.0), np.float64(0.5))
    """
    search = _Search("least_squares", "residuals", residuals, ps, bounds)
    options = _checked("least_squares", options)
    if search.is_rough and not {"ftol", "xtol", "gtol"} & options.keys():
        options.update(dict.fromkeys(("ftol", "xtol", "gtol"), 10 * search.eps))
    if bounds is not None:
        options["bounds"] = tuple(search.bounds)

    loss, scale = options.get("loss", "linear"), options.get("f_scale", 1.0)
    bounded: Any = (lambda z: loss(z)[0]) if callable(loss) else _LOSSES.get(loss, _LOSSES["linear"])

    def evaluate(v: Any) -> Any:
        search.put(v)
        given = residuals()
        is_list = isinstance(given, (list, tuple))  # which would have no derivative
        if is_list or np.asarray(given).dtype.kind not in "fiu" or search.dtype == "c16":
            advice = ": np.stack makes one array of several" if is_list else ""
            got = described(given) if search.dtype != "c16" else "complex parameters"
            raise TypeError(f"least_squares: residuals and parameters must be real, got {got}{advice}")
        if not np.ndim(given):
            raise TypeError(
                "least_squares: residuals must be an array, got one number: give the residuals, not their "
                "mean or sum of squares; for a loss take minimize(loss, ps)"
            )
        found = np.ravel(np.asarray(given)).astype(float)
        cost = scale**2 * np.sum(bounded((found / scale) ** 2)) / 2
        search.note(v, cost, fun=found, cost=cost)
        return found

    def jac(v: Any) -> Any:
        J = by_parameters("least_squares", residuals, search.put(v))
        return J.reshape((-1, J.shape[-1])).astype(float)

    return search.run(evaluate, search.start, jac, **options)


# What SciPy makes of the square z of a residual: outliers count for less.
_LOSSES: dict[str, Callable[[Any], Any]] = {
    "linear": lambda z: z,
    "soft_l1": lambda z: 2 * (np.sqrt(1 + z) - 1),
    "huber": lambda z: np.where(z <= 1, z, 2 * np.sqrt(z) - 1),
    "cauchy": np.log1p,
    "arctan": np.arctan,
}


class _Search:
    """All parameters as one real vector, the bounds of its elements, and the best vector that was met.

    Complex numbers count as two; where one parameter is complex, all are taken for that.
    """

    def __init__(self, call: str, name: str, f: Any, ps: Any, bounds: Any) -> None:
        self.optimize, self.call = scipy(call), call
        if not takes(
            function(name, f, advice=f": the order is {call}({name}, ps), as in {call}(lambda: f(x, y), ps)")
        ):
            raise TypeError(
                f"{call} calls {name} without arguments, but it takes {inspect.signature(f)}: "
                f"{call}(lambda: {name}(…), ps), with data and parameters W = param(array) that it reaches "
                "by itself, and ps = params(W)"
            )
        self.ps, self.bounds = Params(params_of(ps)), bounds  # a copy, as the caller's may change
        own = self.ps.to_vector()
        self.dtype = "c16" if np.iscomplexobj(own) else "f8"
        self.own = own if own.itemsize > np.dtype(self.dtype).itemsize else None
        self.eps = max([float(np.finfo(p.dtype).eps) for p in self.ps if p.size], default=1.0)
        self.is_rough = self.eps > 1e-12  # too rough for SciPy's tolerances
        if self.eps > 1e-6:
            raise ValueError(f"{call}: ps must have elements, none in half precision, got {self.ps}")
        arrays = [p.value for p in self.ps]
        pairs = combinations(zip(self.ps.names, arrays, strict=True), 2) if share_memory(arrays) else ()
        for (one, x), (other, y) in pairs:
            if np.shares_memory(x, y):
                raise ValueError(
                    f"{call}: parameters {one} and {other} share memory, and none moves alone: give each an "
                    f"array of its own, or make one parameter of it and take its parts in the {name}"
                )
        self.start = self.best = self.vector(self.ps)
        if bounds is not None:
            bounds = bounds if isinstance(bounds, Mapping) else dict.fromkeys(self.ps, bounds)
            if self.dtype == "c16" or Params(bounds.keys()) - self.ps:
                raise ValueError(f"bounds are for real parameters, all of them in ps, got {self.ps}")
            named = zip(self.ps.names, self.ps, strict=True)
            rows = [_interval(name, p, bounds.get(p, (None, None))) for name, p in named]
            self.bounds = np.concatenate(rows, axis=1)
            self.start = np.clip(self.best, *self.bounds)
        self.least, self.at_best, self.met, self.iterations = np.inf, dict[str, Any](), 0, 0

    def inside(self) -> Any:
        """Give the start, moved off its bounds: SciPy's interior-point method would stay on them."""
        if self.bounds is None:
            return self.start
        low, high = self.bounds
        room = np.minimum(1e-4 * np.maximum(1, np.abs(self.start)), (high - low) / 4)
        return np.clip(self.start, low + room, high - room)

    def vector(self, x: Any) -> Any:
        """Give parameters or gradients as one vector."""
        return x.to_vector().astype(self.dtype).view("f8")

    def numbers(self, v: Any) -> Any:
        """Give a vector of real numbers as the parameters' own: two of them make a complex one."""
        return np.ascontiguousarray(v, float).view(self.dtype)

    def put(self, v: Any) -> Params:
        """Put the parameters where the vector says, and give them."""
        x = self.numbers(v)
        if self.own is not None:  # what has not moved keeps the digits that double precision has no place for
            x = np.where(x == self.own.astype(self.dtype), self.own, x)
        self.ps.from_vector(x)
        return self.ps

    def note(self, v: Any, value: float, **what: Any) -> None:
        """Note the value at a point, and what else SciPy's result says of it."""
        self.met += 1
        if value < self.least:
            self.least, self.best, self.at_best = value, v.copy(), what

    def run(self, *arguments: Any, **options: Any) -> Any:
        """Call SciPy's function, and leave the parameters where the result says, or at the best point."""
        try:
            result = getattr(self.optimize, self.call)(*arguments, **options)
        except (Stop, KeyboardInterrupt) as end:
            how = "stop() was called" if isinstance(end, Stop) else "Interrupted by Ctrl-C"
            result = self.optimize.OptimizeResult(success=False, status=99, message=how, nfev=self.met)
        except BaseException:
            whole(self.put, self.best)
            raise
        value = result.get("cost", result.get("fun", np.inf))
        if is_lost := not value > -np.inf:  # SciPy may take that for a minimum
            result.update(success=False, message=f"The search has come to {value}")
        if not result.success:
            if is_lost or not value <= self.least or "x" not in result:
                result.update(x=self.best, **self.at_best)
            result.message = f"{str(result.message).rstrip('.')}. The parameters are at the best point met."
        whole(self.put, result.x)
        return result


def _checked(call: str, options: Any) -> dict[str, Any]:
    """Check options: SciPy's own errors come when parameters have moved."""
    checked = {}
    for name, x in options.items():
        if name in _NOT_OPTIONS:
            raise TypeError(f"{call} takes no {name}=: {_NOT_OPTIONS[name].format(call=call)}.")
        x = x[()] if getattr(x, "ndim", None) == 0 else x
        if name in _COUNTS and not (x is None or (is_number(x) and x == np.inf)):
            x = integer(name, x, of_any_type=True)
        elif name in _NUMBERS and x is not None and not is_number(x):
            number(name, x)
        checked[name] = x
    return checked


def _where_none(end: Any, no_end: float) -> Any:
    if isinstance(end, (list, tuple)):
        return [_where_none(x, no_end) for x in end]
    return no_end if end is None else end


def _interval(name: str, p: Param, pair: Any) -> tuple[Any, Any]:
    """Give the bounds of a parameter as two vectors."""
    # SciPy's form, a list of a pair for each element, would pass for a pair of arrays of two elements.
    is_scipys = isinstance(pair, list) and [*map(type, pair)] == [tuple] * p.size and {*map(len, pair)} == {2}
    try:
        ends = [_where_none(end, no_end) for end, no_end in zip(pair, (-np.inf, np.inf), strict=True)]
        low, high = (np.broadcast_to(np.asarray(end, float), p.shape).ravel() for end in ends)
        if np.all(low <= high) and not is_scipys:
            return low, high
    except (TypeError, ValueError):
        pass
    what = f"a pair of numbers or arrays {p.shape}, the lower before the upper"
    advice = ": of one pair for each element tuple(zip(*pairs)) makes it" if is_scipys else ""
    raise ValueError(f"bounds of parameter {name} must be {what}, got {described(pair)}{advice}")
