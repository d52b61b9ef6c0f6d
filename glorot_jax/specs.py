"""What a sweep file may say: data, model, optimizer and schedule, as descriptions that import nothing.

They are dataclasses in lower case, so that a description reads like a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from glorot_jax.config import Grid, Named, Range, Spec, field, identity
from glorot_jax.errors import InputError

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

    Source: Glorot & Bengio (2010), section 2.1.
    """

    scaling: Literal["symmetric", "unit"] = "symmetric"
    size: int = field(default=32, among=Range(8, 256))
    validation: int = field(default=10_000, among=COUNT)
    test: int = field(default=10_000, among=COUNT)


class Model(Spec):
    """The network that is trained."""

    family = "model"


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


class Optimizer(Spec):
    """The update rule; its numeric hyper-parameters are data along the run axis."""

    family = "optimizer"

    def factory(self) -> str | Callable:
        """Returns the name or function that makes the Optax transformation."""
        return type(self).__name__


@dataclass(frozen=True)
class sgd(Optimizer):
    """Stochastic gradient descent θ ← θ − ε g, the paper's. Momentum makes a program of its own, its value does not."""

    learning_rate: float = field(per_run=True, among=POSITIVE)
    momentum: float | None = field(default=None, per_run=True, among=SHARE)
    nesterov: bool = False

    def static(self) -> dict[str, Any]:
        return {"nesterov": self.nesterov}

    def per_run(self) -> dict[str, Any]:
        return {k: v for k, v in super().per_run().items() if v is not None}


@dataclass(frozen=True)
class adam(Optimizer):
    """Adam. Source: Kingma & Ba (2014), arXiv:1412.6980."""

    learning_rate: float = field(per_run=True, among=POSITIVE)
    b1: float = field(default=0.9, per_run=True, among=SHARE)
    b2: float = field(default=0.999, per_run=True, among=SHARE)
    eps: float = field(default=1e-8, per_run=True, among=POSITIVE)


@dataclass(frozen=True)
class rmsprop(Optimizer):
    """RMSProp. Source: Tieleman & Hinton (2012), lecture 6.5."""

    learning_rate: float = field(per_run=True, among=POSITIVE)
    decay: float = field(default=0.9, per_run=True, among=SHARE)
    eps: float = field(default=1e-8, per_run=True, among=POSITIVE)


@dataclass(frozen=True, init=False)
class optimizer(Optimizer):
    """Any factory of Optax's form, handed over as a value: ``optimizer(optax.lion, learning_rate=grid(1e-4, 1e-3))``.

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
            number = isinstance(v, int | float) and not isinstance(v, bool)
            if number and not Range().holds(v):
                raise InputError(f"optimizer.{name}: {v!r} is not a finite number")
            return float(v) if number else v

        return Grid(tuple(map(one, value))) if isinstance(value, Grid) else one(value)


class Schedule(Spec):
    """At which steps something is recorded; step 0 and the last are always among them."""

    family = "record"

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
        steps = tuple(sorted(set(named)))
        for step in steps:
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise InputError(f"record: {step!r} is not a step, an integer ≥ 0")
        object.__setattr__(self, "named", steps)

    def steps(self, total: int) -> tuple[int, ...]:
        late = [s for s in self.named if s > total]
        if late:
            raise InputError(f"record: step {late[0]} is after the last, {total}")
        return super().steps(total)

    def _inner(self, total: int) -> tuple[int, ...]:
        return self.named


SPECS: dict[str, Callable] = {
    spec.__name__: spec for spec in (shapeset, mlp, sgd, adam, rmsprop, every, log_spaced, at)
}
"""What ``--set`` may build by name."""
