"""Sweeps trained on a store by real processes: killed, stopped, cut off, two at once; and the bits of a local twin."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from glorot_jax import load, resume, run, successive_halving
from glorot_jax.analysis.status import status
from glorot_jax.analysis.tables import render_table
from glorot_jax.engine import checkpoint, shard, watching
from glorot_jax.engine.sweep import load_sweep
from glorot_jax.errors import InputError, ResumableError
from glorot_jax.store import names, objects, remote
from glorot_jax.store.objects import Objects
from tests.engine.small import ROOT, assert_same_bits, parameters, records

SWEEP = """
from glorot_jax import Sweep, every, grid, mlp, sgd, shapeset

sweep = Sweep(
    name="small",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(6,), activation=grid("tanh", "relu")),
    optimizer=sgd(learning_rate=0.05),
    seeds=range(2),
    steps=24,
    record=every(2),
    probes=("evaluation",),
)
"""
WORKER = """
import sys, time
from glorot_jax.engine import watching
class Slow(watching.Silent):
    def advance(self, news):
        time.sleep(float(sys.argv[3]))
from glorot_jax import cli
cli._watcher = lambda quiet: Slow()
options = ["--width", "2", "--segment-seconds", "1e-6", *sys.argv[4:]]
sys.exit(cli.main(["run", sys.argv[1], "--out", sys.argv[2], *options]))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "small.py"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="module")
def twin(file, tmp_path_factory) -> Path:
    """The sweep trained on a local disk, undisturbed."""
    return run(load_sweep(str(file)), tmp_path_factory.mktemp("twin") / "small", width=2)


class Worker:
    """A process that trains the sweep, a segment of one step after the other, with a pause after each."""

    def __init__(self, file: Path, url: str, *arguments: str, pause: float = 0.05, **environment: str):
        own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-c", WORKER, str(file), url, str(pause), *arguments]
        self.process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(self, url: str, step: int) -> None:
        """Returns when a shard's manifest on the store names this step, or a later one."""
        deadline = time.monotonic() + 120
        while steps(url) < step:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def ends(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err


@pytest.fixture
def workers():
    made: list[Worker] = []

    def start(*arguments: Any, **options: Any) -> Worker:
        made.append(Worker(*arguments, **options))
        return made[-1]

    yield start
    for worker in made:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.communicate()


def steps(url: str) -> int:
    """The lowest step that a shard on the store has, -1 before the first manifest."""
    return min((manifest["step"] for manifest in manifests(url)), default=-1)


def manifests(url: str) -> list[dict[str, Any]]:
    """Those of the shards on the store."""
    store = Objects(url)
    found = [store.get(o.name) for o in store.list("shards") if o.name.endswith(names.MANIFEST)]
    return [json.loads(one[0]) for one in found if one is not None]


def assert_as_twin(url: str, twin: Path) -> None:
    """Final parameters, records and the table are those of the twin, to the last bit."""
    with remote.opened(url) as there:
        for part, _ in shard.open_all(there.folder, there):
            assert part.done
            there.fetch(part.folder, part.manifest)
        assert_same_bits(parameters(there.folder), parameters(twin))
        assert len(parameters(there.folder)) == len(parameters(twin))
    assert_same_bits(records(url), records(twin))
    assert render_table(url) == render_table(twin)


def test_a_sweep_on_a_store_is_that_of_a_local_folder(server, file, twin):
    url = server.url()
    assert run(load_sweep(str(file)), url, width=2) == url
    assert_as_twin(url, twin)
    assert load(url).runs.equals(load(twin).runs)
    assert [e["event"] for e in load(url).events][-1] == "done"
    before, mine = status(url), status(twin)
    assert (before["state"], before["runs"], before["go_on"]) == ("done", mine["runs"], None)
    for told, own in zip(before["shards"], mine["shards"], strict=True):
        assert 0.7 < told["checkpoint_bytes"] / own["checkpoint_bytes"] < 1.4, "Orbax's own notes differ in length"
    run(load_sweep(str(file)), url, width=2)
    assert status(url)["shards"] == before["shards"], "what is done is not trained again"
    with pytest.raises(InputError, match="fresh: it can't stand beside a URL"):
        run(load_sweep(str(file)), url, fresh=True)


def test_more_seeds_train_only_what_is_new(server, file, twin):
    url = server.url()
    run(load_sweep(str(file)), url, width=2)
    before = {m["shard"]: m for m in load(url).shards}
    run(load_sweep(str(file), ["seeds=[0,1,2]"]), url, width=2)
    after = {m["shard"]: m for m in load(url).shards}
    assert {name: after[name] for name in before} == before
    assert len(load(url).runs) == 6


def test_killed_or_stopped_at_any_moment_another_machine_goes_on_to_the_same_bits(
    server, file, twin, workers, tmp_path
):
    url = server.url()
    for life, (step, number) in enumerate(((5, signal.SIGKILL), (11, signal.SIGTERM))):
        worker = workers(file, url, TMPDIR=_fresh(tmp_path / f"machine {life}"))
        worker.until(url, step)
        worker.process.send_signal(number)
        code, _, err = worker.ends()
        if number == signal.SIGTERM:
            assert code == 143
            assert f"saved at step {steps(url)} of 24; the same command goes on" in err
            assert load(url).events[-1]["event"] == "stop"
    assert step <= steps(url) < 24
    assert (status(url)["state"], status(url)["go_on"]) == ("unfinished", f"glorot resume {url}")
    assert resume(url) == url
    assert_as_twin(url, twin)


def test_a_part_has_one_owner_and_one_that_was_stopped_past_its_lease_damages_nothing(
    server, file, twin, workers, monkeypatch
):
    monkeypatch.setenv("GLOROT_LEASE_SECONDS", "3")
    url, sweep, ended = server.url(), load_sweep(str(file)), []
    first = workers(file, url, "--shard", "0/2", pause=0.5)
    first.until(url, 1)
    owner = rf"^{url}: process {first.process.pid} on .+ \(part 0 of 2\) is at work in it"
    with pytest.raises(InputError, match=owner):
        run(sweep, url, shard=(0, 2), width=2)
    with pytest.raises(InputError, match=owner):  # nor may all of it be trained meanwhile
        run(sweep, url, width=2)
    at_work = f"process {first.process.pid} on "
    assert [(p["state"], (p["owner"] or "")[: len(at_work)]) for p in status(url)["parts"]] == [
        ("at work", at_work),
        ("waiting", ""),
    ]
    os.kill(first.process.pid, signal.SIGSTOP)
    run(sweep, url, shard=(1, 2), width=2)

    class Wakes(watching.Silent):
        def advance(self, news):
            if not ended:
                os.kill(first.process.pid, signal.SIGCONT)
                ended.append(first.ends())

    run(sweep, url, shard=(0, 2), width=2, segment_seconds=1e-6, progress=Wakes())
    ((code, _, err),) = ended
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {url}: process {os.getpid()} on ")
    assert line.endswith("over while this process was stopped or out of reach")
    assert "Traceback" not in err
    assert_as_twin(url, twin)


def test_a_store_that_stays_away_ends_the_process_resumably(server, file, twin, monkeypatch):
    url = server.url()
    monkeypatch.setattr(objects, "PATIENCE", 1.5)
    monkeypatch.setattr(objects, "HASTE", 0.5)
    commits = []
    save = checkpoint.save

    def cut_off_at_the_third(*arguments):
        commits.append(arguments)
        if len(commits) == 3:
            server.feels("down")
        return save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", cut_off_at_the_third)
        with pytest.raises(ResumableError, match=rf"^{url}: out of reach for \d+ s .* the same command goes on$"):
            run(load_sweep(str(file)), url, width=2, segment_seconds=1e-6)
    monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
    with pytest.raises(ResumableError, match="out of reach"):
        status(url)
    server.feels("")
    run(load_sweep(str(file)), url, width=2)
    assert_as_twin(url, twin)


def _fresh(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def test_a_search_compares_shards_that_another_process_left_waiting_on_the_store(server, file, twin):
    """The first shard waits at the rung when the process dies; the next has neither its records nor its state."""
    url = server.url()
    made = dataclasses.replace(load_sweep(str(file)), search=successive_halving(at=4, factor=2))

    class Dies(watching.Silent):
        ends = 0

        def advance(self, news):
            self.ends += news.step == 4
            if self.ends and news.step < 4:
                raise KeyboardInterrupt

    options = {"width": 2, "at_once": 2, "segment_seconds": 1e-6}
    with pytest.raises(KeyboardInterrupt):
        run(made, url, progress=Dies(), **options)
    assert sorted(manifest["step"] for manifest in manifests(url)) == [0, 4]
    run(made, url, **options)
    errors = load(twin).records()["valid_error"].sel(step=4).to_series()
    means = errors.groupby(load(twin).runs["model.activation"].reindex(errors.index)).mean()
    dropped = {one["run"] for manifest in manifests(url) for one in manifest["dropped"]}
    runs = load(twin).runs
    assert dropped == set(runs.index[runs["model.activation"] == means.idxmax()])
    with remote.opened(url) as there:
        for part, _ in shard.open_all(there.folder, there):
            there.fetch(part.folder, part.manifest)
        found = parameters(there.folder)
    assert_same_bits({name: found[name] for name in found.keys() - dropped}, parameters(twin))
