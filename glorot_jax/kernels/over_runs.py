"""A dense layer's passes for all runs of a block in one call of a foreign function, under any nest of ``jax.vmap``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from glorot_jax.kernels import dense


class Passes(NamedTuple):
    """``forward`` and ``backward_update`` of one run, as ``kernels.dense`` has them."""

    forward: Callable[..., Array]
    backward_update: Callable[..., tuple[Array | None, Array, Array]]


def passes(target: Callable[[str, int], str], largest_batch: int | None = None) -> Passes:
    """Returns the passes whose foreign functions ``target`` names.

    Args:
        target: of one of ``library.SYMBOLS`` and a batch size; loads the library if it is not yet, and raises
            ``library.Unavailable`` where it can't.
        largest_batch: examples above which plain JAX does the work; None for no bound.
    """
    ahead = _of_one_run(partial(_forward, target), updated=0)
    back = _of_one_run(partial(_backward_update, target), updated=2)
    update = _of_one_run(partial(_update, target), updated=2)

    def too_large(z: Array) -> bool:
        return largest_batch is not None and len(z) > largest_batch

    def forward(
        z: Float[Array, "batch fan_in"], w: Float[Array, "fan_in fan_out"], b: Float[Array, " fan_out"]
    ) -> Float[Array, "batch fan_out"]:
        """Returns s = z W + b, in float32, each element summed in an order that its shape decides."""
        return dense.forward(z, w, b) if too_large(z) else ahead(z, w, b)[0]

    def backward_update(
        z: Float[Array, "batch fan_in"],
        error: Float[Array, "batch fan_out"],
        w: Float[Array, "fan_in fan_out"],
        b: Float[Array, " fan_out"],
        *,
        input_error: bool,
    ) -> tuple[Float[Array, "batch fan_in"] | None, Float[Array, "fan_in fan_out"], Float[Array, " fan_out"]]:
        """Returns error Wᵀ if ``input_error``, else None, W + zᵀ error and b + Σ error, in one pass over W, in place.

        Args:
            error: −ε ∂C/∂s.
            input_error: whether −ε ∂C/∂z is asked for.
        """
        if too_large(z):
            return dense.backward_update(z, error, w, b, input_error=input_error)
        return back(z, error, w, b) if input_error else (None, *update(z, error, w, b))

    return Passes(forward, backward_update)


def _forward(target: Callable, z: Array, w: Array, b: Array) -> tuple[Array]:
    runs, batch = max(len(z), len(w), len(b)), z.shape[1]
    return (jax.ffi.ffi_call(target("GlorotForward", batch), _float32(runs, batch, w.shape[2]))(z, w, b),)


def _backward_update(target: Callable, z: Array, error: Array, w: Array, b: Array) -> tuple[Array, ...]:
    results = (_float32(len(w), *z.shape[1:]), _float32(*w.shape), _float32(*b.shape))
    name = target("GlorotBackwardUpdate", z.shape[1])
    return tuple(jax.ffi.ffi_call(name, results, input_output_aliases={2: 1, 3: 2})(z, error, w, b))


def _update(target: Callable, z: Array, error: Array, w: Array, b: Array) -> tuple[Array, ...]:
    results = (_float32(*w.shape), _float32(*b.shape))
    name = target("GlorotUpdate", z.shape[1])
    return tuple(jax.ffi.ffi_call(name, results, input_output_aliases={2: 0, 3: 1})(z, error, w, b))


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _of_one_run(of_runs: Callable, updated: int) -> Callable:
    """Makes a function of one run from one of arrays [runs or 1, …], right under any nest of vmaps.

    Args:
        of_runs: what all runs share has 1 in place of runs; returns a tuple of arrays [runs, …].
        updated: so many arguments, the last, are updated in place: runs never share them.
    """

    @custom_vmap
    def runs(*arrays):
        return of_runs(*arrays)

    @runs.def_vmap
    def _(size, batched, *arrays):
        within = max(a.shape[1 if along else 0] for a, along in zip(arrays, batched, strict=True))
        merged = []
        for place, (a, along) in enumerate(zip(arrays, batched, strict=True)):
            shared = not along and len(a) == 1 and place < len(arrays) - updated
            merged.append(a if shared else _merged(a if along else a[None], size, within))
        results = runs(*merged)
        return tuple(r.reshape(size, within, *r.shape[1:]) for r in results), (True,) * len(results)

    @custom_vmap
    def run(*arrays):
        return tuple(r[0] for r in runs(*(a[None] for a in arrays)))

    @run.def_vmap
    def _(size, batched, *arrays):
        each = [a if along else a[None] for a, along in zip(arrays, batched, strict=True)]
        for place in range(len(each) - updated, len(each)):
            each[place] = jnp.broadcast_to(each[place], (size, *each[place].shape[1:]))
        results = runs(*each)
        return results, (True,) * len(results)

    return run


def _merged(array: Array, outer: int, inner: int) -> Array:
    """[outer or 1, inner or 1, …] as [outer · inner, …]."""
    rest = array.shape[2:]
    return jnp.broadcast_to(array, (outer, inner, *rest)).reshape(outer * inner, *rest)
