"""A shard's folder: one commit for state and records, what was not committed is dropped, one process at a time."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from glorot_jax import files
from glorot_jax.engine import checkpoint, folder, records, shard
from glorot_jax.engine.planning import plan
from glorot_jax.errors import InputError, ResumableError
from glorot_jax.probes.probe import Output
from glorot_jax.store.here import Here
from tests.cli.disk import small_disk
from tests.engine.small import sweep

(COHORT,) = plan.cohorts(sweep(seeds=(0,)).runs())
OUTPUTS = {"loss": Output((), "loss")}


def state(step: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(step)
    return {"params/w": chance.normal(size=(4, 3)).astype(np.float32), "step": np.full(4, step, np.int32)}


def measured(step: int):
    values = {"loss": np.random.default_rng(step).normal(size=(4, 1)).astype(np.float32)}
    return records.dataset(values, OUTPUTS, [run.id for run in COHORT.runs], [step])


def commit(part: shard.Shard, step: int, diverged=()) -> None:
    part.commit(step, state(step), measured(step), diverged, 0.5)


@pytest.fixture
def part(tmp_path) -> shard.Shard:
    """A shard with commits at steps 0, 10 and 20 of 40."""
    made = shard.create(tmp_path / "results" / "shards" / COHORT.shard_id, COHORT, 2)
    for step in (0, 10, 20):
        commit(made, step)
    return made


def again(part: shard.Shard) -> shard.Shard:
    """The shard as another process finds it."""
    ((found, _),) = shard.open_all(part.folder.parents[1])
    return found


def assert_state(found: dict[str, np.ndarray], step: int) -> None:
    assert found.keys() == state(step).keys()
    for name, array in state(step).items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()


def record_steps(part: shard.Shard) -> list[int]:
    found = [records.read(part.folder / e["file"])["step"].to_numpy().tolist() for e in part.manifest["records"]]
    return [step for steps in found for step in steps]


def names(part: shard.Shard, kind: str) -> set[str]:
    return {p.name for p in part.folder.glob(kind)}


def test_a_new_shard_holds_its_runs_and_stands_at_step_0(tmp_path):
    made = shard.create(tmp_path / "shards" / COHORT.shard_id, COHORT, 2)
    assert (made.step, made.done, made.last_recorded) == (0, False, -1)
    table = pq.read_table(made.folder / "runs.parquet").to_pandas()
    assert table["run"].tolist() == [run.id for run in COHORT.runs]
    assert table["name"].tolist() == [run.name for run in COHORT.runs]
    assert set(table["model.activation"]) == {"sigmoid", "tanh"}
    ((found, ids),) = shard.open_all(tmp_path)
    assert ids == [run.id for run in COHORT.runs]
    assert found.manifest == made.manifest
    assert found.restore() == (None, [])


def test_a_commit_makes_state_and_records_durable_together(part):
    found = again(part)
    assert found.manifest == part.manifest
    restored, notes = found.restore()
    assert_state(restored, 20)
    assert notes == []
    assert record_steps(found) == [0, 10, 20]
    assert (found.step, found.last_recorded, found.done) == (20, 20, False)
    assert found.manifest["generation"] == 3
    assert found.manifest["wall_seconds"] == 1.5


def test_the_last_step_makes_it_done(part):
    commit(part, 40, [{"run": COHORT.runs[0].id, "step": 33, "tensor": "loss", "layer": None}])
    found = again(part)
    assert found.done
    assert found.manifest["diverged"][0]["step"] == 33


def test_a_segment_without_records_commits_its_state(part):
    part.commit(25, state(25), None, [], 0.5)
    found = again(part)
    assert_state(found.restore()[0], 25)
    assert record_steps(found) == [0, 10, 20]


@pytest.mark.parametrize("dies_in", ["append", "save", "write_json"])
def test_what_dies_before_the_manifest_is_replaced_was_never_there(part, monkeypatch, dies_in):
    """Killed after the records, after the checkpoint, or just before the commit: restored is the commit before."""
    before = json.loads((part.folder / "manifest.json").read_text())

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    where = {"append": checkpoint, "save": shard, "write_json": shard}[dies_in]
    name = {"append": "save", "save": "write_json", "write_json": "write_json"}[dies_in]
    with monkeypatch.context() as patched:
        patched.setattr(where, name, die)
        with pytest.raises(Killed):
            commit(part, 30)
    assert json.loads((part.folder / "manifest.json").read_text()) == before
    found = again(part)
    assert_state(found.restore()[0], 20)
    assert record_steps(found) == [0, 10, 20]
    commit(found, 30)
    assert_state(again(part).restore()[0], 30)
    assert record_steps(again(part)) == [0, 10, 20, 30]


def test_restore_drops_what_was_not_committed_and_nothing_else(part):
    whole = {p: p.read_bytes() for p in part.folder.rglob("*") if p.is_file()}
    records.append(part.folder, measured(30))
    checkpoint.save(part.checkpoints, 30, state(30))
    (part.folder / f"{files.TEMPORARY}abc-manifest.json").write_text("{")
    (part.checkpoints / "40.orbax-checkpoint-tmp").mkdir()
    (part.folder / "notes.txt").write_text("a person's own")
    again(part).restore()
    left = {p: p.read_bytes() for p in part.folder.rglob("*") if p.is_file()}
    assert left == whole | {part.folder / "notes.txt": b"a person's own"}
    assert names(part, "checkpoints/*") == {"10", "20"}


def test_two_checkpoints_are_kept(part):
    assert names(part, "checkpoints/*") == {"10", "20"}


def test_merged_files_stay_for_one_commit_more_for_readers_that_hold_them(part):
    for step in range(21, 25):
        commit(part, step)
    seven = names(part, "rec-*")
    assert len(seven) == 7
    commit(part, 25)  # the eighth: merged
    assert len(part.manifest["records"]) == 1
    assert seven < names(part, "rec-*")
    commit(part, 26)
    commit(part, 27)
    assert names(part, "rec-*") == {e["file"] for e in part.manifest["records"]}
    assert record_steps(part) == [0, 10, 20, 21, 22, 23, 24, 25, 26, 27]


def test_after_many_commits_there_are_few_files_and_every_record(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, _: {"step": step})  # of records alone
    made = shard.create(tmp_path / "shards" / COHORT.shard_id, COHORT, 2)
    most = 0
    for step in range(200):
        commit(made, step)
        most = max(most, len(names(made, "rec-*")))
    assert most <= 30
    assert record_steps(made) == list(range(200))


def tear(part: shard.Shard, step: int) -> None:
    for path in (part.checkpoints / str(step)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_torn_checkpoint_is_set_aside_and_the_one_before_used_with_its_records(part):
    tear(part, 20)
    found = again(part)
    restored, (note,) = found.restore()
    assert_state(restored, 10)
    assert record_steps(found) == [0, 10]
    assert note.startswith("checkpoint 20: ")
    assert note.endswith("going on from step 10")
    (aside,) = names(part, "damaged-20-*")
    assert aside in note
    assert_state(again(part).restore()[0], 10)


def test_a_checkpoint_with_other_bits_is_not_trusted(part):
    """Orbax reads it without complaint; the digest in the manifest is of other bits."""
    checkpoint.save(part.checkpoints, 20, state(20) | {"params/w": state(21)["params/w"]})
    restored, (note,) = again(part).restore()
    assert_state(restored, 10)
    assert "its content is not what was written" in note


def test_where_both_checkpoints_are_torn_it_starts_anew_and_says_so(part):
    tear(part, 10)
    tear(part, 20)
    found = again(part)
    restored, notes = found.restore()
    assert restored is None
    assert len(notes) == 2
    assert notes[1].endswith("starting from step 0")
    assert (found.step, found.manifest["records"]) == (0, [])
    assert len(names(part, "damaged-*")) == 2


def test_a_missing_checkpoint_is_said_to_be_missing(part):
    (part.checkpoints / "20").rename(part.folder / "elsewhere")
    restored, (note,) = again(part).restore()
    assert_state(restored, 10)
    assert note.endswith("; missing; going on from step 10")


# ---- a full disk


@pytest.mark.parametrize("at", ["records", "checkpoint", "manifest"])
def test_a_disk_that_fills_during_a_commit_leaves_the_one_before_whole(part, monkeypatch, at):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_bytes = Path.write_bytes

    def full_for(name: str):
        return lambda path, content: full() if name in path.name else write_bytes(path, content)

    with monkeypatch.context() as patched:
        if at == "checkpoint":
            patched.setattr("orbax.checkpoint.AsyncCheckpointer.save", full)
        else:
            patched.setattr(Path, "write_bytes", full_for({"records": "rec-", "manifest": "manifest"}[at]))
        with pytest.raises(ResumableError, match="no space left on the disk; make room and run the same command"):
            commit(part, 30)
    found = again(part)
    assert_state(found.restore()[0], 20)
    assert record_steps(found) == [0, 10, 20]
    commit(found, 30)
    assert_state(again(part).restore()[0], 30)


def test_too_little_room_for_a_checkpoint_is_seen_before_it_is_begun(part, monkeypatch):
    free = SimpleNamespace(free=checkpoint.SLACK)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ResumableError, match="checkpoint 30: no space left on the disk"):
        commit(part, 30)
    assert names(part, "checkpoints/*") == {"10", "20"}


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_a_disk_that_is_really_full_fails_resumably_wherever_it_fills(tmp_path, monkeypatch, seen):
    """The state is a few blocks, so the disk fills in Orbax where its size was not seen before."""
    if not seen:
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    big = {"w": np.random.default_rng(0).normal(size=(4, 20_000))}

    def fill(part: shard.Shard) -> None:
        for step in (1, 2, 3):
            part.commit(step, big, measured(step), [], 0.5)

    with small_disk(tmp_path / "results", "900k") as resize:
        made = shard.create(tmp_path / "results" / "shards" / COHORT.shard_id, COHORT, 2)
        made.commit(0, state(0), measured(0), [], 0.5)
        with pytest.raises(ResumableError, match="no space left on the disk; make room and run the same command"):
            fill(made)
        found = again(made)
        whole = found.step
        assert found.restore()[0] is not None
        assert record_steps(found) == list(range(whole + 1))
        resize("8m")
        found.commit(whole + 1, big, measured(whole + 1), [], 0.5)
        assert again(made).restore()[0]["w"].tobytes() == big["w"].tobytes()


# ---- the manifest


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "damaged, it is not JSON\n  hint: move the shard's folder away"),
        ("[]", "its format is not 1\n  hint: it was written by another version, or is damaged"),
        ('{"format": 2}', "its format is not 1"),
        ('{"format": 1, "step": 3}', "damaged, checkpoint is missing"),
        ("\x00\x00", "damaged, it is not JSON"),
    ],
)
def test_a_damaged_manifest_is_one_line(part, content, line):
    (part.folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="^" + re.escape(f"{part.folder.name}/manifest.json: {line}")) as caught:
        again(part)
    assert str(caught.value).count("\n") == 1


def test_a_damaged_table_of_runs_is_one_line(part):
    (part.folder / "runs.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"runs\.parquet: can't be read"):
        again(part)


def test_a_shard_that_died_while_it_was_made_is_not_one(part):
    (part.folder.parent / "half").mkdir()
    assert len(shard.open_all(part.folder.parents[1])) == 1


# ---- the lock

HOLD = (
    "import pathlib, sys\n"
    "from glorot_jax.engine.folder import alone\n"
    "from glorot_jax.store.here import Here\n"
    "with alone(Here(pathlib.Path(sys.argv[1]))):\n"
    "    print(flush=True)\n"
    "    sys.stdin.readline()\n"
)


def test_the_lock_refuses_a_second_process_and_names_the_first(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        first.stdout.readline()
        with (
            pytest.raises(InputError, match=f"{tmp_path}: process {first.pid} on .+ is at work in it"),
            folder.alone(Here(tmp_path)),
        ):
            pytest.fail("two hold it")
        first.kill()  # the lock dies with its owner, however it dies
    finally:
        first.kill()
        first.communicate()
    with folder.alone(Here(tmp_path)):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
    with folder.alone(Here(tmp_path)):
        pass
