"""Which gradients a transformer starts with: layer normalization before each branch, after each sum, and DeepNorm.

Encoders of 3 and 12 blocks of width 32 on scikit-learn's digits, cut into 16 patches × two learning rates of Adam
without warm-up × three seeds, for 200 updates.

    glorot run transformer_norm_placement
    glorot claims results/transformer_norm_placement

On 2 cores of an AMD EPYC, shared with other work, it took 462 s. At the start the last block's gradient went with depth
to the power -0.96 [-1.63, -0.29] with normalization before the branch (-1/2 is expected) and -0.17 [-0.48, 0.14] after
the sum (0 is expected); in 12 blocks it was 3.4 [2.3, 5.0] times as large after the sum as before the branch. After 60
updates at the larger rate the first of 12 blocks had 70 000 times less of a gradient than the last if normalization
came after the sum, and such networks learned nothing at either rate: validation errors were higher by 60 points [49,
71] than with normalization before the branch and by 80 [77, 83] than with DeepNorm. Six claims are reproduced;
that the last block's gradient does not shrink with depth when normalization comes after the sum is undecided.
"""

from glorot_jax import Sweep, adam, at, claim, digits, growth_exponent, per_seed, probe, transformer

PRE = {"model.placement": "pre", "model.residual": "plain"}
POST = {"model.placement": "post", "model.residual": "plain"}
DEEPNORM = {"model.placement": "post", "model.residual": "deepnorm"}
DEPTHS = (3, 12)
RATES = (0.001, 0.003)
DEEP, FAST = DEPTHS[-1], RATES[-1]
LAST_WEIGHTS = "perceptron.inner.layers.1.kernel"


def gradient_norm(scene):
    """norm of the mini-batch's gradient of the last weights of each block's perceptron"""
    import jax.numpy as jnp

    from glorot_jax.rounding import norm

    gradient = scene.batch_gradient
    blocks = sum(path.endswith(LAST_WEIGHTS) for path in gradient)
    return jnp.stack([norm(gradient[f"blocks.{i}.{LAST_WEIGHTS}"]) for i in range(blocks)])


sweep = Sweep(
    name="transformer_norm_placement",
    data=digits(),
    model=transformer(width=32, patch=2, activation="relu"),
    optimizer=adam(learning_rate=RATES[0]),
    variants=[
        {"model.depth": depth, **way, "optimizer.learning_rate": rate}
        for way in (PRE, POST, DEEPNORM)
        for depth in DEPTHS
        for rate in RATES
    ],
    seeds=range(3),
    batch_size=20,
    steps=200,
    record=at(20, 60),
    probes=("evaluation", probe(gradient_norm, dims=("block",))),
)


def gradient(results, way, depth, block, step=0):
    """Norm of a block's gradient; the first block is 1, the last −1."""
    where = {"model.depth": depth, **way, "learning_rate": FAST}
    return per_seed(results, "gradient_norm", where, step=step, block=block)


def depth_exponent(way):
    """Exponent a in |gradient of the last block| ∝ depthᵃ before the first update."""
    return lambda results: growth_exponent({depth: gradient(results, way, depth, -1) for depth in DEPTHS})


def last_over_first(way, step=0):
    return lambda results: gradient(results, way, DEEP, -1, step) / gradient(results, way, DEEP, 1, step)


def post_over_pre(results):
    return gradient(results, POST, DEEP, -1) / gradient(results, PRE, DEEP, -1)


def error(results, way):
    """Validation error of the deep network at the larger rate; a run that diverged guesses among ten digits."""
    where = {"model.depth": DEEP, **way, "learning_rate": FAST}
    return per_seed(results, "valid_error", where, diverged=0.9)


XIONG = "Xiong et al. (2020), arXiv:2002.04745"
WANG = "Wang et al. (2022), arXiv:2203.00555"

claims = (
    claim(
        "With normalization after the sum the last block's gradient does not shrink with depth.",
        depth_exponent(POST),
        above=-0.25,
        source=f"{XIONG}, theorem 1",
    ),
    claim(
        "With normalization before the branch the last block's gradient shrinks with depth.",
        depth_exponent(PRE),
        below=-0.25,
        source=f"{XIONG}, theorem 1",
    ),
    claim(
        "The last block of a deep network starts with a larger gradient if normalization comes after the sum.",
        post_over_pre,
        above=1.0,
        log=True,
        source=f"{XIONG}, section 3.3",
    ),
    claim(
        "With normalization after the sum gradients grow from the first block to the last.",
        last_over_first(POST),
        above=1.0,
        log=True,
        source=f"{XIONG}, section 3.4",
    ),
    claim(
        "With normalization after the sum they still grow to the last block after 60 updates.",
        last_over_first(POST, step=60),
        above=1.0,
        log=True,
        source=f"{WANG}, section 3",
    ),
    claim(
        "Without warm-up a deep network learns less if normalization comes after the sum: difference of the errors.",
        lambda results: error(results, POST) - error(results, PRE),
        above=0.0,
        source=f"{XIONG}, section 3.2",
    ),
    claim(
        "DeepNorm learns more than plain normalization after the sum: difference of the errors.",
        lambda results: error(results, POST) - error(results, DEEPNORM),
        above=0.0,
        source=f"{WANG}, section 3",
    ),
)
