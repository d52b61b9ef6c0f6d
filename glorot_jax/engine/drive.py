"""``run`` and ``resume``: what of a sweep there is to train here, all of it or one part, and that it is trained."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glorot_jax import batch, locks
from glorot_jax.config import plain
from glorot_jax.engine import division
from glorot_jax.engine import shard as shards
from glorot_jax.engine.events import EVENTS, event
from glorot_jax.engine.folder import alone, busy, check, describe, is_described, read_description
from glorot_jax.engine.peers import Peers
from glorot_jax.engine.planning import form, fusing
from glorot_jax.engine.planning.plan import Cohort, cohorts
from glorot_jax.engine.programs import Programs
from glorot_jax.engine.shard import Shard
from glorot_jax.engine.sweep import Sweep, from_resolved, load_sweep
from glorot_jax.engine.team import Member, Room, Team, joined, teams
from glorot_jax.engine.tracing import undisturbed
from glorot_jax.engine.trainer import SEGMENT_SECONDS, Trainer, leave_if
from glorot_jax.engine.watching import Silent
from glorot_jax.errors import InputError, Stopped, unknown
from glorot_jax.signals import Signals
from glorot_jax.store.mirror import local
from glorot_jax.store.names import DIVISION, LOCK, MANIFEST
from glorot_jax.store.objects import is_url
from glorot_jax.store.remote import kept

if TYPE_CHECKING:
    from glorot_jax.engine.division import Division, Part, Piece
    from glorot_jax.engine.planning.grouping import Fuse
    from glorot_jax.engine.segment import Program
    from glorot_jax.engine.sweep import Run
    from glorot_jax.engine.watching import Watcher
    from glorot_jax.search import Search
    from glorot_jax.store.here import Here

DIVIDING = "dividing the sweep"


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
        at_once: runs of a cohort that train together, at most; the others wait for places. As many as fit into memory
            if not said; what has begun stays as it was divided.
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
    watcher, asked, peers = progress or Silent(), division.Asked(width, kernel, at_once), Peers.here()
    with peers.one_fate(), contextlib.ExitStack() as held:
        started = held.enter_context(undisturbed())
        there = held.enter_context(kept(results, watcher.note)) if peers.leads else None
        if there is not None:
            check(there.folder, sweep, fresh)
        peers.check(sweep=division.digest(sweep))  # before JAX starts, in which all wait for each other
        from glorot_jax.engine import allocator, devices

        allocator.configure()
        devices.configure()
        environment = devices.describe()
        peers.meet(versions=environment["versions"])
        programs = Programs(devices.every(), calibrate, fuse, peers)
        if there is not None:
            _make_room(there, sweep, part, asked, programs, fresh)
        signals = held.enter_context(signals or Signals())
        name, log, work = sweep.name if part is None else f"{sweep.name}, {_said(part)}", None, []
        if there is not None:
            log = there.folder / (EVENTS if part is None else f"events-{part[0]}-of-{part[1]}.jsonl")
            if part is None:
                held.enter_context(alone(there))
                there.remove(there.folder / DIVISION)  # it would not know what is trained now
                work = _prepare(there, sweep, asked, programs)
                describe(there, sweep, environment)
            else:
                work = _part(there, sweep, part, asked, programs, environment, watcher, signals, held)
        work = _followed(sweep, work, peers)
        if part is not None and all(shard.done for shard, _ in work):  # it holds nothing, so it writes nothing
            watcher.note(f"{name}: nothing to do")
        else:
            facts = {"by": locks.me(), "environment": environment}
            _train(name, work, sweep, at_once, log, facts, programs, watcher, signals, segment_seconds, started)
    return results


def _make_room(
    there: Here, sweep: Sweep, part: Part | None, asked: division.Asked, programs: Programs, fresh: bool
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
    told = peers.told([{"folder": s.folder.name, "manifest": s.manifest, "runs": c.ids} for s, c in work])
    if peers.leads:
        return work
    runs, known, work = {run.id: run for run in sweep.runs()}, cohorts(sweep.runs()), []
    for one in told:
        shard = Shard(Path(one["folder"]), one["manifest"])
        (cohort,) = cohorts([runs[name] for name in one["runs"]], fuse=shard.fused)
        work.append((shard, cohort if shard.done else _as_begun(shard.folder, shard, cohort, known)))
    return work


def _check_new(results: Path, sweep: Sweep, asked: division.Asked, programs: Programs, fresh: bool) -> None:
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
    at_once: int | None,
    log: Path | None,
    facts: Mapping[str, Any],
    programs: Programs,
    watcher: Watcher,
    signals: Signals,
    segment_seconds: float,
    started: Callable[[], None],
) -> None:
    """Trains shards, cohort by cohort, which this process, or the one that leads, holds.

    Args:
        at_once: runs that train together, at most.
        started: called at the first update, at the latest when a shard is done.
    """
    total = sum((c.runs[0].steps - s.first_step) * len(c.runs) for s, c in work)
    made = sum((s.step - s.first_step) * len(c.runs) for s, c in work)
    watcher.plan(name, total, made, sum(len(c.runs) for _, c in work))
    event(
        log,
        "start",
        runs=len(sweep.runs()),
        shards=[s.folder.name for s, _ in work],
        **facts,
        **batch.described(),
    )
    try:
        for members in teams(work):
            leave_if(signals, programs.peers)
            team = _team(members, sweep, at_once, programs)
            Trainer(log, team, programs, watcher, signals, segment_seconds, started).train()
            started()  # one that makes no update has begun all the same
    except Stopped as stop:
        event(log, "stop", code=stop.code)
        raise
    finally:
        watcher.close()
    event(log, "done")


def _team(members: Sequence[Member], sweep: Sweep, at_once: int | None, programs: Programs) -> Team:
    order, shard = {run.id: place for place, run in enumerate(sweep.runs())}, members[0].shard
    room = Room(0, 0, shared=False)  # for nobody else; depths that share a program are laid by depth, each shard alone
    if len(members) > 1 and not members[0].cohort.members:
        room = programs.room(joined(members, order), at_once, shard.width, shard.kernel)
    return Team(members, sweep.search, order, room, programs.peers)


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
    description = read_description(results)
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


def _prepare(there: Here, sweep: Sweep, asked: division.Asked, programs: Programs) -> list[tuple[Shard, Cohort]]:
    """The shards to train, each with its runs: those begun before, then new ones for runs that nobody has."""
    work, new = _begun(there, sweep)
    joining = [_joining(cohort, work, asked) for cohort in programs.shared(new, asked.kernel)]
    for whole, (width, kernel, at_once) in joining:
        for cohort in programs.waves(whole, at_once, width, kernel):
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
        _as_asked(shard, cohort, asked.width, asked.kernel, programs)
    return sorted(work, key=lambda pair: pair[0].done)


def _joining(
    cohort: Cohort, work: Sequence[tuple[Shard, Cohort]], asked: division.Asked
) -> tuple[Cohort, division.Asked]:
    """A new cohort, and how it is trained: as unfinished shards of the same one are if their program serves it, too.

    So what is new trains beside them; and a process that died between making two shards changed nothing.
    """
    for shard, begun in work:
        same = begun.id == cohort.id and not (shard.done or begun.members or cohort.members)
        if same and all(set(names) <= set(begun.choices[path]) for path, names in cohort.choices.items()):
            as_begun = asked._replace(width=asked.width or shard.width, kernel=asked.kernel or shard.kernel)
            return replace(cohort, choices=begun.choices, functions=begun.functions), as_begun
    return cohort, asked


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


def _as_asked(shard: Shard, cohort: Cohort, width: int | None, kernel: str | None, programs: Programs) -> None:
    """Marks the width and kernel that are asked for now, if any, in a shard that is not done."""
    if shard.done:
        return
    form.check(kernel or shard.kernel)
    if (width, kernel) != (None, None):
        program, _ = programs.of(cohort, width or shard.width, kernel or shard.kernel)
        shard.change(program.width, program.kernel)


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
            raise busy(self.there.folder, owner)
        if owner != self._before and (DIVIDING in owner or lost):
            self.watcher.note(f"waiting for {owner}")
        self._before = owner
        leave_if(self.signals)


def _part(
    there: Here,
    sweep: Sweep,
    part: Part,
    asked: division.Asked,
    programs: Programs,
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
                        mine.enter_context(there.held(folder / LOCK, _said(part)))
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
    programs: Programs,
    environment: Mapping[str, Any],
) -> Division:
    """The division as it is, or a new one where nobody is at work; the caller holds the folder."""
    made = division.read(there.folder)
    if made is not None and made.serves(sweep, parts, asked):
        if not is_described(there.folder, sweep):
            describe(there, sweep, environment)
        return made
    if (owner := division.at_work(there)) is not None:
        raise InputError(
            f"{there.folder}: {owner} is at work in it",
            "it ends first, or is stopped, before the sweep is divided in another way",
        )
    work, missing = _begun(there, sweep)
    new = [_joining(cohort, work, asked) for cohort in programs.shared(missing, asked.kernel)]
    for cohort, (width, kernel, _) in new:
        program, _ = programs.of(cohort, width, kernel)
        _check_search(sweep.search, cohort.runs[0], program)
    unfinished = [(shard, cohort) for shard, cohort in work if not shard.done]
    made = division.divide(sweep, parts, asked, unfinished, new, programs)
    describe(there, sweep, environment)
    if made.pieces:  # else all is done, and who did it stays written
        division.write(there, made)
    return made


def _opened(
    there: Here, sweep: Sweep, piece: Piece, known: Sequence[Cohort], programs: Programs
) -> tuple[Shard, Cohort]:
    """A shard of a part, which this process holds if it is not done; made if it is not there."""
    folder, runs = there.folder / "shards" / piece.shard, {run.id: run for run in sweep.runs()}
    (cohort,) = cohorts([runs[name] for name in piece.runs], fuse=piece.fused)
    cohort = _chosen(there.folder, piece.shard, cohort, piece.choices, known)
    if (folder / MANIFEST).exists():
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
                raise InputError(
                    f"search: {name} is not recorded at step {step}",
                    f"it is recorded {cadence}, at step 0 and at the last",
                )


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
