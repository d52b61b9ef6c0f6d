"""Every random draw of the project: a pure function of (seed, stream, purpose, step), never of a position.

That is what lets a run be packed with other neighbours, moved to another device, stopped and resumed without
changing a bit: there is no generator state to carry and no split whose result depends on who else is there.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key


def key(
    seed: int | Integer[Array, ""],
    purpose: str,
    *,
    stream: int | Integer[Array, ""] = 0,
    step: int | Integer[Array, ""] | None = None,
) -> Key[Array, ""]:
    """Returns the key of one named purpose.

    Args:
        seed: the run's own seed, in [0, 2**32).
        purpose: what is drawn, such as ``"init"`` or ``"train"``; two purposes never share bits.
        stream: 0 where variants that share a seed share their draws; a number of the run's own otherwise.
        step: the update or position for which it is drawn, where there are many.
    """
    base = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream)
    named = jax.random.fold_in(base, zlib.crc32(purpose.encode()))
    return named if step is None else jax.random.fold_in(named, step)


def stream_for(stream: int | Integer[Array, ""], purpose: str) -> Integer[Array, ""]:
    """Returns the stream of a purpose that draws what another draws, such as training examples, apart from it."""
    return jnp.asarray(stream, jnp.uint32) ^ jnp.uint32(zlib.crc32(purpose.encode()))
