"""Trains a sweep on a Ray cluster: a task for each part, with the processors and accelerators that it asks for.

    glorot launch ray SWEEP --out DIR --shards N [--address A] [--cpus C] [--gpus G] [--dry-run] [...]

  --shards N         parts that the sweep is divided into, a task each
  --address A        a running cluster of which this is a node: auto, or HOST:PORT of its head.  [default: RAY_ADDRESS;
                     without it one is started on this machine, hears nobody else, and is stopped at the end]
  --cpus C           processors of a task.  [default: 1]
  --gpus G           GPUs of a task; without any it trains on its processors.  [default: 0]
  --resource NAME=N  what else a task needs, such as TPU=4; may be repeated
  --retries N        times that a part is begun again after its worker or node died.  [default: 10]
  --no-progress      show nothing but what goes wrong
  --dry-run          print what would be submitted, and submit nothing

All other arguments go to `glorot run`, as `glorot run --help` has them. Every node needs glorot_jax, and under the same
name DIR (a shared folder or an object store) and SWEEP, if it is a file. The same command resumes. A part that was
saved because its node is taken away begins again as often as that happens; one that is done or refused does not.
SIGTERM and Ctrl-C are passed on: all save and stop; a second Ctrl-C leaves at once.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from glorot_jax.engine import devices
from glorot_jax.errors import InputError
from glorot_jax.launching import task, workers
from glorot_jax.launching.codes import FINAL, together
from glorot_jax.launching.parser import Parser, need_sweep
from glorot_jax.launching.standing import View


@dataclass
class Part:
    shard: tuple[int, int]
    deaths: int = 0
    not_before: float = 0.0


def main(argv: list[str]) -> int:
    """Returns 0 if all parts are done, 2 if one was refused, 1 if one died for good, 130 or 143 after a stop."""
    parser = Parser("ray")
    parser.add_argument("--out")
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"))
    parser.add_argument("--cpus", type=float, default=1)
    parser.add_argument("--gpus", type=float, default=0)
    parser.add_argument("--resource", action="append", default=[])
    parser.add_argument("--retries", type=int, default=10)
    parser.add_argument("--no-progress", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    own, rest = parser.parse_known_args(argv)
    if own.help:
        print(__doc__)
        return 0
    need_sweep(rest)
    if own.out is None or own.shards < 1:
        raise InputError("--out DIR and --shards N (≥ 1) are needed")
    if min(own.cpus, own.gpus, own.retries) < 0:
        raise InputError("--cpus, --gpus and --retries are numbers ≥ 0")
    try:
        others = {name: float(count) for name, _, count in (text.partition("=") for text in own.resource)}
    except ValueError:
        raise InputError(f"--resource: {' '.join(own.resource)!r} is not NAME=N") from None
    sweep = os.path.abspath(rest[0]) if os.path.isfile(rest[0]) else rest[0]
    out = own.out if "://" in own.out else os.path.abspath(own.out)
    arguments = [sweep, "--out", out, *rest[1:], "--no-progress"]
    needs = {"num_cpus": own.cpus, "num_gpus": own.gpus, "resources": others}
    on_processors = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(max(1, int(own.cpus)))}
    settings = {} if own.gpus or others else on_processors
    parts = [Part((i, own.shards)) for i in range(own.shards)]
    if own.dry_run:
        print("cluster:", own.address or "started on this machine")
        print("each task:", *(f"{name}={value}" for name, value in {**needs, **settings}.items()))
        print(*(shlex.join(workers.command(arguments, part.shard)) for part in parts), sep="\n")
        return 0
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not own.address:  # Ray then takes 127.0.0.1 for this machine's address: it hears nothing from outside
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'glorot-jax[ray]'") from None
    view = View(out, own.no_progress)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), cluster(ray, own.address):
        there = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU", *others)}
        asked = {"CPU": own.cpus, "GPU": own.gpus, **others}
        if not own.address and any(count > there[name] for name, count in asked.items()):  # else more nodes may come
            has = f"this machine has {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs"
            raise InputError(f"a part needs {asked}, {has}")
        train = ray.remote(**needs, max_retries=0)(task.train)
        with view.open():
            code = supervise(ray, lambda part: train.remote(arguments, part.shard, settings), parts, own.retries, view)
    if code in (0, 130, 143) and not own.no_progress:
        view.say(f"results: {out}" if not code else "stopped; the same command goes on")
    return code


@contextmanager
def cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connects Ray within it. What is started here hears this machine alone."""
    with tempfile.TemporaryDirectory(prefix="glorot-", ignore_cleanup_errors=True) as folder:
        room = {"num_cpus": devices.cores(), "include_dashboard": False, "_temp_dir": folder}
        room["object_store_memory"] = 100 * 2**20  # nothing but exit codes passes through it
        try:
            if address and (place := re.fullmatch(r"(.+):(\d+)", address)):
                socket.create_connection((place[1], int(place[2])), timeout=10).close()  # Ray itself tries for ever
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else room))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"--address: no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from error
        try:
            yield
        finally:
            ray.shutdown()


def supervise(ray: Any, submit: Callable[[Part], Any], parts: list[Part], retries: int, view: View) -> int:
    """Has all parts trained, those that died again, and returns the exit code of all together."""
    queue, running, codes, told, passed_on = list(parts), {}, [], set(), 0
    with workers.heard() as stops:
        while running or (queue and not stops):
            for part in [p for p in queue if not stops and p.not_before <= time.monotonic()]:
                queue.remove(part)
                running[submit(part)] = part
            if passed_on and signal.SIGINT in stops[passed_on:]:
                os._exit(130)  # what was started here ends with this process
            for reference in list(running) if len(stops) > passed_on else ():
                ray.cancel(reference)
            passed_on = len(stops)
            done = ray.wait(list(running), timeout=0.5)[0] if running else time.sleep(0.2) or []
            for reference in done:
                part = running.pop(reference)
                code, text = ended(ray, reference)
                if code and text and text not in told:  # what all of them say is said once
                    told.add(text)
                    view.say(text)
                part.deaths += code not in FINAL
                if code in (0, 2) or stops or part.deaths > retries:
                    codes.append(code)
                    queue = [] if code == 2 else queue
                else:
                    part.not_before = time.monotonic() + workers.pause(part.deaths)
                    queue.append(part)
                    how = "was stopped and saved" if code in FINAL else f"died ({part.deaths} of {retries})"
                    view.say(f"part {part.shard[0]} of {part.shard[1]} {how}; it begins again")
            view.show(len(running), len(queue))
        view.show(0, len(queue), now=True)
    return together(codes, bool(queue), stops)


def ended(ray: Any, reference: Any) -> tuple[int, str]:
    """Returns the exit code of a task's process, 1 if it had none, and what there is to say."""
    try:
        return ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return 143, ""
    except ray.exceptions.RayTaskError as error:
        return (2 if isinstance(error.cause, ImportError) else 1), f"error on a node: {error.cause}"
    except ray.exceptions.RayError as error:
        return 1, str(error).strip().splitlines()[0]
