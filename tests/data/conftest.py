"""Made-up data sets for all, and the real ones where they were fetched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data import made_up


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder where data and cache are kept while made-up sets stand in for the real ones."""
    with made_up.installed(tmp_path):
        yield tmp_path


def fetched(name: str) -> Path:
    """The folder of a data set's unpacked package below ``$GLOROT_TEST_DATA``, which .ci/run fills."""
    root = os.environ.get("GLOROT_TEST_DATA")
    if not root:
        pytest.skip("GLOROT_TEST_DATA is not set: it names a folder with the published files, see .ci/run")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"GLOROT_TEST_DATA holds no folder {name}, see .ci/run")
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the trees and the cache of real data, shared by the tests of a file."""
    home = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(home / "data"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield home


def official(content: bytes, name: str, modified: int) -> bytes:
    """A file gzipped as it was when it was published: GNU gzip -6, with its name and time in the header."""
    packed = subprocess.run(["gzip", "-6", "-n"], input=content, capture_output=True, check=True).stdout
    head = b"\x1f\x8b\x08\x08" + modified.to_bytes(4, "little") + b"\x00\x03" + name.encode() + b"\x00"
    return head + packed[10:]
