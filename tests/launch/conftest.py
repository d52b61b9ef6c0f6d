"""What tests of launchers share."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def heard():
    """Signals that a shell lets its background jobs ignore are heard, here and by what is started."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
