"""The command of a worker is what a person would type."""

from __future__ import annotations

import sys

from glorot_jax import workers


def test_a_worker_is_the_command_that_a_person_would_type_with_its_part_behind():
    alone = workers.command(["quickstart", "--out", "there", "--set", "steps=10"])
    assert alone == [sys.executable, "-m", "glorot_jax.cli", "run", "quickstart", "--out", "there", "--set", "steps=10"]
    assert workers.command(["quickstart"], (3, 16)) == [*alone[:5], "--shard", "3/16"]
