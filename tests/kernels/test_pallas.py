"""The kernels for GPUs, interpreted on a CPU: against float64, under every mapping, in place; and lowered for CUDA."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glorot_jax import mlp
from glorot_jax.data.dataset import build
from glorot_jax.engine import segment
from glorot_jax.engine.planning import memory, plan
from glorot_jax.kernels import chain, dense, pallas
from glorot_jax.models.precision import products_in
from tests.core.test_precision import nearest
from tests.engine.networks import pictures
from tests.engine.small import sweep

IN_FORCE = partial(pallas.backward_update, input_error=True)


def BACKWARD(z, error, w, b):
    """Full float32 is left to XLA; tensorfloat32 is float32 on a CPU."""
    with products_in("tensorfloat32"):
        return IN_FORCE(z, error, w, b)


def drawn(batch: int, fan_in: int, fan_out: int, *runs: int):
    """z, error, w, b of a layer."""
    draw = np.random.default_rng([batch, fan_in, fan_out, *runs])
    shapes = (batch, fan_in), (batch, fan_out), (fan_in, fan_out), (fan_out,)
    return [draw.normal(size=(*runs, *shape)).astype(np.float32) for shape in shapes]


def truth(z, error, w, b):
    """s, zᵉ, W' and b' in float64."""
    z, error, w, b = (v.astype(np.float64) for v in (z, error, w, b))
    turned = w.swapaxes(-1, -2)
    new = w + z.swapaxes(-1, -2) @ error, b + error.sum(-2)
    return z @ w + b[..., None, :], error @ turned, *new


def assert_near(found, expected, off=2e-6):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=off * np.abs(other).max())


@settings(max_examples=5, deadline=None, derandomize=True)
@given(batch=st.integers(1, 40), fan_in=st.integers(1, 90), fan_out=st.integers(1, 90))
def test_any_layer_is_right_whether_or_not_tiles_divide_it(batch, fan_in, fan_out):
    z, error, w, b = drawn(batch, fan_in, fan_out)
    found = pallas.forward(z, w, b), *BACKWARD(z, error, w, b)
    assert_near(found, truth(z, error, w, b))


@pytest.mark.parametrize("sizes", [(10, 64, 128), (16, 32, 32), (pallas.LARGEST_BATCH + 1, 20, 30)])
def test_layers_of_whole_tiles_and_batches_too_large_for_one_are_right(sizes):
    z, error, w, b = drawn(*sizes)
    assert_near((pallas.forward(z, w, b), *BACKWARD(z, error, w, b)), truth(z, error, w, b))
    nothing, *rest = pallas.backward_update(z, error, w, b, input_error=False)
    assert nothing is None
    assert_near(rest, truth(z, error, w, b)[2:])


@pytest.mark.parametrize("along", [(0, 0, 0, 0), (None, 0, 0, 0), (0, 0, None, None), (0, None, 0, None)])
def test_runs_are_an_axis_whichever_arguments_have_it(along):
    alone, runs = drawn(5, 20, 40), drawn(5, 20, 40, 3)
    arguments = [one if axis is None else many for one, many, axis in zip(alone, runs, along, strict=True)]
    every = [np.broadcast_to(v, many.shape) for v, many in zip(arguments, runs, strict=True)]
    assert_near(jax.vmap(BACKWARD, along)(*arguments), truth(*every)[1:])
    z, _, w, b = arguments
    found = jax.vmap(pallas.forward, (along[0], *along[2:]))(z, w, b) if {along[0], *along[2:]} != {None} else None
    if found is not None:
        assert_near([found], truth(*every)[:1])


def test_a_run_has_the_same_bits_alone_and_in_whichever_place():
    runs = drawn(10, 40, 50, 4)
    together = jax.jit(jax.vmap(BACKWARD))(*runs)
    turned = jax.jit(jax.vmap(BACKWARD))(*(v[::-1] for v in runs))
    alone = jax.jit(BACKWARD)(*(v[2] for v in runs))
    for one, other, single in zip(together, turned, alone, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other[::-1]).tobytes()
        assert np.asarray(one[2]).tobytes() == np.asarray(single).tobytes()


def test_a_nest_of_mappings_within_a_loop_updates_again_and_again():
    z, error, w, b = drawn(4, 20, 33, 2, 3)

    def steps(w, b):
        def step(_, state):
            below, w, b = jax.vmap(jax.vmap(BACKWARD))(z, error, *state[1:])
            return below, w, b

        return jax.lax.fori_loop(0, 3, step, (jnp.zeros_like(z), w, b))

    found, expected = jax.jit(steps)(w, b), (w, b)
    for _ in range(3):
        _, below, *expected = truth(z, error, *expected)
    assert_near(found, (below, *expected))


@pytest.mark.parametrize("precision", ["tensorfloat32", "bfloat16"])
def test_products_are_in_the_precision_in_force(precision):
    """On a CPU tensorfloat32 is float32; bfloat16 rounds the factors, as plain JAX does."""
    z, error, w, b = drawn(10, 70, 40)
    factors = nearest if precision == "bfloat16" else np.float64
    z_, e, v = (factors(x) for x in (z, error, w))
    expected = z_ @ v + b, e @ v.T, w + z_.T @ e, b + error.astype(np.float64).sum(0)
    with products_in(precision):
        found = pallas.forward(z, w, b), *IN_FORCE(z, error, w, b)
        plain = dense.forward(z, w, b), *dense.backward_update(z, error, w, b, input_error=True)
    assert_near(found, expected)
    assert_near(plain, expected)


def lowered(precision: str, runs: int = 6) -> list[str]:
    """Both kernels' calls as JAX lowers them for CUDA, which needs no GPU."""
    z, error, w, b = (jax.ShapeDtypeStruct(v.shape, v.dtype) for v in drawn(10, 100, 70, runs))
    found = []
    with products_in(precision):
        sizes = pallas.tiles(10, 100, 70, precision)
        back = partial(pallas.backward_update_by_tiles, sizes=sizes, input_error=True, interpret=False)
        ahead = partial(pallas.forward_by_tiles, sizes=sizes, interpret=False)
        for function, arguments in ((back, (z, error, w, b)), (ahead, (z, w, b))):
            traced = jax.jit(jax.vmap(function)).trace(*arguments)
            found.append(traced.lower(lowering_platforms=("cuda",)).as_text())
    return found


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_they_lower_for_cuda_one_call_a_layer_over_strips_and_runs_and_in_place(precision):
    back, ahead = lowered(precision)
    for text, strips in ((back, 4), (ahead, 1)):
        assert len(re.findall("xla.gpu.triton", text)) == len(re.findall("stablehlo.custom_call", text)) == 1
        assert re.findall(r"grid_[xyz] = (\d+)", text) == [str(strips), "6", "1"]
    aliases = re.findall(r"output_tuple_indices = \[(\d)\],\s*operand_index = (\d)", back)
    assert sorted(aliases) == [("0", "2"), ("1", "3")], "the new W and b lie where the old ones were"


def test_the_rule_for_tiles():
    assert pallas.tiles(10, 784, 1000) == pallas.tiles(10, 784, 1000, "bfloat16") == (16, 32, 128, 4)
    assert pallas.tiles(10, 1000, 10) == (16, 32, 16, 4)
    assert pallas.tiles(33, 1000, 1000) == (64, 16, 128, 8)
    assert pallas.tiles(1, 3, 2, "tensorfloat32") == (16, 16, 16, 4)


def test_a_cpu_says_why_not():
    assert pallas.why_not() == dense.why_not("pallas") == "for GPUs only, not cpu"
    assert dense.kernel("pallas").backward_update is pallas.backward_update


def test_a_chain_of_layers_takes_the_same_step_as_in_plain_jax():
    """Four runs, one of which is lost."""
    layers = [(w, b) for _, _, w, b in (drawn(5, *sizes, 4) for sizes in ((30, 20), (20, 33), (33, 7)))]
    x, error = drawn(5, 30, 7, 4)[:2]
    goes_on = np.array([True, True, False, True])

    def step(kernel, x, layers, error, goes_on):
        logits, updated = chain.descent(x, layers, [jnp.tanh, jnp.tanh], kernel)
        return logits, updated(error, goes_on)

    found, plain = (
        jax.tree.leaves(jax.jit(jax.vmap(partial(step, dense.kernel(name))))(x, layers, error, goes_on))
        for name in ("pallas", "xla")
    )
    assert_near(found, plain)
    for one, start in zip(found[1:], jax.tree.leaves(layers), strict=True):
        assert np.asarray(one)[2].tobytes() == start[2].tobytes(), "a lost run stays as it was"


@pytest.mark.parametrize(("precision", "calls"), [("float32", 1), ("bfloat16", 2)])
def test_a_whole_training_program_lowers_for_cuda_with_so_many_calls_a_layer(monkeypatch, precision, calls):
    monkeypatch.setattr(pallas, "_interpreted", lambda: False)
    described = sweep(model=mlp(widths=(16, 12)), data=pictures(), probes=("evaluation",), precision=precision)
    (cohort,) = plan.cohorts(described.runs())
    arrays = plan.per_run(cohort)
    draft = segment.Draft(plan.setup(cohort, build(cohort.runs[0].data)), {k: v[0] for k, v in arrays.items()})
    program = draft.program(2, "pallas")
    traced = jax.jit(program.segment, donate_argnums=4).trace(*memory.arguments(program, arrays))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == 3 * calls
    assert "callback" not in text
