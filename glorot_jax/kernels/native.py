"""Dense layers on a CPU as C++: the library in ``native.cc`` is built on first use where a compiler is at hand.

Runs that are vmapped together are worked on one after the other by the thread that asks: one JAX device per core uses
all of them. The bits of a run depend neither on the runs beside it nor on how many there are.

``GLOROT_NATIVE=0`` switches it off; ``CXX`` names the compiler.
"""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import threading
from pathlib import Path

import jax

from glorot_jax.kernels.library import Library, Unavailable, built, loaded, target
from glorot_jax.kernels.over_runs import passes

SOURCE = Path(__file__).with_name("native.cc")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-w")
PROCESSOR_FLAGS = (("-march=native",), ("-mcpu=native",), ())
"""For this machine's processor, as most compilers say it, as some do for ARM, and for any processor of the kind."""

LEAVES_ALONE = True
"""A run all of whose error is 0 stays as it is, whatever its other arrays hold."""

_LOADING = threading.Lock()


def why_not() -> str | None:
    """Returns why the native form can't be used here, in one line; None if it can. Builds it where it has to be."""
    if os.environ.get("GLOROT_NATIVE") == "0":
        return "switched off by GLOROT_NATIVE=0"
    if jax.default_backend() != "cpu":
        return f"for CPUs only, not {jax.default_backend()}"
    found = _loaded()
    return found if isinstance(found, str) else None


def library() -> Library:
    """Returns what was built and is in use.

    Raises:
        Unavailable: there is none.
    """
    found = _loaded()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def _loaded() -> Library | str:
    with _LOADING:
        return _load()


@functools.cache
def _load() -> Library | str:
    """The library, built and its functions made known to JAX; or why there is none."""

    def build() -> Library:
        return built(SOURCE, _compiler(), [(*FLAGS, *processor) for processor in PROCESSOR_FLAGS], _processor())

    return loaded(build, SOURCE, "cpu")


def _compiler() -> list[str]:
    """The first of CXX, c++, g++ and clang++ that is there, with its arguments if CXX has some."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in (asked, ["c++"], ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command
    raise Unavailable("no C++ compiler: none of $CXX, c++, g++ and clang++ is there")


def _processor() -> list[str]:
    """What a library built for this machine's processor may rely on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.machine(), platform.processor()]
    kinds = ("model name", "flags", "Features", "CPU part")
    return [platform.machine(), *sorted({line for line in lines if line.startswith(kinds)})]


def _target(symbol: str, _: int) -> str:
    library()
    return target(symbol, SOURCE)


forward, backward_update = passes(_target)
