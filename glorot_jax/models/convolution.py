"""Convolutions of images that many runs share a program for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glorot_jax.errors import InputError
from glorot_jax.models.precision import contract


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: str = "SAME",
    init: Callable[..., Array],
    use_bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Returns a square convolution of [batch, height, width, channels]; its kernel is [kernel, kernel, in, out]."""
    return nnx.Conv(
        channels_in,
        channels_out,
        (kernel, kernel),
        strides=stride,
        padding=padding,
        use_bias=use_bias,
        kernel_init=init,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def image_shape(model: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns (height, width, channels); grey images may come without the last.

    Raises:
        InputError: these are no images.
    """
    if len(shape) not in (2, 3):
        raise InputError(f"model: {model} wants images [height, width, channels], not inputs {list(shape)}")
    height, width, channels = (*shape, 1)[:3]
    return height, width, channels


def convolve(
    x: Float[Array, "batch height width in"],
    w: Float[Array, "rows columns in out"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    precision: None = None,
    **settings: Any,
) -> Float[Array, "batch height width out"]:
    """Returns ``jax.lax.conv_general_dilated`` of an image batch, without dilation and groups.

    On a CPU as one matrix product over patches: under vmap over runs XLA's own convolution has groups there, and its
    gradients take up to ten times as long.
    """
    own = jax.lax.padtype_to_pads(x.shape[1:3], w.shape[:2], strides, padding) if isinstance(padding, str) else padding

    def native(x: Array, w: Array, precision: Any) -> Array:
        return jax.lax.conv_general_dilated(x, w, strides, own, precision=precision, **settings)

    def by_patches(x: Array, w: Array, precision: Any) -> Array:
        x = jnp.pad(x, ((0, 0), *own, (0, 0)))
        spans = [size - k + 1 for size, k in zip(x.shape[1:3], w.shape[:2], strict=True)]
        patches = [
            x[:, i : i + spans[0] : strides[0], j : j + spans[1] : strides[1]]
            for i in range(w.shape[0])
            for j in range(w.shape[1])
        ]
        return jnp.matmul(jnp.concatenate(patches, axis=-1), w.reshape(-1, w.shape[-1]), precision=precision)

    def here(x: Array, w: Array, precision: Any) -> Array:
        own_way, usual = partial(by_patches, precision=precision), partial(native, precision=precision)
        return jax.lax.platform_dependent(x, w, cpu=own_way, default=usual)

    return contract(here, x, w)
