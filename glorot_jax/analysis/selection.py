"""Naming settings, and choosing them, such as the learning rate, by validation results alone."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.api.types import is_float_dtype

from glorot_jax.errors import InputError, unknown


def select(runs: pd.DataFrame, variant: Sequence[str], choose: str, by: str = "valid_error") -> pd.DataFrame:
    """Returns, of each variant, the runs whose ``choose`` has the lowest mean of ``by`` over seeds.

    A run without a value (it diverged) counts as the worst that there can be, so a setting that loses a seed is
    chosen only where every other loses one too; among such, the fewer lost seeds win, then the lower mean.

    Args:
        runs: as ``Results.runs``.
        variant: columns that make a variant.
        choose: the column whose value is chosen.
        by: a validation column.

    Raises:
        InputError: ``by`` looks at test results, or a column is unknown.
    """
    if by.startswith("test"):
        raise InputError(f"by: {by!r} would choose on test results", "choose by valid_error or valid_loss")
    validation = [c for c in runs if c.startswith(("valid_", "best_valid_")) and is_float_dtype(runs[c])]
    if by not in validation:
        raise unknown("by", by, validation)
    if choose not in runs:
        raise unknown("select", choose, runs.columns)
    kept = []
    groups = runs.groupby(list(variant), sort=False, dropna=False) if variant else [((), runs)]
    for _, group in groups:
        scores = {
            value: (int(part[by].isna().sum()), float(part[by].mean()) if part[by].notna().any() else float("inf"))
            for value, part in group.groupby(choose, sort=False)
        }
        if not scores:  # a variant that has no such setting
            kept.append(group)
            continue
        best = min(scores, key=lambda value: scores[value])
        kept.append(group[group[choose] == best])
    return pd.concat(kept)


def path_of(name: str, settings: Sequence[str], where: str) -> str:
    """Returns the path of a setting that is named by it or by its last part.

    Args:
        where: what a complaint names.

    Raises:
        InputError: no setting or several are called so.
    """
    if name in settings:
        return name
    ends = [c for c in settings if c.rpartition(".")[2] == name]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise InputError(f"{where}: {name!r} may be {' or '.join(ends)}")
    raise unknown(where, name, [*settings, *(c.rpartition(".")[2] for c in settings)])
