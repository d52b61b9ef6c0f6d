"""Accidents of an array job on this Slurm: tasks are asked to make room, killed, requeued and cancelled.

Partition, account and constraint are those of sbatch's own variables, such as ``SBATCH_PARTITION``. Which processor a
task gets may change bits: where nodes differ, choose one kind by ``SBATCH_CONSTRAINT``.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from glorot_jax.drill.case import ARGUMENTS, Case, Lost, Told, TooLate, tried
from glorot_jax.drill.processes import launching

PARTS = 2
TRIES = 5
"""Times that an accident is tried which came too late."""
PATIENCE = 3600.0
"""Seconds after which a job is taken for lost: others may be before it in the queue."""
LONGEST_PAUSE = 10.0
"""Seconds that a requeued task waits, of the two minutes that Slurm would let it; in the first it could not start."""


def why_not() -> str | None:
    """Returns why it can't be held here, None if it can."""
    if shutil.which("sbatch") is None:
        return "there is no sbatch"
    asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True)
    said = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
    return f"Slurm does not answer: {said[-1]}" if asked.returncode else None


def undisturbed(folder: Path) -> None:
    """Trains the sweep where the others are trained, as one task.

    Raises:
        Lost: it did not end.
    """
    with _Array(folder, 1) as array:
        array.wait()


def cases(work: Path) -> list[Case]:
    """Returns each kind once, struck while it trains."""
    return [Case(name, functools.partial(tried, TRIES, kind)) for name, kind in KINDS.items()]


class _Array:
    """The job that trains the sweep, submitted; within ``with`` it is cancelled if it has not ended."""

    def __init__(self, folder: Path, parts: int = PARTS):
        self.folder = folder
        own = ("--out", str(folder), "--shards", str(parts), "--cpus", "1", "--time", "10", "--no-progress")
        said = _asked(*launching("slurm", *ARGUMENTS, *own))
        self.job = re.findall(r"^submitted job (\d+)", said, re.MULTILINE)[0]

    def __enter__(self) -> _Array:
        return self

    def __exit__(self, *_: object) -> None:
        if self.tasks():
            _asked("scancel", self.job)

    def tasks(self) -> dict[str, str]:
        """Returns the tasks that have not ended, by their numbers as Slurm's commands take them, with its reasons."""
        asked = ["squeue", "--noheader", "--array", f"--jobs={self.job}", "--format=%i %r"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise Lost(f"squeue: {done.stderr.strip()}")
        return dict(line.split(" ", 1) for line in done.stdout.splitlines())

    def midway(self) -> list[str]:
        """Waits until something is committed, and returns the tasks that are in the middle of their work.

        Raises:
            TooLate: none was seen there.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.tasks():
            end = time.monotonic() + 1
            while time.monotonic() < end:  # the folder is looked at more often than the controller is asked
                if found := [f"{self.job}_{part}" for part in _midway(self.folder)]:
                    return found
                time.sleep(0.02)
        raise TooLate

    def wait(self) -> None:
        """Waits until all tasks have ended; those that were requeued need not wait as long as they would.

        Raises:
            Lost: they have not, or the sweep is not done.
        """
        deadline = time.monotonic() + PATIENCE
        waits: dict[str, float] = {}
        while tasks := self.tasks():
            if (now := time.monotonic()) > deadline:
                raise Lost(f"job {self.job} has not ended after {PATIENCE:.0f} s")
            waits = {task: waits.get(task, now) for task, reason in tasks.items() if reason == "BeginTime"}
            for task, since in waits.items():
                if now - since > LONGEST_PAUSE:
                    subprocess.run(["scontrol", "update", f"JobId={task}", "StartTime=now"], capture_output=True)
            time.sleep(1)
        if not _manifests(self.folder) or any(one["state"] != "done" for one in _manifests(self.folder)):
            raise Lost(f"job {self.job} has ended and not all is trained: {self.last_line()}")

    def last_line(self) -> str:
        lines = [line for log in self.folder.glob(f"logs/{self.job}_*.log") for line in log.read_text().splitlines()]
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


# ---- the kinds


def asked_to_go(folder: Path) -> Told:
    with _Array(folder) as array:
        tasks = array.midway()
        _asked("scancel", "--signal=USR1", *tasks)
        array.wait()
    for happened in _events(folder):
        if any(event.get("slurm_restart_count") for event in happened) and not any(
            "code" in event for event in happened
        ):
            raise Lost("a task was requeued without having saved")
    return Told(f"SIGUSR1 as before a preemption: {_again(folder)} saved and requeued themselves; done")


def killed(folder: Path) -> Told:
    with _Array(folder) as array:
        tasks = array.midway()
        _asked("scancel", "--signal=KILL", *(f"{task}.0" for task in tasks))
        array.wait()
    return Told(f"workers killed: {_again(folder)} requeued themselves; done", kills=len(tasks))


def requeued(folder: Path) -> Told:
    with _Array(folder) as array:
        tasks = array.midway()
        for task in tasks:
            _asked("scontrol", "requeue", task)
        array.wait()
    return Told(f"killed and requeued by Slurm, as where a node is lost: {_again(folder)} went on; done")


def cancelled(folder: Path) -> Told:
    with _Array(folder) as array:
        array.midway()
        _asked("scancel", array.job)
        while array.tasks():
            time.sleep(0.5)
    if _started_again(folder):
        raise Lost("cancelled tasks came back")
    if all(one["state"] == "done" for one in _manifests(folder)):
        raise TooLate
    with _Array(folder) as second:
        second.wait()
    return Told("cancelled: no task came back; the same command went on; done")


KINDS: dict[str, Callable[[Path], Told]] = {
    "asked to make room": asked_to_go,
    "worker killed": killed,
    "requeued by Slurm": requeued,
    "cancelled": cancelled,
}


def _again(folder: Path) -> str:
    """How many tasks were started again, in words.

    Raises:
        TooLate: none was.
    """
    count = len(_started_again(folder))
    if not count:
        raise TooLate
    return f"{count} task{'s' * (count > 1)}"


def _started_again(folder: Path) -> set[str]:
    starts = [event for happened in _events(folder) for event in happened if event.get("slurm_restart_count")]
    return {event["slurm_job"] for event in starts}


def _events(folder: Path) -> list[list[dict]]:
    """What happened in each of the parts."""
    return [list(map(json.loads, path.read_text().splitlines())) for path in folder.glob("events-*.jsonl")]


def _manifests(folder: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("shards/*/manifest.json")]


def _midway(folder: Path) -> set[int]:
    """The parts with a shard that has committed a step and is not done."""
    there = {one["shard"] for one in _manifests(folder) if 0 < one["step"] < one["steps"]}
    if not there:
        return set()
    division = json.loads((folder / "division.json").read_text(encoding="utf-8"))
    return {piece["part"] for piece in division["shards"] if piece["shard"] in there}


def _asked(*command: str) -> str:
    """What a command prints.

    Raises:
        Lost: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Lost(f"{' '.join(command[:2])}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
