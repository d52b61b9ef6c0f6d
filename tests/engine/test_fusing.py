"""Networks of several depths in one program: each run comes out as from a program of its own depth."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import xarray as xr

from glorot_jax import (
    Sweep,
    adam,
    at,
    claim,
    denoising,
    grid,
    jacobian,
    levenberg_marquardt,
    load,
    mlp,
    optimizer,
    per_seed,
    run,
    sgd,
)
from glorot_jax.analysis.claims import judge
from glorot_jax.analysis.comparison import compare_setting
from glorot_jax.analysis.figures.general import KINDS, drawing_of
from glorot_jax.analysis.selection import with_depth
from glorot_jax.analysis.tables import render_table
from glorot_jax.data import dataset
from glorot_jax.engine.planning import plan
from glorot_jax.engine.planning.fusing import fusable, padding, why_apart
from glorot_jax.engine.segment import _Network, _Run
from glorot_jax.kernels import GENERAL
from tests.engine.networks import pictures
from tests.engine.small import DiesAtThirdCommit, assert_same_bits, parameters

WIDTH = 4
SIZE = 16


def flat(s):
    """Leaves its layer as it was drawn: too large a learning rate is the output layer's loss alone."""
    return jnp.sign(s)


def sweep(*depths: int, **changes) -> Sweep:
    """Of each depth 12 runs, some of which are lost."""
    settings = {
        "name": "depths",
        "data": pictures(),
        "model": mlp(
            widths=grid(*((SIZE,) * depth for depth in depths or (1, 3))),
            activation=grid("tanh", flat),
            init="normalized",
        ),
        "optimizer": sgd(learning_rate=grid(0.1, 3e38)),
        "seeds": range(3),
        "steps": 20,
        "record": at(3, 11),
        "probes": ("evaluation", "activations", "gradients"),
        "examples": 20,
        "jacobian_examples": 2,
    }
    return Sweep(**settings | changes)


def own_parameters(params: dict[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """Returns the parameters of a run's own network by their paths in it, from those of a program that it shares.

    Args:
        params: by path, of an ``Mlp`` in which the run has ``depth`` of the hidden layers.
    """
    output = max(int(path.split(".")[1]) for path in params)
    found = {}
    for path, value in params.items():
        _, place, name = path.split(".")
        if int(place) < depth or int(place) == output:
            found[f"layers.{min(int(place), depth)}.{name}"] = value
    return found


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    return run(sweep(1, 3), tmp_path_factory.mktemp("apart") / "depths", width=WIDTH)


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return run(sweep(1, 3), tmp_path_factory.mktemp("fused") / "depths", width=WIDTH, fuse="always")


def own(results, deepest: int = 3):
    """Each run's committed parameters, those of its own network alone, by their paths there."""
    depths = dict(zip(load(results).configurations.index, with_depth_of(results), strict=True))
    return {
        run: own_parameters({k.partition("/")[2]: v for k, v in state.items() if k.startswith("params/")}, depths[run])
        for run, state in parameters(results).items()
    }


def with_depth_of(results):
    return [len(json.loads(widths)) for widths in load(results).configurations["model.widths"]]


def test_one_folder_says_that_it_holds_two_cohorts(apart, fused):
    (manifest,) = load(fused).shards
    alone = {shard["shard"]: shard for shard in load(apart).shards}
    assert len(alone) == 2
    assert {shard["kernel"] for shard in alone.values()} == {manifest["kernel"]} != {GENERAL}
    assert manifest["cohort"]["depths"] == [1, 3]
    assert manifest["cohort"]["id"] not in load(apart).cohorts
    assert [member["layers"] for member in manifest["members"]] == [1, 3]
    for member in manifest["members"]:
        assert member["cohort"] == alone[member["shard"]]["cohort"]
        assert len(member["runs"]) == alone[member["shard"]]["runs"]


def test_parameters_are_those_of_the_network_alone_to_the_bit(apart, fused):
    assert_same_bits(own(apart), own(fused))


def test_layers_that_a_run_lacks_never_change(fused):
    depths = dict(zip(load(fused).configurations.index, with_depth_of(fused), strict=True))
    shallow = [state for run, state in parameters(fused).items() if depths[run] == 1]
    assert len(shallow) == 12
    for state in shallow:
        for layer in (1, 2):
            assert not state[f"params/layers.{layer}.kernel"].any()
            assert not state[f"params/layers.{layer}.bias"].any()


def test_results_read_the_same(apart, fused):
    one, two = load(apart), load(fused)
    pd.testing.assert_frame_equal(one.runs, two.runs)
    assert set(one.runs["status"]) == {"done", "diverged"}
    lost = one.runs[(one.runs["model.activation"] != "tanh") & (one.runs["status"] == "diverged")]
    assert set(lost["diverged_in"].str[-7:] + lost["model.widths"]) == {
        "layer 2[16]",
        "layer 4[16, 16, 16]",
    }, "the output layers"
    pd.testing.assert_frame_equal(one.configurations, two.configurations)
    pd.testing.assert_series_equal(one.cohort_of, two.cohort_of)
    assert one.cohorts == two.cohorts
    for cohort in one.cohorts:
        xr.testing.assert_identical(one.records(cohort), two.records(cohort))
        assert one.recorded(cohort) == two.recorded(cohort)
        assert one.predicted(cohort) == two.predicted(cohort) != []
    pd.testing.assert_frame_equal(compare_setting(one, "activation"), compare_setting(two, "activation"))
    wanted, found = (with_depth(r.runs, r.configurations) for r in (one, two))
    pd.testing.assert_frame_equal(wanted, found)


@pytest.mark.parametrize("depth", [None, 1, 3])
def test_tables_read_the_same(apart, fused, depth):
    one, two = (render_table(folder, depth=depth).replace(str(folder), "") for folder in (apart, fused))
    assert one == two


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "densities" not in kind])
def test_figures_read_the_same(apart, fused, kind):
    one, two = (drawing_of(load(folder), kind, "") for folder in (apart, fused))
    assert one.caption == two.caption
    pd.testing.assert_frame_equal(one.data, two.data)


def test_claims_read_the_same(apart, fused):
    where = {"activation": "tanh", "learning_rate": 0.1, "widths": (SIZE,) * 3}
    one = claim("It is so.", lambda r: per_seed(r, "activation_std", where, layer=3), above=0.0)
    assert judge(one, load(apart)) == judge(one, load(fused))


def test_what_is_begun_goes_on_as_it_was(fused, tmp_path):
    out = tmp_path / "depths"
    with pytest.raises(KeyboardInterrupt):
        run(sweep(1, 3), out, width=WIDTH, fuse="always", progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    run(sweep(1, 3), out)
    (manifest,) = load(out).shards
    assert manifest["members"]
    assert_same_bits(parameters(fused), parameters(out))
    shutil.copytree(fused, tmp_path / "copy")
    assert len(load([fused, tmp_path / "copy"]).runs) == 24, "the same results twice are one"


def test_a_run_does_not_know_its_neighbours(fused, tmp_path):
    """Others in its block, of other depths; the deepest is the same."""
    changes = {"model": mlp(widths=grid((SIZE,), (SIZE,) * 2, (SIZE,) * 3), activation="tanh", init="normalized")}
    changes["optimizer"] = sgd(learning_rate=0.1)
    other = run(sweep(**changes, seeds=(7, 2, 0)), tmp_path / "depths", width=WIDTH, fuse="always")
    one, two = parameters(fused), parameters(other)
    assert len(one.keys() & two.keys()) == 4
    assert_same_bits(one, two)


# ---- which cohorts can be fused


def mine(scene):
    return jnp.zeros(())


def told_the_layer(key, shape, dtype=jnp.float32, *, layer):
    return jnp.full(shape, 1 / layer.depth, dtype)


APART = {
    "its network": {"model": mlp(widths=grid((8, 4), (8, 4, 4)))},
    "pre-trained": {"pretraining": denoising(steps=9, learning_rate=0.1)},
    "the probe module_outputs": {"probes": ("module_outputs",)},
    "the probe mine": {"probes": (mine,)},
    "the probe jacobian_input_hidden1": {"probes": (jacobian("input", "hidden1"),)},
    "the initializer": {"model": mlp(widths=grid((8,), (8, 8)), init=grid("standard", told_the_layer))},
    "the initializer mup": {"model": mlp(widths=grid((8,), (8, 8)), init="mup")},
    "what the optimizer": {"optimizer": optimizer(optax.noisy_sgd, learning_rate=0.1, eta=0.1)},
    "what the optimizer levenberg": {"optimizer": levenberg_marquardt(learning_rate=0.1, estimate="hutchinson")},
    "its learning rates": {"model": mlp(widths=(8, 8)), "optimizer": sgd(learning_rate=0.1, mup={"widths": (4, 4)})},
}


@pytest.mark.parametrize("why", APART)
def test_what_would_come_out_otherwise_stays_apart(why):
    found = plan.cohorts(sweep(1, 2, **APART[why]).runs())
    assert fusable(found) == []
    assert all((why_apart(cohort) or "").startswith(why) or why in (why_apart(cohort) or "") for cohort in found)


def test_what_differs_otherwise_is_another_program():
    model = mlp(widths=grid((8,), (8, 8), (9,), (9, 9, 9), (7,), (5, 6)))
    made = sweep(model=model, optimizer=sgd(learning_rate=0.1), batch_size=grid(5, 10))
    found = plan.cohorts(made.runs(), fuse=True)
    assert sorted(cohort.depths or () for cohort in found if cohort.members) == [
        (1, 1, 1, 2, 2, 2),
        (1, 1, 1, 2, 2, 2),
        (1, 1, 1, 3, 3, 3),
        (1, 1, 1, 3, 3, 3),
    ]
    assert len(found) == 4 + 2 * 2
    assert len({cohort.id for cohort in found}) == 8


def test_the_padded_work_is_that_of_blocks_that_go_deeper_than_their_runs():
    model = mlp(widths=grid(*((SIZE,) * depth for depth in (1, 2, 4))))
    (cohort,) = plan.cohorts(sweep(model=model, optimizer=sgd(learning_rate=0.1)).runs(), fuse=True)
    program, layout, _ = plan.program_for(cohort, dataset.build(cohort.runs[0].data), jax.devices()[:1], 4)
    features, classes = 64, 3
    first, inner, last = (features + 1) * SIZE, (SIZE + 1) * SIZE, (SIZE + 1) * classes
    params = {depth: first + (depth - 1) * inner + last for depth in (1, 2, 4)}
    own = 3 * sum(params.values())
    assert [program.own_param_count(depth) for depth in params] == list(params.values())
    on_cpu = 4 * params[2] + 5 * params[4]  # 1 1 1 2 | 2 2 4 4 | 4
    assert padding(cohort, program, layout, "cpu") == pytest.approx(on_cpu / own)
    assert padding(cohort, program, layout, "gpu") == pytest.approx(9 * params[4] / own)


# ---- the network, and other optimizers


def test_other_optimizers_leave_alone_what_a_run_lacks():
    """From initial weights that look at data, too, with an activation that is infinitely steep at 0."""

    def root(s):
        return jnp.sign(s) * jnp.sqrt(jnp.abs(s))

    def trained(depths: tuple[int, ...], fuse: bool) -> list[dict[str, np.ndarray]]:
        model = mlp(widths=grid(*((6,) * depth for depth in depths)), activation=grid("tanh", root), init="lsuv")
        made = sweep(model=model, optimizer=adam(learning_rate=0.01), seeds=(1,), probes=("evaluation",))
        (cohort,) = plan.cohorts(made.runs(), fuse=fuse)
        setup, arrays = plan.setup(cohort, dataset.build(made.data)), plan.per_run(cohort)
        example = {name: array[0] for name, array in arrays.items()}
        run, constants = _Run(setup, _Network(setup, example), example), setup.dataset.constants()

        @jax.jit
        def train(hyper):
            def update(i, state):
                x, y = jax.vmap(lambda h: run._draw(constants, h["seed"], h["stream"], i))(hyper)
                return jax.vmap(run.step, in_axes=(0, 0, 0, 0, None))(state, hyper, jax.vmap(run.scaled)(x), y, i)

            state = jax.lax.map(lambda h: run.start(constants, h), hyper)
            return jax.lax.fori_loop(0, 5, update, state)

        state = jax.device_get(train(arrays))
        assert (state["diverged_step"] < 0).all()
        return [{name: array[i] for name, array in state["params"].items()} for i in range(len(cohort.runs))]

    alone, together = trained((2,), fuse=False), trained((2, 4), fuse=True)
    for wanted, found in zip(alone, together[:2], strict=True):
        assert not found["layers.2.kernel"].any()
        assert not found["layers.3.kernel"].any()
        mine = own_parameters(found, 2)
        assert mine.keys() == wanted.keys()
        for path in wanted:
            np.testing.assert_allclose(mine[path], wanted[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_what_has_to_train_in_parts_is_not_fused():
    """The program is made for the deepest: a part without one would be another program."""
    (fused,) = plan.cohorts(sweep().runs(), fuse=True)
    assert [part.members for part in plan.waves(fused, len(fused.runs))] == [fused.members]
    parts = plan.waves(fused, len(fused.runs) - 1)
    assert not any(part.members for part in parts)
    assert all(len({one.model.stack().depth for one in part.runs}) == 1 for part in parts)
    assert [one.id for part in parts for one in part.runs] == [one.id for one in fused.runs]
