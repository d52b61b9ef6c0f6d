"""One step of gradient descent on a chain of dense layers: each layer is updated as soon as its error is known.

A module that can take such a step says so with a method ``descent(x, kernel)``, which does for its own parameters what
``descent`` here does for a chain's: it returns the logits of a batch, and a function of their error and of whether the
run goes on that updates the parameters in place. It gives what ``jax.grad`` of its own ``__call__`` in training mode
would give, to rounding. The engine takes it instead for gradient descent without momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glorot_jax.branches import anybody, if_any
from glorot_jax.kernels.dense import Kernel

Layer = tuple[Float[Array, "fan_in fan_out"], Float[Array, " fan_out"]]
"""W and b."""


def descent(
    x: Float[Array, "batch features"],
    layers: Sequence[Layer],
    activations: Sequence[Callable[[Array], Array]],
    kernel: Kernel,
    has: Sequence[Bool[Array, ""] | None] | None = None,
) -> tuple[Float[Array, "batch classes"], Callable[[Array, Array], list[Layer]]]:
    """Returns the logits, and what makes the updated layers of the logits' error.

    z₀ = x, sₗ = zₗ₋₁ Wₗ + bₗ, zₗ = f(sₗ), logits = s of the last layer. The way back goes from the last layer to the
    first, each layer's error by the weights before their update: no gradient is kept, and no second copy of weights.

    Args:
        activations: f of each hidden layer, elementwise.
        has: of each hidden layer that this run may lack, whether it has it; else None, also for all of them. Where it
            doesn't, z goes on as it is and the layer's W and b, which are 0, stay so; f has value and slope 0 then.

    Returns:
        The second takes ``error`` [batch, classes], −ε ∂C/∂logits with ε the learning rate, and ``goes_on``, a scalar:
        where it is false all layers come back as they were (−0 as 0), whatever numbers the batch made.
    """
    inputs, pulls, z = [], [], x
    *hidden, last = layers
    has = has or [None] * len(hidden)
    for layer, f, own in zip(hidden, activations, has, strict=True):
        inputs.append(z)
        above, pull = jax.vjp(f, _optional(own, kernel.forward)(z, *layer))
        pulls.append(pull)
        z = above if own is None else jnp.where(own, above, z)
    inputs.append(z)
    logits = kernel.forward(z, *last)

    def updated(error: Float[Array, "batch classes"], goes_on: Bool[Array, ""]) -> list[Layer]:
        new: list[Layer] = []
        for i in reversed(range(len(layers))):
            above, own = error, None
            if i < len(hidden):
                (error,), own = pulls[i](error), has[i]
            if kernel.leaves_alone:
                z, error = inputs[i], jnp.where(goes_on, error, 0.0)
            else:
                z, error = _nothing_unless(goes_on, inputs[i], error)
            backward_update = partial(kernel.backward_update, input_error=i > 0)
            error, w, b = _optional(own, backward_update, _unchanged)(z, error, *layers[i])
            error = error if own is None else jnp.where(own, error, above)
            new.append((w, b))
        return new[::-1]

    return logits, updated


def _optional(has: Bool[Array, ""] | None, function: Callable, otherwise: Callable | None = None) -> Callable:
    """The function for a layer that the run may lack: done without if no run of the block has it."""
    return function if has is None else partial(if_any, has, function, otherwise=otherwise)


def _unchanged(z: Array, error: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
    return jnp.zeros_like(z), w, b


def _nothing_unless(goes_on: Bool[Array, ""], z: Array, error: Array) -> tuple[Array, Array]:
    """A layer's input and error, or zeros, which leave its weights as they are.

    On a CPU behind a branch that is taken if a run of the block is lost. Beside saving the selection, that keeps XLA
    from working out the error anew for each weight inside of the update: it fuses everything but a branch.
    """
    somebody = anybody(~goes_on)

    def select(goes_on: Array, z: Array, error: Array) -> tuple[Array, Array]:
        return jnp.where(goes_on, z, 0.0), jnp.where(goes_on, error, 0.0)

    def branch(*operands: Array) -> tuple[Array, Array]:
        return jax.lax.cond(somebody, select, lambda _, *both: both, *operands)

    return jax.lax.platform_dependent(goes_on, z, error, cpu=branch, default=select)
