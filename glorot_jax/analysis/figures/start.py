"""Before the first update: what was measured of each layer beside what theory predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from glorot_jax.analysis.against_theory import against_theory
from glorot_jax.analysis.figures.style import PAGE, looks, panels
from glorot_jax.analysis.figures.variants import NotRecordedError, Variant, label_of
from glorot_jax.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALUES = {"activation_std": "activation", "gradient_std": "∂C/∂s", "weight_gradient_std": "∂C/∂W"}
"""Deviations that are drawn, and of what they are."""


def start_by_layer(variants: Sequence[Variant]) -> tuple[pd.DataFrame, dict[str, dict[str, object]]]:
    """Returns the deviations of hidden layers at step 0, and the settings by label that matter there.

    Columns: ``model``, ``value`` (of ``VALUES``), ``layer``, ``measured``, ``half_width`` of its 95 % interval,
    ``predicted``, ``n``.

    Args:
        variants: of one sweep.

    Raises:
        NotRecordedError: nothing of it was predicted.
    """
    try:
        table = against_theory(variants[0].results)
    except InputError as error:
        raise NotRecordedError(str(error).partition("\n")[0]) from None
    paths = list(table.columns[: table.columns.get_loc("value")])
    table = table[table["value"].isin(VALUES) & (table["layer"] != "output")]
    shown = [{p: variant.settings[p] for p in paths} for variant in variants]
    table = table[[{p: row[p] for p in paths} in shown for _, row in table.iterrows()]]
    if table.empty:
        raise NotRecordedError(f"{variants[0].results.name} has no predictions of these deviations")
    labels = [label_of({p: row[p] for p in paths}) or variants[0].results.name for _, row in table.iterrows()]
    made = table.assign(model=labels, layer=table["layer"].astype(int), half_width=table["measured_half_width"])
    settings = {label: table.iloc[i][paths].to_dict() for i, label in enumerate(labels)}
    return made[["model", "value", "layer", "measured", "half_width", "predicted", "n"]], settings


def draw_start_by_layer(data: pd.DataFrame, settings: dict[str, dict[str, object]]) -> Figure:
    """Returns a panel for each value over the layers: markers with intervals measured, lines predicted."""
    from matplotlib.lines import Line2D

    look = looks(settings)
    values = [value for value in VALUES if value in set(data["value"])]
    figure, axes = panels(1, len(values), PAGE * max(0.5, len(values) / 3), 2.4)
    for at, value in zip(axes, values, strict=True):
        for model, rows in data[data["value"] == value].groupby("model", sort=False):
            color, dashes = look[model].color, look[model].dashes
            at.plot(rows["layer"], rows["predicted"], color=color, linestyle=dashes, linewidth=0.8)
            at.errorbar(
                rows["layer"], rows["measured"], rows["half_width"].fillna(0), fmt="o", color=color, elinewidth=0.7
            )
        at.set_yscale("log")
        at.set_title(VALUES[value])
        at.set_xlabel("layer")
        at.set_xticks(sorted(data["layer"].unique()) if data["layer"].nunique() <= 10 else at.get_xticks()[1:-1])
    axes[0].set_ylabel("standard deviation")
    lines = [
        Line2D([], [], color=look[m].color, linestyle=look[m].dashes, marker="o", linewidth=0.8, label=m)
        for m in settings
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=min(4, len(lines)))
    return figure
