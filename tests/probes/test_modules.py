"""Probes on networks that are no perceptrons, against dense Jacobians and gradients of the whole function, in NumPy.

The truth never shifts a point: a network here is a chain of stages, and what lies between two points is the stages
between them, put through ``jax.jacrev`` in one piece.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glorot_jax import Sweep, arrays, at, jacobian, module, sgd, show_layer
from glorot_jax.data import dataset
from glorot_jax.engine.planning import plan
from glorot_jax.errors import InputError
from glorot_jax.probes.probe import QUANTILES
from tests.probes.one_run import one_run

pytestmark = pytest.mark.usefixtures("compiled_quickly")

EXAMPLES, JACOBIANS, BATCH, CLASSES = 12, 2, 5, 3
EXACT = ("activations", "gradients", "jacobians", "jacobian_spectra", "saturation", "histograms", "weights")
PROBES = (
    *(*EXACT, "gradient_norms", "input_output_jacobian", "module_outputs"),
    *(jacobian("first", "second"), jacobian("second_preactivation", "output")),
)


class Convolutional(nnx.Module):
    """As a stranger would write it: convolutions, batch normalization, dropout, a readout of means over the picture."""

    def __init__(self, shape, classes, *, channels, gain, activation, init, rngs):
        self.first = nnx.Conv(shape[-1], channels, (3, 3), kernel_init=init, rngs=rngs)
        self.norm = nnx.BatchNorm(channels, rngs=rngs)
        self.second = nnx.Conv(channels, channels, (3, 3), strides=2, kernel_init=init, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.readout = nnx.Linear(channels, classes, kernel_init=init, rngs=rngs)
        self.activation, self.gain = activation, gain

    def __call__(self, x):
        z = show_layer(self, "first", self.norm(self.first(x)), self.activation)
        z = show_layer(self, "second", self.gain * self.second(z), self.activation)
        return self.readout(self.drop(z.mean(axis=(1, 2))))


def stages(net: Convolutional) -> dict[str, Callable]:
    """What leads to each point from the one before; the activation is tanh."""
    return {
        "first_preactivation": lambda x: net.norm(net.first(x)),
        "first": jnp.tanh,
        "second_preactivation": lambda z: 1.5 * net.second(z),
        "second": jnp.tanh,
        "output": lambda z: net.readout(z.mean(axis=(1, 2))),
    }


class Case(NamedTuple):
    """One run after some steps, what its probes found, and its network in evaluation mode."""

    found: dict[str, np.ndarray]
    build: Callable[[dict], Convolutional]
    params: dict[str, jax.Array]
    x: jax.Array
    labels: jax.Array


def sweep(**changes) -> Sweep:
    draw = np.random.default_rng(0)
    pictures, labels = draw.integers(0, 256, (80, 6, 6), np.uint8), draw.integers(0, CLASSES, 80)
    settings = {
        "name": "stranger",
        "data": arrays(pictures, labels, validation=20, test=20, scaling="symmetric"),
        "model": module(Convolutional, channels=4, gain=1.5, activation="tanh", init="he_normal"),
        "optimizer": sgd(learning_rate=0.2),
        "seeds": (3,),
        "steps": 7,
        "batch_size": BATCH,
        "record": at(),
        "probes": PROBES,
        "examples": EXAMPLES,
        "jacobian_examples": JACOBIANS,
    }
    return Sweep(**settings | changes)


@pytest.fixture(scope="module")
def case() -> Case:
    run, hyper = one_run(sweep())
    setup, data = run.setup, run.setup.dataset
    constants = data.constants()

    def batch(step):
        pixels, labels = data.draw(constants["arrays"], hyper["seed"], hyper["stream"], step, BATCH)
        return run.scaled(pixels), labels

    @jax.jit
    def trained():
        return jax.lax.fori_loop(
            0, 7, lambda i, state: run.step(state, hyper, *batch(i), i), run.start(constants, hyper)
        )

    @jax.jit
    def look(state):
        scene = run.scene(constants, hyper, state, *batch(7), jnp.int32(7))
        return {k: v for probe in setup.probes[0] for k, v in probe.measure(scene).items()}

    state = trained()
    x, labels = run.scaled(data.test[0][:EXAMPLES]), data.test[1][:EXAMPLES]

    def build(params):
        net = Convolutional((6, 6, 1), CLASSES, channels=4, gain=1.5, activation=jnp.tanh,
                            init=nnx.initializers.zeros, rngs=nnx.Rngs(0))  # fmt: skip
        for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param)):
            owner = functools.reduce(getattr, path[:-1], net)
            getattr(owner, path[-1])[...] = params[".".join(path)]
        before = net.first(x)
        net.norm.mean[...], net.norm.var[...] = before.mean(axis=(0, 1, 2)), before.var(axis=(0, 1, 2))
        net.eval()
        return net

    found = {k: np.asarray(v, np.float64) for k, v in look(state).items()}
    return Case(found, build, state["params"], x, labels)


def values(case: Case) -> dict[str, jax.Array]:
    z, found = case.x, {}
    for name, stage in stages(case.build(case.params)).items():
        found[name] = z = stage(z)
    return found


def path_between(net: Convolutional, source: str, target: str) -> Callable:
    """The function from one point's value to another's."""
    names = ["input", *stages(net)]
    chain = [stages(net)[name] for name in names[names.index(source) + 1 : names.index(target) + 1]]
    return lambda z: functools.reduce(lambda z, stage: stage(z), chain, z)


def dense(case: Case, source: str, target: str) -> np.ndarray:
    """∂target/∂source on the first examples, as matrices."""
    net, start = case.build(case.params), values(case) | {"input": case.x}
    made = []
    for z in start[source][:JACOBIANS]:
        matrix = jax.jacrev(lambda z: path_between(net, source, target)(z[None])[0].ravel())(z)
        made.append(np.asarray(matrix, np.float64).reshape(matrix.shape[0], -1))
    return np.array(made)


def nll(logits, labels):
    return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]


def example_gradients(case: Case) -> dict[str, np.ndarray]:
    """∂C/∂(parameters) of each example by itself, with the statistics of the fixed examples held."""
    held = case.build(case.params)

    def cost(params, x, label):
        net = case.build(params)
        net.norm.mean[...], net.norm.var[...] = held.norm.mean[...], held.norm.var[...]
        return nll(net(x[None]), label[None])[0]

    each = jax.jit(jax.vmap(jax.grad(cost), in_axes=(None, 0, 0)))(case.params, case.x, case.labels)
    return {path: np.asarray(g, np.float64) for path, g in each.items()}


def close(found, wanted, rtol=1e-4, atol=1e-6) -> None:
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def test_points_hold_what_lies_there(case):
    shown = values(case)
    layers = [np.asarray(shown[name], np.float64) for name in ("first", "second")]
    close(case.found["activation_mean"], [z.mean() for z in layers])
    close(case.found["activation_std"], [z.std() for z in layers])
    close(case.found["activation_quantile"], [np.quantile(z, QUANTILES) for z in layers], atol=1e-5)
    flat = [z.reshape(EXAMPLES, -1) for z in layers]
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in flat]
    cosines = [((u @ u.T).sum() - EXAMPLES) / (EXAMPLES * (EXAMPLES - 1)) for u in unit]
    close(case.found["activation_cosine"], cosines)
    slopes = [1 - np.tanh(np.asarray(shown[f"{name}_preactivation"], np.float64)) ** 2 for name in ("first", "second")]
    close(case.found["saturated_fraction"], [(f < 0.05).mean() for f in slopes])


def test_back_propagated_gradients_are_those_of_the_stages_behind_a_point(case):
    net, shown = case.build(case.params), values(case)
    wanted = []
    for name in ("first_preactivation", "second_preactivation"):
        rest = path_between(net, name, "output")
        wanted.append(np.asarray(jax.grad(lambda s, f=rest: nll(f(s), case.labels).sum())(shown[name]), np.float64))
    close(case.found["gradient_std"], [e.std() for e in wanted])
    close(case.found["gradient_rms"], [np.sqrt((e**2).mean()) for e in wanted])
    output = np.asarray(jax.grad(lambda s: nll(s, case.labels).sum())(shown["output"]), np.float64)
    close(case.found["output_gradient_std"], output.std())


def test_weight_gradients_are_those_of_each_example(case):
    each = example_gradients(case)
    kernels = [each[f"{name}.kernel"] for name in ("first", "readout", "second")]
    close(case.found["weight_gradient_std"], [g.std() for g in kernels])
    flat = [g.reshape(EXAMPLES, -1) for g in kernels]
    signal = [(g.mean(axis=0) ** 2).sum() for g in flat]
    noise = [g.var(axis=0, ddof=1).sum() for g in flat]
    close(case.found["gradient_signal_to_noise"], np.sqrt(np.divide(signal, noise)), rtol=1e-3)
    every = np.concatenate([g.reshape(EXAMPLES, -1) for g in each.values()], axis=1)
    trace = every.var(axis=0, ddof=1).sum()
    close(case.found["gradient_covariance_trace"], trace, rtol=1e-3)
    close(case.found["gradient_square_norm"], (every.mean(axis=0) ** 2).sum() - trace / EXAMPLES, rtol=1e-2)


def test_weights_are_measured_by_their_paths(case):
    kernels = [np.asarray(case.params[f"{name}.kernel"], np.float64) for name in ("first", "readout", "second")]
    close(case.found["weight_norm"], [np.linalg.norm(w) for w in kernels])
    largest = [np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0] for w in kernels]
    close(case.found["weight_spectral_norm"], largest)


def spectrum(matrices: np.ndarray) -> list[np.ndarray]:
    return [np.linalg.svd(m, compute_uv=False) for m in matrices]


def test_layer_jacobians_are_those_from_one_activation_to_the_next(case):
    layers = [spectrum(dense(case, *pair)) for pair in itertools.pairwise(("input", "first", "second"))]
    close(case.found["jacobian_mean_singular_value"], [np.mean(found) for found in layers])
    close(case.found["jacobian_max_singular_value"], [np.mean([s[0] for s in found]) for found in layers])
    rms = [np.sqrt(np.mean(np.square(found))) for found in layers]
    close(case.found["jacobian_rms_singular_value"], rms)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("input_output", "input", "output"),
        ("input_hidden", "input", "second"),
        ("jacobian_first_second", "first", "second"),
        ("jacobian_second_preactivation_output", "second_preactivation", "output"),
    ],
)
def test_jacobians_between_any_two_points(case, name, source, target):
    found = spectrum(dense(case, source, target))
    close(case.found[f"{name}_mean_singular_value"], np.mean(found))
    close(case.found[f"{name}_rms_singular_value"], np.mean([np.sqrt((s**2).mean()) for s in found]))
    close(case.found[f"{name}_max_singular_value"], np.mean([s[0] for s in found]))


def test_every_part_is_seen_without_a_word_in_the_module(case):
    net = case.build(case.params)
    first = np.asarray(net.first(case.x), np.float64)
    names = sorted(("activation", "drop", "first", "norm", "readout", "second"))
    close(case.found["module_output_std"][names.index("first")], first.std())
    close(case.found["module_output_std"][names.index("readout")], np.asarray(values(case)["output"]).std())


class Plain(nnx.Module):
    """It shows nothing."""

    def __init__(self, features, classes, *, rngs):
        self.layer = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, x):
        return self.layer(jnp.tanh(x))


REFUSED = [
    ({"model": module(Plain, flatten=True), "probes": ("activations",)}, r"probes\.activations: .*no hidden layer"),
    ({"model": module(Plain, flatten=True), "probes": ("jacobians",)}, r"probes\.jacobians: .*show_layer"),
    ({"probes": (jacobian("first", "third"),)}, r"probes\.jacobian_first_third: .*'third' is not known"),
    ({"probes": (jacobian("second", "first"),)}, r"'first' does not come after 'second'"),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED)
def test_what_a_module_cannot_serve_is_refused_with_what_to_add(changes, line):
    (cohort,) = plan.cohorts(sweep(**changes).runs())
    with pytest.raises(InputError, match=f"(?s){line}"):
        plan.program_for(cohort, dataset.build(cohort.runs[0].data), jax.local_devices(), 1)


def test_a_module_without_a_word_gets_all_that_is_of_parameters():
    probes = ("evaluation", "gradients", "weights", "gradient_norms", "hessian", "ntk", "module_outputs")
    probes += ("input_output_jacobian",)
    (cohort,) = plan.cohorts(sweep(model=module(Plain, flatten=True), probes=probes).runs())
    program, _, _ = plan.program_for(cohort, dataset.build(cohort.runs[0].data), jax.local_devices(), 1)
    wanted = {"test_error", "weight_gradient_std", "weight_norm", "update_ratio", "hessian_max_eigenvalue"}
    assert wanted | {"ntk_drift", "input_output_mean_singular_value"} <= program.outputs.keys()
