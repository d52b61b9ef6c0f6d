"""Classifiers that are no networks, trained on the examples that a sweep's networks see: a yardstick."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glorot_jax.config import plain
from glorot_jax.errors import InputError
from glorot_jax.files import write_json

if TYPE_CHECKING:
    from glorot_jax.specs import Data

FILE = "baselines.json"
COSTS = (1.0, 10.0, 100.0)
GAMMAS = (1.0, 2.0, 4.0, 8.0)
_ROWS = 1000
"""Examples classified together."""


def svm(
    data: Data,
    examples: int = 5000,
    seed: int = 0,
    costs: Sequence[float] = COSTS,
    gammas: Sequence[float] = GAMMAS,
) -> dict[str, Any]:
    """Returns how well a support vector machine with a Gaussian kernel exp(−γ |x − y|²) does, one against one.

    It is trained on a subsample of the training examples, the first that a run of this seed is shown; C and γ are those
    of the grid with the fewest errors on the whole validation set, the smaller ones of several. Memory is 12 bytes a
    pair of training examples, time goes with the square of their number and more.

    Args:
        data: such as ``shapeset(examples=100_000)``; its training examples are held on the device.
        examples: size of the subsample.
        seed: of the subsample, in [0, 2**32).
        costs: values of C.
        gammas: values of γ, in units of 1/(features × variance of the subsample's numbers).

    Returns:
        Settings, the choice, its errors as shares in [0, 1], ``test_error_low`` and ``test_error_high``, the 95 %
        Wilson interval over test examples, and ``grid``, the validation error of each combination.

    Raises:
        InputError: scikit-learn is not installed, or there are not so many training examples.

    Source: Glorot & Bengio (2010), section 2.1, where the subsample is all of 100 000 examples of Shapeset.
    """
    machine = _machine()
    (inputs, labels), (valid, valid_labels), (test, test_labels), count = _examples(data, examples, seed)
    unit = 1 / (inputs.shape[1] * inputs.var(dtype=np.float64))
    apart, apart_valid = (_squared_distances(some, inputs) for some in (inputs, valid))
    tried, best = [], None
    for gamma in sorted(gammas):
        kernel = np.exp(-gamma * unit * apart, dtype=np.float64)
        for cost in sorted(costs):
            made = machine(C=cost, kernel="precomputed").fit(kernel, labels)
            error = _error(made, apart_valid, gamma * unit, valid_labels)
            tried.append({"C": cost, "gamma": gamma, "valid_error": error})
            if best is None or error < best[0]:
                best = error, cost, gamma, made
    assert best is not None
    error, cost, gamma, made = best
    test_error = _error(made, _squared_distances(test, inputs), gamma * unit, test_labels)
    low, high = _interval(test_error, len(test_labels))
    return {
        "baseline": "svm",
        "data": plain(data),
        "examples": examples,
        "of": count,
        "seed": seed,
        "C": cost,
        "gamma": gamma,
        "gamma_unit": unit,
        "support_vectors": int(made.n_support_.sum()),
        "valid_error": error,
        "valid_examples": len(valid_labels),
        "test_error": test_error,
        "test_error_low": low,
        "test_error_high": high,
        "test_examples": len(test_labels),
        "grid": tried,
    }


def svm_beside(folder: str | Path, examples: Sequence[int] = (5000,), seeds: Sequence[int] = (0,)) -> list[dict]:
    """Returns ``svm`` on the data of a results folder for each size and seed; what was found is kept in the folder.

    Only what is missing there is trained.

    Raises:
        InputError: no sweep was started there, its runs have several data sets, or as of ``svm``.
    """
    from glorot_jax.engine.drive import described
    from glorot_jax.store.remote import kept

    found = {run.data for run in described(folder).runs()}
    if len(found) > 1:
        raise InputError(f"{folder}: its runs are trained on {len(found)} data sets", "one is needed")
    (data,) = found
    with kept(folder) as there:
        rows = read(there.folder)
        for size in examples:
            for seed in seeds:
                if not any(_names(row, data, size, seed) for row in rows):
                    rows.append(svm(data, size, seed))
                    write_json(there.folder / FILE, rows)
                    there.push(FILE)
    return [row for size in examples for seed in seeds for row in rows if _names(row, data, size, seed)]


def read(folder: str | Path) -> list[dict[str, Any]]:
    """Returns what was found of the baselines beside a results folder's runs, as ``svm`` returned it.

    Raises:
        InputError: its file is damaged.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(f"{path}: damaged", "remove it and train the baselines again") from None


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Returns lines for a person: one a subsample, then mean and interval over the seeds of each size."""
    from glorot_jax.analysis.statistics import interval

    lines = []
    for size in dict.fromkeys(row["examples"] for row in rows):
        same = [row for row in rows if row["examples"] == size]
        for row in same:
            lines.append(
                f"svm on {size:,} of {row['of']:,} examples, seed {row['seed']}: test error {row['test_error']:.2%} "
                f"({row['test_error_low']:.2%} to {row['test_error_high']:.2%}), C {row['C']:g}, γ {row['gamma']:g} × "
                f"{row['gamma_unit']:.2g}"
            )
        if len(same) > 1:
            over = interval([row["test_error"] for row in same])
            lines.append(f"  mean over {over.n} seeds: {over.mean:.2%} ± {over.half_width:.2%}")
    return "\n".join(lines)


def _names(row: dict[str, Any], data: Data, examples: int, seed: int) -> bool:
    wanted = {"baseline": "svm", "data": plain(data), "examples": examples, "seed": seed}
    return all(row.get(name) == value for name, value in wanted.items())


def _machine() -> Any:
    try:
        from sklearn.svm import SVC
    except ImportError:
        raise InputError(
            "baseline: svm needs scikit-learn, which is not installed", "pip install 'glorot-jax[svm]'"
        ) from None
    return SVC


def _examples(data: Data, examples: int, seed: int) -> tuple[Any, Any, Any, int]:
    """The subsample, validation and test set, each (scaled inputs [n, features], labels); the training set's size."""
    import jax

    from glorot_jax.data.dataset import build

    made = build(data)
    if not made.arrays:
        raise InputError(
            "baseline: the data set has no training examples on the device", "shapeset(examples=100_000) has"
        )
    count = len(made.arrays["labels"])
    if not 0 < examples <= count:
        raise InputError(f"examples: {examples} is not an integer from 1 to {count}")
    train = jax.jit(made.draw, static_argnums=4)(made.arrays, np.uint32(seed), 0, 0, examples)
    splits = train, made.valid, made.test
    return *((np.asarray(made.scale(x)).reshape(len(y), -1), np.asarray(y)) for x, y in splits), count


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float32 [rows, columns]."""
    lengths = (np.einsum("ij,ij->i", one, one) for one in (rows, columns))
    found = np.add.outer(*lengths) - 2 * rows @ columns.T
    return np.maximum(found, 0, out=found)


def _error(machine: Any, apart: np.ndarray, gamma: float, labels: np.ndarray) -> float:
    """Share of examples that are classified wrongly, a part of them at a time."""
    parts = (slice(start, start + _ROWS) for start in range(0, len(labels), _ROWS))
    right = sum(int((machine.predict(np.exp(-gamma * apart[p], dtype=np.float64)) == labels[p]).sum()) for p in parts)
    return 1 - right / len(labels)


def _interval(error: float, count: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(round(error * count), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
