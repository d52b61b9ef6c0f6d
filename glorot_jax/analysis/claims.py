"""Statements of the literature, each held against what was measured. A sweep file ends with them."""

from __future__ import annotations

import json
import math
import numbers
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.analysis.measures import Read, Undecided, noted
from glorot_jax.analysis.statistics import interval
from glorot_jax.errors import InputError, unknown
from glorot_jax.store.mirror import local

if TYPE_CHECKING:
    import pandas as pd

    from glorot_jax.analysis.results import Results

FORMATS = ("table", "json", "csv", "markdown")
VERDICTS = REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN = "reproduced", "not reproduced", "undecided", "not run"
MOST_SEEDS = 10_000
"""More are not named: an interval that would need them is settled by a better question."""


@dataclass(frozen=True)
class claim:
    """A statement, and what decides whether results bear it out: one number a seed, and thresholds for their mean.

    Args:
        statement: one sentence.
        measure: a pure function of ``Results`` that returns numbers by seed, a pandas Series or a dict; ``per_seed``
            reads them. It raises ``Undecided`` where the sweep is too small to tell.
        above, below: between which thresholds, or on which side of one, the mean is if the statement is true.
        log: judge the mean of the logarithms: for ratios, which are positive. Mean and interval are then geometric.
        statistic: what the number of a seed is, one phrase.
        source: where the statement stands.

    Raises:
        InputError: a field is wrong.
    """

    statement: str
    measure: Callable[[Results], pd.Series | Mapping[int, float]]
    above: float | None = None
    below: float | None = None
    log: bool = False
    statistic: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.statement, str) or not self.statement.strip():
            raise InputError(f"claim.statement: {self.statement!r} is not a sentence")
        if not callable(self.measure):
            raise InputError(f"claim.measure: {self.measure!r} is not a function of results")
        if self.above is None and self.below is None:
            raise InputError("claim: it has no threshold", "give above=… or below=…, or both")
        for side in ("above", "below"):
            _check_threshold(side, getattr(self, side), self.log)
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise InputError(f"claim.above: {self.above!r} is not less than below={self.below!r}")


def _check_threshold(side: str, threshold: Any, log: bool) -> None:
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not math.isfinite(threshold):
        raise InputError(f"claim.{side}: {threshold!r} is not a finite number")
    if log and threshold <= 0:
        raise InputError(f"claim.{side}: {threshold!r} has no logarithm", "with log=True it is above 0")


@dataclass(frozen=True)
class Judgement:
    """What results say of a claim.

    Attributes:
        verdict: ``reproduced``: the whole 95 % Student's t interval of the mean over seeds is where it is claimed;
            ``not reproduced``: it is on the other side of a threshold; ``undecided``: it holds a threshold, there is
            one seed alone, or the sweep is too small to tell; ``not run``: the measure failed, or a number is not
            finite.
        mean, low, high: of the interval, in the measure's units; geometric where the claim is judged on logarithms.
            NaN where there is none.
        n: seeds.
        above, below, log, statistic, source: of the claim.
        variants: whose records were read, by name.
        chosen: settings that were chosen among several by validation error; their values stand in the variants' names.
        seed, value: the counter-example: the seed that comes nearest to a threshold from the claimed side, or is
            furthest beyond it.
        breaks: whether it lies beyond.
        runs: of that seed, by name, whose records were read.
        more_seeds: so many would settle an undecided claim, were mean and deviation to stay; None where that tells
            nothing.
        diverged: how diverged runs were counted; empty where none was read.
        reason: why there is no interval, or none that is judged.
    """

    statement: str
    verdict: str
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    above: float | None = None
    below: float | None = None
    log: bool = False
    statistic: str = ""
    source: str = ""
    variants: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    seed: int | None = None
    value: float = math.nan
    breaks: bool = False
    runs: tuple[str, ...] = ()
    more_seeds: int | None = None
    diverged: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verdicts:
    """What one results folder says of its sweep file's claims.

    Attributes:
        folder: as it was named, or found in one that was.
        sweep: its name.
        settings: that were changed for once, by ``--set``.
        judgements: of its claims, in their order.
        missing: why there are none; empty where there are some.
    """

    folder: str
    sweep: str
    settings: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    missing: str = ""


# ---- verdicts


def judge(one: claim, results: Results) -> Judgement:
    """Returns what results say of a claim; a measure that fails gives ``not run`` and the reason."""
    values, verdict = {}, ""
    with noted() as read:
        try:
            values = _numbers(one.measure(results))
            reason = _wrong(values, one.log)
            verdict = NOT_RUN if reason else ""
        except Undecided as error:
            verdict, reason = UNDECIDED, str(error)
        except Exception as error:
            verdict, reason = NOT_RUN, _reason(error)
    told = {name: getattr(one, name) for name in ("above", "below", "log", "statistic", "source")}
    told |= {
        "n": len(values),
        "variants": tuple(dict.fromkeys(r.variant for r in read)),
        "chosen": tuple(dict.fromkeys(name for r in read for name in r.chosen)),
        "diverged": _told(read),
    }
    if verdict:
        return Judgement(one.statement, verdict, reason=reason, **told)
    return Judgement(one.statement, **told, **_judged(one, values, read))


def _judged(one: claim, values: Mapping[int, float], read: Sequence[Read]) -> dict[str, Any]:
    """Interval, verdict and counter-example of a claim's numbers by seed."""
    scale, back = (np.log, np.exp) if one.log else (np.asarray, np.asarray)
    judged = {seed: float(scale(value)) for seed, value in values.items()}
    above = -math.inf if one.above is None else float(scale(one.above))
    below = math.inf if one.below is None else float(scale(one.below))
    mean, half, n = interval(list(judged.values()))
    verdict = _verdict(mean - half, mean + half, above, below)
    room = {seed: min(value - above, below - value) for seed, value in judged.items()}
    seed = min(room, key=lambda s: room[s])
    distance = min(abs(mean - above), abs(below - mean))
    return {
        "verdict": verdict,
        "mean": float(back(mean)),
        "low": float(back(mean - half)),
        "high": float(back(mean + half)),
        "seed": seed,
        "value": values[seed],
        "breaks": room[seed] <= 0,
        "runs": tuple(dict.fromkeys(r.run for r in read if r.seed == seed)),
        "more_seeds": _more_seeds(list(judged.values()), distance) if verdict == UNDECIDED else None,
        "reason": "one seed has no interval" if n == 1 else "",
    }


def _verdict(low: float, high: float, above: float, below: float) -> str:
    if above < low and high < below:
        return REPRODUCED
    return NOT_REPRODUCED if high < above or below < low else UNDECIDED


def _numbers(values: Any) -> dict[int, float]:
    """A measure's numbers by seed."""
    if not isinstance(values, Mapping):
        if getattr(values, "ndim", None) != 1 or not hasattr(values, "items"):
            raise InputError(f"the measure returned {type(values).__name__}, not one number a seed")
        if not values.index.is_unique:
            raise InputError("the measure returned several numbers of one seed")
    if not len(values):
        raise InputError("the measure returned no number")
    return {int(seed): float(value) for seed, value in values.items()}


def _wrong(values: Mapping[int, float], log: bool) -> str:
    """Why numbers can't be judged; empty where they can."""
    wrong = {s: v for s, v in values.items() if not math.isfinite(v)}
    if wrong:
        return f"not finite: {', '.join(f'seed {s} {v:g}' for s, v in wrong.items())}"
    wrong = {s: v for s, v in values.items() if log and v <= 0}
    return f"no logarithm: {', '.join(f'seed {s} {v:g}' for s, v in wrong.items())}" if wrong else ""


def _reason(error: Exception) -> str:
    """One line, with the place in the sweep file where it is not an error of input."""
    text = "; ".join(line.strip() for line in str(error).splitlines())
    if isinstance(error, InputError):
        return text
    inside = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call above
    where = f" (line {inside[0].lineno} of {Path(inside[0].filename).name})" if inside else ""
    return f"{type(error).__name__}: {text}{where}"


def _told(read: Sequence[Read]) -> str:
    """How the diverged among the runs that were read are counted."""
    lost = {r.run: r for r in read if r.diverged}
    if not lost:
        return ""
    counted = sorted({r.counts_as for r in lost.values() if r.counts_as is not None})
    what = f"counted as {' or '.join(f'{c:g}' for c in counted)}" if counted else "without a number"
    return f"{len(lost)} of {len({r.run for r in read})} runs diverged, {what}"


def _more_seeds(values: Sequence[float], distance: float) -> int | None:
    """How many more would make the interval miss a threshold so far from the mean, were mean and deviation to stay."""
    from scipy.stats import t

    n = len(values)
    if n < 2 or distance == 0:
        return None
    wanted = np.arange(n + 1, MOST_SEEDS + 1)
    narrow = t.ppf(0.975, wanted - 1) * np.std(values, ddof=1) / np.sqrt(wanted) < distance
    return int(wanted[np.argmax(narrow)] - n) if narrow.any() else None


# ---- claims of folders


def claims(folders: str | Path | Sequence[str | Path]) -> list[Verdicts]:
    """Returns what results say of the claims that their sweep files end with.

    Args:
        folders: of results, or that hold such folders.

    Raises:
        InputError: there are no results, a folder of results that is named has no sweep file or that has no claims,
            or no folder has any.
    """
    named = [local(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    found = [one for folder in named for one in _verdicts(folder)]
    if not any(one.judgements for one in found):
        raise InputError(f"{', '.join(map(str, named))}: no sweep file there ends with claims", _HOW)
    return found


def _verdicts(folder: Path) -> list[Verdicts]:
    from glorot_jax.analysis.results import load, results_folders

    inside = results_folders(folder) or [folder]  # whose loading then says what is wrong with it
    found = []
    for one in inside:
        results, missing = load(one), ""
        try:
            stated = _claims_of(one / "sweep.py")
        except _NoClaims as error:
            if inside == [folder]:
                raise
            stated, missing = (), error.why
        judgements = tuple(judge(one, results) for one in stated)
        settings = tuple(map(str, results.description.get("settings") or ()))
        found.append(Verdicts(str(one), results.name, settings, judgements, missing))
    return found


_HOW = "end it with claims = (claim(…), …)"


class _NoClaims(InputError):
    """A sweep file without claims, which among several is none of its faults."""

    def __init__(self, path: Path, why: str, hint: str):
        super().__init__(f"{path}: {why}", hint)
        self.why = why


def _claims_of(path: Path) -> tuple[claim, ...]:
    from glorot_jax.engine.sweep import read_file

    if not path.exists():
        raise _NoClaims(path, "missing", "claims stand at the end of a sweep file; this sweep came from none")
    found = getattr(read_file(path), "claims", None)
    if found is None:
        raise _NoClaims(path, "it defines no `claims`", _HOW)
    if not isinstance(found, tuple | list):
        raise InputError(f"{path}: claims: {type(found).__name__} is not a tuple of claims", "claims = (claim(…),)")
    for number, one in enumerate(found):
        if not isinstance(one, claim):
            raise InputError(f"{path}: claims[{number}]: {one!r} is not a claim(…)")
    return tuple(found)


# ---- as text


def render_claims(found: Sequence[Verdicts], format: str = "table") -> str:
    """Returns what ``claims`` found as text. ``format``: table, json, csv or markdown."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if format == "csv":
        return _frame(found).to_csv(index=False).rstrip("\n")
    if format == "json":
        sweeps = [
            {
                "sweep": one.sweep,
                "folder": one.folder,
                "settings": one.settings,
                "missing": one.missing,
                "claims": json.loads(_frame([one]).to_json(orient="records", double_precision=15)),
            }
            for one in found
        ]
        return json.dumps({"summary": _counts(found), "sweeps": sweeps}, indent=1, ensure_ascii=False)
    return (_markdown if format == "markdown" else _screen)(found)


def _frame(found: Sequence[Verdicts]) -> pd.DataFrame:
    import pandas as pd

    rows = [{"sweep": one.sweep, "folder": one.folder, **_cells(j)} for one in found for j in one.judgements]
    columns = ["sweep", "folder", *(f.name for f in fields(Judgement))]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64", "more_seeds": "Int64"})


def _cells(j: Judgement) -> dict[str, Any]:
    return {name: " ".join(value) if isinstance(value, tuple) else value for name, value in asdict(j).items()}


def _counts(found: Sequence[Verdicts]) -> dict[str, int]:
    """How many claims have each verdict."""
    verdicts = [j.verdict for one in found for j in one.judgements]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def _summary(found: Sequence[Verdicts]) -> str:
    counts = " · ".join(f"{n} {verdict}" for verdict, n in _counts(found).items() if n) or "no claims"
    return f"{found[0].sweep if len(found) == 1 else f'{len(found)} sweeps'}: {counts}"


def _title(one: Verdicts) -> str:
    """A sweep's own summary, with what makes it another than its file's."""
    told = one.missing and f"{one.sweep}: no claims, its sweep file: {one.missing}"
    changed = " ".join(f"--set {setting}" for setting in one.settings)
    return (told or _summary([one])) + (f" · with {changed}" if changed else "")


_CAPTION = (
    "Mean over seeds with its 95 % Student's t interval. A claim is reproduced if the whole interval is where it is "
    "claimed, not reproduced if it lies beyond a threshold, and undecided if a threshold is inside, or where the sweep "
    "is too small to tell. Diverged runs count as said; if one seed has no finite number the check has not run."
)
_INDENT = 16


def _screen(found: Sequence[Verdicts]) -> str:
    lines = [_summary(found), ""] if len(found) > 1 else []
    for one in found:
        lines += textwrap.wrap(_title(one), 100, subsequent_indent="  ")
        for j in one.judgements:
            told = [j.statement, _measured(j), j.statistic and f"of: {j.statistic}", *_remarks(j), j.source]
            first, *rest = (
                line for part in told for line in textwrap.wrap(part, 100 - _INDENT, subsequent_indent="  ")
            )
            lines += ["", f"{j.verdict:<{_INDENT}}{first}", *(" " * _INDENT + line for line in rest)]
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(_CAPTION, 100)])


def _measured(j: Judgement) -> str:
    if math.isnan(j.mean):
        return f"claimed {_claimed(j)}: {j.reason}"
    return f"{'geometric mean' if j.log else 'mean'} {j.mean:.3g} {_interval(j)}, n = {j.n}, claimed {_claimed(j)}"


def _claimed(j: Judgement) -> str:
    if j.above is not None and j.below is not None:
        return f"{j.above:.3g} to {j.below:.3g}"
    return f"> {j.above:.3g}" if j.below is None else f"< {j.below:.3g}"


def _interval(j: Judgement) -> str:
    return "–" if math.isnan(j.low) else f"[{j.low:.3g}, {j.high:.3g}]"


def _remarks(j: Judgement) -> list[str]:
    remarks = [_data(j)] if j.variants else []
    if j.seed is not None:
        remarks.append(_nearest(j))
        if j.reason:
            remarks.append(j.reason)
    if j.more_seeds:
        some = "1 more seed" if j.more_seeds == 1 else f"{j.more_seeds} more seeds"
        remarks.append(f"{some} would settle it, were mean and deviation to stay")
    return [*remarks, *([j.diverged] if j.diverged else [])]


def _data(j: Judgement) -> str:
    chosen = f"; {' and '.join(j.chosen)} chosen by validation error" if j.chosen else ""
    return f"runs: {', '.join(j.variants)}{chosen}"


def _nearest(j: Judgement) -> str:
    told = ", ".join(j.runs[:2]) + (f" and {len(j.runs) - 2} more" if len(j.runs) > 2 else "")
    what = "broken by" if j.breaks else "nearest to breaking it:"
    return f"{what} seed {j.seed}, {j.value:.3g}" + (f" ({told})" if told else "")


def _markdown(found: Sequence[Verdicts]) -> str:
    head = [["verdict", "claim", "statistic", "mean", "95 % interval", "claimed", "n", "remarks", "source"]]
    head += [[":--", ":--", ":--", "--:", "--:", "--:", "--:", ":--", ":--"]]
    blocks = [_summary(found)] if len(found) > 1 else []
    for one in found:
        blocks.append(_title(one))
        if one.judgements:
            blocks.append("\n".join(_markdown_row(cells) for cells in [*head, *map(_row, one.judgements)]))
    return "\n\n".join([*blocks, _CAPTION])


def _row(j: Judgement) -> list[str]:
    measured = not math.isnan(j.mean)
    remarks = _remarks(j) if measured else [j.reason, *_remarks(j)]
    return [
        *(j.verdict, j.statement, j.statistic, f"{j.mean:.3g}" if measured else "–", _interval(j), _claimed(j)),
        *(str(j.n), "; ".join(remarks), j.source),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
