"""Who is at work where on an object store: an object that its owner renews, and that runs out when nobody does.

No clock is compared with another machine's. Whoever finds a lease watches it: renewed meanwhile, its owner lives, and
it is taken; unchanged for the time that it names, its owner is dead or stopped, and it is free. On the owner's own
machine a process that no longer runs frees it at once.

A lease keeps two processes from doing the same work. What keeps them from damaging each other is that each commit
replaces the one manifest that its writer knows: see ``glorot_jax.store.remote``.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glorot_jax.errors import InputError, ResumableError
from glorot_jax.locks import NOBODY, Taken, me
from glorot_jax.store.objects import Objects, Overtaken, Tag

VARIABLE = "GLOROT_LEASE_SECONDS"
SECONDS = 30.0
"""After which a lease that is not renewed is free, where the variable says nothing else."""
RENEWALS = 4
"""Renewals in that time."""
_WRITER = uuid.uuid4().hex
"""This process in the leases that it holds: seen dead in one of them, it is dead in all."""
_HELD: set[str] = set()
"""Those that it holds now."""


def seconds() -> float:
    """Returns after how many seconds this process's leases run out.

    Raises:
        InputError: the environment says something that is not a number above 0.
    """
    text = os.environ.get(VARIABLE, str(SECONDS))
    try:
        if 0 < (value := float(text)) < float("inf"):
            return value
    except ValueError:
        pass
    raise InputError(f"{VARIABLE}: {text!r} is not a finite number > 0")


class Lease:
    """A lease that this process holds.

    Attributes:
        lost: who has it now, in words; None as long as it is ours, as far as is known.
    """

    def __init__(self, objects: Objects, name: str, tag: Tag, told: dict[str, Any]):
        self._objects, self._name, self._tag, self._told = objects.hasty(), name, tag, told
        self.lost: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._over.wait(self._told["seconds"] / RENEWALS):
            told = self._told | {"renewed": self._told["renewed"] + 1}
            with contextlib.suppress(ResumableError):  # out of reach: it may be there again before the lease is over
                if not self._replace(told):
                    return

    def _replace(self, told: dict[str, Any]) -> bool:
        try:
            self._tag = self._objects.replace(self._name, _content(told), self._tag)
            self._told = told
            return True
        except Overtaken:
            self.lost = _read(self._objects, self._name)[0].get("owner") or NOBODY
            return False

    def other(self) -> str | None:
        """Returns who has it by now, in words; None if it is ours, or nobody can say."""
        with contextlib.suppress(ResumableError):
            told, _ = _read(self._objects, self._name)
            return told.get("owner") if told.get("taken") != self._told["taken"] else None
        return self.lost

    def give_up(self) -> None:
        """Frees it for others, if it is still ours."""
        self._over.set()
        self._thread.join()
        if self.lost is None:
            with contextlib.suppress(ResumableError):  # it runs out by itself
                self._replace(self._told | {"owner": None})


@contextlib.contextmanager
def held(objects: Objects, name: str, doing: str = "", dead: set[str] | None = None) -> Iterator[Lease]:
    """Holds a lease, and renews it in a thread of its own.

    Args:
        doing: what its owner does, in words that follow its name.
        dead: processes that were seen to renew nothing; those that are seen now are added.

    Raises:
        Taken: its owner lives.
    """
    told = {
        "owner": f"{me()}{doing and f' ({doing})'}",
        "process": _process(),
        "writer": _WRITER,
        "seconds": seconds(),
        "renewed": 0,
        "taken": uuid.uuid4().hex,
    }
    _HELD.add(told["taken"])
    try:
        lease = Lease(objects, name, _take(objects, name, told, set() if dead is None else dead), told)
        try:
            yield lease
        finally:
            lease.give_up()
    finally:
        _HELD.discard(told["taken"])


def owner(objects: Objects, name: str, dead: set[str]) -> str | None:
    """Returns who holds a lease, in words; None if nobody does. Takes as long as it takes to see them renew it."""
    told, tag = _read(objects, name)
    return None if tag is None or _free(objects, name, told, tag, dead) else told["owner"]


def _take(objects: Objects, name: str, told: dict[str, Any], dead: set[str]) -> Tag:
    while True:
        found, tag = _read(objects, name)
        with contextlib.suppress(Overtaken):  # somebody was quicker: look who
            if tag is None:
                return objects.create(name, _content(told))
            if not _free(objects, name, found, tag, dead):
                raise Taken(_read(objects, name)[0].get("owner") or NOBODY)
            return objects.replace(name, _content(told), tag)


def _free(objects: Objects, name: str, found: dict[str, Any], tag: Tag, dead: set[str]) -> bool:
    """Whether nobody renews it: known at once of processes of this machine, else watched."""
    if found.get("owner") is None or found["writer"] in dead or _gone(found.get("process")):
        return True
    if (found["writer"], found.get("process")) == (_WRITER, _process()) and found["taken"] not in _HELD:
        return True  # this process could not give it up when it had done with it
    lasts = float(found["seconds"])
    objects.note(f"{objects.url}: {found['owner']} has {name}; watched for {lasts:g} s at most, whether it lives")
    pause = min(1.0, lasts / (4 * RENEWALS))
    watched, last = 0.0, time.monotonic()
    while watched < lasts:
        time.sleep(pause)
        now, changed = _read(objects, name)
        if changed != tag:
            return changed is None or now.get("owner") is None
        # While the store was out of reach, or this process stopped, nobody could be seen to renew it.
        watched, last = watched + min(time.monotonic() - last, 2 * pause), time.monotonic()
    dead.add(found["writer"])
    return True


def _read(objects: Objects, name: str) -> tuple[dict[str, Any], Tag | None]:
    if (found := objects.get(name)) is None:
        return {}, None
    with contextlib.suppress(ValueError):
        if isinstance(told := json.loads(found[0]), dict) and told.keys() >= {"owner", "seconds", "writer", "taken"}:
            return told, found[1]
    return {}, found[1]


def _content(told: dict[str, Any]) -> bytes:
    return json.dumps(told, sort_keys=True).encode()


def _process() -> list[Any]:
    """This process among all that ever ran: the boot and the numbering it belongs to, its number, when it began."""
    return [*_space(), os.getpid(), _begin(os.getpid())]


def _gone(process: Any) -> bool:
    """Whether a process is known to be over: it was one of this machine's, and is no more."""
    space = _space()
    if not space or not isinstance(process, list) or process[:-2] != space:
        return False
    try:
        os.kill(int(process[-2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _begin(int(process[-2])) not in (None, process[-1])


def _space() -> list[str]:
    with contextlib.suppress(OSError):
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return []


def _begin(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None where that can't be seen."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None
