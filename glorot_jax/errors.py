"""Errors in the user's words: which field, which value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input, found before anything was touched: one clear line, exit code 2.

    Args:
        message: the line, of the form ``field.path: 'value' is not …``.
        hint: what would be right; printed on a line of its own.
    """

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")


class ResumableError(RuntimeError):
    """The machine failed (full disk, lost file): what was committed is whole, exit code 1."""


class Stopped(Exception):
    """A signal ended the work at a segment's end: everything is saved and the same command goes on.

    Args:
        message: what was saved and how to go on.
        code: the exit code, 128 + the signal's number.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def unknown(path: str, value: object, known: Iterable[str]) -> InputError:
    """Returns the error for a name that is not among ``known``, with the nearest one that is."""
    names = sorted(set(known))
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    guess = f"{near[0]!r}? " if near else ""
    return InputError(f"{path}: {value!r} is not known", f"{guess}known: {', '.join(names)}")
