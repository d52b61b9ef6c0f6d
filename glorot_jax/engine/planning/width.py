"""How many runs are vmapped together: by the sizes of caches and memory, or, where that is asked for, by a stopwatch.

A run's bits depend on the width. So a width that nobody names follows from facts that stay as they are: the network,
the number of runs and devices, the sizes of this kind of machine's caches and memory. What a stopwatch says is shown by
``glorot plan`` and taken by ``--calibrate`` alone: it may say something else tomorrow. Either way the width stands in
the manifest, and a shard keeps the one that it began with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.engine.planning import stopwatch

if TYPE_CHECKING:
    from glorot_jax.engine.planning.machine import Caches

MOST = {"cpu": 16, "gpu": 1024, "tpu": 1024}
"""Runs of a block by rule."""
MOST_TRIED = {"cpu": 64, "gpu": 1024, "tpu": 1024}
"""Runs of a block that a calibration tries."""
PARTS = {"weights": 4, "activations": 2}
"""A block's weights and activations take one in so many of a core's bytes of cache on a CPU: measured, wider blocks
gained nothing or lost."""
AS_GOOD = 0.03
"""How much longer a narrower block may take to be as good as the best."""


@dataclass(frozen=True)
class Width:
    """A width and where it comes from.

    Attributes:
        runs: vmapped together.
        why: in a few words.
        by: ``asked``, ``rule`` or ``calibration``.
        tried: seconds of a run-step of the whole machine by the widths that were tried; None without calibration.
        untried: why there is no calibration, where one was considered.
    """

    runs: int
    why: str
    by: str
    tried: Mapping[int, float] | None = None
    untried: str | None = None

    def beside(self, found: Width) -> Width:
        """Returns this width with what a calibration found beside it."""
        return dataclasses.replace(self, tried=found.tried, untried=found.untried)

    @property
    def best(self) -> int | None:
        """The best of those tried; None without calibration."""
        return None if self.tried is None else best_of(self.tried)

    def to_dict(self) -> dict[str, Any]:
        tried = None if self.tried is None else {str(width): seconds for width, seconds in self.tried.items()}
        return {"by": self.by, "tried_seconds_per_run_step": tried, "best": self.best, "not_tried": self.untried}


def by_rule(
    weights: int, activations: int, runs: int, platform: str, devices: int, caches: Caches, most: int | None = None
) -> Width:
    """Returns the width that follows from sizes, on a CPU a power of two, and the reason.

    Args:
        weights, activations: bytes of one run: its parameters, and what its update keeps for the way back.
        caches: of a core; of use on a CPU alone.
        most: runs that memory has room for in one block, if that is known.
    """
    limit = MOST.get(platform, 16)
    share = -(-runs // devices)
    if platform == "cpu":
        sizes = {"weights": weights, "activations": activations}
        rooms = {name: caches.a_core // part for name, part in PARTS.items()}
        what = max(sizes, key=lambda name: sizes[name] / rooms[name])
        fits = max(1, rooms[what] // max(1, sizes[what]))
        why = (
            f"{sizes[what] / 2**20:.2g} MiB of {what} a run, up to 1/{PARTS[what]} of the {caches.a_core / 2**20:.3g} "
            "MiB of cache a core"
        )
        if fits >= limit:
            fits, why = limit, f"small networks: {limit} fill the vector units"
    else:
        fits, why = limit, f"an accelerator takes up to {limit} at once"
    if most is not None and most < fits:
        fits, why = max(1, most), "as many as its memory has room for"
    if platform != "cpu":
        width = -(-share // -(-share // fits))
        return Width(width, why if share > fits else f"an accelerator takes them all at once: {share}", "rule")
    if fits > share:
        fits, why = share, f"{runs} runs on {devices} device{'s' * (devices > 1)}"
    width = 2 ** int(np.log2(fits))
    narrower = _less_empty(width, runs, devices)
    if narrower < width:
        return Width(narrower, f"{width} would leave {_places(width, runs, devices) - runs} places empty", "rule")
    return Width(width, why, "rule")


def _less_empty(width: int, runs: int, devices: int) -> int:
    """The width, or half of it as long as that saves a fifth of all places; below 4 runs take longer each."""
    while width > 4 and _places(width // 2, runs, devices) <= 0.8 * _places(width, runs, devices):
        width //= 2
    return width


def _places(width: int, runs: int, devices: int) -> int:
    """Places at which a run lies or none, if all devices had as many blocks as the fullest."""
    blocks = -(-runs // width)
    return devices * width * -(-blocks // devices)


def candidates(rule: int, runs: int, devices: int, platform: str) -> tuple[int, ...]:
    """Returns up to four widths to try, rising: around the rule's on a CPU, up to it elsewhere; no device goes idle."""
    factors = (0.5, 1, 2, 4) if platform == "cpu" else (0.125, 0.25, 0.5, 1)
    share = 2 ** int(np.log2(-(-runs // devices)))
    most = min(share, MOST_TRIED.get(platform, 64))
    return tuple(sorted({int(rule * f) for f in factors if 1 <= rule * f <= most} | {rule}))


def best_of(tried: Mapping[int, float]) -> int:
    """Returns the narrowest width whose run-step takes hardly longer than the quickest."""
    quickest = min(tried.values())
    return min(width for width, seconds in tried.items() if seconds <= quickest * (1 + AS_GOOD))


def calibrated(
    rule: Width,
    widths: Sequence[int],
    measure: Callable[[int], float],
    training_seconds: float,
    compile_seconds: Callable[[], float],
    kept: Path,
) -> Width:
    """Returns the width that a stopwatch says, or the rule's with the reason why none was asked.

    Args:
        widths: those to try.
        measure: gives the seconds of a run-step at a width, compilation apart.
        training_seconds, compile_seconds, kept: as of ``stopwatch.tried``.
    """
    if len(widths) < 2:
        return Width(rule.runs, rule.why, rule.by, untried="there is no other")
    tried = stopwatch.tried(widths, measure, training_seconds, compile_seconds, kept)
    if isinstance(tried, str):
        return Width(rule.runs, rule.why, rule.by, untried=tried)
    best = best_of(tried)
    return Width(best, "the quickest of those tried", "calibration", tried=tried)
