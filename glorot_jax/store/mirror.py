"""Results on an object store as readers see them: a folder of the cache that is brought up to date before it is read.

Only what is new comes down, and no checkpoint. A shard's manifest comes before the files that it names, and is put in
place behind them: whoever reads the mirror meanwhile finds it whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from glorot_jax import locks
from glorot_jax.errors import InputError
from glorot_jax.files import cache_folder, write, write_json
from glorot_jax.store import names
from glorot_jax.store.objects import Found, Objects, is_url

AT_ONCE = 16
"""Requests that are under way together."""
_TRIES = 5
_APART = 60.0
"""Seconds that the clocks of this machine and the store may differ by."""
_INDEX = ".mirror.json"


def local(path: str | Path) -> Path:
    """Returns where a results folder, or one that holds some, can be read: itself, or the mirror of a URL.

    Raises:
        InputError, ResumableError: as of ``Objects``.
    """
    return mirror(path) if is_url(path) else Path(path)


def mirror(url: str) -> Path:
    """Brings the mirror of a URL up to date, and returns its folder.

    Raises:
        InputError: no sweep was started there; and as of ``Objects``.
        ResumableError: as of ``Objects``.
    """
    objects = Objects(url)
    name = objects.url.rpartition("/")[2]  # that of the results where they are told by their folder
    folder = cache_folder("mirrors") / hashlib.sha256(objects.url.encode()).hexdigest()[:16] / name
    listed = {found.name: found for found in objects.list()}
    if not any(name.rpartition("/")[2] == "sweep.json" for name in listed):
        raise InputError(f"{url}: not a results folder", "it has no sweep.json")
    folder.mkdir(parents=True, exist_ok=True)
    known = _index(folder)
    new = [o for o in listed.values() if known.get(o.name) != o.tag or not (folder / o.name).exists()]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(lambda found: _bring(objects, folder, found), new):
            pass
    _remove(folder, listed)
    write_json(folder / _INDEX, {name: found.tag for name, found in listed.items()})
    return folder


def owner(lock: Path) -> str | None:
    """Returns who holds a lock of a results folder or of a mirror, in words; None if nobody does, or nobody can tell.

    Of a mirror that is who renewed it lately by this machine's clock, and the store's, a minute apart at most.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads(lock.read_text(encoding="utf-8"))
        age = time.time() - lock.stat().st_mtime
        return told["owner"] if age < told["seconds"] + _APART else None
    return locks.owner(lock)


def _bring(objects: Objects, folder: Path, found: Found) -> None:
    shard, file = names.of_shard(found.name) or ("", "")
    if file == names.MANIFEST:
        _shard(objects, folder / shard, shard, found)
    elif names.is_plain(found.name) or names.is_lock(found.name) or file in names.BESIDE:
        with contextlib.suppress(FileNotFoundError):
            objects.fetch(found.name, folder / found.name)
            _date(folder / found.name, found)


def _shard(objects: Objects, folder: Path, shard: str, found: Found) -> None:
    """Brings what a manifest names, then the manifest; reads it again where files were merged away meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in reversed(range(_TRIES)):
        if (got := objects.get(found.name)) is None:
            return
        try:
            manifest = json.loads(got[0])
            entries, kept = names.records(manifest), names.named(manifest)
        except (ValueError, KeyError, TypeError, AttributeError):
            entries, kept = {}, set()  # damaged: its reader says so
        try:
            for file, size in entries.items():
                if not _has(folder / file, size):
                    objects.fetch(f"{shard}/{file}", folder / file)
        except FileNotFoundError:
            if left:
                continue
        if not (folder / names.RUNS).exists():
            with contextlib.suppress(FileNotFoundError):
                objects.fetch(f"{shard}/{names.RUNS}", folder / names.RUNS)
        write(folder / names.MANIFEST, got[0])
        _date(folder / names.MANIFEST, found)
        for path in folder.glob("rec-*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        return


def _date(path: Path, found: Found) -> None:
    """A file of the mirror is as old as what it mirrors."""
    os.utime(path, (found.modified.timestamp(),) * 2)


def _has(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _remove(folder: Path, listed: Iterable[str]) -> None:
    """Removes what is no longer on the store."""
    left = set(listed)
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        if path.name != _INDEX and path.relative_to(folder).as_posix() not in left:
            if path.name == names.MANIFEST:
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _index(folder: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / _INDEX).read_text(encoding="utf-8")))
    return {}
