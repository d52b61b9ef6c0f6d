"""What all tests share: four CPU devices, so that one process can try one, two and four."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # one for all processes of a test run, gone with it
    _cache = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

_own = tempfile.TemporaryDirectory(prefix="cache-")
os.environ["XDG_CACHE_HOME"] = _own.name

ROOT = Path(__file__).parents[1]

LONGEST = (
    "engine/test_promises.py",
    "probes/test_catalogue.py",
    "engine/test_networks.py",
    "data/test_stream.py",
    "core/test_schemes.py",
    "probes/test_networks.py",
    "probes/test_tangent_kernel.py",
    "core/test_networks.py",
    "data/test_promises.py",
    "probes/test_probes.py",
    "cli/test_cli.py",
)
"""Begun first: of the files handed to processes one by one, a long one that comes last is waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST)))


@contextlib.contextmanager
def optimized(whole: bool) -> Iterator[None]:
    """Within it, LLVM makes all of its optimizations, or few."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not whole)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """Half the time of compiling, for modules that compare numbers within a tolerance.

    LLVM leaves out what takes longest. Not where bits are compared or training is tried: that is compiled as users' is.
    """
    with optimized(whole=False):
        yield


@pytest.fixture
def compiled_fully() -> Iterator[None]:
    """In a module that is compiled quickly, for a test of bits."""
    with optimized(whole=True):
        yield


@pytest.fixture
def glorot(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in a process of its own, in a folder of its own."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "glorot_jax.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call
