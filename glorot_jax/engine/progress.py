"""Progress for a person: one steady screen in a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from glorot_jax.engine.watching import Advance
from glorot_jax.units import span

LINE_EVERY = 10.0
"""Seconds between plain lines at first; a minute once the work has lasted ten."""
SETTLED = 0.01
"""Share of the work, beyond what was there, from which on speed and end are told: the first steps may mislead."""
ROWS = 15
"""Variants that the screen lists, best first."""


def watcher() -> Plain:
    """Returns what fits where standard error goes: a screen in a terminal, lines elsewhere and under CI."""
    terminal = sys.stderr.isatty() and "CI" not in os.environ and os.environ.get("TERM") != "dumb"
    return Screen() if terminal else Plain()


class Plain:
    """Plain lines on standard error."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._last_line = -1e9
        self._made = self._already = self._work = self._runs = 0
        self._trains_since: float | None = None
        self._sweep = ""
        self._phase = ""
        self._news: Advance | None = None
        self._best: dict[str, float] = {}

    def plan(self, sweep: str, work: int, already: int, runs: int) -> None:
        self._sweep, self._work, self._made, self._already, self._runs = sweep, work, already, already, runs
        if work and already >= work:
            self._say(f"{sweep}: nothing to do, {runs} runs are done")
        elif already:
            self._say(f"{sweep}: {runs} runs, going on at {already / work:.0%}")
        else:
            self._say(f"{sweep}: {runs} runs")

    def phase(self, text: str) -> None:
        self._phase = text
        self._say(f"{self._sweep}: {text}")

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def advance(self, news: Advance) -> None:
        self._made += news.run_steps
        for name, error in news.valid_error.items():
            self._best[name] = min(error, self._best.get(name, 1.0))
        self._news = news
        self._trains_since = self._trains_since or time.monotonic()
        self._show()

    def tick(self) -> None:
        """Called about ten times a second."""

    def close(self) -> None:
        """Called once, at the end or before an error is shown."""

    def line(self) -> str:
        """Returns the state in one line."""
        news, share = self._news, self._made / self._work if self._work else 1.0
        parts = [f"{self._runs} runs"]
        if news is not None:
            before = news.step < 0
            made, of = (news.step - news.first_step, -news.first_step) if before else (news.step, news.steps)
            parts.append(f"{'pre-training ' * before}step {made:,}/{of:,}")
        parts.append(f"{share:.0%}")
        if news is not None and news.rate and self._settled():
            elsewhere = self._work - self._made - (news.steps - news.step) * (news.alive + news.diverged + news.dropped)
            left = news.seconds_left + elsewhere / news.rate
            ready = datetime.now() + timedelta(seconds=left)
            parts += [f"{news.rate:,.0f} run-steps/s", f"ready {ready:%H:%M}, {span(left)} left"]
        if news is not None and news.diverged:
            parts.append(f"{news.diverged} diverged")
        if news is not None and news.dropped:
            parts.append(f"{news.dropped} dropped")
        best = min(self.variants().items(), key=lambda kv: kv[1][0], default=None)
        if best is not None:
            parts.append(f"best validation error {best[1][0]:.1%} ({best[0]})")
        return " · ".join(parts)

    def _settled(self) -> bool:
        long = self._trains_since is not None and time.monotonic() - self._trains_since >= LINE_EVERY
        return long or self._made - self._already >= SETTLED * self._work

    def variants(self) -> Mapping[str, tuple[float, int]]:
        """Returns the best validation error so far of each variant: mean over seeds, number of seeds."""
        groups: dict[str, list[float]] = defaultdict(list)
        for name, error in self._best.items():
            groups[name.rpartition("-")[0] or "all"].append(error)
        return {name: (statistics.fmean(errors), len(errors)) for name, errors in groups.items()}

    def _show(self) -> None:
        now = time.monotonic()
        every = LINE_EVERY if now - self._begin < 600 else 60.0
        finished = self._made >= self._work
        if now - self._last_line >= every or finished:
            self._last_line = now
            self._say(self.line())

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Screen(Plain):
    """One steady screen: the line, a bar, and the best variants so far."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live: Any = Live(console=self._console, refresh_per_second=4, transient=False)

    def plan(self, sweep: str, work: int, already: int, runs: int) -> None:
        self._live.start()  # not before: an error until here leaves the terminal as it was
        super().plan(sweep, work, already, runs)

    def phase(self, text: str) -> None:
        self._phase = text
        self._show()

    def tick(self) -> None:
        self._show()

    def close(self) -> None:
        self._show()
        self._live.stop()

    def _show(self) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        passed = time.monotonic() - self._begin
        head = Text(f"{self._sweep}  {self._phase}  {span(passed)}", style="bold", no_wrap=True)
        parts: list[Any] = [head, Text(self.line())]
        if self._work:
            bar = Table.grid()  # a bar alone does not end its line
            bar.add_row(ProgressBar(total=self._work, completed=self._made, width=min(80, self._console.width)))
            parts.append(bar)
        ranked = sorted(self.variants().items(), key=lambda kv: kv[1][0])
        if ranked:
            table = Table(box=None, padding=(0, 2, 0, 0))
            table.add_column("variant", no_wrap=True)
            table.add_column("best validation error", justify="right", no_wrap=True)
            table.add_column("seeds", justify="right", no_wrap=True)
            for name, (error, n) in ranked[:ROWS]:
                table.add_row(name, f"{error:.1%}", str(n))
            parts.append(table)
            if len(ranked) > ROWS:
                parts.append(Text(f"… and {len(ranked) - ROWS} more variants"))
        self._live.update(Group(*parts))

    def _say(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False)
