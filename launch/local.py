"""Trains a sweep on this machine: a worker per accelerator or per N cores; those that die are started again.

    glorot launch local SWEEP --out DIR [--shards N] [--cores-per-worker N] [--restarts N] [--dry-run] [...]

  --shards N            parts that the sweep is divided into; a worker takes one after the other.  [default: workers]
  --cores-per-worker N  one worker per N cores, on cores of its own.  [default: one per accelerator, else one in all]
  --restarts N          times that a part is started again after its worker died.  [default: 10]
  --no-progress         show nothing but what goes wrong
  --dry-run             print what would be started, and start nothing

All other arguments go to `glorot run`, as `glorot run --help` has them. The same command resumes. A worker that died
(no memory, full disk, lost device) starts again after a pause that doubles each time; one that is done, refused or
stopped does not. SIGTERM and Ctrl-C are passed on: all save and stop; a second Ctrl-C leaves at once. Should the
launcher itself be killed, its workers save and stop, too.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

from glorot_jax.engine import devices
from glorot_jax.errors import InputError, ResumableError
from glorot_jax.launching import workers
from glorot_jax.launching.parser import Parser, need_at_least, need_sweep
from glorot_jax.launching.standing import View
from glorot_jax.launching.workers import Place

DEVICES = """
import jax, json
found = jax.local_devices()
chips = {str(getattr(device, "coords", device.id)) for device in found}
print(json.dumps([found[0].platform, found[0].client.platform_version, len(chips)]))
"""


def places(cores_per_worker: int | None) -> list[Place]:
    """Returns one place a worker: by cores if so many are asked for, else by what JAX finds.

    Raises:
        InputError: there are fewer cores.
        ResumableError: JAX finds nothing.
    """
    if cores_per_worker:
        cores = sorted(devices.usable())
        if cores_per_worker > len(cores):
            raise InputError(f"--cores-per-worker: {cores_per_worker} are more than the {len(cores)} usable here")
        count = len(cores) // cores_per_worker
        return [Place(cores=tuple(cores[i * cores_per_worker : (i + 1) * cores_per_worker])) for i in range(count)]
    asked = subprocess.run([sys.executable, "-c", DEVICES], stdout=subprocess.PIPE, text=True)
    if asked.returncode:
        raise ResumableError("JAX finds no devices; `glorot doctor` says more")
    return by_devices(*json.loads(asked.stdout.splitlines()[-1]))


def by_devices(platform: str, version: str, count: int) -> list[Place]:
    """Returns one place for each accelerator, of those that the environment lets us see; one in all without any.

    Args:
        platform, version: in JAX's words; the version tells AMD's devices from NVIDIA's.
        count: of devices, for TPUs of chips.
    """
    if platform == "cpu" or count == 1:
        return [Place()]
    if platform == "tpu":
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Place({**alone, "TPU_VISIBLE_CHIPS": str(chip)}) for chip in range(count)]
    name = "HIP_VISIBLE_DEVICES" if "rocm" in version.lower() else "CUDA_VISIBLE_DEVICES"
    visible = os.environ.get(name) or ",".join(map(str, range(count)))
    return [Place({name: device.strip()}) for device in visible.split(",")[:count]]


def main(argv: list[str]) -> int:
    """Returns 0 if all parts are done, 2 if one was refused, 1 if one died once too often, 130 or 143 after a stop."""
    parser = Parser("local")
    parser.add_argument("--out")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--cores-per-worker", type=int)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--no-progress", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    own, arguments = parser.parse_known_args(argv)
    if own.help:
        print(__doc__)
        return 0
    need_sweep(arguments)
    if own.out is None:
        raise InputError("--out: name the results folder")
    need_at_least(own, shards=1, cores_per_worker=1, restarts=0)
    if "--fresh" in arguments:
        raise InputError("--fresh: a worker that died would start over each time; choose another folder")
    there = places(own.cores_per_worker)
    shards = own.shards or len(there)
    arguments = [*arguments, "--out", own.out, "--no-progress"]
    commands = [workers.command(arguments, (i, shards) if shards > 1 else None) for i in range(shards)]
    if own.dry_run:
        for i, place in enumerate(there[:shards]):
            cores = [f"cores {','.join(map(str, place.cores))}"] if place.cores else []
            devices_of = cores or [f"{k}={v}" for k, v in place.environment.items()] or ["all that JAX finds here"]
            print(f"worker {i}:", *devices_of)
        print(*map(shlex.join, commands), sep="\n")
        return 0
    view = View(own.out, own.no_progress)
    if not own.no_progress:
        at_once = min(len(there), shards)
        view.say(f"{own.out}: {at_once} worker{'s' * (at_once > 1)}, {shards} part{'s' * (shards > 1)}")
    code = workers.supervise(commands, there, own.restarts, view)
    if code == 0 and not own.no_progress:
        view.say(f"results: {own.out}")
    return code
