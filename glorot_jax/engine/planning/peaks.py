"""What this machine reaches, measured on the spot: float32 products and copies, all its devices at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glorot_jax.engine import devices

Clock = Callable[[], float]

SIDE = {"cpu": 1024, "accelerator": 8192}
"""Rows and columns of the matrices that are multiplied."""
COPIED = {"cpu": 512 * 2**20, "accelerator": 2**30}
"""Bytes that are read and written in one go, all devices together: more than caches hold."""
IN_A_ROW = {"cpu": 1, "accelerator": 32}
"""Copies that are asked for before the host waits: an accelerator has its next one by then."""


@dataclass(frozen=True)
class Machine:
    """The best that was seen here.

    Attributes:
        flops: float32 additions and multiplications a second of large matrix products, all devices together.
        bandwidth: bytes a second, read and written, of copying arrays that no cache holds, all devices together.
        flops_by, bandwidth_by: the same by the library that did it.
    """

    flops: float
    bandwidth: float
    flops_by: Mapping[str, float]
    bandwidth_by: Mapping[str, float]

    def seconds(self, flops: float, moved: float) -> tuple[float, float]:
        """Returns the least seconds of so much work: by arithmetic, and by memory traffic of so many bytes."""
        return flops / self.flops, moved / self.bandwidth


class _Way(NamedTuple):
    """One way of doing the work, and how much it is: operations, or bytes."""

    work: Callable[[], object]
    amount: float


def machine(
    libraries: Sequence[str] = ("numpy", "jax"), *, rounds: int = 5, clock: Clock = time.perf_counter
) -> Machine:
    """Returns what the libraries reach on the devices of this process, in about a second each.

    The best round of the best library counts, as a bound needs it.

    Args:
        libraries: of numpy, jax and torch; only jax counts where JAX works on an accelerator.
        clock: of seconds. By one of processor time the rates are those of a processor second.
    """
    devices.configure()
    accelerated = devices.local()[0].platform != "cpu"
    makers = {"jax": _jax} if accelerated else {"numpy": _numpy, "jax": _jax, "torch": _torch}
    made = {name: makers[name]() for name in libraries if name in makers}
    products, copies = ({name: _best(pair[i], rounds, clock) for name, pair in made.items()} for i in (0, 1))
    return Machine(max(products.values()), max(copies.values()), products, copies)


def _best(way: _Way, rounds: int, clock: Clock) -> float:
    way.work()
    return way.amount / min(_seconds(way.work, clock) for _ in range(rounds))


def _seconds(work: Callable[[], object], clock: Clock) -> float:
    begin = clock()
    work()
    return clock() - begin


def _numpy() -> tuple[_Way, _Way]:
    """A thread a core, each with matrices and arrays of its own."""
    cores, side = devices.cores(), SIDE["cpu"]
    workers = ThreadPoolExecutor(cores)
    chance = np.random.default_rng(0)
    matrices = [chance.standard_normal((3, side, side), np.float32) for _ in range(cores)]
    size = COPIED["cpu"] // 8 // cores
    arrays = [np.zeros((2, size), np.float32) for _ in range(cores)]
    for array in arrays:
        array.fill(1)  # so that the pages are there

    def products() -> None:
        list(workers.map(lambda m: np.matmul(m[0], m[1], out=m[2]), matrices))

    def copies() -> None:
        list(workers.map(lambda a: np.copyto(a[0], a[1]), arrays))

    return _Way(products, cores * 2.0 * side**3), _Way(copies, cores * 8.0 * size)


def _jax() -> tuple[_Way, _Way]:
    """A program of one thread on each device, as the engine has it."""
    import jax
    import jax.numpy as jnp

    used = devices.local()
    kind = "cpu" if used[0].platform == "cpu" else "accelerator"
    options = {"xla_cpu_multi_thread_eigen": False} if kind == "cpu" else None
    side, size = SIDE[kind], COPIED[kind] // 8 // len(used)
    workers = ThreadPoolExecutor(len(used))

    def everywhere(function: Callable, shape: tuple[int, ...], times: int = 1) -> Callable[[], object]:
        jitted = jax.jit(function, donate_argnums=0, compiler_options=options)
        held = [jax.device_put(np.full(shape, 1e-3, np.float32), device) for device in used]
        compiled = [jitted.lower(array).compile() for array in held]

        def once(i: int) -> None:
            for _ in range(times):
                held[i] = compiled[i](held[i])
            held[i].block_until_ready()

        return lambda: list(workers.map(once, range(len(used))))

    products = everywhere(lambda a: jnp.matmul(a, a, precision="highest"), (side, side))
    times = IN_A_ROW[kind]
    copies = everywhere(lambda a: -a, (size,), times)  # read and written where it is, as weights are
    return _Way(products, len(used) * 2.0 * side**3), _Way(copies, times * len(used) * 8.0 * size)


def _torch() -> tuple[_Way, _Way]:
    import torch

    torch.set_num_threads(devices.cores())
    side, size = SIDE["cpu"], COPIED["cpu"] // 8
    a, b, c = torch.randn(3, side, side)
    x, y = torch.ones(2, size)
    return _Way(lambda: torch.mm(a, b, out=c), 2.0 * side**3), _Way(lambda: y.copy_(x), 8.0 * size)
