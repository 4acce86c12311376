"""Pictures of training: schedules, losses, and the paths that optimisers take.

Every function draws into the Axes it is given, or into a new figure, and returns the Axes: titles, limits and
scales are then set as usual. Curves differ by their dashes and markers, not by colour alone.

Drawing needs matplotlib, of the `plot` extra. It is imported when a picture is drawn.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import io
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff.checks import extra, function, instance, integer, number
from minidiff.files import write
from minidiff.gradient import _record, withgradient
from minidiff.optimise import AbstractOptimiser, Rule, reset, update
from minidiff.params import Params, param, params
from minidiff.schedules.base import as_schedule, last_step, real
from minidiff.tracing import Traced, constant, history, name_of
from minidiff.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Explorer",
    "PathAnimation",
    "animate_paths",
    "explore",
    "plot_graph",
    "plot_losses",
    "plot_paths",
    "plot_schedule",
    "trace_path",
]

# Okabe and Ito's colours, which the colour-blind can tell apart, without those too light for lines.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_DASHES = {"-": "", "--": "6 3", ":": "1.5 3", "-.": "6 3 1.5 3"}  # matplotlib's name, and SVG's
_GRID = 100  # points along each side of the grid on which contours are computed


def plot_schedule(
    schedule: Callable[[int], float] | Mapping[str, Callable[[int], float]],
    steps: int,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    log: bool = False,
) -> Axes:
    """Draw a schedule's value, or several, at the steps 1, 2, …, `steps`, or to its end if that is before.

    Parameters
    ----------
    schedule : schedule, function of t or number, or several
        What to draw. Several are a dict from label to schedule.
    steps : int, at least 1
        The number of steps.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given. Draw there again to compare schedules.
    label : str, optional
        The curve's name in the legend, for one that is not in a dict.
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
    >>> schedules = {"Cos": Cos(λ0=1e-4, λ1=1e-2, period=10), "Exp": Exp(1e-2, 0.9)}
    >>> ax = plot_schedule(schedules, 30)
    >>> ax.get_xlabel(), ax.get_ylabel(), len(ax.lines)
    ('step', 'value', 2)
    """
    steps = integer("steps", steps, 1)
    named = _named("schedule", schedule, "label", label)
    curves = [(label, _values(name, s, steps, log)) for label, name, s in named]
    return _draw(curves, _axes(ax), log=log, ylabel="value")


def _values(name: str, schedule: Any, steps: int, log: bool) -> NDArray[np.float64]:
    """Give the values of one schedule, if they can be drawn."""
    schedule = as_schedule(name, schedule)
    end = last_step(schedule, steps)
    last = steps if end is None else min(steps, end)
    values = [real(schedule(t), schedule, t) for t in range(1, last + 1)]
    return _curve(name, values, log)


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
    return np.array([*_points(f, _real_array("start", start), opt, integer("steps", steps, 0))])


def _points(
    f: Callable[[Any], Any], start: Any, opt: AbstractOptimiser, steps: int
) -> Iterator[NDArray[np.float64]]:
    """Give the points of a path, one after another, until it ends or diverges."""
    x, opt = param(start), copy.deepcopy(opt)
    reset(opt)
    yield x.copy()
    for t in range(1, steps + 1):
        before = x.copy()
        with np.errstate(all="ignore"):  # an overflow is reported below, with its step
            value, grads = withgradient(lambda: f(x), params(x))
            update(opt, params(x), grads)
        if not (np.all(np.isfinite(value)) and np.all(np.isfinite(x.value))):
            raise FloatingPointError(
                f"step {t}, from {before} where f is {value}, leads to {x.value}: the path diverges, "
                "take a smaller learning rate or fewer steps"
            )
        yield x.copy()


def plot_paths(
    f: Callable[[Any], Any],
    paths: ArrayLike | Mapping[str, ArrayLike],
    bounds: ArrayLike,
    ax: Axes | None = None,
) -> Axes:
    """Draw the paths of optimisers over the contours of a function of two variables.

    A cross is where a path starts, the marker where it ends. The contours are at quantiles of the function
    within the bounds, closer together near its minimum: a function of any scale shows its shape. Every
    fourth has its value written on it.

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
    >>> opts = Descent(0.09), ADAM(0.1)
    >>> paths = {str(opt): trace_path(f, [-2.0, 1.0], opt, 50) for opt in opts}
    >>> ax = plot_paths(f, paths, bounds=[(-3, 3), (-2, 2)])
    >>> ax.get_xlim(), ax.get_ylim()
    ((np.float64(-3.0), np.float64(3.0)), (np.float64(-2.0), np.float64(2.0)))
    """
    function("f", f, "a function of one array of two numbers")
    (left, right), (bottom, top) = _bounds(bounds)
    ways = {label: _path(name, path) for label, name, path in _named("paths", paths)}
    x, y = np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID)
    values = _on_grid(f, x, y)
    ax = _axes(ax)
    contours: Any = ax.contour(x, y, values, levels=_levels(values), colors="0.75", linewidths=0.7)
    ax.clabel(contours, list(contours.levels)[::4], fmt="%.3g", fontsize=6, colors="0.5")
    ax.set_prop_cycle(_styles(("o", "s", "^", "D")))
    for label, way in ways.items():
        ax.plot(*way.T, label=label, markevery=[-1], markersize=6, linewidth=1.5)
    for start in {tuple(way[0]) for way in ways.values()}:
        ax.plot(*start, linestyle="none", marker="x", color="black", markersize=8)
    ax.set(xlabel="x[0]", ylabel="x[1]", xlim=(left, right), ylim=(bottom, top))
    return _with_legend(ax)


def plot_graph(f: Callable[..., Any], *args: Any, ax: Axes | None = None, most: int = 200) -> Axes:
    """Draw what is recorded of a function: which NumPy calls make its result of the parameters.

    Each box is a parameter or a call, with its shape, and the numbers themselves where there are at most
    four. Every arrow is a way that the gradient goes back.

    Parameters
    ----------
    f : callable
        A loss, or any other function.
    *args : Params, or any arguments
        As for `gradient`: the parameters that it reaches, or its arguments.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given, as large as the graph needs.
    most : int, default 200
        The largest number of calls to be drawn.

    Returns
    -------
    Axes
        Where it was drawn.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be, or more calls are recorded than `most`.
    ImportError
        If there is no matplotlib.

    Notes
    -----
    Where Graphviz is installed, its ``dot`` says where the boxes stand; otherwise a box stands one row below
    the lowest of those it is made from. A parameter that the result does not depend on has no arrow.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param
    >>> W, x = param([[1.0, 2.0]]), np.array([1.0, 1.0])
    >>> ax = plot_graph(lambda: np.sum((W @ x) ** 2), params(W))
    >>> [text.get_text().split()[0] for text in ax.texts if text.get_text()]
    ['0', 'np.matmul', 'np.power', 'np.sum']
    """
    _, node, roots, _ = _record(f, args, "plot_graph")
    if node is None:
        raise ValueError("plot_graph(f, …): there is nothing to draw, the result depends on none of them")
    calls = history(node)[::-1]
    if len(calls) > integer("most", most, 1):
        raise ValueError(
            f"f makes {len(calls)} calls, too many to be seen: draw a part, or raise most={most}"
        )
    first = args[0]
    names = first.names if isinstance(first, Params) else [f"argument {i}" for i in range(len(roots))]
    boxes = {id(root): _label(name, root) for name, root in zip(names, roots, strict=True)}
    boxes |= {id(call): _label(name_of(call.function), call) for call in calls}
    arrows = list(dict.fromkeys((id(parent), id(call)) for call in calls for parent in call.parents))
    places = _by_graphviz(boxes, arrows) if shutil.which("dot") else _by_rows(boxes, arrows)
    points, margin = np.array([*places.values()]), np.array([1, 0.4])
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    is_new, ax = ax is None, _axes(ax)
    if is_new:
        _figure_of(ax).set_size_inches(*np.clip(high - low, 2, 60))
    for start, end in arrows:
        style = {"arrowstyle": "-|>", "color": "0.5", "shrinkA": 13, "shrinkB": 13}
        ax.annotate("", places[end], places[start], arrowprops=style)
    colours = {id(root): "#0072b2" for root in roots} | {id(node): "#d55e00"}
    for box, label in boxes.items():
        frame = {"boxstyle": "round", "facecolor": "white", "edgecolor": colours.get(box, "black")}
        ax.text(*places[box], label, ha="center", va="center", fontsize=7, bbox=frame)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    ax.axis("off")
    return ax


def _label(name: str, x: Traced) -> str:
    value = constant(x._value)
    if not hasattr(value, "shape"):
        return f"{name}\n{len(value)} results"
    numbers = np.array2string(value, precision=3).replace("\n", "") if value.size <= 4 else ""
    return f"{name}\n{value.shape} {numbers}".rstrip()


def _by_rows(boxes: Iterable[int], arrows: list[tuple[int, int]]) -> dict[int, tuple[float, float]]:
    """Place boxes in rows, each beneath all that lead to it and near their middle; in inches."""
    row = dict.fromkeys(boxes, 0)
    for start, end in arrows:  # in the order of the calls: what leads to `start` has its row
        row[end] = max(row[end], row[start] + 1)
    inner = {end for _, end in arrows}
    row |= {
        box: min([row[e] for s, e in arrows if s == box], default=1) - 1 for box in row if box not in inner
    }
    places: dict[int, tuple[float, float]] = {}
    for y in range(max(row.values()) + 1):
        above = {box: [places[s][0] for s, e in arrows if e == box] for box in row if row[box] == y}
        for i, box in enumerate(sorted(above, key=lambda box: np.mean(above[box] or 0.0))):
            places[box] = (1.7 * (i - (len(above) - 1) / 2), -0.75 * y)
    return places


def _by_graphviz(boxes: Iterable[int], arrows: list[tuple[int, int]]) -> dict[int, tuple[float, float]]:
    """Place boxes where Graphviz does; in inches."""
    lines = [*map(str, boxes), *(f"{start} -> {end}" for start, end in arrows)]
    source = "digraph { node [shape=box width=1.6]; " + "; ".join(lines) + " }"
    plain = subprocess.run(
        ["dot", "-Tplain"], input=source, capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in plain.splitlines() if line.startswith("node")]
    return {int(name): (float(x), float(y)) for _, name, x, y, *_ in rows}


class PathAnimation:
    """An animation of paths, as `animate_paths` makes it: a notebook shows it, `save` writes it.

    It is one piece of HTML with a button, a slider and the picture in it. It needs neither a server nor
    anything from elsewhere.

    Attributes
    ----------
    html : str
        The piece of HTML.
    steps : int
        The number of steps of the longest path.
    """

    def __init__(self, html: str, steps: int) -> None:
        self.html, self.steps = html, steps

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the animation as a page of its own, which any browser plays.

        Parameters
        ----------
        path : str or path-like
            The file; one that is there is replaced.
        """
        page = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><body>{self.html}</body></html>'
        write(os.fspath(path), [page.encode()])

    def __repr__(self) -> str:
        return f"<PathAnimation of {self.steps} steps>"

    def _repr_html_(self) -> str:
        return self.html


def animate_paths(
    f: Callable[[Any], Any],
    paths: ArrayLike | Mapping[str, ArrayLike],
    bounds: ArrayLike,
    *,
    size: tuple[float, float] = (5.6, 4.2),
    rate: float = 20.0,
) -> PathAnimation:
    """Animate what `plot_paths` draws: every path grows step by step, all at the same time.

    Parameters
    ----------
    f, paths, bounds
        As for `plot_paths`. A path that is shorter than the others waits at its end.
    size : pair of float, default (5.6, 4.2)
        Width and height, in inches.
    rate : float above 0, default 20
        Steps per second.

    Returns
    -------
    PathAnimation
        A notebook shows it when it is a cell's last line.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> from minidiff.optimise import Descent, Momentum
    >>> f = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> opts = Descent(0.05), Momentum(0.02)
    >>> paths = {str(opt): trace_path(f, [-2.0, 1.0], opt, 50) for opt in opts}
    >>> animate_paths(f, paths, bounds=[(-3, 3), (-2, 2)])
    <PathAnimation of 50 steps>
    """
    rate = number("rate", rate, within="(0, inf)")
    width, height = (number(f"size[{i}]", x, within="(0, inf)") for i, x in enumerate(size))
    ax = plot_paths(f, paths, bounds)
    figure = _figure_of(ax)
    figure.set_size_inches(width, height)
    drawn: list[Any] = [line for line in ax.lines if line.get_linestyle() != "None"]
    figure.canvas.draw()  # which fixes the layout, and so where points are in the picture
    scale = 72 / figure.dpi
    ways = [ax.transData.transform(line.get_xydata()) * [scale, -scale] + [0, 72 * height] for line in drawn]
    box = ax.bbox
    frame = [box.x0 * scale, 72 * height - box.y1 * scale, box.width * scale, box.height * scale]
    names = [str(line.get_label()) for line in drawn if not str(line.get_label()).startswith("_")]
    for line in drawn:
        line.set_visible(False)  # the legend stays out of their way
    background = _png(figure, 192)
    _pyplot().close(figure)
    steps = max((len(way) for way in ways), default=1) - 1
    content = {
        "picture": base64.b64encode(background).decode(),
        "width": f"{72 * width:.0f}",
        "height": f"{72 * height:.0f}",
        "frame": 'x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"'.format(*frame),
        "colours": json.dumps([line.get_color() for line in drawn]),
        "dashes": json.dumps([_DASHES[line.get_linestyle()] for line in drawn]),
        "points": json.dumps([np.round(np.clip(way, -1e4, 1e4), 1).tolist() for way in ways]),
        "title": html.escape("Animated paths" + (f": {', '.join(names)}" if names else "")),
        "steps": str(steps),
        "pause": f"{1000 / rate:.0f}",
    }
    name = "paths-" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    return PathAnimation(_PLAYER.substitute(content, name=name), steps)


_STILL_WIDTH = 5.6  # inches


class Explorer:
    """What `explore` shows: sliders over the picture of a path.

    Attributes
    ----------
    opt : Rule
        The optimiser with the settings that the sliders have now.
    path : ndarray of shape (points, 2)
        The path that is shown.
    widget : ipywidgets.Widget
        The sliders and the picture, to be put into other widgets.
    """

    def __init__(
        self,
        f: Callable[[Any], Any],
        opt: Rule,
        ranges: Mapping[str, tuple[float, float]],
        start: NDArray[np.float64],
        bounds: ArrayLike,
        steps: int,
    ) -> None:
        needs = "explore shows sliders of ipywidgets: pip install 'minidiff[tutorials]'"
        widgets = extra("ipywidgets", needs)
        self._f, self._start, self._steps = f, start, steps
        self.opt: Rule = opt
        self.path = self._trace()
        self._ax = plot_paths(f, self.path, bounds)
        self._line = self._ax.lines[0]
        self._figure = _figure_of(self._ax)
        self._figure.set_size_inches(5.6, 4.2)
        _pyplot().close(self._figure)  # a notebook would show it a second time
        self._sliders = {}
        for name, i, value in _numbers(opt):
            label = name if i is None else f"{name}[{i}]"
            ends = ranges.get(name) or _ends(opt, name, i, value)
            self._sliders[name, i] = _slider(widgets, label, value, ends)
        self._picture = widgets.Image(format="png")
        self._draw()
        for slider in self._sliders.values():
            slider.observe(self._changed, "value")
        self.widget = widgets.VBox([*self._sliders.values(), self._picture])

    def _trace(self) -> NDArray[np.float64]:
        points: list[NDArray[np.float64]] = []
        self._end = ""
        try:
            points.extend(_points(self._f, self._start, self.opt, self._steps))
        except FloatingPointError as error:
            self._end = f"diverges at {str(error).split(',')[0]}"
        return np.array(points or [self._start])

    def _changed(self, _: Any) -> None:
        settings: dict[str, Any] = {}
        for (name, i), slider in self._sliders.items():
            settings[name] = slider.value if i is None else (*settings.get(name, ()), slider.value)
        self.opt = type(self.opt)(**{**self.opt.arguments(), **settings})
        self.path = self._trace()
        self._draw()

    @np.errstate(all="ignore")  # a path that diverges goes far beyond the picture
    def _draw(self) -> None:
        self._line.set_data(*self.path.T)
        height = float(np.asarray(self._f(self.path[-1])))
        self._ax.set_title(f"{self.opt}\n{self._end or f'f is {height:.3g} at the end'}", fontsize="small")
        self._picture.value = _png(self._figure, 90)

    def __repr__(self) -> str:
        return f"<Explorer of {self.opt}>"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Give the sliders to a live notebook, and a still of them to a page, two pixels for each shown."""
        bundle = self.widget._repr_mimebundle_() or {}
        still = base64.b64encode(self._still()).decode()
        shown = {"image/png": {"width": round(_STILL_WIDTH * 96)}}
        return {**bundle, "image/png": still, "text/plain": repr(self)}, shown

    def _still(self) -> bytes:
        """Draw sliders and path as one picture."""
        from matplotlib.widgets import Slider

        pyplot = _pyplot()
        n = len(self._sliders)
        figure, axes = pyplot.subplots(
            n + 1, figsize=(_STILL_WIDTH, 4.4 + 0.3 * n), layout="constrained", height_ratios=[1] * n + [16]
        )
        for ax, slider in zip(axes, self._sliders.values(), strict=False):
            low, high, value = slider.min, slider.max, slider.value
            if hasattr(slider, "base"):
                value = math.log(value, slider.base)
            shown = Slider(ax, slider.description, low, high, valinit=value, color="#0072b2")
            shown.valtext.set_text(f"{slider.value:.4g}")
        axes[-1].imshow(pyplot.imread(io.BytesIO(_png(self._figure, 300))))
        axes[-1].axis("off")
        picture = _png(figure, 192)
        pyplot.close(figure)
        return picture


def explore(
    f: Callable[[Any], Any],
    rule: Rule | type[Rule],
    *,
    start: ArrayLike = (-2.0, 1.0),
    bounds: ArrayLike = ((-3, 3), (-2, 2)),
    steps: int = 100,
    **ranges: tuple[float, float],
) -> Explorer:
    """Show the path of a rule over a function of two variables, with a slider for each of its settings.

    Parameters
    ----------
    f : callable
        Takes one array of two numbers, ``x[0]`` and ``x[1]``, and returns one real number.
    rule : Rule or a class of rules
        The rule, whose settings the sliders have at first: ``Momentum(0.01)`` or ``Momentum``.
    start : array_like of two floats, default (-2, 1)
        Where the path starts.
    bounds : pair of pairs of float, default ((-3, 3), (-2, 2))
        The least and greatest ``x[0]``, and the least and greatest ``x[1]``, to be shown.
    steps : int, default 100
        The number of steps.
    **ranges : pair of float
        The ends of a setting's slider, by its name: ``eta=(0.001, 0.1)``. If not given, a setting in [0, 1)
        such as ``rho`` and ``beta`` goes from 0 to 0.999, any other from a hundredth of its value to a
        hundred times that.

    Returns
    -------
    Explorer
        A notebook shows it when it is a cell's last line. Its ``opt`` has the settings that were found.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.
    ImportError
        If there is no matplotlib or no ipywidgets.

    Examples
    --------
    >>> from minidiff.optimise import Momentum
    >>> f = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> explorer = explore(f, Momentum(0.01, 0.5), eta=(0.001, 0.1))
    >>> explorer
    <Explorer of Momentum(eta=0.01, rho=0.5)>
    >>> explorer.path.shape
    (101, 2)
    """
    function("f", f, "a function of one array of two numbers")
    opt = rule() if isinstance(rule, type) and issubclass(rule, Rule) else rule
    instance("rule", opt, Rule, "a rule such as Momentum or Momentum(0.01)")
    names = [name for name, *_ in _numbers(opt)]
    for name, ends in ranges.items():
        if name not in names:
            raise TypeError(
                f"{type(opt).__name__} has no setting {name!r} for a slider: it has {', '.join(names)}"
            )
        _bounds([ends, ends])
    place = _real_array("start", start)
    if place.shape != (2,):
        raise ValueError(f"start must be two numbers, got shape {place.shape}")
    return Explorer(f, opt, ranges, place, bounds, integer("steps", steps, 1))


def _numbers(opt: Rule) -> Iterator[tuple[str, int | None, float]]:
    """Give each number among a rule's settings: its name, its place in a tuple, its value."""
    for name, value in opt.arguments().items():
        if isinstance(value, tuple):
            yield from ((name, i, x) for i, x in enumerate(value))
        elif isinstance(value, float):
            yield name, None, value


def _ends(opt: Rule, name: str, i: int | None, value: float) -> tuple[float, float]:
    """Give the ends of a slider: nearly 1 is the upper one if the rule refuses 1 itself."""
    settings = opt.arguments()
    was = settings[name]
    try:
        type(opt)(**{**settings, name: 1.0 if i is None else (*was[:i], 1.0, *was[i + 1 :])})
    except ValueError:
        return 0.0, 0.999
    return (value / 100, value * 100) if value > 0 else (0.0, 1.0)


def _slider(widgets: Any, label: str, value: float, ends: tuple[float, float]) -> Any:
    """Make a slider: on a logarithmic scale, if the ends are far apart and above 0."""
    low, high = min(ends[0], value), max(ends[1], value)
    kind, steps, digits = widgets.FloatSlider, 500, ".3f"
    if low > 0 and high / low > 20:
        low, high = math.log10(low), math.log10(high)
        kind, steps, digits = widgets.FloatLogSlider, 200, ".3g"
    shown = {"description": label, "value": value, "readout_format": digits}
    return kind(min=low, max=high, step=(high - low) / steps, **shown)


# How pictures are drawn ----------------------------------------------------------------------------------

# A page may hold several: each finds its parts by a name made from what it shows.
_PLAYER = Template(
    """<div id="$name" style="max-width: ${width}pt">
<svg viewBox="0 0 $width $height" style="width: 100%; background: white" role="img"
aria-label="$title">
<clipPath id="$name-frame"><rect $frame/></clipPath>
<image width="$width" height="$height" href="data:image/png;base64,$picture"/>
<g clip-path="url(#$name-frame)"></g></svg>
<div style="display: flex; gap: 0.5em"><button type="button">Play</button>
<input type="range" min="0" max="$steps" value="$steps" style="flex: 1" aria-label="step">
<output></output></div>
<script>(function () {
  const root = document.getElementById("$name"), group = root.querySelector("g");
  const button = root.querySelector("button"), slider = root.querySelector("input");
  const colours = $colours, dashes = $dashes;
  const ways = $points.map(function (points, i) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const end = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    line.setAttribute("fill", "none"); line.setAttribute("stroke-width", 1.5); end.setAttribute("r", 3);
    line.setAttribute("stroke", colours[i]); line.setAttribute("stroke-dasharray", dashes[i]);
    end.setAttribute("fill", colours[i]); group.append(line, end);
    return {line, end, points};
  });
  let timer = null;
  function show() {
    const t = Number(slider.value);
    for (const {line, end, points} of ways) {
      const so_far = points.slice(0, t + 1), [x, y] = so_far[so_far.length - 1];
      line.setAttribute("points", so_far.join(" "));
      end.setAttribute("cx", x); end.setAttribute("cy", y);
    }
    root.querySelector("output").textContent = "step " + t;
  }
  function stop() { clearInterval(timer); timer = null; button.textContent = "Play"; }
  slider.oninput = show;
  button.onclick = function () {
    if (timer !== null) return stop();
    if (Number(slider.value) >= $steps) slider.value = 0;
    button.textContent = "Pause";
    timer = setInterval(function () {
      slider.value = Number(slider.value) + 1; show();
      if (Number(slider.value) >= $steps) stop();
    }, $pause);
  };
  show();
})();</script></div>"""
)


def _figure_of(ax: Axes) -> Any:
    return ax.figure


def _png(figure: Any, dpi: int) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _pyplot() -> Any:
    return extra("matplotlib.pyplot", "minidiff.plot draws with matplotlib: pip install 'minidiff[plot]'")


def _axes(ax: Any) -> Axes:
    """Give the Axes to draw into: those given, or those of a new figure."""
    pyplot = _pyplot()
    if ax is None:
        return pyplot.subplots(layout="constrained")[1]  # type: ignore[no-any-return]
    advice = ": where plt.subplots gives an array of Axes, take one of them"
    return instance("ax", ax, pyplot.Axes, "a matplotlib Axes", advice)  # type: ignore[no-any-return]


def _styles(markers: tuple[str, ...]) -> Any:
    """Give matplotlib a cycle in which sixteen curves all differ by dashes and marker."""
    from cycler import cycler

    return cycler(
        color=_COLOURS * 2,
        linestyle=[*_DASHES] * 4,
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
            faint: Any = {"alpha": 0.25, "linewidth": 0.8, "zorder": line.get_zorder() - 0.1}
            ax.plot(steps, curve, color=line.get_color(), linestyle="-", marker="", **faint)
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
    if any(np.size(value) != 1 or np.asarray(value).dtype.kind not in "fiub" for value in values):
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


def _named(name: str, things: Any, option: str = "", label: Any = None) -> list[tuple[Any, str, Any]]:
    """List what is to be drawn, one thing or those in a dict: label, name in errors, thing.

    `option` is what the caller names its `label`; where there is one, a dict must not be empty.
    """
    if not isinstance(things, Mapping):
        return [(label, name, things)]
    if label is not None:
        raise TypeError(f"labels come with {name}, a dict: leave {option} out")
    if option and not things:
        raise ValueError(f"{name} is an empty dict: it has no run or schedule to draw")
    return [(key, f"{name}[{key!r}]", thing) for key, thing in things.items()]


def _runs(losses: Any, labels: Any) -> Iterable[tuple[Any, str, Any]]:
    """Give the runs as `_named` does: those in a dict, a list or the rows of an array, or the only one."""
    if isinstance(losses, Mapping):
        return _named("losses", losses, "labels", labels)
    if labels is not None:
        instance("labels", labels, (str, Sequence, np.ndarray), "a name or a list of names")
    several = isinstance(losses, (list, tuple)) and any(np.ndim(run) for run in losses)
    runs = {"losses": losses}
    if several or np.ndim(losses) == 2:
        runs = {f"losses[{i}]": run for i, run in enumerate(losses)}
    labels = [labels] if isinstance(labels, str) else [None] * len(runs) if labels is None else labels
    if len(labels) != len(runs):
        which = "the one run" if len(runs) == 1 else f"each of the {len(runs)} runs"
        raise ValueError(f"labels must name {which}, got {labels!r:.60}")
    return [(label, name, run) for label, (name, run) in zip(labels, runs.items(), strict=True)]


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
