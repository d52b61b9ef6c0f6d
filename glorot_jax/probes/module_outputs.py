"""What each part of a network returns, with no change to it: mean, standard deviation, quantiles."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from glorot_jax.errors import InputError
from glorot_jax.probes.probe import QUANTILES, Output, Probe, Scene, forward_with_outputs
from glorot_jax.rounding import mean, quantile, std


def _found(scene: Scene) -> dict[str, Array]:
    """By path of the part; the network itself, whose path is empty, is left out."""
    found = {
        path: value
        for path, value in forward_with_outputs(scene.module, scene.inputs).items()
        if path and hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)
    }
    if not found:
        raise InputError("the network has no parts that are modules of their own")
    return found


def _measure(scene: Scene) -> dict[str, Array]:
    outputs = list(_found(scene).values())
    return {
        "module_output_mean": jnp.stack([mean(z.ravel()) for z in outputs]),
        "module_output_std": jnp.stack([std(z) for z in outputs]),
        "module_output_quantile": jnp.stack([quantile(z, QUANTILES) for z in outputs]),
    }


def _outputs(scene: Scene) -> dict[str, Output]:
    names = {"module": tuple(_found(scene))}
    attrs = {"examples": scene.examples, "method": "pooled over fixed test examples and units; the first call of each"}
    return {
        "module_output_mean": Output(("module",), "mean of a part's output", attrs=attrs, names=names),
        "module_output_std": Output(("module",), "standard deviation of a part's output", attrs=attrs, names=names),
        "module_output_quantile": Output(
            ("module", "quantile"), "quantile of a part's output", attrs=attrs, names=names
        ),
    }


module_outputs = Probe(
    name="module_outputs",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), section 3, for networks of any parts",
)
