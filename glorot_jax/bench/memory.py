"""Memory that a short sweep is planned to take beside what it is seen to take, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from glorot_jax.bench.engine import Size

STEPS = 40


def of(size: Size) -> dict[str, int] | None:
    """Returns ``predicted`` and ``measured`` bytes of training so many runs, None where nobody counts.

    Both are those of ``glorot status``: of a CPU all that the process takes beyond what it held before, of accelerators
    what the first device holds.
    """
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "glorot_jax.bench.memory", *map(str, dataclasses.astuple(size)), folder]
        done = subprocess.run(call, capture_output=True, check=False)
        return None if done.returncode else told(Path(folder, "results"))


def told(results: Path) -> dict[str, int] | None:
    """Returns what the manifest of a sweep of one shard says."""
    (path,) = results.glob("shards/*/manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    predicted, measured = manifest["planned"]["bytes_taken"], manifest["measured_bytes"]
    return None if measured is None else {"predicted": predicted, "measured": measured}


if __name__ == "__main__":
    from glorot_jax import run

    run(Size(*map(int, sys.argv[1:4])).sweep(probes=("weights",), steps=STEPS), Path(sys.argv[4], "results"))
