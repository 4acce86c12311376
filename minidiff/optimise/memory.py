"""What remembers something from call to call: it can start over, and its memory goes into checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np

from minidiff.checks import described, fits, instance, is_ndarray, is_number
from minidiff.params import Params

__all__ = ["Memory", "arrays_or_none"]


class Memory(ABC):
    """The base of what remembers.

    A subclass names in ``_memory`` the attributes that are its memory, each with a check for what comes from
    a file, and sets them in `reset`.

    Examples
    --------
    >>> from minidiff.optimise import patience
    >>> trigger = patience(lambda loss: loss > 1, wait=3)
    >>> trigger(2.0), trigger(2.0)
    (False, False)
    >>> state = trigger.state
    >>> state
    {'count': 2}
    >>> trigger.reset()
    >>> trigger(2.0)
    False
    >>> trigger.state = state
    >>> trigger(2.0)
    True
    """

    _memory: ClassVar[dict[str, Callable[[str, Any], Any]]]
    ps: Params | None = None  # of what remembers arrays of parameters

    @abstractmethod
    def reset(self) -> None:
        """Start over."""

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise an error if a state that is about to be set cannot be right. Subclasses override this."""

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in self._memory}
        shown = ", ".join(f"{name}={x!r}" for name, x in known.items() if x is None or is_number(x))
        return f"<{type(self).__name__}: {shown}>" if shown else f"<{type(self).__name__}>"

    @property
    def state(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint; setting it makes it go on from there.

        ``save(path, ps, opt, stopper=stopper.state)``, and ``stopper.state = extra["stopper"]`` after `load`.
        Arrays of parameters go by the names of these, as in `load`; without an entry "names" by place.
        """
        names = {} if self.ps is None else {"names": list(self.ps.names)}
        return {name: deepcopy(getattr(self, name)) for name in self._memory} | names

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        instance("state", state, Mapping, "the state of another one, a dict")
        if state.keys() - ({"names"} if self.ps is not None else set()) != self._memory.keys():
            names, given = ", ".join(self._memory), described(dict(state))
            raise ValueError(f"state is of something else: {type(self).__name__} has {names}, got {given}")
        new = {}
        for name, check in self._memory.items():
            new[name] = check(f"state[{name!r}]", deepcopy(state[name]))
            if check is arrays_or_none and self.ps is not None:
                new[name] = _values_of(self.ps, new[name], state.get("names", list(self.ps.names)))
        self.check_state(new)
        vars(self).update(new)  # all at once, also if an interrupt comes


def _values_of(ps: Params, values: list[Any] | None, names: Any) -> list[Any] | None:
    """Put arrays from a state, where parameters have these names, in order, if they can be their values."""
    names = list(map(str, instance("state['names']", names, list, "a list of names")))
    if sorted(names) != sorted(ps.names):
        theirs, ours = ", ".join(names), ", ".join(ps.names)
        raise ValueError(
            f"state is of other parameters: those of {theirs}, not {ours}. Without its entry 'names' it goes "
            "by place"
        )
    if values is None:
        return None
    if len(values) == len(names):
        values = [values[names.index(name)] for name in ps.names]
    if not (len(values) == len(ps) and all(map(fits, values, [p.value for p in ps]))):
        theirs, ours = ", ".join(map(described, values)), ", ".join(described(p.value) for p in ps)
        raise ValueError(f"state is of other parameters: its values are {theirs}, the parameters {ours}")
    return values


def arrays_or_none(name: str, x: Any) -> list[Any] | None:
    """Check that this is None, or a list of arrays, some of which may be None."""
    if x is None:
        return None
    for a in instance(name, x, list, "a list of arrays"):
        # NumPy makes a number of an array without axes wherever it calculates.
        if not (a is None or ((is_ndarray(a) or isinstance(a, np.generic)) and a.dtype.kind in "fciub")):
            raise TypeError(f"{name} must be a list of arrays of numbers, got {described(x)}")
    return [a if a is None else np.asarray(a) for a in x]
