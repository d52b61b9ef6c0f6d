"""Cohorts that differ in depth alone as one: which can share a program, and how much of its work is padding.

The program is that of the deepest network. A run's own depth is data along the run axis; layers above it pass on what
they are given. A run's identity, name and configuration are as ever, and so are the cohorts that a reader of its
results sees: only what is compiled, and the folder that the runs train in, is one for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.config import canonical_json, resolve

if TYPE_CHECKING:
    from glorot_jax.engine.layout import Layout
    from glorot_jax.engine.planning.plan import Cohort
    from glorot_jax.engine.segment import Program

OPTIMIZERS = ("sgd", "adam", "rmsprop", "gradient_variance", "levenberg_marquardt")
"""Those of ours, which treat each parameter by itself and leave one at 0 whose gradient is always 0."""


def fusable(cohorts: Sequence[Cohort]) -> list[list[Cohort]]:
    """Returns the groups, each of two or more, that could be fused; a cohort is in one of them at most."""
    groups: dict[str, list[Cohort]] = {}
    for cohort in cohorts:
        if why_apart(cohort) is None:
            groups.setdefault(_but_for_depth(cohort), []).append(cohort)
    return [group for group in groups.values() if len(group) > 1]


def fuse(cohorts: Sequence[Cohort], groups: Sequence[Sequence[Cohort]]) -> list[Cohort]:
    """Returns the cohorts, those of each group, as ``fusable`` gives them, as one."""
    by_id = {member.id: group for group in groups for member in group}
    made = {id(group): _fused(group) for group in groups}
    found = [made[id(by_id[c.id])] if c.id in by_id else c for c in cohorts]
    return list({cohort.id: cohort for cohort in found}.values())


def why_apart(cohort: Cohort) -> str | None:
    """Returns why a cohort can't share a program with those of other depths, in a few words; None if it can."""
    from glorot_jax import initializers
    from glorot_jax.probes.probe import described

    run = cohort.runs[0]
    if cohort.members:
        return "it is fused already"
    if run.model.stack() is None:
        return "its network has no hidden layers that are all of one size"
    if run.pretraining is not None:
        return "it is pre-trained layer by layer"
    if run.optimizer.kind() not in OPTIMIZERS or run.config.get("optimizer.estimate") == "hutchinson":
        return f"what the optimizer {run.optimizer.kind()} does to a parameter may depend on which others there are"
    if run.optimizer.base(run.model) is not None:
        return "its learning rates are relative to a network of one depth"
    for name in cohort.choices.get("model.init", ()):
        function = resolve(
            next(r.model.init for r in cohort.runs if str(r.config["model.init"]) == name), "initializers"
        )
        if "layer" in initializers.wants(function):
            return f"the initializer {name} is told how deep the network is"
    for probe in (described(spec) for specs in run.schedules().values() for spec in specs):
        if not probe.any_depth:
            return f"the probe {probe.name} sees the whole network"
    return None


def padding(cohort: Cohort, program: Program, layout: Layout, platform: str) -> float:
    """Returns how many times its runs' own work the updates of a cohort take, counted by parameters; 1 if not fused.

    On a CPU a block does without the layers that none of its runs has; elsewhere every run takes the deepest's time.
    """
    if cohort.depths is None:
        return 1.0
    depths = np.array(cohort.depths)
    reached = np.full_like(depths, depths.max())
    if platform == "cpu":
        for first in range(0, layout.runs, layout.width):
            block = slice(first, first + layout.width)
            reached[block] = depths[block].max()
    params = np.array([program.own_param_count(depth) for depth in range(len(program.layer_params) + 1)])
    return float(params[reached].sum() / params[depths].sum())


def functions(cohorts: Sequence[Cohort]) -> dict[str, dict[str, Any]]:
    """Returns what the names stand for that any of the cohorts' runs choose from, by path."""
    found: dict[str, dict[str, Any]] = {}
    for cohort in cohorts:
        for path, known in cohort.functions.items():
            found.setdefault(path, {}).update(known)
    return found


def _fused(members: Sequence[Cohort]) -> Cohort:
    members = sorted(members, key=lambda member: member.runs[0].model.stack().depth)
    deepest, depths = members[-1], [member.runs[0].model.stack().depth for member in members]
    return replace(
        deepest,
        shared={**deepest.shared, "depths": depths},
        choices={path: tuple(sorted({n for m in members for n in m.choices[path]})) for path in deepest.choices},
        functions=functions(members),
        runs=tuple(run for member in members for run in member.runs),
        members=tuple(members),
    )


def _but_for_depth(cohort: Cohort) -> str:
    """What cohorts have in common that can be fused."""
    stack = cohort.runs[0].model.stack()
    assert stack is not None
    alone = {f"model.{name}": value for name, value in stack.alone.items()}
    return canonical_json({**cohort.shared, **alone})
