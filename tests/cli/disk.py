"""A real file system of a few kilobytes, to be filled."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(where: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mounts a file system of ``size`` at ``where`` and yields a function that gives it another size.

    The test is skipped where this process may not mount.
    """
    where.mkdir()
    made = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", where)
    if made.returncode:
        pytest.skip(f"a small disk can't be mounted here: {made.stderr.strip()}")

    def resize(size: str) -> None:
        assert _mount("-o", f"remount,size={size}", where).returncode == 0

    try:
        yield resize
    finally:
        # Lazily: a writer that failed may hold its file until it is collected.
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def _mount(*arguments: object) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess([], 1, stderr=str(error))
