"""What the objects of a results folder are called: as its files, but that a checkpoint is one object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LOCK = ".lock"
"""Who is at work. Of the folder: who trains all of it holds it meanwhile, a part while it looks up or decides what is
its. Of a shard: who trains that."""
DIVISION = "division.json"
MANIFEST = "manifest.json"
RUNS = "runs.parquet"
PREDICTIONS = "theory.nc"
BESIDE = (RUNS, PREDICTIONS)
"""Of a shard, written once."""

_PLAIN = re.compile(r"(.*/)?((sweep|environment|division|baselines)\.json|sweep\.py|events[^/]*\.jsonl)")
_SHARD = re.compile(r"(?P<folder>(.*/)?shards/[^/]+)/(?P<file>[^/]+|checkpoints/[^/]+)")


def is_plain(name: str) -> bool:
    """Returns whether an object is one of a sweep's own, outside of its shards."""
    return _PLAIN.fullmatch(name) is not None


def of_shard(name: str) -> tuple[str, str] | None:
    """Returns the folder of a shard's object and its name in it; None of all others."""
    found = _SHARD.fullmatch(name)
    return (found["folder"], found["file"]) if found else None


def is_lock(name: str) -> bool:
    """Returns whether an object says who is at work."""
    return name.rpartition("/")[2] == LOCK


def is_replaced(file: str) -> bool:
    """Returns whether a shard's object is one that commits supersede: records, or a checkpoint."""
    return file.startswith(("rec-", "checkpoints/"))


def named(manifest: Mapping[str, Any]) -> set[str]:
    """Returns what a manifest and the one before it name, below the shard."""
    kept = (manifest, manifest.get("previous") or {})
    return {packed(one["checkpoint"]) for one in kept if one.get("checkpoint")}.union(*map(records, kept))


def records(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Returns the record files of a manifest, each with its bytes."""
    return {str(entry["file"]): int(entry["bytes"]) for entry in manifest.get("records", ())}


def packed(checkpoint: Mapping[str, Any]) -> str:
    """Returns the name of a checkpoint's object: its folder's, and what tells it from others of the same step."""
    return f"checkpoints/{checkpoint['step']}-{checkpoint['digest'][:16]}.tar"
