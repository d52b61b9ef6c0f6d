"""Residual."""

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


def error(way, depth):
    """Validation error at the end with the better learning rate; a run that diverged guesses among ten digits."""
    return lambda results: per_seed(
        results, "valid_error", {"model.depth": depth, **WAYS[way]}, select="learning_rate", diverged=0.9
    )


def growth_per_block(results):
    """Factor by which the plain stream's variance grows from block to block, before the first update."""
    where = {"model.depth": DEPTHS[-1], **WAYS["plain"], "learning_rate": RATES[0]}
    first, last = (per_seed(results, "stream_std", where, step=0, block=block) for block in (1, -1))
    return (last / first) ** (2 / (DEPTHS[-1] - 1))


claims = (
    claim(
        "In a plain residual network the signal's variance about doubles with each block.",
        growth_per_block,
        above=1.5,
        log=True,
        source="Zhang et al. (2019), arXiv:1901.09321, section 2; De & Smith (2020), arXiv:2002.10444, section 3",
    ),
)
