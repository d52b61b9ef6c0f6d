"""A results folder on a file system of this machine: where it is trained is where it is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glorot_jax import locks

LOST = 120.0
"""Seconds in which a file server frees the locks of a machine that is lost: NFS gives it up after 90."""


class Here:
    """A results folder as the engine has to do with it beyond its files.

    Of a local folder these are its locks, and nothing else; ``glorot_jax.store.remote`` has that of an object store.

    Attributes:
        folder: the files, on this machine.
        outlives: seconds for which the lock of another machine may be held though that is lost.
    """

    outlives = LOST

    def __init__(self, folder: Path):
        self.folder = folder

    @contextlib.contextmanager
    def held(self, lock: Path, doing: str = "") -> Iterator[None]:
        """Holds a lock against all other processes.

        Args:
            lock: its file.
            doing: what its owner does, in words that follow its name.

        Raises:
            locks.Taken: somebody else holds it.
        """
        with locks.held(lock, doing):
            yield

    def owner(self, lock: Path) -> str | None:
        """Returns who holds a lock, in words; None if nobody does."""
        return locks.owner(lock)

    def locks(self, pattern: str) -> list[Path]:
        """Returns the locks that a pattern of paths in the folder names; whether they are held, ``owner`` says."""
        return sorted(self.folder.glob(pattern))

    def push(self, *names: str) -> None:
        """Makes files durable that all processes write alike, those that are there."""

    def publish(self, path: Path) -> None:
        """Makes a file durable that only who holds a lock may write.

        Raises:
            ResumableError: somebody else did meanwhile.
        """

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        path.unlink(missing_ok=True)

    def claim(self, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Makes sure that nobody who had a shard before commits to it any more; returns its manifest.

        Raises:
            ResumableError: its owner of before did in this moment.
        """
        return manifest

    def fetch(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Brings a manifest's records and checkpoint into the shard's folder, those that are there and whole."""

    def commit(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Makes durable what was committed in a shard's folder: the manifest lies there, and the files that it names.

        Raises:
            InputError: another process took the shard over.
            ResumableError: it can't be made durable.
        """
