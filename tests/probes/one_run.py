"""The only run of a sweep as the engine sees it, with nothing around it."""

from __future__ import annotations

import jax.numpy as jnp

from glorot_jax import Sweep
from glorot_jax.data import dataset
from glorot_jax.engine.planning import plan
from glorot_jax.engine.segment import _Network, _Run


def one_run(sweep: Sweep) -> tuple[_Run, dict[str, jnp.ndarray]]:
    """Returns what happens to the run, and its settings."""
    (cohort,) = plan.cohorts(sweep.runs())
    setup = plan.setup(cohort, dataset.build(cohort.runs[0].data))
    hyper = {name: jnp.asarray(array[0]) for name, array in plan.per_run(cohort).items()}
    return _Run(setup, _Network(setup, hyper), hyper), hyper
