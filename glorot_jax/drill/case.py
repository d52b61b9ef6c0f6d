"""What one accident of the drill is, and the sweep that all of them befall."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SWEEP = Path(__file__).with_name("sweep.py")
"""The drill's sweep: quick to compile, several segments and blocks, runs that diverge among those that do not."""
SEGMENT_SECONDS = 0.6
"""Bound on its segments: a segment takes a third of it."""
ARGUMENTS = (str(SWEEP), "--width", "2", "--segment-seconds", str(SEGMENT_SECONDS))
"""Of ``glorot run``, for everything that trains it: short segments, and blocks enough for several parts."""


class NotPossible(Exception):
    """An accident that can't be made here; the text says why in a line."""


class Lost(Exception):
    """What did not survive, in a line."""


class TooLate(Exception):
    """The sweep was done before the accident."""


@dataclass(frozen=True)
class Told:
    """What an accident came to.

    Attributes:
        said: what was done and survived, in a line.
        kills: moments at which it struck.
        stops: seconds from each SIGTERM until the process was gone, all saved.
        lost: work that each SIGKILL undid, in segments.
    """

    said: str
    kills: int = 1
    stops: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()


@dataclass(frozen=True)
class Case:
    """One accident.

    Attributes:
        name: of a word or few, for the table.
        do: trains the sweep into the folder it is given until it is done, with its accident on the way, and returns
            what was done and survived. What it raises did not survive, ``NotPossible`` apart.
    """

    name: str
    do: Callable[[Path], str | Told]


def tried(times: int, kind: Callable[[Path], Told], folder: Path) -> Told:
    """Returns what an accident came to; one that comes too late is tried again, on a sweep that starts over.

    Raises:
        Lost: it came too late each time.
    """
    for _ in range(times):
        with contextlib.suppress(TooLate):
            return kind(folder)
        shutil.rmtree(folder, ignore_errors=True)
    raise Lost(f"the sweep was done before the accident {times} times")
