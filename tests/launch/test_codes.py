"""One exit code for all parts of a sweep."""

from __future__ import annotations

import signal

import pytest

from glorot_jax.launching.codes import shell, together


@pytest.mark.parametrize(
    ("codes", "one"),
    [
        ([0, 0], 0),
        ([0, 143], 143),
        ([130, 130], 130),
        ([2, 0], 2),
        ([1, 2], 2),
        ([143, 137], 1),
        ([0, 134], 1),
        ([99], 1),
    ],
)
def test_what_was_refused_counts_most_then_what_died_then_what_was_stopped(codes, one):
    assert together(codes) == one


@pytest.mark.parametrize(
    ("stops", "code"), [([signal.SIGINT], 130), ([signal.SIGTERM, signal.SIGINT], 143), ([signal.SIGHUP], 143)]
)
def test_after_a_signal_the_code_is_its_own_unless_all_was_done_before(stops, code):
    assert together([0, 143], stops=stops) == together([0], left=True, stops=stops) == code
    assert together([0, 0], stops=stops) == 0
    assert together([137], left=True, stops=stops) == 1


def test_codes_are_counted_as_a_shell_counts_them():
    assert [shell(code) for code in (0, 1, -signal.SIGKILL, -signal.SIGTERM)] == [0, 1, 137, 143]
