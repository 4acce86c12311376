"""Every example runs as a user runs it, and every snippet of the README says what it says."""

import ast
import doctest
import itertools
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidiff import gradient, hessian, params, pullback
from minidiff.functions import softmax

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.py"))
SHORTENED = {"composed_decay": ["1000"], "every_optimiser": ["500"]}  # by what they can be told
OF_SEVERAL_PROCESSES = {"parallel_digits", "many_runs"}  # which tests/test_parallel.py runs


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.stem not in OF_SEVERAL_PROCESSES], ids=lambda path: path.stem
)
def test_example_is_a_script(path, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, *SHORTENED.get(path.stem, [])])
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert said
    if path.stem == "char_rnn":
        plain, clipped = map(float, re.findall("→ (.*)", said))
        assert clipped < plain < 4


def accumulation(whole, parts):
    assert whole.shape == parts.shape == (41, 10)
    np.testing.assert_allclose(whole, parts, rtol=1e-9, atol=1e-12)


def averaging(as_it_is, averaged):
    assert averaged[-200:].mean() < 0.6 * as_it_is[-200:].mean()


def bilevel(losses, penalties, relevant, validation):
    assert losses[-1] < losses[0] / 3
    assert penalties[:relevant].max() < penalties[relevant:].mean()
    as_differences(validation, penalties)


def curvature(natural, adam, problem, product):
    assert natural[-1] < adam[-1] / 10
    model, loss, θ = problem()
    scores, back = pullback(model, θ)
    J = np.stack([back(e.reshape(scores.shape)).to_vector() for e in np.eye(scores.size)])
    v = gradient(lambda: loss(model()), θ)
    found, along = product(model, loss, θ, v).to_vector(), J @ v.to_vector()
    H = hessian(loss, scores).reshape(scores.size, -1)
    np.testing.assert_allclose(found, J.T @ (H @ along), atol=1e-10)
    p = softmax(scores)  # the Fisher information: the mean of g gᵀ over what the model itself would answer
    fisher = 0
    for k in range(3):
        slopes = (np.eye(3)[k] - p).reshape(-1, 1) * J
        g = slopes.reshape(len(p), 3, -1).sum(axis=1)  # of log p, by the parameters, for each sample
        fisher = fisher + (p[:, k] * (g @ v.to_vector())) @ g / len(p)
    np.testing.assert_allclose(found, fisher, atol=1e-10)


def equilibrium(losses, θ, loss):
    assert losses[-1] < losses[0] / 30
    for p in θ:
        as_differences(loss, p)


def as_differences(loss, p):
    """Compare a gradient with the change of the loss along a direction."""
    v, start = np.random.default_rng(1).normal(size=p.shape), p.value.copy()
    slope = np.sum(gradient(loss, params(p))[p] * v)
    sides = []
    for e in (1e-4, -1e-4):
        p[...] = start + e * v
        sides.append(loss())
    p[...] = start
    assert slope == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-4, abs=1e-6)


def freezing(misfit, learned, after):
    assert misfit < 0.02
    np.testing.assert_array_equal(learned, after)


def gaussian_process(losses, found, error):
    assert losses[-1] < losses[0] - 20
    assert 0.1 < found["noise"] < 0.3
    assert error < 0.15


def global_clipping(runs):
    (wild, norms), (tame, _) = runs["as they come"], runs["clipped to 0.5"]
    assert norms.max() > 1e3
    assert tame[-20:].mean() < 0.5
    assert tame[-20:].mean() < wild[-20:].mean() / 10


def hmc(chain, bend, taken):
    assert taken > 0.8
    assert chain[:, 0].var() == pytest.approx(4, rel=0.3)
    assert bend.var() == pytest.approx(0.25, rel=0.2)


def hvp(found, largest):
    assert found[-1] == pytest.approx(largest, rel=1e-6)


def in_place(missed, off):
    assert missed[-1] < 1e-4 * missed[0]
    np.testing.assert_allclose(off, 0, atol=0.1)


def kalman(losses, found, errors):
    assert losses[-1] < losses[0]
    assert found[1] == pytest.approx(4, rel=0.3)
    assert errors["learned"] < errors["guessed"]


def lbfgs(lbfgs, adam):
    assert min(lbfgs) < 1e-12 < 1e-4 < min(adam)


def ode(losses, found, true):
    assert losses[-1] < losses[0] / 50
    np.testing.assert_allclose(found, true, rtol=0.05)


def plateau(constant, reduced, rates):
    assert reduced[-10:].mean() < constant[-10:].mean()
    assert np.all(np.diff(rates) <= 0)
    assert rates[-1] < rates[0] / 4


def transformer(losses, right, look):
    assert losses[-1] < 0.1 * losses[0]
    assert right > 0.95
    np.testing.assert_allclose(look.sum(axis=1), 1)
    assert np.all(np.triu(look, 1) < 1e-6)  # nobody looks ahead


def vae(losses, mean, digits):
    assert losses[-20:].mean() < 0.75 * losses[:20].mean()
    assert abs(mean.mean()) < 0.5
    assert 0.3 < mean.std() < 2


CLAIMS = {
    f.__name__: f
    for f in (
        accumulation, averaging, bilevel, curvature, equilibrium, freezing, gaussian_process, global_clipping,
        hmc, hvp, in_place, kalman, lbfgs, ode, plateau, transformer, vae,
    )
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_does_what_it_says_in_sixty_lines_with_a_picture(path, monkeypatch, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    results = runpy.run_path(str(path))["main"]()
    CLAIMS[path.stem](*results if isinstance(results, tuple) else [results])
    assert (tmp_path / f"{path.stem}.png").stat().st_size > 5_000
    pyplot.close("all")
    code = ast.parse(path.read_text(encoding="utf-8"))
    ends = [range(node.lineno, node.end_lineno + 1) for node in code.body[1:]]
    source = path.read_text(encoding="utf-8").splitlines()
    assert sum(bool(source[i - 1].strip()) for lines in ends for i in lines) < 60


def test_linear_regression_falls():
    losses = runpy.run_path(str(ROOT / "examples" / "linear_regression.py"))["main"](steps=200)
    assert all(after < before for before, after in itertools.pairwise(losses) if before > 1e-25)
    assert losses[-1] < 1e-8 * losses[0]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_snippets(page):
    """Snippets with >>> are doctests; the others run, one after another, in one namespace."""
    namespace = {}
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert snippets
    for i, snippet in enumerate(snippets):
        if ">>>" not in snippet:
            exec(compile(snippet, f"{page}[{i}]", "exec"), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(snippet, namespace, f"{page}[{i}]", page, 0)
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
        namespace.update(test.globs)
        assert results.failed == 0


def test_running_needs_only_numpy_and_autograd():
    """The package imports, and trains, where no extra can be imported."""
    extras = ["matplotlib", "tqdm", "numba", "sklearn", "scipy", "pytest", "hypothesis", "mpi4py"]
    code = f"import sys; sys.modules.update(dict.fromkeys({extras})); sys.argv = ['x']; import runpy; " + (
        f"runpy.run_path({str(ROOT / 'examples' / 'linear_regression.py')!r}, run_name='__main__')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
