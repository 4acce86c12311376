"""How Sphinx builds the site.

    sphinx-build -W --keep-going tutorials/docs tutorials/docs/build/html

The API pages come from the docstrings, the tutorials from the notebooks with the
outputs saved in them. A reader's browser fetches nothing from elsewhere: MathJax comes
with the package sphinx-mathjax-offline.
"""

import ast
import importlib
import json
import os
import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

import sphinx.builders.html
import sphinx.search
from docutils.nodes import Text, container, literal_block, math, math_block
from sphinx.search import IndexBuilder
from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent

project = "minidiff"
author = "the minidiff developers"
version = release = version_of("minidiff")

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # docstrings in NumPy's style
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
]
copybutton_prompt_text = ">>> |\\.\\.\\. |\\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["build"]
templates_path = ["_templates"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"minidiff {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_js_files = ["formulas.js"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_domain_indices = False
html_show_copyright = False

autodoc_typehints = "none"  # the docstrings say it better
autodoc_inherit_docstrings = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
# A page has no kernel behind it: it shows the still of sliders, and loads no sliders.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", 999)]

# Sphinx reads documents from its own folder only, so the tutorials are copied in.
copies = HERE / "tutorials"
shutil.rmtree(copies, ignore_errors=True)
copies.mkdir()
for page in HERE.parent.glob("*.md"):
    shutil.copy(page, copies)
for page in HERE.parent.glob("*.ipynb"):
    notebook = json.loads(page.read_text("utf-8"))
    download = f"\n\n{{download}}`This notebook <../../{page.name}>` to run and change."
    notebook["cells"][0]["source"].append(download)
    (copies / page.name).write_text(json.dumps(notebook), "utf-8")
shutil.copytree(HERE.parent / "images", copies / "images")

# The front page has a table and a picture of the benchmarks.
BENCHMARKS = HERE / "benchmarks"
shutil.rmtree(BENCHMARKS, ignore_errors=True)
BENCHMARKS.mkdir()
for file in ("README.md", "ratios.png"):
    shutil.copy(HERE.parent.parent / "benchmarks" / file, BENCHMARKS)

# Each example and recipe becomes a page: its docstring, its picture, its code.
EXAMPLES = HERE.parent.parent / "examples"
PAGE = """# {title}
{text}

{shown}
{{download}}`{script.name} <{source}>`

```{{literalinclude}} {source}
:language: python
```
"""
INDEX = """# {kind}

Short programs in plain NumPy, to copy from.

{listed}

```{{toctree}}
:hidden:

{names}
```
"""
for kind, folder in {"examples": EXAMPLES, "recipes": EXAMPLES / "recipes"}.items():
    pages = HERE / kind
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    titles = {}
    for script in sorted(folder.glob("*.py")):
        module = ast.parse(script.read_text("utf-8"))
        title, _, text = ast.get_docstring(module).partition("\n")
        titles[script.stem] = title.rstrip(".")
        picture = f"tutorials/images/{kind}/{script.stem}.png"
        shown = f"![{title}](../{picture})" if (HERE / picture).exists() else ""
        source = os.path.relpath(script, pages)
        (pages / f"{script.stem}.md").write_text(
            PAGE.format(
                title=titles[script.stem],
                text=text,
                shown=shown,
                script=script,
                source=source,
            ),
            "utf-8",
        )
    listed = "\n".join(f"* [{title}]({name}.md)" for name, title in titles.items())
    (pages / "index.md").write_text(
        INDEX.format(kind=kind.capitalize(), listed=listed, names="\n".join(titles)),
        "utf-8",
    )

# Docstrings name things as users import them. A name leads to the first such module.
MODULES = [
    "minidiff",
    *(
        f"minidiff.{name}"
        for name in (
            "optimise",
            "schedules",
            "losses",
            "functions",
            "data",
            "parallel",
            "plot",
        )
    ),
]
HOMES: dict[str, str] = {}
for module in MODULES:
    for name in importlib.import_module(module).__all__:
        HOMES.setdefault(name, f"{module}.{name}")


def resolve(app, env, node, contnode):
    """Give the link for a name without its module, if it is one of ours."""
    target = HOMES.get(node.get("reftarget", "").removesuffix("()"))
    found = env.get_domain("py").objects.get(target)
    if found is None:
        return None
    return make_refnode(
        app.builder, node["refdoc"], found.docname, found.node_id, contnode, target
    )


# What a line of code says when it draws a picture.
DRAWS = re.compile(
    r"\b(plt|axes|ax|fig|figsize|left|right|top|bottom)\b|subplots|rcParams|savefig"
    r"|color|linestyle|linewidth|label|title|legend|\.set\w*\(|#[0-9A-Fa-f]{6}"
)


class Prose(IndexBuilder):
    """The words that a search finds, without formulas and lines of code that draw."""

    def feed(self, docname, filename, title, doctree):
        """Index a page without what nobody searches for."""
        doctree = doctree.deepcopy()
        for node in [*doctree.findall(math), *doctree.findall(math_block)]:
            node.parent.remove(node)
        for node in [*doctree.findall(literal_block)]:
            lines = [x for x in node.astext().splitlines() if not DRAWS.search(x)]
            node.children = [Text("\n".join(lines))]
        super().feed(docname, filename, title, doctree)


def split_formulas(app, doctree):
    """Make parts of displayed formulas, which wrap on a narrow screen."""
    for node in [*doctree.findall(math_block)]:
        parts = [""]
        for piece in re.split(r"\\q?quad(?![a-z])", node.astext()):
            whole = parts[-1].count("{") == parts[-1].count("}")
            whole &= parts[-1].count(r"\begin") == parts[-1].count(r"\end")
            whole &= parts[-1].count(r"\left") == parts[-1].count(r"\right")
            if parts[-1].strip() and whole:
                parts.append(piece)
            else:
                parts[-1] += r"\quad" * bool(parts[-1]) + piece
        if len(parts) > 1:
            nodes = []
            for part in parts:
                nodes.append(node.deepcopy())
                nodes[-1].children = [Text(part)]
                nodes[-1].rawsource = part
            node.replace_self(container("", *nodes, classes=["formulas"]))


def say_how_it_is_called(app, what, name, obj, options, signature, returned):
    """Give the signature that a reader writes, where Python's own has stand-ins."""
    known = {
        "minidiff.optimise.update": "(opt, ps, gs)",
        "minidiff.optimise.Rule": "(**settings)",
    }
    without = re.sub(r"(, )?\*\*?_+\b", "", signature or "")
    return known.get(name, without or signature), returned


def escape_initials(app, what, name, obj, options, lines):
    """Keep the initial that begins a reference from being read as a list's number."""
    lines[:] = [re.sub(r"^(\s*)([A-Z]\. )", r"\1\\\2", line) for line in lines]


def show_its_own_part(app, page, template, context, doctree):
    """Open the list of pages at this one alone: 200 links a page are slow to load."""
    whole = context["toctree"]
    context["toctree"] = lambda **options: whole(**{**options, "collapse": True})


def setup(app):
    """Register what is above."""
    sphinx.search.IndexBuilder = sphinx.builders.html.IndexBuilder = Prose
    app.connect("missing-reference", resolve)
    app.connect(
        "html-page-context", show_its_own_part, priority=400
    )  # before the theme asks
    app.connect("doctree-read", split_formulas)
    app.connect("autodoc-process-signature", say_how_it_is_called)
    app.connect("autodoc-process-docstring", escape_initials)
