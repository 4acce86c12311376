"""Pictures show what the mathematics says: the data of the lines, the contours, the paths."""

import base64
import html
import io
import itertools
import json
import math
import pickle
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot as plt
from matplotlib.colors import same_color, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import ArrowStyle

from minidiff import IdDict, gradient, param, params
from minidiff.optimise import ADAM, AbstractOptimiser, Descent, ExpDecay, Momentum, Optimiser, Rule, update
from minidiff.plot import (
    animate_paths,
    explore,
    plot_graph,
    plot_losses,
    plot_paths,
    plot_schedule,
    trace_path,
)
from minidiff.schedules import Cos, Exp, OneCycle, Scheduler, Sequence, Shortened, Stateful
from minidiff.settings import Fraction

BOUNDS = [(-2.0, 3.0), (-1.0, 2.0)]
DRAWINGS = {
    "schedule": lambda ax=None: plot_schedule(Exp(1.0, 0.5), 4, ax),
    "losses": lambda ax=None: plot_losses([3.0, 2.0, 1.0], ax),
    "paths": lambda ax=None: plot_paths(bowl, [[1.0, 1.0], [0.0, 0.0]], BOUNDS, ax),
}
LABELS = [("step", "value"), ("step", "loss"), ("x[0]", "x[1]")]


def bowl(x):
    return x[0] ** 2 + 10 * x[1] ** 2


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def drawn(line):
    return line.get_xdata(), line.get_ydata()


def style(line):
    """What is left of a line's looks in black and white."""
    return line.get_linestyle(), line.get_marker()


def seen(line):
    """Whether there is anything to be seen of a line."""
    colour = to_rgba(line.get_color(), line.get_alpha())
    there = line.get_visible() and line.get_linewidth() > 0 and colour[3] > 0.1
    return there and not same_color(colour[:3], line.axes.get_facecolor()[:3])


def words(figure):
    """What can be read in a figure as it is drawn: titles, labels, legends, the numbers at the axes."""
    page = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.canvas.print_figure(page, format="svg")
    return sorted(map(html.unescape, re.findall("<text[^>]*>(.*?)</text>", page.getvalue().decode())))


@pytest.fixture
def pictures(monkeypatch):
    """For each PNG that is made, its figure as it was then: what a picture says can be read only there."""
    save, figures = Figure.savefig, {}

    def savefig(figure, file, **options):
        save(figure, file, **options)
        figures[file.getvalue()] = copy = pickle.loads(pickle.dumps(figure))
        plt.close(copy)  # pyplot knows of it if it knew of the figure

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


# Every drawing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_draws_into_the_axes_given_and_returns_it_else_into_a_new_figure(draw):
    _, (left, right) = plt.subplots(1, 2)
    assert draw(right) is right
    assert right.lines
    assert not left.has_data()
    new = draw()
    assert new.figure is not right.figure


@pytest.mark.parametrize(("draw", "labels"), [*zip(DRAWINGS.values(), LABELS, strict=True)], ids=DRAWINGS)
def test_axes_are_labelled(draw, labels):
    ax = draw()
    assert (ax.get_xlabel(), ax.get_ylabel()) == labels
    assert set(labels) <= set(words(ax.figure))
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")
    assert ax.get_legend() is None  # nothing has a label


@pytest.mark.parametrize(
    "draw",
    [
        lambda names: [plot_schedule(Exp(1.0, 0.5), 4, plt.gca(), label=name) for name in names][-1],
        lambda names: plot_schedule({name: Exp(1.0, 0.5) for name in names}, 4),
        lambda names: plot_losses({name: [3.0, 2.0, 1.0] for name in names}),
        lambda names: plot_losses({name: [3.0, 2.0, 1.0] for name in names}, smooth=0.5),
        lambda names: plot_paths(bowl, {name: np.eye(2) for name in names}, BOUNDS),
    ],
    ids=["schedules", "a dict of schedules", "losses", "smoothed losses", "paths"],
)
def test_every_curve_is_seen_and_stands_in_the_legend_as_it_is_drawn(draw):
    names = [f"curve <{i}>" for i in range(8)]
    ax = draw(names)
    assert all(map(seen, ax.lines))
    named = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in named] == names
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert set(names) <= set(words(ax.figure))
    for line, entry in zip(named, ax.get_legend().legend_handles, strict=True):
        assert style(entry) == style(line)
        assert same_color(entry.get_color(), line.get_color())
    assert not any(same_color(a.get_color(), b.get_color()) for a, b in itertools.combinations(named, 2))


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_axes_of_another_kind_are_refused(draw):
    with pytest.raises(TypeError, match="array of Axes, take one of them"):
        draw(plt.subplots(2)[1])


def test_without_matplotlib_the_error_says_what_to_install_and_paths_are_still_traced():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from minidiff.optimise import Descent; from minidiff.plot import plot_losses, trace_path\n"
        "print(trace_path(lambda x: x[0] ** 2, [1.0], Descent(0.25), 1).ravel())\n"
        "plot_losses([1.0])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["[1.", "0.5]"]
    assert "pip install 'minidiff[plot]'" in ran.stderr


# Schedules ----------------------------------------------------------------------------------------------


def test_a_schedule_is_drawn_at_its_steps():
    for schedule in (Cos(0.0, 1.0, period=7), lambda t: 1 / t, 0.5):
        x, y = drawn(plot_schedule(schedule, 20, label="one").lines[0])
        np.testing.assert_array_equal(x, np.arange(1, 21))
        np.testing.assert_array_equal(y, [schedule if schedule == 0.5 else schedule(t) for t in range(1, 21)])


def test_a_finite_schedule_is_drawn_to_its_end():
    assert len(drawn(plot_schedule(OneCycle(8, 1.0), 100).lines[0])[0]) == 8
    assert len(drawn(plot_schedule(Shortened(Exp(1.0, 0.5), 30), 10).lines[0])[0]) == 10


def test_several_schedules_are_drawn_each_to_its_own_end():
    several = {"a": lambda t: 1 / t, "b": Sequence((s, 4) for s in [0.1, OneCycle(4, 1.0)]), "c": 0.5}
    ax = plot_schedule(several, 20, log=True)
    assert [len(line.get_xdata()) for line in ax.lines] == [20, 8, 20]
    for (label, schedule), line in zip(several.items(), ax.lines, strict=True):
        alone = plot_schedule(schedule, 20, label=label).lines[0]
        np.testing.assert_array_equal(line.get_xydata(), alone.get_xydata())
    assert ax.get_yscale() == "log"


def test_schedules_drawn_one_after_another_are_told_apart_without_colour():
    ax = None
    for i in range(16):
        ax = plot_schedule(Exp(1.0, 0.9 - i / 20), 30, ax, label=f"curve {i}", log=i == 0)
    assert len({style(line) for line in ax.lines}) == 16
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"curve {i}" for i in range(16)]
    assert ax.get_yscale() == "log"


# Losses -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(losses=st.lists(st.floats(0, 1e6), min_size=1, max_size=30), β=st.floats(0.01, 0.99))
def test_smoothed_losses_are_the_weighted_mean_of_the_definition(losses, β):
    smooth, raw = plot_losses(losses, smooth=β).lines
    means = [np.average(losses[:t], weights=β ** np.arange(t)[::-1]) for t in range(1, len(losses) + 1)]
    np.testing.assert_allclose(drawn(smooth)[1], means, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(drawn(raw)[1], losses)
    plt.close("all")


def test_the_mean_of_equal_losses_is_that_loss_from_the_first_step():
    np.testing.assert_allclose(drawn(plot_losses(np.full(50, 3.0), smooth=0.95).lines[0])[1], 3.0)


@pytest.mark.parametrize(
    ("losses", "labels"),
    [
        ({"a": [3.0, 2.0], "b": [4.0]}, None),
        ([np.array([3.0, 2.0]), (4.0,)], ["a", "b"]),
        (([3, 2], [4]), ("a", "b")),
    ],
)
def test_several_runs(losses, labels):
    ax = plot_losses(losses, labels=labels)
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert [drawn(line)[1].tolist() for line in ax.lines] == [[3.0, 2.0], [4.0]]
    assert [drawn(line)[0].tolist() for line in ax.lines] == [[1, 2], [1]]
    assert ax.get_legend() is not None


def test_rows_of_an_array_are_runs_and_need_no_labels():
    ax = plot_losses(np.arange(1.0, 7.0).reshape(2, 3), smooth=0.5)
    assert [drawn(line)[1].tolist() for line in ax.lines[1::2]] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_runs_are_told_apart_without_colour_smoothed_or_not():
    for smooth in (0.0, 0.9):
        ax = plot_losses({f"run {i}": np.arange(1.0, 9.0) + i for i in range(16)}, smooth=smooth)
        assert len({style(line) for line in ax.lines if not line.get_label().startswith("_")}) == 16


def test_one_run_may_have_a_label_and_logarithmic_axes():
    ax = plot_losses([4.0, 2.0, 0.0], labels="run", log=True)  # 0 is the bottom of the picture
    ax.set_xscale("log")
    ax.figure.canvas.draw()
    assert ax.get_yscale() == "log"
    assert ax.get_legend_handles_labels()[1] == ["run"]


def test_the_losses_themselves_are_seen_faintly_in_the_colour_of_their_mean():
    runs = {"a": [3.0, 2.0, 1.0], "b": [4.0, 0.0]}
    ax = plot_losses(runs, smooth=0.5)
    for mean, raw, losses in zip(ax.lines[::2], ax.lines[1::2], runs.values(), strict=True):
        np.testing.assert_array_equal(drawn(raw), [np.arange(1, len(losses) + 1), losses])
        assert seen(raw)
        assert raw.get_alpha() < 0.5
        assert mean.get_alpha() in (None, 1)
        assert same_color(raw.get_color(), mean.get_color())


# Paths --------------------------------------------------------------------------------------------------


def test_a_path_is_the_loop_of_gradients_and_updates():
    path = trace_path(bowl, [1.0, -2.0], Momentum(0.01, 0.9), 40)
    x, opt = param([1.0, -2.0]), Momentum(0.01, 0.9)
    for point in path:
        np.testing.assert_array_equal(point, x.value)
        update(opt, x, gradient(bowl, x)[0])
    assert path.shape == (41, 2)


def test_descent_on_a_parabola_takes_its_known_path():
    path = trace_path(lambda x: np.sum(x**2) / 2, np.full((2, 3), 8.0), Descent(0.5), 3)
    np.testing.assert_array_equal(path, [np.full((2, 3), 8.0 / 2**t) for t in range(4)])


def test_the_optimiser_and_the_start_stay_as_they_were():
    """Also one whose rate has decayed, whose schedule has gone on, or that has a state of its own."""

    class Counting(AbstractOptimiser):
        def __init__(self):
            self.count = IdDict()

        def apply(self, x, Δ):
            self.count[x] = self.count.get(x, 0) + 1
            return Δ * 0.01 * self.count[x]

    start = np.array([1.0, 1.0])
    for opt in (
        Optimiser(ADAM(0.1), ExpDecay(1.0, 0.5, 3, 0.01)),
        Scheduler(Exp(0.05, 0.9), Descent()),
        Counting(),
    ):
        update(opt, kept := np.ones(2), np.ones(2))
        before = repr(opt)
        paths = [trace_path(bowl, start, opt, 10) for _ in range(2)]
        np.testing.assert_array_equal(*paths)
        assert repr(opt) == before
        fresh = trace_path(bowl, start, type(opt)() if isinstance(opt, Counting) else opt, 10)
        np.testing.assert_array_equal(fresh, paths[0])
        del kept
    np.testing.assert_array_equal(start, [1.0, 1.0])


def test_a_path_that_diverges_says_where():
    with pytest.raises(FloatingPointError, match=r"step .* take a smaller learning rate"):
        trace_path(lambda x: np.sum(x**4), [3.0, 3.0], Descent(1.0), 50)


def test_contours_cover_the_bounds_and_lie_where_the_function_has_their_values():
    ax = plot_paths(lambda x: x[0] + 3 * x[1], {}, BOUNDS)
    (contours,) = ax.collections
    ends = np.concatenate([path.vertices for path in contours.get_paths()])
    np.testing.assert_allclose(ends.min(axis=0), [-2.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(ends.max(axis=0), [3.0, 2.0], atol=1e-12)
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        np.testing.assert_allclose(path.vertices @ [1, 3], level, atol=1e-9)
    assert ax.get_xlim() == (-2.0, 3.0)
    assert ax.get_ylim() == (-1.0, 2.0)


def test_contours_do_not_depend_on_the_scale_of_the_function():
    levels = [
        plot_paths(f, {}, BOUNDS).collections[0].levels
        for f in (bowl, lambda x: np.exp(bowl(x) / 4), lambda x: 1e9 * bowl(x) - 5)
    ]
    np.testing.assert_allclose(np.exp(levels[0] / 4), levels[1], rtol=0.02)
    np.testing.assert_allclose(1e9 * levels[0] - 5, levels[2], rtol=1e-9)


def test_the_function_may_treat_its_array_as_a_whole():
    A = np.array([[2.0, 0.5], [0.5, 1.0]])
    ways = (lambda x: x @ A @ x, lambda x: 2 * x[0] ** 2 + x[0] * x[1] + x[1] ** 2)
    first, second = (plot_paths(f, {}, BOUNDS).collections[0].levels for f in ways)
    np.testing.assert_allclose(first, second)


def test_paths_are_drawn_as_they_are_and_told_apart_without_colour():
    paths = {f"path {i}": np.linspace([-1.0, 1.0], [i / 10, 0.0], 5) for i in range(16)}
    ax = plot_paths(bowl, paths, BOUNDS)
    named = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in named] == list(paths)
    for line, path in zip(named, paths.values(), strict=True):
        np.testing.assert_array_equal(np.transpose(drawn(line)), path)
    assert len({style(line) for line in named}) == 16
    (start,) = (line for line in ax.lines if line not in named)
    assert [*map(float, np.ravel(drawn(start)))] == [-1.0, 1.0]


def test_a_cross_is_where_a_path_starts_and_the_marker_where_it_ends():
    starts = {"a": [-1.0, 1.0], "b": [-1.0, 1.0], "c": [2.0, 0.5]}
    ax = plot_paths(bowl, {name: [start, [1.0, 0.5], [0.0, 0.0]] for name, start in starts.items()}, BOUNDS)
    for path in ax.lines[:3]:
        assert path.get_markevery() == [-1]
        assert path.get_marker() not in ("", "None", "x")
    assert all(style(cross) == ("None", "x") and seen(cross) for cross in ax.lines[3:])
    crosses = sorted(tuple(map(float, np.ravel(drawn(cross)))) for cross in ax.lines[3:])
    assert crosses == sorted({*map(tuple, starts.values())})


def test_a_flat_function_and_one_defined_in_places_only_can_be_drawn():
    for f in (lambda x: 1.0, lambda x: np.log(x[0])):
        plot_paths(f, {"a": [[1.0, 1.0]]}, BOUNDS).figure.canvas.draw()


# What goes wrong ----------------------------------------------------------------------------------------

MISTAKES = [
    (lambda: plot_schedule("cos", 3), TypeError, "schedule must be"),
    (lambda: plot_schedule(Exp(1.0, 0.5), 0), ValueError, "steps must be at least 1"),
    (lambda: plot_schedule(Exp(1.0, 0.5), 3.0), TypeError, "steps must be an integer"),
    (lambda: plot_schedule(lambda t: "x", 3), TypeError, "one real number per step"),
    (lambda: plot_schedule(lambda t: math.inf if t == 2 else t, 3), ValueError, "inf at step 2"),
    (lambda: plot_schedule(lambda t: 1.5 - t, 3, log=True), ValueError, "-0.5 at step 2"),
    (lambda: plot_schedule({}, 3), ValueError, "schedule is an empty dict"),
    (lambda: plot_schedule({"a": 0.1, "b": "cos"}, 3), TypeError, r"schedule\['b'\] must be"),
    (lambda: plot_schedule({"a": lambda t: -t}, 3, log=True), ValueError, r"schedule\['a'\] is -1 at step 1"),
    (lambda: plot_schedule({"a": 0.1}, 3, label="b"), TypeError, "leave label out"),
    (lambda: plot_schedule({"a": 0.1}, 0), ValueError, "steps must be at least 1"),
    (lambda: plot_schedule(Stateful(Exp(1.0, 0.5)), 3), TypeError, r"give its \.schedule"),
    (lambda: plot_losses([]), ValueError, "one value per step"),
    (lambda: plot_losses({}), ValueError, "no run"),
    (lambda: plot_losses([1.0, math.nan]), ValueError, "losses is nan at step 2.*first 1 steps"),
    (lambda: plot_losses({"ADAM": [1.0, math.inf]}), ValueError, r"losses\['ADAM'\] is inf at step 2"),
    (lambda: plot_losses([[1.0], [1.0, -2.0]], log=True), ValueError, r"losses\[1\] is -2 at step 2"),
    (lambda: plot_losses(np.ones((2, 2, 2))), ValueError, "losses must have one value per step"),
    (lambda: plot_losses(["a"]), TypeError, "real numbers"),
    (lambda: plot_losses([1j]), TypeError, "real numbers"),
    (lambda: plot_losses([1.0], smooth=1.0), ValueError, r"smooth must be in \[0, 1\)"),
    (lambda: plot_losses([1.0], smooth="x"), TypeError, "smooth must be a number"),
    (lambda: plot_losses([1.0, 2.0], labels=["a", "b"]), ValueError, "one run"),
    (lambda: plot_losses([[1.0], [2.0]], labels=["a"]), ValueError, "each of the 2 runs"),
    (lambda: plot_losses([[1.0], [2.0]], labels="ab"), ValueError, "each of the 2 runs"),
    (lambda: plot_losses({"a": [1.0]}, labels=["b"]), TypeError, "leave labels out"),
    (
        lambda: plot_losses([1.0, 2.0], labels=5),
        TypeError,
        "labels must be a name or a list of names, got int",
    ),
    (lambda: plot_losses([1.0, 2.0], labels={"a": 1}), TypeError, "labels must be .* got dict"),
    (lambda: trace_path(1.0, [0.0], Descent(), 1), TypeError, "f must be a function"),
    (lambda: trace_path(bowl, [0.0, 1.0], 0.1, 1), TypeError, "opt must be an optimiser"),
    (lambda: trace_path(bowl, [0.0, 1.0], Descent(), -1), ValueError, "at least 0"),
    (lambda: trace_path(bowl, ["a", "b"], Descent(), 1), TypeError, "start must consist of real numbers"),
    (lambda: plot_paths(1.0, {}, BOUNDS), TypeError, "f must be a function"),
    (lambda: plot_paths(lambda x: x, {}, BOUNDS), TypeError, "one real number"),
    (lambda: plot_paths(lambda x: math.nan, {}, BOUNDS), ValueError, "finite nowhere"),
    (lambda: plot_paths(lambda x: None, {}, BOUNDS), TypeError, "must return one real number, got None"),
    (lambda: plot_paths(bowl, {}, (-1, 1)), ValueError, "bounds must be .*got shape"),
    (lambda: plot_paths(bowl, {}, [(-1, 1), (1, -1)]), ValueError, r"bounds\[1\].*least first"),
    (lambda: plot_paths(bowl, {}, [(-1, math.inf), (1, 2)]), ValueError, r"bounds\[0\]"),
    (lambda: plot_paths(bowl, {"a": np.ones((3, 3))}, BOUNDS), ValueError, r"paths\['a'\] .*\(3, 3\)"),
    (lambda: plot_paths(bowl, {"a": [[1.0, 1.0], [math.nan, 1.0]]}, BOUNDS), ValueError, "at point 1"),
    (lambda: plot_paths(bowl, [[1.0], [1.0, 2.0]], BOUNDS), ValueError, "paths is no array"),
]


@pytest.mark.parametrize(("mistake", "error", "words"), MISTAKES)
def test_mistakes_are_explained_and_nothing_is_drawn(mistake, error, words):
    with pytest.raises(error, match=words):
        mistake()
    assert not plt.get_fignums()


def test_every_fourth_contour_has_its_value_written_on_it():
    ax = plot_paths(bowl, [[1.0, 1.0], [0.0, 0.0]], BOUNDS)
    (contours,) = ax.collections
    written = {text.get_text() for text in ax.texts}
    assert written == {f"{level:.3g}" for level in contours.levels[::4]}
    assert written <= set(words(ax.figure))
    for text in ax.texts:
        assert bowl(text.get_position()) == pytest.approx(float(text.get_text()), rel=0.05)
    assert contours.get_visible()
    assert min(contours.get_linewidths()) > 0
    assert not any(same_color(colour, ax.get_facecolor()) for colour in contours.get_edgecolors())


# Play ----------------------------------------------------------------------------------------------------

SIX = {f"path {i}": [[-2.0, 1.0 - i / 5], [0.0, 0.5], [1.0, 0.0]] for i in range(6)}


def behind(animation, pictures):
    """Give the Axes of the picture that an animation's paths are played upon."""
    png = re.search('href="data:image/png;base64,(.*?)"', animation.html)[1]
    (ax,) = pictures[base64.b64decode(png)].axes
    return ax


def of_each_path(animation, attribute):
    """Give what an animation's script sets an attribute to, path by path."""
    name = re.search(rf'"{attribute}", (\w+)\[i\]', animation.html)[1]
    return json.loads(re.search(rf"\b{name} = (\[.*?\])[,;]", animation.html)[1])


def rhythm(lengths):
    """Whether each dash is longer than the gap that follows it."""
    return [dash > gap for dash, gap in zip(lengths[::2], lengths[1::2], strict=True)]


def test_the_picture_behind_an_animation_says_what_plot_paths_does_but_for_the_paths(pictures):
    animation = animate_paths(bowl, SIX, BOUNDS, size=(5, 4))
    ax, still = behind(animation, pictures), plot_paths(bowl, SIX, BOUNDS)
    still.figure.set_size_inches(5, 4)
    written = words(ax.figure)
    assert written == words(still.figure)
    assert {"x[0]", "x[1]", *SIX} <= set(written)
    np.testing.assert_array_equal(ax.collections[0].levels, still.collections[0].levels)
    assert (ax.get_xlim(), ax.get_ylim()) == (still.get_xlim(), still.get_ylim())
    there = sorted(tuple(np.ravel(drawn(line))) for line in ax.lines if line.get_visible())
    assert there == sorted(tuple(way[0]) for way in SIX.values())  # the crosses
    assert ax.figure.get_size_inches().tolist() == [5, 4]
    assert re.search('viewBox="0 0 (.*?) (.*?)"', animation.html).groups() == ("360", "288")  # points
    assert '<image width="360" height="288"' in animation.html
    spoken = html.unescape(re.search('role="img"\\s*aria-label="(.*?)"', animation.html)[1])
    assert all(name in spoken for name in SIX)


def test_an_animated_path_has_the_colour_and_the_dashes_that_the_legend_gives_it(pictures):
    animation = animate_paths(bowl, SIX, BOUNDS)
    legend = behind(animation, pictures).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(SIX)
    for attribute in ("stroke", "fill"):
        for colour, entry in zip(of_each_path(animation, attribute), legend.legend_handles, strict=True):
            assert same_color(colour, entry.get_color())
    patterns = {
        "-": [],
        "--": mpl.rcParams["lines.dashed_pattern"],
        ":": mpl.rcParams["lines.dotted_pattern"],
        "-.": mpl.rcParams["lines.dashdot_pattern"],
    }
    for dashes, entry in zip(of_each_path(animation, "stroke-dasharray"), legend.legend_handles, strict=True):
        assert rhythm([*map(float, dashes.split())]) == rhythm(patterns[entry.get_linestyle()])


@pytest.mark.parametrize("rate", [4, 50])
def test_an_animation_takes_as_many_steps_a_second_as_it_is_told(rate):
    page = animate_paths(bowl, SIX, BOUNDS, rate=rate).html
    milliseconds = float(re.search(r"setInterval\(.*?\}, (.*?)\);", page, re.DOTALL)[1])
    assert milliseconds * rate == pytest.approx(1000)


def test_an_animation_holds_each_path_where_the_picture_has_it(pictures):
    paths = {"slow": [[-2.0, 1.0], [0.0, 0.5], [1.0, 0.0]], "fast": [[-2.0, 1.0], [3.0, -1.0]]}
    animation = animate_paths(bowl, paths, BOUNDS, size=(5, 4))
    ways = json.loads(re.search(r"const ways = (.*?)\.map", animation.html)[1])
    x, y, width, height = (
        float(re.search(rf'<rect[^>]* {side}="([^"]*)"', animation.html)[1])
        for side in ("x", "y", "width", "height")
    )
    box = behind(animation, pictures).get_position()
    expected = [72 * 5 * box.x0, 72 * 4 * (1 - box.y1), 72 * 5 * box.width, 72 * 4 * box.height]
    np.testing.assert_allclose([x, y, width, height], expected, atol=1)
    for way, path in zip(ways, paths.values(), strict=True):
        (left, right), (bottom, top) = BOUNDS
        expected = [
            (x + width * (a - left) / (right - left), y + height * (top - b) / (top - bottom))
            for a, b in path
        ]
        np.testing.assert_allclose(way, expected, atol=0.15)
    assert animation.steps == 2
    assert 'max="2" value="2"' in animation.html
    assert plt.get_fignums() == []  # a notebook shows no second picture


def test_an_animation_is_the_same_every_time_and_loads_nothing(tmp_path):
    first, again = (animate_paths(bowl, [[1.0, 1.0], [0.0, 0.0]], BOUNDS) for _ in range(2))
    assert first.html == again.html == first._repr_html_()
    assert not re.search(r'(?:src|href)="(?!data:)', first.html)
    first.save(tmp_path / "page.html")
    assert first.html in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert repr(first) == "<PathAnimation of 1 steps>"


@pytest.mark.parametrize("bad", [{"rate": 0}, {"size": (0, 1)}, {"rate": "fast"}])
def test_an_animation_refuses_nonsense_by_name(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        animate_paths(bowl, [[1.0, 1.0]], BOUNDS, **bad)


def test_the_sliders_are_the_settings_and_move_the_path():
    explorer = explore(bowl, ADAM(0.1, (0.8, 0.99)), steps=30)
    sliders = {slider.description: slider for slider in explorer.widget.children[:-1]}
    assert {name: slider.value for name, slider in sliders.items()} == {
        "eta": 0.1,
        "beta[0]": 0.8,
        "beta[1]": 0.99,
    }
    before = explorer.widget.children[-1].value
    sliders["eta"].value = 0.3
    sliders["beta[1]"].value = 0.9
    assert explorer.opt.arguments() == {**ADAM().arguments(), "eta": 0.3, "beta": (0.8, 0.9)}
    np.testing.assert_array_equal(explorer.path, trace_path(bowl, (-2.0, 1.0), ADAM(0.3, (0.8, 0.9)), 30))
    assert explorer.widget.children[-1].value != before
    assert plt.get_fignums() == []


def shown(explorer):
    """Give what a notebook keeps of an explorer, by kind."""
    return DisplayFormatter().format(explorer)[0]


def test_the_picture_of_explore_says_which_rule_takes_which_path_and_where_it_ends(pictures):
    start = [-1.0, 1.5]
    explorer = explore(bowl, Momentum(0.01, 0.5), start=start, bounds=BOUNDS, steps=30)
    *sliders, image = explorer.widget.children
    levels = plot_paths(bowl, {}, BOUNDS).collections[0].levels
    for opt in (Momentum(0.01, 0.5), Momentum(0.05, 0.5)):
        for slider, value in zip(sliders, opt.arguments().values(), strict=True):
            slider.value = value
        (ax,), path = pictures[image.value].axes, trace_path(bowl, start, opt, 30)
        way, cross = ax.lines
        np.testing.assert_array_equal(np.transpose(drawn(way)), path)
        np.testing.assert_array_equal(np.ravel(drawn(cross)), start)
        assert seen(way)
        assert {str(opt), "x[0]", "x[1]"} <= set(words(ax.figure))
        height = re.search(r"\bf is (\S+) at the end", ax.get_title())[1]
        assert float(height) == pytest.approx(bowl(path[-1]), rel=0.01)
        np.testing.assert_array_equal(ax.collections[0].levels, levels)
        assert [ax.get_xlim(), ax.get_ylim()] == BOUNDS


def test_the_sliders_have_the_ends_they_are_given():
    ranges = {"eta": (0.05, 0.2), "beta": (0.5, 0.9999)}
    eta, *betas, _ = explore(bowl, ADAM(0.1), steps=3, **ranges).widget.children
    assert (eta.min, eta.max) == ranges["eta"]
    assert {(beta.min, beta.max) for beta in betas} == {ranges["beta"]}
    eta = explore(bowl, ADAM(0.1), steps=3, eta=(0.001, 10.0)).widget.children[0]
    np.testing.assert_allclose([eta.base**eta.min, eta.base**eta.max], [0.001, 10.0])


@pytest.mark.parametrize(("ends", "steps"), [((0.05, 0.2), 500), ((0.001, 10.0), 200)])
def test_a_slider_moves_by_small_shares_of_its_length(ends, steps):
    eta = explore(bowl, Descent(0.1), steps=3, eta=ends).widget.children[0]
    assert (eta.max - eta.min) / eta.step == pytest.approx(steps)


def test_a_slider_ends_where_its_setting_does_whatever_its_name_is():
    class Forgetful(Rule):
        eta: float = 0.1
        nu: Fraction = 0.5

        def coefficients(self, t):
            return (self.eta * (1 - self.nu**t),)

        @staticmethod
        def formula(x, Δ, η):
            return η * Δ

    eta, nu = explore(bowl, Forgetful(), steps=3).widget.children[:-1]
    assert (nu.min, nu.max) == (0.0, 0.999)
    np.testing.assert_allclose([eta.min, eta.max], [-3, 1])  # powers of ten


def test_a_number_of_a_tuple_that_may_be_1_has_a_slider_beyond():
    class Weighed(Rule):
        weights: tuple[float, Fraction] = (0.2, 0.5)

        def coefficients(self, t):
            return self.weights

        @staticmethod
        def formula(x, Δ, a, b):
            return a * b * Δ

    first, second = explore(bowl, Weighed(), steps=3).widget.children[:-1]
    np.testing.assert_allclose([first.base**first.min, first.base**first.max], [0.002, 20])
    assert (second.min, second.max) == (0.0, 0.999)


def test_a_path_that_diverges_is_shown_as_far_as_it_goes(pictures):
    explorer = explore(bowl, Descent, eta=(0.01, 10.0), steps=500)
    explorer.widget.children[0].value = 10.0
    assert 1 < len(explorer.path) < 501
    assert np.all(np.isfinite(explorer.path))
    (ax,) = pictures[explorer.widget.children[-1].value].axes
    assert f"diverges at step {len(explorer.path)}" in words(ax.figure)
    assert "f is" not in ax.get_title()


def test_a_still_of_explore_has_every_slider_with_its_value_and_the_picture(pictures):
    explorer = explore(bowl, ADAM(0.1, (0.8, 0.99)), steps=30)
    sliders = explorer.widget.children[:-1]
    sliders[0].value = 0.3
    still = pictures[base64.b64decode(shown(explorer)["image/png"])]
    *bars, below = still.axes
    written = words(still)
    for ax, slider in zip(bars, sliders, strict=True):
        label, value = (text.get_text() for text in ax.texts)
        assert label == slider.description
        assert float(value) == pytest.approx(slider.value, rel=1e-3)
        assert {label, value} <= set(written)
        place = math.log(slider.value, slider.base) if hasattr(slider, "base") else slider.value
        length = min(patch.get_window_extent().width for patch in ax.patches) / ax.bbox.width
        assert length == pytest.approx((place - slider.min) / (slider.max - slider.min), abs=0.01)
    (image,) = below.images
    assert image.get_visible()
    picture = next(
        figure
        for png, figure in reversed(pictures.items())
        if np.array_equal(plt.imread(io.BytesIO(png)), image.get_array())
    )
    assert str(explorer.opt) in words(picture)
    np.testing.assert_array_equal(np.transpose(drawn(picture.axes[0].lines[0])), explorer.path)


def test_a_page_without_a_kernel_gets_a_still_of_the_sliders():
    bundle = shown(explore(bowl, Momentum(0.01, 0.5)))
    assert bundle["text/plain"] == "<Explorer of Momentum(eta=0.01, rho=0.5)>"
    picture = plt.imread(io.BytesIO(base64.b64decode(bundle["image/png"])))
    _, about = explore(bowl, Momentum(0.01, 0.5))._repr_mimebundle_()
    assert about["image/png"]["width"] == pytest.approx(picture.shape[1] / 2, abs=1)  # two pixels for each
    blue = np.all(np.abs(picture[..., :3] - [0, 0x72 / 255, 0xB2 / 255]) < 0.02, axis=-1)
    rows = np.flatnonzero(blue.sum(axis=1) > 20)
    assert np.sum(np.diff(rows) > 1) == 1  # two bars, one for each setting
    # eta is in the middle of its logarithmic range, rho half way to its end
    widths = [
        blue[group].sum(axis=1).max() for group in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    ]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, Momentum), {}, "f must be"),
        ((bowl, "Momentum"), {}, "rule must be"),
        ((bowl, Momentum), {"nu": (0, 1)}, "no setting 'nu' for a slider: it has eta, rho"),
        ((bowl, Momentum), {"eta": (1, 0)}, "least first"),
        ((bowl, Momentum), {"start": (1, 2, 3)}, "start must be two numbers"),
        ((bowl, Momentum), {"steps": 0}, "steps"),
    ],
)
def test_explore_refuses_nonsense_by_name(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        explore(*arguments, **options)


# Graphs -------------------------------------------------------------------------------------------------


def graph(ax):
    """Give what a drawn graph says: the boxes' words by their places, and the arrows between them."""
    boxes = {text.get_position(): text.get_text() for text in ax.texts if text.get_text()}
    arrows = [(boxes[text.xyann], boxes[text.xy]) for text in ax.texts if not text.get_text()]
    return boxes, arrows


def network():
    W, v, idle = param(np.arange(6.0).reshape(3, 2)), param(np.zeros(3)), param(1.0)
    return (lambda: (v @ np.tanh(W @ np.ones(2)) - 0.5) ** 2), params(W, v, idle)


def test_a_graph_has_a_box_for_each_parameter_and_call_and_an_arrow_for_each_way_back():
    ax = plot_graph(*network())
    boxes, arrows = graph(ax)
    texts = ["0\n(3, 2)", "1\n(3,) [0. 0. 0.]", "2\n() 1.", "np.matmul\n(3,) [1. 5. 9.]",
        "np.tanh\n(3,) [0.762 1.    1.   ]", "np.matmul\n() 0.", "np.subtract\n() -0.5",
        "np.power\n() 0.25"]  # fmt: skip
    assert sorted(boxes.values()) == sorted(texts)
    assert sorted(arrows) == sorted([
        (texts[0], texts[3]), (texts[3], texts[4]), (texts[1], texts[5]), (texts[4], texts[5]),
        (texts[5], texts[6]), (texts[6], texts[7]),
    ])  # fmt: skip
    assert words(ax.figure) == sorted(line for text in texts for line in text.split("\n"))


def test_every_arrow_of_a_graph_leads_down_and_no_box_hides_another():
    def loss(x, z):
        for _ in range(6):
            x = np.sin(x) * x + z * x[0]
        return np.sum(x) + np.sum(np.linalg.eigh(np.outer(z, z))[0])

    ax = plot_graph(loss, np.ones(5), np.ones(5))
    for text in ax.texts:
        if not text.get_text():
            assert text.xy[1] < text.xyann[1]
            assert type(text.arrow_patch.get_arrowstyle()) is type(ArrowStyle("-|>"))  # its head is there
    boxes, arrows = graph(ax)
    assert len(boxes) == len([text for text in ax.texts if text.get_text()])
    rows = {y: [x for x, other in boxes if other == y] for _, y in boxes}
    assert max(map(len, rows.values())) > 2
    np.testing.assert_allclose([np.mean(xs) for xs in rows.values()], 0, atol=1e-12)  # each is in the middle
    assert "argument 1\n(5,)" in boxes.values()
    assert any("np.linalg.eigh\n2 results" in end for _, end in arrows)
    ax.figure.canvas.draw()
    frames = [text.get_bbox_patch().get_window_extent() for text in ax.texts if text.get_text()]
    assert not any(a.overlaps(b) for i, a in enumerate(frames) for b in frames[:i])
    assert all(ax.figure.bbox.contains(*corner) for frame in frames for corner in (frame.min, frame.max))


def test_a_graph_is_drawn_into_axes_given_and_marks_its_ends():
    _, (left, right) = plt.subplots(1, 2)
    assert plot_graph(*network(), ax=right) is right
    assert not left.texts
    edges = [text.get_bbox_patch().get_edgecolor() for text in right.texts if text.get_text()]
    assert len(set(edges)) == 3
    assert edges.count(edges[-1]) == 1  # the result
    assert edges.count(edges[0]) == 3  # the parameters


def test_graphviz_places_the_boxes_where_it_is_installed(monkeypatch, tmp_path):
    dot = tmp_path / "dot"
    dot.write_text(
        f"#!{sys.executable}\nimport re, sys\n"
        "source = sys.stdin.read(); print('graph 1 5 5')\n"
        "assert source.count('->') == 6 and sys.argv[1:] == ['-Tplain']\n"
        "names = [s.split()[-1] for s in re.split('[;{}]', source) if s.split()[-1:] and '->' not in s]\n"
        "for i, n in enumerate(n for n in names if n.isdigit()): print('node', n, i, 2 * i, 1, 1, 'x')\n"
        "print('edge 1 2'); print('stop')\n"
    )
    dot.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    boxes, arrows = graph(plot_graph(*network()))
    assert set(boxes) == {(float(i), 2.0 * i) for i in range(8)}
    assert len(arrows) == 6


def test_what_cannot_be_drawn_as_a_graph_is_refused():
    W = param(1.0)
    with pytest.raises(ValueError, match=r"f makes 13 calls, too many to be seen: .* most=10"):
        plot_graph(lambda: np.sin(sum([W] * 12)), params(W), most=10)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_graph(lambda: 1.0, params(W))
    with pytest.raises(TypeError, match="plot_graph\\(f, …\\): f must be a function"):
        plot_graph(3.0, params(W))
    with pytest.raises(ValueError, match="most must be at least 1"):
        plot_graph(lambda: W * 1, params(W), most=0)
    assert len(graph(plot_graph(lambda: W * 1 * 2, params(W)))[0]) == 3
