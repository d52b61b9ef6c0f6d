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
    assert_no_callback_and_no_collective,
    assert_same_bits,
    parameters,
    records,
    train_under_kills,
)

WIDTH = 2


@pytest.fixture(scope="module", params=MODELS)
def undisturbed(request, tmp_path_factory):
    """Each kind trained once, and what was compiled for it."""
    compiled = []
    listener = lambda event, _, **kw: compiled.append(kw.get("fun_name")) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    out = run(sweep(request.param), tmp_path_factory.mktemp("undisturbed") / "networks", width=WIDTH)
    jax.monitoring.unregister_event_duration_listener(listener)
    return out, request.param, compiled


def test_it_learns_and_is_one_program(undisturbed):
    out, _, compiled = undisturbed
    assert sum(name == "jit(train)" for name in compiled) == 2, "each of the two devices that have runs asks once"
    found = load(out).records()
    assert np.isfinite(found["train_loss"]).all()
    assert (found["weight_norm"].std("step") > 0).any()


def test_neighbours_order_and_device_count_change_no_bit(undisturbed, tmp_path, monkeypatch):
    whole, kind, _ = undisturbed
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:1])
    mixed = run(sweep(kind, others=True), tmp_path / "networks", width=WIDTH)
    assert len(parameters(whole).keys() & parameters(mixed).keys()) == 2  # relu at 0.1, seeds 0 and 1
    assert_same_bits(parameters(whole), parameters(mixed))
    assert_same_bits(records(whole), records(mixed))


def test_resume_after_sigkill_gives_the_same_bits(undisturbed, tmp_path):
    whole, kind, _ = undisturbed
    program = (
        "import sys\n"
        "from tests.engine.networks import sweep\n"
        "from glorot_jax import run\n"
        f"run(sweep({kind!r}), sys.argv[1], width={WIDTH}, segment_seconds=1e-6)\n"
    )
    train_under_kills(tmp_path / "networks", program, kills=1)
    assert_same_bits(parameters(whole), parameters(tmp_path / "networks"))
    assert_same_bits(records(whole), records(tmp_path / "networks"))


@pytest.mark.parametrize("kind", MODELS)
def test_compiled_segment_has_no_callback_and_no_collective(kind):
    assert_no_callback_and_no_collective(sweep(kind), WIDTH)


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
                allowed = {"glorot_jax.models.points", "glorot_jax.models.predictions"}
                assert not name.startswith("glorot_jax.models") or name in allowed, (path.name, name)
        words = re.findall(r"\b(mlp|Mlp|resnet|transformer|cnn)\b", path.read_text(encoding="utf-8"))
        assert not words, (path.name, words)
