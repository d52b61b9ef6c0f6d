"""What a sweep file may say: data, model, optimizer and schedule, as descriptions that import nothing.

They are dataclasses in lower case, so that a description reads like a call.
"""

from __future__ import annotations

import ast
import hashlib
import numbers
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from glorot_jax.config import Grid, Named, Range, Spec, canonical_json, field, identity, named_function, names_in, plain
from glorot_jax.errors import InputError, unknown
from glorot_jax.models import choices
from glorot_jax.search import dropping, successive_halving

if TYPE_CHECKING:
    from glorot_jax.models.predictions import Predicted, Start

POSITIVE = Range(0, closed=False)
COUNT = Range(1)
SHARE = Range(0, 1)


class Data(Spec):
    """What a sweep trains on."""

    family = "data"


@dataclass(frozen=True)
class shapeset(Data):
    """Shapeset-3×2, the infinite stream of one or two shapes in nine classes, drawn inside the compiled step.

    Args:
        scaling: ``"symmetric"`` = [−1, 1] (the default) or ``"unit"`` = [0, 1]; the paper does not say which it used.
        size: side of an image in pixels; 32 in the paper.
        validation, test: sizes of the fixed evaluation sets, drawn from streams of their own.
        examples: None for the infinite stream; a number for a finite training set, the first so many of a stream of
            its own, the same for every seed, held as bytes on the device and shown as those of ``arrays``. 100 000 in
            the paper's comparison with support vector machines.

    Source: Glorot & Bengio (2010), section 2.1.
    """

    scaling: Literal["symmetric", "unit"] = "symmetric"
    size: int = field(default=32, among=Range(8, 256))
    validation: int = field(default=10_000, among=COUNT)
    test: int = field(default=10_000, among=COUNT)
    examples: int | None = field(default=None, among=COUNT)

    def items(self) -> dict[str, Any]:
        """Returns all settings by name; of the infinite stream no number of examples, which is no part of a run."""
        return {k: v for k, v in super().items().items() if (k, v) != ("examples", None)}


_WHERE = ("data_dir", "placement")


@dataclass(frozen=True)
class _Pictures:
    """What all sets of real pictures have in common.

    Where a set lies is no part of what a run is: ``data_dir`` and ``placement`` are left out of settings and
    identities.
    """

    scaling: Literal["unit", "symmetric", "standard"] = "unit"
    validation: int = field(default=10_000, among=COUNT)
    data_dir: str | None = None
    placement: Literal["device", "host"] = "device"

    def __post_init__(self) -> None:
        if isinstance(self.data_dir, os.PathLike):
            object.__setattr__(self, "data_dir", os.fspath(self.data_dir))
        super().__post_init__()  # type: ignore[misc]
        for name in _WHERE:
            if isinstance(getattr(self, name), Grid):
                raise InputError(f"{type(self).__name__}.{name}: it can't be a grid")

    def items(self) -> dict[str, Any]:
        return {k: v for k, v in super().items().items() if k not in _WHERE}  # type: ignore[misc]

    def defaults(self) -> dict[str, Any]:
        return {k: v for k, v in super().defaults().items() if k not in _WHERE}  # type: ignore[misc]


@dataclass(frozen=True)
class mnist(_Pictures, Data):
    """MNIST: 28×28 grey handwritten digits; 50 000 to train on, 10 000 for validation, 10 000 for the test.

    ``glorot data prepare mnist`` puts it on the disk, once. Batches are as those of ``arrays``.

    Args:
        scaling: ``"unit"`` = [0, 1], ``"symmetric"`` = [−1, 1] or ``"standard"`` = mean 0 and standard deviation 1 over
            the training pixels, all together.
        validation: how many of the last training examples are kept for validation.
        data_dir: where TensorFlow Datasets' trees are; ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets`` if not said.
        placement: where the training examples are while they are trained on, ``"device"`` or ``"host"``; bits are the
            same, and only sets larger than a device's memory need the second, which takes ``pip install
            'glorot-jax[stream]'``. Validation and test examples are always on the device.

    Source: LeCun, Cortes & Burges (1998); Glorot & Bengio (2010), section 2.2.
    """

    validation: int = field(default=10_000, among=Range(1, 59_999))


@dataclass(frozen=True)
class fashion_mnist(_Pictures, Data):
    """Fashion-MNIST: 28×28 grey pictures of clothes in ten classes; sizes and arguments as of ``mnist``.

    Source: Xiao, Rasul & Vollgraf (2017), arXiv:1708.07747.
    """

    validation: int = field(default=10_000, among=Range(1, 59_999))


@dataclass(frozen=True)
class cifar10(_Pictures, Data):
    """CIFAR-10: 32×32 colour pictures in ten classes; 40 000 to train on, 10 000 for validation, 10 000 for the test.

    Arguments as of ``mnist``. A network sees pixel after pixel, red, green and blue together.

    Source: Krizhevsky (2009), Learning multiple layers of features from tiny images; Glorot & Bengio (2010),
    section 2.2.
    """

    validation: int = field(default=10_000, among=Range(1, 49_999))


@dataclass(frozen=True)
class digits(Data):
    """The 1797 handwritten digits of 8×8 pixels that come with this package: there without a network.

    Args:
        scaling: as of ``mnist``. Grey levels 0 to 16 are kept as the nearest of 0 to 255.
        validation, test: how many of the last examples are kept apart: training, then validation, then test.

    Source: Alpaydin & Kaynak (1998), Optical recognition of handwritten digits, the test set.
    """

    scaling: Literal["unit", "symmetric", "standard"] = "unit"
    validation: int = field(default=300, among=Range(1, 800))
    test: int = field(default=300, among=Range(1, 800))


@dataclass(frozen=True)
class modular_addition(Data):
    """All p² sums a + b modulo p, as tokens [a, b, =]: the task on which networks learn by heart, then the rule.

    An input is three integers, a and b from 0 to p − 1 and p for the sign; the label is the sum. A network takes them
    as they are, as floating numbers.

    Args:
        p: the modulus, and the number of classes; 97 in the source.
        validation, test: shares of the pairs that are kept apart, as whole pairs; the rest is trained on.
        split_seed: which pairs go where; no matter of a run's own seed.

    Source: Power et al. (2022), arXiv:2201.02177, section 3 and appendix A.1.
    """

    p: int = field(default=97, among=Range(2, 255))
    validation: float = field(default=0.25, among=SHARE)
    test: float = field(default=0.25, among=SHARE)
    split_seed: int = field(default=0, among=Range(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(isinstance(getattr(self, name), Grid) for name in ("p", "validation", "test", "split_seed")):
            return
        if min(self.sizes()) < 1:
            raise InputError(
                f"modular_addition: its {self.p**2} pairs are cut into {self.sizes()[0]} for training, "
                f"{self.sizes()[1]} for validation and {self.sizes()[2]} for the test; each must have one"
            )

    def sizes(self) -> tuple[int, int, int]:
        """Returns how many pairs are for training, validation and test."""
        validation, test = (round(share * self.p**2) for share in (self.validation, self.test))
        return self.p**2 - validation - test, validation, test


@dataclass(frozen=True)
class small_imagenet(_Pictures, Data):
    """A substitute for the paper's Small-ImageNet, which is not published: 37×37 grey pictures in ten superclasses.

    Reptiles, vehicles, birds, mammals, fish, furniture, instruments, tools, flowers and fruits, at most 11 000 of each:
    nine in eleven to train on, one for validation, one for the test. It differs from the paper's in the pictures
    (those of ILSVRC 2012 and not of the ImageNet of 2009), in how they are made small (the 64×64 pictures of
    ``imagenet_resized``, luma, mean over areas), in which synsets belong to a superclass (all that lie below it in
    WordNet 3.0), and in flowers, of which ILSVRC has two classes alone: ``glorot data prepare small_imagenet`` says how
    many are missing. Arguments as of ``tfds``.

    Source: Glorot & Bengio (2010), section 2.2; Chrabaszcz, Loshchilov & Hutter (2017), arXiv:1707.08819.
    """

    validation: int | None = field(default=None, among=COUNT)


@dataclass(frozen=True, init=False)
class tfds(_Pictures, Data):
    """Any set of labelled images of TensorFlow Datasets that is prepared here as array_record: ``tfds("kmnist")``.

    Its test split is the test set, its validation split if it has no other. Examples lie sorted by their ``id`` where
    they have one, else in TFDS's own order on disk, a fixed shuffle of the published one.

    Args:
        name: as TFDS has it, with config and version where wanted: ``"imagenet_resized/32x32"``, ``"mnist:3.0.1"``.
        scaling, data_dir, placement: as of ``mnist``.
        validation: how many of the last training examples are kept for validation; if not said, the set's own
            validation split where it stands beside a test split, else a sixth of the training examples, at most 10 000.
    """

    name: str = ""
    validation: int | None = field(default=None, among=COUNT)

    def __init__(
        self,
        name: str,
        scaling: Literal["unit", "symmetric", "standard"] = "unit",
        validation: int | None = None,
        data_dir: str | None = None,
        placement: Literal["device", "host"] = "device",
    ):
        given = {"name": name, "scaling": scaling, "validation": validation, "data_dir": data_dir}
        given |= {"placement": placement}
        for attribute, value in given.items():
            object.__setattr__(self, attribute, value)
        self.__post_init__()
        for one in self.name if isinstance(self.name, Grid) else (self.name,):
            if not re.fullmatch(r"[a-z0-9_]+(/[\w.-]+)?(:\d+\.\d+\.\d+)?", one) or ".." in one:
                raise InputError(f"tfds.name: {one!r} does not name a data set", "such as 'kmnist' or 'kmnist:3.0.1'")


@dataclass(frozen=True, init=False)
class arrays(Data):
    """A data set of one's own: ``arrays(x, y, validation=1000, test=1000)``.

    Every epoch is a permutation without replacement, a pure function of seed and epoch; batches follow each other
    without a gap, so one may hold the end of an epoch and the begin of the next.

    Args:
        inputs: [n, …], uint8 (kept so, scaled inside the step) or floating; may be mapped from a file.
        labels: [n], integers from 0.
        validation, test: how many of the last examples are kept apart (training, then validation, then test), or
            pairs ``(inputs, labels)`` of their own.
        scaling: ``"unit"`` = [0, 1] (the default for uint8), ``"symmetric"`` = [−1, 1], ``"standard"`` = mean 0 and
            standard deviation 1 over the training inputs, ``"none"`` (the default for floating inputs).
        name: in tables and messages.
        class_names: one a label; the labels themselves if not said.
        placement: as of ``mnist``.

    Raises:
        InputError: shapes, types or labels don't fit; the line says which.
    """

    name: str
    digest: str
    scaling: str
    placement: str
    class_names: tuple[str, ...] = field(compare=False, repr=False)
    train: tuple[Any, Any] = field(compare=False, repr=False)
    validation: tuple[Any, Any] = field(compare=False, repr=False)
    test: tuple[Any, Any] = field(compare=False, repr=False)

    def __init__(
        self,
        inputs: Any,
        labels: Any,
        *,
        validation: Any,
        test: Any,
        scaling: str | None = None,
        name: str = "arrays",
        class_names: Any = None,
        placement: str = "device",
    ):
        import numpy as np

        train = _split("data.inputs", (inputs, labels))
        held: dict[str, tuple[Any, Any]] = {}
        for part, given in (("test", test), ("validation", validation)):
            if isinstance(given, int) and not isinstance(given, bool):
                if not 0 < given < len(train[1]):
                    raise InputError(f"data.{part}: {given} is not an integer from 1 to {len(train[1]) - 1}")
                held[part] = tuple(a[-given:] for a in train)  # type: ignore[assignment]
                train = tuple(a[:-given] for a in train)  # type: ignore[assignment]
            else:
                held[part] = _split(f"data.{part}", given)
        for part, (x, _) in held.items():
            if x.shape[1:] != train[0].shape[1:] or x.dtype != train[0].dtype:
                raise InputError(
                    f"data.{part}: {x.dtype} {list(x.shape[1:])} is not the training inputs' {train[0].dtype} "
                    f"{list(train[0].shape[1:])}"
                )
        byte = train[0].dtype == np.uint8
        known = ("unit", "symmetric", "standard", "none") if byte else ("standard", "none")
        scaling = scaling or ("unit" if byte else "none")
        if scaling not in known:
            raise unknown("data.scaling", scaling, known)
        if placement not in ("device", "host"):
            raise unknown("data.placement", placement, ("device", "host"))
        classes = 1 + max(int(y.max()) for _, y in (train, *held.values()))
        names = tuple(map(str, class_names if class_names is not None else range(classes)))
        if len(names) < classes:
            raise InputError(f"data.class_names: {len(names)} names for labels up to {classes - 1}")
        digest = hashlib.sha256()
        for x, y in (train, held["validation"], held["test"]):
            digest.update(f"{x.dtype}{x.shape}{len(names)}".encode())
            digest.update(memoryview(x).cast("B"))
            digest.update(memoryview(y).cast("B"))
        settings = {"name": name, "digest": digest.hexdigest()[:12], "scaling": scaling, "class_names": names}
        settings |= {"placement": placement}
        for attribute, value in (settings | {"train": train, **held}).items():
            object.__setattr__(self, attribute, value)

    def splits(self) -> tuple[tuple[Any, Any], ...]:
        """Returns training, validation and test split, each (inputs, labels) as NumPy arrays."""
        return self.train, self.validation, self.test

    def items(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "scaling": self.scaling}

    def defaults(self) -> dict[str, Any]:
        return {"name": self.name}  # what it is called changes no run

    def replace(self, name: str, value: Any, path: str) -> arrays:
        if name not in ("scaling", "placement"):
            raise unknown(path, name, ("scaling", "placement"))
        return arrays(
            *self.train,
            validation=self.validation,
            test=self.test,
            name=self.name,
            class_names=self.class_names,
            **{"scaling": self.scaling, "placement": self.placement} | {name: value},
        )


def _split(path: str, pair: Any) -> tuple[Any, Any]:
    """Inputs and labels as arrays that the engine takes: uint8 or float32, and int32."""
    import numpy as np

    try:
        inputs, labels = map(np.asarray, pair)
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: {type(pair).__name__} is not a number of examples or a pair (inputs, labels)"
        ) from None
    if inputs.dtype != np.uint8:
        if not np.issubdtype(inputs.dtype, np.floating):
            raise InputError(f"{path}: {inputs.dtype} inputs are not uint8 or floating")
        inputs = inputs.astype(np.float32, copy=False)
        if not all(np.isfinite(part).all() for part in np.array_split(inputs, 1 + inputs.nbytes // 2**26)):
            raise InputError(f"{path}: an input is not finite")
    if inputs.ndim < 2 or labels.ndim != 1 or len(inputs) != len(labels) or not inputs.size:
        raise InputError(f"{path}: inputs {list(inputs.shape)} and labels {list(labels.shape)} are not [n, …] and [n]")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise InputError(f"{path}: labels are not integers ≥ 0")
    return np.ascontiguousarray(inputs), np.ascontiguousarray(labels, np.int32)


class Model(Spec):
    """The network that is trained."""

    family = "model"

    @property
    def flattened(self) -> bool:
        """Whether it takes inputs as vectors and not in the data's own shape."""
        return True

    def choices(self) -> dict[str, str]:
        """Returns the settings that name functions of which each run chooses one, with the module of ours for them."""
        return {
            f.name: f.metadata["among"].module
            for f in self._fields()
            if f.metadata.get("per_run") and isinstance(f.metadata.get("among"), Named)
        }

    def network(self, functions: Mapping[str, tuple[Callable, ...]]) -> Callable:
        """Returns ``(shape, classes, key=, inputs=, **settings) -> Flax module``. This imports JAX.

        Args:
            functions: of each setting in ``choices``, those that a cohort's runs choose from; the run's own choice is
                its setting ``NAME_index``.
        """
        raise NotImplementedError

    def reads_inputs(self, functions: Mapping[str, tuple[Callable, ...]]) -> bool:
        """Returns whether initial weights depend on training inputs; arguments as of ``network``. This imports JAX."""
        from glorot_jax.initializers import needs_inputs

        return any(needs_inputs(f) for name in functions if name.endswith("init") for f in functions[name])

    def label(self) -> str:
        """Returns what it is called in a line for a person."""
        return self.kind()

    def predict(self, start: Start) -> Predicted | None:
        """Returns what theory says of the probes' outputs before the first update; None where it says nothing."""
        return None

    def stack(self) -> Stack | None:
        """Returns its hidden layers as the lowest of any number of equal ones, None where they are not.

        Such networks of different depths can share a program: ``network`` then takes a setting ``depth``.
        """
        return None


class Stack(NamedTuple):
    """Equal hidden layers: how many, and the settings that say so as they are of a single one, by name."""

    depth: int
    alone: dict[str, Any]


@dataclass(frozen=True)
class mlp(Model):
    """A multi-layer perceptron with a linear output; 5 hidden layers of 1000 units in the paper.

    Args:
        widths: sizes of the hidden layers.
        activation: a name (``glorot list activations``) or an elementwise function of one array.
        init: a name (``glorot list initializers``) or a function ``(key, shape, dtype) -> weights``.
        gain: factor on all initial weights.

    Source: Glorot & Bengio (2010), section 2.3.
    """

    widths: tuple[int, ...] = field(default=(1000,) * 5, among=COUNT)
    activation: Any = field(default="tanh", per_run=True, among=Named("activations"))
    init: Any = field(default="standard", per_run=True, among=Named("initializers"))
    gain: float = field(default=1.0, per_run=True, among=POSITIVE)

    def network(self, functions: Mapping[str, tuple[Callable, ...]]) -> Callable:
        from glorot_jax.models.mlp import Mlp

        return partial(Mlp, widths=self.widths, **functions)

    def label(self) -> str:
        same = len(set(self.widths)) == 1
        return f"mlp {len(self.widths)}×{self.widths[0]}" if same else f"mlp {'-'.join(map(str, self.widths))}"

    def predict(self, start: Start) -> Predicted | None:
        from glorot_jax.models import predictions

        return predictions.mlp(self, start)

    def stack(self) -> Stack | None:
        return Stack(len(self.widths), {"widths": self.widths[:1]}) if len(set(self.widths)) == 1 else None


@dataclass(frozen=True, init=False)
class module(Model):
    """Any Flax module: ``module(MyNet, width=grid(64, 128), gain=grid(0.5, 1.0), activation=grid("tanh", "relu"))``.

    The class or factory is called with the arguments given here and with those of these that its signature names:
    ``rngs`` (the run's own ``nnx.Rngs``), ``shape`` of one input, ``features``, their number, ``classes``, and
    ``inputs``, a training batch. Its module is called with a batch and returns logits [batch, classes].

    A floating argument is data along the run axis and arrives as a scalar variable: any number of values is one
    program. So is an argument whose name ends in ``activation`` (it arrives as a module to be called) or ``init`` (it
    arrives as a ``kernel_init``), each the name of one of ours or a function. All others, such as widths, shape
    programs of their own.

    Args:
        function: a class of ``nnx.Module``, a function that returns one, or a class of ``linen.Module``.
        flatten: give it inputs as vectors, not in the data's own shape [height, width, channels].
        static: names of floating arguments that it has to know when it is built, such as a dropout rate.
        arguments: of the class or factory; each may be a ``grid``.
    """

    function: Callable
    flatten: bool
    static_names: tuple[str, ...]
    arguments: dict[str, Any]

    def __init__(
        self, function: Callable, /, *, flatten: bool = False, static: str | tuple[str, ...] = (), **arguments: Any
    ):
        if not callable(function):
            raise InputError(f"module: {function!r} is not a class or a function that returns a Flax module")
        try:
            identity(function)
        except ValueError as error:
            raise InputError(f"module: {error}") from None
        names = (static,) if isinstance(static, str) else tuple(static)
        for name in names:
            if name not in arguments:
                raise unknown("module.static", name, arguments)
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "flatten", bool(flatten))
        object.__setattr__(self, "static_names", names)
        object.__setattr__(self, "arguments", {k: self._argument(k, v) for k, v in arguments.items()})

    def __hash__(self) -> int:
        return hash((self.function, self.flatten, self.static_names, tuple(self.arguments)))

    @property
    def flattened(self) -> bool:
        return self.flatten

    def items(self) -> dict[str, Any]:
        return {"flatten": self.flatten, "static": self.static_names, **self.arguments}

    def defaults(self) -> dict[str, Any]:
        return {"flatten": False, "static": ()}

    def kind(self) -> str:
        return identity(self.function)

    def static(self) -> dict[str, Any]:
        per_run = self.per_run()
        return {k: v for k, v in self.items().items() if k not in per_run}

    def per_run(self) -> dict[str, Any]:
        choices = self.choices()
        numbers = {k: v for k, v in self.arguments.items() if isinstance(v, float) and k not in self.static_names}
        return {k: v for k, v in self.arguments.items() if k in choices} | numbers

    def choices(self) -> dict[str, str]:
        return {
            name: kind
            for name, value in self.arguments.items()
            if (kind := _function_kind(name)) and (isinstance(value, str | Grid) or callable(value))
        }

    def replace(self, name: str, value: Any, path: str) -> module:
        if name == "flatten":
            return module(self.function, **{"flatten": value, "static": self.static_names, **self.arguments})
        if name not in self.arguments:
            raise unknown(path, name, self.arguments)
        changed = self.arguments | {name: value}
        return module(self.function, flatten=self.flatten, static=self.static_names, **changed)

    def network(self, functions: Mapping[str, tuple[Callable, ...]]) -> Callable:
        from glorot_jax.models.build import build

        per_run = self.per_run()
        fixed = {k: v for k, v in self.arguments.items() if k not in per_run}
        return partial(build, self.function, fixed, functions)

    def reads_inputs(self, functions: Mapping[str, tuple[Callable, ...]]) -> bool:
        from glorot_jax.models.build import parameters

        return "inputs" in parameters(self.function)

    def label(self) -> str:
        per_run = self.per_run()
        shown = ", ".join(f"{k}={v}" for k, v in self.arguments.items() if k not in per_run)
        return f"{self.kind().partition('@')[0]}({shown})"

    @staticmethod
    def _argument(name: str, value: Any) -> Any:
        kind = _function_kind(name)

        def one(v: Any) -> Any:
            if kind is not None and (isinstance(v, str) or callable(v)):
                return named_function(v, Named(kind), f"module.{name}")
            if isinstance(v, list | tuple):
                return tuple(map(one, v))
            if v is None or isinstance(v, bool | str):
                return v
            if isinstance(v, numbers.Integral):
                return int(v)
            if isinstance(v, numbers.Real):
                if not Range().holds(v):
                    raise InputError(f"module.{name}: {v!r} is not a finite number")
                return float(v)
            try:
                return v if callable(v) and identity(v) else canonical_json(v) and v
            except (TypeError, ValueError) as error:
                raise InputError(f"module.{name}: {error}") from None

        if not isinstance(value, Grid):
            return one(value)
        values = tuple(map(one, value))
        if any(isinstance(v, float) for v in values):  # 1 beside 0.5 is a number, not a size
            values = tuple(float(v) if type(v) is int else v for v in values)
        return Grid(values)


def _function_kind(name: str) -> str | None:
    """The module of ours that holds functions for an argument of this name, if there is one."""
    return {"activation": "activations", "init": "initializers"}.get(name.rpartition("_")[2])


class _Architecture(Model):
    """A network of ours whose constructor takes the description's own fields."""

    made_by: ClassVar[str]
    """File and class below ``glorot_jax.models``."""

    @property
    def flattened(self) -> bool:
        return False

    def network(self, functions: Mapping[str, tuple[Callable, ...]]) -> Callable:
        from glorot_jax.models.build import build

        name, _, made = self.made_by.partition(":")
        return partial(build, getattr(import_module(f"glorot_jax.models.{name}"), made), self.static(), functions)

    def label(self) -> str:
        usual = self.defaults()
        shown = ", ".join(f"{k}={v}" for k, v in self.static().items() if v != usual[k])
        return f"{self.kind()}({shown})"


@dataclass(frozen=True)
class residual_mlp(_Architecture):
    """A residual multi-layer perceptron: dense branches of ``layers`` layers along a stream of one width.

    Args:
        depth, width, layers: residual blocks, units of the stream and of a branch, weight layers of a branch.
        normalization, placement: of the stream before each branch (``"pre"``), of each sum (``"post"``), or of each
            layer's output in a branch (``"inner"``).
        residual: how a branch joins the stream and how it starts: ``"plain"`` x + F(x), ``"none"`` no skip connection,
            ``"stable"`` x + F(x)/√L, ``"rezero"`` and ``"skipinit"`` x + α F(x) with a trained α, ``"fixup"``,
            ``"gpt2"``, ``"deepnorm"``.
        readout: initial weights of the last layer: ``"init"`` as of the others, ``"mup"`` those over √fan_in, or
            ``"zero"``.
        alpha: at which a trained α starts.
        gain, activation, init: as of ``mlp``; an initializer is told neither the layer nor its inputs.

    Sources: ``glorot_jax.models.residual``.
    """

    made_by = "residual_mlp:ResidualMlp"

    depth: int = field(default=8, among=COUNT)
    width: int = field(default=128, among=COUNT)
    layers: int = field(default=2, among=COUNT)
    normalization: choices.Normalization = "none"
    placement: choices.Placement = "pre"
    residual: choices.Scheme = "plain"
    readout: choices.Readout = "init"
    alpha: float = field(default=0.0, per_run=True, among=Range())
    gain: float = field(default=1.0, per_run=True, among=POSITIVE)
    activation: Any = field(default="relu", per_run=True, among=Named("activations"))
    init: Any = field(default="he_normal", per_run=True, among=Named("initializers"))


@dataclass(frozen=True)
class cnn(_Architecture):
    """A plain convolutional network: convolutions with an activation each, a mean over positions, a dense layer.

    Args:
        channels: of each convolution.
        kernel: side of the kernels in pixels.
        strides: of the first convolutions; 1 of the others.
        padding: ``"circular"`` or ``"same"``.
        pool: ``"mean"`` over positions before the dense layer, or ``"none"``.
        normalization: between convolution and activation.
        readout, gain, activation, init: as of ``residual_mlp``.

    Source: Xiao et al. (2018), arXiv:1806.05393.
    """

    made_by = "cnn:Cnn"

    channels: tuple[int, ...] = field(default=(32,) * 6, among=COUNT)
    kernel: int = field(default=3, among=COUNT)
    strides: tuple[int, ...] = field(default=(2, 2), among=COUNT)
    padding: choices.Padding = "circular"
    pool: choices.ImagePool = "mean"
    normalization: choices.Normalization = "none"
    readout: choices.Readout = "init"
    gain: float = field(default=1.0, per_run=True, among=POSITIVE)
    activation: Any = field(default="tanh", per_run=True, among=Named("activations"))
    init: Any = field(default="delta_orthogonal", per_run=True, among=Named("initializers"))


@dataclass(frozen=True)
class resnet(_Architecture):
    """The residual network for small pictures, of 6n + 2 layers in three stages.

    Args:
        n: residual blocks of a stage: 3 make 20 layers.
        channels: of the first stage; doubled in the second and again in the third.
        normalization: after each convolution.
        residual, readout, alpha, gain, activation, init: as of ``residual_mlp``.

    Source: He et al. (2015), arXiv:1512.03385, section 4.2.
    """

    made_by = "resnet:ResNet"

    n: int = field(default=3, among=COUNT)
    channels: int = field(default=16, among=COUNT)
    normalization: choices.PictureNormalization = "batch"
    residual: choices.PictureScheme = "plain"
    readout: choices.Readout = "init"
    alpha: float = field(default=0.0, per_run=True, among=Range())
    gain: float = field(default=1.0, per_run=True, among=POSITIVE)
    activation: Any = field(default="relu", per_run=True, among=Named("activations"))
    init: Any = field(default="he_normal", per_run=True, among=Named("initializers"))


@dataclass(frozen=True)
class transformer(_Architecture):
    """A small transformer: an encoder of image patches, or a causal decoder of tokens that answers at the last one.

    Args:
        architecture: ``"encoder"`` for pictures, ``"decoder"`` for tokens such as those of ``modular_addition``.
        depth, width, heads: blocks, size of a token's vector, heads of an attention; heads divide the width.
        expansion: units of a perceptron's hidden layer, in widths.
        patch: side of an encoder's patches in pixels.
        pool: an encoder answers with the ``"mean"`` over patches or with a ``"class"`` token.
        vocabulary: number of a decoder's tokens; one more than classes if not said.
        normalization, placement: before each branch (``"pre"``) or after each sum (``"post"``).
        residual: as of ``residual_mlp``, and ``"tfixup"``.
        attention: logits q·k/√d (``"standard"``) or q·k/d (``"mup"``).
        readout, alpha, gain, activation, init: as of ``residual_mlp``.

    Sources: ``glorot_jax.models.transformer``.
    """

    made_by = "transformer:Transformer"

    architecture: choices.Architecture = "encoder"
    depth: int = field(default=2, among=COUNT)
    width: int = field(default=64, among=COUNT)
    heads: int = field(default=4, among=COUNT)
    expansion: int = field(default=4, among=COUNT)
    patch: int = field(default=4, among=COUNT)
    pool: choices.TokenPool = "mean"
    vocabulary: int | None = field(default=None, among=COUNT)
    normalization: choices.TokenNormalization = "layer"
    placement: choices.TokenPlacement = "pre"
    residual: choices.TokenScheme = "plain"
    attention: choices.AttentionScale = "standard"
    readout: choices.Readout = "init"
    alpha: float = field(default=0.0, per_run=True, among=Range())
    gain: float = field(default=1.0, per_run=True, among=POSITIVE)
    activation: Any = field(default="gelu", per_run=True, among=Named("activations"))
    init: Any = field(default="normalized", per_run=True, among=Named("initializers"))


class Optimizer(Spec):
    """The update rule; its numeric hyper-parameters are data along the run axis."""

    family = "optimizer"

    def factory(self) -> str | Callable:
        """Returns the name or function that makes the Optax transformation."""
        return type(self).__name__

    def static(self) -> dict[str, Any]:
        return {k: v for k, v in super().static().items() if k != "mup"}

    def check_loss(self, loss: Any) -> None:
        """Raises InputError for a loss, a name or a function, that it can't be used with."""

    def base(self, model: Model) -> Model | None:
        """Returns the network relative to whose size learning rates are those of µP; None for one rate for all."""
        changes = getattr(self, "mup", "none")
        if changes == "none":
            return None
        for name, value in _arguments(changes).items():
            if name in model.per_run():
                raise InputError(f"optimizer.mup.{name}: it is no size of {model.kind()}")
            model = model.replace(name, value, f"optimizer.mup.{name}")
        return model


def _read_base(value: Any, path: str) -> str:
    """A model's arguments as one text, such as ``width=64``, of a dict or of such a text; ``none`` for None."""
    if value in (None, "none"):
        return "none"
    try:
        named = dict(value) if isinstance(value, Mapping) else _arguments(value)
        texts = [f"{name}={one!r}".replace(" ", "") for name, one in sorted(named.items())]
        if texts and _arguments(text := ",".join(texts)):
            return text
    except (SyntaxError, TypeError, ValueError):
        pass
    raise InputError(f"{path}: {value!r} names none of the model's arguments", 'such as {"width": 64}')


def _arguments(text: str) -> dict[str, Any]:
    """The names and values of ``width=64,heads=4``."""
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(text)
    return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}


def _mup() -> Any:
    """A field for µP's learning rates: the model's arguments at which all of them are the one that is given."""
    return field(default="none", read=_read_base)


@dataclass(frozen=True)
class sgd(Optimizer):
    """Stochastic gradient descent θ ← θ − ε g, the paper's. Momentum makes a program of its own, its value does not.

    Args:
        learning_rate: ε.
        momentum: None for none.
        mup: such as ``{"width": 64}``: each layer's learning rate goes with its size as in µP, and is ε in a
            network whose arguments are these. Initial weights are the model's part: an ``init`` of variance ∝ 1/fan_in
            and ``readout="mup"`` or ``"zero"``; ``init="mup"`` in an ``mlp``. Source: Yang et al. (2022),
            arXiv:2203.03466, table 3.
    """

    learning_rate: float = field(per_run=True, among=POSITIVE)
    momentum: float | None = field(default=None, per_run=True, among=SHARE)
    nesterov: bool = False
    mup: str = _mup()

    def per_run(self) -> dict[str, Any]:
        return {k: v for k, v in super().per_run().items() if v is not None}


@dataclass(frozen=True)
class adam(Optimizer):
    """Adam; ``mup`` as of ``sgd``. Source: Kingma & Ba (2014), arXiv:1412.6980."""

    learning_rate: float = field(per_run=True, among=POSITIVE)
    b1: float = field(default=0.9, per_run=True, among=SHARE)
    b2: float = field(default=0.999, per_run=True, among=SHARE)
    eps: float = field(default=1e-8, per_run=True, among=POSITIVE)
    mup: str = _mup()


@dataclass(frozen=True)
class rmsprop(Optimizer):
    """RMSProp; ``mup`` as of ``sgd``, by Adam's rule. Source: Tieleman & Hinton (2012), lecture 6.5."""

    learning_rate: float = field(per_run=True, among=POSITIVE)
    decay: float = field(default=0.9, per_run=True, among=SHARE)
    eps: float = field(default=1e-8, per_run=True, among=POSITIVE)
    mup: str = _mup()


@dataclass(frozen=True)
class gradient_variance(Optimizer):
    """A rate for each parameter from its gradient's variance: θ ← θ − ε g / √(v + eps), Optax's centred RMSProp.

    Args:
        learning_rate: ε.
        decay: of the running means of g and g², of which v = mean g² − (mean g)².
        eps: added to the variance.

    Source: Graves (2013), arXiv:1308.0850, equations 38 to 41, without momentum; the paper's section 5 names the
    gradients' variance and no rule.
    """

    learning_rate: float = field(per_run=True, among=POSITIVE)
    decay: float = field(default=0.99, per_run=True, among=SHARE)
    eps: float = field(default=1e-8, per_run=True, among=POSITIVE)


@dataclass(frozen=True)
class levenberg_marquardt(Optimizer):
    """A rate for each parameter from the Hessian's diagonal: θ ← θ − ε g / (h + μ), stochastic Levenberg-Marquardt.

    h is a decaying mean, its start corrected, of estimates on the update's own mini-batch.

    Args:
        learning_rate: ε.
        damping: μ.
        decay: of the mean, at most 0.9999.
        estimate: ``"gauss_newton"``, the diagonal of the Gauss-Newton matrix, never negative, at the price of one more
            pass forth and back; for ``loss="nll"`` alone. ``"hutchinson"``, the absolute value of the Hessian's
            own, of any loss, at almost three times that price and with more noise.
        interval: steps from one estimate to the next.

    Source: LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, section 9.1.
    """

    learning_rate: float = field(per_run=True, among=POSITIVE)
    damping: float = field(default=0.001, per_run=True, among=POSITIVE)
    decay: float = field(default=0.99, per_run=True, among=Range(0, 0.9999))
    estimate: Literal["gauss_newton", "hutchinson"] = "gauss_newton"
    interval: int = field(default=1, among=COUNT)

    def check_loss(self, loss: Any) -> None:
        if self.estimate == "gauss_newton" and loss != "nll":
            raise InputError(
                f"optimizer.estimate: 'gauss_newton' is known for loss='nll', not {plain(loss)!r}",
                "estimate='hutchinson' takes any loss",
            )


@dataclass(frozen=True, init=False)
class optimizer(Optimizer):
    """Any factory of Optax's form, handed over as a value: ``optimizer(optax.lion, learning_rate=grid(1e-4, 1e-3))``.

    One that asks for ``obj_fn``, the mini-batch's mean loss as a function of the parameters, is given it, such as
    ``optax.contrib.sophia``.

    Args:
        function: returns a gradient transformation.
        hyper: its arguments; numbers are data along the run axis, everything else shapes the program.
    """

    function: Callable
    hyper: dict[str, Any]

    def __init__(self, function: Callable, **hyper: Any):
        if not callable(function):
            raise InputError(f"optimizer: {function!r} is not a function that returns an Optax transformation")
        try:
            identity(function)
        except ValueError as error:
            raise InputError(f"optimizer: {error}") from None
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "hyper", {k: self._number(k, v) for k, v in hyper.items()})

    def __hash__(self) -> int:
        return hash((self.function, tuple(self.hyper)))

    def items(self) -> dict[str, Any]:
        return dict(self.hyper)

    def defaults(self) -> dict[str, Any]:
        return {}

    def kind(self) -> str:
        return identity(self.function)

    def factory(self) -> Callable:
        return self.function

    def static(self) -> dict[str, Any]:
        return {k: v for k, v in self.hyper.items() if not isinstance(v, float)}

    def per_run(self) -> dict[str, Any]:
        return {k: v for k, v in self.hyper.items() if isinstance(v, float)}

    def replace(self, name: str, value: Any, path: str) -> optimizer:
        return optimizer(self.function, **(self.hyper | {name: value}))

    @staticmethod
    def _number(name: str, value: Any) -> Any:
        def one(v: Any) -> Any:
            number = isinstance(v, numbers.Real) and not isinstance(v, bool)
            if number and not Range().holds(v):
                raise InputError(f"optimizer.{name}: {v!r} is not a finite number")
            return float(v) if number else v

        return Grid(tuple(map(one, value))) if isinstance(value, Grid) else one(value)


class Pretraining(Spec):
    """How a network's hidden layers are trained without labels before step 0."""

    family = "pretraining"


@dataclass(frozen=True)
class denoising(Pretraining):
    """Unsupervised pre-training, layer by layer from the input on, each layer as a denoising auto-encoder.

    The layer sees z, the output of the layers below as they are then, with each number put to 0 by itself with
    probability ``noise``: black in inputs in [0, 1], the middle grey in [−1, 1], the mean in standardized ones. It
    encodes this z̃ as h = f(z̃ W + b) with its own weights, bias and activation, decodes linearly with the same weights
    and a bias c of its own, y = h Wᵀ + c, which suits values in [0, 1], in [−1, 1] and without bounds alike, and takes
    one step of plain gradient descent on Σ_j (y_j − z_j)², averaged over the mini-batch. After the last hidden layer
    training begins at step 0, with the output layer as it was drawn; the steps before are counted below 0.

    Examples come from a stream of their own, so that training sees those that it would see without pre-training.

    Args:
        steps: updates of each hidden layer.
        learning_rate: of these updates.
        noise: probability with which a number is put to 0.

    Sources: Vincent et al. (2008), ICML, section 2; Vincent et al. (2010), JMLR 11, section 4.2, for a linear decoder
    with squared error; Larochelle et al. (2009), JMLR 10, for layer after layer; Glorot & Bengio (2010), figure 11.
    """

    steps: int = field(among=Range(1, 10**8))
    learning_rate: float = field(per_run=True, among=POSITIVE)
    noise: float = field(default=0.25, per_run=True, among=SHARE)


class Schedule(Spec):
    """At which steps something is recorded; step 0 and the last are always among them."""

    family = "record"

    def __str__(self) -> str:
        """As a sweep file writes it."""
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.items().items())})"

    def steps(self, total: int) -> tuple[int, ...]:
        """Returns the steps in [0, total], rising, 0 and total included."""
        return tuple(sorted({0, total, *(s for s in self._inner(total) if 0 < s < total)}))

    def _inner(self, total: int) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class every(Schedule):
    """At 0, n, 2n, …"""

    n: int = field(among=COUNT)

    def _inner(self, total: int) -> range:
        return range(0, total, self.n)


@dataclass(frozen=True)
class log_spaced(Schedule):
    """At 0 and, evenly in the logarithm, ``per_decade`` times for each factor of ten."""

    per_decade: int = field(default=3, among=COUNT)

    def _inner(self, total: int) -> Any:
        k = 0
        while (step := round(10 ** (k / self.per_decade))) < total:
            yield step
            k += 1


@dataclass(frozen=True, init=False)
class at(Schedule):
    """At the steps named, and at 0 and the end."""

    named: tuple[int, ...]

    def __init__(self, *named: int):
        for step in named:
            if not isinstance(step, numbers.Integral) or isinstance(step, bool) or step < 0:
                raise InputError(f"record: {step!r} is not a step, an integer ≥ 0")
        object.__setattr__(self, "named", tuple(sorted(set(map(int, named)))))

    def __str__(self) -> str:
        return f"at({', '.join(map(str, self.named))})"

    def replace(self, name: str, value: Any, path: str) -> at:
        if name != "named":
            raise unknown(path, name, ("named",))
        return at(*value) if isinstance(value, tuple | list) else at(value)

    def steps(self, total: int) -> tuple[int, ...]:
        late = [s for s in self.named if s > total]
        if late:
            raise InputError(f"record: step {late[0]} is after the last, {total}")
        return super().steps(total)

    def _inner(self, total: int) -> tuple[int, ...]:
        return self.named


METHODS = {
    **dict.fromkeys(("jacobians", "jacobian_spectra"), ("auto", "exact", "gram", "lanczos")),
    "activations": ("auto", "moments"),
}
"""How a built-in probe may be told to find its numbers, where it knows more than one way; the first is the usual."""


class Measurement(Spec):
    """What a sweep may measure: it has a ``name`` in records and messages, and a ``record`` schedule or None."""

    family = "probe"


@dataclass(frozen=True)
class probe(Measurement):
    """A measurement, with a schedule of its own or of your own making.

    ``probe("jacobians", every(1000), method="exact")`` makes a built-in one at other steps than the sweep's and by a
    method of your choice. A function takes what one
    run's probes see (``glorot_jax.probes.probe.Scene``) and returns an array, or a dict of them; it is vmapped over the
    runs and compiled into the step, and must be pure.

    Args:
        measure: the name of a built-in (``glorot list probes``), or a function.
        record: at which steps; those of the sweep if not said. Elsewhere its records hold NaN.
        dims: of a function's arrays, such as ``("layer",)``; a name that nobody knows is counted from 1.
        long_name, units: for labels; the function's first line of documentation and ``"1"`` if not said.
        method: of a built-in that knows several. Jacobians: ``"exact"`` (all singular values), ``"gram"`` (of the Gram
            matrix: all but the smallest), ``"lanczos"`` (estimated from products), ``"auto"`` (exact up to a smaller
            side of 256, Lanczos above). Activations: ``"moments"`` (of 100 examples, no quantiles).
    """

    measure: Any
    record: Schedule | None = None
    dims: tuple[str, ...] = ()
    long_name: str = ""
    units: str = "1"
    method: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.measure, str):
            if self.measure not in names_in("probes/__init__"):
                raise unknown("probe", self.measure, names_in("probes/__init__"))
            if self.dims or self.long_name or self.units != "1":
                raise InputError(f"probe: {self.measure!r} has labels of its own")
            if self.method not in METHODS.get(self.measure, (self._usual,)):
                if self.measure in METHODS:
                    raise unknown("probe.method", self.method, METHODS[self.measure])
                raise InputError(
                    f"probe.method: {self.measure!r} knows one way alone", f"several: {', '.join(METHODS)}"
                )
            return
        if not callable(self.measure):
            raise InputError(f"probe: {self.measure!r} is neither the name of a probe nor a function")
        try:
            identity(self.measure)
        except ValueError as error:
            raise InputError(f"probe: {error}") from None
        if self.method != self._usual:
            raise InputError(f"probe.method: {self.method!r} is not for a function of your own", "leave it out")

    @property
    def name(self) -> str:
        return self.measure if isinstance(self.measure, str) else self.measure.__name__

    @property
    def _usual(self) -> str:
        return self.defaults()["method"]

    def items(self) -> dict[str, Any]:
        """Returns all settings by name; the usual method is left out, so that it is no part of an identity."""
        return {k: v for k, v in super().items().items() if (k, v) != ("method", self._usual)}


@dataclass(frozen=True)
class jacobian(Measurement):
    """Singular values of the Jacobian between two points of a network: ``jacobian("input", "blocks.2.branch")``.

    Points are those that the network shows (``show`` and ``show_layer`` of ``glorot_jax``), named by the path of their
    module, and ``"input"`` and ``"output"``. What leads around ``source`` counts as constant.

    Args:
        source, target: points, the source first.
        record: at which steps; those of the sweep if not said. Elsewhere its records hold NaN.
        method: ``"exact"`` (all singular values), ``"lanczos"`` (estimated from products) or ``"auto"``: exact up to a
            smaller side of 256.
    """

    source: str
    target: str
    record: Schedule | None = None
    method: Literal["auto", "exact", "lanczos"] = "auto"

    @property
    def name(self) -> str:
        return f"jacobian_{self.source}_{self.target}".replace(".", "_")


PRESETS = {
    "light": (probe("activations", method="moments"), probe("evaluation", at())),
    "paper": ("evaluation", "activations", "gradients", "jacobians"),
    "full": (
        *("evaluation", "activations", "gradients", "jacobians", "saturation", "histograms", "weights"),
        *("gradient_norms", "jacobian_spectra", "input_output_jacobian", "hessian", "hessian_trace"),
        *("hessian_diagonal", "ntk", "module_outputs"),
    ),
}
"""Sets of probes that a sweep may name; the light one evaluates at the first and the last step alone."""


def read_probes(value: Any, path: str) -> Any:
    """Returns probes as a tuple of names and descriptions: a preset opened, bare functions described."""
    known = (*names_in("probes/__init__"), *PRESETS)
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    if isinstance(value, str | Measurement) or callable(value):
        value = (value,)
    if not hasattr(value, "__iter__"):
        raise InputError(f"{path}: {value!r} is not a list of probes", f"known: {', '.join(known)}")
    made = []
    for one in value:
        if isinstance(one, str) and one not in names_in("probes/__init__"):
            raise unknown(path, one, known)
        if not isinstance(one, str | Measurement) and not callable(one):
            raise InputError(f"{path}: {one!r} is neither the name of a probe, a function, nor probe(…)")
        made.append(one if isinstance(one, str | Measurement) else probe(one))
    return tuple(made)


SPECS: dict[str, Callable] = {
    spec.__name__: spec
    for spec in (
        *(shapeset, mnist, fashion_mnist, cifar10, digits, small_imagenet, tfds),
        modular_addition,
        *(mlp, residual_mlp, cnn, resnet, transformer),
        *(sgd, adam, rmsprop, gradient_variance, levenberg_marquardt),
        *(denoising, every, log_spaced, at, probe, jacobian),
        *(successive_halving, dropping),
    )
}
"""What ``--set`` may build by name."""
