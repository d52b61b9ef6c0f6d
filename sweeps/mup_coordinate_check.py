"""How activations grow with width in ten steps of Adam, with one learning rate for all layers and with those of µP.

A residual tanh network of two blocks on scikit-learn's digits, in widths from 64 to 1024: the standard
parametrization, whose weights have variance 1/fan_in, and µP (learning rates relative to width 64, the readout from 0,
as the source advises) × three seeds.

    glorot run mup_coordinate_check
    glorot claims results/mup_coordinate_check

On 2 cores of an AMD EPYC, shared with other work, it took 198 s, most of it to compile. After ten steps the standard
parametrization's logits went with width to the power 1.06 [0.43, 1.70], the last block's output with 0.57 [0.20, 0.95];
with µP the powers were -0.04 [-0.06, -0.01] and -0.01 [-0.03, 0.00]. Five claims are reproduced; that hidden
activations of the standard parametrization grow by more than width to the power 1/4 is undecided with three seeds.
"""

from glorot_jax import Sweep, adam, at, claim, digits, growth_exponent, per_seed, residual_mlp

STANDARD = {"model.readout": "init", "optimizer.mup": "none"}
MUP = {"model.readout": "zero", "optimizer.mup": "width=64"}
WIDTHS = (64, 256, 1024)
SOURCE = "Yang et al. (2022), arXiv:2203.03466, section D.1 and figure 5"

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
    """Exponent a in std(output of the part) ∝ widthᵃ after the last step."""

    def measure(results):
        size = {w: {"model.width": w, **way} for w in WIDTHS}
        return growth_exponent(
            {w: per_seed(results, "module_output_std", where, module=module) for w, where in size.items()}
        )

    return measure


claims = (
    claim("With one rate for all layers logits grow with width.", growth("head", STANDARD), above=0.25, source=SOURCE),
    claim(
        "With one rate for all layers hidden activations grow with width.",
        growth("blocks.1", STANDARD),
        above=0.25,
        source=SOURCE,
    ),
    claim("With µP logits don't grow with width.", growth("head", MUP), below=0.25, source=SOURCE),
    claim("With µP logits don't shrink with width.", growth("head", MUP), above=-0.25, source=SOURCE),
    claim("With µP hidden activations don't grow with width.", growth("blocks.1", MUP), below=0.25, source=SOURCE),
    claim("With µP hidden activations don't shrink with width.", growth("blocks.1", MUP), above=-0.25, source=SOURCE),
)
