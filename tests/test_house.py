"""How the package is built: who imports whom."""

import ast
import re
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import minidiff

PACKAGE = Path(minidiff.__file__).parent
# From the ground up. A module imports what stands in its own line or above it.
LAYERS = """
    typing iddict checks names
    settings interrupts files
    tracing tracing.*
    params
    program.*
    grads gradient own functions losses data
    optimise.base optimise.engine optimise.rule optimise.undo optimise.step optimise.compose optimise.rules
    optimise.clips optimise.update optimise.decays optimise.together
    compiled
    optimise optimise.*
    schedules schedules.*
    *
"""
ORDER = [line.split() for line in LAYERS.strip().splitlines()]


def name_of(path):
    """Return a module's name within the package: a package's is that of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def imports(tree):
    """Give the full name of everything that is imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def uses(name):
    """Return the modules of the package that one imports, at its head or within a function."""
    found = {
        full.removeprefix("minidiff.") for full in imports(MODULES[name]) if full.startswith("minidiff.")
    }
    return {module if module in MODULES else module.rpartition(".")[0] for module in found}


def test_the_map_in_contributing_names_every_file():
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    top, *parts = re.split(r"\*\*`minidiff/(\w+)/`\*\*", page[: page.index("A module imports only")])
    rows = {"": top, **dict(zip(parts[::2], parts[1::2], strict=True))}
    for name in MODULES:
        folder, _, file = name.rpartition(".")
        if name not in ("", *rows):
            assert re.search(rf"\b{file}\.py`", rows[folder]), name


def layer(name):
    return next(i for i, line in enumerate(ORDER) if any(fnmatch(name, pattern) for pattern in line))


# A package's own file only collects names; `optimise` gives those of `schedules` when they are asked for.
@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"", "optimise"}))
def test_a_module_imports_only_what_stands_above_it(name):
    assert {module for module in uses(name) if layer(module) > layer(name)} == set()


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: uses(name) for name in MODULES if name not in ("", "optimise")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_tracing_knows_more_of_autograd_than_its_numpy(name):
    known = {full for full in imports(MODULES[name]) if full.split(".")[0] == "autograd"}
    assert name.split(".")[0] == "tracing" or known <= {"autograd", "autograd.numpy"}
