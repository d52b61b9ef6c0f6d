"""Glorot & Bengio (2010), the reference of Figure 11: unsupervised pre-training with denoising auto-encoders.

Tanh networks from the standard initialization whose layers are first trained as denoising auto-encoders, one after the
other, and the same number of networks from the normalized initialization alone, which see the same examples in the same
order. The paper gives no settings of the pre-training; these are ours. Small: 10 000 updates of each layer, then 30 000
of the whole network of 200 units a layer. Full: 600 000 of each, then 5 million, 1000 units.

    glorot run glorot2010/pretraining
    glorot claims results/glorot2010-pretraining
"""

from glorot_jax import Sweep, claim, denoising, every, grid, shapeset
from glorot_jax.paper.measures import PAPER, error
from glorot_jax.paper.settings import SIZES, Scale


def pretrained_or_normalized(config):
    """What is left out: pre-training from the normalized initialization, the standard one without pre-training."""
    return (config["pretraining"] == "denoising") == (config["model.init"] == "normalized")


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    steps, rates = {"small": (10_000, (0.01,)), "full": (600_000, (0.001, 0.01))}[scale]
    return Sweep(
        name="glorot2010-pretraining",
        data=shapeset(),
        model=size.model(activation="tanh", init=grid("standard", "normalized")),
        pretraining=grid(None, denoising(steps=steps, learning_rate=grid(*rates))),
        optimizer=size.optimizer(),
        exclude=[pretrained_or_normalized],
        seeds=size.seeds,
        steps=size.updates,
        record=every(size.updates // 12),
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
