"""What one accident of the drill is, and the sweep that all of them befall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SWEEP = Path(__file__).with_name("sweep.py")
"""The drill's sweep: quick to compile, several segments and blocks, runs that diverge among those that do not."""
ARGUMENTS = (str(SWEEP), "--width", "2", "--segment-seconds", "1")
"""Of ``glorot run``, for everything that trains it: short segments, and blocks enough for several parts."""


@dataclass(frozen=True)
class Case:
    """One accident.

    Attributes:
        name: of a word or few, for the table.
        do: trains the sweep into the folder it is given until it is done, with its accident on the way, and returns
            one line that says what was done and survived. What it raises is what did not survive.
    """

    name: str
    do: Callable[[Path], str]
