"""A set of real pictures to train on, or as many random bytes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax import mnist, tfds
from glorot_jax.data import pictures
from glorot_jax.data.originals import ORIGINALS
from glorot_jax.data.tfds import write


def prepared(folder: Path) -> tuple[str, Callable[..., Any]]:
    """Prepares MNIST in a folder: the files of ``$GLOROT_TEST_DATA/mnist`` if there are any, else random bytes.

    Returns its name, and what describes it for a ``placement``.
    """
    where = {"data_dir": str(folder)}
    if (told := os.environ.get("GLOROT_TEST_DATA")) and (source := Path(told) / "mnist").is_dir():
        pictures.prepare("mnist", source, where["data_dir"])
        return "MNIST", functools.partial(mnist, **where)
    chance = np.random.default_rng(0)
    splits = {
        split: (chance.integers(0, 256, (count, 28, 28, 1), np.uint8), chance.integers(0, 10, count, np.uint8))
        for split, count in ORIGINALS["mnist"].sizes.items()
    }
    write(ORIGINALS["mnist"], splits, where["data_dir"])
    return "random bytes like MNIST", functools.partial(tfds, "mnist", **where)
