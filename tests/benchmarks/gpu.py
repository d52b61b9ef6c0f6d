"""Everything that is to be measured on one GPU, in eight minutes.

    python tests/benchmarks/gpu.py                  # writes tests/benchmarks/results/gpu.json, .md, .png and .csv
    python tests/benchmarks/gpu.py --tiny --out DIR   # the same parts in small, wherever there is no GPU

Each part is a process of its own, in this order, and its numbers are written when it ends: one that fails, or for which
no time is left, loses nothing of the others. What the parts say:

- ``kernels``: a dense layer's passes by XLA and by Pallas with several tiles, in each precision: time, GB/s of weights
  alone, and how far off each result is from float64.
- ``step``: a run-step of 784-1000×5-10 at 64 runs by each form of the update and precision, against the time that four
  weight passes (77 MB) take at the measured copy bandwidth.
- ``scaling``: a run-step of the same network from 16 to 512 runs.
- ``lost``: a step of the same network with some of its 64 runs lost, which make no updates any more.
- ``torch``: 784-128×5-10 at 1024 runs beside PyTorch's ways, where that is installed.
- ``graphs``: a small network's step as CUDA graphs, as XLA's defaults have it, and with autotuning.
- ``bits``, twice: a digest of what training makes of the weights, compiled anew; both have to be the same.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from glorot_jax.bench import figure, others
from glorot_jax.bench.engine import BATCH, Engine, Size, random_bytes
from glorot_jax.bench.turns import Contestant, take_turns
from glorot_jax.engine import devices
from glorot_jax.engine.planning.peaks import machine
from glorot_jax.kernels import GENERAL, KERNELS, dense, pallas
from glorot_jax.models.precision import products_in

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
RESULTS = Path(__file__).parent / "results"


class Scale(NamedTuple):
    """How large everything is.

    Attributes:
        layers: fan-in, fan-out and runs of the layers that kernels are measured on.
        step, torch, graphs, bits: networks.
        runs: of the network of ``step``, rising.
        rounds, turn: how often and how many seconds each contestant is measured.
        forms: kernels of an update that the step is measured with, where they can be had.
    """

    layers: tuple[tuple[int, int, int], ...]
    step: Size
    torch: Size
    graphs: Size
    bits: Size
    runs: tuple[int, ...]
    rounds: int
    turn: float
    forms: tuple[str, ...] = (GENERAL, *KERNELS)


FULL = Scale(
    layers=((1000, 1000, 64), (1000, 10, 64), (128, 128, 1024)),
    step=Size(784, 1000, 64),
    torch=Size(784, 128, 1024),
    graphs=Size(64, 32, 64),
    bits=Size(784, 128, 16),
    runs=(16, 64, 256, 512),
    rounds=5,
    turn=0.3,
)
TINY = Scale(
    layers=((20, 40, 2),),
    step=Size(6, 8, 4),
    torch=Size(6, 8, 8),
    graphs=Size(6, 8, 4),
    bits=Size(6, 8, 4),
    runs=(4, 8),
    rounds=2,
    turn=0.005,
    forms=(GENERAL, "xla"),
)


# ---- parts


def kernels(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one pass of one layer each: kernel, precision, tiles, seconds, GB/s, error."""
    import jax

    rows = []
    for fan_in, fan_out, runs in scale.layers:
        draw = np.random.default_rng(0)
        shapes = (BATCH, fan_in), (BATCH, fan_out), (fan_in, fan_out), (fan_out,)
        arrays = [draw.normal(size=(runs, *shape)).astype(np.float32) for shape in shapes]
        exact = _exact(*(a[0].astype(np.float64) for a in arrays))
        for precision in PRECISIONS if (fan_in, fan_out) == scale.layers[0][:2] else PRECISIONS[:1]:
            for name, tiles, ahead, back in _ways(fan_in, fan_out, precision):
                row = {"layer": f"{fan_in}×{fan_out}", "runs": runs, "precision": precision, "kernel": name}
                row |= {"tiles": None if tiles is None else list(tiles)}
                with products_in(precision):
                    try:
                        rows += [row | measured for measured in _passes(ahead, back, arrays, exact, scale)]
                    except jax.errors.JaxRuntimeError as error:
                        rows.append(row | {"failed": str(error).partition("\n")[0][:300]})
    return rows


def _ways(fan_in: int, fan_out: int, precision: str) -> Iterator[tuple[str, Any, Callable, Callable]]:
    """XLA, and Pallas by its rule's tiles and by others."""
    for name in ("xla", "cuda"):
        if dense.why_not(name, precision) is None:
            kernel = dense.kernel(name)
            yield name, None, kernel.forward, functools.partial(kernel.backward_update, input_error=True)
    rule = pallas.tiles(BATCH, fan_in, fan_out, precision)
    interpret = pallas.why_not() is not None
    others_too = not interpret and (fan_in, fan_out) == (1000, 1000) and precision != "float32"
    tried = [(32, 64), (64, 128), (32, 256)] if others_too else []
    for rows, columns in dict.fromkeys([(rule.rows, rule.columns), *tried]):
        tiles = rule._replace(rows=rows, columns=columns)
        options = {"sizes": tiles, "interpret": interpret}
        yield (
            "pallas",
            tiles,
            functools.partial(pallas.forward_by_tiles, **options),
            functools.partial(pallas.backward_update_by_tiles, input_error=True, **options),
        )


def _exact(z: np.ndarray, error: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    return z @ w + b, error @ w.T, w + z.T @ error


def _passes(ahead: Callable, back: Callable, arrays: list, exact: tuple, scale: Scale) -> list[dict[str, Any]]:
    import jax

    z, error, w, b = (jax.device_put(a) for a in arrays)
    first = jax.jit(lambda *a: (ahead(a[0], *a[2:]), *back(*a)[:2]))(*(a[0] for a in (z, error, w, b)))
    off = [float(np.abs(np.asarray(f) - e).max() / np.abs(e).max()) for f, e in zip(first, exact, strict=True)]

    def forth(_, held):  # another z each time: nothing can be done once for all
        z, w, b = held
        return z.at[:, 0, 0].set(jax.vmap(ahead)(z, w, b)[:, 0, 0]), w, b

    def there(_, held):
        return jax.vmap(back)(held[0], error, *held[1:])

    rows = []
    for name, once, passes, errors in (("forward", forth, 1, off[:1]), ("backward and update", there, 2, off[1:])):
        loop = jax.jit(lambda count, *held, once=once: jax.lax.fori_loop(0, count, once, held))
        steps = lambda count, loop=loop: jax.block_until_ready(loop(count, z, w, b))  # noqa: E731
        seconds = statistics.median(take_turns({"it": Contestant(steps, 1)}, scale.rounds, scale.turn / 6)["it"])
        rows.append({"pass": name, "seconds": seconds, "gb_s": passes * w.nbytes / seconds / 1e9, "off": max(errors)})
    return rows


def step(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one form and precision each: seconds of a run-step, and what of the bandwidth bound that is."""
    found = machine(("jax",))
    bound = scale.step.moved / found.bandwidth
    rows = []
    for kernel in scale.forms:
        for precision in PRECISIONS:
            row = {"kernel": kernel, "precision": precision, "network": scale.step.network, "runs": scale.step.runs}
            if kernel == GENERAL and precision != "float32":
                continue
            if kernel != GENERAL and (missing := dense.why_not(kernel, precision)) is not None:
                rows.append(row | {"failed": missing})
                continue
            seconds = _engine(scale.step, scale, kernel=kernel, precision=precision)
            rows.append(row | {"seconds": seconds, "bound": bound, "share": bound / seconds, "copy": found.bandwidth})
    return rows


def _engine(size: Size, scale: Scale, kernel: str | None = None, **changes: Any) -> float:
    """Seconds of a run-step, all runs in one block."""
    one = Engine(size.sweep(probes=("evaluation",), **changes), width=size.runs, kernel=kernel)
    contestant = Contestant(one.steps, one.runs)
    return statistics.median(take_turns({"engine": contestant}, scale.rounds, scale.turn)["engine"])


def scaling(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one number of runs each, as ``bench.figure`` draws them."""
    found = machine(("jax",))
    rows = []
    for runs in scale.runs:
        size = dataclasses.replace(scale.step, runs=runs)
        one = Engine(size.sweep(probes=("evaluation",)), width=runs, kernel=_quickest(scale))
        seconds = take_turns({"engine": Contestant(one.steps, runs)}, scale.rounds, scale.turn)
        bounds = {"bandwidth": size.moved / found.bandwidth, "arithmetic": size.flops / found.flops}
        rows.append({"network": size.network, "runs": runs, "devices": 1, "seconds": seconds, "bounds": bounds})
    return rows


def lost(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one number of lost runs each: seconds of a step of all runs, and as a share of one without any."""
    runs = scale.step.runs
    one = Engine(scale.step.sweep(probes=("evaluation",)), width=runs, kernel=_quickest(scale))
    begin, rows = one.fleet.gather(one.state), []
    for gone in (0, runs // 2, runs - runs // 8):
        marks = {
            name: np.where(np.arange(runs) < gone, 0, begin[name]) for name in ("diverged_step", "first_nonfinite")
        }
        one.state = one.fleet.place(begin | marks, np.arange(runs))
        times = take_turns({"engine": Contestant(one.steps, 1)}, scale.rounds, scale.turn)["engine"]
        rows.append({"lost": gone, "of": runs, "seconds": statistics.median(times)})
    return [row | {"share": row["seconds"] / rows[0]["seconds"]} for row in rows]


def torch(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one contestant each: seconds of a run-step, and how many times the engine's."""
    size = scale.torch
    one = Engine(size.sweep(probes=("evaluation",)), width=size.runs, kernel=_quickest(scale))
    contestants = {"engine": Contestant(one.steps, size.runs)}
    version = others.torch_version()
    if version is None:
        return [{"failed": "PyTorch is not installed"}]
    contestants |= others.torch_contestants(size, random_bytes(size.features))
    seconds = take_turns(contestants, scale.rounds, scale.turn)
    own = statistics.median(seconds["engine"])
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    return [{"contestant": n, "seconds": t, "times": t / own, "torch": version} for n, t in middle.items()]


def graphs(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one set of options each: seconds of a run-step."""
    graph = "--xla_gpu_enable_command_buffer=… --xla_gpu_graph_min_graph_size=…"
    sets = {"as they are": "", "XLA's own graphs": graph, "autotuned": "--xla_gpu_autotune_level=…"}
    rows = []
    for name, left in sets.items():
        with _left_to_xla(left):
            rows.append({"options": name, "seconds": _engine(scale.graphs, scale, kernel=_quickest(scale))})
    return rows


@contextlib.contextmanager
def _left_to_xla(names: str) -> Iterator[None]:
    """Keeps our options of these names from being set, as if the person had; XLA itself reads its flags only once."""
    devices.local()  # now
    with mock.patch.dict(os.environ, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {names}".strip()}):
        yield


def bits(scale: Scale) -> list[dict[str, Any]]:
    """One row: a digest of all weights after some steps."""
    one = Engine(scale.bits.sweep(probes=("evaluation",)), width=scale.bits.runs, kernel=_quickest(scale))
    one.steps(100)
    digest = hashlib.sha256()
    for _, array in sorted(one.fleet.gather(one.state).items()):
        digest.update(array.tobytes())
    return [{"digest": digest.hexdigest()[:16]}]


def profile(scale: Scale) -> list[dict[str, Any]]:
    """Rows of one kernel of the GPU each: its seconds in a step, its share of a step's time, and its launches.

    Steps are a loop within a CUDA graph, whose kernels a trace shows for one pass only: that of one step.
    """
    import jax

    one = Engine(scale.step.sweep(probes=("evaluation",)), width=scale.step.runs, kernel=_quickest(scale))
    count = 20
    one.steps(count)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            step = one.steps(count) / count
        (path,) = Path(folder).rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))
    events = events["traceEvents"] if isinstance(events, dict) else events
    named = [e for e in events if e.get("name") == "thread_name"]
    streams = {(e["pid"], e["tid"]) for e in named if "Stream" in e["args"]["name"]}
    spent: dict[str, list[float]] = {}
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            spent.setdefault(event["name"], []).append(event["dur"] / 1e6)
    total = sum(map(sum, spent.values()))
    rows = [{"kernel": "all", "seconds": total, "share": total / step, "launches": sum(map(len, spent.values()))}]
    for name, each in sorted(spent.items(), key=lambda item: -sum(item[1]))[:25]:
        rows.append({"kernel": name, "seconds": sum(each), "share": sum(each) / step, "launches": len(each)})
    return rows


def _quickest(scale: Scale) -> str:
    """The kernel that is thought to be."""
    return next((name for name in ("cuda", "pallas") if name in scale.forms and dense.why_not(name) is None), "xla")


PARTS = {part.__name__: part for part in (kernels, step, lost, scaling, torch, graphs, profile, bits)}
ORDER = ("step", "profile", "lost", "kernels", "torch", "scaling", "graphs", "bits", "bits")


# ---- all of them


def run_all(out: Path, minutes: float, *, tiny: bool) -> dict[str, Any]:
    """Returns the rows of every part by its name, those of a part's second time apart; written after each."""
    out.mkdir(parents=True, exist_ok=True)
    begin, found = time.monotonic(), {"machine": _machine(), "parts": {}}
    for part in ORDER:
        name = f"{part} again" if part in found["parts"] else part
        left = 60 * minutes - (time.monotonic() - begin)
        found["parts"][name] = _apart(part, left, tiny=tiny)
        (out / "gpu.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (out / "gpu.md").write_text(markdown(found), encoding="utf-8")
    rows = [row for row in found["parts"]["scaling"] if "failed" not in row]
    if rows:
        figure.draw(rows, out / "gpu.png")
        with (out / "gpu.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("runs", "seconds_per_run_step", "bandwidth_bound", "arithmetic_bound"))
            for row in rows:
                middle = statistics.median(row["seconds"]["engine"])
                table.writerow((row["runs"], middle, row["bounds"]["bandwidth"], row["bounds"]["arithmetic"]))
    return found


def _apart(part: str, seconds: float, *, tiny: bool) -> list[dict[str, Any]]:
    """A part's rows, made by a process of its own; one row that says why not if it has none."""
    if seconds < 5:
        return [{"failed": "no time was left"}]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--part", part, "--rows", str(rows), *(["--tiny"] if tiny else [])]
        own = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"} if part == "bits" else None
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=own)
        except subprocess.TimeoutExpired:
            return [{"failed": f"not done within {seconds:.0f} s"}]
        if done.returncode:
            return [{"failed": f"exit {done.returncode}: {' '.join(done.stderr.split())[-500:]}"}]
        return json.loads(rows.read_text(encoding="utf-8"))


def _machine() -> dict[str, Any]:
    """What is known without touching the GPU, which the parts have for themselves."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,memory.total", "--format=csv,noheader"]
        return {"gpu": subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.strip()}
    return {"gpu": "none"}


def markdown(found: Mapping[str, Any]) -> str:
    """Returns the tables of all parts."""
    lines = [f"Measured by `python tests/benchmarks/gpu.py`; GPU: {found['machine']['gpu']}."]
    for name, rows in found["parts"].items():
        lines += ["", f"## {name}", ""]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
        lines += [f"| {' | '.join(_cell(key, row.get(key)) for key in columns)} |" for row in rows]
    again = [found["parts"].get(name) for name in ("bits", "bits again")]
    if all(again):
        lines += ["", f"Bits of two processes: {'the same' if again[0] == again[1] else 'DIFFERENT'}."]
    return "\n".join(lines) + "\n"


def _cell(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(key, v)}" for k, v in value.items())
    if isinstance(value, list) and value and isinstance(value[0], float):
        value = statistics.median(value)
    if key in ("seconds", "bound", "bounds") and isinstance(value, float):
        return f"{value * 1e6:.3g} µs"
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--tiny", action="store_true", help="everything small, for where there is no GPU")
    parser.add_argument("--part", choices=PARTS, help="one alone, in this process")
    parser.add_argument("--rows", type=Path, help="where that one's rows are written")
    asked = parser.parse_args()
    if asked.part is None:
        print(markdown(run_all(asked.out, asked.minutes, tiny=asked.tiny)))
        return
    devices.configure()
    rows = PARTS[asked.part](TINY if asked.tiny else FULL)
    text = json.dumps(rows)
    print(text) if asked.rows is None else asked.rows.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
