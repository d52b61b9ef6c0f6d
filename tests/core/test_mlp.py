"""The multi-layer perceptron against plain NumPy float64: logits, gradients, and the points it shows."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import activations, initializers, losses
from glorot_jax.models import mlp
from glorot_jax.models.points import LayerPoints, noted
from glorot_jax.probes.probe import forward, forward_with_values
from tests.core import reference

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ACTIVATIONS = ("sigmoid", "softsign", "tanh")
FEATURES, CLASSES, WIDTHS = 6, 4, (5, 3)


def build(
    activation: str = "tanh",
    *,
    widths=WIDTHS,
    features: int = FEATURES,
    classes: int = CLASSES,
    init=(initializers.standard, initializers.normalized),
    init_index: int = 0,
    gain: float = 1.0,
    seed: int = 0,
) -> mlp.Mlp:
    return mlp.Mlp(
        (features,),
        classes,
        widths=widths,
        activation=tuple(getattr(activations, name) for name in ACTIVATIONS),
        init=init,
        activation_index=jnp.int32(ACTIVATIONS.index(activation)),
        init_index=jnp.int32(init_index),
        gain=jnp.float32(gain),
        key=jax.random.key(seed),
        inputs=np.random.default_rng(9).normal(2, 3, size=(200, features)).astype(np.float32),
    )


def with_biases(module: mlp.Mlp) -> mlp.Mlp:
    """Biases start at 0, where an error in them would not be seen."""
    draw = np.random.default_rng(7)
    for layer in module.layers:
        layer.bias[...] = draw.normal(size=layer.bias.shape).astype(np.float32)
    return module


def made(activation: str = "tanh", **settings) -> mlp.Mlp:
    """The same network with biases, compiled as one."""
    return nnx.jit(lambda: with_biases(build(activation, **settings)))()


def by_path(state: nnx.State) -> dict[str, jax.Array]:
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def params(module: mlp.Mlp) -> dict[str, np.ndarray]:
    return {path: np.asarray(array) for path, array in by_path(nnx.state(module, nnx.Param)).items()}


def examples(count: int, features: int = FEATURES, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(count)
    return draw.normal(size=(count, features)).astype(np.float32), draw.integers(0, classes, count)


def cost_and_gradients(x: np.ndarray, labels: np.ndarray, activation: str, **shape):
    """Parameters of a network made there, its mean loss, and the gradient as the training step takes it."""

    @jax.jit
    def compute(x, labels):
        graph, trained, rest = nnx.split(with_biases(build(activation, **shape)), nnx.Param, ...)
        value, gradient = jax.value_and_grad(
            lambda p: jnp.mean(losses.nll(forward(nnx.merge(graph, p, rest), x), labels))
        )(trained)
        return by_path(trained), value, by_path(gradient)

    return jax.tree.map(np.asarray, compute(x, labels))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_are_those_of_numpy(activation):
    module = made(activation)
    x, _ = examples(11)
    truth = reference.network(params(module), activation).forward(x)[1][-1]
    np.testing.assert_allclose(forward(module, x), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(activation):
    """Every weight and every bias, by central differences of the float64 network."""
    x, labels = examples(8)
    trained, value, gradient = cost_and_gradients(x, labels, activation)
    truth = {name: array.astype(np.float64) for name, array in trained.items()}
    assert value == pytest.approx(reference.network(truth, activation).losses(x, labels).mean(), rel=1e-5)
    h = 1e-5
    for name, array in truth.items():
        for place in np.ndindex(array.shape):
            costs = []
            for shift in (h, -h):
                moved = array.copy()
                moved[place] += shift
                costs.append(reference.network(truth | {name: moved}, activation).losses(x, labels).mean())
            assert gradient[name][place] == pytest.approx((costs[0] - costs[1]) / (2 * h), abs=1e-6), (name, place)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 12), min_size=0, max_size=4),
    features=st.integers(1, 10),
    classes=st.integers(2, 7),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_any_widths_and_depth_agree_with_back_propagation_by_hand(widths, features, classes, activation):
    """Also without a hidden layer, and with layers of one unit."""
    x, labels = examples(5, features, classes)
    trained, value, gradient = cost_and_gradients(
        x, labels, activation, widths=tuple(widths), features=features, classes=classes
    )
    net = reference.network(trained, activation)
    assert value == pytest.approx(net.losses(x, labels).mean(), rel=1e-4, abs=1e-6)
    inputs, errors = net.forward(x)[0], net.errors(x, labels)
    assert len(gradient) == 2 * (len(widths) + 1)
    for i, (z, e) in enumerate(zip(inputs, errors, strict=True)):
        np.testing.assert_allclose(gradient[f"layers.{i}.kernel"], z.T @ e / 5, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(gradient[f"layers.{i}.bias"], e.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", [1, 10, 50])
def test_the_products_own_backward_rule_equals_the_built_in_one(batch, transposed):
    """And both equal ēWᵀ and zᵀē in float64, of z Wᵀ ēW and ēᵀz; under vmap as well."""
    draw = np.random.default_rng(3)
    z, w, e = (draw.normal(size=shape).astype(np.float32) for shape in ((3, batch, 7), (3, 7, 4), (3, batch, 4)))
    if transposed:
        z, e = e, z

    def pull(product):
        def one(z, w, e):
            value, back = jax.vjp(product, z, w)
            return value, *back(e)

        return jax.jit(jax.vmap(one))(z, w, e)

    turned = (lambda w: w.mT) if transposed else lambda w: w
    found = pull(mlp.transposed_product if transposed else mlp.product)
    plain = pull(lambda z, w: jnp.matmul(z, turned(w), precision=jax.lax.Precision.HIGHEST))
    z, w, e = (a.astype(np.float64) for a in (z, turned(w), e))
    truth = z @ w, e @ w.mT, turned(z.mT @ e)
    for own, builtin, exact in zip(found, plain, truth, strict=True):
        np.testing.assert_allclose(own, builtin, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(own, exact, rtol=1e-5, atol=1e-5)


def test_points_are_named_in_forward_order_and_hold_what_they_say():
    module = made("softsign")
    x, _ = examples(4)
    with noted(module) as told:
        logits, shown = forward_with_values(module, x)
    layers = told().layers
    assert layers == (
        LayerPoints("hidden1_preactivation", "hidden1", "layers.0.kernel", "input", "layers.0.bias"),
        LayerPoints("hidden2_preactivation", "hidden2", "layers.1.kernel", "hidden1", "layers.1.bias"),
        LayerPoints("logits", None, "layers.2.kernel", "hidden2", "layers.2.bias"),
    )
    net = reference.network(params(module), "softsign")
    inputs, preactivations = net.forward(x)
    for layer, w, z, s in zip(layers, net.weights, inputs, preactivations, strict=True):
        assert params(module)[layer.weight].shape == w.shape
        np.testing.assert_allclose(shown[layer.source], z, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(shown[layer.preactivation], s, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shown["logits"], logits)
    np.testing.assert_array_equal(logits, forward(module, x))


def test_initial_weights_are_gain_times_the_initializers_own_and_biases_are_0():
    """Layer i draws from fold_in(key, i), whichever initializer the run chose."""
    found = params(build(init_index=1, gain=2.5, seed=3))
    sizes = (FEATURES, *WIDTHS, CLASSES)
    for i, shape in enumerate(itertools.pairwise(sizes)):
        own = initializers.normalized(jax.random.fold_in(jax.random.key(3), i + 1), shape)
        np.testing.assert_allclose(found[f"layers.{i}.kernel"], 2.5 * np.asarray(own), rtol=1e-6)
        np.testing.assert_array_equal(found[f"layers.{i}.bias"], 0)


def test_an_initializer_that_looks_at_data_sees_its_own_layers_input():
    """Under lsuv the preactivations of every layer, one after the other, have variance 1 on the data shown."""
    module = nnx.jit(lambda: build(widths=(30, 20, 10), init=(initializers.lsuv, initializers.standard)))()
    inputs = np.random.default_rng(9).normal(2, 3, size=(200, FEATURES)).astype(np.float32)
    for s in reference.network(params(module), "tanh").forward(inputs)[1]:
        assert s.var() == pytest.approx(1, abs=0.1)


def test_the_activations_index_is_no_parameter():
    """Weights and biases alone are trained: Σ (fan_in + 1) fan_out of them."""
    trained = params(build())
    assert set(trained) == {f"layers.{i}.{name}" for i in range(3) for name in ("kernel", "bias")}
    assert sum(a.size for a in trained.values()) == 7 * 5 + 6 * 3 + 4 * 4
