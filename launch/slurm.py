"""Trains a sweep as an array job of Slurm: tasks that are preempted, or run out of time, save and requeue themselves.

    glorot launch slurm SWEEP --out DIR --shards N [--time T] [--gpus N] [--cpus N] [--dry-run] [...]

  --shards N               parts that the sweep is divided into, one a task; a handful serves a thousand runs
  --throttle N             tasks that run at once, at most
  --time T --partition P --account A --constraint C
  --gpus [TYPE:]N --cpus N --memory M
                           of each task, in sbatch's words; the site's defaults where not said
  --sbatch OPTION          another option of sbatch, such as --sbatch qos=low; any number of times
  --setup LINE             shell line before the training, such as --setup "module load cuda"; any number of times
  --restarts N             times that a task is requeued after it died, preemptions apart.  [default: 3]
  --requeue-exit-code N    leave with N in place of calling scontrol, where the site requeues on that code
  --dry-run                print the script that would be submitted, and submit nothing

All other arguments go to `glorot run`, as `glorot run --help` has them; the same Python trains. The same command goes
on: a running array is not submitted twice, and what is trained is not trained again. Logs are in DIR/logs, or in ./logs
if DIR is a URL. Accounting is not needed.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from glorot_jax import Sweep, load, load_sweep
from glorot_jax.errors import InputError
from glorot_jax.launching.parser import Parser, need_at_least, need_sweep
from glorot_jax.launching.workers import command

SAVING = 30
"""Seconds beyond the segment under way that a task has to save before its time is over."""

TEMPLATE = Path(__file__).with_suffix(".sh")
"""The batch script; what begins with @ is put in."""


def script(own: argparse.Namespace, arguments: list[str], name: str, logs: Path) -> str:
    """Returns the batch script as it is handed to sbatch."""
    options = {
        "job-name": f"glorot-{name}",
        "array": f"0-{own.shards - 1}" + (f"%{own.throttle}" if own.throttle else ""),
        "chdir": str(Path.cwd()),
        "output": str(logs).replace("%", "%%") + "/%A_%a.log",
        "open-mode": "append",
        "signal": f"USR1@{math.ceil(own.segment_seconds) + SAVING}",
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": own.cpus,
        "gres": own.gpus and f"gpu:{own.gpus}",
        "mem": own.memory,
        **{option: getattr(own, option) for option in ("time", "partition", "account", "constraint")},
    }
    given = [f"{option}={shlex.quote(str(value))}" for option, value in options.items() if value is not None]
    code = own.requeue_exit_code
    parts = {
        "directives": "\n".join(f"#SBATCH --{line.lstrip('-')}" for line in [*given, "requeue", *own.sbatch]),
        "setup": "\n".join(own.setup),
        "logs": shlex.quote(str(logs)),
        "worker": shlex.join(command([*arguments, "--segment-seconds", f"{own.segment_seconds:g}"])),
        "shards": str(own.shards),
        "restarts": str(own.restarts),
        "requeue": 'scontrol requeue "$task" || $otherwise\nexit $code' if code is None else f"exit {code}",
    }
    return re.sub("@([a-z]+)", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def ask(*command: str, text: str | None = None) -> str:
    """Returns what one of Slurm's commands prints."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError(f"{command[0]}: not found", "submit where Slurm is, or look with --dry-run") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{command[0]}: {said[-1].removeprefix(f'{command[0]}: ').removeprefix('error: ')}")
    return done.stdout


def check(shards: int, submitted: Path) -> None:
    """Refuses more tasks than the site allows, and a second array beside one that is still at work."""
    said = ask("scontrol", "show", "config") if shutil.which("scontrol") else ""
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
    if limit and shards > int(limit[1]):
        raise InputError(f"shards: {shards} tasks are more than the {limit[1]} that this site allows in an array")
    for job in submitted.read_text().split() if submitted.exists() else ():
        try:
            waiting = ask("squeue", "--noheader", f"--jobs={job}", "--format=%i")
        except InputError as error:
            if "Invalid job id" not in str(error):
                raise
            continue  # it has ended long ago
        if waiting.strip():
            raise InputError(f"job {job}: this sweep is at work there", f"wait for it, or stop it with scancel {job}")


def finished(sweep: Sweep, out: str) -> bool:
    """Whether all that a sweep names is trained in its folder."""
    try:
        results = load(out)
    except InputError:
        return False
    there = set(results.runs.index) >= {run.id for run in sweep.runs()}
    return there and all(shard["state"] == "done" for shard in results.shards)


def submit(own: argparse.Namespace, name: str, *arguments: str) -> None:
    """Submits the array, unless it is at work, or there is nothing to do."""
    sweep = load_sweep(name, own.settings)
    out = own.out or f"results/{sweep.name}"
    logs = Path("logs" if "://" in out else f"{out}/logs").absolute()
    settings = [word for setting in own.settings for word in ("--set", setting)]
    text = script(own, [name, "--out", out, *settings, *arguments], sweep.name, logs)
    if own.dry_run:
        print(text, end="")
        return
    submitted = logs / f"submitted-{sweep.name}"
    check(own.shards, submitted)
    if finished(sweep, out):
        print(f"{sweep.name}: nothing to do, all is trained in {out}")
        return
    logs.mkdir(parents=True, exist_ok=True)
    job = ask("sbatch", "--parsable", text=text).strip().partition(";")[0]
    with submitted.open("a") as file:
        file.write(f"{job}\n")
    print(f"submitted job {job}: {own.shards} tasks; they write to {logs}/{job}_*.log")
    print(f"  glorot status {out}  # how far it is\n  glorot table {out}   # what it found, also half-way")
    print(f"  scancel {job}  # stops it; what was saved stays, and the same command goes on")


def main(argv: list[str]) -> int:
    """Returns 0 once the array is submitted or nothing is to be done."""
    parser = Parser("slurm")
    parser.add_argument("--shards", type=int)
    for option in ("out", "time", "partition", "account", "constraint", "gpus", "memory"):
        parser.add_argument(f"--{option}")
    for option in ("throttle", "cpus", "requeue-exit-code"):
        parser.add_argument(f"--{option}", type=int)
    for option in ("setup", "sbatch"):
        parser.add_argument(f"--{option}", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--segment-seconds", type=float, default=30.0)
    parser.add_argument("--dry-run", action="store_true")
    own, arguments = parser.parse_known_args(argv)
    if own.help:
        print(__doc__)
        return 0
    need_sweep(arguments)
    if own.shards is None:
        raise InputError("--shards: say in how many parts the sweep is divided", "a handful serves a thousand runs")
    need_at_least(own, shards=1, throttle=1, cpus=1, restarts=0)
    if not 0 < own.segment_seconds < math.inf:
        raise InputError(f"--segment-seconds: {own.segment_seconds:g} is not a finite number > 0")
    if "--fresh" in arguments:
        raise InputError("--fresh: each task would start over what the others made", "name another folder with --out")
    submit(own, *arguments)
    return 0
