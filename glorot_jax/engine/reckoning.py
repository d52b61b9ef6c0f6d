"""What is planned for a shard and what it turns out to take: noted in its manifest, for ``glorot status``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from glorot_jax.engine import compiling, memory
from glorot_jax.engine import cost as costs
from glorot_jax.engine.plan import Cohort, per_run

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
        self._before = _resident("VmRSS", -layout.devices_used * there) if self._shared else None
        self._most = _resident("VmHWM") if self._shared else None
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

    def measured_bytes(self) -> int | None:
        """Returns the most bytes that were taken so far: of a device, or of a CPU's devices and the host together.

        None where the system doesn't tell, or where compiling took more before.
        """
        if not self._shared:
            said = self._device.memory_stats() or {}
            return said.get("peak_bytes_in_use")
        peak = _resident("VmHWM")
        if peak is None or self._most is None or self._before is None or peak <= self._most:
            return None
        return peak - self._before


def _resident(name: str, plus: int = 0) -> int | None:
    """Bytes of this process in memory as Linux says them: ``VmRSS`` now, ``VmHWM`` at most so far."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 + plus for line in lines if line.startswith(f"{name}:")), None)
