"""The paper's twelve figures, from results folders of its sweeps; Figures 1 and 5 need none.

Each function returns a figure's data, caption and how it is drawn. ``found`` holds results by the name of their sweep.
A figure is drawn from the runs of the learning rate that has the lowest mean validation error, for each model and depth
by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glorot_jax.analysis.figures.curves import CROPPED, draw_learning_curves, learning_curves
from glorot_jax.analysis.figures.general import told_of
from glorot_jax.analysis.figures.histograms import activation_densities, draw_densities, gradient_densities
from glorot_jax.analysis.figures.over_training import (
    MEAN,
    SPREAD,
    WEIGHT_GRADIENTS,
    Place,
    draw_over_training,
    over_training,
)
from glorot_jax.analysis.figures.style import ACTIVATIONS, COLUMN, DASHES, PAGE, PALETTE, Look, panels
from glorot_jax.analysis.figures.variants import NotRecordedError, Variant, all_runs, chosen, label_of
from glorot_jax.analysis.figures.write import Drawing
from glorot_jax.analysis.results import Results
from glorot_jax.analysis.selection import RATE, with_depth
from glorot_jax.errors import InputError
from glorot_jax.paper.cost_surface import cost_surface
from glorot_jax.paper.settings import DEPTH, EPOCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "glorot2010-"
"""How the names of the paper's sweeps begin."""
INITIALIZATION, SATURATION, SHAPESET, PRETRAINING = (
    f"{PAPER}{name}" for name in ("initialization", "saturation", "shapeset", "pretraining")
)
PICTURES = {"MNIST": f"{PAPER}mnist", "CIFAR-10": f"{PAPER}cifar10"}
EXPERIMENTS = (INITIALIZATION, SATURATION, SHAPESET, PRETRAINING, *PICTURES.values())
"""Names of the sweeps that the figures are drawn from."""
EXAMPLES, SURFACE_SEED = 10, 0
"""Of Figure 5: random examples, and the seed of them."""


@dataclass(frozen=True)
class Model:
    """A model as the paper's figures name it."""

    label: str
    activation: str
    init: str
    depth: int = DEPTH

    @property
    def look(self) -> Look:
        color = "orange" if self.activation == "sigmoid" and self.depth != DEPTH else ACTIVATIONS[self.activation]
        return Look(PALETTE[color], DASHES[self.init])


TANH, TANH_N = Model("Tanh", "tanh", "standard"), Model("Tanh N", "tanh", "normalized")
SOFTSIGN, SOFTSIGN_N = Model("Softsign", "softsign", "standard"), Model("Softsign N", "softsign", "normalized")
SIGMOID, SIGMOID_4 = Model("Sigmoid depth 5", "sigmoid", "standard"), Model("Sigmoid depth 4", "sigmoid", "standard", 4)
CURVES = (SIGMOID, SIGMOID_4, TANH, TANH_N, SOFTSIGN, SOFTSIGN_N)
PRETRAINED = "Pre-training"
_LOOKS = {model.label: model.look for model in CURVES} | {PRETRAINED: Look(PALETTE["purple"])}
_POOLED = "of each hidden layer, pooled over its units and 300 fixed test examples"
_EPOCHS = f"One epoch is {EPOCH:,} updates."


def drawing_of(number: int, found: Mapping[str, Results], command: str) -> Drawing:
    """Returns one of the figures, 1 to 12.

    Args:
        found: results, by the name of their sweep.
        command: which draws it, for the caption.

    Raises:
        NotRecordedError: its sweep has no results here; the text says which command gives them.
    """
    name = f"figure {number}"
    try:
        made = FIGURES[number](found)
    except NotRecordedError as error:
        raise NotRecordedError(f"{name}: not drawn: {error}") from None
    missing = tuple(f"{name}: drawn without {part}" for part in made.missing)
    caption = f"{made.caption} Made by: {command}"
    return replace(
        made, name=f"figure{number:02}", title=f"Figure {number}: {made.title}", caption=caption, missing=missing
    )


def _drawing(
    title: str, caption: str, data: pd.DataFrame, draw: Callable[[pd.DataFrame], Figure], missing: Sequence[str] = ()
) -> Drawing:
    return Drawing("", title, caption, data, draw, tuple(missing))


# ---- which runs


def _sweep(found: Mapping[str, Results], name: str) -> Results:
    if name not in found:
        raise NotRecordedError(f"there are no results of {name}; glorot run {name.replace('-', '/', 1)} gives them")
    return found[name]


def _variant(found: Mapping[str, Results], name: str, model: Model) -> Variant:
    """A model's runs in a sweep, at the learning rate of lowest validation error."""
    results = _sweep(found, name)
    runs = all_runs(results)
    mine = (runs["model.activation"] == model.activation) & (runs["model.init"] == model.init)
    mine &= with_depth(runs, results.configurations)["depth"] == model.depth
    mine &= ~_pretrained(runs)
    if not mine.any():
        raise NotRecordedError(
            f"{name} has no runs of {model.activation}, {model.init}, {model.depth} hidden layers; "
            f"glorot run {name.replace('-', '/', 1)} trains them"
        )
    return chosen(results, runs[mine], model.label)


def _pretrained(runs: pd.DataFrame) -> pd.Series:
    return runs["pretraining"].notna() if "pretraining" in runs else pd.Series(False, runs.index)


# ---- the figures


def _figure1(found: Mapping[str, Results]) -> Drawing:
    from glorot_jax.data import pictures

    sets, missing = {"Shapeset-3×2": pictures.sample(pictures.describe("shapeset"), 50, seed=0, size=64)}, []
    try:
        sets["Small-ImageNet"] = pictures.sample(pictures.describe("small_imagenet"), 50, seed=0)
    except InputError:
        missing.append("Small-ImageNet, which is not ready here; glorot data prepare small_imagenet makes it")
    data = pd.DataFrame(
        [
            (name, tile + 1, names[int(label)])
            for name, (_, labels, names) in sets.items()
            for tile, label in enumerate(labels)
        ],
        columns=["set", "tile", "class"],
    )
    caption = "Random training examples, by rows: " + "; ".join(
        f"{name}, {images.shape[1]}×{images.shape[2]} pixels" for name, (images, *_) in sets.items()
    )
    images = {name: images for name, (images, *_) in sets.items()}
    return _drawing("samples of the data sets", f"{caption}.", data, partial(_draw_tiles, images=images), missing)


def _figure2(found: Mapping[str, Results]) -> Drawing:
    sigmoid = replace(SIGMOID_4, label="Sigmoid, four hidden layers")
    return _over_epochs(
        [_variant(found, SATURATION, sigmoid)],
        MEAN,
        "activations of a sigmoid network over training",
        f"Activations {_POOLED}: mean (lines) ± standard deviation (bars), over training.",
        "activation",
        (0.0, 1.0),
    )


def _figure3(found: Mapping[str, Results]) -> Drawing:
    return _spread_of_activations(
        [_variant(found, SATURATION, model) for model in (TANH, SOFTSIGN)],
        "activations over training from the standard initialization",
    )


def _figure4(found: Mapping[str, Results]) -> Drawing:
    shown = [_variant(found, SATURATION, model) for model in (TANH, SOFTSIGN)]
    data = activation_densities(shown, last=True)
    caption = (
        f"Densities of the activations {_POOLED}, after {data['step'].max():,} updates from the standard "
        f"initialization. The bins at ±1 count as wide as the activation can reach into them. {told_of(shown)}"
    )
    draw = partial(draw_densities, x_label="activation", limits=(1, 1))
    return _drawing("activations at the end of training", caption, data, draw)


def _figure5(found: Mapping[str, Results]) -> Drawing:
    surface = cost_surface(SURFACE_SEED, EXAMPLES, points=41)
    w1, w2 = (w.ravel() for w in np.meshgrid(surface.w1, surface.w2, indexing="ij"))
    data = pd.concat(
        pd.DataFrame({"cost": cost, "w1": w1, "w2": w2, "value": values.ravel()})
        for cost, values in (("cross-entropy", surface.cross_entropy), ("quadratic", surface.quadratic))
    )
    caption = (
        "Cross-entropy (black, in nats) and quadratic cost (red) over the two weights of a network of one tanh unit "
        "and one sigmoid output, y = 1/(1+exp(−W2 tanh(W1 x))): means of −t log y − (1−t) log(1−y) and of (y − t)² "
        f"over n = {EXAMPLES} random examples, x standard normal, t 0 or 1 with equal chance. Nothing is trained."
    )
    return _drawing("cross-entropy and quadratic cost surfaces", caption, data.reset_index(drop=True), _draw_surfaces)


def _figure6(found: Mapping[str, Results]) -> Drawing:
    shown = _at_initialization(found)
    caption = (
        f"Densities of the activations {_POOLED}, before the first update: standard (top) and normalized "
        f"initialization. Dashed: a Gaussian of the standard deviation that theory predicts. {told_of(shown)}"
    )
    data = activation_densities(shown, last=False, predicted=True)
    return _drawing(
        "activations at initialization", caption, data, partial(draw_densities, x_label="activation", limits=(1, 1))
    )


def _figure7(found: Mapping[str, Results]) -> Drawing:
    return _gradients_at_initialization(
        found,
        "gradient",
        "back-propagated gradients at initialization",
        f"Densities of the back-propagated gradients ∂C/∂s {_POOLED}",
        "a Gaussian of the standard deviation that theory predicts",
        "∂C/∂s",
    )


def _figure8(found: Mapping[str, Results]) -> Drawing:
    return _gradients_at_initialization(
        found,
        "weight_gradient",
        "weight gradients at initialization",
        "Densities of the weight gradients ∂C/∂W of each hidden layer, example by example, pooled over its weights",
        "of a product of two independent Gaussians with the standard deviation that theory predicts",
        "∂C/∂W",
    )


def _figure9(found: Mapping[str, Results]) -> Drawing:
    shown = [_variant(found, SATURATION, model) for model in (TANH, TANH_N)]
    caption = (
        "Weight gradients ∂C/∂W of each hidden layer, example by example, pooled over its weights and 300 fixed test "
        "examples: ± standard deviation over training, from the standard (top) and the normalized initialization."
    )
    return _over_epochs(shown, WEIGHT_GRADIENTS, "weight gradients over training", caption, "∂C/∂W", None)


def _figure10(found: Mapping[str, Results]) -> Drawing:
    return _spread_of_activations(
        [_variant(found, SATURATION, TANH_N)], "activations over training from the normalized initialization"
    )


def _figure11(found: Mapping[str, Results]) -> Drawing:
    shown, missing = [], []
    for model in CURVES:
        try:
            shown.append(_variant(found, SHAPESET, model))
        except NotRecordedError as error:
            missing.append(f"{model.label}: {error}")
    if not shown:
        _variant(found, SHAPESET, TANH)
    try:
        shown.append(_with_pretraining(found))
        pretrained = f" {PRETRAINED}: denoising auto-encoders, {label_of(shown[-1].settings)}."
    except NotRecordedError as error:
        missing.append(f"{PRETRAINED}: {error}")
        pretrained = ""
    caption = (
        "Test error on Shapeset-3×2 over the number of training examples seen, those of the pre-training not counted. "
        f"N: normalized initialization.{pretrained} {told_of(shown)}"
    )
    return _test_errors({"": shown}, "test error on Shapeset-3×2", caption, missing, crop=False)


def _figure12(found: Mapping[str, Results]) -> Drawing:
    shown: dict[str, list[Variant]] = {}
    missing = []
    for title, name in PICTURES.items():
        for model in CURVES:
            try:
                shown.setdefault(title, []).append(_variant(found, name, model))
            except NotRecordedError as error:
                missing.append(f"{title}, {model.label}: {error}" if name in found else f"{title}: {error}")
    shown = {title: some for title, some in shown.items() if some}
    missing = list(dict.fromkeys(missing))
    if not shown:
        raise NotRecordedError(missing[0].partition(": ")[2])
    caption = "Test error over the number of training examples seen. N: normalized initialization. "
    caption += " ".join([CROPPED, *(f"{title}: {told_of(some)}" for title, some in shown.items())])
    return _test_errors(shown, "test error on MNIST and CIFAR-10", caption, missing, crop=True)


FIGURES: dict[int, Callable[[Mapping[str, Results]], Drawing]] = {
    1: _figure1,
    2: _figure2,
    3: _figure3,
    4: _figure4,
    5: _figure5,
    6: _figure6,
    7: _figure7,
    8: _figure8,
    9: _figure9,
    10: _figure10,
    11: _figure11,
    12: _figure12,
}
"""By number, what makes a figure from results by the name of their sweep."""


# ---- what several of them share


def _over_epochs(
    shown: Sequence[Variant],
    statistics: dict[str, Place],
    title: str,
    caption: str,
    y_label: str,
    limits: tuple[float, float] | None,
) -> Drawing:
    data = over_training(shown, statistics)
    data.insert(3, "epoch", data["step"] / EPOCH)
    if limits is None:
        top = 1.06 * float(data["mean"].abs().max())
        limits = (-top, top)
    draw = partial(draw_over_training, x="epoch", x_label=f"epoch ({EPOCH:,} updates)", y_label=y_label, limits=limits)
    return _drawing(title, f"{caption} {_EPOCHS} {told_of(shown)}", data, draw)


def _spread_of_activations(shown: Sequence[Variant], title: str) -> Drawing:
    caption = (
        f"Activations {_POOLED}: ± standard deviation (lines), 1 % and 99 % quantiles (markers), over training: "
        f"{', '.join(variant.label for variant in shown)}."
    )
    return _over_epochs(shown, SPREAD, title, caption, "activation", (-1.05, 1.05))


def _at_initialization(found: Mapping[str, Results]) -> list[Variant]:
    standard, normalized = (
        replace(model, label=f"{model.init.capitalize()} initialization") for model in (TANH, TANH_N)
    )
    return [_variant(found, INITIALIZATION, model) for model in (standard, normalized)]


def _gradients_at_initialization(
    found: Mapping[str, Results], kind: str, title: str, caption: str, theory: str, x_label: str
) -> Drawing:
    shown = _at_initialization(found)
    caption = (
        f"{caption}, before the first update: standard (top) and normalized initialization, tanh. Dashed: {theory}. "
        f"{told_of(shown)}"
    )
    data = gradient_densities(shown, kind, last=False, predicted=True)
    return _drawing(title, caption, data, partial(draw_densities, x_label=x_label))


def _with_pretraining(found: Mapping[str, Results]) -> Variant:
    """The pre-trained runs; of several settings of network and pre-training, those of the lowest validation error."""
    results = _sweep(found, PRETRAINING)
    runs = all_runs(results)
    runs = runs[_pretrained(runs)]
    if runs.empty:
        raise NotRecordedError(f"{PRETRAINING} has no pre-trained runs")
    named = ["model.activation", "model.init"]
    others = [p for p in results.varying if p not in (*named, RATE, "pretraining")]
    kinds = runs.groupby([runs[p].astype(str) for p in (*named, *others)], sort=False)
    best = min((chosen(results, part, PRETRAINED) for _, part in kinds), key=_validation_error)
    return replace(best, settings={p: best.runs[p].iloc[0] for p in (*named, *others)})


def _validation_error(variant: Variant) -> float:
    return float(variant.runs["valid_error"].fillna(np.inf).mean())


def _test_errors(
    shown: Mapping[str, Sequence[Variant]], title: str, caption: str, missing: Sequence[str], crop: bool
) -> Drawing:
    data = pd.concat([learning_curves(some, "test_error", panel) for panel, some in shown.items()], ignore_index=True)
    data["examples"] = data["examples"].astype(float)
    millions = data["examples"].max() >= 10**6
    data["million_examples" if millions else "thousand_examples"] = data["examples"] / (10**6 if millions else 1000)
    draw = partial(
        draw_learning_curves,
        looks=_LOOKS,
        x=data.columns[-1],
        x_label=f"{'millions' if millions else 'thousands'} of examples seen",
        y_label="test error (%)",
        scale=100,
        crop=crop,
    )
    return _drawing(title, caption, data, draw, missing)


# ---- drawings of the paper's own


def _draw_tiles(data: pd.DataFrame, images: Mapping[str, np.ndarray]) -> Figure:
    """Five rows of ten tiles for each set."""
    figure, axes = panels(1, len(images), PAGE if len(images) > 1 else COLUMN, 1.9)
    for at, (name, tiles) in zip(axes, images.items(), strict=True):
        at.imshow(_sheet(np.asarray(tiles)), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        at.set_title(name)
        at.set_axis_off()
    return figure


def _sheet(tiles: np.ndarray, rows: int = 5, columns: int = 10, gap: int = 3) -> np.ndarray:
    """One picture of the tiles [count, height, width] on white."""
    tiles = tiles / 255 if tiles.dtype == np.uint8 else tiles
    height, width = (side + gap for side in tiles.shape[1:3])
    sheet = np.ones((rows * height - gap, columns * width - gap))
    for i, tile in enumerate(tiles[: rows * columns]):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height - gap, left : left + width - gap] = tile
    return sheet


def _draw_surfaces(data: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN, 3.0))
    axes = figure.add_axes((0.0, 0.06, 0.86, 0.9), projection="3d")
    for cost, color in (("cross-entropy", "black"), ("quadratic", "#CC0000")):
        grid = data[data["cost"] == cost].pivot(index="w1", columns="w2", values="value")
        w1, w2 = np.meshgrid(grid.index, grid.columns, indexing="ij")
        axes.plot_wireframe(w1, w2, grid.to_numpy(), rcount=31, ccount=31, color=color, linewidth=0.4, label=cost)
    axes.set(xlabel="W1", ylabel="W2")
    axes.set_zlabel("cost", labelpad=-2)
    axes.set_zlim(bottom=0)
    axes.tick_params(pad=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=2)
    return figure
