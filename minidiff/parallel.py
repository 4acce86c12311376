"""Training on several processes at once, each with a part of every batch, over MPI (extra ``mpi``).

All ranks run the same program, ``mpiexec -n 4 python train.py``, and hold the same parameters::

    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    mean = average(comm)
    loader = DataLoader((x, y), batchsize=128, shuffle=True, rng=0)
    share(θ, opt, comm)
    train(loss, θ, loader.shard(comm.rank, comm.size), opt, transform=mean)

Before a step the ranks meet: each tells in a few numbers how it stands, and all go on or none does. Then the
gradients are summed, in one Allreduce for each dtype.
"""

from __future__ import annotations

import atexit
import io
import math
import mmap
import os
import pickle
import sys
import threading
import traceback
import weakref
import zlib
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np

from minidiff.checkpoint import load, save
from minidiff.checks import add_note, described, instance, number
from minidiff.grads import Grads
from minidiff.interrupts import whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.training import Skip, Stop
from minidiff.optimise.transforms import Joint, what_is_not_finite
from minidiff.params import Param, Params
from minidiff.typing import NDArray

__all__ = ["average", "share"]


class average(Joint):  # noqa: N801 - it is called as a function is
    r"""Average the gradients over the ranks of a communicator: each has that of its part of the batch.

    .. math:: g \leftarrow \sum_r w_r g_r / \sum_r w_r

    With the loss a mean over the samples, and w the number of samples, that is the gradient of the whole
    batch. All ranks get the same bits. Within `train` the loss is averaged as well, and so is the same on all
    ranks, as are decisions that go by it.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The communicator. All of its ranks make the object, at the same place of the program.
    reproducible : bool
        Whether to add in the order of the ranks, for the same bits with any MPI library and any placement of
        the ranks. If not, the library chooses the order (see the notes).
    grace : float
        For how many seconds a rank that has failed waits for the others to come to their next step and hear
        of it. Those that have not come then are ended (MPI_Abort).

    Raises
    ------
    RuntimeError
        If the ranks are not at the same batch, or one has ended its training and another has not.
    ValueError
        If the ranks have other parameters.

    Notes
    -----
    What ends the training of one rank ends that of all at their next step. There it raises an error of the
    same class (a RuntimeError, where that takes more than a message), which names the rank: also
    KeyboardInterrupt, for Ctrl-C, and what `stop` raises. A batch that one rank leaves out by `skip`, or by a
    transform before this one, all leave out. A rank that waits hears Ctrl-C when the others come; in a
    terminal mpiexec sends it to all. A gradient or loss that is not finite spoils the mean of all, so all
    find it before the step, and the error names the rank that it came from. For `skip_nonfinite` to leave it
    out, it comes after this in ``transform=[average(comm), skip_nonfinite()]``.

    In a loop by hand, where `train` does not, a ``with`` block does the same for what is raised within::

        with average(comm) as mean:
            for x, y in shard:
                update(opt, θ, mean(gradient(lambda: loss(x, y), θ), shard.weight))

    Without one an error is heard of when it ends its process.

    A parameter that the loss of some ranks does not depend on counts as zero there; its gradient is None if
    it is on all. Half precision is summed in single. The arrays that come out are views of memory that is
    used again once nothing refers to them.

    MPI requires of an Allreduce that all ranks get the same bits [1]_. It recommends, and does not require,
    the same bits again from the same numbers; MPICH and Open MPI choose the order by the size of the message,
    the number of ranks and which of them share a machine. Where these are the same, a run is the same again.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> import numpy as np
    >>> from minidiff import gradient, param, params
    >>> comm, W = MPI.COMM_WORLD, param(np.ones(2))
    >>> mean = average(comm)
    >>> grads = mean(gradient(lambda: comm.rank * np.sum(W), params(W)))
    >>> bool(np.all(grads[W] == (comm.size - 1) / 2))
    True

    References
    ----------
    .. [1] MPI: A Message-Passing Interface Standard, version 4.1, 2023, section 6.9.
    """

    def __init__(self, comm: Any, *, reproducible: bool = False, grace: float = 5.0) -> None:
        self._ranks = _ranks(comm)
        self.size = self._ranks.size
        self._ranks.grace = number("grace", grace, within="[0, inf)")
        self.reproducible = bool(reproducible)
        self._layout: _Layout | None = None
        self._pool = _Pool()
        self._batch, self._total = 0, 0.0
        self._latest: tuple[float, Grads] | None = None  # what this rank had in its latest step

    def __repr__(self) -> str:
        size = self._ranks.size
        return f"average(of {size} ranks{', reproducible' if self.reproducible else ''})"

    def __call__(self, grads: Grads, weight: float = 1.0) -> Grads:
        """Give the mean of the gradients of all ranks.

        Parameters
        ----------
        grads : Grads
            Those of this rank.
        weight : float
            By how much they count, at least 0: the number of samples they were computed from.

        Returns
        -------
        Grads
            The same on all ranks.
        """
        instance("grads", grads, Grads, "Grads")
        return self._mean(0.0, grads, number("weight", weight, within="[0, inf)"), self._batch + 1, 0)[1]

    def join(self, loss: float, grads: Grads, data: Any, batch: int) -> tuple[float, Grads]:
        """Give the mean of the losses and of the gradients of all ranks: `train` asks for it."""
        weight = number("data.weight", getattr(data, "weight", 1.0), within="[0, inf)")
        return self._mean(loss, grads, weight, batch, getattr(data, "_at", 0))

    def leave_out(self, batch: int) -> None:
        """Have all ranks leave out a batch, unless this one has joined for it."""
        if batch != self._batch and self._ranks.size > 1:
            self._batch = batch
            whole(lambda: self._ranks.hear(self._ranks.tell(LEFT_OUT, batch)))

    def __enter__(self) -> average:
        self._batch, self._ranks.have_parted = 0, False
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        what = ""
        if isinstance(error, FloatingPointError) and self._latest is not None:
            loss, grads = self._latest
            what = what_is_not_finite(loss, grads, grads._named)
        self._latest = None
        whole(self._ranks.part, error, what)

    def _mean(self, loss: float, grads: Grads, weight: float, batch: int, at: int) -> tuple[float, Grads]:
        self._batch, self._latest = batch, (loss, grads)
        if self._ranks.size == 1:
            return loss, grads
        return whole(self._meet, loss, grads, weight, batch, at)

    def _meet(self, loss: float, grads: Grads, weight: float, batch: int, at: int) -> tuple[float, Grads]:
        """Hear how all ranks stand, and sum what they have."""
        ranks, layout, ps = self._ranks, self._layout, grads._params
        if layout is None or (layout.ps is not ps and layout.ids != list(map(id, ps))):
            self._layout = layout = _Layout(ps, ranks.size, self._pool)
        values: list[Any] = [None if g is None else np.asarray(g) for g in grads.values()]
        reached = bytes([g is not None for g in values])
        told = ranks.tell(STEP, batch, at, layout.key, zlib.crc32(reached), weight, loss)
        # Until the others have been heard, all are taken to weigh as much as last time.
        expected = self._total or weight * ranks.size or 1.0
        parts, buffers = layout.places(reached)
        _fill(parts, values, weight / expected)
        heads, are_alike = ranks.hear(told)
        weights = heads[:, 5].tolist()
        self._total = total = math.fsum(weights)
        if not 0 < total < math.inf:
            ranks.have_parted = True
            raise ValueError(f"the weights of all ranks must have a finite sum above 0, got {weights}")
        if not are_alike:
            if _differ(heads[:, 3]):
                ranks.compare(layout.description)
            by_one = bytearray(reached)  # what one rank has reached all have
            ranks.comm.Allreduce(ranks.in_place, by_one, ranks.most)
            parts, buffers = layout.places(bytes(by_one))
        if total != expected or not are_alike:
            _fill(parts, values, weight / total)
        pairs = zip(weights, heads[:, 6].tolist(), strict=True)
        loss = sum([w / total * one for w, one in pairs if w], 0.0)
        for buffer in buffers:
            if self.reproducible:
                _add_in_order(ranks, buffer, self._pool)
            else:
                ranks.comm.Allreduce(ranks.in_place, buffer)
        for i in layout.halves:
            parts[i] = None if parts[i] is None else parts[i].astype(np.float16)
        return loss, Grads(ps, parts, grads._named)


def share(ps: Params, opt: AbstractOptimiser | None, comm: Any, **extra: Any) -> dict[str, Any]:
    """Give all ranks the parameters of rank 0, the state of its optimiser, and more.

    It stands before the training, so that all begin from the same place: whatever their own random numbers
    were, and where rank 0 alone has loaded a checkpoint.

    Parameters
    ----------
    ps : Params
        The parameters: of the same names, shapes and dtypes on all ranks.
    opt : AbstractOptimiser or None
        The optimiser: hyperparameters, step counts and state are what `save` would store.
    comm : mpi4py.MPI.Comm
        The communicator. All of its ranks call this, at the same place of the program.
    **extra : None, bool, number, str, bytes, array, and more
        What else `save` can store. That of other ranks than 0 is not looked at.

    Returns
    -------
    dict
        The `extra` of rank 0.

    Raises
    ------
    ValueError
        On all ranks, if one has parameters other than rank 0 has; nothing has changed then. Also if the
        optimisers are not of the same kind.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> import numpy as np
    >>> from minidiff import param, params
    >>> from minidiff.optimise import ADAM
    >>> comm = MPI.COMM_WORLD
    >>> W = param(np.full(2, 3.0 + comm.rank))
    >>> share(params(W), ADAM(), comm, epoch=5 if comm.rank == 0 else None)
    {'epoch': 5}
    >>> W
    param([3., 3.])

    To go on from a checkpoint that rank 0 alone can read::

        start = load(path, ps, opt) if comm.rank == 0 and os.path.exists(path) else {}
        start = share(ps, opt, comm, **start)
    """
    ranks, content = _ranks(comm), b""
    with ranks:
        ps = Params(ps)
        description = [
            f"{name}: {p.value.shape} {p.value.dtype}" for name, p in zip(ps.names, ps, strict=True)
        ]
        if ranks.rank == 0:
            file = io.BytesIO()
            save(file, ps, opt, **extra)
            content = file.getvalue()
    ranks.compare(description)
    content = ranks.comm.bcast(content)
    with ranks:
        try:
            result: dict[str, Any] = load(io.BytesIO(content), ps, opt)
        except ValueError as error:
            text = str(error).removeprefix("the BytesIO ")
            raise ValueError(f"what rank 0 shares does not go in here: it {text}") from error
    return result


# How the ranks stand -----------------------------------------------------------------------------------

# In this order: from DONE on a training has ended, from GONE on the process.
STEP, LEFT_OUT, DONE, FAILED, GONE, CRASHED = range(6)

# What an error says to the other ranks: its class, pickled, its text, and what was not finite.
Report = tuple[bytes, str, str]


class _Ranks:
    """The ranks of a communicator, and what they tell each other.

    They have a communicator of their own, so that what a failing rank says is not taken for a message of the
    program's. As a context manager it has all ranks end a piece of work together.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm.Dup()
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.in_place, self.most = _mpi().IN_PLACE, _mpi().MAX
        self.grace = 5.0
        self.have_parted = False  # all have heard that this training or piece of work is over
        if self.size > 1:
            atexit.register(self._go)

    def __enter__(self) -> None:
        self.have_parted = False

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        whole(self.part, error)

    def tell(self, *head: float) -> tuple[Any, Any, Any]:
        """Begin to tell the others how this rank stands.

        Parameters
        ----------
        *head : float
            The status, and of a step or a batch left out its number; of a step also what tells the order of
            the samples, what tells the parameters, which of them have a gradient, the weight and the loss.

        Returns
        -------
        tuple
            What `hear` needs, to wait for what the others tell.
        """
        mine, heads = np.zeros(7), np.empty((self.size, 7))
        mine[: len(head)] = head
        self._told = self.comm.Iallgather(mine, heads), mine, heads  # whose memory must stay until it is over
        return self._told

    def hear(self, told: tuple[Any, Any, Any]) -> tuple[NDArray[np.float64], bool]:
        """Give how all stand, or raise what keeps this rank from a step.

        Returns
        -------
        ndarray, shape (size, 7), and bool
            The heads of all ranks, and whether they differ in nothing but weights and losses.
        """
        request, mine, heads = told
        request.Wait()
        if not _differ(heads[:, :5]):
            return heads, True
        statuses = heads[:, 0]
        self._raise_of_others(statuses)
        reason = ""
        if _differ(heads[:, 1]):
            places = ", ".join(f"rank {rank} at {int(n)}" for rank, n in enumerate(heads[:8, 1]))
            reason = f"at the same batch ({places}): all must have as many, and leave out the same"
        elif _differ(heads[statuses == STEP, 2]):
            reason = "in the same order: the DataLoader of each must have the same seed, and the same state"
        if reason:
            self.have_parted = True
            raise RuntimeError(f"the ranks do not go through the samples {reason}")
        if mine[0] == STEP and LEFT_OUT in statuses:
            raise Skip(f"rank {np.argmax(statuses)} leaves out batch {int(mine[1])}")
        return heads, False

    def part(self, error: BaseException | None, what: str = "") -> None:
        """End a training or a piece of work, by an error or not, together with the others.

        Parameters
        ----------
        error : BaseException or None
            What ended it here.
        what : str
            What was not finite on this rank.
        """
        if self.size == 1 or self.have_parted:
            return
        # Those that are at work on a long step have the time that they need, if nothing is wrong.
        hurry = error is not None and not isinstance(error, Stop)
        heads = self._gather(DONE if error is None else FAILED, error if hurry else None)
        self._raise_of_others(heads[:, 0], error, what)

    def compare(self, description: list[str]) -> None:
        """Refuse, on all ranks, what is not described by the same lines on all."""
        lines = self.comm.allgather(description)
        for rank, theirs in enumerate(lines):
            if theirs != lines[0]:
                self.have_parted = True
                pairs = zip_longest(lines[0], theirs, fillvalue="nothing")
                ours, other = next((a, b) for a, b in pairs if a != b)
                raise ValueError(
                    f"rank {rank} has other parameters than rank 0: {other}, where rank 0 has {ours}"
                )

    def _raise_of_others(self, statuses: Any, error: BaseException | None = None, what: str = "") -> None:
        """Raise what has ended the training on another rank, unless this one has an error of its own."""
        if statuses.max() < DONE:
            return
        self.have_parted = True
        if FAILED in statuses or CRASHED in statuses:
            reports = self.comm.allgather(None if error is None else _report(error, what))
            theirs = [_raised_by(rank, r) for rank, r in enumerate(reports) if r and rank != self.rank]
            theirs.sort(key=lambda one: isinstance(one, Stop))  # an error counts for more
            if theirs and (error is None or (isinstance(error, Stop) and not isinstance(theirs[0], Stop))):
                raise theirs[0]
            places = [f"rank {rank}: {r[2]}" for rank, r in enumerate(reports) if r and r[2]]
            if isinstance(error, FloatingPointError) and places:
                error.args = (f"{error} ({'; '.join(places)})",)
            elif error is not None:
                add_note(error, f"on rank {self.rank} of {self.size}")
        elif _differ(statuses):
            ended, going = np.argmax(statuses), np.argmin(statuses)
            raise RuntimeError(
                f"rank {ended} has ended its training, and rank {going} has not: all must have as many "
                "batches, as those of loader.shard(rank, size) have, and leave out the same"
            )

    def _go(self) -> None:
        """End the process: once the others have heard of an error that ends it, and all go."""
        if _mpi().Is_finalized():
            return
        error = getattr(sys, "last_value", None)
        limited = error
        while True:
            heads = self._gather(GONE if error is None else CRASHED, limited)
            limited = None  # they have heard of it
            if FAILED in heads[:, 0] or CRASHED in heads[:, 0]:
                self.comm.allgather(None if error is None else _report(error, ""))
            if heads[:, 0].min() >= GONE:
                break

    def _gather(self, status: int, error: BaseException | None) -> Any:
        """Give the heads of all ranks. With an error, the others have some time to come, or are ended."""
        request, _, heads = self.tell(status)
        if error is None:
            request.Wait()
            return heads
        waiting = threading.Thread(target=request.Wait, daemon=True)
        waiting.start()
        waiting.join(self.grace)
        if waiting.is_alive():
            self._end_all(error)
        return heads

    def _end_all(self, error: BaseException) -> None:
        traceback.print_exception(type(error), error, error.__traceback__)
        print(
            f"rank {self.rank} ends all: it has failed with the {type(error).__name__} above, and the others "
            f"did not come to their next step within {self.grace:g} s, the grace of average(…)",
            file=sys.stderr,
            flush=True,
        )
        # MPI's own end may hang, as another thread waits in it. A rank that is gone ends the others as well.
        last = threading.Timer(1.0, os._exit, [1])
        last.daemon = True
        last.start()
        self.comm.Abort(1)


def _report(error: BaseException, what: str) -> Report:
    try:
        kind = pickle.dumps(type(error))
    except Exception:  # a class within a function
        kind = b""
    return kind, str(error) or type(error).__name__, what


def _raised_by(rank: int, report: Report) -> BaseException:
    """Give another rank's error: of its class, if one with only a text can be made."""
    text = f"rank {rank}: {report[1]}"
    try:
        error = pickle.loads(report[0])(text)
    except Exception:
        error = None
    return error if isinstance(error, BaseException) else RuntimeError(text)


def _differ(column: Any) -> bool:
    return column.size > 0 and bool((column != column[0]).any())


def _ranks(comm: Any) -> _Ranks:
    """Give what belongs to a communicator as long as this lives."""
    if not hasattr(comm, "Allgather") or not comm or comm.Is_inter():
        raise TypeError(
            f"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got {described(comm)}"
        )
    ranks = comm.Get_attr(_attribute())
    if ranks is None:
        ranks = _Ranks(comm)
        comm.Set_attr(_attribute(), ranks)
    return ranks  # type: ignore[no-any-return]


@cache
def _attribute() -> Any:
    return _mpi().Comm.Create_keyval()


def _mpi() -> Any:
    from mpi4py import MPI  # which starts MPI, and so is left to those who have a communicator

    return MPI


# What is summed ----------------------------------------------------------------------------------------


class _Layout:
    """Where the gradients of some parameters stand, one behind another, in a buffer for each real dtype.

    Parameters
    ----------
    ps : list of Param
        The parameters.
    size : int
        The number of ranks. A buffer's length is a multiple of it.
    pool : _Pool
        Where buffers come from.
    """

    def __init__(self, ps: list[Param], size: int, pool: _Pool) -> None:
        self.ps, self.ids, self._size, self._pool = ps, list(map(id, ps)), size, pool
        self.description = [f"{p.value.shape} {p.value.dtype}" for p in ps]
        self.key = zlib.crc32(repr(self.description).encode())
        self.halves = [i for i, p in enumerate(ps) if p.value.dtype == np.float16]
        self._latest: tuple[Any, list[Any], dict[str, int]] = None, [], {}

    def places(self, reached: bytes) -> tuple[list[Any], list[Any]]:
        """Give an array for each gradient that is not None, and the buffers that they are parts of.

        Parameters
        ----------
        reached : bytes
            Which gradients are not None.

        Returns
        -------
        list of (ndarray or None), list of ndarray
            The arrays, and the buffers, 1-D.
        """
        if self._latest[0] != reached:
            self._latest = reached, *self._slots_for(reached)
        _, slots, lengths = self._latest
        buffers = {}
        for real, length in lengths.items():
            buffers[real] = self._pool.take(real, -(-length // self._size) * self._size)
            buffers[real][length:] = 0
        arrays = [
            None if slot is None else np.ndarray(slot[0], slot[1], buffers[slot[2]], slot[3])
            for slot in slots
        ]
        return arrays, list(buffers.values())

    def _slots_for(self, reached: bytes) -> tuple[list[Any], dict[str, int]]:
        """Give each gradient's shape, dtype, buffer and place there; and how long each buffer is."""
        lengths: dict[str, int] = {}
        slots: list[Any] = []
        for p, is_reached in zip(self.ps, reached, strict=True):
            x = p.value
            kind = np.result_type(x.dtype, np.float32)
            real = kind.char.lower()
            start = lengths.get(real, 0)
            slots.append((x.shape, kind, real, start * np.dtype(real).itemsize) if is_reached else None)
            if is_reached:
                lengths[real] = start + x.size * (2 if kind.kind == "c" else 1)
        return slots, lengths


def _fill(parts: list[Any], values: list[Any], factor: float) -> None:
    """Write gradients times a factor to their places. Without a weight they count for nothing, NaN too."""
    with np.errstate(all="ignore"):  # as in a sum of MPI's
        for part, g in zip(parts, values, strict=True):
            if part is not None and (g is None or factor == 0):
                part[...] = 0
            elif part is not None:
                np.multiply(g, factor, out=part, dtype=part.dtype)


class _Pool:
    """Memory for arrays, which is used again once no array refers to it.

    Memory that is new each time costs more than the sum does: the system hands it out page by page.

    Examples
    --------
    >>> pool = _Pool()
    >>> a = pool.take("d", 3)
    >>> address = a.ctypes.data
    >>> pool.take("d", 3).ctypes.data == address
    False
    >>> del a
    >>> pool.take("d", 3).ctypes.data == address
    True
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[Any, weakref.ref[Any]]] = []

    def take(self, dtype: str, n: int) -> Any:
        """Give an array of n elements, of any values."""
        size = n * np.dtype(dtype).itemsize
        free = [
            i for i, (memory, array) in enumerate(self._pieces) if array() is None and len(memory) == size
        ]
        memory = self._pieces.pop(free[0])[0] if free else _new_memory(size)
        # Its base is no array, and so it is itself the base of all its views, which keep it alive.
        array = np.frombuffer(memory.data, dtype) if n else np.empty(0, dtype)
        self._pieces = [*self._pieces[-KEPT + 1 :], (memory, weakref.ref(array))]
        return array


KEPT = 8
HUGE_PAGE = 1 << 21


def _new_memory(size: int) -> Any:
    """Give so many bytes: in huge pages if they fill one, as what ranks pass on costs by the page."""
    if sys.platform != "linux" or size < HUGE_PAGE:
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    start = -array.ctypes.data % HUGE_PAGE
    return array[start : start + size]


def _add_in_order(ranks: _Ranks, buffer: Any, pool: _Pool) -> None:
    """Sum a buffer over the ranks in their order: each rank a piece of it, which the others then get."""
    pieces = pool.take(buffer.dtype.char, len(buffer)).reshape(ranks.size, -1)
    ranks.comm.Alltoall(buffer, pieces)
    with np.errstate(all="ignore"):
        for piece in pieces[1:]:
            pieces[0] += piece
    ranks.comm.Allgather(pieces[0], buffer)
