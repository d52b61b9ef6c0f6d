"""Status tells what was planned beside what it came to: on a made-up manifest, by hand."""

from __future__ import annotations

import pytest

from glorot_jax.analysis.status import _reckoning, _reckoning_lines

MANIFEST = {
    "state": "training",
    "step": 300,
    "first_step": -100,
    "steps": 1000,
    "runs": 5,
    "planned": {"seconds_per_run_step": 2e-3, "compile_seconds": 12.0, "bytes_taken": 2**30},
    "measured_bytes": 3 * 2**29,
    "compilation": {"programs": 2, "from_cache": 1, "seconds": 1.5, "each": []},
    "probes": {
        "planned": {"share": 0.2},
        "measured": {"step_seconds": 3.0, "records": [{"due": 1, "count": 2, "seconds": 9.0}]},
    },
}


def told(**changes):
    manifest = MANIFEST | changes
    shard = {"state": manifest["state"], "compilation": manifest.get("compilation")}
    return _reckoning_lines(shard | {"reckoning": _reckoning(manifest)})


def test_what_was_measured_stands_beside_what_was_planned():
    found = _reckoning(MANIFEST)
    assert found["seconds_per_run_step"] == {"planned": 2e-3, "measured": pytest.approx(3.0 / (400 * 5))}
    assert found["compile_seconds"] == {"planned": 12.0, "measured": 1.5}
    assert found["bytes"] == {"planned": 2**30, "measured": 3 * 2**29}
    assert told() == [
        "    1.5e+03 µs a run-step (planned 2e+03) · 1.5 GiB of memory (planned 1 GiB) · about 7 s left",
        "    2 programs compiled in 1.5 s (planned 12 s cold), 1 from the cache",
    ]


def test_the_time_that_is_left_is_that_of_updates_and_of_the_probes_planned_share():
    left = _reckoning(MANIFEST)["seconds_left"]["measured"]
    assert left == pytest.approx(700 * 3.0 / 400 / (1 - 0.2))
    unplanned = MANIFEST["probes"] | {"planned": None}
    left = _reckoning(MANIFEST | {"probes": unplanned})["seconds_left"]["measured"]
    assert left == pytest.approx(700 * 3.0 / 400 / (3.0 / 12.0)), "their share so far: 9 s of 12"
    assert _reckoning(MANIFEST | {"state": "done"})["seconds_left"]["measured"] == 0.0


def test_what_nobody_knows_is_left_out():
    nothing = {"planned": None, "measured_bytes": None, "compilation": None, "probes": None}
    assert told(**nothing) == []
    (line, _) = told(measured_bytes=None, step=-100, probes=None)
    assert line == "    memory planned 1 GiB"
    assert all(len(line) <= 100 for line in told())
