"""How the preparation of a data set goes: one line that moves in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

PLAIN_SECONDS = 60.0
"""Between two plain lines of the same work, at least."""
SCREEN_SECONDS = 0.1


class Bar:
    """Prints ``text done/total`` to a stream; call it with what is done, how much, and of how much."""

    def __init__(self, title: str, stream: TextIO | None = None):
        self._title, self._stream = title, stream or sys.stderr
        dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("CI"))
        self._moves = self._stream.isatty() and not dumb
        self._text, self._next, self._open = "", 0.0, False

    def __call__(self, text: str, done: int, total: int) -> None:
        now = time.monotonic()
        if text == self._text and now < self._next and not (self._moves and done == total):
            return
        self._next = now + (SCREEN_SECONDS if self._moves else PLAIN_SECONDS)
        share = f" {100 * done // total:3d} %" if total > 1 and (self._moves or text == self._text) else ""
        line = f"{self._title}: {text}{share}"
        if self._moves:
            self._stream.write(f"\r\x1b[2K{line}")
            self._open = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._text = text

    def close(self) -> None:
        """Leaves the cursor on an empty line."""
        if self._open:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
