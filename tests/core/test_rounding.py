"""Statistics that round the same in any company, against NumPy float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glorot_jax import rounding

AT = (0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0)
SAMPLES = {
    "far from 0": np.random.default_rng(0).normal(100, 0.1, size=(30, 17)),
    "both signs": np.random.default_rng(1).normal(size=(300, 5)),
    "ties and zeros": np.array([[0.0, -0.0, 1.0, 1.0], [-1.0, -1.0, 0.0, 1e-30]]),
    "one value": np.array([[-3.0]]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_mean_std_and_quantiles_are_numpys(name):
    values = SAMPLES[name].astype(np.float32)
    exact = values.astype(np.float64)
    mean, square, std, quantile = jax.jit(
        lambda v: (rounding.mean(v), rounding.mean_square(v), rounding.std(v), rounding.quantile(v, AT))
    )(values)
    np.testing.assert_allclose(mean, exact.mean(axis=-1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(square, (exact**2).mean(axis=-1), rtol=3e-6, atol=1e-7)  # squares to 20 bits
    np.testing.assert_allclose(std, exact.std(), rtol=1e-4)
    np.testing.assert_allclose(quantile, np.quantile(exact, AT), rtol=1e-6, atol=1e-6)


def test_quantiles_of_values_that_are_not_finite():
    """∞ sorts last and touches no quantile between two others; one NaN makes all NaN, as in NumPy."""
    values = np.array([3, -np.inf, 1, np.inf, 2], np.float32)
    np.testing.assert_allclose(rounding.quantile(values, (0.25, 0.5, 0.6)), [1, 2, 2.4])
    assert np.isnan(rounding.quantile(np.array([1, np.nan, 2], np.float32), (0.0, 0.5))).all()


def test_a_product_is_never_fused_into_a_sum():
    """a·b − round(a·b) is 0: a fused multiply-add would leave the rounding error."""
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(2, 1000)).astype(np.float32)
    apart = jax.jit(rounding.times)(a, b)
    together = jax.jit(lambda a, b, c: rounding.times(a, b) - c)(a, b, apart)
    np.testing.assert_array_equal(np.asarray(together), 0)
    np.testing.assert_allclose(apart, a.astype(np.float64) * b, rtol=2**-20)


def test_mean_has_one_order_of_summation():
    """The same bits for given values and for values that are made just before."""
    values = np.random.default_rng(3).normal(size=(7, 301)).astype(np.float32)
    made = jax.jit(lambda v: rounding.mean(jnp.abs(v)))(values)
    given = jax.jit(rounding.mean)(np.abs(values))
    assert np.asarray(made).tobytes() == np.asarray(given).tobytes()
