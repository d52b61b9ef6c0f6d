"""What probes cost: measured on this machine, forecast for a whole run, and kept within a budget."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glorot_jax.config import plain
from glorot_jax.engine import compiling
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning.machine import digest, keep
from glorot_jax.files import cache_folder

if TYPE_CHECKING:
    import jax
    import numpy as np

    from glorot_jax.engine.fleet import Fleet
    from glorot_jax.engine.planning.plan import Cohort
    from glorot_jax.engine.segment import Program
    from glorot_jax.engine.sweep import Run
    from glorot_jax.probes.probe import Probe

BLOCKS = 2
"""Blocks that each device measures on."""
ENOUGH = 0.1
"""Seconds that one measurement takes at least."""
STEPS = 64
"""Updates that are timed in one go, at most."""
TRAINING_LOSS = "training loss"
"""What every record holds; its cost is that of a record without any probe."""


@dataclass(frozen=True)
class Cost:
    """Measured seconds of a block of runs on one device while all devices are busy.

    Attributes:
        step: an update.
        record: a record without any probe: the next update's batch and the training loss.
        schedules: what the probes of each schedule add to it, all together.
        alone: what each probe takes by itself, by its name. Those of a schedule share passes, so that together they
            take less.
        temporary_bytes: what each needs by itself beside parameters and data, as the compiler says; None where it
            doesn't.
        seconds: what it took to find all this, compilation included.
        pretraining: an update of each hidden layer in pre-training; none without.
        compilation: of the training program, as ``compiling.summary`` says it.
    """

    step: float
    record: float
    schedules: tuple[float, ...]
    alone: tuple[Mapping[str, float], ...]
    temporary_bytes: Mapping[str, int | None]
    seconds: float
    pretraining: tuple[float, ...] = ()
    compilation: Mapping[str, Any] | None = None

    @property
    def probes(self) -> tuple[dict[str, float], ...]:
        """What probes add to a record, by schedule and name: parts of ``schedules`` in proportion to ``alone``."""
        return tuple(
            {name: together * taken / max(sum(alone.values()), 1e-12) for name, taken in alone.items()}
            for together, alone in zip(self.schedules, self.alone, strict=True)
        )


class Line(NamedTuple):
    """What one probe takes in all of a run: its records, and seconds of a block."""

    name: str
    records: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What the updates and the probes of a run will take, in seconds of a block; ``pretraining`` is those below 0."""

    steps: float
    lines: tuple[Line, ...]
    pretraining: float = 0.0

    @property
    def records(self) -> float:
        return sum(line.seconds for line in self.lines)

    @property
    def seconds(self) -> float:
        return self.pretraining + self.steps + self.records

    @property
    def share(self) -> float:
        """The probes' part of all the time."""
        return self.records / max(self.seconds, 1e-12)


def forecast(cost: Cost, run: Run, keep_every: int) -> Forecast:
    """Returns what a run takes if every so many-th of its schedules' steps is kept; the training loss comes first."""
    due = run.due(keep_every).values()
    lines = [Line(TRAINING_LOSS, len(due), len(due) * cost.record)]
    for number, probes in enumerate(cost.probes):
        count = sum(mask >> number & 1 for mask in due)
        lines += [Line(name, count, count * seconds) for name, seconds in probes.items()]
    before = run.pretraining.steps * sum(cost.pretraining) if run.pretraining is not None else 0.0
    return Forecast(run.steps * cost.step, tuple(lines), before)


def keep_every(cost: Cost, run: Run) -> int:
    """Returns the smallest k for which every k-th of the schedules' steps fits into the run's budget.

    Where first and last record alone take more, it is the k that leaves these two; 1 if the run has no budget.
    """
    if run.probe_budget is None:
        return 1
    most = max(1, *(len(schedule.steps(run.steps)) - 1 for schedule in run.schedules()))
    fits = (k for k in range(1, most) if forecast(cost, run, k).share <= run.probe_budget)
    return next(fits, most)


NOTHING: Mapping[str, Any] = {"step_seconds": 0.0, "records": []}
"""What a manifest holds of measured seconds as long as there are none."""


def picked(cost: Cost | None, run: Run) -> dict[str, Any]:
    """Returns what a shard's manifest holds of its probes, nothing being measured in training yet.

    ``schedules``: when each is due and the probes on it; ``planned``: None without ``cost``; ``measured``: see
    ``added``.
    """
    keep = 1 if cost is None else keep_every(cost, run)
    schedules = run.schedules().items()
    return {
        "schedules": [{"when": plain(when), "probes": list(map(_name, probes))} for when, probes in schedules],
        "budget": run.probe_budget,
        "keep_every": keep,
        "planned": cost
        and {
            "share": forecast(cost, run, keep).share,
            "step_seconds": cost.step,
            "pretraining_step_seconds": list(cost.pretraining),
            "record_seconds": cost.record,
            "probe_seconds": list(cost.probes),
            "temporary_bytes": dict(cost.temporary_bytes),
        },
        "measured": NOTHING,
    }


def added(measured: Mapping[str, Any], spent: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Returns a manifest's measured seconds with more of them: of updates, and of records by what was due together.

    Args:
        spent: seconds, each after the schedules that were due as bits; none for updates.
    """
    steps, records = measured["step_seconds"], {one["due"]: one for one in measured["records"]}
    for due, seconds in spent:
        if due:
            so_far = records.get(due, {"count": 0, "seconds": 0.0})
            records[due] = {"due": due, "count": so_far["count"] + 1, "seconds": so_far["seconds"] + seconds}
        else:
            steps += seconds
    return {"step_seconds": steps, "records": [records[due] for due in sorted(records)]}


def _name(probe: Any) -> str:
    return probe if isinstance(probe, str) else probe.name


def budget_said(share: float, budget: float, keep: int) -> str:
    """Returns what was picked for a budget, in words."""
    kept = "all of their steps are kept" if keep == 1 else f"one in {keep} of their steps is kept"
    if share <= budget:
        return f"probe_budget {budget:.3g}: {kept}, probes are planned to take {share:.1%} of the time"
    return f"probe_budget {budget:.3g} is too small: with the first and the last step alone probes take {share:.1%}"


# ---- measuring


def measured(cohort: Cohort, program: Program, arrays: Mapping[str, np.ndarray], devices: Sequence[jax.Device]) -> Cost:
    """Returns the cohort's cost on this machine: as it was found before, else measured now.

    The training program itself is compiled and run on the cohort's first few blocks, and every probe in a program of
    its own; what they compute is thrown away.

    Args:
        arrays: what differs between the cohort's runs, each (runs,).
    """
    path = _path(cohort, program, devices)
    found = _read(path)
    if found is None:
        found = _measure(cohort, program, arrays, devices)
        keep(path, dataclasses.asdict(found))
    return found


def known(cohort: Cohort, program: Program, devices: Sequence[jax.Device]) -> Cost | None:
    """Returns the cohort's cost if it was measured before on this machine."""
    return _read(_path(cohort, program, devices))


def _read(path: Path) -> Cost | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tuples = {name: tuple(found[name]) for name in ("schedules", "alone", "pretraining")}
        return Cost(**found | tuples)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(cohort: Cohort, program: Program, devices: Sequence[jax.Device]) -> Path:
    """Where its cost is kept: named by all that it depends on."""
    layout = dataclasses.astuple(_layout(cohort, program, devices))
    return cache_folder("cost") / f"{signature(cohort, program.kernel, layout=layout)}.json"


def signature(cohort: Cohort, kernel: str, **more: Any) -> str:
    """Returns sixteen hexadecimal digits of all that a measurement of a cohort depends on, and of ``more`` such.

    That is its program, but neither how long nor how often it is used; the machine; and this package's own code.
    """
    from glorot_jax.engine import devices as machine

    shared = {k: v for k, v in cohort.shared.items() if k not in ("steps", "probe_budget", "pretraining.steps")}
    facts = {
        "shared": {k: v for k, v in shared.items() if k.partition(".")[0] != "record"},
        "choices": cohort.choices,
        "kernel": kernel,
        "schedules": [list(map(_name, probes)) for probes in cohort.runs[0].schedules().values()],
        "machine": machine.describe(),
        "code": _code(),
    }
    return digest(facts | more)


@functools.cache
def _code() -> str:
    package = Path(__file__).parents[2]
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(package.rglob("*.py"))])


def _layout(cohort: Cohort, program: Program, devices: Sequence[jax.Device]) -> Layout:
    """On this process' devices, which come first: one measures without the others."""
    here = sum(device.process_index == devices[0].process_index for device in devices)
    whole = Layout(len(cohort.runs), program.width, here, program.room)
    runs = min(whole.runs, BLOCKS * whole.devices_used * whole.width)
    return dataclasses.replace(whole, runs=runs, devices=whole.devices_used)


def _measure(cohort: Cohort, program: Program, arrays: Mapping[str, np.ndarray], devices: Sequence[jax.Device]) -> Cost:
    from glorot_jax.engine.fleet import Fleet

    begin = time.perf_counter()
    layout = _layout(cohort, program, devices)
    some = {name: array[: layout.runs] for name, array in arrays.items()}
    fleet = Fleet(program, layout, some, devices[: layout.devices])
    clock = _Clock(fleet)
    compiling.remember(signature(cohort, program.kernel), fleet.compilation)
    apart = program.setup.probes
    steps = min(STEPS, program.piece_steps)

    def update(first: int) -> float:
        return clock.seconds((first, steps, -1, 0)) / steps / layout.blocks_per_device

    none_due = 1 << len(apart)  # a record whose probes nobody has
    record = clock.seconds((0, 0, 0, none_due))
    together = [clock.seconds((0, 0, 0, 1 << number)) for number in range(len(apart))]
    alone = _alone(fleet, [probe for probes in apart for probe in probes])
    return Cost(
        step=update(0),
        record=record / layout.blocks_per_device,
        schedules=tuple(max(0.0, taken - record) / layout.blocks_per_device for taken in together),
        alone=tuple({probe.name: alone[probe.name][0] for probe in probes} for probes in apart),
        temporary_bytes={name: size for name, (_, size) in alone.items()},
        pretraining=tuple(update(phase.first) for phase in program.phases),
        seconds=time.perf_counter() - begin,
        compilation=compiling.summary(fleet.compilations),
    )


def run_step_seconds(
    cohort: Cohort, program: Program, arrays: Mapping[str, np.ndarray], devices: Sequence[jax.Device]
) -> float:
    """Returns the seconds of one update of one run at a program's width, while all devices are busy.

    Places that stay empty at this width count: it is the time of all runs, divided by the runs.
    """
    from glorot_jax.engine.fleet import Fleet

    layout = _layout(cohort, program, devices)
    some = {name: array[: layout.runs] for name, array in arrays.items()}
    clock = _Clock(Fleet(program, layout, some, devices[: layout.devices]))
    steps = min(STEPS, program.piece_steps)
    block = clock.seconds((0, steps, -1, 0)) / steps / layout.blocks_per_device
    return (
        block * Layout(len(cohort.runs), program.width, len(devices), program.room).blocks_per_device / len(cohort.runs)
    )


class _Clock:
    """Times pieces of a schedule in a fleet's training program."""

    def __init__(self, fleet: Fleet):
        self._fleet, self._state = fleet, fleet.start()
        fleet.compile(self._state)
        self._call = _seconds(lambda: self._run(()))

    def seconds(self, piece: tuple[int, int, int, int]) -> float:
        """Returns what the piece takes on every device, the call itself left out."""
        once = _timed(lambda: self._run((piece,)))
        times = 1 + int(ENOUGH / max(once - self._call, 1e-3))
        several = _seconds(lambda: self._run((piece,) * times)) if times > 1 else once
        return max(0.0, several - self._call) / times

    def _run(self, pieces: Sequence[tuple[int, int, int, int]]) -> None:
        from glorot_jax.engine.segment import Pieces

        self._state, _ = self._fleet.train(Pieces.of(pieces), self._state)


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _seconds(work: Callable[[], object]) -> float:
    """The median of three."""
    return statistics.median(_timed(work) for _ in range(3))


def _alone(fleet: Fleet, probes: Sequence[Probe]) -> dict[str, tuple[float, int | None]]:
    """Seconds and temporary bytes of each probe by itself, on the first block and validation examples as its batch."""
    import jax
    import jax.numpy as jnp

    program = fleet.program
    constants, hyper, state = fleet.first_block(fleet.start())
    examples, labels = constants["valid"]
    places = jnp.arange(program.setup.batch_size) % len(labels)
    shape = (len(places), *program.setup.input_shape)
    batch = program.setup.dataset.scale(examples[places].reshape(shape)), labels[places], jnp.int32(0)

    def lowered(probe: Probe) -> jax.stages.Lowered:
        def measure(constants, hyper, state, batch):
            return jax.vmap(lambda h, s: probe.measure(program.scene(constants, h, s, *batch)))(hyper, state)

        return fleet.lowered(measure, constants, hyper, state, batch)

    with ThreadPoolExecutor(max(1, len(jax.local_devices()))) as workers:
        compiled = list(workers.map(fleet.compiled, map(lowered, probes)))

    def found() -> Iterator[tuple[str, tuple[float, int | None]]]:
        for probe, program in zip(probes, compiled, strict=True):
            work = lambda p=program: jax.block_until_ready(p(constants, hyper, state, batch))  # noqa: E731
            work()
            memory = program.memory_analysis()
            taken = _timed(work)
            if taken <= ENOUGH:
                times = 1 + int(ENOUGH / 3 / max(taken, 1e-4))
                taken = _seconds(lambda: [work() for _ in range(times)]) / times  # noqa: B023 - called at once
            yield probe.name, (taken, None if memory is None else int(memory.temp_size_in_bytes))

    return dict(found())
