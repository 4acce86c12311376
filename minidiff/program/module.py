"""A program as a module of its own, which imports NumPy alone."""

from __future__ import annotations

import hashlib
import inspect
import io
import math
import os
import re
import textwrap
from types import FunctionType
from typing import Any

import numpy as np

from minidiff.checks import described
from minidiff.files import write
from minidiff.program.lines import ChangedError, Lines, Workspace, literal
from minidiff.program.listing import shown_line
from minidiff.program.reach import codes
from minidiff.program.signature import outlined
from minidiff.tracing import WITHOUT_AUTOGRAD, defined

__all__ = ["module_of", "save"]

# Arrays of more elements than this are in a file beside the module.
INLINE = 16
_FIRST = "# Written by minidiff's compiled(…).save: plain NumPy, nothing of minidiff is needed."


def save(path: str, text: str, arrays: dict[str, Any]) -> None:
    """Write a module, whole or not at all.

    Parameters
    ----------
    path : str
        The module's file.
    text, arrays
        From `module_of`.

    Raises
    ------
    FileExistsError
        If there is a file that `save` has not written.
    """
    before = ""
    if os.path.lexists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            before = file.read()
        if not before.startswith(_FIRST):
            raise FileExistsError(
                f"save: {path} is there, and save has not written it: give another name, or delete it"
            )
    if arrays:
        contents = io.BytesIO()
        np.savez(contents, **arrays)
        data = contents.getvalue()
        # Its name goes by its contents: an old module finds its own arrays until the new one is in place.
        beside = f"{os.path.splitext(path)[0]}-{hashlib.sha256(data).hexdigest()[:12]}.npz"
        write(beside, [data])
        text = text.replace("CONSTANTS.npz", os.path.basename(beside))
    try:
        write(path, [text.encode()])
    except BaseException:
        if arrays and os.path.basename(beside) not in before:
            os.unlink(beside)
        raise
    for old in re.findall(r'with_name\("(.+?\.npz)"\)', before):
        if old not in text and os.path.exists(leftover := os.path.join(os.path.dirname(path), old)):
            os.unlink(leftover)


def module_of(about: str, functions: list[tuple[Lines, str, list[Any]]]) -> tuple[str, dict[str, Any]]:
    """Make the text of a module of programs.

    Parameters
    ----------
    about : str
        What the module is about.
    functions : list of (Lines, str, list)
        The programs; what each does; and, for each of its inputs, an example.

    Returns
    -------
    str
        The text.
    dict
        The arrays that it reads from a file.

    Raises
    ------
    TypeError
        If a program uses what NumPy alone has not.
    """
    arrays: dict[str, Any] = {}
    helpers = {"given": inspect.getsource(given)}
    parts = []
    for i, (lines, what, examples) in enumerate(functions):
        for name, f in lines.helpers.items():
            phase, line = lines.asked_by[name]
            is_called = phase == "forward" and not _is_ours(f)
            what = f"it calls {name}, which" if is_called else "its derivative takes what"
            helpers |= _sources(f, f"{shown_line(line)}{what}")
            if name not in helpers:  # the function's own name is taken, by an argument
                helpers[name] = f"{name} = {inspect.unwrap(f).__name__}"
        constants = [_constant(x, name, arrays, f"_{i}" * bool(i)) for name, x in lines.constants.items()]
        if lines.workspace:
            helpers["Workspace"] = inspect.getsource(Workspace)
            constants.append(f"workspace = Workspace({', '.join(map(repr, lines.workspace))})")
        if "raise ChangedError" in lines.body:
            helpers["ChangedError"] = inspect.getsource(ChangedError)
        if taken := helpers.keys() & lines.constants:
            raise TypeError(
                f"save: a constant is named {min(taken)}, as a function is that the program calls"
            )
        head, body = lines.body.split("\n", 1)
        doc = textwrap.indent(_docstring(f"{what}\n\n{_described(lines, examples)}\n"), "    ")
        named = zip(lines.inputs, examples, strict=True)
        checks = [f"    {name} = given({name!r}, {name}, {_kind(x)})" for name, x in named]
        written = "\n".join([*constants, *["", ""] * bool(constants), head, doc, *checks, body.rstrip()])
        title = f"{lines.title}_{i + 1}" if lines.title == functions[0][0].title and i else lines.title
        if title != lines.title or (i and constants):  # its names are another program's, too
            inside = textwrap.indent(written, "    ", lambda line: bool(line.strip()))
            written = f"def _{title}():\n{inside}\n\n    return {lines.title}\n\n\n{title} = _{title}()"
        parts.append(written)
    top = [_FIRST, _docstring(about), "", "from __future__ import annotations", ""]
    if arrays:
        top += ["import pathlib", "", "import numpy as np", ""]
        top += [
            'with np.load(pathlib.Path(__file__).with_name("CONSTANTS.npz")) as file:',
            "    stored = dict(file)",
        ]
    else:
        top += ["import numpy as np"]
    sources = [source.rstrip() for source in helpers.values()]
    return "\n\n\n".join(["\n".join(top), *sources, *parts]) + "\n", arrays


def given(name: str, x: Any, dtype: Any, shape: Any = None, order: Any = "C") -> Any:
    """Refuse what the program was not made for; lay an array out in memory as it was then."""
    if shape is None:
        if type(x) is not dtype:
            raise TypeError(f"{name} must be a {dtype.__name__}, not {x!r:.60}")
        return x
    if isinstance(x, np.generic):  # NumPy makes a number of an array without axes wherever it calculates
        x = np.asarray(x)
    is_plain = isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray)
    if not is_plain or x.shape != shape or x.dtype != dtype:
        got = f"{x.dtype} {x.shape}" if is_plain else f"{x!r:.60}"
        raise TypeError(f"{name} must be an array of {dtype} and shape {shape}, not {got}")
    if order in ("C", "F"):
        return np.asarray(x, order=order)
    if x.strides == order:
        return x
    steps = [(n - 1) * s for n, s in zip(shape, order, strict=True)]
    start, size = -sum(s for s in steps if s < 0), sum(map(abs, steps)) + x.itemsize
    laid = np.ndarray(shape, x.dtype, bytearray(size), start, order)
    laid[...] = x
    if not np.array_equal(laid, x, equal_nan=True):  # as of rows that are one row, broadcast
        raise TypeError(f"{name} must be laid out in memory with strides {order}, not {x.strides}")
    return laid


def _kind(x: Any) -> str:
    """Write what `given` compares an input with."""
    if not isinstance(x, np.ndarray):
        return literal(type(x))
    order = {"C": "", "F": ", order='F'"}.get(_order(x), f", order={x.strides}")
    return f"{x.dtype.str!r}, {x.shape}{order}"


def _order(x: Any) -> str:
    return "C" if x.flags.c_contiguous else "F" if x.flags.f_contiguous else ""


def _docstring(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', "'")
    return f'"""{text}"""'


def _described(lines: Lines, examples: list[Any]) -> str:
    named = zip(lines.inputs, examples, strict=True)
    kinds = {name: type(x).__name__ if type(x) in (bool, int) else outlined(x) for name, x in named}
    takes = [f"    {name}: {kind}" for name, kind in kinds.items()]
    return "\n".join(["Takes", *takes, "Gives", f"    {', '.join(lines.outputs)}"])


def _constant(x: Any, name: str, arrays: dict[str, Any], suffix: str) -> str:
    """Write a line that makes a constant; a large array goes among `arrays`, to be read from there."""
    if isinstance(x, np.dtype) and x.kind in "biufc":
        return f"{name} = np.dtype({x.str!r})"
    if isinstance(x, (float, complex)) and not isinstance(x, np.generic):
        return f"{name} = {_digits(x)}"
    if not isinstance(x, (np.ndarray, np.generic)) or x.dtype.kind not in "biufc" or x.dtype.char in "gG":
        what = "a view of another memory order" if callable(x) else described(x)
        raise TypeError(f"save: the program uses {what}, which cannot be written down")
    if isinstance(x, np.generic):
        return f"{name} = np.{type(x).__name__}({_digits(x.item())})"
    if not _order(x):
        return f"{_constant(x.copy(), name, arrays, suffix)}\n{name} = given({name!r}, {name}, {_kind(x)})"
    if x.size > INLINE:
        stored = name + suffix
        arrays[stored] = x
        return f"{name} = stored[{stored!r}]"
    order = "" if _order(x) == "C" else ", order='F'"
    if not x.size:
        return f"{name} = np.empty({x.shape}, {x.dtype.str!r}{order})"
    return f"{name} = np.array({_digits(x.tolist())}, {x.dtype.str!r}{order})"


def _digits(x: Any) -> str:
    if isinstance(x, list):
        return f"[{', '.join(map(_digits, x))}]"
    if isinstance(x, complex):
        return f"complex({_digits(x.real)}, {_digits(x.imag)})"
    return repr(x) if math.isfinite(x) else f"float('{x}')"


def _sources(f: Any, what: str) -> dict[str, str]:
    """Give the source of a function of minidiff's, and of those that it calls, by name.

    ``what`` is said of one that needs more than NumPy.
    """
    refusal = TypeError(f"save: {what} NumPy alone has not: it cannot be written down")
    f = inspect.unwrap(f)
    if not isinstance(f, FunctionType) or f.__closure__ or not _is_ours(f):
        raise refusal
    found: dict[str, str] = {}
    for name in [name for code in codes(f.__code__) for name in code.co_names]:
        x = defined(f.__globals__.get(name))
        plain = next((text for other, text in WITHOUT_AUTOGRAD.items() if other is x), None)
        if plain is not None:
            found[name] = f"{name} = {plain}"
        elif isinstance(x, FunctionType):
            found |= _sources(x, what) if inspect.unwrap(x) is not f else {}
            if name != x.__name__:  # the name of the primitive that has been made of it
                found[name] = f"{name} = {x.__name__}"
        elif type(x) in (int, float):
            found[name] = f"{name} = {_digits(x)}"
        elif x is not None and x is not np:
            raise refusal
    source = textwrap.dedent(inspect.getsource(f))
    return {**found, f.__name__: source[source.index("def ") :]}


def _is_ours(f: Any) -> bool:
    return str(getattr(f, "__module__", None)).startswith("minidiff.")
