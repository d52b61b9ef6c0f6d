"""The machine's peaks are measured once and kept; shares of them are plain ratios."""

from __future__ import annotations

import pytest

from glorot_jax.engine.planning import machine
from glorot_jax.engine.planning import peaks as bench
from glorot_jax.engine.planning.machine import Peaks


def test_peaks_are_measured_once_a_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def measured():
        calls.append(1)
        return bench.Machine(2e11, 3e10, {"numpy": 2e11, "jax": 1e11}, {"numpy": 3e10})

    monkeypatch.setattr(bench, "machine", measured)
    assert machine.known() is None
    assert machine.peaks() == machine.peaks() == machine.known() == Peaks(2e11, "numpy", 3e10)
    assert len(calls) == 1
    for path in tmp_path.rglob("*.json"):
        path.write_text("{}")
    machine.peaks()
    assert len(calls) == 2


def test_shares_are_those_of_either_peak():
    assert Peaks(1e9, "jax", 1e8).shares(5e8, 1e8, 2.0) == (pytest.approx(0.25), pytest.approx(0.5))
