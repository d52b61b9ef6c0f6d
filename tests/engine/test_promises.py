"""The promises of the engine, each against a twin that was treated otherwise."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from glorot_jax import at, every, grid, load, mlp, run, sgd
from glorot_jax.analysis.tables import render_table
from glorot_jax.engine import devices
from glorot_jax.errors import InputError
from tests.engine.small import (
    DiesAtThirdCommit,
    assert_no_callback_and_no_collective,
    assert_same_bits,
    parameters,
    records,
    sweep,
    train_under_kills,
    training_programs,
)

WIDTHS = (1, 4)
PROGRAMS: dict[int, list[str]] = {}
"""What was compiled for the undisturbed sweep of each width."""


@pytest.fixture(scope="module", params=WIDTHS)
def undisturbed(request, tmp_path_factory):
    """The small sweep trained once, at each width, on four devices."""
    out = tmp_path_factory.mktemp("undisturbed")
    with training_programs() as programs:
        run(sweep(), out / "small", width=request.param)
    PROGRAMS[request.param] = programs
    return out / "small", request.param


def on_devices(monkeypatch, count: int) -> None:
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:count])


@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_devices_gives_the_same_bits(undisturbed, tmp_path, monkeypatch, count):
    whole, width = undisturbed
    on_devices(monkeypatch, count)
    other = run(sweep(), tmp_path / "small", width=width)
    assert_same_bits(parameters(whole), parameters(other))
    assert_same_bits(records(whole), records(other))


def test_a_run_does_not_know_its_neighbours_nor_one_that_diverges(undisturbed, tmp_path):
    """Other runs before, between and after it, with other activations, seeds, gains and learning rates."""
    whole, width = undisturbed
    model = mlp(
        widths=(16, 12),
        activation=grid("relu", "tanh", "softsign"),
        init=grid("he_normal", "normalized"),
        gain=grid(1.0, 1e15),
    )
    other = sweep(model=model, optimizer=sgd(learning_rate=grid(0.2, 0.05)), seeds=(7, 1, 5, 2))
    mixed = run(other, tmp_path / "small", width=width)
    one, two = parameters(whole), parameters(mixed)
    assert len(one.keys() & two.keys()) == 2  # tanh, normalized, 0.05, seeds 1 and 2
    assert_same_bits(one, two)
    assert_same_bits(records(whole), records(mixed))
    runs = load(mixed).runs
    lost = runs[(runs["model.activation"] == "relu") & (runs["model.gain"] == 1e15)]
    assert len(lost) == 16
    assert (lost["status"] == "diverged").all()
    assert (lost["diverged_step"] == 0).all()
    assert lost["diverged_in"].str.contains("layer 3").all()  # 1e15³ times the input is beyond float32
    assert lost["test_error"].isna().all()
    assert set(runs.loc[runs["model.gain"] == 1, "status"]) == {"done"}
    assert runs.loc[runs["status"] != "diverged", "test_error"].notna().all()


def test_a_run_alone_is_the_same(undisturbed, tmp_path):
    whole, width = undisturbed
    alone = run(sweep(model=mlp(widths=(16, 12)), seeds=(1,)), tmp_path / "small", width=width)
    assert_same_bits(parameters(whole), parameters(alone))


def test_resume_after_sigkill_gives_the_same_bits(tmp_path):
    """Three kills at random moments, each resumed by the same command, on another number of devices."""
    steps, width = 60, 4  # four lives don't reach the end
    whole = run(sweep(steps=steps), tmp_path / "whole" / "small", width=width)
    out = tmp_path / "small"
    program = (
        "import sys\n"
        "from tests.engine.small import sweep\n"
        "from glorot_jax import run\n"
        f"run(sweep(steps={steps}), sys.argv[1], width={width}, segment_seconds=1e-6)\n"
    )
    train_under_kills(out, program, kills=3)
    assert_same_bits(parameters(whole), parameters(out))
    assert_same_bits(records(whole), records(out))
    assert render_table(whole) == render_table(out)


def test_a_torn_checkpoint_is_set_aside_and_the_one_before_is_used(undisturbed, tmp_path):
    whole, width = undisturbed
    out = tmp_path / "small"
    _stopped_half_way(out, width)
    (shard_folder,) = (out / "shards").iterdir()
    newest = max((p for p in (shard_folder / "checkpoints").iterdir()), key=lambda p: int(p.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 500:
            path.write_bytes(path.read_bytes()[:-100] + b"x" * 100)
    run(sweep(), out, width=width)
    assert_same_bits(parameters(whole), parameters(out))
    assert_same_bits(records(whole), records(out))
    assert list(shard_folder.glob("damaged-*")), "nothing is deleted"


def _stopped_half_way(out: Path, width: int) -> None:
    """Leaves a folder with two commits: the third segment dies."""

    with pytest.raises(KeyboardInterrupt):
        run(sweep(), out, width=width, progress=DiesAtThirdCommit(), segment_seconds=1e-6)


def test_extending_a_sweep_trains_only_what_is_new(undisturbed, tmp_path):
    whole, width = undisturbed
    out = tmp_path / "small"
    run(sweep(seeds=(0, 1)), out, width=width)
    before = {p: p.stat().st_mtime_ns for p in out.glob("shards/*/manifest.json")}
    run(sweep(seeds=(2, 1, 0)), out, width=width)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_same_bits(parameters(whole), parameters(out))
    assert len(load(out).runs) == 12


def test_another_sweep_in_the_folder_is_refused_and_nothing_is_touched(undisturbed):
    whole, width = undisturbed
    before = sorted((p, p.stat().st_mtime_ns) for p in whole.rglob("*"))
    with pytest.raises(InputError, match="holds the sweep 'small', not 'other'"):
        run(sweep(name="other"), whole, width=width)
    assert sorted((p, p.stat().st_mtime_ns) for p in whole.rglob("*")) == before


@pytest.fixture
def empty_cache(tmp_path):
    """A compilation cache of the test's own."""
    own = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    compilation_cache.reset_cache()
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", own)
    compilation_cache.reset_cache()


def test_one_program_per_cohort_whatever_is_swept(tmp_path, empty_cache):
    """Rates, gains, seeds, activations and initializers compile nothing anew, nor does a second segment or device."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kw: compiled.append(kw.get("fun_name")) if "backend_compile" in event else None
    )
    model = mlp(
        widths=(16, 12),
        activation=grid("sigmoid", "tanh", "relu", "gelu"),
        init=grid("standard", "orthogonal", "lsuv"),
        gain=grid(0.5, 1.5),
    )
    optimizer = sgd(learning_rate=grid(0.01, 0.02, 0.05))
    made = sweep(model=model, optimizer=optimizer, probes=("evaluation",))
    run(made, tmp_path / "small", width=4, segment_seconds=1e-6)
    asked = sum(name == "jit(train)" for name in compiled)
    assert asked == len(devices.local()), "each device asks once, and all but the first find what it compiled"
    assert len(list(empty_cache.glob("jit_train-*-cache"))) == 1


def test_compiled_segment_has_no_callback_and_no_collective(undisturbed):
    (program,) = PROGRAMS[undisturbed[1]]
    assert_no_callback_and_no_collective(program)


def bent(s):
    return jnp.arctan(s) + jnp.arcsin(jnp.clip(s, -0.5, 0.5))


def test_an_arctangent_takes_no_process_with_it(tmp_path):
    """XLA's own, 16 numbers at a time, reads its argument from where none was put (jaxlib 0.10): it crashed here."""
    model = mlp(widths=(64, 48), activation=grid("arctan", bent), init="lsuv")
    out = run(sweep(model=model, steps=3, record=at(1), probes=("activations",)), tmp_path / "small", width=4)
    assert np.isfinite(load(out).records()["activation_std"]).all()


def test_zero_steps_record_the_initialization_alone(tmp_path):
    out = run(sweep(steps=0, record=every(10)), tmp_path / "small", width=WIDTHS[-1])
    found = load(out).records()
    assert found["step"].to_numpy().tolist() == [0]
    assert np.isfinite(found["activation_std"]).all()
    assert np.isfinite(found["train_loss"]).all()
