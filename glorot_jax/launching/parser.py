"""The parser of an engine's command line: what is wrong is refused in one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from glorot_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """Knows ``--help``; what it does not know is for ``glorot run``, first of it the sweep."""

    def __init__(self, engine: str, parents: Sequence[argparse.ArgumentParser] = ()):
        super().__init__(f"glorot launch {engine}", add_help=False, allow_abbrev=False, parents=parents)
        self.add_argument("-h", "--help", action="store_true")

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def need_sweep(arguments: Sequence[str]) -> None:
    """Refuses arguments of ``glorot run`` that do not begin with a sweep."""
    if not arguments or arguments[0].startswith("-"):
        raise InputError("SWEEP first, a file or a name")


def need_at_least(own: argparse.Namespace, **least: int) -> None:
    """Refuses numbers below their least; those that were not given are none."""
    for name, bound in least.items():
        if (given := getattr(own, name)) is not None and given < bound:
            raise InputError(f"--{name.replace('_', '-')}: {given} is not an integer ≥ {bound}")
