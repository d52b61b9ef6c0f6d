"""The engine's promises on sets that are held on the device: resuming, neighbours, devices, bit for bit."""

from __future__ import annotations

import jax
import pytest

from glorot_jax import at, digits, grid, mlp, run, sgd, shapeset
from glorot_jax.data import dataset, memory, pictures
from glorot_jax.engine import devices
from glorot_jax.engine.planning.plan import plan
from glorot_jax.errors import InputError
from tests.data import made_up
from tests.data.kinds import KINDS, invented, sweep
from tests.engine.small import DiesAtThirdCommit, assert_same_bits, parameters, records, train_under_kills

WIDTH = 4


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree of made-up pictures, where everybody looks for it."""
    with made_up.installed(tmp_path_factory.mktemp("home")) as home:
        pictures.prepare("mnist", made_up.folder("mnist", home / "files"))
        yield home


@pytest.fixture(scope="module", params=KINDS)
def undisturbed(request, tree, tmp_path_factory):
    """The small sweep on a held set, trained once: more than one epoch of ``arrays`` and of the tree."""
    out = tmp_path_factory.mktemp("undisturbed") / "small"
    return run(sweep(data=KINDS[request.param]()), out, width=WIDTH), request.param


@pytest.mark.parametrize("undisturbed", ["arrays", "a tree on the host"], indirect=True)
@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_devices_gives_the_same_bits(undisturbed, tmp_path, monkeypatch, count):
    whole, kind = undisturbed
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:count])
    other = run(sweep(data=KINDS[kind]()), tmp_path / "small", width=WIDTH)
    assert_same_bits(parameters(whole), parameters(other))
    assert_same_bits(records(whole), records(other))


@pytest.mark.parametrize("undisturbed", ["arrays", "a tree on the host"], indirect=True)
def test_a_run_does_not_know_its_neighbours(undisturbed, tmp_path):
    whole, kind = undisturbed
    model = mlp(widths=(16, 12), activation=grid("relu", "tanh"), init=grid("he_normal", "normalized"))
    other = sweep(data=KINDS[kind](), model=model, optimizer=sgd(learning_rate=grid(0.2, 0.05)), seeds=(7, 1, 5, 2))
    mixed = run(other, tmp_path / "small", width=WIDTH)
    assert len(parameters(whole).keys() & parameters(mixed).keys()) == 2
    assert_same_bits(parameters(whole), parameters(mixed))
    assert_same_bits(records(whole), records(mixed))


@pytest.mark.parametrize("undisturbed", ["a tree"], indirect=True)
def test_resume_after_a_stop_gives_the_same_bits(undisturbed, tmp_path):
    whole, kind = undisturbed
    made = sweep(data=KINDS[kind]())
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "small", width=WIDTH, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    run(made, tmp_path / "small", width=WIDTH)
    assert_same_bits(parameters(whole), parameters(tmp_path / "small"))
    assert_same_bits(records(whole), records(tmp_path / "small"))


@pytest.mark.parametrize("undisturbed", ["a tree on the host"], indirect=True)
def test_resume_after_sigkill_gives_the_same_bits(undisturbed, tmp_path):
    """Of a set that is read from the disk while it trains."""
    whole, kind = undisturbed
    program = (
        "import sys\n"
        "from tests.data.kinds import KINDS, sweep\n"
        "from glorot_jax import run\n"
        f"run(sweep(data=KINDS[{kind!r}]()), sys.argv[1], width={WIDTH}, segment_seconds=1e-6)\n"
    )
    train_under_kills(tmp_path / "small", program, kills=1)
    assert_same_bits(parameters(whole), parameters(tmp_path / "small"))
    assert_same_bits(records(whole), records(tmp_path / "small"))


def test_a_sweep_on_a_finite_shapeset_is_resumed_to_the_same_bits(tmp_path):
    """More than two epochs; both runs of a seed see one order."""
    model, data = mlp(widths=(8,), gain=grid(0.5, 1.0)), shapeset(size=8, validation=30, test=30, examples=47)
    made = sweep(data=data, model=model, seeds=(3,), probes=("evaluation",), steps=12, record=at(5))
    whole = run(made, tmp_path / "whole" / "small", width=2)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "small", width=2, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    again = run(made, tmp_path / "small", width=2)
    assert_same_bits(parameters(whole), parameters(again))
    assert_same_bits(records(whole), records(again))


# ---- what a device can't hold


def test_a_set_larger_than_the_memory_is_refused_by_plan_and_run_with_the_bytes(tmp_path, monkeypatch):
    made = sweep(data=invented())
    need = made.runs()[0].data
    size = dataset.size(need)
    assert size == 211 * (48 * 4 + 4)
    copies = len(jax.local_devices())
    dataset._build.cache_clear()
    monkeypatch.setattr(memory, "free", lambda device: size * copies - 1)
    line = f"data: arrays takes {size * copies:,} bytes, a copy for each of {copies} devices, and {size * copies - 1:,}"
    with pytest.raises(InputError, match=line):
        plan(made)
    with pytest.raises(InputError, match=line):
        run(made, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    monkeypatch.setattr(memory, "free", lambda device: size * copies)
    dataset.build(need)


@pytest.mark.parametrize(
    "data",
    [
        shapeset(size=16, validation=100, test=100),
        shapeset(size=8, validation=30, test=30, examples=151),
        digits(),
        invented(),
    ],
)
def test_the_size_is_known_before_anything_is_read(data):
    """But for labels, which are counted as the device holds them."""
    held = dataset.build(data)
    assert dataset.size(data) == sum(a.nbytes for a in jax.tree.leaves(held.constants()))


def test_free_memory_is_what_the_machine_the_container_or_the_device_says(tmp_path, monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    assert memory.free(Device()) == 70
    cpu = jax.local_devices()[0]
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free(cpu) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert memory.free(cpu) == 5 * 1024
    for name, content in {"max": "4000", "current": "3000", "stat": "anon 1\ninactive_file 500\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory.free(cpu) == 1500
    (tmp_path / "memory.max").write_text("max")
    assert memory.free(cpu) == 5 * 1024
