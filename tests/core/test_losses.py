"""Costs and their gradients against float64 closed forms."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.special

from glorot_jax import losses

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LOGITS = np.random.default_rng(0).normal(scale=3, size=(40, 9)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 9, size=40).astype(np.int32)


def softmax(logits: np.ndarray) -> np.ndarray:
    return scipy.special.softmax(logits.astype(np.float64), axis=-1)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[labels]


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return scipy.special.logsumexp(logits, axis=-1) - logits[np.arange(len(labels)), labels]


def nll_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return softmax(logits) - one_hot(labels, logits.shape[1])


def quadratic(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (nll_gradient(logits, labels) ** 2).sum(axis=-1)


def quadratic_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """2 Σ_k (p_k − y_k) ∂p_k/∂s_j, with ∂p_k/∂s_j = p_k ([k = j] − p_j)."""
    p, apart = softmax(logits), nll_gradient(logits, labels)
    return 2 * p * (apart - (apart * p).sum(axis=-1, keepdims=True))


TRUTH = {"nll": (nll, nll_gradient), "quadratic": (quadratic, quadratic_gradient)}


def computed(name: str, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's loss and its gradient: the gradient of the sum, row by row."""
    loss = getattr(losses, name)
    values, back = jax.vjp(lambda x: loss(x, labels), logits)
    return np.asarray(values), np.asarray(back(np.ones(len(labels), np.float32))[0])


def test_every_loss_is_checked():
    assert set(TRUTH) == set(losses.__all__)


@pytest.mark.parametrize("name", TRUTH)
def test_values_and_gradients_are_those_of_the_formula(name):
    values, gradients = computed(name, LOGITS, LABELS)
    np.testing.assert_allclose(values, TRUTH[name][0](LOGITS, LABELS), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(gradients, TRUTH[name][1](LOGITS, LABELS), atol=1e-6)


@pytest.mark.parametrize("name", TRUTH)
def test_closed_form_gradients_agree_with_finite_differences(name):
    """The truth above, held against itself: central differences in float64."""
    loss, gradient = TRUTH[name]
    h = 1e-5
    for k in range(LOGITS.shape[1]):
        shift = h * one_hot(np.array([k]), LOGITS.shape[1])
        x = LOGITS.astype(np.float64)
        slope = (loss(x + shift, LABELS) - loss(x - shift, LABELS)) / (2 * h)
        np.testing.assert_allclose(gradient(LOGITS, LABELS)[:, k], slope, atol=1e-8)


def test_uniform_logits_cost_the_logarithm_of_the_classes():
    """ln 9 nats, and (1 − 1/9)² + 8/81 = 8/9."""
    zeros, labels = np.zeros((9, 9), np.float32), np.arange(9)
    np.testing.assert_allclose(computed("nll", zeros, labels)[0], np.log(9), rtol=1e-6)
    np.testing.assert_allclose(computed("quadratic", zeros, labels)[0], 8 / 9, rtol=1e-6)


@pytest.mark.parametrize("name", TRUTH)
def test_logits_of_ten_thousand_are_no_trouble(name):
    """Right and wrong by 2e4, and tied at either end: exact values, no NaN in the gradient."""
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]], np.float32)
    labels = np.zeros(4, np.int32)
    values, gradients = computed(name, logits, labels)
    expected = {"nll": [0, 2e4, np.log(3), np.log(3)], "quadratic": [0, 2, 2 / 3, 2 / 3]}[name]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients, TRUTH[name][1](logits, labels), atol=1e-6)


@pytest.mark.parametrize("name", TRUTH)
def test_a_constant_added_to_all_logits_changes_nothing(name):
    quarters = np.round(LOGITS * 4) / 4  # so that adding 256 is exact
    one, other = computed(name, quarters, LABELS), computed(name, quarters + 256, LABELS)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)
