"""What starts workers has to know: the command that trains one part of a sweep, and the exit codes that are final."""

from __future__ import annotations

import sys
from collections.abc import Sequence

FINAL = (0, 2, 130, 143)
"""Exit codes after which a worker is not started again: done, refused, stopped by SIGINT or SIGTERM."""


def command(arguments: Sequence[str], shard: tuple[int, int] | None = None) -> list[str]:
    """Returns the command line of one worker.

    Args:
        arguments: of ``glorot run``: the sweep, ``--out`` and whatever else.
        shard: which part of how many it trains, counted from 0; the whole sweep if not said.
    """
    part = [] if shard is None else ["--shard", f"{shard[0]}/{shard[1]}"]
    return [sys.executable, "-m", "glorot_jax.cli", "run", *arguments, *part]
