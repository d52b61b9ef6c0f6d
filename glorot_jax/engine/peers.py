"""Several processes that train one sweep as one program (``jax.distributed``): what one has or decides comes to all.

Runs never talk to each other, so neither do their programs: each process trains the blocks that lie on its own
devices. What has to be common goes over the network between two segments:

- what the first process decides: what there is to train and where it stands, how long the next segment is, who is
  dropped. It alone reads and writes the results folder, so nobody else needs to see it;
- what everybody says: how long a segment took, whether a signal asks for a stop;
- state and records of everybody's runs, as bytes. Each process holds those of all runs on the host, as a process that
  trains alone does; they pass through its devices in pieces of ``PIECE_BYTES`` times the number of processes.

Facts go through the coordination service, bytes through collectives, always in the same order in every process. A
process that fails says so in place of its next fact, and all others fail with its words.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from glorot_jax.errors import InputError, ResumableError, Stopped

PIECE_BYTES = 16 * 2**20
"""Bytes of one process that are under way at a time."""
LEAST_BYTES = 4096
_PATIENCE = 7 * 24 * 3600 * 1000
"""Milliseconds that one waits for the others: a process that died ends the wait long before, by its heartbeat."""
_programs = itertools.count()

Arrays = dict[str, np.ndarray]


class Peers:
    """The processes of one program, of which this is one; or this process alone.

    Attributes:
        index: of this process.
        count: how many there are.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None):
        self.index, self.count, self._client = index, count, client
        self._name = f"glorot/{next(_programs)}"
        self._numbers = itertools.count()
        self._told = False

    @staticmethod
    def here() -> Peers:
        """Returns those of the ``jax.distributed`` that was initialized in this process; it alone if none was."""
        if "jax" not in sys.modules:
            return Peers()
        from jax._src.distributed import global_state

        if global_state.client is None or global_state.num_processes == 1:
            return Peers()
        return Peers(global_state.process_id, global_state.num_processes, global_state.client)

    @property
    def leads(self) -> bool:
        """Whether this process decides, reads and writes."""
        return self.index == 0

    def agreed(self, mine: Any) -> list[Any]:
        """Returns what every process says, in their order, in JSON's terms; waits for all of them.

        Raises:
            InputError, ResumableError: a process failed, in its words.
        """
        if self.count == 1:
            return [mine]
        said = self._exchanged({"value": mine})
        for index, one in enumerate(said):
            if "value" not in one:
                self._told = True
                kind = InputError if one["refused"] else ResumableError
                raise kind(f"process {index} of {self.count}: {one['failed']}")
        return [mine if index == self.index else one["value"] for index, one in enumerate(said)]

    def told(self, decision: Any = None) -> Any:
        """Returns what the first process decides, in JSON's terms; what others pass does not matter."""
        return self.agreed(decision if self.leads else None)[0]

    def joined(self, mine: Sequence[Mapping[str, np.ndarray]]) -> list[Arrays]:
        """Returns every process' arrays, in the order of the processes; each may have any number of any shape."""
        if self.count == 1:
            return [dict(part) for part in mine]
        told = self.agreed([[(name, str(a.dtype), a.shape) for name, a in part.items()] for part in mine])
        flat = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for part in mine for a in part.values()]
        with self._reaching():
            buffers = _gathered(np.concatenate([*flat, np.zeros(0, np.uint8)]), [_bytes(parts) for parts in told])
        return [part for parts, buffer in zip(told, buffers, strict=True) for part in _read(parts, buffer)]

    def check(self, **facts: Any) -> None:
        """Refuses to begin where processes differ in what has to be the same.

        Raises:
            InputError: they do; the line says in what.
        """
        if self.count == 1:
            return
        said = self.agreed(facts)
        for name in facts:
            for index, theirs in enumerate(said):
                if theirs[name] != said[0][name]:
                    self._told = True
                    raise InputError(
                        f"process {index} of {self.count}: its {name} is {theirs[name]}, not {said[0][name]}"
                    )

    def meet(self, **facts: Any) -> None:
        """Starts JAX in all, and refuses to begin where their devices differ in number, or in further facts.

        Raises:
            InputError: they do; the line says in what.
        """
        if self.count == 1:
            return
        import jax

        self.check(devices=jax.local_device_count(), **facts)
        with _chatter_aside():
            self.joined([{"index": np.array([self.index])}])

    @contextlib.contextmanager
    def one_fate(self) -> Iterator[None]:
        """Within it, what fails in this process fails in all."""
        try:
            yield
        except Stopped:
            raise  # they were asked all
        except BaseException as error:
            if self.count > 1 and not self._told:
                self._told = True
                what = str(error) or type(error).__name__
                with contextlib.suppress(Exception):  # those that don't hear it will miss its heartbeat
                    self._exchanged({"failed": what, "refused": isinstance(error, InputError)})
            raise

    def _exchanged(self, mine: Mapping[str, Any]) -> list[dict[str, Any]]:
        number = next(self._numbers)
        here = f"{self._name}/{number}"
        with self._reaching():
            self._client.key_value_set(f"{here}/{self.index}", json.dumps(mine))
            self._client.wait_at_barrier(here, _PATIENCE)
            said = self._client.key_value_dir_get(here)
            if self.leads and number:
                self._client.key_value_delete(f"{self._name}/{number - 1}")  # whoever came here has read it
        by_index = {int(key.rpartition("/")[2]): json.loads(text) for key, text in said}
        return [by_index[index] for index in range(self.count)]

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Within it, what fails is the network or another process: there is nobody to tell."""
        try:
            yield
        except Exception as error:  # jaxlib's own kinds, by version and network
            self._told = True
            reason = str(error).partition("\n")[0][:200]
            raise ResumableError(f"another process is gone, or can't be reached: {reason}") from error


def _bytes(parts: Sequence[Sequence[Any]]) -> int:
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for part in parts for _, dtype, shape in part)


def _read(parts: Sequence[Sequence[Any]], buffer: np.ndarray) -> Iterator[Arrays]:
    """Arrays of which one was told name, type and shape, out of their bytes."""
    begin = 0
    for part in parts:
        arrays = {}
        for name, dtype, shape in part:
            end = begin + int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays[name] = buffer[begin:end].view(dtype).reshape(shape)
            begin = end
        yield arrays


def _gathered(mine: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Every process' bytes, piece by piece; the pieces have few sizes, for each of which a program is compiled."""
    from jax.experimental import multihost_utils

    whole = [np.empty(size, np.uint8) for size in sizes]
    piece = int(np.clip(2 ** int(np.ceil(np.log2(max(1, *sizes)))), LEAST_BYTES, PIECE_BYTES))
    for begin in range(0, max(sizes), piece):
        part = np.zeros(piece, np.uint8)
        part[: max(0, len(mine) - begin)] = mine[begin : begin + piece]
        for buffer, found in zip(whole, multihost_utils.process_allgather(part), strict=True):
            buffer[begin : begin + piece] = found[: max(0, len(buffer) - begin)]
    return whole


@contextlib.contextmanager
def _chatter_aside() -> Iterator[None]:
    """Sends to standard error what libraries print when they first meet: standard output is for data."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(own, 1)
        os.close(own)


ALONE = Peers()
"""A process by itself."""
