"""Pictures of training: schedules, losses, and the paths that optimisers take.

Every function draws into the Axes it is given, or into a new figure, and returns the Axes: titles, limits and
scales are then set as usual. Curves differ by their dashes and markers, not by colour alone.

Drawing needs matplotlib, of the `plot` extra. It is imported when a picture is drawn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff.checks import function, instance, integer, number
from minidiff.gradient import withgradient
from minidiff.optimise import AbstractOptimiser, reset, update
from minidiff.params import param, params
from minidiff.schedules.base import as_schedule, last_step, real
from minidiff.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_losses", "plot_paths", "plot_schedule", "trace_path"]

# Okabe and Ito's colours, which the colour-blind can tell apart, without those too light for lines.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_DASHES = ("-", "--", ":", "-.")
_GRID = 100  # points along each side of the grid on which contours are computed


def plot_schedule(
    schedule: Callable[[int], float],
    steps: int,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    log: bool = False,
) -> Axes:
    """Draw a schedule's value at the steps 1, 2, …, `steps`, or up to its end if that comes before.

    Parameters
    ----------
    schedule : schedule, function of t or number
        What to draw.
    steps : int, at least 1
        The number of steps.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given. Draw there again to compare schedules.
    label : str, optional
        The curve's name in the legend.
    log : bool, default False
        Whether to make the axis of values logarithmic.

    Returns
    -------
    Axes
        Where it was drawn.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be, or the schedule gives something that is no finite number.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> from minidiff.schedules import Cos, Exp
    >>> ax = plot_schedule(Cos(λ0=1e-4, λ1=1e-2, period=10), 30, label="Cos")
    >>> ax = plot_schedule(Exp(1e-2, 0.9), 30, ax, label="Exp")
    >>> ax.get_xlabel(), ax.get_ylabel(), len(ax.lines)
    ('step', 'value', 2)
    """
    schedule = as_schedule("schedule", schedule)
    end = last_step(schedule)
    last = integer("steps", steps, 1) if end is None else min(integer("steps", steps, 1), end)
    values = [real(schedule(t), schedule, t) for t in range(1, last + 1)]
    curve = _curve("the schedule", values, log)
    return _draw([(label, curve)], _axes(ax), log=log, ylabel="value")


def plot_losses(
    losses: ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike],
    ax: Axes | None = None,
    *,
    smooth: float = 0.0,
    labels: str | Sequence[str] | None = None,
    log: bool = False,
) -> Axes:
    r"""Draw the losses of one training or of several, against the step from 1 on.

    With `smooth` = β above 0 the curve is the running mean

    .. math:: \bar l_t = \frac{\sum_{i \le t} β^{t-i} \, l_i}{\sum_{i \le t} β^{t-i}}

    and the losses themselves are faint behind it.

    Parameters
    ----------
    losses : array_like of shape (steps,), or several
        What `train` returns. Several runs are a dict from label to losses, a list of arrays (their lengths
        may differ), or the rows of a 2-D array.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.
    smooth : float in [0, 1), default 0
        β: about 1/(1 − β) losses count for the mean.
    labels : str or sequence of str, optional
        The runs' names in the legend, for runs that are not in a dict.
    log : bool, default False
        Whether to make the axis of losses logarithmic. (Steps begin at 1, so that
        ``ax.set_xscale("log")`` works as well.)

    Returns
    -------
    Axes
        Where they were drawn.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be: losses that are not finite, for example, or below 0 on a
        logarithmic axis. The message says which run and step.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> runs = {"slow": [4.0, 2.0, 1.0], "fast": [4.0, 1.0]}
    >>> ax = plot_losses(runs, log=True)
    >>> [line.get_label() for line in ax.lines], ax.get_yscale()
    (['slow', 'fast'], 'log')
    """
    β = number("smooth", smooth, within="[0, 1)")
    curves = [(label, _curve(name, run, log)) for label, name, run in _runs(losses, labels)]
    return _draw(curves, _axes(ax), log=log, ylabel="loss", β=β)


def trace_path(
    f: Callable[[Any], Any], start: ArrayLike, opt: AbstractOptimiser, steps: int
) -> NDArray[np.float64]:
    """Minimise a function from a starting point, and give every point on the way.

    Parameters
    ----------
    f : callable
        Takes one array of the shape of `start`, for `plot_paths` of two numbers, ``x[0]`` and ``x[1]``.
        Returns one real number.
    start : array_like of float
        The starting point.
    opt : AbstractOptimiser
        The optimiser. A copy of it without state takes the steps: `opt` itself stays as it is.
    steps : int, at least 0
        The number of steps.

    Returns
    -------
    ndarray of shape (steps + 1, *shape of start), float64
        The starting point and where each step led.

    Raises
    ------
    FloatingPointError
        If the function, its gradient or the point is no longer finite; the message says at which step.
    TypeError, ValueError
        If an argument is not what it should be.

    Examples
    --------
    >>> from minidiff.optimise import Descent
    >>> trace_path(lambda x: x[0] ** 2 + 2 * x[1] ** 2, [1.0, 1.0], Descent(0.125), 2)
    array([[1.    , 1.    ],
           [0.75  , 0.5   ],
           [0.5625, 0.25  ]])
    """
    function("f", f, "a function of one array")
    instance("opt", opt, AbstractOptimiser, "an optimiser such as ADAM()")
    x = param(_real_array("start", start))
    path = np.empty((integer("steps", steps, 0) + 1, *x.value.shape))
    opt = copy.deepcopy(opt)
    reset(opt)
    path[0] = x.value
    for t in range(1, len(path)):
        with np.errstate(all="ignore"):  # an overflow is reported below, with its step
            value, grads = withgradient(lambda: f(x), params(x))
            update(opt, params(x), grads)
        path[t] = x.value
        if not (np.all(np.isfinite(value)) and np.all(np.isfinite(x.value))):
            raise FloatingPointError(
                f"step {t}, from {path[t - 1]} where f is {value}, leads to {path[t]}: the path diverges, "
                "take a smaller learning rate or fewer steps"
            )
    return path


def plot_paths(
    f: Callable[[Any], Any],
    paths: ArrayLike | Mapping[str, ArrayLike],
    bounds: ArrayLike,
    ax: Axes | None = None,
) -> Axes:
    """Draw the paths of optimisers over the contours of a function of two variables.

    A cross is where a path starts, the marker where it ends. The contours are at quantiles of the function
    within the bounds, closer together near its minimum: a function of any scale shows its shape.

    Parameters
    ----------
    f : callable
        Takes one array of two numbers, ``x[0]`` and ``x[1]``, and returns one real number.
    paths : dict from label to array_like of shape (points, 2), or one such array
        As `trace_path` gives them. What lies outside of the bounds is not shown. A dict may be empty.
    bounds : pair of pairs of float
        The least and greatest ``x[0]``, and the least and greatest ``x[1]``, to be shown.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        Where they were drawn.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be: the message says what it was.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> from minidiff.optimise import ADAM, Descent
    >>> f = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> paths = {str(opt): trace_path(f, [-2.0, 1.0], opt, 50) for opt in (Descent(0.09), ADAM(0.1))}
    >>> ax = plot_paths(f, paths, bounds=[(-3, 3), (-2, 2)])
    >>> ax.get_xlim(), ax.get_ylim()
    ((np.float64(-3.0), np.float64(3.0)), (np.float64(-2.0), np.float64(2.0)))
    """
    function("f", f, "a function of one array of two numbers")
    (left, right), (bottom, top) = _bounds(bounds)
    ways = (
        {label: _path(f"paths[{label!r}]", path) for label, path in paths.items()}
        if isinstance(paths, Mapping)
        else {None: _path("paths", paths)}
    )
    x, y = np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID)
    values = _on_grid(f, x, y)
    ax = _axes(ax)
    ax.contour(x, y, values, levels=_levels(values), colors="0.75", linewidths=0.7)
    ax.set_prop_cycle(_styles(("o", "s", "^", "D")))
    for label, way in ways.items():
        ax.plot(*way.T, label=label, markevery=[-1], markersize=6, linewidth=1.5)
    for start in {tuple(way[0]) for way in ways.values()}:
        ax.plot(*start, linestyle="none", marker="x", color="black", markersize=8)
    ax.set(xlabel="x[0]", ylabel="x[1]", xlim=(left, right), ylim=(bottom, top))
    return _with_legend(ax)


# How pictures are drawn ----------------------------------------------------------------------------------


def _axes(ax: Any) -> Axes:
    """Give the Axes to draw into: those given, or those of a new figure."""
    try:
        from matplotlib import axes, pyplot
    except ImportError:
        raise ImportError("minidiff.plot draws with matplotlib: pip install 'minidiff[plot]'") from None
    if ax is None:
        return pyplot.subplots(layout="constrained")[1]
    advice = ": where plt.subplots gives an array of Axes, take one of them"
    return instance("ax", ax, axes.Axes, "a matplotlib Axes", advice)  # type: ignore[no-any-return]


def _styles(markers: tuple[str, ...]) -> Any:
    """Give matplotlib a cycle in which sixteen curves all differ by dashes and marker."""
    from cycler import cycler

    return cycler(
        color=_COLOURS * 2,
        linestyle=_DASHES * 4,
        marker=[markers[(i + i // 4) % 4] for i in range(16)],
    )


def _draw(
    curves: Iterable[tuple[str | None, NDArray[np.float64]]],
    ax: Axes,
    *,
    log: bool,
    ylabel: str,
    β: float = 0.0,
) -> Axes:
    if not ax.lines:
        ax.set_prop_cycle(_styles(("", "o", "s", "^")))
    for label, curve in curves:
        steps = np.arange(1, len(curve) + 1)
        (line,) = ax.plot(steps, _smoothed(curve, β), label=label, markevery=0.15, markersize=5)
        if β > 0:
            ax.plot(steps, curve, color=line.get_color(), linestyle="-", marker="", alpha=0.25, linewidth=0.8)
    if log:
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel=ylabel)
    return _with_legend(ax)


def _with_legend(ax: Axes) -> Axes:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize="small")
    return ax


def _smoothed(losses: NDArray[np.float64], β: float) -> NDArray[np.float64]:
    """Give the running means: both sums of the formula are kept, each β times the last plus what is new."""
    means, total, weight = np.empty_like(losses), 0.0, 0.0
    for i, loss in enumerate(losses.tolist()):
        total, weight = β * total + loss, β * weight + 1
        means[i] = total / weight
    return means


def _on_grid(f: Callable[[Any], Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
    """Compute f at every point of the grid, one by one: it may do with its array what it likes."""
    with np.errstate(all="ignore"):
        values = [f(np.array([a, b])) for b in y for a in x]
    if any(np.size(value) != 1 or np.iscomplexobj(value) for value in values):
        raise TypeError(
            f"f must return one real number, got {values[0]!r:.60} at {[float(x[0]), float(y[0])]}"
        )
    grid = np.array([np.asarray(value).item() for value in values], float).reshape(len(y), len(x))
    if not np.any(np.isfinite(grid)):
        raise ValueError("f is finite nowhere within bounds, so that there are no contours to draw")
    return np.ma.masked_invalid(grid)


def _levels(values: Any) -> NDArray[np.float64]:
    """Give the values of the contours: quantiles, crowded where f is low."""
    return np.unique(np.quantile(values.compressed(), np.linspace(0, 1, 16)[1:-1] ** 1.5))


# How arguments are checked -------------------------------------------------------------------------------


def _real_array(name: str, x: Any) -> NDArray[np.float64]:
    """Give argument x as an array of floats, if it consists of real numbers."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must consist of real numbers, got an array of dtype {array.dtype}")
    return array.astype(np.float64)


def _curve(name: str, values: Any, log: bool) -> NDArray[np.float64]:
    """Give one curve's values, if they can be drawn."""
    curve = _real_array(name, values)
    if curve.ndim != 1 or curve.size == 0:
        raise ValueError(f"{name} must have one value per step, shape (steps,), got shape {curve.shape}")
    if not np.all(np.isfinite(curve)):
        i = int(np.argmin(np.isfinite(curve)))
        raise ValueError(
            f"{name} is {curve[i]} at step {i + 1}, which cannot be drawn: "
            f"draw the first {i} steps, or find out what happened there"
        )
    if log and np.any(curve < 0):
        i = int(np.argmax(curve < 0))
        raise ValueError(f"{name} is {curve[i]:.4g} at step {i + 1}, and log=True has no place below 0")
    return curve


def _runs(losses: Any, labels: Any) -> Iterable[tuple[Any, str, Any]]:
    """Give each run's label, the name by which errors call it, and its losses."""
    if isinstance(losses, Mapping):
        if labels is not None:
            raise TypeError(
                "labels come with losses that are a dict: leave labels out, or give a list of runs"
            )
        if not losses:
            raise ValueError("losses is an empty dict: there is no run to draw")
        return [(label, f"losses[{label!r}]", run) for label, run in losses.items()]
    several = isinstance(losses, (list, tuple)) and any(np.ndim(run) for run in losses)
    if not several and np.ndim(losses) != 2:
        if labels is not None and not isinstance(labels, str) and len(labels) != 1:
            raise ValueError(f"labels has {len(labels)} names, but losses is one run")
        return [(labels if labels is None or isinstance(labels, str) else labels[0], "losses", losses)]
    if labels is not None and (isinstance(labels, str) or len(labels) != len(losses)):
        raise ValueError(f"labels must name each of the {len(losses)} runs, got {labels!r:.60}")
    return [(labels and labels[i], f"losses[{i}]", run) for i, run in enumerate(losses)]


def _path(name: str, path: Any) -> NDArray[np.float64]:
    points = _real_array(name, path)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(
            f"{name} must have a row of two numbers per point, shape (points, 2), got shape {points.shape}"
        )
    if not np.all(np.isfinite(points)):
        i = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise ValueError(f"{name} is {points[i]} at point {i}: draw the points before it, {name}[:{i}]")
    return points


def _bounds(bounds: Any) -> list[list[float]]:
    pairs = _real_array("bounds", bounds)
    if pairs.shape != (2, 2):
        raise ValueError(
            f"bounds must be [(least x[0], greatest x[0]), (least x[1], greatest x[1])], "
            f"got shape {pairs.shape}: {bounds!r:.60}"
        )
    for i, (low, high) in enumerate(pairs.tolist()):
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"bounds[{i}] must be a finite range, least first, got ({low}, {high})")
    return pairs.tolist()  # type: ignore[no-any-return]
