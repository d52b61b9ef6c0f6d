"""Any Flax module as the network of a run: its constructor is offered what its signature names."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array, Float, Key

from glorot_jax import initializers
from glorot_jax.errors import InputError
from glorot_jax.models.points import Activation, Hyper

INDEX = "_index"
"""Ends the name of a setting that says which function of a cohort's a run chose."""


def build(
    function: Callable[..., nnx.Module],
    fixed: Mapping[str, Any],
    functions: Mapping[str, Sequence[Callable]],
    shape: tuple[int, ...],
    classes: int,
    *,
    key: Key[Array, ""],
    inputs: Float[Array, "batch ..."],
    **settings: Array,
) -> nnx.Module:
    """Returns the module that a class or factory makes for one run.

    It is given ``fixed``; of ``rngs``, ``shape`` (of one input), ``features`` (their number), ``classes`` and
    ``inputs`` (a batch) what its signature names; each number among ``settings`` as a variable of its own; an
    activation for each name of ``functions`` that ends in ``activation``, and for the others a ``kernel_init`` as
    Flax's layers take it.

    Raises:
        InputError: the constructor takes an argument that nobody gives, or none of that name.
    """
    arguments: dict[str, Any] = dict(fixed)
    for name, choices in functions.items():
        index = settings.pop(name + INDEX)
        arguments[name] = Activation(choices, index) if name.endswith("activation") else _initializer(choices, index)
    arguments |= {name: Hyper(jnp.asarray(value)) for name, value in settings.items()}
    if isinstance(function, linen.Module) or (isinstance(function, type) and issubclass(function, linen.Module)):
        return _from_linen(function, arguments, classes, key, inputs)
    offered = {
        "rngs": nnx.Rngs(key),
        "shape": shape,
        "features": math.prod(shape),
        "classes": classes,
        "inputs": inputs,
    }
    taken = parameters(function)
    arguments = {name: value for name, value in offered.items() if name in taken} | arguments
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for name in arguments:
        if name not in taken and not takes_any:
            raise InputError(f"model.{name}: {called(function)} has no such argument", f"it has {', '.join(taken)}")
    for name, parameter in taken.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in arguments:
            raise InputError(
                f"model.{name}: {called(function)} needs it",
                f"module({called(function)}, {name}=…); given without being asked: {', '.join(offered)}",
            )
    return function(**arguments)


def called(function: Any) -> str:
    """Returns what a person calls a class or factory."""
    return getattr(function, "__qualname__", type(function).__qualname__).rpartition(".")[2]


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Returns those of a function, or of a class' constructor without its self: Flax's metaclass hides that."""
    if not isinstance(function, type):
        return dict(inspect.signature(function).parameters)
    _, *own = inspect.signature(function.__init__).parameters.items()
    return dict(own)


def _initializer(choices: Sequence[Callable], index: Array) -> Callable[..., Array]:
    for choice in choices:
        if more := initializers.wants(choice):
            raise InputError(
                f"model: the initializer {called(choice)} asks for {' and '.join(sorted(more))}, which only mlp's own "
                "layers can tell"
            )

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return initializers.select(index, choices, key, shape, layer=None, inputs=jnp.zeros(())).astype(dtype)

    return init


def _from_linen(function: Any, arguments: Mapping, classes: int, key: Array, inputs: Array) -> nnx.Module:
    """A Linen module by Flax's own bridge, set up on a batch of inputs."""
    if isinstance(function, type):
        plain = {name: value[...] if isinstance(value, Hyper) else value for name, value in arguments.items()}
        if "classes" in function.__dataclass_fields__ and "classes" not in plain:
            plain["classes"] = classes
        function = function(**plain)
    return Bridged(nnx.bridge.lazy_init(nnx.bridge.ToNNX(function, rngs=nnx.Rngs(key)), inputs[:1]))


class Bridged(nnx.Module):
    """A Linen module as one of NNX; what Flax captures stays outside, for the bridge takes it for variables."""

    def __init__(self, inner: nnx.bridge.ToNNX):
        self.inner = inner

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        held = getattr(self.inner, _CAPTURES, None)
        if held is None:
            return self.inner(x)
        delattr(self.inner, _CAPTURES)
        try:
            return self.inner(x)
        finally:
            setattr(self.inner, _CAPTURES, nnx.data(held))


_CAPTURES = "__captures__"
