"""Optax transformations whose numeric hyper-parameters are arrays, so that no value is compiled into a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import optax
from jaxtyping import Array, Float

FACTORIES: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "rmsprop": optax.rmsprop,
}


def transformation(
    kind: str | Callable[..., optax.GradientTransformation],
    fixed: Mapping[str, object],
    hyper: Mapping[str, Float[Array, ""]],
) -> optax.GradientTransformation:
    """Returns the optimizer of one run.

    Args:
        kind: a name of ``FACTORIES`` or any factory of Optax's form.
        fixed: arguments that shape the program, such as ``nesterov``.
        hyper: numeric arguments of this run, scalars; traced values are welcome.
    """
    factory = FACTORIES[kind] if isinstance(kind, str) else kind
    return factory(**fixed, **hyper)


def stable_curvature(
    kind: str | Callable[..., optax.GradientTransformation],
    fixed: Mapping[str, object],
    hyper: Mapping[str, Float[Array, ""]],
) -> Callable[[], Float[Array, ""]] | None:
    """Returns what gives the curvature above which gradient descent on a quadratic overshoots and diverges.

    With the learning rate ε and momentum β it is 2/ε, 2(1 + β)/ε, or 2(1 + β)/((1 + 2β)ε) with Nesterov's.

    Args:
        kind, fixed, hyper: as of ``transformation``.

    Returns:
        None for all but stochastic gradient descent with a learning rate that is a number.

    Source: Cohen et al. (2021), arXiv:2103.00065, section 2 and appendix B.
    """
    if kind not in ("sgd", optax.sgd) or "learning_rate" not in hyper:
        return None

    def bound() -> Float[Array, ""]:
        momentum = hyper.get("momentum", 0.0)
        ahead = 1 + 2 * momentum if fixed.get("nesterov") else 1
        return 2 * (1 + momentum) / (ahead * hyper["learning_rate"])

    return bound
