"""Records on disk: labelled, in order, bitwise what was measured, and few files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from glorot_jax.engine import records
from glorot_jax.engine.records import MERGE_AT, append, dataset, merge, read
from glorot_jax.errors import ResumableError
from glorot_jax.probes.probe import QUANTILES, Output
from tests.cli.disk import small_disk

OUTPUTS = {
    "loss": Output((), "training loss", "nat", {"method": "mean", "examples": 7}),
    "std": Output(("layer",), "standard deviation"),
    "spread": Output(("layer", "quantile"), "quantiles"),
}
RUNS = ["aaaaaaaaaaaa", "000000000000", "ffffffffffff"]  # not in the order of the alphabet


def measured(steps: list[int], seed: int = 0) -> xr.Dataset:
    """Noise with all that float32 can hold: NaN of several kinds, infinities, −0, numbers below normal ones."""
    chance = np.random.default_rng([seed, *steps])
    shapes = {"loss": (), "std": (2,), "spread": (2, len(QUANTILES))}
    values = {n: _bits(chance, (len(RUNS), len(steps), *shape)) for n, shape in shapes.items()}
    return dataset(values, OUTPUTS, RUNS, steps)


def _bits(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return chance.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)


def bits(found: xr.Dataset) -> dict[str, bytes]:
    return {str(n): v.to_numpy().tobytes() for n, v in found.variables.items() if n != "run"}


def test_records_are_labelled():
    made = measured([0, 5])
    assert made["loss"].attrs == {"long_name": "training loss", "units": "nat", "method": "mean", "examples": 7}
    assert made["std"].attrs["units"] == "1"
    assert made["spread"].dims == ("run", "step", "layer", "quantile")
    assert made["spread"].coords["quantile"].to_numpy().tolist() == list(QUANTILES)
    assert made["layer"].to_numpy().tolist() == [1, 2]
    assert made["step"].dtype == np.int64
    assert made["run"].to_numpy().tolist() == RUNS


def test_a_file_gives_back_every_bit(tmp_path):
    made = measured([0, 5])
    entry = append(tmp_path, made)
    found = read(tmp_path / entry["file"])
    assert bits(found) == bits(made)
    assert found["run"].to_numpy().tolist() == RUNS
    assert found["loss"].attrs == made["loss"].attrs
    assert (entry["first"], entry["last"], entry["count"]) == (0, 5, 2)
    assert entry["bytes"] == (tmp_path / entry["file"]).stat().st_size
    json.dumps(entry)


def test_the_name_tells_steps_and_content(tmp_path):
    names = [append(tmp_path, measured([3, 9], seed))["file"] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("rec-00000003-00000009-") for name in names)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Two hundred segments of one or two records, merged as they come."""
    folder = tmp_path_factory.mktemp("grown")
    entries, parts, most = [], [], 0
    step = 0
    for i in range(200):
        steps = [step, step + 1] if i % 3 == 0 else [step]
        step += len(steps)
        parts.append(measured(steps))
        entries = merge(folder, [*entries, append(folder, parts[-1])])
        most = max(most, len(entries))
    return folder, entries, parts, most


def test_merging_keeps_every_bit_and_the_order(grown):
    folder, entries, parts, _ = grown
    found = xr.concat([read(folder / e["file"]) for e in entries], "step")
    whole = xr.concat(parts, "step")
    assert found["step"].to_numpy().tolist() == list(range(whole.sizes["step"]))
    assert found["run"].to_numpy().tolist() == RUNS
    for name in OUTPUTS:
        assert found[name].to_numpy().tobytes() == whole[name].to_numpy().tobytes()
        assert found[name].attrs == whole[name].attrs
    for name in ("layer", "quantile"):
        assert found[name].to_numpy().tobytes() == whole[name].to_numpy().tobytes()


def test_two_hundred_segments_are_few_files(grown):
    """At most seven of each size class: 200 = 3 × 64 + 1 × 8."""
    _, entries, _, most = grown
    assert len(entries) == 4
    assert most <= 3 * (MERGE_AT - 1)
    assert [e.get("level", 0) for e in entries] == [2, 2, 2, 1]


def test_entries_of_merged_files_say_what_they_hold(grown):
    folder, entries, _, _ = grown
    for entry in entries:
        steps = read(folder / entry["file"])["step"].to_numpy()
        assert (entry["first"], entry["last"], entry["count"]) == (steps[0], steps[-1], len(steps))
        assert entry["bytes"] == (folder / entry["file"]).stat().st_size


def test_merging_removes_nothing_that_a_reader_may_hold_open(tmp_path):
    entries = [append(tmp_path, measured([i])) for i in range(MERGE_AT)]
    (merged,) = merge(tmp_path, entries)
    assert {e["file"] for e in entries} | {merged["file"]} == {p.name for p in tmp_path.iterdir()}


def test_large_files_are_left_alone(tmp_path, monkeypatch):
    entries = [append(tmp_path, measured([i])) for i in range(MERGE_AT)]
    monkeypatch.setattr(records, "MERGE_LIMIT", sum(e["bytes"] for e in entries) - 1)
    assert merge(tmp_path, entries) == entries
    monkeypatch.setattr(records, "MERGE_LIMIT", sum(e["bytes"] for e in entries))
    assert len(merge(tmp_path, entries)) == 1


@pytest.mark.parametrize("levels", [[], [0] * 7, [1] + [0] * 7, [2] * 8 + [1] * 7 + [0] * 7, [0] * 4 + [1] * 4])
def test_fewer_than_eight_of_one_size_at_the_end_are_not_merged(levels):
    entries = [{"file": f"not there {i}", "bytes": 1, "level": level} for i, level in enumerate(levels)]
    assert merge(Path("nowhere"), entries) == entries


def test_writing_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        append(tmp_path, measured([0]))


def test_a_full_disk_leaves_no_half_record_and_the_process_lives(tmp_path):
    """Sizes around that of a file: HDF5 itself, writing there, raises odd errors or takes the process down."""
    size = append(tmp_path, measured([0]))["bytes"]
    for share in (0.2, 0.5, 0.9):
        disk = tmp_path / f"disk{share}"
        with small_disk(disk, f"{max(4, int(size * share / 4096) * 4)}k") as resize:
            with pytest.raises(ResumableError, match=r"rec-.*\.nc: no space left on the disk"):
                append(disk, measured([0]))
            assert list(disk.iterdir()) == []
            resize("1m")
            assert append(disk, measured([0]))["bytes"] == size
