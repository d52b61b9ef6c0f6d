"""What probes cost: singular values exactly and by Lanczos, presets as a share of training, each probe by itself.

    python tests/benchmarks/probes.py

All contestants take turns in one process, round after round; each figure is the median over rounds, each ratio or
share the median of the rounds' own. Devices are those of a sweep: one thread each.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from glorot_jax import initializers, probe, shapeset, spectra
from glorot_jax.bench.engine import Engine, Size
from glorot_jax.config import names_in
from glorot_jax.engine import devices
from glorot_jax.probes.jacobians import STEPS, VECTORS
from glorot_jax.specs import at

SIDE = 1000


def spectrum(rounds: int) -> list[str]:
    """Mean singular value of the paper's hidden layer: exact, and estimated with the probes' vectors and steps."""
    options = {"xla_cpu_multi_thread_eigen": False} if jax.default_backend() == "cpu" else None

    def estimated(matrix):
        frobenius = jnp.sqrt(jnp.sum(matrix * matrix))
        products = (lambda v: matrix @ v), (lambda u: u @ matrix)
        shape, key = (SIDE, SIDE), jax.random.key(1)
        return spectra.lanczos_mean_singular_value(
            *products, shape, key, vectors=VECTORS, steps=STEPS, frobenius=frobenius
        ).value

    lines = ["| initialization | exact | Lanczos | off by | exact, ms | Lanczos, ms | share |", "|:--|" + "--:|" * 6]
    for name in ("normalized", "standard"):
        matrix = getattr(initializers, name)(jax.random.key(0), (SIDE, SIDE))
        methods = [jax.jit(f, compiler_options=options) for f in (spectra.mean_singular_value, estimated)]
        exact, lanczos = (float(f(matrix)) for f in methods)
        pairs = [[_seconds(lambda f=f, m=matrix: f(m)) for f in methods] for _ in range(rounds)]
        one, other = (statistics.median(p[i] for p in pairs) * 1e3 for i in (0, 1))
        share = statistics.median(b / a for a, b in pairs)
        cells = (
            f"{exact:.4f}",
            f"{lanczos:.4f}",
            f"{lanczos / exact - 1:+.2%}",
            f"{one:.3g}",
            f"{other:.3g}",
            f"{share:.3f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _seconds(work: Callable) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begin


def share(preset: str, width: int, runs: int, steps: int, every: int, rounds: int) -> str:
    """One line: a record of a preset beside the steps between two of them."""
    engine = Engine(Size(1024, width, runs).sweep(shapeset(), probes=preset))
    pairs = [(engine.steps(steps) / steps * every, engine.record()) for _ in range(rounds)]
    step, record = (statistics.median(p[i] for p in pairs) / runs for i in (0, 1))
    part = statistics.median(r / (s + r) for s, r in pairs)
    cells = (f"{step / every * 1e6:,.3g}", f"{record * 1e3:,.3g}", f"{every:,}", f"**{part:.1%}**")
    return f"| {preset} | 1024-{width}×5-9, {runs} runs | {' | '.join(cells)} |"


def each(width: int, runs: int, rounds: int) -> list[str]:
    """One line a probe: they share one program, each has a schedule of its own."""
    names = names_in("probes/__init__")
    alone = tuple(probe(name, at(step)) for step, name in enumerate(names, start=1))
    engine = Engine(Size(1024, width, runs).sweep(shapeset(), probes=alone))
    seen = {name: [] for name in names}
    for _ in range(rounds):
        for bit, name in enumerate(names, start=1):
            seen[name].append(engine.record(1 << bit) / runs)
    return [f"| {name} | {statistics.median(times) * 1e3:,.3g} |" for name, times in seen.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", default="spectrum,light,paper,each")
    asked = parser.parse_args()
    devices.configure()
    about = devices.describe()
    print(f"{about['processor']}, {about['cores']} cores, {platform.system()}, jax {jax.__version__}")
    parts = asked.parts.split(",")
    if "spectrum" in parts:
        print(f"\nMean singular value of a {SIDE}×{SIDE} matrix:\n")
        print(*spectrum(asked.rounds), sep="\n", flush=True)
    if {"light", "paper"} & set(parts):
        print("\nA record of a preset as a share of training, steps and records together:\n")
        print("| preset | network | µs a run-step | ms a record and run | steps between | share |")
        print("|:--|:--|" + "--:|" * 4)
    if "light" in parts:
        print(share("light", 128, 48, 200, 100, asked.rounds), flush=True)
    if "paper" in parts:
        print(share("paper", 1000, 4, 40, 20_000, asked.rounds), flush=True)
    if "each" in parts:
        print("\nMilliseconds per record and run of each probe by itself, 1024-128×5-9, 16 runs:\n")
        print("| probe | ms |\n|:--|--:|")
        print(*each(128, 16, max(3, asked.rounds // 2)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
