"""The published Shapeset-3×2 generator once more, in float64 NumPy and one object at a time: the truth of the tests.

Points are row vectors: corners = polygon · R(before) · diag(scales) · R(level) · R(after) + centre.

Source: Glorot & Bengio (2010), section 2.1, and the settings published as "Shapeset-3*2".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CORNERS = (3, 4, 20)
TURN = 255
STEP = 2 * math.pi / TURN
CLASSES = {(0,): 0, (1,): 1, (2,): 2, (0, 1): 3, (1, 2): 4, (0, 2): 5, (0, 0): 6, (1, 1): 7, (2, 2): 8}
PROPORTIONS = np.array([1 / 6] * 3 + [1 / 9] * 3 + [1 / 18] * 3)


def polygon(n: int) -> np.ndarray:
    """Corners [n, 2] of a regular polygon of radius 0.5 whose first and last corner are its horizontal lower edge."""
    angle = -math.pi / 2 + math.pi / n + 2 * math.pi / n * np.arange(n)
    return 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def sector(n: int) -> np.ndarray:
    """The angles that a polygon is turned by before scaling: half a symmetry sector to either side."""
    index = np.arange(TURN // n)
    return STEP * np.where(index > TURN // n / 2, index - TURN / n, index)


def level(before: float, scales: tuple[float, float]) -> float:
    """The turn that makes the base horizontal again."""
    return -math.atan(scales[1] / scales[0] * math.tan(before))


@dataclass(frozen=True)
class Thing:
    """One object; ``area`` is that of its polygon."""

    shape: int
    corners: np.ndarray
    centre: np.ndarray

    @property
    def area(self) -> float:
        (x, y), (u, v) = self.corners.T, np.roll(self.corners, -1, axis=0).T
        return abs(np.sum(x * v - u * y)) / 2


def whole(word: int, limit: int) -> int:
    """A drawn integer in [0, limit)."""
    return (int(word) >> 8) * limit >> 24


def unit(word: int) -> float:
    """A drawn number in [0, 1)."""
    return (int(word) >> 8) / 2**24


def place(turned: tuple[int, float, float], words: np.ndarray, size: int) -> Thing:
    """An object of given shape and turns, its two scales and its position from four drawn words."""
    shape, before, after = turned
    small, large = sorted((0.2 + 0.6 * unit(word)) * size for word in words[:2])
    turns = rotation(level(before, (large, small))) @ rotation(after)
    corners = polygon(CORNERS[shape]) @ rotation(before) @ np.diag([large, small]) @ turns
    low, high = 1 - corners.min(axis=0), size - 1 - corners.max(axis=0)
    centre = low + np.array([unit(word) for word in words[2:]]) * (high - low)
    return Thing(shape, corners + centre, centre)


def turned(words: np.ndarray) -> tuple[int, float, float]:
    """Shape, turn before scaling and turn after it from three drawn words."""
    shape = whole(words[0], 3)
    angles = sector(CORNERS[shape])
    return shape, angles[whole(words[1], len(angles))], STEP * whole(words[2], TURN - 1)


def hidden_share(new: Thing, old: Thing) -> float:
    """How much of the old object the published estimate takes to be hidden by the new one; at most 0.5 is allowed."""
    line = new.centre - old.centre
    distance = math.hypot(*line)
    reach = max((old.corners - old.centre) @ line / distance) + max((new.corners - new.centre) @ -line / distance)
    if reach < distance:
        return 0.0
    return new.area * (1 - math.exp(-math.log(2) * (reach - distance) / distance)) / old.area


def covers(thing: Thing, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixel centres [row, column] lie inside, and how far each is from the nearest edge's line, in pixels."""
    corners = thing.corners
    edges = np.roll(corners, -1, axis=0) - corners
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    across = (column[..., None] - corners[:, 0]) * edges[:, 1] - (row[..., None] - corners[:, 1]) * edges[:, 0]
    (x, y), (u, v) = corners.T, np.roll(corners, -1, axis=0).T
    clockwise = np.sign(np.sum(x * v - u * y))
    inward = -clockwise * across / np.hypot(*edges.T)
    return np.all(inward >= 0, axis=-1), np.min(np.abs(inward), axis=-1)
