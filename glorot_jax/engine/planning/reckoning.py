"""What is planned for a shard and what it turns out to take: noted in its manifest, for ``glorot status``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from glorot_jax.engine import compiling
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning import memory
from glorot_jax.engine.planning.plan import Cohort, per_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from glorot_jax.engine.fleet import Fleet, State

_STATUS = Path("/proc/self/status")


class Reckoning:
    """A shard's reckoning on this process' devices.

    Args:
        fleet: with its training program compiled.
        state: of the fleet's runs, there already.
        before: what ``held`` said before the first shard of this process had a fleet; one copy of the examples was
            there.
    """

    def __init__(self, cohort: Cohort, fleet: Fleet, state: State, before: int | None):
        self._cohort, self._fleet = cohort, fleet
        told = memory.told(fleet.training, fleet.compilation.operations)
        working = memory.Working.through({fleet.layout.width: told})
        footprint = memory.need(fleet.program, per_run(cohort), working, state[0], cohort).of(fleet.layout)
        layout, self._device = fleet.layout, fleet.home
        self._shared = self._device.platform == "cpu"
        self._bytes = {"bytes": footprint.parts(), "bytes_taken": footprint.taken(layout, self._shared)}
        self._before = None if before is None else before - memory.tree_bytes(fleet.program.setup.dataset.constants())
        self._most = held() if self._shared else None
        self.compilation = compiling.summary(fleet.compilations)

    def planned(self, probes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a manifest holds of what is expected; keeps what compiling took for the next plan.

        Args:
            probes: what it holds of the probes, see ``cost.picked``.
        """
        signature = costs.signature(self._cohort, self._fleet.program.kernel)
        before = compiling.remembered(signature)
        compiling.remember(signature, self._fleet.compilation)
        layout, known = self._fleet.layout, probes["planned"]
        step = None if known is None else known["step_seconds"] * layout.blocks_per_device / layout.runs
        return {**self._bytes, "compile_seconds": before, "seconds_per_run_step": step}

    def look(self) -> None:
        """Takes in what a CPU's devices and the host hold at the moment; of an accelerator nothing is missed."""
        if self._most is not None:
            self._most = max(self._most, held() or 0)

    def measured_bytes(self) -> int | None:
        """Returns the most bytes that were taken; None where the system doesn't tell.

        Of an accelerator those of its first device at any time. Of a CPU, whose devices and host share one memory, all
        that this process held in no file whenever one looked, from the first step on, less what it held ``before``:
        arrays, programs, libraries, and what is left of compiling them.
        """
        if not self._shared:
            return (self._device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if self._most is None or self._before is None else self._most - self._before


def held() -> int | None:
    """Returns the bytes of this process that are in memory and in no file, as Linux says them; None elsewhere."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
