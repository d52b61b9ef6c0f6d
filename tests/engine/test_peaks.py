"""What a machine reaches is what its work took, and bounds follow from it."""

from __future__ import annotations

import itertools

import pytest

from glorot_jax.engine.planning import peaks as module
from glorot_jax.engine.planning.peaks import Machine, machine


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "SIDE", {"cpu": 64})
    monkeypatch.setattr(module, "COPIED", {"cpu": 2**16})


def test_least_seconds_are_the_work_over_the_rates():
    found = Machine(flops=4e9, bandwidth=1e9, flops_by={}, bandwidth_by={})
    assert found.seconds(flops=2e9, moved=3e8) == (0.5, 0.3)


def test_rates_are_work_over_time_by_the_clock_that_is_given(small):
    ticks = itertools.count()
    found = machine(("numpy", "jax"), rounds=2, clock=lambda: float(next(ticks)))
    cores = len(module.devices.local())
    assert found.flops_by["jax"] == cores * 2 * 64**3  # one tick of the clock a round
    assert found.flops_by["numpy"] == module.devices.cores() * 2 * 64**3
    for bytes_moved in found.bandwidth_by.values():
        assert bytes_moved == pytest.approx(2**16, rel=0.01)
    assert found.flops == max(found.flops_by.values())
    assert found.bandwidth == max(found.bandwidth_by.values())
