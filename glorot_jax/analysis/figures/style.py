"""How figures look: print sizes, colours that colour-blind readers tell apart, labels beside the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from glorot_jax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLUMN, PAGE = 3.35, 6.9
"""Inches: one column of a two-column page, and both."""
DENSE = 200
"""Points of a curve from which on its band is drawn as pixels."""
PALETTE = {
    "blue": "#0072B2",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
}
"""Okabe & Ito's colours, their yellow apart: it is too light for lines on white."""
ACTIVATIONS = {"tanh": "blue", "softsign": "green", "sigmoid": "vermilion"}
"""Colours that belong to an activation in all figures."""
DASHES = {"standard": "-", "normalized": (0, (4, 1.5))}
"""Line styles that belong to an initialization in all figures."""
MORE_DASHES = ((0, (1, 1)), (0, (5, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_PARAMETERS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType, embedded
    "svg.fonttype": "path",
    "svg.hashsalt": "glorot_jax",
}


def require_matplotlib() -> None:
    """Raises the one line that says how to get Matplotlib, where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(
            "figures: they are drawn with Matplotlib, which is not installed", "pip install 'glorot-jax[figures]'"
        ) from None


@contextmanager
def style() -> Iterator[None]:
    """The parameters under which figures are drawn and written."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_PARAMETERS)
        yield


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Returns a figure of so many inches and its axes, row by row; nothing of ``pyplot``, so no window and no state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def panel_each(titles: Sequence[str], height: float, x_label: str, **options: Any) -> tuple[Figure, list[Axes]]:
    """Returns a panel for each title: below each other in one column, or, if they are more than two, in two.

    Args:
        height: of a panel, in inches.
    """
    columns = 1 if len(titles) <= 2 else 2
    rows = -(-len(titles) // columns)
    figure, axes = panels(rows, columns, COLUMN if columns == 1 else PAGE, 0.55 + height * rows, **options)
    for at in axes[len(titles) :]:
        at.remove()
    axes = axes[: len(titles)]
    for at, title in zip(axes, titles, strict=True):
        at.set_title(title)
    for at in axes[-columns:]:
        at.set_xlabel(x_label)
        at.tick_params(labelbottom=True)
    return figure, axes


def layer_legend(figure: Figure, colors: Mapping[int, Any], more: Sequence[Line2D]) -> None:
    """Writes above all panels which colour is which layer, and what else lines and markers are."""
    from matplotlib.lines import Line2D

    first = min(colors)
    layers = [
        Line2D([], [], color=color, label=f"layer {layer}" if layer == first else f"{layer}")
        for layer, color in colors.items()
    ]
    figure.legend(
        handles=[*layers, *more],
        loc="outside upper center",
        ncols=len(layers) + len(more),
        columnspacing=0.8,
        handletextpad=0.4,
        handlelength=1.4,
    )


@dataclass(frozen=True)
class Look:
    """Colour and line style of a curve."""

    color: str
    dashes: Any = "-"


def looks(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Look]:
    """Returns a look for each label: colour by activation, line style by initialization, as in all figures.

    Where the initialization varies, all settings beside it and the activation are told by colour, too; where it does
    not, by line style. Without an activation the first setting takes its place.

    Args:
        settings: label -> the settings that tell variants apart, by path.
    """
    paths = list(dict.fromkeys(path for some in settings.values() for path in some))
    activation, init = (
        next((p for p in paths if p.rpartition(".")[2] == name), None) for name in ("activation", "init")
    )
    rest = [p for p in paths if p not in (activation, init)]
    first = [activation] if activation else rest[:1]
    others = [p for p in rest if p not in first]
    colors = _assigned(settings, [*first, *others] if init else first, ACTIVATIONS, list(PALETTE))
    styles = ["-", DASHES["normalized"], *MORE_DASHES]
    dashes = _assigned(settings, [init] if init else others, DASHES, styles)
    return {label: Look(PALETTE[colors[label]], dashes[label]) for label in settings}


def _assigned(
    settings: Mapping[str, Mapping[str, Any]], paths: Sequence[str], fixed: Mapping[str, Any], free: Sequence[Any]
) -> dict[str, Any]:
    """What stands by label for its values of some settings: what is fixed for the first of them, else the next free."""
    kinds = {label: tuple(str(some.get(path)) for path in paths) for label, some in settings.items()}
    named = any(kind and kind[0] in fixed for kind in kinds.values())
    rest = cycle([one for one in free if not named or one not in fixed.values()])
    made: dict[tuple[str, ...], Any] = {}
    for kind in kinds.values():
        own = fixed.get(kind[0]) if kind else None
        if kind not in made:
            made[kind] = own if own is not None and own not in made.values() else next(rest)
    return {label: made[kind] for label, kind in kinds.items()}


def layer_colors(layers: Sequence[int]) -> dict[int, Any]:
    """Returns a colour for each layer, even in lightness from dark, the first, to light."""
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0, 0.85, len(layers)) if len(layers) > 1 else [0.3])
    return dict(zip(layers, map(tuple, shades.tolist()), strict=True))


class End(NamedTuple):
    """Where a curve ends, and what is written beside it."""

    x: float
    y: float
    text: str
    look: Look


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Writes each curve's label to the right of the axes, near its end and clear of the others.

    A piece of line in the curve's own look leads to it. An end that lies above the axes is labelled at their top.
    """
    from scipy.optimize import isotonic_regression

    if not ends:
        return
    axes.figure.draw_without_rendering()  # so that the axes have their final height
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    gap = 8.5 / height
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = sorted(((min(1.0, to_axes.transform((e.x, e.y))[1]), e) for e in ends), key=lambda pair: pair[0])
    steps = gap * np.arange(len(wanted))
    low = isotonic_regression([at for at, _ in wanted] - steps).x
    places = np.clip(low, 0.0, max(0.0, 1.0 - steps[-1])) + steps
    for (at, end), place in zip(wanted, places, strict=True):
        color, dashes = end.look.color, end.look.dashes
        start = to_axes.transform((end.x, end.y))[0]
        axes.plot(
            [max(start, 1.0), 1.03, 1.10],
            [at, place, place],
            transform=axes.transAxes,
            clip_on=False,
            color=color,
            linestyle=dashes,
            linewidth=0.8,
            scalex=False,
            scaley=False,
        )
        axes.text(1.12, place, end.text, transform=axes.transAxes, color=color, va="center", fontsize=7)


def mark_diverged(axes: Axes, x: pd.Series, diverged: pd.Series, color: Any = "black") -> None:
    """Puts a cross on the upper edge at each step by which more runs have diverged than before."""
    counts = pd.Series(diverged.to_numpy(), x.to_numpy()).groupby(level=0).max().sort_index()
    more = counts[counts.diff().fillna(counts) > 0]
    if len(more):
        top = axes.get_xaxis_transform()
        (crosses,) = axes.plot(
            more.index, np.ones(len(more)), "x", transform=top, clip_on=False, color=color, markersize=4
        )
        crosses.set_in_layout(False)


def with_diverged(label: str, rows: pd.DataFrame) -> str:
    """Returns a label that tells how many of the runs have diverged, if any.

    Args:
        rows: of one variant, with ``n`` and ``diverged``.
    """
    lost, runs = int(rows["diverged"].max()), int(max(rows["n"].max(), rows["diverged"].max()))
    return f"{label} ({lost} of {runs} diverged)" if lost else label


def few_ticks(axes: Axes) -> None:
    """Leaves so few ticks that their numbers do not touch in one column of a page."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def time_axis(axes: Axes, x: pd.Series) -> None:
    """Sets the horizontal axis to end where x does: logarithmic after the first step where steps are spaced so."""
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(x.min(), x.max())
    steps = np.unique(x[x > 0])
    if spaced := len(steps) > 3 and steps[-1] > 5 * steps[len(steps) // 2]:
        axes.set_xscale("symlog", linthresh=float(steps[0]))
    if spaced or x.max() >= 1000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def band(axes: Axes, x: pd.Series, rows: pd.DataFrame, color: Any) -> None:
    """Shades the intervals of means over three seeds or more; with two they span the page.

    Args:
        rows: with ``mean``, ``half_width`` and ``n``.
    """
    low, high = (rows["mean"] + way * rows["half_width"] for way in (-1, 1))
    dense = len(x) > DENSE
    axes.fill_between(
        x, low, high, where=(rows["n"] > 2).to_numpy(), color=color, alpha=0.18, linewidth=0, zorder=-1 if dense else 1
    )
    if dense:
        axes.set_rasterization_zorder(0)


def limits_of(values: pd.Series, margin: float = 0.06) -> tuple[float, float]:
    """Returns the limits of an axis that shows all these values; bands of intervals may be cut."""
    low, high = float(values.min()), float(values.max())
    pad = margin * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad
