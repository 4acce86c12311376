"""How optimisers are driven: `update`, `apply` and `reset`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, TypeAlias, overload

import numpy as np

from minidiff.checks import add_note, described, hint, instance, is_ndarray, share_memory
from minidiff.grads import Grads
from minidiff.interrupts import whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.step import Change, compute, make, take
from minidiff.params import Param, Params
from minidiff.tracing import is_recorded
from minidiff.typing import Array, ArrayLike

__all__ = ["apply", "changes_of", "reset", "update"]


Place: TypeAlias = tuple[Any, int]  # all the parameters, and the index of one

_MAKE: Final = "make one with param(...), or collect those of a model with params(model)"
_BY_PARAMETER: Final = attrgetter("by_parameter")
_PARAMETERS: Final = (Param, np.ndarray)


@overload
def update(x: Param | Array, x̄: ArrayLike | None, /) -> None: ...
@overload
def update(opt: AbstractOptimiser, p: Param | Array, g: ArrayLike | None, /) -> None: ...
@overload
def update(opt: AbstractOptimiser, ps: Iterable[Any], gs: Mapping[Any, Any], /) -> None: ...
def update(opt: Any, ps: Any, gs: Any = ..., /) -> None:
    """Update parameters in place.

    | ``update(x, x̄)`` is ``x -= x̄``;
    | ``update(opt, p, g)`` takes one step of the optimiser with the parameter ``p`` and its gradient ``g``;
    | ``update(opt, ps, gs)`` does so for each parameter of ``ps``.

    All steps are computed before anything moves: if a gradient is refused or an optimiser raises, all is as
    it was. (Of what an optimiser of your own changes, the attributes that it sets and the entries of its
    `IdDict` are put back; a list, a dict or an array that it changes is not.) Gradients are never modified; a
    gradient that is ``None`` leaves its parameter, and what the optimiser knows of it, as they were. A signal
    (Ctrl-C, SIGTERM) waits until all parameters have made their step. Parameters that share memory are the
    exception: they move one after another, each by itself.

    Parameters
    ----------
    x, p : Param or ndarray of floats or complex numbers
        What to update. State belongs to this very object (not to its values), and is freed with it.
    x̄, g : array_like or None
        Of exactly the shape of the parameter. It is cast to the parameter's dtype.
    opt : AbstractOptimiser
        The optimiser, whose state advances.
    ps : Params or iterable of parameters
        Each at most once.
    gs : Mapping
        From each of these parameters to its gradient: a `Grads`, an `IdDict`, a dict.

    Raises
    ------
    TypeError
        For an `opt` that is no optimiser, a parameter that is not a float or complex array, a gradient that
        does not consist of numbers or is complex where the parameter is real.
    ValueError
        For a gradient of another shape, a read-only parameter, or a parameter that comes twice.
    KeyError
        For a parameter that `gs` lacks.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param, params
    >>> from minidiff.optimise import Descent, update
    >>> W, b = param([[1.0, 2.0]]), param([3.0])
    >>> update(b, 0.5)
    Traceback (most recent call last):
        ...
    ValueError: the gradient has shape (), its parameter (1,): they must be equal
    >>> update(b, [0.5])
    >>> b.value
    array([2.5])
    >>> update(Descent(0.1), params(W, b), {W: np.ones((1, 2)), b: None})
    >>> W.value, b.value
    (array([[0.9, 1.9]]), array([2.5]))
    """
    if gs is ...:
        if isinstance(opt, AbstractOptimiser):
            lacks = "parameters" if isinstance(ps, Mapping) else "gradients"
            raise TypeError(f"update lacks the {lacks}: write update(opt, ps, grads)")
        if isinstance(ps, Mapping):
            raise TypeError("update(ps, grads) lacks the optimiser: write update(opt, ps, grads)")
        p, g = opt, ps
        x = _array_of(p)
        if g is not None:
            take([], p, x, _gradient(g, x))
        return
    p, g = ps, gs
    if not isinstance(opt, AbstractOptimiser):
        if isinstance(p, AbstractOptimiser) or isinstance(g, AbstractOptimiser):
            raise _out_of_order()
        _check_optimiser(opt)
    if isinstance(p, _PARAMETERS):
        x = _array_of(p)
        if g is not None:
            take(opt.stages(p), p, x, _gradient(g, x))
        return
    whole(_update_all, opt, p, g)


def _out_of_order() -> TypeError:
    return TypeError("the order is update(opt, ps, grads): the optimiser, the parameters, their gradients")


def _update_all(opt: AbstractOptimiser, ps: Any, gs: Any) -> None:
    make(changes_of(opt, ps, gs)[0])


def changes_of(opt: AbstractOptimiser, ps: Any, gs: Any) -> tuple[list[Change], Callable[[], object]]:
    """Check every parameter and gradient, and compute the steps, as `compute` does.

    Parameters
    ----------
    opt, ps, gs
        As for `update`.

    Returns
    -------
    list
        The changes, for `make`.
    callable
        Makes all as before, if the changes are not to be made.
    """
    if not isinstance(ps, Params):
        if isinstance(ps, Mapping) and isinstance(gs, (Params, Param)):
            raise _out_of_order()
        ps = _parameters(ps)
    if not isinstance(gs, (Grads, Mapping)):
        advice = ": for p, g in zip(ps, gs): update(opt, p, g)" if isinstance(gs, (tuple, list)) else ""
        advice = ": take its .grad" if hasattr(gs, "grad") else advice
        raise TypeError(
            f"for several parameters the gradients must be a mapping from parameter to gradient, "
            f"as gradient(f, ps) gives it, not {described(gs)}{advice}"
        )
    steps, has_views = [], False
    stages = opt.stages()
    differ = any(map(_BY_PARAMETER, stages))
    for i, p in enumerate(ps):
        place = ps, i
        x = _array_of(p, place)
        try:
            g = gs[p]
        except (KeyError, TypeError) as error:  # a dict has no place for plain arrays
            raise _no_gradient(gs, place, x) from (error if isinstance(error, TypeError) else None)
        if g is not None:
            steps.append((opt.stages(p) if differ else stages, p, x, _gradient(g, x, place)))
            has_views = has_views or x.base is not None
    # Views of one another have to move one after another.
    may_share = has_views or len({id(x) for _, _, x, _ in steps}) < len(steps)
    if may_share and share_memory([x for _, _, x, _ in steps]):
        return [(take, step) for step in steps], list
    changes: list[Change] = []
    try:
        if differ:
            stages = [*{id(stage): stage for mine, *_ in steps for stage in mine}.values()]
        return changes, compute(steps, changes, stages)
    except Exception as error:
        where = ""
        for _, p, x, _ in steps[len(changes) :][:1]:  # none, if all had been computed
            which = _which((ps, next(i for i, other in enumerate(ps) if other is p)))
            where = f", at {which} of shape {x.shape}"
        add_note(error, f"in update(opt, ps, gs){where}; nothing has moved")
        raise


def _no_gradient(gs: Mapping[Any, Any], place: Place, x: Array) -> KeyError:
    cure = "take the gradient over the same parameters, or map it to None"
    if any(isinstance(key, str) for key in gs.keys()):  # noqa: SIM118 - Grads warn of bare iteration
        cure = "gs goes by names: write gradient(lambda: f(p), params(p)), by parameters"
    return KeyError(f"gs has no gradient for {_which(place)} of ps, of shape {x.shape}: {cure}")


def _parameters(ps: Any) -> list[Any]:
    """Return parameters that come in something else than a `Params`, where each is one and comes once."""
    if isinstance(ps, Mapping):
        raise TypeError("expected a parameter or Params, got a mapping: params(…) collects those in it")
    if not isinstance(ps, Iterable):
        raise TypeError(f"expected a parameter or Params, got {described(ps)}: {_MAKE}")
    found: list[Any] = []
    for i, p in enumerate(ps):  # it may be without end: the first that is no parameter is refused
        if not isinstance(p, _PARAMETERS):
            raise TypeError(f"parameter {i} is {described(p)}: {_MAKE}")
        found.append(p)
    if len({id(p) for p in found}) < len(found):
        raise ValueError("a parameter comes twice in ps: each may be updated once, params(...) sees to that")
    return found


def apply(opt: AbstractOptimiser, x: Param | Array, Δ: ArrayLike) -> Array:
    """Advance the optimiser's state by a step of `x` and return that step, without taking it.

    Parameters
    ----------
    opt : AbstractOptimiser
        The optimiser.
    x : Param or ndarray
        The parameter. It stays as it is.
    Δ : array_like
        Its gradient, of the same shape. It stays as it is.

    Returns
    -------
    ndarray
        The step that `update` would subtract from `x`; a fresh array.

    Raises
    ------
    TypeError, ValueError
        As `update` does.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Momentum, apply
    >>> opt, x = Momentum(0.1), np.zeros(2)
    >>> apply(opt, x, [1.0, -2.0])
    array([ 0.1, -0.2])
    >>> apply(opt, x, [1.0, -2.0])
    array([ 0.19, -0.38])
    """
    _check_optimiser(opt)
    if isinstance(x, Params):
        raise TypeError("apply gives the step of one parameter; update(opt, ps, grads) steps several")
    array = _array_of(x, written=False)
    step = np.empty_like(array)
    take(opt.stages(x), x, array, _gradient(Δ, array), step)
    return step


def reset(opt: AbstractOptimiser) -> None:
    """Make the optimiser forget its state: momenta, step counts, decays done. Its settings stay.

    Parameters
    ----------
    opt : AbstractOptimiser
        An optimiser, or a composition of them.

    Raises
    ------
    TypeError
        If `opt` is no optimiser.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Momentum, apply, reset
    >>> opt, x = Momentum(0.1), np.zeros(1)
    >>> apply(opt, x, [1.0]), apply(opt, x, [1.0])
    (array([0.1]), array([0.19]))
    >>> reset(opt)
    >>> apply(opt, x, [1.0])
    array([0.1])
    """
    _check_optimiser(opt)
    whole(opt.reset)


def _array_of(p: Any, place: Place | None = None, *, written: bool = True) -> Array:
    """Return the ndarray that a parameter is, once it is sure that a step can be taken there."""
    is_param = isinstance(p, Param)
    x = p.in_place("update(…)" if written else "apply(…)") if is_param else p
    if type(x) is not np.ndarray:
        if not is_ndarray(x):
            raise TypeError(f"{_which(place)} is {described(p)}: {_MAKE}")
        x = x.view(np.ndarray)  # a subclass may give operators another meaning (np.matrix)
    if not is_param and x.dtype.kind not in "fc":
        raise TypeError(
            f"{_which(place)} has dtype {x.dtype}, and steps are no such numbers: "
            f"it must be a float or complex array, which param(...) makes"
        )
    if written and not x.flags.writeable:
        raise ValueError(f"{_which(place)} is a read-only array: update a copy, or param(...) of it")
    return x


def _gradient(g: Any, x: Array, place: Place | None = None) -> Array:
    """Return a gradient as an ndarray that fits `x` (its dtype may still be another)."""
    Δ: Any = g
    if type(g) is not np.ndarray:
        if isinstance(g, Mapping):
            raise TypeError(f"{_which_gradient(place)} is a mapping: take the parameter's own, grads[p]")
        if isinstance(g, Param):
            raise TypeError(f"{_which_gradient(place)} is a parameter itself: take grads[p], or its .value")
        if isinstance(g, np.ma.MaskedArray):
            raise TypeError(f"{_which_gradient(place)} is a masked array: pass g.filled(0) for no step there")
        if is_recorded(g):
            raise TypeError(
                f"{_which_gradient(place)} is a value under differentiation, and steps are not "
                "differentiated: write w = w - η * g on plain arrays, or take dropgrad(g)"
            )
        try:
            Δ = np.asarray(g)
        except ValueError as error:
            raise ValueError(f"{_which_gradient(place)} is no array: {error}") from None
    if Δ.dtype is not x.dtype:
        if Δ.dtype.kind not in "fciub":
            advice = ": take its .toarray()" if hasattr(g, "toarray") else ""
            raise TypeError(
                f"{_which_gradient(place)} is {described(g)}, which does not consist of numbers{advice}"
            )
        if Δ.dtype.kind == "c" and x.dtype.kind != "c":
            raise TypeError(
                f"{_which_gradient(place)} is complex and its parameter real: take its .real if that is what "
                f"is meant"
            )
    if Δ.shape != x.shape:
        raise ValueError(
            f"{_which_gradient(place)} has shape {Δ.shape}, its parameter {x.shape}: they must be equal"
            + (", and gradient(f, x) is a tuple: take gradient(f, x)[0]" if isinstance(g, tuple) else "")
        )
    return Δ  # type: ignore[no-any-return]


def _which(place: Place | None) -> str:
    if place is None:
        return "the parameter"
    ps, i = place
    return f"parameter {ps.names[i] if isinstance(ps, Params) else i}"


def _which_gradient(place: Place | None) -> str:
    return "the gradient" if place is None else f"the gradient of {_which(place)}"


def _check_optimiser(opt: Any) -> None:
    own = "; one of your own derives from AbstractOptimiser and has a method apply(self, x, Δ)"
    instance("opt", opt, AbstractOptimiser, "an optimiser such as ADAM()", hint(opt) or own)
