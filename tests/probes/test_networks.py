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

PROBES = ("gradients", "weights", "gradient_norms", "input_output_jacobian", "jacobians", "evaluation")


class Case(NamedTuple):
    """A network's start, what the probes found of it, and its module in evaluation mode under any parameters."""

    found: dict[str, np.ndarray]
    scene: Any
    module: Any


@pytest.fixture(scope="module", params=MODELS)
def case(request) -> Case:
    run, hyper = one_run(sweep(request.param, probes=PROBES, seeds=(4,)))
    setup, data = run.setup, run.setup.dataset
    constants = data.constants()
    state = jax.jit(run.start)(constants, hyper)
    chance = np.random.default_rng(0)  # zeros at the start would hide mistakes
    state["params"] = {k: v + 0.3 * chance.normal(size=v.shape).astype(np.float32) for k, v in state["params"].items()}
    batch = run.scaled(data.test[0][:5]), data.test[1][:5]

    @jax.jit
    def look(state):
        scene = run.scene(constants, hyper, state, *batch, jnp.int32(0))
        return {k: v for probe in setup.probes[0] for k, v in probe.measure(scene).items()}

    scene = run.scene(constants, hyper, state, *batch, jnp.int32(0))
    found = {name: np.asarray(value, np.float64) for name, value in look(state).items()}
    return Case(found, scene, lambda params: scene.build(params, scene.settled))


def nll(logits, labels):
    return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]


def close(found, wanted, rtol=1e-4, atol=1e-6) -> None:
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def test_weight_gradients_are_those_of_each_example(case):
    scene = case.scene
    cost = lambda params, x, label: nll(case.module(params)(x[None]), label[None])[0]  # noqa: E731
    each = jax.jit(jax.vmap(jax.grad(cost), in_axes=(None, 0, 0)))(dict(scene.params), scene.inputs, scene.labels)
    each = {path: np.asarray(g, np.float64) for path, g in each.items()}
    close(case.found["weight_gradient_std"], [each[path].std() for path in scene.weights])
    flat = np.concatenate([g.reshape(len(scene.labels), -1) for g in each.values()], axis=1)
    close(case.found["gradient_covariance_trace"], flat.var(axis=0, ddof=1).sum(), rtol=1e-3)


def test_weights_are_those_of_numpy(case):
    weights = [np.asarray(case.scene.params[path], np.float64) for path in case.scene.weights]
    close(case.found["weight_norm"], [np.linalg.norm(w) for w in weights])
    largest = [np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0] for w in weights]
    close(case.found["weight_spectral_norm"], largest)


def test_the_whole_jacobian_is_that_of_jacrev(case):
    inputs = case.scene.inputs[:2]
    found = [jax.jacrev(lambda x: case.module(case.scene.params)(x[None])[0])(x) for x in inputs]
    values = [np.linalg.svd(np.asarray(j, np.float64).reshape(j.shape[0], -1), compute_uv=False) for j in found]
    close(case.found["input_output_mean_singular_value"], np.mean(values))
    close(case.found["input_output_max_singular_value"], np.mean([s[0] for s in values]))


def test_layer_jacobians_and_back_propagated_gradients_are_those_of_a_shift(case):
    """The shift is put in by Flax's own capture, and the Jacobian by it is formed whole."""
    scene = case.scene
    names = [INPUT, *(layer.activation for layer in scene.hidden)]

    def captured(shifts, x):
        call = nnx.capture(lambda m, x: m(x), nnx.Intermediate, init=shifts)
        return call(case.module(scene.params), x)

    def shifted(point, x):
        """Zeros at a point, and the function of a shift there to logits and all values."""
        zeros = nnx.capture(lambda m, x: m(x), nnx.Perturbation)(case.module(scene.params), x)[1]
        *owner, name = point.split(".")
        path = (*(int(p) if p.isdigit() else p for p in owner), f"+{name}")
        place = dict(nnx.to_flat_state(zeros))[path]

        def call(v):
            logits, shown = captured(nnx.from_flat_state([(path, place.replace(v))]), x)
            flat = {".".join(map(str, p)): value.get_value()[0] for p, value in nnx.to_flat_state(shown)}
            return logits, flat

        return jnp.zeros_like(place.get_value()), call

    def value_at(shown, point):
        *owner, name = point.split(".")
        return shown[".".join((*owner, f":{name}"))]

    means = []
    for source, target in itertools.pairwise(names):
        values = []
        for x in scene.inputs[:2]:
            if source == INPUT:
                zero, call = x[None], lambda x: captured(None, x)
                shown = lambda v, t=target, c=call: value_at(  # noqa: E731
                    {".".join(map(str, p)): w.get_value()[0] for p, w in nnx.to_flat_state(c(v)[1])}, t
                )
            else:
                zero, call = shifted(source, x[None])
                shown = lambda v, t=target, c=call: value_at(c(v)[1], t)  # noqa: E731
            matrix = jax.jacrev(lambda v, f=shown: f(v).ravel())(zero)
            matrix = np.asarray(matrix, np.float64).reshape(matrix.shape[0], -1)
            values.append(np.linalg.svd(matrix, compute_uv=False).mean())
        means.append(np.mean(values))
    close(case.found["jacobian_mean_singular_value"], means, rtol=2e-4)
    stds = []
    for layer in scene.hidden:
        zero, call = shifted(layer.preactivation, scene.inputs)
        gradient = jax.grad(lambda v, c=call: nll(c(v)[0], scene.labels).sum())(zero)
        stds.append(np.asarray(gradient, np.float64).std())
    close(case.found["gradient_std"], stds)
