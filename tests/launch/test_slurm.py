"""Slurm's array job, with commands of Slurm that are scripts of the test: what is submitted, and what a task does."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glorot_jax import cli

ROOT = Path(__file__).parents[2]
SWEEP = """
from glorot_jax import Sweep, mlp, sgd, shapeset

sweep = Sweep(
    name="tiny",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(4,)),
    optimizer=sgd(learning_rate=0.1),
    seeds=(0,),
    steps=1,
    probes=("evaluation",),
)
"""
COMMANDS = {
    "sbatch": 'cat >script; echo "4711;here"',
    "squeue": 'echo "$*" >>asked; [ -e gone ] && { cat gone >&2; exit 1; }; cat state 2>/dev/null || true',
    "scontrol": '[ "$1" = show ] && { echo "MaxArraySize  = 8"; exit; }; echo "$*" >>requeued; exit ${FAILS:-0}',
    "srun": 'echo "$*" >>started; . ./worker',
    "sleep": 'echo "$*" >>slept',
}

LISTENS = "trap 'echo stopped >stopped; exit 143' USR1; touch ready; while :; do read -rt 0.05 <> <(:); done"
"""A worker that works until it is asked to stop."""


@pytest.fixture(scope="module")
def slurm():
    spec = importlib.util.spec_from_file_location("launch_slurm", ROOT / "launch" / "slurm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder with a sweep, in which Slurm's commands are to be found."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    (tmp_path / "tiny.py").write_text(SWEEP)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what is submitted


def test_a_dry_run_prints_what_is_submitted_to_the_letter(slurm, site, capsys):
    command = ["tiny.py", "--out", "out", "--shards", "3", "--throttle", "2", "--time", "4:00:00", "--gpus", "a100:1"]
    command += [
        "--cpus",
        "4",
        "--memory",
        "8G",
        "--account",
        "deep learning",
        "--partition",
        "gpu",
        "--constraint",
        "x",
    ]
    command += ["--setup", "module load cuda", "--sbatch", "qos=low", "--width", "8", "--set", "steps=1"]
    assert slurm.main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert not (site / "script").exists()
    assert not (site / "out").exists()
    assert slurm.main(command) == 0
    assert (site / "script").read_text() == printed
    options = dict(shlex.split(line)[1].partition("=")[::2] for line in re.findall("^#SBATCH.*$", printed, re.M))
    assert options == {
        "--job-name": "glorot-tiny",
        "--array": "0-2%2",
        "--chdir": str(site),
        "--output": f"{site}/out/logs/%A_%a.log",
        "--open-mode": "append",
        "--signal": "USR1@60",
        "--nodes": "1",
        "--ntasks": "1",
        "--cpus-per-task": "4",
        "--gres": "gpu:a100:1",
        "--mem": "8G",
        "--time": "4:00:00",
        "--partition": "gpu",
        "--account": "deep learning",
        "--constraint": "x",
        "--requeue": "",
        "--qos": "low",
    }
    assert "\nmodule load cuda\n" in printed
    arguments = "glorot_jax.cli run tiny.py --out out --set steps=1 --width 8 --segment-seconds 30 --shard"
    assert f'{sys.executable} -m {arguments} "$SLURM_ARRAY_TASK_ID/3" &\n' in printed


def test_it_says_the_job_and_what_comes_next(slurm, site, capsys):
    assert slurm.main(["tiny.py", "--out", "out", "--shards", "3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"submitted job 4711: 3 tasks; they write to {site}/out/logs/4711_*.log\n")
    assert re.findall(r"^  ([^#]*?) +#", said, re.M) == ["glorot status out", "glorot table out", "scancel 4711"]
    assert (site / "out" / "logs").is_dir()


def test_a_task_has_the_longest_segment_and_half_a_minute_to_save(slurm, site, capsys):
    slurm.main(["tiny.py", "--shards", "1", "--segment-seconds", "99.5", "--dry-run"])
    printed = capsys.readouterr().out
    assert "#SBATCH --signal=USR1@130\n" in printed
    assert "--out results/tiny --segment-seconds 99.5 " in printed


def test_an_array_that_is_at_work_is_not_submitted_again(slurm, site, capsys):
    command = ["tiny.py", "--out", "out", "--shards", "2"]
    assert slurm.main(command) == 0
    (site / "state").write_text("4711_1\n")
    (site / "script").unlink()
    assert cli.main(["launch", "slurm", *command]) == 2
    assert capsys.readouterr().err == (
        "error: job 4711: this sweep is at work there\n  hint: wait for it, or stop it with scancel 4711\n"
    )
    assert not (site / "script").exists()
    assert "--jobs=4711 " in (site / "asked").read_text()


@pytest.mark.parametrize("known", [True, False])
def test_one_that_has_ended_is_submitted_again(slurm, site, known):
    command = ["tiny.py", "--out", "out", "--shards", "2"]
    assert slurm.main(command) == 0
    (site / "script").unlink()
    if not known:
        (site / "gone").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert slurm.main(command) == 0
    assert (site / "script").exists()


def test_where_the_queue_can_not_be_read_nothing_is_submitted(slurm, site, capsys):
    command = ["tiny.py", "--out", "out", "--shards", "2"]
    assert slurm.main(command) == 0
    (site / "script").unlink()
    (site / "gone").write_text("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    assert cli.main(["launch", "slurm", *command]) == 2
    assert "error: squeue: slurm_load_jobs error: Unable to contact" in capsys.readouterr().err
    assert not (site / "script").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shards", "9"], "shards: 9 tasks are more than the 8 that this site allows in an array"),
        (["--shards", "0"], "--shards: 0 is not an integer ≥ 1"),
        (["--shards", "2", "--fresh"], "--fresh: each task would start over what the others made"),
        (["--shards", "2", "--set", "steps=-1"], "steps: -1 is not an integer ≥ 0"),
        (["--shards", "2", "--segment-seconds", "0"], "--segment-seconds: 0 is not a finite number > 0"),
        (["--shards", "two"], "--shards: invalid int value: 'two'"),
        ([], "--shards: say in how many parts the sweep is divided"),
    ],
)
def test_what_is_wrong_is_refused_in_a_line(site, capsys, arguments, said):
    assert cli.main(["launch", "slurm", "tiny.py", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not (site / "script").exists()


def test_without_slurm_it_says_so(site, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["launch", "slurm", "tiny.py", "--shards", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: sbatch: not found\n")


# ---- what a task does


@pytest.fixture
def task(slurm, site, capsys, monkeypatch):
    """Starts the script as task 2 of array 7."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    (site / "out" / "logs").mkdir(parents=True)

    started: list[subprocess.Popen[str]] = []

    def start(worker: str, state: str = "RUNNING None", *options: str) -> subprocess.Popen[str]:
        slurm.main(["tiny.py", "--out", "out", "--shards", "3", *options, "--dry-run"])
        (site / "worker").write_text(worker)
        (site / "state").write_text(f"{state}\n")
        started.append(subprocess.Popen(["bash", "-c", capsys.readouterr().out], process_group=0))
        return started[-1]

    yield start
    for script in started:
        if script.returncode is None:  # the test has failed: its worker goes, too
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()


def requeued(site: Path) -> list[str]:
    path = site / "requeued"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("code", "state", "again"),
    [
        (0, "RUNNING None", False),
        (2, "RUNNING None", False),  # refused
        (130, "RUNNING None", False),  # stopped by a person
        (143, "RUNNING None", True),  # asked to stop before a preemption or before its time was over
        (138, "RUNNING None", True),  # by SIGUSR1, before it had begun
        (140, "RUNNING None", True),
        (143, "COMPLETING TimeLimit", True),  # its time is over
        (143, "COMPLETING Preempted", True),
        (143, "COMPLETING None", False),  # scancel
        (143, "CANCELLED None", False),
        (1, "RUNNING None", True),  # died
        (137, "RUNNING None", True),
        (1, "COMPLETING None", False),
    ],
)
def test_a_task_requeues_itself_if_there_is_work_left_and_nobody_cancelled_it(task, site, code, state, again):
    assert task(f"exit {code}", state).wait(30) == code
    assert requeued(site) == (["requeue 7_2"] if again else [])
    assert (site / "started").read_text().endswith("--shard 2/3\n")


def test_where_the_queue_can_not_be_read_it_requeues_itself(task, site):
    (site / "gone").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert task("exit 143").wait(30) == 143
    assert requeued(site) == ["requeue 7_2"]


def test_one_that_dies_is_requeued_so_many_times_and_no_more(task, site):
    for _ in range(3):
        assert task("exit 1", "RUNNING None", "--restarts", "2").wait(30) == 1
    assert len(requeued(site)) == 2
    assert task("exit 143", "RUNNING None", "--restarts", "2").wait(30) == 143
    assert len(requeued(site)) == 3  # a preemption is no death


def test_where_scontrol_fails_it_waits_to_be_preempted(task, site, monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    assert task("exit 143").wait(30) == 143
    assert (site / "slept").read_text() == "infinity\n"
    (site / "slept").unlink()
    assert task("exit 1").wait(30) == 1
    assert not (site / "slept").exists()


@pytest.mark.parametrize("worker", [143, 1])
def test_a_site_that_requeues_on_a_code_is_given_it(task, site, worker):
    assert task(f"exit {worker}", "RUNNING None", "--requeue-exit-code", "99").wait(30) == 99
    assert requeued(site) == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_the_script_reaches_the_worker_as_sigusr1_and_is_waited_for(task, site, number):
    script = task(LISTENS)
    deadline = time.monotonic() + 30
    while not (site / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    script.send_signal(number)
    assert script.wait(30) == 143
    assert (site / "stopped").exists()
    assert requeued(site) == ["requeue 7_2"]


def test_after_a_signal_while_it_sets_up_it_does_not_begin(task, site):
    assert task("exit 0", "RUNNING None", "--setup", "kill -TERM $$").wait(30) == 143
    assert not (site / "started").exists()
    assert requeued(site) == ["requeue 7_2"]
