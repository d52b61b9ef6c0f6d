"""Which run has which place: nobody is mixed up, what is lost does not change, and who moves does so for a block."""

from __future__ import annotations

import numpy as np
import pytest

from glorot_jax.engine.layout import Layout
from glorot_jax.engine.places import Places

RUNS = 12


def layout(devices: int = 2) -> Layout:
    return Layout(runs=RUNS, width=2, devices=devices, room=4)


def state(runs: np.ndarray, age: int, diverged: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Of each run its number and the age at which it was made."""
    return {
        "params/w": np.stack([runs, np.full(len(runs), age)], axis=1).astype(np.float32),
        "diverged_step": np.where(np.isin(runs, diverged), age, -1).astype(np.int32),
        "first_nonfinite": np.where(np.isin(runs, diverged), 5, -1).astype(np.int32),
        "loss_sum": np.full(len(runs), 0.5, np.float32),
        "loss_count": np.full(len(runs), 3, np.int32),
    }


@pytest.fixture
def places() -> Places:
    made = Places(layout())
    made.take(state(made.runs, 1))
    return made


def ages(places: Places) -> list[int]:
    np.testing.assert_array_equal(places.state["params/w"][:, 0], np.arange(RUNS))
    return places.state["params/w"][:, 1].astype(int).tolist()


def test_at_first_every_run_has_its_place_and_all_are_taken(places):
    assert places.runs.tolist() == list(range(RUNS))
    assert not places.tighten()
    places.make_room()
    assert not places.state
    places.take(state(places.runs, 2))
    assert ages(places) == [2] * RUNS


@pytest.mark.parametrize(
    ("devices", "lost", "ratio"),
    [
        (1, (3,), None),  # six blocks as before
        (1, (3, 8), 5 / 6),
        (2, (3, 8), None),  # five blocks on two devices: three on one of them, as before
        (2, (0, 3, 8, 9), 2 / 3),
        (6, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), None),  # one block on each device
    ],
)
def test_runs_move_where_the_busiest_device_gets_fewer_blocks(devices, lost, ratio):
    places = Places(layout(devices))
    places.take(state(places.runs, 1, lost))
    before = places.layout.blocks_per_device
    assert places.tighten() == (ratio is not None)
    assert places.layout.blocks_per_device / before == pytest.approx(ratio or 1)
    left = [run for run in range(RUNS) if run not in lost or ratio is None]
    assert places.runs.tolist() == left
    assert places.layout.runs == len(left)
    assert places.state["params/w"][places.runs, 0].tolist() == left


def test_the_lost_stay_as_they_were_and_the_others_go_on(places):
    places.take(state(places.runs, 2, diverged=(0, 1, 7)))
    places.drop([4])
    places.make_room()  # there is none to be made: what was dropped is known here alone
    places.take(state(places.runs, 3, diverged=(0, 1, 7)))  # a dropped run goes on in its block: nobody looks
    assert ages(places) == [3, 3, 3, 3, 2, 3, 3, 3, 3, 3, 3, 3]
    assert places.tighten()
    assert places.runs.tolist() == [2, 3, 5, 6, 8, 9, 10, 11]
    places.take(state(places.runs, 4))
    assert ages(places) == [3, 3, 4, 4, 2, 4, 4, 3, 4, 4, 4, 4]
    assert np.flatnonzero(places.state["diverged_step"] >= 0).tolist() == [0, 1, 7]


def test_what_was_dropped_makes_no_more_updates_in_its_block_and_ends_as_it_was(places):
    places.take(state(places.runs, 2, diverged=(1,)))
    places.drop([4, 6])
    assert not places.tighten()
    marked = places.marked()
    assert marked["diverged_step"].tolist() == [-1, 2, -1, -1, 0, -1, 0, -1, -1, -1, -1, -1]
    assert marked["first_nonfinite"].tolist() == [-1, 5, -1, -1, 0, -1, 0, -1, -1, -1, -1, -1]
    places.take(marked)
    assert places.state["diverged_step"][[1, 4, 6]].tolist() == [2, -1, -1]


def test_records_of_the_lost_are_nan_and_all_others_are_where_they_belong(places):
    def measured() -> dict[str, np.ndarray]:
        return {"loss": np.repeat(places.runs[:, None], 2, axis=1).astype(np.float32)}

    np.testing.assert_array_equal(places.whole(measured())["loss"][:, 1], np.arange(RUNS))
    places.drop([2, 5])
    wanted = np.where(np.isin(np.arange(RUNS), (2, 5)), np.nan, np.arange(RUNS))
    np.testing.assert_array_equal(places.whole(measured())["loss"][:, 0], wanted)
    places.take(state(places.runs, 2, diverged=(0, 1)))
    assert places.tighten() is not None
    wanted[:2] = np.nan
    found = places.whole(measured())["loss"]
    np.testing.assert_array_equal(found[:, 1], wanted)
    assert found.dtype == np.float32


def test_who_moves_out_ends_with_an_empty_sum_of_losses_as_who_stays_does(places):
    places.take(state(places.runs, 2, diverged=(0, 1, 2, 3)))
    places.tighten()
    np.testing.assert_array_equal(places.state["loss_sum"], [0] * 4 + [0.5] * 8)
    np.testing.assert_array_equal(places.state["loss_count"], [0] * 4 + [3] * 8)


def test_resumed_it_begins_with_those_that_are_left():
    whole = state(np.arange(RUNS), 5, diverged=(1, 2))
    for array in whole.values():
        array.flags.writeable = False
    places = Places(layout(), dropped=[0], state=whole)
    assert places.runs.tolist() == list(range(3, RUNS))
    assert places.state["params/w"][places.runs, 0].tolist() == list(range(3, RUNS))
    assert places.state["loss_sum"][:4].tolist() == [0, 0, 0, 0.5]


def test_where_all_are_lost_nobody_is_left(places):
    places.take(state(places.runs, 2, diverged=tuple(range(RUNS))))
    assert places.tighten()
    assert len(places.runs) == 0
    assert ages(places) == [2] * RUNS
