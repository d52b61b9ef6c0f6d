"""Writing figures: one drawing becomes files of several formats, the data behind it, and its caption."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from glorot_jax.analysis.figures.style import style
from glorot_jax.files import write, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
CAPTIONS = "captions.json"
PAGE = "figures.md"


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes:
        name: of its files, without the ending.
        title: a few words.
        caption: what is shown: statistic, n, interval, what was chosen, the command.
        data: what is drawn, tidy.
        draw: data -> figure.
        missing: a line for each part that could not be drawn, with the command that gives its data.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[pd.DataFrame], Figure]
    missing: tuple[str, ...] = ()


def write_drawings(
    drawings: Sequence[Drawing], out: Path, formats: Sequence[str] = ("png", "pdf"), data: bool = False
) -> list[Path]:
    """Writes drawings into a folder and returns the files.

    Beside them stand ``captions.json``, all captions by name, and ``figures.md``, a page with figures and captions;
    what an earlier call wrote there of other figures stays.

    Args:
        formats: of ``FORMATS``.
        data: whether the data behind each are written, too, as CSV.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for drawing in drawings:
        with style():
            figure = drawing.draw(drawing.data)
            for kind in formats:
                written.append(out / f"{drawing.name}.{kind}")
                write(written[-1], _saved(figure, drawing, kind))
        if data:
            written.append(out / f"{drawing.name}.csv")
            write(written[-1], drawing.data.to_csv(index=False).encode())
    return [*written, *_write_captions(drawings, out)]


def _saved(figure: Figure, drawing: Drawing, kind: str) -> bytes:
    """A file's bytes, the same for the same figure: without the time of day."""
    told = {
        "png": {"Title": drawing.title, "Description": drawing.caption},
        "pdf": {"Title": drawing.title, "Subject": drawing.caption, "CreationDate": None},
        "svg": {"Title": drawing.title, "Description": drawing.caption, "Date": None},
    }
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=told[kind])
    return _small(buffer, told[kind]) if kind == "png" else buffer.getvalue()


def _small(png: io.BytesIO, told: Mapping[str, str]) -> bytes:
    """The same picture in 256 colours of its own: a third of the bytes, and no difference to the eye."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(png) as image:
        picture = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        dpi = image.info["dpi"]
    info = PngInfo()
    for name, text in told.items():
        info.add_itxt(name, text)
    made = io.BytesIO()
    picture.save(made, "png", optimize=True, pnginfo=info, dpi=dpi)
    return made.getvalue()


def _write_captions(drawings: Sequence[Drawing], out: Path) -> list[Path]:
    path = out / CAPTIONS
    known = _captions(path) | {d.name: {"title": d.title, "caption": d.caption} for d in drawings}
    write_json(path, known)
    parts = []
    for name, told in sorted(known.items()):
        picture = next((f"{name}.{kind}" for kind in ("png", "svg") if (out / f"{name}.{kind}").exists()), None)
        shown = f"![{told['title']}]({picture})\n\n" if picture else ""
        parts.append(f"## {told['title']}\n\n{shown}{told['caption']}\n")
    write(out / PAGE, "\n".join(parts).encode())
    return [path, out / PAGE]


def _captions(path: Path) -> dict[str, dict[str, str]]:
    """Captions by name that are there already; none where the file is no longer one of captions."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
