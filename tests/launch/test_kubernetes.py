"""On Kubernetes: what is applied is what its published schemas allow, and a container trains the part of its index."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from glorot_jax import cli
from glorot_jax.analysis.results import load
from glorot_jax.drill.case import SWEEP
from glorot_jax.launching.engines import launch

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""Of Kubernetes: the first whose Jobs count failures by index without being asked to, and the newest."""
BASE = ["--out", "s3://bucket/sweep", "--shards", "4", "--image", "registry.example/glorot:1"]
TPU = ["--tpu", "tpu-v5-lite-podslice", "--topology"]


@pytest.fixture
def documents(capsys):
    """What a dry run prints, read again."""

    def made(*line: str) -> list[dict]:
        assert launch("kubernetes", [*line, "--dry-run"]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return made


@pytest.fixture
def job(documents):
    def made(*line: str) -> dict:
        (one,) = documents("quickstart", *BASE, *line)
        return one

    return made


def pod(one: dict) -> dict:
    spec = one["spec"]
    spec = spec["replicatedJobs"][0]["template"]["spec"] if one["kind"] == "JobSet" else spec
    return spec["template"]["spec"]


def container(one: dict) -> dict:
    (train,) = pod(one)["containers"]
    return train


def valid(one: dict) -> None:
    """Raises if a published schema does not have it so: a missing field, a wrong type, a name that is unknown."""
    if one["kind"] == "JobSet":
        assert JobsetV1alpha2JobSet.from_dict(copy.deepcopy(one)).to_dict() == one  # it leaves out what it doesn't know
        for part in one["spec"]["replicatedJobs"]:
            valid({"apiVersion": "batch/v1", "kind": "Job", "metadata": one["metadata"], **part["template"]})
        return
    for version in VERSIONS:
        kubernetes_validate.validate(one, version, strict=True)


def expanded(argument: str, variables: dict[str, str]) -> str:
    """An argument as a container gets it: $(NAME) replaced if the name is known, $$ a dollar that begins none."""
    known = lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0])  # noqa: E731
    return re.sub(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)", known, argument)


EVERYTHING = (
    *("--parallelism", "2", "--cpus", "4", "--memory", "16Gi", "--namespace", "lab", "--name", "mine"),
    *("--env", "A=b=c", "--env", "EMPTY=", "--secret", "keys", "--select", "pool=a", "--service-account", "trainer"),
)


@pytest.mark.parametrize("more", [(), ("--gpus", "2"), EVERYTHING, (*TPU, "2x4"), (*TPU, "4x4"), (*TPU, "2x2x4")])
def test_the_published_schemas_allow_what_is_applied(more, job, documents, tmp_path):
    valid(job(*more))
    file = tmp_path / "my_sweep.py"
    file.write_text("# é\nsweep = None\n", encoding="utf-8")
    on_a_claim = ["--out", "/results/mine", "--shards", "2", "--image", "i", "--claim", "disk"]
    for one in documents(str(file), *on_a_claim, *more):
        valid(one)


@pytest.mark.parametrize("more", [(), (*TPU, "2x4")])
def test_the_schemas_refuse_a_misspelt_field_and_a_wrong_type(more, job):
    for change in (lambda c: c.update(imagee=c.pop("image")), lambda c: c.update(command="glorot")):
        one = job(*more)
        change(container(one))
        with pytest.raises((kubernetes_validate.ValidationError, AssertionError, ValueError)):
            valid(one)
    one = job(*more)
    one["spec"]["replicatedJob" if more else "parallelizm"] = one["spec"].pop(
        "replicatedJobs" if more else "parallelism"
    )
    with pytest.raises((kubernetes_validate.ValidationError, AssertionError, KeyError)):
        valid(one)


def test_an_index_is_a_part_whose_ends_mean_what_the_exit_codes_say(job):
    one = job("--parallelism", "2", "--retries", "3", "--gpus", "1")
    spec = one["spec"]
    assert (one["apiVersion"], one["kind"], one["metadata"]["name"]) == ("batch/v1", "Job", "quickstart")
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (4, 2, "Indexed")
    assert (spec["backoffLimitPerIndex"], spec["podReplacementPolicy"]) == (3, "Failed")
    refused, taken_away, saved = spec["podFailurePolicy"]["rules"]
    name = container(one)["name"]
    assert refused == {"action": "FailIndex", "onExitCodes": {"containerName": name, "operator": "In", "values": [2]}}
    assert taken_away == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert saved == {"action": "Ignore", "onExitCodes": {"containerName": name, "operator": "In", "values": [143]}}
    assert pod(one)["restartPolicy"] == "Never"
    assert container(one)["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "env" not in container(one)
    assert container(one)["command"][-2:] == ["--shard", "$(JOB_COMPLETION_INDEX)/4"]


def test_on_processors_a_pod_takes_what_it_asks_for_and_no_more(job):
    assert container(job("--cpus", "3"))["env"] == [
        {"name": "JAX_PLATFORMS", "value": "cpu"},
        {"name": "JAX_NUM_CPU_DEVICES", "value": "3"},
    ]
    assert container(job("--cpus", "3"))["resources"] == {"requests": {"cpu": "3"}}


@pytest.mark.parametrize(
    ("said", "seconds"), [((), 30), (("--segment-seconds", "7.5"), 7.5), (("--segment-seconds=90",), 90)]
)
def test_a_pod_has_its_segment_and_a_minute_to_end(said, seconds, job):
    one = job(*said)
    assert pod(one)["terminationGracePeriodSeconds"] >= seconds + 60
    command = container(one)["command"]
    assert float(command[command.index("--segment-seconds") + 1]) == seconds


@pytest.mark.parametrize(
    ("topology", "more", "chips", "hosts"),
    [("2x4", (), 8, 1), ("2x4", ("--chips", "4"), 4, 2), ("4x4", (), 4, 4), ("2x2x4", (), 4, 4), ("1x1", (), 1, 1)],
)
def test_a_part_has_a_whole_slice_for_itself(topology, more, chips, hosts, job):
    one = job(*TPU, topology, *more, "--retries", "3")
    (part,) = one["spec"]["replicatedJobs"]
    of_slice = part["template"]["spec"]
    assert part["replicas"] == 4
    assert (of_slice["completions"], of_slice["parallelism"], of_slice["backoffLimit"]) == (hosts, hosts, 3 * hosts)
    assert [rule["action"] for rule in of_slice["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore", "Ignore"]
    assert container(one)["resources"]["limits"] == {"google.com/tpu": str(chips)}
    assert pod(one)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": topology,
    }
    number = {"fieldRef": {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/job-index']"}}
    assert container(one)["env"] == [{"name": "GLOROT_SLICE", "valueFrom": number}]
    assert container(one)["command"][-2:] == ["--shard", "$(GLOROT_SLICE)/4"]
    assert ("multihost" in container(one)["command"]) == (hosts > 1)
    assert ("exclusive-topology" in json.dumps(one["metadata"])) == (hosts > 1)


def test_a_sweep_that_is_a_file_travels_along(documents, tmp_path):
    file = tmp_path / "My_Sweep.py"
    file.write_text('"""é: $(HOME)"""\n\tx = "a"  \n', encoding="utf-8")
    files, one = documents(str(file), "--out", "/results/mine", "--shards", "2", "--image", "i", "--claim", "disk")
    assert files["data"] == {"My_Sweep.py": file.read_text(encoding="utf-8")}
    assert one["metadata"]["name"] == "my-sweep"
    volumes = {volume.pop("name"): volume for volume in pod(one)["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container(one)["volumeMounts"]}
    assert mounted == {
        "/results": {"persistentVolumeClaim": {"claimName": "disk"}},
        "/sweeps": {"configMap": {"name": files["metadata"]["name"]}},
    }
    assert container(one)["command"][:5] == ["glorot", "run", "/sweeps/My_Sweep.py", "--out", "/results/mine"]


def test_the_containers_command_trains_the_part_of_its_index(documents, tmp_path):
    out, mounted = tmp_path / "results" / "drill", tmp_path / "sweeps"
    line = [str(SWEEP), "--out", str(out), "--claim", "c", "--shards", "3", "--image", "i", "--width", "2"]
    files, one = documents(*line, "--set", "steps=60", "--set", "record=at(30)")
    mounted.mkdir()
    for name, text in files["data"].items():
        (mounted / name).write_text(text, encoding="utf-8")
    variables = {"JOB_COMPLETION_INDEX": "1"} | {each["name"]: each["value"] for each in container(one)["env"]}
    program, *arguments = [expanded(argument, variables) for argument in container(one)["command"]]
    arguments = [argument.replace("/sweeps/", f"{mounted}/") for argument in arguments]
    assert program == "glorot"
    own = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    subprocess.run([sys.executable, "-m", "glorot_jax.cli", *arguments], env=own, check=True, timeout=240)
    division = json.loads((out / "division.json").read_text())
    mine = {run for shard in division["shards"] if shard["part"] == 1 for run in shard["runs"]}
    assert division["parts"] == 3
    assert len(mine) == 4
    assert set(load(out).runs.query("status in ('done', 'diverged')").index) == mine


def test_a_dollar_of_ones_own_stays_a_dollar(job):
    own = ["$(JOB_COMPLETION_INDEX)", "$$", "a$", "$x"]
    command = container(job(*(word for text in own for word in ("--set", text))))["command"]
    assert [expanded(text, {"JOB_COMPLETION_INDEX": "3"}) for text in command[-9:-2]][::2] == own
    assert expanded(command[-1], {"JOB_COMPLETION_INDEX": "3"}) == "3/4"


@pytest.mark.parametrize("code", [0, 1])
def test_kubectl_gets_what_a_dry_run_prints(code, tmp_path, monkeypatch, capsys):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/line\ncat > {tmp_path}/text\nexit {code}\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert launch("kubernetes", ["quickstart", *BASE]) == code
    assert (tmp_path / "line").read_text() == "apply -f -\n"
    assert launch("kubernetes", ["quickstart", *BASE, "--dry-run"]) == 0
    assert (tmp_path / "text").read_text() == capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (BASE, "SWEEP first"),
        (["quickstart", *BASE[:4]], "--image"),
        (["quickstart", "--out", "results/x", "--shards", "2", "--image", "i", "--claim", "c"], "'results/x'"),
        (["quickstart", "--out", "/results/x", "--shards", "2", "--image", "i"], "--claim"),
        (["quickstart", *BASE, "--tpu", "tpu-v4-podslice"], "--topology"),
        (["quickstart", *BASE, *TPU, "2by4"], "'2by4'"),
        (["quickstart", *BASE, *TPU, "2x4", "--chips", "3"], "--chips: 3"),
        (["quickstart", *BASE, "--name", "No"], "'No'"),
        (["quickstart", *BASE, "--gpus", "two"], "--gpus: invalid int value: 'two'"),
        (["quickstart", *BASE, "--env", "A"], "'A' is not of the form K=V"),
        (["quickstart", *BASE, "--segment-seconds", "0"], "> 0"),
        (["quickstart", *BASE], "kubectl is not installed"),
    ],
)
def test_what_is_wrong_or_missing_is_said_in_one_line(line, said, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["launch", "kubernetes", *line]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert told.count("\n") == 1
