"""Memory that whole sweeps take, each in a process of its own, beside what was planned before their first step.

    python tests/benchmarks/memory.py

The last column is to be within 0.9 … 1.1; ``results/epyc-2-cores/memory.md`` has the table of a machine. Inputs: those
of the digits (64 pixels), pictures that are drawn inside the step (784 pixels, nothing of them is on a device but the
sets for evaluation) and 60,000 of them that lie on each device (47 MB).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from glorot_jax import Sweep, digits, grid, log_spaced, mlp, run, sgd, shapeset
from glorot_jax.bench.memory import told

DATA = {"digits": digits(), "drawn": shapeset(size=28), "held": shapeset(size=28, examples=60_000)}
SIZES = (
    ("digits", 32, 4, 64),
    ("digits", 32, 4, 1024),
    ("digits", 32, 4, 4096),
    ("digits", 300, 4, 200),
    ("digits", 700, 4, 40),
    ("digits", 1000, 4, 16),
    ("digits", 1500, 4, 8),
    ("drawn", 128, 5, 48),
    ("held", 128, 5, 48),
    ("drawn", 1000, 5, 4),
    ("held", 1000, 5, 16),
)
"""Data, units of each layer, layers, and how many networks."""
DEVICES = (1, 2)


def sweep(data: str, units: int, layers: int, networks: int) -> Sweep:
    return Sweep(
        name="memory",
        data=DATA[data],
        model=mlp(widths=(units,) * layers, activation=grid("tanh", "relu")),
        optimizer=sgd(learning_rate=0.01),
        seeds=range(networks // 2),
        steps=40,
        probes=("evaluation", "activations"),
        record=log_spaced(1),
    )


def taken(devices: int, *size: str | int) -> tuple[int, int]:
    """Returns the bytes that were planned and measured."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        subprocess.run([sys.executable, __file__, *map(str, size), folder], env=environment, check=True)
        found = told(Path(folder, "memory"))
    assert found is not None, "the system does not tell"
    return found["predicted"], found["measured"]


def main() -> None:
    print("| data | network | networks | devices | planned MB | measured MB | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for data, units, layers, networks in SIZES:
        for devices in DEVICES:
            planned, measured = taken(devices, data, units, layers, networks)
            cells = data, f"{units}x{layers}", networks, devices, f"{planned / 1e6:.0f}", f"{measured / 1e6:.0f}"
            print("|", " | ".join(map(str, cells)), f"| {measured / planned:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        data, *size, folder = sys.argv[1:]
        run(sweep(data, *map(int, size)), Path(folder) / "memory")
    else:
        main()
