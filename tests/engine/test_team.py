"""Who trains beside whom: waiting runs take the places of lost ones, and how many fit at once changes nobody's fate.

Here nothing is trained: a shard is its manifest, and what becomes of a run is made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import Sweep, grid, mlp, sgd, shapeset, successive_halving
from glorot_jax.engine.peers import ALONE
from glorot_jax.engine.planning.plan import Cohort, cohorts, waves
from glorot_jax.engine.shard import Shard
from glorot_jax.engine.team import Member, Room, Team, teams

STEPS = 12
SWEEP = Sweep(
    name="team",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(4,)),
    optimizer=sgd(learning_rate=grid(*(0.01 * k for k in range(1, 10)))),
    seeds=(0, 1),
    steps=STEPS,
    batch_size=2,
)
(COHORT,) = cohorts(SWEEP.runs())
IDS = [run.id for run in COHORT.runs]
ORDER = {run.id: place for place, run in enumerate(SWEEP.runs())}
HALVING = successive_halving(at=(3, 7), factor=2)


def room_for(runs: int) -> Room:
    """Memory holds all that is lost besides."""
    return Room(runs, 2 * len(IDS), shared=True)


class Killed(Exception):
    pass


class World:
    """What becomes of runs: when each diverges, how well each does, and when the process dies."""

    def __init__(self, diverges: dict[str, int], error: dict[str, float], deaths: int = 0):
        self.diverges, self.error = diverges, error
        self._deaths = deaths
        self.trained = dict.fromkeys(IDS, 0)

    def made_durable(self) -> None:
        """Every third time the process dies, as long as there are deaths left."""
        self._deaths -= 1
        if self._deaths > 0 and self._deaths % 3 == 0:
            raise Killed

    def lost(self, cohort: Cohort, step: int) -> list[dict[str, object]]:
        known = ((run.id, self.diverges.get(run.id, STEPS)) for run in cohort.runs)
        return [{"run": name, "step": when} for name, when in known if when < step]


class Paper(Shard):
    """A shard whose manifest is kept nowhere."""

    world: World

    def _replace(self, manifest: dict) -> None:
        self.world.made_durable()
        self.manifest = manifest

    def scalars(self, new: xr.Dataset | None = None) -> xr.Dataset:
        made = recorded(self.world, self.manifest["runs"], [r for r in HALVING.at if r <= self.step])
        return made if new is None else xr.concat([made, new], "step")


def recorded(world: World, ids: list[str], steps: list[int]) -> xr.Dataset:
    values = [[np.nan if world.diverges.get(i, STEPS) < step else world.error[i] for step in steps] for i in ids]
    return xr.Dataset(
        {"valid_error": (("run", "step"), np.array(values, float).reshape(len(ids), -1))},
        {"run": ("run", np.array(ids, object)), "step": ("step", np.array(steps, int))},
    )


def members(world: World, room: int) -> list[Member]:
    found = []
    for wave in waves(COHORT, room):
        manifest = {"runs": [run.id for run in wave.runs], "step": 0, "steps": STEPS, "width": 2, "kernel": "general"}
        manifest |= {
            "state": "training",
            "records": [],
            "checkpoint": None,
            "diverged": [],
            "dropped": [],
            "decided": 0,
        }
        made = Paper(Path(wave.shard_id), manifest)
        made.world = world
        found.append(Member(made, wave))
    return found


def train(world: World, team: Team, room: int) -> Iterator[tuple[int, list[str]]]:
    """Trains to the end, a step a segment, as ``Trainer`` does; yields each step and who was there."""
    while (group := team.next()) is not None:
        step = group.lead.step
        assert len({member.standing for member in group.members}) == 1
        until = team.until(step, group)
        dropped = {one["run"] for member in group.members for one in member.shard.manifest["dropped"]}

        def left(step: int, gone: set[str], group=group) -> list[str]:
            lost = gone | {str(one["run"]) for one in world.lost(group.cohort, step)}
            return [name for name in group.cohort.ids if name not in lost]

        there = left(step, dropped)
        assert len(group.members) == 1 or len(there) <= room
        while True:
            yield step, there
            step += 1
            decided, more = team.decides(step, group), [[] for _ in group.members]
            if decided:
                new = [recorded(world, member.shard.manifest["runs"], [step]) for member in group.members]
                lost = {str(one["run"]) for one in world.lost(group.cohort, step)}
                more = team.decided(step, team.named(step, group, new, lost), group)
                dropped |= {one["run"] for gone in more for one in gone}
            for member, gone in zip(group.members, more, strict=True):
                member.shard._replace(
                    member.shard.manifest
                    | {"step": step, "checkpoint": {"step": step}, "diverged": world.lost(member.cohort, step)}
                    | {"state": "done" if step == STEPS else "training"}
                    | {"records": [{"last": step}] if step in HALVING.at else member.shard.manifest["records"]}
                    | {"dropped": [*member.shard.manifest["dropped"], *gone]}
                    | {"decided": step if decided else member.shard.decided}
                )
            now = left(step, dropped)
            moved, there = len(now) < len(there), now
            if step == STEPS or (step < until and moved and team.makes_room(group, len(now), step)):
                break
            if step == until:
                if team.others(group):
                    break
                until = team.until(step, group)


def fates(world: World, room: int, search=HALVING) -> tuple[dict[str, int], list[tuple[int, list[str]]]]:
    """Who was dropped when, and what was trained; the process begins again whenever it dies."""
    there, seen = members(world, room), []
    while True:
        try:
            for made in teams([(member.shard, member.cohort) for member in there]):
                seen += train(world, Team(made, search, ORDER, room_for(room), ALONE), room)
            break
        except Killed:
            continue
    assert all(member.shard.done for member in there)
    dropped = [(one["run"], one["step"]) for member in there for one in member.shard.manifest["dropped"]]
    assert len(dropped) == len(dict(dropped)), "nobody is dropped twice"
    return dict(dropped), seen


worlds = st.tuples(
    st.dictionaries(st.sampled_from(IDS), st.integers(0, STEPS - 1)),
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=len(IDS), max_size=len(IDS)),
)


@settings(max_examples=60, deadline=None)
@given(worlds, st.integers(2, 18), st.integers(0, 40))
def test_how_many_fit_and_when_it_is_killed_changes_nobodys_fate(world, room, deaths):
    diverges, errors = world
    error = dict(zip(IDS, errors, strict=True))
    all_at_once, _ = fates(World(diverges, error), len(IDS))
    assert fates(World(diverges, error, deaths), room)[0] == all_at_once


@settings(max_examples=40, deadline=None)
@given(worlds, st.integers(2, 18), st.sampled_from([None, HALVING]))
def test_every_run_makes_every_step_once_until_it_is_lost(world, room, search):
    diverges, errors = world
    made = World(diverges, dict(zip(IDS, errors, strict=True)))
    dropped, seen = fates(made, room, search)
    steps = {name: [step for step, there in seen if name in there] for name in IDS}
    for name in IDS:
        ends = min(diverges.get(name, STEPS) + 1, dropped.get(name, STEPS), STEPS)
        assert steps[name] == list(range(ends))


def groups(world: World, room: int, search=None) -> list[tuple[int, int]]:
    """The steps and the number of runs of all that trained, run length encoded by who was there."""
    _, seen = fates(world, room, search)
    return [(step, len(there)) for k, (step, there) in enumerate(seen) if not k or there != seen[k - 1][1]]


def test_without_losses_the_ones_that_wait_come_when_the_others_are_done():
    assert groups(World({}, {}), 6) == [(0, 6)] * 3


def test_who_waits_takes_the_places_of_the_lost():
    """Of three shards of six runs the first two lose four each at step 4."""
    lost = [run.id for wave in waves(COHORT, 6)[:2] for run in wave.runs[:4]]
    assert groups(World(dict.fromkeys(lost, 4), {}), 6) == [(0, 6), (0, 6), (0, 6), (5, 4), (5, 6)]


def test_what_a_search_leaves_of_all_shards_goes_on_together():
    """Nine variants of two seeds: four of them go on at step 3, two at step 7."""
    error = {run.id: float(run.config["optimizer.learning_rate"]) for run in COHORT.runs}
    mixed = {name: error[name] * 7 % 0.1 for name in IDS}
    assert groups(World({}, mixed), 8, HALVING) == [(0, 8), (0, 8), (0, 2), (3, 8), (7, 4)]


@pytest.mark.parametrize(
    ("states", "shared", "together"), [(12, False, 2), (11, False, 1), (16, True, 2), (15, True, 1)]
)
def test_shards_train_together_only_where_memory_holds_what_is_lost_of_them_too(states, shared, together):
    """Two shards of six runs of which two are left each, one of one run."""
    there = members(World({}, {}), 6)
    for member in there[:2]:
        lost = [run.id for run in member.cohort.runs[:4]]
        member.shard.manifest |= {"step": 5, "diverged": [{"run": name, "step": 4} for name in lost]}
        member.shard.manifest |= {"checkpoint": {"step": 5}}
    there[2].shard.manifest["state"] = "done"
    team = Team(there, None, ORDER, Room(6, states, shared), ALONE)
    group = team.next()
    assert group is not None
    assert len(group.members) == together
    there[1].shard.manifest["step"] = 3
    assert team.makes_room(Team(there[:1], None, ORDER, room_for(6), ALONE).next(), 2, 5) == (together == 2)


def test_who_came_later_is_compared_with_all_and_who_is_ahead_has_its_decision():
    error = dict(zip(IDS, np.random.default_rng(0).uniform(size=len(IDS)), strict=True))
    there = members(World({}, error), 12)
    ahead, new = there
    ahead.shard.manifest |= {"step": 5, "records": [{"last": 3}], "checkpoint": {"step": 5}, "decided": 3}
    before = dict(ahead.shard.manifest)
    team = Team(there, HALVING, ORDER, room_for(12), ALONE)
    new.shard.manifest |= {"step": 3, "records": [{"last": 3}], "checkpoint": {"step": 3}}
    group = team.next()
    assert group is not None
    assert ahead.shard.manifest == before
    assert new.shard.decided == 3
    rates = sorted({run.config["optimizer.learning_rate"] for run in COHORT.runs})
    value = {
        rate: np.mean([error[r.id] for r in COHORT.runs if r.config["optimizer.learning_rate"] == rate])
        for rate in rates
    }
    best = sorted(rates, key=value.__getitem__)[: len(rates) // 2]
    assert {one["run"] for one in new.shard.manifest["dropped"]} == {
        run.id for run in new.cohort.runs if run.config["optimizer.learning_rate"] not in best
    }


def test_shards_that_another_program_trains_are_of_another_team():
    one, two, three = members(World({}, {}), 6)
    two.shard.manifest["width"] = 4
    three.shard.manifest["state"] = "done"
    made = teams([(member.shard, member.cohort) for member in (one, two, three)])
    assert [[member.shard.folder for member in team] for team in made] == [[one.shard.folder], [two.shard.folder]]


def test_shards_with_records_at_other_steps_train_apart():
    there = members(World({}, {}), 6)
    for member, keep in zip(there, (1, 2, 1), strict=True):
        member.shard.manifest["probes"] = {"keep_every": keep}
    group = Team(there, None, ORDER, room_for(18), ALONE).next()
    assert group is not None
    assert [member.shard.folder for member in group.members] == [there[0].shard.folder, there[2].shard.folder]


def test_a_group_is_one_run_axis_and_parts_again():
    there = members(World({}, {}), 6)
    group = Team(there, None, ORDER, room_for(12), ALONE).next()
    assert group is not None
    assert len(group.members) == 2
    assert [run.seed for run in group.cohort.runs] == [0] * 6 + [1] * 6
    names = np.array(group.cohort.ids)
    parts = list(group.parts({"name": names}))
    for member, part in zip(group.members, parts, strict=True):
        assert part["name"].tolist() == [run.id for run in member.cohort.runs]
    assert group.whole(parts)["name"].tolist() == group.cohort.ids


def test_a_rule_that_names_strangers_is_one_line():
    from glorot_jax import dropping
    from glorot_jax.errors import InputError

    def strange(records, variants):
        return ["nobody"]

    world = World({}, dict.fromkeys(IDS, 0.5))
    with pytest.raises(InputError, match=r"^search: dropping names 'nobody', which is no run of those it was shown"):
        fates(world, 6, dropping(strange, at=(3, 7)))
