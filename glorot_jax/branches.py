"""Work that a block of runs does only if one of them wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

_T = TypeVar("_T")


def if_any(
    wanted: Bool[Array, ""],
    function: Callable[..., _T],
    *operands: Array,
    otherwise: Callable[..., _T] | None = None,
) -> _T:
    """Returns ``function(*operands)`` where a run of the block wants it, else ``otherwise`` of them or zeros.

    On a CPU it is a branch, and what nobody wants costs nothing. Elsewhere it is always computed: branches cost more
    there than arithmetic.

    Args:
        wanted: of the run; its values say nothing about the result for a run that does not want it.
    """
    somebody = anybody(wanted)

    def nothing(*operands: Array) -> _T:
        return jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(function, *operands))

    def branch(*operands: Array) -> _T:
        return jax.lax.cond(somebody, function, otherwise or nothing, *operands)

    return jax.lax.platform_dependent(*operands, cpu=branch, default=function)


@jax.custom_batching.custom_vmap
def anybody(wanted: Bool[Array, ""]) -> Bool[Array, ""]:
    """Returns whether any of the runs that are vmapped together wants something; the answer is one for all of them."""
    return wanted


@anybody.def_vmap
def _(size: int, batched: list[bool], wanted: Bool[Array, "runs"]) -> tuple[Bool[Array, ""], bool]:
    return jnp.any(wanted), False
