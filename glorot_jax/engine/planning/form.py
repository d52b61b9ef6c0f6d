"""What makes the updates of a cohort: the general form, or gradient descent layer by layer with one of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from glorot_jax.engine.planning import stopwatch
from glorot_jax.errors import InputError
from glorot_jax.kernels import GENERAL, KERNELS
from glorot_jax.kernels.dense import why_not
from glorot_jax.optimizers import is_plain_descent

if TYPE_CHECKING:
    from glorot_jax.engine.segment import Draft

PREFERRED = {"cpu": ("native",), "gpu": ("cuda", "pallas")}
"""The kernels to take by rule, the first that can be had; elsewhere plain JAX."""


class Form(NamedTuple):
    """What makes an update, and why, in a few words.

    Attributes:
        kernel: among ``kernels.KERNELS``, or ``kernels.GENERAL``.
        by: ``asked``, ``rule`` or ``calibration``.
        tried: seconds of a run-step of the whole machine by the kernels that were tried; None without calibration.
    """

    kernel: str
    why: str
    by: str = "rule"
    tried: Mapping[str, float] | None = None


def choose(draft: Draft, platform: str, asked: str | None = None) -> Form:
    """Returns the form of a cohort's update.

    Args:
        platform: of the devices: cpu, gpu, tpu.
        asked: the kernel that is wanted; a cohort that has no other update than the general one keeps that.

    Raises:
        InputError: there is no such kernel, or not on this machine.
    """
    precision = draft.setup.precision
    if asked is not None:
        check(asked, precision)
    if (reason := _only_general(draft)) is not None:
        return Form(GENERAL, reason)
    if asked is not None:
        return Form(asked, "as asked", "asked")
    missing = []
    for wanted in PREFERRED.get(platform, ()):
        if (reason := why_not(wanted, precision)) is None:
            return Form(wanted, "; ".join(["plain SGD on dense layers", *missing]))
        missing.append(f"{wanted}: {reason}")
    return Form("xla", "; ".join(missing) or "plain SGD on dense layers")


def calibrated(
    rule: Form,
    precision: str,
    measure: Callable[[str], float],
    training_seconds: float,
    compile_seconds: Callable[[], float],
    kept: Path,
) -> Form:
    """Returns the kernel that a stopwatch says, or the rule's where there is no other or trying would not pay.

    Args:
        precision: of the products.
        measure: gives the seconds of a run-step with a kernel, compilation apart; infinity where it fails.
        training_seconds, compile_seconds, kept: as of ``stopwatch.tried``.
    """
    kernels = [name for name in KERNELS if why_not(name, precision) is None]
    if rule.kernel == GENERAL or rule.by == "asked" or len(kernels) < 2:
        return rule
    tried = stopwatch.tried(kernels, measure, training_seconds, compile_seconds, kept)
    if isinstance(tried, str):
        return rule._replace(why=f"{rule.why}; {tried}")
    return Form(min(tried, key=tried.__getitem__), "the quickest of those tried", "calibration", tried)


def check(asked: str, precision: str = "float32") -> None:
    """Raises InputError unless there is such a kernel, and on this machine, for products of a precision."""
    if asked not in (choices := (GENERAL, *KERNELS)):
        raise InputError(f"kernel: {asked!r} is not {' | '.join(map(repr, choices))}")
    if asked != GENERAL and (missing := why_not(asked, precision)) is not None:
        raise InputError(
            f"kernel: {asked!r} can't be used here: {missing}", "'xla' works everywhere; what was begun is then marked"
        )


def _only_general(draft: Draft) -> str | None:
    """Why a cohort's updates have to be the general ones, if so."""
    if not is_plain_descent(*draft.setup.optimizer, draft.optimizer_numbers):
        return "the optimizer is more than SGD with a learning rate"
    if draft.setup.base_network is not None:
        return "learning rates differ by layer"
    if not draft.has_descent:
        return "the network has no step of its own"
    return None
