"""A cohort's program at any width, and what each would take: found out here, decided elsewhere."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from glorot_jax.data.memory import free
from glorot_jax.engine import compiling
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning import form, machine, memory
from glorot_jax.engine.planning import width as widths
from glorot_jax.errors import InputError
from glorot_jax.files import cache_folder

if TYPE_CHECKING:
    import jax
    import numpy as np

    from glorot_jax.engine.planning.memory import Need, Working
    from glorot_jax.engine.planning.plan import Cohort
    from glorot_jax.engine.planning.width import Width
    from glorot_jax.engine.segment import Draft, Program, Setup

_COPIES = 4
"""Times that parameters count: themselves, an optimizer's memory of each, and the copy on the host."""
_SMALL = 2**28
"""Bytes of all else."""


class Builder:
    """Makes one cohort's programs for some devices, and asks compiler, caches and stopwatch about them.

    Args:
        setup: what the cohort's runs share.
        arrays: what differs between them, each (runs,).
        kernel: what shall make the updates, see ``planning.form``; chosen by rule if not said.

    Raises:
        InputError: there is no such kernel, or not on this machine.
    """

    def __init__(
        self,
        cohort: Cohort,
        setup: Setup,
        arrays: Mapping[str, np.ndarray],
        devices: Sequence[jax.Device],
        kernel: str | None = None,
    ):
        self.cohort, self.setup, self.arrays, self.devices = cohort, setup, arrays, devices
        self.platform = devices[0].platform
        self._draft = self._drafted(setup)
        self.form = form.choose(self._draft, self.platform, kernel)
        self._programs: dict[int, Program] = {}

    def _drafted(self, setup: Setup) -> Draft:
        from glorot_jax.engine import segment

        return segment.Draft(setup, {name: array[0] for name, array in self.arrays.items()})

    def _bare(self) -> Draft:
        """The same without probes."""
        return self._drafted(self.setup._replace(probes=tuple(() for _ in self.setup.probes)))

    def _signature(self, **more: object) -> str:
        return costs.signature(self.cohort, self.form.kernel, **more)

    def program(self, width: int) -> Program:
        """Returns the program that vmaps so many runs."""
        if width not in self._programs:
            self._programs[width] = self._draft.program(width, self.form.kernel)
        return self._programs[width]

    def layout(self, width: int) -> Layout:
        """Returns where the cohort's runs lie at a width."""
        return Layout(len(self.cohort.runs), width, len(self.devices), self.program(width).room)

    @property
    def params(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shapes of a chunk's parameters by path, (room, width, …)."""
        return memory.arguments(self.program(1), self.arrays)[4]["params"]

    # ---- width

    def width(self, asked: int | None) -> Width:
        """Returns the width that somebody asks for, else the rule's.

        Raises:
            InputError: it is not positive.
        """
        if asked is not None and asked < 1:
            raise InputError(f"width: {asked} is not a positive integer")
        if asked is not None:
            return widths.Width(asked, "as asked", "asked")
        sizes, runs = self._draft.update_bytes(), len(self.cohort.runs)
        rule = functools.partial(widths.by_rule, *sizes, runs, self.platform, len(self.devices), machine.caches())
        found = rule()
        return found if self.platform == "cpu" else rule(most=self._room_for(found.runs))

    def _room_for(self, most: int) -> int | None:
        """How many runs of a block an accelerator has memory for; None where shapes alone say that it has plenty."""
        there = free(self.devices[0])
        if there is None or memory.need(self.program(most), self.arrays).least(most).device <= memory.NEAR * there:
            return None
        working = self.working(min(most, 16))
        return memory.widest(lambda width: memory.need(self.program(width), self.arrays, working), there, most)

    def calibrated(self, rule: Width, training_seconds: float) -> Width:
        """Returns the width that a stopwatch says, updates alone; see ``width.calibrated``."""
        tried = widths.candidates(rule.runs, len(self.cohort.runs), len(self.devices), self.platform)
        bare = self._bare()

        def seconds(width: int) -> float:
            return costs.run_step_seconds(self.cohort, bare.program(width, self.form.kernel), self.arrays, self.devices)

        facts = {"tried": tried, "runs": len(self.cohort.runs), "devices": len(self.devices)}
        return widths.calibrated(
            rule,
            tried,
            seconds,
            training_seconds,
            lambda: compiling.expected(self._operations(bare.program(rule.runs, self.form.kernel))),
            cache_folder("width") / f"{self._signature(**facts)}.json",
        )

    # ---- kernel

    def calibrate_kernel(self, width: int, training_seconds: float) -> None:
        """Takes the kernel that a stopwatch says at a width, updates alone; see ``form.calibrated``."""
        bare = self._bare()

        def seconds(kernel: str) -> float:
            import jax

            try:
                return costs.run_step_seconds(self.cohort, bare.program(width, kernel), self.arrays, self.devices)
            except jax.errors.JaxRuntimeError:  # the compiler's, or the device's
                return math.inf

        facts = {"width": width, "runs": len(self.cohort.runs), "devices": len(self.devices)}
        found = form.calibrated(
            self.form,
            self.setup.precision,
            seconds,
            training_seconds,
            lambda: compiling.expected(self._operations(bare.program(width, self.form.kernel))),
            cache_folder("kernel") / f"{self._signature(**facts)}.json",
        )
        if found.kernel != self.form.kernel:
            self._programs.clear()
        self.form = found

    # ---- compilation

    def compile_seconds(self, width: int) -> float:
        """Returns what compiling takes without the cache: as this machine remembers it, else by operations."""
        known = compiling.remembered(self._signature())
        return compiling.expected(self._operations(self.program(width))) if known is None else known

    def operations(self) -> int:
        """Returns how many operations the training program has; about as many at every width."""
        return self._operations(self.program(2))

    def update_bytes(self) -> tuple[int, int]:
        """Returns the bytes of a run's parameters, and of what its update keeps for the way back."""
        return self._draft.update_bytes()

    def _operations(self, program: Program) -> int:
        return compiling.operations(memory.lowered(program, self.arrays, self.devices[0]).as_text())

    # ---- memory

    def working(self, width: int) -> Working:
        """Returns what the program needs while it runs, by two compilations or as they were found before."""
        other = width // 2 if width > 1 else 2
        facts = {"widths": [width, other], "code_per_operation": memory.CODE_PER_OPERATION}
        path = cache_folder("memory") / f"{self._signature(**facts)}.json"
        try:
            points = {int(w): (int(t), int(c)) for w, (t, c) in json.loads(path.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            points = {w: memory.compiled_need(self.program(w), self.arrays, self.devices[0]) for w in (width, other)}
            machine.keep(path, points)
        return memory.Working.through(points)

    def need(self, width: int, *, compiled: bool) -> Need:
        """Returns what the cohort needs at a width; ``compiled``: by the compiler's word, not by shapes alone."""
        working = self.working(width) if compiled else None
        return memory.need(self.program(width), self.arrays, working, cohort=self.cohort)

    def free(self) -> int | None:
        """Returns the bytes that it may take: of a device, or of all if they share the machine's memory."""
        there = free(self.devices[0])
        # One copy of the examples is there already, and a CPU's devices count what is there as taken.
        return None if there is None else there + memory.tree_bytes(self.setup.dataset.constants())

    def fitting(self, width: int) -> int:
        """Returns how many runs fit at once; the compiler is asked only where shapes say that memory may be short.

        Raises:
            InputError: not one chunk of its runs fits; the line says what would.
        """
        there, layout, shared = self.free(), self.layout(width), self.platform == "cpu"
        if there is None or self._roughly(width) <= memory.NEAR * there:
            return layout.runs
        need = self.need(width, compiled=False)
        if need.of(layout).taken(layout, shared) <= memory.NEAR * there:
            return layout.runs
        need = self.need(width, compiled=True)
        memory.check(self.cohort.label, need, layout, there, shared)
        return need.tried_at_once(layout, there, shared)

    def _roughly(self, width: int) -> int:
        """More bytes than are taken as a rule, by the number of parameters alone: for nobody to trace what is small."""
        program, layout = self.program(width), self.layout(width)
        places = program.room * width * layout.chunks_per_device
        state = places * 4 * _COPIES * program.param_count + memory.tree_bytes(self.setup.dataset.constants())
        return state * (layout.devices_used if self.platform == "cpu" else 1) + _SMALL

    def at_once(self, need: Need, width: int) -> int:
        """Returns how many of the runs fit at once; see ``Need.tried_at_once``."""
        layout, there = self.layout(width), self.free()
        return layout.runs if there is None else need.tried_at_once(layout, there, self.platform == "cpu")
