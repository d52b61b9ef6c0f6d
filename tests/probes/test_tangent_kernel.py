"""The tangent kernel of wide networks against mean-field theory, and the start that its drift is measured from."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glorot_jax import at, grid, load, mlp, probe, run, theory
from glorot_jax.errors import InputError
from glorot_jax.probes.ntk import kernel
from glorot_jax.probes.probe import Scene
from tests.engine.small import sweep
from tests.probes.test_catalogue import CHOICES, by_path, scene, shown

WIDTH, CLASSES, DRAWS = 512, 3, 8


def test_wide_networks_have_the_kernel_of_theory():
    """ReLU, two hidden layers; W ~ N(0, σ²/n), whose gradients are n/σ² times as large as theory's weights have them.

    The biases' share is 1/n of the weights'. Blocks of two classes are 0 at infinite width.
    """
    draw = np.random.default_rng(0)
    sizes = (WIDTH, WIDTH, WIDTH, CLASSES)
    look = jax.jit(lambda p: kernel(scene(p, jnp.int32(CHOICES.index("relu"))), p))
    blocks = np.zeros((16, CLASSES, 16, CLASSES))
    for _ in range(DRAWS):
        weights = [draw.normal(size=s, scale=np.sqrt(2 / s[0])) for s in itertools.pairwise(sizes)]
        found = look(by_path(weights, [np.zeros(w.shape[1]) for w in weights]))
        blocks += np.asarray(found).reshape(blocks.shape) * 2 / WIDTH / DRAWS
    x = shown(WIDTH, CLASSES)[0][:16].astype(np.float64)
    _, wanted = theory.neural_tangent_kernel(theory.arc_cosine_kernel, 2 / WIDTH * x @ x.T, 3, 2.0)
    scale = np.diag(wanted).mean()
    for one, other in itertools.product(range(CLASSES), repeat=2):
        limit = wanted if one == other else np.zeros_like(wanted)
        off = (blocks[:, one, :, other] - limit) / scale
        assert np.abs(off).max() < 0.12, (one, other)
        assert np.sqrt(np.mean(off**2)) < 0.05, (one, other)
    mean_over_classes = np.einsum("ncmc->nm", blocks) / CLASSES
    assert np.abs(mean_over_classes - wanted).max() < 0.1 * scale


STARTS = ("normalized", "truncated_normal", "orthogonal", "lsuv")


def start(scene: Scene):
    """the parameters that the run started from, and those it has"""
    return {f"{name}_parameters": joined(p) for name, p in (("first", scene.initial_params), ("own", scene.params))}


def joined(params):
    return jnp.concatenate([params[path].ravel() for path in sorted(params)])


def test_a_run_remembers_its_start_to_the_last_bit(tmp_path):
    """Drawn, decomposed or fitted to data, in a block with others; so the kernel has not moved before training."""
    out = run(
        sweep(
            model=mlp(widths=(8, 6), init=grid(*STARTS)),
            seeds=(0, 1),
            steps=3,
            record=at(),
            probes=("ntk", probe(start, dims=("parameter",))),
        ),
        tmp_path / "small",
        width=4,
    )
    found = load(out).records()
    first, own = (found[f"{name}_parameters"].to_numpy() for name in ("first", "own"))
    assert len(first) == 2 * len(STARTS)
    for step in range(first.shape[1]):
        assert first[:, step].tobytes() == own[:, 0].tobytes()
    assert (own[:, -1] != own[:, 0]).any(axis=1).all()
    drift = found["ntk_drift"].to_numpy()
    assert (drift[:, 0] == 0).all()
    assert (drift[:, -1] > 0).all()
    np.testing.assert_allclose(found["ntk_alignment"][:, 0], 1, rtol=1e-5)


def test_what_can_not_be_measured_is_said_in_one_line():
    many = by_path([np.zeros((2, 3)), np.zeros((3, 300))], [np.zeros(3), np.zeros(300)])
    with pytest.raises(InputError, match=r"16 examples of 300 classes make a kernel of 4800 rows, more than 4096"):
        jax.eval_shape(lambda p: kernel(scene(p, jnp.int32(0)), p), many)
    alone = Scene(*[None for f in dataclasses.fields(Scene) if f.default is dataclasses.MISSING])
    with pytest.raises(InputError, match="made without a run, so without a start"):
        _ = alone.initial_params
