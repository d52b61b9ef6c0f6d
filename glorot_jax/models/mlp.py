"""Multi-layer perceptrons as in Glorot & Bengio (2010), section 2.3: dense layers, one activation, a linear output."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer, Key

from glorot_jax import initializers
from glorot_jax.branches import if_any
from glorot_jax.kernels import chain
from glorot_jax.kernels.dense import Kernel, contracted, outer_products
from glorot_jax.models.points import Activation, Hyper, show_layer


class Dense(nnx.Module):
    """s = z W + b, with W [fan_in, fan_out] and b = 0 at the start."""

    def __init__(self, kernel: Float[Array, "fan_in fan_out"]):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(kernel.shape[1:], kernel.dtype))

    def __call__(
        self, z: Float[Array, "batch fan_in"], has: Bool[Array, ""] | None = None
    ) -> Float[Array, "batch fan_out"]:
        """Returns s; for a layer that the run may lack ``has`` says whether it is one of its own."""
        made = product(z, self.kernel[...]) if has is None else optional_product(has, z, self.kernel[...])
        return made + self.bias[...]


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
def optional_product(
    has: Bool[Array, ""], z: Float[Array, "batch fan_in"], w: Float[Array, "fan_in fan_out"]
) -> Float[Array, "batch fan_out"]:
    """Returns z W as ``product`` does; neither it nor its ∂C/∂z is computed for a block of runs that all lack it."""
    return _optional_forward(has, z, w)[0]


def _optional_forward(has: Array, z: Array, w: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return if_any(has, partial(contracted, a_axis=1, b_axis=0), z, w), (has, z, w)


def _optional_backward(saved: tuple[Array, Array, Array], error: Array) -> tuple[None, Array, Array]:
    has, z, w = saved
    below = if_any(has, partial(contracted, a_axis=1, b_axis=1), error, w)
    return None, below, outer_products(z, error)


optional_product.defvjp(_optional_forward, _optional_backward)


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
        depth: how many of the hidden layers, from the input on, this run's network has, in a program that it shares
            with deeper ones; all of them if None. Each layer above passes on what it is given, with weights of 0 whose
            gradient is 0. The output layer draws as that of a network of this depth does. No initializer may ask for
            ``layer`` then.

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
        depth: Integer[Array, ""] | None = None,
    ):
        self.activation = Activation(activation, activation_index)
        self.depth = None if depth is None else Hyper(depth)
        sizes = (*shape, *widths, classes)
        layers, z = [], inputs
        for i, shape in enumerate(itertools.pairwise(sizes), start=1):
            last = i == len(sizes) - 1
            layer = initializers.LayerInfo(index=i, depth=len(sizes) - 1) if depth is None else None
            number = i if depth is None or not last else depth + 1
            has = None if last else self._has(i)
            index = init_index if has is None else jnp.where(has, init_index, -1)
            kernel = initializers.select(index, init, jax.random.fold_in(key, number), shape, layer=layer, inputs=z)
            layers.append(Dense(gain * kernel))
            if any(initializers.needs_inputs(f) for f in init):
                above = self.activation(layers[-1](z))
                z = above if has is None else jnp.where(has, above, z)
            else:
                z = jnp.zeros((1, shape[1]), jnp.float32)  # nobody looks
        self.layers = nnx.List(layers)

    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        z = x
        *hidden, last = self.layers
        for i, layer in enumerate(hidden, start=1):
            has = self._has(i)
            z = show_layer(
                self,
                f"hidden{i}",
                layer(z, has),
                self.activation.where(has),
                kernel=layer.kernel,
                bias=layer.bias,
                around=None if has is None else (has, z),
            )
        return show_layer(self, "logits", last(z), kernel=last.kernel, bias=last.bias)

    def descent(
        self, x: Float[Array, "batch features"], kernel: Kernel
    ) -> tuple[Float[Array, "batch classes"], Callable[[Array, Array], None]]:
        """Returns the logits, and what takes a step of gradient descent; see ``kernels.chain``."""
        layers = [(layer.kernel[...], layer.bias[...]) for layer in self.layers]
        has = [self._has(i) for i in range(1, len(layers))]
        logits, updated = chain.descent(x, layers, [self.activation.where(h) for h in has], kernel, has)

        def update(error: Float[Array, "batch classes"], goes_on: Bool[Array, ""]) -> None:
            for layer, (w, b) in zip(self.layers, updated(error, goes_on), strict=True):
                layer.kernel[...], layer.bias[...] = w, b

        return logits, update

    def _has(self, i: int) -> Bool[Array, ""] | None:
        """Whether this run's network has the hidden layer i; None if every run's has, as the first always is."""
        return None if self.depth is None or i == 1 else self.depth[...] >= i
