"""What a process knows of the batch system that runs it: Slurm's variables, read and never written."""

from __future__ import annotations

import os

INTERACTIVE = ("bash", "interactive")
"""Names of jobs that a person sits before, as ``srun --pty bash`` and ``salloc`` give them."""


def in_task() -> bool:
    """Returns whether this process is part of a Slurm job that is no interactive one."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def described() -> dict[str, str | int]:
    """Returns the job and how often Slurm has started it again, in JSON's terms; empty outside of a task."""
    if not in_task():
        return {}
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return {"slurm_job": job, "slurm_restart_count": int(count) if count.isdecimal() else 0}
