"""Optax transformations whose numeric hyper-parameters are arrays, so that no value is compiled into a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from glorot_jax.errors import InputError

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


def scaled(inner: optax.GradientTransformation, factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Returns an optimizer whose updates of parameters, given by path, are ``factors`` times those of another."""

    def update(gradient, state, params=None):
        updates, state = inner.update(gradient, state, params)
        return {path: u if factors[path] == 1 else jnp.float32(factors[path]) * u for path, u in updates.items()}, state

    return optax.GradientTransformation(inner.init, update)


def mup_factors(
    kind: str, shapes: Mapping[str, Sequence[int]], base_shapes: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Returns by what µP multiplies the learning rate of each parameter of a network, 1 in one of the base's size.

    With r_in and r_out the ratios of fan_in and fan_out to those of the base, r_out/r_in for SGD and 1/r_in for Adam
    and RMSProp; a bias or a normalization's scale has fan_in 1. That is table 3 of the source relative to a base: its
    SGD row is fan_out for input weights and biases, 1/fan_in for output weights, 1 for hidden ones, and its Adam row 1,
    1/fan_in and 1/fan_in. Initial weights are to be those of the same table: an initializer of variance ∝ 1/fan_in,
    and 1/fan_in² for output weights.

    Args:
        kind: ``"sgd"``, ``"adam"`` or ``"rmsprop"``.
        shapes, base_shapes: of the same parameters by path, [..., fan_in, fan_out] where they are matrices.

    Raises:
        InputError: the two are not one network in two widths.

    Source: Yang et al. (2022), arXiv:2203.03466, table 3; section B for what is relative to a base.
    """
    if shapes.keys() != base_shapes.keys():
        path = sorted(shapes.keys() ^ base_shapes.keys())[0]
        raise InputError(f"optimizer.mup: {path} is a parameter of the network or of its base alone")
    factors = {}
    for path, shape in shapes.items():
        wider_in, wider_out = _ratios(path, shape, base_shapes[path])
        factors[path] = (wider_out if kind == "sgd" else 1.0) / wider_in
    return factors


def _ratios(path: str, shape: Sequence[int], base: Sequence[int]) -> tuple[float, float]:
    """How many times wider than the base's a parameter's input and output are."""
    if len(shape) != len(base):
        raise InputError(f"optimizer.mup: {path} is {list(shape)} here and {list(base)} in the base")
    changed = [i for i, (size, basic) in enumerate(zip(shape, base, strict=True)) if size != basic]
    ratios = [shape[i] / base[i] for i in changed]
    if len(shape) == 1 or path.endswith("bias"):
        return 1.0, math.prod(ratios)
    if len(changed) > 2:
        raise InputError(f"optimizer.mup: {path} is {list(shape)} here and {list(base)} in the base: too much differs")
    if len(changed) == 2:
        return ratios[0], ratios[1]
    if not changed:
        return 1.0, 1.0
    is_output_side = changed[0] == len(shape) - 1
    return (1.0, ratios[0]) if is_output_side else (ratios[0], 1.0)
