"""By which method a layer Jacobian's singular values are found: the one asked for, or the usual one for its size."""

from __future__ import annotations

from glorot_jax import spectra
from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.probe import EXACT_UP_TO, Scene

VECTORS, STEPS = 4, 20
PROBE_SEED = 0
SAID = {
    "exact": "exact SVD",
    "gram": "eigenvalues of the Gram matrix J Jᵀ (smaller side)",
    "lanczos": f"Lanczos quadrature, {VECTORS} Rademacher vectors × {STEPS} steps",
}
"""The methods, in the words of a record's label."""


def chosen(method: str, scene: Scene, layer: LayerPoints) -> str:
    """Returns ``"exact"``, ``"gram"`` or ``"lanczos"``: what ``method``, which may be ``"auto"``, means for a layer."""
    if method != "auto":
        return method
    return "exact" if min(scene.params[layer.weight].shape) <= EXACT_UP_TO else "lanczos"


def by_layer(method: str, scene: Scene, **otherwise: str) -> str:
    """Returns what each layer's method is called, for a label.

    Args:
        otherwise: by method, what is said in place of ``SAID``.
    """
    said = SAID | otherwise
    names = [chosen(method, scene, layer) for layer in scene.hidden]
    return "; ".join(f"layer {i}: {said[name]}" for i, name in enumerate(names, start=1))


DECOMPOSITIONS = {"exact": spectra.singular_values, "gram": spectra.gram_singular_values}
"""The methods that need the matrix itself."""
