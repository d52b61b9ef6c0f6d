"""A start does nothing twice: each part is traced, lowered and drawn once, and nothing is imported that isn't used."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import optax
import pytest

from glorot_jax import Sweep, at, grid, mlp, optimizer, probe, sgd, shapeset
from glorot_jax.data import cache
from glorot_jax.data import shapeset as drawing
from glorot_jax.data.dataset import build
from glorot_jax.engine import devices, trainer
from glorot_jax.engine.drive import run
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.planning import plan
from glorot_jax.engine.segment import Pieces
from glorot_jax.engine.tracing import undisturbed
from glorot_jax.probes import BUILT_IN
from tests.engine.small import assert_same_bits

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL = Sweep(
    name="start",
    data=shapeset(size=8, validation=20, test=20),
    model=mlp(widths=(6,)),
    optimizer=sgd(learning_rate=0.1),
    seeds=range(2),
    steps=10,
    probes=("activations", "gradients"),
)


@contextmanager
def counted_lowerings() -> Iterator[Counter]:
    """Counts programs that are made, by the function's name."""
    from jax._src import monitoring

    seen: Counter = Counter()

    def note(event: str, _: float, **facts) -> None:
        if event.endswith("jaxpr_to_mlir_module_duration"):
            seen[facts["fun_name"]] += 1

    monitoring.register_event_duration_secs_listener(note)
    try:
        yield seen
    finally:
        monitoring.unregister_event_duration_listener(note)


def test_nothing_is_traced_twice_whatever_the_number_of_devices(monkeypatch):
    calls: Counter = Counter()

    def counting(name, function):
        def call(*arguments, **settings):
            calls[name] += 1
            return function(*arguments, **settings)

        return call

    for name in ("activations", "gradients"):
        probe = dataclasses.replace(BUILT_IN[name], measure=counting(name, BUILT_IN[name].measure))
        monkeypatch.setitem(BUILT_IN, name, probe)
    (cohort,) = plan.cohorts(SMALL.runs())
    dataset, used = build(cohort.runs[0].data), devices.local()[:2]
    assert len(used) > 1
    monkeypatch.setattr(drawing, "draw", counting("draw", drawing.draw))
    with counted_lowerings() as lowered:
        program, layout, *_ = plan.program_for(cohort, dataset, used, 1)
        assert calls == {"activations": 1, "gradients": 1}  # for their labels
        fleet = Fleet(program, layout, plan.per_run(cohort), used)
        state = fleet.start()
        assert calls["draw"] == 0  # no initializer looks at data
        fleet.compile(state)
    assert calls == {"activations": 1, "gradients": 1, "draw": 1}
    assert {name: lowered[name] for name in lowered if "initialize" in name or "train" in name} == {
        "jit(initialize)": 1,
        "jit(train)": 1,
    }


RATES = dataclasses.replace(SMALL, optimizer=sgd(learning_rate=grid(0.1, 0.2, 0.4)), steps=2)


def rate(scene):
    return scene.learning_rate


def test_runs_that_have_not_begun_to_differ_are_measured_once(monkeypatch, tmp_path):
    seen = []
    train = Fleet.train
    monkeypatch.setattr(Fleet, "train", lambda fleet, *a: seen.append(fleet.layout.runs) or train(fleet, *a))
    run(dataclasses.replace(RATES, probes=("weights",)), tmp_path / "results", width=1)
    assert seen[0] == 2
    assert set(seen[1:]) == {6}


def test_a_first_record_that_runs_share_has_the_bits_of_their_own():
    (cohort,) = plan.cohorts(RATES.runs())
    used = devices.local()[:2]
    program, layout, *_ = plan.program_for(cohort, build(cohort.runs[0].data), used, 1)
    fleet, piece = Fleet(program, layout, plan.per_run(cohort), used), Pieces.of([(0, 0, 0, 1)])
    own_state, records = fleet.train(piece, fleet.start())
    own = fleet.records(records, 1)
    state, shared, times = fleet.first_record(piece, fleet.start())
    assert times == 3
    assert_same_bits({"": own, "state": fleet.gather(own_state)}, {"": shared, "state": fleet.gather(state)})
    assert fleet.layout == layout


def remembering(learning_rate):
    return optax.inject_hyperparams(optax.sgd)(learning_rate)


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({}, False),
        ({"probes": ("gradient_norms",)}, True),
        ({"probes": (probe("gradients", at(2)), probe(rate, at(2)))}, True),
        ({"optimizer": optimizer(remembering, learning_rate=0.1)}, True),
    ],
    ids=["nothing", "updates", "a schedule of its own", "what the optimizer starts with"],
)
def test_it_is_known_what_the_first_record_depends_on(changes, differ):
    (cohort,) = plan.cohorts(dataclasses.replace(SMALL, **changes).runs())
    program, *_ = plan.program_for(cohort, build(cohort.runs[0].data), devices.local()[:1], 1)
    assert program.read_at_first - {"optimizer.learning_rate"} == {
        *("seed", "stream", "model.gain", "model.activation_index", "model.init_index")
    }
    assert ("optimizer.learning_rate" in program.read_at_first) == differ


def test_evaluation_sets_are_drawn_once_for_all_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = shapeset(size=8, validation=1000, test=40)
    build.__globals__["_build"].cache_clear()
    first = build(spec)
    drawn = []
    again = drawing.drawn
    monkeypatch.setattr(drawing, "drawn", lambda key, count, size: drawn.append(count) or again(key, count, size))
    build.__globals__["_build"].cache_clear()
    second = build(spec)
    assert drawn == [40]  # too few to be kept
    for one, other in zip(first.valid, second.valid, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
    monkeypatch.setattr(drawing, "digest", lambda: "0" * 8)  # other code, another set
    build.__globals__["_build"].cache_clear()
    build(spec)
    assert drawn == [40, 1000, 40]
    assert cache.folder("shapeset-8-validation-1000", "0" * 8).exists()
    build.__globals__["_build"].cache_clear()


def test_the_garbage_collector_rests_while_programs_are_traced():
    assert gc.isenabled()
    with undisturbed():
        assert not gc.isenabled()
        with undisturbed():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), undisturbed():
        _ = 1 / 0
    assert gc.isenabled()


@pytest.fixture
def collecting(monkeypatch) -> list[tuple[str, bool]]:
    """What happens while a sweep trains, each with whether the garbage collector is at work."""
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(trainer, "event", lambda log, kind, **facts: seen.append((kind, gc.isenabled())))
    return seen


def test_the_garbage_collector_rests_until_the_first_update_and_no_longer(collecting, tmp_path):
    run(SMALL, tmp_path / "results")
    first = dict(reversed(collecting))
    assert not first["compiled"]
    assert not first["first update"]
    assert collecting[-1] == ("commit", True)
    assert gc.isenabled()


def test_the_garbage_collector_rests_for_the_first_shard_alone_where_there_is_no_update(collecting, tmp_path):
    two = dataclasses.replace(SMALL, model=grid(mlp(widths=(6,)), mlp(widths=(5,))), steps=0, probes=("weights",))
    run(two, tmp_path / "results")
    assert [at_work for kind, at_work in collecting if kind == "compiled"] == [False, True]


def test_a_pause_of_the_collector_that_somebody_else_ends_stays_theirs():
    gc.disable()
    try:
        with undisturbed() as end:
            end()
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with undisturbed() as end:
        end()
        assert gc.isenabled()


def test_versions_are_told_without_the_import_of_what_saves():
    asked = "import sys; from glorot_jax.engine import devices; told = devices.describe()['versions']; "
    asked += "assert 'orbax' not in sys.modules; "
    asked += "import orbax.checkpoint; assert told['orbax'] == orbax.checkpoint.__version__"
    subprocess.run([sys.executable, "-c", asked], check=True)


def test_small_programs_are_cached_too():
    asked = "import jax; from glorot_jax.engine.devices import configure; configure(); "
    asked += "print(jax.config.jax_persistent_cache_min_compile_time_secs)"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("JAX_PERSISTENT")}
    done = subprocess.run([sys.executable, "-c", asked], env=plain, capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0.0


@pytest.mark.parametrize("command", [["--help"], ["bench", "--help"], ["plan", "--help"]])
def test_help_imports_neither_numpy_nor_jax(command):
    assert _imported(command) & {"numpy", "jax", "flax", "optax", "pandas", "scipy", "matplotlib", "torch"} == set()


def test_a_quick_plan_imports_neither_tables_nor_pictures():
    small = "from glorot_jax.engine.planning import peaks; peaks.SIDE = {'cpu': 64}; peaks.COPIED = {'cpu': 2**16}"
    found = _imported(["plan", "quickstart", "--quick", "--set", "model.widths=(8,)"], small)
    unwanted = {"pandas", "pyarrow", "xarray", "matplotlib", "torch", "tensorflow", "tensorflow_datasets", "sklearn"}
    assert found & unwanted == set()
    assert "jax" in found


def _imported(command: list[str], before: str = "") -> set[str]:
    """What a command has imported at its end."""
    asked = f"""
import sys
{before}
from glorot_jax.cli import main
assert main({command!r}) == 0
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())
