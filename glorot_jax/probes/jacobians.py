"""Singular values of the layer Jacobians J^i = ∂z^i/∂z^{i−1} (equation 17 with the layer's own number)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from glorot_jax import spectra
from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.jacobian_methods import (
    PROBE_SEED,
    SAID,
    STEPS,
    VECTORS,
    Jacobian,
    by_example,
    by_layer,
    chosen,
    decomposed,
    of_layer,
)
from glorot_jax.probes.probe import Output, Scene, by_method
from glorot_jax.rounding import mean


def _measure(method: str, scene: Scene) -> dict[str, Array]:
    layers = [_mean_and_error(method, scene, layer) for layer in scene.hidden]
    return {
        "jacobian_mean_singular_value": jnp.stack([mean for mean, _ in layers]),
        "jacobian_mean_singular_value_error": jnp.stack([error for _, error in layers]),
    }


def _mean_and_error(method: str, scene: Scene, layer: LayerPoints) -> tuple[Array, Array]:
    name = chosen(method, scene, layer)
    if name == "exact":
        average = mean(mean(decomposed(scene, layer, name)))
        return average, jnp.zeros_like(average)
    # The examples share their probe vectors, or rounding of one kind, so their errors may add up instead of averaging
    # out.
    if name == "gram":
        values, errors = decomposed(scene, layer, name)
        return mean(mean(values)), mean(mean(errors))
    jacobian = of_layer(scene, layer).products()
    values, errors = by_example(scene, layer, lambda example: _estimate(jacobian(example)))
    return mean(values), mean(errors)


def _estimate(jacobian: Jacobian) -> spectra.Estimate:
    return spectra.lanczos_mean_singular_value(
        jacobian.ahead,
        jacobian.back,
        jacobian.shape,
        jax.random.key(PROBE_SEED),
        vectors=VECTORS,
        steps=STEPS,
        frobenius=jacobian.frobenius,
    )


def _outputs(method: str, scene: Scene) -> dict[str, Output]:
    known = any(layer.weight is not None for layer in scene.hidden)
    said = by_layer(method, scene, lanczos=SAID["lanczos"] + (", control variate ‖J‖_F" if known else ""))
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


jacobians = by_method(
    "jacobians",
    _measure,
    _outputs,
    "Glorot & Bengio (2010), section 4.2.2, equation 17: mean singular value of the layer Jacobians",
)
