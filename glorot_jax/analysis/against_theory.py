"""What was measured before the first update beside what theory predicts, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from glorot_jax.analysis.results import THEORY, Results, load
from glorot_jax.analysis.statistics import interval
from glorot_jax.errors import InputError, unknown

if TYPE_CHECKING:
    import xarray as xr

FORMATS = ("table", "json", "csv", "markdown")
_TOLD_AT_START = ("data", "model", "loss", "examples", "jacobian_examples")
"""Settings that matter before the first update, with all below them."""
_OUTPUT = "output_"
_ROUNDING = 1e-12
"""A prediction that is 0 but for this has no ratio."""


def against_theory(results: Results, value: str | None = None) -> pd.DataFrame:
    """Returns one row for each variant, output and layer: measured at step 0, predicted, and their ratio.

    Columns: the settings that vary and matter at step 0, ``value`` (the output's name), ``layer`` ("output" for the
    output layer's), ``measured`` and ``measured_half_width``, ``predicted``, ``ratio`` and ``ratio_half_width``
    (measured over predicted, NaN where 0 is predicted), ``n``. Means are over seeds, with half-widths of 95 %
    Student's t intervals; runs of one seed that differ in settings of their training alone count once.

    Args:
        value: one output, such as ``activation_std``; all that have a prediction if not said.

    Raises:
        InputError: there are no predictions, or none of this output.
    """
    names = {cohort: results.predicted(cohort) for cohort in results.cohorts}
    known = sorted(set().union(*names.values()))
    if not known:
        raise InputError(
            f"{results.paths[0]}: it holds no predictions", "its networks have none, or it is an older one"
        )
    if value not in (None, *known):
        raise unknown("value", value, known)
    rows = []
    for cohort, some in names.items():
        wanted = [name for name in some if value in (None, name)]
        if wanted:
            rows += _rows(results, results.records(cohort, wanted), wanted)
    return pd.DataFrame(rows)


def _rows(results: Results, records: xr.Dataset, names: Sequence[str]) -> list[dict[str, Any]]:
    """Variant by variant, output by output, the output layer after the hidden ones."""
    start = records.sel(step=0, drop=True)
    settings = [p for p in results.varying if p.partition(".")[0] in _TOLD_AT_START]
    about = pd.DataFrame({p: records[p].to_numpy() for p in settings} | {"seed": records["seed"].to_numpy()})
    groups = about.groupby(settings, sort=False).indices if settings else {(): np.arange(len(about))}
    rows = []
    for members in groups.values():
        seeds = about["seed"].to_numpy()[members]
        for name in sorted(names, key=lambda name: (name.removeprefix(_OUTPUT), name.startswith(_OUTPUT))):
            measured = np.atleast_2d(start[name].to_numpy()[members].T)  # layers, runs
            predicted = np.atleast_1d(start[name + THEORY].to_numpy()[members[0]])
            for layer, (seen, expected) in enumerate(zip(measured, predicted, strict=True), start=1):
                if np.isfinite(expected):
                    rows.append(
                        {
                            **about.loc[members[0], settings].to_dict(),
                            "value": name.removeprefix(_OUTPUT),
                            "layer": "output" if name.startswith(_OUTPUT) else str(layer),
                            **_compared(pd.Series(seen, dtype=float).groupby(seeds).mean().to_numpy(), expected),
                        }
                    )
    return rows


def _compared(seeds: np.ndarray, expected: float) -> dict[str, float]:
    seen = interval(seeds)
    scale = expected if abs(expected) > _ROUNDING else np.nan
    return {
        "measured": seen.mean,
        "measured_half_width": seen.half_width,
        "predicted": expected,
        "ratio": seen.mean / scale,
        "ratio_half_width": abs(seen.half_width / scale),
        "n": seen.n,
    }


def render_against_theory(folder: str | Path, value: str | None = None, format: str = "table") -> str:
    """Returns the comparison of a results folder as text; arguments as for ``against_theory``.

    Args:
        format: table or markdown, with four digits; json or csv, with all.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    results = load(folder)
    rows = against_theory(results, value)
    if format == "csv":
        return rows.to_csv(index=False).rstrip("\n")
    if format == "json":
        return json.dumps(json.loads(rows.to_json(orient="records", double_precision=15)), indent=1, ensure_ascii=False)
    settings = list(rows.columns[: rows.columns.get_loc("value")])
    header = [*(s.rpartition(".")[2] for s in settings), "value", "layer", "measured", "predicted", "ratio"]
    cells = [
        [
            *(f"{row[s]:g}" if isinstance(row[s], float) else str(row[s]) for s in settings),
            *(row["value"], row["layer"]),
            _with_interval(row["measured"], row["measured_half_width"]),
            f"{row['predicted']:.4g}" if abs(row["predicted"]) > _ROUNDING else "0",
            _with_interval(row["ratio"], row["ratio_half_width"]),
        ]
        for _, row in rows.iterrows()
    ]
    counts = sorted(set(rows["n"]))
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    caption = f"Step 0: mean over seeds ± half-width of the 95 % Student's t interval, {n}; ratio: measured/predicted."
    if format == "markdown":
        lines = [header, [":--"] * (len(settings) + 1) + ["--:"] * 4, *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{caption}"
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]

    def laid(line: list[str]) -> str:
        left = len(settings) + 1
        placed = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        return "  ".join(placed).rstrip()

    return "\n".join([*map(laid, [header, *cells]), caption])


def _with_interval(mean: float, half_width: float) -> str:
    if np.isnan(mean):
        return "–"
    return f"{mean:.4g}" if np.isnan(half_width) else f"{mean:.4g} ± {half_width:.2g}"
