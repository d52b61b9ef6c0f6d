"""Are two variants different? Over seeds, by a permutation test; or, as the paper has it, over test examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np

from glorot_jax.analysis.statistics import interval, standardized_interval

EXACT = 20_000
"""Up to so many permutations all are gone through: 14 seeds that pair, 8 and 8 that don't."""
DRAWN = 49_999
"""Beyond, so many are drawn, always the same."""
MOST_SEEDS = 10_000
"""More are not named: a difference that needs them is no difference that a sweep should chase."""
SEEDS_ALPHA, EXAMPLES_ALPHA = 0.05, 0.005


@dataclass(frozen=True)
class Sample:
    """What one variant reached.

    Attributes:
        name: of the variant.
        by_seed: one number a seed; where a run diverged, what that counts as.
        diverged: how many of its runs did.
        examples: that each number is a share of; None where it is none.
    """

    name: str
    by_seed: Mapping[int, float]
    diverged: int = 0
    examples: int | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_seed.values())))


@dataclass(frozen=True)
class Difference:
    """Two variants of a column, the one of the lower mean first.

    Attributes:
        lower, higher: their names.
        mean, low, high: of the difference higher − lower, with its 95 % interval, not corrected for the number of
            pairs: Student's t where seeds pair, Welch's where they don't, Wald's over examples.
        n: seeds of each, the fewer of both; with the test over examples the examples.
        paired: whether both have the same seeds.
        p: two-sided.
        p_corrected: by Holm over the pairs of the column; equal to ``p`` for the test over examples.
        told_apart: whether that is at most the test's level.
        effect: mean over standard deviation of the differences; over the pooled deviation where seeds don't pair. NaN
            where nothing varies, and for the test over examples.
        weight, freedom: t over effect, and the deviation's degrees of freedom: what ``effect_interval`` rests on.
        lowest_p: that the test can give with so many seeds.
        more_seeds: for each of both, that would tell them apart, were all means and deviations to stay; None where
            they are, or where that tells nothing.
        note: what a reader must know of this pair; may be empty.
    """

    column: str
    lower: str
    higher: str
    mean: float
    low: float
    high: float
    n: int
    paired: bool
    p: float
    p_corrected: float
    told_apart: bool
    effect: float = math.nan
    weight: float = math.nan
    freedom: int = 0
    lowest_p: float = 0.0
    more_seeds: int | None = None
    note: str = ""

    @property
    def effect_interval(self) -> tuple[float, float]:
        """The effect's 95 % interval, from the noncentral t distribution."""
        if math.isnan(self.effect):
            return math.nan, math.nan
        return standardized_interval(self.effect, self.weight, self.freedom)


def over_seeds(column: str, samples: Sequence[Sample], pairs: str = "best") -> list[Difference]:
    """Returns pairs of a column, each tested over seeds.

    Where both variants have the same seeds: the sign-flip permutation test of the mean difference, paired over them.
    Else the permutation test of two independent samples. Both are exact up to ``EXACT`` permutations. Holm's
    correction is over the pairs that are asked for.

    Which variant is best is itself read from these numbers. So pairs with the best answer one question: which variants
    may be the truly best one? That one is told apart from the best of the seeds in no more than 2.5 % of all columns.
    Whether any two are equal is another question: of five that are, this finds a difference in 8 % of all columns, and
    with ``"all"`` in no more than 5 %.

    Args:
        pairs: ``"best"``, those with the lowest mean, or ``"all"``.

    Source: Fisher (1935), The design of experiments, section 21; Holm (1979), Scandinavian Journal of Statistics 6;
    Gupta (1965), Technometrics 7, on the set that holds the best.
    """
    tested = [_pair(column, a, b) for a, b in _pairs(samples, pairs)]
    if not tested:
        return []
    p = _permutations([pair.values for pair in tested])
    corrected = holm(p)
    needed = _Needed(tested)
    return [
        replace(
            pair.found,
            p=float(p[i]),
            p_corrected=float(corrected[i]),
            told_apart=bool(corrected[i] <= SEEDS_ALPHA),
            more_seeds=needed.more(i) if corrected[i] > SEEDS_ALPHA else None,
        )
        for i, pair in enumerate(tested)
    ]


def over_examples(column: str, samples: Sequence[Sample], pairs: str = "best") -> list[Difference]:
    """Returns pairs of a column, each tested over examples: ``proportions`` of the mean errors over seeds.

    The mean is taken for the error of one network on one test set. It counts examples and is blind to what another
    seed would give. No correction is made for the number of pairs.
    """
    return [_over_examples(column, a, b) for a, b in _pairs(samples, pairs)]


def proportions(one: float, other: float, n: int, m: int | None = None) -> tuple[float, float]:
    """Returns z and p of the two-sided two-proportion z-test with pooled variance.

    Args:
        one, other: shares in [0, 1].
        n, m: of how many examples each; the same number if not said.
    """
    from scipy.stats import norm

    m = n if m is None else m
    pooled = (n * one + m * other) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = (other - one) / error if error > 0 else 0.0
    return z, float(2 * norm.sf(abs(z)))


def permutation(one: np.ndarray | Sequence, other: np.ndarray | Sequence | None = None) -> np.ndarray:
    """Returns the two-sided p of permutation tests of the mean, of shape (…).

    Args:
        one: differences (…, n), whose signs are flipped; or, beside ``other`` (…, m), one of two independent samples.
            Where a sample is one number alone there is nothing to permute, and p is 1.
    """
    from scipy.stats import permutation_test

    # Seven digits: what float32 records add beyond would part numbers that are equal.
    samples = [_digits(np.asarray(s, float)) for s in (one, other) if s is not None]
    n, *m = (s.shape[-1] for s in samples)
    if min(n, *m, 2) < 2:
        return np.ones(samples[0].shape[:-1])

    def difference(*parts: np.ndarray, axis: int) -> np.ndarray:
        means = [part.mean(axis=axis) for part in parts]
        return means[0] if len(means) == 1 else means[0] - means[1]

    count = math.comb(n + m[0], n) if m else 2**n
    found = permutation_test(
        samples,
        difference,
        permutation_type="independent" if m else "samples",
        n_resamples=EXACT if count <= EXACT else DRAWN,
        batch=max(1, 4_000_000 // sum(s.size for s in samples)),
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return np.asarray(found.pvalue)


def _digits(values: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda v: float(f"{v:.7g}"), otypes=[float])(values)


def smallest_p(n: int, m: int | None = None) -> float:
    """Returns the lowest p that ``permutation`` can give for n seeds that pair, or for n against m that don't."""
    count = 2**n if m is None else math.comb(n + m, n)
    return min(1.0, 2 / count if count <= EXACT else 2 / (DRAWN + 1))


def seeds_to_reach(pairs: int, alpha: float = SEEDS_ALPHA) -> int:
    """Returns the fewest paired seeds with which one of so many pairs can be told apart at all.

    With five variants, four of them against the best, it is 8: the lowest p of eight signs is 2 / 2⁸ = 0.0078.
    """
    return next(n for n in range(2, MOST_SEEDS) if pairs * smallest_p(n) <= alpha or n == MOST_SEEDS - 1)


def said_of(differences: Sequence[Difference], over_examples: bool) -> str:
    """Returns the test behind these in words, and whether it can tell anything apart."""
    if over_examples:
        sizes = sorted({one.n for one in differences})
        n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        return (
            f"a two-sided two-proportion z-test at α = {EXAMPLES_ALPHA} (that of Glorot & Bengio, 2010), which takes "
            f"the mean error over seeds for that of one network on n = {n} examples: it counts examples, not seeds."
        )
    columns = dict.fromkeys(one.column for one in differences)
    by_column = {column: [one for one in differences if one.column == column] for column in columns}
    sizes = sorted({len(found) for found in by_column.values()})
    pairs = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    exact = all(one.lowest_p * EXACT >= 2 for one in differences)
    unpaired = [one for one in differences if not one.paired]
    told = (
        f"the {'exact ' if exact else ''}sign-flip permutation test of the mean, two-sided, paired over seeds"
        f"{'' if exact else f' (beyond {EXACT:,} sign patterns {DRAWN:,} drawn)'}, Holm's correction over the "
        f"{pairs} comparison{'s' * (pairs != '1')} of a column, α = {SEEDS_ALPHA}."
    )
    if unpaired:
        told += f" Where seeds differ ({len(unpaired)} of {len(differences)} pairs) the samples are not paired."
    return " ".join([told, *_out_of_reach(by_column)])


def _out_of_reach(by_column: Mapping[str, Sequence[Difference]]) -> list[str]:
    """The sentence on columns that have too few seeds for any p to be low enough."""
    few = {c: found for c, found in by_column.items() if len(found) * min(d.lowest_p for d in found) > SEEDS_ALPHA}
    if not few:
        return []
    n = sorted({one.n for found in few.values() for one in found})
    lowest = min(one.lowest_p for found in few.values() for one in found)
    needed = max(map(seeds_to_reach, map(len, few.values())))
    seeds = f"{n[0]} seed{'s' * (n[0] > 1)}" if len(n) == 1 else f"{n[0]} to {n[-1]} seeds"
    where = "" if len(few) == len(by_column) else f" in {', '.join(few)}"
    return [
        f"With {seeds} nothing can be told apart{where}: no p lies below {lowest:.3g} before the correction. It takes "
        f"{needed} seeds."
    ]


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns Holm's corrected p: the k-th lowest of m times m − k + 1, at least its forerunner's, at most 1."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return corrected


# ---- the pairs of a column


@dataclass(frozen=True)
class _Pair:
    """A difference before it is tested; ``values``: differences by seed where seeds pair, else both samples."""

    found: Difference
    values: tuple[np.ndarray, ...]
    deviation: float
    """Of the differences; where seeds don't pair the root of the summed variances."""


def _permutations(pairs: Sequence[tuple[np.ndarray, ...]]) -> np.ndarray:
    """p of each pair; those of one shape are tested in one call."""
    p = np.empty(len(pairs))
    shapes = [tuple(len(part) for part in pair) for pair in pairs]
    for shape in dict.fromkeys(shapes):
        mine = [i for i, other in enumerate(shapes) if other == shape]
        p[mine] = permutation(*(np.stack(part) for part in zip(*(pairs[i] for i in mine), strict=True)))
    return p


class _Needed:
    """How many more seeds would settle a pair, with Holm's correction over all pairs at that number of seeds."""

    def __init__(self, pairs: Sequence[_Pair]):
        self.n = [pair.found.n for pair in pairs]
        self.mean = np.array([abs(pair.found.mean) for pair in pairs])
        self.deviation = np.array([pair.deviation for pair in pairs])
        self.paired = np.array([pair.found.paired for pair in pairs])
        self.corrected = cache(lambda n: holm(self.p(n)))

    def p(self, n: int) -> np.ndarray:
        """What the tests would say with n seeds, were mean and deviation to stay: Student's, for want of the seeds."""
        from scipy.stats import t

        with np.errstate(divide="ignore", invalid="ignore"):
            student = 2 * t.sf(self.mean / self.deviation * math.sqrt(n), np.where(self.paired, n - 1, 2 * n - 2))
        unknown = (self.mean == 0) | np.isnan(self.deviation)
        return np.where(unknown, 1, np.maximum(student, np.where(self.paired, smallest_p(n), smallest_p(n, n))))

    def more(self, index: int) -> int | None:
        low, high = self.n[index], MOST_SEEDS
        if self.corrected(high)[index] > SEEDS_ALPHA:
            return None
        while high - low > 1:  # p falls with n
            middle = (low + high) // 2
            low, high = (middle, high) if self.corrected(middle)[index] > SEEDS_ALPHA else (low, middle)
        return high - self.n[index]


def _pairs(samples: Sequence[Sample], pairs: str) -> list[tuple[Sample, Sample]]:
    """The pairs of samples, the lower mean first."""
    rising = sorted(samples, key=lambda sample: sample.mean)
    return list(combinations(rising, 2)) if pairs == "all" else [(rising[0], other) for other in rising[1:]]


def _pair(column: str, lower: Sample, higher: Sample) -> _Pair:
    paired = lower.by_seed.keys() == higher.by_seed.keys()
    a, b = (np.array([s.by_seed[seed] for seed in sorted(s.by_seed)]) for s in (lower, higher))
    n = min(len(a), len(b))
    if paired:
        mean, half, _ = interval(b - a)
        weight, freedom = math.sqrt(n), n - 1
        deviation = spread = float((b - a).std(ddof=1)) if n > 1 else math.nan
    else:
        mean, half = _welch(a, b)
        weight, freedom = math.sqrt(len(a) * len(b) / (len(a) + len(b))), len(a) + len(b) - 2
        deviation, spread = _deviations(a, b)
    varies = spread > 1e-6 * max(map(abs, (*a, *b)))  # less is float32's rounding
    notes = ["" if paired else "seeds differ: not paired", *_lost(lower, higher)]
    found = Difference(
        *(column, lower.name, higher.name),
        *(mean, mean - half, mean + half, n, paired),
        p=math.nan,
        p_corrected=math.nan,
        told_apart=False,
        effect=mean / spread if varies else math.nan,
        weight=weight,
        freedom=freedom,
        lowest_p=smallest_p(n) if paired else smallest_p(len(a), len(b)),
        note="; ".join(filter(None, notes)),
    )
    return _Pair(found, (b - a,) if paired else (b, a), deviation if varies or math.isnan(spread) else 0.0)


def _lost(lower: Sample, higher: Sample) -> list[str]:
    return [f"{s.diverged} of {s.name} diverged" for s in (lower, higher) if s.diverged]


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference of the means and half-width of its 95 % interval."""
    from scipy.stats import t

    mean = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return mean, math.nan
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    if parts.sum() == 0:
        return mean, 0.0
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    return mean, float(t.ppf(0.975, freedom) * math.sqrt(parts.sum()))


def _deviations(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Root of the summed variances, and the pooled deviation."""
    if min(len(a), len(b)) < 2:
        return math.nan, math.nan
    both, freedom = (a.var(ddof=1), b.var(ddof=1)), (len(a) - 1, len(b) - 1)
    return math.sqrt(sum(both)), math.sqrt(np.dot(both, freedom) / sum(freedom))


def _over_examples(column: str, lower: Sample, higher: Sample) -> Difference:
    assert lower.examples is not None
    assert higher.examples is not None
    n, m = lower.examples, higher.examples
    from scipy.stats import norm

    one, other = lower.mean, higher.mean
    _, p = proportions(one, other, n, m)
    half = norm.ppf(0.975) * math.sqrt(one * (1 - one) / n + other * (1 - other) / m)
    return Difference(
        *(column, lower.name, higher.name),
        *(other - one, other - one - float(half), other - one + float(half)),
        *(min(n, m), False, p, p, p <= EXAMPLES_ALPHA),
        note="; ".join(_lost(lower, higher)),
    )
