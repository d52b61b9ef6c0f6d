"""Writing so that nothing is ever half-written: temporary name, flush to disk, rename, flush the folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from glorot_jax.errors import ResumableError

TEMPORARY = ".tmp-"


def write(path: Path, content: bytes | memoryview | Callable[[Path], None]) -> None:
    """Writes a file whole or not at all, and on disk when this returns.

    Args:
        content: the bytes, or a function that writes them to the path it is given.

    Raises:
        ResumableError: no space is left on the disk.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    with full_disk(path):
        try:
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content)
            flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush(path.parent)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file whole or not at all; NaN is refused."""
    write(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode())


def append_json_line(path: Path, value: object) -> None:
    """Appends one JSON object as one line, in one go; a line that somebody died in the middle of stays by itself."""
    line = (json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n").encode()
    with full_disk(path), path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        while line:  # what fits is written without an error
            line = line[file.write(line) :]


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turns a full disk into one clear line; everything committed before stays whole."""
    try:
        yield
    except Exception as error:
        if _no_space(error):
            raise ResumableError(
                f"{path.name}: no space left on the disk; make room and run the same command"
            ) from error
        raise


def _no_space(error: Exception) -> bool:
    """Whether an error says that the disk or the quota is full; Orbax's says so in its text alone."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(os.strerror(code) in str(error) for code in full)


def flush(path: Path) -> None:
    """Returns when a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refresh(folder: Path) -> None:
    """Returns when what others have put into a folder is seen here.

    A network file system may remember for half a minute that a file was not there; writing into its folder makes it
    look anew.
    """
    with full_disk(folder):
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex[:8]}"
        temporary.touch()
        temporary.unlink()


def cache_folder(kind: str) -> Path:
    """Returns where things of a kind are kept that can be made again: below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glorot_jax" / kind
