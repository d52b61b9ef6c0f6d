"""The parts of the benchmark: each measures one thing and returns what it found in JSON's terms."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax.bench import memory, others
from glorot_jax.bench.engine import Engine, Size, random_bytes, records_a_step
from glorot_jax.bench.start import started
from glorot_jax.bench.turns import Clock, take_turns
from glorot_jax.engine.planning.peaks import Machine

Row = dict[str, Any]
LIGHT = ("weights",)
"""The probe of an engine whose records nobody looks at: soon compiled."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: in which contestants take turns.
        turn: seconds of one.
        sizes: networks compared with all others.
        scaling: one network at several numbers of runs.
        starts: with a full compilation cache; one with an empty one comes before.
        recorded: probes of the sizes' records: the quickstart's.
        presets: of probes.
        clock: of seconds: by the wall or the processor's.
    """

    rounds: int = 7
    turn: float = 0.5
    sizes: tuple[Size, ...] = (Size(784, 1000, 4), Size(784, 128, 48), Size(64, 32, 192))
    scaling: tuple[Size, ...] = tuple(Size(64, 32, 4**k) for k in range(7))
    starts: int = 2
    recorded: str | tuple[str, ...] = "paper"
    presets: tuple[str, ...] = ("light", "paper", "full")
    clock: str = "wall"

    @property
    def seconds(self) -> Clock:
        """The clock."""
        import time

        return time.perf_counter if self.clock == "wall" else time.process_time


QUICK = Settings(
    rounds=3,
    turn=0.15,
    scaling=tuple(Size(64, 32, 16**k) for k in range(4)),
    starts=1,
    presets=("light", "paper"),
)
"""About a minute."""


def sizes(settings: Settings, machine: Machine) -> Iterator[Row]:
    """Yields each network's times in the engine, with and without records, and in all others."""
    for size in settings.sizes:
        engine = Engine(size.sweep(probes=settings.recorded), clock=settings.seconds)
        row = _compared(size, engine, settings, machine, others.TORCH, {"record": engine.record})
        taken, share = row["seconds"], records_a_step() / engine.runs
        taken["recorded"] = [s + share * r for s, r in zip(taken["engine"], taken.pop("record"), strict=True)]
        yield row | {"memory": memory.of(size)}


def scaling(settings: Settings, machine: Machine) -> Iterator[Row]:
    """Yields one network's times at every number of runs: the engine's steps alone, one run in JAX, PyTorch's batch."""
    for size in settings.scaling:
        engine = Engine(size.sweep(probes=LIGHT), clock=settings.seconds)
        yield _compared(size, engine, settings, machine, others.TORCH[:1])


def _compared(
    size: Size,
    engine: Engine,
    settings: Settings,
    machine: Machine,
    ways: Sequence[str],
    beside: dict[str, Callable[[], float]] | None = None,
) -> Row:
    data = random_bytes(size.features)
    contestants = {
        "engine": engine.contestant,
        "sequential": others.sequential(size, data),
    }
    if others.torch_version() is not None:
        made = others.torch_contestants(size, data)
        contestants |= {name: made[name] for name in ways}
    taken = take_turns(contestants, settings.rounds, settings.turn, settings.seconds, beside)
    arithmetic, traffic = machine.seconds(size.flops, size.moved)
    return {
        "network": size.network,
        "runs": size.runs,
        "width": engine.layout.width,
        "devices": engine.layout.devices_used,
        "parameters": size.parameters,
        "flops": size.flops,
        "bytes": size.moved,
        "bounds": {"arithmetic": arithmetic, "bandwidth": traffic},
        "seconds": taken,
    }


def start(settings: Settings, machine: Machine) -> Iterator[Row]:
    """Yields what ``glorot run quickstart`` takes to its first update, with an empty compilation cache, then full."""
    with tempfile.TemporaryDirectory() as folder:
        for cache, times in (("cold", 1), ("warm", settings.starts)):
            found = [started(Path(folder)) for _ in range(times)]
            yield {"cache": cache, **{name: [one[name] for one in found] for name in found[0]}}


def probes(settings: Settings, machine: Machine) -> Iterator[Row]:
    """Yields what a record of each preset takes beside a step: the middle size."""
    size = settings.sizes[len(settings.sizes) // 2]
    for preset in settings.presets:
        engine = Engine(size.sweep(probes=preset), clock=settings.seconds)
        schedules = len(engine.program.setup.probes)
        due = (1 << schedules) - 1
        beside = {"record": lambda e=engine, d=due: e.record(d) / e.runs}
        alone = {"engine": engine.contestant}
        taken = take_turns(alone, max(2, settings.rounds // 2), settings.turn, settings.seconds, beside)
        yield {"preset": preset, "network": size.network, "runs": size.runs, "seconds": taken}


def checkpoint(settings: Settings, machine: Machine) -> Iterator[Row]:
    """Yields what it takes to bring all runs' state to the host, to write it durably and to read it back."""
    from glorot_jax.engine import checkpoint as files

    clock = settings.seconds
    for size in settings.sizes:
        engine = Engine(size.sweep(probes=LIGHT), clock=clock)
        seen: dict[str, list[float]] = {name: [] for name in ("engine", "gather", "save", "restore")}

        def timed(name: str, work: Callable[..., Any], *arguments: Any, seen: Any = seen) -> Any:
            begin = clock()
            made = work(*arguments)
            seen[name].append(clock() - begin)
            return made

        with tempfile.TemporaryDirectory() as folder:
            for number in range(max(2, settings.rounds // 2)):
                seen["engine"].append(engine.steps(64) / (64 * engine.runs))
                state = timed("gather", engine.fleet.gather, engine.state)
                entry = timed("save", files.save, Path(folder), number, state)
                timed("restore", files.restore, Path(folder), entry)
        size_of_state = sum(np.asarray(array).nbytes for array in state.values())
        yield {"network": size.network, "runs": size.runs, "bytes": size_of_state, "seconds": seen}


def data(settings: Settings, machine: Machine) -> Iterator[Row]:
    """Yields what drawing Shapeset in the step adds to held arrays, and what real pictures cost: not part of the
    whole."""
    from glorot_jax import shapeset
    from glorot_jax.bench.pictures import prepared

    with tempfile.TemporaryDirectory() as folder:
        title, described = prepared(Path(folder))
        for size in settings.sizes:
            held = dataclasses.replace(size, features=1024)
            engines = {
                "held_1024": Engine(held.sweep(random_bytes(1024, 9), probes=LIGHT), clock=settings.seconds),
                "drawn_1024": Engine(held.sweep(shapeset(), probes=LIGHT), clock=settings.seconds),
                "held_784": Engine(size.sweep(random_bytes(784), probes=LIGHT), clock=settings.seconds),
                "pictures": Engine(size.sweep(described(placement="device"), probes=LIGHT), clock=settings.seconds),
                "streamed": Engine(size.sweep(described(placement="host"), probes=LIGHT), clock=settings.seconds),
            }
            ways = {name: engine.contestant for name, engine in engines.items()}
            taken = take_turns(ways, settings.rounds, settings.turn, settings.seconds)
            yield {"width": size.width, "runs": size.runs, "pictures": title, "seconds": taken}


SECTIONS: dict[str, Callable[[Settings, Machine], Iterator[Row]]] = {
    "sizes": sizes,
    "scaling": scaling,
    "start": start,
    "probes": probes,
    "checkpoint": checkpoint,
    "data": data,
}
WHOLE = tuple(name for name in SECTIONS if name != "data")
"""What is measured if nothing is named."""
