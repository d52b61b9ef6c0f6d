"""Where each run of a cohort lies: in which block, in which chunk of blocks, on which device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


class Chunk(NamedTuple):
    """Blocks that one call of the program works on: ``count`` of them from ``first`` on, on one device."""

    device: int
    first: int
    count: int


@dataclass(frozen=True)
class Layout:
    """Run j lies in block j // width; the blocks are dealt out to the devices in equal rows, and there cut in chunks.

    The last block is filled up with copies of the last run, a chunk with blocks that are never visited.

    Attributes:
        runs: how many there are.
        width: runs of a block.
        devices: how many are offered; those that get no block are left out.
        room: blocks of a chunk.
    """

    runs: int
    width: int
    devices: int
    room: int

    @property
    def blocks(self) -> int:
        return -(-self.runs // self.width)

    @property
    def blocks_per_device(self) -> int:
        """The most blocks that a device has."""
        return -(-self.blocks // self.devices)

    @property
    def devices_used(self) -> int:
        return -(-self.blocks // self.blocks_per_device)

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks in the order of their blocks."""
        per = self.blocks_per_device
        return tuple(
            Chunk(device, first, min(self.room, last - first))
            for device in range(self.devices_used)
            for last in [min((device + 1) * per, self.blocks)]
            for first in range(device * per, last, self.room)
        )

    @property
    def chunks_per_device(self) -> int:
        """The most chunks that a device has."""
        return -(-self.blocks_per_device // self.room)

    def spread(self, array: np.ndarray, runs: np.ndarray | None = None) -> list[np.ndarray]:
        """Returns (runs, …) as one array (room, width, …) for each chunk.

        Args:
            runs: which of the array's these are, in the order of their places; all if not said.
        """
        taken = self._places if runs is None else [runs[places] for places in self._places]
        return [array[places].reshape(self.room, self.width, *array.shape[1:]) for places in taken]

    def spread_all(self, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Returns named arrays (runs, …) chunk by chunk."""
        spread = {name: self.spread(array) for name, array in arrays.items()}
        return [{name: parts[i] for name, parts in spread.items()} for i in range(len(self.chunks))]

    def gather(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the chunks' arrays (room, width, …) back as (runs, …)."""
        used = [part[: chunk.count] for part, chunk in zip(parts, self.chunks, strict=True)]
        whole = np.concatenate(used)
        return whole.reshape(-1, *whole.shape[2:])[: self.runs]

    def block_plans(self, seed: np.ndarray, stream: np.ndarray) -> list[dict[str, Any]]:
        """Returns for each chunk how many of its blocks hold runs, and which batches each block draws.

        A block draws once for each of its distinct (seed, stream), and not at all if they are those of the block
        before it. ``slot`` says where a run finds its own.
        """
        pairs = zip(self.spread(seed), self.spread(stream), self.chunks, strict=True)
        return [self._block_plan(seeds, streams, chunk.count) for seeds, streams, chunk in pairs]

    def _block_plan(self, seeds: np.ndarray, streams: np.ndarray, count: int) -> dict[str, Any]:
        runs = [list(zip(s.tolist(), t.tolist(), strict=True)) for s, t in zip(seeds, streams, strict=True)]
        distinct = [sorted(set(block)) for block in runs]
        padded = np.array([d + [d[-1]] * (self.width - len(d)) for d in distinct], np.uint32)
        draws = [0 if i and d == distinct[i - 1] else len(d) for i, d in enumerate(distinct)]
        return {
            "count": np.int32(count),
            "seeds": {
                "draw_seed": padded[:, :, 0],
                "draw_stream": padded[:, :, 1],
                "draws": np.array(draws, np.int32),
                "slot": np.array(
                    [[d.index(r) for r in block] for d, block in zip(distinct, runs, strict=True)], np.int32
                ),
            },
        }

    @property
    def _places(self) -> list[np.ndarray]:
        """For each chunk, the run that lies at each of its places."""
        place = np.arange(self.room * self.width)
        return [np.minimum(chunk.first * self.width + place, self.runs - 1) for chunk in self.chunks]
