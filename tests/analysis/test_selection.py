"""Settings are chosen by validation results alone, and a setting that loses seeds does not win by the survivors."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from glorot_jax.analysis.selection import select, with_depth
from glorot_jax.errors import InputError

NAN = math.nan


def runs(valid: dict[tuple[str, float], list[float]]) -> pd.DataFrame:
    """One row a seed; test results are such that whoever looks at them chooses otherwise."""
    rows = [
        {"init": init, "lr": lr, "seed": seed, "valid_error": error, "valid_loss": -error, "test_error": 1 - error}
        for (init, lr), errors in valid.items()
        for seed, error in enumerate(errors)
    ]
    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame) -> dict[str, float]:
    assert (table.groupby("init")["lr"].nunique() == 1).all()
    return dict(zip(table["init"], table["lr"], strict=True))


def test_each_variant_keeps_the_setting_with_the_lowest_mean_over_seeds():
    table = runs({("a", 0.1): [0.2, 0.4], ("a", 0.2): [0.1, 0.3], ("b", 0.1): [0.1, 0.1], ("b", 0.2): [0.0, 0.3]})
    kept = select(table, ["init"], "lr")
    assert chosen(kept) == {"a": 0.2, "b": 0.1}
    assert len(kept) == 4


def test_the_validation_column_decides():
    table = runs({("a", 0.1): [0.2, 0.4], ("a", 0.2): [0.1, 0.3]})
    assert chosen(select(table, ["init"], "lr", "valid_loss")) == {"a": 0.1}


def test_a_setting_that_loses_a_seed_is_not_chosen_for_its_survivors():
    table = runs({("a", 0.1): [0.5, 0.5], ("a", 0.9): [0.0, NAN]})
    assert chosen(select(table, ["init"], "lr")) == {"a": 0.1}


def test_where_all_lose_seeds_the_fewer_lost_win_and_then_the_lower_mean():
    table = runs(
        {
            ("a", 0.1): [0.5, 0.5, NAN],
            ("a", 0.2): [0.4, 0.5, NAN],
            ("a", 0.9): [0.0, NAN, NAN],
            ("b", 0.1): [NAN, NAN, NAN],
            ("b", 0.2): [0.9, NAN, NAN],
        }
    )
    kept = select(table, ["init"], "lr")
    assert chosen(kept) == {"a": 0.2, "b": 0.2}
    assert len(kept) == 6  # the lost seeds stay, to be counted


def test_where_every_seed_is_lost_one_setting_is_still_shown():
    kept = select(runs({("a", 0.1): [NAN, NAN], ("a", 0.2): [NAN, NAN]}), ["init"], "lr")
    assert len(kept) == 2


def test_without_variants_one_setting_is_chosen_for_all():
    table = runs({("a", 0.1): [0.2, 0.4], ("b", 0.1): [0.5, 0.5], ("a", 0.2): [0.3, 0.5], ("b", 0.2): [0.1, 0.1]})
    assert set(select(table, [], "lr")["lr"]) == {0.2}


def test_several_settings_are_chosen_as_a_combination():
    """Either alone, averaged over the other, would choose otherwise: (0.1, 1) has the lowest mean."""
    errors = {(0.1, 1): 0.1, (0.1, 2): 0.9, (0.2, 1): 0.5, (0.2, 2): 0.2}
    rows = [
        {"init": "a", "lr": lr, "depth": depth, "seed": seed, "valid_error": error + seed / 100}
        for (lr, depth), error in errors.items()
        for seed in range(2)
    ]
    for names in (["lr", "depth"], ["depth", "lr"]):
        kept = select(pd.DataFrame(rows), ["init"], names)
        assert kept[["lr", "depth"]].to_numpy().tolist() == [[0.1, 1], [0.1, 1]]


def test_depth_is_the_number_of_hidden_layers():
    configurations = pd.DataFrame({"model.widths": ["[6, 6]", "[8]", None]}, index=["x", "y", "z"])
    kept = with_depth(pd.DataFrame({"seed": [0, 1, 2]}, index=["x", "y", "z"]), configurations)
    assert kept["depth"].fillna(-1).tolist() == [2, 1, -1]


@pytest.mark.parametrize("by", ["test_error", "test_loss", "test_error_at_best_valid"])
def test_test_results_are_refused(by):
    table = runs({("a", 0.1): [0.2], ("a", 0.2): [0.1]}).assign(test_loss=0.0, test_error_at_best_valid=0.0)
    with pytest.raises(InputError, match=f"by: '{by}' would choose on test results"):
        select(table, ["init"], "lr", by)


@pytest.mark.parametrize("by", ["seed", "init", "vald_error"])
def test_what_is_no_validation_result_is_refused_and_the_nearest_named(by):
    with pytest.raises(InputError, match=f"by: '{by}' is not known\n.*known: valid_error, valid_loss") as caught:
        select(runs({("a", 0.1): [0.2]}), ["init"], "lr", by)
    assert ("'valid_error'?" in str(caught.value)) == (by == "vald_error")


def test_a_variant_without_the_setting_is_kept_whole():
    table = runs({("a", 0.1): [0.2, 0.4], ("a", 0.2): [0.1, 0.3], ("b", NAN): [0.5, 0.5]})
    kept = select(table, ["init"], "lr")
    assert kept["init"].tolist() == ["a", "a", "b", "b"]
