"""A sweep in parts: who trains what, real processes side by side, and the bits of the undivided sweep."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import pytest

from glorot_jax import Sweep, every, grid, load, load_sweep, locks, mlp, run, sgd, shapeset, successive_halving
from glorot_jax.analysis.status import render_status, status
from glorot_jax.analysis.tables import render_table
from glorot_jax.cli import main
from glorot_jax.engine import devices, division, watching
from glorot_jax.engine.division import Unit, dealt
from glorot_jax.errors import InputError
from glorot_jax.store.here import Here
from tests.engine.small import ROOT, DiesAtThirdCommit, assert_same_bits, parameters

SWEEP = """
from glorot_jax import Sweep, every, grid, mlp, sgd, shapeset

sweep = Sweep(
    name="parts",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(6,), activation=grid("sigmoid", "tanh")),
    optimizer=sgd(learning_rate=grid(0.05, 0.1)),
    seeds=range(3),
    steps=24,
    record=every(1),
    probes=("evaluation",),
)
"""
"""Twelve runs of one cohort."""


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """Unless a test says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "local", lambda: jax.local_devices()[:1])
        yield


def changed(**changes: Any) -> Sweep:
    """The same with fewer records, and what is said."""
    settings: dict[str, Any] = {
        "name": "parts",
        "data": shapeset(size=8, validation=20, test=20),
        "model": mlp(widths=(6,), activation=grid("sigmoid", "tanh")),
        "optimizer": sgd(learning_rate=grid(0.05, 0.1)),
        "seeds": range(3),
        "steps": 6,
        "record": every(2),
        "probes": ("evaluation",),
    }
    return Sweep(**settings | changes)


def parts(sweep: Sweep, out: Path, count: int, **options: Any) -> None:
    """Trains all parts, one after the other, the last first."""
    for part in reversed(range(count)):
        run(sweep, out, shard=(part, count), **options)


def pieces(out: Path, part: int | None = None) -> list[division.Piece]:
    made = division.read(out)
    assert made is not None
    return list(made.pieces) if part is None else made.of(part)


def pieces_begun(out: Path) -> list[str]:
    return sorted(manifests(out), key=lambda name: -json.loads(manifests(out)[name])["step"])


def manifests(out: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in out.glob("shards/*/manifest.json")}


def assert_same(one: Path, other: Path) -> None:
    assert parameters(one).keys() == parameters(other).keys()
    assert_same_bits(parameters(one), parameters(other))
    assert set(load(one).cohorts) == set(load(other).cohorts)
    for cohort in load(one).cohorts:
        first, second = load(one).records(cohort), load(other).records(cohort)
        assert first.sel(run=second["run"].to_numpy()).identical(second)
    assert render_table(one, "csv") == render_table(other, "csv")


# ---- who trains what


@pytest.mark.parametrize("parts", [1, 3, 4, 16])
def test_parts_have_the_same_work_but_for_a_block(parts):
    units = [Unit(5, "shallow")] * 11 + [Unit(9, "deep")] * 6
    found = dealt(units, parts)
    assert [place for _, places in found for place in places] == list(range(17))
    assert [part for part, _ in found] == sorted(part for part, _ in found)
    work = Counter()
    for part, places in found:
        work[part] += sum(units[place].weight for place in places)
        assert len({units[place].belongs for place in places}) == 1
    assert max(work.values()) <= (11 * 5 + 6 * 9) / parts + 9
    assert len(found) <= min(parts, 17) + 1, "few have two cohorts"


def test_what_is_the_same_work_goes_to_parts_in_equal_numbers():
    found = dealt([Unit(3, "one")] * 10, 4)
    assert sorted(len(places) for _, places in found) == [2, 2, 3, 3]
    assert dealt([], 4) == []


def test_the_first_process_decides_for_all_machines(tmp_path, monkeypatch):
    """Without a width that is said: the second part runs on four devices, the first on one."""
    out = tmp_path / "out"
    run(changed(), out, shard=(0, 2))
    before = (out / division.DIVISION).read_text()
    assert {piece.width for piece in pieces(out)} == {4}, "six runs a part"
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:4])
    run(changed(), out, shard=(1, 2))
    assert (out / division.DIVISION).read_text() == before
    assert {json.loads(text)["width"] for text in manifests(out).values()} == {4}
    ids = [name for piece in pieces(out) for name in piece.runs]
    assert sorted(ids) == sorted(one.id for one in changed().runs())
    assert all(set(piece.runs) == set(load(out).cohort_of.index) & set(piece.runs) for piece in pieces(out))


def test_bits_are_those_of_the_undivided_sweep_whatever_was_begun_and_changed(tmp_path):
    """Of two parts one is done and one dies; then there are three; then more seeds and rates, in two parts again."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(changed(), out, shard=(1, 2), width=2)
    with pytest.raises(KeyboardInterrupt):
        run(changed(), out, shard=(0, 2), width=2, segment_seconds=1e-6, progress=DiesAtThirdCommit())
    finished = {name: text for name, text in manifests(out).items() if '"state": "done"' in text}
    (begun,) = manifests(out).keys() - finished.keys()
    parts(changed(), out, 3)
    assert [piece.shard for piece in pieces(out)] == [begun], "a shard that was begun stays whole"
    run(changed(), whole, width=2)
    assert_same(out, whole)

    finished = manifests(out)
    more = changed(seeds=range(5), optimizer=sgd(learning_rate=grid(0.05, 0.1, 0.2)))
    parts(more, out, 2, width=2)
    assert sum(len(piece.runs) for piece in pieces(out)) == 30 - 12
    assert finished.items() <= manifests(out).items(), "what was done is not touched"
    run(more, whole, width=2)
    assert_same(out, whole)

    done = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    parts(more, out, 2)
    parts(more, out, 2, width=2)
    assert done == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}, "nothing is trained again"
    finished = manifests(out)
    divided = (out / division.DIVISION).read_text()
    run(more, out, shard=(2, 7))
    assert (out / division.DIVISION).read_text() == divided, "who trained what stays written"
    run(more, out)
    assert finished == manifests(out)
    assert division.read(out) is None, "one process has had it all"


def test_a_search_decides_as_in_the_undivided_sweep(tmp_path):
    """It compares a whole cohort, which stays with one part: where not all fit at once, what had begun, too."""
    halving = changed(search=successive_halving(at=(2,), factor=2))
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        run(halving, out, width=2, at_once=4, segment_seconds=1e-6, progress=DiesAtThirdCommit())
    (out / "shards" / pieces_begun(out)[-1] / "manifest.json").unlink()
    parts(halving, out, 3, width=2, at_once=4)
    run(halving, whole, width=2)
    assert [len(piece.runs) for piece in pieces(out)] == [3] * 4
    assert len({piece.part for piece in pieces(out)}) == 1
    assert (load(out).runs["status"] == "dropped").sum() == 6
    assert_same(out, whole)


def test_depths_that_share_a_program_stay_together(tmp_path):
    """What is trained as in the undivided sweep has its bits; here part 0 has nothing to do."""
    run(changed(model=mlp(widths=grid((6,), (6, 6)))), tmp_path / "out", shard=(0, 2), width=2, fuse="always")
    (piece,) = pieces(tmp_path / "out")
    assert piece.fused
    assert len(piece.runs) == 12


def test_a_part_without_work_ends_at_once(tmp_path, capsys):
    out = tmp_path / "out"
    run(changed(steps=2, seeds=(0,)), out, shard=(3, 16), width=2)
    assert {piece.part for piece in pieces(out)} == {4, 12}
    assert manifests(out) == {}
    assert [part["state"] for part in status(out)["parts"]] == [
        "waiting" if number in (4, 12) else "empty" for number in range(16)
    ]
    assert status(out)["go_on"] == f"glorot resume {out} --shard 4/16"
    assert main(["resume", str(out), "--shard", "12/16", "--no-progress"]) == 0
    for part in (12, 3):
        assert main(["resume", str(out), "--shard", f"{part}/16"]) == 0
        assert f"parts, part {part} of 16: nothing to do" in capsys.readouterr().err
    assert "part 12 of 16: done · 100% of 2 runs in 1 shard" in render_status(out)


@pytest.mark.parametrize("part", [(4, 4), (-1, 4), (0.0, 4), (True, 4), "0/4", (1, 2, 3)])
def test_what_is_no_part_is_one_line(tmp_path, part):
    with pytest.raises(InputError, match=re.escape(f"shard: {part!r} is not (I, N) with 0 ≤ I < N")):
        run(changed(), tmp_path / "out", shard=part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["4/4", "1", "-1/4", "a/b"])
def test_what_is_no_part_is_one_line_of_the_command(capsys, tmp_path, part):
    assert main(["run", "quickstart", "--out", str(tmp_path / "out"), f"--shard={part}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: shard: '{part}' is not I/N with 0 ≤ I < N\n")
    assert not (tmp_path / "out").exists()


def test_starting_over_is_not_for_a_part(tmp_path):
    with pytest.raises(InputError, match=r"^fresh: it can't stand beside shard"):
        run(changed(), tmp_path / "out", shard=(0, 2), fresh=True)


def test_a_damaged_division_is_one_line(tmp_path):
    out = tmp_path / "out"
    run(changed(), out, shard=(0, 2), width=2)
    (out / division.DIVISION).write_text("{")
    for use in (lambda: run(changed(), out, shard=(0, 2)), lambda: status(out)):
        with pytest.raises(InputError, match=re.escape(f"{out}/division.json: damaged\n")):
            use()


# ---- processes side by side


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "parts.py"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="module")
def undivided(sweep_file, tmp_path_factory) -> Path:
    return run(load_sweep(sweep_file), tmp_path_factory.mktemp("undivided") / "out", width=2)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "glorot_jax.cli", "run", *map(str, arguments), "--no-progress"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def looked(out: Path) -> dict[str, Any] | None:
    """What a reader sees, by all ways; None before there is anything."""
    if not (out / "sweep.json").exists():
        return None
    facts = status(out)
    found = load(out)
    if found.shards and all(manifest["records"] for manifest in found.shards):
        assert not found.records(names=["valid_error"])["valid_error"].isnull().any()
        assert "Made by: glorot table" in render_table(out)
    assert [event["event"] for event in found.events].count("start") <= 4
    return facts


@pytest.mark.engines
def test_four_parts_started_at_once_have_the_bits_of_one_process_while_others_read(sweep_file, undivided, tmp_path):
    out = tmp_path / "out"
    arguments = sweep_file, "--out", out, "--width", 2, "--segment-seconds", 1e-6
    working = [start(*arguments, "--shard", f"{part}/4") for part in range(4)]
    seen: Counter[str] = Counter()
    while any(process.poll() is None for process in working):
        if (facts := looked(out)) is not None:
            seen.update(part["state"] for part in facts["parts"])
        time.sleep(0.2)
    said = [process.communicate() for process in working]
    assert [process.returncode for process in working] == [0] * 4, said
    assert seen["at work"] > 0
    assert "4 parts: 4 done" in render_status(out)
    assert sorted(len(piece.runs) for piece in pieces(out)) == [2, 2, 4, 4]
    assert any("learning rate" in table for table, _ in said), "the last to end prints the table"
    assert_same(out, undivided)
    assert len(list(out.glob("events-*-of-4.jsonl"))) == 4
    assert Counter(event["event"] for event in load(out).events)["commit"] == 4 * 25


def test_a_second_process_is_refused_and_a_dead_ones_part_is_free(sweep_file, undivided, tmp_path, capsys):
    """The first is frozen meanwhile: who holds a part is who has not ended, however long nothing is heard of him."""
    out = tmp_path / "out"
    first = start(sweep_file, "--out", out, "--width", 2, "--segment-seconds", 1e-6, "--shard", "0/2")
    try:
        while '"generation": 2' not in "".join(manifests(out).values()):
            assert first.poll() is None, first.communicate()
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)
        begun = manifests(out)
        owner = f"process {first.pid} on "
        (part, _) = status(out)["parts"]
        assert part["state"] == "at work"
        assert part["owner"].startswith(owner)

        arguments = ["run", str(sweep_file), "--out", str(out), "--no-progress"]
        for others in (["--shard", "0/2"], ["--shard", "1/3"], ["--shard", "1/2", "--set", "seeds=[0]"], []):
            begin = time.monotonic()
            assert main([*arguments, *others]) == 2
            assert time.monotonic() - begin < 60
            line = capsys.readouterr().err.splitlines()[-2]
            assert re.fullmatch(f"error: {out}: {owner}.+ \\(part 0 of 2\\) is at work in it", line)
        assert main([*arguments, "--shard", "1/2"]) == 0, "others are free to work"
        first.kill()
        first.wait()
        assert status(out)["parts"][0]["state"] == "waiting"
        assert begun.items() <= manifests(out).items()
        assert main([*arguments, "--shard", "0/2"]) == 0
    finally:
        first.kill()
        first.communicate()
    assert_same(out, undivided)


def test_a_lock_of_another_machine_is_waited_for_in_case_that_is_lost(tmp_path, monkeypatch):
    """On a file server it may outlive its owner by a minute and a half."""
    out, notes = tmp_path / "out", []
    run(changed(seeds=(0,)), out, shard=(0, 2), width=2)
    lock = out / "shards" / pieces(out, 1)[0].shard / ".lock"
    lock.parent.mkdir()
    watcher = watching.Silent()
    watcher.note = notes.append
    with locks.held(lock):
        lock.write_text("process 7 on elsewhere (part 1 of 2)")
        assert not locks.here(lock.read_text())
        monkeypatch.setattr(Here, "outlives", 1.5)
        begin = time.monotonic()
        with pytest.raises(InputError, match=r"process 7 on elsewhere \(part 1 of 2\) is at work in it"):
            run(changed(seeds=(0,)), out, shard=(1, 2), progress=watcher)
        assert time.monotonic() - begin > 1.5
    assert notes == ["waiting for process 7 on elsewhere (part 1 of 2)"]
    assert locks.here(f"{locks.me()} (part 1 of 2)")
    assert locks.here(locks.me())


def test_nobody_is_refused_for_those_who_only_look(tmp_path):
    """Whoever asks whether a lock is free holds it himself for a moment, beside others who ask."""
    path = tmp_path / "lock"
    path.touch()
    looking = path.open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert locks.owner(path) is None
    end = threading.Timer(0.1, looking.close)
    end.start()
    with locks.held(path, "test"):
        assert not end.is_alive() or looking.closed
        assert locks.owner(path) == f"{locks.me()} (test)"
        with pytest.raises(locks.Taken), locks.held(path, patience=0):
            pytest.fail("two hold it")
    assert locks.owner(path) is None
    assert locks.owner(tmp_path / "none") is None


def test_a_lock_file_that_was_moved_away_while_it_was_waited_for_is_not_the_lock(tmp_path):
    """As by starting over, which moves the whole folder."""
    path, first = tmp_path / "lock", contextlib.ExitStack()
    first.enter_context(locks.held(path))

    def ends():
        path.rename(tmp_path / "old")
        first.close()

    threading.Timer(0.1, ends).start()
    with locks.held(path):
        assert path.read_text() == locks.me()
        with pytest.raises(locks.Taken), locks.held(path, patience=0):
            pytest.fail("two hold it")
