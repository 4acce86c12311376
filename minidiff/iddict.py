"""A mutable mapping keyed by identity, whose entries live no longer than their keys."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

__all__ = ["IdDict"]


class IdDict(MutableMapping[K, V], Generic[K, V]):
    """A dictionary that compares its keys with ``is``.

    Arrays and parameters cannot be keys of a ``dict``: their ``==`` is elementwise. Here each key stands
    for itself alone. An entry is dropped when nothing else holds its key, so that an optimiser's state
    is freed with its parameter; a key that cannot be weakly referenced (a list, a number) is held.

    Parameters
    ----------
    items : mapping or iterable of (key, value), optional
        The first entries.

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

    __slots__ = ("__weakref__", "_entries")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        # id(key) -> (a function that gives the key, the value). An id is unambiguous while its entry
        # stands, because the entry goes at the moment its key does.
        self._entries: dict[int, tuple[Callable[[], K | None], V]] = {}
        for key, value in items.items() if isinstance(items, Mapping) else items:
            self[key] = value

    def __getitem__(self, key: K) -> V:
        try:
            return self._entries[id(key)][1]
        except KeyError:
            raise KeyError(key) from None

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, default: D, /) -> V | D: ...
    def get(self, key: K, default: Any = None, /) -> Any:
        """Return the value of `key`, or `default` if there is none."""
        held = self._entries.get(id(key))
        return default if held is None else held[1]

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

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IdDict({list(self.items())!r})"

    # Pickling and copying go through the keys themselves, so that the tie to a parameter survives
    # whenever parameter and IdDict travel together. `copy.copy` keeps the very same keys.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), None, None, iter(list(self.items()))


def _reference(key: Any, i: int, owner: IdDict[Any, Any]) -> Callable[[], Any]:
    """Give a function that returns `key` and forgets its entry in `owner` when the key is freed."""
    owner_reference = weakref.ref(owner)

    def forget(_: object) -> None:
        alive = owner_reference()
        if alive is not None:
            alive._entries.pop(i, None)

    try:
        return weakref.ref(key, forget)
    except TypeError:
        return lambda: key
