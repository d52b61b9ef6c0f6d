"""How a module shows what happens inside it: named points that probes can read and differentiate at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer

from glorot_jax import activations

INPUT, OUTPUT = "input", "output"
"""Points of every network: what it is called with, and what it returns."""


class Hyper(nnx.Variable):
    """A per-run setting inside a module (an activation's index, a gain): lives along the run axis, is not trained."""


class Activation(nnx.Module):
    """The activation that this run chose among its cohort's: elementwise, called like a function."""

    def __init__(self, functions: Sequence[Callable[[Array], Array]], index: Integer[Array, ""]):
        self.functions = tuple(functions)
        self.index = Hyper(index)

    def __call__(self, s: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.select(self.index[...], self.functions, s)

    def where(self, has: Bool[Array, ""] | None) -> Callable[[Float[Array, "..."]], Float[Array, "..."]]:
        """Returns it for a layer that the run may lack: 0 with slope 0 then, on a CPU not computed. None: it has it."""
        if has is None:
            return self
        return lambda s: activations.select(jnp.where(has, self.index[...], -1), self.functions, s)


class LayerPoints(NamedTuple):
    """Where one layer shows itself, in forward order; layer 1 is the first, as in the paper.

    Attributes:
        preactivation: the point that holds s.
        activation: the point that holds f(s), f elementwise; None for an output layer.
        weight: path of W [fan_in, fan_out] among the parameters if s = z W + b, else None.
        source: the point that holds z then, else None.
        bias: path of b [fan_out] among the parameters then, where the layer said it.
    """

    preactivation: str
    activation: str | None
    weight: str | None = None
    source: str | None = None
    bias: str | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """Paths of W and b as far as they are known."""
        return tuple(path for path in (self.weight, self.bias) if path is not None)


def show(module: nnx.Module, name: str, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns ``value`` and makes it a point: readable under ``name``, and ∂C/∂value and Jacobians available there.

    Its name among all points is that of the module's path and ``name``: ``blocks.0.branch``. Outside ``nnx.capture``,
    and inside it when neither is asked for, this does nothing and costs nothing.
    """
    if (notes := _notes.get()) is not None:
        notes.append(_Shown(module, name))
    if not hasattr(module, "__captures__"):
        return value
    value = module.perturb(_SHIFT + name, value)
    module.sow(nnx.Intermediate, _VALUE + name, value)
    return value


def show_layer(
    module: nnx.Module,
    name: str,
    s: Float[Array, "..."],
    activation: Callable[[Array], Array] | None = None,
    *,
    kernel: nnx.Param | None = None,
    bias: nnx.Param | None = None,
    around: tuple[Bool[Array, ""], Float[Array, "..."]] | None = None,
) -> Float[Array, "..."]:
    """Returns f(s), or s without an activation, and makes both points: s ``NAME_preactivation`` and f(s) ``NAME``.

    The line that a module needs for each layer that probes shall look into.

    Args:
        activation: elementwise; None for a layer without one, such as the last.
        kernel: W [fan_in, fan_out], if s = z W + b with z the layer shown before or, for the first, the network's
            input; singular values of the layer are then those of f'(s) W, without a pass through the network.
        bias: b [fan_out] beside it; a network all of whose hidden layers say both can be pre-trained.
        around: of a hidden layer that this run's network may lack, whether it has it, and z of the layer below, which
            then goes on in place of f(s).
    """
    if activation is None:
        z = show(module, name, s)
        layer = _Layer(module, name, None, None, kernel, bias)
    else:
        s = show(module, preactivation(name), s)
        z = activation(s)
        z = show(module, name, z if around is None else jnp.where(around[0], z, around[1]))
        layer = _Layer(module, preactivation(name), name, activation, kernel, bias)
    if (notes := _notes.get()) is not None:
        notes.append(layer)
    return z


class Notes(NamedTuple):
    """What a network showed in one call.

    Attributes:
        points: names in forward order.
        layers: those of ``show_layer``, the last without an activation: the network's output if it showed none.
        functions: the activation of each hidden layer by its point; of use inside the same trace alone.
    """

    points: tuple[str, ...]
    layers: tuple[LayerPoints, ...]
    functions: dict[str, Callable[[Array], Array]]


@contextlib.contextmanager
def noted(module: nnx.Module) -> Iterator[Callable[[], Notes]]:
    """Notes what ``module`` shows meanwhile; the function that it gives tells it afterwards.

    Raises:
        LookupError: there, if a module showed something that is not part of it: from inside a Flax transformation.
    """
    notes: list[_Shown | _Layer] = []
    token = _notes.set(notes)
    try:
        yield lambda: _told(module, notes)
    finally:
        _notes.reset(token)


def value_of(path: Sequence[str | int]) -> str | None:
    """Returns the point whose value Flax captured under a path, None for what is no point."""
    return _point(path, _VALUE)


def shift_of(path: Sequence[str | int]) -> str | None:
    """Returns the point whose perturbation Flax captured under a path, None for what is no point."""
    return _point(path, _SHIFT)


def preactivation(name: str) -> str:
    """Returns the point that holds s of the layer ``name``."""
    return f"{name}_preactivation"


_VALUE, _SHIFT = ":", "+"
"""Before a point's name where Flax keeps its value and its perturbation: no attribute is called so."""


def _point(path: Sequence[str | int], mark: str) -> str | None:
    *owner, name = map(str, path)
    return ".".join((*owner, name.removeprefix(mark))) if name.startswith(mark) else None


class _Shown(NamedTuple):
    module: nnx.Module
    name: str


class _Layer(NamedTuple):
    module: nnx.Module
    preactivation: str
    activation: str | None
    function: Callable[[Array], Array] | None
    kernel: nnx.Param | None
    bias: nnx.Param | None


_notes: ContextVar[list[_Shown | _Layer] | None] = ContextVar("notes", default=None)


def _told(module: nnx.Module, notes: Sequence[_Shown | _Layer]) -> Notes:
    paths = {id(node): path for path, node in nnx.iter_graph(module)}

    def named(owner: nnx.Module, name: str) -> str:
        if id(owner) not in paths:
            raise LookupError(f"{type(owner).__name__}.{name}")
        return ".".join(map(str, (*paths[id(owner)], name)))

    points, layers, functions = [], [], {}
    below = INPUT
    for note in notes:
        if isinstance(note, _Shown):
            points.append(named(note.module, note.name))
            continue
        weight, bias = (
            None if parameter is None else ".".join(map(str, paths[id(parameter)]))
            for parameter in (note.kernel, note.bias)
        )
        layer = LayerPoints(
            preactivation=named(note.module, note.preactivation),
            activation=None if note.activation is None else named(note.module, note.activation),
            weight=weight,
            source=below if weight else None,
            bias=bias if weight else None,
        )
        if layer.activation is not None:
            functions[layer.activation] = note.function
        below = layer.activation or layer.preactivation
        layers.append(layer)
    if not layers or layers[-1].activation is not None:
        layers.append(LayerPoints(preactivation=OUTPUT, activation=None))
    return Notes(tuple(points), tuple(layers), functions)
