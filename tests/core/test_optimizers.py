"""Where the steps of gradient descent diverge, against Optax's own steps on a quadratic."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from glorot_jax import optimizers

RATE = 0.1


@pytest.mark.parametrize("momentum", [None, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("kind", ["sgd", optax.sgd])
def test_descent_on_a_quadratic_diverges_just_above_the_stable_curvature(kind, nesterov, momentum):
    hyper = {"learning_rate": RATE} | ({} if momentum is None else {"momentum": momentum})
    bound = optimizers.stable_curvature(kind, {"nesterov": nesterov}, hyper)()
    steps = optimizers.transformation(kind, {"nesterov": nesterov}, hyper)

    def walked(curvature: float) -> float:
        def step(carry, _):
            place, memory = carry
            update, memory = steps.update(curvature * place, memory, place)
            return (place + update, memory), None

        place = jnp.ones(())
        return float(jnp.abs(jax.lax.scan(step, (place, steps.init(place)), length=2000)[0][0]))

    assert walked(0.99 * bound) < 1e-3
    assert not walked(1.01 * bound) < 1e3  # or beyond all numbers


def test_only_gradient_descent_with_a_number_for_a_rate_has_one():
    assert optimizers.stable_curvature("adam", {}, {"learning_rate": RATE}) is None
    assert optimizers.stable_curvature(optax.lion, {}, {"learning_rate": RATE}) is None
    assert optimizers.stable_curvature(optax.sgd, {"learning_rate": optax.constant_schedule(RATE)}, {}) is None
