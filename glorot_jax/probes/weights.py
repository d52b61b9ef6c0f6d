"""How large a layer's weights are: norms, standard deviation, stable rank."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.probes.probe import EXACT_UP_TO, Output, Probe, Scene, by_weight, by_weight_labels, told_by_layer
from glorot_jax.rounding import norm, std
from glorot_jax.spectra import Estimate

VECTORS, STEPS = 2, 30
_PROBE_SEED = 1


def _measure(scene: Scene) -> dict[str, Array]:
    weights = {path: scene.params[path] for path in scene.weights}
    norms = {path: norm(w) for path, w in weights.items()}
    spectral = {path: _spectral_norm(_matrix(w)) for path, w in weights.items()}
    ranks = {path: _ratio(norms[path], found.value) ** 2 for path, found in spectral.items()}
    return {
        **by_weight(scene, "weight_norm", norms),
        **by_weight(scene, "weight_std", {path: std(w) for path, w in weights.items()}),
        **by_weight(scene, "weight_spectral_norm", {path: found.value for path, found in spectral.items()}),
        **by_weight(scene, "weight_spectral_norm_error", {path: found.error for path, found in spectral.items()}),
        **by_weight(scene, "weight_stable_rank", ranks),
    }


def _matrix(weight: Float[Array, "... fan_out"]) -> Float[Array, "fan_in fan_out"]:
    """A kernel of more dimensions as the matrix that acts on one receptive field."""
    return weight.reshape(-1, weight.shape[-1])


def _spectral_norm(weight: Float[Array, "fan_in fan_out"]) -> Estimate:
    if min(weight.shape) <= EXACT_UP_TO:
        return Estimate(spectra.singular_values(weight)[0], jnp.zeros(()))
    return spectra.lanczos_largest_singular_value(
        lambda v: weight @ v, lambda u: u @ weight, weight.shape, jax.random.key(_PROBE_SEED), VECTORS, STEPS
    )


def _ratio(norm: Float[Array, ""], spectral: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(spectral > 0, norm / jnp.where(spectral > 0, spectral, 1), 0)


def _outputs(scene: Scene) -> dict[str, Output]:
    exact = [min(_matrix(scene.params[path]).shape) <= EXACT_UP_TO for path in scene.weights]
    estimate = f"Lanczos, {VECTORS} Rademacher vectors × {STEPS} steps, from below"
    ways = ["exact SVD" if e else estimate for e in exact]
    if scene.dense:
        spectral = told_by_layer(ways[:-1], ways[-1])
    else:
        spectral = "; ".join(f"{name}: {way}" for name, way in zip(scene.weights, ways, strict=True))
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
        for output, label in by_weight_labels(
            scene, name, Output(("layer",), text, attrs={"examples": 0, "method": method})
        ).items()
    }


weights = Probe(
    name="weights",
    measure=_measure,
    outputs=_outputs,
    source="Rudelson & Vershynin (2007), Sampling from large matrices: stable rank",
    any_depth=True,
)
