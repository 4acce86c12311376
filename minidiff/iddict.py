"""A mutable mapping keyed by identity, whose entries live no longer than their keys."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from operator import attrgetter, methodcaller
from typing import Any, Generic, TypeVar, overload

from minidiff.checks import warn

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

__all__ = ["IdDict"]


class IdDict(MutableMapping[K, V], Generic[K, V]):
    """A dictionary that compares its keys with ``is``.

    Arrays and parameters cannot be keys of a ``dict``: their ``==`` is elementwise. Here each key stands
    for itself alone. An entry is dropped when nothing else holds its key, so that an optimiser's state
    is freed with its parameter; a key that cannot be weakly referenced (a list, a number) is held.

    Copied or pickled together with its keys, it has the copies of these as its keys. A deep copy of it alone
    is empty, as nothing holds the keys that were copied with it.

    Parameters
    ----------
    items : mapping or iterable of (key, value), optional
        The first entries.

    Warns
    -----
    UserWarning
        Once, where a key is looked for in a copy that has lost all its entries in that way.

    Examples
    --------
    >>> import numpy as np
    >>> velocity = IdDict()
    >>> x, y = np.zeros(2), np.zeros(2)
    >>> velocity[x] = 1.0
    >>> x in velocity, y in velocity
    (True, False)
    >>> velocity.setdefault(y, 2.0)
    2.0
    >>> del x
    >>> len(velocity)
    1
    """

    __slots__ = ("__weakref__", "_copied", "_entries")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        # id(key) -> (a function that gives the key, the value). An id is unambiguous while its entry
        # stands, because the entry goes at the moment its key does.
        self._entries: dict[int, tuple[Callable[[], K | None], V]] = {}
        self._copied = 0  # how many entries a copy was meant to have
        for key, value in items.items() if isinstance(items, Mapping) else items:
            self[key] = value

    def __getitem__(self, key: K) -> V:
        try:
            return self._entries[id(key)][1]
        except KeyError:
            self._missed()
            raise KeyError(key) from None

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, default: D, /) -> V | D: ...
    def get(self, key: K, default: Any = None, /) -> Any:
        """Return the value of `key`, or `default` if there is none."""
        held = self._entries.get(id(key))
        if held is None:
            self._missed()
            return default
        return held[1]

    def _missed(self) -> None:
        """Say so, if this is a copy that has lost what is looked for."""
        if self._copied and not self._entries:
            warn(
                f"this state is a copy, made without its parameters: all its {self._copied} entries are "
                "lost, as nothing holds the parameters that were copied with it. Copy both at once, "
                "copy.deepcopy((ps, opt)), or take a snapshot of both, save(io.BytesIO(), ps, opt)",
            )
        self._copied = 0  # after the warning, which may be an error

    def __setitem__(self, key: K, value: V) -> None:
        i = id(key)
        held = self._entries.get(i)
        self._entries[i] = (_reference(key, i, self) if held is None else held[0], value)

    def __delitem__(self, key: K) -> None:
        try:
            del self._entries[id(key)]
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return id(key) in self._entries

    def __iter__(self) -> Iterator[K]:
        for reference, _ in list(self._entries.values()):
            key = reference()
            if key is not None or not isinstance(reference, weakref.ref):
                yield key  # type: ignore[misc]  # None may itself be a key

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Remove every entry."""
        self._entries.clear()
        self._copied = 0

    __eq__ = object.__eq__
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IdDict({list(self.items())!r})"

    # Pickling and copying go through the keys themselves, so that the tie to a parameter survives
    # whenever parameter and IdDict travel together. `copy.copy` keeps the very same keys.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), len(self) or self._copied, None, iter(list(self.items()))

    def __setstate__(self, copied: int) -> None:
        self._copied = copied


def _reference(key: Any, i: int, owner: IdDict[Any, Any]) -> Callable[[], Any]:
    """Give a function that returns `key` and forgets its entry in `owner` when the key is freed."""
    # While a key is being freed no Python code may run: an interrupt raised there would be printed and lost.
    # This iterator runs in C: it does `owner._entries.pop(i, None)`, or ends if the owner is gone.
    popped = map(methodcaller("pop", i, None), map(attrgetter("_entries"), iter(weakref.ref(owner), None)))
    try:
        return weakref.ref(key, partial(next, popped))  # called with the reference, as next's default
    except TypeError:
        return lambda: key
