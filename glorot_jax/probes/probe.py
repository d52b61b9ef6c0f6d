"""What a probe is, and the scene that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer

from glorot_jax.errors import InputError
from glorot_jax.models.points import INPUT, OUTPUT, LayerPoints, Notes, noted, shift_of, show, value_of

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
        names: by dimension, what its places are called, where they have names of their own.
    """

    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    attrs: Mapping[str, object] = {}
    names: Mapping[str, tuple[str, ...]] = {}


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
PRETRAINED = tuple(tenth / 10 for tenth in range(11))
"""Shares of a layer's pre-training."""

COORDINATES: Mapping[str, tuple[float, ...]] = {
    "quantile": QUANTILES,
    "activation_bin": ACTIVATION_BINS.centres,
    "gradient_bin": GRADIENT_BINS.centres,
    "singular_value_bin": SINGULAR_VALUE_BINS.centres,
    "pretrained": PRETRAINED,
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
        any_depth: whether it is right for a run that has fewer hidden layers than the network shows (``Scene.depth``);
            where they are no more than counted off along the dimension ``layer``, it need not know.
    """

    name: str
    measure: Callable[[Scene], dict[str, Array]]
    outputs: Callable[[Scene], dict[str, Output]] | Output
    source: str
    by: Callable[[str], Probe] | None = None
    any_depth: bool = False


def by_method(
    name: str,
    measure: Callable[[str, Scene], dict[str, Array]],
    outputs: Callable[[str, Scene], dict[str, Output]],
    source: str,
) -> Probe:
    """Returns a probe by its usual method, ``"auto"``, which can be had by others; both functions take it first."""

    def by(method: str) -> Probe:
        return Probe(name, partial(measure, method), partial(outputs, method), source, by, any_depth=True)

    return by("auto")


def described(spec: Any) -> Probe:
    """Returns the probe of a description: a built-in name, ``specs.probe`` or ``specs.jacobian``."""
    from glorot_jax import probes, specs
    from glorot_jax.probes.input_output_jacobian import between_points

    if isinstance(spec, str):
        return probes.BUILT_IN[spec]
    if isinstance(spec, specs.jacobian):
        return between_points(spec.source, spec.target, spec.method)
    if isinstance(spec.measure, str):
        probe = probes.BUILT_IN[spec.measure]
        return probe.by(spec.method) if probe.by else probe
    line = (spec.measure.__doc__ or "").strip().partition("\n")[0]
    label = Output(spec.dims, spec.long_name or line or spec.name.replace("_", " "), spec.units)

    def measure(scene: Scene) -> dict[str, Array]:
        found = spec.measure(scene)
        return dict(found) if isinstance(found, Mapping) else {spec.name: found}

    return Probe(name=spec.name, measure=measure, outputs=label, source="of the sweep's own")


class Checked(NamedTuple):
    """What a probe returned, how it is labelled, and how many numbers it is."""

    values: dict[str, Array]
    labels: dict[str, Output]
    numbers: int


def checked(probe: Probe, scene: Scene) -> Checked:
    """Returns what a probe says of a scene, having seen that it fits; done while a program is traced.

    Of layers that the run's network does not have, values are NaN.

    Raises:
        InputError: it returns something else than arrays of numbers, or dimensions that its labels don't have.
    """
    try:
        found = _arrays(probe.name, probe.measure(scene))
    except InputError as error:
        named = str(error).startswith("probes.")
        raise error if named else InputError(f"probes.{probe.name}: {error}") from None
    made = probe.outputs
    labels = dict.fromkeys(found, made) if isinstance(made, Output) else made(scene)
    if found.keys() != labels.keys():
        raise InputError(f"probes.{probe.name}: it returns {sorted(found)} and labels {sorted(labels)}")
    sizes = {dim: len(values) for dim, values in COORDINATES.items()} | {"layer": len(scene.layers) - 1}
    for name, array in found.items():
        dims = labels[name].dims
        if len(dims) != array.ndim:
            raise InputError(f"probes.{probe.name}: {name} has the shape {list(array.shape)} and the dims {list(dims)}")
        for dim, size in zip(dims, array.shape, strict=True):
            if sizes.get(dim, size) != size:
                raise InputError(f"probes.{probe.name}: {name} has {size} along {dim!r}, not {sizes[dim]}")
    values = {name: _of_own_layers(value, labels[name].dims, scene) for name, value in found.items()}
    return Checked(values, labels, sum(array.size for array in found.values()))


def _of_own_layers(value: Array, dims: Sequence[str], scene: Scene) -> Array:
    if scene.depth is None or "layer" not in dims:
        return value
    has = jnp.arange(1, len(scene.layers)) <= scene.depth
    return jnp.where(jnp.expand_dims(has, [i for i, dim in enumerate(dims) if dim != "layer"]), value, jnp.nan)


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
        build: ``(params, rest) -> module``, a network in evaluation mode; parameters that are not given are the run's
            own, here and below. Flax wants a module of one's own inside every JAX transformation.
        build_together: ``params -> module``, without dropout, which normalizes a batch by its own statistics.
        build_training: ``params -> module``, the network as the run's next update uses it.
        notes: what the network shows.
        params: its trained arrays by path.
        rest: its other arrays by path: statistics, counters, settings.
        settle: ``params -> rest`` with the statistics of batch normalization taken from the fixed examples.
        settled: that of ``params``.
        loss: ``(logits, labels) -> per-example loss``.
        scale: a set's inputs [n, features] -> network inputs [n, …].
        valid, test: (inputs [n, features], labels [n]).
        inputs, labels: the fixed test examples of the layer statistics: (network inputs [examples, …], labels).
        batch: the mini-batch of the run's next update: (network inputs [batch, …], labels [batch]).
        updates: ``gradient -> what the optimizer would add to the parameters``, both by path.
        jacobian_examples: how many test examples the layer Jacobians are averaged over.
        learning_rate: the optimizer's, of this run; None if it has none that is a number.
        stable_curvature: gives the curvature above which the optimizer's steps diverge on a quadratic; None for all
            but gradient descent.
        initial: gives the parameters that the run started from, by path.
        depth: how many of the hidden layers, from the input on, this run's network has, in a program that it shares
            with deeper ones; None if all. Those above pass on what they are given, and their weights count nowhere.
    """

    build: Callable[[Mapping[str, Array], Mapping[str, Array]], nnx.Module]
    build_together: Callable[[Mapping[str, Array]], nnx.Module]
    build_training: Callable[[Mapping[str, Array]], nnx.Module]
    notes: Notes
    params: Mapping[str, Array]
    rest: Mapping[str, Array]
    settle: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    settled: Mapping[str, Array]
    loss: Callable[[Array, Array], Array]
    scale: Callable[[Array], Array]
    valid: tuple[Array, Array]
    test: tuple[Array, Array]
    inputs: Float[Array, "examples ..."]
    labels: Integer[Array, "examples"]
    batch: tuple[Array, Array]
    updates: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    jacobian_examples: int
    learning_rate: Float[Array, ""] | None = None
    stable_curvature: Callable[[], Float[Array, ""]] | None = None
    initial: Callable[[], Mapping[str, Array]] | None = None
    depth: Integer[Array, ""] | None = None

    @property
    def examples(self) -> int:
        """How many test examples the layer statistics use."""
        return len(self.labels)

    @property
    def predictor(self) -> nnx.Module:
        """The run's network in evaluation mode, as it would be used: with the statistics gathered in training."""
        return self.build(self.params, self.rest)

    @property
    def module(self) -> nnx.Module:
        """The run's network in evaluation mode, made anew wherever it is asked for.

        Batch normalization has the statistics of the fixed examples, so that each example passes by itself and a
        network is seen as its training sees it before running averages have caught up.
        """
        return self.build(self.params, self.settled)

    @property
    def layers(self) -> tuple[LayerPoints, ...]:
        """The layers that the network shows, in forward order, the output layer last."""
        return self.notes.layers

    @property
    def hidden(self) -> tuple[LayerPoints, ...]:
        """The layers that have an activation.

        Raises:
            InputError: the network shows none.
        """
        found = tuple(layer for layer in self.layers if layer.activation is not None)
        if not found:
            raise InputError(
                "the network shows no hidden layer",
                'write z = show_layer(self, "hidden1", s, activation) in place of z = activation(s) in its __call__',
            )
        return found

    def has(self, layer: LayerPoints) -> Bool[Array, ""] | None:
        """Returns whether a hidden layer is one of this run's network; None where all runs have all."""
        return None if self.depth is None else self.hidden.index(layer) < self.depth

    @property
    def dense(self) -> bool:
        """Whether every layer is a dense one whose weights are known, and some parameters' own are none beside."""
        return all(layer.weight is not None for layer in self.layers)

    @property
    def weights(self) -> tuple[str, ...]:
        """Paths of the weights: the layers' own in a dense network, else all but vectors, scalars and biases."""
        if self.dense:
            return tuple(str(layer.weight) for layer in self.layers)
        return tuple(
            path for path, value in self.params.items() if value.ndim > 1 and path.rpartition(".")[2] != "bias"
        )

    @cached_property
    def _passes(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Values at all points, and ∂C/∂(point) where C sums the examples' losses: each row is its own example's."""
        zeros = self.zeros(self.inputs)

        def cost(shifts):
            logits, shown = forward_shifted(self.module, self.inputs, shifts)
            return jnp.sum(self.loss(logits, self.labels)), shown

        gradients, shown = jax.grad(cost, has_aux=True)(zeros)
        return shown, by_point(gradients)

    @property
    def values(self) -> dict[str, Array]:
        """Value of every point on the examples: name -> [examples, width]."""
        return self._passes[0]

    @property
    def gradients(self) -> dict[str, Array]:
        """∂C/∂value of every point, example by example: name -> [examples, width]."""
        return self._passes[1]

    @cached_property
    def slopes(self) -> dict[str, Float[Array, "jacobian_examples ..."]]:
        """f'(s) of each hidden layer on the first ``jacobian_examples`` examples, by name of the layer's activation."""
        inputs = self.inputs[: self.jacobian_examples]
        shown = forward_with_values(self.module, inputs)[1]
        return self.slopes_at({layer.activation: shown[layer.preactivation] for layer in self.hidden})

    def slopes_at(self, points: Mapping[str, Float[Array, "..."]]) -> dict[str, Float[Array, "..."]]:
        """f'(s) of hidden layers at any s of any shape, given and returned by name of the layer's activation."""
        module = self.module
        with noted(module) as told:
            forward(module, self.inputs[:1])
        functions = told().functions
        return {name: jax.jvp(functions[name], (s,), (jnp.ones_like(s),))[1] for name, s in points.items()}

    @cached_property
    def batch_gradient(self) -> dict[str, Array]:
        """Gradient of the mean loss on the run's next mini-batch, by path of the parameter: that of the next update."""
        return jax.grad(self.batch_cost)(dict(self.params))

    def batch_cost(self, params: Mapping[str, Array]) -> Float[Array, ""]:
        """Mean loss on the run's next mini-batch of the network with other parameters, as in training."""
        inputs, labels = self.batch
        return jnp.mean(self.loss(forward(self.build_training(params), inputs), labels))

    def cost(self, params: Mapping[str, Array], inputs: Array, labels: Array) -> Float[Array, ""]:
        """Mean loss of the network with other parameters; batch normalization sees these inputs as one batch."""
        return jnp.mean(self.loss(forward(self.build_together(params), inputs), labels))

    def example_cost(self, params: Mapping[str, Array], x: Array, label: Array) -> Float[Array, ""]:
        """Loss of one example under other parameters, by itself."""
        return self.loss(self.output(params, self.settled, x[None]), label[None])[0]

    def hessian_product(self, vector: Mapping[str, Array]) -> dict[str, Array]:
        """H v, with H the Hessian of the mean loss on the fixed examples; v and the product by path."""
        gradient = jax.grad(lambda params: self.cost(params, self.inputs, self.labels))
        return jax.jvp(gradient, (dict(self.params),), (dict(vector),))[1]

    def flat_hessian_product(self, vector: Float[Array, "parameters"]) -> Float[Array, "parameters"]:
        """``hessian_product`` on vectors as ``flat`` makes them."""
        return self.flat(self.hessian_product(self.unflat(vector)))

    @property
    def size(self) -> int:
        """Number of all parameters, those of layers that the run's network does not have among them."""
        return sum(value.size for value in self.params.values())

    @property
    def own_size(self) -> int | Integer[Array, ""]:
        """Number of the parameters of the run's own network: so many come first in ``flat``."""
        if self.depth is None:
            return self.size
        sizes = [sum(self.params[path].size for path in layer.own) for layer in self.hidden]
        others = jnp.array(sizes) * (jnp.arange(1, len(sizes) + 1) > self.depth)
        return self.size - jnp.sum(others)

    def flat(self, values: Mapping[str, Array]) -> Float[Array, "parameters"]:
        """One number or array for each parameter, by path, as one vector.

        The output layer comes first, then all others in forward order: so the numbers of a network begin as those of a
        deeper one do, and what is drawn for them is the same.
        """
        return jnp.concatenate([values[path].ravel() for path in self._order])

    def unflat(self, vector: Float[Array, "parameters"]) -> dict[str, Array]:
        """What ``flat`` made a vector of."""
        ends = np.cumsum([self.params[path].size for path in self._order])
        parts = zip(self._order, jnp.split(vector, ends[:-1]), strict=True)
        return {path: part.reshape(self.params[path].shape) for path, part in parts}

    @property
    def _order(self) -> list[str]:
        """The parameters' paths as ``flat`` has them."""
        last = self.layers[-1].own

        def place(path: str) -> tuple:
            return path not in last, [
                (not part.isdigit(), int(part) if part.isdigit() else part) for part in path.split(".")
            ]

        return sorted(self.params, key=place)

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
        return replace(self, inputs=inputs, labels=labels).gradients

    def once(self, name: object, make: Callable[[], Any]) -> Any:
        """Returns what ``make`` gave when it was first asked for under this name: probes share what costs."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @cached_property
    def _made(self) -> dict[object, Any]:
        return {}

    def output(
        self, params: Mapping[str, Array], rest: Mapping[str, Array], inputs: Array
    ) -> Float[Array, "n classes"]:
        """Logits of the network with other parameters, in evaluation mode; ``rest`` is ``settle(params)``."""
        return forward(self.build(params, rest), inputs)

    def zeros(self, inputs: Array) -> nnx.State:
        """A shift by nothing of every point of the network on a batch of inputs."""
        _, shifts = nnx.capture(_call, nnx.Perturbation)(self.module, inputs)
        return jax.tree.map(jnp.zeros_like, shifts)


def with_output(scene: Scene, name: str, layers: Sequence[Array]) -> dict[str, Array]:
    """Returns values by layer as two arrays: those of the hidden layers, if any, and that of the output layer."""
    *hidden, last = layers
    return ({name: jnp.stack(hidden)} if hidden else {}) | {f"output_{name}": last}


def with_output_labels(scene: Scene, name: str, label: Output) -> dict[str, Output]:
    """Returns the labels of ``with_output``, made of those of the hidden layers."""
    last = label._replace(dims=label.dims[1:], long_name=f"{label.long_name}, output layer")
    return ({name: label} if len(scene.layers) > 1 else {}) | {f"output_{name}": last}


def by_weight(scene: Scene, name: str, values: Mapping[str, Array]) -> dict[str, Array]:
    """Returns values by path of the weights: by layer where the network is dense, else along the dimension ``weight``.

    Args:
        values: of all of ``scene.weights``.
    """
    if scene.dense:
        return with_output(scene, name, [values[path] for path in scene.weights])
    return {name: jnp.stack([values[path] for path in scene.weights])}


def by_weight_labels(scene: Scene, name: str, label: Output) -> dict[str, Output]:
    """Returns the labels of ``by_weight``, made of those of the hidden layers, whose first dimension is ``layer``."""
    if scene.dense:
        return with_output_labels(scene, name, label)
    return {name: label._replace(dims=("weight", *label.dims[1:]), names={"weight": scene.weights})}


def told_by_layer(texts: Sequence[str], output: str | None = None) -> str:
    """Returns what a label says of each hidden layer, and of the output layer if that is said.

    Layers of which the same is said are not counted off, so that networks of different depths are told alike.
    """
    begins = [i for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
    lines = [f"layer {i + 1}" if i + 1 in begins else f"from layer {i + 1} on" for i in begins]
    told = [*zip(lines, (texts[i] for i in begins), strict=True)]
    told += [] if output is None else [("output layer", output)]
    return told[0][1] if len({text for _, text in told}) == 1 else "; ".join(map(": ".join, told))


def forward(module: nnx.Module, inputs: Array) -> Array:
    """Returns the logits with nothing captured: the form that the training step uses."""
    return nnx.capture(_call)(module, inputs)


def forward_with_values(module: nnx.Module, inputs: Array) -> tuple[Array, dict[str, Array]]:
    """Returns the logits and the value of every point, network input and output among them."""
    logits, sown = nnx.capture(_call, nnx.Intermediate)(module, inputs)
    return logits, values(sown)


def forward_shifted(module: nnx.Module, inputs: Array, shifts: nnx.State) -> tuple[Array, dict[str, Array]]:
    """Returns logits and values with ``shifts`` added to the points."""
    logits, sown = nnx.capture(_call, nnx.Intermediate, init=shifts)(module, inputs)
    return logits, values(sown)


def forward_with_outputs(module: nnx.Module, inputs: Array) -> dict[str, Array]:
    """Returns what the first call of each part of the network gave, by its path in order of their names."""
    _, sown = nnx.capture(_call, nnx.Intermediate, method_outputs=nnx.Intermediate)(module, inputs)
    found = {_name(path[:-1]): value[0] for path, value in _flat(sown) if path[-1] == "__call__"}
    return dict(sorted(found.items()))


def values(sown: nnx.State) -> dict[str, Array]:
    """Returns the sown values by point.

    Raises:
        InputError: a point is shown twice.
    """
    found = {}
    for path, value in _flat(sown):
        name = value_of(path)
        if name is None:
            continue
        if len(value) != 1:
            raise InputError(
                f"model: the point {name!r} is shown {len(value)} times in one call",
                "a module that is called more than once can't show points",
            )
        found[name] = value[0]
    return found


def _call(module: nnx.Module, inputs: Array) -> Array:
    return show(module, OUTPUT, module(show(module, INPUT, inputs)))


def by_point(shifts: nnx.State) -> dict[str, Array]:
    """Returns shifts, or gradients with respect to them, by point."""
    return {str(shift_of(path)): value for path, value in _flat(shifts)}


def only(zeros: nnx.State, point: str, value: Array) -> nnx.State:
    """Returns a shift of one point alone; ``zeros`` are all of the network's."""
    (place,) = [(path, v) for path, v in nnx.to_flat_state(zeros) if shift_of(path) == point]
    return nnx.from_flat_state([(place[0], place[1].replace(value))])


def _flat(state: nnx.State) -> list[tuple[tuple, Array]]:
    return [(path, v.get_value() if isinstance(v, nnx.Variable) else v) for path, v in nnx.to_flat_state(state)]


def _name(path: tuple) -> str:
    return ".".join(map(str, path))
