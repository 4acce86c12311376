"""What a function can reach by names, and what its arrays and parameters are called there."""

from __future__ import annotations

import inspect
import random
import types
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from minidiff.params import Param
from minidiff.program.lines import RESERVED, free_name

__all__ = ["Names", "Reach"]


def _within(f: Any) -> Iterator[tuple[str, Any]]:
    """Give what a function can reach by names: closures, globals, attributes, what lists and dicts hold."""
    waiting: list[tuple[str, Any]] = [("", f)]
    seen: dict[int, Any] = {}  # holds what it has seen, so that no id is given twice
    while waiting and len(seen) < 20_000:
        name, x = waiting.pop()
        if id(x) in seen or isinstance(x, (str, bytes, int, float, complex, type(None))):
            continue
        seen[id(x)] = x
        module = str(getattr(x, "__module__", "") or "")
        if (
            x is not f
            and module.split(".")[0] in ("numpy", "autograd", "minidiff", "builtins")
            and callable(x)
            and not isinstance(x, partial)
        ):
            continue
        yield name, x
        if isinstance(x, types.FunctionType):
            waiting += [
                (n, c.cell_contents)
                for n, c in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
                if _is_set(c)
            ]
            waiting += [(n, v) for n, v in _globals(x.__code__, x.__globals__)]
            waiting += [("", d) for d in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())]
            waiting += [(n, v) for n, v in vars(x).items()]
        elif isinstance(x, types.MethodType):
            waiting += [("", x.__func__), ("", x.__self__)]
        elif isinstance(x, partial):
            waiting += [("", x.func), ("", x.args), ("", x.keywords)]
        elif isinstance(x, Mapping):
            waiting += [(str(key), item) for key, item in x.items()]
        elif isinstance(x, (list, tuple, set, frozenset)):
            waiting += [(f"{name}_{i}" if name else "", item) for i, item in enumerate(x)]
        elif isinstance(x, type):
            waiting += [(f"{x.__name__}.{n}", v) for n, v in vars(x).items()]
        elif not isinstance(x, (np.ndarray, np.generic, Param, types.ModuleType)):
            kinds = [kind for kind in type(x).__mro__ if kind.__module__ != "builtins"]
            slots = [
                s
                for kind in kinds
                for s in (lambda s: (s,) if isinstance(s, str) else s)(vars(kind).get("__slots__", ()))
            ]
            waiting += [(f"{name}.{s}", getattr(x, s, None)) for s in slots]
            waiting += [(f"{name}.{n}", v) for n, v in getattr(x, "__dict__", {}).items()]
            waiting += [("", kind) for kind in kinds]
    if waiting:
        yield "…", np.zeros(0)  # more than we can look at


def _globals(code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in code.co_names:
        if name in names:
            x = names[name]
            yield name, x
            if isinstance(x, types.ModuleType):
                yield from (
                    (f"{name}.{n}", vars(x)[n])
                    for n in code.co_names
                    if n in vars(x) and not x.__name__.startswith(("numpy", "minidiff"))
                )
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals(inner, names)


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


class Reach:
    """What a function can reach by names.

    Parameters
    ----------
    f : callable
        The function.
    """

    def __init__(self, f: Any) -> None:
        self.f = f
        self.found = list(_within(f))
        kinds = np.random.Generator, np.random.RandomState, random.Random
        self._generators: list[Any] = [np.random.mtrand._rand, random._inst]
        self._generators += [x for _, x in self.found if isinstance(x, kinds)]

    def array(self) -> str:
        """Describe an array, if there is one."""
        for name, x in self.found:
            if isinstance(x, np.ndarray):
                return f"{name or 'an array'}, of shape {x.shape}"
        return ""

    def random_state(self) -> list[Any]:
        """Give the state of the generators of random numbers."""
        return [_state(g) for g in self._generators]


def _state(g: Any) -> Any:
    if isinstance(g, random.Random):
        return g.getstate()
    state = g.bit_generator.state if isinstance(g, np.random.Generator) else g.get_state(legacy=False)
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in _leaves(state)]


def _leaves(x: Any) -> Iterator[Any]:
    for item in x.values():
        if isinstance(item, dict):
            yield from _leaves(item)
        else:
            yield item


class Names:
    """Names for parameters, arguments and constants: those by which a function knows them.

    Parameters
    ----------
    reach : Reach
        What the function reaches.
    args : tuple
        Its arguments.
    ps : list of Param
        The parameters.

    Attributes
    ----------
    of_arguments, of_parameters : list of str
        In order.
    of_constants : dict of int to str
        By the arrays' ids.
    """

    def __init__(self, reach: Reach, args: tuple[Any, ...], ps: list[Param]) -> None:
        known: dict[int, str] = {}
        arrays: dict[int, str] = {}
        for name, x in reach.found:
            if isinstance(x, Param):
                known.setdefault(id(x), name)
            if isinstance(x, (Param, np.ndarray)):
                arrays.setdefault(id(x.value if isinstance(x, Param) else x), name)
        trained = {id(p.value) for p in ps}
        taken = {"value", "loss_and_gradient", "step", *RESERVED}
        self.of_arguments = [free_name(name, taken) for name in _arguments(reach.f, len(args))]
        self.of_parameters = [free_name(known.get(id(p), f"p{i}"), taken) for i, p in enumerate(ps)]
        self.of_constants = {
            i: free_name(name, taken) for i, name in arrays.items() if name and i not in trained
        }


def _arguments(f: Any, n: int) -> list[str]:
    try:
        bound = inspect.signature(f).bind(*range(n)).arguments
    except (TypeError, ValueError):
        return [f"x{i + 1}" for i in range(n)]
    names = []
    for name, value in bound.items():
        names += [f"{name}{i + 1}" for i in range(len(value))] if isinstance(value, tuple) else [name]
    return names
