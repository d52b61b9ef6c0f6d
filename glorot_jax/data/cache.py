"""Decoded examples as plain arrays that are mapped into memory: what makes a sweep on real data start at once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from glorot_jax.errors import ResumableError
from glorot_jax.files import cache_folder, write, write_json

_FORM = 1
"""Counted up when what is in the cache changes its meaning."""


def folder(name: str, digest: str) -> Path:
    """Returns the private folder of one data set's arrays; ``digest`` tells where they came from."""
    return cache_folder("data") / f"{re.sub('[/:]', '-', name)}-{digest}-{_FORM}"


def load(
    name: str,
    digest: str,
    make: Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]],
    *,
    anew: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns arrays, mapped into memory, and facts about them.

    ``make`` is called where there are none yet, or if ``anew``.

    Arrays are checked against their SHA-256; what is damaged is made again. Nothing is unpickled.
    """
    place = folder(name, digest)
    found = None if anew else _open(place)
    if found is not None:
        return found
    arrays, facts = make()
    try:
        _keep(place, arrays, facts)
        found = _open(place)
    except (OSError, ResumableError):  # a full or read-only disk costs the next start some seconds and nothing else
        found = None
    return found if found is not None else (dict(arrays), dict(facts))


def room(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Returns an array to be filled, mapped from a file without a name beside the cache: it may exceed the memory.

    Where no file can be had it is in memory.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    parent = cache_folder("data")
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=parent) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found here, and not by a signal while it fills
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError:
        return np.empty(shape, dtype)


def _keep(place: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    _remove_others(place)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for key, array in arrays.items():
        write(place / f"{key}.npy", lambda path, array=array: np.save(path, array, allow_pickle=False))
    sums = {key: _sha256(array) for key, array in arrays.items()}
    write_json(place / "index.json", {"arrays": sums, "facts": facts})  # last: it says that all is there


def _open(place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    try:
        index = json.loads((place / "index.json").read_text(encoding="utf-8"))
        arrays = {k: np.load(place / f"{k}.npy", mmap_mode="r", allow_pickle=False) for k in index["arrays"]}
        if all(_sha256(arrays[key]) == sha256 for key, sha256 in index["arrays"].items()):
            return arrays, index["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _sha256(array: np.ndarray) -> str:
    head = f"{array.dtype.str}{array.shape}".encode()
    digest = hashlib.sha256(head)
    digest.update(memoryview(np.ascontiguousarray(array)).cast("B"))
    return digest.hexdigest()


def _remove_others(place: Path) -> None:
    """What an earlier preparation of the same data set left is of no use to anybody."""
    stem = place.name.rsplit("-", 2)[0]
    for other in place.parent.glob(f"{stem}-????????-{_FORM}"):
        shutil.rmtree(other, ignore_errors=True)
