"""What the claims of Glorot & Bengio (2010) are judged by: numbers by seed, read from the results of its sweeps.

Where a sweep has several learning rates, validation error chooses the one that stands for a network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax import baselines
from glorot_jax.analysis.measures import Undecided, first_passage, per_seed
from glorot_jax.analysis.selection import RATE
from glorot_jax.errors import InputError
from glorot_jax.paper.settings import DEPTH, EPOCH

if TYPE_CHECKING:
    import pandas as pd

    from glorot_jax.analysis.results import Results

PAPER = "Glorot & Bengio (2010)"
RATES = (RATE, "pretraining.learning_rate")
"""Settings that validation error chooses."""
TOLERANCE = 0.1
"""How far a number that the paper gives as about this much may be off, as a share of it."""
SATURATED = 0.95
"""An activation beyond is saturated, of tanh or softsign."""
ESCAPE = 700_000
"""Updates after which sigmoid networks of four hidden layers leave their plateau: Figure 11."""
PLATEAU = 0.82
"""Test errors above have learned no more than Shapeset's most frequent class; it is a sixth, 10 000 examples are shown,
and Table 1 has 82.61 % for sigmoid networks that never left the plateau."""


def about(value: float) -> dict[str, float]:
    """Returns the thresholds of a claim that something is about so much."""
    return {"above": value * (1 - TOLERANCE), "below": value * (1 + TOLERANCE)}


# ---- which runs


def network(
    results: Results, activation: str = "tanh", init: str = "standard", depth: int | None = None
) -> dict[str, Any]:
    """Returns the settings that tell a network's runs; of ``depth`` hidden layers, where the sweep has several.

    Raises:
        InputError: no network is so deep.
    """
    where: dict[str, Any] = {"model.activation": activation, "model.init": init}
    if depth is None:
        return where
    fitting = [widths for widths in all_widths(results) if len(widths) == depth]
    if not fitting:
        raise InputError(f"model.widths: no network has {depth} hidden layers")
    return where | {"model.widths": fitting[0]}


def all_widths(results: Results) -> list[list[int]]:
    """Returns the units of the hidden layers of each network that the sweep has."""
    return [json.loads(shown) for shown in results.configurations["model.widths"].unique()]


def read(results: Results, name: str, where: Mapping[str, Any], **settings: Any) -> Any:
    """Returns ``per_seed`` at the chosen learning rates: of a record by layer a column for each, 1 at the bottom."""
    rates = [path for path in RATES if path in results.varying]
    return per_seed(results, name, where, select=rates, **settings)


def updates(results: Results) -> int:
    """Returns how long the sweep trains."""
    return int(results.runs["steps"].max())


def _spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


# ---- errors


def error(results: Results, where: Mapping[str, Any]) -> pd.Series:
    """Returns the test error when training has ended; a run that diverged answers with the most frequent class."""
    return read(results, "test_error", where, diverged=_guessing(results))


def _guessing(results: Results) -> float:
    return 5 / 6 if (results.configurations["data"] == "shapeset").all() else 0.9


def svm_error(results: Results) -> float:
    """Returns the test error of the support vector machine that stands beside the results, mean over its subsamples.

    Raises:
        InputError: none was trained.
        Undecided: they were trained on fewer examples than the networks.
    """
    rows = [row for row in baselines.read(results.paths[0]) if row["baseline"] == "svm"]
    if not rows:
        raise InputError(f"{results.name}: no support vector machine was trained", "glorot baseline svm DIR")
    most = max(row["examples"] for row in rows)
    largest = [row for row in rows if row["examples"] == most]
    found = float(np.mean([row["test_error"] for row in largest]))
    if most < largest[0]["of"]:
        networks = error(results, {}).mean()
        raise Undecided(
            f"the networks err on {networks:.1%}, the machine on {found:.1%}, but it was trained on "
            f"{_spaced(most)} of the {_spaced(largest[0]['of'])} examples"
        )
    return found


def sigmoid_errors(results: Results, depth: int) -> pd.DataFrame:
    """Returns the test error by step of sigmoid networks, when those of four layers had the time to leave the plateau.

    Raises:
        Undecided: these are still on it, and had less time than the paper's.
    """

    def by_step(depth: int) -> pd.DataFrame:
        where = network(results, "sigmoid", depth=depth)
        return read(results, "test_error", where, step="all", diverged=_guessing(results))

    four = by_step(4)
    reached = four.min(axis=1).mean()
    if updates(results) < ESCAPE and reached > PLATEAU:
        raise Undecided(
            f"networks of 4 hidden layers are still on the plateau, test error {100 * reached:.1f} %; the paper's "
            f"left it after {_spaced(ESCAPE)} updates, these had {_spaced(updates(results))}"
        )
    return four if depth == 4 else by_step(depth)


# ---- before the first update


def factor_per_layer(results: Results, name: str, where: Mapping[str, Any]) -> pd.Series:
    """Returns by which factor a deviation changes from a layer to the next, up or down, geometric mean over layers.

    Args:
        name: ``"activation_std"``, counted upwards, or ``"gradient_std"``, counted downwards.
    """
    found = read(results, name, where, step=0)
    factors = (found.iloc[:, -1] / found.iloc[:, 0]) ** (1 / (found.shape[1] - 1))
    return factors if name == "activation_std" else 1 / factors


def unevenness(results: Results, name: str, where: Mapping[str, Any]) -> pd.Series:
    """Returns how far the layer that is furthest from the layers' mean is off, as a share of it."""
    found = read(results, name, where, step=0)
    return found.div(found.mean(axis=1), axis=0).sub(1).abs().max(axis=1)


def mean_singular_value(results: Results, where: Mapping[str, Any]) -> pd.Series:
    """Returns the mean singular value of the Jacobians of layers between layers of one width: all but the first."""
    found = read(results, "jacobian_mean_singular_value", where, step=0)
    return found.iloc[:, 1:].mean(axis=1)


# ---- in training


def largest_activations(results: Results, where: Mapping[str, Any], layer: int) -> pd.DataFrame:
    """Returns by step the outer one of the 1 % and 99 % quantiles of a layer's activations, as an absolute value."""
    low, high = (
        read(results, "activation_quantile", where, step="all", layer=layer, quantile=at) for at in (0.01, 0.99)
    )
    return np.maximum(high, -low)


def saturation_times(results: Results, where: Mapping[str, Any], share_of_rise: float | None = None) -> pd.DataFrame:
    """Returns by layer after how many epochs its largest activations pass ``SATURATED``, infinity where they don't.

    Args:
        share_of_rise: they pass this share of their own rise from the first record to the last, instead.
    """
    import pandas as pd

    def time(layer: int) -> pd.Series:
        found = largest_activations(results, where, layer)
        first, last = found.iloc[:, 0], found.iloc[:, -1]
        level = SATURATED if share_of_rise is None else first + share_of_rise * (last - first)
        return first_passage(found, level) / EPOCH

    return pd.DataFrame({layer: time(layer) for layer in range(1, DEPTH + 1)})


def shortest_delay(results: Results, where: Mapping[str, Any]) -> pd.Series:
    """Returns the least number of epochs from one layer's saturation to that of the layer above.

    A layer that does not saturate counts with the end of the training; of two such the delay is unknown, left out.

    Raises:
        Undecided: in some run fewer than three layers saturate.
    """
    times = _enough_saturation_times(results, where)
    seen = times.replace(np.inf, np.nan)
    counted = seen.fillna(updates(results) / EPOCH)
    delays = counted.diff(axis=1).where(seen.notna() | seen.shift(axis=1).notna())
    return delays.iloc[:, 1:].min(axis=1)


def mean_delay(results: Results, where: Mapping[str, Any]) -> pd.Series:
    """Returns how many epochs later a layer saturates than the one below, by least squares over those that do.

    Raises:
        Undecided: as ``shortest_delay``.
    """
    times = _enough_saturation_times(results, where)
    layers = np.array(times.columns, float)

    def slope(found: np.ndarray) -> float:
        known = np.isfinite(found)
        return float(np.polyfit(layers[known], found[known], 1)[0])

    return times.apply(lambda row: slope(row.to_numpy(float)), axis=1)


def _enough_saturation_times(results: Results, where: Mapping[str, Any]) -> pd.DataFrame:
    times = saturation_times(results, where)
    if times.isna().any(axis=None):
        raise InputError("activation_quantile: some run has no finite number")
    saturated = np.isfinite(times).sum(axis=1).min()
    if saturated < 3:
        done = _spaced(updates(results))
        raise Undecided(f"within {done} updates no more than {saturated} of {DEPTH} layers saturate in some run")
    return times


def spread_of_rise(results: Results, where: Mapping[str, Any]) -> pd.Series:
    """Returns how many epochs lie between the first and the last layer that is half-way in its rise to saturation."""
    times = saturation_times(results, where, 0.5)
    return times.max(axis=1) - times.min(axis=1)


def bottom_over_top(results: Results, name: str, where: Mapping[str, Any]) -> pd.Series:
    """Returns the first hidden layer's value over the last's, geometric mean over the second half of the training."""
    first, last = (np.log(read(results, name, where, step="all", layer=layer)) for layer in (1, -1))
    late = first.columns >= updates(results) / 2
    return np.exp((first - last).loc[:, late].mean(axis=1, skipna=False))


# ---- when training has ended


def activation_shares(results: Results, where: Mapping[str, Any], layer: int) -> pd.DataFrame:
    """Returns which share of a layer's activations has |z| in each bin: columns 0, 0.05, …, 1, the bins' centres."""
    import pandas as pd

    found = read(results, "activation_histogram", where, layer=layer)
    both = pd.DataFrame({z: found[z] + (found[-z] if z else 0) for z in found.columns if 0 <= z <= 1})
    return both.div(both.sum(axis=1), axis=0)


def _widths(shares: pd.DataFrame) -> np.ndarray:
    """Of the bins of |z|: of those at 0 and at 1 a half is empty."""
    width = shares.columns[1] - shares.columns[0]
    return np.where(np.isin(shares.columns, (0, 1)), width / 2, width)


def saturated_share(results: Results, where: Mapping[str, Any], layer: int) -> pd.Series:
    """Returns the share of a layer's activations in the bins from ±0.95 on, which is |z| > 0.925."""
    shares = activation_shares(results, where, layer)
    return shares.loc[:, shares.columns >= SATURATED].sum(axis=1)


def edge_over_inside(results: Results, where: Mapping[str, Any], layer: int) -> pd.Series:
    """Returns the density of a layer's activations in the bins from ±0.95 on over that in all others."""
    shares = activation_shares(results, where, layer)
    edge, widths = shares.columns >= SATURATED, _widths(shares)
    outer = shares.loc[:, edge].sum(axis=1)
    return (outer / widths[edge].sum()) / ((1 - outer) / widths[~edge].sum())


def mode(results: Results, where: Mapping[str, Any], layer: int) -> pd.Series:
    """Returns where |z| of a layer's activations is densest, in [0, 1]."""
    shares = activation_shares(results, where, layer)
    return (shares / _widths(shares)).idxmax(axis=1)


# ---- of several of these


def at_own_step(by_step: pd.DataFrame, steps: pd.Series) -> pd.Series:
    """Returns of a table by step the number of each seed at a step of its own."""
    import pandas as pd

    found = [by_step.at[seed, step] for seed, step in steps.items()]
    return pd.Series(found, index=steps.index)


def smallest(parts: Iterable[pd.Series]) -> pd.Series:
    """Returns the smallest of some numbers of a seed; NaN where one is unknown."""
    import pandas as pd

    return pd.concat(list(parts), axis=1).min(axis=1, skipna=False)


def largest(parts: Iterable[pd.Series]) -> pd.Series:
    """Returns the largest of some numbers of a seed; NaN where one is unknown."""
    return -smallest(-part for part in parts)


def average(parts: Iterable[pd.Series]) -> pd.Series:
    """Returns the mean of some numbers of a seed; NaN where one is unknown."""
    import pandas as pd

    return pd.concat(list(parts), axis=1).mean(axis=1, skipna=False)
