"""Glorot & Bengio (2010) on Shapeset-3×2: Figure 11 and the first column of Table 1.

All five models at every learning rate and depth of the search; which of them stands for its model is chosen on
validation error. Small: five hidden layers of 150 units, sigmoid networks of four layers, too, 20 000 updates. Full:
one to five hidden layers of 1000 units, 5 million updates.

    glorot run glorot2010/shapeset
    glorot claims results/glorot2010-shapeset
"""

from glorot_jax import Sweep, claim, every, shapeset
from glorot_jax.paper.measures import PAPER, sigmoid_errors
from glorot_jax.paper.order import ahead, model_error
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-shapeset",
        data=shapeset(),
        **size.table(),
        seeds=size.seeds,
        steps=size.updates,
        record=every(size.updates // 10),
        probes="evaluation",
    )


claims = (
    *(ahead((model,), ("Tanh",), f"{PAPER}, Figure 11 and Table 1") for model in ("Tanh N", "Softsign", "Softsign N")),
    ahead(("Tanh",), ("Sigmoid 4",), f"{PAPER}, Figure 11"),
    claim(
        "Sigmoid 4 ends with a lower test error than Sigmoid.",
        lambda results: model_error(results, "Sigmoid") - sigmoid_errors(results, 4).iloc[:, -1],
        above=0.0,
        statistic="difference of the test errors",
        source=f"{PAPER}, Figure 11",
    ),
    claim(
        "The initialization matters less to softsign than to tanh.",
        lambda results: (
            model_error(results, "Tanh")
            - model_error(results, "Tanh N")
            - (model_error(results, "Softsign") - model_error(results, "Softsign N")).abs()
        ),
        above=0.0,
        statistic="gain of tanh by the normalized initialization, less the difference that it makes to softsign",
        source=f"{PAPER}, section 5 and Table 1",
    ),
)
