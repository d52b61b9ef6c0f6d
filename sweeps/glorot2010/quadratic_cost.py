"""Glorot & Bengio (2010), section 4.1: the quadratic cost against the log-likelihood, on Shapeset-3×2.

Tanh networks from both initializations, otherwise alike. The cost surfaces of Figure 5 need no training: ``glorot
figures`` computes them.

    glorot run glorot2010/quadratic_cost
"""

from glorot_jax import Sweep, every, grid, shapeset
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-quadratic_cost",
        data=shapeset(),
        model=size.model(activation="tanh", init=grid("standard", "normalized")),
        optimizer=size.optimizer(),
        loss=grid("nll", "quadratic"),
        seeds=range(5),
        steps=size.side_updates,
        record=every(size.side_updates // 10),
        probes="evaluation",
    )
