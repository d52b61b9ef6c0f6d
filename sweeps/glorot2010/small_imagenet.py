"""Glorot & Bengio (2010) on Small-ImageNet: the fourth column of Table 1.

All five models at every learning rate and depth of the search, chosen on validation error. The pictures have to be on
the disk: ``glorot data prepare small_imagenet``. Small: five hidden layers, sigmoid networks of four, too, 12 000
updates. Full: one to five hidden layers, 2.5 million updates.

    glorot run glorot2010/small_imagenet
    glorot claims results/glorot2010-small_imagenet
"""

from glorot_jax import Sweep, every, small_imagenet
from glorot_jax.paper.measures import PAPER
from glorot_jax.paper.order import ahead
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-small_imagenet",
        data=small_imagenet(),
        **size.table(),
        seeds=range(4),
        steps=size.pictures_updates,
        record=every(size.pictures_updates // 8),
        probes="evaluation",
    )


claims = (
    ahead(("Softsign", "Softsign N", "Tanh N"), ("Tanh",), f"{PAPER}, Table 1"),
    ahead(("Softsign", "Softsign N", "Tanh N"), ("Sigmoid",), f"{PAPER}, Table 1"),
)
