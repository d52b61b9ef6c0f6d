"""Denoising auto-encoders against float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from glorot_jax.autoencoders import AutoEncoder, error_and_gradient

BATCH, FAN_IN, FAN_OUT = 6, 5, 4


def test_error_and_gradient_are_those_of_the_squared_error_by_finite_differences():
    draw = np.random.default_rng(1)
    z = draw.normal(size=(BATCH, FAN_IN))
    kept = draw.random((BATCH, FAN_IN)) > 0.3
    parameters = AutoEncoder(*(draw.normal(size=n) for n in ((FAN_IN, FAN_OUT), FAN_OUT, FAN_IN)))

    def cost(w, b, c):
        return ((np.tanh((z * kept) @ w + b) @ w.T + c - z) ** 2).sum() / BATCH

    single = AutoEncoder(*(jnp.float32(p) for p in parameters))
    error, gradient = error_and_gradient(single, jnp.tanh, jnp.float32(z), jnp.asarray(kept))
    for i, (values, found) in enumerate(zip(parameters, gradient, strict=True)):
        numeric = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            ends = []
            for change in (1e-5, -1e-5):
                moved = [p.copy() for p in parameters]
                moved[i][place] += change
                ends.append(cost(*moved))
            numeric[place] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(found, numeric, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(error, cost(*parameters) / FAN_IN, rtol=1e-5)
