"""Records in which every claim of a sweep of the paper is true, and changes of them that make one claim false.

A record is a function of run and step. At the learning rate that validation does not choose all claims are false.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from glorot_jax import Sweep, load, load_sweep
from glorot_jax.analysis.results import SCALARS, Results
from glorot_jax.engine.sweep import Run
from glorot_jax.paper.settings import EPOCH
from glorot_jax.probes.probe import ACTIVATION_BINS, QUANTILES
from tests.analysis import invented
from tests.engine.small import ROOT

FOLDER = ROOT / "sweeps" / "glorot2010"
LAYER = ("layer",)
DIMS = {
    "activation_mean": LAYER,
    "activation_std": LAYER,
    "activation_quantile": ("layer", "quantile"),
    "activation_histogram": ("layer", "activation_bin"),
    "gradient_std": LAYER,
    "weight_gradient_std": LAYER,
    "jacobian_mean_singular_value": LAYER,
}
SETTINGS = {
    "shapeset": ["seeds=range(2)", f"steps={40 * EPOCH}"],
    "saturation": ["scale=full", "seeds=range(2)", f"steps={40 * EPOCH}"],
}
"""Two seeds, several learning rates, and as many updates as sigmoid networks need to leave their plateau."""

World = Mapping[str, Callable[[Run, int], Any]]
"""By name of a record what a run has at a step; ``error`` stands for all scalars."""


def model(run: Run) -> tuple[str, str]:
    return str(run.config["model.activation"]), str(run.config["model.init"])


def depth(run: Run) -> int:
    return len(run.config["model.widths"])


def layers(run: Run) -> np.ndarray:
    return np.arange(1, depth(run) + 1)


@cache
def described(sweep: str) -> Sweep:
    return load_sweep(FOLDER / f"{sweep}.py", SETTINGS.get(sweep, ["seeds=range(2)"]))


@cache
def runs(sweep: str) -> tuple[Run, ...]:
    return tuple(described(sweep).runs())


@cache
def chosen_rates(sweep: str) -> dict[str, float]:
    """The lowest, by activation and optimizer."""
    chosen: dict[str, float] = {}
    for run in runs(sweep):
        rate = run.config["optimizer.learning_rate"]
        chosen[_searched(run)] = min(rate, chosen.get(_searched(run), rate))
    return chosen


def _searched(run: Run) -> str:
    return f"{run.config['model.activation']} {run.config['optimizer']}"


def recorded(sweep: str, world: World, name: str) -> Callable[[Run, int], np.ndarray]:
    """What runs of a sweep record in a world: seeds differ a little, and ones at a learning rate that is not chosen."""
    chosen = chosen_rates(sweep)

    def value(run: Run, step: int) -> np.ndarray:
        value = np.asarray(world[name](run, step), float) * (1 + 1e-4 * run.seed)
        return value if run.config["optimizer.learning_rate"] == chosen[_searched(run)] else np.ones_like(value)

    return value


def results(where: Path, sweep: str, world: World) -> Results:
    """Writes the results of a sweep of the paper in a world, and reads them."""
    end = runs(sweep)[0].steps
    steps = sorted({s * EPOCH for s in (0, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 35) if s * EPOCH < end} | {end})
    error = recorded(sweep, world, "error")
    arrays = {name: (DIMS[name], recorded(sweep, world, name)) for name in world if name in DIMS}
    made = invented.results(
        where,
        described(sweep),
        lambda run, name, step: float(error(run, step)),
        steps=steps,
        arrays=arrays,
        commits=False,
    )
    return load(made)


def changed(found: Results, sweep: str, change: World) -> Results:
    """Returns the same results, but for the records that a change names."""
    by_id = {run.id: run for run in runs(sweep)}
    other = copy(found)

    def record(cohort: str, name: str) -> Any:
        read = found.record(cohort, name)
        told = "error" if name in SCALARS else name
        if told not in change:
            return read
        value = recorded(sweep, change, told)
        at = [(by_id[run], step) for run in read["run"].to_numpy() for step in read["step"].to_numpy()]
        return read.copy(data=np.reshape([value(run, int(step)) for run, step in at], read.shape))

    other.record = record
    return other


def with_svm(found: Results, error: float = 0.5947, examples: int = 100_000) -> Results:
    """Puts a support vector machine beside results."""
    row = {"baseline": "svm", "examples": examples, "of": 100_000, "test_error": error}
    (found.paths[0] / "baselines.json").write_text(json.dumps([row]), encoding="utf-8")
    return found


# ---- before the first update


INITIALIZATION: World = {
    "error": lambda run, step: 0.9,
    "activation_std": lambda run, step: 0.3 * factor(run) ** layers(run),
    "gradient_std": lambda run, step: 0.03 * factor(run) ** -layers(run),
    "weight_gradient_std": lambda run, step: 0.002 * np.array([1.05, 1, 1, 1, 0.97]),
    "jacobian_mean_singular_value": lambda run, step: np.array(
        [0.2, 0.48, 0.49, 0.49, 0.49] if model(run)[1] == "standard" else [0.2, 0.74, 0.76, 0.78, 0.8]
    ),
}


def factor(run: Run) -> float:
    return 0.57 if model(run)[1] == "standard" else 0.9


# ---- Shapeset: errors, and layer by layer over training


ERRORS = {
    ("softsign", "standard", 5): 0.163,
    ("softsign", "normalized", 5): 0.161,
    ("tanh", "standard", 5): 0.272,
    ("tanh", "normalized", 5): 0.156,
    ("sigmoid", "standard", 4): 0.36,
    ("sigmoid", "standard", 5): 0.834,
}


def errors(**changes: float) -> Callable[[Run, int], float]:
    """Those of Table 1 and Figure 11, but for a model's, such as ``tanh_normalized=0.3``, ``sigmoid_4=0.5``."""

    def error(run: Run, step: int) -> float:
        activation, init = model(run)
        return changes.get(f"{activation}_{init}", changes.get(f"{activation}_{depth(run)}", _error(run)))

    return error


def _error(run: Run) -> float:
    return ERRORS[*model(run), depth(run)]


def sigmoid_means(below: tuple[float, float, float] = (0.55, 0.6, 0.72), top: float = 0.05) -> Any:
    """Mean activations: 0.5 at first, then so for three epochs; lower ones in the layers below when that is over."""

    def means(run: Run, step: int) -> Any:
        if model(run)[0] != "sigmoid" or depth(run) != 4 or step == 0:
            return np.full(depth(run), 0.5)
        return [*below, top] if step <= 3 * EPOCH else [0.4, 0.35, 0.3, 0.4]

    return means


def quantiles(**delays: tuple[float, float]) -> Any:
    """Outer quantiles rise to their end, layer l within (a + b l) epochs: activation_init=(a, b).

    Tanh has the outer one on the negative side.
    """
    usual = {"tanh_standard": (0.0, 6.0), "tanh_normalized": (3.0, 0.0), "softsign_standard": (3.0, 0.0)} | delays

    def found(run: Run, step: int) -> Any:
        activation, init = model(run)
        within, per_layer = usual.get(f"{activation}_{init}", (3.0, 0.0))
        rise = np.minimum(1, step / EPOCH / (within + per_layer * layers(run)))
        outer = 0.1 + (0.99 - 0.1 if activation == "tanh" else usual.get("end", 0.9) - 0.1) * rise
        sides = {"tanh": (1, 0.8)}.get(activation, (0.8, 1))
        return np.stack([outer * s for s in (-sides[0], -sides[0], 0, sides[1], sides[1])], axis=-1)

    assert QUANTILES == (0.01, 0.02, 0.5, 0.98, 0.99)
    return found


def histograms(**shapes: tuple[float, float]) -> Any:
    """Densities of activations: a peak at ±centre with so much of the mass, and the rest even over [−1, 1]."""
    usual = {"tanh": (1.0, 0.5), "softsign": (0.65, 0.7)} | shapes
    centres = np.array(ACTIVATION_BINS.centres)
    even = np.where(np.abs(centres) < 0.99, 1.0, np.where(np.abs(centres) < 1.01, 0.5, 0.0))

    def found(run: Run, step: int) -> Any:
        centre, mass = usual.get(model(run)[0], (0.0, 0.0))
        peak = np.isclose(np.abs(centres), centre) / ACTIVATION_BINS.width
        one = (1 - mass) * even / 2 + mass * peak / 2
        return np.tile(one, (depth(run), 1))

    return found


def bottom_over_top(standard: float, normalized: float) -> Any:
    """Deviations whose first is so many times the last from the middle of the training on, a tenth of that before."""

    def found(run: Run, step: int) -> Any:
        ratio = standard if model(run)[1] == "standard" else normalized
        ratio = ratio if step >= 20 * EPOCH else ratio / 10
        return 0.02 * ratio ** np.linspace(1, 0, depth(run))

    return found


SHAPESET: World = {"error": errors()}
SATURATION: World = {
    "error": errors(),
    "activation_mean": sigmoid_means(),
    "activation_quantile": quantiles(),
    "activation_histogram": histograms(),
    "weight_gradient_std": bottom_over_top(3.4, 1.7),
    "gradient_std": bottom_over_top(2.0, 1.5),
}


def pretrained(less: float = 0.04) -> World:
    """How much less networks err that were pre-trained."""
    return {"error": lambda run, step: 0.156 - (less if run.config["pretraining"] else 0)}


def second_order(**changes: float) -> World:
    """Errors by optimizer and initialization, such as ``gradient_variance_standard=0.3``."""
    usual = {"sgd_standard": 0.27, "sgd_normalized": 0.16}
    for kind in ("gradient_variance", "levenberg_marquardt"):
        usual |= {f"{kind}_standard": 0.2, f"{kind}_normalized": 0.14}
    known = usual | changes
    return {"error": lambda run, step: known[f"{run.config['optimizer']}_{model(run)[1]}"]}


FINITE: World = {"error": lambda run, step: 0.5047}


# ---- pictures, costs, widths


def table(softsign: float, softsign_n: float, tanh: float, tanh_n: float, sigmoid: float) -> World:
    """A column of Table 1, in percent; sigmoid networks of four layers err as those of five."""
    column = {
        ("softsign", "standard"): softsign,
        ("softsign", "normalized"): softsign_n,
        ("tanh", "standard"): tanh,
        ("tanh", "normalized"): tanh_n,
        ("sigmoid", "standard"): sigmoid,
    }
    return {"error": lambda run, step: column[model(run)] / 100 if depth(run) == 5 else 0.5}


MNIST = table(1.64, 1.72, 1.76, 1.64, 2.21)
CIFAR10 = table(55.78, 53.8, 55.9, 52.92, 57.28)
SMALL_IMAGENET = table(69.14, 68.13, 70.58, 68.57, 70.66)


def costs(standard: float = 0.1, normalized: float = 0.1) -> World:
    """How much more the quadratic cost errs."""
    more = {"standard": standard, "normalized": normalized}
    return {"error": lambda run, step: 0.3 + (more[model(run)[1]] if run.config["loss"] == "quadratic" else 0)}


def widths(growing: float = 0.1, shrinking: float = 0.1, factors: Mapping[bool, float] | None = None) -> World:
    """How much less the normalized initialization errs; its gradients' factor per layer, where standard has 0.57."""

    def grows(run: Run) -> bool:
        units = run.config["model.widths"]
        return units[0] < units[-1]

    def error(run: Run, step: int) -> float:
        return 0.3 if model(run)[1] == "normalized" else 0.3 + (growing if grows(run) else shrinking)

    def gradients(run: Run, step: int) -> Any:
        one = 0.57 if model(run)[1] == "standard" else ({True: 0.9, False: 0.9} | dict(factors or {}))[grows(run)]
        return 0.03 * one ** -layers(run).astype(float)

    return {"error": error, "gradient_std": gradients}
