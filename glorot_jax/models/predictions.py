"""What theory says of a network's probe outputs before the first update: one function for each kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from glorot_jax import theory

if TYPE_CHECKING:
    from glorot_jax import specs

BLANK = 1e-30
"""Mean square that stands for that of an input of zeros, whose length theory can't divide by."""


class Start(NamedTuple):
    """What a prediction may know: all but the weights.

    Attributes:
        inputs: network inputs of the examples that the layer statistics use.
        jacobian_examples: how many of the first of them the layer Jacobians are averaged over.
        classes: size of the output.
        loss: ``(logits, labels) -> per-example loss``.
    """

    inputs: Float[np.ndarray, "examples features"]
    jacobian_examples: int
    classes: int
    loss: Callable


class Predicted(NamedTuple):
    """What is expected of a model at step 0.

    Attributes:
        values: name of a probe's output -> value, in the shape that the probe gives it.
        source: where the theory stands.
        assumptions: what it takes for granted.
    """

    values: Mapping[str, Any]
    source: str
    assumptions: str


def mlp(model: specs.mlp, start: Start) -> Predicted | None:
    """Returns ``theory.predict`` of a dense network; None for initial weights whose variance isn't known beforehand.

    Of another loss than −log P(y|x) no gradients are predicted.

    Source: as ``theory.predict``.
    """
    if model.init not in theory.RANDOM_INITIALIZERS:
        return None
    moments = np.maximum(np.mean(start.inputs.astype(np.float64) ** 2, axis=1), BLANK)
    found = theory.predict(
        model.activation,
        model.init,
        model.widths,
        start.inputs.shape[1],
        start.classes,
        input_second_moment=moments,
        jacobian_input_second_moment=moments[: start.jacobian_examples],
        gain=model.gain,
    )._asdict()
    if start.loss.__name__ != "nll":
        found = {name: value for name, value in found.items() if "gradient" not in name}
    return Predicted(
        values=found,
        source="Glorot & Bengio (2010), equations 2, 3, 5 to 7 and 17; Schoenholz et al. (2016), arXiv:1611.01232",
        assumptions="infinitely wide layers: normal preactivations; slopes and errors that are independent of the "
        "weights that carry them; labels independent of the logits",
    )
