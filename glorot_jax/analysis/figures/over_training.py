"""Layer by layer over training: activations as in Figures 2, 3 and 10, gradients as in Figure 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glorot_jax.analysis.figures.style import (
    band,
    few_ticks,
    layer_colors,
    layer_legend,
    limits_of,
    mark_diverged,
    panel_each,
    time_axis,
    with_diverged,
)
from glorot_jax.analysis.figures.variants import NotRecordedError, Variant, over_seeds, records, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Place = tuple[str, Mapping[str, float]]
MEAN: dict[str, Place] = {"mean": ("activation_mean", {}), "std": ("activation_std", {})}
SPREAD: dict[str, Place] = {
    "std": ("activation_std", {}),
    "quantile 0.01": ("activation_quantile", {"quantile": 0.01}),
    "quantile 0.99": ("activation_quantile", {"quantile": 0.99}),
}
SPREAD_AROUND_MEAN: dict[str, Place] = MEAN | SPREAD
WEIGHT_GRADIENTS: dict[str, Place] = {"std": ("weight_gradient_std", {})}
GRADIENTS: dict[str, Place] = {"std": ("gradient_std", {})}
_MARKERS, _BARS, _BARS_APART = 25, 12, 4
"""Along an axis at most, and the layers whose bars stand beside each other."""


def over_training(variants: Sequence[Variant], statistics: Mapping[str, Place]) -> pd.DataFrame:
    """Returns statistics of variants over training, layer by layer.

    Columns: ``model``, ``statistic``, ``step``, ``layer``, and those over seeds of ``variants.over_seeds``.

    Args:
        statistics: by name, a record and a place in it.
    """
    parts = []
    for variant in variants:
        found = records(variant, list(dict.fromkeys(name for name, _ in statistics.values())))
        for statistic, (name, place) in statistics.items():
            if "layer" not in found[name].dims:
                raise NotRecordedError(f"{name} of {variant.results.name} was not recorded layer by layer")
            record = found[name].sel(place, method="nearest", tolerance=1e-6, drop=True) if place else found[name]
            parts.append(({"model": variant.label, "statistic": statistic}, over_seeds(variant, record)))
    return stacked(parts)


def draw_over_training(
    data: pd.DataFrame, x: str, x_label: str, y_label: str, limits: tuple[float, float] | None = None
) -> Figure:
    """Returns a panel for each model, a colour for each layer.

    The statistic ``mean`` is a line with bars of ± ``std``. Where there are quantiles, too, or no mean, the lines are
    mean ± ``std``, or ± ``std``, with bands of the deviation's interval over seeds, and quantiles are markers. Crosses
    on the upper edge: runs that diverged there.

    Args:
        data: as ``over_training`` gives them.
        x: the column of the horizontal axis.
        limits: of the vertical axis.
    """
    models = list(dict.fromkeys(data["model"]))
    parts = [data[data["model"] == model] for model in models]
    titles = [with_diverged(model, part) for model, part in zip(models, parts, strict=True)]
    figure, axes = panel_each(titles, 1.75, x_label, sharex=True, sharey=limits is not None)
    colors = layer_colors(sorted(data["layer"].unique()))
    for at, part in zip(axes, parts, strict=True):
        for place, (layer, of_layer) in enumerate(part.groupby("layer")):
            by = {name: values.sort_values(x) for name, values in of_layer.groupby("statistic")}
            if _with_bars(set(by)):
                _bars(at, x, by["mean"], by["std"], colors[layer], place)
            else:
                _spread(at, x, by, colors[layer])
        at.set_ylabel(y_label)
        few_ticks(at)
        time_axis(at, data[x])
        at.set_ylim(limits or limits_of(pd.Series(np.concatenate([line.get_ydata() for line in at.lines]))))
        mark_diverged(at, part[x], part["diverged"])
    layer_legend(figure, colors, _meanings(set(data["statistic"])))
    return figure


def _with_bars(statistics: set[str]) -> bool:
    return statistics == {"mean", "std"}


def _bars(axes: Axes, x: str, mean: pd.DataFrame, std: pd.DataFrame, color: object, place: int) -> None:
    axes.plot(mean[x], mean["mean"], color=color)
    every = max(_BARS_APART, -(-len(mean) // _BARS))
    shift = place * every // _BARS_APART % every  # so that bars of different layers do not hide each other
    axes.errorbar(
        mean[x],
        mean["mean"],
        std["mean"],
        fmt="none",
        ecolor=color,
        elinewidth=0.7,
        capsize=1.5,
        capthick=0.7,
        errorevery=(shift, every),
    )


def _spread(axes: Axes, x: str, by: Mapping[str, pd.DataFrame], color: object) -> None:
    std = by["std"]
    centre = by["mean"]["mean"].to_numpy() if "mean" in by else 0.0
    for sign in (1, -1):
        line = std.assign(mean=centre + sign * std["mean"])
        axes.plot(line[x], line["mean"], color=color)
        band(axes, line[x], line, color)
    for name, quantile in by.items():
        if name.startswith("quantile"):
            some = quantile.iloc[:: _thinned(len(quantile))]
            axes.plot(some[x], some["mean"], linestyle="none", marker="o", markersize=2.2, color=color)


def _thinned(count: int) -> int:
    return max(1, -(-count // _MARKERS))


def _meanings(statistics: set[str]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    if _with_bars(statistics):
        return [Line2D([], [], color="0.4", marker="|", label="mean ± std")]
    shown = [Line2D([], [], color="0.4", label="mean ± std" if "mean" in statistics else "± std")]
    quantiles = sorted(float(s.split()[1]) for s in statistics if s.startswith("quantile"))
    if quantiles:
        text = ", ".join(f"{q:.0%}".replace("%", " %") for q in quantiles)
        shown.append(Line2D([], [], color="0.4", linestyle="none", marker="o", markersize=2.2, label=text))
    return shown
