"""One small sweep, trained once for all that read results: three seeds of each variant, one variant diverges."""

from __future__ import annotations

import shutil

import pytest

from glorot_jax import at, grid, mlp, run, sgd
from tests.conftest import optimized
from tests.engine.small import sweep


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Never written to; two commits, so two record files."""
    model = mlp(widths=(8, 6), activation=grid("tanh", "relu"), gain=grid(1.0, 1e15))
    small = sweep(model=model, optimizer=sgd(learning_rate=grid(0.05, 0.2)), steps=30, record=at(5, 12, 20))
    with optimized(whole=False):
        return run(small, tmp_path_factory.mktemp("trained") / "small")


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of it to be damaged."""
    return shutil.copytree(trained, tmp_path / "small")
