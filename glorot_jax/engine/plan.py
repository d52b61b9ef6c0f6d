"""From a sweep to what is compiled and trained: runs -> cohorts -> width, blocks, devices, bytes, time."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.config import canonical_json, resolve
from glorot_jax.engine import bounds
from glorot_jax.engine.bounds import Work
from glorot_jax.engine.layout import Layout
from glorot_jax.errors import InputError

if TYPE_CHECKING:
    import jax

    from glorot_jax.data.dataset import Dataset
    from glorot_jax.engine.cost import Cost
    from glorot_jax.engine.segment import Program, Setup
    from glorot_jax.engine.sweep import Run, Sweep

BLOCK_BYTES = {"weights": 4 * 2**20, "activations": 8 * 2**20}
"""Of a block on a CPU, at most: measured on 1 MiB of L2 a core, wider blocks gained nothing or lost."""
MAX_WIDTH = {"cpu": 16, "gpu": 1024, "tpu": 1024}


@dataclass(frozen=True)
class Cohort:
    """Runs that share one compiled program, in the order in which they lie along the run axis.

    Attributes:
        shared: everything that the program is compiled for, by path.
        choices: path -> names of the functions that its runs choose from.
        runs: sorted by seed, so that neighbours share their batches.
        functions: path -> name -> what it stands for, of all choices.
    """

    shared: Mapping[str, object]
    choices: Mapping[str, tuple[str, ...]]
    runs: tuple[Run, ...]
    functions: Mapping[str, Mapping[str, Any]]

    @property
    def id(self) -> str:
        """Eight hexadecimal digits of what is shared: the same for every sweep that holds such runs."""
        return hashlib.sha256(canonical_json(self.shared).encode()).hexdigest()[:8]

    @property
    def shard_id(self) -> str:
        """The cohort and the runs that were put together: the name of its folder."""
        runs = hashlib.sha256("".join(run.id for run in self.runs).encode()).hexdigest()[:8]
        return f"{self.id}-{runs}"

    @property
    def label(self) -> str:
        """One line for a person: network, data, optimizer."""
        shared = self.shared
        net, before = self.runs[0].model.label(), self.runs[0].pretraining
        told = f", pre-trained by {before.steps:,} steps a layer" if before is not None else ""
        return f"{net} on {shared['data']}, {shared['optimizer']}, batch {shared['batch_size']}{told}"


def cohorts(runs: Sequence[Run]) -> list[Cohort]:
    """Returns the runs grouped by what has to be compiled into a program."""
    groups: dict[str, list[Run]] = {}
    shared: dict[str, dict[str, object]] = {}
    for run in runs:
        fixed = run.shared()
        name = canonical_json(fixed)
        groups.setdefault(name, []).append(run)
        shared[name] = fixed
    return [_cohort(shared[name], members) for name, members in groups.items()]


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

    A part holds one variant at least. All parts share one program.
    """
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

    run = cohort.runs[0]
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
    return arrays


def choose_width(weights: int, activations: int, runs: int, platform: str, devices: int) -> tuple[int, str]:
    """Returns how many runs to vmap together, a power of two, and the reason in a few words.

    Args:
        weights, activations: bytes of one run: its parameters, and what its update keeps for the way back.
    """
    most = MAX_WIDTH.get(platform, 16)
    if platform == "cpu":
        sizes = {"weights": weights, "activations": activations}
        what = max(sizes, key=lambda name: sizes[name] / BLOCK_BYTES[name])
        fits = max(1, BLOCK_BYTES[what] // sizes[what])
        why = f"{sizes[what] / 2**20:.2g} MiB of {what} a run, up to {BLOCK_BYTES[what] // 2**20} MiB a block"
    else:
        fits, why = most, "an accelerator takes them all at once"
    width, share = min(most, fits), -(-runs // devices)
    if width > share:
        width, why = share, f"{runs} runs on {devices} device{'s' * (devices > 1)}"
    return 2 ** int(np.log2(width)), why


@dataclass(frozen=True)
class CohortPlan:
    """One row of a plan."""

    cohort: Cohort
    layout: Layout
    why_width: str
    param_count: int
    state_bytes: int
    constant_bytes: int
    record_bytes: int
    records: int
    seconds: float
    keep_every: int
    cost: Cost | None
    work: Work
    streamed_bytes: int = 0
    pretrained_layers: int = 0
    pretraining_seconds: float = 0.0

    def to_dict(self) -> dict[str, object]:
        return {
            "cohort": self.cohort.id,
            "label": self.cohort.label,
            "runs": self.layout.runs,
            "width": self.layout.width,
            "why_width": self.why_width,
            "blocks": self.layout.blocks,
            "devices": self.layout.devices_used,
            "parameters_per_run": self.param_count,
            "steps": self.cohort.runs[0].steps,
            "pretraining": self._pretraining,
            "records": self.records,
            "bytes_per_device": self.bytes_per_device,
            "record_bytes": self.record_bytes,
            "checkpoint_bytes": self.state_bytes * self.layout.runs,
            "host_bytes_while_written": self.state_bytes * self.layout.runs,
            "streamed_bytes_per_step": self.streamed_bytes,
            "flops_per_update": self.work.flops,
            "flops_counted_by": "compiler" if self.work.counted else "6 × parameters × batch",
            "bytes_moved_per_update": self.work.moved,
            "estimated_seconds": round(self.seconds, 1),
            "probes": None if self.cost is None else self._probes(self.cost),
        }

    @property
    def _pretraining(self) -> dict[str, object] | None:
        """Steps of the pre-training, all layers together, and what of ``seconds`` they take; None without."""
        before = self.cohort.runs[0].pretraining
        if before is None:
            return None
        steps = {"steps_per_layer": before.steps, "layers": self.pretrained_layers}
        return steps | {"estimated_seconds": round(self.pretraining_seconds, 1)}

    def _probes(self, cost: Cost) -> dict[str, object]:
        from glorot_jax.engine.cost import forecast

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

    def _update_line(self) -> str:
        rule = bounds.said(6 * self.param_count * self.cohort.runs[0].batch_size, "FLOP")
        counted = f"{bounds.said(self.work.flops, 'FLOP')} (compiler), " if self.work.counted else ""
        return f"{counted}{rule} (6 × parameters × batch) · {bounds.said(self.work.moved, 'B')} moved"

    def _probe_lines(self, cost: Cost) -> list[str]:
        from glorot_jax.engine.cost import budget_said

        facts, run = self._probes(cost), self.cohort.runs[0]
        lines = [f"    probes take {facts['share']:.1%} of the time, {bounds.duration(facts['seconds'])}"]
        if run.probe_budget is not None:
            lines.append(f"    {budget_said(facts['share'], run.probe_budget, self.keep_every)}")
        widest = max(len(one["probe"]) for one in facts["each"])
        for one in sorted(facts["each"], key=lambda one: -one["share"]):
            memory = "" if one["temporary_bytes"] is None else f" · {one['temporary_bytes'] / 2**20:8.1f} MiB"
            lines.append(
                f"      {one['probe']:<{widest}}  {one['share']:6.1%} · {one['records']:6,} records × "
                f"{one['seconds_per_record']:.2g} s{memory}"
            )
        return lines

    @property
    def bytes_per_device(self) -> int:
        places = self.layout.chunks_per_device * self.layout.room * self.layout.width
        return self.state_bytes * places + self.constant_bytes


@dataclass(frozen=True)
class Plan:
    """What ``glorot plan`` prints: nothing was trained for it."""

    sweep: Sweep
    rows: tuple[CohortPlan, ...]
    platform: str
    run_steps_per_second: float | None = None

    @property
    def bounds(self) -> dict[str, Any]:
        """What all updates take at least, as ``bounds.table`` says it."""
        return bounds.table([row.work for row in self.rows], self.run_steps_per_second)

    def to_dict(self) -> dict[str, object]:
        return {
            "sweep": self.sweep.name,
            "runs": sum(row.layout.runs for row in self.rows),
            "platform": self.platform,
            "cohorts": [row.to_dict() for row in self.rows],
            "bounds": self.bounds,
        }

    def text(self) -> str:
        runs = sum(row.layout.runs for row in self.rows)
        steps = {row.cohort.runs[0].steps for row in self.rows}
        lines = [
            f"{self.sweep.name}: {runs} runs · {len(self.rows)} program{'s' * (len(self.rows) > 1)} · "
            f"{'/'.join(f'{s:,}' for s in sorted(steps))} steps · about "
            f"{bounds.duration(sum(row.seconds for row in self.rows))} on {self.rows[0].layout.devices} "
            f"{self.platform} device{'s' * (self.rows[0].layout.devices > 1)}"
        ]
        for row in self.rows:
            layout = row.layout
            lines += [
                f"  cohort {row.cohort.id}  {row.cohort.label}",
                f"    {layout.runs} runs = {layout.devices_used} devices × up to {layout.blocks_per_device} "
                f"blocks × width {layout.width} ({row.why_width})",
                f"    {row.param_count:,} parameters a run · {_bytes(row.bytes_per_device)} a device · "
                f"checkpoint {_bytes(row.state_bytes * row.layout.runs)}, as much on the host while it is written",
                f"    {row.records} records, {_bytes(row.record_bytes)} · about {bounds.duration(row.seconds)}",
                f"    an update: {row._update_line()}",
            ]
            if (before := row.cohort.runs[0].pretraining) is not None:
                lines.append(
                    f"    pre-training: {row.pretrained_layers} layers × {before.steps:,} steps, about "
                    f"{bounds.duration(row.pretraining_seconds)} of it"
                )
            lines += [] if row.cost is None else row._probe_lines(row.cost)
            if row.streamed_bytes:
                lines.append(
                    f"    training examples stay on the host; {_bytes(row.streamed_bytes)} a step are streamed"
                )
        costs = [row.cost for row in self.rows if row.cost is not None]
        if costs:
            taken = bounds.duration(sum(cost.seconds for cost in costs))
            lines += [
                f"  measured on this machine in {taken}, with all that had to be compiled, and kept: the next plan",
                "  is quick; probes that share passes split their time in proportion to what each takes alone;",
                "  MiB are what a probe needs by itself",
            ]
        if len(costs) < len(self.rows):
            lines += [
                "  times are estimated from the matrix products of a block, timed just now, and of the probes",
                "  the evaluation alone; compilation comes on top",
            ]
        lines += bounds.text(self.bounds)
        return "\n".join(lines)


def plan(
    sweep: Sweep, width: int | None = None, *, quick: bool = False, run_steps_per_second: float | None = None
) -> Plan:
    """Returns cohorts, width, blocks, devices, bytes, time, what each probe takes of it, and bounds on accelerators.

    Nothing is kept of what is trained for it: a few updates and records of some runs of each cohort, through the
    program that the sweep will use, which stays in the compilation cache.

    Args:
        width: runs vmapped together; chosen by rule if not said.
        quick: compile nothing. The time of what was never measured on this machine is then a rough estimate, and its
            probes' shares are not told.
        run_steps_per_second: a throughput of your own, all runs together, that the plan turns into hours.
    """
    import jax

    from glorot_jax.data.dataset import build
    from glorot_jax.engine import cost as costs
    from glorot_jax.engine import devices
    from glorot_jax.engine.feed import Feed

    if run_steps_per_second is not None and not 0 < run_steps_per_second < float("inf"):
        raise InputError(f"run_steps_per_second: {run_steps_per_second!r} is not a finite number > 0")
    devices.configure()
    used = devices.local()
    rows = []
    for cohort in cohorts(sweep.runs()):
        run = cohort.runs[0]
        program, layout, why = program_for(cohort, build(run.data), used, width)
        arrays = per_run(cohort)
        feed = Feed(program, layout, arrays) if program.feeding else None
        constants, hyper = program.setup.dataset.constants(), layout.spread_all(arrays)[0]
        state = jax.eval_shape(
            program.initialize, constants, hyper, layout.block_plans(arrays["seed"], arrays["stream"])[0]
        )
        places = layout.room * layout.width
        cost = costs.known(cohort, program, used) if quick else costs.measured(cohort, program, arrays, used)
        keep = 1 if cost is None else costs.keep_every(cost, run)
        records = run.due(keep)
        if cost is None:
            before, training = _estimate(program, layout, state["params"], run)
        else:
            forecast = costs.forecast(cost, run, keep)
            before, training = (
                part * layout.blocks_per_device for part in (forecast.pretraining, forecast.steps + forecast.records)
            )
        state_bytes = _tree_bytes(state) // places
        sizes = len(cohort.runs), run.steps, program.param_count, run.batch_size, state_bytes
        rows.append(
            CohortPlan(
                cohort=cohort,
                layout=layout,
                why_width=why,
                param_count=program.param_count,
                state_bytes=state_bytes,
                constant_bytes=_tree_bytes(constants) + (2 * _tree_bytes(feed.feeding.brought) if feed else 0),
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
        )
    return Plan(sweep, tuple(rows), jax.default_backend(), run_steps_per_second)


def program_for(
    cohort: Cohort, dataset: Dataset, devices: Sequence[jax.Device], width: int | None
) -> tuple[Program, Layout, str]:
    """Returns the cohort's program, where its runs lie, and why the width is what it is."""
    from glorot_jax.engine import segment

    if width is not None and width < 1:
        raise InputError(f"width: {width} is not a positive integer")
    example = {name: array[0] for name, array in per_run(cohort).items()}
    draft = segment.Draft(setup(cohort, dataset), example)
    why = "as asked"
    if width is None:
        width, why = choose_width(*draft.update_bytes(), len(cohort.runs), devices[0].platform, len(devices))
    program = draft.program(width)
    return program, Layout(len(cohort.runs), width, len(devices), program.room), why


def _tree_bytes(tree: object) -> int:
    import jax

    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


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


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
