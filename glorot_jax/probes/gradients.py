"""How back-propagated and weight gradients are spread: the quantities of the paper's Figures 7, 8 and 9."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax.probes.probe import Output, Probe, Scene
from glorot_jax.rounding import mean, mean_square, std, times


def _measure(scene: Scene) -> dict[str, Array]:
    errors = [scene.gradients[layer.preactivation] for layer in scene.layers]
    inputs = [scene.values[layer.source] for layer in scene.layers]
    back = jnp.stack([std(e) for e in errors])
    weight = jnp.stack([_outer_std(z, e) for z, e in zip(inputs, errors, strict=True)])
    return {
        "gradient_std": back[:-1],
        "output_gradient_std": back[-1],
        "weight_gradient_std": weight[:-1],
        "output_weight_gradient_std": weight[-1],
    }


def _outer_std(z: Float[Array, "n fan_in"], e: Float[Array, "n fan_out"]) -> Float[Array, ""]:
    """Standard deviation over all entries and examples of z_n e_nᵀ, without forming any of them (equation 3).

    Mean and mean square of an outer product are products of its factors' means and mean squares.
    """
    average = mean(times(mean(z), mean(e)))
    root = jnp.sqrt(mean(times(mean_square(z), mean_square(e))))
    return jnp.sqrt(jnp.maximum((root - average) * (root + average), 0.0))


def _outputs(scene: Scene) -> dict[str, Output]:
    attrs = {"examples": scene.examples, "method": "example by example, pooled over entries and fixed test examples"}
    back = "standard deviation of the back-propagated gradients ∂C/∂s"
    weight = "standard deviation of the weight gradients ∂C/∂W"
    return {
        "gradient_std": Output(("layer",), back, attrs=attrs),
        "output_gradient_std": Output((), f"{back}, output layer", attrs=attrs),
        "weight_gradient_std": Output(("layer",), weight, attrs=attrs),
        "output_weight_gradient_std": Output((), f"{weight}, output layer", attrs=attrs),
    }


gradients = Probe(
    name="gradients",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), equations 2 and 3, Figures 7, 8 and 9",
)
