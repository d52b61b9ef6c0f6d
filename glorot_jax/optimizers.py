"""Optax transformations whose numeric hyper-parameters are arrays, so that no value is compiled into a program."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key

from glorot_jax.errors import InputError

Tree = Any
"""Parameters, or what belongs to each of them."""


class RunningCurvature(NamedTuple):
    """What ``levenberg_marquardt`` keeps.

    Attributes:
        count: estimates taken so far.
        mean: their decaying mean, not yet divided by what its weights sum to.
    """

    count: Integer[Array, ""]
    mean: Tree


def levenberg_marquardt(
    learning_rate: Float[Array, ""],
    damping: Float[Array, ""],
    decay: Float[Array, ""],
    estimate: str = "gauss_newton",
    interval: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Returns θ ← θ − ε g / (h + μ), with h a decaying mean of the diagonal of the loss' curvature.

    Its ``update`` takes what the engine gives all optimizers that ask: ``obj_fn``, ``params -> mean loss of the
    mini-batch``; ``logits_fn``, ``params -> logits [batch, classes]``; ``random_key``, which makes the step's key; and
    ``step``, an integer that is the same for all runs.

    Args:
        learning_rate: ε.
        damping: μ > 0, what bounds the step where the loss is flat.
        decay: weight of the mean so far, in [0, 1).
        estimate: ``"gauss_newton"``, ``gauss_newton_diagonal``, or ``"hutchinson"``, the absolute value of the mean of
            ``hutchinson_diagonal``.
        interval: steps from one estimate to the next.

    Source: LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, section 9.1.
    """

    def init(params):
        return RunningCurvature(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(gradient, state, params, *, obj_fn, logits_fn, random_key, step, **_):
        def renewed(state):
            if estimate == "gauss_newton":
                found = gauss_newton_diagonal(logits_fn, params, random_key())
            else:
                found = hutchinson_diagonal(obj_fn, params, random_key())
            mean = jax.tree.map(lambda h, new: decay * h + (1 - decay) * new, state.mean, found)
            return RunningCurvature(state.count + 1, mean)

        state = renewed(state) if interval == 1 else jax.lax.cond(step % interval == 0, renewed, lambda s: s, state)
        weight = 1 - decay**state.count
        rate = jax.tree.map(lambda h: learning_rate / (jnp.abs(h) / weight + damping), state.mean)
        return jax.tree.map(lambda r, g: -r * g, rate, gradient), state

    return optax.GradientTransformationExtraArgs(init, update)


def gauss_newton_diagonal(logits_fn: Callable[[Tree], Array], params: Tree, key: Key[Array, ""]) -> Tree:
    """Returns an estimate, never negative, of the diagonal of the Gauss-Newton matrix of the mean log-likelihood loss.

    The matrix is (1/n) Σ_b J_bᵀ (diag p_b − p_b p_bᵀ) J_b, J_b the Jacobian of example b's logits and p_b its softmax.
    With S_b = diag √p_b − p_b √p_bᵀ, of which S_b S_bᵀ is the middle, and random signs v_b, it is the mean of
    (Σ_b J_bᵀ S_b v_b)² / n: one more pass forth and back.
    """
    logits, pull = jax.vjp(logits_fn, params)
    log_share = jax.nn.log_softmax(logits)
    signs = jnp.exp(log_share / 2) * jax.random.rademacher(key, logits.shape, logits.dtype)
    (found,) = pull(signs - jnp.exp(log_share) * jnp.sum(signs, axis=-1, keepdims=True))
    return jax.tree.map(lambda g: g * g / logits.shape[0], found)


def hutchinson_diagonal(obj_fn: Callable[[Tree], Array], params: Tree, key: Key[Array, ""]) -> Tree:
    """Returns v ⊙ H v for random signs v, whose mean is the diagonal of the Hessian H of ``obj_fn``.

    Source: Bekas, Kokiopoulou & Saad (2007), Applied Numerical Mathematics 57.
    """
    signs = optax.tree.random_like(key, params, jax.random.rademacher, dtype=jnp.float32)
    product = jax.jvp(jax.grad(obj_fn), (params,), (signs,))[1]
    return jax.tree.map(jnp.multiply, signs, product)


FACTORIES: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "rmsprop": optax.rmsprop,
    "gradient_variance": functools.partial(optax.rmsprop, centered=True),
    "levenberg_marquardt": levenberg_marquardt,
}


def transformation(
    kind: str | Callable[..., optax.GradientTransformation],
    fixed: Mapping[str, object],
    hyper: Mapping[str, Float[Array, ""]],
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of one run, which takes arguments beyond Optax's first three whether it needs them or not.

    Args:
        kind: a name of ``FACTORIES`` or any factory of Optax's form.
        fixed: arguments that shape the program, such as ``nesterov``.
        hyper: numeric arguments of this run, scalars; traced values are welcome.
    """
    factory = FACTORIES[kind] if isinstance(kind, str) else kind
    return optax.with_extra_args_support(factory(**fixed, **hyper))


def is_plain_descent(
    kind: str | Callable[..., optax.GradientTransformation], fixed: Mapping[str, object], numeric: Collection[str]
) -> bool:
    """Returns whether an optimizer is θ ← θ − ε g with one learning rate and nothing else.

    Args:
        kind, fixed: as of ``transformation``.
        numeric: names of its numeric arguments.
    """
    return kind in ("sgd", optax.sgd) and set(numeric) == {"learning_rate"} and fixed.get("momentum") is None


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


def scaled(
    inner: optax.GradientTransformationExtraArgs, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose updates of parameters, given by path, are ``factors`` times those of another."""

    def update(gradient, state, params=None, **extra):
        updates, state = inner.update(gradient, state, params, **extra)
        return {path: u if factors[path] == 1 else jnp.float32(factors[path]) * u for path, u in updates.items()}, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


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
