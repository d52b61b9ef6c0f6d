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


def standardized_interval(effect: float, weight: float, freedom: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the interval of a standardized mean difference, from the noncentral t distribution.

    Args:
        effect: mean difference over standard deviation.
        weight: t over effect: √n where seeds pair, √(n m / (n + m)) for two samples.
        freedom: degrees of freedom of the deviation, at least 1.
        level: coverage, in (0, 1).

    Source: Steiger & Fouladi (1997), Noncentrality interval estimation and the evaluation of statistical models.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, nct

    t = effect * weight

    def end(share: float) -> float:
        """The center of which so much lies below t; almost all of a t is its deviation's if it is large."""
        if abs(t) > 300:
            return t * float(np.sqrt(chi2.ppf(share if t < 0 else 1 - share, freedom) / freedom))
        return float(brentq(lambda center: below(center) - share, t - 8 - 3 * abs(t), t + 8 + 3 * abs(t)))

    def below(center: float) -> float:
        found = float(nct.cdf(t, freedom, center))
        return found if np.isfinite(found) else float(center < t)  # far away SciPy has no number

    return end((1 + level) / 2) / weight, end((1 - level) / 2) / weight
