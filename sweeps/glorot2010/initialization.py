"""Glorot & Bengio (2010) before the first update: Figures 6, 7 and 8, and the singular values of section 4.2.2.

Tanh networks of the paper's own size at both scales, five hidden layers of 1000 units, from the standard and from the
normalized initialization. Nothing is trained.

    glorot run glorot2010/initialization
"""

from glorot_jax import Sweep, grid, probe, sgd, shapeset
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES["full"]
    return Sweep(
        name="glorot2010-initialization",
        data=shapeset(),
        model=size.model(activation="tanh", init=grid("standard", "normalized")),
        optimizer=sgd(learning_rate=0.01),
        seeds=range(5),
        steps=0,
        probes=("activations", "gradients", "histograms", probe("jacobians", method="exact")),
    )
