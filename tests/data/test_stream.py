"""Training examples that stay on the host: the same batches, the same bits, wherever a call ends; read ahead."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import grid, mlp, mnist, run
from glorot_jax.data import dataset, memory, pictures, stream
from glorot_jax.engine import segment
from glorot_jax.engine.feed import cut
from glorot_jax.engine.planning.plan import plan
from glorot_jax.engine.segment import Pieces
from glorot_jax.errors import InputError
from tests.data import made_up
from tests.data.kinds import invented, sweep
from tests.engine.small import DiesAtThirdCommit, assert_same_bits, parameters, records

MODEL = mlp(widths=(16, 12), activation=grid("sigmoid", "tanh"), init=grid("lsuv", "normalized"))
"""One initializer looks at the first batches."""


def placed(placement: str, **changes):
    return sweep(**{"data": invented(placement), "model": MODEL, "probes": ("evaluation",)} | changes)


@pytest.fixture
def short_calls(monkeypatch):
    """A call of the program holds a few steps, fewer than lie between records."""
    monkeypatch.setattr(segment, "STREAM_BYTES", 40_000)  # 20 batches: 6 steps of three seeds,
    monkeypatch.setattr(segment, "MOST_BLOCKS", 1)  # as there is room for no more than a few runs


@pytest.fixture(scope="module", params=[1, 4])
def on_the_device(request, tmp_path_factory):
    """The sweep trained with its examples on the device, at each width."""
    return run(placed("device"), tmp_path_factory.mktemp("device") / "small", width=request.param), request.param


def test_both_placements_give_the_same_bits(on_the_device, tmp_path, short_calls):
    whole, width = on_the_device
    other = run(placed("host"), tmp_path / "small", width=width)
    assert len(parameters(whole).keys() & parameters(other).keys()) == 12
    assert_same_bits(parameters(whole), parameters(other))
    assert_same_bits(records(whole), records(other))


@pytest.mark.parametrize("first", ["host", "device"])
def test_a_sweep_goes_on_with_the_other_placement_to_the_same_bits(on_the_device, tmp_path, short_calls, first):
    whole, width = on_the_device
    then = {"host": "device", "device": "host"}[first]
    with pytest.raises(KeyboardInterrupt):
        run(placed(first), tmp_path / "a", width=width, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    run(placed(then), tmp_path / "a", width=width)
    assert_same_bits(parameters(whole), parameters(tmp_path / "a"))
    assert_same_bits(records(whole), records(tmp_path / "a"))


def test_runs_of_independent_orders_get_their_own_batches(tmp_path, short_calls):
    one, other = (run(placed(p, order="independent", seeds=(3,)), tmp_path / p, width=4) for p in ("device", "host"))
    assert_same_bits(parameters(one), parameters(other))
    assert_same_bits(records(one), records(other))


def test_where_examples_are_is_no_part_of_a_run():
    assert [r.id for r in placed("host").runs()] == [r.id for r in placed("device").runs()]
    assert placed("host").resolved() == placed("device").resolved()
    assert mnist(placement="host").items() == mnist().items()
    assert mnist(placement="host").defaults() == mnist().defaults()
    assert placed("device").with_settings(["data.placement=host"]).data.placement == "host"
    for made in (lambda: mnist(placement="disk"), lambda: invented("disk")):
        with pytest.raises(InputError, match=r"placement: 'disk' is not known\n  hint: known: device, host"):
            made()
    with pytest.raises(InputError, match="it can't be a grid"):
        mnist(placement=grid("host", "device"))


# ---- calls


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=12),
    begin=st.integers(0, 1000),
    most=st.integers(1, 30),
)
def test_calls_take_every_step_once_in_order_and_need_no_more_batches_than_fit(lengths, begin, most):
    """A record, and a piece without steps, is a piece of its own."""
    pieces, step = [], begin
    for slot, (steps, recorded) in enumerate(lengths):
        pieces.append((step, steps, -1, 0))
        step += steps
        if recorded:
            pieces.append((step, 0, slot, 5))
    calls = cut(Pieces.of(pieces), most)
    shown, found = [], []
    for call in calls:
        assert len(call.steps) <= most
        for first, steps, slot, due in zip(*(a[: call.pieces.count] for a in call.pieces[:4]), strict=True):
            assert {*range(first, first + max(steps, 1))} <= {*call.steps}
            shown += range(first, first + steps)
            found += [(first, slot, due)] if slot >= 0 else []
    assert shown == list(range(begin, step))
    assert found == [(first, slot, due) for first, _, slot, due in pieces if slot >= 0]


def test_a_batch_is_that_of_the_device():
    host, device = (dataset.build(invented(placement)) for placement in ("host", "device"))
    steps = range(70, 200)  # more than is found at once, over several epochs
    inputs, labels = np.empty((130, 10, 4, 4, 3), np.float32), np.empty((130, 10), np.int32)
    host.stream.read(7, 2**31, steps, inputs, labels)
    draw = jax.jit(jax.vmap(lambda step: device.draw(device.arrays, np.uint32(7), np.uint32(2**31), step, 10)))
    expected = draw(np.arange(70, 200, dtype=np.int32))
    np.testing.assert_array_equal(inputs, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


# ---- reading


def test_pictures_are_read_from_the_mapped_file_and_take_no_memory_of_the_device(home):
    pictures.prepare("mnist", made_up.folder("mnist", home / "files"))
    made = dataset.build(mnist(validation=10, placement="host"))
    assert isinstance(made.stream.inputs, np.memmap)
    assert len(made.stream.labels) == 50
    assert sum(a.nbytes for a in jax.tree.leaves(made.constants())) == (10 + 20) * (784 + 4)
    assert dataset.size(mnist(validation=10, placement="host")) == (10 + 20) * (784 + 4)


def test_what_the_device_can_not_hold_is_trained_from_the_host(monkeypatch):
    whole, part = (dataset.size(invented(placement)) for placement in ("device", "host"))
    copies = len(jax.local_devices())
    assert part == 60 * (48 * 4 + 4)
    dataset._build.cache_clear()
    monkeypatch.setattr(memory, "free", lambda device: whole * copies - 1)
    with pytest.raises(InputError, match="hint: placement='host' leaves the training examples where they are"):
        dataset.build(invented("device"))
    dataset.build(invented("host"))
    monkeypatch.setattr(memory, "free", lambda device: part * copies - 1)
    dataset._build.cache_clear()
    with pytest.raises(InputError, match=f"takes {part * copies:,} bytes.*\n  hint: choose a smaller set"):
        dataset.build(invented("host"))


def test_the_plan_says_what_is_streamed():
    found = plan(placed("host"), width=16)
    each = 3 * 10 * (48 * 4 + 4)  # three seeds' batches for the one chunk of the one block
    assert found.to_dict()["cohorts"][0]["streamed_bytes_per_step"] == each
    assert "training examples stay on the host; 5.74 KiB a step are streamed" in found.text()
    there = plan(placed("device"), width=16)
    assert there.to_dict()["cohorts"][0]["streamed_bytes_per_step"] == 0
    assert "stay on the host" not in there.text()


def test_without_grain_it_is_said_before_anything_is_touched(tmp_path, monkeypatch):
    dataset._build.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"Grain, which is not installed\n  hint: pip install 'glorot-jax\[stream\]'"):
        run(placed("host"), tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_parts_come_in_order_and_are_made_ahead_but_not_all_at_once():
    made, threads = [], set()

    def make(i: int) -> int:
        made.append(i)
        threads.add(threading.get_ident())
        time.sleep(0.01 * (3 - i % 4))
        return i

    with stream.ahead(make, 40) as parts:
        assert next(parts) == 0
        deadline = time.monotonic() + 5
        while len(made) < stream.READERS and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stream.READERS <= len(made) <= stream.READERS + 1
        assert list(parts) == list(range(1, 40))
    assert len(threads) > 1
    assert threading.get_ident() not in threads


def test_what_goes_wrong_while_reading_ahead_is_raised_where_it_is_needed():
    def make(i: int) -> int:
        if i == 2:
            raise OSError("the disk is gone")
        return i

    with stream.ahead(make, 5) as parts:
        assert [next(parts), next(parts)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            next(parts)
