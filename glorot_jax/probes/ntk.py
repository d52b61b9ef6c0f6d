"""Empirical neural tangent kernel of the logits: eigenvalues, effective ranks, and how far it moved from its start."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.errors import InputError
from glorot_jax.probes.probe import Output, Probe, Scene
from glorot_jax.rounding import norm, times, total

EXAMPLES, EIGENVALUES = 16, 5
MOST_ROWS = 4096


def _measure(scene: Scene) -> dict[str, Array]:
    both = jax.tree.map(lambda *pair: jnp.stack(pair), dict(scene.params), dict(scene.initial_params))
    # One loop for both: where the parameters are the same, so are the kernels to the last bit.
    now, before = jax.lax.map(lambda params: kernel(scene, params), both)
    values = spectra.eigenvalues(now)
    entropy, _ = spectra.effective_ranks(jnp.maximum(values, 0))
    _, participation = spectra.effective_ranks(jnp.sqrt(jnp.maximum(values, 0)))
    length = norm(before)
    some = length > 0
    unit = jnp.where(some, length, 1)
    agreement = total(times(now / unit, before / unit)) / (norm(now) / unit)
    return {
        "ntk_eigenvalue": values[:EIGENVALUES],
        "ntk_trace": total(jnp.diagonal(now)),
        "ntk_entropy_rank": entropy,
        "ntk_participation_rank": participation,
        "ntk_drift": jnp.where(some, norm(now - before) / unit, jnp.nan),
        "ntk_alignment": jnp.where(some, agreement, jnp.nan),
    }


def kernel(scene: Scene, params: Mapping[str, Array]) -> Float[Array, "rows rows"]:
    """Returns Θ = J Jᵀ with J = ∂logits/∂(parameters); a row is an example and a class, all of an example together.

    The whole kernel, classes against each other too, and not its mean over classes: it is what moves the logits under
    gradient descent, dlogits/dt = −Θ ∂C/∂logits. At infinite width it is that mean on the diagonal blocks and 0
    elsewhere. Column by column: one pull-back of a logit's gradient, pushed forward to all logits, so no more is held
    than one set of parameters.
    """
    inputs, rest = jnp.asarray(scene.inputs[:EXAMPLES]), scene.settle(params)

    def output(params: Mapping[str, Array]) -> Float[Array, "examples classes"]:
        return scene.output(params, rest, inputs)

    value, back = jax.vjp(output, params)
    ahead = jax.linear_transpose(lambda u: back(u)[0], value)  # not jvp, which a rule of one's own for vjp forbids
    shape = value.shape
    rows = shape[0] * shape[1]
    if rows > MOST_ROWS:
        raise InputError(
            f"probes.ntk: {shape[0]} examples of {shape[1]} classes make a kernel of {rows} rows, more than {MOST_ROWS}"
        )

    def column(row: Array) -> Float[Array, "rows"]:
        example, chosen = row // shape[1], row % shape[1]
        gradient = jax.grad(lambda p: scene.output(p, rest, inputs[example][None])[0, chosen])(params)
        return ahead(gradient)[0].ravel()

    found = jax.lax.map(column, jnp.arange(rows))
    return (found + found.T) / 2


def _outputs(scene: Scene) -> dict[str, Output]:
    method = "Θ = J Jᵀ of all logits and parameters, of the first fixed test examples"
    start = "against that of the run's first parameters"
    labels = {
        "ntk_eigenvalue": (
            "largest eigenvalues of the neural tangent kernel, in order",
            f"{method}; rounding adds some 10⁻⁶ of the largest",
        ),
        "ntk_trace": ("trace of the neural tangent kernel", f"exact, {method}"),
        "ntk_entropy_rank": (
            "effective rank of the neural tangent kernel by entropy",
            f"{method}; e^H of its eigenvalues",
        ),
        "ntk_participation_rank": (
            "effective rank of the neural tangent kernel by participation",
            f"{method}; (Σλ)²/Σλ²",
        ),
        "ntk_drift": ("distance of the neural tangent kernel from its start", f"‖Θ − Θ₀‖/‖Θ₀‖, {method}, {start}"),
        "ntk_alignment": (
            "cosine between the neural tangent kernel and its start",
            f"⟨Θ, Θ₀⟩/(‖Θ‖‖Θ₀‖), {method}, {start}",
        ),
    }
    examples = min(EXAMPLES, scene.examples)
    return {
        name: Output(
            ("eigenvalue",) if name == "ntk_eigenvalue" else (), text, attrs={"examples": examples, "method": how}
        )
        for name, (text, how) in labels.items()
    }


ntk = Probe(
    name="ntk",
    measure=_measure,
    outputs=_outputs,
    source="Jacot, Gabriel & Hongler (2018), arXiv:1806.07572; Fort et al. (2020), arXiv:2010.15110: how far it moves",
    any_depth=True,
)
