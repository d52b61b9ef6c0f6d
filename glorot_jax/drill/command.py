"""``glorot drill``: a twin is trained in peace, then accident after accident, each compared with it bit for bit."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from glorot_jax.drill.case import Case, Lost, NotPossible, Told
from glorot_jax.drill.processes import HALT, worker
from glorot_jax.errors import InputError, ResumableError, Stopped, unknown

if TYPE_CHECKING:
    from glorot_jax.drill.twin import Seen

FORMAT = 1
ENGINES = ("local", "slurm", "ray", "multihost")
SURVIVED, LOST, NOT_POSSIBLE = "survived", "LOST", "not possible here"
FILE = "drill.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        case: its name.
        outcome: SURVIVED, LOST or NOT_POSSIBLE.
        said: what was done and survived; or why not.
        differences: from the twin, a line each.
        kills, stops, lost: as of ``Told``.
        seconds: it took, compared and all.
        folder: that it trained into, by name.
    """

    case: str
    outcome: str
    said: str
    differences: tuple[str, ...] = ()
    kills: int = 0
    stops: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()
    seconds: float = 0.0
    folder: str = ""


def drill(
    on: str = "local",
    out: str | Path | None = None,
    *,
    kills: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns what was done and survived, in JSON's terms.

    Args:
        on: the engine, one of ``ENGINES``.
        out: folder for all that is trained, and for ``drill.json``; if not said, one that is removed at the end unless
            something was lost.
        kills: a campaign of so many on this machine: accidents drawn at random, at random moments, until there were as
            many; each case once if not said.
        seed: of the draws.
        jobs: accidents at once; as many as there are cores, but at most four, if not said. Other engines: one.
        say: told how it goes.

    Returns:
        ``format``, ``on``, ``survived`` (nothing was lost), ``cases`` (as ``Outcome``), ``kills``, ``stop_seconds`` and
        ``lost_segments`` (``count``, ``median``, ``max``; None where there were none), ``cores``, ``load`` (processes
        that want one, mean over a minute, at the end), ``seconds``, and ``folder`` if it is kept.

    Raises:
        InputError: the drill can't be held here, or the folder holds something.
        ResumableError: the twin can't be trained.

    An engine's module, such as ``glorot_jax.drill.local``, has ``why_not() -> str | None``, why it can't be held here;
    ``cases(work) -> list[Case]``; and, where others train than this machine, ``undisturbed(folder)``, which trains the
    twin there.
    """
    if on not in ENGINES:
        raise unknown("on", on, ENGINES)
    if kills is not None and (on != "local" or kills < 1):
        raise InputError(f"kills: {kills!r} on {on!r}", "a campaign of one or more kills is held on local")
    engine = importlib.import_module(f"glorot_jax.drill.{on}")
    if (why := engine.why_not()) is not None:
        raise InputError(f"on: {on!r} is not possible here: {why}")
    if out is not None and Path(out).exists() and any(Path(out).iterdir()):
        raise InputError(f"out: {out} holds something", "choose an empty or new folder")
    begin = time.monotonic()
    _quietly()
    from glorot_jax.drill.twin import look

    where = None if on == "local" else "."  # other machines see it, as a rule
    work = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="glorot-drill-", dir=where)).absolute()
    work.mkdir(parents=True, exist_ok=True)
    with _cleared_up(work if out is None else None):
        say("the undisturbed twin is trained")
        twin = work / "twin"
        try:
            getattr(engine, "undisturbed", _undisturbed)(twin)
        except Lost as what:
            raise ResumableError(f"the undisturbed twin can't be trained: {what}") from None
        atonce = (jobs or min(4, os.cpu_count() or 1)) if on == "local" else 1
        drawn = iter(engine.cases(work)) if kills is None else _campaign(engine, seed)
        outcomes = _all(drawn, kills, work, look(twin), atonce, say)
    survived = all(one.outcome != LOST for one in outcomes)
    result = {
        "format": FORMAT,
        "on": on,
        "survived": survived,
        "cases": [asdict(one) for one in outcomes],
        "kills": sum(one.kills for one in outcomes),
        "stop_seconds": _measured([second for one in outcomes for second in one.stops]),
        "lost_segments": _measured([part for one in outcomes for part in one.lost]),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "seconds": round(time.monotonic() - begin, 1),
    }
    if out is None and survived:
        shutil.rmtree(work, ignore_errors=True)
        return result
    result["folder"] = str(work)
    (work / FILE).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def _quietly() -> None:
    """This process only reads: it leaves the accelerators to those that train."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _undisturbed(twin: Path) -> None:
    with worker(twin) as process:
        if code := process.code():
            raise Lost(f"it ended with exit code {code}: {process.last_line()}")


def _campaign(engine: ModuleType, seed: int) -> Iterator[Case]:
    chance = random.Random(seed)
    while True:
        yield engine.drawn(chance)


def _all(
    drawn: Iterator[Case], kills: int | None, work: Path, twin: Seen, at_once: int, say: Callable[[str], None]
) -> list[Outcome]:
    """Every case, or as many as it takes to so many kills, some of them at once; a folder that survived is removed."""
    found: list[Outcome] = []
    made = 0
    under_way: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for number in range(sys.maxsize):
                enough = kills is not None and made + len(under_way) >= kills
                case = None if enough else next(drawn, None)
                if case is not None:
                    folder = work / f"{number:03d}-{case.name.replace(' ', '-')}"
                    under_way.add(pool.submit(_one, case, folder, twin))
                elif not under_way:
                    break
                if case is None or len(under_way) == at_once:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in done:
                        found.append(future.result())
                        made += max(found[-1].kills, int(found[-1].outcome == LOST))
                        say(line(found[-1], made, kills))
        except BaseException:
            HALT.set()
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(found, key=lambda one: one.folder)


def _one(case: Case, folder: Path, twin: Seen) -> Outcome:
    """Does one accident and compares what it left."""
    from glorot_jax.drill.twin import differences

    begin = time.monotonic()

    def outcome(kind: str, said: str, **facts: Any) -> Outcome:
        seconds = round(time.monotonic() - begin, 1)
        return Outcome(case.name, kind, said, seconds=seconds, folder=folder.name, **facts)

    try:
        told = case.do(folder)
    except NotPossible as why:
        return outcome(NOT_POSSIBLE, str(why))
    except Lost as what:
        return outcome(LOST, str(what))
    except Exception as error:
        return outcome(LOST, f"{type(error).__name__}: {error}")
    told = told if isinstance(told, Told) else Told(told)
    facts = {"kills": told.kills, "stops": told.stops, "lost": told.lost}
    if found := differences(folder, twin):
        return outcome(LOST, f"{told.said}; but {found[0]}", differences=tuple(found), **facts)
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)
    return outcome(SURVIVED, told.said, **facts)


def _measured(numbers: Sequence[float]) -> dict[str, float] | None:
    if not numbers:
        return None
    return {"count": len(numbers), "median": round(statistics.median(numbers), 2), "max": round(max(numbers), 2)}


@contextlib.contextmanager
def _cleared_up(work: Path | None) -> Iterator[None]:
    """Within it SIGTERM ends the drill as Ctrl-C does: no process stays, nor, if it is named, the folder."""

    def leave(number: int, _: object) -> None:
        raise Stopped("the drill was stopped", 128 + number)

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if ours else None
    try:
        yield
    except BaseException:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        HALT.clear()
        if ours:
            signal.signal(signal.SIGTERM, before)


# ---- as text


def line(one: Outcome, made: int, kills: int | None) -> str:
    """Returns what is said of an outcome when it comes."""
    of = "" if kills is None else f"{made} of {kills} kills · "
    return f"{of}{one.case}: {one.outcome} in {one.seconds:.0f} s · {one.said}"


def render(result: dict[str, Any], form: str = "table") -> str:
    """Returns a result as text. ``form``: table, markdown, csv or json."""
    if form == "json":
        return json.dumps(result, indent=1, ensure_ascii=False)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in result["cases"]:
        kinds.setdefault(one["case"], []).append(one)
    campaign = any(len(all_of) > 1 for all_of in kinds.values())
    rows = [_kind(name, all_of) if campaign else _case(all_of[0]) for name, all_of in sorted(kinds.items())]
    if not campaign:
        rows = [_case(one) for one in result["cases"]]
    if form == "csv":
        return _csv(rows)
    if form not in ("table", "markdown"):
        raise unknown("format", form, ("table", "json", "csv", "markdown"))
    texts = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    lines = _markdown(texts) if form == "markdown" else _screen(texts)
    return "\n".join([*lines, "", *_summary(result)])


def _case(one: dict[str, Any]) -> dict[str, Any]:
    return {"case": one["case"], "outcome": one["outcome"], "seconds": one["seconds"], "what": one["said"]}


def _kind(name: str, all_of: list[dict[str, Any]]) -> dict[str, Any]:
    stops, lost = (_measured([n for one in all_of for n in one[key]]) or {} for key in ("stops", "lost"))
    return {
        "kind": name,
        "accidents": len(all_of),
        "kills": sum(one["kills"] for one in all_of),
        "survived": sum(one["outcome"] == SURVIVED for one in all_of),
        "lost": sum(one["outcome"] == LOST for one in all_of),
        "stop s, median": stops.get("median"),
        "stop s, max": stops.get("max"),
        "segments lost, median": lost.get("median"),
        "segments lost, max": lost.get("max"),
    }


def _summary(result: dict[str, Any]) -> list[str]:
    bad = [one for one in result["cases"] if one["outcome"] == LOST]
    accidents = sum(one["outcome"] != NOT_POSSIBLE for one in result["cases"])
    lines = [
        f"{accidents} accidents, {result['kills']} kills on {result['on']} in {result['seconds']:.0f} s: "
        + (f"{len(bad)} LOST." if bad else "nothing lost, every run bit for bit as in the undisturbed twin.")
    ]
    lines += [f"  {one['case']} in {one['folder']}: {one['said']}" for one in bad]
    if told := result["stop_seconds"]:
        lines.append(f"From SIGTERM to saved and gone: median {told['median']} s, at most {told['max']} s.")
    if told := result["lost_segments"]:
        lines.append(f"Work that a SIGKILL undid: median {told['median']} segments, at most {told['max']}.")
    if "folder" in result:
        lines.append(f"What was trained: {result['folder']}")
    return lines


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _screen(texts: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def _markdown(texts: list[list[str]]) -> list[str]:
    head, *rows = (f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in texts)
    return [head, f"|{' --- |' * len(texts[0])}", *rows]


def _csv(rows: list[dict[str, Any]]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")
