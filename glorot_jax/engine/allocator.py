"""The C library's allocator, told to give memory that was freed back to the system: glibc's keeps much of it as it is.

Left alone, it raises the size from which arrays have pages of their own with each that is freed, up to 32 MiB, and
keeps what lies below: 100 to 200 MB that nobody uses. A library without these functions is left as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

PAGES_OF_THEIR_OWN = 2**20
"""Bytes from which an array has pages of its own, which leave the process when it is freed."""
_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""


def configure() -> None:
    """Gives arrays pages of their own."""
    _function("mallopt")(_MMAP_THRESHOLD, PAGES_OF_THEIR_OWN)


def trim() -> None:
    """Gives back the pages between what is left: after compiling, say, which frees very much of very little."""
    _function("malloc_trim")(0)


def _function(name: str) -> Callable[..., Any]:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return lambda *_: 0
