"""Which devices a sweep uses, and where compiled programs are kept."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from glorot_jax.engine import allocator
from glorot_jax.files import cache_folder
from glorot_jax.surroundings import core_quota

if TYPE_CHECKING:
    import jax


def configure() -> None:
    """Gives JAX one CPU device per usable core and a compilation cache, where the person has not chosen otherwise.

    It does nothing to a JAX that has already started: what it sees is then what is used.
    """
    allocator.configure()
    # LAPACK's own threads would fight with those of the devices: 3.4 × slower singular values, measured.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import jax

    if started():
        return
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cores())
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(_cache_folder()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # fifty small programs take seconds, too
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def cores() -> int:
    """Returns how many cores this process may use at once: a container's quota may grant fewer than it shows."""
    quota = core_quota()
    return len(usable()) if quota is None else min(len(usable()), max(1, math.ceil(quota)))


def usable() -> set[int]:
    """Returns the numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def every() -> list[jax.Device]:
    """Returns all devices of all processes that are one program, this process' first."""
    import jax

    return [*local(), *(device for device in jax.devices() if device.process_index != jax.process_index())]


def local() -> list[jax.Device]:
    """Returns all devices of this process."""
    import jax

    return jax.local_devices()


def describe() -> dict[str, object]:
    """Returns what a result depends on beside the sweep: versions, devices, flags that change bits."""
    import flax
    import jax
    import jaxlib
    import numpy as np
    import optax
    import orbax.checkpoint as ocp

    from glorot_jax import __version__
    from glorot_jax.engine.compiling import options

    flags = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEBUG_NANS")
    return {
        "versions": {
            "glorot_jax": __version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "orbax": ocp.__version__,
            "numpy": np.__version__,
        },
        "devices": [str(d.device_kind) for d in jax.local_devices()],
        "platform": jax.default_backend(),
        "processor": _processor(),
        "cores": cores(),
        "compiler_options": options(jax.default_backend(), "", jax.local_devices()[0].client.platform_version),
        "flags": {name: os.environ[name] for name in flags if name in os.environ},
    }


def started() -> bool:
    """Returns whether JAX has started, so that how many CPU devices it has is no longer to be chosen."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def _cache_folder() -> Path:
    """A private folder for each kind of processor: who can write there can run code, and kinds reject each other's."""
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    folder = cache_folder("compiled") / f"{platform.machine()}-{kind}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
