"""Choosing by a stopwatch: what was tried once on this machine is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from glorot_jax.engine.planning import machine

WORTH = 3.0
"""Times as long as the compilation of all that is tried that training has to take, for anything to be tried."""


Choice = TypeVar("Choice", int, str)


def tried(
    choices: Sequence[Choice],
    measure: Callable[[Choice], float],
    training_seconds: float,
    compile_seconds: Callable[[], float],
    kept: Path,
) -> dict[Choice, float] | str:
    """Returns the seconds of each choice, or why nobody tried.

    Args:
        choices: of one type.
        measure: gives the seconds of a choice, compilation apart; infinity where it fails.
        training_seconds: what all of the training is thought to take.
        compile_seconds: gives what one choice's compilation is thought to take.
        kept: where the outcome lies if somebody tried before, and is put.
    """
    kind = type(choices[0])
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        known = {kind(choice): float(seconds) for choice, seconds in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        known = {}
    if known:
        return known
    cost = len(choices) * compile_seconds()
    if training_seconds < WORTH * cost:
        return f"compiling {len(choices)} to try would take {cost:.0f} s, training about {training_seconds:.0f} s"
    times = {choice: measure(choice) for choice in choices}
    made = {choice: seconds for choice, seconds in times.items() if math.isfinite(seconds)}
    if not made:
        return "none of those tried runs here"
    machine.keep(kept, {str(choice): seconds for choice, seconds in made.items()})
    return made
