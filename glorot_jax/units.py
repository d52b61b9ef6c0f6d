"""Numbers with their units, for a screen."""

from __future__ import annotations


def size(count: float) -> str:
    """Returns bytes with three digits, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
