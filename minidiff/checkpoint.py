"""Checkpoints: parameters, an optimiser and whatever else a run needs to go on, in one file.

A checkpoint is an ``.npz``, a zip of arrays, that ``np.load(path, allow_pickle=False)`` opens. The first of
them, ``manifest``, is JSON text in bytes and says what is what (see `minidiff.manifest`). The last,
``checksum``, is the SHA-256 of all before it. Nothing is pickled: to load a file is to run no code of it.
Nothing is compressed, and a file that is laid out otherwise than `save` does it is refused unread.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn, TypeGuard

import numpy as np

from minidiff.checks import described, flag, instance, warn
from minidiff.files import write
from minidiff.interrupts import failures, whole
from minidiff.manifest import Decoder, Encoder, MisfitError
from minidiff.optimise.base import AbstractOptimiser
from minidiff.params import Param, Params, assign
from minidiff.typing import Array

__all__ = ["load", "save"]

FORMAT = "minidiff checkpoint"
VERSION = 2  # 1 had parameters by their places, and the manifest behind them

Path = str | os.PathLike[str] | BinaryIO


def save(
    path: Path,
    ps: Params | Iterable[Param],
    opt: AbstractOptimiser | None = None,
    *others: NoReturn,
    **extra: Any,
) -> None:
    """Write parameters, an optimiser and more to one file, whole or not at all.

    The file is written beside `path`, synced to the disk and renamed: at any moment `path` holds the old
    checkpoint or the new one. The mode of a file that is replaced stays; what a symbolic link points to is
    replaced, not the link. A process that is killed in the middle leaves a hidden file ``.name.….tmp``
    there, which is of no more use.

    Parameters
    ----------
    path : str, path-like or binary file
        Where to write. By custom it ends in ``.npz``; no ending is added. The contents of a file object,
        such as an ``io.BytesIO`` for a snapshot in memory, are replaced.
    ps : Params
        The parameters. They are stored under their names, `Params.names`.
    opt : AbstractOptimiser, optional
        Its hyperparameters, step counts and state, with those of its members and of what else it holds.
        State of parameters that are not in `ps` is left out. Functions, classes and schedules are code, and
        left out as well; a function that remembers something from call to call is refused.
    **extra : None, bool, number, str, bytes, array, and more
        Anything else to be given back by `load`: also dates and times, generators (NumPy's and Python's
        own), and lists, tuples, dicts, sets, deques and the dicts of `collections` of these. Of a generator
        all is stored but what it would spawn.

    Raises
    ------
    TypeError
        If `opt` or `extra` holds something that cannot be stored; the message says where.
    OSError
        If the file cannot be written: the disk is full, the place is not writable, is a directory or is
        not there. What was at `path` stays, and nothing else is left behind.

    Warns
    -----
    UserWarning
        If several parameters have the same name, as those of two models that were collected apart.

    See Also
    --------
    load

    Notes
    -----
    Nothing of a model is stored but the parameters in `ps`. Frozen ones are left out where `ps` leaves them
    out: save ``params(model)``, whatever `opt` trains. Plain arrays, such as running means, are an `extra`::

        save(path, params(model), opt, mean=model.mean)
        model.mean[...] = load(path, params(model), opt)["mean"]

    Another thread may train meanwhile. The file can then be loaded as any other, but each array is as it
    stood when its turn came: for a run that is to go on from there, save between two steps.

    Examples
    --------
    >>> import tempfile, os
    >>> from minidiff import param, params
    >>> W = param([1.0, 2.0])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> save(path, params(W), epoch=3)
    >>> W[...] = 0
    >>> load(path, params(W))
    {'epoch': 3}
    >>> W.value
    array([1., 2.])
    >>> with np.load(path, allow_pickle=False) as file:
    ...     sorted(file)
    ['checksum', 'manifest', 'parameters/0']
    """
    _check_arguments(path, opt)
    if others:
        raise TypeError("save(path, ps, opt): all else comes by its name, save(path, ps, opt, epoch=1)")
    ps = Params(ps)
    members = {name: _member(i, name) for i, name in enumerate(ps.names)}
    if twice := [name for name in members if f"{name}'" in members]:
        warn(f"save(path, ps): {_SAME_NAMES.format(', '.join(twice[:6]))}")
    optimiser, more = Encoder("optimiser", ps), Encoder("extra")
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    try:
        manifest["optimiser"] = None if opt is None else optimiser.optimiser(opt)
        manifest["extra"] = {name: more.data(value, name) for name, value in extra.items()}
        manifest["parameters"] = members
        manifest["arrays"] = [*members.values(), *optimiser.arrays, *more.arrays]
        text = json.dumps(manifest, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("opt or extra is nested too deeply, or holds itself: it cannot be stored") from None
    arrays = {"manifest": np.frombuffer(text, np.uint8)}
    arrays |= zip(members.values(), (p.value for p in ps), strict=True)
    pieces = _pieces(arrays | optimiser.arrays | more.arrays)
    if _is_path(path):
        write(os.fsdecode(path), pieces)
    else:
        whole(_replace, path, b"".join(pieces))


def load(
    path: Path,
    ps: Params | Iterable[Param],
    opt: AbstractOptimiser | None = None,
    *,
    partial: bool = False,
    settings: Literal["file", "code"] = "file",
) -> Any:
    """Read what `save` wrote back into the same parameters and optimiser.

    Everything is checked before anything is changed. Parameters are changed in place.

    Parameters
    ----------
    path : str, path-like or binary file
        The checkpoint. A file object is read from its beginning.
    ps : Params
        Parameters of the same names, shapes and dtypes as those saved, in any order.
    opt : AbstractOptimiser, optional
        An optimiser made in the same way as the one saved: the same types in the same places. It takes on
        all that the one saved knew about the parameters `ps`. Functions and schedules stay its own, which
        may be others than before.
    partial : bool
        Whether to take what fits, where not all does: parameters of the same name, shape and dtype, with
        their state. The others stay as they are.
    settings : {"file", "code"}
        Which hyperparameters the rules in `opt` have afterwards, those saved or those they were made with:
        ``load(path, ps, ADAM(1e-5), settings="code")`` goes on at a rate of 1e-5.

    Returns
    -------
    extra : dict
        The `extra` that was saved. A generator comes back as a new generator in the same state:
        ``rng.bit_generator.state = extra["rng"].bit_generator.state`` puts your own there.
    rest : dict
        Only if `partial`: what did not fit, by name; the array that was saved, or None where there is none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, no checkpoint, of a later version, or does not fit `ps` or `opt`; nothing
        has changed then.

    Warns
    -----
    UserWarning
        If `partial` finds no parameter that fits.

    See Also
    --------
    save

    Examples
    --------
    A snapshot in memory, to go back to:

    >>> import io
    >>> from minidiff import gradient, param, params
    >>> from minidiff.optimise import ADAM, update
    >>> a, opt, snapshot = param(1.0), ADAM(0.5), io.BytesIO()
    >>> save(snapshot, params(a), opt)
    >>> update(opt, a, 1.0)
    >>> load(snapshot, params(a), opt)
    {}
    >>> a, len(opt.state)
    (param(1.), 0)

    A run that goes on where its last checkpoint was written, wherever it was stopped::

        epoch = load(path, ps, opt)["epoch"] if os.path.exists(path) else 0
        while epoch < 100:
            train(loss, ps, loader, opt)
            epoch += 1
            save(path, ps, opt, epoch=epoch, loader=loader.state)
    """
    _check_arguments(path, opt)
    ps = Params(ps)
    flag("partial", partial)
    if settings not in ("file", "code"):
        raise ValueError(f"settings must be 'file' or 'code', got {described(settings)}")
    live = [p.in_place("load(…)") for p in ps]
    with _file(path) as file, _naming(path):
        manifest, members = _read(file)
        names = ps.names if manifest["version"] > 1 else tuple(map(str, range(len(ps))))
        outlines = {name: members[member] for name, member in manifest["parameters"].items()}
        here = dict(zip(names, live, strict=True))
        misfits = _misfits(outlines, here)
        mine = {name: p for name, p in zip(names, ps, strict=True) if name not in misfits}
        twice = [name for name in outlines if (f"{name}'" in outlines) != (f"{name}'" in here)]
        if misfits and (twice or not partial):  # known before any array is read
            rest = ": load(…, partial=True) takes those that fit" if mine else ""
            if twice:
                rest = f". {_SAME_NAMES.format(', '.join(twice[:6]))}"
            raise MisfitError(next(iter(misfits.values())) + rest)
        arrays = _contents(file, manifest["version"], members)
        stored = {name: arrays[member] for name, member in manifest["parameters"].items()}
        wanted = {name: mine.get(name) for name in stored}
        decoder = Decoder(_within("optimiser", arrays), wanted, settings)
        if opt is not None:
            if manifest["optimiser"] is None:
                raise MisfitError("holds no optimiser: it was saved without one")
            decoder.restore(manifest["optimiser"], opt, "opt")
        more = Decoder(_within("extra", arrays), {})
        extra = {name: more.data(node) for name, node in manifest["extra"].items()}

    if misfits and not mine:
        warn(f"load(…, partial=True): nothing taken, {_name(path)} {next(iter(misfits.values()))}")

    def commit() -> None:
        assign(ps & mine.values(), [stored[name] for name in mine], f"load(…), {_name(path)}")
        decoder.commit()

    whole(commit)
    return (extra, {name: stored.get(name) for name in misfits}) if partial else extra


_SAME_NAMES = (
    "Several parameters are called {}: only their order tells which is which. Give the models names, "
    "params({{'actor': actor, 'critic': critic}})"
)


def _check_arguments(path: Any, opt: object) -> None:
    if isinstance(path, (Params, Param)):
        raise TypeError("the path comes first: save(path, ps, opt), load(path, ps, opt)")
    if not _is_path(path) and (isinstance(path, io.TextIOBase) or not hasattr(path, "seek")):
        raise TypeError(f"path must be a path or a binary file, got {described(path)}")
    if opt is not None:
        advice = "; other things have names: save(path, ps, x=x)"
        if isinstance(opt, (tuple, list, dict)):
            advice = "; several are one as Grouped((ps1, opt1), (ps2, opt2)), or have a file each"
        instance("opt", opt, AbstractOptimiser, "an optimiser", advice)


def _is_path(path: Any) -> TypeGuard[str | bytes | os.PathLike[Any]]:
    return isinstance(path, (str, bytes, os.PathLike))


def _name(path: Any) -> str:
    """Name a file for messages."""
    return os.fsdecode(path) if _is_path(path) else f"the {type(path).__name__}"


@contextmanager
def _naming(path: Any) -> Iterator[None]:
    """Name the file in the errors of its readers, which a damaged one can make raise nearly anything."""
    try:
        yield
    except MisfitError as error:
        raise ValueError(f"{_name(path)} {error}") from error.__cause__
    except (OSError, MemoryError):
        raise
    except failures() as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{_name(path)} is damaged or no checkpoint: {reason:.200}") from error


def _misfits(stored: dict[str, Outline], live: dict[str, Array]) -> dict[str, str]:
    """Say of each parameter that is not the same in the file and in the program what is wrong with it."""
    alone = [name for name in {**stored, **live} if (name in stored) != (name in live)]
    why = f"holds {len(stored)} parameters, but ps has {len(live)}; not in both are {', '.join(alone[:6])}"
    if stored and live and stored.keys().isdisjoint(live):
        theirs, ours = ", ".join([*stored][:6]), ", ".join([*live][:6])
        why = f"names its parameters {theirs}, and ps {ours}: name both alike: params({{'W': W, 'b': b}})"
    misfits = dict.fromkeys(alone, why)
    for name in filter(live.__contains__, stored):
        a, x = stored[name], live[name]
        if (a.shape, a.dtype) != (x.shape, x.dtype):
            misfits[name] = (
                f"does not fit: parameter {name} has shape {a.shape} and dtype {a.dtype} in it, "
                f"but shape {x.shape} and dtype {x.dtype} in ps"
            )
    return misfits


def _within(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


# Writing ------------------------------------------------------------------------------------------


def _member(i: int, name: str) -> str:
    """Give the i-th parameter's name in the file: its own, unless a zip might not give that back."""
    plain = name.isprintable() and len(name) < 200 and "\\" not in name and not name.startswith("#")
    return f"parameters/{name if plain else f'#{i}'}"


def _pieces(arrays: dict[str, Array]) -> Iterator[Any]:
    """Give the bytes of an .npz, piece by piece: arrays, their checksum, the directory.

    What goes into the file is one copy of each array, which is also what goes into the checksum: an array
    that another thread changes meanwhile makes no difference between them.
    """
    digest, at, directory = hashlib.sha256(), 0, []
    for name in [*arrays, "checksum"]:
        content = io.BytesIO()
        a = arrays[name] if name in arrays else np.frombuffer(digest.digest(), np.uint8)
        np.lib.format.write_array(content, np.asarray(a), allow_pickle=False)
        data = content.getbuffer()
        digest.update(name.encode())
        digest.update(data)
        header, entry = _headers(name, len(data), zlib.crc32(data), at)
        directory.append(entry)
        at += len(header) + len(data)
        yield header
        yield data
    yield _directory(directory, at)


FULL = 0xFFFFFFFF  # stands for a number that has a place of 64 bits


def _headers(name: str, size: int, crc: int, at: int) -> tuple[bytes, bytes]:
    """Give what stands before a member of a zip, and its entry in the directory: sizes take 64 bits in both.

    zipfile writes the same; but an interrupt there comes out as a ValueError of its own.
    """
    file, flags = f"{name}.npy".encode(), 0 if name.isascii() else 0x800
    # The version that can read it, flags, not compressed, midnight of the first day there is.
    known = struct.pack("<5H3IH", 45, flags, 0, 0, 33, crc, FULL, FULL, len(file))
    header = b"PK\3\4" + known + struct.pack("<H", 20) + file + struct.pack("<2H2Q", 1, 16, size, size)
    entry = b"PK\1\2\x2d\3" + known + struct.pack("<4H2I", 28, 0, 0, 0, 0o600 << 16, FULL)
    return header, entry + file + struct.pack("<2H3Q", 1, 24, size, size, at)


def _directory(entries: list[bytes], at: int) -> bytes:
    """Give the end of a zip: all entries, and where they are, for 64 bits and for old readers."""
    n, size = len(entries), sum(map(len, entries))
    where = struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, n, n, size, at)
    end = struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, FULL, FULL, 0)
    locator = struct.pack("<IQI", 0, at + size, 1)
    return b"".join([*entries, b"PK\6\6", where, b"PK\6\7", locator, b"PK\5\6", end])


def _replace(file: BinaryIO, contents: bytes) -> None:
    if "a" in str(getattr(file, "mode", "")):
        raise ValueError(
            f"path must be a file that can be written over, but {_name(file)} appends: open it with w+b"
        )
    file.seek(0)
    left = memoryview(contents)
    while left:  # without a buffer fewer bytes may be written
        if (n := file.write(left)) == 0:
            raise OSError(
                f"{_name(file)} takes no more bytes: {len(left)} of {len(contents)} are not written"
            )
        left = left[len(left) if n is None else n :]
    with suppress(io.UnsupportedOperation):  # a compressed file, which begins empty
        file.truncate()


# Reading ------------------------------------------------------------------------------------------

MANY = 2**16  # more arrays than this are read only where a manifest before them names them
DAMAGED = "is damaged: its contents do not match its checksum"


def _file(path: Any) -> BinaryIO:
    if _is_path(path):
        return open(path, "rb")
    path.seek(0)
    return io.BytesIO(path.read())


class Outline(NamedTuple):
    """What is known of an array in the file before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    header: bytes
    begin: int
    crc: int


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Outline]]:
    """Read a checkpoint's manifest, and the outlines of its arrays."""
    places, is_whole = _members(file)
    members = {name: _outline(file, *place) for name, place in places.items()}
    if not {"manifest", "checksum"} <= members.keys():
        raise MisfitError("is no checkpoint: it holds no manifest, or no checksum")
    _compare(file, members["manifest"])
    manifest = _parse(_array(file, members["manifest"]))
    version, parameters = manifest["version"], manifest["parameters"]
    if version > VERSION:
        raise MisfitError(f"is of format {version}, this minidiff reads up to {VERSION}: upgrade it")
    names = [name for name in members if name not in ("manifest", "checksum")]
    if version == 1:
        manifest["parameters"] = {str(i): f"parameters/{i}" for i in range(min(parameters, len(names) + 1))}
    elif not is_whole or manifest["arrays"] != names or names[: len(parameters)] != [*parameters.values()]:
        raise MisfitError(DAMAGED)
    return manifest, members


def _contents(file: BinaryIO, version: int, members: dict[str, Outline]) -> dict[str, Array]:
    """Read all arrays, if they are as they were written."""
    # Before there is memory for any: that is quick, and finds all but malice.
    for name, outline in members.items():
        if name != "manifest":  # which `_read` has compared
            _compare(file, outline)
    arrays, digest, expected = {}, hashlib.sha256(), b""
    for name, outline in members.items():
        expected = digest.digest()
        arrays[name] = a = _array(file, outline)
        for piece in (name.encode(), outline.header, _bytes_of(a)):
            digest.update(piece)
    if version > 1 and arrays["checksum"].tobytes() != expected:
        raise MisfitError(DAMAGED)
    return arrays


def _members(file: BinaryIO) -> tuple[dict[str, tuple[int, int, int]], bool]:
    """Find the members of a zip: for each where it begins, its size and its CRC-32.

    They follow each other without a gap. What is laid out otherwise, compressed for example, is refused; also
    returned is whether the directory at the end is the right one.
    """
    end, at = file.seek(0, os.SEEK_END), file.seek(0)
    members: dict[str, tuple[int, int, int]] = {}
    entries: list[bytes] = []
    while (start := file.read(30)).startswith(b"PK\3\4"):
        (crc,), lengths = struct.unpack_from("<I", start, 14), struct.unpack_from("<2H", start, 26)
        rest = file.read(sum(lengths))
        name = rest[: lengths[0]].decode().removesuffix(".npy")
        size = int.from_bytes(rest[lengths[0] + 4 : lengths[0] + 12], "little")
        header, entry = _headers(name, size, crc, at)
        begin = at + len(header)
        # A manifest that comes first names all that follow: they are fewer than its bytes.
        too_many = len(members) > (members["manifest"][1] if "manifest" in members else MANY)
        as_before = b""  # zipfile of Python 3.10, which wrote the first version: sizes in 32 bits as well
        if size < FULL:
            sizes = struct.pack("<2I", size, size)
            as_before = header[:4] + b"\x14\0" + header[6:18] + sizes + header[26:]
        fits = start + rest in (header, as_before) and begin + size <= end
        if not fits or name in members or too_many:
            raise MisfitError("is damaged or no checkpoint: it is not laid out as save does it")
        members[name] = begin, size, crc
        entries.append(entry)
        at = file.seek(begin + size)
    if not members:
        raise MisfitError("is damaged or no checkpoint: it holds nothing")
    tail = _directory(entries, at)
    file.seek(at)
    return members, file.read(len(tail) + 1) == tail


def _outline(file: BinaryIO, begin: int, size: int, crc: int) -> Outline:
    """Read what stands before an array in a member of an .npz, and compare its sizes."""
    file.seek(begin)
    start = file.read(8)
    start += file.read(2 if start[6] == 1 else 4)
    text = file.read(min(int.from_bytes(start[8:], "little"), size))
    header = ast.literal_eval(text.decode("utf8" if start[6] == 3 else "latin1"))
    dtype, shape = np.lib.format.descr_to_dtype(header["descr"]), header["shape"]
    length = size - len(start) - len(text)
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != length:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} does not take {length} bytes")
    order: Literal["C", "F"] = "F" if header["fortran_order"] else "C"
    return Outline(shape, dtype, order, start + text, begin + len(start) + len(text), crc)


def _compare(file: BinaryIO, outline: Outline) -> None:
    """Compare an array with its CRC-32, piece by piece."""
    file.seek(outline.begin)
    left, found = math.prod(outline.shape) * outline.dtype.itemsize, zlib.crc32(outline.header)
    while left:
        piece = file.read(min(left, 2**18))
        if not piece:
            raise EOFError
        found = zlib.crc32(piece, found)
        left -= len(piece)
    if found != outline.crc:
        raise MisfitError(DAMAGED)


def _array(file: BinaryIO, outline: Outline) -> Array:
    a = np.empty(outline.shape, outline.dtype, outline.order)
    file.seek(outline.begin)
    if file.readinto(_bytes_of(a)) != a.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return a


def _bytes_of(a: Array) -> Any:
    """Return the bytes of a contiguous array, as a view."""
    flat = (a if a.flags.c_contiguous else a.T).reshape(-1)
    return flat.view(np.uint8) if a.nbytes else np.empty(0, np.uint8)


def _parse(text: Array) -> dict[str, Any]:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        manifest: dict[str, Any] = json.loads(text.tobytes())
        if manifest["format"] == FORMAT and type(manifest["version"]) is int and manifest["version"] > 0:
            return manifest
    raise MisfitError("is damaged or no checkpoint: its manifest cannot be read")
