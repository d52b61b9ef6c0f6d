"""A sweep in N parts that any processes train, on one machine or many: who trains what, decided once.

The process that comes first writes ``division.json``, and all others read it: for each shard its part, runs, width and
kernel. So which runs a part has follows from the sweep, the number of parts, and what that first process was asked for
or chose; never from the machine that a part runs on. Each part trains its shards under their own locks and touches
nobody else's. At a given width a run's bits are those that it has in an undivided sweep.

A cohort is cut between blocks. Three things stay whole, each with one part: a shard that was begun before; all runs of
a cohort that a search compares with each other, so that a division changes nobody's fate; and cohorts of several depths
in one program, which is made for the deepest of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from glorot_jax.config import canonical_json, plain
from glorot_jax.engine.planning.plan import waves
from glorot_jax.errors import InputError
from glorot_jax.files import write_json
from glorot_jax.store.names import DIVISION, LOCK

if TYPE_CHECKING:
    from glorot_jax.engine.layout import Layout
    from glorot_jax.engine.planning.plan import Cohort
    from glorot_jax.engine.segment import Program
    from glorot_jax.engine.shard import Shard
    from glorot_jax.engine.sweep import Sweep
    from glorot_jax.store.here import Here

FORMAT = 1

Part = tuple[int, int]
"""Its number, from 0, and how many there are."""


class Asked(NamedTuple):
    """What a person may ask for of a new division; None leaves it to the rules."""

    width: int | None = None
    kernel: str | None = None
    at_once: int | None = None


@dataclass(frozen=True)
class Piece:
    """A shard of a division.

    Attributes:
        shard: the name of its folder.
        part: which trains it.
        runs: their ids, as they lie along the run axis.
        steps: of each, pre-training included.
        choices: of its cohort, those that its program is made for.
        fused: whether it holds several cohorts in one program.
        why_width, why_shared: as ``shard.create`` takes them.
    """

    shard: str
    part: int
    runs: tuple[str, ...]
    steps: int
    width: int
    kernel: str
    choices: Mapping[str, Sequence[str]]
    fused: bool
    why_width: Mapping[str, Any] | None
    why_shared: str | None


@dataclass(frozen=True)
class Division:
    """Who trains what of a sweep.

    Attributes:
        parts: how many.
        sweep: digest of its runs and its search.
        asked: by the person who started the first of its processes.
        pieces: shards that are to be trained; those that were done before are in none.
    """

    parts: int
    sweep: str
    asked: Asked
    pieces: tuple[Piece, ...]

    def of(self, part: int) -> list[Piece]:
        """Returns the shards of one part."""
        return [piece for piece in self.pieces if piece.part == part]

    def serves(self, sweep: Sweep, parts: int, asked: Asked) -> bool:
        """Returns whether it is the division of this sweep into so many parts; what is not asked for is as it is."""
        alike = all(mine in (None, own) for mine, own in zip(asked, self.asked, strict=True))
        return alike and (self.parts, self.sweep) == (parts, digest(sweep))


class Unit(NamedTuple):
    """What goes to one part whole.

    Attributes:
        weight: of its work, by which parts are made equal.
        belongs: the same for units that one shard may hold if they come to the same part.
    """

    weight: int
    belongs: object


def digest(sweep: Sweep) -> str:
    """Returns sixteen hexadecimal digits of what a division is made for."""
    told = {"runs": [run.id for run in sweep.runs()], "search": plain(sweep.search)}
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16]


def check(part: Any) -> Part:
    """Returns a part as it was asked for.

    Raises:
        InputError: it is not a pair of integers with 0 ≤ I < N.
    """
    whole = isinstance(part, tuple | list) and len(part) == 2 and all(type(number) is int for number in part)
    if not whole or not 0 <= part[0] < part[1]:
        raise InputError(f"shard: {part!r} is not (I, N) with 0 ≤ I < N", "(0, 4) is the first of four parts")
    return part[0], part[1]


def read(results: Path) -> Division | None:
    """Returns the division of a results folder; None if it has none.

    Raises:
        InputError: it is damaged.
    """
    path = results / DIVISION
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError
        pieces = tuple(Piece(**{**piece, "runs": tuple(piece["runs"])}) for piece in told["shards"])
        return Division(told["parts"], told["sweep"], Asked(**told["asked"]), pieces)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged", "remove it while no part is at work: it is then made anew") from None


def write(there: Here, division: Division) -> None:
    """Makes it the folder's division; the caller holds the folder."""
    told = {
        "format": FORMAT,
        "parts": division.parts,
        "sweep": division.sweep,
        "asked": division.asked._asdict(),
        "shards": [dataclasses.asdict(piece) for piece in division.pieces],
    }
    write_json(there.folder / DIVISION, told)
    there.publish(there.folder / DIVISION)


def blocks(cohort: Cohort, width: int) -> Iterator[Cohort]:
    """Yields a cohort block by block."""
    for first in range(0, len(cohort.runs), width):
        yield replace(cohort, runs=cohort.runs[first : first + width])


def dealt(units: Sequence[Unit], parts: int) -> list[tuple[int, range]]:
    """Returns runs of neighbouring units, each with its part: the units on a line, cut at equal weights.

    A unit goes to the part in which its middle lies. So all parts have the same work but for one unit at most, and few
    have several cohorts to compile.
    """
    total, before = sum(unit.weight for unit in units), 0
    found: list[tuple[int, range]] = []
    for place, unit in enumerate(units):
        part = min(parts - 1, (2 * before + unit.weight) * parts // max(1, 2 * total))
        before += unit.weight
        last = found[-1] if found else None
        if last is not None and last[0] == part and units[last[1].start].belongs == unit.belongs:
            found[-1] = part, range(last[1].start, place + 1)
        else:
            found.append((part, range(place, place + 1)))
    return found


def at_work(there: Here) -> str | None:
    """Returns who trains a shard of a results folder, in words; None if nobody does."""
    for lock in there.locks(f"shards/*/{LOCK}"):
        if (owner := there.owner(lock)) is not None:
            return owner
    return None


class Programs(Protocol):
    """What is known of cohorts' programs; see ``programs``."""

    def of(self, cohort: Cohort, width: int | None, kernel: str | None) -> tuple[Program, Layout]: ...
    def anew(self, cohort: Cohort, width: int | None, kernel: str | None) -> tuple[Program, Layout]: ...
    def at_once(self, cohort: Cohort, width: int | None, kernel: str | None) -> int: ...
    def width(self, cohort: Cohort) -> dict[str, Any]: ...
    def why_shared(self, cohort: Cohort) -> str | None: ...


class _Ware(NamedTuple):
    """A unit, and the cohort of its runs, with what the piece that it becomes has to hold."""

    unit: Unit
    cohort: Cohort
    facts: Mapping[str, Any]
    at_once: int | None


def divide(
    sweep: Sweep,
    parts: int,
    asked: Asked,
    begun: Sequence[tuple[Shard, Cohort]],
    new: Sequence[tuple[Cohort, Asked]],
    programs: Programs,
) -> Division:
    """Returns a new division.

    Args:
        begun: shards that are not done, with their runs.
        new: cohorts of the runs that are in no shard, each with what is asked for of its own shards.

    Raises:
        InputError: a cohort can't be built, or does not fit into memory.
    """
    wares = [_begun(shard, cohort, programs) for shard, cohort in begun]
    weights = [_weight(cohort, programs.of(cohort, own.width, own.kernel)[0]) for cohort, own in new]
    total = sum(weights) + sum(ware.unit.weight for ware in wares)
    for (cohort, own), weight in zip(new, weights, strict=True):
        wares += _new(sweep, -(-parts * weight // total), own, cohort, programs)
    bundles = _compared(wares) if sweep.search is not None else [[ware] for ware in wares]
    pieces = []
    for part, places in dealt([_whole(bundle) for bundle in bundles], parts):
        mine = [ware for place in places for ware in bundles[place]]
        for _, alike in itertools.groupby(mine, key=lambda ware: ware.unit.belongs):
            first, *more = alike
            merged = replace(first.cohort, runs=tuple(r for ware in (first, *more) for r in ware.cohort.runs))
            for wave in waves(merged, first.at_once):
                runs = tuple(run.id for run in wave.runs)
                pieces.append(Piece(shard=first.facts["shard"] or wave.shard_id, part=part, runs=runs, **_rest(first)))
    return Division(parts, digest(sweep), asked, tuple(pieces))


def _compared(wares: Sequence[_Ware]) -> list[list[_Ware]]:
    """Those together whose runs a search compares: they share a program, see ``team.teams``."""
    found: dict[object, list[_Ware]] = {}
    for ware in wares:
        found.setdefault((ware.cohort.program, ware.facts["width"], ware.facts["kernel"]), []).append(ware)
    return list(found.values())


def _whole(bundle: Sequence[_Ware]) -> Unit:
    """Wares that go to one part as a unit."""
    if len(bundle) == 1:
        return bundle[0].unit
    return Unit(sum(ware.unit.weight for ware in bundle), tuple(ware.unit.belongs for ware in bundle))


def _rest(ware: _Ware) -> dict[str, Any]:
    told = {name: value for name, value in ware.facts.items() if name != "shard"}
    return told | {"choices": plain(ware.cohort.choices), "fused": bool(ware.cohort.members)}


def _begun(shard: Shard, cohort: Cohort, programs: Programs) -> _Ware:
    program, _ = programs.of(cohort, shard.width, shard.kernel)
    name, manifest = shard.folder.name, shard.manifest
    facts = {"shard": name, "steps": _steps(cohort, program), "width": shard.width, "kernel": shard.kernel}
    facts |= {"why_width": manifest.get("why_width"), "why_shared": manifest.get("why_shared")}
    return _Ware(Unit(_weight(cohort, program, shard.step), name), cohort, facts, None)


def _new(sweep: Sweep, parts: int, asked: Asked, cohort: Cohort, programs: Programs) -> Iterator[_Ware]:
    """A new cohort in units; its width is that for a share of its runs, if so many parts have one."""
    program, _ = programs.of(cohort, asked.width, asked.kernel)
    whole = bool(sweep.search is not None or cohort.members)
    if not whole and asked.width is None and parts > 1:
        share = replace(cohort, runs=cohort.runs[: -(-len(cohort.runs) // parts)])
        program, _ = programs.anew(share, None, asked.kernel)
    facts = {
        "shard": None,
        "steps": _steps(cohort, program),
        "width": program.width,
        "kernel": program.kernel,
        "why_width": programs.width(cohort),
        "why_shared": programs.why_shared(cohort),
    }
    at_once = asked.at_once or programs.at_once(cohort, program.width, program.kernel)
    if not whole:
        found: Iterable[Cohort] = blocks(cohort, program.width)
    elif sweep.search is None or at_once >= len(cohort.runs):
        found = waves(cohort, at_once)
    else:
        found = cohort.members or [cohort]
    for number, one in enumerate(found):
        belongs = cohort.id, number if whole else None
        yield _Ware(Unit(_weight(one, program), belongs), one, facts, at_once)


def _steps(cohort: Cohort, program: Program) -> int:
    return cohort.runs[0].steps - program.first_step


def _weight(cohort: Cohort, program: Program, step: int | None = None) -> int:
    """Of the work from a step, or the first, to the last: the products of its updates."""
    run, begin = cohort.runs[0], program.first_step if step is None else step
    return len(cohort.runs) * (run.steps - begin + 1) * run.batch_size * program.param_count
