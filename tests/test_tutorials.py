"""Every notebook runs, prints what is saved in it, and what its text claims is so.

The cells run here in one namespace, in this process, with warnings as errors; no Jupyter is needed for that.
Where saved outputs are stale: ``python tutorials/build.py tutorials/<name>.ipynb``.
"""

import ast
import contextlib
import io
import json
import linecache
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from matplotlib import pyplot as plt

TUTORIALS = Path(__file__).parent.parent / "tutorials"
NOTEBOOKS = {path.stem: path for path in sorted(TUTORIALS.glob("*.ipynb"))}
ERRORS = (TUTORIALS / "errors.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+\.?\d*(?:e[-+]?\d+)?")
# Where only the words are compared with those saved: long trainings carry the last bit of a matrix product,
# which differs between processors, a long way. Their numbers are checked as claims, with room.
LONG_TRAININGS = {"07_neural_network", "08_rules_on_a_network", "10_gradients_of_gradients"}


def cells(name, kind="code", folder=TUTORIALS):
    notebook = json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [(cell, "".join(cell["source"])) for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(source, filename, namespace):
    """Execute a cell as a notebook does; give what it prints, and the last line's value if it is shown."""
    linecache.cache[filename] = len(source), None, source.splitlines(True), filename
    body = ast.parse(source, filename).body
    shows = bool(body) and isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(";")
    last = body.pop() if shows else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), filename, "exec"), namespace)
        if last:
            value = eval(compile(ast.Expression(last.value), filename, "eval"), namespace)
    return printed.getvalue(), "" if value is None else repr(value)


def saved(cell):
    """Give what is saved as printed, as the last line's value, and how many pictures there are."""
    outputs = cell["outputs"]
    printed = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    results = [output["data"] for output in outputs if output["output_type"] == "execute_result"]
    shown = "".join("".join(data["text/plain"]) for data in results)
    figures = [output["data"] for output in outputs if output["output_type"] == "display_data"]
    return printed, shown, sum("image/png" in data for data in figures)


def same(text, other, words_only):
    """Whether two outputs have the same words and nearly the same numbers; spaces do not matter."""
    words = ["".join(NUMBER.sub("#", t).split()) for t in (text, other)]
    numbers = [[*map(float, NUMBER.findall(t))] for t in (text, other)]
    return words[0] == words[1] and (words_only or np.allclose(*numbers, rtol=0.02, atol=1e-9))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook(name, monkeypatch, tmp_path):
    module = ModuleType(f"tutorial_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")  # which others have left open
    with mpl.rc_context():
        for i, (cell, source) in enumerate(cells(name)):
            printed, shown = run(source, f"<{name}[{i}]>", vars(module))
            now, then = (printed, shown, len(plt.get_fignums())), saved(cell)
            plt.close("all")
            for output, before in zip(now[:2], then[:2], strict=True):
                assert same(output, before, name in LONG_TRAININGS), f"stale output in cell\n{source}"
            assert now[2] == then[2], f"pictures are missing in cell\n{source}"
        CLAIMS[name](module)
        told = []
        for i, answer in enumerate(answers(name)):
            printed, _ = run(answer, f"<{name}, answer {i}>", dict(vars(module)))
            told.append([*map(float, NUMBER.findall(printed))])
        if name in ANSWERS:
            ANSWERS[name](module, *told)
        plt.close("all")


def answers(name):
    """Give the code of the folded answers."""
    for _, text in cells(name, "markdown"):
        for details in re.findall(r"<details>.*?</details>", text, re.DOTALL):
            yield from re.findall(r"^```python\n(.*?)^```", details, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_saved_outputs_are_whole_and_free_of_what_changes_from_run_to_run(name):
    notebook = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    counts = [cell["execution_count"] for cell, _ in cells(name)]
    assert counts == [*range(1, len(counts) + 1)]
    for cell, _ in cells(name):
        assert cell["metadata"].keys() <= {"tags", "mystnb"}
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert cell["metadata"]["mystnb"]["image"]["alt"]
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert not any(output.get("name") == "stderr" for output in cell["outputs"])
    assert NOTEBOOKS[name].stat().st_size < 800_000
    thumbnail = TUTORIALS / "images" / f"{name}.png"
    assert 1_000 < thumbnail.stat().st_size < 40_000


def test_every_answer_has_code_that_runs():
    for name in NOTEBOOKS:
        for _, text in cells(name, "markdown"):
            for details in re.findall(r"<details>.*?</details>", text, re.DOTALL):
                assert "\n```python\n" in details, (name, details)


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handout")
    subprocess.run([sys.executable, TUTORIALS / "build.py", "--for-students", folder], check=True)
    return folder


def test_notebooks_for_students_have_the_exercises_and_not_the_answers(handout):
    for name in NOTEBOOKS:
        notebook = json.loads((handout / f"{name}.ipynb").read_text(encoding="utf-8"))
        text = "".join("".join(cell["source"]) for cell in notebook["cells"])
        assert "## Exercises" in text
        assert "<details>" not in text
        assert "Answer" not in text
        assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_notebooks_for_students_have_gaps_in_the_lines_that_are_theirs(handout):
    gaps = []
    for name in NOTEBOOKS:
        for (_, ours), (_, theirs) in zip(cells(name), cells(name, folder=handout), strict=True):
            for line, other in zip(ours.splitlines(), theirs.splitlines(), strict=True):
                gaps += [other.strip()] if line.endswith("# yours") else []
                assert line == other or line.endswith("# yours")
    assert gaps == [
        '"add": lambda v, a, b: ...,  # yours',
        '"mul": lambda v, a, b: ...,  # yours',
        '"pow": lambda v, a, n: ...,  # yours',
        '"tanh": lambda v, a: ...,  # yours',
        '"exp": lambda v, a: ...,  # yours',
        '"log": lambda v, a: ...,  # yours',
    ]


def test_the_check_of_notebook_9_says_which_slopes_are_open_and_which_are_wrong(handout):
    m = {"__name__": __name__}
    *before, check = [source for _, source in cells("09_backpropagation", folder=handout)][:3]
    for source in before:
        run(source, "<handout>", m)
    assert run(check, "<handout>", m)[0].split("\n")[0] == "add   still open"
    m["SLOPES"].update(tanh=lambda v, a: (1 - v,), exp=lambda v, a: (v,))
    verdicts = dict(line.split(maxsplit=1) for line in run(check, "<handout>", m)[0].splitlines())
    opened = dict.fromkeys(("add", "mul", "pow", "log"), "still open")
    assert verdicts == opened | {"tanh": "WRONG", "exp": "right"}


@pytest.mark.parametrize(
    ("wrong", "message", "right"),
    re.findall(r"^\| `([^`]+)` \| (.+?) \| `([^`]+)`", ERRORS, re.MULTILINE),
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_sheet_of_errors_tells_what_is_seen_and_what_to_write(wrong, message, right):
    beginning = re.search(r"^```python\n(.*?)^```", ERRORS, re.DOTALL | re.MULTILINE)[1]
    with pytest.raises(Exception, match=re.escape(message)):  # warnings are errors here
        run(f"{beginning}\n{wrong}", "<wrong>", {})
    run(f"{beginning}\n{right}", "<right>", {})


# What the notebooks claim: m is the module that the cells have made ------------------------------------


def linear_regression(m):
    h = 1e-5
    by_difference = [(m.landscape(h * e) - m.landscape(-h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose([*m.grads.values()], [*m.by_hand.values()], rtol=1e-12)
    np.testing.assert_allclose([*m.grads.values()], by_difference, rtol=1e-8)
    assert np.all(np.diff(m.losses) < 1e-12)
    assert m.losses[-1] == pytest.approx(0.5**2, rel=0.05)
    np.testing.assert_allclose(m.snapshots[-1], m.best, atol=1e-5)
    assert len(m.snapshots) == 62
    assert round(2 / m.curvatures.max(), 3) == 0.715
    assert 0.5 < 0.7 < 2 / m.curvatures.max() < 0.8
    assert m.loss(m.x5, m.y2) < 1e-8 * m.before


def valleys(m):
    assert m.misfit(m.minimum + m.u) == pytest.approx(0.5 * m.u @ m.H @ m.u, rel=0.01)
    for κ, factor in m.measured.items():
        assert factor == pytest.approx(m.predicted[κ], rel=1e-6)
    # Momentum's factor: the spectral radius of its matrix, √ρ where that is complex, 1 at the limit.
    for ηλ, ρ in ((0.5, 0.5), (1.0, 0.9), (0.01, 0.5), (3.5, 0.8), (3.0, 0.2)):
        matrix = [[1 + ρ - ηλ, -ρ], [1, 0]]
        assert m.factor(ηλ, ρ) == pytest.approx(max(abs(np.linalg.eigvals(matrix))))
        assert (m.factor(ηλ, ρ) < 1) == (ηλ < 2 + 2 * ρ)
    assert m.slope == pytest.approx(9 / 11, rel=0.02)
    m.explore(m.bowl(10), m.Momentum(0.02, 0.5))
    assert m.reached[0]["ADAM(0.1)"] < m.reached[0]["Descent(0.0198)"] / 100
    assert m.reached[45]["ADAM(0.1)"] > 100 * m.reached[0]["ADAM(0.1)"]
    np.testing.assert_allclose(*[next(iter(heights.values())) for heights in m.reached.values()], rtol=1e-6)
    for δ, steps in m.leaving.items():
        assert 0 <= steps - np.log(1 / δ) / np.log(1.1) < 1
    for (η, B), variance in m.spreads.items():
        assert variance == pytest.approx(η / (2 - η) / B, rel=0.08)  # three standard errors of 4000 numbers
    assert m.ratio == pytest.approx((9 / 11) ** 2)
    assert m.bowl(m.κ)(m.searched[-1]) < 1e-3
    assert m.below[m.misfit_of_line] == 0 < 100 < m.below[m.misfit]
    np.testing.assert_allclose([m.rescaled[-1], m.newton], 0, atol=1e-12)


def answers_on_valleys(m, needed, price, turned):
    without, with_momentum, counted = needed
    assert round(without) == 345
    assert np.ceil(with_momentum) == 35
    assert counted == 56
    assert price[0] == pytest.approx(160_000, rel=0.02)
    assert 1350 < price[1] < 1400
    steps = dict(zip(turned[::2], turned[1::2], strict=True))
    assert [steps[degrees] for degrees in (0, 20, 30, 45)] == [78, 89, 119, 136]
    assert steps[10] < steps[20] < 1.5 * steps[0] < steps[30]  # half as long again


def rules_on_a_network(m):
    assert len(m.watched) == 14
    for name, losses in m.watched.items():
        assert losses.shape == (4, 15)
        assert np.all(losses[:, -1] < 0.2), name
    np.testing.assert_allclose(m.watched["ADAMW"], m.watched["ADAM"], rtol=1e-6)
    # Of 24 seeds 21 end lower. Which of the eight do, a last bit decides, and so another processor.
    assert np.sum(m.warm[:, -1] < m.cold[:, -1]) >= 5  # most of the eight
    assert m.warm[:, -1].mean() == pytest.approx(0.7 * m.cold[:, -1].mean(), rel=0.3)
    away = {name: np.hypot(*path[-1]) for name, path in m.games.items()}
    assert away["OADAM"] < 1e-4 < 0.1 < away["ADAM"]
    assert m.reached < m.newton[:, -1].mean() < m.newton[:, 7].mean()


def answers_on_rules(m, orders, defaults, small):
    assert sorted(orders[:4]) == sorted(orders[4:]) == [0, 1, 2, 3]
    assert orders[:4] != orders[4:]
    _, _, _, adam, _, _, momentum = defaults  # after η, and β or ρ
    assert adam > 3 * m.watched["ADAM"][:, -1].mean()
    assert momentum > 1.5 * m.watched["Momentum"][:, -1].mean()
    assert m.RATES["Momentum"] == pytest.approx(10 * m.opts.Momentum().eta)
    assert np.mean(small) < m.warm[:, -1].mean()


def backpropagation(m):
    np.testing.assert_allclose(m.grads[m.W], m.by_numbers, rtol=1e-12)
    assert m.loss_of_numbers.value == pytest.approx(m.loss(m.x, m.y))
    assert m.by_text[0] == m.value
    assert (m.backwards, m.flat.calls) == (1, 2001)


def answers_on_backpropagation(m, sine, overwritten, compared, handed_down):
    assert sine == pytest.approx([np.cos(1)] * 2)
    (_, one, the_same), (_, two, other) = overwritten[:3], overwritten[3:]
    assert one == the_same
    assert other < two == pytest.approx(2.5 * one, abs=2e-3)  # the factors are 2, and 2 and 3
    for n, slope, visits, results in zip(*[iter(handed_down)] * 4, strict=True):
        assert (slope, visits, results) == (2**n, 2 ** (n + 1) - 1, n)


def optimisers(m):
    for f in m.LANDSCAPES:  # the formulas of the text have their minima at the stars
        assert all(f(np.array(minimum)) < 1e-4 for minimum in m.LANDSCAPES[f][2])
    assert len({rule for rule, _ in m.lowest}) == 14
    assert len(m.lowest) == 3 * 14
    assert m.lowest["Descent", "rosenbrock"] > 1 > 10 * m.lowest["Momentum", "rosenbrock"]
    assert m.lowest["Nesterov", "rosenbrock"] < 0.1
    assert m.lowest["ADAMW", "beale"] > 0.01 > m.lowest["ADAM", "beale"]

    # RADAM's first four steps are as long as the gradient, the fifth is not.
    lengths = m.sizes(m.RADAM(1.0), [100.0] * 5)
    assert min(lengths[:4]) > 99 > 1 > lengths[4]
    # The settings, panel by panel.
    paths = {ρ: m.trace_path(m.bowl, (-2, 1), m.Momentum(0.01, ρ), 100) for ρ in (0, 0.6, 0.9, 0.98)}
    height = {ρ: np.mean([m.bowl(x) for x in path[-20:]]) for ρ, path in paths.items()}
    assert height[0.9] < height[0.6] < height[0] < height[0.98]
    after = {β: m.sizes(m.ADAM(1.0, (0.9, β)), m.spike) for β in (0.9, 0.99, 0.999)}
    assert after[0.9][100] > 0.97
    assert max(after[0.99][-1], after[0.999][-1]) < 0.5
    np.testing.assert_allclose(m.sizes(m.ADAGrad(1.0), m.constant), np.arange(1, 151) ** -0.5, rtol=1e-6)
    for ρ, start in {0.9: 3.16, 0.99: 10}.items():
        assert m.sizes(m.RMSProp(1.0, ρ), [1.0])[0] == pytest.approx(start, rel=1e-3)

    # The rates: who diverges, who bears everything, who is best in the middle.
    diverging = {"Descent", "Momentum", "Nesterov", "RADAM"}
    for rule, heights in m.reached.items():
        assert (max(heights) > 100) == (rule in diverging), rule
    assert 0 < np.argmin(m.reached["RMSProp"]) < len(m.RATES) - 1
    np.testing.assert_allclose(m.reached["ADAMW"], m.reached["ADAM"], rtol=1e-3, atol=1e-9)

    # The answers.
    assert m.sizes(m.ADAM(0.1), [1e-3])[0] == pytest.approx(0.1, rel=1e-4)
    ends = [
        m.trace_path(m.himmelblau, (0.0, 0.0), opt, 1000)[-1] for opt in (m.Descent(0.01), m.Momentum(0.01))
    ]
    np.testing.assert_allclose(ends, [(3, 2), (3.584, -1.848)], atol=1e-3)
    np.testing.assert_allclose(
        m.trace_path(m.himmelblau, (0.0, 0.0), m.ADAM(0.3), 1000)[-1], (3, 2), atol=1e-3
    )


def your_own_optimiser(m):
    np.testing.assert_allclose(m.ours, m.built_in, rtol=1e-13)
    np.testing.assert_allclose(m.rule, m.built_in, rtol=1e-13)
    np.testing.assert_allclose(m.by_class, m.by_hand, rtol=1e-13)
    np.testing.assert_allclose(m.moves, 0.1, rtol=1e-9)
    constant, cosine, adam = (losses[-50:].mean() for losses in m.runs.values())
    assert adam < cosine < constant
    assert np.ptp(m.runs["Lion, cosine from 0.05 to 0"][-50:]) < 0.1 * np.ptp(m.runs["Lion(0.05)"][-50:])


def composing(m):
    small, large = m.measured[0.001], m.measured[1]
    assert small[-1] / small[0] == pytest.approx(0.75, abs=0.05)
    assert large[0] / large[-1] > 2000
    for start in (0.001, 1):  # the effective rates, and the loss that calculus predicts
        η = start * np.array([0.1] + [0.1 * max(0.1**k, 1e-4 / start) for k in range(1, 10)])
        np.testing.assert_allclose(m.rates[start][500::1000], η, rtol=1e-12)
    np.testing.assert_allclose(m.predicted(m.rates[0.001])[::100], small, rtol=0.03)
    np.testing.assert_allclose(m.predicted(m.rates[1])[2000::100], large[20:], rtol=0.2)
    assert m.to_the_end == pytest.approx(m.effective_rate(m.page(0.001), 100_000).sum())
    assert m.to_the_end == pytest.approx(1.1, abs=0.05)
    assert m.final[-1] == pytest.approx(1.8, abs=0.1)
    assert 3 < m.final[0] / m.final[-1] < 4
    assert m.predicted(np.array([m.effective_rate(m.page(0.08), 10_000).sum()]))[-1] == pytest.approx(
        m.final[0] / 10, rel=0.05
    )

    (_, misses, error), (_, misses_decayed, error_decayed) = m.fits.values()
    assert misses < misses_decayed < error_decayed + 0.05 < error
    one, *others = m.through.values()
    np.testing.assert_allclose(others, [one, one], rtol=1e-4)
    for λ, weights in zip((0.01, 0.1, 1), m.beside.values(), strict=True):
        np.testing.assert_allclose(weights, (1 - 0.01 * λ) ** np.arange(151), rtol=1e-9)

    assert 900 < np.linalg.norm(m.steep) < 1000
    with pytest.raises(FloatingPointError, match="step 4"):
        m.trace_path(m.beale, m.start, m.Descent(0.02), 400)
    for name in ("ClipValue(5), Descent", "ClipNorm(5), Descent"):
        np.testing.assert_allclose(m.paths[name][-1], (3, 0.5), atol=0.05)
    first = np.diff(m.paths["ClipValue(5), Descent"][:2], axis=0).ravel()
    np.testing.assert_allclose(first, -0.1)

    before, after = (
        m.effective_rate(m.Optimiser(*pair), 1000)
        for pair in ((m.InvDecay(0.01), m.ADAM(0.1)), (m.ADAM(0.1), m.InvDecay(0.01)))
    )
    np.testing.assert_allclose(after, 0.1 / (1 + 0.01 * np.arange(1, 1001)), rtol=1e-6)
    assert np.all(before > after)


def schedules(m):
    last = {name: above[-1] for name, above in m.trainings.items()}
    constant, small, exp, cosine = last.values()
    assert exp < small < cosine < constant / 10
    quick = [above[49] for name, above in m.trainings.items() if name != "constant 0.001"]
    assert max(quick) < 0.15 < m.trainings["constant 0.001"][49]
    overtakes = np.argmax(m.trainings["constant 0.001"] < m.trainings["constant 0.03"])
    assert 200 < overtakes < 300
    assert max(m.settled) < min(m.stirred) / 4
    assert len(m.SCHEDULES) == 22
    ends = [type(s).__name__ for s in m.SCHEDULES.values() if s.nsteps is not None]
    assert ends == ["Poly", "OneCycle", "Shortened", "reverse", "symmetric"]
    assert m.momenta == [0.9] * 10 + [0.45] * 10 + [0.225] * 10
    np.testing.assert_array_equal(m.scheduled, m.trainings["cosine from 0.03 to 0"])

    reached = [m.train(m.Momentum(), m.sch.Inv(0.03, decay, 1))[-1] for decay in (0.003, 0.03, 0.3)]
    np.testing.assert_allclose(reached, [0.0194, 0.0022, 0.0023], atol=5e-5)


def neural_network(m):
    assert m.accuracy(m.model, m.x_test, m.y_test) > 0.95
    assert m.train_losses[-1] < 0.02 < m.valid_losses[-1] < 0.2
    assert len(m.wrong) == np.sum(m.confusion) - np.trace(m.confusion)
    resumed, whole = m.params(m.after).to_vector(), m.params(m.uninterrupted).to_vector()
    np.testing.assert_array_equal(resumed, whole)


def gradients_of_gradients(m):
    distances = [np.sqrt(np.mean((f(m.s) - np.sin(m.s)) ** 2)) for f in m.fits.values()]
    assert distances[0] > distances[1] > distances[2]
    assert np.abs(m.u(m.t) - m.exact).max() < 0.03
    assert m.losses[-1] < 1e-3 * m.losses[0]
    assert np.exp(m.log_η) == pytest.approx(m.tried[m.results.argmin()], rel=0.05)
    assert m.after_descent(np.exp(m.log_rates)) < 1e-3 * m.results.min()


def under_the_bonnet(m):
    tiny = m.tiny_gradient(lambda: np.sum(np.tanh(m.V) ** 2), [m.V])[0]
    np.testing.assert_allclose(tiny, 2 * np.tanh(m.V.value) / np.cosh(m.V.value) ** 2)
    for mine, p in zip(m.walk_back(m.end, m.roots), (m.W, m.b), strict=True):
        np.testing.assert_allclose(mine, m.grads[p])


CLAIMS = {
    "01_linear_regression": linear_regression,
    "02_valleys": valleys,
    "03_optimisers": optimisers,
    "04_composing": composing,
    "05_schedules": schedules,
    "06_your_own_optimiser": your_own_optimiser,
    "07_neural_network": neural_network,
    "08_rules_on_a_network": rules_on_a_network,
    "09_backpropagation": backpropagation,
    "10_gradients_of_gradients": gradients_of_gradients,
    "11_under_the_bonnet": under_the_bonnet,
}

# What their answers claim of the numbers that they print, a list for each.
ANSWERS = {
    "02_valleys": answers_on_valleys,
    "08_rules_on_a_network": answers_on_rules,
    "09_backpropagation": answers_on_backpropagation,
}
