"""How a module shows what happens inside it: named points that probes can read and differentiate at."""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float


class Hyper(nnx.Variable):
    """A per-run setting inside a module (an activation's index, a gain): lives along the run axis, is not trained."""


class LayerPoints(NamedTuple):
    """Where one layer shows itself, in forward order; layer 1 is the first, as in the paper.

    Attributes:
        weight: path of the weight matrix [fan_in, fan_out] among the parameters, such as ``layers.0.kernel``.
        source: the point that holds the layer's input z.
        preactivation: the point that holds s = z W + b.
        activation: the point that holds f(s); None for an output layer.
    """

    weight: str
    source: str
    preactivation: str
    activation: str | None


def show(module: nnx.Module, name: str, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns ``value`` and makes it a point: readable under ``name``, and ∂C/∂value and Jacobians available there.

    Outside ``nnx.capture``, and inside it when neither is asked for, this does nothing and costs nothing.
    """
    value = module.perturb(shift(name), value)
    module.sow(nnx.Intermediate, name, value)
    return value


def shift(name: str) -> str:
    """Returns the name of the perturbation that is added to the point ``name``."""
    return f"{name}_shift"
