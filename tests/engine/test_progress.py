"""What a person reads while a sweep trains."""

from __future__ import annotations

import io
import re
from datetime import datetime, timedelta

import pytest
from rich.console import Console

from glorot_jax.engine import progress
from glorot_jax.engine.progress import ROWS, Plain, Screen, watcher
from glorot_jax.engine.watching import Advance


def news(**changes) -> Advance:
    facts = {
        "run_steps": 1200,
        "seconds": 2.0,
        "step": 100,
        "steps": 400,
        "alive": 11,
        "diverged": 1,
        "rate": 600.0,
        "seconds_left": 6.0,
        "valid_error": {"tanh-standard-s0": 0.5, "tanh-standard-s1": 0.3, "relu-standard-s0": 0.45},
    }
    return Advance(**facts | changes)


@pytest.fixture
def plain(monkeypatch) -> Plain:
    made = Plain()
    made.plan("small", 4800, 0, 12)
    return made


def test_a_line_says_runs_step_share_rate_time_left_and_failures(plain, capsys):
    """12 runs × 100 of 400 steps; what is left of the shard is said by it: 6 seconds."""
    before = datetime.now()
    plain.advance(news())
    line = plain.line()
    assert line.startswith("12 runs · step 100/400 · 25% · 600 run-steps/s · ready ")
    assert "0:06 left" in line
    assert " · 1 diverged · " in line
    ready = re.search(r"ready (\d\d:\d\d)", line)[1]
    assert ready in {(before + timedelta(seconds=s)).strftime("%H:%M") for s in (6, 60)}


def test_speed_and_end_are_told_once_a_hundredth_is_done_or_ten_seconds_have_passed(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    for first, then, seconds in ((47, 1, 0.0), (40, 0, progress.LINE_EVERY)):
        made = Plain()
        made.plan("small", 4800, 0, 12)
        made.advance(news(run_steps=first))
        assert "left" not in made.line()
        clock[0] += seconds
        made.advance(news(run_steps=then))
        assert "600 run-steps/s" in made.line()
    going_on = Plain()
    going_on.plan("small", 4800, 2400, 12)
    going_on.advance(news(run_steps=12))
    assert "left" not in going_on.line(), "what was there says nothing of the speed"


def test_the_dropped_are_counted_apart(plain):
    plain.advance(news(alive=7, dropped=4))
    assert " · 1 diverged · 4 dropped · " in plain.line()
    assert "0:06 left" in plain.line()
    plain.advance(news(alive=11))
    assert "dropped" not in plain.line()


def test_steps_below_0_are_counted_as_pretraining(plain):
    plain.advance(news(step=-300, first_step=-1000))
    assert plain.line().startswith("12 runs · pre-training step 700/1,000 · 25% · ")
    plain.advance(news(step=0, first_step=-1000))
    assert plain.line().startswith("12 runs · step 0/400 · 50% · ")


def test_work_in_other_shards_counts_in_the_time_left(monkeypatch):
    made = Plain()
    made.plan("small", 4800 + 60_000, 0, 24)
    made.advance(news())
    assert "1:46 left" in made.line()  # 6 s, and 60 000 run-steps at 600 a second


def test_the_best_error_is_the_mean_over_seeds_of_each_seeds_best(plain):
    plain.advance(news())
    plain.advance(news(valid_error={"tanh-standard-s0": 0.1, "tanh-standard-s1": 0.9, "relu-standard-s0": 0.4}))
    assert plain.variants() == {"tanh-standard": (pytest.approx(0.2), 2), "relu-standard": (0.4, 1)}
    assert plain.line().endswith("best validation error 20.0% (tanh-standard)")


def test_a_sweep_without_variants_is_one_variant(plain):
    plain.advance(news(valid_error={"s0": 0.2, "s1": 0.4}))
    assert plain.variants() == {"all": (pytest.approx(0.3), 2)}


def test_lines_go_to_standard_error_and_never_rewrite_themselves(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    made = Plain()
    made.plan("small", 4800, 0, 12)
    made.phase("compiling")
    made.note("checkpoint 20: damaged")
    for step in (100, 200):
        made.advance(news(step=step))
        made.tick()
    made.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert "\x1b" not in err
    lines = err.splitlines()
    assert lines[:3] == ["small: 12 runs", "small: compiling", "note: checkpoint 20: damaged"]
    assert [line.split(" · ")[1] for line in lines[3:]] == ["step 100/400", "step 200/400"]


def test_lines_are_rare_but_the_last_is_always_there(plain, capsys):
    capsys.readouterr()
    for _ in range(4):  # 4 × 1200 run-steps: the last makes 4800
        plain.advance(news())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" · ")[2] for line in lines] == ["25%", "100%"]


def test_after_ten_minutes_a_line_a_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    made = Plain()
    made.plan("small", 10**9, 0, 12)
    capsys.readouterr()
    for second in range(0, 1200, 5):
        clock[0] = float(second)
        made.advance(news())
    assert len(capsys.readouterr().err.splitlines()) == pytest.approx(60 + 10, abs=2)


@pytest.mark.parametrize(
    ("already", "line"),
    [
        (0, "small: 12 runs"),
        (1200, "small: 12 runs, going on at 25%"),
        (4800, "small: nothing to do, 12 runs are done"),
    ],
)
def test_the_first_line_says_where_it_begins(capsys, already, line):
    Plain().plan("small", 4800, already, 12)
    assert capsys.readouterr().err == line + "\n"


# ---- which one


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "kind"),
    [
        (Terminal, {"TERM": "xterm"}, Screen),
        (Terminal, {"TERM": "xterm", "CI": "true"}, Plain),
        (Terminal, {"TERM": "dumb"}, Plain),
        (io.StringIO, {"TERM": "xterm", "FORCE_COLOR": "1"}, Plain),
    ],
    ids=["terminal", "CI", "dumb", "file"],
)
def test_a_screen_in_a_terminal_and_lines_elsewhere(monkeypatch, stream, environment, kind):
    for name in ("TERM", "CI", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", stream())
    assert type(watcher()) is kind


# ---- the screen


@pytest.fixture
def screen(monkeypatch) -> tuple[Screen, io.StringIO]:
    """A screen of 80 columns that draws into a text."""
    shown = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console", lambda **_: Console(file=shown, width=80, force_terminal=True, color_system=None)
    )
    return Screen(), shown


def frames(shown: io.StringIO) -> list[str]:
    """What was drawn, line by line, without the terminal's commands."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).replace("\r", "").splitlines()


def test_the_screen_fits_80_columns_and_shows_the_variants_best_first(screen):
    made, shown = screen
    made.plan("small", 4800, 0, 12)
    made.phase("training")
    many = {f"tanh-normalized-lr{i}-s{s}": 0.9 - i / 100 for i in range(ROWS + 5) for s in range(2)}
    made.advance(news(valid_error=many))
    made.tick()
    made.close()
    lines = frames(shown)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for words in ("small  training", "step 100/400", "600 run-steps/s", "… and 5 more variants"):
        assert words in text
    assert "variant" in [line.split(" ")[0] for line in lines], "its header stands on a line of its own"
    table = [line.split() for line in lines if line.startswith("tanh-")][-ROWS:]
    assert table[0] == [f"tanh-normalized-lr{ROWS + 4}", "71.0%", "2"]
    errors = [float(row[1].rstrip("%")) for row in table]
    assert errors == sorted(errors)
    assert len(table) == ROWS


def test_notes_are_shown_as_they_are_whatever_brackets_they_hold(screen):
    """To rich, [source …] is a style and [/tmp] closes one: a note would lose words, or raise."""
    made, shown = screen
    made.plan("small", 4800, 0, 12)
    made.note("checkpoint 20: NOT_FOUND [source locations='x.cc:1'] [/closed]")
    made.close()
    assert "[source locations='x.cc:1'] [/closed]" in "\n".join(frames(shown))


def test_the_cursor_is_hidden_only_from_plan_to_close(screen):
    """An error before the plan, such as a folder of another sweep, leaves the terminal as it was."""
    made, shown = screen
    assert shown.getvalue() == ""
    made.plan("small", 4800, 0, 12)
    assert "\x1b[?25l" in shown.getvalue()
    assert "\x1b[?25h" not in shown.getvalue()
    made.close()
    assert shown.getvalue().rindex("\x1b[?25h") > shown.getvalue().rindex("\x1b[?25l")
