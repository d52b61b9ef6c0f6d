"""Who is told how the work goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Watcher(Protocol):
    """Who is told how the work goes; ``glorot_jax.engine.progress`` has the ones that print."""

    def plan(self, sweep: str, work: int, already: int, runs: int) -> None: ...
    def phase(self, text: str) -> None: ...
    def advance(self, news: Advance) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Advance:
    """What a committed segment brought.

    Attributes:
        run_steps: made in it, all runs together.
        seconds: it took, compilation apart.
        step, steps: where its shard stands; below 0 it is pre-trained.
        alive, diverged, dropped: runs of the shard; those that had diverged when a search dropped them are diverged.
        rate: run-steps per second while it trains, records apart.
        seconds_left: until the shard is done, records included.
        valid_error: newest validation error by run name; diverged runs are left out.
        first_step: where the shard began: below 0 with pre-training.
    """

    run_steps: int
    seconds: float
    step: int
    steps: int
    alive: int
    diverged: int
    rate: float
    seconds_left: float
    valid_error: Mapping[str, float]
    first_step: int = 0
    dropped: int = 0


class Silent:
    """Tells nobody."""

    def plan(self, sweep: str, work: int, already: int, runs: int) -> None: ...
    def phase(self, text: str) -> None: ...
    def advance(self, news: Advance) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...
