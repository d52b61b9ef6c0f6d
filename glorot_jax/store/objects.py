"""The objects below one URL: read, written whole, and replaced only where nobody else has replaced them meanwhile."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from glorot_jax.errors import InputError, ResumableError
from glorot_jax.files import TEMPORARY, write

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
PATIENCE = 300.0
"""Seconds for which a store that can't be reached is tried again."""
FIRST_PATIENCE = 10.0
"""The same before anything was begun: an address that is wrong is told soon."""
HASTE = 2.0
"""The same of what is tried again later anyway."""
PART = 8 * 2**20
"""Bytes of one request, of objects that are longer."""

_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
"""Seconds between two tries: so many at first, then twice as many each time."""

Tag = dict[str, str]
"""What tells one version of an object from all others, as ``obstore`` takes it."""
_T = TypeVar("_T")


class Overtaken(Exception):
    """The object is not the one that was to be replaced: somebody else wrote it."""


class _Refused(ResumableError):
    """The store is there and says no."""


@dataclass(frozen=True)
class Found:
    """One object of a listing; ``name`` is below the URL, ``size`` in bytes."""

    name: str
    size: int
    tag: str
    modified: datetime


def is_url(path: str | Path) -> bool:
    """Returns whether a place is named by a URL; a ``Path`` never is."""
    return isinstance(path, str) and "://" in path


class Objects:
    """The objects whose names begin with a URL.

    Args:
        url: such as ``s3://bucket/prefix``; credentials and endpoint come from the environment.
        patience: seconds for which a store that can't be reached is tried again.
        note: is told when that begins.

    Raises:
        InputError: of another scheme, ``obstore`` is missing, or there is no such bucket.
        ResumableError: the store can't be reached.
    """

    def __init__(self, url: str, patience: float | None = None, note: Callable[[str], None] = lambda text: None):
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            raise InputError(f"{url}: the scheme {scheme!r} is not {' | '.join(SCHEMES)}", "a local folder needs none")
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            hint = "pip install 'glorot-jax[store]'"
            raise InputError(f"{url}: object stores need obstore, which is not installed", hint) from None
        self._obstore, self.url, self.note = obstore, url.rstrip("/"), note
        options = {"allow_http": True} if _endpoint().startswith("http://") else {}
        retries = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}  # the patience is ``_patiently``'s
        try:
            self._store: Any = from_url(self.url, client_options=options or None, retry_config=retries)
        except obstore.exceptions.BaseError as error:
            raise InputError(f"{url}: {_line(error)}") from None
        self.patience = FIRST_PATIENCE
        self._first()
        self.patience = PATIENCE if patience is None else patience

    def _first(self) -> None:
        """The first contact: what can't work is told before anything is begun."""
        try:
            self._patiently(lambda: next(iter(self._obstore.list(self._store, chunk_size=1)), None))
        except _Refused as refused:
            raise InputError(str(refused), "look at the bucket's name and the credentials") from None

    def hasty(self) -> Objects:
        """Returns the same objects for work that some other time will do for: silent, and soon given up."""
        made = copy.copy(self)
        made.patience, made.note = HASTE, lambda text: None
        return made

    def get(self, name: str) -> tuple[bytes, Tag] | None:
        """Returns an object's content and tag, None if there is none."""
        return self._patiently(lambda: self._get(name))

    def _get(self, name: str) -> tuple[bytes, Tag] | None:
        try:
            found = self._obstore.get(self._store, name)
            return bytes(found.bytes()), _tag(found.meta)
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes | Path) -> None:
        """Writes an object whole, whatever was there."""
        self._patiently(lambda: self._obstore.put(self._store, name, content, chunk_size=PART))

    def create(self, name: str, content: bytes) -> Tag:
        """Writes an object that is not there yet.

        Raises:
            Overtaken: it is there, with other content.
        """
        return self._conditionally(name, content, "create")

    def replace(self, name: str, content: bytes, tag: Tag) -> Tag:
        """Writes an object in place of the one with this tag, and returns the new one's.

        Raises:
            Overtaken: it has another tag by now, or is gone.
        """
        return self._conditionally(name, content, tag)

    def _conditionally(self, name: str, content: bytes, mode: str | Tag) -> Tag:
        exceptions = self._obstore.exceptions
        lost = exceptions.PreconditionError, exceptions.AlreadyExistsError
        try:
            made = self._patiently(lambda: self._obstore.put(self._store, name, content, mode=mode), lost)
            return _tag(made)
        except lost:
            found = self.get(name)
            if found is None or found[0] != content:
                raise Overtaken(name) from None
            return found[1]  # written by a request whose answer was lost on the way

    def list(self, below: str = "") -> list[Found]:
        """Returns all objects in a folder, or all."""
        listed = self._patiently(lambda: self._obstore.list(self._store, below or None).collect())
        return [Found(o["path"], o["size"], o["e_tag"] or o["version"] or "", o["last_modified"]) for o in listed]

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects, those that are there."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._patiently(lambda n=name: self._obstore.delete(self._store, n))

    def fetch(self, name: str, path: Path) -> None:
        """Writes an object's content to a file of this machine, whole or not at all.

        Raises:
            FileNotFoundError: there is no such object.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lambda temporary: self._patiently(lambda: self._copy(name, temporary)))

    def _copy(self, name: str, path: Path) -> None:
        with path.open("wb") as file:
            reader = _Reader(self._obstore, self._store, name)
            while chunk := reader.read(PART):
                file.write(chunk)

    def pack(self, folder: Path, name: str) -> None:
        """Writes a folder as one object: an uncompressed tar of its files, by their paths within the folder."""
        self._patiently(lambda: self._pack(folder, name))

    def _pack(self, folder: Path, name: str) -> None:
        with (
            self._obstore.open_writer(self._store, name, buffer_size=PART) as writer,
            tarfile.open(fileobj=writer, mode="w|", bufsize=2**20, format=tarfile.PAX_FORMAT) as packed,
        ):
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                packed.add(path, str(path.relative_to(folder)))

    def unpack(self, name: str, folder: Path) -> None:
        """Writes what ``pack`` packed into a folder, whole or not at all; what was there is gone.

        Raises:
            FileNotFoundError: there is no such object.
            tarfile.TarError: it is torn.
        """
        temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
        try:
            self._patiently(lambda: self._unpack(name, temporary))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _unpack(self, name: str, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        reader = _Reader(self._obstore, self._store, name)
        with tarfile.open(fileobj=reader, mode="r|", bufsize=2**20) as packed:
            packed.extractall(folder, filter="data")

    def _patiently(self, work: Callable[[], _T], let_through: tuple[type[Exception], ...] = ()) -> _T:
        """What ``work`` returns, tried again while the store can't be reached.

        Raises:
            ResumableError: it can't be reached for too long, or refuses.
        """
        begin, pause = time.monotonic(), _PAUSE
        while True:
            try:
                return work()
            except (*let_through, FileNotFoundError):
                raise
            except (self._obstore.exceptions.BaseError, OSError) as error:
                if getattr(error, "errno", None) is not None:  # this machine's own
                    raise
                self._check_refusal(error)
                waited = time.monotonic() - begin
                if waited + pause > self.patience:
                    raise ResumableError(
                        f"{self.url}: out of reach for {waited:.0f} s ({_line(error)}); what was committed is whole, "
                        "the same command goes on"
                    ) from error
                if pause == _PAUSE:
                    self.note(f"{self.url}: out of reach, tried again for {self.patience:.0f} s ({_line(error)})")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _check_refusal(self, error: Exception) -> None:
        """Raises where the store answers, and waiting can't help."""
        exceptions = self._obstore.exceptions
        kinds = exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, exceptions.NotSupportedError
        if isinstance(error, kinds) or "NoSuchBucket" in str(error):
            raise _Refused(f"{self.url}: {_line(error)}") from error


class _Reader:
    """An object's content from its begin to its end, part by part; what ``tarfile`` reads a stream from."""

    def __init__(self, obstore: Any, store: Any, name: str):
        self._range = lambda first, count: bytes(obstore.get_range(store, name, start=first, length=count))
        self._size, self._at, self._part = obstore.head(store, name)["size"], 0, b""

    def read(self, size: int) -> bytes:
        """Returns so many bytes, fewer at the end."""
        found = [self._next(size)]
        while found[-1] and (missing := size - sum(map(len, found))):
            found.append(self._next(missing))
        return b"".join(found)

    def _next(self, most: int) -> bytes:
        if not self._part and self._at < self._size:
            self._part = self._range(self._at, min(PART, self._size - self._at))
            self._at += len(self._part)
        taken, self._part = self._part[:most], self._part[most:]
        return taken


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _tag(found: Any) -> Tag:
    return {key: found[key] for key in ("e_tag", "version") if found[key] is not None}


def _line(error: Exception) -> str:
    """What went wrong and whom it was asked of: all else that the library's errors tell is left out."""
    text = str(error)
    line = " ".join(re.split("<|\n", text, maxsplit=1)[0].rpartition(" - ")[2].split()).rstrip(":")
    code, server = re.search("<Code>(.*?)</Code>", text), re.search(r"https?://[^/\s]+", text)
    told = f"{line[:300]}: {code[1]}" if code else line[:300]
    return f"{told}; asked was {server[0]}" if server else told
