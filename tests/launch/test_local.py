"""Starting on this machine: what died is started again, what was refused is not."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from glorot_jax import load

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--set", "model.widths=8,8", "--set", "model.init=standard", "--set", "data.size=16", "--set", "data.test=100"),
    *("--set", "data.validation=100", "--set", "seeds=0", "--set", "steps=300", "--set", "record=at(100)"),
    *("--set", "exclude=[]", "--segment-seconds", "0.000001", "--no-progress"),
)


def launch(*arguments: str, **options) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "launch" / "local.py"), "quickstart", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options
    )


def worker_of(out: Path) -> int:
    """The process that trains, once it has committed something."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        manifests = list(out.glob("shards/*/manifest.json"))
        if manifests and '"checkpoint": null' not in manifests[0].read_text():
            return int(re.findall(r"process (\d+)", (out / ".lock").read_text())[0])
        time.sleep(0.01)
    raise AssertionError("nothing was committed")


def test_a_worker_that_is_killed_is_started_again_and_the_sweep_ends(tmp_path):
    out = tmp_path / "quickstart"
    launcher = launch(*SMALL, "--out", str(out))
    os.kill(worker_of(out), signal.SIGKILL)
    _, said = launcher.communicate(timeout=240)
    assert launcher.returncode == 0
    assert "ended by signal 9; starting again (1 of 10)" in said
    assert set(load(out).runs["status"]) == {"done"}


def test_a_stop_is_passed_on_and_final(tmp_path):
    out = tmp_path / "quickstart"
    launcher = launch(*SMALL, "--out", str(out))
    worker_of(out)
    launcher.terminate()
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 143
    assert "starting again" not in said
    assert "the same command goes on" in said


def test_what_is_refused_is_not_started_again(tmp_path):
    launcher = launch("--set", "steps=-1", "--out", str(tmp_path / "out"))
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 2
    assert said == "error: steps: -1 is not an integer ≥ 0\n"


def test_at_last_it_gives_up(monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("launch_local", ROOT / "launch" / "local.py")
    local = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local)
    monkeypatch.setattr(local, "PAUSE", 0)
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert local.main(["quickstart", "--restarts", "2"]) == 1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)
    assert capfd.readouterr().err.count("ended with exit code 1; starting again") == 2
