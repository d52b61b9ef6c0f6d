"""Tables of variants: one model of cells, written for a screen, a paper or a program."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype

from glorot_jax.analysis.results import Results, load
from glorot_jax.analysis.selection import path_of
from glorot_jax.analysis.selection import select as choose_runs
from glorot_jax.analysis.statistics import interval
from glorot_jax.errors import InputError, unknown

LOWER_IS_BETTER = ("loss", "error")


@dataclass(frozen=True)
class Cell:
    """One variant's value: mean over seeds, half-width of its 95 % interval, seeds, and seeds lost to divergence."""

    row: str
    column: str
    mean: float
    half_width: float
    n: int
    diverged: int
    chosen: str
    best: bool


@dataclass(frozen=True)
class Table:
    """Cells by row and column, and what has to be said of them."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    chosen_name: str
    value: str
    caption: str

    @property
    def percent(self) -> bool:
        return "error" in self.value


def table(
    results: Results,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    value: str = "test_error",
    select: str | None = None,
    by: str = "valid_error",
) -> Table:
    """Returns the table of one value over variants.

    Args:
        rows, columns: settings whose combinations are rows and columns, as paths or their last part; rows are all
            settings that vary and stand nowhere else, columns the data sets, if not said.
        value: a column of ``Results.runs``.
        select: a setting that is chosen for each variant; the learning rate, where it varies, if not said.
        by: the validation column it is chosen by.

    Raises:
        InputError: a name is unknown, there are no results yet, or ``by`` looks at test results.
    """
    runs = results.runs[results.runs["in_sweep"]]
    settings = results.varying
    if runs.empty:
        raise InputError(f"{results.paths[0]}: it has no results yet")
    measured = [c for c in runs if c not in settings and (c == "best_valid_step" or is_float_dtype(runs[c]))]
    if value not in measured:
        raise unknown("value", value, measured)
    chosen = path_of(select, settings, "select") if select else None
    if chosen is None and "optimizer.learning_rate" in settings and not _uses(rows, columns, "learning_rate"):
        chosen = "optimizer.learning_rate"
    down = [path_of(name, settings, "columns") for name in columns or ()] if columns else _data_columns(settings)
    across = [path_of(name, settings, "rows") for name in rows] if rows else None
    if across is None:
        across = [c for c in settings if c not in down and c != chosen]
    if chosen is not None:
        runs = choose_runs(runs, [*across, *down], chosen, by)
    return _assemble(results, runs, across, down, value, chosen, by)


def render_table(
    folder: str | Path,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    value: str = "test_error",
    select: str | None = None,
    by: str = "valid_error",
    format: str = "table",
) -> str | bytes:
    """Returns the table of a results folder as text, or as bytes for Parquet; arguments as for ``table``.

    Args:
        format: table, markdown, csv, latex, parquet or json.
    """
    if format not in WRITERS:
        raise unknown("format", format, WRITERS)
    return WRITERS[format](table(load(folder), rows, columns, value, select, by))


def _uses(rows: Sequence[str] | None, columns: Sequence[str] | None, name: str) -> bool:
    return any(c.endswith(name) for c in (*(rows or ()), *(columns or ())))


def _data_columns(settings: Sequence[str]) -> list[str]:
    return [c for c in settings if c == "data"]


def _assemble(
    results: Results,
    runs: pd.DataFrame,
    across: Sequence[str],
    down: Sequence[str],
    value: str,
    chosen: str | None,
    by: str,
) -> Table:
    labels = pd.DataFrame(
        {
            "row": [_label(results, r, across) or "all runs" for _, r in runs.iterrows()],
            "column": [_label(results, r, down) or _plain(value) for _, r in runs.iterrows()],
        },
        index=runs.index,
    )
    cells: dict[tuple[str, str], Cell] = {}
    elsewhere = [c for c in results.varying if c not in (*across, *down, chosen)]
    pooled: dict[str, None] = {}
    for (row, column), part in runs.groupby([labels["row"], labels["column"]], sort=False):
        mean, half, n = interval(part[value].to_numpy(float))
        pooled |= dict.fromkeys(c for c in elsewhere if part[c].astype(str).nunique() > 1)
        lost = int((part["status"] == "diverged").sum())
        picked = _number(part[chosen].iloc[0]) if chosen else ""
        cells[row, column] = Cell(row, column, mean, half, n, lost, picked, False)
    for column in dict.fromkeys(c for _, c in cells):
        inside = [cell for cell in cells.values() if cell.column == column and not math.isnan(cell.mean)]
        if inside and len(inside) > 1 and any(word in value for word in LOWER_IS_BETTER):
            best = min(inside, key=lambda cell: cell.mean)
            cells[best.row, column] = Cell(**{**asdict(best), "best": True})
    return Table(
        rows=tuple(dict.fromkeys(row for row, _ in cells)),
        columns=tuple(dict.fromkeys(column for _, column in cells)),
        cells=cells,
        chosen_name=chosen.rpartition(".")[2].replace("_", " ") if chosen else "",
        value=value,
        caption=_caption(results, pooled, value, chosen, by, list(cells.values())),
    )


def _label(results: Results, run: pd.Series, paths: Sequence[str]) -> str:
    words = []
    for path in paths:
        cell, name = run[path], path.rpartition(".")[2]
        words.append(str(cell) if isinstance(cell, str) else f"{name} {_number(cell)}")
    return " · ".join(words)


def _caption(
    results: Results, pooled: Iterable[str], value: str, chosen: str | None, by: str, cells: Sequence[Cell]
) -> str:
    seeds = sorted({cell.n for cell in cells})
    n = f"n = {seeds[0]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
    others = ", ".join(c.rpartition(".")[2].replace("_", " ") for c in pooled)
    over, counted = (f"seeds and, pooled, {others}", "runs") if others else ("seeds", "seeds")
    parts = [
        f"{_plain(value).capitalize()}{' in percent' if 'error' in value else ''} of {results.name}: "
        f"mean over {over} ± half-width of the 95 % Student's t interval, {n} {counted}."
    ]
    if chosen:
        parts.append(f"{chosen.rpartition('.')[2].replace('_', ' ').capitalize()} chosen for each row by {_plain(by)}.")
    if any(cell.best for cell in cells):
        parts.append("Best mean marked; no test of difference was made.")
    runs = results.runs[results.runs["in_sweep"]]
    unfinished = runs[runs["step"] < runs["steps"]]
    if len(unfinished):
        least = unfinished.loc[(unfinished["step"] / unfinished["steps"]).idxmin()]
        where = "in pre-training" if least["step"] < 0 else f"step {least['step']:,} of {least['steps']:,}"
        parts.append(f"Partial: {where}.")
    parts.append(f"Made by: glorot table {results.paths[0].name}")
    return " ".join(parts)


def _plain(value: str) -> str:
    words = {"valid": "validation", "train": "training"}
    return " ".join(words.get(word, word) for word in value.split("_"))


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(cell: Cell | None, percent: bool) -> tuple[str, str]:
    """Returns mean and half-width as text, cut by the interval: two digits of it."""
    if cell is None or math.isnan(cell.mean):
        return ("–", "")
    scale = 100 if percent else 1
    mean, half = cell.mean * scale, cell.half_width * scale
    if math.isnan(half):
        return (f"{mean:.4g}", "")
    kept = float(f"{half:.1e}")  # 0.0996 is 0.10: counted after rounding
    digits = min(6, max(0, 1 - math.floor(math.log10(kept)))) if half > 0 else 2
    return (f"{mean:.{digits}f}", f"{half:.{digits}f}")


# ---- writers


def _grid(made: Table, plus: str, bold: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Header and lines as text: a row's label, what was chosen, its values, lost seeds."""
    lost = any(cell.diverged for cell in made.cells.values())
    header = [""]
    for column in made.columns:
        header += [made.chosen_name] * bool(made.chosen_name) + [column] + ["diverged"] * lost
    lines = []
    for row in made.rows:
        line = [row]
        for column in made.columns:
            cell = made.cells.get((row, column))
            mean, half = shown(cell, made.percent)
            text = f"{mean}{plus}{half}" if half else mean
            line += [cell.chosen if cell else ""] * bool(made.chosen_name)
            line.append(bold(text) if cell and cell.best else text)
            line += [str(cell.diverged if cell else 0)] * lost
        lines.append(line)
    return header, lines


def _screen(made: Table) -> str:
    header, lines = _grid(made, " ± ", lambda text: f"{text} *")
    widths = [max(len(line[i].removesuffix(" *")) for line in [header, *lines]) for i in range(len(header))]

    def laid(line: list[str]) -> str:
        # Numbers end under each other; the star of the best hangs out to the right.
        cells = [line[0].ljust(widths[0])]
        for text, width in zip(line[1:], widths[1:], strict=True):
            number = text.removesuffix(" *")
            cells.append(number.rjust(width) + (" *" if number != text else "  "))
        return "  ".join(cells).rstrip()

    rule = "─" * min(100, max(len(laid(line)) for line in [header, *lines]))
    return "\n".join([laid(header), rule, *map(laid, lines), rule, *_wrapped(made.caption)])


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 80)


def _markdown(made: Table) -> str:
    header, lines = _grid(made, " ± ", lambda text: f"**{text}**")
    align = [":--", *["--:"] * (len(header) - 1)]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in [header, align, *lines]]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + f"\n\n{made.caption}"


def _latex(made: Table) -> str:
    header, lines = _grid(made, " ± ", lambda text: f"\0{text}\1")
    body = [" & ".join(map(_tex, line)) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_tex(made.caption)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(_tex, header))} \\\\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "[": "{[}",  # after \\ or \midrule a bracket would open an option
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "\0": r"\textbf{",
    "\1": "}",
}


def _tex(text: str) -> str:
    return re.sub("[" + re.escape("".join(_TEX)) + "]", lambda m: _TEX[m.group()], text)


def frame(made: Table) -> pd.DataFrame:
    """Returns one row a cell with raw numbers; errors as shares."""
    kept = [dict(asdict(cell).items()) for cell in made.cells.values()]
    return pd.DataFrame(kept).rename(
        columns={
            "mean": made.value,
            "half_width": "ci95_half_width",
            "n": "n_seeds",
            "chosen": made.chosen_name.replace(" ", "_") or "chosen",
        }
    )


def _csv(made: Table) -> str:
    return frame(made).to_csv(index=False).rstrip("\n")


def _json_text(made: Table) -> str:
    cells = json.loads(frame(made).to_json(orient="records"))
    return json.dumps({"caption": made.caption, "cells": cells}, indent=1, ensure_ascii=False)


def _parquet(made: Table) -> bytes:
    buffer = io.BytesIO()
    frame(made).to_parquet(buffer, index=False)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Table], str | bytes]] = {
    "table": _screen,
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
    "parquet": _parquet,
    "json": _json_text,
}
