"""Where the sweep of a results folder stands while workers train it: read from its manifests, shown in one line."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from glorot_jax.engine.progress import SETTLED
from glorot_jax.errors import InputError, ResumableError
from glorot_jax.units import span

WINDOW = 300.0
"""Seconds over which the speed is taken."""
PATIENCE = 60.0
"""Seconds of training from which on the speed is told, however little was done."""
LAST_PATIENCE = 10.0
"""Seconds that an object store is waited for at the end."""


class Standing(NamedTuple):
    """What the manifests of a results folder say.

    Attributes:
        runs: that the sweep names, or that are there, whichever are more.
        share: of the steps of all runs, in [0, 1]; runs that nobody has begun count as long as the others.
        diverged: runs.
        run_steps: made so far.
    """

    runs: int
    share: float
    diverged: int
    run_steps: int


def standing(results: str | Path) -> Standing | None:
    """Returns where the sweep of a results folder stands; None before it was begun, or where nobody can tell now.

    Its writers may be at work.

    Args:
        results: a folder, or the URL of an object store.
    """
    try:
        folder = _local(results)
        description = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("shards/*/manifest.json")]
    except (OSError, InputError, ResumableError):
        return None
    there = sum(manifest["runs"] for manifest in found)
    runs, made = max(len(description["runs"]), there), 0.0
    for manifest in found:
        first = manifest.get("first_step", 0)
        made += manifest["runs"] * (manifest["step"] - first) / max(1, manifest["steps"] - first)
    steps = sum(manifest.get("run_steps", 0) for manifest in found)
    return Standing(runs, made / max(1, runs), sum(len(manifest["diverged"]) for manifest in found), steps)


def _local(results: str | Path) -> Path:
    if not _far(results):
        return Path(results)
    from glorot_jax.store.mirror import mirror

    return mirror(str(results))


def _far(results: str | Path) -> bool:
    return "://" in str(results)


class View:
    """Where all workers stand, on standard error: a steady line in a terminal, a plain one now and then elsewhere.

    Args:
        results: the folder whose manifests are read.
        quiet: show nothing but what is said.
    """

    def __init__(self, results: str | Path, quiet: bool = False):
        self.results, self.quiet = results, quiet
        self._begin, self._next = time.monotonic(), 0.0
        self._seen: list[tuple[float, Standing]] = []
        self._asks: threading.Thread | None = None
        self._heard: Standing | None = None
        self._status: Any = None
        if not quiet and sys.stderr.isatty() and "CI" not in os.environ and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")

    def open(self) -> AbstractContextManager:
        """Within it the terminal's line stands; behind it the terminal is as it was."""
        return self._status or nullcontext()

    def say(self, text: str) -> None:
        """Prints lines that stay."""
        if self._status is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._status.console.print(text, highlight=False, markup=False)

    def show(self, at_work: int, waiting: int = 0, now: bool = False) -> None:
        """Shows how far all is, if it is time for that or ``now`` is said; may be called as often as one likes.

        Args:
            at_work: workers.
            waiting: parts that no worker has taken.
        """
        clock = time.monotonic()
        if self.quiet or (clock < self._next and not now) or (stands := self._stands(now)) is None:
            return
        often = self._status and not _far(self.results)
        self._next = clock + (1.0 if often else 10.0 if clock - self._begin < 600 else 60.0)
        parts = [f"{stands.runs} runs", f"{stands.share:.0%}"]
        parts += [f"{at_work} at work"] if at_work else []
        parts += [f"{waiting} waiting"] if waiting else []
        if at_work and stands.share < 1:
            parts += self._pace(clock, stands)
        parts += [f"{stands.diverged} diverged"] if stands.diverged else []
        line = " · ".join(parts)
        if self._status is None:
            self.say(line)
        else:
            self._status.update(line)

    def _stands(self, now: bool) -> Standing | None:
        """Of a folder where it stands; of a store, that may keep one waiting, what was heard last."""
        if not _far(self.results):
            return standing(self.results)
        if self._asks is None or not self._asks.is_alive():
            self._asks = threading.Thread(target=self._ask, daemon=True)
            self._asks.start()
        self._asks.join(LAST_PATIENCE if now else 0)
        return self._heard

    def _ask(self) -> None:
        self._heard = standing(self.results)

    def _pace(self, clock: float, stands: Standing) -> list[str]:
        """Speed and end, as of the last minutes; the start of JAX, in which nothing is trained, does not count."""
        seen = self._seen
        seen.append((clock, stands))
        while len(seen) > 2 and (seen[1][1].share == seen[0][1].share or clock - seen[1][0] > WINDOW):
            seen.pop(0)
        since, before = seen[0]
        made, passed = stands.share - before.share, clock - since
        if made <= 0 or (made < SETTLED and passed < PATIENCE):
            return []
        left = (1 - stands.share) * passed / made
        speed = (stands.run_steps - before.run_steps) / passed
        ready = datetime.now() + timedelta(seconds=left)
        return [f"{speed:,.0f} run-steps/s", f"ready {ready:%H:%M}, {span(left)} left"]
