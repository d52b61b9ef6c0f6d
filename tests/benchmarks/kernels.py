"""What a dense layer's passes cost one core, by kernel, beside NumPy's products and what this machine reaches.

    python tests/benchmarks/kernels.py

All contestants take turns in one process, round after round, with one thread each; each figure is the best over rounds,
in processor seconds, so that other work on the machine counts as little as can be. GB/s are of weights alone: read
once by a forward pass, read and written once by a backward pass with the update.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Iterable

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["JAX_NUM_CPU_DEVICES"] = "1"

import jax
import jax.numpy as jnp
import numpy as np

from glorot_jax.engine import devices
from glorot_jax.engine.planning.peaks import machine
from glorot_jax.kernels import dense

SHAPES = ((784, 1000), (1000, 1000), (1000, 10), (784, 128), (128, 128), (64, 32), (32, 32), (32, 10))
PASSES = {"forward": 1, "backward and update": 2, "update": 1}
"""Products of z's size with W's in each."""
OPTIONS = {"xla_cpu_multi_thread_eigen": False}


def contestants(name: str, arrays: list[np.ndarray], repeats: int, kernels: Iterable[str]) -> dict[str, Callable]:
    """Functions that make one pass so many times for all runs."""
    return {
        **{kernel: _in_jax(dense.kernel(kernel), name, arrays, repeats) for kernel in kernels},
        "numpy": lambda: [_in_numpy(name, *(a.copy() for a in arrays)) for _ in range(repeats)],
    }


def _in_jax(kernel: dense.Kernel, name: str, arrays: list[np.ndarray], repeats: int) -> Callable:
    z, error, *weights = map(jnp.asarray, arrays)

    def once(_, held):
        z, w, b = held
        if name == "forward":
            s = jax.vmap(kernel.forward)(z, w, b)
            return z.at[:, 0, 0].set(s[:, 0, 0]), w, b  # another z each time: nothing can be done once for all
        update = functools.partial(kernel.backward_update, input_error=name != "update")
        below, w, b = jax.vmap(update)(z, error, w, b)
        return z if below is None else below, w, b

    loop = jax.jit(lambda *held: jax.lax.fori_loop(0, repeats, once, held), compiler_options=OPTIONS)
    return lambda: jax.block_until_ready(loop(z, *weights))


def _in_numpy(name: str, z: np.ndarray, error: np.ndarray, w: np.ndarray, b: np.ndarray) -> None:
    for z_run, error_run, w_run, b_run in zip(z, error, w, b, strict=True):
        if name == "forward":
            np.matmul(z_run, w_run) + b_run
            continue
        if name != "update":
            np.matmul(error_run, w_run.T)
        w_run += np.matmul(z_run.T, error_run)
        b_run += error_run.sum(0)


def row(shape: tuple[int, int], name: str, batch: int, rounds: int, kernels: tuple[str, ...], peak: float) -> str:
    fan_in, fan_out = shape
    runs = max(1, min(16, 2**22 // (fan_in * fan_out)))
    flops = 2.0 * PASSES[name] * batch * fan_in * fan_out
    repeats = max(2, int(1e9 / flops / runs))
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal((runs, *sizes), np.float32) * scale
        for sizes, scale in (((batch, fan_in), 1), ((batch, fan_out), 1e-6), (shape, fan_in**-0.5), ((fan_out,), 1))
    ]
    functions = contestants(name, [np.float32(a) for a in arrays], repeats, kernels)
    best = dict.fromkeys(functions, float("inf"))
    for turn in range(rounds + 1):
        for contestant, function in functions.items():
            begin = time.process_time()
            function()
            if turn > 0:
                best[contestant] = min(best[contestant], (time.process_time() - begin) / repeats / runs)
    first, moved = best[kernels[0]], 4.0 * fan_in * fan_out * (1 if name == "forward" else 2)
    cells = [f"{fan_in}×{fan_out}", str(runs), name, *(f"{seconds * 1e6:.3g}" for seconds in best.values())]
    return (
        f"| {' | '.join(cells)} | {flops / first / 1e9:.0f} | {flops / first / peak:.2f} | {moved / first / 1e9:.0f} |"
    )


def call(kernel: dense.Kernel, rounds: int, repeats: int = 20_000) -> float:
    """Seconds of one call with next to nothing to do, inside a loop: what the kernel's way of being called costs."""
    one = [np.full(shape, 0.5, np.float32) for shape in ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1))]
    function = _in_jax(kernel, "update", one, repeats)
    function()
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        seconds.append((time.process_time() - begin) / repeats)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    kernels = tuple(name for name in ("native", "xla") if dense.why_not(name) is None)
    reached = machine(("numpy", "jax"), clock=time.process_time)
    about = devices.describe()
    print(f"{about['processor']}, one core, jax {jax.__version__}, batch {asked.batch}")
    print(f"Large products: {reached.flops / 1e9:.0f} GFLOP/s; copies: {reached.bandwidth / 1e9:.0f} GB/s.")
    if "native" in kernels:
        print(f"A native call in a loop: {call(dense.kernel('native'), asked.rounds) * 1e6:.2f} µs.")
    print(f"\nMicroseconds a run; the last three columns are of {kernels[0]}.\n")
    print(f"| W | runs | pass | {' | '.join(kernels)} | numpy | GFLOP/s | of large products | GB/s |")
    print("|:--|--:|:--|" + "--:|" * (len(kernels) + 4))
    for shape in SHAPES:
        for name in PASSES:
            print(row(shape, name, asked.batch, asked.rounds, kernels, reached.flops), flush=True)


if __name__ == "__main__":
    main()
