"""How a layer's activations are spread: the quantities of the paper's Figures 2, 3 and 10."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from glorot_jax.probes.probe import QUANTILES, Output, Scene, by_method, forward_with_values
from glorot_jax.rounding import mean, quantile, std

MOMENTS_EXAMPLES = 100
"""Of the fixed examples, so many first ones are enough for moments alone: a tenth of what 100 updates take."""


def _measure(method: str, scene: Scene) -> dict[str, Array]:
    if method == "moments":
        values = forward_with_values(scene.module, scene.inputs[:MOMENTS_EXAMPLES])[1]
    else:
        values = scene.values
    layers = [values[layer.activation] for layer in scene.hidden]
    found = {
        "activation_mean": jnp.stack([mean(z.ravel()) for z in layers]),
        "activation_std": jnp.stack([std(z) for z in layers]),
    }
    if method != "moments":
        found["activation_quantile"] = jnp.stack([quantile(z, QUANTILES) for z in layers])
    return found


def _outputs(method: str, scene: Scene) -> dict[str, Output]:
    examples = min(MOMENTS_EXAMPLES, scene.examples) if method == "moments" else scene.examples
    attrs = {"examples": examples, "method": "pooled over a layer's units and fixed test examples"}
    labels = {
        "activation_mean": Output(("layer",), "mean activation", attrs=attrs),
        "activation_std": Output(("layer",), "standard deviation of the activations", attrs=attrs),
        "activation_quantile": Output(("layer", "quantile"), "quantile of the activations", attrs=attrs),
    }
    return {name: label for name, label in labels.items() if method != "moments" or "quantile" not in name}


activations = by_method(
    "activations",
    _measure,
    _outputs,
    "Glorot & Bengio (2010), section 3 and Figures 2, 3 and 10: 300 fixed test examples",
)
