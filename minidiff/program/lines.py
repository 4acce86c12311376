"""What a recording noted, as lines of plain NumPy.

Calls whose results nothing needs are left out, and so is what was computed before, what follows from
constants alone, products with 1, and reshapes to the shape that is there. Where a temporary of several
elements dies its memory takes the next result. What is large and no result gets arrays that are kept from
call to call: the system gives a new one page by page.
"""

from __future__ import annotations

import builtins
import heapq
import keyword
import linecache
import re
import unicodedata
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from inspect import unwrap
from itertools import count
from typing import Any

import numpy as np

from minidiff.checks import owner_of
from minidiff.program.listing import (
    Call,
    Listing,
    RefusedError,
    StandIn,
    Whole,
    example,
    flat,
    is_array,
    is_check,
    stand_ins,
)
from minidiff.tracing import (
    EXACT,
    add_at,
    added,
    added_at,
    assigned,
    is_basic,
    map_container,
    seen_from,
    summed,
)

__all__ = ["RESERVED", "ChangedError", "Lines", "Memory", "Workspace", "free_name", "needed"]

# Arrays of at least this many bytes are kept from call to call.
LARGE = 2**16
# After this many temporaries names are used again, so that Python lets go of what is not needed any more.
SHORT = 100

_SYMBOLS: dict[Any, str] = {np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/"}
_FORMS: dict[Any, str] = {
    **{f: f"{{}} {symbol} {{}}" for f, symbol in _SYMBOLS.items()}, np.negative: "-{}", np.matmul: "{} @ {}"
}  # fmt: skip
# They change a copy of their first operand.
_CHANGING = {added, added_at, assigned, summed}
_PLACING = {assigned, summed}
RESERVED = {
    *keyword.kwlist,
    *dir(builtins),
    "ChangedError",
    "Workspace",
    "file",
    "given",
    "kept",
    "np",
    "pathlib",
    "stored",
    "workspace",
}


class ChangedError(Exception):
    """A result has another shape or dtype than when its program was recorded, or data have changed."""

    def __init__(self) -> None:
        super().__init__("a result has another shape or type than when this was recorded: record it anew")


class Workspace:
    """Sets of arrays that are kept from call to call; a call takes a set, so that threads do not share one.

    Parameters
    ----------
    *arrays : tuple of (shape, str, {"C", "F"})
        Shape, dtype and memory order of each.
    """

    def __init__(self, *arrays: Any) -> None:
        self.arrays = arrays
        self.kept: list[Any] = []

    def take(self) -> Any:
        """Give a set that no other call has now."""
        try:
            return self.kept.pop()
        except IndexError:
            return [np.empty(*array) for array in self.arrays]


def free_name(wished: str, taken: set[str]) -> str:
    """Make a name of some text: none that is taken, nor one of Python's, the source's or its temporaries'."""
    wished = unicodedata.normalize("NFKC", wished)  # as Python reads names: the sign µ is the letter μ
    name = wished = re.sub(r"\W+", "_", wished).strip("_") or "x"
    wished = name = name if name.isidentifier() and not re.fullmatch(r"[vkcw]\d+", name) else f"x_{name}"
    numbers = count(2)
    while name in taken or name in RESERVED:
        name = f"{wished}_{next(numbers)}"
    taken.add(name)
    return name


class Verbatim(str):
    """A piece of source in the place of an operand."""

    __slots__ = ()


class Lines:
    """What was noted, as a function of plain NumPy.

    Parameters
    ----------
    listing : Listing
        The recording.
    inputs : list of str
        The names of the stand-ins that the function was called with, in order.
    outputs : mapping of str to (StandIn, number, ndarray or None)
        What it gives. Arrays of it share memory with nothing.
    found : set of int
        The ids of the constants that are to be kept by reference.
    names : mapping of int to str
        Names for constants, by id.
    title : str
        The name of the function.
    checks : bool
        Whether to make calls, too, that are there for their errors or their shapes alone.

    Attributes
    ----------
    run : callable
        ``run(*inputs)`` gives the tuple of outputs.
    source : str
        Its source.
    constants : dict
        What the source uses by name beside NumPy: arrays, numbers, dtypes.
    helpers : dict
        Functions that it calls and NumPy does not have.
    asked_by : dict
        By the names of these, the phase and the user's line that need them first.
    workspace : list of (shape, str, {"C", "F"})
        The arrays that are kept from call to call.
    """

    def __init__(
        self,
        listing: Listing,
        inputs: Sequence[str],
        outputs: dict[str, Any],
        found: set[int],
        names: dict[int, str],
        title: str,
        checks: bool = False,
    ) -> None:
        self.inputs, self.outputs, self.title = list(inputs), list(outputs), title
        self._found, self._names, self._listing = found, names, listing
        self.constants: dict[str, Any] = {}
        self.helpers: dict[str, Any] = {}
        self.asked_by: dict[str, tuple[str, tuple[str, int] | None]] = {}
        self.workspace: list[tuple[Any, ...]] = []
        self._named: dict[int, str] = {}  # by its id, the name of a constant
        self._taken = {*inputs, *outputs, title, *RESERVED}
        self._text: dict[str, str] = {}
        calls, outputs, same = _simplified(listing, outputs, found, checks)
        self.length, self._count = len(calls), 0
        made = {x._name for call in calls for x in call.results}
        used = flat([[[call.operands, call.options] for call in calls], outputs])
        free = [x for x in used if type(x) is not StandIn or x._name not in made]
        # A function called as one may keep what it gets.
        free += [x for call in calls if type(call.function) is Whole for x in call.uses]
        self._memory = Memory(calls, outputs.values(), free, same)
        self._uses = Counter([x._name for x in used if type(x) is StandIn])
        self._wanted = {x._name: name for name, x in reversed(outputs.items()) if type(x) is StandIn}
        self._arrays: dict[Any, str] = {}
        self._holding: dict[str, int] = {}  # the memory that a temporary shows
        self._dead: list[tuple[int, str]] = []  # temporaries, in order of when they die
        self._borrowed: dict[int, str] = {}  # by the id of an array, the one of the workspace that it is in
        self._body: list[str] = []
        self._write(calls)
        self._body.append(f"return {self._returned(outputs)}")
        if self.workspace:
            kept = [f"w{i + 1}" for i in range(len(self.workspace))]
            self._body.insert(0, f"{', '.join(kept)}, = kept = workspace.take()")
            self._body.insert(-1, "workspace.kept.append(kept)")
        head = f"def {title}({', '.join(inputs)}):"
        self.body = "\n".join([head, *(f"    {text}" for text in self._body), ""])
        about = [f"# {name}: {_described(x)}" for name, x in self.constants.items()]
        about += [f"# w{i + 1}: kept, {dtype} {shape}" for i, (shape, dtype, _) in enumerate(self.workspace)]
        self.source = "\n".join([*about, self.body])
        namespace = {"np": np, "ChangedError": ChangedError, **self.helpers, **self.constants}
        namespace["workspace"] = Workspace(*self.workspace)
        filename = f"<compiled {title} {id(self)}>"
        exec(compile(self.source, filename, "exec"), namespace)
        linecache.cache[filename] = len(self.source), None, self.source.splitlines(True), filename
        self.run: Callable[..., tuple[Any, ...]] = namespace[title]
        weakref.finalize(self.run, linecache.cache.pop, filename, None)
        del (
            self._listing, self._memory, self._uses, self._wanted, self._text, self._borrowed,
            self._holding, self._dead,
        )  # fmt: skip

    # --- Line by line ---

    def _write(self, calls: list[Call]) -> None:
        """Write the calls, with their phases and the user's lines as comments."""
        phase = line = None
        for i, call in enumerate(calls):
            if call.phase != phase:
                self._body.append(f"# --- {call.phase} ---")
                phase, line = call.phase, None
            before = len(self._body)
            self._write_call(i, call)
            if len(self._body) > before and call.line is not None and call.line != line:
                line = call.line
                if text := linecache.getline(*line).strip():
                    self._body.insert(before, f"# {text}")

    def _write_call(self, i: int, call: Call) -> None:
        """Write a call, unless it goes into the line that uses its result."""
        if call.comes_as_tuple:
            for x in call.results:
                self._text[x._name] = self._wanted.get(x._name) or self._temporary(i, x)
            left = "".join(f"{self._text[x._name]}, " for x in call.results) or "_"
            self._assign(left.rstrip(" "), call)
            return
        (result,) = call.results
        wanted = self._wanted.get(result._name)
        simpler = self._as_array if call.phase == "step" else self._simpler
        call = call._replace(operands=tuple([simpler(x, call) for x in call.operands]))
        if call.function in _CHANGING and self._write_change(i, call, result, wanted):
            return
        target = out = None
        if not wanted and not call.is_guarded:
            if self._uses[result._name] == 1 and self._is_view(call):
                self._text[result._name] = self._called(call)
                return
            target = self._dying(i, call, result)
            out = None if target is not None else self._borrow(i, call, result)
        if target is not None:
            name = self._text[result._name] = self._text[target._name]
            self._holding[name] = self._memory.of(result)
            self._body.append(_over(call.function, name, [*map(self._ref, call.operands)]))
        elif out is not None:
            self._text[result._name] = out
            form = f"np.{call.function.__name__}" if "{}" in call.form else call.form
            self._body.append(self._called(call._replace(form=form, options={"out": Verbatim(out)})))
        else:
            name = wanted or self._temporary(i, result)
            self._text[result._name] = name
            self._assign(name, call)

    def _write_change(self, i: int, call: Call, result: StandIn, wanted: str | None) -> bool:
        """Write a call that changes a copy of an array, or the array itself where nothing else needs it.

        The change is a line as the user writes it. It fails where that is not so short: the call stays.
        """
        x = call.operands[0]
        if x is not None and np.empty_like(example(x)).strides != result._example.strides:
            return False
        steps = self._steps(result._example, call.operands[1][1]) if call.function in _PLACING else []
        if steps is None:
            return False
        memory = self._memory.of
        is_alone = type(x) is StandIn and [memory(y) for y in call.uses].count(memory(x)) == 1
        if is_alone and self._passes_on(i, x, result):
            start = self._text[x._name]
        elif x is None:
            start = f"np.zeros({self._ref(call.operands[1])}, {self._ref(call.operands[2])})"
        else:
            start = f"np.array({self._ref(x)})"
        # The name of what is put there has to be good until the second line.
        name = wanted or (start if start.isidentifier() else self._temporary(i - 1, result))
        self._holding[name] = memory(result)
        if name != start:
            self._body.append(f"{name} = {start}")
        self._body.append(self._change(call, name, steps))
        self._text[result._name] = name
        return True

    def _change(self, call: Call, name: str, steps: list[Call]) -> str:
        """Write what a call does to the copy of its first operand."""
        if call.function is added:
            return f"{name} += {self._ref(call.operands[1])}"
        if call.function is added_at:
            *_, index, w = call.operands
            if is_basic(index):
                return f"{self._item(name, index)} += {self._ref(w)}"
            return f"{self._helper(add_at, call)}({name}, {self._ref(index)}, {self._ref(w)})"
        _, (_, _, index), w = call.operands
        for step in steps:
            self._text[step.operands[0]._name] = name
            name = self._called(step)
        if call.function is assigned:
            is_whole = index is ... and steps and steps[-1].form == "{}[{}]"
            return f"{name if is_whole else self._item(name, index)} = {self._ref(w)}"
        return f"np.add.at({name}, {self._ref(index)}, {self._ref(w)})"

    def _steps(self, array: Any, way: Any) -> list[Call] | None:
        """List the calls that lead from an array to a view of it; None where they cannot be written so."""
        calls, refusal = self._listing.calls, self._listing.refusal
        before = len(calls)
        try:
            seen_from(StandIn(self._listing, f"changed {id(array)}", array), way)
        except RefusedError:
            return None
        finally:
            steps = calls[before:]
            del calls[before:]
            self._listing.refusal = refusal
        return steps if all(type(step.operands[0]) is StandIn for step in steps) else None

    def _assign(self, left: str, call: Call) -> None:
        self._body.append(f"{left} = {self._called(call)}")
        if call.is_guarded:
            checks = []
            for x in call.results:
                name, e = self._text[x._name], x._example
                of_array = f"{name}.shape != {np.shape(e)} or {name}.dtype != {str(np.asarray(e).dtype)!r}"
                checks.append(of_array if is_array(e) else f"type({name}) is not {type(e).__name__}")
            self._body += [f"if {' or '.join(checks)}:", "    raise ChangedError"]

    # --- Memory ---

    def _is_view(self, call: Call) -> bool:
        """Tell whether a call shows its operand's memory in another way."""
        e, x = call.results[0]._example, call.operands[0] if call.operands else None
        is_short = call.form == "{}[{}]" or call.form.startswith((".", "{}."))
        return (
            type(e) is np.ndarray
            and type(x) is StandIn
            and is_short
            and self._memory.of(call.results[0]) == self._memory.of(x)
        )

    def _dying(self, i: int, call: Call, result: StandIn) -> StandIn | None:
        """Find an operand whose memory nothing needs afterwards, and which can take the result."""
        if call.function not in EXACT or call.options or not _is_real(result):
            return None
        return next((x for x in call.operands if type(x) is StandIn and self._passes_on(i, x, result)), None)

    def _passes_on(self, i: int, x: StandIn, result: StandIn) -> bool:
        """Give the memory of `x` to the result of a call, if nothing else needs it later; tell whether."""
        if x._name not in self._listing.made_by or not self._text[x._name].isidentifier():
            return False
        group, mine = self._memory.of(x), self._memory.of(result)
        is_kept = group in self._borrowed and self._memory.goes_out(mine)  # others get it
        if is_kept or not self._memory.dies(i, x, result):
            return False
        if group in self._borrowed:
            self._borrowed[mine] = self._borrowed.pop(group)
        return True

    def _borrow(self, i: int, call: Call, result: StandIn) -> str | None:
        """Name an array of the workspace that can take a large result, which is no output."""
        e = result._example
        ufunc = call.function
        if not isinstance(ufunc, np.ufunc) or ufunc.nout > 1 or call.options:
            return None
        if ufunc.signature is not None and ufunc is not np.matmul:
            return None
        mine = self._memory.of(result)
        if type(e) is not np.ndarray or e.nbytes < LARGE or self._memory.goes_out(mine):
            return None
        if not (e.flags.c_contiguous or e.flags.f_contiguous):
            return None
        spec = e.shape, e.dtype.str, "C" if e.flags.c_contiguous else "F"
        busy = {name for group, name in self._borrowed.items() if self._memory.last[group] >= i}
        names = (f"w{j + 1}" for j, other in enumerate(self.workspace) if other == spec)
        name = next((name for name in names if name not in busy), None)
        if name is None:
            self.workspace.append(spec)
            name = f"w{len(self.workspace)}"
        self._borrowed[mine] = name
        return name

    # --- What stands for an operand ---

    def _as_array(self, x: Any, call: Call) -> Any:
        """Give, in place of a number in a step, an array without axes: NumPy takes it in half the time."""
        if type(example(x)) not in (int, float) or call.function not in EXACT:
            return x
        dtype = call.results[0]._example.dtype
        text = self._ref(x)
        if (text, dtype) not in self._arrays:
            name = self._arrays[text, dtype] = self._name(f"k{len(self._arrays) + 1}")
            number = text[1:-1] if text.startswith("(") else text
            # A dtype costs NumPy as much time as the array, and a float gives this one anyway.
            is_plain = type(example(x)) is float and dtype == np.float64
            self._body.append(f"{name} = np.array({number if is_plain else f'{number}, {dtype.name!r}'})")
        return Verbatim(self._arrays[text, dtype])

    def _simpler(self, x: Any, call: Call) -> Any:
        """Give, in place of an array that is one number everywhere, that number, where it is all the same."""
        if type(x) is not np.ndarray or id(x) in self._found or x.ndim == 0 or not x.size or call.options:
            return x
        result = call.results[0]
        others = [y._example for y in call.operands if type(y) is StandIn]
        if (
            call.function in _SYMBOLS
            and _is_real(result)
            and any(can_replace(y, result._example) for y in others)
        ):
            first = x.reshape(-1)[:1]
            return np.array(first[0]) if x.tobytes() == first.tobytes() * x.size else x
        return x

    def _temporary(self, i: int, result: StandIn) -> str:
        """Name the result of a call."""
        last = self._memory.last
        memory, name = self._memory.of(result), ""
        while self._count >= SHORT and self._dead and self._dead[0][0] <= i:
            name = heapq.heappop(self._dead)[1]
            until = last.get(self._holding[name], i)
            if until <= i:
                break
            heapq.heappush(self._dead, (until, name))
            name = ""
        if not name:
            self._count += 1
            name = self._name(f"v{self._count}")
        self._holding[name] = memory
        heapq.heappush(self._dead, (last.setdefault(memory, i + 1), name))
        return name

    def _name(self, wished: str) -> str:
        name, n = wished, 1
        while name in self._taken:
            n += 1
            name = f"{wished}{n}"
        self._taken.add(name)
        return name

    def _called(self, call: Call) -> str:
        """Write a call as an expression."""
        operands = [self._ref(x) for x in call.operands]
        options = [f"{name}={self._ref(x)}" for name, x in call.options.items()]
        # The operator's product of two complex numbers has other last bits than the ufunc's.
        is_complex = isinstance(call.results[0]._example, np.complexfloating)
        stays = options or (is_complex and call.function in (np.multiply, np.divide))
        # NumPy's function gives a number of NumPy's, the operator one of Python's.
        stays = stays or ("{}" not in call.form and not any(is_array(example(x)) for x in call.operands))
        form: str = call.form if stays else _FORMS.get(call.function, call.form)
        if form == "{}[{}]":
            return self._item(operands[0], call.operands[1])
        if "{}" in form:
            return form.format(*[f"({text})" if text.startswith("-") else text for text in operands])
        if form.startswith("."):
            x, *operands = operands
            is_matrix = np.ndim(call.results[0]._example) == 2
            if form == ".swapaxes" and is_matrix and {int(i) % 2 for i in call.operands[1:]} == {0, 1}:
                return f"{x}.T"
            return f"{x}{form}({', '.join([*operands, *options])})"
        if not form.startswith("np."):
            form = self._helper(call.function, call)
        return f"{form}({', '.join([*operands, *options])})"

    def _helper(self, function: Any, call: Call) -> str:
        """Name a function that is not NumPy's, which a call needs."""
        of = id(unwrap(function))
        if of not in self._named:
            self._named[of] = self._name(free_name(function.__name__, set()))
        name = self._named[of]
        self.helpers[name] = function
        self.asked_by.setdefault(name, (call.phase, call.line))
        return name

    def _item(self, x: str, index: Any) -> str:
        parts = index if type(index) is tuple and index else (index,)
        comma = "," if type(index) is tuple and len(index) == 1 else ""
        return f"{x}[{', '.join(map(self._place, parts))}{comma}]"

    def _place(self, x: Any) -> str:
        """Write a part of an index."""
        if not isinstance(x, slice):
            return self._ref(x)
        ends = ["" if end is None else self._ref(end) for end in (x.start, x.stop, x.step)]
        return ":".join(ends if x.step is not None else ends[:2])

    def _ref(self, x: Any) -> str:
        """Write an operand."""
        if type(x) is Verbatim:
            return x
        if type(x) is StandIn:
            name, constants = x._name, self._listing.constants
            return self._constant(constants[name]) if name in constants else self._text.get(name, name)
        if isinstance(x, tuple):
            items = [self._ref(item) for item in x]
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        if isinstance(x, list):
            return f"[{', '.join(map(self._ref, x))}]"
        if isinstance(x, slice):
            return f"slice({self._ref(x.start)}, {self._ref(x.stop)}, {self._ref(x.step)})"
        if isinstance(x, dict):
            return f"{{{', '.join(f'{key!r}: {self._ref(item)}' for key, item in x.items())}}}"
        return literal(x) or self._constant(x)

    def _constant(self, x: Any) -> str:
        if id(x) not in self._named:
            name = self._name(self._names.get(id(x), f"k{len(self.constants) + 1}"))
            self._named[id(x)], self.constants[name] = name, x
        return self._named[id(x)]

    def _returned(self, outputs: dict[str, Any]) -> str:
        """Write the results, each of which shares memory with nothing."""
        texts = []
        for x in outputs.values():
            text = "None" if x is None else self._ref(x)
            e = x._example if type(x) is StandIn else x
            if isinstance(e, np.ndarray) and not self._memory.gives(x):
                text += ".copy()" if e.flags.c_contiguous else ".copy('K')"  # laid out as it was
            texts.append(text)
        return ", ".join(texts) + ("," if len(texts) == 1 else "")


def literal(x: Any) -> str:
    """Write what Python or NumPy have a name or digits for; nothing for other things."""
    if x is Ellipsis:
        return "..."
    if type(x) in (bool, int, str, type(None)) or (type(x) is float and np.isfinite(x)):
        return repr(x)
    if isinstance(x, type):
        name = x.__name__
        return name if x in (float, complex, int, bool) else f"np.{name}" * (getattr(np, name, None) is x)
    if isinstance(x, np.dtype) and x.isnative and x.kind in "biufc":
        return f"np.dtype({x.name!r})"
    return ""


def _over(function: Any, name: str, operands: list[str]) -> str:
    """Write a call whose result goes to the operand of this name."""
    if function in _SYMBOLS:
        first, second = operands
        if first == name:
            return f"{name} {_SYMBOLS[function]}= {second}"
        if function in (np.add, np.multiply) and second == name:
            return f"{name} {_SYMBOLS[function]}= {first}"
    return f"np.{function.__name__}({', '.join(operands)}, out={name})"


# --- What is needed -------------------------------------------------------------------------------------


def _simplified(
    listing: Listing, outputs: dict[str, Any], found: set[int], checks: bool
) -> tuple[list[Call], dict[str, Any], dict[int, int]]:
    """Leave out what need not be computed.

    Parameters
    ----------
    listing : Listing
        The recording.
    outputs : dict
        What is asked of it.
    found : set of int
        The ids of arrays that may change from call to call.
    checks : bool
        Whether calls stay, too, that are there for their errors or their shapes alone.

    Returns
    -------
    tuple
        The calls that remain; the outputs, which may be constants now; and by the id of an array that is no
        longer made, that of the one that stands for it.
    """
    instead: dict[str, Any] = {name: x for name, x in listing.constants.items() if id(x) not in found}
    known: dict[Any, list[StandIn]] = {}
    memories: dict[int, int] = {}
    kept: list[Call] = []

    def wanted(calls: list[Call]) -> list[Call]:
        return needed(calls, (outputs, [call.results for call in calls if checks and is_check(call)]))

    for call in wanted(listing.calls):
        if any(x._name in instead for x in call.uses):
            operands, options = _replaced(call.operands, instead), _replaced(call.options, instead)
            uses = stand_ins((operands, options))
            call = call._replace(operands=operands, options=options, uses=tuple(uses))
        if not call.uses and not any(id(x) in found for x in flat((call.operands, call.options))):
            instead.update((x._name, x._example) for x in call.results)
            continue
        key = call.form, call.function, listing.key(call.operands), listing.key(call.options)
        same: Any = known.get(key) or _passed_on(call, found)
        if same:
            instead.update((x._name, y) for x, y in zip(call.results, same, strict=True))
            for x, y in zip(call.results, same, strict=True):
                memory, other = (_last_of(id(owner_of(example(z))), memories) for z in (x, y))
                if memory != other:
                    memories[memory] = other
        else:
            known[key] = call.results
            kept.append(call)
    outputs = _replaced(outputs, instead)
    return wanted(kept), outputs, memories


def needed(calls: list[Call], outputs: Any) -> list[Call]:
    """Leave out the calls on which no output depends."""
    wanted = {x._name for x in stand_ins(outputs)}
    kept = []
    for call in reversed(calls):
        if any(x._name in wanted for x in call.results):
            wanted.update([x._name for x in call.uses])
            kept.append(call)
    return kept[::-1]


def _passed_on(call: Call, found: set[int]) -> list[StandIn] | None:
    """Give the operand that is the result: the other factor of 1, or what has the shape already."""
    if call.form.endswith(".reshape") and type(call.operands[0]) is StandIn:
        x = call.operands[0]
        return [x] if can_replace(x._example, call.results[0]._example) else None
    if call.function is np.multiply and not call.options and _is_real(call.results[0]):
        r = call.results[0]._example
        for one, x in (call.operands, call.operands[::-1]):
            if type(x) is StandIn and id(one) not in found and _is_one(one):
                e = x._example
                if can_replace(e, r) or (isinstance(e, np.generic) and type(e) is type(r)):
                    return [x]
    return None


def _replaced(x: Any, instead: dict[str, Any]) -> Any:
    if type(x) is StandIn:
        return instead.get(x._name, x)
    if not instead or type(x) is np.ndarray:
        return x
    if isinstance(x, slice):
        return slice(*[_replaced(end, instead) for end in (x.start, x.stop, x.step)])
    return map_container(lambda item: _replaced(item, instead), x)


# --- Memory ---------------------------------------------------------------------------------------------


class Memory:
    """Whose memory arrays are in, and until when something needs it.

    Parameters
    ----------
    calls : list of Call
        The calls, in order.
    results : iterable
        What is asked of them.
    foreign : iterable
        Arrays that are not to be written over, nor given away.
    same : dict of int to int
        By the id of an array that is no longer made, that of the one that stands for it.

    Attributes
    ----------
    last : dict of int to int
        By the id of an array, which call uses its memory last. The results are used after all calls.
    """

    def __init__(self, calls: list[Call], results: Iterable[Any], foreign: Iterable[Any], same: Any) -> None:
        self._same, self._end = same, len(calls)
        uses = [*[call.uses for call in calls], [x for x in results if type(x) is StandIn]]
        self.last = {self.of(x): i for i, some in enumerate(uses) for x in some}
        self._foreign = {self.of(x) for x in foreign}

    def of(self, x: Any) -> int:
        """Tell whose memory an array is in, by an id."""
        return _last_of(id(owner_of(example(x))), self._same)

    def goes_out(self, memory: int) -> bool:
        """Tell whether a result is in it, or others have it, who may keep it."""
        return memory in self._foreign or self.last.get(memory) == self._end

    def dies(self, i: int, x: StandIn, result: StandIn) -> bool:
        """Tell whether nothing needs an array after a call whose result it can take.

        Of a single element NumPy takes twice as long to write the result over an operand as to make an array.
        """
        memory, e = self.of(x), x._example
        is_fit = can_replace(e, result._example) and e.size > 1 and e.flags.writeable
        return bool(is_fit and memory not in self._foreign and self.last.get(memory, i) <= i)

    def gives(self, x: Any) -> bool:
        """Tell whether a result can be given away as it is: it is no view, and has not been given before."""
        memory, e = self.of(x), example(x)
        is_own = memory not in self._foreign and e.flags.writeable and owner_of(e).nbytes == e.nbytes
        self._foreign.add(memory)
        return bool(is_own)


# --- What a value is like -------------------------------------------------------------------------------


def _is_real(x: StandIn) -> bool:
    return getattr(x._example, "dtype", np.dtype(complex)).kind in "fiub"


def _is_one(x: Any) -> bool:
    return is_array(x) and x.size > 0 and bool((x == 1).all())


def _last_of(memory: int, instead: dict[int, int]) -> int:
    """Follow what stands for what to its end."""
    while memory in instead:
        memory = instead[memory]
    return memory


def can_replace(x: Any, y: Any) -> bool:
    """Tell whether an array has the shape, dtype and layout of another."""
    return (
        type(x) is np.ndarray and type(y) is np.ndarray and x.ndim > 0 and x.shape == y.shape
        and x.dtype == y.dtype and x.strides == y.strides
    )  # fmt: skip


def _described(x: Any) -> str:
    if is_array(x) and x.size != 1:
        return f"an array of {x.dtype}, of shape {x.shape}"
    return " ".join(repr(x).split())[:60]
