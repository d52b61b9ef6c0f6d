"""A page of examples with their labels, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def contact_sheet(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], path: str | Path, columns: int = 10
) -> None:
    """Writes a PNG of labelled examples.

    Args:
        images: [count, height, width] or [count, height, width, 3], uint8 or float in [0, 1].
        labels: [count].
        class_names: one a class.
        path: of the PNG.
        columns: examples in a row.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = np.asarray(images)
    pixels = pixels if pixels.dtype == np.uint8 else np.round(pixels * 255).astype(np.uint8)
    height, width = pixels.shape[1:3]
    zoom = max(1, round(128 / height))
    tile_width, tile_height = width * zoom, height * zoom
    gap, text = 10, 30
    rows = -(-len(pixels) // columns)
    page = Image.new(
        "RGB", (gap + columns * (tile_width + gap), gap + rows * (tile_height + text + gap)), (255, 255, 255)
    )
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        x = gap + (i % columns) * (tile_width + gap)
        y = gap + (i // columns) * (tile_height + text + gap)
        tile = Image.fromarray(image).resize((tile_width, tile_height), Image.Resampling.NEAREST)
        page.paste(tile.convert("RGB"), (x, y))
        words = class_names[int(label)].replace(" + ", " +\n")
        pen.multiline_text((x, y + tile_height + 2), words, fill=(40, 40, 40), font=font, spacing=1)
    page.save(path)
