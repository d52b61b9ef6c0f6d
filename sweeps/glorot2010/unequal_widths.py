"""Glorot & Bengio (2010), section 4.2.2: the normalized initialization in networks whose layers grow or shrink.

Tanh networks of five hidden layers, each a fifth of the mean width wider, or narrower, than the one below. Small:
40 000 updates. Full: 2.5 million updates.

    glorot run glorot2010/unequal_widths
"""

from glorot_jax import Sweep, every, grid, probe, shapeset
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    growing = tuple(size.units * share // 10 for share in (6, 8, 10, 12, 14))
    return Sweep(
        name="glorot2010-unequal_widths",
        data=shapeset(),
        model=size.model(widths=grid(growing, growing[::-1]), activation="tanh", init=grid("standard", "normalized")),
        optimizer=size.optimizer(),
        seeds=range(5),
        steps=size.side_updates,
        record=every(size.side_updates // 10),
        probes=("evaluation", "activations", "gradients", probe("jacobians", method="exact")),
    )
