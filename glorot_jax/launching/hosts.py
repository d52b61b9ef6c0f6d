"""One worker of several that are one program: it joins the others, runs one ``glorot`` command, and leaves with them.

    python -m glorot_jax.launching.hosts [--coordinator HOST:PORT --processes N --process-id I] run SWEEP --out DIR

What is not said JAX finds by itself, on TPU slices, under Slurm, and elsewhere as its documentation says.
``launch/multihost.py`` starts such workers.
"""

from __future__ import annotations

import argparse
import os
import sys

from glorot_jax.errors import InputError, ResumableError
from glorot_jax.signals import Signals

HEARTBEAT = 30
"""Seconds after which a process that no longer answers is given up."""
PATIENCE = 300
"""Seconds that one waits for all to come."""
LEAVING = 30
"""Seconds that one waits for all to be ready to leave."""


def options() -> argparse.ArgumentParser:
    """Returns the parser of what a worker, and so its launcher, has to be told."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--coordinator", metavar="HOST:PORT")
    parser.add_argument("--processes", type=int, metavar="N")
    parser.add_argument("--process-id", type=int, metavar="I")
    parser.add_argument("--heartbeat", type=int, default=HEARTBEAT, metavar="SECONDS")
    return parser


def join(own: argparse.Namespace) -> None:
    """Initializes ``jax.distributed``; returns when all processes have come.

    Raises:
        InputError: it is not known who they are.
        ResumableError: they have not come.
    """
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        jax.distributed.initialize(
            own.coordinator,
            own.processes,
            own.process_id,
            cluster_detection_method=None if own.coordinator is None else "deactivate",
            initialization_timeout=PATIENCE,
            heartbeat_timeout_seconds=own.heartbeat,
            shutdown_timeout_seconds=LEAVING,
        )
    except (ValueError, RuntimeError) as error:
        if own.coordinator is None and isinstance(error, ValueError):
            alone = "give --coordinator HOST:PORT --processes N --process-id I, or --local N for this machine alone"
            raise InputError("--coordinator: JAX does not find the other processes by itself", alone) from error
        reason = str(error).partition("\n")[0][:200]
        raise ResumableError(f"the other processes can't be joined: {reason}") from error


def main(argv: list[str]) -> int:
    """Returns the exit code of the command, once all processes are ready to leave."""
    own, arguments = options().parse_known_args(argv)
    try:
        join(own)
    except (InputError, ResumableError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 1
    import jax

    from glorot_jax import cli
    from glorot_jax.engine.peers import Peers

    quiet = [] if Peers.here().leads else ["--no-progress"]
    code = cli.main([*arguments, *quiet], Signals(leaving=True))
    sys.stdout.flush()
    try:
        jax.distributed.shutdown()
    except RuntimeError:  # one of them is gone already
        code = code or 1
    return code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # nothing is left to be cleared up, and a thread that still waits would keep the process
