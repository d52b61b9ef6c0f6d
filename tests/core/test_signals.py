"""What catches SIGINT and SIGTERM: the first is kept, and the handlers of before come back, or not where all ends."""

from __future__ import annotations

import os
import signal

import pytest

from glorot_jax.errors import Stopped
from glorot_jax.signals import Signals

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def heard():
    """Handlers of the test's own, which keep what they hear."""
    found: list[int] = []
    before = [signal.signal(number, lambda n, _: found.append(n)) for number in BOTH]
    yield found
    for number, handler in zip(BOTH, before, strict=True):
        signal.signal(number, handler)


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_is_kept_and_the_handlers_of_before_come_back(heard, number):
    with Signals() as signals:
        assert signals.caught == 0
        send(number)
        assert (signals.caught, heard) == (number, [])
    send(*BOTH)
    assert heard == list(BOTH)


def test_a_stop_asked_for_by_sigint_is_not_hurried_by_sigterm(heard):
    with Signals() as signals:
        send(signal.SIGINT, signal.SIGTERM)
        assert signals.caught == signal.SIGTERM


def test_once_all_is_saved_further_ones_are_ignored(heard):
    with Signals() as signals:
        send(signal.SIGINT)
        signals.saved()
        send(*BOTH)
        assert signals.caught == signal.SIGINT
    assert heard == []


BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "glorot-quickstart"}


@pytest.fixture
def users_heard():
    """As ``heard``, for the signals that are a user's own outside of a batch task."""
    found: list[int] = []
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, lambda n, _: found.append(n)) for number in numbers]
    yield found
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_in_a_batch_task_what_comes_before_a_preemption_is_a_sigterm(monkeypatch, users_heard, number):
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    with Signals() as signals:
        send(number)
        assert (signals.caught, users_heard) == (signal.SIGTERM, [])
    send(number)
    assert users_heard == [number]


@pytest.mark.parametrize("job", [{}, {**BATCH, "SLURM_JOB_NAME": "bash"}, {**BATCH, "SLURM_JOB_NAME": "interactive"}])
def test_elsewhere_it_is_the_users(monkeypatch, users_heard, job):
    for name in BATCH:
        monkeypatch.delenv(name, raising=False)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with Signals() as signals:
        send(signal.SIGUSR1)
        assert (signals.caught, users_heard) == (0, [signal.SIGUSR1])


def test_a_suspension_that_ends_asks_for_nothing(monkeypatch):
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    with Signals() as signals:
        send(signal.SIGCONT)
        assert signals.caught == 0


def end(signals: Signals, error: Exception) -> None:
    with signals:
        signals.saved()
        raise error


@pytest.mark.parametrize(
    ("leaving", "error", "deaf"),
    [(True, Stopped("", 130), True), (False, Stopped("", 130), False), (True, ValueError(), False)],
)
def test_they_stay_ignored_only_in_a_process_that_leaves_because_it_was_stopped(heard, leaving, error, deaf):
    signals = Signals(leaving)
    with pytest.raises(type(error)):
        end(signals, error)
    send(*BOTH)
    assert heard == ([] if deaf else list(BOTH))
    signals.give_back()
    send(signal.SIGINT)
    assert heard[-1] == signal.SIGINT
