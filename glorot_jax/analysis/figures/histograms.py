"""Densities of activations and gradients, layer by layer, at one step: Figures 4, 6, 7 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from glorot_jax.analysis.figures.style import few_ticks, layer_colors, layer_legend, panel_each
from glorot_jax.analysis.figures.variants import NotRecordedError, Variant, records, stacked
from glorot_jax.analysis.results import THEORY
from glorot_jax.analysis.statistics import interval

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

RANGES = {"tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "erf": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
"""Of activations that are bounded: a bin that reaches over a bound can be filled up to it only."""
_POINTS = 201
_DASHED: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 0.8}


def activation_densities(variants: Sequence[Variant], last: bool, predicted: bool = False) -> pd.DataFrame:
    """Returns densities of the activations at the first or the last recorded step.

    Columns: ``model``, ``layer``, ``source`` (measured or predicted), ``step``, ``x``, ``density``, ``half_width`` of
    its 95 % interval over seeds, ``n``. Measured: the share of the activations in a bin over as much of its width as
    the activation can reach. Predicted: a Gaussian of the standard deviation that theory predicts.
    """
    parts = []
    for variant in variants:
        shares = _at(records(variant, ["activation_histogram"])["activation_histogram"], last)
        centre = shares["activation_bin"].to_numpy()
        width = centre[1] - centre[0]
        low, high = (np.clip(centre + way * width / 2, *_range(variant)) for way in (-1, 1))
        kept = high > low
        found = shares.isel(activation_bin=kept) * width / (high - low)[kept]
        middle = ((low + high) / 2)[kept]
        for layer in found["layer"].to_numpy():
            rows = _over_seeds(middle, found.sel(layer=layer).to_numpy())
            parts.append((_told(variant, layer, "measured", found), rows))
        parts += _gaussians(variant, "activation_std") if predicted else []
    return stacked(parts)


def _range(variant: Variant) -> tuple[float, float]:
    name = variant.runs["model.activation"].iloc[0] if "model.activation" in variant.runs else None
    return RANGES.get(str(name), (-np.inf, np.inf))


def gradient_densities(variants: Sequence[Variant], kind: str, last: bool, predicted: bool = False) -> pd.DataFrame:
    """Returns densities of gradients at the first or the last recorded step, columns as ``activation_densities``.

    Each seed's density is recorded relative to the layer's root mean square; the mean over seeds of these is drawn on
    the scale of the mean root mean square.

    Args:
        kind: gradient, of the back-propagated ∂C/∂s, or weight_gradient.
    """
    parts = []
    for variant in variants:
        found = records(variant, [f"{kind}_histogram", f"{kind}_rms"])
        relative, rms = (_at(found[f"{kind}_{name}"], last) for name in ("histogram", "rms"))
        for layer in relative["layer"].to_numpy():
            scale = interval(rms.sel(layer=layer).to_numpy()).mean
            rows = _over_seeds(relative["gradient_bin"].to_numpy(), relative.sel(layer=layer).to_numpy())
            rows = rows.assign(
                x=rows["x"] * scale, density=rows["density"] / scale, half_width=rows["half_width"] / scale
            )
            parts.append((_told(variant, layer, "measured", relative), rows))
        if predicted:
            parts += _gaussians(variant, "gradient_std") if kind == "gradient" else _products(variant)
    return stacked(parts)


def _at(record: xr.DataArray, last: bool) -> xr.DataArray:
    """A record at the first or the last step at which it was due."""
    due = np.isfinite(record.to_numpy()).any(axis=tuple(i for i, d in enumerate(record.dims) if d != "step"))
    if not due.any():
        raise NotRecordedError(f"{record.name} has no finite number")
    found = record.isel(step=np.flatnonzero(due)[-1 if last else 0])
    if last and found["step"] == 0:
        raise NotRecordedError(f"{record.name} was recorded at step 0 alone so far; glorot resume goes on")
    return found


def _told(variant: Variant, layer: int, source: str, found: xr.DataArray) -> dict[str, Any]:
    return {"model": variant.label, "layer": layer, "source": source, "step": int(found["step"])}


def _over_seeds(x: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """Statistics of densities (runs, bins)."""
    table = np.apply_along_axis(lambda seeds: np.array(interval(seeds)), 0, values.astype(float))
    return pd.DataFrame({"x": x, "density": table[0], "half_width": table[1], "n": table[2].astype(int)})


def _predicted(variant: Variant, name: str) -> dict[int, float]:
    """What theory says of a record, by layer; empty where it says nothing."""
    found = records(variant, [name])
    if name + THEORY not in found:
        return {}
    value = found[name + THEORY].isel(run=0)
    return {int(layer): float(v) for layer, v in zip(value["layer"], value, strict=True) if np.isfinite(v) and v > 0}


def _gaussians(variant: Variant, name: str) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    from scipy.stats import norm

    at = np.linspace(-4, 4, _POINTS)
    return [_theory(variant, layer, std * at, norm.pdf(at) / std) for layer, std in _predicted(variant, name).items()]


def _products(variant: Variant) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Densities of products of two independent Gaussians, z and ∂C/∂s, of the predicted standard deviation."""
    from scipy.special import k0

    at = np.linspace(-4, 4, _POINTS + 1)  # even, so that 0, where the density is infinite, is not among them
    return [
        _theory(variant, layer, std * at, k0(np.abs(at)) / (np.pi * std))
        for layer, std in _predicted(variant, "weight_gradient_std").items()
    ]


def _theory(variant: Variant, layer: int, x: np.ndarray, density: np.ndarray) -> tuple[dict[str, Any], pd.DataFrame]:
    rows = pd.DataFrame({"x": x, "density": density, "half_width": np.nan, "n": 0})
    return {"model": variant.label, "layer": layer, "source": "predicted", "step": 0}, rows


def draw_densities(data: pd.DataFrame, x_label: str, limits: Sequence[float] | None = None) -> Figure:
    """Returns a panel for each model, a colour for each layer; solid measured, dashed predicted.

    Args:
        data: as ``activation_densities`` or ``gradient_densities`` give them.
        limits: of each panel, ± its number; where the widest layer's measured density ends if not said.
    """
    from matplotlib.lines import Line2D

    models = list(dict.fromkeys(data["model"]))
    figure, axes = panel_each(models, 1.65, x_label)
    colors = layer_colors(sorted(data["layer"].unique()))
    for i, (at, model) in enumerate(zip(axes, models, strict=True)):
        part = data[data["model"] == model]
        for (layer, source), curve in part.groupby(["layer", "source"], sort=False):
            at.plot(curve["x"], curve["density"], color=colors[layer], **(_DASHED if source == "predicted" else {}))
        measured = part[part["source"] == "measured"]
        reach = limits[i] if limits else measured.loc[measured["density"] > 0, "x"].abs().max()
        at.set_xlim(-reach, reach)
        at.set_ylim(0, 1.05 * measured["density"].max())
        at.set_ylabel("density")
        few_ticks(at)
    more = [Line2D([], [], color="0.4", **_DASHED, label="predicted")] if "predicted" in set(data["source"]) else []
    layer_legend(figure, colors, more)
    return figure
