"""Fair timing: contestants take turns in one process, round after round, each for about as long."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

Clock = Callable[[], float]
MOST = 50_000
"""Steps in one turn."""


class Contestant(NamedTuple):
    """Something that trains.

    Attributes:
        steps: trains all its runs for so many steps and returns when that is done.
        runs: how many it trains at once.
        least: steps of a turn, where a call has costs of its own that training as it is does not have so often.
    """

    steps: Callable[[int], object]
    runs: int
    least: int = 1


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Returns the seconds that it takes."""
    begin = clock()
    work()
    return clock() - begin


def take_turns(
    contestants: Mapping[str, Contestant],
    rounds: int,
    seconds: float,
    clock: Clock = time.perf_counter,
    beside: Mapping[str, Callable[[], float]] | None = None,
) -> dict[str, list[float]]:
    """Returns the seconds of a run-step of every contestant in every round.

    Args:
        seconds: of a turn, about; how many steps that is, is tried out before the first round.
        beside: what is measured in every round, too, by name: it returns its own number.
    """
    counts = {name: _steps_in(seconds, one, clock) for name, one in contestants.items()}
    seen: dict[str, list[float]] = {name: [] for name in (*contestants, *(beside or {}))}
    for _ in range(rounds):
        for name, one in contestants.items():
            taken = timed(partial(one.steps, counts[name]), clock)
            seen[name].append(taken / (counts[name] * one.runs))
        for name, measure in (beside or {}).items():
            seen[name].append(measure())
    return seen


def _steps_in(seconds: float, one: Contestant, clock: Clock) -> int:
    one.steps(1)  # what is compiled is compiled here
    count = 1
    while (taken := timed(partial(one.steps, count), clock)) < seconds / 4 and count < MOST:
        count *= 4
    return max(one.least, min(MOST, round(count * seconds / max(taken, 1e-9))))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Returns the median over rounds of how many times longer one took than the other."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))
