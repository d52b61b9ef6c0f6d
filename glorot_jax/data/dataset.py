"""What the engine knows of a data set: how a batch is drawn inside the step, and the fixed evaluation sets."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Shaped
from numpy.typing import DTypeLike

from glorot_jax.errors import InputError

if TYPE_CHECKING:
    from glorot_jax.data.stream import Stream

Batch = tuple[Shaped[Array, "batch features"], Integer[Array, "batch"]]


@dataclass(frozen=True)
class Dataset:
    """A classification set, as uint8 where it can, scaled inside the step.

    It lives on the device; its training examples may stay on the host.

    Attributes:
        name: for messages and results.
        shape: of one input as ``draw`` returns it; networks see it flattened.
        class_names: one a class, in label order.
        draw: ``(arrays, seed, stream, step, batch_size) -> (inputs [batch, *shape], labels int32)``: the
            training batch of that step, a pure function of its arguments. Resume needs nothing more. None with
            ``stream``.
        arrays: what ``draw`` reads, as device arrays; empty where batches are made up on the spot.
        stream: the training examples if they stay on the host.
        valid, test: the fixed evaluation sets, inputs flattened.
        scaling: ``"unit"`` = [0, 1], ``"symmetric"`` = [−1, 1], ``"standard"`` = (input − mean) / std, ``"none"``.
        mean, std: in the inputs' own units; used by ``"standard"``.
        dtype: of the inputs.
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    draw: Callable[..., Batch] | None
    arrays: dict[str, Array]
    valid: Batch
    test: Batch
    scaling: str
    mean: float = 0.0
    std: float = 1.0
    dtype: DTypeLike = np.uint8
    stream: Stream | None = None

    @property
    def features(self) -> int:
        """Size of one flattened input."""
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def scale(self, inputs: Shaped[Array, "..."]) -> Float[Array, "..."]:
        """Returns the network's input; no product meets a sum, so that no fusion can change its bits."""
        if self.scaling == "symmetric":
            return (2 * inputs.astype(jnp.int32) - 255).astype(jnp.float32) * jnp.float32(1 / 255)
        if self.scaling == "standard":
            return (inputs.astype(jnp.float32) - jnp.float32(self.mean)) * jnp.float32(1 / self.std)
        return (
            inputs.astype(jnp.float32) * jnp.float32(1 / 255) if self.scaling == "unit" else inputs.astype(jnp.float32)
        )

    def constants(self) -> dict[str, object]:
        """Returns the arrays that a compiled program takes as arguments (never baked into it)."""
        return {"arrays": self.arrays, "valid": self.valid, "test": self.test}


def build(spec: Any) -> Dataset:
    """Returns the data set that a description such as ``shapeset()`` names, drawn or read once a process.

    Raises:
        InputError: it is not there, or larger than a device's memory.
    """
    return _build(spec, _source(spec))


@functools.cache
def _build(spec: Any, source: str | None) -> Dataset:
    _check_fits(spec)
    if _placement(spec) == "host":
        from glorot_jax.data import stream

        stream.check_installed()
    return _BUILDERS[type(spec).__name__](spec)


def _source(spec: Any) -> str | None:
    """Which files a description stands for at the moment: folders and files may have changed since it was read."""
    if _BUILDERS[type(spec).__name__] is not _pictures:
        return None
    from glorot_jax.data import pictures

    return pictures.source(spec)


def _placement(spec: Any) -> str:
    """Where training examples are; sets that are small or made up on the spot don't ask."""
    return getattr(spec, "placement", "device")


def _check_fits(spec: Any) -> None:
    """Raises InputError if a device can't hold the examples; CPU devices share one memory, and each has a copy."""
    from glorot_jax.data.memory import free

    devices = jax.local_devices()
    copies = len(devices) if devices[0].platform == "cpu" else 1
    need, there = size(spec) * copies, free(devices[0])
    if there is not None and need > there:
        each = f", a copy for each of {copies} devices" if copies > 1 else ""
        hints = ["choose a smaller set"]
        if getattr(spec, "placement", None) == "device":
            hints = ["placement='host' leaves the training examples where they are"]
        hints += ["JAX_NUM_CPU_DEVICES=1 makes one copy"] if copies > 1 else []
        raise InputError(
            f"data: {type(spec).__name__} takes {need:,} bytes{each}, and {there:,} are free", "; ".join(hints)
        )


def size(spec: Any) -> int:
    """Returns the bytes that a description's examples take on a device, known before any is drawn or read."""
    kind = type(spec).__name__
    if kind == "shapeset":
        return ((spec.examples or 0) + spec.validation + spec.test) * (spec.size**2 + 4)
    if kind == "modular_addition":
        return spec.p**2 * (3 + 4)
    if kind == "arrays":
        splits = spec.splits() if spec.placement == "device" else spec.splits()[1:]
        return sum(part.nbytes for split in splits for part in split)
    from glorot_jax.data import pictures

    return pictures.size(spec)


_KEPT = 1000
"""Drawn examples from which on they are kept on the disk: to draw fewer takes no longer than to read them."""


def _shapeset(spec) -> Dataset:
    from glorot_jax.data import arrays, cache, shapeset
    from glorot_jax.randomness import key

    name = f"Shapeset-3×2, {spec.size}×{spec.size}"

    def draw(arrays, seed, stream, step, batch_size):
        return shapeset.draw(key(seed, "train", stream=stream, step=step), batch_size, spec.size)

    def fixed(purpose: str, count: int) -> Batch:
        def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            images, labels = map(np.asarray, shapeset.drawn(key(0, purpose), count, spec.size))
            return {"images": images.reshape(count, -1), "labels": labels}, {}

        if count < _KEPT:
            found, _ = make()
        else:
            found, _ = cache.load(f"shapeset-{spec.size}-{purpose}-{count}", shapeset.digest(), make)
        return jnp.asarray(found["images"]), jnp.asarray(found["labels"])

    valid, test = fixed("validation", spec.validation), fixed("test", spec.test)
    if spec.examples is not None:
        train = shapeset.training_set(spec.examples, spec.size)
        name = f"{name}, {spec.examples:,} examples"
        return arrays.from_splits(name, train, valid, test, shapeset.CLASSES, spec.scaling)
    return Dataset(
        name=name,
        shape=(spec.size, spec.size),
        class_names=shapeset.CLASSES,
        draw=draw,
        arrays={},
        valid=valid,
        test=test,
        scaling=spec.scaling,
    )


def _arrays(spec) -> Dataset:
    from glorot_jax.data import arrays

    return arrays.from_splits(spec.name, *spec.splits(), spec.class_names, spec.scaling, spec.placement)


def _modular_addition(spec) -> Dataset:
    from glorot_jax.data import arrays, modular_addition

    splits = modular_addition.splits(spec.p, spec.sizes(), spec.split_seed)
    names = tuple(map(str, range(spec.p)))
    return arrays.from_splits(f"a + b modulo {spec.p}", *splits, names, "none")


def _pictures(spec) -> Dataset:
    from glorot_jax.data import arrays, pictures

    found = pictures.load(spec)
    splits = pictures.three_splits(spec, found)
    return arrays.from_splits(found.title, *splits, found.class_names, spec.scaling, _placement(spec))


_BUILDERS: dict[str, Callable[[object], Dataset]] = {
    "shapeset": _shapeset,
    "arrays": _arrays,
    "modular_addition": _modular_addition,
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10", "digits", "small_imagenet", "tfds"), _pictures),
}
