"""What a results folder gives to a reader, whole, half-way, damaged, or while others write to it."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from glorot_jax import grid, load, mlp, sgd
from glorot_jax.analysis import results
from glorot_jax.analysis.results import SCALARS
from glorot_jax.analysis.status import render_status, status
from glorot_jax.engine import records, shard
from glorot_jax.errors import InputError
from tests.analysis import invented
from tests.engine.small import parameters

VARYING = ["model.activation", "model.gain", "optimizer.learning_rate"]


def only_shard(folder: Path) -> Path:
    (found,) = (folder / "shards").iterdir()
    return found


def record_files(folder: Path) -> list[Path]:
    return sorted(only_shard(folder).glob("rec-*.nc"))


# ---- the table of runs


def test_runs_has_one_row_a_run_with_what_varies_and_how_it_ended(trained):
    runs = load(trained).runs
    outcome = ["status", "step", "diverged_step", "diverged_in", "dropped_step", *SCALARS]
    best = ["best_valid_error", "best_valid_step", "test_error_at_best_valid"]
    assert list(runs.columns) == ["name", *VARYING, "seed", "in_sweep", "steps", *outcome, *best]
    assert runs.index.name == "run"
    assert len(runs) == 2 * 2 * 2 * 3
    assert runs.index.is_unique
    assert all(re.fullmatch("[0-9a-f]{12}", run) for run in runs.index)
    assert runs["in_sweep"].all()
    assert (runs["step"] == 30).all()
    assert "tanh-gain1-lr0.05-s0" in set(runs["name"])


def test_columns_have_the_types_that_their_values_ask_for(trained):
    runs = load(trained).runs
    floats = [*SCALARS, "best_valid_error", "test_error_at_best_valid", "model.gain", "optimizer.learning_rate"]
    assert all(pd.api.types.is_float_dtype(runs[c]) for c in floats)
    assert all(pd.api.types.is_integer_dtype(runs[c]) for c in ("seed", "step", "steps", "best_valid_step"))
    assert runs["diverged_step"].dtype == "Int64"
    assert runs["in_sweep"].dtype == bool
    errors = runs[["valid_error", "test_error"]].to_numpy(float)
    assert np.nanmin(errors) >= 0
    assert np.nanmax(errors) <= 1


def test_final_and_best_values_are_those_of_the_record_files(trained):
    """Read by xarray alone, run by run."""
    whole = xr.concat([xr.load_dataset(f, engine="h5netcdf") for f in record_files(trained)], "step")
    runs = load(trained).runs
    assert whole["step"].to_numpy().tolist() == [0, 5, 12, 20, 30]
    for run, row in runs[runs["status"] == "done"].iterrows():
        mine = whole.sel(run=run)
        for name in SCALARS:
            assert row[name] == mine[name].to_numpy()[-1]
        best = int(np.argmin(mine["valid_error"].to_numpy()))
        assert row["best_valid_error"] == mine["valid_error"].to_numpy()[best]
        assert row["best_valid_step"] == mine["step"].to_numpy()[best]
        assert row["test_error_at_best_valid"] == mine["test_error"].to_numpy()[best]


def test_status_is_pending_training_done_or_diverged(tmp_path):
    made = invented.sweep(optimizer=sgd(learning_rate=0.1))
    folders = {
        "pending": invented.results(tmp_path / "a", made),
        "training": invented.results(tmp_path / "b", made, lambda *_: 0.5, steps=(0, 4)),
        "done": invented.results(tmp_path / "c", made, lambda *_: 0.5),
    }
    for expected, folder in folders.items():
        assert set(load(folder).runs["status"]) == {expected}
    lost = invented.results(tmp_path / "d", made, lambda *_: 0.5, diverged={"relu-s1": 7})
    runs = load(lost).runs.set_index("name")
    assert runs["status"].value_counts().to_dict() == {"done": 5, "diverged": 1}
    assert runs.loc["relu-s1", "diverged_step"] == 7
    assert runs.loc["relu-s1", "diverged_in"] == "weight gradient of layer 2"
    assert runs.loc["tanh-s1", "diverged_in"] == ""
    assert math.isnan(runs.loc["relu-s1", "test_error"])
    assert runs.loc["relu-s1", "best_valid_error"] == 0.5  # at step 0, before it was lost


def test_runs_that_wait_stand_beside_those_that_are_done(tmp_path):
    invented.results(tmp_path, invented.sweep(seeds=(0, 1)), lambda *_: 0.5)
    folder = invented.results(tmp_path, invented.sweep(seeds=(2,)))
    runs = load(folder).runs
    assert runs.groupby("seed")["status"].unique().map(list).to_dict() == {0: ["done"], 1: ["done"], 2: ["pending"]}
    assert runs.groupby("seed")["in_sweep"].all().to_dict() == {0: False, 1: False, 2: True}


# ---- records


def test_records_have_dims_labels_and_units(trained):
    found = load(trained).records()
    assert dict(found.sizes) == {"run": 24, "step": 5, "layer": 2, "quantile": 5}
    assert found["activation_quantile"].dims == ("run", "step", "layer", "quantile")
    assert found["activation_std"].dims == ("run", "step", "layer")
    assert found["test_error"].dims == ("run", "step")
    for name, variable in found.data_vars.items():
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"], name
    assert found["step"].attrs["long_name"] == "updates made"
    assert found["layer"].to_numpy().tolist() == [1, 2]
    assert found["quantile"].to_numpy().tolist() == [0.01, 0.02, 0.5, 0.98, 0.99]


def test_every_varying_setting_is_a_coordinate_on_run(trained):
    found, runs = load(trained).records(), load(trained).runs
    for column in ("name", "seed", *VARYING):
        assert found[column].dims == ("run",)
        assert found[column].to_numpy().tolist() == runs.loc[found["run"].to_numpy(), column].tolist()
    tanh = found.where(found["model.activation"] == "tanh", drop=True)
    assert tanh.sizes["run"] == 12


def test_the_long_form_is_tidy(trained):
    frame = load(trained).records(names=["activation_std"]).to_dataframe().reset_index()
    assert {"run", "step", "layer", "seed", *VARYING, "activation_std"} <= set(frame.columns)
    assert len(frame) == 24 * 5 * 2


def test_only_the_variables_asked_for_are_read(trained):
    assert list(load(trained).records(names=["test_error"]).data_vars) == ["test_error"]


def test_asked_for_variables_come_with_their_predictions(trained):
    """Or one without the other; a name that nobody has is one line with the nearest."""
    both = ["activation_std", "activation_std_theory"]
    found = load(trained).records(names=["activation_std"])
    assert list(found.data_vars) == both
    assert found["activation_std_theory"].dims == ("run", "layer")
    assert np.isfinite(found["activation_std_theory"].where(found["model.gain"] == 1, drop=True)).all()
    alone = load(trained).records(names=["activation_std_theory"])
    assert list(alone.data_vars) == both[1:]
    assert alone["layer"].to_numpy().tolist() == [1, 2]
    with pytest.raises(
        InputError, match=r"^names: 'activation_sdt' is not known\n  hint: 'activation_std'\? known: ac"
    ):
        load(trained).records(names=["activation_sdt"])


def test_xarray_opens_the_record_files_by_itself(trained):
    for file in record_files(trained):
        with xr.open_dataset(file) as opened:
            assert opened.sizes["run"] == 24
            assert opened["test_loss"].attrs["units"] == "nat"


def test_steps_that_not_all_cohorts_have_are_left_out_and_named(tmp_path):
    folder = invented.results(tmp_path, invented.sweep(steps=grid(5, 10)), lambda r, n, s: s)
    found = load(folder).records()
    assert found["step"].to_numpy().tolist() == [0]
    assert "2 steps" in found.attrs["left_out"]
    for cohort in load(folder).cohorts:
        alone = load(folder).records(cohort)
        assert alone["step"].to_numpy().tolist() == [0, int(alone["step"][-1])]
        assert (alone["train_loss"].to_numpy() == alone["step"].to_numpy()).all()
        assert "left_out" not in alone.attrs


def test_cohorts_of_other_depth_are_read_one_by_one(tmp_path):
    made = invented.sweep(model=grid(mlp(widths=(6, 6)), mlp(widths=(6,))))
    folder = invented.results(tmp_path, made, lambda *_: 0.5)
    for file in folder.glob("shards/*/rec-*.nc"):  # the invented records are two layers deep
        if "[6]" in str(pd.read_parquet(file.parent / "runs.parquet")["model.widths"][0]):
            xr.load_dataset(file, engine="h5netcdf").isel(layer=[0]).to_netcdf(file, engine="h5netcdf")
    opened = load(folder)
    with pytest.raises(InputError, match="differ in depth\n.*ask for one: " + ", ".join(opened.cohorts)):
        opened.records()
    assert sorted(opened.records(c).sizes["layer"] for c in opened.cohorts) == [1, 2]


def test_an_unknown_cohort_is_named(trained):
    with pytest.raises(InputError, match="cohort: 'nope' is not known\n.*known: " + load(trained).cohorts[0]):
        load(trained).records("nope")


def test_before_the_first_record_there_are_none(tmp_path):
    folder = invented.results(tmp_path, invented.sweep())
    with pytest.raises(InputError, match="it has no records yet"):
        load(folder).records()


# ---- reading without JAX, and while others write


def test_reading_never_imports_jax(trained):
    script = (
        "import sys\n"
        "from glorot_jax import load\n"
        "from glorot_jax.analysis.tables import render_table\n"
        "from glorot_jax.analysis.status import render_status\n"
        "results = load(sys.argv[1])\n"
        "assert len(results.runs) == 24 and results.records().sizes['run'] == 24\n"
        "render_table(sys.argv[1]), render_status(sys.argv[1]), results._repr_html_()\n"
        "print(sorted({'jax', 'jaxlib', 'flax', 'optax', 'orbax'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(trained)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_reader_at_work_while_files_are_merged_reads_again(copy, monkeypatch):
    """It has read the manifest; then the writer merges, commits and removes the files that it named."""
    expected, stale = load(copy).records(), load(copy)
    folder = only_shard(copy)
    merged = xr.concat([xr.load_dataset(f, engine="h5netcdf") for f in record_files(copy)], "step")
    slept = []

    def writer_goes_on(seconds: float) -> None:
        slept.append(seconds)
        manifest = json.loads((folder / "manifest.json").read_text())
        entry = records.append(folder, merged)
        (folder / "manifest.json").write_text(json.dumps(manifest | {"records": [entry]}))

    monkeypatch.setattr(results.time, "sleep", writer_goes_on)
    for file in record_files(copy):
        file.unlink()
    xr.testing.assert_identical(stale.records(), expected)
    assert len(slept) == 1


def test_a_reader_that_is_overtaken_again_and_again_gets_through(copy, monkeypatch):
    """Each time that it looks for the files of a manifest, the writer has replaced it and removed them."""
    expected, reader, left = load(copy).records(), load(copy), list(range(20))
    path, read = only_shard(copy) / "manifest.json", results._Shard._read

    def overtaken(shard, names):
        if left:
            manifest = json.loads(path.read_text())
            manifest["records"][-1]["level"] = left.pop()
            path.write_text(json.dumps(manifest))
            raise FileNotFoundError("rec-1-2.nc")
        return read(shard, names)

    monkeypatch.setattr(results._Shard, "_read", overtaken)
    xr.testing.assert_identical(reader.records(), expected)
    assert not left


def test_a_shard_that_is_moved_away_while_it_is_read_is_left_out(copy, monkeypatch):
    parts = results._parts

    def moved(folder):
        shutil.move(folder, copy.parent / "elsewhere")
        return parts(folder)

    monkeypatch.setattr(results, "_parts", moved)
    assert load(copy).shards == []
    assert status(copy)["runs"]["pending"] == 24


def test_what_the_first_process_has_not_written_yet_is_not_missed(copy):
    """It describes the sweep first."""
    shutil.rmtree(copy / "shards")
    (copy / "environment.json").unlink()
    assert load(copy).environment == {}
    assert status(copy)["runs"]["pending"] == 24
    assert "24 pending" in render_status(copy)


def test_events_of_all_processes_are_told_in_order_and_torn_lines_left_out(copy):
    (copy / "events.jsonl").write_text(
        '{"event": "start", "time": "1"}\n{"event": "co\n{"event": "done", "time": "4"}\n'
    )
    (copy / "events-0-of-2.jsonl").write_text('{"event": "start", "time": "2"}\n{"event": "stop", "time": "3"}\n{"ev')
    assert [event["time"] for event in load(copy).events] == ["1", "2", "3", "4"]


def test_readers_never_fail_while_a_writer_commits(tmp_path):
    """A process reads without pause while this one commits twenty segments, merging on the way."""
    made = invented.sweep(steps=20, seeds=(0,), optimizer=sgd(learning_rate=0.1))
    folder = invented.results(tmp_path / "busy", made, lambda *_: 0.5, steps=(0,))
    script = (
        "import sys, pathlib\n"
        "from glorot_jax import load\n"
        "from glorot_jax.analysis.status import status\n"
        "reads, seen = 0, set()\n"
        "while not pathlib.Path(sys.argv[2]).exists():\n"
        "    steps = load(sys.argv[1]).records()['step'].to_numpy().tolist()\n"
        "    assert steps == list(range(len(steps))), steps\n"
        "    status(sys.argv[1])\n"
        "    reads += 1; seen.add(len(steps)); print(reads, flush=True)\n"
        "print(reads, len(seen))\n"
    )
    flag = tmp_path / "stop"
    reader = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(flag)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout.readline() == "1\n"  # it is at work
        ((part, _),) = shard.open_all(folder)
        for step in range(1, 21):
            runs = made.runs()
            new = invented._records(runs, lambda *_: 0.5, [step], {}, invented.SEED_AND_STEP)
            part.commit(step, invented._state(runs, step), new, [], 1.0)
    finally:
        flag.touch()
        said, failed = reader.communicate(timeout=60)
    assert reader.returncode == 0, failed
    reads, different = map(int, said.splitlines()[-1].split())
    assert reads > 3
    assert different > 2


def test_a_record_file_that_is_gone_for_good_is_one_line(copy, monkeypatch):
    monkeypatch.setattr(results.time, "sleep", lambda _: None)
    gone = record_files(copy)[1]
    gone.unlink()
    for use in (lambda: load(copy).runs, lambda: load(copy).records(), lambda: render_status(copy)):
        with pytest.raises(InputError, match=re.escape(f"{only_shard(copy).name}/{gone.name}: missing")):
            use()


# ---- several folders


def test_several_folders_are_the_union_of_their_runs(tmp_path):
    one = invented.results(tmp_path / "one", invented.sweep(seeds=(0, 1)), lambda r, *_: r.seed)
    two = invented.results(tmp_path / "two", invented.sweep(seeds=(2,)), lambda r, *_: r.seed)
    both = load([one, two])
    assert len(both.runs) == 4 * 3
    assert both.runs["in_sweep"].all()
    assert (both.runs["test_loss"] == both.runs["seed"]).all()
    assert both.records().sizes["run"] == 12


def test_the_same_results_in_two_folders_are_counted_once(copy, trained):
    both = load([trained, copy])
    pd.testing.assert_frame_equal(both.runs, load(trained).runs)
    assert both.records().sizes["run"] == 24


def test_runs_that_two_folders_share_are_counted_once_whatever_stands_beside_them(tmp_path):
    one = invented.results(tmp_path / "one", invented.sweep(seeds=(0, 1)), lambda r, *_: r.seed)
    two = invented.results(tmp_path / "two", invented.sweep(seeds=(1, 2)), lambda r, *_: r.seed)
    for paths in ([one, two], [two, one]):
        both = load(paths)
        assert both.runs.index.is_unique
        assert sorted(both.runs["seed"]) == sorted([0, 1, 2] * 4)
        assert (both.runs["test_loss"] == both.runs["seed"]).all()
        assert both.records().sizes["run"] == 12
    other = invented.results(tmp_path / "other", invented.sweep(seeds=(1, 3)), lambda r, *_: r.seed + 0.5)
    with pytest.raises(InputError, match="hold the same run with different results"):
        load([one, other])
    begun = invented.results(tmp_path / "begun", invented.sweep(seeds=(1, 4)))
    with pytest.raises(InputError, match="hold the same run with different results"):
        load([one, begun])


def test_a_run_with_other_bits_in_two_folders_is_refused_and_both_are_named(tmp_path):
    made = invented.sweep()
    one = invented.results(tmp_path / "one", made, lambda *_: 0.5)
    two = invented.results(tmp_path / "two", made, lambda *_: 0.5, steps=(0, 4))
    with pytest.raises(InputError, match="hold the same run with different results") as caught:
        load([one, two])
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)


# ---- damage


def tear_manifest(folder: Path) -> str:
    path = only_shard(folder) / "manifest.json"
    path.write_text(path.read_text()[:200])
    return "manifest.json: damaged, it is not JSON"


def strip_manifest(folder: Path) -> str:
    path = only_shard(folder) / "manifest.json"
    facts = json.loads(path.read_text())
    del facts["cohort"]
    path.write_text(json.dumps(facts))
    return "manifest.json: damaged, cohort is missing"


def list_manifest(folder: Path) -> str:
    (only_shard(folder) / "manifest.json").write_text("[1, 2]")
    return "manifest.json: damaged, it is not a JSON object"


def age_manifest(folder: Path) -> str:
    path = only_shard(folder) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    return "manifest.json: damaged, its format is not 1"


def tear_parquet(folder: Path) -> str:
    path = only_shard(folder) / "runs.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    return "runs.parquet: can't be read"


def lose_parquet(folder: Path) -> str:
    (only_shard(folder) / "runs.parquet").unlink()
    return "runs.parquet: can't be read"


def truncate_records(folder: Path) -> str:
    path = record_files(folder)[-1]
    path.write_bytes(path.read_bytes()[:-2000])
    return f"{path.name}: can't be read"


def empty_records(folder: Path) -> str:
    path = record_files(folder)[-1]
    path.write_bytes(b"")
    return f"{path.name}: can't be read"


def overwrite_records(folder: Path) -> str:
    """Zeros where HDF5 keeps its tables: it raises RuntimeError or KeyError, not OSError."""
    path = record_files(folder)[-1]
    content = bytearray(path.read_bytes())
    content[500:9000] = bytes(8500)
    path.write_bytes(content)
    return f"{path.name}: can't be read"


def tear_description(folder: Path) -> str:
    (folder / "sweep.json").write_text("{")
    return "sweep.json: damaged"


@pytest.mark.parametrize(
    "damage",
    [
        tear_manifest,
        strip_manifest,
        list_manifest,
        age_manifest,
        tear_parquet,
        lose_parquet,
        truncate_records,
        empty_records,
        overwrite_records,
        tear_description,
    ],
)
def test_damage_is_one_line_that_names_the_file(copy, damage):
    line = damage(copy)
    for use in (lambda: load(copy).runs, lambda: load(copy).records(), lambda: render_status(copy)):
        with pytest.raises(InputError, match=re.escape(line)) as caught:
            use()
        message = str(caught.value)
        assert message.count("\n") <= 1
        assert "hint: " in message


def test_what_is_no_results_folder_is_said_with_those_beside_it(trained, tmp_path):
    (tmp_path / "alone").mkdir()
    with pytest.raises(InputError, match=r"not a results folder\n  hint: it has no sweep\.json"):
        load(tmp_path / "alone")
    with pytest.raises(InputError, match="not a results folder\n  hint: results beside it: small"):
        load(trained.parent / "smal")


# ---- how it shows itself


def test_the_repr_counts_the_runs(trained):
    said = repr(load(trained))
    counts = load(trained).runs["status"].value_counts()
    assert said.startswith("<Results small: 24 runs (")
    assert f"{counts['diverged']} diverged" in said
    assert f"{counts['done']} done" in said


def test_the_html_of_ten_thousand_runs_is_short(tmp_path):
    made = invented.sweep(seeds=range(2500))
    folder = invented.results(tmp_path, made)
    html = load(folder)._repr_html_()
    assert len(load(folder).runs) == 10_000
    assert "10000 runs" in html
    assert len(html.encode()) <= 100_000
    assert html.partition("<tbody>")[2].count("<tr") == 20


# ---- status


def test_status_counts_and_says_how_to_go_on(tmp_path):
    made = invented.sweep(optimizer=sgd(learning_rate=0.1))
    half = invented.results(tmp_path / "half", made, lambda *_: 0.5, steps=(0, 4), diverged={"relu-s1": 2})
    facts = status(half)
    assert facts["state"] == "unfinished"
    assert facts["runs"] == {"pending": 0, "training": 5, "done": 0, "diverged": 1, "dropped": 0}
    assert facts["diverged"] == [{"run": "relu-s1", "step": 2, "in": "weight gradient of layer 2"}]
    said = render_status(half)
    assert "step 4 of 10 (40%)" in said
    assert f"go on with: glorot resume {half}" in said
    whole = invented.results(tmp_path / "whole", made, lambda *_: 0.5)
    assert status(whole)["go_on"] is None
    assert "go on" not in render_status(whole)


def test_status_formats_parse_back(trained):
    shards = json.loads(render_status(trained, "json"))["shards"]
    table = pd.read_csv(io.StringIO(render_status(trained, "csv")))
    assert table["step"].tolist() == [s["step"] for s in shards] == [30]
    assert table["runs"].tolist() == [24]
    lines = [line for line in render_status(trained, "markdown").splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(InputError, match="format: 'jsn' is not known"):
        render_status(trained, "jsn")


def test_status_bytes_are_those_on_disk(trained):
    (facts,) = status(trained)["shards"]
    assert facts["record_bytes"] == sum(f.stat().st_size for f in record_files(trained))
    files = [f for f in (only_shard(trained) / "checkpoints").rglob("*") if f.is_file()]
    assert len(files) > 10
    assert facts["checkpoint_bytes"] == sum(f.stat().st_size for f in files)


def test_a_sweep_whose_shards_were_moved_away_is_all_pending(copy):
    shutil.rmtree(copy / "shards")
    assert status(copy)["runs"]["pending"] == 24
    assert "24 pending" in render_status(copy)
    assert "0 runs" in repr(load(copy))


def test_the_state_that_was_committed_is_that_of_the_runs_in_the_table(trained):
    """The table's order and the checkpoint's are the same: a diverged run is where the state says so."""
    runs = load(trained).runs
    for run, state in parameters(trained).items():
        assert (runs.loc[run, "status"] == "diverged") == (state["diverged_step"] >= 0)
