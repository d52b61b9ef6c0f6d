"""Cohorts that differ in depth alone: in one program or several, by what each way is thought to take.

Seconds follow from counts, at rates that are the same on every machine: so the same sweep is divided in the same way
everywhere, today and tomorrow. Only where somebody asks for the stopwatch do this machine's own seconds take their
place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glorot_jax.engine import compiling
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning import fusing, machine
from glorot_jax.engine.planning.grouping import FUSE, Candidate, Fuse, Grouping, grouped
from glorot_jax.engine.planning.width import by_rule
from glorot_jax.errors import InputError

if TYPE_CHECKING:
    from glorot_jax.engine.planning.builder import Builder
    from glorot_jax.engine.planning.plan import Cohort

RATE = {"cpu": 20e9, "gpu": 4e12, "tpu": 4e12}
"""Operations a second that updates of small networks reach on one device, by order of magnitude."""


@dataclass(frozen=True)
class Shared:
    """Cohorts as they are to be compiled.

    Attributes:
        cohorts: those that share a program are one.
        families: cohorts of several depths that could share one, and how they do; none were looked at for ``never``.
    """

    cohorts: tuple[Cohort, ...]
    families: tuple[tuple[tuple[Cohort, ...], Grouping], ...]

    def why(self, cohort: Cohort) -> str | None:
        """Returns why a cohort shares its program, or has its own, where it had a choice."""
        ids = {member.id for member in cohort.members or (cohort,)}
        return next((made.why for family, made in self.families if ids & {c.id for c in family}), None)


def share(found: Sequence[Cohort], how: Fuse, build: Callable[[Cohort], Builder], *, stopwatch: bool = False) -> Shared:
    """Returns cohorts of one depth each with those put together that shall share a program.

    Args:
        build: makes a cohort's builder; called for the shallowest and the deepest of each family.
        stopwatch: use what compiling and updates took on this machine, where that is known.

    Raises:
        InputError: ``how`` is none of the ways.
    """
    if how not in FUSE:
        raise InputError(f"fuse: {how!r} is not {' | '.join(FUSE)}")
    if how == "never":
        return Shared(tuple(found), ())
    families, groups = [], []
    for family in fusing.fusable(found):
        ordered = sorted(family, key=depth)
        made = grouped(len(ordered), Estimate(ordered, build, stopwatch), how)
        families.append((tuple(ordered), made))
        groups += [ordered[part.start : part.stop] for part in made.groups if len(part) > 1]
    return Shared(tuple(fusing.fuse(found, groups)), tuple(families))


def depth(cohort: Cohort) -> int:
    """Returns the hidden layers of a cohort's networks."""
    stack = cohort.runs[0].model.stack()
    assert stack is not None
    return stack.depth


class Estimate:
    """Seconds of any program for some of a family's depths; see ``grouped``.

    Args:
        family: cohorts by rising depth.
    """

    def __init__(self, family: Sequence[Cohort], build: Callable[[Cohort], Builder], stopwatch: bool):
        self._family, self._stopwatch = family, stopwatch
        low, high = (build(cohort) for cohort in (family[0], family[-1]))
        self._deepest, self._program = high, high.program(1)
        self._ends = [(depth(b.cohort), b.operations(), sum(b.update_bytes())) for b in (low, high)]
        self._rate = self._measured_rate() or RATE.get(high.platform, RATE["gpu"])

    def __call__(self, first: int, last: int) -> Candidate:
        """Returns the program of the cohorts ``first`` … ``last`` − 1."""
        members = self._family[first:last]
        return Candidate(self._compiling(members), self._training(members))

    def _compiling(self, members: Sequence[Cohort]) -> float:
        deepest = depth(members[-1])
        operations = self._between(deepest, 1)
        if not self._stopwatch:
            return compiling.SECONDS_PER_OPERATION * operations
        made = fusing.fuse(members, [members])[0] if len(members) > 1 else members[0]
        known = compiling.remembered(costs.signature(made, self._deepest.form.kernel))
        return compiling.expected(int(operations)) if known is None else known

    def _training(self, members: Sequence[Cohort]) -> float:
        """Seconds of the fullest device: its blocks one after the other, each as deep as its deepest run."""
        depths = np.array([depth(member) for member in members for _ in member.runs])
        run, devices, cpu = members[0].runs[0], len(self._deepest.devices), self._deepest.platform == "cpu"
        weights = 4 * self._program.own_param_count(int(depths[-1]))
        kept = int(self._between(int(depths[-1]), 2)) - weights
        width = by_rule(weights, max(0, kept), len(depths), self._deepest.platform, devices, machine.caches()).runs
        layout = Layout(len(depths), width, devices, self._program.room)
        reached = [int((depths[i : i + width] if cpu else depths).max()) for i in range(0, len(depths), width)]
        parameters = width * np.array([self._program.own_param_count(d) for d in reached], float)
        per = layout.blocks_per_device
        fullest = max(parameters[i : i + per].sum() for i in range(0, len(reached), per))
        return 6.0 * run.batch_size * run.steps * fullest / self._rate

    def _between(self, at: int, column: int) -> float:
        """One of the ends' numbers at a depth between theirs."""
        return float(np.interp(at, [end[0] for end in self._ends], [end[column] for end in self._ends]))

    def _measured_rate(self) -> float | None:
        """Operations a second of the deepest network's updates on one device here, if they were timed before."""
        if not self._stopwatch:
            return None
        builder, width = self._deepest, self._deepest.width(None).runs
        program = builder.program(width)
        cost = costs.known(builder.cohort, program, builder.devices)
        if cost is None or cost.step <= 0:
            return None
        return 6.0 * program.param_count * builder.cohort.runs[0].batch_size * width / cost.step
