"""Singular values of the Jacobian between two points of the network: dynamical isometry."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from glorot_jax import spectra
from glorot_jax.models.points import INPUT, OUTPUT
from glorot_jax.probes.jacobian_methods import PROBE_SEED, SAID, STEPS, VECTORS, Jacobian, between, usual
from glorot_jax.probes.probe import Output, Probe, Scene
from glorot_jax.rounding import mean

Pairs = dict[str, tuple[str, str, str]]
"""By the beginning of the records' names: source, target, and what the Jacobian is called."""


def _measure(method: str, pairs: Pairs, scene: Scene) -> dict[str, Array]:
    found = {}
    for name, (source, target, _) in pairs.items():
        how = _HOW[_way(method, scene, source, target)]
        inputs = scene.inputs[: scene.jacobian_examples]
        values = jax.lax.map(lambda x, s=source, t=target, h=how: h(between(scene, s, t, x)), inputs)
        found |= {f"{name}_{key}": mean(value) for key, value in values.items()}
    return found


def _exact(jacobian: Jacobian) -> dict[str, Array]:
    found = spectra.summary(spectra.singular_values(jacobian.matrix()), max(jacobian.shape))
    nothing = jnp.zeros(())
    return {
        "mean_singular_value": found.mean,
        "mean_singular_value_error": nothing,
        "rms_singular_value": found.rms,
        "rms_singular_value_error": nothing,
        "max_singular_value": found.maximum,
        "max_singular_value_error": nothing,
        "min_singular_value": found.minimum,
        "condition": found.condition,
        "log_mean_singular_value": found.log_mean,
    }


def _estimated(jacobian: Jacobian) -> dict[str, Array]:
    key = jax.random.key(PROBE_SEED)
    found = spectra.lanczos_summary(
        jacobian.ahead, jacobian.back, jacobian.shape, key, jnp.zeros(1), vectors=VECTORS, steps=STEPS
    )
    unknown = jnp.full((), jnp.nan)
    return {
        "mean_singular_value": found.mean.value,
        "mean_singular_value_error": found.mean.error,
        "rms_singular_value": found.rms.value,
        "rms_singular_value_error": found.rms.error,
        "max_singular_value": found.maximum.value,
        "max_singular_value_error": found.maximum.error,
        "min_singular_value": unknown,
        "condition": unknown,
        "log_mean_singular_value": unknown,
    }


_HOW = {"exact": _exact, "lanczos": _estimated}


def _way(method: str, scene: Scene, source: str, target: str) -> str:
    shape = between(scene, source, target, scene.inputs[0]).shape
    return usual(method, shape)


def _outputs(method: str, pairs: Pairs, scene: Scene) -> dict[str, Output]:
    found = {}
    for name, (source, target, text) in pairs.items():
        exact = _way(method, scene, source, target) == "exact"
        how = f"mean over examples; {SAID['exact' if exact else 'lanczos']} of J from products"
        beyond = how if exact else "NaN, products can't tell"
        resolution = "values below √(longer side) 2⁻²³ of the largest count as 0" if exact else ""
        labels = {
            "mean_singular_value": ("mean singular value", how),
            "mean_singular_value_error": ("half-width of the 95 % interval of the mean singular value", how),
            "rms_singular_value": ("root mean square singular value", how),
            "rms_singular_value_error": ("half-width of the 95 % interval of the rms singular value", how),
            "max_singular_value": ("largest singular value", how if exact else f"{how}, from below"),
            "max_singular_value_error": ("guess of how far below the largest singular value may be", how),
            "min_singular_value": ("smallest singular value", f"{beyond}; {resolution}"),
            "condition": ("condition number", f"{beyond}; {resolution}: ∞ then, NaN where all are 0"),
            "log_mean_singular_value": ("mean natural logarithm of the singular values", f"{beyond}; {resolution}"),
        }
        found |= {
            f"{name}_{key}": Output(
                (), f"{line} of {text}", attrs={"examples": scene.jacobian_examples, "method": said.removesuffix("; ")}
            )
            for key, (line, said) in labels.items()
        }
    return found


def between_points(source: str, target: str, method: str = "auto") -> Probe:
    """Returns the probe of ∂(value of ``target``)/∂(value of ``source``), two points that the network shows.

    Args:
        method: ``"exact"``, ``"lanczos"`` or ``"auto"``: exact up to a smaller side of ``EXACT_UP_TO``.
    """
    name = f"jacobian_{source}_{target}".replace(".", "_")
    pairs = {name: (source, target, f"∂({target})/∂({source})")}
    return Probe(
        name=name, measure=partial(_measure, method, pairs), outputs=partial(_outputs, method, pairs), source=_SOURCE
    )


def _usual_pairs(scene: Scene) -> Pairs:
    pairs = {"input_output": (INPUT, OUTPUT, "∂logits/∂x")}
    if len(scene.layers) > 1:
        pairs["input_hidden"] = (INPUT, scene.hidden[-1].activation, "∂(last hidden z)/∂x")
    return pairs


_SOURCE = "Saxe et al. (2013), arXiv:1312.6120; Pennington, Schoenholz & Ganguli (2017), arXiv:1711.04735"

input_output_jacobian = Probe(
    name="input_output_jacobian",
    measure=lambda scene: _measure("auto", _usual_pairs(scene), scene),
    outputs=lambda scene: _outputs("auto", _usual_pairs(scene), scene),
    source=_SOURCE,
    any_depth=True,
)
