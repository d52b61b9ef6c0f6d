"""The whole paper in one go: every sweep, the baseline, Table 1, the figures, the claims, and a page of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glorot_jax.errors import InputError, unknown
from glorot_jax.files import write
from glorot_jax.paper.settings import SIZES, Scale

if TYPE_CHECKING:
    from glorot_jax.analysis.claims import Judgement
    from glorot_jax.engine.sweep import Sweep
    from glorot_jax.engine.watching import Watcher
    from glorot_jax.signals import Signals

EXPERIMENTS = {
    "initialization": "Figures 6, 7 and 8; singular values",
    "saturation": "Figures 2, 3, 4, 9 and 10",
    "shapeset": "Figure 11; Table 1",
    "pretraining": "Figure 11",
    "mnist": "Figure 12; Table 1",
    "cifar10": "Figure 12; Table 1",
    "small_imagenet": "Table 1",
    "quadratic_cost": "section 4.1",
    "unequal_widths": "section 4.2.2",
    "finite_shapeset": "section 2.1",
    "second_order": "section 5",
}
"""The sweeps of ``sweeps/glorot2010`` in the order in which they are run, and what of the paper they are for."""
PAGE = "README.md"

INCONSISTENCIES = Path(__file__).with_name("inconsistencies.md")
"""What in the paper does not fit together, or is not said."""


def paper(
    out: str | Path,
    scale: Scale = "small",
    *,
    only: Sequence[str] = (),
    progress: Watcher | None = None,
    say: Callable[[str], None] = print,
    segment_seconds: float = 30.0,
    signals: Signals | None = None,
) -> Path:
    """Runs the paper's sweeps into a folder, what is missing of them, and writes table, figures, claims and page.

    Args:
        out: the folder; each sweep has one of its own inside. The same call goes on where it was stopped.
        scale: ``"small"``, for two CPU cores, or ``"full"``, the paper's own.
        only: names among ``EXPERIMENTS``; all of them if none is given.
        progress: who is told of training, as of ``run``.
        say: takes lines for a person.
        segment_seconds, signals: as of ``run``.

    Returns:
        The page.

    Raises:
        InputError: a name is unknown, or the folder holds something else.
        Stopped, ResumableError: as of ``run``; the same call goes on.
    """
    if scale not in SIZES:
        raise unknown("scale", scale, SIZES)
    for name in only:
        if name not in EXPERIMENTS:
            raise unknown("only", name, EXPERIMENTS)
    folder = Path(out)
    how = {"progress": progress, "segment_seconds": segment_seconds, "signals": signals}
    skipped = dict(_train(folder, scale, only or tuple(EXPERIMENTS), say, how))
    skipped |= _baseline(folder / "finite_shapeset", say)
    return _write(folder, scale, skipped, say)


def _train(
    folder: Path, scale: Scale, names: Sequence[str], say: Callable[[str], None], how: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Trains the sweeps; gives those whose data can't be had here, each with the reason."""
    from glorot_jax.engine import drive

    for number, name in enumerate(names, start=1):
        described = sweep_of(name, scale)
        if missing := _missing(described):
            say(f"{name}: not run, {missing}")
            yield name, missing
            continue
        say(f"{name} ({number} of {len(names)}): {EXPERIMENTS[name]}")
        drive.run(described, folder / name, **how)


def _baseline(results: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Trains the support vector machine beside the networks that have its examples; gives the reason if it can't."""
    from glorot_jax import baselines

    if not (results / "sweep.json").exists():
        return {}
    say("support vector machine")
    try:
        baselines.svm_beside(results)
    except InputError as error:
        say(f"support vector machine: not run, {error}")
        return {"support vector machine": str(error).replace("\n  hint", "")}
    return {}


def sweep_of(name: str, scale: Scale) -> Sweep:
    """Returns one of the paper's sweeps as it comes with the package."""
    from glorot_jax.engine.sweep import load_sweep

    return load_sweep(f"glorot2010/{name}", [f"scale={scale}"])


def _missing(described: Sweep) -> str:
    """Why its data can't be had here, empty if it can."""
    from glorot_jax.data import pictures

    name = described.data.kind()
    states = {row["name"]: row["state"] for row in pictures.listing(None)}
    return "" if states[name] in ("drawn", "ready") else f"{name} is not prepared here: glorot data prepare {name}"


# ---- what is written


def _write(folder: Path, scale: Scale, skipped: Mapping[str, str], say: Callable[[str], None]) -> Path:
    done = [name for name in EXPERIMENTS if (folder / name / "sweep.json").exists()]
    parts = [
        _opening(folder, scale, done),
        _reduced(folder, scale, done, skipped),
        _table(folder, done, say),
        _claims(folder, done, say),
        _figures(folder, say),
        _inconsistent(),
    ]
    page = folder / PAGE
    write(page, "\n\n".join(filter(None, parts)).encode() + b"\n")
    return page


def _opening(folder: Path, scale: Scale, done: Sequence[str]) -> str:
    machine = json.loads((folder / done[0] / "environment.json").read_text(encoding="utf-8"))
    versions = machine["versions"]
    minutes = sum(_seconds(folder / name) for name in done) / 60
    return (
        f"# Glorot & Bengio (2010) at the {scale} scale\n\n"
        f"X. Glorot and Y. Bengio, *Understanding the difficulty of training deep feedforward neural networks*, "
        f"AISTATS 2010, from new runs. Made by `glorot paper --scale {scale}` in {minutes:.0f} minutes on "
        f"{machine['cores']} cores of {machine['processor']} ({len(machine['devices'])} {machine['platform']} devices)"
        f", glorot_jax {versions['glorot_jax']}, JAX {versions['jax']}, Python {versions['python']}."
    )


def _seconds(results: Path) -> float:
    """From each start of a sweep to where it was done or last committed something."""
    from glorot_jax.analysis.results import load

    total, begun, last = 0.0, None, None
    for event in load(results).events:
        now = datetime.fromisoformat(event["time"])
        if event["event"] == "start":
            total += (last - begun).total_seconds() if begun else 0.0
            begun = now
        last = now
    return total + ((last - begun).total_seconds() if begun and last else 0.0)


def _reduced(folder: Path, scale: Scale, done: Sequence[str], skipped: Mapping[str, str]) -> str:
    lines = ["| sweep | of the paper | here | at the paper's own scale | minutes |", "| :-- | :-- | :-- | :-- | --: |"]
    for name in done:
        ran = json.loads((folder / name / "sweep.json").read_text(encoding="utf-8"))["settings"]
        here = next((s.partition("=")[2] for s in ran if s.startswith("scale=")), "small")
        minutes = _seconds(folder / name) / 60
        lines.append(
            f"| {name} | {EXPERIMENTS[name]} | {_said(sweep_of(name, here))} | {_said(sweep_of(name, 'full'))} "  # type: ignore[arg-type]
            f"| {minutes:.1f} |"
        )
    absent = [
        f"- {name} ({EXPERIMENTS[name]}): {skipped.get(name) or _missing(sweep_of(name, scale)) or 'not asked for'}."
        for name in EXPERIMENTS
        if name not in done
    ]
    absent += [f"- {name}: {reason}." for name, reason in skipped.items() if name not in EXPERIMENTS]
    return "\n".join(
        [
            "## What was run, and what was reduced\n",
            *lines,
            *(["\nNot run:\n", *absent] if absent else []),
            "\nThe paper names neither learning rates nor seeds. Learning rates are chosen on validation error for "
            "each model; every variant has several seeds, and intervals are over seeds.",
        ]
    )


def _said(sweep: Sweep) -> str:
    """A sweep's size in a few words."""
    runs = sweep.runs()
    widths = {tuple(run.model.widths) for run in runs}
    depths = sorted({len(w) for w in widths})
    units = sorted({unit for w in widths for unit in w})
    rates = sorted({run.optimizer.per_run()["learning_rate"] for run in runs})
    return (
        f"{len(runs)} runs of {_span(depths)}×{_span(units)} units, {sweep.steps:,} updates, {len(sweep.seeds)} seeds"
        + (f", learning rates {', '.join(f'{rate:g}' for rate in rates)}" if sweep.steps else "")
    )


def _span(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _table(folder: Path, done: Sequence[str], say: Callable[[str], None]) -> str:
    from glorot_jax.analysis.tables import table_of, written
    from glorot_jax.paper.published import DATA

    names = [name for name in done if name in DATA]
    if not names:
        return ""
    made = table_of([folder / name for name in names], layout="glorot2010")
    for ending, format in {"md": "markdown", "tex": "latex", "csv": "csv", "html": "html"}.items():
        write(folder / f"table1.{ending}", f"{written(made, format)}\n".encode())
    say(f"table: {folder / 'table1.md'} and as LaTeX, CSV, HTML")
    return f"## Table 1\n\n{(folder / 'table1.md').read_text(encoding='utf-8').rstrip()}"


def _claims(folder: Path, done: Sequence[str], say: Callable[[str], None]) -> str:
    from glorot_jax.analysis.claims import NOT_REPRODUCED, UNDECIDED, claims, render_claims

    found = [replace(one, folder=Path(one.folder).name) for one in claims([folder / name for name in done])]
    write(folder / "claims.csv", f"{render_claims(found, 'csv')}\n".encode())
    text = render_claims(found, "markdown")
    write(folder / "claims.md", f"{text}\n".encode())
    say(f"claims: {folder / 'claims.md'}")
    told = [(one.sweep.partition("-")[2], judged) for one in found for judged in one.judgements]
    differ = [f"- {j.statement} ({name}) {_told(j)}" for name, j in told if j.verdict == NOT_REPRODUCED]
    open_ = [f"- {j.statement} ({name}) {_told(j)}" for name, j in told if j.verdict == UNDECIDED]
    return "\n\n".join(
        [
            "## Where these results differ from the paper",
            "\n".join(differ) or "Nowhere that a claim was decided.",
            "Undecided at this size:",
            "\n".join(open_) or "None.",
            "## Claims",
            text,
        ]
    )


def _told(judged: Judgement) -> str:
    """What was measured of a claim that is not reproduced."""
    if judged.reason:
        return f"Undecided: {judged.reason}."
    return f"{judged.statistic.capitalize()}: {judged.mean:.3g} [{judged.low:.3g}, {judged.high:.3g}], n = {judged.n}."


def _figures(folder: Path, say: Callable[[str], None]) -> str:
    from glorot_jax.figures import figures

    try:
        drawn = figures(folder, folder / "figures", data=True)
    except InputError as error:
        say(f"figures: {error}")
        return f"## Figures\n\nNone were drawn: {error}"
    for line in drawn.missing:
        say(line)
    say(f"figures: {folder / 'figures'}")
    shown = [f"### {d.title}\n\n![{d.title}](figures/{d.name}.png)\n\n{d.caption}" for d in drawn.drawings]
    absent = [f"- {line}" for line in drawn.missing]
    return "\n\n".join(["## Figures", *shown, "\n".join(absent)]).rstrip()


def _inconsistent() -> str:
    title = "## What in the paper does not fit together, or is not said"
    return f"{title}\n\n{INCONSISTENCIES.read_text(encoding='utf-8').rstrip()}"
