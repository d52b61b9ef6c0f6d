"""Contact sheets: every example is on the page, enlarged without smoothing, where its number says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glorot_jax.data.contact_sheet import contact_sheet

GAP, TEXT = 10, 30


def page(tmp_path, images, labels, names=("a", "b"), **options) -> np.ndarray:
    contact_sheet(images, np.asarray(labels), names, tmp_path / "page.png", **options)
    with Image.open(tmp_path / "page.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def tile(sheet: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    y, x = GAP + row * (side + TEXT + GAP), GAP + column * (side + GAP)
    return sheet[y : y + side, x : x + side]


def enlarged(image: np.ndarray, zoom: int) -> np.ndarray:
    """Every pixel as a block of three equal channels, if it is grey."""
    return np.kron(image if image.ndim == 3 else image[..., None].repeat(3, -1), np.ones((zoom, zoom, 1), np.uint8))


@pytest.mark.parametrize(("side", "zoom"), [(16, 8), (32, 4), (100, 1), (300, 1)])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_every_example_is_on_the_page_pixel_by_pixel(tmp_path, side, zoom, channels):
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, *channels), dtype=np.uint8)
    sheet = page(tmp_path, images, [0, 1, 0, 1, 0], columns=3)
    shown = side * zoom
    assert sheet.shape == (GAP + 2 * (shown + TEXT + GAP), GAP + 3 * (shown + GAP), 3)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(tile(sheet, i // 3, i % 3, shown), enlarged(image, zoom))
    assert (tile(sheet, 1, 2, shown) == 255).all(), "no sixth"
    for x in range(0, sheet.shape[1], shown + GAP):
        assert (sheet[:, x : x + GAP] == 255).all(), "nothing reaches between the columns"


def test_an_example_need_not_be_square(tmp_path):
    images = np.arange(2 * 32 * 64, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 64)
    sheet = page(tmp_path, images, [0, 0], columns=1)
    assert sheet.shape == (GAP + 2 * (128 + TEXT + GAP), GAP + 256 + GAP, 3)
    np.testing.assert_array_equal(sheet[GAP : GAP + 128, GAP : GAP + 256], enlarged(images[0], 4))


@pytest.mark.parametrize("offset", [-0.4, 0, 0.4])
def test_floats_between_0_and_1_show_as_the_nearest_bytes(tmp_path, offset):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    exact, drawn = (page(tmp_path, images, [0]) for images in (levels, np.clip((levels + offset) / 255, 0, 1)))
    np.testing.assert_array_equal(exact, drawn)


def test_each_example_bears_the_name_of_its_class(tmp_path):
    """The same label looks the same under every example, another one otherwise, on two lines if it names two."""
    images = np.zeros((4, 32, 32), np.uint8)
    names = ("triangle", "ellipse", "triangle + ellipse")
    sheet = page(tmp_path, images, [0, 1, 0, 2], names)

    def words(column: int) -> np.ndarray:
        x = GAP + column * (128 + GAP)
        return sheet[GAP + 128 : GAP + 128 + TEXT + GAP, x : x + 128]

    np.testing.assert_array_equal(words(0), words(2))
    assert (words(0) != words(1)).any()
    written = [np.flatnonzero((words(column) < 200).any(axis=(1, 2))) for column in range(4)]
    assert all(len(rows) for rows in written)
    assert written[3].max() > written[0].max() + 8
    assert written[3].max() < TEXT + GAP - 1
    np.testing.assert_array_equal(words(3)[: written[0].max()][:, :40], words(0)[: written[0].max()][:, :40])


def test_every_example_needs_a_label(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        page(tmp_path, np.zeros((2, 8, 8), np.uint8), [0])
