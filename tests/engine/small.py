"""A sweep small enough to be trained in a test, and how its results are compared bit for bit."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glorot_jax import Sweep, at, grid, load, mlp, sgd, shapeset
from glorot_jax.engine import checkpoint, shard, watching
from glorot_jax.engine.fleet import Fleet

ROOT = Path(__file__).parents[2]


def sweep(**changes: Any) -> Sweep:
    settings: dict[str, Any] = {
        "name": "small",
        "data": shapeset(size=16, validation=100, test=100),
        "model": mlp(widths=(16, 12), activation=grid("sigmoid", "tanh"), init=grid("standard", "normalized")),
        "optimizer": sgd(learning_rate=0.05),
        "seeds": range(3),
        "steps": 40,
        "record": at(5, 17, 29),
        "examples": 30,
        "jacobian_examples": 2,
    }
    return Sweep(**settings | changes)


class DiesAtThirdCommit(watching.Silent):
    """A watcher under which the process dies when the third segment has been committed."""

    commits = 0

    def advance(self, news: watching.Advance) -> None:
        self.commits += 1
        if self.commits == 3:
            raise KeyboardInterrupt


def parameters(results: Path) -> dict[str, dict[str, np.ndarray]]:
    """The committed state of each run: id -> path -> array."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for part, ids in shard.open_all(results):
        state = checkpoint.restore(part.checkpoints, part.manifest["checkpoint"])
        for i, run in enumerate(ids):
            found[run] = {path: array[i] for path, array in state.items()}
    return found


def records(results: Path) -> dict[str, dict[str, np.ndarray]]:
    """The records of each run: id -> name -> array over steps."""
    found = load(results).records()
    return {
        str(run): {str(name): found[name].sel(run=run).to_numpy() for name in found.data_vars}
        for run in found["run"].to_numpy()
    }


def assert_same_bits(one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]) -> None:
    """For every run that both hold, every array is the same to the last bit."""
    common = one.keys() & other.keys()
    assert common
    for run in common:
        assert one[run].keys() == other[run].keys()
        for name in one[run]:
            if name.endswith("activation.index"):
                continue  # which place a function has in its cohort's table, not a result
            assert one[run][name].tobytes() == other[run][name].tobytes(), (run, name)


@contextlib.contextmanager
def training_programs() -> Iterator[list[str]]:
    """Within it, the text of every training program that is compiled."""
    texts: list[str] = []
    compile = Fleet.compile

    def noted(fleet: Fleet, state: Any) -> float:
        seconds = compile(fleet, state)
        texts.append(fleet.text(state))
        return seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fleet, "compile", noted)
        yield texts


def assert_no_callback_and_no_collective(program: str, part: str = "lapack") -> None:
    """A compiled training program talks to nobody; ``part`` is a word that is there if its probes are in it."""
    lines = [line for line in program.splitlines() if " = " in line]
    text = "\n".join(re.sub(r"metadata={.*?}", "", line) for line in lines)
    assert part in text, "the probes are in the program"
    assert not re.findall(r"callback|outfeed|infeed|host_", text)
    assert not re.findall(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter|\bsend\(|\brecv\(", text)


def train_under_kills(out: Path, program: str, kills: int, **environment: str) -> None:
    """Runs a program that trains into ``out`` again and again, each time on another number of devices.

    So many times it is SIGKILLed while it trains, at random moments; then it is left to end.

    Args:
        program: Python; its first argument is ``out``. It has to commit a step each, more than four a life.
    """
    chance = random.Random(0)
    for life in range(kills + 1):
        count = str((4, 1, 2)[life % 3])
        own = {**os.environ, "JAX_NUM_CPU_DEVICES": count, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
        worker = subprocess.Popen([sys.executable, "-c", program, str(out)], env={**own, **environment})
        if life == kills:
            assert worker.wait(timeout=300) == 0
            break
        goal = _generation(out) + chance.randrange(4)
        while _generation(out) < goal and worker.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        assert worker.poll() is None, "it was killed while it trained"
        worker.send_signal(signal.SIGKILL)
        worker.wait()


def _generation(out: Path) -> int:
    found = list(out.glob("shards/*/manifest.json"))
    return int(re.search(r'"generation": (\d+)', found[0].read_text())[1]) if found else 0
