"""A sweep's results folder as a whole: who may write into it, and how it describes what is trained there."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glorot_jax import locks
from glorot_jax.engine import division
from glorot_jax.engine import shard as shards
from glorot_jax.engine.events import now
from glorot_jax.engine.sweep import Sweep
from glorot_jax.errors import InputError
from glorot_jax.files import TEMPORARY, write, write_json
from glorot_jax.store.names import DIVISION, LOCK

if TYPE_CHECKING:
    from glorot_jax.store.here import Here

LOGS = "logs"
"""Of the results folder: what a batch system's tasks say, put there by who submits them."""
DESCRIPTION = ("sweep.json", "sweep.py", "environment.json")
"""What all processes of a sweep write alike."""


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
        raise busy(there.folder, taken.owner) from None


def check(results: Path, sweep: Sweep, fresh: bool) -> None:
    if not results.exists():
        return
    if not results.is_dir():
        raise InputError(f"out: {results} is a file")
    if not (results / "sweep.json").exists():
        begun = {LOCK, LOGS, "shards", DIVISION}  # what is there before the description is
        if any(p.name not in begun and not p.name.startswith(TEMPORARY) for p in results.iterdir()):
            raise InputError(f"out: {results} holds something else", "choose an empty or new folder")
        return
    if fresh:
        return
    name = read_description(results)["name"]
    if name != sweep.name:
        raise InputError(
            f"out: {results} holds the sweep {name!r}, not {sweep.name!r}",
            "choose another folder, or --fresh to start over",
        )


def read_description(results: Path) -> dict[str, Any]:
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


def is_described(results: Path, sweep: Sweep) -> bool:
    """Whether the folder describes this sweep, and keeps its file as it is now."""
    source, copy = _source(results, sweep), results / "sweep.py"
    with contextlib.suppress(InputError, OSError):
        same = source is None or source.read_bytes() == copy.read_bytes()
        return same and read_description(results) == json.loads(json.dumps(_description(sweep)))
    return False


def describe(there: Here, sweep: Sweep, environment: Mapping[str, Any]) -> None:
    results = there.folder
    write_json(results / "sweep.json", _description(sweep))
    source = _source(results, sweep)
    if source is not None:
        write(results / "sweep.py", source.read_bytes())
    facts = {
        "precision": _products(sweep, str(environment["platform"])),
        "git_commit": _commit(Path(sweep.source) if sweep.source else None),
        "started": now(),
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


def busy(results: Path, owner: str) -> InputError:
    return InputError(f"{results}: {owner} is at work in it", "wait for it, or stop it first")
