"""Trains a sweep on Kubernetes: an Indexed Job, an index a part; on TPUs a JobSet, a slice a part.

    glorot launch kubernetes SWEEP --out DIR --shards N --image IMAGE [--gpus G] [--claim NAME] [--dry-run] [...]

  --shards N             parts that the sweep is divided into
  --image IMAGE          the container's, with glorot_jax in it
  --claim NAME           persistent volume claim for DIR, mounted at the folder above it; s3://… as DIR needs none
  --parallelism P        parts at work at a time.  [default: all]
  --gpus G               NVIDIA GPUs of a part.  [default: 0]
  --cpus C, --memory M   what a part asks for, such as 4 and 16Gi.  [default: 1, nothing]
  --tpu A --topology T   TPU slice of a part, such as tpu-v5-lite-podslice and 2x4; JobSet's controller must be there
  --chips C              TPU chips of a host.  [default: all of the slice up to 8, else 4]
  --name, --namespace    of the job.  [default: SWEEP's name, kubectl's namespace]
  --env K=V              variable of the environment; may be repeated
  --secret S             the same of all entries of a secret, such as an object store's keys
  --select K=V           label of the nodes to run on; may be repeated
  --service-account A    whose rights the pods have
  --retries N            times that a part begins again after it died; being taken away is not dying.  [default: 10]
  --dry-run              print what would be applied, and apply nothing

All other arguments go to `glorot run`, as `glorot run --help` has them. If SWEEP is a file it travels along; else it is
a name that glorot knows in the container. From SIGTERM a pod has --segment-seconds [30] and a minute to be saved; where
nodes are taken away at shorter notice, say less. A part that was refused does not begin again. `glorot status DIR`
shows where all stand. After a failure: kubectl delete the job, and the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from glorot_jax.errors import InputError
from glorot_jax.launching import manifests
from glorot_jax.launching.parser import Parser, need_sweep

MARGIN = 60
"""Seconds beyond the segment's bound that a pod has to end: it may be compiling, and its store be far."""
SWEEPS = "/sweeps"
"""Where a sweep's file lies in the container."""


def main(argv: list[str]) -> int:
    """Returns 0 if the job was accepted, else kubectl's exit code."""
    parser = Parser("kubernetes")
    for name in ("out", "image", "claim", "memory", "tpu", "topology", "name", "namespace", "service-account"):
        parser.add_argument(f"--{name}")
    for name in ("shards", "parallelism", "gpus", "chips"):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name in ("env", "secret", "select"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--cpus", default="1")
    parser.add_argument("--retries", type=int, default=10)
    parser.add_argument("--segment-seconds", type=float, default=30.0)
    parser.add_argument("--dry-run", action="store_true")
    own, rest = parser.parse_known_args(argv)
    if own.help:
        print(__doc__)
        return 0
    need_sweep(rest)
    if wrong := problem(own, rest):
        raise InputError(wrong)
    text = yaml.dump_all(documents(own, *rest), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if own.dry_run:
        print(text, end="")
        return 0
    try:
        return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True).returncode
    except FileNotFoundError:
        said = "kubectl is not installed; --dry-run prints what a machine that has it can apply"
        raise InputError(said) from None


def problem(own: argparse.Namespace, rest: list[str]) -> str | None:
    """Returns what is wrong with the arguments, None if nothing is."""
    if not own.out or not own.image or own.shards < 1:
        return "--out DIR, --image IMAGE and --shards N (≥ 1) are needed"
    if "://" not in own.out and not (own.claim and re.match("/[^/]+/[^/]", own.out)):
        return f"--out: {own.out!r} would end with its pod; name s3://BUCKET/PATH, or /FOLDER/NAME and --claim for it"
    if bool(own.tpu) != bool(own.topology) or (own.tpu and (own.gpus or own.parallelism)):
        return "--tpu goes with --topology, and without --gpus and --parallelism"
    if own.tpu and not re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*){1,2}", own.topology):
        return f"--topology: {own.topology!r} is not of the form 2x4 or 2x2x4"
    if own.tpu and (tpu := manifests.Slice(own.tpu, own.topology, own.chips)).chips % tpu.of_host:
        return f"--chips: {own.chips} is not a divisor of the slice's {tpu.chips}"
    if not (own.retries >= 0 and own.segment_seconds > 0 and min(own.gpus, own.chips, own.parallelism) >= 0):
        return "--retries, --gpus, --chips and --parallelism are numbers ≥ 0, --segment-seconds is one > 0"
    if not re.fullmatch("[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name_of(own, rest[0])):
        return f"--name: {name_of(own, rest[0])!r} is not of up to 40 small letters, digits and '-', a letter first"
    wrong = [text for text in (*own.env, *own.select) if not re.match("[^=]+=", text)]
    return f"{wrong[0]!r} is not of the form K=V" if wrong else None


def name_of(own: argparse.Namespace, sweep: str) -> str:
    return own.name or re.sub("[^a-z0-9]+", "-", Path(sweep).stem.lower()).strip("-")


def documents(own: argparse.Namespace, sweep: str, *others: str) -> list[dict[str, Any]]:
    """Returns what is applied: the sweep's file, if it is one, and the job."""
    meta = manifests.metadata(name_of(own, sweep), own.namespace)
    file = Path(sweep) if os.path.isfile(sweep) else None
    tpu = manifests.Slice(own.tpu, own.topology, own.chips) if own.tpu else None
    verb = ["launch", "multihost"] if tpu and tpu.hosts > 1 else ["run"]  # one program on all hosts of a slice
    command = ["glorot", *verb, f"{SWEEPS}/{file.name}" if file else sweep, "--out", own.out, "--no-progress"]
    command += ["--segment-seconds", f"{own.segment_seconds:g}", *others]
    number = manifests.SLICE if tpu else manifests.INDEX
    cores = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": own.cpus}  # not those of the whole node
    container = manifests.Container(
        image=own.image,
        command=[*(text.replace("$", "$$") for text in command), "--shard", f"$({number})/{own.shards}"],
        grace=math.ceil(own.segment_seconds) + MARGIN,
        cpus=own.cpus,
        memory=own.memory,
        gpus=own.gpus,
        variables={
            **(cores if own.cpus.isdigit() and not (own.gpus or tpu) else {}),
            **dict(text.split("=", 1) for text in own.env),
        },
        secrets=own.secret,
        labels=dict(text.split("=", 1) for text in own.select),
        account=own.service_account,
        claims={own.claim: str(PurePosixPath(own.out).parent)} if own.claim and "://" not in own.out else {},
        files={meta["name"]: SWEEPS} if file else {},
    )
    along = [manifests.config_map(meta, {file.name: file.read_text(encoding="utf-8")})] if file else []
    if tpu:
        return [*along, manifests.job_set(meta, container, own.shards, own.retries, tpu)]
    at_once = own.parallelism or own.shards
    return [*along, manifests.indexed_job(meta, container, own.shards, at_once, own.retries)]


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such, and everything where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)
