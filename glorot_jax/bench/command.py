"""``glorot bench``: what is asked for, measured, and kept as JSON, Markdown and a figure."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glorot_jax.errors import InputError, unknown

FORMAT = 1
FILES = {"json": "bench.json", "markdown": "bench.md", "figure": "scaling.png"}
"""What is written into a folder."""


def bench(
    only: Sequence[str] = (),
    *,
    quick: bool = False,
    clock: str = "wall",
    say: Callable[[str], None] = lambda line: None,
    settings: Any = None,
) -> dict[str, Any]:
    """Measures and returns all numbers, in JSON's terms.

    Args:
        only: sections of ``sections.SECTIONS``; all but ``data`` if none is named.
        quick: a minute, with fewer rounds, sizes and presets.
        clock: ``"wall"``, or ``"process"``, the processor time of all threads, for a machine that others use, too.
        say: told what begins.
        settings: ``sections.Settings`` in place of those that ``quick`` means.

    Returns:
        ``format``, ``time``, ``machine`` (versions, devices, flags, what was reached), ``settings``, ``sections`` (name
        -> rows, each with every round's numbers in seconds), ``notes`` and ``seconds``.

    Raises:
        InputError: a section or the clock is unknown.
    """
    if clock not in ("wall", "process"):
        raise unknown("clock", clock, ("wall", "process"))
    from glorot_jax.engine import devices

    devices.configure()  # before NumPy's and SciPy's libraries look how many threads they may have
    from glorot_jax.bench import others, sections
    from glorot_jax.engine.planning.peaks import machine

    for name in only:
        if name not in sections.SECTIONS:
            raise unknown("only", name, sections.SECTIONS)
    chosen = settings or (sections.QUICK if quick else sections.Settings())
    chosen = dataclasses.replace(chosen, clock=clock)
    begin = time.perf_counter()
    torch = others.torch_version()
    say("what this machine reaches")
    libraries = ("numpy", "jax") if torch is None else ("numpy", "jax", "torch")
    reached = machine(libraries, clock=chosen.seconds)
    about = devices.describe()
    about["versions"] = {**about["versions"], "torch": torch}  # type: ignore[dict-item]
    found: dict[str, list[dict[str, Any]]] = {}
    for name in only or sections.WHOLE:
        found[name] = []
        for row in sections.SECTIONS[name](chosen, reached):
            found[name].append(row)
            told = " · ".join(str(row[key]) for key in ("network", "runs", "preset", "cache") if key in row)
            say(f"{time.perf_counter() - begin:4.0f} s  {name}: {told}")
    missing = "PyTorch is not installed, so it is not compared with: pip install 'glorot-jax[bench]'"
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about | dataclasses.asdict(reached),
        "settings": dataclasses.asdict(chosen),
        "sections": found,
        "notes": [missing] if torch is None else [],
        "seconds": round(time.perf_counter() - begin, 1),
    }


def write_files(
    result: dict[str, Any], *, out: Path | None, to_json: Path | None, to_figure: Path | None
) -> tuple[list[Path], list[str]]:
    """Writes what is asked for; returns the files, and what could not be drawn.

    Args:
        out: a folder for all ``FILES``.
        to_json, to_figure: files of their own.

    Raises:
        InputError: a figure was asked for by name and can't be drawn.
    """
    from glorot_jax.bench.report import markdown
    from glorot_jax.files import write, write_json

    rows = result["sections"].get("scaling")
    written, notes = [], []

    def figure(path: Path) -> None:
        from glorot_jax.bench.figure import draw

        if not rows:
            raise InputError("figure: there is nothing to draw without the section scaling", "leave out --only")
        write(path, lambda temporary: draw(rows, temporary))
        written.append(path)

    if to_json is not None:
        write_json(to_json, result)
        written.append(to_json)
    if to_figure is not None:
        figure(to_figure)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / FILES["json"], result)
        write(out / FILES["markdown"], f"{markdown(result)}\n".encode())
        written += [out / FILES["json"], out / FILES["markdown"]]
        if rows:
            try:
                figure(out / FILES["figure"])
            except InputError as error:
                notes.append(str(error))
    return written, notes


def read(path: Path) -> dict[str, Any]:
    """Returns a result that was written before."""
    return json.loads(path.read_text(encoding="utf-8"))
