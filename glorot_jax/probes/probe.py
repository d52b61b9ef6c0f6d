"""What a probe is, and the scene that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Integer

from glorot_jax.errors import InputError
from glorot_jax.models.points import LayerPoints, shift

QUANTILES = (0.01, 0.02, 0.5, 0.98, 0.99)
EXACT_UP_TO = 256
"""Smaller side of a matrix up to which all its singular values are computed; above it they are estimated."""


class Output(NamedTuple):
    """How one array of a probe is labelled in the records.

    Attributes:
        dims: names of its dimensions after run and step; sizes and coordinates come from ``COORDINATES`` or,
            for ``layer``, from the number of hidden layers.
        long_name: one phrase for an axis or a legend.
        units: ``"1"`` for pure numbers.
        attrs: method, examples and whatever else makes the number honest.
    """

    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    attrs: Mapping[str, object] = {}


class Bins(NamedTuple):
    """Bins of one width whose centres are multiples of it, so that 0 and ±1 are centres, not edges.

    Attributes:
        first, last: centres, in widths.
        per_unit: bins in an interval of length 1.
    """

    first: int
    last: int
    per_unit: int

    @property
    def centres(self) -> tuple[float, ...]:
        return tuple(k / self.per_unit for k in range(self.first, self.last + 1))

    @property
    def edges(self) -> np.ndarray:
        return ((np.arange(self.first, self.last + 2) - 0.5) / self.per_unit).astype(np.float32)

    @property
    def width(self) -> float:
        return 1 / self.per_unit


ACTIVATION_BINS = Bins(-40, 40, 20)
GRADIENT_BINS = Bins(-40, 40, 10)
SINGULAR_VALUE_BINS = Bins(0, 80, 20)

COORDINATES: Mapping[str, tuple[float, ...]] = {
    "quantile": QUANTILES,
    "activation_bin": ACTIVATION_BINS.centres,
    "gradient_bin": GRADIENT_BINS.centres,
    "singular_value_bin": SINGULAR_VALUE_BINS.centres,
}


@dataclass(frozen=True)
class Probe:
    """A named measurement.

    Attributes:
        name: as listed and as chosen in a sweep.
        measure: ``scene -> {output: array}``, pure; it sees one run, the engine maps it over all.
        outputs: ``scene -> {output: Output}``, the same names as ``measure`` returns; or one label for all.
        source: where the quantity is defined.
        by: the same probe by another method, for one that knows some (``specs.METHODS``).
    """

    name: str
    measure: Callable[[Scene], dict[str, Array]]
    outputs: Callable[[Scene], dict[str, Output]] | Output
    source: str
    by: Callable[[str], Probe] | None = None


def described(spec: Any) -> Probe:
    """Returns the probe of a description: a built-in name, or ``specs.probe``."""
    from glorot_jax import probes

    if isinstance(spec, str):
        return probes.BUILT_IN[spec]
    if isinstance(spec.measure, str):
        probe = probes.BUILT_IN[spec.measure]
        return probe.by(spec.method) if probe.by else probe
    line = (spec.measure.__doc__ or "").strip().partition("\n")[0]
    label = Output(spec.dims, spec.long_name or line or spec.name.replace("_", " "), spec.units)

    def measure(scene: Scene) -> dict[str, Array]:
        found = spec.measure(scene)
        return dict(found) if isinstance(found, Mapping) else {spec.name: found}

    return Probe(name=spec.name, measure=measure, outputs=label, source="of the sweep's own")


def checked_outputs(probe: Probe, scene: Callable[..., Scene], *abstract: Any) -> tuple[dict[str, Output], int]:
    """Returns how a probe's arrays are labelled, and how many numbers they are, having seen that they fit.

    Args:
        scene: makes a scene of arguments like ``abstract``, which are shapes and types.

    Raises:
        InputError: it returns something else than arrays of numbers, or dimensions that its labels don't have.
    """
    shapes = scene(*abstract)
    found = jax.eval_shape(lambda *arguments: _arrays(probe.name, probe.measure(scene(*arguments))), *abstract)
    labels = probe.outputs
    labels = dict.fromkeys(found, labels) if isinstance(labels, Output) else labels(shapes)
    if found.keys() != labels.keys():
        raise InputError(f"probes.{probe.name}: it returns {sorted(found)} and labels {sorted(labels)}")
    sizes = {"layer": len(shapes.hidden)} | {dim: len(values) for dim, values in COORDINATES.items()}
    for name, array in found.items():
        dims = labels[name].dims
        if len(dims) != array.ndim:
            raise InputError(f"probes.{probe.name}: {name} has the shape {list(array.shape)} and the dims {list(dims)}")
        for dim, size in zip(dims, array.shape, strict=True):
            if sizes.get(dim, size) != size:
                raise InputError(f"probes.{probe.name}: {name} has {size} along {dim!r}, not {sizes[dim]}")
    return labels, sum(array.size for array in found.values())


def _arrays(name: str, found: Mapping[str, Any]) -> dict[str, Array]:
    """A probe's results as float arrays, or the line that says what else they are."""
    for key, value in found.items():
        if not isinstance(value, jax.Array | np.ndarray | float | int):
            raise InputError(f"probes.{name}: {key} is {type(value).__name__}, not an array of numbers")
    return {key: jnp.asarray(value, jnp.float32) for key, value in found.items()}


@dataclass(frozen=True)
class Scene:
    """What one run's probes see at a record: its module and the fixed examples. Each part is computed when asked for.

    Attributes:
        build: ``() -> module``, the run's network; Flax wants a module of one's own inside every JAX transformation.
        params: its trained arrays by path.
        loss: ``(logits, labels) -> per-example loss``.
        scale: uint8 inputs -> network inputs.
        valid, test: (inputs uint8 [n, features], labels [n]).
        batch: the mini-batch of the run's next update: (network inputs [batch, features], labels [batch]).
        updates: ``gradient -> what the optimizer would add to the parameters``, both by path.
        examples: how many test examples the layer statistics use.
        jacobian_examples: how many test examples the layer Jacobians are averaged over.
        learning_rate: the optimizer's, of this run; None if it has none that is a number.
        stable_curvature: gives the curvature above which the optimizer's steps diverge on a quadratic; None for all
            but gradient descent.
        initial: gives the parameters that the run started from, by path.
    """

    build: Callable[[], nnx.Module]
    params: Mapping[str, Array]
    loss: Callable[[Array, Array], Array]
    scale: Callable[[Array], Array]
    valid: tuple[Array, Array]
    test: tuple[Array, Array]
    batch: tuple[Array, Array]
    updates: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    examples: int
    jacobian_examples: int
    learning_rate: Float[Array, ""] | None = None
    stable_curvature: Callable[[], Float[Array, ""]] | None = None
    initial: Callable[[], Mapping[str, Array]] | None = None

    @property
    def module(self) -> nnx.Module:
        """The run's network, made anew wherever it is asked for."""
        return self.build()

    @property
    def layers(self) -> tuple[LayerPoints, ...]:
        return self.module.points()

    @property
    def hidden(self) -> tuple[LayerPoints, ...]:
        return tuple(layer for layer in self.layers if layer.activation is not None)

    @cached_property
    def inputs(self) -> Float[Array, "examples features"]:
        return self.scale(self.test[0][: self.examples])

    @cached_property
    def labels(self) -> Integer[Array, "examples"]:
        return self.test[1][: self.examples]

    @cached_property
    def _passes(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Values at all points, and ∂C/∂(point) where C sums the examples' losses: each row is its own example's."""
        zeros = self._zeros(self.inputs)

        def cost(shifts):
            logits, sown = _run(self.module, self.inputs, shifts)
            return jnp.sum(self.loss(logits, self.labels)), values(sown)

        gradients, shown = jax.grad(cost, has_aux=True)(zeros)
        return shown, _by_point(gradients)

    @property
    def values(self) -> dict[str, Array]:
        """Value of every point on the examples: name -> [examples, width]."""
        return self._passes[0]

    @property
    def gradients(self) -> dict[str, Array]:
        """∂C/∂value of every point, example by example: name -> [examples, width]."""
        return self._passes[1]

    @cached_property
    def slopes(self) -> dict[str, Float[Array, "jacobian_examples width"]]:
        """f'(s) of each hidden layer, whose activation is elementwise, on the first ``jacobian_examples`` examples.

        By name of the layer's activation.
        """
        inputs = self.inputs[: self.jacobian_examples]

        def shown(shifts):
            found = values(_run(self.module, inputs, shifts)[1])
            return {layer.activation: found[layer.activation] for layer in self.hidden}

        out, pull = jax.vjp(shown, self._zeros(inputs))
        nothing = jax.tree.map(jnp.zeros_like, out)
        return {  # the layer is elementwise, so the sum over its units has each unit's slope alone as gradient
            layer.activation: _by_point(pull(nothing | {layer.activation: jnp.ones_like(out[layer.activation])})[0])[
                layer.preactivation
            ]
            for layer in self.hidden
        }

    def slopes_at(self, points: Mapping[str, Float[Array, "n width"]]) -> dict[str, Float[Array, "n width"]]:
        """f'(s) of each hidden layer at any s, given and returned by name of the layer's activation.

        A network whose weights are 0 is its activations alone: s is the bias, whatever the input, and is shifted onto
        the points; and no layer hears of the gradient above it.
        """
        weightless = {layer.weight: jnp.zeros_like(self.params[layer.weight]) for layer in self.layers}
        count = len(next(iter(points.values())))
        inputs = jnp.zeros((count, self.inputs.shape[1]))
        resting = forward_with_values(self._module(weightless), inputs[:1])[1]
        shifts = {layer.preactivation: points[layer.activation] - resting[layer.preactivation] for layer in self.hidden}

        def shown(shifts):
            found = values(_run(self._module(weightless), inputs, shifts)[1])
            return {layer.activation: found[layer.activation] for layer in self.hidden}

        out, pull = jax.vjp(shown, _shifted(self._zeros(inputs), shifts))
        pulled = _by_point(pull(jax.tree.map(jnp.ones_like, out))[0])
        return {layer.activation: pulled[layer.preactivation] for layer in self.hidden}

    @cached_property
    def batch_gradient(self) -> dict[str, Array]:
        """Gradient of the mean loss on the run's next mini-batch, by path of the parameter."""
        return jax.grad(lambda params: self.cost(params, *self.batch))(dict(self.params))

    def cost(self, params: Mapping[str, Array], inputs: Array, labels: Array) -> Float[Array, ""]:
        """Mean loss of the network with other parameters."""
        return jnp.mean(self.loss(forward(self._module(params), inputs), labels))

    def hessian_product(self, vector: Mapping[str, Array]) -> dict[str, Array]:
        """H v, with H the Hessian of the mean loss on the fixed examples; v and the product by path."""
        gradient = jax.grad(lambda params: self.cost(params, self.inputs, self.labels))
        return jax.jvp(gradient, (dict(self.params),), (dict(vector),))[1]

    @property
    def flat_hessian(self) -> tuple[int, Callable[[Float[Array, "parameters"]], Float[Array, "parameters"]]]:
        """Number of all parameters, and ``hessian_product`` on vectors of so many numbers."""
        flat, unflat = jax.flatten_util.ravel_pytree(dict(self.params))
        return flat.size, lambda vector: jax.flatten_util.ravel_pytree(self.hessian_product(unflat(vector)))[0]

    @property
    def loss_units(self) -> str:
        return "nat" if self.loss.__name__ == "nll" else "1"

    @cached_property
    def initial_params(self) -> Mapping[str, Array]:
        """The parameters that the run started from, by path: drawn again from its seed, to the bit.

        Raises:
            InputError: the scene was made without a run behind it.
        """
        if self.initial is None:
            raise InputError("scene.initial_params: this scene was made without a run, so without a start")
        return self.initial()

    @cached_property
    def batch_gradients(self) -> dict[str, Array]:
        """∂C/∂value of every point on the run's next mini-batch, example by example: name -> [batch, width]."""
        inputs, labels = self.batch
        return replace(self, scale=lambda scaled: scaled, test=(inputs, labels), examples=len(labels)).gradients

    def jacobian_decomposed(self, layer: LayerPoints, decompose: Callable[[Array], Any]) -> Any:
        """Returns ``decompose`` of a hidden layer's Jacobian ∂z^i/∂z^(i−1), example by example; done once for all."""
        key = layer.activation, decompose
        if key not in self._decomposed:
            weight = self.params[layer.weight]
            self._decomposed[key] = jax.lax.map(lambda f: decompose(f[:, None] * weight.T), self.slopes[key[0]])
        return self._decomposed[key]

    @cached_property
    def _decomposed(self) -> dict[tuple, Any]:
        return {}

    def output(self, params: Mapping[str, Array], inputs: Array) -> Float[Array, "n classes"]:
        """Logits of the network with other parameters."""
        return forward(self._module(params), inputs)

    def _module(self, params: Mapping[str, Array]) -> nnx.Module:
        """The run's network with some of its parameters replaced."""
        graph, held, rest = nnx.split(self.build(), nnx.Param, ...)
        replaced = [(path, v.replace(params.get(_name(path), v.get_value()))) for path, v in nnx.to_flat_state(held)]
        return nnx.merge(graph, nnx.from_flat_state(replaced), rest)

    def _zeros(self, inputs: Array) -> nnx.State:
        _, shifts = nnx.capture(lambda m, x: m(x), nnx.Perturbation)(self.module, inputs)
        return jax.tree.map(jnp.zeros_like, shifts)


def with_output(name: str, layers: Sequence[Array]) -> dict[str, Array]:
    """Returns values by layer as two arrays: those of the hidden layers, and that of the output layer, the last."""
    return {name: jnp.stack(layers[:-1]), f"output_{name}": layers[-1]}


def with_output_labels(name: str, label: Output) -> dict[str, Output]:
    """Returns the labels of ``with_output``, made of those of the hidden layers."""
    last = label._replace(dims=label.dims[1:], long_name=f"{label.long_name}, output layer")
    return {name: label, f"output_{name}": last}


def forward(module: nnx.Module, inputs: Array) -> Array:
    """Returns the logits with nothing captured: the form that the training step uses."""
    return nnx.capture(lambda m, x: m(x))(module, inputs)


def forward_with_values(module: nnx.Module, inputs: Array) -> tuple[Array, dict[str, Array]]:
    """Returns the logits and the value of every point."""
    logits, sown = nnx.capture(lambda m, x: m(x), nnx.Intermediate)(module, inputs)
    return logits, values(sown)


def values(sown: nnx.State) -> dict[str, Array]:
    """Returns the sown values by point; a module that is called once sows each once."""
    return {_name(path): value[0] for path, value in _flat(sown)}


def _by_point(shifts: nnx.State) -> dict[str, Array]:
    return {_name(path).removesuffix(shift("")): value for path, value in _flat(shifts)}


def _shifted(zeros: nnx.State, shifts: Mapping[str, Array]) -> nnx.State:
    """Perturbations by point; 0 at the others."""
    flat = [(path, v, _name(path).removesuffix(shift(""))) for path, v in nnx.to_flat_state(zeros)]
    return nnx.from_flat_state([(path, v.replace(shifts.get(name, v.get_value()))) for path, v, name in flat])


def _flat(state: nnx.State) -> list[tuple[tuple, Array]]:
    return [(path, v.get_value() if isinstance(v, nnx.Variable) else v) for path, v in nnx.to_flat_state(state)]


def _name(path: tuple) -> str:
    return ".".join(map(str, path))


def _run(module: nnx.Module, inputs: Array, shifts: nnx.State) -> tuple[Array, nnx.State]:
    return nnx.capture(lambda m, x: m(x), nnx.Intermediate, init=shifts)(module, inputs)
