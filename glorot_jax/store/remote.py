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
import fcntl
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

from glorot_jax.errors import InputError, ResumableError, Stopped
from glorot_jax.files import write, write_json
from glorot_jax.store import lease
from glorot_jax.store.here import Here
from glorot_jax.store.objects import Objects, Overtaken, Tag

AT_ONCE = 16
"""Requests for small files that are under way together."""
EVENTS_EVERY = 10.0
"""Seconds between two commits that bring events, too."""
MANIFEST = "manifest.json"
EVENTS = "events*.jsonl"


class Remote(Here):
    """A results folder on a store, and the folder here in which this process works on it.

    Attributes:
        folder: here; nobody else's, and gone with the process.
        writer: the mark of this process in the manifests that it writes.
    """

    def __init__(self, objects: Objects, folder: Path):
        self.objects, self.folder = objects, folder
        self.writer = uuid.uuid4().hex[:16]
        self._tags: dict[str, Tag] = {}
        self._there: dict[str, set[str]] = {}
        self._leases: dict[str, lease.Lease] = {}
        self._told: dict[str, int] = {}
        self._last_told = 0.0

    def pull(self, below: Path | None = None) -> None:
        """Makes the folder here, or one in it, what the store holds; records and checkpoints apart."""
        listed = self.objects.list("" if below is None else self._name(below))
        names = [found.name for found in listed if _is_wanted(PurePosixPath(found.name))]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._pull, names))

    def _pull(self, name: str) -> None:
        if (found := self.objects.get(name)) is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, found[0])
            self._tags[name] = found[1]
            self._told[name] = len(found[0])

    def push(self, *paths: Path) -> None:
        """Writes files that all processes write alike, whatever the store has of them."""
        for path in paths:
            if path.exists():
                self.objects.put(self._name(path), path.read_bytes())

    def publish(self, path: Path) -> None:
        """Writes a file in place of what was pulled of it, and of nothing else.

        Raises:
            ResumableError: another process wrote one meanwhile.
        """
        try:
            self._replace(path)
        except Overtaken:
            raise ResumableError(
                f"{self.objects.url}: another process wrote {path.name} meanwhile; the same command goes on"
            ) from None

    @contextlib.contextmanager
    def held(self, lock: Path, doing: str = "") -> Iterator[None]:
        """Holds what a lock file stands for against all other processes; then its folder here is as on the store.

        Raises:
            Taken: somebody else holds it, and lives.
        """
        name = self._name(lock)
        with lease.held(self.objects, name, doing) as mine:
            self._leases[name] = mine
            try:
                self.pull(lock.parent if lock.parent != self.folder else None)
                yield
            finally:
                del self._leases[name]

    def owner(self, lock: Path) -> str | None:
        """Returns who holds what a lock file stands for, in words; None if nobody does."""
        return lease.owner(self.objects, self._name(lock))

    def claim(self, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Makes a shard this process's: nobody of before can commit to it any more. Returns the manifest with its mark.

        Raises:
            ResumableError: its owner of before committed in this moment.
        """
        claimed = manifest | {"writer": self.writer}
        write_json(folder / MANIFEST, claimed)
        try:
            self._replace(folder / MANIFEST)
        except Overtaken:
            raise ResumableError(
                f"{self.objects.url}: {folder.name} was still being written to; the same command goes on"
            ) from None
        shard, named = self._name(folder), _named(claimed)
        found = {str(PurePosixPath(o.name).relative_to(shard)) for o in self.objects.list(shard)}
        strays = {name for name in found - named if name.startswith(("rec-", "checkpoints/"))}
        self.objects.delete(f"{shard}/{name}" for name in strays)
        self._there[shard] = found - strays
        return claimed

    def fetch(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Brings a manifest's records and checkpoint here; what is missing or torn, training says in its own words."""
        shard, checkpoint = self._name(folder), manifest["checkpoint"]
        for name in _records(manifest):
            if not (folder / name).exists():
                with contextlib.suppress(FileNotFoundError):
                    self.objects.fetch(f"{shard}/{name}", folder / name)
        if checkpoint is not None:
            with contextlib.suppress(FileNotFoundError, tarfile.TarError):
                self.objects.unpack(f"{shard}/{_packed(checkpoint)}", folder / "checkpoints" / str(checkpoint["step"]))

    def commit(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Makes what was committed here the store's: the files first, then the manifest that lies in the folder.

        What neither it nor the one before names is removed.

        Raises:
            InputError: another process took the shard over.
            ResumableError: the store can't be reached.
        """
        shard, named = self._name(folder), _named(manifest)
        there = self._there.setdefault(shard, set())
        self._check(folder)
        for name in sorted(named - there):
            if name.startswith("checkpoints/"):
                self.objects.pack(folder / name.rpartition("-")[0], f"{shard}/{name}")
            else:
                self.objects.put(f"{shard}/{name}", folder / name)
        for name in ("runs.parquet", "theory.nc"):
            if name not in there and (folder / name).exists():
                self.objects.put(f"{shard}/{name}", folder / name)
                named |= {name}
        try:
            self._replace(folder / MANIFEST)
        except Overtaken:
            raise self._overtaken(folder, self._owner(folder)) from None
        superseded = {name for name in there - named if name.startswith(("rec-", "checkpoints/"))}
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
        for path in self.folder.glob(EVENTS):
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


def _is_wanted(name: PurePosixPath) -> bool:
    """Whether a process has to know an object before it begins."""
    inside = name.name.startswith("rec-") or "checkpoints" in name.parts
    return not name.name.startswith(".") and not (name.parts[0] == "shards" and inside)


def _named(manifest: Mapping[str, Any]) -> set[str]:
    """What a manifest and the one before it name, below the shard."""
    kept = (manifest, manifest.get("previous") or {})
    packed = {_packed(one["checkpoint"]) for one in kept if one.get("checkpoint")}
    return packed.union(*map(_records, kept))


def _records(manifest: Mapping[str, Any]) -> set[str]:
    return {str(entry["file"]) for entry in manifest.get("records", ())}


def _packed(checkpoint: Mapping[str, Any]) -> str:
    """The name of a checkpoint's object: that of its folder, and what tells it from others of the same step."""
    return f"checkpoints/{checkpoint['step']}-{checkpoint['digest'][:16]}.tar"


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
            if _locked(file):
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
    folder = base / uuid.uuid4().hex[:16]
    # The lock is held before its file has the name under which others look for it.
    with tempfile.NamedTemporaryFile(dir=base, delete=False) as file:
        _locked(file)
        lock = folder.with_suffix(".lock")
        os.replace(file.name, lock)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _locked(file: Any) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
