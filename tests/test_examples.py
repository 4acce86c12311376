"""Every example runs as a user runs it, and every snippet of the README says what it says."""

import doctest
import itertools
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OF_SEVERAL_PROCESSES = {"parallel_digits", "many_runs"}  # which tests/test_parallel.py runs


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.stem not in OF_SEVERAL_PROCESSES], ids=lambda path: path.stem
)
def test_example_is_a_script(path, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


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
