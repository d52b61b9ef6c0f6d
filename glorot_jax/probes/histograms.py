"""Histograms and quantiles of activations, back-propagated gradients and weight gradients: Figures 4, 6, 7 and 8."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
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
    by_weight,
    by_weight_labels,
    with_output,
    with_output_labels,
)
from glorot_jax.rounding import mean, norm, quantile, share_below, std


def _measure(scene: Scene) -> dict[str, Array]:
    activations = [
        density(share_below(scene.values[z.activation], ACTIVATION_BINS.edges), ACTIVATION_BINS) for z in scene.hidden
    ]
    each = _weight_gradients(scene)
    mean_back = [mean(jnp.moveaxis(scene.batch_gradients[at.preactivation], 0, -1)) for at in scene.layers]
    return {
        "activation_histogram": jnp.stack([inside for inside, _ in activations]),
        "activation_histogram_outside": jnp.stack([outside for _, outside in activations]),
        **_spread("gradient", [scene.gradients[at.preactivation] for at in scene.layers], partial(with_output, scene)),
        **_spread("weight_gradient", each, partial(_by_weight, scene)),
        **_by_weight(
            scene,
            "batch_gradient_quantile",
            [quantile(scene.batch_gradient[path], QUANTILES) for path in scene.weights],
        ),
        **with_output(scene, "batch_backpropagated_gradient_std", [std(e) for e in mean_back]),
        **with_output(scene, "batch_backpropagated_gradient_quantile", [quantile(e, QUANTILES) for e in mean_back]),
    }


def _by_weight(scene: Scene, name: str, values: list[Array]) -> dict[str, Array]:
    return by_weight(scene, name, dict(zip(scene.weights, values, strict=True)))


def _weight_gradients(scene: Scene) -> list[Float[Array, "jacobian_examples ..."]]:
    """∂C/∂W of each of the first ``jacobian_examples`` examples by itself."""
    weights = {path: scene.params[path] for path in scene.weights}
    first = scene.inputs[: scene.jacobian_examples], scene.labels[: scene.jacobian_examples]
    found = jax.lax.map(lambda one: jax.grad(scene.example_cost)(weights, *one), first)
    return [found[path] for path in scene.weights]


def _spread(name: str, layers: list[Array], placed: Callable[[str, list[Array]], dict[str, Array]]) -> dict[str, Array]:
    """Root mean square, histogram relative to it, and quantiles, by layer or weight as ``placed`` has it."""
    rms = [norm(g) * np.float32(g.size**-0.5) for g in layers]
    relative = [
        density(share_below(g, jnp.where(r > 0, r, 1) * GRADIENT_BINS.edges), GRADIENT_BINS)
        for g, r in zip(layers, rms, strict=True)
    ]
    return {
        **placed(f"{name}_rms", rms),
        **placed(f"{name}_histogram", [inside for inside, _ in relative]),
        **placed(f"{name}_histogram_outside", [outside for _, outside in relative]),
        **placed(f"{name}_quantile", [quantile(g, QUANTILES) for g in layers]),
    }


def density(below: Float[Array, "edges"], bins: Bins) -> tuple[Float[Array, "bins"], Float[Array, ""]]:
    """Returns density and share outside from the share below each edge; with the bins' width they add up to 1."""
    return jnp.diff(below) * np.float32(bins.per_unit), 1 - (below[-1] - below[0])


def _outputs(scene: Scene) -> dict[str, Output]:
    pooled = "pooled over a layer's units and fixed test examples"
    few = "pooled over a layer's weights and the first fixed test examples"
    counted = {"examples": scene.examples, "method": f"counted, {pooled}", "bin_width": ACTIVATION_BINS.width}
    batch = {"examples": len(scene.batch[1]), "method": "mean gradient of the run's next mini-batch"}
    back, weight = "back-propagated gradients ∂C/∂s", "weight gradients ∂C/∂W"
    mean_back = f"mini-batch's mean {back}"
    by_quantile = ("layer", "quantile")
    return {
        "activation_histogram": Output(("layer", "activation_bin"), "density of the activations", attrs=counted),
        "activation_histogram_outside": Output(("layer",), "share of the activations outside all bins", attrs=counted),
        **_spread_labels("gradient", back, scene.examples, pooled, partial(with_output_labels, scene)),
        **_spread_labels(
            "weight_gradient",
            weight,
            min(scene.examples, scene.jacobian_examples),
            few,
            partial(by_weight_labels, scene),
        ),
        **by_weight_labels(
            scene,
            "batch_gradient_quantile",
            Output(by_quantile, "quantile of the entries of the mini-batch's weight gradient", attrs=batch),
        ),
        **with_output_labels(
            scene,
            "batch_backpropagated_gradient_std",
            Output(("layer",), f"standard deviation over a layer's units of the {mean_back}", attrs=batch),
        ),
        **with_output_labels(
            scene,
            "batch_backpropagated_gradient_quantile",
            Output(by_quantile, f"quantile over a layer's units of the {mean_back}", attrs=batch),
        ),
    }


def _spread_labels(
    name: str, text: str, examples: int, pooled: str, placed: Callable[[str, Output], dict[str, Output]]
) -> dict[str, Output]:
    attrs = {"examples": examples, "method": f"example by example, {pooled}"}
    relative = f"relative to {name}_rms of the layer (to 1 where that is 0)"
    counted = {
        "examples": examples,
        "method": f"counted, {relative}, {attrs['method']}",
        "bin_width": GRADIENT_BINS.width,
    }
    binned, outside = f"density of the {text} over their root mean square", f"share of the {text} outside all bins"
    return {
        **placed(f"{name}_rms", Output(("layer",), f"root mean square of the {text}", attrs=attrs)),
        **placed(f"{name}_histogram", Output(("layer", "gradient_bin"), binned, attrs=counted)),
        **placed(f"{name}_histogram_outside", Output(("layer",), outside, attrs=counted)),
        **placed(f"{name}_quantile", Output(("layer", "quantile"), f"quantile of the {text}", attrs=attrs)),
    }


histograms = Probe(
    name="histograms",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), Figures 4, 6, 7 and 8: 300 fixed test examples",
    any_depth=True,
)
