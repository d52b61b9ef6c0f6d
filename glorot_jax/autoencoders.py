"""Denoising auto-encoders with tied weights: what one layer learns from its inputs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from glorot_jax.models.mlp import product, transposed_product
from glorot_jax.rounding import mean_square


class AutoEncoder(NamedTuple):
    """Parameters of a layer and of its decoder.

    Attributes:
        weight: W, shared by both.
        bias: b of the layer.
        visible_bias: c of the decoder.
    """

    weight: Float[Array, "fan_in fan_out"]
    bias: Float[Array, "fan_out"]
    visible_bias: Float[Array, "fan_in"]


def kept(key: Key[Array, ""], noise: Float[Array, ""], shape: tuple[int, int]) -> Bool[Array, "batch fan_in"]:
    """Returns which numbers masking noise leaves as they are: each by itself with probability 1 − ``noise``.

    Source: Vincent et al. (2008), ICML, section 2.2.
    """
    return jax.random.uniform(key, shape) >= noise


def reconstruction(
    parameters: AutoEncoder, activation: Callable[[Array], Array], z: Float[Array, "batch fan_in"]
) -> Float[Array, "batch fan_in"]:
    """Returns f(z W + b) Wᵀ + c.

    Source: Vincent et al. (2010), JMLR 11, section 2.2: a linear decoder goes with squared error on real values.
    """
    weight, bias, visible_bias = parameters
    return transposed_product(activation(product(z, weight) + bias), weight) + visible_bias


def error_and_gradient(
    parameters: AutoEncoder,
    activation: Callable[[Array], Array],
    z: Float[Array, "batch fan_in"],
    kept: Bool[Array, "batch fan_in"],
) -> tuple[Float[Array, ""], AutoEncoder]:
    """Returns the error of z reconstructed from what is kept of it, and the gradient of the cost.

    The error is the mean of (y_j − z_j)² over the mini-batch and its units j; the cost sums over j and averages over
    the mini-batch alone, so that it is the error times the number of units.

    Source: Vincent et al. (2008), ICML, section 2.3; (2010), JMLR 11, section 2.2, for the squared error.
    """
    corrupted = jnp.where(kept, z, 0)
    found, back = jax.vjp(lambda p: reconstruction(p, activation, corrupted), parameters)
    off = found - z
    (gradient,) = back(off * jnp.float32(2 / len(z)))
    return mean_square(off.ravel()), gradient
