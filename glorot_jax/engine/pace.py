"""What a step and a record take, learned on the way, and so how long the next segment may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glorot_jax.engine.least_squares import nonnegative

FIRST_STEPS = 8
"""Steps of a segment as long as nobody knows what a step takes."""
GROWTH = 16
"""Times that a segment may be as long as the longest before it."""


class Pace:
    """What a step and a record take, learned from the segments so far, and how many fit into the next."""

    def __init__(self, target: float, first_steps: int = FIRST_STEPS):
        self.target, self.first_steps = target, first_steps
        self._seen: list[tuple[int, int, float]] = []
        self.step = self.record = 0.0

    def budget(self) -> Budget:
        if not self._seen:  # the record of step 0 alone, to show soon
            return Budget(steps=self.first_steps, seconds=-1.0, step=0.0, record=0.0)
        # What little has been seen may mislead: no segment is many times as long as the longest so far.
        most = GROWTH * max(max(steps for steps, _, _ in self._seen), FIRST_STEPS / GROWTH)
        return Budget(
            steps=max(1, int(min(most, self.target / max(self.step, 1e-9)))),
            seconds=self.target,
            step=self.step,
            record=self.record,
        )

    def learn(self, steps: int, records: int, seconds: float) -> None:
        """Takes in one segment: least squares on relative errors over the last eight, neither cost below 0."""
        self._seen.append((steps, records, max(seconds, 1e-6)))
        rows = np.array([[s / t, r / t] for s, r, t in self._seen[-8:]])
        self.step, self.record = nonnegative(rows, np.ones(len(rows)))

    def scale(self, factor: float) -> None:
        """Takes it that all will take so many times what it took."""
        self._seen = [(steps, records, seconds * factor) for steps, records, seconds in self._seen]
        self.step, self.record = self.step * factor, self.record * factor

    def left(self, steps: int, records: int) -> float:
        """Returns the seconds that so much work will take."""
        return steps * self.step + records * self.record


@dataclass
class Budget:
    steps: int
    seconds: float
    step: float
    record: float
    spent: float = 0.0
    begun: bool = False

    def allows(self, count: int) -> bool:
        """Whether a record after ``count`` more steps still fits; the first always does."""
        return not self.begun or self.spent + count * self.step + self.record <= self.seconds

    def spend(self, count: int, record: bool) -> None:
        self.begun = True
        self.steps -= count
        self.spent += count * self.step + self.record * record

    @property
    def empty(self) -> bool:
        return self.steps <= 0 or self.spent > self.seconds
