"""Probes on each kind of network against gradients and Jacobians of the whole function, formed densely, in NumPy."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glorot_jax.models.points import INPUT
from tests.engine.networks import MODELS, sweep
from tests.probes.one_run import one_run

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROBES = ("gradients", "weights", "gradient_norms", "input_output_jacobian", "jacobians")


class Case(NamedTuple):
    """A network under some parameters, what the probes found of it, and its module in evaluation mode under any."""

    found: dict[str, np.ndarray]
    params: dict[str, jax.Array]
    inputs: np.ndarray
    labels: np.ndarray
    weights: Any
    hidden: Any
    module: Any


@pytest.fixture(scope="module", params=MODELS)
def case(request) -> Case:
    run, hyper = one_run(sweep(request.param, probes=PROBES, seeds=(4,)))
    setup, data = run.setup, run.setup.dataset
    constants = data.constants()
    start = jax.eval_shape(run.start, constants, hyper)
    chance = np.random.default_rng(0)
    params = {
        path: jnp.float32(0.4 * chance.normal(size=v.shape) + path.endswith(("scale", "factor", "multiplier")))
        for path, v in start["params"].items()
    }
    rest = jax.jit(lambda: {k: v for k, v in run.start(constants, hyper).items() if k != "params"})()
    inputs, labels = np.asarray(run.scaled(data.test[0][:5])), np.asarray(data.test[1][:5])
    told = {}

    def scene(params):
        return run.scene(constants, hyper, rest | {"params": params}, inputs, labels, jnp.int32(0))

    @jax.jit
    def look(params):
        here = scene(params)
        told.update(weights=here.weights, hidden=here.hidden)
        return {k: v for probe in setup.probes[0] for k, v in probe.measure(here).items()}, here.settled

    found, settled = look(params)
    found = {name: np.asarray(value, np.float64) for name, value in found.items()}
    return Case(found, params, inputs, labels, **told, module=lambda params: scene(params).build(params, settled))


def nll(logits, labels):
    return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]


def close(found, wanted, rtol=1e-4, atol=1e-6) -> None:
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def test_weight_gradients_are_those_of_each_example(case):
    cost = lambda params, x, label: nll(case.module(params)(x[None]), label[None])[0]  # noqa: E731
    each = jax.jit(jax.vmap(jax.grad(cost), in_axes=(None, 0, 0)))(case.params, case.inputs, case.labels)
    each = {path: np.asarray(g, np.float64) for path, g in each.items()}
    close(case.found["weight_gradient_std"], [each[path].std() for path in case.weights])
    flat = np.concatenate([g.reshape(len(case.labels), -1) for g in each.values()], axis=1)
    close(case.found["gradient_covariance_trace"], flat.var(axis=0, ddof=1).sum(), rtol=1e-3)


def test_weights_are_those_of_numpy(case):
    weights = [np.asarray(case.params[path], np.float64) for path in case.weights]
    close(case.found["weight_norm"], [np.linalg.norm(w) for w in weights])
    largest = [np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0] for w in weights]
    close(case.found["weight_spectral_norm"], largest)


def test_the_whole_jacobian_is_that_of_jacrev(case):
    jacobian = jax.jit(jax.jacrev(lambda x: case.module(case.params)(x[None])[0]))
    found = [np.asarray(jacobian(x), np.float64) for x in case.inputs[:2]]
    values = [np.linalg.svd(j.reshape(j.shape[0], -1), compute_uv=False) for j in found]
    close(case.found["input_output_mean_singular_value"], np.mean(values))
    close(case.found["input_output_max_singular_value"], np.mean([s[0] for s in values]))


def test_layer_jacobians_and_back_propagated_gradients_are_those_of_a_shift(case):
    """Shifts are put in by Flax's own capture, and the Jacobian of all layers by all shifts is formed whole."""
    names = [INPUT, *(layer.activation for layer in case.hidden)]

    def zeros(x):
        """By point, no shift."""
        state = jax.eval_shape(
            lambda x: nnx.capture(lambda m, x: m(x), nnx.Perturbation)(case.module(case.params), x), x
        )
        return {path: jnp.zeros(place.shape) for path, place in nnx.to_flat_state(state[1])}

    def shifted(shifts, x):
        """Logits, and the values by point."""
        init = nnx.from_flat_state([(path, nnx.Perturbation(v)) for path, v in shifts.items()])
        call = nnx.capture(lambda m, x: m(x), nnx.Intermediate, init=init)
        logits, shown = call(case.module(case.params), x)
        return logits, {".".join(map(str, path)): value.get_value()[0] for path, value in nnx.to_flat_state(shown)}

    def at(point, mark):
        *owner, name = point.split(".")
        return (*owner, f"{mark}{name}")

    def path(point):
        return tuple(int(part) if part.isdigit() else part for part in at(point, "+"))

    @jax.jit
    def jacobians(x):
        def values(shifts, x):
            shown = shifted(shifts, x)[1]
            return {name: shown[".".join(at(name, ":"))].ravel() for name in names[1:]}

        found = jax.jacrev(values, argnums=(0, 1))(zeros(x), x)
        pairs = itertools.pairwise(names)
        matrices = [found[target][1] if source == INPUT else found[target][0][path(source)] for source, target in pairs]
        return [matrix.reshape(matrix.shape[0], -1) for matrix in matrices]

    each = [[np.asarray(m, np.float64) for m in jacobians(x[None])] for x in case.inputs[:2]]
    values = [[np.linalg.svd(m, compute_uv=False).mean() for m in matrices] for matrices in each]
    close(case.found["jacobian_mean_singular_value"], np.mean(values, axis=0), rtol=2e-4)

    @jax.jit
    def gradients(x):
        return jax.grad(lambda shifts: nll(shifted(shifts, x)[0], case.labels).sum())(zeros(x))

    found = gradients(case.inputs)
    close(
        case.found["gradient_std"],
        [np.asarray(found[path(layer.preactivation)], np.float64).std() for layer in case.hidden],
    )
