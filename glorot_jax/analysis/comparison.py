"""The pairs behind a table: which variants are different, how much, and how many seeds would tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from glorot_jax.analysis.differences import Difference, said_of
from glorot_jax.analysis.formats import FORMATS, Entry, Sheet, cut, rendered
from glorot_jax.analysis.results import Results, load
from glorot_jax.analysis.selection import DEPTH, RATE, path_of
from glorot_jax.analysis.tables import MOST_PAIRS, Table, made_by, plain, tabulate, told_by
from glorot_jax.errors import InputError, unknown


def compare(results: Results, pairs: str = "all", **options: Any) -> pd.DataFrame:
    """Returns the pairs of each column of a table, the one of the lower mean first.

    Columns: column, lower, higher, difference with its 95 % interval, n (seeds of each), paired, p, p_holm (corrected
    over the pairs of the column), told_apart, effect (mean over standard deviation of the differences) with its 95 %
    interval, lowest_p (that the test can give with so many seeds), more_seeds (that would tell them apart, were means
    and deviations to stay; missing where no number would, or none is wanted), and a note.

    Args:
        pairs: ``"all"``, or those with the best of each column alone, ``"best"``; p is corrected over these.
        options: as of ``glorot_jax.table``, and ``layout``.

    Raises:
        InputError: a name is unknown, or nothing was tested.
    """
    return _frame(_listed(tabulate(results, pairs=pairs, **options)))


def compare_setting(results: Results, setting: str, **options: Any) -> pd.DataFrame:
    """Returns the pairs of a setting's values, whatever else varies being the same in both."""
    known = [*results.varying, DEPTH]
    path, select = path_of(setting, known, "setting"), options.get("select") or ()
    placed = [path, *(path_of(name, known, "select") for name in ([select] if isinstance(select, str) else select))]
    placed += [RATE] if not select else []
    placed += ["model.widths"] if DEPTH in placed else []
    others = [c for c in results.varying if c not in placed and not told_by(c, ["data"], results.runs)]
    options.setdefault("columns", others or None)
    return compare(results, rows=[path], **options)


def render_compare(
    folder: str | Path | Sequence[str | Path], pairs: str = "best", format: str = "table", **options: Any
) -> str | bytes:
    """Returns the pairs behind the table of a results folder, or of several together, as text, or bytes for Parquet.

    Args:
        format: table, markdown, csv, latex, parquet, json or html.
        pairs, options: as of ``compare``.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    results = load(folder)
    made = tabulate(results, pairs=pairs, **options)
    found = _listed(made)
    asked = {"pairs": None if pairs == "best" else pairs, **options}
    caption = f"{_caption(results, made, options.get('test'))} {made_by('compare', results, asked)}"
    return rendered(_sheet(made, found, caption), _frame(found), "pairs", format)


def _listed(made: Table) -> list[Difference]:
    """The differences by column, those with the best first, then as the rows are."""
    if not made.differences:
        raise InputError(
            "compare: there are no two variants with two seeds of an error or a loss",
            f"test='proportions' takes one seed; more than {MOST_PAIRS} pairs are tested if a test is named",
        )
    best = {column: row for (row, column), cell in made.cells.items() if cell.best}
    columns, rows = ({name: i for i, name in enumerate(names)} for names in (made.columns, made.rows))
    return sorted(
        made.differences,
        key=lambda d: (columns[d.column], d.lower != best[d.column], rows[d.lower], rows[d.higher]),
    )


def _frame(found: Sequence[Difference]) -> pd.DataFrame:
    rows = [
        {
            "column": d.column,
            "lower": d.lower,
            "higher": d.higher,
            "difference": d.mean,
            "ci95_low": d.low,
            "ci95_high": d.high,
            "n": d.n,
            "paired": d.paired,
            "p": d.p,
            "p_holm": d.p_corrected,
            "told_apart": d.told_apart,
            "effect": d.effect,
            "effect_ci95_low": d.effect_interval[0],
            "effect_ci95_high": d.effect_interval[1],
            "lowest_p": d.lowest_p,
            "more_seeds": d.more_seeds,
            "note": d.note,
        }
        for d in found
    ]
    return pd.DataFrame(rows).astype({"more_seeds": "Int64"})


def _sheet(made: Table, found: Sequence[Difference], caption: str) -> Sheet:
    over_seeds = any(not math.isnan(d.p_corrected) and d.weight > 0 for d in found)
    header = ["", "difference", "n", "p", *["Holm p", "effect size"] * over_seeds, "verdict"]
    lines: list[tuple[Entry, ...]] = []
    for (column, lower), group in groupby(found, key=lambda d: (d.column, d.lower)):
        where = f"{column}: " if len(made.columns) > 1 else ""
        lines.append((Entry(f"{where}above {lower}, {_mean(made, lower, column)}"),))
        for d in group:
            lines += _lines(d, made.percent, over_seeds)
    return Sheet(tuple(header), tuple(lines), caption)


def _mean(made: Table, row: str, column: str) -> str:
    return cut(made.cells[row, column].mean, made.cells[row, column].half_width, made.percent)[0]


def _lines(d: Difference, percent: bool, over_seeds: bool) -> Iterator[tuple[Entry, ...]]:
    mean, half = cut(d.mean, d.mean - d.low, percent)
    low, high = d.effect_interval
    effect = "–" if math.isnan(d.effect) else f"{_two(d.effect)} [{_two(low)}, {_two(high)}]".replace("-", "−")
    more = f", +{d.more_seeds:,} seed{'s' * (d.more_seeds > 1)}" if d.more_seeds else ""
    texts = [
        f"  {d.higher}",
        f"{mean} ± {half}" if half else mean,
        f"{d.n:,}",
        f"{d.p:.2g}",
        *[f"{d.p_corrected:.2g}", effect] * over_seeds,
        "told apart" if d.told_apart else f"open{more}",
    ]
    yield tuple(map(Entry, texts))
    if d.note:
        yield (Entry(f"      {d.note}"),)


def _two(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.12g}" if abs(value) >= 0.001 else f"{value:.1g}"


def _caption(results: Results, made: Table, test: str | None) -> str:
    value = f"{plain(made.value).capitalize()}{' in percentage points' if made.percent else ''}"
    over_examples = test == "proportions"
    parts = [
        f"{value} of {results.name}: difference of the means ± half-width of its 95 % interval, not corrected for the "
        f"number of comparisons. p by {said_of(made.differences, over_examples)}",
    ]
    if not over_examples:
        parts.append(
            "Effect size: mean over standard deviation of the differences, with its 95 % interval. + seeds: so many "
            "more of each would tell the two apart, were all means and deviations to stay."
        )
    if any(cell.diverged for cell in made.cells.values()):
        parts.append(f"A diverged run counts as {'an error of 100 %' if made.percent else 'the highest loss'}.")
    return " ".join(parts)
