"""Processes that are one program, here threads: what one has, decides or suffers comes to all."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from glorot_jax.engine import peers
from glorot_jax.engine.peers import Peers
from glorot_jax.errors import InputError, ResumableError, Stopped

COUNT = 3


class Service:
    """A coordination service and the collectives of ``COUNT`` threads."""

    def __init__(self):
        self.facts: dict[str, str] = {}
        self.barrier = threading.Barrier(COUNT, timeout=20)
        self.here = threading.local()
        self.parts: dict[int, np.ndarray] = {}
        self.pieces = 0

    def key_value_set(self, key: str, value: str) -> None:
        assert key not in self.facts
        self.facts[key] = value

    def wait_at_barrier(self, name: str, milliseconds: int) -> None:
        self.barrier.wait()

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.facts.items() if name.startswith(f"{key}/")]

    def key_value_delete(self, key: str) -> None:
        for name in [name for name in self.facts if name.startswith(f"{key}/")]:
            del self.facts[name]

    def process_allgather(self, part: np.ndarray) -> np.ndarray:
        self.parts[self.here.index] = part.copy()
        self.pieces += 1
        self.barrier.wait()
        whole = np.stack([self.parts[index] for index in range(COUNT)])
        self.barrier.wait()
        return whole


@pytest.fixture
def together(monkeypatch):
    """Does one thing in each of the processes at once; returns what each returned or raised."""
    service = Service()
    monkeypatch.setattr(multihost_utils, "process_allgather", service.process_allgather)
    monkeypatch.setattr(peers, "_chatter_aside", contextlib.nullcontext)
    everybody = [Peers(index, COUNT, service) for index in range(COUNT)]
    for one in everybody:
        one._name = "glorot/test"

    def do(work):
        def by(one):
            service.here.index = one.index
            try:
                return work(one)
            except (InputError, ResumableError, Stopped, OSError) as error:
                return error

        with ThreadPoolExecutor(COUNT) as threads:
            return list(threads.map(by, everybody))

    do.service = service
    return do


def test_everybody_hears_everybody_in_order(together):
    assert (
        together(lambda one: one.agreed({"seconds": 0.1 * one.index}))
        == [[{"seconds": 0.1 * index} for index in range(COUNT)]] * COUNT
    )


def test_the_first_decides(together):
    assert together(lambda one: one.told(f"says {one.index}")) == ["says 0"] * COUNT


def test_what_was_read_is_forgotten(together):
    for _ in range(20):
        together(lambda one: one.agreed(one.index))
    assert len(together.service.facts) == COUNT


def test_arrays_of_any_number_shape_and_kind_come_to_all_bit_for_bit(together, monkeypatch):
    monkeypatch.setattr(peers, "PIECE_BYTES", 4096)
    bits = np.random.default_rng(0).integers(0, 2**32, (3000, 2), dtype=np.uint32)
    own = [
        [{"w": bits.view(np.float32), "flag": np.array([True, False, True])}, {"w": bits[:1].view(np.float32)}],
        [],
        [{"step": np.array(7, np.int64), "none": np.zeros((0, 4)), "b": np.asarray(jnp.ones(3, jnp.bfloat16))}],
    ]
    for found in together(lambda one: one.joined(own[one.index])):
        assert len(found) == 3
        for mine, theirs in zip([*own[0], *own[2]], found, strict=True):
            assert mine.keys() == theirs.keys()
            for name, array in mine.items():
                assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
                assert array.tobytes() == theirs[name].tobytes()
    assert together.service.pieces == COUNT * 6


@pytest.mark.parametrize("error", [InputError("data.mnist: not prepared"), OSError("device lost")])
def test_what_fails_in_one_fails_in_all_and_is_told_once(together, error):
    def work(one):
        with one.one_fate():
            if one.index == 1:
                raise error
            one.told("go on")

    first, own, last = together(work)
    assert own is error
    kind = InputError if isinstance(error, InputError) else ResumableError
    for told in (first, last):
        assert type(told) is kind
        assert str(told) == f"process 1 of 3: {error}"


def test_a_stop_that_all_agreed_on_is_told_to_nobody(together):
    def work(one):
        with one.one_fate():
            raise Stopped("saved", 143)

    assert [type(one) for one in together(work)] == [Stopped] * COUNT
    assert together.service.facts == {}


def test_processes_that_were_given_different_sweeps_do_not_begin(together):
    found = together(lambda one: one.check(sweep="ab" if one.index < 2 else "cd"))
    assert [str(one) for one in found] == ["process 2 of 3: its sweep is cd, not ab"] * COUNT
    assert together(lambda one: one.check(sweep="ab")) == [None] * COUNT


def test_a_service_that_is_gone_ends_the_work_resumably(together, monkeypatch):
    def gone(name, milliseconds):
        raise OSError("UNAVAILABLE: Socket closed\nmore")

    monkeypatch.setattr(together.service, "wait_at_barrier", gone)
    for error in together(lambda one: one.agreed(1)):
        assert type(error) is ResumableError
        assert str(error) == "another process is gone, or can't be reached: UNAVAILABLE: Socket closed"


def test_a_network_that_breaks_in_the_middle_of_bytes_ends_the_work_resumably(together, monkeypatch):
    def broken(part):
        raise OSError("Gloo AllGather failed")

    monkeypatch.setattr(multihost_utils, "process_allgather", broken)
    for error in together(lambda one: one.joined([{"w": np.ones(3)}])):
        assert type(error) is ResumableError
        assert "Gloo AllGather failed" in str(error)


def test_a_process_by_itself_asks_nobody():
    alone = Peers.here()
    assert (alone.index, alone.count, alone.leads) == (0, 1, True)
    assert alone.agreed("mine") == ["mine"]
    assert alone.told([1, 2]) == [1, 2]
    part = {"w": np.ones(3)}
    assert alone.joined([part]) == [part]
    with pytest.raises(InputError, match="as it was"), alone.one_fate():
        raise InputError("as it was")
