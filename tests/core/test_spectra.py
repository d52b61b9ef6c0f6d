"""Singular values, exact and estimated, against NumPy and the quarter-circle law."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from glorot_jax import initializers, spectra

pytestmark = pytest.mark.usefixtures("compiled_quickly")

QUARTER_CIRCLE = 8 / (3 * np.pi)  # mean singular value of a square matrix with entries of variance 1/n


@functools.partial(jax.jit, static_argnames=("known", "vectors"))
def estimates(matrices, keys, known: bool = True, vectors: int = 4):
    """Estimates of a batch of matrices, ‖A‖_F told or not."""

    def one(a, key):
        frobenius = jnp.sqrt(jnp.sum(a * a)) if known else None
        return spectra.lanczos_mean_singular_value(
            lambda v: a @ v, lambda u: a.T @ u, a.shape, key, vectors=vectors, frobenius=frobenius
        )

    return jax.vmap(one)(matrices, keys)


def with_spectrum(draw: np.random.Generator, shape: tuple[int, int], singular: np.ndarray) -> np.ndarray:
    """A matrix with these singular values between random bases."""
    k = len(singular)
    left, right = (scipy.linalg.qr(draw.normal(size=(n, k)), mode="economic")[0] for n in shape)
    return ((left * singular) @ right.T).astype(np.float32)


def gaussian(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return draw.normal(size=shape, scale=shape[0] ** -0.5).astype(np.float32)


def saturated(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """diag(f') W as a half-saturated tanh layer has it: many rows near 0."""
    return (draw.uniform(size=(shape[0], 1)) ** 4 * gaussian(draw, shape)).astype(np.float32)


def decaying(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return with_spectrum(draw, shape, np.geomspace(1, 1e-4, min(shape)))


def half_rank(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return with_spectrum(draw, shape, draw.uniform(0.5, 2, size=min(shape) // 2))


def even(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Singular values uniform on [0, 1]."""
    return with_spectrum(draw, shape, draw.uniform(size=min(shape)))


def outlier(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A random bulk and one singular value ten times as large as the bulk's largest."""
    return (gaussian(draw, shape) + with_spectrum(draw, shape, np.array([20.0]))).astype(np.float32)


def true_means(matrices: np.ndarray) -> np.ndarray:
    return np.array([scipy.linalg.svdvals(a.astype(np.float64)).mean() for a in matrices])


@pytest.mark.parametrize("shape", [(40, 40), (50, 20), (20, 50), (1, 7)])
def test_singular_values_are_numpys(shape):
    """Alone and under vmap."""
    batch = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    wanted = np.linalg.svd(batch.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(jax.vmap(spectra.singular_values)(batch), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(spectra.singular_values(batch[0]), wanted[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(spectra.mean_singular_value(batch[0]), wanted[0].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "known"), [((100, 100), True), ((100, 100), False), ((180, 64), True), ((64, 180), False)]
)
def test_the_truth_lies_within_the_stated_error_nine_times_in_ten(shape, known):
    """At least 90 % of 210 matrices of six spectra; and the error is no excuse: half of them state less than so."""
    draw = np.random.default_rng(1)
    families = gaussian, saturated, decaying, half_rank, even, outlier
    matrices = np.stack([family(draw, shape) for family in families for _ in range(35)])
    value, error = map(np.asarray, estimates(matrices, jax.random.split(jax.random.key(0), 210), known=known))
    inside = np.abs(value - true_means(matrices)) <= error
    assert inside.mean() >= 0.9, inside.reshape(6, 35).mean(axis=1)
    assert np.median(error / value) < (0.15 if known else 0.3)


def test_more_vectors_bring_a_smaller_error():
    """Four times as many: half the error, and less by Student's t; the scatter itself falls with it."""
    draw = np.random.default_rng(2)
    matrices = np.stack([saturated(draw, (100, 100)) for _ in range(50)])
    keys = jax.random.split(jax.random.key(1), 50)
    truth = true_means(matrices)
    few, many = (estimates(matrices, keys, known=False, vectors=v) for v in (4, 16))
    assert np.mean(many.error) < 0.5 * np.mean(few.error)
    assert np.std(many.value - truth) < 0.7 * np.std(few.value - truth)


@pytest.mark.parametrize("known", [True, False])
def test_zero_identity_and_orthogonal_matrices_are_exact(known):
    n = 64
    orthogonal = scipy.linalg.qr(np.random.default_rng(3).normal(size=(n, n)))[0]
    matrices = np.stack([np.zeros((n, n)), np.eye(n), 3 * orthogonal]).astype(np.float32)
    value, error = map(np.asarray, estimates(matrices, jax.random.split(jax.random.key(2), 3), known=known))
    np.testing.assert_allclose(value, [0, 1, 3], rtol=1e-5)
    np.testing.assert_allclose(error, 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (30, 64)])
def test_rank_one_is_exact_where_its_norm_is_known(shape):
    """All scatter is that of ‖A‖_F²; without it the scatter is large, and said."""
    draw = np.random.default_rng(4)
    matrices = np.stack([with_spectrum(draw, shape, np.array([5.0])) for _ in range(20)])
    keys = jax.random.split(jax.random.key(3), 20)
    told, untold = (estimates(matrices, keys, known=known) for known in (True, False))
    np.testing.assert_allclose(told.value, 5 / min(shape), rtol=1e-4)
    assert np.isfinite(np.stack(untold)).all()
    assert np.median(untold.error) > 0.2 * 5 / min(shape)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (200, 3), (21, 21)])
def test_small_operators_take_as_many_steps_as_they_have_dimensions(shape):
    """Exact in one dimension; never NaN, whether ‖A‖_F is told or not, also with a row of zeros."""
    a = gaussian(np.random.default_rng(5), shape)
    crippled = a.copy()
    crippled[0] = 0
    matrices, keys = np.stack([a, crippled]), jax.random.split(jax.random.key(4), 2)
    truth = true_means(matrices)
    for found in (estimates(matrices, keys, known=known) for known in (True, False)):
        assert np.isfinite(np.stack(found)).all()
        np.testing.assert_allclose(found.value, truth, rtol=1e-5 if min(shape) == 1 else 0.5)


def test_the_estimate_scales_with_the_matrix():
    scale = np.array([1, 1e-6, 1e6], np.float32)
    a = gaussian(np.random.default_rng(6), (80, 80))
    keys = jnp.stack([jax.random.key(5)] * 3)
    value, error = estimates(scale[:, None, None] * a, keys)
    np.testing.assert_allclose(value, scale * value[0], rtol=1e-3)
    np.testing.assert_allclose(error, scale * error[0], rtol=1e-2)


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """The paper's hidden layer, 1000 × 1000: normalized, then standard."""
    key, shape = jax.random.key(0), (1000, 1000)
    return np.stack([f(key, shape) for f in (initializers.normalized, initializers.standard)])


def test_quarter_circle_means_by_lanczos(square):
    """0.8488 normalized and 0.4901 standard (the paper's .8 and .5), within 1 %."""
    value, error = map(np.asarray, estimates(square, jax.random.split(jax.random.key(6), 2)))
    np.testing.assert_allclose(value, [QUARTER_CIRCLE, QUARTER_CIRCLE / np.sqrt(3)], rtol=0.01)
    assert (error < 0.02 * value).all()


def test_quarter_circle_means_exactly(square):
    """Within 0.002, by SciPy; the square matrices share their draw, so one decomposition is both."""
    np.testing.assert_allclose(square[0] / np.sqrt(3), square[1], rtol=1e-5)
    mean = scipy.linalg.svdvals(square[0].astype(np.float64)).mean()
    assert mean == pytest.approx(0.8488, abs=0.002)
    assert mean / np.sqrt(3) == pytest.approx(0.4901, abs=0.002)
    assert float(spectra.mean_singular_value(square[1])) == pytest.approx(mean / np.sqrt(3), rel=1e-4)


GRAM_SHAPES = [(1, 7), (12, 12), (40, 15), (30, 60)]


@pytest.mark.parametrize("shape", GRAM_SHAPES)
@pytest.mark.parametrize("kind", [gaussian, saturated, decaying, half_rank])
@pytest.mark.parametrize("scale", [1, 1e-18])
def test_the_gram_matrix_gives_all_singular_values_to_their_errors(shape, kind, scale):
    """Errors that are of use: those of the large ones are small, and what is lost is said to be lost."""
    matrix = np.float32(scale) * kind(np.random.default_rng(4), shape)
    values, errors = map(np.asarray, gram(matrix))
    wanted = scipy.linalg.svdvals(matrix.astype(np.float64))
    assert (np.abs(values - wanted) <= errors + 1e-7 * wanted[0]).all()
    floor = np.sqrt(np.sqrt(max(shape)) * 2.0**-23) * wanted[0]
    large = wanted > 10 * floor
    assert (errors[large] <= 0.02 * wanted[large]).all()
    lost = wanted < 0.1 * floor
    assert (errors[lost] >= values[lost]).all()


gram = jax.jit(spectra.gram_singular_values)


@pytest.mark.parametrize("smallest", [0.1, 1e-5])
def test_what_squaring_loses_is_not_reported(smallest):
    """A condition of 10 is found; of one of 100 000 nothing is said, where the SVD knows it."""
    matrix = with_spectrum(np.random.default_rng(5), (30, 20), np.geomspace(1, smallest, 20))
    found = spectra.gram_summary(*gram(matrix))
    wanted = spectra.summary(spectra.singular_values(matrix), 30)
    np.testing.assert_allclose(wanted.condition, 1 / smallest, rtol=0.05)
    for name in ("minimum", "condition", "log_mean"):
        if smallest == 0.1:
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-3)
        else:
            assert np.isnan(getattr(found, name))
    for name in ("mean", "median", "maximum"):
        estimate = getattr(found, name)
        assert abs(estimate.value - getattr(wanted, name)) <= estimate.error + 1e-6


def test_the_gram_matrix_of_nothing_is_nothing():
    found = spectra.gram_summary(*gram(np.zeros((4, 6), np.float32)))
    assert [float(found.minimum), float(found.mean.value), float(found.maximum.error)] == [0, 0, 0]
    assert np.isnan(found.condition)
    assert found.log_mean == -np.inf


@jax.jit
def shares(matrix, edges, key):
    shape = matrix.shape
    return spectra.lanczos_summary(lambda v: matrix @ v, lambda u: u @ matrix, shape, key, edges).shares


@pytest.mark.parametrize("kind", [gaussian, saturated, decaying, half_rank])
@pytest.mark.parametrize("shape", [(60, 60), (90, 50)])
def test_shares_below_edges_and_between_them_keep_to_their_errors(kind, shape):
    """Over many draws the truth lies within the error nearly everywhere, and the errors are not the whole range."""
    draw = np.random.default_rng(6)
    within, width = [], []
    for seed in range(8):
        matrix = kind(draw, shape)
        singular = scipy.linalg.svdvals(matrix.astype(np.float64))
        edges = np.linspace(-0.07, 1.05, 23) * singular[0]  # none at a singular value
        found = shares(matrix, edges.astype(np.float32), jax.random.key(seed))
        wanted = (singular < edges[:, None]).mean(axis=1)
        for estimate, truth in ((found.below, wanted), (found.between, np.diff(wanted))):
            within.append(np.abs(estimate.value - truth) <= estimate.error + 1e-5)
        width.append(found.below.error)
        np.testing.assert_allclose(np.diff(found.below.value), found.between.value, atol=1e-6)
    assert np.concatenate(within).mean() > 0.97
    assert np.mean(width) < 0.3


def test_shares_are_exact_where_the_steps_reach_every_singular_value():
    matrix = with_spectrum(np.random.default_rng(7), (40, 30), np.array([1.0] * 10 + [0.5] * 20))
    found = jax.device_get(shares(matrix, np.array([0.25, 0.75, 1.25], np.float32), jax.random.key(0)))
    np.testing.assert_allclose(found.below.value[[0, 2]], [0, 1], atol=1e-5)
    scatter = float(found.below.error[1])  # the vectors' alone
    assert abs(found.below.value[1] - 2 / 3) <= scatter
    np.testing.assert_allclose(found.below.error[[0, 2]], 0, atol=1e-5)
