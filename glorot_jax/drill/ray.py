"""Accidents on a Ray cluster of this machine: a worker, what it trains, and what started it all, each killed amid work."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from glorot_jax.drill.case import ARGUMENTS, Case

PARTS = 3
PATIENCE = 180.0
"""Seconds until an accident or its end is given up."""


def why_not() -> str | None:
    """Returns why the drill can't run here, in a line; None if it can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'glorot-jax[ray]'"
    if not Path("/proc/self/stat").exists():
        return "it looks processes up in /proc, which Linux has"
    return None


def cases(work: Path) -> list[Case]:
    """Returns the accidents; ``work`` is not needed."""
    return [
        Case("Ray worker killed", worker_killed),
        Case("Ray launcher killed", launcher_killed),
        Case("Ray launcher stopped", launcher_stopped),
    ]


def worker_killed(folder: Path) -> str:
    """Kills a process of Ray's that has a part trained, and later another one's training process itself."""
    with launched(folder) as launcher:
        worker, child = trained(launcher, folder)
        os.kill(worker, signal.SIGKILL)
        until(lambda: not alive(child), f"process {child} outlives the Ray worker {worker} that began it")
        other = trained(launcher, folder, apart_from=child)[1]
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
        code, said = end(launcher)
    if code or "died (1 of 10); it begins again" not in said:
        raise RuntimeError(f"exit code {code}: {said[-500:]}")
    return "SIGKILL to a Ray worker, whose process ended with it, and to a process that trained: both began again"


def launcher_killed(folder: Path) -> str:
    """Kills what started the cluster: all ends with it, and the same command goes on."""
    with launched(folder) as launcher:
        trained(launcher, folder)
        others = descendants(launcher.pid)
        launcher.kill()
        until(lambda: not any(map(alive, others)), f"of {others} some outlive the launcher")
    finished(folder)
    return f"SIGKILL to the launcher: all {len(others)} processes of its cluster ended; the same command went on"


def launcher_stopped(folder: Path) -> str:
    """Stops it in good order: all parts are saved, and the same command goes on."""
    with launched(folder) as launcher:
        trained(launcher, folder)
        others, begin = descendants(launcher.pid), time.monotonic()
        launcher.terminate()
        code, said = end(launcher)
        seconds = time.monotonic() - begin
        until(lambda: not any(map(alive, others)), f"of {others} some outlive the launcher")
    if code != 128 + signal.SIGTERM:
        raise RuntimeError(f"exit code {code}: {said[-500:]}")
    finished(folder)
    return f"SIGTERM to the launcher: saved and gone after {seconds:.1f} s; the same command went on"


@contextlib.contextmanager
def launched(folder: Path):
    """The launcher at work on the drill's sweep; it is gone behind this."""
    line = [sys.executable, "-m", "glorot_jax.cli", "launch", "ray", *ARGUMENTS, "--out", str(folder)]
    with tempfile.TemporaryFile() as said:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        launcher = subprocess.Popen([*line, "--shards", str(PARTS)], env=environment, stdout=said, stderr=said)
        launcher.said = said
        try:
            yield launcher
        finally:
            launcher.kill()
            launcher.wait()
