"""A single bit, record, outcome or run that is not as in the twin is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from glorot_jax import run
from glorot_jax.drill.case import SWEEP
from glorot_jax.drill.twin import differences, look
from glorot_jax.engine import checkpoint, records, shard
from glorot_jax.engine.sweep import load_sweep
from glorot_jax.files import write

SHORT = ("steps=24", "record=every(12)")


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    return run(load_sweep(str(SWEEP), SHORT), tmp_path_factory.mktemp("drill") / "twin", width=2)


@pytest.fixture
def folder(twin, tmp_path) -> Path:
    return shutil.copytree(twin, tmp_path / "folder")


def flip(array: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """The array with the lowest bit of one number turned over."""
    changed = array.copy()
    changed.view(np.uint32)[place] ^= 1
    return changed


def the_shard(folder: Path) -> tuple[shard.Shard, list[str]]:
    (found,) = shard.open_all(folder)
    return found


def test_a_copy_is_the_same_and_so_is_a_sweep_that_was_trained_in_parts(twin, folder, tmp_path):
    assert differences(folder, look(twin)) == []
    for part in (1, 0):
        run(load_sweep(str(SWEEP), SHORT), tmp_path / "parts", width=2, shard=(part, 2))
    assert len(list((tmp_path / "parts" / "shards").iterdir())) == 2
    assert differences(tmp_path / "parts", look(twin)) == []


def test_one_bit_of_a_parameter_is_found(twin, folder):
    part, ids = the_shard(folder)
    state = checkpoint.restore(part.checkpoints, part.manifest["checkpoint"])
    state["params/layers.1.kernel"] = flip(state["params/layers.1.kernel"], (7, 3, 5))
    saved = checkpoint.save(part.checkpoints, part.step, state)
    manifest = json.loads((part.folder / "manifest.json").read_text()) | {"checkpoint": saved}
    (part.folder / "manifest.json").write_text(json.dumps(manifest))
    (found,) = differences(folder, look(twin))
    assert found.startswith(f"parameters of run {ids[7]}: params/layers.1.kernel differs, 1 of ")


def test_one_bit_of_a_record_is_found_even_where_it_is_not_a_number(twin, folder):
    part, ids = the_shard(folder)
    entry = part.manifest["records"][-1]
    whole = records.read(part.folder / entry["file"])
    lost = part.manifest["diverged"][0]["run"]
    assert np.isnan(whole["train_loss"].sel(run=lost)).all()
    for place in (ids.index(lost), 0):
        whole["train_loss"] = whole["train_loss"].copy(data=flip(whole["train_loss"].to_numpy(), (place, -1)))
    write(part.folder / entry["file"], records.netcdf(whole))
    found = [line for line in differences(folder, look(twin)) if line.startswith("records")]
    assert [line.partition(": ")[0] for line in found] == [f"records of run {run}" for run in sorted([lost, ids[0]])]
    assert all("train_loss differs, 1 of " in line for line in found)


def test_another_outcome_and_a_missing_run_are_found(twin, folder, tmp_path):
    part, _ = the_shard(folder)
    manifest = json.loads((part.folder / "manifest.json").read_text())
    manifest["diverged"][0]["step"] += 1
    (part.folder / "manifest.json").write_text(json.dumps(manifest))
    assert differences(folder, look(twin)) == ["outcomes: not the same"]

    fewer = run(load_sweep(str(SWEEP), (*SHORT, "seeds=0")), tmp_path / "fewer", width=2)
    assert any(line.startswith("parameters: 6 of 12 runs are missing") for line in differences(fewer, look(twin)))


def test_what_cannot_be_read_is_a_difference(twin, folder):
    part, _ = the_shard(folder)
    shutil.rmtree(part.checkpoints)
    (found,) = differences(folder, look(twin))
    assert found.startswith("can't be read: checkpoint 24")
