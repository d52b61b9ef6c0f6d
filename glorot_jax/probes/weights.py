"""How large a layer's weights are: norms, standard deviation, stable rank."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.probes.probe import EXACT_UP_TO, Output, Probe, Scene, with_output, with_output_labels
from glorot_jax.rounding import norm, std
from glorot_jax.spectra import Estimate

VECTORS, STEPS = 2, 30
_PROBE_SEED = 1


def _measure(scene: Scene) -> dict[str, Array]:
    weights = [scene.params[layer.weight] for layer in scene.layers]
    norms = [norm(w) for w in weights]
    spectral = [_spectral_norm(w) for w in weights]
    return {
        **with_output("weight_norm", norms),
        **with_output("weight_std", [std(w) for w in weights]),
        **with_output("weight_spectral_norm", [found.value for found in spectral]),
        **with_output("weight_spectral_norm_error", [found.error for found in spectral]),
        **with_output("weight_stable_rank", [_ratio(n, s.value) ** 2 for n, s in zip(norms, spectral, strict=True)]),
    }


def _spectral_norm(weight: Float[Array, "fan_in fan_out"]) -> Estimate:
    if min(weight.shape) <= EXACT_UP_TO:
        return Estimate(spectra.singular_values(weight)[0], jnp.zeros(()))
    return spectra.lanczos_largest_singular_value(
        lambda v: weight @ v, lambda u: u @ weight, weight.shape, jax.random.key(_PROBE_SEED), VECTORS, STEPS
    )


def _ratio(norm: Float[Array, ""], spectral: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(spectral > 0, norm / jnp.where(spectral > 0, spectral, 1), 0)


def _outputs(scene: Scene) -> dict[str, Output]:
    exact = [min(scene.params[layer.weight].shape) <= EXACT_UP_TO for layer in scene.layers]
    estimate = f"Lanczos, {VECTORS} Rademacher vectors × {STEPS} steps, from below"
    spectral = "; ".join(f"layer {i}: {'exact SVD' if e else estimate}" for i, e in enumerate(exact, start=1))
    labels = {
        "weight_norm": ("Frobenius norm of the weights", "exact"),
        "weight_std": ("standard deviation of the weights", "exact, the mean taken off"),
        "weight_spectral_norm": ("largest singular value of the weights", spectral),
        "weight_spectral_norm_error": ("how far below the largest singular value may be; 0 where exact", spectral),
        "weight_stable_rank": ("stable rank of the weights", f"‖W‖_F²/‖W‖₂², 0 where W is; ‖W‖₂ by {spectral}"),
    }
    return {
        output: label
        for name, (text, method) in labels.items()
        for output, label in with_output_labels(
            name, Output(("layer",), text, attrs={"examples": 0, "method": method})
        ).items()
    }


weights = Probe(
    name="weights",
    measure=_measure,
    outputs=_outputs,
    source="Rudelson & Vershynin (2007), Sampling from large matrices: stable rank",
)
