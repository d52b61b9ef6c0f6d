"""The probes beyond the paper's, each against NumPy and SciPy float64; and networks where a formula might give NaN."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glorot_jax import activations, at, grid, initializers, load, losses, mlp, probe, run, sgd, shapeset, spectra
from glorot_jax.data import dataset
from glorot_jax.models.mlp import Mlp
from glorot_jax.models.points import noted
from glorot_jax.probes import BUILT_IN
from glorot_jax.probes.probe import COORDINATES, QUANTILES, Scene, described, forward
from glorot_jax.specs import PRESETS
from tests.core.reference import FUNCTIONS, Function, Network, network
from tests.engine.small import assert_same_bits, parameters, records, sweep

EXAMPLES, JACOBIANS, BATCH, RATE = 30, 2, 10, 0.5
START = 0.75
"""Networks by hand are said to have started at so much of what they are."""
BATCH_STEP = 3
"""Whose mini-batch a record at step 3 shows its probes: that of the next update."""
DATA = shapeset(size=8, validation=40, test=40)
WIDTHS = (8, 6)
NEW = tuple(name for name in PRESETS["full"] if name not in PRESETS["paper"])
TRUTHS = FUNCTIONS | {
    "relu": Function(lambda s: np.maximum(s, 0), lambda s: (s > 0) * 1.0),
    "identity": Function(lambda s: s, np.ones_like),
}
STEEPEST = {"sigmoid": 0.25, "tanh": 1, "softsign": 1, "relu": 1, "identity": 1}
AT_ZERO = {"sigmoid": 0.25, "tanh": 1, "softsign": 1, "relu": 0.5, "identity": 1}


class Case(NamedTuple):
    """One network, what it is shown, and what the probes found."""

    net: Network
    shown: tuple[np.ndarray, np.ndarray]
    batch: tuple[np.ndarray, np.ndarray]
    found: Mapping[str, np.ndarray]
    start: Network


def by_layer(name: str, values) -> dict[str, np.ndarray]:
    *hidden, output = values
    return {name: np.array(hidden), f"output_{name}": output}


def histogram(values: np.ndarray, centres) -> tuple[np.ndarray, float]:
    """Density over bins around the centres, and the share outside, by NumPy."""
    width = centres[1] - centres[0]
    counts, _ = np.histogram(values, np.array([*centres, centres[-1] + width]) - width / 2)
    return counts / values.size / width, 1 - counts.sum() / values.size


def truth_saturation(case: Case) -> dict[str, np.ndarray]:
    net, (x, _) = case.net, case.shown
    steepest, at_zero = STEEPEST[net.activation], AT_ZERO[net.activation]
    slopes, layers = net.slopes(x), net.forward(x)[0]
    spectra_ = [np.linalg.svd(z, compute_uv=False) for z in layers[1:]]

    def cosine(z):
        z = z[np.linalg.norm(z, axis=1) > 0]
        if len(z) < 2:
            return np.nan
        pairs = itertools.combinations(z / np.linalg.norm(z, axis=1, keepdims=True), 2)
        return np.mean([a @ b for a, b in pairs])

    def entropy_rank(s):
        p = s[s > 0] / max(s.sum(), 1e-300)
        return np.exp(-(p * np.log(p)).sum()) if len(p) else 0

    return {
        "saturated_fraction": [(np.abs(f) < 0.05 * steepest).mean() for f in slopes],
        "dead_unit_fraction": [(np.abs(f) < 0.05 * steepest).all(axis=0).mean() for f in slopes],
        "linear_fraction": [(np.abs(f - at_zero) <= 0.05 * steepest).mean() for f in slopes],
        "activation_entropy_rank": [entropy_rank(s) for s in spectra_],
        "activation_participation_rank": [(s**2).sum() ** 2 / max((s**4).sum(), 1e-300) for s in spectra_],
        "activation_cosine": [cosine(z) for z in layers[1:]],
        "input_cosine": cosine(layers[0]),
    }


def truth_histograms(case: Case) -> dict[str, np.ndarray]:
    inside, outside = zip(
        *(histogram(z, COORDINATES["activation_bin"]) for z in case.net.forward(case.shown[0])[0][1:]), strict=True
    )
    few = [part[:JACOBIANS] for part in case.shown]
    mean_weight = [g.mean(axis=0) for g in each_gradient(case.net, *case.batch)]
    mean_back = [e.mean(axis=0) for e in case.net.errors(*case.batch)]
    return {
        "activation_histogram": inside,
        "activation_histogram_outside": outside,
        **spread("gradient", case.net.errors(*case.shown)),
        **spread("weight_gradient", each_gradient(case.net, *few)),
        **by_layer("batch_gradient_quantile", [np.quantile(g, QUANTILES) for g in mean_weight]),
        **by_layer("batch_backpropagated_gradient_std", [e.std() for e in mean_back]),
        **by_layer("batch_backpropagated_gradient_quantile", [np.quantile(e, QUANTILES) for e in mean_back]),
    }


def spread(name: str, layers: list[np.ndarray]) -> dict[str, np.ndarray]:
    rms = [np.sqrt((g**2).mean()) for g in layers]
    relative = [histogram(g / (r or 1), COORDINATES["gradient_bin"]) for g, r in zip(layers, rms, strict=True)]
    return {
        **by_layer(f"{name}_rms", rms),
        **by_layer(f"{name}_histogram", [inside for inside, _ in relative]),
        **by_layer(f"{name}_histogram_outside", [outside for _, outside in relative]),
        **by_layer(f"{name}_quantile", [np.quantile(g, QUANTILES) for g in layers]),
    }


def truth_weights(case: Case) -> dict[str, np.ndarray]:
    singular = [np.linalg.svd(w, compute_uv=False) for w in case.net.weights]
    return {
        **by_layer("weight_norm", [np.sqrt((w**2).sum()) for w in case.net.weights]),
        **by_layer("weight_std", [w.std() for w in case.net.weights]),
        **by_layer("weight_spectral_norm", [s[0] for s in singular]),
        **by_layer("weight_spectral_norm_error", [0.0 for _ in singular]),
        **by_layer("weight_stable_rank", [(s**2).sum() / s[0] ** 2 if s[0] else 0 for s in singular]),
    }


def each_gradient(net: Network, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Weight gradients of every example by itself: [n, fan_in, fan_out] by layer."""
    return [z[:, :, None] * e[:, None, :] for z, e in zip(net.forward(x)[0], net.errors(x, labels), strict=True)]


@np.errstate(divide="ignore", invalid="ignore")
def truth_gradient_norms(case: Case) -> dict[str, np.ndarray]:
    """McCandlish et al. (2018), equation A.2 with B_small = 1 and B_big = n, from explicit per-example gradients."""
    batch = [g.mean(axis=0) for g in each_gradient(case.net, *case.batch)]
    norms = [np.linalg.norm(g) for g in batch]
    each = each_gradient(case.net, *case.shown)
    n = len(case.shown[1])
    flat = np.concatenate([*(g.reshape(n, -1) for g in each), *case.net.errors(*case.shown)], axis=1)

    def estimates(g):
        small, big = (g**2).sum(axis=1).mean(), (g.mean(axis=0) ** 2).sum()
        return (small - big) / (1 - 1 / len(g)), (len(g) * big - small) / (len(g) - 1)

    trace, square = estimates(flat)
    left_out = [estimates(np.delete(flat, i, axis=0)) for i in range(n)]
    ratios = np.array([t / s for t, s in left_out])
    return {
        **by_layer("batch_gradient_norm", norms),
        **by_layer("batch_gradient_std", [g.std() for g in batch]),
        "batch_gradient_norm_ratio": np.array(norms[:-1]) / norms[-2],
        **by_layer(
            "update_ratio",
            [RATE * norm / np.linalg.norm(w) for norm, w in zip(norms, case.net.weights, strict=True)],
        ),
        **by_layer(
            "gradient_signal_to_noise",
            [np.linalg.norm(g.mean(axis=0)) / np.sqrt(g.var(axis=0, ddof=1).sum()) for g in each],
        ),
        "gradient_covariance_trace": trace,
        "gradient_square_norm": square,
        "gradient_noise_scale": trace / square if square > 0 else np.nan,
        "gradient_noise_scale_error": ratios.std() * np.sqrt(n - 1) if square > 0 else np.nan,
    }


def whole_jacobian(net: Network, x: np.ndarray, first: int, last: int) -> np.ndarray:
    """∂z^last/∂z^first of one example, as a product of all its layers'; ``last`` may be the logits'."""
    made = np.eye(net.weights[first].shape[0])
    slopes = [*(f[0] for f in net.slopes(x[None])), np.ones(net.weights[-1].shape[1])]
    for w, f in list(zip(net.weights, slopes, strict=True))[first:last]:
        made = f[:, None] * (w.T @ made)
    return made


@np.errstate(divide="ignore", invalid="ignore")
def summarized(matrices: list[np.ndarray]) -> dict[str, np.ndarray]:
    singular = np.array([np.linalg.svd(m, compute_uv=False) for m in matrices])
    floor = np.sqrt(max(matrices[0].shape)) * 2.0**-23 * singular[:, :1]
    sure = np.where(singular > floor, singular, 0)
    return {
        "mean_singular_value": singular.mean(),
        "rms_singular_value": np.sqrt((singular**2).mean(axis=1)),
        "median_singular_value": np.median(singular, axis=1).mean(),
        "min_singular_value": sure[:, -1].mean(),
        "max_singular_value": singular[:, 0].mean(),
        "condition": (sure[:, 0] / sure[:, -1]).mean(),
        "log_mean_singular_value": np.log(sure).mean(),
        "all": singular,
    }


def truth_jacobian_spectra(case: Case) -> dict[str, np.ndarray]:
    examples = case.shown[0][:JACOBIANS]
    layers = [
        summarized([whole_jacobian(case.net, x, i, i + 1) for x in examples]) for i in range(len(case.net.weights) - 1)
    ]
    wanted = {
        f"jacobian_{name}": np.array([layer[name] for layer in layers])
        for name in layers[0]
        if name not in ("mean_singular_value", "rms_singular_value", "condition", "all")
    }
    rms = np.array([np.sqrt((layer["all"] ** 2).mean()) for layer in layers])
    relative = [
        histogram(layer["all"] / (r or 1), COORDINATES["singular_value_bin"])
        for layer, r in zip(layers, rms, strict=True)
    ]
    return wanted | {
        "jacobian_rms_singular_value": rms,
        "jacobian_rms_singular_value_error": np.zeros(len(layers)),
        "jacobian_condition": np.array([layer["condition"] for layer in layers]),
        "jacobian_median_singular_value_error": np.zeros(len(layers)),
        "jacobian_max_singular_value_error": np.zeros(len(layers)),
        "jacobian_singular_value_histogram": np.array([inside for inside, _ in relative]),
        "jacobian_singular_value_histogram_error": np.zeros((len(layers), len(COORDINATES["singular_value_bin"]))),
        "jacobian_singular_value_share_error": np.zeros((len(layers), len(COORDINATES["singular_value_bin"]))),
        "jacobian_singular_value_histogram_outside": np.array([outside for _, outside in relative]),
    }


def truth_input_output_jacobian(case: Case) -> dict[str, np.ndarray]:
    depth = len(case.net.weights)
    wanted = {}
    for name, last in (("input_hidden", depth - 1), ("input_output", depth)):
        found = summarized([whole_jacobian(case.net, x, 0, last) for x in case.shown[0][:JACOBIANS]])
        for value in ("mean_singular_value", "rms_singular_value", "max_singular_value"):
            wanted |= {f"{name}_{value}": np.mean(found[value]), f"{name}_{value}_error": 0.0}
        for value in ("condition", "min_singular_value", "log_mean_singular_value"):
            wanted[f"{name}_{value}"] = np.mean(found[value])
    return wanted


def truth_module_outputs(case: Case) -> dict[str, np.ndarray]:
    """Of the activation, called for the first hidden layer at first, and of the dense layers."""
    inputs, s = case.net.forward(case.shown[0])
    parts = [inputs[1], *s]
    return {
        "module_output_mean": np.array([z.mean() for z in parts]),
        "module_output_std": np.array([z.std() for z in parts]),
        "module_output_quantile": np.array([np.quantile(z, QUANTILES) for z in parts]),
    }


def logit_gradients(net: Network, x: np.ndarray) -> np.ndarray:
    """∂(one logit)/∂(all parameters), a row an example and class: [n · classes, parameters]."""
    inputs, s = net.forward(x)
    slopes, classes = net.slopes(x), s[-1].shape[1]
    rows = []
    for chosen in np.eye(classes):
        back = [np.tile(chosen, (len(x), 1))]
        for w, slope in zip(net.weights[:0:-1], slopes[::-1], strict=True):
            back.insert(0, slope * (back[0] @ w.T))
        parts = [(z[:, :, None] * e[:, None, :]).reshape(len(x), -1) for z, e in zip(inputs, back, strict=True)]
        rows.append(np.concatenate([*parts, *back], axis=1))
    return np.stack(rows, axis=1).reshape(len(x) * classes, -1)


@np.errstate(divide="ignore", invalid="ignore")
def truth_ntk(case: Case) -> dict[str, np.ndarray]:
    now, before = (j @ j.T for j in (logit_gradients(net, case.shown[0][:16]) for net in (case.net, case.start)))
    values = np.maximum(scipy.linalg.eigvalsh(now)[::-1], 0)
    p = values[values > 0] / values.sum()
    return {
        "ntk_eigenvalue": values[:5],
        "ntk_trace": np.trace(now),
        "ntk_entropy_rank": np.exp(-(p * np.log(p)).sum()),
        "ntk_participation_rank": values.sum() ** 2 / (values**2).sum(),
        "ntk_drift": np.linalg.norm(now - before) / np.linalg.norm(before),
        "ntk_alignment": (now * before).sum() / np.linalg.norm(now) / np.linalg.norm(before),
    }


TRUTHS_BY_PROBE = {
    "saturation": truth_saturation,
    "histograms": truth_histograms,
    "weights": truth_weights,
    "gradient_norms": truth_gradient_norms,
    "jacobian_spectra": truth_jacobian_spectra,
    "input_output_jacobian": truth_input_output_jacobian,
    "ntk": truth_ntk,
    "module_outputs": truth_module_outputs,
}


def flat_hessian(net: Network, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Hessian of the mean loss by central differences of the gradient, parameters in the order of their paths."""

    def gradient(theta):
        parts = np.split(theta, np.cumsum(sizes)[:-1])
        moved = Network(
            [p.reshape(w.shape) for p, w in zip(parts[1::2], net.weights, strict=True)], parts[0::2], net[2]
        )
        inputs, errors = moved.forward(x)[0], moved.errors(x, labels)
        return np.concatenate(
            [g for z, e in zip(inputs, errors, strict=True) for g in (e.mean(axis=0), (z.T @ e).ravel() / len(x))]
        )

    sizes = [v.size for w, b in zip(net.weights, net.biases, strict=True) for v in (b, w)]
    theta = np.concatenate([v.ravel() for w, b in zip(net.weights, net.biases, strict=True) for v in (b, w)])
    h = 1e-5
    columns = [(gradient(theta + h * e) - gradient(theta - h * e)) / (2 * h) for e in np.eye(theta.size)]
    return (np.array(columns) + np.array(columns).T) / 2


def check_hessian(case: Case, hessian: np.ndarray) -> None:
    """The eigenvalue within its error; the trace equal to what the same random vectors give with the whole matrix."""
    found = case.found
    largest = scipy.linalg.eigvalsh(hessian)[-1]
    error = found["hessian_max_eigenvalue_error"]
    close(found["hessian_sharpness"], found["hessian_max_eigenvalue"] * RATE / 2, rtol=1e-6)
    close(found["hessian_sharpness_error"], error * RATE / 2, rtol=1e-6)
    assert abs(found["hessian_max_eigenvalue"] - largest) <= error + 1e-3 * abs(largest) + 1e-6
    assert 0 <= error <= 0.05 * abs(largest) + 1e-6
    vectors = signs(3, case.net)
    each = np.einsum("ki,ij,kj->k", vectors, hessian, vectors)
    close(found["hessian_trace"], each.mean(), rtol=1e-3)
    close(found["hessian_trace_error"], each.std(ddof=1) / 4, rtol=1e-3)
    assert abs(found["hessian_trace"] - np.trace(hessian)) <= 4 * found["hessian_trace_error"] + 1e-5
    for name, wanted in truth_hessian_diagonal(case.net, hessian).items():
        size = min(w.size for w in case.net.weights)
        atol = 2.01 / size if "negative" in name else 1e-3 * np.abs(np.diagonal(hessian)).max() + 1e-6
        close(found[name], wanted, rtol=2e-3, atol=atol, name=name)
    true = by_layer("hessian_diagonal_mean", [np.diagonal(hessian)[at].mean() for at in kernels(case.net)])
    for name, wanted in true.items():
        assert (np.abs(found[name] - wanted) <= 5 * found[f"{name}_error"] + 1e-5).all(), name


def signs(seed: int, net: Network) -> np.ndarray:
    """A probe's 16 random vectors, which begin with the output layer, in the order of the layers."""
    sizes = [w.size + b.size for w, b in zip(net.weights, net.biases, strict=True)]
    keys = jax.random.split(jax.random.key(seed), 16)
    drawn = np.array([jax.random.rademacher(k, (sum(sizes),)) for k in keys], np.float64)
    return np.roll(drawn, -sizes[-1], axis=1)


def kernels(net: Network) -> list[slice]:
    """Where each layer's weights lie among all parameters."""
    found, end = [], 0
    for w, b in zip(net.weights, net.biases, strict=True):
        found.append(slice(end + b.size, end := end + b.size + w.size))
    return found


def truth_hessian_diagonal(net: Network, hessian: np.ndarray) -> dict[str, np.ndarray]:
    """What the probe's random vectors give with the whole matrix."""
    vectors = signs(4, net)
    each = vectors * (vectors @ hessian)
    layers = [each[:, at] for at in kernels(net)]
    entries = [e.mean(axis=0) for e in layers]
    noise = [np.sqrt((e.var(axis=0, ddof=1) / 16).mean()) for e in layers]
    return {
        **by_layer("hessian_diagonal_mean", [e.mean() for e in layers]),
        **by_layer("hessian_diagonal_mean_error", [e.mean(axis=1).std(ddof=1) / 4 for e in layers]),
        **by_layer(
            "hessian_diagonal_std",
            [np.sqrt(max(e.var() - s**2, 0)) for e, s in zip(entries, noise, strict=True)],
        ),
        **by_layer("hessian_diagonal_quantile", [np.quantile(e, QUANTILES) for e in entries]),
        **by_layer("hessian_diagonal_negative_fraction", [(e < 0).mean() for e in entries]),
        **by_layer("hessian_diagonal_error", noise),
    }


def close(found, wanted, rtol: float = 2e-4, atol: float = 1e-6, name: str = "") -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=rtol, atol=atol, err_msg=name)


LOOSE = {"condition": 2e-2, "log_mean": 2e-3, "min_singular": 1e-2, "noise": 2e-3, "square_norm": 2e-3}
"""What cancels or rests on the smallest singular value is right to fewer digits in float32."""


@np.errstate(over="ignore")
def check(case: Case, probe: str) -> None:
    for name, wanted in TRUTHS_BY_PROBE[probe](case).items():
        rtol = max([2e-4, *(loose for part, loose in LOOSE.items() if part in name)])
        atol = 1e-5 * np.max(wanted) if name == "ntk_eigenvalue" else 1e-5
        if name in ("saturated_fraction", "linear_fraction"):  # one value may lie on the threshold
            atol = 1.01 / (EXAMPLES * min(w.shape[1] for w in case.net.weights[:-1]))
        if name.endswith("histogram"):  # a value on an edge falls on either side
            off = np.abs(np.asarray(case.found[name]) - wanted).sum(axis=-1) / np.maximum(np.sum(wanted, axis=-1), 1)
            assert (off < 0.02).all(), name
            continue
        close(case.found[name], wanted, rtol, atol, name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small sweep three steps from its start."""
    return among(tmp_path_factory.mktemp("catalogue"), (0, 1), "sigmoid", "tanh", "softsign")


@pytest.fixture(scope="module")
def cases(trained) -> list[Case]:
    data = dataset.build(DATA)

    def scaled(pixels):
        return np.asarray(pixels, np.float64).reshape(len(pixels), -1) / 255 * 2 - 1

    shown = scaled(data.test[0])[:EXAMPLES], np.asarray(data.test[1])[:EXAMPLES]
    results = load(trained)
    last = results.records().sel(step=3)
    found = []
    for name, state in parameters(trained).items():
        params = {p.removeprefix("params/"): v for p, v in state.items() if p.startswith("params/")}
        pixels, labels = data.draw({}, int(results.runs.loc[name, "seed"]), 0, BATCH_STEP, BATCH)
        net = network(params, results.runs.loc[name, "model.activation"])
        mine = {str(k): v.to_numpy() for k, v in last.sel(run=name).data_vars.items()}
        start = network(unflat(mine.pop("first_parameters"), params), net.activation)
        found.append(Case(net, shown, (scaled(pixels), np.asarray(labels)), mine, start))
    return found


def first_parameters(scene):
    """the parameters that a run started from"""
    return jax.flatten_util.ravel_pytree(dict(scene.initial_params))[0]


def unflat(flat: np.ndarray, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    ends = np.cumsum([like[path].size for path in sorted(like)])[:-1]
    return {p: v.reshape(like[p].shape) for p, v in zip(sorted(like), np.split(flat, ends), strict=True)}


@pytest.mark.parametrize("probe", TRUTHS_BY_PROBE)
def test_every_output_is_numpys(cases, probe):
    for case in cases:
        check(case, probe)


def test_every_output_has_a_truth(cases, trained):
    """None is forgotten here, and each says what it is, on how many examples and how it was found."""
    wanted = {name for truth in TRUTHS_BY_PROBE.values() for name in truth(cases[0])}
    wanted |= {"hessian_max_eigenvalue", "hessian_max_eigenvalue_error", "hessian_trace", "hessian_trace_error"}
    wanted |= {"hessian_sharpness", "hessian_sharpness_error"}
    wanted |= truth_hessian_diagonal(
        cases[0].net, np.eye(sum(v.size for v in (*cases[0].net[0], *cases[0].net[1])))
    ).keys()
    found = load(trained).records()
    old = {
        n for n in cases[0].found if n.endswith(("_loss", "_error")) and n.split("_")[0] in ("train", "valid", "test")
    }
    old |= {"activation_mean", "activation_std", "activation_quantile", "gradient_std", "output_gradient_std"}
    old |= {"weight_gradient_std", "output_weight_gradient_std"}
    old |= {"jacobian_mean_singular_value", "jacobian_mean_singular_value_error"}
    measured = {str(name) for name, values in found.data_vars.items() if "step" in values.dims}
    assert measured - old - {"first_parameters"} == wanted
    assert set(BUILT_IN) == set(PRESETS["full"]) == set(PRESETS["paper"]) | set(NEW)
    for name in wanted:
        assert {"long_name", "units", "method", "examples", "cadence"} <= found[name].attrs.keys(), name
    for dim in ("activation_bin", "gradient_bin", "singular_value_bin"):
        centres = found[dim].to_numpy()
        assert 0 in centres
        assert 1 in centres
        np.testing.assert_allclose(np.diff(centres), centres[-1] - centres[-2], rtol=1e-9)


def test_histograms_and_what_lies_outside_add_up_to_one(cases, trained):
    found = load(trained).records()
    names = [n for n in map(str, found.data_vars) if n.endswith("_histogram")]
    assert len(names) == 6
    for name in names:
        total = found[name].sum(found[name].dims[-1]) * found[name].attrs["bin_width"] + found[f"{name}_outside"]
        np.testing.assert_allclose(total, 1, atol=1e-5)


def test_curvature_is_that_of_finite_differences(cases):
    for case in cases[::2]:
        check_hessian(case, flat_hessian(case.net, *case.shown))


CHOICES = ("sigmoid", "tanh", "softsign", "relu", "identity")
FEATURES, CLASSES = 8, 4
FINDERS = (*NEW, "jacobians", "gradients", "activations")


def by_path(weights: list[np.ndarray], biases: list[np.ndarray]) -> dict[str, jax.Array]:
    params = {f"layers.{i}.kernel": jnp.asarray(w, jnp.float32) for i, w in enumerate(weights)}
    return params | {f"layers.{i}.bias": jnp.asarray(b, jnp.float32) for i, b in enumerate(biases)}


def scene(params: Mapping[str, jax.Array], index: jax.Array, choices=CHOICES) -> Scene:
    """A network by hand, its inputs already scaled."""
    widths = tuple(params[f"layers.{i}.kernel"].shape[1] for i in range(len(params) // 2 - 1))
    features, classes = params["layers.0.kernel"].shape[0], params[f"layers.{len(widths)}.kernel"].shape[1]
    x, labels = shown(features, classes)

    def build(changed: Mapping[str, jax.Array], rest: object = None) -> nnx.Module:
        here = params | changed
        module = Mlp(
            (features,),
            classes,
            widths=widths,
            activation=tuple(getattr(activations, name) for name in choices),
            init=(initializers.standard,),
            activation_index=index,
            init_index=jnp.int32(0),
            gain=jnp.float32(1),
            key=jax.random.key(0),
            inputs=jnp.zeros((1, features)),
        )
        for i, layer in enumerate(module.layers):
            layer.kernel[...], layer.bias[...] = here[f"layers.{i}.kernel"], here[f"layers.{i}.bias"]
        return module

    module = build(params)
    with noted(module) as told:
        forward(module, x)
    return Scene(
        build=build,
        build_together=build,
        build_training=build,
        notes=told(),
        params=params,
        rest={},
        settle=lambda params: {},
        settled={},
        loss=losses.nll,
        scale=lambda v: v,
        valid=(x, labels),
        test=(x, labels),
        inputs=x[:EXAMPLES],
        labels=labels[:EXAMPLES],
        batch=(x[-BATCH:], labels[-BATCH:]),
        updates=lambda gradient: {name: -RATE * g for name, g in gradient.items()},
        jacobian_examples=JACOBIANS,
        learning_rate=jnp.float32(RATE),
        stable_curvature=lambda: jnp.float32(2 / RATE),
        initial=lambda: {name: START * array for name, array in params.items()},
    )


@functools.cache
def shown(features: int = FEATURES, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(EXAMPLES + BATCH, features)).astype(np.float32), draw.integers(
        0, classes, EXAMPLES + BATCH
    )


@jax.jit
def look(params: Mapping[str, jax.Array], index: jax.Array) -> dict[str, jax.Array]:
    """What all probes find; compiled once for each shape, whatever the activation."""
    here = scene(params, index)
    return {name: value for probe in FINDERS for name, value in BUILT_IN[probe].measure(here).items()}


def looked_at(weights: list[np.ndarray], biases: list[np.ndarray], activation: str) -> Case:
    params = by_path(weights, biases)
    found = jax.device_get(look(params, CHOICES.index(activation)))
    x, labels = shown(weights[0].shape[0], weights[-1].shape[1])
    FUNCTIONS[activation] = TRUTHS[activation]
    net = network(params, activation)
    start = net._replace(weights=[START * w for w in net.weights], biases=[START * b for b in net.biases])
    return Case(net, (x[:EXAMPLES], labels[:EXAMPLES]), (x[-BATCH:], labels[-BATCH:]), found, start)


SIZES = (FEATURES, *(8, 8), CLASSES)


def drawn(seed: int, gain: float, bias: float = 0.3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    draw = np.random.default_rng(seed)
    shapes = list(itertools.pairwise(SIZES))
    weights = [gain * draw.normal(size=s, scale=s[0] ** -0.5).astype(np.float32) for s in shapes]
    return weights, [bias * draw.normal(size=s[1]).astype(np.float32) for s in shapes]


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(CHOICES), st.integers(0, 10**6), st.floats(0.3, 2.5))
def test_any_activation_gain_and_weights(activation, seed, gain):
    case = looked_at(*drawn(seed, gain), activation)
    for name in TRUTHS_BY_PROBE:
        check(case, name)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_curvature_of_a_network_by_hand(activation):
    case = looked_at(*drawn(1, 1.5), activation)
    check_hessian(case, flat_hessian(case.net, *case.shown))


def test_moments_are_those_of_the_first_examples_alone(monkeypatch):
    """At the network of ``drawn``: as the whole probe's, on fewer examples."""
    monkeypatch.setattr(sys.modules["glorot_jax.probes.activations"], "MOMENTS_EXAMPLES", 5)
    params = by_path(*drawn(2, 1.0))
    found = described(probe("activations", method="moments")).measure(scene(params, jnp.int32(CHOICES.index("tanh"))))
    FUNCTIONS["tanh"] = TRUTHS["tanh"]
    layers = network(params, "tanh").forward(shown()[0][:5])[0][1:]
    assert found.keys() == {"activation_mean", "activation_std"}
    close(found["activation_mean"], [z.mean() for z in layers])
    close(found["activation_std"], [z.std() for z in layers])


UNDEFINED = {"jacobian_condition", "input_hidden_condition", "input_output_condition"}
QUOTIENTS = {"batch_gradient_norm_ratio", "update_ratio", "output_update_ratio", "gradient_signal_to_noise"}
QUOTIENTS |= {"output_gradient_signal_to_noise"}
NOISE = {"gradient_noise_scale", "gradient_noise_scale_error"}


def not_numbers(case: Case) -> set[str]:
    return {name for name, value in case.found.items() if np.isnan(value).any()}


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "identity"])
def test_a_network_of_zeros(activation):
    """Only 0/0 is NaN: conditions of Jacobians of zeros, and quotients of gradients or weights of zeros."""
    weights, biases = drawn(0, 0, bias=0)
    case = looked_at(weights, biases, activation)
    cosine = set() if activation == "sigmoid" else {"activation_cosine"}
    assert not_numbers(case) <= UNDEFINED | QUOTIENTS | NOISE | cosine
    assert not_numbers(case) >= UNDEFINED
    for name in TRUTHS_BY_PROBE:
        check(case, name)
    assert (case.found["weight_stable_rank"] == 0).all()
    assert (case.found["jacobian_rms_singular_value"] == 0).all()
    assert (case.found["jacobian_log_mean_singular_value"] == -np.inf).all()
    middle = COORDINATES["gradient_bin"].index(0)
    np.testing.assert_allclose(case.found["gradient_histogram"][:, middle], 10, rtol=1e-6)
    assert case.found["dead_unit_fraction"].tolist() == [1 if activation == "relu" else 0] * 2
    assert case.found["linear_fraction"].tolist() == [0 if activation == "relu" else 1] * 2
    if activation != "relu":  # which stands on its kink
        check_hessian(case, flat_hessian(case.net, *case.shown))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softsign", "relu"])
@np.errstate(over="ignore")
def test_a_network_far_in_saturation(activation):
    """Weights a thousand times too large."""
    case = looked_at(*drawn(2, 1e3), activation)
    assert not_numbers(case) <= UNDEFINED | QUOTIENTS | NOISE
    for name in ("saturation", "weights"):
        check(case, name)
    for name in ("jacobian_rms_singular_value", "jacobian_max_singular_value", "input_output_rms_singular_value"):
        close(case.found[name], (truth_jacobian_spectra(case) | truth_input_output_jacobian(case))[name], rtol=1e-3)
    if activation in ("tanh", "sigmoid"):
        assert (case.found["saturated_fraction"] > 0.98).all()
        assert (case.found["dead_unit_fraction"] > 0.8).all()
    assert np.isfinite([case.found["hessian_max_eigenvalue"], case.found["hessian_trace"]]).all()


def test_a_network_that_passes_everything_on():
    """Identity weights and a linear activation: all singular values are 1, all ranks those of the inputs."""
    weights = [np.eye(8), np.eye(8), np.eye(8, CLASSES)]
    case = looked_at(weights, [np.zeros(w.shape[1]) for w in weights], "identity")
    found = case.found
    for name in ("rms", "median", "min", "max"):
        close(found[f"jacobian_{name}_singular_value"], 1)
    close(found["jacobian_condition"], 1)
    close(found["jacobian_log_mean_singular_value"], 0)
    at_one = COORDINATES["singular_value_bin"].index(1)
    close(found["jacobian_singular_value_histogram"][:, at_one], 20)
    close([found["input_hidden_mean_singular_value"], found["input_hidden_condition"]], 1)
    close([found["input_output_mean_singular_value"], found["input_output_max_singular_value"]], 1)
    close(found["weight_stable_rank"], 8)
    close(found["linear_fraction"], 1)
    close(found["activation_cosine"], found["input_cosine"], atol=1e-5)
    for name in TRUTHS_BY_PROBE:
        check(case, name)


def test_a_layer_of_low_rank_is_told_from_rounding():
    """Condition ∞, mean logarithm −∞, smallest singular value 0; everything else is that of the matrix."""
    weights, biases = drawn(3, 1.0)
    weights[1] = (weights[1][:, :3] @ weights[1][:3]).astype(np.float32)
    case = looked_at(weights, biases, "tanh")
    assert case.found["jacobian_condition"][1] == np.inf
    assert case.found["jacobian_log_mean_singular_value"][1] == -np.inf
    assert case.found["jacobian_min_singular_value"][1] == 0
    assert np.isfinite(case.found["jacobian_condition"][0])
    assert not not_numbers(case) - NOISE
    wanted = truth_jacobian_spectra(case)
    for name in ("jacobian_rms_singular_value", "jacobian_median_singular_value", "jacobian_max_singular_value"):
        close(case.found[name], wanted[name])


def test_jacobians_are_those_of_the_whole_function():
    """Against JAX's own Jacobian of logits by inputs, in place of the product of layers."""
    weights, biases = drawn(4, 1.2)
    case = looked_at(weights, biases, "tanh")

    def logits(x):
        z = jnp.tanh(jnp.tanh(x @ weights[0] + biases[0]) @ weights[1] + biases[1])
        return z @ weights[2] + biases[2]

    whole = jax.vmap(jax.jacrev(logits))(case.shown[0][:JACOBIANS])
    singular = np.linalg.svd(np.asarray(whole, np.float64), compute_uv=False)
    close(case.found["input_output_mean_singular_value"], singular.mean())
    close(case.found["input_output_max_singular_value"], singular[:, 0].mean())


def test_slopes_at_any_place_are_the_activations_own():
    """Also where biases are not 0; none of the layers above is heard."""
    params = by_path(*drawn(5, 2.0))
    places = np.linspace(-6, 6, 5 * 8, dtype=np.float32).reshape(5, 8) + np.float32(0.01)
    names = activations.__all__
    functions = [getattr(activations, name) for name in names]
    found = jax.jit(jax.vmap(lambda i: scene(params, i, names).slopes_at({"hidden1": places, "hidden2": -places})))(
        jnp.arange(len(names))
    )
    for i, function in enumerate(functions):
        slope = jax.vmap(jax.vmap(jax.grad(function)))
        close(found["hidden1"][i], slope(places), atol=1e-5, name=names[i])
        close(found["hidden2"][i], slope(-places), atol=1e-5, name=names[i])


@pytest.fixture(scope="module")
def wide() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is found of layers of 300 units, estimated, and what an exact decomposition says."""
    draw = np.random.default_rng(6)
    sizes = (280, 300, 300, CLASSES)
    weights = [draw.normal(size=s, scale=s[0] ** -0.5).astype(np.float32) for s in itertools.pairwise(sizes)]
    params = by_path(weights, [np.zeros(w.shape[1]) for w in weights])
    probes = ("jacobian_spectra", "input_output_jacobian", "weights")

    @jax.jit
    def find(params):
        here = scene(params, jnp.int32(CHOICES.index("tanh")))
        return {name: value for probe in probes for name, value in BUILT_IN[probe].measure(here).items()}

    found = jax.device_get(find(params))
    x, labels = shown(280, CLASSES)
    net = network(params, "tanh")
    case = Case(net, (x[:EXAMPLES], labels[:EXAMPLES]), (x, labels), found, net)
    wanted = truth_jacobian_spectra(case) | truth_input_output_jacobian(case) | truth_weights(case)
    return {name: (value, wanted[name]) for name, value in found.items()}


@pytest.mark.parametrize(
    "name",
    [
        *("jacobian_median_singular_value", "jacobian_max_singular_value", "weight_spectral_norm"),
        *("input_hidden_mean_singular_value", "input_hidden_rms_singular_value", "input_hidden_max_singular_value"),
    ],
)
def test_estimates_of_large_layers_keep_to_their_error(wide, name):
    (found, wanted), (error, _) = wide[name], wide[f"{name}_error"]
    assert (np.abs(found - wanted) <= error + 1e-4 * np.abs(wanted)).all()
    assert (error < 0.5 * np.abs(wanted)).all()
    if "max" in name or "spectral" in name:
        assert (found <= wanted * (1 + 1e-5)).all()


def test_what_products_can_not_tell_is_nan_and_the_rest_is_exact(wide):
    for name in ("jacobian_min_singular_value", "jacobian_condition", "jacobian_log_mean_singular_value"):
        assert np.isnan(wide[name][0]).all(), name
    for name in ("input_hidden_condition", "input_hidden_min_singular_value", "input_hidden_log_mean_singular_value"):
        assert np.isnan(wide[name][0]), name
    close(*wide["jacobian_rms_singular_value"])
    close(*wide["input_output_max_singular_value"])  # four logits: exact
    found, wanted = wide["jacobian_singular_value_histogram"]
    error = wide["jacobian_singular_value_histogram_error"][0]
    assert (np.abs(found - wanted) <= error + 1e-3).all()
    assert error.mean() / 20 < 0.15
    running = np.abs(np.cumsum(found - wanted, axis=1)) / 20
    error = wide["jacobian_singular_value_share_error"][0]
    assert (running <= error + 1e-3).all()
    assert error.mean() < 0.1
    assert running.max() < 0.1  # of the distribution function, which the nodes know in 20 steps each


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 12]), st.floats(-3, 3))
def test_largest_eigenvalue_and_trace_of_any_symmetric_matrix(seed, size, shift):
    """Also of negative ones, multiples of one and those of low rank: exact where there are more steps than sizes."""
    a = np.random.default_rng(seed).normal(size=(size, max(1, size // 2)))
    matrix = (a @ a.T + shift * np.eye(size)).astype(np.float32)
    found = curvatures(matrix)
    truth = scipy.linalg.eigvalsh(matrix.astype(np.float64))
    scale = np.abs(truth).max()
    assert abs(found[0].value - truth[-1]) <= found[0].error + 1e-3 * scale
    assert abs(found[1].value - np.trace(matrix)) <= 6 * found[1].error + 1e-3 * scale


@jax.jit
def curvatures(matrix):
    size, random = len(matrix), jax.random.key(0)
    return (
        spectra.lanczos_largest_eigenvalue(lambda v: matrix @ v, size, random),
        spectra.hutchinson_trace(lambda v: matrix @ v, size, random),
    )


@pytest.mark.parametrize(
    ("values", "entropy", "participation"), [([1] * 7, 7, 7), ([3, 0, 0], 1, 1), ([0, 0], 0, 0), ([1e-30] * 2, 2, 2)]
)
def test_effective_ranks_of_equal_single_and_no_values(values, entropy, participation):
    found = spectra.effective_ranks(jnp.array(values, jnp.float32))
    close(found, (entropy, participation))


def test_effective_ranks_of_a_random_matrix():
    """Closed forms for large square Gaussian matrices: e^H = .805 n, participation n/2, stable rank n/4."""
    n = 200
    values = np.linalg.svd(np.random.default_rng(7).normal(size=(n, n)), compute_uv=False).astype(np.float32)
    entropy, participation = spectra.effective_ranks(jnp.asarray(values))
    close(entropy / n, 0.805, rtol=0.02)
    close(participation / n, 0.5, rtol=0.02)


def among(out, seeds: tuple[int, ...], *functions: str):
    """A sweep with all probes on."""
    return run(
        sweep(
            data=DATA,
            model=mlp(widths=WIDTHS, activation=grid(*functions), init="normalized", gain=1.5),
            optimizer=sgd(learning_rate=RATE),
            batch_size=BATCH,
            seeds=seeds,
            steps=3,
            record=at(),
            examples=EXAMPLES,
            jacobian_examples=JACOBIANS,
            probes=(*PRESETS["full"], probe(first_parameters, dims=("parameter",))),
        ),
        out / "small",
        width=4,
    )


def test_no_probe_knows_its_neighbours(trained, tmp_path):
    """The same bits among other activations, in another place."""
    other = among(tmp_path / "other", (5, 0), "relu", "gelu", "tanh")
    assert len(records(trained).keys() & records(other).keys()) == 1
    assert_same_bits(parameters(trained), parameters(other))
    assert_same_bits(records(trained), records(other))
