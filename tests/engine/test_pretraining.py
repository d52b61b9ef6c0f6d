"""Unsupervised pre-training: what it computes, against NumPy in float64, and the engine's promises below step 0."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glorot_jax import (
    arrays,
    at,
    cnn,
    denoising,
    grid,
    load,
    mlp,
    module,
    plan,
    probe,
    residual_mlp,
    run,
    show_layer,
)
from glorot_jax.analysis.figures.variants import variants
from glorot_jax.analysis.status import render_status
from glorot_jax.analysis.tables import render_table
from glorot_jax.autoencoders import kept
from glorot_jax.data import dataset
from glorot_jax.engine import checkpoint, devices, shard, watching
from glorot_jax.engine.pretraining import Pretraining
from glorot_jax.engine.segment import ALIVE, _below_alive, step_of
from glorot_jax.errors import InputError, Stopped
from glorot_jax.randomness import key, stream_for
from tests.engine import small
from tests.engine.small import assert_same_bits, parameters, records, training_programs

STEPS = 25
LAYERS = 2
TOTAL = STEPS * LAYERS


FUNCTIONS = {
    "sigmoid": (lambda s: 1 / (1 + np.exp(-s)), lambda s: np.exp(-s) / (1 + np.exp(-s)) ** 2),
    "tanh": (np.tanh, lambda s: 1 - np.tanh(s) ** 2),
    "softsign": (lambda s: s / (1 + np.abs(s)), lambda s: (1 + np.abs(s)) ** -2),
}


def sweep(**changes):
    """Two rates; most tests change what is no part of a program, so that it is compiled once."""
    settings = {
        "model": mlp(widths=(12, 8), activation=grid(*FUNCTIONS), init="normalized"),
        "pretraining": denoising(steps=STEPS, learning_rate=grid(0.02, 0.05)),
        "seeds": (0, 1),
        "steps": 6,
        "record": at(3),
        "probes": ("evaluation", probe("activations", method="moments"), batch_seen),
    }
    return small.sweep(**settings | changes)


def fingerprint(scene):
    """a fingerprint of the next update's mini-batch"""
    inputs, labels = scene.batch
    places = jnp.arange(inputs.size).reshape(inputs.shape) % 97
    return jnp.stack([jnp.sum(jnp.where(inputs > 0, places, 0)), jnp.sum(labels)]).astype(jnp.float32)


batch_seen = probe(fingerprint, dims=("part",))


class Listening(watching.Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.phases, self.news = [], []

    def phase(self, text):
        self.phases.append(text)

    def advance(self, news):
        self.news.append(news)


class Interrupts(watching.Silent):
    """Sends the process a signal once it is so far."""

    def __init__(self, step: int):
        self.step = step

    def advance(self, news):
        if news.step >= self.step:
            os.kill(os.getpid(), signal.SIGINT)
            self.step = 10**9


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep trained once, what was told meanwhile, and its compiled programs."""
    heard = Listening()
    with training_programs() as heard.programs:
        return run(sweep(), tmp_path_factory.mktemp("whole") / "small", width=4, progress=heard), heard


# ---- what it computes


@pytest.fixture(scope="module")
def draws():
    """Each step's examples, and the uniform numbers that decide what is kept of each layer's inputs: the engine's."""
    data, own = dataset.build(sweep().data), key(3, "pretraining")

    @jax.jit
    @jax.vmap
    def drawn(position):
        pixels, _ = data.draw(data.arrays, 3, stream_for(0, "pretraining"), position, 10)
        uniform = [jax.random.uniform(jax.random.fold_in(own, position), (10, n)) for n in (256, 12)]
        return data.scale(pixels.reshape(10, -1)), uniform

    inputs, uniform = drawn(jnp.arange(TOTAL, dtype=jnp.int32))
    return np.asarray(inputs, np.float64), [np.asarray(u) for u in uniform]


def by_hand(weights, activation, rate, noise, draws):
    """Both layers' parameters, decoders' biases and errors, in float64 and loops."""
    function, slope = FUNCTIONS[activation]
    weights = [np.asarray(w, np.float64) for w in weights]
    biases = [np.zeros(w.shape[1]) for w in weights]
    visible = [np.zeros(w.shape[0]) for w in weights]
    errors = np.full((LAYERS, STEPS), np.nan)
    for position in range(TOTAL):
        k, t = divmod(position, STEPS)
        z = draws[0][position]
        for below in range(k):
            z = function(z @ weights[below] + biases[below])
        kept = draws[1][k][position] >= noise
        w, b, c = weights[k], biases[k], visible[k]
        w_new, b_new, c_new = w.copy(), b.copy(), c.copy()
        squares = 0.0
        for x, x_kept in zip(z, z * kept, strict=True):
            s = x_kept @ w + b
            h = function(s)
            off = h @ w.T + c - x
            squares += (off**2).sum()
            back = (2 * off @ w) * slope(s)
            w_new -= rate / 10 * (np.outer(x_kept, back) + np.outer(2 * off, h))
            b_new -= rate / 10 * back
            c_new -= rate / 10 * 2 * off
        errors[k, t] = squares / z.size
        weights[k], biases[k], visible[k] = w_new, b_new, c_new
    return weights, biases, visible, errors


@pytest.fixture(scope="module")
def at_zero(tmp_path_factory):
    """Runs that stop where training would begin, at two shares of noise, and the same as they are drawn."""
    before = denoising(steps=STEPS, learning_rate=0.05, noise=grid(0.25, 0.6))
    settings = {"steps": 0, "record": at(), "seeds": (3,)}
    folder = tmp_path_factory.mktemp("zero")
    made = run(sweep(pretraining=before, **settings), folder / "pre" / "small", width=4)
    return made, run(sweep(pretraining=None, **settings), folder / "none" / "small", width=4)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("noise", [0.25, 0.6])
def test_both_layers_learn_what_numpys_loops_learn(at_zero, draws, activation, noise):
    results, drawn = at_zero
    runs, origin = load(results).runs, load(drawn).runs
    (mine,) = runs.index[(runs["model.activation"] == activation) & (runs["pretraining.noise"] == noise)]
    (bare,) = origin.index[origin["model.activation"] == activation]
    state, first = parameters(results)[mine], parameters(drawn)[bare]
    drawn_weights = [first[f"params/layers.{k}.kernel"] for k in range(LAYERS)]
    weights, biases, visible, errors = by_hand(drawn_weights, activation, 0.05, noise, draws)
    for k in range(LAYERS):
        for found, truth in (
            (state[f"params/layers.{k}.kernel"], weights[k]),
            (state[f"params/layers.{k}.bias"], biases[k]),
            (state[f"pretraining/visible_bias.{k + 1}"], visible[k]),
        ):
            assert np.abs(truth).max() > 1e-3
            np.testing.assert_allclose(found, truth, rtol=2e-4, atol=2e-5)
    for name in ("kernel", "bias"):  # the output layer begins as it was drawn
        assert state[f"params/layers.2.{name}"].tobytes() == first[f"params/layers.2.{name}"].tobytes()
    tenths = np.arange(STEPS) * 10 // STEPS
    wanted = [[e[0], *(e[tenths == part].mean() for part in range(10))] for e in errors]
    measured = load(results).records()["reconstruction_error"].sel(run=mine, step=0)
    assert measured.dims == ("layer", "pretrained")
    assert measured["pretrained"].to_numpy().tolist() == [i / 10 for i in range(11)]
    np.testing.assert_allclose(measured, wanted, rtol=2e-4)
    assert (measured.isel(pretrained=-1) < 0.7 * measured.isel(pretrained=0)).all(), "it has learned"


def test_what_is_kept_is_a_share_of_all_and_each_step_draws_anew():
    own = key(5, "pretraining")
    masks = np.stack([kept(jax.random.fold_in(own, i), jnp.float32(0.3), (10, 400)) for i in range(50)])
    assert abs(masks.mean() - 0.7) < 4 * np.sqrt(0.21 / masks.size)
    both = (masks[:-1] & masks[1:]).mean()
    assert abs(both - 0.49) < 0.01
    assert kept(own, jnp.float32(0), (10, 40)).all()
    assert not kept(own, jnp.float32(1), (10, 40)).any()


@pytest.mark.parametrize("steps", [1, 4, 10, 25, 10**8])
def test_each_tenth_is_a_mean_of_its_own_steps(steps):
    """Of which one to nine steps leave some out."""
    sizes = [len(range(-(-part * steps // 10), -(-(part + 1) * steps // 10))) for part in range(10)]
    assert sum(sizes) == steps
    sums = {"pretraining": {"errors": jnp.array([[2.0, *(3.0 * size for size in sizes)]])}}
    found = Pretraining.errors(SimpleNamespace(steps=steps), sums, jnp.int32(0))
    np.testing.assert_allclose(found, [[2.0, *(3.0 if size else np.nan for size in sizes)]], rtol=1e-6)
    assert jnp.isnan(Pretraining.errors(SimpleNamespace(steps=steps), sums, jnp.int32(1))).all()


def test_training_sees_the_examples_that_it_sees_without(whole, tmp_path):
    """And pre-training others: its own do not come again."""
    results, _ = whole
    plain = run(sweep(pretraining=None), tmp_path / "small", width=4)
    with_it, without = (load(folder).records().set_xindex("name") for folder in (results, plain))
    for seed in (0, 1):
        mine, bare = (r["fingerprint"].where(r["seed"] == seed, drop=True).to_numpy() for r in (with_it, without))
        assert np.isfinite(bare).all()
        assert (mine == bare[0]).all()
        assert len(np.unique(bare[0], axis=0)) == bare.shape[1]
    data = dataset.build(sweep().data)
    own, training = (
        np.asarray(data.draw(data.arrays, 0, stream, jnp.int32(0), 10)[0])
        for stream in (stream_for(0, "pretraining"), jnp.uint32(0))
    )
    assert (own != training).any(axis=(1, 2)).all()


def test_pretraining_by_nothing_is_training_alone(tmp_path):
    """So small a rate moves weights by less than they can hold."""
    both = grid(None, denoising(steps=STEPS, learning_rate=1e-30))
    found = load(run(sweep(pretraining=both), tmp_path / "small", width=4)).records()
    pretrained = found["pretraining"].to_numpy() == "denoising"
    assert pretrained.sum() == 6
    for name in ("train_loss", "valid_loss", "test_error", "activation_std"):
        np.testing.assert_allclose(found[name][pretrained], found[name][~pretrained], rtol=1e-4)
    errors = found["reconstruction_error"].sel(step=0)
    assert np.isfinite(errors[pretrained]).all()
    assert np.isnan(errors[~pretrained]).all(), "nothing of runs without it"
    told = found["activation_std_theory"]
    assert np.isnan(told[pretrained]).all(), "theory knows weights as they are drawn"
    assert np.isfinite(told[~pretrained]).any()
    text = render_table(tmp_path / "small")
    assert all(row in text for row in ("tanh · denoising", "tanh · no pretraining"))
    assert {one.label for one in variants(load(tmp_path / "small"))} == {
        f"{activation} · {told}" for activation in FUNCTIONS for told in ("no pretraining", "denoising")
    }


# ---- the promises below step 0


def test_a_run_knows_neither_neighbours_nor_devices(whole, tmp_path, monkeypatch):
    results, _ = whole
    monkeypatch.setattr(devices, "local", lambda: jax.local_devices()[:1])
    other = sweep(
        pretraining=denoising(steps=STEPS, learning_rate=grid(0.05, 0.3), noise=grid(0.5, 0.25)),
        model=mlp(widths=(12, 8), activation=grid("relu", "tanh"), init=grid("standard", "normalized")),
        seeds=(7, 1),
    )
    mixed = run(other, tmp_path / "small", width=4)
    one, two = parameters(results), parameters(mixed)
    assert len(one.keys() & two.keys()) == 1  # tanh, rate 0.05, noise 0.25, seed 1
    assert_same_bits(one, two)
    assert_same_bits(records(results), records(mixed))


def test_a_signal_stops_it_within_a_segment_and_a_torn_checkpoint_is_no_loss(whole, tmp_path):
    results, _ = whole
    out = tmp_path / "small"
    with pytest.raises(Stopped, match=r"saved at step \d+ of 50 of the pre-training; the same command goes on"):
        run(sweep(), out, width=4, progress=Interrupts(-40), segment_seconds=1e-6)
    ((part, _),) = shard.open_all(out)
    assert -40 <= part.step < -TOTAL + STEPS
    runs = load(out).runs
    assert (runs["status"] == "training").all()
    assert (runs["step"] == part.step).all()
    assert f"pre-training step {TOTAL + part.step} of {TOTAL} ({(TOTAL + part.step) / (TOTAL + 6):.0%})" in (
        render_status(out)
    )
    torn = part.checkpoints / str(part.step)
    for path in torn.rglob("*"):
        if path.is_file() and path.stat().st_size > 500:
            path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.restore(part.checkpoints, part.manifest["checkpoint"])
    run(sweep(), out, width=4)
    assert_same_bits(parameters(results), parameters(out))
    assert_same_bits(records(results), records(out))
    assert len(list(part.folder.glob("damaged-*"))) == 1
    assert all(int(p.name) >= 0 for p in part.checkpoints.iterdir()), "none of those below 0 is left"


def test_divergence_in_pretraining_has_a_step_and_a_layer_and_touches_nobody(whole, tmp_path):
    results, _ = whole
    wild = denoising(steps=STEPS, learning_rate=grid(0.05, 1e6))
    mixed = run(sweep(pretraining=wild), tmp_path / "small", width=4)
    runs = load(mixed).runs
    lost = runs[runs["status"] == "diverged"]
    assert set(lost["pretraining.learning_rate"]) == {1e6}
    assert lost["diverged_step"].between(-TOTAL, -TOTAL + 9).all()
    assert (lost["diverged_in"] == "reconstruction of layer 1").all()
    assert len(lost) == 6
    assert lost["test_error"].isna().all()
    assert_same_bits(parameters(results), parameters(mixed))
    text = render_status(mixed)
    assert "steps below 0 are of the pre-training" in text


@pytest.mark.parametrize("step", [-1, -2, 0, 5])
def test_any_step_can_be_told_from_being_alive(step):
    stored = int(_below_alive(jnp.int32(step))) if step < 0 else step
    assert stored != ALIVE
    assert step_of(stored) == step


def test_one_program_whatever_is_swept(tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kw: compiled.append(kw.get("fun_name")) if "backend_compile" in event else None
    )
    before = denoising(steps=STEPS, learning_rate=grid(0.01, 0.05), noise=grid(0.0, 0.5))
    run(sweep(pretraining=before, steps=0, record=at(), seeds=range(4)), tmp_path / "small", width=4)
    assert sum(name == "jit(train)" for name in compiled) == len(devices.local())


def test_the_program_has_no_callback_and_no_collective(whole):
    _, heard = whole
    (program,) = heard.programs
    small.assert_no_callback_and_no_collective(program, part="while")


# ---- what a person is told


def test_progress_and_plan_count_its_steps(whole):
    results, heard = whole
    assert heard.phases[-3:] == ["pre-training layer 1", "pre-training layer 2", "training"]
    assert [news.step for news in heard.news if news.step in (-STEPS, 0)] == [-STEPS, 0]
    assert heard.news[0].first_step == -TOTAL
    assert sum(news.run_steps for news in heard.news) == (TOTAL + 6) * 12
    assert load(results).records()["step"].to_numpy().tolist() == [0, 3, 6]
    quick = plan(sweep(), quick=True)
    (row,) = quick.to_dict()["cohorts"]
    assert row["steps"] == 6
    assert row["label"].endswith(", pre-trained by 25 steps a layer")
    assert (row["pretraining"]["steps_per_layer"], row["pretraining"]["layers"]) == (STEPS, LAYERS)
    assert "pre-training: 2 layers × 25 steps, about " in quick.text()
    assert plan(sweep(pretraining=None), quick=True).to_dict()["cohorts"][0]["pretraining"] is None


def test_plan_measures_a_step_of_each_layer():
    (row,) = plan(sweep(), width=4).rows
    assert len(row.cost.pretraining) == LAYERS
    assert min(row.cost.pretraining) > 0
    blocks = row.layout.blocks_per_device
    assert row.pretraining_seconds == pytest.approx(STEPS * sum(row.cost.pretraining) * blocks)
    assert row.pretraining_seconds < row.seconds


# ---- what can't be pre-trained


class Bare(nnx.Module):
    """Dense layers that show their weights alone."""

    def __init__(self, features, classes, *, says_bias, rngs):
        self.first, self.last = (nnx.Linear(n, m, rngs=rngs) for n, m in ((features, 8), (8, classes)))
        self.says_bias = says_bias

    def __call__(self, x):
        bias = self.first.bias if self.says_bias else None
        z = show_layer(self, "first", self.first(x.reshape(len(x), -1)), jnp.tanh, kernel=self.first.kernel, bias=bias)
        return self.last(z)


NO_STACK = {
    "residual": residual_mlp(depth=2, width=8),
    "convolutions": cnn(channels=(4, 4)),
    "no bias told": module(Bare, says_bias=False),
    "no hidden layer": mlp(widths=()),
}


@pytest.mark.parametrize("name", NO_STACK)
def test_a_network_that_is_no_stack_of_dense_layers_is_refused_and_nothing_is_touched(tmp_path, name):
    with pytest.raises(InputError, match="pretraining: the network is no stack of dense layers that show their") as no:
        run(sweep(model=NO_STACK[name]), tmp_path / "small")
    assert "kernel=…, bias=…" in str(no.value)
    assert not (tmp_path / "small").exists()


def test_a_module_of_ones_own_that_says_both_is_pretrained(tmp_path):
    rng = np.random.default_rng(0)
    data = arrays(rng.normal(size=(90, 3, 2)), np.arange(90) % 3, validation=20, test=20)
    one = module(Bare, says_bias=True)
    before = denoising(steps=40, learning_rate=0.02, noise=0.1)
    out = run(sweep(model=one, data=data, pretraining=before, probes=("evaluation",), examples=5), tmp_path / "small")
    found = load(out).records()["reconstruction_error"].sel(step=0, layer=1)
    assert (found.isel(pretrained=-1) < found.isel(pretrained=0)).all()


def test_examples_on_the_host_are_refused(tmp_path):
    data = arrays(np.zeros((90, 6)), np.arange(90) % 3, validation=20, test=20, placement="host")
    with pytest.raises(InputError, match=r"pretraining: it draws its examples on the device.*\n.*placement='device'"):
        run(sweep(data=data), tmp_path / "small")
