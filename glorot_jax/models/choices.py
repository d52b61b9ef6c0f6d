"""The words that arguments of the networks take. Imports no JAX: descriptions check by them."""

from __future__ import annotations

from typing import Literal, get_args

from glorot_jax.errors import unknown

Normalization = Literal["none", "batch", "layer", "rms"]
TokenNormalization = Literal["none", "layer", "rms"]
PictureNormalization = Literal["none", "batch"]
Placement = Literal["pre", "post", "inner"]
TokenPlacement = Literal["pre", "post"]
Scheme = Literal["none", "plain", "stable", "rezero", "skipinit", "fixup", "gpt2", "deepnorm"]
PictureScheme = Literal["none", "plain", "stable", "rezero", "skipinit", "fixup", "gpt2"]
TokenScheme = Literal["none", "plain", "stable", "rezero", "gpt2", "deepnorm", "tfixup"]
Readout = Literal["init", "mup", "zero"]
Padding = Literal["circular", "same"]
ImagePool = Literal["mean", "none"]
TokenPool = Literal["mean", "class"]
Architecture = Literal["encoder", "decoder"]
AttentionScale = Literal["standard", "mup"]


def check_choice(name: str, value: object, among: object) -> None:
    """Raises InputError if a network's argument is not one of the words for it."""
    if value not in get_args(among):
        raise unknown(f"model.{name}", value, get_args(among))
