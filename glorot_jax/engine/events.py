"""What happened to a sweep, line by line in its results folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glorot_jax.files import append_json_line

EVENTS = "events.jsonl"
"""What happened; each part of a division has such a file of its own, so that nobody writes into another's."""


def event(log: Path | None, kind: str, **facts: Any) -> None:
    """Appends what happened to a log, if there is one, with the time."""
    if log is None:
        return
    append_json_line(log, {"time": now(), "event": kind, **facts})


def now() -> str:
    """Returns the time in UTC, to the millisecond, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
