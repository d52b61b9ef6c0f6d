"""Which variants of a sweep are worth going on with: rules that drop some on the way. Imports no JAX.

A rule looks at what was recorded so far at the steps that it names, and says who is dropped there. Variants that share
a program are compared with each other; all seeds of a variant go on or are dropped together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glorot_jax.config import Range, Spec, field, identity
from glorot_jax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

_STEP = Range(1)


class Search(Spec):
    """A rule: at which steps it looks, at what, and whom it drops."""

    family = "search"
    at: tuple[int, ...]

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of the records without which it can't decide."""
        return ()

    def rungs(self, total: int) -> tuple[int, ...]:
        """Returns the steps before ``total`` at which it decides, rising.

        Raises:
            InputError: a step that was named is not before the last.
        """
        late = [step for step in self.at if step >= total]
        if late:
            raise InputError(f"search.at: step {late[0]} is not before the last, {total}")
        return tuple(sorted(set(self.at)))

    def drop(self, records: xr.Dataset, variants: Sequence[Sequence[str]]) -> Collection[str]:
        """Returns the ids of runs that are dropped, and all other seeds of their variants with them.

        Args:
            records: what has one number a run and step, (run, step), up to now; NaN where a run had diverged or was
                dropped, or where nothing was due.
            variants: ids of the runs of each variant that is still there, in the order of the sweep.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class successive_halving(Search):
    """At each rung the better of the variants go on, one in ``factor``.

    A variant's value is the mean over its seeds that have one; those of which no seed has one (all have diverged) are
    dropped first. Among equals the first of the sweep go on.

    Args:
        by: what is compared, recorded as one number a run and step; lower is better.
        at: the rungs' steps; in place of them
        first: the first rung's; each further one is at ``factor`` times the step of the one before.
        factor: of the variants at a rung, rounded down, one in so many goes on.
        keep: so many go on at least.

    Source: successive halving, Jamieson & Talwalkar (2016), AISTATS; with rungs a factor apart as in Hyperband,
    Li et al. (2018), JMLR 18(185).
    """

    by: str = "valid_error"
    at: tuple[int, ...] = field(default=(), among=_STEP)
    first: int | None = field(default=None, among=_STEP)
    factor: int = field(default=3, among=Range(2))
    keep: int = field(default=1, among=Range(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.at) == (self.first is not None):
            raise InputError("successive_halving: it takes either at=(steps…) or first=step")
        if self.by.startswith("test"):
            raise InputError(f"successive_halving.by: {self.by!r} would choose on test results", "by='valid_error'")

    @property
    def looks_at(self) -> tuple[str, ...]:
        return (self.by,)

    def rungs(self, total: int) -> tuple[int, ...]:
        if self.first is None:
            return super().rungs(total)
        found, step = [], self.first
        while step < total:
            found.append(step)
            step *= self.factor
        if not found:
            raise InputError(f"search.first: step {self.first} is not before the last, {total}")
        return tuple(found)

    def drop(self, records: xr.Dataset, variants: Sequence[Sequence[str]]) -> Collection[str]:
        values = dict(zip(records["run"].to_numpy(), records[self.by].to_numpy()[:, -1], strict=True))

        def value(ids: Sequence[str]) -> float:
            known = [float(values[run]) for run in ids if math.isfinite(values[run])]
            return math.fsum(known) / len(known) if known else math.inf

        ranked = sorted(variants, key=value)  # stable: among equals the order of the sweep
        return [run for ids in ranked[max(self.keep, len(variants) // self.factor) :] for run in ids]


def _read_function(value: Any, path: str) -> Any:
    if not callable(value):
        raise InputError(f"{path}: {value!r} is not a function", "run the sweep from its file or program")
    try:
        identity(value)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return value


@dataclass(frozen=True)
class dropping(Search):
    """A rule of one's own.

    Args:
        function: ``(records, variants) -> ids of runs``, as ``Search.drop``; a pure function, for what it says must be
            the same when a sweep is resumed.
        at: the steps at which it is asked.
    """

    function: Any = field(read=_read_function)
    at: tuple[int, ...] = field(among=_STEP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.at:
            raise InputError("dropping.at: () is empty", "name the steps at which it is asked")

    def drop(self, records: xr.Dataset, variants: Sequence[Sequence[str]]) -> Collection[str]:
        function: Callable = self.function
        return function(records, variants)
