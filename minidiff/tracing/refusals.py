"""What an error says of a call that cannot be recorded: the line of the loss, and what to write instead."""

from __future__ import annotations

import dis
import inspect
import linecache
import os
import re
import sys
import sysconfig
from typing import Any, NoReturn

import numpy as np
from autograd.numpy.numpy_boxes import ArrayBox

from minidiff.tracing.twins import twin

# What people look for who come from PyTorch.
ELSEWHERE = {
    **dict.fromkeys(
        ("backward", "grad", "zero_grad"),
        "The gradients are what gradient(lambda: loss(x, y), params(W)) returns.",
    ),
    **dict.fromkeys(("detach", "numpy", "cpu"), "dropgrad(x) gives the plain value."),
    **dict.fromkeys(("assign", "copy_"), "W[...] = a changes a parameter in place."),
    "unsqueeze": "x[:, None] or np.expand_dims(x, axis) adds an axis.",
    **dict.fromkeys(
        ("state_dict", "load_state_dict"), "save(path, θ, opt) and load(path, θ, opt) have its values."
    ),
    "data": "W -= … and W[...] = … change a parameter in place; dropgrad(x) gives the plain value.",
    **dict.fromkeys(
        ("requires_grad", "requires_grad_"),
        "What is to be differentiated is made by param(x); θ - params(W) leaves out what is to stay.",
    ),
}


def no_attribute(what: str, name: str) -> str:
    """Say that there is no such attribute, and what there is instead."""
    is_numpys = hasattr(np.ndarray, name) or hasattr(np.float64, name)
    of_arrays = "dropgrad(x) gives the plain value, which has it." if is_numpys else ""
    return f"{what} has no attribute {name!r}. {ELSEWHERE.get(name, of_arrays)}".rstrip()


def refuse(what: str, instead: str, is_sure: bool = False) -> NoReturn:
    """Raise an error for what the running line does, with a cure: that for the line's call, or `instead`."""
    place, source, called = where()
    cure = instead if is_sure else cures(source, called) or instead
    raise TypeError(
        f"{what} cannot be recorded, and its gradient would be lost{place}. {cure} "
        "If a constant is meant, dropgrad(x) gives the plain value."
    )


def called_here() -> tuple[str, str]:
    """Name what the running line calls of NumPy's or SciPy's, and tell what to write in its place, or ""."""
    _, source, called = where()
    return called, cures(source, called)


def is_called_here(name: str) -> bool:
    """Tell whether the running line calls a method of this name."""
    frame: Any = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("minidiff."):
        frame = frame.f_back
    return frame is not None and name in frame.f_code.co_names and f"{name}(" in where()[1]


def cures(source: str, called: str) -> str:
    """Tell what to write in place of what a line calls, by its source and the name it calls, or ""."""
    of_scipys = twin(called, source) if re.match(r"scipy(?!\.sparse)", called) else ""
    return of_scipys or " ".join(cure for pattern, cure in _CURES if re.search(pattern, source))


FILLED = (
    "In place of np.zeros(n), fill np.zeros_like(x, shape=n) of a recorded x, x.copy(), or "
    "minidiff.functions.zeros(n)."
)
# What can be recorded in place of what the refused line calls, by a pattern of its source.
_CURES = [
    (r"polynomial",
        "Of np.polynomial, legval(x, c) and the like take x under differentiation, legvander(x, n) @ c takes "
        "c, and np.polyval(c[::-1], x) both."),
    (r" numpy\.(max|min)$",
        "np.max takes one array, and an axis: write np.max(np.stack([a, b])), or np.maximum(a, b)."),
    (r" matplotlib\.", "A picture gets the plain value: plt.plot(dropgrad(x))."),
    (r" pandas\.", "Take df.to_numpy(), before the loss."),
    (r" numpy\.ma\.",
        "Of a masked array m take x[~m.mask] - m.compressed(), or np.where(m.mask, 0, x - m.data)."),
    (r" numpy\.matrix(lib\.|$)", "Of a matrix M take np.asarray(M), and @ for its product."),
    (r"scipy\.sparse", "Of a sparse matrix, A @ W and W @ A can; A.toarray() is a dense array."),
    (r"\.dot\((?![\[(])", "Write X @ W."),
    (r"arange\(", "Write start + step * np.arange(n)."),
    (r"full\(", "Write a * np.ones(shape)."),
    (r"array\(\[|np\.array\(|stack\(|concatenate\(|dot\([\[(]",
        "np.stack([a, b]) joins numbers, or arrays of one shape; minidiff.functions.array([[a, b], [c, d]]), "
        "or np.block, nested lists. A copy of one array is x.copy()."),
    (r"\.(float|complex|single|double|longdouble)\d*\(", "Write x.astype(dtype)."),
    (r"vectorize", "Write np.stack([f(v) for v in x])."),
    (r"^np\.save", "A file gets the plain value: np.save(path, dropgrad(x))."),
    (r"nditer", "Write for v in x.ravel(), in place of np.nditer."),
    (r"ndenumerate", "Write for i in np.ndindex(x.shape), and x[i]."),
    (r"as_strided", "np.lib.stride_tricks.sliding_window_view(x, n) gives windows, and x[i] any elements."),
    (r"numpy\.testing", "A check takes the plain value, dropgrad(x), and stands outside of a compiled loss."),
    (r"unique_values", "np.unique(x) has an order."),
    (r"intersect1d", "Write np.unique(x[np.isin(x, y)])."),
    (r"[rc]_\[|[RC]Class", "np.concatenate joins arrays, np.stack numbers."),
    (r"^(?!.*(?:math|special)).*\.(normal|uniform|exponential|gamma|laplace|logistic|gumbel|rayleigh)\(",
        "Write m + σ * rng.normal(size=n), s * rng.exponential(size=n): the random numbers are constants."),
    (r"\.(poisson|binomial|geometric)\(", "Counts have no gradient by what they are drawn with."),
    (r"\.permut|shuffle\(", "Write x[rng.permutation(len(x))]."),
    (r"\.choice\(", "Write x[rng.integers(len(x), size=n)]; probabilities are p=dropgrad(p)."),
    (r"(\]|\.flat) [-+*/]?=|fill_diagonal|put_along_axis",
        FILLED),
]  # fmt: skip


# The folders of other libraries, Python's own among them.
_INSTALLED = tuple({os.path.join(path, "") for name, path in sysconfig.get_paths().items() if "lib" in name})


def where() -> tuple[str, str, str]:
    """Name the line of the loss that is running, and the function that it calls there, if that is known.

    Returns
    -------
    tuple of str
        The words for a message, the source of what the line does there, and the name of the function.
    """
    frame: Any = sys._getframe(2)
    called, installed = "", None
    while frame is not None:
        module, code = str(frame.f_globals.get("__name__")), frame.f_code
        package = module.partition(".")[0]
        if package in ("numpy", "scipy"):
            called = f"{module.split('._')[0]}.{_name_in(frame)}"
        elif package in ("minidiff", "autograd"):
            if code.co_name == "_composed":  # it runs a function of many steps as NumPy writes it
                called = name_of(frame.f_locals["function"])
            elif code.co_name == "_run" and installed is not None:  # the loss is a library's
                break
        elif code.co_filename.startswith(_INSTALLED):
            installed = installed or (frame, called)
            called = f"{package}.{_name_in(frame)}"
        else:
            return _told(frame, called)
        frame = frame.f_back
    return ("", "", "") if installed is None else _told(*installed)


def _told(frame: Any, called: str) -> tuple[str, str, str]:
    source, file = _source(frame), frame.f_code.co_filename
    # The file of a notebook's cell has a name that says nothing.
    words = f", in line {frame.f_lineno}" + (f", `{source:.80}`" if source else "")
    is_elsewhere = frame.f_globals.get("__name__") != "__main__" and os.path.exists(file)
    words += f" ({os.path.basename(file)})" * is_elsewhere + (f", which calls {called}" if called else "")
    return words, f"{source or _names(frame)} {called}", called


def _name_in(frame: Any) -> str:
    """Name the function that runs in a frame, a method with its class or with SciPy's distribution."""
    name: str = frame.f_code.co_name
    for by in {"wrapper": ("f", "func"), "__ua_function__": ("method",)}.get(name, ()):
        name = getattr(frame.f_locals.get(by), "__name__", name)  # what SciPy's or matplotlib's wrapper calls
    if (of := frame.f_locals.get("self")) is None:
        return name
    # Past a ``__getattr__``: the object may be half made.
    kind = type(inspect.getattr_static(of, "dist", of)).__name__.removesuffix("_gen")
    return f"{kind}.{name}".removesuffix(".__init__").removesuffix(".__call__")


def _names(frame: Any) -> str:
    """Give the names on a line, written like source: what is typed into Python has no source to read."""
    lines = {i: line for start, end, line in frame.f_code.co_lines() for i in range(start, end)}
    done = [i for i in dis.get_instructions(frame.f_code) if i.offset <= frame.f_lasti]
    here = [i for i in done if lines.get(i.offset) == frame.f_lineno]
    names = [f".{i.argval}(" for i in here if i.opname.startswith("LOAD_") and type(i.argval) is str]
    return "".join(names) + "] =" * done[-1].opname.startswith("STORE_S")  # STORE_SUBSCR, STORE_SLICE


def _source(frame: Any) -> str:
    """Give the source of what a frame is doing: the expression, known since Python 3.11, or the line."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip("\n")
    if hasattr(frame.f_code, "co_positions"):
        first, last, start, stop = list(frame.f_code.co_positions())[frame.f_lasti // 2]
        if first == frame.f_lineno and stop is not None:
            text = line.encode()[start : stop if last == first else None].decode()
            rest = line.encode()[stop:].lstrip()
            rest = rest[rest[:1] in (b"+", b"-", b"*", b"/") :]
            return text + " = …" if rest[:1] == b"=" != rest[1:2] else text
    return line.strip()


def name_of(function: Any) -> str:
    """Name a function for an error message."""
    function = getattr(function, "fun", function)
    if function is ArrayBox.__getitem__.fun:
        return "x[…]"
    name = getattr(function, "__name__", str(function))
    if isinstance(function, np.ufunc) and getattr(np, name, None) is not function:
        return name  # another library's
    module = getattr(function, "__module__", None) or "numpy"
    return f"{module.replace('numpy._core', 'numpy').split('._')[0].replace('numpy', 'np', 1)}.{name}"
