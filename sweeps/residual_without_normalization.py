"""Residual."""

from glorot_jax import Sweep, at, digits, residual_mlp, sgd

WAYS = {
    "none": {"model.residual": "none"},
    "plain": {"model.residual": "plain"},
    "batch": {"model.residual": "plain", "model.normalization": "batch"},
    "fixup": {"model.residual": "fixup"},
    "skipinit": {"model.residual": "skipinit"},
}
DEPTHS = (10, 100)
RATES = (0.01, 0.1)

sweep = Sweep(
    name="residual_without_normalization",
    data=digits(),
    model=residual_mlp(width=32),
    optimizer=sgd(learning_rate=0.1),
    variants=[
        {"model.depth": depth, **way, "optimizer.learning_rate": rate}
        for way in WAYS.values()
        for depth in DEPTHS
        for rate in RATES
    ],
    seeds=range(3),
    batch_size=20,
    steps=500,
    record=at(50),
    probes=("evaluation", "activations"),
)
