"""The order of a fixed set's examples: a permutation for each epoch, a pure function of seed and step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key

from glorot_jax.randomness import key

_ROUNDS = 6
"""Rounds of the Feistel network that permutes an epoch; three are a pseudo-random permutation in theory."""
_LEAST_BITS = 3
"""Of half a word of it: with two, some orders of five examples came twice as often as others."""


def positions(
    seed: int | Array, stream: int | Array, step: int | Array, batch_size: int, count: int
) -> Integer[Array, "batch"]:
    """Returns which of ``count`` examples the batch of a step holds.

    Batches follow each other without a gap: every ``count`` examples are an epoch and hold each example once, in an
    order of their own. A batch may hold the last of one epoch and the first of the next; none is smaller, none is left
    out.
    """
    # step · batch_size may pass 2³¹, so whole rounds of ``count`` steps are reckoned apart.
    whole, rest = jnp.divmod(jnp.asarray(step, jnp.int32), count)
    number = rest * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    epoch, place = whole * batch_size + number // count, number % count
    keys = jax.vmap(lambda e: key(seed, "order", stream=stream, step=e))(epoch)
    return jax.vmap(lambda k, p: permuted(k, p, count))(keys, place)


def permuted(key: Key[Array, ""], place: Integer[Array, ""], count: int) -> Integer[Array, ""]:
    """Returns the place in [0, count) to which a permutation drawn by ``key`` sends ``place``.

    A Feistel network on the next power of four, 64 at least, walked until it lands below ``count``: no permutation is
    stored or sorted, any element of it costs a few integer operations.

    Source: Black & Rogaway (2002), Ciphers with arbitrary finite domains, CT-RSA: cycle walking.
    """
    half = max(_LEAST_BITS, -(-max(count - 1, 1).bit_length() // 2))
    mask = jnp.uint32(2**half - 1)
    rounds = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def network(value: Array) -> Array:
        left, right = value >> half, value & mask
        for r in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right ^ rounds[r]) & mask)
        return left << half | right

    value = network(jnp.asarray(place, jnp.uint32))
    return jax.lax.while_loop(lambda v: v >= count, network, value).astype(jnp.int32)


def _mixed(word: Array) -> Array:
    """A bijection of 32-bit words in which every bit of the result depends on every bit of the word.

    Source: Appleby (2011), the finalizer of MurmurHash3.
    """
    word = (word ^ word >> 16) * jnp.uint32(0x85EBCA6B)
    word = (word ^ word >> 13) * jnp.uint32(0xC2B2AE35)
    return word ^ word >> 16
