"""Diagonal of the Hessian of the loss by layer: how curved it is along single weights, and how many curve downwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from glorot_jax.probes.probe import QUANTILES, Output, Probe, Scene, by_weight, by_weight_labels
from glorot_jax.rounding import mean, mean_square, quantile, share, std, times
from glorot_jax.spectra import Estimate

VECTORS = 16
_PROBE_SEED = 4


def _measure(scene: Scene) -> dict[str, Array]:
    found = _diagonal(scene)
    entries, noise = found.mean, {name: jnp.sqrt(mean_square(e.ravel())) for name, e in found.error.items()}
    average = {path: _over_vectors(found.means[path]) for path in scene.weights}

    def placed(name: str, value: Callable[[str], Array]) -> dict[str, Array]:
        return by_weight(scene, f"hessian_diagonal_{name}", {path: value(path) for path in scene.weights})

    return {
        **placed("mean", lambda path: average[path].value),
        **placed("mean_error", lambda path: average[path].error),
        **placed("std", lambda path: _true_spread(entries[path], noise[path])),
        **placed("quantile", lambda path: quantile(entries[path], QUANTILES)),
        **placed("negative_fraction", lambda path: share(entries[path] < 0)),
        **placed("error", lambda path: noise[path]),
    }


class _Diagonal(NamedTuple):
    """Estimated entries and their standard errors, by path; and each vector's mean over the entries."""

    mean: Mapping[str, Array]
    error: Mapping[str, Array]
    means: Mapping[str, Float[Array, "vectors"]]


def _diagonal(scene: Scene) -> _Diagonal:
    """Mean and standard error of v ⊙ H v over Rademacher vectors v: E v_i (H v)_i = H_ii.

    One vector after the other, with running moments: matfree's and traceax's estimators hold all vectors' products at
    once, and their sums change bits with what they are fused with.
    """

    def one(moments: tuple[Array, Array], numbered: tuple[Array, Key[Array, ""]]) -> tuple[tuple[Array, Array], Array]:
        (average, squares), (count, key) = moments, numbered
        vector = jax.random.rademacher(key, (scene.size,), jnp.float32)
        entries = times(vector, scene.flat_hessian_product(vector))
        apart = entries - average
        average = average + times(apart, 1 / count)
        squares = squares + times(apart, entries - average)
        return (average, squares), {k: mean(v.ravel()) for k, v in scene.unflat(entries).items()}

    counts = jnp.arange(1, VECTORS + 1, dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(_PROBE_SEED), VECTORS)
    (average, squares), means = jax.lax.scan(one, (jnp.zeros(scene.size),) * 2, (counts, keys))
    error = jnp.sqrt(jnp.maximum(squares, 0) * np.float32(1 / (VECTORS * (VECTORS - 1))))
    return _Diagonal(scene.unflat(average), scene.unflat(error), means)


def _over_vectors(values: Float[Array, "vectors"]) -> Estimate:
    """Their mean and its standard error."""
    return Estimate(mean(values), std(values) * np.float32((len(values) - 1) ** -0.5))


def _true_spread(entries: Array, noise: Float[Array, ""]) -> Float[Array, ""]:
    """Standard deviation of the entries less what the estimates' own noise adds to it; 0 where that is all."""
    seen = std(entries)
    return jnp.sqrt(jnp.maximum((seen - noise) * (seen + noise), 0))


def _outputs(scene: Scene) -> dict[str, Output]:
    method = f"Hutchinson, v ⊙ Hv of {VECTORS} Rademacher vectors; mean loss of the fixed test examples"
    noisy = f"{method}; of the estimated entries, widened by their error"
    what = "of the diagonal of the loss' Hessian over a layer's weights"
    label = functools.partial(Output, ("layer",), units=scene.loss_units)
    of = {"examples": scene.examples}
    labels = {
        "mean": label(f"mean {what}", attrs=of | {"method": method}),
        "mean_error": label(f"standard error of the mean {what}", attrs=of | {"method": method}),
        "std": label(
            f"standard deviation {what}",
            attrs=of | {"method": f"{method}; the estimates' own variance taken off, 0 where that is all there is"},
        ),
        "quantile": label(f"quantile {what}", attrs=of | {"method": noisy})._replace(dims=("layer", "quantile")),
        "negative_fraction": label(f"share of negative entries {what}", units="1", attrs=of | {"method": noisy}),
        "error": label(f"root mean square standard error of the entries {what}", attrs=of | {"method": method}),
    }
    return {
        output: made
        for name, one in labels.items()
        for output, made in by_weight_labels(scene, f"hessian_diagonal_{name}", one).items()
    }


hessian_diagonal = Probe(
    name="hessian_diagonal",
    measure=_measure,
    outputs=_outputs,
    source="Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a matrix, Applied Numerical "
    "Mathematics 57",
    any_depth=True,
)
