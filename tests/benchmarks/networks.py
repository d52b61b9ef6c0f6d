"""What a step of the engine costs beside a loop written by hand for the same Flax module, network by network.

    python tests/benchmarks/networks.py
    python tests/benchmarks/networks.py --clock process   # on a machine that others use, too

By hand: a module of the same class with its activation built in, ``nnx.merge`` in the step, vmap over runs, a scan
over steps, each run's batches gathered from the same arrays on the device, SGD in one line or Optax's Adam, the runs
dealt out to one device a core with a thread each. It knows of no divergence, no choice between functions, no records.
It is tried in three forms and the fastest one counts: the engine's blocks one after the other, each run by itself, and
all runs of a device vmapped; with the engine's compiler options, and that form with XLA's own.

All contestants take turns in one process, round after round; each figure is the median over rounds, each ratio the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from glorot_jax import Sweep, adam, cnn, grid, modular_addition, residual_mlp, resnet, sgd, transformer
from glorot_jax.bench.engine import Engine, random_bytes
from glorot_jax.data.dataset import build
from glorot_jax.engine import devices
from glorot_jax.models.cnn import Cnn
from glorot_jax.models.residual_mlp import ResidualMlp
from glorot_jax.models.resnet import ResNet
from glorot_jax.models.transformer import Transformer

CLASSES: Mapping[str, type[nnx.Module]] = {
    "cnn": Cnn,
    "resnet": ResNet,
    "transformer": Transformer,
    "residual_mlp": ResidualMlp,
}
DESCRIPTIONS: Mapping[str, Callable[..., Any]] = {
    "cnn": cnn,
    "resnet": resnet,
    "transformer": transformer,
    "residual_mlp": residual_mlp,
}
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": functools.partial(jax.nn.gelu, approximate=False)}


@dataclass(frozen=True)
class Size:
    """A network, how many of it, on batches of what, and how many steps of each contestant one round times."""

    kind: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...] | None
    """Of one input; None for modular addition."""
    batch: int
    runs: int
    steps: int
    activation: str = "relu"

    @property
    def label(self) -> str:
        said = ", ".join(f"{k}={v}" for k, v in self.arguments.items())
        on = "a + b mod 97" if self.shape is None else "×".join(map(str, self.shape))
        return f"{self.kind}({said}) on {on}, batch {self.batch}, {self.runs} runs"

    def sweep(self) -> Sweep:
        """One in four seeds with each learning rate."""
        rate = grid(*np.geomspace(1e-4, 1e-3, self.runs // 4).tolist())
        return Sweep(
            name="benchmark",
            data=modular_addition() if self.shape is None else random_bytes(self.shape),
            model=DESCRIPTIONS[self.kind](**self.arguments, activation=self.activation, init="he_normal"),
            optimizer=(adam if self.kind == "transformer" else sgd)(learning_rate=rate),
            seeds=range(4),
            batch_size=self.batch,
            steps=100_000,
            probes=("weights",),  # never looked at; compiled soon
        )


SIZES = {
    "cnn-s": Size("cnn", {"channels": (16,) * 4}, (8, 8), 10, 64, 60, "tanh"),
    "cnn-m": Size("cnn", {"channels": (32,) * 6}, (28, 28), 10, 16, 6, "tanh"),
    "resnet-s": Size("resnet", {"n": 1, "channels": 8}, (8, 8), 10, 64, 25),
    "resnet-m": Size("resnet", {"n": 1, "channels": 16}, (32, 32, 3), 10, 8, 4),
    "transformer-s": Size(
        "transformer", {"architecture": "decoder", "depth": 2, "width": 32}, None, 32, 64, 25, "gelu"
    ),
    "transformer-m": Size("transformer", {"patch": 7, "width": 64}, (28, 28), 10, 16, 25, "gelu"),
    "residual_mlp-s": Size("residual_mlp", {"depth": 4, "width": 32}, (8, 8), 10, 192, 200),
    "residual_mlp-m": Size("residual_mlp", {"depth": 8, "width": 128}, (28, 28), 10, 48, 40),
}


class ByHand:
    """The loop that a person would write for one network."""

    def __init__(self, size: Size, width: int, compiled: Callable[[Any], Callable], clock: Callable[[], float]):
        self.steps_a_call, self.clock = size.steps, clock
        data = build(size.sweep().data)
        on = devices.local()
        share = -(-size.runs // len(on))
        self.runs = share * len(on)
        self.width = min(width, share)
        blocks = -(-share // self.width)
        takes = {"features": data.features} if size.kind == "residual_mlp" else {"shape": (*data.shape, 1)[:3]}
        if size.shape is None:
            takes = {"shape": data.shape}
        make = functools.partial(
            CLASSES[size.kind],
            **takes,
            classes=data.classes,
            activation=ACTIVATIONS[size.activation],
            init=nnx.initializers.he_normal(),
            **size.arguments,
        )
        graph = nnx.split(make(rngs=nnx.Rngs(0)), nnx.Param, ...)[0]
        uses_adam = size.kind == "transformer"

        def start(seed, rate):
            params, rest = nnx.split(make(rngs=nnx.Rngs(jax.random.key(seed))), nnx.Param, ...)[1:]
            return params, rest, optax.adam(rate).init(params) if uses_adam else ()

        def update(state, rate, x, y):
            params, rest, memory = state
            x = x.astype(jnp.float32) if size.shape is None else x.astype(jnp.float32) / 255

            def cost(params):
                module = nnx.merge(graph, params, rest, copy=True)
                loss = optax.softmax_cross_entropy_with_integer_labels(module(x), y).mean()
                return loss, nnx.split(module, nnx.Param, ...)[2]

            gradient, rest = jax.grad(cost, has_aux=True)(params)
            if uses_adam:
                updates, memory = optax.adam(rate).update(gradient, memory)
                return optax.apply_updates(params, updates), rest, memory
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient), rest, memory

        def train(inputs, labels, state, rates, key):
            at = jax.random.randint(key, (blocks, size.steps, self.width, size.batch), 0, len(labels))

            def block(mine):
                state, rate, at = mine

                def step(state, at):
                    return jax.vmap(update)(state, rate, inputs[at], labels[at]), None

                return jax.lax.scan(step, state, at)[0]

            return jax.lax.map(block, (state, rates, at))

        begin = jax.jit(jax.vmap(jax.vmap(start)))
        trained = jax.jit(train, donate_argnums=2)
        self._workers = ThreadPoolExecutor(len(on))
        self._calls, self._states = [], []
        for i, device in enumerate(on):
            seeds = np.arange(blocks * self.width, dtype=np.uint32).reshape(blocks, self.width) % 4
            rates = np.resize(np.geomspace(1e-4, 1e-3, size.runs // 4), seeds.shape).astype(np.float32)
            held_here = [jax.device_put(data.arrays[name], device) for name in ("inputs", "labels")]
            seeds, rates, key = jax.device_put((seeds, rates, jax.random.key(i)), device)
            state = begin(seeds, rates)
            program = compiled(trained.lower(*held_here, state, rates, key))
            self._calls.append(lambda state, c=program, h=held_here, r=rates, k=key: c(*h, state, r, k))
            self._states.append(state)
        self.step()

    def step(self) -> float:
        """Trains all runs for a call; returns seconds of a run and step."""
        begin = self.clock()
        works = zip(self._calls, self._states, strict=True)
        futures = [self._workers.submit(lambda c=c, s=s: jax.block_until_ready(c(s))) for c, s in works]
        self._states = [future.result() for future in futures]
        return (self.clock() - begin) / (self.steps_a_call * self.runs)


def compare(size: Size, rounds: int, clock: Callable[[], float], width: int | None = None) -> str:
    """One line of the table."""
    engine = Engine(size.sweep(), width, clock)
    share = -(-size.runs // len(devices.local()))
    forms = {"blocks": engine.layout.width, "single": 1, "all": share}
    widths = {min(width, share): form for form, width in reversed(forms.items())}  # equal ones are one contestant
    made = {form: ByHand(size, width, engine.fleet.compiled, clock) for width, form in widths.items()}
    best = min(made, key=lambda form: statistics.median(made[form].step() for _ in range(3)))
    default = ByHand(size, made[best].width, lambda lowered: lowered.compile(), clock)
    seen: dict[str, list[float]] = {"engine": [], "by hand": [], "XLA's options": []}
    for _ in range(rounds):
        seen["engine"].append(engine.steps(size.steps) / (size.steps * engine.runs))
        seen["by hand"].append(made[best].step())
        seen["XLA's options"].append(default.step())
    cells = [f"{statistics.median(times) * 1e6:,.3g}" for times in seen.values()]
    for name in ("by hand", "XLA's options"):
        ratio = statistics.median(e / h for e, h in zip(seen["engine"], seen[name], strict=True))
        cells.append(f"**{ratio:.2f}**")
    return f"| {size.label} | {engine.layout.width} | {best} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="sizes whose name begins so")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    parser.add_argument("--width", type=int, help="runs that the engine vmaps together, in place of its own choice")
    asked = parser.parse_args()
    devices.configure()
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    print(f"{devices.describe()['processor']}, {devices.cores()} cores, {platform.system()}, jax {jax.__version__}")
    print(
        f"\nMicroseconds ({asked.clock} clock) per run-step, and the engine's as a share of the hand-written loop's:\n"
    )
    print("| network | width | by hand best as | engine | by hand | with XLA's options | ratio | ratio |")
    print("|:--|--:|:--|--:|--:|--:|--:|--:|")
    for name, size in SIZES.items():
        if name.startswith(asked.only):
            print(compare(size, asked.rounds, clock, asked.width), flush=True)


if __name__ == "__main__":
    main()
