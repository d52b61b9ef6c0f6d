"""How a layer's activations are spread: the quantities of the paper's Figures 2, 3 and 10."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from glorot_jax.probes.probe import QUANTILES, Output, Probe, Scene
from glorot_jax.rounding import mean, quantile, std


def _measure(scene: Scene) -> dict[str, Array]:
    layers = [scene.values[layer.activation] for layer in scene.hidden]
    return {
        "activation_mean": jnp.stack([mean(z.ravel()) for z in layers]),
        "activation_std": jnp.stack([std(z) for z in layers]),
        "activation_quantile": jnp.stack([quantile(z, QUANTILES) for z in layers]),
    }


def _outputs(scene: Scene) -> dict[str, Output]:
    attrs = {"examples": scene.examples, "method": "pooled over a layer's units and fixed test examples"}
    return {
        "activation_mean": Output(("layer",), "mean activation", attrs=attrs),
        "activation_std": Output(("layer",), "standard deviation of the activations", attrs=attrs),
        "activation_quantile": Output(("layer", "quantile"), "quantile of the activations", attrs=attrs),
    }


activations = Probe(
    name="activations",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), section 3 and Figures 2, 3 and 10: 300 fixed test examples",
)
