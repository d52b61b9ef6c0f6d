"""Loss and error on the validation and test sets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from glorot_jax.probes.probe import Output, Probe, Scene, forward

CHUNK = 500


def _measure(scene: Scene) -> dict[str, Array]:
    valid_loss, valid_error = _evaluate(scene, *scene.valid)
    test_loss, test_error = _evaluate(scene, *scene.test)
    return {
        "valid_loss": valid_loss,
        "valid_error": valid_error,
        "test_loss": test_loss,
        "test_error": test_error,
    }


def _evaluate(scene: Scene, inputs: Array, labels: Array) -> tuple[Array, Array]:
    """Mean loss and the share of wrong answers, read in chunks so that memory does not grow with the set."""
    count = inputs.shape[0]
    chunk = next(size for size in range(min(CHUNK, count), 0, -1) if count % size == 0)

    def read(part: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = forward(scene.predictor, scene.scale(part[0]))
        wrong = jnp.argmax(logits, axis=-1) != part[1]
        return jnp.sum(scene.loss(logits, part[1])), jnp.sum(wrong)

    parts = (inputs.reshape(-1, chunk, inputs.shape[1]), labels.reshape(-1, chunk))
    losses, wrong = jax.lax.map(read, parts)
    return jnp.sum(losses) / count, jnp.sum(wrong) / jnp.float32(count)


def _outputs(scene: Scene) -> dict[str, Output]:
    sizes = {"valid": len(scene.valid[1]), "test": len(scene.test[1])}
    names = {"valid": "validation", "test": "test"}
    return {
        f"{part}_{value}": Output((), f"{names[part]} {value}", units, {"examples": sizes[part], "method": method})
        for part in sizes
        for value, units, method in (
            ("loss", scene.loss_units, "mean over all examples"),
            ("error", "1", "share of wrong answers among all examples"),
        )
    }


evaluation = Probe(
    name="evaluation",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), sections 2.1 and 4.2: error on 10 000 held-out examples",
    any_depth=True,
)
