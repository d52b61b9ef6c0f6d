"""What a sweep would find on this machine, what would be wrong with that, and how to mend it: ``glorot doctor``.

Each check looks at one thing, and changes nothing but what it takes away again: a file written for trial, and one
compiled program of a few bytes in the compilation cache.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import socket
import stat
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glorot_jax import surroundings
from glorot_jax.errors import unknown
from glorot_jax.files import cache_folder
from glorot_jax.store.objects import is_url
from glorot_jax.units import size

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["good", "warning", "wrong"]
SMALL_DISK = 2**30
"""Free bytes below which a disk may be full before a sweep is done."""
SMALL_MEMORY = 2**30
"""Free bytes below which hardly a sweep has room."""
SKEW = 2.0
"""Seconds that two clocks may differ."""
_HARMLESS = ("xla_force_host_platform_device_count", "xla_dump_", "xla_hlo_profile")
"""Of XLA_FLAGS, those that leave every bit as it is."""
_MARKS = {"good": "ok", "warning": "warning", "wrong": "WRONG"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it was.
        state: ``good``; ``warning``, a sweep would run but slower, with other bits, or not as far as it might; or
            ``wrong``, it would not run.
        said: what was found.
        mend: what to do about it; None where there is nothing to do.
    """

    name: str
    state: State
    said: str
    mend: str | None = None


def report(out: str | Path | None = None) -> list[Check]:
    """Returns what was found, JAX started as a sweep would start it.

    Args:
        out: the results folder that a sweep would have, or its URL; ``results`` if not said.
    """
    from glorot_jax.engine import devices

    started = devices.started()
    devices.configure()
    checks = [_versions(), _devices(started)]
    if checks[-1].state != "wrong":
        checks += [_cores(), _memory(), _flags(), _compile_cache(), _kernels()]
    folders = [_results(out), _folder("own cache", cache_folder("."))]
    return [*checks, _processes(os.environ), *folders, _data(), _extras()]


def could_run(checks: Sequence[Check]) -> bool:
    """Returns whether a sweep could run: nothing is wrong."""
    return all(check.state != "wrong" for check in checks)


def render(checks: Sequence[Check], form: str = "table") -> str:
    """Returns the checks as text.

    Args:
        form: ``table`` for people, or ``json``.
    """
    if form == "json":
        found = [dataclasses.asdict(check) for check in checks]
        return json.dumps({"could_run": could_run(checks), "checks": found}, indent=1, ensure_ascii=False)
    if form != "table":
        raise unknown("format", form, ["table", "json"])
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.state]:<7}  {check.name:<{width}}  {check.said}")
        if check.mend is not None:
            lines.append(f"{'':<7}  {'':<{width}}  -> {check.mend}")
    counts = Counter(check.state for check in checks)
    if counts["wrong"]:
        lines.append(f"A sweep would not run here: {counts['wrong']} wrong.")
    else:
        warned = f", with {counts['warning']} warning{'s' * (counts['warning'] > 1)}" if counts["warning"] else ""
        lines.append(f"A sweep can run here{warned}.")
    return "\n".join(lines)


# ---- JAX and its devices


def _versions() -> Check:
    from glorot_jax import __version__

    versions = {name: _version(name) for name in ("jax", "jaxlib", "flax", "orbax-checkpoint")}
    told = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    said = f"glorot_jax {__version__}, Python {sys.version.split()[0]}, {told}"
    for plugin in ("jax-cuda12-plugin", "jax-cuda13-plugin"):
        version = _version(plugin)
        if version is not None and version != versions["jaxlib"]:
            same = f"pip install {plugin}=={versions['jaxlib']}"
            return Check("versions", "warning", f"{said}; {plugin} {version} is not jaxlib's", same)
    return Check("versions", "good", said)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(started: bool) -> Check:
    """Those that JAX gives a sweep.

    Args:
        started: whether JAX had been started before anybody could say with how many.
    """
    from glorot_jax.engine import devices

    try:
        found = devices.local()
    except Exception as error:  # a plugin's own kind, as a rule a RuntimeError
        asked = os.environ.get("JAX_PLATFORMS")
        other = f"JAX_PLATFORMS={asked} asks for it; unset it" if asked else "JAX_PLATFORMS=cpu does without"
        return Check("devices", "wrong", f"JAX can't start: {_first_line(error)}", other)
    platform, cores = found[0].platform, devices.cores()
    kinds = Counter(str(device.device_kind) for device in found)
    said = " + ".join(f"{count} × {kind}" for kind, count in kinds.items())
    if platform != "cpu":
        return Check("devices", "good", said)
    said = f"{said}, {devices.describe()['processor']}"
    idle = _idle_accelerator(os.environ)
    if idle is not None:
        return idle
    if len(found) < cores:
        asked = next((name for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS") if name in os.environ), None)
        mend = f"{asked} asks for so many: unset it" if asked else "start JAX with JAX_NUM_CPU_DEVICES set"
        if started:
            mend = "JAX had been started before: set JAX_NUM_CPU_DEVICES before, or start anew"
        return Check("devices", "warning", f"{said}: {cores - len(found)} of {cores} cores stay idle", mend)
    if len(found) > cores:
        return Check("devices", "warning", f"{said}: they share {cores} cores", f"JAX_NUM_CPU_DEVICES={cores}")
    return Check("devices", "good", said)


def _idle_accelerator(environment: Mapping[str, str]) -> Check | None:
    """What is there for a sweep and not used, where nobody asked for a CPU."""
    seen = surroundings.accelerators()
    hidden = {"NVIDIA GPU": "CUDA_VISIBLE_DEVICES", "AMD GPU": "ROCR_VISIBLE_DEVICES", "TPU": "TPU_VISIBLE_CHIPS"}
    if environment.get("JAX_PLATFORMS", "").startswith("cpu"):
        return None
    for kind in seen:
        variable = hidden[kind]
        said = f"CPU only, though this machine has an {kind}" if kind != "TPU" else "CPU only, though a TPU is there"
        if environment.get(variable) in ("", "-1"):
            return Check("devices", "warning", f"{said}: {variable} hides it", f"unset {variable}")
        extra = {"NVIDIA GPU": "cuda13", "AMD GPU": "rocm", "TPU": "tpu"}[kind]
        older = " (cuda12 for drivers before 580)" if extra == "cuda13" else ""
        return Check("devices", "warning", said, f"pip install 'jax[{extra}]'{older}; or JAX_PLATFORMS=cpu if meant")
    return None


def _cores() -> Check:
    """Cores that this process may use, and who else does."""
    from glorot_jax.engine import devices

    usable, machine, load = devices.cores(), os.cpu_count() or 1, os.getloadavg()[0]
    quota, given = surroundings.core_quota(), os.environ.get("SLURM_CPUS_PER_TASK", "")
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    granted = f" (a cgroup grants {quota:g})" if quota is not None else ""
    said = f"{usable} of {machine} usable{granted}, load {load:.1f}"
    if given.isdigit() and int(given) < usable:
        mend = f"JAX_NUM_CPU_DEVICES={given}"
        return Check("cores", "warning", f"{said}, but Slurm gave this task {given}", mend)
    if threads not in ("", "1"):
        said = f"{said}; OPENBLAS_NUM_THREADS={threads}: LAPACK's threads fight with the devices'"
        return Check("cores", "warning", said, "unset OPENBLAS_NUM_THREADS")
    if load > 1.5 * machine:
        return Check("cores", "warning", f"{said}: others are at work here", "expect it to take longer than planned")
    return Check("cores", "good", said)


def _memory() -> Check:
    import jax

    from glorot_jax.data import memory

    device = jax.local_devices()[0]
    free, limit = memory.free(device), surroundings.memory_limit()
    if free is None:
        return Check("memory", "good", "the system does not say how much is free")
    said = f"{size(free)} free" + ("" if device.platform == "cpu" else f" on {device.device_kind}")
    if device.platform == "cpu" and limit is not None:
        if limit < free:
            what = f"{said}, but a cgroup grants {size(limit)}: a sweep that needs more is killed"
            return Check("memory", "warning", what, "ask the scheduler for more, or train fewer runs with --at-once")
        said = f"{said} of the {size(limit)} that a cgroup grants"
    if free < SMALL_MEMORY:
        return Check("memory", "warning", f"{said}: little", "end what else holds memory, or use --at-once")
    return Check("memory", "good", said)


def _flags() -> Check:
    """What the environment, or the program that asks, has set of what changes bits."""
    import jax

    if jax.config.jax_disable_jit:
        return Check("flags", "wrong", "JAX_DISABLE_JIT: nothing is compiled", "unset JAX_DISABLE_JIT")
    set_so = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.lstrip("-").startswith(_HARMLESS)]
    switches = ("jax_enable_x64", "jax_debug_nans", "jax_debug_infs", "jax_disable_most_optimizations")
    set_so += [name.upper() for name in switches if jax.config.values.get(name)]
    if jax.config.jax_default_matmul_precision is not None:
        set_so.append(f"JAX_DEFAULT_MATMUL_PRECISION={jax.config.jax_default_matmul_precision}")
    if set_so:
        said = f"other bits or other speed than usual by {', '.join(set_so)}"
        return Check("flags", "warning", said, "unset them, or keep them the same for all that is compared")
    return Check("flags", "good", "none that changes bits")


def _compile_cache() -> Check:
    """Where compiled programs are kept, and whether one that is kept is found again."""
    import jax

    from glorot_jax.engine import compiling

    name = "compile cache"
    told = jax.config.jax_compilation_cache_dir
    if not told or not jax.config.jax_enable_compilation_cache:
        return Check(name, "warning", "none: every start compiles anew", "set JAX_COMPILATION_CACHE_DIR")
    folder = Path(told)
    if not folder.is_absolute():
        return Check(name, "good", f"{told}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        surroundings.trial(folder)
    except OSError as error:
        mend = "set JAX_COMPILATION_CACHE_DIR to a folder of your own"
        return Check(name, "warning", f"{folder} can't be written: {_first_line(error)}", mend)
    notes: list[compiling.Compilation] = []
    for _ in range(2):
        compiling.noted("trial", lambda: jax.jit(_trial()).lower(1.0).compile(), notes)
    files = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    kind, count = surroundings.file_system(folder), len(files)
    said = f"{folder}, {count} file{'s' * (count != 1)}, {size(sum(files))}, {kind}"
    if not notes[-1].cached and jax.config.jax_persistent_cache_min_compile_time_secs <= 0:
        return Check(name, "warning", f"{said}: what is kept is not found again", "empty it, or choose another folder")
    if folder.stat().st_mode & stat.S_IWOTH:
        return Check(name, "warning", f"{said}: all can write there, and so run code as you", f"chmod 700 {folder}")
    if kind in surroundings.NETWORK:
        mend = "set JAX_COMPILATION_CACHE_DIR to a local disk if starts are slow"
        return Check(name, "warning", f"{said}: {kind} is slow for it", mend)
    return Check(name, "good", f"{said}, entries are found again" if notes[-1].cached else said)


def _trial():
    """A new function each time, so that JAX itself does not know it."""

    def doctors_trial(x):
        return x * 2.0 + 1.0

    return doctors_trial


def _kernels() -> Check:
    """The C++ form of dense layers, which serves CPUs."""
    import jax

    from glorot_jax.kernels import native

    if jax.default_backend() != "cpu":
        return Check("kernels", "good", f"XLA's and Pallas' for {jax.default_backend()}")
    reason = native.why_not()
    if reason is not None:
        mend = "unset it" if "GLOROT_NATIVE" in reason else "apt install g++, or name a compiler by CXX"
        return Check("kernels", "warning", f"no C++ kernels, wide networks train slower: {reason}", mend)
    built = native.library()
    how = f"built in {built.seconds:.1f} s" if built.seconds else "built before"
    return Check("kernels", "good", f"C++ {how} by {built.compiler}")


# ---- where it runs


def _processes(environment: Mapping[str, str]) -> Check:
    """Whether this process is one of several, as schedulers say it in the environment."""
    given = environment.get
    where, state, mend = [], "good", None
    if "SLURM_JOB_ID" in environment:
        task = f" task {given('SLURM_ARRAY_TASK_ID')}" if "SLURM_ARRAY_TASK_ID" in environment else ""
        again = given("SLURM_RESTART_COUNT")
        where.append(f"Slurm job {given('SLURM_JOB_ID')}{task}" + (f", restarted {again} ×" if again else ""))
        if int(given("SLURM_STEP_NUM_TASKS") or 1) > 1:
            state, mend = "warning", "give each task its part with --shard, or start all by glorot launch multihost"
            where.append(f"one of {given('SLURM_STEP_NUM_TASKS')} tasks of its step")
    elif shutil.which("sbatch"):
        state, mend = "warning", "glorot launch slurm SWEEP --out DIR"
        where.append("Slurm is here and this is none of its jobs: a login node?")
    if "KUBERNETES_SERVICE_HOST" in environment:
        index = given("JOB_COMPLETION_INDEX")
        where.append("Kubernetes" + (f", index {index}" if index else ""))
    hosts = [host for host in given("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) > 1:
        where.append(f"TPU slice of {len(hosts)} hosts, this is {given('TPU_WORKER_ID', '?')}")
        state, mend = "warning", "the same glorot launch multihost on every host"
    if "JAX_COORDINATOR_ADDRESS" in environment:
        where.append(f"JAX_COORDINATOR_ADDRESS={given('JAX_COORDINATOR_ADDRESS')}")
        state, mend = "warning", "it counts for glorot launch multihost alone; glorot run trains by itself"
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if variable in environment:
            where.append(f"{variable}={given(variable)}")
    where = where or ["one, of no scheduler"]
    return Check("processes", state, f"{'; '.join(where)}; on host {socket.gethostname()}", mend)


def _results(out: str | Path | None) -> Check:
    if is_url(out):
        return Check("results", "good", f"{out}, an object store; it was not tried")
    return _folder("results", Path("results") if out is None else Path(out))


def _folder(name: str, folder: Path) -> Check:
    """A folder that will be written: how much room there is, and what the file system under it can do."""
    try:
        skew, locks = surroundings.trial(surroundings.there(folder))
    except OSError as error:
        mend = "--out names another folder" if name == "results" else "set XDG_CACHE_HOME"
        return Check(name, "wrong", f"{folder} can't be written: {_first_line(error)}", mend)
    free, kind = shutil.disk_usage(surroundings.there(folder)).free, surroundings.file_system(folder)
    said = f"{folder}, {kind}, {size(free)} free"
    if not locks:
        mend = "never start two processes in one folder here; or mount it with locks"
        return Check(name, "warning", f"{said}: its files can't be locked", mend)
    if abs(skew) > SKEW:
        mend = "let both keep time by NTP: ages and orders that are shown are off"
        return Check(name, "warning", f"{said}: its clock is {skew:+.0f} s from this machine's", mend)
    if free < SMALL_DISK:
        return Check(name, "warning", f"{said}: little", "make room; a full disk stops a sweep, which then can go on")
    if kind in ("tmpfs", "ramfs"):
        return Check(name, "warning", f"{said}: in memory, gone with the machine", "choose a folder on a disk")
    if name == "results" and kind in surroundings.NETWORK:
        said = f"{said}, a network's: commits take longer"
    return Check(name, "good", said)


def _data() -> Check:
    from glorot_jax.data import pictures

    rows = pictures.listing()
    ready = [row["name"] for row in rows if row["state"] in ("ready", "drawn")]
    missing = [row["name"] for row in rows if row["state"] == "not prepared"]
    damaged = [row["name"] for row in rows if row["state"] == "unreadable"]
    said = f"ready: {', '.join(ready)}" + (f"; to prepare: {', '.join(missing)}" if missing else "")
    if damaged:
        mend = f"glorot data check {damaged[0]} says why"
        return Check("data", "warning", f"{said}; can't be read: {', '.join(damaged)}", mend)
    return Check("data", "good", said)


def _extras() -> Check:
    """Which optional parts are installed, by what this package's own description asks for."""
    from packaging.requirements import Requirement

    try:
        asked = importlib.metadata.requires("glorot-jax") or []
    except importlib.metadata.PackageNotFoundError:
        return Check("extras", "warning", "glorot-jax itself is not installed", "pip install .")
    needs: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, asked):
        marker = str(requirement.marker or "")
        if "extra ==" in marker:
            needs.setdefault(marker.rpartition("extra ==")[2].strip(" '\""), []).append(requirement)
    needs.pop("test", None)
    missing = [extra for extra, parts in needs.items() if not all(map(_installed, parts))]
    there = [extra for extra in needs if extra not in missing]
    said = f"{', '.join(there) or 'none'}" + (f"; not installed: {', '.join(missing)}" if missing else "")
    return Check("extras", "good", f"{said} (pip install 'glorot-jax[{missing[0]}]')" if missing else said)


def _installed(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    if version is None or not requirement.specifier.contains(version, prereleases=True):
        return False
    return all(_installed(part) for extra in requirement.extras for part in _of_extra(requirement.name, extra))


def _of_extra(name: str, extra: str) -> list[Requirement]:
    """What an installed package's extra asks for beyond the package itself, on a machine like this."""
    from packaging.requirements import Requirement

    asked = [r for r in map(Requirement, importlib.metadata.requires(name) or []) if r.marker]
    return [r for r in asked if r.marker.evaluate({"extra": extra}) and not r.marker.evaluate({"extra": ""})]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
