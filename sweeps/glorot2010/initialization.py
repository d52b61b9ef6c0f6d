"""Glorot & Bengio (2010) before the first update: Figures 6, 7 and 8, and the singular values of section 4.2.2.

Tanh networks of the paper's own size at both scales, five hidden layers of 1000 units, from the standard and from the
normalized initialization. Nothing is trained.

    glorot run glorot2010/initialization
    glorot claims results/glorot2010-initialization
"""

from glorot_jax import Sweep, claim, grid, probe, sgd, shapeset
from glorot_jax.paper.measures import PAPER, TOLERANCE, about, factor_per_layer, mean_singular_value, unevenness
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


STANDARD, NORMALIZED = {"model.init": "standard"}, {"model.init": "normalized"}
ROOT_OF_THIRD = 3**-0.5
"""Equation 15: n Var W = 1/3."""

claims = (
    claim(
        "With the standard initialization activations shrink by 1/√3 from a layer to the next above.",
        lambda results: factor_per_layer(results, "activation_std", STANDARD),
        **about(ROOT_OF_THIRD),
        log=True,
        statistic="factor per layer of the activations' deviation",
        source=f"{PAPER}, Figure 6, top",
    ),
    claim(
        "With the standard initialization back-propagated gradients shrink by 1/√3 from a layer to the next below.",
        lambda results: factor_per_layer(results, "gradient_std", STANDARD),
        **about(ROOT_OF_THIRD),
        log=True,
        statistic="factor per layer of the gradients' deviation",
        source=f"{PAPER}, Figure 7, top",
    ),
    claim(
        "With the normalized initialization activations keep 0.9 to 1 of their deviation from layer to layer.",
        lambda results: factor_per_layer(results, "activation_std", NORMALIZED),
        above=0.85,
        below=1.05,
        log=True,
        statistic="factor per layer of the activations' deviation",
        source=f"{PAPER}, Figure 6, bottom",
    ),
    claim(
        "With the normalized initialization back-propagated gradients keep 0.9 to 1 of their deviation.",
        lambda results: factor_per_layer(results, "gradient_std", NORMALIZED),
        above=0.85,
        below=1.05,
        log=True,
        statistic="factor per layer of the gradients' deviation",
        source=f"{PAPER}, Figure 7, bottom",
    ),
    claim(
        "With the standard initialization weight gradients have the same deviation in all layers.",
        lambda results: unevenness(results, "weight_gradient_std", STANDARD),
        below=TOLERANCE,
        statistic="largest difference from the layers' mean, as a share of it",
        source=f"{PAPER}, Figure 8, top, and equation 14",
    ),
    claim(
        "With the normalized initialization weight gradients have the same deviation in all layers.",
        lambda results: unevenness(results, "weight_gradient_std", NORMALIZED),
        below=TOLERANCE,
        statistic="largest difference from the layers' mean, as a share of it",
        source=f"{PAPER}, Figure 8, bottom, and equation 14",
    ),
    claim(
        "With the standard initialization the layers' Jacobians have a mean singular value of about 0.5.",
        lambda results: mean_singular_value(results, STANDARD),
        **about(0.5),
        statistic="mean singular value, layers 2 to 5",
        source=f"{PAPER}, section 4.2.2",
    ),
    claim(
        "With the normalized initialization the layers' Jacobians have a mean singular value of about 0.8.",
        lambda results: mean_singular_value(results, NORMALIZED),
        **about(0.8),
        statistic="mean singular value, layers 2 to 5",
        source=f"{PAPER}, section 4.2.2",
    ),
)
