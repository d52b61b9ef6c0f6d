"""How back-propagated and weight gradients are spread: the quantities of the paper's Figures 7, 8 and 9."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax.probes.probe import (
    Output,
    Probe,
    Scene,
    by_weight,
    by_weight_labels,
    with_output,
    with_output_labels,
)
from glorot_jax.rounding import mean, mean_square, std, times


def _measure(scene: Scene) -> dict[str, Array]:
    errors = [scene.gradients[layer.preactivation] for layer in scene.layers]
    return {
        **with_output(scene, "gradient_std", [std(e) for e in errors]),
        **by_weight(scene, "weight_gradient_std", _of_outer_products(scene) if scene.dense else _of_examples(scene)),
    }


def _of_outer_products(scene: Scene) -> dict[str, Array]:
    return {
        str(at.weight): _outer_std(scene.values[at.source], scene.gradients[at.preactivation]) for at in scene.layers
    }


def _of_examples(scene: Scene) -> dict[str, Array]:
    """Of gradients made one example after the other, whose means and mean squares are all that is kept."""
    weights = {path: scene.params[path] for path in scene.weights}

    def moments(example: tuple[Array, Array]) -> dict[str, tuple[Array, Array]]:
        gradient = jax.grad(scene.example_cost)(weights, *example)
        return {path: (mean(g.ravel()), mean_square(g.ravel())) for path, g in gradient.items()}

    found = jax.lax.map(moments, (scene.inputs, scene.labels))
    return {path: _spread(mean(average), jnp.sqrt(mean(square))) for path, (average, square) in found.items()}


def _outer_std(z: Float[Array, "n fan_in"], e: Float[Array, "n fan_out"]) -> Float[Array, ""]:
    """Standard deviation over all entries and examples of z_n e_nᵀ, without forming any of them (equation 3).

    Mean and mean square of an outer product are products of its factors' means and mean squares.
    """
    average = mean(times(mean(z), mean(e)))
    return _spread(average, jnp.sqrt(mean(times(mean_square(z), mean_square(e)))))


def _spread(average: Float[Array, ""], root: Float[Array, ""]) -> Float[Array, ""]:
    """Standard deviation of values of this mean and root mean square."""
    return jnp.sqrt(jnp.maximum((root - average) * (root + average), 0.0))


def _outputs(scene: Scene) -> dict[str, Output]:
    attrs = {"examples": scene.examples, "method": "example by example, pooled over entries and fixed test examples"}
    back = "standard deviation of the back-propagated gradients ∂C/∂s"
    weight = "standard deviation of the weight gradients ∂C/∂W"
    return {
        **with_output_labels(scene, "gradient_std", Output(("layer",), back, attrs=attrs)),
        **by_weight_labels(scene, "weight_gradient_std", Output(("layer",), weight, attrs=attrs)),
    }


gradients = Probe(
    name="gradients",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), equations 2 and 3, Figures 7, 8 and 9",
    any_depth=True,
)
