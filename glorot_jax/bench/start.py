"""What it takes from the command to the first update: in a process of its own, by its own account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from glorot_jax.errors import ResumableError

LONGEST = 600.0
"""Seconds that a start may take."""


def started(caches: Path, sweep: str = "quickstart", settings: tuple[str, ...] = ()) -> dict[str, float]:
    """Starts ``glorot run`` and ends it at its first update.

    Args:
        caches: the folder of all its caches; what they hold, it uses.
        settings: values to override, such as ``steps=100``.

    Returns:
        ``process``, the seconds of processor time of all its threads, and ``wall``.

    Raises:
        ResumableError: it ended, or ten minutes went by, before the first update; the line has its last words.
    """
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {"XDG_CACHE_HOME": str(caches)}
    changes = [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-m", "glorot_jax.cli", "run", sweep, "--no-progress", "--out", str(results)]
        begin = datetime.now(UTC)
        with (Path(folder) / "said").open("w+b") as said:
            child = subprocess.Popen([*command, *changes], env=environment, stdout=said, stderr=said)
            try:
                event = _first_update(child, results / "events.jsonl")
            finally:
                child.kill()
                child.wait()
            if event is None:
                said.seek(0)
                words = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise ResumableError(f"start: glorot run {sweep} made no update: {words[0]}")
    wall = (datetime.fromisoformat(str(event["time"])) - begin).total_seconds()
    return {"process": float(event["process_seconds"]), "wall": wall}


def _first_update(child: subprocess.Popen, events: Path) -> dict | None:
    until = time.monotonic() + LONGEST
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
        if (event := _found(events)) is not None:
            return event
    return _found(events)


def _found(events: Path) -> dict | None:
    if not events.exists():
        return None
    whole = [line for line in events.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return next((e for e in map(json.loads, whole) if e["event"] == "first update"), None)
