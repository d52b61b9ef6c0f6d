"""Largest eigenvalue of the Hessian of the loss: how sharp the surface is."""

from __future__ import annotations

import jax
from jaxtyping import Array

from glorot_jax import spectra
from glorot_jax.probes.probe import Output, Probe, Scene

STEPS = 20
_PROBE_SEED = 2


def _measure(scene: Scene) -> dict[str, Array]:
    size, product = scene.flat_hessian
    found = spectra.lanczos_largest_eigenvalue(product, size, jax.random.key(_PROBE_SEED), steps=STEPS)
    return {"hessian_max_eigenvalue": found.value, "hessian_max_eigenvalue_error": found.error}


def _outputs(scene: Scene) -> dict[str, Output]:
    method = f"Lanczos, {STEPS} Hessian-vector products; mean loss of the fixed test examples, all parameters"
    attrs = {"examples": scene.examples, "method": f"{method}; from below"}
    units = scene.loss_units
    return {
        "hessian_max_eigenvalue": Output((), "largest eigenvalue of the loss' Hessian", units, attrs),
        "hessian_max_eigenvalue_error": Output(
            (), "length of the residual: so near to the value lies an eigenvalue", units, attrs
        ),
    }


hessian = Probe(
    name="hessian",
    measure=_measure,
    outputs=_outputs,
    source="Pearlmutter (1994), Hessian-vector products; Cohen et al. (2021), arXiv:2103.00065: sharpness",
)
