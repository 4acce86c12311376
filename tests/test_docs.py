"""The cheat sheet covers the whole public API and runs; the documentation site builds without a warning."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
CHEATSHEET = (TUTORIALS / "cheatsheet.md").read_text(encoding="utf-8")
MODULES = [
    "minidiff",
    *(f"minidiff.{name}" for name in ("optimise", "schedules", "losses", "functions", "parallel")),
    *(f"minidiff.{name}" for name in ("plot", "data")),
]

builds_site = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ["sphinx", "furo", "myst_nb", "sphinx-mathjax-offline"])),
    reason="the site needs the docs extra: pip install 'minidiff[docs]'",
)


def snippets(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_the_cheat_sheet_mentions_every_public_name(module):
    words = set(re.findall(r"\w+", CHEATSHEET))
    assert set(importlib.import_module(module).__all__) <= words


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_lists_every_public_name(module):
    words = set(
        re.findall(r"\w+", "".join(p.read_text() for p in (TUTORIALS / "docs" / "api").glob("*.rst")))
    )
    assert set(importlib.import_module(module).__all__) <= words


@pytest.mark.parametrize("page", ["cheatsheet.md", "docs/index.md"])
def test_snippets_run_in_order(page):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    namespace = {}
    for i, snippet in enumerate(snippets((TUTORIALS / page).read_text(encoding="utf-8"))):
        exec(compile(snippet, f"{page}[{i}]", "exec"), namespace)
    pyplot.close("all")
    assert namespace["loss"](namespace["x"], namespace["y"]) < 0.2


def code_on_the_site():
    """Yield a file's name and code in it: programs, blocks on pages, and in docstrings also examples."""
    for path in [*TUTORIALS.glob("*.md"), TUTORIALS / "docs" / "index.md", ROOT / "benchmarks" / "README.md"]:
        for block in re.findall(r"^```.*?^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            yield path.name, block
    for path in (ROOT / "examples").rglob("*.py"):
        yield path.name, path.read_text("utf-8")
    for path in (ROOT / "minidiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            doc = ast.get_docstring(node) or ""
            for example in re.finditer(r"^ *>>> .*(?:\n *\S.*)*", doc, re.MULTILINE):
                yield path.name, example[0]
            not_a_directive = r"^( *)(?!\.\. )\S.*::"
            for block in re.finditer(not_a_directive + r"((?:\n\1 +\S.*|\n *(?=\n))+)", doc, re.MULTILINE):
                yield path.name, block[2]


def test_code_on_the_site_has_at_most_88_columns():
    lines = [(name, line) for name, code in code_on_the_site() for line in code.split("\n")]
    assert not [(name, line) for name, line in lines if len(line) > 88]


def test_every_notebook_is_listed_with_a_thumbnail():
    listed = set(
        re.findall(
            r"\((?:images/)?(\w+\.(?:ipynb|png))\)", (TUTORIALS / "README.md").read_text(encoding="utf-8")
        )
    )
    notebooks = {path.name for path in TUTORIALS.glob("*.ipynb")}
    assert listed == notebooks | {name.replace(".ipynb", ".png") for name in notebooks}
    for name in notebooks:
        assert (TUTORIALS / "images" / name.replace(".ipynb", ".png")).stat().st_size < 40_000


class Page(HTMLParser):
    """The links, anchors and loaded files of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loads = [], {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name") if tag == "a" else None}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.loads.append(attributes["href"])
        elif "src" in attributes:
            self.loads.append(attributes["src"])


@builds_site
def test_the_site_builds_reads_offline_has_no_broken_link_and_is_searched_by_words(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees"]
    done = subprocess.run(
        [*build, TUTORIALS / "docs", tmp_path / "site"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    site = {path: Page(path) for path in (tmp_path / "site").rglob("*.html")}
    broken = []
    for path, page in site.items():
        for target in page.loads:
            url = urlsplit(target)
            if url.scheme != "data" and (url.netloc or not (path.parent / unquote(url.path)).exists()):
                broken.append((path.name, target))
        for target in page.links:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            to = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not to.exists() or (to in site and unquote(url.fragment) not in site[to].anchors):
                broken.append((path.name, target))
    assert not broken

    indexed = set(re.findall(r'"?(\w+)"?:', (tmp_path / "site" / "searchindex.js").read_text("utf-8")))
    assert "scipi" in indexed  # the stems of words
    assert any(word.startswith("bfg") for word in indexed)
    assert not {"frac", "leftarrow", "pmatrix", "subplot", "figsiz", "0072b2"} & indexed

    words = lambda path: re.sub(r"<[^>]*>|\s", "", path.read_text("utf-8"))
    reference = {path: words(path) for path in (tmp_path / "site" / "api").rglob("*.html")}
    assert "update(opt,ps,gs)" in reference[tmp_path / "site" / "api" / "optimise.html"]
    assert not [path.name for path, text in reference.items() if re.search(r"objectobject|\*_+[,)]", text)]
