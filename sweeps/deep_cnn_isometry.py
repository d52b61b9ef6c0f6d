"""Deep."""

from glorot_jax import Sweep, at, cnn, digits, grid, jacobian, sgd

sweep = Sweep(
    name="deep_cnn_isometry",
    data=digits(),
    model=cnn(
        channels=(16,) * 32,
        strides=(),
        activation="tanh",
        init=grid("delta_orthogonal", "lecun_normal"),
    ),
    optimizer=sgd(learning_rate=grid(0.01, 0.1)),
    seeds=range(3),
    batch_size=10,
    steps=300,
    record=at(30, 100),
    probes=("evaluation", jacobian("input", "hidden32", at())),
)
