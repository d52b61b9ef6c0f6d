"""How much memory a device has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def free(device: Any) -> int | None:
    """Returns the bytes that are free on a device, the machine's or the container's for a CPU; None if nobody says."""
    if device.platform == "cpu":
        return free_on_host()
    said = device.memory_stats() or {}
    return int(said["bytes_limit"]) - int(said.get("bytes_in_use", 0)) if "bytes_limit" in said else None


def free_on_host() -> int | None:
    """Returns the bytes that are free in the machine's own memory, or the container's; None if nobody says."""
    return min((n for n in (_machine(), _container()) if n is not None), default=None)


def _machine() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container() -> int | None:
    """What a cgroup leaves; the page cache that it counts can be given back and is not in the way."""
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return None if limit == "max" else int(limit) - int(used) + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
