"""Residual networks for small pictures: 6n + 2 layers in three stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glorot_jax.models.choices import PictureNormalization, PictureScheme, Readout, check_choice
from glorot_jax.models.convolution import conv, image_shape
from glorot_jax.models.points import show_layer
from glorot_jax.models.precision import dot_general
from glorot_jax.models.residual import (
    Number,
    Residual,
    Stack,
    check_counts,
    norm_layer,
    readout_init,
    scaled,
    scheme,
)


class ResNet(nnx.Module):
    """Logits of a 3×3 convolution, 3n residual blocks of two, a mean over all positions, and a dense layer.

    The second and the third stage halve height and width and double the channels; their first blocks' shortcuts take
    every second pixel and fill new channels with 0, so that a shortcut has no weights (option A of the source). An
    activation follows each sum, and a normalization each convolution.

    Args:
        shape, classes: of an image (height, width, channels), and size of the output.
        n: residual blocks of a stage; the network has 6n + 2 weight layers, 20 with n = 3.
        channels: of the first stage; 16 in the source.
        normalization: ``"batch"`` or ``"none"``.
        residual: one of ``residual.SCHEMES`` but ``"deepnorm"``.
        readout, alpha, gain: as of ``ResidualMlp``.

    Raises:
        InputError: an argument is none of these, or inputs are no images.

    Source: He et al. (2015), arXiv:1512.03385, section 4.2.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        n: int = 3,
        channels: int = 16,
        normalization: str = "batch",
        residual: str = "plain",
        readout: str = "init",
        alpha: Number = 0.0,
        gain: Number = 1.0,
        activation: Callable[[Array], Array],
        init: Callable[..., Array],
        rngs: nnx.Rngs,
    ):
        colours = image_shape("resnet", shape)[2]
        check_counts(n=n, channels=channels)
        check_choice("normalization", normalization, PictureNormalization)
        check_choice("residual", residual, PictureScheme)
        check_choice("readout", readout, Readout)
        says = scheme(residual, branches=3 * n, layers=2, normalization=normalization, placement="inner")

        def convolution(size_in: int, size_out: int, stride: int, factor: float) -> nnx.Conv:
            weights = scaled(init, factor, gain)
            use_bias = normalization == "none" and not says.scalars
            return conv(size_in, size_out, 3, stride=stride, init=weights, use_bias=use_bias, rngs=rngs)

        def block(size_in: int, size_out: int, stride: int) -> Residual:
            inner = Stack(
                [convolution(size_in, size_out, stride, says.inner), convolution(size_out, size_out, 1, says.last)],
                activation,
                norms=[norm_layer(normalization, size_out, rngs=rngs) for _ in range(2)],
                scalars=says.scalars,
            )
            shortcut = Shortcut(size_out) if stride > 1 else None
            return Residual(inner, says, alpha=alpha, shortcut=shortcut, activation=activation)

        self.activation = activation
        self.stem = convolution(colours, channels, 1, 1.0)
        self.norm = norm_layer(normalization, channels, rngs=rngs)
        sizes = [channels] * n + [2 * channels] * n + [4 * channels] * n
        self.blocks = nnx.List(
            block(size_in, size_out, 1 + (size_in != size_out))
            for size_in, size_out in zip([channels, *sizes], sizes, strict=False)
        )
        self.head = nnx.Linear(
            4 * channels,
            classes,
            kernel_init=readout_init(readout, init, says.output, gain),
            dot_general=dot_general,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        s = self.stem(x.reshape(*x.shape[:3], -1))
        z = show_layer(self, "hidden", s if self.norm is None else self.norm(s), self.activation)
        for block in self.blocks:
            z = block(z)
        return show_layer(self, "logits", self.head(jnp.mean(z, axis=(1, 2))))


class Shortcut(nnx.Module):
    """Every second pixel, and 0 in new channels."""

    def __init__(self, channels: int):
        self.channels = channels

    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch rows columns out"]:
        x = x[:, ::2, ::2]
        return jnp.pad(x, ((0, 0),) * 3 + ((0, self.channels - x.shape[-1]),))
