"""Glorot & Bengio (2010), section 4.2.2: the normalized initialization in networks whose layers grow or shrink.

Tanh networks of five hidden layers, each a fifth of the mean width wider, or narrower, than the one below. Small:
12 000 updates. Full: 2.5 million updates.

    glorot run glorot2010/unequal_widths
    glorot claims results/glorot2010-unequal_widths
"""

from glorot_jax import Sweep, claim, every, grid, probe, shapeset
from glorot_jax.paper.measures import PAPER, all_widths, error, factor_per_layer
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    growing = tuple(size.units * share // 10 for share in (6, 8, 10, 12, 14))
    return Sweep(
        name="glorot2010-unequal_widths",
        data=shapeset(),
        model=size.model(widths=grid(growing, growing[::-1]), activation="tanh", init=grid("standard", "normalized")),
        optimizer=size.optimizer(),
        seeds=range(4),
        steps=size.side_updates,
        record=every(size.side_updates // 8),
        probes=("evaluation", "activations", "gradients", probe("jacobians", method="exact")),
    )


def by_init(results, measure, growing):
    """What a measure says of both initializations of the networks that grow, or shrink."""
    widths = next(w for w in all_widths(results) if (w[0] < w[-1]) == growing)
    return [measure({"model.widths": widths, "model.init": init}) for init in ("standard", "normalized")]


def difference_of_errors(growing):
    def measure(results):
        standard, normalized = by_init(results, lambda where: error(results, where), growing)
        return standard - normalized

    return measure


def ratio_of_factors(growing):
    def measure(results):
        standard, normalized = by_init(results, lambda where: factor_per_layer(results, "gradient_std", where), growing)
        return normalized / standard

    return measure


claims = (
    claim(
        "In tanh networks that grow the normalized initialization ends with a lower test error.",
        difference_of_errors(growing=True),
        above=0.0,
        statistic="difference of the test errors",
        source=f"{PAPER}, section 4.2.2",
    ),
    claim(
        "In tanh networks that shrink the normalized initialization ends with a lower test error.",
        difference_of_errors(growing=False),
        above=0.0,
        statistic="difference of the test errors",
        source=f"{PAPER}, section 4.2.2",
    ),
    claim(
        "In networks that grow the normalized initialization keeps more of the back-propagated gradients.",
        ratio_of_factors(growing=True),
        above=1.0,
        log=True,
        statistic="normalized over standard, factor per layer of the gradients' deviation before the first update",
        source=f"{PAPER}, section 4.2.2",
    ),
    claim(
        "In networks that shrink the normalized initialization keeps more of the back-propagated gradients.",
        ratio_of_factors(growing=False),
        above=1.0,
        log=True,
        statistic="normalized over standard, factor per layer of the gradients' deviation before the first update",
        source=f"{PAPER}, section 4.2.2",
    ),
)
