"""Who is at work where: a lock file that its owner's end frees, however it ends, and that names the owner.

A lock is ``flock``'s, held for as long as a process has the file open. Between machines it holds where the file system
carries such locks to its server: NFS does (by lockd in version 3, by itself in 4) unless it is mounted with ``nolock``
or ``local_lock=flock``; there a machine that is lost frees its locks once the server has given it up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from glorot_jax.errors import InputError
from glorot_jax.files import full_disk, refresh

PATIENCE = 0.5
"""Seconds that a lock is tried for: somebody who only looks whether it is free holds it for a moment, too."""
_PAUSE = 0.02
NOBODY = "another process"
"""An owner whose name is not known."""


def me() -> str:
    """Returns the name of this process among all machines'."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class Taken(Exception):
    """Somebody else holds the lock.

    Attributes:
        owner: who, in words; ``NOBODY`` where that is not known.
    """

    def __init__(self, owner: str):
        super().__init__(owner)
        self.owner = owner


@contextlib.contextmanager
def held(path: Path, doing: str = "", patience: float = PATIENCE) -> Iterator[None]:
    """Holds a lock, whose file is made if it is missing, and sees from then on what its last owner left beside it.

    Args:
        doing: what its owner does there, in words that follow its name.
        patience: seconds until it is given up.

    Raises:
        Taken: somebody else holds it.
        InputError: the file system has no locks.
        ResumableError: the disk is full.
    """
    with _taken(path, time.monotonic() + patience) as file:
        with contextlib.suppress(OSError):  # a full disk: nobody learns the name
            file.truncate(0)
            file.write(f"{me()}{doing and f' ({doing})'}".encode())
        try:
            refresh(path.parent)
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


def _taken(path: Path, end: float) -> IO[bytes]:
    """The lock file, open and locked; while it was waited for, another may have come into its place."""
    while True:
        with full_disk(path):
            file = path.open("ab+", buffering=0)
        try:
            while not _locks(file, path):
                if time.monotonic() >= end:
                    raise Taken(_named(file) or NOBODY)
                time.sleep(_PAUSE)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _locks(file: IO[bytes], path: Path) -> bool:
    try:
        return attempt(file, fcntl.LOCK_EX)
    except OSError as error:
        line = f"{path.parent}: its file system can't lock files ({error.strerror})"
        raise InputError(line, "mount it with locks, or choose a folder on another") from None


def owner(path: Path) -> str | None:
    """Returns who holds a lock, in words; None if nobody does, or nobody can tell."""
    try:
        with path.open("rb", buffering=0) as file:
            free = attempt(file, fcntl.LOCK_SH)
            return None if free else _named(file) or NOBODY
    except OSError:
        return None


def here(owner: str) -> bool:
    """Returns whether an owner is a process of this machine, so that its lock ends with it at once."""
    return f"{owner} ".partition(" on ")[2].startswith(f"{socket.gethostname()} ")


def attempt(file: IO[bytes], kind: int = fcntl.LOCK_EX) -> bool:
    """Returns whether an open file is locked now, which it stays as long as it is open; False if somebody else has it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _named(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()
