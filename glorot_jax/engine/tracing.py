"""Tracing without the pauses of Python's garbage collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leaves reference cycles alone for a while.

    JAX makes hundreds of thousands of objects when it traces a program, which live until it is lowered; looking through
    them again and again for garbage takes an eighth of the time.
    """
    if not gc.isenabled():  # somebody else sees to it
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
