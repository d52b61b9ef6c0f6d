"""A step of gradient descent layer by layer, against jax.grad of the whole network with Optax's own SGD."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import activations, losses
from glorot_jax.kernels import chain, dense

pytestmark = pytest.mark.usefixtures("compiled_quickly")

XLA = dense.kernel("xla")


def drawn(runs: int, batch: int, sizes: tuple[int, ...]):
    """Layers of so many runs, biases not 0; batches and labels."""
    draw = np.random.default_rng(1)

    def normal(*shape, scale=1.0):
        return draw.normal(0, scale, (runs, *shape)).astype(np.float32)

    layers = [(normal(a, b, scale=a**-0.5), normal(b, scale=0.1)) for a, b in itertools.pairwise(sizes)]
    return layers, normal(batch, sizes[0]), draw.integers(0, sizes[-1], (runs, batch)).astype(np.int32)


def by_descent(layers, x, labels, rate, goes_on=True, *, function=jnp.tanh, loss=losses.nll, kernel=XLA):
    logits, updated = chain.descent(x, layers, [function] * (len(layers) - 1), kernel)
    value, pull = jax.vjp(lambda logits: jnp.mean(loss(logits, labels)), logits)
    return updated(pull(-rate)[0], jnp.isfinite(value) & goes_on)


def by_gradient(layers, x, labels, rate, *, function, loss):
    def cost(layers):
        z = x
        for w, b in layers[:-1]:
            z = function(jnp.matmul(z, w, precision="highest") + b)
        w, b = layers[-1]
        return jnp.mean(loss(jnp.matmul(z, w, precision="highest") + b, labels))

    updates, _ = optax.sgd(rate).update(jax.grad(cost)(layers), optax.sgd(rate).init(layers))
    return optax.apply_updates(layers, updates)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    runs=st.integers(1, 3),
    batch=st.sampled_from([1, 2, 10, 32, 33, 50]),
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    function=st.sampled_from([activations.tanh, activations.softsign, activations.relu, activations.gelu]),
    loss=st.sampled_from([losses.nll, losses.quadratic]),
)
def test_any_chain_and_batch_gets_the_update_of_its_gradient(runs, batch, sizes, function, loss):
    """Any depth, no hidden layer too; layers of one unit; batches on both sides of ``SMALL_BATCH``."""
    layers, x, labels = drawn(runs, batch, (*sizes, 4))
    kinds = {"function": function, "loss": loss}

    @jax.jit
    @jax.vmap
    def both(*arguments):
        return by_descent(*arguments, **kinds), by_gradient(*arguments, **kinds)

    one, other = both(layers, x, labels, jnp.geomspace(0.1, 2.0, runs))
    for mine, truth in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(mine, truth, rtol=2e-5, atol=2e-6)
    assert not np.array_equal(one[-1][1], layers[-1][1]), "something was learnt"


@pytest.mark.parametrize("name", ["xla", "native"])
def test_a_run_that_does_not_go_on_keeps_every_bit_and_its_neighbours_theirs(name):
    """Infinite inputs, and weights that are infinite or not a number."""
    if (missing := dense.why_not(name)) is not None:
        pytest.skip(missing)
    layers, x, labels = drawn(5, 10, (6, 7, 5, 4))
    rates, step = jnp.full(5, 0.1), jax.jit(jax.vmap(functools.partial(by_descent, kernel=dense.kernel(name))))
    healthy = step(layers, x, labels, rates, np.ones(5, bool))
    x[1] = np.inf
    layers[1][0][2] = np.nan
    layers[2][0][3, 0] = np.inf
    after = step(layers, x, labels, rates, np.array([True, True, False, False, True]))
    for new, before, well in zip(*map(jax.tree.leaves, (after, layers, healthy)), strict=True):
        for lost in (1, 2, 3):
            assert np.asarray(new[lost]).tobytes() == before[lost].tobytes()
        for alive in (0, 4):
            assert np.asarray(new[alive]).tobytes() == np.asarray(well[alive]).tobytes()
            assert not np.array_equal(new[alive], before[alive])


@pytest.mark.parametrize("input_error", [True, False])
@pytest.mark.parametrize("batch", [1, 10, 50])
def test_both_passes_are_those_of_float64(batch, input_error):
    """The error below comes of the weights before their update."""
    draw = np.random.default_rng(5)
    z, error, w, b = (draw.normal(size=s).astype(np.float32) for s in ((2, batch, 7), (2, batch, 4), (2, 7, 4), (2, 4)))
    below, new_w, new_b = jax.jit(jax.vmap(lambda *a: XLA.backward_update(*a, input_error=input_error)))(z, error, w, b)
    s = jax.jit(jax.vmap(XLA.forward))(z, w, b)
    z, error, w, b = (a.astype(np.float64) for a in (z, error, w, b))
    np.testing.assert_allclose(s, z @ w + b[:, None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new_w, w + z.mT @ error, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new_b, b + error.sum(1), rtol=1e-5, atol=1e-5)
    assert (below is not None) == input_error
    if input_error:
        np.testing.assert_allclose(below, error @ w.mT, rtol=1e-5, atol=1e-5)
