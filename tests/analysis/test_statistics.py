"""Intervals count seeds, and are Student's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from glorot_jax.analysis.statistics import interval


def test_the_interval_of_three_seeds_by_hand():
    """1, 2, 6: mean 3, standard deviation √7; t(0.975, 2) = 4.30265 from a printed table."""
    mean, half, n = interval([1.0, 2.0, 6.0])
    assert (mean, n) == (3.0, 3)
    assert half == pytest.approx(4.30265 * math.sqrt(7 / 3), rel=1e-5)


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30).filter(lambda v: np.std(v) > 1e-3),
    level=st.floats(0.5, 0.99),
)
def test_the_interval_is_scipys(values, level):
    mean, half, n = interval(values, level)
    low, high = scipy.stats.t.interval(level, n - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert n == len(values)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9, abs=1e-6)


def test_one_seed_has_a_mean_and_no_interval():
    mean, half, n = interval([0.25])
    assert (mean, n) == (0.25, 1)
    assert math.isnan(half)


def test_no_seed_has_neither():
    for values in ([], [math.nan, math.inf]):
        mean, half, n = interval(values)
        assert math.isnan(mean)
        assert math.isnan(half)
        assert n == 0


def test_a_seed_without_a_value_is_left_out_and_not_counted():
    assert interval([1.0, math.nan, 2.0, 6.0, math.inf]) == interval([1.0, 2.0, 6.0])


def test_equal_seeds_have_an_interval_of_zero():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.0, 3)
