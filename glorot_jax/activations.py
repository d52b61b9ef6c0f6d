"""Activation functions: elementwise, with a value and a slope that are finite for every finite input."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

__all__ = [
    "arctan",
    "elu",
    "erf",
    "gelu",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "lecun_tanh",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanh",
]

Activation = Callable[[Array], Array]


def identity(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s: the linear network of the theory. Source: Glorot & Bengio (2010), equation 4."""
    return s


def sigmoid(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns 1 / (1 + e^−s), in (0, 1). Source: Glorot & Bengio (2010), section 2.3."""
    return jax.nn.sigmoid(s)


def tanh(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns tanh s, in (−1, 1). Source: Glorot & Bengio (2010), section 2.3."""
    return jnp.tanh(s)


def softsign(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s / (1 + |s|), in (−1, 1). Source: Bergstra et al. (2009), TR 1337, Université de Montréal."""
    return s / (1 + jnp.abs(s))


def relu(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns max(s, 0). Source: Nair & Hinton (2010), ICML."""
    return jax.nn.relu(s)


def gelu(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s Φ(s), Φ the exact normal distribution function. Source: Hendrycks & Gimpel (2016), arXiv:1606.08415."""
    return jax.nn.gelu(s, approximate=False)


def silu(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s / (1 + e^−s), also called swish. Source: Elfwing et al. (2017), arXiv:1702.03118."""
    return jax.nn.silu(s)


def elu(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s for s > 0, else e^s − 1. Source: Clevert et al. (2015), arXiv:1511.07289."""
    return jax.nn.elu(s)


def selu(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns λ s for s > 0, else λ α (e^s − 1); λ = 1.0507, α = 1.6733.

    Source: Klambauer et al. (2017), arXiv:1706.02515.
    """
    return jax.nn.selu(s)


def softplus(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns log(1 + e^s). Source: Dugas et al. (2001), NeurIPS."""
    return jnp.maximum(s, 0) + jnp.log1p(jnp.exp(-jnp.abs(s)))


def hard_tanh(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s clipped to [−1, 1]. Source: Collobert (2004), thesis, Université Paris VI."""
    return jax.nn.hard_tanh(s)


def lecun_tanh(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns 1.7159 tanh(2 s / 3), which maps ±1 to ±1.

    Source: LeCun et al. (1998), Efficient BackProp, section 4.4.
    """
    return 1.7159 * jnp.tanh(2 / 3 * s)


def erf(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the error function of s, in (−1, 1). Source: Williams (1996), Computing with infinite networks."""
    return jax.lax.erf(s)


def arctan(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the angle whose tangent is s, in [−π/2, π/2]."""
    return _arctan(s) if s.dtype == jnp.float32 else jnp.arctan(s)


@jax.custom_jvp
def _arctan(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """To float32, from its series at an angle halved twice.

    XLA's own of jaxlib 0.10 reads its argument from where none was put once it works on 16 numbers at a time: it
    crashes.
    """
    u = jnp.clip(s, -1e8, 1e8)  # where it is ±π/2 to float32, and the square finite
    for _ in range(2):
        u = u / (1 + jnp.sqrt(1 + u * u))
    square, series = u * u, jnp.zeros_like(u)
    for k in range(8, -1, -1):
        series = (-1) ** k / (2 * k + 1) + square * series
    return 4 * u * series


@_arctan.defjvp
def _(primals, tangents):
    (s,), (ds,) = primals, tangents
    return _arctan(s), ds / (1 + s * s)


def leaky_relu(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s for s > 0, else 0.01 s. Source: Maas et al. (2013), ICML workshop."""
    return jax.nn.leaky_relu(s)


def mish(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns s tanh(softplus(s)). Source: Misra (2019), arXiv:1908.08681."""
    return s * jnp.tanh(softplus(s))


def select(index: Integer[Array, ""], functions: tuple[Activation, ...], s: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns ``functions[index](s)``; the index may differ from run to run under vmap.

    The slope is chosen like the value, not summed over all functions with zeros for the others: a function that was
    not chosen can overflow without making anybody's gradient NaN (0 · ∞).

    On a CPU each function is compiled by itself, behind a branch that is taken if any run of the block wants it. So
    neither its own rounding nor that of what stands around it depends on which others the cohort has. Elsewhere all
    are computed and one is selected: branches cost more there than arithmetic.

    Args:
        functions: elementwise.
    """
    return _jet(functions, 0)(index, s)[0]


@functools.cache
def _jet(functions: tuple[Activation, ...], order: int) -> Callable[[Array, Array], tuple[Array, ...]]:
    """Value and derivatives up to ``order`` of the chosen function, which share what they have in common."""

    @jax.custom_batching.custom_vmap
    def choose(index: Array, s: Array) -> tuple[Array, ...]:
        return tuple(v[0] for v in _choose_in_block(functions, order, index[None], s[None]))

    @choose.def_vmap
    def _(size: int, batched: list[bool], index: Array, s: Array) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
        every = (True,) * (order + 1)
        if not batched[0]:
            return choose(index, s), every
        each = s if batched[1] else jnp.broadcast_to(s, (size, *s.shape))
        return _choose_in_block(functions, order, index, each), every

    @jax.custom_jvp
    def chosen(index: Array, s: Array) -> tuple[Array, ...]:
        return choose(index, s)

    @chosen.defjvp
    def _(primals, tangents):
        jet = _jet(functions, order + 1)(*primals)
        return jet[:-1], tuple(derivative * tangents[1] for derivative in jet[1:])

    return chosen


@functools.partial(jax.jit, static_argnums=(0, 1))
def _choose_in_block(functions: tuple[Activation, ...], order: int, index: Array, s: Array) -> tuple[Array, ...]:
    """The functions' jets by run: index [runs], s [runs, …]."""

    def among(index: Array, s: Array, *, branch: bool) -> tuple[Array, ...]:
        chosen = (jnp.zeros_like(s),) * (order + 1)
        for i, function in enumerate(functions):
            wanted = (index == i).reshape(-1, *(1,) * (s.ndim - 1))

            def take(wanted, s, chosen, function=function):
                return tuple(jnp.where(wanted, v, c) for v, c in zip(_derived(function, order, s), chosen, strict=True))

            if branch:
                chosen = jax.lax.cond(jnp.any(wanted), take, lambda _, s, c: c, wanted, s, chosen)
            else:
                chosen = take(wanted, s, chosen)
        return chosen

    return jax.lax.platform_dependent(
        index, s, cpu=functools.partial(among, branch=True), default=functools.partial(among, branch=False)
    )


def _derived(function: Activation, order: int, s: Array) -> tuple[Array, ...]:
    """Value and derivatives of an elementwise function."""
    if order == 0:
        return (function(s),)
    below, above = jax.jvp(functools.partial(_derived, function, order - 1), (s,), (jnp.ones_like(s),))
    return (*below, above[-1])
