"""Arithmetic whose bits do not depend on what a compiler fuses it with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer


def times(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns a·b rounded by itself, to 20 bits, so that it can't be fused with a sum into one rounding."""
    return jax.lax.reduce_precision(a * b, exponent_bits=8, mantissa_bits=20)


def mean(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the mean over the last axis.

    As a matrix product: it is never fused with what makes its values, so its sums have one order, whereas a reduction
    goes by lanes when it stands alone and one by one when it is fused.
    """
    ones = jnp.ones((values.shape[-1], 1), values.dtype)
    total = jnp.matmul(values.reshape(-1, values.shape[-1]), ones, precision=jax.lax.Precision.HIGHEST)
    return total.reshape(values.shape[:-1]) * np.float32(1 / values.shape[-1])


def mean_square(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the mean of the squares over the last axis."""
    return mean(times(values, values))


def std(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns the standard deviation of all values together, the mean taken off first."""
    flat = values.ravel()
    return jnp.sqrt(mean_square(flat - mean(flat)))


def total(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns the sum of all values."""
    return mean(values.ravel()) * np.float32(values.size)


def norm(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns the square root of the sum of all squares, which may themselves be beyond float32."""
    largest = jnp.max(jnp.abs(values))
    unit = jnp.where(largest > 0, largest, 1)
    return unit * jnp.sqrt(total(times(values / unit, values / unit)))


def share(true: Bool[Array, "..."], axis: int | None = None) -> Float[Array, "..."]:
    """Returns which share is true, of all or over an axis: counted in integers."""
    count = true.size if axis is None else true.shape[axis]
    return jnp.sum(true, axis=axis, dtype=jnp.int32).astype(jnp.float32) / np.float32(count)


def share_below(values: Float[Array, "..."], edges: Float[Array, "edges"]) -> Float[Array, "edges"]:
    """Returns which share of all values is smaller than each edge: compared and counted, nothing is rounded before."""
    return share(values.ravel() < edges[:, None], axis=1)


def quantile(values: Float[Array, "..."], at: tuple[float, ...]) -> Float[Array, "quantiles"]:
    """Returns the quantiles of all values together, linear between neighbours, as NumPy's; NaN where one value is.

    Sorted as integers in the floats' order: XLA sorts those six times as fast on a CPU.

    Args:
        at: in [0, 1], known when the program is built.
    """
    flat = values.ravel().astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(flat, jnp.int32)
    ordered = _in_float_order(jnp.sort(_in_float_order(bits)))
    place = np.array(at) * (flat.size - 1)
    below = np.floor(place).astype(np.int32)
    low, high = (
        jax.lax.bitcast_convert_type(ordered[i], jnp.float32) for i in (below, np.minimum(below + 1, flat.size - 1))
    )
    found = low + times(high - low, jnp.asarray(place - below, jnp.float32))
    return jnp.where(jnp.any(jnp.isnan(flat)), jnp.nan, found)


def _in_float_order(bits: Integer[Array, "n"]) -> Integer[Array, "n"]:
    """A float's bits as an integer that is ordered as the float is; its own inverse."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
