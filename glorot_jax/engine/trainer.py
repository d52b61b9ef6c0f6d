"""One shard from where it stands to its last step: train segment after segment, commit, show, stop when asked.

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
from glorot_jax.engine.least_squares import nonnegative
from glorot_jax.engine.peers import ALONE, Peers
from glorot_jax.engine.places import Places
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning.plan import Cohort, per_run, variants
from glorot_jax.engine.shard import Shard
from glorot_jax.engine.watching import Advance
from glorot_jax.errors import InputError, Stopped
from glorot_jax.signals import Signals

if TYPE_CHECKING:
    import xarray as xr

    from glorot_jax.engine.planning.reckoning import Reckoning
    from glorot_jax.engine.pretraining import Phase
    from glorot_jax.engine.programs import Programs
    from glorot_jax.engine.segment import Pieces
    from glorot_jax.engine.watching import Watcher
    from glorot_jax.search import Search

SEGMENT_SECONDS = 30.0
"""A segment is planned to take a third of this, so that even a slow one ends within it."""
FIRST_STEPS = 8
"""Steps of a segment as long as nobody knows what a step takes."""
BLANK_BYTES = 64 * 2**20
"""Of records that are written in one go where all runs are lost."""
GROWTH = 16
"""Times that a segment may be as long as the longest before it."""


def ids_of(cohort: Cohort) -> list[str]:
    return [run.id for run in cohort.runs]


def leave_if(signals: Signals, peers: Peers = ALONE) -> None:
    """Ends the work between two shards, if that was asked for, of whichever process."""
    if caught := max(peers.agreed(signals.caught)):
        signals.saved()
        raise Stopped("saved; the same command goes on", 128 + caught)


@dataclass(frozen=True)
class _Segment:
    """What one segment left, on the host.

    Attributes:
        step: at its end.
        state: path -> (runs, …).
        records: name -> (runs, records, …), those of ``recorded`` steps.
        made: steps of each run.
        run_steps: steps of those that lay in a block, all together.
        seconds: it took.
        probes: what the manifest holds of them from its commit on.
        dropped: runs that the search has dropped by then, each with the step.
        rate, seconds_left: as in ``Advance``.
    """

    step: int
    state: Mapping[str, np.ndarray]
    records: Mapping[str, np.ndarray]
    recorded: Sequence[int]
    made: int
    run_steps: int
    seconds: float
    probes: Mapping[str, Any]
    dropped: Sequence[Mapping[str, Any]]
    rate: float
    seconds_left: float


class _Committed(NamedTuple):
    """A segment that is durable: its labelled records, all runs that have diverged, and those that did in it."""

    segment: _Segment
    records: xr.Dataset | None
    diverged: list[dict[str, Any]]
    lost: list[dict[str, Any]]


class Trainer:
    """One shard from where it stands to its last step.

    Of several processes that are one program all go through it, segment by segment; the one that leads decides, reads
    and writes.

    Attributes:
        step, recorded: where the segments stand; the shard's own are of the last commit.
    """

    def __init__(
        self,
        log: Path | None,
        shard: Shard,
        cohort: Cohort,
        search: Search | None,
        programs: Programs,
        watcher: Watcher,
        signals: Signals,
        segment_seconds: float,
        started: Callable[[], None],
    ):
        self.log, self.shard, self.cohort, self.watcher, self.started = log, shard, cohort, watcher, started
        self.search, self.signals, self.peers = search, signals, programs.peers
        watcher.phase("drawing the evaluation sets")
        from glorot_jax.engine.predictions import Predictions

        self.program, self.layout = programs.of(cohort, shard.width, shard.kernel)
        self.devices, self.arrays, self.ids = programs.devices, per_run(cohort), ids_of(cohort)
        self.fleet = programs.fleet(self.program, self.layout, self.arrays)
        self.held = programs.held
        self.target = segment_seconds / 3
        self.pace = _Pace(self.target)
        self.updated = False
        self.predictions = Predictions(shard.folder, cohort, self.program)
        self._committer = ThreadPoolExecutor(1)
        self._commit: Future[_Committed] | None = None
        self.reckoning: Reckoning | None = None

    def train(self) -> None:
        try:
            self._train()
        finally:
            self._committer.shutdown()  # whatever happened, nothing is written once this returns
            self.predictions.stop()

    def _train(self) -> None:
        state = self._restored()
        run, manifest = self.cohort.runs[0], self.shard.manifest
        self.rungs = self.search.rungs(run.steps) if self.search else ()
        every = run.due()
        self.due = dict(sorted((run.due(manifest["probes"]["keep_every"]) | {r: every[r] for r in self.rungs}).items()))
        self.dropped = list(manifest.get("dropped", ()))
        self.places = Places(self.layout, [self.ids.index(lost["run"]) for lost in self.dropped], state)
        self.step, self.recorded, self.probes = self.shard.step, self.shard.last_recorded, manifest["probes"]
        del state
        self.watcher.phase("compiling")
        live = self._placed()
        self.reckoning = self._reckon(live) if live is not None and self.peers.leads else None
        phase: tuple[Phase | None, ...] = ()
        while True:
            if phase != (now := self._phase(),):
                self._begin(now, resumed=not phase)
                phase = (now,)
            if live is None:
                segment, records = self._without_runs()
            else:
                pieces, recorded = self._schedule(now)
                begin, updated = time.perf_counter(), self.updated
                live, records, spent = self._waiting(lambda p=pieces, s=live: self._segment(p, s))
                seconds = self._slowest(time.perf_counter() - begin)
                segment = self._ended(int(pieces.steps.sum()), recorded, seconds, spent)
                if self.updated and not updated:
                    self.started()
            last = self.step == self.steps
            if self.updated and self.peers.leads:  # not before: the first update has the machine to itself
                self.predictions.begin()
            self._durable()  # at most one commit is under way: a slow disk slows the loop and fills no memory
            moved, dropped = None, len(self.dropped)
            if live is not None:
                self.places.make_room()
                self.places.take(self._waiting(lambda s=live: self.fleet.gather(s)))
                records = self.places.whole(records)
                if self.step in self.rungs:
                    self._waiting(lambda r=records, steps=recorded: self._drop(r, steps))
                moved = self.places.tighten()
            made = segment(state=self.places.state, records=records, dropped=tuple(self.dropped))
            if self.peers.leads:
                self._commit = self._committer.submit(self._committed, made)
            del made, records
            caught = self._waiting(lambda: max(self.peers.agreed(self.signals.caught)))
            if last or caught:
                self._durable()
                break
            if moved is not None:
                self.pace.scale(moved)
            if moved is not None or len(self.dropped) > dropped:
                live = None  # its memory is free before the others come
                live = self._placed()
        if not last:
            self.signals.saved()
            raise Stopped(f"saved at {self._where()}; the same command goes on", 128 + caught)

    def _restored(self) -> Any:
        """The newest whole state as the process that leads finds it, None if there is none; the manifest as of there.

        The manifest then holds what is planned of the probes, too.
        """
        state = None
        if self.peers.leads:
            state, notes = self.shard.restore()
            for note in notes:
                self.watcher.note(note)
                event(self.log, "damaged", shard=self.shard.folder.name, what=note)
            self._plan_probes()
        self.shard.manifest = self.peers.told(self.shard.manifest)
        return next(iter(self.peers.joined([] if state is None else [state])), None)

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

    def _without_runs(self) -> tuple[Callable[..., _Segment], dict[str, np.ndarray]]:
        """What is left to be written where all runs are lost: NaN at every step, as many as fit into memory."""
        due, runs = [r for r in self.due if r > self.recorded], len(self.ids)
        recorded = due[: max(1, BLANK_BYTES // (4 * self.program.record_size * runs))]
        shapes = self._waiting(self.fleet.record_shapes) if recorded else {}
        none = {name: np.full((runs, len(recorded), *shape), np.nan, np.float32) for name, shape in shapes.items()}
        return self._ended((recorded[-1] if recorded else self.steps) - self.step, recorded, 0.0, []), none

    def _drop(self, records: Mapping[str, np.ndarray], recorded: Sequence[int]) -> None:
        """Asks the search who goes on; what it says is committed with the segment that it looked at."""
        there = [places for places in variants(self.cohort.runs) if places[0] not in self.places.dropped]
        named = set(self.peers.told(self._named(records, recorded, there) if self.peers.leads else None))
        gone = [place for places in there if named & {self.ids[p] for p in places} for place in places]
        self.places.drop(gone)
        rung = self.rungs.index(self.step) + 1
        self.dropped += [{"run": self.ids[place], "step": self.step, "rung": rung} for place in gone]

    def _named(
        self, records: Mapping[str, np.ndarray], recorded: Sequence[int], there: Sequence[Sequence[int]]
    ) -> list[str]:
        """The runs that the search drops of those that are there, by their ids."""
        from glorot_jax.engine import records as files

        assert self.search is not None
        flat = {name: array for name, array in records.items() if not self.program.outputs[name].dims}
        new = files.dataset(flat, self.program.outputs, self.ids, recorded)
        seen = files.scalars(self.shard.folder, self.shard.manifest["records"], new)
        try:
            named = set(self.search.drop(seen, [[self.ids[place] for place in places] for places in there]))
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise InputError(f"search: {self.search.kind()} failed at step {self.step}: {what}") from error
        if strangers := sorted(map(str, named - set(self.ids))):
            raise InputError(
                f"search: {self.search.kind()} names {strangers[0]!r}, which is no run of those it was shown"
            )
        return sorted(named)

    @property
    def steps(self) -> int:
        return int(self.shard.manifest["steps"])

    def _ended(
        self, made: int, recorded: Sequence[int], seconds: float, spent: Sequence[tuple[int, float]]
    ) -> Callable[..., _Segment]:
        """Takes in a segment of so many steps, and returns it but for state, records and who was dropped."""
        runs = len(self.places.runs)
        self.step += made
        self.recorded = recorded[-1] if recorded else self.recorded
        if runs:
            self.pace.learn(made, len(recorded), max(seconds, sum(taken for _, taken in spent)))
        self.probes = self.probes | {"measured": costs.added(self.probes["measured"], spent)}
        return functools.partial(
            _Segment,
            step=self.step,
            recorded=recorded,
            made=made,
            run_steps=made * runs,
            seconds=seconds,
            probes=self.probes,
            rate=runs / self.pace.step if self.pace.step else 0.0,
            seconds_left=self.pace.left(self.steps - self.step, sum(r > self.step for r in self.due)),
        )

    def _reckon(self, live: Any) -> Reckoning:
        """Notes what compiling took, and what is expected: in the manifest from the next commit on."""
        from glorot_jax.engine.planning.reckoning import Reckoning

        reckoning = Reckoning(self.cohort, self.fleet, live, self.held)
        made, manifest = reckoning.compilation, self.shard.manifest
        manifest["compilation"] = made
        manifest.setdefault("planned", reckoning.planned(manifest["probes"]))
        event(self.log, "compiled", shard=self.shard.folder.name, **made)
        self.watcher.phase(compiling.said(made))
        return reckoning

    def _phase(self) -> Phase | None:
        """The pre-training of which the next step is a part; None in training proper."""
        return next((phase for phase in self.program.phases if self.step < phase.last), None)

    def _begin(self, phase: Phase | None, resumed: bool) -> None:
        """Says what begins; its steps cost what nobody has seen yet, but not many times those before."""
        self.watcher.phase("training" if phase is None else f"pre-training layer {phase.layer}")
        if not resumed:
            self.pace = _Pace(self.target, max(FIRST_STEPS, self.pace.budget().steps // GROWTH))

    def _where(self) -> str:
        """Where the segments stand, in words."""
        step, first = self.step, self.shard.first_step
        if step < 0:
            return f"step {step - first:,} of {-first:,} of the pre-training"
        return f"step {step:,} of {self.steps:,}"

    def _plan_probes(self) -> None:
        """Once, before the first step: what probes will take if that is known, and which records the budget keeps."""
        if "probes" in self.shard.manifest:
            return
        run, arrays = self.cohort.runs[0], per_run(self.cohort)
        if run.probe_budget is None:
            cost = costs.known(self.cohort, self.program, self.devices)
        else:
            self.watcher.phase("measuring what the probes take")
            cost = self._waiting(lambda: costs.measured(self.cohort, self.program, arrays, self.devices))
        picked = costs.picked(cost, run)
        self.shard.plan_probes(picked)
        if run.probe_budget is not None:
            said = costs.budget_said(picked["planned"]["share"], run.probe_budget, picked["keep_every"])
            self.watcher.note(said)
            event(self.log, "budget", shard=self.shard.folder.name, what=said, keep_every=picked["keep_every"])

    def _segment(self, pieces: Pieces, live: Any) -> tuple[Any, dict[str, np.ndarray], list[tuple[int, float]]]:
        """State and records after a segment; the seconds of its updates, and of each record by the schedules due."""
        found, spent = [], []
        for part in pieces.parts():
            begin, due, times = time.perf_counter(), int(part.due[0]), 1.0
            if due and part.first[0] == self.program.first_step:
                live, record, times = self.fleet.first_record(part, live)
                found.append(record)
            else:
                live, records = self.fleet.train(part, live)
                if due:
                    found.append(self.fleet.records(records, 1))
            spent.append((due, times * (time.perf_counter() - begin)))
            if part.steps.any() and not self.updated:
                self.updated = True
                taken = {"process_seconds": round(time.process_time(), 3)}
                event(self.log, "first update", shard=self.shard.folder.name, **taken)
        return live, {k: np.concatenate([one[k] for one in found], axis=1) for k in found[0]} if found else {}, spent

    def _schedule(self, phase: Phase | None) -> tuple[Pieces, list[int]]:
        """The next segment: pieces up to the next records, within the time and records that one segment may take.

        It ends with the phase, and where the search decides; the record of step 0 belongs to the last of the
        pre-training.
        """
        from glorot_jax.engine.segment import PIECES, RECORDS_PER_SEGMENT, Pieces

        step = self.step
        last = min(rung for rung in (*self.rungs, self.steps) if rung > step) if step < self.steps else step
        last = last if phase is None else phase.last
        due = [r for r in self.due if r > self.recorded and step <= r <= last]
        pieces, recorded = [], []
        budget = _Budget(**self.peers.told(vars(self.pace.budget())))
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
        """Makes a segment durable; done in a thread of its own, which alone writes into the shard's folder."""
        from glorot_jax.engine import records as files

        if segment.step == self.steps:
            self.predictions.finish()  # they are on the disk before the last commit
        new = None
        if segment.recorded:
            new = files.dataset(segment.records, self.program.outputs, self.ids, segment.recorded)
        diverged = self._diverged(segment.state)
        known = {d["run"] for d in self.shard.manifest["diverged"]}
        facts: dict[str, Any] = {"probes": dict(segment.probes), "dropped": list(segment.dropped)}
        if self.reckoning is not None:
            facts["measured_bytes"] = self.reckoning.measured_bytes()
        self.shard.commit(segment.step, segment.state, new, diverged, segment.seconds, segment.run_steps, **facts)
        return _Committed(segment, new, diverged, [d for d in diverged if d["run"] not in known])

    def _tell(self, done: _Committed) -> None:
        segment, diverged = done.segment, len(done.diverged)
        dropped = len({d["run"] for d in segment.dropped} - {d["run"] for d in done.diverged})
        if segment.step == self.steps:
            for note in self.predictions.notes:
                self.watcher.note(note)
        for lost in done.lost:
            event(self.log, "diverged", **lost)
        for lost in segment.dropped:
            if lost["step"] == segment.step:
                event(self.log, "dropped", **lost)
        event(
            self.log,
            "commit",
            shard=self.shard.folder.name,
            step=segment.step,
            records=len(segment.recorded),
            seconds=round(segment.seconds, 3),
        )
        self.watcher.advance(
            Advance(
                run_steps=segment.made * len(self.cohort.runs),
                seconds=segment.seconds,
                step=segment.step,
                steps=self.steps,
                alive=len(self.cohort.runs) - diverged - dropped,
                diverged=diverged,
                rate=segment.rate,
                seconds_left=segment.seconds_left,
                valid_error=self._newest("valid_error", done.records),
                first_step=self.shard.first_step,
                dropped=dropped,
            )
        )

    def _diverged(self, state: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        from glorot_jax.engine.segment import ALIVE, step_of

        found = []
        for index in np.flatnonzero(state["diverged_step"] != ALIVE):
            kind, layer = self.program.blame[int(state["first_nonfinite"][index])]
            if layer is not None and (depths := self.cohort.depths) is not None:
                layer = min(layer, depths[index] + 1)  # of a shared program the output layer is above the deepest
            step = step_of(int(state["diverged_step"][index]))
            found.append({"run": self.cohort.runs[index].id, "step": step, "tensor": kind, "layer": layer})
        return found

    def _newest(self, name: str, new: Any) -> dict[str, float]:
        if new is None or name not in new:
            return {}
        last = new[name].to_numpy()[:, -1]
        return {r.name: float(v) for r, v in zip(self.cohort.runs, last, strict=True) if np.isfinite(v)}


class _Pace:
    """What a step and a record take, learned from the segments so far, and how many fit into the next."""

    def __init__(self, target: float, first_steps: int = FIRST_STEPS):
        self.target, self.first_steps = target, first_steps
        self._seen: list[tuple[int, int, float]] = []
        self.step = self.record = 0.0

    def budget(self) -> _Budget:
        if not self._seen:  # the record of step 0 alone, to show soon
            return _Budget(steps=self.first_steps, seconds=-1.0, step=0.0, record=0.0)
        # What little has been seen may mislead: no segment is many times as long as the longest so far.
        most = GROWTH * max(max(steps for steps, _, _ in self._seen), FIRST_STEPS / GROWTH)
        return _Budget(
            steps=max(1, int(min(most, self.target / max(self.step, 1e-9)))),
            seconds=self.target,
            step=self.step,
            record=self.record,
        )

    def learn(self, steps: int, records: int, seconds: float) -> None:
        """Takes in one segment: least squares on relative errors over the last eight, neither cost below 0."""
        self._seen.append((steps, records, max(seconds, 1e-6)))
        rows = np.array([[s / t, r / t] for s, r, t in self._seen[-8:]])
        self.step, self.record = nonnegative(rows, np.ones(len(rows)))

    def scale(self, factor: float) -> None:
        """Takes it that all will take so many times what it took."""
        self._seen = [(steps, records, seconds * factor) for steps, records, seconds in self._seen]
        self.step, self.record = self.step * factor, self.record * factor

    def left(self, steps: int, records: int) -> float:
        """Returns the seconds that so much work will take."""
        return steps * self.step + records * self.record


@dataclass
class _Budget:
    steps: int
    seconds: float
    step: float
    record: float
    spent: float = 0.0
    begun: bool = False

    def allows(self, count: int) -> bool:
        """Whether a record after ``count`` more steps still fits; the first always does."""
        return not self.begun or self.spent + count * self.step + self.record <= self.seconds

    def spend(self, count: int, record: bool) -> None:
        self.begun = True
        self.steps -= count
        self.spent += count * self.step + self.record * record

    @property
    def empty(self) -> bool:
        return self.steps <= 0 or self.spent > self.seconds
