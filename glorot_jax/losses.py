"""Costs of one example from its logits and label; the engine takes the mean over the mini-batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

__all__ = ["nll", "quadratic"]


def nll(logits: Float[Array, "batch classes"], labels: Integer[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns −log P(y|x) under the softmax, in nats. Source: Glorot & Bengio (2010), section 2.3."""
    return -jnp.sum(_one_hot(logits, labels) * jax.nn.log_softmax(logits), axis=-1)


def quadratic(logits: Float[Array, "batch classes"], labels: Integer[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns Σ_k (P(k|x) − [k = y])² under the softmax, in [0, 2].

    Source: Glorot & Bengio (2010), section 4.1; output unit and factor are not stated there, these are ours.
    """
    return jnp.sum((jax.nn.softmax(logits) - _one_hot(logits, labels)) ** 2, axis=-1)


def _one_hot(logits: Array, labels: Array) -> Array:
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
