"""SIGINT and SIGTERM while a sweep trains: the first asks for an orderly stop, a second SIGINT leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any

from glorot_jax.errors import Stopped


class Signals:
    """Catches both within ``with``; the handlers of before are put back behind it.

    Args:
        leaving: whether the process ends once it was stopped. Then the handlers of before do not come back after
            ``Stopped``: a signal in the last moments of the process changes nothing any more.

    Attributes:
        caught: number of the last signal that asked for a stop, 0 if none did.
    """

    def __init__(self, leaving: bool = False) -> None:
        self.leaving, self.caught = leaving, 0
        self._saved = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if not (self.leaving and isinstance(error, Stopped)):
            self.give_back()

    def give_back(self) -> None:
        """Puts the handlers of before back, if they are not yet."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def saved(self) -> None:
        """Says that what was asked for is done: further signals are ignored."""
        self._saved = True

    def _handle(self, number: int, _: object) -> None:
        if self._saved:
            return
        if self.caught and number == signal.SIGINT:
            os.write(2, b"\nleft at once; what was committed is whole, the same command goes on\n")
            os._exit(128 + number)
        self.caught = number
