"""Glorot & Bengio (2010) in a minute or two: 45 networks of five hidden layers, all trained at once on Shapeset-3×2.

Five models (sigmoid, tanh and softsign with the standard initialization, the last two also with the normalized one)
× three learning rates × three seeds, for 20 000 updates: one epoch of the paper.

    glorot run quickstart

On 2 cores of an AMD EPYC it took 70 s and reached test errors of 65.8 ± 5.5 % (tanh, normalized), 67.9 ± 5.3 %
(softsign, normalized), 69.4 ± 4.0 % (softsign), 73.5 ± 6.5 % (tanh) and 83.3 % (sigmoid: it has learned the class
frequencies and no more).
"""

from glorot_jax import Sweep, grid, log_spaced, mlp, sgd, shapeset

sweep = Sweep(
    name="quickstart",
    data=shapeset(),
    model=mlp(
        widths=(128,) * 5,
        activation=grid("sigmoid", "tanh", "softsign"),
        init=grid("standard", "normalized"),
    ),
    optimizer=sgd(learning_rate=grid(0.01, 0.03, 0.1)),
    exclude=[{"model.activation": "sigmoid", "model.init": "normalized"}],
    seeds=range(3),
    batch_size=10,
    steps=20_000,
    record=log_spaced(per_decade=2),
)
