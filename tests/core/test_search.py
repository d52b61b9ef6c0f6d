"""Rules that drop variants: who goes on, worked out by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from glorot_jax import at, dropping, every, grid, mlp, probe, sgd, shapeset, successive_halving
from glorot_jax.engine.sweep import Sweep, from_resolved
from glorot_jax.errors import InputError
from glorot_jax.search import Search

NAN = np.nan


def dropped(rule: Search, **values: list[float]) -> set[str]:
    """Names of the variants that are dropped: each is given the values of its seeds at the rung."""
    ids = {name: [f"{name}{seed}" for seed in range(len(seeds))] for name, seeds in values.items()}
    runs = [run for name in ids for run in ids[name]][::-1]  # in another order than the variants
    now = [value for seeds in values.values() for value in seeds][::-1]
    before = np.linspace(0, 1, len(now))  # an earlier record, which does not count
    records = xr.Dataset({"valid_error": (("run", "step"), np.stack([before, now], 1))}, {"run": runs, "step": [1, 5]})
    gone = set(rule.drop(records, list(ids.values())))
    found = {name for name in ids if gone & set(ids[name])}
    assert gone == {run for name in found for run in ids[name]}, "all seeds of a variant go together"
    return found


HALF = successive_halving(at=5, factor=2)


def test_the_better_half_by_the_mean_over_seeds_goes_on():
    assert dropped(HALF, a=[0.1, 0.9], b=[0.4, 0.5], c=[0.2, 0.2], d=[0.6, 0.6]) == {"a", "d"}


def test_one_in_factor_goes_on_rounded_down_but_at_least_so_many():
    seven = {name: [value] for name, value in zip("abcdefg", np.arange(7) / 10, strict=True)}
    assert dropped(successive_halving(at=5), **seven) == set("cdefg")
    assert dropped(successive_halving(at=5, keep=4), **seven) == set("efg")
    assert dropped(successive_halving(at=5, factor=8), **seven) == set("bcdefg")
    assert dropped(successive_halving(at=5, keep=7), **seven) == set()


def test_a_seed_without_a_value_is_left_out_and_a_variant_without_any_is_dropped_first():
    assert dropped(HALF, a=[NAN, 0.3], b=[0.2, 0.5], c=[NAN, NAN], d=[0.9, 0.9]) == {"c", "d"}
    assert dropped(HALF, a=[NAN], b=[NAN], c=[0.9], d=[NAN]) == {"b", "d"}


def test_among_equals_the_first_of_the_sweep_go_on():
    assert dropped(HALF, d=[0.5], c=[0.5], b=[0.5], a=[0.5]) == {"b", "a"}


def test_rungs_are_those_named_or_a_factor_apart():
    assert successive_halving(at=(8, 2, 8)).rungs(10) == (2, 8)
    assert successive_halving(first=10).rungs(91) == (10, 30, 90)
    assert successive_halving(first=10).rungs(90) == (10, 30)
    with pytest.raises(InputError, match=r"search\.at: step 8 is not before the last, 8"):
        successive_halving(at=(2, 8)).rungs(8)
    with pytest.raises(InputError, match=r"search\.first: step 8 is not before the last, 8"):
        successive_halving(first=8).rungs(8)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "successive_halving: it takes either at=.steps….? or first=step"),
        ({"at": 3, "first": 3}, "it takes either at"),
        ({"at": 0}, "successive_halving.at: 0 is not an integer ≥ 1"),
        ({"first": 3, "factor": 1}, "successive_halving.factor: 1 is not an integer ≥ 2"),
        ({"first": 3, "keep": 0}, "successive_halving.keep: 0 is not an integer ≥ 1"),
        ({"first": 3, "by": "test_error"}, "'test_error' would choose on test results"),
    ],
)
def test_a_wrong_rule_is_one_line(settings, line):
    with pytest.raises(InputError, match=line):
        successive_halving(**settings)


def mine(records, variants):
    return variants[-1][:1]


def sweep(**changes) -> Sweep:
    settings = {
        "name": "s",
        "data": shapeset(),
        "model": mlp(widths=(4,)),
        "optimizer": sgd(learning_rate=grid(0.1, 0.2)),
        "seeds": range(2),
        "steps": 100,
        "record": every(10),
    }
    return Sweep(**settings | changes)


def test_a_rule_is_no_part_of_a_runs_identity_and_comes_back_from_json():
    rule = successive_halving(first=10)
    assert [r.id for r in sweep(search=rule).runs()] == [r.id for r in sweep().runs()]
    assert sweep(search=rule).varying() == sweep().varying()
    assert from_resolved(sweep(search=rule).resolved()).search == rule
    assert from_resolved(sweep().resolved()).search is None
    assert sweep().with_settings(["search=successive_halving(first=10)"]).search == rule


def test_a_rule_of_ones_own_is_recorded_by_its_source_and_comes_back_from_its_file_alone():
    rule = dropping(mine, at=20)
    assert rule.drop(None, [["a0", "a1"], ["b0", "b1"]]) == ["b0"]
    told = sweep(search=rule).resolved()
    assert told["search"]["function"].startswith("mine@")
    with pytest.raises(InputError, match="run the sweep from its file or program"):
        from_resolved(told)
    with pytest.raises(InputError, match=r"dropping.function: a lambda has no name"):
        dropping(lambda records, variants: [], at=20)
    with pytest.raises(InputError, match=r"dropping.at: \(\) is empty"):
        dropping(mine, at=())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"search": successive_halving(at=25)}, "search: nothing is recorded at step 25\n  hint: the nearest .* 20"),
        ({"search": successive_halving(at=100)}, "search.at: step 100 is not before the last, 100"),
        ({"search": successive_halving(first=10), "record": at(10)}, "search: nothing is recorded at step 30"),
        ({"search": grid(None, successive_halving(at=10))}, "sweep.search: it can't be a grid"),
        ({"search": "halving"}, "Sweep.search: 'halving' is not successive_halving.…. | dropping"),
    ],
)
def test_a_sweep_whose_rule_could_not_decide_is_refused(changes, line):
    with pytest.raises(InputError, match=line):
        sweep(**changes)


def test_a_rung_may_lie_on_a_probes_own_schedule():
    made = sweep(record=at(50), probes=("evaluation", probe("weights", every(25))), search=successive_halving(at=25))
    assert made.search.rungs(100) == (25,)
