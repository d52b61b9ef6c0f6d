"""Contestants take turns, each for about as long, and a ratio is one of times that were taken side by side."""

from __future__ import annotations

import pytest

from glorot_jax.bench.turns import Contestant, ratio, take_turns


class World:
    """A clock that goes only while somebody works."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def contestant(self, name: str, seconds: float, runs: int) -> Contestant:
        def steps(count: int) -> None:
            self.now += count * runs * seconds
            self.order.append(name)

        return Contestant(steps, runs)


def test_seconds_are_those_of_one_run_and_step():
    world = World()
    two = {"one": world.contestant("one", 1e-3, 1), "many": world.contestant("many", 1e-5, 50)}
    seen = take_turns(two, 3, 0.5, lambda: world.now, {"beside": lambda: 7.0})
    assert seen["one"] == pytest.approx([1e-3] * 3)
    assert seen["many"] == pytest.approx([1e-5] * 3)
    assert seen["beside"] == [7.0] * 3
    assert world.order[-6:] == ["one", "many"] * 3


def test_a_turn_takes_about_the_seconds_that_are_asked_for():
    world = World()
    begin_of_round = []
    one = {"slow": world.contestant("slow", 0.2, 1), "quick": world.contestant("quick", 1e-6, 4)}
    take_turns(one, 2, 0.4, lambda: world.now, {"mark": lambda: begin_of_round.append(world.now) or 0.0})
    assert begin_of_round[1] - begin_of_round[0] == pytest.approx(0.4 + 0.2, rel=0.01)  # 50 000 quick steps at most


def test_the_ratio_is_the_median_of_the_rounds_own():
    assert ratio([2.0, 30.0, 5.0], [1.0, 10.0, 1.0]) == 3.0  # that of medians would be 5


def test_a_turn_has_at_least_the_steps_that_a_contestant_wants():
    world = World()
    counts = []
    steps = world.contestant("one", 1.0, 1).steps
    wanting = Contestant(lambda count: (counts.append(count), steps(count)), 1, least=64)
    assert take_turns({"one": wanting}, 1, 0.1, lambda: world.now)["one"] == [1.0]
    assert counts[-1] == 64
