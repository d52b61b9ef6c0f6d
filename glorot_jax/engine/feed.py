"""Batches of training examples that stay on the host, for one call of the compiled program at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from glorot_jax.data.stream import ahead
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.segment import Pieces, Program


class Call(NamedTuple):
    """A part of a segment's schedule whose batches fit into one call: those of ``steps``, for each seed."""

    pieces: Pieces
    steps: range


def cut(pieces: Pieces, most: int) -> list[Call]:
    """Returns a schedule as calls that need the batches of at most ``most`` steps each.

    A piece of more steps goes on in the next call. A piece without steps needs one batch: that of the next update.
    """
    calls: list[list[tuple[int, int, int, int]]] = []
    begin = 0
    for first, steps, slot, due in zip(*(column[: pieces.count].tolist() for column in pieces[:4]), strict=True):
        while True:
            if not calls or first - begin >= most:
                calls.append([])
                begin = first
            now = min(steps, begin + most - first)
            if now == steps:
                calls[-1].append((first, steps, slot, due))
                break
            calls[-1].append((first, now, -1, 0))
            first, steps = first + now, steps - now
    return [Call(Pieces.of(call), range(call[0][0], max(f + max(n, 1) for f, n, *_ in call))) for call in calls]


class Feed:
    """Brings each chunk of a cohort its batches: for each (seed, stream) of the chunk, those of a call's steps.

    Args:
        program: one whose training examples stay on the host.
        layout: which runs lie where.
        arrays: what differs between the runs, each (runs,): ``seed`` and ``stream`` are used.
    """

    def __init__(self, program: Program, layout: Layout, arrays: Mapping[str, np.ndarray]):
        feeding, stream = program.feeding, program.setup.dataset.stream
        assert feeding is not None
        assert stream is not None
        self.feeding, self.stream, self.layout = feeding, stream, layout
        self._runs = list(zip(layout.spread(arrays["seed"]), layout.spread(arrays["stream"]), strict=True))
        plans = layout.block_plans(arrays["seed"], arrays["stream"])
        self._chunks = [_pairs(plan["seeds"]["draw_seed"], plan["seeds"]["draw_stream"]) for plan in plans]

    @property
    def bytes_per_step(self) -> int:
        """What one step of all runs needs: a batch for each seed of each chunk."""
        rows = self.feeding.brought["inputs"], self.feeding.brought["labels"]
        each = sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in rows)
        return each * sum(len(pairs) for pairs, _ in self._chunks)

    def calls(self, chunk: int, pieces: Pieces) -> Iterator[tuple[Pieces, dict[str, Any]]]:
        """Yields a segment's schedule part by part, each with what the program takes for it; read ahead."""
        calls = cut(pieces, self.feeding.rows // len(self._chunks[chunk][0]))
        with ahead(lambda i: self._batches(chunk, calls[i].steps), len(calls)) as found:
            for call, batches in zip(calls, found, strict=True):
                yield call.pieces, batches

    def beginnings(self, chunk: int) -> Iterator[tuple[dict[str, np.int32], np.ndarray]]:
        """Yields places of runs, some of a block at a time, each with their first inputs; read ahead."""
        shape, dtype = self.feeding.first_inputs.shape, self.feeding.first_inputs.dtype
        some, steps, batch_size = shape[:3]
        seeds, streams = self._runs[chunk]
        width = seeds.shape[1]
        places = [
            (block, min(run, width - some))  # the last of a block may begin twice, as they are
            for block in range(self.layout.chunks[chunk].count)
            for run in range(0, width, some)
        ]

        def first_inputs(i: int) -> np.ndarray:
            block, run = places[i]
            made, labels = np.empty(shape, dtype), np.empty((steps, batch_size), np.int32)
            for j in range(some):
                self.stream.read(seeds[block, run + j], streams[block, run + j], range(steps), made[j], labels)
            return made

        with ahead(first_inputs, len(places)) as found:
            for (block, run), inputs in zip(places, found, strict=True):
                yield {"block": np.int32(block), "run": np.int32(run)}, inputs

    def _batches(self, chunk: int, steps: range) -> dict[str, Any]:
        pairs, index = self._chunks[chunk]
        inputs, labels = (np.empty(a.shape, a.dtype) for a in (self.feeding.brought[k] for k in ("inputs", "labels")))
        for number, (seed, stream) in enumerate(pairs):
            rows = slice(number * len(steps), (number + 1) * len(steps))
            self.stream.read(seed, stream, steps, inputs[rows], labels[rows])
        row = (index * len(steps)).astype(np.int32)
        return {"inputs": inputs, "labels": labels, "row": row, "first": np.int32(steps.start)}


def _pairs(seeds: np.ndarray, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of a chunk [pairs, 2], and which of them each slot of each block (room, width) draws."""
    both = np.stack([seeds, streams], axis=-1)
    pairs, index = np.unique(both.reshape(-1, 2), axis=0, return_inverse=True)
    return pairs, index.reshape(seeds.shape)


def merged(parts: Sequence[tuple[Pieces, Mapping[str, Any]]]) -> dict[str, np.ndarray]:
    """Returns a chunk's records (room, records, …), each from the call that wrote it."""
    whole = {name: np.array(array) for name, array in parts[0][1].items()}
    for pieces, found in parts[1:]:
        for slot in pieces.slot[pieces.slot >= 0]:
            for name, array in whole.items():
                array[:, slot] = np.asarray(found[name])[:, slot]
    return whole
