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
