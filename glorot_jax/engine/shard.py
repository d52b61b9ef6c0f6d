"""One shard's folder: which runs train together, and the manifest whose replacement is the commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.engine import checkpoint, records
from glorot_jax.errors import InputError
from glorot_jax.files import TEMPORARY, write, write_json
from glorot_jax.kernels import GENERAL
from glorot_jax.store.here import Here
from glorot_jax.store.names import MANIFEST, RUNS

if TYPE_CHECKING:
    import xarray as xr

    from glorot_jax.engine.planning.plan import Cohort

FORMAT = 1

_HERE = Here(Path())
"""Kept nowhere else."""
_OF_A_STEP = ("step", "records", "checkpoint", "diverged", "dropped", "decided")
"""What the manifest holds of its step, and goes back to with it."""


@dataclass
class Shard:
    """A folder of the results, and what its manifest says.

    Attributes:
        manifest: as on disk after the last commit; see ``create`` for its fields.
        there: where the folder is kept, besides here.
    """

    folder: Path
    manifest: dict[str, Any]
    there: Here = _HERE

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def first_step(self) -> int:
        """Where its runs began: below 0 with pre-training."""
        return int(self.manifest.get("first_step", 0))

    @property
    def width(self) -> int:
        return int(self.manifest["width"])

    @property
    def kernel(self) -> str:
        """What makes its updates; shards from before there was a choice have the general form."""
        return self.manifest.get("kernel", GENERAL)

    def change(self, width: int | None, kernel: str | None) -> None:
        """Marks that from here on its runs go on at another width or with another kernel, where these are said."""
        for name, now, new in (("width", self.width, width), ("kernel", self.kernel, kernel)):
            if new not in (None, now) and not self.done:
                before = self.manifest.get(f"{name}s", [{"from_step": self.first_step, name: now}])
                self.manifest |= {name: new, f"{name}s": [*before, {"from_step": self.step, name: new}]}

    @property
    def fused(self) -> bool:
        """Whether its runs are those of several cohorts in one program."""
        return bool(self.manifest.get("members"))

    @property
    def done(self) -> bool:
        return self.manifest["state"] == "done"

    @property
    def decided(self) -> int:
        """The rung up to which a search has said who of its runs is dropped, or a step between that and the next."""
        return int(self.manifest.get("decided", self.step))

    @property
    def last_recorded(self) -> int:
        """The step of the newest record, −1 before the first."""
        entries = self.manifest["records"]
        return int(entries[-1]["last"]) if entries else -1

    def commit(
        self,
        step: int,
        state: Mapping[str, np.ndarray],
        new: xr.Dataset | None,
        diverged: Sequence[Mapping[str, Any]],
        seconds: float,
        run_steps: int = 0,
        **facts: Any,
    ) -> None:
        """Makes a step's state and the records up to it durable together; the manifest's replacement is the moment.

        Args:
            run_steps: made since the last commit by the runs that lie in a block, all together.
            facts: what else the manifest holds from now on, such as ``probes`` and ``dropped``.

        Raises:
            ResumableError: the disk is full; what was committed before is whole.
        """
        entries = list(self.manifest["records"])
        if new is not None and new.sizes["step"]:
            entries = records.merge(self.folder, [*entries, records.append(self.folder, new)])
        saved = checkpoint.save(self.checkpoints, step, state)
        before = {k: self.manifest[k] for k in _OF_A_STEP if k in self.manifest}
        manifest = self.manifest | {
            "generation": self.manifest["generation"] + 1,
            "step": step,
            "state": "done" if step == self.manifest["steps"] else "training",
            "records": entries,
            "checkpoint": saved,
            "diverged": list(diverged),
            "wall_seconds": round(self.manifest["wall_seconds"] + seconds, 3),
            "run_steps": self.manifest.get("run_steps", 0) + run_steps,
            "previous": before if before["checkpoint"] else None,
            **facts,
        }
        self._replace(manifest)
        self._drop_unnamed()

    def _replace(self, manifest: dict[str, Any]) -> None:
        """Makes this the manifest: the moment of every commit."""
        write_json(self.folder / MANIFEST, manifest)
        self.there.commit(self.folder, manifest)
        self.manifest = manifest

    def restore(self) -> tuple[dict[str, np.ndarray] | None, list[str]]:
        """Returns the newest whole state, None if nothing was committed, and what there is to say of damage.

        A damaged checkpoint is set aside and the one before it is used, with the records up to there.
        """
        notes: list[str] = []
        self.manifest = self.there.claim(self.folder, self.manifest)
        self._drop_unnamed()
        while (entry := self.manifest["checkpoint"]) is not None:
            self.there.fetch(self.folder, self.manifest)
            try:
                return checkpoint.restore(self.checkpoints, entry), notes
            except checkpoint.DamagedCheckpoint as damage:
                aside = checkpoint.set_aside(self.checkpoints, int(entry["step"]))
                kept = f"kept as {aside.name}" if aside else "missing"
                before = self.manifest.get("previous")
                back = f"going on from step {before['step']}" if before else f"starting from step {self.first_step}"
                notes.append(f"{damage}; {kept}; {back}")
                start = {"step": self.first_step, "records": [], "checkpoint": None, "diverged": []}
                start |= {"dropped": [], "decided": 0}
                back_to = {"decided": before["step"], **before} if before else start
                self._replace(self.manifest | {**back_to, "previous": None, "state": "training"})
        return None, notes

    def plan_probes(self, picked: Mapping[str, Any]) -> None:
        """Makes durable, before the first step, which records are made; see ``cost.picked``."""
        self._replace(self.manifest | {"probes": dict(picked)})

    def scalars(self, new: xr.Dataset | None = None) -> xr.Dataset:
        """Returns what has one number a run and step of its records, and of ``new`` behind them."""
        self.there.fetch(self.folder, self.manifest | {"checkpoint": None})
        return records.scalars(self.folder, self.manifest["records"], new)

    def decide(self, rung: int, dropped: Sequence[Mapping[str, Any]]) -> None:
        """Makes durable whom a search drops at the rung where it stands, besides those that were dropped before."""
        self.manifest = self.there.claim(self.folder, self.manifest)
        self._replace(self.manifest | {"dropped": [*self.manifest["dropped"], *dropped], "decided": rung})

    def _drop_unnamed(self) -> None:
        """Removes record files and checkpoints that neither the manifest nor the one before names.

        They were merged away, or a process wrote them and did not live to commit them. A reader that holds the
        manifest before still finds its files.
        """
        named = {e["file"] for e in self.manifest["records"]}
        named |= {e["file"] for e in (self.manifest.get("previous") or {}).get("records", ())}
        for path in self.folder.iterdir():
            stray = path.name.startswith("rec-") and path.name not in named
            if stray or path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)
        checkpoint.keep_only(self.checkpoints, self._checkpoint_steps())

    def _checkpoint_steps(self) -> set[int]:
        kept = (self.manifest, self.manifest.get("previous") or {})
        return {int(m["checkpoint"]["step"]) for m in kept if m.get("checkpoint")}


def create(
    folder: Path,
    cohort: Cohort,
    width: int,
    first_step: int = 0,
    kernel: str = GENERAL,
    *,
    why_width: Mapping[str, Any] | None = None,
    why_shared: str | None = None,
    search: Any = None,
    there: Here = _HERE,
) -> Shard:
    """Returns a new shard at its first step: its table of runs, then its first manifest.

    Args:
        kernel: what makes its updates, as ``planning.form`` names it.
        why_width: how the width was chosen, in JSON's terms.
        why_shared: why its runs share a program with those of other cohorts, or don't, where they could.
        search: the rule by which runs are dropped, in JSON's terms.
        there: where the folder is kept, besides here.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"run": run.id, "name": run.name, **{k: _cell(v) for k, v in run.config.items()}} for run in cohort.runs]
    write(folder / RUNS, lambda path: pq.write_table(pa.Table.from_pylist(rows), path))
    manifest = {
        "format": FORMAT,
        "shard": cohort.shard_id,
        "cohort": {"id": cohort.id, "label": cohort.label, **cohort.shared},
        "runs": len(cohort.runs),
        "width": width,
        "widths": [{"from_step": first_step, "width": width}],
        "kernel": kernel,
        "kernels": [{"from_step": first_step, "kernel": kernel}],
        "why_width": why_width,
        "why_shared": why_shared,
        "generation": 0,
        "first_step": first_step,
        "step": first_step,
        "steps": cohort.runs[0].steps,
        "state": "training",
        "records": [],
        "checkpoint": None,
        "previous": None,
        "diverged": [],
        "dropped": [],
        "decided": 0,
        "search": search,
        "choices": {path: list(names) for path, names in cohort.choices.items()},
        "run_steps": 0,
        "wall_seconds": 0.0,
    }
    if cohort.members:
        manifest["members"] = [_member(member) for member in cohort.members]
    made = Shard(folder, manifest, there)
    made._replace(manifest)
    return made


def _member(cohort: Cohort) -> dict[str, Any]:
    """What a reader needs to see a cohort that was fused into another's program as if it were not."""
    return {
        "shard": cohort.shard_id,
        "cohort": {"id": cohort.id, "label": cohort.label, **cohort.shared},
        "runs": cohort.ids,
        "layers": cohort.runs[0].model.stack().depth,
    }


def open_all(results: Path, there: Here = _HERE) -> list[tuple[Shard, list[str]]]:
    """Returns the shards of a results folder, oldest first, each with the ids of its runs.

    Raises:
        InputError: a manifest is damaged.
    """
    import pyarrow.parquet as pq

    found = []
    for folder in sorted((results / "shards").glob("*/")):
        if not (folder / MANIFEST).exists():
            continue  # died while it was made: it is made again, under the same name
        shard = opened(folder, there)
        try:
            ids = pq.read_table(folder / RUNS, columns=["run"])["run"].to_pylist()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder.name}/{RUNS}: can't be read ({type(error).__name__})", _REMEDY) from None
        found.append((shard, ids))
    return found


def opened(folder: Path, there: Here = _HERE) -> Shard:
    """Returns the shard of a folder as it is now.

    Raises:
        InputError: its manifest is damaged.
    """
    return Shard(folder, read_manifest(folder / MANIFEST), there)


def is_done(folder: Path) -> bool:
    """Returns whether a folder is that of a shard that was trained to the end."""
    return (folder / MANIFEST).exists() and opened(folder).done


_REMEDY = "move the shard's folder away to train its runs again"
_FIELDS = {
    *("format", "shard", "cohort", "runs", "width", "widths", "generation", "step", "steps", "state"),
    *("records", "checkpoint", "diverged", "wall_seconds"),
}


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns a manifest.

    Raises:
        InputError: it is not JSON, not of this format, or lacks a field.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{where}: damaged, it is not JSON", _REMEDY) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{where}: its format is not {FORMAT}", "it was written by another version, or is damaged")
    missing = sorted(_FIELDS - manifest.keys())
    if missing:
        raise InputError(f"{where}: damaged, {missing[0]} is missing", _REMEDY)
    return manifest


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
