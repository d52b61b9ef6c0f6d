"""One number over training, a curve for each variant: Figures 11 and 12."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glorot_jax.analysis.figures.style import (
    PAGE,
    End,
    Look,
    band,
    few_ticks,
    label_ends,
    limits_of,
    mark_diverged,
    panels,
    time_axis,
    with_diverged,
)
from glorot_jax.analysis.figures.variants import Variant, over_seeds, records, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 3.0
"""A curve that ends higher than the lowest by this factor does not set the axis, where asked for."""
CROPPED = f"Step 0, and curves that end more than {FAR:g} times as high as the lowest one, set no axis."
"""What a caption says then."""


def learning_curves(variants: Sequence[Variant], name: str, panel: str = "") -> pd.DataFrame:
    """Returns one record without dimensions of its own over training.

    Columns: ``panel``, ``model``, ``step``, ``examples`` seen (steps × mini-batch), and those over seeds of
    ``variants.over_seeds``; errors as shares in [0, 1].
    """
    parts = []
    for variant in variants:
        rows = over_seeds(variant, records(variant, [name])[name])
        rows.insert(1, "examples", rows["step"] * int(variant.runs["batch_size"].iloc[0]))
        parts.append(({"panel": panel, "model": variant.label}, rows))
    return stacked(parts)


def draw_learning_curves(
    data: pd.DataFrame,
    looks: Mapping[str, Look],
    x: str,
    x_label: str,
    y_label: str,
    scale: float = 1.0,
    crop: bool = False,
) -> Figure:
    """Returns a panel for each of ``panel``, in it a curve for each model with the band of its interval over seeds.

    Labels stand beside the curves' ends. Crosses on the upper edge: runs that diverged there.

    Args:
        data: as ``learning_curves`` gives them.
        scale: by which values are multiplied, such as 100 for percent.
        crop: whether the axis leaves out step 0 and curves that end ``FAR`` above the lowest: their labels, at the
            upper edge, say where they end.
    """
    names = list(dict.fromkeys(data["panel"]))
    figure, axes = panels(len(names), 1, PAGE * 0.72, 0.4 + 2.3 * len(names))
    for at, name in zip(axes, names, strict=True):
        part = data[data["panel"] == name].assign(
            mean=lambda t: t["mean"] * scale, half_width=lambda t: t["half_width"] * scale
        )
        at.set_title(name)
        at.set_ylabel(y_label)
        _panel(at, part, looks, x, crop)
    axes[-1].set_xlabel(x_label)
    return figure


def _panel(axes: Axes, data: pd.DataFrame, looks: Mapping[str, Look], x: str, crop: bool) -> None:
    curves = {model: rows.sort_values(x) for model, rows in data.groupby("model", sort=False)}
    last = {model: rows["mean"].dropna().iloc[-1] if rows["n"].any() else np.nan for model, rows in curves.items()}
    lowest = min((v for v in last.values() if np.isfinite(v)), default=np.nan)
    far = {model for model, value in last.items() if crop and value > FAR * lowest}
    ends = []
    for model, rows in curves.items():
        look = looks[model]
        seen = rows[rows["n"] > 0]
        axes.plot(seen[x], seen["mean"], color=look.color, linestyle=look.dashes)
        if model not in far:
            band(axes, seen[x], seen, look.color)
        mark_diverged(axes, rows[x], rows["diverged"], look.color)
        ends.append(_end(model, rows, x, last[model], look, model in far))
    near = data[~data["model"].isin(far) & ((data[x] > 0) | (not crop)) & (data["n"] > 0)]
    if len(near):
        axes.set_ylim(limits_of(near["mean"]))
    few_ticks(axes)
    time_axis(axes, data[x])
    label_ends(axes, ends)


def _end(model: str, rows: pd.DataFrame, x: str, last: float, look: Look, far: bool) -> End:
    text = with_diverged(model, rows)
    if far:
        text = f"{text}: {last:.3g} ↑"
    seen = rows[rows["n"] > 0]
    return End(seen[x].iloc[-1] if len(seen) else 0.0, last if np.isfinite(last) else np.inf, text, look)
