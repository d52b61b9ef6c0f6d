"""The records of one shard on disk: one immutable netCDF file a segment, merged now and then."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glorot_jax.files import write
from glorot_jax.probes.probe import COORDINATES, Output

if TYPE_CHECKING:
    import xarray as xr

MERGE_AT = 8
"""So many files of one size class become one."""
MERGE_LIMIT = 256 * 2**20
"""Files above this size are left alone, in bytes."""

Entry = dict[str, object]
"""A record file in the manifest: ``file``, ``first`` and ``last`` step, ``count``, ``bytes``, merge ``level``."""


def dataset(
    values: Mapping[str, np.ndarray], outputs: Mapping[str, Output], run_ids: Sequence[str], steps: Sequence[int]
) -> xr.Dataset:
    """Returns labelled records.

    Args:
        values: name -> array (run, step, …).
        outputs: how each is labelled.
    """
    import xarray as xr

    coordinates: dict[str, object] = {
        "run": ("run", np.array(run_ids, dtype=object)),
        "step": ("step", np.asarray(steps, np.int64)),
    }
    variables = {}
    for name, array in values.items():
        label = outputs[name]
        for dim, size in zip(label.dims, array.shape[2:], strict=True):
            coordinates.setdefault(dim, (dim, _coordinate(label, dim, size)))
        attrs = {"long_name": label.long_name, "units": label.units, **label.attrs}
        variables[name] = (("run", "step", *label.dims), array, attrs)
    made = xr.Dataset(variables, coordinates)
    made["step"].attrs = {"long_name": "updates made", "units": "1"}
    made["run"].attrs = {"long_name": "run identity"}
    if "layer" in made:
        made["layer"].attrs = {"long_name": "hidden layer, 1 = next to the input", "units": "1"}
    if "weight" in made:
        made["weight"].attrs = {"long_name": "parameter, by its path in the network"}
    if "module" in made:
        made["module"].attrs = {"long_name": "part of the network, by its path"}
    if "quantile" in made:
        made["quantile"].attrs = {"long_name": "share of the values that lie below", "units": "1"}
    return made


def _coordinate(label: Output, dim: str, size: int) -> np.ndarray:
    if dim in label.names:
        return np.array(label.names[dim], dtype=object)
    return np.array(COORDINATES[dim]) if dim in COORDINATES else np.arange(1, size + 1)


def append(folder: Path, records: xr.Dataset) -> Entry:
    """Writes one segment's records as a new file and returns its entry for the manifest."""
    steps = records["step"].to_numpy()
    first, last = int(steps[0]), int(steps[-1])
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in records.data_vars.values()))
    name = f"rec-{first:08d}-{last:08d}-{digest.hexdigest()[:8]}.nc"
    write(folder / name, netcdf(records))
    return {"file": name, "first": first, "last": last, "count": len(steps), "bytes": (folder / name).stat().st_size}


def merge(folder: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Returns the entries after merging the newest ``MERGE_AT`` files of like size into one, where there are so many.

    The merged files stay on disk until the commit after the one that stops naming them: a reader may hold them open.
    """
    import xarray as xr

    entries = list(entries)
    while len(tail := _mergeable(entries)) == MERGE_AT:
        parts = [read(folder / str(e["file"])) for e in tail]
        whole = xr.concat(parts, dim="step", data_vars="minimal", coords="minimal", compat="override", join="override")
        entries[-MERGE_AT:] = [append(folder, whole) | {"level": _level(tail[-1]) + 1}]
    return entries


def _mergeable(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The newest files, if they are ``MERGE_AT`` of one level and small together."""
    tail = list(entries[-MERGE_AT:])
    if len(tail) < MERGE_AT or sum(int(e["bytes"]) for e in tail) > MERGE_LIMIT:
        return []
    level = _level(tail[-1])
    return tail if all(_level(e) == level for e in tail) else []


def _level(entry: Entry) -> int:
    """How often a file has been merged: files of one level are of like size."""
    return int(entry.get("level", 0))


def scalars(folder: Path, entries: Sequence[Entry], new: xr.Dataset | None) -> xr.Dataset:
    """Returns what has one number a run and step, of the files that entries name and of ``new`` behind them."""
    import xarray as xr

    parts = [*(read(folder / str(e["file"])) for e in entries), *([] if new is None else [new])]
    flat = [part[[name for name, v in part.data_vars.items() if v.dims == ("run", "step")]] for part in parts]
    return xr.concat(flat, "step", data_vars="minimal", coords="minimal", compat="override", join="override")


def beside(parts: Sequence[xr.Dataset], run_ids: Sequence[str], last: int) -> xr.Dataset:
    """Returns records of several shards up to a step as those of one, its runs in the order of their ids."""
    import xarray as xr

    some = [part.sel(step=part["step"] <= last) for part in parts]
    return xr.concat(some, "run", data_vars="minimal", coords="minimal", compat="override").sel(run=list(run_ids))


def read(path: Path) -> xr.Dataset:
    """Returns a record file's content, in memory."""
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as opened:
        return opened.load()


def netcdf(records: xr.Dataset) -> memoryview:
    """Returns a file's content, made in memory: HDF5 that meets a full disk can take the process with it (measured)."""
    return records.to_netcdf(None, engine="h5netcdf")
