"""The two costs as functions of two weights: Figure 5, computed in NumPy.

The network has one tanh unit and one sigmoid output, y = 1/(1+exp(−w2 tanh(w1 x))). The paper says no more of its data
than that inputs and targets are random; here x is normal, t is 0 or 1 with equal chance, and both costs are means over
the examples: −t log y − (1−t) log(1−y), and (y − t)².

Source: Glorot & Bengio (2010), section 4.1 and Figure 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FLAT = 0.1
"""Share of a surface's steepest slope below which it is flat."""


class CostSurface(NamedTuple):
    """Costs on a grid of weights.

    Attributes:
        w1: of the first layer, (points,).
        w2: of the second layer, (points,).
        cross_entropy: (points, points), rows along w1; in nats.
        quadratic: likewise, in [0, 1].
    """

    w1: NDArray[np.float64]
    w2: NDArray[np.float64]
    cross_entropy: NDArray[np.float64]
    quadratic: NDArray[np.float64]


def cost_surface(seed: int, examples: int = 10, reach: float = 4.0, points: int = 81) -> CostSurface:
    """Returns both costs for weights in [−reach, reach].

    Args:
        seed: of the random inputs and targets.
        examples: how many, ≥ 1.
        points: on each axis, ≥ 2.
    """
    draw = np.random.default_rng(seed)
    x, t = draw.normal(size=examples), draw.integers(0, 2, examples)
    w = np.linspace(-reach, reach, points)
    s = w * np.tanh(w[:, None, None] * x[:, None])  # w1, examples, w2
    y = 1 / (1 + np.exp(-s))
    nats = np.logaddexp(0, s) - t[:, None] * s
    return CostSurface(w, w, nats.mean(axis=1), ((y - t[:, None]) ** 2).mean(axis=1))


def plateau_share(w1: NDArray[np.float64], w2: NDArray[np.float64], cost: NDArray[np.float64]) -> float:
    """Returns the share of the costlier half of the plane where the surface is flat, in [0, 1].

    Flat is a slope below ``FLAT`` of the surface's own steepest one, so the unit of the cost does not matter; the
    cheaper half is left out since a flat valley is no plateau.
    """
    along_w1, along_w2 = np.gradient(cost, w1, w2)
    slope = np.hypot(along_w1, along_w2)
    costly = cost > np.median(cost)
    return float((slope[costly] < FLAT * slope.max()).mean())
