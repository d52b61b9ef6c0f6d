"""Probes of one's own, and probes at steps of their own."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from glorot_jax import at, every, load, mlp, probe, run
from glorot_jax.errors import InputError
from tests.engine.small import assert_same_bits, parameters, records, sweep

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def largest_activation(scene):
    """largest absolute activation"""
    return jnp.stack([jnp.max(jnp.abs(scene.values[layer.activation])) for layer in scene.hidden])


def two_kinds(scene):
    corner = scene.params["layers.0.kernel"][:3, :2]
    return {"corner": corner, "twice": 2 * corner}


def one(**changes):
    return sweep(model=mlp(widths=(16, 12)), seeds=(1,), **changes)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    probes = (
        "evaluation",
        probe("activations", at(20)),
        probe(largest_activation, every(10), dims=("layer",), units="1"),
    )
    return run(one(probes=probes), tmp_path_factory.mktemp("probed") / "small", width=1, segment_seconds=1e-6)


def test_each_probe_looks_at_its_own_steps_and_nowhere_else(probed):
    found = load(probed).records()
    assert found["step"].to_numpy().tolist() == [0, 5, 10, 17, 20, 29, 30, 40]
    looked = {
        name: found["step"].to_numpy()[np.isfinite(v).reshape(8, -1).all(axis=1)].tolist()
        for name, v in (
            (name, found[name].isel(run=0).to_numpy()) for name in found.data_vars if "step" in found[name].dims
        )
    }
    assert looked["test_error"] == [0, 5, 17, 29, 40]
    assert looked["activation_std"] == [0, 20, 40]
    assert looked["largest_activation"] == [0, 10, 20, 30, 40]
    assert looked["train_loss"] == [0, 5, 10, 17, 20, 29, 30, 40]


def test_a_probe_of_ones_own_is_labelled_and_right(probed):
    found = load(probed).records()["largest_activation"]
    assert found.dims == ("run", "step", "layer")
    assert found.attrs == {"long_name": "largest absolute activation", "units": "1", "cadence": "every(n=10)"}
    quantiles = load(probed).records()["activation_quantile"]
    at_20 = np.abs(quantiles.sel(step=20).to_numpy()).max(axis=-1)
    assert (found.sel(step=20).to_numpy() >= at_20).all()


def test_what_else_is_measured_changes_no_bit(probed, tmp_path):
    plain = run(one(probes=("evaluation",)), tmp_path / "small", width=1)
    one_state, other_state = ({"": next(iter(parameters(p).values()))} for p in (plain, probed))
    kept = [{"": {k: v for k, v in s[""].items() if k.startswith("params")}} for s in (one_state, other_state)]
    assert_same_bits(*kept)
    (errors,), (others,) = ([r["test_error"] for r in records(p).values()] for p in (plain, probed))
    assert errors.tobytes() == others[np.isfinite(others)].tobytes()


def test_the_runs_table_shows_the_newest_value_that_was_due(tmp_path):
    out = run(one(probes=(probe("evaluation", at(5)), "activations"), record=every(1), steps=7), tmp_path / "small")
    assert np.isfinite(load(out).runs["test_error"]).all()


def test_several_arrays_may_be_returned(tmp_path):
    out = run(one(probes=(probe(two_kinds, dims=("input", "unit")),), steps=0, record=every(1)), tmp_path / "small")
    (state,) = parameters(out).values()
    found = load(out).records()
    np.testing.assert_array_equal(found["corner"].isel(run=0, step=0), state["params/layers.0.kernel"][:3, :2])
    np.testing.assert_array_equal(found["corner"].isel(run=0, step=0) * 2, found["twice"].isel(run=0, step=0))
    assert found["unit"].to_numpy().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: (probe(largest_activation),), r"probes.largest_activation: .* shape \[2\] and the dims \[\]"),
        (lambda: (probe(largest_activation, dims=("quantile",)),), "has 2 along 'quantile', not 5"),
        (lambda: (largest_activation, "jacobian"), "'jacobian' is not known\n  hint: 'jacobians'"),
        (lambda: (largest_activation, largest_activation), "'largest_activation' stands twice"),
        (lambda: (3,), "3 is neither the name of a probe, a function, nor probe"),
        (lambda: (probe("jacobians", dims=("layer",)),), "'jacobians' has labels of its own"),
        (lambda: (probe("activations", at(50)),), "step 50 is after the last, 40"),
        (lambda: (probe(words),), "probes.words: words is str, not an array of numbers"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused_before_anything_is_touched(wrong, said, tmp_path):
    with pytest.raises(InputError, match=said):
        run(one(probes=wrong()), tmp_path / "small")
    assert not (tmp_path / "small").exists()


def words(scene):
    return "not a number"


def test_presets_are_sets_of_probes():
    assert one(probes="light").probes == (probe("activations", method="moments"), probe("evaluation", at()))
    assert one(probes="paper").probes == one().probes
