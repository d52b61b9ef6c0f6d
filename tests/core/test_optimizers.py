"""Where steps diverge, and rates for each parameter, against dense Hessians and quadratics whose curvature is known."""

from __future__ import annotations

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glorot_jax import losses, optimizers

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


# ---- rates for each parameter

EXAMPLES, FEATURES, HIDDEN, CLASSES = 6, 3, 4, 3


@pytest.fixture(scope="module")
def tiny():
    """A network of one hidden layer: parameters, ``logits_fn`` and ``obj_fn``."""
    chance = np.random.default_rng(0)
    inputs, labels = jnp.asarray(chance.normal(size=(EXAMPLES, FEATURES)), jnp.float32), jnp.arange(EXAMPLES) % CLASSES
    params = {
        "hidden": jnp.asarray(chance.normal(size=(FEATURES, HIDDEN)), jnp.float32),
        "output": jnp.asarray(chance.normal(size=(HIDDEN, CLASSES)), jnp.float32),
    }

    def logits(params):
        return jnp.tanh(inputs @ params["hidden"]) @ params["output"]

    return params, logits, lambda params: losses.nll(logits(params), labels).mean()


def diagonal(matrix) -> np.ndarray:
    return np.diagonal(np.asarray(matrix, np.float64))


def mean_and_error(estimate, params) -> tuple[np.ndarray, np.ndarray]:
    """Of 5000 independent estimates."""
    keys = jax.random.split(jax.random.key(1), 5000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: jax.flatten_util.ravel_pytree(estimate(params, k))[0]))(keys))
    return drawn.mean(axis=0, dtype=np.float64), drawn.std(axis=0, dtype=np.float64) / np.sqrt(len(keys))


def test_hutchinsons_estimate_has_the_hessians_diagonal_as_its_mean(tiny):
    params, _, objective = tiny
    flat, unflat = jax.flatten_util.ravel_pytree(params)
    truth = diagonal(jax.hessian(lambda v: objective(unflat(v)))(flat))
    found, error = mean_and_error(lambda p, k: optimizers.hutchinson_diagonal(objective, p, k), params)
    assert (np.abs(found - truth) < 5 * error + 1e-6).all()
    assert np.sum(truth < 0) > 0, "it keeps the sign"
    assert np.abs(truth).max() > 10 * error.max(), "so much that the estimate is told from nothing"


def test_the_gauss_newton_estimate_has_the_matrixs_diagonal_as_its_mean(tiny):
    params, logits, _ = tiny
    flat, unflat = jax.flatten_util.ravel_pytree(params)
    jacobian = np.asarray(jax.jacobian(lambda v: logits(unflat(v)))(flat), np.float64)
    shares = np.asarray(jax.nn.softmax(logits(params)), np.float64)
    middle = np.stack([np.diag(p) - np.outer(p, p) for p in shares])
    truth = diagonal(np.einsum("bki,bkl,blj->ij", jacobian, middle, jacobian) / EXAMPLES)

    def estimate(params, key):
        return optimizers.gauss_newton_diagonal(logits, params, key)

    found, error = mean_and_error(estimate, params)
    assert (np.abs(found - truth) < 5 * error).all()
    assert truth.max() > 10 * error.max()
    assert all((one >= 0).all() for one in jax.tree.leaves(estimate(params, jax.random.key(2))))


CURVATURE = np.array([0.01, 1.0, 100.0, -4.0])
"""Of a quadratic along its axes, where one estimate of Hutchinson's is exact."""


def quadratic(params):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURE, jnp.float32) * params["x"] ** 2)


def walked(steps: int, **settings) -> tuple[np.ndarray, optimizers.RunningCurvature]:
    """Where so many steps from 1 lead on the quadratic, and what is kept then."""
    made = optimizers.levenberg_marquardt(**{"estimate": "hutchinson"} | settings)

    @jax.jit
    def one(params, memory, step):
        beside = {"obj_fn": quadratic, "logits_fn": None, "random_key": lambda: jax.random.key(step), "step": step}
        updates, memory = made.update(jax.grad(quadratic)(params), memory, params, **beside)
        return optax.apply_updates(params, updates), memory

    params = {"x": jnp.ones(4)}
    memory = made.init(params)
    for step in range(steps):
        params, memory = one(params, memory, step)
    return np.asarray(params["x"], np.float64), memory


def test_a_step_on_a_quadratic_divides_by_its_damped_curvature():
    """θ ← θ − ε h θ / (|h| + μ), from the first step on; so a whole Newton step along every axis that bends upwards."""
    found, _ = walked(3, learning_rate=0.5, damping=0.3, decay=0.9)
    np.testing.assert_allclose(found, (1 - 0.5 * CURVATURE / (np.abs(CURVATURE) + 0.3)) ** 3, rtol=1e-5)
    newton, _ = walked(1, learning_rate=1.0, damping=1e-9, decay=0.9)
    np.testing.assert_allclose(newton, [0, 0, 0, 2], atol=1e-5)


@pytest.mark.parametrize("interval", [1, 3])
def test_the_mean_decays_and_its_start_is_corrected(interval):
    _, memory = walked(7, learning_rate=0.5, damping=0.3, decay=0.8, interval=interval)
    estimates = len(range(0, 7, interval))
    assert memory.count == estimates
    np.testing.assert_allclose(memory.mean["x"], CURVATURE * (1 - 0.8**estimates), rtol=1e-5)


def test_the_rate_from_the_gradients_variance_is_optax_centred_rmsprop():
    """θ ← θ − ε g / √(mean g² − (mean g)² + eps), in float64 by hand."""
    gradients = np.random.default_rng(0).normal(1, 0.2, (6, 5))
    made = optimizers.transformation("gradient_variance", {}, {"learning_rate": 0.1, "decay": 0.8, "eps": 1e-3})
    params = {"x": jnp.zeros(5)}
    memory = made.init(params)
    first, second = np.zeros(5), np.zeros(5)
    for gradient in gradients:
        updates, memory = made.update({"x": jnp.asarray(gradient, jnp.float32)}, memory, params)
        first, second = 0.8 * first + 0.2 * gradient, 0.8 * second + 0.2 * gradient**2
        np.testing.assert_allclose(updates["x"], -0.1 * gradient / np.sqrt(second - first**2 + 1e-3), rtol=1e-4)


@pytest.mark.parametrize("kind", ["sgd", "adam", "rmsprop", "gradient_variance"])
def test_who_needs_the_gradient_alone_computes_nothing_else(kind):
    def never(*_):
        raise AssertionError("it was computed")

    made = optimizers.scaled(optimizers.transformation(kind, {}, {"learning_rate": 0.1}), {"x": 1.0})
    params = {"x": jnp.ones(3)}
    made.update(params, made.init(params), params, obj_fn=never, logits_fn=never, random_key=never, step=0)
