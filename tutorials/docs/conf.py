"""How Sphinx builds the site: ``sphinx-build -W --keep-going tutorials/docs tutorials/docs/build/html``.

The API pages come from the docstrings, the tutorials from the notebooks with the outputs saved in them. A
reader's browser fetches nothing from elsewhere: MathJax comes with the package sphinx-mathjax-offline.
"""

import importlib
import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

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
]
exclude_patterns = ["build"]
templates_path = ["_templates"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"minidiff {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
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

# Sphinx reads documents from its own folder only, so the tutorials beside it are copied in.
copies = HERE / "tutorials"
shutil.rmtree(copies, ignore_errors=True)
copies.mkdir()
for page in [*HERE.parent.glob("*.ipynb"), *HERE.parent.glob("*.md")]:
    shutil.copy(page, copies)
shutil.copytree(HERE.parent / "images", copies / "images")

# Docstrings name things as a user imports them, so a name leads to the first module that offers it.
MODULES = [
    "minidiff",
    *(
        f"minidiff.{name}"
        for name in ("optimise", "schedules", "losses", "functions", "data", "parallel", "plot")
    ),
]
HOMES: dict[str, str] = {}
for module in MODULES:
    for name in importlib.import_module(module).__all__:
        HOMES.setdefault(name, f"{module}.{name}")


def resolve(app, env, node, contnode):
    """Give the link for a name that is not qualified by its module, if it is one of ours."""
    target = HOMES.get(node.get("reftarget", "").removesuffix("()"))
    found = env.get_domain("py").objects.get(target)
    if found is None:
        return None
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, contnode, target)


def escape_initials(app, what, name, obj, options, lines):
    """Keep the initial that begins a reference from being read as the number of a list's item."""
    lines[:] = [re.sub(r"^(\s*)([A-Z]\. )", r"\1\\\2", line) for line in lines]


def setup(app):
    """Register what is above."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", escape_initials)
