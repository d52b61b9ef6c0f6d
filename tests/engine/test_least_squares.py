"""Least squares of two unknowns, neither below 0, beside SciPy's for any number."""

import numpy as np
import pytest
from scipy.optimize import nnls

from glorot_jax.engine.least_squares import nonnegative


@pytest.mark.parametrize("equations", [2, 3, 8])
def test_it_finds_what_scipy_finds(equations):
    rng, at_an_edge = np.random.default_rng(equations), 0
    for _ in range(200):
        rows, values = rng.normal(size=(equations, 2)) * [1, 1000], rng.normal(size=equations)
        truth, _ = nnls(rows, values)
        at_an_edge += not truth.all()
        assert nonnegative(rows, values) == pytest.approx(truth, rel=1e-9, abs=1e-12)
    assert 50 < at_an_edge < 200


def test_what_nobody_has_seen_costs_nothing():
    assert nonnegative(np.array([[0.0, 0.5]]), np.ones(1)) == pytest.approx((0.0, 2.0))
    assert nonnegative(np.array([[4.0, 0.0]]), np.ones(1)) == pytest.approx((0.25, 0.0))
    assert nonnegative(np.zeros((1, 2)), np.ones(1)) == (0.0, 0.0)
