"""How programs are compiled, how long that takes, and whether the compilation cache had them."""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glorot_jax.engine.least_squares import nonnegative
from glorot_jax.files import cache_folder

if TYPE_CHECKING:
    import jax

SECONDS_PER_OPERATION = 1e-3
"""Of compiling a program whose like this machine never compiled: a core of an AMD EPYC, to a factor of 2."""
_HIT = "/jax/compilation_cache/cache_hits"
_ARCTANGENT = re.compile(r"(chlo|stablehlo)\.(atan2?|asin|acos)\b")
"""What XLA makes an arctangent of."""
_NODES = ("FUSION", "CUBLAS", "CUBLASLT", "CUDNN", "CUSTOM_CALL", "DYNAMIC_SLICE_FUSION")
_CONTROL_NODES = ("CONDITIONAL", "WHILE")
_CUDA_OF_NESTED_LOOPS = 12090
_OPERATION = re.compile(r"^\s*(%\S+ = |stablehlo\.return|func\.call)", re.MULTILINE)


class Compilation(NamedTuple):
    """One program that was made ready to run.

    Attributes:
        program: its name.
        seconds: from Python to machine code.
        cached: whether the machine code was found in the compilation cache.
        operations: of the program before it is optimized.
    """

    program: str
    seconds: float
    cached: bool
    operations: int


def compiled(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Returns a traced function compiled as all training programs are, by the ``options`` of its platform."""
    return lowered.compile(compiler_options=options_of(lowered, platform))


def options_of(lowered: jax.stages.Lowered, platform: str) -> dict[str, bool | int | str] | None:
    """Returns the ``options`` of a traced function, whose operations are counted for ``noted`` in passing."""
    import jax

    text = lowered.as_text()
    _here.operations = operations(text)
    version = jax.local_devices(backend=platform)[0].client.platform_version if platform == "gpu" else ""
    return options(platform, text, version)


def options(
    platform: str, text: str, version: str = "", flags: str | None = None
) -> dict[str, bool | int | str] | None:
    """Returns XLA's options for a program, by the names that they have in XLA_FLAGS; None for its own.

    On a CPU a device is a core: matrix products of one thread, whose sums have one order on every machine. And 16
    numbers at a time, unless the program has an arctangent, which jaxlib 0.10 gets wrong then and crashes.

    On a GPU what the person has set stays. Else:

    - Bits depend on the program alone: no operation whose sums have no fixed order, and no kernel that won a race
      against others on this machine today. A program that scatters what max pooling selected has no such form.
    - A step is launched without the host: kernels, library calls and Pallas' kernels become nodes of a CUDA graph
      however few they are, and so do conditionals and whole loops, whose length, data here, the host would otherwise
      read back before each iteration. What can't be part of a graph keeps the loop around it on the host, its other
      parts in graphs. Loops within loops need CUDA 12.9. To unroll loops or buffer them twice would do nothing, as
      their length is not known.

    Args:
        platform: cpu, gpu or tpu.
        text: of the program before it is optimized.
        version: of the platform, as its client says it.
        flags: what stands for XLA_FLAGS.
    """
    if platform == "cpu":
        wide = {} if _ARCTANGENT.search(text) else {"xla_cpu_prefer_vector_width": 512}
        return {"xla_cpu_multi_thread_eigen": False, **wide}
    if platform != "gpu":
        return None
    cuda = re.search(r"cuda (\d+)", version)
    nodes = [*_NODES, *(_CONTROL_NODES if cuda and int(cuda[1]) >= _CUDA_OF_NESTED_LOOPS else ())]
    chosen: dict[str, bool | int | str] = {
        "xla_gpu_exclude_nondeterministic_ops": "select_and_scatter" not in text,
        "xla_gpu_autotune_level": 0,
        "xla_gpu_enable_command_buffer": ",".join(nodes),
        "xla_gpu_graph_min_graph_size": 1,
    }
    theirs = os.environ.get("XLA_FLAGS", "") if flags is None else flags
    return {name: value for name, value in chosen.items() if name not in theirs}


def operations(text: str) -> int:
    """Returns how many operations a program has that is traced and not yet optimized."""
    return len(_OPERATION.findall(text))


def noted(program: str, make: Callable[[], Any], notes: list[Compilation]) -> Any:
    """Returns what ``make`` returns, a program that it traces and compiles, and adds to ``notes`` what that took."""
    _listen()
    begin, _here.hits, _here.operations = time.perf_counter(), 0, 0
    made = make()
    notes.append(Compilation(program, time.perf_counter() - begin, _here.hits > 0, _here.operations))
    return made


def summary(notes: Sequence[Compilation]) -> dict[str, Any]:
    """Returns in JSON's terms how many programs were made ready, how many of them by the cache, and the seconds.

    A program that several devices load counts once, as it came to the first; its seconds are those of all.
    """
    first: dict[str, Compilation] = {}
    for note in notes:
        first.setdefault(note.program, note)
    return {
        "programs": len(first),
        "from_cache": sum(note.cached for note in first.values()),
        "seconds": round(sum(note.seconds for note in notes), 3),
        "each": [
            {"program": name, "seconds": round(note.seconds, 3), "cached": note.cached} for name, note in first.items()
        ],
    }


def said(made: Mapping[str, Any]) -> str:
    """Returns a summary in words."""
    count, cached = made["programs"], made["from_cache"]
    whence = {0: "none", count: "all"}.get(cached, str(cached))
    told = f"{count} program{'s' * (count > 1)} ready in {made['seconds']:.3g} s, {whence} from the cache"
    return told if count else "nothing to compile"


# ---- what compilations took on this machine


def remember(name: str, note: Compilation) -> None:
    """Keeps what a compilation took under a cohort's name, unless it came from the cache."""
    from glorot_jax.engine.planning.machine import keep

    if not note.cached:
        keep(_folder() / f"{name}.json", {"seconds": note.seconds, "operations": note.operations})


def remembered(name: str) -> float | None:
    """Returns the seconds that compiling for a cohort took, None if nobody knows."""
    found = _read(_folder() / f"{name}.json")
    return None if found is None else found[1]


def expected(operations: int) -> float:
    """Returns the seconds that a program of so many operations will take, judged by all that are remembered."""
    return line([found for path in _folder().glob("*.json") if (found := _read(path))])(operations)


def line(known: Sequence[tuple[int, float]]) -> Callable[[int], float]:
    """Returns seconds as a function of operations: least squares, neither offset nor slope below 0.

    Args:
        known: operations and seconds of programs.
    """
    if not known:
        return lambda operations: SECONDS_PER_OPERATION * operations
    rows = np.array([[1.0 if len(known) > 2 else 0.0, operations] for operations, _ in known])
    offset, slope = nonnegative(rows, np.array([seconds for _, seconds in known]))
    return lambda operations: offset + slope * operations


def _folder() -> Path:
    return cache_folder("compilations")


def _read(path: Path) -> tuple[int, float] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return int(found["operations"]), float(found["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- what JAX tells of its cache

_here = threading.local()


@functools.cache
def _listen() -> None:
    import jax

    def heard(event: str, **_: Any) -> None:  # in the thread that compiles
        if event == _HIT:
            _here.hits = getattr(_here, "hits", 0) + 1

    jax.monitoring.register_event_listener(heard)
