"""The shards of one cohort that are trained here, and which of them train together, in the places that there are.

Those furthest behind train first, as many of them as there are places for their runs that are not lost. They train

- until they come to where others stand, with whom they then go on together if these have room;
- until a rung of the search, which compares the runs of all shards, so that how many train at once changes nobody's
  fate: who comes first waits for the others, and what is left of all of them goes on together;
- until they have lost so many runs that others, who wait further behind, have room beside those left: these come up
  first.

So waiting runs take the places of lost ones. Who trains beside whom changes no bit of anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glorot_jax.config import canonical_json
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning.plan import Cohort, variants
from glorot_jax.engine.shard import Shard
from glorot_jax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from glorot_jax.engine.peers import Peers
    from glorot_jax.search import Search

Order = Mapping[str, int]
"""The place of each run in its sweep."""


class Member(NamedTuple):
    """A shard and its runs."""

    shard: Shard
    cohort: Cohort

    @property
    def left(self) -> int:
        """How many of its runs are not lost."""
        manifest = self.shard.manifest
        lost = {one["run"] for one in (*manifest["diverged"], *manifest.get("dropped", ()))}
        return len(self.cohort.runs) - len(lost)

    @property
    def standing(self) -> tuple[int, int, bool]:
        """Where it stands; those that train together stand at the same."""
        return self.shard.step, self.shard.last_recorded, self.shard.manifest["checkpoint"] is not None


def teams(work: Sequence[tuple[Shard, Cohort]]) -> list[list[Member]]:
    """Returns shards that are not done, those together that one program trains."""
    found: dict[str, list[Member]] = {}
    for shard, cohort in work:
        if not shard.done:
            shared = [cohort.program, shard.width, shard.kernel, shard.manifest.get("search")]
            found.setdefault(canonical_json(shared), []).append(Member(shard, cohort))
    return list(found.values())


def joined(members: Sequence[Member], order: Order) -> Cohort:
    """Returns the runs of shards as one cohort: along the run axis they lie as if they had never been parted."""
    if len(members) == 1:
        return members[0].cohort
    runs = sorted((run for member in members for run in member.cohort.runs), key=lambda run: (run.seed, order[run.id]))
    return replace(members[0].cohort, runs=tuple(runs))


@dataclass(frozen=True)
class Group:
    """Shards that train together.

    Attributes:
        cohort: their runs as those of one.
        standing: of each of them when they were put together.
    """

    members: tuple[Member, ...]
    cohort: Cohort
    standing: tuple[int, int, bool]

    @property
    def lead(self) -> Shard:
        """One of its shards, for what all have in common."""
        return self.members[0].shard

    @cached_property
    def places(self) -> list[Any]:
        """Where each member's runs lie along the group's run axis, as an index."""
        if len(self.members) == 1:
            return [slice(None)]
        at = {name: place for place, name in enumerate(self.cohort.ids)}
        return [np.array([at[run.id] for run in member.cohort.runs], int) for member in self.members]

    def parts(self, arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yields arrays (runs, …) member by member."""
        for places in self.places:
            yield {name: array[places] for name, array in arrays.items()}

    def whole(self, parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns what ``parts`` yields as it was before; they are used up, so that memory never holds all twice."""
        if len(parts) == 1:
            return dict(parts[0])
        order = np.argsort(np.concatenate(self.places))
        return {name: np.concatenate([part.pop(name) for part in parts])[order] for name in list(parts[0])}


@dataclass(frozen=True)
class Room:
    """What fits.

    Attributes:
        runs: that train together, at most.
        states: of runs on the host, those of lost ones, too, which are saved with the others.
        shared: whether the devices are in the same memory, in which each run that trains then has a second state.
    """

    runs: int
    states: int
    shared: bool

    def fits(self, left: int, runs: int) -> bool:
        """Returns whether so many runs have room, of which some are ``left`` to train."""
        return left <= self.runs and runs + left * self.shared <= self.states


class Team:
    """Shards that share a program, and the search that compares their runs.

    Of several processes that are one program all say the same; the one that leads reads and writes.

    Args:
        order: of the sweep's runs.
        room: for shards beside each other; one by itself trains, whatever its size.
    """

    def __init__(self, members: Sequence[Member], search: Search | None, order: Order, room: Room, peers: Peers):
        self._members = sorted(members, key=lambda member: min(order[run.id] for run in member.cohort.runs))
        self.search, self._order, self._room, self._peers = search, order, room, peers
        self.rungs = search.rungs(members[0].cohort.runs[0].steps) if search else ()

    def next(self) -> Group | None:
        """Returns who trains next; None when all are done."""
        while waiting := self._waiting():
            step = min(member.shard.step for member in waiting)
            behind = [member for member in waiting if member.shard.step == step]
            if all(self._undecided(member) != step for member in behind):
                return self._group(behind)
            self.decided(step, self.named(step))
        return None

    def _waiting(self) -> list[Member]:
        """Those that are not done, as the process that leads knows them."""
        told = self._peers.told([member.shard.manifest for member in self._members])
        for member, manifest in zip(self._members, told, strict=True):
            member.shard.manifest = manifest
        return [member for member in self._members if not member.shard.done]

    def _group(self, behind: Sequence[Member]) -> Group:
        furthest = min(member.standing for member in behind)
        first, *more = (member for member in behind if member.standing == furthest)
        members = [first]
        for member in more:
            together = [*members, member]
            left, runs = sum(one.left for one in together), sum(len(one.cohort.runs) for one in together)
            if self._room.fits(left, runs) and _recorded_alike(together):
                members = together
        return Group(tuple(members), joined(members, self._order), furthest)

    def until(self, step: int, group: Group) -> int:
        """Returns the step at which a group that stands at ``step`` ends, at the latest."""
        steps = int(group.lead.manifest["steps"])
        stops = [steps, *self.rungs, *(member.shard.step for member in self.others(group))]
        return min((stop for stop in stops if stop > step), default=steps)

    def picked(self) -> dict[str, Any] | None:
        """Returns what a shard's manifest holds of its probes when it begins, if that was settled for one of these."""
        known = (member.shard.manifest.get("probes") for member in self._members)
        return next((probes | {"measured": costs.NOTHING} for probes in known if probes), None)

    def _undecided(self, member: Member) -> int | None:
        """The next rung at which the search has not yet decided about a shard's runs."""
        return next((rung for rung in self.rungs if rung > member.shard.decided), None)

    def others(self, group: Group | None) -> list[Member]:
        """Returns those that are neither done nor in the group."""
        return [m for m in self._members if not m.shard.done and (group is None or m not in group.members)]

    def decides(self, rung: int, group: Group) -> bool:
        """Returns whether all that a search compares at a rung are there, once the group is."""
        return rung in self.rungs and all(member.shard.step >= rung for member in self.others(group))

    def makes_room(self, group: Group, left: int, step: int) -> bool:
        """Returns whether somebody who waits further behind would have room beside the runs that a group has left.

        Who has not begun is expected to lose as many by then as the group has.
        """
        share, runs = left / len(group.cohort.runs), len(group.cohort.runs)
        for member in self.others(group):
            all_of_it = len(member.cohort.runs)
            more = member.left if member.standing[2] else round(share * all_of_it)
            behind = member.shard.step <= step and member.left > 0
            if behind and self._room.fits(left + more, runs + all_of_it):
                return True
        return False

    def named(
        self, rung: int, group: Group | None = None, new: Sequence[xr.Dataset] = (), lost: Collection[str] = ()
    ) -> list[str]:
        """Returns the ids of the runs that the search drops at a rung, other seeds of their variants included.

        It follows from the records up to the rung and from who was dropped before, so it is the same whenever it is
        asked.

        Args:
            new: records up to the rung of each shard of the group that are not on the disk; ``lost``: its runs that
                have diverged by then. Needed where this process leads.

        Raises:
            InputError: the rule failed, or named somebody whom it was not shown.
        """
        return self._peers.told(self._asked(rung, group, new, lost) if self._peers.leads else None)

    def _asked(self, rung: int, group: Group | None, new: Sequence[xr.Dataset], lost: Collection[str]) -> list[str]:
        from glorot_jax.engine import records

        assert self.search is not None
        compared = [*(group.members if group else ()), *self.others(group)]
        runs = joined(compared, self._order).runs
        before = {one["run"] for member in compared for one in member.shard.manifest["dropped"] if one["step"] < rung}
        gone = before.union(lost, (one["run"] for member in compared for one in member.shard.manifest["diverged"]))
        there = [[runs[place].id for place in places] for places in variants(runs)]
        there = [ids for ids in there if before.isdisjoint(ids)]
        if all(run.id in gone for run in runs):
            return []  # there is nobody to decide about
        unsaved = [*new, *[None] * (len(compared) - len(new))]
        parts = [member.shard.scalars(mine) for member, mine in zip(compared, unsaved, strict=True)]
        seen = records.beside(parts, [run.id for run in runs], rung)
        try:
            named = set(self.search.drop(seen, there))
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise InputError(f"search: {self.search.kind()} failed at step {rung}: {what}") from error
        known = {run.id for run in runs}
        if strangers := sorted(map(str, named - known)):
            raise InputError(
                f"search: {self.search.kind()} names {strangers[0]!r}, which is no run of those it was shown"
            )
        return [name for ids in there if named.intersection(ids) for name in ids]

    def decided(self, rung: int, named: Collection[str], group: Group | None = None) -> list[list[dict[str, Any]]]:
        """Makes a rung's decision durable in the shards that waited for it, and returns it for those of the group."""
        number = self.rungs.index(rung) + 1

        def told(member: Member) -> list[dict[str, Any]]:
            gone = [name for name in member.cohort.ids if name in named]
            return [{"run": name, "step": rung, "rung": number} for name in gone]

        for member in self.others(group):
            if self._peers.leads and self._undecided(member) == rung:
                member.shard.decide(rung, told(member))
        return [told(member) for member in (group.members if group else ())]


def _recorded_alike(members: Sequence[Member]) -> bool:
    """Whether shards are recorded at the same steps, as far as that is settled."""
    settled = (member.shard.manifest.get("probes") for member in members)
    return len({probes["keep_every"] for probes in settled if probes}) <= 1
