"""How large and how noisy the weight gradients are: norms, updates, noise scale, signal to noise."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from glorot_jax.models.points import LayerPoints
from glorot_jax.probes.probe import Output, Probe, Scene, with_output, with_output_labels
from glorot_jax.rounding import mean, norm, std, times, total


def _measure(scene: Scene) -> dict[str, Array]:
    names = [layer.weight for layer in scene.layers]
    updates = scene.updates(scene.batch_gradient)
    norms = [norm(scene.batch_gradient[name]) for name in names]
    grams = [_products(scene.values[at.source], scene.gradients[at.preactivation]) for at in scene.layers]
    signal, noise = zip(*map(_signal_and_noise, grams), strict=True)
    of_biases = [_gram(scene.gradients[at.preactivation]) for at in scene.layers if _bias(at) in scene.params]
    return {
        **with_output("batch_gradient_norm", norms),
        **with_output("batch_gradient_std", [std(scene.batch_gradient[name]) for name in names]),
        "batch_gradient_norm_ratio": jnp.stack(norms[:-1]) / norms[-2],
        **with_output("update_ratio", [norm(updates[name]) / norm(scene.params[name]) for name in names]),
        **with_output("gradient_signal_to_noise", [jnp.sqrt(s / n) for s, n in zip(signal, noise, strict=True)]),
        **_noise_scale(functools.reduce(operator.add, [*grams, *of_biases])),
    }


def _bias(layer: LayerPoints) -> str:
    """The path of b in s = z W + b, whose gradient is ∂C/∂s."""
    return f"{layer.weight.rpartition('.')[0]}.bias"


def _products(z: Float[Array, "n fan_in"], e: Float[Array, "n fan_out"]) -> Float[Array, "n n"]:
    """Inner products of all pairs of per-example weight gradients z_n e_nᵀ: (z_n · z_m)(e_n · e_m)."""
    return times(_gram(z), _gram(e))


def _gram(rows: Float[Array, "n width"]) -> Float[Array, "n n"]:
    return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def _signal_and_noise(products: Float[Array, "n n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """|ḡ|² of the mean gradient over the examples, and the unbiased tr Σ of the gradients' covariance."""
    n = len(products)
    signal = mean(products.ravel())
    noise = (mean(jnp.diagonal(products)) - signal) * np.float32(n / max(n - 1, 1))
    return jnp.maximum(signal, 0), jnp.maximum(noise, 0) if n > 1 else jnp.full((), jnp.nan)


def _noise_scale(products: Float[Array, "n n"]) -> dict[str, Array]:
    """tr Σ and |G|², unbiased, and their ratio with its jackknife error; 3 examples are needed."""
    n = len(products)
    if n < 3:
        return dict.fromkeys(_NOISE, jnp.full((), jnp.nan))
    squares, rows = jnp.diagonal(products), mean(products) * np.float32(n)
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
    ratio = "norm of the mini-batch's weight gradient over that of the last hidden layer"
    return {
        **{
            output: label
            for name, (text, attrs) in labels.items()
            for output, label in with_output_labels(name, Output(("layer",), text, attrs=attrs)).items()
        },
        "batch_gradient_norm_ratio": Output(
            ("layer",), ratio, attrs=batch | {"method": f"{batch['method']}; ∞ or NaN (0/0) where the last one is 0"}
        ),
        **{
            name: Output((), text, attrs=fixed | {"method": f"{_parameters(scene)}; {method}"})
            for name, (text, method) in _NOISE.items()
        },
    }


def _parameters(scene: Scene) -> str:
    """Whose gradients the noise scale is of: what it leaves out is named."""
    seen = {path for layer in scene.layers for path in (layer.weight, _bias(layer))}
    rest = sorted(scene.params.keys() - seen)
    return f"all weights and biases of the layers, without {', '.join(rest)}" if rest else "all weights and biases"


gradient_norms = Probe(
    name="gradient_norms",
    measure=_measure,
    outputs=_outputs,
    source="Glorot & Bengio (2010), Figure 9; McCandlish et al. (2018), arXiv:1812.06162, equation 2.9 and appendix "
    "A.1; Shwartz-Ziv & Tishby (2017), arXiv:1703.00810, section 3.3",
)
