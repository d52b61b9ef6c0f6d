"""A dense network in plain NumPy float64, forward and backward: the truth that the compiled one is held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.special


class Function(NamedTuple):
    """An activation: f(s), and f'(s) from s."""

    value: object
    slope: object


FUNCTIONS = {
    "sigmoid": Function(scipy.special.expit, lambda s: scipy.special.expit(s) * scipy.special.expit(-s)),
    "tanh": Function(np.tanh, lambda s: 1 / np.cosh(s) ** 2),
    "softsign": Function(lambda s: s / (1 + np.abs(s)), lambda s: (1 + np.abs(s)) ** -2.0),
}


class Network(NamedTuple):
    """Weights [fan_in, fan_out] and biases, output layer last; one activation."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    activation: str

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Inputs z of every layer, and preactivations s of every layer; the last s are the logits."""
        z, s = [x.astype(np.float64)], []
        for w, b in zip(self.weights, self.biases, strict=True):
            s.append(z[-1] @ w + b)
            z.append(FUNCTIONS[self.activation].value(s[-1]))
        return z[:-1], s

    def slopes(self, x: np.ndarray) -> list[np.ndarray]:
        """f'(s) of every hidden layer."""
        return [FUNCTIONS[self.activation].slope(s) for s in self.forward(x)[1][:-1]]

    def losses(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """−log P(y|x) of each example."""
        logits = self.forward(x)[1][-1]
        return scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]

    def errors(self, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        """∂C/∂s of every layer, each example's own loss by itself (equation 2 of the paper)."""
        logits = self.forward(x)[1][-1]
        back = [scipy.special.softmax(logits, axis=1) - np.eye(logits.shape[1])[labels]]
        for w, slope in zip(self.weights[:0:-1], self.slopes(x)[::-1], strict=True):
            back.insert(0, slope * (back[0] @ w.T))
        return back


def network(params: Mapping[str, np.ndarray], activation: str) -> Network:
    """The network of a run's parameters by path, ``layers.0.kernel`` and so on."""
    depth = len(params) // 2
    kernels, biases = (
        [np.asarray(params[f"layers.{i}.{name}"], np.float64) for i in range(depth)] for name in ("kernel", "bias")
    )
    return Network(kernels, biases, activation)
