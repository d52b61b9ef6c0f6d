"""glorot_jax: train whole grids of deep networks as one compiled program, and watch how they start to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glorot_jax.config import grid
from glorot_jax.engine.sweep import Sweep, load_sweep
from glorot_jax.search import dropping, successive_halving
from glorot_jax.specs import (
    adam,
    arrays,
    at,
    cifar10,
    cnn,
    denoising,
    digits,
    every,
    fashion_mnist,
    gradient_variance,
    jacobian,
    levenberg_marquardt,
    log_spaced,
    mlp,
    mnist,
    modular_addition,
    module,
    optimizer,
    probe,
    residual_mlp,
    resnet,
    rmsprop,
    sgd,
    shapeset,
    small_imagenet,
    tfds,
    transformer,
)

if TYPE_CHECKING:
    from glorot_jax.analysis.claims import claim
    from glorot_jax.analysis.comparison import compare
    from glorot_jax.analysis.measures import Undecided, growth_exponent, per_seed
    from glorot_jax.analysis.results import load
    from glorot_jax.analysis.tables import table
    from glorot_jax.engine.drive import resume, run
    from glorot_jax.engine.planning.plan import plan
    from glorot_jax.models.points import show, show_layer

__version__ = "0.1.0"

__all__ = [
    "Sweep",
    "Undecided",
    "adam",
    "arrays",
    "at",
    "cifar10",
    "claim",
    "cnn",
    "compare",
    "denoising",
    "digits",
    "dropping",
    "every",
    "fashion_mnist",
    "gradient_variance",
    "grid",
    "growth_exponent",
    "jacobian",
    "levenberg_marquardt",
    "load",
    "load_sweep",
    "log_spaced",
    "mlp",
    "mnist",
    "modular_addition",
    "module",
    "optimizer",
    "per_seed",
    "plan",
    "probe",
    "residual_mlp",
    "resnet",
    "resume",
    "rmsprop",
    "run",
    "sgd",
    "shapeset",
    "show",
    "show_layer",
    "small_imagenet",
    "successive_halving",
    "table",
    "tfds",
    "transformer",
]

_LATER = {
    "Undecided": "glorot_jax.analysis.measures",
    "claim": "glorot_jax.analysis.claims",
    "compare": "glorot_jax.analysis.comparison",
    "growth_exponent": "glorot_jax.analysis.measures",
    "per_seed": "glorot_jax.analysis.measures",
    "run": "glorot_jax.engine.drive",
    "resume": "glorot_jax.engine.drive",
    "plan": "glorot_jax.engine.planning.plan",
    "load": "glorot_jax.analysis.results",
    "table": "glorot_jax.analysis.tables",
    "show": "glorot_jax.models.points",
    "show_layer": "glorot_jax.models.points",
}


def __getattr__(name: str) -> Any:
    """Imports what needs JAX or pandas only when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'glorot_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)
