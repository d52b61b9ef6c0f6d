"""What training takes at least on accelerators of published speed: arithmetic and memory traffic, nothing measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from glorot_jax.units import wrapped


class Accelerator(NamedTuple):
    """One chip as its maker describes it.

    Attributes:
        flops: float32 additions and multiplications a second in dense products of full precision, at most.
        bandwidth: bytes a second between chip and memory, at most.
        memory: bytes.
        source: where the numbers stand.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    source: str


_PASSES = 6
"""bfloat16 products that a TPU makes for one of float32 at JAX's highest precision, which all our networks ask for."""

ACCELERATORS = (
    Accelerator("H100 SXM", 67e12, 3.35e12, 80e9, "NVIDIA H100 Tensor Core GPU datasheet: FP32, memory bandwidth"),
    Accelerator("A100 SXM", 19.5e12, 2.039e12, 80e9, "NVIDIA A100 Tensor Core GPU datasheet, 80 GB: FP32, bandwidth"),
    Accelerator("TPU v4", 275e12 / _PASSES, 1.2e12, 32e9, "Google Cloud documentation, TPU v4: peak bf16, HBM"),
    Accelerator("TPU v5e", 197e12 / _PASSES, 0.819e12, 16e9, "Google Cloud documentation, TPU v5e: peak bf16, HBM"),
)


@dataclass(frozen=True)
class Work:
    """The updates of runs that are alike, without their probes.

    Attributes:
        runs, steps: how many, and how many updates of each.
        flops: floating-point operations of one update of one run.
        counted: whether the compiler counted them, in the program before it is optimized, with whatever an optimizer
            does at intervals; else they are six for each parameter and example.
        moved: bytes that one update moves at least, if not even the runs that are vmapped together fit into a cache:
            parameters read forth and back, all state read and written.
        state: bytes of one run's state.
    """

    runs: int
    steps: int
    flops: float
    counted: bool
    moved: float
    state: float

    @property
    def run_steps(self) -> int:
        return self.runs * self.steps

    def seconds(self, chip: Accelerator) -> tuple[float, float]:
        """Returns seconds of all updates on one chip: by arithmetic, and by traffic. The larger one is the bound."""
        return self.run_steps * self.flops / chip.flops, self.run_steps * self.moved / chip.bandwidth


def work(runs: int, steps: int, parameters: int, batch_size: int, state: float, flops: float | None) -> Work:
    """Returns the updates of runs that are alike; ``flops`` is None where the compiler doesn't count them."""
    counted = flops is not None
    return Work(
        runs=runs,
        steps=steps,
        flops=flops if flops is not None else 6.0 * parameters * batch_size,
        counted=counted,
        moved=2 * 4 * parameters + 2 * state,
        state=state,
    )


def table(parts: Sequence[Work], run_steps_per_second: float | None) -> dict[str, Any]:
    """Returns what all parts take together, in JSON's terms: sums, and for each accelerator the bound on its time.

    Args:
        run_steps_per_second: a throughput that was measured or is hoped for, of which the hours follow.
    """
    run_steps = sum(part.run_steps for part in parts)
    found: dict[str, Any] = {
        "run_steps": run_steps,
        "flops": sum(part.run_steps * part.flops for part in parts),
        "bytes_moved": sum(part.run_steps * part.moved for part in parts),
        "state_bytes": sum(part.runs * part.state for part in parts),
        "accelerators": [_on(chip, parts, run_steps) for chip in ACCELERATORS],
    }
    if run_steps_per_second is not None:
        found["stated"] = {
            "run_steps_per_second": run_steps_per_second,
            "hours": run_steps / run_steps_per_second / 3600,
        }
    return found


def _on(chip: Accelerator, parts: Sequence[Work], run_steps: int) -> dict[str, Any]:
    times = [part.seconds(chip) for part in parts]
    seconds, by_traffic = sum(map(max, times)), sum(max(pair) for pair in times if pair[1] >= pair[0])
    return {
        "accelerator": chip.name,
        "flops_per_second": chip.flops,
        "bytes_per_second": chip.bandwidth,
        "bound_by": "bandwidth" if 2 * by_traffic >= seconds else "arithmetic",
        "seconds_per_run_step": seconds / max(run_steps, 1),
        "hours": seconds / 3600,
        "chips_for_state": -(-sum(part.runs * part.state for part in parts) // chip.memory),
        "source": chip.source,
    }


def text(found: dict[str, Any]) -> list[str]:
    """Returns what ``table`` found as lines of a plan."""
    lines = [
        *wrapped(
            f"all updates: {found['run_steps']:,.0f} run-steps · {said(found['flops'], 'FLOP')} · "
            f"{said(found['bytes_moved'], 'B')} moved · {said(found['state_bytes'], 'B')} of state",
            "  ",
        ),
        *wrapped(
            "bounds, probes apart: one chip that does nothing but multiply at its published peak, or move weights and "
            "state at its published bandwidth, whichever is longer, µs a run-step and in all; only runs that stay in a "
            "cache together can be quicker than that",
            "  ",
        ),
    ]
    for row in found["accelerators"]:
        chips = int(row["chips_for_state"])
        lines.append(
            f"    {row['accelerator']:<8} {said(row['flops_per_second'], 'FLOP/s'):>12} · "
            f"{said(row['bytes_per_second'], 'B/s'):>9} · {row['bound_by']:<10} · "
            f"{1e6 * row['seconds_per_run_step']:6.3g} µs · ≥ {duration(3600 * row['hours'])}"
        )
        lines += [f"      of which the state fills {chips}"] if chips > 1 else []
    if stated := found.get("stated"):
        speed = f"{stated['run_steps_per_second']:,.6g} run-steps a second"
        lines.append(f"    at {speed}, as stated: {duration(3600 * stated['hours'])}")
    return lines


def said(count: float, unit: str) -> str:
    """Returns a number with three digits and a prefix of powers of a thousand."""
    power = next((power for power in range(6) if count < 999.5 * 1000**power), 6)
    return f"{count / 1000**power:.3g} {' kMGTPE'[power].strip()}{unit}"


def duration(seconds: float) -> str:
    """Returns a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
