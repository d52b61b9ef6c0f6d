"""Singular values of layer Jacobians: exactly, from the Gram matrix, or estimated from products with vectors alone.

The Lanczos code is our own and not matfree's or traceax's: it has to give right numbers for an operator that is 0 (a
saturated layer) or of low rank, an error beside each estimate, and sums whose bits no fusion changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Key

from glorot_jax.rounding import mean, norm, times, total

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


class Summary(NamedTuple):
    """All singular values of a matrix in a few numbers."""

    mean: Float[Array, ""]
    rms: Float[Array, ""]
    median: Float[Array, ""]
    minimum: Float[Array, ""]
    maximum: Float[Array, ""]
    condition: Float[Array, ""]
    log_mean: Float[Array, ""]


def summary(values: Float[Array, "k"], longer_side: int) -> Summary:
    """Returns the summary of a matrix' singular values, largest first.

    Those below √(longer side) · ε of the largest, ε = 2⁻²³, are rounding alone and count as 0. With one of them the
    condition is ∞ and the mean logarithm −∞; without any but them the condition is not defined: NaN.

    Args:
        longer_side: of the matrix.
    """
    resolution = np.float32(np.sqrt(longer_side) * np.finfo(np.float32).eps)
    sure = jnp.where(values > resolution * values[0], values, 0)
    below, above = sure[values.size // 2], sure[(values.size - 1) // 2]
    return Summary(
        mean=mean(values),
        rms=norm(values) * np.float32(values.size**-0.5),
        median=(below + above) / 2,
        minimum=sure[-1],
        maximum=sure[0],
        condition=sure[0] / sure[-1],
        log_mean=mean(jnp.log(sure)),
    )


def gram_singular_values(matrix: Float[Array, "m n"]) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Returns all min(m, n) singular values, largest first, and how far each may be off: of the Gram matrix A Aᵀ.

    The eigenvalues of A Aᵀ, on the smaller side, are the squares, and rounding changes each by up to
    δ = √(longer side) · ε of the largest, ε = 2⁻²³. So a singular value s is known to δ/s; and below √δ, a thousandth
    of the largest at sides of 100, nothing is known of it but that it is small: the values there are rounding alone.

    Source: Golub & Van Loan (2013), Matrix computations, section 8.6: what squaring costs.
    """
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    scale = jnp.max(jnp.abs(small))
    scale = jnp.where(scale > 0, scale, 1)
    unit = small / scale  # squares of small numbers must not vanish
    squares = eigenvalues(jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST))
    off = squares[0] * np.float32(np.sqrt(max(matrix.shape)) * np.finfo(np.float32).eps)
    values = jnp.sqrt(jnp.maximum(squares, 0))
    known = squares > off
    errors = jnp.where(known, off / jnp.where(known, values, 1), jnp.sqrt(2 * off))
    return scale * values, scale * errors


@jax.custom_batching.sequential_vmap
def eigenvalues(symmetric: Float[Array, "k k"]) -> Float[Array, "k"]:
    """Returns the eigenvalues of a symmetric matrix, largest first; of a batch one matrix after the other."""
    return jnp.linalg.eigvalsh(symmetric)[::-1]


class GramSummary(NamedTuple):
    """What the Gram matrix tells of all singular values; NaN where it can't."""

    mean: Estimate
    rms: Float[Array, ""]
    median: Estimate
    minimum: Float[Array, ""]
    maximum: Estimate
    condition: Float[Array, ""]
    log_mean: Float[Array, ""]


def gram_summary(values: Float[Array, "k"], errors: Float[Array, "k"]) -> GramSummary:
    """Returns the summary of singular values and their errors as ``gram_singular_values`` finds them.

    A value that its error reaches is not known to differ from 0. With one of them the smallest value, the condition
    and the mean logarithm are NaN: not known, whereas ``summary`` can say that they are 0, ∞ and −∞.
    """
    sure = values > errors
    all_sure, nothing = sure[-1], values[0] == 0
    lowest = jnp.where(all_sure, values[-1], 1)
    middle = [values.size // 2, (values.size - 1) // 2]
    return GramSummary(
        mean=Estimate(mean(values), mean(errors)),
        rms=norm(values) * np.float32(values.size**-0.5),
        median=Estimate(*(jnp.sum(v[np.array(middle)]) / 2 for v in (values, errors))),
        minimum=jnp.where(all_sure | nothing, values[-1], jnp.nan),
        maximum=Estimate(values[0], errors[0]),
        condition=jnp.where(all_sure, values[0] / lowest, jnp.nan),
        log_mean=jnp.where(all_sure | nothing, mean(jnp.log(jnp.where(sure | nothing, values, 1))), jnp.nan),
    )


class Shares(NamedTuple):
    """How many of an operator's singular values lie where: shares of them, with half-widths of what they may be.

    ``below`` is the share below each edge, ``between`` that between two neighbouring ones.
    """

    below: Estimate
    between: Estimate


class LanczosSummary(NamedTuple):
    """What products with an operator tell of its singular values; the smallest and the logarithms are beyond them."""

    mean: Estimate
    rms: Estimate
    median: Estimate
    maximum: Estimate
    shares: Shares


def lanczos_summary(
    matvec: Callable[[Float[Array, "n"]], Float[Array, "m"]],
    rmatvec: Callable[[Float[Array, "m"]], Float[Array, "n"]],
    shape: tuple[int, int],
    key: Key[Array, ""],
    edges: Float[Array, "edges"],
    *,
    vectors: int = 4,
    steps: int = 20,
    frobenius: Float[Array, ""] | None = None,
) -> LanczosSummary:
    """Returns estimates of an operator's singular values by the quadrature of ``lanczos_mean_singular_value``.

    The errors of the median and of the shares hold what the nodes' weights leave open (Chebyshev, Markov and
    Stieltjes: a vector's own measure below a node lies between the weights up to it without and with its own) and how
    much the vectors differ. The largest node is never above the largest singular value; how far below is guessed: what
    the vectors differ by and what the last two steps brought.

    Args:
        edges: rising; where the share of smaller singular values is asked for. The values are those of the nodes.
        matvec, rmatvec, shape, key, vectors, steps, frobenius: as there; with ``frobenius`` the rms is exact.

    Source: Golub & Meurant (2010), Matrices, moments and quadrature, chapters 3 and 6.
    """
    n = min(shape)
    found = _quadratures(matvec, rmatvec, shape, key, vectors, steps)
    nodes, weights = found.nodes, found.weights
    return LanczosSummary(
        mean=_mean(found, frobenius, n),
        rms=_rms(found) if frobenius is None else Estimate(frobenius * np.float32(n**-0.5), jnp.zeros(())),
        median=_median(nodes, weights),
        maximum=_largest(found),
        shares=_shares(nodes, weights, edges, n),
    )


def lanczos_largest_singular_value(
    matvec: Callable, rmatvec: Callable, shape: tuple[int, int], key: Key[Array, ""], vectors: int = 2, steps: int = 30
) -> Estimate:
    """Returns an operator's largest singular value from below, with the error that ``lanczos_summary`` guesses."""
    return _largest(_quadratures(matvec, rmatvec, shape, key, vectors, steps))


def lanczos_rms(
    matvec: Callable, rmatvec: Callable, shape: tuple[int, int], key: Key[Array, ""], vectors: int = 4
) -> Estimate:
    """Returns the root mean square singular value as ``lanczos_summary`` would, from one product for each vector."""
    return _rms(_quadratures(matvec, rmatvec, shape, key, vectors, steps=1))


def _largest(found: _Quadrature) -> Estimate:
    tips = found.nodes[:, 0]
    largest = jnp.max(tips)
    return Estimate(largest, largest - jnp.min(tips) + jnp.max(found.tip))


def _rms(found: _Quadrature) -> Estimate:
    """Root of the mean square, whose error is that of the mean square, halved relative to it."""
    squares = jnp.sum(times(found.weights, found.nodes**2), axis=1)
    root = jnp.sqrt(jnp.mean(squares))
    spread = times(np.float32(_STUDENT_95[len(squares)] / np.sqrt(len(squares))), _spread(squares))
    return Estimate(root, jnp.where(root > 0, spread / (2 * jnp.where(root > 0, root, 1)), 0))


def _median(nodes: Float[Array, "vectors steps"], weights: Float[Array, "vectors steps"]) -> Estimate:
    through = jnp.cumsum(weights, axis=1)  # of the nodes from the largest down to each
    middle = jnp.max(jnp.where(through >= 0.5, nodes, 0), axis=1)
    never_above = jnp.min(jnp.where(through <= 0.5, nodes, nodes[:, :1]), axis=1)
    never_below = jnp.max(jnp.where(through - weights >= 0.5, nodes, 0), axis=1)
    apart = jnp.where(_exhausted(nodes, weights), 0, jnp.maximum(never_above - middle, middle - never_below))
    return Estimate(jnp.mean(middle), jnp.mean(apart) + _scatter(middle))


def _exhausted(nodes: Float[Array, "vectors steps"], weights: Float[Array, "vectors steps"]) -> Bool[Array, "vectors"]:
    """Where the nodes are a vector's whole spectrum: the steps that were left over put a node without weight at 0."""
    return (nodes[:, -1] <= 1e-6 * nodes[:, 0]) & (weights[:, -1] < 1e-6)


def _scatter(values: Float[Array, "vectors"]) -> Float[Array, ""]:
    """Half-width of the 95 % interval of the vectors' mean."""
    return times(np.float32(_STUDENT_95[len(values)] / np.sqrt(len(values))), _spread(values))


def _shares(
    nodes: Float[Array, "vectors steps"], weights: Float[Array, "vectors steps"], edges: Float[Array, "edges"], n: int
) -> Shares:
    """The shares by the nodes' weights. Each vector's own share below an edge lies within the weights of two nodes.

    Between two nodes the measure below is at least the weights below the lower one, and at most those up to the upper.
    A share p of n values scatters between Rademacher vectors by √(2p/n) at most, or by that of 1 − p; where the few
    vectors happen to differ by less, that counts.
    """
    below = nodes[:, None, :] < edges[:, None]  # [vectors, edges, steps]
    lower = jnp.sum(below, axis=2, dtype=jnp.int32)  # so many nodes lie below: they are the last of their row
    steps = nodes.shape[1]
    from_below = jnp.concatenate([jnp.zeros((len(nodes), 1)), jnp.cumsum(weights[:, ::-1], axis=1)], axis=1)

    def through(count: Integer[Array, "vectors edges"]) -> Float[Array, "vectors edges"]:
        return jnp.take_along_axis(from_below, jnp.clip(count, 0, steps), axis=1)

    share = through(lower)
    open_below, open_above = share - through(lower - 1), through(lower + 1) - share
    known = _exhausted(nodes, weights)[:, None] | (edges <= 0)  # nothing lies below 0
    open_below, open_above = (jnp.where(known, 0, v) for v in (open_below, open_above))
    between = jnp.diff(share, axis=1)
    more = open_above[:, 1:] + open_below[:, :-1]
    less = jnp.minimum(between, open_below[:, 1:] + open_above[:, :-1])

    def estimate(values: Array, apart: Array) -> Estimate:
        found = mean(values.T)
        least = jnp.sqrt(jnp.clip(jnp.minimum(found, 1 - found), 0) * np.float32(2 / (n * len(nodes))))
        return Estimate(found, mean(apart.T) + jnp.maximum(jax.vmap(_scatter)(values.T), 2 * least))

    return Shares(estimate(share, jnp.maximum(open_below, open_above)), estimate(between, jnp.maximum(more, less)))


def lanczos_largest_eigenvalue(
    matvec: Callable[[Float[Array, "n"]], Float[Array, "n"]],
    size: int,
    key: Key[Array, ""],
    *,
    steps: int = 20,
    first: int | Integer[Array, ""] | None = None,
) -> Estimate:
    """Returns the algebraically largest eigenvalue of a symmetric operator, from below, from products alone.

    Three vectors are kept: without orthogonalization against all earlier ones, eigenvalues come up twice, but the
    largest stays right. The error is the residual's length: so near to the value an eigenvalue lies.

    Args:
        steps: products; fewer where the operator's rank allows no more.
        first: so many numbers of a vector are the operator's, the others count as 0; all of them if None.

    Source: Paige (1980), Accuracy and effectiveness of the Lanczos algorithm for the symmetric eigenproblem.
    """
    steps = min(steps, size)

    def step(j, carry):
        before, v, alpha, beta = carry
        product = matvec(v)
        a = total(times(product, v))
        rest = product - times(a, v) - times(beta[j], before)
        new, b = _unit(rest, jnp.maximum(jnp.max(jnp.abs(alpha)), jnp.maximum(jnp.abs(a), jnp.max(beta))))
        # Once nothing is left, v is 0: a quotient that is known puts nothing above the largest eigenvalue.
        a = jnp.where(jnp.max(jnp.abs(v)) > 0, a, alpha[0])
        return v, new, alpha.at[j].set(a), beta.at[j + 1].set(b)

    count = size if first is None else first
    signs = jnp.where(jnp.arange(size) < count, jax.random.rademacher(key, (size,), jnp.float32), 0)
    start = signs / jnp.sqrt(jnp.asarray(count, jnp.float32))
    carry = jnp.zeros(size), start, jnp.zeros(steps), jnp.zeros(steps + 1)
    _, _, alpha, beta = jax.lax.fori_loop(0, steps, step, carry)
    tridiagonal = jnp.diag(alpha) + jnp.diag(beta[1:-1], 1) + jnp.diag(beta[1:-1], -1)
    value, last = _top(tridiagonal)
    return Estimate(value, beta[-1] * jnp.abs(last))


@jax.custom_batching.sequential_vmap
def _top(symmetric: Float[Array, "k k"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The largest eigenvalue, and the last component of its vector."""
    values, vectors = jnp.linalg.eigh(symmetric)
    return values[-1], vectors[-1, -1]


def hutchinson_trace(
    matvec: Callable[[Float[Array, "n"]], Float[Array, "n"]], size: int, key: Key[Array, ""], *, vectors: int = 16
) -> Estimate:
    """Returns the trace of an operator and the standard error of its mean over Rademacher vectors: E vᵀAv = tr A.

    Source: Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.
    """

    def one(key: Key[Array, ""]) -> Float[Array, ""]:
        v = jax.random.rademacher(key, (size,), jnp.float32)
        return total(times(v, matvec(v)))

    found = jax.lax.map(one, jax.random.split(key, vectors))
    return Estimate(mean(found), _spread(found) * np.float32(vectors**-0.5))


def effective_ranks(values: Float[Array, "k"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns two smooth ranks of a matrix from its singular values, largest first: by entropy and by participation.

    e^H with H the entropy of s/Σs, and (Σs²)²/Σs⁴; both are k for k equal values, 1 for a single one, 0 without any.

    Source: Roy & Vetterli (2007), The effective rank, EUSIPCO.
    """
    some = values[0] > 0
    s = values / jnp.where(some, values[0], 1)
    p = s / jnp.where(some, total(s), 1)
    entropy = -total(times(p, jnp.log(jnp.where(p > 0, p, 1))))
    squares = times(s, s)
    participation = total(squares) ** 2 / jnp.where(some, total(times(squares, squares)), 1)
    return jnp.where(some, jnp.exp(entropy), 0), participation


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
    return _mean(_quadratures(matvec, rmatvec, shape, key, vectors, steps), frobenius, min(shape))


def _quadratures(
    matvec: Callable, rmatvec: Callable, shape: tuple[int, int], key: Key[Array, ""], vectors: int, steps: int
) -> _Quadrature:
    """Quadratures of random vectors on the operator's smaller side, their arrays with a leading axis."""
    m, n = shape
    if m < n:  # on the smaller side there is less scatter and no zero that is known beforehand
        matvec, rmatvec, (m, n) = rmatvec, matvec, (n, m)
    starts = jax.random.rademacher(key, (vectors, n), jnp.float32)
    return jax.vmap(lambda v: _quadrature(matvec, rmatvec, (m, n), v, min(steps, n)))(starts)


def _mean(found: _Quadrature, frobenius: Float[Array, ""] | None, n: int) -> Estimate:
    nodes, weights, truncation, _ = found
    vectors = len(nodes)
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


class _Quadrature(NamedTuple):
    """Gauss nodes (singular values, largest first) and weights of a start vector's spectral measure.

    ``truncation`` is what two steps less would have changed in the mean, ``tip`` what in the largest node.
    """

    nodes: Float[Array, "steps"]
    weights: Float[Array, "steps"]
    truncation: Float[Array, ""]
    tip: Float[Array, ""]


def _quadrature(
    matvec: Callable, rmatvec: Callable, shape: tuple[int, int], start: Float[Array, "n"], steps: int
) -> _Quadrature:
    """The start vector's quadrature.

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
    truncation = jnp.abs(jnp.sum(times(weights, nodes)) - jnp.sum(times(fewer_weights, fewer_nodes)))
    return _Quadrature(nodes, weights, truncation, jnp.abs(nodes[0] - fewer_nodes[0]))


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
