"""Theory of residual branches, convolutions and batch normalization against closed forms and drawn networks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glorot_jax import activations, initializers, theory
from glorot_jax.models.points import shift_of, value_of
from glorot_jax.models.residual import SCHEMES
from glorot_jax.models.residual_mlp import ResidualMlp
from tests.core.networks import make

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_rectified_residual_lengths_grow_by_a_constant_factor():
    """(1 + σ_v² σ_w²/2)^l, and so do gradients."""
    found = theory.residual_lengths(activations.relu, 0.7, 5, 1.5, 0.8)
    np.testing.assert_allclose(found, 0.7 * 1.6 ** np.arange(6), rtol=1e-9)
    assert theory.residual_gradient_growth(activations.relu, 0.7, 1.5, 0.8) == pytest.approx(1.6, rel=1e-9)


def test_saturating_residual_lengths_grow_by_a_constant_amount():
    """σ_v² + σ_a² a block in the end, as tanh is ±1 then: linear, not exponential."""
    found = theory.residual_lengths(activations.tanh, 1.0, 3000, 1.0, 0.5, 0.1, 0.2)
    assert found[-1] - found[-2] == pytest.approx(0.7, rel=0.02)
    assert theory.residual_gradient_growth(activations.tanh, float(found[-1]), 1.0, 0.5) < 1.02


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_drawn_residual_networks_follow_lengths_and_gradients(name):
    """The full residual network of 8 blocks of 300 units, both variances 1 without biases; 12 draws, 4 errors."""
    x = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    function = getattr(activations, name)

    def one(seed):
        module = make(
            ResidualMlp, 40, 10, depth=8, width=300, activation=function, init=initializers.lecun_normal, seed=seed
        )
        graph, state = nnx.split(module)
        target = jax.random.normal(jax.random.fold_in(jax.random.key(1), seed), (4, 10))

        def cost(shifts):
            out, sown = nnx.capture(lambda m, x: m(x), nnx.Intermediate, init=shifts)(nnx.merge(graph, state), x)
            return jnp.sum(target * out), sown

        zeros = nnx.capture(lambda m, x: m(x), nnx.Perturbation)(nnx.merge(graph, state), x)[1]
        gradient, sown = jax.grad(cost, has_aux=True)(zeros)
        shown = {value_of(path): v.get_value()[0] for path, v in nnx.to_flat_state(sown)}
        errors = {shift_of(path): v.get_value() for path, v in nnx.to_flat_state(gradient)}
        streams = ["stem_output", *(f"blocks.{i}.stream" for i in range(8))]
        return tuple(jnp.stack([jnp.mean(found[name] ** 2) for name in streams]) for found in (shown, errors))

    lengths, squares = (np.asarray(v, np.float64) for v in jax.jit(jax.vmap(one))(jnp.arange(12)))
    ratios = lengths / lengths[:, :1]
    wanted = theory.residual_lengths(function, float(lengths[:, 0].mean()), 8, 1.0, 1.0)
    error = ratios.std(axis=0, ddof=1) / math.sqrt(12)
    assert (np.abs(ratios.mean(axis=0) - wanted / wanted[0]) < 4 * error + 0.02 * wanted / wanted[0]).all()
    growth = (squares[:, :-1] / squares[:, 1:]).mean(axis=0)
    for found, p in zip(growth, wanted[:-1], strict=True):
        assert found == pytest.approx(theory.residual_gradient_growth(function, float(p), 1.0, 1.0), rel=0.04)


def drawn_ring(taps: np.ndarray, covariance: np.ndarray, w: float, b: float, channels: int, count: int) -> np.ndarray:
    """Covariance over channels of one drawn convolution of a ring, of preactivations that were drawn as well."""
    draw = np.random.default_rng(0)
    n, k = len(covariance), len(taps)
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(n))
    found = np.zeros((n, n))
    for _ in range(count):
        z = np.tanh(root @ draw.normal(size=(n, channels)))
        kernel = draw.normal(size=(k, channels, channels)) * np.sqrt(w * taps / channels)[:, None, None]
        s = sum(np.roll(z, k // 2 - t, axis=0) @ kernel[t] for t in range(k)) + draw.normal(size=channels) * b**0.5
        found += s @ s.T / channels / count
    return found


@pytest.mark.parametrize("taps", [(1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.7)])
def test_drawn_convolutions_follow_the_covariance_map(taps):
    """A ring of four positions, correlated unevenly; σ_w² = 1.7, σ_b² = 0.05."""
    root = np.random.default_rng(3).normal(size=(4, 4)) / 2
    covariance = root @ root.T + 0.3 * np.eye(4)
    wanted = theory.convolutional_map(activations.tanh, covariance, np.array(taps), 1.7, 0.05)
    found = drawn_ring(np.array(taps), covariance, 1.7, 0.05, 300, 40)
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_a_kernel_of_one_tap_has_the_dense_layers_maps_at_every_position():
    """Delta-orthogonal kernels do not mix positions: lengths and correlations each go as without a convolution."""
    covariance = np.array([[1.0, 0.4], [0.4, 2.0]])
    found = theory.convolutional_map(activations.tanh, covariance, np.array([0.0, 1.0, 0.0]), 1.5, 0.1)
    for i, q in enumerate((1.0, 2.0)):
        assert found[i, i] == pytest.approx(theory.length_map(activations.tanh, q, 1.5, 0.1), rel=1e-8)
    moment = theory.correlated_moment(activations.tanh, 1.0, 2.0, 0.4 / math.sqrt(2))
    assert found[0, 1] == pytest.approx(1.5 * moment + 0.1, rel=1e-8)


def test_uniform_images_stay_uniform_under_any_kernel():
    """Where all positions agree the map is that of one dense layer, whatever the taps' shares."""
    found = theory.convolutional_map(activations.tanh, np.full((3, 3), 1.2), np.array([0.2, 0.5, 0.3]), 2.0)
    np.testing.assert_allclose(found, theory.length_map(activations.tanh, 1.2, 2.0), rtol=1e-6)


def test_gradient_growth_through_batch_normalization_is_the_sources():
    """π/(π − 1) for ReLU; a linear network's is 1 and the least."""
    assert theory.batch_norm_gradient_growth(activations.relu) == pytest.approx(math.pi / (math.pi - 1), rel=1e-9)
    assert theory.batch_norm_gradient_growth(activations.identity) == pytest.approx(1, rel=1e-9)
    for name in ("tanh", "erf", "gelu", "softsign"):
        assert theory.batch_norm_gradient_growth(getattr(activations, name)) > 1


@pytest.mark.parametrize(("name", "gain"), [("relu", 1.0), ("relu", 3.0), ("tanh", 1.0)])
def test_gradients_explode_in_drawn_batch_normalized_networks_as_predicted(name, gain):
    """Layers of 256 units, a batch of 256; layers 6 to 16 of 18, whatever the variance of the weights."""
    x = np.random.default_rng(0).normal(size=(256, 40)).astype(np.float32)
    function = getattr(activations, name)

    def one(seed):
        settings = {"layers": 1, "residual": "none", "normalization": "batch", "placement": "inner"}
        module = make(
            *(ResidualMlp, 40, 10),
            depth=18,
            width=256,
            init=initializers.he_normal,
            activation=function,
            seed=seed,
            **{"gain": gain, **settings},
        )
        graph, state = nnx.split(module)
        target = jax.random.normal(jax.random.key(5), (256, 10))

        def cost(shifts):
            module = nnx.merge(graph, state, copy=True)
            return jnp.sum(target * nnx.capture(lambda m, x: m(x), init=shifts)(module, x))

        zeros = nnx.capture(lambda m, x: m(x), nnx.Perturbation)(nnx.merge(graph, state, copy=True), x)[1]
        gradient = jax.grad(cost)(zeros)
        errors = {shift_of(path): v.get_value() for path, v in nnx.to_flat_state(gradient)}
        return jnp.stack([jnp.mean(errors[f"blocks.{i}.stream"] ** 2) for i in range(18)])

    squares = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(2)), np.float64)
    growth = (squares[:, 5] / squares[:, 15]) ** (1 / 10)
    assert growth.mean() == pytest.approx(theory.batch_norm_gradient_growth(function), rel=0.03)


@pytest.mark.parametrize("branches", [2, 10, 200])
def test_updates_of_fixup_and_deepnorm_do_not_know_the_depth(branches):
    """Both are 1 by the schemes' own factors; without them they grow with the depth."""
    for layers in (2, 3):
        scale = SCHEMES["fixup"](branches, layers).inner
        assert theory.fixup_update(branches, layers, scale) == pytest.approx(1)
        assert theory.fixup_update(branches, layers, 1.0) == branches
    says = SCHEMES["deepnorm"](branches, 2)
    assert theory.deepnorm_update_bound(branches / 2, says.skip, says.inner) == pytest.approx(1)
    assert theory.deepnorm_update_bound(branches / 2, 1.0, 1.0) == pytest.approx(2 * branches)
