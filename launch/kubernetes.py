"""Trains a sweep on Kubernetes: an Indexed Job whose pods train a part each, or a JobSet with a TPU slice for each part.

    glorot launch kubernetes SWEEP --out DIR --shards N --image IMAGE [--gpus G] [--claim NAME] [--dry-run] [...]

  --shards N             parts that the sweep is divided into: indexes of the job
  --image IMAGE          the container's, with glorot_jax in it
  --claim NAME           persistent volume claim that holds DIR, mounted at the folder above it; DIR may be s3://… instead
  --parallelism P        parts at work at a time.  [default: all]
  --gpus G               NVIDIA GPUs of a part
  --cpus C, --memory M   what a part asks for, as 4 and 16Gi.  [default: 1, nothing]
  --tpu A --topology T   TPU slice of a part, such as tpu-v5-lite-podslice and 2x4: a JobSet, whose controller must be there
  --chips C              TPU chips of a host.  [default: all of the slice up to 8, else 4]
  --name, --namespace    of the job.  [default: SWEEP's name, kubectl's]
  --env K=V, --secret S  environment of the containers: a value, all entries of a secret; may be repeated
  --select K=V           label of the nodes to run on; may be repeated
  --service-account A    whose rights the pods have
  --retries N            times that a part begins again after it died; preemption doesn't count.  [default: 10]
  --dry-run              print what would be applied, and apply nothing

All other arguments go to `glorot run`, as `glorot run --help` has them. If SWEEP is a file, it travels along; else it is
a name that glorot knows in the container. A pod has until its segment is saved to end (--segment-seconds and a minute);
where nodes are taken away at shorter notice, say a smaller --segment-seconds. A part that was refused does not begin
again. `glorot status DIR` shows where all stand. To go on after a failure: kubectl delete the job, and the same command.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

MARGIN = 60
"""Seconds beyond the segment's bound that a pod has to end: it may be compiling, and its store far."""
INDEX, SLICE = "JOB_COMPLETION_INDEX", "GLOROT_SLICE"
"""Variables that hold a part's number: of an Indexed Job, set by Kubernetes; of a JobSet, set in its manifest."""
SWEEPS = "/sweeps"
"""Where a sweep's file lies in the container."""


def main(argv: list[str]) -> int:
    """Returns 0 if the job was accepted, 2 if something is missing, else kubectl's exit code."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog="glorot launch kubernetes")
    parser.add_argument("-h", "--help", action="store_true")
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
    if wrong := problem(own, rest):
        parser.exit(2, f"error: {wrong}\n")
    text = yaml.dump_all(manifests(own, rest), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if own.dry_run:
        print(text, end="")
        return 0
    try:
        return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True).returncode
    except FileNotFoundError:
        parser.exit(2, "error: kubectl is not installed here; --dry-run prints what another machine can apply\n")


def problem(own: argparse.Namespace, rest: list[str]) -> str | None:
    """Returns what is wrong with the arguments, None if nothing is."""
    if not rest or rest[0].startswith("-"):
        return "SWEEP comes first, a file or a name"
    if own.out is None or own.shards < 1 or own.image is None:
        return "--out DIR, --shards N (≥ 1) and --image IMAGE are needed"
    if "://" not in own.out and (own.claim is None or not re.match(r"/[^/]+/[^/]", own.out)):
        return f"--out: {own.out!r} ends with its pod; name s3://BUCKET/PATH, or --claim NAME and /MOUNT/PATH"
    if bool(own.tpu) != bool(own.topology) or (own.tpu and (own.gpus or own.parallelism)):
        return "--tpu goes with --topology, and without --gpus and --parallelism"
    if own.topology and not re.fullmatch(r"\d+(x\d+){1,2}", own.topology):
        return f"--topology: {own.topology!r} is not of the form 2x4 or 2x2x4"
    for text in (*own.env, *own.select):
        if not re.match("[^=]+=", text):
            return f"{text!r} is not of the form K=V"
    return None


def manifests(own: argparse.Namespace, rest: list[str]) -> list[dict[str, Any]]:
    """Returns what is applied: the sweep's file, if it is one, and the job."""
    sweep, *others = rest
    file = Path(sweep) if os.path.isfile(sweep) else None
    name = own.name or re.sub("[^a-z0-9]+", "-", Path(sweep).stem.lower()).strip("-")[:40]
    meta = {"name": name, **({"namespace": own.namespace} if own.namespace else {})}
    meta["labels"] = {"app.kubernetes.io/name": "glorot-jax", "app.kubernetes.io/instance": name}
    command = ["glorot", "run", f"{SWEEPS}/{file.name}" if file else sweep, "--out", own.out, "--no-progress"]
    command += ["--segment-seconds", f"{own.segment_seconds:g}", *others]
    # What Kubernetes would take for a variable of its own is doubled; the last argument is one.
    command = [text.replace("$", "$$") for text in command]
    command += ["--shard", f"$({SLICE if own.tpu else INDEX})/{own.shards}"]
    pod = pod_of(own, name, file, command)
    job = job_set(own, meta, pod) if own.tpu else indexed_job(own, meta, pod)
    source = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
    return [source | {"data": {file.name: file.read_text(encoding="utf-8")}}, job] if file else [job]


def pod_of(own: argparse.Namespace, name: str, file: Path | None, command: list[str]) -> dict[str, Any]:
    """Returns the template of a pod; what it does not need is left out."""
    chips, accelerated = own.tpu and chips_of_host(own), own.gpus or own.tpu
    values = {} if accelerated or not own.cpus.isdigit() else {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": own.cpus}
    values |= dict(text.split("=", 1) for text in own.env)
    environment = [{"name": key, "value": value} for key, value in values.items()]
    if own.tpu:
        field = {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/job-index']"}
        environment.append({"name": SLICE, "valueFrom": {"fieldRef": field}})
    volumes, mounts = [], []
    if own.claim and "://" not in own.out:
        volumes.append({"name": "results", "persistentVolumeClaim": {"claimName": own.claim}})
        mounts.append({"name": "results", "mountPath": os.path.dirname(own.out.rstrip("/"))})
    if file:
        volumes.append({"name": "sweep", "configMap": {"name": name}})
        mounts.append({"name": "sweep", "mountPath": SWEEPS})
    container = {
        "name": "train",
        "image": own.image,
        "command": command,
        "resources": {
            "requests": {"cpu": own.cpus, "memory": own.memory},
            "limits": {"nvidia.com/gpu": own.gpus and str(own.gpus), "google.com/tpu": chips and str(chips)},
        },
        "env": environment,
        "envFrom": [{"secretRef": {"name": secret}} for secret in own.secret],
        "volumeMounts": mounts,
    }
    places = {"cloud.google.com/gke-tpu-accelerator": own.tpu, "cloud.google.com/gke-tpu-topology": own.topology}
    taint = {"key": "google.com/tpu" if own.tpu else "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(own.segment_seconds) + MARGIN,
        "serviceAccountName": own.service_account,
        "nodeSelector": {**places, **dict(text.split("=", 1) for text in own.select)},
        "tolerations": [taint] if accelerated else [],
        "containers": [container],
        "volumes": volumes,
    }
    return without_gaps({"spec": spec})


def failures(of_refused: str) -> dict[str, Any]:
    """Returns what the ends of pods mean: refused is final, taken away or saved is no failure, all else is one."""
    refused = {"containerName": "train", "operator": "In", "values": [2]}
    return {
        "rules": [
            {"action": of_refused, "onExitCodes": refused},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": {**refused, "values": [143]}},
        ]
    }


def indexed_job(own: argparse.Namespace, meta: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    """Returns a Job each of whose indexes fails for itself."""
    spec = {
        "completions": own.shards,
        "parallelism": min(own.parallelism or own.shards, own.shards),
        "completionMode": "Indexed",
        "backoffLimitPerIndex": own.retries,
        "podReplacementPolicy": "Failed",  # never two pods at one part
        "podFailurePolicy": failures("FailIndex"),
        "template": pod,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def job_set(own: argparse.Namespace, meta: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    """Returns a JobSet of a Job a part, which holds one TPU slice; a part that fails for good ends the others, saved."""
    hosts = math.prod(map(int, own.topology.split("x"))) // chips_of_host(own)
    job = {
        "completions": hosts,
        "parallelism": hosts,
        "completionMode": "Indexed",
        "backoffLimit": own.retries * hosts,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": failures("FailJob"),
        "template": pod,
    }
    alone = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {**meta, "annotations": alone} if hosts > 1 else meta,
        "spec": {
            "failurePolicy": {"maxRestarts": 0},
            "replicatedJobs": [{"name": "part", "replicas": own.shards, "template": {"spec": job}}],
        },
    }


def chips_of_host(own: argparse.Namespace) -> int:
    """Returns how many chips of the slice a host has."""
    slice_of = math.prod(map(int, own.topology.split("x")))
    return own.chips or (slice_of if slice_of <= 8 else 4)


def without_gaps(tree: Any) -> Any:
    """Returns a manifest without what is None, 0 or empty."""
    if isinstance(tree, dict):
        return {key: kept for key, value in tree.items() if (kept := without_gaps(value))}
    return [without_gaps(value) for value in tree] if isinstance(tree, list) else tree


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and nothing as a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
