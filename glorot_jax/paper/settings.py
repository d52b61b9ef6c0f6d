"""What all sweeps of the paper share, at two sizes.

``full`` is the paper's own: 1000 units a layer, one to five hidden layers, up to five million updates. It names neither
learning rates nor seeds; those here are ours. ``small`` is for two CPU cores: 150 units, five hidden layers, fewer
updates; each sweep says how many.

Source: Glorot & Bengio (2010), section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from glorot_jax.config import grid
from glorot_jax.specs import mlp, sgd

EPOCH = 20_000
"""Updates, the unit of the paper's time axes: 200 000 examples in mini-batches of ten."""
DEPTH = 5
"""Hidden layers, where the paper names no other number."""

Scale = Literal["small", "full"]


@dataclass(frozen=True)
class Size:
    """How large the networks of a scale are, and which learning rates and depths stand for the paper's search.

    Attributes:
        units: of each hidden layer.
        rates: learning rates; ``sigmoid_rates`` those of sigmoid networks.
        depths: numbers of hidden layers; ``sigmoid_depths`` those of sigmoid networks, whose best one is 4.
        seeds: of every model on Shapeset.
        updates: of the longest training, on Shapeset; 5 million in the paper.
        pictures_updates: on real pictures; 2.5 million in Figure 12.
        side_updates: for the paper's side remarks, of which it gives no numbers.
    """

    units: int
    rates: tuple[float, ...]
    sigmoid_rates: tuple[float, ...]
    depths: tuple[int, ...]
    sigmoid_depths: tuple[int, ...]
    seeds: range
    updates: int
    pictures_updates: int
    side_updates: int

    def model(self, **changes: Any) -> mlp:
        """Returns the paper's network, five hidden layers of one width, with changes such as ``init=grid(…)``."""
        return mlp(**{"widths": (self.units,) * DEPTH} | changes)

    def optimizer(self) -> sgd:
        """Returns plain stochastic gradient descent at all learning rates."""
        return sgd(learning_rate=grid(*self.rates))

    def table(self) -> dict[str, Any]:
        """Returns the part of a sweep that makes it a column of Table 1: five models, each searched."""
        depths = sorted({*self.depths, *self.sigmoid_depths})
        return {
            "model": self.model(
                widths=grid(*((self.units,) * depth for depth in depths)),
                activation=grid("softsign", "tanh", "sigmoid"),
                init=grid("standard", "normalized"),
            ),
            "optimizer": sgd(learning_rate=grid(*sorted({*self.rates, *self.sigmoid_rates}))),
            "exclude": [self.not_searched],
        }

    def not_searched(self, config: Mapping[str, Any]) -> bool:
        """Whether a run is not part of the search: sigmoid has no normalized initialization in Table 1."""
        sigmoid = config["model.activation"] == "sigmoid"
        depths = self.sigmoid_depths if sigmoid else self.depths
        rates = self.sigmoid_rates if sigmoid else self.rates
        return (
            (sigmoid and config["model.init"] == "normalized")
            or len(config["model.widths"]) not in depths
            or config["optimizer.learning_rate"] not in rates
        )


SIZES: dict[Scale, Size] = {
    "small": Size(
        units=150,
        rates=(0.03, 0.1),
        sigmoid_rates=(1.0,),
        depths=(5,),
        sigmoid_depths=(4, 5),
        seeds=range(8),
        updates=20_000,
        pictures_updates=12_000,
        side_updates=12_000,
    ),
    "full": Size(
        units=1000,
        rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        sigmoid_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
        depths=(1, 2, 3, 4, 5),
        sigmoid_depths=(1, 2, 3, 4, 5),
        seeds=range(8),
        updates=250 * EPOCH,
        pictures_updates=125 * EPOCH,
        side_updates=125 * EPOCH,
    ),
}
WATCHED: dict[Scale, Size] = {
    "small": replace(SIZES["small"], units=100, rates=(0.03,), seeds=range(5), updates=5 * EPOCH),
    "full": replace(SIZES["full"], depths=(5,), sigmoid_depths=(4, 5), seeds=range(5), updates=140 * EPOCH),
}
"""The networks that are watched layer by layer over training; 140 epochs in Figure 2, 95 in the others. The small ones
are narrower, so that they come further in their time, and have one learning rate, the best of several tried."""
