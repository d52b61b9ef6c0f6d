"""What probes cost is found on the machine, foreseen, kept within a budget, and told beside what training measured."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import at, digits, every, load, log_spaced, mlp, plan, probe, run
from glorot_jax.analysis.status import render_status, status
from glorot_jax.data.dataset import build
from glorot_jax.engine import devices, watching
from glorot_jax.engine.planning import cost
from glorot_jax.engine.planning.plan import cohorts, per_run, program_for
from glorot_jax.engine.segment import Pieces
from tests.engine.small import DiesAtThirdCommit, assert_same_bits, parameters, records, sweep


def worked(scene, rounds):
    """So many rounds of 2000 sines, one after the other."""
    start = jnp.full(2000, jnp.sum(scene.params["layers.0.kernel"]))
    return jnp.sum(jax.lax.fori_loop(0, rounds, lambda _, v: jnp.sin(v) + 1, start))


def cheap(scene):
    return worked(scene, 50)


def dear(scene):
    return worked(scene, 2000)


def large(scene):
    """Sorts 2²⁰ numbers of four bytes."""
    return jnp.sort(scene.params["layers.0.kernel"][0, 0] * jnp.arange(2**20) % 1000)[0]


def one(**changes):
    """One run whose probes are made at steps of their own."""
    probes = ("evaluation", probe(cheap, every(10)), probe(dear, every(20)))
    usual = {"data": digits(), "model": mlp(widths=(8,)), "seeds": (1,), "probes": probes, "record": every(1)}
    return sweep(**usual | changes)


def measured(made):
    (cohort,) = cohorts(made.runs())
    program, _, _ = program_for(cohort, build(cohort.runs[0].data), devices.local(), 1)
    return cost.measured(cohort, program, per_run(cohort), devices.local())


def manifest(out) -> dict:
    (path,) = out.glob("shards/*/manifest.json")
    return json.loads(path.read_text())


def state(out) -> dict:
    """The newest parameters of the only run, whatever it is called."""
    ((_, arrays),) = parameters(out).items()
    return {"": {name: array for name, array in arrays.items() if name.startswith("params")}}


# ---- measured

KNOWN = cost.Cost(2e-3, 1e-3, (0.03, 0.5), ({"a": 0.03, "b": 0.01}, {"c": 0.5}), {"a": 8, "b": None, "c": 9}, 1.0)


def test_a_probe_of_forty_times_the_work_is_found_to_be_the_dearer_one():
    found = measured(one())
    _, light, heavy = found.schedules
    assert 10 < heavy / light < 160
    assert 10 < found.alone[2]["dear"] / found.alone[1]["cheap"] < 160
    assert heavy > 10 * found.step > 0


def test_temporary_bytes_are_those_that_a_probe_needs_by_itself():
    found = measured(one(probes=(cheap, large)))
    assert found.temporary_bytes["large"] >= 2**22 > 8 * found.temporary_bytes["cheap"]


def test_probes_that_share_a_schedule_part_its_time_in_proportion_to_what_each_takes_alone():
    assert KNOWN.probes[0] == pytest.approx({"a": 0.0225, "b": 0.0075})
    assert KNOWN.probes[1] == pytest.approx({"c": 0.5})


def test_what_was_measured_is_kept_for_the_same_machine_code_and_cohort(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(cost, "_measure", lambda *_: calls.append(1) or KNOWN)
    assert measured(one()) == measured(one(steps=80, probe_budget=0.5)) == KNOWN
    assert len(calls) == 1, "neither the steps nor the budget change what a record takes"
    measured(one(batch_size=11))
    measured(one(probes=("evaluation",)))
    assert len(calls) == 3
    for path in tmp_path.rglob("*.json"):
        path.write_text("{")
    assert measured(one()) == KNOWN
    assert len(calls) == 4


# ---- foreseen


def played(made, found, keep):
    """Seconds of updates, and of each schedule's records and the training losses, step by step."""
    losses, by_schedule = 0.0, [0.0] * len(found.schedules)
    kept = []
    for schedule in made.schedules():
        steps = schedule.steps(made.steps)
        kept.append({s for i, s in enumerate(steps) if i % keep == 0 or s == steps[-1]})
    for step in range(made.steps + 1):
        due = [number for number, steps in enumerate(kept) if step in steps]
        losses += found.record * bool(due)
        for number in due:
            by_schedule[number] += found.schedules[number]
    return made.steps * found.step, losses, by_schedule


SCHEDULES = st.sampled_from([every(1), every(3), log_spaced(2), log_spaced(5), at(), at(7, 8, 9)])
SECONDS = st.floats(1e-6, 1.0)


@settings(deadline=None, max_examples=60)
@given(SCHEDULES, SCHEDULES, st.integers(10, 60), SECONDS, SECONDS, SECONDS, SECONDS, st.floats(0.01, 0.99))
def test_the_smallest_k_that_fits_is_picked_and_the_ends_are_kept(first, second, steps, step, record, a, b, budget):
    found = cost.Cost(step, record, (a, b), ({"cheap": a}, {"dear": b}), {}, 0.0)
    (made,) = one(record=first, probes=(probe(cheap), probe(dear, second)), steps=steps, probe_budget=budget).runs()
    single = len(made.schedules()) == 1
    if single:
        found = cost.Cost(step, record, (a,), ({"cheap": a / 2, "dear": a / 2},), {}, 0.0)
    shares = []
    for k in range(1, steps + 2):
        updates, losses, by_schedule = played(made, found, k)
        share = (losses + sum(by_schedule)) / (updates + losses + sum(by_schedule))
        assert cost.forecast(found, made, k).share == pytest.approx(share)
        shares.append(share)
    picked = cost.keep_every(found, made)
    close = [abs(share - budget) < 1e-9 for share in shares]
    assert shares[picked - 1] <= budget or len(made.due(picked)) == 2 or close[picked - 1]
    assert all(share > budget or near for share, near in zip(shares[: picked - 1], close, strict=False))
    kept = made.due(picked)
    assert {0, steps} <= kept.keys() <= made.due().keys()
    assert kept[0] == kept[steps] == made.due()[0]


def test_half_the_budget_leaves_fewer_records():
    def kept(budget):
        (made,) = one(steps=1000, probe_budget=budget, probes=("evaluation", probe(dear, every(10)))).runs()
        found = cost.Cost(1e-3, 1e-4, (1e-3, 1e-2), ({"evaluation": 1.0}, {"dear": 1.0}), {}, 0.0)
        return len(made.due(cost.keep_every(found, made)))

    counts = [kept(budget) for budget in (0.8, 0.4, 0.2, 0.1, 0.05)]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[0] == 1001


def test_a_plan_tells_each_probe_and_their_sum():
    made = one(probe_budget=0.9)
    planned = plan(made, width=1)
    (row,) = planned.to_dict()["cohorts"]
    told = row["probes"]
    assert [each["probe"] for each in told["each"]] == ["training loss", "evaluation", "cheap", "dear"]
    due = made.runs()[0].due(told["keep_every"])
    assert row["records"] == told["each"][0]["records"] == len(due)
    assert [each["records"] for each in told["each"][1:]] == [sum(m >> i & 1 for m in due.values()) for i in range(3)]
    assert sum(each["share"] for each in told["each"]) == pytest.approx(told["share"])
    seconds = sum(each["records"] * each["seconds_per_record"] for each in told["each"])
    assert told["seconds"] == pytest.approx(seconds)
    assert told["share"] == pytest.approx(seconds / (seconds + 40 * told["step_seconds"]))
    assert row["estimated_seconds"] == pytest.approx(seconds + 40 * told["step_seconds"], abs=0.06)
    text = planned.text()
    assert f"probes take {told['share']:.1%} of the time" in text
    assert "probe_budget 0.9" in text
    assert "measured on this machine" in text


def test_a_quick_plan_of_what_was_never_measured_tells_no_shares(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cost, "_measure", None)
    planned = plan(one(), width=1, quick=True)
    assert planned.to_dict()["cohorts"][0]["probes"] is None
    assert "probes take" not in planned.text()


# ---- in training


def test_a_schedule_in_parts_is_the_schedule():
    rows = [(0, 0, 0, 3), (0, 5, -1, 0), (5, 2, -1, 0), (7, 0, 1, 1), (7, 1, -1, 0), (8, 0, 2, 2)]
    parts = Pieces.of(rows).parts()
    assert [int(part.count) for part in parts] == [1, 2, 1, 1, 1]
    back = [tuple(int(v[i]) for v in part[:4]) for part in parts for i in range(part.count)]
    assert [(first, steps, due) for first, steps, _, due in back] == [(f, s, d) for f, s, _, d in rows]
    assert [slot for _, _, slot, _ in back] == [min(slot, 0) for _, _, slot, _ in rows]
    assert Pieces.of([]).parts() == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All records, no budget; what the probes take is known."""
    measured(one())
    return run(one(), tmp_path_factory.mktemp("whole") / "small", width=1)


def test_training_measures_the_dearer_probe_as_the_dearer_one(whole, tmp_path):
    """Of three trainings: others on the machine may lengthen any of them, and shorten none."""
    least, ratios, told_of = {}, [], []
    for out in (whole, *(run(one(), tmp_path / f"again{n}" / "small", width=1) for n in range(2))):
        (told,) = status(out)["shards"]
        for found in told["probes"]["together"]:
            probes, seconds = tuple(found["probes"]), found["seconds"] / found["records"]
            assert found["records"] == {1: 36, 2: 2, 3: 3}[len(probes)]
            least[probes] = min(seconds, least.get(probes, seconds))
        each = told["probes"]["each"]
        ratios.append(each["dear"]["share"] / each["cheap"]["share"])
        assert sum(e["share"] for e in each.values()) == pytest.approx(told["probe_share"])
        spent = manifest(out)["probes"]["measured"]
        seconds = spent["step_seconds"] + sum(r["seconds"] for r in spent["records"])
        whole_seconds = manifest(out)["wall_seconds"]
        assert seconds < 1.01 * whole_seconds + 0.01
        told_of.append(seconds / whole_seconds)
        assert f"probes took {told['probe_share']:.1%} of the time (planned " in render_status(out)
    assert list(least) == [("evaluation",), ("evaluation", "cheap"), ("evaluation", "cheap", "dear")]
    first, second, all_three = least.values()
    assert all_three > 3 * max(first, second)
    assert max(ratios) > 5
    assert max(told_of) > 0.5, "most of the time is that of updates and records"


def test_a_budget_thins_the_records_and_changes_no_bit_of_what_is_left(whole, tmp_path):
    told = []

    class Listens(watching.Silent):
        def note(self, text: str) -> None:
            told.append(text)

    out = run(one(probe_budget=0.3), tmp_path / "small", width=1, progress=Listens())
    probes = manifest(out)["probes"]
    assert probes["keep_every"] > 1
    assert told == [cost.budget_said(probes["planned"]["share"], 0.3, probes["keep_every"])]
    (made,) = one(probe_budget=0.3).runs()
    kept = load(out).records()["step"].to_numpy().tolist()
    assert kept == list(made.due(probes["keep_every"]))
    assert len(kept) < 41
    assert_same_bits(state(whole), state(out))
    (full,), (thin,) = records(whole).values(), records(out).values()
    for name in set(thin) - {"train_loss", "cheap", "dear"}:
        assert full[name][kept].tobytes() == thin[name].tobytes(), name
    assert f"one in {probes['keep_every']} of their steps is kept" in render_status(out)


def test_a_resumed_sweep_keeps_what_was_picked_whatever_would_be_measured_now(tmp_path, monkeypatch):
    made = one(probe_budget=0.3)
    straight = run(made, tmp_path / "straight", width=1)
    out = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        run(made, out, width=1, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    before = manifest(out)["probes"]

    def never(*_):
        raise AssertionError("measured a second time")

    monkeypatch.setattr(cost, "measured", never)
    run(made, out, width=1)
    after = manifest(out)["probes"]
    assert after | {"measured": 0} == before | {"measured": 0}
    assert sum(r["count"] for r in after["measured"]["records"]) == len(made.runs()[0].due(before["keep_every"]))
    assert_same_bits(parameters(straight), parameters(out))
    assert_same_bits(records(straight), records(out))


def test_a_folder_from_before_goes_on_as_it_was(whole, tmp_path):
    out = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        run(one(), out, width=1, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    (path,) = out.glob("shards/*/manifest.json")
    path.write_text(json.dumps({k: v for k, v in manifest(out).items() if k != "probes"}))
    assert status(out)["shards"][0]["probes"] is None
    assert "probes took" not in render_status(out)
    run(one(), out, width=1)
    assert_same_bits(parameters(whole), parameters(out))
    assert_same_bits(records(whole), records(out))


def test_a_budget_that_first_and_last_record_exceed_is_said_to_be_too_small(tmp_path):
    made = one(probe_budget=0.001, steps=3)
    assert "probe_budget 0.001 is too small" in plan(made, width=1).text()
    out = run(made, tmp_path / "small", width=1)
    assert load(out).records()["step"].to_numpy().tolist() == [0, 3]


def test_shares_of_a_shard_are_those_of_its_seconds():
    """By hand: 6 s of updates, 3 s where the first schedule was due alone, 1 s where both were."""
    from glorot_jax.analysis.status import _probes

    (made,) = one(record=every(4), probes=(cheap, probe(dear, every(8)))).runs()
    found = cost.Cost(1.0, 0.1, (0.3, 0.6), ({"cheap": 5.0}, {"dear": 2.0}), {}, 0.0)
    spent = cost.added(cost.added({"step_seconds": 1.0, "records": []}, [(0, 5.0), (1, 2.0)]), [(3, 1.0), (1, 1.0)])
    told = _probes({"probes": cost.picked(found, made) | {"measured": spent}})
    assert [(t["records"], t["share"]) for t in told["together"]] == [(2, pytest.approx(0.3)), (1, pytest.approx(0.1))]
    assert told["share"] == pytest.approx(0.4)
    seconds = {"training loss": 3 / 4 + 1 / 10, "cheap": 3 * 3 / 4 + 3 / 10, "dear": 6 / 10}
    assert {name: each["seconds"] for name, each in told["each"].items()} == pytest.approx(seconds)
    assert np.sum([each["share"] for each in told["each"].values()]) == pytest.approx(0.4)
