"""What training a cohort takes of a device's memory, known before anything runs: by shapes, and by the compiler.

State, data and records follow from shapes. What the program needs beside them while it runs only the compiler knows:
it says so of a program that was compiled for arguments that don't exist (XLA's ``CompiledMemoryStats``). Two widths
give the rest, for what a block needs grows in proportion to its runs.

Where devices share the machine's memory, what the process takes beside its arrays counts, too: the copy of the state
that checkpoints are written from, the programs, and what this package and its libraries hold once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.errors import InputError

if TYPE_CHECKING:
    import jax

    from glorot_jax.engine.layout import Layout
    from glorot_jax.engine.planning.plan import Cohort
    from glorot_jax.engine.segment import Program

NEAR = 0.5
"""Share of the free memory that shapes alone may take before the compiler is asked, too."""
LIBRARIES = 92 * 10**6
"""Bytes of the machine's memory that compiling and writing take once, whatever is trained.

Measured with jaxlib 0.10 on x86: 30 to 50 MB stay when a program is made, the rest is libraries of records and
checkpoints.
"""
PREDICTED_LAYER = 14 * 10**6
"""Bytes of the machine's memory for a layer that is predicted: of the programs that do it; measured."""
PREDICTIONS_COMPILED = 30 * 10**6
"""Bytes more, of all layers together, where those programs have to be compiled first; measured."""
CODE_PER_OPERATION = 9400
"""Bytes that each device's copy of a program holds for an operation, where the compiler doesn't tell; measured."""
UNCERTAIN = 0.1
"""Part of what is predicted by which less may be taken: nobody is refused for it."""
SPARE = 0.02
"""Of what is free that is left to others."""


@dataclass(frozen=True)
class Working:
    """Bytes that a training program needs while it runs, as a function of its width.

    Attributes:
        base, slope: of its temporaries: base + slope · width.
        code: of the program itself, see ``told``.
        widths: those that the compiler was asked at; none where shapes alone were, which give the least.
    """

    base: float
    slope: float
    code: int
    widths: tuple[int, ...]

    @staticmethod
    def through(points: Mapping[int, tuple[int, int]]) -> Working:
        """Returns the line through temporary and code bytes at one or two widths; through 0 if there is one."""
        (w, (low, code)), *more = sorted(points.items())
        for wide, (high, more_code) in more[-1:]:
            slope = max(0.0, (high - low) / (wide - w))
            return Working(low - slope * w, slope, max(code, more_code), (w, wide))
        return Working(0.0, low / w, code, (w,))

    def at(self, width: int) -> int:
        """Returns the bytes of the temporaries at a width."""
        return math.ceil(max(0.0, self.base + self.slope * width))


@dataclass(frozen=True)
class Chunk:
    """Bytes of one chunk of blocks: ``places`` of them, at which a run lies or none.

    Attributes:
        state: of its places, those that nobody takes included.
        settings: what differs between its runs, and which batches they draw.
        records: of one segment.
        copied: of a run's state when it is brought to the host.
    """

    places: int
    state: int
    settings: int
    records: int
    copied: int


@dataclass(frozen=True)
class Footprint:
    """Bytes that one device holds at most while a cohort trains, by what they are for.

    Attributes:
        constants: examples on the device, and the batches that the host brings for a call and the next.
        state: parameters, statistics and optimizer memory of all runs and of places that stay empty.
        settings: seeds, rates and choices.
        records: of the segment at work, and of the one before, which the host is reading.
        temporaries: of the program while it runs.
        code: of the program.
        host: in the machine's own memory: the copy of the state that a checkpoint is written from.
        predictions: in the machine's own memory, once for all devices: of what theory says of the first step.
    """

    constants: int
    state: int
    settings: int
    records: int
    temporaries: int
    code: int
    host: int
    predictions: int

    @property
    def device(self) -> int:
        """All but what is in the machine's own memory."""
        return self.constants + self.state + self.settings + self.records + self.temporaries + self.code

    def taken(self, layout: Layout, shared: bool) -> int:
        """Returns what is taken of a device's memory, or by the process if all devices and the host share one.

        What it held before, one copy of the examples apart, is not among it; nor is what the training program takes
        only while it is compiled.
        """
        if not shared:
            return self.device
        return layout.devices_used * (self.device + self.host) + self.predictions + LIBRARIES

    def parts(self) -> dict[str, int]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Need:
    """What a cohort needs, and so how many of its runs fit.

    Attributes:
        constants: bytes on every device.
        chunk: bytes of each chunk.
        working: bytes while it runs.
        predictions: as of ``Footprint``.
    """

    constants: int
    chunk: Chunk
    working: Working
    predictions: int = 0

    def of(self, layout: Layout) -> Footprint:
        """Returns what the fullest device holds with its runs laid out so."""
        chunks, runs = layout.chunks_per_device, min(layout.blocks_per_device * layout.width, layout.runs)
        return self._holding(chunks, runs, layout.width)

    def least(self, width: int) -> Footprint:
        """Returns what a device holds with one chunk of runs of this width."""
        return self._holding(1, self.chunk.places, width)

    def _holding(self, chunks: int, runs: int, width: int) -> Footprint:
        return Footprint(
            constants=self.constants,
            state=chunks * self.chunk.state,
            settings=chunks * self.chunk.settings,
            records=2 * chunks * self.chunk.records,
            temporaries=self.working.at(width),
            code=self.working.code,
            host=runs * self.chunk.copied,
            predictions=self.predictions,
        )

    def at_once(self, layout: Layout, free: int, shared: bool) -> int:
        """Returns how many of a cohort's runs can be on the devices at once, in whole chunks; 0 if not even one.

        Args:
            free: bytes of a device, or of all together if they share one memory.
            shared: whether they do, as CPU devices do, and so with the host's copy.
        """
        usable = int(free * (1 - SPARE))
        for chunks in range(layout.chunks_per_device, 0, -1):
            runs = min(chunks * self.chunk.places, layout.runs)
            if self._holding(chunks, runs, layout.width).taken(layout, shared) <= usable:
                return min(layout.devices_used * runs, layout.runs)
        return 0

    def tried_at_once(self, layout: Layout, free: int, shared: bool) -> int:
        """Returns the same, but one chunk of runs of which it is uncertain whether they fit; 0 if they don't."""
        one = min(self.chunk.places, layout.runs)
        taken = (1 - UNCERTAIN) * self.least(layout.width).taken(layout, shared)
        lenient = min(layout.devices_used * one, layout.runs) if taken <= free else 0
        return self.at_once(layout, free, shared) or lenient


def need(
    program: Program,
    arrays: Mapping[str, np.ndarray],
    working: Working | None = None,
    state: Any = None,
    cohort: Cohort | None = None,
) -> Need:
    """Returns what a cohort's program needs: from shapes, and of temporaries the least if ``working`` isn't said.

    Args:
        arrays: what differs between the runs, each (runs,).
        state: of one chunk, or its shapes; they are found by tracing if it isn't said.
        cohort: theirs, if theory shall say what it says of their first step.
    """
    from glorot_jax.engine.predictions import mark, predictable
    from glorot_jax.engine.segment import RECORDS_PER_SEGMENT

    constants, hyper, blocks, _, state, *brought = arguments(program, arrays, state)
    places = program.room * program.width
    chunk = Chunk(
        places=places,
        state=tree_bytes(state),
        settings=tree_bytes((hyper, blocks)),
        records=4 * program.record_size * (RECORDS_PER_SEGMENT + 1) * places,
        copied=tree_bytes(state) // places,
    )
    theory = 0
    if cohort is not None and predictable(cohort.runs[0]):
        compiled = 0 if mark(cohort, program).exists() else PREDICTIONS_COMPILED
        theory = PREDICTED_LAYER * _layers(program) + compiled
    held = tree_bytes(constants) + 2 * tree_bytes(brought)
    return Need(held, chunk, working or _least(program), theory)


def _layers(program: Program) -> int:
    """Hidden layers of a network."""
    return max((layer for _, layer in program.blame if layer is not None), default=1) - 1


def _least(program: Program) -> Working:
    """The drawn batches, and a gradient of every parameter: no program that has not been compiled is said to need more.

    A lower bound, for nobody shall be refused what would have fitted.
    """
    setup = program.setup
    batches = program.piece_steps * setup.batch_size * setup.dataset.features * np.dtype(setup.dataset.dtype).itemsize
    return Working(0.0, batches + 4.0 * program.param_count, 0, ())


def arguments(program: Program, arrays: Mapping[str, np.ndarray], state: Any = None) -> tuple[Any, ...]:
    """Returns what the training program takes of one chunk, as shapes; nothing is computed."""
    import jax

    from glorot_jax.engine.layout import Layout
    from glorot_jax.engine.segment import Pieces

    one = {name: array[:1] for name, array in arrays.items()}
    layout = Layout(1, program.width, 1, program.room)
    given = program.setup.dataset.constants(), layout.spread_all(one)[0], _plan(layout, one)
    state = jax.eval_shape(program.initialize, *given) if state is None else state
    brought = [program.feeding.brought] if program.feeding else []
    return jax.tree.map(_shape, (*given, Pieces.of([]), state, *brought))


def _plan(layout: Layout, arrays: Mapping[str, np.ndarray]) -> Any:
    return layout.block_plans(arrays["seed"], arrays["stream"])[0]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    import jax

    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)


def lowered(program: Program, arrays: Mapping[str, np.ndarray], device: jax.Device) -> jax.stages.Lowered:
    """Returns the training program traced for arguments that don't exist."""
    import jax

    on = jax.sharding.SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on), arguments(program, arrays)
    )
    return jax.jit(program.segment, donate_argnums=4).lower(*placed)


def compiled_need(program: Program, arrays: Mapping[str, np.ndarray], device: jax.Device) -> tuple[int, int]:
    """Returns the bytes of the training program's temporaries and of itself, see ``told``.

    What is compiled stays in the compilation cache for the arguments that will exist.
    """
    from glorot_jax.engine.compiling import compiled, operations

    traced = lowered(program, arrays, device)
    return told(compiled(traced, device.platform), operations(traced.as_text()))


def told(program: jax.stages.Compiled, operations: int) -> tuple[int, int]:
    """Returns the bytes of a compiled program's temporaries, 0 where nobody tells, and of the program itself.

    The latter are those of its machine code, or, where the compiler doesn't tell, of all that the process holds for it.

    Args:
        operations: of the program before it is optimized.
    """
    made = program.memory_analysis()
    temporary, code = (0, 0) if made is None else (made.temp_size_in_bytes, made.generated_code_size_in_bytes)
    return int(temporary), int(code) or CODE_PER_OPERATION * operations


def widest(need_at: Callable[[int], Need], free: int, most: int) -> int:
    """Returns the largest power of two of runs, up to ``most``, of which a device has room for one chunk; at least 1.

    Args:
        need_at: what is needed at a width.
        free: bytes of a device.
    """
    widths = [2**k for k in range(most.bit_length()) if 2**k <= most]
    fits = [width for width in widths if need_at(width).least(width).device <= free * (1 - SPARE)]
    return max(fits, default=1)


def check(label: str, need: Need, layout: Layout, free: int, shared: bool) -> None:
    """Refuses a cohort of which surely not one chunk of runs fits.

    Args:
        label: of the cohort.
        free, shared: as for ``Need.at_once``.

    Raises:
        InputError: the line says what is needed and what is free; the hint, what would fit.
    """
    if need.tried_at_once(layout, free, shared):
        return
    made = need.least(layout.width)
    one = min(need.chunk.places, layout.runs)
    where = f"{layout.devices_used} devices that share memory" if shared and layout.devices_used > 1 else "a device"
    taken = made.taken(layout, shared)
    raise InputError(
        f"memory: {label}: {one} run{'s' * (one > 1)} at width {layout.width} need {taken:,} bytes on {where}, "
        f"{free:,} are free",
        "; ".join(hints(made, layout, shared)),
    )


def hints(made: Footprint, layout: Layout, shared: bool) -> list[str]:
    """Returns what would make it fit, what helps most first."""
    narrower = [f"--width {layout.width // 2}"] if layout.width > 1 else []
    found = [
        (made.constants, ["placement='host' or a smaller data set"]),
        (made.temporaries, [*narrower, "a smaller batch_size, fewer examples for the probes"]),
        (made.state + made.host, ["smaller widths of the network", "an optimizer that keeps less"]),
    ]
    ranked = [hint for _, some in sorted(found, key=lambda part: -part[0]) for hint in some]
    more = ["JAX_NUM_CPU_DEVICES=1"] if shared and layout.devices_used > 1 else []
    return [*ranked, *more, "a device with more memory"]


def tree_bytes(tree: object) -> int:
    """Returns the bytes of all arrays of a tree, or of their shapes."""
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
