"""Optimizers that need more than the gradient: what the engine hands them, and its promises with them."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glorot_jax import at, digits, grid, levenberg_marquardt, mlp, optimizer, run
from glorot_jax.errors import InputError
from glorot_jax.optimizers import gauss_newton_diagonal, hutchinson_diagonal
from glorot_jax.randomness import key
from tests.engine.small import DiesAtThirdCommit, assert_same_bits, parameters, records, sweep
from tests.probes.one_run import one_run

DATA = digits(validation=100, test=100)
STEP, SEED, RATE, DAMPING = 6, 5, 0.03, 0.2


def logits_of_a_tanh_network(params, inputs):
    hidden = jnp.tanh(inputs @ params["layers.0.kernel"] + params["layers.0.bias"])
    return hidden @ params["layers.1.kernel"] + params["layers.1.bias"]


def loss(params, inputs, labels):
    return -jnp.mean(jax.nn.log_softmax(logits_of_a_tanh_network(params, inputs))[jnp.arange(len(labels)), labels])


def diagonal(estimate, params, inputs, labels, drawn):
    if estimate == "gauss_newton":
        return gauss_newton_diagonal(lambda p: logits_of_a_tanh_network(p, inputs), params, drawn)
    return hutchinson_diagonal(lambda p: loss(p, inputs, labels), params, drawn)


@pytest.mark.parametrize("estimate", ["gauss_newton", "hutchinson"])
def test_a_step_uses_the_curvature_of_its_own_batch_with_numbers_of_its_own(estimate):
    """θ − ε g / (|h| + μ), the first estimate corrected to itself; drawn for the run's seed and the step."""
    made = levenberg_marquardt(learning_rate=RATE, damping=DAMPING, estimate=estimate, interval=3)
    trained, hyper = one_run(sweep(data=DATA, model=mlp(widths=(7,)), optimizer=made, seeds=(SEED,)))
    chance = np.random.default_rng(0)
    inputs = jnp.asarray(chance.normal(size=(10, 64)), jnp.float32)
    labels = jnp.asarray(chance.integers(0, 9, 10), jnp.int32)
    state = trained.start(trained.setup.dataset.constants(), hyper)
    params, after = state["params"], trained.step(state, hyper, inputs, labels, jnp.int32(STEP))["params"]
    gradient = jax.grad(loss)(params, inputs, labels)
    curvature = diagonal(estimate, params, inputs, labels, key(SEED, "curvature", step=STEP))
    other = diagonal(estimate, params, inputs, labels, key(SEED, "curvature", step=STEP + 1))
    for path, start in params.items():
        step = lambda h, path=path: RATE * gradient[path] / (jnp.abs(h[path]) + DAMPING)  # noqa: E731
        np.testing.assert_allclose(start - after[path], step(curvature), rtol=2e-3, atol=1e-7)
        assert not np.allclose(start - after[path], step(other), rtol=2e-3, atol=1e-7)
    scene = trained.scene(trained.setup.dataset.constants(), hyper, state, inputs, labels, jnp.int32(STEP))
    for path, update in scene.updates(gradient).items():
        np.testing.assert_allclose(update, after[path] - params[path], rtol=2e-3, atol=1e-7)


def test_between_two_estimates_the_old_one_serves():
    made = levenberg_marquardt(learning_rate=RATE, damping=DAMPING, interval=3)
    trained, hyper = one_run(sweep(data=DATA, model=mlp(widths=(7,)), optimizer=made, seeds=(SEED,)))
    batch = jnp.ones((10, 64)), jnp.zeros(10, jnp.int32)
    state = trained.start(trained.setup.dataset.constants(), hyper)
    kept = []
    for step in range(5):
        state = trained.step(state, hyper, *batch, jnp.int32(step))
        kept.append({path: np.asarray(leaf) for path, leaf in state["optimizer"].items()})
    same = [all((one[k] == two[k]).all() for k in one) for one, two in itertools.pairwise(kept)]
    assert same == [True, True, False, True]


def test_an_optimizer_of_optax_is_given_the_objective_that_it_asks_for():
    made = optimizer(optax.contrib.sophia, learning_rate=0.01)
    trained, hyper = one_run(sweep(data=DATA, model=mlp(widths=(7,)), optimizer=made, seeds=(SEED,)))
    state = trained.start(trained.setup.dataset.constants(), hyper)
    after = trained.step(state, hyper, jnp.ones((10, 64)), jnp.zeros(10, jnp.int32), jnp.int32(0))
    assert np.isfinite(after["params"]["layers.0.kernel"]).all()
    assert np.any(after["optimizer"]["0.nu.layers.0.kernel"] != 0), "its own mean of the Hessian's diagonal"


def test_the_gauss_newton_matrix_of_another_loss_is_refused_when_the_sweep_is_built():
    def described(**changes):
        return sweep(data=DATA, optimizer=levenberg_marquardt(learning_rate=0.1, **changes), loss="quadratic")

    with pytest.raises(InputError, match=r"known for loss='nll', not 'quadratic'\n  hint: estimate='hutchinson'"):
        described()
    assert len(described(estimate="hutchinson").runs()) == 12


def test_a_run_among_others_stopped_and_resumed_has_the_same_bits(tmp_path):
    """Other rates, dampings and seeds beside it."""

    def described(rate, damping, seeds):
        made = levenberg_marquardt(learning_rate=rate, damping=damping, interval=3)
        usual = {"data": DATA, "steps": 12, "record": at(5), "probes": ("evaluation",), "model": mlp(widths=(8,))}
        return sweep(**usual, optimizer=made, seeds=seeds)

    whole = run(described(0.01, 0.1, (1,)), tmp_path / "alone" / "small", width=4)
    among = described(grid(0.02, 0.01), grid(1.0, 0.1), (4, 1))
    with pytest.raises(KeyboardInterrupt):
        run(among, tmp_path / "small", width=4, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    again = run(among, tmp_path / "small", width=4)
    assert set(parameters(whole)) < set(parameters(again))
    assert_same_bits(parameters(whole), parameters(again))
    assert_same_bits(records(whole), records(again))
