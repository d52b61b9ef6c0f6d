"""Bounds on accelerators: counted operations and bytes, and the sums that are made of them."""

from __future__ import annotations

import json

import pytest

from glorot_jax import adam, grid, mlp, plan, sgd, shapeset
from glorot_jax.cli import main
from glorot_jax.engine import segment
from glorot_jax.engine.planning import bounds
from glorot_jax.errors import InputError
from tests.engine.small import sweep

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DATA = shapeset(validation=1, test=30)
PARAMETERS = 5_038_009


@pytest.fixture(scope="module")
def paper():
    """The paper's network on Shapeset, planned: five million updates of two times three runs."""
    both = (sgd(learning_rate=0.1), adam(learning_rate=0.1))
    made = sweep(data=DATA, model=mlp(), optimizer=grid(*both), steps=5_000_000, probes=("evaluation",))
    return plan(made, quick=True, run_steps_per_second=1000.0)


def test_operations_of_an_update_are_those_of_its_matrix_products(paper):
    """Two for each weight and example, three times: forth, back, and for the gradient; but not back to the inputs."""
    weights = 1024 * 1000 + 4 * 1000**2 + 1000 * 9
    products = 2 * 10 * (3 * weights - 1024 * 1000)
    plain, other = (row.work for row in paper.rows)
    assert plain.counted
    assert products < plain.flops < 1.06 * products
    assert plain.flops == pytest.approx(6 * PARAMETERS * 10, rel=0.07), "the rule of thumb"
    assert 5 * PARAMETERS < other.flops - plain.flops < 20 * PARAMETERS, "Adam's own arithmetic"


def test_bytes_of_an_update_are_parameters_twice_and_all_state_twice(paper):
    """Read forth and back; read and written: four times four bytes a parameter, eight times for Adam's three arrays."""
    plain, other = (row.work for row in paper.rows)
    assert plain.moved == pytest.approx(16 * PARAMETERS, rel=1e-4)
    assert other.moved == pytest.approx(32 * PARAMETERS, rel=1e-4)


def test_a_plan_says_them_for_each_cohort_and_for_all(paper):
    said = json.loads(json.dumps(paper.to_dict()))
    for row, told in zip(paper.rows, said["cohorts"], strict=True):
        assert told["flops_per_update"] == row.work.flops
        assert told["flops_counted_by"] == "compiler"
        assert told["bytes_moved_per_update"] == row.work.moved
    assert said["bounds"]["run_steps"] == 2 * 3 * 5_000_000
    assert said["bounds"]["stated"] == {"run_steps_per_second": 1000.0, "hours": pytest.approx(3e7 / 1000 / 3600)}
    text = paper.text()
    assert "at 1,000 run-steps a second, as stated: 8.3 h" in text
    assert all(chip.name in text for chip in bounds.ACCELERATORS)
    assert max(map(len, text.splitlines())) <= 80


def test_the_bound_is_the_longer_of_two_times_for_each_part():
    """One part of 100 run-steps takes 2 s of arithmetic and 1 s of traffic, one of 50 takes 1 s and 5 s."""
    chip = bounds.ACCELERATORS[0]
    heavy = bounds.Work(10, 10, 0.02 * chip.flops, True, 0.01 * chip.bandwidth, 0.06 * chip.memory)
    wide = bounds.Work(5, 10, 0.02 * chip.flops, True, 0.1 * chip.bandwidth, 0.1 * chip.memory)
    found = bounds.table([heavy, wide], None)
    first = found["accelerators"][0]
    assert first["hours"] * 3600 == pytest.approx(2 + 5)
    assert first["seconds_per_run_step"] == pytest.approx(7 / 150)
    assert first["bound_by"] == "bandwidth"
    assert first["chips_for_state"] == 2, "1.1 memories"
    assert found["flops"] == pytest.approx(3 * chip.flops)
    assert found["bytes_moved"] == pytest.approx(6 * chip.bandwidth)
    assert "stated" not in found
    assert bounds.table([heavy], None)["accelerators"][0]["bound_by"] == "arithmetic"
    assert "      of which the state fills 2" in bounds.text(found)


def test_where_the_compiler_does_not_count_the_rule_of_thumb_is_named(monkeypatch):
    monkeypatch.setattr(segment._Run, "update_flops", lambda *_: None)
    made = plan(sweep(data=DATA, probes=("evaluation",)), quick=True)
    assert made.rows[0].work.flops == 6 * made.rows[0].param_count * 10
    assert made.to_dict()["cohorts"][0]["flops_counted_by"] == "6 × parameters × batch"
    assert "compiler" not in made.text()


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999.4, "999 B"), (999.6, "1 kB"), (80_608_144, "80.6 MB"), (2.5e20, "250 EB"), (1e24, "1e+06 EB")],
)
def test_large_numbers_are_said_with_three_digits(count, said):
    assert bounds.said(count, "B") == said


@pytest.mark.parametrize("speed", [0, -1.0, float("nan"), float("inf")])
def test_a_throughput_that_is_none_is_refused(speed, capsys):
    with pytest.raises(InputError, match=r"run_steps_per_second: .* is not a finite number > 0"):
        plan(sweep(data=DATA), quick=True, run_steps_per_second=speed)
    assert main(["plan", "quickstart", "--quick", "--run-steps-per-second", "0"]) == 2
