"""Starting on this machine: what died is started again, a stop saves, and one line says where all stand."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glorot_jax import load
from glorot_jax.drill.case import SWEEP
from glorot_jax.errors import InputError
from glorot_jax.launching import standing as watched
from glorot_jax.launching.standing import Standing, View, standing

ROOT = Path(__file__).parents[2]
SMALL = ("--width", "2", "--set", "steps=120", "--set", "record=every(60)", "--segment-seconds", "0.000001")


def command(*arguments: str) -> dict:
    line = [sys.executable, "-m", "glorot_jax.cli", "launch", "local", str(SWEEP), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return {"args": line, "env": environment, "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}


def worker_of(launcher: subprocess.Popen, out: Path, commits: int) -> int:
    """The process that trains, once there are so many commits in all."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and launcher.poll() is None:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        manifests = list(out.glob("shards/*/manifest.json"))
        if children and manifests and json.loads(manifests[0].read_text())["generation"] >= commits:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError(f"nobody made {commits} commits")


@pytest.fixture(scope="module")
def local():
    spec = importlib.util.spec_from_file_location("launch_local", ROOT / "launch" / "local.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.engines
def test_what_is_killed_or_stopped_goes_on_to_the_end(tmp_path):
    out = tmp_path / "drill"
    launcher = subprocess.Popen(**command(*SMALL, "--out", str(out)))
    os.kill(worker_of(launcher, out, 1), signal.SIGKILL)
    worker_of(launcher, out, 20)
    launcher.terminate()
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 143
    assert "the worker ended by signal 9; starting again in 1 s (1 of 10)" in said
    assert re.search(r"saved( at step \d+ of 120)?; the same command goes on", said)
    assert set(load(out).runs["status"]) == {"training", "diverged"}
    half = standing(out)
    assert 0 < half.share < 1

    again = subprocess.run(**command(*SMALL, "--out", str(out)), timeout=240)
    assert again.returncode == 0
    assert set(load(out).runs["status"]) == {"done", "diverged"}
    assert f"12 runs · {half.share:.0%} · 1 at work" in again.stderr
    assert "12 runs · 100%" in again.stderr
    assert again.stderr.endswith(f"results: {out}\n")
    assert standing(out)[:3] == (12, 1.0, 4)


def test_a_dry_run_prints_what_would_be_started_and_starts_nothing(tmp_path):
    shown = subprocess.run(
        **command("--out", str(tmp_path / "out"), "--shards", "3", "--cores-per-worker", "1", "--dry-run"), timeout=60
    )
    cores = sorted(os.sched_getaffinity(0))[:3]
    head = [f"worker {i}: cores {core}" for i, core in enumerate(cores)]
    run = f"{sys.executable} -m glorot_jax.cli run {SWEEP} --out {tmp_path}/out --no-progress --shard"
    assert shown.stdout.splitlines() == [*head, f"{run} 0/3", f"{run} 1/3", f"{run} 2/3"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--out", "{out}", "--set", "steps=-1"], "error: steps: -1 is not an integer ≥ 0\n"),
        (["--out", "{out}", "--shards", "0"], "error: --shards: 0 is not an integer ≥ 1\n"),
        (
            ["--out", "{out}", "--fresh"],
            "error: --fresh: a worker that died would start over each time; choose another folder\n",
        ),
        ([], "error: --out: name the results folder\n"),
    ],
)
def test_what_is_wrong_is_one_line_and_touches_nothing(tmp_path, arguments, line):
    out = str(tmp_path / "out")
    refused = subprocess.run(**command("--no-progress", *(a.format(out=out) for a in arguments)), timeout=60)
    assert (refused.returncode, refused.stderr) == (2, line)
    assert not (tmp_path / "out").exists()


def test_one_worker_an_accelerator_each_seeing_its_own_alone(local, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [dict(place.environment) for place in local.by_devices("gpu", "cuda 12090", 3)]
    assert seen == [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(3)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8932f937")
    seen = [dict(place.environment) for place in local.by_devices("gpu", "cuda 12090", 2)]
    assert seen == [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}]
    assert [list(place.environment) for place in local.by_devices("gpu", "rocm 60300", 2)] == [
        ["HIP_VISIBLE_DEVICES"]
    ] * 2
    assert [place.environment["TPU_VISIBLE_CHIPS"] for place in local.by_devices("tpu", "libtpu", 4)] == list("0123")
    assert len(local.by_devices("cpu", "", 8)) == len(local.by_devices("gpu", "cuda 12090", 1)) == 1


def test_cores_are_shared_out_without_overlap(local, monkeypatch):
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 7}, raising=False)
    assert [place.cores for place in local.places(2)] == [(0, 1), (2, 5)]
    with pytest.raises(InputError, match="--cores-per-worker: 6 are more than the 5"):
        local.places(6)


def test_before_the_first_commit_there_is_nothing_to_show(tmp_path, capsys):
    assert standing(tmp_path / "nothing") is None
    View(tmp_path / "nothing").show(1, now=True)
    assert capsys.readouterr().err == ""


def test_the_speed_is_that_of_the_last_minutes_and_the_start_does_not_count(tmp_path, monkeypatch, capsys):
    points = [
        (0, 0.0),
        (99, 0.0),
        (100, 0.0),
        (105, 0.001),
        (110, 0.01),
        (120, 0.02),
        (1000, 0.5),
        (1100, 0.51),
        (1310, 0.6),
        (1320, 1.0),
    ]
    said = []
    view = View(tmp_path)
    for clock, share in points:
        monkeypatch.setattr(watched.time, "monotonic", lambda now=clock: float(now))
        monkeypatch.setattr(watched, "standing", lambda _, share=share: Standing(8, share, 1, round(share * 80_000)))
        view.show(at_work=2, waiting=3, now=True)
        said.append(capsys.readouterr().err.strip())
    assert said[:3] == ["8 runs · 0% · 2 at work · 3 waiting · 1 diverged"] * 3
    assert "run-steps/s" not in said[3], "too little to tell"
    assert "· 80 run-steps/s · ready " in said[4], "0.01 of it in the ten seconds after the start"
    assert " 16:20 left" in said[5], "98 times ten seconds"
    assert " 20:40 left" in said[8], "0.1 of it in the last 310 s, 0.4 left"
    assert said[9] == "8 runs · 100% · 2 at work · 3 waiting · 1 diverged"
