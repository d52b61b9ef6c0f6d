"""What makes the updates of a cohort: the general form, or gradient descent layer by layer with one of its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glorot_jax.errors import InputError
from glorot_jax.kernels import GENERAL, KERNELS
from glorot_jax.kernels.dense import why_not
from glorot_jax.optimizers import is_plain_descent

if TYPE_CHECKING:
    from glorot_jax.engine.segment import Draft

PREFERRED = {"cpu": "native", "gpu": "pallas"}
"""The kernel to take where it can be had; elsewhere plain JAX."""


class Form(NamedTuple):
    """What makes an update, and why, in a few words.

    Attributes:
        kernel: among ``kernels.KERNELS``, or ``kernels.GENERAL``.
    """

    kernel: str
    why: str


def choose(draft: Draft, platform: str, asked: str | None = None) -> Form:
    """Returns the form of a cohort's update.

    Args:
        platform: of the devices: cpu, gpu, tpu.
        asked: the kernel that is wanted; a cohort that has no other update than the general one keeps that.

    Raises:
        InputError: there is no such kernel, or not on this machine.
    """
    if asked is not None:
        check(asked)
    if (reason := _only_general(draft)) is not None:
        return Form(GENERAL, reason)
    precision = draft.setup.precision
    if asked is not None:
        if (reason := _too_precise(asked, precision)) is not None:
            raise _refused(asked, reason)
        return Form(asked, "as asked")
    wanted = PREFERRED.get(platform, "xla")
    missing = why_not(wanted) or _too_precise(wanted, precision)
    return Form(wanted, "plain SGD on dense layers") if missing is None else Form("xla", f"{wanted}: {missing}")


def check(asked: str) -> None:
    """Raises InputError unless there is such a kernel, and on this machine."""
    if asked not in (choices := (GENERAL, *KERNELS)):
        raise InputError(f"kernel: {asked!r} is not {' | '.join(map(repr, choices))}")
    if asked != GENERAL and (missing := why_not(asked)) is not None:
        raise _refused(asked, missing)


def _refused(asked: str, reason: str) -> InputError:
    hint = "'xla' works everywhere; what was begun is then marked"
    return InputError(f"kernel: {asked!r} can't be used here: {reason}", hint)


def _too_precise(kernel: str, precision: str) -> str | None:
    """Why a kernel's products are not those that are asked for, if so; on a CPU tensorfloat32 is float32."""
    return "its products are float32" if (kernel, precision) == ("native", "bfloat16") else None


def _only_general(draft: Draft) -> str | None:
    """Why a cohort's updates have to be the general ones, if so."""
    if not is_plain_descent(*draft.setup.optimizer, draft.optimizer_numbers):
        return "the optimizer is more than SGD with a learning rate"
    if draft.setup.base_network is not None:
        return "learning rates differ by layer"
    if not draft.has_descent:
        return "the network has no step of its own"
    return None
