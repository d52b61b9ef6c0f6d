"""How much of a layer still works: saturated, dead and linear units, effective ranks, likeness of two inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glorot_jax.probes.probe import Output, Probe, Scene
from glorot_jax.rounding import mean, norm, share, times, total
from glorot_jax.spectra import effective_ranks, singular_values

NEGLIGIBLE = 0.05
"""Share of the largest slope below which a unit is saturated, and within which of f'(0) it is linear."""
REACH, FINENESS = 10, 401
"""The largest slope is looked for at so many places in [−reach, reach]."""
NEAR_ZERO = 1e-5
"""f'(0) is the mean of the slopes on both sides of 0, so far from it."""


def _measure(scene: Scene) -> dict[str, Array]:
    slopes, largest, at_zero = zip(*_slopes(scene), strict=True)
    steep = [jnp.abs(f) >= NEGLIGIBLE * m for f, m in zip(slopes, largest, strict=True)]
    linear = [jnp.abs(f - o) <= NEGLIGIBLE * m for f, m, o in zip(slopes, largest, at_zero, strict=True)]
    layers = [scene.values[layer.activation].reshape(scene.examples, -1) for layer in scene.hidden]
    entropy, participation = zip(*(effective_ranks(singular_values(z)) for z in layers), strict=True)
    return {
        "saturated_fraction": jnp.stack([share(~on) for on in steep]),
        "dead_unit_fraction": jnp.stack([share(~jnp.any(on, axis=0)) for on in steep]),
        "linear_fraction": jnp.stack([share(near) for near in linear]),
        "activation_entropy_rank": jnp.stack(entropy),
        "activation_participation_rank": jnp.stack(participation),
        "activation_cosine": jnp.stack([_mean_cosine(z) for z in layers]),
        "input_cosine": _mean_cosine(scene.inputs.reshape(scene.examples, -1)),
    }


def _slopes(scene: Scene) -> list[tuple[Array, Array, Array]]:
    """By hidden layer: f'(s) on the fixed examples, the largest |f'|, and f'(0)."""
    places = np.array([-NEAR_ZERO, NEAR_ZERO, *np.linspace(-REACH, REACH, FINENESS)], np.float32)
    slopes = scene.slopes_at({layer.activation: scene.values[layer.preactivation] for layer in scene.hidden})
    grids = scene.slopes_at({layer.activation: jnp.asarray(places) for layer in scene.hidden})
    return [(slopes[name], jnp.max(jnp.abs(grid)), (grid[0] + grid[1]) / 2) for name, grid in grids.items()]


def _mean_cosine(z: Float[Array, "examples width"]) -> Float[Array, ""]:
    """Mean over all pairs of examples of the cosine between them: of their directions' sum, so no pair is formed."""
    lengths = jax.vmap(norm)(z)
    some = lengths > 0
    directions = z / jnp.where(some, lengths, 1)[:, None]
    count = jnp.sum(some, dtype=jnp.int32).astype(jnp.float32)
    together = mean(directions.T) * np.float32(len(z))
    return (total(times(together, together)) - count) / (count * (count - 1))


def _outputs(scene: Scene) -> dict[str, Output]:
    slope = f"|f'(s)| < {NEGLIGIBLE} max |f'|, the maximum among {FINENESS} places in [−{REACH}, {REACH}]"
    methods = {
        "saturated_fraction": (
            "share of units × examples in saturation",
            f"{slope}: the near-flat side of an unbounded activation, too",
        ),
        "dead_unit_fraction": ("share of units that no example brings out of saturation", f"saturated: {slope}"),
        "linear_fraction": (
            "share of units × examples in the linear regime",
            f"|f'(s) − f'(0)| ≤ {NEGLIGIBLE} max |f'|; f'(0) is the mean of both sides, so a kink there is not linear",
        ),
        "activation_entropy_rank": (
            "effective rank of the activations, by entropy",
            "exp of the entropy of σ/Σσ, σ from the exact SVD of [examples, width], mean not taken off; 0 if all are 0",
        ),
        "activation_participation_rank": (
            "effective rank of the activations, by participation",
            "(Σσ²)²/Σσ⁴, σ from the exact SVD of [examples, width], mean not taken off; 0 if all are 0",
        ),
        "activation_cosine": ("mean cosine between the activations of two examples", _PAIRS),
    }
    found = {
        name: Output(("layer",), text, attrs={"examples": scene.examples, "method": method})
        for name, (text, method) in methods.items()
    }
    inputs = Output((), "mean cosine between two inputs", attrs={"examples": scene.examples, "method": _PAIRS})
    return {**found, "input_cosine": inputs}


_PAIRS = "all pairs of examples that are not 0, mean not taken off; NaN if there is no such pair"

saturation = Probe(
    name="saturation",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), section 3; Roy & Vetterli (2007), effective rank; Poole et al. (2016), "
    "arXiv:1606.05340: correlation map",
    any_depth=True,
)
