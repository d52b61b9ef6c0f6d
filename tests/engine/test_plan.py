"""What is compiled together, where each run lies, and the numbers that a plan promises."""

from __future__ import annotations

import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import adam, at, denoising, every, grid, mlp, plan, sgd, shapeset
from glorot_jax.data import dataset
from glorot_jax.engine import devices, segment
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning.plan import cohorts, per_run, program_for, setup
from glorot_jax.errors import InputError
from tests.engine.small import sweep

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def softsign_of_mine(s):
    return s / (1 + abs(s))


def together(**changes) -> list[int]:
    """Sizes of the cohorts of the small sweep (12 runs) with something else in it."""
    return [len(cohort.runs) for cohort in cohorts(sweep(**changes).runs())]


# ---- which runs share a program

SPLITS = {
    "data.size": {"data": shapeset(size=grid(16, 32), validation=100, test=100)},
    "data.scaling": {"data": shapeset(scaling=grid("unit", "symmetric"), size=16, validation=100, test=100)},
    "data.validation": {"data": shapeset(size=16, validation=grid(50, 100), test=100)},
    "model.widths": {"model": mlp(widths=grid((8,), (8, 8)))},
    "optimizer": {"optimizer": grid(sgd(learning_rate=0.1), adam(learning_rate=0.1))},
    "optimizer.momentum": {"optimizer": sgd(learning_rate=0.1, momentum=grid(None, 0.5))},
    "optimizer.nesterov": {"optimizer": sgd(learning_rate=0.1, momentum=0.5, nesterov=grid(False, True))},
    "batch_size": {"batch_size": grid(5, 10)},
    "steps": {"steps": grid(40, 50)},
    "loss": {"loss": grid("nll", "quadratic")},
    "record": {"record": grid(at(5), every(20))},
    "probes": {"probes": grid(("evaluation",), ("activations",))},
    "examples": {"examples": grid(20, 30)},
    "jacobian_examples": {"jacobian_examples": grid(2, 3)},
    "probe_budget": {"probe_budget": grid(None, 0.1)},
    "pretraining": {"pretraining": grid(None, denoising(steps=9, learning_rate=0.1))},
    "pretraining.steps": {"pretraining": denoising(steps=grid(8, 9), learning_rate=0.1)},
    "order": {"order": grid("paired", "independent")},
    "precision": {"precision": grid("float32", "bfloat16")},
}
SHARED = {
    "model.activation": {"model": mlp(widths=(8,), activation=grid("tanh", "relu", softsign_of_mine))},
    "model.init": {"model": mlp(widths=(8,), init=grid("standard", "lsuv"))},
    "model.gain": {"model": mlp(widths=(8,), gain=grid(0.5, 1, 2))},
    "optimizer.learning_rate": {"optimizer": sgd(learning_rate=grid(0.1, 0.2))},
    "optimizer.momentum": {"optimizer": sgd(learning_rate=0.1, momentum=grid(0, 0.5, 0.9))},
    "optimizer.b1": {"optimizer": adam(learning_rate=0.1, b1=grid(0.8, 0.9), eps=grid(1e-8, 1e-6))},
    "pretraining.noise": {"pretraining": denoising(steps=9, learning_rate=0.1, noise=grid(0, 0.25))},
    "pretraining.learning_rate": {"pretraining": denoising(steps=9, learning_rate=grid(0.1, 0.2))},
    "seed": {"seeds": range(50)},
}


@pytest.mark.parametrize("path", SPLITS)
def test_what_shapes_the_program_parts_the_runs(path):
    sizes = together(**SPLITS[path])
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]
    one, other = (cohort.shared for cohort in cohorts(sweep(**SPLITS[path]).runs()))
    assert one.get(path, "per run") != other.get(path, "per run")


@pytest.mark.parametrize("path", SHARED)
def test_what_is_data_along_the_run_axis_parts_nothing(path):
    runs = sweep(**SHARED[path]).runs()
    assert len({json.dumps(run.config.get(path)) for run in runs}) > 1
    (cohort,) = cohorts(runs)
    assert path not in cohort.shared
    assert sorted(run.id for run in cohort.runs) == sorted(run.id for run in runs)


def test_every_run_is_in_one_cohort_and_its_program_is_for_it():
    runs = sweep(batch_size=grid(5, 10), model=mlp(widths=grid((8,), (8, 8)), gain=grid(1, 2)), seeds=(4, 1, 3)).runs()
    groups = cohorts(runs)
    assert sorted(run.id for cohort in groups for run in cohort.runs) == sorted(run.id for run in runs)
    for cohort in groups:
        assert all(run.config[path] == value for run in cohort.runs for path, value in cohort.shared.items())
        assert [run.seed for run in cohort.runs] == [1, 1, 3, 3, 4, 4], "neighbours share their batches"
    assert len({cohort.id for cohort in groups}) == len(groups) == 4


def test_a_cohort_is_known_by_what_it_shares_whichever_runs_it_holds():
    (one,), (other,) = (cohorts(sweep(seeds=seeds).runs()) for seeds in ((0, 1), (7,)))
    assert one.id == other.id
    assert one.shard_id != other.shard_id
    (changed,) = cohorts(sweep(batch_size=11).runs())
    assert changed.id != one.id


def test_runs_become_arrays_in_their_cohorts_order():
    model = mlp(widths=(8,), activation=grid("tanh", softsign_of_mine, "relu"), init=grid("standard", "lsuv"), gain=0.5)
    made = sweep(model=model, optimizer=adam(learning_rate=grid(0.1, 0.2)), seeds=(2**32 - 1, 0))
    (cohort,) = cohorts(made.runs())
    arrays = per_run(cohort)
    for i, run in enumerate(cohort.runs):
        assert (arrays["seed"][i], arrays["stream"][i]) == (run.seed, 0)
        assert arrays["optimizer.learning_rate"][i] == np.float32(run.config["optimizer.learning_rate"])
        assert arrays["optimizer.b2"][i] == np.float32(0.999)
        for path in ("model.activation", "model.init"):
            assert cohort.choices[path][arrays[f"{path}_index"][i]] == run.config[path]
    assert set(arrays["model.gain"]) == {0.5}
    assert {len(a) for a in arrays.values()} == {len(made.runs())}


def test_independent_runs_have_streams_of_their_own_and_paired_ones_share():
    (paired,), (apart,) = (cohorts(sweep(order=order).runs()) for order in ("paired", "independent"))
    assert set(per_run(paired)["stream"]) == {0}
    assert len(set(per_run(apart)["stream"])) == len(apart.runs)


# ---- where each run lies

LAYOUTS = st.builds(
    Layout, runs=st.integers(1, 60), width=st.integers(1, 9), devices=st.integers(1, 5), room=st.integers(1, 7)
)


@settings(deadline=None)
@given(LAYOUTS)
def test_gather_undoes_spread(layout):
    array = np.arange(layout.runs * 6).reshape(layout.runs, 3, 2)
    spread = layout.spread(array)
    assert {part.shape for part in spread} == {(layout.room, layout.width, 3, 2)}, "one shape, however many runs"
    np.testing.assert_array_equal(layout.gather(spread), array)


@settings(deadline=None)
@given(LAYOUTS)
def test_blocks_are_dealt_out_evenly(layout):
    dealt = [sum(chunk.count for chunk in layout.chunks if chunk.device == d) for d in range(layout.devices_used)]
    assert sum(dealt) == layout.blocks
    assert max(dealt) == layout.blocks_per_device == -(-layout.blocks // layout.devices)
    assert all(0 < chunk.count <= layout.room for chunk in layout.chunks)
    assert [chunk.first for chunk in layout.chunks] == sorted({chunk.first for chunk in layout.chunks})


@settings(deadline=None)
@given(LAYOUTS, st.data())
def test_blocks_visit_every_run_once_with_the_batches_of_its_own_seed(layout, data):
    """The devices' loop played by hand: what a block draws stays in the buffer for those after it that draw nothing."""
    seed = np.sort(data.draw(st.lists(st.integers(0, 5), min_size=layout.runs, max_size=layout.runs)))
    stream = np.array(data.draw(st.lists(st.integers(0, 2), min_size=layout.runs, max_size=layout.runs)))
    visited = []
    for blocks, runs in zip(layout.block_plans(seed, stream), layout.spread(np.arange(layout.runs)), strict=True):
        seeds, buffer = blocks["seeds"], [None] * layout.width
        for block in range(blocks["count"]):
            for i in range(seeds["draws"][block]):
                buffer[i] = (seeds["draw_seed"][block, i], seeds["draw_stream"][block, i])
            for place, who in enumerate(runs[block]):
                assert buffer[seeds["slot"][block, place]] == (seed[who], stream[who])
            visited += runs[block].tolist()
    padding = visited[layout.runs :]
    assert visited[: layout.runs] == list(range(layout.runs))
    assert len(padding) < layout.width
    assert set(padding) <= {layout.runs - 1}


@settings(deadline=None)
@given(LAYOUTS, st.integers(0, 3))
def test_a_seed_is_drawn_once_a_chunk_and_not_again_for_the_next_block(layout, seed):
    same = np.full(layout.runs, seed)
    for blocks in layout.block_plans(same, np.zeros_like(same)):
        assert blocks["seeds"]["draws"].tolist() == [1] + [0] * (layout.room - 1)


def square(s):
    return s * s


def test_bytes_of_an_update_are_those_of_weights_and_of_what_its_way_back_reads():
    """Of z → z W → (z W)² …: the factor 2s of each hidden layer, its output, and the softmax of the loss."""

    def kept(batch_size: int, *widths: int) -> tuple[int, int]:
        (cohort,) = cohorts(sweep(model=mlp(widths=widths, activation=square), batch_size=batch_size).runs())
        example = {name: array[0] for name, array in per_run(cohort).items()}
        return segment.Draft(setup(cohort, dataset.build(cohort.runs[0].data)), example).update_bytes()

    assert kept(10, 16, 12)[0] == 4 * params(256, 16, 12)
    (_, narrow), (_, wide), (_, deep) = kept(10, 16), kept(10, 24), kept(10, 16, 16)
    assert deep - narrow == 4 * 10 * 2 * 16
    assert wide - narrow == 4 * 10 * 2 * 8
    assert kept(30, 16)[1] == pytest.approx(3 * narrow, rel=0.01), "scalars apart"


# ---- the numbers of a plan


def params(inputs: int, *widths: int, classes: int = 9) -> int:
    sizes = (inputs, *widths, classes)
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


@pytest.fixture(scope="module")
def planned():
    optimizers = (sgd(learning_rate=0.1), sgd(learning_rate=0.1, momentum=0.9), adam(learning_rate=0.1))
    variants = [
        {"model.widths": widths, "model.activation": grid("tanh", "relu"), "optimizer": optimizer}
        for widths, optimizer in (*(((16, 12), made) for made in optimizers), ((5,), optimizers[0]))
    ]
    made = sweep(model=mlp(), variants=variants, probes=("evaluation", "activations"), data=small())
    return plan(made, width=4, quick=True)


def small() -> shapeset:
    return shapeset(size=16, validation=20, test=30)


def test_a_plan_says_how_the_runs_are_packed(planned):
    said = planned.to_dict()
    assert (said["sweep"], said["runs"], len(said["cohorts"])) == ("small", 24, 4)
    for row in said["cohorts"]:
        assert (row["runs"], row["width"], row["blocks"], row["devices"]) == (6, 4, 2, min(2, len(jax.local_devices())))
        assert row["why_width"] == "as asked"
        assert (row["steps"], row["records"]) == (40, 5)  # 0, 5, 17, 29 and 40


def test_parameters_are_counted_in_closed_form(planned):
    counts = [row["parameters_per_run"] for row in planned.to_dict()["cohorts"]]
    assert counts == [params(256, 16, 12)] * 3 + [params(256, 5)]
    assert params(1024, *[1000] * 5) == 5_038_009, "the paper's network on Shapeset"


def test_bytes_of_records_are_those_of_the_numbers_that_the_probes_write(planned):
    """Per record: the training loss, loss and error on two sets, and by layer mean, deviation and five quantiles."""
    for row, depth in zip(planned.rows, (2, 2, 2, 1), strict=True):
        assert row.record_bytes == 4 * (1 + 4 + depth * (1 + 1 + 5)) * 5 * 6


def test_bytes_of_a_checkpoint_are_those_of_parameters_and_optimizer_memory(planned):
    """Momentum keeps one more array of each parameter's shape, Adam two and a count; all else takes a few numbers."""
    count = params(256, 16, 12)
    plain, momentum, adam_, other = (row.state_bytes for row in planned.rows)
    assert 0 <= plain - 4 * count <= 64
    assert plain - other == 4 * (count - params(256, 5))
    assert momentum - plain == 4 * count
    assert adam_ - plain == 4 * (2 * count + 1)
    for row in planned.rows:
        assert row.to_dict()["checkpoint_bytes"] == 6 * row.state_bytes
        data = (20 + 30) * (256 + 4)
        made = row.to_dict()["bytes"]
        assert (made["constants"], made["state"]) == (data, row.layout.room * 4 * row.state_bytes)
        assert row.to_dict()["bytes_per_device"] == sum(
            v for k, v in made.items() if k not in ("host", "predictions", "by")
        )


def test_a_plan_takes_its_state_from_what_would_be_trained():
    """The bytes of a state that is really made, with its padding."""
    (cohort,) = cohorts(sweep(data=small()).runs())
    program, layout, _ = program_for(cohort, dataset.build(small()), devices.local(), 8)
    (state, *_) = Fleet(program, layout, per_run(cohort), devices.local()).start()
    made = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    (row,) = plan(sweep(data=small()), width=8, quick=True).rows
    assert made == row.state_bytes * layout.room * layout.width


def test_a_plan_is_said_in_words(planned):
    first, *rest = planned.text().splitlines()
    assert first.startswith("small: 24 runs · 4 programs · 40 steps · about ")
    assert "mlp 16-12 on shapeset, sgd, batch 10" in next(line for line in rest if line.startswith("  cohort"))
    assert "mlp 1×5 on shapeset, sgd, batch 10" in planned.text()
    assert f"{params(256, 16, 12):,} parameters a run" in planned.text()
    assert all(len(line) <= 100 for line in rest), "it fits a screen"
    assert json.loads(json.dumps(planned.to_dict())) == planned.to_dict()


def test_a_quick_plan_compiles_no_training():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kw: compiled.append(kw.get("fun_name")) if "backend_compile" in event else None
    )
    assert plan(sweep(data=small()), quick=True).rows[0].param_count == params(256, 16, 12)
    assert compiled, "it times products"
    assert not {"jit(train)", "jit(initialize)", "jit(step)", "jit(measure)"} & set(compiled)


@pytest.mark.parametrize("width", [0, -1])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(InputError, match=f"width: {width} is not a positive integer"):
        plan(sweep(data=small()), width=width)
