"""What Kubernetes is told: an Indexed Job whose indexes are a sweep's parts, or a JobSet with a TPU slice for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

INDEX, SLICE = "JOB_COMPLETION_INDEX", "GLOROT_SLICE"
"""Variables that hold a part's number: in an Indexed Job Kubernetes sets it, in a JobSet its manifest does."""
HOST_CHIPS = 8
"""TPU chips of one host, at most."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """What trains a part, and what it needs.

    Attributes:
        image: with ``glorot`` in it.
        command: as Kubernetes reads it: ``$(NAME)`` stands for a variable, ``$$`` for a dollar.
        grace: seconds from SIGTERM to SIGKILL.
        cpus, memory: as Kubernetes writes amounts, such as ``4`` and ``16Gi``.
        gpus: NVIDIA's.
        variables: of the environment; those of ``secrets`` come from these.
        labels: of the nodes to run on.
        account: the service account.
        claims: names of persistent volume claims, each with the folder where it is mounted.
        files: the same of config maps.
    """

    image: str
    command: Sequence[str]
    grace: int
    cpus: str = "1"
    memory: str | None = None
    gpus: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    account: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
        accelerator: as GKE labels its nodes, such as ``tpu-v5-lite-podslice``.
        topology: of chips, such as ``2x4``.
        host_chips: of one host; if not said all that fit one, else 4.
    """

    accelerator: str
    topology: str
    host_chips: int | None = None

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.topology.split("x")))

    @property
    def of_host(self) -> int:
        return self.host_chips or (self.chips if self.chips <= HOST_CHIPS else 4)

    @property
    def hosts(self) -> int:
        return self.chips // self.of_host


def metadata(name: str, namespace: str | None = None) -> Manifest:
    """Returns the metadata of all that belongs to one sweep."""
    labels = {"app.kubernetes.io/name": "glorot-jax", "app.kubernetes.io/instance": name}
    return _whole({"name": name, "namespace": namespace, "labels": labels})


def config_map(meta: Manifest, files: Mapping[str, str]) -> Manifest:
    """Returns files, by name, that travel with the job."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": dict(files)}


def indexed_job(meta: Manifest, container: Container, parts: int, at_once: int, retries: int) -> Manifest:
    """Returns a Job whose index I trains part I; each index fails for itself, after so many retries."""
    spec = {
        "completions": parts,
        "parallelism": min(at_once, parts),
        "completionMode": "Indexed",
        "backoffLimitPerIndex": retries,
        **_ends("FailIndex"),
        "template": _pod(container),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def job_set(meta: Manifest, container: Container, parts: int, retries: int, tpu: Slice) -> Manifest:
    """Returns a JobSet whose Job I trains part I on a slice of its own.

    A part that fails for good ends the set, and the others are saved: that one Job is begun again without the others
    is not to be had of a JobSet as it comes.
    """
    job = {
        "completions": tpu.hosts,
        "parallelism": tpu.hosts,
        "completionMode": "Indexed",
        "backoffLimit": retries * tpu.hosts,
        **_ends("FailJob"),
        "template": _pod(container, tpu),
    }
    alone = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {**meta, "annotations": alone} if tpu.hosts > 1 else meta,
        "spec": {
            "failurePolicy": {"maxRestarts": 0},
            "replicatedJobs": [{"name": "part", "replicas": parts, "template": {"spec": job}}],
        },
    }


def _ends(refused: str) -> Manifest:
    """What the ends of pods mean: refused is final, saved or taken away no failure; and never are two at one part."""
    code = {"containerName": "train", "operator": "In"}
    rules = [
        {"action": refused, "onExitCodes": {**code, "values": [2]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**code, "values": [143]}},
    ]
    return {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}}


def _pod(container: Container, tpu: Slice | None = None) -> Manifest:
    variables: list[Manifest] = [{"name": name, "value": value} for name, value in container.variables.items()]
    limits, labels = {}, dict(container.labels)
    if container.gpus:
        limits["nvidia.com/gpu"] = str(container.gpus)
    if tpu:
        limits["google.com/tpu"] = str(tpu.of_host)
        labels["cloud.google.com/gke-tpu-accelerator"] = tpu.accelerator
        labels["cloud.google.com/gke-tpu-topology"] = tpu.topology
        number = {"fieldRef": {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/job-index']"}}
        variables.append({"name": SLICE, "valueFrom": number})
    sources = [(folder, {"persistentVolumeClaim": {"claimName": name}}) for name, folder in container.claims.items()]
    sources += [(folder, {"configMap": {"name": name}}) for name, folder in container.files.items()]
    train = {
        "name": "train",
        "image": container.image,
        "command": list(container.command),
        "resources": {"requests": {"cpu": container.cpus, "memory": container.memory}, "limits": limits},
        "env": variables,
        "envFrom": [{"secretRef": {"name": name}} for name in container.secrets],
        "volumeMounts": [{"name": f"volume-{i}", "mountPath": folder} for i, (folder, _) in enumerate(sources)],
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": container.grace,
        "serviceAccountName": container.account,
        "nodeSelector": labels,
        "tolerations": [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in limits],
        "containers": [train],
        "volumes": [{"name": f"volume-{i}", **source} for i, (_, source) in enumerate(sources)],
    }
    return _whole({"spec": spec})


def _whole(tree: Any) -> Any:
    """A manifest without what is None or empty."""
    if isinstance(tree, dict):
        return {key: kept for key, value in tree.items() if (kept := _whole(value)) not in (None, {}, [])}
    return [_whole(value) for value in tree] if isinstance(tree, list) else tree
