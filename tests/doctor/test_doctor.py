"""What a sweep would find is told as it is; what would be wrong is told with its remedy."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import time

import jax
import pytest

from glorot_jax import doctor, surroundings
from glorot_jax.engine import devices


def only(name: str, checks: list[doctor.Check]) -> doctor.Check:
    (check,) = [one for one in checks if one.name == name]
    return check


@pytest.fixture
def whole_report(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: len(jax.local_devices()))
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(surroundings, "file_system", lambda _: "ext4")
    monkeypatch.setattr(surroundings, "accelerators", list)
    monkeypatch.setattr(surroundings, "memory_limit", lambda: None)
    return lambda: doctor.report(tmp_path / "results")


def test_a_good_machine_is_told_in_a_dozen_lines(whole_report, monkeypatch):
    monkeypatch.setattr(doctor, "_kernels", lambda: doctor.Check("kernels", "good", "built"))
    checks = whole_report()
    assert {check.name: check.state for check in checks if check.state != "good"} == {}
    text = doctor.render(checks)
    assert len(text.splitlines()) <= 14
    assert text.endswith("A sweep can run here.")
    assert f"{len(jax.local_devices())} × cpu" in only("devices", checks).said
    assert jax.__version__ in only("versions", checks).said


def test_the_same_as_json_says_whether_a_sweep_could_run(whole_report):
    told = json.loads(doctor.render(whole_report(), "json"))
    assert told["could_run"] is True
    assert {"name", "state", "said", "mend"} == told["checks"][0].keys()


def test_nothing_is_left_behind(whole_report, tmp_path):
    whole_report()
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_can_not_be_written_is_wrong(whole_report):
    check = doctor._folder("results", surroundings.Path("/proc/here"))
    assert (check.state, check.mend) == ("wrong", "--out names another folder")
    assert not doctor.could_run([check])
    assert doctor.render([check]).endswith("A sweep would not run here: 1 wrong.")


def test_an_object_store_is_not_taken_for_a_folder():
    assert "an object store" in doctor._results("s3://bucket/sweep").said


def test_a_jax_that_does_not_start_is_wrong_and_the_rest_is_still_told(whole_report, monkeypatch):
    def fails():
        raise RuntimeError("Unable to initialize backend 'tpu'\nmore")

    monkeypatch.setattr(devices, "local", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    checks = whole_report()
    assert only("devices", checks).said == "JAX can't start: Unable to initialize backend 'tpu'"
    assert only("devices", checks).mend == "JAX_PLATFORMS=tpu asks for it; unset it"
    assert not doctor.could_run(checks)
    assert only("results", checks).state == "good"


@pytest.mark.parametrize(
    ("cores", "started", "said", "mend"),
    [(64, True, "60 of 64 cores stay idle", "start anew"), (2, False, "share 2 cores", "JAX_NUM_CPU_DEVICES=2")],
)
def test_more_or_fewer_cpu_devices_than_cores_are_noticed(monkeypatch, cores, started, said, mend):
    monkeypatch.setattr(devices, "cores", lambda: cores)
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:4])
    check = doctor._devices(started)
    assert check.state == "warning"
    assert said in check.said
    assert mend in check.mend


def test_a_gpu_that_jax_does_not_use_is_noticed_unless_a_cpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(surroundings, "accelerators", lambda: ["NVIDIA GPU"])
    assert "jax[cuda13]" in doctor._idle_accelerator({}).mend
    assert doctor._idle_accelerator({"CUDA_VISIBLE_DEVICES": ""}).mend == "unset CUDA_VISIBLE_DEVICES"
    assert doctor._idle_accelerator({"JAX_PLATFORMS": "cpu"}) is None


def test_what_changes_bits_is_named(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=dumps --xla_cpu_enable_fast_math=true")
    jax.config.update("jax_debug_nans", True)
    try:
        check = doctor._flags()
    finally:
        jax.config.update("jax_debug_nans", False)
    assert check.state == "warning"
    assert check.said.endswith("by --xla_cpu_enable_fast_math=true, JAX_DEBUG_NANS")


def test_the_compilation_cache_is_tried(tmp_path, monkeypatch):
    from jax._src import compilation_cache

    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    (tmp_path / "cache").mkdir(mode=0o700)
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()
        assert "entries are found again" in doctor._compile_cache().said
        (tmp_path / "cache").chmod(0o777)
        assert "run code as you" in doctor._compile_cache().said
        monkeypatch.setattr(surroundings, "file_system", lambda _: "nfs4")
        (tmp_path / "cache").chmod(0o700)
        assert "nfs4 is slow" in doctor._compile_cache().said
        jax.config.update("jax_compilation_cache_dir", None)
        assert "every start compiles anew" in doctor._compile_cache().said
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
        compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("environment", "state", "said"),
    [
        ({}, "good", "one, of no scheduler"),
        ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "good", "Slurm job 7 task 3"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4"}, "warning", "one of 4 tasks of its step"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, "warning", "TPU slice of 2 hosts, this is 1"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "warning", "JAX_COORDINATOR_ADDRESS=a:1"),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, "good", "CUDA_VISIBLE_DEVICES=0,2"),
    ],
)
def test_what_a_scheduler_says_is_told(monkeypatch, environment, state, said):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    check = doctor._processes(environment)
    assert check.state == state
    assert said in check.said
    assert (check.mend is None) == (state == "good")


def test_a_login_node_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "a login node?" in doctor._processes({}).said


def test_fewer_cores_by_slurm_than_are_seen_are_noticed(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 64)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert doctor._cores().mend == "JAX_NUM_CPU_DEVICES=4"


def test_a_folder_without_locks_on_another_clock_or_without_room_is_noticed(tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuses)
        assert "can't be locked" in doctor._folder("results", tmp_path).said
    with monkeypatch.context() as patch:
        now = time.time
        patch.setattr(surroundings.time, "time", lambda: now() - 60)
        assert "its clock is +60 s" in doctor._folder("results", tmp_path).said
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "SMALL_DISK", 2**62)
        assert doctor._folder("results", tmp_path).said.endswith("free: little")


def test_kernels_that_are_switched_off_are_noticed(monkeypatch):
    monkeypatch.setenv("GLOROT_NATIVE", "0")
    assert "GLOROT_NATIVE=0" in doctor._kernels().said


# ---- what the system says


def machine(root, files: dict[str, str]):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_narrowest_of_nested_cgroups_counts(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job/step\n",
            "sys/fs/cgroup/job/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
            "sys/fs/cgroup/job/memory.max": "max\n",
            "sys/fs/cgroup/job/step/memory.max": "1073741824\n",
        },
    )
    assert surroundings.core_quota(root) == 1.5
    assert surroundings.memory_limit(root) == 2**30


def test_the_first_version_of_cgroups_is_read_too(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n1:name=systemd:/\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
        },
    )
    assert surroundings.core_quota(root) == 4.0
    assert surroundings.memory_limit(root) == 2**31


def test_without_limits_none_is_told(tmp_path):
    assert surroundings.core_quota(tmp_path) is None
    assert surroundings.memory_limit(tmp_path) is None


def test_a_quota_bounds_the_cores_that_a_sweep_takes(monkeypatch):
    monkeypatch.setattr(devices, "usable", lambda: set(range(64)))
    for quota, cores in ((None, 64), (2.5, 3), (0.1, 1), (128.0, 64)):
        monkeypatch.setattr(devices, "core_quota", lambda q=quota: q)
        assert devices.cores() == cores


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path):
    home = tmp_path / "my home"
    (home / "deep").mkdir(parents=True)
    shown = str(home).replace(" ", "\\040")
    root = machine(
        tmp_path / "root",
        {"proc/self/mountinfo": f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {shown} rw shared:1 - nfs4 host:/x rw\n"},
    )
    assert surroundings.file_system(home / "deep" / "not" / "there", root) == "nfs4"
    assert surroundings.file_system(tmp_path, root) == "ext4"


def test_accelerators_are_those_whose_devices_are_there(tmp_path):
    root = machine(tmp_path, {"dev/nvidia0": "", "dev/nvidiactl": "", "dev/null": ""})
    assert surroundings.accelerators(root) == ["NVIDIA GPU"]


def test_a_trial_says_that_this_disk_locks_and_keeps_time(tmp_path):
    skew, locks = surroundings.trial(tmp_path)
    assert abs(skew) < 1
    assert locks
    assert os.listdir(tmp_path) == []


def test_an_extra_of_another_package_is_there_only_with_its_parts():
    from packaging.requirements import Requirement

    assert doctor._installed(Requirement("jax>=0.4"))
    assert not doctor._installed(Requirement("jax>=1000"))
    assert doctor._installed(Requirement("jax[tpu]")) == (importlib.util.find_spec("libtpu") is not None)
