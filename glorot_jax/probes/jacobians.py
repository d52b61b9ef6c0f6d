"""Singular values of the layer Jacobians J^i = ∂z^i/∂z^{i−1} (equation 17 with the layer's own number)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.probe import EXACT_UP_TO, Output, Probe, Scene
from glorot_jax.rounding import mean, times

VECTORS, STEPS = 4, 20
_PROBE_SEED = 0


def _measure(scene: Scene) -> dict[str, Array]:
    layers = [_mean_and_error(scene, layer) for layer in scene.hidden]
    return {
        "jacobian_mean_singular_value": jnp.stack([mean for mean, _ in layers]),
        "jacobian_mean_singular_value_error": jnp.stack([error for _, error in layers]),
    }


def _mean_and_error(scene: Scene, layer: LayerPoints) -> tuple[Array, Array]:
    weight = scene.params[layer.weight]
    slopes = scene.slopes[layer.activation]
    if layer.activation in scene.singular_values:
        average = mean(mean(scene.singular_values[layer.activation]))
        return average, jnp.zeros_like(average)
    values, errors = jax.lax.map(lambda f: _estimate(weight, f), slopes)
    # The examples share their probe vectors, so their errors may add up instead of averaging out.
    return mean(values), mean(errors)


def _estimate(weight: Float[Array, "fan_in fan_out"], slope: Float[Array, "fan_out"]) -> tuple[Array, Array]:
    return spectra.lanczos_mean_singular_value(
        lambda v: slope * (v @ weight),
        lambda u: weight @ (slope * u),
        (weight.shape[1], weight.shape[0]),
        jax.random.key(_PROBE_SEED),
        vectors=VECTORS,
        steps=STEPS,
        frobenius=jnp.sqrt(jnp.sum(times(slope**2, jnp.sum(times(weight, weight), axis=0)))),
    )


def _outputs(scene: Scene) -> dict[str, Output]:
    exact = [min(scene.params[layer.weight].shape) <= EXACT_UP_TO for layer in scene.hidden]
    estimate = f"Lanczos quadrature, {VECTORS} Rademacher vectors × {STEPS} steps, control variate ‖J‖_F"
    attrs = {
        "examples": scene.jacobian_examples,
        "method": "; ".join(f"layer {i}: {'exact SVD' if e else estimate}" for i, e in enumerate(exact, start=1)),
    }
    return {
        "jacobian_mean_singular_value": Output(
            ("layer",), "mean singular value of the layer Jacobian ∂z^i/∂z^(i−1)", attrs=attrs
        ),
        "jacobian_mean_singular_value_error": Output(
            ("layer",), "half-width of the 95 % interval of the mean singular value; 0 where exact", attrs=attrs
        ),
    }


jacobians = Probe(
    name="jacobians",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), section 4.2.2, equation 17: mean singular value of the layer Jacobians",
)
