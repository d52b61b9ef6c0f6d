"""What a process knows of the Slurm job that it is part of."""

from __future__ import annotations

import pytest

from glorot_jax import batch

ARRAY = {"SLURM_JOB_ID": "9", "SLURM_JOB_NAME": "glorot", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(
    ("variables", "known"),
    [
        ({}, {}),
        ({"SLURM_JOB_ID": "9", "SLURM_JOB_NAME": "bash"}, {}),
        ({"SLURM_JOB_ID": "9"}, {"slurm_job": "9", "slurm_restart_count": 0}),
        (ARRAY, {"slurm_job": "7_2", "slurm_restart_count": 0}),
        ({**ARRAY, "SLURM_RESTART_COUNT": "3"}, {"slurm_job": "7_2", "slurm_restart_count": 3}),
    ],
)
def test_the_job_is_named_as_slurms_commands_take_it(monkeypatch, variables, known):
    for name in (*ARRAY, "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert batch.described() == known
