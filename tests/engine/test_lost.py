"""Runs that are lost free their places, searches drop some, others wait: no bit of anybody changes by it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from glorot_jax import dropping, every, grid, load, mlp, per_seed, run, sgd, shapeset, successive_halving
from glorot_jax.analysis.status import render_status, status
from glorot_jax.analysis.tables import render_table, table
from glorot_jax.engine import devices, programs, shard, trainer, watching
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.places import Places
from glorot_jax.engine.planning import plan
from glorot_jax.engine.segment import Pieces
from glorot_jax.errors import InputError
from glorot_jax.kernels import native
from tests.engine import small
from tests.engine.small import ROOT, assert_same_bits, parameters, records

RATES = (0.05, 1e18, 0.2, 3e18)
"""Where the units are rectified, the second and the last end training within a few steps."""
STEPS = 12
HALVING = successive_halving(at=(2, 6), factor=2)


def sweep(**changes):
    """Sixteen runs: eight blocks of two; four runs diverge."""
    settings = {
        "data": shapeset(size=8, validation=20, test=20),
        "model": mlp(widths=(6,), activation=grid("tanh", "relu")),
        "optimizer": sgd(learning_rate=grid(*RATES)),
        "seeds": (0, 1),
        "steps": STEPS,
        "record": every(2),
        "probes": ("evaluation",),
    }
    return small.sweep(**settings | changes)


def trained(out: Path, **changes) -> Path:
    return run(sweep(**changes), out, width=2, segment_seconds=1e-6)


def manifest(out: Path) -> dict:
    (path,) = out.glob("shards/*/manifest.json")
    return json.loads(path.read_text())


def assert_same(one: Path, other: Path) -> None:
    assert parameters(one).keys() == parameters(other).keys()
    assert_same_bits(parameters(one), parameters(other))
    assert_same_bits(records(one), records(other))


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """Unless a test says otherwise, so that blocks can be counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "local", lambda: jax.local_devices()[:1])
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The sweep trained with everybody in the place where he began."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "tighten", lambda _: False)
        return trained(tmp_path_factory.mktemp("undisturbed") / "small")


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> tuple[Path, list[int], list[str]]:
    """The sweep with halving; how many blocks each segment worked on; the programs that were compiled."""
    blocks: list[int] = []
    train = Fleet.train

    def noted(fleet, pieces, state):
        blocks.append(sum(int(plan["count"]) for plan in fleet._blocks))
        return train(fleet, pieces, state)

    with pytest.MonkeyPatch.context() as patch, small.training_programs() as programs:
        patch.setattr(Fleet, "train", noted)
        return trained(tmp_path_factory.mktemp("halved") / "small", search=HALVING), blocks, programs


def lost(out: Path) -> dict[str, int]:
    return {d["run"]: d["step"] for d in manifest(out)["dropped"]}


def test_diverged_runs_free_their_places_and_nobodys_bits_change(undisturbed, tmp_path):
    """Not even those of the diverged."""
    moves = []
    tighten = Places.tighten

    def noted(places):
        before = places.layout.blocks_per_device
        moved = tighten(places)
        moves.append(places.layout.blocks_per_device / before)
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "tighten", noted)
        out = trained(tmp_path / "small")
    assert [move for move in moves if move != 1] == [pytest.approx(6 / 8)]
    assert len(manifest(out)["diverged"]) == 4
    assert manifest(out)["diverged"] == manifest(undisturbed)["diverged"]
    assert manifest(out)["run_steps"] < manifest(undisturbed)["run_steps"] == 16 * STEPS
    assert_same(out, undisturbed)


def test_survivors_of_halving_have_the_bits_of_the_undisturbed_sweep(undisturbed, halved):
    out, _, _ = halved
    gone = lost(out)
    assert sorted(gone.values()) == [2] * 8 + [6] * 4
    alive = parameters(out).keys() - gone.keys()
    assert len(alive) == 4
    assert_same_bits({k: v for k, v in parameters(out).items() if k in alive}, parameters(undisturbed))
    assert_same_bits({k: v for k, v in records(out).items() if k in alive}, records(undisturbed))


def test_records_of_the_dropped_end_where_they_were_dropped(undisturbed, halved):
    out, _, _ = halved
    steps, before = load(out).records()["step"].to_numpy(), records(undisturbed)
    for name, step in lost(out).items():
        for record, values in records(out)[name].items():
            until = steps <= step
            assert values[until].tobytes() == before[name][record][until].tobytes()
            assert np.isnan(values[~until]).all()


def test_what_halving_drops_is_what_the_records_say(undisturbed, halved):
    """By hand from the records of the sweep without halving; a variant's mean over its two seeds."""
    out, _, _ = halved
    measured = load(undisturbed).records()["valid_error"]
    variants = ["-".join(str(name).split("-")[:-1]) for name in load(undisturbed).runs.loc[measured["run"], "name"]]
    frame = measured.to_dataframe()["valid_error"].unstack("step").loc[measured["run"].to_numpy()]
    left = list(dict.fromkeys(variants))
    for step in (2, 6):
        means = frame[step].groupby(variants).mean()  # leaves NaN out
        ranked = sorted(left, key=lambda name: (np.isnan(means[name]), means[name]))
        dropped = {run for run, name in zip(frame.index, variants, strict=True) if name in ranked[len(left) // 2 :]}
        assert dropped == {run for run, when in lost(out).items() if when == step}
        left = [name for name in left if name in ranked[: len(left) // 2]]


def test_the_blocks_worked_on_fall_and_nothing_is_compiled_anew(halved):
    _, (first, *blocks), programs = halved
    assert first == 2  # of runs that differ before the first update
    assert sorted(set(blocks), reverse=True)[0] == 8
    assert blocks[-1] == 2
    assert set(blocks) <= {8, 6, 4, 2}
    assert blocks == sorted(blocks, reverse=True)
    assert len(programs) == 1


def test_a_step_takes_less_time_with_fewer_blocks(tmp_path):
    """Processor time of the same pieces on eight blocks, and on the two that are left, by the same program."""
    (cohort,) = plan.cohorts(sweep().runs())
    arrays = plan.per_run(cohort)
    program, layout = programs.Programs(devices.local(), calibrate=False, fuse="never").of(cohort, 2, None)
    fleet = Fleet(program, layout, arrays, devices.local())
    few = dataclasses.replace(layout, runs=4)

    def seconds() -> float:
        state = fleet.start()
        state, _ = fleet.train(Pieces.of([(0, 1, -1, 0)]), state)
        begin = time.process_time()
        fleet.train(Pieces.of([(256 * i, 256, -1, 0) for i in range(40)]), state)
        return time.process_time() - begin

    all_blocks = seconds()
    compiled = fleet._train
    fleet.lay(few, {name: array[:4] for name, array in arrays.items()})
    assert seconds() < all_blocks / 2
    assert fleet._train == compiled


@pytest.mark.skipif(native.why_not() is not None, reason="no C++ compiler")
def test_a_lost_run_costs_less_than_half_of_the_others_in_its_block():
    """Processor time of the same updates by the native kernel, all of a block's runs there or one; least of eight."""
    rates = grid(*(1e-3 * k for k in range(1, 9)))
    made = sweep(model=mlp(widths=(256,) * 4), optimizer=sgd(learning_rate=rates), seeds=(0,))
    (cohort,) = plan.cohorts(made.runs())
    program, layout = programs.Programs(devices.local(), calibrate=False, fuse="never").of(cohort, 8, "native")
    fleet = Fleet(program, layout, plan.per_run(cohort), devices.local())
    everybody, one = Places(layout), Places(layout)
    for places in (everybody, one):
        places.take(fleet.gather(fleet.start()))
    one.drop(range(1, 8))
    assert not one.tighten()

    def seconds(places: Places) -> float:
        state, _ = fleet.train(Pieces.of([(0, 1, -1, 0)]), fleet.place(places.marked(), places.runs))
        begin = time.process_time()
        fleet.train(Pieces.of([(256 * i, 256, -1, 0) for i in range(2)]), state)
        return time.process_time() - begin

    rounds = [(seconds(everybody), seconds(one)) for _ in range(8)]  # what else the machine does comes and goes
    all_of_them, alone = map(min, zip(*rounds, strict=True))
    assert alone < (1 / 8 + 1 / 2) * all_of_them


def everybody(records, variants):
    return [run for ids in variants for run in ids]


def test_where_all_runs_are_lost_the_rest_is_written_at_once(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "BLANK_BYTES", 1)  # one record a commit
    out = trained(tmp_path / "small", search=dropping(everybody, at=2))
    assert manifest(out)["run_steps"] == 16 * 2
    assert (manifest(out)["step"], manifest(out)["state"]) == (STEPS, "done")
    steps, before = load(out).records()["step"].to_numpy(), records(undisturbed)
    assert steps.tolist() == load(undisturbed).records()["step"].to_numpy().tolist()
    for name, found in records(out).items():
        for record, values in found.items():
            wanted = np.where(steps <= 2, before[name][record], np.float32(np.nan))
            assert values.tobytes() == wanted.tobytes()


KILLED = (0, 2, 6, STEPS)
"""The first and the last commit, and those of the rungs."""


def test_killed_at_a_commit_the_same_are_dropped_and_all_bits_are_the_same(halved, tmp_path, monkeypatch):
    """Each of these commits fails once, just before the manifest is replaced: those with a decision in them, too."""
    whole, _, _ = halved
    out, write, failed = tmp_path / "small", shard.write_json, []

    class Killed(BaseException):
        pass

    def dies(path, value):
        step = value["step"] if path.name == "manifest.json" and value["generation"] else None
        if step in KILLED and step not in failed:
            failed.append(step)
            raise Killed
        write(path, value)

    monkeypatch.setattr(shard, "write_json", dies)
    for _ in KILLED:
        with pytest.raises(Killed):
            trained(out, search=HALVING)
    trained(out, search=HALVING)
    assert failed == list(KILLED)
    assert manifest(out)["dropped"] == manifest(whole)["dropped"]
    assert_same(out, whole)


DIES = """
import os, signal, sys
from glorot_jax import run
from glorot_jax.engine import shard
from tests.engine.test_lost import HALVING, sweep

write = shard.write_json

def dies(path, value):
    if value.get("step") == 6 and value.get("dropped"):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, value)

shard.write_json = dies
run(sweep(search=HALVING), sys.argv[1], width=2, segment_seconds=1e-6)
"""


def test_sigkilled_between_a_decision_and_its_commit_it_decides_the_same(halved, tmp_path):
    """At the second rung, on two devices; finished on one."""
    whole, _, _ = halved
    out = tmp_path / "small"
    own = {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
    done = subprocess.run([sys.executable, "-c", DIES, str(out)], env={**os.environ, **own})
    assert done.returncode == -signal.SIGKILL
    assert manifest(out)["step"] < 6
    assert {d["step"] for d in manifest(out)["dropped"]} == {2}
    trained(out, search=HALVING)
    assert manifest(out)["dropped"] == manifest(whole)["dropped"]
    assert_same(out, whole)


def test_a_torn_checkpoint_takes_its_decision_back(halved, tmp_path):
    whole, _, _ = halved
    out = tmp_path / "small"

    class Dies(watching.Silent):
        def advance(self, news):
            if news.step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sweep(search=HALVING), out, width=2, segment_seconds=1e-6, progress=Dies())
    (folder,) = out.glob("shards/*")
    assert manifest(out)["step"] == 2
    assert len(manifest(out)["dropped"]) == 8
    for path in (folder / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    trained(out, search=HALVING)
    assert manifest(out)["dropped"] == manifest(whole)["dropped"]
    assert_same(out, whole)


# ---- waiting


@pytest.mark.parametrize(("at_once", "parts"), [(None, [16]), (16, [16]), (7, [6, 6, 4]), (4, [4] * 4), (1, [2] * 8)])
def test_parts_hold_whole_variants_and_every_run_once(at_once, parts):
    (cohort,) = plan.cohorts(sweep().runs())
    found = plan.waves(cohort, at_once)
    assert [len(one.runs) for one in found] == parts
    assert sorted(run.id for one in found for run in one.runs) == sorted(run.id for run in cohort.runs)
    assert len({one.shard_id for one in found}) == len(parts)
    for one in found:
        assert one.choices == cohort.choices
        assert all(len(places) == 2 for places in plan.variants(one.runs))
        assert [run.seed for run in one.runs] == sorted(run.seed for run in one.runs)


def test_waiting_runs_have_the_same_bits_and_no_program_of_their_own(undisturbed, tmp_path):
    with small.training_programs() as programs:
        out = run(sweep(), tmp_path / "small", width=2, at_once=7)
    assert len(programs) == 1
    assert len(list(out.glob("shards/*"))) == 3
    assert_same(out, undisturbed)


def test_what_halving_leaves_of_all_that_wait_goes_on_together(halved, tmp_path, monkeypatch):
    """Seven runs train at once; the process dies when one of the waiting shards knows a decision and others don't."""
    whole, _, _ = halved
    out, decide, there = tmp_path / "small", shard.Shard.decide, []

    def dies(self, rung, dropped):
        decide(self, rung, dropped)
        if not there:
            there.append(sum(json.loads(path.read_text())["decided"] for path in out.glob("shards/*/manifest.json")))
            raise KeyboardInterrupt

    monkeypatch.setattr(shard.Shard, "decide", dies)
    with small.training_programs() as programs:
        with pytest.raises(KeyboardInterrupt):
            run(sweep(search=HALVING), out, width=2, at_once=7, segment_seconds=1e-6)
        assert there == [2]
        noted, groups = trainer.Trainer._train, []

        def trains(self, group):
            noted(self, group)
            groups.append((len(group.members), self.step, self.fleet.layout.runs))

        monkeypatch.setattr(trainer.Trainer, "_train", trains)
        run(sweep(search=HALVING), out, width=2, at_once=7, segment_seconds=1e-6)
    assert len(programs) == 2, "one of each process"
    assert groups[-1] == (3, STEPS, 4)
    found = (one for path in out.glob("shards/*/manifest.json") for one in json.loads(path.read_text())["dropped"])
    assert {one["run"]: one["step"] for one in found} == lost(whole)
    assert_same(out, whole)


def test_waiting_runs_go_on_with_the_program_that_they_shared(undisturbed, tmp_path):
    """Interrupted in the second of three parts: what is left knows all functions of the sweep, not its own alone."""
    out = tmp_path / "small"

    class Dies(watching.Silent):
        ends = 0

        def advance(self, news):
            self.ends += news.step == STEPS
            if self.ends and news.step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sweep(), out, width=2, at_once=7, segment_seconds=1e-6, progress=Dies())
    with small.training_programs() as programs:
        run(sweep(), out, width=2)
    assert len(programs) == 1
    assert_same(out, undisturbed)


# ---- rules


def worst_seed(records, variants):
    """One run of the last variant."""
    return [variants[-1][1]]


def test_a_rule_of_ones_own_sees_what_was_recorded_and_drops_whole_variants(undisturbed, tmp_path):
    seen = []

    def asks(records, variants):
        seen.append((records, variants))
        return worst_seed(records, variants)

    out = trained(tmp_path / "small", search=dropping(asks, at=(2, 6)))
    (one, first), (two, second) = seen
    assert [len(variants) for variants in (first, second)] == [8, 7]
    assert all(len(ids) == 2 for ids in first)
    assert lost(out) == dict.fromkeys(first[-1], 2) | dict.fromkeys(second[-1], 6)
    whole = load(undisturbed).records()
    assert two["step"].to_numpy().tolist() == [0, 2, 4, 6]
    assert set(one.data_vars) == {"train_loss", "valid_loss", "valid_error", "test_loss", "test_error"}
    kept = [name for ids in second for name in ids]
    np.testing.assert_array_equal(
        two["valid_error"].sel(run=kept), whole["valid_error"].sel(run=kept, step=[0, 2, 4, 6]).transpose("run", "step")
    )
    assert np.isnan(two["valid_error"].sel(run=first[-1], step=[4, 6])).all()


def test_a_rule_that_fails_is_one_line_and_another_is_refused_half_way(tmp_path):
    def wrong(records, variants):
        return 3

    with pytest.raises(InputError, match="search: dropping failed at step 2: TypeError: 'int' object is not iterable"):
        trained(tmp_path / "small", search=dropping(wrong, at=2))
    with pytest.raises(InputError, match="half trained under another search"):
        trained(tmp_path / "small")


def test_a_rule_that_compares_what_nobody_records_is_refused_before_anything_is_touched(tmp_path):
    with pytest.raises(InputError, match=r"search\.by: 'valid_eror' is not known\n  hint: 'valid_error'"):
        trained(tmp_path / "small", search=successive_halving(at=4, by="valid_eror"))
    assert not (tmp_path / "small").exists()


# ---- what is said


def test_status_and_table_mark_the_dropped_and_compare_them_with_nobody(halved, undisturbed):
    out, _, _ = halved
    runs = load(out).runs
    counts = runs["status"].value_counts().to_dict()
    assert counts == {"done": 4, "dropped": 12 - counts["diverged"], "diverged": counts["diverged"]}
    gone = runs["status"] == "dropped"
    assert runs.loc[gone, ["test_error", "best_valid_error"]].isna().all(axis=None)
    assert runs.loc[runs["status"] == "done", "test_error"].notna().all()
    assert (runs.loc[gone, "dropped_step"] == [lost(out)[name] for name in runs.index[gone]]).all()
    facts = status(out)
    assert facts["runs"]["dropped"] == gone.sum() == len(facts["dropped"])
    said = render_status(out)
    assert f"{gone.sum()} dropped" in said.splitlines()[0]
    assert "dropped by the search: " in said
    made = table(load(out), rows=["activation", "learning_rate"])
    cells = [cell for cell in made.cells.values() if cell.dropped]
    assert sum(cell.dropped for cell in cells) == gone.sum()
    assert not any(cell.n or cell.best or cell.bold for cell in cells)
    assert {name for one in made.differences for name in (one.lower, one.higher)}.isdisjoint(c.row for c in cells)
    loser = runs[gone].iloc[0]
    where = {
        name: loser[f"{family}.{name}"] for family, name in (("model", "activation"), ("optimizer", "learning_rate"))
    }
    with pytest.raises(InputError, match=f"the search dropped it at step {loser['dropped_step']}"):
        per_seed(load(out), "test_error", where)
    assert np.isfinite(per_seed(load(out), "test_error", where, step=0)).all()
    text = render_table(out, rows=["activation", "learning_rate"])
    assert f"The search dropped {gone.sum()} of these runs before the end" in " ".join(text.split())
    assert "dropped" not in render_table(undisturbed)
