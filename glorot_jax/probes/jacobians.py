"""Singular values of the layer Jacobians J^i = ∂z^i/∂z^{i−1} (equation 17 with the layer's own number)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.jacobian_methods import DECOMPOSITIONS, PROBE_SEED, SAID, STEPS, VECTORS, by_layer, chosen
from glorot_jax.probes.probe import Output, Probe, Scene
from glorot_jax.rounding import mean, times


def _measure(method: str, scene: Scene) -> dict[str, Array]:
    layers = [_mean_and_error(method, scene, layer) for layer in scene.hidden]
    return {
        "jacobian_mean_singular_value": jnp.stack([mean for mean, _ in layers]),
        "jacobian_mean_singular_value_error": jnp.stack([error for _, error in layers]),
    }


def _mean_and_error(method: str, scene: Scene, layer: LayerPoints) -> tuple[Array, Array]:
    name = chosen(method, scene, layer)
    if name == "exact":
        average = mean(mean(scene.jacobian_decomposed(layer, DECOMPOSITIONS[name])))
        return average, jnp.zeros_like(average)
    # The examples share their probe vectors, or rounding of one kind, so their errors may add up instead of averaging
    # out.
    if name == "gram":
        values, errors = scene.jacobian_decomposed(layer, DECOMPOSITIONS[name])
        return mean(mean(values)), mean(mean(errors))
    weight = scene.params[layer.weight]
    values, errors = jax.lax.map(lambda f: _estimate(weight, f), scene.slopes[layer.activation])
    return mean(values), mean(errors)


def _estimate(weight: Float[Array, "fan_in fan_out"], slope: Float[Array, "fan_out"]) -> tuple[Array, Array]:
    return spectra.lanczos_mean_singular_value(
        lambda v: slope * (v @ weight),
        lambda u: weight @ (slope * u),
        (weight.shape[1], weight.shape[0]),
        jax.random.key(PROBE_SEED),
        vectors=VECTORS,
        steps=STEPS,
        frobenius=jnp.sqrt(jnp.sum(times(slope**2, jnp.sum(times(weight, weight), axis=0)))),
    )


def _outputs(method: str, scene: Scene) -> dict[str, Output]:
    said = by_layer(method, scene, lanczos=f"{SAID['lanczos']}, control variate ‖J‖_F")
    attrs = {"examples": scene.jacobian_examples, "method": said}
    half = (
        "half-width of the 95 % interval of the mean singular value; 0 where exact, rounding's bound by the Gram matrix"
    )
    return {
        "jacobian_mean_singular_value": Output(
            ("layer",), "mean singular value of the layer Jacobian ∂z^i/∂z^(i−1)", attrs=attrs
        ),
        "jacobian_mean_singular_value_error": Output(("layer",), half, attrs=attrs),
    }


def _by(method: str) -> Probe:
    return Probe(
        name="jacobians",
        measure=partial(_measure, method),
        outputs=partial(_outputs, method),
        source="Glorot & Bengio (2010), section 4.2.2, equation 17: mean singular value of the layer Jacobians",
        by=_by,
    )


jacobians = _by("auto")
