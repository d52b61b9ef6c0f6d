"""Where the parts of a divided sweep stand, and who is at work on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glorot_jax.errors import InputError
from glorot_jax.store import names
from glorot_jax.store.mirror import owner

ROWS = 20
_ORDER = ("at work", "waiting", "done", "empty")


class _Piece(NamedTuple):
    shard: str
    part: int
    runs: int
    steps: int
    owner: str | None


class Division(NamedTuple):
    """How a sweep is divided, and who is at work in which shard."""

    parts: int
    pieces: tuple[_Piece, ...]


def read(folder: Path) -> Division | None:
    """Returns the division of a results folder as it is now; None if the sweep is not divided.

    Raises:
        InputError: it is damaged.
    """
    path = folder / names.DIVISION
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        pieces = [
            (str(one["shard"]), int(one["part"]), len(one["runs"]), int(one["steps"]), _owner(folder, one["shard"]))
            for one in told["shards"]
        ]
        return Division(int(told["parts"]), tuple(_Piece(*piece) for piece in pieces))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged", "remove it while no part is at work: it is then made anew") from None


def _owner(folder: Path, shard: str) -> str | None:
    """Who holds a shard, without the part that it holds it for."""
    found = owner(folder / "shards" / shard / names.LOCK)
    return found and found.partition(" (")[0]


def standing(division: Division | None, manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns one entry a part, in JSON's terms; none if the sweep is not divided.

    A part is ``done``, ``at work`` while a process holds one of its shards, ``waiting`` for a process, or ``empty`` if
    there was nothing left for it when the sweep was divided. Its ``share`` is that of its runs' steps.

    Args:
        manifests: of the shards that were begun, by name, not older than the division: so nobody seems to wait who has
            just ended.
    """
    if division is None:
        return []
    dealt: dict[int, list[_Piece]] = {number: [] for number in range(division.parts)}
    for piece in division.pieces:
        dealt[piece.part].append(piece)
    return [_part(number, division.parts, pieces, manifests) for number, pieces in dealt.items()]


def _part(
    number: int, count: int, pieces: Sequence[_Piece], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    begun = [manifests.get(piece.shard) for piece in pieces]
    owner = next((piece.owner for piece in pieces if piece.owner), None)
    total = sum(piece.runs * piece.steps for piece in pieces)
    made = sum(piece.runs * _made(m) for piece, m in zip(pieces, begun, strict=True) if m is not None)
    finished = all(manifest is not None and manifest["state"] == "done" for manifest in begun)
    state = "empty" if not pieces else "done" if finished else "at work" if owner else "waiting"
    return {
        "part": number,
        "of": count,
        "state": state,
        "owner": owner,
        "shards": len(pieces),
        "runs": sum(piece.runs for piece in pieces),
        "share": made / total if total else float(finished),
    }


def _made(manifest: Mapping[str, Any]) -> int:
    return int(manifest["step"]) - int(manifest.get("first_step", 0))


def lines(found: list[dict[str, Any]]) -> list[str]:
    """Returns the parts as text: counts, then a line each, those at work first."""
    if not found:
        return []
    counts = Counter(part["state"] for part in found)
    told = " · ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
    made = [f"  {len(found)} parts: {told}"]
    ranked = sorted(found, key=lambda part: _ORDER.index(part["state"]))
    for part in ranked[:ROWS]:
        by = f" · {part['owner']}" if part["owner"] else ""
        shards = f"{part['shards']} shard{'s' * (part['shards'] != 1)}"
        made.append(
            f"    part {part['part']} of {part['of']}: {part['state']}{by} · {part['share']:.0%} of {part['runs']} runs"
            f" in {shards}"
        )
    if len(found) > ROWS:
        made.append(f"    … and {len(found) - ROWS} more parts; --format json has all")
    return made


def go_on(folder: str | Path, found: list[dict[str, Any]]) -> str | None:
    """Returns the command that goes on with what nobody is at work on; None if somebody is at work on all there is."""
    waiting = next((part for part in found if part["state"] == "waiting"), None)
    return None if waiting is None else f"glorot resume {folder} --shard {waiting['part']}/{waiting['of']}"
