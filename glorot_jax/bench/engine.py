"""The engine as a contestant: one cohort on its devices, called as the drive loop calls it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from glorot_jax import Sweep, arrays, grid, log_spaced, mlp, sgd
from glorot_jax.bench.turns import Contestant
from glorot_jax.data.dataset import build
from glorot_jax.engine import devices
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.planning import plan
from glorot_jax.engine.segment import Pieces

BATCH = 10
HIDDEN = 5
CLASSES = 10
HELD_OUT = 10_000
"""Examples to validate on, and as many to test on, as in the quickstart."""
STEPS = 20_000
RECORD = log_spaced(per_decade=2)
"""Length and cadence of the quickstart."""


@dataclass(frozen=True)
class Size:
    """A network of five hidden layers, ten classes, and how many of it are trained on mini-batches of ten."""

    features: int
    width: int
    runs: int

    @property
    def network(self) -> str:
        return f"{self.features}-{self.width}×{HIDDEN}-{CLASSES}"

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Fan-in and fan-out of every layer."""
        return tuple(itertools.pairwise((self.features, *(self.width,) * HIDDEN, CLASSES)))

    @property
    def parameters(self) -> int:
        return sum(i * o + o for i, o in self.layers)

    @property
    def flops(self) -> float:
        """Floating-point operations in an update's matrix products: 2 · batch · fan-in · fan-out for each.

        There are three a layer: forward, gradient of the weights, gradient of the layer's input, which the first
        layer needs not.
        """
        (first_in, first_out), *_ = self.layers
        return 2.0 * BATCH * (3 * sum(i * o for i, o in self.layers) - first_in * first_out)

    @property
    def moved(self) -> float:
        """Bytes of four passes through all parameters: read forth, read back, and read and written by the update.

        So much an update moves if nothing stays in a cache from one to the next.
        """
        return 4.0 * 4 * self.parameters

    def sweep(self, data: Any = None, **changes: Any) -> Sweep:
        """Returns tanh networks on random bytes; every run of its own learning rate, four of each with seeds of their
        own where there are so many."""
        seeds = min(4, self.runs)
        rates = np.geomspace(1e-3, 1e-2, self.runs // seeds).tolist()
        settings = {
            "name": "benchmark",
            "data": random_bytes(self.features) if data is None else data,
            "model": mlp(widths=(self.width,) * HIDDEN),
            "optimizer": sgd(learning_rate=grid(*rates)),
            "seeds": range(seeds),
            "batch_size": BATCH,
            "steps": STEPS,
            "record": RECORD,
        }
        return Sweep(**settings | changes)


def random_bytes(shape: int | tuple[int, ...], classes: int = CLASSES) -> Any:
    """Returns held examples of the wanted shape: what they show does not matter for speed."""
    chance = np.random.default_rng(0)
    inputs = chance.integers(0, 256, (4 * HELD_OUT, *np.atleast_1d(shape)), np.uint8)
    labels = chance.integers(0, classes, len(inputs))
    return arrays(inputs, labels, validation=HELD_OUT, test=HELD_OUT, name="random bytes")


class Engine:
    """One cohort on all devices, timed by a clock of seconds.

    Args:
        width, kernel: runs vmapped together, and what makes an update, in place of the planner's choice.
    """

    def __init__(
        self,
        sweep: Sweep,
        width: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        kernel: str | None = None,
    ):
        self.clock = clock
        (cohort,) = plan.cohorts(sweep.runs())
        used = devices.local()
        self.program, self.layout, *_ = plan.program_for(cohort, build(cohort.runs[0].data), used, width, kernel)
        self.runs = len(cohort.runs)
        self.arrays = plan.per_run(cohort)
        self.fleet = Fleet(self.program, self.layout, self.arrays, used)
        self.state = self.fleet.start()
        self.step = 0
        self.steps(8)
        self.record()

    @property
    def contestant(self) -> Contestant:
        """Its steps without records; a segment has thousands."""
        return Contestant(self.steps, self.runs, least=64)

    def steps(self, count: int) -> float:
        """Trains all runs for so many steps without a record; returns seconds."""
        first = range(self.step, self.step + count, self.program.piece_steps)
        self.step += count
        return self._call([(f, min(self.program.piece_steps, self.step - f), -1, 0) for f in first])

    def record(self, due: int = 1) -> float:
        """Records all runs once, those schedules' probes that ``due`` names by bits; returns seconds."""
        return self._call([(self.step, 0, 0, due)])

    def _call(self, pieces: list[tuple[int, int, int, int]]) -> float:
        begin = self.clock()
        self.state, _ = self.fleet.train(Pieces.of(pieces), self.state)
        return self.clock() - begin


def records_a_step() -> float:
    """Returns how many records the quickstart makes for each of its updates."""
    return len(RECORD.steps(STEPS)) / STEPS
