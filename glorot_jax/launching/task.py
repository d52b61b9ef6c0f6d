"""A part of a sweep as a call within another system's task: a process that ends with the one that asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from glorot_jax.launching import workers
from glorot_jax.launching.codes import shell

_BOUND = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, which outlives exec
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def train(
    arguments: Sequence[str], shard: tuple[int, int] | None = None, settings: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Trains one part in a process of its own, and returns its exit code and the last that it said.

    The process is killed when this one ends, however that happens (where the system has a means for it: Linux). A
    KeyboardInterrupt is passed on as a SIGTERM: the part is saved, and its exit code returned. So from here on this
    process hears SIGINT, even if it was begun by a background job, which a shell lets ignore it.

    Args:
        arguments, shard: as ``workers.command`` takes them.
        settings: of its environment, where that has not others already.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    line = [sys.executable, "-c", _BOUND, str(os.getpid()), *workers.command(arguments, shard)]
    process = None
    with tempfile.TemporaryFile() as said:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
        try:
            process = subprocess.Popen(line, env={**(settings or {}), **os.environ}, process_group=0, **streams)
            code = None
            while code is None:
                try:
                    with suppress(subprocess.TimeoutExpired):
                        code = process.wait(0.2)  # not for ever: an interrupt is looked for between two waits only
                except KeyboardInterrupt:
                    process.terminate()
        finally:
            if process is not None and process.poll() is None:
                process.kill()
        said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
        return shell(code), said.read().decode(errors="replace").strip()
