"""What remembers something from call to call: it can start over, and its memory goes into checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np

from minidiff.checks import described, instance, is_ndarray
from minidiff.params import Params

__all__ = ["Memory", "arrays_or_none", "check_values"]


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

    @abstractmethod
    def reset(self) -> None:
        """Start over."""

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise an error if these cannot be its memory."""

    @property
    def state(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint; setting it makes it go on from there.

        ``save(path, ps, opt, stopper=stopper.state)``, and ``stopper.state = extra["stopper"]`` after `load`.
        """
        return {name: deepcopy(getattr(self, name)) for name in self._memory}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        instance("state", state, Mapping, "the state of another one, a dict")
        if state.keys() != self._memory.keys():
            names = ", ".join(self._memory)
            raise ValueError(
                f"state is of something else: {type(self).__name__} has {names}, got {described(dict(state))}"
            )
        new = {name: check(f"state[{name!r}]", deepcopy(state[name])) for name, check in self._memory.items()}
        self.check_state(new)
        for name, value in new.items():
            setattr(self, name, value)


def arrays_or_none(name: str, x: Any) -> list[Any] | None:
    """Check that this is None, or a list of arrays, some of which may be None."""
    items = () if x is None else instance(name, x, list, "a list of arrays")
    if not all(a is None or is_ndarray(a) for a in items):
        raise TypeError(f"{name} must be a list of arrays, got {described(x)}")
    return x  # type: ignore[no-any-return]


def check_values(ps: Params, values: list[Any] | None) -> None:
    """Check that arrays from a state, if there are any, have the shapes of these parameters."""
    if values is not None and [np.shape(a) for a in values] != [p.shape for p in ps]:
        raise ValueError(
            f"state is of other parameters: its values have shapes {[np.shape(a) for a in values]}, "
            f"the parameters {[p.shape for p in ps]}"
        )
