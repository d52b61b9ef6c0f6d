"""The programs of a sweep's cohorts on some devices, each traced once, and the fleet that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.engine import allocator
from glorot_jax.engine.peers import ALONE, Peers
from glorot_jax.engine.planning.plan import Cohort, per_run, program_for, shared, waves
from glorot_jax.engine.team import Room

if TYPE_CHECKING:
    import jax

    from glorot_jax.engine.fleet import Fleet
    from glorot_jax.engine.layout import Layout
    from glorot_jax.engine.planning.grouping import Fuse
    from glorot_jax.engine.planning.plan import Whys
    from glorot_jax.engine.planning.sharing import Shared
    from glorot_jax.engine.segment import Program
    from glorot_jax.engine.sweep import Run


class Programs:
    """The programs of cohorts on some devices, each traced once, and what is compiled of them.

    Attributes:
        held: bytes of this process before its first fleet, see ``reckoning.held``.
    """

    def __init__(self, devices: Sequence[jax.Device], calibrate: bool, fuse: Fuse, peers: Peers = ALONE):
        self.devices, self.calibrate, self.fuse, self.peers = devices, calibrate, fuse, peers
        self._shared: dict[tuple[str, ...], Shared] = {}
        self._built: dict[str, tuple[Program, Layout, Whys]] = {}
        self._fleet: Fleet | None = None
        self.held: int | None = None

    def of(self, cohort: Cohort, width: int | None, kernel: str | None) -> tuple[Program, Layout]:
        """A cohort's program and where its runs lie; at any width and with any kernel if none is said."""
        found = self._built.get(cohort.program)
        if found is None or width not in (None, found[0].width) or kernel not in (None, found[0].kernel):
            return self.anew(cohort, width, kernel)
        return found[0], replace(found[1], runs=len(cohort.runs))

    def anew(self, cohort: Cohort, width: int | None, kernel: str | None) -> tuple[Program, Layout]:
        """The same, chosen for these runs whatever was chosen before; from now on it is their cohort's."""
        from glorot_jax.data.dataset import build

        dataset = build(cohort.runs[0].data)
        found = program_for(cohort, dataset, self.devices, width, kernel, calibrate=self.calibrate)
        self._built[cohort.program] = found
        return found[:2]

    def waves(self, cohort: Cohort, at_once: int | None, width: int | None, kernel: str | None) -> list[Cohort]:
        """The cohort in parts that train one after the other: as many runs as are asked for, or fit into memory."""
        return waves(cohort, self.at_once(cohort, width, kernel) if at_once is None else at_once)

    def at_once(self, cohort: Cohort, width: int | None, kernel: str | None) -> int:
        """How many of a cohort's runs fit into memory."""
        from glorot_jax.data.dataset import build

        program, _ = self.of(cohort, width, kernel)
        _, layout, whys = self._built[cohort.program]
        if layout.runs <= whys.at_once < len(cohort.runs):  # it was asked for fewer, which all fit
            dataset = build(cohort.runs[0].data)
            _, _, whys = program_for(cohort, dataset, self.devices, program.width, program.kernel)
        return whys.at_once

    def room(self, cohort: Cohort, at_once: int | None, width: int | None, kernel: str | None) -> Room:
        """What fits of a cohort's runs, where so many are asked for at once."""
        from glorot_jax.data.memory import free_on_host
        from glorot_jax.engine.planning import memory

        fit = self.at_once(cohort, width, kernel)
        if self.devices[0].platform == "cpu":
            return Room(at_once or fit, 2 * fit, shared=True)
        each, there = memory.need(self.of(cohort, width, kernel)[0], per_run(cohort)).chunk.copied, free_on_host()
        # What is read of one shard is there beside what is put together of all.
        return Room(at_once or fit, len(cohort.runs) if there is None else there // (2 * each), shared=False)

    def shared(self, runs: Sequence[Run], kernel: str | None) -> tuple[Cohort, ...]:
        """The runs' cohorts, those that share a program as one; decided once."""
        name = tuple(run.id for run in runs)
        if name not in self._shared:
            self._shared[name] = shared(runs, self.fuse, self.devices, kernel, stopwatch=self.calibrate)
        return self._shared[name].cohorts

    def why_shared(self, cohort: Cohort) -> str | None:
        """Why a cohort shares its program, or has its own, where it had a choice."""
        return next((why for made in self._shared.values() if (why := made.why(cohort)) is not None), None)

    def width(self, cohort: Cohort) -> dict[str, Any]:
        """What a manifest says of the width of a cohort whose program is there."""
        _, _, whys = self._built[cohort.program]
        return {"why": whys.width.why, **whys.width.to_dict()}

    def fleet(self, program: Program, layout: Layout, arrays: Mapping[str, np.ndarray]) -> Fleet:
        """A fleet whose places these runs have: that of the runs before, where its program serves them, too."""
        import jax

        from glorot_jax.engine.fleet import Fleet
        from glorot_jax.engine.planning.reckoning import held

        if self.held is None:
            allocator.trim()  # what was needed to make the examples
            self.held = held()
        if self._fleet is not None and self._fleet.program is program:
            self._fleet.lay(layout, arrays)
        else:
            if self._fleet is not None:  # its data, and what was compiled for it, leave before others come
                self._fleet = None
                jax.clear_caches()  # JAX would keep every program, some 100 MB each
            self._fleet = Fleet(program, layout, arrays, self.devices, self.peers)
        return self._fleet
