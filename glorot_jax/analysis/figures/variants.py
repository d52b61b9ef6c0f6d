"""Which runs stand for what is drawn, and what was recorded of them, as statistics over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from glorot_jax.analysis.results import Results
from glorot_jax.analysis.selection import RATE, absent, select
from glorot_jax.analysis.statistics import interval
from glorot_jax.analysis.tables import name_of, number

if TYPE_CHECKING:
    import xarray as xr


class NotRecordedError(LookupError):
    """Something can't be drawn: its text says what is missing."""


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seeds alone.

    Attributes:
        label: as it is called in figures.
        results: where the runs are.
        runs: one row a run: the settings and what ``Results.runs`` has.
        settings: by path, those that tell variants apart.
        searched: whether their learning rate was chosen among several.
    """

    label: str
    results: Results
    runs: pd.DataFrame
    settings: Mapping[str, Any]
    searched: bool = False

    @property
    def diverged(self) -> int:
        """Runs that have diverged."""
        return int((self.runs["status"] == "diverged").sum())

    @property
    def pooled(self) -> list[str]:
        """Settings, seeds apart, that differ among the runs."""
        return [p for p in self.results.varying if self.runs[p].astype(str).nunique(dropna=False) > 1]

    @property
    def recorded(self) -> set[str]:
        """Names of what was recorded of all runs."""
        cohorts = set(self.results.cohort_of.loc[self.runs.index])
        return set.intersection(*(_recorded(self.results, cohort) for cohort in cohorts))

    @property
    def told(self) -> str:
        """The label, how many seeds, the learning rate: a caption's words."""
        n = len(self.runs)
        words = [f"n = {n} seed{'s' if n > 1 else ''}"]
        rates = self.runs[RATE].unique() if RATE in self.runs else []
        words += [f"learning rate {number(rates[0])}"] if len(rates) == 1 else []
        words += [f"{self.diverged} diverged"] if self.diverged else []
        return f"{self.label}: {', '.join(words)}"


def all_runs(results: Results) -> pd.DataFrame:
    """Returns the runs that the sweep names, with all their settings, varying or not."""
    runs, settings = results.runs, results.configurations
    more = settings.loc[runs.index, [c for c in settings if c not in runs]]
    return runs.join(more)[runs["in_sweep"].to_numpy(bool)]


def chosen(results: Results, runs: pd.DataFrame, label: str, settings: Mapping[str, Any] | None = None) -> Variant:
    """Returns the runs of the learning rate whose mean validation error over seeds is lowest.

    Where it does not vary, or no validation error was recorded, they are all of the runs.
    """
    searched = RATE in runs and runs[RATE].nunique() > 1 and "valid_error" in runs
    return Variant(label, results, select(runs, [], RATE) if searched else runs, settings or {}, searched)


def variants(results: Results) -> list[Variant]:
    """Returns all variants of a sweep, each at its chosen learning rate, in the sweep's order."""
    runs = all_runs(results)
    searched = "valid_error" in runs
    paths = [p for p in results.varying if not (searched and p == RATE)]
    if not paths:
        return [chosen(results, runs, results.name)] if len(runs) else []
    groups = runs.groupby([runs[p].astype(str) for p in paths], sort=False, dropna=False)
    made = []
    for _, members in groups:
        settings = {p: members[p].iloc[0] for p in paths}
        told = label_of({p: v for p, v in settings.items() if not absent(settings, p)})
        made.append(chosen(results, members, told, settings))
    return made


def label_of(settings: Mapping[str, Any]) -> str:
    """Returns settings, by path, in a few words."""
    return " · ".join(_told(path, value) for path, value in settings.items())


def _told(path: str, value: Any) -> str:
    if isinstance(value, str) and not value.startswith(("[", "{")):
        return value
    return f"no {name_of(path)}" if pd.isna(value) else f"{name_of(path)} {number(value)}"


def records(variant: Variant, names: Sequence[str]) -> xr.Dataset:
    """Returns what was recorded of a variant's runs under these names, (run, step, …), from step 0 on.

    Raises:
        NotRecordedError: there is nothing yet, or not under one of the names.
    """
    import xarray as xr

    results, parts = variant.results, []
    cohort_of = results.cohort_of.loc[variant.runs.index]
    for cohort in dict.fromkeys(cohort_of):
        if missing := sorted(set(names) - _recorded(results, cohort)):
            raise NotRecordedError(f"{', '.join(missing)} of {results.name} was not recorded")
        found = _records(results, cohort, tuple(names))
        mine = [run for run in cohort_of.index[cohort_of == cohort] if run in found.indexes["run"]]
        parts.append(found.sel(run=mine))
    parts = [part for part in parts if part.sizes["run"]]
    if not parts:
        raise NotRecordedError(f"{results.name} has no records of {variant.label} yet")
    steps = sorted(set.intersection(*(set(part["step"].to_numpy().tolist()) for part in parts)))
    whole = xr.concat([p.sel(step=[s for s in steps if s >= 0]) for p in parts], "run", combine_attrs="override")
    return whole.drop_vars([c for c in whole.coords if c not in whole.dims])


@lru_cache(maxsize=16)
def _records(results: Results, cohort: str, names: tuple[str, ...]) -> xr.Dataset:
    """Read once for all variants of a figure."""
    return results.records(cohort, names)


@lru_cache(maxsize=64)
def _recorded(results: Results, cohort: str) -> set[str]:
    return set(results.recorded(cohort))


def over_seeds(variant: Variant, record: xr.DataArray) -> pd.DataFrame:
    """Returns statistics over the runs of a record (run, step, …): a row for each step and place in it.

    Columns: ``step``, the record's other dimensions, ``mean``, ``half_width`` of the 95 % Student's t interval, ``n``
    (seeds with a finite number) and ``diverged`` (runs that had diverged by that step). Steps at which nothing was due
    are left out; where all runs have diverged the mean is NaN.
    """
    values = record.transpose("run", "step", ...)
    dims = [str(d) for d in values.dims[1:]]
    table = np.apply_along_axis(lambda seeds: np.array(interval(seeds)), 0, values.to_numpy().astype(float))
    places = pd.MultiIndex.from_product([values[d].to_numpy() for d in dims], names=dims).to_frame(index=False)
    made = places.assign(mean=table[0].ravel(), half_width=table[1].ravel(), n=table[2].ravel().astype(int))
    gone = variant.runs["diverged_step"].dropna().to_numpy(int)
    made["diverged"] = (made["step"].to_numpy()[:, None] >= gone).sum(axis=1)
    due = made.groupby("step")["n"].transform("max") > 0
    return made[due | (made["diverged"] == values.sizes["run"])].reset_index(drop=True)


def stacked(parts: Sequence[tuple[Mapping[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """Returns tables below each other, each with columns of constants before its own."""
    tables = [
        pd.DataFrame({name: [value] * len(table) for name, value in told.items()}).join(table) for told, table in parts
    ]
    return pd.concat(tables, ignore_index=True)
