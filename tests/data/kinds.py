"""One small data set of each kind that is held, and the sweep that the engine's promises are tried on."""

from __future__ import annotations

from typing import Any

import numpy as np

from glorot_jax import Sweep, arrays, tfds
from tests.engine import small


def invented(placement: str = "device") -> arrays:
    """Colour pictures whose number has no small divisor, in floats."""
    chance = np.random.default_rng(0)
    inputs, labels = chance.normal(size=(211, 4, 4, 3)).astype(np.float32), chance.integers(0, 3, 211)
    return arrays(inputs, labels, validation=30, test=30, scaling="standard", placement=placement)


KINDS = {
    "arrays": invented,
    "a tree": lambda: tfds("mnist", validation=13),
    "a tree on the host": lambda: tfds("mnist", validation=13, placement="host"),
}
"""The trees are of made-up pictures in ``$TFDS_DATA_DIR``, few enough to be shown more than once."""


def sweep(**changes: Any) -> Sweep:
    """The engine's small sweep with the probes that need not much compiling."""
    return small.sweep(**{"probes": ("evaluation", "gradients")} | changes)
