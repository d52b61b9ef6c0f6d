"""On a Ray cluster: each part is a task; one whose worker or node dies begins again, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glorot_jax import cli
from glorot_jax.drill.case import ARGUMENTS
from glorot_jax.drill.processes import children
from glorot_jax.drill.ray import descendants
from glorot_jax.drill.twin import differences, look
from glorot_jax.launching import task, workers
from glorot_jax.launching.engines import launch
from glorot_jax.launching.standing import standing

ROOT = Path(__file__).parents[2]
with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

TWO_NODES = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
print(json.dumps([cluster.address, second.all_processes["raylet"][0].process.pid]), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
HOLDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from glorot_jax.launching import task, workers
workers.command = lambda arguments, shard: [sys.executable, *arguments]
print(*task.train(sys.argv[1:]))
"""
SLOW_TO_STOP = """
import signal, sys, time
def stop(*_):
    print("saved", file=sys.stderr)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", file=open(sys.argv[1], "w"))
time.sleep(60)
"""


def environment(**more: str) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}, **own, **more}


def until(seen, what: str, seconds: float = 120.0):
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def held(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen, int]:
    """A process that holds another, and that other's number once it is ready."""
    ready = tmp_path / "ready"
    line = [sys.executable, "-c", HOLDER, "-c", SLOW_TO_STOP, str(ready), *arguments]
    holder = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True)
    until(ready.exists, "it does not begin")
    (child,) = children(holder.pid)
    return holder, child


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_what_trains_ends_with_the_process_that_asked_for_it(tmp_path):
    holder, child = held(tmp_path)
    with holder:
        holder.kill()
    until(lambda: not alive(child), "it outlives its parent", 10)


def test_an_interrupt_becomes_a_sigterm_whose_exit_code_and_words_come_back(tmp_path):
    """Even in a process that was begun with interrupts ignored, as a shell begins its background jobs."""
    holder, _ = held(tmp_path)
    holder.send_signal(signal.SIGINT)
    said, _ = holder.communicate(timeout=30)
    assert said == "143 saved\n"


def test_a_refusal_comes_back_with_what_was_said(tmp_path):
    code, said = task.train(["nonesuch", "--out", str(tmp_path / "out")], (0, 2))
    assert code == 2
    assert "nonesuch" in said


def test_a_dry_run_prints_the_tasks_and_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "mine.py"
    sweep.touch()
    out = tmp_path / "out"
    line = [
        "mine.py",
        "--out",
        "out",
        "--shards",
        "2",
        "--gpus",
        "0.5",
        "--resource",
        "TPU=4",
        "--address",
        "head:6379",
    ]
    assert launch("ray", [*line, "--set", "steps=5", "--dry-run"]) == 0
    head, each, *tasks = capsys.readouterr().out.splitlines()
    assert head == "cluster: head:6379"
    assert each == "each task: num_cpus=1 num_gpus=0.5 resources={'TPU': 4.0}"
    arguments = [str(sweep), "--out", str(out), "--set", "steps=5", "--no-progress"]
    assert tasks == [" ".join(workers.command(arguments, (i, 2))) for i in range(2)]
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["quickstart", "--out", "o"], "--shards N"),
        (["quickstart", "--out", "o", "--shards", "two"], "--shards: invalid int value: 'two'"),
        (["--out", "o", "--shards", "2"], "SWEEP"),
        (["quickstart", "--out", "o", "--shards", "2", "--resource", "TPU"], "--resource: 'TPU' is not NAME=N"),
        (["quickstart", "--out", "o", "--shards", "2", "--cpus", "-1"], "≥ 0"),
        (["quickstart", "--out", "o", "--shards", "2"], "pip install 'glorot-jax[ray]'"),
    ],
)
def test_what_is_wrong_or_missing_is_said_in_one_line(line, said, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["launch", "ray", *line]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def listening(pid: int) -> set[str]:
    """Where a process waits for connections: addresses as the kernel writes them."""
    found = set()
    try:
        sockets = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
        tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    except OSError:  # it has just ended
        return found
    for line in (line.split() for table in tables for line in table):
        if line[3] == "0A" and f"socket:[{line[9]}]" in sockets:
            found.add(line[1].partition(":")[0])
    return found


@with_ray
@pytest.mark.skipif(sys.platform != "linux", reason="sockets are looked up in /proc")
def test_a_cluster_of_ones_own_hears_this_machine_alone_and_a_refusal_is_final(tmp_path):
    command = [sys.executable, "-m", "glorot_jax.cli", "launch", "ray", "nonesuch", "--out", str(tmp_path / "out")]
    heard, seen = set(), set()
    with subprocess.Popen(
        [*command, "--shards", "2"], env=environment(), stderr=subprocess.PIPE, text=True
    ) as launcher:
        while launcher.poll() is None:
            for pid in descendants(launcher.pid):
                heard |= listening(pid)
                seen.add(pid)
            time.sleep(0.05)
        said = launcher.stderr.read()
    assert launcher.returncode == 2
    assert said.count("sweep: 'nonesuch' is not known") == 1
    assert heard <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert "0000000000000000FFFF00000100007F" in heard
    assert not any(map(alive, seen))


@pytest.mark.engines
@with_ray
def test_a_cluster_that_loses_a_node_amid_work_ends_with_the_same_bits(tmp_path):
    twin, out = tmp_path / "twin", tmp_path / "out"
    own = environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    nodes = subprocess.Popen([sys.executable, "-c", TWO_NODES], env=own, cwd=tmp_path, **pipes)
    launcher = None
    try:
        line = [*ARGUMENTS, "--out"]
        subprocess.run(workers.command([*line, str(twin), "--no-progress"]), env=own, check=True, timeout=240)
        address, raylet = json.loads(nodes.stdout.readline())
        command = [sys.executable, "-m", "glorot_jax.cli", "launch", "ray", *line, str(out)]
        more = ["--shards", "2", "--address", address]
        launcher = subprocess.Popen([*command, *more], env=own, stderr=subprocess.PIPE, text=True)

        def at_work_there() -> list[int]:
            there = [child for worker in children(raylet) for child in children(worker)]
            return there if (standing(out) or (0, 0))[1] > 0 else []

        lost = until(at_work_there, "no part is at work on the second node")
        for pid in (raylet, *children(raylet)):  # all that the cluster runs there, as when its power is cut
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, lost)), "what the lost node trained outlives it", 30)
        _, said = launcher.communicate(timeout=240)
        assert launcher.returncode == 0, said
        assert "died (1 of 10); it begins again" in said
        assert said.endswith(f"results: {out}\n")
        assert differences(out, look(twin)) == []
    finally:
        for process in filter(None, (launcher, nodes)):
            if process is launcher and process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)
