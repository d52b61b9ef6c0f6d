"""The shards of a cohort to their last step: train segment after segment, commit, show, stop when asked.

A finished segment's records and state are made durable while the next one trains, and before the one after it
starts: a kill at any moment costs at most two segments, and what the next process computes from there is what this one
would have. Between two segments the state is copied to the host once: that copy is what is written.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glorot_jax.engine import allocator, compiling
from glorot_jax.engine.events import event
from glorot_jax.engine.pace import FIRST_STEPS, GROWTH, Budget, Pace
from glorot_jax.engine.peers import ALONE, Peers
from glorot_jax.engine.places import Places
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning.plan import per_run
from glorot_jax.engine.team import Group, Team
from glorot_jax.engine.watching import Advance
from glorot_jax.errors import Stopped
from glorot_jax.signals import Signals

if TYPE_CHECKING:
    from glorot_jax.engine.planning.reckoning import Reckoning
    from glorot_jax.engine.predictions import Predictions
    from glorot_jax.engine.pretraining import Phase
    from glorot_jax.engine.programs import Programs
    from glorot_jax.engine.segment import Pieces
    from glorot_jax.engine.shard import Shard
    from glorot_jax.engine.watching import Watcher

SEGMENT_SECONDS = 30.0
"""A segment is planned to take a third of this, so that even a slow one ends within it."""
BLANK_BYTES = 64 * 2**20
"""Of records that are written in one go where all runs are lost."""


def leave_if(signals: Signals, peers: Peers = ALONE) -> None:
    """Ends the work between two shards, if that was asked for, of whichever process."""
    if caught := max(peers.agreed(signals.caught)):
        signals.saved()
        raise Stopped("saved; the same command goes on", 128 + caught)


@dataclass(frozen=True)
class _Segment:
    """What one segment of a group left, on the host.

    Attributes:
        step: at its end.
        state: path -> (runs, …).
        records: name -> (runs, records, …), those of ``recorded`` steps.
        made: steps of each run.
        present: of each shard, how many of its runs lay in a block.
        seconds: it took.
        spent: of these, those of its updates, and of each record by the schedules due.
        dropped: of each shard, the runs that the search has dropped by then, each with the step.
        decided: the rung at which that was decided, if it was in this segment.
        rate, seconds_left: as in ``Advance``.
    """

    step: int
    state: Mapping[str, np.ndarray]
    records: Mapping[str, np.ndarray]
    recorded: Sequence[int]
    made: int
    present: Sequence[int]
    seconds: float
    spent: Sequence[tuple[int, float]]
    dropped: Sequence[Sequence[Mapping[str, Any]]]
    decided: int | None
    rate: float
    seconds_left: float

    @property
    def shares(self) -> list[float]:
        """The part of the work that was each shard's."""
        return [count / max(1, sum(self.present)) for count in self.present]


class _Committed(NamedTuple):
    """A segment that is durable: all runs of the group that have diverged, and those that did in it."""

    segment: _Segment
    diverged: list[dict[str, Any]]
    lost: list[dict[str, Any]]


class Trainer:
    """The shards of a cohort to their last step, group by group; see ``team``.

    Of several processes that are one program all go through it, segment by segment; the one that leads decides, reads
    and writes.

    Attributes:
        step, recorded: where the segments stand; the shards' own are of the last commit.
    """

    def __init__(
        self,
        log: Path | None,
        team: Team,
        programs: Programs,
        watcher: Watcher,
        signals: Signals,
        segment_seconds: float,
        started: Callable[[], None],
    ):
        self.log, self.team, self.programs, self.watcher, self.started = log, team, programs, watcher, started
        self.signals, self.peers, self.devices = signals, programs.peers, programs.devices
        self.target = segment_seconds / 3
        self.pace = Pace(self.target)
        self.phase: tuple[Phase | None, ...] = ()
        self.blocks = 0
        self.updated = False
        self.predictions: dict[str, Predictions] = {}
        self._committer = ThreadPoolExecutor(1)
        self._commit: Future[_Committed] | None = None
        self.reckoning: Reckoning | None = None

    def train(self) -> None:
        self.watcher.phase("drawing the evaluation sets")
        try:
            while (group := self.team.next()) is not None:
                self._train(group)
        finally:
            self._committer.shutdown()  # whatever happened, nothing is written once this returns
            for predictions in self.predictions.values():
                predictions.stop()

    def _train(self, group: Group) -> None:
        """Trains a group until it ends, or returns at once where damage was found and others are to train first."""
        self._take(group)
        state = self._restored()
        if any(member.standing != group.standing for member in group.members):
            return
        self.places = Places(self.layout, self._places_of(self.dropped), state)
        del state
        self.until = self.team.until(self.step, group)
        self._resize()
        compiles = not self.fleet.ready
        if compiles:
            self.watcher.phase("compiling")
        live = self._placed()
        self.reckoning = self._reckon(live, compiles) if live is not None and self.peers.leads else None
        said: tuple[Phase | None, ...] = ()
        while True:
            if said != (now := self._phase(),):
                self._begin(now)
                said = (now,)
            recorded: Sequence[int]
            if live is None:
                segment, records, recorded = self._without_runs()
            else:
                pieces, recorded = self._schedule(now)
                begin, updated = time.perf_counter(), self.updated
                live, records, spent, saved = self._waiting(lambda p=pieces, s=live: self._segment(p, s))
                seconds = self._slowest(time.perf_counter() - begin)
                segment = self._ended(int(pieces.steps.sum()), recorded, seconds, spent, saved)
                if self.updated and not updated:
                    self.started()
            if self.updated and self.peers.leads:  # not before: the first update has the machine to itself
                for predictions in self._predictions():
                    predictions.begin()
            self._durable()  # at most one commit is under way: a slow disk slows the loop and fills no memory
            if live is not None:
                self.places.make_room()
                self.places.take(self._waiting(lambda s=live: self.fleet.gather(s)))
                records = self.places.whole(records)
            lost, decides = len(self.places.dropped), self.team.decides(self.step, group)
            if decides:
                self._waiting(lambda r=records, steps=recorded: self._decide(r, steps))
            moved = live is not None and self.places.tighten()
            made = segment(
                state=self.places.state,
                records=records,
                dropped=[tuple(gone) for gone in self.dropped],
                decided=self.step if decides else None,
            )
            if self.peers.leads:
                self._commit = self._committer.submit(self._committed, made)
            del made, records
            caught = self._waiting(lambda: max(self.peers.agreed(self.signals.caught)))
            if moved:
                self._resize()
            if caught or self._ends(group, moved):
                self._durable()
                break
            if moved or len(self.places.dropped) > lost:
                live = None  # its memory is free before the others come
                live = self._placed()
        del self.places  # memory never holds two groups
        if caught and (self.step < self.steps or self.team.others(group)):
            self.signals.saved()
            raise Stopped(f"saved at {self._where()}; the same command goes on", 128 + caught)

    def _take(self, group: Group) -> None:
        """Has everything that its runs need but their state."""
        from glorot_jax.engine.predictions import Predictions

        self.group = group
        self.program, self.layout = self.programs.of(group.cohort, group.lead.width, group.lead.kernel)
        self.arrays = per_run(group.cohort)
        self.fleet = self.programs.fleet(self.program, self.layout, self.arrays)
        for shard, cohort in group.members:
            if shard.folder.name not in self.predictions:
                self.predictions[shard.folder.name] = Predictions(shard.folder, cohort, self.program)

    def _restored(self) -> dict[str, np.ndarray] | None:
        """The newest whole state as the process that leads finds it, None if there is none; the manifests as of there.

        The manifests then hold what is planned of the probes, too.
        """
        shards = [member.shard for member in self.group.members]
        states = [self._found(shard) for shard in shards] if self.peers.leads else []
        if self.peers.leads:
            self._plan_probes()
        for shard, manifest in zip(shards, self.peers.told([shard.manifest for shard in shards]), strict=True):
            shard.manifest = manifest
        run, manifest = self.group.cohort.runs[0], self.group.lead.manifest
        every, rungs = run.due(), self.team.rungs
        self.due = dict(sorted((run.due(manifest["probes"]["keep_every"]) | {r: every[r] for r in rungs}).items()))
        self.dropped = [list(shard.manifest.get("dropped", ())) for shard in shards]
        self.step, self.recorded = self.group.lead.step, self.group.lead.last_recorded
        found = [state for state in states if state is not None]
        whole = [self.group.whole(found)] if found and len(found) == len(states) else []
        return next(iter(self.peers.joined(whole)), None)

    def _found(self, shard: Shard) -> dict[str, np.ndarray] | None:
        """A shard's newest whole state; what was damaged is told of."""
        state, notes = shard.restore()
        for note in notes:
            self.watcher.note(note)
            event(self.log, "damaged", shard=shard.folder.name, what=note)
        return state

    def _places_of(self, dropped: Sequence[Sequence[Mapping[str, Any]]]) -> list[int]:
        """The indices of runs that were dropped in the group."""
        at = {name: place for place, name in enumerate(self.group.cohort.ids)}
        return [at[one["run"]] for gone in dropped for one in gone]

    def _ends(self, group: Group, moved: bool) -> bool:
        """Whether the group trains no further as it is; if it does, it is clear until when."""
        if self.step < self.until:
            return moved and self.team.makes_room(group, len(self.places.runs), self.step)
        if self.step == self.steps or self.team.others(group):
            return True
        self.until = self.team.until(self.step, group)
        return False

    def _resize(self) -> None:
        """Takes it that a step takes as much longer or shorter as the busiest device has more or fewer blocks."""
        before, self.blocks = self.blocks, self.places.layout.blocks_per_device
        if before and self.blocks:
            self.pace.scale(self.blocks / before)

    def _slowest(self, seconds: float) -> float:
        """What a segment took the slowest process; the others wait for it."""
        return self._waiting(lambda: max(self.peers.agreed(seconds)))

    def _placed(self) -> Any:
        """The state of the runs that have places, on the devices; None if nobody is left."""
        places = self.places
        if not len(places.runs):
            return None
        if places.layout != self.fleet.layout:
            self.fleet.lay(places.layout, {name: array[places.runs] for name, array in self.arrays.items()})
        if places.state:
            live = self._waiting(lambda: self.fleet.place(places.marked(), places.runs))
        else:
            live = self._waiting(self.fleet.start)
        if not self.fleet.ready:
            self._waiting(lambda: self.fleet.compile(live))
            allocator.trim()
        return live

    def _without_runs(self) -> tuple[Callable[..., _Segment], dict[str, np.ndarray], list[int]]:
        """What is left to be written where all runs are lost: NaN at every step, as many as fit into memory."""
        due, runs = [r for r in self.due if self.recorded < r <= self.until], len(self.group.cohort.ids)
        recorded = due[: max(1, BLANK_BYTES // (4 * self.program.record_size * runs))]
        shapes = self._waiting(self.fleet.record_shapes) if recorded else {}
        none = {name: np.full((runs, len(recorded), *shape), np.nan, np.float32) for name, shape in shapes.items()}
        reached = recorded[-1] if len(recorded) < len(due) else self.until
        return self._ended(reached - self.step, recorded, 0.0, []), none, recorded

    def _decide(self, records: Mapping[str, np.ndarray], recorded: Sequence[int]) -> None:
        """Asks the search who goes on; what it says is committed with the segment that it looked at."""
        from glorot_jax.engine import records as files

        new, diverged = [], ()
        if self.peers.leads:
            flat = {name: array for name, array in records.items() if not self.program.outputs[name].dims}
            for member, part in zip(self.group.members, self.group.parts(flat), strict=True):
                new.append(files.dataset(part, self.program.outputs, member.cohort.ids, recorded))
            diverged = {one["run"] for one in self._diverged(self.places.state)}
        gone = self.team.decided(self.step, self.team.named(self.step, self.group, new, diverged), self.group)
        self.places.drop(self._places_of(gone))
        for so_far, more in zip(self.dropped, gone, strict=True):
            so_far += more

    @property
    def steps(self) -> int:
        return int(self.group.lead.manifest["steps"])

    def _predictions(self) -> list[Predictions]:
        return [self.predictions[member.shard.folder.name] for member in self.group.members]

    def _ended(
        self,
        made: int,
        recorded: Sequence[int],
        seconds: float,
        spent: Sequence[tuple[int, float]],
        saved: float = 0.0,
    ) -> Callable[..., _Segment]:
        """Takes in a segment of so many steps, and returns it but for state, records and what was decided."""
        runs = len(self.places.runs)
        self.step += made
        self.recorded = recorded[-1] if recorded else self.recorded
        if runs:
            self.pace.learn(made, len(recorded), seconds + saved)
        lie = np.isin(np.arange(len(self.group.cohort.ids)), self.places.runs)
        return functools.partial(
            _Segment,
            step=self.step,
            recorded=recorded,
            made=made,
            present=[int(lie[places].sum()) for places in self.group.places],
            seconds=seconds,
            spent=spent,
            rate=runs / self.pace.step if self.pace.step else 0.0,
            seconds_left=self.pace.left(self.steps - self.step, sum(r > self.step for r in self.due)),
        )

    def _reckon(self, live: Any, compiled: bool) -> Reckoning:
        """Notes what compiling took, and what is expected: in the manifests from the next commit on."""
        from glorot_jax.engine.planning.reckoning import Reckoning

        reckoning = Reckoning(self.group.cohort, self.fleet, live, self.programs.held)
        made = reckoning.compilation
        for shard, _ in self.group.members:
            shard.manifest["compilation"] = made
            shard.manifest.setdefault("planned", reckoning.planned(shard.manifest["probes"]))
            if compiled:
                event(self.log, "compiled", shard=shard.folder.name, **made)
        if compiled:
            self.watcher.phase(compiling.said(made))
        return reckoning

    def _phase(self) -> Phase | None:
        """The pre-training of which the next step is a part; None in training proper."""
        return next((phase for phase in self.program.phases if self.step < phase.last), None)

    def _begin(self, phase: Phase | None) -> None:
        """Says what begins; its steps cost what nobody has seen yet, but not many times those before."""
        what = "training" if phase is None else f"pre-training layer {phase.layer}"
        waiting = sum(member.left for member in self.team.others(self.group))
        self.watcher.phase(f"{what}, {waiting} runs wait" if waiting else what)
        if self.phase not in ((), (phase,)):
            self.pace = Pace(self.target, max(FIRST_STEPS, self.pace.budget().steps // GROWTH))
        self.phase = (phase,)

    def _where(self) -> str:
        """Where the segments stand, in words."""
        step, first = self.step, self.group.lead.first_step
        if step < 0:
            return f"step {step - first:,} of {-first:,} of the pre-training"
        return f"step {step:,} of {self.steps:,}"

    def _plan_probes(self) -> None:
        """Once, before the first step: what probes will take if that is known, and which records the budget keeps.

        The same for all that train here, so that they are recorded at the same steps.
        """
        new = [member.shard for member in self.group.members if "probes" not in member.shard.manifest]
        if not new:
            return
        picked, run = self.team.picked(), self.group.cohort.runs[0]
        if picked is None:
            picked = self._picked()
        for shard in new:
            shard.plan_probes(picked)
            if run.probe_budget is not None:
                said = costs.budget_said(picked["planned"]["share"], run.probe_budget, picked["keep_every"])
                self.watcher.note(said)
                event(self.log, "budget", shard=shard.folder.name, what=said, keep_every=picked["keep_every"])

    def _picked(self) -> dict[str, Any]:
        cohort, run = self.group.cohort, self.group.cohort.runs[0]
        if run.probe_budget is None:
            return costs.picked(costs.known(cohort, self.program, self.devices), run)
        self.watcher.phase("measuring what the probes take")
        measured = self._waiting(lambda: costs.measured(cohort, self.program, self.arrays, self.devices))
        return costs.picked(measured, run)

    def _segment(self, pieces: Pieces, live: Any) -> tuple[Any, dict[str, np.ndarray], list[tuple[int, float]], float]:
        """State and records after a segment; the seconds of its updates, and of each record by the schedules due.

        Last those that a first record would have taken longer, had runs not shared it: the next one will.
        """
        found, spent, saved = [], [], 0.0
        for part in pieces.parts():
            begin, due, times = time.perf_counter(), int(part.due[0]), 1.0
            if due and part.first[0] == self.program.first_step:
                live, record, times = self.fleet.first_record(part, live)
                found.append(record)
            else:
                live, records = self.fleet.train(part, live)
                if due:
                    found.append(self.fleet.records(records, 1))
            seconds = time.perf_counter() - begin
            spent.append((due, seconds))
            saved += (times - 1) * seconds
            if part.steps.any() and not self.updated:
                self.updated = True
                taken = {"process_seconds": round(time.process_time(), 3)}
                event(self.log, "first update", shard=self.group.lead.folder.name, **taken)
        records = {k: np.concatenate([one[k] for one in found], axis=1) for k in found[0]} if found else {}
        return live, records, spent, saved

    def _schedule(self, phase: Phase | None) -> tuple[Pieces, list[int]]:
        """The next segment: pieces up to the next records, within the time and records that one segment may take.

        It ends with the phase, and where the group may end; the record of step 0 belongs to the last of the
        pre-training.
        """
        from glorot_jax.engine.segment import PIECES, RECORDS_PER_SEGMENT, Pieces

        step = self.step
        last = self.until if phase is None else min(self.until, phase.last)
        due = [r for r in self.due if r > self.recorded and step <= r <= last]
        pieces, recorded = [], []
        budget = Budget(**self.peers.told(vars(self.pace.budget())))
        while len(pieces) < PIECES - 1 and (due or step < last):
            goal = due[0] if due else last
            count = min(goal - step, self.program.piece_steps, budget.steps)
            reaches = step + count == goal and bool(due)
            if (count == 0 and not reaches) or (reaches and not budget.allows(count)):
                break
            if count:
                pieces.append((step, count, -1, 0))
            step += count
            budget.spend(count, reaches)
            if reaches:  # a piece of its own, whose batch is that of the next update
                pieces.append((step, 0, len(recorded), self.due[step]))
                recorded.append(due.pop(0))
            if len(recorded) == RECORDS_PER_SEGMENT or budget.empty:
                break
        return Pieces.of(pieces), recorded

    def _waiting(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; meanwhile the screen moves, and a commit that ends is told of.

        A commit that fails is not kept from the person until ``work`` is done.
        """
        worker = ThreadPoolExecutor(1)
        future = worker.submit(work)
        worker.shutdown(wait=False)
        while not future.done():
            self._wait(future)
        return future.result()

    def _durable(self) -> None:
        """Returns when all that was handed over is on the disk."""
        while self._commit is not None:
            self._wait()

    def _wait(self, *work: Future) -> None:
        """A tenth of a second at most, or until something has ended."""
        wait_for([*work, *([self._commit] if self._commit else [])], 0.1, FIRST_COMPLETED)
        self.watcher.tick()
        if self.reckoning is not None:
            self.reckoning.look()
        if self._commit is not None and self._commit.done():
            commit, self._commit = self._commit, None
            self._tell(commit.result())

    def _committed(self, segment: _Segment) -> _Committed:
        """Makes a segment durable; done in a thread of its own, which alone writes into the shards' folders."""
        diverged = self._diverged(segment.state)
        known = {one["run"] for member in self.group.members for one in member.shard.manifest["diverged"]}
        states, values = self.group.parts(segment.state), self.group.parts(segment.records)
        for number, (state, records) in enumerate(zip(states, values, strict=True)):
            self._commit_one(number, segment, state, records, diverged)
        return _Committed(segment, diverged, [one for one in diverged if one["run"] not in known])

    def _commit_one(
        self,
        number: int,
        segment: _Segment,
        state: Mapping[str, np.ndarray],
        records: Mapping[str, np.ndarray],
        diverged: Sequence[Mapping[str, Any]],
    ) -> None:
        """Makes one shard's part of a segment durable."""
        from glorot_jax.engine import records as files

        shard, cohort = self.group.members[number]
        if segment.step == self.steps:
            self.predictions[shard.folder.name].finish()  # they are on the disk before the last commit
        ids, share = cohort.ids, segment.shares[number]
        new = files.dataset(records, self.program.outputs, ids, segment.recorded) if segment.recorded else None
        probes = shard.manifest["probes"]
        spent = [(due, seconds * share) for due, seconds in segment.spent]
        facts: dict[str, Any] = {
            "probes": probes | {"measured": costs.added(probes["measured"], spent)},
            "dropped": segment.dropped[number],
            "decided": shard.decided if segment.decided is None else segment.decided,
        }
        if self.reckoning is not None:
            facts["measured_bytes"] = self.reckoning.measured_bytes()
        lost = [one for one in diverged if one["run"] in set(ids)]
        made = segment.made * segment.present[number]
        shard.commit(segment.step, state, new, lost, segment.seconds * share, made, **facts)

    def _tell(self, done: _Committed) -> None:
        segment, diverged, runs = done.segment, len(done.diverged), len(self.group.cohort.ids)
        gone = [one for dropped in segment.dropped for one in dropped]
        dropped = len({one["run"] for one in gone} - {one["run"] for one in done.diverged})
        if segment.step == self.steps:
            for note in dict.fromkeys(note for predictions in self._predictions() for note in predictions.notes):
                self.watcher.note(note)
        for lost in done.lost:
            event(self.log, "diverged", **lost)
        for lost in gone:
            if lost["step"] == segment.step:
                event(self.log, "dropped", **lost)
        for (shard, _), share in zip(self.group.members, segment.shares, strict=True):
            event(
                self.log,
                "commit",
                shard=shard.folder.name,
                step=segment.step,
                records=len(segment.recorded),
                seconds=round(segment.seconds * share, 3),
            )
        self.watcher.advance(
            Advance(
                run_steps=segment.made * runs,
                seconds=segment.seconds,
                step=segment.step,
                steps=self.steps,
                alive=runs - diverged - dropped,
                diverged=diverged,
                rate=segment.rate,
                seconds_left=segment.seconds_left,
                valid_error=self._newest("valid_error", segment.records),
                first_step=self.group.lead.first_step,
                dropped=dropped,
            )
        )

    def _diverged(self, state: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        from glorot_jax.engine.segment import ALIVE, step_of

        cohort, found = self.group.cohort, []
        for index in np.flatnonzero(state["diverged_step"] != ALIVE):
            kind, layer = self.program.blame[int(state["first_nonfinite"][index])]
            if layer is not None and (depths := cohort.depths) is not None:
                layer = min(layer, depths[index] + 1)  # of a shared program the output layer is above the deepest
            step = step_of(int(state["diverged_step"][index]))
            found.append({"run": cohort.runs[index].id, "step": step, "tensor": kind, "layer": layer})
        return found

    def _newest(self, name: str, records: Mapping[str, np.ndarray]) -> dict[str, float]:
        if name not in records:
            return {}
        last = records[name][:, -1]
        return {r.name: float(v) for r, v in zip(self.group.cohort.runs, last, strict=True) if np.isfinite(v)}
