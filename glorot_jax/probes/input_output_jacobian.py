"""Singular values of ∂(last hidden z)/∂x and ∂logits/∂x, from products alone: dynamical isometry."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.probes.probe import EXACT_UP_TO, Output, Probe, Scene, forward_with_values
from glorot_jax.rounding import mean

VECTORS, STEPS = 4, 20
_PROBE_SEED = 0


def _measure(scene: Scene) -> dict[str, Array]:
    inputs = scene.inputs[: scene.jacobian_examples]
    found = {}
    for name, point, width, _ in _parts(scene):
        summary = _exact if min(width, inputs.shape[1]) <= EXACT_UP_TO else _estimated
        values = jax.lax.map(lambda x, p=point, w=width, s=summary: s(*_products(scene, x, p), (w, x.size)), inputs)
        found |= {f"{name}_{key}": mean(value) for key, value in values.items()}
    return found


def _parts(scene: Scene) -> list[tuple[str, str, int, str]]:
    """Name, point, its width, and what it is called."""
    hidden, last = scene.hidden[-1], scene.layers[-1]
    return [
        ("input_hidden", hidden.activation, scene.params[hidden.weight].shape[1], "∂(last hidden z)/∂x"),
        ("input_output", last.preactivation, scene.params[last.weight].shape[1], "∂logits/∂x"),
    ]


def _products(scene: Scene, x: Float[Array, "features"], point: str) -> tuple[Callable, Callable]:
    """v -> J v and u -> Jᵀ u, with J the Jacobian of a point's value by one input."""
    value, back = jax.vjp(lambda x: forward_with_values(scene.module, x[None])[1][point][0], x)
    ahead = jax.linear_transpose(lambda u: back(u)[0], value)
    return lambda v: ahead(v)[0], lambda u: back(u)[0]


def _exact(ahead: Callable, back: Callable, shape: tuple[int, int]) -> dict[str, Array]:
    by_rows = shape[0] <= shape[1]
    matrix = jax.vmap(back if by_rows else ahead)(jnp.eye(min(shape)))
    found = spectra.summary(spectra.singular_values(matrix), max(shape))
    nothing = jnp.zeros(())
    return {
        "mean_singular_value": found.mean,
        "mean_singular_value_error": nothing,
        "rms_singular_value": found.rms,
        "rms_singular_value_error": nothing,
        "max_singular_value": found.maximum,
        "max_singular_value_error": nothing,
        "condition": found.condition,
    }


def _estimated(ahead: Callable, back: Callable, shape: tuple[int, int]) -> dict[str, Array]:
    key = jax.random.key(_PROBE_SEED)
    found = spectra.lanczos_summary(ahead, back, shape, key, jnp.zeros(1), vectors=VECTORS, steps=STEPS)
    return {
        "mean_singular_value": found.mean.value,
        "mean_singular_value_error": found.mean.error,
        "rms_singular_value": found.rms.value,
        "rms_singular_value_error": found.rms.error,
        "max_singular_value": found.maximum.value,
        "max_singular_value_error": found.maximum.error,
        "condition": jnp.full((), jnp.nan),
    }


def _outputs(scene: Scene) -> dict[str, Output]:
    features = scene.test[0].shape[1]
    found = {}
    for name, _, width, text in _parts(scene):
        exact = min(width, features) <= EXACT_UP_TO
        lanczos = f"Lanczos quadrature, {VECTORS} Rademacher vectors × {STEPS} steps, products with J and Jᵀ alone"
        method = f"mean over examples; {'exact SVD of J from products' if exact else lanczos}"
        condition = "∞ where a value is below √(longer side) 2⁻²³ of the largest, NaN where all are 0"
        labels = {
            "mean_singular_value": ("mean singular value", method),
            "mean_singular_value_error": ("half-width of the 95 % interval of the mean singular value", method),
            "rms_singular_value": ("root mean square singular value", method),
            "rms_singular_value_error": ("half-width of the 95 % interval of the rms singular value", method),
            "max_singular_value": ("largest singular value", method if exact else f"{method}, from below"),
            "max_singular_value_error": ("guess of how far below the largest singular value may be", method),
            "condition": ("condition number", f"{method}; {condition}" if exact else "NaN, products can't tell"),
        }
        found |= {
            f"{name}_{key}": Output((), f"{line} of {text}", attrs={"examples": scene.jacobian_examples, "method": how})
            for key, (line, how) in labels.items()
        }
    return found


input_output_jacobian = Probe(
    name="input_output_jacobian",
    measure=_measure,
    outputs=_outputs,
    source="Saxe et al. (2013), arXiv:1312.6120; Pennington, Schoenholz & Ganguli (2017), arXiv:1711.04735",
)
