"""Residual networks of 12 and of 102 layers: which of them train without normalization.

Perceptrons of 5 and of 50 residual blocks of two rectified layers, all from He's initialization, on scikit-learn's
digits: plain, with batch normalization, Fixup, SkipInit (which in perceptrons is ReZero), and without the skip
connections × two learning rates × three seeds, for 600 updates.

    glorot run residual_without_normalization
    glorot claims results/residual_without_normalization

On 2 cores of an AMD EPYC, shared with other work, it took 424 s. Without normalization 50 blocks diverged in all seeds
and at both rates, plain and without skip connections; the plain stream's variance grew by 2.85 [2.68, 3.02] from block
to block (3 is expected: a branch's first layer sees what is not rectified). Fixup and SkipInit trained them, to
validation errors of 5.3 % [4.5, 6.2] and 9.8 % [4.4, 15.2]; batch normalization reached 4.2 % [1.8, 6.6]. Eight claims
are reproduced; whether SkipInit comes within five points of batch normalization is undecided.
"""

from glorot_jax import Sweep, at, claim, digits, per_seed, probe, residual_mlp, sgd

WAYS = {
    "none": {"model.residual": "none", "model.normalization": "none"},
    "plain": {"model.residual": "plain", "model.normalization": "none"},
    "batch": {"model.residual": "plain", "model.normalization": "batch"},
    "fixup": {"model.residual": "fixup", "model.normalization": "none"},
    "skipinit": {"model.residual": "skipinit", "model.normalization": "none"},
}
DEPTHS = (5, 50)
RATES = (0.01, 0.1)


def stream_std(scene):
    """standard deviation of the stream after each block"""
    import jax.numpy as jnp

    from glorot_jax.rounding import std

    blocks = sum(name.endswith(".stream") for name in scene.values)
    return jnp.stack([std(scene.values[f"blocks.{i}.stream"]) for i in range(blocks)])


sweep = Sweep(
    name="residual_without_normalization",
    data=digits(),
    model=residual_mlp(width=32),
    optimizer=sgd(learning_rate=0.1),
    variants=[
        {"model.depth": depth, **way, "optimizer.learning_rate": rate}
        for way in WAYS.values()
        for depth in DEPTHS
        for rate in RATES
    ],
    seeds=range(3),
    batch_size=20,
    steps=600,
    record=at(50, 200),
    probes=("evaluation", probe(stream_std, at(), dims=("block",))),
)


def error(way, depth=DEPTHS[-1]):
    """Validation error at the better learning rate; a run that diverged guesses among ten digits."""

    def measure(results):
        where = {"model.depth": depth, **WAYS[way]}
        return per_seed(results, "valid_error", where, select="learning_rate", diverged=0.9)

    return measure


def growth_per_block(way):
    """Factor from block to block of the variance of the deep network's stream, before the first update."""

    def measure(results):
        where = {"model.depth": DEPTHS[-1], **WAYS[way], "learning_rate": RATES[0]}
        first, last = (per_seed(results, "stream_std", where, step=0, block=block) for block in (1, -1))
        return (last / first) ** (2 / (DEPTHS[-1] - 1))

    return measure


FIXUP = "Zhang et al. (2019), arXiv:1901.09321"
SKIPINIT = "De & Smith (2020), arXiv:2002.10444"

claims = (
    claim(
        "In a plain residual network the variance grows exponentially with depth: factor per block.",
        growth_per_block("plain"),
        above=1.5,
        log=True,
        source=f"{FIXUP}, section 2",
    ),
    claim(
        "A plain network of 5 blocks trains without normalization.",
        error("plain", DEPTHS[0]),
        below=0.2,
        source=f"{FIXUP}, section 2",
    ),
    claim(
        "A plain network of 50 blocks does not train without normalization.",
        error("plain"),
        above=0.5,
        source=f"{FIXUP}, section 2",
    ),
    claim("Fixup trains 50 blocks without normalization.", error("fixup"), below=0.2, source=f"{FIXUP}, section 4"),
    claim("SkipInit trains 50 blocks without normalization.", error("skipinit"), below=0.2, source=SKIPINIT),
    claim("Batch normalization trains 50 blocks.", error("batch"), below=0.2, source=SKIPINIT),
    claim(
        "Fixup comes within five points of batch normalization at 50 blocks: difference of the errors.",
        lambda results: error("fixup")(results) - error("batch")(results),
        below=0.05,
        source=f"{FIXUP}, section 4",
    ),
    claim(
        "SkipInit comes within five points of batch normalization at 50 blocks: difference of the errors.",
        lambda results: error("skipinit")(results) - error("batch")(results),
        below=0.05,
        source=SKIPINIT,
    ),
    claim(
        "Without skip connections 50 blocks do not train.",
        error("none"),
        above=0.5,
        source="He et al. (2015), arXiv:1512.03385, section 1",
    ),
)
