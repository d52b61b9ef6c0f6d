"""Run-steps per second of the engine beside PyTorch, at three sizes; what drawing Shapeset adds; what MNIST costs.

    pip install '.[bench]' && python tests/benchmarks/against_torch.py

Plain SGD on mini-batches of 10, tanh, 5 hidden layers, every run with its own learning rate, batches and seed, data
held on the device. All contestants take turns in one process, round after round; each figure is the median over
rounds, each ratio the median of the rounds' ratios. The engine does all that it does in a sweep: choice of the
activation, learning rate and batch order of each run, watch for divergence, and, where "with records" is said, the
quickstart's records at the quickstart's cadence (11 in 20 000 steps; validation and test error on 20 000 examples
among them). PyTorch records nothing.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from glorot_jax import Sweep, arrays, grid, log_spaced, mlp, mnist, sgd, shapeset, tfds
from glorot_jax.data import pictures
from glorot_jax.data.dataset import build
from glorot_jax.data.originals import ORIGINALS
from glorot_jax.data.tfds import write
from glorot_jax.engine import devices, plan
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.segment import Pieces

BATCH = 10
EXAMPLES = 20_000
QUICKSTART_STEPS = 20_000


@dataclass(frozen=True)
class Size:
    """A network, how many of it, and how many steps of each contestant one round times."""

    features: int
    width: int
    runs: int
    steps: int
    eager_steps: int

    @property
    def label(self) -> str:
        return f"{self.features}-{self.width}×5-10, {self.runs} runs"


SIZES = {
    "a": Size(784, 1000, 4, 40, 40),
    "b": Size(784, 128, 48, 300, 300),
    "c": Size(64, 32, 192, 1000, 400),
}


class Engine:
    """One cohort on its devices, timed as the drive loop calls it, by a clock of seconds."""

    def __init__(self, sweep: Sweep, width: int | None = None, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        (cohort,) = plan.cohorts(sweep.runs())
        used = devices.local()
        self.program, self.layout, _ = plan.program_for(cohort, build(cohort.runs[0].data), used, width)
        self.runs = len(cohort.runs)
        self.fleet = Fleet(self.program, self.layout, plan.per_run(cohort), used)
        self.state = self.fleet.start()
        self.step = 0
        self.steps(8)
        self.record()

    def steps(self, count: int) -> float:
        """Trains all runs for so many steps without a record; returns seconds."""
        first = range(self.step, self.step + count, self.program.piece_steps)
        self.step += count
        return self._call([(f, min(self.program.piece_steps, self.step - f), -1, 0) for f in first])

    def record(self, due: int = 1) -> float:
        """Records all runs once, those schedules' probes that ``due`` names by bits; returns seconds."""
        return self._call([(self.step, 0, 0, due)])

    def _call(self, pieces: list[tuple[int, int, int, int]]) -> float:
        begin = self.clock()
        self.state, _ = self.fleet.train(Pieces.of(pieces), self.state)
        return self.clock() - begin


def sweep(data, width: int, runs: int) -> Sweep:
    """Tanh networks, one in four seeds with each learning rate."""
    return Sweep(
        name="benchmark",
        data=data,
        model=mlp(widths=(width,) * 5),
        optimizer=sgd(learning_rate=grid(*np.geomspace(1e-3, 1e-2, runs // 4).tolist())),
        seeds=range(4),
        batch_size=BATCH,
        steps=QUICKSTART_STEPS,
        record=log_spaced(per_decade=2),
    )


def held(shape: int | tuple[int, ...], classes: int = 10):
    """Random bytes of the wanted size: their content does not matter for speed."""
    chance = np.random.default_rng(0)
    inputs = chance.integers(0, 256, (3 * EXAMPLES // 2 + EXAMPLES // 2, *np.atleast_1d(shape)), np.uint8)
    labels = chance.integers(0, classes, len(inputs))
    return arrays(inputs, labels, validation=EXAMPLES // 2, test=EXAMPLES // 2, name="random bytes")


def torch_contestants(size: Size, data) -> dict[str, Callable[[], float]]:
    """Seconds per run-step of hand-batched and of eager training."""
    import torch

    torch.set_num_threads(devices.cores())
    inputs = torch.from_numpy(data.train[0].astype(np.float32) / 255)
    labels = torch.from_numpy(data.train[1].astype(np.int64))
    sizes = [size.features, *[size.width] * 5, 10]
    rates = torch.linspace(1e-3, 1e-2, size.runs).reshape(-1, 1, 1)
    weights = [((torch.rand(size.runs, i, o) * 2 - 1) / i**0.5).requires_grad_() for i, o in itertools.pairwise(sizes)]
    biases = [torch.zeros(size.runs, 1, o, requires_grad=True) for o in sizes[1:]]
    parameters = [*weights, *biases]

    def batched() -> float:
        begin = time.perf_counter()
        for _ in range(size.steps):
            at = torch.randint(len(inputs), (size.runs, BATCH))
            z = inputs[at]
            for w, b in zip(weights[:-1], biases[:-1], strict=True):
                z = torch.tanh(torch.baddbmm(b, z, w))
            logits = torch.baddbmm(biases[-1], z, weights[-1])
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 10), labels[at].reshape(-1), reduction="sum")
            gradients = torch.autograd.grad(loss / BATCH, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(rates * gradient)
        return (time.perf_counter() - begin) / (size.steps * size.runs)

    layers: list[torch.nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(i, o), torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def eager() -> float:
        begin = time.perf_counter()
        for _ in range(size.eager_steps):
            at = torch.randint(len(inputs), (BATCH,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[at]), labels[at]).backward()
            optimizer.step()
        return (time.perf_counter() - begin) / size.eager_steps

    batched()
    eager()
    return {"batched": batched, "eager": eager}


def compare(size: Size, rounds: int) -> str:
    """One line of the table against PyTorch."""
    data = held(size.features)
    engine = Engine(sweep(data, size.width, size.runs))
    contestants = torch_contestants(size, data)
    share = len(log_spaced(2).steps(QUICKSTART_STEPS)) / QUICKSTART_STEPS
    seen: dict[str, list[float]] = {name: [] for name in ("steps", "recorded", *contestants)}
    for _ in range(rounds):
        step = engine.steps(size.steps) / (size.steps * engine.runs)
        seen["steps"].append(step)
        seen["recorded"].append(step + share * engine.record() / engine.runs)
        for name, contestant in contestants.items():
            seen[name].append(contestant())

    def micro(name: str) -> str:
        return f"{statistics.median(seen[name]) * 1e6:,.3g}"

    def ratio(name: str) -> str:
        return f"**{statistics.median(t / e for t, e in zip(seen[name], seen['recorded'], strict=True)):.2f} ×**"

    cells = (micro("steps"), micro("recorded"), micro("batched"), ratio("batched"), micro("eager"), ratio("eager"))
    return f"| {size.label} | {engine.layout.width} | {' | '.join(cells)} |"


def drawing(size: Size, rounds: int) -> str:
    """One line of the table of what drawing Shapeset costs, against held arrays of the same shape."""
    held_engine = Engine(sweep(held(32 * 32, 9), size.width, size.runs))
    drawn_engine = Engine(sweep(shapeset(), size.width, size.runs))
    pairs = []
    for _ in range(rounds):
        pairs.append([e.steps(size.steps) / (size.steps * e.runs) for e in (held_engine, drawn_engine)])
    one, other = (statistics.median(p[i] for p in pairs) * 1e6 for i in (0, 1))
    added = statistics.median(d / h for h, d in pairs) - 1
    return f"| 1024-{size.width}×5-9, {size.runs} runs of 4 seeds | {one:,.3g} | {other:,.3g} | {added:+.0%} |"


def real_or_made_up(folder: Path) -> tuple[str, Callable[..., Any]]:
    """MNIST prepared in a folder: the real one if ``$GLOROT_TEST_DATA`` has it, see .ci/run, else as many random bytes.

    Returns its name, and what describes it for a ``placement``.
    """
    source = Path(os.environ.get("GLOROT_TEST_DATA", "")) / "mnist"
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    where = {"data_dir": str(folder / "data")}
    if "GLOROT_TEST_DATA" in os.environ and source.is_dir():
        pictures.prepare("mnist", source, where["data_dir"])
        return "MNIST", functools.partial(mnist, **where)
    chance = np.random.default_rng(0)
    splits = {
        split: (chance.integers(0, 256, (count, 28, 28, 1), np.uint8), chance.integers(0, 10, count, np.uint8))
        for split, count in ORIGINALS["mnist"].sizes.items()
    }
    write(ORIGINALS["mnist"], splits, where["data_dir"])
    return "random bytes like MNIST", functools.partial(tfds, "mnist", **where)


def pictured(size: Size, rounds: int, described: Callable[..., Any]) -> str:
    """One line of the table of what real pictures cost, against arrays of Shapeset's shape and of the pictures'."""
    engines = {
        "shapeset": Engine(sweep(held(32 * 32, 9), size.width, size.runs)),
        "arrays": Engine(sweep(held(28 * 28), size.width, size.runs)),
        "device": Engine(sweep(described(placement="device"), size.width, size.runs)),
        "host": Engine(sweep(described(placement="host"), size.width, size.runs)),
    }
    seen: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            seen[name].append(engine.steps(size.steps) / (size.steps * engine.runs))

    def more(name: str, than: str) -> str:
        return f"{statistics.median(a / b for a, b in zip(seen[name], seen[than], strict=True)) - 1:+.0%}"

    cells = [f"{statistics.median(times) * 1e6:,.3g}" for times in seen.values()]
    ratios = [more("device", "shapeset"), more("device", "arrays"), more("host", "device")]
    return f"| {size.width}×5-10, {size.runs} runs of 4 seeds | {' | '.join(cells + ratios)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="abc")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-torch", action="store_true", help="only what drawing and pictures cost")
    asked = parser.parse_args()
    devices.configure()
    print(
        f"{devices.describe()['processor']}, {devices.cores()} cores, {platform.system()}, jax {jax.__version__}",
        end="",
    )
    if not asked.no_torch:
        import torch

        print(f", PyTorch {torch.__version__}")
        print("\nMicroseconds per run-step, and how many times faster the engine is, records included:\n")
        print("| network | width | engine, steps alone | engine with records | hand-batched | | eager | |")
        print("|:--|--:|--:|--:|--:|--:|--:|--:|")
        for name in asked.sizes:
            print(compare(SIZES[name], asked.rounds), flush=True)
    print("\n\nMicroseconds per run-step with the same examples held as arrays and drawn inside the step:\n")
    print("| network | held | drawn | drawing adds |")
    print("|:--|--:|--:|--:|")
    for name in asked.sizes:
        print(drawing(SIZES[name], asked.rounds), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        title, described = real_or_made_up(Path(folder))
        print(f"\n\nMicroseconds per run-step with arrays and with {title}:\n")
        print("| network | Shapeset's shape | MNIST's shape | MNIST | from the host | on the 1st | on the 2nd | host |")
        print("|:--|--:|--:|--:|--:|--:|--:|--:|")
        for name in asked.sizes:
            print(pictured(SIZES[name], asked.rounds, described), flush=True)


if __name__ == "__main__":
    main()
