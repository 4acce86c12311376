"""A loss and its gradient, or a whole training step, recorded once and run as straight lines of NumPy."""

from __future__ import annotations

import builtins
import inspect
import keyword
import pickle
import random
import re
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from minidiff.checks import described
from minidiff.gradient import WithGradient, _check_loss, _ones, _own, _record, _variable, withgradient
from minidiff.grads import Grads
from minidiff.interrupts import whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.update import update
from minidiff.params import Param, Params
from minidiff.program.listing import ChangedError, Listing, Program, StandIn, alike, example
from minidiff.program.recorder import RefusedError
from minidiff.tracing import backward, is_tracing, map_container, standing_for_leaves

__all__ = ["Compiled", "compiled"]

# So many programs are kept, for the signatures met last; from so many on, something is amiss.
KEPT, MANY = 64, 16


def compiled(
    loss: Callable[..., Any], ps: Params | None = None, opt: AbstractOptimiser | None = None
) -> Compiled:
    """Make a program of a loss and its gradient, or of a whole training step.

    Three forms::

        f = compiled(loss, θ)          # f(x, y) is withgradient(lambda: loss(x, y), θ)
        f = compiled(loss)             # f(x, y) is withgradient(loss, x, y)
        step = compiled(loss, θ, opt)  # step(x, y) takes the gradient, updates θ, and returns the loss

    The function runs once with stand-ins for its arguments and the parameters. What it does with them becomes
    a function of plain NumPy, forward and backward, that runs in place of it from then on: the same calls, so
    the results have the same bits, without what Python and the recording of a gradient cost.

    Parameters
    ----------
    loss : callable
        Returns one real number.
    ps : Params, optional
        The parameters to differentiate by: those that are in it now.
    opt : AbstractOptimiser, optional
        The optimiser that takes the step.

    Returns
    -------
    Compiled
        The function. Its arguments are arrays, numbers, parameters, or lists, tuples and dicts of these.
        It is recorded anew when their structure is another, or a shape, dtype or memory layout, or the
        value of what is neither an array nor a float: an integer, a string, an object.

    Raises
    ------
    TypeError
        When the function is called with arguments of a new signature, if what the loss does would not be the
        same for other values: it branches on one, makes a Python number of one, changes an array in place,
        draws random numbers, counts its calls. The message names the line.

    Notes
    -----
    Arrays that the loss reaches otherwise than by its arguments are kept by reference: what changes in them
    counts, to which array a name is bound later does not. Numbers, strings, attributes, and branches
    on what is no argument are those of the recording. The loss itself runs only when it is recorded
    (twice, and once eagerly to compare), so what it prints or appends to a list it does then.

    Threads may call one program at once. An optimiser's step is taken as `update` takes it.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import compiled, param, params
    >>> W, b = param([[1.0, 2.0]]), param([3.0])
    >>> def loss(x, y):
    ...     return np.sum((W @ x + b - y) ** 2)
    >>> f = compiled(loss, params(W, b))
    >>> val, grads = f(np.array([1.0, 1.0]), np.array([4.0]))
    >>> val, grads[W]
    (np.float64(4.0), array([[4., 4.]]))
    >>> print(f.source)
    def loss_and_gradient(W, b, x, y):
        # --- forward ---
        # return np.sum((W @ x + b - y) ** 2)
        v1 = W @ x
        v1 += b
        v1 -= y
        v2 = v1 ** 2
        value = np.add.reduce(v2, axis=None)
        # --- backward ---
        # return np.sum((W @ x + b - y) ** 2)
        db = v1 + v1
        v3 = db[..., None]
        dW = v3 * x
        return value, dW, db
    """
    if not callable(loss) or isinstance(loss, (Param, Params)):
        raise TypeError(
            f"compiled(loss, …): loss must be a function, got {described(loss)}. "
            "Write compiled(lambda x, y: loss(x, y), θ)."
        )
    if ps is not None and not isinstance(ps, Params):
        raise TypeError(
            f"compiled(loss, ps): ps must be Params, got {described(ps)}: wrap it in params(...)."
        )
    if opt is not None and not isinstance(opt, AbstractOptimiser):
        raise TypeError(f"compiled(loss, ps, opt): opt must be an optimiser, got {described(opt)}.")
    if opt is not None and ps is None:
        raise TypeError("compiled(loss, ps, opt): opt takes steps of the parameters ps, which are lacking.")
    return Compiled(loss, ps, opt)


class Compiled:
    """What `compiled` gives: a function that is recorded when it is first called.

    Attributes
    ----------
    source : str
        The programs made so far, as NumPy code.
    """

    def __init__(self, loss: Callable[..., Any], ps: Params | None, opt: AbstractOptimiser | None) -> None:
        self._loss, self._opt = loss, opt
        self._ps = None if ps is None else list(ps)
        self._params = None if ps is None else Params(ps)
        self._values = [] if ps is None else [p.value for p in ps]
        self._programs: dict[Any, _Made] = {}
        self._lock = threading.RLock()
        self._recorded = 0
        functools_name = getattr(loss, "__name__", type(loss).__name__)
        self._name = functools_name if functools_name.isidentifier() else "loss"

    def __call__(self, *args: Any) -> Any:
        """Give the loss and its gradient, or take a step and give the loss."""
        if is_tracing():  # which has to see what the loss does
            return self._eagerly(args)
        leaves: Any = []
        key: Any
        if all(type(arg) is np.ndarray for arg in args):  # as `_key` gives it, quicker
            key, leaves = tuple([(x.shape, x.strides, x.dtype) for x in args]), args
        else:
            key = tuple([_key(arg, leaves) for arg in args])
        made = self._programs.get(key)
        if made is None:
            result = self._first(key, args)
        else:
            try:
                result = made.result(self._values, leaves)
            except ChangedError:
                self._programs.pop(key, None)
                result = self._first(key, args)
        return result if self._opt is None else self._finished(result)

    def _eagerly(self, args: tuple[Any, ...]) -> Any:
        loss, ps = self._loss, self._params
        return self._finished(
            withgradient(lambda: loss(*args), ps) if ps is not None else withgradient(loss, *args)
        )

    def _finished(self, result: WithGradient) -> Any:
        if self._opt is None:
            return result
        whole(update, self._opt, self._params, result[1])
        return result[0]

    @property
    def source(self) -> str:
        """The programs made so far, as NumPy code."""
        return "\n\n".join(made.program.source.rstrip() for made in list(self._programs.values()))

    def __repr__(self) -> str:
        what = "loss and gradient" if self._opt is None else f"step of {self._opt!r}"
        lines = [f"compiled {self._name}: {what}"]
        programs = list(self._programs.values())
        lines += [f"  ({made.signature})  {made.program.length} operations" for made in programs]
        return "\n".join(lines if programs else [*lines, "  not recorded yet: call it"])

    def __reduce__(self) -> Any:
        return compiled, (self._loss, self._params, self._opt)

    # --- Recording ---

    def _first(self, key: Any, args: tuple[Any, ...]) -> Any:
        """Record a program for these arguments, compare it with the loss itself, and give what this gives."""
        with self._lock:
            loss, ps = self._loss, self._params
            result = withgradient(lambda: loss(*args), ps) if ps is not None else withgradient(loss, *args)
            generators = [*_generators(loss)]
            before = [_state(g) for g in generators]
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                first, second = self._recording(args), self._recording(args)
            if [_state(g) for g in generators] != before:
                raise RefusedError(
                    f"compiled: {self._name} draws random numbers, which would be those of the recording for "
                    "ever. Draw them before, and pass them as arguments."
                )
            found = alike(first.listing, second.listing)
            if (doubt := first.listing.doubt(second.listing)) is not None and (array := _array_within(loss)):
                raise RefusedError(
                    f"compiled: {doubt}it uses an array that the loss makes anew, perhaps of {array}, which "
                    "may change. Make it before, outside of the loss, or pass what it is made of as an "
                    "argument."
                )
            made = _Made(self, first, found, args)
            leaves: list[Any] = []
            for arg in args:
                _key(arg, leaves)
            replayed = made.result(self._values, leaves)
            if not _equal(_parts(result), _parts(replayed)):
                raise RefusedError(
                    f"compiled: the program of {self._name} does not give what {self._name} gives. It "
                    "changes an array while it runs, or depends on an earlier call: compute new arrays."
                )
            self._recorded += 1
            if self._recorded == MANY:
                warnings.warn(
                    f"compiled: {self._name} has been recorded {MANY} times, for as many signatures. Is an "
                    "argument an integer that counts? Pass float(i), which may vary.",
                    UserWarning, stacklevel=3,
                )  # fmt: skip
            while len(self._programs) >= KEPT:
                self._programs.pop(next(iter(self._programs)), None)
            self._programs[key] = made
        return result

    def _recording(self, args: tuple[Any, ...]) -> _Recording:
        listing = Listing()
        names = _Names(self._loss, args, self._ps or [])
        inputs: list[str] = []
        foreign: dict[int, Any] = {}

        def standing(x: Any, name: str) -> Any:
            inputs.append(name)
            return StandIn(listing, name, x)

        def leaf(array: Any, i: int) -> Any:
            if i not in foreign:
                foreign[i] = listing.constant(array)
            return foreign[i]

        for p in self._ps or []:
            foreign[id(p)] = standing(p.value, names.of_parameter(p))
        stood = [_stood(arg, name, standing) for arg, name in zip(args, names.of_arguments, strict=True)]
        try:
            value, gradients, template = self._stands(listing, stood, leaf)
        except Exception:
            if listing.refusal is None:
                raise
        if listing.refusal is not None:  # which the loss or a derivative may have caught
            raise listing.refusal
        return _Recording(listing, inputs, value, gradients, template, names)

    def _stands(self, listing: Listing, stood: list[Any], leaf: Any) -> tuple[Any, list[Any], Any]:
        """Run the loss with stand-ins, and the way back."""
        with standing_for_leaves(leaf):
            f: Any = self._loss
            variables: tuple[Any, ...] = tuple(stood)
            if self._ps is not None:
                f, variables = (lambda: self._loss(*stood)), (self._params,)
            value, node, roots, regrouped = _record(f, variables, "compiled")
            _check_loss(example(value))
            listing.phase = "backward"
            gradients: list[Any] = [None] * len(roots)
            if node is not None:
                gradients = _own(backward(node, _ones(value), roots), roots)
        template = range(len(roots)) if self._ps is not None else regrouped(list(range(len(roots))))
        return value, gradients, template


class _Recording(NamedTuple):
    listing: Listing
    inputs: list[str]
    value: Any
    gradients: list[Any]
    template: Any  # places of the gradients, nested as the arguments are
    names: _Names


class _Made:
    """A program, and how its outputs become a result."""

    def __init__(self, owner: Compiled, r: _Recording, found: set[int], args: tuple[Any, ...]) -> None:
        outputs = {"value": r.value}
        self._places: list[int | None] = []
        roots = r.names.of_roots if owner._ps is not None else [*r.names.leaves(args)]
        for g, root in zip(r.gradients, roots, strict=True):
            self._places.append(None if g is None else len(outputs))
            if g is not None:
                name = f"d{root}"
                while name in outputs or name in r.inputs:
                    name += "_"
                outputs[name] = g
        self.program = Program(r.listing, r.inputs, outputs, found, r.names.of_constants, "loss_and_gradient")
        self._run, self._ps, self._template = self.program.run, owner._ps, r.template
        self._args = args  # whose ids and objects the key goes by
        self._all = None not in self._places
        self._flat = self._template == tuple(range(len(r.gradients)))
        shown = [f"{name}: {_shown(arg)}" for name, arg in zip(r.names.of_arguments, args, strict=True)]
        self.signature = ", ".join(shown)

    def result(self, values: list[Any], leaves: list[Any] | tuple[Any, ...]) -> WithGradient:
        """Run the program, and give what `withgradient` would."""
        val, *gs = self._run(*values, *leaves)
        if not self._all:
            every = (val, *gs)
            gs = [None if place is None else every[place] for place in self._places]
        if self._ps is not None:
            return WithGradient(val, Grads(self._ps, gs))
        return WithGradient(val, tuple(gs) if self._flat else _filled(self._template, gs))


def _filled(template: Any, gs: list[Any]) -> Any:
    if isinstance(template, int):
        return gs[template]
    return map_container(lambda x: _filled(x, gs), template)


# --- Signatures -----------------------------------------------------------------------------------------

_STATIC = (bool, int, str, bytes, type(None))


class _Same:
    """A key that is equal to none but that of the same object."""

    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Same and other.x is self.x


def _key(x: Any, leaves: list[Any]) -> Any:
    """Give what a program depends on of an argument, and collect the arrays and numbers that may vary."""
    kind = type(x)
    if kind is np.ndarray:
        leaves.append(x)
        return x.shape, x.strides, x.dtype
    if kind is float or kind is complex or (issubclass(kind, np.generic) and x.dtype.kind in "biufc"):
        leaves.append(x)
        return kind
    if kind in _STATIC:
        return kind, x
    if isinstance(x, dict):
        return kind, tuple(x), *[_key(item, leaves) for item in x.values()]
    if isinstance(x, (list, tuple)):
        return kind, *[_key(item, leaves) for item in x]
    if isinstance(x, np.ndarray):
        raise TypeError(f"compiled functions take plain arrays, not {kind.__name__}: pass np.asarray(x).")
    return _Same(x)


def _stood(x: Any, name: str, standing: Callable[[Any, str], Any]) -> Any:
    """Put a stand-in in the place of every array and number that `_key` collects, in the same order."""
    kind = type(x)
    if kind is np.ndarray or kind is float or kind is complex:
        return standing(x, name)
    if issubclass(kind, np.generic) and x.dtype.kind in "biufc":
        return standing(x, name)
    if isinstance(x, dict):
        return {key: _stood(item, f"{name}_{key}", standing) for key, item in x.items()}
    if isinstance(x, (list, tuple)):
        items = [_stood(item, f"{name}_{i}", standing) for i, item in enumerate(x)]
        return kind(*items) if hasattr(x, "_fields") else kind(items)
    return x


def _shown(x: Any) -> str:
    if isinstance(x, (np.ndarray, np.generic)):
        return f"{x.dtype} {x.shape}"
    if isinstance(x, (list, tuple)):
        return f"[{', '.join(map(_shown, x))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in x.items()) + "}"
    return type(x).__name__ if isinstance(x, (float, complex)) else f"{x!r:.40}"


def _parts(x: Any) -> Iterator[Any]:
    if isinstance(x, (list, tuple)):
        for item in x:
            yield from _parts(item)
    elif isinstance(x, Mapping):
        yield from _parts(list(x.values()))
    else:
        yield x


def _equal(a: Iterator[Any], b: Iterator[Any]) -> bool:
    """Tell whether two results have the same bits. One NaN is as good as another."""
    for x, y in zip(a, b, strict=True):
        if type(x) is not type(y):
            return False
        if x is None:
            continue
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype != y.dtype or x.shape != y.shape:
            return False
        if x.tobytes() != y.tobytes():
            parts = [(x.real, y.real), (x.imag, y.imag)] if x.dtype.kind == "c" else [(x, y)]
            for p, q in parts:
                number = p == p
                if not (
                    np.array_equal(p, q, equal_nan=True)
                    and np.array_equal(np.signbit(p[number]), np.signbit(q[number]))
                ):
                    return False
    return True


# --- What a function reads ------------------------------------------------------------------------------


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
            waiting += [(name, item) for item in x]
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


def _array_within(f: Any) -> str:
    for name, x in _within(f):
        if isinstance(x, np.ndarray):
            return f"{name or 'an array'}, of shape {x.shape}"
    return ""


def _generators(f: Any) -> Iterator[Any]:
    yield np.random.mtrand._rand
    yield random._inst
    for _, x in _within(f):
        if isinstance(x, (np.random.Generator, np.random.RandomState, random.Random)):
            yield x


def _state(g: Any) -> bytes:
    if isinstance(g, random.Random):
        return pickle.dumps(g.getstate())
    return pickle.dumps(
        g.bit_generator.state if isinstance(g, np.random.Generator) else g.get_state(legacy=False)
    )


# --- Names ----------------------------------------------------------------------------------------------


class _Names:
    """Names for parameters, arguments and constants: those by which the loss knows them."""

    def __init__(self, loss: Any, args: tuple[Any, ...], ps: list[Param]) -> None:
        known: dict[int, str] = {}
        trained = {id(p.value) for p in ps}
        arrays: dict[int, str] = {}
        for name, x in _within(loss):
            if isinstance(x, Param):
                known.setdefault(id(x), name)
                arrays.setdefault(id(x.value), name)
            elif isinstance(x, np.ndarray):
                arrays.setdefault(id(x), name)
        self._taken = {"np", "value", *keyword.kwlist, *dir(builtins), "loss_and_gradient"}
        self.of_arguments = [self._free(name) for name in _arguments(loss, len(args))]
        self._parameters = {id(p): self._free(known.get(id(p), f"p{i}")) for i, p in enumerate(ps)}
        self.of_roots = list(self._parameters.values())
        self.of_constants = {i: self._free(name) for i, name in arrays.items() if name and i not in trained}

    def of_parameter(self, p: Param) -> str:
        return self._parameters[id(p)]

    def leaves(self, args: tuple[Any, ...]) -> Iterator[str]:
        """Name the variables of an explicit gradient, in order."""
        for name, arg in zip(self.of_arguments, args, strict=True):
            yield from self._leaves(name, arg)

    def _leaves(self, name: str, x: Any) -> Iterator[str]:
        if _variable(x) is not None:
            yield name
        elif isinstance(x, (list, tuple, dict)):
            for key, item in x.items() if isinstance(x, dict) else enumerate(x):
                yield from self._leaves(f"{name}_{key}", item)

    def _free(self, wished: str) -> str:
        name = wished = re.sub(r"\W+", "_", wished).strip("_") or "x"
        wished = name = name if name.isidentifier() and not re.fullmatch(r"[vkc]\d+", name) else f"x_{name}"
        numbers = count(2)
        while name in self._taken:
            name = f"{wished}{next(numbers)}"
        self._taken.add(name)
        return name


def _arguments(f: Any, n: int) -> list[str]:
    try:
        bound = inspect.signature(f).bind(*range(n)).arguments
    except (TypeError, ValueError):
        return [f"x{i + 1}" for i in range(n)]
    names = []
    for name, value in bound.items():
        names += [f"{name}{i + 1}" for i in range(len(value))] if isinstance(value, tuple) else [name]
    return names
