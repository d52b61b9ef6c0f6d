"""A file is whole or not there, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from glorot_jax import files
from glorot_jax.errors import ResumableError
from glorot_jax.files import append_json_line, full_disk, refresh, write, write_json
from tests.cli.disk import small_disk


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_bytes_and_functions_are_written_whole(tmp_path):
    write(tmp_path / "a", b"one")
    write(tmp_path / "b", lambda path: path.write_text("two"))
    write(tmp_path / "a", memoryview(b"three"))
    assert (tmp_path / "a").read_bytes() == b"three"
    assert (tmp_path / "b").read_text() == "two"
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_crash_inside_the_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write(tmp_path / "a", b"old")

    def half(path: Path) -> None:
        path.write_bytes(b"ne")
        raise error

    with pytest.raises(error):
        write(tmp_path / "a", half)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_before_the_name_is_given_leaves_the_old_file(tmp_path, monkeypatch, call):
    write(tmp_path / "a", b"old")

    def fail(*_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, fail)
        with pytest.raises(OSError, match="broken"):
            write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_the_content_is_on_disk_before_it_has_its_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    calls: list[str] = []
    kinds = {True: "flush folder", False: "flush file"}
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        calls.append(kinds[stat.S_ISDIR(os.fstat(descriptor).st_mode)])
        fsync(descriptor)

    def renamed(*names: Path) -> None:
        calls.append("rename")
        replace(*names)

    monkeypatch.setattr(files.os, "fsync", flushed)
    monkeypatch.setattr(files.os, "replace", renamed)
    write(tmp_path / "a", b"new")
    assert calls == ["flush file", "rename", "flush folder"]


def test_sigkill_while_a_file_is_replaced_again_and_again_leaves_a_whole_one(tmp_path):
    """Each content is one letter, a million times: a torn file would show two, or be short."""
    script = textwrap.dedent(
        """
        import itertools, pathlib, sys
        from glorot_jax.files import write
        for letter in itertools.cycle(b"abc"):
            write(pathlib.Path(sys.argv[1]), bytes([letter]) * 1_000_000)
            print(flush=True)
        """
    )
    target = tmp_path / "a"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
        for _ in range(5):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        content = target.read_bytes()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1


def test_json_is_written_so_that_it_reads_back_and_nan_is_refused(tmp_path):
    write_json(tmp_path / "a.json", {"ε": [1, 2.5, None], "a": "×"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ε": [1, 2.5, None], "a": "×"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["a"] == "×"


def test_lines_are_appended_one_object_each(tmp_path):
    for i in range(3):
        append_json_line(tmp_path / "l", {"i": i, "text": "two\nlines"})
    assert [json.loads(line)["i"] for line in (tmp_path / "l").read_text().splitlines()] == [0, 1, 2]


def test_a_line_that_somebody_died_in_the_middle_of_stays_by_itself(tmp_path):
    (tmp_path / "l").write_text('{"i": 0}\n{"i"')
    for i in (1, 2):
        append_json_line(tmp_path / "l", {"i": i})
    assert (tmp_path / "l").read_text() == '{"i": 0}\n{"i"\n{"i": 1}\n{"i": 2}\n'


def test_looking_anew_changes_the_folder_and_leaves_nothing_there(tmp_path):
    """A network file system keeps what it knows of a folder until that changes."""
    before = tmp_path.stat().st_mtime_ns
    time.sleep(0.02)
    refresh(tmp_path)
    assert tmp_path.stat().st_mtime_ns > before
    assert list(tmp_path.iterdir()) == []


# ---- a full disk


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EDQUOT, "quota"),
        ValueError('RESOURCE_EXHAUSTED: Error writing local file "x": No space left on device'),
        RuntimeError("Can't decrement id ref count (errno = 28, error message = 'No space left on device')"),
    ],
    ids=["disk", "quota", "tensorstore", "hdf5"],
)
def test_a_full_disk_is_resumable_however_a_library_says_it(tmp_path, error):
    line = r"^a\.nc: no space left on the disk; make room and run the same command$"
    with pytest.raises(ResumableError, match=line), full_disk(tmp_path / "a.nc"):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), ValueError("RESOURCE_EXHAUSTED: memory"), KeyError(1)])
def test_other_failures_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, full_disk(tmp_path / "a"):
        raise error
    assert caught.value is error


def test_a_disk_that_fills_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "a", b"old")

    def full(_: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(ResumableError):
            write(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_on_a_disk_that_is_really_full_the_old_file_stays(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "64k") as resize:
        write(disk / "a", b"o" * 8192)
        with pytest.raises(ResumableError, match="a: no space left on the disk"):
            write(disk / "a", b"n" * 200_000)
        assert (disk / "a").read_bytes() == b"o" * 8192
        assert names(disk) == ["a"]
        with pytest.raises(ResumableError, match="l: no space left on the disk"):
            append_json_line(disk / "l", {"x": "y" * 200_000})
        resize("1m")
        write(disk / "a", b"n" * 200_000)
        assert (disk / "a").read_bytes() == b"n" * 200_000
