"""Batches of a fixed set: every epoch is a permutation, a pure function of seed and epoch, with no gap between."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glorot_jax import arrays as described
from glorot_jax.data.arrays import from_splits
from glorot_jax.data.dataset import build
from glorot_jax.data.order import permuted, positions
from glorot_jax.errors import InputError
from glorot_jax.randomness import key

CHANCE = 1e-3
"""The seed is fixed: a test that holds, holds always."""


@pytest.fixture(scope="module")
def order():
    """``(seed, count) -> a permutation``, compiled once a count."""
    compiled: dict[int, object] = {}

    def call(seed: int, count: int) -> np.ndarray:
        if count not in compiled:
            places = jnp.arange(count, dtype=jnp.int32)
            compiled[count] = jax.jit(lambda key: jax.vmap(lambda p: permuted(key, p, count))(places))
        return np.asarray(compiled[count](jax.random.key(seed)))

    return call


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1197, 4097, 50_000])
def test_each_example_once(order, count):
    for seed in range(3):
        np.testing.assert_array_equal(np.sort(order(seed, count)), np.arange(count))


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1))
def test_each_example_once_whatever_the_number(count, seed):
    places = jnp.arange(count, dtype=jnp.int32)
    key = jax.random.key(seed)
    found = np.asarray(jax.vmap(lambda p: permuted(key, p, count))(places))
    np.testing.assert_array_equal(np.sort(found), np.arange(count))


@pytest.mark.parametrize("count", [3, 4, 5])
def test_all_permutations_of_a_few_come_equally_often(order, count):
    drawn = np.array([order(seed, count) for seed in range(6000)])
    codes = drawn @ count ** np.arange(count)
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == [6, 24, 120][count - 3]
    assert stats.chisquare(counts).pvalue > CHANCE


@pytest.mark.parametrize("count", [10, 37, 64])
def test_every_example_comes_equally_often_in_every_place_and_after_every_other(order, count):
    drawn = np.array([order(seed, count) for seed in range(3000)])
    assert stats.chisquare(np.bincount(drawn[:, 0], minlength=count)).pvalue > CHANCE
    assert stats.chisquare(np.bincount(drawn[:, -1], minlength=count)).pvalue > CHANCE
    step = (drawn[:, 1] - drawn[:, 0]) % count
    assert stats.chisquare(np.bincount(step, minlength=count)[1:]).pvalue > CHANCE


def walk(seed: int, steps: range, batch_size: int, count: int, stream: int = 0) -> np.ndarray:
    """What the batches of some steps hold, [steps, batch]."""
    return np.asarray(_batches(batch_size, count)(seed, stream, jnp.arange(steps.start, steps.stop, dtype=jnp.int32)))


@functools.cache
def _batches(batch_size: int, count: int):
    return jax.jit(jax.vmap(lambda seed, stream, s: positions(seed, stream, s, batch_size, count), (None, None, 0)))


@pytest.mark.parametrize(("batch_size", "count"), [(10, 100), (10, 97), (1, 13), (30, 7)])
def test_epochs_follow_each_other_without_a_gap(batch_size, count):
    """Also where a batch holds the end of an epoch and the begin of the next, or more than one epoch."""
    epochs = 3 * batch_size
    shown = walk(5, range(-(-epochs * count // batch_size)), batch_size, count).ravel()[: epochs * count]
    by_epoch = shown.reshape(epochs, count)
    np.testing.assert_array_equal(np.sort(by_epoch, axis=1), np.tile(np.arange(count), (epochs, 1)))
    if count > 10:
        assert len(np.unique(by_epoch, axis=0)) == epochs, "each in an order of its own"


@pytest.mark.parametrize(("batch_size", "count"), [(10, 50_000), (1000, 40_000), (4096, 1197)])
def test_batches_are_right_where_their_number_passes_what_32_bits_hold(batch_size, count):
    """The last steps that an int32 counts, against whole numbers without end."""
    last = 2**31 - 2
    expected = jax.jit(lambda epoch, place: permuted(key(3, "order", step=epoch), place, count))
    for step in (last, last - 1, 2**31 // batch_size + 1):
        numbers = [step * batch_size + i for i in range(batch_size)]
        found = walk(3, range(step, step + 1), batch_size, count)[0]
        for number, at in list(zip(numbers, found, strict=True))[:: max(1, batch_size // 5)]:
            epoch, place = divmod(number, count)
            assert at == int(expected(np.uint32(epoch % 2**32), np.int32(place)))


def test_the_order_depends_on_seed_and_stream_and_on_nothing_else():
    one = walk(1, range(40), 10, 97)
    np.testing.assert_array_equal(one, walk(1, range(40), 10, 97))
    assert (one != walk(2, range(40), 10, 97)).any()
    assert (one != walk(1, range(40), 10, 97, stream=9)).any()
    np.testing.assert_array_equal(one[13:], walk(1, range(13, 53), 10, 97)[:27])
    np.testing.assert_array_equal(one.ravel()[:35], walk(1, range(7), 5, 97).ravel())


# ---- the data set


def numbered(count: int, **options) -> described:
    """Inputs that say their own number."""
    inputs = np.stack([np.arange(count) // 256, np.arange(count) % 256], axis=1).astype(np.uint8)
    labels = np.arange(count) % 3
    return described(inputs, labels, validation=20, test=30, **options)


def test_training_shows_the_training_examples_with_their_labels_and_no_other():
    data = build(numbered(150))
    draw = jax.jit(lambda step: data.draw(data.arrays, 4, 0, step, 10))
    shown = []
    for step in range(20):
        inputs, labels = draw(step)
        numbers = np.asarray(inputs).astype(int) @ [256, 1]
        np.testing.assert_array_equal(np.asarray(labels), numbers % 3)
        shown += numbers.tolist()
    assert sorted(shown[:100]) == sorted(shown[100:]) == list(range(100))
    np.testing.assert_array_equal(np.asarray(data.valid[0]).astype(int) @ [256, 1], range(100, 120))
    np.testing.assert_array_equal(np.asarray(data.test[0]).astype(int) @ [256, 1], range(120, 150))


@pytest.mark.parametrize("scaling", ["unit", "symmetric", "standard"])
def test_bytes_are_scaled_as_said(scaling):
    chance = np.random.default_rng(0)
    inputs = chance.integers(0, 256, (500, 4, 3), dtype=np.uint8)
    labels = np.arange(500) % 2
    data = from_splits("some", (inputs, labels), (inputs, labels), (inputs, labels), ("a", "b"), scaling)
    truth = inputs.astype(np.float64)
    expected = {
        "unit": truth / 255,
        "symmetric": 2 * truth / 255 - 1,
        "standard": (truth - truth.mean()) / truth.std(),
    }[scaling]
    np.testing.assert_allclose(np.asarray(data.scale(data.arrays["inputs"])), expected, rtol=1e-5, atol=1e-6)


def test_constant_inputs_are_not_divided_by_nothing():
    same = np.full((10, 2), 7, np.uint8), np.arange(10) % 2
    data = from_splits("same", same, same, same, ("a", "b"), "standard")
    assert (np.asarray(data.scale(data.arrays["inputs"])) == 0).all()


WRONG = {
    "a label too few": ((np.zeros((5, 2), np.uint8), np.zeros(4, int)), {}, r"\[5, 2\] and labels \[4\]"),
    "integers": ((np.zeros((5, 2), int), np.zeros(5, int)), {}, "int64 inputs are not uint8 or floating"),
    "not finite": ((np.full((5, 2), np.nan), np.zeros(5, int)), {}, "an input is not finite"),
    "negative labels": ((np.zeros((5, 2), np.uint8), np.full(5, -1)), {}, "labels are not integers ≥ 0"),
    "labels of numbers": ((np.zeros((5, 2), np.uint8), np.zeros(5)), {}, "labels are not integers ≥ 0"),
    "all for validation": ((np.zeros((5, 2), np.uint8), np.zeros(5, int)), {"validation": 4}, "validation: 4 is not"),
    "scaling": ((np.zeros((5, 2), np.uint8), np.zeros(5, int)), {"scaling": "unti"}, "scaling: 'unti' is not known"),
    "another shape": (
        (np.zeros((5, 2), np.uint8), np.zeros(5, int)),
        {"test": (np.zeros((5, 3), np.uint8), np.zeros(5, int))},
        r"test: uint8 \[3\] is not the training inputs'",
    ),
    "names": ((np.zeros((5, 2), np.uint8), np.arange(5)), {"class_names": "ab"}, "2 names for labels up to 4"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arrays_are_said_in_one_line(what):
    pair, options, line = WRONG[what]
    with pytest.raises(InputError, match=line):
        described(*pair, **{"validation": 1, "test": 1, **options})
