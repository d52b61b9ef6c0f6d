"""Glorot & Bengio (2010), layer by layer over training on Shapeset-3×2: Figures 2, 3, 4, 9 and 10.

Sigmoid networks of four and of five hidden layers, tanh and softsign networks of five. Small: 100 units a layer,
100 000 updates, one learning rate each. Full: 1000 units, 2.8 million updates, the learning rate chosen on validation
error.

    glorot run glorot2010/saturation
    glorot claims results/glorot2010-saturation
"""

from itertools import pairwise

from glorot_jax import Sweep, at, claim, every, probe, shapeset
from glorot_jax.paper.measures import (
    PAPER,
    PLATEAU,
    SATURATED,
    at_own_step,
    average,
    bottom_over_top,
    edge_over_inside,
    largest,
    largest_activations,
    mean_delay,
    mode,
    network,
    read,
    saturated_share,
    shortest_delay,
    sigmoid_errors,
    smallest,
    spread_of_rise,
)
from glorot_jax.paper.settings import DEPTH, EPOCH, WATCHED, Scale

NOT_DRAWN = {"model.activation": "softsign", "model.init": "normalized"}
"""In none of the figures."""


def sweep(scale: Scale = "small") -> Sweep:
    size = WATCHED[scale]
    return Sweep(
        name="glorot2010-saturation",
        data=shapeset(),
        **size.table() | {"exclude": [size.not_searched, NOT_DRAWN]},
        seeds=size.seeds,
        steps=size.updates,
        record=every(size.updates // 50),
        probes=(
            probe("evaluation", every(size.updates // 10)),
            "activations",
            "gradients",
            probe("histograms", at()),
        ),
    )


def of(results, activation, init="standard"):
    """A network of five hidden layers, the best depth but for sigmoid."""
    return network(results, activation, init, DEPTH)


def sigmoid_mean(results, layer):
    """Mean activation of the sigmoid network of four layers, by step, in the first five epochs."""
    found = read(results, "activation_mean", network(results, "sigmoid", depth=4), step="all", layer=layer)
    return found.loc[:, found.columns <= 5 * EPOCH]


def sigmoid_means_below(results):
    """Mean activations of the layers below, from the bottom, when that of the last one is lowest."""
    lowest = sigmoid_mean(results, 4).idxmin(axis=1)
    return [at_own_step(sigmoid_mean(results, layer), lowest) for layer in (1, 2, 3)]


claims = (
    # Figure 2: sigmoid, four hidden layers
    claim(
        "The last hidden layer of a sigmoid network is driven into saturation, to 0, within five epochs.",
        lambda results: sigmoid_mean(results, 4).min(axis=1),
        below=0.1,
        statistic="least mean activation of layer 4 of 4",
        source=f"{PAPER}, section 3.1 and Figure 2",
    ),
    claim(
        "Sigmoid layers below the saturated one keep mean activations of 0.5 or above.",
        lambda results: smallest(sigmoid_means_below(results)),
        above=0.495,  # 0.5 to the two digits that the figure shows
        statistic="least of their mean activations when that of layer 4 is lowest",
        source=f"{PAPER}, section 3.1 and Figure 2",
    ),
    claim(
        "Mean activations of sigmoid layers below the saturated one decrease from the top to the bottom.",
        lambda results: smallest(above - below for below, above in pairwise(sigmoid_means_below(results))),
        above=0.0,
        statistic="least difference of a layer's mean activation to that of the layer below, at the same time",
        source=f"{PAPER}, section 3.1 and Figure 2",
    ),
    claim(
        "Sigmoid networks of four hidden layers leave the plateau of the most frequent class.",
        lambda results: sigmoid_errors(results, 4).min(axis=1),
        below=PLATEAU,
        statistic="lowest test error in training",
        source=f"{PAPER}, section 3.1, Figures 2 and 11",
    ),
    claim(
        "Sigmoid networks of five hidden layers never leave the plateau of the most frequent class.",
        lambda results: sigmoid_errors(results, 5).min(axis=1),
        above=PLATEAU,
        statistic="lowest test error in training",
        source=f"{PAPER}, section 3.1, Figure 11 and Table 1",
    ),
    # Figures 3 and 10: tanh and softsign
    claim(
        "Tanh layers saturate the later the further up they are.",
        lambda results: mean_delay(results, of(results, "tanh")),
        above=0.0,
        statistic=f"epochs per layer of the time when 1 % of |activation| passes {SATURATED}, by least squares",
        source=f"{PAPER}, section 3.2 and Figure 3, top",
    ),
    claim(
        "Tanh layers saturate one after the other, from the bottom to the top.",
        lambda results: shortest_delay(results, of(results, "tanh")),
        above=0.0,
        statistic=f"least delay in epochs from layer to layer of the time when 1 % of |activation| passes {SATURATED}",
        source=f"{PAPER}, section 3.2 and Figure 3, top",
    ),
    claim(
        "Softsign layers don't saturate one after the other: they move together.",
        lambda results: spread_of_rise(results, of(results, "tanh")) - spread_of_rise(results, of(results, "softsign")),
        above=0.0,
        statistic="tanh less softsign: epochs from the first to the last layer to have made half of its rise",
        source=f"{PAPER}, section 3.3 and Figure 3, bottom",
    ),
    claim(
        "With the normalized initialization tanh layers move together, too.",
        lambda results: (
            spread_of_rise(results, of(results, "tanh")) - spread_of_rise(results, of(results, "tanh", "normalized"))
        ),
        above=0.0,
        statistic="standard less normalized: epochs from the first to the last layer to have made half of its rise",
        source=f"{PAPER}, section 4.2.2 and Figure 10",
    ),
    claim(
        "Softsign layers do not saturate.",
        lambda results: largest(
            largest_activations(results, of(results, "softsign"), layer).iloc[:, -1] for layer in range(1, DEPTH + 1)
        ),
        below=SATURATED,
        statistic="value that 1 % of |activation| exceeds, largest of all layers",
        source=f"{PAPER}, section 3.3 and Figure 3, bottom",
    ),
    claim(
        "Softsign layers saturate less than tanh layers.",
        lambda results: average(
            saturated_share(results, of(results, "tanh"), layer)
            - saturated_share(results, of(results, "softsign"), layer)
            for layer in range(1, DEPTH + 1)
        ),
        above=0.0,
        statistic="difference of the shares of activations beyond ±0.925, mean over layers",
        source=f"{PAPER}, section 3.3 and Figure 4",
    ),
    # Figure 4
    claim(
        "Trained tanh networks have peaks at ±1 in their first two layers.",
        lambda results: smallest(edge_over_inside(results, of(results, "tanh"), layer) for layer in (1, 2)),
        above=1.0,
        log=True,
        statistic="lesser ratio of the activations' density beyond ±0.925 to that inside",
        source=f"{PAPER}, section 3.3 and Figure 4, top",
    ),
    claim(
        "Trained softsign networks have their modes at the knees, between 0.5 and 0.8, in their first three layers.",
        lambda results: average(mode(results, of(results, "softsign"), layer) for layer in (1, 2, 3)),
        above=0.5,
        below=0.8,
        statistic="densest |activation|, mean over layers",
        source=f"{PAPER}, section 3.3 and Figure 4, bottom",
    ),
    # Figure 9
    claim(
        "In training weight gradients of the first layer become larger than those of the last with the standard "
        "initialization.",
        lambda results: bottom_over_top(results, "weight_gradient_std", of(results, "tanh")),
        above=1.0,
        log=True,
        statistic="ratio of their deviations in the second half of training",
        source=f"{PAPER}, section 4.2.2 and Figure 9, top",
    ),
    claim(
        "Weight gradients of the first and the last layer diverge less with the normalized initialization.",
        lambda results: (
            bottom_over_top(results, "weight_gradient_std", of(results, "tanh"))
            / bottom_over_top(results, "weight_gradient_std", of(results, "tanh", "normalized"))
        ),
        above=1.0,
        log=True,
        statistic="standard over normalized: ratio of first to last layer's deviation in the second half of training",
        source=f"{PAPER}, section 4.2.2 and Figure 9",
    ),
    claim(
        "With the standard initialization back-propagated gradients soon stop shrinking towards the input.",
        lambda results: bottom_over_top(results, "gradient_std", of(results, "tanh")),
        above=1.0,
        log=True,
        statistic="ratio of first to last layer's deviation in the second half of training",
        source=f"{PAPER}, section 4.2.2",
    ),
)
