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
    """

    def __init__(self, cohort: Cohort, fleet: Fleet, state: State):
        self._cohort, self._fleet = cohort, fleet
        working = memory.Working.through({fleet.layout.width: memory.told(fleet.training)})
        footprint = memory.need(fleet.program, per_run(cohort), working, state[0]).of(fleet.layout)
        layout, self._device = fleet.layout, fleet.home
        self._shared = self._device.platform == "cpu"
        self._bytes = {"bytes": footprint.parts(), "bytes_taken": footprint.taken(layout, self._shared)}
        there = footprint.state + footprint.settings + footprint.constants
        self._most = _resident() if self._shared else None
        self._before = None if self._most is None else self._most - layout.devices_used * there
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
            self._most = max(self._most, _resident() or 0)

    def measured_bytes(self) -> int | None:
        """Returns the most bytes that were taken: of a device, or of a CPU's devices and the host whenever one looked.

        None where the system doesn't tell.
        """
        if not self._shared:
            return (self._device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if self._most is None or self._before is None else self._most - self._before


def _resident() -> int | None:
    """Bytes of this process that are in memory and in no file, as Linux says them."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
