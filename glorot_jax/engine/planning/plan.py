"""From a sweep to what is compiled and trained: runs -> cohorts -> width, blocks, devices, bytes, time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glorot_jax.config import canonical_json, resolve
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning import bounds, fusing
from glorot_jax.engine.planning.bounds import Work
from glorot_jax.engine.planning.sharing import Shared, depth, share
from glorot_jax.errors import InputError

if TYPE_CHECKING:
    import jax

    from glorot_jax.data.dataset import Dataset
    from glorot_jax.engine.planning.builder import Builder
    from glorot_jax.engine.planning.cost import Cost
    from glorot_jax.engine.planning.form import Form
    from glorot_jax.engine.planning.grouping import Fuse
    from glorot_jax.engine.planning.machine import Peaks
    from glorot_jax.engine.planning.memory import Footprint, Need
    from glorot_jax.engine.planning.width import Width
    from glorot_jax.engine.segment import Program, Setup
    from glorot_jax.engine.sweep import Run, Sweep


@dataclass(frozen=True)
class Cohort:
    """Runs that share one compiled program, in the order in which they lie along the run axis.

    Attributes:
        shared: everything that the program is compiled for, by path.
        choices: path -> names of the functions that its runs choose from.
        runs: sorted by seed, so that neighbours share their batches; if it is fused by depth before.
        functions: path -> name -> what it stands for, of all choices.
        members: the cohorts of one depth each that were fused into it, by depth; none if it is not fused.
    """

    shared: Mapping[str, object]
    choices: Mapping[str, tuple[str, ...]]
    runs: tuple[Run, ...]
    functions: Mapping[str, Mapping[str, Any]]
    members: tuple[Cohort, ...] = ()

    @property
    def id(self) -> str:
        """Eight hexadecimal digits of what is shared: the same for every sweep that holds such runs."""
        telling = {k: v for k, v in self.shared.items() if (k, v) != ("precision", "float32")}  # as it was before
        return hashlib.sha256(canonical_json(telling).encode()).hexdigest()[:8]

    @property
    def ids(self) -> list[str]:
        """Of its runs, in their order."""
        return [run.id for run in self.runs]

    @property
    def program(self) -> str:
        """What its program is made for: the same for all cohorts, whatever their runs, that one program serves."""
        return canonical_json([self.id, self.choices])

    @property
    def shard_id(self) -> str:
        """The cohort and the runs that were put together: the name of its folder."""
        runs = hashlib.sha256("".join(run.id for run in self.runs).encode()).hexdigest()[:8]
        return f"{self.id}-{runs}"

    @property
    def label(self) -> str:
        """One line for a person: network, data, optimizer."""
        shared = self.shared
        net, before = " + ".join(c.runs[0].model.label() for c in self.members or (self,)), self.runs[0].pretraining
        told = f", pre-trained by {before.steps:,} steps a layer" if before is not None else ""
        return f"{net} on {shared['data']}, {shared['optimizer']}, batch {shared['batch_size']}{told}"

    @property
    def template(self) -> Run:
        """A run that its program is made for: one of the deepest."""
        return self.runs[-1]

    @property
    def depths(self) -> tuple[int, ...] | None:
        """How many hidden layers each run's network has; None if the cohort is not fused, so that all have as many."""
        if not self.members:
            return None
        return tuple(stack.depth for run in self.runs if (stack := run.model.stack()) is not None)


def cohorts(runs: Sequence[Run], *, fuse: bool = False) -> list[Cohort]:
    """Returns the runs grouped by what has to be compiled into a program.

    Args:
        fuse: put those that differ in depth alone into one where that is possible, see ``fusing``.
    """
    groups: dict[str, list[Run]] = {}
    shared: dict[str, dict[str, object]] = {}
    for run in runs:
        fixed = run.shared()
        name = canonical_json(fixed)
        groups.setdefault(name, []).append(run)
        shared[name] = fixed
    found = [_cohort(shared[name], members) for name, members in groups.items()]
    return fusing.fuse(found, fusing.fusable(found)) if fuse else found


def _cohort(shared: Mapping[str, object], runs: Sequence[Run]) -> Cohort:
    functions = {
        f"model.{name}": {str(run.config[f"model.{name}"]): run.model.per_run()[name] for run in runs}
        for name in runs[0].model.choices()
    }
    return Cohort(
        shared=shared,
        choices={path: tuple(sorted(known)) for path, known in functions.items()},
        runs=tuple(sorted(runs, key=lambda run: run.seed)),
        functions=functions,
    )


def variants(runs: Sequence[Run]) -> list[list[int]]:
    """Returns the places of the runs of each variant, in the order in which these first come."""
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        found.setdefault(canonical_json({k: v for k, v in run.config.items() if k != "seed"}), []).append(place)
    return list(found.values())


def waves(cohort: Cohort, at_once: int | None) -> list[Cohort]:
    """Returns the cohort in parts that train one after the other, of whole variants and at most so many runs each.

    A part holds one variant at least. All parts share one program; those of a fused cohort are parts of its members,
    for its program is made for the deepest of all.
    """
    if cohort.members and at_once is not None and at_once < len(cohort.runs):
        return [part for member in cohort.members for part in waves(member, at_once)]
    parts: list[list[int]] = [[]]
    for places in variants(cohort.runs):
        if at_once is not None and parts[-1] and len(parts[-1]) + len(places) > at_once:
            parts.append([])
        parts[-1] += places
    return [replace(cohort, runs=tuple(cohort.runs[place] for place in sorted(part))) for part in parts]


def setup(cohort: Cohort, dataset: Dataset) -> Setup:
    """Returns what the compiled side needs of a cohort."""
    from glorot_jax.engine.segment import Setup
    from glorot_jax.probes.probe import described

    run = cohort.template
    functions = _functions(cohort)
    picture = (*dataset.shape, 1) if len(dataset.shape) == 2 else dataset.shape
    base = run.optimizer.base(run.model)
    return Setup(
        dataset=dataset,
        network=run.model.network(functions),
        reads_inputs=run.model.reads_inputs(functions),
        base_network=None if base is None else base.network(functions),
        input_shape=(dataset.features,) if run.model.flattened else picture,
        optimizer=(run.optimizer.factory(), run.optimizer.static()),
        loss=resolve(run.loss, "losses"),
        probes=tuple(tuple(map(described, made)) for made in run.schedules().values()),
        cadences=tuple(map(str, run.schedules())),
        batch_size=run.batch_size,
        examples=run.examples,
        jacobian_examples=run.jacobian_examples,
        pretraining_steps=run.pretraining.steps if run.pretraining else None,
        precision=run.precision,
    )


def _functions(cohort: Cohort) -> dict[str, tuple[Callable, ...]]:
    """Of each setting that names functions, those that the cohort's runs choose from."""
    found = {}
    for field, module in cohort.runs[0].model.choices().items():
        path = f"model.{field}"
        found[field] = tuple(resolve(cohort.functions[path][name], module) for name in cohort.choices[path])
    return found


def per_run(cohort: Cohort) -> dict[str, np.ndarray]:
    """Returns what differs inside a cohort, as arrays along its runs."""
    runs = cohort.runs
    arrays = {
        "seed": np.array([run.seed for run in runs], np.uint32),
        "stream": np.array([0 if run.order == "paired" else int(run.id[:8], 16) for run in runs], np.uint32),
    }
    for path, names in cohort.choices.items():
        arrays[f"{path}_index"] = np.array([names.index(str(run.config[path])) for run in runs], np.int32)
    for family in ("model", "optimizer", "pretraining"):
        part = getattr(runs[0], family)
        for name in part.per_run() if part is not None else ():
            if f"{family}.{name}" not in cohort.choices:
                values = [getattr(run, family).per_run()[name] for run in runs]
                arrays[f"{family}.{name}"] = np.array(values, np.float32)
    return arrays if cohort.depths is None else arrays | {"depth": np.array(cohort.depths, np.int32)}


@dataclass(frozen=True)
class CohortPlan:
    """One row of a plan.

    Attributes:
        need: what its runs need of a device; ``compiled`` by the compiler's word, else by shapes, which say the least.
        free: bytes that may be taken, of a device or of all that share a memory; None if nobody says.
        at_once: runs that fit at once.
        compile_seconds: without the compilation cache.
        seconds: of all training.
        cost: None if it was never measured here.
    """

    cohort: Cohort
    layout: Layout
    kernel: Form
    width: Width
    param_count: int
    need: Need
    free: int | None
    at_once: int
    compile_seconds: float
    record_bytes: int
    records: int
    seconds: float
    keep_every: int
    cost: Cost | None
    work: Work
    streamed_bytes: int = 0
    pretrained_layers: int = 0
    pretraining_seconds: float = 0.0

    @property
    def state_bytes(self) -> int:
        """Of one run."""
        return self.need.chunk.copied

    @property
    def footprint(self) -> Footprint:
        return self.need.of(self.layout)

    def bytes_taken(self, platform: str) -> int:
        """Returns what is taken of a device's memory, or by the process where all share one; see ``Footprint``."""
        return self.footprint.taken(self.layout, platform == "cpu")

    @property
    def run_step_seconds(self) -> float | None:
        """Seconds of an update by the number of runs; None if it was never measured here."""
        return None if self.cost is None else self.cost.step * self.layout.blocks_per_device / self.layout.runs

    @property
    def arithmetic(self) -> float:
        """Operations of a run-step in its products: 6 × parameters × batch."""
        return 6.0 * self.param_count * self.cohort.runs[0].batch_size

    def to_dict(self, peaks: Peaks | None = None) -> dict[str, object]:
        return {
            "cohort": self.cohort.id,
            "label": self.cohort.label,
            "runs": self.layout.runs,
            "width": self.layout.width,
            "why_width": self.width.why,
            "width_chosen": self.width.to_dict(),
            "kernel": self.kernel.kernel,
            "why_kernel": self.kernel.why,
            "kernels_tried_seconds_per_run_step": self.kernel.tried,
            "blocks": self.layout.blocks,
            "devices": self.layout.devices_used,
            "parameters_per_run": self.param_count,
            "steps": self.cohort.runs[0].steps,
            "precision": self.cohort.runs[0].precision,
            "pretraining": self._pretraining,
            "records": self.records,
            "bytes_per_device": self.footprint.device,
            "bytes": self.footprint.parts() | {"by": "compiler" if self.need.working.widths else "shapes, the least"},
            "free_bytes": self.free,
            "runs_at_once": self.at_once,
            "record_bytes": self.record_bytes,
            "checkpoint_bytes": self.state_bytes * self.layout.runs,
            "streamed_bytes_per_step": self.streamed_bytes,
            "compile_seconds": round(self.compile_seconds, 1),
            "compilation": None if self.cost is None else self.cost.compilation,
            "flops_per_update": self.work.flops,
            "flops_counted_by": "compiler" if self.work.counted else "6 × parameters × batch",
            "bytes_moved_per_update": self.work.moved,
            "seconds_per_run_step": self.run_step_seconds,
            "shares_of_peaks": self.shares(peaks),
            "estimated_seconds": round(self.seconds, 1),
            "probes": None if self.cost is None else self.probes(self.cost),
        }

    def shares(self, peaks: Peaks | None) -> dict[str, float] | None:
        """Returns which parts of the machine's peaks updates reach; None where either was not measured."""
        if peaks is None or self.run_step_seconds is None:
            return None
        arithmetic, copying = peaks.shares(self.arithmetic, self.work.moved, self.run_step_seconds)
        return {"arithmetic": arithmetic, "copying": copying}

    @property
    def _pretraining(self) -> dict[str, object] | None:
        """Steps of the pre-training, all layers together, and what of ``seconds`` they take; None without."""
        before = self.cohort.runs[0].pretraining
        if before is None:
            return None
        steps = {"steps_per_layer": before.steps, "layers": self.pretrained_layers}
        return steps | {"estimated_seconds": round(self.pretraining_seconds, 1)}

    def probes(self, cost: Cost) -> dict[str, Any]:
        """Returns what probes take of all the time, together and each."""
        from glorot_jax.engine.planning.cost import forecast

        run, blocks = self.cohort.runs[0], self.layout.blocks_per_device
        made = forecast(cost, run, self.keep_every)
        return {
            "share": made.share,
            "seconds": made.records * blocks,
            "budget": run.probe_budget,
            "keep_every": self.keep_every,
            "step_seconds": cost.step * blocks,
            "measuring_seconds": cost.seconds,
            "each": [
                {
                    "probe": line.name,
                    "records": line.records,
                    "seconds_per_record": line.seconds * blocks / line.records,
                    "share": line.seconds / max(made.seconds, 1e-12),
                    "temporary_bytes": cost.temporary_bytes.get(line.name),
                }
                for line in made.lines
            ],
        }


@dataclass(frozen=True)
class Plan:
    """What ``glorot plan`` prints: nothing was trained for it.

    Attributes:
        peaks: of this machine; None in a quick plan on a machine that was never measured.
        shared: which cohorts share a program as ``fuse`` has it, or would if it were ``auto``.
    """

    sweep: Sweep
    rows: tuple[CohortPlan, ...]
    platform: str
    run_steps_per_second: float | None = None
    peaks: Peaks | None = None
    shared: Shared | None = None
    fuse: Fuse = "never"

    @property
    def bounds(self) -> dict[str, Any]:
        """What all updates take at least, as ``bounds.table`` says it."""
        return bounds.table([row.work for row in self.rows], self.run_steps_per_second)

    def to_dict(self) -> dict[str, object]:
        return {
            "sweep": self.sweep.name,
            "runs": sum(row.layout.runs for row in self.rows),
            "platform": self.platform,
            "compile_seconds": round(sum(row.compile_seconds for row in self.rows), 1),
            "machine": None if self.peaks is None else dataclasses.asdict(self.peaks),
            "fuse": self.fuse,
            "families": self.families(),
            "cohorts": [row.to_dict(self.peaks) | {"bytes_taken": row.bytes_taken(self.platform)} for row in self.rows],
            "bounds": self.bounds,
        }

    def families(self) -> list[dict[str, Any]]:
        """Returns for networks that could share programs how they do, or would with ``auto``, and the seconds."""
        if self.shared is None:
            return []
        return [
            {
                "cohorts": [cohort.id for cohort in family],
                "depths": [depth(cohort) for cohort in family],
                "programs": [[depth(family[i]) for i in group] for group in made.groups],
                "seconds": sum(candidate.seconds for candidate in made.chosen),
                "seconds_together": made.together.seconds,
                "seconds_apart": sum(candidate.seconds for candidate in made.apart),
                "why": made.why,
            }
            for family, made in self.shared.families
        ]

    def text(self) -> str:
        from glorot_jax.engine.planning.plan_text import text

        return text(self)


def plan(
    sweep: Sweep,
    width: int | None = None,
    *,
    kernel: str | None = None,
    quick: bool = False,
    calibrate: bool = False,
    fuse: Fuse = "never",
    run_steps_per_second: float | None = None,
) -> Plan:
    """Returns cohorts, width, blocks, devices, bytes, time, what each probe takes of it, and bounds on accelerators.

    Nothing is kept of what is trained for it: a few updates and records of some runs of each cohort, through the
    program that the sweep will use, which stays in the compilation cache. Where training takes much longer than
    compiling, updates are timed at a few other widths, too.

    Args:
        width: runs vmapped together; chosen by rule if not said.
        kernel: what makes an update, as ``planning.form`` names it; chosen by rule if not said.
        quick: compile nothing. The time of what was never measured on this machine is then a rough estimate, and its
            probes' shares are not told.
        calibrate: plan for the width and the kernel that are quickest here, as ``run`` takes it where it is asked to.
        fuse: networks that differ in depth alone in one program: ``always``, ``never``, or where that is quicker.
        run_steps_per_second: a throughput of your own, all runs together, that the plan turns into hours.

    Raises:
        InputError: a cohort does not fit into memory, and the line says what would; or ``quick`` beside ``calibrate``.
    """
    import jax

    from glorot_jax.data.dataset import build
    from glorot_jax.engine import devices
    from glorot_jax.engine.planning import machine

    if run_steps_per_second is not None and not 0 < run_steps_per_second < float("inf"):
        raise InputError(f"run_steps_per_second: {run_steps_per_second!r} is not a finite number > 0")
    if quick and calibrate:
        raise InputError("quick: it compiles nothing, and so calibrates nothing", "leave out one of the two")
    devices.configure()
    used = devices.local()
    divided = shared(sweep.runs(), fuse, used, kernel, stopwatch=calibrate)
    other = None
    if fuse == "never" and not quick:  # what would be, if it were asked for
        other = shared(sweep.runs(), "auto", used, kernel, stopwatch=True)
    rows = []
    for cohort in divided.cohorts:
        builder = _builder(cohort, build(cohort.runs[0].data), used, kernel)
        chosen = builder.width(width)
        row = _row(builder, chosen, quick)
        if calibrate:
            builder.calibrate_kernel(chosen.runs, row.seconds)
            row = _row(builder, chosen, quick)
        if width is None and not quick:
            found = builder.calibrated(chosen, row.seconds)
            row = _row(builder, found, quick) if calibrate else dataclasses.replace(row, width=chosen.beside(found))
        rows.append(row)
    return Plan(
        sweep,
        tuple(rows),
        jax.default_backend(),
        run_steps_per_second,
        machine.known() if quick else machine.peaks(),
        other or divided,
        fuse,
    )


def _row(builder: Builder, width: Width, quick: bool) -> CohortPlan:
    """The plan of one cohort at one width."""
    from glorot_jax.engine.feed import Feed
    from glorot_jax.engine.planning import cost as costs

    cohort, arrays = builder.cohort, builder.arrays
    run, program, layout = cohort.runs[0], builder.program(width.runs), builder.layout(width.runs)
    feed = Feed(program, layout, arrays) if program.feeding else None
    builder.fitting(width.runs)
    measure = costs.known if quick else functools.partial(costs.measured, arrays=arrays)
    cost = measure(cohort, program, devices=builder.devices)
    keep = 1 if cost is None else costs.keep_every(cost, run)
    records = run.due(keep)
    if cost is None:
        before, training = _estimate(program, layout, builder.params, run)
    else:
        forecast = costs.forecast(cost, run, keep)
        before, training = (
            part * layout.blocks_per_device for part in (forecast.pretraining, forecast.steps + forecast.records)
        )
    need = builder.need(width.runs, compiled=not quick)
    sizes = len(cohort.runs), run.steps, program.param_count, run.batch_size, need.chunk.copied
    return CohortPlan(
        cohort=cohort,
        layout=layout,
        kernel=builder.form,
        width=width,
        param_count=program.param_count,
        need=need,
        free=builder.free(),
        at_once=builder.at_once(need, width.runs),
        compile_seconds=builder.compile_seconds(width.runs),
        record_bytes=4 * program.record_size * len(records) * layout.runs,
        records=len(records),
        seconds=before + training,
        keep_every=keep,
        cost=cost,
        work=bounds.work(*sizes, program.update_flops()),
        streamed_bytes=feed.bytes_per_step if feed else 0,
        pretrained_layers=len(program.phases),
        pretraining_seconds=before,
    )


def shared(
    runs: Sequence[Run],
    fuse: Fuse,
    devices: Sequence[jax.Device],
    kernel: str | None = None,
    *,
    stopwatch: bool = False,
) -> Shared:
    """Returns the runs' cohorts, with those of several depths put together that shall share a program.

    Args:
        fuse, stopwatch: as for ``sharing.share``.
    """
    from glorot_jax.data.dataset import build

    def builder(cohort: Cohort) -> Builder:
        return _builder(cohort, build(cohort.runs[0].data), devices, kernel)

    return share(cohorts(runs), fuse, builder, stopwatch=stopwatch)


class Whys(NamedTuple):
    """How a program's width and kernel were chosen, and how many of its runs fit into memory at once."""

    width: Width
    kernel: Form
    at_once: int


def program_for(
    cohort: Cohort,
    dataset: Dataset,
    devices: Sequence[jax.Device],
    width: int | None = None,
    kernel: str | None = None,
    *,
    calibrate: bool = False,
) -> tuple[Program, Layout, Whys]:
    """Returns the cohort's program, where its runs lie, and why it is as it is.

    Args:
        width: the rule's if None, or what a stopwatch says if ``calibrate``.
        kernel: see ``planning.form``; as ``width``.

    Raises:
        InputError: it can't be built, or does not fit into memory.
    """
    builder = _builder(cohort, dataset, devices, kernel)
    chosen = builder.width(width)
    if calibrate:
        builder.calibrate_kernel(chosen.runs, _expected_seconds(builder, chosen))
    if calibrate and width is None:
        chosen = builder.calibrated(chosen, _expected_seconds(builder, chosen))
    fit = builder.fitting(chosen.runs)
    return builder.program(chosen.runs), builder.layout(chosen.runs), Whys(chosen, builder.form, fit)


def _builder(cohort: Cohort, dataset: Dataset, devices: Sequence[jax.Device], kernel: str | None) -> Builder:
    from glorot_jax.engine.planning.builder import Builder

    return Builder(cohort, setup(cohort, dataset), per_run(cohort), devices, kernel)


def _expected_seconds(builder: Builder, width: Width) -> float:
    """What all of a cohort's training is thought to take, nothing compiled."""
    from glorot_jax.engine.planning import cost as costs

    run, program, layout = builder.cohort.runs[0], builder.program(width.runs), builder.layout(width.runs)
    cost = costs.known(builder.cohort, program, builder.devices)
    if cost is None:
        return sum(_estimate(program, layout, builder.params, run))
    return costs.forecast(cost, run, costs.keep_every(cost, run)).seconds * layout.blocks_per_device


def _estimate(
    program: Program, layout: Layout, params: Mapping[str, jax.ShapeDtypeStruct], run: Run
) -> tuple[float, float]:
    """Seconds of pre-training and of training: a block's products and activations are timed here.

    Of a record it is its evaluation alone; an auto-encoder's update is that of its layer, there and back.
    """
    setup = program.setup
    shapes = [leaf.shape[-2:] for leaf in params.values() if len(leaf.shape) == 4]
    step = _block_seconds(shapes, layout.width, setup.batch_size, train=True)
    evaluated = sum(len(part[1]) for part in (setup.dataset.valid, setup.dataset.test))
    record = _block_seconds(shapes, layout.width, 500, train=False) * evaluated / 500
    before = 0.0
    for k, phase in enumerate(program.phases):
        below, (fan_in, fan_out) = shapes[:k], shapes[k]
        there_and_back = ((fan_in, fan_out), (fan_out, fan_in))
        once = _block_seconds(there_and_back, layout.width, setup.batch_size, train=True)
        once += _block_seconds(below, layout.width, setup.batch_size, train=False) if below else 0.0
        before += once * (phase.last - phase.first)
    training = run.steps * step + len(run.due()) * record
    return layout.blocks_per_device * before, layout.blocks_per_device * training


def _block_seconds(shapes: Sequence[tuple[int, int]], width: int, batch: int, *, train: bool) -> float:
    """Measured seconds of a batch's pass through weights of these shapes, and of their update if ``train``."""
    import jax
    import jax.numpy as jnp

    weights = [jnp.full((width, *shape), 1e-3) for shape in shapes]
    inputs = [jnp.full((width, batch, shape[0]), 1e-3) for shape in shapes]

    def layer(w, z):
        s = jnp.tanh(z @ w)
        return w - z.T @ s * 1e-6, s @ w.T if train else jnp.sum(s) * 1e-9 + z

    @jax.jit
    def work(weights, inputs, count):
        def once(_, carry):
            made = [jax.vmap(layer)(w, z) for w, z in zip(*carry, strict=True)]
            return ([w for w, _ in made] if train else carry[0]), [z for _, z in made]

        return jax.lax.fori_loop(0, count, once, (weights, inputs))

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(work(weights, inputs, count))
        return time.perf_counter() - begin

    seconds(1)
    count = int(np.clip(0.05 / seconds(1), 1, 1000))
    return statistics.median(seconds(count) for _ in range(3)) / count
