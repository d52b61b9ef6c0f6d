"""Numbers with their units, for a screen."""

from __future__ import annotations


def size(count: float) -> str:
    """Returns bytes with three digits, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if count < 999.5:  # beyond that three digits would have an exponent
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 999.5 else f"{count:,.0f} GiB"


def span(seconds: float) -> str:
    """Returns a time as minutes and seconds, from an hour on with hours."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
