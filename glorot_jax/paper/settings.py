"""What all sweeps of the paper share, at two sizes.

``full`` is the paper's own: 1000 units a layer, one to five hidden layers, up to five million updates. It names neither
learning rates nor seeds; those here are ours. ``small`` is for two CPU cores: 100 units, five hidden layers, fewer
updates; each sweep says how many.

Source: Glorot & Bengio (2010), section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """How large the networks of a scale are, and which learning rates, depths and seeds stand for the paper's search.

    Attributes:
        units: of each hidden layer.
        rates: learning rates.
        depths: numbers of hidden layers; ``sigmoid_depths`` those of sigmoid networks, whose best one is 4.
        seeds: of every variant.
        updates: of the longest training, on Shapeset; 5 million in the paper.
        pictures_updates: on real pictures; 2.5 million in Figure 12.
        side_updates: for the paper's side remarks, of which it gives no numbers.
    """

    units: int
    rates: tuple[float, ...]
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

    def all_depths(self) -> Any:
        """Returns the widths of networks of all depths; ``not_searched`` tells which of them a model leaves out."""
        depths = sorted({*self.depths, *self.sigmoid_depths})
        return grid(*((self.units,) * depth for depth in depths))

    def not_searched(self, config: Mapping[str, Any]) -> bool:
        """Whether the paper's table has no such model: sigmoid with the normalized initialization, a depth too many."""
        sigmoid = config["model.activation"] == "sigmoid"
        depths = self.sigmoid_depths if sigmoid else self.depths
        return (sigmoid and config["model.init"] == "normalized") or len(config["model.widths"]) not in depths


SIZES: dict[Scale, Size] = {
    "small": Size(100, (0.03, 0.1), (5,), (4, 5), range(8), 5 * EPOCH, 2 * EPOCH, 2 * EPOCH),
    "full": Size(
        1000,
        (0.001, 0.003, 0.01, 0.03, 0.1),
        (1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5),
        range(8),
        250 * EPOCH,
        125 * EPOCH,
        125 * EPOCH,
    ),
}
