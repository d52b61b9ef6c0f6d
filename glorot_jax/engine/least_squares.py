"""Least squares of two unknowns, neither below 0."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def nonnegative(rows: Float[np.ndarray, "equations 2"], values: Float[np.ndarray, " equations"]) -> tuple[float, float]:
    """Returns the two numbers, neither below 0, with which ``rows`` come closest to ``values``.

    The sum of squares is convex: where the free solution has a number below 0, one of the two is 0 in the best that is
    allowed. SciPy's ``nnls`` says the same of any number of unknowns, and takes an eighth of a second to import, which
    every start would wait for.
    """
    squares = np.maximum(np.sum(rows**2, axis=0), np.finfo(np.float64).tiny)
    alone = np.diag(np.maximum(rows.T @ values, 0) / squares)
    free, *_ = np.linalg.lstsq(rows, values)
    allowed = [found for found in (free, *alone) if np.all(found >= 0)]
    first, second = min(allowed, key=lambda found: np.sum((rows @ found - values) ** 2))
    return float(first), float(second)
