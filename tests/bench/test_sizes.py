"""What an update needs at least is counted right: parameters, operations, bytes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr

from glorot_jax.bench.engine import BATCH, Size, records_a_step


def test_the_paper_s_size_moves_77_megabytes_in_four_passes():
    size = Size(784, 1000, 4)
    assert size.network == "784-1000×5-10"
    assert size.parameters == 784 * 1000 + 1000 + 4 * (1000 * 1000 + 1000) + 1000 * 10 + 10
    assert size.moved == 4 * 4 * size.parameters
    assert round(size.moved / 1e6) == 77


@pytest.mark.parametrize("size", [Size(64, 32, 4), Size(7, 3, 1)])
def test_operations_are_those_of_the_products_in_a_traced_gradient(size):
    def loss(params, x):
        for w, b in params:
            x = jnp.tanh(x @ w + b)
        return jnp.sum(x)

    params = [(jnp.zeros((i, o)), jnp.zeros(o)) for i, o in size.layers]
    traced = jax.make_jaxpr(jax.grad(loss))(params, jnp.zeros((BATCH, size.features)))
    assert size.flops == _product_flops(traced)


def _product_flops(traced: ClosedJaxpr) -> int:
    found = 0
    for equation in traced.jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            found += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        for inner in equation.params.values():
            found += _product_flops(inner) if isinstance(inner, ClosedJaxpr) else 0
    return found


@pytest.mark.parametrize("runs", [1, 4, 12])
def test_every_run_has_seed_and_learning_rate_of_its_own(runs):
    made = Size(16, 8, runs).sweep().runs()
    assert len({(run.seed, run.config["optimizer.learning_rate"]) for run in made}) == runs


def test_the_quickstart_makes_eleven_records_in_20_000_steps():
    assert records_a_step() == 11 / 20_000
