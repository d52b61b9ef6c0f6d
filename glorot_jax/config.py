"""How a sweep is described: frozen dataclasses whose fields are checked when they are built. Imports no JAX.

Everything here serves four needs: one clear line for a wrong value, swept values (``grid``), canonical JSON for
identities, and functions handed over as values.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import math
import numbers
import operator
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from glorot_jax.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Grid:
    """Values that a sweep tries one after the other; made by ``grid``."""

    values: tuple[Any, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


def grid(*values: Any) -> Any:
    """Marks a swept value: every value is combined with every other grid's and with every seed.

    Raises:
        InputError: there is no value, one stands twice, or one is itself a grid.
    """
    if not values:
        raise InputError("grid: () is empty", "give at least one value, such as grid(0.01, 0.1)")
    for value in values:
        if isinstance(value, Grid):
            raise InputError("grid: a grid can't hold another grid", "list all values in one")
        if list(values).count(value) > 1:
            raise InputError(f"grid: {value!r} stands twice", "each value once; more seeds repeat a run")
    return Grid(values)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a field takes: from ``low`` to ``high``; ``low`` itself only if ``closed``."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = True

    def holds(self, value: float) -> bool:
        above = value >= self.low if self.closed else value > self.low
        return above and value <= self.high and -sys.float_info.max <= value <= sys.float_info.max

    def said(self, hint: Any) -> str:
        """Returns what is allowed, in words."""
        noun = "an integer" if hint is int else "a finite number"
        if self.high < math.inf:
            return f"{noun} from {self.low:.10g} to {self.high:.10g}"
        return f"{noun} {'≥' if self.closed else '>'} {self.low:.10g}" if self.low > -math.inf else noun


@dataclasses.dataclass(frozen=True)
class Named:
    """A field that takes the name of one of our functions in ``module``, or a function."""

    module: str


def field(
    *,
    per_run: bool = False,
    among: Range | Named | None = None,
    read: Callable[[Any, str], Any] | None = None,
    **options: Any,
) -> Any:
    """Returns a dataclass field.

    Args:
        per_run: its value is data along the run axis: sweeping it compiles nothing anew.
        among: what it takes, beyond its type.
        read: ``(value, path) -> value``, puts other ways of writing it into the field's own; may raise InputError.
    """
    return dataclasses.field(metadata={"per_run": per_run, "among": among, "read": read}, **options)


class Spec:
    """Base of descriptions: a frozen dataclass whose fields are checked and normalized when it is built."""

    family: ClassVar[str]

    def __post_init__(self) -> None:
        for f in self._fields():
            value = getattr(self, f.name)
            path = f"{type(self).__name__}.{f.name}"
            object.__setattr__(self, f.name, check(self, f, value, path))

    def replace(self, name: str, value: Any, path: str) -> Any:
        """Returns a copy with one field changed; an error names ``path``, what the person typed."""
        fields = {f.name: f for f in self._fields()}
        if name not in fields:
            raise unknown(path, name, fields)
        return dataclasses.replace(self, **{name: check(self, fields[name], value, path)})  # type: ignore[type-var]

    def static(self) -> dict[str, Any]:
        """Returns the fields that shape the compiled program."""
        return {f.name: getattr(self, f.name) for f in self._fields() if not f.metadata.get("per_run")}

    def per_run(self) -> dict[str, Any]:
        """Returns the fields that are data along the run axis."""
        return {f.name: getattr(self, f.name) for f in self._fields() if f.metadata.get("per_run")}

    def items(self) -> dict[str, Any]:
        """Returns all settings by name; some may be grids."""
        return {f.name: getattr(self, f.name) for f in self._fields()}

    def defaults(self) -> dict[str, Any]:
        """Returns the settings that have a default, with it."""
        return {f.name: f.default for f in self._fields() if f.default is not dataclasses.MISSING}

    def kind(self) -> str:
        """Returns the name under which the description is recorded."""
        return type(self).__name__

    def _fields(self) -> tuple[dataclasses.Field, ...]:
        return dataclasses.fields(self)  # type: ignore[arg-type]


def check(spec: object, f: dataclasses.Field, value: Any, path: str) -> Any:
    """Returns ``value`` in the field's own type, or raises the one line that says what is wrong with it."""
    hint, among = _hints(type(spec))[f.name], f.metadata.get("among")
    read = f.metadata.get("read") or (lambda value, _: value)
    if isinstance(value, Grid):
        return Grid(tuple(checked(read(v, path), hint, path, among) for v in value))
    return checked(read(value, path), hint, path, among)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def checked(value: Any, hint: Any, path: str, among: Range | Named | None = None) -> Any:
    """Returns ``value`` in the type that a hint names, or raises the one line that says what is wrong with it."""
    if isinstance(among, Named):
        return named_function(value, among, path)
    if hint is Any:
        return value
    origin, arms = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arms or type(value) not in {type(a) for a in arms}:
            raise unknown(path, value, map(str, arms)) if isinstance(value, str) else _wrong(path, value, _said(hint))
        return value
    if origin in (types.UnionType,) or str(origin) == "typing.Union":
        if value is None and type(None) in arms:
            return None
        (other,) = (a for a in arms if a is not type(None))
        return checked(value, other, path, among)
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            value = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
            raise _wrong(path, value, _said(hint))
        return tuple(checked(v, arms[0], path, among) for v in value)
    value = _number(value, hint) if hint in (int, float) else value
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(path, value, among.said(hint) if isinstance(among, Range) else _said(hint))
    if isinstance(among, Range) and not among.holds(value):
        raise _wrong(path, value, among.said(hint))
    return value


def _number(value: Any, hint: type) -> Any:
    """A number as Python's own of the field's type, NumPy's too; what can't be one exactly stays as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        value = operator.index(value)
    if hint is int:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    try:
        return float(value)
    except OverflowError:
        return value


def _wrong(path: str, value: Any, allowed: str) -> InputError:
    return InputError(f"{path}: {value!r} is not {allowed}")


def _said(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return " | ".join(map(repr, get_args(hint)))
    if origin is tuple:
        return f"a list, each {_said(get_args(hint)[0])}"
    if isinstance(hint, type) and issubclass(hint, Spec):
        return " | ".join(f"{made.__name__}(…)" for made in hint.__subclasses__())
    return {int: "an integer", float: "a number", bool: "True or False", str: "a text"}.get(hint, f"a {hint.__name__}")


# ---- functions as values


@functools.cache
def names_in(module: str) -> tuple[str, ...]:
    """Returns ``__all__`` of one of our modules, read from its source so that JAX is not imported."""
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return tuple(ast.literal_eval(node.value))
    raise LookupError(f"{module} has no __all__")


def resolve(value: str | Callable, module: str) -> Callable:
    """Returns the function that a name stands for; a function stands for itself. This imports JAX."""
    return getattr(importlib.import_module(f"glorot_jax.{module}"), value) if isinstance(value, str) else value


def named_function(value: Any, among: Named, path: str) -> Any:
    """Returns the name of one of our functions, or a function that can be recorded, or raises the line for it."""
    if isinstance(value, str):
        if value not in names_in(among.module):
            raise unknown(path, value, names_in(among.module))
        return value
    if not callable(value):
        raise _wrong(path, value, f"a name or a function; known names: {', '.join(names_in(among.module))}")
    if getattr(value, "__module__", None) == f"glorot_jax.{among.module}" and value.__name__ in names_in(among.module):
        return value.__name__
    try:
        identity(value)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return value


def identity(function: Callable) -> str:
    """Returns ``qualified.name@digest``: the digest covers source, defaults, closure cells, partial arguments
    and a method's object, also below decorators that name what they wrap.

    The globals that a function calls are not part of it: changing a helper beside it changes no identity.

    Raises:
        ValueError: a lambda, or a function whose source or closure can't be read.
    """
    try:
        content = _content(function)
    except RecursionError:
        raise ValueError(f"{function!r} closes over itself, so it can't be recorded") from None
    return f"{_qualified(function)}@{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _qualified(function: Callable) -> str:
    if isinstance(function, functools.partial):
        return _qualified(function.func)
    return getattr(function, "__qualname__", type(function).__qualname__).replace("<locals>.", "")


def _content(function: Any) -> str:
    if isinstance(function, functools.partial):
        arguments = [_value_content(v) for v in (*function.args, *sorted(function.keywords.items()))]
        return f"partial({_content(function.func)}, {arguments})"
    if getattr(function, "__name__", "") == "<lambda>":
        raise ValueError("a lambda has no name to be recorded under; write it as a function with def")
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise ValueError(f"the source of {function!r} can't be read, so it can't be recorded") from None
    layers = list(_layers(function))
    cells = [_value_content(v) for layer in layers for v in _held(layer)]
    defaults = [
        _value_content(v)
        for layer in layers
        for v in (
            *(getattr(layer, "__defaults__", None) or ()),
            *sorted((getattr(layer, "__kwdefaults__", None) or {}).items()),
        )
    ]
    return json.dumps([source, cells, defaults])


def _layers(function: Any) -> Iterator[Any]:
    """A function and those that it wraps: ``jax.jit`` and its like show the source of the innermost alone."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _held(function: Any) -> Iterator[Any]:
    if inspect.ismethod(function):
        yield function.__self__
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:
            raise ValueError(f"{function!r} closes over a name that has no value yet: it can't be recorded") from None


def _value_content(value: Any) -> str:
    if inspect.isfunction(value) or isinstance(value, functools.partial) or hasattr(value, "__wrapped__"):
        return _content(value)
    if inspect.ismodule(value):
        return value.__name__  # its repr holds a path of this machine
    if isinstance(value, Mapping):
        return f"{type(value).__name__}{[(_value_content(k), _value_content(v)) for k, v in value.items()]}"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}{sorted(map(_value_content, value))}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}{[_value_content(v) for v in value]}"
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        return f"{value.dtype}{getattr(value, 'shape', ())}{hashlib.sha256(value.tobytes()).hexdigest()}"
    shown = repr(value)
    if " at 0x" in shown:
        raise ValueError(f"it holds {shown}, whose content can't be read, so it can't be recorded")
    return shown


# ---- plain values


def plain(value: Any) -> Any:
    """Returns a JSON-able form: functions by identity, tuples as lists."""
    if isinstance(value, Grid):
        return {"grid": [plain(v) for v in value]}
    if isinstance(value, Spec):
        return {"spec": value.kind(), **{k: plain(v) for k, v in value.items().items()}}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list | range):
        return [plain(v) for v in value]
    return identity(value) if callable(value) else value


def canonical_json(value: Any) -> str:
    """Returns the one text of a value that identities are made from; NaN is refused."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
