"""Theory against closed forms, SciPy's adaptive quadrature, published numbers and drawn matrices and networks."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from glorot_jax import activations, initializers, losses, theory
from glorot_jax.data import shapeset
from glorot_jax.errors import InputError
from tests.core.reference import Network

TWO_PI = math.sqrt(2 * math.pi)
SELU = 1.0507009873554805, 1.6732632423543772


def phi(s: float) -> float:
    return scipy.special.ndtr(s)


TRUTH = {
    "arctan": np.arctan,
    "elu": lambda s: s if s > 0 else np.expm1(s),
    "erf": scipy.special.erf,
    "gelu": lambda s: s * phi(s),
    "hard_tanh": lambda s: min(max(s, -1), 1),
    "identity": lambda s: s,
    "leaky_relu": lambda s: s if s > 0 else 0.01 * s,
    "lecun_tanh": lambda s: 1.7159 * np.tanh(2 / 3 * s),
    "mish": lambda s: s * np.tanh(np.logaddexp(0, s)),
    "relu": lambda s: max(s, 0),
    "selu": lambda s: SELU[0] * (s if s > 0 else SELU[1] * np.expm1(s)),
    "sigmoid": scipy.special.expit,
    "silu": lambda s: s * scipy.special.expit(s),
    "softplus": lambda s: np.logaddexp(0, s),
    "softsign": lambda s: s / (1 + abs(s)),
    "tanh": np.tanh,
}
SLOPES = {
    "arctan": lambda s: 1 / (1 + s * s),
    "elu": lambda s: 1 if s > 0 else np.exp(s),
    "erf": lambda s: 2 / math.sqrt(math.pi) * np.exp(-s * s),
    "gelu": lambda s: phi(s) + s * np.exp(-s * s / 2) / TWO_PI,
    "hard_tanh": lambda s: float(abs(s) < 1),
    "identity": lambda s: 1.0,
    "leaky_relu": lambda s: 1 if s > 0 else 0.01,
    "lecun_tanh": lambda s: 1.7159 * 2 / 3 / np.cosh(2 / 3 * s) ** 2,
    "mish": lambda s: np.tanh(np.logaddexp(0, s)) + s * scipy.special.expit(s) / np.cosh(np.logaddexp(0, s)) ** 2,
    "relu": lambda s: float(s > 0),
    "selu": lambda s: SELU[0] * (1 if s > 0 else SELU[1] * np.exp(s)),
    "sigmoid": lambda s: scipy.special.expit(s) * scipy.special.expit(-s),
    "silu": lambda s: scipy.special.expit(s) * (1 + s * scipy.special.expit(-s)),
    "softplus": scipy.special.expit,
    "softsign": lambda s: (1 + abs(s)) ** -2.0,
    "tanh": lambda s: 1 / np.cosh(s) ** 2,
}
NAMES = tuple(activations.__all__)


def named(name: str):
    return getattr(activations, name)


def adaptive(function, q: float) -> float:
    """E f(s) by SciPy, split at the kinks and where the function turns."""
    root = math.sqrt(q)
    ends = sorted({-12.0, 12.0, *(k / root for k in (-30, -8, -3, -1, 0, 1, 3, 8, 30) if abs(k / root) < 12)})
    parts = [
        scipy.integrate.quad(lambda z: function(root * z) * math.exp(-z * z / 2), *pair, epsabs=1e-14, epsrel=1e-13)[0]
        for pair in itertools.pairwise(ends)
    ]
    return math.fsum(parts) / TWO_PI


def precisely(function, *at: float) -> float:
    """The derivative with respect to the first argument, by JAX in float64."""
    with jax.enable_x64(True):
        return float(jax.jit(jax.grad(function))(*map(float, at)))


def finite_difference(function, at: float, step: float = 1e-3) -> float:
    """The derivative, to fourth order in the step."""
    f = [float(function(at + k * step)) for k in (-2, -1, 1, 2)]
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)


# ---- moments


@pytest.mark.parametrize("name", NAMES)
def test_moments_agree_with_adaptive_quadrature(name):
    """To 1e-10 of the value, from a length where every function is linear to one where it is nearly a step."""
    assert set(TRUTH) == set(SLOPES) == set(NAMES)
    for q in (1e-3, 1.0, 60.0):
        found = (
            theory.gaussian_mean(named(name), q),
            theory.second_moment(named(name), q),
            theory.slope_moment(named(name), q),
            theory.slope_moment(named(name), q, 2),
        )
        powers = (TRUTH[name], 1), (TRUTH[name], 2), (SLOPES[name], 2), (SLOPES[name], 4)
        wanted = [adaptive(lambda s, f=f, k=k: f(s) ** k, q) for f, k in powers]
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("tanh", 0.394294, 0.464403),
        ("softsign", 0.183014, 0.227671),
        ("sigmoid", 0.293379, 0.044836),
        ("erf", 0.464559, 0.569410),
        ("hard_tanh", 0.516059, 0.682689),
        ("relu", 0.5, 0.5),
        ("gelu", 0.425221, 0.455851),
        ("silu", 0.355776, 0.379482),
        ("elu", 0.644945, 0.668102),
        ("selu", 1, 1.071575),
        ("softplus", 0.921246, 0.293379),
        ("mish", 0.452342, 0.479084),
    ],
)
def test_moments_at_length_1_are_the_known_ones(name, value, slope):
    assert theory.second_moment(named(name), 1) == pytest.approx(value, abs=6e-7)
    assert theory.slope_moment(named(name), 1) == pytest.approx(slope, abs=6e-7)


@pytest.mark.parametrize("q", [0.1, 1.0, 5.0])
def test_moments_have_their_closed_forms_to_8_digits(q):
    inside = math.erf(1 / math.sqrt(2 * q))  # share of |s| < 1
    clipped = q * (inside - 2 * math.exp(-1 / (2 * q)) / (TWO_PI * math.sqrt(q))) + 1 - inside
    known = {
        "identity": (q, 1),
        "relu": (q / 2, 0.5),
        "leaky_relu": (q / 2 * (1 + 1e-4), (1 + 1e-4) / 2),
        "erf": (2 / math.pi * math.asin(2 * q / (1 + 2 * q)), 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - 4 * q * q)),
        "hard_tanh": (clipped, inside),
    }
    for name, moments in known.items():
        found = theory.second_moment(named(name), q), theory.slope_moment(named(name), q)
        np.testing.assert_allclose(found, moments, rtol=1e-8, err_msg=name)


def test_selu_keeps_mean_0_and_variance_1():
    assert theory.gaussian_mean(activations.selu, 1) == pytest.approx(0, abs=1e-8)
    assert theory.second_moment(activations.selu, 1) == pytest.approx(1, abs=1e-8)


def test_a_length_of_0_and_a_mean_are_taken_as_they_are():
    assert theory.second_moment(activations.sigmoid, 0) == pytest.approx(0.25, abs=1e-12)
    assert theory.gaussian_mean(activations.relu, 0, -2) == 0
    assert theory.gaussian_mean(activations.relu, 1, 0.5) == pytest.approx(
        0.5 * phi(0.5) + math.exp(-1 / 8) / TWO_PI, abs=1e-10
    )


@pytest.mark.parametrize("name", ["hard_tanh", "relu", "selu", "softsign", "tanh", "gelu"])
def test_moments_are_differentiable_also_where_kinks_move(name):
    """E φ'² of a clipped function changes only because more or fewer units are clipped."""
    function = named(name)
    for moment in (theory.second_moment, theory.slope_moment):
        derivative = precisely(functools.partial(moment, function), 1.3)
        assert derivative == pytest.approx(
            finite_difference(functools.partial(moment, function), 1.3), rel=1e-8, abs=1e-10
        )


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.3, 0.999, 1.0])
def test_two_dimensional_moments_have_their_closed_forms(correlation):
    """ReLU (arc-cosine) and erf (arcsine), to 8 digits, up to perfect correlation; two lengths."""
    first, second = 1.3, 0.6
    angle, norm = math.acos(correlation), math.sqrt(first * second)
    relu = norm * (math.sin(angle) + (math.pi - angle) * correlation) / (2 * math.pi)
    product = correlation * norm
    erf = 2 / math.pi * math.asin(2 * product / math.sqrt((1 + 2 * first) * (1 + 2 * second)))
    assert theory.correlated_moment(activations.relu, first, second, correlation) == pytest.approx(relu, abs=1e-8)
    assert theory.correlated_moment(activations.erf, first, second, correlation) == pytest.approx(erf, abs=1e-8)


@pytest.mark.parametrize("name", ["tanh", "softsign", "hard_tanh", "selu", "gelu", "sigmoid"])
def test_two_dimensional_moments_end_in_the_one_dimensional_ones(name):
    """Alike inputs give E φ², unrelated ones (E φ)²; in between, mean squares over a million draws."""
    function = named(name)
    whole, mean = theory.second_moment(function, 1.7), theory.gaussian_mean(function, 1.7)
    assert theory.correlated_moment(function, 1.7, 1.7, 1) == pytest.approx(whole, rel=1e-10)
    assert theory.correlated_moment(function, 1.7, 1.7, 0) == pytest.approx(mean**2, abs=1e-10)
    draws = np.random.default_rng(0).normal(size=(2, 10**6)) * math.sqrt(1.7)
    other = 0.8 * draws[0] + 0.6 * draws[1]
    with jax.enable_x64(True):
        products = np.asarray(function(jnp.asarray(draws[0])) * function(jnp.asarray(other)))
    assert theory.correlated_moment(function, 1.7, 1.7, 0.8) == pytest.approx(
        products.mean(), abs=4 * products.std() / 1000
    )


# ---- mean field


@pytest.mark.parametrize(
    ("name", "critical"),
    [
        ("identity", 1),
        ("tanh", 1),
        ("softsign", 1),
        ("hard_tanh", 1),
        ("erf", math.pi / 4),
        ("relu", 2),
        ("leaky_relu", 2 / (1 + 1e-4)),
    ],
)
def test_edge_of_chaos_without_biases_is_the_known_one(name, critical):
    point = theory.edge_of_chaos(named(name))
    assert point.weight_variance == pytest.approx(critical, rel=1e-8)
    assert point.length == 0


def test_edge_of_chaos_of_the_sigmoid_is_at_a_large_length():
    point = theory.edge_of_chaos(activations.sigmoid)
    assert math.sqrt(point.weight_variance) == pytest.approx(10.149, abs=1e-3)
    assert point.length == pytest.approx(45.62, abs=0.01)


@pytest.mark.parametrize(
    ("length", "weights", "biases"),
    [(0.1, 1.177569, 0.000832), (0.5, 1.687975, 0.038041), (1, 2.153303, 0.150965), (2, 2.861162, 0.512265)],
)
def test_critical_line_of_tanh_is_the_known_one_from_both_ends(length, weights, biases):
    point = theory.critical_point(activations.tanh, length)
    assert point.weight_variance == pytest.approx(weights, abs=1e-6)
    assert point.bias_variance == pytest.approx(biases, abs=1e-6)
    back = theory.edge_of_chaos(activations.tanh, point.bias_variance)
    np.testing.assert_allclose(back, point, rtol=1e-8)
    assert theory.fixed_point(activations.tanh, *point[:2]) == pytest.approx(length, rel=1e-8)
    assert theory.slope(activations.tanh, length, point.weight_variance) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "length", "weights", "biases"),
    [
        ("gelu", (3 + math.sqrt(17)) / 2, 1.98305826, 0.17292239),
        ("silu", 14.32017362, 1.98800468, 0.55514317),
    ],
)
def test_half_stable_points_are_the_known_ones(name, length, weights, biases):
    """There the length map touches the diagonal with slope 1 where χ1 = 1 too."""
    point = theory.critical_point(named(name), length)
    assert point.weight_variance == pytest.approx(weights, abs=6e-9)
    assert point.bias_variance == pytest.approx(biases, abs=6e-9)
    steepness = precisely(lambda q: theory.length_map(named(name), q, *point[:2]), length)
    assert steepness == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "variance", "length", "chi"),
    [
        ("sigmoid", 1 / 3, 0.08503, 0.02001),
        ("sigmoid", 1, 0.26469, 0.05572),
        ("sigmoid", 16, 5.855, 0.3989),
        ("tanh", 1.25, 0.13569, 1.0137),
        ("tanh", 4 / 3, 0.18469, 1.0218),
        ("tanh", 25 / 9, 1.17848, 1.2098),
    ],
)
def test_fixed_points_without_biases_are_the_known_ones(name, variance, length, chi):
    found = theory.fixed_point(named(name), variance)
    assert found == pytest.approx(length, abs=6e-4 if length > 5 else 6e-6)
    assert theory.slope(named(name), found, variance) == pytest.approx(chi, abs=6e-5)
    assert theory.length_map(named(name), found, variance) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(("variance", "std"), [(1.25, 0.3295), (4 / 3, 0.3722), (25 / 9, 0.6513)])
def test_gains_above_1_keep_tanh_activations_at_the_known_spread(variance, std):
    length = theory.fixed_point(activations.tanh, variance)
    assert math.sqrt(theory.second_moment(activations.tanh, length)) == pytest.approx(std, abs=6e-5)


def test_fixed_points_that_are_none():
    assert theory.fixed_point(activations.tanh, 1) == 0
    assert theory.fixed_point(activations.tanh, 0.5) == 0
    assert theory.fixed_point(activations.relu, 2, start=0.7) == 0.7
    assert theory.fixed_point(activations.relu, 2.01) == math.inf
    assert theory.fixed_point(activations.relu, 1, 0.25) == pytest.approx(0.5, rel=1e-12)
    assert np.isnan(theory.edge_of_chaos(activations.relu, 0.1).weight_variance)


def test_lengths_at_the_edge_decay_as_known():
    """tanh as 1/(2l), softsign as (π/8)/l²: leading order, so within the next order's logarithm over l."""
    for name, limit in (("tanh", lambda n: 1 / (2 * n)), ("softsign", lambda n: math.pi / 8 / n**2)):
        late = theory.lengths(named(name), 1, 8000, 1)
        assert late.shape == (8001,)
        assert late[-1] == pytest.approx(limit(8000), rel=5e-3), name


def test_mean_field_of_tanh_in_order_and_in_chaos():
    """Depth scales against the slow way: how distances to the fixed points shrink over the layers."""
    order = theory.mean_field(activations.tanh, 1.5, 0.1)
    assert order.correlation == 1
    assert order.slope < 1
    assert order.correlation_depth == pytest.approx(-1 / math.log(order.slope), rel=1e-12)
    chaos = theory.mean_field(activations.tanh, 2.5, 0.05)
    assert chaos.slope > 1
    assert chaos.correlation < 0.95
    settings = chaos.length, 2.5, 0.05
    c = chaos.correlation - 1e-3
    distances = []
    for _ in range(4):
        distances.append(chaos.correlation - c)
        c = theory.correlation_map(activations.tanh, c, *settings)
    assert distances[3] / distances[2] == pytest.approx(math.exp(-1 / chaos.correlation_depth), rel=1e-3)
    q = theory.lengths(activations.tanh, chaos.length + 1e-5, 4, 2.5, 0.05) - chaos.length
    assert q[4] / q[3] == pytest.approx(math.exp(-1 / chaos.length_depth), rel=1e-3)


def test_mean_field_where_lengths_vanish():
    """Below the edge without biases all falls by σ_w² a layer."""
    found = theory.mean_field(activations.softsign, 0.5)
    assert found.length == 0
    np.testing.assert_allclose(found[1:], [0.5, 1, 0.5, 1 / math.log(2), 1 / math.log(2)], rtol=1e-8)


def test_unbiased_chaos_makes_inputs_unrelated():
    found = theory.mean_field(activations.tanh, 3.0)
    assert found.correlation == pytest.approx(0, abs=1e-12)


def test_depth_scale_is_infinite_at_the_edge_and_negative_beyond():
    assert theory.depth_scale(1) == math.inf
    assert theory.depth_scale(math.exp(-0.25)) == pytest.approx(4)
    assert theory.depth_scale(2) < 0


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (lambda w: theory.fixed_point(activations.tanh, w, 0.1), 1.3),
        (lambda b: theory.edge_of_chaos(activations.tanh, b).weight_variance, 0.1),
        (lambda w: theory.correlation_fixed_point(activations.tanh, 1.0, w, 0.1), 2.5),
        (lambda q: theory.jacobian_mean(activations.tanh, q, 30, 20, 0.05), 0.5),
        (lambda q: theory.orthogonal_jacobian_mean(activations.tanh, q, 20, 30), 0.5),
        (lambda v: theory.singular_values(30, 20, v).median, 0.05),
        (lambda v: theory.output_error_moment(9, v), 0.5),
        (lambda k: theory.product_moment(3, k), 1.0),
        (lambda g: theory.predict("tanh", "normalized", (30, 20), 25, 9, input_second_moment=0.4, gain=g)[4][0], 1.2),
    ],
)
def test_derivatives_are_those_of_finite_differences(function, at):
    assert precisely(function, at) == pytest.approx(finite_difference(function, at, at * 1e-3), rel=1e-6)


def test_slope_of_the_correlation_map_is_its_derivative():
    settings = 0.7, 1.2, 0.1
    slope = precisely(lambda c: theory.correlation_map(activations.tanh, c, *settings), 0.5)
    assert theory.correlation_slope(activations.tanh, 0.5, *settings) == pytest.approx(slope, rel=1e-8)
    settings = theory.fixed_point(activations.tanh, 2, 0.1), 2, 0.1
    chi = theory.slope(activations.tanh, *settings[:2])
    assert theory.correlation_slope(activations.tanh, 1, *settings) == pytest.approx(chi, rel=1e-8)


def test_numbers_are_float64_outside_of_x64_and_tracing_is_refused_there():
    value = theory.second_moment(activations.tanh, np.float32(1))
    assert isinstance(value, np.float64)
    with pytest.raises(TypeError, match="enable_x64"):
        jax.grad(lambda q: theory.second_moment(activations.tanh, q))(1.0)
    with pytest.raises(TypeError, match="enable_x64"):
        jax.jit(lambda: theory.second_moment(activations.tanh, 1.0))()
    with jax.enable_x64(True):
        batch = jax.vmap(lambda q: theory.second_moment(activations.tanh, q))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batch, [theory.second_moment(activations.tanh, q) for q in (1, 2)], rtol=1e-14)


def test_wide_random_networks_follow_the_length_and_correlation_maps():
    """Two inputs through 20 drawn tanh networks of 1000 units, σ_w² = 2, σ_b² = 0.1; within 4 standard errors."""
    n, count, w, b = 1000, 20, 2.0, 0.1
    draw = np.random.default_rng(0)
    wanted = theory.lengths(activations.tanh, 1.0, 3, w, b)
    correlations, c = [], 0.5
    for q in wanted[:-1]:
        c = theory.correlation_map(activations.tanh, c, q, w, b)
        correlations.append(c)
    found = np.zeros((count, 3, 2))
    for k in range(count):
        s = draw.normal(size=(2, n)) * math.sqrt(0.5) + draw.normal(size=n) * math.sqrt(0.5)
        for layer in range(3):
            weights = draw.normal(size=(n, n), scale=math.sqrt(w / n))
            s = np.tanh(s) @ weights + draw.normal(size=n, scale=math.sqrt(b))
            found[k, layer] = (s**2).mean(), (s[0] * s[1]).mean() / (s**2).mean()
    error = found.std(axis=0, ddof=1) / math.sqrt(count)
    assert (np.abs(found.mean(axis=0) - np.stack([wanted[1:], correlations], axis=1)) < 4 * error + 1e-3).all()


# ---- the paper's linear regime


def test_linear_recursions_are_those_of_a_drawn_linear_network():
    """Equations 5 to 7 for uneven widths, as averages over 400 networks."""
    draw = np.random.default_rng(1)
    sizes, variances = (30, 50, 20, 40), np.array([0.05, 0.01, 0.08])
    x = draw.normal(size=sizes[0]) + 0.5  # not centred: second moments are what holds
    z2, e2, g2 = np.zeros(4), np.zeros(3), np.zeros(3)
    for _ in range(400):
        weights = [
            draw.normal(size=shape, scale=v**0.5) for shape, v in zip(itertools.pairwise(sizes), variances, strict=True)
        ]
        z, e = [x], [draw.normal(size=sizes[-1], scale=0.3)]
        for w in weights:
            z.append(z[-1] @ w)
        for w in weights[:0:-1]:
            e.insert(0, w @ e[0])
        z2 += [(v**2).mean() / 400 for v in z]
        e2 += [(v**2).mean() / 400 for v in e]
        g2 += [(np.outer(a, b) ** 2).mean() / 400 for a, b in zip(z[:-1], e, strict=True)]
    moment = (x**2).mean()
    np.testing.assert_allclose(theory.linear_activation_moments(moment, sizes, variances), z2, rtol=0.05)
    np.testing.assert_allclose(theory.linear_gradient_moments(0.09, sizes, variances), e2, rtol=0.05)
    np.testing.assert_allclose(theory.linear_weight_gradient_moments(moment, 0.09, sizes, variances), g2, rtol=0.08)


def test_equal_widths_give_equations_13_to_15():
    """n Var W = 1/3: activations fall by 1/3 a layer upward, gradients downward, weight gradients not at all."""
    sizes, variances = (1000,) * 6, np.full(5, theory.weight_variance("standard", 1000, 1000))
    powers = 3.0 ** -np.arange(6)
    np.testing.assert_allclose(theory.linear_activation_moments(0.4, sizes, variances), 0.4 * powers, rtol=1e-12)
    np.testing.assert_allclose(theory.linear_gradient_moments(0.2, sizes, variances), 0.2 * powers[4::-1], rtol=1e-12)
    np.testing.assert_allclose(
        theory.linear_weight_gradient_moments(0.4, 0.2, sizes, variances), 0.4 * 0.2 * powers[4], rtol=1e-12
    )


def test_weight_variances_are_those_of_the_initializers():
    """Within 5 standard errors of a draw; ``sparse`` has kurtosis 3/p."""
    shape = 60, 500
    assert set(theory._VARIANCES) == set(initializers.__all__) - {"identity", "zero_hadamard", "lsuv"}
    for name in theory._VARIANCES:
        layer = initializers.LayerInfo(index=2, depth=5)
        w = initializers.call(named_initializer(name), jax.random.key(3), shape, layer=layer, inputs=np.zeros((1, 1)))
        kurtosis = 3 * shape[0] / 15 if name == "sparse" else 3
        tolerance = 5 * math.sqrt(kurtosis / math.prod(shape))
        assert theory.weight_variance(name, *shape) == pytest.approx(float(jnp.mean(w**2)), rel=tolerance), name


def named_initializer(name: str):
    return getattr(initializers, name)


@pytest.mark.parametrize(
    ("shape", "normalized"),
    [
        ((1024, 1000), (1.012, 0.988)),
        ((784, 1000), (0.879, 1.121)),
        ((3072, 1000), (1.509, 0.491)),
        ((1369, 1000), (1.156, 0.844)),
        ((1000, 1000), (1, 1)),
        ((1000, 9), (1.982, 0.0178)),
        ((1000, 10), (1.980, 0.0198)),
    ],
)
def test_weight_variances_of_the_papers_layers(shape, normalized):
    found = np.array(shape) * theory.weight_variance("normalized", *shape)
    np.testing.assert_allclose(found, normalized, atol=6e-4)
    assert shape[0] * theory.weight_variance("standard", *shape) == pytest.approx(1 / 3)


def test_mup_draws_the_output_layer_smaller():
    assert theory.weight_variance("mup", 50, 10, output=True) == pytest.approx(1 / 2500)


# ---- the top of the gradient


def test_output_gradient_has_its_closed_form():
    """√((1 − 1/K) Var W_out): .0172 for equation 1 and .042 for equation 16 with 9 classes."""
    standard, normalized = (theory.weight_variance(name, 1000, 9) for name in ("standard", "normalized"))
    assert theory.top_gradient_std(9, standard) == pytest.approx(math.sqrt(8 / 9 * standard), rel=1e-10)
    assert theory.top_gradient_std(9, standard) == pytest.approx(0.0172, abs=5e-5)
    assert theory.top_gradient_std(9, normalized) == pytest.approx(0.042, abs=5e-5)
    assert theory.top_gradient_std(9, normalized, 0.25) == pytest.approx(0.021, abs=5e-5)


@pytest.mark.parametrize(("classes", "variance"), [(2, 1.0), (9, 0.3), (10, 4.0), (9, 1e4)])
def test_output_error_of_random_logits_is_that_of_draws(classes, variance):
    draw = np.random.default_rng(2)
    p = scipy.special.softmax(draw.normal(size=(200_000, classes), scale=math.sqrt(variance)), axis=1)
    p[np.arange(len(p)), draw.integers(classes, size=len(p))] -= 1
    errors = (p**2).sum(axis=1)
    assert theory.output_error_moment(classes, variance) == pytest.approx(
        errors.mean(), abs=4 * errors.std() / math.sqrt(len(p))
    )


# ---- singular values

QUARTER = 8 / (3 * math.pi)


def test_square_matrices_have_the_quarter_circle():
    found = theory.singular_values(500, 500, 1 / 500)
    assert found.mean == pytest.approx(QUARTER, abs=1e-9)
    assert found.mean == pytest.approx(0.848826, abs=6e-7)
    assert found.median == pytest.approx(0.80795, abs=6e-6)
    np.testing.assert_allclose(found[2:], [1, -0.5, 0, 2], atol=1e-9)
    s = np.linspace(0, 2.5, 11)
    np.testing.assert_allclose(
        theory.singular_value_density(s[1:], 500, 500, 1 / 500), np.sqrt(np.maximum(4 - s[1:] ** 2, 0)) / math.pi
    )


def test_equation_1_makes_it_narrower():
    found = theory.singular_values(1000, 1000, theory.weight_variance("standard", 1000, 1000))
    assert found.mean == pytest.approx(0.490070, abs=6e-7)
    assert found.largest == pytest.approx(1.1547, abs=6e-5)


@pytest.mark.parametrize(
    ("shape", "mean"),
    [
        ((1024, 1000), 0.859),
        ((784, 1000), 0.940),
        ((3072, 1000), 1.176),
        ((1369, 1000), 0.964),
        ((1000, 9), 1.406),
    ],
)
def test_mean_singular_values_of_equation_16_in_the_papers_layers(shape, mean):
    found = theory.singular_values(*shape, theory.weight_variance("normalized", *shape))
    assert found.mean == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("shape", [(400, 400), (400, 380), (150, 400), (400, 9)])
def test_singular_values_of_drawn_matrices(shape):
    """Uniform entries, as the law is universal. Eigenvalues repel, so that one matrix suffices."""
    w = np.random.default_rng(3).uniform(-1, 1, size=shape) * math.sqrt(3 / shape[0])
    s = np.linalg.svd(w, compute_uv=False)
    found = theory.singular_values(*shape, 1 / shape[0])
    tolerance = 0.03 if min(shape) < 50 else 0.006
    assert found.mean == pytest.approx(s.mean(), rel=tolerance)
    assert found.median == pytest.approx(np.median(s), rel=3 * tolerance)
    assert found.rms == pytest.approx(math.sqrt((s**2).mean()), rel=tolerance)
    assert found.largest == pytest.approx(s.max(), rel=0.05)
    if min(shape) > 50:
        edges = np.linspace(found.smallest, found.largest, 9)
        shares = np.histogram(s, edges)[0] / len(s)
        fine = np.linspace(found.smallest, found.largest, 8001)
        density = theory.singular_value_density(np.maximum(fine, 1e-9), *shape, 1 / shape[0])
        whole = scipy.integrate.cumulative_trapezoid(density, fine, initial=0)
        assert whole[-1] == pytest.approx(1, abs=2e-3)
        np.testing.assert_allclose(shares, np.diff(whole[::1000]), atol=0.02)


def test_effective_ranks_are_the_known_shares():
    found = np.array(theory.ranks(1000, 1000)) / 1000
    np.testing.assert_allclose(found, [1 / 4, 1 / 2, 0.80504, math.exp(-1 / 2)], atol=6e-6)


@pytest.mark.parametrize("shape", [(400, 400), (300, 120)])
def test_effective_ranks_of_drawn_matrices(shape):
    s = np.linalg.svd(np.random.default_rng(4).normal(size=shape), compute_uv=False)
    p, p2 = s / s.sum(), s**2 / (s**2).sum()
    wanted = (
        (s**2).sum() / s[0] ** 2,
        (s**2).sum() ** 2 / (s**4).sum(),
        np.exp(-(p * np.log(p)).sum()),
        np.exp(-(p2 * np.log(p2)).sum()),
    )
    np.testing.assert_allclose(theory.ranks(*shape), wanted, rtol=0.05)


def test_products_of_gaussian_layers():
    assert theory.product_moment(1, 1) == pytest.approx(QUARTER, rel=1e-12)
    for layers, largest in ((2, 6.75), (5, 14.93), (10, 28.53)):
        assert theory.product_largest(layers) == pytest.approx(largest, abs=6e-3)
        assert theory.product_moment(layers, 2) == pytest.approx(1, rel=1e-10)
        variance = theory.product_moment(layers, 4) - 1
        assert variance == pytest.approx(layers, rel=1e-10)
        assert theory.jacobian_variance(activations.identity, 1, layers) == pytest.approx(layers, rel=1e-10)


@pytest.mark.parametrize("layers", [2, 5])
def test_products_of_drawn_matrices(layers):
    n = 400
    draw = np.random.default_rng(5)
    product = functools.reduce(np.matmul, draw.normal(size=(layers, n, n), scale=n**-0.5))
    s = np.linalg.svd(product, compute_uv=False)
    for power in (0.5, 1, 2):
        assert theory.product_moment(layers, power) == pytest.approx((s**power).mean(), rel=0.03)
    assert s[0] ** 2 == pytest.approx(theory.product_largest(layers), rel=0.12)


def test_jacobian_variance_has_its_closed_forms():
    """Identity 0 if orthogonal; ReLU L and 2 L at any length; hard-tanh L (1/p − 1)."""
    for layers in (1, 7):
        assert theory.jacobian_variance(activations.identity, 1, layers, 0) == pytest.approx(0, abs=1e-10)
        assert theory.jacobian_variance(activations.relu, 0.3, layers, 0) == pytest.approx(layers, rel=1e-10)
        assert theory.jacobian_variance(activations.relu, 0.3, layers, -1) == pytest.approx(2 * layers, rel=1e-10)
        inside = math.erf(1 / math.sqrt(2 * 0.4))
        assert theory.jacobian_variance(activations.hard_tanh, 0.4, layers, 0) == pytest.approx(
            layers * (1 / inside - 1), rel=1e-10
        )


def orthonormal(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    q = np.linalg.qr(draw.normal(size=(max(shape), min(shape))))[0]
    return q if shape[0] >= shape[1] else q.T


@pytest.mark.parametrize(
    ("name", "shape"), [("tanh", (400, 400)), ("tanh", (400, 200)), ("tanh", (250, 400)), ("relu", (400, 400))]
)
def test_layer_jacobians_of_drawn_layers(name, shape):
    """W diag f'(z W) with slopes that do depend on W, for independent and orthogonal weights of variance about 1/n."""
    draw = np.random.default_rng(6)
    z = draw.normal(size=shape[0])
    z *= math.sqrt(shape[0] / (z**2).sum())
    gaussian, orthogonal = draw.normal(size=shape, scale=shape[0] ** -0.5), orthonormal(draw, shape)
    expected = [theory.jacobian_mean(named(name), 1, *shape, 1 / shape[0])]
    expected.append(theory.orthogonal_jacobian_mean(named(name), shape[0] / max(shape), *shape))
    roots = [theory.jacobian_rms(named(name), 1, *shape, 1 / shape[0])]
    roots.append(theory.jacobian_rms(named(name), shape[0] / max(shape), *shape, 1 / max(shape)))
    for w, mean, rms in zip((gaussian, orthogonal), expected, roots, strict=True):
        slopes = np.vectorize(SLOPES[name], otypes=[float])(z @ w)
        s = np.linalg.svd(w * slopes, compute_uv=False)
        scatter = slopes.std() / slopes.mean() / math.sqrt(shape[1])  # of the layer's own mean slope
        assert mean == pytest.approx(s.mean(), rel=0.005 + 3 * scatter)
        assert rms == pytest.approx(math.sqrt((s**2).mean()), rel=0.005 + 4 * scatter)


@pytest.mark.parametrize("shape", [(400, 400), (400, 200), (250, 400)])
def test_layer_jacobians_of_independent_slopes_closely(shape):
    """Free probability by itself: slopes are the quantiles of their distribution, averaged over two matrices."""
    draw = np.random.default_rng(7)
    s = math.sqrt(2) * scipy.special.ndtri((np.arange(shape[1]) + 0.5) / shape[1])
    slopes = 1 / np.cosh(s) ** 2

    def mean_of(weights: np.ndarray) -> float:
        return np.linalg.svd(weights * slopes, compute_uv=False).mean()

    found = np.mean([mean_of(draw.normal(size=shape, scale=shape[0] ** -0.5)) for _ in range(2)])
    assert theory.jacobian_mean(activations.tanh, 2, *shape, 1 / shape[0]) == pytest.approx(found, rel=4e-3)
    found = np.mean([mean_of(orthonormal(draw, shape)) for _ in range(2)])
    assert theory.orthogonal_jacobian_mean(activations.tanh, 2, *shape) == pytest.approx(found, rel=4e-3)


def test_layer_jacobians_in_the_linear_regime_are_the_weights_alone():
    for shape in ((300, 300), (300, 200), (200, 300)):
        linear = theory.jacobian_mean(activations.identity, 1, *shape, 0.01)
        assert linear == pytest.approx(theory.singular_values(*shape, 0.01).mean, rel=1e-8)
        assert theory.orthogonal_jacobian_mean(activations.identity, 1, *shape, 1.5) == pytest.approx(1.5, rel=1e-7)


def test_half_rectified_square_layers_are_rectangular_ones():
    """A ReLU keeps half the columns: the n singular values are those of an n × n/2 matrix, and n/2 zeros."""
    half = theory.singular_values(400, 200, 1 / 400).mean / 2
    assert theory.jacobian_mean(activations.relu, 1, 400, 400, 1 / 400) == pytest.approx(half, rel=1e-7)


# ---- kernels

GRAM = np.array([[1.2, 0.5, -0.3], [0.5, 0.7, 0.2], [-0.3, 0.2, 2.0]])


@pytest.mark.parametrize(
    ("name", "kernel"), [("relu", theory.arc_cosine_kernel), ("erf", theory.erf_kernel)], ids=["relu", "erf"]
)
def test_closed_kernels_are_those_of_quadrature(name, kernel):
    by_quadrature = theory.quadrature_kernel(named(name), GRAM)
    np.testing.assert_allclose(kernel(GRAM), by_quadrature, rtol=1e-8, atol=1e-9)


def test_arc_cosine_kernel_is_the_known_one():
    """Σ' = (√(q1 q2)/π)(sin θ + (π − θ) cos θ) at σ_w² = 2, which keeps lengths."""
    products, slopes = theory.arc_cosine_kernel(GRAM)
    norm = np.sqrt(np.outer(np.diag(GRAM), np.diag(GRAM)))
    angle = np.arccos(np.clip(GRAM / norm, -1, 1))
    np.testing.assert_allclose(
        2 * products, norm / math.pi * (np.sin(angle) + (math.pi - angle) * np.cos(angle)), rtol=1e-7
    )
    np.testing.assert_allclose(np.diag(2 * products), np.diag(GRAM), rtol=1e-12)
    np.testing.assert_allclose(np.diag(2 * slopes), 1, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_relu_tangent_kernel_grows_linearly_on_the_diagonal(depth):
    covariance, tangent = theory.neural_tangent_kernel(theory.arc_cosine_kernel, GRAM, depth, 2.0)
    np.testing.assert_allclose(np.diag(covariance), np.diag(GRAM), rtol=1e-10)
    np.testing.assert_allclose(np.diag(tangent), depth * np.diag(GRAM), rtol=1e-10)


@pytest.mark.parametrize(
    ("kernel", "function", "slope"),
    [
        (theory.arc_cosine_kernel, lambda s: np.maximum(s, 0), lambda s: s > 0),
        (theory.erf_kernel, scipy.special.erf, lambda s: 2 / math.sqrt(math.pi) * np.exp(-(s**2))),
    ],
    ids=["relu", "erf"],
)
def test_tangent_kernel_of_a_drawn_network(kernel, function, slope):
    """f = Σ_i v_i φ(s_i)/√n: ∇f·∇f' summed over v, over the weights below and over the output bias; n = 400 000."""
    n, w, b = 400_000, 1.5, 0.1
    draw = np.random.default_rng(8)
    s = np.linalg.cholesky(GRAM) @ draw.normal(size=(3, n))
    v = draw.normal(size=n, scale=math.sqrt(w))
    covariance = w * function(s) @ function(s).T / n + b
    found = covariance + (v**2 * slope(s)) @ slope(s).T / n * GRAM
    sigma, theta = theory.neural_tangent_kernel(kernel, GRAM, 2, w, b)
    np.testing.assert_allclose(sigma, covariance, rtol=0.02, atol=0.005)
    np.testing.assert_allclose(theta, found, rtol=0.02, atol=0.005)


def test_softmax_regression_hessian_is_that_of_jax():
    draw = np.random.default_rng(9)
    x, w, y = draw.normal(size=(7, 4)), draw.normal(size=(4, 3)), draw.integers(3, size=7)
    with jax.enable_x64(True):
        loss = jax.jit(jax.hessian(lambda w: losses.nll(x @ w.reshape(4, 3), y).mean()))
        wanted = loss(jnp.asarray(w.ravel()))
    found = theory.softmax_regression_hessian(x, scipy.special.softmax(x @ w, axis=1))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


# ---- predictions

PAPER = (1000,) * 5


@functools.cache
def shapeset_moments(scaling: str) -> np.ndarray:
    """Mean square of each of 300 drawn images."""
    images, _ = shapeset.draw(jax.random.key(0), 300, 32)
    x = np.asarray(images, np.float64).reshape(300, -1) / 255
    return ((2 * x - 1 if scaling == "symmetric" else x) ** 2).mean(axis=1)


@pytest.mark.parametrize(
    ("scaling", "stds"),
    [("symmetric", (0.303, 0.166, 0.092, 0.053, 0.031)), ("unit", (0.287, 0.158, 0.092, 0.053, 0.031))],
)
def test_papers_network_on_shapeset_as_it_was_measured(scaling, stds):
    """One network of 1000 units, other images: a network's length scatters by √(2/1000) a layer, images by 4 %."""
    found = theory.predict("tanh", "standard", PAPER, 1024, 9, input_second_moment=shapeset_moments(scaling))
    np.testing.assert_allclose(found.activation_std, stds, rtol=0.06)
    np.testing.assert_allclose(found.gradient_std, (0.0017, 0.0032, 0.0057, 0.0100, 0.0172), rtol=0.03)
    assert (found.weight_gradient_std > 0.00090).all()
    assert (found.weight_gradient_std < 0.00102).all()
    np.testing.assert_allclose(found.jacobian_mean_singular_value[1:], (0.473, 0.485, 0.488, 0.490), atol=0.005)


def test_the_commands_default_input_is_shapesets():
    """Within the scatter of 300 images."""
    moments = shapeset_moments("symmetric")
    assert moments.mean() == pytest.approx(0.37, abs=3 * moments.std() / math.sqrt(300))


def test_ratios_per_layer_are_those_of_the_claims():
    """Standard: activations and gradients ≈ .55 to .58 a layer; weight gradients equal for both rules."""
    standard, normalized = (
        theory.predict("tanh", init, PAPER, 1024, 9, input_second_moment=0.37) for init in ("standard", "normalized")
    )
    for value in (standard.activation_std, standard.gradient_std[::-1]):
        ratios = value[1:] / value[:-1]
        assert (ratios > 0.52).all()
        assert (ratios < 0.58).all()
    assert (normalized.activation_std[1:] / normalized.activation_std[:-1] > 0.84).all()
    for found in (standard, normalized):
        assert np.ptp(found.weight_gradient_std) < 0.1 * found.weight_gradient_std.mean()
    assert (standard.jacobian_mean_singular_value[1:] < 0.4901).all()
    assert ((normalized.jacobian_mean_singular_value > 0.66) & (normalized.jacobian_mean_singular_value < 0.8)).all()
    np.testing.assert_allclose(normalized.weight_mean_singular_value[1:], QUARTER, atol=1e-8)


def drawn_network(draw: np.random.Generator, sizes: tuple[int, ...], variance, name: str) -> Network:
    weights = [draw.normal(size=shape, scale=math.sqrt(variance(*shape))) for shape in itertools.pairwise(sizes)]
    return Network(weights, [np.zeros(n) for n in sizes[1:]], name)


@pytest.mark.parametrize(
    ("name", "init"),
    [("tanh", "standard"), ("tanh", "normalized"), ("softsign", "normalized"), ("sigmoid", "standard")],
)
def test_predictions_are_what_drawn_networks_show(name, init):
    """Unequal widths; 30 networks × 6 examples of unequal lengths, every column within 5 %."""
    widths, features, classes, count = (300, 200, 250), 150, 5, 30
    draw = np.random.default_rng(10)
    x = draw.normal(size=(6, features)) * np.linspace(0.4, 1.2, 6)[:, None]
    wanted = theory.predict(name, init, widths, features, classes, input_second_moment=(x**2).mean(axis=1))
    sums = np.zeros((5, 4))
    for _ in range(count):
        network = drawn_network(
            draw, (features, *widths, classes), functools.partial(theory.weight_variance, init), name
        )
        z, s = network.forward(x)
        errors = network.errors(x, draw.integers(classes, size=6))
        sums[0, :3] += [(v**2).mean() / count for v in s[:-1]]
        sums[1, :3] += [v.mean() / count for v in z[1:]]
        sums[2, :3] += [(v**2).mean() / count for v in z[1:]]
        sums[3] += [(e**2).mean() / count for e in errors]
        sums[4] += [((v**2).mean(axis=1) * (e**2).mean(axis=1)).mean() / count for v, e in zip(z, errors, strict=True)]
    np.testing.assert_allclose(wanted.preactivation_std, np.sqrt(sums[0, :3]), rtol=0.05)
    np.testing.assert_allclose(wanted.activation_mean, sums[1, :3], rtol=0.05, atol=0.01)
    np.testing.assert_allclose(wanted.activation_std, np.sqrt(sums[2, :3] - sums[1, :3] ** 2), rtol=0.05)
    np.testing.assert_allclose([*wanted.gradient_std, wanted.output_gradient_std], np.sqrt(sums[3]), rtol=0.05)
    np.testing.assert_allclose(
        [*wanted.weight_gradient_std, wanted.output_weight_gradient_std], np.sqrt(sums[4]), rtol=0.05
    )
    for layer, (w, slopes) in enumerate(zip(network.weights[:-1], network.slopes(x), strict=True)):
        values = np.array([np.linalg.svd(w * f, compute_uv=False) for f in slopes])
        assert wanted.jacobian_mean_singular_value[layer] == pytest.approx(values.mean(), rel=0.05)
        assert wanted.jacobian_rms_singular_value[layer] == pytest.approx(math.sqrt((values**2).mean()), rel=0.05)


def test_one_length_for_all_examples_is_many_equal_ones():
    """Also more of them than the Jacobians' spectra are averaged over."""
    settings = "softsign", "orthogonal", (30, 40), 20, 4
    one = theory.predict(*settings, input_second_moment=0.6, gain=1.3)
    many = theory.predict(*settings, input_second_moment=np.full(300, 0.6), gain=1.3)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(one.weight_mean_singular_value, 1.3)


def test_a_persons_own_activation_and_variance_are_taken():
    def doubled(s):
        return 2 * s

    found = theory.predict(doubled, lambda m, n: 1 / (4 * m), (30, 30), 20, 4, input_second_moment=0.5)
    np.testing.assert_allclose(found.activation_std, math.sqrt(0.5), rtol=1e-10)
    np.testing.assert_allclose(found.jacobian_rms_singular_value[1], 1, rtol=1e-10)
    same = theory.predict(activations.tanh, "standard", (30,), 20, 4, input_second_moment=0.5)
    for a, b in zip(same, theory.predict("tanh", "standard", (30,), 20, 4, input_second_moment=0.5), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"activation": "tahn"}, "activation: 'tahn' is not known\n  hint: 'tanh'?"),
        ({"init": "standart"}, "init: 'standart' is not known\n  hint: 'standard'?"),
        (
            {"init": "lsuv"},
            "init: 'lsuv' has no variance that is known beforehand\n  hint: use delta_orthogonal, he_normal",
        ),
        ({"widths": ()}, "widths: () is empty"),
        ({"widths": (3, 0)}, "widths: 0 is not an integer ≥ 1"),
        ({"widths": (3.5,)}, "widths: 3.5 is not an integer ≥ 1"),
        ({"features": -1}, "features: -1 is not an integer ≥ 1"),
        ({"classes": 1}, "classes: 1 is not an integer ≥ 2"),
        ({"gain": math.nan}, "gain: nan is not a finite number > 0"),
        ({"input_second_moment": [0.1, -0.5]}, "input_second_moment: -0.5 is not a finite number > 0"),
    ],
)
def test_wrong_input_is_named(change, line):
    right = {"activation": "tanh", "init": "standard", "widths": (3,), "features": 2, "classes": 2}
    with pytest.raises(InputError) as error:
        theory.predict(**{**right, "input_second_moment": 1.0, **change})
    assert str(error.value).startswith(line)
