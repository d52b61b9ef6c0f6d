"""Workers, each a process that trains one part of a sweep: their command, and how they are kept going on a machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from glorot_jax.launching.codes import FINAL, shell, together
from glorot_jax.launching.standing import View

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a new start, the first and the longest: a full disk or a busy device may want a moment."""
LIVED = 600.0
"""Seconds of life after which a worker's death counts as the first of its part."""
LAST_WORDS = 20
"""Lines of what a worker wrote to standard error that are shown when it ends badly."""
WATCHED = "GLOROT_STOP_AT_END_OF_INPUT"
"""Environment variable that, if set, lets a worker save and stop when its standard input ends: with its launcher."""


def command(arguments: Sequence[str], shard: tuple[int, int] | None = None) -> list[str]:
    """Returns the command line of one worker.

    Args:
        arguments: of ``glorot run``: the sweep, ``--out`` and whatever else.
        shard: which part of how many it trains, counted from 0; the whole sweep if not said.
    """
    part = [] if shard is None else ["--shard", f"{shard[0]}/{shard[1]}"]
    return [sys.executable, "-m", "glorot_jax.cli", "run", *arguments, *part]


def stop_at_end_of_input() -> None:
    """Sends this process SIGTERM as soon as its standard input ends, however the process at the other end ended."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stop at end of input", daemon=True).start()


@dataclass(frozen=True)
class Place:
    """Where a worker runs: what its environment says of devices, and its cores, all if none are named."""

    environment: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()


def supervise(commands: Sequence[Sequence[str]], places: Sequence[Place], restarts: int, view: View) -> int:
    """Runs the commands of all parts, as many at once as there are places, and again those that die.

    SIGINT and SIGTERM are passed on, each as often as it comes; SIGHUP as SIGTERM. Nothing is started after one.

    Args:
        restarts: times that a part may start again.
        view: told how all stand.

    Returns:
        0 if all parts are done, 2 if one was refused, 1 if one died once too often, 130 or 143 after a stop.
    """
    free, waiting, codes = list(places), [_Part(i, line, len(commands)) for i, line in enumerate(commands)], []
    at_work: list[_Worker] = []
    told: set[str] = set()
    with heard() as stops, view.open():
        while at_work or (waiting and not stops):
            for part in [p for p in waiting if not stops and p.not_before <= time.monotonic()][: len(free)]:
                waiting.remove(part)
                at_work.append(_Worker(part, free.pop(0)))
            for worker in list(at_work):
                worker.pass_on(stops)
                if (code := worker.code()) is None:
                    continue
                at_work.remove(worker)
                free.append(worker.place)
                words = worker.last_words()
                if code and words and words not in told:  # what all of them say is said once
                    told.add(words)
                    view.say(words)
                if code in FINAL or stops or worker.part.deaths == restarts:
                    codes.append(code)
                    waiting = [] if code == 2 else waiting
                else:
                    waiting.append(worker.part)
                    view.say(f"{worker.part.died(code, worker.seconds())} ({worker.part.deaths} of {restarts})")
            view.show(len(at_work), len(waiting))
            time.sleep(0.1)
        view.show(0, len(waiting), now=True)
    return together(codes, bool(waiting), stops)


@contextlib.contextmanager
def heard() -> Iterator[list[int]]:
    """Yields a list that gets SIGINT, SIGTERM and SIGHUP as they come, those that are not ignored.

    The handlers of before are put back behind it.
    """
    came: list[int] = []
    caught = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = [signal.signal(number, lambda n, _: came.append(n)) for number in caught]
    try:
        yield came
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)


def pause(deaths: int) -> float:
    """Returns the seconds before a part starts again whose worker has died so often: twice as many each time."""
    return min(LONGEST_PAUSE, PAUSE * 2 ** max(0, deaths - 1))


@dataclass
class _Part:
    """One of the parts; how often its worker died, and when it may start again."""

    number: int
    command: Sequence[str]
    of: int
    deaths: int = 0
    not_before: float = 0.0

    def died(self, code: int, seconds: float) -> str:
        """Notes that its worker died after so many seconds, and returns what is to be said of it."""
        self.deaths = 1 if seconds > LIVED else self.deaths + 1
        wait = pause(self.deaths)
        self.not_before = time.monotonic() + wait
        who = f"part {self.number} of {self.of}" if self.of > 1 else "the worker"
        how = f"by signal {code - 128}" if code > 128 else f"with exit code {code}"
        return f"{who} ended {how}; starting again in {wait:.0f} s"


class _Worker:
    """A process at work on a part, in a process group of its own: a terminal's Ctrl-C reaches it only as passed on."""

    def __init__(self, part: _Part, place: Place):
        self.part, self.place = part, place
        self._passed = 0
        self._begin = time.monotonic()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115, closed when it has ended
        ours = os.sched_getaffinity(0) if place.cores else None
        if place.cores:
            os.sched_setaffinity(0, place.cores)  # the process inherits it
        try:
            self._process = subprocess.Popen(
                part.command,
                env={**os.environ, **place.environment, WATCHED: "1"},
                stdin=subprocess.PIPE,  # it ends with this process, and the worker with it
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                process_group=0,
            )
        finally:
            if ours:
                os.sched_setaffinity(0, ours)

    def pass_on(self, stops: Sequence[int]) -> None:
        """Sends the signals that came since it was last called."""
        for number in stops[self._passed :]:
            self._process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        self._passed = len(stops)

    def code(self) -> int | None:
        """Returns its exit code, as a shell counts; None as long as it is at work."""
        code = self._process.poll()
        return None if code is None else shell(code)

    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def last_words(self) -> str:
        """Returns the last of what it wrote to standard error, once it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with self._words as file:
            file.seek(0)
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-LAST_WORDS:])
