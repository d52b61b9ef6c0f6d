"""What this machine has and can do: its caches as the system says them, its peaks as they were measured once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from glorot_jax.config import canonical_json
from glorot_jax.files import cache_folder, write_json

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Caches(NamedTuple):
    """Bytes of cache that one core can count on: of its own, and its part of what is shared.

    Attributes:
        own: the second level, as a rule a core's own.
        shared: the third level, divided by the cores of this process that share it; 0 without one.
    """

    own: int
    shared: int

    @property
    def a_core(self) -> int:
        return self.own + self.shared


USUAL_CACHES = Caches(2**20, 16 * 2**20)
"""Where the system says nothing: those of the machine on which the rules were measured."""


def caches(folder: Path | None = None) -> Caches:
    """Returns the caches of the first processor as Linux describes them, ``USUAL_CACHES`` elsewhere.

    Args:
        folder: of the description, ``/sys/devices/system/cpu/cpu0/cache`` if not said.
    """
    from glorot_jax.engine.devices import usable

    levels: dict[int, int] = {}
    mine = usable()
    try:
        for index in sorted((folder or _CACHES).glob("index*")):
            if (index / "type").read_text().strip() == "Instruction":
                continue
            sharing = _listed((index / "shared_cpu_list").read_text())
            part = _size((index / "size").read_text()) // max(1, len(sharing & mine))
            levels[int((index / "level").read_text())] = part
    except (OSError, ValueError):
        return USUAL_CACHES
    return Caches(levels[2], levels.get(3, 0)) if 2 in levels else USUAL_CACHES


def _listed(text: str) -> set[int]:
    """The numbers of a list such as ``0-3,8``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _size(text: str) -> int:
    """The bytes of a size such as ``1024K``."""
    number, unit = text.strip()[:-1], text.strip()[-1]
    return int(number) * {"K": 2**10, "M": 2**20, "G": 2**30}[unit]


@dataclass(frozen=True)
class Peaks:
    """What all devices of this process reach together, float32.

    Attributes:
        flops: additions and multiplications a second in large matrix products.
        by: the library that multiplied quickest.
        bandwidth: bytes read and written a second by a copy larger than every cache.
    """

    flops: float
    by: str
    bandwidth: float

    def shares(self, flops: float, moved: float, seconds: float) -> tuple[float, float]:
        """Returns which part of either peak is reached by work of so many operations and bytes in so many seconds."""
        return flops / self.flops / seconds, moved / self.bandwidth / seconds


def peaks() -> Peaks:
    """Returns the machine's peaks: as found before, else measured now, in a few seconds."""
    found = known()
    if found is None:
        found = _measured()
        keep(_path(), dataclasses.asdict(found))
    return found


def known() -> Peaks | None:
    """Returns the machine's peaks if they were measured before."""
    try:
        return Peaks(**json.loads(_path().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _path() -> Path:
    from glorot_jax.engine import devices

    return cache_folder("machine") / f"{digest(devices.describe())}.json"


def _measured() -> Peaks:
    from glorot_jax.engine.planning.peaks import machine

    found = machine()
    return Peaks(found.flops, max(found.flops_by, key=lambda name: found.flops_by[name]), found.bandwidth)


def keep(path: Path, found: object) -> None:
    """Writes what was measured into the person's cache; where that can't be, it is measured again the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    except OSError:
        pass


def digest(facts: object) -> str:
    """Returns sixteen hexadecimal digits that stand for facts in JSON's terms."""
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:16]
