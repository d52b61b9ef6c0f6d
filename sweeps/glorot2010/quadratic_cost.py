"""Glorot & Bengio (2010), section 4.1: the quadratic cost against the log-likelihood, on Shapeset-3×2.

Tanh networks from both initializations, otherwise alike. The cost surfaces of Figure 5 need no training: ``glorot
figures`` computes them.

    glorot run glorot2010/quadratic_cost
    glorot claims results/glorot2010-quadratic_cost
"""

from glorot_jax import Sweep, claim, every, grid, shapeset
from glorot_jax.paper.cost_surface import cost_surface, plateau_share
from glorot_jax.paper.measures import PAPER, error, network
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-quadratic_cost",
        data=shapeset(),
        model=size.model(activation="tanh", init=grid("standard", "normalized")),
        optimizer=size.optimizer(),
        loss=grid("nll", "quadratic"),
        seeds=range(4),
        steps=size.side_updates,
        record=every(size.side_updates // 8),
        probes="evaluation",
    )


def plateaus(results):
    """By seed of random inputs and targets; no run is read."""
    surfaces = {seed: cost_surface(seed) for seed in range(20)}
    return {
        seed: plateau_share(s.w1, s.w2, s.quadratic) - plateau_share(s.w1, s.w2, s.cross_entropy)
        for seed, s in surfaces.items()
    }


def quadratic_behind(init):
    def measure(results):
        where = network(results, "tanh", init)
        nll, quadratic = (error(results, where | {"loss": loss}) for loss in ("nll", "quadratic"))
        return quadratic - nll

    return measure


claims = (
    claim(
        "The quadratic cost has more plateaus than the log-likelihood.",
        plateaus,
        above=0.0,
        statistic="difference of the flat shares of the costlier half: slopes below a tenth of the steepest",
        source=f"{PAPER}, section 4.1 and Figure 5",
    ),
    *(
        claim(
            f"Tanh networks trained by the quadratic cost err more: {init} initialization.",
            quadratic_behind(init),
            above=0.0,
            statistic="difference of the test errors",
            source=f"{PAPER}, section 4.1",
        )
        for init in ("standard", "normalized")
    ),
)
