"""Every probe that may look at a program of several depths: a run's records there are those of its network alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glorot_jax import Sweep, at, grid, mlp, sgd
from glorot_jax.data import dataset
from glorot_jax.engine.planning import plan
from glorot_jax.engine.segment import _Network, _Run
from glorot_jax.probes import BUILT_IN
from tests.engine.networks import pictures

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROBES = tuple(name for name, probe in BUILT_IN.items() if probe.any_depth)
EXACT = {
    *("valid_loss", "valid_error", "test_loss", "test_error", "input_cosine"),
    *("saturated_fraction", "dead_unit_fraction", "linear_fraction"),
}
UNDEFINED = ("_condition", "noise_scale", "noise_scale_error")
"""Where a singular value is 0, or the examples' gradients have no common part."""


def cohorts(*depths: int, fuse: bool) -> list[plan.Cohort]:
    sweep = Sweep(
        name="depths",
        data=pictures(),
        model=mlp(widths=grid(*((12,) * depth for depth in depths)), activation="tanh", init="normalized"),
        optimizer=sgd(learning_rate=0.1),
        seeds=(3,),
        steps=2,
        record=at(1),
        probes=PROBES,
        examples=9,
        jacobian_examples=2,
    )
    return plan.cohorts(sweep.runs(), fuse=fuse)


def measured(cohort: plan.Cohort) -> list[dict[str, np.ndarray]]:
    """What each run's probes find after its first update."""
    setup = plan.setup(cohort, dataset.build(cohort.runs[0].data))
    arrays = plan.per_run(cohort)
    example = {name: jnp.asarray(array[0]) for name, array in arrays.items()}
    run, constants = _Run(setup, _Network(setup, example), example), setup.dataset.constants()

    @jax.jit
    @jax.vmap
    def look(hyper):
        draws = [run._draw(constants, hyper["seed"], hyper["stream"], step) for step in range(2)]
        (x, y), (next_x, next_y) = ((run.scaled(x), y) for x, y in draws)
        state = run.step(run.start(constants, hyper), hyper, x, y, jnp.int32(0))
        return run.measure(constants, 0, hyper, state, next_x, next_y, jnp.int32(1))

    found = jax.device_get(look(arrays))
    return [{name: array[i] for name, array in found.items()} for i in range(len(cohort.runs))]


def test_all_built_in_probes_but_one_know_how_to():
    assert set(BUILT_IN) - set(PROBES) == {"module_outputs"}


def test_each_record_is_that_of_the_network_alone():
    """Of two hidden layers, beside one of three."""
    (shared,), (own,) = cohorts(2, 3, fuse=True), cohorts(2, fuse=False)
    fused, (alone,) = measured(shared)[0], measured(own)
    assert alone.keys() == fused.keys()
    for name, wanted in alone.items():
        found = fused[name]
        if wanted.shape != found.shape:
            assert found.shape == (3, *wanted.shape[1:]), name
            assert np.isnan(found[2]).all(), name
            found = found[:2]
        assert not np.isnan(wanted).all() or name.endswith(UNDEFINED), name
        if name in EXACT:
            np.testing.assert_array_equal(found, wanted, name)
        of = alone.get(name.removesuffix("_error"), wanted)  # an error may itself be nothing but rounding
        unit = np.abs(of[np.isfinite(of)]).max(initial=1e-12)
        np.testing.assert_allclose(found / unit, wanted / unit, atol=2e-5, err_msg=name)
