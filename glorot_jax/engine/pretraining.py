"""Unsupervised pre-training: the steps below 0, in which one hidden layer after the other learns as an auto-encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from glorot_jax.autoencoders import AutoEncoder, error_and_gradient, kept
from glorot_jax.errors import InputError
from glorot_jax.models.points import noted
from glorot_jax.probes.probe import PRETRAINED, Output, forward_with_values
from glorot_jax.randomness import key, stream_for

if TYPE_CHECKING:
    from glorot_jax.engine.segment import Setup, Tree, _Network

PURPOSE = "pretraining"
"""Of all that is drawn for it: examples, and which of their numbers are kept."""
TENTHS = len(PRETRAINED) - 1


class Phase(NamedTuple):
    """Steps from ``first`` up to, not with, ``last`` that train one hidden layer, 1 = next to the input."""

    layer: int
    first: int
    last: int


class Pretraining:
    """Step t < 0 trains hidden layer k, and t + ``steps`` · layers counts the steps before it.

    Args:
        setup: a cohort's, with ``pretraining_steps``.
        network: what is trained.

    Raises:
        InputError: it is no stack of dense layers, or the host brings its examples.
    """

    def __init__(self, setup: Setup, network: _Network):
        assert setup.pretraining_steps is not None
        if setup.dataset.stream is not None:
            raise InputError(
                "pretraining: it draws its examples on the device, and these stay on the host", "placement='device'"
            )
        *self.layers, last = network.notes.layers
        if not self.layers or last.activation is not None or any(layer.bias is None for layer in self.layers):
            raise InputError(
                "pretraining: the network is no stack of dense layers that show their weights and biases",
                "a module's own layers say show_layer(self, name, s, activation, kernel=…, bias=…)",
            )
        self.setup, self.network, self.steps = setup, network, setup.pretraining_steps

    @property
    def first_step(self) -> int:
        return -self.steps * len(self.layers)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One a layer, in the order in which they are trained."""
        return tuple(
            Phase(k, first, first + self.steps) for k, first in enumerate(range(self.first_step, 0, self.steps), 1)
        )

    def layer_at(self, step: Array) -> Integer[Array, ""]:
        """Which of ``layers`` a step trains; their number for a step of training proper."""
        return jnp.clip((step - self.first_step) // self.steps, 0, len(self.layers))

    def start(self, params: Tree) -> Tree:
        """What a run carries beside its parameters: decoders' biases, and sums of the reconstruction errors."""
        biases = {
            f"visible_bias.{k}": jnp.zeros(params[str(layer.weight)].shape[0], jnp.float32)
            for k, layer in enumerate(self.layers, 1)
        }
        return biases | {"errors": jnp.zeros((len(self.layers), 1 + TENTHS), jnp.float32)}

    def drawn(self, stream: Array, step: Array) -> tuple[Array, Array]:
        """The stream and the position in it from which a step's examples come."""
        before = step < 0
        position = jnp.where(before, step - self.first_step, step)
        return jnp.where(before, stream_for(stream, PURPOSE), stream.astype(jnp.uint32)), position

    def error_and_update(self, k: int, state: Tree, hyper: Tree, inputs: Array, step: Array) -> tuple[Array, Tree]:
        """The reconstruction error of layer k, the first being 0, before its step, and what the step changes."""
        layer, params, mine = self.layers[k], state["params"], state["pretraining"]
        position = step - self.first_step
        drawing, own = (key(hyper["seed"], p, stream=hyper["stream"]) for p in ("module in evaluation", PURPOSE))
        module = self.network.merge(params, state["rest"], drawing, training=False)
        with noted(module) as told:
            _, values = forward_with_values(module, inputs)
        z = values[layer.source].reshape(len(inputs), -1)
        old = AutoEncoder(params[layer.weight], params[layer.bias], mine[f"visible_bias.{k + 1}"])
        error, gradient = error_and_gradient(
            old,
            told().functions[layer.activation],
            z,
            kept(jax.random.fold_in(own, position), hyper["pretraining.noise"], z.shape),
        )
        rate = hyper["pretraining.learning_rate"]
        new = AutoEncoder(*(value - rate * slope for value, slope in zip(old, gradient, strict=True)))
        made = position - k * self.steps
        into = jnp.arange(1 + TENTHS) == 1 + made * TENTHS // self.steps
        errors = mine["errors"][k] + jnp.where(into | ((made == 0) & (jnp.arange(1 + TENTHS) == 0)), error, 0)
        return error, {
            "params": params | {layer.weight: new.weight, layer.bias: new.bias},
            "pretraining": mine
            | {f"visible_bias.{k + 1}": new.visible_bias, "errors": mine["errors"].at[k].set(errors)},
        }

    @property
    def output(self) -> Output:
        """How the reconstruction errors are labelled."""
        return Output(
            ("layer", "pretrained"),
            "reconstruction error of pre-training, mean over units",
            attrs={
                "method": "mean of (y − z)² over the mini-batches before their updates: the first one at 0, those of "
                "each tenth of the steps behind; y is made from what the noise leaves of z",
                "cadence": "step 0 alone",
            },
        )

    def errors(self, state: Tree, step: Array) -> Float[Array, "layers pretrained"]:
        """Mean reconstruction error of each layer's first mini-batch and of each tenth of its steps; NaN but at 0."""
        ends = -(-np.arange(1 + TENTHS, dtype=np.int64) * self.steps // TENTHS)
        counts = np.array([1, *np.diff(ends)])
        share = np.where(counts > 0, 1 / np.maximum(counts, 1), np.nan).astype(np.float32)
        return jnp.where(step == 0, state["pretraining"]["errors"] * share, jnp.nan)
