"""From one description to its runs: which there are, what they are called, and what stays when it is edited."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import (
    Sweep,
    adam,
    at,
    denoising,
    every,
    grid,
    load_sweep,
    log_spaced,
    mlp,
    optimizer,
    sgd,
    shapeset,
    specs,
)
from glorot_jax.config import field
from glorot_jax.engine.sweep import SPECS, from_resolved, known_sweeps, read_file
from glorot_jax.errors import InputError
from tests.conftest import ROOT


def described(**changes) -> Sweep:
    usual = {
        "name": "a",
        "data": shapeset(),
        "model": mlp(),
        "optimizer": sgd(learning_rate=0.1),
        "seeds": (0,),
        "steps": 100,
    }
    return Sweep(**usual | changes)


def swept(**changes) -> Sweep:
    """2 × 3 × 2 configurations, 2 seeds."""
    usual = {
        "model": mlp(activation=grid("sigmoid", "tanh"), gain=grid(0.5, 1, 2)),
        "optimizer": sgd(learning_rate=grid(0.1, 0.01)),
        "seeds": (0, 1),
    }
    return described(**usual | changes)


def ids(sweep: Sweep) -> list[str]:
    return [run.id for run in sweep.runs()]


def values(sweep: Sweep, *paths: str) -> list[tuple]:
    return [tuple(run.config[path] for path in paths) for run in sweep.runs()]


def refused(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


def my_activation(s):
    return s


def scaled(factor):
    def activation(s):
        return factor * s

    return activation


def too_bold(config):
    return config["optimizer.learning_rate"] > 0.05 and config["model.gain"] > 1


# ---- which runs there are


def test_runs_are_all_combinations_in_the_order_of_declaration_seeds_innermost():
    sweep = swept(data=shapeset(size=grid(16, 32)), batch_size=grid(1, 10))
    truth = itertools.product((16, 32), ("sigmoid", "tanh"), (0.5, 1.0, 2.0), (0.1, 0.01), (1, 10), (0, 1))
    paths = ("data.size", "model.activation", "model.gain", "optimizer.learning_rate", "batch_size", "seed")
    assert values(sweep, *paths) == list(truth)
    assert sweep.varying() == paths
    assert [run.seed for run in sweep.runs()] == [run.config["seed"] for run in sweep.runs()]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_the_number_of_runs_is_the_product_of_grids_and_seeds(gains, rates, sizes, seeds):
    sweep = described(
        model=mlp(gain=grid(*range(1, gains + 1))),
        optimizer=sgd(learning_rate=grid(*(10.0**-k for k in range(rates)))),
        batch_size=grid(*range(1, sizes + 1)),
        seeds=range(seeds),
    )
    assert len(set(ids(sweep))) == len(sweep.runs()) == gains * rates * sizes * seeds


def test_a_grid_of_descriptions_holds_grids_of_its_own():
    sweep = described(
        optimizer=grid(sgd(learning_rate=grid(0.1, 0.2)), adam(learning_rate=0.001, b1=grid(0.8, 0.9, 1)))
    )
    kinds = [run.config["optimizer"] for run in sweep.runs()]
    assert kinds == ["sgd"] * 2 + ["adam"] * 3
    assert [type(run.optimizer) for run in sweep.runs()] == [sgd] * 2 + [adam] * 3
    assert [run.optimizer.b1 for run in sweep.runs()[2:]] == [0.8, 0.9, 1.0]


def test_every_setting_may_be_a_grid():
    sweep = described(
        probes=grid(("evaluation",), ("evaluation", "gradients")),
        record=grid(every(5), at(7)),
        steps=grid(10, 20),
        order=grid("paired", "independent"),
        loss=grid("nll", "quadratic"),
        examples=grid(3, 30),
        jacobian_examples=grid(2, 3),
    )
    assert len(set(ids(sweep))) == 2**7


def test_excluding_by_a_dict_leaves_out_what_matches_all_of_it():
    sweep = swept(exclude=[{"model.activation": "sigmoid", "model.gain": 2}, {"optimizer.learning_rate": 0.01}])
    truth = [
        (f, g, r, s)
        for f, g, r, s in itertools.product(("sigmoid", "tanh"), (0.5, 1.0, 2.0), (0.1, 0.01), (0, 1))
        if not (f == "sigmoid" and g == 2) and r != 0.01
    ]
    assert values(sweep, "model.activation", "model.gain", "optimizer.learning_rate", "seed") == truth
    assert set(ids(sweep)) < set(ids(swept()))


def test_excluding_by_a_function_leaves_out_where_it_holds():
    sweep = swept(exclude=[too_bold])
    kept = [run.id for run in swept().runs() if not (run.optimizer.learning_rate > 0.05 and run.model.gain > 1)]
    assert ids(sweep) == kept
    assert len(kept) == 20


def test_excluding_knows_lists_functions_and_kinds():
    model = mlp(widths=grid((8, 8), (4,)), activation=grid("tanh", my_activation))
    both = described(model=model, optimizer=grid(sgd(learning_rate=1), adam(learning_rate=1)))
    rules = [{"model.widths": (8, 8)}, {"model.activation": my_activation}, {"optimizer": "adam"}]
    (left,) = dataclasses.replace(both, exclude=rules).runs()
    assert (left.model.widths, left.model.activation, type(left.optimizer)) == ((4,), "tanh", sgd)


def test_variants_are_runs_in_the_order_of_the_list():
    sweep = described(
        model=mlp(widths=(8,)),
        seeds=(5, 3),
        variants=[
            {"model.activation": "relu", "model.init": "he_normal"},
            {},
            {"optimizer": adam(learning_rate=0.5), "steps": 7},
            {"model.gain": grid(2, 3)},
        ],
    )
    paths = ("model.activation", "model.init", "model.gain", "optimizer", "steps", "seed")
    truth = [
        ("relu", "he_normal", 1.0, "sgd", 100),
        ("tanh", "standard", 1.0, "sgd", 100),
        ("tanh", "standard", 1.0, "adam", 7),
        ("tanh", "standard", 2.0, "sgd", 100),
        ("tanh", "standard", 3.0, "sgd", 100),
    ]
    assert values(sweep, *paths) == [(*t, seed) for t in truth for seed in (5, 3)]


def test_a_variant_is_the_run_that_a_grid_would_give():
    grids = swept(seeds=(0,))
    names = ("model.activation", "model.gain", "optimizer.learning_rate")
    listed = described(variants=[dict(zip(names, chosen, strict=True)) for chosen in values(grids, *names)])
    assert ids(listed) == ids(grids)


WRONG = {
    "an unknown path in a rule": (
        lambda: swept(exclude=[{"model.activatoin": "tanh"}]),
        "sweep.exclude: 'model.activatoin' is not known\n  hint: 'model.activation'? known: batch_size, ",
    ),
    "a rule that is none": (lambda: swept(exclude=["tanh"]), "sweep.exclude: 'tanh' is neither a dict of paths and"),
    "one rule without a list": (
        lambda: swept(exclude={"steps": 1}),
        "sweep.exclude: it is a list of dicts or functions",
    ),
    "one function without a list": (
        lambda: swept(exclude=too_bold),
        "sweep.exclude: it is a list of dicts or functions",
    ),
    "a lambda as a rule": (lambda: swept(exclude=[lambda c: False]), "sweep.exclude: a lambda has no name"),
    "nothing left": (lambda: swept(exclude=[{"steps": 100}]), "sweep.exclude: it leaves no run"),
    "variants beside a grid": (lambda: swept(variants=[{}]), "sweep.variants: it can't stand beside a grid"),
    "a variant that is none": (lambda: described(variants=[{}, 3]), "sweep.variants[1]: 3 is not a dict of paths"),
    "no variant": (lambda: described(variants=[]), "sweep.variants: () is empty"),
    "variants that are no list": (lambda: described(variants=3), "sweep.variants: it is a list of dicts"),
    "a variant twice": (lambda: described(variants=[{}, {"model.gain": 1}]), "sweep: a configuration stands twice: {"),
    "a variant's path": (
        lambda: described(variants=[{"model.gian": 1}]),
        "model.gian: 'gian' is not known\n  hint: 'gain'?",
    ),
    "a variant's value": (
        lambda: described(variants=[{"model.gain": 0}]),
        "model.gain: 0.0 is not a finite number > 0",
    ),
    "descriptions that are the same": (
        lambda: described(optimizer=grid(sgd(learning_rate=grid(1, 2)), sgd(learning_rate=2))),
        "sweep: a configuration stands twice: {",
    ),
    "a seed twice": (lambda: described(seeds=(1, 2, 1)), "sweep.seeds: 1 stands twice"),
    "no seed": (lambda: described(seeds=()), "sweep.seeds: () is empty"),
    "seeds as a grid": (lambda: described(seeds=grid(0, 1)), "sweep.seeds: it can't be a grid\n  hint: seeds=range(3)"),
    "a seed below": (lambda: described(seeds=(-1,)), "Sweep.seeds: -1 is not an integer from 0 to 4294967295"),
    "a seed above": (
        lambda: described(seeds=(2**32,)),
        "Sweep.seeds: 4294967296 is not an integer from 0 to 4294967295",
    ),
    "no probe": (lambda: described(probes=()), "sweep.probes: () is empty"),
    "a probe twice": (lambda: described(probes=("gradients", "gradients")), "sweep.probes: 'gradients' stands twice"),
    "an unknown probe": (
        lambda: described(probes=("gradient",)),
        "Sweep.probes: 'gradient' is not known\n  hint: 'gradients'?",
    ),
    "a folder in the name": (lambda: described(name="a/b"), "sweep.name: 'a/b' can't name a folder"),
    "a hidden name": (lambda: described(name=".a"), "sweep.name: '.a' can't name a folder"),
    "a name as a grid": (lambda: described(name=grid("a", "b")), "sweep.name: it can't be a grid"),
    "steps below": (lambda: described(steps=-1), "Sweep.steps: -1 is not an integer ≥ 0"),
    "a record after the end": (lambda: described(record=at(101)), "record: step 101 is after the last, 100"),
    "no model": (lambda: described(model="mlp"), "Sweep.model: 'mlp' is not mlp(…)"),
    "a wrong kind": (lambda: described(optimizer=mlp()), "Sweep.optimizer: mlp("),
    "no number": (lambda: described(steps=10**400), "Sweep.steps: 1000"),
    **{
        f"a budget of {wrong!r}": (
            lambda wrong=wrong: described(probe_budget=wrong),
            f"Sweep.probe_budget: {wrong!r} is not a number above 0 and below 1\n  hint: 0.1 lets",
        )
        for wrong in (0, 1, -0.1, 1.5, math.nan, math.inf, True, "0.1", (0.1,))
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_sweep_is_refused_in_one_line_when_it_is_built(case):
    call, said = WRONG[case]
    assert refused(call).startswith(said)


# ---- who they are


def test_an_id_is_the_digest_of_what_is_not_at_its_default():
    """So a new setting with a default changes no identity."""
    model = mlp(widths=(8, 4), activation="tanh", gain=2)
    (run,) = described(model=model, batch_size=7, record=log_spaced(3), data=shapeset(size=32), seeds=(5,)).runs()
    telling = {
        "batch_size": 7,
        "data": {"kind": "shapeset"},
        "model": {"gain": 2.0, "kind": "mlp", "widths": [8, 4]},
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
        "seed": 5,
        "steps": 100,
    }
    text = json.dumps(telling, sort_keys=True, separators=(",", ":"))
    assert run.id == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert "data.examples" not in run.config, "an infinite stream's cohorts keep their names"


def test_ids_stay_when_a_description_gains_a_field_at_its_default():
    @dataclasses.dataclass(frozen=True)
    class mlp_of_tomorrow(mlp):
        dropout: float = field(default=0.0, per_run=True)

    mlp_of_tomorrow.__name__ = "mlp"
    assert ids(described(model=mlp_of_tomorrow(gain=2))) == ids(described(model=mlp(gain=2)))
    assert ids(described(model=mlp_of_tomorrow(dropout=0.5))) != ids(described())


def test_ids_stay_when_a_sweep_is_renamed_reordered_or_extended():
    before = swept()
    assert ids(swept(name="other")) == ids(before)
    turned = swept(
        model=mlp(gain=grid(2, 0.5, 1), activation=grid("tanh", "sigmoid")),
        optimizer=sgd(learning_rate=grid(0.01, 0.1)),
        seeds=(1, 0),
    )
    assert sorted(ids(turned)) == sorted(ids(before))
    assert ids(turned) != ids(before)
    more = swept(
        model=mlp(activation=grid("relu", "sigmoid", "tanh"), gain=grid(0.5, 1, 2, 3), init=grid("standard", "sparse")),
        seeds=range(4),
    )
    assert set(ids(before)) < set(ids(more))
    assert set(ids(swept(exclude=[{"model.gain": 1}]))) < set(ids(before))


CHOICES = {
    "data.scaling": ("symmetric", "unit"),
    "data.size": (16, 32),
    "data.validation": (10, 10_000),
    "data.test": (10, 10_000),
    "model.widths": ((8,), (8, 8), (8, 9)),
    "model.activation": ("tanh", "relu", my_activation, scaled(1), scaled(2)),
    "model.init": ("standard", "normalized"),
    "model.gain": (0.5, 1.0, 1.0000000000000002),
    "optimizer": (sgd(learning_rate=0.1), sgd(learning_rate=0.1, momentum=0), sgd(learning_rate=0.1, nesterov=True),
                  adam(learning_rate=0.1), adam(learning_rate=0.1, b1=0.8), optimizer(optax.lion, learning_rate=0.1),
                  optimizer(optax.lion, learning_rate=0.1, b1=0.8), optimizer(optax.adamw, learning_rate=0.1)),
    "seeds": ((0,), (1,), (2**32 - 1,)),
    "steps": (100, 101),
    "batch_size": (1, 10),
    "loss": ("nll", "quadratic"),
    "record": (log_spaced(3), log_spaced(2), every(3), at(3), at(2, 3), at()),
    "probes": (("evaluation",), ("gradients",), ("evaluation", "gradients")),
    "examples": (30, 300),
    "jacobian_examples": (2, 4),
    "probe_budget": (None, 0.1, 0.2),
    "pretraining": (None, denoising(steps=9, learning_rate=0.1), denoising(steps=8, learning_rate=0.1),
                    denoising(steps=9, learning_rate=0.2), denoising(steps=9, learning_rate=0.1, noise=0.5)),
    "order": ("paired", "independent"),
    "precision": ("float32", "tensorfloat32", "bfloat16"),
}  # fmt: skip
settings_of_a_run = st.fixed_dictionaries({path: st.integers(0, len(v) - 1) for path, v in CHOICES.items()})


def with_choices(choices: dict[str, int]) -> Sweep:
    sweep = described()
    for path, index in choices.items():
        sweep = sweep.with_value(path, CHOICES[path][index])
    return sweep


@pytest.mark.parametrize("path", CHOICES)
def test_ids_differ_when_one_setting_differs(path):
    found = [ids(with_choices({path: i}))[0] for i in range(len(CHOICES[path]))]
    assert len(set(found)) == len(found)


def test_every_setting_of_a_run_is_among_those_tried():
    (run,) = described().runs()
    families = {"data", "model"}
    tried = {"seed" if path == "seeds" else path for path in CHOICES} | families
    tried |= {path for path in run.config if path.startswith(("optimizer.", "record."))}
    assert set(run.config) == tried


def test_a_sweep_without_pretraining_has_the_ids_that_it_had_before_there_was_any():
    plain = Sweep("x", data=shapeset(), model=mlp(widths=(8, 8)), optimizer=sgd(0.1), seeds=(0,), steps=10)
    assert ids(plain) == ["cd24f085a553"]
    assert ids(plain.with_settings(["pretraining=None"])) == ids(plain)


def test_pretraining_is_set_named_and_refused_like_any_other_part():
    before = denoising(steps=5, learning_rate=grid(0.01, 0.1))
    both = described(optimizer=sgd(learning_rate=grid(0.1, 0.2)), pretraining=grid(None, before))
    names = [run.name for run in both.runs()]
    assert names[0] == "lr0.1-nopretraining-s0"
    assert names[2] == "lr0.1-denoising-presteps5-prelr0.1-noise0.25-s0"
    assert len(set(names)) == 6
    changed = both.with_settings(["pretraining.noise=grid(0.1, 0.5)", "pretraining.steps=7"])
    assert len(changed.runs()) == 2 * (1 + 2 * 2)
    assert {run.config.get("pretraining.steps") for run in changed.runs()} == {None, 7}
    asked = described().with_settings(["pretraining=denoising(steps=3, learning_rate=grid(0.1, 0.2))"])
    assert [run.pretraining for run in asked.runs()] == [denoising(steps=3, learning_rate=r) for r in (0.1, 0.2)]
    for wrong, line in (
        ("pretraining.noise=1.5", "pretraining.noise: 1.5 is not a finite number from 0 to 1"),
        ("pretraining.steps=0", "pretraining.steps: 0 is not an integer from 1 to"),
        ("pretraining.nois=0.5", "pretraining.nois: 'nois' is not known\n  hint: 'noise'?"),
        ("pretraining=0.5", "pretraining: 0.5 is not denoising(…)"),
    ):
        with pytest.raises(InputError) as caught:
            both.with_settings([wrong])
        assert str(caught.value).startswith(line)
    with pytest.raises(InputError, match=r"pretraining\.noise: .* is not known"):
        described().with_settings(["pretraining.noise=0.5"])


@settings(deadline=None, max_examples=60)
@given(settings_of_a_run, settings_of_a_run, st.sets(st.sampled_from(sorted(CHOICES)), max_size=3))
def test_ids_are_the_same_just_when_all_settings_are(one, other, differing):
    other = one | {path: other[path] for path in differing}
    assert (ids(with_choices(one)) == ids(with_choices(other))) == (one == other)


def test_an_id_does_not_depend_on_the_process(tmp_path):
    script = "from tests.engine.test_sweep import ids, swept, mlp, my_activation\n"
    script += "print(*ids(swept(model=mlp(activation=my_activation))))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said.stdout.split() == ids(swept(model=mlp(activation=my_activation)))


# ---- what they are called


def test_a_name_holds_only_what_varies():
    assert [run.name for run in described(seeds=range(2)).runs()] == ["s0", "s1"]
    sweep = described(
        model=mlp(activation=grid("tanh", my_activation), init="normalized", widths=grid((8, 8), (8, 4))),
        optimizer=sgd(learning_rate=grid(0.1, 3e-5)),
        batch_size=grid(10, 20),
        seeds=(3,),
    )
    names = [run.name for run in sweep.runs()]
    assert names[:4] == [
        "2x8-tanh-lr0.1-batch10-s3",
        "2x8-tanh-lr0.1-batch20-s3",
        "2x8-tanh-lr3e-05-batch10-s3",
        "2x8-tanh-lr3e-05-batch20-s3",
    ]
    assert names[-1] == "8x4-my_activation-lr3e-05-batch20-s3"
    assert len(set(names)) == 16


def test_names_are_unique_even_where_functions_and_digits_look_the_same():
    """Thousands of look-alikes: a few digits of the ids would not tell them all apart."""
    model = mlp(activation=grid(*map(scaled, range(60))))
    for sweep in (described(model=model, seeds=range(200)), described(model=mlp(gain=grid(1.00000001, 1.00000002)))):
        names = [run.name for run in sweep.runs()]
        assert len(set(names)) == len(names)
        assert max(map(len, names)) < 40


# ---- settings from the command line


@pytest.mark.parametrize(
    ("setting", "path", "found"),
    [
        ("steps=2000", "steps", [2000]),
        ("steps = 2000", "steps", [2000]),
        ("model.widths=64,64", "model.widths", [[64, 64]]),
        ("model.widths=64", "model.widths", [[64]]),
        ("model.widths=(64,)", "model.widths", [[64]]),
        ("model.widths=grid((8,),(8,8))", "model.widths", [[8], [8, 8]]),
        ("model.activation=softsign", "model.activation", ["softsign"]),
        ("model.activation='softsign'", "model.activation", ["softsign"]),
        ("model.activation=grid(softsign,relu)", "model.activation", ["softsign", "relu"]),
        ("optimizer.learning_rate=grid(0.1,0.2)", "optimizer.learning_rate", [0.1, 0.2]),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", [0.001]),
        ("optimizer.momentum=None", "optimizer.momentum", [None]),
        ("optimizer.nesterov=True", "optimizer.nesterov", [True]),
        ("optimizer=adam(learning_rate=0.1)", "optimizer", ["adam"]),
        ("optimizer=adam(learning_rate=grid(0.1,0.2))", "optimizer.learning_rate", [0.1, 0.2]),
        ("seeds=range(5)", "seed", [0, 1, 2, 3, 4]),
        ("seeds=range(4,9,2)", "seed", [4, 6, 8]),
        ("seeds=3,1", "seed", [3, 1]),
        ("probes=evaluation,gradients", "probes", [["evaluation", "gradients"]]),
        ("record=at(3,5)", "record.named", [[3, 5]]),
        ("record=every(7)", "record.n", [7]),
        ("record.per_decade=2", "record.per_decade", [2]),
        ("data.scaling=unit", "data.scaling", ["unit"]),
        ("data=shapeset(size=16)", "data.size", [16]),
        ("data.examples=100_000", "data.examples", [100_000]),
    ],
)
def test_a_setting_is_put_in_place(setting, path, found):
    sweep = described().with_settings([setting])
    assert [run.config[path] for run in sweep.runs()] == found
    assert sweep.settings == (setting,)


def test_settings_follow_each_other_and_leave_the_sweep_as_it_was():
    before = swept()
    after = before.with_settings(["steps=5", "record=at(2)", "record.named=3,4", "steps=6"])
    assert (after.steps, after.record, after.settings[-1]) == (6, at(3, 4), "steps=6")
    assert (before.steps, before.settings) == (100, ())
    assert ids(after) == ids(swept(steps=6, record=at(3, 4)))
    assert before.with_settings([]) is before


def test_a_setting_reaches_every_description_of_a_grid():
    sweep = described(optimizer=grid(sgd(learning_rate=0.1), adam(learning_rate=0.1)))
    assert values(sweep.with_settings(["optimizer.learning_rate=0.3"]), "optimizer", "optimizer.learning_rate") == [
        ("sgd", 0.3),
        ("adam", 0.3),
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps", "--set steps: it has no value\n  hint: write --set steps=2000"),
        ("stpes=3", "stpes: 'stpes' is not known\n  hint: 'steps'? known: batch_size, "),
        ("steps=many", "steps: 'many' is not an integer ≥ 0"),
        ("steps=1.5", "steps: 1.5 is not an integer ≥ 0"),
        ("steps=-3", "steps: -3 is not an integer ≥ 0"),
        ("steps=", "steps: '' is not an integer ≥ 0"),
        ("model.widhts=3", "model.widhts: 'widhts' is not known\n  hint: 'widths'? known: activation, "),
        ("model.widths=64,0", "model.widths: 0 is not an integer ≥ 1"),
        ("model.activation=tanhh", "model.activation: 'tanhh' is not known\n  hint: 'tanh'? known: "),
        ("modle.widths=3", "modle.widths: 'modle.widths' is not known\n  hint: 'model.widths'? known: "),
        ("optimizer.learning_rate=grid()", "grid: () is empty"),
        ("optimizer.learning_rate=gird(0.1)", "optimizer.learning_rate: 'gird' is not known\n  hint: 'grid'? known: "),
        ("optimizer=adam", "optimizer: 'adam' is not sgd(…) | adam(…) | rmsprop(…)"),
        ("optimizer=adam()", "optimizer: adam: "),
        ("optimizer=mlp()", "optimizer: mlp("),
        ("seeds=range(0)", "sweep.seeds: () is empty"),
        ("seeds=range(1,5,0)", "seeds: range: "),
        ("seeds=range(a)", "seeds: range: "),
        ("record=at(101)", "record: step 101 is after the last, 100"),
        ("record.per_decade=0", "record.per_decade: 0 is not an integer ≥ 1"),
        ("source=here", "source: 'source' is not known"),
        ("settings=none", "settings: 'settings' is not known"),
        ("seeds.a=1", "seeds.a: 'seeds.a' is not known"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_typed(setting, said):
    assert refused(lambda: described().with_settings([setting])).startswith(said)


# ---- files

FILE = """from glorot_jax import Sweep, mlp, sgd, shapeset
{0}
sweep = Sweep(
    name="a", data=shapeset(), model=mlp(), optimizer=sgd(learning_rate=0.1), seeds=(0,), steps=100
)
"""


@pytest.mark.parametrize("form", ["relative", "absolute"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n\ny = (\n", ":3: SyntaxError: "),
        ("x = 1\nraise KeyError('a')\n", ":2: KeyError: 'a'"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", ":2: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{')\n", ":3: JSONDecodeError: "),
        ("import no_such_module_anywhere\n", ":1: ModuleNotFoundError: "),
        ("import sys\n\nsys.exit(0)\n", ":3: SystemExit: 0"),
        ("import neighbour\n", ":1: SyntaxError: "),
        ("x = 1\n", ": it defines no `sweep`\n  hint: end it with sweep = Sweep(…)"),
        ("sweep = 1\n", ": it defines no `sweep`"),
    ],
)
def test_a_file_that_fails_is_named_with_the_line(tmp_path, monkeypatch, form, text, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "neighbour.py").write_text("\n\n\nx = = 1\n")
    (tmp_path / "mine.py").write_text(text)
    name = "mine.py" if form == "relative" else str(tmp_path / "mine.py")
    assert refused(lambda: load_sweep(name)).startswith(name + said)


def test_a_wrong_value_in_a_file_is_said_as_everywhere(tmp_path):
    (tmp_path / "mine.py").write_text(FILE.format("mlp(activation='tanhh')"))
    assert refused(lambda: load_sweep(tmp_path / "mine.py")).startswith(
        "mlp.activation: 'tanhh' is not known\n  hint: "
    )


FUNCTION = """
from typing import Literal
from glorot_jax import *

def sweep(scale: Literal["small", "full"] = "small", units: int = 8):
    steps = {"small": 10, "full": 100}[scale]
    return Sweep(name="a", data=digits(), model=mlp(widths=(units,)), optimizer=sgd(learning_rate=0.1),
                 seeds=range(2), steps=steps)
"""


def test_the_arguments_of_a_function_that_returns_the_sweep_can_be_set(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FUNCTION)
    usual = load_sweep(path)
    assert (usual.steps, usual.model.widths, usual.settings, usual.source) == (10, (8,), (), str(path))
    settings = ["scale=full", "units=5", "batch_size=3"]
    changed = load_sweep(path, settings)
    assert (changed.steps, changed.model.widths, changed.batch_size) == (100, (5,), 3)
    assert changed.settings == tuple(settings)
    assert load_sweep(path, ["steps=7", "scale=full"]).steps == 7
    assert load_sweep(path, changed.settings).resolved() == changed.resolved()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("scale=ful", "scale: 'ful' is not known\n  hint: 'full'? known: full, small"),
        ("units=many", "units: 'many' is not an integer"),
        ("scal=full", "scal: 'scal' is not known\n  hint: 'scale'? "),
        ("scale", "--set scale: it has no value"),
        ("units=0", "mlp.widths: 0 is not an integer ≥ 1"),
    ],
)
def test_a_wrong_argument_of_such_a_function_is_named(tmp_path, setting, said):
    (tmp_path / "mine.py").write_text(FUNCTION)
    assert refused(lambda: load_sweep(tmp_path / "mine.py", [setting])).startswith(said)


def test_a_function_that_fails_or_lacks_a_default_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def sweep(units=0):\n    return 1 / units\n")
    assert refused(lambda: load_sweep(path)) == f"{path}:2: ZeroDivisionError: division by zero"
    path.write_text("def sweep(units):\n    return units\n")
    assert refused(lambda: load_sweep(path)).startswith(f"{path}: sweep: its argument 'units' has no default")
    path.write_text("def sweep(units=1):\n    return units\n")
    assert refused(lambda: load_sweep(path)).startswith(f"{path}: it defines no `sweep`")


def test_an_interrupt_while_a_file_is_read_stays_one(tmp_path):
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_sweep(tmp_path / "mine.py")


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(lambda: load_sweep("mine.py")) == "sweep: mine.py: no such file"
    assert refused(lambda: load_sweep(tmp_path)).startswith("sweep: ")
    assert refused(lambda: load_sweep("quikstart")).startswith(
        "sweep: 'quikstart' is not known\n  hint: 'quickstart'? "
    )


def test_a_file_is_found_by_path_and_by_name_and_the_nearest_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = load_sweep("quickstart")
    assert (ours.name, len(ours.runs())) == ("quickstart", 5 * 3 * 3)
    (tmp_path / "sweeps" / "deep").mkdir(parents=True)
    for name in ("quickstart", "deep/er"):
        (tmp_path / "sweeps" / f"{name}.py").write_text(FILE.format(""))
        assert load_sweep(name).name == "a"
        assert load_sweep(f"sweeps/{name}.py").source == f"sweeps/{name}.py"


@pytest.mark.parametrize("name", known_sweeps())
def test_every_sweep_that_comes_along_can_be_read_and_says_what_it_reached(name):
    """Its claims, where it has some, name their source and have statements of their own."""
    read = read_file(known_sweeps()[name])
    assert load_sweep(name).name == name.replace("/", "-")
    assert f"glorot run {name}\n" in read.__doc__
    assert name.startswith("glorot2010/") or "On 2 cores of an AMD EPYC" in read.__doc__
    found = getattr(read, "claims", ())
    assert all(one.source for one in found)
    assert len({(one.statement, one.measure) for one in found}) == len(found)


def test_functions_of_a_file_keep_their_identity_wherever_the_file_lies(tmp_path):
    text = FILE.format("\n\ndef bend(s):\n    return s\n\n").replace("mlp()", "mlp(activation=bend)")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.py").write_text(text)
    (tmp_path / "c.py").write_text(text.replace("return s", "return 2 * s"))
    one, other, changed = (ids(load_sweep(tmp_path / path)) for path in ("a/a.py", "b/b.py", "c.py"))
    assert one == other
    assert one != changed


# ---- as JSON and back


ROUND = {
    "plain": lambda: described(),
    "grids": lambda: swept(probes=grid(("evaluation",), ("gradients",)), exclude=[{"model.gain": 2.0}]),
    "descriptions": lambda: swept(
        optimizer=grid(sgd(learning_rate=0.1, momentum=0.5, nesterov=True), adam(learning_rate=grid(0.1, 0.2))),
        record=grid(at(3, 50), every(7), log_spaced(1)),
        data=shapeset(scaling="unit", size=grid(16, 32)),
        model=mlp(widths=grid((8,), (8, 8))),
        probe_budget=grid(None, 0.1),
        pretraining=grid(None, denoising(steps=5, learning_rate=grid(0.01, 0.1), noise=0.5)),
        order="independent",
    ),
    "variants": lambda: described(
        variants=[
            {"optimizer": adam(learning_rate=0.1)},
            {"model.gain": grid(1, 2), "record": at(2)},
            {"model.widths": 8},
        ]
    ),
    "rules with lists": lambda: described(
        model=mlp(widths=grid((8,), (8, 8)), gain=grid(1, 2)), exclude=[{"model.widths": (8,), "model.gain": 1}]
    ),
}


@pytest.mark.parametrize("case", ROUND)
def test_a_resolved_sweep_gives_the_same_runs_back(case):
    sweep = ROUND[case]()
    text = json.dumps(sweep.resolved(), allow_nan=False)
    back = from_resolved(json.loads(text))
    assert ids(back) == ids(sweep)
    assert [run.config for run in back.runs()] == [run.config for run in sweep.runs()]
    assert [run.name for run in back.runs()] == [run.name for run in sweep.runs()]
    assert json.dumps(back.resolved()) == text


def test_a_resolved_sweep_holds_no_path(tmp_path):
    (tmp_path / "mine.py").write_text(FILE.format(""))
    assert str(tmp_path) not in json.dumps(load_sweep(tmp_path / "mine.py").resolved())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": optimizer(optax.lion, learning_rate=0.1)},
        {"model": mlp(activation=my_activation)},
        {"exclude": [too_bold], "model": mlp(gain=grid(1, 2))},
    ],
)
def test_functions_of_ones_own_are_written_down_but_not_read_back(changes):
    resolved = json.loads(json.dumps(described(**changes).resolved()))
    with pytest.raises(InputError):
        from_resolved(resolved)


@settings(deadline=None, max_examples=30)
@given(settings_of_a_run, st.randoms(use_true_random=False))
def test_a_resolved_run_is_read_back_whatever_its_settings(choices, chance: random.Random):
    sweep = with_choices({path: i for path, i in choices.items() if path != "model.activation"})
    if isinstance(sweep.optimizer, optimizer):
        sweep = dataclasses.replace(sweep, optimizer=chance.choice((sgd, adam))(learning_rate=1))
    assert ids(from_resolved(json.loads(json.dumps(sweep.resolved())))) == ids(sweep)


# ---- what is needed for it


def test_describing_and_reading_a_sweep_does_not_import_jax(tmp_path):
    """The plan's first line, an error, a completion come before JAX has started."""
    (tmp_path / "mine.py").write_text(FILE.format("") + "sweep.with_settings(['model.activation=grid(tanh,relu)'])\n")
    script = (
        "import sys, glorot_jax\n"
        "from glorot_jax import grid, optimizer\n"
        "sweep = glorot_jax.load_sweep('mine.py')\n"
        "assert len(sweep.with_settings(['model.init=grid(standard,lsuv)']).runs()) == 2\n"
        "try:\n    sweep.with_settings(['model.init=standrad'])\n"
        "except ValueError as error:\n    assert 'standard' in str(error)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'jax', 'flax', 'optax', 'pandas', 'xarray'}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("[]\n", "")


def test_what_a_setting_may_build_is_public():
    import glorot_jax

    assert set(SPECS) <= set(glorot_jax.__all__)
    assert all(getattr(glorot_jax, name) is made for name, made in SPECS.items())
    assert SPECS is specs.SPECS


def test_numpy_numbers_are_taken_for_numbers():
    one = described(seeds=np.arange(2), steps=np.int64(50), optimizer=sgd(learning_rate=grid(*np.array([0.1, 0.2]))))
    assert ids(one) == ids(described(seeds=range(2), steps=50, optimizer=sgd(learning_rate=grid(0.1, 0.2))))
