"""What training needs of memory is known before it runs: by the compiler, against what arrays and a process take."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import adam, at, grid, mlp, plan, run, shapeset
from glorot_jax.data import memory as data_memory
from glorot_jax.data.dataset import build
from glorot_jax.engine import devices, segment
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.layout import Layout
from glorot_jax.engine.planning import builder, memory
from glorot_jax.engine.planning.builder import Builder
from glorot_jax.engine.planning.memory import Chunk, Need, Working
from glorot_jax.engine.planning.plan import cohorts, per_run, setup
from glorot_jax.engine.programs import Programs
from glorot_jax.engine.segment import Pieces, Program
from glorot_jax.engine.team import Room
from glorot_jax.errors import InputError
from tests.engine.small import sweep

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ROOT = Path(__file__).parents[2]


def built(**changes) -> Builder:
    (cohort,) = cohorts(sweep(**changes).runs())
    return Builder(cohort, setup(cohort, build(cohort.runs[0].data)), per_run(cohort), devices.local()[:2])


@pytest.fixture(scope="module")
def small() -> Builder:
    return built(probes=("evaluation",), model=mlp(widths=(64, 64), activation=grid("tanh", "relu")))


# ---- by the compiler


def test_two_widths_tell_what_a_third_needs(small):
    working = small.working(4)
    assert working.widths == (2, 4)
    for width in (1, 8):
        told, _ = memory.compiled_need(small.program(width), small.arrays, small.devices[0])
        assert working.at(width) == pytest.approx(told, rel=0.1)


def test_what_the_compiler_said_is_kept(small, monkeypatch):
    once = small.working(4)
    monkeypatch.setattr(memory, "compiled_need", None)
    assert small.working(4) == once


def test_a_program_compiled_for_nothing_is_the_one_that_trains(small):
    fleet = Fleet(small.program(4), small.layout(4), small.arrays, small.devices)
    state = fleet.start()
    fleet.compile(state)
    trains = fleet._train[small.devices[0]].memory_analysis()
    told = memory.compiled_need(small.program(4), small.arrays, small.devices[0])
    assert told == memory.told(fleet.training, fleet.compilation.operations)
    assert told[0] == trains.temp_size_in_bytes
    assert told[1] == fleet.compilation.operations * memory.CODE_PER_OPERATION, "of a CPU's the compiler tells nothing"


@pytest.mark.parametrize("changes", [{}, {"optimizer": adam(learning_rate=0.1)}])
def test_arrays_take_what_shapes_say(changes):
    made = built(probes=("evaluation",), **changes)
    layout = made.layout(2)
    fleet = Fleet(made.program(2), layout, made.arrays, made.devices)
    state = fleet.start()
    need = made.need(2, compiled=False)
    assert len(layout.chunks) == layout.devices_used == 2
    for chunk in range(2):
        constants, hyper, blocks = fleet._settings(chunk)
        for told, arrays in (
            (need.constants, constants),
            (need.chunk.settings, (hyper, blocks)),
            (need.chunk.state, state[chunk]),
        ):
            assert told == sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    host = sum(array.nbytes for array in fleet.gather(state).values())
    assert host == layout.runs * need.chunk.copied
    _, records = fleet.train(Pieces.of([(0, 0, 0, 1)]), state)
    assert need.chunk.records == sum(array.nbytes for array in records[0].values())


CHILD = """
import gc, json, sys
from glorot_jax import grid, mlp, shapeset
from glorot_jax.engine import devices
devices.configure()
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.segment import Pieces
from tests.engine.test_memory import LARGE, built, resident
made = built(**LARGE)
fleet = Fleet(made.program(2), made.layout(2), made.arrays, made.devices)
fleet.compile(fleet.start())
gc.collect()
need = made.need(2, compiled=True).of(made.layout(2))
before = resident()
state = fleet.start()
for step in range(3):
    state, records = fleet.train(Pieces.of([(step, 1, -1, 0), (step + 1, 0, 0, 1)]), state)
    copy = fleet.gather(state)
    del copy
print(json.dumps([resident(peak=True) - before, 2 * (need.device - need.constants - need.code + need.host)]))
"""
LARGE = {
    "probes": ("evaluation",),
    "model": mlp(widths=(600,) * 4, activation=grid("tanh", "relu")),
    "seeds": range(12),
}


def resident(*, peak: bool = False) -> int:
    """Bytes of this process in memory: now, which begins a new peak, or the most since then."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell")
def test_what_was_planned_is_what_a_whole_sweep_takes(tmp_path):
    """Large networks in a process of their own, with writing, reading and predicting; within 10 %."""
    (planned,) = whole(tmp_path, "plan", widths=(600,) * 3, runs=24)
    noted, taken = whole(tmp_path, "run", widths=(600,) * 3, runs=24)
    assert noted == pytest.approx(planned, rel=0.01), "temporaries at a width, by it or by a line through two"
    assert taken == pytest.approx(noted, rel=0.1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell")
def test_of_small_networks_what_libraries_take_is_planned(tmp_path):
    """Within 10 % where nothing has to be compiled."""
    whole(tmp_path, "run", widths=(32,) * 3, runs=48)
    planned, taken = whole(tmp_path / "again", "run", widths=(32,) * 3, runs=48)
    assert taken == pytest.approx(planned, rel=0.1)


def whole(folder: Path, verb: str, *, widths: tuple[int, ...], runs: int) -> list[int]:
    """Bytes that a process plans of a sweep, and where it is run, those that it takes."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)),
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    call = [sys.executable, "-c", SWEEP, verb, json.dumps(widths), str(runs), str(folder / "whole")]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SWEEP = """
import json, sys
from pathlib import Path
from glorot_jax import at, digits, grid, mlp, plan, run, sgd
from tests.engine.small import sweep
verb, widths, runs, folder = sys.argv[1:]
made = sweep(
    data=digits(), model=mlp(widths=tuple(json.loads(widths)), activation=grid("tanh", "relu")), steps=60,
    seeds=range(int(runs) // 2), probes=("evaluation", "activations"), record=at(5, 17, 29), examples=100,
)
if verb == "plan":
    print(json.dumps([plan(made).to_dict()["cohorts"][0]["bytes_taken"]]))
else:
    run(made, folder)
    (manifest,) = map(json.loads, map(Path.read_text, Path(folder).glob("shards/*/manifest.json")))
    print(json.dumps([manifest["planned"]["bytes_taken"], manifest["measured_bytes"]]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system can't reset a peak")
def test_a_process_takes_what_the_plan_says():
    """The arrays of large networks in a process of their own, programs and libraries aside; within 10 %."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)), "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    grown, planned = json.loads(done.stdout)
    assert grown > 2e8, "else a process' own ups and downs are more"
    assert grown == pytest.approx(planned, rel=0.1)


# ---- how many fit


def made_up(layout: Layout, **parts) -> Need:
    places = layout.room * layout.width
    chunk = {"places": places, "state": 100 * places, "settings": places, "records": 5 * places, "copied": 100}
    return Need(constants=1000, chunk=Chunk(**chunk | parts), working=Working(50.0, 10.0, 7, (1, 2)))


LAYOUTS = st.builds(
    Layout, runs=st.integers(1, 60), width=st.integers(1, 9), devices=st.integers(1, 5), room=st.integers(1, 7)
)


def test_the_parts_of_a_footprint_are_those_of_its_chunks():
    layout = Layout(runs=21, width=2, devices=2, room=3)  # 11 blocks: 6 and 5, two chunks each
    made = dataclasses.replace(made_up(layout), predictions=3000).of(layout)
    assert made.parts() == {
        "constants": 1000,
        "state": 2 * 6 * 100,
        "settings": 2 * 6,
        "records": 2 * 2 * 6 * 5,
        "temporaries": 70,
        "code": 7,
        "host": 12 * 100,
        "predictions": 3000,
    }
    assert made.device == sum(made.parts().values()) - 1200 - 3000
    assert made.taken(layout, shared=False) == made.device
    assert made.taken(layout, shared=True) == 2 * (made.device + 1200) + 3000 + memory.LIBRARIES


@settings(deadline=None)
@given(LAYOUTS, st.integers(0, 10**5), st.booleans())
def test_what_is_said_to_fit_at_once_fits_and_a_chunk_more_does_not(layout, free, shared):
    need, free = made_up(layout), free + shared * memory.LIBRARIES
    count = need.at_once(layout, free, shared)
    assert 0 <= count <= layout.runs
    usable = free * (1 - memory.SPARE)

    def taken(chunks: int) -> int:
        runs = min(chunks * layout.room * layout.width, layout.runs)
        return need._holding(chunks, runs, layout.width).taken(layout, shared)

    if count == layout.runs and need.of(layout).taken(layout, shared) <= usable:
        return
    chunks = -(-count // (layout.devices_used * layout.room * layout.width))
    assert not count or taken(chunks) <= usable + 1
    assert taken(chunks + 1) > usable - 1 or chunks + 1 > layout.chunks_per_device


@settings(deadline=None)
@given(st.integers(0, 2 * 10**5), st.integers(1, 300))
def test_the_widest_block_that_fits_is_a_power_of_two(free, most):
    def need_at(width: int) -> Need:
        return made_up(Layout(1, width, 1, 2))

    found = memory.widest(need_at, free, most)
    usable = free * (1 - memory.SPARE)
    assert found & (found - 1) == 0
    assert 1 <= found <= most
    assert found == 1 or need_at(found).least(found).device <= usable
    assert 2 * found > most or need_at(2 * found).least(2 * found).device > usable


def test_a_cohort_of_which_nothing_fits_is_one_line_that_says_what_would():
    layout = Layout(runs=9, width=4, devices=2, room=1)
    need = made_up(layout, copied=200)
    taken = 2 * (1000 + 400 + 4 + 2 * 20 + 90 + 7 + 800) + memory.LIBRARIES
    memory.check("mlp", need, layout, int(0.91 * taken), shared=True)  # what is predicted may be a tenth too much
    assert need.tried_at_once(layout, int(0.91 * taken), shared=True) == 8
    assert need.at_once(layout, int(0.91 * taken), shared=True) == 0
    with pytest.raises(InputError):
        memory.check("mlp", need, layout, int(0.89 * taken), shared=True)
    with pytest.raises(InputError) as caught:
        memory.check("mlp", need, layout, 3000, shared=True)
    line, hint = str(caught.value).split("\n")
    assert line == f"memory: mlp: 4 runs at width 4 need {taken:,} bytes on 2 devices that share memory, 3,000 are free"
    assert hint.startswith("  hint: smaller widths of the network; an optimizer that keeps less; placement='host'")
    assert "--width 2" in hint
    assert "JAX_NUM_CPU_DEVICES=1" in hint


def test_hints_begin_with_what_takes_most():
    layout = Layout(runs=2, width=1, devices=1, room=1)
    hints = memory.hints(made_up(layout, state=10**6).of(layout), layout, shared=False)
    assert hints[0] == "smaller widths of the network"
    assert memory.hints(made_up(layout).of(layout), layout, shared=False)[0].startswith("placement='host'")


@pytest.mark.parametrize("verb", [run, plan])
def test_what_does_not_fit_is_refused_before_anything_is_touched(verb, monkeypatch, tmp_path):
    monkeypatch.setattr(builder, "free", lambda _: 10**5)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^memory: mlp 16-12 on shapeset.*: 12 runs at width 8 need [\d,]+ bytes on "):
        verb(sweep(data=shapeset(size=16, validation=10, test=30), probes=("evaluation",)), width=8)
    assert not list(tmp_path.iterdir())


def test_where_memory_is_plenty_nothing_is_compiled_to_know_it(small, monkeypatch):
    monkeypatch.setattr(memory, "compiled_need", None)
    small.fitting(2)


def test_runs_that_do_not_fit_together_train_in_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(segment, "CHUNK_BYTES", 1)  # a block a chunk
    made = sweep(data=shapeset(size=16, validation=10, test=30), probes=("evaluation",), steps=2, record=at(1))
    (cohort,) = cohorts(made.runs())
    layout = Layout(len(cohort.runs), 1, len(devices.local()), 1)
    need = Builder(cohort, setup(cohort, build(cohort.runs[0].data)), per_run(cohort), devices.local()).need(
        1, compiled=True
    )
    half = need._holding(2, 2, 1).taken(layout, shared=True)
    assert layout.chunks_per_device == 3
    monkeypatch.setattr(memory, "NEAR", 0.0)
    monkeypatch.setattr(builder, "free", lambda _: half / (1 - memory.SPARE) - need.constants + 10)
    run(made, tmp_path / "small", width=1)
    manifests = [json.loads(path.read_text()) for path in tmp_path.glob("small/shards/*/manifest.json")]
    assert sorted(m["runs"] for m in manifests) == [6, 6], "two of three variants' worth of eight places"


def test_what_fits_of_shards_beside_each_other_is_told_by_the_memory_of_devices_and_host(small, monkeypatch):
    known = Programs(small.devices, calibrate=False, fuse="never")
    program, layout = known.of(small.cohort, 2, None)
    runs = layout.runs
    assert known.room(small.cohort, None, 2, None) == Room(runs, 2 * runs, shared=True)
    assert known.room(small.cohort, 3, 2, None) == Room(3, 2 * runs, shared=True)
    state = sum(array.nbytes for array in small_state(known, program, layout, small).values()) // runs
    known.devices = [SimpleNamespace(platform="gpu")]
    monkeypatch.setattr(data_memory, "free_on_host", lambda: 9 * state)
    assert known.room(small.cohort, 3, 2, None) == Room(3, 4, shared=False)
    monkeypatch.setattr(data_memory, "free_on_host", lambda: None)
    assert known.room(small.cohort, 3, 2, None) == Room(3, runs, shared=False)


def small_state(known: Programs, program: Program, layout: Layout, small: Builder) -> dict[str, np.ndarray]:
    fleet = known.fleet(program, layout, small.arrays)
    return fleet.gather(fleet.start())
