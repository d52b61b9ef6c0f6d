"""Where."""

from glorot_jax import Sweep, adam, at, digits, transformer

PRE = {"model.placement": "pre", "model.residual": "plain"}
POST = {"model.placement": "post", "model.residual": "plain"}
DEEPNORM = {"model.placement": "post", "model.residual": "deepnorm"}
DEPTHS = (4, 16)

sweep = Sweep(
    name="transformer_norm_placement",
    data=digits(),
    model=transformer(width=32, patch=2, activation="relu"),
    optimizer=adam(learning_rate=0.001),
    variants=[
        {"model.depth": depth, **way, "optimizer.learning_rate": rate}
        for way in (PRE, POST, DEEPNORM)
        for depth in DEPTHS
        for rate in (0.001, 0.003)
    ],
    seeds=range(3),
    batch_size=20,
    steps=200,
    examples=20,
    record=at(20, 60),
    probes=("evaluation", "gradient_norms"),
)
