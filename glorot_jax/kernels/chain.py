"""One step of gradient descent on a chain of dense layers: each layer is updated as soon as its error is known.

A module that can take such a step says so with a method ``descent(x, kernel)``, which does for its own parameters what
``descent`` here does for a chain's: it returns the logits of a batch, and a function of their error and of whether the
run goes on that updates the parameters in place. It gives what ``jax.grad`` of its own ``__call__`` in training mode
would give, to rounding. The engine takes it instead for gradient descent without momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glorot_jax.kernels.dense import Kernel

Layer = tuple[Float[Array, "fan_in fan_out"], Float[Array, " fan_out"]]
"""W and b."""


def descent(
    x: Float[Array, "batch features"],
    layers: Sequence[Layer],
    activation: Callable[[Array], Array],
    kernel: Kernel,
) -> tuple[Float[Array, "batch classes"], Callable[[Array, Array], list[Layer]]]:
    """Returns the logits, and what makes the updated layers of the logits' error.

    z₀ = x, sₗ = zₗ₋₁ Wₗ + bₗ, zₗ = f(sₗ), logits = s of the last layer. The way back goes from the last layer to the
    first, each layer's error by the weights before their update: no gradient is kept, and no second copy of weights.

    Args:
        activation: f, elementwise.

    Returns:
        The second takes ``error`` [batch, classes], −ε ∂C/∂logits with ε the learning rate, and ``goes_on``, a scalar:
        where it is false all layers come back as they were (−0 as 0), whatever numbers the batch made.
    """
    inputs, pulls, z = [], [], x
    *hidden, last = layers
    for layer in hidden:
        inputs.append(z)
        z, pull = jax.vjp(activation, kernel.forward(z, *layer))
        pulls.append(pull)
    inputs.append(z)
    logits = kernel.forward(z, *last)

    def updated(error: Float[Array, "batch classes"], goes_on: Bool[Array, ""]) -> list[Layer]:
        new: list[Layer] = []
        for i in reversed(range(len(layers))):
            z, error = _nothing_unless(goes_on, inputs[i], error)
            error, w, b = kernel.backward_update(z, error, *layers[i], input_error=i > 0)
            new.append((w, b))
            if i > 0:
                (error,) = pulls[i - 1](error)
        return new[::-1]

    return logits, updated


@jax.custom_batching.custom_vmap
def _nothing_unless(goes_on: Bool[Array, ""], z: Array, error: Array) -> tuple[Array, Array]:
    """A layer's input and error, or zeros, which leave its weights as they are.

    On a CPU behind a branch that is taken if a run of the block is lost. Beside saving the selection, that keeps XLA
    from working out the error anew for each weight inside of the update: it fuses everything but a branch.
    """
    return tuple(v[0] for v in _nothing_for_lost(goes_on[None], z[None], error[None]))


@_nothing_unless.def_vmap
def _(size: int, batched: list[bool], goes_on: Array, z: Array, error: Array) -> tuple[tuple, tuple[bool, bool]]:
    each = (
        v if along else jnp.broadcast_to(v, (size, *v.shape))
        for v, along in zip((goes_on, z, error), batched, strict=True)
    )
    return _nothing_for_lost(*each), (True, True)


def _nothing_for_lost(goes_on: Bool[Array, " runs"], z: Array, error: Array) -> tuple[Array, Array]:
    goes_on = goes_on.reshape(-1, *(1,) * (z.ndim - 1))

    def select(goes_on: Array, z: Array, error: Array) -> tuple[Array, Array]:
        return jnp.where(goes_on, z, 0.0), jnp.where(goes_on, error, 0.0)

    def branch(goes_on: Array, z: Array, error: Array) -> tuple[Array, Array]:
        return jax.lax.cond(jnp.all(goes_on), lambda _, *both: both, select, goes_on, z, error)

    return jax.lax.platform_dependent(goes_on, z, error, cpu=branch, default=select)
