"""The surfaces of Figure 5 are the two costs of the network that is described, and plateaus are what is flat above."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glorot_jax.paper.cost_surface import cost_surface, plateau_share


def test_costs_are_those_of_the_network_example_by_example():
    found = cost_surface(seed=3, examples=7, reach=4.0, points=9)
    draw = np.random.default_rng(3)
    inputs, targets = draw.normal(size=7), draw.integers(0, 2, 7)
    assert found.w1.tolist() == found.w2.tolist() == [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    for i, w1 in enumerate(found.w1):
        for j, w2 in enumerate(found.w2):
            outputs = [1 / (1 + math.exp(-w2 * math.tanh(w1 * x))) for x in inputs]
            nats = [-math.log(y if t else 1 - y) for y, t in zip(outputs, targets, strict=True)]
            squares = [(y - t) ** 2 for y, t in zip(outputs, targets, strict=True)]
            assert found.cross_entropy[i, j] == pytest.approx(sum(nats) / 7)
            assert found.quadratic[i, j] == pytest.approx(sum(squares) / 7)


def test_a_plateau_is_flat_and_in_the_costlier_half():
    """A slope of 1 from a valley floor up to a plateau: a quarter of the plane each is floor and plateau."""
    w1, w2 = np.linspace(0, 1, 401), np.linspace(0, 1, 11)
    ramp = np.clip(w1, 0.25, 0.75)[:, None] + np.zeros(11)
    assert plateau_share(w1, w2, ramp) == pytest.approx(0.5, abs=0.01)
    assert plateau_share(w1, w2, 1000 * ramp) == plateau_share(w1, w2, ramp)
    floor_alone = np.clip(w1, 0.25, 1)[:, None] + np.zeros(11)
    assert plateau_share(w1, w2, floor_alone) == 0
