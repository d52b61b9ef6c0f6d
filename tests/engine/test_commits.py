"""Commits are made while the next segment trains: in order, one at a time, and nothing is said to be saved before."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from glorot_jax import every, grid, mlp, run, shapeset
from glorot_jax.engine import checkpoint, records, shard, trainer, watching
from glorot_jax.engine.fleet import Fleet
from glorot_jax.errors import ResumableError, Stopped
from tests.engine import small

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PATIENCE = 60
"""Seconds after which a test that waits for another thread fails."""


def sweep(**changes):
    """A record and so a segment at every other step."""
    settings = {
        "data": shapeset(size=8, validation=20, test=20),
        "model": mlp(widths=(6,), activation=grid("tanh", "relu")),
        "seeds": (0, 1),
        "steps": 16,
        "record": every(2),
        "probes": ("evaluation",),
    }
    return small.sweep(**settings | changes)


def trained(out: Path, **options) -> Path:
    return run(sweep(), out, width=2, segment_seconds=1e-6, **options)


def step_on_disk(out: Path) -> int:
    (manifest,) = out.glob("shards/*/manifest.json")
    return json.loads(manifest.read_text())["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("whole") / "small")


def assert_same(one: Path, other: Path) -> None:
    small.assert_same_bits(small.parameters(one), small.parameters(other))
    small.assert_same_bits(small.records(one), small.records(other))


@pytest.fixture
def log(monkeypatch) -> list[tuple[str, int]]:
    """What begins and ends, in order: segments by number, commits by number."""
    seen: list[tuple[str, int]] = []
    counts: Counter[str] = Counter()
    segment, commit = trainer.Trainer._segment, shard.Shard.commit

    def noted(kind, work):
        def call(*arguments, **facts):
            number = counts[kind]
            counts[kind] += 1
            seen.append((f"{kind} begins", number))
            made = work(*arguments, **facts)
            seen.append((f"{kind} ends", number))
            return made

        return call

    monkeypatch.setattr(trainer.Trainer, "_segment", noted("segment", segment))
    monkeypatch.setattr(shard.Shard, "commit", noted("commit", commit))
    return seen


def test_the_next_segment_trains_while_a_commit_is_written_and_none_after_it(whole, tmp_path, monkeypatch, log):
    """Each commit waits for the segment beside it to end, and then a little for a further one to begin: none does."""
    save = checkpoint.save

    def slow(folder, step, state):
        begun = [number for what, number in log if what == "commit begins"][-1]
        if step < 16:
            deadline = time.monotonic() + PATIENCE
            while ("segment ends", begun + 1) not in log:
                assert time.monotonic() < deadline, "the next segment does not end while a checkpoint is written"
                time.sleep(0.001)
            time.sleep(0.02)
        return save(folder, step, state)

    monkeypatch.setattr(checkpoint, "save", slow)
    out = trained(tmp_path / "small")
    count = 1 + max(number for _, number in log)
    assert count > 4
    assert [entry for entry in log if entry[0].startswith("commit")] == [
        (what, number) for number in range(count) for what in ("commit begins", "commit ends")
    ]
    for number in range(count - 2):
        assert log.index(("commit ends", number)) < log.index(("segment begins", number + 2))
    assert_same(out, whole)


def test_nothing_is_told_that_is_not_on_the_disk(tmp_path):
    out, told = tmp_path / "small", []

    class Checks(watching.Silent):
        def advance(self, news):
            told.append(news.step)
            assert step_on_disk(out) >= news.step

    trained(out, progress=Checks())
    assert told == sorted(told)
    assert told[-1] == 16
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "commit"] == told


@pytest.mark.parametrize(
    ("where", "name", "at"), [(checkpoint, "save", 0), (records, "append", 2), (shard, "write_json", 5)]
)
def test_what_fails_in_the_background_is_raised_at_once_and_all_before_is_whole(
    whole, tmp_path, monkeypatch, log, where, name, at
):
    """Some commit from number ``at`` on fails; the segment beside it does not end before the error has arrived."""
    out, arrived, told, failed = tmp_path / "small", threading.Event(), [], []
    work, train = getattr(where, name), Fleet.train

    def fails(*arguments):
        if ("commit begins", at) in log:
            failed.append([number for what, number in log if what == "commit begins"][-1])
            raise ResumableError("no space left on the disk")
        return work(*arguments)

    def hangs(*arguments):
        begun = [number for what, number in log if what == "segment begins"][-1]
        while begun > at and ("commit ends", begun - 1) not in log and not failed:
            time.sleep(0.001)
        if failed:
            assert arrived.wait(PATIENCE), "the error waits for the segment"
        return train(*arguments)

    class Hears(watching.Silent):
        def advance(self, news):
            told.append(news.step)

    with monkeypatch.context() as patched:
        patched.setattr(where, name, fails)
        patched.setattr(Fleet, "train", hangs)
        with pytest.raises(ResumableError, match="no space left"):
            trained(out, progress=Hears())
        arrived.set()
    assert failed == [len(told)]
    assert len(told) >= at
    assert step_on_disk(out) == (told[-1] if told else 0)
    assert ("commit begins", len(told) + 1) not in log
    assert_same(trained(out), whole)


def test_after_a_signal_the_segment_under_way_is_saved_and_that_step_is_said(whole, tmp_path, monkeypatch, log):
    """The signal comes in the third segment, while the commit of the second is written."""
    train = Fleet.train

    def interrupted(*arguments):
        if ("segment begins", 2) in log and ("segment ends", 2) not in log:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments)

    monkeypatch.setattr(Fleet, "train", interrupted)
    out = tmp_path / "small"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop:
        trained(out)
    assert signal.getsignal(signal.SIGTERM) is before
    assert stop.value.code == 143
    segments = 1 + max(number for what, number in log if what == "segment begins")
    assert segments < 8
    assert log[-1] == ("commit ends", segments - 1)
    assert f"saved at step {step_on_disk(out)} of 16; the same command goes on" in str(stop.value)
    monkeypatch.setattr(Fleet, "train", train)
    assert_same(trained(out), whole)


def test_whatever_ends_the_loop_nothing_is_written_behind_it(tmp_path, monkeypatch, log):
    """A watcher that raises while a commit is under way: the commit is made before the folder's lock is given back."""
    out, save, held = tmp_path / "small", checkpoint.save, threading.Event()

    def slow(folder, step, state):
        if step:
            held.set()
            threading.Event().wait(0.3)
        return save(folder, step, state)

    class Raises(watching.Silent):
        def tick(self):
            if held.is_set():
                raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", slow)
    with pytest.raises(KeyboardInterrupt):
        trained(out, progress=Raises())
    begun = [number for what, number in log if what == "commit begins"]
    assert ("commit ends", begun[-1]) in log
    assert step_on_disk(out) > 0
