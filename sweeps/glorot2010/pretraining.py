"""Glorot & Bengio (2010), the reference of Figure 11: unsupervised pre-training with denoising auto-encoders.

Tanh networks whose layers are first trained as denoising auto-encoders, one after the other, beside networks that are
not: from the same initial weights, those of the normalized initialization, on the same examples in the same order. The
paper gives no settings of the pre-training; these are ours. Small: 10 000 updates of each layer, then 20 000 of the
whole network of 150 units a layer. Full: 600 000 of each, then 5 million, 1000 units.

    glorot run glorot2010/pretraining
    glorot claims results/glorot2010-pretraining
"""

from glorot_jax import Sweep, claim, denoising, every, grid, shapeset
from glorot_jax.paper.measures import PAPER, error
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    steps, rates = {"small": (10_000, (0.003,)), "full": (600_000, (0.0003, 0.001, 0.003))}[scale]
    return Sweep(
        name="glorot2010-pretraining",
        data=shapeset(),
        model=size.model(activation="tanh", init="normalized"),
        pretraining=grid(None, denoising(steps=steps, learning_rate=grid(*rates))),
        optimizer=size.optimizer(),
        seeds=range(5),
        steps=size.updates,
        record=every(size.updates // 10),
        probes="evaluation",
    )


claims = (
    claim(
        "Pre-trained tanh networks end with a lower test error than Tanh N.",
        lambda results: error(results, {"pretraining": None}) - error(results, {"pretraining": "denoising"}),
        above=0.0,
        statistic="difference of the test errors",
        source=f"{PAPER}, Figure 11",
    ),
)
