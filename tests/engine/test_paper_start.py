"""The paper's network before its first update, as a sweep records it: 1024-1000×5-9, tanh, 300 Shapeset images."""

from __future__ import annotations

import numpy as np
import pytest

from glorot_jax import Sweep, at, load, mlp, run, sgd, shapeset

WIDTH, SEEDS = 1000, 4
SCATTER = 0.5 * np.sqrt(2 / WIDTH * np.arange(1, 6))
"""Relative standard deviation of one network's activation std: each layer's length scatters by √(2/width)."""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    sweep = Sweep(
        name="start",
        data=shapeset(validation=1, test=300),
        model=mlp(activation="tanh", init="standard"),
        optimizer=sgd(learning_rate=0.01),
        seeds=range(SEEDS),
        steps=0,
        record=at(),
        probes=("activations", "gradients"),
    )
    return load(run(sweep, tmp_path_factory.mktemp("paper") / "start")).records().isel(step=0).mean("run")


def test_activations_shrink_from_layer_to_layer_as_predicted(start):
    """.303 .166 .092 .053 .031 in one network with inputs in [−1, 1]: four others lie within twice the scatter."""
    found = start["activation_std"]
    published = np.array((0.303, 0.166, 0.092, 0.053, 0.031))
    assert (abs(found / published - 1) < 2 * SCATTER * np.sqrt(1 + 1 / SEEDS)).all()
    assert (abs(found / start["activation_std_theory"] - 1) < 2 * SCATTER / np.sqrt(SEEDS)).all()


def test_weight_gradients_are_equal_in_all_layers_as_predicted(start):
    """Within 10 % of their mean, while ∂C/∂s grows tenfold from the first layer to the last."""
    found = start["weight_gradient_std"]
    np.testing.assert_allclose(found, float(found.mean()), rtol=0.1)
    np.testing.assert_allclose(found, start["weight_gradient_std_theory"], rtol=0.05)
    np.testing.assert_allclose(start["gradient_std"], (0.0017, 0.0032, 0.0057, 0.0100, 0.0172), rtol=0.05)
    np.testing.assert_allclose(start["gradient_std"], start["gradient_std_theory"], rtol=0.05)
