"""Glorot & Bengio (2010) on Shapeset-3×2: Figures 2, 3, 4, 9, 10 and 11, and the first column of Table 1.

All five models at every learning rate and depth of the search; which of them stands for its model is chosen on
validation error. Small: five hidden layers, sigmoid networks of four, too, 100 000 updates. Full: one to five hidden
layers, 5 million updates.

    glorot run glorot2010/shapeset
"""

from glorot_jax import Sweep, at, every, grid, probe, shapeset
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-shapeset",
        data=shapeset(),
        model=size.model(
            widths=size.all_depths(),
            activation=grid("softsign", "tanh", "sigmoid"),
            init=grid("standard", "normalized"),
        ),
        optimizer=size.optimizer(),
        exclude=[size.not_searched],
        seeds=size.seeds,
        steps=size.updates,
        record=every(size.updates // 50),
        probes=(
            probe("evaluation", every(size.updates // 20)),
            "activations",
            "gradients",
            probe("histograms", at()),
        ),
    )
