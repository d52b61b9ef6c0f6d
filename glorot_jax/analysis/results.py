"""Reading a results folder, whole or half-way, while others still write to it."""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from glorot_jax import baselines
from glorot_jax.errors import InputError, unknown
from glorot_jax.store.mirror import local
from glorot_jax.store.names import MANIFEST, PREDICTIONS, RUNS

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 1
SCALARS = ("train_loss", "valid_loss", "valid_error", "test_loss", "test_error")
THEORY = "_theory"
"""Ends the name of a prediction, the sibling of what was measured."""
_NO_SETTINGS = ("name", "seed", "in_sweep")
_FIELDS = {
    *("format", "shard", "cohort", "runs", "width", "widths", "step", "steps", "state"),
    *("records", "diverged", "wall_seconds"),
}
_PATIENCE, _PAUSE = 1.0, 0.05
"""Seconds until a file is missing that a manifest names, and between two looks at it."""
_T = TypeVar("_T")


def load(path: str | Path | Sequence[str | Path]) -> Results:
    """Returns the results of one folder, or the union of several by run.

    Args:
        path: a folder, or the URL of one on an object store, of which what is new is fetched first; or several.

    Raises:
        InputError: no sweep was started there, a file is damaged, or a run has other results in two folders.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    return Results([local(p) for p in paths])


def results_folders(path: Path) -> list[Path]:
    """Returns the folder itself if a sweep was started in it, else those right below it in which one was."""
    return [path] if (path / "sweep.json").exists() else sorted(p.parent for p in path.glob("*/sweep.json"))


class Results:
    """What a sweep left on disk.

    Attributes:
        paths: the folders.
        description: the sweep as it was resolved.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = tuple(paths)
        self._folders = [_Folder(path) for path in paths]
        self._shards = _union([s for folder in self._folders for s in folder.shards])
        self.description = self._folders[0].description
        self._known: dict[tuple[str, str], xr.DataArray] = {}

    @property
    def name(self) -> str:
        """Of the sweep; of several, all of them."""
        return ", ".join(dict.fromkeys(str(folder.description["name"]) for folder in self._folders))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run: what varies, status, where and in what it diverged, final and best values.

        Errors are shares in [0, 1]. ``status`` is pending, training, done, diverged or dropped (by the sweep's search).
        Final values of the last two are NaN, best values of dropped ones, too: they were not trained to the end.
        ``in_sweep`` is False for runs that the description no longer names.
        """
        table = self.configurations
        parts = [s.table(s.outcome()) for s in self._shards]
        outcome = pd.concat(parts) if parts else pd.DataFrame({"steps": [], "status": [], "step": []})
        shown = dict.fromkeys(["name", *self.varying, "seed", "in_sweep", "steps"])
        return table[[c for c in shown if c in table]].join(outcome)

    @cached_property
    def varying(self) -> list[str]:
        """Settings, by path, that take more than one value over the runs; the seed apart."""
        table = self.configurations
        return [c for c in table if c not in _NO_SETTINGS and _varies(table, c)]

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """One row a run, one column a setting, by path; whatever varies or not."""
        tables = [s.runs for s in self._shards]
        table = pd.concat(tables) if tables else pd.DataFrame({"name": [], "seed": []})
        named = {run for folder in self._folders for run in folder.description["runs"]}
        order = {run: i for i, run in enumerate(r for f in self._folders for r in f.description["runs"])}
        table = table.assign(in_sweep=np.array([run in named for run in table.index], bool))
        return table.loc[sorted(table.index, key=lambda run: order.get(run, len(order)))]

    @property
    def cohorts(self) -> list[str]:
        """Ids of the cohorts that have shards here."""
        return list(dict.fromkeys(s.cohort for s in self._shards))

    @cached_property
    def cohort_of(self) -> pd.Series:
        """The cohort's id of each run."""
        return pd.Series({run: s.cohort for s in self._shards for run in s.runs.index}, dtype=object)

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The manifests, one a shard."""
        return list({s.folder: s.manifest for s in self._shards}.values())

    @property
    def baselines(self) -> pd.DataFrame:
        """One row a classifier that is no network and a subsample, as ``glorot_jax.baselines`` left them here."""
        return pd.DataFrame([row for path in self.paths for row in baselines.read(path)])

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, devices and flags of the last start; empty in the moment before it is written."""
        path = self.paths[0] / "environment.json"
        return _json(path) if path.exists() else {}

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first, by all processes; lines that somebody died in the middle of are left out."""
        found = []
        for path in sorted(self.paths[0].glob("events*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return sorted(found, key=lambda event: event["time"])

    def records(self, cohort: str | None = None, names: Sequence[str] | None = None) -> xr.Dataset:
        """Returns the records as one dataset (run, step, layer, …), every varying setting a coordinate on run.

        Beside what theory predicts stands a sibling, such as ``activation_std_theory`` (run, layer): it says what is
        expected at step 0, and is NaN for runs of which nothing is predicted.

        Args:
            cohort: one of ``cohorts``; all if not said, which then must have the same layers. Steps that not all
                runs have are left out, and named in ``attrs["left_out"]``.
            names: variables to read, each with its sibling; all if not said.

        Raises:
            InputError: there are no records yet, the cohort or a name is unknown, or cohorts differ in depth.
        """
        import xarray as xr

        if cohort is not None and cohort not in self.cohorts:
            raise unknown("cohort", cohort, self.cohorts)
        shards = [s for s in self._shards if cohort in (None, s.cohort)]
        shards = [s for s in shards if s.manifest["records"]]
        if not shards:
            raise InputError(f"{self.paths[0]}: it has no records yet")
        known = set().union(*(s.names() for s in shards)) if names is not None else ()
        for name in names or ():
            if name not in known:
                raise unknown("names", name, known)
        read = [(part, s) for s in shards if (part := s.records(names)) is not None]
        parts = _with_predictions([part for part, _ in read], [s.predictions(names) for _, s in read])
        if len({part.sizes["layer"] for part in parts if "layer" in part.sizes}) > 1:
            raise InputError("records: the cohorts differ in depth", f"ask for one: {', '.join(self.cohorts)}")
        common = sorted(set.intersection(*(set(part["step"].to_numpy().tolist()) for part in parts)))
        left_out = sum(part.sizes["step"] - len(common) for part in parts)
        whole = xr.concat([p.sel(step=common) for p in parts], "run", combine_attrs="override", join="outer")
        if left_out:
            whole.attrs["left_out"] = f"{left_out} steps that not all shards have"
        settings = self.runs.loc[whole["run"].to_numpy()]
        for column in ("name", "seed", *self.varying):
            whole = whole.assign_coords({column: ("run", settings[column].to_numpy())})
        return whole

    def compare(self, setting: str, **options: Any) -> pd.DataFrame:
        """Returns all pairs of a setting's values, such as ``compare("init")``, tested over seeds.

        All other settings that vary stay the same in a pair; the learning rate is chosen for each by validation error.

        Args:
            setting: a path or its last part.
            options: as of ``glorot_jax.compare``, such as ``value="valid_loss"``.
        """
        from glorot_jax.analysis.comparison import compare_setting

        return compare_setting(self, setting, **options)

    def record(self, cohort: str, name: str) -> xr.DataArray:
        """Returns one of ``records(cohort)``; like ``runs`` it is read once."""
        if (cohort, name) not in self._known:
            self._known[cohort, name] = self.records(cohort, [name])[name]
        return self._known[cohort, name]

    def predicted(self, cohort: str) -> list[str]:
        """Returns which of a cohort's records have a prediction beside them."""
        shards = [s for s in self._shards if s.cohort == cohort and s.manifest["records"]]
        found = [set(one) for s in shards if (one := s.predictions()) is not None]
        return sorted(str(name).removesuffix(THEORY) for name in set().union(*found))

    def recorded(self, cohort: str) -> list[str]:
        """Returns the names of a cohort's records, predictions apart; none before the first."""
        shards = [s for s in self._shards if s.cohort == cohort and s.manifest["records"]]
        return sorted(n for n in set().union(*(s.names() for s in shards)) if not n.endswith(THEORY))

    def __repr__(self) -> str:
        counts = self.runs["status"].value_counts()
        told = ", ".join(f"{n} {status}" for status, n in counts.items())
        return f"<Results {self.name}: {len(self.runs)} runs ({told}), cohorts {', '.join(self.cohorts)}>"

    def _repr_html_(self) -> str:
        return f"<p>{self.__repr__()[1:-1]}</p>" + self.runs.head(20).to_html()


class _Folder:
    def __init__(self, path: Path):
        if not (path / "sweep.json").exists():
            beside = sorted(p.parent.name for p in path.parent.glob("*/sweep.json")) if path.parent.is_dir() else []
            hint = f"results beside it: {', '.join(beside[:10])}" if beside else "it has no sweep.json"
            raise InputError(f"{path}: not a results folder", hint)
        self.description = _json(path / "sweep.json")
        if not {"name", "runs", "sweep"} <= self.description.keys():
            raise InputError(f"{path}/sweep.json: damaged", "run the sweep's own file to write it anew")
        found = []
        for manifest in (path / "shards").glob("*/manifest.json"):
            try:
                found += _parts(manifest.parent)
            except InputError:
                if manifest.parent.exists():
                    raise  # else it was moved away meanwhile
        self.shards = sorted(found, key=lambda part: part.name)


def _parts(folder: Path) -> list[_Shard]:
    """A shard; of one whose runs are those of several cohorts in one program, each cohort's part by itself."""
    whole = _Shard(folder)
    return [_Shard(folder, member) for member in whole.manifest.get("members", ())] or [whole]


class _Shard:
    """One shard's table and manifest as they are now.

    Args:
        member: of the manifest's, if only that cohort's runs are looked at: as they would be in a shard of their own.

    Attributes:
        name: of the folder in which these runs would be by themselves.
        cohort: the id of theirs.
    """

    def __init__(self, folder: Path, member: Mapping[str, Any] | None = None):
        self.folder = folder
        self.manifest = self._manifest()
        self._member = member
        self.name = folder.name if member is None else str(member["shard"])
        self.cohort = str((self.manifest if member is None else member)["cohort"]["id"])
        try:
            self.runs = pd.read_parquet(folder / RUNS).set_index("run")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder.name}/runs.parquet: can't be read ({type(error).__name__})", _REMEDY) from None
        if member is not None:
            self.runs = self.runs.loc[member["runs"]]

    def records(self, names: Sequence[str] | None = None) -> xr.Dataset | None:
        """Returns all records, None before the first; reads again where files were merged away meanwhile."""
        read = self._retry(lambda: self._read(names))
        whole = read is None or read.sizes["run"] == len(self.runs)
        return read if whole else self._own_layers(read.sel(run=self.runs.index.to_numpy()))

    def agrees(self, other: _Shard, runs: pd.Index) -> bool:
        """Returns whether these runs have the same results in both: all bits, or where others are beside them, all
        losses and errors."""
        if len(runs) == len(self.runs) == len(other.runs) and self._member == other._member:
            one, two = ((s.manifest.get("checkpoint") or {}).get("digest") for s in (self, other))
            return one == two
        one, two = self.records(SCALARS), other.records(SCALARS)
        if one is None or two is None:
            return one is two
        return one.sel(run=runs.to_numpy()).equals(two.sel(run=runs.to_numpy()))

    def leave_out(self, runs: pd.Index) -> None:
        """Takes runs out, which another shard has, too."""
        self.runs = self.runs.drop(runs)

    def names(self) -> set[str]:
        """Returns the names of all records and predictions."""
        predicted = self.predictions()
        found = self._retry(lambda: self._open(str(self.manifest["records"][0]["file"]), lambda file: set(file)))
        return found | (set(predicted) if predicted is not None else set())

    def predictions(self, names: Sequence[str] | None = None) -> xr.Dataset | None:
        """Returns the predictions that belong to these records, None where nothing is predicted."""
        if not (self.folder / PREDICTIONS).exists():
            return None
        remedy = "remove the file: the records are whole without it"
        wanted = None if names is None else [name.removesuffix(THEORY) + THEORY for name in names]
        found = self._open(PREDICTIONS, lambda file: _chosen(file, wanted), remedy)
        if self._member is None:
            return found
        mine = self._own_layers(found.sel(run=self.runs.index.to_numpy()))
        return mine[[name for name, values in mine.items() if not values.isnull().all()]]

    def _own_layers(self, found: xr.Dataset) -> xr.Dataset:
        """Without the layers that only others of a shared program have."""
        if self._member is None or "layer" not in found.dims:
            return found
        return found.isel(layer=slice(0, int(self._member["layers"])))

    def outcome(self) -> dict[str, Any]:
        """Returns per run, in the table's order: status, divergence, final and best values."""
        records = self.records(SCALARS)
        step = int(self.manifest["step"])
        begun = self.manifest["records"] or step > self.manifest.get("first_step", step)
        state = "done" if self.manifest["state"] == "done" else "training" if begun else "pending"
        lost = {d["run"]: d for d in self.manifest["diverged"]}
        dropped = {d["run"]: d["step"] for d in self.manifest.get("dropped", ())}
        found: dict[str, Any] = {
            "status": [
                "diverged" if run in lost else "dropped" if run in dropped else state for run in self.runs.index
            ],
            "step": step,
            "diverged_step": [lost.get(run, {}).get("step", pd.NA) for run in self.runs.index],
            "diverged_in": [_where(lost.get(run)) for run in self.runs.index],
            "dropped_step": [dropped.get(run, pd.NA) for run in self.runs.index],
        }
        if records is None:
            return found | dict.fromkeys(SCALARS, np.nan)
        present = [name for name in SCALARS if name in records]
        gone = self.runs.index.isin([*lost, *dropped])
        found |= {name: _last(records[name].to_numpy(), gone) for name in present}
        if "valid_error" in present:
            found |= _best(records, self.runs.index.isin(list(dropped)))
        return found

    def table(self, outcome: Mapping[str, Any]) -> pd.DataFrame:
        table = pd.DataFrame(outcome, index=self.runs.index)
        return table.astype({"diverged_step": "Int64", "dropped_step": "Int64"})

    def _manifest(self) -> dict[str, Any]:
        manifest = _json(self.folder / MANIFEST)
        missing = _FIELDS - manifest.keys()
        if missing or manifest["format"] != FORMAT:
            what = f"{sorted(missing)[0]} is missing" if missing else f"its format is not {FORMAT}"
            raise InputError(f"{self.folder.name}/manifest.json: damaged, {what}", _REMEDY)
        return manifest

    def _read(self, names: Sequence[str] | None) -> xr.Dataset | None:
        import xarray as xr

        parts = [
            self._open(str(entry["file"]), lambda file: _chosen(file, names)) for entry in self.manifest["records"]
        ]
        if not parts:
            return None
        return xr.concat(parts, "step", data_vars="minimal", coords="minimal", compat="override", join="override")

    def _open(self, file: str, read: Callable[[xr.Dataset], _T], remedy: str | None = None) -> _T:
        import xarray as xr

        try:
            with xr.open_dataset(self.folder / file, engine="h5netcdf") as opened:
                return read(opened)
        except FileNotFoundError:
            raise FileNotFoundError(file) from None
        except OSError as error:
            if error.errno == errno.ESTALE:  # removed on another machine while it was read
                raise FileNotFoundError(file) from None
            raise InputError(f"{self.folder.name}/{file}: can't be read ({error})", remedy or _REMEDY) from None
        except (RuntimeError, KeyError, ValueError) as error:  # h5py raises all of these for torn files
            raise InputError(f"{self.folder.name}/{file}: can't be read ({error})", remedy or _REMEDY) from None

    def _retry(self, read: Callable[[], _T]) -> _T:
        while True:
            try:
                return read()
            except FileNotFoundError as error:
                before = self.manifest["records"]
                end = time.monotonic() + _PATIENCE
                while (manifest := self._manifest())["records"] == before:  # who replaces it may be about to
                    if time.monotonic() >= end:
                        raise InputError(f"{self.folder.name}/{error}: missing", _REMEDY) from None
                    time.sleep(_PAUSE)
                self.manifest = manifest


def _chosen(file: xr.Dataset, names: Sequence[str] | None) -> xr.Dataset:
    """The variables of these names that the file has, in memory."""
    if names is not None:
        always = {dim: file[dim] for dim in ("run", "step") if dim in file.coords}
        file = file[[n for n in dict.fromkeys(names) if n in file]].assign_coords(always)
    return file.load()


def _varies(table: pd.DataFrame, path: str) -> bool:
    """Whether a setting takes several values; None is one, but to have none, as part of what is not there, isn't."""
    values, family = table[path].astype(str), path.rpartition(".")[0]
    if family not in table:
        return values.nunique(dropna=False) > 1
    alike = values.groupby(table[family].astype(str), dropna=False)
    return values.nunique() > 1 or alike.nunique(dropna=False).max() > 1


_REMEDY = "move the shard's folder away and run the sweep again to train its runs anew"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing") from None
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{path}: damaged, it is not JSON", _REMEDY) from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: damaged, it is not a JSON object", _REMEDY)
    return value


def _with_predictions(parts: Sequence[xr.Dataset], predicted: Sequence[xr.Dataset | None]) -> list[xr.Dataset]:
    """The shards' records with their predictions; where another shard alone has one, it is NaN."""
    import xarray as xr

    known = {name: values for one in predicted if one is not None for name, values in one.items()}
    coordinates = {dim: values[dim] for values in known.values() for dim in values.dims if dim != "run"}

    def beside(part: xr.Dataset, one: xr.Dataset | None) -> xr.Dataset:
        mine = {} if one is None or not one.data_vars else dict(one.sel(run=part["run"].to_numpy()).variables)
        missing = {name: values.variable for name, values in known.items() if name not in mine}
        runs = np.zeros(part.sizes["run"], int)
        none = {name: xr.full_like(v.isel(run=runs), np.nan) for name, v in missing.items()}
        made = part.assign({name: mine.get(name, none.get(name)) for name in known})
        return made.assign_coords({dim: values for dim, values in coordinates.items() if dim not in made.coords})

    return [beside(part, one) for part, one in zip(parts, predicted, strict=True)]


def _where(lost: Mapping[str, Any] | None) -> str:
    if lost is None:
        return ""
    return str(lost["tensor"]) + (f" of layer {lost['layer']}" if lost["layer"] is not None else "")


def _last(values: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """The newest values (runs,) of (runs, steps): a step at which nothing was due holds NaN for all that go on."""
    made = np.flatnonzero(np.isfinite(values[~lost]).any(axis=0)) if (~lost).any() else []
    return np.where(lost, np.nan, values[:, made[-1] if len(made) else -1])


def _best(records: xr.Dataset, dropped: np.ndarray) -> dict[str, np.ndarray]:
    """Lowest validation error of each run, where it was, and the test error there; NaN of those that were dropped."""
    valid = records["valid_error"].to_numpy()
    known = np.where(np.isnan(valid), np.inf, valid)
    at = np.argmin(known, axis=1)
    rows = np.arange(len(at))
    never = ~np.isfinite(known[rows, at]) | dropped
    return {
        "best_valid_error": np.where(never, np.nan, known[rows, at]),
        "best_valid_step": records["step"].to_numpy()[at],
        "test_error_at_best_valid": np.where(never, np.nan, records["test_error"].to_numpy()[rows, at]),
    }


def _union(shards: Sequence[_Shard]) -> list[_Shard]:
    """The shards, each run only once; runs with other results are refused."""
    kept: list[_Shard] = []
    for shard in shards:
        for twin in kept:
            shared = shard.runs.index.intersection(twin.runs.index)
            if len(shared) and not shard.agrees(twin, shared):
                raise InputError(f"load: {twin.folder} and {shard.folder} hold the same run with different results")
            shard.leave_out(shared)
        if len(shard.runs):
            kept.append(shard)
    return kept
