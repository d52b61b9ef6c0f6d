"""A shard on a store: what is committed is whole for whoever comes next, and who was overtaken damages nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glorot_jax.engine import records, shard
from glorot_jax.engine.planning import plan
from glorot_jax.errors import InputError, ResumableError
from glorot_jax.files import write_json
from glorot_jax.probes.probe import Output
from glorot_jax.store import names, remote
from glorot_jax.store.mirror import mirror
from glorot_jax.store.objects import Objects
from tests.engine.small import ROOT, sweep

(COHORT,) = plan.cohorts(sweep(seeds=(0,)).runs())
OUTPUTS = {"loss": Output((), "loss")}


def state(step: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(step)
    return {"params/w": chance.normal(size=(4, 3)).astype(np.float32), "step": np.full(4, step, np.int32)}


def commit(part: shard.Shard, step: int) -> None:
    values = {"loss": np.random.default_rng(step).normal(size=(4, 1)).astype(np.float32)}
    part.commit(step, state(step), records.dataset(values, OUTPUTS, [r.id for r in COHORT.runs], [step]), [], 0.5)


@pytest.fixture
def url(server) -> str:
    return server.url()


@contextlib.contextmanager
def process(url: str) -> Iterator[shard.Shard]:
    """The shard as a process on a machine of its own finds or makes it."""
    with remote.opened(url) as there:
        write_json(there.folder / "sweep.json", {"name": "small"})
        there.push("sweep.json")
        found = shard.open_all(there.folder, there)
        if found:
            yield found[0][0]
        else:
            yield shard.create(there.folder / "shards" / COHORT.shard_id, COHORT, 2, there=there)


@pytest.fixture
def begun(url) -> str:
    """A shard with commits at steps 0, 10 and 20 of 40, whose process is gone."""
    with process(url) as part:
        part.restore()
        for step in (0, 10, 20):
            commit(part, step)
    return url


def stored(url: str) -> dict[str, bytes]:
    objects = Objects(url)
    return {found.name: objects.get(found.name)[0] for found in objects.list()}


def manifest(url: str) -> dict:
    return json.loads(Objects(url).get(f"shards/{COHORT.shard_id}/manifest.json")[0])


def assert_goes_on(url: str, step: int) -> None:
    """A new process finds this step and its records, and goes on to the end."""
    with process(url) as part:
        found, notes = part.restore()
        assert notes == []
        assert part.step == step
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in state(step).items()
        }
        assert record_steps(part) == list(range(0, step + 1, 10))
        for further in range(step + 10, 41, 10):
            commit(part, further)
    with process(url) as part:
        assert part.done
        assert part.restore()[0]["params/w"].tobytes() == state(40)["params/w"].tobytes()
        assert record_steps(part) == [0, 10, 20, 30, 40]
    assert_whole(url)


def record_steps(part: shard.Shard) -> list[int]:
    found = [records.read(part.folder / e["file"])["step"].to_numpy().tolist() for e in part.manifest["records"]]
    return [step for steps in found for step in steps]


def assert_whole(url: str) -> None:
    """What the manifest and the one before it name is there, and nothing else."""
    inside = {found.name.removeprefix(f"shards/{COHORT.shard_id}/") for found in Objects(url).list("shards")}
    assert inside - {".lock"} == names.named(manifest(url)) | {names.MANIFEST, names.RUNS}


def test_another_machine_goes_on_where_the_last_commit_was(begun):
    assert_whole(begun)
    assert_goes_on(begun, 20)


def test_objects_are_called_as_files_are(begun):
    kept = [m["checkpoint"] for m in (manifest(begun), manifest(begun)["previous"])]
    assert set(stored(begun)) == {
        "sweep.json",
        *(f"shards/{COHORT.shard_id}/{name}" for name in ("manifest.json", "runs.parquet")),
        *(f"shards/{COHORT.shard_id}/{entry['file']}" for entry in manifest(begun)["records"]),
        *(f"shards/{COHORT.shard_id}/checkpoints/{c['step']}-{c['digest'][:16]}.tar" for c in kept),
    }


def test_what_commits_supersede_is_removed_one_commit_later(url):
    with process(url) as part:
        part.restore()
        for step in range(12):
            commit(part, step)
            assert_whole(url)
        assert [entry["count"] for entry in part.manifest["records"]] == [8, 1, 1, 1, 1]


@pytest.mark.parametrize("dies_at", ["rec-", "checkpoints/", "manifest.json"])
def test_a_process_that_dies_between_files_and_manifest_was_never_there(begun, monkeypatch, dies_at):
    """Killed before the records, before the checkpoint, or before the commit itself."""

    class Killed(BaseException):
        pass

    def mortal(work):
        def call(objects, *arguments):
            if any(dies_at in argument for argument in arguments if isinstance(argument, str)):
                raise Killed
            return work(objects, *arguments)

        return call

    before = stored(begun)
    with process(begun) as part:
        part.restore()
        with monkeypatch.context() as patched:
            for name in ("put", "pack", "replace"):
                patched.setattr(Objects, name, mortal(getattr(Objects, name)))
            with pytest.raises(Killed):
                commit(part, 30)
    after = stored(begun)
    kept = {k: v for k, v in before.items() if "manifest" not in k}
    assert kept == {k: v for k, v in after.items() if k in kept}
    assert len(after) - len(before) == {"checkpoints/": 0, "rec-": 1, "manifest.json": 2}[dies_at]
    for name in ("rec-00000030-00000030-00000000.nc", "checkpoints/30-0000000000000000.tar"):  # by other hardware
        Objects(begun).put(f"shards/{COHORT.shard_id}/{name}", b"other bits")
    assert_goes_on(begun, 20)


def test_a_stale_writer_is_told_and_changes_nothing(begun):
    with process(begun) as stale:
        stale.restore()
        with process(begun) as owner:
            owner.restore()
            before = stored(begun)
            with pytest.raises(InputError, match=rf"^{begun}: another process took {COHORT.shard_id} over"):
                commit(stale, 30)
            left = stored(begun)
            assert {k: left[k] for k in before} == before
            commit(owner, 30)
            with pytest.raises(InputError, match="took"):
                commit(stale, 40)
    assert_goes_on(begun, 30)


def test_who_knows_that_the_lease_is_lost_brings_nothing_up_any_more(begun):
    with process(begun) as part:
        part.restore()
        with part.there.held(part.folder / ".lock"):
            (mine,) = part.there._leases.values()
            mine.lost = "process 9 on elsewhere"
            mine.other = lambda: mine.lost
            before = stored(begun)
            with pytest.raises(InputError, match="process 9 on elsewhere took"):
                commit(part, 30)
            assert stored(begun).keys() == before.keys()


def test_a_writer_who_commits_in_the_moment_of_being_replaced_is_not_cut_off(begun):
    """The new one has read an older manifest: its mark is refused, not the commit."""
    with process(begun) as owner:
        owner.restore()
        with process(begun) as newcomer:
            commit(owner, 30)
            with pytest.raises(ResumableError, match="still being written to; the same command goes on"):
                newcomer.restore()
    assert_goes_on(begun, 30)


def test_two_who_create_the_same_shard_are_one(url):
    with process(url) as first:
        first.restore()
        with remote.opened(url) as there:
            there._tags.clear()
            with pytest.raises(InputError, match="took"):
                shard.create(there.folder / "shards" / COHORT.shard_id, COHORT, 2, there=there)
        commit(first, 0)


@pytest.mark.parametrize("damage", ["torn", "gone", "other"])
def test_a_damaged_checkpoint_is_not_trusted_and_the_one_before_it_is_used(begun, damage):
    objects, name = Objects(begun), f"shards/{COHORT.shard_id}/{names.packed(manifest(begun)['checkpoint'])}"
    content = objects.get(name)[0]
    before = objects.get(f"shards/{COHORT.shard_id}/{names.packed(manifest(begun)['previous']['checkpoint'])}")[0]
    match damage:
        case "torn":
            objects.put(name, content[: len(content) // 8])  # one or two files of ten
        case "gone":
            objects.delete([name])
        case "other":
            objects.put(name, before)
    with process(begun) as part:
        found, notes = part.restore()
        assert "checkpoint 20" in notes[0]
        assert "going on from step 10" in notes[0]
        assert found["params/w"].tobytes() == state(10)["params/w"].tobytes()
        assert record_steps(part) == [0, 10]
        commit(part, 20)
    assert_goes_on(begun, 20)


def test_a_prefix_that_holds_something_else_is_refused_and_not_fetched(begun, url, monkeypatch):
    Objects(f"{url}/other").put("thesis.tex", b"\\documentclass")
    with pytest.raises(InputError, match=rf"^out: {url}/other holds something else, such as thesis.tex"):
        remote.opened(f"{url}/other").__enter__()
    Objects(url).put("thesis.tex", b"\\documentclass")
    with remote.opened(url) as there:
        assert not (there.folder / "thesis.tex").exists()


def test_what_dead_processes_left_on_this_machine_is_removed_and_what_the_living_use_is_not(
    begun, monkeypatch, tmp_path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, sys\n"
        "from glorot_jax.store import remote\n"
        "with remote.opened(sys.argv[1]) as there:\n"
        "    print(there.folder, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    died = subprocess.run([sys.executable, "-c", program, begun], stdout=subprocess.PIPE, text=True, env=environment)
    left = Path(died.stdout.strip())
    assert (left / "sweep.json").exists()
    with remote.opened(begun) as one, remote.opened(begun) as two:
        assert not left.exists()
        assert (one.folder / "sweep.json").exists()
        assert (two.folder / "sweep.json").exists()
    assert list(tmp_path.glob("glorot-*/*")) == []


# ---- readers


def assert_readable(folder: Path) -> int:
    """Returns the step up to which a mirror's records are there."""
    found = json.loads((folder / "shards" / COHORT.shard_id / "manifest.json").read_text())
    here = [records.read(folder / "shards" / COHORT.shard_id / e["file"]) for e in found["records"]]
    steps = [step for part in here for step in part["step"].to_numpy().tolist()]
    assert steps == sorted(set(steps))
    assert len(steps) == sum(entry["count"] for entry in found["records"])
    return steps[-1]


def test_a_reader_finds_all_whole_while_a_writer_commits_and_merges(url, monkeypatch):
    with process(url) as part:
        part.restore()
        commit(part, 0)
        over = threading.Event()

        def write() -> None:
            try:
                for step in range(1, 20):
                    commit(part, step)
            finally:
                over.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = []
        while not over.is_set():
            seen.append(assert_readable(mirror(url)))
        writer.join()
    assert assert_readable(mirror(url)) == 19
    assert len(set(seen)) > 1
    assert seen == sorted(seen)


def test_a_reader_whose_files_are_merged_away_under_its_hands_reads_again(url, monkeypatch):
    fetch, pending = Objects.fetch, iter([7, 8])
    with process(url) as part:
        part.restore()
        for step in range(7):
            commit(part, step)

        def overtaken(store, name, path):
            if "rec-" in name:
                for step in pending:
                    commit(part, step)
            return fetch(store, name, path)

        monkeypatch.setattr(Objects, "fetch", overtaken)
        assert assert_readable(mirror(url)) == 8


def test_a_mirror_fetches_what_is_new_and_forgets_what_is_gone(begun, monkeypatch):
    folder, got = mirror(begun), []
    assert not list(folder.rglob("checkpoints"))
    fetch, get = Objects.fetch, Objects.get
    monkeypatch.setattr(Objects, "fetch", lambda o, name, path: (got.append(name), fetch(o, name, path)))
    monkeypatch.setattr(Objects, "get", lambda o, name: (got.append(name), get(o, name))[1])
    assert mirror(begun) == folder
    assert got == []
    with process(begun) as part:
        part.restore()
        commit(part, 30)
        got.clear()
        mirror(begun)
        new = part.manifest["records"][-1]["file"]
        assert sorted(Path(name).name for name in got) == ["manifest.json", new]
    assert assert_readable(folder) == 30
    shard_objects = [found.name for found in Objects(begun).list("shards")]
    Objects(begun).delete(shard_objects)
    mirror(begun)
    assert list(folder.rglob("manifest.json")) == []


def test_a_place_without_results_is_no_results_folder(url):
    with pytest.raises(InputError, match=rf"^{url}: not a results folder"):
        mirror(url)
