"""Activation functions against float64 formulas, and each run's choice among them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from glorot_jax import activations

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

TRUTH = {
    "arctan": np.arctan,
    "elu": lambda s: np.where(s > 0, s, np.expm1(np.minimum(s, 0))),
    "erf": scipy.special.erf,
    "gelu": lambda s: s * scipy.special.ndtr(s),
    "hard_tanh": lambda s: np.clip(s, -1, 1),
    "identity": lambda s: s,
    "leaky_relu": lambda s: np.where(s > 0, s, 0.01 * s),
    "lecun_tanh": lambda s: 1.7159 * np.tanh(2 * s / 3),
    "mish": lambda s: s * np.tanh(np.logaddexp(0, s)),
    "relu": lambda s: np.maximum(s, 0),
    "selu": lambda s: SELU_SCALE * np.where(s > 0, s, SELU_ALPHA * np.expm1(np.minimum(s, 0))),
    "sigmoid": scipy.special.expit,
    "silu": lambda s: s * scipy.special.expit(s),
    "softplus": lambda s: np.logaddexp(0, s),
    "softsign": lambda s: s / (1 + np.abs(s)),
    "tanh": np.tanh,
}
SECOND_DERIVATIVES = {
    "sigmoid": lambda s: TRUTH["sigmoid"](s) * (1 - TRUTH["sigmoid"](s)) * (1 - 2 * TRUTH["sigmoid"](s)),
    "tanh": lambda s: -2 * np.tanh(s) * (1 - np.tanh(s) ** 2),
    "softsign": lambda s: -2 * np.sign(s) / (1 + np.abs(s)) ** 3,
}

NAMES = tuple(activations.__all__)
FUNCTIONS = tuple(getattr(activations, name) for name in NAMES)
FEW = ("sigmoid", "tanh", "softsign")

ORDINARY = ((np.arange(401) - 200.5) * 0.059).astype(np.float32)  # no kink within a finite difference's reach
LARGEST = np.float32(3e38)
EXTREME = np.array([1e4, -1e4, 0.0, -0.0, 1e-30, -1e-30, LARGEST, -LARGEST], np.float32)


@pytest.fixture(scope="module")
def computed() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Value and slope of each function on the ordinary and the extreme points."""
    points = np.concatenate([ORDINARY, EXTREME])
    found = jax.jit(lambda s: {n: (f(s), jax.vmap(jax.grad(f))(s)) for n, f in zip(NAMES, FUNCTIONS, strict=True)})
    return jax.tree.map(np.asarray, found(points))


def choose(names: tuple[str, ...]):
    """select among the functions of these names."""
    functions = tuple(getattr(activations, name) for name in names)
    return lambda index, s: activations.select(index, functions, s)


def slope(f, s: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Central difference in float64."""
    s = s.astype(np.float64)
    return (f(s + h) - f(s - h)) / (2 * h)


def test_every_function_is_checked():
    assert set(TRUTH) == set(activations.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_formula(computed, name):
    values = computed[name][0][: len(ORDINARY)]
    np.testing.assert_allclose(values, TRUTH[name](ORDINARY.astype(np.float64)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_the_formula(computed, name):
    np.testing.assert_allclose(computed[name][1][: len(ORDINARY)], slope(TRUTH[name], ORDINARY), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_stay_right_and_finite_at_the_extremes(computed, name):
    values, slopes = (part[len(ORDINARY) :] for part in computed[name])
    np.testing.assert_allclose(values, TRUTH[name](EXTREME.astype(np.float64)), rtol=1e-6, atol=1e-37)
    assert np.isfinite(slopes).all()
    far = np.array([1e4, -1e4])
    np.testing.assert_allclose(slopes[:2], slope(TRUTH[name], far, h=1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "s", "value"),
    [("lecun_tanh", 1.0, 1.0), ("selu", -LARGEST, -1.0507 * 1.6733), ("gelu", 1.0, 0.8413447), ("mish", 0.0, 0.0)],
)
def test_numbers_of_the_sources(name, s, value):
    """LeCun's ±1 ↦ ±1, SELU's limit −λα, Φ(1)."""
    assert float(getattr(activations, name)(jnp.float32(s))) == pytest.approx(value, abs=1e-4)


INDEX = np.array([2, 0, 1, 0], np.int32)
POINTS = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
WANTED = np.stack([TRUTH[FEW[i]](row) for i, row in zip(INDEX, POINTS.astype(np.float64), strict=True)])
WANTED_SLOPE = np.stack([slope(TRUTH[FEW[i]], row) for i, row in zip(INDEX, POINTS, strict=True)])


def close(found, wanted) -> None:
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=3e-6, atol=1e-6)


def test_each_run_gets_the_value_and_slope_of_its_own_choice():
    def both(index, s):
        value, back = jax.vjp(lambda s: choose(FEW)(index, s), s)
        return value, back(jnp.ones_like(s))[0]

    value, gradient = jax.jit(jax.vmap(both))(INDEX, POINTS)
    close(value, WANTED)
    close(gradient, WANTED_SLOPE)


def test_forward_mode_gives_the_slope_times_the_tangent():
    tangent = np.linspace(-2, 2, POINTS.size, dtype=np.float32).reshape(POINTS.shape)
    pushed = jax.jit(
        jax.vmap(lambda i, s, t: jax.jvp(lambda s: choose(FEW)(i, s), (s,), (t,))[1]),
    )(INDEX, POINTS, tangent)
    close(pushed, WANTED_SLOPE * tangent)


def test_choice_may_be_unbatched_shared_or_nested():
    """One index for many rows, one row for many indices, and runs within blocks."""
    f = choose(FEW)
    one_choice = jax.vmap(f, in_axes=(None, 0))(jnp.int32(1), POINTS)
    one_row = jax.vmap(f, in_axes=(0, None))(INDEX, POINTS[0])
    nested = jax.vmap(jax.vmap(f))(INDEX.reshape(2, 2), POINTS.reshape(2, 2, -1))
    across = jax.vmap(jax.vmap(f, in_axes=(None, 0)), in_axes=(0, None))(INDEX, POINTS)
    close(one_choice, np.tanh(POINTS.astype(np.float64)))
    close(one_row, np.stack([TRUTH[FEW[i]](POINTS[0].astype(np.float64)) for i in INDEX]))
    close(nested.reshape(POINTS.shape), WANTED)
    close(across, np.stack([TRUTH[FEW[i]](POINTS.astype(np.float64)) for i in INDEX]))


def test_second_derivative_is_that_of_the_choice():
    f = choose(FEW)
    second = jax.jit(jax.vmap(jax.vmap(jax.grad(jax.grad(f, argnums=1), argnums=1), in_axes=(None, 0))))(INDEX, POINTS)
    truth = [SECOND_DERIVATIVES[FEW[i]](row) for i, row in zip(INDEX, POINTS.astype(np.float64), strict=True)]
    close(second, np.stack(truth))


def test_a_function_that_overflows_spoils_no_other_run():
    """e^s and its slope are ∞ at 1e4; tanh beside it has slope 0 there, not 0 · ∞."""
    functions = (jnp.tanh, jnp.exp)

    def both(index, s):
        return jax.value_and_grad(lambda s: jnp.sum(activations.select(index, functions, s)))(s)

    s = np.full((3, 2), 1e4, np.float32)
    value, gradient = jax.jit(jax.vmap(both))(np.array([0, 1, 0], np.int32), s)
    np.testing.assert_array_equal(np.asarray(value), [2, np.inf, 2])
    np.testing.assert_array_equal(np.asarray(gradient), [[0, 0], [np.inf, np.inf], [0, 0]])


def dense(functions: tuple):
    """Activations, cost and its gradient of a dense layer, four runs together."""

    def run(index, z, w, b):
        def cost(w, b):
            out = activations.select(index, functions, z @ w + b)
            return jnp.mean(jnp.sum(out * out, axis=1)), out

        return jax.value_and_grad(cost, argnums=(0, 1), has_aux=True)(w, b)

    return jax.jit(jax.vmap(run))


@pytest.fixture(scope="module")
def in_company():
    """What each function gives among all others: the runs' choices differ, and each function visits each place."""
    program = dense(FUNCTIONS)
    arrays = _layer_arrays()
    found = {}
    for shift in range(len(NAMES)):
        index = (np.arange(4) * 5 + shift) % len(NAMES)
        out = jax.tree.map(np.asarray, program(index.astype(np.int32), *arrays))
        for place, i in enumerate(index):
            found[NAMES[i], place] = [leaf[place].tobytes() for leaf in jax.tree.leaves(out)]
    return found


def _layer_arrays() -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(1)
    return tuple(draw.normal(size=shape).astype(np.float32) for shape in ((4, 10, 13), (4, 13, 17), (4, 17)))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all are computed and one is selected")
@pytest.mark.parametrize("name", NAMES)
def test_a_runs_bits_do_not_depend_on_which_other_functions_there_are(in_company, name):
    """Value and gradient of a dense layer alone, next to one other function, and among all."""
    arrays = _layer_arrays()
    function = getattr(activations, name)
    other = activations.softsign if name != "softsign" else activations.gelu
    alone = dense((function,))(np.zeros(4, np.int32), *arrays)
    beside = dense((other, function))(np.array([1, 0, 1, 1], np.int32), *arrays)
    for place in range(4):
        bits = [np.asarray(leaf)[place].tobytes() for leaf in jax.tree.leaves(alone)]
        assert bits == in_company[name, place], place
        if place != 1:
            assert bits == [np.asarray(leaf)[place].tobytes() for leaf in jax.tree.leaves(beside)], place
