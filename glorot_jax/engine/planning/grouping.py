"""Which cohorts share a program and which get programs of their own: seconds of compiling against padded work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Fuse = Literal["auto", "always", "never"]
FUSE: tuple[Fuse, ...] = ("auto", "always", "never")


@dataclass(frozen=True)
class Candidate:
    """A program that could be made.

    Attributes:
        compiling: seconds until it is ready.
        training: seconds that all its runs take in it, padded work included.
    """

    compiling: float
    training: float

    @property
    def seconds(self) -> float:
        return self.compiling + self.training


@dataclass(frozen=True)
class Grouping:
    """Programs for some parts, and what other ways would have taken.

    Attributes:
        groups: the parts of each program: ranges that follow each other.
        chosen, together, apart: the candidates so, all parts in one program, and each in its own.
    """

    groups: tuple[range, ...]
    chosen: tuple[Candidate, ...]
    together: Candidate
    apart: tuple[Candidate, ...]

    @property
    def why(self) -> str:
        """The sums that decided, in a few words."""
        one, own = (
            self.together,
            Candidate(*(sum(getattr(c, k) for c in self.apart) for k in ("compiling", "training"))),
        )
        return (
            f"one program: {one.compiling:.3g} s of compiling + {one.training:.3g} s of training; "
            f"{len(self.apart)} programs: {own.compiling:.3g} + {own.training:.3g} s"
        )


def grouped(parts: int, candidate: Callable[[int, int], Candidate], how: Fuse = "auto") -> Grouping:
    """Returns the programs that take the fewest seconds of all that could be made of parts in their order.

    Parts stand in an order in which neighbours pad each other least, such as rising depth, so that a program holds
    some that follow each other: then none is better that leaves one out and takes one beyond it. Of two ways that take
    equally long the one of fewer programs is taken.

    Args:
        parts: how many, at least 1.
        candidate: the program of parts ``first`` … ``last`` − 1.
        how: ``always`` all in one, ``never`` each in its own, whatever they take.
    """

    @functools.cache
    def made(first: int, last: int) -> Candidate:
        return candidate(first, last)

    @functools.cache
    def best(last: int) -> tuple[float, int, tuple[range, ...]]:
        """Seconds, programs and groups of the parts before ``last``."""
        if not last:
            return 0.0, 0, ()
        ways = []
        for first in range(last):
            seconds, programs, groups = best(first)
            ways.append((seconds + made(first, last).seconds, programs + 1, (*groups, range(first, last))))
        return min(ways, key=lambda way: way[:2])

    groups = {
        "always": lambda: (range(parts),),
        "never": lambda: tuple(range(i, i + 1) for i in range(parts)),
        "auto": lambda: best(parts)[2],
    }[how]()
    return Grouping(
        groups=groups,
        chosen=tuple(made(group.start, group.stop) for group in groups),
        together=made(0, parts),
        apart=tuple(made(i, i + 1) for i in range(parts)),
    )
