"""What claims are made of: numbers by seed, read from results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glorot_jax.config import plain
from glorot_jax.errors import InputError, unknown

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from glorot_jax.analysis.results import Results


def per_seed(
    results: Results,
    name: str,
    where: Mapping[str, Any] | None = None,
    *,
    step: int | str = "last",
    select: str | Sequence[str] | None = None,
    diverged: float | None = None,
    **position: Any,
) -> pd.Series | pd.DataFrame:
    """Returns what was recorded under a name: a Series by seed, for arithmetic that pairs seeds.

    Args:
        name: of a record, such as ``"valid_error"`` or ``"activation_std"``.
        where: settings by path, or by its last part, that tell the runs: one a seed.
        step: at which it was recorded; ``"last"``: when training had ended; ``"all"`` leaves it open, as if it were one
            of the record's dimensions, and leaves out the steps at which it was not due.
        select: a setting that ``where`` leaves open, or several: the value, or combination of values, with the lowest
            mean validation error over seeds is taken, as in ``glorot table``.
        diverged: what a run counts as that had diverged by that step and has no finite number there; it stays without
            one if not said, and then nothing can be judged.
        position: along the record's other dimensions: ``layer=1``, ``layer=-1`` for the last, ``weight="head.kernel"``.
            If one dimension is left open a table is returned, a column for each of its labels.

    Raises:
        InputError: nothing of that kind was recorded, several runs have the same seed, training has not ended, or the
            sweep's search ended it before.
    """
    import pandas as pd

    choose = [select] if isinstance(select, str) else list(select or ())
    runs, chosen = _chosen(results, where or {}, choose)
    behind = runs[runs["step"] < runs["steps"]]
    if step in ("last", "all") and len(behind):
        raise InputError(f"{behind['name'].iloc[0]}: it has not been trained to its end", "go on with glorot resume")
    dropped = runs[runs["status"] == "dropped"]
    if step in ("last", "all") and len(dropped):
        where_it_ended = f"the search dropped it at step {dropped['dropped_step'].iloc[0]:,}"
        raise InputError(f"{dropped['name'].iloc[0]}: {where_it_ended}", "train it without a search, or leave it out")
    cohorts = runs.groupby(results.cohort_of.loc[runs.index], sort=False)
    parts = [_at(_of(results, str(cohort), name, members), step, position) for cohort, members in cohorts]
    read = pd.concat(parts).loc[runs.index]
    if step == "all":
        read = read.loc[:, _due(read, runs)]
    lost = _lost(read, runs, step)
    if diverged is not None:
        read = read.mask(lost, float(diverged))
    if (notes := _notes.get()) is not None:
        gone = lost.reshape(len(runs), -1).any(axis=1)
        notes += [
            Read(int(run["seed"]), str(run["name"]), bool(one), diverged, chosen)
            for (_, run), one in zip(runs.iterrows(), gone, strict=True)
        ]
    return read.set_axis(pd.Index(runs["seed"].astype(int), name="seed")).sort_index()


def _gone_by(read: pd.DataFrame, runs: pd.DataFrame) -> np.ndarray:
    """Whether a run had diverged by a step, (run, step), of a table by step."""
    steps = np.asarray(read.columns)
    return runs["diverged_step"].fillna(steps.max() + 1).to_numpy(int)[:, None] <= steps


def _due(read: pd.DataFrame, runs: pd.DataFrame) -> np.ndarray:
    """At which steps something was recorded: at others there is no number of any run that went on."""
    gone = _gone_by(read, runs)
    return (np.isfinite(read.to_numpy()) & ~gone).any(axis=0) | gone.all(axis=0)


def _lost(read: pd.Series | pd.DataFrame, runs: pd.DataFrame, step: int | str) -> np.ndarray:
    """Where runs that had diverged by then have no finite number; of a table that is not by step, the whole row."""
    finite = np.isfinite(read.to_numpy(float))
    if step == "all":
        return ~finite & _gone_by(read, runs)
    by_then = runs["diverged_step"] <= (runs["step"] if step == "last" else step)
    whole = finite.reshape(len(runs), -1).all(axis=1)
    return np.broadcast_to((by_then.fillna(False).to_numpy(bool) & ~whole).T, finite.T.shape).T


def first_passage(by_step: pd.DataFrame, level: float | pd.Series) -> pd.Series:
    """Returns by seed the step at which a value first reaches a level, found between records on a straight line.

    Args:
        by_step: as ``per_seed(…, step="all")`` returns it.
        level: one, or one a seed.

    Returns:
        Infinity where the level is never reached; NaN where no value is finite.
    """
    import pandas as pd

    steps = np.asarray(by_step.columns, float)

    def passage(values: np.ndarray, level: float) -> float:
        known = np.isfinite(values)
        at, seen = steps[known], values[known]
        if not len(seen):
            return np.nan
        reached = np.flatnonzero(seen >= level)
        if not len(reached):
            return np.inf
        after = reached[0]
        if after == 0:
            return float(at[0])
        share = (level - seen[after - 1]) / (seen[after] - seen[after - 1])
        return float(at[after - 1] + share * (at[after] - at[after - 1]))

    levels = np.broadcast_to(level, len(by_step))
    return pd.Series(
        [passage(v, one) for v, one in zip(by_step.to_numpy(float), levels, strict=True)], index=by_step.index
    )


def growth_exponent(by_size: Mapping[float, pd.Series]) -> pd.Series:
    """Returns by seed the slope of log(value) in log(size), by least squares: a in value ∝ sizeᵃ.

    Args:
        by_size: two or more, such as ``{width: per_seed(…, where={"model.width": width}) for width in (64, 256)}``.
    """
    import pandas as pd

    if len(by_size) < 2:
        raise InputError(f"growth_exponent: {list(by_size)} are fewer than two sizes")
    table = pd.DataFrame(dict(by_size))
    size = np.log(np.array([float(x) for x in table.columns]))
    size -= size.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.Series(np.log(table.to_numpy(float)) @ size / (size @ size), index=table.index)


class Read(NamedTuple):
    """A run that a measure looked at.

    Attributes:
        diverged: whether it had diverged by the step that was read; it ``counts_as`` that then.
        chosen: settings whose values were chosen among several.
    """

    seed: int
    run: str
    diverged: bool
    counts_as: float | None
    chosen: tuple[str, ...]

    @property
    def variant(self) -> str:
        """The run's name without its seed."""
        return re.sub(rf"-?s{self.seed}(-[0-9a-f]+)?$", "", self.run) or "all alike"


class Undecided(Exception):
    """What a measure raises where a sweep is too small, or too short, to decide its claim.

    Args:
        reason: one phrase: what would be needed, and what there is.
    """


_notes: ContextVar[list[Read] | None] = ContextVar("notes", default=None)


@contextmanager
def noted() -> Iterator[list[Read]]:
    """The runs that measures read meanwhile."""
    notes: list[Read] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def _chosen(results: Results, where: Mapping[str, Any], choose: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of these settings, one a seed, and the settings that were chosen because there were several values."""
    from glorot_jax.analysis.selection import path_of
    from glorot_jax.analysis.selection import select as choose_runs

    settings = results.configurations
    if missing := len(set(results.description["runs"]) - set(settings.index)):
        raise InputError(f"{missing} runs have not been started", "go on with glorot resume")
    settings = settings[settings["in_sweep"]]
    known = [c for c in settings if c not in ("name", "in_sweep")]
    kept = np.ones(len(settings), bool)
    for name, value in where.items():
        path = path_of(name, known, "where")
        holds = settings[path].isna() if value is None else settings[path] == _cell(value)
        if not (kept & holds).any():
            there = ", ".join(dict.fromkeys(str(v) for v in settings[path][kept]))
            raise InputError(f"where: no run has {path} = {value!r}", f"there are: {there}")
        kept &= holds.to_numpy(bool)
    runs = results.runs.loc[settings.index[kept]]
    paths = [path_of(name, results.varying, "select") for name in choose]
    chosen = tuple(n for n, path in zip(choose, paths, strict=True) if runs[path].astype(str).nunique() > 1)
    if choose:
        runs = choose_runs(runs, [], paths)
    if len(runs) and runs["seed"].duplicated().any():
        twice = runs[runs["seed"] == runs["seed"][runs["seed"].duplicated()].iloc[0]]
        open_ = [path for path in results.varying if twice[path].astype(str).nunique(dropna=False) > 1]
        raise InputError(
            f"where: {len(twice)} runs have seed {twice['seed'].iloc[0]}", f"say more of {', '.join(open_)}"
        )
    if runs.empty:
        raise InputError("where: there are no runs")
    return runs, chosen


def _cell(value: Any) -> Any:
    """A setting as tables of runs hold it."""
    value = plain(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def _of(results: Results, cohort: str, name: str, runs: pd.DataFrame) -> xr.DataArray:
    """What was recorded under a name of these runs of a cohort."""
    record = results.record(cohort, name)
    for run in runs.index:
        if run not in record.indexes["run"]:
            raise InputError(f"{runs.loc[run, 'name']}: it has no records yet", "go on with glorot resume")
    return record.sel(run=list(runs.index))


def _at(record: xr.DataArray, step: int | str, position: Mapping[str, Any]) -> pd.Series | pd.DataFrame:
    """A record by run, at one step and position."""
    if step != "all":
        record = record.isel(step=-1) if step == "last" else _picked(record, "step", step)
    for dim, label in position.items():
        if dim not in record.dims or dim in ("run", "step"):
            raise unknown(str(record.name), dim, [str(d) for d in record.dims if d not in ("run", "step")])
        record = _picked(record, dim, label)
    rest = [str(d) for d in record.dims if d != "run"]
    if len(rest) > 1:
        raise InputError(f"{record.name}: it has the dimensions {' and '.join(rest)}", "give all but one a position")
    return (
        record.drop_vars([c for c in record.coords if c not in record.dims])
        .transpose("run", ...)
        .astype(float)
        .to_pandas()
    )


def _picked(record: xr.DataArray, dim: str, label: Any) -> xr.DataArray:
    """The record at one label; where labels are counted from 1, −1 is the last."""
    labels = record[dim].to_numpy().tolist()
    counted = labels == list(range(1, len(labels) + 1))
    if counted and isinstance(label, int) and -len(labels) <= label < 0:
        return record.isel({dim: label})
    if label not in labels:
        raise unknown(f"{record.name}: {dim}", label, [str(known) for known in labels])
    return record.isel({dim: labels.index(label)})
