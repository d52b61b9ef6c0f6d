"""Two results folders of one sweep, compared bit for bit: final parameters, records, outcomes and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glorot_jax.analysis.results import load
from glorot_jax.analysis.tables import table_of, written
from glorot_jax.engine import checkpoint, shard
from glorot_jax.errors import InputError

_NO_RESULT = "activation.index"
"""Ends the name of a state that says which place a function has in its program's table."""

Arrays = dict[str, dict[str, np.ndarray]]
"""Run -> name -> array."""


@dataclass(frozen=True)
class Seen:
    """What a results folder holds.

    Attributes:
        parameters: the state of each run after its last step.
        records: all that was recorded of each run, the steps with it.
        outcomes: what people look at, as text with every digit: how each run ended, and the table.
    """

    parameters: Arrays
    records: Arrays
    outcomes: dict[str, str]


def look(folder: Path) -> Seen:
    """Returns what a folder holds in which all is done.

    Raises:
        InputError, DamagedCheckpoint, OSError: it can't be read.
    """
    runs = load(folder).runs.sort_index()
    table = str(written(table_of(folder), "csv"))
    return Seen(_parameters(folder), _records(folder), {"outcomes": runs.to_csv(), "table": table})


def differences(folder: Path, twin: Seen) -> list[str]:
    """Returns in what a folder differs from its twin, in a line each: nothing, if nothing was lost.

    How the runs are divided between shards, and by how many processes they were trained, may differ.
    """
    try:
        seen = look(folder)
    except (InputError, checkpoint.DamagedCheckpoint, OSError) as error:
        return [f"can't be read: {error}"]
    return [
        *_of_arrays("parameters", seen.parameters, twin.parameters),
        *_of_arrays("records", seen.records, twin.records),
        *(f"{name}: not the same" for name, text in twin.outcomes.items() if seen.outcomes[name] != text),
    ]


def _parameters(folder: Path) -> Arrays:
    found: Arrays = {}
    for part, ids in shard.open_all(folder):
        state = checkpoint.restore(part.checkpoints, part.manifest["checkpoint"])
        for place, run in enumerate(ids):
            found[run] = {path: array[place] for path, array in state.items() if not path.endswith(_NO_RESULT)}
    return found


def _records(folder: Path) -> Arrays:
    whole = load(folder).records()
    steps = whole["step"].to_numpy()
    arrays = {str(name): array.transpose("run", ...).to_numpy() for name, array in whole.data_vars.items()}
    return {
        str(run): {"step": steps, **{name: array[place] for name, array in arrays.items()}}
        for place, run in enumerate(whole["run"].to_numpy())
    }


def _of_arrays(what: str, found: Arrays, wanted: Arrays) -> list[str]:
    said = []
    if missing := sorted(wanted.keys() - found.keys()):
        said.append(f"{what}: {len(missing)} of {len(wanted)} runs are missing, {missing[0]} for one")
    for run in sorted(wanted.keys() & found.keys()):
        one, other = found[run], wanted[run]
        differs = [name for name in other if name not in one or not _same(one[name], other[name])]
        differs += sorted(one.keys() - other.keys())
        if differs:
            said.append(f"{what} of run {run}: {differs[0]} differs, {len(differs)} of {len(other)} arrays in all")
    return said


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same bits, NaN included."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()
