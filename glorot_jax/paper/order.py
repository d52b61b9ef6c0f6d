"""Which model of the paper errs less than which: claims about test errors when training has ended.

Models are called as in Table 1, N the normalized initialization; a number is the count of hidden layers where it is not
five.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

from glorot_jax.analysis.claims import claim
from glorot_jax.paper import published
from glorot_jax.paper.measures import PAPER, error, largest, network, smallest
from glorot_jax.paper.settings import DEPTH

if TYPE_CHECKING:
    import pandas as pd

    from glorot_jax.analysis.results import Results

MODELS = {label: (*model, DEPTH) for model, label in published.MODELS.items()} | {
    "Sigmoid 4": ("sigmoid", "standard", 4)
}
"""Activation, initialization and hidden layers of each."""


def model_error(results: Results, model: str) -> pd.Series:
    """Returns the test error of one of ``MODELS`` when training has ended."""
    return error(results, network(results, *MODELS[model]))


def ahead(better: Sequence[str], worse: Sequence[str], source: str) -> claim:
    """Returns the claim that each of some ``MODELS`` ends with a lower test error than each of some others."""

    def smallest_difference(results: Results) -> pd.Series:
        errors = {model: model_error(results, model) for model in (*better, *worse)}
        return smallest(errors[b] - errors[a] for a in better for b in worse)

    several = len(better) * len(worse) > 1
    return claim(
        f"{_listed(better)} {'end' if len(better) > 1 else 'ends'} with a lower test error than {_listed(worse)}.",
        smallest_difference,
        above=0.0,
        statistic=f"{'smallest ' if several else ''}difference of the test errors",
        source=source,
    )


def spread_of_errors(results: Results, models: Sequence[str]) -> pd.Series:
    """Returns the largest difference between the test errors of some ``MODELS``."""
    errors = [model_error(results, model) for model in models]
    return largest(a - b for a, b in permutations(errors, 2))


def second_order(optimizer: str, called: str) -> tuple[claim, ...]:
    """Returns what the paper claims of an optimizer with a rate for each parameter, against gradient descent."""

    def error_of(results: Results, init: str, kind: str) -> pd.Series:
        return error(results, {"model.init": init, "optimizer": kind})

    statements = {
        "help tanh networks from the standard initialization": (("standard", optimizer), ("standard", "sgd")),
        "leave them behind the normalized initialization": (("normalized", "sgd"), ("standard", optimizer)),
        "help the normalized initialization, too": (("normalized", optimizer), ("normalized", "sgd")),
    }
    return tuple(
        claim(
            f"{called[0].upper()}{called[1:]} {statement}.",
            lambda results, better=better, worse=worse: error_of(results, *worse) - error_of(results, *better),
            above=0.0,
            statistic="difference of the test errors",
            source=f"{PAPER}, section 5",
        )
        for statement, (better, worse) in statements.items()
    )


def _listed(models: Sequence[str]) -> str:
    *most, last = models
    return f"{', '.join(most)} and {last}" if most else last
