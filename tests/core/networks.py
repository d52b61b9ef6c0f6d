"""How tests make the networks: as the engine does, inside a compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glorot_jax import activations, initializers
from glorot_jax.models.points import Activation, Hyper
from glorot_jax.probes.probe import forward

PICTURE = (8, 8, 3)


def make(
    kind: type,
    *arguments: Any,
    activation: Callable = activations.relu,
    seed: Any = 0,
    chosen: bool = False,
    **settings: Any,
):
    """A network inside a trace, its swept numbers as variables of the run.

    Args:
        chosen: whether its activation is one that the run chose, as in a sweep; as a plain function it compiles faster.
    """
    if chosen:
        activation = Activation((activation,), jnp.int32(0))
    settings = {"init": initializers.he_normal, "rngs": nnx.Rngs(jax.random.key(seed))} | settings
    for name in settings.keys() & {"gain", "alpha"}:
        settings[name] = Hyper(jnp.float32(settings[name]))
    return kind(*arguments, activation=activation, **settings)


def made(kind: type, *arguments: Any, **settings: Any) -> Any:
    """The same, compiled as one."""
    return nnx.jit(lambda: make(kind, *arguments, **settings))()


def still(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Weights 0, for networks whose parameters a test moves itself: nothing to compile."""
    return jnp.zeros(shape, dtype)


def unsettled(module: Any, seed: int = 7) -> Any:
    """Every parameter moved at random: what starts at 0 or 1 would hide an error."""
    draw = np.random.default_rng(seed)
    for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        moved = np.asarray(variable.get_value()) + 0.3 * draw.normal(size=variable.shape)
        variable.set_value(jnp.asarray(moved, jnp.float32))
    return module


def params(module: Any) -> dict[str, np.ndarray]:
    """Parameters by path, in float64."""
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): np.asarray(v.get_value(), np.float64) for path, v in flat}


def called(module: Any, x: np.ndarray, function: Callable = forward) -> Any:
    """What ``function(module, x)`` returns, compiled as one."""
    graph, state = nnx.split(module)
    return jax.jit(lambda state, x: function(nnx.merge(graph, state, copy=True), x))(state, x)
