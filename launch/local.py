"""Trains a sweep on this machine and starts it again whenever its process dies; nothing committed is lost.

    python launch/local.py quickstart --out results/quickstart

All arguments but ``--restarts N`` (default 10) go to ``glorot run``. A sweep that is done, refused (exit code 2) or
stopped by a person (130, 143) is not started again; one that died (no memory, full disk, a lost device) is. SIGTERM
is passed on, so that the sweep saves and stops. The exit code is that of the last process.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time

FINAL = (0, 2, 130, 143)
PAUSE = 5.0
"""Seconds before a new start: a full disk or a busy device may want a moment."""


def main(argv: list[str]) -> int:
    """Returns the exit code of the last process."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("-h", "--help", action="store_true")
    own, arguments = parser.parse_known_args(argv)
    if own.help or not arguments:
        print(__doc__)
        return 0 if own.help else 2
    stopped: list[int] = []
    for start in range(own.restarts + 1):
        worker = subprocess.Popen([sys.executable, "-m", "glorot_jax.cli", "run", *arguments])

        def stop(number: int, _: object, worker: subprocess.Popen = worker) -> None:
            stopped.append(number)
            worker.send_signal(number)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal's Ctrl-C reaches the worker by itself
        code = worker.wait()
        if code in FINAL or stopped or start == own.restarts:
            break
        said = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        print(f"ended {said}; starting again ({start + 1} of {own.restarts})", file=sys.stderr, flush=True)
        time.sleep(PAUSE)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
