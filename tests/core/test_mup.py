"""Learning rates of µP: the factors of its table, and its coordinate check."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from glorot_jax import activations, adam, initializers, losses, residual_mlp, sgd
from glorot_jax.errors import InputError
from glorot_jax.models.residual_mlp import ResidualMlp
from glorot_jax.models.transformer import Transformer
from glorot_jax.optimizers import mup_factors, scaled, transformation
from glorot_jax.probes.probe import forward_with_values
from tests.core.networks import make

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SETTINGS = {"depth": 2, "layers": 1, "residual": "none", "init": initializers.lecun_normal}


def shapes(kind: type, *arguments, **settings) -> dict[str, tuple[int, ...]]:
    flat = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: make(kind, *arguments, **settings)), nnx.Param))
    return {".".join(map(str, path)): v.shape for path, v in flat}


@pytest.mark.parametrize(
    ("kind", "stem", "hidden", "head", "bias"),
    [("sgd", 4.0, 1.0, 1 / 4, 4.0), ("adam", 1.0, 1 / 4, 1 / 4, 1.0), ("rmsprop", 1.0, 1 / 4, 1 / 4, 1.0)],
)
def test_factors_are_those_of_the_sources_table_3(kind, stem, hidden, head, bias):
    """A network four times as wide as its base; its output's bias stays as it is."""
    found = mup_factors(kind, *(shapes(ResidualMlp, 30, 5, width=w, normalization="layer", depth=1) for w in (256, 64)))
    assert found == {
        "stem.kernel": stem,
        "stem.bias": bias,
        "blocks.0.before.scale": bias,
        "blocks.0.before.bias": bias,
        "blocks.0.inner.layers.0.kernel": hidden,
        "blocks.0.inner.layers.0.bias": bias,
        "blocks.0.inner.layers.1.kernel": hidden,
        "blocks.0.inner.layers.1.bias": bias,
        "norm.scale": bias,
        "norm.bias": bias,
        "head.kernel": head,
        "head.bias": 1.0,
    }


@pytest.mark.parametrize("heads", [(2, 2), (2, 4)])
def test_factors_of_a_transformer_are_the_same_whether_heads_grow_or_become_more(heads):
    sizes = {"architecture": "decoder", "depth": 1, "vocabulary": 7}
    base, wide = (shapes(Transformer, (3,), 5, width=w, heads=h, **sizes) for w, h in zip((8, 16), heads, strict=True))
    for kind, inside, vector in (("sgd", 1.0, 2.0), ("adam", 0.5, 1.0)):
        found = mup_factors(kind, wide, base)
        for path, factor in found.items():
            if path == "head.bias":
                assert factor == 1
            elif path == "head.kernel":
                assert factor == 0.5
            else:
                assert factor == (inside if path.endswith("kernel") else vector), path


def test_networks_that_are_not_one_in_two_widths_are_refused():
    for wide, base, line in (
        ({"a": (2, 3)}, {"b": (2, 3)}, "optimizer.mup: a is a parameter of the network or of its base alone"),
        ({"a": (2, 3)}, {"a": (2,)}, "optimizer.mup: a is [2, 3] here and [2] in the base"),
        ({"a": (2, 3, 4)}, {"a": (1, 2, 3)}, "optimizer.mup: a is [2, 3, 4] here and [1, 2, 3] in the base: too much"),
    ):
        with pytest.raises(InputError) as error:
            mup_factors("sgd", wide, base)
        assert str(error.value).startswith(line)


def moves(kind: str, rate: float, width: int, readout: str, mup: bool) -> dict[str, float]:
    """Root mean square of what four steps changed at each point, over units, examples and three seeds."""
    x = np.random.default_rng(0).normal(size=(8, 30)).astype(np.float32)
    labels = np.arange(8) % 5
    if mup:
        wide, base = (shapes(ResidualMlp, 30, 5, width=w, **SETTINGS) for w in (width, 32))
        factors = mup_factors(kind, wide, base)
    optimizer = transformation(kind, {}, {"learning_rate": jnp.float32(rate)})
    optimizer = scaled(optimizer, factors) if mup else optimizer

    def one(seed):
        module = make(ResidualMlp, 30, 5, width=width, seed=seed, readout=readout, **SETTINGS | TANH)
        graph, trained, rest = nnx.split(module, nnx.Param, ...)
        variables = {".".join(map(str, path)): (path, v) for path, v in nnx.to_flat_state(trained)}
        params = {name: v.get_value() for name, (_, v) in variables.items()}

        def looked(params):
            state = nnx.from_flat_state([(path, v.replace(params[name])) for name, (path, v) in variables.items()])
            return forward_with_values(nnx.merge(graph, state, rest, copy=True), x)

        def step(_, carry):
            params, memory = carry
            gradient = jax.grad(lambda p: jnp.mean(losses.nll(looked(p)[0], labels)))(params)
            updates, memory = optimizer.update(gradient, memory, params)
            return optax.apply_updates(params, updates), memory

        ends, _ = jax.lax.fori_loop(0, 4, step, (params, optimizer.init(params)))
        before, after = looked(params)[1], looked(ends)[1]
        return {name: jnp.mean((after[name] - before[name]) ** 2) for name in ("blocks.1.stream", "logits")}

    return {name: float(jnp.sqrt(jnp.mean(v))) for name, v in jax.jit(jax.vmap(one))(jnp.arange(3)).items()}


TANH = {"activation": activations.tanh}


@pytest.mark.parametrize(("kind", "rate"), [("sgd", 0.03), ("adam", 0.002)])
def test_coordinates_move_by_as_much_at_any_width_and_by_more_without(kind, rate):
    """The source's coordinate check, from 32 to 512 units: 16 times as wide.

    With one learning rate for all, logits move the further the wider the network, and Adam's hidden layers too; with
    those of µP all keep their size.
    """
    narrow, wide = (moves(kind, rate, width, "mup", True) for width in (32, 512))
    for name in narrow:
        assert 0.6 < wide[name] / narrow[name] < 1.6, (name, narrow, wide)
    narrow, wide = (moves(kind, rate, width, "init", False) for width in (32, 512))
    assert wide["logits"] / narrow["logits"] > 3, (narrow, wide)
    if kind == "adam":
        assert wide["blocks.1.stream"] / narrow["blocks.1.stream"] > 2.5


def test_a_description_takes_the_base_as_a_dict_or_a_text():
    one, same = adam(learning_rate=1e-3, mup={"width": 64}), adam(learning_rate=1e-3, mup="width=64")
    assert one == same
    assert one.static() == {}
    assert one.base(residual_mlp(width=512)) == residual_mlp(width=64)
    assert sgd(learning_rate=0.1).base(residual_mlp()) is None
    assert sgd(learning_rate=0.1, mup=None) == sgd(learning_rate=0.1)


@pytest.mark.parametrize(
    ("mup", "line"),
    [
        ({}, "adam.mup: {} names none of the model's arguments"),
        (64, "adam.mup: 64 names none of the model's arguments"),
        ("width", "adam.mup: 'width' names none of the model's arguments"),
        ({"wdth": 64}, "optimizer.mup.wdth: 'wdth' is not known"),
        ({"width": 0}, "optimizer.mup.width: 0 is not an integer ≥ 1"),
        ({"gain": 1.0}, "optimizer.mup.gain: it is no size of residual_mlp"),
    ],
)
def test_a_base_that_is_none_is_named(mup, line):
    with pytest.raises(InputError) as error:
        adam(learning_rate=1e-3, mup=mup).base(residual_mlp())
    assert str(error.value).startswith(line)
