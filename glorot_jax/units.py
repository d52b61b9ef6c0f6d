"""Numbers with their units, for a screen."""

from __future__ import annotations


def size(count: float) -> str:
    """Returns bytes with three digits, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if count < 999.5:  # beyond that three digits would have an exponent
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 999.5 else f"{count:,.0f} GiB"
