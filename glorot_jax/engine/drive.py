"""The loop on the host: plan, train segment after segment, commit, show, stop when asked.

A finished segment's records and state are made durable while the next one trains, and before the one after it
starts: a kill at any moment costs at most two segments, and what the next process computes from there is what this one
would have. Between two segments the state is copied to the host once: that copy is what is written.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from glorot_jax import batch, locks
from glorot_jax.config import canonical_json, plain
from glorot_jax.engine import compiling, division
from glorot_jax.engine import shard as shards
from glorot_jax.engine.peers import ALONE, Peers
from glorot_jax.engine.places import Places
from glorot_jax.engine.planning import cost as costs
from glorot_jax.engine.planning import form, fusing
from glorot_jax.engine.planning.plan import Cohort, cohorts, per_run, program_for, shared, variants, waves
from glorot_jax.engine.shard import Shard
from glorot_jax.engine.sweep import Sweep, from_resolved, load_sweep
from glorot_jax.errors import InputError, Stopped, unknown
from glorot_jax.files import TEMPORARY, append_json_line, write, write_json
from glorot_jax.signals import Signals
from glorot_jax.store.mirror import local
from glorot_jax.store.objects import is_url
from glorot_jax.store.remote import kept

if TYPE_CHECKING:
    import jax
    import xarray as xr

    from glorot_jax.engine.division import Division, Part, Piece
    from glorot_jax.engine.fleet import Fleet
    from glorot_jax.engine.layout import Layout
    from glorot_jax.engine.planning.grouping import Fuse
    from glorot_jax.engine.planning.plan import Whys
    from glorot_jax.engine.planning.reckoning import Reckoning
    from glorot_jax.engine.planning.sharing import Shared
    from glorot_jax.engine.pretraining import Phase
    from glorot_jax.engine.segment import Pieces, Program
    from glorot_jax.engine.sweep import Run
    from glorot_jax.search import Search
    from glorot_jax.store.here import Here

SEGMENT_SECONDS = 30.0
"""A segment is planned to take a third of this, so that even a slow one ends within it."""
FIRST_STEPS = 8
"""Steps of a segment as long as nobody knows what a step takes."""
BLANK_BYTES = 64 * 2**20
"""Of records that are written in one go where all runs are lost."""
GROWTH = 16
"""Times that a segment may be as long as the longest before it."""
EVENTS = "events.jsonl"
"""What happened; each part of a division has such a file of its own, so that nobody writes into another's."""
LOGS = "logs"
"""Of the results folder: what a batch system's tasks say, put there by who submits them."""
DIVIDING = "dividing the sweep"
DESCRIPTION = ("sweep.json", "sweep.py", "environment.json")
"""What all processes of a sweep write alike."""
LOCK = ".lock"
"""Of the results folder: who trains all of it holds it meanwhile, a part while it looks up or decides what is its."""


class Watcher(Protocol):
    """Who is told how the work goes; ``glorot_jax.engine.progress`` has the ones that print."""

    def plan(self, sweep: str, work: int, already: int, runs: int) -> None: ...
    def phase(self, text: str) -> None: ...
    def advance(self, news: Advance) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Advance:
    """What a committed segment brought.

    Attributes:
        run_steps: made in it, all runs together.
        seconds: it took, compilation apart.
        step, steps: where its shard stands; below 0 it is pre-trained.
        alive, diverged, dropped: runs of the shard; those that had diverged when a search dropped them are diverged.
        rate: run-steps per second while it trains, records apart.
        seconds_left: until the shard is done, records included.
        valid_error: newest validation error by run name; diverged runs are left out.
        first_step: where the shard began: below 0 with pre-training.
    """

    run_steps: int
    seconds: float
    step: int
    steps: int
    alive: int
    diverged: int
    rate: float
    seconds_left: float
    valid_error: Mapping[str, float]
    first_step: int = 0
    dropped: int = 0


def run(
    sweep: Sweep,
    out: str | Path | None = None,
    *,
    shard: tuple[int, int] | None = None,
    width: int | None = None,
    kernel: str | None = None,
    at_once: int | None = None,
    fresh: bool = False,
    progress: Watcher | None = None,
    segment_seconds: float = SEGMENT_SECONDS,
    signals: Signals | None = None,
    calibrate: bool = False,
    fuse: Fuse = "never",
) -> Path | str:
    """Trains a sweep, or what is missing of it, and returns its results folder.

    Args:
        out: the folder, ``results/NAME`` if not said, or the URL of one on an object store (``glorot_jax.store``).
            What is done there is kept: an unfinished sweep goes on, a changed one trains only the runs that are new.
        shard: (I, N) to train part I of N, from 0, and leave the others to other processes, here or on other machines
            that share the folder; see ``engine.division``. All if not said.
        width: runs vmapped together; chosen by rule if not said. Unfinished runs keep the width that they began
            with unless it is said, and are then marked.
        kernel: what makes an update, as ``planning.form`` names it; as of ``width``.
        at_once: runs of a cohort that train together, at most; the others wait until these are done. A search
            compares those that train together. As many as fit into memory if not said; what has begun stays as it was
            divided.
        fresh: start over; what was there is moved beside it, never deleted.
        progress: who is told.
        segment_seconds: bound on the time between a signal and the end of the segment under way.
        signals: what catches SIGINT and SIGTERM, of a caller that says how they are met after the stop.
        calibrate: where no width is said, new shards get the one that is quickest here by the stopwatch, see
            ``planning.width``.
        fuse: train networks that differ in depth alone in one program where that is possible (``planning.fusing``):
            ``always``, ``never``, or ``auto`` where it is quicker; what is unfinished goes on as it began.

    Raises:
        InputError: the folder holds another sweep, or is damaged; somebody else is at work on what is asked for; or
            what is new does not fit into memory.
        Stopped: SIGINT or SIGTERM came; all is saved.
        ResumableError: the disk is full, or the object store out of reach; what was committed is whole.
    """
    if width is not None and (not isinstance(width, int) or width < 1):
        raise InputError(f"width: {width!r} is not an integer ≥ 1")
    if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
        raise InputError(f"at_once: {at_once!r} is not an integer ≥ 1")
    if not 0 < segment_seconds < float("inf"):
        raise InputError(f"segment_seconds: {segment_seconds!r} is not a finite number > 0")
    part = None if shard is None else division.check(shard)
    if part is not None and fresh:
        raise InputError("fresh: it can't stand beside shard, for other parts may be there", "choose another folder")
    if is_url(out) and fresh:
        raise InputError("fresh: it can't stand beside a URL", "choose another one, or remove what is there yourself")
    results = Path("results") / sweep.name if out is None else out if is_url(out) else Path(out)
    watcher, asked, peers = progress or _Silent(), division.Asked(width, kernel, at_once), Peers.here()
    with peers.one_fate(), contextlib.ExitStack() as held:
        there = held.enter_context(kept(results, watcher.note)) if peers.leads else None
        if there is not None:
            _check_folder(there.folder, sweep, fresh)
        peers.check(sweep=division.digest(sweep))  # before JAX starts, in which all wait for each other
        from glorot_jax.engine import devices

        devices.configure()
        environment = devices.describe()
        peers.meet(versions=environment["versions"])
        programs = _Programs(devices.every(), calibrate, fuse, peers)
        if there is not None:
            _make_room(there, sweep, part, asked, programs, fresh)
        signals = held.enter_context(signals or Signals())
        name, log, work = sweep.name if part is None else f"{sweep.name}, {_said(part)}", None, []
        if there is not None:
            log = there.folder / (EVENTS if part is None else f"events-{part[0]}-of-{part[1]}.jsonl")
            if part is None:
                held.enter_context(alone(there))
                there.remove(there.folder / division.FILE)  # it would not know what is trained now
                work = _prepare(there, sweep, asked, programs)
                _describe(there, sweep, environment)
            else:
                work = _part(there, sweep, part, asked, programs, environment, watcher, signals, held)
        work = _followed(sweep, work, peers)
        if part is not None and all(shard.done for shard, _ in work):  # it holds nothing, so it writes nothing
            watcher.note(f"{name}: nothing to do")
        else:
            facts = {"by": locks.me(), "environment": environment}
            _train(name, work, sweep, log, facts, programs, watcher, signals, segment_seconds)
    return results


def _make_room(
    there: Here, sweep: Sweep, part: Part | None, asked: division.Asked, programs: _Programs, fresh: bool
) -> None:
    """The folder is there, and empty if all is to start over; nothing is touched where something can't be built."""
    results = there.folder
    if part is None:
        _check_new(results, sweep, asked, programs, fresh)
    if fresh and results.exists():
        with alone(there):
            results.rename(results.with_name(f"{results.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
    results.mkdir(parents=True, exist_ok=True)


def _followed(sweep: Sweep, work: list[tuple[Shard, Cohort]], peers: Peers) -> list[tuple[Shard, Cohort]]:
    """The shards that the first process found or made, each with its runs; others have not looked into the folder."""
    told = peers.told([{"folder": s.folder.name, "manifest": s.manifest, "runs": _ids(c)} for s, c in work])
    if peers.leads:
        return work
    runs, known, work = {run.id: run for run in sweep.runs()}, cohorts(sweep.runs()), []
    for one in told:
        shard = Shard(Path(one["folder"]), one["manifest"])
        (cohort,) = cohorts([runs[name] for name in one["runs"]], fuse=shard.fused)
        work.append((shard, cohort if shard.done else _as_begun(shard.folder, shard, cohort, known)))
    return work


def _ids(cohort: Cohort) -> list[str]:
    return [run.id for run in cohort.runs]


def _check_new(results: Path, sweep: Sweep, asked: division.Asked, programs: _Programs, fresh: bool) -> None:
    """What can't be built is refused before anything is touched."""
    width, kernel, at_once = asked
    begun = set() if fresh else {run for _, ids in shards.open_all(results) for run in ids}
    for cohort in programs.shared([run for run in sweep.runs() if run.id not in begun], kernel):
        program, _ = programs.of(programs.waves(cohort, at_once, width, kernel)[0], width, kernel)
        _check_search(sweep.search, cohort.runs[0], program)


def _train(
    name: str,
    work: Sequence[tuple[Shard, Cohort]],
    sweep: Sweep,
    log: Path | None,
    facts: Mapping[str, Any],
    programs: _Programs,
    watcher: Watcher,
    signals: Signals,
    segment_seconds: float,
) -> None:
    """Trains shards one after the other, which this process, or the one that leads, holds."""
    total = sum((c.runs[0].steps - s.first_step) * len(c.runs) for s, c in work)
    made = sum((s.step - s.first_step) * len(c.runs) for s, c in work)
    watcher.plan(name, total, made, sum(len(c.runs) for _, c in work))
    _event(
        log,
        "start",
        runs=len(sweep.runs()),
        shards=[s.folder.name for s, _ in work],
        **facts,
        **batch.described(),
    )
    try:
        for shard, cohort in work:
            if not shard.done:
                _leave_if(signals, programs.peers)
                _Trainer(log, shard, cohort, sweep.search, programs, watcher, signals, segment_seconds).train()
    except Stopped as stop:
        _event(log, "stop", code=stop.code)
        raise
    finally:
        watcher.close()
    _event(log, "done")


def resume(
    folder: str | Path,
    *,
    shard: tuple[int, int] | None = None,
    width: int | None = None,
    kernel: str | None = None,
    at_once: int | None = None,
    progress: Watcher | None = None,
    segment_seconds: float = SEGMENT_SECONDS,
    signals: Signals | None = None,
) -> Path | str:
    """Goes on with the sweep of a results folder as it was described there; arguments as for ``run``."""
    return run(
        described(folder),
        folder,
        shard=shard,
        width=width,
        kernel=kernel,
        at_once=at_once,
        progress=progress,
        segment_seconds=segment_seconds,
        signals=signals,
    )


def described(folder: str | Path) -> Sweep:
    """Returns the sweep of a results folder as it was described there.

    Raises:
        InputError: no sweep was started there, or its description no longer gives the same runs.
    """
    results = local(folder)
    description = _read_description(results)
    if (results / "sweep.py").exists():
        sweep = load_sweep(results / "sweep.py", description["settings"])
    else:
        sweep = from_resolved(description["sweep"])
    if [r.id for r in sweep.runs()] != description["runs"]:
        raise InputError(
            f"{folder}: its sweep.py no longer gives the runs that it was started with",
            "a function that it uses was changed; run the sweep's own file to train what is new",
        )
    return sweep


# ---- the folder


@contextlib.contextmanager
def alone(there: Here) -> Iterator[None]:
    """Holds the folder against everybody else.

    Raises:
        InputError: somebody is at work in it; the line names who.
    """
    try:
        with there.held(there.folder / LOCK):
            if (owner := division.at_work(there)) is not None:
                raise locks.Taken(owner)
            yield
    except locks.Taken as taken:
        raise _busy(there.folder, taken.owner) from None


def _check_folder(results: Path, sweep: Sweep, fresh: bool) -> None:
    if not results.exists():
        return
    if not results.is_dir():
        raise InputError(f"out: {results} is a file")
    if not (results / "sweep.json").exists():
        begun = {LOCK, LOGS, "shards", division.FILE}  # what is there before the description is
        if any(p.name not in begun and not p.name.startswith(TEMPORARY) for p in results.iterdir()):
            raise InputError(f"out: {results} holds something else", "choose an empty or new folder")
        return
    if fresh:
        return
    name = _read_description(results)["name"]
    if name != sweep.name:
        raise InputError(
            f"out: {results} holds the sweep {name!r}, not {sweep.name!r}",
            "choose another folder, or --fresh to start over",
        )


def _read_description(results: Path) -> dict[str, Any]:
    path = results / "sweep.json"
    if not path.exists():
        raise InputError(f"{results}: no sweep was started here", "it has no sweep.json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if not {"name", "sweep", "runs", "settings"} <= description.keys():
            raise ValueError
    except (ValueError, AttributeError):
        raise InputError(f"{path}: damaged", "run the sweep's own file to write it anew") from None
    return description


def _prepare(there: Here, sweep: Sweep, asked: division.Asked, programs: _Programs) -> list[tuple[Shard, Cohort]]:
    """The shards to train, each with its runs: those begun before, then new ones for runs that nobody has."""
    width, kernel, at_once = asked
    work, new = _begun(there, sweep)
    for cohort in (
        wave for one in programs.shared(new, kernel) for wave in programs.waves(one, at_once, width, kernel)
    ):
        program, layout = programs.of(cohort, width, kernel)
        made = shards.create(
            there.folder / "shards" / cohort.shard_id,
            cohort,
            layout.width,
            program.first_step,
            program.kernel,
            why_width=programs.width(cohort),
            why_shared=programs.why_shared(cohort),
            search=plain(sweep.search),
            there=there,
        )
        work.append((made, cohort))
    for shard, cohort in work:
        _as_asked(shard, cohort, width, kernel, programs)
    return sorted(work, key=lambda pair: pair[0].done)


def _begun(there: Here, sweep: Sweep) -> tuple[list[tuple[Shard, Cohort]], list[Run]]:
    """The shards that hold runs of the sweep alone, each with them, and the runs that nobody has."""
    results, wanted = there.folder, {run.id: run for run in sweep.runs()}
    work: list[tuple[Shard, Cohort]] = []
    known: list[Cohort] = []
    for shard, ids in shards.open_all(results, there):
        here = [wanted.pop(i) for i in ids if i in wanted]
        if len(here) == len(ids):
            (cohort,) = cohorts(here, fuse=shard.fused)
            if not shard.done:
                known = known or cohorts(sweep.runs())
                cohort = _as_begun(results, shard, cohort, known)
            if not shard.done and shard.manifest.get("search") != plain(sweep.search):
                raise InputError(
                    f"{results}: {shard.folder.name} is half trained under another search",
                    f"finish it first with `glorot resume {results}`, or start over with --fresh",
                )
            work.append((shard, cohort))
        elif here and not shard.done:
            raise InputError(
                f"{results}: {shard.folder.name} is half trained and holds runs that the sweep no longer names",
                f"finish it first with `glorot resume {results}`, or start over with --fresh",
            )
    return work, list(wanted.values())


def _as_asked(shard: Shard, cohort: Cohort, width: int | None, kernel: str | None, programs: _Programs) -> None:
    """Marks the width and kernel that are asked for now, if any, in a shard that is not done."""
    if shard.done:
        return
    form.check(kernel or shard.kernel)
    if (width, kernel) != (None, None):
        program, _ = programs.of(cohort, width or shard.width, kernel or shard.kernel)
        shard.change(program.width, program.kernel)


# ---- parts


def _busy(results: Path, owner: str) -> InputError:
    return InputError(f"{results}: {owner} is at work in it", "wait for it, or stop it first")


class _Patience:
    """Waits for who holds a lock only for a while: a part that divides the sweep, or a machine that may be lost."""

    def __init__(self, there: Here, watcher: Watcher, signals: Signals):
        self.there, self.watcher, self.signals = there, watcher, signals
        self._begin, self._before = time.monotonic(), ""

    def wait(self, owner: str) -> None:
        """Returns for another try.

        Raises:
            InputError: the owner stays; the line names who.
            Stopped: a signal came meanwhile.
        """
        lost = not locks.here(owner) and time.monotonic() - self._begin < self.there.outlives
        # Who has just taken it may not have written his name yet: only a second look says who stays.
        if owner == self._before != locks.NOBODY and DIVIDING not in owner and not lost:
            raise _busy(self.there.folder, owner)
        if owner != self._before and (DIVIDING in owner or lost):
            self.watcher.note(f"waiting for {owner}")
        self._before = owner
        _leave_if(self.signals)


def _part(
    there: Here,
    sweep: Sweep,
    part: Part,
    asked: division.Asked,
    programs: _Programs,
    environment: Mapping[str, Any],
    watcher: Watcher,
    signals: Signals,
    held: contextlib.ExitStack,
) -> list[tuple[Shard, Cohort]]:
    """The shards of a part, each with its runs; those that are not done are held from now on."""
    patience, pieces = _Patience(there, watcher, signals), None
    while pieces is None:
        try:
            with there.held(there.folder / LOCK, DIVIDING), contextlib.ExitStack() as mine:
                made = _division(there, sweep, part[1], asked, programs, environment)
                for folder in (there.folder / "shards" / piece.shard for piece in made.of(part[0])):
                    if not shards.is_done(folder):
                        folder.mkdir(parents=True, exist_ok=True)
                        mine.enter_context(there.held(folder / shards.LOCK, _said(part)))
                pieces = made.of(part[0])
                held.enter_context(mine.pop_all())
        except locks.Taken as taken:
            patience.wait(taken.owner)
    known = cohorts(sweep.runs())
    work = [_opened(there, sweep, piece, known, programs) for piece in pieces]
    for shard, cohort in work:
        _as_asked(shard, cohort, asked.width, asked.kernel, programs)
    return sorted(work, key=lambda pair: pair[0].done)


def _division(
    there: Here,
    sweep: Sweep,
    parts: int,
    asked: division.Asked,
    programs: _Programs,
    environment: Mapping[str, Any],
) -> Division:
    """The division as it is, or a new one where nobody is at work; the caller holds the folder."""
    made = division.read(there.folder)
    if made is not None and made.serves(sweep, parts, asked):
        if not _is_described(there.folder, sweep):
            _describe(there, sweep, environment)
        return made
    if (owner := division.at_work(there)) is not None:
        raise InputError(
            f"{there.folder}: {owner} is at work in it",
            "it ends first, or is stopped, before the sweep is divided in another way",
        )
    work, missing = _begun(there, sweep)
    new = programs.shared(missing, asked.kernel)
    for cohort in new:
        program, _ = programs.of(cohort, asked.width, asked.kernel)
        _check_search(sweep.search, cohort.runs[0], program)
    unfinished = [(shard, cohort) for shard, cohort in work if not shard.done]
    made = division.divide(sweep, parts, asked, unfinished, new, programs)
    _describe(there, sweep, environment)
    division.write(there, made)
    return made


def _opened(
    there: Here, sweep: Sweep, piece: Piece, known: Sequence[Cohort], programs: _Programs
) -> tuple[Shard, Cohort]:
    """A shard of a part, which this process holds if it is not done; made if it is not there."""
    folder, runs = there.folder / "shards" / piece.shard, {run.id: run for run in sweep.runs()}
    (cohort,) = cohorts([runs[name] for name in piece.runs], fuse=piece.fused)
    cohort = _chosen(there.folder, piece.shard, cohort, piece.choices, known)
    if (folder / shards.MANIFEST).exists():
        return shards.opened(folder, there), cohort
    program, layout = programs.of(cohort, piece.width, piece.kernel)
    shard = shards.create(
        folder,
        cohort,
        layout.width,
        program.first_step,
        program.kernel,
        why_width=piece.why_width,
        why_shared=piece.why_shared,
        search=plain(sweep.search),
        there=there,
    )
    return shard, cohort


def _said(part: Part) -> str:
    return f"part {part[0]} of {part[1]}"


def _leave_if(signals: Signals, peers: Peers = ALONE) -> None:
    """Ends the work between two shards, if that was asked for, of whichever process."""
    if caught := max(peers.agreed(signals.caught)):
        signals.saved()
        raise Stopped("saved; the same command goes on", 128 + caught)


def _check_search(search: Search | None, run: Run, program: Program) -> None:
    """A rule compares what is recorded, as one number a run, at each of its rungs."""
    due, cadences = run.due(), [str(schedule) for schedule in run.schedules()]
    numbers = sorted(name for name, output in program.outputs.items() if not output.dims)
    for name in search.looks_at if search else ():
        if name not in numbers:
            raise unknown("search.by", name, numbers)
        cadence = program.outputs[name].attrs.get("cadence")
        bit = 1 << cadences.index(cadence) if cadence in cadences else -1
        for step in search.rungs(run.steps):
            if not due[step] & bit:
                raise InputError(f"search: {name} is not recorded at step {step}", f"it is recorded {cadence}")


def _as_begun(results: Path, shard: Shard, cohort: Cohort, known: Sequence[Cohort]) -> Cohort:
    """The cohort with the choices of all runs that shared its program when the shard was begun.

    Args:
        known: the cohorts of all that the sweep names.
    """
    told = shard.manifest.get("choices") or cohort.choices
    return _chosen(results, shard.folder.name, cohort, told, known)


def _chosen(
    results: Path, name: str, cohort: Cohort, choices: Mapping[str, Sequence[str]], known: Sequence[Cohort]
) -> Cohort:
    """The cohort of a shard with these choices."""
    told = {path: tuple(names) for path, names in choices.items()}
    ids = {member.id for member in cohort.members or (cohort,)}
    functions = fusing.functions([one for one in known if one.id in ids])
    for path, names in told.items():
        if missing := [one for one in names if one not in functions[path]]:
            raise InputError(
                f"{results}: {name} is half trained beside runs of {path} {missing[0]!r}, which the sweep "
                "no longer names",
                f"finish it first with `glorot resume {results}`, or start over with --fresh",
            )
    return replace(cohort, choices=told, functions=functions)


class _Programs:
    """The programs of cohorts on some devices, each traced once, and what is compiled of them."""

    def __init__(self, devices: Sequence[jax.Device], calibrate: bool, fuse: Fuse, peers: Peers = ALONE):
        self.devices, self.calibrate, self.fuse, self.peers = devices, calibrate, fuse, peers
        self._shared: dict[tuple[str, ...], Shared] = {}
        self._built: dict[str, tuple[Program, Layout, Whys]] = {}
        self._fleet: Fleet | None = None

    def of(self, cohort: Cohort, width: int | None, kernel: str | None) -> tuple[Program, Layout]:
        """A cohort's program and where its runs lie; at any width and with any kernel if none is said."""
        found = self._built.get(self._name(cohort))
        if found is None or width not in (None, found[0].width) or kernel not in (None, found[0].kernel):
            return self.anew(cohort, width, kernel)
        return found[0], replace(found[1], runs=len(cohort.runs))

    def anew(self, cohort: Cohort, width: int | None, kernel: str | None) -> tuple[Program, Layout]:
        """The same, chosen for these runs whatever was chosen before; from now on it is their cohort's."""
        from glorot_jax.data.dataset import build

        dataset = build(cohort.runs[0].data)
        found = program_for(cohort, dataset, self.devices, width, kernel, calibrate=self.calibrate)
        self._built[self._name(cohort)] = found
        return found[:2]

    def waves(self, cohort: Cohort, at_once: int | None, width: int | None, kernel: str | None) -> list[Cohort]:
        """The cohort in parts that train one after the other: as many runs as are asked for, or fit into memory."""
        return waves(cohort, self.at_once(cohort, width, kernel) if at_once is None else at_once)

    def at_once(self, cohort: Cohort, width: int | None, kernel: str | None) -> int:
        """How many of a cohort's runs fit into memory."""
        from glorot_jax.data.dataset import build

        program, _ = self.of(cohort, width, kernel)
        _, layout, whys = self._built[self._name(cohort)]
        if layout.runs <= whys.at_once < len(cohort.runs):  # it was asked for fewer, which all fit
            dataset = build(cohort.runs[0].data)
            _, _, whys = program_for(cohort, dataset, self.devices, program.width, program.kernel)
        return whys.at_once

    def shared(self, runs: Sequence[Run], kernel: str | None) -> tuple[Cohort, ...]:
        """The runs' cohorts, those that share a program as one; decided once."""
        name = tuple(run.id for run in runs)
        if name not in self._shared:
            self._shared[name] = shared(runs, self.fuse, self.devices, kernel, stopwatch=self.calibrate)
        return self._shared[name].cohorts

    def why_shared(self, cohort: Cohort) -> str | None:
        """Why a cohort shares its program, or has its own, where it had a choice."""
        return next((why for made in self._shared.values() if (why := made.why(cohort)) is not None), None)

    def width(self, cohort: Cohort) -> dict[str, Any]:
        """What a manifest says of the width of a cohort whose program is there."""
        _, _, whys = self._built[self._name(cohort)]
        return {"why": whys.width.why, **whys.width.to_dict()}

    @staticmethod
    def _name(cohort: Cohort) -> str:
        return canonical_json([cohort.id, cohort.choices])

    def fleet(self, program: Program, layout: Layout, arrays: Mapping[str, np.ndarray]) -> Fleet:
        """A fleet whose places these runs have: that of the runs before, where its program serves them, too."""
        from glorot_jax.engine.fleet import Fleet

        if self._fleet is not None and self._fleet.program is program:
            self._fleet.lay(layout, arrays)
        else:
            self._fleet = None  # its data leave the devices before others come
            self._fleet = Fleet(program, layout, arrays, self.devices, self.peers)
        return self._fleet


def _description(sweep: Sweep) -> dict[str, Any]:
    return {
        "format": shards.FORMAT,
        "name": sweep.name,
        "sweep": sweep.resolved(),
        "settings": list(sweep.settings),
        "varying": list(sweep.varying()),
        "runs": [run.id for run in sweep.runs()],
    }


def _source(results: Path, sweep: Sweep) -> Path | None:
    """The sweep's own file, if it has one that is not its copy in the results."""
    source = Path(sweep.source) if sweep.source else None
    return None if source is None or source.resolve() == (results / "sweep.py").resolve() else source


def _is_described(results: Path, sweep: Sweep) -> bool:
    """Whether the folder describes this sweep, and keeps its file as it is now."""
    source, copy = _source(results, sweep), results / "sweep.py"
    with contextlib.suppress(InputError, OSError):
        same = source is None or source.read_bytes() == copy.read_bytes()
        return same and _read_description(results) == json.loads(json.dumps(_description(sweep)))
    return False


def _describe(there: Here, sweep: Sweep, environment: Mapping[str, Any]) -> None:
    results = there.folder
    write_json(results / "sweep.json", _description(sweep))
    source = _source(results, sweep)
    if source is not None:
        write(results / "sweep.py", source.read_bytes())
    facts = {
        "precision": _products(sweep, str(environment["platform"])),
        "git_commit": _commit(Path(sweep.source) if sweep.source else None),
        "started": _now(),
    }
    write_json(results / "environment.json", {**environment, **facts})
    there.push(*DESCRIPTION)


def _products(sweep: Sweep, platform: str) -> dict[str, str]:
    """What the precisions that a sweep asks for are on this platform."""
    from glorot_jax.models.precision import said

    return {name: said(name, platform) for name in sorted({run.precision for run in sweep.runs()})}


def _commit(source: Path | None) -> str | None:
    """The commit of the repository that the sweep file is in, marked where files differ from it."""
    where = source.resolve().parent if source else Path.cwd()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
        return found.stdout.strip()
    return None


def _event(log: Path | None, kind: str, **facts: Any) -> None:
    if log is None:
        return
    append_json_line(log, {"time": _now(), "event": kind, **facts})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ---- training one shard


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


class _Trainer:
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
        programs: _Programs,
        watcher: Watcher,
        signals: Signals,
        segment_seconds: float,
    ):
        self.log, self.shard, self.cohort, self.watcher = log, shard, cohort, watcher
        self.search, self.signals, self.peers = search, signals, programs.peers
        watcher.phase("drawing the evaluation sets")
        from glorot_jax.engine.predictions import Predictions

        self.program, self.layout = programs.of(cohort, shard.width, shard.kernel)
        self.devices, self.arrays, self.ids = programs.devices, per_run(cohort), _ids(cohort)
        self.fleet = programs.fleet(self.program, self.layout, self.arrays)
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
                begin = time.perf_counter()
                live, records, spent = self._waiting(lambda p=pieces, s=live: self._segment(p, s))
                seconds = self._slowest(time.perf_counter() - begin)
                segment = self._ended(int(pieces.steps.sum()), recorded, seconds, spent)
            last = self.step == self.steps
            if self.updated and self.peers.leads:  # not before: the first update has the machine to itself
                self.predictions.begin()
            self._durable()  # at most one commit is under way: a slow disk slows the loop and fills no memory
            moved = None
            if self.reckoning is not None:
                self.shard.manifest["measured_bytes"] = self.reckoning.measured_bytes()
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
                _event(self.log, "damaged", shard=self.shard.folder.name, what=note)
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
        live = self._waiting(lambda: self.fleet.place(places.here()) if places.state else self.fleet.start())
        if not self.fleet.ready:
            self._waiting(lambda: self.fleet.compile(live))
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
            self.pace.learn(made, len(recorded), seconds)
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

        reckoning = Reckoning(self.cohort, self.fleet, live)
        made, manifest = reckoning.compilation, self.shard.manifest
        manifest["compilation"] = made
        manifest.setdefault("planned", reckoning.planned(manifest["probes"]))
        _event(self.log, "compiled", shard=self.shard.folder.name, **made)
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
            _event(self.log, "budget", shard=self.shard.folder.name, what=said, keep_every=picked["keep_every"])

    def _segment(self, pieces: Pieces, live: Any) -> tuple[Any, dict[str, np.ndarray], list[tuple[int, float]]]:
        """State and records after a segment; the seconds of its updates, and of each record by the schedules due."""
        found, spent = [], []
        for part in pieces.parts():
            begin, due = time.perf_counter(), int(part.due[0])
            live, records = self.fleet.train(part, live)
            if due:
                found.append(self.fleet.records(records, 1))
            spent.append((due, time.perf_counter() - begin))
            if part.steps.any() and not self.updated:
                self.updated = True
                taken = {"process_seconds": round(time.process_time(), 3)}
                _event(self.log, "first update", shard=self.shard.folder.name, **taken)
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
        facts = {"probes": dict(segment.probes), "dropped": list(segment.dropped)}
        self.shard.commit(segment.step, segment.state, new, diverged, segment.seconds, segment.run_steps, **facts)
        return _Committed(segment, new, diverged, [d for d in diverged if d["run"] not in known])

    def _tell(self, done: _Committed) -> None:
        segment, diverged = done.segment, len(done.diverged)
        dropped = len({d["run"] for d in segment.dropped} - {d["run"] for d in done.diverged})
        if segment.step == self.steps:
            for note in self.predictions.notes:
                self.watcher.note(note)
        for lost in done.lost:
            _event(self.log, "diverged", **lost)
        for lost in segment.dropped:
            if lost["step"] == segment.step:
                _event(self.log, "dropped", **lost)
        _event(
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
        from scipy.optimize import nnls

        self._seen.append((steps, records, max(seconds, 1e-6)))
        rows = np.array([[s / t, r / t] for s, r, t in self._seen[-8:]])
        (self.step, self.record), _ = nnls(rows, np.ones(len(rows)))

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


class _Silent:
    """Tells nobody."""

    def plan(self, sweep: str, work: int, already: int, runs: int) -> None: ...
    def phase(self, text: str) -> None: ...
    def advance(self, news: Advance) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...
