"""One step of several small parameters. Their elements stand in one vector, so that each formula runs once.

What a rule keeps is then one vector, too. In the optimiser's state each parameter has its part of it, as a
view: a step taken otherwise replaces that by an array of its own, and the next one here gathers it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from minidiff.checks import described, share_memory
from minidiff.interrupts import finish, is_signals, whole
from minidiff.optimise.base import SETTINGS, AbstractOptimiser
from minidiff.optimise.decays import ExpDecay
from minidiff.optimise.engine import ENGINE
from minidiff.optimise.rule import chained
from minidiff.optimise.step import BLOCK, make
from minidiff.optimise.undo import any_changes_more, remembered
from minidiff.optimise.update import changes_of, update
from minidiff.params import Param, Params
from minidiff.program.lines import RESERVED, Lines, free_name
from minidiff.program.listing import Call, Listing, StandIn, flat
from minidiff.program.source import quiet
from minidiff.tracing import EXACT
from minidiff.typing import Array

__all__ = ["Steps", "Together"]

_IS_WRITEABLE = attrgetter("flags.writeable")


class Steps:
    """Steps of an optimiser: of small parameters together, of all others by `update`.

    Parameters
    ----------
    opt : AbstractOptimiser
        The optimiser.
    ps : sequence of Param
        The parameters.
    names : sequence of str
        Their names in the source.
    patience : int
        How many steps with gradients of the same shapes are taken by `update` alone before the program is
        made.
    """

    def __init__(
        self, opt: AbstractOptimiser, ps: Sequence[Param] | Params, names: Sequence[str], patience: int = 0
    ) -> None:
        self.opt, self.ps, self.names = opt, Params(ps), list(names)
        self.known: dict[Any, Together] = {}
        self._patience = patience

    def of(self, grads: Sequence[Any]) -> Together:
        """Give what takes a step with such gradients.

        Parameters
        ----------
        grads : sequence of (ndarray or None)
            The gradients, in the order of the parameters.
        """
        key = tuple([None if g is None else (np.shape(g), getattr(g, "dtype", type(g))) for g in grads])
        if key not in self.known:
            self.known[key] = Together(self.opt, self.ps, self.names, patience=self._patience)
        return self.known[key]

    def take(self, grads: Sequence[Any]) -> None:
        """Take a step with gradients as for `of`."""
        self.of(grads).take(grads)


class Together:
    """The step of several parameters at once, with gradients of the same shapes and dtypes.

    Parameters
    ----------
    opt : AbstractOptimiser
        The optimiser.
    ps : Params
        The parameters.
    names : sequence of str
        Their names in the source.
    limit : float
        Bytes up to which parameters take part: of large ones `update` changes a block at a time.
    patience : int
        How many steps are taken by `update` alone.

    Attributes
    ----------
    lines : Lines or None
        The program, once there is one.
    inputs : list
        Examples of what goes in.
    apart : dict
        Why a parameter takes no part, by its name.
    """

    def __init__(
        self,
        opt: AbstractOptimiser,
        ps: Params,
        names: Sequence[str],
        limit: float = BLOCK,
        patience: int = 0,
    ) -> None:
        self._opt, self._params, self._names = opt, ps, names
        self._limit, self._patience = limit, patience
        self._stages: Any = None  # not looked at yet
        self._types: Any = None
        self.lines: Lines | None = None
        self.apart: dict[str, str] = {}

    def take(self, grads: Sequence[Any]) -> None:
        """Take the step: by the program, or, where that cannot be, by `update`, which says what is wrong.

        Parameters
        ----------
        grads : sequence of (ndarray or None)
            The gradients, in the order of the parameters.
        """
        if self._patience:
            self._patience -= 1
        elif self._by_program(grads):
            return
        update(self._opt, self._params, dict(zip(self._params, grads, strict=True)))

    def _by_program(self, grads: Sequence[Any]) -> bool:
        """Take the step by the program, of the other parameters by `update`; if it fails, change nothing."""
        if self._opt.stages() != self._stages:
            self._look(grads)
        # Also of those without a gradient: `update` refuses them.
        if not self._groups or ENGINE.get() == "fused" or not all(map(_IS_WRITEABLE, self._values)):
            return False
        return whole(self._take, grads) if self._others else self._take(grads)

    def _take(self, grads: Sequence[Any]) -> bool:
        others: list[Any] = []
        back: Callable[[], object] = list
        try:
            if self._others:
                ps = {self._params[i]: grads[i] for i in self._others}
                others, back = changes_of(self._opt, [*ps], ps)
            elif self._changes_more:
                back = remembered([], self._stages)
            with SETTINGS:  # another thread's schedule may set them, and a rule may begin with one
                turns, numbers = self._turns()
                if tuple(map(type, numbers)) != self._types:
                    self._record(grads, numbers)
                kept = [group.vector(keep, turns[keep[0]]) for group in self._groups for keep in self._keeps]
            given = [*self._xs, *[grads[i] for i in self._places], *kept, *numbers]
            news = quiet().run(self.lines.run, *given)  # type: ignore[union-attr]
        except BaseException as error:
            back()
            if isinstance(error, Exception) and not is_signals(error):
                return False
            raise
        try:
            make(others)
        finally:
            finish(self._change, turns, kept, news)
        for group in self._groups:
            group.gathered.clear()
        return True

    def record(self, grads: Sequence[Any]) -> None:
        """Make the program for such gradients, if there can be one, without taking a step."""
        self._look(grads)
        if self._groups:
            with SETTINGS:
                numbers = self._turns()[1]
            self._record(grads, [x if type(x) in (bool, int) else 0.5 for x in numbers])

    # --- A step ---

    def _turns(self) -> tuple[list[Any], list[Any]]:
        """Give for each rule its state of each parameter, and where the clock will stand; and all numbers.

        The clocks of all parameters have to be the same. Whoever calls this holds `SETTINGS`.
        """
        turns, numbers = [], list[Any]()
        for rule in self._stages:
            get = rule.state.get
            states = [get(p) for p in self._all]
            clocks = [rule.clock if state is None else state["clock"] for state in states]
            if clocks.count(clocks[0]) < len(clocks):
                raise ValueError("some parameters have made more steps than others")
            clock = rule.tick(*clocks[0])
            numbers += rule.coefficients(*clock)
            turns.append((rule, states, clock))
        return turns, numbers

    def _change(self, turns: list[Any], kept: list[Array], news: Sequence[Array]) -> None:
        """Make the changes of a step. To make them twice is to make them once."""
        for x, new in zip([*self._xs, *kept], news, strict=True):
            x[...] = new
        for rule, states, clock in turns:
            for i, p in enumerate(self._ps):
                if states[i] is None:
                    rule.state[p] = states[i] = {}  # in this order: an interrupt may have it done twice
                states[i]["clock"] = clock
            if rule.notes_steps:
                rule.stepped(*clock)
        for group in self._groups:
            group.give_back(turns)

    # --- Recording ---

    def _look(self, grads: Sequence[Any]) -> None:
        """Find out which parameters can take part with the optimiser as it is."""
        stages: list[Any] = self._opt.stages()
        self._stages, self._types, self.lines = None, None, None
        why = _reason(stages)
        self._keeps = [(k, name) for k, rule in enumerate(stages) for name in ("" if why else rule.keeps)]
        ps = {i: self._params[i] for i, g in enumerate(grads) if g is not None}
        reasons = {i: why or _unfit(p.value, grads[i], self._limit) for i, p in ps.items()}
        if share_memory([p.value for p in ps.values()]):
            reasons = dict.fromkeys(ps, "shares memory")
        self._places = [i for i, reason in reasons.items() if not reason]
        self._others = [i for i, reason in reasons.items() if reason]
        self.apart = {self._names[i]: reasons[i] for i in self._others}
        self._ps = [ps[i] for i in self._places]
        # All parameters' clocks count: the others' steps come first, and may lower a rate that all share.
        self._all = self._ps + [ps[i] for i in self._others]
        self._xs = [p.value for p in self._ps]
        self._values = [p.value for p in self._params]
        self._changes_more = any_changes_more(stages)
        self._groups = self._grouped(True)
        self._stages = stages  # at the end: if an interrupt comes before, all is done again

    def _grouped(self, is_flat: bool) -> list[_Group]:
        """Put parameters of one dtype into vectors of limited size, or each into a group of its own."""
        groups: list[_Group] = []
        for i, x in enumerate(self._xs):
            for group in groups if is_flat else []:
                if group.dtype == x.dtype and group.nbytes + x.nbytes <= self._limit:
                    group.add(i, x)
                    break
            else:
                groups.append(_Group(i, x))
        return groups

    def _record(self, grads: Sequence[Any], numbers: Sequence[Any]) -> None:
        if not {*map(type, numbers)} <= {bool, int, float}:
            raise TypeError("NumPy goes by the dtypes of its own numbers")
        self._write(grads, numbers)
        if not self._is_exact:  # an element's neighbours may change its last bit
            self._groups = self._grouped(False)
            self._write(grads, numbers)
        self._types = tuple(map(type, numbers))

    def _write(self, grads: Sequence[Any], numbers: Sequence[Any]) -> None:
        """Call the formulas with stand-ins, and make the program of what they do."""
        listing, taken = Listing("step"), {*RESERVED, "step"}
        inputs: list[str] = []
        self.inputs = list[Any]()

        def standing(name: str, value: Any) -> StandIn:
            inputs.append(free_name(name, taken))
            self.inputs.append(value)
            return StandIn(listing, inputs[-1], value)

        names = [self._names[i] for i in self._places]
        xs = [standing(name, x) for name, x in zip(names, self._xs, strict=True)]
        Δs = [standing(f"d{self._names[i]}", grads[i]) for i in self._places]
        kept = [
            [standing(group.called(name, xs), group.like()) for _, name in self._keeps]
            for group in self._groups
        ]
        called = [
            [*inspect.signature(rule.formula).parameters][2 + len(rule.keeps) :] for rule in self._stages
        ]
        remaining = iter(numbers)
        mine = [[standing(name, next(remaining)) for name in some] for some in called]
        news: dict[int, Any] = {}
        vectors: list[Any] = []
        with np.errstate(all="ignore"):
            for group, olds in zip(self._groups, kept, strict=True):
                x, step = group.joined(xs), group.joined(Δs)
                step, new = chained(self._stages, x, step, olds, mine)
                vectors += new
                for i, part in group.parts(step):
                    news[i] = xs[i] - part
        outputs = {free_name(f"{name}_new", taken): news[i] for i, name in enumerate(names)}
        outputs |= {
            free_name(f"{old._name}_new", taken): new for old, new in zip(flat(kept), vectors, strict=True)
        }
        self._is_exact = all(map(_is_exact, listing.calls))
        self.lines = Lines(listing, inputs, outputs, set(), {}, "step")


def _is_exact(call: Call) -> bool:
    """Tell whether a call has one right result, or computes nothing."""
    return call.function in EXACT or call.form in ("np.concatenate", ".reshape", "{}[{}]", ".astype")


class _Group:
    """Parameters that make one vector, or one parameter as it is."""

    def __init__(self, i: int, x: Array) -> None:
        self.dtype, self.nbytes = x.dtype, 0
        self._members: list[tuple[int, Array]] = []
        self._vectors: dict[Any, tuple[Array, list[Array]]] = {}
        self.gathered: set[tuple[int, str]] = set()  # since the last step that was taken
        self.add(i, x)

    def add(self, i: int, x: Array) -> None:
        self._members.append((i, x))
        self.nbytes += x.nbytes

    def like(self) -> Array:
        """Give an example of what is kept."""
        if len(self._members) == 1:
            return np.full_like(self._members[0][1], 0.5)
        return np.full(sum(x.size for _, x in self._members), 0.5, self.dtype)

    def called(self, name: str, xs: list[Any]) -> str:
        """Name what is kept."""
        return f"{name}_{xs[self._members[0][0]]._name}" if len(self._members) == 1 else name

    def joined(self, xs: list[Any]) -> Any:
        """Join one array of each parameter to a vector."""
        mine = [xs[i] for i, _ in self._members]
        if len(mine) == 1:
            return mine[0].astype(self.dtype) if mine[0].dtype != self.dtype else mine[0]
        options: Any = {} if all(x.dtype == self.dtype for x in mine) else {"dtype": self.dtype}
        return np.concatenate(tuple(mine), axis=None, **options)

    def parts(self, vector: Any) -> Iterator[tuple[int, Any]]:
        """Give each parameter's part of a vector, with its place."""
        if len(self._members) == 1:
            yield self._members[0][0], vector
            return
        start = 0
        for i, x in self._members:
            part = vector[start : start + x.size]
            yield i, part.reshape(x.shape) if x.ndim != 1 else part
            start += x.size

    def vector(self, keep: tuple[int, str], turn: Any) -> Array:
        """Give what a rule keeps, as one vector: the one of the last step if its parts are still in use."""
        _, name = keep
        rule, states, _ = turn
        vector, parts = self._vectors.get(keep, (None, []))
        for (i, _), part in zip(self._members, parts):  # noqa: B905 - strict takes its time
            state = states[i]
            if state is None or state[name] is not part:
                break
        else:
            if vector is not None:
                return vector
        olds = []
        for i, x in self._members:
            state = states[i]
            olds.append(old := rule.begin(x)[name] if state is None else state[name])
            if old.dtype != x.dtype or old.shape != x.shape:
                raise ValueError("what is kept is not of the parameter's shape or dtype")
        vector = olds[0].copy() if len(olds) == 1 else np.concatenate(olds, axis=None)
        self._vectors[keep] = vector, [part for _, part in self.parts(vector)]
        self.gathered.add(keep)
        return vector

    def give_back(self, turns: list[Any]) -> None:
        """Put each parameter's part of what has been gathered into its state."""
        for k, name in self.gathered:
            _, parts = self._vectors[k, name]
            for (i, _), part in zip(self._members, parts, strict=True):
                turns[k][1][i][name] = part


def _reason(stages: list[Any]) -> str:
    """Say why formulas cannot be joined, if so."""
    for k, rule in enumerate(stages):
        name = type(rule).__name__
        if not rule.has_formula:
            return f"{name} has an apply of its own"
        if not rule.elementwise:
            return f"{name} is not elementwise"
        if any(rule is other for other in stages[:k]):
            return f"{name} comes twice"
        used = rule.formula, rule.coefficients, rule.tick, rule.begin
        if not all(f.__module__.startswith("minidiff.") for f in used):
            return f"{name} may do otherwise for each parameter"
        if rule.notes_steps and type(rule).stepped is not ExpDecay.stepped:
            return f"{name} takes note of each parameter's steps"
    return ""


def _unfit(x: Array, g: Any, limit: float) -> str:
    """Say why a parameter cannot take part, if so."""
    if not isinstance(g, (np.ndarray, np.generic)) or g.shape != x.shape:
        return f"its gradient is {described(g)}"
    if x.nbytes > limit:
        return "large"
    if x.dtype.char not in "fd" or not x.dtype.isnative or g.dtype.kind != "f":
        return f"{x.dtype}" if g.dtype.kind == "f" else f"its gradient is {g.dtype}"
    return ""
