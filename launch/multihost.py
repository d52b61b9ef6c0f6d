"""Trains a sweep as one program of several processes (jax.distributed): for TPU slices, and where else it is demanded.

    glorot launch multihost SWEEP --out DIR                        on every host of a TPU slice, or by srun
    glorot launch multihost SWEEP --out DIR --local 2              two processes on this machine
    glorot launch multihost SWEEP --out DIR --coordinator HOST:PORT --processes N --process-id I

The runs are spread over all devices of all processes; process 0 alone reads and writes DIR, the others send it what
their runs have become. So each of them needs the sweep file and the data, and only process 0 needs DIR. Runs never talk
to each other: where nothing demands one program, `glorot launch local`, `slurm`, `ray` and `kubernetes` lose less when
a machine dies, for here all processes stop when one does.

  --coordinator HOST:PORT   where process 0 listens; else found by JAX itself (TPU, Slurm, Kubernetes, MPI)
  --processes N             how many there are
  --process-id I            which this is, from 0
  --local N                 start all N here, on loopback, each with its share of the cores
  --heartbeat SECONDS       after which a process that no longer answers is given up.  [default: 30]
  --restarts N              times that a program that died is started again; on every host alike.  [default: 0]
  --dry-run                 print what would be started, and start nothing

All other arguments go to `glorot run`. SIGTERM or SIGINT to any process stops all at the same step, saved (exit codes
143, 130). If a process dies the others stop within the heartbeat with exit code 1: what was committed is whole, and the
same command goes on, also with another number of processes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

from glorot_jax.engine import devices
from glorot_jax.errors import InputError
from glorot_jax.launching import hosts
from glorot_jax.launching.codes import FINAL, shell, together
from glorot_jax.launching.parser import Parser, need_at_least, need_sweep

PAUSE = 5.0
"""Seconds before a new start."""
DIED = "a process of the program died; what was committed is whole, the same command goes on"


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 done, 1 a process died and the same command goes on, 2 refused, 130/143 stopped."""
    parser = Parser("multihost", [hosts.options()])
    parser.add_argument("--local", type=int)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true")
    own, arguments = parser.parse_known_args(argv)
    if own.help:
        print(__doc__)
        return 0
    need_sweep(arguments)
    need_at_least(own, local=1, heartbeat=1, restarts=0)
    if (wrong := _wrong(own)) is not None:
        raise InputError(wrong)
    stopped: list[int] = []
    workers: list[subprocess.Popen] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        for worker in workers:
            worker.send_signal(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal's Ctrl-C reaches the workers by itself
    for start in range(own.restarts + 1):
        commands = _commands(own, arguments)
        if own.dry_run:
            print("\n".join(shlex.join(command) for command in commands))
            return 0
        workers[:] = [subprocess.Popen(command, env=_environment(own.local)) for command in commands]
        code = together([shell(worker.wait()) for worker in workers])
        if code == 1:
            print(DIED, file=sys.stderr)
        if code in FINAL or stopped or start == own.restarts:
            break
        print(f"starting again ({start + 1} of {own.restarts})", file=sys.stderr, flush=True)
        time.sleep(PAUSE)
    return code


def _wrong(own: argparse.Namespace) -> str | None:
    told = [own.coordinator, own.processes, own.process_id]
    if own.local is not None:
        beside = any(value is not None for value in told)
        return "--local: it can't stand beside --coordinator, --processes and --process-id" if beside else None
    if any(value is None for value in told) and any(value is not None for value in told):
        return "--coordinator, --processes, --process-id: give all three, or none where JAX finds the others by itself"
    if own.processes is not None and not 0 <= own.process_id < own.processes:
        return f"--process-id: {own.process_id} is not from 0 to {own.processes - 1}"
    return None


def _commands(own: argparse.Namespace, arguments: list[str]) -> list[list[str]]:
    """The workers that are started here."""
    if own.local is None:
        told = [own.coordinator, own.processes, own.process_id]
        return [_command(None if own.coordinator is None else told, own.heartbeat, arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [_command([address, own.local, index], own.heartbeat, arguments) for index in range(own.local)]


def _command(told: list | None, heartbeat: int, arguments: list[str]) -> list[str]:
    names = ("--coordinator", "--processes", "--process-id")
    peers = [text for name, value in zip(names, told, strict=True) for text in (name, str(value))] if told else []
    worker = [sys.executable, "-m", "glorot_jax.launching.hosts", *peers, "--heartbeat", str(heartbeat)]
    return [*worker, "run", *arguments]


def _environment(local: int | None) -> dict[str, str]:
    """Each of several workers of one machine has its share of the cores."""
    asked = "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform" in os.environ.get("XLA_FLAGS", "")
    if local is None or asked:
        return dict(os.environ)
    return {**os.environ, "JAX_NUM_CPU_DEVICES": str(max(1, devices.cores() // local))}
