"""Small transformers: an encoder of image patches, and a decoder of tokens that answers at the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glorot_jax.errors import InputError
from glorot_jax.models.choices import (
    Architecture,
    AttentionScale,
    Readout,
    TokenNormalization,
    TokenPlacement,
    TokenPool,
    TokenScheme,
    check_choice,
)
from glorot_jax.models.convolution import image_shape
from glorot_jax.models.points import show, show_layer
from glorot_jax.models.precision import dot_general, einsum
from glorot_jax.models.residual import (
    SCHEMES,
    Initializer,
    Number,
    Residual,
    Scheme,
    Stack,
    check_counts,
    norm_layer,
    readout_init,
    scaled,
    scheme,
)

POSITION_STD = 0.02


class Transformer(nnx.Module):
    """Logits of an embedding, ``depth`` blocks of attention and a two-layer perceptron, and a dense layer.

    Args:
        shape, classes: of one input, and size of the output. An encoder takes images (height, width, channels); a
            decoder takes tokens (length,), integers from 0 as floating numbers.
        architecture: ``"encoder"``: every patch sees all others; ``"decoder"``: a token sees those before it, and the
            last one answers.
        depth, width, heads: blocks, size of a token's vector, heads of an attention; heads divide the width.
        expansion: units of a perceptron's hidden layer, in widths.
        patch: side of an encoder's patches in pixels; it divides height and width.
        pool: what an encoder answers with: the ``"mean"`` over patches, or a ``"class"`` token of its own.
        vocabulary: of a decoder: number of tokens; one more than classes if not said.
        normalization: ``"layer"``, ``"rms"`` or ``"none"``.
        placement: of the normalization: ``"pre"`` = before each branch and before the last layer, ``"post"`` = after
            each sum.
        residual: one of ``residual.SCHEMES``, without those of convolutions, or ``"tfixup"``: weights of values, of
            attentions' outputs and of perceptrons × 0.67 N^(−1/4) in an encoder and (9N)^(−1/4) in a decoder of N
            blocks, embeddings × (9N)^(−1/4), no normalization.
        attention: ``"standard"`` = logits q·k/√d, ``"mup"`` = q·k/d, with d the size of a head.
        readout, alpha, gain: as of ``ResidualMlp``.

    Embeddings of tokens are drawn from N(0, 1), those of positions and the class token from N(0, 0.02²).

    Raises:
        InputError: an argument is none of these, or does not fit the inputs.

    Sources: Vaswani et al. (2017), arXiv:1706.03762; Dosovitskiy et al. (2020), arXiv:2010.11929; Xiong et al. (2020),
    arXiv:2002.04745, for the placement; Huang et al. (2020), ICML, section 3.2, for T-Fixup; Wang et al. (2022),
    arXiv:2203.00555, for DeepNorm; Yang et al. (2022), arXiv:2203.03466, definition 4.1, for µP's attention.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        architecture: str = "encoder",
        depth: int = 2,
        width: int = 64,
        heads: int = 4,
        expansion: int = 4,
        patch: int = 4,
        pool: str = "mean",
        vocabulary: int | None = None,
        normalization: str = "layer",
        placement: str = "pre",
        residual: str = "plain",
        attention: str = "standard",
        readout: str = "init",
        alpha: Number = 0.0,
        gain: Number = 1.0,
        activation: Callable[[Array], Array],
        init: Callable[..., Array],
        rngs: nnx.Rngs,
    ):
        vocabulary = vocabulary or classes + 1
        check_counts(depth=depth, width=width, heads=heads, expansion=expansion, patch=patch, vocabulary=vocabulary)
        for name, value, known in (
            ("architecture", architecture, Architecture),
            ("pool", pool, TokenPool),
            ("normalization", normalization, TokenNormalization),
            ("placement", placement, TokenPlacement),
            ("residual", residual, TokenScheme),
            ("attention", attention, AttentionScale),
            ("readout", readout, Readout),
        ):
            check_choice(name, value, known)
        if width % heads:
            raise InputError(f"model.heads: {heads} does not divide the width {width}")
        decoder = architecture == "decoder"
        says, embedded = _scheme(residual, depth, decoder, normalization, placement)
        if decoder:
            self.embedding = Tokens(shape, vocabulary, width, factor=embedded, rngs=rngs)
        else:
            weights = scaled(init, embedded, gain)
            self.embedding = Patches(shape, patch, width, class_token=pool == "class", init=weights, rngs=rngs)
        self.answer = "last" if decoder else {"mean": "mean", "class": "first"}[pool]

        def norm_at(place: str) -> nnx.Module | None:
            return norm_layer(normalization if place == placement else "none", width, rngs=rngs)

        def branch(inner: nnx.Module) -> Residual:
            return Residual(inner, says, alpha=alpha, before=norm_at("pre"), after=norm_at("post"))

        def block() -> nnx.Module:
            attend = Attend(1.0 if attention == "mup" else 0.5)
            return Block(
                branch(Attention(width, heads, says, attend, causal=decoder, init=init, gain=gain, rngs=rngs)),
                branch(_perceptron(width, expansion * width, says, activation, init=init, gain=gain, rngs=rngs)),
            )

        self.blocks = nnx.List(block() for _ in range(depth))
        self.norm = norm_at("pre")
        self.head = nnx.Linear(
            width,
            classes,
            kernel_init=readout_init(readout, init, says.output, gain),
            dot_general=dot_general,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        x = show(self, "embedded", self.embedding(x))
        for block in self.blocks:
            x = block(x)
        x = x if self.norm is None else self.norm(x)
        pooled = {"mean": lambda: jnp.mean(x, axis=1), "first": lambda: x[:, 0], "last": lambda: x[:, -1]}
        return show_layer(self, "logits", self.head(pooled[self.answer]()))


class Block(nnx.Module):
    """A branch of attention and one of a perceptron, one after the other."""

    def __init__(self, attention: Residual, perceptron: Residual):
        self.attention, self.perceptron = attention, perceptron

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.perceptron(self.attention(x))


class Patches(nnx.Module):
    """Square patches of an image as vectors, a class token before them if wanted, and positions added."""

    def __init__(
        self,
        shape: Sequence[int],
        patch: int,
        width: int,
        *,
        class_token: bool,
        init: Initializer,
        rngs: nnx.Rngs,
    ):
        rows, columns, colours = image_shape("transformer", shape)
        if rows % patch or columns % patch:
            raise InputError(f"model.patch: {patch} does not divide images of {rows}×{columns}")
        self.patch = patch
        count = rows // patch * (columns // patch) + class_token
        self.projection = nnx.Linear(patch**2 * colours, width, kernel_init=init, dot_general=dot_general, rngs=rngs)
        self.class_token = nnx.Param(POSITION_STD * rngs.params.normal((width,))) if class_token else None
        self.positions = nnx.Param(POSITION_STD * rngs.params.normal((count, width)))

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch length width"]:
        batch, rows, columns = x.shape[:3]
        side = self.patch
        x = x.reshape(batch, rows // side, side, columns // side, side, -1).swapaxes(2, 3)
        z = self.projection(x.reshape(batch, (rows // side) * (columns // side), -1))
        if self.class_token is not None:
            z = jnp.concatenate([jnp.broadcast_to(self.class_token[...], (batch, 1, z.shape[-1])), z], axis=1)
        return z + self.positions[...]


class Tokens(nnx.Module):
    """Integer tokens as vectors, and positions added."""

    def __init__(self, shape: Sequence[int], vocabulary: int, width: int, *, factor: float, rngs: nnx.Rngs):
        if len(shape) != 1:
            raise InputError(f"model: a decoder wants tokens [length], not inputs {list(shape)}")
        self.table = nnx.Param(factor * rngs.params.normal((vocabulary, width)))
        self.positions = nnx.Param(POSITION_STD * rngs.params.normal((shape[0], width)))

    def __call__(self, x: Float[Array, "batch length"]) -> Float[Array, "batch length width"]:
        return self.table[...][x.astype(jnp.int32)] + self.positions[...]


@dataclass(frozen=True)
class Attend:
    """softmax(q·k / d^power) v, in the form that ``nnx.MultiHeadAttention`` calls; its logits are the point ``logits``.

    A logit that the mask hides is shown as it was.
    """

    power: float

    def __call__(
        self,
        query: Float[Array, "batch length heads d"],
        key: Float[Array, "batch length heads d"],
        value: Float[Array, "batch length heads d"],
        *,
        mask: Array | None,
        module: nnx.Module,
        **_: Any,
    ) -> Float[Array, "batch length heads d"]:
        query = query * query.shape[-1] ** -self.power
        logits = show(module, "logits", einsum("bqhd,bkhd->bhqk", query, key))
        weights = jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, -jnp.inf))
        return einsum("bhqk,bkhd->bqhd", weights, value)


class Attention(nnx.Module):
    """Multi-head attention of a sequence to itself, or to what comes before.

    A scheme's factors are on the weights of values and of the output, never on those of queries and keys.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        says: Scheme,
        attend: Attend,
        *,
        causal: bool,
        init: Initializer,
        gain: Number,
        rngs: nnx.Rngs,
    ):
        self.causal = causal
        self.heads = nnx.MultiHeadAttention(
            heads,
            width,
            kernel_init=scaled(init, gain),
            out_kernel_init=scaled(init, says.last, gain),
            attention_fn=attend,
            decode=False,
            qkv_dot_general=dot_general,
            out_dot_general=dot_general,
            rngs=rngs,
        )
        self.heads.value.kernel[...] = says.inner * self.heads.value.kernel[...]

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool)) if self.causal else None
        return self.heads(x, mask=mask, sow_weights=True)


def _perceptron(
    width: int,
    hidden: int,
    says: Scheme,
    activation: Callable[[Array], Array],
    *,
    init: Initializer,
    gain: Number,
    rngs: nnx.Rngs,
) -> Stack:
    sizes = ((width, hidden, says.inner), (hidden, width, says.last))
    return Stack(
        [
            nnx.Linear(a, b, kernel_init=scaled(init, factor, gain), dot_general=dot_general, rngs=rngs)
            for a, b, factor in sizes
        ],
        activation,
    )


def _scheme(residual: str, depth: int, decoder: bool, normalization: str, placement: str) -> tuple[Scheme, float]:
    """What a scheme says of 2 · depth branches of two layers, and the factor on embeddings."""
    if residual != "tfixup":
        return scheme(residual, branches=2 * depth, layers=2, normalization=normalization, placement=placement), 1.0
    if normalization != "none":
        raise InputError(f"model.residual: 'tfixup' goes with normalization='none', not {normalization!r}")
    embedded = (9 * depth) ** -0.25
    factor = embedded if decoder else 0.67 * depth**-0.25
    return SCHEMES["plain"](1, 2)._replace(inner=factor, last=factor), embedded
