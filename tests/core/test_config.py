"""Descriptions: what they take, what they refuse and in which words, and how a function is known again."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import types
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import adam, at, every, grid, log_spaced, mlp, optimizer, rmsprop, sgd, shapeset
from glorot_jax.config import Grid, Range, Spec, canonical_json, identity, names_in, plain, resolve
from glorot_jax.errors import InputError, unknown


def my_activation(s):
    return s


class Bent:
    def __init__(self, slope):
        self.slope = slope

    def apply(self, s):
        return self.slope * s


@dataclasses.dataclass(frozen=True)
class Described(Bent):
    slope: float


def refused(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


# ---- what is refused, and how it is said

WRONG = {
    "a misspelt name": (
        lambda: mlp(activation="tanhh"),
        "mlp.activation: 'tanhh' is not known",
        "hint: 'tanh'? known: ",
    ),
    "a name far from all": (lambda: mlp(init="qqq"), "mlp.init: 'qqq' is not known", "hint: known: "),
    "no function": (lambda: mlp(init=3), "mlp.init: 3 is not a name or a function; known names: ", "orthogonal"),
    "a lambda": (lambda: mlp(activation=lambda s: s), "mlp.activation: a lambda has no name", "def"),
    "a misspelt choice": (lambda: shapeset(scaling="unitt"), "shapeset.scaling: 'unitt' is not known", "hint: 'unit'?"),
    "no choice": (lambda: shapeset(scaling=1), "shapeset.scaling: 1 is not 'symmetric' | 'unit'", ""),
    "above": (lambda: shapeset(size=257), "shapeset.size: 257 is not an integer from 8 to 256", ""),
    "below": (lambda: shapeset(size=7), "shapeset.size: 7 is not an integer from 8 to 256", ""),
    "a fraction": (lambda: shapeset(size=32.5), "shapeset.size: 32.5 is not an integer from 8 to 256", ""),
    "too few": (lambda: shapeset(test=0), "shapeset.test: 0 is not an integer ≥ 1", ""),
    "a truth value": (lambda: shapeset(test=True), "shapeset.test: True is not an integer ≥ 1", ""),
    "one of many": (lambda: mlp(widths=(8, 0)), "mlp.widths: 0 is not an integer ≥ 1", ""),
    "a text as a list": (lambda: mlp(widths="64"), "mlp.widths: '64' is not a list, each an integer", ""),
    "a dict as a list": (lambda: mlp(widths={64: 1}), "mlp.widths: {64: 1} is not a list, each an integer", ""),
    "no list": (lambda: mlp(widths=None), "mlp.widths: None is not a list, each an integer", ""),
    "zero": (lambda: sgd(learning_rate=0), "sgd.learning_rate: 0.0 is not a finite number > 0", ""),
    "NaN": (lambda: sgd(learning_rate=math.nan), "sgd.learning_rate: nan is not a finite number > 0", ""),
    "infinity": (lambda: sgd(learning_rate=math.inf), "sgd.learning_rate: inf is not a finite number > 0", ""),
    "too large for a float": (
        lambda: sgd(learning_rate=10**400),
        "sgd.learning_rate: 1000",
        " not a finite number > 0",
    ),
    "a text": (lambda: sgd(learning_rate="0.1"), "sgd.learning_rate: '0.1' is not a finite number > 0", ""),
    "nothing": (lambda: sgd(learning_rate=None), "sgd.learning_rate: None is not a finite number > 0", ""),
    "one in a grid": (
        lambda: sgd(learning_rate=grid(0.1, -1)),
        "sgd.learning_rate: -1.0 is not a finite number > 0",
        "",
    ),
    "beyond 1": (
        lambda: sgd(learning_rate=1, momentum=1.5),
        "sgd.momentum: 1.5 is not a finite number from 0 to 1",
        "",
    ),
    "no truth value": (lambda: sgd(learning_rate=1, nesterov=1), "sgd.nesterov: 1 is not True or False", ""),
    "Adam's": (lambda: adam(learning_rate=1, b2=-0.1), "adam.b2: -0.1 is not a finite number from 0 to 1", ""),
    "RMSProp's": (lambda: rmsprop(learning_rate=1, eps=0), "rmsprop.eps: 0.0 is not a finite number > 0", ""),
    "no interval": (lambda: every(0), "every.n: 0 is not an integer ≥ 1", ""),
    "no pace": (lambda: log_spaced(0), "log_spaced.per_decade: 0 is not an integer ≥ 1", ""),
    "no step": (lambda: at(5, "end"), "record: 'end' is not a step, an integer ≥ 0", ""),
    "a list of steps": (lambda: at([1, 5]), "record: [1, 5] is not a step, an integer ≥ 0", ""),
    "a step before the first": (lambda: at(-1), "record: -1 is not a step, an integer ≥ 0", ""),
    "a step after the last": (lambda: at(3, 12).steps(10), "record: step 12 is after the last, 10", ""),
    "no optimizer": (lambda: optimizer("lion"), "optimizer: 'lion' is not a function that returns an Optax", ""),
    "a lambda optimizer": (lambda: optimizer(lambda r: r), "optimizer: a lambda has no name", ""),
    "its argument": (lambda: optimizer(optax.lion, b1=math.inf), "optimizer.b1: inf is not a finite number", ""),
    "an empty grid": (lambda: grid(), "grid: () is empty", "hint: give at least one value"),
    "a value twice": (lambda: grid(0.1, 0.2, 0.1), "grid: 0.1 stands twice", "hint: each value once"),
    "a grid in a grid": (lambda: grid(grid(1), 2), "grid: a grid can't hold another grid", "hint: list all"),
    "an unknown field": (
        lambda: mlp().replace("widhts", 3, "model.widhts"),
        "model.widhts: 'widhts'",
        "'widths'? known: ",
    ),
    "a value by path": (
        lambda: mlp().replace("gain", 0, "model.gain"),
        "model.gain: 0.0 is not a finite number > 0",
        "",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_one_line_with_its_field_its_value_and_what_is_allowed(case):
    call, line, hint = WRONG[case]
    first, *rest = refused(call).split("\n")
    assert first.startswith(line)
    assert hint in "\n".join((first, *rest))
    assert len(rest) <= 1
    assert all(r.startswith("  hint: ") for r in rest)


def test_the_nearest_name_is_guessed_and_all_names_are_listed():
    said = str(unknown("model.init", "glorot_unifrom", ("zeros", "glorot_uniform", "glorot_normal")))
    assert said == (
        "model.init: 'glorot_unifrom' is not known\n"
        "  hint: 'glorot_uniform'? known: glorot_normal, glorot_uniform, zeros"
    )


def test_a_function_without_source_is_refused():
    for function in (abs, types.FunctionType(compile("0", "<nowhere>", "eval"), {}, "f")):
        assert re.match(
            r"mlp.activation: the source of .* can't be read", refused(lambda f=function: mlp(activation=f))
        )


def test_names_are_read_from_the_source_without_importing_and_resolve_to_their_functions():
    from glorot_jax import activations

    assert names_in("activations") == tuple(activations.__all__)
    assert resolve("tanh", "activations") is activations.tanh
    assert resolve(my_activation, "activations") is my_activation


# ---- what is taken, and as what


def typed(value):
    """The value with its type, through tuples: 1 and 1.0 differ."""
    return [typed(v) for v in value] if isinstance(value, tuple | Grid) else (type(value), value)


@pytest.mark.parametrize(
    ("made", "taken"),
    [
        (lambda: sgd(learning_rate=1).learning_rate, 1.0),
        (lambda: sgd(learning_rate=np.float32(0.5)).learning_rate, 0.5),
        (lambda: sgd(learning_rate=np.int64(2)).learning_rate, 2.0),
        (lambda: sgd(learning_rate=1, momentum=0).momentum, 0.0),
        (lambda: sgd(learning_rate=1, momentum=None).momentum, None),
        (lambda: sgd(learning_rate=grid(1, 0.5)).learning_rate, (1.0, 0.5)),
        (lambda: mlp(widths=64).widths, (64,)),
        (lambda: mlp(widths=[64, 32]).widths, (64, 32)),
        (lambda: mlp(widths=(64.0,)).widths, (64,)),
        (lambda: mlp(widths=np.array([64, 32])).widths, (64, 32)),
        (lambda: mlp(widths=range(1, 4)).widths, (1, 2, 3)),
        (lambda: mlp(widths=grid(8, (8, 8))).widths, ((8,), (8, 8))),
        (lambda: shapeset(size=1e2).size, 100),
        (lambda: at(*np.arange(3)).named, (0, 1, 2)),
        (lambda: at(7, 3, 7).named, (3, 7)),
        (lambda: optimizer(optax.lion, learning_rate=1).hyper["learning_rate"], 1.0),
        (lambda: optimizer(optax.lion, learning_rate=np.float64(1)).hyper["learning_rate"], 1.0),
        (lambda: optimizer(optax.lion, b1=grid(0, np.int32(1))).hyper["b1"], (0.0, 1.0)),
    ],
)
def test_a_value_is_taken_in_its_fields_own_type(made, taken):
    assert typed(made()) == typed(taken)


def test_a_built_in_function_is_taken_by_its_name_and_another_as_it_is():
    from glorot_jax import activations

    assert mlp(activation=activations.softsign).activation == "softsign"
    assert mlp(activation=my_activation).activation is my_activation
    assert mlp(activation=grid("tanh", my_activation)).activation == Grid(("tanh", my_activation))


@settings(deadline=None)
@given(st.floats(allow_nan=True), st.floats(-1e9, 1e9), st.floats(0, 1e9), st.booleans())
def test_a_range_holds_what_lies_in_it(value, low, length, closed):
    inside = np.isfinite(value) and low <= value <= low + length and (closed or value != low)
    assert Range(low, low + length, closed).holds(value) == inside


def test_per_run_and_shared_settings_part_a_description():
    """What shapes the program against what is data along the run axis: the latter compiles nothing anew."""
    assert set(mlp().per_run()) == {"activation", "init", "gain"}
    assert set(mlp().static()) == {"widths"}
    assert set(adam(learning_rate=1).per_run()) == {"learning_rate", "b1", "b2", "eps"}
    assert set(sgd(learning_rate=1).per_run()) == {"learning_rate"}
    assert set(sgd(learning_rate=1, momentum=0).per_run()) == {"learning_rate", "momentum"}
    assert set(sgd(learning_rate=1).static()) == {"nesterov"}
    own = optimizer(optax.adamw, learning_rate=1, nesterov=True)
    assert (own.per_run(), own.static()) == ({"learning_rate": 1.0}, {"nesterov": True})


def test_a_description_is_not_changed_in_place():
    model = mlp()
    changed = model.replace("widths", (3,), "model.widths")
    assert (model.widths, changed.widths) == ((1000,) * 5, (3,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.gain = 2.0


def test_schedules_name_the_steps_that_their_docstrings_say():
    assert every(4).steps(10) == (0, 4, 8, 10)
    assert every(5).steps(10) == (0, 5, 10)
    assert log_spaced(1).steps(2000) == (0, 1, 10, 100, 1000, 2000)
    assert log_spaced(3).steps(100) == (0, 1, 2, 5, 10, 22, 46, 100)
    assert at(3, 17).steps(20) == (0, 3, 17, 20)
    assert [schedule.steps(0) for schedule in (every(4), log_spaced(3), at())] == [(0,)] * 3
    assert at(1).replace("named", (2, 9), "record.named") == at(2, 9)


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 8), st.integers(1, 10**6))
def test_a_schedule_rises_from_0_to_the_end(total, per_decade, n):
    for schedule in (log_spaced(per_decade), every(max(n, total // 1000))):
        steps = schedule.steps(total)
        assert (steps[0], steps[-1]) == (0, total)
        assert all(a < b for a, b in itertools.pairwise(steps))


# ---- how a function is known again


def closing(*held):
    def function(s):
        return s, held

    return function


def with_default(value, keyword=0):
    def function(s, a=value, *, b=keyword):
        return s + a + b

    return function


def jitted(value, default=0):
    @jax.jit
    def function(s, a=default):
        return value * s + a

    return function


def wrapped(function, value):
    @functools.wraps(function)
    def around(s):
        return value * function(s)

    return around


def importing(value):
    import json

    def function(s):
        return json.dumps(s) * value

    return function


def power(s, exponent, *, factor=1):
    return factor * s**exponent


BIG = np.arange(5000)
ALMOST = np.where(BIG == 2500, 0, BIG)

APART = {
    "closures over 1 and 2": lambda a: closing((1, 2)[a]),
    "closures over 1 and 1.0": lambda a: closing((1, 1.0)[a]),
    "closures over a list and a tuple": lambda a: closing(([1], (1,))[a]),
    "closures over arrays": lambda a: closing((BIG, ALMOST)[a]),
    "closures over arrays of two types": lambda a: closing(BIG.astype((np.int32, np.int64)[a])),
    "closures over arrays of two shapes": lambda a: closing(BIG.reshape(((50, 100), (100, 50))[a])),
    "closures over JAX arrays": lambda a: closing(jnp.float32((1, 2)[a])),
    "closures over dicts of arrays": lambda a: closing({"w": (BIG, ALMOST)[a]}),
    "closures over closures": lambda a: closing(closing((1, 2)[a])),
    "closures over built-in functions": lambda a: closing((abs, len)[a]),
    "closures over JAX's functions": lambda a: closing((jnp.tanh, jnp.sinh)[a]),
    "defaults": lambda a: with_default((1, 2)[a]),
    "keyword defaults": lambda a: with_default(0, (1, 2)[a]),
    "compiled closures": lambda a: jitted((1, 2)[a]),
    "compiled defaults": lambda a: jitted(1, (1, 2)[a]),
    "decorators": lambda a: wrapped(my_activation, (1, 2)[a]),
    "what is decorated": lambda a: wrapped(closing((1, 2)[a]), 1),
    "partial arguments": lambda a: functools.partial(power, exponent=(1, 2)[a]),
    "partial positions": lambda a: functools.partial(power, (1, 2)[a]),
    "which argument": lambda a: functools.partial(power, exponent=1, **({"factor": 2} if a else {})),
    "partials of partials": lambda a: functools.partial(functools.partial(power, exponent=1), factor=(1, 2)[a]),
    "methods": lambda a: Described((1, 2)[a]).apply,
    "functions": lambda a: (my_activation, power)[a],
    "functions of Optax": lambda a: (optax.lion, optax.adamw)[a],
}


@pytest.mark.parametrize("case", APART)
def test_functions_that_differ_have_two_identities_and_the_same_one_has_one(case):
    one, same, other = (identity(APART[case](a)) for a in (0, 0, 1))
    assert one == same
    assert one != other


def test_an_identity_is_a_name_and_eight_digits():
    assert re.fullmatch(r"my_activation@[0-9a-f]{8}", identity(my_activation))
    assert re.fullmatch(r"closing\.function@[0-9a-f]{8}", identity(closing(1)))
    assert re.fullmatch(r"power@[0-9a-f]{8}", identity(functools.partial(power, exponent=1)))


def test_the_order_of_keywords_and_of_a_set_is_not_part_of_an_identity():
    one, other = functools.partial(power, exponent=1, factor=2), functools.partial(power, factor=2, exponent=1)
    assert identity(one) == identity(other)
    assert repr({0, 8}) != repr({8, 0})
    assert identity(closing({0, 8})) == identity(closing({8, 0}))


def test_a_path_of_this_machine_is_not_part_of_an_identity(monkeypatch):
    before = identity(importing(2))
    monkeypatch.setattr(json.__spec__, "origin", "/elsewhere/json.py")
    monkeypatch.setattr(json, "__file__", "/elsewhere/json.py")
    assert "elsewhere" in repr(json)
    assert identity(importing(2)) == before


def unfinished():
    def function(s):
        return s * later

    if function is None:
        later = 1
    return function


def endless():
    def function(s):
        return function(s)

    return function


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: lambda s: s, "a lambda has no name"),
        (lambda: closing(lambda s: s), "a lambda has no name"),
        (lambda: functools.partial(lambda s: s), "a lambda has no name"),
        (lambda: math.tanh, "the source of .* can't be read"),
        (lambda: Bent(1), "the source of .* can't be read"),
        (lambda: closing(object()), "it holds .*object.*, whose content can't be read"),
        (lambda: Bent(1).apply, "it holds .*Bent.*, whose content can't be read"),
        (unfinished, "closes over a name that has no value yet"),
        (endless, "closes over itself"),
    ],
)
def test_a_function_that_can_not_be_known_again_is_refused(made, why):
    with pytest.raises(ValueError, match=why):
        identity(made())


# ---- canonical JSON


def test_an_integer_and_a_float_in_a_float_field_are_the_same_text():
    one, other = (canonical_json(plain(sgd(learning_rate=value))) for value in (1, 1.0))
    assert one == other
    settings = {"learning_rate": 1.0, "momentum": None, "nesterov": False, "mup": "none"}
    assert json.loads(one) == {"spec": "sgd", **settings}


def test_canonical_json_sorts_its_keys_and_takes_no_room():
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": [value]})


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), st.lists(st.none() | st.booleans() | st.integers() | st.floats(-9, 9))))
def test_canonical_json_reads_back_and_does_not_depend_on_order(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(dict(reversed(value.items()))) == text


def test_a_description_in_plain_form_holds_everything_that_was_said():
    model = mlp(widths=(8, 4), activation=grid("tanh", my_activation), gain=2)
    assert plain(model) == {
        "spec": "mlp",
        "widths": [8, 4],
        "activation": {"grid": ["tanh", identity(my_activation)]},
        "init": "standard",
        "gain": 2.0,
    }


# ---- a description of one's own


@dataclasses.dataclass(frozen=True)
class noise(Spec):
    kind_of: Literal["white", "pink"] = "white"
    share: float | None = None


def test_a_new_description_is_checked_by_its_annotations_alone():
    assert noise(share=1).share == 1.0
    assert noise().defaults() == {"kind_of": "white", "share": None}
    assert refused(lambda: noise(kind_of="pnik")) == (
        "noise.kind_of: 'pnik' is not known\n  hint: 'pink'? known: pink, white"
    )
    assert refused(lambda: noise(share="much")) == "noise.share: 'much' is not a number"
