"""The frame: what survived is told from what did not, and a campaign ends when its kills are made."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from glorot_jax.cli import main
from glorot_jax.drill import command, local, processes, twin
from glorot_jax.drill.case import SEGMENT_SECONDS, Case, Lost, NotPossible, Told, TooLate, tried
from glorot_jax.drill.command import LOST, NOT_POSSIBLE, SURVIVED, drill, render
from glorot_jax.errors import InputError


@pytest.fixture
def no_training(monkeypatch):
    """Folders that hold a text in place of a sweep."""

    def trained(folder: Path, text: str = "as it should be") -> Path:
        folder.mkdir()
        (folder / "result").write_text(text)
        return folder

    def differences(folder: Path, other: str) -> list[str]:
        same = (folder / "result").read_text() == other
        return [] if same else ["parameters of run a: w differs", "records of run a: loss differs"]

    monkeypatch.setattr(command, "_undisturbed", trained)
    monkeypatch.setattr(twin, "look", lambda folder: (folder / "result").read_text())
    monkeypatch.setattr(twin, "differences", differences)
    return trained


def held(monkeypatch, *cases: Case) -> None:
    monkeypatch.setattr(local, "cases", lambda work: list(cases))


def test_each_case_is_compared_and_only_what_was_lost_is_kept(tmp_path, monkeypatch, no_training, capsys):
    def fails(folder):
        raise Lost("it never came back")

    def breaks(folder):
        raise OSError("no such thing")

    def impossible(folder):
        raise NotPossible("nobody may mount here")

    def good(folder):
        no_training(folder)
        return Told("killed, came back", kills=2, stops=(0.5, 0.7), lost=(0.25,))

    def wrong(folder):
        no_training(folder, "something else")
        return "killed, came back"

    cases = [Case("good", good), Case("wrong", wrong), Case("fails", fails), Case("breaks", breaks)]
    held(monkeypatch, *cases, Case("impossible", impossible))
    out = tmp_path / "out"
    assert main(["drill", "--out", str(out), "--no-progress"]) == 1
    shown = capsys.readouterr().out
    assert "4 accidents, 3 kills on local" in shown
    assert "3 LOST." in shown
    assert "From SIGTERM to saved and gone: median 0.6 s, at most 0.7 s." in shown

    result = json.loads((out / "drill.json").read_text())
    told = {one["case"]: (one["outcome"], one["said"]) for one in result["cases"]}
    assert told == {
        "good": (SURVIVED, "killed, came back"),
        "wrong": (LOST, "killed, came back; but parameters of run a: w differs"),
        "fails": (LOST, "it never came back"),
        "breaks": (LOST, "OSError: no such thing"),
        "impossible": (NOT_POSSIBLE, "nobody may mount here"),
    }
    assert not result["survived"]
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"twin", "001-wrong"}
    assert result["lost_segments"] == {"count": 1, "median": 0.25, "max": 0.25}
    assert [line.split(",")[0] for line in render(result, "csv").splitlines()] == ["case", *told]
    assert render(result, "markdown").startswith("| case | outcome | seconds | what |\n| --- |")
    assert json.loads(render(result, "json")) == result


def test_nothing_is_left_of_a_drill_that_was_survived(monkeypatch, no_training, tmp_path, capsys):
    monkeypatch.setattr(command.tempfile, "mkdtemp", lambda prefix, dir: str(no_training(tmp_path / "work")))
    held(monkeypatch, Case("good", lambda folder: no_training(folder) and "fine"))
    assert main(["drill", "--no-progress"]) == 0
    assert not (tmp_path / "work").exists()
    assert "nothing lost, every run bit for bit as in the undisturbed twin" in capsys.readouterr().out


def test_a_campaign_ends_with_so_many_kills_and_draws_the_same_again(tmp_path, monkeypatch, no_training):
    def drawn(chance: random.Random) -> Case:
        name = chance.choice(["one", "two"])
        return Case(name, lambda folder: no_training(folder) and Told(name, kills=1 + (name == "two")))

    monkeypatch.setattr(local, "drawn", drawn)
    results = [drill(out=tmp_path / str(i), kills=20, seed=5, jobs=1 + i) for i in range(2)]
    drawn_cases = [[one["case"] for one in result["cases"]] for result in results]
    assert all(20 <= result["kills"] <= 22 for result in results)
    assert drawn_cases[0][:10] == drawn_cases[1][:10]
    kinds = {line.split()[0]: line.split() for line in render(results[0]).splitlines()[1:3]}
    for name in ("one", "two"):
        count = drawn_cases[0].count(name)
        assert kinds[name][1:5] == [str(n) for n in (count, count * (1 + (name == "two")), count, 0)]


def test_a_campaign_in_which_all_is_lost_ends_too(tmp_path, monkeypatch, no_training):
    def fails(folder):
        raise Lost("gone")

    monkeypatch.setattr(local, "drawn", lambda chance: Case("fails", fails))
    result = drill(out=tmp_path / "out", kills=3, jobs=2)
    assert [one["outcome"] for one in result["cases"]] == [LOST] * 3


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"on": "slum"}, "on: 'slum' is not known\n  hint: 'slurm'?"),
        ({"kills": 0}, "kills: 0 on 'local'"),
        ({"on": "ray", "kills": 3}, "kills: 3 on 'ray'"),
        ({"out": "."}, "out: . holds something"),
    ],
)
def test_what_cannot_be_held_is_said_in_a_line(asked, line, monkeypatch, tmp_path):
    (tmp_path / "there").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        drill(**asked)
    assert str(refused.value).startswith(line)


def test_an_engine_that_is_missing_says_why(monkeypatch):
    monkeypatch.setattr(local, "why_not", lambda: "no processes")
    with pytest.raises(InputError, match="on: 'local' is not possible here: no processes"):
        drill()


def test_the_twin_is_trained_where_the_others_are(tmp_path, monkeypatch, no_training, capsys):
    held(monkeypatch, Case("good", lambda folder: no_training(folder, "from there") and "fine"))
    monkeypatch.setattr(local, "undisturbed", lambda folder: no_training(folder, "from there"), raising=False)
    assert drill(out=tmp_path / "one")["survived"]

    def fails(folder: Path) -> None:
        raise Lost("no node is free")

    monkeypatch.setattr(local, "undisturbed", fails, raising=False)
    assert main(["drill", "--out", str(tmp_path / "other")]) == 1
    assert "error: the undisturbed twin can't be trained: no node is free" in capsys.readouterr().err


def test_a_drill_that_is_stopped_leaves_no_process_and_no_folder(tmp_path, monkeypatch, no_training, capsys):
    monkeypatch.setattr(command.tempfile, "mkdtemp", lambda prefix, dir: str(no_training(tmp_path / "work")))
    begun: list[processes.Process] = []

    def waits(folder):
        line = [sys.executable, "-c", "import time; time.sleep(60)"]
        with processes.Process(line, folder) as process:
            begun.append(process)
            process.code()

    def stop() -> None:
        while not begun:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    held(monkeypatch, Case("waits", waits))
    threading.Thread(target=stop).start()
    assert main(["drill", "--no-progress"]) == 143
    assert capsys.readouterr().err == "the drill was stopped\n"
    assert not begun[0].alive()
    assert not (tmp_path / "work").exists()


# ---- accidents


def test_an_accident_that_comes_too_late_is_tried_again(tmp_path):
    seen = []

    def late(folder):
        seen.append(folder.exists())
        folder.mkdir()
        if len(seen) < 3:
            raise TooLate
        return Told("in time")

    assert tried(local.TRIES, late, tmp_path / "folder").said == "in time"
    assert seen == [False] * 3, "each time in a new folder"


def test_what_a_kill_undid_is_counted_in_segments(tmp_path):
    segment, now = SEGMENT_SECONDS / 3, time.time()
    shard = tmp_path / "shards" / "a"
    (shard / "checkpoints" / "8").mkdir(parents=True)
    manifest, state, record = (shard / name for name in ("manifest.json", "checkpoints/8/state", "rec-9.nc"))
    manifest.write_text(json.dumps({"state": "training", "checkpoint": {"step": 8}}))
    state.touch()

    def at(path: Path, ago: float) -> None:
        os.utime(path, (now - ago * segment,) * 2)

    at(state, 0.75)
    at(manifest, 0.7)
    assert local.undone(tmp_path) == pytest.approx(0.75, abs=0.25), "half-way through the next segment"
    record.touch()
    at(state, 3)
    at(manifest, 2.9)
    at(record, 0.25)
    assert local.undone(tmp_path) == pytest.approx(1.25, abs=0.25), "one was being committed, the next had begun"


def test_a_process_is_waited_for_and_cleared_away(tmp_path):
    python = [processes.workers.command(())[0], "-c"]
    with processes.Process([*python, "print('ready', flush=True); import time; time.sleep(60)"], tmp_path / "a") as one:
        assert one.until(lambda: "ready" in one.said())
        assert one.last_line() == "ready"
        assert one.pause(0)
        assert one.pid in processes.children(os.getpid())
    assert not one.alive()
    with processes.Process([*python, "import sys; print('sorry'); sys.exit(3)"], tmp_path / "a") as other:
        assert not other.until(lambda: False)
        assert not other.pause(0.1)
        with pytest.raises(Lost, match="the same command ended with exit code 3: sorry"):
            processes.ends_well(other)


@pytest.mark.engines
def test_a_killed_sweep_goes_on_and_is_compared_for_real(tmp_path, monkeypatch):
    moments = local.Moments(random.Random(1))
    monkeypatch.setattr(local, "cases", lambda work: [local._struck("SIGKILL", moments)])
    result = drill(out=tmp_path / "out")
    (one,) = result["cases"]
    assert one["outcome"] == SURVIVED, one["said"]
    assert one["said"].startswith("SIGKILL at ")
    assert 0 < one["lost"][0] <= 2
    assert (tmp_path / "out" / "twin" / "sweep.json").exists()
