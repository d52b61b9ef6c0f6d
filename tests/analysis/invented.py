"""Results folders whose every number is known: the engine's own writers, and nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax import Sweep, grid, mlp, sgd, shapeset
from glorot_jax.analysis.results import SCALARS
from glorot_jax.engine import drive, plan, records, shard
from glorot_jax.engine.sweep import Run
from glorot_jax.probes.probe import Output

OUTPUTS = {name: Output((), name.replace("_", " "), "1", {"examples": 20}) for name in SCALARS}
OUTPUTS["activation_std"] = Output(("layer",), "standard deviation of the activations")


def sweep(**changes: Any) -> Sweep:
    settings: dict[str, Any] = {
        "name": "invented",
        "data": shapeset(size=8, validation=20, test=20),
        "model": mlp(widths=(6, 6), activation=grid("tanh", "relu")),
        "optimizer": sgd(learning_rate=grid(0.1, 0.2)),
        "seeds": range(3),
        "steps": 10,
    }
    return Sweep(**settings | changes)


def results(
    where: Path,
    made: Sweep,
    value: Callable[[Run, str, int], float] | None = None,
    *,
    steps: Sequence[int] | None = None,
    diverged: Mapping[str, int] | None = None,
) -> Path:
    """Writes a folder in which run r recorded value(r, name, step) for every scalar, one commit for each step.

    Args:
        value: none is recorded if not said.
        steps: the first and the last if not said.
        diverged: step by a run's name; its values from there on are NaN.
    """
    lost = diverged or {}
    for cohort in plan.cohorts(made.runs()):
        part = shard.create(where / "shards" / cohort.shard_id, cohort, 1)
        for step in (steps or (0, cohort.runs[0].steps)) if value else ():
            new = _records(cohort.runs, value, step, lost)
            part.commit(step, _state(cohort.runs, step), new, _told(cohort, lost), 1)
    drive._describe(where, made, {"devices": ["cpu"]})
    return where


def _state(runs: Sequence[Run], step: int) -> dict[str, np.ndarray]:
    return {"w": np.array([[run.seed, step] for run in runs], np.float32)}


def _records(runs: Sequence[Run], value: Any, step: int, lost: Mapping[str, int]) -> Any:
    def one(run: Run, name: str) -> float:
        return np.nan if step >= lost.get(run.name, step + 1) else value(run, name, step)

    values = {name: np.array([[one(run, name)] for run in runs], np.float32) for name in SCALARS}
    values["activation_std"] = np.array([[[run.seed, step]] for run in runs], np.float32)
    return records.dataset(values, OUTPUTS, [run.id for run in runs], [step])


def _told(cohort: plan.Cohort, lost: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"run": run.id, "step": lost[run.name], "tensor": "weight gradient", "layer": 2}
        for run in cohort.runs
        if run.name in lost
    ]
