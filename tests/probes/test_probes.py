"""What each built-in probe records, against the same quantity worked out in NumPy float64 from the run's parameters."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr

from glorot_jax import at, grid, load, mlp, run, sgd, shapeset
from glorot_jax.data import dataset
from tests.core.reference import Network, network
from tests.engine.small import parameters, sweep

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS, EXAMPLES, JACOBIANS = 40, 30, 2
DATA = shapeset(size=16, validation=70, test=110)
QUANTILES = (0.01, 0.02, 0.5, 0.98, 0.99)


class Case(NamedTuple):
    """One run at its last step: the network that its checkpoint holds, and what its probes recorded then."""

    net: Network
    records: xr.Dataset


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    """A small sweep trained fast for some steps, so that biases are not 0 and layers differ."""
    out = run(
        sweep(
            data=DATA,
            model=mlp(widths=(16, 12), activation=grid("sigmoid", "tanh", "softsign"), init="normalized", gain=1.5),
            optimizer=sgd(learning_rate=0.5),
            seeds=range(2),
            steps=STEPS,
            record=at(),
            examples=EXAMPLES,
            jacobian_examples=JACOBIANS,
        ),
        tmp_path_factory.mktemp("probes") / "small",
    )
    results = load(out)
    last = results.records().sel(step=STEPS)
    return [
        Case(
            network(
                {path.removeprefix("params/"): array for path, array in state.items() if path.startswith("params/")},
                results.runs.loc[name, "model.activation"],
            ),
            last.sel(run=name),
        )
        for name, state in parameters(out).items()
    ]


@pytest.fixture(scope="module")
def sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The fixed evaluation sets, scaled to [−1, 1] here."""
    data = dataset.build(DATA)
    return {
        name: (np.asarray(pixels, np.float64) / 255 * 2 - 1, np.asarray(labels))
        for name, (pixels, labels) in (("valid", data.valid), ("test", data.test))
    }


@pytest.fixture(scope="module")
def shown(sets) -> tuple[np.ndarray, np.ndarray]:
    """What the layer statistics look at: the first test examples."""
    inputs, labels = sets["test"]
    return inputs[:EXAMPLES], labels[:EXAMPLES]


def close(found: xr.DataArray, wanted, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.to_numpy(), wanted, rtol=rtol, atol=atol)


def test_the_networks_are_worth_looking_at(cases):
    """Six runs of three activations, with biases and errors that a mistake would show in."""
    assert sorted(case.net.activation for case in cases) == sorted(("sigmoid", "tanh", "softsign") * 2)
    for case in cases:
        assert all(np.abs(b).max() > 0.01 for b in case.net.biases)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_loss_and_error_are_those_of_the_whole_set(cases, sets, part):
    inputs, labels = sets[part]
    for case in cases:
        close(case.records[f"{part}_loss"], case.net.losses(inputs, labels).mean())
        wrong = case.net.forward(inputs)[1][-1].argmax(axis=1) != labels
        close(case.records[f"{part}_error"], wrong.mean(), atol=1e-7)


def test_activation_statistics_pool_units_and_examples(cases, shown):
    for case in cases:
        layers = case.net.forward(shown[0])[0][1:]
        close(case.records["activation_mean"], [z.mean() for z in layers])
        close(case.records["activation_std"], [z.std() for z in layers])
        close(case.records["activation_quantile"], [np.quantile(z, QUANTILES) for z in layers], atol=1e-5)
        np.testing.assert_allclose(case.records["quantile"], QUANTILES)


def test_gradient_std_is_that_of_each_examples_own_error(cases, shown):
    for case in cases:
        *hidden, output = (e.std() for e in case.net.errors(*shown))
        close(case.records["gradient_std"], hidden)
        close(case.records["output_gradient_std"], output)


def test_weight_gradient_std_is_that_of_all_outer_products(cases, shown):
    """Formed one and all: example × fan_in × fan_out."""
    for case in cases:
        inputs, errors = case.net.forward(shown[0])[0], case.net.errors(*shown)
        products = [np.einsum("ni,nj->nij", z, e) for z, e in zip(inputs, errors, strict=True)]
        assert products[0].shape == (EXAMPLES, 256, 16)
        *hidden, output = (p.std() for p in products)
        close(case.records["weight_gradient_std"], hidden)
        close(case.records["output_weight_gradient_std"], output)


def test_jacobian_mean_singular_value_is_that_of_slopes_times_weights(cases, shown):
    """SVD of diag(f'(s)) Wᵀ for each of the first examples; exact at this size, and said to be."""
    inputs = shown[0][:JACOBIANS]
    for case in cases:
        wanted = [
            np.linalg.svd(slope[:, :, None] * w.T, compute_uv=False).mean()
            for w, slope in zip(case.net.weights, case.net.slopes(inputs), strict=False)
        ]
        close(case.records["jacobian_mean_singular_value"], wanted)
        close(case.records["jacobian_mean_singular_value_error"], 0, atol=0)
        assert "exact SVD" in case.records["jacobian_mean_singular_value"].attrs["method"]


def test_layer_jacobian_is_what_moves_the_activations(cases, shown):
    """The truth above, held against finite differences: diag(f') Wᵀ dz = dz'."""
    net = cases[0].net
    z = net.forward(shown[0][:1])[0]
    direction = np.random.default_rng(0).normal(size=z[1].shape)
    rest = Network(net.weights[1:], net.biases[1:], net.activation)
    ahead, behind = (rest.forward(z[1] + h * direction)[0][1] for h in (1e-6, -1e-6))
    jacobian = net.slopes(shown[0][:1])[1][0][:, None] * net.weights[1].T
    np.testing.assert_allclose(jacobian @ direction[0], (ahead - behind)[0] / 2e-6, rtol=1e-6, atol=1e-8)


def test_every_record_says_what_it_is_and_on_what(cases):
    records = cases[0].records
    for name in map(str, records.data_vars):
        assert records[name].attrs["long_name"], name
        assert records[name].attrs["assumptions" if name.endswith("_theory") else "method"], name
    assert records["test_error"].attrs["examples"] == 110
    assert records["valid_error"].attrs["examples"] == 70
    assert records["gradient_std"].attrs["examples"] == EXAMPLES
    assert records["jacobian_mean_singular_value"].attrs["examples"] == JACOBIANS


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> xr.Dataset:
    """The paper's tanh network, five layers of 1000 units, as initialized by equation 1, on 300 images."""
    out = run(
        sweep(
            data=shapeset(size=32, scaling="symmetric", validation=300, test=300),
            model=mlp(widths=(1000,) * 5, activation="tanh", init="standard"),
            seeds=(0,),
            steps=0,
            record=at(),
            examples=300,
        ),
        tmp_path_factory.mktemp("paper") / "standard",
    )
    return load(out).records().isel(run=0).sel(step=0)


def test_activations_shrink_upwards_as_in_figure_6(paper):
    """From one draw to the next weights scatter these by 2 %, and 300 images by another 2 %."""
    close(paper["activation_std"], [0.303, 0.166, 0.092, 0.053, 0.031], rtol=0.08)
    for below, above in itertools.pairwise(paper["activation_std"].to_numpy()):
        assert 0.54 < above / below < 0.59  # 1/√3, less what tanh takes


def test_back_propagated_gradients_shrink_downwards_as_in_figure_7(paper):
    """Ratios; and at the top √((1 − 1/K) Var W_out), times a slope near 1 (K = 9, Var W = 1/3000)."""
    close(paper["gradient_std"], [0.0017, 0.0032, 0.0057, 0.0100, 0.0172], rtol=0.1)
    assert float(paper["gradient_std"][-1]) == pytest.approx(np.sqrt(8 / 9 / 3000), rel=0.05)
    for below, above in itertools.pairwise(paper["gradient_std"].to_numpy()):
        assert 0.5 < below / above < 0.62


def test_weight_gradients_are_the_same_in_all_layers_as_in_figure_8(paper):
    found = paper["weight_gradient_std"].to_numpy()
    np.testing.assert_allclose(found, found.mean(), rtol=0.1)
    assert 0.0009 < found.mean() < 0.00105


def test_mean_singular_values_are_near_the_quarter_circles_half(paper):
    """Equation 17: 8/(3π√3) = .490, less what tanh' takes; the estimate's own error covers nothing worse."""
    found = paper["jacobian_mean_singular_value"][1:]
    close(found, [0.473, 0.485, 0.488, 0.490], rtol=0.02)
    assert (paper["jacobian_mean_singular_value_error"][1:] < 0.05 * found).all()
    assert "Lanczos" in found.attrs["method"]


def test_an_untrained_network_knows_nothing(paper):
    """Loss near ln 9 nats, error near that of guessing."""
    assert float(paper["test_loss"]) == pytest.approx(np.log(9), rel=0.02)
    assert 0.7 < float(paper["test_error"]) < 1
