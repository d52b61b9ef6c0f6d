"""A dense layer's two passes: forward, and backward with the update of plain gradient descent worked into it.

Each exists more than once, by the name of its kernel: ``"xla"``, plain JAX, runs everywhere and is what the others are
tested against; ``"native"`` is C++ for CPUs, ``"cuda"`` is CUDA C++ and ``"pallas"`` Python for NVIDIA's GPUs. Their
modules have the two functions under the same names, ``why_not``, and ``LEAVES_ALONE`` where that is true of them; see
``Kernel``.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from glorot_jax.models.precision import dot_general, rounded

SMALL_BATCH = 32
"""Examples up to which a weight gradient is summed up inside the update."""


class Kernel(NamedTuple):
    """One way to do the two passes; see ``forward`` and ``backward_update`` below for what they take and return.

    Attributes:
        leaves_alone: whether W and b come back as they were, and 0 for ∂C/∂z, where all of the error is 0, also if z
            or W is not finite.
    """

    name: str
    forward: Callable[..., Array]
    backward_update: Callable[..., tuple[Array | None, Array, Array]]
    leaves_alone: bool = False


def forward(
    z: Float[Array, "batch fan_in"], w: Float[Array, "fan_in fan_out"], b: Float[Array, " fan_out"]
) -> Float[Array, "batch fan_out"]:
    """Returns s = z W + b."""
    return contracted(z, w, 1, 0) + b


def backward_update(
    z: Float[Array, "batch fan_in"],
    error: Float[Array, "batch fan_out"],
    w: Float[Array, "fan_in fan_out"],
    b: Float[Array, " fan_out"],
    *,
    input_error: bool,
) -> tuple[Float[Array, "batch fan_in"] | None, Float[Array, "fan_in fan_out"], Float[Array, " fan_out"]]:
    """Returns −ε ∂C/∂z by the weights before the update, or None, and the weights and biases after it.

    Args:
        error: −ε ∂C/∂s, with ε the learning rate: the update W + zᵀ error then needs no gradient of its own.
        input_error: whether ∂C/∂z is wanted; the first layer has nobody below.
    """
    below = contracted(error, w, 1, 1) if input_error else None
    error = error if below is None else _after(below, error)
    return below, w + outer_products(z, error), b + jnp.sum(error, axis=0)


def _after(first: Float[Array, "..."], then: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns ``then`` as if it were made of ``first``.

    XLA writes new weights over the old ones only if nobody can still read those: what goes into the update has to come
    after the product that reads them, else each step copies them.
    """
    t = first.ravel()[0]
    never = (t != t) & (t == 0)
    return jnp.where(never, 0.0, then)


def kernel(name: str) -> Kernel:
    """Returns the kernel of a name among ``kernels.KERNELS``; whether it works here is what ``why_not`` tells."""
    if name == "xla":
        return Kernel(name, forward, backward_update)
    module = _module(name)
    return Kernel(name, module.forward, module.backward_update, getattr(module, "LEAVES_ALONE", False))


def why_not(name: str, precision: str = "float32") -> str | None:
    """Returns why a kernel can't be used here for products of a precision, in a few words; None if it can."""
    if name == "xla":
        return None
    if name == "native" and precision == "bfloat16":
        return "it knows no bfloat16"
    if name == "cuda" and precision != "float32":
        return "it knows float32 alone"
    try:
        return _module(name).why_not()
    except ImportError:
        return "it is not part of this installation"


def _module(name: str):
    return importlib.import_module(f"glorot_jax.kernels.{name}")


def contracted(a: Float[Array, "..."], b: Float[Array, "..."], a_axis: int, b_axis: int) -> Float[Array, "..."]:
    """The product of two matrices over an axis of each; no transpose is formed, as XLA would before a batched one."""
    return dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())))


def outer_products(a: Float[Array, "batch m"], b: Float[Array, "batch n"]) -> Float[Array, "m n"]:
    """aᵀ b; of a small batch example by example, which XLA works into the update that reads it."""
    if len(a) > SMALL_BATCH:
        return contracted(a, b, 0, 0)
    a, b = rounded(a), rounded(b)
    return functools.reduce(operator.add, (a[i, :, None] * b[i] for i in range(len(a))))
