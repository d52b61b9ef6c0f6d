"""Memory that whole sweeps take, each in a process of its own, beside what was planned before their first step.

    python tests/benchmarks/memory.py

Networks of four hidden layers on the digits, on two CPU devices; the last column is to be within 0.9 … 1.1. On 2 cores
of an AMD EPYC it was 1.03, 1.05 and 1.01 for the first three.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from glorot_jax import Sweep, digits, grid, log_spaced, mlp, run, sgd

SIZES = ((300, 200), (700, 40), (1000, 16), (1500, 8))
"""Units of each layer, and how many networks."""


def sweep(units: int, runs: int) -> Sweep:
    return Sweep(
        name="memory",
        data=digits(),
        model=mlp(widths=(units,) * 4, activation=grid("tanh", "relu")),
        optimizer=sgd(learning_rate=0.01),
        seeds=range(runs // 2),
        steps=40,
        probes=("evaluation", "activations"),
        record=log_spaced(1),
    )


def main() -> None:
    print("| units | networks | planned MB | measured MB | ratio |\n| --- | --- | --- | --- | --- |")
    for units, runs in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
            subprocess.run([sys.executable, __file__, str(units), str(runs), folder], env=environment, check=True)
            (path,) = Path(folder).glob("memory/shards/*/manifest.json")
            manifest = json.loads(path.read_text())
        planned, measured = manifest["planned"]["bytes_taken"], manifest["measured_bytes"]
        print(
            f"| {units} | {runs} | {planned / 1e6:.0f} | {measured / 1e6:.0f} | {measured / planned:.2f} |", flush=True
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        run(sweep(int(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[3]) / "memory")
    else:
        main()
