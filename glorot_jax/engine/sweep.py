"""A sweep: one description, from which all runs, their names and their identities follow. Imports no JAX."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import numbers
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

from glorot_jax.config import Grid, Named, Range, Spec, canonical_json, check, checked, field, grid, identity, plain
from glorot_jax.errors import InputError, unknown
from glorot_jax.search import Search
from glorot_jax.specs import (
    COUNT,
    PRESETS,
    SPECS,
    Data,
    Measurement,
    Model,
    Optimizer,
    Pretraining,
    Schedule,
    log_spaced,
    read_probes,
)

_SEED = Range(0, 2**32 - 1)
_FAMILIES = {"data": Data, "model": Model, "optimizer": Optimizer, "record": Schedule, "pretraining": Pretraining}
_NOT_IN_A_RUN = ("name", "seeds", "exclude", "variants", "search", "source", "settings")
_SHORT = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "jacobian_examples": "jacobians",
    "pretraining.learning_rate": "prelr",
    "pretraining.steps": "presteps",
}
"""Of a setting, by its path or its last part, in a run's name."""


def _read_budget(value: Any, path: str) -> Any:
    if value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < value < 1):
        return value
    raise InputError(f"{path}: {value!r} is not a number above 0 and below 1", "0.1 lets probes take a tenth")


@dataclass(frozen=True)
class Run:
    """One variant with one seed: one network trained once.

    Attributes:
        id: twelve hexadecimal digits of its own configuration and seed; other runs and the sweep's name play no part.
        name: short, of what varies in this sweep.
        config: its whole configuration, by path.
    """

    id: str
    name: str
    seed: int
    config: Mapping[str, Any]
    data: Data
    model: Model
    optimizer: Optimizer
    batch_size: int
    steps: int
    loss: str | Callable
    record: Schedule
    probes: tuple[str | Measurement, ...]
    examples: int
    jacobian_examples: int
    order: str
    probe_budget: float | None = None
    pretraining: Pretraining | None = None
    precision: str = "float32"

    def schedules(self) -> dict[Schedule, tuple[str | Measurement, ...]]:
        """Returns the probes by the schedule on which they are made; the sweep's own comes first."""
        found: dict[Schedule, list[str | Measurement]] = {self.record: []}
        for one in self.probes:
            own = None if isinstance(one, str) else one.record
            found.setdefault(own or self.record, []).append(one)
        return {schedule: tuple(probes) for schedule, probes in found.items()}

    def due(self, keep_every: int = 1) -> dict[int, int]:
        """Returns the steps at which something is recorded, rising, each with the schedules due as bits.

        Args:
            keep_every: of each schedule's steps, the first, each so many-th after it, and the last are kept.
        """
        steps: dict[int, int] = {}
        for number, schedule in enumerate(self.schedules()):
            *before, last = schedule.steps(self.steps)
            for step in (*before[::keep_every], last):
                steps[step] = steps.get(step, 0) | 1 << number
        return dict(sorted(steps.items()))

    def shared(self) -> dict[str, Any]:
        """Returns by path all that a compiled program is made for; what differs inside a cohort is left out."""
        per_run = {"seed"}
        for family in _FAMILIES:
            part = getattr(self, family)
            per_run |= {f"{family}.{name}" for name in (part.per_run() if part is not None else ())}
        return {k: v for k, v in self.config.items() if k not in per_run}


@dataclass(frozen=True)
class Sweep(Spec):
    """A named grid of configurations × seeds, what to train on, for how long, and what to record.

    Args:
        name: of its folder in results/.
        data, model, optimizer: descriptions; any value inside may be a ``grid``.
        seeds: integers in [0, 2**32), such as ``range(3)``.
        steps: updates of every run; 0 records the initialization alone.
        batch_size: examples of one update.
        loss: ``"nll"``, ``"quadratic"`` or a function ``(logits, labels) -> per-example loss``.
        record: at which steps the probes look.
        probes: which of them: names (``glorot list probes``), ``probe(…)`` for one with a schedule of its own or of
            your own making, or a preset, ``"light"``, ``"paper"`` or ``"full"``.
        examples: test examples that the layer statistics use; 300 in the paper.
        jacobian_examples: test examples that the layer Jacobians are averaged over.
        probe_budget: share of the training time, above 0 and below 1, that the probes may take. When a cohort starts,
            what an update and a record take is measured on this machine, and of each schedule's steps every k-th is
            kept, with the smallest k that fits; the first and the last are always kept, even where they alone take
            more. If None all are kept.
        pretraining: ``denoising(…)`` trains the hidden layers without labels before step 0; None for none.
        precision: of the matrix products of an update, forward and backward: ``"float32"``; ``"tensorfloat32"``, whose
            factors have 10 bits behind the point on NVIDIA's GPUs, and which on a CPU is float32; ``"bfloat16"``,
            whose factors have 7. Parameters, biases, updates, the loss and all sums are float32, and so is all that
            probes and evaluation compute of the same network: only what they measure is another.
        order: ``"paired"``: runs that share a seed see the same examples and draw the same initial numbers;
            ``"independent"``: every run its own.
        search: a rule that drops variants on the way, such as ``successive_halving(first=100)``; None lets all runs
            train to the end. It changes no bit of those that go on, and is part of no run's identity.
        exclude: combinations to leave out: dicts of paths and values that all hold, or functions of a configuration.
        variants: an explicit list of dicts of paths and values, in place of grids.

    Raises:
        InputError: a field is wrong; one line says which, the value, and what is allowed.
    """

    family = "sweep"

    name: str
    data: Data
    model: Model
    optimizer: Optimizer
    seeds: tuple[int, ...] = field(among=_SEED)
    steps: int = field(among=Range(0))
    batch_size: int = field(default=10, among=COUNT)
    loss: Any = field(default="nll", among=Named("losses"))
    record: Schedule = field(default=log_spaced(3))
    probes: tuple[Any, ...] = field(default=PRESETS["paper"], read=read_probes)
    examples: int = field(default=300, among=COUNT)
    jacobian_examples: int = field(default=4, among=COUNT)
    order: Literal["paired", "independent"] = "paired"
    probe_budget: float | None = field(default=None, read=_read_budget)
    pretraining: Pretraining | None = None
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    search: Search | None = None
    exclude: Any = ()
    variants: Any = None
    source: str | None = dataclasses.field(default=None, compare=False, repr=False)
    settings: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("name", "seeds", "search"):
            if isinstance(getattr(self, name), Grid):
                raise InputError(f"sweep.{name}: it can't be a grid", "seeds=range(3)" if name == "seeds" else None)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise InputError(f"sweep.name: {self.name!r} can't name a folder", "letters, digits and . _ -")
        _check_list("seeds", self.seeds)
        for probes in self.probes if isinstance(self.probes, Grid) else (self.probes,):
            _check_list("probes", tuple(one if isinstance(one, str) else one.name for one in probes))
        if isinstance(self.exclude, Mapping) or not hasattr(self.exclude, "__iter__"):
            raise InputError("sweep.exclude: it is a list of dicts or functions")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        for rule in filter(callable, self.exclude):
            try:
                identity(rule)
            except ValueError as error:
                raise InputError(f"sweep.exclude: {error}") from None
        if self.variants is not None:
            if isinstance(self.variants, Mapping) or not hasattr(self.variants, "__iter__"):
                raise InputError("sweep.variants: it is a list of dicts of paths and values")
            object.__setattr__(self, "variants", tuple(self.variants))
            if not self.variants:
                raise InputError("sweep.variants: () is empty", "give at least one")
        self.runs()

    def runs(self) -> tuple[Run, ...]:
        """Returns all runs: grids in the order of declaration, seeds innermost."""
        return self._runs

    def varying(self) -> tuple[str, ...]:
        """Returns the paths whose value is not the same in all runs."""
        return _varying([run.config for run in self._runs])

    def resolved(self) -> dict[str, Any]:
        """Returns the whole description in JSON's terms."""
        return {k: plain(v) for k, v in self.items().items() if k not in ("source", "settings")}

    def with_settings(self, settings: Sequence[str], known: Iterable[str] = ()) -> Sweep:
        """Returns the sweep with settings such as ``model.widths=64,64`` or ``steps=2000`` put in place.

        Args:
            known: further names, for the hint at an unknown one.

        Raises:
            InputError: a path is unknown or a value is wrong; the line names the path as typed.
        """
        changed: dict[str, Any] = {}
        for setting in settings:
            path, equals, text = setting.partition("=")
            if not equals:
                raise InputError(f"--set {setting}: it has no value", "write --set steps=2000")
            self._put(changed, path.strip(), _parse(text.strip(), path), known)
        return dataclasses.replace(self, **changed, settings=(*self.settings, *settings)) if settings else self

    def with_value(self, path: str, value: Any) -> Sweep:
        """Returns the sweep with one value, named by its path, changed."""
        changed: dict[str, Any] = {}
        self._put(changed, path, value)
        return dataclasses.replace(self, **changed)

    def _put(self, changed: dict[str, Any], path: str, value: Any, known: Iterable[str] = ()) -> None:
        """Notes one value in ``changed``, the fields that are to be replaced together."""
        head, dot, name = path.partition(".")
        fields = {f.name: f for f in self._fields()}
        if head not in fields or head in ("source", "settings"):
            raise unknown(path, path, [*known, *self._paths()])
        if not dot:
            changed[head] = check(self, fields[head], value, path)
            return
        inner = changed.get(head, getattr(self, head))
        if head not in _FAMILIES or not isinstance(inner, Spec | Grid):
            raise unknown(path, path, self._paths())
        among = inner if isinstance(inner, Grid) else (inner,)
        parts = [part if part is None else part.replace(name, value, path) for part in among]
        changed[head] = Grid(tuple(parts)) if isinstance(inner, Grid) else parts[0]

    @cached_property
    def _runs(self) -> tuple[Run, ...]:
        variants = list(self._variants())
        kept = [v for v in variants if not any(self._excluded(v, rule) for rule in self.exclude)]
        for rule in self.exclude:
            if isinstance(rule, Mapping):
                _check_rule(rule, [_config(v) for v in variants])
        if not kept:
            raise InputError("sweep.exclude: it leaves no run")
        runs = [_run(parts | {"seed": seed}) for parts in kept for seed in self.seeds]
        _refuse_twins(runs)
        for run in runs:
            self._check_rungs(run, run.due())
        return _named(runs)

    def _check_rungs(self, run: Run, due: Mapping[int, int]) -> None:
        """A rule decides by what is recorded at its rungs."""
        for step in self.search.rungs(run.steps) if self.search else ():
            if step not in due:
                near = min(due, key=lambda one: abs(one - step))
                raise InputError(f"search: nothing is recorded at step {step}", f"the nearest record is at step {near}")

    def _variants(self) -> Iterator[dict[str, Any]]:
        if self.variants is None:
            yield from self._product()
            return
        plain_sweep = dataclasses.replace(self, variants=None, exclude=())
        if any(len(list(_expand(v))) > 1 for v in _parts(plain_sweep).values()):
            raise InputError("sweep.variants: it can't stand beside a grid", "write all values into the list")
        for number, changes in enumerate(self.variants):
            changed = plain_sweep
            if not isinstance(changes, Mapping):
                raise InputError(f"sweep.variants[{number}]: {changes!r} is not a dict of paths and values")
            for path, value in changes.items():
                changed = changed.with_value(path, value)
            yield from changed._product()

    def _product(self) -> Iterator[dict[str, Any]]:
        parts = _parts(self)
        for values in itertools.product(*map(_expand, parts.values())):
            yield dict(zip(parts, values, strict=True))

    def _excluded(self, parts: dict[str, Any], rule: Mapping | Callable) -> bool:
        config = _config(parts)
        if callable(rule):
            return bool(rule(config))
        if not isinstance(rule, Mapping):
            raise InputError(f"sweep.exclude: {rule!r} is neither a dict of paths and values nor a function")
        return all(config.get(path) == plain(value) for path, value in rule.items())

    def _paths(self) -> list[str]:
        paths = [f.name for f in self._fields() if f.name not in ("source", "settings")]
        for family in _FAMILIES:
            inner = getattr(self, family)
            for part in inner if isinstance(inner, Grid) else (inner,):
                paths += [f"{family}.{name}" for name in (part.items() if part is not None else ())]
        return sorted(set(paths))


def _check_list(name: str, values: tuple) -> None:
    if not values:
        raise InputError(f"sweep.{name}: () is empty", "give at least one")
    twice = next((v for v in values if values.count(v) > 1), None)
    if twice is not None:
        raise InputError(f"sweep.{name}: {twice!r} stands twice", "each one once")


def _parts(sweep: Sweep) -> dict[str, Any]:
    return {k: v for k, v in sweep.items().items() if k not in _NOT_IN_A_RUN}


def _expand(value: Any) -> Iterator[Any]:
    """Every concrete value: one a grid entry, and of a description the product of its grids."""
    if isinstance(value, Grid):
        for entry in value:
            yield from _expand(entry)
    elif isinstance(value, Spec):
        swept = {k: list(_expand(v)) for k, v in value.items().items() if isinstance(v, Grid)}
        for chosen in itertools.product(*swept.values()):
            made = value
            for name, entry in zip(swept, chosen, strict=True):
                made = made.replace(name, entry, f"{value.kind()}.{name}")
            yield made
    else:
        yield value


def _config(parts: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, flat: the kind of each description under its family's name, its settings below."""
    flat: dict[str, Any] = {}
    for name, value in parts.items():
        if isinstance(value, Spec):
            flat[name] = value.kind()
            flat |= {f"{name}.{k}": plain(v) for k, v in value.items().items()}
        else:
            flat[name] = plain(value)
    return flat


def _identity(parts: Mapping[str, Any]) -> str:
    """The digest of all that is not at its default: a new setting with a default changes no identity."""
    telling: dict[str, Any] = {}
    usual = {f.name: f.default for f in dataclasses.fields(Sweep) if f.default is not dataclasses.MISSING}
    for name, value in parts.items():
        if isinstance(value, Spec):
            defaults = value.defaults()
            settings = {k: plain(v) for k, v in value.items().items() if k not in defaults or v != defaults[k]}
            if settings or not (name in usual and usual[name] == value):
                telling[name] = {"kind": value.kind(), **settings}
        elif name not in usual or value != usual[name]:
            telling[name] = plain(value)
    return hashlib.sha256(canonical_json(telling).encode()).hexdigest()[:12]


def _run(parts: dict[str, Any]) -> Run:
    parts["optimizer"].check_loss(parts["loss"])
    return Run(id=_identity(parts), name="", config=_config(parts), **parts)


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        if run.id in seen:
            raise InputError(f"sweep: a configuration stands twice: {canonical_json(run.config)}", "each one once")
        seen[run.id] = run


def _check_rule(rule: Mapping, configs: Sequence[Mapping]) -> None:
    known = sorted({path for config in configs for path in config})
    for path in rule:
        if path not in known:
            raise unknown("sweep.exclude", path, known)


def _varying(configs: Sequence[Mapping]) -> tuple[str, ...]:
    paths = dict.fromkeys(path for config in configs for path in config)
    return tuple(p for p in paths if len({canonical_json(c.get(p)) for c in configs}) > 1)


def _named(runs: Sequence[Run]) -> tuple[Run, ...]:
    paths = [p for p in _varying([run.config for run in runs]) if p != "seed"]
    named = []
    for run in runs:
        words = [_word(path, run.config[path]) for path in paths if path in run.config]
        named.append(dataclasses.replace(run, name="-".join([*words, f"s{run.seed}"])))
    for digits in (0, 4, 8):
        if len({(run.name, run.id[:digits]) for run in named}) == len(named):
            break
    else:
        digits = 12
    return tuple(dataclasses.replace(r, name=f"{r.name}-{r.id[:digits]}") if digits else r for r in named)


def _word(path: str, value: Any) -> str:
    """One value in a run's name: a word by itself, a number behind its field's name."""
    name = path.rpartition(".")[2]
    if isinstance(value, str):
        return value.partition("@")[0].rpartition(".")[2]
    if isinstance(value, list):
        same = len(set(map(str, value))) == 1 and len(value) > 1
        return f"{len(value)}x{value[0]}" if same else "x".join(map(str, value))
    short = _SHORT.get(path, _SHORT.get(name, name.replace("_", "")))
    if value is None and path in _FAMILIES:
        return f"no{short}"
    return f"{short}{value:g}" if isinstance(value, float) else f"{short}{value}"


# ---- reading descriptions


def from_resolved(resolved: Mapping[str, Any]) -> Sweep:
    """Returns the sweep that ``resolved()`` came from.

    Raises:
        InputError: it held functions of the person's own, which only its file or program can give back.
    """
    return Sweep(**{k: _rebuilt(v) for k, v in resolved.items()})


def _rebuilt(value: Any) -> Any:
    if isinstance(value, Mapping) and "grid" in value:
        return Grid(tuple(_rebuilt(v) for v in value["grid"]))
    if isinstance(value, Mapping) and "spec" in value:
        kind, settings = value["spec"], {k: _rebuilt(v) for k, v in value.items() if k != "spec"}
        if kind not in SPECS:
            raise InputError(
                f"{kind}: a function of your own can't be read back", "run the sweep from its file or program"
            )
        return SPECS[kind](*settings["named"]) if kind == "at" else SPECS[kind](**settings)
    if isinstance(value, Mapping):
        return {k: _rebuilt(v) for k, v in value.items()}
    return [_rebuilt(v) for v in value] if isinstance(value, list) else value


def load_sweep(name: str | Path, settings: Sequence[str] = ()) -> Sweep:
    """Returns the sweep of a file: a path, or the name of a file in ./sweeps or among those that come with the package.

    Args:
        settings: such as ``steps=2000``, put in place as by ``Sweep.with_settings``. Where the file's ``sweep`` is a
            function that returns the sweep, its arguments can be set so, too; all of them have defaults.

    Raises:
        InputError: there is no such file, it fails, it defines no ``sweep``, or a setting is wrong.
    """
    path = _find(str(name))
    found, arguments = getattr(read_file(path), "sweep", None), {}
    if inspect.isfunction(found):
        arguments = _arguments(found, settings, path)
        with _failures_named(path):
            found = found(**arguments)
    if not isinstance(found, Sweep):
        raise InputError(f"{path}: it defines no `sweep`", "end it with sweep = Sweep(…)")
    others = [setting for setting in settings if not _sets(setting, arguments)]
    made = found.with_settings(others, known=arguments)
    return dataclasses.replace(made, source=str(path), settings=(*found.settings, *settings))


def _sets(setting: str, names: Iterable[str]) -> bool:
    name, equals, _ = setting.partition("=")
    return bool(equals) and name.strip() in names


def _arguments(function: Callable[..., Any], settings: Sequence[str], path: Path) -> dict[str, Any]:
    """What a file's function is called with: its defaults, and what the settings say of them."""
    hints, made = get_type_hints(function), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is parameter.empty:
            raise InputError(f"{path}: sweep: its argument {name!r} has no default", f"write {name}=…")
        made[name] = parameter.default
    for setting in settings:
        if _sets(setting, made):
            name, _, text = map(str.strip, setting.partition("="))
            made[name] = checked(_parse(text, name), hints.get(name, Any), name)
    return made


def read_file(path: Path) -> ModuleType:
    """Returns what a sweep file defines.

    Raises:
        InputError: it fails; the line says where.
    """
    module = f"glorot_sweep_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    with _failures_named(path):
        spec.loader.exec_module(loaded)
    return loaded


@contextlib.contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """What fails in a sweep file becomes one line that says where."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}{_line_of(error, str(path.absolute()))}: {type(error).__name__}: {error}") from error


def _line_of(error: BaseException, file: str) -> str:
    if isinstance(error, SyntaxError) and error.lineno and error.filename == file:
        return f":{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f":{lines[-1]}" if lines else ""


def sweep_folders() -> tuple[Path, ...]:
    """Returns where named sweeps are looked for, nearest first."""
    package = Path(__file__).parents[1]
    return Path("sweeps"), package / "sweeps", package.parent / "sweeps"


def known_sweeps() -> dict[str, Path]:
    """Returns the named sweeps that can be run here."""
    found: dict[str, Path] = {}
    for folder in sweep_folders():
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else ():
            if not path.name.startswith("_"):
                found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"sweep: {name}: no such file")
        return path
    known = known_sweeps()
    if name not in known:
        raise unknown("sweep", name, known)
    return known[name]


def _parse(text: str, path: str) -> Any:
    """The value of a setting: a Python literal, a bare word, a list with commas, grid(…), range(…) or a description."""
    try:
        return _value(ast.parse(text, mode="eval").body, path)
    except (SyntaxError, _NotAValue):
        return text


class _NotAValue(Exception):
    pass


def _value(node: ast.expr, path: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(e, path) for e in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand, path)
        if isinstance(operand, int | float):
            return -operand
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        made = {"grid": grid, "range": lambda *a: tuple(range(*a)), **SPECS}
        if node.func.id not in made:
            raise unknown(path, node.func.id, made)
        arguments = [_value(a, path) for a in node.args]
        options = {str(k.arg): _value(k.value, path) for k in node.keywords}
        try:
            return made[node.func.id](*arguments, **options)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: {node.func.id}: {error}") from None
    raise _NotAValue
