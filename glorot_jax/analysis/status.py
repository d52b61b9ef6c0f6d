"""Where a sweep stands: counts first, what failed first, and how to go on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from glorot_jax.analysis import parts
from glorot_jax.analysis.results import Results, load
from glorot_jax.errors import unknown
from glorot_jax.kernels import GENERAL
from glorot_jax.store.mirror import local, owner
from glorot_jax.store.names import LOCK, MANIFEST
from glorot_jax.units import size, wrapped

ROWS = 20
DEAREST = 6
"""Probes of a shard that are named with what they took; JSON has all."""
_NESTED = ("probes", "why_width", "compilation", "reckoning")
"""Of a shard, what JSON alone tells."""
_ORDER = ("diverged", "dropped", "training", "pending", "done")


def status(folder: str | Path) -> dict[str, Any]:
    """Returns where the sweep of a results folder stands, in JSON's terms."""
    where = local(folder)
    division = parts.read(where)
    results = load(where)
    runs = results.runs[results.runs["in_sweep"]]
    counts = runs["status"].value_counts()
    wanted = results.description["runs"]
    missing = len(set(wanted) - set(runs.index))
    shards = [_shard(results, m) for m in results.shards]
    finished = missing == 0 and all(s["state"] == "done" for s in shards)
    divided = parts.standing(division, {m["shard"]: m for m in results.shards})
    command = parts.go_on(folder, divided) if divided else f"glorot resume {folder}"
    return {
        "sweep": results.name,
        "state": "done" if finished else "unfinished",
        "owner": owner(where / LOCK),
        "runs": {"pending": int(counts.get("pending", 0)) + missing}
        | {name: int(counts.get(name, 0)) for name in ("training", "done", "diverged", "dropped")},
        "diverged": [
            {"run": r["name"], "step": int(r["diverged_step"]), "in": r["diverged_in"]}
            for _, r in runs[runs["status"] == "diverged"].iterrows()
        ],
        "dropped": [
            {"run": r["name"], "step": int(r["dropped_step"])} for _, r in runs[runs["status"] == "dropped"].iterrows()
        ],
        "shards": sorted(shards, key=lambda s: s["state"] == "done"),
        "parts": divided,
        "devices": results.environment.get("devices", []),
        "go_on": None if finished else command,
    }


def render_status(folder: str | Path, format: str = "table") -> str:
    """Returns the status as text. ``format``: table, json, csv or markdown."""
    facts = status(folder)
    if format == "json":
        return json.dumps(facts, indent=1, ensure_ascii=False)
    rows = pd.DataFrame(facts["shards"]).drop(columns=list(_NESTED), errors="ignore")
    if format == "csv":
        buffer = io.StringIO()
        rows.to_csv(buffer, index=False)
        return buffer.getvalue().rstrip("\n")
    if format not in ("table", "markdown"):
        raise unknown("format", format, ("table", "json", "csv", "markdown"))
    counts = " · ".join(f"{facts['runs'][name]} {name}" for name in _ORDER if facts["runs"][name])
    lines = [f"{facts['sweep']}: {facts['state']} · {counts or 'no runs yet'}"]
    lines += [f"  diverged  {d['run']} at step {d['step']:,}: {d['in']}" for d in facts["diverged"][:ROWS]]
    if any(d["step"] < 0 for d in facts["diverged"][:ROWS]):
        lines.append("  steps below 0 are of the pre-training")
    if len(facts["diverged"]) > ROWS:
        lines.append(f"  … and {len(facts['diverged']) - ROWS} more diverged; --format json has all")
    if facts["dropped"]:
        at = Counter(d["step"] for d in facts["dropped"])
        told = ", ".join(f"{count} at step {step:,}" for step, count in sorted(at.items()))
        lines.append(f"  dropped by the search: {told}; --format json names them")
    if facts["owner"]:
        lines.append(f"  {facts['owner']} is at work in it")
    lines += parts.lines(facts["parts"])
    lines += [""] if format == "markdown" else []
    lines += _shard_lines(facts["shards"][:ROWS], format)
    if len(facts["shards"]) > ROWS:
        lines.append(f"  … and {len(facts['shards']) - ROWS} more shards; --format json has all")
    if facts["go_on"]:
        lines.append(f"go on with: {facts['go_on']}")
    return "\n".join(lines)


def render_parts(folder: str | Path) -> str:
    """Returns where the parts of a divided sweep stand as text; none of it once all are done."""
    facts = status(folder)
    return "" if facts["state"] == "done" else "\n".join(parts.lines(facts["parts"]))


def _shard(results: Results, manifest: dict[str, Any]) -> dict[str, Any]:
    where = results.paths[0] / "shards" / manifest["shard"]
    commit = datetime.fromtimestamp(_modified(where / MANIFEST), UTC)
    return {
        "shard": manifest["shard"],
        "what": manifest["cohort"]["label"],
        "state": manifest["state"],
        "runs": manifest["runs"],
        "diverged": len(manifest["diverged"]),
        "dropped": len({d["run"] for d in manifest.get("dropped", ())} - {d["run"] for d in manifest["diverged"]}),
        "width": " then ".join(str(w["width"]) for w in manifest["widths"]),
        "kernel": " then ".join(k["kernel"] for k in manifest.get("kernels", [{"kernel": GENERAL}])),
        "step": manifest["step"],
        "steps": manifest["steps"],
        "first_step": _first(manifest),
        "wall_seconds": manifest["wall_seconds"],
        "run_steps_per_second": round(_run_steps(manifest) / max(manifest["wall_seconds"], 1e-9)),
        "record_bytes": sum(int(e["bytes"]) for e in manifest["records"]),
        "checkpoint_bytes": _checkpoint_bytes(where / "checkpoints", manifest),
        "last_commit": commit.isoformat(timespec="seconds"),
        "why_width": manifest.get("why_width"),
        "compilation": manifest.get("compilation"),
        "reckoning": _reckoning(manifest),
        "probe_share": None if (told := _probes(manifest)) is None else told["share"],
        "probes": told,
    }


def _reckoning(manifest: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What was planned and what it came to: seconds of a run-step and of compiling, bytes, and seconds that are left.

    Each ``planned`` and ``measured``, None where nobody knows.
    """
    planned, probes = manifest.get("planned") or {}, manifest.get("probes")
    updates = 0.0 if probes is None else probes["measured"]["step_seconds"]
    made = _run_steps(manifest)
    run_step = updates / made if updates and made else None
    compilation = manifest.get("compilation")
    return {
        "seconds_per_run_step": {"planned": planned.get("seconds_per_run_step"), "measured": run_step},
        "compile_seconds": {
            "planned": planned.get("compile_seconds"),
            "measured": None if compilation is None else compilation["seconds"],
        },
        "bytes": {"planned": planned.get("bytes_taken"), "measured": manifest.get("measured_bytes")},
        "seconds_left": {"planned": None, "measured": _left(manifest, updates)},
    }


def _left(manifest: dict[str, Any], updates: float) -> float | None:
    """Seconds until a shard is done: of updates as they were, with the probes' planned share, or else that so far."""
    made = manifest["step"] - _first(manifest)
    if manifest["state"] == "done" or not (made and updates):
        return 0.0 if manifest["state"] == "done" else None
    probes = manifest["probes"]
    share = (
        probes["planned"]["share"]
        if probes["planned"]
        else 1 - probes["measured"]["step_seconds"] / _seconds(probes["measured"])
    )
    return (manifest["steps"] - manifest["step"]) * updates / made / max(1 - share, 1e-3)


def _run_steps(manifest: dict[str, Any]) -> int:
    """Steps that were made by all runs together; those that were lost make none once their places are free."""
    made = (manifest["step"] - _first(manifest)) * manifest["runs"]
    return int(manifest.get("run_steps", made))


def _first(manifest: dict[str, Any]) -> int:
    """Where a shard's runs began: below 0 with pre-training."""
    return int(manifest.get("first_step", 0))


def _probes(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What probes took of a shard's time, None where that was not measured.

    ``together``: records by the probes that were due at once, as measured. ``each``: the same apportioned to single
    probes in the ratio of the predicted seconds, None where nothing was predicted.
    """
    probes = manifest.get("probes")
    whole = 0.0 if probes is None else _seconds(probes["measured"])
    if not whole:
        return None
    planned = probes["planned"]
    together, each = [], {}
    for made in probes["measured"]["records"]:
        due = [number for number in range(len(probes["schedules"])) if made["due"] >> number & 1]
        together.append(
            {
                "probes": [name for number in due for name in probes["schedules"][number]["probes"]],
                "records": made["count"],
                "seconds": made["seconds"],
                "share": made["seconds"] / whole,
            }
        )
        if planned is not None:
            weights = {"training loss": planned["record_seconds"]}
            for number in due:
                weights |= planned["probe_seconds"][number]
            for name, weight in weights.items():
                part = made["seconds"] * weight / max(sum(weights.values()), 1e-12)
                each[name] = each.get(name, 0.0) + part
    return {
        "share": sum(made["share"] for made in together),
        "planned_share": None if planned is None else planned["share"],
        "budget": probes["budget"],
        "keep_every": probes["keep_every"],
        "together": together,
        "each": None if planned is None else {k: {"seconds": s, "share": s / whole} for k, s in each.items()},
    }


def _seconds(measured: dict[str, Any]) -> float:
    return measured["step_seconds"] + sum(made["seconds"] for made in measured["records"])


def _modified(path: Path) -> float:
    """Seconds of its newest change; now, where it was moved away meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return time.time()


def _checkpoint_bytes(folder: Path, manifest: dict[str, Any]) -> int:
    """Of those on the disk, or where it holds none, as it is of a store's mirror, of those that the manifest names."""
    kept = [one["checkpoint"] for one in (manifest, manifest.get("previous") or {}) if one.get("checkpoint")]
    return _bytes_below(folder) or sum(int(checkpoint.get("bytes", 0)) for checkpoint in kept)


def _bytes_below(folder: Path) -> int:
    """Bytes of all files; those that a writer removes meanwhile don't count."""
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(where, name)).st_size
    return total


def _shard_lines(shards: list[dict[str, Any]], format: str) -> list[str]:
    if format == "markdown":
        columns = ["shard", "state", "runs", "diverged", "width", "step", "steps", "wall_seconds"]
        lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        return lines + [f"| {' | '.join(str(s[c]) for c in columns)} |" for s in shards]
    lines = []
    for s in shards:
        first, whole = s["first_step"], s["steps"] - s["first_step"]
        share = (s["step"] - first) / whole if whole else 1.0
        step = f"step {s['step']:,} of {s['steps']:,}"
        dropped = f", {s['dropped']} dropped" if s["dropped"] else ""
        if s["step"] < 0:
            step = f"pre-training step {s['step'] - first:,} of {-first:,}"
        lines += [
            f"  {s['shard']}  {s['what']}",
            *wrapped(
                f"{s['state']} · {step} ({share:.0%}) · {s['runs']} runs, {s['diverged']} diverged{dropped} · "
                f"width {s['width']} · kernel {s['kernel']}",
                "    ",
            ),
            *wrapped(
                f"{s['wall_seconds']:,.0f} s of training, {s['run_steps_per_second']:,} run-steps/s · "
                f"last commit {s['last_commit']}",
                "    ",
            ),
            f"    records {size(s['record_bytes'])}, checkpoints {size(s['checkpoint_bytes'])}",
            *_reckoning_lines(s),
            *(_probe_lines(s["probes"]) if s["probes"] is not None else []),
        ]
    return lines


def _reckoning_lines(shard: dict[str, Any]) -> list[str]:
    """Measured, and beside it what was planned, of all that is known."""
    found, made = shard["reckoning"], shard["compilation"]
    told = []
    if (step := found["seconds_per_run_step"])["measured"] is not None:
        told.append(f"{_micro(step['measured'])} µs a run-step{_beside(step['planned'], _micro)}")
    if (taken := found["bytes"])["measured"] is not None:
        told.append(f"{size(taken['measured'])} of memory{_beside(taken['planned'], size)}")
    elif taken["planned"] is not None:
        told.append(f"memory planned {size(taken['planned'])}")
    if (left := found["seconds_left"]["measured"]) and shard["state"] != "done":
        told.append(f"about {_span(left)} left")
    lines = [f"    {' · '.join(told)}"] if told else []
    if made is not None:
        seconds = f"{made['seconds']:.3g} s{_beside(found['compile_seconds']['planned'], lambda s: f'{s:.3g} s cold')}"
        lines.append(f"    {made['programs']} programs compiled in {seconds}, {made['from_cache']} from the cache")
    return lines


def _beside(planned: float | None, said: Callable[[float], str]) -> str:
    return "" if planned is None else f" (planned {said(planned)})"


def _micro(seconds: float) -> str:
    made = 1e6 * seconds
    return f"{made:,.0f}" if made >= 100 else f"{made:.3g}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _probe_lines(probes: dict[str, Any]) -> list[str]:
    planned, kept = probes["planned_share"], probes["keep_every"]
    facts = [] if planned is None else [f"planned {planned:.1%}"]
    facts += [] if probes["budget"] is None else [f"budget {probes['budget']:.3g}"]
    facts += [] if kept == 1 else [f"one in {kept} of their steps is kept"]
    beside = f" ({', '.join(facts)})" if facts else ""
    lines = [f"    probes took {probes['share']:.1%} of the time{beside}"]
    if len(probes["together"]) > 1:
        lines += [
            f"      {made['share']:6.1%} · {made['records']:,} records of {', '.join(made['probes'])}"
            for made in probes["together"]
        ]
    if probes["each"] is not None:
        ranked = sorted(probes["each"].items(), key=lambda item: -item[1]["share"])
        told = [f"{name} {part['share']:.1%}" for name, part in ranked[:DEAREST]]
        told += [f"{len(ranked) - DEAREST} more"] if len(ranked) > DEAREST else []
        lines.append(f"      apportioned by the predicted ratio: {' · '.join(told)}")
    return lines
