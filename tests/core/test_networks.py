"""The residual, convolutional and transformer networks against plain NumPy float64, and inside a compiled loop."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from glorot_jax import activations, initializers, losses
from glorot_jax.errors import InputError
from glorot_jax.models.cnn import Cnn
from glorot_jax.models.convolution import convolve
from glorot_jax.models.points import noted
from glorot_jax.models.residual_mlp import ResidualMlp
from glorot_jax.models.resnet import ResNet
from glorot_jax.models.transformer import Transformer
from glorot_jax.probes.probe import forward, forward_with_values
from tests.core.networks import PICTURE, called, made, make, params, still, unsettled

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CLASSES = 5
DECODER = {"architecture": "decoder", "depth": 2, "width": 8, "heads": 2, "expansion": 2, "vocabulary": 7}
ENCODER = {"depth": 2, "width": 8, "heads": 2, "expansion": 2}
NETWORKS = {
    "residual_mlp": (ResidualMlp, (192,), PICTURE, {"depth": 2, "width": 12, "residual": "rezero", "alpha": 0.5}),
    "cnn": (Cnn, (PICTURE,), PICTURE, {"channels": (6, 6), "strides": (2,), "gain": 1.5}),
    "resnet": (ResNet, (PICTURE,), PICTURE, {"n": 1, "channels": 4}),
    "encoder": (Transformer, (PICTURE,), PICTURE, ENCODER | {"pool": "class"}),
    "decoder": (Transformer, ((3,),), (3,), DECODER),
}


def inputs(shape: tuple[int, ...], count: int = 6) -> np.ndarray:
    draw = np.random.default_rng(count)
    if shape == (3,):
        return draw.integers(0, 7, (count, 3)).astype(np.float32)
    return draw.normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_in_one_loop_vmapped_over_runs_that_know_nothing_of_each_other(name, request):
    """Losses fall, no host callback, and a run's bits are the same in another place among others."""
    if name == "encoder":  # the bits of the others as users compile them are held by the engine's tests
        request.getfixturevalue("compiled_fully")
    kind, arguments, shape, settings = NETWORKS[name]
    x, labels = inputs(shape), np.arange(6) % CLASSES

    def run(seed):
        network = make(kind, *arguments, CLASSES, seed=seed, chosen=True, **settings)
        graph, trained, rest = nnx.split(network, nnx.Param, ...)

        def cost(trained, rest):
            module = nnx.merge(graph, trained, rest, copy=True)
            loss = jnp.mean(losses.nll(forward(module, x), labels))
            return loss, nnx.split(module, nnx.Param, ...)[2]

        def step(i, carry):
            (loss, rest), gradient = jax.value_and_grad(cost, has_aux=True)(*carry[:2])
            return jax.tree.map(lambda p, g: p - 0.02 * g, carry[0], gradient), rest, carry[2].at[i].set(loss)

        return jax.lax.fori_loop(0, 15, step, (trained, rest, jnp.zeros(15)))

    program = jax.jit(jax.vmap(run)).lower(jnp.arange(3)).compile()
    assert "callback" not in program.as_text()
    ends = program(jnp.arange(3))
    assert (ends[2][:, -1] < ends[2][:, 0]).all()
    elsewhere = program(jnp.array([2, 0, 9]))
    for one, other in zip(jax.tree.leaves(ends), jax.tree.leaves(elsewhere), strict=True):
        assert np.asarray(one)[[2, 0]].tobytes() == np.asarray(other)[:2].tobytes()


# ---- NumPy's own


def layer_norm(x, p, name):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / spread * p[f"{name}.scale"] + p[f"{name}.bias"]


def rms_norm(x, p, name):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}.scale"]


def batch_norm(x, p, name):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * p[f"{name}.scale"] + p[f"{name}.bias"]


NORMS = {"layer": layer_norm, "rms": rms_norm, "batch": batch_norm}


def dense(x, p, name):
    return x @ p[f"{name}.kernel"] + p.get(f"{name}.bias", 0)


def stacked(z, p, name, layers, f, apply, norm=None):
    """A branch; Fixup's scalars where there are any."""
    scalars = p.get(f"{name}.biases", np.zeros(2 * layers))
    for i in range(layers):
        z = apply(z + scalars[2 * i], p, f"{name}.layers.{i}", i)
        z = z if norm is None else norm(z, p, f"{name}.norms.{i}")
        if i < layers - 1 or layers == 1:
            z = f(z + scalars[2 * i + 1])
    return p.get(f"{name}.multiplier", 1.0) * z + (scalars[-1] if f"{name}.biases" in p else 0)


FACTORS = {  # (of the stream, of the branch) with 3 blocks
    "none": (0, 1),
    "plain": (1, 1),
    "stable": (1, 3**-0.5),
    "fixup": (1, 1),
    "gpt2": (1, 1),
    "deepnorm": (3**0.25, 1),
    "rezero": (1, None),
}


@pytest.mark.parametrize(
    ("residual", "layers", "normalization", "placement"),
    [
        *[(name, 2, "none", "pre") for name in FACTORS if name != "deepnorm"],
        ("deepnorm", 2, "layer", "post"),
        ("fixup", 3, "none", "pre"),
        ("plain", 1, "rms", "pre"),
        ("plain", 2, "batch", "inner"),
        ("none", 1, "batch", "post"),
    ],
)
def test_residual_perceptrons_are_those_of_numpy(residual, layers, normalization, placement):
    """Every parameter moved at random first; a batch normalization sees the batch."""
    settings = {"residual": residual, "layers": layers, "normalization": normalization, "placement": placement}
    module = unsettled(
        made(
            ResidualMlp, 192, CLASSES, depth=3, width=10, activation=activations.tanh, alpha=0.4, init=still, **settings
        )
    )
    p, x = params(module), inputs(PICTURE)
    norm = NORMS.get(normalization, lambda z, *_: z)
    skip, factor = FACTORS[residual]
    z = dense(x.reshape(6, -1).astype(np.float64), p, "stem")
    for i in range(3):
        name = f"blocks.{i}"
        branch = norm(z, p, f"{name}.before") if placement == "pre" else z
        inner = norm if placement == "inner" else None
        branch = stacked(branch, p, f"{name}.inner", layers, np.tanh, lambda z, p, n, _: dense(z, p, n), inner)
        z = skip * z + (p[f"{name}.factor"] if factor is None else factor) * branch
        z = norm(z, p, f"{name}.after") if placement == "post" else z
    z = norm(z, p, "norm") if placement == "pre" else z
    np.testing.assert_allclose(called(module, x), dense(z, p, "head"), rtol=2e-4, atol=2e-4)


def convolved(x, kernel, stride, circular):
    """By loops over the output's pixels; padding as XLA's ``SAME`` has it, or as Flax's ``CIRCULAR``."""
    side = kernel.shape[0]
    size = x.shape[1]
    out = -(-size // stride) if not circular else (size - 1) // stride + 1
    before = (side - 1) // 2 if circular else max((out - 1) * stride + side - size, 0) // 2
    found = np.zeros((len(x), out, out, kernel.shape[-1]))
    for i, j, a, b in itertools.product(range(out), range(out), range(side), range(side)):
        row, column = i * stride + a - before, j * stride + b - before
        if circular:
            row, column = row % size, column % size
        if 0 <= row < size and 0 <= column < size:
            found[:, i, j] += x[:, row, column] @ kernel[a, b]
    return found


@pytest.mark.parametrize(("padding", "pool", "kernel"), [("circular", "mean", 3), ("same", "none", 2)])
def test_convolutional_networks_are_those_of_numpy(padding, pool, kernel):
    settings = {"channels": (6, 7), "strides": (2,), "kernel": kernel, "padding": padding, "pool": pool}
    module = unsettled(made(Cnn, PICTURE, CLASSES, activation=activations.tanh, init=still, **settings))
    p, x = params(module), inputs(PICTURE)
    z = x.astype(np.float64)
    for i, stride in enumerate((2, 1)):
        z = convolved(z, p[f"layers.{i}.kernel"], stride, padding == "circular") + p[f"layers.{i}.bias"]
        z = np.tanh(z)
    z = z.mean(axis=(1, 2)) if pool == "mean" else z.reshape(6, -1)
    np.testing.assert_allclose(called(module, x), dense(z, p, "head"), rtol=2e-4, atol=2e-4)


def test_residual_networks_are_those_of_numpy():
    """Batch statistics, three stages, shortcuts without weights."""
    module = unsettled(made(ResNet, PICTURE, CLASSES, n=1, channels=3, init=still))
    p, x = params(module), inputs(PICTURE)

    def f(s):
        return np.maximum(s, 0)

    z = f(batch_norm(convolved(x.astype(np.float64), p["stem.kernel"], 1, False), p, "norm"))
    for i, stride in enumerate((1, 2, 2)):

        def apply(z, p, name, j, stride=stride):
            return convolved(z, p[f"{name}.kernel"], stride if j == 0 else 1, False)

        branch = stacked(z, p, f"blocks.{i}.inner", 2, f, apply, batch_norm)
        short = np.zeros_like(branch)
        short[..., : z.shape[-1]] = z[:, ::stride, ::stride]
        z = f(short + branch)
    np.testing.assert_allclose(called(module, x), dense(z.mean(axis=(1, 2)), p, "head"), rtol=1e-3, atol=1e-3)


def attended(z, p, name, causal, power):
    q, k, v = (
        np.einsum("bld,dhe->blhe", z, p[f"{name}.{part}.kernel"]) + p[f"{name}.{part}.bias"]
        for part in ("query", "key", "value")
    )
    logits = np.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** power
    if causal:
        logits = np.where(np.tril(np.ones(logits.shape[-2:])) > 0, logits, -np.inf)
    mixed = np.einsum("bhqk,bkhe->bqhe", scipy.special.softmax(logits, axis=-1), v)
    return np.einsum("blhe,hed->bld", mixed, p[f"{name}.out.kernel"]) + p[f"{name}.out.bias"]


def embedded(x, p, settings):
    if settings.get("architecture") == "decoder":
        return p["embedding.table"][x.astype(int)] + p["embedding.positions"]
    patches = [x[:, i : i + 4, j : j + 4].reshape(len(x), -1) for i in (0, 4) for j in (0, 4)]
    z = dense(np.stack(patches, axis=1).astype(np.float64), p, "embedding.projection")
    if settings["pool"] == "class":
        z = np.concatenate([np.tile(p["embedding.class_token"], (len(x), 1, 1)), z], axis=1)
    return z + p["embedding.positions"]


@pytest.mark.parametrize(
    ("settings", "skip"),
    [
        (ENCODER | {"pool": "mean", "normalization": "rms"}, 1),
        (ENCODER | {"pool": "class", "normalization": "none", "residual": "tfixup"}, 1),
        (DECODER | {"attention": "mup"}, 1),
        (DECODER | {"residual": "deepnorm", "placement": "post"}, 4**0.25),
    ],
)
def test_transformers_are_those_of_numpy(settings, skip):
    shape = (3,) if settings.get("architecture") == "decoder" else PICTURE
    module = unsettled(made(Transformer, shape, CLASSES, activation=activations.gelu, init=still, **settings))
    p, x = params(module), inputs(shape)
    norm = NORMS.get(settings.get("normalization", "layer"), lambda z, *_: z)
    post = settings.get("placement") == "post"
    causal, power = shape == (3,), 1 if settings.get("attention") == "mup" else 0.5

    def gelu(s):
        return s * scipy.special.ndtr(s)

    def attention(z, name):
        return attended(z, p, f"{name}.inner.heads", causal, power)

    def perceptron(z, name):
        return stacked(z, p, f"{name}.inner", 2, gelu, lambda z, p, n, _: dense(z, p, n))

    z = embedded(x, p, settings)
    for i in range(2):
        for part, branch in (("attention", attention), ("perceptron", perceptron)):
            name = f"blocks.{i}.{part}"
            z = skip * z + branch(z if post else norm(z, p, f"{name}.before"), name)
            z = norm(z, p, f"{name}.after") if post else z
    z = z if post else norm(z, p, "norm")
    pooled = z[:, -1] if causal else z.mean(axis=1) if settings["pool"] == "mean" else z[:, 0]
    np.testing.assert_allclose(called(module, x), dense(pooled, p, "head"), rtol=5e-4, atol=5e-4)


# ---- what their sources say


@pytest.mark.parametrize(("n", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85)])
def test_residual_networks_have_the_sources_number_of_parameters(n, millions):
    """He et al. (2015), table 6: 20, 32, 44 and 56 layers, for ten classes of 32×32 colour pictures."""
    module = nnx.eval_shape(lambda: make(ResNet, (32, 32, 3), 10, n=n))
    leaves = {".".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(module, nnx.Param))}
    assert sum("kernel" in path for path in leaves) == 6 * n + 2
    assert sum(math.prod(v.shape) for v in leaves.values()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_a_decoder_does_not_see_what_comes_later():
    """And its last token sees all."""
    module = made(Transformer, (3,), CLASSES, **DECODER)
    x = np.array([[1, 2, 6], [1, 5, 6], [1, 5, 3]], np.float32)
    stream = np.asarray(called(module, x, forward_with_values)[1]["blocks.1.perceptron.stream"])
    np.testing.assert_array_equal(stream[0, 0], stream[1, 0])
    np.testing.assert_array_equal(stream[1, :2], stream[2, :2])
    assert (np.abs(stream[0, 1:] - stream[1, 1:]).max(axis=-1) > 1e-3).all()


def test_networks_show_branches_streams_and_attention():
    module = made(Transformer, (3,), CLASSES, **DECODER | {"depth": 1})
    with noted(module) as told:
        _, values = forward_with_values(module, inputs((3,)))
    assert told().points == (
        "input",
        "embedded",
        "blocks.0.attention.inner.heads.logits",
        "blocks.0.attention.branch",
        "blocks.0.attention.stream",
        "blocks.0.perceptron.inner.hidden1_preactivation",
        "blocks.0.perceptron.inner.hidden1",
        "blocks.0.perceptron.branch",
        "blocks.0.perceptron.stream",
        "logits",
        "output",
    )
    assert values["blocks.0.attention.inner.heads.logits"].shape == (6, 2, 3, 3)
    attention = values["blocks.0.attention.branch"] + values["embedded"]
    np.testing.assert_allclose(values["blocks.0.attention.stream"], attention, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, "SAME"), (3, 2, "SAME"), (2, 2, "VALID"), (1, 2, "SAME")]
)
def test_convolutions_over_patches_are_xlas_own(size, stride, padding):
    """Values and both gradients, vmapped over runs."""
    draw = np.random.default_rng(0)
    x, w = (draw.normal(size=s).astype(np.float32) for s in ((2, 3, 7, 7, 4), (2, size, size, 4, 5)))
    dims = ("NHWC", "HWIO", "NHWC")

    def pulled(function):
        def one(x, w):
            out, back = jax.vjp(lambda x, w: function(x, w, (stride,) * 2, padding, dimension_numbers=dims), x, w)
            return out, *back(jnp.cos(out))

        return jax.jit(jax.vmap(one))(x, w)

    for own, builtin in zip(pulled(convolve), pulled(jax.lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(own, builtin, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "line"),
    [
        (ResidualMlp, {"depth": 0}, "model.depth: 0 is not an integer ≥ 1"),
        (ResidualMlp, {"residual": "rezro"}, "model.residual: 'rezro' is not known\n  hint: 'rezero'?"),
        (
            ResidualMlp,
            {"residual": "fixup", "layers": 1},
            "model.residual: 'fixup' wants branches of at least 2",
        ),
        (
            ResidualMlp,
            {"residual": "fixup", "normalization": "layer"},
            "model.residual: 'fixup' goes with",
        ),
        (
            ResidualMlp,
            {"residual": "deepnorm"},
            "model.residual: 'deepnorm' wants a normalization and",
        ),
        (Cnn, {"channels": (4,), "strides": (2, 2)}, "model.strides: 2 strides for 1 convolutions"),
        (Cnn, {"pool": "max"}, "model.pool: 'max' is not known"),
        (ResNet, {"normalization": "layer"}, "model.normalization: 'layer' is not known"),
        (Transformer, {"width": 10, "heads": 4}, "model.heads: 4 does not divide the width 10"),
        (Transformer, {"patch": 3}, "model.patch: 3 does not divide images of 8×8"),
        (Transformer, {"residual": "tfixup"}, "model.residual: 'tfixup' goes with normalization='none'"),
        (Transformer, {"architecture": "decoder"}, "model: a decoder wants tokens [length], not inputs [8, 8, 3]"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(kind, settings, line):
    first = 192 if kind is ResidualMlp else PICTURE
    with pytest.raises(InputError) as error:
        nnx.eval_shape(lambda: make(kind, first, CLASSES, init=initializers.he_normal, **settings))
    assert str(error.value).startswith(line)
