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
from glorot_jax.probes.probe import EXACT_UP_TO, SINGULAR_VALUE_BINS, Output, Probe, Scene
from glorot_jax.rounding import mean, norm, share_below, times

VECTORS, STEPS = 4, 20
_PROBE_SEED = 0


def _measure(scene: Scene) -> dict[str, Array]:
    layers = [_exact(scene, layer) or _estimated(scene, layer) for layer in scene.hidden]
    return {name: jnp.stack([found[name] for found in layers]) for name in layers[0]}


def _exact(scene: Scene, layer: LayerPoints) -> dict[str, Array] | None:
    if layer.activation not in scene.singular_values:
        return None
    values = scene.singular_values[layer.activation]
    found = jax.vmap(partial(spectra.summary, longer_side=max(scene.params[layer.weight].shape)))(values)
    rms = _rms(found.rms)
    inside, outside = density(share_below(values, _scaled(rms)), SINGULAR_VALUE_BINS)
    return {
        "jacobian_rms_singular_value": rms,
        "jacobian_median_singular_value": mean(found.median),
        "jacobian_median_singular_value_error": jnp.zeros(()),
        "jacobian_min_singular_value": mean(found.minimum),
        "jacobian_max_singular_value": mean(found.maximum),
        "jacobian_max_singular_value_error": jnp.zeros(()),
        "jacobian_condition": mean(found.condition),
        "jacobian_log_mean_singular_value": mean(found.log_mean),
        "jacobian_singular_value_histogram": inside,
        "jacobian_singular_value_histogram_outside": outside,
    }


def _estimated(scene: Scene, layer: LayerPoints) -> dict[str, Array]:
    weight, slopes = scene.params[layer.weight], scene.slopes[layer.activation]
    columns = jax.vmap(norm)(weight.T)
    frobenius = jax.vmap(lambda f: norm(times(f, columns)))(slopes)
    rms = _rms(frobenius) * np.float32(min(weight.shape) ** -0.5)
    edges = _scaled(rms)

    def one(example: tuple[Array, Array]) -> spectra.LanczosSummary:
        slope, frobenius = example
        return spectra.lanczos_summary(
            lambda v: slope * (v @ weight),
            lambda u: weight @ (slope * u),
            (weight.shape[1], weight.shape[0]),
            jax.random.key(_PROBE_SEED),
            edges,
            vectors=VECTORS,
            steps=STEPS,
            frobenius=frobenius,
        )

    found = jax.lax.map(one, (slopes, frobenius))
    inside, outside = density(mean(found.share_below.T), SINGULAR_VALUE_BINS)
    unknown = jnp.full((), jnp.nan)
    # The examples share their probe vectors, so their errors may add up instead of averaging out.
    return {
        "jacobian_rms_singular_value": rms,
        "jacobian_median_singular_value": mean(found.median.value),
        "jacobian_median_singular_value_error": mean(found.median.error),
        "jacobian_min_singular_value": unknown,
        "jacobian_max_singular_value": mean(found.maximum.value),
        "jacobian_max_singular_value_error": mean(found.maximum.error),
        "jacobian_condition": unknown,
        "jacobian_log_mean_singular_value": unknown,
        "jacobian_singular_value_histogram": inside,
        "jacobian_singular_value_histogram_outside": outside,
    }


def _rms(values: Float[Array, "n"]) -> Float[Array, ""]:
    return norm(values) * np.float32(values.size**-0.5)


def _scaled(rms: Float[Array, ""]) -> Float[Array, "edges"]:
    return jnp.where(rms > 0, rms, 1) * SINGULAR_VALUE_BINS.edges


def _outputs(scene: Scene) -> dict[str, Output]:
    exact = [min(scene.params[layer.weight].shape) <= EXACT_UP_TO for layer in scene.hidden]
    lanczos = f"Lanczos quadrature, {VECTORS} Rademacher vectors × {STEPS} steps"

    def by_layer(otherwise: str) -> str:
        return "; ".join(f"layer {i}: {'exact SVD' if e else otherwise}" for i, e in enumerate(exact, start=1))

    beyond = by_layer("NaN, products can't tell")
    resolution = "values below √(longer side) 2⁻²³ of the largest count as 0"
    bins = f"over jacobian_rms_singular_value (over 1 where that is 0); {by_layer(f'{lanczos}, without an error')}"
    labels = {
        "rms_singular_value": ("root mean square singular value", "exact, ‖J‖_F; root of the examples' mean square"),
        "median_singular_value": ("median singular value", by_layer(lanczos)),
        "median_singular_value_error": ("half-width of what the median may be; 0 where exact", by_layer(lanczos)),
        "min_singular_value": ("smallest singular value", f"{beyond}; {resolution}"),
        "max_singular_value": ("largest singular value", by_layer(f"{lanczos}, from below")),
        "max_singular_value_error": (
            "how far below the largest singular value may be",
            by_layer(f"{lanczos}, guessed"),
        ),
        "condition": ("condition number", f"{beyond}; {resolution}: ∞ then, NaN where all are 0"),
        "log_mean_singular_value": (
            "mean natural logarithm of the singular values",
            f"{beyond}; {resolution}: −∞ then",
        ),
    }
    attrs = {"examples": scene.jacobian_examples}
    found = {
        f"jacobian_{name}": Output(
            ("layer",),
            f"{text}, layer Jacobian ∂z^i/∂z^(i−1)",
            attrs=attrs | {"method": f"mean over examples; {method}"},
        )
        for name, (text, method) in labels.items()
    }
    attrs |= {"method": f"pooled over examples, {bins}", "bin_width": SINGULAR_VALUE_BINS.width}
    text = "singular values of the layer Jacobian over their root mean square"
    found["jacobian_singular_value_histogram"] = Output(
        ("layer", "singular_value_bin"), f"density of the {text}", attrs=attrs
    )
    found["jacobian_singular_value_histogram_outside"] = Output(
        ("layer",), f"share outside all bins of the {text}", attrs=attrs
    )
    return found


jacobian_spectra = Probe(
    name="jacobian_spectra",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), equation 17; Saxe et al. (2013), arXiv:1312.6120; Golub & Meurant (2010), "
    "Matrices, moments and quadrature",
)
