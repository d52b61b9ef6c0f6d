"""Glorot & Bengio (2010) on CIFAR-10: Figure 12 and the third column of Table 1.

All five models at every learning rate and depth of the search, chosen on validation error. The pictures have to be on
the disk: ``glorot data prepare cifar10``. Small: five hidden layers, sigmoid networks of four, too, 12 000 updates.
Full: one to five hidden layers, 2.5 million updates.

    glorot run glorot2010/cifar10
    glorot claims results/glorot2010-cifar10
"""

from glorot_jax import Sweep, cifar10, every
from glorot_jax.paper.measures import PAPER
from glorot_jax.paper.order import ahead
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-cifar10",
        data=cifar10(),
        **size.table(),
        seeds=range(4),
        steps=size.pictures_updates,
        record=every(size.pictures_updates // 8),
        probes="evaluation",
    )


claims = (
    ahead(("Tanh N",), ("Tanh",), f"{PAPER}, Table 1"),
    ahead(("Softsign N",), ("Softsign",), f"{PAPER}, Table 1"),
    ahead(("Softsign N", "Tanh N"), ("Softsign", "Tanh", "Sigmoid"), f"{PAPER}, Table 1: bold against others"),
)
