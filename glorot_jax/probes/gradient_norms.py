"""How large and how noisy the weight gradients are: norms, updates, noise scale, signal to noise."""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.probe import Output, Probe, Scene, by_weight, by_weight_labels
from glorot_jax.rounding import mean, norm, std, times, total


def _measure(scene: Scene) -> dict[str, Array]:
    updates, gradient = scene.updates(scene.batch_gradient), scene.batch_gradient
    norms = {path: norm(gradient[path]) for path in scene.weights}
    of_weights, of_all = _of_layers(scene) if scene.dense else _of_examples(scene)
    shares = {path: _signal_and_noise(found) for path, found in of_weights.items()}
    return {
        **by_weight(scene, "batch_gradient_norm", norms),
        **by_weight(scene, "batch_gradient_std", {path: std(gradient[path]) for path in scene.weights}),
        **_ratio(scene, norms),
        **by_weight(
            scene, "update_ratio", {path: norm(updates[path]) / norm(scene.params[path]) for path in scene.weights}
        ),
        **by_weight(scene, "gradient_signal_to_noise", {path: jnp.sqrt(s / n) for path, (s, n) in shares.items()}),
        **_noise_scale(of_all),
    }


def _ratio(scene: Scene, norms: dict[str, Array]) -> dict[str, Array]:
    """Norms over that of the last hidden layer, where layers are known by their weights."""
    if not scene.dense or len(scene.layers) == 1:
        return {}
    *hidden, _ = (norms[path] for path in scene.weights)
    hidden = jnp.stack(hidden)
    return {"batch_gradient_norm_ratio": hidden / hidden[-1 if scene.depth is None else scene.depth - 1]}


class _Products(NamedTuple):
    """Of the examples' gradients g_n: |g_n|², and g_n · Σ_m g_m."""

    squares: Float[Array, "n"]
    rows: Float[Array, "n"]


def _of_layers(scene: Scene) -> tuple[dict[str, _Products], _Products]:
    """By weights, and of all parameters, from inner products of all pairs of examples."""
    layers = [(at, scene.gradients[at.preactivation]) for at in scene.layers]
    grams = {str(at.weight): _products(scene.values[at.source], e) for at, e in layers}
    of_biases = [_gram(e) for at, e in layers if _bias(at) in scene.params]
    every = functools.reduce(operator.add, [*grams.values(), *of_biases])
    return {path: _pairs(gram) for path, gram in grams.items()}, _pairs(every)


def _pairs(products: Float[Array, "n n"]) -> _Products:
    return _Products(jnp.diagonal(products), mean(products) * np.float32(len(products)))


def _of_examples(scene: Scene) -> tuple[dict[str, _Products], _Products]:
    """The same of any network, from its gradients made one after the other."""
    params, count = dict(scene.params), np.float32(scene.examples)
    examples = scene.inputs, scene.labels

    def gradient(example: tuple[Array, Array]) -> dict[str, Array]:
        return jax.grad(scene.example_cost)(params, *example)

    def add(sum: dict[str, Array], example: tuple[Array, Array]) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, sum, gradient(example)), None

    together, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), examples)

    def against(example: tuple[Array, Array]) -> dict[str, _Products]:
        return {
            path: _Products(total(times(g, g)), total(times(g, together[path] / count)) * count)
            for path, g in gradient(example).items()
        }

    found = jax.lax.map(against, examples)
    every = _Products(*(functools.reduce(operator.add, part) for part in zip(*found.values(), strict=True)))
    return {path: found[path] for path in scene.weights}, every


def _bias(layer: LayerPoints) -> str:
    """The path of b in s = z W + b, whose gradient is ∂C/∂s."""
    return f"{layer.weight.rpartition('.')[0]}.bias"


def _products(z: Float[Array, "n fan_in"], e: Float[Array, "n fan_out"]) -> Float[Array, "n n"]:
    """Inner products of all pairs of per-example weight gradients z_n e_nᵀ: (z_n · z_m)(e_n · e_m)."""
    return times(_gram(z), _gram(e))


def _gram(rows: Float[Array, "n width"]) -> Float[Array, "n n"]:
    return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def _signal_and_noise(found: _Products) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """|ḡ|² of the mean gradient over the examples, and the unbiased tr Σ of the gradients' covariance."""
    n = len(found.rows)
    signal = mean(found.rows) * np.float32(1 / n)
    noise = (mean(found.squares) - signal) * np.float32(n / max(n - 1, 1))
    return jnp.maximum(signal, 0), jnp.maximum(noise, 0) if n > 1 else jnp.full((), jnp.nan)


def _noise_scale(found: _Products) -> dict[str, Array]:
    """tr Σ and |G|², unbiased, and their ratio with its jackknife error; 3 examples are needed."""
    squares, rows = found
    n = len(rows)
    if n < 3:
        return dict.fromkeys(_NOISE, jnp.full((), jnp.nan))
    trace, square = _estimates(total(squares), total(rows), n)
    without = _estimates(total(squares) - squares, total(rows) - 2 * rows + squares, n - 1)
    ratios = without[0] / without[1]
    spread = std(ratios) * np.float32(np.sqrt(n - 1))
    sure = square > 0
    return {
        "gradient_covariance_trace": trace,
        "gradient_square_norm": square,
        "gradient_noise_scale": jnp.where(sure, trace / jnp.where(sure, square, 1), jnp.nan),
        "gradient_noise_scale_error": jnp.where(sure, spread, jnp.nan),
    }


def _estimates(squares: Array, everything: Array, n: int) -> tuple[Array, Array]:
    """tr Σ and |G|² from Σ_n |g_n|² and Σ_nm g_n · g_m: |G|² is the mean over pairs of different examples."""
    square = (everything - squares) * np.float32(1 / (n * (n - 1)))
    return squares * np.float32(1 / n) - square, square


_NOISE = {
    "gradient_covariance_trace": (
        "trace of the covariance of per-example gradients",
        "unbiased, from inner products of all pairs of examples' gradients",
    ),
    "gradient_square_norm": (
        "squared norm of the true gradient",
        "unbiased, mean inner product of two different examples' gradients; noise can make it negative",
    ),
    "gradient_noise_scale": (
        "simple noise scale tr Σ/|G|² of the gradients",
        "ratio of two unbiased estimates; NaN where that of |G|² is not positive",
    ),
    "gradient_noise_scale_error": (
        "standard error of the simple noise scale",
        "jackknife over the examples; NaN where the noise scale is",
    ),
}


def _outputs(scene: Scene) -> dict[str, Output]:
    batch = {"examples": len(scene.batch[1]), "method": "mean gradient of the run's next mini-batch"}
    fixed = {"examples": scene.examples}
    labels = {
        "batch_gradient_norm": ("norm of the mini-batch's weight gradient", batch),
        "batch_gradient_std": ("standard deviation of the entries of the mini-batch's weight gradient", batch),
        "update_ratio": (
            "norm of the update over norm of the weights",
            batch | {"method": f"{batch['method']}, put through the optimizer; ∞ or NaN (0/0) where the weights are 0"},
        ),
        "gradient_signal_to_noise": (
            "norm of the mean weight gradient over its standard deviation between examples",
            fixed | {"method": "|ḡ|/√tr Σ, exact over the fixed test examples; ∞ or NaN (0/0) where all are equal"},
        ),
    }
    ratio = Output(
        ("layer",),
        "norm of the mini-batch's weight gradient over that of the last hidden layer",
        attrs=batch | {"method": f"{batch['method']}; ∞ or NaN (0/0) where the last one is 0"},
    )
    return {
        **{
            output: label
            for name, (text, attrs) in labels.items()
            for output, label in by_weight_labels(scene, name, Output(("layer",), text, attrs=attrs)).items()
        },
        **({} if not scene.dense or len(scene.layers) == 1 else {"batch_gradient_norm_ratio": ratio}),
        **{
            name: Output((), text, attrs=fixed | {"method": f"{_parameters(scene)}; {method}"})
            for name, (text, method) in _NOISE.items()
        },
    }


def _parameters(scene: Scene) -> str:
    """Whose gradients the noise scale is of: what it leaves out is named."""
    if not scene.dense:
        return "all parameters"
    seen = {path for layer in scene.layers for path in (layer.weight, _bias(layer))}
    rest = sorted(scene.params.keys() - seen)
    return f"all weights and biases of the layers, without {', '.join(rest)}" if rest else "all weights and biases"


gradient_norms = Probe(
    name="gradient_norms",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), Figure 9; McCandlish et al. (2018), arXiv:1812.06162, equation 2.9 and appendix "
    "A.1; Shwartz-Ziv & Tishby (2017), arXiv:1703.00810, section 3.3",
    any_depth=True,
)
