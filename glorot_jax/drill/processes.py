"""Processes that train the drill's sweep: waited for, struck at a moment, and let go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from glorot_jax.drill.case import ARGUMENTS, Lost
from glorot_jax.launching import workers
from glorot_jax.launching.codes import shell
from glorot_jax.launching.standing import Standing, standing

PATIENCE = 600.0
"""Seconds after which what is waited for is taken for lost."""
HALT = threading.Event()
"""Set when the drill is interrupted: whoever waits for a process gives up."""
NOTHING = Standing(0, 0.0, 0, 0)


class Process:
    """A command under way, what it says kept in a file.

    It is killed, if it is still there, at the end of ``with``.

    Args:
        folder: that it trains into.
        log: the file, beside the folder if not said.
    """

    def __init__(self, command: Sequence[str], folder: Path, log: Path | None = None):
        self.folder, self.log = folder, log or folder.with_name(f"{folder.name}.log")
        with self.log.open("ab") as log:
            self._said_before = log.tell()
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self._process.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive():
            self._process.kill()
            self._process.wait()

    def alive(self) -> bool:
        return self._process.poll() is None

    def until(self, seen: Callable[[], bool], every: float = 0.005) -> bool:
        """Returns True as soon as something is seen, False if the process has ended before.

        Raises:
            Lost: neither came, or the drill was interrupted.
        """
        deadline = time.monotonic() + PATIENCE
        while not seen():
            if not self.alive():
                return False
            if HALT.is_set():
                raise Lost("the drill was interrupted")
            if time.monotonic() > deadline:
                raise Lost(f"nothing happened for {PATIENCE:.0f} s: {self.last_line()}")
            time.sleep(every)
        return True

    def pause(self, seconds: float) -> bool:
        """Waits, and returns whether the process is still there."""
        end = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= end) and self.alive()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def code(self) -> int:
        """Waits for its end and returns its exit code, as a shell counts."""
        self.until(lambda: False)
        return shell(self._process.wait())

    def said(self) -> str:
        """Returns what it has said so far."""
        with self.log.open("rb") as log:
            log.seek(self._said_before)
            return log.read().decode(errors="replace")

    def last_line(self) -> str:
        return (self.said().strip().splitlines() or ["it said nothing"])[-1]


def worker(folder: Path, log: Path | None = None) -> Process:
    """Starts what trains the whole sweep."""
    return Process(workers.command([*ARGUMENTS, "--no-progress", "--out", str(folder)]), folder, log)


def launcher(folder: Path, shards: int, *arguments: str) -> Process:
    """Starts ``glorot launch local`` with so many parts."""
    own = ("--out", str(folder), "--no-progress", "--shards", str(shards))
    return Process(launching("local", *ARGUMENTS, *own, *arguments), folder)


def launching(engine: str, *arguments: str) -> list[str]:
    """Returns the command line of ``glorot launch``."""
    python, dash, module = workers.command(())[:3]
    return [python, dash, module, "launch", engine, *arguments]


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started and that are still there."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if listed.exists():
        return [int(child) for child in listed.read_text().split()]
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, table.splitlines()) if int(parent) == pid]


def kill_all(processes: Iterable[int]) -> None:
    """Kills those of some processes that are still there."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ends_well(process: Process) -> None:
    """Waits until all is trained.

    Raises:
        Lost: it ends otherwise.
    """
    with process:
        if code := process.code():
            raise Lost(f"the same command ended with exit code {code}: {process.last_line()}")


def share(folder: Path) -> float:
    """Returns how much of the sweep is committed, in [0, 1]."""
    return (standing(folder) or NOTHING).share


def stopped(process: Process) -> float:
    """Sends SIGTERM and returns the seconds until the process is gone.

    Raises:
        Lost: it went otherwise than having saved.
    """
    begin = time.monotonic()
    process.send(signal.SIGTERM)
    if (code := process.code()) not in (0, 143):
        raise Lost(f"after SIGTERM it ended with exit code {code}: {process.last_line()}")
    return time.monotonic() - begin
