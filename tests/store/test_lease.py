"""Leases: one owner, who is named; the dead and the stopped are found out, and find out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from glorot_jax.errors import InputError
from glorot_jax.locks import Taken
from glorot_jax.store import lease, objects
from glorot_jax.store.objects import Objects
from tests.engine.small import ROOT

HOLD = """
import sys
from glorot_jax.store import lease
from glorot_jax.store.objects import Objects
with lease.held(Objects(sys.argv[1]), "x/.lock", "part 0 of 2") as mine:
    print("held", flush=True)
    sys.stdin.readline()
    print(mine.lost, flush=True)
"""


class Other:
    """Another process that holds a lease."""

    def __init__(self, store: Objects):
        command = [sys.executable, "-c", HOLD, store.url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert self.process.stdout.readline() == "held\n"
        self.pid = self.process.pid

    def ends(self) -> str:
        return self.process.communicate("\n")[0].strip()


@pytest.fixture
def store(server, monkeypatch) -> Objects:
    monkeypatch.setenv("GLOROT_LEASE_SECONDS", "2")
    return Objects(server.url())


@pytest.fixture
def other(store):
    made = Other(store)
    yield made
    made.process.kill()
    made.process.communicate()


def owner(store: Objects) -> str | None:
    return lease.owner(store, "x/.lock", set())


def test_a_living_owner_is_named_and_keeps_it(store, other):
    begin = time.monotonic()
    with pytest.raises(Taken, match=rf"^process {other.pid} on .+ \(part 0 of 2\)$"), lease.held(store, "x/.lock"):
        pytest.fail("two hold it")
    assert time.monotonic() - begin < 2, "it was seen to be renewed"
    assert owner(store).startswith(f"process {other.pid}")
    assert other.ends() == "None"
    assert owner(store) is None


def test_a_lease_that_was_given_up_is_free_at_once(store):
    begin = time.monotonic()
    for _ in range(3):
        with lease.held(store, "x/.lock"):
            assert owner(store).startswith(f"process {os.getpid()}")
    assert time.monotonic() - begin < 10


def test_what_a_process_could_not_give_up_it_may_take_again(store, server, monkeypatch):
    monkeypatch.setattr(objects, "HASTE", 0.2)
    with lease.held(store, "x/.lock"):
        server.feels("down")
    server.feels("")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for itself"))
    with lease.held(store, "x/.lock"):
        pass


def test_an_owner_who_died_on_this_machine_is_known_at_once(store, other, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    other.process.kill()
    other.process.wait()
    with lease.held(store, "x/.lock"):
        pass


def test_an_owner_who_died_elsewhere_is_found_out_when_the_lease_is_over(store, other, monkeypatch):
    """Nothing is known of another machine's processes but what they write."""
    other.process.kill()
    other.process.wait()
    told = json.loads(store.get("x/.lock")[0])
    store.put("x/.lock", json.dumps(told | {"process": ["another boot", "another space", 1, "0"]}).encode())
    store.put("y/.lock", store.get("x/.lock")[0])
    begin, dead = time.monotonic(), set()
    with lease.held(store, "x/.lock", dead=dead):
        assert time.monotonic() - begin > 1.9
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for each lease of the dead"))
    with lease.held(store, "y/.lock", dead=dead):
        pass


def test_a_stopped_owner_loses_it_and_finds_out(store, other):
    os.kill(other.pid, signal.SIGSTOP)
    with lease.held(store, "x/.lock") as mine:
        os.kill(other.pid, signal.SIGCONT)
        time.sleep(1.5)  # it tries to renew what it no longer has
        assert mine.lost is None
        assert other.ends().startswith(f"process {os.getpid()} on ")
        assert owner(store).startswith(f"process {os.getpid()} on "), "who lost it did not free it"
    assert owner(store) is None


def test_a_store_that_is_away_for_a_while_costs_nobody_the_lease(store, other, server):
    """The owner can't renew it, and whoever watches does not take that for death."""
    server.feels("down")
    time.sleep(2.5)
    server.feels("")
    with pytest.raises(Taken), lease.held(store, "x/.lock"):
        pytest.fail("two hold it")
    assert other.ends() == "None"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("GLOROT_LEASE_SECONDS", text)
    with pytest.raises(InputError, match=f"GLOROT_LEASE_SECONDS: '{text}' is not a finite number > 0"):
        lease.seconds()
