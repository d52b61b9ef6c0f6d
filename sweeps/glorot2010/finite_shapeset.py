"""Glorot & Bengio (2010), section 2.1's comparison: 100 000 examples of Shapeset-3×2, for a network and for an SVM.

Tanh networks of five hidden layers from the normalized initialization, trained on a finite set, epoch after epoch. The
same examples go to a support vector machine with a Gaussian kernel: ``glorot baseline svm DIR``, on a subsample of
stated size, its C and γ chosen on validation error. The paper has 59.47 % for the machine and 50.47 % for the network.
Small: 150 units a layer, 20 000 updates. Full: 1000 units, 5 million updates.

    glorot run glorot2010/finite_shapeset
    glorot baseline svm results/glorot2010-finite_shapeset
    glorot claims results/glorot2010-finite_shapeset
"""

from glorot_jax import Sweep, claim, every, shapeset
from glorot_jax.paper.measures import PAPER, error, svm_error
from glorot_jax.paper.settings import SIZES, Scale


def sweep(scale: Scale = "small") -> Sweep:
    size = SIZES[scale]
    return Sweep(
        name="glorot2010-finite_shapeset",
        data=shapeset(examples=100_000),
        model=size.model(activation="tanh", init="normalized"),
        optimizer=size.optimizer(),
        seeds=range(5),
        steps=size.updates,
        record=every(size.updates // 10),
        probes="evaluation",
    )


claims = (
    claim(
        "On the same examples tanh networks, normalized initialization, err less than a support vector machine.",
        lambda results: svm_error(results) - error(results, {}),
        above=0.0,
        statistic="difference of the test errors",
        source=f"{PAPER}, section 2.1",
    ),
)
