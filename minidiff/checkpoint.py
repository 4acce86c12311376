"""Checkpoints: parameters, an optimiser and whatever else a run needs to go on, in one file.

A checkpoint is an ``.npz``, a zip of arrays, that ``np.load(path, allow_pickle=False)`` opens. One of them,
``manifest``, is JSON text in bytes and says what is what (see `minidiff.manifest`). Another, ``checksum``, is
the SHA-256 of all the rest. Nothing is pickled: to load a file is to run no code of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from minidiff.manifest import Array, Decoder, Encoder, contiguous
from minidiff.optimise.base import AbstractOptimiser
from minidiff.params import Param, Params

__all__ = ["load", "save"]

FORMAT = "minidiff checkpoint"
VERSION = 1

Path = str | os.PathLike[str]


def save(
    path: Path, ps: Params | Iterable[Param], opt: AbstractOptimiser | None = None, **extra: Any
) -> None:
    """Write parameters, an optimiser and more to one file, whole or not at all.

    The file is written beside `path`, synced to the disk and renamed: at any moment `path` holds the old
    checkpoint or the new one. What a symbolic link points to is replaced, not the link. A process that is
    killed in the middle leaves a hidden file ``.name.….tmp`` there, which is of no more use.

    Parameters
    ----------
    path : str or path-like
        Where to write. By custom it ends in ``.npz``; no ending is added.
    ps : Params
        The parameters. They are stored by their order.
    opt : AbstractOptimiser, optional
        Its hyperparameters, step counts and state, with those of its members. State of parameters that are
        not in `ps` is left out; functions and schedules are code, and left out as well.
    **extra : None, bool, number, str, bytes, array, numpy.random.Generator
        Anything else to be given back by `load`; also lists, tuples and dicts of these.

    Raises
    ------
    TypeError
        If `opt` or `extra` holds something that cannot be stored; the message says where.
    OSError
        If the file cannot be written: the disk is full, the place is not writable, is a directory or is
        not there. What was at `path` stays, and nothing else is left behind.

    See Also
    --------
    load

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
    file, ps = _file(path), Params(ps)
    _check_optimiser(opt)
    optimiser, more = Encoder("optimiser", ps), Encoder("extra")
    try:
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "parameters": len(ps),
            "optimiser": None if opt is None else optimiser.program(opt, "opt"),
            "extra": {name: more.data(value, name) for name, value in extra.items()},
        }
        text = json.dumps(manifest, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("opt or extra is nested too deeply, or holds itself: it cannot be stored") from None
    arrays = {f"parameters/{i}": contiguous(p.value) for i, p in enumerate(ps)}
    arrays |= optimiser.arrays | more.arrays
    arrays["manifest"] = np.frombuffer(text, np.uint8)
    arrays["checksum"] = _checksum(arrays)
    _write(file, arrays)


def load(path: Path, ps: Params | Iterable[Param], opt: AbstractOptimiser | None = None) -> dict[str, Any]:
    """Read what `save` wrote back into the same parameters and optimiser.

    Everything is checked before anything is changed. Parameters are changed in place.

    Parameters
    ----------
    path : str or path-like
        The checkpoint.
    ps : Params
        Parameters of the same number, order, shapes and dtypes as those saved.
    opt : AbstractOptimiser, optional
        An optimiser made in the same way as the one saved: the same types in the same places. It takes on
        all that the one saved knew, hyperparameters included, about the parameters `ps`.

    Returns
    -------
    dict
        The `extra` that was saved. A generator comes back as a new generator in the same state:
        ``rng.bit_generator.state = extra["rng"].bit_generator.state`` puts your own there.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, no checkpoint, of a later version, or does not fit `ps` or `opt`; nothing
        has changed then.

    See Also
    --------
    save

    Examples
    --------
    A run that goes on where its last checkpoint was written, wherever it was stopped::

        epoch = load(path, ps, opt)["epoch"] if os.path.exists(path) else 0
        while epoch < 100:
            train(loss, ps, loader, opt)
            epoch += 1
            save(path, ps, opt, epoch=epoch, loader=loader.state)
    """
    file, ps = _file(path), Params(ps)
    _check_optimiser(opt)
    manifest, arrays = _read(file)
    values = _parameters(file, manifest["parameters"], arrays, ps)
    decoder = Decoder(file, arrays, ps)
    if opt is not None:
        if manifest["optimiser"] is None:
            raise ValueError(f"{file} holds no optimiser: it was saved without one")
        decoder.restore(manifest["optimiser"], opt, "opt")
    extra = {name: decoder.data(node) for name, node in manifest["extra"].items()}

    live = [p.in_place("load(…)") for p in ps]
    for i, a in enumerate(live):
        if not a.flags.writeable:
            raise ValueError(f"parameter {i} is a read-only array: {file} cannot be loaded into it")
    for a, value in zip(live, values, strict=True):
        a[...] = value
    decoder.commit()
    return extra


def _file(path: Path) -> str:
    if isinstance(path, (Params, Param)):
        raise TypeError("the path comes first: save(path, ps, opt), load(path, ps, opt)")
    return os.fsdecode(path)


def _check_optimiser(opt: object) -> None:
    if not (opt is None or isinstance(opt, AbstractOptimiser)):
        raise TypeError(
            f"opt must be an optimiser, got {opt!r}; other things have names: save(path, ps, x=x)"
        )


def _parameters(file: str, number: int, arrays: dict[str, Array], ps: Params) -> list[Array]:
    """Give the stored values of the parameters, if they fit."""
    if number != len(ps):
        raise ValueError(f"{file} holds {number} parameters, but ps has {len(ps)}")
    values = [arrays[f"parameters/{i}"] for i in range(number)]
    for i, (p, a) in enumerate(zip(ps, values, strict=True)):
        if (a.shape, a.dtype) != (p.value.shape, p.value.dtype):
            raise ValueError(
                f"parameter {i} has shape {a.shape} and dtype {a.dtype} in {file}, "
                f"but shape {p.value.shape} and dtype {p.value.dtype} in ps"
            )
    return values


# The file -----------------------------------------------------------------------------------------


def _checksum(arrays: dict[str, Array]) -> Array:
    """Hash names, dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for name, a in sorted(arrays.items()):
        rows = a if a.flags.c_contiguous else a.T
        descr = np.lib.format.dtype_to_descr(a.dtype)
        digest.update(repr((name, descr, a.shape, rows is a)).encode())
        if a.nbytes:
            digest.update(rows.reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _write(path: str, arrays: dict[str, Any]) -> None:
    """Write an .npz in one move: to a temporary file, to the disk, to its name."""
    target = os.path.realpath(path)
    directory, name = os.path.split(target)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "cannot save to a directory, name a file in it", path)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "cannot save to a directory that does not exist", path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise FileExistsError(
            errno.EEXIST, "cannot save in place of something that is not a regular file", path
        )
    temporary = os.path.join(directory, f".{name[:32]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _zip(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"cannot save ({reason}); what was there before is unchanged", path
        ) from error
    _sync_directory(directory)


def _sync_directory(directory: str) -> None:
    """Make a rename outlast a power cut, where the system lets directories be opened."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a checkpoint and give its manifest and its arrays, if they are as they were written."""
    with open(path, "rb") as file:
        try:
            arrays = _unzip(file)
        # A damaged zip can make its readers raise nearly anything.
        except Exception as error:
            raise ValueError(
                f"{path} is damaged or no checkpoint: {str(error) or type(error).__name__}"
            ) from error
    if "manifest" not in arrays or "checksum" not in arrays:
        raise ValueError(f"{path} is no checkpoint: it holds no manifest, or no checksum")
    checksum = arrays.pop("checksum")
    sound = np.array_equal(checksum, _checksum(arrays))
    manifest = _parse(arrays.pop("manifest"))
    if manifest is None:
        raise ValueError(f"{path} is damaged or no checkpoint: its manifest cannot be read")
    if manifest["version"] > VERSION:
        raise ValueError(
            f"{path} is of format {manifest['version']}, this minidiff reads up to {VERSION}: upgrade it"
        )
    if not sound:
        raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    return manifest, arrays


def _zip(file: BinaryIO, arrays: dict[str, Array]) -> None:
    """Do as np.savez, which in NumPy 2.0 leaves its archive open where writing fails."""
    from zipfile import ZipFile  # here, as the import takes longer than minidiff's own

    with ZipFile(file, "w") as archive:
        for name, a in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, a, allow_pickle=False)


def _unzip(file: BinaryIO) -> dict[str, Array]:
    from zipfile import ZipFile

    arrays = {}
    with ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(entry, allow_pickle=False)
    return arrays


def _parse(text: Array) -> dict[str, Any] | None:
    try:
        manifest = json.loads(text.tobytes())
        known = manifest["format"] == FORMAT and isinstance(manifest["version"], int)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return manifest if known else None
