"""The sweep of ``glorot drill``: twelve tiny networks, four of which diverge."""

from glorot_jax import Sweep, digits, every, grid, mlp, sgd

sweep = Sweep(
    name="drill",
    data=digits(),
    model=mlp(widths=(16, 16), activation="relu", init=grid("standard", "normalized")),
    optimizer=sgd(learning_rate=grid(0.02, 0.1, 1e18)),
    seeds=range(2),
    batch_size=10,
    steps=24_000,
    record=every(1200),
)
