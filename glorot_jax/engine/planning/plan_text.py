"""A plan in words, for a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glorot_jax.engine.planning import bounds
from glorot_jax.engine.planning.bounds import duration, said
from glorot_jax.units import size, wrapped

if TYPE_CHECKING:
    from glorot_jax.engine.planning.machine import Peaks
    from glorot_jax.engine.planning.plan import CohortPlan, Plan


def text(plan: Plan) -> str:
    """Returns the plan as lines: all of it, then each cohort, then what bounds it."""
    runs = sum(row.layout.runs for row in plan.rows)
    steps = {row.cohort.runs[0].steps for row in plan.rows}
    count, devices = len(plan.rows), plan.rows[0].layout.devices
    lines = wrapped(
        f"{plan.sweep.name}: {runs} runs · {count} program{'s' * (count > 1)} · "
        f"{'/'.join(f'{s:,}' for s in sorted(steps))} steps · about {duration(sum(r.seconds for r in plan.rows))} on "
        f"{devices} {plan.platform} device{'s' * (devices > 1)} · compiling "
        f"≤ {duration(sum(r.compile_seconds for r in plan.rows))}",
        "",
    )
    for family in plan.families():
        lines += wrapped(_family(family, plan.fuse), "  ")
    for row in plan.rows:
        lines += _cohort(row, plan.platform, plan.peaks)
    costs = [row.cost for row in plan.rows if row.cost is not None]
    if costs:
        lines += wrapped(
            f"measured on this machine in {duration(sum(cost.seconds for cost in costs))}, with all that had to be "
            "compiled, and kept: the next plan is quick; probes that share passes split their time in proportion to "
            "what each takes alone; MiB are what a probe needs by itself",
            "  ",
        )
    if len(costs) < len(plan.rows):
        lines += wrapped(
            "times are estimated from the matrix products of a block, timed just now, and of the probes the evaluation "
            "alone; bytes are the least, by shapes",
            "  ",
        )
    lines += _machine(plan.peaks)
    return "\n".join(lines + bounds.text(plan.bounds))


def _cohort(row: CohortPlan, platform: str, peaks: Peaks | None) -> list[str]:
    layout = row.layout
    lines = [
        f"  cohort {row.cohort.id}  {row.cohort.label}",
        f"    {layout.runs} runs = {layout.devices_used} device{'s' * (layout.devices_used > 1)} × up to "
        f"{layout.blocks_per_device} block{'s' * (layout.blocks_per_device > 1)} × width {layout.width}",
        *_width(row),
        *_memory(row, platform),
        f"    {row.records} records, {size(row.record_bytes)} · checkpoint {size(row.state_bytes * layout.runs)}",
        f"    about {duration(row.seconds)} · {_compilation(row)}",
        *wrapped(
            f"{row.param_count:,} parameters a run · an update moves {said(row.work.moved, 'B')}, {_operations(row)}",
            "    ",
        ),
        *wrapped(f"kernel of an update: {row.kernel.kernel} ({row.kernel.why})", "    "),
        *_precision(row, platform),
        *_speed(row, peaks),
    ]
    if (before := row.cohort.runs[0].pretraining) is not None:
        lines.append(
            f"    pre-training: {row.pretrained_layers} layers × {before.steps:,} steps, about "
            f"{duration(row.pretraining_seconds)} of it"
        )
    lines += [] if row.cost is None else _probes(row)
    if row.streamed_bytes:
        lines.append(f"    training examples stay on the host; {size(row.streamed_bytes)} a step are streamed")
    return lines


def _precision(row: CohortPlan, platform: str) -> list[str]:
    from glorot_jax.models.precision import said as products

    asked = row.cohort.runs[0].precision
    told = f"an update's matrix products: {products(asked, platform)}"
    return [] if asked == "float32" else wrapped(told, "    ")


def _family(family: dict[str, Any], fuse: str) -> str:
    depths = ", ".join(map(str, family["depths"]))
    made = " | ".join("+".join(map(str, group)) for group in family["programs"])
    if fuse != "never":
        return f"networks of {depths} layers in programs of {made} layers (--fuse {fuse}): {family['why']}"
    if len(family["programs"]) == len(family["depths"]):
        return f"networks of {depths} layers have programs of their own, the quickest way: {family['why']}"
    gain = duration(family["seconds_apart"] - family["seconds"])
    return (
        f"networks of {depths} layers have programs of their own; --fuse auto: {made}, {gain} quicker: {family['why']}"
    )


def _width(row: CohortPlan) -> list[str]:
    width = row.width
    lines = wrapped(f"width {width.runs} {_BY[width.by]}: {width.why}", "    ")
    if width.tried is not None:
        tried = " · ".join(f"{w}: {_micro(s)}" for w, s in sorted(width.tried.items()))
        told = f"tried, µs a run-step by width: {tried}"
        if (best := width.best) is not None and best != width.runs and width.runs in width.tried:
            gain = width.tried[width.runs] / width.tried[best] - 1
            told += f"; --calibrate takes {best}, {gain:.0%} quicker"
        lines += wrapped(told, "      ")
    elif width.untried is not None:
        lines += wrapped(f"no other was tried: {width.untried}", "      ")
    return lines


_BY = {"asked": "as asked", "rule": "by rule", "calibration": "by calibration"}


def _memory(row: CohortPlan, platform: str) -> list[str]:
    made, least = row.footprint, "" if row.need.working.widths else "at least "
    parts = {
        "state": made.state,
        "temporaries": made.temporaries,
        "data": made.constants,
        "records": made.records,
        "program": made.code + made.settings,
    }
    told = " · ".join(f"{name} {size(part)}" for name, part in parts.items() if part)
    free = "" if row.free is None else f"; {size(row.free)} are free"
    host, taken = row.layout.devices_used * made.host, row.bytes_taken(platform)
    if platform == "cpu":
        rest = taken - row.layout.devices_used * made.device - host
        where = f"{size(made.device)} a device, {size(host)} for checkpoints, {size(rest)} for libraries and theory"
        lines = wrapped(f"{least}{size(taken)} of memory{free}: {where}", "    ")
    else:
        lines = wrapped(
            f"{least}{size(made.device)} a device, and {size(host)} on the host for checkpoints{free}", "    "
        )
    lines = [*lines, *wrapped(told, "      ")]
    if row.at_once < row.layout.runs:
        lines.append(f"    {row.at_once} of its {row.layout.runs} runs fit at once, the others wait for places")
    return lines


def _compilation(row: CohortPlan) -> str:
    cold = f"compiled in {duration(row.compile_seconds)}"
    made = None if row.cost is None else row.cost.compilation
    if made is None:
        return f"{cold}, as programs of its size"
    return f"{cold}, {duration(made['seconds'])} from the cache" if made["from_cache"] else cold


def _operations(row: CohortPlan) -> str:
    rule = f"6 × parameters × batch = {said(row.arithmetic, 'FLOP')}"
    return f"{rule}, {said(row.work.flops, 'FLOP')} by the compiler" if row.work.counted else rule


def _speed(row: CohortPlan, peaks: Peaks | None) -> list[str]:
    seconds, shares = row.run_step_seconds, row.shares(peaks)
    if seconds is None:
        return []
    told = f"    {_micro(seconds)} µs a run-step"
    if shares is not None:
        told += f": {shares['arithmetic']:.0%} of this machine's arithmetic, {shares['copying']:.0%} of its copying"
    return [told]


def _micro(seconds: float) -> str:
    made = 1e6 * seconds
    return f"{made:,.0f}" if made >= 100 else f"{made:.3g}"


def _machine(peaks: Peaks | None) -> list[str]:
    if peaks is None:
        return []
    return wrapped(
        f"this machine, measured: {said(peaks.flops, 'FLOP/s')} in large products ({peaks.by}), "
        f"{said(peaks.bandwidth, 'B/s')} read and written in large copies; weights that stay in caches move quicker",
        "  ",
    )


def _probes(row: CohortPlan) -> list[str]:
    from glorot_jax.engine.planning.cost import budget_said

    assert row.cost is not None
    facts: dict[str, Any] = row.probes(row.cost)
    run = row.cohort.runs[0]
    lines = [f"    probes take {facts['share']:.1%} of the time, {duration(facts['seconds'])}"]
    if run.probe_budget is not None:
        lines.append(f"    {budget_said(facts['share'], run.probe_budget, row.keep_every)}")
    widest = max(len(one["probe"]) for one in facts["each"])
    for one in sorted(facts["each"], key=lambda one: -one["share"]):
        memory = "" if one["temporary_bytes"] is None else f" · {one['temporary_bytes'] / 2**20:8.1f} MiB"
        lines.append(
            f"      {one['probe']:<{widest}}  {one['share']:6.1%} · {one['records']:6,} records × "
            f"{one['seconds_per_record']:.2g} s{memory}"
        )
    return lines
