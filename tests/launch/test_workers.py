"""Workers on one machine: their command, their places, what is started again and what is not."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from glorot_jax.launching import workers
from glorot_jax.launching.standing import View
from glorot_jax.launching.workers import Place, supervise

pytestmark = pytest.mark.usefixtures("heard")
TELLS = """
import json, os, sys, time
begin = time.monotonic()
time.sleep(0.3)
facts = {"begin": begin, "end": time.monotonic(), "device": os.environ.get("DEVICE"),
         "cores": sorted(os.sched_getaffinity(0)), "group": os.getpgrp() == os.getpid()}
open(sys.argv[1], "w").write(json.dumps(facts))
"""
DIES = """
import os, pathlib, sys
deaths = pathlib.Path(sys.argv[1])
deaths.write_text(deaths.read_text() + "x" if deaths.exists() else "x")
if len(deaths.read_text()) <= int(sys.argv[2]):
    os.kill(os.getpid(), 9)
"""
COUNTS_SIGNALS = """
import pathlib, signal, sys, time
came = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, _: came.append(n))
pathlib.Path(sys.argv[1]).touch()
while len(came) < int(sys.argv[2]):
    time.sleep(0.01)
sys.exit(128 + came[0])
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(workers, "PAUSE", 0.0)


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def view(folder: Path) -> View:
    return View(folder / "results", quiet=True)


def test_a_worker_is_the_command_that_a_person_would_type_with_its_part_behind():
    alone = workers.command(["quickstart", "--out", "there", "--set", "steps=10"])
    assert alone == [sys.executable, "-m", "glorot_jax.cli", "run", "quickstart", "--out", "there", "--set", "steps=10"]
    assert workers.command(["quickstart"], (3, 16)) == [*alone[:5], "--shard", "3/16"]


def test_parts_wait_for_a_place_and_each_runs_on_devices_and_cores_of_its_own(tmp_path):
    ours = sorted(os.sched_getaffinity(0))
    places = [Place({"DEVICE": "a"}, (ours[0],)), Place({"DEVICE": "b"}, (ours[-1],))]
    assert supervise([python(TELLS, tmp_path / str(i)) for i in range(5)], places, 0, view(tmp_path)) == 0
    told = [json.loads((tmp_path / str(i)).read_text()) for i in range(5)]
    assert {(one["device"], *one["cores"]) for one in told} == {("a", ours[0]), ("b", ours[-1])}
    assert all(one["group"] for one in told), "a terminal's Ctrl-C reaches it only through the launcher"
    for device in "ab":
        spans = sorted((one["begin"], one["end"]) for one in told if one["device"] == device)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert sorted(os.sched_getaffinity(0)) == ours


def test_what_died_starts_again_but_not_for_ever(tmp_path, capfd):
    commands = [python(DIES, tmp_path / "once", 1), python(DIES, tmp_path / "always", 99)]
    assert supervise(commands, [Place()], 2, view(tmp_path)) == 1
    assert (tmp_path / "once").read_text() == "xx"
    assert (tmp_path / "always").read_text() == "xxx", "the first time, and twice again"
    said = capfd.readouterr().err
    assert "part 0 of 2 ended by signal 9; starting again in 0 s (1 of 2)" in said
    assert "part 1 of 2 ended by signal 9; starting again in 0 s (2 of 2)" in said


def test_workers_stop_with_what_started_them_however_that_ends(tmp_path):
    ready, gone = tmp_path / "ready", tmp_path / "gone"
    worker = f"""
import pathlib, signal, sys, time
from glorot_jax import cli
def main(signals):
    signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(gone)!r}).touch(), sys.exit(143)))
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(60)
cli.main = main
cli.script()
"""
    launcher = f"""
from glorot_jax.launching.standing import View
from glorot_jax.launching.workers import Place, supervise
supervise([{python(worker)!r}], [Place()], 0, View("nowhere", quiet=True))
"""
    process = subprocess.Popen(python(launcher), env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    wait_for(ready)
    process.kill()
    process.wait()
    wait_for(gone)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.01)


def test_pauses_double_up_to_a_minute_and_a_long_life_counts_anew(monkeypatch):
    monkeypatch.setattr(workers, "PAUSE", 1.0)
    part = workers._Part(0, [], 1)
    pauses = [part.died(137, 5.0).rpartition(" in ")[2] for _ in range(8)]
    assert pauses == ["1 s", "2 s", "4 s", "8 s", "16 s", "32 s", "60 s", "60 s"]
    assert part.died(1, 3600.0) == "the worker ended with exit code 1; starting again in 1 s"
    assert part.deaths == 1


def test_what_is_refused_is_said_once_and_stops_what_waits(tmp_path, capfd):
    refused = python("import sys; print('error: steps: -1', file=sys.stderr); sys.exit(2)")
    waits = python(TELLS, tmp_path / "begun")
    assert supervise([refused, refused, waits], [Place(), Place()], 9, view(tmp_path)) == 2
    assert capfd.readouterr().err == "error: steps: -1\n"
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    ("number", "times", "code"), [(signal.SIGTERM, 1, 143), (signal.SIGINT, 2, 130), (signal.SIGHUP, 1, 143)]
)
def test_a_signal_is_passed_on_as_often_as_it_comes_and_nothing_starts_behind_it(tmp_path, number, times, code):
    ready = [tmp_path / "0", tmp_path / "1"]

    def stop() -> None:
        for path in ready:
            wait_for(path)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    threading.Thread(target=stop).start()
    before = signal.getsignal(number)
    commands = [*(python(COUNTS_SIGNALS, path, times) for path in ready), python(TELLS, tmp_path / "begun")]
    assert supervise(commands, [Place(), Place()], 9, view(tmp_path)) == code
    assert not (tmp_path / "begun").exists()
    assert signal.getsignal(number) is before
