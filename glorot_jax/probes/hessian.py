"""Largest eigenvalue of the Hessian of the loss: how sharp the surface is, and whether descent can still follow it."""

from __future__ import annotations

import jax
from jaxtyping import Array

from glorot_jax import spectra
from glorot_jax.probes.probe import Output, Probe, Scene

STEPS = 20
_PROBE_SEED = 2


def _measure(scene: Scene) -> dict[str, Array]:
    key = jax.random.key(_PROBE_SEED)
    largest = spectra.lanczos_largest_eigenvalue(
        scene.flat_hessian_product, scene.size, key, steps=STEPS, first=scene.own_size
    )
    found = {"hessian_max_eigenvalue": largest.value, "hessian_max_eigenvalue_error": largest.error}
    if scene.stable_curvature is None:
        return found
    bound = scene.stable_curvature()
    return found | {"hessian_sharpness": largest.value / bound, "hessian_sharpness_error": largest.error / bound}


def _outputs(scene: Scene) -> dict[str, Output]:
    method = f"Lanczos, {STEPS} Hessian-vector products; mean loss of the fixed test examples, all parameters"
    attrs = {"examples": scene.examples, "method": f"{method}; from below"}
    units = scene.loss_units
    found = {
        "hessian_max_eigenvalue": Output((), "largest eigenvalue of the loss' Hessian", units, attrs),
        "hessian_max_eigenvalue_error": Output(
            (), "length of the residual: so near to the value lies an eigenvalue", units, attrs
        ),
    }
    if scene.stable_curvature is None:
        return found
    bound = "2/ε with learning rate ε; 2(1 + β)/ε with momentum β, 2(1 + β)/((1 + 2β)ε) with Nesterov's"
    attrs = attrs | {"method": f"{attrs['method']}; over {bound}, where full-batch descent on a quadratic diverges"}
    return found | {
        "hessian_sharpness": Output((), "largest eigenvalue of the loss' Hessian over 2/ε", attrs=attrs),
        "hessian_sharpness_error": Output((), "length of the residual over 2/ε", attrs=attrs),
    }


hessian = Probe(
    name="hessian",
    measure=_measure,
    outputs=_outputs,
    source="Pearlmutter (1994), Hessian-vector products; Cohen et al. (2021), arXiv:2103.00065: sharpness, the edge of "
    "stability at 2/ε",
    any_depth=True,
)
