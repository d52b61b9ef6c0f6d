"""A results folder on an object store as the engine writes it: through a folder of this machine.

A process works in a folder of its own, as if that were all. What it commits there goes up under names that no other
content has; then the shard's manifest replaces the one that this process knows, and no other: that is the commit. A
process that was stopped while another took over fails there, and has damaged nothing. A shard's new owner first
replaces the manifest by one with its own mark, so that nobody of before can commit any more, then removes what nobody
names, then trains.

The names on the store are those of a local results folder, but that a checkpoint is one object, a tar of its folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from glorot_jax import locks
from glorot_jax.errors import InputError, ResumableError, Stopped
from glorot_jax.files import write, write_json
from glorot_jax.store import lease, names
from glorot_jax.store.here import Here
from glorot_jax.store.objects import Found, Objects, Overtaken, Tag, is_url

AT_ONCE = 16
"""Requests for small files that are under way together."""
EVENTS_EVERY = 10.0
"""Seconds between two commits that bring events, too."""


class Remote(Here):
    """A results folder on a store, and the folder here in which this process works on it.

    Attributes:
        folder: here; nobody else's, and gone with the process.
        writer: the mark of this process in the manifests that it writes.
    """

    outlives = 0.0  # who holds a lease was seen to renew it

    def __init__(self, objects: Objects, folder: Path):
        super().__init__(folder)
        self.objects, self.writer = objects, uuid.uuid4().hex[:16]
        self._tags: dict[str, Tag] = {}
        self._there: dict[str, set[str]] = {}
        self._leases: dict[str, lease.Lease] = {}
        self._dead: set[str] = set()
        self._told: dict[str, int] = {}
        self._last_told = 0.0

    def pull(self, below: Path | None = None) -> None:
        """Makes the folder here, or one in it, what the store holds; records and checkpoints apart.

        Raises:
            InputError: the store holds something else there.
        """
        found = self.objects.list("" if below is None else self._name(below))
        listed = [one.name for one in found]
        if below is None and "sweep.json" not in listed and (strange := [n for n in listed if not _is_ours(n)]):
            raise InputError(
                f"out: {self.objects.url} holds something else, such as {strange[0]}", "choose a new prefix"
            )
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._pull, [o.name for o in found if _is_wanted(o.name) and not self._has(o)]))

    def _has(self, found: Found) -> bool:
        return found.tag in self._tags.get(found.name, {}).values()

    def _pull(self, name: str) -> None:
        if (found := self.objects.get(name)) is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, found[0])
            self._tags[name] = found[1]
            self._told[name] = len(found[0])

    def push(self, *names: str) -> None:
        for name in names:
            if (path := self.folder / name).exists():
                self.objects.put(name, path.read_bytes())

    def publish(self, path: Path) -> None:
        try:
            self._replace(path)
        except Overtaken:
            raise ResumableError(
                f"{self.objects.url}: another process wrote {path.name} meanwhile; the same command goes on"
            ) from None

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._tags.pop(self._name(path), None)
        self.objects.delete([self._name(path)])

    @contextlib.contextmanager
    def held(self, lock: Path, doing: str = "") -> Iterator[None]:
        """Holds a lease in place of a lock's file; then the lock's folder here is as on the store."""
        name = self._name(lock)
        with lease.held(self.objects, name, doing, self._dead) as mine:
            self._leases[name] = mine
            try:
                self.pull(lock.parent if lock.parent != self.folder else None)
                yield
            finally:
                del self._leases[name]

    def owner(self, lock: Path) -> str | None:
        return lease.owner(self.objects, self._name(lock), self._dead)

    def locks(self, pattern: str) -> list[Path]:
        listed = (PurePosixPath(found.name) for found in self.objects.list())
        return sorted(self.folder / name for name in listed if name.match(pattern))

    def claim(self, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Puts this process's mark into the manifest on the store, and removes what nobody names."""
        claimed = manifest | {"writer": self.writer}
        write_json(folder / names.MANIFEST, claimed)
        try:
            self._replace(folder / names.MANIFEST)
        except Overtaken:
            raise ResumableError(
                f"{self.objects.url}: {folder.name} was still being written to; the same command goes on"
            ) from None
        shard = self._name(folder)
        found = {PurePosixPath(o.name).relative_to(shard).as_posix() for o in self.objects.list(shard)}
        strays = set(filter(names.is_replaced, found - names.named(claimed)))
        self.objects.delete(f"{shard}/{name}" for name in strays)
        self._there[shard] = found - strays
        return claimed

    def fetch(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        shard, checkpoint = self._name(folder), manifest["checkpoint"]
        for name in names.records(manifest):
            if not (folder / name).exists():
                with contextlib.suppress(FileNotFoundError):
                    self.objects.fetch(f"{shard}/{name}", folder / name)
        if checkpoint is not None:
            with contextlib.suppress(FileNotFoundError, tarfile.TarError):
                kept = folder / "checkpoints" / str(checkpoint["step"])
                self.objects.unpack(f"{shard}/{names.packed(checkpoint)}", kept)

    def commit(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Brings new files up, then the manifest in place of the one that this process knows: the commit.

        Then what neither it nor the one before names is removed.
        """
        shard, named = self._name(folder), names.named(manifest)
        there = self._there.setdefault(shard, set())
        self._check(folder)
        named |= {name for name in names.BESIDE if (folder / name).exists()}
        for name in sorted(named - there):
            if name.startswith("checkpoints/"):
                self.objects.pack(folder / name.rpartition("-")[0], f"{shard}/{name}")
            else:
                self.objects.put(f"{shard}/{name}", folder / name)
        try:
            self._replace(folder / names.MANIFEST)
        except Overtaken:
            raise self._overtaken(folder) from None
        superseded = set(filter(names.is_replaced, there - named))
        self._there[shard] = (there | named) - superseded
        self.objects.delete(f"{shard}/{name}" for name in superseded)
        if time.monotonic() - self._last_told >= EVENTS_EVERY:
            self._tell()

    def close(self) -> None:
        """Brings the last events to the store."""
        with contextlib.suppress(ResumableError):
            self._tell()

    def _tell(self) -> None:
        """Brings new events up, unless another process has gone on with them."""
        for path in self.folder.glob("events*.jsonl"):
            if path.stat().st_size != self._told.get(path.name):
                with contextlib.suppress(Overtaken):
                    self._replace(path)
                self._told[path.name] = path.stat().st_size
        self._last_told = time.monotonic()

    def _replace(self, path: Path) -> None:
        name, content = self._name(path), path.read_bytes()
        tag = self._tags.get(name)
        made = self.objects.create(name, content) if tag is None else self.objects.replace(name, content, tag)
        self._tags[name] = made

    def _check(self, folder: Path) -> None:
        """Nothing goes up any more once it is known that somebody else has the shard."""
        if any(held.lost is not None for held in self._over(folder).values()):
            raise self._overtaken(folder)

    def _over(self, folder: Path) -> dict[str, lease.Lease]:
        """The leases under which this process works in a shard's folder."""
        return {n: held for n, held in self._leases.items() if folder.is_relative_to((self.folder / n).parent)}

    def _overtaken(self, folder: Path) -> InputError:
        names = [owner for n, held in self._over(folder).items() if (owner := held.other()) is not None]
        who = names[0] if names else "another process"
        return InputError(
            f"{self.objects.url}: {who} took {folder.name} over while this process was stopped or out of reach",
            "it goes on there; nothing that was committed is lost",
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _is_ours(name: str) -> bool:
    return names.is_plain(name) or names.is_lock(name) or names.of_shard(name) is not None


def _is_wanted(name: str) -> bool:
    """Whether a process has to know an object before it begins."""
    inside = names.of_shard(name)
    return names.is_plain(name) if inside is None else inside[1] in (names.MANIFEST, *names.BESIDE)


@contextlib.contextmanager
def kept(results: Path | str, note: Callable[[str], None] = lambda text: None) -> Iterator[Here]:
    """Yields a results folder that is to be written to: a local one, or that of a URL."""
    if is_url(results):
        with opened(str(results), note) as there:
            yield there
    else:
        yield Here(Path(results))


@contextlib.contextmanager
def opened(url: str, note: Callable[[str], None] = lambda text: None) -> Iterator[Remote]:
    """Yields a results folder on a store, with all that a process has to know of it; errors name its URL.

    Args:
        note: is told when the store is out of reach.
    """
    objects = Objects(url, note=note)
    with _scratch() as folder:
        there = Remote(objects, folder)
        try:
            there.pull()
            yield there
        except (InputError, ResumableError, Stopped) as error:
            error.args = tuple(str(part).replace(str(folder), objects.url) for part in error.args)
            raise
        finally:
            there.close()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this process alone, below the system's for temporary files; what dead processes left goes first."""
    base = Path(tempfile.gettempdir()) / f"glorot-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for left in base.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError), left.open("rb") as file:
            if locks.attempt(file):
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
    folder = base / uuid.uuid4().hex[:16]
    # The lock is held before its file has the name under which others look for it.
    with tempfile.NamedTemporaryFile(dir=base, delete=False) as file:
        locks.attempt(file)
        lock = folder.with_suffix(".lock")
        os.replace(file.name, lock)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
