"""Glorot & Bengio (2010), section 5's remark: a learning rate for each parameter, from second-order estimates.

Tanh networks from both initializations, trained by plain gradient descent, with rates from the gradients' variance, and
with rates from the Hessian's diagonal. The paper says that either helps the standard initialization, which stays behind
the normalized one, and helps the latter, too; it gives no numbers and no rules, those here are ours. Small: 150 units a
layer, 12 000 updates. Full: 1000 units, 2.5 million updates.

    glorot run glorot2010/second_order
    glorot claims results/glorot2010-second_order
"""

from glorot_jax import Sweep, every, gradient_variance, grid, levenberg_marquardt, shapeset
from glorot_jax.paper.order import second_order
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-second_order",
        data=shapeset(),
        model=size.model(activation="tanh", init=grid("standard", "normalized")),
        optimizer=grid(
            size.optimizer(),
            gradient_variance(learning_rate=grid(0.0005, 0.001)),
            levenberg_marquardt(learning_rate=grid(0.00003, 0.0001), damping=0.0003),
        ),
        seeds=range(3),
        steps=size.side_updates,
        record=every(size.side_updates // 8),
        probes="evaluation",
    )


claims = (
    *second_order("gradient_variance", "rates from the gradients' variance"),
    *second_order("levenberg_marquardt", "rates from the Hessian's diagonal"),
)
