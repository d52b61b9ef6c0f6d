"""What the engine is compared with: one run at a time in JAX, and three ways of PyTorch, if that is installed.

All train the same network in float32 with plain SGD on mini-batches that they draw from the same examples on the
device. They know of no divergence, no choice between functions and no records.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from glorot_jax.bench.engine import BATCH, Size
from glorot_jax.bench.turns import Contestant
from glorot_jax.engine import devices

TORCH = ("torch_batched", "torch_func", "torch_eager")
"""Names of PyTorch's ways: runs as a batch of matrices by hand, ``torch.func`` over runs, one run by its modules."""


def torch_version() -> str | None:
    """Returns PyTorch's version, None where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.__version__


def sequential(size: Size, data: Any) -> Contestant:
    """One run, its steps scanned: ``jax.grad`` and Optax, with XLA's own options."""
    import jax
    import jax.numpy as jnp
    import optax

    held = jax.device_put((data.train[0].astype(np.float32) / 255, data.train[1].astype(np.int32)))
    optimizer = optax.sgd(0.01)
    keys = jax.random.split(jax.random.key(0), len(size.layers))
    params = [
        {"w": jax.random.uniform(key, (i, o), minval=-1, maxval=1) / i**0.5, "b": jnp.zeros(o)}
        for key, (i, o) in zip(keys, size.layers, strict=True)
    ]

    def loss(params, x, y):
        *hidden, last = params
        for layer in hidden:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return optax.softmax_cross_entropy_with_integer_labels(x @ last["w"] + last["b"], y).mean()

    @jax.jit
    def train(state, held, key, count):
        inputs, labels = held

        def step(i, state):
            params, memory = state
            at = jax.random.randint(jax.random.fold_in(key, i), (BATCH,), 0, len(labels))
            updates, memory = optimizer.update(jax.grad(loss)(params, inputs[at], labels[at]), memory, params)
            return optax.apply_updates(params, updates), memory

        return jax.lax.fori_loop(0, count, step, state)

    live = [(params, optimizer.init(params))]

    def steps(count: int) -> None:
        live[0] = jax.block_until_ready(train(live[0], held, jax.random.key(1), count))

    return Contestant(steps, 1)


def torch_contestants(size: Size, data: Any) -> dict[str, Contestant]:
    """Returns PyTorch's ways by name, on a GPU where it has one."""
    import torch

    torch.set_num_threads(devices.cores())
    where = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = torch.from_numpy(data.train[0].astype(np.float32) / 255).to(where)
    labels = torch.from_numpy(data.train[1].astype(np.int64)).to(where)

    def finished(step: Callable[[], object]) -> Callable[[int], None]:
        def steps(count: int) -> None:
            for _ in range(count):
                step()
            if where == "cuda":
                torch.cuda.synchronize()

        return steps

    made = (_batched(size, inputs, labels), _func(size, inputs, labels), _eager(size, inputs, labels))
    runs = (size.runs, size.runs, 1)
    return {name: Contestant(finished(step), n) for name, step, n in zip(TORCH, made, runs, strict=True)}


def _rates(size: Size, device: Any) -> Any:
    import torch

    return torch.linspace(1e-3, 1e-2, size.runs, device=device)


def _weights(size: Size, device: Any) -> list[Any]:
    import torch

    return [(torch.rand(size.runs, i, o, device=device) * 2 - 1) / i**0.5 for i, o in size.layers]


def _batched(size: Size, inputs: Any, labels: Any) -> Callable[[], None]:
    import torch

    rates = _rates(size, inputs.device).reshape(-1, 1, 1)
    weights = [w.requires_grad_() for w in _weights(size, inputs.device)]
    biases = [torch.zeros(size.runs, 1, o, device=inputs.device, requires_grad=True) for _, o in size.layers]
    parameters = [*weights, *biases]

    def step() -> None:
        at = torch.randint(len(inputs), (size.runs, BATCH), device=inputs.device)
        z = inputs[at]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            z = torch.tanh(torch.baddbmm(b, z, w))
        logits = torch.baddbmm(biases[-1], z, weights[-1])
        flat = logits.reshape(-1, logits.shape[-1])
        loss = torch.nn.functional.cross_entropy(flat, labels[at].reshape(-1), reduction="sum")
        gradients = torch.autograd.grad(loss / BATCH, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rates * gradient)

    return step


def _func(size: Size, inputs: Any, labels: Any) -> Callable[[], None]:
    import torch

    rates = _rates(size, inputs.device)
    parameters = {f"w{k}": w for k, w in enumerate(_weights(size, inputs.device))}
    parameters |= {f"b{k}": torch.zeros(size.runs, o, device=inputs.device) for k, (_, o) in enumerate(size.layers)}
    last = len(size.layers) - 1

    def loss(parameters: dict[str, Any], x: Any, y: Any) -> Any:
        for k in range(last):
            x = torch.tanh(x @ parameters[f"w{k}"] + parameters[f"b{k}"])
        return torch.nn.functional.cross_entropy(x @ parameters[f"w{last}"] + parameters[f"b{last}"], y)

    gradients_of = torch.func.vmap(torch.func.grad(loss))

    def step() -> None:
        at = torch.randint(len(inputs), (size.runs, BATCH), device=inputs.device)
        gradients = gradients_of(parameters, inputs[at], labels[at])
        for name, parameter in parameters.items():
            parameter.sub_(rates.reshape(-1, *(1,) * (parameter.ndim - 1)) * gradients[name])

    return step


def _eager(size: Size, inputs: Any, labels: Any) -> Callable[[], None]:
    import torch

    modules: list[Any] = []
    for i, o in size.layers:
        modules += [torch.nn.Linear(i, o), torch.nn.Tanh()]
    network = torch.nn.Sequential(*modules[:-1]).to(inputs.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def step() -> None:
        at = torch.randint(len(inputs), (BATCH,), device=inputs.device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs[at]), labels[at]).backward()
        optimizer.step()

    return step
