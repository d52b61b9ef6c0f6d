"""Sums modulo p: every pair once, split alike everywhere, trained on to the last."""

from __future__ import annotations

import numpy as np
import pytest

from glorot_jax import modular_addition
from glorot_jax.data import dataset
from glorot_jax.errors import InputError


def parts(spec) -> list[tuple[np.ndarray, np.ndarray]]:
    data = dataset.build(spec)
    train = data.arrays["inputs"], data.arrays["labels"]
    return [(np.asarray(x), np.asarray(y)) for x, y in (train, data.valid, data.test)]


@pytest.mark.parametrize("p", [2, 7, 97])
def test_every_pair_stands_once_in_one_split_with_its_sum(p):
    found = parts(modular_addition(p=p, validation=0.25, test=0.25))
    pairs = np.concatenate([x for x, _ in found]).astype(int)
    labels = np.concatenate([y for _, y in found])
    assert {tuple(pair) for pair in pairs[:, :2]} == {(a, b) for a in range(p) for b in range(p)}
    assert len(pairs) == p**2
    assert (pairs[:, 2] == p).all()
    np.testing.assert_array_equal(labels, pairs[:, :2].sum(axis=1) % p)


def test_splits_have_their_shares_and_are_drawn_by_their_own_seed():
    spec = modular_addition(p=11, validation=0.2, test=0.3)
    assert [len(y) for _, y in parts(spec)] == [61, 24, 36] == list(spec.sizes())
    same, other = (parts(modular_addition(p=11, validation=0.2, test=0.3, split_seed=s))[0][0] for s in (0, 1))
    np.testing.assert_array_equal(parts(spec)[0][0], same)
    assert (same != other).any()


def test_networks_see_tokens_as_they_are():
    data = dataset.build(modular_addition(p=5))
    assert (data.shape, data.classes, data.dtype) == ((3,), 5, np.uint8)
    x, labels = data.draw(data.arrays, np.uint32(3), np.uint32(0), 2, 4)
    np.testing.assert_array_equal(data.scale(x), np.asarray(x, np.float32))
    np.testing.assert_array_equal(labels, np.asarray(x, int)[:, :2].sum(axis=1) % 5)


@pytest.mark.parametrize(("validation", "test"), [(0.6, 0.5), (0, 0.5), (0.6, 0.4)])
def test_a_split_without_a_pair_is_refused(validation, test):
    with pytest.raises(InputError, match=r"modular_addition: its 49 pairs are cut into -?\d+ for training, \d+ for"):
        modular_addition(p=7, validation=validation, test=test)
