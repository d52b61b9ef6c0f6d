"""Who of a shard's runs still trains and lies where, and the state of all of them on the host.

A run is lost when it has diverged, or when a search has dropped it. Its state and its records stay as they were when
it was lost, and its place is free once the others, moved together, fill fewer blocks: whose place is whose never
changes a bit of anybody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from glorot_jax.engine.layout import Layout

Flat = dict[str, np.ndarray]


class Places:
    """The places of a shard's runs.

    Args:
        layout: of all its runs.
        dropped: indices of runs that a search has dropped.
        state: path -> (runs, …) of all runs, if they have begun.

    Attributes:
        runs: indices of those that lie in a block, in the order of their places.
        layout: of these.
        state: path -> (runs, …) of all runs; for those in a block, as it was when it was last taken.
    """

    def __init__(self, layout: Layout, dropped: Iterable[int] = (), state: Mapping[str, np.ndarray] | None = None):
        self.dropped, self.state = set(dropped), {k: np.array(v) for k, v in (state or {}).items()}
        self._all = layout
        self.runs, self.layout = np.arange(layout.runs), layout
        if self.state:
            self._settle(self.alive())

    def alive(self) -> np.ndarray:
        """Returns the indices of the runs that are not lost, in the order of their places."""
        from glorot_jax.engine.segment import ALIVE

        lost = self.state["diverged_step"] != ALIVE if self.state else np.zeros(self._all.runs, bool)
        return np.array([run for run in self.runs if not lost[run] and run not in self.dropped], int)

    def make_room(self) -> None:
        """Forgets the state that the next ``take`` replaces as a whole, so that memory never holds both."""
        if len(self._mine()) == self._all.runs:
            self.state = {}

    def take(self, gathered: Flat) -> None:
        """Takes in the state (places, …) of the runs in the blocks; what was dropped stays as it was."""
        mine = self._mine()
        if len(mine) == self._all.runs:
            self.state = gathered
            return
        for name, array in gathered.items():
            self.state[name][self.runs[mine]] = array[mine]

    def marked(self) -> Flat:
        """Returns the state (runs, …) of all runs as devices take it: what was dropped is marked as lost.

        Lost runs make no update, which some kernels know to leave out.
        """
        marks = {name: self.state[name].copy() for name in ("diverged_step", "first_nonfinite")}
        for mark in marks.values():
            mark[list(self.dropped)] = 0  # anything but ALIVE
        return self.state | marks

    def whole(self, records: Flat) -> Flat:
        """Returns records (places, records, …) as those of all runs, NaN for the others."""
        mine = self._mine()
        if len(mine) == self._all.runs:
            return records
        made = {k: np.full((self._all.runs, *v.shape[1:]), np.nan, v.dtype) for k, v in records.items()}
        for name, array in records.items():
            made[name][self.runs[mine]] = array[mine]
        return made

    def drop(self, runs: Iterable[int]) -> None:
        """Loses runs: as they are now they stay."""
        self.dropped |= set(runs)

    def tighten(self) -> bool:
        """Moves the runs that are left together, if that frees a block on the busiest device or nobody is left.

        Returns:
            Whether anybody was moved.
        """
        alive = self.alive()
        after = dataclasses.replace(self._all, runs=len(alive)).blocks_per_device
        if after == self.layout.blocks_per_device:
            return False
        self._settle(alive)
        return True

    def _settle(self, alive: np.ndarray) -> None:
        """The lost end as runs that stay in a block do: the last record empties their sum of losses."""
        lost = np.setdiff1d(np.arange(self._all.runs), alive)
        for name in ("loss_sum", "loss_count"):
            if len(lost):
                self.state[name][lost] = 0
        self.runs, self.layout = alive, dataclasses.replace(self._all, runs=len(alive))

    def _mine(self) -> np.ndarray:
        """The places whose runs were not dropped."""
        return np.array([place for place, run in enumerate(self.runs) if run not in self.dropped], int)
