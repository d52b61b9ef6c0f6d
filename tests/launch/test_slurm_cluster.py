"""An array job on a real Slurm of one node, started here: preempted, requeued, and the bits of an undisturbed run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glorot_jax.analysis.tables import render_table
from glorot_jax.drill.processes import launching
from tests.engine.small import ROOT, assert_same_bits, parameters, records
from tests.launch.one_node_slurm import GRACE, one_node, why_not

pytestmark = [pytest.mark.engines, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

SWEEP = """
from glorot_jax import Sweep, every, grid, mlp, sgd, shapeset

sweep = Sweep(
    name="array",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(6,), activation=grid("sigmoid", "tanh")),
    optimizer=sgd(learning_rate=grid(0.05, 1e30)),
    seeds=range(2),
    steps=160,
    record=every(40),
    probes=("evaluation",),
)
"""
SLOWLY = ("--segment-seconds", "0.000001")
"""A commit every step or few, so that there is time for what is to happen in the middle."""


@pytest.fixture(scope="module")
def node() -> Iterator[dict[str, str]]:
    with one_node() as environment:
        yield {**environment, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "array.py"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def slurm(node, sweep_file, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Submits the sweep as four tasks."""

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = launching("slurm", str(sweep_file), "--out", "out", "--shards", "4")
        command += ["--width", "2", "--cpus", "1", "--time", "20", "--no-progress", *SLOWLY, *arguments]
        return subprocess.run(command, env=node, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return submit


def asked(node: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=node, capture_output=True, text=True, check=True, timeout=60).stdout


def until(reached: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def manifests(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in out.glob("shards/*/manifest.json")]


def midway(out: Path) -> int:
    """How many shards have committed a step, and are not done."""
    return sum(0 < manifest["step"] < manifest["steps"] for manifest in manifests(out))


def events(out: Path, part: int) -> list[dict]:
    return [json.loads(line) for line in (out / f"events-{part}-of-4.jsonl").read_text().splitlines()]


def logs(out: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(out.glob("logs/*.log")))


def test_an_array_preempted_in_the_middle_has_the_bits_of_an_undisturbed_run(node, slurm, sweep_file, tmp_path):
    out, twin = tmp_path / "out", tmp_path / "twin"
    said = slurm()
    assert said.returncode == 0, said.stderr
    (job,) = re.findall(r"^submitted job (\d+): 4 tasks", said.stdout)

    until(lambda: midway(out) == 2)  # there are two CPUs
    begin = time.monotonic()
    asked(node, "sbatch", "--wait", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
    assert time.monotonic() - begin < GRACE, "they made room before they were killed"
    again = slurm()
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: job {job}: this sweep is at work there\n")
    until(lambda: not asked(node, "squeue", "--noheader", f"--jobs={job}").strip())
    assert {manifest["state"] for manifest in manifests(out)} == {"done"}, logs(out)

    restarts, stops = {}, {}
    for part in range(4):
        happened = events(out, part)
        steps = [event["step"] for event in happened if event["event"] == "commit"]
        assert steps == sorted(set(steps)), "nothing was trained twice"
        starts = [event for event in happened if event["event"] == "start"]
        assert {event["slurm_job"] for event in starts} == {f"{job}_{part}"}
        restarts[part] = [event["slurm_restart_count"] for event in starts]
        stops[part] = [event["code"] for event in happened if event["event"] == "stop"]
    assert stops == {0: [143], 1: [143], 2: [], 3: []}
    assert restarts == {0: [0, 1], 1: [0, 1], 2: [0], 3: [0]}

    command = [sys.executable, "-m", "glorot_jax.cli", "run", sweep_file, "--out", twin, "--width", "2"]
    subprocess.run([*map(str, command), "--no-progress"], env=node, check=True, capture_output=True, timeout=240)
    assert parameters(out).keys() == parameters(twin).keys()
    assert_same_bits(parameters(out), parameters(twin))
    assert_same_bits(records(out), records(twin))
    assert render_table(out, format="csv") == render_table(twin, format="csv")
    assert slurm().stdout == "array: nothing to do, all is trained in out\n"
