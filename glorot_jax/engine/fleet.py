"""A cohort on its devices: one compiled program, the same machine code on each, and the runs' state beside it.

The program works on a fixed number of blocks of runs, however many runs and devices there are; how many of the blocks
hold runs is data. A device goes through its chunks of blocks in turn. So neither the number of devices nor the other
runs can change how anything is compiled, and with it a bit of any run; and a sweep of another size is no new program.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from glorot_jax.engine import compiling
from glorot_jax.engine.feed import Feed, merged
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.peers import ALONE, Peers
from glorot_jax.engine.segment import Pieces, Program
from glorot_jax.engine.tracing import undisturbed

Programs = dict[jax.Device, Callable]
State = list[Any]
"""A pytree of arrays (blocks, width, …) for each chunk, on that chunk's device; None for chunks of other processes."""


class Fleet:
    """The devices that train runs of one cohort.

    Args:
        program: what is compiled.
        layout, arrays: as ``lay`` takes them.
        devices: as many as ``layout.devices``, those of other processes too.
        peers: the processes that have such a fleet each; they call the same methods in the same order.

    Attributes:
        compilations: programs that were made ready so far, once for each device.
    """

    def __init__(
        self,
        program: Program,
        layout: Layout,
        arrays: Mapping[str, np.ndarray],
        devices: Sequence[jax.Device],
        peers: Peers = ALONE,
    ):
        self.program, self.peers = program, peers
        self._offered = sorted(devices, key=lambda device: device.process_index)
        self._workers = ThreadPoolExecutor(len(devices))
        self._constants: dict[jax.Device, Any] = {}
        self._initialize: Programs = {}
        self._train: Programs = {}
        self.compilations: list[compiling.Compilation] = []
        self.lay(layout, arrays)

    def lay(self, layout: Layout, arrays: Mapping[str, np.ndarray]) -> None:
        """Gives the places to these runs; what is compiled stays as it is, a state that lies there does not fit.

        Args:
            layout: which runs lie where.
            arrays: what differs between the runs, each (runs,): seed, stream, model.*, optimizer.*.
        """
        self.layout, self._arrays = layout, arrays
        self._places = [self._offered[chunk.device] for chunk in layout.chunks]
        self._mine = [i for i, place in enumerate(self._places) if place.process_index == jax.process_index()]
        self._devices = list(dict.fromkeys(self._places[i] for i in self._mine))
        hyper, blocks = layout.spread_all(arrays), layout.block_plans(arrays["seed"], arrays["stream"])
        constants = self.program.setup.dataset.constants()
        self._example = constants, hyper[0], blocks[0]
        self._hyper, self._blocks = self._put(hyper), self._put(blocks)
        self._constants |= {d: jax.device_put(constants, d) for d in self._devices if d not in self._constants}
        self._feed = Feed(self.program, layout, arrays) if self.program.feeding else None

    def compile(self, state: State) -> float:
        """Compiles the training program, once for each device in use, and returns the seconds that it took."""
        begin = time.perf_counter()
        self._train |= self._everywhere(
            self.program.segment,
            lambda device: self._arguments(self._first(device), _NO_PIECES, state),
            donate_argnums=4,
        )
        return time.perf_counter() - begin

    @property
    def ready(self) -> bool:
        """Whether every device in use has the training program."""
        return self._train.keys() >= set(self._devices)

    def record_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of a run's record at one step by its name; nothing is computed."""
        state = jax.eval_shape(self.program.initialize, *self._example)
        arguments = *self._example, _NO_PIECES, state, *([self._feed.feeding.brought] if self._feed else [])
        _, found = jax.eval_shape(self.program.segment, *arguments)
        return {name: leaf.shape[3:] for name, leaf in found.items()}

    def text(self, state: State) -> str:
        """Returns the compiled training program as text."""
        if not self.ready:
            self.compile(state)
        return self._train[self._devices[0]].as_text()

    @property
    def home(self) -> jax.Device:
        """The first device of this process."""
        return self._devices[0]

    @property
    def training(self) -> jax.stages.Compiled:
        """The compiled training program of the first device."""
        return self._train[self.home]

    @property
    def compilation(self) -> compiling.Compilation:
        """What it took to have that program."""
        return next(note for note in self.compilations if note.program == self.program.segment.__name__)

    def first_block(self, state: State) -> tuple[Any, ...]:
        """Returns constants, settings and state of the first block of runs, leaves of the latter two (width, …)."""
        return self._constants[self._places[0]], *jax.tree.map(lambda v: v[0], (self._hyper[0], state[0]))

    def lowered(self, function: Callable, *arguments: Any) -> jax.stages.Lowered:
        """Returns a function traced for the first device."""
        return jax.jit(function).lower(*arguments)

    def compiled(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Returns a traced function compiled as the training program is."""
        return compiling.compiled(lowered, self._devices[0].platform)

    def start(self) -> State:
        """Returns the state of all runs before their first update."""
        if not self._initialize.keys() >= set(self._devices):
            self._initialize |= self._everywhere(
                self.program.initialize, lambda device: self._settings(self._first(device))
            )
        state = self._on_each(lambda i, p: self._initialize[p](*self._settings(i)))
        return self._begun(self._feed, state) if self._feed else state

    def place(self, flat: Mapping[str, np.ndarray], runs: np.ndarray) -> State:
        """Returns the state of some of the runs of one that ``gather`` gave, back on the devices, array by array."""
        shape = jax.eval_shape(self.program.initialize, *self._example)
        paths, structure = jax.tree_util.tree_flatten_with_path(shape)
        leaves = [self._put(self.layout.spread(flat[_path(path)], runs)) for path, _ in paths]
        chunks = zip(*leaves, strict=True)
        return [structure.unflatten(parts) if i in self._mine else None for i, parts in enumerate(chunks)]

    def train(self, pieces: Pieces, state: State) -> tuple[State, list[Any]]:
        """Returns state and records of every chunk after one segment; the state that went in is used up."""
        if not self.ready:
            self.compile(state)
        feed = self._feed
        if feed:
            done = self._on_each(lambda i, p: self._fed(feed, i, p, pieces, state[i]))
        else:
            done = self._on_each(lambda i, p: self._train[p](*self._arguments(i, pieces, state)))
        return [part and part[0] for part in done], [part and part[1] for part in done]

    def first_record(self, piece: Pieces, state: State) -> tuple[State, dict[str, np.ndarray], float]:
        """Returns state and record of runs that have made no update yet; the state that went in is used up.

        Runs that differ in nothing that has been read by then, such as the learning rate alone, are measured once.

        Args:
            piece: without steps, at ``program.first_step``.

        Returns:
            As ``train`` and ``records``; and how many times longer it would have taken to measure all.
        """
        layout, arrays = self.layout, self._arrays
        read = np.stack([array for name, array in arrays.items() if name in self.program.read_at_first], axis=1)
        first, whose = _distinct(read)
        fewer = replace(layout, runs=len(first))
        times = layout.blocks_per_device / fewer.blocks_per_device
        if times < 2 or self._feed:  # to begin twice more takes longer than what it saves
            self._initialize = {}
            state, records = self.train(piece, state)
            return state, self.records(records, 1), 1.0
        for leaf in jax.tree.leaves(state):  # memory never holds two states
            leaf.delete()
        self.lay(fewer, {name: array[first] for name, array in arrays.items()})
        records = self.train(piece, self.start())[1]
        found = {name: values[whose] for name, values in self.records(records, 1).items()}
        self.lay(layout, arrays)
        state = self.start()
        self._initialize = {}  # a hundredth of all memory
        return state, found, times

    def _begun(self, feed: Feed, state: State) -> State:
        """The state of runs whose first batches the host brings, one part of a block after the other."""
        takes = {"block": np.int32(0), "run": np.int32(0)}, feed.feeding.first_inputs
        programs = self._everywhere(
            feed.feeding.begin,
            lambda device: (*self._settings(self._first(device))[:2], *takes, state[self._first(device)]),
            donate_argnums=4,
        )

        def chunk(i: int, device: jax.Device) -> Any:
            mine = state[i]
            for brought in feed.beginnings(i):
                mine = programs[device](*self._settings(i)[:2], *jax.device_put(brought, device), mine)
            return mine

        return self._on_each(chunk)

    def _fed(self, feed: Feed, chunk: int, device: jax.Device, pieces: Pieces, state: Any) -> tuple[Any, Any]:
        """State and records of one chunk after a segment of as many calls as its batches need."""
        written: list[tuple[Pieces, Any]] = []
        for part, brought in feed.calls(chunk, pieces):
            arguments = *self._settings(chunk), *jax.device_put((part, state, brought), device)
            state, records = jax.block_until_ready(self._train[device](*arguments))
            if not written or (part.slot >= 0).any():
                written.append((part, records))
        return state, merged(written) if written else {}  # of a schedule without pieces

    def gather(self, state: State) -> dict[str, np.ndarray]:
        """Returns the state on the host: path -> (runs, …)."""
        flat = {i: jax.tree_util.tree_leaves_with_path(state[i]) for i in self._mine}
        return self._whole({i: {_path(p): np.asarray(leaf) for p, leaf in leaves} for i, leaves in flat.items()})

    def records(self, records: Sequence[Any], count: int) -> dict[str, np.ndarray]:
        """Returns the first ``count`` records of a segment on the host: name -> (runs, records, …)."""
        moved = {
            i: {k: np.moveaxis(np.asarray(v), 1, 2)[:, :, :count] for k, v in records[i].items()} for i in self._mine
        }
        return self._whole(moved)

    def _whole(self, mine: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Arrays (room, width, …) of this process' chunks as (runs, …) of all runs, those of other processes too."""
        chunks = self.layout.chunks
        used = [{k: v[: chunks[i].count] for k, v in part.items()} for i, part in mine.items()]
        parts = self.peers.joined(used)
        return {name: self.layout.gather([part[name] for part in parts]) for name in parts[0]}

    def _first(self, device: jax.Device) -> int:
        """The first chunk of a device."""
        return self._places.index(device)

    def _settings(self, chunk: int) -> tuple[Any, ...]:
        return self._constants[self._places[chunk]], self._hyper[chunk], self._blocks[chunk]

    def _arguments(self, chunk: int, pieces: Pieces, state: State) -> tuple[Any, ...]:
        """What the training program takes; batches that the host would bring by their shapes alone."""
        brought = [self._feed.feeding.brought] if self._feed else []
        return *self._settings(chunk), jax.device_put(pieces, self._places[chunk]), state[chunk], *brought

    def _on_each(self, work: Callable[[int, jax.Device], Any]) -> list[Any]:
        """Does the work of this process' chunks, all devices at once, each in a thread of its own."""

        def on(device: jax.Device) -> dict[int, Any]:
            mine = [i for i in self._mine if self._places[i] == device]
            return jax.block_until_ready({i: work(i, device) for i in mine})

        futures: list[Future] = [self._workers.submit(on, device) for device in self._devices]
        done = {i: result for future in futures for i, result in future.result().items()}
        return [done.get(i) for i in range(len(self._places))]

    def _put(self, chunks: Sequence[Any]) -> list[Any]:
        mine = set(self._mine)
        return [jax.device_put(part, self._places[i]) if i in mine else None for i, part in enumerate(chunks)]

    def _everywhere(self, function: Callable, arguments: Callable[[jax.Device], tuple], **options: Any) -> Programs:
        """Compiles for the first device; the others find the same machine code in the compilation cache."""
        if not self._devices:
            return {}
        home, *others = self._devices
        jitted = jax.jit(function, **options)
        asked = functools.cache(lambda: compiling.options_of(jitted.lower(*arguments(home)), home.platform))

        def compiled(device: jax.Device) -> Callable:
            def make() -> jax.stages.Compiled:
                return jitted.lower(*arguments(device)).compile(compiler_options=asked())

            return compiling.noted(function.__name__, make, self.compilations)

        with _one_key_for_all_devices(), undisturbed():
            return {home: compiled(home)} | dict(zip(others, self._workers.map(compiled, others), strict=True))


_NO_PIECES = Pieces.of([])


@contextlib.contextmanager
def _one_key_for_all_devices() -> Iterator[None]:
    """Leaves the device out of the compilation cache's keys on a CPU, as JAX itself does on a GPU.

    Should JAX be built otherwise one day, each device compiles for itself: the same code, later.
    """
    from jax._src import cache_key

    name = "_hash_serialized_compile_options"
    own = getattr(cache_key, name, None)
    if own is None or "strip_device_assignment" not in inspect.signature(own).parameters:
        yield
        return
    setattr(cache_key, name, lambda hash_obj, options, **_: own(hash_obj, options, strip_device_assignment=True))
    try:
        yield
    finally:
        setattr(cache_key, name, own)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each kind of row, in their order, and for each row which of these is like it."""
    _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))
    return np.sort(first), place[kind.ravel()]


def _path(path: tuple) -> str:
    return "/".join(str(p.key) for p in path)
