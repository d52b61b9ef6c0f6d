"""Table 1 of the paper from one's own runs, each number above the paper's own."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from glorot_jax.analysis.formats import Entry, Sheet
from glorot_jax.analysis.results import Results
from glorot_jax.analysis.selection import DEPTH, RATE, path_of
from glorot_jax.analysis.selection import select as choose_runs
from glorot_jax.analysis.tables import (
    Table,
    evaluated,
    fill,
    listed,
    name_of,
    plain,
    said_of_means,
    said_of_progress,
    said_of_tests,
    shown,
)
from glorot_jax.engine.sweep import Sweep
from glorot_jax.errors import InputError
from glorot_jax.paper.published import DATA, MODELS, TABLE_1
from glorot_jax.specs import SPECS, mlp, sgd

FREE = {
    *("name", "seed", "in_sweep", "model.widths", "model.activation", "model.init", RATE),
    *("data", "data.scaling", "data.size", "data.validation", "data.test", "steps", "batch_size"),
    *("probes", "examples", "jacobian_examples", "order", "probe_budget"),
}
"""Settings in which runs of the table may differ from each other and from what is usual; so may when they record."""

TRAINING = ("data.scaling", "data.size", "data.validation", "data.test", "steps", "batch_size")
"""Those of them, besides the units of a layer, that are the same for all models of a column."""


@dataclass(frozen=True)
class PaperTable(Table):
    """Table 1: all of its rows and columns, whether they were run or not."""

    def sheet(self) -> Sheet:
        """Returns it as texts: of each model what was measured, what the paper prints, and what was chosen."""
        lines = []
        for row in self.rows:
            cells = [self.cells.get((row, column)) for column in self.columns]
            printed = [TABLE_1[row][column] for column in self.columns]
            lines.append((Entry(row), *(shown(cell, self.percent) for cell in cells)))
            lines.append((Entry("  paper"), *(Entry(f"{one.error:.2f}", one.bold) for one in printed)))
            if self.chosen_names:
                picked = (", ".join(cell.chosen) if cell else "–" for cell in cells)
                lines.append((Entry(f"  {', '.join(self.chosen_names)}"), *map(Entry, picked)))
            if any(cell.diverged for cell in cells if cell):
                lost = (str(cell.diverged) if cell else "–" for cell in cells)
                lines.append((Entry("  diverged"), *map(Entry, lost)))
        return Sheet(("", *self.columns), tuple(lines), self.caption)

    def frame(self) -> pd.DataFrame:
        """Returns one row a cell with raw numbers, the paper's among them; errors as shares."""
        keys = [(row, column) for row in self.rows for column in self.columns]
        found = pd.DataFrame(keys, columns=["row", "column"]).merge(super().frame(), how="left")
        found = found.astype({"n_seeds": "Int64", "diverged": "Int64", "best": "boolean", "bold": "boolean"})
        printed = [TABLE_1[row][column] for row, column in keys]
        return found.assign(paper=[round(p.error / 100, 4) for p in printed], paper_bold=[p.bold for p in printed])


def table_1(
    results: Results,
    value: str = "test_error",
    select: str | Sequence[str] = (RATE, DEPTH),
    by: str = "valid_error",
    test: str | None = None,
    depth: int | None = None,
    pairs: str = "best",
) -> PaperTable:
    """Returns the paper's Table 1 from those runs that are as the paper's.

    A run is told by its configuration: a multi-layer perceptron of one of the five models on one of the four data sets,
    of layers of one width, with nothing but ``FREE`` settings away from their defaults. Others, such as those with
    another optimizer, another loss or pre-training, are left out, and counted in the caption. So are those that were
    trained otherwise than most of their column, such as for other steps.

    Args:
        value: an error, such as ``test_error``.
        select: what is chosen for each model and data set; learning rate and depth, as the paper's text has it.
        by: the validation column they are chosen by.
        test, depth, pairs: as of ``glorot_jax.table``; the paper's caption says depth 5 for all.

    Raises:
        InputError: a name is unknown, no run belongs to the table, or ``by`` looks at test results.

    Source: Glorot & Bengio (2010), Table 1 and section 2.3.
    """
    if "error" not in value:
        raise InputError(f"value: {value!r} is no error", "Table 1 has test_error or test_error_at_best_valid")
    runs = evaluated(results, value, depth)
    settings = results.configurations.loc[runs.index]
    strange = {run: _strange(settings.loc[run]) for run in runs.index}
    kept = [run for run, names in strange.items() if not names]
    if not kept:
        raise InputError(f"layout: no run of {results.name} belongs to Table 1", f"they differ in {_all(strange)}")
    strange |= _trained_otherwise(settings.loc[kept])
    kept = [run for run in kept if not strange[run]]
    settings = settings.loc[kept]
    runs = runs.loc[kept].assign(**{path: settings[path] for path in _TOLD})
    asked = [select] if isinstance(select, str) else select
    known = list(dict.fromkeys([*results.varying, *_TOLD, DEPTH]))
    chosen = [path_of(name, known, "select") for name in asked]
    chosen = [path for path in chosen if path != DEPTH or depth is None]
    if chosen:
        runs = choose_runs(runs, _TOLD[:3], chosen, by)
    settings = settings.loc[runs.index]
    labels = pd.DataFrame(
        {
            "row": [MODELS[key] for key in zip(settings["model.activation"], settings["model.init"], strict=True)],
            "column": settings["data"].map(DATA),
        },
        index=runs.index,
    )
    made = fill(results, runs, labels, chosen, value, test, pairs)
    sentences = [
        said_of_means(results, runs, labels, made, [c for c in results.varying if c not in (*chosen, *_TOLD)]),
        f"{listed(map(name_of, chosen)).capitalize()} chosen for each by {plain(by)}." if chosen else "",
        _said_of_networks(runs, settings, depth),
        *said_of_tests(made, test),
        "“paper”: the numbers of Glorot & Bengio (2010), Table 1, marked where they are bold there.",
        *_said_of_gaps(made),
        _said_of_others(strange),
        said_of_progress(results),
    ]
    rows, columns = tuple(TABLE_1), tuple(DATA.values())
    return PaperTable(**vars(made) | {"rows": rows, "columns": columns, "caption": " ".join(filter(None, sentences))})


_TOLD = ("model.activation", "model.init", "data", RATE)


# ---- which runs


@cache
def _usual(data: str) -> dict[str, Any]:
    """The configuration of a run on this data that leaves all at its default, as tables of runs hold it."""
    one = Sweep(name="usual", data=SPECS[data](), model=mlp(), optimizer=sgd(learning_rate=0.1), seeds=(0,), steps=1)
    config = one.runs()[0].config
    return {path: json.dumps(value) if isinstance(value, list | dict) else value for path, value in config.items()}


def _strange(run: pd.Series) -> list[str]:
    """The settings by which a run is none of the table's."""
    if run["data"] not in DATA:
        return ["data"]
    usual = _usual(str(run["data"]))
    names = [
        path
        for path, value in zip(map(str, run.index), run, strict=True)
        if path not in FREE and path.partition(".")[0] != "record" and not pd.isna(value) and value != usual.get(path)
    ]
    names = [path for path in names if "." not in path or path.partition(".")[0] not in names]
    if not names and (run["model.activation"], run["model.init"]) not in MODELS:
        names.append("activation and init")
    if not names and len(set(json.loads(run["model.widths"]))) > 1:
        names.append("model.widths")
    return names


def _trained_otherwise(settings: pd.DataFrame) -> dict[Hashable, list[str]]:
    """The settings by which runs differ from those of their column that hold most of the models, then most runs."""
    units = settings["model.widths"].map(lambda widths: json.loads(widths)[0])
    trained = settings[[path for path in TRAINING if path in settings]].assign(units=units).map(str)
    model = settings["model.activation"] + settings["model.init"]
    strange: dict[Hashable, list[str]] = {}
    for _, column in trained.groupby(settings["data"]):
        groups = [part for _, part in column.groupby(list(column))]
        most = max(groups, key=lambda part: (model[part.index].nunique(), len(part))).iloc[0]
        strange |= {run: list(column.columns[column.loc[run] != most]) for run in column.index}
    return strange


# ---- words


def _all(strange: Mapping[Hashable, Sequence[str]]) -> str:
    """The settings by which runs differ, each once."""
    return ", ".join(dict.fromkeys(name_of(name) for names in strange.values() for name in names))


def _said_of_others(strange: Mapping[Hashable, Sequence[str]]) -> str:
    count = sum(bool(names) for names in strange.values())
    return f"Left out: {count} runs, which differ from these in {_all(strange)}." if count else ""


def _said_of_networks(runs: pd.DataFrame, settings: pd.DataFrame, depth: int | None) -> str:
    units = sorted({unit for widths in settings["model.widths"] for unit in json.loads(widths)})
    steps, batches = (sorted(set(settings[name].astype(int))) for name in ("steps", "batch_size"))
    layers = sorted(set(runs[DEPTH].astype(int)))
    advice = "" if depth is not None or layers == [5] else "; --depth 5 takes those alone"
    return (
        f"{_either(layers)} hidden layers of {_either(units)} units, {_either(steps)} updates of {_either(batches)} "
        f"examples; in the paper 5 of 1,000, as its caption says, and up to 5,000,000 of 10{advice}."
    )


def _either(values: Sequence[int]) -> str:
    return listed([f"{value:,}" for value in values], "or")


def _said_of_gaps(made: Table) -> list[str]:
    """The sentences on cells that were not run, and on what only stands for the paper's."""
    there = {column for _, column in made.cells}
    missing = [f"{column} (glorot run glorot2010/{name})" for name, column in DATA.items() if column not in there]
    single = [f"{r} on {c}" for c in DATA.values() if c in there for r in TABLE_1 if (r, c) not in made.cells]
    told = []
    if gaps := [*missing, *single]:
        told.append(f"–: not run, and added by a folder named beside the others: {', '.join(gaps)}.")
    if DATA["small_imagenet"] in there:
        told.append("ImageNet is our substitute for the paper's Small-ImageNet, which is not published.")
    return told
