"""Statements of the literature, each held against what was measured. A sweep file ends with them."""

from __future__ import annotations

import json
import math
import numbers
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.analysis.measures import Read, noted
from glorot_jax.analysis.statistics import interval
from glorot_jax.errors import InputError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from glorot_jax.analysis.results import Results

FORMATS = ("table", "json", "csv", "markdown")
HOLDS, REFUTED, OPEN, NOT_MEASURED = "holds", "refuted", "open", "not measured"
MOST_SEEDS = 10_000
"""More are not named: an interval that would need them is settled by a better question."""


@dataclass(frozen=True)
class claim:
    """A statement, and what decides whether results bear it out: one number a seed, and a threshold for their mean.

    Args:
        statement: one sentence.
        measure: a pure function of ``Results`` that returns numbers by seed, a pandas Series or a dict; ``per_seed``
            reads them.
        above, below: on which side of which threshold the mean is, if the statement is true; one of the two.
        log: judge the mean of the logarithms: for ratios, which are positive. Mean and interval are then geometric.
        source: where the statement stands.

    Raises:
        InputError: a field is wrong.
    """

    statement: str
    measure: Callable[[Results], pd.Series | Mapping[int, float]]
    above: float | None = None
    below: float | None = None
    log: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.statement, str) or not self.statement.strip():
            raise InputError(f"claim.statement: {self.statement!r} is not a sentence")
        if not callable(self.measure):
            raise InputError(f"claim.measure: {self.measure!r} is not a function of results")
        if (self.above is None) == (self.below is None):
            raise InputError("claim: it has one threshold", "give above=… or below=…, not both")
        side = "above" if self.below is None else "below"
        threshold = getattr(self, side)
        if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or not math.isfinite(threshold):
            raise InputError(f"claim.{side}: {threshold!r} is not a finite number")
        if self.log and threshold <= 0:
            raise InputError(f"claim.{side}: {threshold!r} has no logarithm", "with log=True it is above 0")


@dataclass(frozen=True)
class Judgement:
    """What results say of a claim.

    Attributes:
        verdict: ``holds``: the whole 95 % Student's t interval of the mean over seeds is on the claimed side of the
            threshold; ``refuted``: it is on the other; ``open``: it holds the threshold, or there is one seed alone;
            ``not measured``: no number, or one that is not finite.
        mean, low, high: of the interval, in the measure's units; geometric where the claim is judged on logarithms.
            NaN where there is none.
        n: seeds.
        side, threshold, log, source: of the claim.
        seed, value: the counter-example: the seed that comes nearest to the other side of the threshold, or is
            furthest beyond it.
        breaks: whether it lies there.
        runs: of that seed, by name, whose records were read.
        more_seeds: so many would settle an open claim, were mean and deviation to stay; None where that tells nothing.
        diverged: how diverged runs were counted; empty where none was read.
        reason: why there is no verdict.
    """

    statement: str
    verdict: str
    mean: float
    low: float
    high: float
    n: int
    side: str
    threshold: float
    log: bool
    source: str
    seed: int | None = None
    value: float = math.nan
    breaks: bool = False
    runs: tuple[str, ...] = ()
    more_seeds: int | None = None
    diverged: str = ""
    reason: str = ""


# ---- verdicts


def judge(one: claim, results: Results) -> Judgement:
    """Returns what results say of a claim; a measure that fails gives ``not measured`` and the reason."""
    side = "above" if one.below is None else "below"
    threshold = float(getattr(one, side))
    found = partial(Judgement, one.statement, side=side, threshold=threshold, log=one.log, source=one.source)
    nothing = {"mean": math.nan, "low": math.nan, "high": math.nan}
    with noted() as read:
        try:
            values = _numbers(one.measure(results))
        except Exception as error:
            return found(NOT_MEASURED, **nothing, n=0, diverged=_told(read), reason=_reason(error))
    told = _told(read)
    if wrong := _wrong(values, one.log):
        return found(NOT_MEASURED, **nothing, n=len(values), diverged=told, reason=wrong)
    scale, back = (np.log, np.exp) if one.log else (np.asarray, np.asarray)
    judged, border = scale(np.array(list(values.values()))), float(scale(threshold))
    mean, half, n = interval(judged)
    low, high = mean - half, mean + half
    seed = (min if side == "above" else max)(values, key=lambda s: values[s])
    beyond = (low > border, high < border) if side == "above" else (high < border, low > border)
    verdict = HOLDS if beyond[0] else REFUTED if beyond[1] else OPEN
    return found(
        verdict,
        mean=float(back(mean)),
        low=float(back(low)),
        high=float(back(high)),
        n=n,
        seed=seed,
        value=values[seed],
        breaks=values[seed] <= threshold if side == "above" else values[seed] >= threshold,
        runs=tuple(dict.fromkeys(r.run for r in read if r.seed == seed)),
        more_seeds=_more_seeds(judged, border) if verdict == OPEN else None,
        diverged=told,
        reason="one seed has no interval" if n == 1 else "",
    )


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


def _more_seeds(values: np.ndarray, threshold: float) -> int | None:
    """How many more would make the interval miss the threshold, were mean and deviation to stay."""
    from scipy.stats import t

    n = len(values)
    if n < 2 or values.mean() == threshold:
        return None
    wanted = np.arange(n + 1, MOST_SEEDS + 1)
    narrow = t.ppf(0.975, wanted - 1) * values.std(ddof=1) / np.sqrt(wanted) < abs(values.mean() - threshold)
    return int(wanted[np.argmax(narrow)] - n) if narrow.any() else None


# ---- a folder's claims


def claims(folder: str | Path) -> list[Judgement]:
    """Returns the judgements of all claims that stand in the sweep file of a results folder.

    Raises:
        InputError: it is no results folder, has no sweep file, or that has no claims.
    """
    from glorot_jax.analysis.results import load

    results = load(folder)
    return [judge(one, results) for one in _claims_of(Path(folder) / "sweep.py")]


def _claims_of(path: Path) -> tuple[claim, ...]:
    from glorot_jax.engine.sweep import read_file

    if not path.exists():
        raise InputError(f"{path}: missing", "claims stand at the end of a sweep file; this sweep came from none")
    found = getattr(read_file(path), "claims", None)
    if found is None:
        raise InputError(f"{path}: it defines no `claims`", "end it with claims = (claim(…), …)")
    if not isinstance(found, tuple | list):
        raise InputError(f"{path}: claims: {type(found).__name__} is not a tuple of claims", "claims = (claim(…),)")
    for number, one in enumerate(found):
        if not isinstance(one, claim):
            raise InputError(f"{path}: claims[{number}]: {one!r} is not a claim(…)")
    return tuple(found)


def render_claims(folder: str | Path, format: str = "table") -> str:
    """Returns the judgements of a results folder as text. ``format``: table, json, csv or markdown."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    from glorot_jax.analysis.results import load

    found, results = claims(folder), load(folder)
    if format == "csv":
        return _frame(found).to_csv(index=False).rstrip("\n")
    if format == "json":
        rows = json.loads(_frame(found).to_json(orient="records", double_precision=15))
        return json.dumps({"sweep": results.name, "claims": rows}, indent=1, ensure_ascii=False)
    counts = {v: sum(j.verdict == v for j in found) for v in (HOLDS, REFUTED, OPEN, NOT_MEASURED)}
    told = [f"{n} {'hold' if v == HOLDS and n > 1 else v}" for v, n in counts.items() if n]
    summary = f"{results.name}: {' · '.join(told) or 'no claims'}"
    if settings := results.description.get("settings"):
        summary += f" · with {' '.join(f'--set {s}' for s in settings)}"
    return (_markdown if format == "markdown" else _screen)(found, summary)


def _frame(found: Sequence[Judgement]) -> pd.DataFrame:
    import pandas as pd

    rows = [{**asdict(j), "runs": " ".join(j.runs)} for j in found]
    return pd.DataFrame(rows, columns=[f.name for f in fields(Judgement)]).astype(
        {"seed": "Int64", "more_seeds": "Int64"}
    )


_CAPTION = (
    "Mean over seeds with its 95 % Student's t interval. A claim holds if the whole interval is on its side of the "
    "threshold, is refuted if it is on the other, and is open if the threshold is inside. Diverged runs count as said; "
    "if one seed has no finite number nothing is judged."
)


def _screen(found: Sequence[Judgement], summary: str) -> str:
    lines = [summary]
    for j in found:
        told = [*textwrap.wrap(j.statement, 84), _measured(j), *_remarks(j), *([j.source] if j.source else [])]
        first, *rest = (part for line in told for part in textwrap.wrap(line, 96, subsequent_indent="  ") or [""])
        lines += ["", f"{j.verdict:<12}  {first}", *(f"{'':<12}  {line}" for line in rest)]
    return "\n".join([*lines, "", *textwrap.wrap(_CAPTION, 100)])


def _measured(j: Judgement) -> str:
    sign = ">" if j.side == "above" else "<"
    if j.verdict == NOT_MEASURED:
        return f"claimed {sign} {j.threshold:.3g}: {j.reason}"
    kind = "geometric mean" if j.log else "mean"
    return f"{kind} {j.mean:.3g} {_interval(j)}, n = {j.n}, claimed {sign} {j.threshold:.3g}"


def _interval(j: Judgement) -> str:
    return "–" if math.isnan(j.low) else f"[{j.low:.3g}, {j.high:.3g}]"


def _remarks(j: Judgement) -> list[str]:
    remarks = [_nearest(j)] if j.seed is not None else []
    if j.verdict == OPEN:
        some = "1 more seed" if j.more_seeds == 1 else f"{j.more_seeds} more seeds"
        more = f"{some} would settle it, were mean and deviation to stay" if j.more_seeds else ""
        remarks += [text for text in (j.reason, more) if text]
    return [*remarks, *([j.diverged] if j.diverged else [])]


def _nearest(j: Judgement) -> str:
    told = ", ".join(j.runs[:2]) + (f" and {len(j.runs) - 2} more" if len(j.runs) > 2 else "")
    what = "broken by" if j.breaks else "nearest to breaking it:"
    return f"{what} seed {j.seed}, {j.value:.3g}" + (f" ({told})" if told else "")


def _markdown(found: Sequence[Judgement], summary: str) -> str:
    lines = [["verdict", "claim", "mean", "95 % interval", "threshold", "n", "remarks", "source"]]
    lines += [[":--", ":--", "--:", "--:", "--:", "--:", ":--", ":--"]]
    for j in found:
        measured = not math.isnan(j.mean)
        remarks = [j.reason, *_remarks(j)] if j.verdict == NOT_MEASURED else _remarks(j)
        lines.append(
            [
                *(j.verdict, j.statement, f"{j.mean:.3g}" if measured else "–", _interval(j)),
                *(f"{'>' if j.side == 'above' else '<'} {j.threshold:.3g}", str(j.n), "; ".join(remarks), j.source),
            ]
        )
    table = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([summary, "", *table, "", _CAPTION])
