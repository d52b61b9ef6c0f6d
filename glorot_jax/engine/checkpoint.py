"""The state of a shard on disk, through Orbax; what was written is verified by digest before it is trusted."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.errors import ResumableError
from glorot_jax.files import full_disk

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Flat = dict[str, np.ndarray]

SLACK = 128 * 2**10
"""Bytes that a checkpoint's files may take beyond its arrays."""


class DamagedCheckpoint(Exception):
    """A checkpoint that can't be read, or that is not what the manifest says."""


def save(folder: Path, step: int, state: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Writes the state of one step and returns what the manifest has to know of it, once all is on disk.

    Args:
        folder: the shard's ``checkpoints``.
        state: path -> array (blocks, width, …), on the host.
    """
    import orbax.checkpoint as ocp

    target = (folder / str(step)).absolute()
    if target.exists():
        shutil.rmtree(target)  # newer than the manifest: an earlier process died before its commit
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < sum(a.nbytes for a in state.values()) + SLACK:
        raise ResumableError(f"checkpoint {step}: no space left on the disk; make room and run the same command")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what fails is raised; the log would add its traces
    with full_disk(target.with_name(f"checkpoint {step}")), _checkpointer() as checkpointer:
        checkpointer.save(target, ocp.args.PyTreeSave(dict(state)))
        checkpointer.wait_until_finished()
    if not target.is_dir():
        raise ResumableError(f"checkpoint {step} was not written; the one before it is whole")
    return {
        "step": step,
        "digest": digest(state),
        "leaves": {name: [list(a.shape), str(a.dtype)] for name, a in sorted(state.items())},
        "orbax": ocp.__version__,
        "bytes": sum(path.stat().st_size for path in target.rglob("*") if path.is_file()),
    }


def restore(folder: Path, entry: Mapping) -> Flat:
    """Returns the state that ``entry`` names, the same to the last bit.

    Raises:
        DamagedCheckpoint: files are missing, torn, or hold other bits.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    path = (folder / str(entry["step"])).absolute()
    target = {name: np.zeros(shape, dtype) for name, (shape, dtype) in entry["leaves"].items()}
    try:
        with _checkpointer() as checkpointer:
            how = ocp.checkpoint_utils.construct_restore_args(target)
            state = checkpointer.restore(path, ocp.args.PyTreeRestore(target, restore_args=how))
    except Exception as error:  # Orbax raises many kinds for a torn folder
        raise DamagedCheckpoint(f"checkpoint {entry['step']}: {str(error).splitlines()[0][:200]}") from error
    if digest(state) != entry["digest"]:
        raise DamagedCheckpoint(f"checkpoint {entry['step']}: its content is not what was written")
    return state


def _checkpointer() -> ocp.AsyncCheckpointer:
    """Orbax by this process alone: of several that are one program the others do not come to its barriers.

    It writes the very arrays that it is given: bits of weights hardly compress, and a copy would be as large as they.
    """
    import jax
    import orbax.checkpoint as ocp

    alone: dict[str, Any] = {}
    if jax.process_count() > 1:
        me = jax.process_index()
        alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
        )
    arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays))
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry, **alone)
    return ocp.AsyncCheckpointer(handler, **alone)


def set_aside(folder: Path, step: int) -> Path | None:
    """Moves a damaged checkpoint out of the way and returns where to; nothing is deleted."""
    damaged = folder / str(step)
    if not damaged.exists():
        return None
    aside = folder.parent / f"damaged-{step}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    damaged.rename(aside)
    return aside


def keep_only(folder: Path, steps: set[int]) -> None:
    """Removes the checkpoints of all other steps."""
    named = set(map(str, steps))
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def digest(state: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, types, shapes and bits."""
    total = hashlib.sha256()
    for name, array in sorted(state.items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return total.hexdigest()
