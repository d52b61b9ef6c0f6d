"""What the papers on initial weights of deep networks state, on networks drawn by their schemes."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glorot_jax import activations, initializers
from glorot_jax.models.convolution import conv
from glorot_jax.models.residual_mlp import ResidualMlp
from glorot_jax.models.transformer import Transformer
from glorot_jax.probes.probe import forward, forward_with_values
from tests.core.networks import called, made, make, params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ONE_LAYER = 12
"""Width of small dense checks."""


# ---- convolutions


def operator(kernel: np.ndarray, side: int) -> np.ndarray:
    """The matrix of a circular convolution of side × side pixels, entry by entry from its kernel."""
    taps, _, c_in, c_out = kernel.shape
    matrix = np.zeros((side, side, c_in, side, side, c_out))
    for i, j, a, b in np.ndindex(side, side, taps, taps):
        row, column = (i + a - (taps - 1) // 2) % side, (j + b - (taps - 1) // 2) % side
        matrix[row, column, :, i, j, :] += kernel[a, b]
    return matrix.reshape(side**2 * c_in, side**2 * c_out)


@pytest.mark.parametrize(("taps", "c_in", "c_out"), [(3, 4, 4), (5, 3, 5), (2, 4, 4), (1, 2, 3)])
def test_a_delta_orthogonal_convolution_is_an_isometry(taps, c_in, c_out):
    """All singular values of the operator are 1; what the layer does is that matrix."""
    side = 5

    @jax.jit
    def layer(x):
        made = conv(
            c_in, c_out, taps, padding="CIRCULAR", init=initializers.delta_orthogonal, rngs=nnx.Rngs(jax.random.key(0))
        )
        return made(x), made.kernel[...]

    x = np.random.default_rng(0).normal(size=(2, side, side, c_in)).astype(np.float32)
    out, kernel = layer(x)
    matrix = operator(np.asarray(kernel, np.float64), side)
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 1, atol=1e-5)
    np.testing.assert_allclose(out.reshape(2, -1), x.reshape(2, -1) @ matrix, rtol=1e-4, atol=1e-5)


def test_a_plain_gaussian_convolution_is_none():
    kernel = initializers.lecun_normal(jax.random.key(0), (3, 3, 4, 4))
    values = np.linalg.svd(operator(np.asarray(kernel, np.float64), 5), compute_uv=False)
    assert values.max() > 1.5
    assert values.min() < 0.3


FAN_IN = {
    "he_normal": 2.0,
    "he_uniform": 2.0,
    "lecun_normal": 1.0,
    "lecun_uniform": 1.0,
    "random_walk": math.exp(1 / 144),
    "random_walk_relu": 2 * math.exp(2.4 / (144 - 2.4)),
    "standard": 1 / 3,
    "truncated_normal": 1.0,
}


@pytest.mark.parametrize("name", FAN_IN)
def test_kernels_of_convolutions_have_the_variance_of_their_receptive_field(name):
    """fan_in = height · width · channels: 3 · 3 · 16."""
    w = np.asarray(getattr(initializers, name)(jax.random.key(1), (3, 3, 16, 200)), np.float64)
    assert w.var() * 144 == pytest.approx(FAN_IN[name], rel=4 * math.sqrt(2 / w.size))


def test_kernels_that_are_not_drawn_stand_at_the_middle_tap():
    for name in ("identity", "zero_hadamard"):
        function = getattr(initializers, name)
        kernel = np.asarray(function(jax.random.key(0), (3, 3, 4, 7)))
        np.testing.assert_array_equal(kernel[1, 1], function(jax.random.key(0), (4, 7)))
        assert np.count_nonzero(kernel) == np.count_nonzero(kernel[1, 1])
    sparse = np.asarray(initializers.sparse(jax.random.key(0), (3, 3, 4, 7)))
    assert (np.count_nonzero(sparse, axis=(0, 1, 2)) == 15).all()


# ---- residual branches


@pytest.mark.parametrize("residual", ["rezero", "skipinit"])
def test_a_trained_factor_of_0_makes_every_block_the_identity(residual):
    """Dynamical isometry: all singular values of the blocks' Jacobian are 1; at first the factors alone are trained."""
    module = made(ResidualMlp, 20, 4, depth=6, width=ONE_LAYER, residual=residual)
    graph, state = nnx.split(module)

    @jax.jit
    def looked(x):
        def through(module, z):
            for block in module.blocks:
                z = block(z)
            return z

        def stream(z):
            return nnx.capture(through)(nnx.merge(graph, state), z)

        trained, rest = nnx.split(nnx.merge(graph, state), nnx.Param, ...)[1:]
        gradient = jax.grad(lambda p: jnp.sum(forward(nnx.merge(graph, p, rest), x) ** 2))(trained)
        return jax.jacobian(stream)(jnp.arange(1.0, ONE_LAYER + 1)), gradient

    jacobian, gradient = looked(np.ones((3, 20), np.float32))
    np.testing.assert_array_equal(jacobian, np.eye(ONE_LAYER))
    for path, variable in nnx.to_flat_state(gradient):
        if path[0] == "blocks":
            assert bool(jnp.any(variable.get_value() != 0)) == (path[-1] == "factor"), path


def moved(build: Callable[[jax.Array], nnx.Module], x: np.ndarray, seeds: int, taught: Callable[[str], bool]) -> float:
    """‖dF/dη‖ of one step of SGD on some parameters, F the logits and C = v·F: mean over seeds, examples one by one."""

    def one(seed, x):
        graph, trained, rest = nnx.split(build(seed), nnx.Param, ...)
        target = jax.random.normal(jax.random.fold_in(jax.random.key(5), seed), (1, 4))

        def function(p):
            return forward(nnx.merge(graph, p, rest, copy=True), x[None])

        gradient = jax.grad(lambda p: jnp.sum(target * function(p)))(trained)
        step = nnx.from_flat_state(
            [
                (path, v.replace(v.get_value() if taught(".".join(map(str, path))) else 0 * v.get_value()))
                for path, v in nnx.to_flat_state(gradient)
            ]
        )
        return jnp.sqrt(jnp.sum(jax.jvp(function, (trained,), (step,))[1] ** 2)) / jnp.sqrt(jnp.sum(target**2))

    found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(jnp.arange(seeds), x)
    return float(jnp.mean(found))


def with_random_head(module: nnx.Module, seed: jax.Array) -> nnx.Module:
    """Fixup's last layer is 0, through which no error passes at the very first step."""
    key = jax.random.fold_in(jax.random.key(9), seed)
    module.head.kernel[...] = jax.random.normal(key, module.head.kernel.shape) / math.sqrt(module.head.kernel.shape[0])
    return module


UNIT = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)


@pytest.mark.parametrize("layers", [2, 3])
def test_fixup_moves_the_function_by_as_much_at_any_depth(layers):
    """Θ(η): weights of L branches together move it no further at L = 8 than at L = 2.

    Without the factor L^(−1/(2m−2)) it is L times as far. The scalar biases have a learning rate of their own in the
    source.
    """

    def moves(depth: int, unscaled: bool) -> float:
        def build(seed):
            module = make(ResidualMlp, 32, 4, depth=depth, width=48, layers=layers, residual="fixup", seed=seed)
            if unscaled:
                for block in module.blocks:
                    for layer in list(block.inner.layers)[:-1]:
                        layer.kernel[...] = layer.kernel[...] * depth ** (1 / (2 * layers - 2))
            return with_random_head(module, seed)

        return moved(build, UNIT, 4, lambda path: path.startswith("blocks") and path.endswith("kernel"))

    few, many = moves(2, False), moves(8, False)
    assert many / few == pytest.approx(1, abs=0.25)
    assert moves(8, True) / moves(2, True) == pytest.approx(4, rel=0.25)


def test_fixup_starts_as_its_rules_say():
    """Branches' last layers and the classifier 0, He's weights × L^(−1/(2m−2)) before, scalars 0 and multipliers 1."""
    p = params(made(ResidualMlp, 32, 4, depth=16, width=200, layers=3, residual="fixup"))
    assert not p["head.kernel"].any()
    for i in range(16):
        name = f"blocks.{i}.inner"
        assert not p[f"{name}.layers.2.kernel"].any()
        for j in range(2):
            variance = p[f"{name}.layers.{j}.kernel"].var() * 200 / 2
            assert variance == pytest.approx(16 ** (-2 / 4), rel=4 * math.sqrt(2 / 200**2))
        np.testing.assert_array_equal(p[f"{name}.biases"], np.zeros(6))
        assert p[f"{name}.multiplier"] == 1
        assert f"{name}.layers.0.bias" not in p


@pytest.mark.parametrize("depth", [2, 12])
def test_gpt2s_factor_keeps_the_streams_growth_at_that_of_one_branch(depth):
    """Var(stream) − Var(start) = 2 with He's weights after a layer normalization, and 2L without the factor."""
    x = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    for residual, growth in (("gpt2", 2), ("plain", 2 * depth)):
        settings = {"depth": depth, "width": 300, "normalization": "layer", "residual": residual}
        _, values = called(made(ResidualMlp, 32, 4, **settings), x, forward_with_values)
        first, last = (float(jnp.mean(values[n] ** 2)) for n in ("stem_output", f"blocks.{depth - 1}.stream"))
        assert last - first == pytest.approx(growth, rel=0.15)


def test_batch_normalized_branches_leave_a_stream_whose_variance_counts_the_blocks():
    """De & Smith (2020), section 2: each branch has variance 1, so block l is 1/(l + 1) branch, the rest identity."""
    x = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
    module = made(ResidualMlp, 32, 4, depth=8, width=200, normalization="batch", placement="inner", init=lecun)
    _, values = called(module, x, forward_with_values)
    start = float(jnp.mean(jnp.var(values["stem_output"], axis=0)))
    for i in range(8):
        assert float(jnp.mean(jnp.var(values[f"blocks.{i}.branch"], axis=0))) == pytest.approx(1, abs=1e-3)
        stream = float(jnp.mean(jnp.var(values[f"blocks.{i}.stream"], axis=0)))
        assert stream == pytest.approx(start + i + 1, rel=0.1)


def lecun(key, shape, dtype=jnp.float32):
    return initializers.lecun_normal(key, shape, dtype)


# ---- transformers

TOKENS = np.random.default_rng(2).integers(0, 7, (3, 3)).astype(np.float32)


def decoder(seed, depth, **settings):
    sizes = {"architecture": "decoder", "depth": depth, "width": 32, "heads": 2, "vocabulary": 7}
    more = {"init": initializers.normalized_normal, "activation": activations.relu} | settings
    return make(Transformer, (3,), 4, seed=seed, **sizes, **more)


@pytest.mark.parametrize(
    ("residual", "settings", "times"),
    [("tfixup", {"normalization": "none"}, 1000), ("deepnorm", {"normalization": "layer", "placement": "post"}, 8)],
)
def test_transformers_move_by_as_much_at_any_depth(residual, settings, times):
    """By weights of 1 and of 4 blocks; without the scheme the deep one moves ``times`` as far."""

    def moves(depth: int, residual: str) -> float:
        def build(seed):
            return decoder(seed, depth, residual=residual, **settings)

        return moved(build, TOKENS, 2, lambda path: path.startswith("blocks") and path.endswith("kernel"))

    one, four = moves(1, residual), moves(4, residual)
    assert 0.5 < four / one < 2
    assert moves(4, "plain") > times * four


@pytest.mark.parametrize(("architecture", "factor"), [("encoder", 0.67 * 3**-0.25), ("decoder", 27**-0.25)])
def test_tfixup_scales_what_it_names_and_nothing_else(architecture, factor):
    """Huang et al. (2020), section 3.2, with N = 3 blocks, against the same draws without it."""
    shape = (3,) if architecture == "decoder" else (8, 8, 3)
    sizes = {"architecture": architecture, "depth": 3, "width": 8, "heads": 2, "normalization": "none"}
    scaled, plain = (params(made(Transformer, shape, 4, residual=r, **sizes)) for r in ("tfixup", "plain"))
    ratios = {path: scaled[path] / plain[path] for path in plain if "kernel" in path or path == "embedding.table"}
    for path, ratio in ratios.items():
        if path.startswith("embedding"):
            expected = 27**-0.25
        elif any(part in path for part in ("value", "out.", "perceptron")):
            expected = factor
        else:
            assert any(part in path for part in ("query", "key", "head"))
            expected = 1.0
        np.testing.assert_allclose(ratio, expected, rtol=1e-5, err_msg=path)


def test_deepnorm_scales_what_it_names_and_nothing_else():
    """Wang et al. (2022), figure 2: N = 2 blocks, α = 4^(1/4), β = 16^(−1/4) = 1/2."""
    sizes = {"architecture": "decoder", "depth": 2, "width": 8, "heads": 2, "placement": "post"}
    module = made(Transformer, (3,), 4, residual="deepnorm", **sizes)
    scaled, plain = params(module), params(made(Transformer, (3,), 4, **sizes))
    assert {block.attention.skip for block in module.blocks} == {4**0.25}
    for path in plain:
        if path.startswith("blocks") and "kernel" in path:
            named = any(part in path for part in ("value", "out.", "perceptron"))
            np.testing.assert_allclose(scaled[path] / plain[path], 0.5 if named else 1.0, rtol=1e-5)
