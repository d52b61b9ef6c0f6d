"""Residual multi-layer perceptrons: dense branches along a stream of one width."""

from __future__ import annotations

from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, Float

from glorot_jax.models.choices import Normalization, Placement, Readout, Scheme, check_choice
from glorot_jax.models.points import show, show_layer
from glorot_jax.models.precision import dot_general
from glorot_jax.models.residual import (
    Number,
    Residual,
    Stack,
    check_counts,
    norm_layer,
    readout_init,
    scaled,
    scheme,
)


class ResidualMlp(nnx.Module):
    """Logits of a dense layer, ``depth`` residual blocks and a dense layer.

    A branch of one layer is f(W x + b), of more W_m f(… f(W_1 x + b_1)) + b_m: the reduced and the full residual
    network of the mean-field theory.

    Args:
        features, classes: sizes of input and output.
        depth, width, layers: residual blocks, units of the stream and of a branch, weight layers of a branch.
        normalization: ``"none"``, ``"batch"``, ``"layer"`` or ``"rms"``.
        placement: of the normalization: ``"pre"`` = before each branch and before the last layer, ``"post"`` = after
            each sum, ``"inner"`` = after each weight layer of a branch.
        residual: one of ``residual.SCHEMES``.
        readout: initial weights of the last layer: ``"init"`` = as of the others, ``"mup"`` = those over √fan_in,
            ``"zero"``.
        alpha: at which trained factors of branches start.
        gain: factor on all initial weights.

    Raises:
        InputError: an argument is none of these.

    Source: He et al. (2015), arXiv:1512.03385; Yang & Schoenholz (2017), arXiv:1712.08969, section 2.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        depth: int = 8,
        width: int = 128,
        layers: int = 2,
        normalization: str = "none",
        placement: str = "pre",
        residual: str = "plain",
        readout: str = "init",
        alpha: Number = 0.0,
        gain: Number = 1.0,
        activation: Callable[[Array], Array],
        init: Callable[..., Array],
        rngs: nnx.Rngs,
    ):
        check_counts(depth=depth, width=width, layers=layers)
        check_choice("normalization", normalization, Normalization)
        check_choice("placement", placement, Placement)
        check_choice("residual", residual, Scheme)
        check_choice("readout", readout, Readout)
        says = scheme(residual, branches=depth, layers=layers, normalization=normalization, placement=placement)

        def dense(size_in: int, size_out: int, weights: Callable, use_bias: bool = True) -> nnx.Linear:
            return nnx.Linear(
                size_in, size_out, kernel_init=weights, use_bias=use_bias, dot_general=dot_general, rngs=rngs
            )

        def norm_at(place: str) -> nnx.Module | None:
            return norm_layer(normalization if place == placement else "none", width, rngs=rngs)

        def block() -> Residual:
            factors = [says.inner] * (layers - 1) + [says.last]
            inner = Stack(
                [dense(width, width, scaled(init, f, gain), not says.scalars) for f in factors],
                activation,
                norms=[norm_at("inner") for _ in factors],
                scalars=says.scalars,
            )
            return Residual(inner, says, alpha=alpha, before=norm_at("pre"), after=norm_at("post"))

        self.stem = dense(features, width, scaled(init, gain))
        self.blocks = nnx.List([block() for _ in range(depth)])
        self.norm = norm_at("pre")
        self.head = dense(width, classes, readout_init(readout, init, says.output, gain))

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        x = show(self, "stem_output", self.stem(x.reshape(len(x), -1)))
        for block in self.blocks:
            x = block(x)
        x = x if self.norm is None else self.norm(x)
        return show_layer(self, "logits", self.head(x))
