"""Trace of the Hessian of the loss, with its standard error."""

from __future__ import annotations

import jax
from jaxtyping import Array

from glorot_jax import spectra
from glorot_jax.probes.probe import Output, Probe, Scene

VECTORS = 16
_PROBE_SEED = 3


def _measure(scene: Scene) -> dict[str, Array]:
    key = jax.random.key(_PROBE_SEED)
    found = spectra.hutchinson_trace(scene.flat_hessian_product, scene.size, key, vectors=VECTORS)
    return {"hessian_trace": found.value, "hessian_trace_error": found.error}


def _outputs(scene: Scene) -> dict[str, Output]:
    method = f"Hutchinson, {VECTORS} Rademacher vectors; mean loss of the fixed test examples, all parameters"
    attrs = {"examples": scene.examples, "method": method}
    return {
        "hessian_trace": Output((), "trace of the loss' Hessian", scene.loss_units, attrs),
        "hessian_trace_error": Output((), "standard error of the trace", scene.loss_units, attrs),
    }


hessian_trace = Probe(
    name="hessian_trace",
    measure=_measure,
    outputs=_outputs,
    source="Hutchinson (1990), Communications in Statistics 19; Ghorbani, Krishnan & Xiao (2019), arXiv:1901.10159",
    any_depth=True,
)
