"""Singular values of layer Jacobians: exactly, or estimated from products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from glorot_jax.rounding import mean, times

_STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 12: 2.201, 16: 2.131}
"""Two-sided 95 % quantiles of Student's t for so many values."""


class Estimate(NamedTuple):
    """A value and the half-width of its 95 % interval."""

    value: Float[Array, ""]
    error: Float[Array, ""]


@jax.custom_batching.sequential_vmap
def singular_values(matrix: Float[Array, "m n"]) -> Float[Array, "k"]:
    """Returns all min(m, n) singular values, largest first.

    A batch is taken one matrix after the other: no device gains from more, and LAPACK's own batching can wait
    forever for threads that the CPU's other devices hold.
    """
    return jnp.linalg.svd(matrix, compute_uv=False)


def mean_singular_value(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    """Returns the mean over the min(m, n) singular values."""
    return mean(singular_values(matrix))


def lanczos_mean_singular_value(
    matvec: Callable[[Float[Array, "n"]], Float[Array, "m"]],
    rmatvec: Callable[[Float[Array, "m"]], Float[Array, "n"]],
    shape: tuple[int, int],
    key: Key[Array, ""],
    *,
    vectors: int = 4,
    steps: int = 20,
    frobenius: Float[Array, ""] | None = None,
) -> Estimate:
    """Returns the mean over the min(m, n) singular values of an operator A, from products with A and Aᵀ.

    Each Rademacher vector v gives vᵀ√(AᵀA)v by the Gauss quadrature that Golub-Kahan bidiagonalization yields; its
    mean over v is the sum of all singular values. Where ‖A‖_F is known, the same vectors' estimate of ‖A‖_F² tells
    how much of their scatter to take back (a control variate).

    Args:
        matvec, rmatvec: products with A [m, n] and its transpose.
        shape: (m, n).
        vectors: number of random vectors, from 2 to 8, 12 or 16; the error falls as their square root.
        steps: bidiagonalization steps; fewer are taken where the operator's rank allows no more.
        frobenius: ‖A‖_F, if known.

    Source: Golub & Kahan (1965); Ubaru, Chen & Saad (2017), stochastic Lanczos quadrature.
    """
    m, n = shape
    if m < n:  # on the smaller side there is less scatter and no zero that is known beforehand
        matvec, rmatvec, (m, n) = rmatvec, matvec, (n, m)
    steps = min(steps, n)
    starts = jax.random.rademacher(key, (vectors, n), jnp.float32)
    nodes, weights, truncation = jax.vmap(lambda v: _quadrature(matvec, rmatvec, (m, n), v, steps))(starts)
    means = jnp.sum(times(weights, nodes), axis=1)
    width = _STUDENT_95[vectors] / np.sqrt(vectors)
    if frobenius is not None:
        m1, m2, m3, m4 = (jnp.mean(jnp.sum(times(weights, nodes**p), axis=1)) for p in (1, 2, 3, 4))
        variance = m4 - times(m2, m2)
        steady = variance > 1e-6 * m4
        slope = jnp.where(steady, (m3 - times(m1, m2)) / jnp.where(steady, variance, 1), 0)
        means -= times(
            slope, jnp.sum(times(weights, nodes**2), axis=1) - times(times(frobenius, frobenius), np.float32(1 / n))
        )
        width *= 1.25  # the slope was fitted to the same few vectors
    return Estimate(jnp.mean(means), times(width, _spread(means)) + jnp.mean(truncation))


def _quadrature(
    matvec: Callable, rmatvec: Callable, shape: tuple[int, int], start: Float[Array, "n"], steps: int
) -> tuple[Float[Array, "steps"], Float[Array, "steps"], Float[Array, ""]]:
    """Gauss nodes (singular values) and weights of the start vector's spectral measure, and what truncation may hide.

    Golub-Kahan with full reorthogonalization. After a breakdown (the Krylov space is exhausted, or A is 0) all
    further coefficients are 0: they add nodes at 0 that carry no weight.
    """
    m, n = shape

    def step(j, carry):
        left, right, alpha, beta, u, v = carry
        right = right.at[j].set(v)
        u, a = _unit(_orthogonal_to(left, matvec(v) - times(beta[j], u)), jnp.max(alpha))
        left = left.at[j].set(u)
        v, b = _unit(_orthogonal_to(right, rmatvec(u) - times(a, v)), jnp.maximum(jnp.max(alpha), a))
        return left, right, alpha.at[j].set(a), beta.at[j + 1].set(b), u, v

    carry = (
        jnp.zeros((steps, m)),
        jnp.zeros((steps, n)),
        jnp.zeros(steps),
        jnp.zeros(steps + 1),
        jnp.zeros(m),
        start * np.float32(n**-0.5),
    )
    _, _, alpha, beta, _, _ = jax.lax.fori_loop(0, steps, step, carry)
    bidiagonal = jnp.diag(alpha) + jnp.diag(beta[1:-1], 1)
    nodes, weights = _gauss(bidiagonal)
    fewer_nodes, fewer_weights = _gauss(bidiagonal[: max(steps - 2, 1), : max(steps - 2, 1)])
    return nodes, weights, jnp.abs(jnp.sum(times(weights, nodes)) - jnp.sum(times(fewer_weights, fewer_nodes)))


def _spread(values: Float[Array, "k"]) -> Float[Array, ""]:
    """Standard deviation of a sample."""
    apart = values - jnp.mean(values)
    return jnp.sqrt(jnp.sum(times(apart, apart)) * np.float32(1 / (values.size - 1)))


@jax.custom_batching.sequential_vmap
def _gauss(bidiagonal: Float[Array, "k k"]) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    _, nodes, right = jnp.linalg.svd(bidiagonal)
    return nodes, right[:, 0] ** 2


def _orthogonal_to(basis: Float[Array, "k n"], vector: Float[Array, "n"]) -> Float[Array, "n"]:
    for _ in range(2):  # once loses digits, twice is enough
        vector = vector - (basis @ vector) @ basis
    return vector


def _unit(vector: Float[Array, "n"], scale: Float[Array, ""]) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """The vector's direction and length; both 0 where only rounding is left of it."""
    length = jnp.sqrt(jnp.sum(times(vector, vector)))
    real = length > 1e-5 * scale
    return vector * jnp.where(real, 1 / jnp.where(real, length, 1), 0), jnp.where(real, length, 0)
