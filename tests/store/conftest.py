"""A real S3-compatible server on loopback for the tests of this room."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Server:
    """The server's address, the file that says its mood, and new places on it."""

    address: str
    mood: Path

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/bucket", method="PUT"))

    def url(self) -> str:
        return f"s3://bucket/some/where-{next(self._numbers)}/small"

    def feels(self, mood: str) -> None:
        self.mood.write_text(mood)


@pytest.fixture(scope="module")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    mood = tmp_path_factory.mktemp("server") / "mood"
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("server.py")), str(mood)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process.stdout.readline().strip(), mood)
        finally:
            process.kill()


@pytest.fixture
def server(_started: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The server, named by the environment of this process and those that it starts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _started.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield _started
    _started.feels("")
