"""One small sweep for each kind of network, and one of a module as a stranger would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from glorot_jax import (
    Sweep,
    adam,
    arrays,
    at,
    cnn,
    grid,
    modular_addition,
    module,
    residual_mlp,
    resnet,
    sgd,
    show_layer,
    transformer,
)


class Stranger(nnx.Module):
    """State, draws and settings of its own: batch normalization, dropout, a counter, a gain, two kinds of layers."""

    def __init__(self, shape, classes, *, channels, gain, activation, kernel_init, rngs):
        self.first = nnx.Conv(shape[-1], channels, (3, 3), kernel_init=kernel_init, rngs=rngs)
        self.norm = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.readout = nnx.Linear(channels, classes, kernel_init=kernel_init, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.int32(0))  # counts its calls in training
        self.activation, self.gain = activation, gain

    def __call__(self, x):
        self.calls[...] += 1
        z = show_layer(self, "first", self.norm(self.first(x)), self.activation)
        return self.readout(self.drop(self.gain * z.mean(axis=(1, 2))))


class Linen(linen.Module):
    """Of Flax's older kind."""

    width: int
    classes: int

    @linen.compact
    def __call__(self, x):
        return linen.Dense(self.classes)(linen.tanh(linen.Dense(self.width)(x)))


def pictures() -> arrays:
    draw = np.random.default_rng(3)
    inputs, labels = draw.integers(0, 256, (120, 8, 8), np.uint8), draw.integers(0, 3, 120)
    return arrays(inputs, labels, validation=20, test=20)


CHOSEN = {"activation": grid("tanh", "relu")}
OTHERS = {"activation": grid("gelu", "relu", "softsign")}
MODELS: dict[str, Callable[..., Any]] = {
    "residual_mlp": lambda **chosen: residual_mlp(
        depth=2, width=8, normalization="batch", residual="skipinit", **chosen
    ),
    "cnn": lambda **chosen: cnn(channels=(4, 4), **chosen),
    "resnet": lambda **chosen: resnet(n=1, channels=2, **chosen),
    "transformer": lambda **chosen: transformer(architecture="decoder", depth=1, width=8, heads=2, **chosen),
    "a stranger's": lambda **chosen: module(Stranger, channels=3, gain=1.5, kernel_init="he_normal", **chosen),
}


def sweep(kind: str, *, others: bool = False, **changes: Any) -> Sweep:
    """Two activations and two seeds; with ``others`` their relu runs among strangers, in another order.

    Each example's gradient through seven convolutions takes long to compile: the other kinds have it.
    """
    settings: dict[str, Any] = {
        "name": "networks",
        "data": modular_addition(p=5) if kind == "transformer" else pictures(),
        "model": MODELS[kind](**(OTHERS if others else CHOSEN)),
        "optimizer": (adam if kind == "transformer" else sgd)(learning_rate=grid(0.01, 0.1) if others else 0.1),
        "seeds": (5, 1, 0) if others else (0, 1),
        "steps": 12,
        "batch_size": 5,
        "record": at(4, 9),
        "probes": ("evaluation", "weights") if kind == "resnet" else ("evaluation", "gradients", "weights"),
        "examples": 5,
        "jacobian_examples": 2,
    }
    return Sweep(**settings | changes)
