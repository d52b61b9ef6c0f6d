"""Sums modulo p as tokens: a data set of p² examples whose rule is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glorot_jax.data.arrays import Split


def splits(p: int, sizes: Sequence[int], seed: int) -> tuple[Split, Split, Split]:
    """Returns training, validation and test pairs: inputs uint8 [n, 3] = (a, b, p), labels (a + b) mod p.

    Args:
        p: in [2, 255].
        sizes: of the three; together p².
        seed: of the permutation of all pairs that is cut into them.

    Source: Power et al. (2022), arXiv:2201.02177, appendix A.1.
    """
    order = np.random.default_rng(seed).permutation(p**2)
    a, b = np.divmod(order, p)
    inputs = np.stack([a, b, np.full_like(a, p)], axis=1).astype(np.uint8)
    labels = ((a + b) % p).astype(np.int32)
    train, validation, test = (
        (inputs[start : start + size], labels[start : start + size])
        for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)
    )
    return train, validation, test
