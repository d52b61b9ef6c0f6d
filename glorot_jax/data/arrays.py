"""Data sets of a fixed number of examples, the training ones on the device or on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from glorot_jax.data.dataset import Batch, Dataset
from glorot_jax.data.order import positions
from glorot_jax.data.stream import Stream

Split = tuple[np.ndarray, np.ndarray]
"""Inputs [n, …] and labels [n]."""

_CHUNK = 2**20
"""Numbers that statistics look at together: a set may be larger than the memory."""


def from_splits(
    name: str,
    train: Split,
    valid: Split,
    test: Split,
    class_names: Sequence[str],
    scaling: str,
    placement: str = "device",
) -> Dataset:
    """Returns the data set of three splits.

    Args:
        train: shown in batches; uint8 is scaled inside the step, float32 is taken as it is.
        valid, test: evaluated whole, on the device.
        scaling: ``"unit"``, ``"symmetric"``, ``"standard"`` (mean 0 and standard deviation 1 over the training
            split's numbers, all together) or ``"none"``.
        placement: where the training examples are, ``"device"`` or ``"host"``. It changes no batch.
    """
    inputs, labels = train
    mean, std = _moments(inputs) if scaling == "standard" else (0.0, 1.0)
    held = placement == "device"
    return Dataset(
        name=name,
        shape=inputs.shape[1:],
        class_names=tuple(class_names),
        draw=_draw if held else None,
        arrays={"inputs": jnp.asarray(inputs), "labels": jnp.asarray(labels, jnp.int32)} if held else {},
        stream=None if held else Stream(inputs, np.asarray(labels, np.int32)),
        valid=_flat(valid),
        test=_flat(test),
        scaling=scaling,
        mean=mean,
        std=std or 1.0,
        dtype=inputs.dtype,
    )


def _moments(inputs: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all numbers together, a part of them at a time; of bytes exactly, by counting."""
    if inputs.dtype == np.uint8:
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in _parts(inputs)).tolist()
        total, sum1, sum2 = (sum(n * level**power for level, n in enumerate(counts)) for power in range(3))
        return sum1 / total, math.sqrt(total * sum2 - sum1**2) / total
    mean = math.fsum(float(part.sum(dtype=np.float64)) for part in _parts(inputs)) / inputs.size
    spread = math.fsum(float(np.square(part - mean, dtype=np.float64).sum()) for part in _parts(inputs))
    return mean, math.sqrt(spread / inputs.size)


def _parts(inputs: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _CHUNK // max(1, math.prod(inputs.shape[1:])))
    return (inputs[start : start + rows] for start in range(0, len(inputs), rows))


def _flat(split: Split) -> Batch:
    return jnp.asarray(split[0].reshape(len(split[0]), -1)), jnp.asarray(split[1], jnp.int32)


def _draw(arrays: dict[str, Array], seed: Array, stream: Array, step: Array, batch_size: int) -> Batch:
    at = positions(seed, stream, step, batch_size, arrays["labels"].shape[0])
    return arrays["inputs"][at], arrays["labels"][at]
