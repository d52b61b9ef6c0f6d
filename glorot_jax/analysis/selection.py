"""Naming settings, and choosing them, such as the learning rate, by validation results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype

from glorot_jax.errors import InputError, unknown

RATE = "optimizer.learning_rate"
"""The setting that validation error chooses where nothing else is said."""
DEPTH = "depth"
"""Names a setting that is no field of its own: how many hidden layers ``model.widths`` lists."""


def select(
    runs: pd.DataFrame, variant: Sequence[str], choose: str | Sequence[str], by: str = "valid_error"
) -> pd.DataFrame:
    """Returns, of each variant, the runs whose ``choose`` has the lowest mean of ``by`` over seeds.

    A run without a value (it diverged) counts as the worst that there can be, so a setting that loses a seed is
    chosen only where every other loses one too; among such, the fewer lost seeds win, then the lower mean.

    Args:
        runs: as ``Results.runs``.
        variant: columns that make a variant.
        choose: the column whose value is chosen; of several, their combination.
        by: a validation column.

    Raises:
        InputError: ``by`` looks at test results, or a column is unknown.
    """
    if by.startswith("test"):
        raise InputError(f"by: {by!r} would choose on test results", "choose by valid_error or valid_loss")
    validation = [c for c in runs if c.startswith(("valid_", "best_valid_")) and is_float_dtype(runs[c])]
    if by not in validation:
        raise unknown("by", by, validation)
    chosen = [choose] if isinstance(choose, str) else list(choose)
    for name in chosen:
        if name not in runs:
            raise unknown("select", name, runs.columns)
    kept = []
    groups = runs.groupby(list(variant), sort=False, dropna=False) if variant else [((), runs)]
    for _, group in groups:
        parts = [part for _, part in group.groupby(chosen, sort=False, dropna=False)]
        kept.append(min(parts, key=lambda part: _score(part[by])))
    return pd.concat(kept)


def _score(values: pd.Series) -> tuple[int, float]:
    return int(values.isna().sum()), float(values.mean()) if values.notna().any() else float("inf")


def with_depth(runs: pd.DataFrame, configurations: pd.DataFrame) -> pd.DataFrame:
    """Returns runs with the column ``depth``, the number of entries of ``model.widths``; where there are such."""
    if "model.widths" not in configurations:
        return runs
    widths = configurations["model.widths"].loc[runs.index]
    depths = [len(json.loads(w)) if isinstance(w, str) else pd.NA for w in widths]
    return runs.assign(**{DEPTH: pd.array(depths, dtype="Int64")})


def absent(settings: Mapping[str, Any], path: str) -> bool:
    """Returns whether a variant has no such setting because it has not what the setting belongs to."""
    family = path.rpartition(".")[0]
    return family in settings and pd.isna(settings[family])


def path_of(name: str, settings: Sequence[str], where: str) -> str:
    """Returns the path of a setting that is named by it or by its last part, of one of training before pre-training.

    Args:
        where: what a complaint names.

    Raises:
        InputError: no setting or several are called so.
    """
    if name in settings:
        return name
    ends = [c for c in settings if c.rpartition(".")[2] == name]
    ends = [c for c in ends if not c.startswith("pretraining.")] or ends
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise InputError(f"{where}: {name!r} may be {' or '.join(ends)}")
    raise unknown(where, name, [*settings, *(c.rpartition(".")[2] for c in settings)])
