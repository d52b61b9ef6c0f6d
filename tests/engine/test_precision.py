"""Precision as a choice of the sweep: what it changes, what it leaves alone, and where it is told."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest

from glorot_jax import denoising, grid, load, mlp, plan, run
from glorot_jax.data import dataset
from glorot_jax.engine import segment
from glorot_jax.engine.planning.plan import cohorts, per_run, setup
from glorot_jax.engine.sweep import from_resolved
from glorot_jax.errors import InputError
from glorot_jax.kernels import GENERAL
from tests.engine import networks
from tests.engine.small import parameters, records, sweep

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


def products(described, kernel: str = GENERAL) -> dict[str, list[str]]:
    """What the products of a sweep's update ask for, in order, for each precision in it."""
    found = {}
    for cohort in cohorts(described.runs()):
        one = {name: array[0] for name, array in per_run(cohort).items()}
        made = setup(cohort, dataset.build(cohort.runs[0].data))
        update = segment._Run(made, segment._Network(made, one), one, kernel=kernel)
        _, state, *batch = update._abstract(one)
        found[cohort.runs[0].precision] = asked(jax.jit(update.step).lower(state, one, *batch).as_text())
    return found


def asked(program: str) -> list[str]:
    """Convolutions have no word for bfloat16: of exactly rounded factors the default of all platforms is enough."""
    found = []
    for line in program.splitlines():
        if "stablehlo.dot_general" in line or "convolution(" in line:
            word = re.search(r"precision(?: = \[| )(\w+)", line)[1]
            found.append(
                "BF16" if "precision_type = bf16" in line or ("convolution(" in line and word == "DEFAULT") else word
            )
    return found


@pytest.mark.parametrize("kind", ["mlp", *networks.MODELS])
def test_every_product_of_an_update_is_in_the_precision_of_the_sweep(kind):
    changed = {"precision": grid(*PRECISIONS)}
    small = sweep(data=networks.pictures(), **changed) if kind == "mlp" else networks.sweep(kind, **changed)
    found = products(small)
    count = len(found["float32"])
    assert count >= 5
    assert found == {"float32": ["HIGHEST"] * count, "tensorfloat32": ["HIGH"] * count, "bfloat16": ["BF16"] * count}


def test_so_is_every_product_of_an_update_layer_by_layer():
    found = products(sweep(data=networks.pictures(), precision=grid(*PRECISIONS)), "xla")
    assert found == {"float32": ["HIGHEST"] * 5, "tensorfloat32": ["HIGH"] * 5, "bfloat16": ["BF16"] * 5}


def test_the_default_leaves_every_identity_as_it_was():
    (cohort,) = cohorts(sweep().runs())
    assert [r.id for r in sweep().runs()][:3] == ["85a81c93369d", "acdf3a7eefa5", "1656b9ba2ecc"]
    assert cohort.shard_id == "a94ded35-3b16dd23"
    assert sweep(precision="float32") == sweep()
    ids = {precision: {r.id for r in sweep(precision=precision).runs()} for precision in PRECISIONS}
    assert len(set().union(*ids.values())) == 3 * len(sweep().runs())
    assert len({c.id for c in cohorts(sweep(precision=grid(*PRECISIONS)).runs())}) == 3
    chosen = sweep(precision="bfloat16")
    assert from_resolved(json.loads(json.dumps(chosen.resolved()))).runs() == chosen.runs()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "float23",
            "sweep.precision: 'float23' is not known\n  hint: 'float32'? known: bfloat16, float32, tensorfloat32",
        ),
        (16, "Sweep.precision: 16 is not 'float32' | 'tensorfloat32' | 'bfloat16'"),
    ],
)
def test_another_value_gets_one_line(value, said):
    with pytest.raises(InputError) as error:
        sweep(precision=value)
    assert str(error.value).lower() == said.lower()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("precisions")
    model = mlp(widths=(8,), activation="tanh", init="normalized")
    few = {"data": networks.pictures(), "seeds": (0,), "probes": ("evaluation",)}
    described = sweep(model=model, precision=grid("float32", "bfloat16"), **few)
    run(described, out)
    return described, out


def by_precision(described, found):
    return [found[r.id] for name in ("float32", "bfloat16") for r in described.runs() if r.precision == name]


def test_probes_measure_the_float32_network(trained):
    """Before the first update both networks are one, and so are their records; only what they learn differs."""
    described, out = trained
    exact, rough = by_precision(described, records(out))
    for name, values in exact.items():
        if values.ndim:
            assert values[0].tobytes() == rough[name][0].tobytes(), name
    assert exact["train_loss"][1] != rough["train_loss"][1]
    assert rough["train_loss"][-1] == pytest.approx(exact["train_loss"][-1], abs=0.01)
    assert rough["train_loss"][-1] < rough["train_loss"][0] - 0.03
    weights = [state["params/layers.0.kernel"] for state in by_precision(described, parameters(out))]
    assert {w.dtype for w in weights} == {np.dtype(np.float32)}
    assert 1e-6 < np.abs(weights[0] - weights[1]).max() < 1e-2


def test_it_is_recorded_and_planned(trained):
    described, out = trained
    assert dict(load(out).runs["precision"]) == {r.id: r.precision for r in described.runs()}
    told = {json.loads(path.read_text())["cohort"]["precision"] for path in out.glob("shards/*/manifest.json")}
    assert told == {"float32", "bfloat16"}
    environment = json.loads((out / "environment.json").read_text())
    assert environment["precision"] == {"float32": "float32", "bfloat16": "bfloat16"}
    planned = plan(described.with_value("precision", grid("float32", "tensorfloat32")), quick=True)
    (line,) = [line.strip() for line in planned.text().splitlines() if "matrix products:" in line]
    assert line == "an update's matrix products: float32 (tensorfloat32 is not known to a CPU)"
    assert [row["precision"] for row in planned.to_dict()["cohorts"]] == ["float32", "tensorfloat32"]


def test_pre_training_has_it_too():
    described = sweep(pretraining=denoising(steps=9, learning_rate=0.1), precision="bfloat16")
    (cohort,) = cohorts(described.runs())
    one = {name: array[0] for name, array in per_run(cohort).items()}
    program = segment.Draft(setup(cohort, dataset.build(cohort.runs[0].data)), one).program(1)
    update = program.segment.__self__
    _, state, *batch = update._abstract(one)
    text = jax.jit(lambda *a: update.pretrain(0, *a)).lower(state, one, *batch).as_text()
    *rest, last = asked(text)
    assert rest == ["BF16"] * len(rest)
    assert len(rest) == 3  # there, back, and the error's way; gradients are sums
    assert last == "HIGHEST"  # the mean of the errors, which is no product of the network's
