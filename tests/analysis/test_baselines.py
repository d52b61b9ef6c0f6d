"""Support vector machines beside a sweep, against scikit-learn's own on the same examples."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.svm import SVC

from glorot_jax import arrays, baselines, digits, load
from glorot_jax.cli import main
from glorot_jax.data.dataset import build
from glorot_jax.errors import InputError
from tests.analysis import invented

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DATA = digits(scaling="symmetric")
COUNT, SEED = 400, 3


@pytest.fixture(scope="module")
def found():
    return baselines.svm(DATA, COUNT, SEED)


@pytest.fixture(scope="module")
def subsample():
    """The first examples that a run of the seed is shown, as batches of ten."""
    made = build(DATA)
    batches = [made.draw(made.arrays, SEED, 0, step, 10) for step in range(COUNT // 10)]
    inputs, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return _scaled(inputs), labels


def _scaled(inputs):
    return np.asarray(inputs, np.float64).reshape(len(inputs), -1) / 127.5 - 1


def test_errors_are_those_of_a_gaussian_kernel_on_what_a_run_sees_first(found, subsample):
    inputs, labels = subsample
    assert found["gamma_unit"] == pytest.approx(1 / (inputs.shape[1] * inputs.var()), rel=1e-5)
    made = build(DATA)
    for tried in found["grid"]:
        machine = SVC(C=tried["C"], gamma=tried["gamma"] * found["gamma_unit"]).fit(inputs, labels)
        assert _error(machine, made.valid) == pytest.approx(tried["valid_error"], abs=1.5 / 300)
        if (tried["C"], tried["gamma"]) == (found["C"], found["gamma"]):
            assert _error(machine, made.test) == pytest.approx(found["test_error"], abs=1.5 / 300)
            assert machine.n_support_.sum() == pytest.approx(found["support_vectors"], abs=3)


def _error(machine, split):
    return np.mean(machine.predict(_scaled(split[0])) != np.asarray(split[1]))


def test_the_choice_has_the_fewest_validation_errors_of_all_combinations(found):
    errors = {(tried["C"], tried["gamma"]): tried["valid_error"] for tried in found["grid"]}
    assert len(errors) == len(baselines.COSTS) * len(baselines.GAMMAS)
    assert errors[found["C"], found["gamma"]] == found["valid_error"] == min(errors.values())
    assert max(errors.values()) > min(errors.values())


def test_the_interval_is_wilsons(found):
    share, n, z = found["test_error"], 300, stats.norm.ppf(0.975)
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    ends = np.array([middle - half, middle + half]) / (1 + z**2 / n)
    np.testing.assert_allclose([found["test_error_low"], found["test_error_high"]], ends, rtol=1e-6)


def test_what_was_found_is_kept_beside_the_runs_and_only_what_is_missing_is_trained(tmp_path, monkeypatch, capsys):
    folder = invented.results(tmp_path / "invented", invented.sweep(data=DATA))
    assert load(folder).baselines.empty
    assert main(["baseline", "svm", str(folder), "--examples", "50", "--seeds", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3, "a line a seed, and their mean"
    trained = []
    monkeypatch.setattr(baselines, "svm", lambda data, size, seed: trained.append((size, seed)) or _row(size, seed))
    rows = baselines.svm_beside(folder, (50, 60), (0, 1))
    assert trained == [(60, 0), (60, 1)]
    assert [(row["examples"], row["seed"]) for row in rows] == [(50, 0), (50, 1), (60, 0), (60, 1)]
    table = load(folder).baselines
    assert table["examples"].tolist() == [50, 50, 60, 60]
    assert table["test_error"][0] == rows[0]["test_error"] < 0.5
    (folder / baselines.FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load(folder).baselines  # noqa: B018


def _row(size, seed):
    data = {"spec": "digits", **DATA.items()}
    return {"baseline": "svm", "data": data, "examples": size, "seed": seed, "test_error": 0.1}


def test_what_can_not_be_trained_is_refused_in_one_line(monkeypatch):
    inputs, labels = np.zeros((9, 4), np.uint8), np.arange(9) % 2
    on_the_host = arrays(inputs, labels, validation=3, test=3, placement="host")
    with pytest.raises(InputError, match="examples: 1198 is not an integer from 1 to 1197"):
        baselines.svm(digits(), 1198)
    with pytest.raises(InputError, match=r"no training examples on the device\n  hint: shapeset\(examples="):
        baselines.svm(on_the_host)
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(InputError, match=r"not installed\n  hint: pip install 'glorot-jax\[svm\]'"):
        baselines.svm(digits())
