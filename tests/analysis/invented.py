"""Results folders whose every number is known: the engine's own writers, and nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from glorot_jax import Sweep, grid, mlp, sgd, shapeset
from glorot_jax.analysis.results import SCALARS
from glorot_jax.engine import folder, records, shard
from glorot_jax.engine.planning import plan
from glorot_jax.engine.sweep import Run
from glorot_jax.probes.probe import Output
from glorot_jax.store.here import Here

OUTPUTS = {name: Output((), name.replace("_", " "), "1", {"examples": 20}) for name in SCALARS}
OUTPUTS["activation_std"] = Output(("layer",), "standard deviation of the activations")
Arrays = Mapping[str, tuple[tuple[str, ...], Callable[[Run, int], Any]]]
"""By name of a record, its dimensions and its values for a run and step."""
SEED_AND_STEP: Arrays = {"activation_std": (("layer",), lambda run, step: [run.seed, step])}


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
    arrays: Arrays = SEED_AND_STEP,
    commits: bool = True,
) -> Path:
    """Writes a folder in which run r recorded value(r, name, step) for every scalar, one commit for each step.

    Args:
        value: none is recorded if not said.
        steps: the first and the last if not said.
        diverged: step by a run's name; its values from there on are NaN.
        arrays: records beside the scalars.
        commits: whether each step has one; else there is one alone, with all steps.
    """
    lost = diverged or {}
    for cohort in plan.cohorts(made.runs()):
        part = shard.create(where / "shards" / cohort.shard_id, cohort, 1)
        recorded = list(steps or (0, cohort.runs[0].steps)) if value else []
        for some in ([step] for step in recorded) if commits else [recorded]:
            new = _records(cohort.runs, value, some, lost, arrays)
            part.commit(some[-1], _state(cohort.runs, some[-1]), new, _told(cohort, lost), 1)
    folder.describe(Here(where), made, {"devices": ["cpu"], "platform": "cpu"})
    return where


def _state(runs: Sequence[Run], step: int) -> dict[str, np.ndarray]:
    return {"w": np.array([[run.seed, step] for run in runs], np.float32)}


def _records(runs: Sequence[Run], value: Any, steps: list[int], lost: Mapping[str, int], arrays: Arrays) -> Any:
    def one(run: Run, name: str, step: int) -> float:
        return np.nan if step >= lost.get(run.name, step + 1) else value(run, name, step)

    values = {name: np.array([[one(run, name, s) for s in steps] for run in runs], np.float32) for name in SCALARS}
    for name, (_, made) in arrays.items():
        values[name] = np.array([[made(run, s) for s in steps] for run in runs], np.float32)
    outputs = OUTPUTS | {name: Output(dims, name.replace("_", " ")) for name, (dims, _) in arrays.items()}
    return records.dataset(values, outputs, [run.id for run in runs], steps)


def _told(cohort: plan.Cohort, lost: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"run": run.id, "step": lost[run.name], "tensor": "weight gradient", "layer": 2}
        for run in cohort.runs
        if run.name in lost
    ]


def predict(where: Path, values: Mapping[str, float]) -> None:
    """Writes predictions beside a folder's records: by name of a record, one number for all runs and layers."""
    for shard_folder in (where / "shards").iterdir():
        with xr.open_dataset(next(shard_folder.glob("rec-*.nc")), engine="h5netcdf") as file:
            runs, layers = file["run"].to_numpy(), file["layer"].to_numpy()
        full = {
            f"{name}_theory": (("run", "layer"), np.full((len(runs), len(layers)), value))
            for name, value in values.items()
        }
        made = xr.Dataset(full, {"run": runs, "layer": layers})
        made.to_netcdf(shard_folder / "theory.nc", engine="h5netcdf")
