"""Residual branches: how one joins the stream, how its weights start, and what normalizes it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glorot_jax.errors import InputError
from glorot_jax.models.points import show, show_layer

Initializer = Callable[..., Array]
Number = float | Float[Array, ""] | nnx.Variable


class Scheme(NamedTuple):
    """The stream x becomes skip · x + branch · F(x); what is said of weights is a factor on their initial values.

    Attributes:
        skip: factor on the stream, 0 for a network without skip connections.
        branch: fixed factor on the branch.
        trained: whether the branch has a trained factor instead, which starts at the model's ``alpha``.
        scalars: whether a branch has Fixup's scalar biases and multiplier, in place of a bias for each unit.
        inner, last: of a branch's weight layers but the last, and of the last.
        output: of the network's last layer.
    """

    skip: float = 1.0
    branch: float = 1.0
    trained: bool = False
    scalars: bool = False
    inner: float = 1.0
    last: float = 1.0
    output: float = 1.0


SCHEMES: dict[str, Callable[[int, int], Scheme]] = {
    "none": lambda branches, layers: Scheme(skip=0.0),
    "plain": lambda branches, layers: Scheme(),
    "stable": lambda branches, layers: Scheme(branch=branches**-0.5),
    "rezero": lambda branches, layers: Scheme(trained=True),
    "skipinit": lambda branches, layers: Scheme(trained=True),
    "fixup": lambda branches, layers: Scheme(
        scalars=True, inner=branches ** (-1 / (2 * layers - 2)), last=0.0, output=0.0
    ),
    "gpt2": lambda branches, layers: Scheme(last=branches**-0.5),
    "deepnorm": lambda branches, layers: Scheme(
        skip=branches**0.25, inner=(4 * branches) ** -0.25, last=(4 * branches) ** -0.25
    ),
}
"""By name, of the number of residual branches and of weight layers in one.

- ``none``: no skip connection.
- ``plain``: x + F(x). He et al. (2015), arXiv:1512.03385, equation 1.
- ``stable``: x + F(x)/√L. Hayou et al. (2021), arXiv:2010.12859, section 3.
- ``rezero``: x + α F(x), α trained from 0. Bachlechner et al. (2020), arXiv:2003.04887, equation 2.
- ``skipinit``: the same for networks with convolutions. De & Smith (2020), arXiv:2002.10444, section 4.
- ``fixup``: weights of a branch of m layers × L^(−1/(2m−2)), its last layer and the network's 0, scalar biases and
  multipliers. Zhang et al. (2019), arXiv:1901.09321, section 3.
- ``gpt2``: last layer of each branch × 1/√L. Radford et al. (2019), Language models are unsupervised multitask
  learners, section 2.3.
- ``deepnorm``: α x + F(x), then a normalization; weights × β. With L = 2N branches, α = (2N)^(1/4) and
  β = (8N)^(−1/4). Wang et al. (2022), arXiv:2203.00555, figure 2.
"""


def scheme(name: str, *, branches: int, layers: int, normalization: str, placement: str) -> Scheme:
    """Returns what a residual scheme says of a network.

    Args:
        name: one of ``SCHEMES``.
        branches: L ≥ 1, the number of residual branches.
        layers: m ≥ 1, weight layers of a branch.

    Raises:
        InputError: the scheme does not go with the rest.
    """
    if name == "fixup" and layers < 2:
        raise InputError(f"model.residual: 'fixup' wants branches of at least 2 layers, not {layers}")
    if name == "fixup" and normalization != "none":
        raise InputError(f"model.residual: 'fixup' goes with normalization='none', not {normalization!r}")
    if name == "deepnorm" and (normalization == "none" or placement != "post"):
        raise InputError("model.residual: 'deepnorm' wants a normalization and placement='post'")
    return SCHEMES[name](branches, layers)


def norm_layer(kind: str, features: int, *, rngs: nnx.Rngs) -> nnx.Module | None:
    """Returns a normalization of the last axis, or None for ``"none"``.

    Sources: Ioffe & Szegedy (2015), arXiv:1502.03167; Ba et al. (2016), arXiv:1607.06450; Zhang & Sennrich (2019),
    arXiv:1910.07467.
    """
    kinds = {"batch": nnx.BatchNorm, "layer": nnx.LayerNorm, "rms": nnx.RMSNorm}
    return None if kind == "none" else kinds[kind](features, rngs=rngs)


def scaled(init: Initializer, *factors: Number) -> Initializer:
    """Returns an initializer whose weights are those of ``init`` times all factors; 0 if one is the number 0."""

    def weights(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        if any(isinstance(factor, float) and factor == 0 for factor in factors):
            return jnp.zeros(shape, dtype)
        return functools.reduce(lambda w, factor: factor * w, factors, init(key, shape, dtype))

    return weights


def readout_init(kind: str, init: Initializer, *factors: Number) -> Initializer:
    """Returns the initializer of a last layer: as of the others, or over √fan_in more for µP, or 0.

    Source: Yang et al. (2022), arXiv:2203.03466, table 3 and section D.2.
    """
    if kind == "zero":
        return scaled(init, 0.0)
    if kind == "init":
        return scaled(init, *factors)
    return lambda key, shape, dtype=jnp.float32: scaled(init, *factors, shape[0] ** -0.5)(key, shape, dtype)


def check_counts(**values: int) -> None:
    """Raises InputError if a model's argument is not an integer from 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"model.{name}: {value!r} is not an integer ≥ 1")


class Stack(nnx.Module):
    """Weight layers with activations between them; after a single one there is an activation as well.

    Args:
        layers: modules of one array.
        norms: a normalization or None after each layer.
        scalars: whether Fixup's scalar biases stand before each layer and activation and at the end, and a multiplier
            before the last of them.
    """

    def __init__(
        self,
        layers: Sequence[nnx.Module],
        activation: Callable[[Array], Array],
        *,
        norms: Sequence[nnx.Module | None] = (),
        scalars: bool = False,
    ):
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms or [None] * len(layers))
        self.activation = activation
        self.biases = nnx.Param(jnp.zeros(2 * len(layers))) if scalars else None
        self.multiplier = nnx.Param(jnp.ones(())) if scalars else None

    def __call__(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        count = len(self.layers)
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            z = layer(self._shifted(z, 2 * i))
            z = z if norm is None else norm(z)
            if i < count - 1 or count == 1:
                z = show_layer(self, f"hidden{i + 1}", self._shifted(z, 2 * i + 1), self.activation)
        return z if self.multiplier is None else self._shifted(self.multiplier[...] * z, 2 * count - 1)

    def _shifted(self, z: Array, i: int) -> Array:
        return z if self.biases is None else z + self.biases[i]


class Residual(nnx.Module):
    """x ↦ after(skip · x + factor · inner(before(x))), shown as the points ``branch`` and ``stream``.

    Args:
        inner: the branch.
        before, after: normalizations.
        shortcut: of the stream, where the branch changes its shape.
        activation: of the sum, as in the residual networks of 2015.
        alpha: at which the branch's factor starts where the scheme trains one.
    """

    def __init__(
        self,
        inner: nnx.Module,
        scheme: Scheme,
        *,
        alpha: Number = 0.0,
        before: nnx.Module | None = None,
        after: nnx.Module | None = None,
        shortcut: Callable[[Array], Array] | None = None,
        activation: Callable[[Array], Array] | None = None,
    ):
        self.inner, self.before, self.after = inner, before, after
        self.shortcut, self.activation = shortcut, activation
        self.skip, self.branch_factor = scheme.skip, scheme.branch
        self.factor = nnx.Param(jnp.asarray(1.0) * alpha) if scheme.trained else None

    def __call__(self, x: Float[Array, "batch ..."], **settings: Any) -> Float[Array, "batch ..."]:
        z = x if self.before is None else self.before(x)
        factor = self.branch_factor if self.factor is None else self.factor[...]
        branch = show(self, "branch", _times(factor, self.inner(z, **settings)))
        x = x if self.shortcut is None else self.shortcut(x)
        x = branch if self.skip == 0 else _times(self.skip, x) + branch
        x = x if self.after is None else self.after(x)
        return show(self, "stream", x) if self.activation is None else show_layer(self, "stream", x, self.activation)


def _times(factor: float | Array, x: Array) -> Array:
    return x if isinstance(factor, float) and factor == 1 else factor * x
