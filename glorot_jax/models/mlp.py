"""Multi-layer perceptrons as in Glorot & Bengio (2010), section 2.3: dense layers, one activation, a linear output."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer, Key

from glorot_jax import initializers
from glorot_jax.kernels import chain
from glorot_jax.kernels.dense import Kernel, contracted, outer_products
from glorot_jax.models.points import Activation, show_layer


class Dense(nnx.Module):
    """s = z W + b, with W [fan_in, fan_out] and b = 0 at the start."""

    def __init__(self, kernel: Float[Array, "fan_in fan_out"]):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(kernel.shape[1:], kernel.dtype))

    def __call__(self, z: Float[Array, "batch fan_in"]) -> Float[Array, "batch fan_out"]:
        return product(z, self.kernel[...]) + self.bias[...]


@jax.custom_vjp
def product(z: Float[Array, "batch fan_in"], w: Float[Array, "fan_in fan_out"]) -> Float[Array, "batch fan_out"]:
    """Returns z W in the precision in force.

    Its own backward rule gives ∂C/∂W of a small batch as a sum of outer products, which XLA works into the update that
    reads it: one pass over the weights, no gradient stored. Of a large batch it is a matrix product.
    """
    return contracted(z, w, 1, 0)


def _product_forward(z: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return contracted(z, w, 1, 0), (z, w)


def _product_backward(saved: tuple[Array, Array], error: Array) -> tuple[Array, Array]:
    z, w = saved
    return contracted(error, w, 1, 1), outer_products(z, error)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def transposed_product(
    h: Float[Array, "batch fan_out"], w: Float[Array, "fan_in fan_out"]
) -> Float[Array, "batch fan_in"]:
    """Returns h Wᵀ in the precision in force, with a backward rule like that of ``product``."""
    return contracted(h, w, 1, 1)


def _transposed_forward(h: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return contracted(h, w, 1, 1), (h, w)


def _transposed_backward(saved: tuple[Array, Array], error: Array) -> tuple[Array, Array]:
    h, w = saved
    return contracted(error, w, 1, 0), outer_products(error, h)


transposed_product.defvjp(_transposed_forward, _transposed_backward)


class Mlp(nnx.Module):
    """Logits of a dense network; the softmax belongs to the loss.

    Args:
        shape: of one input, (features,).
        classes: size of the output.
        widths: sizes of the hidden layers.
        activation, init: the functions that this cohort's runs choose from.
        activation_index, init_index, gain: this run's choices, and the factor on its initial weights.
        key: source of the initial weights; layer i draws from ``fold_in(key, i)``.
        inputs: a batch for initializers that look at data.

    Source: Glorot & Bengio (2010), section 2.3; initial biases are 0 as there.
    """

    def __init__(
        self,
        shape: tuple[int],
        classes: int,
        *,
        widths: Sequence[int],
        activation: tuple[Callable, ...],
        init: tuple[Callable, ...],
        activation_index: Integer[Array, ""],
        init_index: Integer[Array, ""],
        gain: Float[Array, ""],
        key: Key[Array, ""],
        inputs: Float[Array, "batch features"],
    ):
        self.activation = Activation(activation, activation_index)
        sizes = (*shape, *widths, classes)
        layers, z = [], inputs
        for i, shape in enumerate(itertools.pairwise(sizes), start=1):
            layer = initializers.LayerInfo(index=i, depth=len(sizes) - 1)
            kernel = initializers.select(init_index, init, jax.random.fold_in(key, i), shape, layer=layer, inputs=z)
            layers.append(Dense(gain * kernel))
            if any(initializers.needs_inputs(f) for f in init):
                z = self.activation(layers[-1](z))
            else:
                z = jnp.zeros((1, shape[1]), jnp.float32)  # nobody looks
        self.layers = nnx.List(layers)

    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        z = x
        *hidden, last = self.layers
        for i, layer in enumerate(hidden, start=1):
            z = show_layer(self, f"hidden{i}", layer(z), self.activation, kernel=layer.kernel, bias=layer.bias)
        return show_layer(self, "logits", last(z), kernel=last.kernel, bias=last.bias)

    def descent(
        self, x: Float[Array, "batch features"], kernel: Kernel
    ) -> tuple[Float[Array, "batch classes"], Callable[[Array, Array], None]]:
        """Returns the logits, and what takes a step of gradient descent; see ``kernels.chain``."""
        layers = [(layer.kernel[...], layer.bias[...]) for layer in self.layers]
        logits, updated = chain.descent(x, layers, self.activation, kernel)

        def update(error: Float[Array, "batch classes"], goes_on: Bool[Array, ""]) -> None:
            for layer, (w, b) in zip(self.layers, updated(error, goes_on), strict=True):
                layer.kernel[...], layer.bias[...] = w, b

        return logits, update
