"""Coordinate check."""

from glorot_jax import Sweep, adam, at, claim, digits, growth_exponent, per_seed, residual_mlp

STANDARD = {"model.readout": "init", "optimizer.mup": "none"}
MUP = {"model.readout": "zero", "optimizer.mup": {"width": 64}}
WIDTHS = (64, 256, 1024)

sweep = Sweep(
    name="mup_coordinate_check",
    data=digits(),
    model=residual_mlp(depth=2, activation="tanh", init="lecun_normal"),
    optimizer=adam(learning_rate=0.003),
    variants=[{"model.width": width, **way} for way in (STANDARD, MUP) for width in WIDTHS],
    seeds=range(3),
    batch_size=50,
    steps=10,
    record=at(1, 3),
    probes=("evaluation", "module_outputs"),
)


def growth(module, way):
    def measure(results):
        return growth_exponent(
            {
                w: per_seed(
                    results,
                    "module_output_std",
                    {"model.width": w, "model.readout": way["model.readout"]},
                    module=module,
                )
                for w in WIDTHS
            }
        )

    return measure


claims = (
    claim("SP logits grow", growth("head", STANDARD), above=0.25, source="x"),
    claim("muP logits don't", growth("head", MUP), below=0.25, source="x"),
    claim("muP logits don't", growth("head", MUP), above=-0.25, source="x"),
    claim("SP stream grow", growth("blocks.1", STANDARD), above=0.1, source="x"),
    claim("MUP stream grow", growth("blocks.1", MUP), below=0.1, source="x"),
)
