"""A network's Jacobians on one example, as products, and by which method their singular values are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glorot_jax import spectra
from glorot_jax.branches import if_any
from glorot_jax.errors import InputError, unknown
from glorot_jax.models.points import INPUT, LayerPoints
from glorot_jax.probes.probe import EXACT_UP_TO, Scene, by_point, forward_shifted, only, told_by_layer
from glorot_jax.rounding import norm, times

VECTORS, STEPS = 4, 20
PROBE_SEED = 0
SAID = {
    "exact": "exact SVD",
    "gram": "eigenvalues of the Gram matrix J Jᵀ (smaller side)",
    "lanczos": f"Lanczos quadrature, {VECTORS} Rademacher vectors × {STEPS} steps",
}
"""The methods, in the words of a record's label."""

DECOMPOSITIONS = {"exact": spectra.singular_values, "gram": spectra.gram_singular_values}
"""The methods that need the matrix itself."""


class Jacobian(NamedTuple):
    """J [m, n] on one example.

    Attributes:
        ahead, back: v -> J v and u -> Jᵀ u.
        frobenius: ‖J‖_F where it is known without forming J.
    """

    ahead: Callable[[Float[Array, "n"]], Float[Array, "m"]]
    back: Callable[[Float[Array, "m"]], Float[Array, "n"]]
    shape: tuple[int, int]
    frobenius: Float[Array, ""] | None = None

    def matrix(self) -> Float[Array, "m n"]:
        """J itself, by as many products as its smaller side has."""
        by_rows = self.shape[0] <= self.shape[1]
        rows = jax.vmap(self.back if by_rows else self.ahead)(jnp.eye(min(self.shape)))
        return rows if by_rows else rows.T

    def rms(self) -> spectra.Estimate:
        """Root mean square of the singular values: exact where ‖J‖_F is known, else from few products."""
        if self.frobenius is not None:
            return spectra.Estimate(self.frobenius * np.float32(min(self.shape) ** -0.5), jnp.zeros(()))
        return spectra.lanczos_rms(self.ahead, self.back, self.shape, jax.random.key(PROBE_SEED), VECTORS)


def between(scene: Scene, source: str, target: str, x: Float[Array, "..."]) -> Jacobian:
    """Returns ∂(value of ``target``)/∂(value of ``source``), both as vectors, on one input.

    Along every path that leads from one point to the other; what goes around the source is constant.

    Raises:
        InputError: the network shows no such point, or the target does not come after the source.
    """
    points = scene.notes.points
    for name in (source, target):
        if name not in points:
            raise unknown("jacobian", name, points)
    if points.index(source) >= points.index(target):
        raise InputError(f"jacobian: {target!r} does not come after {source!r}")
    zeros = scene.zeros(x[None])
    nothing = by_point(zeros)[source]

    def shown(v: Float[Array, "n"]) -> Float[Array, "m"]:
        shifts = only(zeros, source, v.reshape(nothing.shape))
        return forward_shifted(scene.module, x[None], shifts)[1][target].ravel()

    value, back = jax.vjp(shown, jnp.zeros(nothing.size))
    ahead = jax.linear_transpose(lambda u: back(u)[0], value)  # not jvp, which a rule of one's own for vjp forbids
    return Jacobian(lambda v: ahead(v)[0], lambda u: back(u)[0], (value.size, nothing.size))


class LayerJacobians(NamedTuple):
    """∂z^i/∂z^(i−1) of one hidden layer on the first ``jacobian_examples`` fixed examples.

    Attributes:
        examples: what ``matrix`` and ``products`` are of, along a leading axis.
        shape: of each Jacobian.
        matrix: of one of ``examples``.
        products: gives what is known of one of ``examples`` without the matrix.
    """

    examples: Float[Array, "jacobian_examples ..."]
    shape: tuple[int, int]
    matrix: Callable[[Array], Float[Array, "m n"]]
    products: Callable[[], Callable[[Array], Jacobian]]


def of_layer(scene: Scene, layer: LayerPoints) -> LayerJacobians:
    """Returns a hidden layer's Jacobians: of its slopes and weights where it is dense, else through the network.

    z^(i−1) of a layer that is not dense is the activation of the hidden layer shown before, or the network's input.
    """
    if layer.weight is not None:
        weight = scene.params[layer.weight]
        shape = (weight.shape[1], weight.shape[0])

        def products() -> Callable[[Float[Array, "fan_out"]], Jacobian]:
            columns = jax.vmap(norm)(weight.T)
            return lambda slope: Jacobian(
                lambda v: slope * (v @ weight), lambda u: weight @ (slope * u), shape, norm(times(slope, columns))
            )

        slopes = scene.slopes[layer.activation]
        return LayerJacobians(slopes, shape, lambda slope: slope[:, None] * weight.T, products)
    place = scene.hidden.index(layer)
    source = scene.hidden[place - 1].activation if place else INPUT
    inputs = scene.inputs[: scene.jacobian_examples]

    def at(x: Array) -> Jacobian:
        return between(scene, source, layer.activation, x)

    sizes = [scene.values[name][0].size for name in (layer.activation, source)]
    return LayerJacobians(inputs, (sizes[0], sizes[1]), lambda x: at(x).matrix(), lambda: at)


def by_example(scene: Scene, layer: LayerPoints, look: Callable[[Array], Any]) -> Any:
    """Returns what ``look`` sees on each of the examples of a hidden layer's Jacobians, one after the other.

    Where runs have different depths, a block does without it for a layer that none of its runs has.
    """
    examples, has = of_layer(scene, layer).examples, scene.has(layer)
    return jax.lax.map(look, examples) if has is None else if_any(has, partial(jax.lax.map, look), examples)


def decomposed(scene: Scene, layer: LayerPoints, method: str) -> Any:
    """Returns ``DECOMPOSITIONS[method]`` of a hidden layer's Jacobians, example by example; done once for all."""
    jacobians = of_layer(scene, layer)
    return scene.once(
        (layer.activation, method),
        lambda: by_example(scene, layer, lambda example: DECOMPOSITIONS[method](jacobians.matrix(example))),
    )


def usual(method: str, shape: tuple[int, int]) -> str:
    """Returns ``"exact"``, ``"gram"`` or ``"lanczos"``: what ``method``, which may be ``"auto"``, means for a shape."""
    if method != "auto":
        return method
    return "exact" if min(shape) <= EXACT_UP_TO else "lanczos"


def chosen(method: str, scene: Scene, layer: LayerPoints) -> str:
    """Returns what ``method`` means for a layer."""
    return usual(method, of_layer(scene, layer).shape)


def by_layer(method: str, scene: Scene, **otherwise: str) -> str:
    """Returns what each layer's method is called, for a label.

    Args:
        otherwise: by method, what is said in place of ``SAID``.
    """
    said = SAID | otherwise
    return told_by_layer([said[chosen(method, scene, layer)] for layer in scene.hidden])


def known_rms(scene: Scene, layers: Sequence[LayerPoints], method: str) -> str:
    """Returns by which way the root mean square of each layer's singular values is known, for a label."""
    estimated = [layer.weight is None and chosen(method, scene, layer) == "lanczos" for layer in layers]
    return told_by_layer([f"estimated from {VECTORS} products" if e else "exact, ‖J‖_F" for e in estimated])
