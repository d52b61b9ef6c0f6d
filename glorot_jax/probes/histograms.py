"""Normalized histograms of activations and back-propagated gradients: the paper's Figures 4, 6 and 7."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glorot_jax.probes.probe import (
    ACTIVATION_BINS,
    GRADIENT_BINS,
    QUANTILES,
    Bins,
    Output,
    Probe,
    Scene,
    with_output,
    with_output_labels,
)
from glorot_jax.rounding import norm, quantile, share_below


def _measure(scene: Scene) -> dict[str, Array]:
    activations = [
        density(share_below(scene.values[z.activation], ACTIVATION_BINS.edges), ACTIVATION_BINS) for z in scene.hidden
    ]
    errors = [scene.gradients[layer.preactivation] for layer in scene.layers]
    rms = [norm(e) * np.float32(e.size**-0.5) for e in errors]
    gradients = [
        density(share_below(e, jnp.where(r > 0, r, 1) * GRADIENT_BINS.edges), GRADIENT_BINS)
        for e, r in zip(errors, rms, strict=True)
    ]
    return {
        "activation_histogram": jnp.stack([inside for inside, _ in activations]),
        "activation_histogram_outside": jnp.stack([outside for _, outside in activations]),
        **with_output("gradient_rms", rms),
        **with_output("gradient_histogram", [inside for inside, _ in gradients]),
        **with_output("gradient_histogram_outside", [outside for _, outside in gradients]),
        **with_output("gradient_quantile", [quantile(e, QUANTILES) for e in errors]),
    }


def density(below: Float[Array, "edges"], bins: Bins) -> tuple[Float[Array, "bins"], Float[Array, ""]]:
    """Returns density and share outside from the share below each edge; with the bins' width they add up to 1."""
    return jnp.diff(below) * np.float32(bins.per_unit), 1 - (below[-1] - below[0])


def _outputs(scene: Scene) -> dict[str, Output]:
    pooled = "pooled over a layer's units and fixed test examples"
    attrs = {"examples": scene.examples, "method": f"example by example, {pooled}"}
    back = "back-propagated gradients ∂C/∂s"
    return {
        "activation_histogram": Output(
            ("layer", "activation_bin"), "density of the activations", attrs=_counted(scene, ACTIVATION_BINS, pooled)
        ),
        "activation_histogram_outside": Output(
            ("layer",), "share of the activations outside all bins", attrs=_counted(scene, ACTIVATION_BINS, pooled)
        ),
        **with_output_labels("gradient_rms", Output(("layer",), f"root mean square of the {back}", attrs=attrs)),
        **with_output_labels(
            "gradient_histogram",
            Output(
                ("layer", "gradient_bin"),
                f"density of the {back} over their root mean square",
                attrs=_counted(scene, GRADIENT_BINS, _RELATIVE.format(pooled)),
            ),
        ),
        **with_output_labels(
            "gradient_histogram_outside",
            Output(
                ("layer",),
                f"share of the {back} outside all bins",
                attrs=_counted(scene, GRADIENT_BINS, _RELATIVE.format(pooled)),
            ),
        ),
        **with_output_labels(
            "gradient_quantile", Output(("layer", "quantile"), f"quantile of the {back}", attrs=attrs)
        ),
    }


_RELATIVE = "relative to gradient_rms of the layer (to 1 where that is 0), example by example, {}"


def _counted(scene: Scene, bins: Bins, method: str) -> dict[str, object]:
    return {"examples": scene.examples, "method": f"counted, {method}", "bin_width": bins.width}


histograms = Probe(
    name="histograms",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), Figures 4, 6 and 7: 300 fixed test examples",
)
