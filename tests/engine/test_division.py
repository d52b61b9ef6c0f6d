"""A sweep in parts: who trains what, real processes side by side, and the bits of the undivided sweep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glorot_jax import load
from glorot_jax.engine import division
from tests.engine.small import ROOT, assert_same_bits, parameters

SWEEP = """
from glorot_jax import Sweep, every, grid, mlp, sgd, shapeset

sweep = Sweep(
    name="parts",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=grid((6,), (6, 5)), activation=grid("sigmoid", "tanh")),
    optimizer=sgd(learning_rate=grid(0.05, 0.1)),
    seeds=range(3),
    steps=24,
    record=every(4),
    probes=("evaluation",),
)
"""


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "parts.py"
    path.write_text(SWEEP)
    return path


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "glorot_jax.cli", *map(str, arguments), "--no-progress"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it said on standard error, once it has ended as it should."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def undivided(sweep_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undivided") / "out"
    ended(start("run", sweep_file, "--out", out, "--width", 2))
    return out


def assert_same(one: Path, other: Path) -> None:
    assert parameters(one).keys() == parameters(other).keys()
    assert_same_bits(parameters(one), parameters(other))
    for cohort in load(one).cohorts:
        first, second = load(one).records(cohort), load(other).records(cohort)
        assert first.sel(run=second["run"].to_numpy()).identical(second)


def shards_of(out: Path, part: int) -> list[str]:
    return [piece.shard for piece in division.read(out).of(part)]


def test_four_parts_started_at_once_have_the_bits_of_one_process(sweep_file, undivided, tmp_path):
    out = tmp_path / "out"
    parts = [start("run", sweep_file, "--out", out, "--width", 2, "--shard", f"{i}/4") for i in range(4)]
    for part in parts:
        ended(part)
    assert all(len(shards_of(out, part)) == 1 for part in range(4))
    assert len(list(out.glob("shards/*/"))) == 4
    assert_same(out, undivided)
