"""The five models of the paper's Table 1 on CIFAR-10, small: 45 networks of five hidden layers of 128 units.

Sigmoid, tanh and softsign with the standard initialization, the last two also with the normalized one, × three learning
rates × three seeds, for 20 000 updates: five passes through the 40 000 training pictures.

    glorot data prepare cifar10
    glorot run cifar10

On 2 cores of an AMD EPYC, shared with other work, it took 376 s and reached test errors of 55.6 ± 3.3 % (tanh,
normalized), 57.4 ± 3.4 % (softsign, normalized), 58.8 ± 2.3 % (tanh), 60.8 ± 3.3 % (softsign) and 90.00 % (sigmoid: it
has learned the class frequencies and no more).
"""

from glorot_jax import Sweep, cifar10, grid, log_spaced, mlp, sgd

sweep = Sweep(
    name="cifar10",
    data=cifar10(),
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
