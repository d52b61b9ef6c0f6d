"""Accidents of one program of two processes on this machine: one of them is killed, frozen, or asked to stop."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from glorot_jax.drill.case import ARGUMENTS, Case, Lost, Told, TooLate, tried
from glorot_jax.drill.local import undone
from glorot_jax.drill.processes import Process, children, ends_well, kill_all, launching, share, worker

PROCESSES = 2
HEARTBEAT = 10
"""Seconds after which the others give up a process that no longer answers."""
SLACK = 20.0
"""Seconds beyond that until they are gone, on a busy machine."""
TRIES = 5
"""Times that an accident is tried which came too late."""
GOES_ON = "what was committed is whole, the same command goes on"


def why_not() -> str | None:
    """Returns None: processes of one machine find each other on loopback."""
    return None


def cases(work: Path) -> list[Case]:
    """Returns each kind once, struck while it trains."""
    return [Case(name, functools.partial(tried, TRIES, kind)) for name, kind in KINDS.items()]


# ---- the kinds


def other_killed(folder: Path) -> Told:
    """A process that only trains."""
    with _Program(folder) as program:
        when = _midway(program)
        os.kill(_process(program, 1), signal.SIGKILL)
        seconds = _died(program)
    lost = undone(folder)
    ends_well(_Program(folder))
    return Told(f"SIGKILL to process 1 {when}: the other stopped after {seconds:.1f} s; done by two", lost=(lost,))


def first_killed(folder: Path) -> Told:
    """The process that decides and writes."""
    with _Program(folder) as program:
        when = _midway(program)
        os.kill(_process(program, 0), signal.SIGKILL)
        lost = undone(folder)
        seconds = _died(program)
    ends_well(worker(folder))
    return Told(f"SIGKILL to process 0 {when}: the other stopped after {seconds:.1f} s; done by one", lost=(lost,))


def frozen(folder: Path) -> Told:
    """A process that does not answer for longer than the heartbeat, and then wakes up."""
    with _Program(folder) as program:
        when = _midway(program)
        asleep, other = _process(program, 1), _process(program, 0)
        os.kill(asleep, signal.SIGSTOP)
        try:
            gone = program.until(lambda: other not in children(program.pid))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(asleep, signal.SIGCONT)
        if not gone:
            raise Lost(f"the program ended while a process of it stood still: {program.last_line()}")
        _died(program)
    ends_well(_Program(folder))
    return Told(f"SIGSTOP to process 1 {when}: given up, and woken it left; done by two")


def stopped(folder: Path) -> Told:
    """A signal to one is a signal to all."""
    with _Program(folder) as program:
        when = _midway(program)
        begin = time.monotonic()
        os.kill(_process(program, 1), signal.SIGTERM)
        if (code := program.code()) == 0:
            raise TooLate
        if code != 143:
            raise Lost(f"after SIGTERM to process 1 it ended with exit code {code}: {program.last_line()}")
        seconds = time.monotonic() - begin
    kept = share(folder)
    ends_well(worker(folder))
    said = f"SIGTERM to process 1 {when}: both saved at {kept:.0%} and gone in {seconds:.1f} s; done by one"
    return Told(said, stops=(seconds,))


KINDS: dict[str, Callable[[Path], Told]] = {
    "SIGKILL of one": other_killed,
    "SIGKILL of the first": first_killed,
    "SIGSTOP of one": frozen,
    "SIGTERM to one": stopped,
}


# ---- what they need


class _Program(Process):
    """The processes that train the sweep as one program, and what has started them."""

    def __init__(self, folder: Path):
        own = ("--local", str(PROCESSES), "--heartbeat", str(HEARTBEAT), "--no-progress", "--out", str(folder))
        super().__init__(launching("multihost", *ARGUMENTS, *own), folder)

    def __exit__(self, *error: object) -> None:
        kill_all(children(self.pid) if self.alive() else ())
        super().__exit__(*error)


def _midway(program: _Program) -> str:
    """Waits for the first commit and returns where it was, in words."""
    if not program.until(lambda: share(program.folder) > 0):
        raise TooLate
    return f"at {share(program.folder):.0%}"


def _process(program: _Program, index: int) -> int:
    """The process of the program that has this index."""
    for child in children(program.pid):
        asked = ["ps", "-ww", "-o", "args=", "-p", str(child)]
        if f"--process-id {index} " in subprocess.run(asked, capture_output=True, text=True).stdout:
            return child
    if program.alive():
        raise Lost(f"process {index} is not there: {program.last_line()}")
    raise TooLate


def _died(program: _Program) -> float:
    """Waits until all processes are gone, and returns the seconds that this took.

    Raises:
        Lost: it took longer than the heartbeat allows, or they did not say how it goes on.
    """
    begin = time.monotonic()
    code, seconds = program.code(), time.monotonic() - begin
    if code == 0:
        raise TooLate
    if code != 1 or GOES_ON not in program.last_line():
        raise Lost(f"when one had died the program ended with exit code {code}: {program.last_line()}")
    if seconds > HEARTBEAT + SLACK:
        raise Lost(f"when one had died the others went on for {seconds:.0f} s")
    return seconds
