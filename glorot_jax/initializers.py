"""Initial weight matrices W [fan_in, fan_out], used as z W. Biases start at 0.

Kernels of convolutions are [height, width, channels_in, channels_out]; fan_in is then height · width · channels_in. For
random kernels fan_out is height · width · channels_out; those without randomness stand at the middle tap, around 0.

The calling form is that of ``jax.nn.initializers``: ``f(key, shape, dtype)``; those and a person's own pass as they
are. A function that names the keyword ``layer`` is told where in the network it is; one that names ``inputs`` is
shown that layer's input on training examples, under the run's own lower layers.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers as jax_initializers
from jaxtyping import Array, Float, Integer, Key

__all__ = [
    "delta_orthogonal",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "lsuv",
    "mup",
    "normalized",
    "normalized_normal",
    "normalized_sigmoid",
    "orthogonal",
    "random_walk",
    "random_walk_relu",
    "sparse",
    "standard",
    "truncated_normal",
    "zero_hadamard",
]

Shape = tuple[int, ...]
Weights = Float[Array, "*taps fan_in fan_out"]
Initializer = Callable[..., Weights]


class LayerInfo(NamedTuple):
    """Where a layer stands: ``index`` counts from 1, ``depth`` is the number of weight layers."""

    index: int
    depth: int

    @property
    def is_input(self) -> bool:
        return self.index == 1

    @property
    def is_output(self) -> bool:
        return self.index == self.depth


def call(
    initializer: Initializer,
    key: Key[Array, ""],
    shape: Shape,
    *,
    layer: LayerInfo | None,
    inputs: Float[Array, "batch fan_in"],
) -> Weights:
    """Returns the initializer's weights, showing it just what its signature names."""
    offered = {"layer": layer, "inputs": inputs}
    return initializer(key, shape, jnp.float32, **{k: offered[k] for k in wants(initializer)})


def select(
    index: Integer[Array, ""],
    initializers: Sequence[Initializer],
    key: Key[Array, ""],
    shape: Shape,
    *,
    layer: LayerInfo | None,
    inputs: Float[Array, "batch fan_in"],
) -> Weights:
    """Returns the weights of ``initializers[index]``, each behind a branch of its own: none rounds as its company does.

    Args:
        index: of the run; not batched.
    """
    weights = jnp.zeros(shape, jnp.float32)
    for i, initializer in enumerate(initializers):
        draw = functools.partial(call, initializer, shape=shape, layer=layer)
        weights = jax.lax.cond(
            index == i, lambda k, z, w, d=draw: d(key=k, inputs=z), lambda _, __, w: w, key, inputs, weights
        )
    return weights


def needs_inputs(initializer: Initializer) -> bool:
    """Returns whether the initializer looks at data."""
    return "inputs" in wants(initializer)


def wants(initializer: Initializer) -> frozenset[str]:
    """Returns what an initializer asks to be told beyond key, shape and dtype."""
    return _named(initializer) & {"layer", "inputs"}


@functools.cache
def _named(initializer: Initializer) -> frozenset[str]:
    return frozenset(inspect.signature(initializer).parameters)


def _fan_in(shape: Shape) -> int:
    return math.prod(shape[:-1])


def _at_middle(matrix: Float[Array, "fan_in fan_out"], shape: Shape) -> Weights:
    """The kernel that holds a matrix at its middle tap and 0 elsewhere; a matrix is a kernel without taps."""
    middle = tuple((taps - 1) // 2 for taps in shape[:-2])
    return jnp.zeros(shape, matrix.dtype).at[middle].set(matrix) if middle else matrix


def standard(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns U[−1/√n, 1/√n], n = fan_in: n Var W = 1/3. Source: Glorot & Bengio (2010), equation 1."""
    return jax_initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)


def normalized(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns U[±√6/√(fan_in + fan_out)]: Var W = 2/(fan_in + fan_out). Source: Glorot & Bengio (2010), equation 16."""
    return jax_initializers.glorot_uniform()(key, shape, dtype)


def normalized_normal(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns N(0, 2/(fan_in + fan_out)). Source: Glorot & Bengio (2010), equation 12."""
    return jax_initializers.variance_scaling(1.0, "fan_avg", "normal")(key, shape, dtype)


def normalized_sigmoid(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns 4 × ``normalized``, for sigmoid units, whose slope at 0 is 1/4.

    Source: Bengio (2012), arXiv:1206.5533, section 3.2.
    """
    return 4 * normalized(key, shape, dtype)


def lecun_normal(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns N(0, 1/fan_in). Source: LeCun et al. (1998), Efficient BackProp, section 4.6."""
    return jax_initializers.variance_scaling(1.0, "fan_in", "normal")(key, shape, dtype)


def lecun_uniform(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns U[±√(3/fan_in)]: Var W = 1/fan_in. Source: LeCun et al. (1998), Efficient BackProp, section 4.6."""
    return jax_initializers.lecun_uniform()(key, shape, dtype)


def he_normal(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns N(0, 2/fan_in). Source: He et al. (2015), arXiv:1502.01852, equation 10."""
    return jax_initializers.variance_scaling(2.0, "fan_in", "normal")(key, shape, dtype)


def he_uniform(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns U[±√(6/fan_in)]: Var W = 2/fan_in. Source: He et al. (2015), arXiv:1502.01852, equation 10."""
    return jax_initializers.he_uniform()(key, shape, dtype)


def truncated_normal(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns a normal cut at two standard deviations, widened so that Var W = 1/fan_in. Flax's default."""
    return jax_initializers.lecun_normal()(key, shape, dtype)


def orthogonal(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns a random matrix with orthonormal rows or columns. Source: Saxe et al. (2013), arXiv:1312.6120."""
    return jax_initializers.orthogonal()(key, shape, dtype)


def delta_orthogonal(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns a kernel that is 0 but for its middle tap, a random matrix with orthonormal rows or columns.

    With circular padding, stride 1 and no fewer channels out than in, the convolution keeps the length of every image.
    Source: Xiao et al. (2018), arXiv:1806.05393, algorithm 1.
    """
    return _at_middle(orthogonal(key, shape[-2:], dtype), shape)


def identity(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns ones on the diagonal, zeros elsewhere; nothing is drawn. Source: Le et al. (2015), arXiv:1504.00941."""
    return _at_middle(jnp.eye(*shape[-2:], dtype=dtype), shape)


def sparse(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns 15 incoming weights a unit from N(0, 1), the rest 0. Source: Martens (2010), ICML, section 5."""
    where, value = jax.random.split(key)
    matrix = _fan_in(shape), shape[-1]
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(where, matrix), axis=0), axis=0)
    return jnp.where(rank < 15, jax.random.normal(value, matrix, dtype), 0).reshape(shape)


def random_walk(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns g N(0, 1/n), g = exp(1/(2 n)), n = fan_in, for units that are linear around 0.

    Source: Sussillo & Abbott (2014), arXiv:1412.6558, equation 15.
    """
    return jnp.exp(1 / (2 * _fan_in(shape))) * lecun_normal(key, shape, dtype)


def random_walk_relu(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns g N(0, 1/n), g = √2 exp(1.2/(max(n, 6) − 2.4)), n = fan_in, for rectified units.

    Source: Sussillo & Abbott (2014), arXiv:1412.6558, equation 16.
    """
    return jnp.sqrt(2.0) * jnp.exp(1.2 / (max(_fan_in(shape), 6) - 2.4)) * lecun_normal(key, shape, dtype)


def mup(key: Key[Array, ""], shape: Shape, dtype=jnp.float32, *, layer: LayerInfo) -> Weights:
    """Returns N(0, 1/fan_in), in the output layer N(0, 1/fan_in²): the initial weights of µP.

    µP also scales each layer's learning rate with width: ``adam(…, mup={"widths": …})``.

    Source: Yang & Hu (2020), arXiv:2011.14522; Yang et al. (2022), arXiv:2203.03466, table 3.
    """
    weights = lecun_normal(key, shape, dtype)
    return weights / jnp.sqrt(_fan_in(shape)) if layer.is_output else weights


def zero_hadamard(key: Key[Array, ""], shape: Shape, dtype=jnp.float32) -> Weights:
    """Returns the identity where the layer does not widen, else a scaled Hadamard matrix between partial identities.

    Nothing is drawn. Source: Zhao et al. (2021), arXiv:2110.12661, algorithms 1 and 2 (without its zeros for
    residual branches, which a plain network lacks).
    """
    fan_in, fan_out = shape[-2:]
    if fan_in >= fan_out:
        return _at_middle(jnp.eye(fan_in, fan_out, dtype=dtype), shape)
    order = (fan_out - 1).bit_length()
    rows, columns = jnp.arange(2**order)[:, None], jnp.arange(2**order)[None]
    parity = jax.lax.population_count(rows & columns) % 2
    hadamard = (1 - 2 * parity).astype(dtype) * 2 ** (-order / 2)
    return _at_middle(hadamard[:fan_in, :fan_out], shape)


def lsuv(key: Key[Array, ""], shape: Shape, dtype=jnp.float32, *, inputs: Float[Array, "batch fan_in"]) -> Weights:
    """Returns orthonormal weights scaled until |Var(z W) − 1| < 0.1 on data, at most 10 times.

    Where the input does not vary the weights stay orthonormal. Source: Mishkin & Matas (2015), arXiv:1511.06422.
    """

    def rescale(weights: Weights, _: None) -> tuple[Weights, None]:
        variance = jnp.var(inputs @ weights)
        done = (jnp.abs(variance - 1) < 0.1) | (variance <= 1e-12)
        return jnp.where(done, weights, weights * jax.lax.rsqrt(jnp.where(done, 1, variance))), None

    return jax.lax.scan(rescale, orthogonal(key, shape, dtype), None, length=10)[0]
