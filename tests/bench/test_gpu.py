"""The script for GPUs, its parts in small on a CPU: what a GPU adds is speed, not code that never ran."""

from __future__ import annotations

import importlib.util
import json

import pytest

from glorot_jax.engine import compiling
from glorot_jax.engine.planning.peaks import Machine
from tests.conftest import ROOT

spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "tests" / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

SMALLEST = gpu.TINY._replace(rounds=1, turn=0.001, forms=("xla", "pallas"), runs=(4,))


def test_both_kernels_are_timed_and_held_against_float64(monkeypatch):
    monkeypatch.setattr(gpu, "PRECISIONS", ("float32", "bfloat16"))
    rows = gpu.kernels(SMALLEST)
    assert [(row["kernel"], row["pass"], row["precision"]) for row in rows] == [
        (kernel, way, precision)
        for precision in ("float32", "bfloat16")
        for kernel in ("xla", "pallas")
        for way in ("forward", "backward and update")
    ]
    for row in rows:
        assert row["seconds"] > 0
        assert row["gb_s"] > 0
        assert (row["off"] < 1e-6) == (row["precision"] == "float32")
        assert row["off"] < 0.01


def test_the_step_is_held_against_the_bound_and_what_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(gpu, "PRECISIONS", ("bfloat16",))
    monkeypatch.setattr(gpu, "machine", lambda libraries: Machine(1e9, 2e9, {}, {}))
    plain, pallas = gpu.step(SMALLEST)
    assert plain["share"] == pytest.approx(plain["bound"] / plain["seconds"])
    assert plain["bound"] == pytest.approx(SMALLEST.step.moved / 2e9)
    assert pallas["failed"] == "for GPUs only, not cpu"
    assert gpu.FULL.step.moved == pytest.approx(77e6, rel=0.01), "bytes of four weight passes of 784-1000×5-10"


def test_a_step_is_timed_with_more_and_more_runs_lost():
    rows = gpu.lost(SMALLEST)
    assert [(row["lost"], row["of"]) for row in rows] == [(0, 4), (2, 4), (4, 4)]
    assert [row["share"] for row in rows] == [pytest.approx(row["seconds"] / rows[0]["seconds"]) for row in rows]


def test_a_part_that_fails_or_has_no_time_left_is_told_and_the_others_are_written(monkeypatch, tmp_path):
    made = {
        "step": [{"kernel": "xla", "seconds": 1e-6, "share": 0.5}],
        "scaling": [
            {
                "network": "6-8×5-10",
                "runs": runs,
                "devices": 1,
                "seconds": {"engine": [2e-6, 3e-6, 4e-6]},
                "bounds": {"bandwidth": 1e-6, "arithmetic": 5e-7},
            }
            for runs in (4, 8)
        ],
        "bits": [{"digest": "00"}],
    }
    monkeypatch.setattr(gpu, "_apart", lambda part, left, tiny: made.get(part, [{"failed": "exit 1: no GPU"}]))
    found = gpu.run_all(tmp_path, 8.0, tiny=True)
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    assert list(found["parts"]) == [
        "step",
        "profile",
        "lost",
        "kernels",
        "torch",
        "scaling",
        "graphs",
        "bits",
        "bits again",
    ]
    text = (tmp_path / "gpu.md").read_text()
    assert "| xla | 1 µs | 0.5 |" in text
    assert text.count("exit 1: no GPU") == 5
    assert text.endswith("Bits of two processes: the same.\n")
    assert (tmp_path / "gpu.csv").read_text().splitlines()[1:] == ["4,3e-06,1e-06,5e-07", "8,3e-06,1e-06,5e-07"]
    assert (tmp_path / "gpu.png").stat().st_size > 1000


def test_a_process_that_fails_gives_its_last_words(monkeypatch):
    assert gpu._apart("bits", 1.0, tiny=True) == [{"failed": "no time was left"}]
    monkeypatch.setattr(gpu.sys, "executable", "/bin/false")
    (row,) = gpu._apart("bits", 60.0, tiny=True)
    assert row["failed"].startswith("exit 1")


def test_options_are_left_to_xla_for_a_while_alone():
    def ours() -> set[str]:
        return set(compiling.options("gpu", "", "cuda 12090"))

    before = ours()
    with gpu._left_to_xla("--xla_gpu_autotune_level=…"):
        assert before - ours() == {"xla_gpu_autotune_level"}
    assert ours() == before
