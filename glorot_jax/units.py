"""Numbers with their units, and lines that hold them, for a screen."""

from __future__ import annotations

import re
import textwrap

COLUMNS = 80
"""Of a screen."""
_UNIT = re.compile(r"(?<=\d) (?=%|[KMG]?i?B\b|s\b|min\b|h\b)")
"""Between a number and its unit, where no line breaks."""


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


def wrapped(text: str, indent: str = "", more: str = "  ", columns: int = COLUMNS) -> list[str]:
    """Returns lines of at most so many columns; no number is parted from its unit, no name at a hyphen.

    Args:
        indent: of all lines.
        more: of all but the first beside.
    """
    whole = _UNIT.sub("\u00a0", text)
    made = textwrap.wrap(whole, columns, initial_indent=indent, subsequent_indent=indent + more, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in made]
