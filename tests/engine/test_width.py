"""How many runs are vmapped together: by sizes, by memory, by a stopwatch that is made up here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning import machine, width
from glorot_jax.engine.planning.machine import USUAL_CACHES, Caches
from glorot_jax.engine.planning.width import MOST, Width, best_of, by_rule, calibrated, candidates

MIB = 2**20


@settings(deadline=None)
@given(
    st.integers(1, 10**9),
    st.integers(0, 10**9),
    st.integers(1, 10**5),
    st.sampled_from(sorted(MOST)),
    st.integers(1, 8),
    st.integers(0, 2**26),
)
def test_the_rule_gives_a_power_of_two_on_a_cpu_and_leaves_no_device_idle(
    weights, kept, runs, platform, devices, cache
):
    found = by_rule(weights, kept, runs, platform, devices, Caches(MIB, cache))
    assert platform != "cpu" or found.runs & (found.runs - 1) == 0
    assert 1 <= found.runs <= MOST[platform]
    assert Layout(runs, found.runs, devices, 32).devices_used >= min(runs, devices) / 2
    assert (found.runs - 1) * devices < runs, "no block that the others' runs had to fill"
    assert found.why
    assert found.by == "rule"


@pytest.mark.parametrize("which", ["weights", "activations"])
def test_small_networks_are_vmapped_and_large_ones_taken_in_turn_on_a_cpu(which):
    def runs(size: int, platform: str = "cpu") -> int:
        sizes = {"weights": 1, "activations": 1} | {which: size}
        return by_rule(**sizes, runs=1024, platform=platform, devices=1, caches=USUAL_CACHES).runs

    found = [runs(size) for size in (4 * 10**3, 4 * 10**4, 4 * 10**5, 10**6, 2 * 10**7)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (16, 1)
    assert len(set(found)) > 2
    assert runs(2 * 10**7, "gpu") == 1024


def test_a_block_takes_a_fourth_of_a_cores_caches_with_its_weights_and_half_with_its_activations():
    def runs(weights: int, kept: int, caches: Caches) -> int:
        return by_rule(weights, kept, 1024, "cpu", 1, caches).runs

    assert runs(MIB, 1, Caches(MIB, 15 * MIB)) == 4
    assert runs(1, MIB, Caches(MIB, 15 * MIB)) == 8
    assert runs(MIB, 1, Caches(MIB, 7 * MIB)) == 2
    assert runs(MIB, 1, Caches(MIB, 0)) == 1
    assert runs(MIB // 8, 1, Caches(2 * MIB, 0)) == 4


def test_a_narrower_block_is_taken_where_the_wider_one_would_be_empty_in_part():
    def runs(count: int) -> int:
        return by_rule(1, 1, count, "cpu", 2, USUAL_CACHES).runs

    assert runs(64) == 16
    assert runs(48) == 8, "two blocks of 16 and one empty place in four, or three of 8 on each device"
    assert runs(17) == 4, "24 places instead of 32"
    assert runs(40) == 8, "40 places instead of 48 are not worth it"


def test_an_accelerator_takes_what_its_memory_has_room_for():
    def found(most: int | None) -> Width:
        return by_rule(1, 1, 4096, "gpu", 1, USUAL_CACHES, most)

    assert found(None).runs == found(5000).runs == MOST["gpu"]
    assert (found(256).runs, found(256).why) == (256, "as many as its memory has room for")
    assert found(300).runs == 293, "fourteen blocks, the last one full but for 6 places"
    assert found(0).runs == 1
    assert by_rule(1, 1, 45, "gpu", 1, USUAL_CACHES).runs == 45, "its blocks would train in turn"
    assert by_rule(1, 1, 45, "gpu", 2, USUAL_CACHES).runs == 23


# ---- the machine's caches


def described(folder, *caches, monkeypatch, mine=frozenset(range(64))):
    """A folder such as Linux has: of each cache level, kind, size and which processors share it."""
    monkeypatch.setattr("glorot_jax.engine.devices.usable", lambda: set(mine))
    for i, (level, kind, size, sharing) in enumerate(caches):
        (folder / f"index{i}").mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", sharing)):
            (folder / f"index{i}" / name).write_text(f"{text}\n")
    return machine.caches(folder)


LEVELS = ((1, "Data", "48K", "0"), (1, "Instruction", "32K", "0"), (2, "Unified", "1024K", "0"))


def test_caches_are_read_and_those_that_are_shared_divided(tmp_path, monkeypatch):
    found = described(tmp_path, *LEVELS, (3, "Unified", "32M", "0-3,8-11"), monkeypatch=monkeypatch)
    assert found == Caches(MIB, 4 * MIB)
    assert found.a_core == 5 * MIB


def test_only_cores_that_this_process_may_use_take_a_part_of_a_cache(tmp_path, monkeypatch):
    shared = (3, "Unified", "32768K", "0-7")
    assert described(tmp_path, *LEVELS, shared, monkeypatch=monkeypatch, mine={0, 1}) == Caches(MIB, 16 * MIB)


def test_where_nobody_says_what_the_caches_are_the_usual_ones_are_taken(tmp_path, monkeypatch):
    assert machine.caches(tmp_path / "none") == USUAL_CACHES
    assert described(tmp_path, (2, "Unified", "odd", "0"), monkeypatch=monkeypatch) == USUAL_CACHES


# ---- by a stopwatch

RULE = Width(8, "as it is", "rule")


class Stopwatch:
    """Says what it is told to, and keeps count."""

    def __init__(self, seconds):
        self.seconds, self.asked = seconds, []

    def __call__(self, runs):
        self.asked.append(runs)
        return self.seconds[runs]


def found(stopwatch, kept, training=1e6, compiling=1.0):
    return calibrated(RULE, sorted(stopwatch.seconds), stopwatch, training, lambda: compiling, kept)


def test_the_quickest_width_is_taken_and_the_narrowest_of_those_that_are_as_good(tmp_path):
    assert best_of({4: 9.0, 8: 5.0, 16: 7.0}) == 8
    assert best_of({4: 5.1, 8: 5.0, 16: 5.0}) == 4
    assert best_of({64: 5.3, 128: 5.01, 256: 5.0, 512: 5.0}) == 128, "flat beyond saturation"
    made = found(Stopwatch({4: 9.0, 8: 5.0, 16: 4.0}), tmp_path / "kept.json")
    assert (made.runs, made.by, made.tried) == (16, "calibration", {4: 9.0, 8: 5.0, 16: 4.0})


def test_what_the_stopwatch_said_is_kept_and_not_asked_again(tmp_path):
    first, second = Stopwatch({4: 9.0, 8: 5.0}), Stopwatch({4: 1.0, 8: 5.0})
    one = found(first, tmp_path / "sub" / "kept.json")
    assert first.asked == [4, 8]
    assert found(second, tmp_path / "sub" / "kept.json", training=0.0) == one, "even where none would be made"
    assert second.asked == []
    (tmp_path / "sub" / "kept.json").write_text("{")
    assert found(second, tmp_path / "sub" / "kept.json").runs == 4


def test_no_stopwatch_where_training_is_short_against_compiling(tmp_path):
    stopwatch = Stopwatch({4: 9.0, 8: 5.0, 16: 4.0})
    made = found(stopwatch, tmp_path / "kept.json", training=8.9, compiling=1.0)
    assert (made.runs, made.by, made.tried, stopwatch.asked) == (8, "rule", None, [])
    assert made.untried == "compiling 3 to try would take 3 s, training about 9 s"
    assert found(stopwatch, tmp_path / "kept.json", training=9.1, compiling=1.0).by == "calibration"


def test_no_stopwatch_where_there_is_no_choice(tmp_path):
    made = calibrated(RULE, (8,), Stopwatch({}), 1e9, lambda: 0.0, tmp_path / "kept.json")
    assert (made.runs, made.untried) == (8, "there is no other")


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(1, 10**4), st.integers(1, 8), st.sampled_from(sorted(MOST)))
def test_widths_to_try_are_few_and_leave_no_device_idle(power, runs, devices, platform):
    rule = min(2**power, 2 ** ((-(-runs // devices)).bit_length() - 1), MOST[platform])
    tried = candidates(rule, runs, devices, platform)
    assert rule in tried
    assert len(tried) <= 4
    assert list(tried) == sorted(set(tried))
    assert all((w - 1) * devices < runs for w in tried)
    assert platform == "cpu" or max(tried) == rule, "no more than memory has room for"
    assert width.MOST_TRIED[platform] >= max(tried)
