"""Tracing without the pauses of Python's garbage collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[Callable[[], None]]:
    """Leaves reference cycles alone for a while: until its end, or until what it yields is called.

    Modules that are imported and programs that JAX traces are hundreds of thousands of objects, which stay; looking
    through them again and again for garbage takes a tenth of a start.
    """
    if not gc.isenabled():  # somebody else sees to it
        yield lambda: None
        return
    gc.disable()
    try:
        yield gc.enable
    finally:
        gc.enable()
