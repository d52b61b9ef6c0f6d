"""Cost of a run-step against the number of runs, with the machine's bounds, drawn from the benchmark's result."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glorot_jax.analysis.figures import style

_CURVES = {
    "engine": ("glorot_jax", "blue", "-", "o"),
    "torch_batched": ("PyTorch by hand", "vermilion", "-", "s"),
    "sequential": ("JAX, one run", "green", "-", "^"),
}
"""By contestant: label, colour, line and marker."""
_BOUNDS = {"bandwidth": ("four weight passes", (0, (1, 1))), "arithmetic": ("arithmetic", (0, (4, 1.5)))}
"""Each with its line; both grey."""


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the figure of a scaling section to a file, in the format of its suffix.

    Raises:
        InputError: Matplotlib is not installed.
    """
    style.require_matplotlib()
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    runs = [row["runs"] for row in rows]
    with style.style():
        figure, (axes,) = style.panels(1, 1, style.PAGE * 0.72, 2.9)
        axes.set_xscale("log", base=4 if len(runs) > 4 else 16)
        axes.set_yscale("log")
        ends = []
        for name, (label, color, dashes, marker) in _CURVES.items():
            if name not in rows[0]["seconds"]:
                continue
            look = style.Look(style.PALETTE[color], dashes)
            micro = [statistics.median(row["seconds"][name]) * 1e6 for row in rows]
            axes.plot(runs, micro, color=look.color, linestyle=dashes, marker=marker)
            ends.append(style.End(runs[-1], micro[-1], label, look))
        for name, (label, dashes) in _BOUNDS.items():
            look = style.Look("0.45", dashes)
            bound = rows[0]["bounds"][name] * 1e6
            axes.axhline(bound, color=look.color, linestyle=dashes, linewidth=0.9)
            ends.append(style.End(runs[-1], bound, f"{label}, {bound:.2g} µs", look))
        axes.set_xticks(runs)
        axes.set_xlim(runs[0] / 1.3, runs[-1] * 1.3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("runs trained together")
        axes.set_ylabel("µs of a run and step")
        devices = rows[-1]["devices"]
        axes.set_title(f"{rows[0]['network']}, mini-batches of 10, on {devices} device{'s' * (devices > 1)}")
        style.label_ends(axes, ends)
        figure.savefig(path)
