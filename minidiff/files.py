"""A file is written whole or not at all; the folder that keeps programs for later."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from minidiff.interrupts import is_signals, whole

__all__ = ["cached", "write"]


def write(path: str, pieces: Iterable[Any]) -> None:
    """Write a file in one move: to a temporary file, to the disk, to its name.

    Parameters
    ----------
    path : str
        Where to.
    pieces : iterable of bytes
        What it holds.

    Raises
    ------
    OSError
        If it cannot be written. What was there before is unchanged.
    """
    target = os.path.realpath(path)
    directory, name = os.path.split(target)
    if os.path.isdir(target) or os.path.basename(path) in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, "cannot save to a directory, name a file in it", path)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "cannot save to a directory that does not exist", path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise FileExistsError(
            errno.EEXIST, "cannot save in place of something that is not a regular file", path
        )
    temporary = os.path.join(directory, f".{name[:32]}.{secrets.token_hex(8)}.tmp")

    def put_in_place() -> None:
        os.replace(temporary, target)
        _sync_directory(directory)

    try:
        with open(temporary, "xb") as file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, os.stat(target).st_mode & 0o7777)
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        whole(put_in_place)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError) or is_signals(error):
            raise
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"cannot save ({reason}); what was there before is unchanged", path
        ) from error


def _sync_directory(directory: str) -> None:
    """Make a rename outlast a power cut, where the system lets directories be opened."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cached(source: str) -> str | None:
    """Put the source of a program into a file of its own, for later processes.

    It lies in ``minidiff`` under ``$XDG_CACHE_HOME``, if that is absolute, else under ``~/.cache``.
    Whoever can write there could have any code run. So the folder must be ours alone, and no link.

    Parameters
    ----------
    source : str
        The source.

    Returns
    -------
    str or None
        The file's absolute path. None if the folder is not ours alone, or cannot be written to.
    """
    wished = os.environ.get("XDG_CACHE_HOME", "")
    base = wished if os.path.isabs(wished) else os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):  # there is no home
        return None
    folder = os.path.join(base, "minidiff")
    path = os.path.join(folder, f"formula_{hashlib.sha256(source.encode()).hexdigest()[:24]}.py")
    try:
        if not all(map(_is_private, (folder, os.path.join(folder, "__pycache__")))):  # which Python writes to
            return None
        if not os.path.exists(path):
            write(path, [source.encode()])
    except OSError:
        return None
    return path


def _is_private(folder: str) -> bool:
    """Make a folder if there is none, and tell whether it is ours, no link, and writable by nobody else."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    is_ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return is_ours and stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
