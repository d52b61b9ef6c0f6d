"""The engine's promises on every kind of network, and on one that it has never seen."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from glorot_jax import at, load, module, run
from glorot_jax.engine import devices
from tests.engine.networks import MODELS, Linen, pictures, sweep
from tests.engine.small import (
    ROOT,
    DiesAtThirdCommit,
    assert_no_callback_and_no_collective,
    assert_same_bits,
    parameters,
    records,
    training_programs,
)

WIDTH = 2


@pytest.fixture(scope="module", params=MODELS)
def undisturbed(request, tmp_path_factory):
    """Each kind trained once, what was compiled for it, and the training program as text."""
    compiled = []
    listener = lambda event, _, **kw: compiled.append(kw.get("fun_name")) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    with training_programs() as programs:
        out = run(sweep(request.param), tmp_path_factory.mktemp("undisturbed") / "networks", width=WIDTH)
    jax.monitoring.unregister_event_duration_listener(listener)
    return out, request.param, compiled, programs


def test_it_learns_and_is_one_program(undisturbed):
    out, _, compiled, programs = undisturbed
    assert sum(name == "jit(train)" for name in compiled) == 2, "each of the two devices that have runs asks once"
    assert len(programs) == 1
    found = load(out).records()
    assert np.isfinite(found["train_loss"]).all()
    assert (found["weight_norm"].std("step") > 0).any()


def test_compiled_segment_has_no_callback_and_no_collective(undisturbed):
    (program,) = undisturbed[3]
    assert_no_callback_and_no_collective(program)


def test_neighbours_order_device_count_and_a_stop_change_no_bit(undisturbed, tmp_path, monkeypatch):
    """Among strangers, on three devices until it stops and on one from then on."""
    whole, kind, *_ = undisturbed
    mixed = tmp_path / "networks"
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:3])
    with pytest.raises(KeyboardInterrupt):
        run(sweep(kind, others=True), mixed, width=WIDTH, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    assert 0 < load(mixed).runs["step"].max() < 12
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:1])
    run(sweep(kind, others=True), mixed, width=WIDTH)
    assert len(parameters(whole).keys() & parameters(mixed).keys()) == 2  # relu at 0.1, seeds 0 and 1
    assert_same_bits(parameters(whole), parameters(mixed))
    assert_same_bits(records(whole), records(mixed))


def test_state_beside_the_parameters_is_each_runs_own(tmp_path):
    """The stranger's counter and statistics move in training alone: neither records nor evaluation touch them."""
    out = run(sweep("a stranger's", steps=7, record=at(3)), tmp_path / "networks", width=WIDTH)
    for state in parameters(out).values():
        assert state["rest/calls"] == 7
    means = [state["rest/norm.mean"] for state in parameters(out).values()]
    assert len({mean.tobytes() for mean in means}) == len(means)


def test_a_linen_module_is_trained_by_the_bridge(tmp_path):
    """What its own ``apply`` gives under the trained parameters is what was recorded."""
    model = module(Linen, width=8, flatten=True)
    out = run(sweep("cnn", model=model, seeds=(0, 1)), tmp_path / "networks", width=WIDTH)
    errors = load(out).runs["test_error"]
    inputs, labels = pictures().test
    x = inputs.reshape(len(inputs), -1).astype(np.float32) / 255
    for name, state in parameters(out).items():
        layers = {k: {p: state[f"params/inner.{k}.{p}"] for p in ("kernel", "bias")} for k in ("Dense_0", "Dense_1")}
        assert np.abs(layers["Dense_1"]["bias"]).max() > 0, "it was trained"
        wrong = np.argmax(Linen(8, 3).apply({"params": layers}, x), axis=-1) != labels
        assert errors[name] == pytest.approx(wrong.mean())


def test_engine_and_probes_name_no_network():
    """They import what a network shows of itself, and no network."""
    for path in [*(ROOT / "glorot_jax/engine").glob("*.py"), *(ROOT / "glorot_jax/probes").glob("*.py")]:
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                allowed = {f"glorot_jax.models.{name}" for name in ("points", "precision", "predictions")}
                assert not name.startswith("glorot_jax.models") or name in allowed, (path.name, name)
        words = re.findall(r"\b(mlp|Mlp|resnet|transformer|cnn)\b", path.read_text(encoding="utf-8"))
        assert not words, (path.name, words)
