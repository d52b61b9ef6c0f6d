"""Initial weights against the variance, bound or structure that each states."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special

from glorot_jax import initializers
from glorot_jax.initializers import LayerInfo

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NAMES = tuple(initializers.__all__)
FUNCTIONS = tuple(getattr(initializers, name) for name in NAMES)
NOTHING_DRAWN = ("identity", "zero_hadamard")
STRUCTURED = ("delta_orthogonal", "lsuv", "orthogonal", "sparse")

FAN_IN, FAN_OUT = SHAPE = 400, 250
HIDDEN = LayerInfo(index=2, depth=5)
OUTPUT = LayerInfo(index=5, depth=5)
KEY = jax.random.key(0)
INPUTS = np.random.default_rng(0).normal(0.3, 1.7, size=(128, FAN_IN)).astype(np.float32)

UNIFORM, NORMAL = 1.8, 3.0  # kurtosis
CUT = 2 / scipy.special.ndtr(2), math.exp(-2) / math.sqrt(2 * math.pi)  # of the normal cut at ±2
CUT_VARIANCE = 1 - 4 * CUT[1] / (2 * scipy.special.ndtr(2) - 1)

VARIANCE = {
    "he_normal": (2 / FAN_IN, NORMAL),
    "he_uniform": (2 / FAN_IN, UNIFORM),
    "lecun_normal": (1 / FAN_IN, NORMAL),
    "lecun_uniform": (1 / FAN_IN, UNIFORM),
    "mup": (1 / FAN_IN, NORMAL),
    "normalized": (2 / (FAN_IN + FAN_OUT), UNIFORM),
    "normalized_normal": (2 / (FAN_IN + FAN_OUT), NORMAL),
    "normalized_sigmoid": (16 * 2 / (FAN_IN + FAN_OUT), UNIFORM),
    "random_walk": (math.exp(1 / FAN_IN) / FAN_IN, NORMAL),
    "random_walk_relu": (2 * math.exp(2.4 / (FAN_IN - 2.4)) / FAN_IN, NORMAL),
    "standard": (1 / 3 / FAN_IN, UNIFORM),
    "truncated_normal": (1 / FAN_IN, NORMAL),
}
BOUND = {
    "he_uniform": math.sqrt(6 / FAN_IN),
    "lecun_uniform": math.sqrt(3 / FAN_IN),
    "normalized": math.sqrt(6 / (FAN_IN + FAN_OUT)),
    "normalized_sigmoid": 4 * math.sqrt(6 / (FAN_IN + FAN_OUT)),
    "standard": 1 / math.sqrt(FAN_IN),
    "truncated_normal": 2 / math.sqrt(CUT_VARIANCE * FAN_IN),
}


def draw(function, key=KEY, shape=SHAPE, layer=HIDDEN, inputs=INPUTS) -> jax.Array:
    return initializers.call(function, key, shape, layer=layer, inputs=inputs)


def drawn_of(function, shape, **settings) -> np.ndarray:
    """One sample in float64."""
    inputs = np.random.default_rng(1).normal(size=(64, shape[0])).astype(np.float32)
    return np.asarray(draw(function, shape=shape, **{"inputs": inputs} | settings), np.float64)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """A sample of each, in float64."""
    found = jax.jit(lambda key, z: {n: draw(f, key, inputs=z) for n, f in zip(NAMES, FUNCTIONS, strict=True)})
    return {name: np.asarray(w, np.float64) for name, w in found(KEY, INPUTS).items()}


@pytest.mark.parametrize("name", VARIANCE)
def test_mean_is_0_and_variance_as_stated(weights, name):
    """Within 4 standard errors: √(Var/N) of the mean, Var √((kurtosis − 1)/N) of the variance."""
    (variance, kurtosis), w = VARIANCE[name], weights[name]
    assert abs(w.mean()) < 4 * math.sqrt(variance / w.size)
    assert w.var() == pytest.approx(variance, rel=4 * math.sqrt((kurtosis - 1) / w.size))


@pytest.mark.parametrize("name", VARIANCE)
def test_shape_of_the_distribution_is_as_stated(weights, name):
    """The fourth moment tells uniform from normal from cut normal: 1.8, 3 and 2.37 times the squared variance."""
    w = weights[name]
    cut = scipy.stats.truncnorm(-2, 2).stats("k") + 3
    kurtosis = cut if name == "truncated_normal" else VARIANCE[name][1]
    assert (w**4).mean() / w.var() ** 2 == pytest.approx(kurtosis, abs=4 * math.sqrt(24 / w.size))


@pytest.mark.parametrize("name", BOUND)
def test_bound_is_kept_and_reached(weights, name):
    most = np.abs(weights[name]).max()
    assert most <= BOUND[name] * (1 + 1e-6)
    assert most > BOUND[name] * (1 - 2e-3 if name == "truncated_normal" else 1 - 2e-4)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {*BOUND, *NOTHING_DRAWN, *STRUCTURED}))
def test_normal_draws_go_beyond_two_standard_deviations(weights, name):
    share = (np.abs(weights[name]) > 2 * weights[name].std()).mean()
    wanted = 2 * scipy.special.ndtr(-2)
    assert share == pytest.approx(wanted, abs=4 * math.sqrt(wanted / weights[name].size))


def test_every_initializer_is_checked():
    assert set(NAMES) == {*VARIANCE, *NOTHING_DRAWN, *STRUCTURED}


@pytest.mark.parametrize(
    ("shape", "standard", "normalized"),
    [
        ((1024, 1000), 0.03125, 0.05445),
        ((784, 1000), 0.03571, 0.05799),
        ((3072, 1000), 0.01804, 0.03839),
        ((1369, 1000), 0.02703, 0.05033),
        ((1000, 1000), 0.03162, 0.05477),
        ((1000, 9), 0.03162, 0.07711),
        ((1000, 10), 0.03162, 0.07708),
    ],
)
def test_bounds_of_the_papers_own_networks(shape, standard, normalized):
    """Equations 1 and 16 in the sizes of the paper's data sets, to 4 digits: the largest of N draws is within 10/N."""
    rules = initializers.standard, initializers.normalized
    most = jax.jit(lambda key: [jnp.max(jnp.abs(rule(key, shape))) for rule in rules])(KEY)
    for found, bound in zip(most, (standard, normalized), strict=True):
        assert float(found) == pytest.approx(bound, abs=6e-6 + 10 * bound / math.prod(shape))


@pytest.mark.parametrize("shape", [(60, 60), (80, 30), (30, 80)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    w = drawn_of(initializers.orthogonal, shape)
    small = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=2e-6)


def test_orthogonal_has_no_preferred_direction(weights):
    """Entries of a random orthonormal column have variance 1/fan_in, and signs that cancel."""
    w = weights["orthogonal"]
    assert abs(w.mean()) < 4 / math.sqrt(FAN_IN * w.size)
    assert (w > 0).mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(w.size))


@pytest.mark.parametrize("fan_in", [100, 15, 6])
def test_sparse_has_15_incoming_weights_a_unit(fan_in):
    """Or all of them, in a layer with fewer inputs."""
    w = drawn_of(initializers.sparse, (fan_in, 200))
    assert (np.count_nonzero(w, axis=0) == min(15, fan_in)).all()


def test_sparse_draws_standard_normal_weights_from_any_input(weights):
    w = weights["sparse"]
    kept = w[w != 0]
    assert abs(kept.mean()) < 4 / math.sqrt(kept.size)
    assert kept.var() == pytest.approx(1, rel=4 * math.sqrt(2 / kept.size))
    uses, p = np.count_nonzero(w, axis=1), 15 / FAN_IN
    assert uses.var() == pytest.approx(FAN_OUT * p * (1 - p), rel=4 * math.sqrt(2 / FAN_IN))


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_identity_is_one_on_the_diagonal_and_0_elsewhere(shape):
    np.testing.assert_array_equal(drawn_of(initializers.identity, shape), np.eye(*shape))


@pytest.mark.parametrize("shape", [(5, 5), (9, 4)])
def test_zero_hadamard_is_the_identity_where_the_layer_does_not_widen(shape):
    np.testing.assert_array_equal(drawn_of(initializers.zero_hadamard, shape), np.eye(*shape))


@pytest.mark.parametrize(("shape", "order"), [((4, 8), 3), ((3, 5), 3), ((1, 2), 1), ((8, 9), 4), ((30, 100), 7)])
def test_zero_hadamard_is_a_corner_of_an_orthogonal_hadamard_matrix_where_it_widens(shape, order):
    whole = scipy.linalg.hadamard(2**order) / math.sqrt(2**order)
    w = drawn_of(initializers.zero_hadamard, shape)
    np.testing.assert_allclose(w, whole[: shape[0], : shape[1]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_lsuv_gives_the_layer_output_variance_1_on_its_data(scale):
    """Within the source's 0.1; the directions are those of the orthonormal draw."""
    inputs = (scale * INPUTS).astype(np.float32)
    w = drawn_of(initializers.lsuv, SHAPE, inputs=inputs)
    assert (inputs.astype(np.float64) @ w).var() == pytest.approx(1, abs=0.1)
    orthonormal = drawn_of(initializers.orthogonal, SHAPE)
    np.testing.assert_allclose(w / np.linalg.norm(w[:, 0]), orthonormal, atol=1e-6)


def test_lsuv_leaves_orthonormal_weights_alone_where_it_can_do_nothing_or_needs_nothing():
    orthonormal = drawn_of(initializers.orthogonal, SHAPE)
    silent = np.zeros_like(INPUTS)
    white = np.random.default_rng(2).normal(size=INPUTS.shape).astype(np.float32)
    for inputs in (silent, white):
        np.testing.assert_array_equal(drawn_of(initializers.lsuv, SHAPE, inputs=inputs), orthonormal)


@pytest.mark.parametrize("width", [3, 40])
def test_random_walk_leaves_the_log_norm_of_a_gradient_unbiased(width):
    """E ln ‖Wδ‖² = ln ‖δ‖² at any width: ln g² makes up for E ln(χ²_n/n) = ψ(n/2) + ln 2 − ln n ≈ −1/n."""
    count = 4000
    steps = np.log((drawn_of(initializers.random_walk, (width, count)) ** 2).sum(axis=0))  # a unit's own W δ a column
    exact = 1 / width + scipy.special.psi(width / 2) + math.log(2 / width)
    assert abs(exact) < 1 / width**2
    assert steps.mean() == pytest.approx(exact, abs=4 * steps.std() / math.sqrt(count))


@pytest.mark.parametrize("width", [10, 40])
def test_random_walk_relu_leaves_the_log_norm_unbiased_where_half_the_units_are_active(width):
    """The source fitted its gain to such draws, to about 0.01."""
    count = 4000
    active = np.random.default_rng(3).random((width, count)) < 0.5
    norms = ((active * drawn_of(initializers.random_walk_relu, (width, count))) ** 2).sum(axis=0)
    steps = np.log(norms[active.any(axis=0)])
    assert abs(steps.mean()) < 0.012 + 4 * steps.std() / math.sqrt(count)


@pytest.mark.parametrize("fan_in", [2, 6])
def test_random_walk_relu_takes_layers_narrower_than_6_as_6(fan_in):
    plain = drawn_of(initializers.lecun_normal, (fan_in, 50))
    np.testing.assert_allclose(
        drawn_of(initializers.random_walk_relu, (fan_in, 50)), math.sqrt(2) * math.exp(1.2 / 3.6) * plain, rtol=1e-6
    )


def test_mup_shrinks_the_output_layer_by_another_root_of_fan_in():
    hidden, output = (drawn_of(initializers.mup, SHAPE, layer=layer) for layer in (HIDDEN, OUTPUT))
    np.testing.assert_allclose(output, hidden / 20, rtol=1e-6)
    assert output.var() == pytest.approx(1 / FAN_IN**2, rel=4 * math.sqrt(2 / output.size))


def test_layers_are_counted_from_1():
    assert LayerInfo(1, 3).is_input
    assert not LayerInfo(1, 3).is_output
    assert LayerInfo(3, 3).is_output


def test_only_lsuv_looks_at_data():
    assert [name for name in NAMES if initializers.needs_inputs(getattr(initializers, name))] == ["lsuv"]


def test_the_key_alone_decides():
    """The same key draws the same bits, another key others, except where nothing is drawn."""
    program = jax.jit(
        lambda key, z: {n: draw(f, key, (20, 12), inputs=z) for n, f in zip(NAMES, FUNCTIONS, strict=True)}
    )
    one, same, other = (program(jax.random.key(seed), INPUTS[:, :20]) for seed in (3, 3, 4))
    for name in NAMES:
        assert one[name].tobytes() == same[name].tobytes(), name
        assert (one[name].tobytes() == other[name].tobytes()) == (name in NOTHING_DRAWN), name


@functools.cache
def selecting(functions: tuple):
    return jax.jit(lambda index, key, z: initializers.select(index, functions, key, (20, 12), layer=HIDDEN, inputs=z))


@pytest.mark.usefixtures("compiled_fully")
@pytest.mark.parametrize("name", NAMES)
def test_selected_weights_are_bitwise_those_of_a_direct_call(name):
    """Alone, and among all."""
    function, inputs = getattr(initializers, name), INPUTS[:, :20]
    direct = jax.jit(lambda key, z: draw(function, key, (20, 12), inputs=z))(KEY, inputs)
    for functions in ((function,), FUNCTIONS):
        found = selecting(functions)(jnp.int32(functions.index(function)), KEY, inputs)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(direct), strict=True)


def test_a_function_of_jax_and_a_persons_own_pass_as_they_are():
    """A person's own is shown just what its signature names."""

    def own(key, shape, dtype, *, layer, inputs):
        return jnp.full(shape, layer.index + inputs.shape[0], dtype)

    assert (np.asarray(draw(own)) == 2 + len(INPUTS)).all()
    glorot = draw(jax.nn.initializers.glorot_uniform())
    np.testing.assert_array_equal(np.asarray(glorot), np.asarray(draw(initializers.normalized)))
