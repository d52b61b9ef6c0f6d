"""Tables of variants: means over seeds, and which of a column are not told apart from its best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype

from glorot_jax.analysis.differences import Difference, Sample, over_examples, over_seeds, said_of
from glorot_jax.analysis.formats import FORMATS, Entry, Sheet, cut, rendered
from glorot_jax.analysis.results import Results, load
from glorot_jax.analysis.selection import DEPTH, RATE, absent, path_of, with_depth
from glorot_jax.analysis.selection import select as choose_runs
from glorot_jax.analysis.statistics import interval
from glorot_jax.errors import InputError, unknown

LOWER_IS_BETTER = ("loss", "error")
TESTS = ("paired", "proportions")
LAYOUTS = ("glorot2010",)
PAIRS = ("best", "all")
MOST_PAIRS = 500
"""More of a column are not tested unless a test is asked for."""


@dataclass(frozen=True)
class Cell:
    """One variant's value.

    Attributes:
        mean, half_width, n: over the seeds that have a value, with the half-width of the 95 % interval.
        diverged: seeds lost to divergence.
        dropped: seeds that the sweep's search did not let train to the end; they have no value and are not compared.
        chosen: values of the settings that were chosen for it.
        best: whether its mean, diverged runs counted, is the lowest of its column.
        bold: whether it is the best or not told apart from it, and has a mean; without a test the best alone.
        p, p_corrected: of the difference from the best.
    """

    row: str
    column: str
    mean: float
    half_width: float
    n: int
    diverged: int
    chosen: tuple[str, ...] = ()
    best: bool = False
    bold: bool = False
    p: float = math.nan
    p_corrected: float = math.nan
    dropped: int = 0


@dataclass(frozen=True)
class Table:
    """Cells by row and column, and what has to be said of them.

    Attributes:
        chosen_names: of the settings that were chosen for each cell.
        differences: pairs of each column, tested; empty where no test was made.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    chosen_names: tuple[str, ...]
    value: str
    caption: str
    differences: tuple[Difference, ...] = ()

    @property
    def percent(self) -> bool:
        return "error" in self.value

    def sheet(self) -> Sheet:
        """Returns it as texts: a row's label, and for each column what was chosen, the value, lost seeds."""
        lost, dropped = (any(getattr(cell, name) for cell in self.cells.values()) for name in ("diverged", "dropped"))
        header = [""]
        for column in self.columns:
            header += [*self.chosen_names, column, *["diverged"] * lost, *["dropped"] * dropped]
        lines = []
        for row in self.rows:
            line = [Entry(row)]
            for column in self.columns:
                cell = self.cells.get((row, column))
                line += map(Entry, cell.chosen if cell else [""] * len(self.chosen_names))
                line.append(shown(cell, self.percent))
                line += [Entry(str(cell.diverged if cell else 0))] * lost
                line += [Entry(str(cell.dropped if cell else 0))] * dropped
            lines.append(tuple(line))
        return Sheet(tuple(header), tuple(lines), self.caption)

    def frame(self) -> pd.DataFrame:
        """Returns one row a cell with raw numbers; errors as shares."""
        names = [name.replace(" ", "_") for name in self.chosen_names]
        rows = [
            {**vars(cell), **dict(zip(names, cell.chosen or [""] * len(names), strict=True))}
            for cell in self.cells.values()
        ]
        lost = ["diverged", *["dropped"] * any(cell.dropped for cell in self.cells.values())]
        order = ["row", "column", "mean", "half_width", "n", *lost, *names, "best", "bold", "p", "p_corrected"]
        return pd.DataFrame(rows, columns=order).rename(
            columns={"mean": self.value, "half_width": "ci95_half_width", "n": "n_seeds"}
        )


def table(
    results: Results,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    value: str = "test_error",
    select: str | Sequence[str] | None = None,
    by: str = "valid_error",
    test: str | None = None,
    depth: int | None = None,
    pairs: str = "best",
) -> Table:
    """Returns the table of one value over variants.

    Args:
        rows, columns: settings whose combinations are rows and columns, as paths or their last part; rows are all
            settings that vary and stand nowhere else, columns the data sets, if not said. ``depth`` is the number of
            entries of ``model.widths``.
        value: a column of ``Results.runs``.
        select: settings whose combination is chosen for each variant; the learning rate, where it varies, if not said.
        by: the validation column they are chosen by.
        test: ``"paired"`` tests the pairs of a column over seeds, ``"proportions"`` over test examples, as the paper
            does; the first, where there are two seeds, if not said. A diverged run counts as an error of 1, or as the
            highest loss of its column.
        depth: only runs of so many hidden layers.
        pairs: which are tested, and corrected for: those with the ``"best"`` of the column, or ``"all"``.

    Raises:
        InputError: a name is unknown, there are no results yet, or ``by`` looks at test results.
    """
    runs = evaluated(results, value, depth)
    settings = [c for c in (*results.varying, DEPTH) if c in runs and runs[c].astype(str).nunique(dropna=False) > 1]
    down = [path_of(name, settings, "columns") for name in columns] if columns else [c for c in settings if c == "data"]
    across = [path_of(name, settings, "rows") for name in rows or ()]
    asked = [select] if isinstance(select, str) else list(select or ())
    chosen = [path_of(name, settings, "select") for name in asked]
    if not asked and RATE in settings and RATE not in (*across, *down):
        chosen = [RATE]
    if not rows:
        placed = {*down, *chosen, "model.widths" if DEPTH in (*down, *chosen) else DEPTH}
        across = [c for c in settings if c not in placed and not told_by(c, down, runs)]
    if chosen:
        runs = choose_runs(runs, [*across, *down], chosen, by)
    labels = pd.DataFrame(
        {
            "row": [_label(r, across) or "all runs" for _, r in runs.iterrows()],
            "column": [_label(r, down) or plain(value) for _, r in runs.iterrows()],
        },
        index=runs.index,
    )
    made = fill(results, runs, labels, chosen, value, test, pairs)
    sentences = [
        said_of_means(results, runs, labels, made, [c for c in settings if c not in (*across, *down, *chosen, DEPTH)]),
        "" if depth is None else f"All of {depth} hidden layers.",
        f"{listed(map(name_of, chosen)).capitalize()} chosen for each row by {plain(by)}." if chosen else "",
        *said_of_tests(made, test),
        said_of_dropped(made),
        said_of_progress(results),
    ]
    return replace(made, caption=" ".join(filter(None, sentences)))


def tabulate(results: Results, layout: str | None = None, **options: Any) -> Table:
    """Returns ``table``, or what a layout makes of it.

    Args:
        layout: ``"glorot2010"``: the paper's Table 1, beside its own numbers.
        options: as of ``table``; a layout has its own rows and columns.
    """
    if layout is None:
        return table(results, **options)
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    for name in ("rows", "columns"):
        if options.pop(name, None):
            raise InputError(f"{name}: the layout {layout} has its own", "leave one of them out")
    from glorot_jax.paper.table import table_1

    return table_1(results, **{k: v for k, v in options.items() if v is not None})


def render_table(
    folder: str | Path | Sequence[str | Path], format: str = "table", layout: str | None = None, **options: Any
) -> str | bytes:
    """Returns the table of a results folder, or of several together, as text, or as bytes for Parquet.

    Args:
        format: table, markdown, csv, latex, parquet, json or html.
        layout, options: as of ``tabulate``.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return written(table_of(folder, layout, **options), format)


def table_of(folder: str | Path | Sequence[str | Path], layout: str | None = None, **options: Any) -> Table:
    """Returns the table of a results folder, or of several together, whose caption says how to make it again."""
    results = load(folder)
    made = tabulate(results, layout, **options)
    return replace(made, caption=f"{made.caption} {made_by('table', results, {'layout': layout, **options})}")


def written(made: Table, format: str) -> str | bytes:
    """Returns a table in one of ``FORMATS``."""
    return rendered(made.sheet(), made.frame(), "cells", format)


# ---- cells


def evaluated(results: Results, value: str, depth: int | None = None) -> pd.DataFrame:
    """Returns the sweep's runs, with their depth, if ``value`` was measured of them; of one depth if it is said."""
    runs = results.runs[results.runs["in_sweep"]]
    if runs.empty:
        raise InputError(f"{results.paths[0]}: it has no results yet")
    settings = results.varying
    measured = [c for c in runs if c not in settings and (c == "best_valid_step" or is_float_dtype(runs[c]))]
    if value not in measured:
        raise unknown("value", value, measured)
    runs = with_depth(runs, results.configurations)
    if depth is None:
        return runs
    there = sorted(set(runs[DEPTH].dropna())) if DEPTH in runs else []
    if depth not in there:
        raise InputError(f"depth: no run has {depth} hidden layers", f"there are: {', '.join(map(str, there)) or '–'}")
    return runs[runs[DEPTH] == depth]


def fill(
    results: Results,
    runs: pd.DataFrame,
    labels: pd.DataFrame,
    chosen: Sequence[str],
    value: str,
    test: str | None,
    pairs: str = "best",
) -> Table:
    """Returns the table of runs whose ``labels`` say row and column; its caption is empty.

    Args:
        chosen: settings that were chosen for each cell.
    """
    judged = any(word in value for word in LOWER_IS_BETTER)
    if test is not None and test not in TESTS:
        raise unknown("test", test, TESTS)
    if pairs not in PAIRS:
        raise unknown("pairs", pairs, PAIRS)
    if test is not None and not judged:
        raise InputError(f"value: of {value!r} lower is not better", "tests are of errors and losses")
    if test == "proportions" and "error" not in value:
        raise InputError(f"test: 'proportions' counts examples, and {value!r} is no share of them", "test='paired'")
    examples = _examples(results, value) if test == "proportions" else {}
    groups = dict(iter(runs.groupby([labels["row"], labels["column"]], sort=False)))
    worst = _worst(value, groups)
    cells: dict[tuple[str, str], Cell] = {}
    samples: dict[str, list[Sample]] = {}
    for (row, column), part in groups.items():
        mean, half, n = interval(part[value].to_numpy(float))
        lost = part["status"] == "diverged"
        dropped = int((part["status"] == "dropped").sum())
        nobody = dropped == len(part)  # there was nothing to choose by
        picked = tuple("–" if nobody else number(part[c].iloc[0]) for c in chosen)
        cells[row, column] = Cell(row, column, mean, half, n, int(lost.sum()), picked, dropped=dropped)
        counted = part[value].astype(float).where(part[value].notna() | ~lost, worst.get(column, math.nan))
        by_seed = counted.groupby(part["seed"]).mean().dropna().to_dict()
        if judged and by_seed:
            size = examples.get(results.cohort_of[part.index[0]])
            samples.setdefault(column, []).append(Sample(row, by_seed, int(lost.sum()), size))
    differences: list[Difference] = []
    for column, inside in samples.items():
        found = _tested(column, inside, test, pairs)
        differences += found
        _mark(cells, column, inside, found)
    return Table(
        rows=tuple(dict.fromkeys(row for row, _ in cells)),
        columns=tuple(dict.fromkeys(column for _, column in cells)),
        cells=cells,
        chosen_names=tuple(map(name_of, chosen)),
        value=value,
        caption="",
        differences=tuple(differences),
    )


def _worst(value: str, groups: Mapping[tuple[str, str], pd.DataFrame]) -> dict[str, float]:
    """What a diverged run counts as, by column: the worst error that there is, or the highest loss of the column."""
    columns = dict.fromkeys(column for _, column in groups)
    if "error" in value:
        return dict.fromkeys(columns, 1.0)
    return {c: max(float(part[value].max()) for (_, column), part in groups.items() if column == c) for c in columns}


def _examples(results: Results, value: str) -> dict[str, int]:
    """How many examples an error is a share of, by cohort."""
    name = "test_error" if value.startswith("test") else "valid_error"
    found = {}
    for cohort in results.cohorts:
        sizes = results.records(cohort, [name])[name].attrs
        if "examples" not in sizes:
            raise InputError(f"test: the records don't say of how many examples {name} is a share", "test='paired'")
        found[cohort] = int(sizes["examples"])
    return found


def _tested(column: str, samples: Sequence[Sample], test: str | None, pairs: str) -> list[Difference]:
    if test == "proportions":
        return over_examples(column, samples, pairs)
    seeds, variants = max(len(sample.by_seed) for sample in samples), len(samples)
    many = (variants - 1 if pairs == "best" else math.comb(variants, 2)) > MOST_PAIRS
    return [] if test is None and (seeds < 2 or many) else over_seeds(column, samples, pairs)


def _mark(
    cells: dict[tuple[str, str], Cell], column: str, samples: Sequence[Sample], found: Sequence[Difference]
) -> None:
    """Sets the best of a column, and those that are not told apart from it."""
    if len(samples) < 2:
        return
    best = min(samples, key=lambda sample: sample.mean).name
    cells[best, column] = replace(cells[best, column], best=True, bold=cells[best, column].n > 0)
    for one in found:
        if best in (one.lower, one.higher):
            key = (one.higher if one.lower == best else one.lower), column
            told = {"bold": not one.told_apart and cells[key].n > 0, "p": one.p, "p_corrected": one.p_corrected}
            cells[key] = replace(cells[key], **told)


def told_by(path: str, down: Sequence[str], runs: pd.DataFrame) -> bool:
    """Returns whether a setting is one of a description that stands in the columns, and the same in each of them."""
    family, dot, _ = path.partition(".")
    if not dot or family not in down:
        return False
    return bool((runs[path].astype(str).groupby(runs[family]).nunique(dropna=False) == 1).all())


# ---- words


def _label(run: pd.Series, paths: Sequence[str]) -> str:
    words = []
    for path in paths:
        if absent(run, path):
            continue
        cell, name = run[path], path.rpartition(".")[2]
        if isinstance(cell, str):
            words.append(cell)
        else:
            words.append(f"no {name}" if pd.isna(cell) else f"{name} {number(cell)}")
    return " · ".join(words)


def said_of_means(
    results: Results, runs: pd.DataFrame, labels: pd.DataFrame, made: Table, elsewhere: Iterable[str]
) -> str:
    """Returns the sentence on what the cells hold; of the settings ``elsewhere`` it names those that are pooled."""
    cells = [part for _, part in runs.groupby([labels["row"], labels["column"]], sort=False)]
    pooled = [name_of(c) for c in elsewhere if any(part[c].astype(str).nunique(dropna=False) > 1 for part in cells)]
    counts = [cell.n for cell in made.cells.values() if cell.n or not cell.dropped]
    seeds = sorted(set(counts)) or [0]
    n = f"n = {seeds[0]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
    over, counted = (f"seeds and, pooled, {listed(pooled)}", "run") if pooled else ("seeds", "seed")
    return (
        f"{plain(made.value).capitalize()}{' in percent' if made.percent else ''} of {results.name}: "
        f"mean over {over} ± half-width of the 95 % Student's t interval, {n} {counted}{'s' * (seeds != [1])}."
    )


def said_of_tests(made: Table, test: str | None) -> list[str]:
    """Returns the sentences on what is marked, by which test, and how diverged runs count in it."""
    if not any(cell.best for cell in made.cells.values()):
        return []
    if not made.differences:
        why = "with one seed there is none over seeds"
        if any(cell.n > 1 for cell in made.cells.values()):
            why = f"more than {MOST_PAIRS} comparisons in a column are made if --test asks for them"
        return [f"Best mean marked; no test of difference was made: {why}."]
    lost = any(cell.diverged for cell in made.cells.values())
    counted = "an error of 100 %" if made.percent else "the highest loss of its column"
    return [
        f"Marked: not told apart from the column's lowest mean by {said_of(made.differences, test == 'proportions')}",
        f"The test counts a diverged run as {counted}; the means shown leave it out." if lost else "",
    ]


def said_of_dropped(made: Table) -> str:
    """Returns the sentence on runs that a search dropped; empty if it dropped none."""
    dropped = sum(cell.dropped for cell in made.cells.values())
    if not dropped:
        return ""
    have = "it has" if dropped == 1 else "they have"
    said = f"The search dropped {dropped} of these runs before the end"
    return f"{said}: {have} no final value, and the test leaves such out."


def said_of_progress(results: Results) -> str:
    """Returns the sentence on runs that are not at their end; empty if all are."""
    runs = results.runs[results.runs["in_sweep"]]
    unfinished = runs[runs["step"] < runs["steps"]]
    if unfinished.empty:
        return ""
    least = unfinished.loc[(unfinished["step"] / unfinished["steps"]).idxmin()]
    where = "in pre-training" if least["step"] < 0 else f"step {least['step']:,} of {least['steps']:,}"
    return f"Partial: {where}."


def made_by(verb: str, results: Results, options: Mapping[str, Any]) -> str:
    """Returns the sentence on the command that makes the same again."""
    words = [path.name for path in results.paths]
    for name, value in options.items():
        if value is not None and value != {"value": "test_error", "by": "valid_error"}.get(name):
            words += [f"--{name}", str(value) if isinstance(value, str | int) else ",".join(value)]
    return f"Made by: glorot {verb} {' '.join(words)}"


def plain(value: str) -> str:
    """Returns the name of a value in words."""
    words = {"valid": "validation", "train": "training"}
    return " ".join(words.get(word, word) for word in value.split("_"))


def name_of(path: str) -> str:
    """Returns the name of a setting in words."""
    return path.rpartition(".")[2].replace("_", " ")


def listed(names: Iterable[str], last: str = "and") -> str:
    """Returns names as a person lists them."""
    *before, end = names
    return f"{', '.join(before)} {last} {end}" if before else end


def number(value: Any) -> str:
    """Returns a setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(cell: Cell | None, percent: bool) -> Entry:
    """Returns mean ± half-width, cut by the interval."""
    if cell is None:
        return Entry("–")
    if cell.dropped and not cell.n:
        return Entry("dropped")
    mean, half = cut(cell.mean, cell.half_width, percent)
    return Entry(f"{mean} ± {half}" if half else mean, cell.bold)
