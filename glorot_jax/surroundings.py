"""What surrounds a process: its limits on cores and memory, file systems, accelerators. Read only; imports no JAX."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

_ROOT = Path("/")
_V1_UNLIMITED = 2**60
"""Bytes from which on a limit of cgroup v1 is none."""
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "afs", "9p", "ceph", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone")
"""Kinds of file systems where each file costs a way to another machine, and locks and clocks are another's."""


def core_quota(root: Path = _ROOT) -> float | None:
    """Returns how many cores' time the cgroups of this process grant it, None if no cgroup limits it."""
    found = [_share(folder) for folder in _cgroups("cpu", root)]
    return min((share for share in found if share is not None), default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Returns the bytes that the cgroups of this process grant it, None if no cgroup limits it."""
    found = []
    for folder in _cgroups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit() and int(text) < _V1_UNLIMITED:
                found.append(int(text))
    return min(found, default=None)


def _share(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _cgroups(controller: str, root: Path) -> list[Path]:
    """The folders of this process' cgroup of one controller and of all above it, in version 1 and 2."""
    base = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = base / controllers if controllers else base
        own = top / path.lstrip("/")
        found += [folder for folder in (own, *own.parents) if folder == top or top in folder.parents]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def accelerators(root: Path = _ROOT) -> list[str]:
    """Returns the kinds of accelerators whose drivers show a device here, whether or not JAX can use them."""
    shown = {"NVIDIA GPU": "dev/nvidia[0-9]*", "AMD GPU": "dev/kfd", "TPU": "dev/accel[0-9]*"}
    return [kind for kind, pattern in shown.items() if any(root.glob(pattern))]


# ---- folders


def there(path: Path) -> Path:
    """Returns a folder, or the nearest one above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def file_system(path: Path, root: Path = _ROOT) -> str:
    """Returns the kind of the file system that a path is, or would be, on: ``ext4``, ``nfs4``, …; '' if unknown."""
    where, best, kind = there(path).resolve(), -1, ""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, after = line.partition(" - ")
        point = Path(fields.split()[4].replace("\\040", " "))
        if (point == where or point in where.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def trial(folder: Path) -> tuple[float, bool]:
    """Writes a file into a folder and takes it away again; raises OSError where that can't be.

    Returns:
        Seconds by which the clock of the file system is ahead of this machine's, and whether it locks files.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-doctor-") as file:
        before = time.time()
        file.write(b"tried")
        file.flush()
        os.fsync(file.fileno())
        wrote = os.stat(file.name).st_mtime
        skew = min((wrote - before, wrote - time.time()), key=abs)
        locks = False
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = True
    return skew, locks
