"""Exit codes of the processes that train: as a shell counts them, and one for all parts together."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence

FINAL = (0, 2, 130, 143)
"""After which a part is not begun again by itself: done, refused, stopped by SIGINT or SIGTERM."""


def shell(code: int) -> int:
    """Returns an exit code of ``subprocess`` as a shell counts it: 128 and the signal's number for what one ended."""
    return code if code >= 0 else 128 - code


def together(codes: Iterable[int], left: bool = False, stops: Sequence[int] = ()) -> int:
    """Returns the exit code of a sweep whose parts ended with ``codes``.

    Args:
        left: whether some were never begun, or not begun again.
        stops: signals that came to what started them.

    Returns:
        2 if one was refused, else 1 if one died, else 130 or 143 if all was stopped, else 0.
    """
    codes = list(codes)
    if 2 in codes:
        return 2
    if any(code not in FINAL for code in codes):
        return 1
    if not (left or any(codes)):
        return 0
    if stops:
        return 128 + (signal.SIGINT if stops[0] == signal.SIGINT else signal.SIGTERM)
    return next(filter(None, codes))
