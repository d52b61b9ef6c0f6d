"""SIGINT and SIGTERM while a sweep trains: the first asks for an orderly stop, a second SIGINT leaves at once.

In a batch task of Slurm, SIGUSR1 and SIGUSR2 ask for the same as SIGTERM: which of them comes before a time limit or a
preemption depends on the site, its version and ``--signal``. SIGCONT comes together with any of them; alone it ends a
suspension, and the work goes on.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any

from glorot_jax import batch
from glorot_jax.errors import Stopped


class Signals:
    """Catches them within ``with``; the handlers of before are put back behind it.

    Args:
        leaving: whether the process ends once it was stopped. Then the handlers of before do not come back after
            ``Stopped``: a signal in the last moments of the process changes nothing any more.

    Attributes:
        caught: SIGINT or SIGTERM if one of them, or what means the same, has asked for a stop; 0 if none did.
    """

    def __init__(self, leaving: bool = False) -> None:
        self.leaving, self.caught = leaving, 0
        self._saved = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            more = (signal.SIGUSR1, signal.SIGUSR2) if batch.in_task() else ()
            for number in (signal.SIGINT, signal.SIGTERM, *more):
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
        self.caught = number if number == signal.SIGINT else int(signal.SIGTERM)
