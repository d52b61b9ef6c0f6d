"""``glorot launch``: engines, each a module of its own, found in a clone and in an installed package alike."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from glorot_jax.errors import unknown


def engines() -> dict[str, Path]:
    """Returns the modules by name."""
    package = Path(__file__).parents[1]
    found: dict[str, Path] = {}
    for folder in (package / "launch", package.parent / "launch"):
        for path in sorted(folder.glob("*.py")) if folder.is_dir() else ():
            if not path.name.startswith("_"):
                found.setdefault(path.stem, path)
    return found


def launch(engine: str, arguments: Sequence[str]) -> int:
    """Hands the arguments to an engine and returns its exit code.

    Raises:
        InputError: the engine is unknown, or refuses them.
    """
    known = engines()
    if engine not in known:
        raise unknown("engine", engine, known)
    spec = importlib.util.spec_from_file_location(f"glorot_launch_{engine}", known[engine])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return int(module.main(list(arguments)) or 0)
