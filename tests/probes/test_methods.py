"""Layer Jacobians by the method that is asked for, each against float64 and within the error that stands beside it."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glorot_jax import at, load, mlp, probe, run, specs
from glorot_jax.errors import InputError
from glorot_jax.probes import BUILT_IN
from glorot_jax.probes.probe import COORDINATES, described, told_by_layer
from tests.core.reference import FUNCTIONS, network
from tests.engine.small import sweep
from tests.probes.test_catalogue import CHOICES, JACOBIANS, TRUTHS, by_path, histogram, scene, shown, summarized

pytestmark = pytest.mark.usefixtures("compiled_quickly")

METHODS = ("exact", "gram", "lanczos")
NETWORKS = [(8, 12, 5, 3), (30, 20, 24, 24, 4)]
"""Sizes from the input to the logits."""


def drawn(sizes: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    draw = np.random.default_rng(len(sizes))
    weights = [1.3 * draw.normal(size=s, scale=s[0] ** -0.5) for s in itertools.pairwise(sizes)]
    return weights, [0.3 * draw.normal(size=w.shape[1]) for w in weights]


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def looked(request) -> dict[str, tuple[list, dict[str, dict[str, np.ndarray]]]]:
    """By activation: the layers' Jacobians in float64, and what each method finds of them."""
    params = by_path(*drawn(request.param))
    ways = {m: [described(probe(name, method=m)) for name in ("jacobians", "jacobian_spectra")] for m in METHODS}

    @jax.jit
    def look(index):
        here = scene(params, index)
        return {m: {k: v for one in ones for k, v in one.measure(here).items()} for m, ones in ways.items()}

    made = {}
    for activation in ("tanh", "relu"):
        FUNCTIONS[activation] = TRUTHS[activation]
        net = network(params, activation)
        slopes = net.slopes(shown(request.param[0], request.param[-1])[0][:JACOBIANS])
        jacobians = [f[:, :, None] * w.T for f, w in zip(slopes, net.weights, strict=False)]
        made[activation] = jacobians, jax.device_get(look(jnp.int32(CHOICES.index(activation))))
    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_every_value_lies_within_its_error(looked, method, activation):
    jacobians, found = looked[activation][0], looked[activation][1][method]
    for i, layer in enumerate(jacobians):
        wanted = summarized(list(layer))
        values = {"mean": wanted["all"].mean(axis=1), "max": wanted["all"][:, 0]}
        values["median"] = np.median(wanted["all"], axis=1)
        for name, each in values.items():
            value, error = (found[f"jacobian_{name}_singular_value{end}"][i] for end in ("", "_error"))
            may_be = error * (1.5 if method == "lanczos" else 1)  # of a 95 % interval, among many
            assert abs(value - each.mean()) <= may_be + 1e-5 * wanted["all"].max(), name
            assert method != "exact" or error == 0
            assert method != "gram" or error < 0.01 * wanted["all"].max()
        rms = np.sqrt((wanted["all"] ** 2).mean())
        np.testing.assert_allclose(found["jacobian_rms_singular_value"][i], rms, rtol=1e-5)
        inside, _ = histogram(wanted["all"] / rms, COORDINATES["singular_value_bin"])
        density, error = (found[f"jacobian_singular_value_histogram{end}"][i] for end in ("", "_error"))
        assert (np.abs(density - inside) <= error + 1e-3).mean() > 0.97
        running = np.abs(np.cumsum(density - inside)) * 0.05
        assert (running <= found["jacobian_singular_value_share_error"][i] + 1e-4).mean() > 0.97


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_smallest_is_known_exactly_or_not_at_all(looked, activation):
    """A ReLU's dead units leave Jacobians of less than full rank: an SVD tells 0 from small, the Gram matrix can't."""
    jacobians, found = looked[activation]
    for i, layer in enumerate(jacobians):
        wanted = summarized(list(layer))
        smallest = wanted["min_singular_value"]
        names = ("jacobian_min_singular_value", "jacobian_condition", "jacobian_log_mean_singular_value")
        for name in names:
            assert np.isnan(found["lanczos"][name][i]), name
        np.testing.assert_allclose(found["exact"][names[0]][i], smallest, rtol=1e-2, atol=1e-7)
        known = (wanted["all"][:, -1] > 0.01 * wanted["all"][:, 0]).all()
        for name in names:
            if known:
                np.testing.assert_allclose(found["gram"][name][i], found["exact"][name][i], rtol=1e-2, err_msg=name)
        if (wanted["all"][:, -1] < 1e-4 * wanted["all"][:, 0]).any():
            assert all(np.isnan(found["gram"][name][i]) for name in names)


def test_both_cases_came_up(looked):
    smallest = {
        a: min(summarized(list(layer))["all"][:, -1].min() for layer in layers) for a, (layers, _) in looked.items()
    }
    assert smallest["relu"] < 1e-6
    assert smallest["tanh"] > 1e-3


def test_all_probes_that_know_several_methods_are_told_so_in_a_sweep():
    assert {n for n, one in BUILT_IN.items() if one.by} == set(specs.METHODS)


def test_the_method_stands_beside_the_number(tmp_path):
    chosen = (probe("jacobians", method="gram"), probe("jacobian_spectra", at(1), method="lanczos"))
    out = run(sweep(model=mlp(widths=(8, 6)), seeds=(1,), probes=chosen, steps=2, record=at()), tmp_path / "small")
    found = load(out).records()
    assert found["jacobian_mean_singular_value"].attrs["method"].startswith("eigenvalues of the Gram matrix")
    assert "Lanczos quadrature" in found["jacobian_median_singular_value"].attrs["method"]
    assert (found["jacobian_mean_singular_value_error"].sel(step=0) > 0).all()
    assert found["jacobian_mean_singular_value"].attrs["cadence"] == "at()"
    assert found["jacobian_median_singular_value"].attrs["cadence"] == "at(1)"
    assert found["train_loss"].attrs["cadence"] == "at() and at(1)"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ((["a"] * 3,), "a"),
        ((["a"] * 3, "a"), "a"),
        (([], "a"), "a"),
        ((["a"], "b"), "from layer 1 on: a; output layer: b"),
        ((["a", "a"], "b"), "from layer 1 on: a; output layer: b"),
        ((["a", "b", "b"], "a"), "layer 1: a; from layer 2 on: b; output layer: a"),
        ((["a", "a", "b"],), "from layer 1 on: a; from layer 3 on: b"),
    ],
)
def test_layers_that_are_measured_alike_are_not_counted_off(said, line):
    assert told_by_layer(*said) == line


def test_a_method_is_part_of_what_a_run_is_unless_it_is_the_usual_one():
    def ids(*probes):
        return [r.id for r in sweep(probes=probes).runs()]

    assert ids(probe("jacobians", method="auto")) == ids(probe("jacobians"))
    assert "method" not in probe("jacobians").items()
    different = [ids(probe("jacobians", method=m))[0] for m in ("auto", *METHODS)]
    assert len(set(different)) == 4


def measured(scene):
    return jnp.zeros(())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: probe("jacobians", method="grams"), "probe.method: 'grams' is not known\n  hint: 'gram'"),
        (lambda: probe("hessian", method="exact"), "probe.method: 'hessian' knows one way alone"),
        (lambda: probe(measured, method="exact"), "probe.method: 'exact' is not for a function of your own"),
        (lambda: probe("jacobians", method=3), "probe.method: 3 is not"),
    ],
)
def test_a_method_that_a_probe_does_not_know_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        wrong()
