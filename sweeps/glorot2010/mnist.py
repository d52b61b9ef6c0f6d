"""Glorot & Bengio (2010) on MNIST: Figure 12 and the second column of Table 1.

All five models at every learning rate and depth of the search, chosen on validation error. The pictures have to be on
the disk: ``glorot data prepare mnist``. Small: five hidden layers, sigmoid networks of four, too, 12 000 updates.
Full: one to five hidden layers, 2.5 million updates.

    glorot run glorot2010/mnist
    glorot claims results/glorot2010-mnist
"""

from glorot_jax import Sweep, claim, every, mnist
from glorot_jax.paper.measures import PAPER
from glorot_jax.paper.order import ahead, spread_of_errors
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-mnist",
        data=mnist(),
        **size.table(),
        seeds=range(4),
        steps=size.pictures_updates,
        record=every(size.pictures_updates // 8),
        probes="evaluation",
    )


claims = (
    ahead(("Softsign", "Softsign N", "Tanh", "Tanh N"), ("Sigmoid",), f"{PAPER}, Table 1"),
    claim(
        "Softsign, Softsign N, Tanh and Tanh N do not differ by half a point of test error.",
        lambda results: spread_of_errors(results, ("Softsign", "Softsign N", "Tanh", "Tanh N")),
        below=0.005,  # what a test of two shares of 10 000 at p = 0.005 can't tell apart, at 1.7 %
        statistic="largest difference of the test errors",
        source=f"{PAPER}, Table 1: all four bold",
    ),
)
