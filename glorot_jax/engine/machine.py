"""What this machine can do: its caches as the system says them, its arithmetic and copying as measured once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from glorot_jax.config import canonical_json
from glorot_jax.files import cache_folder, write_json

if TYPE_CHECKING:
    import jax

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SIZES = {"cpu": (1024, 64 * 2**20), "gpu": (8192, 2**30), "tpu": (8192, 2**30)}
"""Rows of the square matrices that are multiplied, and bytes that are copied: beyond every cache."""
_ENOUGH = 0.05
"""Seconds of one measurement, at least."""


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
        by: who multiplied: ``jax``, or ``numpy`` where its library is quicker on a CPU.
        bandwidth: bytes read and written a second by a copy larger than every cache.
        seconds: it took to find this.
    """

    flops: float
    by: str
    bandwidth: float
    seconds: float

    def share(self, flops: float, moved: float, seconds: float) -> tuple[float, float]:
        """Returns which part of either peak work of so many operations and bytes reaches that takes so long."""
        return flops / self.flops / seconds, moved / self.bandwidth / seconds


def peaks(devices: Sequence[jax.Device]) -> Peaks:
    """Returns the machine's peaks: as found before, else measured now, in about a second."""
    path = _path()
    found = _read(path)
    if found is None:
        found = _measured(devices)
        keep(path, dataclasses.asdict(found))
    return found


def keep(path: Path, found: object) -> None:
    """Writes what was measured into the person's cache; where that can't be, it is measured again the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    except OSError:
        pass


def _path() -> Path:
    from glorot_jax.engine import devices

    return cache_folder("machine") / f"{digest(devices.describe())}.json"


def digest(facts: object) -> str:
    """Returns sixteen hexadecimal digits that stand for facts in JSON's terms."""
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> Peaks | None:
    try:
        return Peaks(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _measured(devices: Sequence[jax.Device]) -> Peaks:
    begin = time.perf_counter()
    rows, size = _SIZES.get(devices[0].platform, _SIZES["gpu"])
    operations = 2.0 * rows**3
    rates = {"jax": _on_all(_products(devices, rows)) * operations}
    if devices[0].platform == "cpu":
        rates["numpy"] = _on_all(_numpy_products(len(devices), rows)) * operations
        copies = _on_all(_numpy_copies(len(devices), size))
    else:
        copies = _on_all(_copies(devices, size))
    by = max(rates, key=lambda name: rates[name])
    return Peaks(rates[by], by, copies * 2.0 * size, time.perf_counter() - begin)


def _on_all(work: Sequence[Callable[[], object]]) -> float:
    """How often a second all work together gets done, each in a thread of its own; the best of five rounds.

    The best: whoever else is at work on the machine can only take from it.
    """
    with ThreadPoolExecutor(len(work)) as workers:

        def seconds(times: int) -> float:
            begin = time.perf_counter()
            list(workers.map(lambda once: [once() for _ in range(times)], work))
            return time.perf_counter() - begin

        seconds(1)
        times = 1 + int(_ENOUGH / max(statistics.median(seconds(1) for _ in range(3)), 1e-6))
        return len(work) * times / min(seconds(times) for _ in range(5))


def _products(devices: Sequence[jax.Device], rows: int) -> list[Callable[[], object]]:
    import jax
    import jax.numpy as jnp

    from glorot_jax.engine.compiling import compiled

    def product(x: jax.Array) -> jax.Array:
        return jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST)

    def on(device: jax.Device) -> Callable[[], object]:
        x = jax.device_put(jnp.full((rows, rows), 1e-3), device)
        program = compiled(jax.jit(product).lower(x), device.platform)
        return lambda: jax.block_until_ready(program(x))

    return [on(device) for device in devices]


def _copies(devices: Sequence[jax.Device], size: int) -> list[Callable[[], object]]:
    import jax
    import jax.numpy as jnp

    negated = jax.jit(jnp.negative)

    def on(device: jax.Device) -> Callable[[], object]:
        x = jax.device_put(jnp.ones(size // 4), device)
        return lambda: jax.block_until_ready(negated(x))

    return [on(device) for device in devices]


def _numpy_products(count: int, rows: int) -> list[Callable[[], object]]:
    import numpy as np

    def one() -> Callable[[], object]:
        x, out = np.full((rows, rows), 1e-3, np.float32), np.empty((rows, rows), np.float32)
        return lambda: np.matmul(x, x, out=out)

    return [one() for _ in range(count)]


def _numpy_copies(count: int, size: int) -> list[Callable[[], object]]:
    import numpy as np

    def one() -> Callable[[], object]:
        source, target = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
        return lambda: np.copyto(target, source)

    return [one() for _ in range(count)]
