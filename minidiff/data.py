"""Minibatches of arrays."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from copy import copy, deepcopy
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np

from minidiff.checks import (
    a_count,
    bit_generator,
    described,
    flag,
    generator,
    instance,
    integer,
    is_ndarray,
    is_number,
    number,
    several,
)
from minidiff.interrupts import whole
from minidiff.tracing import map_container
from minidiff.typing import NDArray

__all__ = ["DataLoader"]

Data = TypeVar("Data")
Seed = int | np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | None
# When a batch of an iteration begins to count in the loader's state.
When = Literal["when it is handed out", "when its step is taken", "never"]

# What there is in place of other libraries' options.
_OPTIONS = {
    "batch_size": "batchsize=",
    "drop_last": "partial=, its opposite",
    "seed": "rng=",
    "generator": "rng=",
}


class _Checked:
    """An attribute that is checked whenever it is set; without a ``__get__`` it is read as any other."""

    def __init__(self, check: Callable[[str, Any], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, loader: object, value: Any) -> None:
        vars(loader)[self._name] = self._check(self._name, value)


class _Place(NamedTuple):
    """Where an iteration stands."""

    begin: Mapping[str, Any] | None  # the generator's state before it
    batches: int  # that count
    settings: tuple[int, bool, bool]  # its own: batchsize, shuffle, partial
    losses: tuple[int, list[float]] = (0, [])  # of its steps within `train`: how many, the sum


_SETTINGS: tuple[Any, ...] = partial(integer, least=1), flag, flag
_LOSSES: tuple[Any, ...] = a_count, partial(several, each=(number, ...))


def _no_other(name: str, _: object) -> NoReturn:
    raise AttributeError(f"a loader keeps its {name}: make another, DataLoader({name}, …)")


class DataLoader(Generic[Data]):
    """Minibatches of arrays along their first axis, afresh at every iteration.

    A batch is what the data are: an array, a tuple (also a named one) of arrays or a dict of arrays. Batches
    of arrays in order are views; shuffled ones are copies. Anything else that has a length and can be indexed
    is read when its batch comes, and never whole.

    Parameters
    ----------
    data : array, tuple of arrays, or dict of arrays
        All with the same number of samples n ≥ 0, the length of their first axis. In place of an array there
        may be what has a ``shape`` and a ``dtype`` and gives rows, such as an HDF5 data set; a sparse matrix
        of SciPy's, whose batches are sparse (in a loss write ``x.toarray() @ W``); or samples one by one,
        such as a list or an object with ``__len__`` and ``__getitem__``: arrays of one shape, or tuples or
        dicts of such. A list of numbers becomes an array at once.
    batchsize : int
        Samples in a batch, at least 1.
    shuffle : bool
        Whether every iteration takes the samples in a new random order.
    partial : bool
        Whether the last samples, too few to fill a batch, make a smaller one. If not, they are left out;
        fewer than `batchsize` samples then make no batch at all.
    rng : int, sequence of int, numpy.random.Generator or None
        A seed, a generator to draw from, or None for a seed from the operating system. The orders depend on
        it and on n, and on nothing else.

    Attributes
    ----------
    batchsize, shuffle, partial
        As given. Set anew, they hold from the next iteration on.
    rng : numpy.random.Generator
        What the orders are drawn from. It may be set as it is given.
    data
        As given; other data need another loader.
    weight : int
        How many samples the batch has that was handed out last: of a shard, how many are this process's own.

    Raises
    ------
    TypeError
        If `data` is of another kind, for example an iterator; when a batch is read, if its samples are no
        arrays, or dicts that differ in their keys.
    ValueError
        If the arrays differ in the length of their first axis, or `batchsize` is less than 1; when an
        iteration begins, if the data, such as a list, have become more or fewer; when a batch is read, if its
        samples are of different shapes; when `shuffle` or `rng` is set, if this is a shard that then would
        shuffle without a seed.

    Notes
    -----
    To stop amid an epoch and go on another day, save `state` and set it again::

        save(path, ps, opt, loader=loader.state)
        loader.state = load(path, ps, opt)["loader"]  # next comes the rest of the epoch

    Within `train` a batch counts in `state` when its step has been taken (or left out, by `skip`). If Ctrl-C,
    an exception or `stop` comes first, it is given again: the run that goes on equals the one that was never
    stopped. The state then has the losses of the epoch's steps as well, for their mean. What a callback
    iterates over meanwhile, to evaluate, leaves the state's place as it is. In a loop by hand a
    batch counts when it is handed out: save after its step, and if that step was not taken, save the state
    that was there before the batch was.

    Examples
    --------
    >>> x, y = np.arange(10).reshape(5, 2), np.arange(5)
    >>> for xb, yb in DataLoader((x, y), batchsize=2):
    ...     print(xb.shape, yb)
    (2, 2) [0 1]
    (2, 2) [2 3]
    (1, 2) [4]
    >>> loader = DataLoader({"image": x, "label": y}, batchsize=3, shuffle=True, rng=0)
    >>> [batch["label"].tolist() for batch in loader]
    [[2, 4, 3], [0, 1]]
    >>> len(loader)
    2

    Samples that are read one by one:

    >>> class Squares:
    ...     def __len__(self):
    ...         return 100
    ...
    ...     def __getitem__(self, i):
    ...         return np.array([i, i]), i**2
    >>> xb, yb = next(iter(DataLoader(Squares(), batchsize=3)))
    >>> xb.shape, yb.tolist()
    ((3, 2), [0, 1, 4])
    """

    data: Any = _Checked(_no_other)
    batchsize: int = _Checked(partial(integer, least=1))  # type: ignore[assignment]
    partial: bool = _Checked(flag)  # type: ignore[assignment]
    weight = 0
    _shard = 0, 1  # which one, of how many
    _at = 0  # a number for the order and the batch, which ranks compare
    _is_seeded = False
    _counts: When = "when it is handed out"  # for an iteration that begins now

    def __init__(
        self,
        data: Data,
        batchsize: int = 1,
        shuffle: bool = False,
        partial: bool = True,
        rng: Seed = None,
        **others: NoReturn,
    ) -> None:
        for name in others:
            ours = _OPTIONS.get(name, "batchsize, shuffle, partial and rng")
            raise TypeError(f"a DataLoader has no option {name!r}: write {ours}")
        if isinstance(batchsize, np.ndarray) and batchsize.ndim:
            raise TypeError("several arrays come as one tuple: DataLoader((x, y), batchsize=…)")
        vars(self)["data"] = _of_each(_source, data)
        self.batchsize, self.shuffle, self.partial = batchsize, shuffle, partial
        self.rng = rng
        self._n = _samples(self.data)
        self._place = self._next = _Place(None, 0, self._settings)  # now; when the latest batch counts
        self._resumed = False  # a state has been set, and nothing has counted since

    @property
    def rng(self) -> np.random.Generator:
        """What the orders are drawn from."""
        return vars(self)["rng"]  # type: ignore[no-any-return]

    @rng.setter
    def rng(self, rng: Seed) -> None:
        given = generator("rng", rng)
        _check_order(self.shuffle, rng is not None, self._shard[1])
        vars(self).update(rng=given, _is_seeded=rng is not None)

    @property
    def shuffle(self) -> bool:
        """Whether every iteration takes the samples in a new random order."""
        return vars(self)["shuffle"]  # type: ignore[no-any-return]

    @shuffle.setter
    def shuffle(self, shuffle: bool) -> None:
        _check_order(flag("shuffle", shuffle), self._is_seeded, self._shard[1])
        vars(self)["shuffle"] = shuffle

    @property
    def _settings(self) -> tuple[int, bool, bool]:
        return self.batchsize, self.shuffle, self.partial

    def __repr__(self) -> str:
        rank, size = self._shard
        return (
            f"DataLoader({self._n} samples, batchsize={self.batchsize}, shuffle={self.shuffle}, "
            f"partial={self.partial}{f', shard {rank} of {size}' if size > 1 else ''})"
        )

    def __len__(self) -> int:
        """Return the number of batches in an iteration."""
        return _length(self._n, self._settings)

    def __iter__(self) -> Iterator[Data]:
        return self._batches(self._counts)

    def _batches(self, counts: When) -> Iterator[Data]:
        """Give the batches of an iteration, of which `state` tells if they count."""
        self._check_length()
        order, (begin, given, settings, _) = whole(self._start, counts)
        rank, size = self._shard
        data, n, (batchsize, shuffle, _) = self.data, self._n, settings
        which = zlib.crc32(repr(begin).encode()) if shuffle and size > 1 else 0
        for i in range(given, _length(n, settings)):
            start = i * batchsize
            m = min(batchsize, n - start)
            first, last = m * rank // size, m * (rank + 1) // size
            # Where samples are fewer than shards, one without any has another's, which has no weight.
            places = slice(start + first, start + max(last, first + 1))
            rows = places if order is None else order[places]
            try:
                batch = _of_each(partial(_batch, rows=rows), data)
            except IndexError:
                self._check_length()
                raise
            if counts != "never":
                self._next = _Place(begin, i + 1, settings, self._next.losses)
            if counts == "when it is handed out":
                self._count()
            self.weight, self._at = last - first, which + i
            yield batch
        if counts != "never" and not self._resumed:
            self._place = _Place(None, 0, settings)

    def _check_length(self) -> None:
        if (n := _samples(self.data)) != self._n:
            raise ValueError(
                f"data has {n} samples now, and had {self._n} when the loader was made: make another, "
                "DataLoader(data, …)"
            )

    def _count(self, *losses: float) -> None:
        """Let the batch that was handed out last count, with the loss before its step, if it has one."""
        place = self._next
        if losses:
            steps, parts = place.losses
            place = place._replace(losses=(steps + len(losses), _summed([*parts, *losses])))
        vars(self).update(_place=place, _next=place, _resumed=False)  # one call: no interrupt parts them

    def _start(self, counts: When) -> tuple[NDArray[np.int64] | None, _Place]:
        """Begin an iteration, or go on with one; give its order and where it begins."""
        rng, place = self.rng, self._place
        goes_on = counts != "never" and self._resumed and place.begin is not None
        if goes_on:
            rng = deepcopy(rng)  # the loader's own has moved on
            rng.bit_generator.state = place.begin  # type: ignore[assignment]
        else:
            place = _Place(rng.bit_generator.state, 0, self._settings)
        order = rng.permutation(self._n) if place.settings[1] else None
        if counts != "never":
            self._place, self._next, self._resumed = place, place, False
        return order, place

    def shard(self, rank: int, size: int) -> DataLoader[Data]:
        """Give the loader of one of several processes, each of which has its part of every batch.

        The batches are those of this loader, in the same order, whatever the number of processes: all parts
        of one together are the batch. `batchsize` is that of the whole. A part of a batch is what is read of
        it, and parts differ by one sample at most. Where a batch has fewer samples than there are processes,
        one that has none gets another's sample, and its `weight` is 0.

        The `state` is that of the whole, too: it may be set in a loader with another number of shards. The
        part begins anew, or where a state that has been set says, as the whole would.

        Parameters
        ----------
        rank : int
            Which process this is, from 0 on.
        size : int
            How many there are.

        Returns
        -------
        DataLoader
            With the same data and the same `rng`: of several in one process each needs a loader of its own.

        Raises
        ------
        ValueError
            If the loader shuffles and was made without a seed: each process would have another order. If
            `rank` is not less than `size`, or this is a shard.

        Examples
        --------
        >>> for rank in range(2):
        ...     loader = DataLoader(np.arange(10), batchsize=4, shuffle=True, rng=0)
        ...     print([batch.tolist() for batch in loader.shard(rank, 2)])
        [[4, 6], [3, 5], [8]]
        [[2, 7], [9, 0], [1]]
        """
        size = integer("size", size, 1)
        if integer("rank", rank, 0) >= size:
            raise ValueError(f"rank must be less than size, {size}, got {rank}")
        if self._shard[1] > 1:
            raise ValueError(f"this is a shard, {self!r}: make shards of the whole loader")
        _check_order(self.shuffle, self._is_seeded, size)
        part = copy(self)
        part._shard = int(rank), size
        part._resumed = self._resumed  # it begins anew where this one would
        return part

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._resumed = self._place.begin is not None  # a copy goes on where this one stood
        self._counts = "when it is handed out"

    @property
    def state(self) -> dict[str, Any]:
        """Where the latest iteration stands; setting it makes the next iteration go on from there.

        The first iteration then gives the batches that were still to come, in the order they would have
        come. A state of another number of samples or another `batchsize`, or that cannot be one, is refused;
        amid an iteration also one that tells of another `shuffle` or `partial`. If it is set while an
        iteration runs, that one goes on, and as soon as another of its batches counts, the state tells of it
        again.

        If settings have changed during that iteration, the state holds the old and the new. A loader with
        either takes it: it ends that iteration with the old settings, and uses the new ones afterwards.

        Examples
        --------
        >>> loader = DataLoader(np.arange(6), batchsize=2, shuffle=True, rng=1)
        >>> batches = iter(loader)
        >>> next(batches)
        array([4, 0])
        >>> state = loader.state
        >>> another = DataLoader(np.arange(6), batchsize=2, shuffle=True)
        >>> another.state = state
        >>> [batch.tolist() for batch in another] == [batch.tolist() for batch in batches]
        True
        """
        (begin, batches, settings, losses), rng = self._place, self.rng.bit_generator.state
        batchsize, shuffle, is_partial = settings = self._settings if begin is None else settings
        later: dict[str, Any] = {  # left out where it says nothing, as in states of the first version
            **({} if shuffle and repr(begin) != repr(rng) else {"shuffle": shuffle}),
            **({} if settings == self._settings else {"next": self._settings}),
            **({} if begin is None or not losses[0] else {"losses": losses}),
        }
        if begin is not None and (later or not is_partial):
            later["partial"] = is_partial
        own = {"rng": rng, "begin": begin, "batches": batches}
        return {"samples": self._n, "batchsize": batchsize, **own, **later}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        instance("state", state, Mapping, "the state of a loader, a dict")
        if lacks := {"rng", "begin", "batches"} - state.keys():
            raise ValueError(f"state is of something else: it has no {', '.join(sorted(lacks))}")
        rng, begin = state["rng"], state["begin"]
        batches = integer("state['batches']", state["batches"])
        # A state leaves out what equals the loader's setting. Without "shuffle", it shuffled if its generator
        # has moved since the epoch began.
        known = {"batchsize": self.batchsize, "shuffle": repr(begin) != repr(rng), "partial": self.partial}
        settings = tuple(
            check(f"state[{name!r}]", state.get(name, x))
            for (name, x), check in zip(known.items(), _SETTINGS, strict=True)
        )
        then = several("state['next']", state.get("next", settings), _SETTINGS)
        batchsize, shuffle, is_partial = settings if then == self._settings else self._settings
        size = state.get("samples", self._n), settings[0]
        most = 0 if begin is None else _length(self._n, settings)
        steps, parts = several("state['losses']", state.get("losses", (0, [])), _LOSSES)
        losses = steps, [*parts]
        if size != (self._n, batchsize) or not 0 <= batches <= most:
            raise ValueError(
                f"state is of another loader: it gave {batches} batches of {size[1]} of {size[0]} samples, "
                f"and this has {len(self)} of {self.batchsize} of {self._n}"
            )
        mine = self.rng.bit_generator
        for name in ["rng"] if begin is None else ["rng", "begin"]:
            kind = type(bit_generator(f"state[{name!r}]", state[name]))
            if kind is not type(mine):
                raise ValueError(f"state is of another loader: it draws from {kind}, this from {type(mine)}")
        for name, its, this, matters in (
            ("shuffle", settings[1], shuffle, self._n > 1),
            ("partial", settings[2], is_partial, self._n % batchsize),
        ):
            if begin is not None and matters and its != this:
                raise ValueError(f"state is of another loader: it has {name}={its}, and this {name}={this}")

        def change() -> None:
            mine.state = rng
            self._place = _Place(begin, batches, settings, losses)
            self._resumed = begin is not None
            if "next" in state:  # unchecked: a shard may shuffle without a seed, as it gets the generator
                vars(self).update(zip(("batchsize", "shuffle", "partial"), then, strict=True))

        whole(change)


class Counted:
    """Counts the batches of a loader as `train` needs it: a batch counts when its step has been taken.

    Parameters
    ----------
    data : DataLoader, or any other data
        What gives the batches; other data than a loader do not count theirs.

    Examples
    --------
    >>> loader = DataLoader(np.arange(4))
    >>> with Counted(loader) as counted:
    ...     for batch in counted:
    ...         if batch == 2:
    ...             break
    ...         counted.note()
    >>> loader.state["batches"]
    2
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        counts = isinstance(data, DataLoader) and data._counts == "when it is handed out"
        self._loader: DataLoader[Any] | None = data if counts else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data) if self._loader is None else self._counted(self._loader)

    def _counted(self, loader: DataLoader[Any]) -> Iterator[Any]:
        loader._counts = "when its step is taken"  # in this iteration, not in one that begins before its end
        for batch in loader:
            loader._counts = "never"
            yield batch
            loader._counts = "when its step is taken"
        loader._counts = "never"

    def note(self, *losses: float) -> None:
        """Let the batch that was handed out last count, with the loss before its step, if it has one."""
        if self._loader is not None:
            self._loader._count(*losses)

    def carried(self) -> tuple[int, list[float]]:
        """Tell of the epoch's earlier steps, if the next iteration goes on with one: how many, their sum."""
        loader = self._loader
        return (0, []) if loader is None or not loader._resumed else loader._place.losses

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loader is not None:
            self._loader._counts = "when it is handed out"


def _check_order(shuffle: bool, is_seeded: bool, size: int) -> None:
    if shuffle and not is_seeded and size > 1:
        raise ValueError(
            "with shuffle=True each process would have an order of its own: give all the same seed, "
            "DataLoader(…, rng=0) or loader.rng = 0"
        )


def _length(n: int, settings: tuple[int, bool, bool]) -> int:
    """Return the number of batches of n samples."""
    batchsize, _, is_partial = settings
    full, rest = divmod(n, batchsize)
    return full + (is_partial and rest > 0)


def _summed(numbers: list[float]) -> list[float]:
    """Give the sum exactly, as a few numbers: it as a float, what that lacks, what is lacking then."""
    parts: list[float] = []
    try:
        while rest := math.fsum([*numbers, *(-part for part in parts)]):
            parts.append(rest)
    except (OverflowError, ValueError):  # it is beyond the range of floats
        return [sum(numbers)]
    return parts


def _of_each(f: Callable[[Any], Any], data: Any) -> Any:
    """Return what `f` gives for each of the arrays, in the structure of the data."""
    return map_container(f, data) if isinstance(data, (tuple, dict)) else f(data)


def _source(part: Any) -> Any:
    """Return an array, or what else gives rows or samples when it is asked for them."""
    if hasattr(part, "tocsr"):
        return part.tocsr()
    has_rows = hasattr(part, "__len__") and hasattr(part, "__getitem__")
    is_list = isinstance(part, list) and not all(map(is_number, part))
    other = not isinstance(part, (list, tuple, np.ndarray, np.generic)) and not hasattr(part, "iloc")
    if isinstance(part, (str, bytes, Mapping)) or not (has_rows or hasattr(part, "__array__")):
        advice = ", for pairs tuple(map(np.array, zip(*data)))" if isinstance(part, Iterator) else ""
        raise TypeError(
            f"data must be an array, or what has a length and can be indexed, got a {type(part).__name__}: "
            f"put all samples into arrays first{advice}"
        )
    return part if is_list or (other and has_rows) else np.asanyarray(part)


def _batch(part: Any, rows: Any) -> Any:
    """Read rows, a slice or an array of places in any order."""
    if isinstance(part, np.ndarray) or hasattr(part, "tocsr"):
        return part[rows]
    in_order = isinstance(rows, slice)
    if hasattr(part, "shape") and hasattr(part, "dtype"):
        if in_order:
            return np.asanyarray(part[rows])
        order = np.argsort(rows)  # HDF5 reads rows in rising order only
        batch = np.asanyarray(part[rows[order]])
        return batch[np.argsort(order)]
    places = range(rows.start, rows.stop) if in_order else rows.tolist()
    return _stacked([part[i] for i in places])


def _stacked(samples: list[Any]) -> Any:
    """Put samples together as a batch."""
    first = samples[0]
    if isinstance(first, tuple) and all(isinstance(x, tuple) and len(x) == len(first) for x in samples):
        columns = zip(*samples, strict=True)
        return map_container(lambda _: _stacked(list(next(columns))), first)
    if isinstance(first, dict) and all(isinstance(x, dict) and x.keys() == first.keys() for x in samples):
        return {name: _stacked([x[name] for x in samples]) for name in first}
    error: ValueError | None = None
    has_masks = any(isinstance(x, np.ma.MaskedArray) for x in samples)
    stack, array = (np.ma.stack, np.ma.asarray) if has_masks else (np.stack, np.asarray)
    try:
        batch = stack([array(x) for x in samples])
        if batch.dtype != object:
            return batch
    except ValueError as refusal:
        error = refusal
    told = dict.fromkeys(map(_kind, samples))
    kinds = [text for text, _ in told]
    if not all(is_array for _, is_array in told):
        raise TypeError(
            "the samples of a batch must be arrays of one shape, or tuples or dicts of such, got "
            f"{' and '.join(kinds[:3])}"
        ) from error
    if error is None:
        return batch  # of arrays that hold objects
    parts = "A sample of several parts is a tuple, (x, y). " if "ragged list" in kinds else ""
    raise ValueError(
        f"the samples of a batch differ in shape, {', '.join(kinds):.80}: pad them, or take batchsize=1. "
        f"({parts}Several arrays come as one tuple, DataLoader((x, y), …).)"
    ) from error


def _kind(x: Any) -> tuple[str, bool]:
    """Say what a sample is, by the shape of an array or the keys of a dict, and whether it is an array."""
    if isinstance(x, Mapping):
        return f"a {type(x).__name__} of {', '.join(map(repr, x)) or 'nothing'}", False
    try:
        array = np.asarray(x)
    except ValueError:
        return f"ragged {type(x).__name__}", True
    is_array = array.dtype != object or is_ndarray(x)
    return str(array.shape) if is_array else described(x), is_array


def _samples(data: Any) -> int:
    """Return the number of samples, which is that of every array."""
    parts = data if isinstance(data, dict) else dict(enumerate(data if isinstance(data, tuple) else [data]))
    if not parts:
        raise ValueError(f"data must hold at least one array, got {data!r}")
    for name, part in parts.items():
        if getattr(part, "shape", None) == ():
            raise ValueError(
                f"data must be arrays of samples, but number {name!r} is a single value: {part!r}"
            )
    lengths = {name: part.shape[0] if hasattr(part, "tocsr") else len(part) for name, part in parts.items()}
    if len(set(lengths.values())) > 1:
        lasts = {getattr(part, "shape", ())[-1:] for part in parts.values()}
        columns = ": samples are rows, X.T in place of X" if len(lasts) == 1 and () not in lasts else ""
        raise ValueError(f"all arrays must have the same number of samples, got {lengths}{columns}")
    return next(iter(lengths.values()))
