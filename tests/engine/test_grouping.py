"""Programs are shared where that is quicker: on made-up seconds, against every way there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax.engine.planning.grouping import Candidate, grouped


def depths(compiling, seconds_a_layer, runs):
    """Networks of 1, 2, … layers: a program compiles in proportion to its deepest, and so do its runs."""
    return lambda first, last: Candidate(compiling * last, seconds_a_layer * last * sum(runs[first:last]))


def all_ways(parts):
    """Every way to cut parts in their order."""
    if not parts:
        yield ()
        return
    for first in range(parts):
        for way in all_ways(first):
            yield (*way, range(first, parts))


@pytest.mark.parametrize(
    ("seconds_a_layer", "expected"),
    [
        (0.001, [range(5)]),  # training is nothing: 5 s of compiling instead of 15
        (100.0, [range(i, i + 1) for i in range(5)]),  # training is all: padding a layer of a run costs more
        (1.5, [range(1), range(1, 3), range(3, 5)]),  # a pair pads 1.5 s and spares its shallower one's compiling
    ],
)
def test_short_trainings_share_a_program_and_long_ones_do_not(seconds_a_layer, expected):
    made = grouped(5, depths(1.0, seconds_a_layer, [1] * 5))
    assert list(made.groups) == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.floats(0.1, 30), st.floats(1e-3, 30), st.data())
def test_no_other_way_is_quicker(parts, compiling, seconds_a_layer, data):
    runs = data.draw(st.lists(st.integers(1, 20), min_size=parts, max_size=parts))
    candidate = depths(compiling, seconds_a_layer, runs)

    def seconds(groups):
        return sum(candidate(group.start, group.stop).seconds for group in groups)

    found = grouped(parts, candidate)
    assert seconds(found.groups) == pytest.approx(min(map(seconds, all_ways(parts))))
    assert [i for group in found.groups for i in group] == list(range(parts))
    assert sum(c.seconds for c in found.chosen) == pytest.approx(seconds(found.groups))


def test_where_it_is_all_the_same_programs_are_few():
    assert list(grouped(3, lambda first, last: Candidate(0.0, float(last - first))).groups) == [range(3)]


def test_always_and_never_ask_nobody():
    dear = depths(1.0, 100.0, [1] * 3)
    cheap = depths(1.0, 0.001, [1] * 3)
    assert list(grouped(3, dear, "always").groups) == [range(3)]
    assert list(grouped(3, cheap, "never").groups) == [range(1), range(1, 2), range(2, 3)]


def test_the_reason_is_the_sums():
    told = grouped(3, depths(2.0, 0.5, [1, 1, 2])).why
    assert told == "one program: 6 s of compiling + 6 s of training; 3 programs: 12 + 4.5 s"
