"""Products in a chosen precision: the numbers that they should be, and where the choice holds."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glorot_jax import activations
from glorot_jax.kernels.dense import SMALL_BATCH
from glorot_jax.models import precision
from glorot_jax.models.convolution import convolve
from glorot_jax.models.mlp import Dense, product, transposed_product
from glorot_jax.models.precision import adopt, products_in

BATCHES = (10, SMALL_BATCH + 8)
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def nearest(x) -> np.ndarray:
    """The nearest bfloat16 to each float32, ties to even, by its bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def off(found, expected) -> float:
    """The norm of the difference, relative to what is expected."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def pulled(function, *arguments):
    """The value, and what an error signal of normal numbers gives of each argument."""
    value, pull = jax.vjp(function, *arguments)
    error = normal(*value.shape, seed=1)
    return error, value, pull(jnp.asarray(error))


def convolved(x, w):
    return convolve(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("batch", BATCHES)
def test_bfloat16_products_are_those_of_rounded_factors_summed_up_in_float32(batch):
    z, w, turned = normal(batch, 300), normal(300, 70), normal(batch, 70)
    with products_in("bfloat16"):
        error, s, (below, gradient) = pulled(product, z, w)
        error_t, back, (below_t, gradient_t) = pulled(transposed_product, turned, w)
    nz, nw, nt, ne, net = map(nearest, (z, w, turned, error, error_t))
    for found, expected in (
        (s, nz @ nw),
        (below, ne @ nw.T),
        (gradient, nz.T @ ne),
        (back, nt @ nw.T),
        (below_t, net @ nw),
        (gradient_t, net.T @ nt),
    ):
        assert found.dtype == jnp.float32
        assert off(found, expected) < 1e-6
    assert off(s, z.astype(np.float64) @ w) > 1e-3


def test_a_network_learns_by_the_bfloat16_gradient():
    """Two dense layers against the same in float64, rounded by hand where they multiply."""
    x, first, second, b = normal(20, 50), normal(50, 40) / 7, normal(40, 6) / 6, normal(40) / 5

    def cost(first, second, b):
        one, other = Dense(first), Dense(second)
        one.bias[...] = b
        return 0.5 * jnp.sum(other(activations.tanh(one(x))) ** 2)

    with products_in("bfloat16"):
        found = jax.grad(cost, argnums=(0, 1, 2))(first, second, b)
    z = np.tanh(nearest(x) @ nearest(first) + b)
    out = nearest(z) @ nearest(second)
    error = nearest(out) @ nearest(second).T * (1 - z**2)
    expected = nearest(x).T @ nearest(error), nearest(z).T @ nearest(out), error.sum(0)
    for gradient, truth, exact in zip(
        found, expected, jax.grad(cost, argnums=(0, 1, 2))(first, second, b), strict=True
    ):
        assert off(gradient, truth) < 3e-4 < 1e-3 < off(exact, truth)


@pytest.mark.parametrize("layer", ["linear", "convolution", "attention"])
def test_all_our_layers_round_the_same_way(layer):
    if layer == "linear":
        x, w = normal(8, 30), normal(30, 20)
        function = lambda x, w: precision.dot_general(x, w, (((1,), (0,)), ((), ())))  # noqa: E731
    elif layer == "convolution":
        function, x, w = convolved, normal(4, 8, 8, 3), normal(3, 3, 3, 5)
    else:
        x, w = normal(2, 7, 3, 16), normal(2, 9, 3, 16)
        function = lambda x, w: precision.einsum("bqhd,bkhd->bhqk", x, w)  # noqa: E731
    with products_in("bfloat16"):
        error, value, gradients = pulled(function, x, w)
    _, plain, _ = pulled(function, *(nearest(v).astype(np.float32) for v in (x, w)))
    pull = jax.vjp(function, *(jnp.asarray(nearest(v), jnp.float32) for v in (x, w)))[1]
    for found, expected in zip(
        (value, *gradients), (plain, *pull(jnp.asarray(nearest(error), jnp.float32))), strict=True
    ):
        assert off(found, np.asarray(expected, np.float64)) < 1e-6
    assert off(value, np.asarray(function(x, w), np.float64)) > 1e-3


def lowered(function, *arguments) -> str:
    return jax.jit(jax.grad(lambda *a: jnp.sum(function(*a) ** 2), argnums=(0, 1))).lower(*arguments).as_text()


def test_the_program_asks_for_the_precision_in_every_product_there_and_back():
    z, w, x, kernel = normal(BATCHES[1], 6), normal(6, 5), normal(2, 8, 8, 3), normal(3, 3, 3, 4)
    for function, arguments in ((product, (z, w)), (convolved, (x, kernel))):
        for name, asked in (("float32", "HIGHEST"), ("tensorfloat32", "HIGH")):
            with products_in(name):
                text = lowered(function, *arguments)
            assert text.count("stablehlo.dot_general") >= 3
            assert set(re.findall(r"precision = \[(\w+), (\w+)\]", text)) == {(asked, asked)}
        with products_in("bfloat16"):
            text = lowered(function, *arguments)
        products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        assert all("lhs_precision_type = bf16" in line and "accumulation_type = f32" in line for line in products)
        assert set(re.findall(r"precision = \[(\w+), (\w+)\]", lowered(function, *arguments))) == {("HIGHEST",) * 2}


def test_on_a_cpu_tensorfloat32_is_float32_to_the_last_bit_and_is_said_to_be():
    z, w = normal(10, 300), normal(300, 70)
    bits = []
    for name in ("float32", "tensorfloat32"):
        with products_in(name):
            _, value, gradients = jax.jit(lambda z, w: pulled(product, z, w))(z, w)
        bits.append([v.tobytes() for v in (value, *gradients)])
    assert bits[0] == bits[1]
    assert precision.said("tensorfloat32", "cpu") == "float32 (tensorfloat32 is not known to a CPU)"
    assert precision.said("tensorfloat32", "tpu").startswith("three products of bfloat16 (")
    assert [precision.said(name, "gpu") for name in PRECISIONS] == list(PRECISIONS)


def test_layers_of_others_follow_unless_they_name_a_precision_themselves():
    class Theirs(nnx.Module):
        def __init__(self, **named):
            self.dense = nnx.Linear(30, 20, use_bias=False, rngs=nnx.Rngs(0), **named)
            self.convolution = nnx.Conv(3, 5, (3, 3), use_bias=False, rngs=nnx.Rngs(0), **named)
            self.contraction = nnx.Einsum("bi,io->bo", (30, 20), rngs=nnx.Rngs(0), **named)

    x, pictures = normal(8, 30), normal(4, 8, 8, 3)
    for named, follows in (({}, True), ({"precision": jax.lax.Precision.HIGHEST}, False)):
        own = Theirs(**named)
        with products_in("bfloat16"):
            changed = adopt(Theirs(**named))
            found = changed.dense(x), changed.contraction(x), changed.convolution(pictures)
        exact = own.dense(x), own.contraction(x), own.convolution(pictures)
        for one, other in zip(found, exact, strict=True):
            difference = off(one, np.asarray(other, np.float64))
            assert difference > 1e-3 if follows else difference == 0
    own = Theirs()
    with products_in("tensorfloat32"):
        assert "precision = [HIGH, HIGH]" in jax.jit(lambda a: own.dense(a)).lower(x).as_text()
        assert adopt(own) is own


def test_what_a_person_set_for_jax_holds_for_products_of_others_alone():
    z, w = normal(4, 6), normal(6, 5)
    with jax.default_matmul_precision("tensorfloat32"), products_in("float32"):
        assert "[HIGH, HIGH]" in jax.jit(jnp.matmul).lower(z, w).as_text()
        assert "[HIGHEST, HIGHEST]" in jax.jit(product).lower(z, w).as_text()
    with products_in("float32"):
        assert "[HIGHEST, HIGHEST]" in jax.jit(jnp.matmul).lower(z, w).as_text()
