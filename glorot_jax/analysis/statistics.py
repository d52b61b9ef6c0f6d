"""Statistics over seeds: the runs are counted, never steps, units or examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % Student's t interval; NaN where n < 2.

    Attributes:
        n: seeds that it rests on.
    """

    mean: float
    half_width: float
    n: int


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Returns mean and t interval of the finite values, one a seed.

    Args:
        level: coverage, in (0, 1).
    """
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n < 2:
        return Interval(float(finite[0]) if n else float("nan"), float("nan"), n)
    from scipy.stats import t

    error = finite.std(ddof=1) / np.sqrt(n)
    return Interval(float(finite.mean()), float(t.ppf((1 + level) / 2, n - 1) * error), n)
