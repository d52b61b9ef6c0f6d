"""Dense layers on NVIDIA GPUs as Pallas kernels, by its Triton route: each weight is read once a pass, written once.

A step of a dense layer moves its weights three times: read by ``forward``, read and written by ``backward_update``.
A program of the latter owns a strip of rows of W. Column tile by column tile it adds error Wᵀ up for its own rows of
zᵉ and writes W + zᵀ error over what it has read, so no two programs ever add to one number: bits have one order. Runs
that are vmapped together are an axis of the grid, and no run's bits depend on the others.

Products are in the precision in force (``models.precision``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from glorot_jax.kernels import dense
from glorot_jax.models.precision import in_force

LEAST = 16
"""Sides of the smallest tile that a matrix unit takes."""
LARGEST_BATCH = 64
"""Above it a layer's arithmetic, not its traffic, takes the time, and plain JAX does the work."""
OLDEST = 8.0
"""Compute capability from which the kernels are used: Ampere."""

_PRODUCTS: dict[str, tuple[Any, Any]] = {
    "float32": (jnp.float32, jax.lax.Precision.HIGHEST),
    "tensorfloat32": (jnp.float32, jax.lax.Precision.HIGH),
    "bfloat16": (jnp.bfloat16, None),
}
"""The type of the factors, and what a product of them is asked for; all sums are float32."""


class Tiles(NamedTuple):
    """How a layer is cut up, all powers of two.

    Attributes:
        batch, rows, columns: sides of the tiles: examples (all of a batch), and rows and columns of W.
        warps: of 32 threads each that work on a tile.
    """

    batch: int
    rows: int
    columns: int
    warps: int


def tiles(batch: int, fan_in: int, fan_out: int, precision: str = "float32") -> Tiles:
    """Returns the tiles for a layer.

    32 lines of W of 128 numbers, the quickest of those tried on an H200 in all precisions. Full float32 is multiplied
    number by number out of registers: with more than 32 examples there are 16 lines.
    """
    examples = _power(batch)
    rows = LEAST if precision == "float32" and examples > 32 else 32
    return Tiles(examples, min(rows, _power(fan_in)), min(128, _power(fan_out)), 4 if examples == LEAST else 8)


def why_not() -> str | None:
    """Returns why the kernels can't be used here, in one line; None if they can."""
    if (backend := jax.default_backend()) != "gpu":
        return f"for GPUs only, not {backend}"
    capability = getattr(jax.local_devices()[0], "compute_capability", None)
    try:
        new = float(str(capability)) >= OLDEST
    except ValueError:
        return "for NVIDIA's GPUs only"
    return None if new else f"for compute capability {OLDEST} and above, not {capability}"


def forward(
    z: Float[Array, "batch fan_in"], w: Float[Array, "fan_in fan_out"], b: Float[Array, " fan_out"]
) -> Float[Array, "batch fan_out"]:
    """Returns s = z W + b, in one pass over W."""
    if len(z) > LARGEST_BATCH:
        return dense.forward(z, w, b)
    return forward_by_tiles(z, w, b, tiles(len(z), *w.shape, in_force()), interpret=_interpreted())


def backward_update(
    z: Float[Array, "batch fan_in"],
    error: Float[Array, "batch fan_out"],
    w: Float[Array, "fan_in fan_out"],
    b: Float[Array, " fan_out"],
    *,
    input_error: bool,
) -> tuple[Float[Array, "batch fan_in"] | None, Float[Array, "fan_in fan_out"], Float[Array, " fan_out"]]:
    """Returns error Wᵀ if ``input_error``, W + zᵀ error and b + Σ error, in one pass over W, which is updated in place.

    Full float32 is left to XLA: no matrix unit has it, and without one Triton's way takes half as long again.

    Args:
        error: −ε ∂C/∂s.
        input_error: whether −ε ∂C/∂z is asked for; None stands for it where not.
    """
    if len(z) > LARGEST_BATCH or in_force() == "float32":
        return dense.backward_update(z, error, w, b, input_error=input_error)
    sizes = tiles(len(z), *w.shape, in_force())
    return backward_update_by_tiles(z, error, w, b, sizes, input_error=input_error, interpret=_interpreted())


def forward_by_tiles(z: Array, w: Array, b: Array, sizes: Tiles, *, interpret: bool) -> Array:
    """Returns what ``forward`` does, with tiles of one's own; ``interpret`` is Pallas' own, for where no GPU is."""
    (batch, _), fan_out = z.shape, w.shape[1]
    return pl.pallas_call(
        partial(_forward, sizes=sizes, precision=in_force()),
        out_shape=jax.ShapeDtypeStruct((batch, fan_out), jnp.float32),
        grid=(pl.cdiv(fan_out, sizes.columns),),
        compiler_params=triton.CompilerParams(num_warps=sizes.warps, num_stages=3),
        interpret=interpret,
        name="glorot_forward",
    )(z, w, b)


def backward_update_by_tiles(
    z: Array, error: Array, w: Array, b: Array, sizes: Tiles, *, input_error: bool, interpret: bool
) -> tuple[Array | None, Array, Array]:
    """Returns what ``backward_update`` does, with tiles of one's own; ``interpret`` as of ``forward_by_tiles``."""
    new = [jax.ShapeDtypeStruct(v.shape, jnp.float32) for v in (w, b)]
    below = [jax.ShapeDtypeStruct(z.shape, jnp.float32)] if input_error else []
    found = pl.pallas_call(
        partial(_backward_update, sizes=sizes, precision=in_force()),
        out_shape=[*new, *below],
        grid=(pl.cdiv(w.shape[0], sizes.rows),),
        input_output_aliases={2: 0, 3: 1},
        compiler_params=triton.CompilerParams(num_warps=sizes.warps, num_stages=3),
        interpret=interpret,
        name="glorot_backward_update",
    )(z, error, w, b)
    return (found[2] if input_error else None), found[0], found[1]


def _forward(z_ref, w_ref, b_ref, s_ref, *, sizes: Tiles, precision: str) -> None:
    """A strip of columns of s: W's tiles are added up from the first row to the last."""
    batch, (fan_in, fan_out) = z_ref.shape[0], w_ref.shape
    columns = _Span(pl.program_id(0) * sizes.columns, sizes.columns, fan_out)
    examples = _Span(0, sizes.batch, batch)

    def add(i, total):
        rows = _Span(i * sizes.rows, sizes.rows, fan_in)
        return total + _product(_load(z_ref, examples, rows), _load(w_ref, rows, columns), (1, 0), precision)

    zero = jnp.zeros((sizes.batch, sizes.columns), jnp.float32)
    total = jax.lax.fori_loop(0, pl.cdiv(fan_in, sizes.rows), add, zero)
    _store(s_ref, total + _load(b_ref, columns)[None, :], examples, columns)


def _backward_update(z_ref, error_ref, w_ref, b_ref, new_w_ref, new_b_ref, *below_ref, sizes: Tiles, precision: str):
    """A strip of rows of the new W, and of zᵉ if there is a place for it; the first strip has the biases, too."""
    batch, (fan_in, fan_out) = z_ref.shape[0], w_ref.shape
    strip = pl.program_id(0)
    rows, examples = _Span(strip * sizes.rows, sizes.rows, fan_in), _Span(0, sizes.batch, batch)
    z = _load(z_ref, examples, rows)

    def tile(i, below):
        columns = _Span(i * sizes.columns, sizes.columns, fan_out)
        error, w = _load(error_ref, examples, columns), _load(w_ref, rows, columns)
        _store(new_w_ref, w + _product(z, error, (0, 0), precision), rows, columns)

        @pl.when(strip == 0)
        def _():
            _store(new_b_ref, _load(b_ref, columns) + jnp.sum(error, axis=0), columns)

        return below + _product(error, w, (1, 1), precision) if below_ref else below

    zero = jnp.zeros((sizes.batch, sizes.rows), jnp.float32)
    below = jax.lax.fori_loop(0, pl.cdiv(fan_out, sizes.columns), tile, zero)
    for ref in below_ref:
        _store(ref, below, examples, rows)


class _Span(NamedTuple):
    """Places ``first`` to ``first + count`` along an axis of ``size``; those behind its end are no places."""

    first: Any
    count: int
    size: int

    @property
    def is_whole(self) -> bool:
        return self.size % self.count == 0


def _load(ref, *spans: _Span) -> Array:
    """A tile, 0 where there is no place."""
    mask = _mask(spans)
    return triton.load(_tile(ref, spans), mask=mask, other=None if mask is None else 0.0)


def _store(ref, values: Array, *spans: _Span) -> None:
    triton.store(_tile(ref, spans), values, mask=_mask(spans))


def _tile(ref, spans: Sequence[_Span]):
    return ref.at[tuple(pl.ds(span.first, span.count) for span in spans)]


def _mask(spans: Sequence[_Span]) -> Array | None:
    """Which of a tile's places there are; None if all."""
    mask = None
    for axis, span in enumerate(spans):
        if not span.is_whole:
            inside = span.first + jnp.arange(span.count) < span.size
            inside = jnp.broadcast_to(
                jnp.expand_dims(inside, [a for a in range(len(spans)) if a != axis]), [s.count for s in spans]
            )
            mask = inside if mask is None else mask & inside
    return mask


def _product(a: Array, b: Array, axes: tuple[int, int], precision: str) -> Array:
    dtype, asked = _PRODUCTS[precision]
    return triton.dot(a.astype(dtype), b.astype(dtype), axes[0] == 0, axes[1] == 1, precision=asked)


def _power(size: int) -> int:
    """The power of two at or above a size, ``LEAST`` or more."""
    return max(LEAST, 1 << (size - 1).bit_length())


def _interpreted() -> bool:
    return jax.default_backend() == "cpu"
