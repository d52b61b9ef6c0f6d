"""Dense layers on a CPU as C++: the library in ``native.cc`` is built on first use where a compiler is at hand.

Runs that are vmapped together are worked on one after the other by the thread that asks: one JAX device per core uses
all of them. The bits of a run depend neither on the runs beside it nor on how many there are.

``GLOROT_NATIVE=0`` switches it off; ``CXX`` names the compiler.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from glorot_jax.errors import ResumableError
from glorot_jax.files import cache_folder, write

SOURCE = Path(__file__).with_name("native.cc")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-w")
PROCESSOR_FLAGS = (("-march=native",), ("-mcpu=native",), ())
"""For this machine's processor, as most compilers say it, as some do for ARM, and for any processor of the kind."""

LEAVES_ALONE = True
"""A run all of whose error is 0 stays as it is, whatever its other arrays hold."""

_SYMBOLS = ("GlorotForward", "GlorotBackwardUpdate", "GlorotUpdate")
_LOADING = threading.Lock()


class Library(NamedTuple):
    """What was built: the file, by which compiler, and the seconds it took, 0 where it was there already."""

    path: Path
    compiler: str
    seconds: float


class Unavailable(Exception):
    """Why there is no native form, in one line."""


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


def forward(
    z: Float[Array, "batch fan_in"], w: Float[Array, "fan_in fan_out"], b: Float[Array, "fan_out"]
) -> Float[Array, "batch fan_out"]:
    """Returns s = z W + b, each element summed in order, in float32.

    Raises:
        Unavailable: ``why_not`` says why.
    """
    return _forward(z, w, b)[0]


def backward_update(
    z: Float[Array, "batch fan_in"],
    error: Float[Array, "batch fan_out"],
    w: Float[Array, "fan_in fan_out"],
    b: Float[Array, "fan_out"],
    *,
    input_error: bool,
) -> tuple[Float[Array, "batch fan_in"] | None, Float[Array, "fan_in fan_out"], Float[Array, "fan_out"]]:
    """Returns error Wᵀ if ``input_error``, W + zᵀ error and b + Σ error, in one pass over W, which is updated in place.

    Args:
        error: −ε ∂C/∂s.
        input_error: whether −ε ∂C/∂z is asked for; None stands for it where not.

    Raises:
        Unavailable: ``why_not`` says why.
    """
    if input_error:
        return _backward_update(z, error, w, b)
    return (None, *_update(z, error, w, b))


def _loaded() -> Library | str:
    with _LOADING:
        return _load()


@functools.cache
def _load() -> Library | str:
    """The library, built and its functions made known to JAX; or why there is none."""
    try:
        built = _build()
        loaded = ctypes.CDLL(str(built.path))
    except Unavailable as error:
        return str(error)
    except OSError as error:
        return f"the library can't be loaded: {_one_line(str(error))}"
    for symbol in _SYMBOLS:
        jax.ffi.register_ffi_target(_target(symbol), jax.ffi.pycapsule(getattr(loaded, symbol)), platform="cpu")
    return built


def _build() -> Library:
    compiler = _compiler()
    version = _output([*compiler, "--version"])
    name = version.partition("\n")[0]
    asked = (SOURCE.read_text(encoding="utf-8"), *compiler, version, *FLAGS, str(PROCESSOR_FLAGS), jaxlib.__version__)
    digest = hashlib.sha256("\0".join((*asked, *_processor())).encode()).hexdigest()[:16]
    path = cache_folder("native") / f"{digest}.so"
    if path.exists():
        return Library(path, name, 0.0)
    begin = time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(path, functools.partial(_compile, compiler))  # renamed when whole: others may be building the same
    except (OSError, ResumableError) as error:
        raise Unavailable(f"the library can't be kept: {_one_line(str(error))}") from None
    return Library(path, name, time.perf_counter() - begin)


def _compiler() -> list[str]:
    """The first of CXX, c++, g++ and clang++ that is there, with its arguments if CXX has some."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in (asked, ["c++"], ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command
    raise Unavailable("no C++ compiler: none of $CXX, c++, g++ and clang++ is there")


def _compile(compiler: Sequence[str], path: Path) -> None:
    reason = ""
    for processor in PROCESSOR_FLAGS:
        command = [*compiler, *FLAGS, *processor, "-isystem", jax.ffi.include_dir(), str(SOURCE), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode == 0:
            return
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        reason = reason or _one_line((errors or done.stderr.splitlines() or [f"exit {done.returncode}"])[0])
    raise Unavailable(f"{compiler[0]} can't compile {SOURCE.name}: {reason}")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} fails: {_one_line(done.stderr) or f'exit {done.returncode}'}")
    return done.stdout


def _processor() -> list[str]:
    """What a library built for this machine's processor may rely on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.machine(), platform.processor()]
    kinds = ("model name", "flags", "Features", "CPU part")
    return [platform.machine(), *sorted({line for line in lines if line.startswith(kinds)})]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


@functools.cache
def _target(symbol: str) -> str:
    """Named after the source too: a compiled program that was kept never meets another library than its own."""
    return f"{symbol}_{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _forward_of_runs(z: Array, w: Array, b: Array) -> tuple[Array]:
    runs = max(len(z), len(w), len(b))
    return (_call("GlorotForward", _float32(runs, z.shape[1], w.shape[2]), z, w, b),)


def _backward_update_of_runs(z: Array, error: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
    results = (_float32(len(w), *z.shape[1:]), _float32(*w.shape), _float32(*b.shape))
    return tuple(_call("GlorotBackwardUpdate", results, z, error, w, b, aliases={2: 1, 3: 2}))


def _update_of_runs(z: Array, error: Array, w: Array, b: Array) -> tuple[Array, Array]:
    results = (_float32(*w.shape), _float32(*b.shape))
    return tuple(_call("GlorotUpdate", results, z, error, w, b, aliases={2: 0, 3: 1}))


def _call(symbol: str, results: object, *arrays: Array, aliases: dict[int, int] | None = None):
    library()
    return jax.ffi.ffi_call(_target(symbol), results, input_output_aliases=aliases)(*arrays)


def _of_one_run(of_runs: Callable, updated: int) -> Callable:
    """Makes a function of one run from one of arrays [runs or 1, …], right under any nest of vmaps.

    Args:
        of_runs: what all runs share has 1 in place of runs; returns a tuple of arrays [runs, …].
        updated: so many arguments, the last, are updated in place: runs never share them.
    """

    @custom_vmap
    def runs(*arrays):
        return of_runs(*arrays)

    @runs.def_vmap
    def _(size, batched, *arrays):
        within = max(a.shape[1 if along else 0] for a, along in zip(arrays, batched, strict=True))
        merged = []
        for place, (a, along) in enumerate(zip(arrays, batched, strict=True)):
            shared = not along and len(a) == 1 and place < len(arrays) - updated
            merged.append(a if shared else _merged(a if along else a[None], size, within))
        results = runs(*merged)
        return tuple(r.reshape(size, within, *r.shape[1:]) for r in results), (True,) * len(results)

    @custom_vmap
    def run(*arrays):
        return tuple(r[0] for r in runs(*(a[None] for a in arrays)))

    @run.def_vmap
    def _(size, batched, *arrays):
        each = [a if along else a[None] for a, along in zip(arrays, batched, strict=True)]
        for place in range(len(each) - updated, len(each)):
            each[place] = jnp.broadcast_to(each[place], (size, *each[place].shape[1:]))
        results = runs(*each)
        return results, (True,) * len(results)

    return run


def _merged(array: Array, outer: int, inner: int) -> Array:
    """[outer or 1, inner or 1, …] as [outer · inner, …]."""
    rest = array.shape[2:]
    return jnp.broadcast_to(array, (outer, inner, *rest)).reshape(outer * inner, *rest)


_forward = _of_one_run(_forward_of_runs, updated=0)
_backward_update = _of_one_run(_backward_update_of_runs, updated=2)
_update = _of_one_run(_update_of_runs, updated=2)
