"""Accidents on this machine: processes that are stopped, killed and frozen, torn checkpoints, a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from glorot_jax.drill.case import SEGMENT_SECONDS, Case, Lost, NotPossible, Told, TooLate, tried
from glorot_jax.drill.processes import Process, children, ends_well, kill_all, launcher, share, stopped, worker
from glorot_jax.files import TEMPORARY

TRIES = 20
"""Times that an accident is tried which came too late."""
STARTING = 3.0
"""Seconds within which a process that is struck while it starts is struck."""
PARTS = 3
ROOM = 64 * 2**20
"""Bytes of the small disk once there is room on it."""


def why_not() -> str | None:
    """Returns None: these accidents are possible wherever the sweep trains."""
    return None


def cases(work: Path) -> list[Case]:
    """Returns each kind once, struck while it trains, and one without an accident.

    Args:
        work: the folder in which the twin lies, as ``twin``.
    """
    struck = [_struck(name, Moments(random.Random(name))) for name in KINDS]
    return [*struck, Case("run again", partial(again, work / "twin"))]


def drawn(chance: random.Random) -> Case:
    """Returns an accident of a kind drawn at random, which strikes at random moments of a life from its first."""
    name = chance.choice(list(KINDS))
    return _struck(name, Moments(random.Random(chance.getrandbits(32)), starting=0.3))


def _struck(name: str, moments: Moments) -> Case:
    return Case(name, partial(tried, TRIES, partial(KINDS[name], moments=moments)))


class Moments:
    """Random moments of a process's life.

    Args:
        starting: share of them that come while it starts, whatever it does then; the others while it trains.
    """

    def __init__(self, chance: random.Random, starting: float = 0.0):
        self.chance, self.starting = chance, starting

    def wait(self, process: Process, most: float = 0.9) -> str:
        """Waits for one, at which at most so much is trained, and returns when it was, in words.

        Raises:
            TooLate: the process has ended before.
        """
        folder = process.folder
        if self.chance.random() < self.starting:
            there = process.pause(self.chance.uniform(0, STARTING))
        else:
            goal = self.chance.uniform(0, most)
            there = process.until(lambda: share(folder) > goal) and process.pause(
                self.chance.uniform(0, SEGMENT_SECONDS / 3)
            )
        if not there:
            raise TooLate
        return f"at {share(folder):.0%}" if share(folder) else "before the first commit"


# ---- the kinds


def terminated(folder: Path, moments: Moments) -> Told:
    with worker(folder) as process:
        when = moments.wait(process)
        before = share(folder)
        seconds = stopped(process)
    if share(folder) < before:
        raise Lost(f"at {before:.0%} before SIGTERM, at {share(folder):.0%} after it")
    kept = share(folder)
    ends_well(worker(folder))
    return Told(f"SIGTERM {when}: saved at {kept:.0%} and gone in {seconds:.1f} s; done", stops=(seconds,))


def killed(folder: Path, moments: Moments) -> Told:
    with worker(folder) as process:
        when = moments.wait(process)
        process.kill()
    lost = undone(folder)
    ends_well(worker(folder))
    return Told(f"SIGKILL {when}: {lost:.1f} segments lost; done", lost=(lost,))


def frozen(folder: Path, moments: Moments) -> Told:
    with worker(folder) as process:
        when = moments.wait(process)
        process.send(signal.SIGSTOP)
        try:
            with worker(folder) as second:
                code, said = second.code(), second.last_line()
        finally:
            process.send(signal.SIGCONT)
        if code not in (0, 2):
            raise Lost(f"beside a frozen process another ended with exit code {code}: {said}")
        ends_well(process)
    other = "is refused" if code else "trains all, for nothing was begun"
    return Told(f"SIGSTOP {when}: another process {other}; after SIGCONT the first goes on; done")


def torn(folder: Path, moments: Moments) -> Told:
    with worker(folder) as process:
        moments.wait(process)
        if not process.until(lambda: len(_checkpoints(folder)) > 0):
            raise TooLate
        process.kill()
    found = sorted(path for path in _checkpoints(folder)[-1].rglob("*") if path.is_file() and path.stat().st_size)
    (hit,) = moments.chance.choices(found, [path.stat().st_size for path in found])
    size = hit.stat().st_size
    left = moments.chance.randrange(size)
    os.truncate(hit, left)
    ends_well(worker(folder))
    aside = len(list(folder.glob("shards/*/damaged-*")))
    what = "set aside, the one before taken" if aside else "not needed"
    return Told(f"SIGKILL, and {left} of {size} bytes left of a file of the newest checkpoint: {what}; done")


def full(folder: Path, moments: Moments) -> Told:
    log = folder.with_name(f"{folder.name}.log")  # not on the small disk: there is no room for it
    with _small_disk(folder.with_name(f"{folder.name}-disk")) as disk:
        there = disk.where / "results"
        room = moments.chance.randrange(200, 1200)
        while True:
            disk.resize(f"{room}k")
            with worker(there, log) as process:
                code = process.code()
            if code != 0:
                break
            shutil.rmtree(there)
            room = room * 2 // 3
        if code != 1 or "no space left" not in process.said():
            raise Lost(f"on a full disk it ended with exit code {code}: {process.last_line()}")
        at = share(there)
        disk.resize(str(ROOM))
        ends_well(worker(there, log))
        shutil.copytree(there, folder)
    return Told(f"the disk was full at {at:.0%}, {room} kB: one clear line; with room again done")


def writing(folder: Path, moments: Moments) -> Told:
    def half_written() -> list[str]:
        return [path.name for path in folder.glob(f"shards/*/{TEMPORARY}*rec-*")]

    goal = moments.chance.uniform(0, 0.7)
    with worker(folder) as process:
        process.until(lambda: share(folder) > goal)
        if not process.until(lambda: bool(half_written()), every=0):
            raise TooLate
        process.kill()
    left = half_written()
    ends_well(worker(folder))
    if half_written():
        raise Lost(f"{half_written()[0]} was left behind")
    what = "half-written records on the disk" if left else "records written, and not yet committed"
    return Told(f"SIGKILL with {what}; done")


def killed_twice(folder: Path, moments: Moments) -> Told:
    for _ in range(2):
        with worker(folder) as process:
            if not process.pause(moments.chance.uniform(0.5, STARTING)):
                raise TooLate
            process.kill()
    at = share(folder)
    ends_well(worker(folder))
    return Told(f"SIGKILL twice while it started, with {at:.0%} trained; done", kills=2)


def several(folder: Path, moments: Moments) -> Told:
    with launcher(folder, PARTS, *_halves()) as process:
        when = moments.wait(process)
        if not process.until(lambda: bool(children(process.pid))):
            raise TooLate
        there = children(process.pid)
        kill_all(there)
        ends_well(process)
    restarts = process.said().count("starting again")
    if not restarts:
        raise TooLate
    return Told(f"SIGKILL {when} of {len(there)} workers at once: the launcher starts {restarts} again; done")


def other_number(folder: Path, moments: Moments) -> Told:
    cut = moments.chance.random() < 0.5
    with launcher(folder, PARTS, *_halves()) as process:
        when = moments.wait(process)
        if cut:
            there = children(process.pid)
            process.kill()
            kill_all(there)
            stops = ()
        else:
            stops = (stopped(process),)
    kept, parts = share(folder), moments.chance.choice((1, 2))
    ends_well(worker(folder) if parts == 1 else launcher(folder, parts, *_halves()))
    how = "power cut" if cut else "SIGTERM"
    return Told(f"{how} {when} of {PARTS} parts, {kept:.0%} kept; gone on with as {parts}; done", stops=stops)


KINDS: dict[str, Callable[[Path, Moments], Told]] = {
    "SIGTERM": terminated,
    "SIGKILL": killed,
    "SIGSTOP": frozen,
    "torn checkpoint": torn,
    "full disk": full,
    "killed writing": writing,
    "killed twice": killed_twice,
    "several at once": several,
    "other number": other_number,
}


def again(twin: Path, folder: Path) -> Told:
    """What is done is not trained again."""
    shutil.copytree(twin, folder)
    before = _manifests(folder)
    ends_well(worker(folder))
    if _manifests(folder) != before:
        raise Lost("the same command on what is done has changed a manifest")
    return Told("the same command on what is done: nothing is trained again", kills=0)


# ---- what they need


def _halves() -> tuple[str, str]:
    """Two workers at once, where there are two cores."""
    return "--cores-per-worker", str(max(1, (os.cpu_count() or 1) // 2))


def _manifests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("shards/*/manifest.json")}


def undone(folder: Path) -> float:
    """Returns the work that a kill just now has undone, in segments, at most two.

    A segment whose commit was under way counts whole; of the one that was training behind it, the share of a
    segment's usual time that has passed since the files of that commit, or of the last, began to be written.
    """
    now, lost = time.time(), 0.0
    for manifest in folder.glob("shards/*/manifest.json"):
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if facts["state"] == "done":
            continue
        newer = [path for path in _written(manifest.parent) if path.stat().st_mtime > manifest.stat().st_mtime]
        step = (facts["checkpoint"] or {}).get("step")
        of_last = [path for path in _written(manifest.parent / "checkpoints" / str(step)) if path.exists()]
        times = [path.stat().st_mtime for path in newer or of_last]
        passed = now - min(times, default=now)
        lost += bool(newer) + min(1.0, passed / (SEGMENT_SECONDS / 3))
    return lost


def _written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that the manifests name, the newest of a shard last."""
    found = []
    for manifest in sorted(folder.glob("shards/*/manifest.json")):
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if facts["checkpoint"] and facts["state"] != "done":
            found.append(manifest.parent / "checkpoints" / str(facts["checkpoint"]["step"]))
    return found


class _Disk:
    def __init__(self, where: Path):
        self.where = where

    def resize(self, size: str) -> None:
        _mount("-o", f"remount,size={size}", str(self.where))


@contextlib.contextmanager
def _small_disk(where: Path) -> Iterator[_Disk]:
    """A file system of its own, in memory, gone at the end."""
    where.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(where))
        try:
            yield _Disk(where)
        finally:
            subprocess.run(["umount", "--lazy", str(where)], check=True)
    finally:
        where.rmdir()


def _mount(*arguments: str) -> None:
    try:
        made = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise NotPossible("there is no mount") from None
    if made.returncode:
        raise NotPossible(f"a small file system can't be mounted: {(made.stderr.strip() or '?').splitlines()[0]}")
