"""Accidents on a Ray cluster of this machine: its worker, what it trains, and what started it all, struck amid work."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import time
from pathlib import Path

from glorot_jax.drill.case import ARGUMENTS, Case, Lost, Told, TooLate, tried
from glorot_jax.drill.processes import PATIENCE, Process, children, ends_well, launching, share, stopped

PARTS = 2
TRIES = 5
"""Times that an accident is tried which came too late."""


def why_not() -> str | None:
    """Returns why the drill can't be held here, in a line; None if it can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'glorot-jax[ray]'"
    return None


def cases(work: Path) -> list[Case]:
    """Returns the accidents; they need nothing of ``work``."""
    kinds = {"Ray worker killed": worker_killed, "Ray launcher killed": launcher_killed}
    return [Case(name, functools.partial(tried, TRIES, kind)) for name, kind in kinds.items()]


def worker_killed(folder: Path) -> Told:
    """Kills a process of Ray's that has a part trained, and a process that trains a part."""
    with launched(folder) as launcher:
        worker, child = training(launcher)
        strike(worker)
        gone([child], "that a killed Ray worker had begun")
        launcher.until(lambda: "begins again" in launcher.said())
        _, child = training(launcher)
        strike(child)
        everything = descendants(launcher.pid)
        ends_well(launcher)
        gone(everything, "of the cluster")
        begun = launcher.said().count("begins again")
    if begun < 2:
        raise Lost(f"two deaths, and a part began again {begun} times: {launcher.last_line()}")
    return Told("SIGKILL to a Ray worker (what it had begun ended with it) and to what another trains; done", kills=2)


def launcher_killed(folder: Path) -> Told:
    """Stops in good order what started the cluster, then kills it: all of it ends, and the same command goes on."""
    with launched(folder) as launcher:
        training(launcher)
        everything, at = descendants(launcher.pid), share(folder)
        seconds = stopped(launcher)
        gone(everything, "of the cluster")
    if (kept := share(folder)) < at:
        raise Lost(f"at {at:.0%} before SIGTERM, at {kept:.0%} after it")
    with launched(folder) as launcher:
        training(launcher)
        everything = descendants(launcher.pid)
        launcher.kill()
        gone(everything, "of the cluster")
    ends_well(launched(folder))
    said = f"SIGTERM to the launcher: saved at {kept:.0%} and all gone in {seconds:.1f} s; begun again, SIGKILL to it: "
    return Told(f"{said}its {len(everything)} processes ended with it; done", stops=(seconds,))


def launched(folder: Path) -> Process:
    """Starts what trains the sweep in parts on a cluster of its own."""
    return Process(launching("ray", *ARGUMENTS, "--out", str(folder), "--shards", str(PARTS)), folder)


def training(launcher: Process) -> tuple[int, int]:
    """Returns a Ray worker and the process that trains for it, once a part has committed something since now.

    Raises:
        TooLate: all is done before.
        Lost: that does not come.
    """
    before, found = share(launcher.folder), []

    def seen() -> bool:
        pairs = ((parent, child) for parent in descendants(launcher.pid) for child in children(parent))
        found[:] = [pair for pair in pairs if b"--shard" in line_of(pair[1])]
        return bool(found) and share(launcher.folder) > before

    if not launcher.until(seen, every=0.05):
        if share(launcher.folder) == 1:
            raise TooLate
        raise Lost(f"it ended before the accident: {launcher.last_line()}")
    return found[0]


def strike(pid: int) -> None:
    """Kills a process.

    Raises:
        TooLate: it has ended.
    """
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError as gone:
        raise TooLate from gone


def descendants(pid: int) -> list[int]:
    """Returns all processes that a process has started, and those that these have."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for child in children(pid):
            found += [child, *descendants(child)]
    return found


def line_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def gone(processes: list[int], whose: str) -> None:
    """Waits until none of these is there.

    Raises:
        Lost: one stays.
    """
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in processes if line_of(pid)]:
        if time.monotonic() > deadline:
            raise Lost(f"process {left[0]} {whose} has not ended")
        time.sleep(0.05)
