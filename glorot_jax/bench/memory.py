"""Memory that the plan predicts beside what a process of its own is seen to take."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

from glorot_jax.bench.engine import Engine, Size
from glorot_jax.engine import allocator

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def of(size: Size) -> dict[str, int] | None:
    """Returns ``predicted`` and ``measured`` bytes of training so many runs on all devices, None where nobody counts.

    Measured is what is taken at most while it trains, over what is left when all arrays have been let go.
    """
    call = [sys.executable, "-m", "glorot_jax.bench.memory", *map(str, (size.features, size.width, size.runs))]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None


def _here(size: Size) -> dict[str, int] | None:
    import jax

    from glorot_jax.engine import devices

    devices.configure()
    engine = Engine(size.sweep(probes=("weights",)))
    predicted = engine.layout.devices_used * _planned(engine)
    if jax.default_backend() != "cpu":
        engine.steps(engine.program.piece_steps)
        engine.record()
        measured = sum(device.memory_stats()["peak_bytes_in_use"] for device in devices.local())
        return {"predicted": predicted, "measured": measured}
    _tidy()  # what tracing and compiling left
    try:
        _CLEAR.write_text("5")  # the peak begins anew
    except OSError:
        return None
    engine.steps(engine.program.piece_steps)
    engine.record()
    peak = _bytes("VmHWM")
    for array in jax.live_arrays():  # and nothing else: what traced and compiled them stays
        array.delete()
    _tidy()
    return {"predicted": predicted, "measured": peak - _bytes("VmRSS")}


def _planned(engine: Engine) -> int:
    """Bytes of a device as the plan has them, the program's code left out."""
    from glorot_jax.engine.planning.memory import Working, need, told

    working = Working.through({engine.layout.width: told(engine.fleet.training, engine.fleet.compilation.operations)})
    footprint = need(engine.program, engine.arrays, working, engine.state[0]).of(engine.layout)
    return footprint.device - footprint.code


def _tidy() -> None:
    """Gives back what nobody uses any more, the allocator's leftovers with it."""
    gc.collect()
    allocator.trim()


def _bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    print(json.dumps(_here(Size(*map(int, sys.argv[1:4])))))
