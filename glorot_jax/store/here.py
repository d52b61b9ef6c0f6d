"""A results folder on a file system of this machine: where it is trained is where it is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glorot_jax import locks


class Here:
    """What ``glorot_jax.store.remote.Remote`` does for an object store, for a local folder: locks, and nothing else."""

    @contextlib.contextmanager
    def held(self, lock: Path, doing: str = "") -> Iterator[None]:
        """Holds a lock file; see ``glorot_jax.locks.held``."""
        with locks.held(lock, doing):
            yield

    def owner(self, lock: Path) -> str | None:
        """Returns who holds a lock file, in words; None if nobody does."""
        return locks.owner(lock)

    def push(self, *paths: Path) -> None:
        """Files that all processes write alike are there."""

    def publish(self, path: Path) -> None:
        """A file that only one process may write is there."""

    def claim(self, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """A shard whose lock is held is this process's: returns its manifest."""
        return manifest

    def fetch(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Records and checkpoint are there."""

    def commit(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """A commit is one as soon as its manifest is written."""


HERE = Here()
