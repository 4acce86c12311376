"""Pictures show what the mathematics says: the data of the lines, the contours, the paths."""

import base64
import io
import json
import math
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

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
from minidiff.schedules import Cos, Exp, OneCycle, Scheduler, Shortened
from minidiff.settings import Fraction

BOUNDS = [(-2.0, 3.0), (-1.0, 2.0)]
DRAWINGS = {
    "schedule": lambda ax=None: plot_schedule(Exp(1.0, 0.5), 4, ax),
    "losses": lambda ax=None: plot_losses([3.0, 2.0, 1.0], ax),
    "paths": lambda ax=None: plot_paths(bowl, [[1.0, 1.0], [0.0, 0.0]], BOUNDS, ax),
}


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


# Every drawing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_draws_into_the_axes_given_and_returns_it_else_into_a_new_figure(draw):
    _, (left, right) = plt.subplots(1, 2)
    assert draw(right) is right
    assert right.lines
    assert not left.has_data()
    new = draw()
    assert new.figure is not right.figure


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_axes_are_labelled(draw):
    ax = draw()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_legend() is None  # nothing has a label


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
    (lambda: trace_path(1.0, [0.0], Descent(), 1), TypeError, "f must be a function"),
    (lambda: trace_path(bowl, [0.0, 1.0], 0.1, 1), TypeError, "opt must be an optimiser"),
    (lambda: trace_path(bowl, [0.0, 1.0], Descent(), -1), ValueError, "at least 0"),
    (lambda: trace_path(bowl, ["a", "b"], Descent(), 1), TypeError, "start must consist of real numbers"),
    (lambda: plot_paths(1.0, {}, BOUNDS), TypeError, "f must be a function"),
    (lambda: plot_paths(lambda x: x, {}, BOUNDS), TypeError, "one real number"),
    (lambda: plot_paths(lambda x: math.nan, {}, BOUNDS), ValueError, "finite nowhere"),
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
    levels = ax.collections[0].levels
    written = {text.get_text() for text in ax.texts}
    assert written
    assert written <= {f"{level:.3g}" for level in levels[::4]}


# Play ----------------------------------------------------------------------------------------------------


def test_an_animation_holds_each_path_where_the_picture_has_it():
    paths = {"slow": [[-2.0, 1.0], [0.0, 0.5], [1.0, 0.0]], "fast": [[-2.0, 1.0], [3.0, -1.0]]}
    animation = animate_paths(bowl, paths, BOUNDS, size=(5, 4))
    ways = json.loads(re.search(r"const ways = (.*?)\.map", animation.html)[1])
    x, y, width, height = (
        float(re.search(rf'<rect[^>]* {side}="([^"]*)"', animation.html)[1])
        for side in ("x", "y", "width", "height")
    )
    for way, path in zip(ways, paths.values(), strict=True):
        (left, right), (bottom, top) = BOUNDS
        expected = [
            (x + width * (a - left) / (right - left), y + height * (top - b) / (top - bottom))
            for a, b in path
        ]
        np.testing.assert_allclose(way, expected, atol=0.15)
    assert animation.steps == 2
    assert 'max="2"' in animation.html
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


def test_a_path_that_diverges_is_shown_as_far_as_it_goes():
    explorer = explore(bowl, Descent, eta=(0.01, 10.0), steps=500)
    explorer.widget.children[0].value = 10.0
    assert 1 < len(explorer.path) < 501
    assert np.all(np.isfinite(explorer.path))
    assert "diverges at step" in explorer._ax.get_title()


def test_a_page_without_a_kernel_gets_a_still_of_the_sliders():
    bundle = explore(bowl, Momentum(0.01, 0.5))._repr_mimebundle_()
    assert bundle["text/plain"] == "<Explorer of Momentum(eta=0.01, rho=0.5)>"
    picture = plt.imread(io.BytesIO(base64.b64decode(bundle["image/png"])))
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
    boxes, arrows = graph(plot_graph(*network()))
    words = ["0\n(3, 2)", "1\n(3,) [0. 0. 0.]", "2\n() 1.", "np.matmul\n(3,) [1. 5. 9.]",
        "np.tanh\n(3,) [0.762 1.    1.   ]", "np.matmul\n() 0.", "np.subtract\n() -0.5",
        "np.power\n() 0.25"]  # fmt: skip
    assert sorted(boxes.values()) == sorted(words)
    assert sorted(arrows) == sorted([
        (words[0], words[3]), (words[3], words[4]), (words[1], words[5]), (words[4], words[5]),
        (words[5], words[6]), (words[6], words[7]),
    ])  # fmt: skip


def test_every_arrow_of_a_graph_leads_down_and_no_box_hides_another():
    def loss(x, z):
        for _ in range(6):
            x = np.sin(x) * x + z * x[0]
        return np.sum(x) + np.sum(np.linalg.eigh(np.outer(z, z))[0])

    ax = plot_graph(loss, np.ones(5), np.ones(5))
    for text in ax.texts:
        if not text.get_text():
            assert text.xy[1] < text.xyann[1]
    boxes, arrows = graph(ax)
    assert len(boxes) == len([text for text in ax.texts if text.get_text()])
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
