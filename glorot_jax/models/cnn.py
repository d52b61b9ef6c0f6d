"""Plain convolutional networks, as the mean-field theory of convolutions has them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glorot_jax.errors import InputError
from glorot_jax.models.choices import ImagePool, Normalization, Padding, Readout, check_choice
from glorot_jax.models.convolution import conv, image_shape
from glorot_jax.models.points import show_layer
from glorot_jax.models.precision import dot_general
from glorot_jax.models.residual import (
    Number,
    check_counts,
    norm_layer,
    readout_init,
    scaled,
)


class Cnn(nnx.Module):
    """Logits of convolutions with an activation each, a mean over all positions, and a dense layer.

    Args:
        shape, classes: of an image (height, width, channels), and size of the output.
        channels: of each convolution, in order.
        kernel: side of the kernels in pixels.
        strides: of the first convolutions; those that are not named have stride 1.
        padding: ``"circular"`` lets images go on at the other side, as in the theory; ``"same"`` puts 0 around.
        pool: ``"mean"`` over all positions before the dense layer, or ``"none"``: it sees them all.
        normalization: ``"none"``, ``"batch"``, ``"layer"`` or ``"rms"``, between convolution and activation.
        readout: initial weights of the dense layer, as of ``ResidualMlp``.
        gain: factor on all initial weights.

    Raises:
        InputError: an argument is none of these, or inputs are no images.

    Source: Xiao et al. (2018), arXiv:1806.05393, sections 2.1 and 3.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        channels: Sequence[int] = (32,) * 6,
        kernel: int = 3,
        strides: Sequence[int] = (2, 2),
        padding: str = "circular",
        pool: str = "mean",
        normalization: str = "none",
        readout: str = "init",
        gain: Number = 1.0,
        activation: Callable[[Array], Array],
        init: Callable[..., Array],
        rngs: nnx.Rngs,
    ):
        height, width, colours = image_shape("cnn", shape)
        check_counts(kernel=kernel, **{f"channels.{i}": c for i, c in enumerate(channels)})
        check_counts(**{f"strides.{i}": s for i, s in enumerate(strides)})
        if not channels or len(strides) > len(channels):
            raise InputError(f"model.strides: {len(strides)} strides for {len(channels)} convolutions")
        check_choice("padding", padding, Padding)
        check_choice("pool", pool, ImagePool)
        check_choice("normalization", normalization, Normalization)
        check_choice("readout", readout, Readout)
        steps = (*strides, *(1,) * (len(channels) - len(strides)))
        settings = {"padding": padding.upper(), "init": scaled(init, gain), "rngs": rngs}
        self.pool, self.activation = pool, activation
        self.layers = nnx.List(
            conv(c_in, c_out, kernel, stride=s, **settings)
            for (c_in, c_out), s in zip(itertools.pairwise((colours, *channels)), steps, strict=True)
        )
        self.norms = nnx.List(norm_layer(normalization, c, rngs=rngs) for c in channels)
        for s in steps:
            height, width = -(-height // s), -(-width // s)
        self.head = nnx.Linear(
            channels[-1] * (1 if pool == "mean" else height * width),
            classes,
            kernel_init=readout_init(readout, init, gain),
            dot_general=dot_general,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        z = x.reshape(*x.shape[:3], -1)
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True), start=1):
            s = layer(z)
            z = show_layer(self, f"hidden{i}", s if norm is None else norm(s), self.activation)
        z = jnp.mean(z, axis=(1, 2)) if self.pool == "mean" else z.reshape(len(z), -1)
        return show_layer(self, "logits", self.head(z))
