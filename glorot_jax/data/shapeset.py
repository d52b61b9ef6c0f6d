"""Shapeset-3×2: one or two of triangle, parallelogram and ellipse on a plain ground, drawn on the device.

An infinite stream: each image is a pure function of its key. Every product that feeds a sum is rounded on its own
(``rounding.times``), so that no compiler may fuse the two into one rounding: an image has the same bits alone, batched,
inside a loop or on another device.

Source: Glorot & Bengio (2010), section 2.1; generator settings published by the authors as "Shapeset-3*2":
grounds in [0, 0.45] and [0.55, 1], polarity by a fair coin, scale 0.2 to 0.8, all rotations, all positions,
at most half of an object hidden, at most 50 tries.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Key, UInt8, UInt32

from glorot_jax import randomness, rounding
from glorot_jax.rounding import times

CLASSES = (
    "triangle",
    "parallelogram",
    "ellipse",
    "triangle + parallelogram",
    "parallelogram + ellipse",
    "triangle + ellipse",
    "2 triangles",
    "2 parallelograms",
    "2 ellipses",
)

DARK = (0, 114)
LIGHT = (140, 255)
TRIES = 50
MARGIN = 1.0
"""Pixels between an object and the image's edge, at least."""

_PART = 1000
"""Examples of the finite training set that share a key; another number would make another set."""

_CORNERS = (3, 4, 20)
_EDGES = 20
_TURN = 255
"""Rotations are an index on so many steps of a full turn."""


def _corner_table() -> np.ndarray:
    """Corners [shape, 20, 2] of regular polygons of radius 0.5 on a horizontal lower edge, the last one repeated."""
    table = np.zeros((3, _EDGES, 2))
    for shape, n in enumerate(_CORNERS):
        angle = -np.pi / 2 + np.pi / n + 2 * np.pi / n * np.minimum(np.arange(_EDGES), n - 1)
        table[shape] = 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return table.astype(np.float32)


def _rotations(steps: np.ndarray) -> np.ndarray:
    """Cosine and sine [n, 2] of rotations given in steps of 1/255 turn."""
    angle = 2 * np.pi * steps / _TURN
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def _sector(n: int) -> np.ndarray:
    """The rotations before scaling: one symmetry sector of an n-gon, half of it the other way round."""
    steps = np.arange(_TURN // n)
    return _rotations(np.where(2 * steps > _TURN // n, steps - _TURN / n, steps))


_TABLE = _corner_table()
_BEFORE = tuple(_sector(n) for n in _CORNERS)
_BEFORE_START = (0, len(_BEFORE[0]), len(_BEFORE[0]) + len(_BEFORE[1]))
_AREA = tuple(n * np.sin(2 * np.pi / n) / (2 * np.pi) for n in _CORNERS)


class Objects(NamedTuple):
    """Objects of a batch of images, each array [count, …].

    Attributes:
        shape: 0 triangle, 1 parallelogram, 2 ellipse (a 20-gon).
        corners: [count, 20, 2], in pixels; x to the right, y downwards; shapes with fewer repeat the last.
        centre: [count, 2].
        area: as the overlap rule reckons it, in pixels².
    """

    shape: Integer[Array, "count"]
    corners: Float[Array, "count 20 2"]
    centre: Float[Array, "count 2"]
    area: Float[Array, "count"]


class Scenes(NamedTuple):
    """What is drawn: grounds, one or two objects with their greys, and whether the second is there."""

    ground: Integer[Array, "count"]
    first: Objects
    first_grey: Integer[Array, "count"]
    second: Objects
    second_grey: Integer[Array, "count"]
    has_second: Bool[Array, "count"]


def sample(
    key: Key[Array, ""], count: int, size: int = 32
) -> tuple[Float[Array, "count size size"], Integer[Array, "count"]]:
    """Returns images in [0, 1] and labels in 0..8 (``CLASSES``).

    Args:
        key: image i depends on ``fold_in(key, i)`` alone.
        count: number of images.
        size: side in pixels; 32 in the paper.
    """
    images, labels = draw(key, count, size)
    return images.astype(jnp.float32) * jnp.float32(1 / 255), labels


def draw(
    key: Key[Array, ""], count: int, size: int = 32
) -> tuple[UInt8[Array, "count size size"], Integer[Array, "count"]]:
    """Returns grey levels 0..255 and labels 0..8; ``sample`` divides by 255. Arguments as there."""
    scenes = compose(key, count, size)
    return render(scenes, size), label(scenes)


drawn = jax.jit(draw, static_argnames=("count", "size"))
"""``draw`` as one program of its own, compiled once for a number of images."""


def training_set(
    count: int, size: int = 32
) -> tuple[UInt8[np.ndarray, "count size size"], Integer[np.ndarray, "count"]]:
    """Returns the first examples of the finite training set, as ``draw`` does: a larger one begins with the same."""
    images, labels = np.empty((count, size, size), np.uint8), np.empty(count, np.int32)
    for part, start in enumerate(range(0, count, _PART)):
        some = slice(start, start + _PART)
        made = drawn(randomness.key(0, "training set", step=part), _PART, size)
        images[some], labels[some] = (np.asarray(array)[: count - start] for array in made)
    return images, labels


def digest() -> str:
    """Returns eight hexadecimal digits of all code that an example's bits follow from."""
    files = [Path(module.__file__ or "") for module in (sys.modules[__name__], randomness, rounding)]
    code = b"".join(map(Path.read_bytes, files))
    return hashlib.sha256(code + f"{jax.__version__} {np.__version__}".encode()).hexdigest()[:8]


def compose(key: Key[Array, ""], count: int, size: int = 32) -> Scenes:
    """Returns what the images of ``draw`` show, before rendering."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
    bits = _bits(keys, 0, 16)
    light = bits[:, 0] >> 31 == 1
    dark_grey, light_grey = (_between(bits[:, 1:4], *grey) for grey in (DARK, LIGHT))
    greys = jnp.where(light[:, None], light_grey, dark_grey)
    opposite = jnp.where(light[:, None], dark_grey, light_grey)
    first = _place(_turned(bits[:, 4:7]), bits[:, 7:11], size)
    turned = _turned(bits[:, 11:14])
    wanted = bits[:, 14] >> 31 == 1
    second, placed = _place_second(keys, wanted, turned, first, size)
    return Scenes(greys[:, 0], first, opposite[:, 1], second, opposite[:, 2], wanted & placed)


def label(scenes: Scenes) -> Integer[Array, "count"]:
    """Returns the class: which shapes are there, whatever their order."""
    a, b = scenes.first.shape, scenes.second.shape
    mixed = jnp.where(a + b == 1, 3, jnp.where(a + b == 3, 4, 5))
    pair = jnp.where(a == b, 6 + a, mixed)
    return jnp.where(scenes.has_second, pair, a).astype(jnp.int32)


def render(scenes: Scenes, size: int) -> UInt8[Array, "count size size"]:
    """Returns flat grey levels, not smoothed: a pixel belongs to what covers its centre, the second object on top."""
    first = _covered(scenes.first.corners, size)
    second = _covered(scenes.second.corners, size) & scenes.has_second[:, None, None]
    ground, one, two = (
        grey.astype(jnp.uint8)[:, None, None] for grey in (scenes.ground, scenes.first_grey, scenes.second_grey)
    )
    return jnp.where(second, two, jnp.where(first, one, ground))


class _Turned(NamedTuple):
    """A shape with its two rotations, before scaling: what a rejected placement keeps."""

    shape: Array
    before: Array  # [count, 2]: cosine and sine of the rotation before scaling
    after: Array  # [count, 2]: of the one after


def _turned(bits: UInt32[Array, "count 3"]) -> _Turned:
    shape = _below(bits[:, 0], 3)
    index = _below(bits[:, 1], _pick(shape, tuple(map(len, _BEFORE))))
    before = jnp.asarray(np.concatenate(_BEFORE))[_pick(shape, _BEFORE_START) + index]
    after = jnp.asarray(_rotations(np.arange(_TURN - 1)))[_below(bits[:, 2], _TURN - 1)]
    return _Turned(shape, before, after)


def _place(turned: _Turned, bits: UInt32[Array, "count 4"], size: int) -> Objects:
    """Scales, turns and moves shapes: two sorted scales, the base made horizontal again, a turn, a position inside."""
    scales = jnp.float32(0.2 * size) + times(_unit(bits[:, :2]), jnp.float32(0.6 * size))
    large, small = jnp.max(scales, axis=1), jnp.min(scales, axis=1)
    cos1, sin1 = turned.before.T
    cos3, sin3 = turned.after.T
    # atan(small/large · tan) as a unit vector: no inverse function needed.
    along, across = times(large, cos1), times(small, sin1)
    length = jnp.sqrt(times(along, along) + times(across, across))
    cos2, sin2 = along / length, -across / length
    cos23 = times(cos2, cos3) - times(sin2, sin3)
    sin23 = times(sin2, cos3) + times(cos2, sin3)
    # Rows of R(1)·diag(large, small): points are row vectors, R = [[cos, sin], [−sin, cos]].
    a, b = times(cos1, large), times(sin1, small)
    c, d = times(-sin1, large), times(cos1, small)
    xx, xy = times(a, cos23) - times(b, sin23), times(a, sin23) + times(b, cos23)
    yx, yy = times(c, cos23) - times(d, sin23), times(c, sin23) + times(d, cos23)
    corners = jnp.asarray(_TABLE)[turned.shape]
    px, py = corners[..., 0], corners[..., 1]
    x = times(px, xx[:, None]) + times(py, yx[:, None])
    y = times(px, xy[:, None]) + times(py, yy[:, None])
    free = _unit(bits[:, 2:])
    centre_x, centre_y = _position(x, free[:, 0], size), _position(y, free[:, 1], size)
    return Objects(
        shape=turned.shape,
        corners=jnp.stack([x + centre_x[:, None], y + centre_y[:, None]], axis=-1),
        centre=jnp.stack([centre_x, centre_y], axis=-1),
        area=times(times(large, small), _pick(turned.shape, _AREA)),
    )


def _position(extent: Float[Array, "count 20"], free: Float[Array, "count"], size: int) -> Float[Array, "count"]:
    low = MARGIN - jnp.min(extent, axis=1)
    high = size - MARGIN - jnp.max(extent, axis=1)
    return low + times(free, high - low)


def _place_second(
    keys: Key[Array, "count"], wanted: Array, turned: _Turned, first: Objects, size: int
) -> tuple[Objects, Bool[Array, "count"]]:
    """Draws scale and position anew until the overlap rule lets the object stay, at most ``TRIES`` times."""

    def attempt(carry):
        number, placed, kept = carry
        new = _place(turned, _bits(keys, number + 1, 4), size)
        fits = ~placed & ~_hides_too_much(new, first)
        kept = jax.tree.map(lambda n, k: jnp.where(fits.reshape(-1, *[1] * (n.ndim - 1)), n, k), new, kept)
        return number + 1, placed | fits, kept

    def goes_on(carry):
        number, placed, _ = carry
        return (number < TRIES) & jnp.any(wanted & ~placed)

    nothing = jax.tree.map(jnp.zeros_like, first)._replace(shape=turned.shape)
    _, placed, second = jax.lax.while_loop(goes_on, attempt, (0, jnp.zeros_like(wanted), nothing))
    return second, placed


def _hides_too_much(new: Objects, old: Objects) -> Bool[Array, "count"]:
    """The published estimate of the hidden share, from both extents on the line of centres: more than half."""
    line = new.centre - old.centre
    distance = jnp.sqrt(times(line[:, 0], line[:, 0]) + times(line[:, 1], line[:, 1]))
    distance = jnp.maximum(distance, jnp.float32(1e-6))
    towards = line / distance[:, None]
    reach = _extent(old, towards) + _extent(new, -towards)
    hidden = 1 - jnp.exp2(-(reach - distance) / distance)
    return (reach >= distance) & (times(new.area, hidden) > times(jnp.float32(0.5), old.area))


def _extent(objects: Objects, direction: Float[Array, "count 2"]) -> Float[Array, "count"]:
    offset = objects.corners - objects.centre[:, None]
    along = times(offset[..., 0], direction[:, :1]) + times(offset[..., 1], direction[:, 1:])
    return jnp.max(along, axis=1)


def _covered(corners: Float[Array, "count 20 2"], size: int) -> Bool[Array, "count size size"]:
    """Pixels whose centre lies inside: a convex shape covers one interval of each row."""
    count = corners.shape[0]
    x, y = corners[..., 0], corners[..., 1]
    next_x, next_y = (jnp.roll(v, -1, axis=1) for v in (x, y))
    rise = next_y - y
    slope = (next_x - x) / jnp.where(rise == 0, 1, rise)
    # Materialized once, not recomputed for every row.
    x, y, next_y, slope = jax.lax.optimization_barrier((x, y, next_y, slope))
    row = jnp.arange(size, dtype=jnp.float32)[None, :] + 0.5
    left = jnp.full((count, size), jnp.inf, jnp.float32)
    right = jnp.full((count, size), -jnp.inf, jnp.float32)
    for edge in range(_EDGES):
        y0, y1, x0, m = (v[:, edge, None] for v in (y, next_y, x, slope))
        crosses = (y0 <= row) != (y1 <= row)
        at = x0 + times(row - y0, m)
        left = jnp.where(crosses & (at < left), at, left)
        right = jnp.where(crosses & (at > right), at, right)
    left, right = jax.lax.optimization_barrier((left, right))
    column = jnp.arange(size, dtype=jnp.float32) + 0.5
    return (column >= left[..., None]) & (column < right[..., None])


def _bits(keys: Key[Array, "count"], number: int | Array, words: int) -> UInt32[Array, "count words"]:
    return jax.vmap(lambda k: jax.random.bits(jax.random.fold_in(k, number), (words,), jnp.uint32))(keys)


def _below(bits: UInt32[Array, "..."], limit: int | Array) -> Integer[Array, "..."]:
    """Uniform integers in [0, limit), limit ≤ 256."""
    return ((bits >> 8) * jnp.asarray(limit, jnp.uint32) >> 24).astype(jnp.int32)


def _between(bits: UInt32[Array, "..."], low: int, high: int) -> Integer[Array, "..."]:
    return low + _below(bits, high - low + 1)


def _unit(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Uniform in [0, 1), 24 bits, exact."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def _pick(index: Array, values: tuple[float, ...]) -> Array:
    first, second, third = values
    return jnp.where(index == 0, first, jnp.where(index == 1, second, third))
