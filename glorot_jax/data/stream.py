"""Training examples that stay on the host: which of them each step shows, and how they are read ahead of training."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer

from glorot_jax.data.order import positions
from glorot_jax.errors import InputError

READERS = 4
"""Threads that gather examples, each for a call of its own; a cold page of a mapped file blocks its reader alone."""
_TOGETHER = 64
"""Steps whose positions one call finds."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Stream:
    """Training examples in memory or mapped from a file, shown in the same order as sets on the device are.

    Attributes:
        inputs: [n, …].
        labels: [n], int32.
    """

    inputs: np.ndarray
    labels: np.ndarray

    def read(self, seed: int, stream: int, steps: range, inputs: np.ndarray, labels: np.ndarray) -> None:
        """Puts the batches of some steps of a seed into ``inputs`` [steps, batch, …] and ``labels`` [steps, batch]."""
        at = self._positions(seed, stream, steps, labels.shape[1])
        # Positions are in range: "clip" spares NumPy the buffer with which "raise" would protect what it writes.
        np.take(self.inputs, at, axis=0, out=inputs, mode="clip")
        np.take(self.labels, at, axis=0, out=labels, mode="clip")

    def _positions(self, seed: int, stream: int, steps: range, batch_size: int) -> np.ndarray:
        with jax.default_device(_host()):
            found = [
                _positions(np.uint32(seed), np.uint32(stream), np.int32(first), batch_size, len(self.labels))
                for first in range(steps.start, steps.stop, _TOGETHER)
            ]
            return np.concatenate(found)[: len(steps)]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _positions(seed: Array, stream: Array, first: Array, batch_size: int, count: int) -> Integer[Array, "steps batch"]:
    steps = first + jnp.arange(_TOGETHER, dtype=jnp.int32)
    return jax.vmap(lambda step: positions(seed, stream, step, batch_size, count))(steps)


def _host() -> jax.Device:
    """The CPU, even beside an accelerator; where JAX was told to leave it out, whole numbers are the same elsewhere."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


@dataclass(frozen=True)
class _Parts:
    """What Grain reads at random: part i is made when somebody asks for it."""

    make: Callable[[int], object]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> object:
        return self.make(index)


@contextlib.contextmanager
def ahead(make: Callable[[int], Made], count: int) -> Iterator[Iterator[Made]]:
    """Gives ``make(0)``, ``make(1)``, … in order; the next ``READERS`` are made meanwhile, each in a thread of its own.

    A part is as large as a whole call of the program: an example or a batch at a time costs Grain 35 to 300
    microseconds, ten times what a small network's step takes.
    """
    check_installed()
    import grain

    source = grain.MapDataset.source(_Parts(make, count))
    parts = iter(source.to_iter_dataset(grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READERS)))
    try:
        yield parts
    finally:
        parts.close()


def check_installed() -> None:
    """Raises InputError without Grain."""
    if importlib.util.find_spec("grain") is None:
        raise InputError(
            "data: placement='host' reads ahead with Grain, which is not installed", "pip install 'glorot-jax[stream]'"
        )
