"""All that is compiled: initialization, and the segment that trains some blocks of runs and measures them.

One segment is one call on one device. For each piece of the schedule and for each block of runs in turn:

    draw the piece's batches once for every distinct seed of the block (or keep those of the block before)
    take the piece's steps, all runs of the block vmapped together
    measure, if the piece ends at a record

How many pieces, steps, blocks and seeds there are is data, not shape: every segment of a cohort, the first, the last
and the one after a resume, of few runs or of many, on one device or on many, is the same program. That is what makes
resuming and packing bitwise exact.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Var
from jaxtyping import Array

from glorot_jax.data.dataset import Dataset
from glorot_jax.engine.pretraining import Phase, Pretraining
from glorot_jax.engine.tracing import undisturbed
from glorot_jax.errors import InputError
from glorot_jax.kernels import GENERAL, dense
from glorot_jax.models.points import noted
from glorot_jax.models.precision import adopt, products_in
from glorot_jax.optimizers import mup_factors, scaled, stable_curvature, transformation
from glorot_jax.probes.probe import (
    PRETRAINED,
    Output,
    Probe,
    Scene,
    checked,
    forward,
    forward_with_values,
)
from glorot_jax.randomness import key

PIECES = 1024
"""Room in a segment's schedule."""
RECORDS_PER_SEGMENT = 8
"""Records that one call can hold; a segment with more to write ends early."""
DRAW_TOGETHER = 8
"""Batches drawn in one go: enough to fill vector units, few enough to stay in cache."""
PIECE_BYTES = 16 * 2**20
"""Room for drawn batches on a device, per call."""
STREAM_BYTES = 8 * 2**20
"""Room for the batches that the host brings for one call: some hundred steps of MNIST for a handful of seeds."""
CHUNK_BYTES = 256 * 2**20
"""Room for the parameters of the blocks that one call works on."""
MOST_BLOCKS = 32
"""Blocks that one call works on, at most: enough that those of one seed share its batches."""

INIT_EXAMPLES = 256
"""Training examples shown to initializers that look at data: at least so many, in whole first batches."""

ALIVE = -1
"""Value of ``diverged_step`` in a run whose losses have all been finite."""

RECONSTRUCTION = "reconstruction_error"

Tree = dict[str, Array]


class Setup(NamedTuple):
    """What a cohort's runs share, and so what a program is compiled for.

    Attributes:
        network: ``(shape, classes, key=, inputs=, **settings) -> nnx.Module``: shape of one input, a batch of inputs
            for initializers that look at data, and the run's own settings.
        reads_inputs: whether the network looks at that batch when it is built.
        base_network: the same network in the size relative to which µP's learning rates are; None for one rate for all.
        input_shape: of one input as the network takes it.
        optimizer: kind and fixed arguments, as ``optimizers.transformation`` takes them.
        loss: ``(logits, labels) -> per-example loss``.
        probes: those that are measured together, by schedule.
        cadences: the schedules in words, as a sweep writes them.
        pretraining_steps: of each hidden layer before step 0; None for no pre-training.
        precision: of the matrix products of an update's forward and backward pass, as ``products_in`` takes it.
    """

    dataset: Dataset
    network: Callable[..., nnx.Module]
    reads_inputs: bool
    input_shape: tuple[int, ...]
    optimizer: tuple[object, Mapping[str, object]]
    loss: Callable[[Array, Array], Array]
    probes: tuple[tuple[Probe, ...], ...]
    cadences: tuple[str, ...]
    batch_size: int
    examples: int
    jacobian_examples: int
    base_network: Callable[..., nnx.Module] | None = None
    pretraining_steps: int | None = None
    precision: str = "float32"


class Pieces(NamedTuple):
    """The schedule of one segment, the same for all runs: int32 arrays of one length, and how many of it count.

    ``slot`` is where the record at the piece's end goes, −1 for none; ``due`` says by bits which schedules' probes
    look then.
    """

    first: np.ndarray
    steps: np.ndarray
    slot: np.ndarray
    due: np.ndarray
    count: np.int32

    @staticmethod
    def of(pieces: Sequence[tuple[int, int, int, int]]) -> Pieces:
        """Returns a schedule of (first, steps, slot, due), at most ``PIECES`` of them."""
        padded = np.array([*pieces, *[(0, 0, -1, 0)] * (PIECES - len(pieces))], np.int32)
        return Pieces(*padded.T.copy(), count=np.int32(len(pieces)))

    def parts(self) -> list[Pieces]:
        """Returns the schedule cut before and after each record, whose ``slot`` then is 0: the same bits, call by call.

        So what records take can be told from what updates take.
        """
        rows = [tuple(map(int, row)) for row in zip(*self[:4], strict=True)][: self.count]
        groups = (list(group) for _, group in itertools.groupby(rows, key=lambda row: row[2]))
        return [Pieces.of([(first, steps, min(slot, 0), due) for first, steps, slot, due in group]) for group in groups]


@dataclass(frozen=True)
class Program:
    """The compiled side of a cohort at one width, for one device.

    Attributes:
        width: runs that are vmapped together.
        kernel: what makes an update, as ``planning.form`` names it.
        room: blocks of that width which one call takes.
        outputs: how each record is labelled.
        record_size: numbers of a run's records at one step.
        read_at_first: names of the settings on which a run's state and record before its first update depend.
        param_count: parameters of one run, those of layers that it may lack among them.
        layer_params: those of each hidden layer, where it is a dense one.
        piece_steps: the longest piece.
        blame: names of the tensors that ``first_nonfinite`` counts: of each layer in forward order (kind, layer), then
            of every other parameter and point, then the loss, then the layers' reconstructions in pre-training.
        initialize: ``(constants, hyper, blocks) -> state``, leaves (room, width, …).
        segment: ``(constants, hyper, blocks, pieces, state) -> (state, records)``.
        scene: ``(constants, hyper, state, inputs, labels, step) -> Scene`` of one run.
        feeding: how the host brings batches, if it does; see ``Feeding``.
        phases: of the pre-training, in order; no piece of a schedule may reach from one into the next.
        update_flops: gives the floating-point operations of one run's update as the compiler counts them before it
            optimizes, all branches as if taken; None where it doesn't.
    """

    setup: Setup
    width: int
    kernel: str
    room: int
    outputs: dict[str, Output]
    record_size: int
    read_at_first: frozenset[str]
    param_count: int
    layer_params: tuple[int, ...]
    piece_steps: int
    blame: tuple[tuple[str, int | None], ...]
    initialize: Callable[..., Tree]
    segment: Callable[..., tuple[Tree, Tree]]
    scene: Callable[..., Scene]
    update_flops: Callable[[], float | None]
    feeding: Feeding | None = None
    phases: tuple[Phase, ...] = ()

    @property
    def first_step(self) -> int:
        """Where the schedule begins: below 0 with pre-training."""
        return self.phases[0].first if self.phases else 0

    def own_param_count(self, depth: int) -> int:
        """Returns the parameters of a run whose network has so many of the hidden layers."""
        return self.param_count - sum(self.layer_params[depth:])


@dataclass(frozen=True)
class Feeding:
    """What a program takes, and how it begins, where training examples stay on the host.

    ``Program.initialize`` then returns zeros, which ``begin`` fills; ``Program.segment`` takes ``brought`` as a last
    argument.

    Attributes:
        rows: batches that one call takes.
        brought: ``inputs`` (rows and some, batch, …) and ``labels``; ``row`` (room, width), where the batches of each
            of a block's distinct seeds begin; ``first``, the step of which that first batch is.
        first_inputs: (runs, batches, batch, …), what runs that begin together may look at.
        begin: ``(constants, hyper, place, first_inputs, state) -> state``.
    """

    rows: int
    brought: Mapping[str, jax.ShapeDtypeStruct]
    first_inputs: jax.ShapeDtypeStruct
    begin: Callable[..., Tree]


class Draft:
    """A cohort's program before anybody has said how many runs are vmapped together; nothing is compiled.

    Args:
        per_run: one run's settings, as an example of shapes and types: seed, stream, model.*, optimizer.*,
            pretraining.*, and depth where the runs' networks have different ones.

    Raises:
        InputError: the network is not what it says, or can't be pre-trained.
    """

    @undisturbed()
    def __init__(self, setup: Setup, per_run: Mapping[str, Array]):
        self.setup, self._per_run, self._network = setup, per_run, _Network(setup, per_run)
        self._pretraining = None if setup.pretraining_steps is None else Pretraining(setup, self._network)

    def update_bytes(self) -> tuple[int, int]:
        """Returns the bytes of one run's parameters, and of what its update keeps of its forward pass for the way back.

        From shapes alone.
        """
        run = _Run(self.setup, self._network, self._per_run, self._pretraining)
        return 4 * self._network.param_count, run.kept_bytes(self._per_run)

    @property
    def optimizer_numbers(self) -> list[str]:
        """Names of the optimizer's numeric arguments, which may differ from run to run."""
        return list(_Run._optimizer_settings(self._per_run))

    @property
    def has_descent(self) -> bool:
        """Whether the network can take a step of gradient descent by itself; see ``kernels.chain``."""
        return self._network.has_descent

    @undisturbed()
    def program(self, width: int, kernel: str = GENERAL) -> Program:
        """Returns the program that vmaps so many runs together, its update made by a kernel; see ``planning.form``."""
        setup, network = self.setup, self._network
        batch_bytes = setup.batch_size * setup.dataset.features * np.dtype(setup.dataset.dtype).itemsize
        piece_steps = int(np.clip(PIECE_BYTES // (batch_bytes * width), DRAW_TOGETHER, 256))
        piece_steps -= piece_steps % DRAW_TOGETHER
        blocks = _Blocks(setup, network, self._per_run, self._pretraining, kernel, piece_steps, width)
        outputs, size, read = blocks.outputs(self._per_run)
        room = int(np.clip(CHUNK_BYTES // (4 * network.param_count * width), 1, MOST_BLOCKS))
        return Program(
            setup=setup,
            width=width,
            kernel=kernel,
            room=room,
            outputs=outputs,
            record_size=size,
            read_at_first=read,
            param_count=network.param_count,
            layer_params=network.layer_params,
            piece_steps=piece_steps,
            blame=blocks.blame,
            initialize=blocks.initialize,
            segment=blocks.train,
            scene=blocks.scene,
            update_flops=lambda: blocks.update_flops(self._per_run),
            feeding=_feeding(blocks, room) if setup.dataset.stream else None,
            phases=self._pretraining.phases if self._pretraining else (),
        )


def _feeding(blocks: _Blocks, room: int) -> Feeding:
    setup = blocks.setup
    one = jax.ShapeDtypeStruct((setup.batch_size, *setup.dataset.shape), np.dtype(setup.dataset.dtype))
    batch_bytes = math.prod(one.shape) * one.dtype.itemsize + 4 * setup.batch_size
    rows = max(STREAM_BYTES // batch_bytes, 2 * room * blocks.width)  # a step and the next of runs that share nothing
    together = int(np.clip(STREAM_BYTES // (blocks.first_batches * batch_bytes), 1, blocks.width))
    held = rows + DRAW_TOGETHER  # so many are copied at a time, from the last row too
    return Feeding(
        rows=rows,
        brought={
            "inputs": jax.ShapeDtypeStruct((held, *one.shape), one.dtype),
            "labels": jax.ShapeDtypeStruct((held, setup.batch_size), np.int32),
            "row": jax.ShapeDtypeStruct((room, blocks.width), np.int32),
            "first": jax.ShapeDtypeStruct((), np.int32),
        },
        first_inputs=jax.ShapeDtypeStruct((together, blocks.first_batches, *one.shape), one.dtype),
        begin=blocks.begin,
    )


class _Network:
    """The module's structure, found once without computing anything, and the way from plain arrays back to it.

    A run's arrays are its trained parameters, and the rest: statistics, counters, the run's settings. Generators of
    random numbers are in neither: each use of the network has its own, made from a key that is a function of the step.
    """

    def __init__(self, setup: Setup, per_run: Mapping[str, Array]):
        self.setup = setup
        with _refused():
            module = nnx.eval_shape(lambda: self._build(jax.random.key(0), self._no_inputs(), per_run))
        module.train()
        training, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
        module.eval()
        self._graphs = {True: training, False: nnx.graphdef(module)}
        self._params, self._random, self._rest = map(_Paths, states)
        self.param_count = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.has_descent = getattr(module, "descent", None) is not None
        self.normalizes_batches = any(isinstance(m, nnx.BatchNorm) for _, m in nnx.iter_modules(module))
        self._look(per_run)

    @property
    def blame(self) -> tuple[tuple[str, int | None], ...]:
        """Names of the tensors that ``first_nonfinite`` counts."""
        return tuple(name for name, _ in self._named_tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained parameters by path."""
        return {path: leaf.shape for path, leaf in self._params.abstract().items()}

    @property
    def layer_params(self) -> tuple[int, ...]:
        """Parameters of each hidden layer that is a dense one."""
        shapes = self.shapes
        layers = [layer for layer in self.notes.layers if layer.activation and layer.weight]
        return tuple(sum(math.prod(shapes[path]) for path in layer.own) for layer in layers)

    def start(self, key: Array, inputs: Array, per_run: Mapping[str, Array]) -> tuple[Tree, Tree]:
        _, params, _, rest = nnx.split(self._build(key, inputs, per_run), nnx.Param, nnx.RngState, ...)
        return self._params.flat(params), self._rest.flat(rest)

    def merge(self, params: Tree, rest: Tree, key: Array, *, training: bool) -> nnx.Module:
        """The network in training or evaluation mode; ``key`` is the source of what it draws."""
        return nnx.merge(self._graphs[training], self._params.state(params), self._drawing(key), self._rest.state(rest))

    def params(self, module: nnx.Module) -> Tree:
        """The trained parameters as they are now."""
        return self._params.flat(nnx.state(module, nnx.Param))

    def rest(self, module: nnx.Module) -> Tree:
        """What a call of a network left beside its parameters.

        Raises:
            InputError: it made or dropped state while it was called.
        """
        rest = nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
        try:
            return self._rest.flat(rest)
        except ValueError:
            raise InputError(
                f"model: {type(module).__name__} makes state of its own while it is called",
                "make all of it when the module is built",
            ) from None

    def together(self, params: Tree, rest: Tree, key: Array) -> nnx.Module:
        """The network without dropout, every batch normalized by its own statistics."""
        if not self.normalizes_batches:
            return self.merge(params, rest, key, training=False)
        module = self.merge(params, rest, key, training=True)
        for _, part in nnx.iter_modules(module):
            if hasattr(part, "deterministic"):
                part.deterministic = True
        return module

    def settled(self, params: Tree, rest: Tree, key: Array, inputs: Array) -> Tree:
        """The rest with every batch normalization's statistics taken from ``inputs``."""
        if not self.normalizes_batches:
            return rest
        module = self.together(params, rest, key)
        for _, part in nnx.iter_modules(module):
            if isinstance(part, nnx.BatchNorm):
                part.momentum = 0.0
        forward(module, inputs)
        return self.rest(module)

    def first_nonfinite(self, module: nnx.Module, params: Tree, inputs: Array) -> Array:
        """Index into ``blame`` of the first tensor of the forward pass that holds a non-finite number."""
        _, values = forward_with_values(module, inputs)
        tensors = {"params": params, "values": values}
        bad = [~jnp.all(jnp.isfinite(tensors[kind][name])) for _, (kind, name) in self._named_tensors[:-1]]
        return jnp.argmax(jnp.stack([*bad, jnp.array(True)])).astype(jnp.int32)

    def _look(self, per_run: Mapping[str, Array]) -> None:
        """Calls the network once, abstractly, to see what it shows."""

        def call(key: Array, inputs: Array) -> Array:
            module = self._build(key, inputs, per_run)
            module.eval()
            with noted(module) as told:
                logits, values = forward_with_values(module, inputs)
            self.notes = told()
            self._shown = set(values)
            return logits

        with _refused():
            logits = jax.eval_shape(call, jax.random.key(0), self._no_inputs())
        classes = self.setup.dataset.classes
        if not isinstance(logits, jax.ShapeDtypeStruct) or logits.shape != (1, classes):
            found = list(logits.shape) if isinstance(logits, jax.ShapeDtypeStruct) else type(logits).__name__
            raise InputError(f"model: for a batch of 1 it returns {found}, not logits [1, {classes}]")

    @functools.cached_property
    def _named_tensors(self) -> list[tuple[tuple[str, int | None], tuple[str, str]]]:
        """By what it is called in a message: a tensor's kind (of parameter or value) and its path."""
        layers = [
            ((kind, i), (where, point))
            for i, layer in enumerate(self.notes.layers, start=1)
            for kind, where, point in (
                ("weight", "params", layer.weight),
                ("preactivation", "values", layer.preactivation),
                ("activation", "values", layer.activation),
            )
            if point is not None
        ]
        told = {point for _, point in layers}
        others = [
            ((name, None), (where, name))
            for where, names in (("params", self._params.names), ("values", self.notes.points))
            for name in names
            if name not in told and (where == "params" or name in self._shown)
        ]
        return [*layers, *others, (("loss", None), ("", ""))]

    def _drawing(self, key: Array) -> nnx.State:
        """Generators that start from ``key``, each with numbers of its own."""
        return self._random.state(
            {
                name: jax.random.fold_in(key, zlib.crc32(name.encode()))
                if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                else jnp.zeros(leaf.shape, leaf.dtype)
                for name, leaf in self._random.abstract().items()
            }
        )

    def _build(self, key: Array, inputs: Array, per_run: Mapping[str, Array]) -> nnx.Module:
        settings = {k.removeprefix("model."): v for k, v in per_run.items() if k.startswith("model.")}
        settings |= {"depth": per_run["depth"]} if "depth" in per_run else {}
        shape, classes = self.setup.input_shape, self.setup.dataset.classes
        return self.setup.network(shape, classes, key=key, inputs=inputs, **settings)

    def _no_inputs(self) -> Array:
        return jnp.zeros((1, *self.setup.input_shape), jnp.float32)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """What a module can't do, as the one line that says so."""
    try:
        yield
    except InputError:
        raise
    except LookupError as error:
        raise InputError(
            f"model: {error} is shown from inside a Flax transformation, where no probe reaches it",
            "show it outside of nnx.scan, nnx.vmap, nnx.remat and their like",
        ) from error
    except jax.errors.ConcretizationTypeError as error:
        where = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename][-1]
        raise InputError(
            f"model: {where.name}, line {where.lineno}, decides by a number that differs from run to run: {where.line}",
            "a floating argument that has to be known is named in static=(…)",
        ) from error
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise InputError(f"model: it can't be built: {type(error).__name__}: {line}") from error


class _Paths:
    """A Flax state as a flat dict of arrays by path, and back."""

    def __init__(self, state: nnx.State):
        self._leaves = {_path(p): v for p, v in jax.tree_util.tree_leaves_with_path(state)}
        self._structure = jax.tree.structure(state)

    def flat(self, state: nnx.State) -> Tree:
        return dict(zip(self._leaves, jax.tree.leaves(state), strict=True))

    def state(self, flat: Tree) -> nnx.State:
        return jax.tree.unflatten(self._structure, [flat[name] for name in self._leaves])

    def abstract(self) -> dict[str, jax.ShapeDtypeStruct]:
        return dict(self._leaves)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._leaves)


def _path(path: tuple) -> str:
    """The path of a leaf as the module's own attribute path: ``layers.0.kernel``."""
    parts = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", None))) for p in path)
    return ".".join(str(p) for p in parts if p not in (None, "value"))


class _Run:
    """What happens to one run.

    Attributes:
        labels: by schedule, once it has been traced: each probe's labels, and how many numbers it returns.
    """

    def __init__(
        self,
        setup: Setup,
        network: _Network,
        per_run: Mapping[str, Array],
        pretraining: Pretraining | None = None,
        kernel: str = GENERAL,
    ):
        self.setup, self.network, self.pretraining, self.kernel = setup, network, pretraining, kernel
        self.factors = self._factors(per_run)
        self.labels: dict[int, list[tuple[dict[str, Output], int]]] = {}

    def start(self, constants: Mapping, hyper: Tree, pixels: Array | None = None) -> Tree:
        """State of a run before its first update; ``pixels`` are its first batches if the host brings them."""
        seed, stream = hyper["seed"], hyper["stream"]
        if not self.setup.reads_inputs:  # nothing is drawn that nobody looks at: half of what would be compiled
            inputs = jnp.zeros((self.first_batches * self.setup.batch_size, *self.setup.input_shape))
        else:
            if pixels is None:
                steps = jnp.arange(self.first_batches)
                pixels, _ = jax.vmap(lambda step: self._draw(constants, seed, stream, step))(steps)
            inputs = jax.vmap(self.scaled)(pixels).reshape(-1, *self.setup.input_shape)
        params, rest = self.network.start(key(seed, "init", stream=stream), inputs, hyper)
        return {
            "params": params,
            "rest": rest,
            "optimizer": _flat(self._optimizer(hyper).init(params)),
            "loss_sum": jnp.float32(0),
            "loss_count": jnp.int32(0),
            "diverged_step": jnp.int32(ALIVE),
            "first_nonfinite": jnp.int32(ALIVE),
        } | ({"pretraining": self.pretraining.start(params)} if self.pretraining else {})

    @property
    def blame(self) -> tuple[tuple[str, int | None], ...]:
        """Names of all that a run's ``first_nonfinite`` may count."""
        layers = len(self.pretraining.layers) if self.pretraining else 0
        return (*self.network.blame, *(("reconstruction", k) for k in range(1, layers + 1)))

    @property
    def first_batches(self) -> int:
        """How many batches initializers may look at."""
        return -(-INIT_EXAMPLES // self.setup.batch_size)

    @property
    def _brought(self) -> jax.ShapeDtypeStruct | None:
        """What ``start`` takes as a run's first batches."""
        data = self.setup.dataset
        shape = (self.first_batches, self.setup.batch_size, *data.shape)
        return jax.ShapeDtypeStruct(shape, np.dtype(data.dtype)) if data.stream else None

    def step(self, state: Tree, hyper: Tree, inputs: Array, labels: Array, step: Array) -> Tree:
        """One update. A run whose loss is not finite stays as it was before, and is marked with this step."""
        update = self._by_gradient if self.kernel == GENERAL else self._by_descent
        return update(state, hyper, inputs, labels, step)

    def _by_gradient(self, state: Tree, hyper: Tree, inputs: Array, labels: Array, step: Array) -> Tree:
        """An update by any optimizer of Optax's form."""
        params = state["params"]
        cost = functools.partial(self._cost, rest=state["rest"], hyper=hyper, batch=(inputs, labels), step=step)
        with products_in(self.setup.precision):
            (loss, new_rest), gradient = jax.value_and_grad(cost, has_aux=True)(params)
        alive = state["diverged_step"] == ALIVE
        goes_on = alive & jnp.isfinite(loss)
        optimizer = self._optimizer(hyper)
        memory = _like(state["optimizer"], optimizer.init, params)
        beside = self._beside_the_gradient(state["rest"], hyper, (inputs, labels), step)
        updates, new_memory = optimizer.update(gradient, memory, params, **beside)
        new = {
            "params": jax.tree.map(lambda p, u: p + u, params, updates),
            "rest": new_rest,
            "optimizer": _flat(new_memory),
            "loss_sum": state["loss_sum"] + loss,
            "loss_count": state["loss_count"] + 1,
        }
        kept = {name: state[name] for name in new}
        return {
            **state,
            **_where(goes_on, new, kept),
            "diverged_step": jnp.where(alive & ~goes_on, step, state["diverged_step"]),
        }

    def _by_descent(self, state: Tree, hyper: Tree, inputs: Array, labels: Array, step: Array) -> Tree:
        """An update by gradient descent that the network makes itself, layer by layer; see ``kernels.chain``.

        The parameters of a run that doesn't go on are not selected afterwards: they come back as they were.
        """
        module = self._training(state["params"], state["rest"], hyper, step)
        with products_in(self.setup.precision):
            logits, update = module.descent(inputs, dense.kernel(self.kernel))
        loss, pull = jax.vjp(lambda logits: jnp.mean(self.setup.loss(logits, labels)), logits)
        alive = state["diverged_step"] == ALIVE
        goes_on = alive & jnp.isfinite(loss)
        (error,) = pull(-hyper["optimizer.learning_rate"])
        with products_in(self.setup.precision):
            update(error, goes_on)
        new = {
            "rest": self.network.rest(module),
            "loss_sum": state["loss_sum"] + loss,
            "loss_count": state["loss_count"] + 1,
        }
        return {
            **state,
            "params": self.network.params(module),
            **_where(goes_on, new, {name: state[name] for name in new}),
            "diverged_step": jnp.where(alive & ~goes_on, step, state["diverged_step"]),
        }

    def pretrain(self, k: int, state: Tree, hyper: Tree, inputs: Array, labels: Array, step: Array) -> Tree:
        """One update of hidden layer k, the first being 0, without labels; a run may diverge in it as in ``step``."""
        assert self.pretraining is not None
        with products_in(self.setup.precision):
            error, new = self.pretraining.error_and_update(k, state, hyper, inputs, step)
        alive = state["diverged_step"] == ALIVE
        goes_on = alive & jnp.isfinite(error)
        lost = alive & ~goes_on
        return {
            **state,
            **_where(goes_on, new, {name: state[name] for name in new}),
            "diverged_step": jnp.where(lost, _below_alive(step), state["diverged_step"]),
            "first_nonfinite": jnp.where(lost, len(self.network.blame) + k, state["first_nonfinite"]),
        }

    def kept_bytes(self, hyper: Mapping[str, Array]) -> int:
        """Bytes that an update keeps from its forward pass for the way back; what goes into it is not counted."""
        _, state, *batch, step = self._abstract(hyper)

        def kept(state, batch, step):
            cost = functools.partial(self._cost, rest=state["rest"], hyper=hyper, batch=batch, step=step)
            with products_in(self.setup.precision):
                return jax.vjp(cost, state["params"], has_aux=True)[1]

        traced = jax.make_jaxpr(kept)(state, batch, step).jaxpr
        made = {v for v in traced.outvars if isinstance(v, Var)} - set(traced.invars)
        return sum(v.aval.size * v.aval.dtype.itemsize for v in made)

    def update_flops(self, hyper: Mapping[str, Array]) -> float | None:
        """Floating-point operations of an update, as ``Program`` has them; nothing is compiled."""
        _, *update = self._abstract(hyper)
        counted = jax.jit(self._by_gradient).lower(update[0], hyper, *update[1:]).cost_analysis()
        return counted.get("flops") if counted else None

    def _cost(self, params: Tree, *, rest: Tree, hyper: Tree, batch: tuple[Array, Array], step: Array):
        """Mean loss of a batch, and what the network left beside its parameters."""
        inputs, labels = batch
        module = adopt(self._training(params, rest, hyper, step))
        logits = forward(module, inputs)
        return jnp.mean(self.setup.loss(logits, labels)), self.network.rest(module)

    def _beside_the_gradient(self, rest: Tree, hyper: Tree, batch: tuple[Array, Array], step: Array) -> dict[str, Any]:
        """What an optimizer may ask for; functions, so that nothing is computed for those that don't."""
        return {
            "obj_fn": lambda params: self._cost(params, rest=rest, hyper=hyper, batch=batch, step=step)[0],
            "logits_fn": lambda params: forward(self._training(params, rest, hyper, step), batch[0]),
            "random_key": lambda: key(hyper["seed"], "curvature", stream=hyper["stream"], step=step),
            "step": step,
        }

    def _training(self, params: Tree, rest: Tree, hyper: Tree, step: Array) -> nnx.Module:
        """The network as the update of a step uses it."""
        drawing = key(hyper["seed"], "module", stream=hyper["stream"], step=step)
        return self.network.merge(params, rest, drawing, training=True)

    def measure(
        self,
        constants: Mapping,
        schedule: int | None,
        hyper: Tree,
        state: Tree,
        inputs: Array,
        labels: Array,
        step: Array,
    ) -> Tree:
        """A run's records by schedule, the training loss first: NaN once it has diverged.

        The batch is that of the update ``step``, which comes next.
        """
        alive = state["diverged_step"] == ALIVE

        def measured(found: Mapping) -> Tree:
            return {name: jnp.where(alive, jnp.asarray(v, jnp.float32), jnp.nan) for name, v in found.items()}

        scene = self.scene(constants, hyper, state, inputs, labels, step)
        if schedule is None:
            errors = {RECONSTRUCTION: self.pretraining.errors(state, step)} if self.pretraining else {}
            return measured({"train_loss": self._train_loss(state, scene)} | errors)
        found = [checked(probe, scene) for probe in self.setup.probes[schedule]]
        self.labels[schedule] = [(one.labels, one.numbers) for one in found]
        return measured({k: v for one in found for k, v in one.values.items()})

    def scene(self, constants: Mapping, hyper: Tree, state: Tree, inputs: Array, labels: Array, step: Array) -> Scene:
        """What the probes of a run see; the batch is that of its next update."""
        setup, params, rest = self.setup, state["params"], state["rest"]
        drawing = key(hyper["seed"], "module in evaluation", stream=hyper["stream"])
        fixed = self.scaled(constants["test"][0][: setup.examples])  # here, for nobody to make it inside a loop

        def updates(gradient: Mapping[str, Array]) -> Mapping[str, Array]:
            optimizer = self._optimizer(hyper)
            memory = _like(state["optimizer"], optimizer.init, params)
            beside = self._beside_the_gradient(rest, hyper, (inputs, labels), step)
            return optimizer.update(gradient, memory, params, **beside)[0]

        def settle(changed: Mapping[str, Array]) -> Mapping[str, Array]:
            return self.network.settled(params | changed, rest, drawing, fixed)

        return Scene(
            build=lambda changed, rest: self.network.merge(params | changed, rest, drawing, training=False),
            build_together=lambda changed: self.network.together(params | changed, rest, drawing),
            build_training=lambda changed: self._training(params | changed, rest, hyper, step),
            notes=self.network.notes,
            params=params,
            rest=rest,
            settle=settle,
            settled=settle(params),
            loss=setup.loss,
            scale=self.scaled,
            valid=constants["valid"],
            test=constants["test"],
            inputs=fixed,
            labels=constants["test"][1][: setup.examples],
            batch=(inputs, labels),
            updates=updates,
            jacobian_examples=setup.jacobian_examples,
            learning_rate=self._optimizer_settings(hyper).get("learning_rate"),
            stable_curvature=self._stable_curvature(hyper),
            initial=lambda: self._initial_params(constants, hyper),
            depth=hyper.get("depth"),
        )

    def _initial_params(self, constants: Mapping, hyper: Tree) -> Tree:
        """Parameters before the first update, made anew as ``start`` made them: run by run, so to the same bits.

        Raises:
            InputError: they depend on training examples that stay on the host.
        """
        pixels = None
        if (brought := self._brought) is not None:
            if self.setup.reads_inputs:
                raise InputError(
                    "initial weights that look at data can't be drawn again where the data stay on the host",
                    "placement='device'",
                )
            pixels = jnp.zeros(brought.shape, brought.dtype)
        again = jax.custom_batching.sequential_vmap(
            lambda constants, hyper: self.start(constants, hyper, pixels)["params"]
        )
        return again(constants, hyper)

    @functools.cached_property
    def _start(self) -> Callable[..., Tree]:
        """``start``, traced once."""
        return jax.jit(self.start, inline=True)

    def _abstract(self, hyper: Mapping[str, Array]) -> tuple[Any, ...]:
        """The data's constants; a run's state, inputs, labels and step by their shapes."""
        constants, batch = self.setup.dataset.constants(), (self.setup.batch_size,)
        state = self._start.eval_shape(constants, hyper, self._brought)
        inputs = jax.ShapeDtypeStruct((*batch, *self.setup.input_shape), jnp.float32)
        return constants, state, inputs, *(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in (batch, ()))

    def _train_loss(self, state: Tree, scene: Scene) -> Array:
        count = state["loss_count"]
        return jnp.where(count > 0, state["loss_sum"] / jnp.maximum(count, 1), scene.batch_cost(scene.params))

    def scaled(self, pixels: Array) -> Array:
        """Network inputs of drawn ones [n, …]; an axis for the channels is added where the network wants one."""
        return self.setup.dataset.scale(pixels.reshape(pixels.shape[0], *self.setup.input_shape))

    def _draw(self, constants: Mapping, seed: Array, stream: Array, step: Array) -> tuple[Array, Array]:
        if self.pretraining:
            stream, step = self.pretraining.drawn(stream, step)
        return self.setup.dataset.draw(constants["arrays"], seed, stream, step, self.setup.batch_size)

    def _optimizer(self, hyper: Tree):
        made = transformation(*self.setup.optimizer, self._optimizer_settings(hyper))
        return made if self.factors is None else scaled(made, self.factors)

    def _stable_curvature(self, hyper: Tree) -> Callable[[], Array] | None:
        """Of an optimizer with one learning rate for all parameters."""
        known = self.factors is None
        return stable_curvature(*self.setup.optimizer, self._optimizer_settings(hyper)) if known else None

    @staticmethod
    def _optimizer_settings(hyper: Tree) -> Tree:
        return {k.removeprefix("optimizer."): v for k, v in hyper.items() if k.startswith("optimizer.")}

    def _factors(self, per_run: Mapping[str, Array]) -> dict[str, float] | None:
        """Factors of the parameters' learning rates by path, where the optimizer has any."""
        setup = self.setup
        if setup.base_network is None:
            return None
        base = _Network(setup._replace(network=setup.base_network), per_run)
        return mup_factors(setup.optimizer[0], self.network.shapes, base.shapes)


class _Blocks(_Run):
    """What happens to a block of runs, and to all blocks of a call."""

    def __init__(
        self,
        setup: Setup,
        network: _Network,
        per_run: Mapping[str, Array],
        pretraining: Pretraining | None,
        kernel: str,
        piece_steps: int,
        width: int,
    ):
        super().__init__(setup, network, per_run, pretraining, kernel)
        self.piece_steps, self.width = piece_steps, width

    @products_in("float32")
    def outputs(self, hyper: Mapping[str, Array]) -> tuple[dict[str, Output], int, frozenset[str]]:
        """How each record is labelled, how many numbers a run's records of one step are, and what the first reads."""
        loss = "mean over the mini-batches since the last record; at step 0 the first mini-batch"
        always = {"method": loss, "cadence": " and ".join(self.setup.cadences)}
        found: dict[str, Output] = {"train_loss": Output((), "training loss", attrs=always)}
        size = 1
        if self.pretraining:
            found[RECONSTRUCTION] = self.pretraining.output
            size += len(self.pretraining.layers) * len(PRETRAINED)
        constants, *run, step = self._abstract(hyper)
        state, *batch = jax.tree.map(lambda v: jax.ShapeDtypeStruct((self.width, *v.shape), v.dtype), run)
        settings = {name: jax.ShapeDtypeStruct((self.width, *np.shape(v)), v.dtype) for name, v in hyper.items()}
        looked = [self._look(s).trace(constants, settings, state, (*batch, step)) for s in self._schedules]
        read = {"seed", "stream"}.union(_read(self._start.trace(constants, hyper, self._brought)), *map(_read, looked))
        for schedule, (probes, cadence) in enumerate(zip(self.setup.probes, self.setup.cadences, strict=True)):
            for probe, (labels, numbers) in zip(probes, self.labels[schedule], strict=True):
                if twice := found.keys() & labels.keys():
                    raise InputError(f"probes.{probe.name}: {sorted(twice)[0]!r} is recorded by another probe, too")
                found |= {k: v._replace(attrs={**v.attrs, "cadence": cadence}) for k, v in labels.items()}
                size += numbers
        return found, size, frozenset(read)

    def initialize(self, constants: Mapping, hyper: Tree, blocks: Tree) -> Tree:
        """Returns the state before the first update."""

        def block(b, state):
            started = jax.lax.map(lambda h: self.start(constants, h), _at(hyper, b))
            return _put(state, started, b)

        run = jax.eval_shape(lambda x: self._start(constants, _at(_at(hyper, 0), 0), x), self._brought)
        shape = hyper["seed"].shape
        nothing = jax.tree.map(lambda v: jnp.zeros((*shape, *v.shape), v.dtype), run)
        if self.setup.dataset.stream:
            return nothing
        return jax.lax.fori_loop(0, blocks["count"], block, nothing)

    @products_in("float32")
    def begin(self, constants: Mapping, hyper: Tree, place: Tree, first_inputs: Array, state: Tree) -> Tree:
        """Returns the state with some runs of block ``place["block"]``, from ``place["run"]`` on, as they begin."""

        def block(b, state):
            mine = jax.tree.map(
                lambda v: jax.lax.dynamic_slice_in_dim(v, place["run"], len(first_inputs)), _at(hyper, b)
            )
            started = jax.lax.map(lambda brought: self.start(constants, *brought), (mine, first_inputs))
            return jax.tree.map(
                lambda v, p: jax.lax.dynamic_update_slice(v, p[None], (b, place["run"], *(0,) * (p.ndim - 1))),
                state,
                started,
            )

        return jax.lax.fori_loop(place["block"], place["block"] + 1, block, state)

    @products_in("float32")
    def train(
        self,
        constants: Mapping,
        hyper: Tree,
        blocks: Tree,
        pieces: Pieces,
        state: Tree,
        brought: Tree | None = None,
    ) -> tuple[Tree, Tree]:
        """Returns the state after all pieces and the records that they wrote.

        Leaves are (room, width, …); ``blocks["count"]`` blocks hold runs. ``brought``, as in ``Feeding``, are the
        batches if they are not drawn here.
        """
        records = self._empty_records(constants, hyper, state)
        buffer = self._empty_batches()

        def piece(p, carry):
            first, steps, slot, due = pieces.first[p], pieces.steps[p], pieces.slot[p], pieces.due[p]

            def block(b, carry):
                state, records, buffer = carry
                mine, settings, plan = (_at(tree, b) for tree in (state, hyper, blocks["seeds"]))
                if brought is None:
                    buffer = self._fill(constants, plan, buffer, first, steps)
                else:
                    buffer = self._copy(brought, b, plan, buffer, first, steps)
                mine = self._advance(mine, settings, plan, buffer, first, steps)
                mine["first_nonfinite"] = self._blame(mine, settings, plan, buffer, first)
                nothing = jax.tree.map(lambda v: v[0, 0], records)  # its shape is that of a block's record
                wanted = jnp.where(slot >= 0, due, 0)
                seen = (*self._batch(plan, buffer, 0), first)
                found = self._measured(constants, settings, mine, seen, wanted, nothing)
                records = _put_at(records, found, b, slot)
                mine["loss_sum"] = jnp.where(slot >= 0, 0.0, mine["loss_sum"])
                mine["loss_count"] = jnp.where(slot >= 0, 0, mine["loss_count"])
                return _put(state, mine, b), records, buffer

            return jax.lax.fori_loop(0, blocks["count"], block, carry)

        state, records, _ = jax.lax.fori_loop(0, pieces.count, piece, (state, records, buffer))
        return state, {name: array for found in records for name, array in found.items()}

    def _advance(self, state: Tree, hyper: Tree, plan: Tree, buffer: Tree, first: Array, steps: Array) -> Tree:
        def made(state: Tree, update: Callable[..., Tree], count: Array) -> Tree:
            def body(i, state):
                inputs, labels = self._batch(plan, buffer, i)
                return jax.vmap(update, in_axes=(0, 0, 0, 0, None))(state, hyper, inputs, labels, first + i)

            return jax.lax.fori_loop(0, count, body, state)

        if self.pretraining is None:
            return made(state, self.step, steps)
        layers = len(self.pretraining.layers)
        updates = [*(functools.partial(self.pretrain, k) for k in range(layers)), self.step]
        at = self.pretraining.layer_at(first)
        for k, update in enumerate(updates):  # all but one make no step
            state = made(state, update, jnp.where(at == k, steps, 0))
        return state

    def _batch(self, plan: Tree, buffer: Tree, i: Array | int) -> tuple[Array, Array]:
        """The runs' scaled batches (width, batch, …) of one step of the piece."""
        pixels, labels = (jax.lax.dynamic_index_in_dim(buffer[k], i, 1, keepdims=False) for k in ("inputs", "labels"))
        if self.width > 1:
            pixels, labels = pixels[plan["slot"]], labels[plan["slot"]]
        return jax.vmap(self.scaled)(pixels), labels

    def _fill(self, constants: Mapping, plan: Tree, buffer: Tree, first: Array, steps: Array) -> Tree:
        """Draws the piece's batches for the block's distinct seeds; none where the block before had the same.

        A piece without steps has one all the same: what the next update would see.
        """
        rounds = jnp.maximum(steps + DRAW_TOGETHER - 1, DRAW_TOGETHER) // DRAW_TOGETHER

        def one_round(k, buffer):
            seed, part = k // rounds, (k % rounds) * DRAW_TOGETHER
            step = first + part + jnp.arange(DRAW_TOGETHER, dtype=jnp.int32)
            inputs, labels = jax.vmap(
                lambda s: self._draw(constants, plan["draw_seed"][seed], plan["draw_stream"][seed], s)
            )(step)
            return {
                "inputs": jax.lax.dynamic_update_slice(
                    buffer["inputs"], inputs[None], (seed, part, *(0,) * (inputs.ndim - 1))
                ),
                "labels": jax.lax.dynamic_update_slice(buffer["labels"], labels[None], (seed, part, 0)),
            }

        return jax.lax.fori_loop(0, plan["draws"] * rounds, one_round, buffer)

    def _copy(self, brought: Tree, b: Array, plan: Tree, buffer: Tree, first: Array, steps: Array) -> Tree:
        """Fills the buffer as ``_fill`` does, with batches that the host brought."""
        rounds = jnp.maximum(steps + DRAW_TOGETHER - 1, DRAW_TOGETHER) // DRAW_TOGETHER
        begin = _at(brought["row"], b) + first - brought["first"]

        def one_round(k, buffer):
            seed, part = k // rounds, (k % rounds) * DRAW_TOGETHER
            some = {
                name: jax.lax.dynamic_slice_in_dim(brought[name], begin[seed] + part, DRAW_TOGETHER) for name in buffer
            }
            return {
                name: jax.lax.dynamic_update_slice(array, some[name][None], (seed, part, *(0,) * (array.ndim - 2)))
                for name, array in buffer.items()
            }

        return jax.lax.fori_loop(0, plan["draws"] * rounds, one_round, buffer)

    def _empty_batches(self) -> Tree:
        shape = (self.width, self.piece_steps, self.setup.batch_size)
        return {
            "inputs": jnp.zeros((*shape, *self.setup.dataset.shape), self.setup.dataset.dtype),
            "labels": jnp.zeros(shape, jnp.int32),
        }

    def _measured(
        self, constants: Mapping, hyper: Tree, state: Tree, batch: tuple, due: Array, nothing: list[Tree]
    ) -> list[Tree]:
        """The block's records (width, …) by schedule, where the piece ends at one and it is due; else NaN."""
        found = []
        for schedule, shape in zip(self._schedules, nothing, strict=True):
            look = functools.partial(self._look(schedule), constants)
            away = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan), shape)
            wanted = due > 0 if schedule is None else due >> schedule & 1 == 1
            found.append(jax.lax.cond(wanted, look, lambda *_, a=away: a, hyper, state, batch))
        return found

    @property
    def _schedules(self) -> tuple[int | None, ...]:
        """None is that of the training loss: whenever something is recorded."""
        return (None, *range(len(self.setup.probes)))

    @functools.cache  # noqa: B019 - as long as the program is traced
    def _look(self, schedule: int | None) -> Callable[..., Tree]:
        """What measures a block's runs; traced once, wherever it is put in."""

        def look(constants: Mapping, hyper: Tree, state: Tree, batch: tuple) -> Tree:
            *inputs_and_labels, step = batch
            measure = lambda h, s, x, y: self.measure(constants, schedule, h, s, x, y, step)  # noqa: E731
            return jax.vmap(measure)(hyper, state, *inputs_and_labels)

        return jax.jit(look, inline=True)

    def _empty_records(self, constants: Mapping, hyper: Tree, state: Tree) -> list[Tree]:
        """NaN in the shape (blocks, records, width, …) of everything measured, by schedule.

        There is a last record more, which nobody reads.
        """
        blocks, width = state["loss_sum"].shape
        shape = (width, self.setup.batch_size, *self.setup.input_shape)
        batch = jnp.zeros(shape), jnp.zeros(shape[:2], jnp.int32), jnp.int32(0)

        def empty(schedule: int | None) -> Tree:
            made = jax.eval_shape(self._look(schedule), constants, _at(hyper, 0), _at(state, 0), batch)
            return jax.tree.map(lambda v: jnp.full((blocks, RECORDS_PER_SEGMENT + 1, *v.shape), jnp.nan), made)

        return [empty(schedule) for schedule in self._schedules]

    def _blame(self, state: Tree, hyper: Tree, plan: Tree, buffer: Tree, first: Array) -> Array:
        """For runs that diverged in this piece, the first tensor that was not finite, on the batch that showed it."""
        new = (state["diverged_step"] != ALIVE) & (state["first_nonfinite"] == ALIVE)

        def one(state, hyper, slot, new):
            at = jnp.clip(state["diverged_step"] - first, 0, self.piece_steps - 1)
            inputs = self.scaled(buffer["inputs"][slot, at])
            module = self._training(state["params"], state["rest"], hyper, first + at)
            found = self.network.first_nonfinite(module, state["params"], inputs)
            return jnp.where(new, found, state["first_nonfinite"])

        return jax.lax.cond(
            jnp.any(new),
            lambda: jax.vmap(one)(state, hyper, plan["slot"], new),
            lambda: state["first_nonfinite"],
        )


def _read(traced: jax.stages.Traced) -> set[str]:
    """Names of the settings, the second argument of a function, on which anything that it returns may depend."""
    program = traced.jaxpr.jaxpr
    wanted = set(map(id, program.outvars))
    for equation in reversed(program.eqns):
        if not wanted.isdisjoint(map(id, equation.outvars)):
            wanted.update(map(id, equation.invars))
    (_, settings, *_), _ = jax.tree.unflatten(traced.in_tree, [id(v) in wanted for v in program.invars])
    return {name for name, is_read in settings.items() if is_read}


def step_of(diverged_step: int) -> int:
    """Returns the step, below 0 in pre-training, that a run's ``diverged_step`` other than ``ALIVE`` means."""
    return diverged_step if diverged_step >= 0 else diverged_step + 1


def _below_alive(step: Array) -> Array:
    """A step of pre-training as ``diverged_step``, in which ``ALIVE`` is not one."""
    return step - 1


def _where(goes_on: Array, new: Tree, kept: Tree) -> Tree:
    return jax.tree.map(lambda n, k: k if n is k else jnp.where(goes_on, n, k), new, kept)


def _at(tree, index):
    return jax.tree.map(lambda v: jax.lax.dynamic_index_in_dim(v, index, keepdims=False), tree)


def _put(tree, part, index):
    return jax.tree.map(lambda v, p: jax.lax.dynamic_update_index_in_dim(v, p, index, 0), tree, part)


def _put_at(tree, part, *index):
    return jax.tree.map(
        lambda v, p: jax.lax.dynamic_update_slice(v, p[(None,) * len(index)], (*index, *(0,) * p.ndim)), tree, part
    )


def _flat(memory) -> Tree:
    """An optimizer's state as a flat dict, so that a checkpoint never meets a tuple."""
    return {_memory_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(memory)}


def _like(flat: Tree, init: Callable, params: Tree):
    """The optimizer's own structure, filled from ``flat``."""
    return jax.tree_util.tree_map_with_path(lambda p, _: flat[_memory_path(p)], jax.eval_shape(init, params))


def _memory_path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
