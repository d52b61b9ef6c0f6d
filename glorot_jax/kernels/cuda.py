"""Dense layers on NVIDIA's GPUs as CUDA C++: the library in ``cuda.cu`` is built on first use where nvcc is at hand.

nvcc comes with CUDA, and with the Python packages of JAX for CUDA 13. It is called for the GPU that is there, and for
one batch size. Runs that are vmapped together are blocks of one launch; the bits of a run depend neither on the runs
beside it nor on how many there are.

``GLOROT_NATIVE=0`` switches it off; ``NVCC`` names the compiler.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from glorot_jax.kernels.library import Library, Unavailable, built, loaded, target
from glorot_jax.kernels.over_runs import passes

SOURCE = Path(__file__).with_name("cuda.cu")
FLAGS = ("-std=c++17", "-O3", "-Xcompiler", "-fPIC", "-shared", "-w")
LARGEST_BATCH = 16
"""Above it registers are too few for the sums of all examples, and plain JAX does the work."""
USUAL_BATCH = 10
"""That by which it is tried whether the library can be built."""
OLDEST = 80
"""Compute capability, times ten, from which the kernels can be used: Ampere."""
LEAVES_ALONE = True
"""A run all of whose error is 0 stays as it is, whatever its other arrays hold."""

_LOADING = threading.Lock()


def why_not() -> str | None:
    """Returns why these kernels can't be used here, in one line; None if they can. Builds them where it has to be."""
    if os.environ.get("GLOROT_NATIVE") == "0":
        return "switched off by GLOROT_NATIVE=0"
    if (backend := jax.default_backend()) != "gpu":
        return f"for GPUs only, not {backend}"
    capability = str(getattr(jax.local_devices()[0], "compute_capability", None)).replace(".", "")
    if not capability.isdecimal():
        return "for NVIDIA's GPUs only"
    if int(capability) < OLDEST:
        return f"for compute capability {OLDEST / 10} and above, not {int(capability) / 10}"
    found = _loaded(USUAL_BATCH)
    return found if isinstance(found, str) else None


def build(batch: int, capability: str) -> Library:
    """Returns the library for a batch size and a compute capability, such as ``"90"``.

    Raises:
        Unavailable: there is no nvcc, or it can't build the library.
    """
    code = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    return built(SOURCE, _compiler(), [(*FLAGS, f"-DGLOROT_BATCH={batch}", code)])


def _loaded(batch: int) -> Library | str:
    with _LOADING:
        return _load(batch)


@functools.cache
def _load(batch: int) -> Library | str:
    """The library for a batch size, built and its functions made known to JAX; or why there is none."""
    capability = str(jax.local_devices()[0].compute_capability).replace(".", "")
    return loaded(functools.partial(build, batch, capability), SOURCE, "CUDA", batch)


def _compiler() -> list[str]:
    """The first nvcc of $NVCC, the path, CUDA's usual folders and the Python packages of JAX for CUDA."""
    asked = shlex.split(os.environ.get("NVCC", ""))
    for command in (asked, ["nvcc"], *([str(path)] for path in _usual_places())):
        if command and shutil.which(command[0]):
            return command
    raise Unavailable("no nvcc: neither $NVCC, nor on the path, nor in $CUDA_HOME or among Python's packages")


def _usual_places() -> Iterator[Path]:
    for folder in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if folder:
            yield Path(folder) / "bin" / "nvcc"
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages.submodule_search_locations or ()) if packages else ():
        yield from sorted(Path(folder).glob("*/bin/nvcc"), reverse=True)


def _target(symbol: str, batch: int) -> str:
    found = _loaded(batch)
    if isinstance(found, str):
        raise Unavailable(found)
    return target(symbol, SOURCE, batch)


forward, backward_update = passes(_target, LARGEST_BATCH)
