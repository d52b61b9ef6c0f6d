"""All singular values of the layer Jacobians ∂z^i/∂z^(i−1): extremes, median, condition, histogram."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.histograms import density
from glorot_jax.probes.jacobian_methods import (
    PROBE_SEED,
    STEPS,
    VECTORS,
    by_example,
    by_layer,
    chosen,
    decomposed,
    known_rms,
    of_layer,
)
from glorot_jax.probes.probe import SINGULAR_VALUE_BINS, Output, Scene, by_method
from glorot_jax.rounding import mean, norm, share_below


def _measure(method: str, scene: Scene) -> dict[str, Array]:
    ways = {"exact": _exact, "gram": _gram, "lanczos": _estimated}
    layers = [ways[chosen(method, scene, layer)](scene, layer) for layer in scene.hidden]
    return {name: jnp.stack([found[name] for found in layers]) for name in layers[0]}


def _exact(scene: Scene, layer: LayerPoints) -> dict[str, Array]:
    values = decomposed(scene, layer, "exact")
    found = jax.vmap(partial(spectra.summary, longer_side=max(of_layer(scene, layer).shape)))(values)
    rms = _rms(found.rms)
    inside, outside = density(share_below(values, _scaled(rms)), SINGULAR_VALUE_BINS)
    return {
        "jacobian_rms_singular_value": rms,
        "jacobian_rms_singular_value_error": jnp.zeros(()),
        "jacobian_median_singular_value": mean(found.median),
        "jacobian_median_singular_value_error": jnp.zeros(()),
        "jacobian_min_singular_value": mean(found.minimum),
        "jacobian_max_singular_value": mean(found.maximum),
        "jacobian_max_singular_value_error": jnp.zeros(()),
        "jacobian_condition": mean(found.condition),
        "jacobian_log_mean_singular_value": mean(found.log_mean),
        "jacobian_singular_value_histogram": inside,
        "jacobian_singular_value_histogram_error": jnp.zeros_like(inside),
        "jacobian_singular_value_histogram_outside": outside,
        "jacobian_singular_value_share_error": jnp.zeros_like(inside),
    }


def _gram(scene: Scene, layer: LayerPoints) -> dict[str, Array]:
    values, errors = decomposed(scene, layer, "gram")
    found = jax.vmap(spectra.gram_summary)(values, errors)
    rms = _rms(found.rms)
    edges = _scaled(rms)
    below = share_below(values, edges)
    inside, outside = density(below, SINGULAR_VALUE_BINS)
    near = share_below(values - errors, edges) - share_below(values + errors, edges)
    return {
        "jacobian_rms_singular_value": rms,
        "jacobian_rms_singular_value_error": jnp.zeros(()),
        "jacobian_median_singular_value": mean(found.median.value),
        "jacobian_median_singular_value_error": mean(found.median.error),
        "jacobian_min_singular_value": mean(found.minimum),
        "jacobian_max_singular_value": mean(found.maximum.value),
        "jacobian_max_singular_value_error": mean(found.maximum.error),
        "jacobian_condition": mean(found.condition),
        "jacobian_log_mean_singular_value": mean(found.log_mean),
        "jacobian_singular_value_histogram": inside,
        "jacobian_singular_value_histogram_error": (near[1:] + near[:-1]) * np.float32(SINGULAR_VALUE_BINS.per_unit),
        "jacobian_singular_value_histogram_outside": outside,
        "jacobian_singular_value_share_error": near[1:],
    }


def _estimated(scene: Scene, layer: LayerPoints) -> dict[str, Array]:
    jacobian = of_layer(scene, layer).products()
    each = by_example(scene, layer, lambda example: jacobian(example).rms())
    rms = _rms(each.value)
    edges = _scaled(rms)

    def one(example: Array) -> spectra.LanczosSummary:
        it = jacobian(example)
        return spectra.lanczos_summary(
            it.ahead,
            it.back,
            it.shape,
            jax.random.key(PROBE_SEED),
            edges,
            vectors=VECTORS,
            steps=STEPS,
            frobenius=it.frobenius,
        )

    found = by_example(scene, layer, one)
    # The examples share their probe vectors, so their errors may add up instead of averaging out.
    shares = jax.tree.map(lambda v: mean(v.T), found.shares)
    inside, outside = density(shares.below.value, SINGULAR_VALUE_BINS)
    unknown = jnp.full((), jnp.nan)
    return {
        "jacobian_rms_singular_value": rms,
        "jacobian_rms_singular_value_error": mean(each.error),
        "jacobian_median_singular_value": mean(found.median.value),
        "jacobian_median_singular_value_error": mean(found.median.error),
        "jacobian_min_singular_value": unknown,
        "jacobian_max_singular_value": mean(found.maximum.value),
        "jacobian_max_singular_value_error": mean(found.maximum.error),
        "jacobian_condition": unknown,
        "jacobian_log_mean_singular_value": unknown,
        "jacobian_singular_value_histogram": inside,
        "jacobian_singular_value_histogram_error": shares.between.error * np.float32(SINGULAR_VALUE_BINS.per_unit),
        "jacobian_singular_value_histogram_outside": outside,
        "jacobian_singular_value_share_error": shares.below.error[1:],
    }


def _rms(values: Float[Array, "n"]) -> Float[Array, ""]:
    return norm(values) * np.float32(values.size**-0.5)


def _scaled(rms: Float[Array, ""]) -> Float[Array, "edges"]:
    return jnp.where(rms > 0, rms, 1) * SINGULAR_VALUE_BINS.edges


def _outputs(method: str, scene: Scene) -> dict[str, Output]:
    said = partial(by_layer, method, scene)
    found = said()
    rms = known_rms(scene, scene.hidden, method)
    beyond = said(lanczos="NaN, products can't tell")
    resolution = "by SVD, values below √(longer side) 2⁻²³ of the largest count as 0"
    gram = "by the Gram matrix NaN where the smallest is below the root of that share of the largest"
    over = "over jacobian_rms_singular_value (over 1 where that is 0)"
    labels = {
        "rms_singular_value": ("root mean square singular value", f"{rms}; root of the examples' mean square"),
        "rms_singular_value_error": ("half-width of the 95 % interval of the rms singular value; 0 where exact", rms),
        "median_singular_value": ("median singular value", found),
        "median_singular_value_error": ("half-width of what the median may be; 0 where exact", found),
        "min_singular_value": ("smallest singular value", f"{beyond}; {resolution}, {gram}"),
        "max_singular_value": ("largest singular value", found),
        "max_singular_value_error": (
            "how far off the largest singular value may be",
            said(lanczos="guessed of an estimate from below"),
        ),
        "condition": ("condition number", f"{beyond}; {resolution}: ∞ then, NaN where all are 0; {gram}"),
        "log_mean_singular_value": (
            "mean natural logarithm of the singular values",
            f"{beyond}; {resolution}: −∞ then; {gram}",
        ),
    }
    attrs = {"examples": scene.jacobian_examples}
    made = {
        f"jacobian_{name}": Output(
            ("layer",),
            f"{text}, layer Jacobian ∂z^i/∂z^(i−1)",
            attrs=attrs | {"method": f"mean over examples; {how}"},
        )
        for name, (text, how) in labels.items()
    }
    attrs |= {"method": f"pooled over examples, {over}; {found}", "bin_width": SINGULAR_VALUE_BINS.width}
    text = "singular values of the layer Jacobian over their root mean square"
    binned = ("layer", "singular_value_bin")
    may_be = "half-width of what the {} may be; 0 where exact"
    return made | {
        "jacobian_singular_value_histogram": Output(binned, f"density of the {text}", attrs=attrs),
        "jacobian_singular_value_histogram_error": Output(binned, may_be.format(f"density of the {text}"), attrs=attrs),
        "jacobian_singular_value_histogram_outside": Output(
            ("layer",), f"share outside all bins of the {text}", attrs=attrs
        ),
        "jacobian_singular_value_share_error": Output(
            binned, may_be.format(f"share below the bin's upper end of the {text}"), attrs=attrs
        ),
    }


jacobian_spectra = by_method(
    "jacobian_spectra",
    _measure,
    _outputs,
    "Glorot & Bengio (2010), equation 17; Saxe et al. (2013), arXiv:1312.6120; Golub & Meurant (2010), "
    "Matrices, moments and quadrature",
)
