"""What can be drawn of any sweep, by what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from glorot_jax.analysis.figures.curves import CROPPED, draw_learning_curves, learning_curves
from glorot_jax.analysis.figures.histograms import activation_densities, draw_densities, gradient_densities
from glorot_jax.analysis.figures.over_training import (
    GRADIENTS,
    SPREAD_AROUND_MEAN,
    WEIGHT_GRADIENTS,
    Place,
    draw_over_training,
    over_training,
)
from glorot_jax.analysis.figures.start import draw_start_by_layer, start_by_layer
from glorot_jax.analysis.figures.style import looks
from glorot_jax.analysis.figures.variants import NotRecordedError, Variant, variants
from glorot_jax.analysis.figures.write import Drawing
from glorot_jax.analysis.results import Results
from glorot_jax.analysis.tables import name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 12
"""Variants in one figure; of more, those of lowest validation error."""


def drawing_of(results: Results, kind: str, command: str) -> Drawing:
    """Returns one of ``KINDS`` for a sweep, all variants in it.

    Args:
        command: which draws it, for the caption.

    Raises:
        NotRecordedError: the sweep has no such records.
    """
    shown, left_out = _best(variants(results))
    if not shown:
        raise NotRecordedError(f"{results.name} has no results yet")
    made = KINDS[kind](shown)
    caption = f"{made.caption} {told_of(shown)}"
    if left_out:
        caption += f" {left_out} more variants, of higher validation error, are not shown."
    title = f"{results.name}: {made.title}"
    return Drawing(f"{results.name}-{kind}", title, f"{caption} Made by: {command}", made.data, made.draw)


def told_of(shown: Sequence[Variant]) -> str:
    """Returns what every caption says of its runs: statistic, interval, n, choice, what is pooled, how far they are."""
    text = "Means over seeds; bands, from three seeds on: 95 % Student's t intervals. "
    text += "; ".join(variant.told for variant in shown) + "."
    if any(variant.searched for variant in shown):
        text += " Learning rates chosen by validation error."
    if pooled := dict.fromkeys(path for variant in shown for path in variant.pooled):
        text += f" Pooled over {', '.join(map(name_of, pooled))}."
    runs = pd.concat([variant.runs[["step", "steps"]] for variant in shown])
    behind = runs[runs["step"] < runs["steps"]]
    if len(behind):
        least = behind.loc[behind["step"].idxmin()]
        text += f" Partial: step {max(0, least['step']):,} of {least['steps']:,}."
    return text


def _best(found: list[Variant]) -> tuple[list[Variant], int]:
    if len(found) <= MOST:
        return found, 0
    if all("valid_error" in v.runs for v in found):
        kept = sorted(found, key=lambda v: v.runs["valid_error"].fillna(float("inf")).mean())[:MOST]
    else:
        kept = found[:MOST]
    labels = {v.label for v in kept}
    return [v for v in found if v.label in labels], len(found) - MOST


class _Made(NamedTuple):
    title: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[pd.DataFrame], Figure]


def _learning_curves(shown: Sequence[Variant]) -> _Made:
    for name, label, scale in (("test_error", "test error (%)", 100), ("train_loss", "training loss", 1)):
        if all(name in variant.runs for variant in shown):
            data = learning_curves(shown, name, shown[0].results.name)
            look = looks({variant.label: variant.settings for variant in shown})
            draw = partial(
                draw_learning_curves, looks=look, x="step", x_label="updates", y_label=label, scale=scale, crop=True
            )
            caption = f"{label.partition(' (')[0].capitalize()} over training. {CROPPED}"
            return _Made("learning curves", caption, data, draw)
    raise NotRecordedError(f"{shown[0].results.name} recorded neither test error nor training loss")


def _over_training(
    title: str, caption: str, y_label: str, statistics: dict[str, Place], shown: Sequence[Variant]
) -> _Made:
    known = set.intersection(*(variant.recorded for variant in shown))
    some = {name: place for name, place in statistics.items() if place[0] in known}
    some = some if "std" in some else statistics  # whose absence is then told
    draw = partial(draw_over_training, x="step", x_label="updates", y_label=y_label)
    return _Made(title, caption, over_training(shown, some), draw)


def _densities(
    title: str, caption: str, x_label: str, make: Callable[[Sequence[Variant]], pd.DataFrame], shown: Sequence[Variant]
) -> _Made:
    return _Made(title, caption, make(shown), partial(draw_densities, x_label=x_label))


def _start(shown: Sequence[Variant]) -> _Made:
    data, settings = start_by_layer(shown)
    caption = (
        "Standard deviation of each hidden layer's activations, back-propagated gradients ∂C/∂s and weight gradients "
        "∂C/∂W at step 0: measured (markers) and predicted by mean-field theory (lines)."
    )
    return _Made("layers before the first update", caption, data, partial(draw_start_by_layer, settings=settings))


_POOLED = "of each hidden layer, pooled over its units and fixed test examples"
KINDS: dict[str, Callable[[Sequence[Variant]], _Made]] = {
    "learning_curves": _learning_curves,
    "start": _start,
    "activations": partial(
        _over_training,
        "activations over training",
        f"Activations {_POOLED}: mean ± standard deviation (lines), 1 % and 99 % quantiles (markers).",
        "activation",
        SPREAD_AROUND_MEAN,
    ),
    "gradients": partial(
        _over_training,
        "back-propagated gradients over training",
        f"Back-propagated gradients ∂C/∂s {_POOLED}: ± standard deviation.",
        "∂C/∂s",
        GRADIENTS,
    ),
    "weight_gradients": partial(
        _over_training,
        "weight gradients over training",
        "Weight gradients ∂C/∂W of each hidden layer, example by example: ± standard deviation.",
        "∂C/∂W",
        WEIGHT_GRADIENTS,
    ),
    "activation_densities_at_start": partial(
        _densities,
        "activations before the first update",
        f"Densities of the activations {_POOLED}, at step 0; dashed: a Gaussian of the predicted deviation.",
        "activation",
        partial(activation_densities, last=False, predicted=True),
    ),
    "activation_densities_at_end": partial(
        _densities,
        "activations at the last recorded step",
        f"Densities of the activations {_POOLED}, at the last recorded step.",
        "activation",
        partial(activation_densities, last=True),
    ),
    "gradient_densities_at_start": partial(
        _densities,
        "back-propagated gradients before the first update",
        f"Densities of the back-propagated gradients ∂C/∂s {_POOLED}, at step 0; dashed: a Gaussian of the predicted "
        "deviation.",
        "∂C/∂s",
        partial(gradient_densities, kind="gradient", last=False, predicted=True),
    ),
}
"""By name, what makes a figure of a sweep's variants."""
