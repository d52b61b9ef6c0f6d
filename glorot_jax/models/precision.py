"""In which precision an update makes its matrix products; everything else is float32 throughout.

All networks of ours make their products by the functions of this module. They are of full float32, unless they are
traced within ``products_in`` another precision, as the engine does with the forward and backward pass of an update.
What a probe or an evaluation sees of the same network stays of full float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_BFLOAT16 = jax.lax.DotAlgorithmPreset.BF16_BF16_F32
_PRODUCTS = {
    "float32": jax.lax.Precision.HIGHEST,
    "tensorfloat32": jax.lax.Precision.HIGH,
    "bfloat16": _BFLOAT16,
}
_IN_FORCE = ContextVar("precision of products", default="float32")


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Makes the matrix products that are traced within it in a precision.

    Those of foreign modules are meant, too, where they name no precision: by JAX's ``default_matmul_precision``, which
    float32 leaves alone if the person has set it.

    Args:
        precision: ``"float32"``; ``"tensorfloat32"``, as NVIDIA's matrix units have it, float32 on a CPU; or
            ``"bfloat16"``: factors rounded to bfloat16, sums in float32. A weight gradient of a small batch, which is
            summed up example by example, has no use for matrix units: with tensorfloat32 it is of full float32.
    """
    usual = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": _BFLOAT16.name}[precision]
    theirs = jax.config.jax_default_matmul_precision if precision == "float32" else None
    before = _IN_FORCE.set(precision)
    try:
        with jax.default_matmul_precision(theirs or usual):
            yield
    finally:
        _IN_FORCE.reset(before)


def in_force() -> str:
    """Returns the precision in which products are made just now, as ``products_in`` takes it."""
    return _IN_FORCE.get()


def said(precision: str, platform: str) -> str:
    """Returns what products are on a platform, in a few words."""
    if precision != "tensorfloat32" or platform == "gpu":
        return precision
    instead = "three products of bfloat16" if platform == "tpu" else "float32"
    return f"{instead} (tensorfloat32 is not known to a {platform.upper()})"


def contract(product: Callable[..., Array], a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns ``product(a, b, precision=…)``, which is linear in a and in b, in the precision in force.

    In bfloat16 both factors are rounded to it, and so is the error signal on its way back; sums are float32. The same
    numbers come from every platform that makes float32 products of them exactly.
    """
    precision = _PRODUCTS[in_force()]
    if precision is not _BFLOAT16:
        return product(a, b, precision=precision)
    return _with_rounded_error(product(rounded(a), rounded(b), precision=precision))


def rounded(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns float32 numbers as factors of a product in force: to the nearest bfloat16 where those are.

    Its derivative is 1.
    """
    return _to_bfloat16(x) if in_force() == "bfloat16" else x


def dot_general(
    a: Float[Array, "..."], b: Float[Array, "..."], dimension_numbers: Any, precision: None = None, **settings: Any
) -> Float[Array, "..."]:
    """Returns ``jax.lax.dot_general`` in the precision in force; Flax's layers take it as their own."""
    return contract(partial(jax.lax.dot_general, dimension_numbers=dimension_numbers, **settings), a, b)


def einsum(how: str, a: Float[Array, "..."], b: Float[Array, "..."], **settings: Any) -> Float[Array, "..."]:
    """Returns ``jnp.einsum`` of two arrays in the precision in force."""
    return contract(partial(jnp.einsum, how, **settings), a, b)


def adopt(module: nnx.Module) -> nnx.Module:
    """Returns a network whose Flax layers round their factors as ours do, where they name no precision."""
    if in_force() != "bfloat16":
        return module
    for _, part in nnx.iter_modules(module):
        if getattr(part, "precision", 0) is not None or getattr(part, "dot_general_cls", None) is not None:
            continue
        for name, (usual, own) in _OWN.items():
            if getattr(part, name, 0) in usual:
                setattr(part, name, own)
    return module


def _convolve(x: Array, w: Array, *arguments: Any, precision: None = None, **settings: Any) -> Array:
    def product(x: Array, w: Array, precision: Any) -> Array:
        return jax.lax.conv_general_dilated(x, w, *arguments, precision=precision, **settings)

    return contract(product, x, w)


def _einsum(how: str, a: Array, b: Array, *, precision: None = None, **settings: Any) -> Array:
    return einsum(how, a, b, **settings)


_OWN: dict[str, tuple[Sequence[Any], Callable[..., Array]]] = {
    "dot_general": ((None, jax.lax.dot_general), dot_general),
    "conv_general_dilated": ((jax.lax.conv_general_dilated,), _convolve),
    "einsum_op": ((jnp.einsum,), _einsum),
}
"""What Flax's layers hold, usually and in an update."""


@jax.custom_vjp
def _to_bfloat16(x: Array) -> Array:
    return _nearest(x)


@jax.custom_vjp
def _with_rounded_error(x: Array) -> Array:
    return x


def _nearest(x: Array) -> Array:
    """By what no compiler takes for two conversions that undo each other."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


_to_bfloat16.defvjp(lambda x: (_nearest(x), None), lambda _, error: (error,))
_with_rounded_error.defvjp(lambda x: (x, None), lambda _, error: (_nearest(error),))
