"""What makes a cohort's updates: chosen with a reason, recorded, kept by a resume, and the same training either way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import optax
import pytest
from flax import nnx

from glorot_jax import adam, every, grid, load, mlp, module, optimizer, resume, run, sgd
from glorot_jax.analysis.status import status
from glorot_jax.data import dataset
from glorot_jax.engine import devices
from glorot_jax.engine.fleet import Fleet
from glorot_jax.engine.planning import form
from glorot_jax.engine.planning.builder import Builder
from glorot_jax.engine.planning.plan import cohorts, per_run, plan, setup
from glorot_jax.errors import InputError
from glorot_jax.kernels import GENERAL, KERNELS, chain, dense
from glorot_jax.models.mlp import Dense
from tests.engine.small import DiesAtThirdCommit, assert_same_bits, parameters, records, sweep, training_programs

WIDTH = 4
SIZES = (48, 56)


def watched(**changes):
    """Half of its runs diverge at once, in both forms; the others are trained."""
    model = mlp(widths=SIZES, activation=grid("tanh", "relu"), gain=grid(1.0, 1e15))
    return sweep(**{"model": model, "probes": ("evaluation",)} | changes)


@pytest.fixture(scope="module")
def trained(compiled_quickly, tmp_path_factory):
    """The same runs with the general form and with the plain kernel: results and programs by kernel."""
    found = {}
    for kernel in (GENERAL, "xla"):
        with training_programs() as programs:
            out = run(watched(), tmp_path_factory.mktemp(kernel) / "small", width=WIDTH, kernel=kernel)
        found[kernel] = out, programs[0]
    return found


def manifests(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in out.glob("shards/*/manifest.json")]


def test_both_forms_train_the_same_networks(trained):
    general, plain = (trained[kernel][0] for kernel in (GENERAL, "xla"))
    one, other = parameters(general), parameters(plain)
    for name in one:
        for path, array in one[name].items():
            np.testing.assert_allclose(other[name][path], array, rtol=2e-4, atol=2e-5, err_msg=path)
    runs, same = load(general).runs, load(plain).runs
    lost = runs["model.gain"] == 1e15
    assert (runs["status"] == "diverged").equals(same["status"] == "diverged")
    assert (runs.loc[lost & (runs["model.activation"] == "relu"), "status"] == "diverged").all()
    assert (runs.loc[~lost, "status"] == "done").all()
    assert runs["diverged_in"].equals(same["diverged_in"])
    np.testing.assert_allclose(load(plain).records()["train_loss"], load(general).records()["train_loss"], rtol=1e-3)


def test_weights_are_written_over_in_place_and_no_gradient_is_kept(trained):
    """In the compiled program a weight-sized array is made by one operation a step: the update of the weights."""
    general, plain = (_made_of_weights_size(trained[kernel][1]) for kernel in (GENERAL, "xla"))
    assert general["copy"] == 1, "the general form copies: what is looked for is found"
    assert plain["copy"] == plain["dot"] == 0
    assert plain["fusion"] == 2, "the update, and the block's weights put back after a piece"


def _made_of_weights_size(program: str) -> dict[str, int]:
    shape = rf"f32\[{WIDTH},{SIZES[0]},{SIZES[1]}\]"
    inside = re.sub(r"^%fused_computation.*?\n}", "", program, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(rf"= {shape}\S* ([\w-]+)\(", inside)
    return {name: found.count(name) for name in ("copy", "dot", "fusion")}


def test_a_shard_goes_on_with_the_form_that_it_began_with(trained, tmp_path):
    """Also where the manifest is from before there was a choice: the general one."""
    whole, _ = trained[GENERAL]
    out = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        run(watched(), out, width=WIDTH, kernel=GENERAL, progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    (path,) = out.glob("shards/*/manifest.json")
    old = json.loads(path.read_text())
    assert (old.pop("kernel"), old.pop("kernels")) == (GENERAL, [{"from_step": 0, "kernel": GENERAL}])
    path.write_text(json.dumps(old))
    assert status(out)["shards"][0]["kernel"] == GENERAL
    resume(out)
    assert_same_bits(parameters(whole), parameters(out))
    assert_same_bits(records(whole), records(out))


def test_another_form_is_marked_where_it_is_asked_for(trained, tmp_path):
    out = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        run(watched(), out, width=WIDTH, kernel="xla", progress=DiesAtThirdCommit(), segment_seconds=1e-6)
    (before,) = manifests(out)
    resume(out, kernel=GENERAL)
    (after,) = manifests(out)
    assert after["kernel"] == GENERAL
    assert after["kernels"] == [{"from_step": 0, "kernel": "xla"}, {"from_step": before["step"], "kernel": GENERAL}]
    assert after["widths"] == before["widths"]
    assert status(out)["shards"][0]["kernel"] == "xla then general"


def test_a_form_that_is_not_to_be_had_is_refused_and_nothing_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(
        form, "why_not", lambda name, precision="float32": None if name == "xla" else "no compiler is there"
    )
    with pytest.raises(InputError, match=r"^kernel: 'native' can't be used here: no compiler is there"):
        run(watched(), tmp_path / "new", kernel="native")
    assert not (tmp_path / "new").exists()
    unmade = watched(steps=1, record=every(1))
    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "start", _dies)
        with pytest.raises(RuntimeError):
            run(unmade, tmp_path / "begun", width=WIDTH)
    (path,) = (tmp_path / "begun").glob("shards/*/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kernel": "native"}))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"^kernel: 'native' can't be used here: no compiler is there"):
        run(unmade, tmp_path / "begun")
    assert path.read_bytes() == before
    with pytest.raises(
        InputError, match=r"^kernel: 'metal' is not 'general' \| 'xla' \| 'native' \| 'pallas' \| 'cuda'"
    ):
        run(watched(), tmp_path / "new", kernel="metal")


def _dies(fleet):
    raise RuntimeError


class Plain(nnx.Module):
    """A chain like any other, which can't step by itself."""

    def __init__(self, features: int, classes: int, rngs: nnx.Rngs):
        self.layer = Dense(rngs.normal((features, classes)))

    def __call__(self, x):
        return self.layer(x)


class Stepping(Plain):
    """The same with a step of its own."""

    def descent(self, x, kernel):
        logits, updated = chain.descent(x, [(self.layer.kernel[...], self.layer.bias[...])], [], kernel)

        def update(error, goes_on):
            ((w, b),) = updated(error, goes_on)
            self.layer.kernel[...], self.layer.bias[...] = w, b

        return logits, update


def planned(**changes):
    """A plan's one row, in JSON's terms, and its text."""
    made = plan(sweep(probes=("evaluation",), **changes), width=2, quick=True)
    (row,) = made.rows
    return row.to_dict(), made.text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": adam(learning_rate=0.01)}, "the optimizer is more than SGD with a learning rate"),
        ({"optimizer": sgd(learning_rate=0.01, momentum=0.9)}, "the optimizer is more than SGD with a learning rate"),
        ({"optimizer": sgd(learning_rate=0.01, mup={"widths": (8, 8)})}, "learning rates differ by layer"),
        ({"model": module(Plain, flatten=True)}, "the network has no step of its own"),
    ],
)
def test_what_is_not_plain_descent_on_a_chain_keeps_the_general_form(changes, reason):
    said, _ = planned(**changes)
    assert (said["kernel"], said["why_kernel"]) == (GENERAL, reason)


@pytest.mark.parametrize(
    "changes", [{}, {"model": module(Stepping, flatten=True)}, {"optimizer": optimizer(optax.sgd, learning_rate=0.1)}]
)
def test_plain_descent_on_a_chain_takes_the_fastest_kernel_there_is(changes, monkeypatch):
    missing = {"fast": "no compiler is there", "faster": "for GPUs only"}
    monkeypatch.setattr(form, "PREFERRED", {"cpu": ("faster", "fast")})
    monkeypatch.setattr(form, "why_not", lambda name, precision="float32": missing.get(name))
    said, text = planned(**changes)
    why = "faster: for GPUs only; fast: no compiler is there"
    assert (said["kernel"], said["why_kernel"]) == ("xla", why)
    assert f"    kernel of an update: xla ({why})" in text
    monkeypatch.setattr(form, "PREFERRED", {"cpu": ("faster", "native")})
    said, _ = planned(**changes)
    assert (said["kernel"], said["why_kernel"]) == ("native", "plain SGD on dense layers; faster: for GPUs only")


# ---- by a stopwatch

RULE = form.Form("xla", "plain")


def calibrated(seconds, kept, rule=RULE, precision="float32", training=1e9):
    asked = []

    def measure(kernel):
        asked.append(kernel)
        return seconds[kernel]

    return form.calibrated(rule, precision, measure, training, lambda: 1.0, kept), asked


def test_the_quicker_kernel_is_taken_and_what_was_measured_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(
        form, "why_not", lambda name, precision="float32": "no GPU" if name in ("pallas", "cuda") else None
    )
    kept = tmp_path / "kernel.json"
    found, asked = calibrated({"xla": 2.0, "native": 1.0}, kept)
    assert (found.kernel, found.by, found.tried) == ("native", "calibration", {"xla": 2.0, "native": 1.0})
    assert asked == ["xla", "native"]
    again, asked = calibrated({}, kept)
    assert (again, asked) == (found, [])
    fails = calibrated({"xla": 2.0, "native": float("inf")}, tmp_path / "other.json")[0]
    assert (fails.kernel, fails.tried) == ("xla", {"xla": 2.0})


def test_nothing_is_tried_where_there_is_no_choice_or_it_would_not_pay(monkeypatch, tmp_path):
    monkeypatch.setattr(
        form, "why_not", lambda name, precision="float32": "no GPU" if name in ("pallas", "cuda") else None
    )
    short, asked = calibrated({}, tmp_path / "kernel.json", training=5.9)
    assert (short.kernel, asked) == ("xla", [])
    assert short.why == "plain; compiling 2 to try would take 2 s, training about 6 s"
    for rule in (form.Form(GENERAL, "momentum"), form.Form("xla", "as asked", "asked")):
        assert calibrated({}, tmp_path / "kernel.json", rule) == (rule, [])
    monkeypatch.setattr(form, "why_not", lambda name, precision="float32": None if name == "xla" else "no")
    assert calibrated({}, tmp_path / "kernel.json") == (RULE, [])


def test_the_stopwatch_sees_real_programs():
    """Every kernel that this machine has, on one device, for a training that is said to be long."""
    (cohort,) = cohorts(watched(model=mlp(widths=(8,)), seeds=(0,)).runs())
    made = setup(cohort, dataset.build(cohort.runs[0].data))
    builder = Builder(cohort, made, per_run(cohort), devices.local()[:1])
    builder.calibrate_kernel(1, 1e9)
    here = {name for name in KERNELS if dense.why_not(name) is None}
    if len(here) > 1:
        assert builder.form.by == "calibration"
        assert builder.form.tried.keys() == here
        assert builder.form.kernel == builder.program(1).kernel == min(here, key=builder.form.tried.get)
        assert 0 < min(builder.form.tried.values()) < 1


def test_bfloat16_has_no_native_kernel():
    found = plan(watched(precision="bfloat16"), quick=True).rows[0].kernel
    assert found.kernel == "xla"
    assert found.why in ("native: it knows no bfloat16", "plain SGD on dense layers")
    with pytest.raises(InputError, match="'native' can't be used here: it knows no bfloat16"):
        plan(watched(precision="bfloat16"), kernel="native", quick=True)
