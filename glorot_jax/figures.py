"""``glorot figures``: the paper's figures from the paper's sweeps, and of any other sweep what its records allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from glorot_jax.analysis.figures import general
from glorot_jax.analysis.figures.style import require_matplotlib
from glorot_jax.analysis.figures.variants import NotRecordedError
from glorot_jax.analysis.figures.write import FORMATS, Drawing, write_drawings
from glorot_jax.analysis.results import Results, load, results_folders
from glorot_jax.errors import InputError, unknown
from glorot_jax.paper import figures as paper
from glorot_jax.store.mirror import local
from glorot_jax.store.objects import is_url


class Drawn(NamedTuple):
    """What was drawn.

    Attributes:
        drawings: figures with data and captions.
        files: what was written.
        missing: a line for each figure, or part of one, that could not be drawn, with the command that gives its data.
    """

    drawings: list[Drawing]
    files: list[Path]
    missing: list[str]


def figures(
    folders: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    only: Sequence[str] | None = None,
    formats: Sequence[str] = ("png", "pdf"),
    data: bool = False,
) -> Drawn:
    """Draws figures from results folders and returns what was drawn.

    Args:
        folders: results folders, or folders that hold some.
        out: where files go; ``figures`` in the first folder if not said, or here if that is on an object store.
        only: numbers of the paper's figures, as texts, and kinds of ``analysis.figures.general.KINDS``; all if not
            said.
        formats: of png, pdf and svg.
        data: whether to write the data behind each figure, too, as CSV.

    Raises:
        InputError: a folder holds no results, a name is unknown, Matplotlib is missing, or nothing could be drawn.
    """
    require_matplotlib()
    named = [folders] if isinstance(folders, str | Path) else list(folders)
    known = [*map(str, paper.FIGURES), *general.KINDS]
    for name in only or ():
        if name not in known:
            raise unknown("only", name, known)
    for kind in formats:
        if kind not in FORMATS:
            raise unknown("formats", kind, FORMATS)
    paths = [local(folder) for folder in named]
    found = _results(paths)
    command = f"glorot figures {' '.join(p.resolve().name for p in paths)}"
    drawings: list[Drawing] = []
    missing: list[str] = []
    for told, make in _asked(found, only, command):
        try:
            drawn = make()
        except NotRecordedError as error:
            missing += [str(error)] * told
            continue
        drawings.append(drawn)
        missing += drawn.missing
    if not drawings:
        raise InputError("figures: nothing could be drawn" + "".join(f"\n  {line}" for line in missing))
    target = Path(out) if out is not None else (Path() if is_url(named[0]) else paths[0]) / "figures"
    return Drawn(drawings, write_drawings(drawings, target, formats, data), missing)


def _results(paths: Sequence[Path]) -> dict[str, Results]:
    """Results by the name of their sweep; several folders of the same sweep are one."""
    folders: dict[Path, None] = {}
    for path in paths:
        inside = results_folders(path)
        if not inside:
            load(path)  # says what is wrong with it
        folders |= {folder.resolve(): None for folder in inside}
    by_name: dict[str, list[Path]] = {}
    for folder in folders:
        by_name.setdefault(load(folder).name, []).append(folder)
    return {name: load(same) for name, same in by_name.items()}


def _asked(
    found: dict[str, Results], only: Sequence[str] | None, command: str
) -> list[tuple[bool, Callable[[], Drawing]]]:
    """What makes the drawings that are asked for, the paper's first, and whether it is told if one can't be drawn.

    Of a sweep that isn't behind one of the paper's figures, what was not recorded is passed over, and beside those that
    are so are the paper's others, unless they are asked for by name.
    """
    of_paper = bool(set(found) & set(paper.EXPERIMENTS))
    numbers = [n for n in paper.FIGURES if (str(n) in only if only else of_paper)]
    kinds = [kind for kind in general.KINDS if not only or kind in only]
    others = [
        results
        for name, results in found.items()
        if name not in paper.EXPERIMENTS and not (of_paper and not only and name.startswith(paper.PAPER))
    ]
    return [(True, partial(paper.drawing_of, number, found, f"{command} --only {number}")) for number in numbers] + [
        (bool(only), partial(general.drawing_of, results, kind, f"{command} --only {kind}"))
        for results in others
        for kind in kinds
    ]
