"""The five models of the paper's Table 1 on MNIST, small: 45 networks of five hidden layers of 128 units.

Sigmoid, tanh and softsign with the standard initialization, the last two also with the normalized one, × three learning
rates × three seeds, for 25 000 updates: five passes through the 50 000 training pictures.

    glorot data prepare mnist
    glorot run mnist

On 2 cores of an AMD EPYC, shared with other work, it took 272 s and reached test errors of 3.05 ± 0.57 % (tanh,
normalized), 3.19 ± 0.85 % (softsign, normalized), 3.28 ± 0.79 % (softsign), 3.33 ± 0.19 % (tanh) and 89.0 ± 1.5 %
(sigmoid: it has learned the class frequencies and no more).
"""

from glorot_jax import Sweep, grid, log_spaced, mlp, mnist, sgd

sweep = Sweep(
    name="mnist",
    data=mnist(),
    model=mlp(
        widths=(128,) * 5,
        activation=grid("sigmoid", "tanh", "softsign"),
        init=grid("standard", "normalized"),
    ),
    optimizer=sgd(learning_rate=grid(0.01, 0.03, 0.1)),
    exclude=[{"model.activation": "sigmoid", "model.init": "normalized"}],
    seeds=range(3),
    batch_size=10,
    steps=25_000,
    record=log_spaced(per_decade=2),
)
