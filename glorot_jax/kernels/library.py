"""Libraries of ours that are compiled on first use, where a compiler is at hand, and kept in the person's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib

from glorot_jax.errors import ResumableError
from glorot_jax.files import cache_folder, write

SYMBOLS = ("GlorotForward", "GlorotBackwardUpdate", "GlorotUpdate")
"""What each of them exports, for JAX's foreign functions."""


class Library(NamedTuple):
    """What was built: the file, by which compiler, and the seconds it took, 0 where it was there already."""

    path: Path
    compiler: str
    seconds: float


class Unavailable(Exception):
    """Why there is no such library, in one line."""


def built(
    source: Path, compiler: Sequence[str], variants: Sequence[Sequence[str]], machine: Sequence[str] = ()
) -> Library:
    """Returns the library of a source, compiled if it is not there yet.

    Args:
        compiler: with its arguments if it has some.
        variants: arguments to compile with, the first that the compiler takes.
        machine: what a library may rely on that the arguments do not say.

    Raises:
        Unavailable: it can't be compiled, or not be kept.
    """
    version = _output([*compiler, "--version"])
    name = version.partition("\n")[0]
    asked = (source.read_text(encoding="utf-8"), *compiler, version, str(variants), jaxlib.__version__, *machine)
    path = cache_folder("native") / f"{hashlib.sha256(chr(0).join(asked).encode()).hexdigest()[:16]}.so"
    if path.exists():
        return Library(path, name, 0.0)
    begin = time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Renamed when whole: others may be building the same.
        write(path, functools.partial(_compile, source, compiler, variants))
    except (OSError, ResumableError) as error:
        raise Unavailable(f"the library can't be kept: {one_line(str(error))}") from None
    return Library(path, name, time.perf_counter() - begin)


def _compile(source: Path, compiler: Sequence[str], variants: Sequence[Sequence[str]], path: Path) -> None:
    reason = ""
    for arguments in variants:
        command = [*compiler, *arguments, "-isystem", jax.ffi.include_dir(), str(source), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode == 0:
            return
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        reason = reason or one_line((errors or done.stderr.splitlines() or [f"exit {done.returncode}"])[0])
    raise Unavailable(f"{compiler[0]} can't compile {source.name}: {reason}")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} fails: {one_line(done.stderr) or f'exit {done.returncode}'}")
    return done.stdout


def one_line(text: str) -> str:
    """Returns a text without its breaks, at most 300 characters of it."""
    return " ".join(text.split())[:300]


def loaded(build: Callable[[], Library], source: Path, platform: str, *of: object) -> Library | str:
    """Returns the library that ``build`` makes, its functions made known to JAX; or why there is none, in one line.

    Args:
        platform: of JAX's foreign functions.
        of: as of ``target``.
    """
    try:
        found = build()
        functions = ctypes.CDLL(str(found.path))
    except Unavailable as error:
        return str(error)
    except OSError as error:
        return f"the library can't be loaded: {one_line(str(error))}"
    for symbol in SYMBOLS:
        function = jax.ffi.pycapsule(getattr(functions, symbol))
        jax.ffi.register_ffi_target(target(symbol, source, *of), function, platform=platform)
    return found


@functools.cache
def target(symbol: str, source: Path, *of: object) -> str:
    """Returns JAX's name of a function, after the source too: a program that was kept never meets another library.

    Args:
        of: what else the library was built for.
    """
    return "_".join([symbol, *map(str, of), hashlib.sha256(source.read_bytes()).hexdigest()[:16]])
